// Package breaker is a circuit breaker that costs two loads while all goes well.
//
// It guarantees that an open breaker admits nothing until its time is over, that a half-open one never has more than
// its number of probes in flight, that what was started before a change of state does not influence the state after
// it, and that no lost probe keeps a breaker from closing. Thresholds can be exchanged at any time; the state stays.
package breaker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// State of a Breaker.
type State uint8

// The states, in the order in which metrics number them.
const (
	Closed   State = 0 // all is admitted
	HalfOpen State = 1 // a few probes are admitted
	Open     State = 2 // nothing is admitted
)

func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	}
	return "open"
}

// Outcome of an admitted call.
type Outcome uint8

// The outcomes. Ignored is for calls that say nothing about the backend: given up by the client, or refused for a
// mistake of the client's.
const (
	Success Outcome = iota
	Failure
	Ignored
)

// Cause of a change of state.
type Cause string

// The causes.
const (
	ConsecutiveFailures Cause = "consecutive_failures" // closed to open
	ErrorRatio          Cause = "error_ratio"          // closed to open
	FailureWhileWary    Cause = "failure_while_wary"   // closed to open
	OpenForElapsed      Cause = "open_for_elapsed"     // open to half-open
	ProbeFailed         Cause = "probe_failed"         // half-open to open
	ProbesSucceeded     Cause = "probes_succeeded"     // half-open to closed
	SwitchedOff         Cause = "switched_off"         // open or half-open to closed
)

// IsOwn reports whether a breaker that opened for this cause has found out by itself, and not with the help of a Hint.
func (c Cause) IsOwn() bool {
	return c == ConsecutiveFailures || c == ErrorRatio || c == ProbeFailed
}

// Settings of a Breaker. With neither ConsecutiveFailures nor ErrorRatio it is off: it admits all and stays closed.
type Settings struct {
	// ConsecutiveFailures opens the breaker; 0: off.
	ConsecutiveFailures int
	// ErrorRatio of failures among the calls in Window, from 0 (off) to 1, opens the breaker if it is reached and
	// there were MinRequests calls. It is judged when a failure is reported.
	ErrorRatio float64
	// MinRequests is the number of calls in Window below which ErrorRatio says nothing; below 1: 20.
	MinRequests int
	// Window is the time that ErrorRatio looks back, in steps of a tenth; 0 or less: 10 s. A change forgets what
	// was counted.
	Window time.Duration
	// OpenFor is how long nothing is admitted, and how long a probe may keep its place; 0 or less: 30 s.
	OpenFor time.Duration
	// HalfOpenRequests is how many probes are admitted at a time, and how many have to succeed; below 1: 1.
	HalfOpenRequests int
}

func (s Settings) off() bool { return s.ConsecutiveFailures <= 0 && s.ErrorRatio <= 0 }

func (s Settings) withDefaults() Settings {
	if s.MinRequests < 1 {
		s.MinRequests = 20
	}
	if s.Window <= 0 {
		s.Window = 10 * time.Second
	}
	if s.OpenFor <= 0 {
		s.OpenFor = 30 * time.Second
	}
	if s.HalfOpenRequests < 1 {
		s.HalfOpenRequests = 1
	}
	return s
}

// Permit is what Allow gives for a call that it admits, to be passed to Report exactly once. Reporting the zero
// Permit does nothing.
type Permit struct {
	generation uint32
	probe      uint32 // number of the probe; 0: none
}

// Probe says whether the call is a probe of a half-open breaker.
func (p Permit) Probe() bool { return p.probe != 0 }

// Breaker decides whether calls may be made. All methods may be called concurrently.
//
// now is a monotonic clock in nanoseconds, given by the caller and the same for all calls.
type Breaker struct {
	// word is the state, the generation, whether it is wary and the consecutive failures: all that a closed breaker
	// reads and, unless calls fail, writes nothing. Every change of state starts a new generation.
	word   atomic.Uint64
	active atomic.Pointer[active]
	gate   atomic.Int64 // not closed: no call before it can be admitted, so mu need not be asked
	warned atomic.Int64 // wary: until when

	onChange func(from, to State, why Cause)

	_  [64]byte
	mu sync.Mutex // every change of state, and what follows
	// openedAt is when nothing began to be admitted.
	openedAt  int64
	deaf      int64 // hints before it are not heard
	lastProbe uint32
	succeeded int     // probes of this half-open generation
	probes    []probe // those in flight; its capacity is kept
}

// active is the exchangeable part: settings, and counts that have their shape.
type active struct {
	Settings
	counts *counts
}

type probe struct {
	number  uint32
	expires int64
}

// New makes a closed Breaker. onChange, which may be nil, is called for every change of state, in their order and with
// the Breaker locked: it may call State and RetryAfter, and it must not wait.
func New(s Settings, onChange func(from, to State, why Cause)) *Breaker {
	b := &Breaker{onChange: onChange}
	s = s.withDefaults()
	b.active.Store(&active{s, newCounts(s.Window)})
	b.word.Store(pack(Closed, 1))
	return b
}

// Configure exchanges the settings and keeps the state: what is open stays open, as long as the new OpenFor says, and
// failures stay counted. Switching the breaker off closes it. Equal settings change nothing.
func (b *Breaker) Configure(s Settings) {
	s = s.withDefaults()
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.active.Load()
	if old.Settings == s {
		return
	}
	c := old.counts
	if old.Window != s.Window {
		c = newCounts(s.Window)
	}
	b.active.Store(&active{s, c})
	switch w := b.word.Load(); {
	case stateOf(w) == Closed:
	case s.off():
		b.change(Closed, SwitchedOff)
	case stateOf(w) == Open:
		b.gate.Store(later(b.openedAt, s.OpenFor))
	default:
		b.gate.Store(math.MinInt64) // the number of probes may have grown
	}
}

// What bounds a Hint. Whoever gives hints without end makes one failure in OpenFor open a breaker, not each.
const (
	longestWary  = 5 * time.Minute
	shortestDeaf = time.Second
)

// Hint tells a closed breaker that others have found failing what it guards. It is wary then: the first failure that is
// reported opens it, unless a success is reported before, or OpenFor (5 min at most) has passed. Hints alone open nothing.
// Hint reports whether it made a difference; for OpenFor (from 1 s to 5 min) after one that did, further ones do not.
func (b *Breaker) Hint(now int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.active.Load()
	if s.off() || stateOf(b.word.Load()) != Closed || now < b.deaf {
		return false
	}
	wary := min(s.OpenFor, longestWary)
	b.deaf = later(now, max(wary, shortestDeaf))
	b.warned.Store(later(now, wary))
	b.word.Or(waryBit)
	return true
}

// Allow says whether a call may be made. If so, its outcome has to be reported with the Permit.
func (b *Breaker) Allow(now int64) (Permit, bool) {
	w := b.word.Load()
	if stateOf(w) == Closed {
		return Permit{generation: generationOf(w)}, true
	}
	if now < b.gate.Load() {
		return Permit{}, false
	}
	return b.allowProbe(now)
}

func (b *Breaker) allowProbe(now int64) (Permit, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.active.Load()
	if stateOf(b.word.Load()) == Open {
		if now < later(b.openedAt, s.OpenFor) {
			return Permit{}, false
		}
		b.change(HalfOpen, OpenForElapsed)
	}
	w := b.word.Load()
	if stateOf(w) == HalfOpen && b.succeeded >= s.HalfOpenRequests { // fewer are asked for than when they reported
		b.change(Closed, ProbesSucceeded)
		w = b.word.Load()
	}
	if stateOf(w) == Closed {
		return Permit{generation: generationOf(w)}, true
	}

	// A probe whose time is over loses its place, though its late report still counts.
	kept, first := b.probes[:0], int64(math.MaxInt64)
	for _, p := range b.probes {
		if now < p.expires {
			kept = append(kept, p)
			first = min(first, p.expires)
		}
	}
	b.probes = kept
	if len(b.probes)+b.succeeded >= s.HalfOpenRequests {
		b.gate.Store(first)
		return Permit{}, false
	}
	if b.lastProbe++; b.lastProbe == 0 {
		b.lastProbe = 1
	}
	p := probe{b.lastProbe, later(now, s.OpenFor)}
	b.probes = append(b.probes, p)
	if len(b.probes)+b.succeeded >= s.HalfOpenRequests {
		b.gate.Store(min(first, p.expires))
	}
	return Permit{generationOf(w), p.number}, true
}

// Report tells the outcome of an admitted call. One that was admitted before the last change of state has no effect.
func (b *Breaker) Report(now int64, p Permit, o Outcome) {
	w := b.word.Load()
	if generationOf(w) != p.generation {
		return
	}
	if p.probe != 0 {
		b.reportProbe(now, p, o)
		return
	}
	if o == Ignored {
		return
	}
	a := b.active.Load()
	if a.ErrorRatio > 0 {
		a.counts.add(now, o == Failure)
	}
	if o == Success {
		for w&recentMask != 0 && !b.word.CompareAndSwap(w, w&^recentMask) {
			if w = b.word.Load(); generationOf(w) != p.generation {
				return
			}
		}
		return
	}
	for failuresOf(w) < failuresMask && !b.word.CompareAndSwap(w, w+1) {
		if w = b.word.Load(); generationOf(w) != p.generation {
			return
		}
	}
	switch {
	case a.ConsecutiveFailures > 0 && failuresOf(w)+1 >= uint64(a.ConsecutiveFailures):
		b.trip(now, p.generation, ConsecutiveFailures)
	case w&waryBit != 0 && now < b.warned.Load():
		b.trip(now, p.generation, FailureWhileWary)
	case a.ErrorRatio > 0 && a.counts.reached(now, a.ErrorRatio, a.MinRequests):
		b.trip(now, p.generation, ErrorRatio)
	}
}

func (b *Breaker) trip(now int64, generation uint32, why Cause) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if generationOf(b.word.Load()) == generation && !b.active.Load().off() {
		b.open(now, why)
	}
}

func (b *Breaker) reportProbe(now int64, p Permit, o Outcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if generationOf(b.word.Load()) != p.generation {
		return
	}
	for i := range b.probes {
		if b.probes[i].number == p.probe {
			last := len(b.probes) - 1
			b.probes[i] = b.probes[last]
			b.probes = b.probes[:last]
			break
		}
	}
	switch o {
	case Failure:
		b.open(now, ProbeFailed)
	case Success:
		if b.succeeded++; b.succeeded >= b.active.Load().HalfOpenRequests {
			b.change(Closed, ProbesSucceeded)
		}
	default:
		b.gate.Store(math.MinInt64) // its place is free
	}
}

// open is called with mu held.
func (b *Breaker) open(now int64, why Cause) {
	b.openedAt = now
	b.gate.Store(later(now, b.active.Load().OpenFor))
	b.change(Open, why)
}

// change starts the next generation. It is called with mu held, and what the new state needs is there before it.
func (b *Breaker) change(to State, why Cause) {
	w := b.word.Load()
	b.probes, b.succeeded = b.probes[:0], 0
	switch to {
	case Closed:
		b.active.Load().counts.reset() // what led to opening shall not do so again
	case HalfOpen:
		b.gate.Store(math.MinInt64)
	}
	next := generationOf(w) + 1
	if next&generationMask == 0 {
		next = 1 // 0 is the zero Permit's
	}
	b.word.Store(pack(to, next))
	if b.onChange != nil {
		b.onChange(stateOf(w), to, why)
	}
}

// State at the time now. A breaker that would admit a probe is HalfOpen, also if nobody asked yet.
func (b *Breaker) State(now int64) State {
	s := stateOf(b.word.Load())
	if s == Open && now >= b.gate.Load() {
		return HalfOpen
	}
	return s
}

// RetryAfter is how long it makes no sense to ask again: the rest of OpenFor, or until a place for a probe becomes
// free at the latest. 0 where a call might be admitted.
func (b *Breaker) RetryAfter(now int64) time.Duration {
	if stateOf(b.word.Load()) == Closed {
		return 0
	}
	gate := b.gate.Load()
	if gate <= now {
		return 0
	}
	return time.Duration(gate - now)
}

// The word: 2 bits of state, 30 of generation, 1 of being wary, 31 of consecutive failures. The last two are what a
// success clears, so that being wary costs it nothing.
const (
	generationMask = 1<<30 - 1
	waryBit        = 1 << 31
	failuresMask   = waryBit - 1
	recentMask     = waryBit | failuresMask
)

func pack(s State, generation uint32) uint64 {
	return uint64(s)<<62 | uint64(generation&generationMask)<<32
}
func stateOf(w uint64) State       { return State(w >> 62) }
func generationOf(w uint64) uint32 { return uint32(w>>32) & generationMask }
func failuresOf(w uint64) uint64   { return w & failuresMask }

func later(now int64, d time.Duration) int64 {
	if t := now + int64(d); t >= now {
		return t
	}
	return math.MaxInt64
}
