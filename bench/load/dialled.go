//go:build linux

package load

import (
	"crypto/tls"
	"errors"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// runDialled is a closed loop over TLS 1.3, HTTP/2 or both, one goroutine for
// each connection, with Go's own TLS. It costs the client more than the raw loop
// does: a gateway may be left with idle time, so compare what it uses for a
// request, not how many it answers. Certificates are not verified.
func runDialled(s Spec, begin, end func()) (*Result, error) {
	if s.Rate > 0 {
		return nil, errors.New("no open loop over TLS or HTTP/2")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	g := &dialledRun{spec: s, result: new(Result), start: time.Now(), failed: make(chan struct{})}
	work := g.work
	if s.HTTP2 {
		work = g.workH2
	}
	for i := range s.Connections {
		g.workers.Go(func() {
			if err := work(s.Requests[i%len(s.Requests)]); err != nil {
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

// dialledRun is one run. Times are since start.
type dialledRun struct {
	spec            Spec
	start           time.Time
	measuring, over atomic.Bool
	workers         sync.WaitGroup

	mu     sync.Mutex
	result *Result // what workers that ended have added
	err    error   // the first
	failed chan struct{}
}

// wait returns after d, or when the run has failed.
func (g *dialledRun) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-g.failed:
	}
}

func (g *dialledRun) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
		close(g.failed)
	}
	g.over.Store(true)
}

// add takes what a worker has counted.
func (g *dialledRun) add(own *Result) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result.Total += own.Total
	g.result.Requests += own.Requests
	g.result.Latency.Merge(&own.Latency)
}

// answered counts an answer for a worker.
func (g *dialledRun) answered(own *Result, since time.Duration) {
	own.Total++
	if g.measuring.Load() {
		own.Requests++
		own.Latency.Record(time.Since(g.start) - since)
	}
}

// work sends until the run is over, each request on a connection of its own
// where handshakes are measured.
func (g *dialledRun) work(request string) error {
	var own Result
	defer g.add(&own)
	var conn *tlsConn
	defer func() {
		if conn != nil {
			conn.abort()
		}
	}()
	for !g.over.Load() {
		sent := time.Since(g.start)
		if conn == nil {
			var err error
			if conn, err = dialTLS(&g.spec); err != nil {
				return err
			}
		}
		if err := conn.exchange([]byte(request), g.spec.Status, g.spec.Body); err != nil {
			return err
		}
		g.answered(&own, sent)
		if g.spec.Handshakes {
			conn.abort()
			conn = nil
		}
	}
	return nil
}

// workH2 keeps the streams of one connection at work until the run is over.
func (g *dialledRun) workH2(request string) error {
	var own Result
	defer g.add(&own)
	c, err := dialH2(&g.spec, request)
	if err != nil {
		return err
	}
	defer func() { _ = c.conn.Close() }()
	for range g.spec.Streams {
		c.request(time.Since(g.start))
	}
	for !g.over.Load() {
		if err := c.flush(); err != nil {
			return err
		}
		err := c.progress(func(since time.Duration) {
			g.answered(&own, since)
			c.request(time.Since(g.start))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dialH2 opens a connection of HTTP/2: over TLS where the spec says so, else by
// prior knowledge.
func dialH2(s *Spec, request string) (*h2, error) {
	conn, err := dialRaw(s.Address)
	if err != nil {
		return nil, err
	}
	scheme := "http"
	if s.TLS {
		scheme = "https"
		secured, err := handshake(conn, s, "h2")
		if err != nil {
			return nil, err
		}
		return newH2(resetting{secured}, scheme, request, s.Status, s.Body)
	}
	return newH2(conn, scheme, request, s.Status, s.Body)
}

// resetting closes what is below TLS, without the goodbye.
type resetting struct{ *tls.Conn }

func (r resetting) Close() error { return r.NetConn().Close() }

// DialledClient is a Client over TLS, HTTP/2 or both.
type DialledClient struct {
	spec  Spec
	conns []*tlsConn
	h2    []*h2
}

// NewDialledClient opens the connections of a spec; its rate and times mean nothing here.
func NewDialledClient(s Spec) (*DialledClient, error) {
	c := &DialledClient{spec: s}
	for i := range s.Connections {
		request := s.Requests[i%len(s.Requests)]
		if s.HTTP2 {
			conn, err := dialH2(&s, request)
			if err != nil {
				c.Close()
				return nil, err
			}
			c.h2 = append(c.h2, conn)
			continue
		}
		conn, err := dialTLS(&s)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

// Close ends the connections.
func (c *DialledClient) Close() {
	for _, conn := range c.conns {
		conn.abort()
	}
	for _, conn := range c.h2 {
		_ = conn.conn.Close()
	}
}

// Do sends n requests and returns when all are answered as the spec says.
func (c *DialledClient) Do(n int64) error {
	var left atomic.Int64
	left.Store(n)
	errs := make([]error, c.spec.Connections)
	var workers sync.WaitGroup
	for i := range errs {
		workers.Go(func() {
			if c.spec.HTTP2 {
				errs[i] = c.h2[i].do(&left, c.spec.Streams)
				return
			}
			request := []byte(c.spec.Requests[i%len(c.spec.Requests)])
			for errs[i] == nil && left.Add(-1) >= 0 {
				errs[i] = c.conns[i].exchange(request, c.spec.Status, c.spec.Body)
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// do sends requests, so many at once, as long as left has any.
func (c *h2) do(left *atomic.Int64, streams int) error {
	waiting := 0
	next := func() {
		if left.Add(-1) >= 0 {
			c.request(0)
			waiting++
		}
	}
	for range streams {
		next()
	}
	for waiting > 0 {
		if err := c.flush(); err != nil {
			return err
		}
		err := c.progress(func(time.Duration) {
			waiting--
			next()
		})
		if err != nil {
			return err
		}
	}
	return nil
}
