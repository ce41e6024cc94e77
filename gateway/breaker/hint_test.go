package breaker

import (
	"math"
	"sync"
	"testing"
	"time"
)

func (x *script) hinted(now int64, want bool) {
	x.Helper()
	if got := x.Hint(now); got != want {
		x.Errorf("at %v: a hint makes a difference: %v, want %v", time.Duration(now), got, want)
	}
}

func TestHint(t *testing.T) {
	f := func(s Settings, want State, wantCause string, do func(x *script)) {
		t.Helper()
		x := newScript(t, s)
		do(x)
		x.state(40*second, want)
		if wantCause == "" {
			x.changed()
		} else {
			x.changed("closed open " + wantCause)
		}
	}
	five := Settings{ConsecutiveFailures: 5, OpenFor: 30 * time.Second}
	ratio := Settings{ErrorRatio: 0.5, OpenFor: 30 * time.Second}
	const wary = "failure_while_wary"
	for _, s := range []Settings{five, ratio} {
		f(s, Open, wary, func(x *script) { x.hinted(11*second, true); x.call(12*second, Failure) })
		f(s, Open, wary, func(x *script) { x.hinted(0, true); x.call(30*second-1, Failure) })
		f(s, Closed, "", func(x *script) { x.hinted(0, true); x.call(30*second, Failure) })
		f(s, Closed, "", func(x *script) { x.hinted(0, true); x.call(1*second, Success); x.call(2*second, Failure) })
		f(s, Open, wary, func(x *script) { x.hinted(20*second, true); x.call(21*second, Ignored); x.call(22*second, Failure) })
		// Hints alone open nothing.
		f(s, Closed, "", func(x *script) {
			for now := range int64(30) {
				x.hinted(now*second, now == 0)
			}
		})
	}
	f(five, Open, wary, func(x *script) { x.call(11*second, Failure); x.hinted(12*second, true); x.call(13*second, Failure) })
	// The wary time over, failures in a row are still counted.
	f(five, Open, "consecutive_failures", func(x *script) {
		x.hinted(0, true)
		for range 5 {
			x.call(30*second, Failure)
		}
	})
	// A call that was admitted before the hint may be the first failure: it is one that was seen here.
	f(five, Open, wary, func(x *script) {
		p := x.admitted(10 * second)
		x.hinted(11*second, true)
		x.Report(12*second, p, Failure)
	})
	// Hints without end do not make each failure open: one in OpenFor is heard, whatever has become of it.
	f(five, Closed, "", func(x *script) {
		x.hinted(11*second, true)
		x.call(11*second, Success)
		x.hinted(11*second, false)
		x.call(11*second, Failure)
		x.hinted(40*second, false)
		x.call(40*second, Failure)
	})
	f(Settings{OpenFor: time.Second}, Closed, "", func(x *script) { x.hinted(0, false); x.call(0, Failure) })
}

// What is not closed, or off, is not told anything, and what opens and closes again is not wary any more.
func TestHintInOtherStates(t *testing.T) {
	x := newScript(t, Settings{ConsecutiveFailures: 2, OpenFor: 10 * time.Second})
	x.hinted(0, true)
	x.call(1*second, Failure)
	x.hinted(2*second, false)
	p := x.admitted(11 * second)
	x.hinted(11*second, false)
	x.Report(11*second, p, Success)
	x.call(11*second, Failure)
	x.state(11*second, Closed)
	x.call(11*second, Success)
	x.hinted(12*second, true)
	x.Configure(Settings{OpenFor: 10 * time.Second})
	x.call(13*second, Failure)
	x.state(13*second, Closed)
}

// However long or short OpenFor is, being wary has an end, and hints are heard with time between them.
func TestHintIsBounded(t *testing.T) {
	x := newScript(t, Settings{ConsecutiveFailures: 5, OpenFor: math.MaxInt64})
	x.hinted(0, true)
	x.call(int64(longestWary), Failure)
	x.state(int64(longestWary), Closed)
	x.hinted(int64(longestWary), true)
	x = newScript(t, Settings{ConsecutiveFailures: 5, OpenFor: time.Millisecond})
	x.hinted(0, true)
	x.hinted(second-1, false)
	x.hinted(second, true)
}

func TestCausesOfItsOwn(t *testing.T) {
	for cause, want := range map[Cause]bool{ConsecutiveFailures: true, ErrorRatio: true, ProbeFailed: true, FailureWhileWary: false, OpenForElapsed: false} {
		if cause.IsOwn() != want {
			t.Errorf("%s: %v", cause, !want)
		}
	}
}

// Hints from many sides while all calls succeed change no state.
func TestHintsInParallel(t *testing.T) {
	b := New(Settings{ConsecutiveFailures: 2, OpenFor: time.Nanosecond}, func(from, to State, _ Cause) { t.Errorf("from %v to %v", from, to) })
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for now := range int64(5000) {
				if g == 0 {
					b.Hint(now * second)
					continue
				}
				p, ok := b.Allow(now * second)
				if !ok {
					t.Error("refused")
				}
				b.Report(now*second, p, Success)
			}
		})
	}
	all.Wait()
}
