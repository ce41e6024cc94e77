// Package tracing makes the gateway a part of distributed traces: it takes the context that a request comes with (W3C Trace Context, B3),
// tells backends theirs, and for the share of requests that is sampled gives a span for the request and one for each try at a backend to a
// collector of OpenTelemetry's or of Zipkin's. It guarantees that no request waits for the collector (spans that can not be handed over are dropped and counted),
// that no span holds a credential or a value of the query that was not asked for, and that a request which is not sampled allocates nothing.
package tracing

import (
	"encoding/binary"
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

// trace is the part of an exchange in its trace.
type trace struct {
	tracer  *tracer
	id      traceID
	server  spanID // the span of the request
	parent  spanID
	remote  bool // there is a parent
	flags   byte
	state   []byte
	records bool

	// What backends are told. It is written anew for each attempt; ToBackend refers to it.
	traceparent [traceparentLen]byte
	b3          [b3Len]byte

	begun    int // spans below that of the request
	outgoing []outgoing
	encoder  encoder
}

// outgoing is a try at a backend, or a call of a policy.
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

var traces = exchange.NewSlot[trace]()

// Reset keeps the buffers, and what the next request writes anew.
func (t *trace) Reset() {
	t.tracer, t.parent, t.remote, t.state, t.begun = nil, spanID{}, false, nil, 0
	if t.records {
		t.records = false
		clear(t.outgoing)
		t.outgoing, t.encoder = t.outgoing[:0], t.encoder.emptied()
	}
}

func (t *tracer) request(x *exchange.Exchange) error {
	tr := traces.Of(x)
	tr.tracer = t
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
	if known {
		tr.id, tr.parent, tr.remote, tr.flags = from.trace, from.span, true, from.flags&flagRandom
		tr.server = newSpanID()
	} else {
		tr.id, tr.flags = newTraceID(), flagRandom
		tr.server = (*spanID)(tr.id[8:]).child(0) // nobody else has this trace
	}
	if from.decided && from.flags&flagSampled != 0 || !from.decided && t.samples(&tr.id) {
		tr.flags |= flagSampled
	}
	tr.records = tr.flags&flagSampled != 0 && t.exporter != nil
	tr.write(from.debug)

	if t.forms.w3c {
		x.ToBackend.Set("traceparent", tr.traceparent[:])
		if w3c && sent.tracestates > 0 {
			tr.state = tracestate(x)
		}
		switch {
		case tr.state != nil:
			x.ToBackend.Set("tracestate", tr.state)
		case sent.tracestates > 0:
			x.ToBackend.Remove("tracestate")
		}
	}
	if t.forms.b3 || t.forms.b3multi {
		t.sendB3(x, tr, &sent, from.debug)
	}
	if sent.baggages > 0 && (!trusted || sent.baggage > maxBaggage) {
		x.ToBackend.Remove("baggage")
	}
	x.TraceID = tr.traceparent[atTrace : atTrace+32]
	if t.told != "" {
		x.ToClient.Set(t.told, x.TraceID)
	}
	x.Observer = tr
	return nil
}

// samples decides about a trace that begins here, by the lower half of its id: so do the SDKs, and all who see the trace agree.
func (t *tracer) samples(id *traceID) bool {
	return binary.BigEndian.Uint64(id[8:])>>1 < t.below
}

// sendB3 has both forms say the same, or not be there.
func (t *tracer) sendB3(x *exchange.Exchange, tr *trace, sent *fields, debug bool) {
	switch {
	case t.forms.b3:
		x.ToBackend.Set("b3", tr.b3[:])
	case sent.b3s > 0:
		x.ToBackend.Remove("b3")
	}
	set := uint8(0)
	if t.forms.b3multi {
		x.ToBackend.Set("X-B3-TraceId", tr.traceparent[atTrace:atTrace+32])
		x.ToBackend.Set("X-B3-SpanId", tr.traceparent[atSpan:atSpan+16])
		x.ToBackend.Set("X-B3-ParentSpanId", tr.b3[atB3Parent:])
		if set = 1<<multiTrace | 1<<multiSpan | 1<<multiParent; debug {
			x.ToBackend.Set("X-B3-Flags", one)
			set |= 1 << multiFlags
		} else {
			x.ToBackend.Set("X-B3-Sampled", tr.b3[atB3Sampled:atB3Sampled+1])
			set |= 1 << multiSampled
		}
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

var one = []byte("1")

// write fills in what backends are told, with the request's own span for a start.
func (t *trace) write(debug bool) {
	v := &t.traceparent
	copy(v[:], "00-")
	putHex((*[16]byte)(v[atTrace:]), (*[8]byte)(t.id[:8]))
	putHex((*[16]byte)(v[atTrace+16:]), (*[8]byte)(t.id[8:]))
	v[atSpan-1], v[atFlags-1] = '-', '-'
	v[atFlags], v[atFlags+1] = '0', digits[t.flags]
	copy(t.b3[:], v[atTrace:atTrace+32])
	t.b3[atB3Span-1], t.b3[atB3Sampled-1], t.b3[atB3Parent-1] = '-', '-', '-'
	if t.b3[atB3Sampled] = '0' + t.flags&flagSampled; debug {
		t.b3[atB3Sampled] = 'd'
	}
	putHex((*[16]byte)(t.b3[atB3Parent:]), (*[8]byte)(&t.server))
	t.ownSpan()
}

// ownSpan has what is asked next belong to the request's own span.
func (t *trace) ownSpan() {
	copy(t.traceparent[atSpan:], t.b3[atB3Parent:])
	copy(t.b3[atB3Span:], t.b3[atB3Parent:])
}

// begins has what is asked next belong to a span of its own. It returns nil where that is not recorded.
func (t *trace) begins(x *exchange.Exchange) *outgoing {
	t.begun++
	id := t.server.child(t.begun)
	putHex((*[16]byte)(t.traceparent[atSpan:]), (*[8]byte)(&id))
	copy(t.b3[atB3Span:], t.traceparent[atSpan:atSpan+16])
	if !t.records || len(t.outgoing) == maxOutgoing {
		return nil
	}
	t.outgoing = append(t.outgoing, outgoing{id: id, began: x.Clock.Now()})
	return &t.outgoing[len(t.outgoing)-1]
}

// ends closes the last span, if it is the one of this number.
func (t *trace) ends(x *exchange.Exchange, number, status int, fault string) {
	n := len(t.outgoing)
	if n == 0 || t.outgoing[n-1].number != number || t.outgoing[n-1].ended != 0 {
		return
	}
	o := &t.outgoing[n-1]
	o.ended, o.status, o.fault = x.Clock.Now(), status, fault
}

// AttemptBegins implements exchange.Observer: the backend's parent is this attempt.
func (t *trace) AttemptBegins(x *exchange.Exchange) {
	if o := t.begins(x); o != nil {
		o.service, o.endpoint, o.number = x.Service, x.Endpoint, x.Attempts
	}
}

// AttemptEnds implements exchange.Observer.
func (t *trace) AttemptEnds(x *exchange.Exchange, fault string) {
	t.ends(x, x.Attempts, x.UpstreamStatus, fault)
}

// CallBegins implements exchange.Observer: who is called is told what the backend would be told, but for the span.
func (t *trace) CallBegins(x *exchange.Exchange, policy, method, url string, set func(name string, value []byte)) {
	if o := t.begins(x); o != nil {
		o.policy, o.method, o.endpoint = policy, method, url
	}
	for _, name := range contextHeaders {
		if value, _ := x.ToBackend.Value(name); value != nil {
			set(name, value)
		}
	}
}

// CallEnds implements exchange.Observer. What is not an attempt and comes next belongs to the request again.
func (t *trace) CallEnds(x *exchange.Exchange, status int, fault string) {
	t.ends(x, 0, status, fault)
	t.ownSpan()
}

// contextHeaders may tell a backend of its trace.
var contextHeaders = [...]string{"traceparent", "tracestate", "b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-ParentSpanId", "X-B3-Sampled", "X-B3-Flags"}

// done hands over the spans of an exchange that has ended.
func done(x *exchange.Exchange) {
	tr, known := x.Observer.(*trace)
	x.Observer = nil
	if !known || !tr.records {
		return
	}
	spans := tr.encode(x)
	tr.tracer.exporter.add(spans, 1+len(tr.outgoing))
}
