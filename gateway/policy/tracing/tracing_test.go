package tracing

import (
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

func TestWarnings(t *testing.T) {
	f := func(settings, want string) {
		t.Helper()
		w := policytest.New(t, "")
		w.MustBuild(t, Definition, settings)
		if got := strings.Join(w.Warnings(), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: warnings %q, want %q", settings, got, want)
		}
	}
	f("otlp: {endpoint: '127.0.0.1:4317', headers: {Api-Key: x}}", "")
	f("otlp: {endpoint: '192.0.2.1:4317', headers: {Api-Key: x}}", "otlp.headers: go to 192.0.2.1:4317 without TLS")
	f("otlp: {endpoint: 'collector:4318'}", "4318 is usually not the port of OTLP over grpc")
	f("otlp: {endpoint: 'collector:4317', queue: 10}", "otlp.queue: is smaller than a batch")
	f("zipkin: {endpoint: 'http://127.0.0.1:9411', headers: {Api-Key: x}}", "")
	f("zipkin: {endpoint: 'http://192.0.2.1', headers: {Api-Key: x}}", "zipkin.headers: go to 192.0.2.1 without TLS")
	f("trust: proxies", "there are no trusted_proxies")
}

// Routes and generations with the same settings share an exporter.
func TestOneExporter(t *testing.T) {
	w := policytest.New(t, "")
	exporterOf := func(settings string) *exporter {
		t.Helper()
		x := w.Exchange("/", "traceparent: 00-12345678901234567890123456789012-1234567890123456-01")
		defer x.Close()
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		return x.Observer.(*recording).tracer.exporter
	}
	const one, other = "otlp: {endpoint: '127.0.0.1:4317', headers: {K: a}}", "otlp: {endpoint: '127.0.0.1:4317', headers: {K: b}}"
	first := exporterOf(one)
	end := w.Reload()
	if exporterOf(one) != first || exporterOf(one+"\nsample: 1") != first {
		t.Error("the same settings have another exporter")
	}
	end()
	if exporterOf(other) == first {
		t.Error("other settings have the same exporter")
	}
}

func TestSampleByID(t *testing.T) {
	w := policytest.New(t, "")
	sampled := func(settings string, headers ...string) (n int) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		for range 10_000 {
			x := w.Exchange("/", headers...)
			_ = h.Request(x)
			if x.Observer.(*trace).traceparent[atFlags+1]&flagSampled != 0 {
				n++
			}
			_ = x.Close()
		}
		return n
	}
	f := func(settings string, low, high int, headers ...string) {
		t.Helper()
		if n := sampled(settings, headers...); n < low || n > high {
			t.Errorf("%s %q: %d of 10000 sampled, want %d to %d", settings, headers, n, low, high)
		}
	}
	f("", 800, 1200)
	f("sample: 0", 0, 0)
	f("sample: 1", 10_000, 10_000)
	// A decision of the caller's counts, and the share does not.
	const id = "00-12345678901234567890123456789012-1234567890123456-"
	f("sample: 0", 10_000, 10_000, "traceparent: "+id+"01")
	f("sample: 1", 0, 0, "traceparent: "+id+"00")
	f("sample: 1\ntrust: none", 10_000, 10_000, "traceparent: "+id+"00")
	f("sample: 0\ntrust: none", 0, 0, "traceparent: "+id+"01")
	// By the id, as OpenTelemetry's samplers: half of the ids are below half of 2^63.
	f("sample: 0.5", 10_000, 10_000, "b3: 12345678901234567fffffffffffffff-1234567890123456")
	f("sample: 0.5", 0, 0, "b3: 12345678901234568000000000000000-1234567890123456")
}

// A request that is not sampled allocates nothing, whatever it says of its trace.
func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, headers ...string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) {
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				x.Attempts++
				x.Observer.AttemptBegins(x)
				x.Observer.AttemptEnds(x, "")
			}
			h.Done(x)
		}, headers...)
	}
	const otlp = "otlp: {endpoint: '127.0.0.1:4317'}\n"
	f(otlp + "sample: 0")
	f(otlp, "traceparent: 00-12345678901234567890123456789012-1234567890123456-00", "tracestate: a=1, b=2", "tracestate: c=3", "baggage: a=b")
	f(otlp+"propagate: [w3c, b3, b3multi]", "b3: 12345678901234567890123456789012-1234567890123456-0")
	f(otlp+"propagate: [b3multi]\nsample: 0", "X-B3-TraceId: 12345678901234567890123456789012", "X-B3-SpanId: 1234567890123456", "X-B3-Sampled: 0")
	f(otlp+"sample: 0", "traceparent: nonsense", "tracestate: nonsense")
	f("zipkin: {endpoint: 'http://127.0.0.1:9411', tags_header: Zipkin-Tags}\nsample: 0\nresponse_header: X-Trace-ID", "Zipkin-Tags: a=b")
}

// decode reads spans as a collector does.
func decode(t *testing.T, spans []byte) []*tracepb.Span {
	t.Helper()
	var s tracepb.ScopeSpans
	if err := proto.Unmarshal(spans, &s); err != nil {
		t.Fatal(err)
	}
	if rest := s.ProtoReflect().GetUnknown(); len(rest) > 0 {
		t.Fatalf("fields that OTLP does not have: %x", rest)
	}
	for _, span := range s.Spans {
		if rest := span.ProtoReflect().GetUnknown(); len(rest) > 0 {
			t.Fatalf("fields that a span does not have: %x", rest)
		}
	}
	return s.Spans
}

func attribute(s *tracepb.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// Whatever a client sends, the collector can read it, and it is not long.
func TestHostileValues(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "otlp: {endpoint: '127.0.0.1:4317'}\nsample: 1")
	f := func(agent, want string) {
		t.Helper()
		x := w.Exchange("/", "User-Agent: "+agent)
		defer x.Close()
		_ = h.Request(x)
		x.Method()
		var w recorded
		w.add(x, x.Observer.(*recording))
		var e encoder
		e.request(&w.requests[0], nil, &texts{w.text})
		spans := decode(t, e.spans)
		if got := attribute(spans[0], "user_agent.original"); got != want {
			t.Errorf("%q is recorded as %q, want %q", agent, got, want)
		}
		x.Observer = nil
	}
	f("plain", "plain")
	f("ümläut €", "ümläut €")
	f("twelve characters and an €, in the middle", "twelve characters and an €, in the middle")
	f("\xff\xfe broken \xc3", "� broken �")
	f("broken in its midst \xff is this", "broken in its midst � is this")
	f(strings.Repeat("a", 5000), strings.Repeat("a", maxValue))
	f(strings.Repeat("a", maxValue-1)+"€", strings.Repeat("a", maxValue-1))
	f(strings.Repeat("a", maxValue-3)+"€", strings.Repeat("a", maxValue-3)+"€")
}

func TestQuery(t *testing.T) {
	tr := &tracer{values: []string{"page", "flag"}}
	f := func(query, want string) {
		t.Helper()
		if got := string(tr.appendQuery(nil, []byte(query))); got != want {
			t.Errorf("%q is recorded as %q, want %q", query, got, want)
		}
	}
	f("page=7", "page=7")
	f("page=7&api_key=secret&flag&x=", "page=7&api_key=REDACTED&flag&x=REDACTED")
	f("secret", "REDACTED")
	f("a=b=c&&page=", "a=REDACTED&&page=")
	f("", "")
}

func TestMethods(t *testing.T) {
	f := func(method, known, original string) {
		t.Helper()
		k, o := knownMethod([]byte(method))
		if k != known || string(o) != original {
			t.Errorf("%s: %s %s", method, k, o)
		}
	}
	f("GET", "GET", "")
	f("get", "_OTHER", "get")
	f("PROPFIND", "_OTHER", "PROPFIND")
}

func TestCutBatch(t *testing.T) {
	var e encoder
	for range 10 {
		e.span = append(e.span[:0], make([]byte, 100)...)
		e.end()
	}
	size := len(e.spans) / 10
	batch, n, rest := cutBatch(e.spans, 4)
	if n != 4 || len(batch) != 4*size || len(rest) != 6*size {
		t.Error(n, len(batch), len(rest))
	}
	if _, n, rest = cutBatch(rest, 100); n != 6 || len(rest) != 0 {
		t.Error(n, len(rest))
	}
	e.spans = e.spans[:0]
	e.span = make([]byte, maxBatch)
	e.end()
	e.end()
	if batch, n, rest = cutBatch(e.spans, 100); n != 1 || len(batch) < maxBatch || len(rest) != len(batch) {
		t.Error(n, len(batch), len(rest)) // one that is too large goes alone
	}
}

func TestB3(t *testing.T) {
	const id, span, above = "12345678901234567890123456789012", "1234567890123456", "6543210987654321"
	f := func(v string, known, decided, sampled, debug bool) {
		t.Helper()
		var p parent
		k := parseB3([]byte(v), &p)
		if k != known || p.decided != decided || p.flags&flagSampled != 0 != sampled || p.debug != debug {
			t.Errorf("%s: %v %+v", v, k, p)
		}
	}
	f("0", false, true, false, false)
	f("1", false, true, true, false)
	f("d", false, true, true, true)
	f("2", false, false, false, false)
	f(id+"-"+span, true, false, false, false)
	f(id[:16]+"-"+span, true, false, false, false)
	f(id+"-"+span+"-1", true, true, true, false)
	f(id+"-"+span+"-0", true, true, false, false)
	f(id+"-"+span+"-d", true, true, true, true)
	f(id+"-"+span+"-1-"+above, true, true, true, false)
	f(id+"-"+span+"-"+span, true, false, false, false)
	for _, wrong := range []string{
		"", "-", id, id + "-", id + "-" + span[:15], id + "-" + span + "-", id + "-" + span + "-2", id + "-" + span + "-1-", id + "-" + span + "-1-" + above + "0",
		id + "-" + span + "x1", id + "-" + span + "-1x" + above, strings.Repeat("0", 32) + "-" + span, id + "-" + strings.Repeat("0", 16), "A" + id[1:] + "-" + span,
		id[:31] + "-" + span, id + "-" + span + "-true",
	} {
		f(wrong, false, false, false, false)
	}
}

// Spans below one need not be drawn to be none that is there already.
func TestChildrenDiffer(t *testing.T) {
	seen := make(map[spanID]bool)
	for range 1000 {
		server := newSpanID()
		seen[server] = true
		for n := range 17 {
			if id := server.child(n + 1); id == 0 || seen[id] {
				t.Fatalf("child %d of %x is %x, which is there already", n+1, server, id)
			} else {
				seen[id] = true
			}
		}
	}
}

// Whatever comes, a value is read or not, and what is read is what comes out again.
func FuzzTraceparent(f *testing.F) {
	f.Add([]byte("00-12345678901234567890123456789012-1234567890123456-01"))
	f.Add([]byte("cc-12345678901234567890123456789012-1234567890123456-03-more"))
	f.Fuzz(func(t *testing.T, v []byte) {
		var p parent
		if !parseTraceparent(v, &p) {
			if p != (parent{}) {
				t.Fatalf("%q: %+v", v, p)
			}
			return
		}
		var x exchange.Exchange
		tr := newTrace(&x)
		(&tracer{forms: forms{w3c: true}}).enter(&x, tr, p.trace, p.span, p.flags)
		if string(tr.traceparent[2:atFlags]) != string(v[2:atFlags]) {
			t.Fatalf("%q becomes %q", v, tr.traceparent)
		}
	})
}

// A tracestate that was taken is taken again, as it is.
func FuzzTracestate(f *testing.F) {
	f.Add([]byte("a=1,b@c= 2 , ,d=3"))
	f.Fuzz(func(t *testing.T, v []byte) {
		var m, again members
		if m.add(v); m.bad {
			return
		}
		if again.add(m.list); again.bad || string(again.list) != string(m.list) || again.n != m.n {
			t.Fatalf("%q becomes %q, and that %q", v, m.list, again.list)
		}
	})
}
