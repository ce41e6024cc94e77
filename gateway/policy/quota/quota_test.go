package quota

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
	"sluice/gateway/policy/ratelimit"
)

// Nothing that a policy started outlives its configuration.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// answer is what a request was told: "ok" or the status, and its headers.
type answer struct{ verdict, standing, policy, retry string }

func send(t *testing.T, h policy.Hooks, x *exchange.Exchange) answer {
	t.Helper()
	a := answer{verdict: "ok"}
	if err := h.Request(x); err != nil {
		a.verdict = strconv.Itoa(err.(*exchange.Reject).Status)
	}
	value := func(name string) string {
		v, _ := x.ToClient.Value(name)
		return string(v)
	}
	a.standing, a.policy, a.retry = value("RateLimit"), value("RateLimit-Policy"), value("Retry-After")
	_ = x.Close()
	return a
}

// The World begins on Friday, 2027-01-15 08:00 UTC.
func TestHeaders(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 2, per: day}")
	f := func(want answer) {
		t.Helper()
		if got := send(t, h, w.Exchange("/")); got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
	const announced = `"day";q=2;w=86400`
	f(answer{"ok", `"day";r=1;t=57600`, announced, ""})
	f(answer{"ok", `"day";r=0;t=57600`, announced, ""})
	f(answer{"429", `"day";r=0;t=57600`, announced, "57600"})
	w.Advance(16*time.Hour - time.Second)
	f(answer{"429", `"day";r=0;t=1`, announced, "1"})
	w.Advance(time.Second)
	f(answer{"ok", `"day";r=1;t=86400`, announced, ""})
	if n := w.Metrics.RateLimited.With(nil, "users", "quota").Value(); n != 2 {
		t.Errorf("%d requests counted as limited", n)
	}
}

// What rate_limit says stays, and the quota stands behind it.
func TestHeadersBesideRateLimit(t *testing.T) {
	w := policytest.New(t, "")
	r, q := w.MustBuild(t, ratelimit.Definition, "{requests: 100, per: 1m}"), w.MustBuild(t, Definition, "[{requests: 10, per: day}, {requests: 100, per: month, weight: 5, by: ip}]")
	x := w.Exchange("/")
	if err := r.Request(x); err != nil {
		t.Fatal(err)
	}
	want := answer{"ok", `"default";r=99;t=1, "day";r=9;t=57600, "month";r=95;t=1440000`, `"default";q=100;w=60, "day";q=10;w=86400, "month";q=100;w=2678400`, ""}
	if got := send(t, q, x); got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// Of several windows all are charged or none, and the client is told of the one that it waits for longest.
func TestAllOrNothing(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "[{requests: 3, per: month, by: global}, {requests: 1, per: day, by: header:X-Org}]")
	f := func(org, verdict, standing, retry string) {
		t.Helper()
		if got := send(t, h, w.Exchange("/", "X-Org: "+org)); got.verdict != verdict || got.standing != standing || got.retry != retry {
			t.Errorf("%s: %+v", org, got)
		}
	}
	f("a", "ok", `"month";r=2;t=1440000, "day";r=0;t=57600`, "")
	f("a", "429", `"month";r=2;t=1440000, "day";r=0;t=57600`, "57600")
	f("b", "ok", `"month";r=1;t=1440000, "day";r=0;t=57600`, "")
	f("c", "ok", `"month";r=0;t=1440000, "day";r=0;t=57600`, "")
	f("c", "429", `"month";r=0;t=1440000, "day";r=0;t=57600`, "1440000")
	f("d", "429", `"month";r=0;t=1440000, "day";r=1;t=57600`, "1440000")
}

// A clock that is set back gives nobody a second quota, and one that was far ahead takes none away for good.
func TestClockSetBack(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 2, per: day}")
	f := func(want string) {
		t.Helper()
		if got := send(t, h, w.Exchange("/")).verdict; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	w.Advance(16 * time.Hour)
	f("ok")
	w.Advance(-2 * time.Second) // yesterday again
	f("ok")
	f("429")
	w.Advance(2 * time.Second)
	f("429")
	w.Advance(300 * 24 * time.Hour)
	f("ok")
	w.Advance(-300 * 24 * time.Hour)
	f("ok")
	f("429")
	w.Advance(24 * time.Hour)
	f("ok")
}

// Counts stay over a reload with another number, also where what a consumer brings along has changed.
func TestReload(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 1, per: month}")
	send(t, h, w.Exchange("/"))
	end := w.Reload()
	h = w.MustBuild(t, Definition, "{requests: 3, per: month}")
	end()
	if got := send(t, h, w.Exchange("/")); got.verdict != "ok" || !strings.HasPrefix(got.standing, `"month";r=1;`) {
		t.Fatalf("%+v", got)
	}
}

func TestTenantsShareNothing(t *testing.T) {
	w := policytest.New(t, "tenants: {a: {hosts: [a.example.com]}, b: {hosts: [b.example.com]}}")
	f := func(settings string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		for _, want := range []string{"ok", "429"} {
			for _, tenant := range []string{"a", "b", ""} {
				x := w.Exchange("/")
				x.Tenant = w.Tenants[tenant]
				if got := send(t, h, x); got.verdict != want {
					t.Errorf("%s: tenant %q: %s, want %s", settings, tenant, got.verdict, want)
				}
			}
		}
	}
	f("{requests: 1, per: day, by: tenant}")
	f("{requests: 1, per: week, by: ip}")
	f("{requests: 1, per: month, by: consumer}")
	f("{requests: 1, per: year, by: 'header:X-Org'}")
}

func TestExactAtConcurrency(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "[{requests: 300, per: day, by: global}, {requests: 100, per: day}]")
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				x := w.Exchange("/")
				if h.Request(x) == nil {
					passed.Add(1)
				}
				_ = x.Close()
			}
		})
	}
	wg.Wait()
	if passed.Load() != 100 {
		t.Errorf("%d passed", passed.Load())
	}
	if got := send(t, w.MustBuild(t, Definition, "{requests: 300, per: day, by: global}"), w.Exchange("/")); !strings.HasPrefix(got.standing, `"day";r=199;`) {
		t.Errorf("%+v: what the other window refused was charged", got)
	}
}

func inspect(w *policytest.World, q policy.LimitQuery) string {
	var all []string
	q.Now = w.Clock.Now()
	w.Living.Range(func(_ string, v any, _ int) bool {
		if i, ok := v.(policy.LimitInspector); ok {
			for _, e := range i.Inspect(q) {
				p := e.Windows[0]
				all = append(all, fmt.Sprintf("%s %s %s/%s %s=%d+%d/%d,%.0f", e.Policy, e.Scope, e.Tenant, e.Key, p.Period, p.Used, p.Remaining, p.Requests, p.Reset))
			}
		}
		return true
	})
	return strings.Join(all, "; ")
}

func TestInspect(t *testing.T) {
	w := policytest.New(t, "tenants: {acme: {hosts: [a.example.com]}}\nconsumers: {alice: {tenant: acme}, bob: {}}")
	h := w.MustBuild(t, Definition, "{requests: 10, per: day, weight: 3}")
	for _, name := range []string{"alice", "bob", "bob", ""} {
		x := w.Exchange("/")
		if x.Identity.Consumer = w.Consumers[name]; name != "" {
			x.Tenant = x.Identity.Consumer.Tenant
		}
		send(t, h, x)
	}
	f := func(q policy.LimitQuery, want string) {
		t.Helper()
		if got := inspect(w, q); got != want {
			t.Errorf("%+v:\n%s, want\n%s", q, got, want)
		}
	}
	const alice, bob, nobody = "quota routes.users acme/consumer:alice day=3+7/10,57600", "quota routes.users /consumer:bob day=6+4/10,57600", "quota routes.users /ip:192.0.2.1 day=3+7/10,57600"
	f(policy.LimitQuery{Most: 10}, bob+"; "+nobody+"; "+alice)
	f(policy.LimitQuery{Most: 1}, bob)
	f(policy.LimitQuery{Most: 10, Tenant: "acme"}, alice)
	f(policy.LimitQuery{Most: 10, Prefix: "bo"}, bob)
	f(policy.LimitQuery{Most: 10, Tenant: "acme", Prefix: "bob"}, "")
	w.Advance(16 * time.Hour)
	f(policy.LimitQuery{Most: 10, Prefix: "bob"}, "quota routes.users /consumer:bob day=0+10/10,86400")
}

func TestWarnsOfForgetting(t *testing.T) {
	f := func(configuration, settings, want string) {
		t.Helper()
		w := policytest.New(t, configuration)
		w.MustBuild(t, Definition, settings)
		if got := strings.Join(w.Warnings(), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q, want %q", got, want)
		}
	}
	dir := "state: {dir: " + t.TempDir() + "}"
	f("", "{requests: 2, per: day}", "routes.users.policies.quota: a restart forgets what was used; set state.dir and durable: true")
	f(dir, "{requests: 2, per: day}", "write durable: true")
	f(dir, "{requests: 2, per: day, durable: true}", "")
}

// A flood of callers takes a bounded memory, and those who have used most of theirs are not forgotten.
func TestBounded(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 2, per: day, by: 'header:X-Org'}")
	send(t, h, w.Exchange("/", "X-Org: heavy"))
	send(t, h, w.Exchange("/", "X-Org: heavy"))
	var s *State
	w.Living.Range(func(_ string, v any, _ int) bool { s, _ = v.(*State); return s == nil })
	win := &window{requests: 2, weight: 1}
	p := &period{start: policytest.Epoch.Unix(), end: policytest.Epoch.Unix() + 1000}
	for i := range maxKeys + maxKeys/8 {
		s.charge(win, strconv.AppendInt([]byte("x\x00y\x00"), int64(i), 10), p, policytest.Epoch.Unix(), true)
	}
	n := 0
	for i := range s.shards {
		n += len(s.shards[i].counts)
	}
	if n > maxKeys {
		t.Errorf("%d counts", n)
	}
	if got := send(t, h, w.Exchange("/", "X-Org: heavy")); got.verdict != "429" {
		t.Errorf("%+v: who had used all of it was forgotten", got)
	}
	w.Advance(24 * time.Hour)
	if dropped := s.Sweep(0); dropped != n {
		t.Errorf("%d of %d counts dropped when their period was over", dropped, n)
	}
	if !strings.Contains(w.Logged(), "there are more callers with a quota") {
		t.Errorf("not said: %q", w.Logged())
	}
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "state: {dir: "+t.TempDir()+"}")
	f := func(what, settings string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, what, func(x *exchange.Exchange) { _ = h.Request(x) })
	}
	f("pass", "{requests: 1000000000, per: day}")
	f("windows", "[{requests: 1000000000, per: week}, {requests: 1000000000, per: month, by: ip, timezone: Europe/Berlin}]")
	f("refusal", "[{requests: 1000000000, per: hour, by: ip}, {requests: 1, per: day, by: route}]")
}
