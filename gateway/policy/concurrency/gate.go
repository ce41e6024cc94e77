package concurrency

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// gate counts what is in flight and keeps the queues. The bounds are arguments of every call and not part of it, so that it
// outlives the configuration. While nobody waits, entering and leaving is one exchange of one word, and another of the tenant's where there are tenants.
type gate struct {
	state     atomic.Uint64 // in flight in the low half, waiting in the high one; the latter changes under mu alone
	mu        sync.Mutex
	common    lane             // of requests without a tenant
	lanes     map[string]*lane // by tenant; guarded by mu
	active    *lane            // the first of those in which somebody waits; guarded by mu
	turn      uint64           // the turn of the lane that was served last; guarded by mu
	pooled    *pooled
	estimator estimator
}

// pooled is what waiting takes, used again. Gates of one policy share it.
type pooled struct {
	waiters policy.Waiters
	pool    sync.Pool
}

// queue is who waits, in order of arrival.
type queue struct{ head, tail *waiter }

// waiter is a request in the queue. ready gets its one value when the slot is granted, or the place in the queue taken away.
type waiter struct {
	limit      *limit
	class      class
	lane       *lane
	share      uint32 // the most that its lane may have in flight
	ready      chan struct{}
	granted    bool // guarded by the gate's mu, as is sent
	sent       bool // away
	prev, next *waiter
}

const oneWaiting = 1 << 32

func inFlight(s uint64) uint32 { return uint32(s) }
func waiting(s uint64) uint32  { return uint32(s >> 32) }

func newGate() (*gate, error) { return makeGate(new(pooled)), nil }

func makeGate(p *pooled) *gate {
	g := &gate{pooled: p}
	g.common.weight = fullWeight
	return g
}

// entrant is a request at the gate: its class, its lane, and how much of the bound the lane may use.
type entrant struct {
	class class
	lane  *lane
	share uint32
}

// noShare is the share of a lane that has no bound of its own.
const noShare = math.MaxUint32

// enter takes a slot if one is free and nobody waits for it.
func (g *gate) enter(most uint32, e entrant) bool {
	for {
		s := g.state.Load()
		if waiting(s) > 0 || inFlight(s) >= most {
			return false
		}
		if g.state.CompareAndSwap(s, s+1) {
			break
		}
	}
	if e.lane.enter(e.share) {
		return true
	}
	g.leaveGate()
	return false
}

// queue puts a request at the end of the queue of its lane and class, or lets it enter if there is a slot for which nobody of its lane
// and its class or above waits; neither means that the queue is full.
func (g *gate) queue(l *limit, e entrant) (w *waiter, entered bool) {
	if n := waiting(g.state.Load()); n >= l.queue && (n == 0 || l.priority == nil && l.lanes == nil) {
		return nil, false // told without the lock: a flood of refusals holds up nobody
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.lane.waits(e.class) && g.admit(l.bound(g, e.class), e) {
		return nil, true
	}
	if waiting(g.state.Load()) >= l.queue && (l.queue == 0 || !g.sendAway(e)) {
		return nil, false
	}
	w, _ = g.pooled.pool.Get().(*waiter)
	if w == nil {
		w = &waiter{ready: make(chan struct{}, 1)}
	}
	w.limit, w.class, w.lane, w.share, w.granted, w.sent = l, e.class, e.lane, e.share, false, false
	g.add(w)
	// A slot that became free meanwhile was given to nobody.
	g.grant()
	return w, false
}

// admit takes a slot if one is free, whoever waits. The caller holds mu.
func (g *gate) admit(most uint32, e entrant) bool {
	for {
		s := g.state.Load()
		if inFlight(s) >= most {
			return false
		}
		if g.state.CompareAndSwap(s, s+1) {
			break
		}
	}
	if e.lane.enter(e.share) {
		return true
	}
	g.state.Add(^uint64(0))
	return false
}

// sendAway takes the place of somebody else for a request: of the youngest of the lowest class below its own, else of the
// youngest in a lane that has more places for its weight than the request's lane would have with it. The caller holds mu.
func (g *gate) sendAway(e entrant) bool {
	for i := classes - 1; i > e.class; i-- {
		if ln := g.longest(i); ln != nil {
			g.dismiss(ln.queues[i].tail)
			return true
		}
	}
	ln := g.longest(e.class)
	if ln == nil || ln == e.lane || (e.lane.waiting+1)*ln.weight > (ln.waiting-1)*e.lane.weight {
		return false
	}
	g.dismiss(ln.queues[e.class].tail)
	return true
}

// longest returns the lane with the most waiting for its weight among those in which somebody of a class waits.
func (g *gate) longest(at class) (most *lane) {
	for ln := g.active; ln != nil; ln = ln.next {
		if ln.queues[at].tail != nil && (most == nil || ln.waiting*most.weight > most.waiting*ln.weight) {
			most = ln
		}
	}
	return most
}

func (g *gate) dismiss(w *waiter) {
	g.remove(w)
	w.sent = true
	w.ready <- struct{}{}
}

// wait waits for the slot of w and gives w back. late is the answer when the time is over.
func (g *gate) wait(x *exchange.Exchange, w *waiter, timeout time.Duration, late *exchange.Reject) error {
	received, err := g.pooled.waiters.Wait(x, timeout, w.ready)
	g.mu.Lock()
	granted, sent, ln := w.granted, w.sent, w.lane
	if !granted && !sent {
		g.remove(w)
		// A request behind w may have a wider bound, of a younger configuration.
		g.grant()
	}
	g.mu.Unlock()
	if (granted || sent) && !received {
		<-w.ready // decided while it gave up
	}
	refusal := w.limit.refusal
	w.limit, w.lane = nil, nil
	g.pooled.pool.Put(w)
	switch {
	case granted && err != nil:
		g.leave(ln)
		return err
	case err != nil:
		return err
	case granted:
		return nil
	case sent:
		return refusal
	}
	return late
}

// leave gives a slot back, and to whoever is next.
func (g *gate) leave(ln *lane) {
	ln.leave()
	g.leaveGate()
}

func (g *gate) leaveGate() {
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

// grant gives free slots to who waits: the higher classes first, and within a class to the lanes in turn, so that each gets
// slots in proportion to its weight. A lane that uses its share is passed over. The caller holds mu.
func (g *gate) grant() {
	for at := range classes {
		for g.active != nil {
			ln := g.next(at)
			if ln == nil {
				break
			}
			w := ln.queues[at].head
			if !g.admit(w.limit.bound(g, at), entrant{at, ln, w.share}) {
				continue // it was taken meanwhile; the next look finds that
			}
			g.turn = ln.turn
			ln.turn += turnLength / ln.weight
			g.remove(w)
			w.granted = true
			w.ready <- struct{}{}
		}
	}
}

// next returns the lane whose turn it is among those with a request of a class that may enter.
func (g *gate) next(at class) (first *lane) {
	in := inFlight(g.state.Load())
	for ln := g.active; ln != nil; ln = ln.next {
		w := ln.queues[at].head
		if w == nil || first != nil && first.turn <= ln.turn {
			continue
		}
		if in < w.limit.bound(g, at) && ln.hasRoom(w.share) {
			first = ln
		}
	}
	return first
}

// add puts w at the end of its queue. The caller holds mu.
func (g *gate) add(w *waiter) {
	ln := w.lane
	if ln.waiting == 0 {
		// Who did not wait has saved nothing up.
		ln.turn = max(ln.turn, g.turn)
		ln.prev, ln.next = nil, g.active
		if g.active != nil {
			g.active.prev = ln
		}
		g.active = ln
	}
	ln.waiting++
	q := &ln.queues[w.class]
	if w.prev = q.tail; w.prev != nil {
		w.prev.next = w
	} else {
		q.head = w
	}
	q.tail = w
	g.state.Add(oneWaiting)
}

// remove takes w out of the queue. The caller holds mu.
func (g *gate) remove(w *waiter) {
	ln := w.lane
	q := &ln.queues[w.class]
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
	if ln.waiting--; ln.waiting > 0 {
		return
	}
	if ln.prev != nil {
		ln.prev.next = ln.next
	} else {
		g.active = ln.next
	}
	if ln.next != nil {
		ln.next.prev = ln.prev
	}
	ln.prev, ln.next = nil, nil
}
