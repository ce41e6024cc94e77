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
	a := w.MustBuild(t, Definition, "services: [{service: stable, weight: 95}, {service: canary, weight: 5}]")
	w.NoAllocations(t, "choose", func(x *exchange.Exchange) { x.Member = a.Choose(x) })
}
