package gateway_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/cluster/redistest"
)

// trio runs three gateways that share a store, and waits until they know of each other.
func trio(t *testing.T, s *server, redis, settings, more string) (gs []*gate) {
	t.Helper()
	state := fmt.Sprintf("state: {redis: {addresses: [%q]%s}}\n", redis, comma(settings))
	for range 3 {
		gs = append(gs, forward(t, s, "", "", state+more))
	}
	for _, g := range gs {
		once(t, "three instances know of each other", func() bool { return g.metric("sluice_store_instances") == 3 && g.metric("sluice_store_up") == 1 })
	}
	return gs
}

// A slow machine is not what is tested.
const patiently = "timeout: 10s"

func plain(t *testing.T) *server {
	return answering(t, func(string, string) string { return okAnswer })
}

// status sends one request and returns the status of its answer.
func (g *gate) status(request string) int {
	g.t.Helper()
	c := g.client()
	defer c.close()
	c.send(request)
	head := c.head()
	_, _ = c.body(head)
	return statusOf(head)
}

const simpleGet = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// Three gateways pass as many together as one would, whoever is asked.
func TestSharedLimit(t *testing.T) {
	f := func(policies string, want int, ask func(i int) int) {
		t.Helper()
		redis := redistest.Start(t)
		gs := trio(t, plain(t), redis.Address, patiently, policies)
		passed := 0
		for i := range 3 * want {
			switch status := gs[ask(i)].status(simpleGet); status {
			case 200:
				passed++
			case 429:
			default:
				t.Fatalf("status %d", status)
			}
		}
		if passed != want {
			t.Errorf("%s: %d passed, want %d", policies, passed, want)
		}
	}
	turns := func(i int) int { return i % 3 }
	f("policies: {rate_limit: {requests: 60, per: 1d}}", 60, turns)
	f("policies: {rate_limit: {requests: 10, per: 1d}}", 10, turns)
	f("policies: {rate_limit: {requests: 50, per: 1d, mode: strict}}", 50, turns)
	f("policies: {rate_limit: {requests: 60, window: year}}", 60, turns)
	f("policies: {quota: {requests: 20, per: year}}", 20, turns)
}

// All of a limit can be used through one gateway; then none is left at the others.
func TestSharedLimitThroughOne(t *testing.T) {
	redis := redistest.Start(t)
	gs := trio(t, plain(t), redis.Address, patiently, "policies: {rate_limit: {requests: 100, per: 1d}}")
	passed := 0
	once(t, "all of the limit is used", func() bool {
		if gs[0].status(simpleGet) == 200 {
			passed++
		}
		return passed == 100
	})
	for i, g := range gs {
		if status := g.status(simpleGet); status != 429 {
			t.Errorf("gateway %d answers %d", i, status)
		}
	}
}

// A reload keeps what is counted, and the connection.
func TestSharedLimitOutlivesReloads(t *testing.T) {
	redis := redistest.Start(t)
	s := plain(t)
	state := fmt.Sprintf("state: {redis: {addresses: [%q], timeout: 10s}}\n", redis.Address)
	g := forward(t, s, "", "", state+"policies: {rate_limit: {requests: 40, per: 1d}}")
	once(t, "the store answers", func() bool { return g.metric("sluice_store_up") == 1 })
	for range 30 {
		if status := g.status(simpleGet); status != 200 {
			t.Fatal(status)
		}
	}
	g.apply(forwarding(s, "", "", state+"policies: {rate_limit: {requests: 35, per: 1d}}"))
	passed := 0
	for range 20 {
		if g.status(simpleGet) == 200 {
			passed++
		}
	}
	if passed != 10 { // what was left stays
		t.Errorf("%d passed, want 10", passed)
	}
	g.apply(forwarding(s, "", "", "policies: {rate_limit: {requests: 35, per: 1d}}"))
	if status := g.status(simpleGet); status != 200 {
		t.Errorf("%d from a limit of its own", status)
	}
}

// A payment that is repeated through another gateway is made once, also while the first is on its way.
func TestSharedIdempotency(t *testing.T) {
	redis := redistest.Start(t)
	s, calls := counting(t, created)
	gs := trio(t, s, redis.Address, patiently, idempotent)
	for i, g := range gs {
		c := g.client()
		c.send(charge("/charges", "k-1", `{"amount":1}`))
		head := c.wants(201, `{"n":1}`)
		replayed, _ := field(head, "Idempotent-Replayed")
		location, _ := field(head, "Location")
		if (replayed == "true") != (i > 0) || location != "/charges/1" || len(fields(head, "Content-Type")) != 1 {
			t.Errorf("%q", head)
		}
		c.send(charge("/charges", "k-1", `{"amount":2}`))
		c.refused(422, "idempotency_key_reused")
	}
	var all sync.WaitGroup
	var made, refused atomic.Int64
	for i := range 30 {
		all.Go(func() {
			switch gs[i%3].status(charge("/charges", "k-2", "{}")) {
			case 201:
				made.Add(1)
			case 409:
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if calls.Load() != 2 || made.Load() == 0 || made.Load()+refused.Load() != 30 {
		t.Errorf("%d calls, %d answered, %d in flight", calls.Load(), made.Load(), refused.Load())
	}
}

// A purge at one gateway is one at all of them.
func TestSharedPurge(t *testing.T) {
	redis := redistest.Start(t)
	var calls atomic.Int64
	s := answering(t, func(string, string) string {
		body := strconv.FormatInt(calls.Add(1), 10)
		return "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
	})
	gs := trio(t, s, redis.Address, patiently, "policies: {cache: {ttl: 1h}}")
	body := func(g *gate) string {
		c := g.client()
		defer c.close()
		c.send(simpleGet)
		b, _ := c.body(c.head())
		return b
	}
	before := make([]string, 3)
	for i, g := range gs {
		before[i] = body(g)
		if again := body(g); again != before[i] {
			t.Fatalf("%s, then %s", before[i], again)
		}
	}
	once(t, "the purge reaches all", func() bool {
		if done := gs[0].Purge(gateway.Purge{By: "route", Value: "r"}); done.Others != "told" || done.Caches != 1 {
			t.Errorf("%+v", done)
		}
		for i, g := range gs {
			if body(g) == before[i] {
				return false
			}
		}
		return true
	})
}

// Without the store a gateway starts, is ready, and limits by itself; with it gone in between it goes on.
func TestStoreIsOptional(t *testing.T) {
	redis := redistest.Start(t)
	redis.Kill()
	g := forward(t, plain(t), "", "", fmt.Sprintf("state: {redis: {addresses: [%q]}}\npolicies: {rate_limit: {requests: 30, per: 1d}, quota: {requests: 20, per: year, by: global}}", redis.Address))
	if ready, checks := g.Ready(); !ready {
		t.Errorf("%v", checks)
	}
	for i := range 20 {
		if status := g.status(simpleGet); status != 200 {
			t.Fatalf("request %d: %d", i, status)
		}
	}
	if status := g.status(simpleGet); status != 429 {
		t.Error(status)
	}
	redis.Restart()
	once(t, "the store is found", func() bool { return g.metric("sluice_store_up") == 1 })
	// What was used without it counts with it, here and elsewhere.
	other := forward(t, plain(t), "", "", fmt.Sprintf("state: {redis: {addresses: [%q], timeout: 10s}}\npolicies: {quota: {requests: 20, per: year, by: global}}", redis.Address))
	once(t, "what was used is told", func() bool { return other.metric("sluice_store_up") == 1 && other.status(simpleGet) == 429 })
	redis.Kill()
	once(t, "it is noticed that the store is gone", func() bool { return g.metric("sluice_store_up") == 0 })
	if ready, checks := g.Ready(); !ready {
		t.Errorf("%v", checks)
	}
	if n := g.metric(`sluice_store_calls_total{call="beat",result="error"}`); n == 0 {
		t.Error("no failure was counted")
	}
}

// What is refused or let pass without the store is the operator's decision.
func TestStoreGoneByConfiguration(t *testing.T) {
	redis := redistest.Start(t)
	redis.Kill()
	f := func(onFailure string, first, second int) {
		t.Helper()
		s, _ := counting(t, created)
		g := forward(t, s, "", "", fmt.Sprintf("state: {redis: {addresses: [%q], on_failure: %s}}\npolicies: {rate_limit: {requests: 1, per: 1d}, quota: {requests: 1, per: year}, idempotency: {}}", redis.Address, onFailure))
		for i, want := range []int{first, second} {
			if status := g.status(charge("/", "k"+strconv.Itoa(i), "{}")); status != want {
				t.Errorf("%s, request %d: %d, want %d", onFailure, i, status, want)
			}
		}
	}
	f("local", 201, 429)
	f("allow", 201, 201)
	f("deny", 503, 503)
}

// Whatever becomes of the store while requests come, none of them fails or waits for it.
func TestStoreInTroubleUnderLoad(t *testing.T) {
	redis := redistest.Start(t)
	proxy := redistest.NewProxy(t, redis.Address)
	gs := trio(t, plain(t), proxy.Address, "", "policies: {rate_limit: {requests: 1000000, per: 1s}}")
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var served, failed, slow atomic.Int64
	for _, g := range gs {
		all.Go(func() {
			c := g.client()
			for ctx.Err() == nil {
				began := time.Now()
				c.send(simpleGet)
				head := c.head()
				if _, _ = c.body(head); statusOf(head) != 200 {
					failed.Add(1)
				}
				if time.Since(began) > 2*time.Second { // a paused store is paused for longer
					slow.Add(1)
				}
				served.Add(1)
			}
		})
	}
	more := func() {
		t.Helper()
		before := served.Load()
		once(t, "requests are served", func() bool { return served.Load() > before+300 })
	}
	state := func(up float64) {
		t.Helper()
		for _, g := range gs {
			once(t, "the store is up or down: "+strconv.FormatFloat(up, 'f', 0, 64), func() bool { return g.metric("sluice_store_up") == up })
		}
	}
	more()
	redis.Pause()
	state(0)
	paused := time.Now()
	for time.Since(paused) < 3*time.Second {
		more()
	}
	redis.Resume()
	state(1)
	more()
	proxy.Delay(100 * time.Millisecond)
	state(0)
	more()
	proxy.Delay(0)
	state(1)
	redis.Kill()
	state(0)
	more()
	redis.Restart()
	state(1)
	more()
	cancel()
	all.Wait()
	if failed.Load() > 0 || slow.Load() > 0 {
		t.Errorf("of %d requests %d failed, %d were slow", served.Load(), failed.Load(), slow.Load())
	}
}

// A password stands in no message and no view.
func TestStorePasswordIsSecret(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "another")
	g := forward(t, plain(t), "", "", fmt.Sprintf("state: {redis: {addresses: [%q], password: t0p-s3cret}}", redis.Address))
	once(t, "the password is refused", func() bool { return g.metric(`sluice_store_up`) == 0 && g.status(simpleGet) == 200 })
	var b strings.Builder
	if err := g.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	if text := b.String() + fmt.Sprint(g.Config().View(), *g.Config()); strings.Contains(text, "s3cret") {
		t.Error("the password is told")
	}
}
