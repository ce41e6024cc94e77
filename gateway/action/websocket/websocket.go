// Package websocket is the action that joins WebSocket and HTTP: it makes each message of a client a request to a service, or each request of a
// client a message to a service. It guarantees that what is in flight is bounded, that every message of a client has exactly one
// answer or the connection ends, and that a service which does not answer, or answers something else, leaves nobody waiting.
//
// A request that is made of a message is an exchange of its own, with the headers that the client's handshake had, and goes through its
// service as any other does.
package websocket

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/wsconn"
)

// Config of the action. To pass WebSockets on to a service that speaks them, write `service` on the route instead; the policy `websocket_limit` bounds those.
//
// `to: http`: clients speak WebSocket, the service HTTP. Each message becomes a request, with the headers of the client's handshake and of the policies, and what the service answers becomes a message.
// Up to `in_flight` requests of a connection are on their way at once; then nothing more is read from it. Policies run once, for the handshake: bound messages with `rate`. Texts may hold `${message}` for the message,
// `${message.PATH}` for a value of a message in JSON, as `${message.room.id}`, beside the places of `request_transform`, as `${path.id}` or `${claim.sub}`. An answer is an object:
//
//   - `id`: that of its message, or the message's number on the connection, from 1.
//   - `status`: of the service's answer, or of the gateway's own where there is none: 400 for a message that can not be made a request, 502, 503 and 504 as for any request; its body is the problem then.
//   - `body`: the JSON of the answer, or its text; `body_base64` where it is neither; nothing if it is empty.
//   - `headers`: those that `response_headers` names.
//
// An answer of `text/event-stream` becomes a message for each event, as they come, with `event`, `data` (as `body` otherwise) and `last_event_id`, where the event has them, in the place of `body`; `"end": true` ends it. With `open` such a stream begins with the connection.
//
// `to: websocket`: clients speak HTTP, the service WebSocket. For each request a connection is made, with the request's headers, the request's body is sent as a message, and the first message that comes is the answer,
// with status 200. Connections are not shared: whose request it is is said in the handshake. A request that accepts `text/event-stream` gets every message as an event, until the service ends the connection. A service that refuses, or closes
// without a message, is 502; one that does not answer in time 504.
//
// Connections are closed with 1001 when the gateway goes away, and with 1012 when a reload takes the route or this action from it; other reloads leave them as they are. Those for whom there is no room get 503 with Retry-After. What a client does wrong closes its connection:
// 1002 against the protocol, 1007 text that is not UTF-8, 1008 too many messages, 1009 a message that is too large. Metrics are `sluice_websocket_…`.
type Config struct {
	// To is what the service speaks.
	To string `yaml:"to" required:"true" enum:"http|websocket"`
	// Service that is called, by name.
	Service string `yaml:"service" required:"true"`

	// Method of a request: a template for one of GET, POST, PUT, PATCH and DELETE. Default: POST. Only with `to: http`.
	Method string `yaml:"method" template:"true"`
	// Path of a request or handshake, decoded: a template. A value fills one segment or a part of it, and can not leave it. Default: that of the client's request, after `strip_prefix` and `rewrite`.
	Path string `yaml:"path" template:"true"`
	// Query parameters, as templates. One whose places are all empty is left out. Default: those of the client's request.
	Query map[string]string `yaml:"query" template:"true"`
	// Headers over the client's, as templates. One whose places are all empty is left out.
	Headers map[string]string `yaml:"headers" template:"true"`
	// Body of a request, or the message that is sent: a template. In one that is an object or a list of JSON, values are written as JSON has them, so that none can leave its place: within quotes as text, elsewhere as the JSON of a message, or a number or truth value of the request. One place of a message alone is the JSON of its value, and nothing where there is none. Default: the message, but for GET and DELETE nothing; with `to: websocket` the body of the request, and no message if it is empty.
	Body string `yaml:"body" template:"true"`
	// ContentType of requests, or of answers with `to: websocket`. Default: application/json for what is JSON, text/plain for other text, application/octet-stream for bytes.
	ContentType string `yaml:"content_type"`
	// ID is where a message has its id: a dotted path. Only with `to: http`.
	ID string `yaml:"id" default:"id"`
	// Answer is what a client gets: an object that tells id and status, or the body alone, which tells an error by its `type` and `status` only. Only with `to: http`.
	Answer string `yaml:"answer" default:"object" enum:"object|body"`
	// Ordered sends answers in the order of their messages, whichever comes first; the events of a stream are not waited for. Without it they are sent as they come, which needs `answer: object`. Only with `to: http`.
	Ordered bool `yaml:"ordered" default:"true"`
	// InFlight bounds the requests of one connection that are on their way at once, and its streams of events. Only with `to: http`.
	InFlight int `yaml:"in_flight" default:"8" min:"1" max:"1000"`
	// ResponseHeaders of the service that answers tell. Only with `to: http`.
	ResponseHeaders []string `yaml:"response_headers"`
	// Open is the path of a GET that is made when a connection opens: a template. Its answer has the id 0; when its stream ends, so does the connection. Messages are still taken. Only with `to: http`.
	Open string `yaml:"open" template:"true"`
	// Message is how the service is sent one: `auto` is text where it is UTF-8. Only with `to: websocket`.
	Message string `yaml:"message" default:"auto" enum:"auto|text|binary"`
	// Subprotocols that are spoken with clients, the best first; with `to: websocket` those that the service is offered.
	Subprotocols []string `yaml:"subprotocols"`

	// Timeout until a message has its answer. The service's own `timeouts.response` holds besides.
	Timeout config.Duration `yaml:"timeout" default:"10s" min:"1ms" max:"1h"`
	// MaxMessage bounds a message of the client, or the body of its request: a larger one closes the connection with 1009, or gets 413.
	MaxMessage config.Size `yaml:"max_message" default:"64KiB" min:"1"`
	// MaxAnswer bounds the service's answer to a message, or a message of it; a larger one is a 502.
	MaxAnswer config.Size `yaml:"max_answer" default:"1MiB" min:"1"`
	// Rate bounds the messages of each connection. Off when left out.
	Rate wsconn.Rate `yaml:"rate" default:"off"`
	// IdleTimeout closes a connection on which there was no message for this long in either direction, with 1001; 0s: never.
	IdleTimeout config.Duration `yaml:"idle_timeout" default:"10m"`
	// Ping asks a client that has said nothing for this long whether it is there. One that says nothing for as long again is not. 0s: never.
	Ping config.Duration `yaml:"ping" default:"30s"`
	// MaxConnections bounds the connections that are open on this route, or its requests under way; 0: no bound. Others get 503.
	MaxConnections int `yaml:"max_connections" default:"0" min:"0"`
}

// Definition is the action websocket.
var Definition = action.Define("websocket", build)

// bridge is the compiled action. It is immutable.
type bridge struct {
	route   string
	service *upstream.Service
	server  *wsconn.Server
	pool    *exchange.Pool
	faults  *telemetry.Limited

	method, path, body, open *template // nil: as the defaults say
	query, headers           []parameter
	hasQuery                 bool
	contentType              string
	id                       *place
	readsMessage             bool // somebody wants the JSON of messages
	bodyAlone, ordered       bool
	inFlight                 int
	back                     []string
	timeout                  time.Duration
	maxMessage, maxAnswer    int

	// to: websocket
	kind         string
	subprotocols []string
}

func build(b *action.Build, c *Config) (*action.Action, error) {
	k := &compiler{b: b, c: c}
	br := k.compile()
	if len(k.errs) > 0 {
		return nil, k.errs
	}
	if !b.World.DryRun {
		var err error
		if br.server.Group, err = policy.LivingAs(b.World, "websocket/"+b.Route.Name, func() (*wsconn.Group, error) { return wsconn.NewGroup(), nil }); err != nil {
			return nil, err
		}
	} else {
		br.server.Group = wsconn.NewGroup()
	}
	a := &action.Action{
		Serve: br.serveMessages,
		Start: func() { br.server.Group.Own(br) },
		Stop:  func() { br.server.Group.Disown(br) },
	}
	if c.To == "websocket" {
		a.Serve, a.Varies = br.serveRequest, k.varies
	}
	return a, nil
}

// compiler makes a bridge of its settings and collects what is wrong with them.
type compiler struct {
	b      *action.Build
	c      *Config
	varies []string
	reads  bool
	errs   config.Errors
}

func (k *compiler) wrong(setting, format string, args ...any) {
	k.errs = append(k.errs, k.b.World.Config.Errorf(k.b.Path+"."+setting, format, args...))
}

// logEvery is how often faults are logged.
const logEvery = 10 * time.Second

func (k *compiler) compile() *bridge {
	c, w := k.c, k.b.World
	br := &bridge{
		route: k.b.Route.Name, pool: exchange.NewPool(w.Clock), faults: telemetry.NewLimited(w.Log, logEvery),
		contentType: c.ContentType, bodyAlone: c.Answer == "body", ordered: c.Ordered, inFlight: c.InFlight,
		timeout: c.Timeout, maxMessage: int(c.MaxMessage), maxAnswer: int(c.MaxAnswer), kind: c.Message, subprotocols: c.Subprotocols,
	}
	k.target(br)
	for i, p := range c.Subprotocols {
		if !exchange.IsToken(p) {
			k.wrong("subprotocols", "%q (number %d) can not be a subprotocol", p, i+1)
		}
	}
	if !exchange.IsFieldValue([]byte(c.ContentType)) {
		k.wrong("content_type", "has control characters")
	}
	k.places(br)
	if c.To == "http" {
		k.messages(br)
	} else {
		k.requests()
	}
	br.server = &wsconn.Server{
		Limits: exchange.SocketLimits{MaxMessage: int64(c.MaxMessage), Pace: c.Rate.Pace(), Idle: c.IdleTimeout, Ping: c.Ping},
		Most:   c.MaxConnections, Subprotocols: c.Subprotocols, Faults: br.faults, Route: br.route,
	}
	if br.service != nil {
		br.server.Sweeper = br.service.Sweeper()
		br.server.Metrics = w.Metrics.Sockets(w.Generation, br.route)
	}
	return br
}

// target finds the service, with the timeouts and retries of the route.
func (k *compiler) target(br *bridge) {
	c, w := k.c, k.b.World
	s := k.b.Service(c.Service)
	if s == nil {
		k.wrong("service", "there is no service %q; there are: %s", c.Service, strings.Join(slices.Sorted(maps.Keys(w.Config.Services)), ", "))
		return
	}
	sc, rc := w.Config.Services[c.Service], k.b.RouteConfig
	switch {
	case sc.IsGRPC():
		k.wrong("service", "%s is a service of gRPC; the action grpc takes its streams over WebSockets", c.Service)
	case c.To == "websocket" && s.SpeaksHTTP2():
		k.wrong("service", "%s speaks HTTP/2, over which services are not asked for WebSockets; write protocol: http or https on it", c.Service)
	}
	if len(sc.Policies) > 0 {
		w.Warn(k.b.Path+".service", "the policies of the service "+c.Service+" do not run for what is sent here; those of the route do")
	}
	timeouts, retries := sc.Timeouts, sc.Retries
	if rc.Timeouts != nil {
		timeouts = rc.Timeouts.Over(timeouts)
	}
	if rc.Retries != nil {
		retries = rc.Retries.Over(retries)
	}
	limit := c.Timeout
	if !timeouts.Off && timeouts.Response > 0 {
		limit = min(limit, timeouts.Response)
	}
	br.service = s.Override(limit, upstream.RetriesOf(retries))
}

// places compiles what both directions have.
func (k *compiler) places(br *bridge) {
	c := k.c
	if c.Path != "" {
		br.path = k.pathOf("path", c.Path)
	}
	if c.Body != "" {
		br.body = k.bodyOf(c.Body)
	}
	br.hasQuery = len(c.Query) > 0
	for _, name := range slices.Sorted(maps.Keys(c.Query)) {
		if name == "" {
			k.wrong("query", "a parameter has a name")
		}
		br.query = append(br.query, parameter{name, k.template("query."+name, c.Query[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if !exchange.IsToken(name) || exchange.KindOf([]byte(name)) != exchange.KindOther || action.IsUnfit([]byte(name)) && !exchange.SameField([]byte(name), fasthttp.HeaderAccept) {
			k.wrong("headers."+name, "%q is the gateway's own, or can not be the name of a header", name)
			continue
		}
		br.headers = append(br.headers, parameter{name, k.template("headers."+name, c.Headers[name])})
	}
}

// messages compiles what is for `to: http` alone.
func (k *compiler) messages(br *bridge) {
	c := k.c
	if c.Method != "" {
		br.method = k.template("method", c.Method)
		if fixed, ok := br.method.fixed(); ok && !isMethod(fixed) {
			k.wrong("method", "%q is none of %s", fixed, strings.Join(methods[:], ", "))
		}
	}
	if c.Open != "" {
		before := k.reads
		k.reads = false
		if br.open = k.pathOf("open", c.Open); k.reads {
			k.wrong("open", "there is no message yet when a connection opens")
		}
		k.reads = before
	}
	if c.Message != "auto" {
		k.wrong("message", "is for to: websocket")
	}
	if !c.Ordered && c.Answer == "body" {
		k.wrong("ordered", "answers that are bodies alone can not tell their messages; write answer: object, or ordered: true")
	}
	for i, name := range c.ResponseHeaders {
		if !exchange.IsToken(name) {
			k.wrong("response_headers", "%q (number %d) can not be the name of a header", name, i+1)
		}
	}
	br.back = c.ResponseHeaders
	if c.ID != "" {
		br.id = k.message("id", c.ID)
	}
	br.readsMessage = k.reads || br.id != nil && c.Answer != "body"
}

// requests compiles what is for `to: websocket` alone.
func (k *compiler) requests() {
	c := k.c
	for _, s := range [...]struct{ name, value string }{{"method", c.Method}, {"open", c.Open}} {
		if s.value != "" {
			k.wrong(s.name, "is for to: http")
		}
	}
	if k.reads {
		k.wrong("body", "${message} is for to: http; the request's places are ${query.NAME}, ${path.NAME}, ${header.NAME} and those of request_transform")
	}
	if !c.Rate.Off {
		k.wrong("rate", "is for to: http; the policy rate_limit bounds requests")
	}
}

// faulty answers a panic of a goroutine of this package.
func (br *bridge) faulty(fault any, stack []byte) {
	br.faults.Log(slog.LevelError, "panic", "a message met a fault of the gateway; please report it", "route", br.route, "fault", fault, "stack", string(stack))
}
