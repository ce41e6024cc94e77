package redistest

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy stands between a client and a server: it delays what passes, or lets nothing pass.
type Proxy struct {
	// Address is where it listens.
	Address string

	to    string
	delay atomic.Int64
	cut   atomic.Bool
	l     net.Listener
	all   sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	done  bool
}

// NewProxy runs a proxy in front of an address until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: l.Addr().String(), to: to, l: l, conns: make(map[net.Conn]struct{})}
	p.all.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Delay has everything arrive later by d, in both directions.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Cut keeps everything back, as a network that is gone; what was on its way then arrives when it is mended.
func (p *Proxy) Cut(cut bool) { p.cut.Store(cut) }

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.keep(c) {
			return
		}
		p.all.Go(func() {
			defer p.drop(c)
			for p.cut.Load() {
				if p.ended() {
					return
				}
				time.Sleep(time.Millisecond)
			}
			s, err := net.Dial("tcp", p.to)
			if err != nil || !p.keep(s) {
				return
			}
			defer p.drop(s)
			var both sync.WaitGroup
			both.Go(func() { p.pass(s, c) })
			both.Go(func() { p.pass(c, s) })
			both.Wait()
		})
	}
}

type piece struct {
	b  []byte
	at time.Time
}

// pass copies one direction. When it ends both do.
func (p *Proxy) pass(to, from net.Conn) {
	defer func() { _ = to.Close() }()
	pieces := make(chan piece, 1024)
	p.all.Go(func() {
		defer close(pieces)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				pieces <- piece{b[:n], time.Now()}
			}
			if err != nil {
				return
			}
		}
	})
	for x := range pieces {
		for time.Since(x.at) < time.Duration(p.delay.Load()) || p.cut.Load() {
			if p.ended() {
				break
			}
			time.Sleep(500 * time.Microsecond)
		}
		if _, err := to.Write(x.b); err != nil {
			_ = from.Close()
		}
	}
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

func (p *Proxy) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.done = true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	_ = p.l.Close()
	p.all.Wait()
}
