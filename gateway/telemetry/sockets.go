package telemetry

import (
	"sync"

	"sluice/gateway/wswire"
)

// Closer is who ended a WebSocket.
type Closer uint8

// Who ends a WebSocket.
const (
	ByClient Closer = iota
	ByService
	ByGateway
	closers
)

var closerNames = [closers]string{"client", "service", "gateway"}

// SocketMetrics are the resolved series of a route's WebSockets. All methods may be called concurrently.
type SocketMetrics struct {
	// Open counts those that are open. In and Out are of what clients send and get, in messages and in bytes of frames.
	Open                                       *Level
	MessagesIn, MessagesOut, BytesIn, BytesOut *Counter

	metrics *Metrics
	route   string
	refs    int         // guarded by metrics.mu
	lease   *Generation // owns the series, also those made later

	mu     sync.Mutex
	closes map[closeKey]*Counter
}

type closeKey struct {
	by   Closer
	code string
}

// declareSockets declares the families of WebSockets.
func (m *Metrics) declareSockets(r *Registry) {
	m.WebSockets = r.Level(Desc{
		Name:   "sluice_websocket_connections",
		Help:   "WebSockets of clients that are open.",
		Labels: []string{"route"},
	})
	m.WebSocketMessages = r.Counter(Desc{
		Name:   "sluice_websocket_messages_total",
		Help:   "Messages over WebSockets, from clients (in) and to them (out).",
		Labels: []string{"direction", "route"},
	})
	m.WebSocketBytes = r.Counter(Desc{
		Name:   "sluice_websocket_bytes_total",
		Help:   "Bytes over WebSockets as they pass, from clients (in) and to them (out).",
		Labels: []string{"direction", "route"},
	})
	m.WebSocketCloses = r.Counter(Desc{
		Name:   "sluice_websocket_closes_total",
		Help:   "WebSockets that ended, by who ended them first and with what code; 1006 where no close frame came.",
		Labels: []string{"route", "by", "code"},
	})
}

// Sockets leases the series of a route's WebSockets for g (nil: for good). The same route gives the same handle.
func (m *Metrics) Sockets(g *Generation, route string) *SocketMetrics {
	m.mu.Lock()
	s := m.sockets[route]
	if s == nil {
		lease := m.Begin()
		s = &SocketMetrics{
			Open:       m.WebSockets.With(lease, route),
			MessagesIn: m.WebSocketMessages.With(lease, "in", route), MessagesOut: m.WebSocketMessages.With(lease, "out", route),
			BytesIn: m.WebSocketBytes.With(lease, "in", route), BytesOut: m.WebSocketBytes.With(lease, "out", route),
			metrics: m, lease: lease, route: route, closes: make(map[closeKey]*Counter),
		}
		m.sockets[route] = s
	}
	s.refs++
	m.mu.Unlock()
	g.hold(s)
	return s
}

func (s *SocketMetrics) release() { leave(s.metrics, s.metrics.sockets, s.route, &s.refs, s.lease) }

// Closed counts the end of a WebSocket.
func (s *SocketMetrics) Closed(by Closer, code int) {
	key := closeKey{by, wswire.CodeName(code)}
	s.mu.Lock()
	c := s.closes[key]
	if c == nil {
		c = s.metrics.WebSocketCloses.With(s.lease, s.route, closerNames[by], key.code)
		s.closes[key] = c
	}
	s.mu.Unlock()
	c.Inc()
}
