package aggregate

import (
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// logEvery is how often a call's failures are logged.
const logEvery = 10 * time.Second

// Rejections of a request for which a required call failed.
var (
	rejectLate   = exchange.NewReject(fasthttp.StatusGatewayTimeout, "aggregate_timeout", "a service did not answer in time")
	rejectStatus = exchange.NewReject(fasthttp.StatusBadGateway, "aggregate_status", "a service answered with an error")
	rejectType   = exchange.NewReject(fasthttp.StatusBadGateway, "aggregate_type", "a service answered with something else than what was wanted")
	rejectJSON   = exchange.NewReject(fasthttp.StatusBadGateway, "aggregate_not_json", "a service did not answer with JSON")
	rejectLarge  = exchange.NewReject(fasthttp.StatusBadGateway, "aggregate_too_large", "the services' answers are too large")
	rejectNeeds  = exchange.NewReject(fasthttp.StatusBadGateway, "aggregate_dependency", "a call that another needs has failed")
	rejectFault  = exchange.NewReject(fasthttp.StatusInternalServerError, "internal_error", "the gateway could not handle this request")
	rejectBody   = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "body_type", "the request body must be JSON without a content coding")
)

// run is the calls of one request. It belongs to the goroutine of the request; what its calls need is shared.
type run struct {
	scope
	a        *aggregate
	shared   *shared
	deadline int64 // of everything, on the clock
	shorter  bool  // the client said it
	ended    chan end
	phases   [maxCalls]phase
	left     [maxCalls]int   // calls that one still waits for
	until    [maxCalls]int64 // when one in flight has failed
	flying   int
	partial  bool
	failure  error
	passed   *outcome
	back     []header
	fresh    freshness
}

// phase is how far a call is.
type phase uint8

const (
	waiting phase = iota
	flying
	over
)

// end tells that a call has ended.
type end struct {
	call int
	outcome
}

// header is one for the client.
type header struct {
	name  string
	value []byte
}

// shared is what the calls of a request have in common. It outlives the request while one of them does.
type shared struct {
	// How many bytes answers may still have: those of required calls, and of optional ones, so that an optional call never
	// takes what a required one needs.
	required, optional atomic.Int64

	mu     sync.Mutex
	client exchange.ClientConn // nil once the request has ended
	over   bool
}

// take reports whether there is room for n more bytes of the call's answer.
func (l *leg) take(n int) bool {
	l.taken += n
	return l.room().Add(-int64(n)) >= 0
}

// giveBack says that nothing of the answer is kept.
func (l *leg) giveBack() {
	l.room().Add(int64(l.taken))
	l.taken = 0
}

func (l *leg) room() *atomic.Int64 {
	if l.call.required {
		return &l.shared.required
	}
	return &l.shared.optional
}

// end says that nobody waits any more.
func (s *shared) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client, s.over = nil, true
}

// Gone implements exchange.ClientConn: the client of the calls is that of the request, until that has its answer.
func (s *shared) Gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over || s.client != nil && s.client.Gone()
}

// InterruptRead implements exchange.ClientConn: the body of a call is at hand.
func (s *shared) InterruptRead() {}

// Interim implements exchange.ClientConn: nobody waits for interim responses.
func (s *shared) Interim([]byte) {}

// serve is the action.
func (a *aggregate) serve(x *exchange.Exchange) error {
	r := &run{a: a, shared: &shared{client: x.Client}, ended: make(chan end, len(a.calls))}
	r.x, r.values = x, make([]*document.Value, len(a.calls))
	if a.readBody {
		if err := r.read(); err != nil {
			return err
		}
	}
	r.shared.required.Store(int64(a.most))
	r.shared.optional.Store(int64(a.most))
	defer r.shared.end()
	began := x.Clock.Now()
	r.deadline = began + int64(a.timeout)
	if at := x.Deadline(); at != 0 {
		r.deadline, r.shorter = min(r.deadline, at), true
	}
	for i, c := range a.calls {
		r.left[i] = len(c.needs)
	}
	for i := range a.calls {
		if r.phases[i] == waiting && r.left[i] == 0 && !r.isDecided() {
			r.start(i)
		}
	}
	r.wait()
	x.UpstreamTime += x.Clock.Now() - began
	for i, c := range a.calls {
		if r.phases[i] != over {
			c.results[cancelled].Inc()
		}
	}
	switch {
	case r.failure != nil:
		return r.failure
	case r.passed != nil:
		r.pass()
		return nil
	}
	body, fits := a.merge(a, r, nil)
	if !fits {
		return rejectLarge
	}
	r.answer(fasthttp.StatusOK, typeJSON, body)
	h := &x.Response.Header
	if r.partial {
		h.AddBytesV(partialHeader, isTrue)
		h.Add(fasthttp.HeaderCacheControl, "no-store")
	} else if control := r.fresh.control(); control != "" {
		h.Add(fasthttp.HeaderCacheControl, control)
	}
	if vary := r.fresh.vary(); vary != "" {
		h.Add(fasthttp.HeaderVary, vary)
	}
	for i := range r.back {
		if r.partial && isSameAs(r.back[i].name, fasthttp.HeaderCacheControl, "Expires", "CDN-Cache-Control", "Surrogate-Control") {
			continue
		}
		h.AddBytesV(r.back[i].name, r.back[i].value)
	}
	return nil
}

const typeJSON = "application/json"

// answer begins the response.
func (r *run) answer(status int, contentType string, body []byte) {
	x := r.x
	res := x.Response
	res.Reset()
	res.Header.DisableNormalizing()
	res.SetStatusCode(status)
	res.Header.SetContentType(contentType)
	res.SetBodyRaw(body)
	x.Answer, x.Head = exchange.Proxied, nil
}

// pass gives the client the answer of a call.
func (r *run) pass() {
	out := r.passed
	r.answer(out.status, out.contentType, out.body)
	h := &r.x.Response.Header
	h.Add(fasthttp.HeaderCacheControl, "no-store")
	for i := range out.back {
		if !isSameAs(out.back[i].name, fasthttp.HeaderCacheControl) {
			h.AddBytesV(out.back[i].name, out.back[i].value)
		}
	}
}

// read takes the client's body.
func (r *run) read() error {
	x := r.x
	if x.Body == nil && !x.HasBody() {
		return nil
	}
	of := func(name string) []byte {
		if v, decided := x.ToBackend.Value(name); decided {
			return v
		}
		return x.RequestHeader(name)
	}
	if coding := of(fasthttp.HeaderContentEncoding); len(coding) > 0 && !exchange.EqualFold(coding, "identity") {
		return rejectBody
	}
	if t := of(fasthttp.HeaderContentType); len(t) > 0 && !isJSON(t) {
		return rejectBody
	}
	if x.Body == nil && x.Request.Header.ContentLength() > r.a.maxBody {
		return exchange.RejectBodyTooLarge
	}
	body, whole, err := x.HoldBody(r.a.maxBody + 1) // one byte more tells that it is over the limit
	switch {
	case err != nil:
		return err
	case !whole || len(body) > r.a.maxBody:
		return exchange.RejectBodyTooLarge
	case len(body) == 0:
		return nil
	}
	if r.body, err = document.Check(body); err != nil {
		return exchange.NewReject(fasthttp.StatusBadRequest, "body_malformed", "the request body is malformed at "+err.Error())
	}
	return nil
}

func (r *run) isDecided() bool { return r.failure != nil || r.passed != nil }

// wait takes calls as they end, until all have or the request is decided.
func (r *run) wait() {
	if r.flying == 0 || r.isDecided() {
		return
	}
	timer := time.NewTimer(r.a.timeout)
	defer timer.Stop()
	for r.flying > 0 && !r.isDecided() {
		now := r.x.Clock.Now()
		next := int64(never)
		for i := range r.a.calls {
			if r.phases[i] == flying {
				next = min(next, r.until[i])
			}
		}
		if next <= now {
			r.expire(now)
			continue
		}
		timer.Reset(time.Duration(next - now))
		select {
		case e := <-r.ended:
			if r.phases[e.call] == flying {
				r.flying--
				r.finish(e.call, e.outcome)
			}
		case <-timer.C:
		}
	}
}

// expire ends the calls whose time is over.
func (r *run) expire(now int64) {
	for i := range r.a.calls {
		if r.phases[i] == flying && r.until[i] <= now && !r.isDecided() {
			r.flying--
			r.finish(i, outcome{result: late, reject: rejectLate})
		}
	}
}

// start sends a call on its way.
func (r *run) start(i int) {
	c, now := r.a.calls[i], r.x.Clock.Now()
	if now >= r.deadline {
		r.finish(i, outcome{result: late, reject: rejectLate})
		return
	}
	l, wrong := r.prepare(c)
	if wrong != nil {
		r.finish(i, outcome{result: skipped, reject: wrong})
		return
	}
	r.phases[i], r.until[i] = flying, min(now+int64(c.timeout), r.deadline)
	r.flying++
	l.x.Until = min(now+int64(c.timeout+grace), r.deadline)
	go l.send(i, r.ended)
}

// grace is how much longer a call may take than anybody waits for it: a service that does not answer in time is found out by its own
// timeout, which its breaker counts, before the call is given up, which it does not.
const grace = 300 * time.Millisecond

// finish takes a call's end, and starts those that waited for it.
func (r *run) finish(i int, out outcome) {
	c := r.a.calls[i]
	r.phases[i] = over
	r.x.Attempts += out.attempts
	if out.aborted {
		if r.x.Clock.Now() < r.until[i] {
			r.x.Aborted.Store(true)
			r.failure = out.reject
			c.results[cancelled].Inc()
			return
		}
		out = outcome{result: late, reject: rejectLate}
	}
	c.results[out.result].Inc()
	if out.result == ok {
		r.values[i] = out.value
		r.back = append(r.back, out.back...)
		r.fresh.add(&out)
	} else if !r.fail(i, &out) {
		return
	}
	for _, n := range c.neededBy {
		switch {
		case r.phases[n] != waiting || r.isDecided():
		case r.values[i] == nil:
			r.finish(n, outcome{result: skipped, reject: rejectNeeds})
		default:
			if r.left[n]--; r.left[n] == 0 {
				r.start(n)
			}
		}
	}
}

// fail takes a failure. It returns whether the request goes on.
func (r *run) fail(i int, out *outcome) bool {
	c := r.a.calls[i]
	if out.result != skipped {
		r.a.log.Log(slog.LevelWarn, "call "+c.name, "a call of an aggregate failed",
			"route", r.a.route, "call", c.name, "service", c.serviceName, "status", out.status, "reason", out.reject.Reason)
	}
	if c.required {
		r.x.Service, r.x.UpstreamStatus = c.serviceName, out.status
		if out.pass {
			r.passed = out
			return false
		}
		for _, e := range out.toClient {
			r.x.ToClient.Set(e.Name, e.Value)
		}
		r.failure = out.reject
		return false
	}
	r.partial = true
	if c.preset != nil {
		r.values[i], _ = document.Parse(c.preset)
	}
	return true
}

// maxTarget bounds path and query of a call, maxValue a header that is made for it.
const (
	maxTarget = 8 << 10
	maxValue  = 8 << 10
)

// prepare makes the request of a call. Nothing in it is borrowed from the client's.
func (r *run) prepare(c *call) (*leg, *exchange.Reject) {
	path, wrong := c.path.segments(&r.scope)
	if wrong != nil {
		return nil, wrong
	}
	var query []byte
	for i := range c.query {
		p := &c.query[i]
		value, filled, wrong := p.value.text(&r.scope)
		if wrong != nil {
			return nil, wrong
		}
		if !filled {
			continue
		}
		if len(query) > 0 {
			query = append(query, '&')
		}
		query = append(exchange.AppendQueryEscaped(query, p.name), '=')
		query = exchange.AppendQueryEscaped(query, value)
	}
	if len(path)+len(query) > maxTarget {
		return nil, rejectLarge
	}
	var body []byte
	if c.body != nil {
		if body, wrong = c.body.fill(&r.scope, r.a.most); wrong != nil {
			return nil, wrong
		}
	} else if c.method != fasthttp.MethodGet && c.method != fasthttp.MethodDelete {
		body = []byte{} // so that it has a length
	}
	headers := make([]header, 0, len(c.headers))
	for i := range c.headers {
		p := &c.headers[i]
		value, filled, wrong := p.value.text(&r.scope)
		switch {
		case wrong != nil:
			return nil, wrong
		case !filled:
			continue
		case len(value) > maxValue || !exchange.IsFieldValue(value):
			return nil, p.value.blame()
		}
		headers = append(headers, header{p.name, value})
	}
	return r.dress(c, path, query, body, headers), nil
}

// blame is the rejection for what the whole template became.
func (t *template) blame() *exchange.Reject {
	if slices.ContainsFunc(t.parts, func(p part) bool { return p.call >= 0 }) {
		return rejectValue
	}
	return rejectInput
}

// dress makes the exchange of a call: that of the client with another request line, and only those of its fields that go on.
func (r *run) dress(c *call, path, query, body []byte, headers []header) *leg {
	x := r.a.pool.Repeat(r.x, func(*exchange.Exchange) {})
	x.Client = r.shared
	x.Request.Header.SetMethod(c.method)
	x.Request.Header.SetContentLength(0)
	x.Request.Header.SetRequestURI("/?" + string(query)) // balancers look at parameters there
	x.Query, x.UpstreamPath, x.Body = query, path, body
	x.SetUpstreamQuery(query)
	action.Derive(x, r.a.passes)
	edits := &x.ToBackend
	edits.Set(fasthttp.HeaderAccept, []byte(typeJSON))
	if c.body != nil {
		edits.Set(fasthttp.HeaderContentType, []byte(typeJSON))
	}
	if r.shorter {
		left := time.Duration(r.deadline - r.x.Clock.Now())
		edits.Set(exchange.DeadlineHeader, strconv.AppendFloat(nil, max(left, 0).Seconds(), 'f', 3, 64))
	}
	for _, h := range headers {
		edits.Set(h.name, h.value)
	}
	return &leg{a: r.a, call: c, shared: r.shared, x: x}
}

// passes tells whether a header of the client goes on.
func (a *aggregate) passes(name []byte) bool {
	return a.passAll || slices.ContainsFunc(a.pass, func(n string) bool { return exchange.EqualFold(name, n) })
}
