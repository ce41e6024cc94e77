package balance

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type log struct{ lines []string }

func (l *log) event(e Event, ep *Endpoint, d time.Duration) {
	l.lines = append(l.lines, e.String()+" "+ep.Address+" "+d.String())
}

func (l *log) want(t *testing.T, lines ...string) {
	t.Helper()
	if len(l.lines) != len(lines) {
		t.Fatalf("events %q, want %q", l.lines, lines)
	}
	for i := range lines {
		if l.lines[i] != lines[i] {
			t.Fatalf("events %q, want %q", l.lines, lines)
		}
	}
	l.lines = nil
}

func TestOutlierEjection(t *testing.T) {
	var l log
	x := newFixture(Options{Outlier: Outlier{Consecutive: 5, Ejection: 30 * time.Second}, Event: l.event}, 1, 1, 1)
	x.fail(0, second, 4)
	x.Begin(x.eps[0])
	x.Done(x.eps[0], second, 0, Success)
	x.fail(0, second, 4)
	l.want(t)
	x.fail(0, second, 1)
	l.want(t, "ejected 10.0.0.0:80 30s")
	if st := x.eps[0].Status(11 * second); st.Up() || st.EjectedFor != 20*time.Second {
		t.Fatalf("%+v", st)
	}
	near(t, x.shares(30*second, 2000), []float64{0}, 0)
	x.fail(0, 2*second, 20) // requests that were in flight
	l.want(t)
	if got := x.shares(31*second, 2000)[0]; got < 0.05 {
		t.Fatalf("share of %.3f after the ejection", got)
	}
	l.want(t, "returned 10.0.0.0:80 0s")
}

func TestOutlierEjectionGrowsAndForgets(t *testing.T) {
	var l log
	x := newFixture(Options{Outlier: Outlier{Consecutive: 1, Ejection: 30 * time.Second}, Event: l.event}, 1, 1)
	now := int64(0)
	f := func(healthy time.Duration, want string) {
		t.Helper()
		now = max(now, x.eps[0].ejectedUntil.Load()) + int64(healthy)
		x.eps[0].state.And(^uint32(stateEjected)) // its return is another test's
		x.fail(0, now, 1)
		l.want(t, "ejected 10.0.0.0:80 "+want)
	}
	f(time.Second, "30s")
	f(time.Second, "1m0s")
	f(time.Second, "1m30s")
	f(35*time.Second, "1m30s") // one forgotten, one added
	f(time.Hour, "30s")
	for range 20 {
		x.fail(0, x.eps[0].ejectedUntil.Load(), 1)
	}
	if st := x.eps[0].Status(x.eps[0].ejectedUntil.Load() - int64(maxEjection)); st.EjectedFor != maxEjection {
		t.Fatalf("%+v", st)
	}
}

func TestOutlierCap(t *testing.T) {
	f := func(n int, share float64, want int) {
		t.Helper()
		x := newFixture(Options{Outlier: Outlier{Consecutive: 2, MaxEjected: share}}, ones(n)...)
		for i := range n {
			x.fail(i, second, 2)
		}
		got := 0
		for _, e := range x.eps {
			if !e.Status(second).Up() {
				got++
			}
		}
		if got != want {
			t.Errorf("%d of %d ejected at a cap of %v, want %d", got, n, share, want)
		}
	}
	f(1, 0.5, 0)
	f(1, 1, 0)
	f(2, 0.5, 1)
	f(2, 1, 1)
	f(3, 0.5, 1)
	f(4, 0.5, 2)
	f(5, 0.5, 2)
	f(10, 0.5, 5)
	f(10, 0.29, 2)
	f(100, 0.29, 29)
	f(3, 0.1, 1)
	f(4, 1, 3)
	f(4, 0, 2)
}

func TestOutlierCapHoldsUnderConcurrency(t *testing.T) {
	for range 20 {
		var ejected atomic.Int32
		o := Options{Outlier: Outlier{Consecutive: 3}, Event: func(e Event, _ *Endpoint, _ time.Duration) {
			if e == Ejected {
				ejected.Add(1)
			}
		}}
		x := newFixture(o, ones(10)...)
		next := NewSet(x.group, x.Members(), o) // a reload in the middle
		var wg sync.WaitGroup
		for i, e := range x.eps {
			for _, s := range []*Set{x.Set, next} {
				wg.Go(func() {
					for range 30 {
						s.Begin(e)
						s.Done(e, second+int64(i), 0, Failure)
					}
				})
			}
		}
		wg.Wait()
		if n := ejected.Load(); n != 5 {
			t.Fatalf("%d of 10 ejected", n)
		}
	}
}

func TestOutlierNeverEjectsTheLastHealthy(t *testing.T) {
	var l log
	x := newFixture(Options{Outlier: Outlier{Consecutive: 1}, Event: l.event}, 1, 1, 1, 1)
	x.setUnhealthy(0, 1)
	x.eps[2].SetDraining(true, 0)
	x.fail(3, second, 1)
	l.want(t, "spared 10.0.0.3:80 0s")
	if e := x.Pick(second, 0, nil); e != x.eps[3] {
		t.Fatalf("picked %v", e)
	}
}

// The others fell ill after it was ejected: it is the last that can answer at all.
func TestOutlierEjectionIsOverruledWhenNothingElseIsLeft(t *testing.T) {
	for _, s := range strategies {
		x := newFixture(Options{Strategy: s, Outlier: Outlier{Consecutive: 1}}, 1, 1)
		x.fail(0, second, 1)
		if e := x.Pick(second, 1, nil); e != x.eps[1] {
			t.Fatalf("%v picked %v", s, e)
		}
		x.setUnhealthy(1)
		if e := x.Pick(second, 1, nil); e != x.eps[0] {
			t.Fatalf("%v picked %v", s, e)
		}
	}
}

func TestOutlierOff(t *testing.T) {
	x := newFixture(Options{}, 1, 1)
	x.fail(0, second, 100)
	if st := x.eps[0].Status(second); !st.Up() || st.Errors != 100 {
		t.Fatalf("%+v", st)
	}
}

func TestOutlierSurvivesReload(t *testing.T) {
	o := Options{Outlier: Outlier{Consecutive: 2}}
	x := newFixture(o, 1, 1, 1)
	x.fail(0, second, 1)
	x.Set = NewSet(x.group, x.Members(), o)
	x.fail(0, second, 1)
	x.Set = NewSet(x.group, x.Members(), o)
	near(t, x.shares(2*second, 1000), []float64{0}, 0)
}
