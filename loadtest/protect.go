package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

var limit = &scenario{
	name:   "limit",
	proves: "A limit of 100 lets exactly 100 pass, for each of twenty callers at once, from 200 connections and over reloads in between.",
	run: func(t *trial) error {
		const callers, each, allowed = 20, 400, 100
		passed, unsaid := make([]int, callers), 0
		headers := make([]http.Header, callers)
		for i := range headers {
			headers[i] = http.Header{"X-Caller": {fmt.Sprint("caller-", i)}}
		}
		p := t.begin(load{name: "8000 requests at once", pace: atOnce(callers * each), workers: 200,
			next: func(n int) request { return request{path: fmt.Sprintf("/%d", n%callers), header: headers[n%callers]} },
			good: func(r *vegeta.Result) bool { return r.Code == 200 || r.Code == 429 },
			seen: func(r *vegeta.Result) {
				if r.Code == 200 {
					var caller int
					if _, err := fmt.Sscan(r.URL[strings.LastIndexByte(r.URL, '/')+1:], &caller); err == nil {
						passed[caller]++
					}
				}
				if r.Code == 429 && r.Headers.Get("Retry-After") == "" {
					unsaid++
				}
			}})
		reloads := 0
		for {
			if err := t.reconfigure(); err != nil {
				return err
			}
			t.mark("reload")
			reloads++
			select {
			case <-p.done:
			default:
				continue
			}
			break
		}
		exactly(t, "requests that were neither served nor refused", p.failed(), 0)
		exactly(t, "fewest that one caller got through", slices.Min(passed), allowed)
		exactly(t, "most that one caller got through", slices.Max(passed), allowed)
		exactly(t, "requests at the backend", int(t.backend.calls.Load()), callers*allowed)
		exactly(t, "429 without Retry-After", unsaid, 0)
		atLeast(t, "reloads meanwhile", reloads, 2)
		return nil
	},
	faults: []*fault{
		{name: "one too many", misses: "most that one caller got through", set: []string{"policies.rate_limit.burst=101"}},
		{name: "tokens that are earned meanwhile", misses: "requests at the backend", set: []string{"policies.rate_limit.per=10s"}},
		{name: "one limit for all", misses: "fewest that one caller got through", set: []string{"policies.rate_limit.by=global"}},
	},
}

var circuit = &scenario{
	name:   "circuit",
	proves: "A backend that fails is left alone: few requests reach it, clients are refused at once and told when to come again. When it works again it is found by single requests, and then all pass.",
	run: func(t *trial) error {
		const rate, failures, openFor = 200, 5, 2 * time.Second
		told := 0
		run := func(name string, length time.Duration) *phase {
			return t.load(load{name: name, pace: perSecond(rate), length: length, next: get("/")})
		}
		healthy := run("healthy", 3*time.Second)

		t.backend.does(failing)
		before := t.backend.calls.Load()
		t.mark("the backend fails")
		control := t.control(6 * time.Second)
		broken := t.begin(load{name: "failing", pace: perSecond(rate), length: 6 * time.Second, next: get("/"),
			good: func(r *vegeta.Result) bool { return r.Code == 503 },
			seen: func(r *vegeta.Result) {
				if r.Headers.Get("Retry-After") != "" {
					told++
				}
			}})
		opened := wait(t.ctx, 3*time.Second, "the breaker to open", func() (bool, error) {
			state, err := t.gateway.breaker(t.ctx)
			return state == "open", err
		})
		broken.wait()
		reached := int(t.backend.calls.Load() - before)

		t.backend.does(plain)
		t.mark("the backend works")
		healed := time.Since(t.began)
		mended := run("mended", 6*time.Second)
		closed, err := t.gateway.breaker(t.ctx)
		if err != nil {
			return err
		}
		slices.SortFunc(mended.hits, func(a, b hit) int { return int(a.at - b.at) })
		recovery, relapses := 6*time.Second, 0
		if first := slices.IndexFunc(mended.hits, func(h hit) bool { return h.good }); first >= 0 {
			recovery = mended.hits[first].at - healed
			// Those that came while the one request was under way are refused rightly.
			proven := mended.hits[first].at + mended.hits[first].latency
			relapses = mended.count(func(h hit) bool { return h.at > proven && !h.good })
		}
		exactly(t, "failed requests before", healthy.failed(), 0)
		exactly(t, "the breaker opens", opened == nil, true)
		// Some are under way when it opens; then one for each time that it tries.
		within(t, "requests that reached the failing backend", reached, failures, failures+20)
		atLeast(t, "told when to come again", of(told, len(broken.hits)), 0.95)
		atMost(t, "99th percentile of refusals", broken.latency(0.99), control.wait().usual())
		atMost(t, "time until it is found working", recovery, openFor+2*time.Second)
		exactly(t, "failed requests after that", relapses, 0)
		exactly(t, "the breaker in the end", closed, "closed")
		return nil
	},
	faults: []*fault{
		{name: "no breaker", misses: "requests that reached the failing backend", set: []string{"services.api.circuit_breaker=off"}},
		{name: "a breaker that stays open", misses: "time until it is found working", set: []string{"services.api.circuit_breaker.open_for=1m"}},
	},
}

var stampede = &scenario{
	name:   "stampede",
	proves: "A thousand requests that wait at the same time for what is not in the cache cost the backend one call: when it is cold, and again after a purge.",
	run: func(t *trial) error {
		const many = 1000
		for _, when := range []string{"cold", "purged"} {
			release := make(chan struct{})
			before := t.backend.calls.Load()
			t.backend.does(func(w http.ResponseWriter, req *http.Request) {
				<-release
				plain(w, req)
			})
			p := t.begin(load{name: when, pace: atOnce(many), workers: many, next: get("/popular"),
				good: func(r *vegeta.Result) bool { return r.Code == 200 && strings.Contains(string(r.Body), `"/popular"`) }})
			// The backend's answer is held back until all are there.
			met := wait(t.ctx, 15*time.Second, "a thousand requests in flight", func() (bool, error) {
				n, err := t.gateway.metric(t.ctx, "sluice_requests_in_flight", `route="api"`)
				return n == many, err
			})
			t.mark("the backend answers")
			close(release)
			p.wait()
			exactly(t, "a thousand at the same time, "+when, met == nil, true)
			exactly(t, "wrong answers, "+when, p.failed(), 0)
			exactly(t, "calls of the backend, "+when, t.backend.calls.Load()-before, 1)
			if status, _, err := call(t.ctx, http.MethodDelete, t.gateway.admin+"/api/cache", nil); err != nil || status >= 300 {
				return fmt.Errorf("cannot purge the cache: %d %w", status, err)
			}
		}
		return nil
	},
	faults: []*fault{
		{name: "no cache", misses: "calls of the backend, cold", set: []string{"policies.cache=off"}},
		{name: "a cache that keeps nothing", misses: "calls of the backend, purged", set: []string{"policies.cache.statuses=404"}},
	},
}

var retries = &scenario{
	name:   "retries",
	proves: "A slow backend that fails a tenth of its calls and hangs in a fiftieth looks whole to clients. When all fails, retries add no more than their budget, and what may not be repeated never is.",
	run: func(t *trial) error {
		const rate, length = 200, 8 * time.Second
		var n atomic.Int64
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			switch n := n.Add(1); {
			case n%50 == 0:
				taking(15*time.Second, plain)(w, req)
			case n%10 == 0:
				failing(w, req)
			default:
				taking(20*time.Millisecond, plain)(w, req)
			}
		})
		attempts := func(p *phase, before int64) share { return of(int(t.backend.calls.Load()-before), len(p.hits)) }

		flaky := t.load(load{name: "a tenth fails", pace: perSecond(rate), length: length, next: get("/")})
		some := attempts(flaky, 0)

		t.mark("everything fails")
		before := t.backend.calls.Load()
		t.backend.does(failing)
		down := t.load(load{name: "everything fails", pace: perSecond(rate), length: length, next: get("/"),
			good: func(r *vegeta.Result) bool { return r.Code == 503 }})
		all := attempts(down, before)

		t.mark("orders")
		before = t.backend.calls.Load()
		orders := t.load(load{name: "orders fail", pace: perSecond(rate), length: 2 * time.Second,
			next: func(int) request { return request{method: http.MethodPost, path: "/", body: []byte("an order")} },
			good: func(r *vegeta.Result) bool { return r.Code == 503 }})
		repeated := int(t.backend.calls.Load()-before) - len(orders.hits)

		atLeast(t, "served although a tenth fails", 1-of(flaky.failed(), len(flaky.hits)), 0.99)
		within(t, "calls for each request when a tenth fails", some, 1.05, 1.20)
		atMost(t, "99th percentile", flaky.latency(0.99), 10*time.Second)
		exactly(t, "answers that are not the backend's", down.failed()+orders.failed(), 0)
		// Its budget, and the ten that it has in hand.
		within(t, "calls for each request when everything fails", all, 1.05, 1.25)
		exactly(t, "orders that were repeated", repeated, 0)
		return nil
	},
	faults: []*fault{
		{name: "no retries", misses: "served although a tenth fails", set: []string{"services.api.retries=off"}},
		{name: "no timeout", misses: "99th percentile", set: []string{"services.api.timeouts.response=30s"}},
		{name: "no budget", misses: "calls for each request when everything fails", set: []string{"services.api.retries.budget=100%"}},
	},
}

var abuser = &scenario{
	name:   "abuser",
	proves: "One of forty consumers sends more than the backend can take. Its limit holds it back: the 99th percentile of the others moves by at most a tenth, measured by turns, in phases with it and in phases in which it sends the same elsewhere.",
	run: func(t *trial) error {
		const consumers, rate, abuse, rounds, length = 40, 200, 600, 7, 4 * time.Second
		// 400 requests/s: twice what the others need, less than the abuser sends.
		t.backend.does(atATime(20, taking(50*time.Millisecond, plain)))
		headers := make([]http.Header, consumers)
		for i := range headers {
			token, err := t.token(fmt.Sprint("consumer-", i))
			if err != nil {
				return err
			}
			headers[i] = http.Header{"Authorization": {token}}
		}
		other := func(n int) request { return request{path: "/", header: headers[1+n%(consumers-1)]} }
		greedy := func(int) request { return request{path: "/", header: headers[0]} }

		t.load(load{name: "warming up", pace: perSecond(rate), length: 2 * time.Second, next: other})
		var alone, beside []time.Duration
		failed, refused, sent := 0, 0, 0
		for i := range rounds {
			// Sending the flood costs the machine something too. While the others are alone
			// it goes past the gateway, so that all that differs is where it goes.
			past := t.begin(load{name: fmt.Sprintf("flood past the gateway, %d", i+1), pace: perSecond(abuse), length: length, next: get(straight), apart: true,
				to: func() string { return t.backend.url }})
			quiet := t.load(load{name: fmt.Sprintf("others alone, %d", i+1), pace: perSecond(rate), length: length, next: other})
			past.wait()
			t.mark("the abuser comes")
			flood := t.begin(load{name: fmt.Sprintf("abuser, %d", i+1), pace: perSecond(abuse), length: length, next: greedy, apart: true,
				good: func(r *vegeta.Result) bool { return r.Code == 200 || r.Code == 429 }})
			loud := t.load(load{name: fmt.Sprintf("others beside the abuser, %d", i+1), pace: perSecond(rate), length: length, next: other})
			flood.wait()
			t.mark("the abuser is gone")
			alone, beside = append(alone, quiet.latency(0.99)), append(beside, loud.latency(0.99))
			failed += quiet.failed() + loud.failed() + flood.failed()
			refused, sent = refused+flood.answered(429), sent+len(flood.hits)
		}
		slices.Sort(alone)
		slices.Sort(beside)
		exactly(t, "failed requests", failed, 0)
		atLeast(t, "refused to the abuser", of(refused, sent), 0.9)
		atMost(t, "99th percentile of the others beside the abuser", beside[rounds/2], alone[rounds/2]*11/10)
		return nil
	},
	faults: []*fault{
		{name: "no limit", misses: "99th percentile of the others beside the abuser", set: []string{"policies.rate_limit=off"}},
	},
}
