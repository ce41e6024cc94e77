// Command loadtest puts Sluice under load and fails when it does not keep what
// it promises. Each scenario runs the gateway's own binary with a configuration
// of its own before a backend that it controls, checks thresholds, and leaves a
// report. README.md says what each of them proves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// scenarios in the order in which "all" runs them.
var scenarios = []*scenario{
	smoke, steady, ramp, spike, soak,
	limit, circuit, stampede, retries, abuser,
	canary, rollout, reload, drain, upgrade, sockets,
	deployed,
}

// options are the flags.
type options struct {
	scenario string
	duration time.Duration
	sluice   string
	out      string
	tries    int
	prove    bool
}

func main() {
	var o options
	flag.StringVar(&o.scenario, "scenario", "smoke", "names, with commas between; all: every one")
	flag.DurationVar(&o.duration, "duration", 2*time.Minute, "length of the soak, 20s to 1h")
	flag.StringVar(&o.sluice, "sluice", filepath.Join("..", "bin", "sluice"), "the gateway's binary")
	flag.StringVar(&o.out, "out", "results", "folder of the reports")
	flag.IntVar(&o.tries, "tries", 3, "how often a scenario is tried while other processes have the machine")
	flag.BoolVar(&o.prove, "prove", false, "run with each fault of the scenario instead; its threshold must fail")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	chosen, err := choose(o.scenario)
	if err != nil {
		return err
	}
	if o.duration < 20*time.Second || o.duration > time.Hour {
		return fmt.Errorf("-duration %s: must be from 20s to 1h", o.duration)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	if o.prove {
		return prove(ctx, o, chosen)
	}
	var missed []string
	for _, s := range chosen {
		t, err := settle(ctx, o, s, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		path, err := t.save(o.out)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "  report: %s\n\n", path)
		if !t.passed() {
			missed = append(missed, s.name)
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("thresholds were missed by %s", strings.Join(missed, ", "))
	}
	return nil
}

// settle tries a scenario, and again where it did not go as it should while
// other processes had the machine: what they do is not the gateway's fault. Only
// a trial that keeps every threshold passes.
func settle(ctx context.Context, o options, s *scenario, f *fault) (*trial, error) {
	for tries := 1; ; tries++ {
		t, err := try(ctx, o, s, f)
		if err != nil {
			return nil, err
		}
		t.tell(os.Stdout)
		expected := t.passed()
		if f != nil {
			expected = t.misses(f.misses)
		}
		if expected || t.others < disturbed || tries >= o.tries {
			return t, nil
		}
		fmt.Fprintf(os.Stdout, "  other processes had %s of the machine; once more\n", show(t.others))
	}
}

// prove shows that thresholds can fail: with each fault of a scenario the
// threshold that is there for it must.
func prove(ctx context.Context, o options, chosen []*scenario) error {
	var blind []string
	for _, s := range chosen {
		for _, f := range s.faults {
			t, err := settle(ctx, o, s, f)
			if err != nil {
				return fmt.Errorf("%s with %s: %w", s.name, f.name, err)
			}
			verdict := "is noticed"
			if !t.misses(f.misses) {
				verdict = "IS NOT NOTICED"
				blind = append(blind, fmt.Sprintf("%s with %s", s.name, f.name))
			}
			fmt.Fprintf(os.Stdout, "  fault %q %s by %q\n\n", f.name, verdict, f.misses)
		}
	}
	if len(blind) > 0 {
		return errors.New("a fault was not noticed by " + strings.Join(blind, ", "))
	}
	return nil
}

// choose finds scenarios by name.
func choose(names string) ([]*scenario, error) {
	if names == "all" {
		return scenarios, nil
	}
	var chosen []*scenario
	for name := range strings.SplitSeq(names, ",") {
		found := false
		for _, s := range scenarios {
			if s.name == name {
				chosen, found = append(chosen, s), true
			}
		}
		if !found {
			known := make([]string, len(scenarios))
			for i, s := range scenarios {
				known[i] = s.name
			}
			return nil, fmt.Errorf("there is no scenario %q; there are all, %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}
