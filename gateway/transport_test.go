package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
)

// patience bounds every wait of these tests; none of them comes near it
// unless it fails.
const patience = 10 * time.Second

// peer is one end of a connection, spoken raw.
type peer struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	// serves is set for a backend's end, which has a goroutine of its own.
	serves bool
}

func newPeer(t testing.TB, c net.Conn) *peer {
	_ = c.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, conn: c, r: bufio.NewReaderSize(c, 128<<10)}
}

// fail ends the test, or the goroutine of a backend: what a backend can not
// read shows at the client.
func (p *peer) fail(format string, args ...any) {
	p.t.Helper()
	_ = p.conn.Close()
	if p.serves {
		p.t.Logf("backend: "+format, args...)
		runtime.Goexit()
	}
	p.t.Fatalf(format, args...)
}

func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, s); err != nil {
		p.fail("cannot send: %v", err)
	}
}

// head reads a message head with its empty line; "" at the end of the connection.
func (p *peer) head() string {
	p.t.Helper()
	var b strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || b.Len() == 0 && (errors.Is(err, io.EOF) || isReset(err)) {
				return ""
			}
			p.fail("cannot read a head: %v after %q", err, b.String())
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), "reset by peer") }

func (p *peer) bytes(n int) string {
	p.t.Helper()
	b := make([]byte, n)
	if m, err := io.ReadFull(p.r, b); err != nil {
		p.fail("cannot read %d bytes: %v after %q", n, err, abbreviate(string(b[:m])))
	}
	return string(b)
}

func abbreviate(s string) string {
	if len(s) > 200 {
		return s[:100] + "…" + s[len(s)-100:]
	}
	return s
}

// body reads the body that head announces; raw chunked framing is undone, and
// the trailer section comes second.
func (p *peer) body(head string) (body, trailer string) {
	p.t.Helper()
	if v, ok := field(head, "Content-Length"); ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			p.fail("bad length in %q", head)
		}
		return p.bytes(n), ""
	}
	if _, ok := field(head, "Transfer-Encoding"); !ok {
		return "", ""
	}
	var b strings.Builder
	for {
		chunk, ok := p.chunk()
		if !ok {
			break
		}
		b.WriteString(chunk)
	}
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			p.fail("cannot read the trailer section: %v", err)
		}
		if line == "\r\n" {
			return b.String(), trailer
		}
		trailer += line
	}
}

// chunk reads one chunk; ok is false for the last, whose trailer section is left.
func (p *peer) chunk() (data string, ok bool) {
	p.t.Helper()
	line, err := p.r.ReadString('\n')
	if err != nil {
		p.fail("cannot read a chunk: %v after %q", err, line)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 64)
	if err != nil {
		p.fail("bad chunk size %q", line)
	}
	if n == 0 {
		return "", false
	}
	data = p.bytes(int(n))
	if end := p.bytes(2); end != "\r\n" {
		p.fail("chunk ends with %q", end)
	}
	return data, true
}

// rest reads to the end of the connection. whole is false if it was reset.
func (p *peer) rest() (s string, whole bool) {
	p.t.Helper()
	b, err := io.ReadAll(p.r)
	if err != nil && !isReset(err) {
		p.fail("the connection does not end: %v after %q", err, abbreviate(string(b)))
	}
	return string(b), err == nil
}

// ended asserts that the connection ends with nothing more.
func (p *peer) ended() {
	p.t.Helper()
	if s, _ := p.rest(); s != "" {
		p.fail("there is more: %q", abbreviate(s))
	}
}

func (p *peer) close() { _ = p.conn.Close() }

// response reads a response to a request without HEAD.
func (p *peer) response() (head, body string) {
	p.t.Helper()
	head = p.head()
	body, _ = p.body(head)
	return head, body
}

// wants reads a response and compares its status and body.
func (p *peer) wants(status int, body string) (head string) {
	p.t.Helper()
	head, got := p.response()
	if statusOf(head) != status || got != body {
		p.fail("want %d %q, got %q %q", status, abbreviate(body), head, abbreviate(got))
	}
	return head
}

// refused reads a problem.
func (p *peer) refused(status int, reason string) (head string) {
	p.t.Helper()
	head, got := p.response()
	if ct, _ := field(head, "Content-Type"); statusOf(head) != status || ct != "application/problem+json" || !strings.Contains(got, `"type":"urn:sluice:`+reason+`"`) {
		p.fail("want the problem %d %s, got %q %q", status, reason, head, abbreviate(got))
	}
	return head
}

func statusOf(head string) int {
	if len(head) < 12 {
		return 0
	}
	n, _ := strconv.Atoi(head[9:12])
	return n
}

// field returns the first value of a field and whether there is one.
func field(head, name string) (string, bool) {
	all := fields(head, name)
	if len(all) == 0 {
		return "", false
	}
	return all[0], true
}

func fields(head, name string) (values []string) {
	for line := range strings.SplitSeq(head, "\r\n") {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// server is a backend that speaks raw.
type server struct {
	ln    net.Listener
	addr  string
	conns atomic.Int64
}

// backend serves each connection with serve, on a goroutine of its own.
func backend(t testing.TB, serve func(p *peer)) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{ln: ln, addr: ln.Addr().String()}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		open []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				p := newPeer(t, c)
				p.serves = true
				serve(p)
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

// answering is a backend that reads whole requests and answers each with answer(head, body).
func answering(t testing.TB, answer func(head, body string) string) *server {
	t.Helper()
	return backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			body, _ := p.body(head)
			if _, err := io.WriteString(p.conn, answer(head, body)); err != nil {
				return
			}
		}
	})
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// gate runs a gateway.
type gate struct {
	*gateway.Gateway
	t    testing.TB
	addr string
	// authority has signed the certificate of a listener with TLS, whose name is
	// api.example; nil without.
	authority *certstest.Authority
}

// serve runs a gateway with this configuration; a listener on a free port is
// added where there is none.
func serve(t testing.TB, o gateway.Options, text string) *gate {
	t.Helper()
	if o.Registry == nil {
		o.Registry = registry.All()
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = patience
	}
	g := &gate{Gateway: gateway.New(o), t: t}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		g.Shutdown(ctx)
	})
	g.apply(text)
	g.addr = g.Listeners()[0].Address
	return g
}

func (g *gate) apply(text string) {
	g.t.Helper()
	if !strings.Contains(text, "listeners:") {
		text = "listeners: {main: {address: \"127.0.0.1:0\"}}\n" + text
	}
	c, err := config.Parse("test.yaml", []byte(text), config.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.Apply(c); err != nil {
		g.t.Fatal(err)
	}
}

// forward runs a gateway whose every path goes to s. service and route are
// further settings of theirs, more is further configuration.
func forward(t testing.TB, s *server, service, route, more string) *gate {
	t.Helper()
	return serve(t, gateway.Options{}, forwarding(s, service, route, more))
}

func forwarding(s *server, service, route, more string) string {
	return fmt.Sprintf("services: {s: {endpoints: [\"http://%s\"]%s}}\nroutes: {r: {match: {paths: [/]}, service: s%s}}\n%s",
		s.addr, comma(service), comma(route), more)
}

func comma(s string) string {
	if s == "" {
		return ""
	}
	return ", " + s
}

// client opens a connection to the gateway.
func (g *gate) client() *peer {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	return newPeer(g.t, c)
}

// once waits until ok holds; what it looks at changes in other goroutines.
func once(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// within waits for a channel.
func within[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
	}
	return v
}

// text returns n bytes that tell their place.
func text(n int) string {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i += 8 {
		fmt.Fprintf(&b, "%07x.", i)
	}
	return b.String()[:n]
}

func chunked(body string, size int) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return b.String()
}

// sizes are the lengths around every buffer on the way.
var sizes = []int{0, 1, 2, 4095, 4096, 8191, 8192, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 100_000, 300_001}

func TestResponseBodySuccess(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		parts := strings.Split(strings.Fields(head)[1], "/") // /framing/size
		n, _ := strconv.Atoi(parts[2])
		body := text(n)
		switch parts[1] {
		case "fixed":
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body)
		case "chunked":
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 1000) + "0\r\n\r\n"
		default:
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, max(n, 1)) + "0\r\n\r\n"
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for _, n := range sizes {
		for _, framing := range []string{"fixed", "chunked", "onechunk"} {
			c.send(fmt.Sprintf("GET /%s/%d HTTP/1.1\r\nHost: a\r\n\r\n", framing, n))
			c.wants(200, text(n))
		}
	}
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want one", n)
	}
}

func TestRequestBodySuccess(t *testing.T) {
	s := answering(t, func(head, body string) string {
		framing := "none"
		if v, ok := field(head, "Content-Length"); ok {
			framing = "length " + v
		} else if v, ok := field(head, "Transfer-Encoding"); ok {
			framing = v
		}
		body = fmt.Sprintf("%s %s %t", framing, strconv.Itoa(len(body)), body == text(len(body)))
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	g := forward(t, s, "", "streaming: true", "")
	c := g.client()
	for _, n := range sizes {
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", n, text(n)))
		c.wants(200, fmt.Sprintf("length %d %d true", n, n))
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(n), 777) + "0\r\n\r\n")
		c.wants(200, fmt.Sprintf("chunked %d true", n))
	}
	c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants(200, "none 0 true")
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want one", n)
	}
}

func TestTrailersSuccess(t *testing.T) {
	seen := make(chan [2]string, 1)
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			_, trailer := p.body(head)
			seen <- [2]string{head, trailer}
			announce := ""
			if strings.HasPrefix(head, "GET /announced") {
				announce = "Trailer: X-Sum, X-more\r\n"
			}
			p.send("HTTP/1.1 200 OK\r\n" + announce + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-more: 2\r\nX-Sum: 3\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\n\r\n")
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	f := func(path, trailer string) {
		t.Helper()
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n")
		head := c.head()
		body, got := c.body(head)
		if body != "abc" || got != "X-Sum: 1\r\nX-more: 2\r\nX-Sum: 3\r\n" {
			t.Errorf("%s: %q %q %q", path, head, body, got)
		}
		if v, _ := field(head, "Trailer"); v != trailer {
			t.Errorf("%s announces %q, want %q", path, v, trailer)
		}
		if v, _ := field((<-seen)[0], "TE"); v != "trailers" {
			t.Errorf("%s: TE is %q", path, v)
		}
	}
	f("/announced", "X-Sum, X-more")
	f("/sudden", "")

	f2 := func(announce string) {
		t.Helper()
		c.send("POST /sudden HTTP/1.1\r\nHost: a\r\n" + announce + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-sum: 1\r\nX-Sum-2: 2\r\n\r\n")
		c.wants(200, "abc")
		got := <-seen
		if !strings.EqualFold(got[1], "X-sum: 1\r\nX-Sum-2: 2\r\n") || !strings.Contains(got[0], announce) {
			t.Errorf("%q: the backend saw %q %q", announce, got[0], got[1])
		}
	}
	f2("Trailer: X-sum\r\n")
	f2("")
}

func TestResponseWithoutBodySuccess(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		switch path := strings.Fields(head)[1]; path {
		case "/head":
			return "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nContent-Type: a/b\r\n\r\n"
		case "/headchunked":
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
		case "/headnone":
			return "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"
		case "/204":
			return "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"
		case "/304":
			return "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 77\r\n\r\n"
		case "/304none":
			return "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"
		}
		return okAnswer
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	f := func(method, path string, status int, length string) {
		t.Helper()
		c.send(method + " " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.head()
		if got, _ := field(head, "Content-Length"); statusOf(head) != status || got != length {
			t.Errorf("%s %s: %q", method, path, head)
		}
		if _, ok := field(head, "Connection"); ok {
			t.Errorf("%s %s: %q", method, path, head)
		}
		// What follows is the next answer and nothing of this one's.
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, "ok")
	}
	f("HEAD", "/head", 200, "12345")
	f("HEAD", "/headchunked", 200, "")
	f("HEAD", "/headnone", 200, "")
	f("GET", "/204", 204, "")
	f("GET", "/304", 304, "77")
	f("GET", "/304none", 304, "")
	f("HEAD", "/304", 304, "77")
	if n := s.conns.Load(); n != 1 {
		t.Errorf("%d connections to the backend, want one", n)
	}
}

func TestInterimResponses(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		switch strings.Fields(head)[1] {
		case "/100":
			return "HTTP/1.1 100 Continue\r\n\r\n" + okAnswer
		case "/103":
			return "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" + okAnswer
		default:
			return strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: "+strings.Repeat("x", 1000)+"\r\n\r\n", 70) + okAnswer
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for range 2 {
		c.send("GET /100 HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, "ok")
		c.send("GET /103 HTTP/1.1\r\nHost: a\r\n\r\n")
		if head := c.head(); head != "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" {
			t.Errorf("%q", head)
		}
		if head := c.head(); head != "HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" {
			t.Errorf("%q", head)
		}
		c.wants(200, "ok")
	}
	c.send("GET /103 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
	c.wants(200, "ok")

	c = g.client()
	c.send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
	head := c.head()
	for statusOf(head) == 103 {
		head = c.head()
	}
	if statusOf(head) != 502 {
		t.Errorf("a flood of interim responses: %q", head)
	}
}

func TestExpectContinue(t *testing.T) {
	s := answering(t, func(head, body string) string {
		if _, ok := field(head, "Expect"); ok {
			return "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes:
  open: {match: {paths: [/open]}, service: s}
  shut: {match: {paths: [/shut]}, service: s, policies: {api_key: {}}}
`, s.addr))
	c := g.client()
	for range 2 {
		c.send("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
		if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("%q", head)
		}
		c.send("hello")
		c.wants(200, "hello")
	}
	before := s.conns.Load()
	f := func(request string, status int, reason string) {
		t.Helper()
		c := g.client()
		c.send(request)
		head := c.refused(status, reason)
		if v, _ := field(head, "Connection"); v != "close" {
			t.Errorf("%q", head)
		}
		c.ended()
	}
	f("POST /shut HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 401, "credential_missing")
	f("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 500000000\r\nExpect: 100-continue\r\n\r\n", 413, "body_too_large")
	f("POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 404, "no_route")
	if n := s.conns.Load(); n != before {
		t.Errorf("a refused request reached the backend")
	}
	// The client leaves before it sends the body it announced.
	c = g.client()
	c.send("POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("%q", head)
	}
	c.close()
	once(t, "every connection is given up", func() bool { return g.active() == 0 })
}

func (g *gate) active() (n int) {
	for _, l := range g.Listeners() {
		n += l.Active
	}
	return n
}

func TestHTTP10(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		switch strings.Fields(head)[1] {
		case "/chunked":
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(100_000), 5000) + "0\r\nX-T: 1\r\n\r\n"
		case "/small":
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsmall\r\n0\r\n\r\n"
		}
		return okAnswer
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for range 3 {
		c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		head := c.wants(200, "ok")
		if v, _ := field(head, "Connection"); v != "keep-alive" {
			t.Errorf("%q", head)
		}
	}
	c.send("GET / HTTP/1.0\r\n\r\n")
	c.wants(200, "ok")
	c.ended()

	f := func(path, want string) {
		t.Helper()
		c := g.client()
		c.send("GET " + path + " HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		head := c.head()
		if _, ok := field(head, "Transfer-Encoding"); ok {
			t.Errorf("%q", head)
		}
		if v, _ := field(head, "Connection"); v != "close" {
			t.Errorf("%q", head)
		}
		if got, whole := c.rest(); got != want || !whole {
			t.Errorf("%s: %q %v", path, abbreviate(got), whole)
		}
	}
	f("/chunked", text(100_000))
	// What came whole has a length.
	c = g.client()
	for range 2 {
		c.send("GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		c.wants(200, "small")
	}
	c.close()
	once(t, "the connections are closed", func() bool { return g.active() == 0 })
}

func TestBackendHTTP10(t *testing.T) {
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			switch strings.Fields(head)[1] {
			case "/close":
				p.send("HTTP/1.0 200 OK\r\n\r\n" + text(100_000))
				return
			case "/empty":
				p.send("HTTP/1.0 200 OK\r\n\r\n")
				return
			case "/length":
				p.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
				return
			case "/keep":
				p.send("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
			case "/11":
				p.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + text(70_000))
				return
			}
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	f := func(path, want string) {
		t.Helper()
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.wants(200, want)
		if _, ok := field(head, "Connection"); ok || !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
			t.Errorf("%s: %q", path, head)
		}
	}
	for range 2 {
		f("/close", text(100_000))
		f("/empty", "")
		f("/length", "ok")
		f("/11", text(70_000))
	}
	before := s.conns.Load()
	f("/keep", "ok")
	f("/keep", "ok")
	if n := s.conns.Load(); n != before+1 {
		t.Errorf("kept connections of HTTP/1.0 are not used again: %d", n-before)
	}
	c = g.client()
	c.send("GET /close HTTP/1.0\r\n\r\n")
	_ = c.head()
	if got, whole := c.rest(); got != text(100_000) || !whole {
		t.Errorf("%q %v", abbreviate(got), whole)
	}
}

func TestPipelining(t *testing.T) {
	s := answering(t, func(head, body string) string {
		b := strings.Fields(head)[1] + body
		if strings.HasPrefix(b, "/large") {
			b += text(70_000)
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	var all strings.Builder
	for i := range 50 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		case 1:
			fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", i)
		case 2:
			fmt.Fprintf(&all, "POST /large%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", i)
		}
	}
	go func() { _, _ = io.WriteString(c.conn, all.String()) }()
	for i := range 50 {
		switch i % 3 {
		case 0:
			c.wants(200, fmt.Sprintf("/%d", i))
		case 1:
			c.wants(200, fmt.Sprintf("/%dbody", i))
		case 2:
			c.wants(200, fmt.Sprintf("/large%dbody", i)+text(70_000))
		}
	}
}

// A body that the backend answers without having read it.
func TestEarlyAnswer(t *testing.T) {
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		switch strings.Fields(head)[1] {
		case "/close":
			p.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
			return // with bytes unread: a reset
		case "/stay":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly")
			if head = p.head2(); head != "" {
				p.t.Errorf("a connection with half a request was used again: %q", abbreviate(head))
			}
		case "/stream":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(100_000), 9000) + "0\r\n\r\n")
			_, _ = io.Copy(io.Discard, p.r)
		}
	})
	g := forward(t, s, "", "streaming: true", "")
	f := func(path, framing string, status int, want string) {
		t.Helper()
		c := g.client()
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c.conn, "POST "+path+" HTTP/1.1\r\nHost: a\r\n"+framing+"\r\n\r\n")
			piece := []byte(chunked(text(60_000), 60_000))
			for range 400 {
				if err == nil {
					_, err = c.conn.Write(piece)
				}
			}
			sent <- err
		}()
		// The answer has to come through although the client is still sending.
		c.wants(status, want)
		c.close()
		within(t, "the client stops sending", sent)
	}
	for _, framing := range []string{"Content-Length: 100000000", "Transfer-Encoding: chunked"} {
		f("/close", framing, 413, "large")
		f("/stay", framing, 200, "early")
		f("/stream", framing, 200, text(100_000))
	}
	once(t, "the connections are closed", func() bool { return g.active() == 0 })
}

// head2 reads what follows, past what is left of a body; "" at the end.
func (p *peer) head2() string {
	b, err := io.ReadAll(p.r)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("the connection stays open")
	}
	if i := bytes.Index(b, []byte(" HTTP/1.1\r\n")); i >= 0 {
		return string(b[i:])
	}
	return ""
}

// A request that is refused before its body was read: the answer arrives.
func TestRefusedUpload(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := forward(t, s, "", "", "limits: {max_body_size: 100KiB}\n")
	f := func(framing string, status int) {
		t.Helper()
		c := g.client()
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c.conn, "POST / HTTP/1.1\r\nHost: a\r\n"+framing+"\r\n\r\n")
			piece := []byte(chunked(text(60_000), 60_000))
			for range 200 {
				if err == nil {
					_, err = c.conn.Write(piece)
				}
			}
			sent <- err
		}()
		head, _ := c.response()
		if statusOf(head) != status {
			t.Errorf("%s: %q", framing, head)
		}
		c.close()
		within(t, "the client stops sending", sent)
	}
	f("Content-Length: 12000000", 413)
	f("Transfer-Encoding: chunked", 413)
	// A small body of a refused request is read, and the connection goes on.
	c := forward(t, s, "", "policies: {api_key: {}}", "").client()
	for range 2 {
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n" + text(9000))
		c.refused(401, "credential_missing")
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(9000), 100) + "0\r\n\r\n")
		c.refused(401, "credential_missing")
	}
}

// A body that the client does not send to its end.
func TestTruncatedUpload(t *testing.T) {
	ends := make(chan string, 1)
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		b, _ := p.rest()
		ends <- b
	})
	g := forward(t, s, "", "streaming: true", "")
	f := func(framing, part string, status int) {
		t.Helper()
		c := g.client()
		c.send("POST / HTTP/1.1\r\nHost: a\r\n" + framing + "\r\n\r\n" + part)
		_ = c.conn.(*net.TCPConn).CloseWrite()
		if head, _ := c.response(); statusOf(head) != status {
			t.Errorf("%s: %q", framing, head)
		}
	}
	f("Content-Length: 100", "short", 400)
	f("Content-Length: 100000", "short", 400)
	if got := within(t, "the backend's connection ends", ends); strings.Contains(got, "HTTP/") {
		t.Errorf("%q", got)
	}
	f("Transfer-Encoding: chunked", "5\r\nshort\r\n", 400)
	if got := within(t, "the backend's connection ends", ends); strings.Contains(got, "0\r\n\r\n") {
		t.Errorf("the backend takes half a body for a whole one: %q", got)
	}
	f("Transfer-Encoding: chunked", "5\r\nshort\r\nnonsense\r\n", 400)
	if got := within(t, "the backend's connection ends", ends); strings.Contains(got, "0\r\n\r\n") {
		t.Errorf("the backend takes half a body for a whole one: %q", got)
	}
}

// A backend that goes away while it is sent a body.
func TestBackendGoneDuringUpload(t *testing.T) {
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.bytes(1000)
		_ = p.conn.(*net.TCPConn).SetLinger(0)
	})
	g := forward(t, s, "circuit_breaker: off", "streaming: true", "")
	for _, framing := range []string{"Content-Length: 100000000", "Transfer-Encoding: chunked"} {
		c := g.client()
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c.conn, "POST / HTTP/1.1\r\nHost: a\r\n"+framing+"\r\n\r\n")
			piece := []byte(chunked(text(60_000), 60_000))
			for range 400 {
				if err == nil {
					_, err = c.conn.Write(piece)
				}
			}
			sent <- err
		}()
		c.refused(502, "upstream_reset")
		c.close()
		within(t, "the client stops sending", sent)
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d attempts of two requests that can not be repeated", n)
	}
}
