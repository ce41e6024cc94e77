package concurrency

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

func end(h policy.Hooks, x *exchange.Exchange) {
	h.Done(x)
	x.Close()
}

func TestFull(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "max: 2")
	if h.Blocking {
		t.Error("blocks without a queue")
	}
	a, b, c := w.Exchange("/"), w.Exchange("/"), w.Exchange("/")
	f := func(x *exchange.Exchange, want error) {
		t.Helper()
		if err := h.Request(x); err != want {
			t.Errorf("%v, want %v", err, want)
		}
	}
	f(a, nil)
	f(b, nil)
	f(c, rejectOverload)
	end(h, c)
	d := w.Exchange("/")
	f(d, rejectOverload) // the end of one that was refused frees nothing
	end(h, d)
	end(h, a)
	e := w.Exchange("/")
	f(e, nil)
	h.Done(e)
	end(h, e) // a second end frees nothing
	e = w.Exchange("/")
	f(e, nil)
	f(w.Exchange("/"), rejectOverload)
}

// What is in flight counts on over a reload with another bound.
func TestReload(t *testing.T) {
	w := policytest.New(t, "")
	old := w.MustBuild(t, Definition, "max: 2")
	x := w.Exchange("/")
	if err := old.Request(x); err != nil {
		t.Fatal(err)
	}
	release := w.Reload()
	h := w.MustBuild(t, Definition, "max: 1")
	release()
	if err := h.Request(w.Exchange("/")); err != rejectOverload {
		t.Fatal(err)
	}
	end(old, x)
	if err := h.Request(w.Exchange("/")); err != nil {
		t.Fatal(err)
	}
}

func TestQueueIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{max: 1, queue: 3, queue_timeout: 1m}")
		if !h.Blocking {
			t.Error("a hook with a queue does not say that it blocks")
		}
		first := w.Exchange("/")
		if err := h.Request(first); err != nil {
			t.Fatal(err)
		}
		var order []int
		for i := range 3 {
			x := w.Exchange("/")
			go func() {
				if err := h.Request(x); err != nil {
					t.Error(err)
				}
				order = append(order, i) // the slot is the lock
				end(h, x)
			}()
			synctest.Wait()
		}
		if err := h.Request(w.Exchange("/")); err != rejectOverload {
			t.Errorf("%v with a full queue", err)
		}
		time.Sleep(10 * time.Second)
		end(h, first)
		synctest.Wait()
		if !slices.Equal(order, []int{0, 1, 2}) {
			t.Errorf("served in the order %v", order)
		}
	})
}

func TestQueueTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{max: 1, queue: 1, queue_timeout: 3s}")
		first := w.Exchange("/")
		if err := h.Request(first); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		second := w.Exchange("/")
		if err := h.Request(second); err != rejectOverload || time.Since(begin) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		end(h, second)
		end(h, first)
		if err := h.Request(w.Exchange("/")); err != nil {
			t.Errorf("the queue is empty and the slot free: %v", err)
		}
	})
}

type client struct{ gone bool }

func (c *client) Gone() bool     { return c.gone }
func (c *client) InterruptRead() {}
func (c *client) Interim([]byte) {}

func TestClientGoneWhileQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{max: 1, queue: 2, queue_timeout: 1m}")
		first := w.Exchange("/")
		if err := h.Request(first); err != nil {
			t.Fatal(err)
		}
		lost, served := w.Exchange("/"), w.Exchange("/")
		lost.Client = &client{gone: true}
		begin := time.Now()
		go func() {
			if err := h.Request(lost); err != policy.ClientGone || !lost.Aborted.Load() || time.Since(begin) > time.Second {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			end(h, lost)
		}()
		synctest.Wait()
		passed := false
		go func() {
			passed = h.Request(served) == nil
		}()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if passed {
			t.Error("the end of the lost request freed a slot that it never had")
		}
		end(h, first)
		synctest.Wait()
		if !passed {
			t.Error("who waited behind the lost request did not get the slot")
		}
	})
}

// A request that waits under the old, narrow bound does not keep the others from slots once it gave up.
func TestWiderBoundBehindANarrowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		old := w.MustBuild(t, Definition, "{max: 1, queue: 5, queue_timeout: 1s}")
		if err := old.Request(w.Exchange("/")); err != nil {
			t.Fatal(err)
		}
		go func() {
			if err := old.Request(w.Exchange("/")); err != rejectOverload {
				t.Error(err)
			}
		}()
		synctest.Wait()
		h := w.MustBuild(t, Definition, "{max: 2, queue: 5, queue_timeout: 1m}")
		begin := time.Now()
		if err := h.Request(w.Exchange("/")); err != nil || time.Since(begin) != time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// The bound holds, and no slot is lost, whatever the requests do.
func TestBoundAtConcurrency(t *testing.T) {
	w := policytest.New(t, "")
	const most = 4
	h := w.MustBuild(t, Definition, "{max: 4, queue: 8, queue_timeout: 1ms}")
	var in, refused, passed atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 300 {
				x := w.Exchange("/")
				if h.Request(x) == nil {
					if n := in.Add(1); n > most {
						t.Errorf("%d at the same time", n)
					}
					for range rand.N(3000) {
						in.Load()
					}
					in.Add(-1)
					passed.Add(1)
				} else {
					refused.Add(1)
				}
				end(h, x)
			}
		})
	}
	wg.Wait()
	w.Living.Range(func(key string, v any, _ int) bool {
		if g := v.(*gate); g.state.Load() != 0 || g.active != nil {
			t.Errorf("%s: %v after all have ended", key, g)
		}
		return true
	})
	if passed.Load() == 0 {
		t.Error("nobody passed")
	}
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	f := func(what, settings string, taken int) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		for range taken {
			if err := h.Request(w.Exchange("/")); err != nil {
				t.Fatal(err)
			}
		}
		w.NoAllocations(t, what, func(x *exchange.Exchange) {
			_ = h.Request(x)
			h.Done(x)
		})
	}
	f("pass", "{max: 10, queue: 10}", 0)
	f("refusal", "max: 2", 2)
}

// Waiting allocates nothing either: waiters and timers are used again.
func TestNoAllocationsInTheQueue(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{max: 1, queue: 1, queue_timeout: 1m}")
	if err := h.Request(w.Exchange("/")); err != nil {
		t.Fatal(err)
	}
	var g *gate
	w.Living.Range(func(_ string, v any, _ int) bool { g = v.(*gate); return false })
	l := &limit{gate: g, most: 1, queue: 1, refusal: rejectOverload}
	w.NoAllocations(t, "queue", func(x *exchange.Exchange) {
		wait, _ := g.queue(l, entrant{normal, &g.common, noShare})
		g.leave(&g.common)
		if err := g.wait(x, wait, time.Minute, rejectOverload); err != nil {
			t.Fatal(err)
		}
	})
}
