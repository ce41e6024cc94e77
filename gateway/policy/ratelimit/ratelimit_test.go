package ratelimit

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
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
	x.Close()
	return a
}

func TestHeaders(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 3, per: 1m}")
	f := func(want answer) {
		t.Helper()
		if got := send(t, h, w.Exchange("/")); got != want {
			t.Errorf("got %+v\nwant %+v", got, want)
		}
	}
	const announced = `"default";q=3;w=60`
	f(answer{"ok", `"default";r=2;t=20`, announced, ""})
	f(answer{"ok", `"default";r=1;t=40`, announced, ""})
	f(answer{"ok", `"default";r=0;t=60`, announced, ""})
	f(answer{"429", `"default";r=0;t=60`, announced, "20"})
	w.Advance(19_500 * time.Millisecond)
	f(answer{"429", `"default";r=0;t=41`, announced, "1"})
	w.Advance(500 * time.Millisecond)
	f(answer{"ok", `"default";r=0;t=60`, announced, ""})
	w.Advance(time.Hour)
	f(answer{"ok", `"default";r=2;t=20`, announced, ""})
}

func TestNames(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, announced, standing string) {
		t.Helper()
		got := send(t, w.MustBuild(t, Definition, settings), w.Exchange("/"))
		if got.policy != announced || got.standing != standing {
			t.Errorf("%s: %+v", settings, got)
		}
	}
	f("{requests: 10, per: 250ms, name: fast, by: header:A}", `"fast";q=10;w=1`, `"fast";r=9;t=1`)
	f("[{requests: 10, per: 1s, burst: 5, by: header:B}, {requests: 100, per: 1m, by: header:B}]", `"1s";q=10;w=1, "1m";q=100;w=60`, `"1s";r=4;t=1, "1m";r=99;t=1`)
	f("[{requests: 10, per: 1m, by: header:C}, {requests: 100, per: 1m, by: route}]", `"1m";q=10;w=60, "1m-route";q=100;w=60`, `"1m";r=9;t=6, "1m-route";r=99;t=1`)
	f("[{requests: 10, per: 1m, by: header:D, shadow: true}, {requests: 100, per: 1h, by: header:E}]", `"1h";q=100;w=3600`, `"1h";r=99;t=36`)
	f("{requests: 10, per: 1m, shadow: true, by: header:F}", "", "")
}

// who sends a request that belongs to a caller.
func who(w *policytest.World, caller string) *exchange.Exchange {
	kind, name, _ := strings.Cut(caller, ":")
	if kind == "header" {
		return w.Exchange("/", "X-Tenant: "+name)
	}
	x := w.Exchange("/")
	switch kind {
	case "consumer":
		x.Identity.Consumer = &exchange.Consumer{Name: name}
	case "subject":
		x.Identity.Authenticated, x.Identity.Subject = true, []byte(name)
	case "claim":
		x.Identity.Authenticated, x.Identity.Claims = true, claims(name)
	}
	return x
}

type claims string

func (c claims) Claim(path string) ([]byte, bool) { return []byte(c), path == "org.id" && c != "" }
func (c claims) ClaimHas(path, value string) bool { return false }

func TestBy(t *testing.T) {
	f := func(by, first, second string, shared bool) {
		t.Helper()
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{requests: 1, per: 1m, by: '"+by+"'}")
		if got := send(t, h, who(w, first)); got.verdict != "ok" {
			t.Errorf("%s: %s", first, got.verdict)
		}
		if got := send(t, h, who(w, second)); (got.verdict == "429") != shared {
			t.Errorf("by %s: %s after %s: %s", by, second, first, got.verdict)
		}
	}
	f("consumer", "consumer:alice", "consumer:alice", true)
	f("consumer", "consumer:alice", "consumer:bob", false)
	f("consumer", "consumer:alice", "subject:alice", false)
	f("consumer", "subject:alice", "subject:alice", true)
	f("consumer", "subject:alice", "", false)
	f("consumer", "", "", true)
	f("ip", "consumer:alice", "consumer:bob", true)
	f("route", "consumer:alice", "", true)
	f("global", "consumer:alice", "", true)
	f("header:x-tenant", "header:acme", "header:acme", true)
	f("header:x-tenant", "header:acme", "header:other", false)
	f("header:x-tenant", "header:acme", "", false)
	f("header:x-tenant", "", "", true)
	f("header:x-tenant", "header:"+strings.Repeat("a", 9000), "header:"+strings.Repeat("a", 9000), true)
	f("header:x-tenant", "header:"+strings.Repeat("a", 9000), "header:"+strings.Repeat("a", 9001), false)
	f("claim:org.id", "claim:acme", "claim:acme", true)
	f("claim:org.id", "claim:acme", "claim:other", false)
	f("claim:org.id", "claim:", "", true)
}

func metric(t *testing.T, w *policytest.World) uint64 {
	t.Helper()
	return w.Metrics.RateLimited.With(nil, "users", "rate_limit").Value()
}

// Of several windows, also by different callers, all are charged or none.
func TestAllOrNothing(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "[{requests: 10, per: 1h, by: global}, {requests: 1, per: 1m, by: header:X-Tenant}, {requests: 2, per: 1h, by: header:X-Tenant}]")
	f := func(tenant, verdict, standing string) {
		t.Helper()
		if got := send(t, h, who(w, "header:"+tenant)); got.verdict != verdict || got.standing != standing {
			t.Errorf("%s: %+v", tenant, got)
		}
	}
	f("a", "ok", `"1h";r=9;t=360, "1m";r=0;t=60, "1h-header:X-Tenant";r=1;t=1800`)
	f("a", "429", `"1h";r=9;t=360, "1m";r=0;t=60, "1h-header:X-Tenant";r=1;t=1800`)
	f("a", "429", `"1h";r=9;t=360, "1m";r=0;t=60, "1h-header:X-Tenant";r=1;t=1800`)
	f("b", "ok", `"1h";r=8;t=720, "1m";r=0;t=60, "1h-header:X-Tenant";r=1;t=1800`)
	if n := metric(t, w); n != 2 {
		t.Errorf("%d requests counted as limited", n)
	}
}

func TestCost(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 10, per: 1m, cost: 4}")
	for _, want := range []string{"ok", "ok", "429"} {
		if got := send(t, h, w.Exchange("/")); got.verdict != want {
			t.Fatalf("%+v, want %s", got, want)
		}
	}
}

func TestShadow(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 1, per: 1m, shadow: true}")
	for range 3 {
		if got := send(t, h, w.Exchange("/")); got != (answer{verdict: "ok"}) {
			t.Fatalf("%+v", got)
		}
	}
	if n := metric(t, w); n != 2 {
		t.Fatalf("%d requests counted as limited", n)
	}
}

// Buckets stay over a reload with other numbers.
func TestReload(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{requests: 5, per: 1m}")
	for range 5 {
		send(t, h, w.Exchange("/"))
	}
	end := w.Reload()
	h = w.MustBuild(t, Definition, "{requests: 10, per: 1m}")
	end()
	if got := send(t, h, w.Exchange("/")); got.verdict != "429" || got.retry != "6" {
		t.Fatalf("%+v", got)
	}
	w.Advance(6 * time.Second)
	if got := send(t, h, w.Exchange("/")); got.verdict != "ok" {
		t.Fatalf("%+v", got)
	}
}

// 100 allowed means 100, however many ask at once, also where two callers' limits meet.
func TestExactAtConcurrency(t *testing.T) {
	f := func(settings string, want int64) {
		t.Helper()
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, settings)
		var passed atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					x := w.Exchange("/")
					if h.Request(x) == nil {
						passed.Add(1)
					}
					x.Close()
				}
			})
		}
		wg.Wait()
		if passed.Load() != want {
			t.Errorf("%s: %d passed, want %d", settings, passed.Load(), want)
		}
	}
	f("{requests: 100, per: 1h}", 100)
	f("[{requests: 200, per: 1h, by: global}, {requests: 100, per: 1h, by: ip}]", 100)
}

// client is a connection that is closed after it was looked at a number of times.
type client struct{ looks, max int }

func (c *client) Gone() bool     { c.looks++; return c.looks > c.max }
func (c *client) InterruptRead() {}
func (c *client) Interim([]byte) {}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{requests: 1, per: 1s, excess: delay, max_delay: 2s}")
		if !h.Blocking {
			t.Error("a delaying hook does not say that it blocks")
		}
		f := func(want string, waits time.Duration) {
			t.Helper()
			begin := time.Now()
			if got := send(t, h, w.Exchange("/")); got.verdict != want || time.Since(begin) != waits {
				t.Errorf("%+v after %v, want %s after %v", got, time.Since(begin), want, waits)
			}
		}
		// The gateway's clock stands still, so each request waits behind the one before.
		f("ok", 0)
		f("ok", time.Second)
		f("ok", 2*time.Second)
		f("429", 0)
		w.Advance(3 * time.Second)
		f("ok", 0)
	})
}

func TestDelayUntilTheClientIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, "{requests: 1, per: 1m, excess: delay, max_delay: 1m}")
		send(t, h, w.Exchange("/"))
		begin := time.Now()
		x := w.Exchange("/")
		x.Client = &client{max: 3}
		if err := h.Request(x); err != policy.ClientGone || !x.Aborted.Load() || time.Since(begin) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		x.Close()
		// What the lost request had reserved is there for the next.
		w.Advance(time.Minute)
		if got := send(t, h, w.Exchange("/")); got.verdict != "ok" || got.standing != `"default";r=0;t=60` {
			t.Errorf("%+v", got)
		}
	})
}

func TestInspect(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "[{requests: 10, per: 1m}, {requests: 5, per: 1h, by: header:X-Tenant, shadow: true}]")
	send(t, h, who(w, "consumer:alice"))
	send(t, h, who(w, "subject:alba"))
	send(t, h, who(w, "header:acme"))
	f := func(prefix string, limit int, want string) {
		t.Helper()
		var keys []string
		w.Living.Range(func(_ string, v any, _ int) bool {
			if i, ok := v.(policy.LimitInspector); ok {
				for _, e := range i.Inspect(policy.LimitQuery{Now: w.Clock.Now(), Prefix: prefix, Most: limit}) {
					keys = append(keys, e.Key+" "+strconv.FormatInt(e.Windows[0].Remaining, 10))
				}
			}
			return true
		})
		if got := strings.Join(keys, ", "); got != want {
			t.Errorf("%q: %s, want %s", prefix, got, want)
		}
	}
	f("", 100, "consumer:alice 9, header:X-Tenant=acme 4, ip:192.0.2.1 9, ip:192.0.2.1 3, subject:alba 9")
	f("al", 100, "consumer:alice 9, subject:alba 9")
	f("consumer:", 100, "consumer:alice 9")
	f("192.0.2.1", 1, "ip:192.0.2.1 9")
	f("acme", 100, "header:X-Tenant=acme 4")
	f("zoe", 100, "")
	w.Advance(time.Hour)
	f("consumer:alice", 100, "consumer:alice 10")
	w.Reload()()
	f("", 100, "")
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	f := func(what, settings string, headers ...string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, what, func(x *exchange.Exchange) { _ = h.Request(x) }, headers...)
	}
	f("pass", "{requests: 1000000000, per: 1s}")
	f("refusal", "{requests: 1, per: 1h, by: route}")
	f("windows", "[{requests: 1000000000, per: 1s, by: global}, {requests: 100000000, per: 1s}, {requests: 1000000000, per: 1h}, {requests: 1, per: 1h, shadow: true, by: global}]")
	f("long value", "{requests: 1000000000, per: 1s, by: header:X-Key}", "X-Key: "+strings.Repeat("k", 4000))
}
