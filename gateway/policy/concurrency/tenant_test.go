package concurrency

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// tenants is a World with tenants a and b that have these shares.
func tenants(t testing.TB, a, b string) *policytest.World {
	return policytest.New(t, "tenants: {a: {hosts: [a.example.com], concurrency_share: "+a+"}, b: {hosts: [b.example.com], concurrency_share: "+b+"}}")
}

func of(w *policytest.World, tenant string, headers ...string) *exchange.Exchange {
	x := w.Exchange("/", headers...)
	x.Tenant = w.Tenants[tenant]
	return x
}

// A tenant fills its share of the bound and no more, whatever the others leave.
func TestShare(t *testing.T) {
	w := tenants(t, "50%", "1%")
	h := w.MustBuild(t, Definition, "max: 8")
	f := func(tenant string, want int) (in []*exchange.Exchange) {
		t.Helper()
		for {
			x := of(w, tenant)
			if err := h.Request(x); err != nil {
				if err != rejectOverload {
					t.Error(err)
				}
				break
			}
			in = append(in, x)
		}
		if len(in) != want {
			t.Errorf("%q: %d came in, want %d", tenant, len(in), want)
		}
		return in
	}
	a := f("a", 4)
	f("b", 1) // a small share is still one
	f("", 3)  // the rest, which no share bounds
	f("a", 0)
	end(h, a[0])
	f("", 1)
	f("a", 0)
}

// Who waits gets slots in proportion to the share, however many others came first.
func TestFairQueue(t *testing.T) {
	f := func(a, b string, wantA int) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			w := tenants(t, a, b)
			h := w.MustBuild(t, Definition, "{max: 1, queue: 200, queue_timeout: 1m}")
			first := w.Exchange("/")
			if err := h.Request(first); err != nil {
				t.Fatal(err)
			}
			var order strings.Builder
			queue := func(tenant string, n int) {
				for range n {
					x := of(w, tenant)
					go func() {
						if err := h.Request(x); err != nil {
							t.Error(err)
						}
						order.WriteString(tenant) // the slot is the lock
						end(h, x)
					}()
					synctest.Wait()
				}
			}
			queue("a", 100)
			queue("b", 50)
			end(h, first)
			synctest.Wait()
			if n := strings.Count(order.String()[:40], "a"); n < wantA-1 || n > wantA+1 || order.Len() != 150 {
				t.Errorf("shares %s and %s: %d of the first 40 slots for a, want %d: %s", a, b, n, wantA, order.String())
			}
		})
	}
	f("100%", "100%", 20)
	f("75%", "25%", 30)
	f("10%", "30%", 10)
}

// A tenant that fills the queue makes room for one that has less in it, up to its part, and keeps what others do not want.
func TestFairPlacesInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := tenants(t, "100%", "100%")
		h := w.MustBuild(t, Definition, "{max: 1, queue: 10, queue_timeout: 1m}")
		first := w.Exchange("/")
		if err := h.Request(first); err != nil {
			t.Fatal(err)
		}
		var served, refused [2]atomic.Int64
		queue := func(tenant, n int) {
			for range n {
				x := of(w, string(rune('a'+tenant)))
				go func() {
					if h.Request(x) == nil {
						served[tenant].Add(1)
					} else {
						refused[tenant].Add(1)
					}
					end(h, x)
				}()
				synctest.Wait()
			}
		}
		queue(0, 30)
		if n := refused[0].Load(); n != 20 {
			t.Errorf("%d were refused with the queue for itself", n)
		}
		queue(1, 30)
		end(h, first)
		synctest.Wait()
		if served[0].Load() != 5 || served[1].Load() != 5 {
			t.Errorf("of 10 places a had %d and b %d", served[0].Load(), served[1].Load())
		}
	})
}

// Who waits for its own share holds up nobody else.
func TestAShareInUseHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := tenants(t, "25%", "100%")
		h := w.MustBuild(t, Definition, "{max: 4, queue: 10, queue_timeout: 1m}")
		mine := of(w, "a")
		if err := h.Request(mine); err != nil {
			t.Fatal(err)
		}
		passed := false
		next := of(w, "a")
		go func() { passed = h.Request(next) == nil }()
		synctest.Wait()
		for range 3 {
			begin := time.Now()
			if err := h.Request(of(w, "b")); err != nil || time.Since(begin) != 0 {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
		}
		if passed {
			t.Error("the share is exceeded")
		}
		end(h, mine)
		synctest.Wait()
		if !passed {
			t.Error("the slot of the share went to nobody")
		}
	})
}

// No bound is exceeded, and no slot is lost, whatever the tenants do.
func TestTenantsAtConcurrency(t *testing.T) {
	w := tenants(t, "50%", "30%")
	h := w.MustBuild(t, Definition, "{max: 10, queue: 8, queue_timeout: 1ms, "+priorities+"}")
	var in [3]atomic.Int64
	most := [3]int64{5, 3, 10}
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			for range 300 {
				tenant := r.IntN(3)
				x := of(w, []string{"a", "b", ""}[tenant], "X-Priority: "+[]string{"high", "normal", "low"}[r.IntN(3)])
				if h.Request(x) == nil {
					if n := in[tenant].Add(1); n > most[tenant] {
						t.Errorf("%d of tenant %d at the same time", n, tenant)
					}
					for range r.IntN(3000) {
						in[tenant].Load()
					}
					in[tenant].Add(-1)
				}
				end(h, x)
			}
		})
	}
	wg.Wait()
	w.Living.Range(func(key string, v any, _ int) bool {
		g := v.(*gate)
		if g.state.Load() != 0 || g.active != nil {
			t.Errorf("%s: %v after all have ended", key, g)
		}
		for name, ln := range g.lanes {
			if ln.inFlight.Load() != 0 || ln.waiting != 0 {
				t.Errorf("%s: %d in flight and %d waiting after all have ended", name, ln.inFlight.Load(), ln.waiting)
			}
		}
		return true
	})
}

// A tenant's lane outlives reloads with what is in flight there, and ends with the last generation that knows the tenant.
func TestLanesOutliveReloads(t *testing.T) {
	w := tenants(t, "25%", "100%")
	old := w.MustBuild(t, Definition, "max: 4")
	x := of(w, "a")
	if err := old.Request(x); err != nil {
		t.Fatal(err)
	}
	release := w.Reload()
	h := w.MustBuild(t, Definition, "max: 4")
	release()
	if err := h.Request(of(w, "a")); err != rejectOverload {
		t.Error(err)
	}
	end(old, x)
	if err := h.Request(of(w, "a")); err != nil {
		t.Error(err)
	}
	var g *gate
	w.Living.Range(func(_ string, v any, _ int) bool { g = v.(*gate); return false })
	w.Leases.Close()
	if len(g.lanes) != 0 {
		t.Errorf("%d lanes are left", len(g.lanes))
	}
}

// A bound by something is each one's own, and refuses with 429.
func TestBy(t *testing.T) {
	w := tenants(t, "100%", "100%")
	f := func(settings string, requests ...*exchange.Exchange) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		var in []*exchange.Exchange
		for i, x := range requests {
			err := h.Request(x)
			if want := i == len(requests)-1; (err != nil) != want || want && err != rejectOwn {
				t.Errorf("%s: request %d: %v", settings, i, err)
			}
			in = append(in, x)
		}
		for _, x := range in {
			end(h, x)
		}
	}
	f("{max: 1, by: tenant}", of(w, "a"), of(w, "b"), of(w, ""), of(w, "a"))
	f("{max: 1, by: ip}", of(w, "a"), of(w, "b"), of(w, ""), of(w, ""))
	f("{max: 1, by: 'header:X-Org'}", of(w, "a", "X-Org: 1"), of(w, "a", "X-Org: 2"), of(w, "b", "X-Org: 1"), of(w, "b", "X-Org: 1"))
	consumer := func(name string) *exchange.Exchange {
		x := w.Exchange("/")
		x.Identity.Consumer = &exchange.Consumer{Name: name}
		return x
	}
	f("{max: 1, by: consumer}", consumer("alice"), consumer("bob"), consumer("bob"))
	w.Living.Range(func(_ string, v any, _ int) bool {
		if gs, ok := v.(*gates); ok {
			for i := range gs.shards {
				for key, k := range gs.shards[i].gates {
					if k.users != 0 || k.state.Load() != 0 {
						t.Errorf("%q: %d users, %v", key, k.users, k)
					}
				}
			}
		}
		return true
	})
}

// Idle gates do not pile up.
func TestGatesAreBounded(t *testing.T) {
	gs, _ := newGates()
	busy := gs.of([]byte("busy"))
	var key [8]byte
	for i := range 4 * gateShards * maxIdle {
		for j := range key {
			key[j] = byte(i >> (8 * j))
		}
		gs.of(key[:]).release()
	}
	n := 0
	for i := range gs.shards {
		n += len(gs.shards[i].gates)
	}
	if n > gateShards*maxIdle {
		t.Errorf("%d gates", n)
	}
	if gs.of([]byte("busy")) != busy {
		t.Error("one in use was dropped")
	}
}

// A request whose deadline passes gets 504 at once, in the queue and before it.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{max: 1, queue: 10, queue_timeout: 10s}")
		f := func(want error, after time.Duration, headers ...string) {
			t.Helper()
			begin, x := time.Now(), w.Exchange("/", headers...)
			if err := h.Request(x); err != want || time.Since(begin) != after {
				t.Errorf("%v: %v after %v, want %v after %v", headers, err, time.Since(begin), want, after)
			}
			end(h, x)
		}
		f(rejectDeadline, 0, "X-Request-Deadline: 0") // although there is a slot
		f(rejectDeadline, 0, "Grpc-Timeout: 0m")
		first := w.Exchange("/")
		if err := h.Request(first); err != nil {
			t.Fatal(err)
		}
		f(rejectDeadline, 2*time.Second, "X-Request-Deadline: 2")
		f(rejectDeadline, 250*time.Millisecond, "Grpc-Timeout: 250m")
		f(rejectDeadline, 3*time.Second, "X-Request-Deadline: "+policytest.Epoch.Add(3*time.Second).Format(time.RFC3339))
		f(rejectOverload, 10*time.Second, "X-Request-Deadline: 60")
		f(rejectOverload, 10*time.Second, "X-Request-Deadline: whenever")
		// One that is let in when its deadline has passed is not served.
		late := w.Exchange("/", "X-Request-Deadline: 5")
		var got error
		go func() { got = h.Request(late); end(h, late) }()
		synctest.Wait()
		w.Advance(6 * time.Second)
		end(h, first)
		synctest.Wait()
		if got != rejectDeadline {
			t.Error(got)
		}
		f(nil, 0)
	})
}

func TestNoAllocationsOfTenants(t *testing.T) {
	w := tenants(t, "50%", "50%")
	f := func(what, settings string, prepare func(h policy.Hooks)) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		if prepare != nil {
			prepare(h)
		}
		w.NoAllocations(t, what, func(x *exchange.Exchange) {
			x.Tenant = w.Tenants["a"]
			_ = h.Request(x)
			h.Done(x)
		}, "X-Request-Deadline: 30")
	}
	f("share", "max: 10", nil)
	f("by tenant", "{max: 10, by: tenant}", nil)
	f("share in use", "{max: 2, by: route, queue: 5}", func(h policy.Hooks) {
		if err := h.Request(of(w, "b")); err != nil {
			t.Fatal(err)
		}
	})
}
