package gateway_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"sluice/gateway"
)

// engines has f run with each engine; listener is one that uses it.
func engines(t *testing.T, f func(t *testing.T, listener string)) {
	for _, engine := range []string{"fasthttp", "loop"} {
		t.Run(engine, func(t *testing.T) {
			f(t, "listeners: {main: {address: \"127.0.0.1:0\", engine: "+engine+"}}\n")
		})
	}
}

// Behind a request in the same segment may be what is refused, and what waits to be told to continue.
func TestPipelineWithOtherKinds(t *testing.T) {
	engines(t, func(t *testing.T, listener string) {
		s := answering(t, func(head, body string) string {
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", 2+len(body), "ok"+body)
		})
		g := serve(t, gateway.Options{}, forwarding(s, "", "", listener))
		const plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
		for _, first := range []string{plain, plain + plain, "\r\n" + plain} {
			for _, bad := range []string{"GET\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n"} {
				c := g.client()
				c.send(first + bad)
				for range strings.Count(first, plain) {
					c.wants(200, "ok")
				}
				if head, _ := c.response(); statusOf(head) != 400 {
					t.Errorf("%q: %q", bad, head)
				}
				c.ended()
			}
			c := g.client()
			c.send(first + "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			for range strings.Count(first, plain) {
				c.wants(200, "ok")
			}
			if head := c.head(); statusOf(head) != 100 {
				t.Fatalf("%q", head)
			}
			c.send("body" + plain)
			c.wants(200, "okbody")
			c.wants(200, "ok")
		}
	})
}

// The end of a connection that has switched protocols is nothing to others, which may have its buffers by then.
func TestTunnelEndsBesideUpload(t *testing.T) {
	engines(t, func(t *testing.T, listener string) {
		left := make(chan struct{}, 1)
		s := backend(t, func(p *peer) {
			for {
				head := p.head()
				if head == "" {
					return
				}
				if strings.Contains(head, "Upgrade: echo\r\n") {
					p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
					_, _ = io.Copy(p.conn, p.r)
					left <- struct{}{}
					return
				}
				body, _ := p.body(head)
				p.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			}
		})
		g := serve(t, gateway.Options{}, forwarding(s, "", "", listener))
		for range 20 {
			tunnel := g.client()
			tunnel.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			if head := tunnel.head(); statusOf(head) != 101 {
				t.Fatal(head)
			}
			tunnel.send("x")
			tunnel.bytes(1)
			c := g.client()
			c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
			if head := c.head(); statusOf(head) != 100 {
				t.Fatal(head)
			}
			c.send("a")
			tunnel.close()
			within(t, "the tunnel has ended", left)
			once(t, "its connection is gone", func() bool { return g.active() <= 1 })
			c.send("b")
			c.send("c")
			c.wants(200, "abc")
			c.close()
		}
	})
}

// What a small answer of the gateway's own leaves behind is nothing to a later one, which keeps its backend's Date.
func TestDateBehindOwnAnswer(t *testing.T) {
	const date = "Sun, 06 Nov 1994 08:49:37 GMT"
	engines(t, func(t *testing.T, listener string) {
		s := answering(t, func(string, string) string {
			return "HTTP/1.1 200 OK\r\nDate: " + date + "\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000)
		})
		g := serve(t, gateway.Options{}, `
services: {s: {endpoints: ["http://`+s.addr+`"]}}
routes:
  own: {match: {paths: [/own]}, respond: {status: 204}, policies: {correlation_id: off}}
  all: {match: {paths: [/]}, service: s, policies: {correlation_id: off}}
`+listener)
		c := g.client()
		for range 3 {
			c.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n")
			if head := c.head(); statusOf(head) != 204 {
				t.Fatal(head)
			}
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			head, _ := c.response()
			if v, _ := field(head, "Date"); v != date || strings.Count(strings.ToLower(head), "\r\ndate:") != 1 {
				t.Errorf("%q", head)
			}
		}
	})
}
