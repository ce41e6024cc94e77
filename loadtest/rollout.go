package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

var rollout = &scenario{
	name:   "rollout",
	proves: "Clients stay: while a canary grows from 5 to 20 to 50 percent none of 10,000 goes back. A good release is rolled out by itself and waits for traffic; a bad one is taken back by itself, after two windows at most.",
	run: func(t *trial) error {
		const clients, rate = 10_000, 1000
		var bad atomic.Int64
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			member, rest, _ := strings.Cut(req.URL.Path[1:], "/")
			w.Header().Set("X-Member", member)
			w.Header().Set("X-Client", req.Header.Get("X-Client"))
			if member == "canary" && rest == "bad" && bad.Add(1)%5 == 0 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			plain(w, req)
		})
		from := func(path string) func(n int) request {
			return func(n int) request {
				return request{path: path, header: http.Header{"X-Client": {strconv.Itoa(n % clients)}}}
			}
		}
		// kept notes at which service each client is, and who went back.
		type places struct {
			canary       [clients]bool
			served, back int
		}
		note := func(p *places) func(r *vegeta.Result) {
			return func(r *vegeta.Result) {
				client, err := strconv.Atoi(r.Headers.Get("X-Client"))
				if err != nil {
					return
				}
				now := r.Headers.Get("X-Member") == "canary"
				if p.canary[client] && !now {
					p.back++
				}
				if p.canary[client] = now; now {
					p.served++
				}
			}
		}

		var byHand places
		for _, share := range []int{5, 20, 50} {
			weights := fmt.Sprintf(`{"weights": {"stable": %d, "canary": %d}}`, 100-share, share)
			if _, err := t.split("kept", weights); err != nil {
				return err
			}
			t.mark(fmt.Sprintf("%d %%", share))
			byHand.served = 0
			p := t.load(load{name: fmt.Sprintf("%d clients, %d %% for the canary", clients, share), pace: perSecond(rate), length: clients / rate * time.Second,
				next: from("/kept"), seen: note(&byHand)})
			exactly(t, fmt.Sprintf("failed requests at %d %%", share), p.failed(), 0)
			within(t, fmt.Sprintf("the canary's share at %d %%", share), of(byHand.served, len(p.hits)), spread(share, clients, -1), spread(share, clients, 1))
		}
		exactly(t, "clients that went back", byHand.back, 0)

		// Nobody has asked for it yet.
		v, err := t.split("good", "")
		if err != nil {
			return err
		}
		exactly(t, "the step without traffic", v.Rollout.Step, 1)
		var byItself places
		p := t.begin(load{name: "a good release", pace: perSecond(rate / 2), length: 15 * time.Second, next: from("/good"), seen: note(&byItself)})
		_ = wait(t.ctx, 15*time.Second, "the rollout to be complete", func() (bool, error) {
			v, err = t.split("good", "")
			return v.Rollout.State == "complete", err
		})
		t.mark("complete")
		exactly(t, "failed requests of the good release", p.wait().failed(), 0)
		exactly(t, "the good release", v.Rollout.State, "complete")
		exactly(t, "clients of the good release that went back", byItself.back, 0)

		const window = time.Second
		began := time.Now()
		p = t.begin(load{name: "a bad release", pace: perSecond(rate / 2), length: 6 * time.Second, next: from("/bad"),
			good: func(r *vegeta.Result) bool {
				return r.Code == 200 || r.Code == 500 && r.Headers.Get("X-Member") == "canary"
			}})
		_ = wait(t.ctx, 6*time.Second, "the rollout to go back", func() (bool, error) {
			v, err = t.split("bad", "")
			return v.Rollout.State == "rolled_back", err
		})
		took := time.Since(began)
		t.mark("rolled back")
		exactly(t, "failed requests beside those of the bad release", p.wait().failed(), 0)
		exactly(t, "the bad release", v.Rollout.State, "rolled_back")
		atMost(t, "time until it was taken back", took, 2*window+500*time.Millisecond)
		after := 0
		p = t.load(load{name: "after it was taken back", pace: perSecond(rate / 2), length: 2 * time.Second, next: from("/bad"),
			seen: func(r *vegeta.Result) {
				if r.Headers.Get("X-Member") == "canary" {
					after++
				}
			}})
		counted, err := t.gateway.metric(t.ctx, "sluice_rollout_transitions_total", `route="bad"`, `to="rolled_back"`)
		if err != nil {
			return err
		}
		exactly(t, "failed requests after it was taken back", p.failed(), 0)
		exactly(t, "requests for the bad release after it was taken back", after, 0)
		exactly(t, "times it was taken back in the metric", int(counted), 1)
		return nil
	},
	faults: []*fault{
		{name: "clients that are not kept", misses: "clients that went back", set: []string{"routes.kept.split.sticky=off"}},
		{name: "steps that nothing has to be good for", misses: "the bad release", set: []string{"routes.bad.split.rollout.max_error_ratio=100%"}},
		{name: "four times the requests before it is judged", misses: "time until it was taken back", set: []string{"routes.bad.split.rollout.min_requests=100"}},
		{name: "more requests than there are", misses: "the good release", set: []string{"routes.good.split.rollout.min_requests=100000"}},
	},
}

// spread is a share of so many clients in percent, five standard deviations off.
func spread(percent, clients int, sign float64) share {
	p := float64(percent) / 100
	return share(p + sign*5*math.Sqrt(p*(1-p)/float64(clients)))
}

// splitView is a part of what the admin API tells of a split.
type splitView struct {
	Rollout struct {
		State string `json:"state"`
		Step  int    `json:"step"`
	} `json:"rollout"`
}

// split asks the gateway for a route's split, or changes it.
func (t *trial) split(route, change string) (v splitView, err error) {
	method := http.MethodGet
	if change != "" {
		method = http.MethodPut
	}
	status, body, err := call(t.ctx, method, t.gateway.admin+"/api/routes/"+route+"/split", strings.NewReader(change))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the gateway refused to tell or change a split: %d %s", status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	return v, err
}
