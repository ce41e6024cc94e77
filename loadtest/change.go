package main

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

var canary = &scenario{
	name:   "canary",
	proves: "A split gives each service its share, also while the weights are changed under load, and a share of nothing is nothing.",
	run: func(t *trial) error {
		const rate, length = 800, 10 * time.Second
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			member, _, _ := strings.Cut(req.URL.Path[1:], "/")
			w.Header().Set("X-Member", member)
			plain(w, req)
		})
		const weights = "weight: 95}, {service: canary, weight: 5}"
		for i, w := range []struct{ stable, canary int }{{95, 5}, {50, 50}, {0, 100}} {
			if i > 0 {
				// The change comes under load, which only has to be answered.
				change := t.begin(load{name: "while weights change", pace: perSecond(rate), length: time.Second, next: get("/orders")})
				if err := t.reconfigure(weights, fmt.Sprintf("weight: %d}, {service: canary, weight: %d}", w.stable, w.canary)); err != nil {
					return err
				}
				t.mark("weights change")
				exactly(t, fmt.Sprintf("failed requests while %d of 100 become the canary's", w.canary), change.wait().failed(), 0)
			}
			canaries := 0
			p := t.load(load{name: fmt.Sprintf("%d to %d", w.stable, w.canary), pace: perSecond(rate), length: length, next: get("/orders"),
				seen: func(r *vegeta.Result) {
					if r.Headers.Get("X-Member") == "canary" {
						canaries++
					}
				}})
			// Five standard deviations: chance alone leaves them once in two million runs.
			want := float64(w.canary) / 100
			slack := 5 * math.Sqrt(want*(1-want)/float64(max(len(p.hits), 1)))
			exactly(t, fmt.Sprintf("failed requests at %d to %d", w.stable, w.canary), p.failed(), 0)
			within(t, fmt.Sprintf("the canary's share at %d to %d", w.stable, w.canary), of(canaries, len(p.hits)), share(want-slack), share(want+slack))
		}
		return nil
	},
	faults: []*fault{
		{name: "twice the weight", misses: "the canary's share at 95 to 5", set: []string{"routes.api.split.services[1].weight=10"}},
		{name: "weights that are not changed", misses: "the canary's share at 0 to 100", set: []string{"routes.api.split.services[0].weight=95"}},
	},
}

// mixed alternates between requests that a client may send again by itself and
// orders, which it may not: a connection that is closed under one fails it.
func mixed(path string) func(int) request {
	order := []byte("an order")
	return func(n int) request {
		if n%2 == 0 {
			return request{path: path}
		}
		return request{method: http.MethodPost, path: path, body: order}
	}
}

var reload = &scenario{
	name:   "reload",
	proves: "A configuration that changes several times a second, under load and with answers under way, costs no request, and what is new holds at once.",
	run: func(t *trial) error {
		const rate, length = 400, 20 * time.Second
		t.backend.does(taking(20*time.Millisecond, plain))
		generations := make(map[string]int)
		p := t.begin(load{name: "400 requests/s, half of them orders", pace: perSecond(rate), length: length, next: mixed("/api"),
			seen: func(r *vegeta.Result) { generations[r.Headers.Get("X-Generation")]++ }})
		fresh := t.begin(load{name: "50 connections/s", pace: perSecond(50), length: length, next: mixed("/api"), fresh: true})
		pause := time.NewTicker(100 * time.Millisecond)
		defer pause.Stop()
		done, late := 0, 0
		for running := true; running; {
			select {
			case <-p.done:
				running = false
			case <-t.ctx.Done():
				return t.ctx.Err()
			case <-pause.C:
				name := fmt.Sprint("generation-", done+1)
				strategy := []string{"peak_ewma", "round_robin", "least_request"}[done%3]
				if err := t.reconfigure("generation-0", name, "peak_ewma", strategy, "requests: 1000000", fmt.Sprint("requests: ", 1_000_000+done)); err != nil {
					return err
				}
				done++
				t.mark("reload")
				if status, _, err := call(t.ctx, http.MethodGet, t.gateway.url+"/"+name, nil); err != nil || status != http.StatusOK {
					late++
				}
			}
		}
		fresh.wait()
		exactly(t, "failed requests", p.failed()+fresh.failed(), 0)
		atLeast(t, "reloads", done, 40)
		exactly(t, "reloads whose route did not answer at once", late, 0)
		atLeast(t, "generations that answered", len(generations), done*8/10)
		atLeast(t, "offered load that was sent", of(len(p.hits), rate*int(length.Seconds())), 0.8)
		return nil
	},
	faults: []*fault{
		{name: "one configuration in three takes no orders", misses: "failed requests",
			edit: strings.NewReplacer("peak_ewma}\nroutes:\n  api: {match: {paths: [/api]}", "peak_ewma}\nroutes:\n  api: {match: {paths: [/api], methods: [GET]}")},
		{name: "configurations that do not hold", misses: "generations that answered", edit: strings.NewReplacer(`X-Generation: "generation`, `X-Other: "generation`)},
	},
}

var drain = &scenario{
	name:   "drain",
	proves: "SIGTERM under load costs no request: the gateway says that it is not ready, goes on accepting until the balancer has noticed, and finishes what is under way, short, long and streamed.",
	args:   []string{"--drain-delay", "2s", "--drain-timeout", "15s"},
	run: func(t *trial) error {
		const rate, length, chunks, asks = 200, 9 * time.Second, 30, 500 * time.Millisecond
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			switch req.URL.Path {
			case "/slow":
				taking(3*time.Second, plain)(w, req)
			case "/stream":
				for range chunks {
					_, _ = w.Write(page[:1024])
					_ = http.NewResponseController(w).Flush()
					taking(100*time.Millisecond, func(http.ResponseWriter, *http.Request) {})(w, req)
				}
			default:
				taking(5*time.Millisecond, plain)(w, req)
			}
		})
		second, err := t.start("second")
		if err != nil {
			return err
		}
		// The balancer asks every half second who is ready, and sends new requests there.
		first := t.gateway
		var target atomic.Pointer[string]
		target.Store(&first.url)
		to := func() string { return *target.Load() }
		loads := []*phase{
			t.begin(load{name: "200 requests/s, half of them orders", pace: perSecond(rate), length: length, next: mixed("/"), to: to}),
			t.begin(load{name: "20 slow requests/s", pace: perSecond(20), length: length, next: mixed("/slow"), to: to, apart: true}),
			t.begin(load{name: "10 streams/s", pace: perSecond(10), length: length, next: get("/stream"), to: to, apart: true,
				good: func(r *vegeta.Result) bool { return r.Code == 200 && len(r.Body) == chunks*1024 }}),
			t.begin(load{name: "50 connections/s", pace: perSecond(50), length: length, next: mixed("/"), to: to, fresh: true, apart: true}),
		}
		tick := time.NewTicker(asks)
		defer tick.Stop()
		begun, signalled, noticed, inFlight := time.Now(), false, false, 0.0
		for time.Since(begun) < length {
			select {
			case <-t.ctx.Done():
				return t.ctx.Err()
			case <-tick.C:
			}
			if signalled && !noticed && !first.ready(t.ctx) {
				noticed = true
				target.Store(&second.url)
				t.mark("the balancer notices")
			}
			if !signalled && time.Since(begun) > length/3 {
				if inFlight, err = first.metric(t.ctx, "sluice_requests_in_flight", `route="api"`); err != nil {
					return err
				}
				if err := first.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					return err
				}
				signalled = true
				t.mark("SIGTERM")
			}
		}
		failed := 0
		for _, p := range loads {
			failed += p.wait().failed()
		}
		ended := wait(t.ctx, 10*time.Second, "the first gateway to end", func() (bool, error) {
			select {
			case <-first.ended:
				return true, nil
			default:
				return false, nil
			}
		})
		took, err := second.metric(t.ctx, "sluice_requests_total", `route="api"`)
		if err != nil {
			return err
		}
		exactly(t, "failed requests", failed, 0)
		atLeast(t, "requests under way at SIGTERM", int(inFlight), 20)
		atLeast(t, "requests that the second gateway took", int(took), 100)
		exactly(t, "the first gateway ends", ended == nil, true)
		if ended == nil {
			exactly(t, "its exit code", first.code, 0)
		}
		return nil
	},
	faults: []*fault{
		{name: "no delay for the balancer", misses: "failed requests", args: []string{"--drain-delay", "0s"}},
		{name: "no time for what is under way", misses: "failed requests", args: []string{"--drain-timeout", "0s"}},
		{name: "a drain that never ends", misses: "the first gateway ends", args: []string{"--drain-delay", "1m"}},
	},
}
