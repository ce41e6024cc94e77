// Package aggregate is the action that answers with what several services say: it calls them side by side, one after the
// other where one needs what another answers, and merges their JSON into one document. It guarantees that the client has
// an answer when the action's time is over, whatever the services do, that no more is called and held than is configured, and
// that numbers and the order of members stay as the services wrote them.
//
// A call is an exchange of its own, without a client, that goes through its service as any other does. Nothing of it is
// borrowed from the client's exchange, so that one that was given up can end by itself.
package aggregate

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
)

// Config of the action. The calls begin at once, each as soon as those that it depends on have ended, and their answers, which must be JSON whatever their Content-Type says (204 counts as null), become one document:
//
//   - `nest`: an object with a member for each call, under its name or its `target`.
//   - `flat`: an object with the members of all answers, which must be objects; of members with the same name that of the call written last counts. A call with a `target` is put under that name instead.
//   - `list`: an object whose member `items` is the list that the call written first answered. Elements of the other calls' lists are joined to the elements with the same key.
//
// Where an optional call failed, or was not sent, the document has `"partial": true` at its end, and the answer the headers `X-Sluice-Partial: true` and `Cache-Control: no-store`.
// Otherwise the answer may be cached as long as all of the calls' answers may, and varies with whatever they vary with; where only some of them say how long that is, it may not.
//
// Texts of a call may hold `${header.NAME}`, `${query.NAME}`, `${claim.NAME}`, `${path.NAME}`, `${consumer}` and the other places of `request_transform`; `${body}` and `${body.PATH}` of the client's
// JSON; and `${calls.NAME.PATH}` of the answer of another call, which is then a dependency. Paths are `customer.name`, `items[0].id`, or `items[*].id` for all of them, which a text has with commas between them.
//
// Endpoints, balancing, breaker, retries and metrics are those of the services; the policies of the services do not run, those of the route do, once. A call gets the client's headers as a proxied
// request does, with the gateway's own beside them, but for those about the body, content codings, ranges, conditions and overriding the method. Nothing of the services' headers comes back but what is named.
type Config struct {
	// Calls by name, 16 at most. The order in which they are written is that of the document.
	Calls map[string]*Call `yaml:"calls" required:"true"`
	// Merge says what becomes of the answers.
	Merge string `yaml:"merge" default:"nest" enum:"nest|flat|list"`
	// Key is the path of the value by which lists are joined, as `id`. Numbers are the same if they are written the same, and never the same as a text.
	Key string `yaml:"key"`
	// Items is the member that a merged list becomes.
	Items string `yaml:"items" default:"items"`
	// Timeout for everything. What is still missing then counts as failed; a client that says it does not wait so long (X-Request-Deadline, grpc-timeout) shortens it.
	Timeout config.Duration `yaml:"timeout" default:"2s" min:"1ms" max:"5m"`
	// MaxResponse bounds the answers of all required calls of a request together, and those of all optional ones. The document is at most twice as large, and 4KiB.
	MaxResponse config.Size `yaml:"max_response" default:"1MiB" min:"1" max:"64MiB"`
	// MaxBody bounds the client's body where a call takes something of it: a larger one gets 413, one that is not JSON 400 or 415. Otherwise the body is not read.
	MaxBody config.Size `yaml:"max_body" default:"64KiB" min:"1" max:"10MiB"`
	// PassHeaders are the client's headers that the calls get; `*` is all that a proxied request has. The gateway's own always go along.
	PassHeaders []string `yaml:"pass_headers" default:"*"`
}

// Call is a request to a service.
type Call struct {
	// Name in `${calls.NAME}` and in the document.
	Name string `yaml:"-" key:"true"`
	// Place among the calls as they are written.
	Place int `yaml:"-" place:"true"`

	// Service that is called, by name.
	Service string `yaml:"service" required:"true"`
	// Path of the request, decoded, as `/users/${path.id}`. A value that does not fit a single segment, as one with a slash, is never sent: from a service the call fails, from the client it is a 400.
	Path string `yaml:"path" required:"true"`
	// Method of the request.
	Method string `yaml:"method" default:"GET" enum:"GET|POST|PUT|PATCH|DELETE"`
	// DependsOn names calls that must have ended, beside those in templates. A call is not sent, and has failed, if one of them failed and has no default.
	DependsOn []string `yaml:"depends_on"`
	// Required calls that fail end the request: with what kept the gateway from an answer as for a proxied request, else 502, or 504 when time is over. Optional ones leave it partial.
	Required bool `yaml:"required" default:"true"`
	// Timeout of the call with its retries. Default: that of the action. The service's own `timeouts.response` holds besides.
	Timeout config.Duration `yaml:"timeout" max:"5m"`
	// Default is the value, any JSON, that an optional call has when it failed. Left out, it is not in the document.
	Default any `yaml:"default"`
	// Query parameters. One whose places are all empty is left out.
	Query map[string]string `yaml:"query"`
	// Headers over the client's. One whose places are all empty is left out.
	Headers map[string]string `yaml:"headers"`
	// Body is JSON. A text that is one place of an answer or of the client's JSON becomes that value as it is.
	Body any `yaml:"body"`
	// Extract is the path of the part of the answer that counts; an answer without it counts as failed.
	Extract string `yaml:"extract"`
	// Target is the member of the document, or of the joined element, that the value becomes.
	Target string `yaml:"target"`
	// Key over that of the action.
	Key string `yaml:"key"`
	// Many joins all elements with the key, as a list under `target`; else the last of them counts.
	Many bool `yaml:"many" default:"false"`
	// PassStatus are statuses of a required call, as 404 or 4xx, that become the client's answer, with the body if that is JSON. All others but 2xx are a 502.
	PassStatus []string `yaml:"pass_status"`
	// ResponseHeaders of the call's answer that the client gets.
	ResponseHeaders []string `yaml:"response_headers"`
}

// Definition is the action aggregate.
var Definition = action.Define("aggregate", build)

// maxCalls bounds the fan-out of a request.
const maxCalls = 16

// aggregate is the compiled action. It is immutable.
type aggregate struct {
	route    string
	calls    []*call
	merge    func(a *aggregate, r *run, dst []byte) ([]byte, bool)
	items    string
	timeout  time.Duration
	most     int // bytes of the answers of all required calls, and of all optional ones
	readBody bool
	maxBody  int
	passAll  bool
	pass     []string
	pool     *exchange.Pool
	log      *telemetry.Limited
}

// call is one that is compiled.
type call struct {
	name, serviceName string
	service           *upstream.Service
	method            string
	path              *template
	query             []parameter
	headers           []parameter
	body              *payload // nil for none
	timeout           time.Duration
	required          bool
	preset            []byte // the default as JSON, nil for none
	extract           document.Path
	hasExtract        bool
	wants             want
	target            string // "" joins members
	key               document.Path
	many              bool
	passStatus        [100]bool // of the 4xx
	back              []string  // headers of the answer
	needs             []int
	neededBy          []int

	results [results]*telemetry.Counter
}

// parameter is a name with its value.
type parameter struct {
	name  string
	value *template
}

// want is what an answer has to be.
type want uint8

const (
	anything want = iota
	anObject
	aList
)

// result is how a call ended, for its counter.
type result uint8

const (
	ok result = iota
	failed
	late
	skipped
	cancelled
	results
)

var resultNames = [results]string{"ok", "failed", "timeout", "skipped", "cancelled"}

func build(b *action.Build, c *Config) (*action.Action, error) {
	k := newCompiler(b, c)
	a := k.compile()
	if len(k.errs) > 0 {
		return nil, k.errs
	}
	return &action.Action{Serve: a.serve, Varies: slices.Compact(slices.Sorted(slices.Values(k.varies)))}, nil
}

// compiler makes an aggregate of its settings and collects what is wrong with them.
type compiler struct {
	b       *action.Build
	c       *Config
	ordered []*Call
	varies  []string
	body    bool // somebody reads the client's body
	errs    config.Errors

	call  *Call // the one in hand
	needs []int // of it
}

func newCompiler(b *action.Build, c *Config) *compiler {
	return &compiler{b: b, c: c, ordered: slices.SortedFunc(maps.Values(c.Calls), func(a, b *Call) int { return cmp.Compare(a.Place, b.Place) })}
}

func (k *compiler) fail(setting, format string, args ...any) {
	k.errs = append(k.errs, k.b.World.Config.Errorf(k.b.Path+"."+setting, format, args...))
}

// wrong is fail for a setting of the call in hand.
func (k *compiler) wrong(setting, format string, args ...any) {
	k.fail("calls."+k.call.Name+"."+setting, format, args...)
}

func (k *compiler) compile() *aggregate {
	c, w := k.c, k.b.World
	a := &aggregate{
		route: k.b.Route.Name, items: c.Items, timeout: c.Timeout, most: int(c.MaxResponse), maxBody: int(c.MaxBody),
		pool: exchange.NewPool(w.Clock), log: telemetry.NewLimited(w.Log, logEvery),
	}
	switch c.Merge {
	case "nest":
		a.merge = nest
	case "flat":
		a.merge = flat
	case "list":
		a.merge = list
	}
	for i, name := range c.PassHeaders {
		switch {
		case name == "*":
			a.passAll = true
		case !exchange.IsToken(name):
			k.fail("pass_headers["+strconv.Itoa(i)+"]", "%q can not be the name of a header", name)
		default:
			a.pass = append(a.pass, name)
		}
	}
	if len(k.ordered) > maxCalls {
		k.fail("calls", "there are %d calls; at most %d are made for a request", len(k.ordered), maxCalls)
		return a
	}
	if c.Merge == "list" && (c.Items == partial || c.Items == "") {
		k.fail("items", "%q can not be the member of the list", c.Items)
	}
	for i := range k.ordered {
		a.calls = append(a.calls, k.one(i))
	}
	k.checkTargets(a)
	k.order(a)
	a.readBody = k.body
	return a
}

// one compiles the call in place i.
func (k *compiler) one(i int) *call {
	s, w := k.ordered[i], k.b.World
	k.call, k.needs = s, nil
	c := &call{name: s.Name, serviceName: s.Service, method: s.Method, required: s.Required, target: s.Target, many: s.Many, timeout: s.Timeout}
	if !isName(s.Name) {
		k.fail("calls."+s.Name, "a call has a name of letters, digits, - and _, so that ${calls.NAME} can tell it")
	}
	if c.timeout <= 0 || c.timeout > k.c.Timeout {
		c.timeout = k.c.Timeout
	}
	if service := k.b.Service(s.Service); service == nil {
		k.wrong("service", "there is no service %q; there are: %s", s.Service, strings.Join(slices.Sorted(maps.Keys(w.Config.Services)), ", "))
	} else if w.Config.Services[s.Service].IsGRPC() {
		k.wrong("service", "%s is a service of gRPC; calls of an aggregate are HTTP with JSON", s.Service)
	} else {
		c.service = k.override(service, c.timeout)
	}
	c.path = k.pathOf(s.Path)
	c.query = k.parameters("query", s.Query, func(name string) string {
		if name == "" {
			return "a parameter has a name"
		}
		return ""
	})
	c.headers = k.parameters("headers", s.Headers, func(name string) string {
		if !exchange.IsToken(name) || exchange.KindOf([]byte(name)) != exchange.KindOther || isSameAs(name, "Content-Length", "Content-Encoding", "Accept-Encoding") {
			return strconv.Quote(name) + " is the gateway's own, or can not be the name of a header"
		}
		return ""
	})
	if s.Body != nil {
		if s.Method == fasthttp.MethodGet {
			k.wrong("body", "a GET has none; set the method")
		}
		c.body = k.payload("body", s.Body)
	}
	if s.Extract != "" {
		c.extract, c.hasExtract = k.path("extract", s.Extract), true
		if c.extract.IsMany() {
			k.wrong("extract", "leads to several values; name the list that they are in")
		}
	}
	k.merging(c, i)
	k.failing(c)
	for j, name := range s.ResponseHeaders {
		if !exchange.IsToken(name) || exchange.KindOf([]byte(name)) != exchange.KindOther ||
			isSameAs(name, "Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Transfer-Encoding", "Trailer", "Date", partialHeader) {
			k.wrong("response_headers["+strconv.Itoa(j)+"]", "%q is about one answer alone, or can not be the name of a header", name)
		}
		c.back = append(c.back, name)
	}
	for j, name := range s.DependsOn {
		if n := k.find(name); n >= 0 {
			k.needs = append(k.needs, n)
		} else {
			k.wrong("depends_on["+strconv.Itoa(j)+"]", "there is no call %q; there are: %s", name, k.names())
		}
	}
	slices.Sort(k.needs)
	c.needs = slices.Compact(k.needs)
	for r := range results {
		c.results[r] = w.Metrics.AggregateCalls.With(w.Generation, k.b.Route.Name, s.Name, resultNames[r])
	}
	return c
}

// override gives the service the timeouts and retries of the route, and the call's own.
func (k *compiler) override(s *upstream.Service, limit time.Duration) *upstream.Service {
	sc, rc := k.b.World.Config.Services[s.Name()], k.b.RouteConfig
	timeouts, retries := sc.Timeouts, sc.Retries
	if rc.Timeouts != nil {
		timeouts = rc.Timeouts.Over(timeouts)
	}
	if rc.Retries != nil {
		retries = rc.Retries.Over(retries)
	}
	if !timeouts.Off && timeouts.Response > 0 {
		limit = min(limit, timeouts.Response)
	}
	if len(sc.Policies) > 0 {
		k.b.World.Warn(k.b.Path+".calls."+k.call.Name+".service", "the policies of the service "+s.Name()+" do not run for its calls; those of the route do")
	}
	return s.Override(limit, upstream.RetriesOf(retries))
}

// merging says what the value has to be and where it goes.
func (k *compiler) merging(c *call, i int) {
	s := k.call
	switch {
	case k.c.Merge == "nest" && c.target == "":
		c.target = s.Name
	case k.c.Merge == "flat" && c.target == "":
		c.wants = anObject
	case k.c.Merge == "list":
		c.wants = aList
		key := cmp.Or(s.Key, k.c.Key)
		if key == "" {
			k.wrong("key", "lists are joined by a key; set it here, or at the action for all calls")
			return
		}
		if c.key = k.path("key", key); c.key.IsMany() {
			k.wrong("key", "leads to several values")
		}
		if i == 0 && (s.Target != "" || s.Many) {
			k.wrong("target", "the list of the call written first is what the others are joined to; it has neither target nor many")
		}
		if s.Many && s.Target == "" {
			k.wrong("many", "needs a target for the list of elements")
		}
		return
	}
	if s.Key != "" || s.Many {
		k.wrong("key", "key and many are for merge: list")
	}
}

// failing says what becomes of a call that failed.
func (k *compiler) failing(c *call) {
	s := k.call
	if s.Default != nil {
		if s.Required {
			k.wrong("default", "is for optional calls; set required: false")
		}
		fixed := k.fixed("default", s.Default)
		if v, err := document.Check(fixed); err == nil {
			c.preset = fixed
			if !fits(c.wants, v) {
				k.wrong("default", "must be %s", wantNames[c.wants])
			}
		}
	}
	if len(s.PassStatus) > 0 && !s.Required {
		k.wrong("pass_status", "is for required calls; an optional one that fails leaves the answer partial")
	}
	for j, text := range s.PassStatus {
		n, err := strconv.Atoi(text)
		switch {
		case text == "4xx":
			for i := range c.passStatus {
				c.passStatus[i] = true
			}
		case err == nil && 400 <= n && n <= 499:
			c.passStatus[n-400] = true
		default:
			k.wrong("pass_status["+strconv.Itoa(j)+"]", "%q is no status of the client's own faults; write 404, or 4xx for all of them", text)
		}
	}
}

var wantNames = [...]string{"JSON", "an object", "a list"}

func fits(w want, v *document.Value) bool {
	return w == anything || w == anObject && v.Kind() == document.Object || w == aList && v.Kind() == document.Array
}

// checkTargets finds calls that would stand in the same place.
func (k *compiler) checkTargets(a *aggregate) {
	if k.c.Merge == "list" {
		return
	}
	taken := map[string]string{}
	for _, c := range a.calls {
		switch other, twice := taken[c.target]; {
		case c.target == "":
			continue
		case c.target == partial:
			k.fail("calls."+c.name+".target", "%q says that a call failed; set another target", partial)
		case twice:
			k.fail("calls."+c.name+".target", "%q is the member of the call %s already", c.target, other)
		}
		taken[c.target] = c.name
	}
}

// order refuses calls that wait for each other, and tells each who waits for it.
func (k *compiler) order(a *aggregate) {
	const (
		unseen = iota
		onWay
		done
	)
	state := make([]int, len(a.calls))
	var way []string
	var visit func(i int) bool
	visit = func(i int) bool {
		way = append(way, a.calls[i].name)
		if state[i] == onWay {
			first := slices.Index(way, a.calls[i].name)
			k.fail("calls."+a.calls[i].name, "waits for itself: %s", strings.Join(way[first:], " needs "))
			return false
		}
		if state[i] == unseen {
			state[i] = onWay
			for _, n := range a.calls[i].needs {
				if !visit(n) {
					return false
				}
			}
			state[i] = done
		}
		way = way[:len(way)-1]
		return true
	}
	for i, c := range a.calls {
		if !visit(i) {
			return
		}
		for _, n := range c.needs {
			a.calls[n].neededBy = append(a.calls[n].neededBy, i)
		}
	}
}

func (k *compiler) find(name string) int {
	return slices.IndexFunc(k.ordered, func(c *Call) bool { return c.Name == name })
}

func (k *compiler) names() string {
	names := make([]string, len(k.ordered))
	for i, c := range k.ordered {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

func (k *compiler) path(setting, text string) document.Path {
	p, err := document.ParsePath(text)
	if err != nil {
		k.wrong(setting, "%v", err)
	}
	return p
}

// parameters compiles named texts; wrong says what a name can not be.
func (k *compiler) parameters(setting string, texts map[string]string, wrong func(name string) string) (list []parameter) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		at := setting + "." + name
		if message := wrong(name); message != "" {
			k.wrong(at, "%s", message)
			continue
		}
		list = append(list, parameter{name, k.template(at, texts[name])})
	}
	return list
}

func isSameAs(name string, others ...string) bool {
	return slices.ContainsFunc(others, func(other string) bool { return exchange.SameField([]byte(name), other) })
}

func isName(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// never is a time that does not come.
const never = math.MaxInt64
