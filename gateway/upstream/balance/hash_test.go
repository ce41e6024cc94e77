package balance

import (
	"fmt"
	"math"
	"testing"
	"time"
)

func TestHashBytesIsStable(t *testing.T) {
	f := func(in string, want uint64) {
		t.Helper()
		if a, b := HashBytes([]byte(in)), HashString(in); a != want || b != want {
			t.Errorf("%q: %#x, %#x, want %#x", in, a, b, want)
		}
	}
	f("", 0xefd01f60ba992926)
	f("user-1", 0x41a2fca5c68401c5)
	f("user-2", 0xa9f4ad0c2263143b)
}

func TestHashBytesSpreads(t *testing.T) {
	var count [64]int
	for i := range 64000 {
		count[HashString(fmt.Sprintf("user-%d", i))>>58]++
	}
	for _, n := range count {
		if n < 850 || n > 1150 {
			t.Fatalf("buckets %v", count)
		}
	}
}

// placement maps 20,000 keys.
func placement(s *Set, now int64) []string {
	to := make([]string, 20000)
	for i := range to {
		to[i] = s.Pick(now, HashString(fmt.Sprintf("key-%d", i)), nil).Address
	}
	return to
}

func TestConsistentHashShares(t *testing.T) {
	f := func(weights ...int) {
		t.Helper()
		x := newFixture(Options{Strategy: ConsistentHash}, weights...)
		count := map[string]float64{}
		for _, a := range placement(x.Set, 0) {
			count[a]++
		}
		sum := 0
		for _, w := range weights {
			sum += w
		}
		for i, e := range x.eps {
			want := float64(weights[i]) / float64(sum)
			if got := count[e.Address] / 20000; math.Abs(got-want) > 0.15*want {
				t.Errorf("weights %v: endpoint %d has %.4f of the keys, want %.4f", weights, i, got, want)
			}
		}
	}
	f(1, 1)
	f(1, 1, 1)
	f(ones(20)...)
	f(100, 100, 100, 100, 100)
	f(1, 2, 4)
	f(9, 1)
}

func TestConsistentHashMovesOnlyTheKeysOfTheLeaver(t *testing.T) {
	f := func(weights ...int) {
		t.Helper()
		x := newFixture(Options{Strategy: ConsistentHash}, weights...)
		before := placement(x.Set, 0)

		// First it is found unhealthy, then it leaves the configuration.
		x.setUnhealthy(1)
		down := placement(x.Set, 0)
		left := append(append([]Member{}, x.Members()[:1]...), x.Members()[2:]...)
		after := placement(NewSet(x.group, left, Options{Strategy: ConsistentHash}), 0)

		took := map[string]int{}
		for i := range before {
			if before[i] != x.eps[1].Address && after[i] != before[i] {
				t.Fatalf("key %d moved from %s to %s, which both stay", i, before[i], after[i])
			}
			if down[i] != after[i] {
				t.Fatalf("key %d went to %s while its endpoint was down and to %s when it had left", i, down[i], after[i])
			}
			if before[i] != after[i] {
				took[after[i]]++
			}
		}
		if len(took) != len(weights)-1 {
			t.Fatalf("all went to %v", took)
		}

		// It comes back, and so do its keys.
		x.eps[1].state.Store(0)
		for i, a := range placement(x.Set, 0) {
			if a != before[i] {
				t.Fatalf("key %d is at %s, was at %s", i, a, before[i])
			}
		}
	}
	f(1, 1, 1, 1, 1)
	f(3, 1, 2, 5)
}

func TestConsistentHashDoesNotDependOnOrder(t *testing.T) {
	x := newFixture(Options{Strategy: ConsistentHash}, 1, 2, 3)
	other := NewGroup("s")
	var members []Member
	for i := 2; i >= 0; i-- {
		members = append(members, Member{Endpoint: other.NewEndpoint(x.eps[i].Address, 0), Weight: i + 1})
	}
	a, b := placement(x.Set, 0), placement(NewSet(other, members, Options{Strategy: ConsistentHash}), 0)
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("key %d: %s and %s", i, a[i], b[i])
		}
	}
}

func TestConsistentHashSlowStartMovesKeysOnlyToTheNewcomer(t *testing.T) {
	x := newFixture(Options{Strategy: ConsistentHash, SlowStart: 10 * time.Second}, 1, 1, 1, 1)
	x.eps[2].since.Store(100 * second)
	last := 0
	old := placement(x.Set, 100*second)
	for _, age := range []int64{0, 3, 6, 9, 10} {
		now := placement(x.Set, (100+age)*second)
		n := 0
		for i, a := range now {
			if a == x.eps[2].Address {
				n++
			} else if a != old[i] {
				t.Fatalf("key %d moved from %s to %s", i, old[i], a)
			}
		}
		if n <= last {
			t.Fatalf("%d keys after %d s, %d before", n, age, last)
		}
		last, old = n, now
	}
}

func TestConsistentHashBoundsLoad(t *testing.T) {
	f := func(weights []int, down ...int) {
		t.Helper()
		x := newFixture(Options{Strategy: ConsistentHash}, weights...)
		x.setUnhealthy(down...)
		sum := 0.0
		for i, w := range weights {
			if x.eps[i].Status(0).Up() {
				sum += float64(w)
			}
		}
		hot := HashString("everyone's favourite")
		home := x.Pick(0, hot, nil)
		for n := 1; n <= 500; n++ {
			e := x.Pick(0, hot, nil)
			x.Begin(e)
			w := float64(weights[x.index(e)])
			bound := max(minBound, int64(math.Ceil(loadBound*float64(n)*w/sum)))
			if got := e.Status(0).InFlight; got > bound {
				t.Fatalf("weights %v, down %v: %d of %d requests at endpoint %d, bound %d", weights, down, got, n, x.index(e), bound)
			}
		}
		for _, e := range x.eps {
			for range e.Status(0).InFlight {
				x.Done(e, 0, 0, Success)
			}
		}
		if x.Pick(0, hot, nil) != home {
			t.Fatal("the key did not come home when the load was gone")
		}
	}
	f(ones(4))
	f(ones(10))
	f([]int{1, 2, 4})
	f(ones(10), 0, 1, 2, 3, 4, 5)
}

// Endpoints that left with requests in flight must not make the bound of the others meaningless or unreachable.
func TestConsistentHashBoundYieldsWhenAllExceedIt(t *testing.T) {
	x := newFixture(Options{Strategy: ConsistentHash}, 1, 1)
	for _, e := range x.eps {
		for range 10 {
			e.lanes[0].inFlight.Add(1) // not in the group's sum
		}
	}
	if x.Pick(0, 1, nil) == nil {
		t.Fatal("no endpoint")
	}
}

func TestConsistentHashWithoutKeyIsRandom(t *testing.T) {
	near(t, newFixture(Options{Strategy: ConsistentHash}, 1, 1, 2).shares(0, 20000), []float64{0.25, 0.25, 0.5}, 0.015)
}
