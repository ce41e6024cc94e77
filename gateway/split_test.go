package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"sluice/gateway"
	"sluice/gateway/action/split"
)

// releases are a stable service and a canary that each say who they are; the canary answers with the status that is set.
func releases(t *testing.T) (config string, status *atomic.Int64) {
	status = &atomic.Int64{}
	status.Store(200)
	stable := answering(t, func(string, string) string { return reply(200, "stable") })
	canary := answering(t, func(string, string) string { return reply(int(status.Load()), "canary") })
	return fmt.Sprintf(`
services:
  stable: {endpoints: ["http://%s"]}
  canary: {endpoints: ["http://%s"], circuit_breaker: off, retries: off}
`, stable.addr, canary.addr), status
}

// who asks and returns the body, "" for an error of the gateway.
func (g *gate) who(c *http.Client, path string, headers ...string) (body string, res *http.Response) {
	g.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+g.addr+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if res, err = c.Do(req); err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text), res
}

func (g *gate) split(route string) *split.State {
	live, _ := g.Snapshot().Live(route)
	return live.(*split.State)
}

func (g *gate) rollout(route string) *split.RolloutView {
	v, _ := g.split(route).Look()
	return v.Rollout
}

const rolledOut = `
routes:
  r:
    match: {paths: [/]}
    split:
      services: [{service: stable}, {service: canary}]
      sticky: {by: "header:X-Client"}
      rollout: {steps: [20, 50, 100], every: 200ms, window: 100ms, max_latency_ratio: 0}
`

// A rollout goes from step to step by itself, and nobody goes back.
func TestRolloutSuccess(t *testing.T) {
	config, _ := releases(t)
	g := serve(t, gateway.Options{}, config+rolledOut)
	was := make(map[string]bool)
	c := &http.Client{Transport: &http.Transport{}}
	n := 0
	once(t, "the rollout is complete", func() bool {
		n++
		client := fmt.Sprint("client-", n%500)
		body, res := g.who(c, "/", "X-Client", client)
		if res.StatusCode != 200 || was[client] && body != "canary" {
			t.Fatalf("%s got %d by %q, and was at the canary: %t", client, res.StatusCode, body, was[client])
		}
		was[client] = body == "canary"
		return g.rollout("r").State == "complete"
	})
	if body, _ := g.who(c, "/", "X-Client", "another"); body != "canary" {
		t.Errorf("after the rollout: %q", body)
	}
}

// Errors of the canary take the rollout back, which stays there over a reload.
func TestRolloutGoesBack(t *testing.T) {
	config, status := releases(t)
	g := serve(t, gateway.Options{}, config+strings.Replace(rolledOut, "every: 200ms", "every: 1m", 1))
	c := &http.Client{Transport: &http.Transport{}}
	n := 0
	ask := func() string {
		n++
		body, _ := g.who(c, "/", "X-Client", fmt.Sprint(n))
		return body
	}
	once(t, "a window is judged", func() bool { ask(); return g.rollout("r").Window != nil })
	if v := g.rollout("r"); v.State != "running" || v.Step != 1 {
		t.Errorf("%+v", v)
	}
	status.Store(500)
	once(t, "the rollout goes back", func() bool { ask(); return g.rollout("r").State == "rolled_back" })
	for range 100 {
		if body := ask(); body != "stable" {
			t.Fatalf("after it went back: %q", body)
		}
	}
	var metrics bytes.Buffer
	if err := g.WriteMetrics(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`sluice_rollout_state{route="r"} 3`, `sluice_rollout_step{route="r"} 0`, `sluice_rollout_transitions_total{route="r",to="rolled_back"} 1`, `sluice_split_share{route="r",service="canary"} 0`} {
		if !strings.Contains(metrics.String(), want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	g.apply(config + strings.Replace(rolledOut, "every: 200ms", "every: 1m", 1) + "  other: {match: {paths: [/other]}, service: stable}\n")
	if v := g.rollout("r"); v.State != "rolled_back" || !strings.HasPrefix(v.Reason, "errors: ") {
		t.Errorf("after a reload: %+v", v)
	}
	// Another block is another rollout.
	status.Store(200)
	g.apply(config + rolledOut)
	if v := g.rollout("r"); v.State != "running" || v.Step != 1 {
		t.Errorf("with another block: %+v", v)
	}
}

// What the services of a split answer is stored apart, and the cookie that keeps a client at one of them is stored nowhere.
func TestSplitCaches(t *testing.T) {
	config, _ := releases(t)
	g := serve(t, gateway.Options{}, config+`
routes:
  r:
    match: {paths: [/]}
    split:
      services: [{service: stable}, {service: canary}]
      sticky: {by: cookie}
      override: {header: X-Canary, values: {always: canary, never: stable}}
    policies: {cache: {ttl: 1h}}
`)
	c := &http.Client{Transport: &http.Transport{}}
	f := func(result, body string, headers ...string) *http.Response {
		t.Helper()
		got, res := g.who(c, "/page", headers...)
		if status := res.Header.Get("Cache-Status"); got != body || !strings.Contains(status, result) {
			t.Errorf("%q with %q, want %q with %q", got, status, body, result)
		}
		return res
	}
	f("fwd=", "stable", "X-Canary", "never")
	f("fwd=", "canary", "X-Canary", "always")
	f("hit", "stable", "X-Canary", "never")
	f("hit", "canary", "X-Canary", "always")
	cookies := make(map[string]bool)
	for range 10 {
		_, res := g.who(c, "/page")
		if status := res.Header.Get("Cache-Status"); !strings.Contains(status, "hit") {
			t.Errorf("%q", status)
		}
		cookies[res.Header.Get("Set-Cookie")] = true
	}
	if len(cookies) != 10 {
		t.Errorf("10 clients were given %d cookies: %v", len(cookies), cookies)
	}
}

// TestSplitAllocates counts what a request through a split costs that keeps clients and watches a rollout.
func TestSplitAllocates(t *testing.T) {
	addr := backendProcess(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {stable: {endpoints: ["http://%[1]s"]}, canary: {endpoints: ["http://%[1]s"]}}
routes:
  r:
    match: {paths: [/]}
    split: {services: [{service: stable}, {service: canary}], sticky: {by: cookie}, override: {header: X-Canary, values: {always: canary}}, rollout: {every: 1h}}
`, addr))
	g.allocates("kept", "GET / HTTP/1.1\r\nHost: a\r\nCookie: sluice_split=0123456789abcdef0123456789abcdef\r\n\r\n", 200)
	g.allocates("new", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200)
}
