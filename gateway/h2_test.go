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
	t.Parallel()
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
	get, with := plainFields(), fieldsWith
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
	for _, c := range malformed() {
		verdict(c.name, c.h2, func(f *frames) { f.headers(1, true, c.fields...) })
	}
	// Section 8.1.1
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
	t.Parallel()
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
	left := lines() // in whichever order they were written
	for _, w := range want {
		i := slices.IndexFunc(left, func(line string) bool {
			return strings.Contains(line, fmt.Sprintf(`"status":%d,`, w.status)) && strings.Contains(line, `"reason":"`+w.reason+`"`) && strings.Contains(line, `"client_ip":"127.0.0.1"`)
		})
		if i < 0 {
			t.Fatalf("no line of %d %s is left among %q", w.status, w.reason, left)
		}
		left = slices.Delete(left, i, i+1)
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
			_ = f.conn.SetDeadline(time.Now().Add(6 * patience)) // what the system holds of answers takes a busy machine its time
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
	helpRequests(&http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}, "http")
}

// helpRequests sends what the lines of the input want over c.
func helpRequests(c *http.Client, scheme string) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var addr string
		var count int
		if _, err := fmt.Sscan(in.Text(), &addr, &count); err != nil {
			panic(err)
		}
		good := 0
		for range count {
			res, err := c.Get(scheme + "://" + addr + "/api/users/7?a=b")
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
