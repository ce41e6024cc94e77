//go:build linux

package load

import (
	"bytes"
	"errors"
	"strconv"
	"time"
)

// Vary in a request of a Client is replaced, each time the request is sent, by
// a number of as many digits: the next of all connections, below Spec.Keys.
const Vary = "0000000"

// Client repeats requests over connections that stay open, for benchmarks that
// count requests instead of time. It is not for concurrent use.
type Client struct {
	g    *generator
	vary []int // where Vary is in the request of each connection; -1: nowhere
	key  int
}

// NewClient opens the connections of a spec; its rate and times mean nothing here.
func NewClient(s Spec) (*Client, error) {
	c := &Client{g: &generator{spec: s, result: new(Result)}}
	if err := c.g.connect(); err != nil {
		c.Close()
		return nil, err
	}
	for _, conn := range c.g.conns {
		at := -1
		if s.Keys > 0 {
			at = bytes.Index(conn.request, []byte(Vary))
		}
		c.vary = append(c.vary, at)
	}
	return c, nil
}

// Close ends the connections.
func (c *Client) Close() { c.g.close() }

// Do sends n requests, one at a time on each connection, and returns when all
// are answered as the spec says.
func (c *Client) Do(n int64) error {
	sent, answered := int64(0), int64(0)
	for i := range c.g.conns {
		if sent == n {
			break
		}
		if err := c.send(i); err != nil {
			return err
		}
		sent++
	}
	const patience = 10 * time.Second
	waiting := time.Now()
	for answered < n {
		events, err := c.g.poll.wait(patience)
		if err != nil {
			return err
		}
		if len(events) == 0 { // a signal, or the time is over
			if time.Since(waiting) >= patience {
				return errors.New("nothing was answered within 10 s")
			}
			continue
		}
		waiting = time.Now()
		for k := range events {
			i := int(events[k].Fd)
			done, err := c.g.conns[i].progress(c.g.spec.Status, c.g.spec.Body)
			if err != nil {
				return err
			}
			if !done {
				continue
			}
			answered++
			if sent < n {
				if err := c.send(i); err != nil {
					return err
				}
				sent++
			}
		}
	}
	return nil
}

func (c *Client) send(i int) error {
	conn := c.g.conns[i]
	if at := c.vary[i]; at >= 0 {
		var digits [20]byte
		d := strconv.AppendInt(digits[:0], int64(c.key), 10)
		field := conn.request[at : at+len(Vary)]
		copy(field, Vary)
		copy(field[max(len(field)-len(d), 0):], d)
		if c.key++; c.key == c.g.spec.Keys {
			c.key = 0
		}
	}
	return conn.send(0)
}
