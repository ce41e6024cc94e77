package quota

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway/cluster"
	"sluice/gateway/cluster/redistest"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func sharing(t testing.TB, server *redistest.Server, timeout string, onFailure cluster.OnFailure) (*policytest.World, *cluster.Store) {
	w := policytest.New(t, "state: {redis: {addresses: ['a:1'], timeout: "+timeout+"}}")
	return w, w.Share(t, server.Address, onFailure)
}

// Two instances count together; of several windows all are charged or none.
func TestShared(t *testing.T) {
	server := redistest.Start(t)
	a, _ := sharing(t, server, "10s", cluster.Local)
	b, _ := sharing(t, server, "10s", cluster.Local)
	const settings = "[{requests: 3, per: year, by: global, durable: true}, {requests: 1, per: month, by: header:X-Org}]"
	ha, hb := a.MustBuild(t, Definition, settings), b.MustBuild(t, Definition, settings)
	const announced = `"year";q=3;w=31536000, "month";q=1;w=2678400`
	f := func(got, want answer) {
		t.Helper()
		want.policy = announced
		if got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
	f(send(t, ha, a.Exchange("/", "X-Org: a")), answer{"ok", `"year";r=2;t=30297600, "month";r=0;t=1440000`, "", ""})
	f(send(t, hb, b.Exchange("/", "X-Org: a")), answer{"429", `"year";r=2;t=30297600, "month";r=0;t=1440000`, "", "1440000"})
	f(send(t, hb, b.Exchange("/", "X-Org: b")), answer{"ok", `"year";r=1;t=30297600, "month";r=0;t=1440000`, "", ""})
	f(send(t, ha, a.Exchange("/", "X-Org: c")), answer{"ok", `"year";r=0;t=30297600, "month";r=0;t=1440000`, "", ""})
	f(send(t, ha, a.Exchange("/", "X-Org: d")), answer{"429", `"year";r=0;t=30297600, "month";r=1;t=1440000`, "", "30297600"})
	// A new period is a new count.
	a.Advance(17 * 24 * time.Hour)
	if got := send(t, ha, a.Exchange("/", "X-Org: a")); got.verdict != "429" || got.standing != `"year";r=0;t=28828800, "month";r=1;t=2390400` {
		t.Errorf("%+v", got)
	}
	if len(a.Warnings()) > 0 {
		t.Error(a.Warnings())
	}
}

// Alone an instance has its part of what was left, and the store hears of it afterwards.
func TestSharedWithoutTheStore(t *testing.T) {
	server := redistest.Start(t)
	w, s := sharing(t, server, "200ms", cluster.Local)
	other, _ := sharing(t, server, "200ms", cluster.Local)
	h := w.MustBuild(t, Definition, "{requests: 20, per: year, by: global}")
	soon := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	soon("they do not find each other", func() bool { return s.Instances() == 2 })
	for range 4 {
		soon("the store does not answer", s.Up)
		if got := send(t, h, w.Exchange("/")); got.verdict != "ok" {
			t.Fatalf("%+v", got)
		}
	}
	server.Pause()
	soon("it is not noticed", func() bool { return !s.Up() })
	passed := 0
	for range 20 {
		if send(t, h, w.Exchange("/")).verdict == "ok" {
			passed++
		}
	}
	if passed != 8 { // half of what was left
		t.Errorf("%d passed", passed)
	}
	server.Resume()
	ho := other.MustBuild(t, Definition, "{requests: 20, per: year, by: global}")
	soon("the other instance does not see what was used", func() bool {
		got := send(t, ho, other.Exchange("/"))
		return got.verdict == "429"
	})
}

// A request whose answer comes late counts once.
func TestLateAnswersAreNotLost(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Address)
	w := policytest.New(t, "state: {redis: {addresses: ['a:1'], timeout: 200ms}}")
	s := w.Share(t, proxy.Address, cluster.Local)
	h := w.MustBuild(t, Definition, "{requests: 100, per: year, by: global}")
	if got := send(t, h, w.Exchange("/")); got.verdict != "ok" { // now the server knows the script
		t.Fatalf("%+v", got)
	}
	proxy.Delay(150 * time.Millisecond)
	if got := send(t, h, w.Exchange("/")); got.verdict != "ok" {
		t.Fatalf("%+v", got)
	}
	proxy.Delay(0)
	for end := time.Now().Add(30 * time.Second); !s.Up(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the store does not answer")
		}
	}
	got := send(t, h, w.Exchange("/"))
	if !strings.HasPrefix(got.standing, `"year";r=97;`) {
		t.Errorf("after three requests: %+v", got)
	}
}

// What a consumer is shown is what all instances have counted, and looking counts nothing.
func TestSharedStanding(t *testing.T) {
	server := redistest.Start(t)
	a, _ := sharing(t, server, "10s", cluster.Local)
	b, _ := sharing(t, server, "10s", cluster.Local)
	const settings = "[{requests: 3, per: year}, {requests: 5, per: day, by: ip}]"
	ha, hb := a.MustBuild(t, Definition, settings), b.MustBuild(t, Definition, settings)
	alice := &exchange.Consumer{Name: "alice"}
	f := func(w *policytest.World, h policy.Hooks, used, remaining int64) {
		t.Helper()
		x := w.Exchange("/")
		x.Identity.Consumer = alice
		for range 2 {
			if got := h.Standing(x); len(got) != 1 || got[0].Period != "year" || got[0].Used != used || got[0].Remaining != remaining {
				t.Errorf("%+v", got)
			}
		}
	}
	f(b, hb, 0, 3)
	for range 2 {
		x := a.Exchange("/")
		x.Identity.Consumer = alice
		send(t, ha, x)
	}
	f(a, ha, 2, 1)
	f(b, hb, 2, 1)
	// Without the store it is what this instance heard last.
	server.Kill()
	f(a, ha, 2, 1)
}

// Whatever becomes of answers, each request that passed counts once, and none that was refused.
func TestEachCountsOnce(t *testing.T) {
	server := redistest.Start(t)
	f := func(onFailure cluster.OnFailure) {
		t.Helper()
		server.Do("FLUSHALL")
		proxy := redistest.NewProxy(t, server.Address)
		w := policytest.New(t, "state: {redis: {addresses: ['a:1'], timeout: 20ms}}")
		s := w.Share(t, proxy.Address, onFailure)
		const settings = "[{requests: 100000, per: year, by: global}, {requests: 20, per: month, by: header:X-Org}]"
		h := w.MustBuild(t, Definition, settings)
		var passed atomic.Int64
		ask := func(org string) {
			if send(t, h, w.Exchange("/", "X-Org: "+org)).verdict == "ok" {
				passed.Add(1)
			}
		}
		for round := range 20 {
			proxy.Delay(time.Duration(rand.IntN(30)) * time.Millisecond)
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() { ask(strconv.Itoa((round + i) % 7)) })
			}
			all.Wait()
		}
		proxy.Delay(0)
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			if q := theState(w); s.Up() && q.settled() {
				break
			} else if s.Up() {
				q.tellOwed(s)
			}
			if time.Now().After(end) {
				t.Fatal("what is owed can not be told")
			}
		}
		other, _ := sharing(t, server, "10s", cluster.Local)
		used := send(t, other.MustBuild(t, Definition, settings), other.Exchange("/", "X-Org: none")).standing
		if want := fmt.Sprintf(`"year";r=%d;`, 100000-passed.Load()-1); !strings.HasPrefix(used, want) {
			t.Errorf("%s: %d passed, and it says %s", onFailure, passed.Load(), used)
		}
	}
	f(cluster.Local)
	f(cluster.Deny)
}

func theState(w *policytest.World) (s *State) {
	w.Living.Range(func(_ string, v any, _ int) bool { s, _ = v.(*State); return s == nil })
	return s
}

// settled tells whether nothing is owed, and no call in question.
func (s *State) settled() bool {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, c := range sh.counts {
			if c.owed != 0 || c.calls != nil && len(c.calls.lost) > 0 {
				sh.mu.Unlock()
				return false
			}
		}
		sh.mu.Unlock()
	}
	return true
}

// What was used without the store by one whose key is long is told of that key.
func TestLongKeyIsToldLater(t *testing.T) {
	server := redistest.Start(t)
	const settings = "{requests: 20, per: year}"
	w, s := sharing(t, server, "200ms", cluster.Local)
	h := w.MustBuild(t, Definition, settings)
	asks := func(w *policytest.World) *exchange.Exchange {
		x := w.Exchange("/")
		x.Identity.Authenticated, x.Identity.Subject = true, []byte(strings.Repeat("long", 300))
		return x
	}
	server.Pause()
	soon := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	soon("it is not noticed", func() bool { return !s.Up() })
	for range 5 {
		send(t, h, asks(w))
	}
	server.Resume()
	other, _ := sharing(t, server, "10s", cluster.Local)
	ho := other.MustBuild(t, Definition, settings)
	soon("it is not told", func() bool { return ho.Standing(asks(other))[0].Used == 5 })
}

// A store that the configuration has left is not held.
func TestStoreIsLeft(t *testing.T) {
	server := redistest.Start(t)
	w, _ := sharing(t, server, "10s", cluster.Local)
	w.MustBuild(t, Definition, "{requests: 3, per: year}")
	tellers := func() (n int) {
		w.Living.Range(func(_ string, v any, leases int) bool {
			if _, ok := v.(*teller); ok {
				n++
			}
			return true
		})
		return n
	}
	for range 3 {
		release := w.Reload()
		w.Share(t, server.Address, cluster.Local)
		w.MustBuild(t, Definition, "{requests: 3, per: year}")
		release()
		if n := tellers(); n != 1 {
			t.Errorf("%d stores are held", n)
		}
	}
}
