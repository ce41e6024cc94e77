package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"sluice/gateway"
	"sluice/gateway/cluster/redistest"
)

const hintsOfS = `sluice_breaker_hints_total{service="s"}`

// answersByPath answers 500 to all but what begins with /good, and well answers 200 to all but what begins with /bad.
func answersByPath(t *testing.T, well bool) *server {
	return answering(t, func(head, _ string) string {
		if strings.HasPrefix(head, "GET /good") || well && !strings.HasPrefix(head, "GET /bad") {
			return reply(200, "ok")
		}
		return reply(500, "bad")
	})
}

// What one gateway has found out with five failures costs another one a single failure, and nothing where the service is well.
func TestBreakerHints(t *testing.T) {
	redis := redistest.Start(t)
	sick, well := answersByPath(t, false), answersByPath(t, true)
	open := func(s *server) *gate { // the same endpoint for all, which is not the same server
		return serve(t, gateway.Options{Resolve: map[string]string{"backend.example:80": s.addr}},
			"services: {s: {endpoints: [\"http://backend.example\"], circuit_breaker: {open_for: 1h}, outlier_detection: off}}\nroutes: {r: {match: {paths: [/]}, service: s}}\n"+
				fmt.Sprintf("state: {redis: {addresses: [%q], %s}}\n", redis.Address, patiently))
	}
	a, b, c := open(sick), open(sick), open(well)
	for _, g := range []*gate{a, b, c} {
		once(t, "three instances know of each other", func() bool { return g.metric("sluice_store_instances") == 3 })
	}
	listening(t, redis, 3)

	ask := func(g *gate, path string, status int) {
		t.Helper()
		client := g.client()
		defer client.close()
		client.request("GET " + path)
		head, _ := client.response()
		if got := statusOf(head); got != status {
			t.Fatalf("%s: %d, want %d", path, got, status)
		}
	}
	for range 5 {
		ask(a, "/", 500)
	}
	ask(a, "/good", 503)
	for _, g := range []*gate{b, c} {
		once(t, "the service's breaker and the endpoint's are hinted at", func() bool { return g.metric(hintsOfS) == 2 })
		if got := string(g.Health()); !strings.Contains(got, `"s":"closed"`) {
			t.Errorf("opened on hearsay: %s", got)
		}
	}
	if n := a.metric(hintsOfS); n != 0 {
		t.Errorf("%v hints from itself", n)
	}
	ask(b, "/", 500)
	ask(b, "/good", 503)
	ask(c, "/", 200)
	for range 4 {
		ask(c, "/bad", 500)
	}
	ask(c, "/", 200)
}

// listening waits until as many subscribers hear what is published: a subscription may begin after its instance is known.
func listening(t *testing.T, redis *redistest.Server, n int) {
	t.Helper()
	once(t, "the instances listen", func() bool {
		return redis.Do("PUBLISH", "sluice:events", "nothing") == fmt.Sprintf(":%d", n)
	})
}

// Whoever writes in the store opens no breaker of a service that is well.
func TestForgedBreakerHints(t *testing.T) {
	redis := redistest.Start(t)
	s := answersByPath(t, true)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services:
  s: {endpoints: ["http://%[1]s"], circuit_breaker: {open_for: 1h}}
  unguarded: {endpoints: ["http://%[1]s"], circuit_breaker: off}
routes: {r: {match: {paths: [/]}, service: s}}
state: {redis: {addresses: [%[2]q], %[3]s}}
`, s.addr, redis.Address, patiently))
	once(t, "the store answers", func() bool { return g.metric("sluice_store_up") == 1 })
	listening(t, redis, 1)
	say := func(text string) { redis.Do("PUBLISH", "sluice:events", "breaker\nforged\n"+text) }
	endpoint := "http://" + s.addr
	for _, text := range []string{
		"", "s", "\n", "nobody\n", "s\nhttp://nowhere", "s\n\n", "s\n" + endpoint + "\n", "unguarded\n", "unguarded\n" + endpoint,
		"s\n" + strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20) + "\n",
	} {
		say(text)
	}
	for range 20 {
		say("s\n")
		say("s\n" + endpoint)
		if status := g.status(simpleGet); status != 200 {
			t.Fatal(status)
		}
	}
	once(t, "the hints have come, which are behind all others", func() bool { return g.metric(hintsOfS) == 2 })
	if status := g.status(simpleGet); status != 200 { // the first thing after the hints, if none was before
		t.Error(status)
	}
	if got := string(g.Health()); !strings.Contains(got, `"s":"closed"`) || !strings.Contains(got, `"unguarded":"off"`) {
		t.Error(got)
	}
}
