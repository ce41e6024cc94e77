package wsconn

import (
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/wswire"
)

// Server takes up the WebSockets of clients on one route. It is immutable.
type Server struct {
	// Limits of each connection; those that policies have put on the exchange hold besides.
	Limits exchange.SocketLimits
	// Subprotocols that are spoken, the best first; none if empty.
	Subprotocols []string
	// Most is how many may be open; 0: no bound. Group counts them.
	Most  int
	Group *Group
	// Sweeper looks after them, Metrics counts them, Faults is told of panics.
	Sweeper *upstream.Sweeper
	Metrics *telemetry.SocketMetrics
	Faults  *telemetry.Limited
	// Route is the route's name.
	Route string
}

// Rejections of a handshake.
var (
	rejectUpgrade = exchange.NewReject(fasthttp.StatusUpgradeRequired, "websocket_required", "WebSocket is spoken here; a connection begins with an upgrade over HTTP/1.1",
		exchange.Header("Upgrade", "websocket"), exchange.Header("Sec-WebSocket-Version", "13"))
	rejectMethod = exchange.NewReject(fasthttp.StatusMethodNotAllowed, "method_not_allowed", "a WebSocket begins with a GET", exchange.Header("Allow", "GET"))
	rejectKey    = exchange.NewReject(fasthttp.StatusBadRequest, "bad_handshake", "the handshake has not exactly one valid Sec-WebSocket-Key")
	rejectFull   = exchange.NewReject(fasthttp.StatusServiceUnavailable, "websocket_connections", "too many connections are open; try again later", exchange.Header("Retry-After", "5"))
)

// Accept answers a handshake. When the client has the answer, serve has the connection: on a goroutine of its own, until it returns, with
// the exchange open.
func (s *Server) Accept(x *exchange.Exchange, serve func(*Conn)) error {
	if !x.IsWebSocket() {
		return rejectUpgrade
	}
	if !x.Request.Header.IsGet() {
		return rejectMethod
	}
	if string(x.RequestHeader("Sec-Websocket-Version")) != "13" {
		return rejectUpgrade
	}
	keys := 0
	var key []byte
	for i := range x.Fields {
		if f := &x.Fields[i]; exchange.EqualFold(f.Name, "sec-websocket-key") {
			keys++
			key = f.Value
		}
	}
	if keys != 1 || !wswire.IsKey(key) {
		return rejectKey
	}
	if !s.Group.Enter(x, s.Most) {
		return rejectFull
	}
	limits := s.Limits
	if x.Sockets != nil {
		limits.Tighten(x.Sockets)
	}
	res := x.Response
	res.Reset()
	h := &res.Header
	h.DisableNormalizing()
	h.SetNoDefaultContentType(true)
	res.SetStatusCode(fasthttp.StatusSwitchingProtocols)
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.SetBytesV("Sec-WebSocket-Accept", wswire.AppendAccept(nil, key))
	if p := s.protocol(x); p != "" {
		h.Set("Sec-WebSocket-Protocol", p)
	}
	x.Answer, x.Head = exchange.Tunnel, nil
	x.Tunnel = &socket{server: s, x: x, limits: limits, serve: serve}
	return nil
}

// protocol chooses a subprotocol.
func (s *Server) protocol(x *exchange.Exchange) string {
	if len(s.Subprotocols) == 0 {
		return ""
	}
	var offered []string
	for i := range x.Fields {
		if f := &x.Fields[i]; exchange.EqualFold(f.Name, "sec-websocket-protocol") {
			for p := range strings.SplitSeq(string(f.Value), ",") {
				offered = append(offered, strings.TrimSpace(p))
			}
		}
	}
	for _, p := range s.Subprotocols {
		if slices.Contains(offered, p) {
			return p
		}
	}
	return ""
}

// socket is a client's WebSocket from its handshake on.
type socket struct {
	server *Server
	x      *exchange.Exchange
	limits exchange.SocketLimits
	serve  func(*Conn)
	conn   atomic.Pointer[Conn]
}

var _ exchange.Tunneler = (*socket)(nil)

// Run implements exchange.Tunneler.
func (s *socket) Run(client net.Conn) {
	m := s.server.Metrics
	m.Open.Inc()
	began := s.x.Clock.Now()
	defer func() {
		m.Open.Dec()
		s.x.TunnelTime = s.x.Clock.Now() - began
	}()
	c, err := newConn(client, s.x.Clock, s.limits, telemetry.ByClient)
	if err != nil {
		s.server.Faults.Log(slog.LevelError, "websocket", "a WebSocket could not be taken up; please report it", "route", s.server.Route, "error", err.Error())
		m.Closed(telemetry.ByGateway, wswire.Abnormal)
		return
	}
	c.open, c.wire.metrics = s, m
	s.conn.Store(c)
	s.server.Group.add(c)
	s.server.Sweeper.Watch(c)
	defer func() {
		s.server.Group.remove(c)
		if fault := recover(); fault != nil {
			s.server.Faults.Log(slog.LevelError, "panic", "a WebSocket met a fault of the gateway; please report it",
				"route", s.server.Route, "request_id", string(s.x.RequestID), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			c.end(wswire.Internal, "the gateway met a fault", "internal_error")
		}
		c.finish()
		s.server.Sweeper.Unwatch(c)
		s.x.BytesIn, s.x.BytesOut = c.wire.in.Load(), c.wire.out.Load()
		c.mu.Lock()
		if c.reason != "" && s.x.Reason == "" {
			s.x.Reason = c.reason
		}
		c.mu.Unlock()
	}()
	s.serve(c)
}

// GoAway implements exchange.Tunneler.
func (s *socket) GoAway(code int) {
	if c := s.conn.Load(); c != nil {
		c.leave(code, "the gateway goes away")
	}
}

// Group is the open WebSockets of a route, or the exchanges that become some. It outlives configurations.
type Group struct {
	entered atomic.Int64
	mu      sync.Mutex
	conns   map[*Conn]struct{}
	owner   any
}

// NewGroup returns an empty group.
func NewGroup() *Group { return &Group{conns: make(map[*Conn]struct{})} }

// seat is the place that an exchange has in a group.
type seat struct{ group *Group }

// Reset gives it back, when the exchange ends.
func (s *seat) Reset() {
	if s.group != nil {
		s.group.entered.Add(-1)
	}
	s.group = nil
}

var seats = exchange.NewSlot[seat]()

// Enter takes a place for the exchange, until it ends, unless there are most of them taken; 0 is no bound.
func (g *Group) Enter(x *exchange.Exchange, most int) bool {
	if n := g.entered.Add(1); most > 0 && n > int64(most) {
		g.entered.Add(-1)
		return false
	}
	seats.Of(x).group = g
	return true
}

// Own says in whose hands the group is; Disown, by the same one, that it is in nobody's any more: its connections are closed as those of
// a service that restarts, so that clients look where it has gone.
func (g *Group) Own(owner any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owner = owner
}

// Disown ends Own.
func (g *Group) Disown(owner any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.owner != owner {
		return
	}
	g.owner = nil
	for c := range g.conns {
		c.leave(wswire.Restart, "this is served no more as it was")
	}
}

func (g *Group) add(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c] = struct{}{}
}

func (g *Group) remove(c *Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}
