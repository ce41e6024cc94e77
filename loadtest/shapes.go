package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// signed is a request with a token.
func (t *trial) signed(path string) (func(int) request, error) {
	token, err := t.token("alice")
	if err != nil {
		return nil, err
	}
	header := http.Header{"Authorization": {token}}
	return func(int) request { return request{path: path, header: header} }, nil
}

var steady = &scenario{
	name:   "steady",
	proves: "A moderate load passes whole: nothing fails, nothing is lost between client, gateway and backend, and the slowest are not slow.",
	run: func(t *trial) error {
		const rate, length = 500, 20 * time.Second
		next, err := t.signed("/api/orders/7")
		if err != nil {
			return err
		}
		control := t.control(length)
		p := t.load(load{name: "500 requests/s", pace: perSecond(rate), length: length, next: next})
		counted, err := t.gateway.metric(t.ctx, "sluice_requests_total", `route="api"`, `code="200"`)
		if err != nil {
			return err
		}
		exactly(t, "failed requests", p.failed(), 0)
		atLeast(t, "offered load that was sent", of(len(p.hits), rate*int(length.Seconds())), 0.8)
		exactly(t, "requests in the gateway's metric", int(counted), len(p.hits))
		exactly(t, "requests at the backend", int(t.backend.calls.Load()), len(p.hits))
		atMost(t, "99th percentile", p.latency(0.99), control.wait().usual())
		return nil
	},
	faults: []*fault{
		{name: "a limit below the load", misses: "failed requests", set: []string{"policies.rate_limit.requests=300"}},
		{name: "requests that wait for the limit", misses: "99th percentile",
			set: []string{"policies.rate_limit.requests=250", "policies.rate_limit.excess=delay", "policies.rate_limit.max_delay=30s"}},
	},
}

var ramp = &scenario{
	name:   "ramp",
	proves: "The load grows twentyfold; answers stay right, and the median does not grow with it but as the machine's own does.",
	run: func(t *trial) error {
		const from, to, length = 50, 1000, 30 * time.Second
		next, err := t.signed("/api/orders/7")
		if err != nil {
			return err
		}
		control := t.control(length)
		p := t.load(load{name: "50 to 1000 requests/s", pace: rising(from, to, length), length: length, next: next})
		control.wait()
		begun, _ := p.span()
		lastThird := func(h hit) bool { return h.good && h.at-begun >= length*2/3 }
		exactly(t, "failed requests", p.failed(), 0)
		atLeast(t, "offered load that was sent", of(len(p.hits), (from+to)/2*int(length.Seconds())), 0.8)
		atMost(t, "median of the last third", quantile(p.hits, 0.5, lastThird), 5*quantile(control.hits, 0.5, lastThird)+100*time.Millisecond)
		return nil
	},
	faults: []*fault{
		{name: "a limit on the way up", misses: "failed requests", set: []string{"policies.rate_limit.requests=700"}},
		{name: "requests that wait for the limit", misses: "median of the last third",
			set: []string{"policies.rate_limit.requests=500", "policies.rate_limit.excess=delay", "policies.rate_limit.max_delay=30s"}},
	},
}

var spike = &scenario{
	name:   "spike",
	proves: "Four times what the backend can do arrives at once. The backend goes on working at its pace, what is refused is told when to come again, what is accepted does not wait in a long line, and afterwards all is as before.",
	run: func(t *trial) error {
		const slots, work, length = 10, 50 * time.Millisecond, 5 * time.Second // 200 requests/s
		t.backend.does(atATime(slots, taking(work, plain)))
		told := true
		send := func(name string, rate int) *phase {
			return t.load(load{name: name, pace: perSecond(rate), length: length, next: get("/"),
				good: func(r *vegeta.Result) bool { return r.Code == 200 || r.Code == 503 },
				seen: func(r *vegeta.Result) {
					if r.Code == 503 && r.Headers.Get("Retry-After") == "" {
						told = false
					}
				}})
		}
		before := send("75 requests/s before", 75)
		t.mark("spike")
		peak := send("800 requests/s", 800)
		t.mark("spike is over")
		after := send("75 requests/s after", 75)

		accepted := func(q float64, p *phase) time.Duration {
			return quantile(p.hits, q, func(h hit) bool { return h.code == 200 })
		}
		exactly(t, "requests that were neither served nor refused", before.failed()+peak.failed()+after.failed(), 0)
		exactly(t, "refused without a spike", before.answered(503)+after.answered(503), 0)
		atLeast(t, "capacity of the backend that was used", of(peak.answered(200), int(slots*length/work)), 0.5)
		atLeast(t, "refused in the spike", peak.answered(503), 1)
		exactly(t, "every refusal says when to come again", told, true)
		atMost(t, "95th percentile of the accepted", accepted(0.95, peak), 3*time.Second)
		atMost(t, "median after the spike", accepted(0.5, after), 2*accepted(0.5, before))
		return nil
	},
	faults: []*fault{
		{name: "no bound", misses: "95th percentile of the accepted", set: []string{"policies.concurrency=off"}},
		{name: "a bound that is too low", misses: "capacity of the backend that was used", set: []string{"policies.concurrency.max=4"}},
	},
}

var soak = &scenario{
	name:   "soak",
	proves: "Nothing piles up: with a cache that is full, callers that come and go, new connections and reloads, the gateway at rest holds after the second half of the time what it held after the first.",
	run: func(t *trial) error {
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.URL.Path, "/pages") {
				_, _ = w.Write(page[:])
				return
			}
			plain(w, req)
		})
		var halves [2]*half
		for i := range halves {
			h, err := t.soak(i)
			if err != nil {
				return err
			}
			// What the first half left is the measure for the second, which may take its time to get there.
			enough := func(sample) bool { return true }
			if i > 0 {
				enough = func(s sample) bool { return s.within(halves[0].rest.slack()) }
			}
			if h.rest, err = t.rest(enough); err != nil {
				return err
			}
			t.mark("at rest")
			halves[i] = h
		}
		first, second := halves[0], halves[1]
		exactly(t, "failed requests", first.failed+second.failed, 0)
		atLeast(t, "offered load that was sent", of(first.sent+second.sent, 370*int(t.duration.Seconds())), 0.8)
		atLeast(t, "reloads", first.reloads+second.reloads, int(t.duration/soakReload)/2)
		most := first.rest.slack()
		exactly(t, "requests in flight at rest", second.rest.inFlight, 0)
		atMost(t, "memory in use at rest, MiB", second.rest.memory, most.memory)
		atMost(t, "goroutines at rest", second.rest.goroutines, most.goroutines)
		atMost(t, "open files at rest", second.rest.files, most.files)
		return nil
	},
	faults: []*fault{
		{name: "a cache without a bound", misses: "memory in use at rest, MiB", set: []string{"routes.pages.policies.cache.max_size=4GiB"}},
		{name: "connections that are kept for ever", misses: "open files at rest", set: []string{"services.api.connections.idle_timeout=1h"},
			backend: func(answer http.HandlerFunc) http.HandlerFunc {
				// Slower with every answer, so that ever more connections are needed.
				var n atomic.Int64
				return func(w http.ResponseWriter, req *http.Request) {
					taking(time.Duration(n.Add(1))*200*time.Microsecond, answer)(w, req)
				}
			}},
	},
}

var page [32 << 10]byte

const soakReload = 5 * time.Second

// half is one half of a soak.
type half struct {
	sent, failed, reloads int
	rest                  sample
}

// soak is half of the time under load, with reloads.
func (t *trial) soak(i int) (*half, error) {
	name := []string{", first half", ", second half"}[i]
	loads := []load{
		{name: "200 pages/s, each another", pace: perSecond(200), next: func(n int) request { return request{path: fmt.Sprintf("/pages/%d/%d", i, n)} }},
		{name: "50 pages/s, from the cache", pace: perSecond(50), next: get("/pages/popular")},
		{name: "100 callers/s, each another", pace: perSecond(100), next: func(n int) request {
			return request{path: "/api", header: http.Header{"X-Caller": {fmt.Sprint(i, "-", n)}}}
		}},
		{name: "20 connections/s", pace: perSecond(20), next: get("/api"), fresh: true},
	}
	var phases []*phase
	for _, l := range loads {
		l.name += name
		l.length = t.duration / 2
		phases = append(phases, t.begin(l))
	}
	h := new(half)
	tick := time.NewTicker(soakReload)
	defer tick.Stop()
	for end := time.Now().Add(t.duration / 2); time.Now().Before(end); h.reloads++ {
		select {
		case <-t.ctx.Done():
			return nil, t.ctx.Err()
		case <-tick.C:
		}
		if err := t.reconfigure(); err != nil {
			return nil, err
		}
		t.mark("reload")
	}
	for _, p := range phases {
		h.failed, h.sent = h.failed+p.wait().failed(), h.sent+len(p.hits)
	}
	return h, nil
}

// sample is what a gateway holds.
type sample struct{ inFlight, memory, goroutines, files float64 }

// slack is what it may hold later.
func (s sample) slack() sample {
	return sample{0, 1.1*s.memory + 8, 1.1*s.goroutines + 50, 1.1*s.files + 50}
}

func (s sample) within(most sample) bool {
	return s.inFlight <= most.inFlight && s.memory <= most.memory && s.goroutines <= most.goroutines && s.files <= most.files
}

// rest is what the gateway holds once nothing is in flight, garbage is
// collected, idle connections to the backend have had their second, and idle
// workers of the engine their twenty: at the latest after 40.
func (t *trial) rest(enough func(sample) bool) (s sample, err error) {
	const settle, most = 22 * time.Second, 40 * time.Second
	began := time.Now()
	err = wait(t.ctx, 2*most, "the gateway to answer", func() (bool, error) {
		if s, err = t.sample(); err != nil {
			return false, err
		}
		passed := time.Since(began)
		return passed > settle && s.inFlight == 0 && enough(s) || passed > most, nil
	})
	return s, err
}

func (t *trial) sample() (s sample, err error) {
	// Two collections: what a pool let go is still held by it after the first.
	for range 2 {
		if status, _, err := call(t.ctx, http.MethodGet, t.gateway.admin+"/debug/pprof/heap?gc=1", nil); err != nil || status != http.StatusOK {
			return s, fmt.Errorf("cannot collect garbage: %d %w", status, err)
		}
	}
	_, text, err := call(t.ctx, http.MethodGet, t.gateway.admin+"/metrics", nil)
	if err != nil {
		return s, err
	}
	for name, v := range map[string]*float64{
		"sluice_requests_in_flight": &s.inFlight, "go_memstats_heap_alloc_bytes": &s.memory,
		"go_goroutines": &s.goroutines, "process_open_fds": &s.files,
	} {
		if *v, err = sumSamples(text, name); err != nil {
			return s, err
		}
	}
	s.memory /= 1 << 20
	return s, nil
}
