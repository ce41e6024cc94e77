package listener

import (
	"bufio"
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// readBoth reads what a client sends in one piece as a plain request and as any other. What is plain must be valid, and the
// same, for strict and the engine's parser. It reports whether it was plain.
func readBoth(t *testing.T, b []byte) bool {
	t.Helper()
	pool := exchange.NewPool(exchange.NewClock(nil))
	x := pool.Get(nil, nil, func(*exchange.Exchange) {})
	r := readPlain(x, b)
	if r.size == 0 {
		return false
	}
	var req fasthttp.Request
	r.present(x, &req)

	var s strict
	if n := s.feed(b[:r.size]); n != r.size || s.bad != nil {
		t.Fatalf("%q was plain, and strict lets %d of %d bytes pass: %v", b, n, r.size, s.bad)
	}
	if s.state != atStart && s.state != inBody || int(s.left) != r.length || s.http10 || s.chunked || s.upgrade {
		t.Fatalf("%q was plain, and strict is in %d with %d bytes of the body to come", b, s.state, s.left)
	}
	y := pool.Get(new(fasthttp.Request), new(fasthttp.Response), func(*exchange.Exchange) {})
	h := &y.Request.Header
	if err := h.Read(bufio.NewReaderSize(bytes.NewReader(b[:r.size]), 64<<10)); err != nil {
		t.Fatalf("%q was plain, and the engine says %v", b, err)
	}
	if reject := readHead(y, h); reject != nil {
		t.Fatalf("%q was plain, and refused: %v", b, reject)
	}
	if y.Request.URI(); h.ConnectionClose() || !h.IsHTTP11() || max(h.ContentLength(), 0) != r.length {
		t.Fatalf("%q was plain with a body of %d", b, r.length)
	}
	if string(h.Method()) != string(req.Header.Method()) || string(h.RequestURI()) != string(req.Header.RequestURI()) || string(h.Host()) != string(req.Header.Host()) {
		t.Fatalf("%q: the engine has %q %q %q", b, req.Header.Method(), req.Header.RequestURI(), req.Header.Host())
	}
	if string(x.Path) != string(y.Path) || string(x.Query) != string(y.Query) || string(x.ForwardedHost) != string(y.ForwardedHost) || len(x.Fields) != len(y.Fields) {
		t.Fatalf("%q: path %q, query %q, host %q, %d fields; want %q, %q, %q, %d", b, x.Path, x.Query, x.ForwardedHost, len(x.Fields),
			y.Path, y.Query, y.ForwardedHost, len(y.Fields))
	}
	for i := range x.Fields {
		if f, g := &x.Fields[i], &y.Fields[i]; string(f.Name) != string(g.Name) || string(f.Value) != string(g.Value) || f.Kind != g.Kind {
			t.Fatalf("%q: field %q: %q, want %q: %q", b, f.Name, f.Value, g.Name, g.Value)
		}
	}
	return true
}

func TestPlain(t *testing.T) {
	f := func(head string, want bool) {
		t.Helper()
		if got := readBoth(t, []byte(head)); got != want {
			t.Errorf("%q: plain is %v", head, got)
		}
		for i := range len(head) - 1 {
			if readBoth(t, []byte(head[:i])) {
				t.Errorf("%q is plain without its end", head[:i])
			}
		}
	}
	const line, host = "GET / HTTP/1.1\r\n", "Host: a\r\n"
	f(line+host+"\r\n", true)
	f("PURGE /a/b?c=d?e HTTP/1.1\r\nhOsT:api.example.com:8080 \r\nX: \r\nY:  a b  \r\nConnection: Keep-Alive\r\n\r\n", true)
	f("POST /?a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 012\r\nTE: trailers\r\n\r\n", true)
	f("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false)
	f("GET / HTTP/1.0\r\n"+host+"\r\n", false)
	f("GET http://a/ HTTP/1.1\r\n"+host+"\r\n", false)
	f("GET //a HTTP/1.1\r\n"+host+"\r\n", false)
	f("GET /#a HTTP/1.1\r\n"+host+"\r\n", false)
	f("OPTIONS * HTTP/1.1\r\n"+host+"\r\n", false)
	f("CONNECT / HTTP/1.1\r\n"+host+"\r\n", false)
	f(line+"\r\n", false)
	f(line+"Host:\r\n\r\n", false)
	f(line+"Host: [::1]\r\n\r\n", false)
	f(line+"Host: a:\r\n\r\n", true)
	f(line+"Host: a:99999\r\n\r\n", false)
	f(line+"Host: a%41\r\n\r\n", false) // fasthttp's server refuses it, its parser alone does not
	f(line+"Host: a,b:80\r\n\r\n", false)
	f(line+host+host+"\r\n", false)
	f(line+host+"Connection: close\r\n\r\n", false)
	f(line+host+"Upgrade: h2c\r\n\r\n", false)
	f(line+host+"Expect: 100-continue\r\n\r\n", false)
	f(line+host+"Transfer-Encoding: chunked\r\n\r\n", false)
	f(line+host+"Trailer: X\r\n\r\n", false)
	f(line+host+"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", false)
	f(line+host+"Content-Length: 1,1\r\n\r\n", false)
	f(line+host+"X: a\tb\r\n\r\n", false)
	f(line+host+"X : a\r\n\r\n", false)
	f(line+host+" folded\r\n\r\n", false)
	f(line+host+"X: a\nY: b\r\n\r\n", false)
}

func FuzzPlain(f *testing.F) {
	f.Add([]byte("GET /a?b HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, b []byte) { readBoth(t, b) })
}

func TestPlainAtRandom(t *testing.T) {
	found := 0
	for seed := range uint64(20_000) {
		w := scribe{r: rand.New(rand.NewPCG(seed, 5))}
		w.request()
		for range w.r.IntN(3) {
			w.mutate()
		}
		if readBoth(t, w.b) {
			found++
		}
	}
	if found < 100 {
		t.Errorf("%d requests were plain", found)
	}
}
