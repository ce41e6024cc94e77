package listener

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/exchange"
	"sluice/gateway/socket"
)

// phase is what a client connection is in the middle of.
type phase = uint32

const (
	phaseNew     phase = iota // accepted, nothing read
	phaseHead                 // reading a request head
	phaseServing              // a request is being answered
	phaseDone                 // a request was answered; the answer may still be in fasthttp's buffer
	phaseIdle                 // between requests: all is sent, and nothing has come
	phaseClosing              // given up
	phaseTunnel               // switched protocols
	phaseStreams              // speaks HTTP/2 or HTTP/3; mux knows more
	phaseLinger               // answered and done; what the client still sends is thrown away
)

// conn is a client's connection. It stamps what it does, so that one sweeper
// can enforce the timeouts of all without a deadline per request. The stamps
// are of the sweeper's coarse clock.
type conn struct {
	// What every request comes by stands together, in as few lines of the cache as can be.
	net.Conn // what is spoken on tcp: TLS, or the same
	owner    *Listener
	wait     wait
	phase    atomic.Uint32
	cut      atomic.Bool  // reading was interrupted for good
	since    atomic.Int64 // when the phase began
	// What follows, up to tcp, is the connection goroutine's own, as is all from proxied on.
	pacing   *pacing              // how fast to write, nil for a connection that was never told
	state    *tls.ConnectionState // nil without TLS
	answers  uint32               // how many requests have ended
	unheard  bool                 // the client was not heard out
	buffered bool                 // the last answer may still be in fasthttp's buffer
	peerLen  uint8                // of peer in peerText; 0: it is not there, or longer
	peerText [len("255.255.255.255")]byte
	id       uint64
	peer     netip.Addr // the client's, once a PROXY protocol header was read

	tcp        net.Conn
	raw        syscall.RawConn
	seated     bool         // counted under peer; both under the owner's mu
	readSince  atomic.Int64 // a body read waits since then, 0: none
	writeSince atomic.Int64 // a write waits since then, 0: none
	looked     int64        // the sweeper's: the phase in which it has seen that the client is still there, by its beginning
	abrupt     atomic.Bool  // the client is not to be told that this is the end

	// strict has read what this conn gave to the engine; held came behind a
	// request that may have switched protocols, and waits for that to be known.
	proxied  ProxyMode // unless off, a PROXY protocol header is to be looked for
	protocol string
	secured  bool        // set before others see the connection, as is looped
	looped   bool        // the engine loop serves it
	mux      multiplexed // set before phaseStreams
	strict   strict
	held     []byte
	// gather: the next write is the first part of an answer; it waits in gathered for the second.
	gather      bool
	gathered    *[engineBuffer]byte
	gatheredLen int
	// instead: what goes out in the place of the next write.
	instead *verbatim

	tunnel struct {
		sync.Mutex
		exchange.Tunneler // while it runs
	}

	once       sync.Once
	prev, next *conn
}

var past = time.Unix(1, 0)

var (
	// errClosing is what a read says when the sweeper has just given the connection up.
	errClosing = errors.New("the connection is being closed")
	// errRefused is what a read says behind bytes that were refused.
	errRefused = errors.New("the client does not speak valid HTTP")
)

// Read reads from the client. Nothing passes that strict refuses.
func (c *conn) Read(p []byte) (int, error) {
	ph := c.phase.Load()
	if ph > phaseIdle || len(c.held) > 0 || c.strict.bad != nil || c.strict.state == atUpgraded {
		return c.readOther(ph, p)
	}
	if c.wait.server != nil && c.strict.state == atStart && c.strict.ended == c.answers && !c.looped {
		return c.readNext(p)
	}
	n, err := c.read(ph, p)
	return c.inspect(p, n, err)
}

// readNext reads for fasthttp what is no plain request. Behind a plain one fasthttp is told of the end alone.
func (c *conn) readNext(p []byte) (int, error) {
	if _, ok := c.Conn.(*socket.Conn); !ok {
		return c.readNextInto(p)
	}
	t := c.nextTurn()
	if t == nil {
		return 0, io.EOF
	}
	n := copy(p, t.buf[:c.wait.read])
	if n < c.wait.read {
		panic("BUG: fasthttp reads a head into less than its buffer")
	}
	c.wait.server.turns.Put(t)
	if !c.beginHead() {
		return 0, errClosing
	}
	return c.inspect(p, n, nil)
}

// readNextInto is readNext of what is no socket, as TLS, into fasthttp's buffer, which it holds anyway.
func (c *conn) readNextInto(p []byte) (int, error) {
	turns := &c.wait.server.turns
	for {
		n, err := c.read(c.phase.Load(), p)
		if n == 0 {
			return 0, io.EOF // whatever it was, no request has begun
		}
		t := turns.Get().(*turn)
		x := c.answer(t, p[:n])
		keep := x != nil && c.complete(t, x, false)
		turns.Put(t)
		switch {
		case x == nil && !c.beginHead():
			return 0, errClosing
		case x == nil:
			return c.inspect(p, n, err)
		case !keep:
			return 0, io.EOF
		}
	}
}

// beginHead notes that a head has begun to come.
func (c *conn) beginHead() bool {
	c.buffered = false
	ph := c.phase.Load()
	if ph == phaseHead {
		return true
	}
	c.since.Store(c.owner.coarse.Load())
	return ph != phaseClosing && c.phase.CompareAndSwap(ph, phaseHead)
}

// readOther is Read of what is not simply the next of the socket's bytes for the engine.
func (c *conn) readOther(ph phase, p []byte) (int, error) {
	switch {
	case ph == phaseClosing:
		return 0, net.ErrClosed
	case ph == phaseTunnel && len(c.held) > 0:
		return c.takeHeld(p), nil
	case ph == phaseTunnel, ph == phaseStreams:
		return c.Conn.Read(p)
	case c.strict.bad != nil:
		return 0, errRefused
	}
	if c.strict.state == atUpgraded {
		// Its request was answered in HTTP.
		c.strict.next()
	}
	if len(c.held) > 0 {
		c.phase.CompareAndSwap(phaseDone, phaseHead)
		return c.inspect(p, c.takeHeld(p), nil)
	}
	n, err := c.read(ph, p)
	return c.inspect(p, n, err)
}

// ReadLater is Read of what has switched protocols, into a buffer that is held only while there may be something to read.
func (c *conn) ReadLater(b socket.Buffers) (int, error) {
	if s, ok := c.Conn.(*socket.Conn); ok && len(c.held) == 0 {
		return s.ReadLater(b)
	}
	return c.Read(b.Take())
}

// inspect shows what was read to strict; it returns what the engine may have of it.
func (c *conn) inspect(p []byte, n int, err error) (int, error) {
	passed := c.strict.feed(p[:n])
	switch {
	case passed == n:
	case c.strict.bad == nil:
		c.held = append(bytes.Clone(p[passed:n]), c.held...)
	case c.strict.inHead():
		// The engine answers a bad head only where it has seen something of it.
		// This byte keeps the head from ever being complete.
		p[passed] = '?'
		passed++
	case passed == 0:
		return 0, errRefused
	}
	return passed, err
}

func (c *conn) takeHeld(p []byte) int {
	n := copy(p, c.held)
	if c.held = c.held[n:]; len(c.held) == 0 {
		c.held = nil
	}
	return n
}

// read reads from the socket and stamps what it waits for.
func (c *conn) read(ph phase, p []byte) (int, error) {
	switch ph {
	case phaseServing:
		c.readSince.Store(c.owner.coarse.Load())
		n, err := c.Conn.Read(p)
		c.readSince.Store(0)
		return n, err
	case phaseDone:
		// fasthttp flushes before it waits for a head: only now is nothing left
		// that a close would cut.
		c.phase.CompareAndSwap(phaseDone, phaseIdle)
	}
	c.buffered = false
	n, err := c.Conn.Read(p)
	if n == 0 && err != nil && ph == phaseNew {
		// Who leaves without a word, as a check of whether anybody is there does,
		// however abruptly, has made no request.
		return 0, io.EOF
	}
	if n > 0 {
		switch ph := c.phase.Load(); ph {
		case phaseIdle:
			if !c.phase.CompareAndSwap(phaseIdle, phaseHead) {
				return 0, errClosing
			}
			c.since.Store(c.owner.coarse.Load())
		case phaseNew:
			if !c.phase.CompareAndSwap(phaseNew, phaseHead) {
				return 0, errClosing
			}
		}
	}
	return n, err
}

// writeSlice bounds one write, so that a slow client's progress is seen.
const writeSlice = 64 << 10

// Write writes to the client.
func (c *conn) Write(p []byte) (int, error) {
	c.buffered = false
	if c.instead != nil {
		return c.writeInstead(p)
	}
	if c.gather {
		if c.gathered == nil {
			c.gathered = gatherBuffers.Get().(*[engineBuffer]byte)
			if n := copy(c.gathered[:], p); n == len(p) {
				c.gatheredLen = n
				return n, nil
			}
			panic("BUG: the engine's buffer is larger than engineBuffer")
		}
		c.gather = false
		return c.writeGathered(p)
	}
	if c.pacing.on() {
		return c.writePaced(p)
	}
	return c.writeSlices(p)
}

func (c *conn) writeSlices(p []byte) (written int, err error) {
	for {
		piece := p[written:]
		if len(piece) > writeSlice {
			piece = piece[:writeSlice]
		}
		c.writeSince.Store(c.owner.coarse.Load())
		n, err := c.Conn.Write(piece)
		c.writeSince.Store(0)
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// engineBuffer is the engine's buffer for an answer. A longer one leaves it in two parts: the buffer, and then the rest
// from where it lies.
const engineBuffer = 4096

var gatherBuffers = sync.Pool{New: func() any { return new([engineBuffer]byte) }}

// gatherAnswer has the two parts of an answer go out in one write. Its body must be of engineBuffer bytes at least, so that
// there are two parts whatever lies in the buffer already.
func (c *conn) gatherAnswer() { c.gather = true }

func (c *conn) writeGathered(p []byte) (int, error) {
	err := c.writeBoth(c.gathered[:c.gatheredLen], p)
	gatherBuffers.Put(c.gathered)
	if c.gathered = nil; err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeBoth writes two parts of an answer, in one write where the socket takes it.
func (c *conn) writeBoth(first, p []byte) (err error) {
	c.buffered = false
	if c.pacing.on() {
		if _, err = c.writePaced(first); err == nil {
			_, err = c.writePaced(p)
		}
		return err
	}
	begin := p[:min(len(p), writeSlice)]
	c.writeSince.Store(c.owner.coarse.Load())
	if s, ok := c.Conn.(*socket.Conn); ok {
		_, err = s.WriteBoth(first, begin)
	} else if _, err = c.Conn.Write(first); err == nil && len(begin) > 0 {
		_, err = c.Conn.Write(begin)
	}
	c.writeSince.Store(0)
	if err == nil && len(begin) < len(p) {
		_, err = c.writeSlices(p[len(begin):])
	}
	return err
}

// writeNow writes an answer within a wait at the socket. It reports whether that was done.
func (c *conn) writeNow(fd uintptr, v *verbatim) bool {
	if len(v.body) == 0 {
		n, err := socket.TryWrite(fd, v.head)
		switch {
		case n == len(v.head):
			return true
		case err != nil && err != socket.ErrNotYet:
			return false
		}
		return c.writeBoth(v.head[n:], nil) == nil
	}
	return c.writeBoth(v.head, v.body) == nil
}

// WriteBody writes a part of a response body past the engine's buffer, which
// the caller knows to be empty: the head was flushed.
func (c *conn) WriteBody(p []byte) (int, error) { return c.Write(p) }

// Close closes the connection and takes it off the listener's books. It is for
// the connection's own goroutine; others use shut.
func (c *conn) Close() error {
	if c.unheard && c.phase.Swap(phaseLinger) != phaseClosing {
		c.linger()
	}
	return c.shut()
}

func (c *conn) shut() error {
	c.once.Do(func() { c.owner.forget(c) })
	if c.secured {
		return c.endTLS()
	}
	return c.Conn.Close()
}

// giveUp reports whether the connection begins no request any more. It is false while one is served.
func (c *conn) giveUp() bool {
	for {
		switch ph := c.phase.Load(); ph {
		case phaseServing:
			return false
		case phaseNew, phaseIdle, phaseDone:
			if c.phase.CompareAndSwap(ph, phaseClosing) {
				return true
			}
		default:
			return true
		}
	}
}

// hangUp ends both directions of the socket, and so what the connection's goroutine is at, without closing it.
func (c *conn) hangUp() bool {
	done := false
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) { done = unix.Shutdown(int(fd), unix.SHUT_RDWR) == nil })
	}
	return done
}

const (
	// lingerIdle and lingerTotal bound how long a client that is still sending
	// is listened to after its answer.
	lingerIdle  = 500 * time.Millisecond
	lingerTotal = 5 * time.Second
)

// linger lets the client read its answer: closing a socket with bytes unread
// resets the connection, and a reset takes the answer with it (RFC 9112,
// section 9.6).
func (c *conn) linger() {
	if c.CloseWrite() != nil {
		return
	}
	buf := lingerBuffers.Get().(*[]byte)
	defer lingerBuffers.Put(buf)
	for start := time.Now(); time.Since(start) < lingerTotal; {
		if c.Conn.SetReadDeadline(time.Now().Add(lingerIdle)) != nil {
			return
		}
		if _, err := c.Conn.Read(*buf); err != nil {
			return
		}
	}
}

var lingerBuffers = sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}

// reset makes the coming close a reset, the one way to tell a client of
// HTTP/1.0 that a body which ends with the connection is not whole.
func (c *conn) reset() {
	c.abrupt.Store(true)
	if t, ok := c.tcp.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0)
	}
}

// CloseWrite ends the sending direction.
func (c *conn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	if h, ok := c.tcp.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Conn.Close()
}

// serving notes that a request is complete as far as its head goes.
func (c *conn) serving() {
	c.phase.Store(phaseServing)
	c.unheard = false
	c.pacing.off()
}

// run has t run over the connection.
func (c *conn) run(t exchange.Tunneler) {
	c.setTunnel(t)
	defer c.setTunnel(nil)
	t.Run(c)
}

func (c *conn) setTunnel(t exchange.Tunneler) {
	c.tunnel.Lock()
	defer c.tunnel.Unlock()
	c.tunnel.Tunneler = t
}

// goAway tells what runs over the connection that the gateway goes away.
func (c *conn) goAway(code int) {
	c.tunnel.Lock()
	defer c.tunnel.Unlock()
	if t := c.tunnel.Tunneler; t != nil {
		t.GoAway(code)
	}
}

// answered notes that an exchange has ended.
func (c *conn) answered() {
	c.since.Store(c.owner.coarse.Load())
	c.phase.CompareAndSwap(phaseServing, phaseDone)
	c.buffered = true
	c.answers++
}

// Gone reports whether the client has closed its side. An early half-close
// counts: nobody tells it apart from a client that left.
func (c *conn) Gone() bool {
	if c.raw == nil {
		return false
	}
	gone := false
	err := c.raw.Control(func(fd uintptr) { gone = hungUp(fd) })
	return gone || err != nil
}

// InterruptRead ends a waiting read; none succeeds afterwards.
func (c *conn) InterruptRead() {
	c.cut.Store(true)
	_ = c.Conn.SetReadDeadline(past)
}

// Interim sends an interim response, unless an earlier answer of a pipeline
// may still be buffered above this connection.
func (c *conn) Interim(head []byte) {
	if !c.buffered {
		_, _ = c.Write(head)
	}
}

// check is the sweeper's look at the connection. It reports whether the
// connection was given up.
func (c *conn) check(now int64, t *Timeouts) {
	over := func(since int64, limit time.Duration) bool {
		return limit > 0 && now-since >= int64(limit)
	}
	if w := c.writeSince.Load(); w != 0 && over(w, t.Stall) {
		// The client takes nothing: there is no way to tell it anything.
		_ = c.Conn.SetDeadline(past)
		return
	}
	switch since := c.since.Load(); c.phase.Load() {
	case phaseNew:
		if over(since, t.Header) && c.phase.CompareAndSwap(phaseNew, phaseClosing) {
			_ = c.shut()
		}
	case phaseIdle:
		if (over(since, t.Idle) || !c.secured && c.hasLeft(now, since)) && c.phase.CompareAndSwap(phaseIdle, phaseClosing) {
			_ = c.shut()
		}
	case phaseHead:
		if over(since, t.Header) {
			c.InterruptRead()
		}
	case phaseStreams:
		c.mux.check(now, t)
	case phaseServing:
		if r := c.readSince.Load(); r != 0 && over(r, t.Stall) {
			c.InterruptRead()
		}
	}
}

// leftAfter is how long a connection has rested when the sweeper looks whether its client is still there.
const leftAfter = 50 * time.Millisecond

// hasLeft looks, once for each time that the connection rests, whether the client has closed it; see wait.wake.
func (c *conn) hasLeft(now, since int64) bool {
	if c.looked == since || now-since < int64(leftAfter) {
		return false
	}
	c.looked = since
	return c.Gone()
}

// evict closes the connection if it is between requests, and none is on its
// way as far as this side can see.
func (c *conn) evict() bool {
	if ph := c.phase.Load(); ph == phaseLinger || ph == phaseStreams && c.mux.idle() {
		_ = c.shut()
		return true
	}
	if c.phase.Load() == phaseIdle && !c.readable() && c.phase.CompareAndSwap(phaseIdle, phaseClosing) {
		_ = c.shut()
		return true
	}
	return false
}

// readable reports whether bytes of the client wait to be read.
func (c *conn) readable() bool {
	if c.raw == nil {
		return false
	}
	n := 0
	_ = c.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, _ = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n > 0
}
