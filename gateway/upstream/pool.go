package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/socket"
	"sluice/gateway/upstream/h2"
)

// PoolSettings identify a pool: two services with equal settings share it, and
// it survives every reload that does not change them.
type PoolSettings struct {
	// Network is "tcp" or "unix", Address what is dialled.
	Network, Address string
	// TLS, nil for plain connections; TLSIdentity tells equal ones apart.
	TLS         *tls.Config
	TLSIdentity string
	// HTTP2 has calls share connections of HTTP/2.
	HTTP2 bool
	// Source that the address comes from, "" for the configuration: where a name of others leads is not trusted.
	Source string
	// MaxConns bounds the connections, IdleTimeout how long an unused one is kept.
	MaxConns    int
	IdleTimeout time.Duration
}

// Identity is the name under which the pool lives across configurations.
func (s *PoolSettings) Identity() string {
	kind := "pool"
	if s.HTTP2 {
		kind = "pool/h2"
	}
	if s.Source != "" {
		kind += "/" + s.Source
	}
	return fmt.Sprintf("%s/%s/%s/%s/%d/%s", kind, s.Network, s.Address, s.TLSIdentity, s.MaxConns, s.IdleTimeout)
}

// Errors of getting a connection.
var (
	errNoConn  = errors.New("all connections to the backend are in use")
	errConnect = errors.New("the backend could not be reached")
	errNoHTTP2 = errors.New("the backend did not agree on HTTP/2 (ALPN h2)")
)

// connectError keeps what went wrong while connecting, for the operator.
type connectError struct{ err error }

func (e *connectError) Error() string   { return e.err.Error() }
func (e *connectError) Unwrap() error   { return e.err }
func (e *connectError) Is(t error) bool { return t == errConnect }

// Timeout reports whether connecting took too long.
func (e *connectError) Timeout() bool {
	var t interface{ Timeout() bool }
	return errors.As(e.err, &t) && t.Timeout()
}

// Pool is the connections to one address: it bounds them, keeps those that rest
// for the next calls, and closes them when they have rested for too long. It
// has a place for each connection that is open or being made.
type Pool struct {
	mu     sync.Mutex
	idle   []*Conn // in the order in which they came to rest
	taken  int     // places
	queue  []*waiter
	closed bool

	settings PoolSettings
	resolve  map[string]string
	sweeper  *Sweeper
	streams  *h2.Pool     // of HTTP/2, nil for HTTP/1.1
	connect  atomic.Int64 // connect timeout in nanoseconds
}

// waiter is a call that waits for a connection or a place.
type waiter struct {
	got chan *Conn // nil is a place; sent with mu held
}

// maxWait is how long a call waits for a connection when all places are taken.
const maxWait = time.Second

// NewPool makes a pool. resolve maps addresses to others, as curl's --connect-to does; nil for none.
func NewPool(s PoolSettings, sweeper *Sweeper, resolve map[string]string) *Pool {
	if s.MaxConns <= 0 {
		s.MaxConns = fasthttp.DefaultMaxConnsPerHost
	}
	if s.IdleTimeout <= 0 {
		s.IdleTimeout = fasthttp.DefaultMaxIdleConnDuration
	}
	p := &Pool{settings: s, sweeper: sweeper, resolve: resolve}
	if s.HTTP2 {
		p.streams = h2.NewPool(h2.Settings{Dial: p.dialStreams, MaxConns: s.MaxConns, IdleTimeout: s.IdleTimeout})
	} else if sweeper != nil {
		sweeper.Watch(p)
	}
	return p
}

// borrow takes a connection that rests or makes one, waiting for a place for at
// most a second. The one that was used last is the least likely to be closed by
// its backend.
func (p *Pool) borrow() (*Conn, error) {
	p.mu.Lock()
	n := len(p.idle) - 1
	if n < 0 {
		return p.open()
	}
	c := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	p.mu.Unlock()
	return c, nil
}

// open makes a connection once there is a place for it, unless one comes to rest
// before. It is called with mu held, and lets go of it.
func (p *Pool) open() (*Conn, error) {
	if p.taken < p.settings.MaxConns {
		p.taken++
		p.mu.Unlock()
	} else {
		w := &waiter{got: make(chan *Conn, 1)}
		p.queue = append(p.queue, w)
		p.mu.Unlock()
		if c, err := p.await(w); c != nil || err != nil {
			return c, err
		}
	}
	nc, err := p.dial()
	if err != nil {
		p.mu.Lock()
		p.leave()
		p.mu.Unlock()
		return nil, &connectError{err}
	}
	return newConn(nc, p, p.sweeper), nil
}

// await returns what w has got; nil is a place.
func (p *Pool) await(w *waiter) (*Conn, error) {
	t := time.NewTimer(maxWait)
	defer t.Stop()
	select {
	case c := <-w.got:
		return c, nil
	case <-t.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, w); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		return nil, errNoConn
	}
	return <-w.got, nil // it came at the last moment
}

// leave gives a place up, to who waits for one. It is called with mu held.
func (p *Pool) leave() {
	if len(p.queue) > 0 {
		p.serve(nil)
		return
	}
	p.taken--
}

// serve gives a connection or a place to who has waited longest.
func (p *Pool) serve(c *Conn) {
	p.queue[0].got <- c
	p.queue[0] = nil
	if p.queue = p.queue[1:]; len(p.queue) == 0 {
		p.queue = nil
	}
}

// giveBack returns a connection for the next call, if there may be one.
func (p *Pool) giveBack(c *Conn, now int64) {
	c.used, c.idleAt = true, now
	p.mu.Lock()
	if len(p.queue) > 0 || p.closed {
		p.handOver(c)
		return
	}
	p.idle = append(p.idle, c)
	p.mu.Unlock()
}

// handOver gives a connection to who waits for one, or closes it where the pool
// is closed. It is called with mu held, and lets go of it.
func (p *Pool) handOver(c *Conn) {
	if p.closed {
		p.mu.Unlock()
		p.drop(c)
		return
	}
	p.serve(c)
	p.mu.Unlock()
}

// drop closes a connection.
func (p *Pool) drop(c *Conn) {
	_ = c.Close()
	p.mu.Lock()
	p.leave()
	p.mu.Unlock()
}

// Check closes what has rested for too long.
func (p *Pool) Check(now int64) {
	p.mu.Lock()
	old := 0
	for old < len(p.idle) && now-p.idle[old].idleAt > int64(p.settings.IdleTimeout) {
		old++
	}
	var resting []*Conn
	if old > 0 {
		resting = slices.Clone(p.idle[:old])
		p.idle = slices.Delete(p.idle, 0, old)
	}
	p.mu.Unlock()
	for _, c := range resting {
		p.drop(c)
	}
}

// dialStreams makes a connection of HTTP/2: over TLS one that has agreed on
// it, else one whose backend is known to speak it.
func (p *Pool) dialStreams() (net.Conn, error) {
	nc, err := p.dial()
	if err != nil {
		return nil, &connectError{err}
	}
	if tc, ok := nc.(*tls.Conn); ok && tc.ConnectionState().NegotiatedProtocol != "h2" {
		_ = nc.Close()
		return nil, &connectError{errNoHTTP2}
	}
	return nc, nil
}

// dial makes a connection, with TLS where it is set, within the connect timeout.
func (p *Pool) dial() (net.Conn, error) {
	ctx := context.Background()
	if timeout := time.Duration(p.connect.Load()); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	nc, err := p.dialRaw(ctx)
	if err != nil || p.settings.TLS == nil {
		return nc, err
	}
	tc := tls.Client(nc, p.settings.TLS)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return tc, nil
}

// dialRaw makes a connection without TLS.
func (p *Pool) dialRaw(ctx context.Context) (net.Conn, error) {
	addr := p.settings.Address
	var d net.Dialer
	if to, ok := p.resolve[addr]; ok {
		addr = to
	} else if p.settings.Source != "" {
		d.Control = p.settings.control
	}
	nc, err := d.DialContext(ctx, p.settings.Network, addr)
	if err != nil || p.settings.HTTP2 {
		return nc, err
	}
	return socket.New(nc), nil
}

// metadataOfAWS is where that cloud has its credentials over IPv6, which is no link-local address.
var metadataOfAWS = netip.MustParseAddr("fd00:ec2::254")

// control refuses addresses that nobody outside of the configuration is to lead requests to: what the network tells this
// machine alone, as the credentials of clouds, and where names are those of services in a cluster, as an ExternalName may be
// anything, the machine itself.
func (s *PoolSettings) control(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := a.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || ip == metadataOfAWS || ip.IsMulticast() || ip.IsUnspecified() || s.Source == "kubernetes" && ip.IsLoopback() {
		return fmt.Errorf("%s is no address that a service of the source %s may have; a service of its name in the configuration may", ip, s.Source)
	}
	return nil
}

// Close closes the connections that rest; those in use end with their calls.
func (p *Pool) Close() error {
	if p.streams != nil {
		return p.streams.Close()
	}
	if p.sweeper != nil {
		p.sweeper.Unwatch(p)
	}
	p.mu.Lock()
	resting := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range resting {
		p.drop(c)
	}
	return nil
}

// Conns returns how many connections are open or being made.
func (p *Pool) Conns() int {
	if p.streams != nil {
		return p.streams.Conns()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}
