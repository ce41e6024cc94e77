package concurrency

import (
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// gate counts what is in flight and keeps the queue. The bounds are arguments of every call and not part of it, so that it
// outlives the configuration. While nobody waits, entering and leaving is one exchange of one word.
type gate struct {
	state   atomic.Uint64 // in flight in the low half, waiting in the high one; the latter changes under mu alone
	mu      sync.Mutex
	head    *waiter // who waits, in order of arrival; guarded by mu
	tail    *waiter
	waiters policy.Waiters
	pool    sync.Pool
}

// waiter is a request in the queue. ready gets its one value when the slot is granted.
type waiter struct {
	max        uint32
	ready      chan struct{}
	granted    bool // guarded by the gate's mu
	prev, next *waiter
}

const oneWaiting = 1 << 32

func inFlight(s uint64) uint32 { return uint32(s) }
func waiting(s uint64) uint32  { return uint32(s >> 32) }

func newGate() (*gate, error) { return &gate{}, nil }

// enter takes a slot if one is free and nobody waits for it.
func (g *gate) enter(most uint32) bool {
	for {
		s := g.state.Load()
		if waiting(s) > 0 || inFlight(s) >= most {
			return false
		}
		if g.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

// queue puts a request at the end of the queue, or lets it enter if a slot became free meanwhile; neither means that the queue is full.
func (g *gate) queue(most, size uint32) (w *waiter, entered bool) {
	if waiting(g.state.Load()) >= size {
		return nil, false // told without the lock: a flood of refusals holds up nobody
	}
	w, _ = g.pool.Get().(*waiter)
	if w == nil {
		w = &waiter{ready: make(chan struct{}, 1)}
	}
	w.max, w.granted = most, false
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		s := g.state.Load()
		switch {
		case waiting(s) == 0 && inFlight(s) < most:
			if g.state.CompareAndSwap(s, s+1) {
				g.pool.Put(w)
				return nil, true
			}
		case waiting(s) >= size:
			g.pool.Put(w)
			return nil, false
		case g.state.CompareAndSwap(s, s+oneWaiting):
			if w.prev = g.tail; w.prev != nil {
				w.prev.next = w
			} else {
				g.head = w
			}
			g.tail = w
			return w, false
		}
	}
}

// wait waits for the slot of w and gives w back.
func (g *gate) wait(x *exchange.Exchange, w *waiter, timeout time.Duration) error {
	received, err := g.waiters.Wait(x, timeout, w.ready)
	if received {
		g.pool.Put(w)
		return nil
	}
	g.mu.Lock()
	granted := w.granted
	if !granted {
		g.remove(w)
		// A request behind w may have a wider bound, of a younger configuration.
		g.grant()
	}
	g.mu.Unlock()
	if granted {
		<-w.ready // granted while it gave up
		if err != nil {
			g.leave()
		}
	}
	g.pool.Put(w)
	switch {
	case err != nil:
		return err
	case granted:
		return nil
	}
	return rejectOverload
}

// leave gives a slot back, and to whoever has waited longest.
func (g *gate) leave() {
	for {
		s := g.state.Load()
		if waiting(s) > 0 {
			break
		}
		if g.state.CompareAndSwap(s, s-1) {
			return
		}
	}
	g.mu.Lock()
	g.state.Add(^uint64(0))
	g.grant()
	g.mu.Unlock()
}

// grant gives free slots to the head of the queue. The caller holds mu.
func (g *gate) grant() {
	for w := g.head; w != nil; w = g.head {
		s := g.state.Load()
		if inFlight(s) >= w.max {
			return
		}
		if !g.state.CompareAndSwap(s, s+1) {
			continue
		}
		g.remove(w)
		w.granted = true
		w.ready <- struct{}{}
	}
}

// remove takes w out of the queue. The caller holds mu.
func (g *gate) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		g.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		g.tail = w.prev
	}
	w.prev, w.next = nil, nil
	g.state.Add(^uint64(oneWaiting - 1)) // minus oneWaiting
}
