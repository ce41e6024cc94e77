package breaker

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

const second = int64(time.Second)

// script runs a Breaker and records its changes of state.
type script struct {
	*testing.T
	*Breaker
	changes []string
}

func newScript(t *testing.T, s Settings) *script {
	x := &script{T: t}
	x.Breaker = New(s, func(from, to State, why Cause) {
		x.changes = append(x.changes, fmt.Sprintf("%v %v %v", from, to, why))
	})
	return x
}

// call is Allow and, if o is one, Report at the same time.
func (x *script) call(now int64, o Outcome) {
	x.Helper()
	x.Report(now, x.admitted(now), o)
}

func (x *script) admitted(now int64) Permit {
	x.Helper()
	p, ok := x.Allow(now)
	if !ok {
		x.Fatalf("at %v: refused", time.Duration(now))
	}
	return p
}

func (x *script) refused(now int64, retryAfter time.Duration) {
	x.Helper()
	if _, ok := x.Allow(now); ok {
		x.Errorf("at %v: admitted", time.Duration(now))
	}
	if got := x.RetryAfter(now); got != retryAfter {
		x.Errorf("at %v: RetryAfter %v, want %v", time.Duration(now), got, retryAfter)
	}
}

func (x *script) state(now int64, want State) {
	x.Helper()
	if got := x.State(now); got != want {
		x.Errorf("at %v: %v, want %v", time.Duration(now), got, want)
	}
}

func (x *script) changed(want ...string) {
	x.Helper()
	if !slices.Equal(x.changes, want) {
		x.Errorf("changes %q, want %q", x.changes, want)
	}
}

func TestConsecutiveFailures(t *testing.T) {
	x := newScript(t, Settings{ConsecutiveFailures: 3, OpenFor: 30 * time.Second})
	x.call(0, Failure)
	x.call(0, Failure)
	x.call(0, Success)
	x.call(0, Failure)
	x.call(0, Failure)
	x.call(0, Ignored)
	x.state(0, Closed)
	x.call(0, Failure)
	x.state(0, Open)
	x.refused(0, 30*time.Second)
	x.refused(30*second-1, 1)
	x.state(30*second, HalfOpen)
	if d := x.RetryAfter(30 * second); d != 0 {
		t.Errorf("RetryAfter %v", d)
	}
	x.call(30*second, Failure)
	x.refused(31*second, 29*time.Second)
	x.call(60*second, Success)
	x.state(60*second, Closed)
	x.call(60*second, Failure)
	x.call(60*second, Failure)
	x.state(60*second, Closed)
	x.changed("closed open consecutive_failures", "open half-open open_for_elapsed", "half-open open probe_failed",
		"open half-open open_for_elapsed", "half-open closed probes_succeeded")
}

func TestErrorRatio(t *testing.T) {
	s := Settings{ErrorRatio: 0.5, MinRequests: 4, Window: 10 * time.Second, OpenFor: 2 * time.Second}
	f := func(state State, calls ...any) { // pairs of a time in seconds and an outcome
		t.Helper()
		x := newScript(t, s)
		now := int64(0)
		for i := 0; i < len(calls); i += 2 {
			now = int64(calls[i].(int)) * second
			x.call(now, calls[i+1].(Outcome))
		}
		x.state(now, state)
	}
	f(Closed, 0, Failure, 0, Failure, 0, Failure)
	f(Open, 0, Failure, 0, Failure, 0, Failure, 0, Failure)
	f(Open, 0, Success, 0, Failure, 0, Success, 0, Failure)
	f(Closed, 0, Success, 0, Failure, 0, Success, 0, Success, 0, Failure)
	f(Closed, 0, Failure, 0, Failure, 0, Failure, 0, Success) // a success opens nothing
	f(Open, 0, Failure, 3, Failure, 6, Failure, 9, Failure)
	f(Closed, 0, Failure, 3, Failure, 6, Failure, 10, Failure)
	f(Closed, 0, Failure, 0, Failure, 0, Failure, 100, Failure)

	// What led to opening does not open it again, though it is still in the window.
	x := newScript(t, s)
	for range 4 {
		x.call(0, Failure)
	}
	x.call(2*second, Success)
	x.state(2*second, Closed)
	x.call(2*second, Failure)
	x.call(2*second, Failure)
	x.call(2*second, Failure)
	x.state(2*second, Closed)
	x.call(2*second, Failure)
	x.state(2*second, Open)
}

func TestProbes(t *testing.T) {
	s := Settings{ConsecutiveFailures: 1, OpenFor: 10 * time.Second, HalfOpenRequests: 3}
	opened := func() *script {
		x := newScript(t, s)
		x.call(0, Failure)
		return x
	}
	const now = 10 * second

	x := opened()
	a, b, c := x.admitted(now), x.admitted(now), x.admitted(now+1)
	if !a.Probe() {
		t.Error("not a probe")
	}
	x.refused(now+2, 10*time.Second-2)
	x.Report(now+2, a, Success)
	x.refused(now+2, 10*time.Second-2) // three succeed, no fourth is needed
	x.Report(now+2, b, Ignored)
	d := x.admitted(now + 3)
	x.refused(now+3, 10*time.Second-2)
	x.Report(now+3, c, Success)
	x.state(now+3, HalfOpen)
	x.Report(now+3, d, Success)
	x.state(now+3, Closed)

	// One failure is enough, and the others come too late.
	x = opened()
	a, b = x.admitted(now), x.admitted(now)
	x.Report(now, a, Failure)
	x.Report(now, b, Success)
	x.refused(now, 10*time.Second)
	x.admitted(2 * now)
	x.Report(2*now, b, Failure)
	x.state(2*now, HalfOpen)

	// Lost probes leave their places, and what they say late still counts.
	x = opened()
	a, b, c = x.admitted(now), x.admitted(now), x.admitted(now)
	x.refused(2*now-1, 1)
	x.call(2*now, Success)
	x.Report(2*now, a, Success)
	x.state(2*now, HalfOpen)
	x.Report(2*now, b, Success)
	x.state(2*now, Closed)
	x.Report(2*now, c, Failure)
	x.state(2*now, Closed)
}

// Calls from before the breaker opened say nothing about the time after.
func TestOldReports(t *testing.T) {
	x := newScript(t, Settings{ConsecutiveFailures: 2, OpenFor: time.Second})
	old := make([]Permit, 10)
	for i := range old {
		old[i] = x.admitted(0)
	}
	x.Report(0, Permit{}, Failure)
	x.Report(0, old[0], Failure)
	x.Report(0, old[1], Failure)
	x.Report(second/2, old[2], Failure)
	x.Report(second/2, old[3], Success)
	x.refused(second/2, time.Second/2)
	p := x.admitted(second)
	x.Report(second, old[4], Success)
	x.state(second, HalfOpen)
	x.Report(second, old[5], Failure)
	x.state(second, HalfOpen)
	x.Report(second, p, Success)
	for _, p := range old[6:] {
		x.Report(second, p, Failure)
	}
	x.state(second, Closed)
}

func TestConfigure(t *testing.T) {
	s := Settings{ConsecutiveFailures: 5, OpenFor: 30 * time.Second, HalfOpenRequests: 2}
	opened := func() *script {
		x := newScript(t, s)
		for range 5 {
			x.call(0, Failure)
		}
		return x
	}
	with := func(change func(*Settings)) Settings {
		s := s
		change(&s)
		return s
	}

	x := newScript(t, s)
	for range 3 {
		x.call(0, Failure)
	}
	x.Configure(with(func(s *Settings) { s.ConsecutiveFailures = 4 }))
	x.state(0, Closed)
	x.call(0, Failure)
	x.state(0, Open)

	x = opened()
	x.Configure(with(func(s *Settings) { s.OpenFor = 10 * time.Second }))
	x.refused(9*second, time.Second)
	x.Configure(with(func(s *Settings) { s.OpenFor = 20 * time.Second }))
	x.refused(19*second, time.Second)
	x.admitted(20 * second)

	// More probes, and fewer than have succeeded.
	x = opened()
	a, b := x.admitted(30*second), x.admitted(30*second)
	x.refused(30*second, 30*time.Second)
	x.Configure(with(func(s *Settings) { s.HalfOpenRequests = 4 }))
	c := x.admitted(30 * second)
	x.Report(30*second, a, Success)
	x.Report(30*second, b, Success)
	x.state(30*second, HalfOpen)
	x.Configure(with(func(s *Settings) { s.HalfOpenRequests = 1 }))
	x.call(30*second, Success)
	x.state(30*second, Closed)
	x.Report(30*second, c, Failure)

	for _, halfOpen := range []bool{false, true} {
		x = opened()
		if halfOpen {
			x.admitted(30 * second)
		}
		x.Configure(Settings{})
		x.state(0, Closed)
		for range 100 {
			x.call(0, Failure)
		}
		x.state(0, Closed)
		if last := x.changes[len(x.changes)-1]; last[len(last)-len(SwitchedOff):] != string(SwitchedOff) {
			t.Errorf("changes %q", x.changes)
		}
	}

	// A failure that was judged by the old settings does not open what was switched off meanwhile.
	x = newScript(t, s)
	p := x.admitted(0)
	x.Configure(Settings{})
	x.trip(0, p.generation, ConsecutiveFailures)
	x.state(0, Closed)

	// The window's counts survive new thresholds, and not a new shape.
	ratio := Settings{ErrorRatio: 0.5, MinRequests: 10}
	f := func(change func(*Settings), want State) {
		t.Helper()
		x := newScript(t, ratio)
		for range 9 {
			x.call(0, Failure)
		}
		s := ratio
		change(&s)
		x.Configure(s)
		x.call(0, Failure)
		x.state(0, want)
	}
	f(func(s *Settings) {}, Open)
	f(func(s *Settings) { s.ErrorRatio = 0.9 }, Open)
	f(func(s *Settings) { s.MinRequests = 11 }, Closed)
	f(func(s *Settings) { s.Window = 20 * time.Second }, Closed)
}

func TestDefaults(t *testing.T) {
	x := newScript(t, Settings{ErrorRatio: 1})
	for range 19 {
		x.call(0, Failure)
	}
	x.state(0, Closed)
	x.call(9*second, Failure)
	x.refused(9*second, 30*time.Second)
	x.admitted(39 * second)
	x.refused(39*second, 30*time.Second)

	x = newScript(t, Settings{})
	for range 1000 {
		x.call(0, Failure)
	}
	x.state(0, Closed)
	for s, want := range map[State]string{Closed: "closed", HalfOpen: "half-open", Open: "open"} {
		if s.String() != want {
			t.Errorf("%d: %s", s, s)
		}
	}
}

// A step of the window that overflows keeps its ratio.
func TestCountsOverflow(t *testing.T) {
	c := newCounts(10 * time.Second)
	for i := range 9 * countMask {
		c.add(0, i%3 == 0)
	}
	if !c.reached(0, 0.33, 1000) || c.reached(0, 0.34, 1000) {
		t.Error("the ratio is not a third")
	}
	c.reset()
	if c.reached(0, 0, 1) {
		t.Error("counts after reset")
	}
}
