package cluster

import (
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
)

// saturate asks every instance for more than there is, a millisecond after the other, and returns what passed of each.
func (g *group) saturate(l *Limits, each float64, d time.Duration) []int {
	passed := make([]int, len(g.all))
	for range d / time.Millisecond {
		for i := range g.all {
			for range int(each) {
				if g.take(i, "k", l) == Passed {
					passed[i]++
				}
			}
		}
		g.step(time.Millisecond)
	}
	return passed
}

func sum(n []int) (total int) {
	for _, n := range n {
		total += n
	}
	return total
}

// Without the store each instance has its part, from what was left. When it is back there is no burst, whether it has kept what it knew, or
// earned a full bucket meanwhile, or forgotten everything.
func TestStoreGone(t *testing.T) {
	server := redistest.Start(t)
	f := func(name string, meanwhile func()) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, server.Address, 3)
			l := bucketOf(10_000, time.Second, 10_000)
			g.saturate(l, 8, 2*time.Second)
			for _, s := range g.all {
				s.down(errLate)
			}
			first := g.saturate(l, 8, time.Second)
			if n := sum(first); n < 9700 || n > 10_500 {
				t.Errorf("%v passed in the first second without the store", first)
			}
			if n := sum(g.saturate(l, 8, 4*time.Second)); n < 4*9990 || n > 4*10_000+10 {
				t.Errorf("%d passed in 4 seconds without the store", n)
			}
			meanwhile()
			for i, s := range g.all {
				s.back()
				if i < 2 {
					g.saturate(l, 8, 50*time.Millisecond)
				}
			}
			for second := range 4 {
				n := sum(g.saturate(l, 8, time.Second))
				if n > 10_000+2*500 || second > 1 && (n < 9700 || n > 10_050) {
					t.Errorf("%d passed in second %d with the store", n, second)
				}
			}
		})
	}
	f("kept", func() {})
	f("forgotten", func() { server.Do("FLUSHALL") })
}

// An instance without a network goes on with its part, the others with all of the limit; then they share it again.
func TestPartition(t *testing.T) {
	server := redistest.Start(t)
	g := newGroup(t, server.Address, 3)
	l := bucketOf(10_000, time.Second, 10_000)
	g.saturate(l, 8, 2*time.Second)
	g.all[0].down(errLate)
	g.saturate(l, 8, time.Second)
	apart := g.saturate(l, 8, 2*time.Second)
	if others := apart[1] + apart[2]; apart[0] < 2*3300 || apart[0] > 2*3334+5 || others < 2*9700 || others > 2*10_000+50 {
		t.Errorf("%v passed in 2 seconds", apart)
	}
	g.all[0].back()
	g.saturate(l, 8, 500*time.Millisecond)
	for range 3 {
		if n := g.saturate(l, 8, time.Second); sum(n) < 9700 || sum(n) > 10_050 || n[0] < 2000 {
			t.Errorf("%v passed in a second after it", n)
		}
	}
}

// What an idle instance is asked for without the store is no more than its part of a full bucket.
func TestAloneFromIdle(t *testing.T) {
	server := redistest.Start(t)
	g := newGroup(t, server.Address, 3)
	l := bucketOf(90, time.Hour, 90)
	for _, s := range g.all {
		s.down(errLate)
	}
	if n := g.saturate(l, 100, time.Millisecond); n[0] != 30 || n[1] != 30 || n[2] != 30 {
		t.Errorf("%v passed", n)
	}
	for _, s := range g.all {
		s.back()
	}
	if n := g.saturate(l, 1, 2*time.Second); sum(n) != 0 {
		t.Errorf("%v passed of a bucket that is empty", n)
	}
}

// What becomes of requests without the store is the operator's decision.
func TestOnFailure(t *testing.T) {
	server := redistest.Start(t)
	g := newGroup(t, server.Address, 1)
	s, l, strict := g.all[0], bucketOf(1000, time.Hour, 1000), NewLimits("strict", []Window{{Requests: 3, Per: time.Hour}}, 1, true)
	f := func(mode OnFailure, want Verdict) {
		t.Helper()
		s.o.OnFailure = mode
		s.down(errLate)
		if got := g.take(0, "k", l); got != want {
			t.Errorf("%s: %d, want %d", mode, got, want)
		}
		if got := g.strict(0, "k", strict); got != want {
			t.Errorf("%s, strict: %d, want %d", mode, got, want)
		}
		s.back()
	}
	f(Local, Passed)
	f(Allow, Unlimited)
	f(Deny, Unavailable)
}
