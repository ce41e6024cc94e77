package breaker

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// model says in the plainest way what a Breaker does.
type model struct {
	s         Settings
	state     State
	epoch     int
	failures  int
	events    []event
	openedAt  int64
	inFlight  map[int]int64 // probe: when it lost its place
	succeeded int
	probes    int
}

type event struct {
	step   int64
	failed bool
}

type modelPermit struct{ epoch, probe int }

func (m *model) step(now int64) int64 { return now / ((int64(m.s.Window) + 9) / 10) }

func (m *model) enter(s State) {
	m.state, m.failures, m.events, m.inFlight, m.succeeded = s, 0, nil, map[int]int64{}, 0
	m.epoch++
}

func (m *model) configure(s Settings) {
	if s.Window != m.s.Window {
		m.events = nil
	}
	m.s = s
	if s.off() && m.state != Closed {
		m.enter(Closed)
	}
}

func (m *model) allow(now int64) (modelPermit, bool) {
	if m.state == Open && now >= m.openedAt+int64(m.s.OpenFor) {
		m.enter(HalfOpen)
	}
	if m.state == HalfOpen && m.succeeded >= m.s.HalfOpenRequests {
		m.enter(Closed)
	}
	switch m.state {
	case Open:
		return modelPermit{}, false
	case Closed:
		return modelPermit{epoch: m.epoch}, true
	}
	for p, expires := range m.inFlight {
		if now >= expires {
			delete(m.inFlight, p)
		}
	}
	if len(m.inFlight)+m.succeeded >= m.s.HalfOpenRequests {
		return modelPermit{}, false
	}
	m.probes++
	m.inFlight[m.probes] = now + int64(m.s.OpenFor)
	return modelPermit{m.epoch, m.probes}, true
}

func (m *model) report(now int64, p modelPermit, o Outcome) {
	if p.epoch != m.epoch {
		return
	}
	if m.state == HalfOpen {
		delete(m.inFlight, p.probe)
		switch o {
		case Failure:
			m.openedAt = now
			m.enter(Open)
		case Success:
			if m.succeeded++; m.succeeded >= m.s.HalfOpenRequests {
				m.enter(Closed)
			}
		}
		return
	}
	if o == Ignored {
		return
	}
	if m.s.ErrorRatio > 0 {
		m.events = append(m.events, event{m.step(now), o == Failure})
	}
	if o == Success {
		m.failures = 0
		return
	}
	m.failures++
	calls, failed := 0, 0
	for _, e := range m.events {
		if m.step(now)-e.step < 10 {
			calls++
			if e.failed {
				failed++
			}
		}
	}
	if m.s.ConsecutiveFailures > 0 && m.failures >= m.s.ConsecutiveFailures ||
		m.s.ErrorRatio > 0 && calls >= m.s.MinRequests && float64(failed) >= m.s.ErrorRatio*float64(calls) {
		m.openedAt = now
		m.enter(Open)
	}
}

func (m *model) stateAt(now int64) State {
	if m.state == Open && now >= m.openedAt+int64(m.s.OpenFor) {
		return HalfOpen
	}
	return m.state
}

func randomSettings(r *rand.Rand) Settings {
	s := Settings{
		ConsecutiveFailures: max(0, r.IntN(8)-1),
		MinRequests:         1 + r.IntN(10),
		Window:              time.Duration(1+r.IntN(3)) * 1234,
		OpenFor:             time.Duration(1 + r.IntN(2000)),
		HalfOpenRequests:    1 + r.IntN(4),
	}
	if r.IntN(2) == 0 {
		s.ErrorRatio = r.Float64()
	}
	return s
}

func TestAgainstModel(t *testing.T) {
	var visits [3]int
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 5))
		s := randomSettings(r)
		b, m := New(s, nil), &model{s: s, epoch: 1}
		var permits []Permit
		var modelPermits []modelPermit
		now, failing := int64(0), 0.5
		for op := range 2000 {
			switch r.IntN(8) {
			case 0:
				now += r.Int64N(1 + r.Int64N(2000))
			case 1:
				failing = r.Float64() * r.Float64()
			case 2:
				if r.IntN(20) == 0 {
					s = randomSettings(r)
					b.Configure(s)
					m.configure(s)
				}
			case 3, 4, 5:
				p, ok := b.Allow(now)
				mp, want := m.allow(now)
				if ok != want || ok && p.Probe() != (mp.probe != 0) {
					t.Fatalf("seed %d op %d: %+v admitted %v, want %v", seed, op, p, ok, want)
				}
				if ok {
					permits, modelPermits = append(permits, p), append(modelPermits, mp)
				}
			default:
				if len(permits) == 0 {
					continue
				}
				i := r.IntN(len(permits))
				if r.IntN(3) > 0 { // the newest, most often
					i = len(permits) - 1
				}
				o := Success
				if r.Float64() < failing {
					o = Failure
				} else if r.IntN(10) == 0 {
					o = Ignored
				}
				b.Report(now, permits[i], o)
				m.report(now, modelPermits[i], o)
				permits = append(permits[:i], permits[i+1:]...)
				modelPermits = append(modelPermits[:i], modelPermits[i+1:]...)
			}
			got, want := b.State(now), m.stateAt(now)
			if got != want {
				t.Fatalf("seed %d op %d: %v, want %v", seed, op, got, want)
			}
			visits[got]++
			if m.state == Open {
				if got, want := b.RetryAfter(now), max(0, m.openedAt+int64(m.s.OpenFor)-now); int64(got) != want {
					t.Fatalf("seed %d op %d: RetryAfter %v, want %v", seed, op, got, want)
				}
			}
			if b.RetryAfter(now) > 0 {
				if _, ok := b.Allow(now); ok {
					t.Fatalf("seed %d op %d: admitted, though RetryAfter asks to wait", seed, op)
				}
				m.allow(now)
			}
		}
	}
	for s, n := range visits {
		if n < 10_000 {
			t.Errorf("%v only %d times: the test tests little", State(s), n)
		}
	}
}

// In parallel: never too many probes, changes of state in an order that exists, and an end in which it closes.
func TestConcurrentUse(t *testing.T) {
	const probes = 3
	s := Settings{ConsecutiveFailures: 3, ErrorRatio: 0.5, OpenFor: 1000, Window: 5000, HalfOpenRequests: probes}
	var last atomic.Int32
	var changes atomic.Int64
	b := New(s, func(from, to State, _ Cause) {
		if State(last.Swap(int32(to))) != from || from == Closed && to == HalfOpen {
			t.Errorf("from %v to %v", from, to)
		}
		changes.Add(1)
	})
	var clock, inFlight atomic.Int64
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for i := range 20_000 {
				now := clock.Load()
				p, ok := b.Allow(now)
				if !ok {
					clock.Add(1 + int64(b.RetryAfter(now))/10)
					continue
				}
				// No probe outlives its time here: it holds the clock still.
				if p.Probe() && inFlight.Add(1) > 4 { // each goroutine has one call at a time
					t.Error("more probes than goroutines")
				}
				o := Outcome(r.IntN(3))
				if p.Probe() {
					inFlight.Add(-1)
				}
				b.Report(now, p, o)
				if i%100 == 0 {
					s := s
					s.OpenFor += time.Duration(r.IntN(500))
					b.Configure(s)
					b.State(now)
				}
			}
		})
	}
	wg.Wait()
	if changes.Load() < 100 {
		t.Errorf("only %d changes: the test tests little", changes.Load())
	}
	for range 100 {
		now := clock.Add(10_000)
		if p, ok := b.Allow(now); ok {
			b.Report(now, p, Success)
		}
	}
	if s := b.State(clock.Load()); s != Closed {
		t.Errorf("%v after successes alone", s)
	}
}

// Of many that ask at the same time, exactly as many become probes as may.
func TestProbesInParallel(t *testing.T) {
	for round := range int64(200) {
		b := New(Settings{ConsecutiveFailures: 1, OpenFor: 100, HalfOpenRequests: 3}, nil)
		p, _ := b.Allow(0)
		b.Report(0, p, Failure)
		var admitted atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if p, ok := b.Allow(100 + round%100); ok {
					admitted.Add(1)
					if !p.Probe() {
						t.Error("not a probe")
					}
				}
			})
		}
		wg.Wait()
		if admitted.Load() != 3 {
			t.Fatalf("%d probes", admitted.Load())
		}
	}
}
