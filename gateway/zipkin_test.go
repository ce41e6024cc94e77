package gateway_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway"
)

// zipkinSpan is a span as Zipkin's API has it.
type zipkinSpan struct {
	TraceID, ID, ParentID, Name, Kind string
	Timestamp, Duration               int64
	LocalEndpoint, RemoteEndpoint     struct {
		ServiceName, IPv4, IPv6 string
		Port                    int
	}
	Tags map[string]string
}

// zipkinCollector takes what Zipkin's API takes, and nothing else.
type zipkinCollector struct {
	mu      sync.Mutex
	got     []zipkinSpan
	asked   int
	answers []int // before it takes spans
	wrong   []string
	key     string
	addr    string
}

func (c *zipkinCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var spans []zipkinSpan
	strict := json.NewDecoder(r.Body)
	strict.DisallowUnknownFields()
	err := strict.Decode(&spans)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	c.key = r.Header.Get("Api-Key")
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/api/v2/spans" || r.Header.Get("Content-Type") != "application/json" {
		c.wrong = append(c.wrong, fmt.Sprintf("%s %s %v: %v", r.Method, r.URL, r.Header, err))
	}
	if len(c.answers) > 0 {
		status := c.answers[0]
		c.answers = c.answers[1:]
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		return
	}
	c.got = append(c.got, spans...)
	w.WriteHeader(http.StatusAccepted)
}

func newZipkinCollector(t testing.TB, answers ...int) *zipkinCollector {
	t.Helper()
	c := &zipkinCollector{answers: answers}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.addr = s.URL
	return c
}

// spans waits until n spans have come.
func (c *zipkinCollector) spans(t testing.TB, n int) (all []zipkinSpan) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end) && len(all) < n; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		all = slices.Clone(c.got)
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) != n || len(c.wrong) > 0 {
		t.Fatalf("%d spans, want %d: %+v %v", len(c.got), n, c.got, c.wrong)
	}
	return all
}

func TestSpansOfZipkin(t *testing.T) {
	var seen []string
	s := answering(t, func(head, _ string) string {
		seen = append(seen, strings.Join(valuesOf(head, "b3"), "|"))
		if len(seen) == 1 {
			return reply(503, "bad")
		}
		return reply(200, "ok")
	})
	c := newZipkinCollector(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s/base"], circuit_breaker: off, retries: {budget: 100%%}}}
routes: {users: {match: {paths: ["/users/{id}"]}, service: s}}
policies:
  tracing:
    zipkin: {endpoint: "%s", interval: 10ms, headers: {Api-Key: k1}, tags_header: Zipkin-Tags}
    sample: 0
    service_name: Edge
    resource: {region: eu}
    response_header: X-Trace-ID
`, s.addr, c.addr))
	p := g.client()
	before := time.Now()
	p.send("GET /users/7?token=hunter2 HTTP/1.1\r\nHost: api.example:8080\r\nAuthorization: Bearer hunter2\r\nb3: " + testTrace + "-" + testSpan + "-1\r\n" +
		"Zipkin-Tags: plan=gold; http.path=/forged;error=forged; no value;region=us\r\nzipkin-tags: sluice.consumer=admin;cell = 7 \r\n\r\n")
	head, body := p.response()
	if statusOf(head) != 200 || body != "ok" || strings.Join(valuesOf(head, "X-Trace-ID"), "|") != testTrace {
		t.Errorf("%q %q", head, body)
	}
	spans := c.spans(t, 3)
	after := time.Now()
	server, first, second := spans[0], spans[1], spans[2]
	for _, span := range spans {
		if span.TraceID != testTrace || span.LocalEndpoint.ServiceName != "Edge" || span.Timestamp < before.UnixMicro() || span.Duration < 1 ||
			span.Timestamp+span.Duration > after.UnixMicro() || span.Timestamp < server.Timestamp || span.Timestamp+span.Duration > server.Timestamp+server.Duration+1 {
			t.Errorf("%+v, requested from %d to %d", span, before.UnixMicro(), after.UnixMicro())
		}
		if strings.Contains(fmt.Sprint(span), "hunter2") {
			t.Errorf("a secret in %+v", span)
		}
	}
	if server.Kind != "SERVER" || server.ParentID != testSpan || server.Name != "GET /users/{id}" || server.RemoteEndpoint.IPv4 != "127.0.0.1" {
		t.Errorf("%+v", server)
	}
	tags := func(span zipkinSpan, want map[string]string) {
		t.Helper()
		for name, value := range want {
			if got, there := span.Tags[name]; got != value || there != (value != "") {
				t.Errorf("%s is %q, want %q: %v", name, got, value, span.Tags)
			}
		}
	}
	tags(server, map[string]string{
		"http.method": "GET", "http.path": "/users/7", "http.status_code": "200", "http.host": "api.example", "http.protocol": "HTTP/1.1", "http.route": "/users/{id}",
		"url.query": "token=REDACTED", "sluice.route": "users", "region": "us", "plan": "gold", "cell": "7", "error": "", "sluice.consumer": "", "no value": "",
	})
	host, port, _ := net.SplitHostPort(s.addr)
	for i, span := range []zipkinSpan{first, second} {
		e := span.RemoteEndpoint
		if span.Kind != "CLIENT" || span.ParentID != server.ID || span.Name != "GET" || seen[i] != testTrace+"-"+span.ID+"-1-"+server.ID ||
			e.ServiceName != "s" || e.IPv4 != host || strconv.Itoa(e.Port) != port {
			t.Errorf("%+v, the backend got %s", span, seen[i])
		}
	}
	where := "http://" + s.addr + "/base/users/7?token=REDACTED"
	tags(first, map[string]string{"http.status_code": "503", "error": "503", "http.url": where, "sluice.service": "s", "region": ""})
	tags(second, map[string]string{"http.status_code": "200", "error": "", "http.request.resend_count": "1"})
	if first.Timestamp+first.Duration > second.Timestamp+1 {
		t.Errorf("the tries overlap: %+v %+v", first, second)
	}
	if c.key != "k1" {
		t.Errorf("key %q", c.key)
	}
	if n := g.metric("sluice_spans_exported_total"); n != 3 {
		t.Errorf("%v spans exported", n)
	}
	// What is not sampled is not sent: not before what comes behind it.
	p.send("GET /users/8 HTTP/1.1\r\nHost: a\r\nb3: " + testTrace + "-" + testSpan + "-0\r\n\r\n")
	p.wants(200, "ok")
	p.send("GET /users/9 HTTP/1.1\r\nHost: a\r\nb3: " + testTrace + "-" + testSpan + "-1\r\n\r\n")
	p.wants(200, "ok")
	if last := c.spans(t, 5)[3]; last.Tags["http.path"] != "/users/9" {
		t.Errorf("%+v", last)
	}
}

func TestNamesOfZipkinSpans(t *testing.T) {
	f := func(naming, line, want string) {
		t.Helper()
		c := newZipkinCollector(t)
		g := forward(t, mirrored(t), "", "", fmt.Sprintf("policies: {tracing: {zipkin: {endpoint: %q, interval: 10ms, span_name: %s}, sample: 1}}", c.addr, naming))
		g.sees(line + " HTTP/1.1\r\nHost: a\r\n\r\n")
		if got := c.spans(t, 2)[0]; got.Name != want || got.ParentID != "" {
			t.Errorf("%s: %+v, want %s", naming, got, want)
		}
	}
	f("route", "GET /users/7?a=b", "GET /")
	f("method", "GET /users/7?a=b", "GET")
	f("method_path", "GET /users/7?a=b", "GET /users/7")
	f("method_path", "BREW /users/7", "HTTP /users/7")
}

// A batch is sent again while its collector may take it yet, and lost where it says that it will not; no redirect is followed.
func TestZipkinSaysNo(t *testing.T) {
	f := func(lost float64, answers ...int) {
		t.Helper()
		c := newZipkinCollector(t, answers...)
		g := forward(t, mirrored(t), "", "", fmt.Sprintf("policies: {tracing: {zipkin: {endpoint: %q, interval: 10ms, timeout: 400ms}, sample: 1}}", c.addr))
		g.sees("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		once(t, "the spans are sent or lost", func() bool {
			return g.metric("sluice_spans_exported_total")+g.metric(`sluice_spans_dropped_total{reason="export_failed"}`) == 2
		})
		c.mu.Lock()
		defer c.mu.Unlock()
		if n := g.metric(`sluice_spans_dropped_total{reason="export_failed"}`); n != lost || len(c.wrong) > 0 || len(c.answers) > 0 && lost == 0 {
			t.Errorf("%v: %v lost, %d times asked, %v", answers, n, c.asked, c.wrong)
		}
	}
	f(0)
	f(0, 503)
	f(0, 429)
	f(2, 400)
	f(2, 302)
}

// Requests go on without the collector, and what could not be told of them is counted.
func TestZipkinDown(t *testing.T) {
	g := forward(t, mirrored(t), "", "", fmt.Sprintf(`policies: {tracing: {zipkin: {endpoint: "http://%s", interval: 10ms, timeout: 100ms, queue: 10, batch: 2}, sample: 1}}`, nobody(t)))
	p := g.client()
	for range 50 {
		p.request("GET /")
		if head, _ := p.response(); statusOf(head) != 200 {
			t.Fatal(head)
		}
	}
	dropped := func(reason string) float64 { return g.metric(`sluice_spans_dropped_total{reason="` + reason + `"}`) }
	once(t, "all spans are counted as dropped", func() bool { return dropped("queue_full")+dropped("export_failed") == 100 })
	if n := g.metric("sluice_spans_exported_total"); n != 0 || dropped("export_failed") == 0 {
		t.Errorf("%v exported, %v failed", n, dropped("export_failed"))
	}
}
