package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/registry"
)

// bodyChanger stands for a policy that changes the response body: it doubles
// every byte as it passes, or holds the body and puts brackets around it, or
// looks at its beginning and then does both.
type bodyChanger struct {
	Do    string      `yaml:"do" default:"double" enum:"double|hold|both"`
	Limit config.Size `yaml:"limit" default:"1KiB"`
}

var refusedAnswer = exchange.NewReject(502, "bad_answer", "refused")

func doubled(b []byte) []byte {
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, c, c)
	}
	return out
}

func doubling(_ *exchange.Exchange, chunk []byte, last bool) ([]byte, error) {
	if bytes.Contains(chunk, []byte("refuse me")) {
		return nil, refusedAnswer
	}
	out := doubled(chunk)
	if last {
		out = append(out, "!!"...)
	}
	return out, nil
}

var bodyChangerPolicy = policy.Define("mirror", policy.Transform, func(_ *policy.Build, c *bodyChanger) (policy.Hooks, error) {
	hold := func(x *exchange.Exchange) error {
		body, whole, err := x.HoldResponse(int(c.Limit))
		if err != nil {
			return err
		}
		x.ToClient.Set("X-Held", fmt.Appendf(nil, "%d %t", len(body), whole))
		if whole && x.HasResponseBody() {
			x.Response.SetBodyRaw(fmt.Appendf(nil, "[%s]", body))
		}
		return nil
	}
	return policy.Hooks{Blocking: true, Response: func(x *exchange.Exchange) error {
		switch c.Do {
		case "double":
			return x.FilterBody(doubling, true)
		case "hold":
			return hold(x)
		}
		if _, _, err := x.HoldResponse(4); err != nil {
			return err
		}
		if err := x.FilterBody(doubling, true); err != nil {
			return err
		}
		return hold(x)
	}}, nil
})

// changed is what bodyChanger makes of a body, and of how much it was told that it is held.
func changed(do string, limit int, body string) (got, held string) {
	if do != "hold" {
		body = string(doubled([]byte(body))) + "!!"
	}
	switch {
	case do == "double":
		return body, ""
	case len(body) <= limit:
		return "[" + body + "]", fmt.Sprintf("%d true", len(body))
	}
	return body, fmt.Sprintf("%d false", limit)
}

// framed answers /FRAMING/SIZE with that many bytes.
func framed(head, _ string) string {
	parts := strings.Split(strings.Fields(head)[1], "/")
	n, _ := strconv.Atoi(parts[2])
	body := text(n)
	switch parts[1] {
	case "chunked":
		return "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 9000) + "0\r\nX-Sum: 7\r\n\r\n"
	case "204", "304":
		return "HTTP/1.1 " + parts[1] + " Nothing\r\nETag: \"a\"\r\n\r\n"
	}
	head = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
	if parts[1] == "head" {
		return head
	}
	return head + body
}

func changing(t testing.TB, s *server, settings, route, more string) string {
	return forwarding(s, "", "policies: {mirror: "+settings+"}"+comma(route), more)
}

func changers() gateway.Options {
	r := registry.All()
	r.Policies["mirror"] = bodyChangerPolicy
	return gateway.Options{Registry: r}
}

// Whatever the framing, the size and the client's version: the hooks see the
// body once, whole and in order, and what they make of it is what arrives.
func TestResponseBodyHooks(t *testing.T) {
	s := answering(t, framed)
	for _, do := range []string{"double", "hold", "both"} {
		for _, limit := range []int{8, 70_000} {
			g := serve(t, changers(), changing(t, s, fmt.Sprintf("{do: %s, limit: %d}", do, limit), "", ""))
			c := g.client()
			for _, framing := range []string{"length", "chunked"} {
				for _, n := range []int{0, 1, 4, 5, 8, 9, 5000, 16_384, 65_536, 65_537, 70_000, 200_000} {
					want, held := changed(do, limit, text(n))
					target := fmt.Sprintf("/%s/%d", framing, n)
					c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
					head := c.head()
					got, _ := c.body(head)
					gotHeld, _ := field(head, "X-Held")
					if statusOf(head) != 200 || got != want || gotHeld != held {
						t.Errorf("%s %d %s: held %q, want %q; body %q, want %q\n%s", do, limit, target, gotHeld, held, abbreviate(got), abbreviate(want), head)
					}
					old := g.client()
					old.send("GET " + target + " HTTP/1.0\r\nHost: a\r\n\r\n")
					head = old.head()
					if got, whole := old.rest(); got != want || !whole || strings.Contains(head, "chunked") {
						t.Errorf("%s %d %s over HTTP/1.0: %q, want %q\n%s", do, limit, target, abbreviate(got), abbreviate(want), head)
					}
				}
			}
			for _, r := range []string{"HEAD /head/5000", "GET /204/0", "GET /304/0"} {
				c.send(r + " HTTP/1.1\r\nHost: a\r\n\r\n")
				if head := c.head(); strings.HasPrefix(r, "GET") && !strings.HasPrefix(head, "HTTP/1.1 "+r[5:8]) {
					t.Errorf("%s: %s", r, head)
				}
			}
			c.send("GET /length/1 HTTP/1.1\r\nHost: a\r\n\r\n") // nothing was left on the connection
			want, _ := changed(do, limit, text(1))
			c.wants(200, want)
		}
	}
}

func TestBridgeResponseBodyHooks(t *testing.T) {
	bridges(t, func(t *testing.T, b bridge) {
		s := answering(t, framed)
		for _, do := range []string{"double", "both"} {
			const limit = 3000
			g := b.serve(t, changers(), changing(t, s, fmt.Sprintf("{do: %s, limit: %d}", do, limit), "", ""))
			c := b.client(g)
			for _, framing := range []string{"length", "chunked"} {
				for _, n := range []int{0, 5, 1000, 5000, 100_000} {
					want, _ := changed(do, limit, text(n))
					res, got := g.get2(c, b.request(g, "GET", fmt.Sprintf("/%s/%d", framing, n), nil))
					if got != want || res.ContentLength >= 0 && res.ContentLength != int64(len(want)) {
						t.Errorf("%s %s %d: %q, want %q, length %d", do, framing, n, abbreviate(got), abbreviate(want), res.ContentLength)
					}
				}
			}
			if res, got := g.get2(c, b.request(g, "HEAD", "/head/5000", nil)); res.StatusCode != 200 || got != "" {
				t.Errorf("%s HEAD: %d %q", do, res.StatusCode, got)
			}
			for _, status := range []int{204, 304} {
				if res, got := g.get2(c, b.request(g, "GET", fmt.Sprintf("/%d/0", status), nil)); res.StatusCode != status || got != "" {
					t.Errorf("%s %d: %d %q", do, status, res.StatusCode, got)
				}
			}
		}
	})
}

// A trailer section passes behind a body that streams, and is gone with a body that is held.
func TestResponseBodyHooksTrailers(t *testing.T) {
	s := answering(t, framed)
	f := func(settings, want string) {
		t.Helper()
		g := serve(t, changers(), changing(t, s, settings, "", ""))
		c := g.client()
		for range 2 {
			c.send("GET /chunked/30000 HTTP/1.1\r\nHost: a\r\n\r\n")
			head := c.head()
			if _, trailer := c.body(head); !strings.Contains(trailer, want) || want == "" && strings.Contains(head, "X-Sum") {
				t.Errorf("%s: trailer %q\n%s", settings, trailer, head)
			}
		}
	}
	f("{do: double}", "X-Sum: 7")
	f("{do: hold, limit: 1KiB}", "X-Sum: 7")
	f("{do: hold, limit: 64KiB}", "")
}

// A piece reaches the client through hooks before the backend sends the next.
func TestResponseBodyHooksDoNotDelay(t *testing.T) {
	seen := make(chan struct{})
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 4 {
			p.send("2\r\nab\r\n")
			<-seen
		}
		p.send("0\r\n\r\n")
	})
	g := serve(t, changers(), changing(t, s, "{do: both, limit: 2}", "", ""))
	c := g.client()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	seen <- struct{}{} // more than four bytes are looked at first
	seen <- struct{}{}
	if head := c.head(); statusOf(head) != 200 {
		t.Fatal(head)
	}
	got := ""
	for len(got) < 12 {
		data, ok := c.chunk()
		if got += data; !ok {
			t.Fatal(got)
		}
	}
	seen <- struct{}{}
	if data, _ := c.chunk(); data != "aabb" {
		t.Errorf("then %q", data)
	}
	seen <- struct{}{}
	if data, _ := c.chunk(); data != "!!" {
		t.Errorf("at last %q", data)
	}
}

// What a backend did not send to its end is an error with a status of its own
// where it was held, and an error's body is no part of what hooks were for.
func TestHeldResponseFailure(t *testing.T) {
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		p.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
		switch path := strings.Fields(head)[1]; path {
		case "/refused":
			p.send("9\r\nrefuse me\r\n0\r\n\r\n")
		case "/malformed":
			p.send("zz\r\n")
		case "/stalled":
			_, _ = io.Copy(io.Discard, p.r)
		}
	})
	g := serve(t, changers(), changing(t, s, "{do: both}", "", "limits: {stall_timeout: 300ms}\npolicies: {cache: {}}\n"))
	f := func(path string, status int, reason string) {
		t.Helper()
		for range 2 { // an error is not stored
			c := g.client()
			c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
			head := c.refused(status, reason)
			if v, _ := field(head, "Cache-Status"); strings.Contains(v, "hit") {
				t.Error(head)
			}
		}
	}
	f("/cut", 502, "upstream_truncated")
	f("/malformed", 502, "upstream_truncated")
	f("/refused", 502, "bad_answer")
	f("/stalled", 504, "upstream_timeout")
}

// A client that leaves while its answer is held counts as gone.
func TestHeldResponseClientGone(t *testing.T) {
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
		_, _ = io.Copy(io.Discard, p.r)
	})
	g := serve(t, changers(), changing(t, s, "{do: hold}", "", ""))
	c := g.client()
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	once(t, "the request at the backend", func() bool { return s.conns.Load() == 1 })
	c.close()
	once(t, "a client that is gone", func() bool {
		return g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="499"}`) == 1
	})
}

// An answer of the gateway's own passes the hooks too, whole.
func TestOwnAnswerBodyHooks(t *testing.T) {
	g := serve(t, changers(), `routes: {r: {respond: {status: 200, body: abc}, policies: {mirror: {do: both}}}}`)
	c := g.client()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, "[aabbcc!!]")
	}
	res, err := http.Head("http://" + g.addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

// A stale answer that stands in for an error which streams counts as what it
// is, and the client's connection goes on.
func TestStaleForStreamedError(t *testing.T) {
	var failing atomic.Bool
	s := answering(t, func(string, string) string {
		if failing.Load() {
			return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\n" + text(100_000)
		}
		return okAnswer
	})
	var ahead atomic.Int64
	g := serve(t, gateway.Options{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }},
		forwarding(s, "retries: {attempts: 0}", "policies: {cache: {ttl: 60s, stale_if_error: 1h}}", ""))
	c := g.client()
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	c.send(request)
	c.wants(200, "ok")
	failing.Store(true)
	ahead.Add(int64(2 * time.Minute))
	for range 2 {
		c.send(request)
		c.wants(200, "ok")
	}
	once(t, "all counted as answered", func() bool {
		return g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="200"}`) == 3
	})
}
