package balance

import (
	"sync"
	"testing"
	"time"
)

func TestPeakEWMA(t *testing.T) {
	var p peakEWMA
	f := func(at time.Duration, sample time.Duration, lower bool, want time.Duration) {
		t.Helper()
		p.observe(int64(at), float32(sample), lower)
		got := time.Duration(p.at(int64(at)))
		if d := got - want; d > want/50 || d < -want/50 {
			t.Errorf("after %v at %v: %v, want %v", sample, at, got, want)
		}
	}
	f(0, 10*time.Millisecond, true, 10*time.Millisecond)
	f(time.Second, 100*time.Millisecond, true, 100*time.Millisecond) // a peak counts at once
	f(time.Second, time.Millisecond, true, 100*time.Millisecond)     // nothing moves within a tick
	f(11*time.Second, time.Millisecond, true, 37400*time.Microsecond)
	f(21*time.Second, 0, true, 13760*time.Microsecond) // no sample: fades
	f(31*time.Second, time.Microsecond, false, 37400*time.Microsecond)
	f(30*time.Second, time.Millisecond, true, 37400*time.Microsecond) // a clock that is read late
	f(32*time.Second, 50*time.Millisecond, false, 50*time.Millisecond)
}

func TestPeakEWMAFollowsAFlood(t *testing.T) {
	var p peakEWMA
	p.observe(0, 1e9, true)
	for now := int64(0); now < 60*second; now += 100_000 {
		p.observe(now, 1e6, true)
	}
	if got := p.at(60 * second); got < 1e6 || got > 4e6 {
		t.Fatalf("a minute of 1 ms after a second's peak: %v", time.Duration(got))
	}
}

func TestPeakEWMAKeepsTheHighestOfConcurrentPeaks(t *testing.T) {
	var p peakEWMA
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				p.observe(second, float32(1+i*4+w), true)
			}
		})
	}
	wg.Wait()
	if got := p.at(second); got != 4000 {
		t.Fatalf("%v", got)
	}
}

func TestPeakEWMAPrefersTheFaster(t *testing.T) {
	f := func(ms []int, want ...float64) {
		t.Helper()
		x := newFixture(Options{}, ones(len(ms))...)
		for i, l := range ms {
			x.Begin(x.eps[i])
			x.Done(x.eps[i], 0, time.Duration(l)*time.Millisecond, Success)
		}
		near(t, x.shares(0, 20000), want, 0.02)
	}
	f([]int{20, 20}, 0.5, 0.5)
	f([]int{20, 200}, 1, 0)
	f([]int{20, 20, 500}, 0.5, 0.5, 0)
	f([]int{20, 41}, 0.935, 0.065)
}

func TestPeakEWMARetriesTheSlowWithoutTraffic(t *testing.T) {
	x := newFixture(Options{}, 1, 1)
	for i, l := range []time.Duration{time.Millisecond, time.Second} {
		x.Begin(x.eps[i])
		x.Done(x.eps[i], 0, l, Success)
	}
	if got := x.shares(0, 5000)[1]; got != 0 {
		t.Fatalf("a thousand times slower, yet a share of %.4f", got)
	}
	if got := x.shares(100*second, 5000)[1]; got < 0.4 {
		t.Fatalf("share of %.3f after the peak has faded", got)
	}
}

// A service whose first answers differ only by scheduling noise must not starve an endpoint.
func TestPeakEWMAIgnoresNoise(t *testing.T) {
	x := newFixture(Options{}, 1, 1)
	for i, l := range []time.Duration{200 * time.Microsecond, 400 * time.Microsecond} {
		x.Begin(x.eps[i])
		x.Done(x.eps[i], 0, l, Success)
	}
	if got := x.shares(0, 5000)[1]; got < 0.25 {
		t.Fatalf("share %.3f", got)
	}
}

func TestPeakEWMANewEndpointIsNeitherFloodedNorLeftOut(t *testing.T) {
	x := newFixture(Options{}, ones(4)...)
	for _, e := range x.eps[1:] {
		x.Begin(e)
		x.Done(e, 0, 50*time.Millisecond, Success)
	}
	near(t, x.shares(0, 20000), []float64{0.25, 0.25, 0.25, 0.25}, 0.02)
	for range 400 { // it does not answer yet
		x.Begin(x.Pick(0, 0, nil))
	}
	if n := x.eps[0].Status(0).InFlight; n < 80 || n > 120 {
		t.Fatalf("%d of 400 requests in flight", n)
	}
}

func TestPeakEWMAFastFailureDoesNotAttract(t *testing.T) {
	x := newFixture(Options{}, 1, 1) // outlier detection is off
	const each = 20 * time.Millisecond
	for i := range x.eps {
		x.Begin(x.eps[i])
		x.Done(x.eps[i], 0, each, Success)
	}
	failed := 0
	for now := int64(0); now < second; now += second / 1000 {
		e := x.Pick(now, 0, nil)
		x.Begin(e)
		if e == x.eps[0] {
			failed++
			x.Done(e, now, 100*time.Microsecond, Failure)
		} else {
			x.Done(e, now, each, Success)
		}
	}
	if failed > 50 {
		t.Fatalf("%d of 1000 requests went to the endpoint that refuses", failed)
	}
	if st := x.eps[0].Status(second); st.Latency < 15*time.Millisecond || st.Errors != failed {
		t.Fatalf("%+v after %d failures", st, failed)
	}
	x.Begin(x.eps[0])
	x.Done(x.eps[0], second, each, Success)
	if st := x.eps[0].Status(second); st.Errors != 0 {
		t.Fatalf("%+v after a success", st)
	}
}

func TestCancelledBlamesOnlySlowness(t *testing.T) {
	x := newFixture(Options{Outlier: Outlier{Consecutive: 1}}, 1, 1)
	f := func(latency, want time.Duration) {
		t.Helper()
		x.Begin(x.eps[0])
		x.Done(x.eps[0], 0, latency, Cancelled)
		if st := x.eps[0].Status(0); st.Latency != want || st.Errors != 0 || st.InFlight != 0 || !st.Up() {
			t.Errorf("after %v: %+v", latency, st)
		}
	}
	f(0, 0)
	f(time.Second, time.Second)
	f(time.Millisecond, time.Second)
}
