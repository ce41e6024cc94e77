package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/valyala/fasthttp"

	"sluice/gateway"
)

// sockets is a WebSocket backend that echoes, and closes when it reads "bye".
func sockets(t *testing.T) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := websocket.FastHTTPUpgrader{Subprotocols: []string{"chat"}}
	fs := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		_ = up.Upgrade(ctx, func(c *websocket.Conn) {
			for {
				kind, m, err := c.ReadMessage()
				if err != nil {
					return
				}
				if string(m) == "bye" {
					_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye"))
					return
				}
				if c.WriteMessage(kind, m) != nil {
					return
				}
			}
		})
	}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = fs.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = fs.Shutdown()
		<-served
	})
	return &server{addr: ln.Addr().String()}
}

func (g *gate) socket() *websocket.Conn {
	g.t.Helper()
	d := websocket.Dialer{HandshakeTimeout: patience, Subprotocols: []string{"chat"}}
	ws, res, err := d.Dial("ws://"+g.addr+"/ws", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if res.Header.Get("Sec-WebSocket-Protocol") != "chat" {
		g.t.Errorf("%v", res.Header)
	}
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	return ws
}

func echo(t *testing.T, ws *websocket.Conn, m string) {
	t.Helper()
	_ = ws.NetConn().SetDeadline(time.Now().Add(patience))
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte(m)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := ws.ReadMessage(); err != nil || string(got) != m {
		t.Fatalf("%q %v", abbreviate(string(got)), err)
	}
}

func TestWebSocket(t *testing.T) {
	g := forward(t, sockets(t), "", "", "")
	ws := g.socket()
	for _, n := range []int{0, 1, 125, 126, 16_384, 65_536, 1 << 20, 8 << 20} {
		echo(t, ws, text(n))
	}
	// The backend ends it.
	if err := ws.WriteMessage(websocket.TextMessage, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("%v", err)
	}
	_ = ws.Close()
	// The client ends it.
	ws = g.socket()
	echo(t, ws, "hello")
	_ = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("%v", err)
	}
	_ = ws.Close()
	// The client is gone.
	ws = g.socket()
	echo(t, ws, "hello")
	_ = ws.NetConn().Close()
	once(t, "the tunnels are closed", func() bool { return g.active() == 0 })
}

const upgradeRequest = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: raw\r\n\r\n"

func TestUpgrade(t *testing.T) {
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		if v, _ := field(head, "Upgrade"); v != "raw" || !strings.Contains(head, "Connection: Upgrade\r\n") {
			p.t.Errorf("%q", head)
		}
		// The backend's early bytes come with the head.
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\nX-A: b\r\n\r\nearly server")
		if got := p.bytes(12); got != "early client" {
			p.t.Errorf("%q", got)
		}
		// Half-closed either way: what still comes arrives.
		rest, _ := p.rest()
		p.send("after " + rest)
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	c.send(upgradeRequest + "early client")
	head := c.head()
	if v, _ := field(head, "Upgrade"); v != "raw" || statusOf(head) != 101 {
		t.Errorf("%q", head)
	}
	if v, _ := field(head, "Connection"); v != "Upgrade" {
		t.Errorf("%q", head)
	}
	if _, ok := field(head, "Content-Length"); ok {
		t.Errorf("%q", head)
	}
	if got := c.bytes(12); got != "early server" {
		t.Errorf("%q", got)
	}
	c.send("the rest")
	_ = c.conn.(*net.TCPConn).CloseWrite()
	if got, whole := c.rest(); got != "after the rest" || !whole {
		t.Errorf("%q %v", got, whole)
	}
	once(t, "the tunnel is closed", func() bool { return g.active() == 0 })
}

// A backend that refuses to switch answers as to any request, and the
// connection goes on.
func TestUpgradeRefused(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		return "HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno"
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for range 2 {
		c.send(upgradeRequest)
		head := c.wants(426, "no")
		if _, ok := field(head, "Upgrade"); ok {
			t.Errorf("%q", head)
		}
	}
	// HTTP/1.0 can not upgrade, nor can a request whose Connection does not say so.
	s = answering(t, func(head, _ string) string {
		if _, ok := field(head, "Upgrade"); ok {
			return "HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n"
		}
		return okAnswer
	})
	c = forward(t, s, "", "", "").client()
	c.send(strings.Replace(upgradeRequest, "keep-alive, Upgrade", "keep-alive", 1))
	c.wants(200, "ok")
	c.send(strings.Replace(upgradeRequest, "HTTP/1.1", "HTTP/1.0", 1))
	c.wants(200, "ok")
}

// A backend that stays silent after its client left does not hold the tunnel.
func TestTunnelOfDeadClient(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes as long as a half-closed tunnel may be silent")
	}
	gone := make(chan struct{})
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
		_, _ = io.Copy(io.Discard, p.r) // sees the end, and does not end itself
		<-gone
	})
	t.Cleanup(func() { close(gone) })
	g := forward(t, s, "", "", "")
	c := g.client()
	c.send(upgradeRequest)
	_ = c.head()
	c.close()
	once(t, "the tunnel is closed", func() bool { return g.active() == 0 })
}

// A tunnel stays over reloads, also those that take its route away, and ends
// with the drain timeout at the latest.
func TestTunnelOutlivesReload(t *testing.T) {
	s := sockets(t)
	g := serve(t, gateway.Options{DrainTimeout: 100 * time.Millisecond}, forwarding(s, "", "", ""))
	ws := g.socket()
	for i := range 20 {
		g.apply(fmt.Sprintf("routes: {other: {match: {paths: [/%d]}, respond: {status: 200}}}\n", i))
		echo(t, ws, "still here")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g.Shutdown(ctx)
	if _, _, err := ws.ReadMessage(); err == nil {
		t.Errorf("the tunnel outlives the gateway")
	}
}
