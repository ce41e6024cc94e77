package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/valyala/fasthttp"

	"sluice/gateway"
)

// switching is a service that takes up every WebSocket and speaks it raw.
func switching(t *testing.T, then func(p *peer)) *server {
	t.Helper()
	return backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		key, _ := field(head, "Sec-WebSocket-Key")
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n\r\n")
		then(p)
	})
}

// passing runs a gateway that passes WebSockets on.
func passing(t *testing.T, s *server, limits string) *gate {
	t.Helper()
	if limits != "" {
		limits = "policies: {websocket_limit: {" + limits + "}}"
	}
	return forward(t, s, "", limits, "")
}

// ear has what a service got, to the end of each connection.
type ear struct{ got chan string }

func hears(t *testing.T) (*server, *ear) {
	w := &ear{got: make(chan string, 10)}
	return switching(t, func(p *peer) {
		_ = p.conn.SetDeadline(time.Time{}) // heard says when it takes too long
		b, _ := io.ReadAll(p.r)
		w.got <- string(b)
	}), w
}

func (w *ear) heard(t *testing.T) string {
	t.Helper()
	select {
	case s := <-w.got:
		return s
	case <-time.After(patience):
		t.Fatal("the service's connection does not end")
	}
	return ""
}

// unmask takes the last frame of what a service got apart: one that the gateway has put there.
func unmask(t *testing.T, wire string) (before string, first byte, payload string) {
	t.Helper()
	for at := 0; at < len(wire); {
		n := int(wire[at+1] & 0x7f)
		head := 6
		switch n {
		case 126:
			n, head = int(wire[at+2])<<8|int(wire[at+3]), 8
		case 127:
			n, head = int(wire[at+6])<<24|int(wire[at+7])<<16|int(wire[at+8])<<8|int(wire[at+9]), 14
		}
		if wire[at+1]&0x80 == 0 {
			t.Fatalf("a frame for the service is not masked: %x", abbreviate(wire[at:]))
		}
		if at+head+n == len(wire) {
			key := wire[at+head-4 : at+head]
			b := []byte(wire[at+head:])
			for i := range b {
				b[i] ^= key[i&3]
			}
			return wire[:at], wire[at], string(b)
		}
		at += head + n
	}
	t.Fatalf("no frame: %x", abbreviate(wire))
	return "", 0, ""
}

const (
	goingAway = "\x03\xe9"
	internal  = "\x03\xf3"
)

// What breaks a limit is not passed on: its sender is told its code, the other end that the first is gone.
func TestTunnelLimits(t *testing.T) {
	s, w := hears(t)
	f := func(limits, send, passed string, code int) {
		t.Helper()
		g := passing(t, s, limits)
		c := g.raw()
		c.send(send)
		if got := c.closeCode(); got != code {
			t.Errorf("%s: closed with %d, want %d", limits, got, code)
		}
		c.send(maskedFrame(0x88, ""))
		before, first, payload := unmask(t, w.heard(t))
		if before != passed || first != 0x88 || payload != goingAway {
			t.Errorf("%s: the service got %x, then %x %x", limits, abbreviate(before), first, payload)
		}
		once(t, "it is counted", func() bool {
			return g.metric(fmt.Sprintf(`sluice_websocket_closes_total{route="r",by="gateway",code="%d"}`, code)) == 1 && g.metric(`sluice_websocket_connections{route="r"}`) == 0
		})
		c.ended()
	}
	good := maskedFrame(0x81, text(100))
	f("max_message: 100B", good+maskedFrame(0x82, text(101)), good, 1009)
	pieces := maskedFrame(0x01, text(60)) + maskedFrame(0x89, "ping") + maskedFrame(0x00, text(40))
	f("max_message: 100B", good+pieces+maskedFrame(0x80, "x"), good+pieces, 1009)
	f("max_message: 100KiB", maskedFrame(0x82, text(100<<10))+maskedFrame(0x82, text(100<<10+1))+good, maskedFrame(0x82, text(100<<10)), 1009)
	f("rate: {messages: 3, per: 1h}", strings.Repeat(good, 4), strings.Repeat(good, 3), 1008)
	f("rate: {messages: 3, per: 1h}", strings.Repeat(maskedFrame(0x89, ""), 4), strings.Repeat(maskedFrame(0x89, ""), 3), 1008)
	// Pieces are no messages, pings between them are.
	whole := pieces + maskedFrame(0x80, "")
	f("rate: {messages: 2, per: 1h}", whole+good, whole, 1008)
}

// What is no frame in its place is refused, before a service that is more lenient takes it; what is one passes as it is.
func TestTunnelFrames(t *testing.T) {
	s, w := hears(t)
	g := passing(t, s, "")
	bad := func(good, frame string) {
		t.Helper()
		c := g.raw()
		c.send(good + frame)
		if got := c.closeCode(); got != 1002 {
			t.Errorf("%x: closed with %d", abbreviate(frame), got)
		}
		c.send(maskedFrame(0x88, ""))
		if before, first, payload := unmask(t, w.heard(t)); before != good || first != 0x88 || payload != goingAway {
			t.Errorf("%x: the service got %x, then %x %x", abbreviate(frame), abbreviate(before), first, payload)
		}
		c.ended()
	}
	begun := maskedFrame(0x01, "begins")
	bad(maskedFrame(0x81, "whole"), maskedFrame(0x80, "continues nothing"))
	bad(begun, maskedFrame(0x81, "another"))
	bad(begun, maskedFrame(0x02, "another"))
	bad("", maskedFrame(0x83, "reserved"))
	bad("", maskedFrame(0x8b, "reserved"))
	bad("", maskedFrame(0x09, "a ping in pieces"))
	bad("", maskedFrame(0x89, text(126)))
	bad("", maskedFrame(0x88, text(126)))
	bad("", maskedFrame(0x88, "\x03"))
	bad("", maskedFrame(0xc1, "compressed, which was not agreed"))
	bad("", "\x81\x01x") // not masked

	c := g.raw()
	good := begun + maskedFrame(0x89, text(125)) + maskedFrame(0x00, "") + maskedFrame(0x8a, "") + maskedFrame(0x80, "ends") + maskedFrame(0x82, text(70000)) + maskedFrame(0x88, "\x0f\xa0bye")
	c.send(good)
	c.close()
	if got := w.heard(t); got != good {
		t.Errorf("the service got %x, want %x", abbreviate(got), abbreviate(good))
	}
}

// WebSocket may be one of several protocols that a client would speak: if it is the one that is spoken, its limits hold.
func TestTunnelOneOfSeveral(t *testing.T) {
	s, _ := hears(t)
	g := passing(t, s, "max_message: 10B, max_connections: 1")
	dial := func() (*peer, int) {
		c := g.client()
		c.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: other/1, WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		return c, statusOf(c.head())
	}
	c, status := dial()
	if status != 101 {
		t.Fatal(status)
	}
	if _, status := dial(); status != 503 {
		t.Errorf("the second connection got %d", status)
	}
	c.send(maskedFrame(0x81, text(11)))
	if code := c.closeCode(); code != 1009 {
		t.Errorf("closed with %d", code)
	}
}

// A service that breaks its limit is told; its client learns that it is not to blame.
func TestTunnelServiceLimit(t *testing.T) {
	told := make(chan string, 1)
	s := switching(t, func(p *peer) {
		p.send("\x82\x04good\x82\x05large")
		b, _ := io.ReadAll(p.r)
		told <- string(b)
	})
	c := passing(t, s, "max_service_message: 4B").raw()
	c.frame(0x82, "good")
	c.frame(0x88, internal)
	c.send(maskedFrame(0x88, internal))
	if before, first, payload := unmask(t, <-told); before != "" || first != 0x88 || payload != "\x03\xf1" {
		t.Errorf("%x %x %x", before, first, payload)
	}
}

func TestTunnelIdleAndPing(t *testing.T) {
	s, w := hears(t)
	// Pings are no messages: the end comes all the same.
	g := passing(t, s, "idle_timeout: 200ms, ping: 50ms")
	c := g.raw()
	for {
		first, payload := c.readFrame()
		if first == 0x89 {
			c.send(maskedFrame(0x8a, payload))
			continue
		}
		if first != 0x88 || payload != goingAway {
			t.Errorf("%x %x", first, payload)
		}
		break
	}
	c.send(maskedFrame(0x88, goingAway))
	// The answers to the gateway's pings are not the service's.
	if before, first, payload := unmask(t, w.heard(t)); before != "" || first != 0x88 || payload != goingAway {
		t.Errorf("the service got %x, then %x %x", before, first, payload)
	}
	// One that does not answer is gone. Its own pongs go on.
	g = passing(t, s, "ping: 50ms")
	c = g.raw()
	c.send(maskedFrame(0x8a, "unasked"))
	c.frame(0x89, "")
	if before, _, payload := unmask(t, w.heard(t)); before != maskedFrame(0x8a, "unasked") || payload != goingAway {
		t.Errorf("the service got %x", before)
	}
	once(t, "it is counted", func() bool {
		return g.metric(`sluice_websocket_closes_total{route="r",by="gateway",code="1006"}`) == 1
	})
}

// A drain says 1001 to both ends, between frames and not before the one under way is whole.
func TestTunnelDrain(t *testing.T) {
	s, w := hears(t)
	g := passing(t, s, "")
	resting, busy := g.raw(), g.raw()
	frame := maskedFrame(0x01, text(1000))
	busy.send(frame[:500])
	once(t, "half a frame has passed", func() bool { return g.metric(`sluice_websocket_bytes_total{direction="in",route="r"}`) == 500 })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		g.Shutdown(ctx)
	}()
	resting.frame(0x88, goingAway)
	busy.frame(0x88, goingAway)
	busy.send(frame[500:]) // before the gateway gives it up
	resting.send(maskedFrame(0x88, goingAway))
	busy.send(maskedFrame(0x88, goingAway))
	resting.ended()
	busy.ended()
	whole := 0
	for range 2 {
		before, first, payload := unmask(t, w.heard(t))
		if before != "" && before != frame || first != 0x88 || payload != goingAway {
			t.Errorf("%x %x %x", abbreviate(before), first, payload)
		}
		if before == frame {
			whole++
		}
	}
	if whole != 1 {
		t.Errorf("%d services got a whole frame before the close, want 1", whole)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the drain does not end")
	}
}

// Where another process has taken over, both ends are told that they may connect anew at once.
func TestTunnelHandover(t *testing.T) {
	s, w := hears(t)
	g := passing(t, s, "")
	c := g.raw()
	g.Leave()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		g.Shutdown(ctx)
	}()
	c.frame(0x88, "\x03\xf4")
	c.send(maskedFrame(0x88, "\x03\xf4"))
	c.ended()
	if before, first, payload := unmask(t, w.heard(t)); before != "" || first != 0x88 || payload != "\x03\xf4" {
		t.Errorf("%x %x %x", before, first, payload)
	}
}

// Who ends it first, and how, is counted; its close frame arrives whole, in whatever pieces it comes.
func TestTunnelCloses(t *testing.T) {
	var says string
	s := switching(t, func(p *peer) {
		if says != "" {
			p.send(says)
		}
		b, _ := io.ReadAll(p.r)
		if len(b) > 0 {
			_, _ = p.conn.Write([]byte("\x88\x02\x03\xe8"))
		}
	})
	f := func(by, code, service, client string) {
		t.Helper()
		says = service
		g := passing(t, s, "")
		c := g.raw()
		for i := range client {
			c.send(client[i : i+1])
		}
		if service != "" {
			c.frame(0x88, service[2:])
		}
		_ = c.conn.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(c.r)
		once(t, "it is counted", func() bool {
			return g.metric(fmt.Sprintf("sluice_websocket_closes_total{route=\"r\",by=%q,code=%q}", by, code)) == 1
		})
		once(t, "it has ended", func() bool { return g.active() == 0 })
	}
	f("service", "1013", "\x88\x0d\x03\xf5overloaded!", "")
	f("client", "1000", "", maskedFrame(0x88, "\x03\xe8bye"))
	f("client", "4xxx", "", maskedFrame(0x88, "\x0f\xa0"))
	f("client", "1005", "", maskedFrame(0x88, ""))
	f("client", "1006", "", maskedFrame(0x81, "and gone"))
	// What is read at once.
	t.Run("whole", func(t *testing.T) {
		s, w := hears(t)
		c := passing(t, s, "").raw()
		c.send(maskedFrame(0x81, "last") + maskedFrame(0x88, "\x03\xe8bye") + "nothing may follow")
		_ = c.conn.(*net.TCPConn).CloseWrite()
		if got := w.heard(t); got != maskedFrame(0x81, "last")+maskedFrame(0x88, "\x03\xe8bye") {
			t.Errorf("%x", got)
		}
	})
}

// An extension that client and service agree on passes untouched, with limits, in sizes as they are on the wire.
func TestTunnelCompressed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := websocket.FastHTTPUpgrader{EnableCompression: true}
	fs := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		_ = up.Upgrade(ctx, func(c *websocket.Conn) {
			for {
				kind, m, err := c.ReadMessage()
				if err != nil || c.WriteMessage(kind, m) != nil {
					return
				}
			}
		})
	}}
	go func() { _ = fs.Serve(ln) }()
	t.Cleanup(func() { _ = fs.Shutdown() })
	g := passing(t, &server{addr: ln.Addr().String()}, "max_message: 64KiB, max_service_message: 64KiB, rate: {messages: 1000}, ping: 1m, idle_timeout: 1m")
	d := websocket.Dialer{HandshakeTimeout: patience, EnableCompression: true}
	ws, res, err := d.Dial("ws://"+g.addr+"/", nil)
	if err != nil || !strings.Contains(res.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		t.Fatal(err, res)
	}
	defer ws.Close()
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	for _, n := range []int{0, 1, 1000, 1 << 20} { // 1 MiB of one letter is some 1 KiB
		echo(t, ws, strings.Repeat("a", n))
	}
	if got := g.metric(`sluice_websocket_bytes_total{direction="in",route="r"}`); got > 10_000 {
		t.Errorf("%v bytes have come: it is not compressed", got)
	}
}

// Messages of every size, each way, with limits that are not reached; in pieces as the library writes them.
func TestTunnelLarge(t *testing.T) {
	g := passing(t, sockets(t), "max_message: 8MiB, max_service_message: 8MiB, rate: {messages: 1000}, ping: 1m, idle_timeout: 1m")
	ws := g.socket()
	defer ws.Close()
	n := 0
	for _, size := range []int{0, 1, 125, 126, 127, 65_535, 65_536, 32_768, 1 << 20, 8 << 20} {
		echo(t, ws, text(size))
		n++
	}
	if in, out := g.metric(`sluice_websocket_messages_total{direction="in",route="r"}`), g.metric(`sluice_websocket_messages_total{direction="out",route="r"}`); in != float64(n) || out != float64(n) {
		t.Errorf("%v messages in, %v out", in, out)
	}
}

// Bytes that come with either head are frames as well.
func TestTunnelEarlyFrames(t *testing.T) {
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		key, _ := field(head, "Sec-WebSocket-Key")
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept(key) + "\r\n\r\n\x81\x05early")
		if got := p.bytes(len(maskedFrame(0x81, "early too"))); got == maskedFrame(0x81, "early too") {
			p.send("\x81\x02ok")
		}
		_, _ = io.ReadAll(p.r)
	})
	g := passing(t, s, "max_message: 10B, max_service_message: 10B")
	c := g.client()
	c.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + maskedFrame(0x81, "early too"))
	_ = c.head()
	c.frame(0x81, "early")
	c.frame(0x81, "ok")
}

func TestTunnelConnectionsBounded(t *testing.T) {
	resting := switching(t, func(p *peer) { _, _ = io.Copy(io.Discard, p.r) })
	g := serve(t, gateway.Options{}, forwarding(resting, "", "", `policies: {websocket_limit: {max_connections: 2, by: ip, origins: ["https://app.example.com"]}}`+"\n"))
	dial := func(header ...string) (*websocket.Conn, int, string) {
		ws, res, err := g.tryDial("/", header...)
		if res == nil {
			t.Fatal(err)
		}
		return ws, res.StatusCode, res.Header.Get("Retry-After")
	}
	if _, status, _ := dial("Origin: https://evil.example.com"); status != 403 {
		t.Errorf("status %d", status)
	}
	one, status, _ := dial("Origin: https://app.example.com")
	if status != 101 {
		t.Fatal(status)
	}
	two, status, _ := dial()
	if status != 101 {
		t.Fatal(status)
	}
	defer two.Close()
	if _, status, after := dial(); status != 429 || after == "" {
		t.Errorf("status %d, Retry-After %q", status, after)
	}
	_ = one.Close()
	once(t, "there is room again", func() bool {
		ws, status, _ := dial()
		if ws != nil {
			_ = ws.Close()
		}
		return status == 101
	})
}

// A token or a key among the subprotocols, as browsers have to send it; the service sees the others alone.
func TestTunnelSubprotocolCredentials(t *testing.T) {
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		key, _ := field(head, "Sec-WebSocket-Key")
		offered := strings.Join(fields(head, "Sec-WebSocket-Protocol"), "|")
		chosen := ""
		if strings.Contains(offered, "chat") {
			chosen = "Sec-WebSocket-Protocol: chat\r\n"
		}
		user, _ := field(head, "X-User-ID")
		seen := offered + ";" + user
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + chosen + "Sec-WebSocket-Accept: " + accept(key) + "\r\n\r\n" +
			"\x81" + string(rune(len(seen))) + seen)
		_, _ = io.ReadAll(p.r)
	})
	f := func(g *gate, offer string, status int, protocol, seen string) {
		t.Helper()
		ws, res, err := g.tryDial("/", "Sec-WebSocket-Protocol: "+offer)
		if res == nil {
			t.Fatal(err)
		}
		if res.StatusCode != status {
			t.Errorf("%s: %d", offer, res.StatusCode)
			return
		}
		if status != 101 {
			return
		}
		defer ws.Close()
		_ = ws.SetReadDeadline(time.Now().Add(patience))
		if got := heard(t, ws); ws.Subprotocol() != protocol || got != seen {
			t.Errorf("%s: subprotocol %q, the service saw %q", offer, ws.Subprotocol(), got)
		}
	}
	const tokenSecret = "a-secret-of-at-least-thirty-two-bytes"
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(tokenSecret))
	if err != nil {
		t.Fatal(err)
	}
	g := forward(t, s, "", `policies: {jwt: {secret: "`+tokenSecret+`", from: {subprotocol: bearer}}}`, "")
	f(g, "bearer, "+token, 101, "bearer", ";alice")
	f(g, "bearer."+token, 101, "bearer."+token, ";alice")
	f(g, "chat, bearer, "+token+", other", 101, "chat", "chat, other;alice")
	f(g, "bearer."+token+", chat", 101, "chat", "chat;alice")
	f(g, "chat", 401, "", "")
	f(g, "bearer", 401, "", "")
	f(g, "bearer, "+token+"x", 401, "", "")
	f(g, "bearer, "+token+", bearer, "+token, 401, "", "")
	// Plain requests have no subprotocols.
	req, _ := http.NewRequest("GET", "http://"+g.addr+"/", nil)
	req.Header.Set("Sec-WebSocket-Protocol", "bearer, "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 401 {
		t.Errorf("%v %v", err, res)
	}
	g = forward(t, s, "", `policies: {api_key: {header: "", subprotocol: key}}`,
		"consumers: {alice: {api_keys: [{id: a, hash: \"sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"}]}}\n")
	f(g, "key, alice", 101, "key", ";alice")
	f(g, "key, bob", 401, "", "")
}

// Many rest at once, and are told when the gateway goes away.
func TestTunnelsMany(t *testing.T) {
	const many = 300
	g := passing(t, sockets(t), "")
	var all []*peer
	for range many {
		all = append(all, g.raw())
	}
	if n := g.metric(`sluice_websocket_connections{route="r"}`); n != many {
		t.Errorf("%v are open", n)
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		g.Shutdown(ctx)
	}()
	for _, c := range all {
		c.frame(0x88, goingAway)
		c.send(maskedFrame(0x88, goingAway))
		c.ended()
	}
}
