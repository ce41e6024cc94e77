package listener

import (
	"errors"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ProxyMode says what is done with headers of the PROXY protocol.
type ProxyMode uint8

const (
	// ProxyOff takes none: a header is malformed HTTP.
	ProxyOff ProxyMode = iota
	// ProxyAccept takes one from a trusted peer, if there is one.
	ProxyAccept
	// ProxyRequire takes connections of trusted peers alone, and none without a header.
	ProxyRequire
)

// trustsProxy reports whether a header of this peer is believed.
func (p *Protocols) trustsProxy(peer netip.Addr) bool {
	for _, prefix := range p.Proxies {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

// takeProxyHeader takes the header of the PROXY protocol off the connection,
// and not a byte more, within the time for a head. From then on the peer is
// the client that the header names. An error ends the connection.
func (c *conn) takeProxyHeader() error {
	h, err := c.peekProxyHeader()
	switch {
	case err != nil:
		return err
	case h.verdict == proxyBad:
		c.owner.refuse(c, proxyMalformed)
		return errClosing
	case h.verdict == proxyAbsent && c.proxied == ProxyRequire:
		c.owner.refuse(c, proxyMissing)
		return errClosing
	}
	var b [512]byte
	for left := h.length; left > 0; {
		n, err := c.tcp.Read(b[:min(left, len(b))])
		if err != nil {
			return err
		}
		left -= n
	}
	return c.owner.seat(c, h.client)
}

// peekProxyHeader waits until it is clear what the connection begins with.
// Nothing is taken: what comes behind a header is for others to read.
func (c *conn) peekProxyHeader() (h proxyHeader, err error) {
	if c.raw == nil {
		return h, errors.ErrUnsupported
	}
	var b [proxyLook]byte
	waitErr := c.raw.Read(func(fd uintptr) bool {
		var n int
		n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		for errors.Is(err, unix.EINTR) {
			n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		}
		switch {
		case errors.Is(err, unix.EAGAIN):
			err = nil
			return false
		case err != nil:
			return true
		case n == 0:
			err = io.ErrUnexpectedEOF
			return true
		}
		if h = readProxyHeader(b[:n]); h.verdict != proxyMore {
			return true
		}
		// More bytes wake this up, and the end does. That would show no other way:
		// what has come is still there to be read.
		if hungUp(fd) {
			err = io.ErrUnexpectedEOF
			return true
		}
		return false
	})
	if waitErr != nil {
		return h, waitErr
	}
	return h, err
}

// hungUp reports whether the other side sends nothing any more.
func hungUp(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// seat counts a connection under its client's address, now that it is known.
// client is not valid where the peer of the socket is the client.
func (l *Listener) seat(c *conn, client netip.Addr) error {
	if !client.IsValid() {
		client = c.peer
	}
	limit := l.limits.Load().MaxConnsPerIP
	l.mu.Lock()
	if c.next == nil {
		l.mu.Unlock()
		return errClosing
	}
	full := limit > 0 && l.perIP[client] >= limit
	c.setPeer(client)
	if !full {
		l.perIP[client]++
		c.seated = true
	}
	l.mu.Unlock()
	if full {
		l.refuse(c, overConnectionsPerIP)
		return errClosing
	}
	return nil
}
