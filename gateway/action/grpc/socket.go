package grpc

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/wsconn"
	"sluice/gateway/wswire"
)

// Calls over WebSocket: each message of the client is one of the call's stream, and each of the service's one for the client. An empty one ends
// the client's part, for which WebSocket has no word; a close ends the call.

const (
	// socketPing is how long a client may be silent before it is asked whether it is there.
	socketPing = 30 * time.Second
	// closeBase is what the status of a call is added to as a close code: 4005 is NOT_FOUND.
	closeBase = 4000
	logEvery  = 10 * time.Second
)

// openSockets has the action take up WebSockets.
func (t *transcoder) openSockets(b *action.Build) (err error) {
	t.sockets = &wsconn.Server{
		Limits:  exchange.SocketLimits{MaxMessage: int64(t.limit), Ping: socketPing},
		Group:   wsconn.NewGroup(),
		Sweeper: t.service.Sweeper(), Metrics: b.World.Metrics.Sockets(b.World.Generation, b.Route.Name),
		Faults: telemetry.NewLimited(b.World.Log, logEvery), Route: b.Route.Name,
	}
	if !b.World.DryRun {
		t.sockets.Group, err = policy.LivingAs(b.World, "websocket/"+b.Route.Name, func() (*wsconn.Group, error) { return wsconn.NewGroup(), nil })
	}
	return err
}

// socketMethods are those whose rules a handshake may mean, which is a GET itself.
var socketMethods = [...]string{fasthttp.MethodGet, fasthttp.MethodPost, fasthttp.MethodPut, fasthttp.MethodPatch, fasthttp.MethodDelete}

// ofHandshake finds how a call over WebSocket is made.
func (s *schema) ofHandshake(path string) (b *binding, segments, allowed []string) {
	for _, method := range socketMethods {
		if b, segments, allowed = s.table.find(method, path); b != nil || len(allowed) == 0 {
			break
		}
	}
	return b, segments, allowed
}

// serveSocket answers a handshake.
func (t *transcoder) serveSocket(x *exchange.Exchange, s *schema, b *binding, segments []string) error {
	query := string(x.BackendQuery())
	return t.sockets.Accept(x, func(c *wsconn.Conn) {
		k := &conversation{t: t, x: x, conn: c, client: &socketClient{conn: c, client: x.Client}}
		k.in = &inbox{k: k, r: &reader{schema: s, json: t.read}, b: b, segments: segments, query: query}
		k.w = &writer{t: t, s: s, b: b}
		k.run()
	})
}

// conversation is one call over one WebSocket.
type conversation struct {
	t      *transcoder
	x      *exchange.Exchange // of the handshake
	conn   *wsconn.Conn
	client *socketClient
	in     *inbox
	w      *writer
	rest   sync.WaitGroup // who reads what comes behind the client's part
}

// socketClient is the client's connection as the call sees it.
type socketClient struct {
	conn   *wsconn.Conn
	client exchange.ClientConn
	over   atomic.Bool
}

// Gone implements exchange.ClientConn.
func (c *socketClient) Gone() bool { return c.over.Load() || c.client != nil && c.client.Gone() }

// InterruptRead implements exchange.ClientConn.
func (c *socketClient) InterruptRead() { c.conn.Interrupt() }

// Interim implements exchange.ClientConn.
func (c *socketClient) Interim([]byte) {}

func (k *conversation) run() {
	defer k.rest.Wait()
	call := &upstream.RPC{Path: k.in.b.path}
	k.child()
	x := k.w.x
	defer func() {
		k.x.Service, k.x.Endpoint, k.x.Attempts, k.x.RPCStatus = x.Service, x.Endpoint, x.Attempts, x.RPCStatus
		_ = x.Close()
	}()
	switch {
	case k.in.b.method.IsStreamingClient():
		call.Stream = k.in
	case k.in.b.whole || k.in.b.body != nil:
		first, err := k.in.next()
		if err == io.EOF {
			first, err = k.in.make(nil) // an empty message is one, where there can be no other
		}
		if err != nil {
			k.refuse(err)
			return
		}
		call.Held = first
		k.watch()
	default:
		var err error
		if call.Held, err = k.in.make(nil); err != nil {
			k.refuse(err)
			return
		}
		k.watch()
	}
	answer, err := k.t.service.Call(x, call)
	if err != nil {
		k.refuse(err)
		return
	}
	k.w.answer = answer
	defer answer.Close()
	k.relay()
}

// child makes the exchange of the call: that of the handshake without what is WebSocket's.
func (k *conversation) child() {
	x := k.t.pool.Repeat(k.x, func(*exchange.Exchange) {})
	x.Client = k.client
	kept := x.Fields[:0]
	for _, f := range x.Fields {
		if f.Kind == exchange.KindUpgrade || len(f.Name) > len(socketPrefix) && exchange.EqualFold(f.Name[:len(socketPrefix)], socketPrefix) {
			continue
		}
		kept = append(kept, f)
	}
	x.Fields = kept
	x.ToBackend.Remove("Sec-WebSocket-Protocol")
	x.Request.Header.SetMethod(fasthttp.MethodPost)
	k.t.headers(x)
	k.w.x = x
}

const socketPrefix = "Sec-WebSocket-"

// relay sends what the service answers, and at last how the call has ended.
func (k *conversation) relay() {
	for {
		m, err := k.w.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			k.refuse(k.w.explain(err))
			return
		}
		data, contentType, err := k.w.body(m)
		if err != nil {
			k.refuse(rejectAnswer)
			return
		}
		if k.conn.Write(wsconn.Message{Text: contentType == jsonType && utf8.Valid(data), Data: data}) != nil {
			k.cancelled()
			return
		}
	}
	status, failed := k.w.answer.Status().(*upstream.StatusError)
	if !failed {
		k.conn.Close(wswire.Normal, "")
		return
	}
	k.fail(k.w.problemOf(status), status.Code)
}

// refuse ends the call for another reason than the service's status.
func (k *conversation) refuse(err error) {
	r, ok := err.(*exchange.Reject)
	if !ok || k.client.over.Load() || k.w.x.Aborted.Load() {
		k.cancelled()
		return
	}
	code := r.RPC
	if code == grpcwire.OK {
		code = grpcwire.OfHTTP(r.Status)
	}
	if r.Status == fasthttp.StatusBadRequest {
		code = grpcwire.InvalidArgument
	}
	k.w.x.RPCStatus = uint8(code) + 1
	k.x.Reason = r.Reason
	k.fail(&problem{
		Type: "urn:sluice:" + r.Reason, Title: fasthttp.StatusMessage(r.Status), Status: r.Status, Detail: r.Detail, Code: code.Name(),
		Instance: string(k.x.Path), RequestID: string(k.x.RequestID),
	}, code)
}

// cancelled notes that the client did not wait for the end of the call.
func (k *conversation) cancelled() { k.w.x.RPCStatus = uint8(grpcwire.Cancelled) + 1 }

// fail tells the client that the call has failed, in a message and by its close code.
func (k *conversation) fail(p *problem, code grpcwire.Code) {
	if body, err := json.Marshal(p); err == nil {
		_ = k.conn.Write(wsconn.Message{Text: true, Data: append(append([]byte(`{"error":`), body...), '}')})
	}
	k.conn.Close(closeBase+int(code), code.Name())
}

// left notes that the client has ended the connection, or has lost it, unless it is the call that has ended.
func (k *conversation) left() {
	if !k.conn.Interrupted() {
		k.client.over.Store(true)
	}
}

// watch reads on when nothing more is wanted: the client may close, or say what it may not.
func (k *conversation) watch() {
	k.rest.Go(func() {
		for {
			m, err := k.conn.Read()
			if err != nil {
				k.left()
				return
			}
			if len(m.Data) > 0 {
				k.conn.Close(wswire.Policy, "the client's part of the call has ended")
			}
		}
	})
}

// inbox makes the client's messages those of the call.
type inbox struct {
	k        *conversation
	r        *reader
	b        *binding
	segments []string
	query    string
	out      []byte // a frame that is still to be read
	count    int
	ended    bool
}

// Read implements io.Reader. Its errors are rejections.
func (in *inbox) Read(p []byte) (int, error) {
	if in.ended {
		return 0, io.EOF
	}
	for len(in.out) == 0 {
		var err error
		if in.out, err = in.next(); err != nil {
			if err == io.EOF {
				in.ended = true
				in.k.watch()
			}
			return 0, err
		}
	}
	n := copy(p, in.out)
	in.out = in.out[n:]
	return n, nil
}

// next is the next message in its frame; io.EOF where the client's part has ended.
func (in *inbox) next() ([]byte, error) {
	m, err := in.k.conn.Read()
	switch {
	case err != nil:
		in.k.left()
		return nil, io.ErrUnexpectedEOF
	case len(m.Data) == 0:
		return nil, io.EOF
	}
	in.count++
	return in.make(m.Data)
}

func (in *inbox) make(data []byte) ([]byte, error) {
	contentType := ""
	if in.b.takesRaw() {
		contentType = "application/octet-stream"
	}
	m, err := in.r.message(in.b, data, contentType, in.segments, in.query)
	if err != nil {
		if in.b.method.IsStreamingClient() {
			err = fmt.Errorf("message %d: %w", in.count, err)
		}
		return nil, refuse(fasthttp.StatusBadRequest, "bad_request", err)
	}
	return in.k.t.frame(m)
}
