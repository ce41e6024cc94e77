package upstream

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/socket"
)

// Conn is a connection to a backend. One call uses it at a time; between calls
// it lies in its pool. The sweeper looks at it meanwhile: mu guards
// what both touch.
type Conn struct {
	net.Conn
	socket *socket.Conn // nil over TLS
	pool   *Pool
	idleAt int64 // when the last call ended

	out    []byte // goes out before the answer is awaited
	in     *reader
	lookFn func(fd uintptr) bool // look, bound once
	fault  error                 // what look has met

	mu       sync.Mutex
	used     bool // the connection has served a call before
	active   bool
	answered bool // the response head has come
	alone    bool // nobody asks whether the client is there
	x        *exchange.Exchange
	until    int64 // after which nobody has a use for the answer, 0 for never
	reading  wait
	verdict  error // why the sweeper interrupted, nil if it did not

	writing wait
	asked   int64 // when the sweeper last asked whether the client is there
	sweeper *Sweeper
	prev    *Conn
	next    *Conn

	// alive's, bound once.
	peek     syscall.RawConn // of the socket, also below TLS; nil where there is none
	listenFn func(fd uintptr)
	quiet    bool
}

// wait is one direction of a connection while something is expected of it. The
// two are apart because a body may stream in each at the same time.
type wait struct {
	since    int64 // on the sweeper's clock; 0 while nothing is awaited
	limit    time.Duration
	deadline bool // a deadline of the connection is set
}

// Verdicts of the sweeper.
var (
	errResponseTimeout = errors.New("the backend did not answer in time")
	errStalled         = errors.New("no byte moved for the stall timeout")
)

func newConn(nc net.Conn, p *Pool, s *Sweeper) *Conn {
	c := &Conn{Conn: nc, pool: p, sweeper: s}
	below := nc
	if tc, ok := nc.(interface{ NetConn() net.Conn }); ok {
		below = tc.NetConn()
	}
	if sc, ok := below.(*socket.Conn); ok {
		c.peek, _ = sc.SyscallConn()
		c.listenFn, c.lookFn = c.listen, c.look
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

// ask sends out and returns a reader with the first of the answer. out may lie
// in r, which is nil or used by nobody else: r is given back once that is sent,
// and a reader taken when there is something to read, so that a connection
// that waits holds none. With an error there may be no reader.
func (c *Conn) ask(out []byte, r *reader) (*reader, error) {
	if c.socket == nil {
		return c.askEncrypted(out, r)
	}
	c.out, c.in, c.fault = out, r, nil
	err := c.socket.Poll(c.lookFn)
	if c.fault != nil {
		err = c.finishAsking()
	}
	r, c.in, c.out = c.in, nil, nil
	if r != nil {
		r.src = c.Conn
	}
	return r, err
}

// look is one look at the socket. The bytes go to it when the wait has been
// prepared, so that none can be missed and the read that would only say "not
// yet" is spared. That holds where the other side says nothing unasked: what lay
// there before is found only when more comes.
func (c *Conn) look(fd uintptr) bool {
	if len(c.out) > 0 {
		n, err := socket.TryWrite(fd, c.out)
		if c.out = c.out[n:]; err != nil || len(c.out) > 0 {
			c.fault = err
			if err == nil || err == socket.ErrNotYet {
				c.fault = errPartial
			}
			return true
		}
		c.letGo()
		return false
	}
	if c.in == nil {
		c.in = takeReader()
	}
	n, err := socket.TryRead(fd, c.in.buf)
	if err == socket.ErrNotYet {
		c.letGo()
		return false
	}
	c.in.r, c.in.w, c.in.err, c.fault = 0, n, nil, err
	return true
}

// letGo gives the reader back while the connection waits.
func (c *Conn) letGo() {
	if c.in != nil {
		c.in.giveBack()
		c.in = nil
	}
}

var errPartial = errors.New("partly sent")

// finishAsking goes on where look has met something else than an answer.
func (c *Conn) finishAsking() error {
	if c.fault != errPartial {
		return c.fault
	}
	// The socket took a part: the rest goes the ordinary way.
	if _, err := c.Conn.Write(c.out); err != nil {
		return err
	}
	c.out, c.fault = nil, nil
	if err := c.socket.Poll(c.lookFn); err != nil {
		return err
	}
	return c.fault
}

// askEncrypted is ask where what is sent and read is not what the socket has.
func (c *Conn) askEncrypted(out []byte, r *reader) (*reader, error) {
	if len(out) > 0 {
		if _, err := c.Conn.Write(out); err != nil {
			return r, err
		}
	}
	if r == nil {
		r = takeReader()
	}
	r.src, r.err, r.r, r.w = c.Conn, nil, 0, 0
	return r, r.fill()
}

// alive reports whether an idle connection is still open with nothing to read:
// neither its end, nor bytes that would be taken for the next answer. It costs
// a system call.
func (c *Conn) alive() bool {
	if c.peek == nil {
		return true
	}
	return c.peek.Control(c.listenFn) == nil && c.quiet
}

func (c *Conn) listen(fd uintptr) { c.quiet = socket.Quiet(fd) }

// begin puts the connection in a call's hands, and unless its body is still to
// be sent starts the wait for the response head. The sweeper ends that with a
// verdict after limit (0: never). Limits too short for its tick take a deadline
// instead.
func (c *Conn) begin(x *exchange.Exchange, now int64, limit time.Duration, sending bool) {
	c.mu.Lock()
	c.active, c.answered, c.alone, c.x, c.until, c.verdict = true, false, x.OutlivesClient, x, x.Until, nil
	if !sending {
		c.reading.since, c.reading.limit = now, limit
		if c.short(limit) {
			c.setReadDeadline(limit)
		}
	}
	c.mu.Unlock()
}

func (c *Conn) setReadDeadline(limit time.Duration) {
	c.reading.deadline = true
	_ = c.Conn.SetReadDeadline(time.Now().Add(limit))
}

// awaitHead starts the wait for the response head behind a body that was
// streamed, unless the head has come already: an upload that ends while the
// answer is relayed must not start it anew.
func (c *Conn) awaitHead(now int64, limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active && !c.answered {
		c.reading.since, c.reading.limit = now, limit
		if c.short(limit) {
			c.setReadDeadline(limit)
		}
	}
}

// awaitBytes starts the wait for the next bytes of a response body.
func (c *Conn) awaitBytes(stall time.Duration) {
	now := c.sweeper.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading.since, c.reading.limit = now, stall
	if c.short(stall) {
		c.setReadDeadline(stall)
	}
}

// awaitRoom starts the wait for the backend to take bytes of a request body.
func (c *Conn) awaitRoom(stall time.Duration) {
	now := c.sweeper.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing.since, c.writing.limit = now, stall
	if c.short(stall) {
		c.writing.deadline = true
		_ = c.Conn.SetWriteDeadline(time.Now().Add(stall))
	}
}

func (c *Conn) short(limit time.Duration) bool {
	return c.verdict == nil && limit > 0 && limit < 10*c.sweeper.tick
}

// gotHead ends the wait for the response head with what the reading said, and
// returns that, explained.
func (c *Conn) gotHead(err error) error {
	c.mu.Lock()
	err = c.endReading(err)
	c.answered = true
	c.mu.Unlock()
	return err
}

// gotBytes ends the wait for bytes of the body.
func (c *Conn) gotBytes(err error) error {
	c.mu.Lock()
	err = c.endReading(err)
	c.mu.Unlock()
	return err
}

func (c *Conn) endReading(err error) error {
	if err != nil {
		late := errStalled
		if !c.answered {
			late = errResponseTimeout
		}
		err = c.explain(err, &c.reading, late)
	}
	c.reading.since = 0
	if c.reading.deadline {
		c.resetDeadline(&c.reading, c.Conn.SetReadDeadline)
	}
	return err
}

func (c *Conn) resetDeadline(w *wait, set func(time.Time) error) {
	if w.deadline = false; c.verdict == nil {
		_ = set(time.Time{})
	}
}

// gaveBytes ends the wait of awaitRoom.
func (c *Conn) gaveBytes(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		err = c.explain(err, &c.writing, errStalled)
	}
	c.writing.since = 0
	if c.writing.deadline {
		c.resetDeadline(&c.writing, c.Conn.SetWriteDeadline)
	}
	return err
}

// explain says what an I/O error comes from: the sweeper's verdict, or the
// deadline that stood in for it.
func (c *Conn) explain(err error, w *wait, late error) error {
	switch {
	case c.verdict != nil:
		return c.verdict
	case w.deadline && errors.Is(err, os.ErrDeadlineExceeded):
		return late
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
	c.active, c.x, c.writing.since, c.reading.since = false, nil, 0, 0
	if c.reading.deadline {
		c.resetDeadline(&c.reading, c.Conn.SetReadDeadline)
	}
	verdict := c.verdict
	c.mu.Unlock()
	return verdict
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
	if w := &c.reading; w.since != 0 {
		if longest = now - w.since; w.limit > 0 && longest >= int64(w.limit) {
			c.verdict = errStalled
			if !c.answered {
				c.verdict = errResponseTimeout
			}
		}
	}
	if w := &c.writing; w.since != 0 {
		waited := now - w.since
		if w.limit > 0 && waited >= int64(w.limit) {
			c.verdict = errStalled
		}
		longest = max(longest, waited)
	}
	if c.verdict == nil && c.until != 0 && now >= c.until {
		c.x.Aborted.Store(true)
		c.verdict = exchange.ErrClientGone
	}
	if c.verdict == nil && longest >= int64(goneAfter) && now-c.asked >= int64(goneEvery) && !c.alone && c.x.Client != nil {
		c.asked = now
		if c.x.Client.Gone() {
			c.x.Aborted.Store(true)
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
