package load

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	f := func(rate pace, i int64, want time.Duration) {
		t.Helper()
		if got := rate.at(i); got != want {
			t.Errorf("request %d at %d/s is due at %v, want %v", i, rate, got, want)
		}
	}
	f(5000, 0, 0)
	f(5000, 1, 200*time.Microsecond)
	f(3, 1, 333333333)
	f(3, 2, 666666666)
	f(3, 3, time.Second) // rounding does not add up
	f(7, 7*86400*365, 365*24*time.Hour)

	due := func(rate pace, elapsed time.Duration, want int64) {
		t.Helper()
		if got := rate.due(elapsed); got != want {
			t.Errorf("%d requests are due at %d/s after %v, want %d", got, rate, elapsed, want)
		}
	}
	due(5000, -1, 0)
	due(5000, 0, 1)
	due(5000, 200*time.Microsecond-1, 1)
	due(5000, 200*time.Microsecond, 2)
	due(5000, time.Second-1, 5000)
	due(1, 365*24*time.Hour, 365*86400+1)
}

// A stall does not lose requests: those that became due meanwhile are all due
// after it, each with the time it was meant for.
func TestPaceAgreesWithItself(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		p := pace(1 + r.Int64N(1_000_000))
		elapsed := time.Duration(r.Int64N(int64(time.Hour)))
		n := p.due(elapsed)
		if p.at(n-1) > elapsed || p.at(n) <= elapsed {
			t.Fatalf("rate %d, %v: %d are due, but the last is due at %v and the next at %v", p, elapsed, n, p.at(n-1), p.at(n))
		}
	}
}
