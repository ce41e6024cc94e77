package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// Pool is the connections to one address: fasthttp's HostClient keeps, bounds
// and ages them, while the calls over them are made here.
type Pool struct {
	settings PoolSettings
	resolve  map[string]string
	client   *fasthttp.HostClient
	conns    connPool
	streams  *h2.Pool     // of HTTP/2, nil for HTTP/1.1
	connect  atomic.Int64 // connect timeout in nanoseconds
	closed   atomic.Bool
}

// connPool hides the type of HostClient's pooled connections, which has no
// name outside of fasthttp.
type connPool interface {
	acquire(wait time.Duration) (pooled, *Conn, error)
	release(p pooled)
	discard(p pooled)
}

// pooled is a connection on loan from a pool.
type pooled any

type hostClient[C interface{ Conn() net.Conn }] interface {
	AcquireConn(wait time.Duration, connectionClose bool) (C, error)
	ReleaseConn(C)
	CloseConn(C)
}

type typedPool[C interface{ Conn() net.Conn }] struct{ c hostClient[C] }

func typed[C interface{ Conn() net.Conn }](c hostClient[C]) connPool { return typedPool[C]{c} }

func (t typedPool[C]) acquire(wait time.Duration) (pooled, *Conn, error) {
	cc, err := t.c.AcquireConn(wait, false)
	if err != nil {
		return nil, nil, err
	}
	return cc, cc.Conn().(*Conn), nil
}

func (t typedPool[C]) release(p pooled) { t.c.ReleaseConn(p.(C)) }
func (t typedPool[C]) discard(p pooled) { t.c.CloseConn(p.(C)) }

// NewPool makes a pool. resolve maps addresses to others, as curl's --connect-to does; nil for none.
func NewPool(s PoolSettings, sweeper *Sweeper, resolve map[string]string) *Pool {
	p := &Pool{settings: s, resolve: resolve}
	p.client = &fasthttp.HostClient{
		Addr:                s.Address,
		MaxConns:            s.MaxConns,
		MaxIdleConnDuration: s.IdleTimeout,
		MaxConnWaitTimeout:  time.Second,
		// The most recently used connection is the least likely to be closed by its backend.
		ConnPoolStrategy: fasthttp.LIFO,
		DialTimeout: func(string, time.Duration) (net.Conn, error) {
			nc, err := p.dial()
			if err != nil {
				return nil, &connectError{err}
			}
			return newConn(nc, p, sweeper), nil
		},
	}
	p.conns = typed(p.client)
	if s.HTTP2 {
		p.streams = h2.NewPool(h2.Settings{Dial: p.dialStreams, MaxConns: s.MaxConns, IdleTimeout: s.IdleTimeout})
	}
	return p
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

// Close closes the idle connections; those in use end with their calls.
func (p *Pool) Close() error {
	p.closed.Store(true)
	if p.streams != nil {
		return p.streams.Close()
	}
	p.client.CloseIdleConnections()
	return nil
}

// Conns returns how many connections are open.
func (p *Pool) Conns() int {
	if p.streams != nil {
		return p.streams.Conns()
	}
	return p.client.ConnsCount()
}

// borrow takes an idle connection or makes one, waiting for a free place for
// at most a second.
func (p *Pool) borrow() (*Conn, error) {
	key, c, err := p.conns.acquire(0)
	if err != nil {
		if errors.Is(err, fasthttp.ErrNoFreeConns) {
			return nil, errNoConn
		}
		return nil, err
	}
	c.key = key
	return c, nil
}

// giveBack returns a connection for the next call, if there may be one.
func (p *Pool) giveBack(c *Conn, now int64) {
	if p.closed.Load() {
		p.drop(c)
		return
	}
	c.used, c.idleAt = true, now
	p.conns.release(c.key)
}

// drop closes a connection.
func (p *Pool) drop(c *Conn) { p.conns.discard(c.key) }
