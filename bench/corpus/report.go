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

	"sluice/bench/program"
	"sluice/gateway/corpustest"
)

// report is what became of the corpus at each gateway; sluice is first.
type report struct {
	began       time.Time
	gateways    []*gateway
	requests    []corpustest.Request
	responses   []corpustest.Response
	ofRequests  [][]verdict // by gateway and case
	ofResponses [][]verdict
}

// table is one direction of the report.
type table struct {
	title, sent string
	cases       []entry
	verdicts    [][]verdict
}

type entry struct {
	group, name, send, expected string
	refuse                      bool
}

func (r *report) tables() []table {
	q := table{title: "Requests", sent: "the client sends", verdicts: r.ofRequests}
	for i := range r.requests {
		c := &r.requests[i]
		last := c.Status[len(c.Status)-1]
		e := entry{c.Group, c.Name, string(c.Send), "passes", last >= 400}
		switch {
		case e.refuse:
			e.expected = strings.Trim(fmt.Sprint(c.Status), "[]")
			if c.Closed {
				e.expected += ", closed"
			}
		case len(c.Backend) == 0:
			e.expected = "answered"
		}
		q.cases = append(q.cases, e)
	}
	s := table{title: "Responses", sent: "the backend sends", verdicts: r.ofResponses}
	for i := range r.responses {
		c := &r.responses[i]
		e := entry{c.Group, c.Name, string(c.Send), "passes", c.Status == 0 || c.Status == 502 || c.Cut}
		switch {
		case c.Cut:
			e.expected = "cut off"
		case c.Status == 0:
			e.expected = "closed"
		case e.refuse:
			e.expected = "502"
		}
		if !c.Reused {
			e.expected += ", connection not used again"
		}
		s.cases = append(s.cases, e)
	}
	return []table{q, s}
}

func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer) error{"corpus.md": r.write, "corpus.csv": r.writeCSV} {
		var b strings.Builder
		if err := write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// summary says in few lines how many verdicts are as expected.
func (r *report) summary(w io.Writer) {
	for _, t := range r.tables() {
		for i, g := range r.gateways {
			fmt.Fprintf(w, "%-8s %-10s %d of %d as expected\n", g.name, strings.ToLower(t.title), len(t.cases)-disagreements(t.verdicts[i]), len(t.cases))
		}
	}
}

const introduction = `# The corpus of hostile messages beside its peers

Taken %s on %s, by ` + "`make bench-corpus`" + `.

%d requests and %d responses, raw bytes on sockets of their own (` + "`gateway/testdata/corpus`" + `), through each gateway as a plain reverse proxy. What is
expected is what Sluice promises: what could be read in two ways is refused. That is stricter than RFC 9112 asks of everyone, which lets
a recipient mend some of it: a row that differs is a difference, not always a fault. The verdicts that are worth a look: *passed, not well-formed* leaves
it to the backend to make sense of a message; after *next answer spoilt* and *passed, and used again* one exchange has reached, or may, into another. In the
family *target* much is choice: Sluice makes paths canonical before it routes by them, the others pass on what they have no rule for. *Waits* is no
end within 3 s.

`

func (r *report) write(w io.Writer) error {
	fmt.Fprintf(w, introduction, r.began.UTC().Format("2006-01-02"), program.Machine(), len(r.requests), len(r.responses))
	for _, g := range r.gateways {
		fmt.Fprintf(w, "- %s: %s\n", g.name, g.version)
	}
	for _, t := range r.tables() {
		fmt.Fprintf(w, "\n## %s\n\n", t.title)
		r.writeFamilies(w, &t)
		r.writeKinds(w, &t)
	}
	for _, t := range r.tables() {
		fmt.Fprintf(w, "\n## %s that some gateway takes differently\n\n", t.title)
		r.writeDifferent(w, &t)
	}
	fmt.Fprintf(w, "\n## Configurations\n")
	for _, g := range r.gateways {
		text, err := g.configuration()
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%s:\n\n```\n%s```\n", g.name, text)
	}
	return nil
}

func (r *report) header(w io.Writer, first ...string) {
	columns := first
	for _, g := range r.gateways {
		columns = append(columns, g.name)
	}
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

// writeFamilies counts the verdicts that are as expected.
func (r *report) writeFamilies(w io.Writer, t *table) {
	r.header(w, "as expected, by family", "cases")
	var families []string
	for i := range t.cases {
		if !slices.Contains(families, t.cases[i].group) {
			families = append(families, t.cases[i].group)
		}
	}
	for _, family := range append(families, "") {
		name, cases := family, 0
		agreed := make([]int, len(r.gateways))
		for i := range t.cases {
			if family != "" && t.cases[i].group != family {
				continue
			}
			cases++
			for g := range r.gateways {
				if t.verdicts[g][i].agrees {
					agreed[g]++
				}
			}
		}
		if family == "" {
			name = "**all**"
		}
		fmt.Fprintf(w, "| %s | %d |", name, cases)
		for _, n := range agreed {
			fmt.Fprintf(w, " %d |", n)
		}
		fmt.Fprintln(w)
	}
}

// writeKinds counts the verdicts by kind.
func (r *report) writeKinds(w io.Writer, t *table) {
	for _, refuse := range []bool{true, false} {
		cases := 0
		counts := make(map[kind][]int)
		var kinds []kind
		for i := range t.cases {
			if t.cases[i].refuse != refuse {
				continue
			}
			cases++
			for g := range r.gateways {
				k := t.verdicts[g][i].kind
				if counts[k] == nil {
					counts[k] = make([]int, len(r.gateways))
					kinds = append(kinds, k)
				}
				counts[k][g]++
			}
		}
		of := "to pass"
		if refuse {
			of = "to refuse"
		}
		fmt.Fprintln(w)
		r.header(w, fmt.Sprintf("verdict, of %d %s", cases, of))
		for _, k := range kinds {
			fmt.Fprintf(w, "| %s |", k)
			for _, n := range counts[k] {
				fmt.Fprintf(w, " %d |", n)
			}
			fmt.Fprintln(w)
		}
	}
}

func (r *report) writeDifferent(w io.Writer, t *table) {
	r.header(w, "case", t.sent, "expected")
	for i := range t.cases {
		c := &t.cases[i]
		different := false
		for g := range r.gateways {
			different = different || !t.verdicts[g][i].agrees
		}
		if !different {
			continue
		}
		fmt.Fprintf(w, "| %s: %s | %s | %s |", c.group, c.name, code(c.send, 120), c.expected)
		for g := range r.gateways {
			v := &t.verdicts[g][i]
			text := string(v.kind)
			if !v.agrees {
				text = "**" + text + "**"
			}
			if v.note != "" {
				text += ": " + strings.ReplaceAll(v.note, "|", `\|`)
			}
			if !v.agrees {
				for _, s := range v.saw {
					text += "<br>" + code(s, 160)
				}
			}
			fmt.Fprintf(w, " %s |", text)
		}
		fmt.Fprintln(w)
	}
}

// code writes bytes as code in a table.
func code(s string, most int) string {
	return "`` " + strings.ReplaceAll(abbreviated(s, most), "|", `\|`) + " ``"
}

// writeCSV gives every verdict, with all that was seen.
func (r *report) writeCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"direction", "family", "case", "expected", "gateway", "verdict", "as_expected", "note", "seen_behind_the_gateway"})
	for _, t := range r.tables() {
		for i := range t.cases {
			e := &t.cases[i]
			for g := range r.gateways {
				v := &t.verdicts[g][i]
				var saw []string
				for _, s := range v.saw {
					saw = append(saw, abbreviated(s, 2000))
				}
				_ = c.Write([]string{strings.ToLower(t.title), e.group, e.name, e.expected, r.gateways[g].name, string(v.kind),
					strconv.FormatBool(v.agrees), v.note, strings.Join(saw, " ")})
			}
		}
	}
	c.Flush()
	return c.Error()
}
