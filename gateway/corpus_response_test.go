package gateway_test

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"sluice/gateway"
	"sluice/gateway/corpustest"
)

func responseCorpus() (table []corpustest.Response) {
	group := ""
	add := func(c corpustest.Response, name, send string) {
		if c.Method == "" {
			c.Method = "GET"
		}
		c.Group, c.Name, c.Send = group, name, corpustest.Octets(send)
		table = append(table, c)
	}
	refused := func(name, send string) { add(corpustest.Response{Status: 502}, name, send) }
	passes := func(name, send, body string) {
		add(corpustest.Response{Status: 200, Body: corpustest.Octets(body), Reused: true, Cached: true}, name, send)
	}
	// once passes, and its connection is not used again.
	once := func(name, send, body string) {
		add(corpustest.Response{Status: 200, Body: corpustest.Octets(body), Cached: true}, name, send)
	}
	const (
		ok     = "HTTP/1.1 200 OK\r\n"
		chunks = ok + "Transfer-Encoding: chunked\r\n\r\n"
		last   = "0\r\n\r\n"
		second = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned"
	)
	large := text(100_000)

	group = "status line"
	refused("bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok")
	refused("all lines bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n")
	refused("HTTP/0.9", "<html>ok</html>\r\n\r\n")
	refused("HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("in lower case", "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("another protocol", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("no number", "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("099", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("600", "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("NUL in the reason", "HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\nok")
	refused("CR in the reason", "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok")
	refused("leading CRLF", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("space in front", " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	refused("a request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	refused("a bare head", "HTTP/1.1\r\n\r\n")
	add(corpustest.Response{Status: 502, Close: true}, "nothing", "")
	add(corpustest.Response{Status: 502, Close: true}, "head without end", ok+"Content-Length: 2\r\n")
	passes("no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "ok")
	once("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok")

	group = "fields"
	refused("bare LF", ok+"X-A: b\nX-C: d\r\nContent-Length: 2\r\n\r\nok")
	refused("bare CR", ok+"X-A: b\rX-C: d\r\nContent-Length: 2\r\n\r\nok")
	refused("folded", ok+"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok")
	refused("folded first", ok+" X-A: b\r\nContent-Length: 2\r\n\r\nok")
	refused("space before the colon", ok+"Content-Length : 2\r\n\r\nok")
	refused("space in the name", ok+"X A: b\r\nContent-Length: 2\r\n\r\nok")
	refused("no name", ok+": b\r\nContent-Length: 2\r\n\r\nok")
	refused("no colon", ok+"X-A\r\nContent-Length: 2\r\n\r\nok")
	refused("NUL in the name", ok+"X\x00A: b\r\nContent-Length: 2\r\n\r\nok")
	refused("NUL in the value", ok+"X-A: \x00\r\nContent-Length: 2\r\n\r\nok")
	refused("control byte in the value", ok+"X-A: a\x1b\r\nContent-Length: 2\r\n\r\nok")
	refused("high byte in the name", ok+"X\xe4: b\r\nContent-Length: 2\r\n\r\nok")
	refused("too large", ok+"X-A: "+strings.Repeat("x", 200_000)+"\r\nContent-Length: 2\r\n\r\nok")
	passes("high bytes in the value", ok+"X-A: \xff\r\nContent-Length: 2\r\n\r\nok", "ok")
	passes("Connection names the length", ok+"Connection: Content-Length\r\nContent-Length: 2\r\n\r\nok", "ok")

	group = "framing"
	refused("length and chunked", ok+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"+last)
	refused("chunked and length", ok+"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"+last)
	refused("two lengths", ok+"Content-Length: 2\r\nContent-Length: 4\r\n\r\nokok")
	refused("two lengths alike", ok+"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok")
	refused("list of lengths", ok+"Content-Length: 2, 2\r\n\r\nok")
	refused("negative length", ok+"Content-Length: -2\r\n\r\nok")
	refused("length with a plus", ok+"Content-Length: +2\r\n\r\nok")
	refused("hexadecimal length", ok+"Content-Length: 0x2\r\n\r\nok")
	refused("empty length", ok+"Content-Length:\r\n\r\nok")
	refused("length too large", ok+"Content-Length: 99999999999999999999\r\n\r\nok")
	refused("gzip, chunked", ok+"Transfer-Encoding: gzip, chunked\r\n\r\n"+last)
	refused("identity", ok+"Transfer-Encoding: identity\r\n\r\nok")
	refused("unknown coding", ok+"Transfer-Encoding: xchunked\r\n\r\n"+last)
	refused("chunked twice", ok+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"+last)
	refused("chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+last)
	add(corpustest.Response{Status: 200, Close: true, Body: "ok", Cached: true}, "by the end of the connection", ok+"\r\nok")

	group = "truncated"
	add(corpustest.Response{Status: 502, Close: true}, "small body", ok+"Content-Length: 5\r\n\r\nok")
	add(corpustest.Response{Status: 502, Close: true}, "no byte of a body", ok+"Content-Length: 5\r\n\r\n")
	add(corpustest.Response{Status: 200, Close: true, Body: corpustest.Octets(large), Cut: true}, "large body", ok+"Content-Length: 100001\r\n\r\n"+large)
	add(corpustest.Response{Status: 200, Close: true, Body: "ok", Cut: true}, "no last chunk", chunks+"2\r\nok\r\n")
	add(corpustest.Response{Status: 200, Close: true, Body: "ok", Cut: true}, "in a chunk", chunks+"5\r\nok")
	add(corpustest.Response{Close: true}, "in a chunk's size", chunks+"5")
	add(corpustest.Response{Status: 200, Close: true, Body: "ok", Cut: true}, "in the trailers", chunks+"2\r\nok\r\n0\r\nX: 1\r\n")

	group = "chunks"
	broken := func(name, send, body string) {
		add(corpustest.Response{Status: 200, Body: corpustest.Octets(body), Cut: true}, name, send)
	}
	ended := func(name, send string) { add(corpustest.Response{}, name, send) }
	ended("no number", chunks+"x\r\nok\r\n"+last)
	ended("negative", chunks+"-2\r\nok\r\n"+last)
	ended("prefix", chunks+"0x2\r\nok\r\n"+last)
	ended("blank behind the size", chunks+"2 \r\nok\r\n"+last)
	ended("blank before an extension", chunks+"2 ;a\r\nok\r\n"+last)
	ended("too many digits", chunks+"10000000000000002\r\nok\r\n"+last)
	ended("bare LF behind the size", chunks+"2\nok\r\n"+last)
	broken("data longer than the size", chunks+"2\r\nokok\r\n"+last, "ok")
	broken("bare LF behind the data", chunks+"2\r\nok\n"+last, "ok")
	ended("malformed extension", chunks+"2;=\r\nok\r\n"+last)
	ended("extension without a value", chunks+"2;a=\r\nok\r\n"+last)
	ended("open quote", chunks+"2;a=\"b\r\nok\r\n"+last)
	broken("malformed trailer", chunks+"2\r\nok\r\n0\r\nX : 1\r\n\r\n", "ok")
	broken("folded trailer", chunks+"2\r\nok\r\n0\r\nX: 1\r\n 2\r\n\r\n", "ok")
	broken("end with a bare LF", chunks+"2\r\nok\r\n0\r\n\n", "ok")
	passes("well-formed extensions", chunks+"2;a;b=c;d=\"e;\"\r\nok\r\n0;x\r\n\r\n", "ok")
	passes("trailers that frame", chunks+"2\r\nok\r\n0\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\n\r\n", "ok")

	group = "bytes left over"
	once("a second answer", ok+"Content-Length: 2\r\n\r\nok"+second, "ok")
	once("CRLF", ok+"Content-Length: 2\r\n\r\nok\r\n", "ok")
	once("behind no body", ok+"Content-Length: 0\r\n\r\n"+second, "")
	once("behind chunks", chunks+"2\r\nok\r\n"+last+second, "ok")
	once("behind a large body", ok+"Content-Length: 100000\r\n\r\n"+large+second, large)
	add(corpustest.Response{Method: "HEAD", Status: 200, Cached: true}, "body of HEAD", ok+"Content-Length: 2\r\n\r\nok")
	add(corpustest.Response{Status: 204}, "body of 204", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok")
	add(corpustest.Response{Status: 204}, "chunked 204", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"+last)
	add(corpustest.Response{Status: 204}, "204 whose body is to come", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n")
	add(corpustest.Response{Status: 304}, "body of 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok")
	add(corpustest.Response{Status: 204, Reused: true}, "nothing behind 204", "HTTP/1.1 204 No Content\r\n\r\n")
	add(corpustest.Response{Method: "HEAD", Status: 200, Reused: true, Cached: true}, "nothing behind HEAD", ok+"Content-Length: 2\r\n\r\n")

	group = "interim"
	refused("unasked 101", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	refused("101 behind 100", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
	refused("malformed", "HTTP/1.1 103 Early Hints\r\nLink : a\r\n\r\n"+ok+"Content-Length: 2\r\n\r\nok")
	refused("with bytes behind", "HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nok"+ok+"Content-Length: 2\r\n\r\nok")
	refused("without end", strings.Repeat("HTTP/1.1 100 Continue\r\nX-A: "+strings.Repeat("x", 1000)+"\r\n\r\n", 70)+ok+"Content-Length: 2\r\n\r\nok")
	passes("unasked 100", "HTTP/1.1 100 Continue\r\n\r\n"+ok+"Content-Length: 2\r\n\r\nok", "ok")
	return table
}

func TestCorpusResponses(t *testing.T) {
	table := responseCorpus()
	corpus(t, corpustest.ResponsesFile, table, corpustest.Responses)
	if len(table) < 40 {
		t.Errorf("only %d responses", len(table))
	}
	var h hostile
	s := backend(t, h.serve)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"], retries: off, circuit_breaker: off}}
routes:
  r: {match: {paths: [/]}, service: s, policies: {cache: {ttl: 60s}}}
  next: {match: {paths: [/next]}, service: s}
`, s.addr))
	names := map[string]bool{}
	for i, c := range table {
		name := c.Group + "/" + c.Name
		if names[name] {
			t.Errorf("%s is there twice", name)
		}
		names[name] = true
		t.Run(name, func(t *testing.T) {
			h.now.Store(&c)
			h.asked.Store(0)
			h.suffer(t, g, fmt.Sprintf("%s /%d HTTP/1.1\r\nHost: a\r\n\r\n", c.Method, i))
		})
	}
}

// hostile is a backend that answers as the case of the moment says, but for
// the path /next.
type hostile struct {
	now                      atomic.Pointer[corpustest.Response]
	conns, asked, last, next atomic.Int64
}

func (h *hostile) serve(p *peer) {
	id := h.conns.Add(1)
	for {
		head := p.head()
		if head == "" {
			return
		}
		c := h.now.Load()
		if strings.Contains(head, " /next ") {
			h.next.Store(id)
			p.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
			return
		}
		h.asked.Add(1)
		h.last.Store(id)
		if _, err := io.WriteString(p.conn, string(c.Send)); err != nil || c.Close {
			return
		}
	}
}

// suffer has a client ask for the response, then another for something else on
// what may be the same connection, then for the first again.
func (h *hostile) suffer(t *testing.T, g *gate, request string) {
	c := h.now.Load()
	p := g.client()
	defer p.close()
	p.send(request)
	head := p.head()
	if statusOf(head) != c.Status {
		t.Fatalf("want %d, got %q", c.Status, head)
	}
	if c.Status == 502 {
		if v, _ := field(head, "Content-Type"); v != "application/problem+json" {
			t.Errorf("%q", head)
		}
	} else if c.Method != "HEAD" && c.Status == 200 {
		body, whole := p.received(head)
		if body != string(c.Body) || whole == c.Cut {
			t.Errorf("the body is %q, whole: %t; want %q, cut: %t", abbreviate(body), whole, abbreviate(string(c.Body)), c.Cut)
		}
	}
	if v := fields(head, "Content-Length"); len(v) > 1 {
		t.Errorf("%q", head)
	}
	q := g.client()
	defer q.close()
	q.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
	q.wants(200, "ok")
	if reused := h.last.Load() == h.next.Load(); reused != c.Reused {
		t.Errorf("the connection is used again: %t", reused)
	}
	q.send(request)
	if again := q.head(); statusOf(again) != c.Status {
		t.Errorf("the second time: %q", again)
	}
	if cached := h.asked.Load() == 1; cached != c.Cached {
		t.Errorf("it comes from the cache: %t", cached)
	}
}

// received reads a body as far as it comes; whole is whether it ended as its
// framing says.
func (p *peer) received(head string) (body string, whole bool) {
	p.t.Helper()
	if v, ok := field(head, "Content-Length"); ok {
		n, _ := strconv.Atoi(v)
		b := make([]byte, n)
		n, err := io.ReadFull(p.r, b)
		return string(b[:n]), err == nil
	}
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return body, false
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			p.fail("bad chunk size %q", line)
		}
		if n == 0 {
			break
		}
		b := make([]byte, n+2)
		m, err := io.ReadFull(p.r, b)
		if body += string(b[:min(int64(m), n)]); err != nil {
			return body, false
		}
	}
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return body, false
		}
		if line == "\r\n" {
			return body, true
		}
	}
}
