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

// lose has what is due for an instance carried out, and the answers lost.
func (g *group) lose(i int) (lost int) {
	s := g.all[i]
	loans, _ := s.limiter.turn(g.now, 1<<20)
	commands := make([]command, len(loans))
	for i, o := range loans {
		commands[i] = o.command
	}
	for i, r := range s.exec(s.ctx, commands) {
		if r.Error() != nil {
			g.t.Fatal(r.Error())
		}
		s.limiter.fail(loans[i], g.now)
	}
	return len(loans)
}

// An instance that comes back is charged for what it has used alone, and for nothing else: not for what it was lent or had told before, whatever
// has become of that meanwhile, and once, however many answers are lost.
func TestBackFromAlone(t *testing.T) {
	server := redistest.Start(t)
	f := func(name string, n int, before, alone int, away time.Duration, answers string, lost int) {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, server.Address, n)
			l := bucketOf(1000, 1000*time.Hour, 1000)
			for _, s := range g.all {
				s.limiter.Register(l)
			}
			total := 0
			use := func(i, want int) {
				for range want {
					if g.take(i, "k", l) == Passed {
						total++
					}
				}
			}
			for i := range g.all {
				use(i, before)
			}
			if answers == "lost" {
				if g.lose(0) == 0 {
					t.Fatal("nothing was asked for")
				}
			} else {
				g.step(time.Millisecond)
				g.step(time.Millisecond)
			}
			g.all[0].down(errLate)
			use(0, alone)
			for range away / (10 * time.Millisecond) {
				g.step(10 * time.Millisecond)
			}
			if n > 1 {
				use(1, 100) // it has not heard of that
			}
			g.all[0].back()
			for range lost {
				for n := 0; n == 0; g.now += int64(time.Millisecond) {
					n = g.lose(0)
				}
			}
			for range 6000 {
				for i := range g.all {
					use(i, 1)
				}
				g.step(time.Millisecond)
			}
			if total < 999 || total > 1001 {
				t.Errorf("%d of 1000 passed", total)
			}
		})
	}
	f("at once", 2, 50, 200, 0, "", 0)
	f("nothing used", 2, 50, 0, time.Second, "", 0)
	f("unknown", 2, 0, 200, time.Second, "", 0)
	f("a few told of", 2, 3, 20, time.Second, "", 0)
	f("lots have lapsed", 2, 50, 200, 8*time.Second, "", 0)
	f("lots have lapsed, nothing used", 3, 50, 0, 8*time.Second, "", 0)
	f("alone in the world", 1, 100, 300, 8*time.Second, "", 0)
	f("first answer lost", 2, 50, 200, time.Second, "lost", 0)
	f("first answer lost, lapsed", 2, 50, 200, 8*time.Second, "lost", 0)
	f("last answer lost", 2, 50, 200, time.Second, "", 1)
	f("unknown, last answers lost", 2, 0, 400, time.Second, "", 2)
	f("more answers lost", 2, 50, 200, time.Second, "", 3)
	f("all lost", 3, 50, 100, 8*time.Second, "lost", 4)
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
