package split

import (
	"fmt"
	"math"
	"net"
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

const services = `
services:
  stable: {endpoints: ["http://127.0.0.1:1"]}
  canary: {endpoints: ["http://127.0.0.1:2"]}
  beta: {endpoints: ["http://127.0.0.1:3"]}
`

func TestSettings(t *testing.T) {
	actiontest.New(t, services).Files(t, Definition)
}

func TestChoose(t *testing.T) {
	w := actiontest.New(t, services)
	x := w.Exchange("/")
	defer x.Close()
	f := func(settings string, shares ...float64) {
		t.Helper()
		a := w.MustBuild(t, Definition, settings)
		if len(a.Members) != len(shares) {
			t.Fatalf("members %q", a.Members)
		}
		const n = 100_000
		got := make([]int, len(shares))
		for range n {
			got[a.Choose(x)]++
		}
		for i, share := range shares {
			// Seven standard deviations: one false alarm in 10^11 runs.
			if slack := 7 * math.Sqrt(n*share*(1-share)); math.Abs(float64(got[i])-n*share) > slack {
				t.Errorf("%s: member %d got %d of %d, want a share of %v", settings, i, got[i], n, share)
			}
		}
	}
	f("services: [{service: stable, weight: 95}, {service: canary, weight: 5}]", 0.95, 0.05)
	f("services: [{service: stable}, {service: canary}]", 0.5, 0.5)
	f("services: [{service: stable, weight: 0}, {service: canary, weight: 1}, {service: beta, weight: 0}]", 0, 1, 0)
	f("services: [{service: stable, weight: 1}, {service: canary, weight: 0}, {service: beta, weight: 1}]", 0.5, 0, 0.5)
	f("services: [{service: stable, weight: 1000000}]", 1)
}

// backend answers every request with name until the test ends, and returns its address.
func backend(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(name) }}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-served
	})
	return ln.Addr().String()
}

func TestServeForwardsToTheMember(t *testing.T) {
	w := actiontest.New(t, fmt.Sprintf(`
services:
  stable: {endpoints: ["http://%s"]}
  canary: {endpoints: ["http://%s"]}
`, backend(t, "stable"), backend(t, "canary")))
	a := w.MustBuild(t, Definition, "services: [{service: stable, weight: 95}, {service: canary, weight: 5}]")
	for i, name := range a.Members {
		x := w.Exchange("/")
		x.Member = i
		if err := a.Serve(x); err != nil {
			t.Fatal(err)
		}
		if got := string(x.Response.Body()); got != name || x.Service != name || x.Answer != exchange.Proxied {
			t.Errorf("member %d: %q by %s, want %s", i, got, x.Service, name)
		}
		x.Close()
	}
}

func TestAllocations(t *testing.T) {
	w := actiontest.New(t, services)
	f := func(settings string, headers ...string) {
		t.Helper()
		a := w.MustBuild(t, Definition, "{services: [{service: stable, weight: 95}, {service: canary, weight: 5}], "+settings+"}")
		w.NoAllocations(t, settings, func(x *exchange.Exchange) { x.Member = a.Choose(x) }, headers...)
	}
	f("sticky: off")
	f("sticky: {by: consumer}")
	f("sticky: {by: cookie}")
	f("sticky: {by: cookie}", "Cookie: sluice_split=0123456789abcdef0123456789abcdef")
	f(`sticky: {by: "header:X-Client"}, override: {header: X-Canary, cookie: canary, values: {always: canary}}`, "X-Client: a", "X-Canary: never", "Cookie: canary=never")
	f("override: {header: X-Canary, values: {always: canary}}, rollout: {}", "X-Canary: always")
	s := w.MustBuild(t, Definition, "{services: [{service: stable}, {service: canary}], rollout: {}}").Live.(*State)
	w.NoAllocations(t, "observe", func(x *exchange.Exchange) { s.counts.observe(x, true, nil) })
}
