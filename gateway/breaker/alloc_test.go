package breaker

import (
	"testing"
	"time"
)

var raceEnabled bool // the race detector allocates by itself

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("allocations are counted without the race detector")
	}
	b := New(Settings{ConsecutiveFailures: 5, ErrorRatio: 0.9, OpenFor: time.Millisecond, HalfOpenRequests: 2}, func(State, State, Cause) {})
	now := int64(0)
	f := func(name string, call func()) {
		t.Helper()
		call()
		if n := testing.AllocsPerRun(1000, func() { now += 1000; call() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	f("success", func() { p, _ := b.Allow(now); b.Report(now, p, Success) })
	f("hint and success", func() { b.Hint(now); p, _ := b.Allow(now); b.Report(now, p, Success) })
	f("alternating", func() {
		p, _ := b.Allow(now)
		b.Report(now, p, Outcome(now/1000%2))
	})
	f("round", func() {
		for range 20 {
			if p, ok := b.Allow(now); ok {
				b.Report(now, p, Failure)
			}
		}
		now += int64(time.Millisecond)
		for range 3 {
			if p, ok := b.Allow(now); ok {
				b.Report(now, p, Success)
			}
		}
		b.State(now)
		b.RetryAfter(now)
	})
}
