//go:build linux

package main

import (
	"fmt"
	"html"
	"io"
)

// Of the plot, in pixels: one panel for each work, bars below each other.
const (
	panelWidth  = 380
	labelWidth  = 90
	figureWidth = 60
	barHeight   = 18
	titleHeight = 34
	margin      = 16
	panelsInRow = 2
)

// colours by the order of gateways; sluice is first.
var colours = []string{"#1f6feb", "#8c959f", "#bf8700", "#2da44e", "#a475f9", "#cf222e", "#1b7c83", "#bf3989"}

// plot draws the cost of each work: medians as bars, minimum and maximum as lines.
func (r *report) plot(w io.Writer) {
	type panel struct {
		work  *work
		names []string
	}
	var panels []panel
	tallest := 0
	for _, work := range works {
		var names []string
		for _, n := range r.measured(work) {
			if n != direct {
				names = append(names, n)
			}
		}
		if len(names) > 0 {
			panels = append(panels, panel{work, names})
			tallest = max(tallest, len(names))
		}
	}
	height := titleHeight + tallest*barHeight + margin
	rows := (len(panels) + panelsInRow - 1) / panelsInRow
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n",
		panelsInRow*(panelWidth+margin)+margin, rows*height+margin)
	fmt.Fprintf(w, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	for i, p := range panels {
		fmt.Fprintf(w, `<g transform="translate(%d %d)">`+"\n", margin+i%panelsInRow*(panelWidth+margin), margin+i/panelsInRow*height)
		r.plotWork(w, p.work, p.names)
		fmt.Fprintf(w, "</g>\n")
	}
	fmt.Fprintf(w, "</svg>\n")
}

func (r *report) plotWork(w io.Writer, work *work, names []string) {
	unit := "CPU µs/request"
	if work.idle {
		unit = "KiB/connection"
	}
	fmt.Fprintf(w, `<text y="14" font-weight="bold">%s</text><text x="%d" y="14" text-anchor="end" fill="#57606a">%s</text>`+"\n",
		html.EscapeString(work.name), panelWidth, unit)
	top := 0.0
	spreads := make([]spread, len(names))
	for i, name := range names {
		spreads[i] = r.of(work.name, name, work.cost)
		top = max(top, spreads[i].high)
	}
	if top <= 0 {
		return
	}
	x := func(v float64) float64 { return labelWidth + max(v, 0)/top*(panelWidth-labelWidth-figureWidth) }
	for i, name := range names {
		s, y := spreads[i], titleHeight-10+i*barHeight
		fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-6, y+12, html.EscapeString(name))
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, labelWidth, y, x(s.median)-labelWidth, barHeight-4, r.colour(name))
		fmt.Fprintf(w, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#24292f"/>`, x(s.low), x(s.high), y+barHeight/2-2, y+barHeight/2-2)
		fmt.Fprintf(w, `<text x="%.1f" y="%d">%.1f</text>`+"\n", x(s.high)+5, y+12, s.median)
	}
}

func (r *report) colour(name string) string {
	for i, g := range r.Gateways {
		if g.name == name {
			return colours[i%len(colours)]
		}
	}
	return "#000000"
}
