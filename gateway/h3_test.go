package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/quic-go/quic-go/quicvarint"
	"go.uber.org/goleak"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
)

// frames3 is a client of HTTP/3 that speaks in frames.
type frames3 struct {
	t         testing.TB
	conn      *quic.Conn
	control   *quic.SendStream
	transport *quic.Transport
}

// Types of frames.
const (
	frameData     = 0x0
	frameHeaders  = 0x1
	frameSettings = 0x4
	frameGoAway   = 0x7
)

func (g *gate) frames3() *frames3 {
	g.t.Helper()
	f, err := g.dial3(&quic.Config{MaxIdleTimeout: time.Minute}, &tls.Config{})
	if err != nil {
		g.t.Fatal(err)
	}
	f.settings()
	return f
}

// dial3 opens a QUIC connection on which nothing is said.
func (g *gate) dial3(q *quic.Config, c *tls.Config) (*frames3, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.RootCAs, c.ServerName, c.NextProtos = g.authority.Pool(), "api.example", []string{http3.NextProtoH3}
	udp, addr := packets(g.t, "127.0.0.1:0"), udpAddr(g.t, g.addr)
	tr := &quic.Transport{Conn: udp}
	g.t.Cleanup(func() { _ = tr.Close() })
	conn, err := tr.Dial(ctx, addr, c, q)
	if err != nil {
		return nil, err
	}
	g.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return &frames3{t: g.t, conn: conn, transport: tr}, nil
}

// packets opens a UDP socket.
func packets(t testing.TB, addr string) net.PacketConn {
	t.Helper()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = udp.Close() })
	return udp
}

func udpAddr(t testing.TB, addr string) *net.UDPAddr {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// settings opens the control stream.
func (f *frames3) settings() {
	f.t.Helper()
	f.control = f.uni(0, appendFrame(nil, frameSettings, nil))
}

// uni opens a unidirectional stream of this type.
func (f *frames3) uni(kind uint64, content []byte) *quic.SendStream {
	f.t.Helper()
	str, err := f.conn.OpenUniStream()
	if err != nil {
		f.t.Fatal(err)
	}
	_, _ = str.Write(append(quicvarint.Append(nil, kind), content...))
	return str
}

func appendFrame(b []byte, kind uint64, content []byte) []byte {
	b = quicvarint.Append(b, kind)
	b = quicvarint.Append(b, uint64(len(content)))
	return append(b, content...)
}

// section encodes names and values.
func section(fields ...string) []byte {
	var b bytes.Buffer
	enc := qpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = enc.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

func headers(fields ...string) []byte { return appendFrame(nil, frameHeaders, section(fields...)) }

func data(s string) []byte { return appendFrame(nil, frameData, []byte(s)) }

// send opens a stream for a request and sends this on it; end closes its direction.
func (f *frames3) send(end bool, content ...[]byte) *quic.Stream {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	str, err := f.conn.OpenStreamSync(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	_ = str.SetDeadline(time.Now().Add(patience))
	_, _ = str.Write(slices.Concat(content...)) // the gateway may have had enough
	if end {
		_ = str.Close()
	}
	return str
}

// tries is send and status for a connection that may be refused.
func (f *frames3) tries(request []byte) string {
	f.t.Helper()
	str, err := f.conn.OpenStream()
	if err != nil {
		return f.verdict(err)
	}
	_ = str.SetDeadline(time.Now().Add(patience))
	_, _ = str.Write(request)
	_ = str.Close()
	return f.status(str)
}

func (f *frames3) get(fields ...string) *quic.Stream {
	f.t.Helper()
	return f.send(true, headers(fieldsWith(fields...)...))
}

// readFrame reads a frame of a stream.
func readFrame(r io.Reader) (kind uint64, content []byte, err error) {
	v := quicvarint.NewReader(r)
	if kind, err = quicvarint.Read(v); err != nil {
		return 0, nil, err
	}
	n, err := quicvarint.Read(v)
	if err != nil {
		return 0, nil, err
	}
	content = make([]byte, n)
	_, err = io.ReadFull(v, content)
	return kind, content, err
}

// status returns the final status of a stream, "reset CODE", "closed CODE", or "ended".
func (f *frames3) status(str *quic.Stream) string {
	f.t.Helper()
	for {
		kind, content, err := readFrame(str)
		if err != nil {
			return f.verdict(err)
		}
		if kind != frameHeaders {
			continue
		}
		decode := qpack.NewDecoder().Decode(content)
		for {
			field, err := decode()
			if err != nil {
				f.t.Fatalf("what the gateway sent is malformed: %v", err)
			}
			if field.Name == ":status" {
				if field.Value[0] == '1' {
					break
				}
				return field.Value
			}
		}
	}
}

func (f *frames3) verdict(err error) string {
	f.t.Helper()
	var reset *quic.StreamError
	var closed *quic.ApplicationError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.t.Fatal("never came")
	case errors.As(err, &reset):
		return "reset " + http3.ErrCode(reset.ErrorCode).String()
	case errors.As(err, &closed):
		return "closed " + http3.ErrCode(closed.ErrorCode).String()
	case errors.Is(err, io.EOF):
		return "ended"
	}
	return err.Error()
}

// ends waits for the end of the connection and returns how it ended.
func (f *frames3) ends() string {
	f.t.Helper()
	within(f.t, "the connection ends", f.conn.Context().Done())
	return f.verdict(context.Cause(f.conn.Context()))
}

// served is the gateway's control stream, behind its settings.
func (f *frames3) served() *quic.ReceiveStream {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	str, err := f.conn.AcceptUniStream(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	_ = str.SetReadDeadline(time.Now().Add(patience))
	if kind, err := quicvarint.Read(quicvarint.NewReader(str)); kind != 0 || err != nil {
		f.t.Fatalf("a stream of type %d, %v", kind, err)
	}
	if kind, _, err := readFrame(str); kind != frameSettings || err != nil {
		f.t.Fatalf("a frame of type %d, %v", kind, err)
	}
	return str
}

// three is a gateway that speaks HTTP/3, in front of s.
func three(t testing.TB, s *server, route, more string) *gate {
	t.Helper()
	return overHTTP3.forward(t, s, route, more)
}

// get3 gets over HTTP/3.
func (g *gate) get3(c *http.Client, target string, headers ...string) (*http.Response, string) {
	g.t.Helper()
	return g.get2(c, overHTTP3.request(g, "GET", target, nil, headers...))
}

// What RFC 9114 forbids ends the stream or the connection, and never reaches the backend.
func TestHTTP3Conformance(t *testing.T) {
	var mu sync.Mutex
	var reached []string
	s := answering(t, func(head, _ string) string {
		mu.Lock()
		defer mu.Unlock()
		reached = append(reached, head)
		return okAnswer
	})
	g := three(t, s, "", "limits: {max_header_size: 4KiB}\n")
	verdict := func(name, want string, send func(f *frames3) *quic.Stream) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			mu.Lock()
			reached = nil
			mu.Unlock()
			f := g.frames3()
			f.t = t
			var got string
			if str := send(f); str != nil {
				got = f.status(str)
			} else {
				got = f.ends()
			}
			_ = f.conn.CloseWithError(0, "")
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
	get := headers(plainFields()...)
	post := func(fields ...string) []byte {
		all := fieldsWith(fields...)
		all[1] = "POST"
		return headers(all...)
	}
	for _, c := range malformed() {
		verdict(c.name, c.h3, func(f *frames3) *quic.Stream { return f.send(true, headers(c.fields...)) })
	}

	// Bodies and their lengths, RFC 9114, section 4.1.2.
	verdict("body", "200", func(f *frames3) *quic.Stream {
		return f.send(true, post("content-length", "5"), data("fi"), data("ve!"))
	})
	verdict("body longer than its length", "400|reset H3_MESSAGE_ERROR", func(f *frames3) *quic.Stream {
		return f.send(true, post("content-length", "2"), data("three"))
	})
	verdict("body shorter than its length", "400|reset H3_MESSAGE_ERROR", func(f *frames3) *quic.Stream {
		return f.send(true, post("content-length", "9"), data("three"))
	})
	verdict("end within a frame", "400", func(f *frames3) *quic.Stream {
		return f.send(true, post("content-length", "9"), data("three")[:4])
	})
	verdict("end within the head", "reset H3_INCOMPLETE_REQUEST", func(f *frames3) *quic.Stream { return f.send(true, get[:len(get)-3]) })
	verdict("pseudo in trailers", "400", func(f *frames3) *quic.Stream {
		return f.send(true, post(), data("x"), headers(":path", "/q"))
	})
	verdict("framing in trailers", "400", func(f *frames3) *quic.Stream {
		return f.send(true, post(), data("x"), headers("transfer-encoding", "chunked"))
	})
	verdict("data behind trailers", "400", func(f *frames3) *quic.Stream {
		return f.send(true, post(), data("x"), headers("x", "1"), data("y"))
	})
	verdict("two trailer sections", "400", func(f *frames3) *quic.Stream {
		return f.send(true, post(), data("x"), headers("x", "1"), headers("y", "1"))
	})
	verdict("trailers", "200", func(f *frames3) *quic.Stream { return f.send(true, post(), data("x"), headers("x", "1")) })

	// Frames, section 7.
	const unexpected = "closed H3_FRAME_UNEXPECTED"
	verdict("data first", unexpected, func(f *frames3) *quic.Stream { return f.send(true, data("x"), get) })
	verdict("settings on a request", unexpected, func(f *frames3) *quic.Stream {
		return f.send(true, appendFrame(nil, frameSettings, nil), get)
	})
	verdict("goaway on a request", unexpected, func(f *frames3) *quic.Stream {
		return f.send(true, appendFrame(nil, frameGoAway, []byte{0}), get)
	})
	for _, kind := range []uint64{0x2, 0x6, 0x8, 0x9} { // HTTP/2's
		verdict(fmt.Sprintf("reserved frame %d", kind), unexpected, func(f *frames3) *quic.Stream {
			return f.send(true, appendFrame(nil, kind, nil), get)
		})
	}
	verdict("unknown frame", "200", func(f *frames3) *quic.Stream {
		return f.send(true, appendFrame(nil, 0x21, []byte("whatever")), get, appendFrame(nil, 0x40, nil))
	})
	verdict("bad compression", "reset QPACK_DECOMPRESSION_FAILED", func(f *frames3) *quic.Stream {
		return f.send(true, appendFrame(nil, frameHeaders, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
	})
	verdict("a table that is none", "reset QPACK_DECOMPRESSION_FAILED", func(f *frames3) *quic.Stream {
		return f.send(true, appendFrame(nil, frameHeaders, []byte{0x02, 0x00, 0x80}))
	})

	// Streams of control, section 6.2.
	ends := func(name, want string, send func(f *frames3)) {
		t.Helper()
		verdict(name, want, func(f *frames3) *quic.Stream { send(f); return nil })
	}
	ends("two control streams", "closed H3_STREAM_CREATION_ERROR", func(f *frames3) { f.settings() })
	ends("push stream", "closed H3_STREAM_CREATION_ERROR", func(f *frames3) { f.uni(1, nil) })
	ends("control stream that ends", "closed H3_CLOSED_CRITICAL_STREAM", func(f *frames3) { _ = f.control.Close() })
	ends("settings twice", unexpected, func(f *frames3) { _, _ = f.control.Write(appendFrame(nil, frameSettings, nil)) })
	ends("headers on control", unexpected, func(f *frames3) { _, _ = f.control.Write(get) })
	verdict("unknown stream", "200", func(f *frames3) *quic.Stream { f.uni(0x21, []byte("whatever")); return f.get() })
	ends("no settings", "closed H3_MISSING_SETTINGS", func(f *frames3) {
		other, err := g.dial3(&quic.Config{}, &tls.Config{})
		if err != nil {
			t.Fatal(err)
		}
		other.uni(0, appendFrame(nil, frameGoAway, []byte{0}))
		f.conn = other.conn
	})
}

// A client whose connection was ended for what it did shows in the log.
func TestHTTP3ErrorsAreSeen(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	var log locked
	g := overHTTP3.serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, forwarding(s, "", "", ""))
	f := g.frames3()
	f.send(true, data("x"))
	if got := f.ends(); got != "closed H3_FRAME_UNEXPECTED" {
		t.Error(got)
	}
	once(t, "it is logged", func() bool {
		return strings.Contains(log.String(), "ended a connection of HTTP/3") && strings.Contains(log.String(), "code=H3_FRAME_UNEXPECTED") && strings.Contains(log.String(), "client=127.0.0.1")
	})
}

func TestHTTP3AltSvc(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := answering(t, func(string, string) string {
		return "HTTP/1.1 200 OK\r\nAlt-Svc: h3=\":1\"\r\nContent-Length: 2\r\n\r\nok"
	})
	addr := freeBoth()
	_, port, _ := net.SplitHostPort(addr)
	listener := func(http3 string) string {
		return fmt.Sprintf("listeners: {main: {address: %q%s, tls: {%s}}}\n", addr, comma(http3), cert) + forwarding(s, "", "", "")
	}
	g := serve(t, gateway.Options{}, listener(""))
	g.authority = a
	f := func(what, want string) {
		t.Helper()
		for _, proto := range []string{"http/1.1", "h2"} {
			tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool(), ServerName: "api.example"}, ForceAttemptHTTP2: proto == "h2"}
			c := &http.Client{Transport: tr, Timeout: patience}
			for _, target := range []string{"/", "/%00"} { // also what is refused
				req := g.request("GET", target, nil)
				req.URL.Scheme = "https"
				res, _ := g.get2(c, req)
				if target != "/" && want == `h3=":1"` {
					continue // only the backend said that
				}
				if got := strings.Join(res.Header["Alt-Svc"], "|"); got != want || (res.ProtoMajor == 2) != (proto == "h2") {
					t.Errorf("%s, %s %s: %q, want %q", what, res.Proto, target, got, want)
				}
			}
			tr.CloseIdleConnections()
		}
	}
	f("off", `h3=":1"`)
	g.apply(listener("http3: true"))
	f("on", `h3=":`+port+`"; ma=86400`)
	if res, _ := g.get3(g.http3Client(), "/"); res.StatusCode != 200 || len(res.Header["Alt-Svc"]) > 0 {
		t.Errorf("%v", res.Header)
	}
	g.apply(listener("http3: {advertised_port: 443}"))
	f("mapped", `h3=":443"; ma=86400`)
	g.apply(listener("http3: off"))
	f("off again", `h3=":1"`)
}

// HTTP/3 is turned on and off by reloads: what is in flight ends well, and the
// port is free in the end.
func TestHTTP3Reload(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	begun, release := make(chan struct{}, 10), make(chan struct{})
	s := answering(t, func(head, _ string) string {
		if strings.Contains(head, "/slow") {
			begun <- struct{}{}
			<-release
		}
		return okAnswer
	})
	addr := freeBoth()
	text := func(on bool, more string) string {
		return fmt.Sprintf("listeners: {main: {address: %q, http3: %t, tls: {%s}}}\n", addr, on, cert) + forwarding(s, "", "", more)
	}
	g := serve(t, gateway.Options{}, text(false, ""))
	g.authority = a
	free := func() bool {
		c, err := net.ListenPacket("udp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	if !free() {
		t.Fatal("the UDP port is open without http3")
	}
	g.apply(text(true, ""))
	c := g.http3Client()
	if res, body := g.get3(c, "/"); res.StatusCode != 200 || body != "ok" {
		t.Errorf("%v %q", res, body)
	}
	// A reload that leaves it on leaves connections alone.
	f := g.frames3()
	if got := f.status(f.get()); got != "200" {
		t.Error(got)
	}
	g.apply(text(true, "limits: {max_header_size: 16KiB}\n"))
	if got := f.status(f.get()); got != "200" {
		t.Error(got)
	}
	control := f.served()
	slow := f.send(true, headers(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/slow"))
	within(t, "the request arrives", begun)
	g.apply(text(false, ""))
	if kind, _, err := readFrame(control); kind != frameGoAway || err != nil {
		t.Errorf("a frame of type %d, %v", kind, err)
	}
	if got := f.status(f.get()); got != "reset H3_REQUEST_REJECTED" {
		t.Errorf("a request behind the GOAWAY: %s", got)
	}
	if _, err := g.dial3(&quic.Config{HandshakeIdleTimeout: 100 * time.Millisecond}, &tls.Config{}); err == nil {
		t.Error("a connection was taken")
	}
	// On again, while the port is still held for what is in flight.
	g.apply(text(true, ""))
	if res, _ := g.get3(g.http3Client(), "/"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
	g.apply(text(false, ""))
	if free() {
		t.Error("the port was closed under a request")
	}
	close(release)
	if got := f.status(slow); got != "200" {
		t.Errorf("the request in flight: %s", got)
	}
	if got := f.ends(); got != "closed H3_NO_ERROR" {
		t.Error(got)
	}
	once(t, "the port is free", free)
	g.apply(text(true, ""))
	if res, _ := g.get3(g.http3Client(), "/"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

// A UDP port that another one holds: nothing of the configuration is put in force.
func TestHTTP3PortTaken(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	addr := freeBoth()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	g := serve(t, gateway.Options{}, respondOK)
	before := g.Status().Generation
	other := freeBoth()
	c, err := config.Parse("f", []byte(fmt.Sprintf("listeners: {a: {address: %q, http3: true, tls: {%[2]s}}, b: {address: %[3]q, http3: true, tls: {%[2]s}}}\n", other, cert, addr)+respondOK), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Apply(c)
	var listen *gateway.ListenError
	if !errors.As(err, &listen) || !strings.Contains(err.Error(), "listeners.b: cannot listen on the UDP port of "+addr) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v", err)
	}
	if g.Status().Generation != before {
		t.Error("it was put in force")
	}
	for _, network := range []string{"tcp", "udp"} {
		var close io.Closer
		if network == "tcp" {
			close, err = net.Listen(network, other)
		} else {
			close, err = net.ListenPacket(network, other)
		}
		if err != nil {
			t.Errorf("a socket was left open: %v", err)
			continue
		}
		_ = close.Close()
	}
}

// When the gateway drains, connections are told to go away, and what is in flight ends well.
func TestHTTP3Drain(t *testing.T) {
	release := make(chan struct{})
	began := make(chan struct{}, 10)
	s := answering(t, func(head, _ string) string {
		if strings.Contains(head, "/slow") {
			began <- struct{}{}
			<-release
		}
		return okAnswer
	})
	delay := 700 * time.Millisecond
	g := overHTTP3.serve(t, gateway.Options{DrainDelay: delay}, forwarding(s, "", "", ""))
	f := g.frames3()
	control := f.served()
	slow := f.send(true, headers(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/slow"))
	within(t, "the request", began)
	idle := g.frames3()
	if got := idle.status(idle.get()); got != "200" {
		t.Error(got)
	}
	ended := make(chan struct{})
	go func() {
		g.Shutdown(context.Background())
		close(ended)
	}()
	once(t, "it drains", g.Draining)
	p, _ := g.secure(&tls.Config{RootCAs: g.authority.Pool(), ServerName: "api.example"})
	p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if head, _ := p.response(); statusOf(head) != 200 || strings.Contains(head, "Alt-Svc") {
		t.Errorf("%s", head)
	}
	// New connections are served during the delay, and told as well.
	late := g.frames3()
	if got := late.status(late.get()); got != "200" {
		t.Errorf("a request during the delay: %s", got)
	}
	for _, c := range []*frames3{idle, late} {
		if got := c.ends(); got != "closed H3_NO_ERROR" {
			t.Error(got)
		}
	}
	kind, content, err := readFrame(control)
	if kind != frameGoAway || err != nil {
		t.Fatalf("a frame of type %d, %v", kind, err)
	}
	if id, _, _ := quicvarint.Parse(content); id != uint64(slow.StreamID())+4 {
		t.Errorf("GOAWAY %d", id)
	}
	if got := f.status(f.get()); got != "reset H3_REQUEST_REJECTED" {
		t.Errorf("a request behind the GOAWAY: %s", got)
	}
	close(release)
	if got := f.status(slow); got != "200" {
		t.Errorf("the request in flight: %s", got)
	}
	if got := f.ends(); got != "closed H3_NO_ERROR" {
		t.Error(got)
	}
	within(t, "the end", ended)
	if udp, err := net.ListenPacket("udp", g.addr); err != nil {
		t.Error(err)
	} else {
		_ = udp.Close()
	}
}

// A drain does not wait for ever.
func TestHTTP3DrainTimeout(t *testing.T) {
	s, begun, _ := silent(t)
	g := overHTTP3.serve(t, gateway.Options{DrainTimeout: 300 * time.Millisecond}, forwarding(s, "", "", ""))
	f := g.frames3()
	f.get()
	within(t, "the request", begun)
	g.Shutdown(context.Background())
	if got := f.ends(); got != "closed H3_NO_ERROR" {
		t.Error(got)
	}
}

func TestHTTP3Timeouts(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	begins := func(g *gate, content ...[]byte) *frames3 {
		f := g.frames3()
		f.send(false, content...)
		return f
	}
	get := headers(plainFields()...)
	g := three(t, s, "", "limits: {header_timeout: 300ms}\n")
	for name, f := range map[string]*frames3{
		"nothing": g.frames3(), "no frame": begins(g, get[:1]), "half a head": begins(g, get[:len(get)-3]), "a long frame before": begins(g, []byte{0x21, 0x7f, 0xff}),
	} {
		if got := f.ends(); got != "closed H3_NO_ERROR" {
			t.Errorf("%s: %s", name, got)
		}
	}
	g = three(t, s, "", "limits: {idle_timeout: 300ms}\n")
	f := g.frames3()
	if got := f.status(f.get()); got != "200" {
		t.Error(got)
	}
	f.send(false, get[:len(get)-3]) // a head that never comes keeps no connection
	if got := f.ends(); got != "closed H3_NO_ERROR" {
		t.Error(got)
	}
	once(t, "the connections are forgotten", func() bool { return g.connections() == 0 })
}

// A client whose window stays shut, one that sends half a body, and one whose
// request does not end, give way to the stall timeout.
func TestHTTP3Stall(t *testing.T) {
	t.Parallel()
	s := answering(t, func(head, _ string) string {
		return "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + text(300_000)
	})
	g := three(t, s, "streaming: true", "limits: {stall_timeout: 200ms}\n")
	f, err := g.dial3(&quic.Config{InitialStreamReceiveWindow: 1000, MaxStreamReceiveWindow: 1000}, &tls.Config{})
	if err != nil {
		t.Fatal(err)
	}
	f.settings()
	str := f.get()
	once(t, "the answer is given up", func() bool {
		return g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="200"}`) == 1
	})
	if _, err := io.ReadAll(str); !strings.HasPrefix(f.verdict(err), "reset ") {
		t.Errorf("%v", err)
	}
	f = g.frames3()
	post := fieldsWith("content-length", "10")
	post[1] = "POST"
	if got := f.status(f.send(false, headers(post...), data("five!"))); got != "408" {
		t.Errorf("half a body: %s", got)
	}
	if got := f.status(f.send(false, headers(plainFields()...))); got != "408" {
		t.Errorf("a GET without an end: %s", got)
	}
	if got := f.status(f.get()); got != "200" {
		t.Errorf("another request: %s", got)
	}
}

// Connections are counted with those of TCP, and refused where there are too many.
func TestHTTP3Limits(t *testing.T) {
	s, begun, _ := silent(t)
	g := three(t, s, "", "limits: {max_connections_per_ip: 2}\n")
	f := g.frames3()
	f.get()
	within(t, "the request", begun)
	p, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	once(t, "both are counted", func() bool { return g.connections() == 2 })
	if n := g.metric(`sluice_connections{listener="main",state="active"}`); n != 1 {
		t.Errorf("%v active connections", n)
	}
	if _, err := g.dial3(&quic.Config{}, &tls.Config{}); err == nil || !strings.Contains(err.Error(), "CONNECTION_REFUSED") {
		t.Errorf("%v", err)
	}
	_ = p.Close()
	once(t, "the other is forgotten", func() bool { return g.connections() == 1 })
	again := g.frames3()
	again.get()
	within(t, "the request", begun)

	g = overHTTP3.serve(t, gateway.Options{}, strings.Replace(forwarding(s, "", "", "limits: {max_connections: 1}\n"),
		"routes: {", "routes: {own: {match: {paths: [/own]}, respond: {body: own}}, ", 1))
	own := headers(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/own")
	idle := g.frames3()
	if got := idle.status(idle.send(true, own)); got != "200" {
		t.Error(got)
	}
	// Another comes in place of the idle one, once its answer can have arrived.
	once(t, "a connection is taken", func() bool {
		f, err = g.dial3(&quic.Config{}, &tls.Config{})
		return err == nil && f.tries(own) == "200"
	})
	if got := idle.ends(); got != "closed H3_NO_ERROR" {
		t.Error(got)
	}
	f.get()
	within(t, "the request", begun)
	// It may be refused before its own side has noticed that it is open.
	const refused = "closed H3_EXCESSIVE_LOAD"
	switch last, err := g.dial3(&quic.Config{}, &tls.Config{}); {
	case err != nil:
		if got := f.verdict(err); got != refused {
			t.Error(got)
		}
	default:
		if got := last.ends(); got != refused {
			t.Error(got)
		}
	}
	if n := g.metric(`sluice_connections_refused_total{listener="main",reason="max_connections"}`); n < 1 {
		t.Errorf("%v connections were refused", n)
	}
}

// A client that opens streams and resets them at once has no more requests at
// work than it may have streams, and others do not notice.
func TestHTTP3RapidReset(t *testing.T) {
	var mu sync.Mutex
	busy, most, seen := 0, 0, 0
	s := backend(t, func(p *peer) {
		for head := p.head(); head != ""; head = p.head() {
			if strings.HasPrefix(head, "GET /p") {
				p.send(okAnswer)
				continue
			}
			mu.Lock()
			busy++
			seen++
			most = max(most, busy)
			mu.Unlock()
			_, _ = io.Copy(io.Discard, p.r)
			mu.Lock()
			busy--
			mu.Unlock()
			return
		}
	})
	g := three(t, s, "", "")
	f := g.frames3()
	request := headers(":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/slow")
	for i := range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		str, err := f.conn.OpenStreamSync(ctx)
		cancel()
		if err != nil {
			t.Fatal(i, err)
		}
		_, _ = str.Write(request)
		_ = str.Close()
		str.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
		if i == 500 {
			other := g.frames3()
			if got := other.status(other.get()); got != "200" {
				t.Errorf("another client: %s", got)
			}
		}
	}
	once(t, "the calls have ended", func() bool { return g.active() == 0 })
	mu.Lock()
	defer mu.Unlock()
	// The gateway lets a stream go a moment before the backend sees its end.
	t.Logf("%d of 1000 requests reached the backend, %d at once", seen, most)
	if most > 2*250 {
		t.Errorf("%d requests at once", most)
	}
}

// A client may open no more streams than it was told; the transport ends it.
func TestHTTP3StreamLimit(t *testing.T) {
	begun, release := make(chan struct{}, 1000), make(chan struct{})
	s := answering(t, func(string, string) string { begun <- struct{}{}; <-release; return okAnswer })
	g := three(t, s, "", "")
	f := g.frames3()
	var last *quic.Stream
	for range 250 {
		last = f.get()
	}
	for range 250 {
		within(t, "the request", begun)
	}
	if _, err := f.conn.OpenStream(); err == nil {
		t.Error("one more stream was opened")
	}
	close(release)
	if got := f.status(last); got != "200" {
		t.Error(got)
	}
	if got := f.status(f.get()); got != "200" {
		t.Error(got)
	}
	opened := 1 // the control stream
	for ; opened < 100; opened++ {
		if _, err := f.conn.OpenUniStream(); err != nil {
			break
		}
	}
	if opened > 8 {
		t.Errorf("%d unidirectional streams", opened)
	}
}

func TestHTTP3Certificates(t *testing.T) {
	a := certstest.New(t)
	one, oneKey := a.Issue("one", certstest.Leaf{CN: "one", DNS: []string{"one.example"}})
	two, twoKey := a.Issue("two", certstest.Leaf{CN: "two", DNS: []string{"*.two.example"}})
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
listeners: {main: {address: %q, http3: true, tls: {certificates: [{cert: %q, key: %q}, {cert: %q, key: %q}]}}}
routes: {r: {match: {paths: [/]}, respond: {body: one}}, two: {match: {paths: [/], snis: [a.two.example], schemes: [https], methods: [GET]}, respond: {body: two}}}
`, freeBoth(), one, oneKey, two, twoKey))
	f := func(name, subject, want string) {
		t.Helper()
		tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool(), ServerName: name, InsecureSkipVerify: true}}
		defer func() { _ = tr.Close() }()
		res, body := g.get3(&http.Client{Transport: tr, Timeout: patience}, "/")
		if got := res.TLS.PeerCertificates[0].Subject.CommonName; got != subject || body != want {
			t.Errorf("%s: certificate of %s, %q", name, got, body)
		}
	}
	f("one.example", "one", "one")
	f("a.two.example", "two", "two")
	f("other.example", "one", "one")
	a.Issue("two", certstest.Leaf{CN: "fresh", DNS: []string{"*.two.example"}})
	g.RefreshCertificates()
	f("a.two.example", "fresh", "two")
}

// Clients prove who they are as they do over TCP.
func TestHTTP3ClientCertificates(t *testing.T) {
	a, stranger := certstest.New(t), certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	alice := a.Pair(a.Issue("client", certstest.Leaf{CN: "alice", Client: true}))
	foreign := stranger.Pair(stranger.Issue("client", certstest.Leaf{CN: "alice", Client: true}))
	s := answering(t, echoHead)
	f := func(mode string, want int, consumer string, with ...tls.Certificate) {
		t.Helper()
		g := serve(t, gateway.Options{}, fmt.Sprintf("listeners: {main: {address: %q, http3: true, tls: {%s, client_auth: {mode: %s, ca: %q}}}}\n", freeBoth(), cert, mode, a.File)+
			forwarding(s, "", "", "consumers: {alice: {}}\npolicies: {mtls_auth: {}}\n"))
		g.authority = a
		c := g.http3ClientWith(&tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(with) == 0 {
				return new(tls.Certificate), nil
			}
			return &with[0], nil
		}})
		res, err := c.Do(overHTTP3.request(g, "GET", "/", nil))
		if want == 0 {
			if err == nil {
				t.Errorf("%s: %s", mode, res.Status)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != want || consumer != "" && !strings.Contains(string(b), "X-Consumer-ID: "+consumer+"\r\n") {
			t.Errorf("%s: %s\n%s", mode, res.Status, b)
		}
	}
	f("request", 401, "")
	f("request", 200, "alice", alice)
	f("request", 0, "", foreign)
	f("require", 0, "")
	f("require", 200, "alice", alice)
	f("require", 0, "", foreign)
}

// Sessions are resumed, over a reload too, but early data is never taken, and
// not where what clients must prove has changed.
func TestHTTP3Resumption(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := answering(t, func(string, string) string { return okAnswer })
	addr := freeBoth()
	text := func(more string) string {
		return fmt.Sprintf("listeners: {main: {address: %q, http3: true, tls: {%s%s}}}\n", addr, cert, comma(more)) + forwarding(s, "", "", "")
	}
	g := serve(t, gateway.Options{}, text(""))
	g.authority = a
	cache := &waiting{ClientSessionCache: tls.NewLRUClientSessionCache(4), put: make(chan struct{}, 10)}
	f := func(want bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := quic.DialAddrEarly(ctx, addr, &tls.Config{RootCAs: a.Pool(), ServerName: "api.example", NextProtos: []string{"h3"}, ClientSessionCache: cache}, &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseWithError(0, "") }()
		c := &frames3{t: t, conn: conn}
		if got := c.status(c.get()); got != "200" {
			t.Error(got)
		}
		within(t, "a ticket", cache.put)
		if state := conn.ConnectionState(); state.TLS.DidResume != want || state.Used0RTT {
			t.Errorf("resumed: %t, early data: %t", state.TLS.DidResume, state.Used0RTT)
		}
	}
	f(false)
	f(true)
	g.apply(text("hsts: 1h"))
	f(true)
	g.apply(text(fmt.Sprintf("client_auth: {mode: request, ca: %q}", a.File)))
	f(false)
	f(true)
}

// waiting is a cache of sessions that tells when one comes.
type waiting struct {
	tls.ClientSessionCache
	put chan struct{}
}

func (w *waiting) Put(key string, s *tls.ClientSessionState) {
	w.ClientSessionCache.Put(key, s)
	if s != nil {
		w.put <- struct{}{}
	}
}

// A client that moves to another address is known by that one.
func TestHTTP3Migration(t *testing.T) {
	s := answering(t, echoHead)
	g := three(t, s, "", "")
	f := g.frames3()
	from := func() string {
		t.Helper()
		str := f.get()
		if got := f.status(str); got != "200" {
			t.Fatal(got)
		}
		_, body, err := readFrame(str)
		if err != nil {
			t.Fatal(err)
		}
		v, _ := field(string(body), "X-Forwarded-For")
		return v
	}
	if got := from(); got != "127.0.0.1" {
		t.Error(got)
	}
	tr := &quic.Transport{Conn: packets(t, "127.0.0.2:0")}
	defer func() { _ = tr.Close() }()
	path, err := f.conn.AddPath(tr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := path.Probe(ctx); err != nil {
		t.Fatal(err)
	}
	if err := path.Switch(); err != nil {
		t.Fatal(err)
	}
	once(t, "requests come from the other address", func() bool { return from() == "127.0.0.2" })
	if n := g.connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Clients that begin and do not answer, as those of forged addresses, cost no
// others: from a number of them on each has to prove its address first.
func TestHTTP3ForgedAddresses(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := three(t, s, "", "")
	ctx, cancel := context.WithCancel(context.Background())
	var dials sync.WaitGroup
	defer dials.Wait()
	defer cancel()
	addr := udpAddr(t, g.addr)
	dial := func(ctx context.Context, c net.PacketConn) (*quic.Conn, error) {
		return (&quic.Transport{Conn: c}).Dial(ctx, addr, &tls.Config{RootCAs: g.authority.Pool(), ServerName: "api.example", NextProtos: []string{"h3"}}, &quic.Config{})
	}
	watched := func() *watchedPackets { return &watchedPackets{PacketConn: packets(t, "127.0.0.1:0")} }
	for range 100 {
		c := watched()
		c.deaf = true
		dials.Go(func() { _, _ = dial(ctx, c) })
	}
	honest := watched()
	once(t, "an address has to be proved", func() bool {
		c, err := dial(ctx, honest)
		if err != nil {
			t.Fatal(err)
		}
		f := &frames3{t: t, conn: c}
		if got := f.status(f.get()); got != "200" {
			t.Fatal(got)
		}
		_ = c.CloseWithError(0, "")
		if !honest.retried.Load() {
			honest = watched()
			return false
		}
		return true
	})
}

// watchedPackets notes whether a Retry came; deaf, it takes in nothing.
type watchedPackets struct {
	net.PacketConn
	deaf    bool
	retried atomic.Bool
}

func (w *watchedPackets) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, addr, err := w.PacketConn.ReadFrom(p)
		if n > 0 && p[0]&0xf0 == 0xf0 { // RFC 9000, section 17.2.5
			w.retried.Store(true)
		}
		if err != nil || !w.deaf {
			return n, addr, err
		}
	}
}

// What is no handshake leaves nothing behind.
func TestHTTP3Noise(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	var log locked
	g := overHTTP3.serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, forwarding(s, "", "", ""))
	udp, err := net.Dial("udp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	for _, packet := range []string{"", "x", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 1500), "\xc0\x00\x00\x00\x01" + strings.Repeat("\x08", 1300), "\x40" + text(100)} {
		if _, err := io.WriteString(udp, packet); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.dial3(&quic.Config{}, &tls.Config{MaxVersion: tls.VersionTLS13}); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = quic.DialAddr(ctx, g.addr, &tls.Config{RootCAs: g.authority.Pool(), ServerName: "api.example", NextProtos: []string{"h2"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "no application protocol") {
		t.Errorf("another protocol: %v", err)
	}
	var unknown x509.UnknownAuthorityError
	_, err = quic.DialAddr(ctx, g.addr, &tls.Config{ServerName: "api.example", NextProtos: []string{"h3"}}, nil)
	if err == nil || !errors.As(err, &unknown) && !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("an unknown authority: %v", err)
	}
	if res, body := g.get3(g.http3Client(), "/"); res.StatusCode != 200 || body != "ok" {
		t.Error(res.StatusCode, body)
	}
	if strings.Contains(log.String(), "ERROR") {
		t.Error(log.String())
	}
}

// A gateway that is shut down leaves nothing behind, whatever its clients do.
func TestHTTP3ShutdownLeavesNothing(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	addr := freeBoth()
	was := goleak.IgnoreCurrent()
	g := gateway.New(gateway.Options{Registry: registry.All(), DrainTimeout: time.Second})
	x := &gate{Gateway: g, t: t, authority: a, addr: addr}
	text := func(on bool) string {
		return fmt.Sprintf("listeners: {main: {address: %q, http3: %t, tls: {%s}}}\n", addr, on, cert) + forwarding(s, "", "", "")
	}
	x.apply(text(true))
	f := x.frames3()
	if got := f.status(f.get()); got != "200" {
		t.Error(got)
	}
	f.send(false, headers(plainFields()...)[:5])
	half := x.frames3()
	x.apply(text(false))
	x.apply(text(true))
	last := x.frames3()
	g.Shutdown(context.Background())
	for _, c := range []*frames3{f, half, last} {
		if got := c.ends(); got != "closed H3_NO_ERROR" {
			t.Error(got)
		}
		_ = c.transport.Close()
	}
	goleak.VerifyNone(t, was,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"))
}

// http3Allocations bounds what a plain request over HTTP/3 allocates: the engine
// makes its stream, request, header maps, contexts and goroutines anew each time,
// and some for packets.
const http3Allocations = 130

func TestHTTP3Allocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
listeners: {main: {address: %q, http3: true, tls: {%s}}}
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/api]}, service: s}}
`, freeBoth(), cert, backendProcess(t)))
	const measured = 1000
	client := startHelper(t, "client3", "")
	send := func(n int) {
		t.Helper()
		if _, err := fmt.Fprintf(client.in, "%s %d\n", g.addr, n); err != nil {
			t.Fatal(err)
		}
		if got := client.line(); got != strconv.Itoa(n) {
			t.Fatalf("%s of %d answers are good", got, n)
		}
	}
	send(300)
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	send(200)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send(measured)
	runtime.ReadMemStats(&after)
	n := after.Mallocs - before.Mallocs
	t.Logf("%.1f allocations, %d bytes for a request", float64(n)/measured, (after.TotalAlloc-before.TotalAlloc)/measured)
	if n > http3Allocations*measured {
		t.Errorf("%d allocations for %d requests", n, measured)
	}
}

func init() {
	if os.Getenv(helperRole) == "client3" {
		helpRequests(&http.Client{Transport: &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}, "https")
		os.Exit(0)
	}
}
