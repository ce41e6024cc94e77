//go:build linux

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// How long a client waits for the first answer, for further ones that should
// come, and for what may come behind the last.
const (
	patience = 3 * time.Second
	between  = 1500 * time.Millisecond
	behind   = 300 * time.Millisecond
)

// outcome is what a client had of its connection.
type outcome struct {
	answers []message // but for interim ones
	// rest came behind the last whole answer. cut: it is the beginning of one,
	// and the connection ended in it.
	rest  message
	cut   bool
	ended bool // by the other side
}

func (o *outcome) statuses() (all []int) {
	for i := range o.answers {
		all = append(all, o.answers[i].status())
	}
	return all
}

// client is one connection to a gateway.
type client struct {
	conn net.Conn
	b    []byte
}

func dial(address string) (*client, error) {
	c, err := net.Dial("tcp4", address)
	return &client{conn: c}, err
}

func (c *client) close() { _ = c.conn.Close() }

// ask sends bytes and returns what comes of them: want answers, and more if
// there are more.
func (c *client) ask(send, method string, want int) (o outcome) {
	go func() {
		_ = c.conn.SetWriteDeadline(time.Now().Add(2 * patience))
		_, _ = io.WriteString(c.conn, send) // who refuses early does not read it all
	}()
	buf := make([]byte, 64<<10)
	for !o.ended {
		wait := patience
		switch {
		case len(o.answers) >= want:
			wait = behind
		case len(o.answers) > 0 || len(c.b) > 0:
			wait = between
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(wait))
		n, err := c.conn.Read(buf)
		c.b = append(c.b, buf[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		o.ended = err != nil
		c.parse(&o, method)
	}
	c.parse(&o, method)
	return o
}

func (c *client) parse(o *outcome, method string) {
	for len(c.b) > 0 {
		m, size := answerAt(c.b, method, o.ended)
		if size == 0 {
			o.rest, o.cut = m, o.ended
			if o.rest.raw == "" {
				o.rest.raw = string(c.b)
			}
			return
		}
		if s := m.status(); s < 100 || s > 199 || s == 101 {
			o.answers = append(o.answers, m)
		}
		c.b = c.b[size:]
	}
	o.rest, o.cut = message{}, false
}
