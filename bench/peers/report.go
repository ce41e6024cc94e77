//go:build linux

package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is one gateway at one work in one round.
type sample struct {
	Work, Gateway  string
	Round, Try     int
	Requests       int64
	Seconds        float64
	CPU            float64 // microseconds per request, of all processes of the gateway
	Busy           float64 // share of its core that the gateway used
	P50, P99, P999 float64 // microseconds
	Unanswered     int64
	PSS            float64 // MiB
	Idle           float64 // KiB per idle connection
	Foreign        float64 // share of a core that went to others
}

func (s *sample) fill(o *outcome) {
	micro := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	s.Requests, s.Seconds, s.Unanswered = o.Requests, o.Elapsed.Seconds(), o.Unanswered
	s.CPU = micro(o.CPU) / float64(o.Requests)
	s.Busy = float64(o.CPU) / float64(o.Elapsed)
	s.P50, s.P99, s.P999 = micro(o.P50), micro(o.P99), micro(o.P999)
	s.PSS = float64(o.PSS) / 1024
	s.Foreign = o.Foreign
}

func (s *sample) perSecond() float64 {
	if s.Seconds == 0 {
		return 0
	}
	return float64(s.Requests) / s.Seconds
}

func (s *sample) line() string {
	if s.Idle != 0 {
		return fmt.Sprintf("%-13s %6.2f KiB/connection, PSS %.1f MiB", s.Gateway, s.Idle, s.PSS)
	}
	return fmt.Sprintf("%-13s %6.2f µs/request %8.0f/s  p50 %.0f p99 %.0f p99.9 %.0f µs  PSS %.1f MiB  busy %.0f%%  foreign %.1f%%",
		s.Gateway, s.CPU, s.perSecond(), s.P50, s.P99, s.P999, s.PSS, s.Busy*100, s.Foreign*100)
}

type named struct{ name, version string }

// report is what a run found.
type report struct {
	Machine  string
	Options  options
	Began    time.Time
	Gateways []named
	Samples  []sample
	Notes    []string
	failed   bool // some gateway at some work
}

func (r *report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// spread is a median with the least and the greatest; of many values also with the quartiles, which a few disturbed rounds do not move.
type spread struct{ median, low, high, first, third float64 }

// many is from how many values on there are quartiles.
const many = 12

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	s := spread{median: (v[(n-1)/2] + v[n/2]) / 2, low: v[0], high: v[n-1]}
	if n >= many {
		s.first, s.third = v[n/4], v[n-1-n/4]
	}
	return s
}

// of collects a figure over the rounds of a gateway at a work.
func (r *report) of(work, gateway string, figure func(*sample) float64) spread {
	var values []float64
	for i := range r.Samples {
		if s := &r.Samples[i]; s.Work == work && s.Gateway == gateway {
			values = append(values, figure(s))
		}
	}
	return spreadOf(values)
}

// against collects how a figure of one gateway compares with another's in the
// same round; rounds that lack either do not count.
func (r *report) against(work, gateway, other string, compare func(a, b *sample) float64) spread {
	var values []float64
	for i := range r.Samples {
		a := &r.Samples[i]
		if a.Work != work || a.Gateway != gateway {
			continue
		}
		for k := range r.Samples {
			if b := &r.Samples[k]; b.Work == work && b.Gateway == other && b.Round == a.Round {
				values = append(values, compare(a, b))
			}
		}
	}
	return spreadOf(values)
}

// cost is the figure that gateways are compared by.
func (w *work) cost(s *sample) float64 {
	if w.idle {
		return s.Idle
	}
	return s.CPU
}

func (w *work) ratio(a, b *sample) float64 {
	if w.cost(b) <= 0 {
		return 0
	}
	return w.cost(a) / w.cost(b)
}

// measured are the gateways that have samples of a work, in the report's order,
// the backend alone last.
func (r *report) measured(w *work) []string {
	var names []string
	for _, g := range append(slices.Clone(r.Gateways), named{name: direct}) {
		if slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Work == w.name && s.Gateway == g.name }) {
			names = append(names, g.name)
		}
	}
	return names
}

func (s spread) format(digits int) string {
	f := func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	if s.low == s.high {
		return f(s.median)
	}
	if s.third > 0 {
		return fmt.Sprintf("%s (%s–%s, half of them %s–%s)", f(s.median), f(s.low), f(s.high), f(s.first), f(s.third))
	}
	return fmt.Sprintf("%s (%s–%s)", f(s.median), f(s.low), f(s.high))
}

// write gives the report as Markdown.
func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "# Sluice beside its peers\n\nMeasured %s on %s.\n", r.Began.UTC().Format("2006-01-02 15:04 UTC"), r.Machine)
	fmt.Fprintf(w, "%d interleaved rounds of %s after %s of warming up; gateway on core %d, load and backend on core %d. ",
		r.Options.rounds, r.Options.seconds, r.Options.warm, r.Options.gatewayCore, r.Options.load)
	fmt.Fprintf(w, "Figures are medians with minimum and maximum over the rounds; ratios are of the same round. Under 10%% is a tie.\n\n")
	for _, g := range r.Gateways {
		fmt.Fprintf(w, "- %s: %s\n", g.name, g.version)
	}
	for _, work := range works {
		if names := r.measured(work); len(names) > 0 {
			fmt.Fprintf(w, "\n## %s: %s\n\n", work.name, work.title)
			if work.idle {
				r.writeIdle(w, work, names)
			} else {
				r.writeWork(w, work, names)
			}
		}
	}
	if len(r.Notes) > 0 {
		fmt.Fprintf(w, "\n## Notes\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(w, "- %s\n", n)
		}
	}
}

func (r *report) writeWork(w io.Writer, work *work, names []string) {
	fmt.Fprintf(w, "| gateway | CPU µs/request | sluice ÷ it | requests/s | added p50 µs | added p99 µs | added p99.9 µs | PSS MiB | core used |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, name := range names {
		at := func(figure func(*sample) float64) spread { return r.of(work.name, name, figure) }
		row := []string{name, "-", "-", at((*sample).perSecond).format(0)}
		if name == direct {
			row = append(row, "("+at(func(s *sample) float64 { return s.P50 }).format(0)+")",
				"("+at(func(s *sample) float64 { return s.P99 }).format(0)+")",
				"("+at(func(s *sample) float64 { return s.P999 }).format(0)+")", "-", "-")
		} else {
			row[1] = at(func(s *sample) float64 { return s.CPU }).format(2)
			row[2] = r.verdict(work, name)
			for _, p := range []func(*sample) float64{
				func(s *sample) float64 { return s.P50 }, func(s *sample) float64 { return s.P99 }, func(s *sample) float64 { return s.P999 },
			} {
				row = append(row, r.against(work.name, name, direct, func(a, b *sample) float64 { return p(a) - p(b) }).format(0))
			}
			row = append(row, at(func(s *sample) float64 { return s.PSS }).format(1),
				strconv.FormatFloat(at(func(s *sample) float64 { return s.Busy }).median*100, 'f', 0, 64)+"%")
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	for _, b := range work.bars {
		if times := r.against(work.name, b.gateway, b.other, work.ratio); b.gateway != subject && times != (spread{}) {
			fmt.Fprintf(w, "\n%s ÷ %s: %s.\n", b.gateway, b.other, b.judge(times))
		}
	}
	lost := int64(0)
	for _, s := range r.Samples {
		if s.Work == work.name {
			lost += s.Unanswered
		}
	}
	if lost > 0 {
		fmt.Fprintf(w, "\n%d requests were not answered in time; they count with the time that they waited.\n", lost)
	}
}

func (r *report) writeIdle(w io.Writer, work *work, names []string) {
	fmt.Fprintf(w, "| gateway | KiB per connection | sluice ÷ it | PSS MiB |\n|---|---|---|---|\n")
	for _, name := range names {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", name,
			r.of(work.name, name, func(s *sample) float64 { return s.Idle }).format(2), r.verdict(work, name),
			r.of(work.name, name, func(s *sample) float64 { return s.PSS }).format(1))
	}
}

// judge is a ratio with whether its median is within the bar, emphasised where it is not.
func (b bar) judge(s spread) string {
	if s.median <= b.most {
		return fmt.Sprintf("%s, within %.2f", s.format(2), b.most)
	}
	return fmt.Sprintf("**%s, above %.2f**", s.format(2), b.most)
}

// verdict is sluice's cost over a gateway's in the same round, and whether that
// is within the bar where there is one.
func (r *report) verdict(work *work, name string) string {
	if name == subject {
		return "1"
	}
	s := r.against(work.name, subject, name, work.ratio)
	if s == (spread{}) {
		return "-"
	}
	for _, b := range work.bars {
		if b.gateway == subject && b.other == name {
			return b.judge(s)
		}
	}
	return s.format(2)
}

// save writes peers.csv, peers.md and peers.svg.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer){"peers.md": r.write, "peers.csv": r.writeCSV, "peers.svg": r.plot} {
		var b strings.Builder
		write(&b)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeCSV gives every sample.
func (r *report) writeCSV(w io.Writer) {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"work", "round", "try", "gateway", "requests", "seconds", "requests_per_second", "cpu_us_per_request", "core_used",
		"p50_us", "p99_us", "p999_us", "unanswered", "pss_mib", "idle_kib_per_connection", "foreign"})
	f := func(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	for i := range r.Samples {
		s := &r.Samples[i]
		_ = c.Write([]string{s.Work, strconv.Itoa(s.Round), strconv.Itoa(s.Try), s.Gateway, strconv.FormatInt(s.Requests, 10), f(s.Seconds, 3),
			f(s.perSecond(), 1), f(s.CPU, 3), f(s.Busy, 3), f(s.P50, 1), f(s.P99, 1), f(s.P999, 1), strconv.FormatInt(s.Unanswered, 10),
			f(s.PSS, 2), f(s.Idle, 3), f(s.Foreign, 4)})
	}
	c.Flush()
}
