package lifetime

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// resource fails the test if it is closed twice.
type resource struct {
	name   string
	closed atomic.Int32
	living *atomic.Int32
	err    error
}

func (r *resource) Close() error {
	r.closed.Add(1)
	if r.living != nil {
		r.living.Add(-1)
	}
	return r.err
}

func making(r *resource) func() (*resource, error) {
	return func() (*resource, error) { return r, nil }
}

func mustAcquire(t *testing.T, p *Pool[string, *resource], r *resource) *Lease[*resource] {
	t.Helper()
	l, err := p.Acquire(r.name, making(r))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closed(t *testing.T, r *resource, want int32) {
	t.Helper()
	if n := r.closed.Load(); n != want {
		t.Errorf("%s: closed %d times, want %d", r.name, n, want)
	}
}

func TestSurvivesGenerations(t *testing.T) {
	p := NewPool[string, *resource](Options[string]{})
	a, b, other := &resource{name: "a"}, &resource{name: "b"}, &resource{name: "a"}

	first := new(Set)
	for _, r := range []*resource{a, b} {
		if got, err := Hold(first, p, r.name, making(r)); got != r || err != nil {
			t.Fatal(got, err)
		}
	}
	second := new(Set)
	if got, err := Hold(second, p, "a", making(other)); got != a || err != nil {
		t.Errorf("another value, %v", err)
	}
	first.Close()
	first.Close()
	closed(t, a, 0)
	closed(t, b, 1)
	if p.Len() != 1 || first.Len() != 0 || second.Len() != 1 {
		t.Errorf("Len %d %d %d", p.Len(), first.Len(), second.Len())
	}
	second.Close()
	closed(t, a, 1)
	if p.Len() != 0 {
		t.Errorf("Len %d", p.Len())
	}
	third := new(Set)
	if got, _ := Hold(third, p, "a", making(other)); got != other {
		t.Error("a closed value came back")
	}
}

func TestSetClosesBackwards(t *testing.T) {
	var order []int
	s := new(Set)
	for i := range 3 {
		if !s.Add(func() { order = append(order, i) }) {
			t.Error("refused")
		}
	}
	s.Close()
	if s.Add(func() { order = append(order, 9) }) {
		t.Error("a closed Set took a lease")
	}
	if !slices.Equal(order, []int{2, 1, 0, 9}) {
		t.Errorf("%v", order)
	}
	p := NewPool[string, *resource](Options[string]{})
	if _, err := Hold(s, p, "a", func() (*resource, error) { t.Error("made"); return nil, nil }); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestDoubleRelease(t *testing.T) {
	p := NewPool[string, *resource](Options[string]{})
	a := &resource{name: "a"}
	l, m := mustAcquire(t, p, a), mustAcquire(t, p, a)
	l.Release()
	l.Release()
	closed(t, a, 0)
	m.Release()
	m.Release()
	closed(t, a, 1)
	if m.Value() != a {
		t.Error("the value is gone")
	}
}

func TestMakeFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool[string, *resource](Options[string]{})
		boom := errors.New("boom")
		proceed := make(chan struct{})
		var made, failed atomic.Int32
		for range 5 {
			go func() {
				if _, err := p.Acquire("a", func() (*resource, error) { made.Add(1); <-proceed; return nil, boom }); errors.Is(err, boom) {
					failed.Add(1)
				}
			}()
		}
		synctest.Wait()
		close(proceed)
		synctest.Wait()
		if made.Load() != 1 || failed.Load() != 5 || p.Len() != 0 {
			t.Errorf("made %d times, %d errors, Len %d", made.Load(), failed.Load(), p.Len())
		}

		waits := make(chan struct{})
		go func() {
			defer func() { recover() }()
			p.Acquire("a", func() (*resource, error) { <-waits; panic("boom") })
		}()
		synctest.Wait()
		go func() {
			if _, err := p.Acquire("a", nil); err != nil {
				failed.Add(1)
			}
		}()
		synctest.Wait()
		close(waits)
		synctest.Wait()
		if failed.Load() != 6 {
			t.Error("a panic left others waiting, or with a value")
		}
		mustAcquire(t, p, &resource{name: "a"}).Release()
	})
}

// While a key is slow, others are not.
func TestMakeOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool[string, *resource](Options[string]{})
		a, b := &resource{name: "a"}, &resource{name: "b"}
		proceed := make(chan struct{})
		var made, got atomic.Int32
		for range 10 {
			go func() {
				l, err := p.Acquire("a", func() (*resource, error) {
					made.Add(1)
					mustAcquire(t, p, b) // values may stand on others
					<-proceed
					return a, nil
				})
				if err == nil && l.Value() == a {
					got.Add(1)
				}
			}()
		}
		synctest.Wait()
		mustAcquire(t, p, b)
		p.Range(func(key string, r *resource, leases int) bool {
			if r != b || leases != 2 {
				t.Errorf("Range: %s with %d leases", key, leases)
			}
			return true
		})
		close(proceed)
		synctest.Wait()
		if made.Load() != 1 || got.Load() != 10 {
			t.Errorf("made %d times, got %d times", made.Load(), got.Load())
		}
		n := 0
		p.Range(func(string, *resource, int) bool { n++; return false })
		if n != 1 {
			t.Error("Range went on")
		}
	})
}

func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		var reports []error
		p := NewPool[string, *resource](Options[string]{
			Grace:   time.Minute,
			OnClose: func(_ string, err error) { reports = append(reports, err) },
		})
		a := &resource{name: "a", err: boom}
		after := func(d time.Duration, want int32) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			closed(t, a, want)
		}
		l := mustAcquire(t, p, a)
		l.Release()
		after(59*time.Second, 0)
		l = mustAcquire(t, p, &resource{name: "a"})
		if l.Value() != a {
			t.Error("another value within the grace time")
		}
		after(time.Hour, 0)
		l.Release()
		after(59*time.Second, 0)
		after(2*time.Second, 1)
		if p.Len() != 0 || len(reports) != 1 || reports[0] != boom {
			t.Errorf("Len %d, reports %v", p.Len(), reports)
		}
	})
}

// A timer that fired while its value was acquired, and released again, does not end the next grace time.
func TestLateTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool[string, *resource](Options[string]{Grace: time.Minute})
		a := &resource{name: "a"}
		mustAcquire(t, p, a).Release()
		mustAcquire(t, p, a).Release()
		e := p.entries["a"]
		p.expire(e, 1)
		closed(t, a, 0)
		p.expire(e, 2)
		closed(t, a, 1)
		p.Close()
		closed(t, a, 1)
	})
}

// A socket can only be opened again when it is closed: the key is taken until then.
func TestAcquireWaitsForClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool[string, *slow](Options[string]{})
		first := &slow{proceed: make(chan struct{})}
		l, _ := p.Acquire("a", func() (*slow, error) { return first, nil })
		go l.Release()
		synctest.Wait()
		made := false
		go p.Acquire("a", func() (*slow, error) { made = true; return &slow{}, nil })
		synctest.Wait()
		p.Range(func(string, *slow, int) bool { t.Error("a value that is being closed"); return true })
		if made || p.Len() != 1 {
			t.Error("two values at a time")
		}
		close(first.proceed)
		synctest.Wait()
		if !made {
			t.Error("not made afterwards")
		}
	})
}

type slow struct{ proceed chan struct{} }

func (s *slow) Close() { <-s.proceed }

func TestPoolClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool[string, *resource](Options[string]{Grace: time.Hour})
		a, b := &resource{name: "a"}, &resource{name: "b"}
		mustAcquire(t, p, a).Release()
		l := mustAcquire(t, p, b)
		p.Close()
		p.Close()
		closed(t, a, 1)
		closed(t, b, 0)
		if _, err := p.Acquire("b", making(b)); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		l.Release()
		closed(t, b, 1)
		if p.Len() != 0 {
			t.Errorf("Len %d", p.Len())
		}
	})
	// What can not be closed needs no closing.
	p := NewPool[int, int](Options[int]{})
	l, _ := p.Acquire(1, func() (int, error) { return 2, nil })
	l.Release()
}

// Generations come and go in parallel, with and without grace: never two living values of a key, none left.
func TestConcurrentUse(t *testing.T) {
	f := func(grace time.Duration, settle func()) {
		t.Helper()
		p := NewPool[int, *resource](Options[int]{Grace: grace})
		var living [4]atomic.Int32
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(g), 1))
				for range 500 {
					s := new(Set)
					for range r.IntN(5) {
						k := r.IntN(len(living))
						v, err := Hold(s, p, k, func() (*resource, error) {
							if r.IntN(10) == 0 {
								return nil, errors.New("made up")
							}
							if living[k].Add(1) != 1 {
								t.Error("two values of one key")
							}
							return &resource{living: &living[k]}, nil
						})
						if err == nil && v.closed.Load() != 0 {
							t.Error("leased and closed")
						}
					}
					s.Close()
				}
			})
		}
		wg.Wait()
		p.Close()
		settle() // a timer may just be closing one
		for k := range living {
			if n := living[k].Load(); n != 0 {
				t.Errorf("key %d: %d left", k, n)
			}
		}
	}
	f(0, func() {})
	synctest.Test(t, func(*testing.T) { f(time.Nanosecond, synctest.Wait) })
	synctest.Test(t, func(*testing.T) { f(time.Hour, synctest.Wait) })
}
