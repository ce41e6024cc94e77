//go:build linux

package main

import (
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/bench/program"
	"sluice/config"
)

func TestSpread(t *testing.T) {
	f := func(want spread, values ...float64) {
		t.Helper()
		if got := spreadOf(values); got != want {
			t.Errorf("%v: %+v, want %+v", values, got, want)
		}
	}
	f(spread{})
	f(spread{median: 2, low: 2, high: 2}, 2)
	f(spread{median: 2.5, low: 1, high: 4}, 4, 1, 3, 2)
	f(spread{median: 3, low: 1, high: 9}, 9, 1, 3)
	f(spread{median: 6.5, low: 1, high: 12, first: 4, third: 9}, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)

	g := func(s spread, digits int, want string) {
		t.Helper()
		if got := s.format(digits); got != want {
			t.Errorf("%+v is written %q, want %q", s, got, want)
		}
	}
	g(spread{median: 2, low: 2, high: 2}, 1, "2.0")
	g(spread{median: 2.26, low: 1, high: 4}, 1, "2.3 (1.0–4.0)")
	g(spread{median: 2.26, low: 1, high: 4, first: 2, third: 3}, 1, "2.3 (1.0–4.0, half of them 2.0–3.0)")
}

// twoRounds is a run in which sluice costs half of nginx in each round, though
// the machine was three times as slow in the second.
func twoRounds() *report {
	r := &report{
		Machine: "a test", Began: time.Unix(0, 0), Options: options{rounds: 2, seconds: time.Second},
		Gateways: []named{{"sluice", "1"}, {"nginx", "2"}, {"a<b", "3"}},
	}
	for i, slow := range []float64{1, 3} {
		for _, s := range []sample{
			{Gateway: "sluice", CPU: 8 * slow, P50: 150, P99: 300, P999: 500, PSS: 15, Busy: 0.5},
			{Gateway: "nginx", CPU: 16 * slow, P50: 160, P99: 310, P999: 510, PSS: 8, Unanswered: 2},
			{Gateway: direct, P50: 100, P99: 200, P999: 400},
		} {
			s.Work, s.Round, s.Try, s.Requests, s.Seconds = "proxy-300", i+1, 1, 1000, 0.5
			r.Samples = append(r.Samples, s)
		}
	}
	r.Samples = append(r.Samples,
		sample{Work: "idle-1000", Gateway: "sluice", Round: 1, Idle: 20, PSS: 40},
		sample{Work: "idle-1000", Gateway: "a<b", Round: 1, Idle: 10, PSS: 30})
	r.note("a note")
	return r
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	r := twoRounds()
	if got := r.against("proxy-300", "sluice", "nginx", works[0].ratio); got != (spread{median: 0.5, low: 0.5, high: 0.5}) {
		t.Errorf("%+v", got)
	}
	r.Samples = slices.DeleteFunc(r.Samples, func(s sample) bool { return s.Gateway == "nginx" && s.Round == 1 })
	if got := r.against("proxy-300", "nginx", direct, func(a, b *sample) float64 { return a.P99 - b.P99 }); got != (spread{median: 110, low: 110, high: 110}) {
		t.Errorf("%+v", got)
	}
	if got := r.against("proxy-300", "sluice", "haproxy", works[0].ratio); got != (spread{}) {
		t.Errorf("%+v", got)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	twoRounds().write(&b)
	for _, want := range []string{
		"| sluice | 16.00 (8.00–24.00) | 1 | 2000 | 50 | 100 | 100 | 15.0 | 50% |",
		"| nginx | 32.00 (16.00–48.00) | 0.50, within 1.15 | 2000 | 60 | 110 | 110 | 8.0 | 0% |",
		"| backend alone | - | - | 2000 | (100) | (200) | (400) | - | - |",
		"\n4 requests were not answered in time",
		"| a<b | 10.00 | 2.00 | 30.0 |",
		"- a note\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("missing %q in\n%s", want, b.String())
		}
	}
	r := twoRounds()
	for i := range r.Samples {
		if r.Samples[i].Gateway == "sluice" {
			r.Samples[i].CPU *= 3
		}
	}
	if got := r.verdict(works[0], "nginx"); got != "**1.50, above 1.15**" {
		t.Errorf("verdict %q", got)
	}
}

func TestCSV(t *testing.T) {
	var b strings.Builder
	r := twoRounds()
	r.writeCSV(&b)
	rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
	if err != nil || len(rows) != len(r.Samples)+1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if got := strings.Join(rows[1], ","); got != "proxy-300,1,1,sluice,1000,0.500,2000.0,8.000,0.500,150.0,300.0,500.0,0,15.00,0.000,0.0000" {
		t.Error(got)
	}
}

func TestPlotIsWellFormed(t *testing.T) {
	var b strings.Builder
	twoRounds().plot(&b)
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
	}
	if n := strings.Count(b.String(), "<g "); n != 2 {
		t.Errorf("%d panels", n)
	}
}

func TestSave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := twoRounds().save(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"peers.csv", "peers.md", "peers.svg"} {
		if s, err := os.Stat(filepath.Join(dir, name)); err != nil || s.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestChoose(t *testing.T) {
	f := func(only, want string) {
		t.Helper()
		var l list
		_ = l.Set(only)
		chosen, err := choose(l)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, w := range chosen {
			names = append(names, w.name)
		}
		if got := strings.Join(names, ","); got != want {
			t.Errorf("%s chooses %s, want %s", only, got, want)
		}
	}
	f("idle,limit", "limit,idle-1000,idle-10000")
	f("proxy-1", "proxy-10k,proxy-1m")
	f("cached-300,cached", "cached-300")
	if _, err := choose(list{"nothing"}); err == nil {
		t.Error("an unknown work is chosen")
	}
	if all, err := choose(nil); err != nil || len(all) != len(works) {
		t.Errorf("%d works, %v", len(all), err)
	}
}

// Every template gives a configuration for every mode; sluice's is valid.
func TestConfigurations(t *testing.T) {
	for _, name := range []string{"nginx.conf.tmpl", "haproxy.cfg.tmpl", "Caddyfile.tmpl", "traefik.yaml.tmpl", "traefik.routes.yaml.tmpl", "sluice.yaml.tmpl"} {
		for m := range clients {
			for _, yes := range []bool{false, true} {
				i := &instance{gateway: &gateway{name: name, template: name}, settings: settings{
					Mode: m, Low: yes, Observed: yes, Dir: t.TempDir(), User: "nobody", Secret: secret, Backend: "127.0.0.1:1", Listen: "127.0.0.1:2", Admin: "127.0.0.1:3",
					Connections: 100, Files: 1000,
				}}
				path, err := i.render()
				if err == nil {
					err = program.Certify(i.Dir)
				}
				if err != nil {
					t.Fatal(err)
				}
				text, err := os.ReadFile(path)
				named := name == "traefik.routes.yaml.tmpl" || strings.Contains(string(text), ":2")
				if err != nil || strings.Contains(string(text), "<no value>") || !named {
					t.Errorf("%s for %s: %v\n%s", name, m, err, text)
				}
				if name != "sluice.yaml.tmpl" {
					continue
				}
				if _, err := config.Load(path, config.Options{}); err != nil {
					t.Errorf("%s: %v\n%s", m, err, text)
				}
			}
		}
	}
}

func TestRequests(t *testing.T) {
	for _, w := range works {
		all, err := w.requests()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			head, body, ok := strings.Cut(r, "\r\n\r\n")
			if !ok || len(body) != w.post || strings.Contains(head, "Authorization") != w.mode.authenticates() {
				t.Errorf("%s: %q", w.name, r)
			}
		}
		if w.mode.authenticates() && (len(all) != 8 || all[0] == all[1]) {
			t.Errorf("%s: %d requests", w.name, len(all))
		}
	}
}

// What is built from modules is pinned there, by their name.
func TestModules(t *testing.T) {
	for _, g := range []*gateway{caddy(), traefik()} {
		text, err := os.ReadFile(filepath.Join("..", "..", g.module, "go.mod"))
		if err != nil || !strings.Contains(string(text), g.of+" v") {
			t.Errorf("%s: %v\n%s", g.name, err, text)
		}
		i := &instance{gateway: g, settings: settings{Mode: proxying, Dir: t.TempDir(), Backend: "127.0.0.1:1", Listen: "127.0.0.1:2"}}
		if _, err := i.render(); err != nil {
			t.Error(err)
		}
		for _, name := range g.beside {
			if _, err := os.Stat(filepath.Join(i.Dir, strings.TrimSuffix(name, ".tmpl"))); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestCopySources(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	for _, name := range []string{"a.go", "a_test.go", "README.md", "below/b.go"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(from, name), []byte("package a"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := copySources(to, from); err != nil {
		t.Fatal(err)
	}
	got, _ := filepath.Glob(filepath.Join(to, "*"))
	below, _ := filepath.Glob(filepath.Join(to, "*", "*"))
	if want := []string{filepath.Join(to, "a.go"), filepath.Join(to, "below"), filepath.Join(to, "below", "b.go")}; !slices.Equal(append(got, below...), want) {
		t.Errorf("%v %v", got, below)
	}
}
