//go:build linux

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// result is what the suite says of one test.
type result struct {
	Group     string   `json:"group"`
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Kind      string   `json:"kind"` // required, optimal, or check: a question that has no wrong answer
	DependsOn []string `json:"depends_on"`
	Ran       bool     `json:"ran"`
	Passed    bool     `json:"passed"`
	Setup     bool     `json:"setup"` // it failed before what it is about
	Message   string   `json:"message"`
}

// The outcomes, in the suite's sense: a test counts only where all that it
// depends on has passed.
const (
	passed     = "pass"
	failed     = "fail"
	unprepared = "setup"      // what the test presumes is not so
	dependent  = "dependency" // a test that it depends on has not passed
	untested   = "untested"   // browsers alone
)

type report struct {
	results       []result
	sluice, suite string
}

func (r *report) find(id string) *result {
	i := slices.IndexFunc(r.results, func(t result) bool { return t.ID == id })
	if i < 0 {
		return nil
	}
	return &r.results[i]
}

func (r *report) outcome(t *result) string {
	if !t.Ran {
		return untested
	}
	for _, id := range t.DependsOn {
		if other := r.find(id); other == nil || r.outcome(other) != passed {
			return dependent
		}
	}
	switch {
	case t.Passed:
		return passed
	case t.Setup:
		return unprepared
	}
	return failed
}

// replace puts the results of tests that ran again in the place of the first.
func (r *report) replace(again []result) {
	for _, t := range again {
		if old := r.find(t.ID); old != nil && t.Passed {
			*old = t
		}
	}
}

// counts are how many tests of a kind there are for a shared cache, and how many passed.
func (r *report) counts(kind string) (pass, all int) {
	for i := range r.results {
		t := &r.results[i]
		if t.Kind != kind || !t.Ran {
			continue
		}
		all++
		if r.outcome(t) == passed {
			pass++
		}
	}
	return pass, all
}

func (r *report) summary() string {
	required, allRequired := r.counts("required")
	optimal, allOptimal := r.counts("optimal")
	yes, questions := r.counts("check")
	return fmt.Sprintf("%d of %d required and %d of %d optimal tests pass; %d of %d questions are answered with yes",
		required, allRequired, optimal, allOptimal, yes, questions)
}

// worse are the tests that passed before and do not now.
func (r *report) worse(before map[string]string) (ids []string) {
	for i := range r.results {
		t := &r.results[i]
		if t.Kind != "check" && before[t.ID] == passed && r.outcome(t) != passed {
			ids = append(ids, t.ID)
			ids = append(ids, t.DependsOn...)
		}
	}
	return ids
}

// verdict is an error where the cache is worse than it was, or where a test
// fails and nobody has said why that is right.
func (r *report) verdict(before map[string]string) error {
	var ill []error
	for i := range r.results {
		t := &r.results[i]
		if t.Kind == "check" || !t.Ran {
			continue
		}
		switch o := r.outcome(t); {
		case o == passed && reason(t.ID) != "":
			ill = append(ill, fmt.Errorf("%s passes: take its reason away", t.ID))
		case o == passed:
		case before[t.ID] == passed:
			ill = append(ill, fmt.Errorf("%s passed, and does not now: %s: %s", t.ID, t.Name, t.Message))
		case reason(t.ID) == "":
			ill = append(ill, fmt.Errorf("%s: %s: %s: %s", t.ID, o, t.Name, t.Message))
		}
	}
	return errors.Join(ill...)
}

// readOutcomes reads what came of each test when results were written last.
func readOutcomes(dir string) (map[string]string, error) {
	f, err := os.Open(filepath.Join(dir, "cache.csv"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("cannot read the last results: %w", err)
	}
	before := make(map[string]string)
	for _, row := range rows {
		if len(row) == 3 {
			before[row[0]] = row[2]
		}
	}
	return before, nil
}

func (r *report) save(dir string) error {
	var table, text strings.Builder
	w := csv.NewWriter(&table)
	_ = w.Write([]string{"test", "kind", "outcome"})
	for i := range r.results {
		t := &r.results[i]
		_ = w.Write([]string{t.ID, t.Kind, r.outcome(t)})
	}
	w.Flush()
	r.write(&text)
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cache.csv"), []byte(table.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "cache.md"), []byte(text.String()), 0o644),
	)
}

func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "# The public HTTP cache test suite\n\nhttp-cache-tests %s, the suite of cache-tests.fyi, through %s; `make cache-suite`. %s.\n", r.suite, r.sluice, r.summary())
	fmt.Fprint(w, "\nA required test is about what a cache must not do, an optimal one about what a good cache does as well. A question has no wrong answer.\n")
	fmt.Fprint(w, "\n| group | required | optimal | questions answered with yes |\n|---|---|---|---|\n")
	for _, group := range r.groups() {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", group.name, group.cell("required"), group.cell("optimal"), group.cell("check"))
	}
	fmt.Fprint(w, "\n## What does not pass\n\n| test | kind | the suite says | why it is so |\n|---|---|---|---|\n")
	for i := range r.results {
		t := &r.results[i]
		if o := r.outcome(t); t.Kind != "check" && o != passed && o != untested {
			says := t.Message
			if o == dependent {
				says = "depends on " + strings.Join(t.DependsOn, ", ")
			}
			fmt.Fprintf(w, "| %s: %s | %s | %s | %s |\n", t.ID, cell(t.Name), t.Kind, cell(says), reason(t.ID))
		}
	}
	fmt.Fprint(w, "\n## Questions that are answered with no\n\n")
	for i := range r.results {
		if t := &r.results[i]; t.Kind == "check" && t.Ran && r.outcome(t) != passed {
			fmt.Fprintf(w, "- %s: %s\n", t.ID, t.Name)
		}
	}
}

// cell keeps a text from ending a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

type group struct {
	name  string
	count map[string][2]int // by kind: passed, all
}

func (g *group) cell(kind string) string {
	n := g.count[kind]
	if n[1] == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d", n[0], n[1])
}

func (r *report) groups() (all []group) {
	for i := range r.results {
		t := &r.results[i]
		if !t.Ran {
			continue
		}
		if len(all) == 0 || all[len(all)-1].name != t.Group {
			all = append(all, group{t.Group, make(map[string][2]int)})
		}
		n := all[len(all)-1].count[t.Kind]
		n[1]++
		if r.outcome(t) == passed {
			n[0]++
		}
		all[len(all)-1].count[t.Kind] = n
	}
	return all
}
