package listener

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/exchange"
)

// Protocols is what a listener speaks beside HTTP/1.1 in plain text.
type Protocols struct {
	// TLS ends TLS; nil is plain text. What it offers by ALPN is served: "h2",
	// "http/1.1". It may be used by several generations and is never changed
	// here.
	TLS *tls.Config
	// HSTS is the value of Strict-Transport-Security for answers over TLS, nil for none.
	HSTS []byte
	// AltSvc is the value of Alt-Svc for answers over TCP: where HTTP/3 is
	// spoken. nil is nowhere.
	AltSvc []byte
	// H2C takes HTTP/2 in plain text from clients that begin with its preface.
	H2C bool
	// Loop serves with the engine loop instead of fasthttp's server.
	Loop bool
	// Proxy says what is done with headers of the PROXY protocol, which are
	// believed from peers in Proxies alone.
	Proxy   ProxyMode
	Proxies []netip.Prefix
}

// Speak sets the protocols of connections that are accepted from now on.
func (l *Listener) Speak(p Protocols) { l.protocols.Store(&p) }

// dress puts on a new connection what is spoken on it.
func (c *conn) dress(p *Protocols) {
	c.looped = p.Loop || alwaysLoop
	switch {
	case p.TLS != nil:
		c.secured = true
		c.Conn = tls.Server(c.tcp, p.TLS)
	case p.H2C:
		c.Conn = &sniffed{Conn: c.tcp}
	}
}

// Handshake finds out who the client is and what it speaks, within the time
// for a head. It is how fasthttp asks before it reads; ConnectionState has the
// answer.
func (c *conn) Handshake() error {
	var err error
	if c.proxied != ProxyOff {
		err = c.takeProxyHeader()
	}
	if err == nil {
		switch t := c.Conn.(type) {
		case *tls.Conn:
			err = c.handshake(t)
		case *sniffed:
			if t.sniff() {
				c.protocol = "h2"
			}
		}
	}
	if err != nil {
		c.phase.Store(phaseClosing)
		_ = c.shut()
		return err
	}
	return nil
}

// ConnectionState is the state of TLS, or in plain text the protocol alone.
func (c *conn) ConnectionState() tls.ConnectionState {
	if c.state != nil {
		return *c.state
	}
	return tls.ConnectionState{NegotiatedProtocol: c.protocol}
}

// acmeTLS is what an authority speaks that wants to see a challenge (RFC 8737).
// The handshake is all of it: the connection carries no request.
const acmeTLS = "acme-tls/1"

var errChallenge = errors.New("the handshake was a challenge")

// plainAnswer is for clients that speak HTTP where TLS is spoken.
const plainAnswer = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 30\r\n\r\nThis port speaks HTTPS, only.\n"

func (c *conn) handshake(t *tls.Conn) error {
	err := t.Handshake()
	if err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) && plain.Conn != nil && looksLikeHTTP(plain.RecordHeader) {
			_ = c.tcp.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.tcp.Write([]byte(plainAnswer))
			c.abrupt.Store(true)
		}
		return err
	}
	state := t.ConnectionState()
	if state.NegotiatedProtocol == acmeTLS {
		return errChallenge
	}
	c.state = &state
	// The head has its own time.
	c.since.Store(c.owner.coarse.Load())
	return nil
}

func looksLikeHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH", "PRI *":
		return true
	}
	return false
}

// endTLS closes a connection that speaks TLS. Nothing waits for a client that
// takes no more: then, and where the answer is not whole, it is not told that
// this is the end.
func (c *conn) endTLS() error {
	if c.abrupt.Load() || !c.writable() {
		return c.tcp.Close()
	}
	return c.Conn.Close()
}

// writable reports whether the socket takes bytes at once.
func (c *conn) writable() bool {
	if c.raw == nil {
		return false
	}
	ok := false
	_ = c.raw.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p[:], 0)
		ok = err == nil && n > 0 && p[0].Revents == unix.POLLOUT
	})
	return ok
}

// setPeer says who is at the other end, before any request is served: streams of one connection read it at once.
func (c *conn) setPeer(peer netip.Addr) {
	c.peer, c.peerLen = peer, 0
	if peer.Is4() {
		c.peerLen = uint8(len(peer.AppendTo(c.peerText[:0])))
	}
}

// identify tells the exchange who is at the other end.
func (c *conn) identify(x *exchange.Exchange) {
	x.ConnID, x.PeerAddr, x.Listener, x.Scheme = c.id, c.peer, c.owner.Name(), "http"
	if c.peerLen > 0 {
		x.PeerText = c.peerText[:c.peerLen]
	}
	if c.state != nil {
		x.Scheme, x.TLS = "https", c.state
	}
}

// adorns reports whether the head of every answer is changed by secure.
func (s *Server) adorns(c *conn) bool {
	if c.state == nil {
		return false
	}
	p := s.l.protocols.Load()
	return len(p.HSTS) > 0 || len(p.AltSvc) > 0
}

// secure adds what answers over TLS carry.
func (s *Server) secure(c *conn, x *exchange.Exchange) {
	if c.state == nil {
		return
	}
	p, h := s.l.protocols.Load(), &x.Response.Header
	if len(p.HSTS) > 0 {
		exchange.DelResponse(h, strictTransport)
		h.AddBytesV(strictTransport, p.HSTS)
	}
	if len(p.AltSvc) > 0 {
		// A backend's own is about its own address.
		exchange.DelResponse(h, altSvc)
		if !s.draining.Load() && x.Protocol != http3Version {
			h.AddBytesV(altSvc, p.AltSvc)
		}
	}
}

const (
	strictTransport = "Strict-Transport-Security"
	altSvc          = "Alt-Svc"
)

// sniffed is a connection whose first bytes were looked at.
type sniffed struct {
	net.Conn
	ahead []byte
}

// preface begins every HTTP/2 connection (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// sniff reads until it is clear whether the client begins with the preface.
func (s *sniffed) sniff() bool {
	b := make([]byte, 0, len(preface))
	for len(b) < len(preface) {
		n, err := s.Conn.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		s.ahead = b
		if err != nil || string(b) != preface[:len(b)] {
			return false
		}
	}
	return true
}

func (s *sniffed) Read(p []byte) (int, error) {
	if len(s.ahead) == 0 {
		return s.Conn.Read(p)
	}
	n := copy(p, s.ahead)
	s.ahead = s.ahead[n:]
	return n, nil
}
