package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"

	"sluice/gateway"
	"sluice/gateway/wswire"
)

// bridging runs a gateway whose only route has the action websocket.
func bridging(t *testing.T, address, settings, more string) *gate {
	t.Helper()
	return serve(t, gateway.Options{DrainTimeout: patience}, bridged(address, settings, more))
}

func bridged(address, settings, more string) string {
	return fmt.Sprintf("services: {s: {endpoints: [\"http://%s\"]}}\nroutes: {r: {match: {paths: [/ws]}, websocket: {service: s, %s}}}\n%s", address, settings, more)
}

// dialSocket opens a WebSocket to the gateway.
func (g *gate) dialSocket(target string, header ...string) *websocket.Conn {
	g.t.Helper()
	ws, res, err := g.tryDial(target, header...)
	if err != nil {
		status := ""
		if res != nil {
			status = res.Status
		}
		g.t.Fatal(err, status)
	}
	g.t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	return ws
}

func (g *gate) tryDial(target string, header ...string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	d := websocket.Dialer{HandshakeTimeout: patience}
	for _, field := range header {
		name, value, _ := strings.Cut(field, ": ")
		if name == "Sec-WebSocket-Protocol" {
			d.Subprotocols = strings.Split(value, ", ")
			continue
		}
		h.Add(name, value)
	}
	return d.Dial("ws://"+g.addr+target, h)
}

// said sends a text and returns the message that comes.
func said(t *testing.T, ws *websocket.Conn, text string) string {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return heard(t, ws)
}

func heard(t *testing.T, ws *websocket.Conn) string {
	t.Helper()
	_, m, err := ws.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	return string(m)
}

// closedWith reads until the connection ends, and wants this code.
func closedWith(t *testing.T, ws *websocket.Conn, code int) {
	t.Helper()
	for {
		_, m, err := ws.ReadMessage()
		if err == nil {
			t.Logf("before the close: %s", m)
			continue
		}
		var closed *websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != code {
			t.Errorf("ended with %v, want %d", err, code)
		}
		return
	}
}

// plainBackend answers what it is asked.
func plainBackend(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestMessagesBecomeRequests(t *testing.T) {
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.HasPrefix(r.URL.Path, "/plain"):
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "a \"text\"")
		case strings.HasPrefix(r.URL.Path, "/bytes"):
			_, _ = w.Write([]byte{0xff, 0})
		case strings.HasPrefix(r.URL.Path, "/nothing"):
			w.WriteHeader(204)
		case strings.HasPrefix(r.URL.Path, "/fails"):
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(409)
			_, _ = io.WriteString(w, `{"no":"luck"}`)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("ETag", `"7"`)
			_ = json.NewEncoder(w).Encode(map[string]any{
				"method": r.Method, "target": r.URL.String(), "body": string(body), "type": r.Header.Get("Content-Type"), "user": r.Header.Get("X-User"),
				"kind": r.Header.Get("X-Kind"), "leaks": r.Header.Get("Sec-Websocket-Key") + r.Header.Get("Upgrade"), "host": r.Header.Get("X-Forwarded-Host") != "",
			})
		}
	})
	g := bridging(t, address, `to: http, method: "${message.method}", path: "/${message.to}", query: {q: "${message.q}", none: "${message.none}"}, headers: {X-Kind: "${message.kind}"}, body: "${message.body}", response_headers: [ETag]`, "")
	ws := g.dialSocket("/ws?a=b", "X-User: alice")
	f := func(send, want string) {
		t.Helper()
		if got := said(t, ws, send); got != want {
			t.Errorf("%s:\n got %s\nwant %s", send, got, want)
		}
	}
	f(`{"method":"PUT","to":"x y","q":"1&2","kind":"k","body":{"a": 1},"id":"one"}`,
		`{"id":"one","status":200,"headers":{"ETag":"\"7\""},"body":{"body":"{\"a\": 1}","host":true,"kind":"k","leaks":"","method":"PUT","target":"/x%20y?q=1%262","type":"application/json","user":"alice"}}`)
	f(`{"method":"POST","to":"x","body":"text","id":7}`,
		`{"id":7,"status":200,"headers":{"ETag":"\"7\""},"body":{"body":"\"text\"","host":true,"kind":"","leaks":"","method":"POST","target":"/x","type":"application/json","user":"alice"}}`)
	f(`{"method":"DELETE","to":"plain","body":1}`, `{"id":3,"status":200,"body":"a \"text\""}`)
	f(`{"method":"POST","to":"bytes","body":1}`, `{"id":4,"status":200,"body_base64":"/wA="}`)
	f(`{"method":"POST","to":"nothing","body":1}`, `{"id":5,"status":204}`)
	f(`{"method":"POST","to":"fails","body":1}`, `{"id":6,"status":409,"body":{"no":"luck"}}`)
	f(`{"method":"POST","to":"x"}`,
		`{"id":7,"status":200,"headers":{"ETag":"\"7\""},"body":{"body":"","host":true,"kind":"","leaks":"","method":"POST","target":"/x","type":"","user":"alice"}}`)
	// What can not be made a request is said, and the connection goes on.
	for i, bad := range []string{
		`no json`, `{"method":"POST","to":"../x","body":1}`, `{"method":"POST","to":"a/b","body":1}`, `{"method":"POST","to":"","body":1}`, `{"method":"POST","to":["x"],"body":1}`,
		`{"method":"CONNECT","to":"x","body":1}`, `{"method":"POST","to":"x","body":1,"kind":"a\r\nb"}`,
	} {
		if got := said(t, ws, bad); !strings.HasPrefix(got, fmt.Sprintf(`{"id":%d,"status":400,"body":{"type":"urn:sluice:message_value"`, 8+i)) {
			t.Errorf("%s: %s", bad, got)
		}
	}
	if got := said(t, ws, `{"method":"POST","to":"x","body":null,"id":"last"}`); !strings.HasPrefix(got, `{"id":"last","status":200`) {
		t.Error(got)
	}
}

func TestMessagesAsTheyAre(t *testing.T) {
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/x-echo")
		_, _ = fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), body)
	})
	g := bridging(t, address, `to: http, answer: body, subprotocols: [v2, v1]`, "")
	ws := g.dialSocket("/ws/7?a=b", "Sec-WebSocket-Protocol: v1, v2")
	if ws.Subprotocol() != "v2" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	f := func(kind int, send, want string) {
		t.Helper()
		if err := ws.WriteMessage(kind, []byte(send)); err != nil {
			t.Fatal(err)
		}
		if got := heard(t, ws); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(websocket.TextMessage, `{"a":1}`, `POST /ws/7?a=b application/json {"a":1}`)
	f(websocket.TextMessage, `hello`, `POST /ws/7?a=b text/plain; charset=utf-8 hello`)
	f(websocket.TextMessage, ``, `POST /ws/7?a=b text/plain; charset=utf-8 `)
	f(websocket.BinaryMessage, "\xff\x00", "POST /ws/7?a=b application/octet-stream \xff\x00")
	f(websocket.TextMessage, text(60<<10), "POST /ws/7?a=b text/plain; charset=utf-8 "+text(60<<10))
	ws = g.dialSocket("/ws", "Sec-WebSocket-Protocol: v3")
	if ws.Subprotocol() != "" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
}

// Errors of the service are answers, and the connection goes on.
func TestMessagesWithoutService(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	t.Cleanup(free)
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-release
		case "/large":
			_, _ = io.WriteString(w, text(5000))
		case "/cut":
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, "cut")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			panic(http.ErrAbortHandler)
		}
	})
	g := bridging(t, address, `to: http, path: "/${message.to}", timeout: 300ms, max_answer: 4KiB`, "")
	ws := g.dialSocket("/ws")
	for to, want := range map[string]string{
		"slow": `"status":504,"body":{"type":"urn:sluice:upstream_timeout"`, "large": `"status":502,"body":{"type":"urn:sluice:upstream_message_too_large"`,
		"cut": `"status":502,"body":{"type":"urn:sluice:upstream_truncated"`, "gone": `"status":502,"body":{"type":"urn:sluice:upstream_reset"`,
	} {
		if got := said(t, ws, `{"id":"x","to":"`+to+`"}`); !strings.HasPrefix(got, `{"id":"x",`+want) {
			t.Errorf("%s: %s", to, got)
		}
	}
	free()
}

// Answers come in the order of the messages, however long each takes; no more than in_flight are asked for at once.
func TestMessagesInOrder(t *testing.T) {
	var now, most atomic.Int64
	release := make(chan string)
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		body, _ := io.ReadAll(r.Body)
		if string(body) == "0" {
			<-release
		}
		_, _ = w.Write(body)
	})
	f := func(settings string) []string {
		g := bridging(t, address, "to: http, in_flight: 3, "+settings, "")
		ws := g.dialSocket("/ws")
		for i := range 20 {
			if err := ws.WriteMessage(websocket.TextMessage, []byte(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		if strings.Contains(settings, "false") {
			// The others have their answers while the first waits.
			for range 19 {
				got = append(got, heard(t, ws))
			}
			release <- ""
			return append(got, heard(t, ws))
		}
		release <- ""
		for range 20 {
			got = append(got, heard(t, ws))
		}
		return got
	}
	for i, got := range f("answer: body") {
		if got != fmt.Sprint(i) {
			t.Fatalf("answer %d is %s", i, got)
		}
	}
	got := f("ordered: false")
	if got[19] != `{"id":1,"status":200,"body":"0"}` {
		t.Errorf("%v", got)
	}
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
}

// A stream of events becomes messages as they come, and holds nothing up.
func TestEventsBecomeMessages(t *testing.T) {
	step := make(chan string)
	gone := make(chan struct{}, 10)
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			_, _ = io.WriteString(w, "other")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for {
			select {
			case s := <-step:
				if s == "end" {
					return
				}
				_, _ = io.WriteString(w, s)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				gone <- struct{}{}
				return
			}
		}
	})
	g := bridging(t, address, `to: http, path: "/${message.to}"`, "")
	ws := g.dialSocket("/ws")
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"id":"s","to":"events"}`)); err != nil {
		t.Fatal(err)
	}
	f := func(send, want string) {
		t.Helper()
		step <- send
		if got := heard(t, ws); got != want {
			t.Errorf("%q: %s, want %s", send, got, want)
		}
	}
	f(": comment\n\ndata: {\"a\":1}\n\n", `{"id":"s","data":{"a":1}}`)
	f("event: tick\nid: 5\ndata: one\ndata:two\n\n", `{"id":"s","event":"tick","data":"one\u000atwo","last_event_id":"5"}`)
	f("data: three\r\n\r\n", `{"id":"s","data":"three","last_event_id":"5"}`)
	f("data: four\r\r", `{"id":"s","data":"four","last_event_id":"5"}`)
	if got := said(t, ws, `{"id":"o","to":"other"}`); got != `{"id":"o","status":200,"body":"other"}` {
		t.Error(got)
	}
	f("end", `{"id":"s","end":true}`)
	if got := said(t, ws, `{"id":"p","to":"other"}`); got != `{"id":"p","status":200,"body":"other"}` {
		t.Error(got)
	}
	// A client that leaves ends its streams.
	if err := ws.WriteMessage(websocket.TextMessage, []byte(`{"id":"s","to":"events"}`)); err != nil {
		t.Fatal(err)
	}
	f("data: x\n\n", `{"id":"s","data":"x"}`)
	_ = ws.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the service is not told that its client has left")
	}

	// One that begins with the connection ends with it.
	g = bridging(t, address, `to: http, open: /events, answer: body`, "")
	ws = g.dialSocket("/ws")
	f("data: pushed\n\n", "pushed")
	step <- "end"
	closedWith(t, ws, websocket.CloseNormalClosure)
	g = bridging(t, plainBackend(t, http.NotFound), `to: http, open: /events`, "")
	ws = g.dialSocket("/ws")
	if got := heard(t, ws); !strings.HasPrefix(got, `{"id":0,"status":404,`) {
		t.Error(got)
	}
	closedWith(t, ws, websocket.CloseInternalServerErr)
}

func echoing(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
}

// What a client does wrong, said by its close code (RFC 6455, section 7.4.1).
func TestSocketCloseCodes(t *testing.T) {
	address := plainBackend(t, echoing)
	g := bridging(t, address, `to: http, answer: body, max_message: 1KiB, rate: {messages: 20, per: 1h}`, "")
	f := func(code int, frames string) {
		t.Helper()
		c := g.raw()
		c.send(frames)
		got := c.closeCode()
		if got != code {
			t.Errorf("%x: closed with %d, want %d", abbreviate(frames), got, code)
		}
	}
	masked := func(first byte, payload string) string { return maskedFrame(first, payload) }
	f(1007, masked(0x81, "\xff"))
	f(1007, masked(0x01, "\xce")+masked(0x80, "\x28")) // invalid only as a whole
	f(1009, masked(0x81, text(1025)))
	f(1009, masked(0x01, text(1000))+masked(0x00, text(24))+masked(0x80, "x"))
	f(1002, masked(0x83, "reserved opcode"))
	f(1002, masked(0xc1, "compressed, which was not agreed"))
	f(1002, masked(0xa1, "RSV2"))
	f(1002, "\x81\x01x") // not masked
	f(1002, masked(0x80, "continues nothing"))
	f(1002, masked(0x01, "begins")+masked(0x81, "another"))
	f(1002, masked(0x09, "a ping in pieces"))
	f(1002, masked(0x89, text(126)))
	f(1002, masked(0x88, "\x03\xec")) // 1004
	f(1002, masked(0x88, "\x03\xed")) // 1005
	f(1002, masked(0x88, "\x03\xe8\xff"))
	f(1002, masked(0x88, "\x03")) // half a code
	f(1009, "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00mask")
	f(1008, strings.Repeat(masked(0x89, ""), 21))
	f(1008, strings.Repeat(masked(0x81, "x"), 21))
	f(1000, masked(0x88, "\x03\xe8bye"))
	f(3333, masked(0x88, "\x0d\x05"))
	f(1005, masked(0x88, ""))
	// Good ones: pieces, with pings between them, of a rune in two pieces; 0, 1 and as many bytes as may be.
	c := g.raw()
	c.send(masked(0x01, "\xce") + masked(0x89, "p") + masked(0x00, "\xba") + masked(0x80, ""))
	c.frame(0x8a, "p")
	c.frame(0x81, "\xce\xba")
	c.send(masked(0x82, "") + masked(0x82, text(1024)))
	c.frame(0x81, "") // no bytes are text
	c.frame(0x81, text(1024))
}

// raw is a WebSocket spoken raw.
func (g *gate) raw() *peer {
	g.t.Helper()
	c := g.client()
	c.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	head := c.head()
	if v, _ := field(head, "Sec-WebSocket-Accept"); statusOf(head) != 101 || v != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		c.fail("%s", head)
	}
	return c
}

// maskedFrame is a frame of a client, masked with a key that shows where it is forgotten.
func maskedFrame(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = append(b, 0x80|126, byte(n>>8), byte(n))
	default:
		b = append(b, 0x80|127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	key := "\x37\xfa\x21\x3d"
	b = append(b, key...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i&3])
	}
	return string(b)
}

// readFrame reads a frame that is not masked.
func (p *peer) readFrame() (first byte, payload string) {
	p.t.Helper()
	head := p.bytes(2)
	n := int(head[1])
	switch n {
	case 126:
		b := p.bytes(2)
		n = int(b[0])<<8 | int(b[1])
	case 127:
		b := p.bytes(8)
		n = int(b[4])<<24 | int(b[5])<<16 | int(b[6])<<8 | int(b[7])
	}
	if n&0x80 != 0 && head[1]&0x80 != 0 {
		p.fail("a frame of the gateway is masked: %x", head)
	}
	return head[0], p.bytes(n)
}

func (p *peer) frame(first byte, payload string) {
	p.t.Helper()
	if f, got := p.readFrame(); f != first || got != payload {
		p.fail("frame %x %q, want %x %q", f, abbreviate(got), first, abbreviate(payload))
	}
}

// closeCode reads up to the close frame, and wants nothing behind it; 1005 is one without a code.
func (p *peer) closeCode() int {
	p.t.Helper()
	for {
		first, payload := p.readFrame()
		if first != 0x88 {
			continue
		}
		if len(payload) < 2 {
			return 1005
		}
		return int(payload[0])<<8 | int(payload[1])
	}
}

func TestSocketHandshake(t *testing.T) {
	g := bridging(t, plainBackend(t, echoing), "to: http", "")
	f := func(request, reason string, status int, more string) {
		t.Helper()
		c := g.client()
		c.send(request)
		if head := c.refused(status, reason); !strings.Contains(head, more) {
			t.Errorf("%s", head)
		}
	}
	const (
		good = "Host: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n"
		key  = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	)
	f("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n", "websocket_required", 426, "Upgrade: websocket\r\n")
	f("GET /ws HTTP/1.1\r\n"+strings.Replace(good, "WebSocket", "h2c", 1)+key+"\r\n", "websocket_required", 426, "")
	f("GET /ws HTTP/1.1\r\n"+strings.Replace(good, "keep-alive, Upgrade", "keep-alive", 1)+key+"\r\n", "websocket_required", 426, "")
	f("GET /ws HTTP/1.0\r\n"+good+key+"\r\n", "websocket_required", 426, "")
	f("GET /ws HTTP/1.1\r\n"+strings.Replace(good, "13", "8", 1)+key+"\r\n", "websocket_required", 426, "Sec-WebSocket-Version: 13\r\n")
	f("POST /ws HTTP/1.1\r\n"+good+key+"Content-Length: 0\r\n\r\n", "method_not_allowed", 405, "Allow: GET\r\n")
	f("GET /ws HTTP/1.1\r\n"+good+"\r\n", "bad_handshake", 400, "")
	f("GET /ws HTTP/1.1\r\n"+good+key+key+"\r\n", "bad_handshake", 400, "")
	f("GET /ws HTTP/1.1\r\n"+good+strings.Replace(key, "dGhl", "d", 1)+"\r\n", "bad_handshake", 400, "")
	// Frames may come with the handshake, and policies see it.
	g = bridging(t, plainBackend(t, echoing), "to: http, answer: body", "policies: {api_key: {header: X-Key}}\n"+
		"consumers: {alice: {api_keys: [{id: a, hash: \"sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"}]}}\n") // "alice"
	f("GET /ws HTTP/1.1\r\n"+good+key+"\r\n", "credential_missing", 401, "")
	c := g.client()
	c.send("GET /ws HTTP/1.1\r\n" + good + key + "X-Key: alice\r\n\r\n" + maskedFrame(0x81, "early"))
	if head := c.head(); statusOf(head) != 101 || !strings.Contains(head, "X-Correlation-ID: ") || strings.Contains(head, "Content-Length") {
		t.Errorf("%s", head)
	}
	c.frame(0x81, "early")
}

func TestSocketConnectionsBounded(t *testing.T) {
	g := bridging(t, plainBackend(t, echoing), "to: http, answer: body, max_connections: 2", "")
	one, two := g.dialSocket("/ws"), g.dialSocket("/ws")
	said(t, one, "x")
	said(t, two, "x")
	_, res, err := g.tryDial("/ws")
	if err == nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Fatalf("%v %v", err, res)
	}
	// A place becomes free when one ends, and stays taken over a reload.
	g.apply(bridged("127.0.0.1:1", "to: http, answer: body, max_connections: 2", ""))
	if _, res, err := g.tryDial("/ws"); err == nil || res.StatusCode != 503 {
		t.Fatalf("%v %v", err, res)
	}
	_ = one.Close()
	once(t, "there is room again", func() bool {
		ws, _, err := g.tryDial("/ws")
		if err == nil {
			_ = ws.Close()
		}
		return err == nil
	})
	said(t, two, "x")
}

func TestSocketIdleAndPing(t *testing.T) {
	address := plainBackend(t, echoing)
	ws := bridging(t, address, "to: http, idle_timeout: 150ms", "").dialSocket("/ws")
	closedWith(t, ws, websocket.CloseGoingAway)
	// A client that answers pings stays, one that does not is gone.
	g := bridging(t, address, "to: http, answer: body, ping: 100ms", "")
	ws = g.dialSocket("/ws")
	pings := make(chan struct{}, 100)
	answer := ws.PingHandler()
	ws.SetPingHandler(func(data string) error {
		select {
		case pings <- struct{}{}:
		default:
		}
		return answer(data)
	})
	read := make(chan string, 1)
	go func() {
		_, m, err := ws.ReadMessage()
		read <- fmt.Sprint(string(m), err)
	}()
	for range 3 {
		select {
		case <-pings:
		case <-time.After(patience):
			t.Fatal("no ping")
		}
	}
	_ = ws.WriteMessage(websocket.TextMessage, []byte("still here"))
	if got := <-read; got != "still here<nil>" {
		t.Error(got)
	}
	c := g.raw()
	c.frame(0x89, "")
	c.ended()
	once(t, "the dead one is counted", func() bool {
		return g.metric(`sluice_websocket_closes_total{route="r",by="gateway",code="1006"}`) >= 1
	})
}

// A drain lets what is under way have its answer, and says 1001; a reload that takes the route away says 1012, others nothing.
func TestSocketsGoAway(t *testing.T) {
	release := make(chan struct{})
	asked := make(chan struct{}, 10)
	address := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) == "wait" {
			asked <- struct{}{}
			<-release
		}
		_, _ = w.Write(body)
	})
	const settings = "to: http, answer: body"
	g := bridging(t, address, settings, "")
	ws := g.dialSocket("/ws")
	said(t, ws, "x")
	g.apply(bridged(address, settings, "policies: {rate_limit: {requests: 1000, per: 1s}}\n"))
	said(t, ws, "y")
	g.apply(bridged(address, settings+", in_flight: 2", ""))
	said(t, ws, "z")
	g.apply("routes: {other: {match: {paths: [/other]}, respond: {status: 200}}}\n")
	closedWith(t, ws, websocket.CloseServiceRestart)

	g = bridging(t, address, settings, "")
	ws = g.dialSocket("/ws")
	if err := ws.WriteMessage(websocket.TextMessage, []byte("wait")); err != nil {
		t.Fatal(err)
	}
	<-asked
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		g.Shutdown(ctx)
	}()
	once(t, "it drains", g.Draining)
	close(release)
	if got := heard(t, ws); got != "wait" {
		t.Error(got)
	}
	closedWith(t, ws, websocket.CloseGoingAway)
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the drain does not end")
	}
}

func TestSocketMetricsAndLog(t *testing.T) {
	path := t.TempDir() + "/access.log"
	g := bridging(t, plainBackend(t, echoing), "to: http, answer: body, max_message: 10B", fmt.Sprintf("policies: {access_log: {path: %q}}\n", path))
	ws := g.dialSocket("/ws")
	said(t, ws, "one")
	said(t, ws, "two")
	series := func(name string) float64 { return g.metric("sluice_websocket_" + name) }
	if series(`connections{route="r"}`) != 1 || series(`messages_total{direction="in",route="r"}`) != 2 || series(`messages_total{direction="out",route="r"}`) != 2 ||
		series(`bytes_total{direction="in",route="r"}`) != 18 || series(`bytes_total{direction="out",route="r"}`) != 10 {
		var b strings.Builder
		_ = g.WriteMetrics(&b)
		t.Errorf("%s", b.String())
	}
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		said(t, ws, "on")
	}
	_ = ws.WriteMessage(websocket.TextMessage, []byte("more than ten"))
	closedWith(t, ws, websocket.CloseMessageTooBig)
	once(t, "it has ended", func() bool {
		return series(`connections{route="r"}`) == 0 && series(`closes_total{route="r",by="gateway",code="1009"}`) == 1
	})
	once(t, "it is logged", func() bool {
		line := logText(t, path)
		return strings.Contains(line, `"status":101`) && strings.Contains(line, `"reason":"websocket_message_too_large"`) && strings.Contains(line, `"service":"s"`)
	})
	// The time of the connection is not the gateway's.
	if all, own := g.metric(`sluice_request_duration_seconds_sum{route="r"}`), g.metric(`sluice_overhead_seconds_sum{route="r"}`); all-own < 0.15 {
		t.Errorf("of %v s %v are the gateway's", all, own)
	}
}

func TestRequestsBecomeMessages(t *testing.T) {
	s := sockets(t)
	g := bridging(t, s.addr, `to: websocket, timeout: 5s, max_message: 1MiB, max_answer: 1MiB`, "")
	f := func(body, contentType, wantType string) {
		t.Helper()
		res, err := http.Post("http://"+g.addr+"/ws", contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 200 || string(got) != body || res.Header.Get("Content-Type") != wantType {
			t.Errorf("%d %v %q", res.StatusCode, res.Header, abbreviate(string(got)))
		}
	}
	f(`{"a":1}`, "application/json", "application/json")
	f("text", "text/plain", "text/plain; charset=utf-8")
	f("\xff", "application/octet-stream", "application/octet-stream")
	f(text(1<<20), "text/plain", "text/plain; charset=utf-8")
	c := g.client()
	c.send("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\nbegin")
	c.refused(413, "body_too_large")
	// The message is made of the request.
	g = bridging(t, s.addr, `to: websocket, timeout: 1s, body: "{\"q\":\"${query.q}\"}", message: binary, content_type: application/x-answer, headers: {X-A: "${query.q}"}, query: {q: "${query.q}"}, path: /made`, "")
	c = g.client()
	c.send("GET /ws?q=7 HTTP/1.1\r\nHost: a\r\n\r\n")
	if head := c.wants(200, `{"q":"7"}`); !strings.Contains(head, "Content-Type: application/x-answer\r\n") {
		t.Error(head)
	}
}

func TestRequestsWithoutAnswer(t *testing.T) {
	f := func(what string, status int, reason string, answer func(p *peer, key string)) {
		t.Helper()
		s := backend(t, func(p *peer) {
			head := p.head()
			if head == "" {
				return
			}
			key, _ := field(head, "Sec-WebSocket-Key")
			answer(p, key)
		})
		g := bridging(t, s.addr, `to: websocket, timeout: 300ms, max_answer: 100B`, "")
		c := g.client()
		c.send("POST /ws HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
		head, body := c.response()
		if statusOf(head) != status || !strings.Contains(body, "urn:sluice:"+reason+`"`) {
			t.Errorf("%s: %s%s", what, head, body)
		}
	}
	silent := func(p *peer) { _, _ = io.Copy(io.Discard, p.r) }
	switched := func(then func(p *peer)) func(p *peer, key string) {
		return func(p *peer, key string) {
			p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n\r\n")
			then(p)
		}
	}
	f("no answer to the handshake", 504, "upstream_timeout", func(p *peer, _ string) { silent(p) })
	f("no message", 504, "upstream_timeout", switched(silent))
	f("the end", 502, "websocket_closed", switched(func(p *peer) { p.send("\x88\x02\x03\xf3") }))
	f("the end without a word", 502, "websocket_closed", switched(func(*peer) {}))
	f("half a message", 502, "websocket_closed", switched(func(p *peer) { p.send("\x81\x05He") }))
	f("too large", 502, "upstream_message_too_large", switched(func(p *peer) { p.send("\x81\x7e\x00\x80" + text(128)); silent(p) }))
	f("masked", 502, "upstream_malformed", switched(func(p *peer) { p.send(maskedFrame(0x81, "x")); silent(p) }))
	f("not UTF-8", 502, "upstream_malformed", switched(func(p *peer) { p.send("\x81\x01\xff"); silent(p) }))
	f("another key", 502, "websocket_refused", func(p *peer, _ string) {
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept("x") + "\r\n\r\n")
		silent(p)
	})
	f("another protocol", 502, "websocket_refused", func(p *peer, key string) {
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n\r\n")
		silent(p)
	})
	f("an extension that was not asked for", 502, "websocket_refused", func(p *peer, key string) {
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n\r\n")
		silent(p)
	})
	f("HTTP", 502, "websocket_refused", func(p *peer, _ string) { p.send(okAnswer) })
	f("no HTTP", 502, "upstream_malformed", func(p *peer, _ string) { p.send("no HTTP at all\r\n\r\n") })
	g := bridging(t, "127.0.0.1:1", "to: websocket", "")
	c := g.client()
	c.send("GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")
	c.refused(502, "upstream_connect")
}

// A client of server-sent events gets the messages of a service as they come.
func TestMessagesBecomeEvents(t *testing.T) {
	step := make(chan string)
	ended := make(chan struct{}, 10)
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		key, _ := field(head, "Sec-WebSocket-Key")
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n\r\n")
		gone := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, p.r)
			close(gone)
		}()
		for {
			select {
			case m := <-step:
				_, _ = io.WriteString(p.conn, m)
			case <-gone:
				ended <- struct{}{}
				return
			}
		}
	})
	g := bridging(t, s.addr, `to: websocket, timeout: 200ms`, "")
	open := func() *peer {
		c := g.client()
		c.send("GET /ws HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
		if head := c.head(); statusOf(head) != 200 || !strings.Contains(head, "text/event-stream") {
			c.fail("%s", head)
		}
		return c
	}
	c := open()
	wants := func(want string) {
		t.Helper()
		if got, _ := c.chunk(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); { // longer than one answer may take
		step <- "\x81\x03one"
		wants("data: one\n\n")
	}
	step <- "\x82\x0atwo\nt\r\nree"
	wants("data: two\ndata: t\ndata: ree\n\n")
	step <- "\x88\x02\x03\xe8"
	if _, more := c.chunk(); more {
		t.Error("the events do not end")
	}
	<-ended
	c = open()
	step <- "\x88\x02\x03\xf3"
	if got, _ := c.chunk(); !strings.HasPrefix(got, "event: error\ndata: {\"type\":\"urn:sluice:websocket_closed\"") {
		t.Errorf("%q", got)
	}
	<-ended
	c = open()
	step <- "\x81\x01x"
	wants("data: x\n\n")
	c.close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the service is not told that its client has left")
	}
}

func accept(key string) string { return string(wswire.AppendAccept(nil, []byte(key))) }

// logText is what an access log has.
func logText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}
