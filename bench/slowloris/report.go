//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sluice/bench/program"
)

var names = [states]string{"ordinary clients alone", "slow clients elsewhere", "slow clients at the gateway"}

// report is what a run found.
type report struct {
	*options
	began                  time.Time
	version                string
	rounds                 [][states]sample
	slowMemory, idleMemory float64 // KiB per connection
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median is that of a figure over the rounds, with the least and the greatest.
func (r *report) median(figure func(*[states]sample) float64) (median, low, high float64) {
	var all []float64
	for i := range r.rounds {
		all = append(all, figure(&r.rounds[i]))
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]
}

func (r *report) cell(digits int, figure func(*[states]sample) float64) string {
	median, low, high := r.median(figure)
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, median, digits, low, digits, high)
}

func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "# Under slowloris\n\nTaken %s by `make bench-slowloris` on %s: %s.\n\n", r.began.UTC().Format("2006-01-02"), program.Machine(), r.version)
	fmt.Fprintf(w, "Ordinary clients send %d requests a second through the gateway to a backend, an open loop over 64 connections, and are measured for %s.\n", r.rate, r.measure)
	fmt.Fprintf(w, "The slow ones, %d, each send a head that never ends, a field a second, and begin anew when the gateway cuts them off after its 10 s. *Elsewhere* they do\n", r.connections)
	fmt.Fprintf(w, "the same at a server that reads nothing, so that what they cost the machine is not charged to the gateway. Medians of %d interleaved rounds, with minimum and maximum; ratios are of the same round.\n\n", len(r.rounds))
	fmt.Fprintf(w, "| | p50 µs | p99 µs | p99.9 µs | CPU µs/request | cut off | not answered |\n|---|---|---|---|---|---|---|\n")
	for state := range states {
		at := func(figure func(*sample) float64) func(*[states]sample) float64 {
			return func(all *[states]sample) float64 { return figure(&all[state]) }
		}
		var lost, cut int64
		for i := range r.rounds {
			lost += r.rounds[i][state].Unanswered
			cut += r.rounds[i][state].Cut
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %d | %d |\n", names[state],
			r.cell(0, at(func(s *sample) float64 { return micro(s.P50) })), r.cell(0, at(func(s *sample) float64 { return micro(s.P99) })),
			r.cell(0, at(func(s *sample) float64 { return micro(s.P999) })), r.cell(1, at(func(s *sample) float64 { return micro(s.CPU) })), cut, lost)
	}
	ratio := func(than int) func(*[states]sample) float64 {
		return func(all *[states]sample) float64 { return float64(all[attacked].P99) / float64(all[than].P99) }
	}
	fmt.Fprintf(w, "\np99 with slow clients at the gateway: **%s** times that with them elsewhere, %s times that of ordinary clients alone.\n",
		r.cell(2, ratio(elsewhere)), r.cell(2, ratio(alone)))
	fmt.Fprintf(w, "\nMemory (PSS) of a fresh gateway: %.1f KiB for each of the %d slow connections, %.1f KiB for each of as many idle ones that were answered once.\n",
		r.slowMemory, r.connections, r.idleMemory)
	worst := 0.0
	for i := range r.rounds {
		for k := range r.rounds[i] {
			worst = max(worst, r.rounds[i][k].Foreign)
		}
	}
	if worst > r.foreign {
		fmt.Fprintf(w, "\nThe machine was not quiet: others took up to %.0f%% of a core.\n", worst*100)
	}
}

func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var b strings.Builder
	r.write(&b)
	return os.WriteFile(filepath.Join(dir, "slowloris.md"), []byte(b.String()), 0o644)
}
