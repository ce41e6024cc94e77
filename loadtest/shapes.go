package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
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
		atLeast(t, "offered load that was sent", of(len(p.hits), rate*int(length.Seconds())), 0.95)
		exactly(t, "requests in the gateway's metric", int(counted), len(p.hits))
		exactly(t, "requests at the backend", int(t.backend.calls.Load()), len(p.hits))
		atMost(t, "99th percentile", p.latency(0.99), control.wait().usual(0.99))
		return nil
	},
	faults: []*fault{
		{name: "a limit below the load", misses: "failed requests", set: []string{"policies.rate_limit.requests=300"}},
		{name: "requests that wait for the limit", misses: "99th percentile",
			set: []string{"policies.rate_limit.requests=400", "policies.rate_limit.excess=delay", "policies.rate_limit.max_delay=30s"}},
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
		atLeast(t, "offered load that was sent", of(len(p.hits), (from+to)/2*int(length.Seconds())), 0.95)
		atMost(t, "median of the last third", quantile(p.hits, 0.5, lastThird), 5*quantile(control.hits, 0.5, lastThird)+20*time.Millisecond)
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
		atLeast(t, "capacity of the backend that was used", of(peak.answered(200), int(slots*length/work)), 0.7)
		atLeast(t, "refused in the spike", peak.answered(503), 1)
		exactly(t, "every refusal says when to come again", told, true)
		atMost(t, "95th percentile of the accepted", accepted(0.95, peak), 1500*time.Millisecond)
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
	proves: "Nothing piles up: with a cache that is full, callers that come and go, new connections and reloads, memory, goroutines and open files stay where they were.",
	run: func(t *trial) error {
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasPrefix(req.URL.Path, "/pages") {
				_, _ = w.Write(page[:])
				return
			}
			plain(w, req)
		})
		loads := []load{
			{name: "200 pages/s, each another", pace: perSecond(200), next: func(n int) request { return request{path: fmt.Sprintf("/pages/%d", n)} }},
			{name: "50 pages/s, from the cache", pace: perSecond(50), next: get("/pages/popular")},
			{name: "100 callers/s, each another", pace: perSecond(100), next: func(n int) request {
				return request{path: "/api", header: http.Header{"X-Caller": {fmt.Sprint(n, rand.Uint64())}}}
			}},
			{name: "20 connections/s", pace: perSecond(20), next: get("/api"), fresh: true},
		}
		var phases []*phase
		for _, l := range loads {
			l.length = t.duration
			phases = append(phases, t.begin(l))
		}
		samples, reloads, err := t.observe(t.duration)
		if err != nil {
			return err
		}
		failed, sent := 0, 0
		for _, p := range phases {
			failed, sent = failed+p.wait().failed(), sent+len(p.hits)
		}
		err = wait(t.ctx, 5*time.Second, "requests in flight to end", func() (bool, error) {
			left, err := t.gateway.metric(t.ctx, "sluice_requests_in_flight")
			return left == 0, err
		})
		// The first quarter is for filling up.
		second, last := quarter(samples, 1), quarter(samples, 3)
		exactly(t, "failed requests", failed, 0)
		atLeast(t, "offered load that was sent", of(sent, 370*int(t.duration.Seconds())), 0.95)
		atLeast(t, "reloads", reloads, int(t.duration/soakReload)-2)
		exactly(t, "requests in flight at the end", err == nil, true)
		atMost(t, "memory in the last quarter, MiB", last.memory, 1.2*second.memory+16)
		atMost(t, "goroutines in the last quarter", last.goroutines, 1.1*second.goroutines+200)
		atMost(t, "open files in the last quarter", last.files, 1.1*second.files+200)
		return t.ctx.Err()
	},
	faults: []*fault{
		{name: "a cache without a bound", misses: "memory in the last quarter, MiB", set: []string{"routes.pages.policies.cache.max_size=4GiB"}},
	},
}

var page [32 << 10]byte

const soakReload = 5 * time.Second

// sample is what a gateway occupies.
type sample struct{ memory, goroutines, files float64 }

// observe looks at the gateway every half second, and reloads it at times.
func (t *trial) observe(length time.Duration) (samples []sample, reloads int, err error) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	begun, reloaded := time.Now(), time.Now()
	for time.Since(begun) < length {
		select {
		case <-t.ctx.Done():
			return nil, 0, t.ctx.Err()
		case <-tick.C:
		}
		if time.Since(reloaded) >= soakReload {
			reloaded = time.Now()
			if status, body, err := call(t.ctx, http.MethodPost, t.gateway.admin+"/api/config/reload", nil); err != nil || status != http.StatusOK {
				return nil, 0, fmt.Errorf("cannot reload: %d %s %w", status, body, err)
			}
			reloads++
			t.mark("reload")
		}
		_, text, err := call(t.ctx, http.MethodGet, t.gateway.admin+"/metrics", nil)
		if err != nil {
			return nil, 0, err
		}
		var s sample
		for name, v := range map[string]*float64{"process_resident_memory_bytes": &s.memory, "go_goroutines": &s.goroutines, "process_open_fds": &s.files} {
			if *v, err = sumSamples(text, name); err != nil {
				return nil, 0, err
			}
		}
		s.memory /= 1 << 20
		samples = append(samples, s)
	}
	return samples, reloads, nil
}

// quarter is the median of one of four parts of the samples.
func quarter(samples []sample, n int) sample {
	part := samples[n*len(samples)/4 : (n+1)*len(samples)/4]
	median := func(of func(sample) float64) float64 {
		var all []float64
		for _, s := range part {
			all = append(all, of(s))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	return sample{
		median(func(s sample) float64 { return s.memory }),
		median(func(s sample) float64 { return s.goroutines }),
		median(func(s sample) float64 { return s.files }),
	}
}
