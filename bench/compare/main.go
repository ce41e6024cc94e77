//go:build linux

// Command compare runs the benchmarks of an earlier commit and of this tree in
// turns and prints what benchstat makes of them. In turns, because a machine
// that is slower this minute than the last is then so for both; and with the
// measuring code of this tree for both, because otherwise the instruments would
// be compared.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sluice/bench/tree"
)

// options are the flags.
type options struct {
	base, packages   string
	bench, benchtime string
	cpu              string
	rounds           int
	within           time.Duration
	benchstat, out   string
	short            bool
}

func main() {
	var o options
	flag.StringVar(&o.base, "base", "", "commit to compare with (default: the parent of this tree)")
	flag.StringVar(&o.packages, "packages", "./bench/path", "packages whose benchmarks run, with commas")
	flag.StringVar(&o.bench, "bench", "Proxy/300B|OwnAnswers/cached300B|Rejection/40[14]|Policy/(none|usual|all)|HTTP2/300B", "benchmarks, as go test -bench has them")
	flag.StringVar(&o.benchtime, "benchtime", "500ms", "time of each benchmark in each round")
	flag.StringVar(&o.cpu, "cpu", "", "as go test -cpu")
	flag.IntVar(&o.rounds, "rounds", 6, "rounds; benchstat wants at least six")
	flag.DurationVar(&o.within, "within", 30*time.Minute, "begin no round after this")
	flag.StringVar(&o.benchstat, "benchstat", "benchstat", "the program")
	flag.StringVar(&o.out, "out", "", "folder that keeps what both printed, as base.txt and tree.txt")
	flag.BoolVar(&o.short, "short", true, "as go test -short")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "sluice-compare-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if o.out == "" {
		o.out = dir
	} else if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	root, err := tree.Root(ctx)
	if err != nil {
		return err
	}
	if o.base == "" {
		if o.base, err = tree.Parent(ctx); err != nil {
			return err
		}
	}
	t, err := tree.Checkout(ctx, o.base, dir)
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }()

	packages := strings.Split(o.packages, ",")
	base := &side{name: t.Commit, dir: t.Dir, binaries: filepath.Join(dir, "base"), text: filepath.Join(o.out, "base.txt")}
	now := &side{name: "this tree", dir: root, binaries: filepath.Join(dir, "now"), text: filepath.Join(o.out, "tree.txt")}
	for _, s := range []*side{base, now} {
		if err := os.Remove(s.text); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := base.instruments(ctx, root, packages); err != nil {
		return err
	}
	for _, s := range []*side{base, now} {
		if err := s.build(ctx, packages); err != nil {
			return err
		}
	}
	if err := interleave(ctx, o, packages, base, now); err != nil {
		return err
	}
	return stat(ctx, o.benchstat, base, now)
}

// side is one of the two trees.
type side struct {
	name     string
	dir      string // of the tree
	binaries string // folder of its test binaries
	text     string // file of what they print
}

// instruments gives an earlier tree the measuring code of this one, where it can
// be built there: the folders below bench that are measured.
func (s *side) instruments(ctx context.Context, root string, packages []string) error {
	for _, p := range packages {
		p = filepath.Clean(p)
		if !strings.HasPrefix(p, "bench"+string(filepath.Separator)) {
			continue
		}
		for _, folder := range []string{p, filepath.Join("bench", "load")} {
			to := filepath.Join(s.dir, folder)
			if err := os.RemoveAll(to); err != nil {
				return err
			}
			if err := os.CopyFS(to, os.DirFS(filepath.Join(root, folder))); err != nil {
				return err
			}
		}
		if err := tree.Go(ctx, s.dir, "vet", "./"+p); err != nil {
			fmt.Fprintf(os.Stderr, "%s is measured with its own ./%s, as this tree's can not be built there:\n%s\n", s.name, p, err)
			checkout := exec.CommandContext(ctx, "git", "checkout", "-q", "--force", "HEAD", "--", "bench")
			checkout.Dir = s.dir
			if out, err := checkout.CombinedOutput(); err != nil {
				return fmt.Errorf("cannot restore %s: %w\n%s", p, err, out)
			}
		}
	}
	return nil
}

func (s *side) build(ctx context.Context, packages []string) error {
	for i, p := range packages {
		if err := tree.Go(ctx, s.dir, "test", "-c", "-o", s.binary(i), p); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (s *side) binary(i int) string { return filepath.Join(s.binaries, fmt.Sprintf("%d.test", i)) }

// interleave runs all benchmarks once on each side in each round; the side that
// was last goes first in the next.
func interleave(ctx context.Context, o options, packages []string, sides ...*side) error {
	began := time.Now()
	for round := range o.rounds {
		if time.Since(began) > o.within {
			fmt.Fprintf(os.Stderr, "only %d of %d rounds, as the time was over\n", round, o.rounds)
			break
		}
		for k := range sides {
			s := sides[(k+round)%len(sides)]
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, o.rounds, s.name)
			for i, p := range packages {
				if err := s.run(ctx, o, i, p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// run runs the benchmarks of a package once and keeps what they print.
func (s *side) run(ctx context.Context, o options, i int, p string) error {
	args := []string{"-test.run", "^$", "-test.bench", o.bench, "-test.benchmem", "-test.benchtime", o.benchtime, "-test.timeout", "30m"}
	if o.cpu != "" {
		args = append(args, "-test.cpu", o.cpu)
	}
	if o.short {
		args = append(args, "-test.short")
	}
	cmd := exec.CommandContext(ctx, s.binary(i), args...)
	cmd.Dir = filepath.Join(s.dir, p)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s of %s: %w\n%s", p, s.name, err, out)
	}
	if !bytes.Contains(out, []byte("\nBenchmark")) {
		return fmt.Errorf("%s of %s has no benchmark %q", p, s.name, o.bench)
	}
	f, err := os.OpenFile(s.text, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(out)
	return errors.Join(err, f.Close())
}

// stat lets benchstat compare.
func stat(ctx context.Context, program string, base, now *side) error {
	cmd := exec.CommandContext(ctx, program, base.name+"="+base.text, "tree="+now.text)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
