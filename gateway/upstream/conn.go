package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/exchange"
)

// Conn is a connection to a backend. One call uses it at a time; between calls
// it lies in its HostClient's pool. The sweeper looks at it meanwhile: mu guards
// what both touch.
type Conn struct {
	net.Conn
	raw syscall.RawConn // nil over TLS

	// One Read sends out first: the request goes to the socket inside the read
	// callback, which spares the read that would only say "not yet".
	out    []byte
	in     []byte
	n      int
	ioErr  error
	readFn func(fd uintptr) bool

	// used tells that the connection has served a call before.
	used    bool
	idleAt  int64 // when the last call ended
	sweeper *Sweeper

	mu       sync.Mutex
	active   bool
	client   exchange.ClientConn
	waiting  int64 // since when, on the sweeper's clock; 0 while nothing is awaited
	limit    time.Duration
	late     error // the verdict when limit has passed
	deadline bool  // a deadline of the connection is set
	answered bool  // the response head has come
	aborted  *atomic.Bool
	verdict  error // why the sweeper interrupted, nil if it did not
	prev     *Conn
	next     *Conn
}

// Verdicts of the sweeper.
var (
	errResponseTimeout = errors.New("the backend did not answer in time")
	errStalled         = errors.New("no byte moved for the stall timeout")
)

func newConn(nc net.Conn, s *Sweeper) *Conn {
	c := &Conn{Conn: nc, sweeper: s}
	if tc, ok := nc.(*net.TCPConn); ok {
		if raw, err := tc.SyscallConn(); err == nil {
			c.raw = raw
			c.readFn = c.sendThenRead
		}
	} else if uc, ok := nc.(*net.UnixConn); ok {
		if raw, err := uc.SyscallConn(); err == nil {
			c.raw = raw
			c.readFn = c.sendThenRead
		}
	}
	s.add(c)
	return c
}

// Close closes the connection and takes it from the sweeper.
func (c *Conn) Close() error {
	c.sweeper.remove(c)
	return c.Conn.Close()
}

// Send arranges for b to be sent with the next Read. b is borrowed until then.
func (c *Conn) Send(b []byte) error {
	if c.raw == nil {
		_, err := c.Conn.Write(b)
		return err
	}
	c.out = b
	return nil
}

// Flush sends what Send has left.
func (c *Conn) Flush() error {
	if c.out == nil {
		return nil
	}
	b := c.out
	c.out = nil
	_, err := c.Conn.Write(b)
	return err
}

// Read reads, after sending what is to be sent.
func (c *Conn) Read(p []byte) (int, error) {
	if c.out == nil {
		return c.Conn.Read(p)
	}
	c.in, c.n, c.ioErr = p, 0, nil
	err := c.raw.Read(c.readFn)
	c.in = nil
	if err == nil {
		err = c.ioErr
	}
	if err == errPartial {
		// The socket took a part: the rest goes the ordinary way.
		if err = c.Flush(); err == nil {
			return c.Conn.Read(p)
		}
	}
	if err != nil {
		c.out = nil
		return 0, err
	}
	if c.n == 0 {
		return 0, io.EOF
	}
	return c.n, nil
}

var errPartial = errors.New("partly sent")

func (c *Conn) sendThenRead(fd uintptr) bool {
	if c.out != nil {
		n, err := unix.Write(int(fd), c.out)
		for err == unix.EINTR {
			n, err = unix.Write(int(fd), c.out)
		}
		switch {
		case err == unix.EAGAIN || err == nil && n < len(c.out):
			c.out = c.out[max(n, 0):]
			c.ioErr = errPartial
			return true
		case err != nil:
			c.ioErr = err
			return true
		}
		c.out = nil
		return false
	}
	n, err := unix.Read(int(fd), c.in)
	for err == unix.EINTR {
		n, err = unix.Read(int(fd), c.in)
	}
	if err == unix.EAGAIN {
		return false
	}
	c.n, c.ioErr = max(n, 0), err
	return true
}

// alive reports whether an idle connection is still open with nothing to read.
// It costs a system call.
func (c *Conn) alive() bool {
	if c.raw == nil {
		return true
	}
	ok := true
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, errno := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ok = errno == unix.EAGAIN
	})
	return ok && err == nil
}

// begin puts the connection in a call's hands.
func (c *Conn) begin(x *exchange.Exchange) {
	c.mu.Lock()
	c.active, c.client, c.aborted, c.verdict = true, x.Client, &x.Aborted, nil
	c.waiting, c.limit, c.answered = 0, 0, false
	c.mu.Unlock()
}

// await starts the wait for the backend: for its response head, or, with
// stall, for the next byte. The sweeper ends it with a verdict after limit
// (0: never). Limits too short for its tick take a deadline instead.
func (c *Conn) await(limit time.Duration, stall bool) {
	now := c.sweeper.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting, c.limit, c.late = now, limit, errResponseTimeout
	if stall {
		c.late = errStalled
	}
	if c.verdict == nil && limit > 0 && limit < 10*c.sweeper.tick {
		c.deadline = true
		_ = c.Conn.SetDeadline(time.Now().Add(limit))
	}
}

// awaitHead is await for the response head, unless the head has come: the
// upload that ends while the body is relayed must not start the wait anew.
func (c *Conn) awaitHead(limit time.Duration) {
	c.mu.Lock()
	answered := c.answered || !c.active
	c.mu.Unlock()
	if !answered {
		c.await(limit, false)
	}
}

// rest ends a wait: what comes now is not the backend's to hurry.
func (c *Conn) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = 0
	c.clearDeadline()
}

// headCame notes that the response head is there.
func (c *Conn) headCame() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting, c.answered = 0, true
	c.clearDeadline()
}

func (c *Conn) clearDeadline() {
	if c.deadline && c.verdict == nil {
		c.deadline = false
		_ = c.Conn.SetDeadline(time.Time{})
	}
}

// interrupt ends the call from outside.
func (c *Conn) interrupt(verdict error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active && c.verdict == nil {
		c.verdict = verdict
		_ = c.Conn.SetDeadline(past)
	}
}

// end takes the connection out of the call and returns the sweeper's verdict.
// After a verdict the connection can not be used again.
func (c *Conn) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active, c.client, c.aborted, c.waiting = false, nil, nil, 0
	c.clearDeadline()
	return c.verdict
}

// cause explains an I/O error: the sweeper's verdict, or the deadline that stood in for it.
func (c *Conn) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verdict != nil {
		return c.verdict
	}
	if c.deadline && errors.Is(err, os.ErrDeadlineExceeded) {
		return c.late
	}
	return err
}

// past is a deadline that has been.
var past = time.Unix(1, 0)

// check is the sweeper's look at the connection.
func (c *Conn) check(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.active || c.verdict != nil || c.waiting == 0 {
		return
	}
	switch {
	case c.limit > 0 && now-c.waiting >= int64(c.limit):
		c.verdict = c.late
	case now-c.waiting >= int64(goneAfter) && c.client != nil && c.client.Gone():
		c.aborted.Store(true)
		c.verdict = exchange.ErrClientGone
	default:
		return
	}
	_ = c.Conn.SetDeadline(past)
}

// goneAfter is how long a call waits before the sweeper asks whether its client is still there.
const goneAfter = 100 * time.Millisecond

// Sweeper enforces the timeouts of all backend connections and notices clients
// that went away, from stamps, so that no request pays for a timer.
type Sweeper struct {
	clock *exchange.Clock
	tick  time.Duration
	mu    sync.Mutex
	head  Conn // sentinel of a ring
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
}

// NewSweeper returns a sweeper that looks around every tick, 100 ms by default,
// once it is started.
func NewSweeper(clock *exchange.Clock, tick time.Duration) *Sweeper {
	if tick <= 0 {
		tick = 100 * time.Millisecond
	}
	s := &Sweeper{clock: clock, tick: tick, stop: make(chan struct{}), done: make(chan struct{})}
	s.head.prev, s.head.next = &s.head, &s.head
	return s
}

func (s *Sweeper) now() int64 { return s.clock.Now() }

// Start begins to sweep.
func (s *Sweeper) Start() {
	go func() {
		defer close(s.done)
		t := time.NewTicker(s.tick)
		defer t.Stop()
		var batch []*Conn
		for {
			select {
			case <-s.stop:
				return
			case <-t.C:
			}
			batch = s.sweep(batch[:0])
		}
	}()
}

func (s *Sweeper) sweep(batch []*Conn) []*Conn {
	s.mu.Lock()
	for c := s.head.next; c != &s.head; c = c.next {
		batch = append(batch, c)
	}
	s.mu.Unlock()
	now := s.now()
	for _, c := range batch {
		c.check(now)
	}
	clear(batch)
	return batch
}

// Close ends the sweeping. It is for a sweeper that was started.
func (s *Sweeper) Close() error {
	s.once.Do(func() { close(s.stop) })
	<-s.done
	return nil
}

func (s *Sweeper) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.prev, c.next = s.head.prev, &s.head
	c.prev.next, c.next.prev = c, c
}

func (s *Sweeper) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.next == nil {
		return
	}
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readerSize) }}

// readerSize is the buffer of a backend connection while a call uses it. A
// response head and a body that fit into it are handed on without a copy.
const readerSize = 16 << 10

// maxResponseHead bounds a response head, and all interim responses before it.
const maxResponseHead = 64 << 10

func acquireReader(c io.Reader) *bufio.Reader {
	br := readers.Get().(*bufio.Reader)
	br.Reset(c)
	return br
}

func releaseReader(br *bufio.Reader) {
	if br.Size() == readerSize {
		br.Reset(nil)
		readers.Put(br)
	}
}
