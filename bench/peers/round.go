//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"sluice/bench/program"
)

// runner measures.
type runner struct {
	options  options
	dir      string
	files    int // open files that each process may have
	gateways []*gateway
	backend  *backend
	began    time.Time
}

// direct is the name of the backend without a gateway before it.
const direct = "backend alone"

// attempts at a measurement that fails, as when a gateway drops a connection.
const attempts = 3

// measure takes all rounds of a work and adds them to the report.
func (r *runner) measure(ctx context.Context, w *work, report *report) error {
	running := make(map[*gateway]*instance)
	defer func() {
		for _, i := range running {
			i.stop()
		}
	}()
	order := []*gateway{nil} // the backend alone
	if w.idle {
		order = nil
	}
	for _, g := range r.gateways {
		if !g.does(w.mode) {
			continue
		}
		order = append(order, g)
		if w.idle {
			continue // each measurement starts its own
		}
		i, err := r.start(ctx, g, w.mode, false)
		if err != nil {
			return err
		}
		running[g] = i
	}
	for round := range r.options.rounds {
		if time.Since(r.began) > r.options.limit {
			report.note("%s: only %d of %d rounds, as the time was over", w.name, round, r.options.rounds)
			return nil
		}
		best, failed, err := r.round(ctx, w, round, order, running)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // the others go on without it
			report.note("%s, round %d: %s; it is left out from here on", w.name, round+1, err)
			report.failed = true
			if failed == nil {
				return nil
			}
			order = slices.DeleteFunc(order, func(g *gateway) bool { return g == failed })
		}
		if worst := disturbance(best); worst > r.options.foreign {
			report.note("%s, round %d: others took %.0f%% of a core in the least disturbed of %d tries", w.name, round+1, worst*100, r.options.tries)
		}
		report.Samples = append(report.Samples, best...)
	}
	return nil
}

// round measures every gateway once, again while something else takes
// processor time, and returns the least disturbed try. One that can not be
// measured comes back with the reason, and ends the round.
func (r *runner) round(ctx context.Context, w *work, round int, order []*gateway, running map[*gateway]*instance) (best []sample, failed *gateway, err error) {
	for try := range max(r.options.tries, 1) {
		var all []sample
		for n := range order {
			g := order[(n+round)%len(order)] // each is first in turn
			s, err := r.attempt(ctx, w, g, running[g])
			if err != nil {
				return best, g, err
			}
			s.Work, s.Round, s.Try = w.name, round+1, try+1
			fmt.Fprintf(os.Stderr, "%-11s round %d  %s\n", w.name, round+1, s.line())
			all = append(all, s)
		}
		if best == nil || disturbance(all) < disturbance(best) {
			best = all
		}
		if disturbance(best) <= r.options.foreign {
			break
		}
		if try+1 < r.options.tries {
			fmt.Fprintf(os.Stderr, "%-11s round %d  again: others took %.0f%% of a core\n", w.name, round+1, disturbance(all)*100)
		}
	}
	return best, nil, nil
}

// disturbance is the largest share of a core that went to others.
func disturbance(all []sample) float64 {
	worst := 0.0
	for _, s := range all {
		worst = max(worst, s.Foreign)
	}
	return worst
}

func (r *runner) attempt(ctx context.Context, w *work, g *gateway, i *instance) (s sample, err error) {
	for range attempts {
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		if w.idle {
			s, err = r.hold(ctx, w, g)
		} else {
			s, err = r.drive(ctx, w, i)
		}
		if err == nil {
			return s, nil
		}
		name := direct
		if g != nil {
			name = g.name
		}
		err = fmt.Errorf("%s at %s: %w", name, w.name, err)
		fmt.Fprintln(os.Stderr, err)
	}
	return s, err
}

// drive measures a gateway under load, or the backend alone where i is nil.
func (r *runner) drive(ctx context.Context, w *work, i *instance) (sample, error) {
	s := sample{Gateway: direct}
	j := job{Own: []int{r.backend.Process(), os.Getpid()}, Cores: []int{r.options.gatewayCore, r.options.load}}
	address := r.backend.addr
	w = w.before(i)
	if i != nil {
		s.Gateway, j.Gateway, address = i.name, i.Processes(), i.Listen
	}
	var err error
	if j.Spec, err = w.spec(address, r.options.warm, r.options.seconds); err != nil {
		return s, err
	}
	before, err := r.hits(ctx)
	if err != nil {
		return s, err
	}
	c, err := program.Play("load")
	if err != nil {
		return s, err
	}
	defer c.Stop()
	if err := c.Send(j); err != nil {
		return s, err
	}
	var o outcome
	if err := json.NewDecoder(c.Out).Decode(&o); err != nil {
		return s, errors.New("the load was not answered as it should be")
	}
	after, err := r.hits(ctx)
	if err != nil {
		return s, err
	}
	// Every answer came from where it should.
	if hits := after - before; i != nil && w.mode == caching && hits > o.Total/100 {
		return s, fmt.Errorf("%d of %d answers are not from the cache", hits, o.Total)
	} else if w.mode != caching && hits < o.Total {
		return s, fmt.Errorf("the backend had %d requests for %d answers", hits, o.Total)
	}
	s.fill(&o)
	return s, nil
}

// Idle connections are looked at when their gateway has come to rest: sluice gives back every ten seconds what of
// its binary the connections' coming has touched, which has nothing to do with how many there are.
const (
	started = 2 * time.Second
	rest    = 12 * time.Second
)

// hold measures what idle connections of a fresh gateway take.
func (r *runner) hold(ctx context.Context, w *work, g *gateway) (sample, error) {
	s := sample{Gateway: g.name}
	i, err := r.start(ctx, g, w.mode, false)
	if err != nil {
		return s, err
	}
	defer i.stop()
	var j job
	if j.Spec, err = w.spec(i.Listen, 0, 0); err != nil {
		return s, err
	}
	if err := pause(ctx, started); err != nil {
		return s, err
	}
	before := program.PSS(i.Processes())
	c, err := program.Play("hold")
	if err != nil {
		return s, err
	}
	defer c.Stop()
	if err := c.Send(j); err != nil {
		return s, err
	}
	if line, err := c.Out.ReadString('\n'); err != nil || line != "held\n" {
		return s, fmt.Errorf("the connections can not be held: %w", err)
	}
	if err := pause(ctx, rest); err != nil {
		return s, err
	}
	s.PSS = float64(program.PSS(i.Processes())) / 1024
	s.Idle = (s.PSS*1024 - float64(before)) / float64(w.connections)
	return s, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
