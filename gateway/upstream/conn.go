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
	"sluice/gateway/socket"
)

// Conn is a connection to a backend. One call uses it at a time; between calls
// it lies in its HostClient's pool. The sweeper looks at it meanwhile: mu guards
// what both touch.
type Conn struct {
	net.Conn
	socket *socket.Conn    // nil over TLS
	peek   syscall.RawConn // of the socket, also below TLS; nil where there is none
	out    []byte          // goes out with the next Read

	// alive's, bound once.
	pollFn func(fd uintptr)
	pollFd [1]unix.PollFd
	quiet  bool

	// used tells that the connection has served a call before.
	used    bool
	idleAt  int64 // when the last call ended
	sweeper *Sweeper

	mu       sync.Mutex
	active   bool
	client   exchange.ClientConn
	until    int64 // after which nobody has a use for the answer, 0 for never
	asked    int64 // when the sweeper last asked whether the client is there
	reading  wait
	writing  wait
	answered bool // the response head has come
	aborted  *atomic.Bool
	verdict  error // why the sweeper interrupted, nil if it did not
	prev     *Conn
	next     *Conn
}

// wait is one direction of a connection while something is expected of it. The
// two are apart because a body may stream in each at the same time.
type wait struct {
	since    int64 // on the sweeper's clock; 0 while nothing is awaited
	limit    time.Duration
	late     error // the verdict when limit has passed
	deadline bool  // a deadline of the connection is set
}

// Verdicts of the sweeper.
var (
	errResponseTimeout = errors.New("the backend did not answer in time")
	errStalled         = errors.New("no byte moved for the stall timeout")
)

func newConn(nc net.Conn, s *Sweeper) *Conn {
	c := &Conn{Conn: nc, sweeper: s}
	below := nc
	if tc, ok := nc.(interface{ NetConn() net.Conn }); ok {
		below = tc.NetConn()
	}
	if sc, ok := below.(*socket.Conn); ok {
		c.peek, _ = sc.SyscallConn()
		c.pollFn = c.poll
		if below == nc {
			c.socket = sc
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
	if c.socket == nil {
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
	b := c.out
	c.out = nil
	return c.socket.SendThenRead(b, p)
}

// alive reports whether an idle connection is still open with nothing to read:
// neither its end, nor bytes that would be taken for the next answer. It costs
// a system call.
func (c *Conn) alive() bool {
	if c.peek == nil {
		return true
	}
	return c.peek.Control(c.pollFn) == nil && c.quiet
}

func (c *Conn) poll(fd uintptr) {
	c.pollFd[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(c.pollFd[:], 0)
	c.quiet = n == 0 && err == nil || err == unix.EINTR
}

// begin puts the connection in a call's hands.
func (c *Conn) begin(x *exchange.Exchange) {
	c.mu.Lock()
	c.active, c.client, c.aborted, c.verdict = true, x.Client, &x.Aborted, nil
	c.until = x.Until
	if x.OutlivesClient {
		c.client = nil // nobody asks whether it is there
	}
	c.reading, c.writing, c.answered = wait{}, wait{}, false
	c.mu.Unlock()
}

// awaitHead starts the wait for the response head, unless it has come already:
// an upload that ends while the body is relayed must not start it anew. The
// sweeper ends the wait with a verdict after limit (0: never). Limits too short
// for its tick take a deadline instead.
func (c *Conn) awaitHead(now int64, limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active && !c.answered {
		c.reading.start(now, limit, errResponseTimeout)
		if c.short(limit) {
			c.reading.deadline = true
			_ = c.Conn.SetReadDeadline(time.Now().Add(limit))
		}
	}
}

// awaitBytes starts the wait for the next bytes of a response body.
func (c *Conn) awaitBytes(stall time.Duration) {
	now := c.sweeper.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading.start(now, stall, errStalled)
	if c.short(stall) {
		c.reading.deadline = true
		_ = c.Conn.SetReadDeadline(time.Now().Add(stall))
	}
}

// awaitRoom starts the wait for the backend to take bytes of a request body.
func (c *Conn) awaitRoom(stall time.Duration) {
	now := c.sweeper.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing.start(now, stall, errStalled)
	if c.short(stall) {
		c.writing.deadline = true
		_ = c.Conn.SetWriteDeadline(time.Now().Add(stall))
	}
}

func (w *wait) start(now int64, limit time.Duration, late error) {
	w.since, w.limit, w.late = now, limit, late
}

func (c *Conn) short(limit time.Duration) bool {
	return c.verdict == nil && limit > 0 && limit < 10*c.sweeper.tick
}

// gotHead ends the wait for the response head with what the reading said, and
// returns that, explained.
func (c *Conn) gotHead(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
	return c.endReading(err)
}

// gotBytes ends the wait for bytes of the body.
func (c *Conn) gotBytes(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endReading(err)
}

func (c *Conn) endReading(err error) error {
	err = c.explain(err, &c.reading)
	c.reading.since = 0
	if c.reading.deadline && c.verdict == nil {
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
	c.reading.deadline = false
	return err
}

// gaveBytes ends the wait of awaitRoom.
func (c *Conn) gaveBytes(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.explain(err, &c.writing)
	c.writing.since = 0
	if c.writing.deadline && c.verdict == nil {
		_ = c.Conn.SetWriteDeadline(time.Time{})
	}
	c.writing.deadline = false
	return err
}

// explain says what an I/O error comes from: the sweeper's verdict, or the
// deadline that stood in for it.
func (c *Conn) explain(err error, w *wait) error {
	switch {
	case err == nil:
		return nil
	case c.verdict != nil:
		return c.verdict
	case w.deadline && errors.Is(err, os.ErrDeadlineExceeded):
		return w.late
	}
	return err
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
	c.active, c.client, c.aborted, c.writing.since = false, nil, nil, 0
	_ = c.endReading(nil)
	return c.verdict
}

// cause explains an I/O error by the sweeper's verdict, if there is one.
func (c *Conn) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.verdict != nil {
		return c.verdict
	}
	return err
}

// past is a deadline that has been.
var past = time.Unix(1, 0)

// check is the sweeper's look at the connection.
func (c *Conn) check(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.active || c.verdict != nil {
		return
	}
	longest := int64(0)
	for _, w := range [...]*wait{&c.reading, &c.writing} {
		if w.since == 0 {
			continue
		}
		waited := now - w.since
		if w.limit > 0 && waited >= int64(w.limit) {
			c.verdict = w.late
		}
		longest = max(longest, waited)
	}
	if c.verdict == nil && c.until != 0 && now >= c.until {
		c.aborted.Store(true)
		c.verdict = exchange.ErrClientGone
	}
	if c.verdict == nil && longest >= int64(goneAfter) && now-c.asked >= int64(goneEvery) && c.client != nil {
		c.asked = now
		if c.client.Gone() {
			c.aborted.Store(true)
			c.verdict = exchange.ErrClientGone
		}
	}
	if c.verdict != nil {
		_ = c.Conn.SetDeadline(past)
	}
}

// goneAfter is how long a call waits before the sweeper asks whether its client
// is still there, goneEvery how often it asks again: the question is a system
// call, and thousands of event streams wait for hours.
const (
	goneAfter = 100 * time.Millisecond
	goneEvery = 500 * time.Millisecond
)

// Sweeper enforces the timeouts of all backend connections and notices clients
// that went away, from stamps, so that no request pays for a timer.
type Sweeper struct {
	clock *exchange.Clock
	tick  time.Duration
	mu    sync.Mutex
	head  Conn // sentinel of a ring
	calls map[*stream]struct{}
	watch map[Watched]struct{}
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
	s := &Sweeper{clock: clock, tick: tick, calls: make(map[*stream]struct{}), watch: make(map[Watched]struct{}), stop: make(chan struct{}), done: make(chan struct{})}
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
		var calls []*stream
		var others []Watched
		for {
			select {
			case <-s.stop:
				return
			case <-t.C:
			}
			batch = s.sweep(batch[:0])
			calls = s.sweepStreams(calls[:0])
			others = s.sweepOthers(others[:0])
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

func (s *Sweeper) sweepStreams(batch []*stream) []*stream {
	s.mu.Lock()
	for st := range s.calls {
		batch = append(batch, st)
	}
	s.mu.Unlock()
	now := s.now()
	for _, st := range batch {
		st.check(now)
	}
	clear(batch)
	return batch
}

// Watched is something that the sweeper looks at, other than its own connections and calls.
type Watched interface {
	// Check is the look. It does not wait.
	Check(now int64)
}

// Watch has the sweeper look at w until Unwatch; a look that has begun may end after that.
func (s *Sweeper) Watch(w Watched) {
	s.mu.Lock()
	s.watch[w] = struct{}{}
	s.mu.Unlock()
}

// Unwatch ends Watch.
func (s *Sweeper) Unwatch(w Watched) {
	s.mu.Lock()
	delete(s.watch, w)
	s.mu.Unlock()
}

func (s *Sweeper) sweepOthers(batch []Watched) []Watched {
	s.mu.Lock()
	for w := range s.watch {
		batch = append(batch, w)
	}
	s.mu.Unlock()
	now := s.now()
	for _, w := range batch {
		w.Check(now)
	}
	clear(batch)
	return batch
}

// enlist and strike keep the books of calls over HTTP/2.
func (s *Sweeper) enlist(st *stream) {
	s.mu.Lock()
	s.calls[st] = struct{}{}
	s.mu.Unlock()
}

func (s *Sweeper) strike(st *stream) {
	s.mu.Lock()
	delete(s.calls, st)
	s.mu.Unlock()
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
