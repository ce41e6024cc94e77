package gateway_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"sluice/gateway"
)

const (
	testTrace  = "12345678901234567890123456789012"
	testSpan   = "1234567890123456"
	testParent = "00-" + testTrace + "-" + testSpan + "-"
)

var validTraceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-0([0-3])$`)

// valuesOf returns the values of all fields called name in a head.
func valuesOf(head, name string) (all []string) {
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			all = append(all, strings.TrimSpace(v))
		}
	}
	return all
}

// TestTraceContext holds the gateway to the cases of the W3C's own test of implementations, and to some more. Whatever is sent, the backend gets one
// traceparent that is valid: in the trace that was sent and below a new span, or of a new trace.
func TestTraceContext(t *testing.T) {
	g := forward(t, mirrored(t), "", "", "policies: {tracing: {sample: 0}}")
	spans := map[string]bool{testSpan: true}
	cases := 0
	send := func(fields string) (trace, flags, state string) {
		t.Helper()
		cases++
		head := g.sees("GET / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n")
		parents, states := valuesOf(head, "traceparent"), valuesOf(head, "tracestate")
		if len(parents) != 1 || len(states) > 1 {
			t.Fatalf("%q: traceparent %q, tracestate %q", fields, parents, states)
		}
		m := validTraceparent.FindStringSubmatch(parents[0])
		if m == nil || strings.Trim(m[1], "0") == "" || strings.Trim(m[2], "0") == "" || spans[m[2]] {
			t.Fatalf("%q: traceparent %q", fields, parents[0])
		}
		spans[m[2]] = true
		if len(states) == 1 {
			if state = states[0]; state == "" {
				t.Errorf("%q: an empty tracestate", fields)
			}
		}
		return m[1], m[3], state
	}
	goesOn := func(fields, flags string) {
		t.Helper()
		if trace, f, state := send(fields); trace != testTrace || f != flags || state != "" {
			t.Errorf("%q: trace %s, flags %s, state %q", fields, trace, f, state)
		}
	}
	anew := func(fields string) {
		t.Helper()
		// Of a new trace the flag random is set, and sampled is not, as nothing is sampled here.
		if trace, f, state := send(fields); strings.Contains(trace, testTrace[1:31]) || f != "2" || state != "" {
			t.Errorf("%q: trace %s, flags %s, state %q", fields, trace, f, state)
		}
	}
	parent := func(v string) string { return "traceparent:" + v + "\r\n" }

	anew("")
	goesOn(parent(" "+testParent+"01"), "1")
	goesOn(parent(" "+testParent+"00"), "0")
	goesOn(parent(" "+testParent+"03"), "3")
	goesOn(parent(" "+testParent+"02"), "2")
	goesOn(parent(" "+testParent+"ff"), "3") // what has no meaning yet is not passed on
	goesOn(parent(" "+testParent+"fc"), "0")
	// Twice.
	anew(parent("00-12345678901234567890123456789011-1234567890123456-01") + parent(testParent+"01"))
	anew(parent(testParent+"01") + parent(testParent+"01"))
	anew(parent(testParent + "01, " + testParent + "01"))
	// Names.
	anew("trace-parent: " + testParent + "01\r\n")
	anew("trace.parent: " + testParent + "01\r\n")
	goesOn("TraceParent: "+testParent+"01\r\n", "1")
	goesOn("TrAcEpArEnT: "+testParent+"01\r\n", "1")
	goesOn("TRACEPARENT: "+testParent+"01\r\n", "1")
	// Versions.
	anew(parent(testParent + "01."))
	anew(parent(testParent + "01-"))
	anew(parent(testParent + "01-what-the-future-will-be-like"))
	goesOn(parent("cc"+testParent[2:]+"01"), "1")
	goesOn(parent("01"+testParent[2:]+"01-"), "1")
	goesOn(parent("cc"+testParent[2:]+"01-what-the-future-will-be-like"), "1")
	anew(parent("cc" + testParent[2:] + "01.what-the-future-will-be-like"))
	anew(parent("cc" + testParent[2:] + "011"))
	anew(parent("ff" + testParent[2:] + "01"))
	anew(parent("ff" + testParent[2:] + "01-what"))
	anew(parent(".0" + testParent[2:] + "01"))
	anew(parent("0." + testParent[2:] + "01"))
	anew(parent("CC" + testParent[2:] + "01"))
	anew(parent("000" + testParent[2:] + "01"))
	anew(parent("0000" + testParent[2:] + "01"))
	anew(parent("0" + testParent[2:] + "01"))
	anew(parent(testParent[2:] + "01"))
	// Ids of traces.
	anew(parent("00-" + strings.Repeat("0", 32) + "-" + testSpan + "-01"))
	anew(parent("00-." + testTrace[1:] + "-" + testSpan + "-01"))
	anew(parent("00-" + testTrace[:31] + ".-" + testSpan + "-01"))
	anew(parent("00-A" + testTrace[1:] + "-" + testSpan + "-01"))
	anew(parent("00-" + testTrace + "3-" + testSpan + "-01"))
	anew(parent("00-" + testTrace[:31] + "-" + testSpan + "-01"))
	// Ids of parents.
	anew(parent("00-" + testTrace + "-0000000000000000-01"))
	anew(parent("00-" + testTrace + "-." + testSpan[1:] + "-01"))
	anew(parent("00-" + testTrace + "-" + testSpan[:15] + ".-01"))
	anew(parent("00-" + testTrace + "-" + testSpan[:15] + "A-01"))
	anew(parent("00-" + testTrace + "-" + testSpan + "7-01"))
	anew(parent("00-" + testTrace + "-" + testSpan[:15] + "-01"))
	// Flags.
	anew(parent(testParent + ".0"))
	anew(parent(testParent + "0."))
	anew(parent(testParent + "0A"))
	anew(parent(testParent + "001"))
	anew(parent(testParent + "1"))
	anew(parent(testParent))
	anew(parent(""))
	anew(parent(strings.ReplaceAll(testParent+"01", "-", "_")))
	// White space around.
	goesOn(parent("\t"+testParent+"01"), "1")
	goesOn(parent(testParent+"01 "), "1")
	goesOn(parent(testParent+"01\t"), "1")
	goesOn(parent("\t "+testParent+"01 \t"), "1")

	state := func(want string, values ...string) {
		t.Helper()
		fields := parent(testParent + "00")
		for _, v := range values {
			fields += "tracestate:" + v + "\r\n"
		}
		if trace, f, got := send(fields); trace != testTrace || f != "0" || got != want {
			t.Errorf("%q: trace %s, flags %s, state %q, want %q", values, trace, f, got, want)
		}
	}
	// It belongs to a traceparent.
	anew("tracestate: foo=1\r\n")
	anew("tracestate: foo=1,bar=2\r\n")
	anew(parent(testParent+"1") + "tracestate: foo=1\r\n")
	anew(parent(testParent+"01") + parent(testParent+"01") + "tracestate: foo=1\r\n")
	state("foo=1,bar=2", "foo=1,bar=2")
	goesOn(parent(testParent+"00")+"trace.state: foo=1\r\n", "0")
	if _, _, got := send(parent(testParent+"00") + "TRACESTATE: foo=1\r\n"); got != "foo=1" {
		t.Error(got)
	}
	if _, _, got := send(parent(testParent+"00") + "TrAcEsTaTe: foo=1\r\n"); got != "foo=1" {
		t.Error(got)
	}
	// Empty fields and members.
	state("", "")
	state("", " , ,")
	state("foo=1", "foo=1", "")
	state("foo=1", "", "foo=1")
	state("foo=1,bar=2", "foo=1,,bar=2,")
	// Several fields are one list.
	state("foo=1,bar=2,rojo=1,congo=2,baz=3", "foo=1,bar=2", "rojo=1,congo=2", "baz=3")
	// One key twice.
	state("", "foo=1,foo=1")
	state("", "foo=1,foo=2")
	state("", "foo=1", "foo=1")
	state("", "foo=1", "foo=2")
	// All characters.
	const key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/"
	var value strings.Builder
	for c := ' '; c <= '~'; c++ {
		if c != ',' && c != '=' {
			value.WriteRune(c)
		}
	}
	state(key+"="+value.String(), key+"="+value.String())
	state(key+"@a-z0-9_-*/="+value.String(), key+"@a-z0-9_-*/="+value.String())
	state("1foo@bar=1", "1foo@bar=1")
	// White space.
	state("foo=1,bar=2,baz=3", "foo=1 \t , \t bar=2, \t baz=3")
	state("foo=1,bar=2,baz=3", "foo=1\t \t,\t \tbar=2,\t \tbaz=3")
	state("foo=1", " foo=1")
	state("foo=1", "\tfoo=1")
	state("foo=1", "foo=1 ")
	state("foo=1", "foo=1\t")
	state("foo=1", "\t foo=1 \t")
	state("foo= 1", "foo= 1") // a value may begin with a space
	// Keys.
	state("", "foo =1")
	state("", "FOO=1")
	state("", "foo.bar=1")
	state("", "1foo=1")
	state("", "_foo=1")
	state("", "=1")
	state("", "foo")
	state("", "bar=2,foo")
	state("", "foo@=1,bar=2")
	state("", "@foo=1,bar=2")
	state("", "foo@@bar=1,bar=2")
	state("", "foo@bar@baz=1,bar=2")
	state("", "foo@1bar=1,bar=2")
	// Limits.
	long := func(from, to int) string {
		var members []string
		for i := from; i <= to; i++ {
			members = append(members, fmt.Sprintf("bar%02d=%02d", i, i))
		}
		return strings.Join(members, ",")
	}
	state(long(1, 32), long(1, 10), long(11, 20), long(21, 30), long(31, 32))
	state("", long(1, 10), long(11, 20), long(21, 30), long(31, 33))
	z := strings.Repeat("z", 256)
	state("foo=1,"+z+"=1", "foo=1", z+"=1")
	state("", "foo=1", z+"z=1")
	tenant, system := strings.Repeat("t", 241), strings.Repeat("v", 14)
	state("foo=1,"+tenant+"@"+system+"=1", "foo=1", tenant+"@"+system+"=1")
	state("", "foo=1", tenant+"t@v=1")
	state("", "foo=1", "t@"+system+"v=1")
	state("foo="+z, "foo="+z)
	state("", "foo="+z+"z")
	state("foo="+z+",bar="+z, "foo="+z+",bar="+z) // 521 characters
	// Values.
	state("", "foo=bar=baz")
	state("", "foo=,bar=3")
	state("", "foo=")
	state("", "foo=\tx")
	state("", "foo=a\tb")
	state("", "foo=\xc3\xbc")
	if cases < 100 {
		t.Errorf("%d cases", cases)
	}
}

// What is off touches nothing.
func TestTraceContextUntouched(t *testing.T) {
	f := func(more, sent, want string) {
		t.Helper()
		g := forward(t, mirrored(t), "", "", more)
		if got := strings.Join(lines(g.sees("GET / HTTP/1.1\r\nHost: a\r\n"+sent+"\r\n")), "\r\n") + "\r\n"; got != want {
			t.Errorf("%s: sent %q, the backend got %q, want %q", more, sent, got, want)
		}
	}
	all := "traceparent: " + testParent + "01\r\ntracestate: a=1\r\ntracestate: a=1\r\nb3: 0\r\nbaggage: a=b\r\nX-B3-Sampled: 1\r\n"
	f("", all, all)
	f("", "traceparent: nonsense\r\n", "traceparent: nonsense\r\n")
	f("policies: {tracing: off}", all, all)
}

func TestB3(t *testing.T) {
	g := forward(t, mirrored(t), "", "", "policies: {tracing: {sample: 0}}")
	multi := forward(t, mirrored(t), "", "", "policies: {tracing: {sample: 0, propagate: [b3multi]}}")
	f := func(sent, trace, decision string) {
		t.Helper()
		head := g.sees("GET / HTTP/1.1\r\nHost: a\r\n" + sent + "\r\n")
		single, parents := valuesOf(head, "b3"), valuesOf(head, "traceparent")
		if strings.Contains(strings.ToLower(head), "x-b3-") || len(single) != 1 || len(parents) != 1 {
			t.Fatalf("%q: %q", sent, head)
		}
		p := strings.Split(single[0], "-")
		if len(p) != 4 || p[2] != decision || trace != "" && p[0] != trace || trace == "" && p[0] == testTrace || p[1] == testSpan || p[1] == p[3] ||
			!strings.HasPrefix(parents[0], "00-"+p[0]+"-"+p[1]+"-") || (parents[0][54]&1 == 1) == (decision == "0") {
			t.Errorf("%q: b3 %q, traceparent %q", sent, single, parents)
		}
		head = multi.sees("GET / HTTP/1.1\r\nHost: a\r\n" + sent + "\r\n")
		get := func(name string) string { return strings.Join(valuesOf(head, name), "|") }
		if get("b3") != "" || trace != "" && get("X-B3-TraceId") != trace || len(get("X-B3-TraceId")) != 32 || len(get("X-B3-SpanId")) != 16 || len(get("X-B3-ParentSpanId")) != 16 {
			t.Errorf("%q: %q", sent, head)
		}
		if want := map[string]string{"0": "0/", "1": "1/", "d": "/1"}[decision]; get("X-B3-Sampled")+"/"+get("X-B3-Flags") != want {
			t.Errorf("%q: %q", sent, head)
		}
	}
	f("", "", "0")
	f("b3: 1\r\n", "", "1")
	f("b3: d\r\n", "", "d")
	f("b3: "+testTrace+"-"+testSpan+"-1\r\n", testTrace, "1")
	f("b3: "+testTrace+"-"+testSpan+"-d\r\n", testTrace, "d")
	f("b3: "+testTrace+"-"+testSpan+"-0-"+testSpan+"\r\n", testTrace, "0")
	f("b3: "+testTrace[:16]+"-"+testSpan+"-1\r\n", strings.Repeat("0", 16)+testTrace[:16], "1")
	f("b3: "+testTrace+"-"+testSpan+"\r\n", testTrace, "0") // the sampler decides
	f("b3: nonsense\r\n", "", "0")
	f("b3: "+testTrace+"-"+testSpan+"-1\r\nb3: "+testTrace+"-"+testSpan+"-1\r\n", "", "0")
	f("X-B3-TraceId: "+testTrace+"\r\nx-b3-spanid: "+testSpan+"\r\nX-B3-Sampled: 1\r\n", testTrace, "1")
	f("X-B3-TraceId: "+testTrace+"\r\nX-B3-SpanId: "+testSpan+"\r\nX-B3-ParentSpanId: "+testSpan+"\r\nX-B3-Sampled: true\r\n", testTrace, "1")
	f("X-B3-TraceId: "+testTrace+"\r\nX-B3-SpanId: "+testSpan+"\r\nX-B3-Flags: 1\r\n", testTrace, "d")
	f("X-B3-TraceId: "+testTrace+"\r\nX-B3-Sampled: 1\r\n", "", "1")
	// W3C's goes first, if it is valid.
	head := g.sees("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: " + testParent + "00\r\nb3: " + strings.Repeat("a", 32) + "-" + testSpan + "-1\r\n\r\n")
	if v := valuesOf(head, "b3"); len(v) != 1 || !strings.HasPrefix(v[0], testTrace+"-") || !strings.Contains(v[0], "-0-") {
		t.Errorf("%q", head)
	}
	// A format that is not listed passes unread.
	g = forward(t, mirrored(t), "", "", "policies: {tracing: {sample: 0, propagate: [w3c]}}")
	if v := valuesOf(g.sees("GET / HTTP/1.1\r\nHost: a\r\nb3: 1\r\n\r\n"), "b3"); len(v) != 1 || v[0] != "1" {
		t.Errorf("%q", v)
	}
}

func TestTraceTrust(t *testing.T) {
	f := func(more, sent string, goesOn, baggage bool) {
		t.Helper()
		g := forward(t, mirrored(t), "", "", more)
		head := g.sees("GET / HTTP/1.1\r\nHost: a\r\n" + sent + "\r\n")
		on := strings.Contains(head, testTrace)
		if on != goesOn || len(valuesOf(head, "tracestate")) == 1 != goesOn || len(valuesOf(head, "baggage")) > 0 != baggage {
			t.Errorf("%s: %q", more, head)
		}
	}
	sent := "traceparent: " + testParent + "01\r\ntracestate: a=1\r\nbaggage: a=b\r\nbaggage: c=d\r\n"
	f("policies: {tracing: {sample: 0}}", sent, true, true)
	f("policies: {tracing: {sample: 0, trust: none}}", sent, false, false)
	f("policies: {tracing: {sample: 0, trust: proxies}}", sent, false, false)
	f("trusted_proxies: [127.0.0.1]\npolicies: {tracing: {sample: 0, trust: proxies}}", sent, true, true)
	// Baggage is bounded.
	f("policies: {tracing: {sample: 0}}", sent+"baggage: x="+strings.Repeat("y", 8100)+"\r\n", true, true)
	f("policies: {tracing: {sample: 0}}", sent+"baggage: x="+strings.Repeat("y", 8200)+"\r\n", true, false)
}

// collector is an OTLP receiver, over gRPC and over HTTP.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	mu   sync.Mutex
	got  []*tracepb.ResourceSpans
	key  string // the header Api-Key of the last export
	fail atomic.Int64
	lose atomic.Int64
	wait chan struct{} // nil: it answers at once
	addr string
}

func (c *collector) take(req *coltracepb.ExportTraceServiceRequest, key string) *coltracepb.ExportTraceServiceResponse {
	if c.wait != nil {
		<-c.wait
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got, c.key = append(c.got, req.ResourceSpans...), key
	res := &coltracepb.ExportTraceServiceResponse{}
	if n := c.lose.Load(); n > 0 {
		res.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: n, ErrorMessage: "no room"}
	}
	return res
}

func (c *collector) Export(ctx context.Context, req *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return c.take(req, strings.Join(md.Get("api-key"), "")), nil
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if status := c.fail.Load(); status > 0 {
		w.WriteHeader(int(status))
		return
	}
	req := &coltracepb.ExportTraceServiceRequest{}
	if err := proto.Unmarshal(body, req); err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	answer, _ := proto.Marshal(c.take(req, r.Header.Get("Api-Key")))
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
}

func grpcCollector(t testing.TB) *collector {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{addr: ln.Addr().String()}
	s := grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(s, c)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return c
}

func httpCollector(t testing.TB) *collector {
	t.Helper()
	c := &collector{}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.addr = s.Listener.Addr().String()
	return c
}

// spans waits until n spans have come.
func (c *collector) spans(t testing.TB, n int) (all []*tracepb.Span) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		all = nil
		c.mu.Lock()
		for _, r := range c.got {
			for _, s := range r.ScopeSpans {
				all = append(all, s.Spans...)
			}
		}
		c.mu.Unlock()
		if len(all) >= n {
			break
		}
	}
	if len(all) != n {
		t.Fatalf("%d spans, want %d: %v", len(all), n, all)
	}
	return all
}

// told renders the attributes of a span that are asked for.
func told(s *tracepb.Span, keys ...string) string {
	var b strings.Builder
	for _, key := range keys {
		for _, a := range s.Attributes {
			if a.Key != key {
				continue
			}
			v := a.Value.GetStringValue()
			if n := a.Value.GetIntValue(); n != 0 {
				v = fmt.Sprint(n)
			}
			fmt.Fprintf(&b, "%s=%s ", key, v)
		}
	}
	return strings.TrimSpace(b.String())
}

// A request that was retried is one span with one below it for each attempt, and each attempt's backend was told its own.
func TestSpanTree(t *testing.T) {
	f := func(protocol string, c *collector) {
		t.Helper()
		var seen []string
		s := answering(t, func(head, _ string) string {
			seen = append(seen, strings.Join(valuesOf(head, "traceparent"), "|"))
			if len(seen) == 1 {
				return reply(503, "bad")
			}
			return reply(200, "ok")
		})
		g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s/base"], circuit_breaker: off, retries: {budget: 100%%}}}
routes: {users: {match: {paths: ["/users/{id}"]}, service: s}}
policies:
  tracing:
    otlp: {endpoint: "%s", protocol: %s, interval: 10ms, headers: {Api-Key: k1}}
    sample: 0
    service_name: edge
    resource: {deployment.environment.name: test}
    query_values: [page]
`, s.addr, c.addr, protocol))
		p := g.client()
		p.send("GET /users/7?page=2&token=hunter2 HTTP/1.1\r\nHost: api.example:8080\r\nUser-Agent: test/1\r\nAuthorization: Bearer hunter2\r\ntraceparent: " + testParent + "01\r\ntracestate: a=1\r\n\r\n")
		p.wants(200, "ok")
		spans := c.spans(t, 3)
		server, first, second := spans[0], spans[1], spans[2]
		id := hex.EncodeToString
		for _, span := range spans {
			if id(span.TraceId) != testTrace || span.TraceState != "a=1" || span.StartTimeUnixNano < server.StartTimeUnixNano ||
				span.EndTimeUnixNano < span.StartTimeUnixNano || span.EndTimeUnixNano > server.EndTimeUnixNano {
				t.Errorf("%s: %v", protocol, span)
			}
			if text := span.String(); strings.Contains(text, "hunter2") {
				t.Errorf("%s: a secret in %s", protocol, text)
			}
		}
		if server.Kind != tracepb.Span_SPAN_KIND_SERVER || id(server.ParentSpanId) != testSpan || server.Name != "GET /users/{id}" ||
			server.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET || server.Flags != 0x301 {
			t.Errorf("%s: %v", protocol, server)
		}
		const keys = "http.request.method http.response.status_code http.route url.path url.query url.scheme server.address server.port client.address network.protocol.version user_agent.original error.type sluice.route"
		if got, want := told(server, strings.Fields(keys)...), "http.request.method=GET http.response.status_code=200 http.route=/users/{id} url.path=/users/7 url.query=page=2&token=REDACTED url.scheme=http "+
			"server.address=api.example server.port=8080 client.address=127.0.0.1 network.protocol.version=1.1 user_agent.original=test/1 sluice.route=users"; got != want {
			t.Errorf("%s: got  %s\nwant %s", protocol, got, want)
		}
		for i, span := range []*tracepb.Span{first, second} {
			if span.Kind != tracepb.Span_SPAN_KIND_CLIENT || string(span.ParentSpanId) != string(server.SpanId) || span.Name != "GET" ||
				span.Flags != 0x101 || seen[i] != "00-"+testTrace+"-"+id(span.SpanId)+"-01" {
				t.Errorf("%s: %v, the backend got %s", protocol, span, seen[i])
			}
		}
		host, port, _ := net.SplitHostPort(s.addr)
		where := "http.request.method=GET server.address=" + host + " server.port=" + port + " url.full=http://" + s.addr + "/base/users/7?page=2&token=REDACTED sluice.service=s"
		const attempt = "http.request.method server.address server.port url.full sluice.service http.response.status_code http.request.resend_count error.type"
		if got, want := told(first, strings.Fields(attempt)...), where+" http.response.status_code=503 error.type=503"; got != want || first.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR {
			t.Errorf("%s: got  %s\nwant %s", protocol, got, want)
		}
		if got, want := told(second, strings.Fields(attempt)...), where+" http.response.status_code=200 http.request.resend_count=1"; got != want || second.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET {
			t.Errorf("%s: got  %s\nwant %s", protocol, got, want)
		}
		if first.EndTimeUnixNano > second.StartTimeUnixNano {
			t.Errorf("%s: the attempts overlap", protocol)
		}
		c.mu.Lock()
		resource := &tracepb.Span{Attributes: c.got[0].Resource.Attributes}
		key := c.key
		c.mu.Unlock()
		if got := told(resource, "deployment.environment.name", "service.name"); got != "deployment.environment.name=test service.name=edge" || key != "k1" {
			t.Errorf("%s: %s, key %q", protocol, got, key)
		}
		once(t, protocol+": three spans are counted as exported", func() bool { return g.metric("sluice_spans_exported_total") == 3 })
	}
	f("grpc", grpcCollector(t))
	f("http", httpCollector(t))
}

// Also what has no answer is told, and what the gateway answers itself.
func TestSpansOfFailures(t *testing.T) {
	c := httpCollector(t)
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send("nonsense\r\n\r\n")
	})
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services:
  nobody: {endpoints: ["http://%s"], retries: off, circuit_breaker: off}
  wrong: {endpoints: ["http://%s"], retries: off, circuit_breaker: off}
routes:
  nobody: {match: {paths: [/nobody]}, service: nobody}
  wrong: {match: {paths: [/wrong]}, service: wrong}
  shut: {match: {paths: ["=/shut"]}, service: wrong, policies: {api_key: {}}}
policies: {tracing: {otlp: {endpoint: "%s", protocol: http, interval: 10ms}, sample: 1}}
`, nobody(t), s.addr, c.addr))
	const keys = "http.route http.response.status_code error.type sluice.reason"
	total := 0
	f := func(line string, status, spans int, name string, want ...string) {
		t.Helper()
		p := g.client()
		p.send(line + " HTTP/1.1\r\nHost: a\r\n\r\n")
		if head, _ := p.response(); statusOf(head) != status {
			t.Errorf("%s: %q", line, head)
		}
		total += spans
		all := c.spans(t, total)[total-spans:]
		if all[0].Name != name {
			t.Errorf("%s: %s, want %s", line, all[0].Name, name)
		}
		for i := range all {
			if got := told(all[i], strings.Fields(keys)...); got != want[i] {
				t.Errorf("%s: span %d: %s, want %s", line, i, got, want[i])
			}
			if failed := strings.Contains(want[i], "error.type"); all[i].Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR != failed {
				t.Errorf("%s: span %d: %v", line, i, all[i].Status)
			}
		}
	}
	f("GET /nobody/x", 502, 2, "GET /nobody", "http.route=/nobody http.response.status_code=502 error.type=upstream_connect sluice.reason=upstream_connect", "error.type=upstream_connect")
	f("GET /wrong", 502, 2, "GET /wrong", "http.route=/wrong http.response.status_code=502 error.type=upstream_malformed sluice.reason=upstream_malformed", "error.type=upstream_malformed")
	f("GET /shut", 401, 1, "GET /shut", "http.route=/shut http.response.status_code=401 sluice.reason=credential_missing")
	f("GET /nowhere", 404, 1, "GET", "http.response.status_code=404 sluice.reason=no_route")
	f("BREW /nowhere", 404, 1, "HTTP", "http.response.status_code=404 sluice.reason=no_route")
}

// What forward_auth asks belongs to the trace, and the backend's span is not below it.
func TestSpanOfForwardAuth(t *testing.T) {
	c := grpcCollector(t)
	var asked atomic.Value
	auth := answering(t, func(head, _ string) string {
		asked.Store(strings.Join(valuesOf(head, "traceparent"), "|"))
		return reply(200, "")
	})
	g := forward(t, mirrored(t), "", "policies: {forward_auth: {url: \"http://"+auth.addr+"/check?key=hunter2\"}}",
		fmt.Sprintf("policies: {tracing: {otlp: {endpoint: %q, interval: 10ms}, sample: 1}}", c.addr))
	body := g.sees("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	spans := c.spans(t, 3)
	server, call, attempt := spans[0], spans[1], spans[2]
	id := hex.EncodeToString
	prefix := "00-" + id(server.TraceId) + "-"
	if call.Name != "GET forward_auth" || string(call.ParentSpanId) != string(server.SpanId) || asked.Load() != prefix+id(call.SpanId)+"-03" ||
		told(call, "url.full", "http.response.status_code", "sluice.policy") != "url.full=http://"+auth.addr+"/check http.response.status_code=200 sluice.policy=forward_auth" ||
		strings.Contains(call.String(), "hunter2") {
		t.Errorf("%v, the service got %v", call, asked.Load())
	}
	if got := valuesOf(body, "traceparent"); string(attempt.ParentSpanId) != string(server.SpanId) || len(got) != 1 || got[0] != prefix+id(attempt.SpanId)+"-03" {
		t.Errorf("%v, the backend got %q", attempt, got)
	}
}

// The collector never holds a request up: what finds the queue full is dropped and counted.
func TestSpansDropped(t *testing.T) {
	c := httpCollector(t)
	c.wait = make(chan struct{})
	g := forward(t, mirrored(t), "", "", fmt.Sprintf("policies: {tracing: {otlp: {endpoint: %q, protocol: http, interval: 10ms, queue: 10, batch: 2}, sample: 1}}", c.addr))
	p := g.client()
	for range 100 {
		p.request("GET /")
		if head, _ := p.response(); statusOf(head) != 200 {
			t.Fatal(head)
		}
	}
	_ = p.conn.Close() // a request ends a moment after its answer
	once(t, "the last request has ended", func() bool { return g.active() == 0 })
	dropped := g.metric(`sluice_spans_dropped_total{reason="queue_full"}`)
	if dropped < 150 { // of 200, at most 10 wait and 10 are on their way
		t.Errorf("%v spans dropped", dropped)
	}
	close(c.wait)
	c.spans(t, 200-int(dropped))
}

func TestSpansRefused(t *testing.T) {
	c := httpCollector(t)
	g := forward(t, mirrored(t), "", "", fmt.Sprintf("policies: {tracing: {otlp: {endpoint: %q, protocol: http, interval: 10ms}, sample: 1}}", c.addr))
	p := g.client()
	f := func(failed, exported float64) {
		t.Helper()
		p.request("GET /")
		_, _ = p.response()
		var lost, taken float64
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			lost, taken = g.metric(`sluice_spans_dropped_total{reason="export_failed"}`), g.metric("sluice_spans_exported_total")
			if lost+taken >= failed+exported {
				break
			}
		}
		if lost != failed || taken != exported {
			t.Errorf("%v lost, %v exported, want %v and %v", lost, taken, failed, exported)
		}
	}
	f(0, 2)
	c.fail.Store(400)
	f(2, 2)
	c.fail.Store(0)
	c.lose.Store(1) // the collector takes a part
	f(3, 3)
}

// What waits at the end is still sent, and log lines name the trace.
func TestSpansAtTheEnd(t *testing.T) {
	c := grpcCollector(t)
	log := filepath.Join(t.TempDir(), "access.log")
	g := forward(t, mirrored(t), "", "", fmt.Sprintf("policies: {access_log: {path: %q}, tracing: {otlp: {endpoint: %q, interval: 1m}, sample: 1}}", log, c.addr))
	p := g.client()
	p.request("GET /")
	_, body := p.response()
	p.close()
	g.Shutdown(t.Context())
	spans := c.spans(t, 2)
	trace := hex.EncodeToString(spans[0].TraceId)
	if parents := valuesOf(body, "traceparent"); len(parents) != 1 || parents[0] != "00-"+trace+"-"+hex.EncodeToString(spans[1].SpanId)+"-03" {
		t.Errorf("%q, trace %s", parents, trace)
	}
	lines, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(lines), `"trace_id":"`+trace+`"}`) {
		t.Errorf("%s %v", lines, err)
	}
}

// A request that is not sampled allocates nothing.
func TestTracingAllocates(t *testing.T) {
	addr := backendProcess(t)
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/]}, service: s}}
policies: {tracing: {otlp: {endpoint: "%s"}, sample: 0}}
`, addr, nobody(t)))
	const head = "GET /users HTTP/1.1\r\nHost: api.example\r\nUser-Agent: test\r\n"
	g.allocates("root", head+"\r\n", 200)
	g.allocates("parent", head+"traceparent: "+testParent+"00\r\ntracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE\r\nbaggage: a=b\r\n\r\n", 200)
	g.allocates("b3", head+"b3: "+testTrace+"-"+testSpan+"-0\r\n\r\n", 200)
	g.allocates("invalid", head+"traceparent: nonsense\r\ntracestate: nonsense\r\n\r\n", 200)
}
