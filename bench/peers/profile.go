//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sluice/bench/program"
)

// profileOf is a kind of profile: what the admin listener calls it, and what of
// it is listed.
type profileOf struct{ name, path, sample string }

var profiles = []profileOf{
	{"cpu", "profile", "cpu"},
	{"allocs", "allocs", "alloc_space"},
}

// mixed is the profile of all works together: each was measured for the same
// time, so none outweighs another.
const mixed = "mixed"

// profile takes profiles of sluice under each work, all for the same time, and
// writes them, and what of them is first, into a folder.
func (r *runner) profile(ctx context.Context, works []*work, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := make(map[string][]string) // by the name of the kind
	for _, w := range works {
		if w.idle {
			continue
		}
		fmt.Fprintf(os.Stderr, "%-11s is profiled for %s\n", w.name, r.options.seconds)
		if err := r.profileWork(ctx, w, dir); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		for _, p := range profiles {
			files[p.name] = append(files[p.name], p.file(dir, w.name))
		}
	}
	for _, p := range profiles {
		if len(files[p.name]) == 0 {
			return errors.New("no work to profile")
		}
		if err := pprof(ctx, p.file(dir, mixed), append([]string{"-proto"}, files[p.name]...)...); err != nil {
			return err
		}
		for _, name := range append(names(works), mixed) {
			listed := filepath.Join(dir, name+"."+p.name+".txt")
			from := p.file(dir, name)
			if _, err := os.Stat(from); err != nil {
				continue // of an idle work
			}
			if err := pprof(ctx, listed, "-top", "-nodecount", "60", "-sample_index", p.sample, from); err != nil {
				return err
			}
		}
	}
	for _, p := range profiles {
		text, err := os.ReadFile(filepath.Join(dir, mixed+"."+p.name+".txt"))
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stdout, "%s\n", text)
	}
	fmt.Fprintf(os.Stdout, "go tool pprof -http : %s shows more; each work has its own beside it\n", profiles[0].file(dir, mixed))
	return nil
}

func (p profileOf) file(dir, work string) string {
	return filepath.Join(dir, work+"."+p.name+".pprof")
}

func names(works []*work) []string {
	var all []string
	for _, w := range works {
		all = append(all, w.name)
	}
	return all
}

// profileWork takes the profiles of one work while it is under load.
func (r *runner) profileWork(ctx context.Context, w *work, dir string) error {
	does := r.gateways[0]
	for _, g := range r.gateways {
		if g.does(w.mode) {
			does = g // that which does most of it is the last
		}
	}
	i, err := r.start(ctx, does, w.mode, false)
	if err != nil {
		return err
	}
	defer i.stop()
	j := job{Gateway: i.Processes(), Cores: []int{r.options.gatewayCore, r.options.load}}
	// The load goes on for a little longer than it is looked at.
	if j.Spec, err = w.spec(i.Listen, r.options.warm, r.options.seconds+2*time.Second); err != nil {
		return err
	}
	c, err := program.Play("load")
	if err != nil {
		return err
	}
	defer c.Stop()
	if err := c.Send(j); err != nil {
		return err
	}
	if err := pause(ctx, r.options.warm+time.Second); err != nil {
		return err
	}
	errs := make(chan error, len(profiles))
	for _, p := range profiles {
		go func() { errs <- i.fetch(ctx, p, r.options.seconds, p.file(dir, w.name)) }()
	}
	for range profiles {
		err = errors.Join(err, <-errs)
	}
	var o outcome
	if json.NewDecoder(c.Out).Decode(&o) != nil {
		err = errors.Join(err, errors.New("the load was not answered as it should be"))
	}
	return err
}

// fetch writes a profile over some time into a file.
func (i *instance) fetch(ctx context.Context, p profileOf, d time.Duration, file string) error {
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	url := fmt.Sprintf("http://%s/debug/pprof/%s?seconds=%d", i.Admin, p.path, max(int(d/time.Second), 1))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("no profile %s: status %d: %s", p.name, res.StatusCode, b)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

// pprof writes what `go tool pprof` makes of profiles into a file.
func pprof(ctx context.Context, file string, args ...string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "pprof"}, args...)...)
	cmd.Stdout = f
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	text, _ := io.ReadAll(said)
	if err := errors.Join(cmd.Wait(), f.Close()); err != nil {
		return fmt.Errorf("go tool pprof: %w\n%s", err, text)
	}
	return nil
}
