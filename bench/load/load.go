//go:build linux

// Package load drives a gateway from both ends: a load generator and a constant
// backend, each one goroutine over raw sockets, so that both share a core and
// still leave a gateway on another core without idle time. The generator
// measures an open loop from the time a request was meant to be sent, so a
// gateway that stalls is charged for every request that waited (no coordinated
// omission); and it takes nothing for an answer but the status and the length
// that were expected.
package load

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is what Run sends, and what has to come back.
type Spec struct {
	Address     string   // IPv4 address and port
	Requests    []string // raw; connection i repeats number i modulo their count
	Connections int
	Rate        int    // requests per second over all connections; 0: closed loop, each connection sends when it was answered
	TLS         bool   // 1.3, with a closed loop only
	HTTP2       bool   // with TLS or by prior knowledge, with a closed loop only
	Streams     int    // with HTTP2: requests at once on each connection
	Certificate string // with TLS: file of the client's own, and of its key
	Key         string
	Handshakes  bool          // with TLS: each request on a connection of its own, without resumption
	Warm        time.Duration // load before the measured time
	Measure     time.Duration
	Status      int // of every answer; negative: any
	Body        int // length of every answer's body; negative: any
	Keys        int // of a Client: how many numbers take the place of Vary; at most 10,000,000
}

// Result is what came back.
type Result struct {
	Total    int64         // answers, those outside the measured time included
	Requests int64         // answers within the measured time
	Elapsed  time.Duration // the measured time as it was
	// Unanswered is how many requests of the measured time an open loop had no
	// answer to when it gave up, grace after the end; they are in Latency with
	// the time that they had waited by then.
	Unanswered int64
	// Latency is, in a closed loop, from sending to the last byte, of answers
	// within the measured time; in an open loop from when a request was meant
	// to be sent, of requests meant to be sent in that time.
	Latency Histogram
}

// grace is how long an open loop waits for late answers after its end.
const grace = time.Second

// Run sends load until the measured time is over. It calls begin and end when
// that time begins and ends, from the goroutine that sends. A wrong answer or a
// connection that is closed ends it with an error.
func Run(s Spec, begin, end func()) (*Result, error) {
	if s.TLS || s.HTTP2 {
		return runDialled(s, begin, end)
	}
	// The thread's timers are exact while it waits, and a collection would be a
	// pause that the gateway is blamed for; a run makes next to no garbage.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))

	g := &generator{spec: s, pace: pace(s.Rate), begin: begin, end: end, result: new(Result)}
	defer g.close()
	if err := g.connect(); err != nil {
		return nil, err
	}
	if err := g.run(); err != nil {
		return nil, err
	}
	return g.result, nil
}

// generator is one run. Times are since start.
type generator struct {
	spec       Spec
	pace       pace
	begin, end func()
	poll       *poller
	conns      []*conn
	result     *Result
	start      time.Time

	measuring   bool
	began, over time.Duration // the measured time; over is 0 until it ends

	// Open loop.
	next     int64   // the next request to send
	last     int64   // requests from here on are not meant to be sent
	inFlight int64   // sent and not answered
	free     []*conn // a ring: connections that wait for a request, longest first
	freeAt   int
	freeLen  int
}

func (g *generator) connect() error {
	if g.spec.Connections <= 0 || len(g.spec.Requests) == 0 {
		return errors.New("no connections or no requests")
	}
	var err error
	if g.poll, err = newPoller(); err != nil {
		return err
	}
	for i := range g.spec.Connections {
		c, err := dial(g.spec.Address, g.spec.Requests[i%len(g.spec.Requests)])
		if err != nil {
			return err
		}
		g.conns = append(g.conns, c)
		if err := g.poll.add(c.fd, i); err != nil {
			return err
		}
	}
	g.free = make([]*conn, len(g.conns))
	return nil
}

func (g *generator) close() {
	for _, c := range g.conns {
		_ = unix.Close(c.fd)
	}
	if g.poll != nil {
		g.poll.close()
	}
}

func (g *generator) run() error {
	g.last = g.pace0().due(g.spec.Warm + g.spec.Measure - 1)
	g.start = time.Now()
	for _, c := range g.conns {
		if g.spec.Rate > 0 {
			g.release(c)
			continue
		}
		if err := c.send(time.Since(g.start)); err != nil {
			return err
		}
	}
	for {
		now := time.Since(g.start)
		g.mark(now)
		if g.finished(now) {
			return nil
		}
		if err := g.sendDue(now); err != nil {
			return err
		}
		events, err := g.poll.wait(g.until(time.Since(g.start)))
		if err != nil {
			return err
		}
		for i := range events {
			if err := g.progress(g.conns[events[i].Fd]); err != nil {
				return err
			}
		}
	}
}

// pace0 is the pace, or one request a second where there is none.
func (g *generator) pace0() pace { return max(g.pace, 1) }

// mark notes where the measured time begins and ends.
func (g *generator) mark(now time.Duration) {
	switch {
	case g.over > 0:
	case g.measuring && now >= g.began+g.spec.Measure:
		g.end()
		g.over = time.Since(g.start)
		g.result.Elapsed = g.over - g.began
	case !g.measuring && now >= g.spec.Warm:
		g.begin()
		g.measuring, g.began = true, time.Since(g.start)
	}
}

// finished tells whether nothing more is waited for, and accounts for what an
// open loop gives up.
func (g *generator) finished(now time.Duration) bool {
	if g.over == 0 {
		return false
	}
	if g.spec.Rate == 0 || g.next == g.last && g.inFlight == 0 {
		return true
	}
	if now < g.over+grace {
		return false
	}
	for _, c := range g.conns {
		if c.waiting {
			g.giveUp(now, c.since)
		}
	}
	for ; g.next < g.last; g.next++ {
		g.giveUp(now, g.pace.at(g.next))
	}
	return true
}

func (g *generator) giveUp(now, intended time.Duration) {
	if intended >= g.spec.Warm {
		g.result.Unanswered++
		g.result.Latency.Record(now - intended)
	}
}

// until is how long nothing is to be done but to read answers.
func (g *generator) until(now time.Duration) time.Duration {
	t := g.spec.Warm
	switch {
	case g.over > 0:
		t = g.over + grace
	case g.measuring:
		t = g.began + g.spec.Measure
	}
	if g.freeLen > 0 && g.next < g.last {
		t = min(t, g.pace.at(g.next))
	}
	return max(t-now, 0)
}

// sendDue sends what an open loop should have sent by now, as far as there are
// connections that wait for no answer.
func (g *generator) sendDue(now time.Duration) error {
	if g.spec.Rate == 0 {
		return nil
	}
	for due := min(g.pace.due(now), g.last); g.next < due && g.freeLen > 0; g.next++ {
		c := g.free[g.freeAt]
		g.freeAt, g.freeLen = (g.freeAt+1)%len(g.free), g.freeLen-1
		if err := c.send(g.pace.at(g.next)); err != nil {
			return err
		}
		g.inFlight++
	}
	return nil
}

func (g *generator) release(c *conn) {
	g.free[(g.freeAt+g.freeLen)%len(g.free)] = c
	g.freeLen++
}

// progress writes and reads what a connection can, and sends the next request
// of a closed loop.
func (g *generator) progress(c *conn) error {
	done, err := c.progress(g.spec.Status, g.spec.Body)
	if err != nil || !done {
		return err
	}
	now := time.Since(g.start)
	g.result.Total++
	measured := g.measuring && g.over == 0
	if measured {
		g.result.Requests++
	}
	if g.spec.Rate == 0 {
		if measured {
			g.result.Latency.Record(now - c.since)
		}
		return c.send(now)
	}
	g.inFlight--
	if c.since >= g.spec.Warm {
		g.result.Latency.Record(now - c.since)
	}
	g.release(c)
	return nil
}

// conn is one connection of the generator, with at most one request.
type conn struct {
	fd      int
	request []byte
	unsent  []byte        // of the request
	since   time.Duration // when it was sent, or meant to be
	waiting bool          // for an answer
	buf     []byte
	n       int // bytes in buf; all of an answer's head, and as much of the body as came with it
	rest    int // bytes of the body still to come; -1 while the head is read
}

func dial(address, request string) (*conn, error) {
	a, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	sa := &unix.SockaddrInet4{Port: a.Port}
	copy(sa.Addr[:], a.IP.To4())
	err = errors.Join(unix.Connect(fd, sa), unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot connect to %s: %w", address, err)
	}
	return &conn{fd: fd, request: []byte(request), buf: make([]byte, 16<<10)}, nil
}

func (c *conn) send(since time.Duration) error {
	c.unsent, c.since, c.waiting, c.n, c.rest = c.request, since, true, 0, -1
	return c.write()
}

func (c *conn) write() error {
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot send: %w", err)
		}
		c.unsent = c.unsent[n:]
	}
	return nil
}

// progress reports whether the answer is complete.
func (c *conn) progress(status, body int) (bool, error) {
	if len(c.unsent) > 0 {
		if err := c.write(); err != nil {
			return false, err
		}
	}
	for c.waiting {
		n, err := c.read()
		if err == unix.EAGAIN {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("cannot receive: %w", err)
		}
		if n == 0 {
			return false, errors.New("the gateway closed a connection instead of answering")
		}
		if c.rest >= 0 {
			c.rest -= n
		} else if err := c.readHead(n, status, body); err != nil {
			return false, err
		}
		if c.rest == 0 {
			c.waiting = false
			return true, nil
		}
	}
	return false, nil
}

// discarded lends its length to reads that throw away; nothing is written to it.
var discarded [1 << 20]byte

// read takes what has arrived; of a body behind its first bytes only the count.
func (c *conn) read() (int, error) {
	if c.rest > 0 {
		n, _, err := unix.Recvfrom(c.fd, discarded[:min(c.rest, len(discarded))], unix.MSG_TRUNC)
		return n, err
	}
	return unix.Read(c.fd, c.buf[c.n:])
}

func (c *conn) readHead(n, status, body int) error {
	c.n += n
	h, err := answerHead(c.buf[:c.n])
	switch {
	case err != nil:
		return fmt.Errorf("%w: %q", err, c.buf[:min(c.n, 300)])
	case h.size == 0 && c.n == len(c.buf):
		return errors.New("the head of an answer does not end")
	case h.size == 0:
		return nil
	case status >= 0 && h.status != status || body >= 0 && h.body != body:
		return fmt.Errorf("an answer has status %d and %d bytes, expected %d and %d: %q", h.status, h.body, status, body, c.buf[:min(c.n, 300)])
	}
	if c.rest = h.body - (c.n - h.size); c.rest < 0 {
		return fmt.Errorf("%d bytes follow an answer", -c.rest)
	}
	return nil
}

// Hold opens connections, each of which is answered once and then idle. What it
// returns closes them.
func Hold(s Spec) (io.Closer, error) {
	held := new(holding)
	for i := range s.Connections {
		c, err := dial(s.Address, s.Requests[i%len(s.Requests)])
		if err != nil {
			_ = held.Close()
			return nil, err
		}
		held.fds = append(held.fds, c.fd)
		if err := c.exchange(s.Status, s.Body); err != nil {
			_ = held.Close()
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return held, nil
}

// exchange sends the request and waits for its answer.
func (c *conn) exchange(status, body int) error {
	if err := c.send(0); err != nil {
		return err
	}
	for {
		done, err := c.progress(status, body)
		if err != nil || done {
			return err
		}
		ready := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 10_000); err != nil && err != unix.EINTR {
			return err
		} else if n == 0 && err == nil {
			return errors.New("no answer within 10 s")
		}
	}
}

type holding struct{ fds []int }

func (h *holding) Close() error {
	for _, fd := range h.fds {
		_ = unix.Close(fd)
	}
	h.fds = nil
	return nil
}
