package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/stripe"
)

// Group is the living state that the endpoints of one service share. Its identity is the service's name.
type Group struct {
	Service string

	ejecting sync.Mutex  // held to count who is ejected and to add one to them
	lanes    []groupLane // one for each core

	_     [64]byte
	turn  atomic.Uint64 // RoundRobin: position in the cycle
	_     [56]byte
	spill atomic.Uint64 // RoundRobin: position for turns whose endpoint can not take them
	_     [56]byte
}

// groupLane is what one core writes for each request of a service.
type groupLane struct {
	inFlight atomic.Int64  // begun here less ended here: only the sum of all lanes means something
	turns    atomic.Uint64 // RoundRobin: turns taken ahead, the next one above turnShift and their number below
	takenAt  atomic.Int64  // and when
	_        [128 - 24]byte
}

// NewGroup returns the state of a service that has no endpoints yet.
func NewGroup(service string) *Group { return newGroup(service, stripe.Count()) }

func newGroup(service string, lanes int) *Group {
	return &Group{Service: service, lanes: make([]groupLane, lanes)}
}

// mine is the index of the lane that this core writes.
func (g *Group) mine() int { return int(stripe.Mine()) & (len(g.lanes) - 1) }

// inFlight is the number of requests in flight to all of the service's endpoints.
func (g *Group) inFlight() (n int64) {
	for i := range g.lanes {
		n += g.lanes[i].inFlight.Load()
	}
	return n
}

const (
	stateDraining = 1 << iota
	stateUnhealthy
	stateEjected // until ejectedUntil; the bit may outlast it
)

// Endpoint is the living state of one address of a service: requests in flight, latency, errors, health. Its identity
// is service and address; weights and strategies come and go around it. Safe for concurrent use.
type Endpoint struct {
	Address string

	// Owner is what the creator keeps with the endpoint, such as its circuit breaker. It is set before the endpoint's
	// first use and not changed after.
	Owner any

	group *Group
	lanes []lane // one for each core

	// Read by every Pick, written when something happens.
	state        atomic.Uint32
	ejectedUntil atomic.Int64
	since        atomic.Int64 // when it joined or recovered; 0: it was always there

	streak int // ejections in a row; under group.ejecting

	health struct {
		sync.Mutex
		watchers      int // Checkers at work
		passes, fails int // in a row
	}

	// Written once a tick, and by what is out of order.
	_           [64]byte
	latency     peakEWMA
	consecutive atomic.Int32 // errors in a row
	_           [64]byte
}

// lane is what one core writes for each request to an endpoint, and what it last saw of the other cores.
type lane struct {
	inFlight atomic.Int64 // begun here less ended here: only the sum of all lanes means something
	others   atomic.Int64 // the sum of the other lanes
	seenAt   atomic.Int64 // when
	_        [128 - 24]byte
}

// freshFor is how long a core goes by what it saw of the others, in nanoseconds: a quarter of a millisecond. A core that
// chooses less often knows all that is in flight; one that chooses more often need not wait for the others' cache lines
// each time, and still knows its own part exactly.
const freshFor = 1 << 18

// inFlight is the number of requests in flight, as the core of lane mine sees it.
func (e *Endpoint) inFlight(now int64, mine int) int64 {
	own := &e.lanes[mine]
	if since := now - own.seenAt.Load(); since < 0 || since >= freshFor {
		own.others.Store(e.allInFlight() - own.inFlight.Load())
		own.seenAt.Store(now)
	}
	return max(0, own.inFlight.Load()+own.others.Load())
}

func (e *Endpoint) allInFlight() (n int64) {
	for i := range e.lanes {
		n += e.lanes[i].inFlight.Load()
	}
	return n
}

// NewEndpoint returns the state of an address that nothing is known about: healthy until a check or its answers say
// otherwise. joined is the time from which slow start counts; 0 means that it has its full weight at once, as suits the
// endpoints that a gateway starts with.
func (g *Group) NewEndpoint(address string, joined int64) *Endpoint {
	e := &Endpoint{Address: address, group: g, lanes: make([]lane, len(g.lanes))}
	for i := range e.lanes {
		e.lanes[i].seenAt.Store(-freshFor)
	}
	e.since.Store(joined)
	return e
}

// Service is the name of the endpoint's service.
func (e *Endpoint) Service() string { return e.group.Service }

// SetDraining takes the endpoint out of the choice, or back in with a slow start. Requests in flight are not touched.
func (e *Endpoint) SetDraining(draining bool, now int64) {
	if draining {
		e.state.Or(stateDraining)
	} else if e.state.Load()&stateDraining != 0 {
		e.since.Store(now)
		e.state.And(^uint32(stateDraining))
	}
}

// Join has slow start count from now, for an endpoint that comes back.
func (e *Endpoint) Join(now int64) { e.since.Store(now) }

// Status is what is known about an endpoint at a moment, for people and metrics.
type Status struct {
	InFlight   int64
	Latency    time.Duration // decayed peak; 0: never measured
	Errors     int           // in a row
	Draining   bool
	Unhealthy  bool          // by active checks
	EjectedFor time.Duration // the rest of an ejection; 0: not ejected
}

// Up tells whether the endpoint may get requests, its breaker aside.
func (st Status) Up() bool { return !st.Draining && !st.Unhealthy && st.EjectedFor == 0 }

// InOrder reports whether the endpoint is used at all: it neither drains nor is found unhealthy.
func (e *Endpoint) InOrder() bool { return e.state.Load()&(stateDraining|stateUnhealthy) == 0 }

// Status returns what is known now.
func (e *Endpoint) Status(now int64) Status {
	state := e.state.Load()
	return Status{
		InFlight:   e.allInFlight(),
		Latency:    time.Duration(e.latency.at(now)),
		Errors:     int(e.consecutive.Load()),
		Draining:   state&stateDraining != 0,
		Unhealthy:  state&stateUnhealthy != 0,
		EjectedFor: time.Duration(max(e.ejectedUntil.Load()-now, 0)),
	}
}

// Outcome is how an attempt ended, as far as the endpoint is to blame.
type Outcome uint8

const (
	Success     Outcome = iota // any answer below 500
	ServerError                // an answer of 500 and above
	Failure                    // no answer: refused, reset, timed out, malformed
	Cancelled                  // the client or the gateway gave up; says nothing about the endpoint but its slowness
)

// Begin counts a request in flight. Each Begin has exactly one Done, on the same Set.
func (s *Set) Begin(e *Endpoint) {
	mine := s.group.mine()
	e.lanes[mine].inFlight.Add(1)
	s.group.lanes[mine].inFlight.Add(1)
}

// Done ends what Begin began. latency is the time until the head of the answer, or until the attempt ended without
// one; not the body's, or a long download would look like a slow endpoint. 0 means not measured. An error never makes
// an endpoint look faster than it was.
func (s *Set) Done(e *Endpoint, now int64, latency time.Duration, o Outcome) {
	mine := s.group.mine()
	e.lanes[mine].inFlight.Add(-1)
	s.group.lanes[mine].inFlight.Add(-1)
	if e.state.Load()&stateEjected != 0 {
		s.settle(e, now)
	}
	if o == Success {
		e.latency.observe(now, float32(latency), true)
		if e.consecutive.Load() != 0 {
			e.consecutive.Store(0)
		}
		return
	}
	if o == Cancelled {
		e.latency.observe(now, float32(latency), false)
		return
	}
	if e.latency.word.Load() == 0 {
		// An endpoint that has only ever failed needs an estimate too: one that fades, so that it is tried again.
		latency = max(latency, firstFailure)
	}
	e.latency.observe(now, float32(latency), false)
	if n := int(e.consecutive.Add(1)); s.outlier.Consecutive > 0 && n%s.outlier.Consecutive == 0 {
		s.eject(e, now)
	}
}

const (
	latencyDecay = 10 * time.Second
	firstFailure = 10 * time.Millisecond
	tickShift    = 20 // a tick is 2^20 ns, about a millisecond
	decayTicks   = float64(latencyDecay) / (1 << tickShift)
)

// peakEWMA is a latency that jumps to a higher sample at once and otherwise approaches the samples, and without any
// fades, by a factor of e every latencyDecay. One word holds both halves, so that an update is one compare-and-swap:
// the tick of the last update above, a float32 of nanoseconds below. 0 means never measured. Ticks wrap after 52 days,
// which an idle endpoint sees as a decay that comes late.
type peakEWMA struct{ word atomic.Uint64 }

// at is the estimate in nanoseconds, 0 when there is none.
func (p *peakEWMA) at(now int64) float32 {
	w := p.word.Load()
	v := math.Float32frombits(uint32(w))
	if idle := int32(uint32(now>>tickShift) - uint32(w>>32)); idle > 0 && w != 0 {
		v *= decay(idle)
	}
	return v
}

// observe takes a sample in. A sample that may not lower only raises the estimate, and else keeps it from fading. Of
// the samples within one tick only peaks count: the others could not move the average, and not writing them saves the
// cores from fighting over the word.
func (p *peakEWMA) observe(now int64, sample float32, lower bool) {
	if sample <= 0 {
		return
	}
	tick := uint32(now >> tickShift)
	for {
		w := p.word.Load()
		v := math.Float32frombits(uint32(w))
		idle := int32(tick - uint32(w>>32))
		switch {
		case w == 0 || sample > v:
			v = sample
		case idle <= 0:
			return
		case lower:
			keep := decay(idle)
			v = v*keep + sample*(1-keep)
		}
		if p.word.CompareAndSwap(w, uint64(tick)<<32|uint64(math.Float32bits(v))) {
			return
		}
	}
}

// decay is e to the power of -ticks/decayTicks. Endpoints in use are idle for milliseconds; for these the first terms of
// the series are exact to 3e-5 and save most of the time.
func decay(ticks int32) float32 {
	x := float64(ticks) / decayTicks
	if x < 0.05 {
		return float32(1 - x + x*x/2)
	}
	return float32(math.Exp(-x))
}

// Tried remembers the endpoints that one request has met, the last eight of them. The zero value is empty.
type Tried struct {
	last [8]*Endpoint
	n    int
}

// Add remembers an endpoint.
func (t *Tried) Add(e *Endpoint) {
	t.last[t.n%len(t.last)] = e
	t.n++
}

// Len is the number of attempts so far.
func (t *Tried) Len() int {
	if t == nil {
		return 0
	}
	return t.n
}

// Has tells whether an endpoint was met. A nil Tried has met none.
func (t *Tried) Has(e *Endpoint) bool {
	if t == nil || t.n == 0 {
		return false
	}
	for _, x := range t.last {
		if x == e {
			return true
		}
	}
	return false
}

// Reset forgets all.
func (t *Tried) Reset() { *t = Tried{} }
