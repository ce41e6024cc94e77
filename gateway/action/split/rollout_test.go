package split

import (
	"strings"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

// trial is a rollout without its ticker: the test says when it is looked at.
type trial struct {
	*testing.T
	w *actiontest.World
	a *action.Action
	*State
}

func newTrial(t *testing.T, settings string) *trial {
	t.Helper()
	w := actiontest.New(t, services)
	a := w.MustBuild(t, Definition, "{services: [{service: stable, weight: 3}, {service: beta, weight: 1}, {service: canary, weight: 7}], rollout: {"+settings+"}}")
	r := &trial{T: t, w: w, a: a, State: a.Live.(*State)}
	r.rollout.enter(0, r.clock.Now())
	return r
}

// window has both sides answer so many requests, failing some, and goes on by a window.
func (r *trial) window(others, failed, canaries, canariesFailed int, slower time.Duration) {
	r.Helper()
	for side, n := range [...]struct {
		all, failed int
		latency     time.Duration
	}{{others, failed, 20 * time.Millisecond}, {canaries, canariesFailed, 20*time.Millisecond + slower}} {
		for i := range n.all {
			x := r.w.Exchange("/")
			x.UpstreamTime = int64(n.latency)
			x.Response.SetStatusCode(200)
			if i < n.failed {
				x.Response.SetStatusCode(500)
			}
			r.counts.observe(x, side == canary, nil)
			_ = x.Close()
		}
	}
	r.w.Advance(r.rollout.Window)
	r.evaluate(r.clock.Now())
}

func (r *trial) is(state string, step int, weights string) {
	r.Helper()
	v, _ := r.Look()
	if got := r.table.Load().String(); v.Rollout.State != state || v.Rollout.Step != step || got != weights {
		r.Errorf("%s at step %d with %s, want %s at %d with %s; %+v", v.Rollout.State, v.Rollout.Step, got, state, step, weights, v.Rollout)
	}
}

func (r *trial) says(change, mistake string) {
	r.Helper()
	c, err := ParseChange([]byte(change))
	if err == nil {
		_, _, err = r.Change(c, "test", nil)
	}
	if mistake == "" && err != nil || mistake != "" && (err == nil || !strings.Contains(err.Error(), mistake)) {
		r.Errorf("%s: %v, want %q", change, err, mistake)
	}
}

func TestRolloutSuccess(t *testing.T) {
	r := newTrial(t, "steps: [5, 20, 100], every: 20s, window: 10s, max_error_ratio: 1%")
	r.is("running", 1, "[285 95 20]")
	r.window(1000, 0, 50, 0, 0)
	r.is("running", 1, "[285 95 20]") // not for long enough
	r.window(1000, 0, 50, 0, 0)
	r.is("running", 2, "[240 80 80]")
	r.window(1000, 20, 200, 3, 0) // 1.5% with 2% elsewhere
	r.window(1000, 0, 200, 1, 4*time.Millisecond)
	r.is("running", 3, "[0 0 400]")
	// Nobody is left to compare with: what the others did last counts.
	r.window(0, 0, 1000, 5, 0)
	r.is("running", 3, "[0 0 400]")
	r.window(0, 0, 1000, 5, 0)
	r.is("complete", 3, "[0 0 400]")
	r.window(0, 0, 1000, 1000, 0)
	r.is("complete", 3, "[0 0 400]")
	if log := r.w.Logged(); strings.Count(log, "event=advanced") != 2 || strings.Count(log, "event=complete") != 1 {
		t.Error(log)
	}
	if n := r.w.Metrics.RolloutTransitions.With(r.w.Generation, "users", "advanced").Value(); n != 2 {
		t.Errorf("%d advances counted", n)
	}
}

func TestRolloutErrors(t *testing.T) {
	r := newTrial(t, "every: 20s, window: 10s, max_error_ratio: 1%")
	r.window(1000, 10, 100, 2, 0) // 2% with 1% elsewhere is within bounds
	r.is("running", 1, "[285 95 20]")
	r.window(1000, 0, 50, 1, 0) // a single one is chance
	r.is("running", 2, "[240 80 80]")
	r.window(1000, 0, 50, 2, 0)
	r.is("rolled_back", 0, "[300 100 0]")
	v, _ := r.Look()
	if v.Rollout.Reason != "errors: 4.00% of 50 requests, of the others 0.00%" || v.Source != "rollout" || v.Rollout.Window.New.Requests != 50 {
		t.Errorf("%+v", v.Rollout)
	}
	r.window(1000, 0, 1000, 0, 0)
	r.is("rolled_back", 0, "[300 100 0]")
	if log := r.w.Logged(); !strings.Contains(log, `level=WARN msg=rollout route=users service=canary event=rolled_back state=rolled_back step=0 of=4 weights="[300 100 0]" reason="errors:`) {
		t.Error(log)
	}
}

func TestRolloutLatency(t *testing.T) {
	r := newTrial(t, "every: 20s, window: 10s, max_latency_ratio: 1.2, min_latency_difference: 2ms")
	r.window(1000, 0, 50, 0, 10*time.Millisecond)
	r.is("running", 1, "[285 95 20]")
	r.window(1000, 0, 50, 0, 0) // a pause, not a slow version
	r.is("running", 2, "[240 80 80]")
	r.window(1000, 0, 50, 0, 10*time.Millisecond)
	r.is("running", 2, "[240 80 80]")
	r.window(1000, 0, 50, 0, 10*time.Millisecond)
	r.is("rolled_back", 0, "[300 100 0]")
	if v, _ := r.Look(); !strings.HasPrefix(v.Rollout.Reason, "latency: 95% within") {
		t.Error(v.Rollout.Reason)
	}
	r = newTrial(t, "every: 20s, window: 10s, max_latency_ratio: 0")
	for range 2 {
		r.window(1000, 0, 50, 0, time.Second)
	}
	r.is("running", 2, "[240 80 80]")
}

// Too little traffic never moves anything; a window goes on until it can be judged.
func TestRolloutHolds(t *testing.T) {
	r := newTrial(t, "every: 20s, window: 10s, min_requests: 20")
	for range 3 {
		r.window(1000, 0, 6, 0, 0)
	}
	r.is("running", 1, "[285 95 20]")
	if v, _ := r.Look(); v.Rollout.Waits != "18 of 20 requests of the new service" {
		t.Errorf("%+v", v.Rollout)
	}
	r.window(1000, 0, 6, 0, 0) // the 24th request
	r.is("running", 2, "[240 80 80]")

	// Errors of a few requests add up as well.
	for range 3 {
		r.window(1000, 0, 6, 1, 0)
	}
	r.is("running", 2, "[240 80 80]")
	r.window(1000, 0, 6, 1, 0)
	r.is("rolled_back", 0, "[300 100 0]")

	// The time of a step begins with its first request.
	r = newTrial(t, "every: 20s, window: 10s, min_requests: 20")
	for range 10 {
		r.window(1000, 0, 0, 0, 0)
	}
	r.window(1000, 0, 50, 0, 0)
	r.is("running", 1, "[285 95 20]")
	r.window(1000, 0, 50, 0, 0)
	r.is("running", 2, "[240 80 80]")

	// Without anything to compare with.
	r = newTrial(t, "every: 20s, window: 10s, min_requests: 20")
	for range 5 {
		r.window(3, 0, 50, 0, 0)
	}
	r.is("running", 1, "[285 95 20]")
	r.window(3, 0, 50, 50, 0)
	r.is("rolled_back", 0, "[300 100 0]")
}

func TestRolloutSteering(t *testing.T) {
	r := newTrial(t, "every: 20s, window: 10s")
	r.says(`{"rollout": "pause"}`, "")
	for range 3 {
		r.window(1000, 0, 50, 0, 0)
	}
	r.is("paused", 1, "[285 95 20]")
	r.says(`{"rollout": "pause"}`, "the rollout is paused; that leaves nothing to pause")
	r.says(`{"rollout": "advance"}`, "")
	r.is("paused", 2, "[240 80 80]")
	r.says(`{"rollout": "resume"}`, "")
	r.window(1000, 0, 50, 0, 0)
	r.is("running", 2, "[240 80 80]") // the step's time begins anew
	r.window(1000, 0, 50, 0, 0)
	r.is("running", 3, "[150 50 200]")
	r.says(`{"rollout": "abort"}`, "")
	r.is("aborted", 0, "[300 100 0]")
	r.says(`{"rollout": "advance"}`, "the rollout is aborted")
	r.says(`{"rollout": "resume"}`, "the rollout is aborted")
	r.says(`{"rollout": "restart"}`, "")
	r.is("running", 1, "[285 95 20]")
	r.says(`{"rollout": "pause"}`, "")
	r.window(1000, 0, 50, 50, 0) // also while it is paused
	r.is("rolled_back", 0, "[300 100 0]")
	r.says(`{"rollout": "abort"}`, "the rollout is rolled_back")
	r.says(`{"rollout": "restart"}`, "")
	r.says(`{"switch": "canary"}`, "")
	r.is("overridden", 0, "[0 0 100]")
	r.window(1000, 0, 50, 50, 0)
	r.is("overridden", 0, "[0 0 100]")
	r.says(`{"rollout": "restart"}`, "")
	for range 4 {
		r.says(`{"rollout": "advance"}`, "")
	}
	r.is("complete", 4, "[0 0 400]")
	r.says(`{"rollout": "abort"}`, "")
	r.is("aborted", 0, "[300 100 0]")
}

func TestChange(t *testing.T) {
	w := actiontest.New(t, services)
	a := w.MustBuild(t, Definition, "{services: [{service: stable, weight: 95}, {service: canary, weight: 5}]}")
	s := a.Live.(*State)
	r := &trial{T: t, State: s}
	f := func(change, weights string) {
		t.Helper()
		r.says(change, "")
		if got := s.table.Load().String(); got != weights {
			t.Errorf("%s: %s, want %s", change, got, weights)
		}
	}
	f(`{"weights": {"stable": 0, "canary": 100}}`, "[0 100]")
	f(`[{"service": "stable", "weight": 3}, {"service": "canary"}]`, "[3 1]")
	f(`{"services": [{"service": "canary", "weight": 0}, {"service": "stable"}]}`, "[1 0]")
	f(`{"switch": "canary"}`, "[0 100]")
	if !strings.Contains(w.Logged(), `msg=split route=users services=stable,canary from="[1 0]" to="[0 100]" by=test`) {
		t.Error(w.Logged())
	}
	for change, mistake := range map[string]string{
		`{"weights": {"stable": 1}}`:                         `there is no weight for "canary"`,
		`{"weights": {"stable": 1, "canary": -1}}`:           "must be from 0 to 1000000",
		`{"weights": {"stable": 1, "canary": 1000001}}`:      "must be from 0 to 1000000",
		`{"weights": {"stable": 0, "canary": 0}}`:            "every weight is 0",
		`{"weights": {"stable": 1, "canary": 1, "beta": 1}}`: `"beta" is no service of this split; there are: stable, canary`,
		`{"weights": {"stable": 1.5, "canary": 1}}`:          "send {",
		`[{"service": "stable"}, {"service": "stable"}]`:     "stands here twice",
		`{"switch": "beta"}`:                                 `"beta" is no service of this split`,
		`{"switch": "stable", "rollout": "pause"}`:           "exactly one",
		`{}`:                      "exactly one",
		``:                        "send {",
		`{"switch": "stable"} {}`: "more behind it",
		`{"swich": "stable"}`:     "unknown field",
		`{"rollout": "pause"}`:    "this split has no rollout",
	} {
		r.says(change, mistake)
	}
	if got := s.table.Load().String(); got != "[0 100]" {
		t.Errorf("what was refused changed the weights to %s", got)
	}
	c, _ := ParseChange([]byte(`{"switch": "stable"}`))
	_, version := s.Look()
	if _, _, err := s.Change(c, "test", func(v uint64) bool { return v != version }); err != ErrChanged {
		t.Error(err)
	}
	if _, next, err := s.Change(c, "test", func(v uint64) bool { return v == version }); err != nil || next == version {
		t.Error(err)
	}
}

// What a client is to blame for, or what went away, says nothing about a service.
func TestObserve(t *testing.T) {
	r := newTrial(t, "")
	f := func(want reading, observe func(x *exchange.Exchange) error) {
		t.Helper()
		before := r.counts.read(canary)
		x := r.w.Exchange("/")
		defer x.Close()
		r.counts.observe(x, true, observe(x))
		after := r.counts.read(canary)
		got := after.since(&before)
		if wanted := want.since(&reading{}); got.failures != wanted.failures || got.requests != wanted.requests {
			t.Errorf("%+v", got)
		}
	}
	served := reading{}
	served.latency[0] = 1
	f(served, func(*exchange.Exchange) error { return nil })
	f(served, func(x *exchange.Exchange) error { x.Response.SetStatusCode(404); return nil })
	f(reading{failures: 1}, func(x *exchange.Exchange) error { x.Response.SetStatusCode(503); return nil })
	f(reading{failures: 1}, func(*exchange.Exchange) error { return exchange.NewReject(504, "upstream_timeout", "") })
	f(reading{}, func(*exchange.Exchange) error { return exchange.NewReject(413, "body_too_large", "") })
	f(reading{}, func(x *exchange.Exchange) error { x.Aborted.Store(true); return exchange.NewReject(502, "x", "") })
}

func TestLatencyBuckets(t *testing.T) {
	for d := time.Microsecond; d < 2*time.Minute; d += d/7 + 1 {
		i := bucketOf(int64(d))
		if d > bound(i) || i > 0 && d < bound(i-1) {
			t.Fatalf("%s is in the bucket up to %s", d, bound(i))
		}
	}
	if bucketOf(1<<62) != latencyBuckets-1 {
		t.Error("no bucket for the longest")
	}
	var r reading
	for ms := range 100 {
		r.latency[bucketOf(int64(time.Duration(ms+1)*time.Millisecond))]++
	}
	f := r.since(&reading{})
	if f.requests != 100 || f.p95 < 90*time.Millisecond || f.p95 > 100*time.Millisecond {
		t.Errorf("%+v", f)
	}
}

func TestDefaultsOfRollout(t *testing.T) {
	f := func(every, window time.Duration) {
		t.Helper()
		c := config.Defaults[Rollout]()
		c.Every = every
		c.Complete()
		if c.Window != window {
			t.Errorf("every %s: a window of %s, want %s", every, c.Window, window)
		}
	}
	f(5*time.Minute, 30*time.Second)
	f(5*time.Second, time.Second)
	f(500*time.Millisecond, 500*time.Millisecond)
}
