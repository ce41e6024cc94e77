package grpctest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/dynamicpb"
)

// socket opens a WebSocket to the gateway.
func (g *gate) socket(target string, header ...string) *websocket.Conn {
	g.t.Helper()
	h := http.Header{}
	for _, field := range header {
		name, value, _ := strings.Cut(field, ": ")
		h.Add(name, value)
	}
	d := websocket.Dialer{HandshakeTimeout: patience}
	ws, res, err := d.Dial("ws://"+g.addr+target, h)
	if err != nil {
		g.t.Fatal(err, res)
	}
	g.t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	return ws
}

func says(t *testing.T, ws *websocket.Conn, messages ...string) {
	t.Helper()
	for _, m := range messages {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
			t.Fatal(err)
		}
	}
}

// hears reads messages and then the close code.
func hears(t *testing.T, ws *websocket.Conn, code int, messages ...string) {
	t.Helper()
	for _, want := range messages {
		_, m, err := ws.ReadMessage()
		if err != nil || !strings.HasPrefix(string(m), want) {
			t.Fatalf("%q %v, want %q", m, err, want)
		}
	}
	if code == 0 {
		return
	}
	_, m, err := ws.ReadMessage()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != code {
		t.Errorf("%q %v, want the close code %d", m, err, code)
	}
}

func TestSocketStreams(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "", "")
	// Both ways: each message has its answer before the next is sent.
	ws := g.socket("/v1/chat", "X-Test: kept")
	for i := range 5 {
		says(t, ws, fmt.Sprintf(`{"count": %d}`, i+1))
		hears(t, ws, 0, fmt.Sprintf(`{"count":%d}`, i+1))
	}
	says(t, ws, "")
	hears(t, ws, 1000)
	md := *l.metadata.Load()
	if md.Get("x-test") == nil || md.Get("sec-websocket-key") != nil || md.Get("upgrade") != nil || md.Get("x-correlation-id") == nil {
		t.Errorf("%v", md)
	}
	// The client's stream, then one answer.
	ws = g.socket("/v1/collect")
	says(t, ws, `{"count":1}`, `{"count":2}`, `{"count":39}`, "")
	hears(t, ws, 1000, `{"count":42}`)
	// The service's stream, for a rule of GET without a message, with path and query.
	ws = g.socket("/v1/watch/w?count=3")
	hears(t, ws, 1000, `{}`, `{"count":1}`, `{"count":2}`)
	// One message each.
	ws = g.socket("/v1/items:batch")
	says(t, ws, `{"count":7}`)
	hears(t, ws, 1000, `{"count":7}`)
	ws = g.socket("/v1/items:batch")
	says(t, ws, "")
	hears(t, ws, 1000, `{}`)
	// Bytes.
	ws = g.socket("/v1/download/x")
	for _, want := range []string{"one,", "two"} {
		if kind, m, err := ws.ReadMessage(); err != nil || kind != websocket.BinaryMessage || string(m) != want {
			t.Errorf("%d %q %v", kind, m, err)
		}
	}
	hears(t, ws, 1000)
}

func TestSocketFailures(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "max_message: 1KiB", "")
	// The status of the call, behind what has come.
	ws := g.socket("/v1/watchfail/5?after=2&message=gone")
	hears(t, ws, 4005, `{}`, `{}`, `{"error":{"type":"urn:sluice:grpc_not_found","title":"Not Found","status":404,"detail":"gone","code":"NOT_FOUND"`)
	ws = g.socket("/v1/fail/16?message=who")
	hears(t, ws, 4016, `{"error":{"type":"urn:sluice:grpc_unauthenticated"`)
	// What the client does wrong.
	ws = g.socket("/v1/chat")
	says(t, ws, `{"count":1}`)
	hears(t, ws, 0, `{"count":1}`)
	says(t, ws, `{"count":"x"}`)
	hears(t, ws, 4003, `{"error":{"type":"urn:sluice:bad_request","title":"Bad Request","status":400,"detail":"message 2: the body at count`)
	ws = g.socket("/v1/items:batch")
	says(t, ws, `{"nonsense":1}`)
	hears(t, ws, 4003, `{"error":{"type":"urn:sluice:bad_request"`)
	ws = g.socket("/v1/chat")
	says(t, ws, `{"name":"`+strings.Repeat("x", 2000)+`"}`)
	hears(t, ws, websocket.CloseMessageTooBig)
	ws = g.socket("/v1/items:batch")
	says(t, ws, `{}`, `{"count":1}`)
	// Either the answer was quicker, or more than one message is too many.
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			if !websocket.IsCloseError(err, 1000, websocket.ClosePolicyViolation) {
				t.Error(err)
			}
			break
		}
	}
	// Handshakes that are none, and paths that are no method's.
	d := websocket.Dialer{HandshakeTimeout: patience}
	if _, res, err := d.Dial("ws://"+g.addr+"/nothing", nil); err == nil || res.StatusCode != 404 {
		t.Error(err, res)
	}
	// A service that can not be reached.
	gone := &library{set: l.set, address: "127.0.0.1:1"}
	ws = gone.rest(t, "", "").socket("/v1/chat")
	says(t, ws, `{"count":1}`)
	hears(t, ws, 4014, `{"error":{"type":"urn:sluice:upstream_connect"`)
	// The deadline that the client has set.
	ws = g.socket("/v1/chat", "Grpc-Timeout: 100m")
	hears(t, ws, 4004, `{"error":{"type":"urn:sluice:deadline_exceeded"`)
}

// A client that leaves ends its call, in the middle of its own stream as behind it.
func TestSocketClientGone(t *testing.T) {
	ended := make(chan error, 1)
	l := compileLibrary(t)
	l.address = serve(t, func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
		in := dynamicpb.NewMessage(l.service.Methods().ByName("Chat").Input())
		if err := st.RecvMsg(in); err != nil {
			return err
		}
		if err := st.SendMsg(in); err != nil {
			return err
		}
		<-st.Context().Done()
		ended <- st.Context().Err()
		return nil
	}))
	g := l.rest(t, "", "")
	for _, leave := range []func(ws *websocket.Conn){
		func(ws *websocket.Conn) { _ = ws.NetConn().Close() },
		func(ws *websocket.Conn) {
			_ = ws.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
		},
		func(ws *websocket.Conn) {
			says(t, ws, "")
			_ = ws.NetConn().Close()
		},
	} {
		ws := g.socket("/v1/chat")
		says(t, ws, `{"count":1}`)
		hears(t, ws, 0, `{"count":1}`)
		leave(ws)
		if err := within(t, "the call is cancelled", ended); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	once(t, "all WebSockets have ended", func() bool {
		var b strings.Builder
		_ = g.WriteMetrics(&b)
		return strings.Contains(b.String(), "sluice_websocket_connections{route=\"r\"} 0\n") && strings.Contains(b.String(), `sluice_grpc_requests_total{route="r",service="-",grpc_status="CANCELLED"} `)
	})
}

// Policies run for the handshake; the gateway's end is said.
func TestSocketPolicies(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "", `policies: {websocket_limit: {max_connections: 1, rate: {messages: 2, per: 1h}}}`)
	ws := g.socket("/v1/chat")
	says(t, ws, `{"count":1}`)
	hears(t, ws, 0, `{"count":1}`)
	d := websocket.Dialer{HandshakeTimeout: patience}
	if _, res, err := d.Dial("ws://"+g.addr+"/v1/chat", nil); err == nil || res.StatusCode != 503 {
		t.Error(err, res)
	}
	says(t, ws, `{"count":2}`)
	hears(t, ws, 0, `{"count":2}`)
	says(t, ws, `{"count":3}`)
	hears(t, ws, websocket.ClosePolicyViolation)
	once(t, "there is room again", func() bool {
		var err error
		ws, _, err = d.Dial("ws://"+g.addr+"/v1/chat", nil)
		return err == nil
	})
	defer ws.Close()
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	go func() {
		ctx, cancel := contextWith(t, patience)
		defer cancel()
		g.Shutdown(ctx)
	}()
	hears(t, ws, websocket.CloseGoingAway)
}
