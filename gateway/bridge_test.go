package gateway_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"sluice/gateway"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/snapshot"
)

// bridge is a protocol whose requests are streams: HTTP/2 or HTTP/3.
type bridge struct {
	major  int
	scheme string
	// listener is the setting of a listener that speaks it, given the inside of a tls block.
	listener func(certificate string) string
	client   func(g *gate) *http.Client
	// isReset tells the error of a stream that was reset.
	isReset func(error) bool
}

var overHTTP2 = bridge{
	major: 2, scheme: "http",
	listener: func(string) string { return `{address: "127.0.0.1:0", h2c: true}` },
	client:   (*gate).http2Client,
	isReset:  func(err error) bool { var e http2.StreamError; return errors.As(err, &e) },
}

var overHTTP3 = bridge{
	major: 3, scheme: "https",
	listener: func(cert string) string {
		return fmt.Sprintf("{address: %q, http3: true, tls: {%s}}", freeBoth(), cert)
	},
	client:  (*gate).http3Client,
	isReset: func(err error) bool { var e *http3.Error; return errors.As(err, &e) },
}

// bridges runs a test over each of them.
func bridges(t *testing.T, f func(t *testing.T, b bridge)) {
	t.Helper()
	t.Run("HTTP2", func(t *testing.T) { f(t, overHTTP2) })
	t.Run("HTTP3", func(t *testing.T) { f(t, overHTTP3) })
}

// serve runs a gateway that speaks it; text is the configuration but for listeners.
func (b bridge) serve(t testing.TB, o gateway.Options, text string) *gate {
	t.Helper()
	a := certstest.New(t)
	cert := certificate(a.Issue("api", certstest.Leaf{CN: "api", DNS: []string{"api.example"}}))
	g := serve(t, o, fmt.Sprintf("listeners: {main: %s}\n", b.listener(cert))+text)
	g.authority = a
	return g
}

// forward runs a gateway that speaks it in front of s.
func (b bridge) forward(t testing.TB, s *server, route, more string) *gate {
	t.Helper()
	return b.serve(t, gateway.Options{}, forwarding(s, "", route, more))
}

// request makes a request to the gateway.
func (b bridge) request(g *gate, method, target string, body io.Reader, headers ...string) *http.Request {
	g.t.Helper()
	req := g.request(method, target, body, headers...)
	req.URL.Scheme = b.scheme
	return req
}

// get sends a request and reads the answer.
func (g *gate) get2(c *http.Client, req *http.Request) (*http.Response, string) {
	g.t.Helper()
	res, err := c.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res, string(b)
}

func (g *gate) request(method, target string, body io.Reader, headers ...string) *http.Request {
	g.t.Helper()
	req, err := http.NewRequest(method, "http://"+g.addr+target, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return req
}

// freeBoth returns an address whose port is free in TCP and in UDP.
func freeBoth() string {
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		addr := ln.Addr().String()
		udp, err := net.ListenPacket("udp", addr)
		_ = ln.Close()
		if err == nil {
			_ = udp.Close()
			return addr
		}
	}
}

// prior is a gateway that takes HTTP/2 by prior knowledge, in front of s.
func prior(t testing.TB, s *server, route, more string) *gate {
	t.Helper()
	return overHTTP2.forward(t, s, route, more)
}

// http2Client is a client that speaks HTTP/2 alone.
func (g *gate) http2Client() *http.Client {
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, c *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// http3Client is a client that speaks HTTP/3 alone.
func (g *gate) http3Client() *http.Client { return g.http3ClientWith(&tls.Config{}) }

func (g *gate) http3ClientWith(c *tls.Config) *http.Client {
	c.RootCAs, c.ServerName = g.authority.Pool(), "api.example"
	tr := &http3.Transport{TLSClientConfig: c, DisableCompression: true, QUICConfig: &quic.Config{MaxIdleTimeout: time.Minute}}
	g.t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: patience}
}

// What reaches the backend is what would over HTTP/1.1.
func TestBridgeSuccess(t *testing.T) {
	f := func(t *testing.T, b bridge, g *gate, c *http.Client) {
		f := func(method, target, body string, want ...string) {
			t.Helper()
			var r io.Reader
			if body != "" {
				r = strings.NewReader(body)
			}
			req := b.request(g, method, target, r, "X-A: 1", "X-A: 2", "Cookie: a=1; b=2", "X-User-ID: root", "X-Forwarded-For: 1.2.3.4")
			req.Host = "api.example:8443"
			res, got := g.get2(c, req)
			if res.ProtoMajor != b.major || res.StatusCode != 207 || res.Header.Get("X-One") != "1" || res.Header.Get("X-Hop") != "" || res.Header.Get("Connection") != "" ||
				!slices.Equal(res.Header["Set-Cookie"], []string{"a=b", "c=d"}) || res.Header.Get("Strict-Transport-Security") != "max-age=3600" || res.Header.Get("Via") == "" {
				t.Errorf("%s %s: %v", method, target, res)
			}
			if strings.Contains(got, "root") || strings.Contains(got, "1.2.3.4") {
				t.Errorf("%s %s: the client's own fields passed:\n%s", method, target, got)
			}
			for _, w := range append(want, "X-Forwarded-Proto: https\r\n", "X-Forwarded-Host: api.example:8443\r\n", "X-Forwarded-Port: 8443\r\n", "X-Forwarded-For: 127.0.0.1\r\n", "X-A: 1\r\n", "X-A: 2\r\n", "Cookie: a=1; b=2\r\n") {
				if !strings.Contains(got, w) {
					t.Errorf("%s %s: no %q in\n%s", method, target, w, got)
				}
			}
			if body == "" && (strings.Contains(got, "Transfer-Encoding") || strings.Contains(got, "Content-Length")) {
				t.Errorf("%s %s: the backend is promised a body:\n%s", method, target, got)
			}
		}
		f("GET", "/a/b?c=%20d", "", "GET /a/b?c=%20d HTTP/1.1\r\n")
		f("POST", "/p", "something", "POST /p HTTP/1.1\r\n", "Content-Length: 9\r\n", "\r\n\r\nsomething")
		f("POST", "/large", text(300_000), "Content-Length: 300000\r\n", "\r\n\r\n"+text(300_000))
		f("GET", "/body", "something", "Content-Length: 9\r\n", "\r\n\r\nsomething")
		f("DELETE", "/x", "", "DELETE /x HTTP/1.1\r\n")
		f("OPTIONS", "/x", "", "OPTIONS /x HTTP/1.1\r\n")
	}
	a := certstest.New(t)
	s := answering(t, func(head, body string) string {
		echo := head + body
		return fmt.Sprintf("HTTP/1.1 207 Multi\r\nContent-Length: %d\r\nX-One: 1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n%s", len(echo), echo)
	})
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}})) + ", hsts: 1h"
	g := serve(t, gateway.Options{}, "listeners: {main: "+overHTTP3.listener(cert)+"}\n"+forwarding(s, "", "", ""))
	g.authority = a
	t.Run("HTTP2", func(t *testing.T) {
		tr := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool(), ServerName: "api.example"}}
		defer tr.CloseIdleConnections()
		secure := overHTTP2
		secure.scheme = "https"
		f(t, secure, g, &http.Client{Transport: tr, Timeout: patience})
	})
	t.Run("HTTP3", func(t *testing.T) { f(t, overHTTP3, g, g.http3Client()) })
}

func TestBridgeAnswers(t *testing.T) {
	bodies := map[string]string{
		"/empty": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"/none":  "HTTP/1.1 204 No Content\r\n\r\n", "/same": "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
		"/small": okAnswer, "/untyped": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
		"/large":   "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + text(300_000),
		"/middle":  "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + text(5000),
		"/chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(100_000), 7000) + "0\r\n\r\n",
	}
	s := answering(t, func(head, _ string) string {
		target := strings.Fields(head)[1]
		switch {
		case target == "/unknown":
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
		case strings.HasPrefix(head, "HEAD "):
			return "HTTP/1.1 200 OK\r\nContent-Length: 77\r\nContent-Type: text/x\r\n\r\n"
		}
		return bodies[target]
	})
	bridges(t, func(t *testing.T, b bridge) {
		g := b.serve(t, gateway.Options{}, strings.Replace(forwarding(s, "", "", ""),
			"routes: {", "routes: {own: {match: {paths: [/own]}, respond: {status: 200, body: own, content_type: text/own}}, ", 1))
		c := b.client(g)
		f := func(method, target string, status int, length int64, body string) *http.Response {
			t.Helper()
			res, got := g.get2(c, b.request(g, method, target, nil))
			if res.StatusCode != status || res.ContentLength != length || got != body {
				t.Errorf("%s %s: %d, length %d, %s", method, target, res.StatusCode, res.ContentLength, abbreviate(got))
			}
			return res
		}
		f("GET", "/empty", 200, 0, "")
		f("GET", "/none", 204, 0, "")
		if res, body := g.get2(c, b.request(g, "GET", "/same", nil)); res.StatusCode != 304 || body != "" || res.Header.Get("Etag") != `"x"` || res.Header.Get("Content-Length") != "" {
			t.Error(res)
		}
		f("GET", "/small", 200, 2, "ok")
		if res := f("GET", "/untyped", 200, 6, "<html>"); res.Header.Get("Content-Type") != "" {
			t.Errorf("a type was made up: %v", res.Header)
		}
		f("GET", "/middle", 200, 5000, text(5000))
		f("GET", "/large", 200, 300_000, text(300_000))
		f("GET", "/chunked", 200, -1, text(100_000))
		f("HEAD", "/large", 200, 77, "")
		f("HEAD", "/unknown", 200, -1, "")
		if res := f("GET", "/own", 200, 3, "own"); res.Header.Get("Date") == "" {
			t.Errorf("no date: %v", res.Header)
		}
		f("HEAD", "/own", 200, 3, "")
		if res, body := g.get2(c, b.request(g, "GET", "/own/%2f", nil)); res.StatusCode != 400 || res.Header.Get("Content-Type") != "application/problem+json" || res.ContentLength != int64(len(body)) {
			t.Errorf("%v %s", res, body)
		}
	})
}

func TestBridgeTrailers(t *testing.T) {
	bridges(t, func(t *testing.T, b bridge) {
		seen := make(chan string, 1)
		s := backend(t, func(p *peer) {
			head := p.head()
			body, trailer := p.body(head)
			seen <- body + "|" + trailer
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" + "3\r\nabc\r\n")
			p.send("0\r\nX-Sum: 42\r\nX-Unannounced: 7\r\n\r\n")
		})
		g := b.forward(t, s, "", "")
		req := b.request(g, "POST", "/", io.MultiReader(strings.NewReader("one"), strings.NewReader("two")))
		req.Trailer = http.Header{"X-Digest": {"d"}}
		res, body := g.get2(b.client(g), req)
		if body != "abc" || res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Unannounced") != "7" {
			t.Errorf("%q, trailers %v", body, res.Trailer)
		}
		if got := within(t, "the request", seen); got != "onetwo|X-Digest: d\r\n" {
			t.Errorf("the backend saw %q", got)
		}
	})
}

func TestBridgeInterim(t *testing.T) {
	s := answering(t, func(string, string) string {
		return "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Final: 1\r\n\r\nok"
	})
	bridges(t, func(t *testing.T, b bridge) {
		g := b.forward(t, s, "", "")
		var hints []string
		req := b.request(g, "GET", "/", nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, h.Get("Link")))
			return nil
		}}))
		res, body := g.get2(b.client(g), req)
		if body != "ok" || res.Header.Get("Link") != "" || res.Header.Get("X-Final") != "1" || !slices.Equal(hints, []string{"103</a.css>"}) {
			t.Errorf("%v %q %v", res.Header, body, hints)
		}
	})
}

// A client that waits to be asked for its body is asked once it is wanted.
func TestBridgeExpect(t *testing.T) {
	s := answering(t, func(head, body string) string {
		if _, ok := field(head, "Expect"); ok {
			return reply(417, "")
		}
		return reply(200, body)
	})
	bridges(t, func(t *testing.T, b bridge) {
		g := b.serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes:
  open: {match: {paths: [/open]}, service: s}
  held: {match: {paths: [/held]}, service: s, policies: {waf: {}}}
  shut: {match: {paths: [/shut]}, service: s, policies: {api_key: {}}}
`, s.addr))
		c := b.client(g)
		f := func(target string, status int, want string, asks bool) {
			t.Helper()
			asked := make(chan struct{})
			once := sync.OnceFunc(func() { close(asked) })
			body := &patient{c: asked, r: strings.NewReader("hello")}
			req := b.request(g, "POST", target, body, "Expect: 100-continue", "Content-Type: text/plain")
			req.ContentLength = 5
			was := false
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got100Continue: func() { was = true; once() },
				Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
					if code == 100 {
						was = true
						once()
					}
					return nil
				},
			}))
			res, err := c.Do(req)
			once()
			if err != nil {
				t.Fatalf("%s: %v", target, err)
			}
			got, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != status || want != "" && string(got) != want || was != asks {
				t.Errorf("%s: %d %q, asked %t", target, res.StatusCode, got, was)
			}
		}
		f("/open", 200, "hello", true)
		f("/held", 200, "hello", true)
		f("/shut", 401, "", false)
	})
}

// patient is a body that is not there before c is closed.
type patient struct {
	c chan struct{}
	r io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	<-p.c
	return p.r.Read(b)
}

// Chunks pass as they come, in both directions at once.
func TestBridgeBothWays(t *testing.T) {
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			chunk, ok := p.chunk()
			if !ok {
				break
			}
			p.send(fmt.Sprintf("%x\r\n%s\r\n", len(chunk), chunk))
		}
		_ = p.bytes(2)
		p.send("0\r\n\r\n")
	})
	bridges(t, func(t *testing.T, b bridge) {
		g := b.forward(t, s, "streaming: true", "")
		r, w := io.Pipe()
		res, err := b.client(g).Do(b.request(g, "POST", "/", r))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		for i := range 20 {
			message := "message " + strconv.Itoa(i)
			if _, err := io.WriteString(w, message); err != nil {
				t.Fatal(err)
			}
			n, err := io.ReadFull(res.Body, buf[:len(message)])
			if err != nil || string(buf[:n]) != message {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
		_ = w.Close()
		if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	})
}

// A hundred requests at once on one connection, each with a MiB up and down.
func TestBridgeVolume(t *testing.T) {
	const n = 1 << 20
	s := backend(t, func(p *peer) {
		_ = p.conn.SetDeadline(time.Time{})
		for head := p.head(); head != ""; head = p.head() {
			body, _ := p.body(head)
			p.send(reply(200, body))
		}
	})
	bridges(t, func(t *testing.T, b bridge) {
		g := b.forward(t, s, "", "")
		c := b.client(g)
		c.Timeout = 0
		mine := func(i int) string { return strconv.Itoa(i) + text(n) }
		f := func(i int, body string) {
			res, err := c.Do(b.request(g, "POST", "/", strings.NewReader(body)))
			if err != nil {
				t.Errorf("%d: %v", i, err)
				return
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || string(got) != body || res.ProtoMajor != b.major {
				t.Errorf("%d: %s %q, %v", i, res.Proto, abbreviate(string(got)), err)
			}
		}
		f(0, mine(0))
		var all sync.WaitGroup
		for i := range 100 {
			body := strconv.Itoa(i) + text(10_000)
			if i%25 == 0 {
				body = mine(i)
			}
			all.Go(func() { f(i, body) })
		}
		all.Wait()
		if n := g.connections(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// connections counts those of clients that are open.
func (g *gate) connections() (n int) {
	for _, l := range g.Listeners() {
		n += l.Active + l.Idle
	}
	return n
}

func TestBridgeTruncated(t *testing.T) {
	s := backend(t, func(p *peer) {
		if p.head() != "" {
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + text(70_000))
		}
	})
	bridges(t, func(t *testing.T, b bridge) {
		g := b.forward(t, s, "", "")
		res, err := b.client(g).Do(b.request(g, "GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if !b.isReset(err) || len(got) > 70_000 {
			t.Errorf("%d bytes, then %v", len(got), err)
		}
	})
}

func TestBridgeBodyTooLarge(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	bridges(t, func(t *testing.T, b bridge) {
		g := b.forward(t, s, "", "limits: {max_body_size: 1000}\n")
		f := func(body io.Reader, want int) {
			t.Helper()
			res, err := b.client(g).Do(b.request(g, "POST", "/", body))
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%d, want %d", res.StatusCode, want)
			}
		}
		f(strings.NewReader(text(1000)), 200)
		f(strings.NewReader(text(1001)), 413)
		f(io.MultiReader(strings.NewReader(text(900)), strings.NewReader(text(900))), 413)
	})
}

func TestBridgeClientGone(t *testing.T) {
	bridges(t, func(t *testing.T, b bridge) {
		s, begun, ended := silent(t)
		g := b.forward(t, s, "streaming: true", "")
		f := func(method string, body io.Reader) {
			t.Helper()
			req := b.request(g, method, "/", body)
			ctx, cancel := context.WithCancel(req.Context())
			result := make(chan error, 1)
			go func() {
				_, err := b.client(g).Do(req.WithContext(ctx))
				result <- err
			}()
			within(t, "the backend has the request", begun)
			cancel()
			within(t, "the client is off", result)
			within(t, "the backend is let go", ended)
		}
		f("GET", nil)
		f("POST", strings.NewReader("small"))
		f("POST", strings.NewReader(text(100_000)))
		r, w := io.Pipe()
		defer func() { _ = w.Close() }()
		go func() { _, _ = io.WriteString(w, "a part") }()
		f("POST", r)
		once(t, "the exchanges have ended", func() bool { return g.active() == 0 })
		if n := g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="499"}`); n != 1 {
			t.Errorf("%v requests with 499", n)
		}
	})
}

// A fault in a hook ends its request, not the connection.
func TestBridgePanic(t *testing.T) {
	type settings struct{}
	broken := policy.Define("bot_filter", policy.Guard, func(*policy.Build, *settings) (policy.Hooks, error) {
		return policy.Hooks{Request: func(x *exchange.Exchange) error {
			if len(x.RequestHeader("X-Panic")) > 0 {
				panic("BUG: on purpose")
			}
			return nil
		}}, nil
	})
	s := answering(t, func(string, string) string { return okAnswer })
	bridges(t, func(t *testing.T, b bridge) {
		var log locked
		g := b.serve(t, gateway.Options{
			Registry: snapshot.NewRegistry([]*policy.Definition{broken}, nil), Log: slog.New(slog.NewTextHandler(&log, nil)),
		}, forwarding(s, "", "", "policies: {bot_filter: {}}\n"))
		c := b.client(g)
		for range 2 {
			if res, body := g.get2(c, b.request(g, "GET", "/", nil, "X-Panic: 1")); res.StatusCode != 500 || !strings.Contains(body, "internal_error") {
				t.Errorf("%d %s", res.StatusCode, body)
			}
			if res, _ := g.get2(c, b.request(g, "GET", "/", nil)); res.StatusCode != 200 {
				t.Errorf("%d", res.StatusCode)
			}
		}
		if g.connections() != 1 || !strings.Contains(log.String(), "BUG: on purpose") {
			t.Errorf("%d connections; %s", g.connections(), log.String())
		}
	})
}

// Every kind of policy acts on requests over streams as on others.
func TestBridgePolicies(t *testing.T) {
	s := answering(t, func(head, body string) string {
		echo := head + body
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Type: text/plain\r\nX-Backend: b\r\nContent-Length: %d\r\n\r\n%s", len(echo), echo)
	})
	bridges(t, func(t *testing.T, b bridge) {
		hash := sha256.Sum256([]byte("secret"))
		accessLog := filepath.Join(t.TempDir(), "access.log")
		g := b.serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
consumers: {alice: {groups: [staff], api_keys: [{id: k, hash: "sha256:%s"}]}}
policies: {access_log: {path: %q, format: combined}}
routes:
  any: {match: {paths: [/]}, service: s}
  key: {match: {paths: [/key]}, service: s, policies: {api_key: {}, authorize: {groups: {allow: [staff]}}}}
  jwt: {match: {paths: [/jwt]}, service: s, policies: {jwt: {secret: a-secret-of-at-least-thirty-two-bytes}}}
  basic: {match: {paths: [/basic]}, service: s, policies: {basic_auth: {}}}
  hmac: {match: {paths: [/hmac]}, service: s, policies: {hmac_auth: {}}}
  address: {match: {paths: [/address]}, service: s, policies: {ip_filter: {deny: [127.0.0.0/8]}}}
  cors: {match: {paths: [/cors]}, service: s, policies: {cors: {origins: ["https://app.example"]}}}
  size: {match: {paths: [/size]}, service: s, policies: {request_size: {max: 10B}}}
  bots: {match: {paths: [/bots]}, service: s, policies: {bot_filter: {deny: [scraper]}}}
  limit: {match: {paths: [/limit]}, service: s, policies: {rate_limit: {requests: 1, per: 1h}}}
  cache: {match: {paths: [/cache]}, service: s, policies: {cache: {}}}
  waf: {match: {paths: [/waf]}, service: s, policies: {waf: {}}}
  change:
    match: {paths: [/change]}
    service: s
    policies: {request_transform: {add: {headers: {X-Added: "1"}}}, response_transform: {remove: {headers: [X-Backend]}, add: {headers: {X-Gateway: g}}}}
  turns: {match: {paths: [/turns]}, service: s, policies: {concurrency: {max: 1}}}
  away: {match: {paths: [/away]}, redirect: {to: "https://x.example${uri}"}}
`, s.addr, hex.EncodeToString(hash[:]), accessLog))
		c := b.client(g)
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		f := func(method, target, body string, status int, header, want string, headers ...string) {
			t.Helper()
			var r io.Reader
			if body != "" {
				r = strings.NewReader(body)
			}
			res, got := g.get2(c, b.request(g, method, target, r, headers...))
			if res.StatusCode != status || header != "" && !strings.Contains(res.Header.Get(header), want) {
				t.Errorf("%s %s: %d %v\n%s", method, target, res.StatusCode, res.Header, abbreviate(got))
			}
			if res.Header.Get("X-Correlation-Id") == "" {
				t.Errorf("%s %s: no correlation id: %v", method, target, res.Header)
			}
		}
		f("GET", "/key", "", 401, "Content-Type", "problem+json")
		f("GET", "/key", "", 200, "", "", "X-API-Key: secret")
		f("GET", "/jwt", "", 401, "Www-Authenticate", "Bearer")
		f("GET", "/basic", "", 401, "Www-Authenticate", "Basic")
		f("GET", "/hmac", "", 401, "", "")
		f("GET", "/address", "", 403, "", "")
		f("OPTIONS", "/cors", "", 204, "Access-Control-Allow-Origin", "https://app.example", "Origin: https://app.example", "Access-Control-Request-Method: GET")
		f("POST", "/size", "more than ten bytes", 413, "", "")
		f("GET", "/bots", "", 403, "", "", "User-Agent: scraper")
		f("GET", "/limit", "", 200, "Ratelimit", "r=0")
		f("GET", "/limit", "", 429, "Retry-After", "")
		f("GET", "/cache", "", 200, "Cache-Status", "fwd")
		f("GET", "/cache", "", 200, "Cache-Status", "hit")
		f("GET", "/waf?q=%3Cscript%3Ealert(1)%3C/script%3E", "", 403, "", "")
		f("GET", "/change", "", 200, "X-Gateway", "g")
		f("GET", "/turns", "", 200, "", "")
		f("GET", "/away/x", "", 308, "Location", "https://x.example/away/x")
		want := fmt.Sprintf(`"GET /away/x HTTP/%d.0" 308`, b.major)
		once(t, "the access log tells the protocol", func() bool {
			log, _ := os.ReadFile(accessLog)
			return strings.Contains(string(log), want)
		})
	})
}

// wire is a request that engines have to refuse, or not, by its head alone.
type wire struct {
	name   string
	fields []string
	// h2 and h3 are what the client sees: a status, or how its stream or its connection ends.
	h2, h3 string
}

// plainFields are those of a request that is in order.
func plainFields() []string {
	return []string{":method", "GET", ":scheme", "http", ":authority", "x.example", ":path", "/p"}
}

func fieldsWith(fields ...string) []string { return append(plainFields(), fields...) }

// malformed lists heads and what becomes of them (RFC 9113, section 8; RFC 9114,
// section 4). Heads are bounded by 4 KiB.
func malformed() (all []wire) {
	const (
		reset2 = "RST_STREAM PROTOCOL_ERROR"
		reset3 = "reset H3_MESSAGE_ERROR"
	)
	add := func(name, h2, h3 string, fields []string) { all = append(all, wire{name, fields, h2, h3}) }
	both := func(name, want string, fields []string) { add(name, want, want, fields) }
	reset := func(name string, fields []string) { add(name, reset2, reset3, fields) }
	without := func(name string, fields ...string) []string {
		get := plainFields()
		i := slices.Index(get, name)
		return append(slices.Delete(get, i, i+2), fields...)
	}
	replaced := func(name, value string) []string {
		get := plainFields()
		get[slices.Index(get, name)+1] = value
		return get
	}
	get, with := plainFields(), fieldsWith
	both("good", "200", get)
	both("host beside authority", "200", with("host", "x.example"))
	both("host instead of authority", "200", without(":authority", "host", "x.example"))
	both("te trailers", "200", with("te", "trailers"))
	both("unknown method", "200", replaced(":method", "FROB"))

	reset("no :method", without(":method"))
	reset("no :path", without(":path"))
	add("no :scheme", reset2, "200", without(":scheme")) // HTTP/3 has one scheme
	for _, name := range []string{":method", ":scheme", ":path"} {
		reset("twice "+name, with(name, "GET"))
	}
	add("no host at all", "400", reset3, without(":authority"))
	reset("other host", with("host", "y.example"))
	reset("two hosts", without(":authority", "host", "x.example", "host", "x.example"))
	reset("userinfo", replaced(":authority", "u@x.example"))
	add("bad authority", "400|"+reset2, "400", replaced(":authority", "x y"))
	add("space before authority", "400|"+reset2, "400", replaced(":authority", " x.example"))
	add("path in authority", "400|"+reset2, "400", replaced(":authority", "x.example/y"))
	reset("empty path", replaced(":path", ""))
	reset("relative path", replaced(":path", "p"))
	reset("absolute path", replaced(":path", "http://x.example/p"))
	add("space in path", "400|"+reset2, "400|"+reset3, replaced(":path", "/p HTTP/1.1"))
	both("fragment", "400", replaced(":path", "/p#q"))
	both("encoded slash", "400", replaced(":path", "/p%2fq"))
	both("encoded NUL", "400", replaced(":path", "/p%00q"))
	both("path that leaves the root", "400", replaced(":path", "/../p"))
	reset("line break in path", replaced(":path", "/p\r\nx: y"))
	add("space in method", "400|"+reset2, reset3, replaced(":method", "GET /"))
	add("line break in method", "400|"+reset2, reset3, replaced(":method", "GET / HTTP/1.1\r\nx: y"))
	add("asterisk", "400|404|405", reset3, replaced(":path", "*"))
	reset("unknown pseudo", with(":frob", "x"))
	reset("response pseudo", with(":status", "200"))
	reset("pseudo behind field", append([]string{"a", "b"}, get...))

	reset("upper case", with("X-Upper", "1"))
	reset("space in name", with("x y", "1"))
	reset("colon in name", with("x:y", "1"))
	reset("empty name", with("", "1"))
	reset("line break in name", with("x\r\ny", "1"))
	reset("line break in value", with("x", "1\r\nhost: y"))
	reset("line feed in value", with("x", "1\ntransfer-encoding: chunked"))
	reset("nul in value", with("x", "1\x00"))
	for _, name := range []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"} {
		add(name, "400", reset3, with(name, "chunked"))
	}
	add("te gzip", "400", reset3, with("te", "gzip"))

	both("connect", "400", []string{":method", "CONNECT", ":authority", "x.example:443"})
	reset("connect with path", replaced(":method", "CONNECT"))
	add("extended connect", reset2, "501", append(replaced(":method", "CONNECT"), ":protocol", "websocket"))
	reset("protocol without connect", with(":protocol", "websocket"))

	both("length without body", "400", with("content-length", "5"))
	add("one length twice", "400", "200", with("content-length", "0", "content-length", "0")) // the engine takes it for one
	add("two lengths", "400|"+reset2, reset3, with("content-length", "0", "content-length", "1"))
	add("bad length", "400", reset3, with("content-length", "+0"))
	add("negative length", "400|"+reset2, reset3, with("content-length", "-1"))
	add("list of lengths", "400|"+reset2, reset3, with("content-length", "0, 0"))
	add("huge length", "400|"+reset2, reset3, with("content-length", "99999999999999999999"))

	both("head too large", "431", with("a", text(2000), "b", text(2000), "c", text(2000)))
	add("field too large", "431|GOAWAY COMPRESSION_ERROR", "431", with("x", text(8000)))
	return all
}
