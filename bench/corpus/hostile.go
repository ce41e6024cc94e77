//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"sluice/gateway/corpustest"
)

// hostile is a backend that answers as the case of the moment says, but for
// the paths /next and /ready.
type hostile struct {
	ln net.Listener

	mu         sync.Mutex
	now        *corpustest.Response
	open       map[net.Conn]bool // those that have sent the case's bytes
	conns      int
	last, next int // the connection that sent those, and that /next came on
}

func newHostile() (*hostile, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hostile{ln: ln, open: make(map[net.Conn]bool)}
	go accept(ln, h.serve)
	return h, nil
}

func (h *hostile) serve(c net.Conn) {
	h.mu.Lock()
	h.conns++
	id := h.conns
	h.mu.Unlock()
	var b []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		b = append(b, buf[:n]...)
		for {
			m, size := requestAt(b)
			if size == 0 {
				break
			}
			b = b[size:]
			if !h.answer(c, id, m.word(1)) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// answer answers a request; the connection ends where it is false.
func (h *hostile) answer(c net.Conn, id int, target string) bool {
	if !strings.HasPrefix(target, "/case/") {
		if target == "/next" {
			h.mu.Lock()
			h.next = id
			h.mu.Unlock()
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
		return false
	}
	h.mu.Lock()
	now := h.now
	h.last = id
	h.open[c] = true
	h.mu.Unlock()
	_, err := io.WriteString(c, string(now.Send))
	return err == nil && !now.Close
}

// suffer has one client ask for the response, then another, which has had an
// answer before, for something else.
func (h *hostile) suffer(address string, i int, c *corpustest.Response) (*verdict, error) {
	h.mu.Lock()
	h.now = c
	h.last, h.next = 0, -1
	h.mu.Unlock()
	other, err := dial(address)
	if err != nil {
		return nil, err
	}
	defer other.close()
	const get = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
	if o := other.ask(fmt.Sprintf(get, "/before"), "GET", 1); len(o.answers) != 1 || o.answers[0].status() != 200 {
		return nil, fmt.Errorf("another client's first request was not answered: %+v", o)
	}
	one, err := dial(address)
	if err != nil {
		return nil, err
	}
	o := one.ask(fmt.Sprintf("%s /case/%d HTTP/1.1\r\nHost: a\r\n\r\n", c.Method, i), c.Method, 1)
	one.close()
	q := other.ask(fmt.Sprintf(get, "/next"), "GET", 1)
	next := ""
	if len(q.answers) > 0 {
		if next = q.answers[0].body; q.answers[0].status() != 200 {
			next = q.answers[0].line
		}
	}
	h.mu.Lock()
	reused := h.last == h.next
	for c := range h.open {
		_ = c.Close()
	}
	clear(h.open)
	h.mu.Unlock()
	v := judgeResponse(c, &o, reused, next)
	return &v, nil
}
