// Package listener takes connections from clients and speaks their protocol.
// It is the strictest reader in the chain: what is ambiguous is refused here,
// in one place, before anything else looks at it. It enforces what a client
// may cost: time for a head, stalls, idleness, connections.
package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/socket"
	"sluice/gateway/telemetry"
)

// Timeouts of client connections; 0 is none.
type Timeouts struct {
	// Header is for a whole request head, from its first byte.
	Header time.Duration
	// Stall is for a byte in either direction while a body is on its way.
	Stall time.Duration
	// Idle is between two requests.
	Idle time.Duration
}

// Limits bound what clients may hold.
type Limits struct {
	// MaxConns and MaxConnsPerIP bound the open connections; 0 is no bound.
	MaxConns      int
	MaxConnsPerIP int
}

// Listener accepts connections on one address. It implements net.Listener for
// the engine that serves it; its sweeper enforces the timeouts.
type Listener struct {
	name   atomic.Pointer[string]
	ln     net.Listener
	shared bool // with a process that keeps it open
	log    *slog.Logger
	coarse atomic.Int64 // nanoseconds, advanced by the sweeper
	start  time.Time

	timeouts  atomic.Pointer[Timeouts]
	limits    atomic.Pointer[Limits]
	protocols atomic.Pointer[Protocols]

	mu    sync.Mutex
	ring  conn // sentinel
	conns int
	perIP map[netip.Addr]int

	nextID   atomic.Uint64
	refused  atomic.Uint64
	counters atomic.Pointer[counters]
	say      *telemetry.Limited // of refusals
	stop     chan struct{}
	swept    chan struct{}
	closing  atomic.Bool
	// lastAccept is until when a closing listener accepts, in Unix nanoseconds.
	lastAccept atomic.Int64
	trouble    trouble // of the goroutine that accepts
}

// Listen opens the address: host:port, or unix:/path. A socket file that a
// dead process left behind is replaced.
func Listen(name, address string, log *slog.Logger) (*Listener, error) {
	network, address := Network(address)
	if network == "unix" {
		path := address
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("cannot listen on unix:%s: another process does", path)
		}
		if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(path)
		}
	}
	var plain net.ListenConfig
	// A socket of multipath TCP takes no filter, and those of its clients cost
	// more; without it they speak TCP.
	plain.SetMultipathTCP(false)
	ln, err := plain.Listen(context.Background(), network, address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	return On(name, ln, false, log), nil
}

// Network parts an address of the configuration into what net.Listen takes.
func Network(address string) (network, at string) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return "unix", path
	}
	return "tcp", address
}

// On listens on a socket that is open; a shared one outlives this process.
func On(name string, ln net.Listener, shared bool, log *slog.Logger) *Listener {
	l := &Listener{
		ln: ln, shared: shared, log: log, start: time.Now(), perIP: make(map[netip.Addr]int), say: telemetry.NewLimited(log, refusalsEvery),
		stop: make(chan struct{}), swept: make(chan struct{}),
	}
	l.name.Store(&name)
	l.ring.prev, l.ring.next = &l.ring, &l.ring
	l.coarse.Store(1)
	l.timeouts.Store(&Timeouts{})
	l.limits.Store(&Limits{})
	l.protocols.Store(&Protocols{})
	return l
}

// Configure sets timeouts and limits, also while connections are open.
func (l *Listener) Configure(t Timeouts, m Limits) {
	l.timeouts.Store(&t)
	l.limits.Store(&m)
}

// Name returns the listener's name in the configuration.
func (l *Listener) Name() string { return *l.name.Load() }

// Rename gives the listener another name.
func (l *Listener) Rename(name string) { l.name.Store(&name) }

// Start begins to enforce the timeouts.
func (l *Listener) Start() { go l.sweep() }

// Addr returns the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Accept returns the next connection. Running out of file descriptors and
// aborted connections do not end it: it waits, says so, and goes on.
func (l *Listener) Accept() (net.Conn, error) {
	pause := 5 * time.Millisecond
	for emptied := false; ; {
		nc, err := l.ln.Accept()
		if err != nil {
			if l.closing.Load() && errors.Is(err, os.ErrDeadlineExceeded) && !emptied && time.Now().UnixNano() < l.lastAccept.Load() {
				// The deadline says nothing about the queue: once more, to see
				// whether it is empty.
				emptied = true
				_ = l.deadline(lastAccepts)
				continue
			}
			if l.closing.Load() || errors.Is(err, net.ErrClosed) {
				return nil, net.ErrClosed
			}
			l.troubled(err)
			time.Sleep(pause)
			pause = min(2*pause, maxPause)
			continue
		}
		pause = 5 * time.Millisecond
		l.calm()
		if c := l.admit(nc); c != nil {
			return c, nil
		}
	}
}

const (
	// maxPause is the longest wait for what keeps connections from being accepted to pass.
	maxPause = 200 * time.Millisecond
	// troubleEvery and calmAfter keep the log short while it comes and goes.
	troubleEvery = 10 * time.Second
	calmAfter    = time.Second
)

// trouble is the accepting goroutine's memory of what it said in the log.
type trouble struct {
	said, last time.Time
}

// troubled makes room where the lack of it keeps connections from being
// accepted, and says so now and then.
func (l *Listener) troubled(err error) {
	now := time.Now()
	say := now.Sub(l.trouble.said) > troubleEvery
	if l.trouble.last = now; say {
		l.trouble.said = now
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		if say {
			l.log.Warn("out of file descriptors: closing idle connections; raise the limit (ulimit -n)", "listener", l.Name())
		}
		l.evictIdle(16, true)
	} else if say {
		l.log.Warn("cannot accept a connection", "listener", l.Name(), "error", err.Error())
	}
}

// calm says that the trouble is over once it has been for a while.
func (l *Listener) calm() {
	if !l.trouble.last.IsZero() && time.Since(l.trouble.last) > calmAfter {
		l.trouble = trouble{}
		l.log.Info("accepting connections again", "listener", l.Name())
	}
}

func (l *Listener) admit(nc net.Conn) *conn {
	nc = socket.New(nc)
	c := &conn{Conn: nc, tcp: nc, owner: l, id: l.nextID.Add(1)}
	p := l.protocols.Load()
	c.dress(p)
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		ap := a.AddrPort()
		c.setPeer(ap.Addr().Unmap())
	} else {
		// A unix socket: the peer is this machine.
		c.setPeer(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	c.seated = true
	if p.Proxy != ProxyOff {
		if p.trustsProxy(c.peer) {
			c.proxied, c.seated = p.Proxy, false
		} else if p.Proxy == ProxyRequire {
			l.turnAway(c, proxyUntrusted)
			return nil
		}
	}
	c.since.Store(l.coarse.Load())
	if why, ok := l.enroll(c); !ok {
		l.turnAway(c, why)
		return nil
	}
	return c
}

// enroll takes a connection into the books if the limits leave room for it.
func (l *Listener) enroll(c *conn) (why refusal, ok bool) {
	m := l.limits.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.seated && m.MaxConnsPerIP > 0 && l.perIP[c.peer] >= m.MaxConnsPerIP {
		return overConnectionsPerIP, false
	}
	if m.MaxConns > 0 && l.conns >= m.MaxConns {
		l.mu.Unlock()
		evicted := l.evictIdle(1, false)
		l.mu.Lock()
		if evicted == 0 {
			return overConnections, false
		}
	}
	l.conns++
	if c.seated {
		l.perIP[c.peer]++
	}
	c.prev, c.next = l.ring.prev, &l.ring
	c.prev.next, c.next.prev = c, c
	return 0, true
}

func (l *Listener) forget(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.next == nil {
		return
	}
	c.prev.next, c.next.prev = c.next, c.prev
	c.prev, c.next = nil, nil
	l.conns--
	if !c.seated {
		return
	}
	if l.perIP[c.peer]--; l.perIP[c.peer] <= 0 {
		delete(l.perIP, c.peer)
	}
}

// snapshot lists the open connections, oldest first.
func (l *Listener) snapshot(batch []*conn) []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := l.ring.next; c != &l.ring; c = c.next {
		batch = append(batch, c)
	}
	return batch
}

// evictIdle closes up to n connections that are between requests, oldest
// first; where those are not enough, what has said nothing for a while. With
// sockets, only those that have one of their own.
func (l *Listener) evictIdle(n int, sockets bool) int {
	evicted := 0
	for _, c := range l.resting(n+16, sockets) {
		if evicted == n {
			break
		}
		if c.evict() || c.phase.CompareAndSwap(phaseNew, phaseClosing) && c.shut() == nil {
			evicted++
		}
	}
	return evicted
}

// resting lists connections that may be evicted: up to n of those that rest,
// and behind them up to n of those that never spoke.
func (l *Listener) resting(n int, sockets bool) []*conn {
	var rest, silent []*conn
	since := l.coarse.Load() - int64(freshFor)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := l.ring.next; c != &l.ring && len(rest) < n; c = c.next {
		if sockets && c.tcp == nil {
			continue
		}
		switch c.phase.Load() {
		case phaseIdle, phaseLinger, phaseStreams:
			rest = append(rest, c)
		case phaseNew:
			if c.since.Load() < since && len(silent) < n {
				silent = append(silent, c)
			}
		}
	}
	return append(rest, silent...)
}

// Stats counts the open connections: those that wait for a request, those that
// have one, and those that were refused since the start.
func (l *Listener) Stats() (idle, active int, refused uint64) {
	for _, c := range l.snapshot(nil) {
		switch ph := c.phase.Load(); {
		case ph == phaseNew, ph == phaseIdle, ph == phaseStreams && !c.mux.busy():
			idle++
		default:
			active++
		}
	}
	return idle, active, l.refused.Load()
}

func (l *Listener) sweep() {
	defer close(l.swept)
	var batch []*conn
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		t := l.timeouts.Load()
		timer.Reset(tick(t))
		select {
		case <-l.stop:
			return
		case <-timer.C:
		}
		now := int64(time.Since(l.start)) + 1
		l.coarse.Store(now)
		batch = l.snapshot(batch[:0])
		for _, c := range batch {
			c.check(now, t)
		}
		clear(batch)
	}
}

// tick is how often the sweeper looks: often enough for the shortest timeout.
func tick(t *Timeouts) time.Duration {
	d := 100 * time.Millisecond
	for _, limit := range []time.Duration{t.Header, t.Stall, t.Idle} {
		if limit > 0 {
			d = min(d, limit/4)
		}
	}
	return max(d, 5*time.Millisecond)
}

// Close stops accepting. Connections that wait in the kernel to be accepted
// still are. Open connections go on until CloseConns.
func (l *Listener) Close() error {
	if l.shared {
		l.leave()
		return nil
	}
	if l.closing.Swap(true) {
		return nil
	}
	// Connections in the queue would be reset by the close: they are accepted
	// first. A filter lets no more begin, so that the queue ends; who comes now
	// finds the socket closed when it tries again. Those that have begun end up
	// in the queue: their client may take them for open already.
	if sc, ok := l.ln.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &dropSYN)
			})
		}
	}
	l.lastAccept.Store(time.Now().Add(lingerAccepts).UnixNano())
	if l.deadline(lastAccepts) == nil {
		return nil
	}
	return l.ln.Close()
}

// leave stops accepting on a socket that is another process's too: what waits in its
// queue is for that one.
func (l *Listener) leave() {
	if l.closing.Swap(true) {
		return
	}
	if u, ok := l.ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	_ = l.ln.Close()
}

// Shared tells whether another process keeps the socket open.
func (l *Listener) Shared() bool { return l.shared }

// Socket is what is listened on.
func (l *Listener) Socket() syscall.Conn { return l.ln.(syscall.Conn) }

// deadline ends the wait of Accept after d.
func (l *Listener) deadline(d time.Duration) error {
	s, ok := l.ln.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return errors.ErrUnsupported
	}
	return s.SetDeadline(time.Now().Add(d))
}

// dropSYN is a socket filter that takes every segment but those that begin a
// connection: SYN without ACK, in the byte of flags of the TCP header.
var dropSYN = func() unix.SockFprog {
	const flags, syn, ack = 13, 0x02, 0x10
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: math.MaxUint32},
	}
	return unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
}()

const (
	// lastAccepts is how long a closing listener waits for what is still to be accepted,
	lastAccepts = 10 * time.Millisecond
	// lingerAccepts how long it accepts at all, also where no filter holds the others off.
	lingerAccepts = 250 * time.Millisecond
)

// freshFor is how long a new connection is taken for one whose request is on its way.
const freshFor = 5 * time.Second

// CloseIdle closes the connections that have waited for a request since rested ago, and tells those that speak another protocol that
// this is the end, WebSockets by a close code; it returns how many are left.
func (l *Listener) CloseIdle(rested time.Duration, code int) (active int) {
	now := l.coarse.Load()
	for _, c := range l.snapshot(nil) {
		switch c.phase.Load() {
		case phaseStreams:
			c.mux.goAway()
			active++
			continue
		case phaseTunnel:
			c.goAway(code)
			active++
			continue
		}
		if now-c.since.Load() < int64(rested) {
			active++
			continue
		}
		if c.evict() {
			continue
		}
		if now-c.since.Load() > int64(freshFor) && c.phase.CompareAndSwap(phaseNew, phaseClosing) {
			_ = c.shut()
			continue
		}
		active++
	}
	return active
}

// CloseConns closes every connection and ends the sweeper.
func (l *Listener) CloseConns() {
	_ = l.ln.Close()
	for _, c := range l.snapshot(nil) {
		if !c.giveUp() && c.hangUp() {
			continue // closing would wait for the end of the request
		}
		_ = c.shut()
	}
	close(l.stop)
	<-l.swept
}

// Discard closes a listener that was never started.
func (l *Listener) Discard() error { return l.ln.Close() }
