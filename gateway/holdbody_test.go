package gateway_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/registry"
)

// bodyReader stands for a policy that reads the body: it refuses what contains "bad" within its limit.
type bodyReader struct {
	Limit config.Size `yaml:"limit" default:"1KiB"`
}

var (
	refusedBody = exchange.NewReject(403, "bad_body", "refused")
	calls       atomic.Int64
)

func init() { refusedBody.Close = true }

var bodyReaderPolicy = policy.Define("idempotency", policy.Inspect, func(_ *policy.Build, c *bodyReader) (policy.Hooks, error) {
	return policy.Hooks{Blocking: true, Request: func(x *exchange.Exchange) error {
		calls.Add(1)
		body, whole, err := x.HoldBody(int(c.Limit))
		switch {
		case err != nil:
			return err
		case strings.Contains(string(body), "bad"):
			return refusedBody
		}
		x.ToBackend.Set("X-Held", []byte(fmt.Sprintf("%d %t %t", len(body), whole, x.Body != nil)))
		return nil
	}}, nil
})

// readingBodies runs a gateway with a route whose policy reads bodies.
func readingBodies(t *testing.T, limit, route, more string) (*gate, *server) {
	s := answering(t, func(head, body string) string {
		held, _ := field(head, "X-Held")
		length, _ := field(head, "Content-Length")
		if trailer, ok := field(head, "Trailer"); ok {
			held += " " + trailer
		}
		if _, ok := field(head, "Expect"); ok {
			return reply(500, "Expect went on")
		}
		return reply(200, fmt.Sprintf("%s|%s|%d|%d", held, length, len(body), strings.Count(body, "x")))
	})
	r := registry.All()
	r.Policies["idempotency"] = bodyReaderPolicy
	return serve(t, gateway.Options{Registry: r}, forwarding(s, "", "policies: {api_key: {}, idempotency: {limit: "+limit+"}}"+comma(route),
		"consumers: {a: {api_keys: [{id: k, hash: \"sha256:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683\"}]}}\n"+more)), s
}

const keyed = "Host: a\r\nX-API-Key: key\r\n"

// What is read ahead reaches the backend whole, however it is framed and however much of it was read.
func TestHoldBody(t *testing.T) {
	f := func(limit string, size int, framing, want string) {
		t.Helper()
		g, _ := readingBodies(t, limit, "", "")
		c := g.client()
		body := strings.Repeat("x", size)
		for range 2 { // over one connection
			switch framing {
			case "length":
				c.send(fmt.Sprintf("POST / HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", keyed, size, body))
			case "chunked":
				c.send("POST / HTTP/1.1\r\n" + keyed + "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 700) + "0\r\n\r\n")
			}
			c.wants(200, fmt.Sprintf("%s|%d|%d", want, size, size))
		}
	}
	f("1KiB", 0, "length", "0 true false|0")
	f("1KiB", 1, "length", "1 true true|1")
	f("1KiB", 1024, "length", "1024 true true|1024")
	f("1KiB", 1025, "length", "1024 false false|1025")
	f("1KiB", 60_000, "length", "1024 false false|60000")
	f("1KiB", 500_000, "length", "1024 false false|500000")
	f("128KiB", 65_536, "length", "65536 true true|65536")
	f("128KiB", 65_537, "length", "65537 true false|65537")
	f("1KiB", 0, "chunked", "0 true true|0")
	f("1KiB", 1000, "chunked", "1000 true true|1000")
	f("1KiB", 1025, "chunked", "1024 false false|")
	f("1KiB", 300_000, "chunked", "1024 false false|")
	f("128KiB", 100_000, "chunked", "100000 true false|")
}

func TestHoldBodyTrailers(t *testing.T) {
	trailer := make(chan string, 1)
	s := backend(t, func(p *peer) {
		head := p.head()
		_, got := p.body(head)
		trailer <- got
		p.send(okAnswer)
	})
	r := registry.All()
	r.Policies["idempotency"] = bodyReaderPolicy
	g := serve(t, gateway.Options{Registry: r}, forwarding(s, "", "policies: {idempotency: {}}", ""))
	c := g.client()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n")
	c.wants(200, "ok")
	if got := within(t, "the request at the backend", trailer); !strings.Contains(got, "X-Sum: 7") {
		t.Errorf("trailer %q", got)
	}
}

func TestHoldBodyFailure(t *testing.T) {
	g, s := readingBodies(t, "1KiB", "", "limits: {max_body_size: 2KiB, stall_timeout: 300ms}\n")
	f := func(request string, status int, reason string) {
		t.Helper()
		c := g.client()
		c.send(request)
		c.refused(status, reason)
		c.ended()
	}
	post := "POST / HTTP/1.1\r\n" + keyed
	f(post+"Content-Length: 3\r\n\r\nbad", 403, "bad_body")
	f(post+"Content-Length: 2000\r\n\r\nbad"+strings.Repeat("x", 1500), 403, "bad_body")
	f(post+"Transfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n", 403, "bad_body")
	f(post+"Content-Length: 3000\r\n\r\nx", 413, "body_too_large")
	f(post+"Transfer-Encoding: chunked\r\n\r\n"+chunked(strings.Repeat("x", 3000), 500)+"0\r\n\r\n", 413, "body_too_large")
	f(post+"Content-Length: 3\r\n\r\nba", 408, "body_timeout")
	f(post+"Transfer-Encoding: chunked\r\n\r\n3\r\nba", 408, "body_timeout")
	if n := s.conns.Load(); n > 1 { // of the body over max_body_size the first part had passed
		t.Errorf("%d connections to the backend", n)
	}
	// The client leaves in the middle.
	c := g.client()
	c.send(post + "Content-Length: 3\r\n\r\nba")
	once(t, "the request is there", func() bool { return g.active() == 1 })
	c.close()
	once(t, "every connection is given up", func() bool { return g.active() == 0 })
}

// A client that waits to be asked for its body is asked once the policies before are content, and only then is the body read.
func TestHoldBodyExpect(t *testing.T) {
	g, _ := readingBodies(t, "1KiB", "", "")
	expect := func(n int) string { return "Content-Length: " + strconv.Itoa(n) + "\r\nExpect: 100-continue\r\n\r\n" }
	c := g.client()
	for range 2 {
		before := calls.Load()
		c.send("POST / HTTP/1.1\r\n" + keyed + expect(5))
		if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("%q", head)
		}
		c.send("xxxxx")
		c.wants(200, "5 true true|5|5|5")
		if n := calls.Load() - before; n != 2 {
			t.Errorf("the hook ran %d times", n)
		}
	}
	c.send("POST / HTTP/1.1\r\n" + keyed + expect(3))
	_ = c.head()
	c.send("bad")
	c.refused(403, "bad_body")
	c.ended()
	// Refused before: the body is not asked for.
	c = g.client()
	c.send("POST / HTTP/1.1\r\nHost: a\r\n" + expect(3))
	c.refused(401, "credential_missing")
	c.ended()
	// Without a body there is nothing to wait for.
	c = g.client()
	c.send("POST / HTTP/1.1\r\n" + keyed + expect(0))
	_ = c.head()
	c.wants(200, "0 true false|0|0|0")
	// The client leaves before it sends the body.
	c.send("POST / HTTP/1.1\r\n" + keyed + expect(3))
	_ = c.head()
	c.close()
	once(t, "every connection is given up", func() bool { return g.active() == 0 })
}

// A body that was held in part can be refused by the backend while it streams.
func TestHoldBodyEarlyAnswer(t *testing.T) {
	s := backend(t, func(p *peer) {
		_ = p.head()
		p.send(reply(403, "no"))
		p.close()
	})
	r := registry.All()
	r.Policies["idempotency"] = bodyReaderPolicy
	g := serve(t, gateway.Options{Registry: r}, forwarding(s, "", "policies: {idempotency: {}}", ""))
	for range 20 {
		c := g.client()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 10_000))
		if head, _ := c.response(); statusOf(head) != 403 && statusOf(head) != 502 {
			t.Fatalf("%q", head)
		}
		c.close()
	}
}
