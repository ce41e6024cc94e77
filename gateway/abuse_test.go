package gateway_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sluice/gateway"
)

// What a request may not be. Each is refused, its connection closed, and
// nothing of it reaches the backend.
func TestMalformedRequest(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := forward(t, s, "", "", "limits: {max_header_size: 8KiB}\n")
	f := func(request string, status int) {
		t.Helper()
		c := g.client()
		c.send(request)
		head, body := c.response()
		if ct, _ := field(head, "Content-Type"); statusOf(head) != status || ct != "application/problem+json" {
			t.Errorf("%q: %q %q", abbreviate(request), head, body)
		}
		if v, _ := field(head, "Connection"); v != "close" {
			t.Errorf("%q: %q", abbreviate(request), head)
		}
		c.ended()
	}
	const host = "Host: a\r\n"
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled, 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"+smuggled, 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 0\r\nContent-Length: 36\r\n\r\n"+smuggled, 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 0, 0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: +1\r\n\r\nx", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: -1\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 1 1\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 0x1\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length:\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length: 99999999999999999999\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Content-Length : 0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: identity\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)
	f("POST / HTTP/1.1\r\n"+host+"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400)
	f("POST / HTTP/1.0\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+"X-A: 1\r\n folded\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+" X-A: 1\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+"X A: 1\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+": 1\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+"X-A\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+"X-A: a\x00b\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+"X-A: a\rb\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n"+host+"X-A: b\nX-C: d\r\n\r\n", 400)
	f("GET / HTTP/1.1\nHost: a\n\n\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400)
	f("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400)
	f("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400)
	f("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400)
	f("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400)
	f("GET /#f HTTP/1.1\r\n"+host+"\r\n", 400)
	f("GET /\x00 HTTP/1.1\r\n"+host+"\r\n", 400)
	f("GET / HTTP/1.2\r\n"+host+"\r\n", 400)
	f("GET / HTTP/2.0\r\n"+host+"\r\n", 400)
	f("GET  / HTTP/1.1\r\n"+host+"\r\n", 400)
	f("GET / x HTTP/1.1\r\n"+host+"\r\n", 400)
	f("G@T / HTTP/1.1\r\n"+host+"\r\n", 400)
	f("GET /"+strings.Repeat("x", 9000)+" HTTP/1.1\r\n"+host+"\r\n", 414)
	f("GET / HTTP/1.1\r\n"+host+"X-A: "+strings.Repeat("x", 9000)+"\r\n\r\n", 431)
	f("GET / HTTP/1.1\r\n"+host+strings.Repeat("X-A: x\r\n", 2000)+"\r\n", 431)
	f("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400)
	// Chunks.
	const post = "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n"
	f(post+"x\r\n\r\n", 400)
	f(post+"-1\r\n\r\n", 400)
	f(post+"3\r\nabcdef\r\n0\r\n\r\n", 400)
	f(post+"3\nabc\n0\n\n", 400)
	f(post+"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400)
	f(post+"0x3\r\nabc\r\n0\r\n\r\n", 400)
	f(post+"0\r\nContent-Length: 5\r\n\r\n", 400)
	f(post+"0\r\nbad trailer\r\n\r\n", 400)
	if got := s.conns.Load(); got > 20 {
		t.Errorf("%d connections to the backend", got)
	}
}

// One request in the body of another stays there.
func TestSmuggling(t *testing.T) {
	s := answering(t, func(head, body string) string {
		if strings.HasPrefix(head, "GET /smuggled") {
			t.Errorf("smuggled: %q", head)
		}
		return okAnswer
	})
	g := forward(t, s, "", "", "")
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	c := g.client()
	for _, method := range []string{"GET", "POST", "HEAD", "DELETE", "OPTIONS"} {
		for range 2 {
			c.send(fmt.Sprintf("%s / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", method, len(smuggled), smuggled))
			if method == "HEAD" {
				_ = c.head()
			} else {
				c.wants(200, "ok")
			}
			c.send(fmt.Sprintf("%s / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n", method, chunked(smuggled, 100)))
			if method == "HEAD" {
				_ = c.head()
			} else {
				c.wants(200, "ok")
			}
		}
	}
}

// Many clients at once, some of which leave in the middle: each gets what is
// its own and nothing else.
func TestNoCrossTalk(t *testing.T) {
	s := answering(t, func(head, body string) string {
		id, _ := field(head, "X-Id")
		n, _ := strconv.Atoi(strings.TrimPrefix(strings.Fields(head)[1], "/"))
		all := strings.Repeat(id+";", n/len(id)+1)
		if body != "" && !strings.HasPrefix(all, body[:min(len(body), len(all))]) {
			return reply(500, "not mine: "+abbreviate(body))
		}
		if n%2 == 0 {
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\nContent-Length: %d\r\n\r\n%s", id, len(all), all)
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nX-Id: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s0\r\nX-Trailer: %s\r\n\r\n", id, chunked(all, 3000), id)
	})
	g := forward(t, s, "", "streaming: true", "")
	requests := 150
	if testing.Short() {
		requests = 30
	}
	var clients sync.WaitGroup
	for i := range 12 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			var c *peer
			for j := range requests {
				if c == nil {
					nc, err := net.Dial("tcp", g.addr)
					if err != nil {
						t.Error(err)
						return
					}
					c = newPeer(t, nc)
					c.serves = true
				}
				id := fmt.Sprintf("client%d-%d", i, j)
				n := []int{10, 11, 5000, 5001, 16_384, 20_001, 70_000, 70_001, 200_001}[random.IntN(9)]
				up := []int{0, 0, 10, 5000, 70_000, 200_000}[random.IntN(6)]
				all := strings.Repeat(id+";", up/len(id)+1)[:up]
				version := "1.1"
				if random.IntN(10) == 0 {
					version = "1.0"
				}
				head := fmt.Sprintf("POST /%d HTTP/%s\r\nHost: a\r\nX-Id: %s\r\n", n, version, id)
				leave := random.IntN(8) == 0
				if random.IntN(2) == 0 || version == "1.0" {
					head += fmt.Sprintf("Content-Length: %d\r\n\r\n", up)
				} else {
					head += "Transfer-Encoding: chunked\r\n\r\n"
					all = chunked(all, 1+random.IntN(9000)) + "0\r\n\r\n"
				}
				if leave && random.IntN(2) == 0 && len(all) > 0 {
					_, _ = io.WriteString(c.conn, head+all[:random.IntN(len(all))])
					c.close()
					c = nil
					continue
				}
				if _, err := io.WriteString(c.conn, head+all); err != nil {
					t.Error(err)
					return
				}
				got := c.head()
				if v, _ := field(got, "X-Id"); v != id || statusOf(got) != 200 {
					t.Errorf("%s: %q", id, got)
					return
				}
				if leave {
					c.close()
					c = nil
					continue
				}
				var body, trailer string
				if _, framed := field(got, "Content-Length"); !framed && version == "1.0" {
					body, _ = c.rest()
				} else {
					body, trailer = c.body(got)
				}
				if body != strings.Repeat(id+";", n/len(id)+1) || trailer != "" && trailer != "X-Trailer: "+id+"\r\n" {
					t.Errorf("%s: %q %q", id, abbreviate(body), trailer)
					return
				}
				if version == "1.0" {
					c.close()
					c = nil
				}
			}
			if c != nil {
				c.close()
			}
		})
	}
	clients.Wait()
	once(t, "all exchanges have ended", func() bool { return g.active() == 0 })
	if n := g.metric(`sluice_requests_in_flight{route="r"}`); n != 0 {
		t.Errorf("%v requests are in flight", n)
	}
}

func TestTLSBackend(t *testing.T) {
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write(b)
	}))
	hs.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	hs.StartTLS()
	defer hs.Close()
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services:
  s: {protocol: https, endpoints: ["%s"], tls: {insecure_skip_verify: true}, timeouts: {response: 100ms}, circuit_breaker: off}
  strict: {protocol: https, endpoints: ["%[1]s"], retries: off}
routes:
  r: {match: {paths: [/]}, service: s, streaming: true}
  strict: {match: {paths: [/strict]}, service: strict}
`, hs.URL))
	c := g.client()
	for _, n := range []int{0, 10, 20_000, 70_000, 300_000} {
		c.post("/", text(n))
		c.wants(200, text(n))
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(n), 5000) + "0\r\n\r\n")
		c.wants(200, text(n))
	}
	c.request("GET /slow")
	c.refused(504, "upstream_timeout")
	c.request("GET /strict")
	c.refused(502, "upstream_connect")
	// The backend closes what is idle.
	hs.CloseClientConnections()
	c.post("/", "once")
	c.wants(200, "once")
}

func TestUnixBackend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	hs := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})}}
	hs.Start()
	defer hs.Close()
	g := serve(t, gateway.Options{}, fmt.Sprintf("services: {s: {endpoints: [\"unix:%s\"]}}\nroutes: {r: {match: {paths: [/]}, service: s}}\n", path))
	c := g.client()
	for range 3 {
		c.post("/", text(70_000))
		c.wants(200, text(70_000))
	}
}

func TestOverload(t *testing.T) {
	s, begun, _ := silent(t)
	g := forward(t, s, "connections: {max_per_endpoint: 1}", "", "")
	first := g.client()
	first.request("GET /")
	within(t, "the request arrives", begun)
	c := g.client()
	for range 1 {
		c.request("GET /")
		if head := c.refused(503, "upstream_overload"); !strings.Contains(head, "Retry-After: 1\r\n") {
			t.Errorf("%q", head)
		}
	}
	if got := string(g.Health()); !strings.Contains(got, `"s":"closed"`) {
		t.Errorf("%s", got)
	}
}
