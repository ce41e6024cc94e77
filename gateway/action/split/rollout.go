package split

import (
	"fmt"
	"strconv"
	"time"

	"sluice/config"
)

// Rollout moves the weight to the last service step by step, as Config tells.
type Rollout struct {
	// Off: the weights stay as they are.
	Off bool `yaml:"-"`
	// Steps are the shares of the last service in percent, rising.
	Steps []int `yaml:"steps" default:"5,20,50,100" min:"1" max:"100"`
	// Every is how long a step is watched before the next; after the last the rollout is complete.
	Every config.Duration `yaml:"every" default:"5m" min:"100ms"`
	// MaxErrorRatio is by how much the share of failed requests may exceed that of the others. A single failed request of a window never counts as too many.
	MaxErrorRatio config.Percent `yaml:"max_error_ratio" default:"1%"`
	// MaxLatencyRatio is how many times the latency of the others is accepted; 0 accepts any.
	MaxLatencyRatio float64 `yaml:"max_latency_ratio" default:"1.2" min:"0"`
	// MinLatencyDifference is what latency may differ by in any case: a ratio says little of a millisecond.
	MinLatencyDifference config.Duration `yaml:"min_latency_difference" default:"5ms"`
	// Window is the time after which the services are compared. Default: a tenth of `every`, at least 1s.
	Window config.Duration `yaml:"window" default:"0s"`
	// MinRequests are the requests that each side needs in a window; it goes on until they have come.
	MinRequests int `yaml:"min_requests" default:"20" min:"1"`
}

// minWindow bounds how often services are compared.
const minWindow = 100 * time.Millisecond

// Complete sets what depends on other settings.
func (c *Rollout) Complete() {
	if c.Window == 0 {
		c.Window = min(max(c.Every/10, time.Second), c.Every)
	}
}

func (c *Rollout) check(split *Config) (errs config.Errors) {
	if len(c.Steps) == 0 {
		errs = append(errs, config.Errorf("steps", "this list must not be empty; write [5, 20, 50, 100]"))
	}
	for i, step := range c.Steps {
		if i > 0 && step <= c.Steps[i-1] {
			errs = append(errs, config.Errorf("steps["+strconv.Itoa(i)+"]", "%d is not more than the step before it, %d; steps rise", step, c.Steps[i-1]))
		}
	}
	if c.Window < minWindow || c.Window > c.Every {
		errs = append(errs, config.Errorf("window", "%s is out of range; it must be from %s to every, %s", config.FormatDuration(c.Window), config.FormatDuration(minWindow), config.FormatDuration(c.Every)))
	}
	if c.MaxLatencyRatio > 0 && c.MaxLatencyRatio < 1 {
		errs = append(errs, config.Errorf("max_latency_ratio", "%v would want the new service to be faster; write 1.2, or 0 to accept any latency", c.MaxLatencyRatio))
	}
	total := 0
	for _, m := range split.Services[:max(len(split.Services)-1, 0)] {
		total += m.Weight
	}
	if total == 0 {
		errs = append(errs, config.Errorf("steps", "no service but the last has a weight, so there is nothing to roll out from and to go back to"))
	}
	return prefixed("rollout", errs)
}

// rolloutState is where a rollout is. The numbers are the metric's.
type rolloutState uint8

const (
	running rolloutState = iota
	paused
	complete
	rolledBack
	aborted
	overridden
)

var stateNames = [...]string{"running", "paused", "complete", "rolled_back", "aborted", "overridden"}

func (s rolloutState) String() string { return stateNames[s] }

// transitions are the values of the metric's label `to`.
var transitions = [...]string{"started", "advanced", "paused", "resumed", "complete", "rolled_back", "aborted", "overridden"}

// rollout is the living part, guarded by its State's mu.
type rollout struct {
	Rollout
	counts *counts
	others []int // the weights of the other services

	state    rolloutState
	restored bool  // from what an earlier process left
	step     int   // from 0
	since    int64 // when the step began
	reason   string
	changed  time.Time
	begun    int64 // when the window began
	before   [2]reading
	baseline *figures // what the others did when they last had enough requests
	held     bool     // a window of this step was good
	slow     int      // windows in succession whose latency was bad
	waits    string   // what a step that is over waits for
	last     [2]figures
	judged   bool
}

func newRollout(c *Config, counts *counts) *rollout {
	r := &rollout{Rollout: c.Rollout, counts: counts}
	for _, m := range c.Services[:len(c.Services)-1] {
		r.others = append(r.others, m.Weight)
	}
	divisor := 0
	for _, w := range r.others {
		divisor = gcd(w, divisor)
	}
	for i := range r.others {
		r.others[i] /= divisor // of one other the weights are percentages
	}
	return r
}

// weights at the present step.
func (r *rollout) weights() []int {
	share := 0
	switch r.state {
	case running, paused, complete:
		share = r.Steps[r.step]
	}
	total := 0
	weights := make([]int, 0, len(r.others)+1)
	for _, w := range r.others {
		total += w
		weights = append(weights, w*(100-share))
	}
	return append(weights, total*share)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// enter begins a step.
func (r *rollout) enter(step int, now int64) {
	r.step, r.since, r.held, r.slow, r.waits = step, now, false, 0, ""
	r.open(now)
}

// open begins a window.
func (r *rollout) open(now int64) {
	r.begun = now
	r.before = [2]reading{r.counts.read(others), r.counts.read(canary)}
}

// verdict is what a window says.
type verdict uint8

const (
	undecided verdict = iota
	good
	bad
)

// judge looks at the window if it is over. why says in words what was bad.
func (r *rollout) judge(now int64) (v verdict, why string) {
	if now-r.begun < int64(r.Window) {
		return undecided, ""
	}
	after := [2]reading{r.counts.read(others), r.counts.read(canary)}
	base, new := after[others].since(&r.before[others]), after[canary].since(&r.before[canary])
	if new.requests == 0 {
		// Nothing was watched: the time of the step has not begun.
		r.since, r.waits = now, "the first request of the new service"
		r.open(now)
		return undecided, ""
	}
	if new.requests < uint64(r.MinRequests) {
		r.waits = fmt.Sprintf("%d of %d requests of the new service", new.requests, r.MinRequests)
		return undecided, ""
	}
	if base.requests >= uint64(r.MinRequests) {
		r.baseline = &base
	}
	compared := figures{}
	if r.baseline != nil {
		compared = *r.baseline
	}
	if new.failures > 1 && new.errorRatio()-compared.errorRatio() > float64(r.MaxErrorRatio) {
		r.last, r.judged = [2]figures{compared, new}, true
		return bad, fmt.Sprintf("errors: %.2f%% of %d requests, of the others %.2f%%", 100*new.errorRatio(), new.requests, 100*compared.errorRatio())
	}
	if r.baseline == nil && r.Steps[r.step] < 100 {
		r.waits = fmt.Sprintf("%d of %d requests of the other services", base.requests, r.MinRequests)
		return undecided, ""
	}
	r.last, r.judged, r.waits = [2]figures{compared, new}, true, ""
	r.open(now)
	if r.MaxLatencyRatio > 0 && compared.p95 > 0 && new.p95-compared.p95 > r.MinLatencyDifference && float64(new.p95) > r.MaxLatencyRatio*float64(compared.p95) {
		if r.slow++; r.slow > 1 {
			return bad, fmt.Sprintf("latency: 95%% within %s, of the others within %s", new.p95.Round(time.Microsecond*10), compared.p95.Round(time.Microsecond*10))
		}
		r.waits = "a second look at the latency"
		return undecided, ""
	}
	r.slow, r.held = 0, true
	return good, ""
}

// due reports whether the step has been watched for long enough and its last window was good.
func (r *rollout) due(now int64) bool {
	return r.held && r.slow == 0 && now-r.since >= int64(r.Every)
}

// active reports whether the rollout still decides about the weights.
func (r *rollout) active() bool { return r.state == running || r.state == paused }

// RolloutView is a rollout as operators see it.
type RolloutView struct {
	State string `json:"state"`
	// Step is the number of the step from 1, 0 when none is in force.
	Step  int   `json:"step"`
	Steps []int `json:"steps"`
	// Since is when the state or the step changed last.
	Since time.Time `json:"since"`
	// Reason says why it went back.
	Reason string `json:"reason,omitempty"`
	// Waits says what is missing before it can go on.
	Waits string `json:"waits,omitempty"`
	// Window is what the last window showed.
	Window *WindowView `json:"window,omitempty"`
}

// WindowView compares the services over a window.
type WindowView struct {
	New    SideView `json:"new"`
	Others SideView `json:"others"`
}

// SideView is one side of a comparison.
type SideView struct {
	Requests   uint64  `json:"requests"`
	ErrorRatio float64 `json:"error_ratio"`
	P95MS      float64 `json:"p95_ms"`
}

func viewSide(f *figures) SideView {
	return SideView{f.requests, f.errorRatio(), float64(f.p95.Microseconds()) / 1000}
}

func (r *rollout) view() *RolloutView {
	v := &RolloutView{State: r.state.String(), Step: r.number(), Steps: r.Steps, Since: r.changed, Reason: r.reason}
	if r.active() {
		v.Waits = r.waits
	}
	if r.judged {
		v.Window = &WindowView{New: viewSide(&r.last[canary]), Others: viewSide(&r.last[others])}
	}
	return v
}

// number of the step, 0 when none is in force.
func (r *rollout) number() int {
	if r.state > complete {
		return 0
	}
	return r.step + 1
}
