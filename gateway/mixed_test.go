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
