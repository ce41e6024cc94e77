package concurrency

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

type claims map[string]string

func (c claims) Claim(path string) ([]byte, bool) { v, ok := c[path]; return []byte(v), ok }
func (c claims) ClaimHas(path, value string) bool { return c[path] == value }

func classifierOf(t *testing.T, w *policytest.World, scope string, p Priority) *classifier {
	t.Helper()
	c, err := newClassifier(&policy.Build{World: w.World, Scope: scope, Route: &exchange.Route{Name: "users"}}, &p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClassOf(t *testing.T) {
	w := policytest.New(t, `
services: {s: {endpoints: ["http://127.0.0.1:1"]}}
routes: {users: {match: {paths: [/u]}, service: s}, orders: {match: {paths: [/o]}, service: s}}
consumers: {gold: {groups: [partners, paying]}, free: {groups: [trial]}, both: {groups: [trial, paying]}}
`)
	f := func(p Priority, prepare func(x *exchange.Exchange), want class, headers ...string) {
		t.Helper()
		x := w.Exchange("/", headers...)
		if prepare != nil {
			prepare(x)
		}
		if got := classifierOf(t, w, "global", p).classOf(x); got != want {
			t.Errorf("%+v: class %d, want %d", p, got, want)
		}
	}
	consumer := func(name string) func(*exchange.Exchange) {
		return func(x *exchange.Exchange) { x.Identity.Consumer = w.Consumers[name] }
	}
	header := Priority{By: "header:X-Priority", High: []string{"high", "1"}, Low: []string{"low"}}
	f(header, nil, high, "X-Priority: 1")
	f(header, nil, low, "X-Priority: low")
	f(header, nil, normal, "X-Priority: Low")
	f(header, nil, normal)
	byConsumer := Priority{By: "consumer", High: []string{"gold"}, Low: []string{"free"}}
	f(byConsumer, consumer("gold"), high)
	f(byConsumer, consumer("free"), low)
	f(byConsumer, consumer("both"), normal)
	f(byConsumer, nil, normal)
	group := Priority{By: "group", High: []string{"paying"}, Low: []string{"trial"}}
	f(group, consumer("gold"), high)
	f(group, consumer("free"), low)
	f(group, consumer("both"), high)
	f(group, nil, normal)
	claim := Priority{By: "claim:tier", High: []string{"gold"}}
	f(claim, func(x *exchange.Exchange) { x.Identity.Claims = claims{"tier": "gold"} }, high)
	f(claim, func(x *exchange.Exchange) { x.Identity.Claims = claims{} }, normal)
	f(claim, nil, normal)
	f(Priority{By: "route", High: []string{"users"}, Low: []string{"orders"}}, nil, high)
	f(Priority{By: "route", Low: []string{"users"}}, nil, low)
	f(Priority{By: "route", Low: []string{"orders"}}, nil, normal)
	f(Priority{}, nil, normal)
	_, err := newClassifier(&policy.Build{World: w.World, Scope: "global", Route: &exchange.Route{Name: "users"}}, &Priority{By: "route", High: []string{"user"}})
	if err == nil {
		t.Error("a route that is not there is taken")
	}
}

// A bound that others have filled is not the bound of those above them.
func TestReserve(t *testing.T) {
	f := func(full uint32, want ...uint32) {
		t.Helper()
		c := &classifier{}
		got := []uint32{c.bound(high, full, full), c.bound(normal, full, full), c.bound(low, full, full)}
		if !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", full, got, want)
		}
	}
	f(1, 1, 1, 1)
	f(4, 4, 2, 1)
	f(10, 10, 5, 2)
	f(20, 20, 15, 10)
	f(100, 100, 90, 80)
	var none *classifier
	if none.bound(normal, 10, 10) != 10 {
		t.Error("something is reserved for nobody")
	}
}

func TestLowIsRefusedFirst(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{max: 20, "+priorities+"}")
	f := func(priority string, want int) {
		t.Helper()
		n := 0
		for h.Request(w.Exchange("/", "X-Priority: "+priority)) == nil {
			n++
		}
		if n != want {
			t.Errorf("%s: %d came in, want %d", priority, n, want)
		}
	}
	f("low", 10)
	f("normal", 5)
	f("low", 0)
	f("high", 5)
}

// In the queue the higher classes are served first, and take the places of the lowest.
func TestQueueByPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{max: 1, queue: 3, queue_timeout: 1m, "+priorities+"}")
		first := w.Exchange("/", "X-Priority: high")
		if err := h.Request(first); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var served, refused []string
		send := func(priority, name string) {
			x := w.Exchange("/", "X-Priority: "+priority)
			go func() {
				err := h.Request(x)
				mu.Lock()
				if err == nil {
					served = append(served, name)
				} else {
					refused = append(refused, name)
				}
				mu.Unlock()
				end(h, x)
			}()
			synctest.Wait()
		}
		send("low", "low 1")
		send("low", "low 2")
		send("normal", "normal 1")
		send("high", "high 1")   // sends low 2 away
		send("low", "low 3")     // finds nobody below
		send("normal", "normal") // sends low 1 away
		send("normal", "late")   // finds nobody below
		send("high", "high 2")   // sends the younger normal one away
		time.Sleep(time.Second)
		end(h, first)
		synctest.Wait()
		if want := []string{"high 1", "high 2", "normal 1"}; !slices.Equal(served, want) {
			t.Errorf("served %q, want %q", served, want)
		}
		if want := []string{"low 2", "low 3", "low 1", "late", "normal"}; !slices.Equal(refused, want) {
			t.Errorf("refused %q, want %q", refused, want)
		}
	})
}

// The bound holds with classes and an adaptive limit too, and no slot is lost.
func TestBoundAtConcurrencyWithPriorities(t *testing.T) {
	w := policytest.New(t, "")
	const most = 8
	h := w.MustBuild(t, Definition, "{adaptive: true, max: 8, queue: 4, queue_timeout: 1ms, "+priorities+"}")
	var in atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 300 {
				x := w.Exchange("/", "X-Priority: "+[...]string{"high", "normal", "low"}[rand.N(3)])
				if h.Request(x) == nil {
					if n := in.Add(1); n > most {
						t.Errorf("%d at the same time", n)
					}
					w.Advance(time.Duration(rand.N(int64(time.Millisecond))))
					in.Add(-1)
					x.Attempts, x.UpstreamTime = 1, rand.N(int64(time.Millisecond))
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
}

// A health route answers whatever else is going on.
func TestHealthIsNotBounded(t *testing.T) {
	w := policytest.New(t, "")
	block, err := config.ParseBlock("policies.concurrency", "max: 1")
	if err != nil {
		t.Fatal(err)
	}
	h, errs := Definition.Build(&policy.Build{
		World: w.World, Policy: "concurrency", Scope: "global", Path: "policies.concurrency",
		Route: &exchange.Route{Name: "health"}, RouteConfig: &config.Route{Name: "health", Health: block},
	}, block)
	if errs.Err() != nil || h.Request != nil {
		t.Errorf("%v %v", errs.Err(), h)
	}
}

func TestNoAllocationsAdaptive(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{adaptive: true, "+priorities+"}")
	w.NoAllocations(t, "pass", func(x *exchange.Exchange) {
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		const took = 20 * time.Microsecond // a round of these stays within a second, each of which the clock keeps in new memory
		w.Advance(took)
		x.Attempts, x.UpstreamTime = 1, int64(took)
		h.Done(x)
	}, "X-Priority: high")
}

// What says nothing about how busy backends are is not learnt from.
func TestWhatCounts(t *testing.T) {
	w := policytest.New(t, "")
	f := func(what string, prepare func(x *exchange.Exchange), want int64, counts bool) {
		t.Helper()
		x := w.Exchange("/")
		prepare(x)
		if ns, ok := tookOf(x); ns != want || ok != counts {
			t.Errorf("%s: %d %t", what, ns, ok)
		}
	}
	f("answer", func(x *exchange.Exchange) { x.Attempts, x.UpstreamTime = 1, 5 }, 5, true)
	f("own", func(x *exchange.Exchange) {}, 0, true)
	f("refused", func(x *exchange.Exchange) { x.Reject = rejectOverload }, 0, false)
	f("error", func(x *exchange.Exchange) { x.Attempts, x.UpstreamTime = 1, 5; x.Response.SetStatusCode(500) }, 5, false)
	f("timeout", func(x *exchange.Exchange) {
		x.Attempts, x.UpstreamTime, x.Reject = 1, 5, exchange.NewReject(504, "t", "")
	}, 5, true)
	f("retries", func(x *exchange.Exchange) { x.Attempts, x.UpstreamTime = 2, 5 }, 0, false)
	f("gone", func(x *exchange.Exchange) { x.Attempts = 1; x.Aborted.Store(true) }, 0, false)
}
