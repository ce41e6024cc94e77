package split

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"sluice/gateway/action"
	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

// choices are the members that clients get, who are told apart by a header of theirs.
func choices(w *actiontest.World, a *action.Action, clients int, header func(i int) string) []int {
	got := make([]int, clients)
	for i := range got {
		x := w.Exchange("/", header(i))
		got[i] = a.Choose(x)
		_ = x.Close()
	}
	return got
}

func set(t *testing.T, a *action.Action, weights string) {
	t.Helper()
	c, err := ParseChange([]byte(`{"weights": {` + weights + `}}`))
	if err == nil {
		_, _, err = a.Live.(*State).Change(c, "test", nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Ten thousand clients, and a canary that grows from 5 to 20 to 50 to 100: nobody goes back, and no more go over than have to.
func TestStickyNobodyGoesBack(t *testing.T) {
	const clients = 10_000
	f := func(by string, header func(i int) string) {
		t.Helper()
		w := actiontest.New(t, services)
		a := w.MustBuild(t, Definition, "{services: [{service: stable, weight: 95}, {service: canary, weight: 5}], sticky: {by: "+by+"}}")
		before := choices(w, a, clients, header)
		for _, share := range []int{5, 20, 50, 100} {
			set(t, a, fmt.Sprintf(`"stable": %d, "canary": %d`, 100-share, share))
			after := choices(w, a, clients, header)
			canaries := 0
			for i := range after {
				canaries += after[i]
				if after[i] < before[i] {
					t.Fatalf("%s: at %d%% client %d went back", by, share, i)
				}
			}
			p := float64(share) / 100
			if slack := 7 * math.Sqrt(clients*p*(1-p)); math.Abs(float64(canaries)-clients*p) > slack {
				t.Errorf("%s: %d of %d clients at the canary, want %d%%", by, canaries, clients, share)
			}
			before = after
		}
	}
	f("header:X-Client", func(i int) string { return fmt.Sprint("X-Client: client-", i) })
	f("cookie", func(i int) string { return fmt.Sprintf("Cookie: other=1; sluice_split=%032x", i) })
}

// With three services a weight that grows takes from both others, and they take nothing from each other.
func TestStickyMovesOnlyToWhatGrows(t *testing.T) {
	const clients = 20_000
	w := actiontest.New(t, services)
	header := func(i int) string { return fmt.Sprint("X-Client: ", i) }
	a := w.MustBuild(t, Definition, `{services: [{service: stable, weight: 60}, {service: beta, weight: 30}, {service: canary, weight: 10}], sticky: {by: "header:X-Client"}}`)
	before := choices(w, a, clients, header)
	set(t, a, `"stable": 40, "beta": 20, "canary": 40`)
	after := choices(w, a, clients, header)
	moved := 0
	for i := range after {
		if before[i] != after[i] {
			moved++
			if after[i] != 2 {
				t.Fatalf("client %d went from %d to %d", i, before[i], after[i])
			}
		}
	}
	if p := 0.3; math.Abs(float64(moved)-clients*p) > 7*math.Sqrt(clients*p*(1-p)) {
		t.Errorf("%d of %d clients moved, want 30%%", moved, clients)
	}
}

// The order in which a configuration lists its services, and the process, do not matter.
func TestStickyIsTheSameEverywhere(t *testing.T) {
	const clients = 1000
	header := func(i int) string { return fmt.Sprint("X-Client: ", i) }
	w, v := actiontest.New(t, services), actiontest.New(t, services)
	one := choices(w, w.MustBuild(t, Definition, `{services: [{service: stable, weight: 3}, {service: canary}], sticky: {by: "header:x-client"}}`), clients, header)
	other := choices(v, v.MustBuild(t, Definition, `{services: [{service: canary}, {service: stable, weight: 3}], sticky: {by: "header:X-Client"}}`), clients, header)
	for i := range one {
		if one[i] == other[i] {
			t.Fatalf("client %d is at number %d of both orders", i, one[i])
		}
	}
}

func TestStickyByConsumer(t *testing.T) {
	w := actiontest.New(t, services+"consumers: {alice: {}, bob: {}}\n")
	a := w.MustBuild(t, Definition, "{services: [{service: stable}, {service: canary}], sticky: {by: consumer}}")
	f := func(who string, change func(x *exchange.Exchange)) {
		t.Helper()
		first := -1
		for range 50 {
			x := w.Exchange("/")
			change(x)
			i := a.Choose(x)
			_ = x.Close()
			if first >= 0 && i != first {
				t.Errorf("%s does not stay", who)
				return
			}
			first = i
		}
	}
	f("the consumer", func(x *exchange.Exchange) { x.Identity.Consumer = w.Consumers["alice"] })
	f("the subject", func(x *exchange.Exchange) { x.Identity.Authenticated, x.Identity.Subject = true, []byte("carol") })
	f("the address", func(*exchange.Exchange) {})
}

func TestStickyCookie(t *testing.T) {
	w := actiontest.New(t, services)
	a := w.MustBuild(t, Definition, "{services: [{service: stable}, {service: canary}], sticky: {by: cookie, cookie: place, cookie_path: /shop, cookie_max_age: 1h}}")
	// f sends a request and returns the cookie it was given.
	f := func(scheme string, headers ...string) (member int, cookie string) {
		t.Helper()
		x := w.Exchange("/", headers...)
		defer x.Close()
		x.Scheme = scheme
		member = a.Choose(x)
		value, _ := x.ToClient.Value("Set-Cookie")
		return member, string(value)
	}
	member, cookie := f("http")
	id, attributes, _ := strings.Cut(strings.TrimPrefix(cookie, "place="), "; ")
	if len(id) != idLen || attributes != "Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax" {
		t.Errorf("%q", cookie)
	}
	for range 20 {
		if again, cookie := f("http", "Cookie: place="+id); again != member || cookie != "" {
			t.Errorf("with the cookie member %d instead of %d, and %q", again, member, cookie)
		}
	}
	if _, cookie := f("https"); !strings.HasSuffix(cookie, "; Secure") {
		t.Errorf("over https: %q", cookie)
	}
	// What the gateway did not write is replaced, and names no service.
	for _, forged := range []string{"", "canary", "1", strings.Repeat("G", idLen), strings.Repeat("0", idLen+1)} {
		if _, cookie := f("http", "Cookie: place="+forged); !strings.HasPrefix(cookie, "place=") || strings.Contains(cookie, "place="+forged+";") {
			t.Errorf("%q was answered by %q", forged, cookie)
		}
	}
	session := w.MustBuild(t, Definition, "{services: [{service: stable}, {service: canary}], sticky: {by: cookie, cookie_max_age: 0s}}")
	x := w.Exchange("/")
	defer x.Close()
	session.Choose(x)
	if value, _ := x.ToClient.Value("Set-Cookie"); strings.Contains(string(value), "Max-Age") {
		t.Errorf("%q", value)
	}
}

func TestOverride(t *testing.T) {
	w := actiontest.New(t, services)
	a := w.MustBuild(t, Definition, "{services: [{service: stable, weight: 100}, {service: canary, weight: 0}], override: {header: x-canary, cookie: canary, values: {always: canary, never: stable}}}")
	f := func(want int, headers ...string) {
		t.Helper()
		x := w.Exchange("/", headers...)
		defer x.Close()
		if got := a.Choose(x); got != want {
			t.Errorf("%q: member %d, want %d", headers, got, want)
		}
	}
	f(0)
	f(1, "X-Canary: always")
	f(0, "X-Canary: never")
	f(0, "X-Canary: canary")
	f(0, "X-Canary: ALWAYS")
	f(1, "Cookie: a=b; canary=always")
	f(0, "Cookie: canary=perhaps")
	f(0, "X-Canary: never", "Cookie: canary=always")
	f(1, "X-Canary: perhaps", "Cookie: canary=always")
}

// A service that would refuse gives its requests to the others, and a client who is kept there comes back.
func TestUnavailable(t *testing.T) {
	w := actiontest.New(t, `
services:
  stable: {endpoints: ["http://127.0.0.1:1"]}
  canary: {endpoints: ["http://127.0.0.1:1"], circuit_breaker: {consecutive_failures: 1, open_for: 10s}, retries: off}
`)
	a := w.MustBuild(t, Definition, `{services: [{service: stable}, {service: canary}], sticky: {by: "header:X-Client"}, override: {header: X-Canary, values: {always: canary}}, rollout: {steps: [50]}}`)
	header := func(i int) string { return fmt.Sprint("X-Client: ", i) }
	state := a.Live.(*State)
	before := choices(w, a, 100, header)
	x := w.Exchange("/", "X-Canary: always")
	x.Member = a.Choose(x)
	if err := a.Serve(x); err == nil {
		t.Fatal("something listens on port 1")
	}
	_ = x.Close()
	if n := state.counts.read(canary).failures; n != 0 {
		t.Errorf("an overridden request counted %d times", n)
	}
	for i, m := range choices(w, a, 100, header) {
		if m != 0 {
			t.Fatalf("client %d was sent to a service whose breaker is open", i)
		}
	}
	diverted := 0
	for _, m := range before {
		diverted += m
	}
	if n := state.counts.read(canary).failures; n != uint64(diverted) || diverted == 0 {
		t.Errorf("%d failures counted of %d clients that were diverted", n, diverted)
	}
	x = w.Exchange("/", "X-Canary: always")
	if a.Choose(x) != 1 {
		t.Error("an override was diverted")
	}
	_ = x.Close()
	// With no weight elsewhere there is nowhere to go.
	set(t, a, `"stable": 0, "canary": 1`)
	if m := choices(w, a, 1, header)[0]; m != 1 {
		t.Errorf("a service with a weight of 0 got a request")
	}
	set(t, a, `"stable": 1, "canary": 1`)
	w.Advance(11e9)
	for i, m := range choices(w, a, 100, header) {
		if m != before[i] {
			t.Fatalf("client %d did not come back", i)
		}
	}
}
