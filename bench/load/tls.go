//go:build linux

package load

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// runTLS is a closed loop over TLS 1.3, one goroutine for each connection, with
// Go's own TLS. It costs the client more than the raw loop does: a gateway may
// be left with idle time, so compare what it uses for a request, not how many
// it answers. Certificates are not verified.
func runTLS(s Spec, begin, end func()) (*Result, error) {
	if s.Rate > 0 {
		return nil, errors.New("no open loop over TLS")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	g := &tlsGenerator{spec: s, result: new(Result), failed: make(chan struct{})}
	for i := range s.Connections {
		g.workers.Go(func() {
			if err := g.work(s.Requests[i%len(s.Requests)]); err != nil {
				g.fail(err)
			}
		})
	}
	g.wait(s.Warm)
	begin()
	start := time.Now()
	g.measuring.Store(true)
	g.wait(s.Measure)
	g.measuring.Store(false)
	end()
	g.result.Elapsed = time.Since(start)
	g.over.Store(true)
	g.workers.Wait()
	return g.result, g.err
}

type tlsGenerator struct {
	spec            Spec
	measuring, over atomic.Bool
	workers         sync.WaitGroup

	mu     sync.Mutex
	result *Result // what workers that ended have added
	err    error   // the first
	failed chan struct{}
}

// wait returns after d, or when the run has failed.
func (g *tlsGenerator) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-g.failed:
	}
}

func (g *tlsGenerator) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
		close(g.failed)
	}
	g.over.Store(true)
}

// work sends until the run is over, each request on a connection of its own
// where handshakes are measured.
func (g *tlsGenerator) work(request string) error {
	var own Result
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.result.Total += own.Total
		g.result.Requests += own.Requests
		g.result.Latency.Merge(&own.Latency)
	}()
	var conn *tlsConn
	defer func() {
		if conn != nil {
			conn.abort()
		}
	}()
	for !g.over.Load() {
		sent := time.Now()
		if conn == nil {
			var err error
			if conn, err = dialTLS(g.spec.Address); err != nil {
				return err
			}
		}
		if err := conn.exchange([]byte(request), g.spec.Status, g.spec.Body); err != nil {
			return err
		}
		own.Total++
		if g.measuring.Load() {
			own.Requests++
			own.Latency.Record(time.Since(sent))
		}
		if g.spec.Handshakes {
			conn.abort()
			conn = nil
		}
	}
	return nil
}

// tlsConn is one connection; it reads as conn does, but has to decrypt all of it.
type tlsConn struct {
	*tls.Conn
	buf []byte
}

func dialTLS(address string) (*tlsConn, error) {
	raw, err := net.DialTimeout("tcp4", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &tlsConn{
		tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost", NextProtos: []string{"http/1.1"}}),
		make([]byte, 16<<10),
	}
	// The deadline bounds a run with a gateway that stalls.
	err = errors.Join(raw.(*net.TCPConn).SetLinger(0), raw.SetDeadline(time.Now().Add(10*time.Minute)), c.Handshake())
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// abort closes the connection by a reset: a port in TIME_WAIT for each
// handshake would soon be too many.
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
	if h.status != status || h.body != body {
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
