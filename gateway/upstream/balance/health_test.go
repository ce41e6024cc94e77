package balance

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("connection refused")

// backend answers probes, and notes what a Checker tells.
type backend struct {
	down    atomic.Bool
	probes  atomic.Int64
	changes []string
	start   time.Time
}

func (b *backend) check() Check {
	b.start = time.Now()
	return Check{
		Interval: 10 * time.Second, Timeout: time.Second, Healthy: 2, Unhealthy: 3,
		Probe: func(context.Context, *Endpoint) error {
			b.probes.Add(1)
			if b.down.Load() {
				return errDown
			}
			return nil
		},
		Changed: func(e *Endpoint, up bool, cause error) {
			change := "up"
			if !up {
				change = "down: " + cause.Error()
			}
			b.changes = append(b.changes, change)
		},
		Now: func() int64 { return int64(time.Since(b.start)) },
	}
}

func TestCheckerThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		x := newFixture(Options{SlowStart: time.Minute}, 1)
		e := x.eps[0]
		c := NewChecker(b.check())
		c.Watch(x.eps)
		synctest.Wait()
		if b.probes.Load() != 0 {
			t.Fatal("checked before Start")
		}
		c.Start()
		defer c.Close()
		// f waits for the n-th check and then makes the following ones fail or pass.
		f := func(n int64, up, down bool) {
			t.Helper()
			for synctest.Wait(); b.probes.Load() < n; synctest.Wait() {
				time.Sleep(time.Second)
			}
			st := e.Status(0)
			if st.Up() != up || (x.Pick(0, 0, nil) != nil) != up {
				t.Fatalf("after %d checks: %+v", n, st)
			}
			b.down.Store(down)
		}
		f(1, true, true)
		if d := time.Since(b.start); d != 0 {
			t.Fatalf("first check after %v", d)
		}
		f(3, true, false)
		f(4, true, true) // one pass forgets two failures
		f(6, true, true)
		f(7, false, false)
		f(8, false, true) // one failure forgets a pass
		f(9, false, false)
		f(10, false, false)
		f(11, true, false)
		if len(b.changes) != 2 || b.changes[0] != "down: connection refused" || b.changes[1] != "up" {
			t.Fatalf("changes %q", b.changes)
		}
		if since := e.since.Load(); since == 0 {
			t.Fatal("no slow start after recovery")
		}
	})
}

func TestCheckerJitters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		x := newFixture(Options{}, 1)
		check := b.check()
		var at []time.Duration
		check.Probe = func(context.Context, *Endpoint) error {
			at = append(at, time.Since(b.start))
			return nil
		}
		c := NewChecker(check)
		c.Watch(x.eps)
		c.Start()
		time.Sleep(200 * time.Second)
		c.Close()
		seen := map[time.Duration]bool{}
		for i := 1; i < len(at); i++ {
			d := at[i] - at[i-1]
			if d < 9*time.Second || d > 11*time.Second {
				t.Fatalf("%v between two checks", d)
			}
			seen[d] = true
		}
		if len(seen) < len(at)/2 {
			t.Fatalf("checks at %v", at)
		}
	})
}

func TestCheckerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		x := newFixture(Options{}, 1)
		check := b.check()
		check.Probe = func(ctx context.Context, _ *Endpoint) error {
			<-ctx.Done()
			return ctx.Err()
		}
		c := NewChecker(check)
		c.Watch(x.eps)
		c.Start()
		time.Sleep(24 * time.Second)
		synctest.Wait()
		if len(b.changes) != 1 || b.changes[0] != "down: context deadline exceeded" {
			t.Fatalf("changes %q", b.changes)
		}
		c.Close()
	})
}

func TestCheckerWatchesWhatItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		x := newFixture(Options{}, 1, 1)
		check := b.check()
		var first, second atomic.Int64
		check.Probe = func(_ context.Context, e *Endpoint) error {
			if e == x.eps[0] {
				first.Add(1)
			} else {
				second.Add(1)
			}
			return nil
		}
		c := NewChecker(check)
		c.Watch(x.eps[:1])
		c.Start()
		f := func(wantFirst, wantSecond int64) {
			t.Helper()
			synctest.Wait()
			if a, b := first.Load(), second.Load(); a != wantFirst || b != wantSecond {
				t.Fatalf("%d and %d checks, want %d and %d", a, b, wantFirst, wantSecond)
			}
		}
		f(1, 0)
		time.Sleep(time.Second)
		c.Watch(x.eps)
		f(1, 1) // the new one at once, the old one in its time
		time.Sleep(11 * time.Second)
		f(2, 2)
		c.Watch(x.eps[1:])
		time.Sleep(40 * time.Second)
		if n := first.Load(); n != 2 {
			t.Fatalf("%d checks of the endpoint that left", n)
		}
		c.Close()
		n := second.Load()
		c.Watch(x.eps)
		c.Start()
		time.Sleep(time.Minute)
		f(2, n)
		c.Close()
	})
}

func TestCheckerVerdictSurvivesWithASuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		b.down.Store(true)
		x := newFixture(Options{}, 1)
		next := func() *Checker {
			c := NewChecker(b.check())
			c.Watch(x.eps)
			c.Start()
			return c
		}
		first := next()
		time.Sleep(23 * time.Second)
		second := next()
		first.Close()
		if x.Pick(0, 0, nil) != nil {
			t.Fatal("the change of checkers brought a dead endpoint back")
		}
		second.Close()
		if x.Pick(0, 0, nil) == nil {
			t.Fatal("an endpoint that nobody checks any more stays down for ever")
		}
	})
}

func TestCheckerCloseInterruptsAndCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		x := newFixture(Options{}, ones(3)...)
		check := b.check()
		check.Unhealthy = 1
		check.Probe = func(ctx context.Context, _ *Endpoint) error {
			<-ctx.Done()
			return ctx.Err()
		}
		c := NewChecker(check)
		c.Watch(x.eps)
		c.Start()
		synctest.Wait()
		c.Close()
		c.Close()
		if len(b.changes) != 0 {
			t.Fatalf("changes %q", b.changes)
		}
	})
}

func TestCheckerBoundsProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backend
		x := newFixture(Options{}, ones(3*maxProbes)...)
		check := b.check()
		var running, peak atomic.Int64
		check.Probe = func(context.Context, *Endpoint) error {
			if n := running.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			time.Sleep(100 * time.Millisecond)
			running.Add(-1)
			b.probes.Add(1)
			return nil
		}
		c := NewChecker(check)
		c.Watch(x.eps)
		c.Start()
		time.Sleep(time.Second)
		c.Close()
		if b.probes.Load() != 3*maxProbes || peak.Load() > maxProbes {
			t.Fatalf("%d checks, %d at a time", b.probes.Load(), peak.Load())
		}
	})
}

func TestCheckerDefaults(t *testing.T) {
	c := NewChecker(Check{}).check
	if c.Interval != 5*time.Second || c.Timeout != time.Second || c.Healthy != 2 || c.Unhealthy != 3 {
		t.Fatalf("%+v", c)
	}
}
