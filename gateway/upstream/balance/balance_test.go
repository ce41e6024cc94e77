package balance

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const second = int64(time.Second)

// fixture is a service a, b, c, … with the given weights, a random source with a fixed seed, and the lanes of a machine
// with one core, so that time may stand still.
type fixture struct {
	*Set
	eps []*Endpoint
}

func newFixture(o Options, weights ...int) fixture { return newFixtureOn(1, o, weights...) }

func newFixtureOn(lanes int, o Options, weights ...int) fixture {
	g := newGroup("s", lanes)
	var f fixture
	var members []Member
	for i, w := range weights {
		e := g.NewEndpoint(fmt.Sprintf("10.0.%d.%d:80", i/250, i%250), 0)
		f.eps = append(f.eps, e)
		members = append(members, Member{Endpoint: e, Weight: w})
	}
	f.Set = NewSet(g, members, o)
	f.Set.random = rand.New(rand.NewPCG(1, 2)).Uint64
	return f
}

func ones(n int) []int {
	w := make([]int, n)
	for i := range w {
		w[i] = 1
	}
	return w
}

// shares picks n times at a time, ending each request at once, and returns each endpoint's share; the last entry is
// that of nil.
func (f fixture) shares(now int64, n int) []float64 {
	count := make([]float64, len(f.eps)+1)
	for range n {
		e := f.Pick(now, 0, nil)
		i := f.index(e)
		count[i] += 1 / float64(n)
		if e != nil {
			f.Begin(e)
			f.Done(e, now, 0, Success)
		}
	}
	return count
}

func (f fixture) index(e *Endpoint) int {
	for i, x := range f.eps {
		if x == e {
			return i
		}
	}
	return len(f.eps)
}

func (f fixture) fail(i int, now int64, n int) {
	for range n {
		f.Begin(f.eps[i])
		f.Done(f.eps[i], now, 0, ServerError)
	}
}

func (f fixture) setUnhealthy(down ...int) {
	for _, i := range down {
		f.eps[i].state.Or(stateUnhealthy)
	}
}

func near(t *testing.T, got, want []float64, tolerance float64) {
	t.Helper()
	for i, w := range want {
		if d := got[i] - w; d > tolerance || d < -tolerance {
			t.Fatalf("shares %.3f, want %.3f ± %.3f", got, want, tolerance)
		}
	}
}

var strategies = []Strategy{PeakEWMA, RoundRobin, Random, LeastRequest, ConsistentHash}

func TestParseStrategy(t *testing.T) {
	for _, s := range strategies {
		if got, ok := ParseStrategy(s.String()); !ok || got != s {
			t.Errorf("ParseStrategy(%q) = %v, %v", s, got, ok)
		}
	}
	if _, ok := ParseStrategy("fastest"); ok {
		t.Error("an unknown name was accepted")
	}
}

func TestPickSharesByWeight(t *testing.T) {
	f := func(s Strategy, weights []int, want ...float64) {
		t.Helper()
		near(t, newFixture(Options{Strategy: s}, weights...).shares(0, 20000), append(want, 0), 0.015)
	}
	for _, s := range strategies {
		f(s, []int{1}, 1)
		f(s, []int{1, 1}, 0.5, 0.5)
		f(s, []int{3, 1}, 0.75, 0.25)
		f(s, []int{8, 1, 1}, 0.8, 0.1, 0.1)
		f(s, []int{0, 2, 2}, 0, 0.5, 0.5)
		f(s, []int{5, 0, -3}, 1, 0, 0)
		f(s, []int{100, 200, 300, 400}, 0.1, 0.2, 0.3, 0.4)
	}
}

func TestPickSharesOfTheMissingGoByWeight(t *testing.T) {
	f := func(s Strategy, weights []int, down int, want ...float64) {
		t.Helper()
		x := newFixture(Options{Strategy: s}, weights...)
		x.setUnhealthy(down)
		near(t, x.shares(0, 20000), append(want, 0), 0.015)
	}
	for _, s := range strategies {
		f(s, []int{1, 1, 1}, 1, 0.5, 0, 0.5)
		f(s, []int{6, 3, 1}, 0, 0, 0.75, 0.25)
		f(s, []int{97, 2, 1}, 0, 0, 0.667, 0.333)
	}
}

func TestPickNone(t *testing.T) {
	f := func(o Options, prepare func(x fixture), weights ...int) {
		t.Helper()
		for _, s := range strategies {
			o.Strategy = s
			x := newFixture(o, weights...)
			if prepare != nil {
				prepare(x)
			}
			for key := range uint64(3) {
				if e := x.Pick(0, key, nil); e != nil {
					t.Fatalf("%v picked %s", s, e.Address)
				}
			}
		}
	}
	f(Options{}, nil)
	f(Options{}, nil, 0)
	f(Options{}, nil, 0, 0, 0)
	f(Options{Allow: func(*Endpoint) bool { return false }}, nil, 1, 1, 1)
	f(Options{Allow: func(*Endpoint) bool { return false }}, nil, 1)
	f(Options{}, func(x fixture) { x.setUnhealthy(0, 1) }, 1, 1)
	f(Options{}, func(x fixture) { x.setUnhealthy(0) }, 1)
	f(Options{}, func(x fixture) { x.eps[0].SetDraining(true, 0); x.setUnhealthy(1) }, 1, 1)
}

func TestPickAsksAllow(t *testing.T) {
	for _, s := range strategies {
		var open *Endpoint
		asked := 0
		x := newFixture(Options{Strategy: s, Allow: func(e *Endpoint) bool { asked++; return e != open }}, ones(5)...)
		open = x.eps[3]
		var key uint64
		for range 1000 {
			key += slotSalt
			if e := x.Pick(0, key, nil); e == nil || e == open {
				t.Fatalf("%v: picked %v", s, e)
			}
		}
		if asked < 1000 || asked > 1600 {
			t.Errorf("%v: the breaker was asked %d times for 1000 picks", s, asked)
		}
	}
}

// An open breaker makes its endpoint idle; that must not hide the load of the others.
func TestPickChoosesByLoadAfterARefusal(t *testing.T) {
	for _, s := range []Strategy{LeastRequest, PeakEWMA} {
		var open *Endpoint
		x := newFixture(Options{Strategy: s, Allow: func(e *Endpoint) bool { return e != open }}, 1, 1, 1)
		open = x.eps[0]
		for range 100 {
			x.Begin(x.eps[1])
		}
		near(t, x.shares(0, 2000), []float64{0, 0, 1}, 0.02)
	}
}

func TestPickIndexCountsMembersWithoutWeight(t *testing.T) {
	x := newFixture(Options{}, 0, 0, 1)
	if i := x.PickIndex(0, 0, nil); i != 2 {
		t.Fatalf("index %d", i)
	}
	x.setUnhealthy(2)
	if i := x.PickIndex(0, 0, nil); i != -1 {
		t.Fatalf("index %d", i)
	}
}

func TestPickAvoidsTheTried(t *testing.T) {
	for _, s := range strategies {
		x := newFixture(Options{Strategy: s}, 5, 1, 1)
		for key := uint64(1); key < 100; key++ {
			var tried Tried
			for range x.eps {
				e := x.Pick(0, key*slotSalt, &tried)
				if tried.Has(e) {
					t.Fatalf("%v: met %s again after %d attempts", s, e.Address, tried.Len())
				}
				tried.Add(e)
			}
			if x.Pick(0, key*slotSalt, &tried) == nil {
				t.Fatalf("%v: nothing left once all were tried", s)
			}
		}
	}
}

func TestTriedRemembersTheLastEight(t *testing.T) {
	x := newFixture(Options{}, ones(9)...)
	var tried *Tried
	if tried.Has(x.eps[0]) {
		t.Fatal("a nil Tried knows an endpoint")
	}
	tried = new(Tried)
	for _, e := range x.eps {
		tried.Add(e)
	}
	if tried.Has(x.eps[0]) || !tried.Has(x.eps[1]) || !tried.Has(x.eps[8]) || tried.Len() != 9 {
		t.Fatal("not the last eight")
	}
	tried.Reset()
	if tried.Has(x.eps[8]) || tried.Len() != 0 {
		t.Fatal("Reset left something")
	}
}

func TestNewSetMergesDuplicates(t *testing.T) {
	g := NewGroup("s")
	a, b := g.NewEndpoint("a", 0), g.NewEndpoint("b", 0)
	s := NewSet(g, []Member{{Endpoint: a, Weight: 1}, {Endpoint: b, Weight: 2}, {Endpoint: a, Weight: 1}}, Options{})
	if all := s.Members(); len(all) != 2 || all[0].Weight != 2 || all[1].Weight != 2 {
		t.Fatalf("members: %+v", all)
	}
}

func TestRoundRobinOrder(t *testing.T) {
	f := func(want string, weights ...int) {
		t.Helper()
		x := newFixture(Options{Strategy: RoundRobin}, weights...)
		got := ""
		for range want {
			got += string(rune('a' + x.index(x.Pick(0, 0, nil))))
		}
		if got != want {
			t.Errorf("weights %v: %s, want %s", weights, got, want)
		}
	}
	f("abcabc", 1, 1, 1)
	f("abab", 100, 100)
	f("aabacaaaabacaa", 5, 1, 1)
	f("abaaba", 20, 10)
}

func TestRoundRobinCycleIsBounded(t *testing.T) {
	cycle := smoothCycle([]int{1_000_003, 2_000_003, 1})
	if len(cycle) > maxCycle+3 {
		t.Fatalf("length %d", len(cycle))
	}
	count := [3]int{}
	for _, i := range cycle {
		count[i]++
	}
	if count[2] != 1 || count[1] < 19*count[0]/10 || count[1] > 21*count[0]/10 {
		t.Fatalf("turns %v", count)
	}
}

func TestRoundRobinTurnSurvivesReload(t *testing.T) {
	x := newFixture(Options{Strategy: RoundRobin}, 1, 1, 1)
	first := x.Pick(0, 0, nil)
	x.Set = NewSet(x.group, x.Members(), Options{Strategy: RoundRobin})
	if second := x.Pick(0, 0, nil); second == first {
		t.Fatal("a new generation began at the first endpoint again")
	}
}

func TestLeastRequestEvensOutRequestsInFlight(t *testing.T) {
	f := func(weights []int, want ...float64) {
		t.Helper()
		x := newFixture(Options{Strategy: LeastRequest}, weights...)
		const n = 2000
		for range n {
			x.Begin(x.Pick(0, 0, nil))
		}
		for i, w := range want {
			if got := float64(x.eps[i].Status(0).InFlight) / n; got < w-0.01 || got > w+0.01 {
				t.Errorf("weights %v: endpoint %d has %.3f of the requests in flight, want %.3f", weights, i, got, w)
			}
		}
	}
	f([]int{1, 1}, 0.5, 0.5)
	f([]int{1, 1, 1, 1}, 0.25, 0.25, 0.25, 0.25)
	f([]int{3, 1}, 0.75, 0.25)
	f([]int{4, 2, 2}, 0.5, 0.25, 0.25)
}

func TestLeastRequestLeavesAStuckEndpoint(t *testing.T) {
	x := newFixture(Options{Strategy: LeastRequest}, ones(4)...)
	for range 50 {
		x.Begin(x.eps[2])
	}
	near(t, x.shares(0, 5000), []float64{0.333, 0.333, 0, 0.333}, 0.03)
}

func TestSlowStart(t *testing.T) {
	f := func(s Strategy, age time.Duration, want float64) {
		t.Helper()
		x := newFixture(Options{Strategy: s, SlowStart: 10 * time.Second}, ones(4)...)
		const now = 1000 * second
		x.eps[1].since.Store(now - int64(age))
		got := x.shares(now, 40000)[1]
		if d := got - want; d > 0.015 || d < -0.015 {
			t.Errorf("%v: share %.3f after %v, want %.3f", s, got, age, want)
		}
	}
	for _, s := range strategies {
		f(s, 0, 0.1/3.1)
		f(s, 5*time.Second, 0.5/3.5)
		f(s, 10*time.Second, 0.25)
	}
}

func TestSlowStartOfAllKeepsWeights(t *testing.T) {
	for _, s := range strategies {
		x := newFixture(Options{Strategy: s, SlowStart: time.Minute}, 6, 3, 1)
		for _, e := range x.eps {
			e.since.Store(second)
		}
		near(t, x.shares(second+1, 40000), []float64{0.6, 0.3, 0.1, 0}, 0.02)
	}
}

func TestSlowStartAfterEjectionAndDraining(t *testing.T) {
	x := newFixture(Options{SlowStart: 10 * time.Second, Outlier: Outlier{Consecutive: 1, Ejection: 30 * time.Second}}, 1, 1)
	x.fail(0, second, 1)
	f := func(now int64, want float64) {
		t.Helper()
		if got := x.ramp(0, now); got != want {
			t.Errorf("ramp at %v is %.2f, want %.2f", time.Duration(now), got, want)
		}
	}
	f(31*second, 0.1)
	f(36*second, 0.5)
	f(41*second, 1)
	x.eps[0].SetDraining(true, 50*second)
	x.eps[0].SetDraining(false, 60*second)
	f(65*second, 0.5)
	x.eps[0].SetDraining(false, 65*second)
	f(70*second, 1)
}

func TestPickConcurrently(t *testing.T) {
	for _, s := range strategies {
		x := newFixtureOn(4, Options{Strategy: s, SlowStart: time.Second, Outlier: Outlier{Consecutive: 3}}, 1, 2, 3, 4)
		x.Set.random = rand.Uint64
		var wg sync.WaitGroup
		var now atomic.Int64
		for w := range 4 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 7))
				for range 3000 {
					t := now.Add(100_000)
					var tried Tried
					e := x.Pick(t, r.Uint64(), &tried)
					if e == nil {
						continue
					}
					x.Begin(e)
					x.Done(e, now.Load(), time.Duration(r.IntN(1e7)), Outcome(r.IntN(4)))
				}
			})
		}
		wg.Wait()
		if n := x.group.inFlight(); n != 0 {
			t.Errorf("%v: %d requests in flight in the end", s, n)
		}
		for _, e := range x.eps {
			if st := e.Status(now.Load()); st.InFlight != 0 {
				t.Errorf("%v: %s: %+v", s, e.Address, st)
			}
		}
	}
}

// A core sees its own requests at once, and those of the others within freshFor.
func TestInFlightAsOneCoreSeesIt(t *testing.T) {
	e := newFixtureOn(4, Options{}, 1).eps[0]
	f := func(now int64, mine int, want int64) {
		t.Helper()
		if n := e.inFlight(now, mine); n != want {
			t.Errorf("core %d sees %d requests in flight, want %d", mine, n, want)
		}
	}
	e.lanes[1].inFlight.Add(3)
	f(0, 0, 3)
	e.lanes[1].inFlight.Add(2)
	e.lanes[0].inFlight.Add(1)
	f(freshFor-1, 0, 4)
	f(freshFor-1, 1, 6)
	f(freshFor, 0, 6)
	e.lanes[0].inFlight.Add(-6) // ended here, begun elsewhere
	f(freshFor, 0, 0)
}

func TestEveryTurnIsGivenOnce(t *testing.T) {
	const cores, each = 4, 10_000
	g := newGroup("s", cores)
	var given [cores * each * turnsAhead]atomic.Uint32
	var now atomic.Int64
	var wg sync.WaitGroup
	for range cores {
		wg.Go(func() {
			for range each {
				if turn := g.nextTurn(now.Add(10_000)); turn >= uint64(len(given)) {
					t.Errorf("turn %d: far beyond those that were asked for", turn)
				} else {
					given[turn].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for turn := range given {
		if n := given[turn].Load(); n > 1 {
			t.Fatalf("turn %d was given %d times", turn, n)
		}
	}
}

// Requests that do not follow one upon the other get their turns in order, whichever core they come to.
func TestTurnsInOrder(t *testing.T) {
	g := newGroup("s", 4)
	for i := range uint64(100) {
		if turn := g.nextTurn(int64(i+1) * freshFor); turn != i {
			t.Fatalf("turn %d, want %d", turn, i)
		}
	}
}
