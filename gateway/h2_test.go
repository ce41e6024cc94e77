package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sluice/gateway"
	"sluice/gateway/certs/certstest"
)

// prior is a gateway that takes HTTP/2 by prior knowledge, in front of s.
func prior(t testing.TB, s *server, route, more string) *gate {
	t.Helper()
	return serve(t, gateway.Options{}, "listeners: {main: {address: \"127.0.0.1:0\", h2c: true}}\n"+forwarding(s, "", route, more))
}

// http2Client is a client that speaks HTTP/2 alone.
func (g *gate) http2Client() *http.Client {
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

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

// What reaches the backend over HTTP/2 is what would over HTTP/1.1.
func TestHTTP2Success(t *testing.T) {
	a := certstest.New(t)
	s := answering(t, func(head, body string) string {
		echo := head + body
		return fmt.Sprintf("HTTP/1.1 207 Multi\r\nContent-Length: %d\r\nX-One: 1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n%s", len(echo), echo)
	})
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	g := serve(t, gateway.Options{}, secured(s, cert+", hsts: 1h", "", ""))
	tr := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool(), ServerName: "api.example"}}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: patience}
	f := func(method, target, body string, want ...string) {
		t.Helper()
		var r io.Reader
		if body != "" {
			r = strings.NewReader(body)
		}
		req := g.request(method, target, r, "X-A: 1", "X-A: 2", "Cookie: a=1; b=2", "X-User-ID: root", "X-Forwarded-For: 1.2.3.4")
		req.URL.Scheme = "https"
		req.Host = "api.example:8443"
		res, got := g.get2(c, req)
		if res.ProtoMajor != 2 || res.StatusCode != 207 || res.Header.Get("X-One") != "1" || res.Header.Get("X-Hop") != "" || res.Header.Get("Connection") != "" ||
			!slices.Equal(res.Header["Set-Cookie"], []string{"a=b", "c=d"}) || res.Header.Get("Strict-Transport-Security") != "max-age=3600" || res.Header.Get("Via") == "" {
			t.Errorf("%s %s: %v", method, target, res)
		}
		if strings.Contains(got, "root") || strings.Contains(got, "1.2.3.4") {
			t.Errorf("%s %s: the client's own fields passed:\n%s", method, target, got)
		}
		for _, w := range append(want, "X-Forwarded-Proto: https\r\n", "X-Forwarded-Host: api.example:8443\r\n", "X-Forwarded-Port: 8443\r\n", "X-A: 1\r\n", "X-A: 2\r\n", "Cookie: a=1; b=2\r\n") {
			if !strings.Contains(got, w) {
				t.Errorf("%s %s: no %q in\n%s", method, target, w, got)
			}
		}
	}
	f("GET", "/a/b?c=%20d", "", "GET /a/b?c=%20d HTTP/1.1\r\n")
	f("POST", "/p", "something", "POST /p HTTP/1.1\r\n", "Content-Length: 9\r\n", "\r\n\r\nsomething")
	f("POST", "/large", text(300_000), "Content-Length: 300000\r\n", "\r\n\r\n"+text(300_000))
	f("DELETE", "/x", "", "DELETE /x HTTP/1.1\r\n")
	f("OPTIONS", "/x", "", "OPTIONS /x HTTP/1.1\r\n")
}

func TestHTTP2Answers(t *testing.T) {
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
		if strings.HasPrefix(head, "HEAD ") {
			return "HTTP/1.1 200 OK\r\nContent-Length: 77\r\nContent-Type: text/x\r\n\r\n"
		}
		return bodies[target]
	})
	g := serve(t, gateway.Options{}, "listeners: {main: {address: \"127.0.0.1:0\", h2c: true}}\n"+strings.Replace(forwarding(s, "", "", ""),
		"routes: {", "routes: {own: {match: {paths: [/own]}, respond: {status: 200, body: own, content_type: text/own}}, ", 1))
	c := g.http2Client()
	f := func(method, target string, status int, length int64, body string) *http.Response {
		t.Helper()
		res, got := g.get2(c, g.request(method, target, nil))
		if res.StatusCode != status || res.ContentLength != length || got != body {
			t.Errorf("%s %s: %d, length %d, %s", method, target, res.StatusCode, res.ContentLength, abbreviate(got))
		}
		return res
	}
	f("GET", "/empty", 200, 0, "")
	f("GET", "/none", 204, 0, "")
	if res := f("GET", "/same", 304, 0, ""); res.Header.Get("Etag") != `"x"` {
		t.Error(res.Header)
	}
	f("GET", "/small", 200, 2, "ok")
	if res := f("GET", "/untyped", 200, 6, "<html>"); res.Header.Get("Content-Type") != "" {
		t.Errorf("a type was made up: %v", res.Header)
	}
	f("GET", "/middle", 200, 5000, text(5000))
	f("GET", "/large", 200, 300_000, text(300_000))
	f("GET", "/chunked", 200, -1, text(100_000))
	f("HEAD", "/large", 200, 77, "")
	if res := f("GET", "/own", 200, 3, "own"); res.Header.Get("Date") == "" {
		t.Errorf("no date: %v", res.Header)
	}
	f("HEAD", "/own", 200, 3, "")
	if res, body := g.get2(c, g.request("GET", "/own/%2f", nil)); res.StatusCode != 400 || res.Header.Get("Content-Type") != "application/problem+json" || res.ContentLength != int64(len(body)) {
		t.Errorf("%v %s", res, body)
	}
	// HTTP/1.1 is spoken on the same socket.
	p := g.client()
	p.send("GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
	p.wants(200, "ok")
	p = g.client()
	p.send("PRI")
	p.send("NT /small HTTP/1.1\r\nHost: x\r\n\r\n")
	p.wants(200, "ok")
}

func TestHTTP2Trailers(t *testing.T) {
	seen := make(chan string, 1)
	s := backend(t, func(p *peer) {
		head := p.head()
		body, trailer := p.body(head)
		seen <- body + "|" + trailer
		p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" + "3\r\nabc\r\n")
		p.send("0\r\nX-Sum: 42\r\nX-Unannounced: 7\r\n\r\n")
	})
	g := prior(t, s, "", "")
	req := g.request("POST", "/", io.MultiReader(strings.NewReader("one"), strings.NewReader("two")))
	req.Trailer = http.Header{"X-Digest": {"d"}}
	res, body := g.get2(g.http2Client(), req)
	if body != "abc" || res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Unannounced") != "7" {
		t.Errorf("%q, trailers %v", body, res.Trailer)
	}
	if got := within(t, "the request", seen); got != "onetwo|X-Digest: d\r\n" {
		t.Errorf("the backend saw %q", got)
	}
}

func TestHTTP2Interim(t *testing.T) {
	s := answering(t, func(string, string) string {
		return "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Final: 1\r\n\r\nok"
	})
	g := prior(t, s, "", "")
	var hints []string
	req := g.request("GET", "/", nil)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}))
	res, body := g.get2(g.http2Client(), req)
	if body != "ok" || res.Header.Get("Link") != "" || res.Header.Get("X-Final") != "1" || !slices.Equal(hints, []string{"103</a.css>"}) {
		t.Errorf("%v %q %v", res.Header, body, hints)
	}
}

// Chunks pass as they come, in both directions at once.
func TestHTTP2BothWays(t *testing.T) {
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
	g := prior(t, s, "streaming: true", "")
	r, w := io.Pipe()
	res, err := g.http2Client().Do(g.request("POST", "/", r))
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
}

func TestHTTP2Truncated(t *testing.T) {
	s := backend(t, func(p *peer) {
		if p.head() != "" {
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + text(70_000))
		}
	})
	g := prior(t, s, "", "")
	res, err := g.http2Client().Do(g.request("GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	var reset http2.StreamError
	if !errors.As(err, &reset) || len(b) > 70_000 {
		t.Errorf("%d bytes, then %v", len(b), err)
	}
}

func TestHTTP2BodyTooLarge(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := prior(t, s, "", "limits: {max_body_size: 1000}\n")
	f := func(body io.Reader, want int) {
		t.Helper()
		res, err := g.http2Client().Do(g.request("POST", "/", body))
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
}

func TestHTTP2ClientGone(t *testing.T) {
	s, begun, ended := silent(t)
	g := prior(t, s, "", "")
	req := g.request("GET", "/", nil)
	ctx, cancel := context.WithCancel(req.Context())
	result := make(chan error, 1)
	go func() {
		_, err := g.http2Client().Do(req.WithContext(ctx))
		result <- err
	}()
	within(t, "the backend has the request", begun)
	cancel()
	within(t, "the client is off", result)
	within(t, "the backend is let go", ended)
}

// A client whose window stays shut, and one that sends half a body, give way to the stall timeout.
func TestHTTP2Stall(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		return "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + text(300_000)
	})
	g := prior(t, s, "", "limits: {stall_timeout: 100ms}\n")
	f := g.frames()
	f.write(f.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	f.headers(1, true, ":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/")
	f.wantReset(1)
	f = g.frames()
	f.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/", "content-length", "10")
	f.write(f.fr.WriteData(1, false, []byte("five!")))
	if status := f.status(1); status != "408" {
		t.Errorf("half a body: %s", status)
	}
}

// When the gateway drains, connections are told to go away, and what is in flight ends well.
func TestHTTP2Drain(t *testing.T) {
	release := make(chan struct{})
	began := make(chan struct{}, 10)
	s := answering(t, func(string, string) string { began <- struct{}{}; <-release; return okAnswer })
	g := prior(t, s, "", "")
	f := g.frames()
	f.headers(1, true, ":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/")
	within(t, "the request", began)
	idle := g.frames()
	idle.write(idle.fr.WritePing(false, [8]byte{1}))
	idle.until(func(fr http2.Frame) bool { p, ok := fr.(*http2.PingFrame); return ok && p.IsAck() })
	ended := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		g.Shutdown(ctx)
		close(ended)
	}()
	idle.wantGoAway(http2.ErrCodeNo)
	f.wantGoAway(http2.ErrCodeNo)
	close(release)
	if got := f.status(1); got != "200" {
		t.Errorf("the request in flight: %s", got)
	}
	within(t, "the end", ended)
}

// frames is a client of HTTP/2 that speaks in frames.
type frames struct {
	*peer
	fr  *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer
}

func (g *gate) frames() *frames {
	g.t.Helper()
	f := &frames{peer: g.client()}
	f.send(http2.ClientPreface)
	f.fr = http2.NewFramer(f.conn, f.r)
	f.fr.AllowIllegalWrites = true
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.buf)
	f.write(f.fr.WriteSettings())
	return f
}

func (f *frames) write(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// block encodes names and values.
func (f *frames) block(fields ...string) []byte {
	f.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(f.buf.Bytes())
}

func (f *frames) headers(stream uint32, end bool, fields ...string) {
	f.t.Helper()
	f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block(fields...), EndStream: end, EndHeaders: true}))
}

// until reads frames until one that is wanted; nil at the end of the connection.
func (f *frames) until(want func(http2.Frame) bool) http2.Frame {
	f.t.Helper()
	for {
		fr, err := f.fr.ReadFrame()
		if err != nil {
			if isTimeout(err) {
				f.t.Fatal("never came")
			}
			var ours http2.StreamError
			if errors.As(err, &ours) {
				f.t.Fatalf("what the gateway sent is malformed: %v", err)
			}
			return nil
		}
		if want(fr) {
			return fr
		}
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// status returns the status of a stream, "RST_STREAM CODE", "GOAWAY CODE" or "closed".
func (f *frames) status(stream uint32) string {
	f.t.Helper()
	verdict := "closed"
	f.until(func(fr http2.Frame) bool {
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			if fr.StreamID == stream && fr.PseudoValue("status") != "100" {
				verdict = fr.PseudoValue("status")
				return true
			}
		case *http2.RSTStreamFrame:
			if fr.StreamID == stream {
				verdict = "RST_STREAM " + fr.ErrCode.String()
				return true
			}
		case *http2.GoAwayFrame:
			if fr.ErrCode != http2.ErrCodeNo {
				verdict = "GOAWAY " + fr.ErrCode.String()
				return true
			}
		}
		return false
	})
	return verdict
}

func (f *frames) wantReset(stream uint32) {
	f.t.Helper()
	if f.until(func(fr http2.Frame) bool {
		return fr.Header().Type == http2.FrameRSTStream && fr.Header().StreamID == stream
	}) == nil {
		f.t.Error("the connection ended, the stream was not reset")
	}
}

func (f *frames) wantGoAway(code http2.ErrCode) {
	f.t.Helper()
	fr, _ := f.until(func(fr http2.Frame) bool { return fr.Header().Type == http2.FrameGoAway }).(*http2.GoAwayFrame)
	if fr == nil || fr.ErrCode != code {
		f.t.Errorf("%v, want GOAWAY %v", fr, code)
	}
}

// What RFC 9113 forbids ends the stream or the connection, as it says, and
// never reaches the backend.
func TestHTTP2Conformance(t *testing.T) {
	var mu sync.Mutex
	var reached []string
	s := answering(t, func(head, _ string) string {
		mu.Lock()
		defer mu.Unlock()
		reached = append(reached, head)
		return okAnswer
	})
	g := prior(t, s, "", "limits: {max_header_size: 4KiB}\n")
	get := []string{":method", "GET", ":scheme", "http", ":authority", "x.example", ":path", "/p"}
	with := func(fields ...string) []string { return append(slices.Clone(get), fields...) }
	without := func(name string, fields ...string) []string {
		i := slices.Index(get, name)
		return append(slices.Delete(slices.Clone(get), i, i+2), fields...)
	}
	replaced := func(name, value string) []string {
		fields := slices.Clone(get)
		fields[slices.Index(fields, name)+1] = value
		return fields
	}
	const protocol, size, flow, compression, closed, calm = "PROTOCOL_ERROR", "FRAME_SIZE_ERROR", "FLOW_CONTROL_ERROR", "COMPRESSION_ERROR", "STREAM_CLOSED", "ENHANCE_YOUR_CALM"
	verdict := func(name, want string, send func(f *frames)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			mu.Lock()
			reached = nil
			mu.Unlock()
			f := g.frames()
			f.t = t
			send(f)
			got := f.status(1)
			mu.Lock()
			defer mu.Unlock()
			if ok := slices.Contains(strings.Split(want, "|"), got); !ok {
				t.Errorf("%s, want %s", got, want)
			}
			if got != "200" && len(reached) > 0 {
				t.Errorf("the backend saw %q", reached)
			}
		})
	}
	request := func(name, want string, fields []string) {
		t.Helper()
		verdict(name, want, func(f *frames) { f.headers(1, true, fields...) })
	}
	request("good", "200", get)
	request("host beside authority", "200", with("host", "x.example"))
	request("host instead of authority", "200", without(":authority", "host", "x.example"))
	request("te trailers", "200", with("te", "trailers"))
	request("unknown method", "200", replaced(":method", "FROB"))

	// Section 8.3.1
	for _, name := range []string{":method", ":scheme", ":path"} {
		request("no "+name, "RST_STREAM "+protocol, without(name))
		request("twice "+name, "RST_STREAM "+protocol, with(name, "GET"))
	}
	request("no host at all", "400", without(":authority"))
	request("other host", "RST_STREAM "+protocol, with("host", "y.example"))
	request("two hosts", "RST_STREAM "+protocol, without(":authority", "host", "x.example", "host", "x.example"))
	request("userinfo", "RST_STREAM "+protocol, replaced(":authority", "u@x.example"))
	request("bad authority", "400|RST_STREAM "+protocol, replaced(":authority", "x y"))
	request("empty path", "RST_STREAM "+protocol, replaced(":path", ""))
	request("relative path", "RST_STREAM "+protocol, replaced(":path", "p"))
	request("absolute path", "RST_STREAM "+protocol, replaced(":path", "http://x.example/p"))
	request("space in path", "400|RST_STREAM "+protocol, replaced(":path", "/p HTTP/1.1"))
	request("fragment", "400", replaced(":path", "/p#q"))
	request("encoded slash", "400", replaced(":path", "/p%2fq"))
	request("line break in path", "RST_STREAM "+protocol, replaced(":path", "/p\r\nx: y"))
	request("space in method", "400|RST_STREAM "+protocol, replaced(":method", "GET /"))
	request("asterisk", "400|404|405", replaced(":path", "*"))
	request("unknown pseudo", "RST_STREAM "+protocol, with(":frob", "x"))
	request("response pseudo", "RST_STREAM "+protocol, with(":status", "200"))
	request("pseudo behind field", "RST_STREAM "+protocol, append([]string{"a", "b"}, get...))
	// Section 8.2
	request("upper case", "RST_STREAM "+protocol, with("X-Upper", "1"))
	request("space in name", "RST_STREAM "+protocol, with("x y", "1"))
	request("colon in name", "RST_STREAM "+protocol, with("x:y", "1"))
	request("line break in value", "RST_STREAM "+protocol, with("x", "1\r\nhost: y"))
	request("nul in value", "RST_STREAM "+protocol, with("x", "1\x00"))
	for _, name := range []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"} {
		request(name, "400", with(name, "chunked"))
	}
	request("te gzip", "400", with("te", "gzip"))
	// Section 8.5, RFC 8441
	request("connect", "400", []string{":method", "CONNECT", ":authority", "x.example:443"})
	request("connect with path", "RST_STREAM "+protocol, replaced(":method", "CONNECT"))
	request("extended connect", "RST_STREAM "+protocol, append(replaced(":method", "CONNECT"), ":protocol", "websocket"))
	// Section 8.1.1
	request("length without body", "400", with("content-length", "5"))
	request("two lengths", "400", with("content-length", "0", "content-length", "0"))
	request("bad length", "400", with("content-length", "+0"))
	verdict("body longer than its length", "RST_STREAM "+protocol, func(f *frames) {
		f.headers(1, false, with("content-length", "2")...)
		f.write(f.fr.WriteData(1, true, []byte("three")))
	})
	verdict("body shorter than its length", "400|RST_STREAM "+protocol, func(f *frames) {
		f.headers(1, false, with("content-length", "9")...)
		f.write(f.fr.WriteData(1, true, []byte("three")))
	})
	verdict("pseudo in trailers", "RST_STREAM "+protocol, func(f *frames) {
		f.headers(1, false, with("content-length", "9")...)
		f.headers(1, true, ":path", "/q")
	})

	request("head too large", "431", with("a", text(2000), "b", text(2000), "c", text(2000)))
	request("field too large", "431|GOAWAY "+compression, with("x", text(8000)))
	verdict("padding", "200", func(f *frames) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(with("content-length", "2")...), EndHeaders: true, PadLength: 200}))
		f.write(f.fr.WriteDataPadded(1, true, []byte("ab"), make([]byte, 255)))
	})
	verdict("padding beyond the frame", "GOAWAY "+protocol+"|RST_STREAM "+protocol, func(f *frames) {
		f.write(f.fr.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersPadded|http2.FlagHeadersEndHeaders, 1, []byte{200, 1}))
	})
	verdict("continuation", "200", func(f *frames) {
		block := f.block(get...)
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:3], EndStream: true}))
		f.write(f.fr.WriteContinuation(1, true, block[3:]))
	})
	verdict("frame within headers", "GOAWAY "+protocol, func(f *frames) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(get...), EndStream: true}))
		f.write(f.fr.WritePing(false, [8]byte{}))
	})
	verdict("continuation out of place", "GOAWAY "+protocol, func(f *frames) { f.write(f.fr.WriteContinuation(1, true, nil)) })
	verdict("bad compression", "GOAWAY "+compression, func(f *frames) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true}))
	})
	verdict("window update of nothing", "GOAWAY "+protocol, func(f *frames) { f.write(f.fr.WriteWindowUpdate(0, 0)) })
	verdict("window update of nothing on a stream", "RST_STREAM "+protocol, func(f *frames) {
		f.headers(1, false, with("content-length", "9")...)
		f.write(f.fr.WriteWindowUpdate(1, 0))
	})
	verdict("window too large", "GOAWAY "+flow, func(f *frames) { f.write(f.fr.WriteWindowUpdate(0, 1<<31-1)) })
	verdict("even stream", "GOAWAY "+protocol, func(f *frames) { f.headers(2, true, get...) })
	verdict("stream 0", "GOAWAY "+protocol, func(f *frames) { f.headers(0, true, get...) })
	verdict("older stream", "GOAWAY "+protocol+"|GOAWAY "+closed, func(f *frames) {
		f.headers(5, false, with("content-length", "9")...)
		f.headers(3, true, get...)
	})
	verdict("data on an idle stream", "GOAWAY "+protocol, func(f *frames) { f.write(f.fr.WriteData(1, true, []byte("x"))) })
	verdict("data for nobody", "GOAWAY "+protocol, func(f *frames) { f.write(f.fr.WriteData(0, true, []byte("x"))) })
	verdict("frame too large", "GOAWAY "+size, func(f *frames) { _ = f.fr.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 17<<10)) })
	verdict("short ping", "GOAWAY "+size, func(f *frames) { f.write(f.fr.WriteRawFrame(http2.FramePing, 0, 0, []byte{1})) })
	verdict("short settings", "GOAWAY "+size, func(f *frames) { f.write(f.fr.WriteRawFrame(http2.FrameSettings, 0, 0, []byte{1})) })
	verdict("bad setting", "GOAWAY "+protocol, func(f *frames) {
		f.write(f.fr.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}))
	})
	verdict("window setting too large", "GOAWAY "+flow, func(f *frames) {
		f.write(f.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}))
	})
	verdict("push", "GOAWAY "+protocol, func(f *frames) {
		f.write(f.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: f.block(get...), EndHeaders: true}))
	})
	verdict("unknown frame", "200", func(f *frames) {
		f.write(f.fr.WriteRawFrame(0xfa, 0, 0, []byte("whatever")))
		f.headers(1, true, get...)
	})
	verdict("stream depends on itself", "RST_STREAM "+protocol+"|GOAWAY "+protocol, func(f *frames) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(get...), EndStream: true, EndHeaders: true, Priority: http2.PriorityParam{StreamDep: 1}}))
	})

	// Floods.
	verdict("continuations without end", "GOAWAY "+calm+"|GOAWAY "+protocol+"|GOAWAY "+compression+"|closed|431", func(f *frames) {
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block(get...), EndStream: true}))
		chunk := f.block("x", text(10_000))
		for range 1000 {
			if f.fr.WriteContinuation(1, false, chunk) != nil {
				return
			}
		}
	})
	verdict("a header bomb", "431|GOAWAY "+calm+"|GOAWAY "+protocol+"|closed", func(f *frames) {
		block := f.block(append(with("x", text(3000)), slices.Repeat([]string{"x", text(3000)}, 5000)...)...)
		f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true}))
	})
}

// What the engine refuses by itself is in the access log and in the metrics all the same.
func TestHTTP2RefusalsAreSeen(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	log := filepath.Join(t.TempDir(), "access.log")
	g := prior(t, s, "", fmt.Sprintf("limits: {max_header_size: 4KiB}\npolicies: {access_log: {path: %q}}\n", log))
	get := []string{":method", "GET", ":scheme", "http", ":authority", "x.example", ":path", "/"}
	with := func(fields ...string) []string { return append(slices.Clone(get), fields...) }
	lines := func() []string {
		b, _ := os.ReadFile(log)
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	type verdict struct {
		status int
		reason string
	}
	var want []verdict
	f := func(status int, reason string, send func(f *frames)) {
		t.Helper()
		want = append(want, verdict{status, reason})
		c := g.frames()
		c.t = t
		send(c)
		_ = c.status(1)
		once(t, "the exchange has ended", func() bool {
			total := 0.0
			for _, code := range []int{200, 400, 431, 499} {
				total += g.metric(fmt.Sprintf(`sluice_requests_total{route="-",service="-",method="other",code="%d"}`, code))
				total += g.metric(fmt.Sprintf(`sluice_requests_total{route="-",service="-",method="GET",code="%d"}`, code))
				total += g.metric(fmt.Sprintf(`sluice_requests_total{route="r",service="s",method="GET",code="%d"}`, code))
			}
			return int(total) == len(want)
		})
		c.close()
	}
	request := func(status int, reason string, fields []string) {
		t.Helper()
		f(status, reason, func(f *frames) { f.headers(1, true, fields...) })
	}
	request(200, "", get)
	request(400, "bad_target", []string{":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/#f"})
	for _, name := range []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"} {
		request(400, "connection_field", with(name, "gzip"))
	}
	request(431, "head_too_large", with("a", text(2000), "b", text(2000), "c", text(2000)))
	request(400, "malformed_request", with(":path", "/"))
	request(400, "malformed_request", with(":frob", "x"))
	request(400, "malformed_request", with("X-Upper", "x"))
	request(400, "malformed_request", with("x", "a\x00b"))
	request(400, "malformed_request", get[:6])
	request(400, "malformed_request", with("host", "y.example"))
	request(400, "malformed_request", []string{":method", "CONNECT", ":authority", "x", ":path", "/", ":scheme", "http"})
	if n := g.metric(`sluice_requests_total{route="-",service="-",method="other",code="400"}`); n != 13 {
		t.Errorf("%v requests are counted", n)
	}
	if n := g.metric(`sluice_http2_errors_total{listener="main",scope="stream",code="protocol_error"}`); n != 7 {
		t.Errorf("%v errors are counted", n)
	}

	// A request that was seen is not seen twice.
	f(499, "body_incomplete", func(f *frames) {
		f.headers(1, false, with("content-length", "2")...)
		f.write(f.fr.WriteWindowUpdate(1, 0))
	})
	once(t, "the lines are written", func() bool { return len(lines()) == len(want) })
	for i, line := range slices.Sorted(slices.Values(lines())) { // each begins with its time
		if w := want[i]; !strings.Contains(line, fmt.Sprintf(`"status":%d,`, w.status)) || !strings.Contains(line, `"reason":"`+w.reason+`"`) || !strings.Contains(line, `"client_ip":"127.0.0.1"`) {
			t.Errorf("want %d %s: %s", w.status, w.reason, line)
		}
	}
	// Each of many on one connection is.
	c := g.frames()
	for i := range uint32(20) {
		c.headers(2*i+1, true, with("te", "gzip")...)
		c.headers(2*i+101, true, with("X-Upper", "x")...)
	}
	once(t, "all are counted", func() bool {
		return g.metric(`sluice_requests_total{route="-",service="-",method="other",code="400"}`) == 53
	})

	for code, send := range map[string]func(f *frames){
		"compression_error": func(f *frames) {
			f.write(f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true}))
		},
		"frame_size_error":   func(f *frames) { f.write(f.fr.WriteRawFrame(http2.FramePing, 0, 0, []byte{1})) },
		"flow_control_error": func(f *frames) { f.write(f.fr.WriteWindowUpdate(0, 1<<31-1)) },
	} {
		c := g.frames()
		send(c)
		_ = c.status(1)
		if n := g.metric(`sluice_http2_errors_total{listener="main",scope="connection",code="` + code + `"}`); n != 1 {
			t.Errorf("%v errors are counted as %s", n, code)
		}
	}
}

// A client that sends more than it was allowed to is stopped, wherever the body waits.
func TestHTTP2FlowControl(t *testing.T) {
	release := make(chan struct{})
	s := backend(t, func(p *peer) { <-release }) // takes what the kernel holds
	defer close(release)
	g := prior(t, s, "streaming: true", "")
	f := g.frames()
	f.headers(1, false, ":method", "POST", ":scheme", "http", ":authority", "x", ":path", "/")
	go func() {
		for chunk := make([]byte, 16<<10); f.fr.WriteData(1, false, chunk) == nil; {
		}
	}()
	if got := f.status(1); got != "RST_STREAM FLOW_CONTROL_ERROR" && got != "GOAWAY FLOW_CONTROL_ERROR" {
		t.Error(got)
	}
}

// A client that opens streams and resets them at once is cut off, and others do not notice.
func TestHTTP2RapidReset(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector this is too slow to be a flood")
	}
	release := make(chan struct{})
	s := answering(t, func(head, _ string) string {
		if strings.HasPrefix(head, "GET /slow") {
			<-release
		}
		return okAnswer
	})
	defer close(release)
	g := prior(t, s, "", "")
	f := g.frames()
	go func() {
		for i := uint32(1); ; i += 2 {
			f.buf.Reset()
			if f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: i, BlockFragment: f.block(":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/slow"), EndStream: true, EndHeaders: true}) != nil ||
				f.fr.WriteRSTStream(i, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}()
	f.wantGoAway(http2.ErrCodeEnhanceYourCalm)
	if res, body := g.get2(g.http2Client(), g.request("GET", "/", nil)); res.StatusCode != 200 || body != "ok" {
		t.Error(res.StatusCode, body)
	}
}

// Control frames whose answers nobody reads do not pile up without bound.
func TestHTTP2ControlFlood(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := prior(t, s, "", "limits: {stall_timeout: 500ms}\n")
	flood := func(name string, many int, send func(f *frames) error) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			f := g.frames()
			_ = f.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			for range many {
				if err := send(f); err != nil {
					if isTimeout(err) {
						t.Error("it is taken for ever")
					}
					return
				}
			}
		})
	}
	many := 1 << 30
	if raceEnabled {
		many = 20 // it is too slow to fill the buffers between
	}
	var pings bytes.Buffer
	for fr := http2.NewFramer(&pings, nil); pings.Len() < 16<<10; {
		_ = fr.WritePing(false, [8]byte{})
	}
	flood("ping", many, func(f *frames) error {
		_, err := f.conn.Write(pings.Bytes())
		return err
	})
	flood("settings", 100_000, func(f *frames) error { return f.fr.WriteSettings() }) // one answer at a time waits
	if res, body := g.get2(g.http2Client(), g.request("GET", "/", nil)); res.StatusCode != 200 || body != "ok" {
		t.Error(res.StatusCode, body)
	}
}

func TestHTTP2Timeouts(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := prior(t, s, "", "limits: {idle_timeout: 100ms, header_timeout: 100ms}\n")
	f := g.frames()
	f.headers(1, true, ":method", "GET", ":scheme", "http", ":authority", "x", ":path", "/")
	if got := f.status(1); got != "200" {
		t.Error(got)
	}
	f.wantGoAway(http2.ErrCodeNo)
	p := g.client()
	p.send("PRI * HT") // the preface stalls
	p.ended()
}

// http2Allocations bounds what a plain request over HTTP/2 allocates: the
// engine makes its request, its header maps and goroutine anew each time.
const http2Allocations = 45

func TestHTTP2Allocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0", h2c: true}}
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/api]}, service: s}}
`, backendProcess(t)))
	client := startHelper(t, "client2", "")
	send := func(n int) {
		t.Helper()
		if _, err := fmt.Fprintf(client.in, "%s %d\n", g.addr, n); err != nil {
			t.Fatal(err)
		}
		if got := client.line(); got != strconv.Itoa(n) {
			t.Fatalf("%s of %d answers are good", got, n)
		}
	}
	send(2000)
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	send(1000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(measured)
	runtime.ReadMemStats(&after)
	n := after.Mallocs - before.Mallocs
	t.Logf("%.1f allocations, %d bytes for a request", float64(n)/measured, (after.TotalAlloc-before.TotalAlloc)/measured)
	if n > http2Allocations*measured {
		t.Errorf("%d allocations for %d requests", n, measured)
	}
}

// helpClient2 is helpClient over HTTP/2: for each line "ADDRESS COUNT".
func helpClient2() {
	c := &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var addr string
		var count int
		if _, err := fmt.Sscan(in.Text(), &addr, &count); err != nil {
			panic(err)
		}
		good := 0
		for range count {
			res, err := c.Get("http://" + addr + "/api/users/7?a=b")
			if err != nil {
				break
			}
			if _, err := io.Copy(io.Discard, res.Body); err == nil && res.StatusCode == 200 {
				good++
			}
			_ = res.Body.Close()
		}
		fmt.Println(good)
	}
}

// Over TLS a request of HTTP/1.1 allocates as little as without.
func TestTLSAllocates(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}})
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0", tls: {certificates: [{cert: %q, key: %q}], hsts: 1h}}}
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/api]}, service: s}}
`, cert, key, backendProcess(t)))
	g.addr = "tls:" + g.addr
	g.allocates("GET", "GET /api/users/7?a=b HTTP/1.1\r\nHost: api.example\r\nAccept: */*\r\n\r\n", 200)
}
