//go:build linux

package main

import (
	"io"
	"net"
	"sync"
	"time"
)

// witness is a backend that keeps what it saw, byte by byte, and answers each
// whole request with 200.
type witness struct {
	ln net.Listener

	mu      sync.Mutex
	seen    []message
	partial map[net.Conn][]byte // what came of a request that is not whole
	touched time.Time           // when bytes came last
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func newWitness() (*witness, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &witness{ln: ln, partial: make(map[net.Conn][]byte)}
	go accept(ln, w.serve)
	return w, nil
}

// accept serves the connections of ln, each on a goroutine of its own, until ln is closed.
func accept(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			serve(c)
		}()
	}
}

func (w *witness) serve(c net.Conn) {
	var b []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		if b = append(b, buf[:n]...); n > 0 {
			answers := 0
			w.mu.Lock()
			w.touched = time.Now()
			for len(b) > 0 {
				m, size := requestAt(b)
				if size == 0 {
					break
				}
				w.seen = append(w.seen, m)
				b = b[size:]
				answers++
			}
			w.partial[c] = b
			w.mu.Unlock()
			for range answers {
				if _, err := io.WriteString(c, okAnswer); err != nil {
					break
				}
			}
		}
		if err != nil {
			return // what is left is taken with the case
		}
	}
}

// settled is how long nothing comes before a case is taken to be over.
const settled = 40 * time.Millisecond

// take waits until nothing more comes and returns the requests, whole and not
// whole. Connections in the middle of a request end.
func (w *witness) take() (whole []message, partial []string) {
	begun := time.Now()
	for {
		w.mu.Lock()
		since := begun
		if w.touched.After(since) {
			since = w.touched
		}
		if time.Since(since) >= settled {
			break
		}
		w.mu.Unlock()
		time.Sleep(settled / 8)
	}
	defer w.mu.Unlock()
	whole, w.seen = w.seen, nil
	for c, b := range w.partial {
		if len(b) > 0 {
			partial = append(partial, string(b))
			_ = c.Close()
			delete(w.partial, c)
		}
	}
	return whole, partial
}
