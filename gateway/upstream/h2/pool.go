// Package h2 keeps the connections of HTTP/2 to one address. Calls share them:
// a further connection is made only when those there are take no more streams,
// and one that is going away gets none. The connections are net/http2's; which
// of them a call gets, and when one is made, is decided here.
package h2

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Bounds of a connection. A stream whose client reads slowly holds up to its
// window; the window of the connection is so large that it holds up no other.
const (
	streamWindow = 1 << 20
	maxHead      = 64 << 10
	// writeTimeout ends a connection that takes no byte for that long.
	writeTimeout = 30 * time.Second
)

// ErrBusy says that all connections are full and there may be no more.
var ErrBusy = errors.New("all connections to the backend are in use")

// Settings of a pool.
type Settings struct {
	// Dial makes a connection that has agreed on HTTP/2; it bounds its own time.
	Dial func() (net.Conn, error)
	// MaxConns bounds the connections, IdleTimeout how long an unused one is kept.
	MaxConns    int
	IdleTimeout time.Duration
}

// Pool is the connections to one address.
type Pool struct {
	settings  Settings
	transport *http2.Transport

	mu      sync.Mutex
	conns   []*http2.ClientConn
	growing *growth // the connection that is being made, nil for none
	closed  bool
}

// growth is a connection in the making; those who need one wait for the same.
type growth struct {
	done chan struct{}
	err  error
}

// NewPool returns a pool without connections.
func NewPool(s Settings) *Pool {
	t1 := &http.Transport{
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHead,
		IdleConnTimeout:        s.IdleTimeout,
		// No pings: servers of gRPC end connections that ping more often than they
		// have been told to expect. Silence is for deadlines and keepalive of TCP.
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindow, WriteByteTimeout: writeTimeout},
	}
	t, err := http2.ConfigureTransports(t1)
	if err != nil {
		panic("BUG: " + err.Error()) // it refuses only what was configured before
	}
	t.AllowHTTP = true
	t.MaxHeaderListSize = maxHead
	return &Pool{settings: s, transport: t}
}

// Conn returns a connection with a stream reserved, for one RoundTrip.
func (p *Pool) Conn(ctx context.Context) (*http2.ClientConn, error) {
	for {
		p.mu.Lock()
		for _, cc := range p.conns {
			if cc.ReserveNewRequest() {
				p.mu.Unlock()
				return cc, nil
			}
		}
		if p.closed {
			p.mu.Unlock()
			return nil, net.ErrClosed
		}
		g := p.growing
		if g == nil {
			g = &growth{done: make(chan struct{})}
			p.growing = g
			go p.grow(g)
		}
		p.mu.Unlock()
		select {
		case <-g.done:
			if g.err != nil {
				return nil, g.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// grow makes a connection for those who wait.
func (p *Pool) grow(g *growth) {
	defer close(g.done)
	var cc *http2.ClientConn
	if g.err = p.prune(); g.err == nil {
		var nc net.Conn
		if nc, g.err = p.settings.Dial(); g.err == nil {
			if cc, g.err = p.transport.NewClientConn(nc); g.err != nil {
				_ = nc.Close()
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.growing = nil
	if cc == nil {
		return
	}
	if p.closed {
		_ = cc.Close()
		g.err = net.ErrClosed
		return
	}
	p.conns = append(p.conns, cc)
}

// prune forgets connections that have ended, and says whether there may be one more.
func (p *Pool) prune() error {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	gone := make(map[*http2.ClientConn]bool)
	for _, cc := range conns {
		// A state may wait for a write, so no lock is held here.
		if st := cc.State(); st.Closed || st.Closing && st.StreamsActive+st.StreamsReserved == 0 {
			gone[cc] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(cc *http2.ClientConn) bool { return gone[cc] })
	if len(p.conns) >= p.settings.MaxConns {
		return ErrBusy
	}
	return nil
}

// Conns returns how many connections there are.
func (p *Pool) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, cc := range p.conns {
		if cc.CanTakeNewRequest() {
			n++
		}
	}
	return n
}

// Close closes the idle connections; those in use end with their last call.
func (p *Pool) Close() error {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for _, cc := range conns {
		cc.SetDoNotReuse()
		if st := cc.State(); st.StreamsActive+st.StreamsReserved+st.StreamsPending == 0 {
			_ = cc.Close()
		}
	}
	return nil
}

// Unsent reports whether err says that the backend has not acted on the
// request, so that it may be sent again whatever it is: it never left, its
// stream was refused, or the connection was going away when it came (RFC 9113,
// section 8.7).
func Unsent(err error) bool {
	var reset http2.StreamError
	if errors.As(err, &reset) {
		return reset.Code == http2.ErrCodeRefusedStream
	}
	if err == nil {
		return false
	}
	switch err.Error() {
	// The engine has no names for these.
	case "http2: client conn not usable", "http2: client conn could not be established",
		"http2: Transport received Server's graceful shutdown GOAWAY":
		return true
	}
	return false
}

// WentAway reports whether err says that the backend ended the connection with GOAWAY.
func WentAway(err error) bool {
	var away http2.GoAwayError
	return errors.As(err, &away) || err != nil && strings.HasPrefix(err.Error(), "http2: Transport received GOAWAY from server")
}

// ResetCode returns the code of the RST_STREAM frame that err stands for.
func ResetCode(err error) (code uint32, ok bool) {
	var reset http2.StreamError
	if errors.As(err, &reset) {
		return uint32(reset.Code), true
	}
	return 0, false
}
