package listener

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"
)

// Bounds of HTTP/3. A connection has as many streams, and about as much memory
// for uploads, as one of HTTP/2. A stream that the client has reset counts until
// its call has ended, so that opening and resetting gains nothing (rapid reset).
const (
	// maxHandshakes bounds the clients that have begun a connection and not
	// completed it; above retryAbove each first proves its address (RFC 9000,
	// section 8.1.2), so that no flood of forged ones costs handshakes.
	maxHandshakes = 1024
	retryAbove    = 64
	// maxUniStreams are three that HTTP/3 needs, and some that it wants ignored
	// (RFC 9114, section 6.2.3).
	maxUniStreams = 8
	// The windows of uploads grow from the first to the last while they are read.
	firstStreamWindow = 256 << 10
	lastStreamWindow  = 1 << 20
	firstConnWindow   = 512 << 10
	lastConnWindow    = 2 << 20
	// keepAlive asks a client that is silent whether it is still there;
	// quicIdle is when one that does not answer is gone.
	keepAlive = 20 * time.Second
	quicIdle  = 45 * time.Second
	// minHandshake keeps a short timeout for heads from failing every handshake.
	minHandshake = 500 * time.Millisecond
)

const http3Version = "HTTP/3.0"

// h3 is the UDP socket beside a listener's own. The zero value is closed.
type h3 struct {
	mu         sync.Mutex
	udp        *net.UDPConn    // nil: closed
	transport  *quic.Transport // on udp
	wanted     bool            // it stays open when its last connection has ended
	ln         *quic.Listener  // nil: no connection is taken
	accepted   chan struct{}   // closed when the accept loop of ln has ended
	handshakes atomic.Int64    // that have begun and not ended
	stopping   atomic.Bool     // no handshake may begin
}

// OpenHTTP3 opens the UDP port that has the number of the listener's TCP port,
// unless it is open. Nothing new is served on it before ServeHTTP3; undo is for
// when it comes to nothing.
func (s *Server) OpenHTTP3() (undo func(), err error) {
	h := &s.h3
	h.mu.Lock()
	defer h.mu.Unlock()
	fresh := h.udp == nil
	if fresh {
		if err := s.bindHTTP3(); err != nil {
			return nil, err
		}
	}
	if h.wanted {
		return func() {}, nil
	}
	h.wanted = true
	return func() {
		h.mu.Lock()
		h.wanted = false
		h.mu.Unlock()
		if fresh {
			s.closeHTTP3()
		}
	}, nil
}

func (s *Server) bindHTTP3() error {
	at, ok := s.l.Addr().(*net.TCPAddr)
	if !ok {
		return errors.New("HTTP/3 is spoken over UDP, and this listener has no port")
	}
	quietBuffers()
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
	if err != nil {
		return fmt.Errorf("cannot listen on the UDP port of %s, for http3: %w", at, err)
	}
	s.h3.udp = udp
	s.h3.transport = &quic.Transport{
		Conn:              udp,
		StatelessResetKey: newResetKey(),
		ConnContext:       s.meet,
		VerifySourceAddress: func(net.Addr) bool {
			return s.h3.handshakes.Load() > retryAbove
		},
	}
	return nil
}

// newResetKey is for telling clients of connections that are forgotten.
func newResetKey() *quic.StatelessResetKey {
	var key quic.StatelessResetKey
	_, _ = rand.Read(key[:]) // never fails
	return &key
}

// ServeHTTP3 takes connections on the port that OpenHTTP3 has opened. It is
// false where that was done before.
func (s *Server) ServeHTTP3() (fresh bool, err error) {
	s.h3.mu.Lock()
	defer s.h3.mu.Unlock()
	if s.h3.ln != nil {
		return false, nil
	}
	if s.h3.udp == nil {
		panic("BUG: HTTP/3 is to be served on a port that is not open")
	}
	ln, err := s.h3.transport.Listen(&tls.Config{GetConfigForClient: s.handshakeHTTP3}, &quic.Config{
		GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return s.quicConfig(), nil },
		// The rest of it is for what is answered before that is asked.
		HandshakeIdleTimeout: s.quicConfig().HandshakeIdleTimeout,
	})
	if err != nil {
		return false, fmt.Errorf("cannot speak QUIC on %s: %w", s.l.Addr(), err)
	}
	s.h3.ln, s.h3.accepted = ln, make(chan struct{})
	s.h3.stopping.Store(false)
	smallBuffers.Do(func() { warnOfSmallBuffers(s.h3.udp, s.l.log) })
	go s.acceptHTTP3(ln, s.h3.accepted)
	return true, nil
}

// quicConfig is for a connection that begins now, with the timeouts of now.
func (s *Server) quicConfig() *quic.Config {
	c := &quic.Config{
		MaxIdleTimeout:                 quicIdle,
		KeepAlivePeriod:                keepAlive,
		MaxIncomingStreams:             maxStreams,
		MaxIncomingUniStreams:          maxUniStreams,
		InitialStreamReceiveWindow:     firstStreamWindow,
		MaxStreamReceiveWindow:         lastStreamWindow,
		InitialConnectionReceiveWindow: firstConnWindow,
		MaxConnectionReceiveWindow:     lastConnWindow,
		// Early data can be replayed by anybody who has seen it.
		Allow0RTT: false,
	}
	if t := s.l.timeouts.Load().Header; t > 0 {
		// A handshake has twice this time in all.
		c.HandshakeIdleTimeout = max(t/2, minHandshake)
	}
	return c
}

// handshakeHTTP3 gives the TLS settings of the listener as they are now.
func (s *Server) handshakeHTTP3(*tls.ClientHelloInfo) (*tls.Config, error) {
	p := s.l.protocols.Load()
	if p.TLS == nil {
		return nil, errors.New("this listener has no TLS")
	}
	c := p.TLS.Clone()
	c.MinVersion = tls.VersionTLS13
	c.NextProtos = []string{http3.NextProtoH3}
	return c, nil
}

// acquaintance is a client whose handshake has begun.
type acquaintance struct {
	h     *h3
	ended atomic.Bool
}

func (a *acquaintance) end() {
	if !a.ended.Swap(true) {
		a.h.handshakes.Add(-1)
	}
}

type acquaintanceKey struct{}

var errBusy = errors.New("too many connections")

// meet decides on a client's first packet, whose address may be forged: it is
// only refused here, and counted against the limits once its handshake is done.
func (s *Server) meet(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
	peer := addrOf(client.RemoteAddr)
	switch {
	case s.h3.stopping.Load() || s.h3.handshakes.Load() >= maxHandshakes:
		s.l.refused.Add(1)
		return nil, errBusy
	case s.l.full(peer):
		s.l.refuse(&conn{owner: s.l, peer: peer}, overConnectionsPerIP)
		return nil, errBusy
	}
	a := &acquaintance{h: &s.h3}
	s.h3.handshakes.Add(1)
	context.AfterFunc(ctx, a.end)
	return context.WithValue(ctx, acquaintanceKey{}, a), nil
}

// full reports whether the address has as many connections as it may have.
func (l *Listener) full(peer netip.Addr) bool {
	m := l.limits.Load()
	if m.MaxConnsPerIP <= 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.perIP[peer] >= m.MaxConnsPerIP
}

func addrOf(a net.Addr) netip.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

func (s *Server) acceptHTTP3(ln *quic.Listener, ended chan struct{}) {
	defer close(ended)
	for {
		qc, err := ln.Accept(context.Background())
		if err != nil {
			if !s.h3.stopping.Load() {
				s.l.log.Error("HTTP/3 has ended: "+err.Error(), "listener", s.l.Name())
			}
			return
		}
		if a, ok := qc.Context().Value(acquaintanceKey{}).(*acquaintance); ok {
			a.end()
		}
		go s.serveHTTP3(qc)
	}
}

// StopHTTP3 takes no more connections and has those that are open end. It is
// false where nothing was served.
func (s *Server) StopHTTP3() bool {
	s.h3.mu.Lock()
	ln, accepted := s.h3.ln, s.h3.accepted
	s.h3.ln, s.h3.wanted = nil, false
	s.h3.mu.Unlock()
	if ln == nil {
		return false
	}
	// A handshake may be over on the client's side already, and a request on its way.
	s.h3.stopping.Store(true)
	for end := time.Now().Add(lingerAccepts); s.h3.handshakes.Load() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	_ = ln.Close()
	<-accepted
	for _, h := range s.http3Conns() {
		h.goAway()
	}
	return true
}

// DrainHTTP3, behind StopHTTP3, waits until the connections have ended, closes
// those that are left at the end of ctx, and the port with them. It does
// nothing more once HTTP/3 is served again.
func (s *Server) DrainHTTP3(ctx context.Context) {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for expired := false; ; {
		conns := s.http3Conns()
		s.h3.mu.Lock()
		again := s.h3.ln != nil || s.h3.udp == nil
		s.h3.mu.Unlock()
		if again {
			return
		}
		if len(conns) == 0 || expired {
			s.closeHTTP3()
			return
		}
		for _, h := range conns {
			h.goAway()
		}
		select {
		case <-ctx.Done():
			expired = true
			for _, h := range conns {
				_ = h.conn.shut()
			}
		case <-t.C:
		}
	}
}

// closeHTTP3 closes the port unless it is wanted; connections must have been
// told before.
func (s *Server) closeHTTP3() {
	s.h3.mu.Lock()
	defer s.h3.mu.Unlock()
	if s.h3.udp == nil || s.h3.wanted {
		return
	}
	_ = s.h3.transport.Close()
	_ = s.h3.udp.Close()
	s.h3.udp, s.h3.transport = nil, nil
}

// http3Conns lists the connections that speak HTTP/3.
func (s *Server) http3Conns() (all []*h3conn) {
	for _, c := range s.l.snapshot(nil) {
		if c.phase.Load() != phaseStreams {
			continue
		}
		if h, ok := c.mux.(*h3conn); ok {
			all = append(all, h)
		}
	}
	return all
}

// wantedBuffer is what quic-go sets the buffers of the socket to, if it may.
const wantedBuffer = 7 << 20

// quietBuffers keeps quic-go from writing on standard error about buffers;
// warnOfSmallBuffers says it in the log.
var quietBuffers = sync.OnceFunc(func() {
	const quiet = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"
	if _, given := os.LookupEnv(quiet); !given {
		_ = os.Setenv(quiet, "true")
	}
})

var smallBuffers sync.Once

func warnOfSmallBuffers(udp *net.UDPConn, log *slog.Logger) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return
	}
	size := 0
	_ = raw.Control(func(fd uintptr) {
		size, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	if size < wantedBuffer {
		log.Info("the UDP receive buffer for HTTP/3 is small, which costs speed under load; raise net.core.rmem_max and net.core.wmem_max",
			"bytes", size, "wanted", wantedBuffer)
	}
}
