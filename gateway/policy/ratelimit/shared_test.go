package ratelimit

import (
	"testing"
	"time"

	"sluice/gateway/cluster"
	"sluice/gateway/cluster/redistest"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

// A slow machine is not what is tested.
const sharing = "state: {redis: {addresses: ['a:1'], timeout: 10s}}"

func shared(t testing.TB, server *redistest.Server) *policytest.World {
	w := policytest.New(t, sharing)
	w.Share(t, server.Address, cluster.Local)
	return w
}

// Two instances have one strict limit, and say the same of it.
func TestStrict(t *testing.T) {
	server := redistest.Start(t)
	a, b := shared(t, server), shared(t, server)
	f := func(settings string, want ...answer) {
		t.Helper()
		if want[0].policy == "" {
			want[0].policy = `"default";q=3;w=3600`
		}
		server.Do("FLUSHALL")
		hooks := []policy.Hooks{a.MustBuild(t, Definition, settings), b.MustBuild(t, Definition, settings)}
		for i, world := range []*policytest.World{a, b, a, b, a} {
			if i >= len(want) {
				break
			}
			got := send(t, hooks[i%2], world.Exchange("/"))
			want[i].policy = want[0].policy
			if got != want[i] {
				t.Errorf("%s, request %d:\n%+v, want\n%+v", settings, i, got, want[i])
			}
		}
	}
	// The store's clock goes on, so that a bucket is full a little earlier than it would be.
	for _, settings := range []string{"{requests: 3, per: 1h, mode: strict}", "{requests: 3, per: 1h}"} {
		f(settings,
			answer{"ok", `"default";r=2;t=1200`, "", ""}, answer{"ok", `"default";r=1;t=2400`, "", ""}, answer{"ok", `"default";r=0;t=3600`, "", ""},
			answer{"429", `"default";r=0;t=3600`, "", "1200"}, answer{"429", `"default";r=0;t=3600`, "", "1200"})
	}
	f("{requests: 100, per: 1h, cost: 40, mode: strict}",
		answer{"ok", `"default";r=60;t=1440`, `"default";q=100;w=3600`, ""}, answer{"ok", `"default";r=20;t=2880`, "", ""}, answer{"429", `"default";r=20;t=2880`, "", "720"})
	// Of several windows all are charged or none.
	f("[{requests: 3, per: 1h, by: global}, {requests: 2, per: 1d, by: ip, mode: strict}]",
		answer{"ok", `"1h";r=2;t=1200, "1d";r=1;t=43200`, `"1h";q=3;w=3600, "1d";q=2;w=86400`, ""}, answer{"ok", `"1h";r=1;t=2400, "1d";r=0;t=86400`, "", ""},
		answer{"429", `"1h";r=0;t=3600, "1d";r=0;t=86400`, "", "43200"})
}

// What one of two groups has taken is given back when the other refuses.
func TestStrictGivesBack(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	h := w.MustBuild(t, Definition, "[{requests: 10, per: 1h, by: global}, {requests: 1, per: 1h, by: 'header:X-Who'}]")
	for _, want := range []string{"ok", "429", "429", "429"} {
		if got := send(t, h, w.Exchange("/", "X-Who: a")); got.verdict != want {
			t.Fatalf("%+v, want %s", got, want)
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := send(t, h, w.Exchange("/", "X-Who: a"))
		if got.standing[:9] == `"1h";r=8;` { // one was taken for good, and one for this request
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", got)
		}
	}
}

// Lent tokens say of all windows how they stand; a bucket of this size is lent.
func TestLeased(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	h := w.MustBuild(t, Definition, "[{requests: 100, per: 1h}, {requests: 1000, per: 1d, cost: 2, name: daily}]")
	if h.Blocking != true {
		t.Error("a bucket that more instances could not be lent of may have to wait")
	}
	want := answer{"ok", `"1h";r=99;t=36, "daily";r=998;t=173`, `"1h";q=100;w=3600, "daily";q=1000;w=86400`, ""}
	if got := send(t, h, w.Exchange("/")); got != want {
		t.Errorf("%+v, want\n%+v", got, want)
	}
	passed := 1
	for range 200 {
		if send(t, h, w.Exchange("/")).verdict == "ok" {
			passed++
		}
	}
	if passed != 100 {
		t.Errorf("%d passed", passed)
	}
	if n := metric(t, w); n != 101 {
		t.Errorf("%d counted as limited", n)
	}
}

func TestSharedWindowsByTheClock(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	for _, settings := range []string{"[{requests: 3, window: day, headers: kong}, {requests: 100, window: month, headers: kong}]", "{requests: 40, window: year, headers: kong}"} {
		h := w.MustBuild(t, Definition, settings)
		left := map[bool][]string{true: {"2", "1", "0"}, false: {"39", "38", "37"}}[settings[0] == '[']
		for _, want := range left {
			x := w.Exchange("/")
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
			if got := told(x, "RateLimit-Remaining")[0]; got != want {
				t.Errorf("%s: %s left, want %s", settings, got, want)
			}
			_ = x.Close()
		}
		x := w.Exchange("/")
		if err := h.Request(x); (err == nil) != (settings[0] == '{') {
			t.Errorf("%s: %v", settings, err)
		}
		_ = x.Close()
	}
}

// Shadows count in the store and refuse nobody.
func TestSharedShadow(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	h := w.MustBuild(t, Definition, "[{requests: 2, per: 1h, shadow: true}, {requests: 100, per: 1h, shadow: true, by: ip}]")
	for range 104 {
		if got := send(t, h, w.Exchange("/")); got != (answer{verdict: "ok"}) {
			t.Fatalf("%+v", got)
		}
	}
	for end := time.Now().Add(10 * time.Second); metric(t, w) != 102+4; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d counted as limited", metric(t, w))
		}
	}
}

// Without the store each instance goes on as it was told to.
func TestWithoutTheStore(t *testing.T) {
	f := func(onFailure cluster.OnFailure, settings string, want ...string) {
		t.Helper()
		server := redistest.Start(t)
		w := policytest.New(t, "state: {redis: {addresses: ['a:1'], timeout: 200ms}}")
		s := w.Share(t, server.Address, onFailure)
		h := w.MustBuild(t, Definition, settings)
		server.Kill()
		for end := time.Now().Add(30 * time.Second); s.Up(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nobody notices")
			}
		}
		for i, want := range want {
			if got := send(t, h, w.Exchange("/")).verdict; got != want {
				t.Errorf("%s, %s, request %d: %s, want %s", onFailure, settings, i, got, want)
			}
		}
	}
	for _, settings := range []string{"{requests: 2, per: 1h}", "{requests: 2, per: 1h, mode: strict}", "{requests: 2, window: day}"} {
		f(cluster.Local, settings, "ok", "ok", "429")
		f(cluster.Allow, settings, "ok", "ok", "ok", "ok")
		f(cluster.Deny, settings, "503", "503")
	}
	f(cluster.Allow, "{requests: 100, per: 1h}", "ok")
	f(cluster.Deny, "{requests: 100, per: 1h}", "503")
}

// A request that may be delayed waits for a token of the store's bucket.
func TestSharedDelay(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	h := w.MustBuild(t, Definition, "{requests: 2, per: 100ms, burst: 1, excess: delay, max_delay: 10s}")
	began := time.Now()
	for range 4 {
		if got := send(t, h, w.Exchange("/")); got.verdict != "ok" {
			t.Fatalf("%+v", got)
		}
	}
	if took := time.Since(began); took < 140*time.Millisecond {
		t.Errorf("four requests at one each 50 ms took %v", took)
	}
	h = w.MustBuild(t, Definition, "{requests: 1, per: 1h, burst: 1, excess: delay, max_delay: 10s, by: ip}")
	if got := send(t, h, w.Exchange("/")); got.verdict != "ok" {
		t.Fatalf("%+v", got)
	}
	if got := send(t, h, w.Exchange("/")); got.verdict != "429" || got.retry != "3600" {
		t.Fatalf("%+v", got)
	}
}

func TestLeasedAllocatesNothing(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	f := func(settings string) {
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) {
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
		})
	}
	f("{requests: 1000000000, per: 1s}")
	f("[{requests: 1000000000, per: 1s, by: ip}, {requests: 1000000000, per: 1m, by: global}]")
	f("[{requests: 100000000, window: day, headers: kong}, {requests: 1000000000, window: month, headers: kong}]")
}

// What is lent is shown to operators as what is local.
func TestInspectShared(t *testing.T) {
	server := redistest.Start(t)
	w := shared(t, server)
	h := w.MustBuild(t, Definition, "{requests: 100, per: 1h}")
	send(t, h, w.Exchange("/"))
	state, err := policy.LivingAs(w.World, "rate_limit", func() (*State, error) { t.Fatal("there is none"); return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	got := state.Inspect(policy.LimitQuery{Now: w.Clock.Now(), Most: 10})
	if len(got) != 1 || got[0].Key != "ip:192.0.2.1" || got[0].Scope != "routes.users" || got[0].Windows[0].Remaining != 99 {
		t.Errorf("%+v", got)
	}
}

// What a consumer is shown is what all instances have counted, whatever counts, and looking counts nothing.
func TestSharedStanding(t *testing.T) {
	server := redistest.Start(t)
	a, b := shared(t, server), shared(t, server)
	alice := &exchange.Consumer{Name: "alice"}
	f := func(settings string) {
		t.Helper()
		server.Do("FLUSHALL")
		ha, hb := a.MustBuild(t, Definition, settings), b.MustBuild(t, Definition, settings)
		for used := range int64(3) {
			for i, h := range []policy.Hooks{hb, ha, hb} {
				x := []*policytest.World{b, a, b}[i].Exchange("/")
				x.Identity.Consumer = alice
				if got := h.Standing(x); len(got) != 1 || got[0].Requests != 4 || got[0].Used != used || got[0].Remaining != 4-used {
					t.Errorf("%s: %+v, want %d used", settings, got, used)
				}
			}
			x := a.Exchange("/")
			x.Identity.Consumer = alice
			send(t, ha, x)
		}
	}
	f("[{requests: 4, per: 366d}, {requests: 4, per: 366d, by: ip}, {requests: 7, per: 366d, shadow: true}]")
	f("{requests: 4, per: 366d, mode: strict}")
	f("{requests: 4, window: year, mode: strict}")
}
