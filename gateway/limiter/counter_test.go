package limiter

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestWindowsBeginByTheClock(t *testing.T) {
	f := func(w Window, at, want string) {
		t.Helper()
		parse := func(s string) int64 {
			p, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			return p.Unix()
		}
		if got := w.Start(parse(at)); got != parse(want) {
			t.Errorf("window %d of %s begins at %s, want %s", w, at, time.Unix(got, 0).UTC().Format(time.RFC3339), want)
		}
	}
	f(Second, "2026-02-28T13:14:15Z", "2026-02-28T13:14:15Z")
	f(Minute, "2026-02-28T13:14:15Z", "2026-02-28T13:14:00Z")
	f(Hour, "2026-02-28T13:14:15Z", "2026-02-28T13:00:00Z")
	f(Day, "2026-02-28T13:14:15Z", "2026-02-28T00:00:00Z")
	f(Month, "2026-02-28T13:14:15Z", "2026-02-01T00:00:00Z")
	f(Year, "2026-12-31T23:59:59Z", "2026-01-01T00:00:00Z")
}

func TestNoMoreThanTheLimitPassInAWindow(t *testing.T) {
	c := NewCounters(0)
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				var left [1]int64
				if c.Take(120, []byte("alice"), []Count{{Minute, 500}}, left[:]) < 0 {
					passed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 500 {
		t.Errorf("%d passed, want 500", passed.Load())
	}
	var left [1]int64
	if c.Take(180, []byte("alice"), []Count{{Minute, 500}}, left[:]) >= 0 || left[0] != 499 {
		t.Errorf("the next window has %d left", left[0])
	}
}

func TestWindowsAreChargedTogetherOrNotAtAll(t *testing.T) {
	c := NewCounters(0)
	limits := []Count{{Second, 1}, {Minute, 10}}
	f := func(unix int64, stop int, left0, left1 int64) {
		t.Helper()
		var left [2]int64
		if got := c.Take(unix, []byte("k"), limits, left[:]); got != stop || left[0] != left0 || left[1] != left1 {
			t.Errorf("at %d: stop %d, left %v", unix, got, left)
		}
	}
	f(60, -1, 0, 9)
	f(60, 0, 0, 9)
	f(61, -1, 0, 8)
}

func TestCountersAreBounded(t *testing.T) {
	c := NewCounters(6400)
	var left [1]int64
	for i := range 50_000 {
		c.Take(120, fmt.Appendf(nil, "key-%d", i), []Count{{Minute, 5}}, left[:])
	}
	if n := c.Len(); n > 6400 {
		t.Errorf("%d keys", n)
	}
	if c.Expire(119); c.Len() == 0 {
		t.Error("windows were dropped before they ended")
	}
	if c.Expire(180); c.Len() != 0 {
		t.Errorf("%d keys are left after their windows", c.Len())
	}
}
