//go:build linux

// Command instructions counts the instructions that sluice executes for a
// request, and fails where a change needs more of them than it may. A count
// hardly moves with what else the machine does, so a few thousand requests tell
// a difference that seconds of timing would not.
//
// Two builds, of an earlier commit and of this tree, each run as `sluice run`
// under the counter: perf where the processor's counters can be read, else
// valgrind, which executes each instruction in software. A run starts the
// gateway, warms it up, sends a number of requests of one work and ends it;
// what a run without those requests counts is subtracted. What waiting costs
// depends on the machine, so rounds are repeated and the least counts: noise
// only adds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"sluice/bench/tree"
)

// options are the flags.
type options struct {
	base     string
	requests int64
	rounds   int
	most     int
	limit    float64
	within   time.Duration
	only     string
	caches   bool
}

func main() {
	var o options
	flag.StringVar(&o.base, "base", "", "commit to compare with, or the path of a binary (default: the parent of this tree)")
	flag.Int64Var(&o.requests, "requests", 4000, "requests of each work in each run")
	flag.IntVar(&o.rounds, "rounds", 1, "rounds of every work")
	flag.IntVar(&o.most, "most", 4, "rounds at most, where builds differ by more than half of the limit, in either direction")
	flag.Float64Var(&o.limit, "limit", 5, "fail where a work needs more than this much more, in percent")
	flag.DurationVar(&o.within, "within", 15*time.Minute, "give up after this")
	flag.StringVar(&o.only, "only", "", "works to count, with commas (default all)")
	flag.BoolVar(&o.caches, "caches", false, "simulate caches too, with as many connections as bench/peers has, and tell the lines that they miss")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, o.within)
	err := run(ctx, o)
	cancel()
	stop()
	if missing, ok := errors.AsType[*uncounted](err); ok {
		shout(missing.Error())
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "instructions:", err)
		os.Exit(1)
	}
}

// uncounted is why nothing can be counted here; that is said, and no failure.
type uncounted struct{ reason string }

func (u *uncounted) Error() string { return u.reason }

// shout says what nobody is to overlook.
func shout(reason string) {
	bar := strings.Repeat("!", 78)
	fmt.Fprintf(os.Stdout, "%s\n!! INSTRUCTIONS WERE NOT COUNTED: %s\n%s\n", bar, reason, bar)
}

func run(ctx context.Context, o options) error {
	works, err := choose(o.only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-instructions-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, err := findCounter(ctx, dir, o.caches)
	if err != nil {
		return err
	}
	builds, err := build(ctx, o.base, dir)
	if err != nil {
		return err
	}
	if err := try(ctx, c, filepath.Join(dir, "try"), builds[1].path, "version"); err != nil {
		return &uncounted{fmt.Sprintf("sluice does not run under %s: %s", c.name(), err)}
	}
	r := &runner{options: o, counter: c, dir: dir, works: works, builds: builds, least: make(map[string]map[string]count)}
	if err := r.serveBackend(); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "instructions for a request, counted by %s; the least of the rounds, of %d requests each\n", c.name(), o.requests)
	for round := range max(o.rounds, o.most) {
		if round >= o.rounds && r.settled() {
			break
		}
		err := r.round(ctx)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			if round == 0 {
				return &uncounted{fmt.Sprintf("not one round was done within %s", o.within)}
			}
			fmt.Fprintf(os.Stdout, "only %d rounds were done within %s\n", round, o.within)
			break
		}
		if err != nil {
			return err
		}
	}
	r.write(os.Stdout)
	if n := r.times(cached, fixed); n > mostHit {
		return fmt.Errorf("an answer from the cache needs %.2f times the instructions of a fixed one, %g at most", n, mostHit)
	}
	if above := r.above(); len(above) > 0 {
		return fmt.Errorf("more than %g%% above %s: %s", o.limit, builds[0].name, strings.Join(above, ", "))
	}
	return nil
}

// binary is a build of sluice that is measured.
type binary struct{ name, path string }

// build gives the earlier build and this tree's. Both are without a profile, as
// the compiler's choices by it would change with every change of the code, and
// as the tests build the same packages, which are then in the build cache.
func build(ctx context.Context, base, dir string) ([]binary, error) {
	root, err := tree.Root(ctx)
	if err != nil {
		return nil, &uncounted{fmt.Sprintf("there is no earlier build to compare with: %s", err)}
	}
	at := func(dir, to string) error {
		return tree.Go(ctx, dir, "build", "-pgo=off", "-buildvcs=false", "-ldflags=-w", "-o", to, "./cmd/sluice")
	}
	old, now := binary{base, base}, binary{"this tree", filepath.Join(dir, "now")}
	if s, err := os.Stat(base); base == "" || err != nil || s.IsDir() {
		if base == "" {
			if base, err = tree.Parent(ctx); err != nil {
				return nil, &uncounted{fmt.Sprintf("there is no earlier build to compare with: %s", err)}
			}
		}
		t, err := tree.Checkout(ctx, base, dir)
		if err != nil {
			return nil, err
		}
		defer func() { _ = t.Close() }()
		old = binary{t.Commit, filepath.Join(dir, "base")}
		if err := at(t.Dir, old.path); err != nil {
			return nil, &uncounted{fmt.Sprintf("the earlier commit can not be built: %s", err)}
		}
	} else if old.path, err = filepath.Abs(base); err != nil {
		return nil, err
	}
	return []binary{old, now}, at(root, now.path)
}

// runner counts.
type runner struct {
	options
	counter counter
	dir     string
	backend string // its address
	works   []*work
	builds  []binary
	// least is the smallest count of a run, by build and work; and of one without requests, by idle.
	least map[string]map[string]count
}

// idle names the run without requests of works that are observed or not.
func idle(observed bool) string {
	if observed {
		return "observed idleness"
	}
	return "idleness"
}

// round counts every work once for both builds, side by side.
func (r *runner) round(ctx context.Context) error {
	counts := make([]map[string]count, len(r.builds))
	errs := make([]error, len(r.builds))
	var both sync.WaitGroup
	for i, b := range r.builds {
		both.Go(func() { counts[i], errs[i] = r.count(ctx, b) })
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		if ctx.Err() == nil { // what sluice does without a counter is for tests to say
			err = &uncounted{fmt.Sprintf("a build does not do the works under the counter, in %d tries: %s", tries, err)}
		}
		return err
	}
	for i, b := range r.builds {
		if r.least[b.name] == nil {
			r.least[b.name] = counts[i]
			continue
		}
		for work, n := range counts[i] {
			if n.requests < r.least[b.name][work].requests {
				r.least[b.name][work] = n
			}
		}
	}
	return nil
}

// count is what the runs of a build count.
func (r *runner) count(ctx context.Context, b binary) (all map[string]count, err error) {
	all = make(map[string]count)
	for _, w := range r.works {
		without := idle(w.observed)
		if _, counted := all[without]; !counted {
			if all[without], err = r.execute(ctx, b, w, 0); err != nil {
				return nil, err
			}
		}
		if all[w.name], err = r.execute(ctx, b, w, r.requests); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// of is what a build needs for a request. The run without requests is taken
// away at last: a disturbed one would make each difference seem small.
func (r *runner) of(b binary, work string) count {
	return r.least[b.name][work].minus(r.least[b.name][idle(work == observed)]).over(float64(r.requests))
}

// change is what a work needs more than before, in percent.
func (r *runner) change(work string) float64 {
	return (r.of(r.builds[1], work).requests/r.of(r.builds[0], work).requests - 1) * 100
}

// mostHit is how many times the instructions of a fixed answer one from the cache may need that has the same bytes.
const mostHit = 1.3

// times is how many times the instructions of another work this one needs in this tree; 0 where one of them is not counted.
func (r *runner) times(this, other string) float64 {
	now := r.builds[1]
	counted := func(name string) bool {
		return slices.ContainsFunc(r.works, func(w *work) bool { return w.name == name })
	}
	if !counted(this) || !counted(other) {
		return 0
	}
	return r.of(now, this).requests / r.of(now, other).requests
}

// settled tells whether no further round is needed. A difference may be noise,
// and what seems to be a gain may be a disturbed run of the earlier build that
// hides a loss.
func (r *runner) settled() bool {
	return !slices.ContainsFunc(r.works, func(w *work) bool { return math.Abs(r.change(w.name)) > r.limit/2 })
}

// above are the works over the limit.
func (r *runner) above() []string {
	var names []string
	for _, w := range r.works {
		if r.change(w.name) > r.limit {
			names = append(names, w.name)
		}
	}
	return names
}
