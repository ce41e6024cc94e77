//go:build linux

// Command peers measures sluice and other gateways side by side on the same
// work: CPU time per request, throughput, latency added to the backend's own,
// and memory. Every gateway runs with the configuration that its documentation
// advises for speed (config/), pinned to one core; load and backend share
// another. Rounds are interleaved, so that a machine that changes its pace does
// so for all, and repeated where something else took processor time. What is
// measured is checked first: answers, refusals, limits and cache hits.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"sluice/bench/program"
)

// options are the flags.
type options struct {
	rounds, tries       int
	seconds, warm       time.Duration
	limit               time.Duration
	only, gateways      list
	also                list
	gatewayCore, load   int
	foreign             float64
	out, profile        string
	list, check, skipIn bool
}

// list is a flag of names that takes commas and repetition.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}

func parseFlags() options {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of every work")
	flag.DurationVar(&o.warm, "warm", time.Second, "load before each measurement")
	seconds := flag.Float64("seconds", 5, "length of each measurement")
	flag.DurationVar(&o.limit, "limit", 90*time.Minute, "begin no round after this")
	flag.Var(&o.only, "only", "works to measure, by name or the beginning of it (default all)")
	flag.Var(&o.gateways, "gateways", "gateways to measure (default all)")
	flag.Var(&o.also, "also", "NAME=BINARY: another build of sluice, measured beside the one of this tree")
	flag.IntVar(&o.gatewayCore, "core", 0, "core of the gateway")
	flag.IntVar(&o.load, "load-core", 1, "core of load and backend")
	flag.Float64Var(&o.foreign, "foreign", 0.05, "repeat a round when this share of a core's time went to others")
	flag.IntVar(&o.tries, "tries", 3, "how often such a round is measured at most; the least disturbed counts")
	flag.StringVar(&o.out, "out", filepath.Join("bench", "results"), "folder of peers.csv, peers.md and peers.svg")
	flag.StringVar(&o.profile, "profile", "", "take profiles of sluice under each work into this folder, and end")
	flag.BoolVar(&o.list, "list", false, "list the works and end")
	flag.BoolVar(&o.check, "check", false, "check the gateways' answers and end")
	flag.BoolVar(&o.skipIn, "no-install", false, "leave out what is not installed")
	flag.Parse()
	o.seconds = time.Duration(*seconds * float64(time.Second))
	return o
}

func main() {
	if role := program.Role(); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %s\n", role, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, parseFlags())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	works, err := choose(o.only)
	if err != nil {
		return err
	}
	if o.list {
		for _, w := range works {
			fmt.Fprintf(os.Stdout, "%-12s %s\n", w.name, w.title)
		}
		return nil
	}
	if o.gatewayCore == o.load || max(o.gatewayCore, o.load) >= runtime.NumCPU() {
		return fmt.Errorf("the gateway on core %d and the load on core %d need two different cores of the %d here", o.gatewayCore, o.load, runtime.NumCPU())
	}
	if o.profile != "" {
		o.gateways, o.also = list{subject, observed}, nil
	}
	dir, err := os.MkdirTemp("", "sluice-peers-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	gateways, err := assemble(ctx, o, dir)
	if err != nil {
		return err
	}
	files := program.RaiseFiles()
	if err := program.PinSelf(o.load); err != nil {
		return fmt.Errorf("cannot pin to core %d: %w", o.load, err)
	}
	b, err := startBackend()
	if err != nil {
		return err
	}
	defer b.Stop()

	r := &runner{options: o, dir: dir, files: files, gateways: gateways, backend: b, began: time.Now()}
	for _, mode := range modesOf(works) {
		if err := r.verify(ctx, mode); err != nil {
			return err
		}
	}
	if o.check {
		return nil
	}
	if o.profile != "" {
		return r.profile(ctx, works, o.profile)
	}
	report := &report{Machine: program.Machine(), Options: o, Began: r.began}
	for _, g := range gateways {
		report.Gateways = append(report.Gateways, named{g.name, g.version})
	}
	for _, w := range works {
		err := r.measure(ctx, w, report)
		if ctx.Err() != nil {
			report.note("%s: interrupted; later works were not measured", w.name)
			break // what was measured is written
		}
		if err != nil {
			return err
		}
	}
	if len(report.Samples) == 0 {
		return errors.New("nothing was measured")
	}
	report.write(os.Stdout)
	if err := report.save(o.out); err != nil {
		return err
	}
	if report.failed {
		return errors.New("some works could not be measured; the notes say which")
	}
	return nil
}

// choose picks works by name, or by the beginning of their names.
func choose(only []string) ([]*work, error) {
	if len(only) == 0 {
		return works, nil
	}
	var chosen []*work
	for _, name := range only {
		known := false
		for _, w := range works {
			if !strings.HasPrefix(w.name, name) {
				continue
			}
			if known = true; !slices.Contains(chosen, w) {
				chosen = append(chosen, w)
			}
		}
		if !known {
			return nil, fmt.Errorf("no work %q; -list shows them", name)
		}
	}
	slices.SortFunc(chosen, func(a, b *work) int { return cmp.Compare(slices.Index(works, a), slices.Index(works, b)) })
	return chosen, nil
}
