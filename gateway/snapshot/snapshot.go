// Package snapshot compiles a configuration, together with the state that
// outlives configurations, into one immutable Snapshot: the routes, the
// program and action of each, and the services. A Snapshot is built completely
// or not at all. It drives an exchange from its head to its answer.
package snapshot

import (
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/kong"
	"sluice/gateway/policy"
	"sluice/gateway/router"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/upstream/balance"
)

// Snapshot is one generation of the configuration, compiled.
type Snapshot struct {
	// Config is what it was compiled from.
	Config *config.Config
	// Warnings are remarks on settings that work and are unwise.
	Warnings []Warning
	// Documents describe the APIs of routes, as far as the configuration has descriptions, in the order of their names.
	Documents []policy.Document

	table    *router.Table
	kong     *router.KongTable // in compatibility with Kong, in the place of table
	ended    []*exchange.Reply // the answers to consumers that get no other, by their numbers; nil for none
	routes   []*route
	unrouted *policy.Program
	watching *policy.Program // of what is answered before it is routed; nil where nothing is
	nowhere  *telemetry.RouteMetrics
	services map[string]*upstream.Service
	trusted  []netip.Prefix
	maxBody  int64
	callers  callers

	checkers []*balance.Checker
	world    *policy.World
	registry *Registry
}

// Warning is a remark on a setting.
type Warning struct{ Path, Message string }

// route is one compiled route.
type route struct {
	// Route is apart, so that living state which remembers it does not keep the
	// whole generation.
	*exchange.Route
	action   *action.Action
	members  []member
	patterns []pathPattern
	maxBody  int64
	traces   bool // its methods name TRACE
	timing   bool // the client is told how long it took
	aims     bool // the path for the backend is made from that of the request
	kong     *kong.Route
	rewrite  *rewrite
	pages    map[int]*page
	config   *config.Route
}

// pathPattern is a pattern of match.paths and the names of its parameters.
type pathPattern struct {
	text   string
	params []string
}

// member is a service of a route, or the one place of a route without.
type member struct {
	program *policy.Program
	metrics *telemetry.RouteMetrics
	// own are the programs of callers who bring policies along, by the number of
	// their set; made when the first such caller comes by.
	own *programs
	mu  *sync.Mutex
	// build makes the program for a set of callers' policies.
	build func(set int) (*policy.Program, error)
}

// page replaces the body of the gateway's own errors.
type page struct {
	body        []byte
	contentType []byte
}

// state is the snapshot's own part of an exchange.
type state struct {
	snapshot *Snapshot
	route    *route
	program  *policy.Program
	metrics  *telemetry.RouteMetrics
	found    router.Result // valid while the request is decided
}

// Reset leaves what the next match fills.
func (s *state) Reset() { s.snapshot, s.route, s.program, s.metrics = nil, nil, nil, nil }

var states = exchange.NewSlot[state]()

// Rejections of routing.
var (
	rejectPath    = exchange.NewReject(fasthttp.StatusBadRequest, "unusable_path", "the path of the request is not acceptable")
	rejectNoRoute = exchange.NewReject(fasthttp.StatusNotFound, "no_route", "nothing is served here")
	rejectMethod  = exchange.NewReject(fasthttp.StatusMethodNotAllowed, "method_not_allowed", "the method is not allowed here")
	// rejectTrace keeps from clients what the gateway tells backends: the answer to
	// TRACE is the request as the backend got it, credentials and identity included
	// (RFC 9110, section 9.3.8).
	rejectTrace = exchange.NewReject(fasthttp.StatusMethodNotAllowed, "method_not_allowed", "TRACE is not allowed here",
		exchange.Header("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"))
	rejectTooLarge = exchange.NewReject(fasthttp.StatusRequestEntityTooLarge, "body_too_large", "the request body is too large")
)

func init() { rejectTooLarge.Close = true }

// Decide routes the request and runs its policies up to the action.
func (s *Snapshot) Decide(x *exchange.Exchange) error {
	st := s.begin(x)
	path, err := router.Canonical(x.Scratch(), x.Path)
	if err != nil {
		return s.decideUnrooted(x, st)
	}
	if len(path) > 0 && &path[0] != &x.Path[0] {
		path = x.Keep(path)
	}
	x.Path = path
	if s.callers.tenants != nil {
		x.Tenant = s.callers.ofHost(x.Host)
	}
	req := router.Request{
		Host: x.Host, Path: path, RawQuery: x.Query, Method: x.Method(),
		Headers: x, Listener: x.Listener, Scheme: x.Scheme, Scratch: x.Scratch(),
	}
	if x.TLS != nil {
		req.SNI = x.TLS.ServerName
	}
	if s.kong != nil {
		return s.decideKong(x, st, &req)
	}
	if outcome := s.table.Match(&req, &st.found); outcome != router.Found {
		return s.decideUnmatched(x, st, &req, outcome)
	}
	r := s.routes[st.found.ID]
	if !r.traces && x.Request.Header.IsTrace() {
		return s.refuse(x, st, rejectTrace)
	}
	return s.enter(x, st, r)
}

// begin makes an exchange one of this snapshot.
func (s *Snapshot) begin(x *exchange.Exchange) *state {
	st := states.Of(x)
	st.snapshot = s
	if s.kong != nil {
		kong.Begin(x)
	}
	s.place(x)
	return st
}

// decideUnrooted decides on a request whose path is none: OPTIONS for the
// gateway as such, or one that is not acceptable.
func (s *Snapshot) decideUnrooted(x *exchange.Exchange, st *state) error {
	if string(x.Path) != "*" {
		x.Path = nil
		return s.refuse(x, st, rejectPath)
	}
	if err := s.enterUnrouted(x, st); err != nil {
		return err
	}
	x.Reply = optionsReply
	return exchange.Replied
}

// decideUnmatched decides on a request that no route takes.
func (s *Snapshot) decideUnmatched(x *exchange.Exchange, st *state, req *router.Request, outcome router.Outcome) error {
	if r := s.preflighted(x, st, req); r != nil {
		return s.enter(x, st, r)
	}
	if outcome == router.NotFound {
		return s.refuse(x, st, rejectNoRoute)
	}
	if err := s.enterUnrouted(x, st); err != nil {
		return err
	}
	x.ToClient.Set("Allow", x.Keep(s.table.AppendAllow(x.Scratch(), &st.found)))
	return rejectMethod
}

// preflighted returns the route that a CORS preflight asks about: one for the
// method that the browser wants to use, whose cors policy answers.
func (s *Snapshot) preflighted(x *exchange.Exchange, st *state, req *router.Request) *route {
	if !x.Request.Header.IsOptions() || x.RequestHeader("Origin") == nil {
		return nil
	}
	method := x.RequestHeader("Access-Control-Request-Method")
	if method == nil {
		return nil
	}
	refused := st.found
	req.Method = method
	if s.table.Match(req, &st.found) == router.Found {
		if r := s.routes[st.found.ID]; r.members[0].program.Has("cors") {
			return r
		}
	}
	st.found = refused
	return nil
}

// Preempt answers a request before it is routed: what sees every request sees
// this one, nothing may refuse it. For gateways that obtain certificates.
func (s *Snapshot) Preempt(x *exchange.Exchange, reply *exchange.Reply) error {
	st := s.begin(x)
	if s.callers.tenants != nil {
		x.Tenant = s.callers.ofHost(x.Host)
	}
	st.program, st.metrics = s.watching, s.nowhere
	st.metrics.Begin()
	if err := st.program.Enter(x); err != nil {
		return err
	}
	x.Reply = reply
	return exchange.Replied
}

var optionsReply = exchange.NewReply(fasthttp.StatusNoContent, exchange.Own)

// enterUnrouted runs the global policies that every request passes, for one
// that no route took.
func (s *Snapshot) enterUnrouted(x *exchange.Exchange, st *state) error {
	st.program, st.metrics = s.unrouted, s.nowhere
	st.metrics.Begin()
	return st.program.Enter(x)
}

// refuse ends a request that no route took, unless a global policy has something else to say.
func (s *Snapshot) refuse(x *exchange.Exchange, st *state, with *exchange.Reject) error {
	if err := s.enterUnrouted(x, st); err != nil {
		return err
	}
	return with
}

// enter runs the route's program up to its end.
func (s *Snapshot) enter(x *exchange.Exchange, st *state, r *route) error {
	x.Route, st.route = r.Route, r
	if found := &st.found; found.Path >= 0 {
		p := &r.patterns[found.Path]
		x.Pattern, x.ParamNames, x.MatchedPrefix = p.text, p.params, found.Prefix
		for i := range found.Params {
			x.Params[i] = found.Param(x.Path, i)
		}
	}
	m := &r.members[0]
	st.program, st.metrics = m.program, m.metrics
	st.metrics.Begin()
	x.BodyLimit = r.maxBody
	if r.maxBody > 0 && int64(x.Request.Header.ContentLength()) > r.maxBody {
		if err := st.program.Preface(x); err != nil {
			return err
		}
		return rejectTooLarge
	}
	if err := st.program.Enter(x); err != nil {
		return err
	}
	return s.proceed(x, st, r)
}

// Resume goes on with a request that a hook has paused until its body comes.
func (s *Snapshot) Resume(x *exchange.Exchange) error {
	st := states.Of(x)
	entered, err := st.program.Reenter(x)
	switch {
	case err != nil:
		return err
	case entered:
		return s.passed(x, st.program.Resume(x))
	}
	return s.proceed(x, st, st.route)
}

// proceed runs what follows authentication.
func (s *Snapshot) proceed(x *exchange.Exchange, st *state, r *route) error {
	set, err := s.callers.setOf(x)
	if err != nil {
		return err
	}
	m := &r.members[0]
	if r.action.Choose != nil {
		x.Member = r.action.Choose(x)
		m = &r.members[x.Member]
		st.program, st.metrics = m.program, m.metrics
	}
	if set > 0 {
		p, err := m.forSet(set, s.callers.count())
		if err != nil {
			return err
		}
		st.program = p
	}
	if r.kong != nil {
		r.kong.Identified(x)
	}
	return s.passed(x, st.program.Continue(x))
}

// forSet returns the program for callers with a set of policies, one of count.
func (m *member) forSet(set, count int) (*policy.Program, error) {
	if p := m.own.load(set); p != nil {
		return p, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.own.load(set); p != nil {
		return p, nil
	}
	p, err := m.build(set)
	if err == nil {
		m.own.store(set, count, p)
	}
	return p, err
}

// Answer carries out the action, unless err ended the request, and completes the response. It does so by the
// snapshot that the exchange started with; s is for those that have not.
func (s *Snapshot) Answer(x *exchange.Exchange, err error) {
	st := states.Of(x)
	if st.snapshot != nil {
		s = st.snapshot
	}
	if st.program == nil {
		// The head was refused before anything was decided.
		s.begin(x)
		x.Path = nil
		_ = s.enterUnrouted(x, st)
	}
	r := st.route
	if x.Verbatim {
		maker := exchange.Proxied
		if err == exchange.Replied && x.Reply != nil {
			maker = x.Reply.Answer
		}
		x.Verbatim = !st.program.ReadsResponse(maker)
	}
	if err == nil {
		if r.aims || x.CutTo > x.CutFrom {
			s.aim(x, r)
		}
		err = r.action.Serve(x)
	}
	if err != nil {
		x.Render(err)
	}
	if x.Head != nil && x.Answer == exchange.Stored && s.kong == nil && !r.timing {
		// It goes out as it is stored, and no hook has to do with it.
		x.Status, x.BytesOut = x.Response.StatusCode(), int64(len(x.Response.Body()))
		return
	}
	st.program.Response(x)
	if !x.Response.IsBodyStream() { // else hooks see the chunks as they pass
		s.completeBody(x, r)
	}
	if r != nil && r.timing {
		tellTimes(x)
	}
	if s.kong != nil {
		kong.Finish(x)
	}
	if x.Head == nil {
		if x.Answer == exchange.Proxied || x.Answer == exchange.Stored {
			x.ToClient.Add("Via", via)
		}
		x.ToClient.Apply(&x.Response.Header)
	}
	x.Status = x.Response.StatusCode()
}

// completeBody has the hooks see a body that is held, or puts the route's own page in the place of an error.
func (s *Snapshot) completeBody(x *exchange.Exchange, r *route) {
	switch {
	case x.HasBodyHooks() && x.HasResponseBody():
		if body, err := x.PushWhole(x.Response.Body()); err != nil {
			x.Render(err)
		} else {
			x.Response.SetBodyRaw(body)
		}
	case x.Reject != nil && r != nil && x.RPCStatus == 0:
		if p := r.pages[x.Reject.Status]; p != nil {
			x.Response.Header.SetContentTypeBytes(p.contentType)
			x.Response.SetBodyRaw(p.body)
		}
	}
	if !x.Response.SkipBody && !x.Request.Header.IsHead() {
		x.BytesOut = int64(len(x.Response.Body()))
	}
}

// tellTimes tells the client how long it took.
func tellTimes(x *exchange.Exchange) {
	took := x.Clock.Now() - x.Start
	x.ToClient.Set("X-Response-Time", x.Keep(appendMillis(x.Scratch(), took)))
	x.ToClient.Add("Server-Timing", x.Keep(appendServerTiming(x.Scratch(), took, x.UpstreamTime)))
}

var via = []byte(exchange.Via)

// aim computes path and query for the backend.
func (s *Snapshot) aim(x *exchange.Exchange, r *route) {
	switch {
	case r.rewrite != nil:
		x.UpstreamPath = x.Keep(r.rewrite.append(x.Scratch(), x))
	case r.kong != nil:
		r.kong.Aim(x)
	case r.config.StripPrefix && x.MatchedPrefix > 0:
		x.UpstreamPath = behind(x, x.MatchedPrefix)
		if len(x.UpstreamPath) == 0 {
			x.UpstreamPath = root
		}
		x.ToBackend.Set("X-Forwarded-Prefix", x.Keep(router.AppendEncoded(x.Scratch(), x.Path[:x.MatchedPrefix])))
	case x.CutTo > x.CutFrom:
		if x.UpstreamPath = behind(x, 0); len(x.UpstreamPath) == 0 {
			x.UpstreamPath = root
		}
	}
}

var root = []byte("/")

// behind is the path from some place on, without what is cut out of it.
func behind(x *exchange.Exchange, from int) []byte {
	if x.CutTo <= from || x.CutFrom == x.CutTo {
		return x.Path[from:]
	}
	return x.Keep(append(append(x.Scratch(), x.Path[from:max(from, x.CutFrom)]...), x.Path[x.CutTo:]...))
}

// statusClientGone is how a request counts whose client left before anything of
// the answer was sent; nobody was sent this status. One that left later has the
// status that it was sent, and a reason: nginx tells them apart in the same way.
const statusClientGone = 499

// Done sees the exchange when it has ended.
func Done(x *exchange.Exchange) {
	st := states.Of(x)
	s := st.snapshot
	if st.program == nil {
		return
	}
	if x.Aborted.Load() {
		if x.Reason == "" {
			x.Reason = "client_gone"
		}
		if !x.Begun {
			x.Status, x.BytesOut = statusClientGone, 0
		}
	}
	x.Ended = x.Clock.Now()
	st.program.Done(x)
	duration := x.Ended - x.Start
	st.metrics.Done(&telemetry.Sample{
		Method:   telemetry.MethodOf(x.Method()),
		Code:     x.Status,
		Duration: time.Duration(duration),
		Overhead: time.Duration(duration - x.UpstreamTime - x.TunnelTime),
		BytesIn:  x.BytesIn,
		BytesOut: x.BytesOut,
	})
	if x.AuthFailure != "" && st.route != nil {
		st.metrics.AuthFailed(x.AuthFailure)
	}
	if x.RPCStatus != 0 {
		st.metrics.RPC(x.RPCStatus - 1)
	}
	if x.Tenant != nil {
		s.callers.done(x)
	}
	if s.world.Usage != nil {
		countUsage(s.world.Usage, x)
	}
}

// Of returns the snapshot that an exchange started with, nil if none was asked yet.
func Of(x *exchange.Exchange) *Snapshot {
	if !states.Has(x) {
		return nil
	}
	return states.Of(x).snapshot
}

// appendServerTiming tells a browser's developer tools how long the gateway
// itself took, and how long it waited for backends.
func appendServerTiming(dst []byte, took, upstream int64) []byte {
	dst = appendMillis(append(dst, "gateway;dur="...), max(took-upstream, 0))
	if upstream > 0 {
		dst = appendMillis(append(dst, ", upstream;dur="...), upstream)
	}
	return dst
}

// appendMillis appends nanoseconds as milliseconds with three decimals.
func appendMillis(dst []byte, ns int64) []byte {
	us := ns / 1000
	dst = strconv.AppendInt(dst, us/1000, 10)
	dst = append(dst, '.')
	frac := us % 1000
	return append(dst, byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
}
