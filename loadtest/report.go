package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

//go:embed report.html
var reportText string

var reportPage = template.Must(template.New("report").Parse(reportText))

// save writes the report of a trial: one file that needs nothing else.
func (t *trial) save(dir string) (path string, err error) {
	slices.SortFunc(t.marks, func(a, b mark) int { return int(a.at - b.at) })
	rates, latencies := t.series()
	var b bytes.Buffer
	err = reportPage.Execute(&b, map[string]any{
		"Name": t.scenario.name, "Proves": t.proves, "Passed": t.passed(),
		"Began": t.began.UTC().Format(time.RFC3339), "Length": t.length.Round(100 * time.Millisecond),
		"Machine":    fmt.Sprintf("%d processors, %s/%s; gateway, backend and load on the same machine; other processes had %s of it", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, show(t.others)),
		"Thresholds": t.thresholds, "Remarks": t.remarks(), "Phases": t.rows(), "Tables": t.tables, "Configuration": t.config,
		"Plots": []template.HTML{rates.draw(t), latencies.draw(t)},
	})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, t.scenario.name+".html")
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}

// row is a phase in the report's table.
type row struct {
	Name, Rate, Codes   string
	Requests, Failed    int
	P50, P95, P99, Most string
}

func (t *trial) rows() (rows []row) {
	for _, p := range t.phases {
		codes := make(map[int]int)
		for _, h := range p.hits {
			codes[h.code]++
		}
		var parts []string
		for code := range 600 {
			if n := codes[code]; n > 0 {
				name := fmt.Sprint(code)
				if code == 0 {
					name = "no answer"
				}
				parts = append(parts, fmt.Sprintf("%s: %d", name, n))
			}
		}
		rows = append(rows, row{
			p.name, fmt.Sprintf("%.0f/s", p.rate()), strings.Join(parts, ", "), len(p.hits), p.failed(),
			show(p.latency(0.5)), show(p.latency(0.95)), show(p.latency(0.99)), show(p.latency(1)),
		})
	}
	return rows
}

// plot is some lines over time.
type plot struct {
	title string
	unit  string
	lines []line
	step  time.Duration
}

type line struct {
	name, colour string
	values       []float64 // one for each step; below 0: none
}

// series are requests by outcome, and latencies, over the time of the trial.
func (t *trial) series() (rates, latencies plot) {
	// Some 120 steps, of a length that reads well.
	step := 100 * time.Millisecond
	for _, longer := range []time.Duration{500 * time.Millisecond, time.Second, 5 * time.Second, 30 * time.Second} {
		if t.length/step > 150 {
			step = longer
		}
	}
	n := int(t.length/step) + 1
	outcomes := []struct {
		name, colour string
		is           func(hit) bool
	}{
		{"2xx", "#2da44e", func(h hit) bool { return h.code/100 == 2 }},
		{"4xx", "#bf8700", func(h hit) bool { return h.code/100 == 4 }},
		{"5xx", "#cf222e", func(h hit) bool { return h.code/100 == 5 }},
		{"no answer", "#24292f", func(h hit) bool { return h.code == 0 }},
	}
	rates = plot{title: "Requests by outcome", unit: "/s", step: step}
	latencies = plot{title: "Latency of what was served", unit: "ms", step: step}
	at := make([][]hit, n) // those that latencies are of
	counts := make([][]float64, len(outcomes))
	for i := range counts {
		counts[i] = make([]float64, n)
	}
	for _, p := range t.phases {
		for _, h := range p.hits {
			k := min(int(h.at/step), n-1)
			for i, o := range outcomes {
				if o.is(h) {
					counts[i][k] += 1 / step.Seconds()
				}
			}
			if h.good && h.code/100 == 2 && !p.apart {
				at[k] = append(at[k], h)
			}
		}
	}
	for i, o := range outcomes {
		if slices.Max(counts[i]) > 0 {
			rates.lines = append(rates.lines, line{o.name, o.colour, counts[i]})
		}
	}
	for _, q := range []struct {
		name, colour string
		q            float64
	}{{"median", "#1f6feb", 0.5}, {"99th percentile", "#a475f9", 0.99}} {
		values := make([]float64, n)
		for k := range values {
			values[k] = -1
			if len(at[k]) > 0 {
				values[k] = float64(quantile(at[k], q.q, func(hit) bool { return true }).Microseconds()) / 1000
			}
		}
		latencies.lines = append(latencies.lines, line{q.name, q.colour, values})
	}
	return rates, latencies
}

// Of a plot, in pixels.
const (
	plotWidth, plotHeight = 900, 220
	left, right, up, down = 60, 10, 30, 24
)

// draw is the plot as SVG, with what was done to the gateway as dashed lines.
// Everything in it that is text comes from this program.
func (p *plot) draw(t *trial) template.HTML {
	top, steps := 0.0, 1
	for _, l := range p.lines {
		top, steps = max(top, slices.Max(l.values)), max(steps, len(l.values)-1)
	}
	if top <= 0 {
		return ""
	}
	x := func(k float64) float64 { return left + k/float64(steps)*(plotWidth-left-right) }
	y := func(v float64) float64 { return plotHeight - down - v/top*(plotHeight-up-down) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" role="img"><text x="%d" y="16" class="title">%s</text>`, plotWidth, plotHeight, left, p.title)
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text x="%d" y="%.1f" text-anchor="end">%s %s</text>`,
			left, plotWidth-right, y(v), y(v), left-6, y(v)+4, show(v), p.unit)
	}
	for i := range 6 {
		k := float64(steps*i) / 5
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(k), plotHeight-6, show(time.Duration(k*float64(p.step)).Round(100*time.Millisecond)))
	}
	faint := 1.0
	if len(t.marks) > 40 {
		faint = 0.25
	}
	for _, m := range t.marks {
		at := x(min(float64(m.at)/float64(p.step), float64(steps)))
		fmt.Fprintf(&b, `<line class="mark" opacity="%.2f" x1="%.1f" x2="%.1f" y1="%d" y2="%d"><title>%s: %s</title></line>`, faint, at, at, up, plotHeight-down, show(m.at), template.HTMLEscapeString(m.what))
	}
	for i, l := range p.lines {
		drawing := false
		fmt.Fprintf(&b, `<path fill="none" stroke="%s" stroke-width="1.5" d="`, l.colour)
		for k, v := range l.values {
			if v < 0 {
				drawing = false
				continue
			}
			command := "L"
			if !drawing {
				command = "M"
			}
			drawing = true
			fmt.Fprintf(&b, "%s%.1f %.1f", command, x(float64(k)), y(v))
		}
		fmt.Fprintf(&b, `"/><text x="%d" y="16" fill="%s">%s</text>`, plotWidth-130*(len(p.lines)-i), l.colour, l.name)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}
