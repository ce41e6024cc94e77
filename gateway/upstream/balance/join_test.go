package balance

import (
	"testing"
	"time"
)

// An endpoint that comes back begins as one that has never been there.
func TestJoinStartsSlowly(t *testing.T) {
	g := NewGroup("s")
	e := g.NewEndpoint("a", 0)
	s := NewSet(g, []Member{{Endpoint: e, Weight: 1}}, Options{SlowStart: time.Minute})
	f := func(now time.Duration, want float64) {
		t.Helper()
		if got := s.ramp(0, int64(now)); got != want {
			t.Errorf("after %s: %v, want %v", now, got, want)
		}
	}
	f(time.Hour, 1)
	e.Join(int64(time.Hour))
	f(time.Hour, minRamp)
	f(time.Hour+30*time.Second, 0.5)
	f(time.Hour+time.Minute, 1)
}
