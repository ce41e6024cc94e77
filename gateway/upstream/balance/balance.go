// Package balance decides which endpoint of a service gets a request, and keeps what is known about each endpoint.
//
// Living state (Group, Endpoint) outlives configurations; settings (Set) are immutable and belong to one. Pick, Begin
// and Done take no lock and allocate nothing; only an ejection, which is rare, takes a lock of its service. Nothing
// here does I/O except the probe that a Checker is given. Time is an argument: monotonic nanoseconds, the same clock
// for every call.
//
// An endpoint is passed over while it is draining, unhealthy by active checks, ejected as an outlier, or refused by
// Options.Allow (its circuit breaker). There is no panic mode: when active checks say that every endpoint is down, Pick
// returns nil and the client is told so at once. An ejection is only an opinion, so it is overruled where obeying it
// would leave no endpoint at all.
package balance

import (
	"math/rand/v2"
	"time"
)

// Strategy is the way in which a Set chooses.
type Strategy uint8

const (
	// PeakEWMA draws two endpoints by weight and prefers the one with the lower product of recent peak latency and
	// requests in flight. The dearer one keeps a chance of (ratio of costs)³: equal endpoints get exactly their
	// weights, an endpoint ten times slower a thousandth of its share, and no estimate goes stale.
	PeakEWMA Strategy = iota
	// RoundRobin takes turns by weight, interleaved as evenly as the weights allow.
	RoundRobin
	// Random draws by weight.
	Random
	// LeastRequest draws two endpoints by weight and takes the one with fewer requests in flight per weight.
	LeastRequest
	// ConsistentHash maps a key to an endpoint by weighted rendezvous, unless that endpoint already has more than
	// 1.25 times its share of the requests in flight; then the key's next best takes it. Only the keys of an
	// endpoint that leaves move, and the same key meets the same endpoint in every process.
	ConsistentHash
)

var strategyNames = [...]string{"peak_ewma", "round_robin", "random", "least_request", "consistent_hash"}

// ParseStrategy knows the names that configuration uses.
func ParseStrategy(name string) (Strategy, bool) {
	for i, s := range strategyNames {
		if s == name {
			return Strategy(i), true
		}
	}
	return 0, false
}

func (s Strategy) String() string { return strategyNames[s] }

// Member is an endpoint as one configuration sees it.
type Member struct {
	*Endpoint
	Weight int    // share of the requests relative to the others; 0 or less gets none
	Zone   string // a label; it does not influence the choice
}

// Options are the settings of a Set. The zero value is PeakEWMA without slow start, outlier detection and breaker.
type Options struct {
	Strategy Strategy

	// SlowStart is the time over which an endpoint's weight grows from a tenth to all of it after it joined or
	// recovered; 0 switches it off.
	SlowStart time.Duration

	Outlier Outlier

	// Allow is asked last, once an endpoint is chosen; after a refusal another one is chosen. It may reserve a
	// half-open breaker's probe: an endpoint that Pick returns was allowed, and the caller must use it. Nil allows all.
	Allow func(*Endpoint) bool

	// Event hears of ejections, on the goroutine that called Done and outside of any lock; it must not wait. May be nil.
	Event func(e Event, ep *Endpoint, d time.Duration)
}

// Set is an immutable choice of endpoints, safe for concurrent use.
type Set struct {
	group    *Group
	all      []Member // as configured, duplicates merged
	members  []member // those with a weight
	weight   float64  // sum over members
	strategy Strategy
	slow     int64
	outlier  Outlier
	allow    func(*Endpoint) bool
	event    func(Event, *Endpoint, time.Duration)
	random   func() uint64

	alias []aliasSlot // Random, LeastRequest, PeakEWMA, and ConsistentHash for requests without a key
	turns []uint32    // RoundRobin: one smooth cycle of member indexes
	slots []uint32    // ConsistentHash: hash slot -> member index
}

type member struct {
	*Endpoint
	index    int // in all
	weight   float64
	relative float64 // weight over the mean weight
	seed     uint64  // hash of the address
}

// NewSet builds the choice among members, which all belong to the group. An endpoint named twice counts once, with the
// sum of its weights. A set without members, or whose weights are all 0, is valid: its Pick returns nil.
func NewSet(g *Group, members []Member, o Options) *Set {
	s := &Set{
		group:    g,
		strategy: o.Strategy,
		slow:     int64(o.SlowStart),
		outlier:  o.Outlier.withDefaults(),
		allow:    o.Allow,
		event:    o.Event,
		random:   rand.Uint64,
	}
	at := make(map[*Endpoint]int, len(members))
	for _, m := range members {
		if m.group != g {
			panic("BUG: an endpoint of another group in a set of " + g.Service)
		}
		m.Weight = max(m.Weight, 0)
		if i, ok := at[m.Endpoint]; ok {
			s.all[i].Weight += m.Weight
			continue
		}
		at[m.Endpoint] = len(s.all)
		s.all = append(s.all, m)
	}
	var weights []int
	for i, m := range s.all {
		if m.Weight > 0 {
			weights = append(weights, m.Weight)
			s.weight += float64(m.Weight)
			s.members = append(s.members, member{
				Endpoint: m.Endpoint,
				index:    i,
				weight:   float64(m.Weight),
				seed:     HashString(m.Address),
			})
		}
	}
	for i := range s.members {
		s.members[i].relative = s.members[i].weight * float64(len(s.members)) / s.weight
	}
	switch {
	case len(s.members) == 0:
	case s.strategy == RoundRobin:
		s.turns = smoothCycle(weights)
	case s.strategy == ConsistentHash:
		s.slots = s.hashSlots()
		s.alias = aliasTable(weights)
	default:
		s.alias = aliasTable(weights)
	}
	return s
}

// Members returns the endpoints as configured, also those without weight. The caller must not change the slice.
func (s *Set) Members() []Member { return s.all }

// Strategy returns the way in which the set chooses.
func (s *Set) Strategy() Strategy { return s.strategy }

// Pick chooses the endpoint for a request, or returns nil when none may be used. key is the hash of what the request is
// to be pinned by (see HashBytes) and matters to ConsistentHash alone; 0 says that the request has no such key. tried
// holds the endpoints that this request has met before: they come last, so that a retry goes elsewhere if there is an
// elsewhere. It may be nil.
func (s *Set) Pick(now int64, key uint64, tried *Tried) *Endpoint {
	if i := s.pick(now, key, tried); i >= 0 {
		return s.members[i].Endpoint
	}
	return nil
}

// PickIndex is Pick for callers that keep something beside each of Members: it returns the index there, or -1.
func (s *Set) PickIndex(now int64, key uint64, tried *Tried) int {
	if len(s.members) == 1 && s.allow == nil && tried.Len() == 0 {
		if m := &s.members[0]; m.state.Load() == 0 { // nothing is known against it, and there is no other one
			return m.index
		}
	}
	if i := s.pick(now, key, tried); i >= 0 {
		return s.members[i].index
	}
	return -1
}

func (s *Set) pick(now int64, key uint64, tried *Tried) int {
	if len(s.members) == 0 {
		return -1
	}
	hashed := s.strategy == ConsistentHash && key != 0
	var i int
	if hashed {
		i = s.pickHash(now, key, tried)
	} else {
		i = s.pickQuick(now, tried)
	}
	switch {
	case i >= 0 && s.allowed(i):
		return i
	case hashed:
		return s.searchHash(now, key, tried)
	case i >= 0 && (s.strategy == PeakEWMA || s.strategy == LeastRequest):
		return s.pickOther(i, now, tried)
	}
	return s.search(now, tried)
}

// pickQuick returns a fresh member as the strategy has it, or -1 when it met none; its breaker was not asked.
func (s *Set) pickQuick(now int64, tried *Tried) (i int) {
	switch {
	case len(s.members) == 1:
		if s.class(0, now, tried) != fresh {
			return -1
		}
	case s.strategy == PeakEWMA:
		i = s.pickPeakEWMA(now, tried)
	case s.strategy == LeastRequest:
		i = s.pickLeastRequest(now, tried)
	case s.strategy == RoundRobin:
		i = s.pickRoundRobin(now, tried)
	default:
		i, _ = s.draw(now, tried, -1)
	}
	return i
}

// pickOther chooses by load again after a refusal: an open breaker makes its endpoint idle and so the first choice, and
// search, which looks at weights only, would then decide for most requests.
func (s *Set) pickOther(i int, now int64, tried *Tried) int {
	var refused Tried
	if tried != nil {
		refused = *tried
	}
	for range 3 {
		refused.Add(s.members[i].Endpoint)
		if i = s.pickQuick(now, &refused); i < 0 {
			break
		}
		if s.allowed(i) {
			return i
		}
	}
	return s.search(now, tried)
}

func (s *Set) allowed(i int) bool { return s.allow == nil || s.allow(s.members[i].Endpoint) }

// class ranks a member for one request. A lower class is exhausted before a higher one is looked at.
type class uint8

const (
	fresh   class = iota // usable
	met                  // usable, but this request was there before
	ejected              // as an outlier, no worse
	classes              // out: draining or unhealthy
)

func (s *Set) class(i int, now int64, tried *Tried) class {
	e := s.members[i].Endpoint
	switch state := e.state.Load(); {
	case state&(stateDraining|stateUnhealthy) != 0:
		return classes
	case state&stateEjected != 0 && e.ejectedUntil.Load() > now:
		return ejected
	case tried.Has(e):
		return met
	}
	return fresh
}

// search is the thorough way, for when the quick one met an endpoint out of order: all classes in turn, by weight
// within a class. It asks each endpoint's breaker at most once.
func (s *Set) search(now int64, tried *Tried) int {
	n := len(s.members)
	for c := fresh; c < classes; c++ {
		total := 0.0
		for i := range s.members {
			if s.class(i, now, tried) == c {
				total += s.members[i].weight * s.ramp(i, now)
			}
		}
		if total == 0 {
			continue
		}
		point, start := s.uniform()*total, 0
		for i := range s.members {
			if s.class(i, now, tried) == c {
				start = i
				if point -= s.members[i].weight * s.ramp(i, now); point < 0 {
					break
				}
			}
		}
		for k := range n {
			i := (start + k) % n
			if s.class(i, now, tried) == c && s.allowed(i) {
				return i
			}
		}
	}
	return -1
}

// minRamp is the share of its weight that slow start gives to an endpoint at once: with none it would never be seen to
// work.
const minRamp = 0.1

// ramp is the part of its weight that slow start grants a member now, in [minRamp, 1].
func (s *Set) ramp(i int, now int64) float64 {
	if s.slow <= 0 {
		return 1
	}
	e := s.members[i].Endpoint
	since := e.since.Load()
	if until := e.ejectedUntil.Load(); until <= now {
		since = max(since, until)
	}
	if since == 0 || now-since >= s.slow {
		return 1
	}
	return max(float64(now-since)/float64(s.slow), minRamp)
}

// uniform returns a random number in [0, 1).
func (s *Set) uniform() float64 { return float64(s.random()>>11) / (1 << 53) }
