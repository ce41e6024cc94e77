package concurrency

import (
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// gate counts what is in flight and keeps the queues. The bounds are arguments of every call and not part of it, so that it
// outlives the configuration. While nobody waits, entering and leaving is one exchange of one word.
type gate struct {
	state     atomic.Uint64 // in flight in the low half, waiting in the high one; the latter changes under mu alone
	mu        sync.Mutex
	queues    [classes]queue // who waits, by class; guarded by mu
	waiters   policy.Waiters
	pool      sync.Pool
	estimator estimator
}

// queue is who waits, in order of arrival.
type queue struct{ head, tail *waiter }

// waiter is a request in the queue. ready gets its one value when the slot is granted, or the place in the queue taken away.
type waiter struct {
	limit      *limit
	class      class
	ready      chan struct{}
	granted    bool // guarded by the gate's mu, as is sent
	sent       bool // away
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

// queue puts a request at the end of the queue of its class, or lets it enter if there is a slot for which nobody of its class or above
// waits; neither means that the queue is full.
func (g *gate) queue(l *limit, at class) (w *waiter, entered bool) {
	if n := waiting(g.state.Load()); n >= l.queue && (n == 0 || l.priority == nil) {
		return nil, false // told without the lock: a flood of refusals holds up nobody
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for !g.waits(at) {
		s := g.state.Load()
		if inFlight(s) >= l.bound(at) {
			break
		}
		if g.state.CompareAndSwap(s, s+1) {
			return nil, true
		}
	}
	if waiting(g.state.Load()) >= l.queue && (l.queue == 0 || !g.sendAway(at)) {
		return nil, false
	}
	w, _ = g.pool.Get().(*waiter)
	if w == nil {
		w = &waiter{ready: make(chan struct{}, 1)}
	}
	w.limit, w.class, w.granted, w.sent = l, at, false, false
	q := &g.queues[at]
	if w.prev = q.tail; w.prev != nil {
		w.prev.next = w
	} else {
		q.head = w
	}
	q.tail = w
	g.state.Add(oneWaiting)
	// A slot that became free meanwhile was given to nobody.
	g.grant()
	return w, false
}

// waits reports whether somebody of this class or above waits. The caller holds mu.
func (g *gate) waits(at class) bool {
	for i := range at + 1 {
		if g.queues[i].head != nil {
			return true
		}
	}
	return false
}

// sendAway takes the place of the youngest of the lowest class below at. The caller holds mu.
func (g *gate) sendAway(at class) bool {
	for i := classes - 1; i > at; i-- {
		if w := g.queues[i].tail; w != nil {
			g.remove(w)
			w.sent = true
			w.ready <- struct{}{}
			return true
		}
	}
	return false
}

// wait waits for the slot of w and gives w back.
func (g *gate) wait(x *exchange.Exchange, w *waiter, timeout time.Duration) error {
	received, err := g.waiters.Wait(x, timeout, w.ready)
	g.mu.Lock()
	granted, sent := w.granted, w.sent
	if !granted && !sent {
		g.remove(w)
		// A request behind w may have a wider bound, of a younger configuration.
		g.grant()
	}
	g.mu.Unlock()
	if (granted || sent) && !received {
		<-w.ready // decided while it gave up
	}
	if granted && err != nil {
		g.leave()
	}
	w.limit = nil
	g.pool.Put(w)
	switch {
	case err != nil:
		return err
	case granted:
		return nil
	}
	return rejectOverload
}

// leave gives a slot back, and to whoever is next.
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

// grant gives free slots to who waits, the higher classes first. The caller holds mu.
func (g *gate) grant() {
	for i := range g.queues {
		for w := g.queues[i].head; w != nil; w = g.queues[i].head {
			s := g.state.Load()
			if inFlight(s) >= w.limit.bound(w.class) {
				break
			}
			if !g.state.CompareAndSwap(s, s+1) {
				continue
			}
			g.remove(w)
			w.granted = true
			w.ready <- struct{}{}
		}
	}
}

// remove takes w out of the queue. The caller holds mu.
func (g *gate) remove(w *waiter) {
	q := &g.queues[w.class]
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.prev, w.next = nil, nil
	g.state.Add(^uint64(oneWaiting - 1)) // minus oneWaiting
}
