package gateway_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway"
)

// clock is the time of a gateway, which tests put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration)  { c.ahead.Add(int64(d)) }
func (c *clock) options() gateway.Options { return gateway.Options{Now: c.now} }
func (p *peer) request(line string) *peer { p.send(line + " HTTP/1.1\r\nHost: a\r\n\r\n"); return p }
func (p *peer) post(path, body string) {
	p.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
}
func reply(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// A backend that closes its idle connections never shows: what may be repeated
// is, and what may not is not sent on a connection that is closed.
func TestStaleConnection(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1000) // never full
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		body, _ := p.body(head)
		p.send(reply(200, body))
		p.close()
		closed <- struct{}{}
	})
	g := forward(t, s, "", "streaming: true", "")
	c := g.client()
	for range 50 {
		c.request("GET /")
		c.wants(200, "")
		<-closed
		c.post("/", "once")
		c.wants(200, "once")
		<-closed
		c.post("/", text(100_000))
		c.wants(200, text(100_000))
		<-closed
	}
	// The close that comes at any time.
	for range 200 {
		c.request("GET /")
		c.wants(200, "")
	}
	if n := g.metric(`sluice_retries_total{service="s"}`); n != 0 {
		t.Errorf("%v retries: a fresh connection is not one", n)
	}
}

// metric returns the value of a series, 0 without it.
func (g *gate) metric(series string) float64 {
	g.t.Helper()
	var b strings.Builder
	if err := g.WriteMetrics(&b); err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil {
				g.t.Fatal(line)
			}
			return f
		}
	}
	return 0
}

// nobody returns an address that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	return ln.Addr().String()
}

func TestRetryElsewhere(t *testing.T) {
	s := answering(t, func(_, body string) string { return reply(200, "ok"+body) })
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s", "http://%s"], load_balancer: {strategy: round_robin}}}
routes: {r: {match: {paths: [/]}, service: s}}
`, nobody(t), s.addr))
	c := g.client()
	// A connection that was refused took nothing: a POST may go elsewhere too.
	for range 20 {
		c.request("GET /")
		c.wants(200, "ok")
		c.post("/", "1")
		c.wants(200, "ok1")
	}
	if n := g.metric(`sluice_retries_total{service="s"}`); n == 0 {
		t.Error("nothing was retried")
	}
}

func TestRetry(t *testing.T) {
	var hits, bad atomic.Int64
	var how atomic.Value
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			p.body(head)
			hits.Add(1)
			if bad.Add(-1) < 0 {
				p.send(reply(200, "ok"))
				continue
			}
			switch how := how.Load().(string); how {
			case "reset":
				return
			case "partial":
				p.send("HTTP/1.1 200")
				return
			case "truncated":
				p.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
				return
			default:
				status, _ := strconv.Atoi(how)
				p.send(reply(status, "bad"))
			}
		}
	})
	g := forward(t, s, "circuit_breaker: off, retries: {budget: 100%}", "streaming: true", "")
	f := func(method, body, manner string, times, status, attempts int) {
		t.Helper()
		how.Store(manner)
		bad.Store(int64(times))
		before := hits.Load()
		c := g.client()
		c.send(fmt.Sprintf("%s / HTTP/1.1\r\nHost: a\r\n%s", method, body))
		if head, _ := c.response(); statusOf(head) != status {
			t.Errorf("%s %s: %q", method, manner, head)
		}
		if n := int(hits.Load() - before); n != attempts {
			t.Errorf("%s %s: %d attempts, want %d", method, manner, n, attempts)
		}
	}
	none := "\r\n"
	small := "Content-Length: 4\r\n\r\nbody"
	large := "Content-Length: 100000\r\n\r\n" + text(100_000)
	for _, status := range []string{"502", "503", "504"} {
		n, _ := strconv.Atoi(status)
		f("GET", none, status, 1, 200, 2)
		f("GET", none, status, 2, 200, 3)
		f("GET", none, status, 9, n, 3)
		f("PUT", small, status, 1, 200, 2)
		f("DELETE", none, status, 1, 200, 2)
		f("POST", small, status, 1, n, 1)
		f("PATCH", small, status, 1, n, 1)
		f("PUT", large, status, 1, n, 1) // not held, so not repeated
	}
	f("GET", none, "500", 1, 500, 1)
	f("GET", none, "404", 1, 404, 1)
	f("POST", small, "reset", 1, 502, 1)
	// A first byte was an answer: there is no second try.
	f("GET", none, "partial", 1, 502, 1)
	f("GET", none, "truncated", 1, 502, 1)
	// After a fresh connection was reset it is a retry, and they are counted.
	g = forward(t, s, "circuit_breaker: off, retries: {budget: 100%}, connections: {idle_timeout: 49s}", "", "")
	f("GET", none, "reset", 2, 200, 3)
	g = forward(t, s, "circuit_breaker: off, retries: {budget: 100%}, connections: {idle_timeout: 48s}", "", "")
	f("GET", none, "reset", 9, 502, 3)
}

func TestRetryBudget(t *testing.T) {
	var hits atomic.Int64
	s := answering(t, func(string, string) string { hits.Add(1); return reply(503, "bad") })
	g := forward(t, s, "circuit_breaker: off", "", "")
	c := g.client()
	for range 200 {
		c.request("GET /")
		c.wants(503, "bad")
	}
	// Ten at once, and one for every five requests.
	if n := hits.Load() - 200; n < 40 || n > 50 {
		t.Errorf("%d retries of 200 requests", n)
	}
}

// One endpoint and the settings that come of themselves: five requests that
// fail open the breaker, however often each was tried, and the sixth gets its
// answer without the backend.
func TestBreaker(t *testing.T) {
	var hits atomic.Int64
	f := func(name, service string, status int, answer string) {
		t.Helper()
		hits.Store(0)
		s := backend(t, func(p *peer) {
			for {
				head := p.head()
				if head == "" {
					return
				}
				hits.Add(1)
				if answer == "" || strings.HasPrefix(head, "GET /good") {
					p.send(reply(200, "ok"))
					continue
				}
				if answer == "wait" {
					_, _ = p.rest()
					return
				}
				p.send(answer)
				if !strings.HasSuffix(answer, "bad") {
					return
				}
			}
		})
		var now clock
		g := serve(t, now.options(), forwarding(s, service, "", ""))
		c := g.client()
		for range 4 {
			c.request("GET /")
			if head, _ := c.response(); statusOf(head) != status {
				t.Errorf("%s: %q", name, head)
			}
		}
		c.request("GET /good")
		c.wants(200, "ok") // one success, and the count begins anew
		for range 5 {
			c.request("GET /")
			if head, _ := c.response(); statusOf(head) != status {
				t.Errorf("%s: %q", name, head)
			}
		}
		before := hits.Load()
		for range 3 {
			c.request("GET /good")
			head := c.refused(503, "breaker_open")
			if v, _ := field(head, "Retry-After"); v != "30" {
				t.Errorf("%s: %q", name, head)
			}
		}
		if hits.Load() != before {
			t.Errorf("%s: an open breaker let a request through", name)
		}
		if got := g.Health(); !strings.Contains(string(got), `"s":"open"`) {
			t.Errorf("%s: %s", name, got)
		}
		// The probe fails, the next one succeeds.
		now.advance(31 * time.Second)
		c.request("GET /")
		if head, _ := c.response(); statusOf(head) != status {
			t.Errorf("%s: the probe: %q", name, head)
		}
		c.request("GET /good")
		c.refused(503, "breaker_open")
		now.advance(31 * time.Second)
		for range 3 {
			c.request("GET /good")
			c.wants(200, "ok")
		}
		if got := g.Health(); !strings.Contains(string(got), `"s":"closed"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
	f("500", "", 500, reply(500, "bad"))
	f("503", "", 503, reply(503, "bad"))
	f("reset", "", 502, "HTTP/1.1 200 OK\r\n")
	f("malformed", "", 502, "nonsense\r\n")
	f("truncated", "", 502, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	f("timeout", "timeouts: {response: 20ms}", 504, "wait")
}

func TestClientErrorsDoNotOpenTheBreaker(t *testing.T) {
	s := answering(t, func(string, string) string { return reply(404, "no") })
	c := forward(t, s, "", "", "").client()
	for range 30 {
		c.request("GET /")
		c.wants(404, "no")
	}
}

func TestNobodyThere(t *testing.T) {
	var now clock
	g := serve(t, now.options(), forwarding(&server{addr: nobody(t)}, "", "", ""))
	c := g.client()
	for range 5 {
		c.request("GET /")
		c.refused(502, "upstream_connect")
	}
	c.request("GET /")
	c.refused(503, "breaker_open")
}
