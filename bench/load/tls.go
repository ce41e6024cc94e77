//go:build linux

package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// tlsConn is one connection; it reads as conn does, but has to decrypt all of it.
type tlsConn struct {
	*tls.Conn
	buf []byte
}

func dialTLS(s *Spec) (*tlsConn, error) {
	raw, err := dialRaw(s.Address)
	if err != nil {
		return nil, err
	}
	c, err := handshake(raw, s, "http/1.1")
	return &tlsConn{c, make([]byte, 16<<10)}, err
}

// dialRaw opens a connection that is closed by a reset: a port in TIME_WAIT for
// each handshake would soon be too many.
func dialRaw(address string) (net.Conn, error) {
	raw, err := net.DialTimeout("tcp4", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	// The deadline bounds a run with a gateway that stalls.
	err = errors.Join(raw.(*net.TCPConn).SetLinger(0), raw.SetDeadline(time.Now().Add(10*time.Minute)))
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return raw, nil
}

// handshake secures a connection, for a protocol. It closes one that fails.
func handshake(raw net.Conn, s *Spec, protocol string) (*tls.Conn, error) {
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost", NextProtos: []string{protocol}}
	if s.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
		if err != nil {
			_ = raw.Close()
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	c := tls.Client(raw, config)
	err := c.Handshake()
	if got := c.ConnectionState().NegotiatedProtocol; err == nil && protocol == "h2" && got != protocol {
		err = fmt.Errorf("the gateway speaks %q instead of HTTP/2", got)
	}
	if err != nil {
		_ = raw.Close()
	}
	return c, err
}

// abort closes the connection without TLS's goodbye.
func (c *tlsConn) abort() { _ = c.NetConn().Close() }

func (c *tlsConn) exchange(request []byte, status, body int) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	var h head
	n := 0
	for h.size == 0 {
		if n == len(c.buf) {
			return errors.New("the head of an answer does not end")
		}
		k, err := c.Read(c.buf[n:])
		if err != nil {
			return err
		}
		n += k
		if h, err = answerHead(c.buf[:n]); err != nil {
			return err
		}
	}
	if status >= 0 && h.status != status || body >= 0 && h.body != body {
		return fmt.Errorf("an answer has status %d and %d bytes, expected %d and %d: %q", h.status, h.body, status, body, c.buf[:min(n, 300)])
	}
	for rest := h.body - (n - h.size); rest > 0; {
		k, err := c.Read(c.buf[:min(rest, len(c.buf))])
		if err != nil {
			return err
		}
		rest -= k
	}
	return nil
}
