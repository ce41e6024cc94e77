// Package tracing makes the gateway a part of distributed traces: it takes the context that a request comes with (W3C Trace Context, B3),
// tells backends theirs, and for the share of requests that is sampled gives a span for the request and one for each try at a backend to a
// collector of OpenTelemetry's or of Zipkin's. It guarantees that no request waits for the collector (spans that can not be handed over are dropped and counted),
// that no span holds a credential or a value of the query that was not asked for, and that a request which is not sampled allocates nothing.
package tracing

import (
	"math"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `tracing`. Without it the headers of traces pass as any others. With it the gateway takes part: of a valid
// `traceparent` the trace goes on, below a span of the gateway; one that is not valid, or that stands there twice, is replaced by a new trace, and its `tracestate` goes.
// Each try at a backend is told a span of its own, also when the request is not sampled. The access log has `trace_id`.
type Config struct {
	// OTLP is the collector that gets the spans. Default: none; contexts are passed on, and nothing is recorded here.
	OTLP OTLP `yaml:"otlp"`
	// Zipkin is a collector of Zipkin's that gets the spans, in place of `otlp`. Default: none.
	Zipkin Zipkin `yaml:"zipkin"`
	// Sample is the share of traces that are recorded, of those that begin here; it goes by the trace's id, as the samplers of OpenTelemetry's SDKs do. A trace that comes with a decision keeps it.
	Sample float64 `yaml:"sample" default:"0.1" min:"0" max:"1"`
	// Propagate lists the formats that are read and written: `w3c` is `traceparent` and `tracestate`; `b3` is read in both its forms, and written as the single header `b3`; `b3multi` is written as the headers `X-B3-…`. If a request has several, w3c counts. The headers of a format that is not listed pass unread.
	Propagate []string `yaml:"propagate" enum:"w3c|b3|b3multi" default:"w3c,b3"`
	// Trust says whose context counts: everybody's (`all`), that of `trusted_proxies` (`proxies`), or nobody's (`none`). Who is not trusted begins a new trace, can not have it sampled, and its baggage is removed.
	Trust string `yaml:"trust" enum:"all|proxies|none" default:"all"`
	// ResponseHeader names a header that tells clients the id of their trace, as `X-Trace-ID`. Default: none, they are not told.
	ResponseHeader string `yaml:"response_header"`
	// ServiceName is the `service.name` of the spans.
	ServiceName string `yaml:"service_name" default:"sluice" required:"true"`
	// Resource has further attributes of the gateway, as `deployment.environment.name: production`.
	Resource map[string]string `yaml:"resource"`
	// QueryValues are the query parameters whose values are recorded; those of all others read REDACTED.
	QueryValues []string `yaml:"query_values"`
}

// Definition is the policy `tracing`.
var Definition = policy.Define("tracing", policy.Observe, build)

// maxBaggage is how many bytes of baggage pass (W3C Baggage, section 3.3.2); more is removed whole.
const maxBaggage = 8192

// forms are the formats of Config.Propagate.
type forms struct{ w3c, b3, b3multi bool }

type tracer struct {
	forms    forms
	trust    string
	below    uint64 // a trace is sampled if its id is
	values   []string
	tags     string    // the header with tags of the client's, empty: none
	told     string    // the header that tells clients of their trace, empty: none
	exporter *exporter // nil: nothing is recorded
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	t := &tracer{trust: c.Trust, below: uint64(c.Sample * (1 << 63)), values: c.QueryValues, told: c.ResponseHeader}
	if c.Sample >= 1 {
		t.below = math.MaxUint64
	}
	for _, format := range c.Propagate {
		switch format {
		case "w3c":
			t.forms.w3c = true
		case "b3":
			t.forms.b3 = true
		case "b3multi":
			t.forms.b3multi = true
		}
	}
	if len(c.Propagate) == 0 {
		return policy.Hooks{}, policy.Wrong("propagate", "is an empty list; name at least one of w3c, b3, b3multi")
	}
	if c.Trust == "proxies" && len(b.World.Config.TrustedProxies) == 0 {
		b.Warnf("trust", "there are no trusted_proxies, so nobody is trusted")
	}
	switch {
	case c.ResponseHeader == "":
	case !exchange.IsToken(c.ResponseHeader):
		return policy.Hooks{}, policy.Wrong("response_header", "%q can not be the name of a header", c.ResponseHeader)
	case exchange.KindOf([]byte(c.ResponseHeader)) != exchange.KindOther:
		return policy.Hooks{}, policy.Wrong("response_header", "%s has a meaning of its own; choose another, such as X-Trace-ID", c.ResponseHeader)
	}
	if c.Zipkin.Endpoint != "" {
		t.tags = c.Zipkin.TagsHeader
	}
	var err error
	if t.exporter, err = openExporter(b, c); err != nil {
		return policy.Hooks{}, err
	}
	return policy.Hooks{Request: t.request, Done: done}, nil
}

// trace is the part of an exchange in its trace. It stays with the exchange: the next request writes anew what it needs.
type trace struct {
	// What backends are told. The span in it is written anew for each attempt; ToBackend refers to it.
	traceparent [traceparentLen]byte
	b3          [b3Len]byte

	begun     uint16
	server    spanID     // the span of the request
	recording *recording // nil before one was recorded
}

// recording is a trace whose spans are recorded, and what is to be told in them.
type recording struct {
	*trace
	tracer   *tracer
	id       traceID
	parent   spanID
	flags    byte
	remote   bool // there is a parent
	state    []byte
	outgoing []outgoing
}

// outgoing is a try at a backend, or a call of a policy. Times are the clock's.
type outgoing struct {
	id                spanID
	began, ended      int64
	service, endpoint string
	number            int // of the attempt, 0 for a call
	policy, method    string
	status            int
	fault             string
}

// maxOutgoing bounds what has a span of its own below that of a request.
const maxOutgoing = 16

// newTrace makes the part of an exchange, with what is the same for all requests.
func newTrace(x *exchange.Exchange) *trace {
	tr := &trace{}
	copy(tr.traceparent[:], "00-")
	tr.traceparent[atSpan-1], tr.traceparent[atFlags-1], tr.traceparent[atFlags] = '-', '-', '0'
	tr.b3[atB3Span-1], tr.b3[atB3Sampled-1], tr.b3[atB3Parent-1] = '-', '-', '-'
	x.Idle = tr
	return tr
}

func (t *tracer) request(x *exchange.Exchange) error {
	tr, known := x.Idle.(*trace)
	if !known {
		tr = newTrace(x)
	}
	if concernsTrace(x.Fields) {
		t.join(x, tr)
		return nil
	}
	id := newTraceID()
	t.enter(x, tr, id, spanID(id.low).child(0), t.sample(id)|flagRandom) // nobody else has this trace: its first span need not be drawn
	if t.forms.b3multi {
		sendB3Multi(x, tr, false)
	}
	return nil
}

// sample decides about a trace that begins here, by the lower half of its id: so do the SDKs, and all who see the trace agree.
func (t *tracer) sample(id traceID) (flags byte) {
	if id.low>>1 < t.below {
		return flagSampled
	}
	return 0
}

// enter has the request be a span of a trace, and tells backends.
func (t *tracer) enter(x *exchange.Exchange, tr *trace, id traceID, server spanID, flags byte) {
	tr.server, tr.begun = server, 0
	v := &tr.traceparent
	putHex((*[16]byte)(v[atTrace:]), id.high)
	putHex((*[16]byte)(v[atTrace+16:]), id.low)
	putHex((*[16]byte)(v[atSpan:]), uint64(server))
	v[atFlags+1] = '0' + flags
	if t.forms.w3c {
		tellBackend(x, "traceparent", v[:])
	}
	if t.forms.b3 || t.forms.b3multi {
		b := &tr.b3
		*(*[32]byte)(b[:]) = *(*[32]byte)(v[atTrace:])
		*(*[16]byte)(b[atB3Span:]) = *(*[16]byte)(v[atSpan:])
		b[atB3Sampled] = '0' + flags&flagSampled
		*(*[16]byte)(b[atB3Parent:]) = *(*[16]byte)(v[atSpan:])
		if t.forms.b3 {
			tellBackend(x, "b3", b[:])
		}
	}
	x.TraceID = v[atTrace : atTrace+32]
	x.Observer = tr
	if t.told != "" {
		t.tellClient(x)
	}
	if flags&flagSampled != 0 && t.exporter != nil {
		tr.record(x, t, id, flags)
	}
}

// tellBackend and tellClient are calls, so that enter is short.
//
//go:noinline
func tellBackend(x *exchange.Exchange, name string, value []byte) { x.ToBackend.Set(name, value) }

//go:noinline
func (t *tracer) tellClient(x *exchange.Exchange) { x.ToClient.Set(t.told, x.TraceID) }

// record begins to record a request.
func (t *trace) record(x *exchange.Exchange, tracer *tracer, id traceID, flags byte) {
	r := t.recording
	if r == nil {
		r = &recording{trace: t}
		t.recording = r
	}
	r.tracer, r.id, r.flags, r.parent, r.remote, r.state, r.outgoing = tracer, id, flags, 0, false, nil, r.outgoing[:0]
	x.Observer = r
}

// join has a request that says something of a trace be a part of it, as far as that is valid and who sent it is trusted.
func (t *tracer) join(x *exchange.Exchange, tr *trace) {
	var (
		sent       fields
		from       parent
		known, w3c bool
	)
	sent.read(x.Fields)
	trusted := t.trust == "all" || t.trust == "proxies" && x.TrustedPeer
	if trusted {
		known, w3c = sent.parent(&from, t.forms)
	}
	id, flags := from.trace, from.flags&flagRandom
	var server spanID
	if known {
		server = newSpanID()
	} else {
		id, flags = newTraceID(), flagRandom
		server = spanID(id.low).child(0)
	}
	if from.decided {
		flags |= from.flags & flagSampled
	} else {
		flags |= t.sample(id)
	}
	t.enter(x, tr, id, server, flags)
	if from.debug {
		tr.b3[atB3Sampled] = 'd'
	}

	var state []byte
	if t.forms.w3c {
		if w3c && sent.tracestates > 0 {
			state = tracestate(x)
		}
		switch {
		case state != nil:
			x.ToBackend.Set("tracestate", state)
		case sent.tracestates > 0:
			x.ToBackend.Remove("tracestate")
		}
	}
	if t.forms.b3 || t.forms.b3multi {
		t.replaceB3(x, tr, &sent, from.debug)
	}
	if sent.baggages > 0 && (!trusted || sent.baggage > maxBaggage) {
		x.ToBackend.Remove("baggage")
	}
	if r, records := x.Observer.(*recording); records {
		r.parent, r.remote, r.state = from.span, known, state
	}
}

// replaceB3 has both forms of B3 that came say what is sent, or not be there.
func (t *tracer) replaceB3(x *exchange.Exchange, tr *trace, sent *fields, debug bool) {
	if !t.forms.b3 && sent.b3s > 0 {
		x.ToBackend.Remove("b3")
	}
	set := uint8(0)
	if t.forms.b3multi {
		set = sendB3Multi(x, tr, debug)
	}
	if sent.sent&^set == 0 {
		return
	}
	for i, name := range multiNames {
		if sent.sent&^set&(1<<i) != 0 {
			x.ToBackend.Remove(name)
		}
	}
}

// sendB3Multi tells backends in the older form of B3, and says in which of multiNames.
func sendB3Multi(x *exchange.Exchange, tr *trace, debug bool) (set uint8) {
	x.ToBackend.Set("X-B3-TraceId", tr.traceparent[atTrace:atTrace+32])
	x.ToBackend.Set("X-B3-SpanId", tr.traceparent[atSpan:atSpan+16])
	x.ToBackend.Set("X-B3-ParentSpanId", tr.b3[atB3Parent:])
	set = 1<<multiTrace | 1<<multiSpan | 1<<multiParent
	if debug {
		x.ToBackend.Set("X-B3-Flags", one)
		return set | 1<<multiFlags
	}
	x.ToBackend.Set("X-B3-Sampled", tr.b3[atB3Sampled:atB3Sampled+1])
	return set | 1<<multiSampled
}

var one = []byte("1")

// next has what is asked next belong to a span of its own.
func (t *trace) next() spanID {
	t.begun++
	id := t.server.child(int(t.begun))
	t.tell(id)
	return id
}

// tell writes the span that backends are told.
func (t *trace) tell(id spanID) {
	putHex((*[16]byte)(t.traceparent[atSpan:]), uint64(id))
	*(*[16]byte)(t.b3[atB3Span:]) = *(*[16]byte)(t.traceparent[atSpan:])
}

// AttemptBegins implements exchange.Observer: the backend's parent is this attempt.
func (t *trace) AttemptBegins(*exchange.Exchange) { t.next() }

// AttemptEnds implements exchange.Observer.
func (t *trace) AttemptEnds(*exchange.Exchange, string) {}

// CallBegins implements exchange.Observer: who is called is told what the backend would be told, but for the span.
func (t *trace) CallBegins(x *exchange.Exchange, policy, method, url string, set func(name string, value []byte)) {
	t.next()
	setContext(x, set)
}

// CallEnds implements exchange.Observer. What is not an attempt and comes next belongs to the request again.
func (t *trace) CallEnds(*exchange.Exchange, int, string) { t.tell(t.server) }

// AttemptBegins implements exchange.Observer.
func (r *recording) AttemptBegins(x *exchange.Exchange) {
	r.begins(outgoing{id: r.next(), began: x.Clock.Now(), service: x.Service, endpoint: x.Endpoint, number: x.Attempts})
}

// AttemptEnds implements exchange.Observer.
func (r *recording) AttemptEnds(x *exchange.Exchange, fault string) {
	r.ends(x, x.Attempts, x.UpstreamStatus, fault)
}

// CallBegins implements exchange.Observer.
func (r *recording) CallBegins(x *exchange.Exchange, policy, method, url string, set func(name string, value []byte)) {
	r.begins(outgoing{id: r.next(), began: x.Clock.Now(), policy: policy, method: method, endpoint: url})
	setContext(x, set)
}

// CallEnds implements exchange.Observer.
func (r *recording) CallEnds(x *exchange.Exchange, status int, fault string) {
	r.ends(x, 0, status, fault)
	r.tell(r.server)
}

// setContext sets the headers that tell of a trace, as the backend would be told them.
func setContext(x *exchange.Exchange, set func(name string, value []byte)) {
	for _, name := range contextHeaders {
		if value, _ := x.ToBackend.Value(name); value != nil {
			set(name, value)
		}
	}
}

// contextHeaders may tell a backend of its trace.
var contextHeaders = [...]string{"traceparent", "tracestate", "b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-B3-Sampled", "X-B3-Flags"}

// begins records what is asked, up to a bound.
func (r *recording) begins(o outgoing) {
	if len(r.outgoing) < maxOutgoing {
		r.outgoing = append(r.outgoing, o)
	}
}

// ends closes the last span, if it is the one of this number.
func (r *recording) ends(x *exchange.Exchange, number, status int, fault string) {
	n := len(r.outgoing)
	if n == 0 || r.outgoing[n-1].number != number || r.outgoing[n-1].ended != 0 {
		return
	}
	o := &r.outgoing[n-1]
	o.ended, o.status, o.fault = x.Clock.Now(), status, fault
}

// done hands over the spans of an exchange that has ended.
func done(x *exchange.Exchange) {
	if r, records := x.Observer.(*recording); records {
		r.finish(x)
	}
}

// finish has the exporter tell of a request that was recorded.
func (r *recording) finish(x *exchange.Exchange) {
	x.Observer = nil
	r.tracer.exporter.add(x, r)
	clear(r.outgoing)
	r.outgoing, r.tracer, r.state = r.outgoing[:0], nil, nil
}
