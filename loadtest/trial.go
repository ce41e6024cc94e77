package main

import (
	"cmp"
	"context"
	"embed"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

//go:embed config/*.yaml
var configs embed.FS

// scenario is one proof under load. Its configuration is config/NAME.yaml.
type scenario struct {
	name   string
	proves string
	args   []string // further arguments of `sluice run`
	apart  bool     // starts its gateways itself
	run    func(*trial) error
	faults []*fault
}

// fault breaks what a scenario proves, so that the threshold it names must fail.
type fault struct {
	name    string
	misses  string                                  // name of the threshold
	set     []string                                // settings, as of --set
	args    []string                                // arguments of `sluice run`
	edit    *strings.Replacer                       // of configurations that are put in force later
	backend func(http.HandlerFunc) http.HandlerFunc // around what the backend does
}

// trial is one run of a scenario.
type trial struct {
	*scenario
	options
	fault   *fault
	ctx     context.Context
	dir     string
	config  string // text of the configuration
	gateway *gateway
	backend *backend
	began   time.Time
	length  time.Duration
	others  share // of the machine, for processes that are not the trial's

	mu         sync.Mutex
	ends       []func() // of what was started
	phases     []*phase
	thresholds []threshold
	marks      []mark
	notes      []string
	tables     []table
}

// table is what a scenario has to show beside its loads.
type table struct {
	Title string
	Head  []string
	Rows  [][]string
}

// threshold is a condition of success with what was seen.
type threshold struct {
	Name, Seen, Wanted string
	Kept               bool
}

// mark is something that was done to the gateway during a trial.
type mark struct {
	at   time.Duration
	what string
}

// try runs a scenario once, with a fault if there is one. An error says that it
// could not be run; missed thresholds are none.
func try(ctx context.Context, o options, s *scenario, f *fault) (t *trial, err error) {
	t = &trial{scenario: s, options: o, fault: f, ctx: ctx, began: time.Now()}
	text, err := configs.ReadFile("config/" + s.name + ".yaml")
	if err != nil {
		return nil, err
	}
	t.config = string(text)
	before, err := howBusy()
	if err != nil {
		return nil, err
	}
	if t.dir, err = os.MkdirTemp("", "sluice-loadtest-"); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(t.dir) }()
	if t.backend, err = startBackend(); err != nil {
		return nil, err
	}
	defer t.backend.close()
	if f != nil {
		t.backend.fault = f.backend
	}
	defer t.stop()
	if !s.apart {
		if t.gateway, err = t.start("gateway"); err != nil {
			return nil, err
		}
	}
	if err := s.run(t); err != nil {
		return nil, err
	}
	t.length = time.Since(t.began)
	t.stop() // children count when they have ended
	after, err := howBusy()
	if err != nil {
		return nil, err
	}
	t.others = after.others(before)
	return t, ctx.Err()
}

// start runs a gateway with the scenario's configuration.
func (t *trial) start(name string) (*gateway, error) {
	file := filepath.Join(t.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(t.config), 0o600); err != nil {
		return nil, err
	}
	g, err := t.launch(name, append([]string{"-c", file, "--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--watch=false",
		"--drain-delay", "0s", "--drain-timeout", "5s"}, t.args...), nil)
	if err != nil {
		return nil, err
	}
	g.file = file
	return g, nil
}

// launch runs a gateway with arguments of `sluice run` and what the fault changes of them.
func (t *trial) launch(name string, args, environ []string) (*gateway, error) {
	args = append([]string{"run"}, args...)
	if t.fault != nil {
		args = append(args, t.fault.args...)
		for _, s := range t.fault.set {
			args = append(args, "--set", s)
		}
	}
	environ = append([]string{"BACKEND=" + t.backend.url, "SECRET=" + secret}, environ...)
	g, err := startGateway(t.ctx, t.sluice, args, environ, filepath.Join(t.out, t.scenario.name+"-"+name+".log"))
	if err != nil {
		return nil, err
	}
	t.ends = append(t.ends, g.stop)
	return g, nil
}

// stop ends what was started, the latest first.
func (t *trial) stop() {
	for _, end := range slices.Backward(t.ends) {
		end()
	}
}

// reconfigure puts the scenario's configuration in force with replacements.
func (t *trial) reconfigure(oldnew ...string) error {
	text := strings.NewReplacer(oldnew...).Replace(t.config)
	if t.fault != nil && t.fault.edit != nil {
		text = t.fault.edit.Replace(text)
	}
	return t.gateway.reconfigure(t.ctx, text)
}

// mark notes for the report what is done now.
func (t *trial) mark(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = append(t.marks, mark{time.Since(t.began), what})
}

// note adds a line to what is said about a trial.
func (t *trial) note(line string) { t.notes = append(t.notes, ports.ReplaceAllString(line, "…")) }

// require records a threshold.
func (t *trial) require(name string, kept bool, seen, wanted string) {
	t.thresholds = append(t.thresholds, threshold{name, seen, wanted, kept})
}

func exactly[T comparable](t *trial, name string, seen, wanted T) {
	t.require(name, seen == wanted, show(seen), "exactly "+show(wanted))
}

func atMost[T cmp.Ordered](t *trial, name string, seen, most T) {
	t.require(name, seen <= most, show(seen), "at most "+show(most))
}

func atLeast[T cmp.Ordered](t *trial, name string, seen, least T) {
	t.require(name, seen >= least, show(seen), "at least "+show(least))
}

func within[T cmp.Ordered](t *trial, name string, seen, least, most T) {
	t.require(name, least <= seen && seen <= most, show(seen), show(least)+" to "+show(most))
}

// share is a ratio that is shown in percent.
type share float64

func of(part, whole int) share {
	if whole == 0 {
		return 0
	}
	return share(part) / share(whole)
}

func show(v any) string {
	switch v := v.(type) {
	case time.Duration:
		if v > 10*time.Millisecond {
			return v.Round(100 * time.Microsecond).String()
		}
		return v.Round(10 * time.Microsecond).String()
	case share:
		return fmt.Sprintf("%.2f %%", 100*float64(v))
	case float64:
		if v >= 100 {
			return fmt.Sprintf("%.0f", v)
		}
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprint(v)
}

func (t *trial) passed() bool {
	for _, h := range t.thresholds {
		if !h.Kept {
			return false
		}
	}
	return len(t.thresholds) > 0
}

// misses tells whether the threshold of that name was missed.
func (t *trial) misses(name string) bool {
	for _, h := range t.thresholds {
		if h.Name == name {
			return !h.Kept
		}
	}
	return false
}

func (t *trial) tell(w io.Writer) {
	verdict := "passed"
	if !t.passed() {
		verdict = "MISSED"
	}
	fmt.Fprintf(w, "%s: %s in %s; other processes had %s of the machine\n", t.scenario.name, verdict, t.length.Round(100*time.Millisecond), show(t.others))
	for _, h := range t.thresholds {
		sign := "✓"
		if !h.Kept {
			sign = "✗"
		}
		fmt.Fprintf(w, "  %s %s: %s (%s)\n", sign, h.Name, h.Seen, h.Wanted)
	}
	for _, line := range t.remarks() {
		fmt.Fprintf(w, "    %s\n", line)
	}
	for _, table := range t.tables {
		fmt.Fprintf(w, "  %s\n", table.Title)
		columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range append([][]string{table.Head}, table.Rows...) {
			fmt.Fprintf(columns, "    %s\n", strings.Join(row, "\t"))
		}
		_ = columns.Flush()
	}
}

// remarks are notes, and what failures looked like.
func (t *trial) remarks() []string {
	lines := slices.Clone(t.notes)
	for _, p := range t.phases {
		for _, f := range p.failures() {
			lines = append(lines, p.name+": "+f)
		}
	}
	return lines
}
