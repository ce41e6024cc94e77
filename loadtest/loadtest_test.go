package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

func TestScenarios(t *testing.T) {
	files, err := fs.Glob(configs, "config/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	left := make(map[string]bool)
	for _, f := range files {
		left[strings.TrimSuffix(filepath.Base(f), ".yaml")] = true
	}
	for _, s := range scenarios {
		if !left[s.name] {
			t.Errorf("%s has no configuration of its own", s.name)
		}
		delete(left, s.name)
		if s.proves == "" || len(s.faults) == 0 {
			t.Errorf("%s does not say what it proves, or has no fault that shows that it can fail", s.name)
		}
	}
	for name := range left {
		t.Errorf("config/%s.yaml belongs to no scenario", name)
	}
}

func TestChoose(t *testing.T) {
	f := func(names string, want int, mistake string) {
		t.Helper()
		chosen, err := choose(names)
		if len(chosen) != want || (err == nil) != (mistake == "") || err != nil && !strings.Contains(err.Error(), mistake) {
			t.Errorf("%q: %d scenarios, %v", names, len(chosen), err)
		}
	}
	f("smoke", 1, "")
	f("smoke,soak", 2, "")
	f("all", len(scenarios), "")
	f("smoky", 0, `there is no scenario "smoky"; there are all, smoke,`)
}

func TestSumSamples(t *testing.T) {
	text := []byte("# HELP a x\na{route=\"r\",code=\"200\"} 3\na{route=\"r\",code=\"404\"} 4\na_total 9\nb 1.5e3\n")
	f := func(want float64, known bool, name string, labels ...string) {
		t.Helper()
		if got, err := sumSamples(text, name, labels...); got != want || (err == nil) != known {
			t.Errorf("%s%v: %v, %v", name, labels, got, err)
		}
	}
	f(7, true, "a")
	f(3, true, "a", `route="r"`, `code="200"`)
	f(1500, true, "b")
	f(0, false, "a", `route="s"`)
	f(0, false, "c")
}

func TestThresholds(t *testing.T) {
	var r trial
	if r.passed() {
		t.Error("a trial without thresholds passed")
	}
	f := func(want bool) {
		t.Helper()
		if last := r.thresholds[len(r.thresholds)-1]; last.Kept != want {
			t.Errorf("%+v", last)
		}
	}
	exactly(&r, "a", 1, 1)
	f(true)
	atMost(&r, "b", 2*time.Second, 2*time.Second)
	f(true)
	atLeast(&r, "c", of(1, 2), 0.5)
	f(true)
	within(&r, "d", 2, 1, 3)
	f(true)
	if !r.passed() {
		t.Error("what was kept did not pass")
	}
	exactly(&r, "e", 1, 2)
	f(false)
	atMost(&r, "f", 3, 2)
	f(false)
	atLeast(&r, "g", of(0, 0), 0.5)
	f(false)
	within(&r, "h", 4, 1, 3)
	f(false)
	if r.passed() || !r.misses("h") || r.misses("a") || r.misses("unknown") {
		t.Error("what was missed passed")
	}
}

func TestQuantile(t *testing.T) {
	var p phase
	for i := range 100 {
		p.hits = append(p.hits, hit{latency: time.Duration(99-i) * time.Millisecond, good: true})
	}
	p.hits = append(p.hits, hit{latency: time.Hour})
	for q, want := range map[float64]time.Duration{0: 0, 0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 1: 99 * time.Millisecond} {
		if got := p.latency(q); got != want {
			t.Errorf("%v: %s", q, got)
		}
	}
	if got := new(phase).latency(0.5); got != 0 {
		t.Error(got)
	}
}

func TestBeyond(t *testing.T) {
	f := func(want int, all ...span) {
		t.Helper()
		if got := beyond(all, 10); got != want {
			t.Errorf("%d, want %d", got, want)
		}
	}
	at := func(ms int) span {
		return span{time.Duration(ms) * time.Millisecond, time.Duration(ms+1) * time.Millisecond}
	}
	f(0)
	f(1, at(0))
	f(3, at(0), at(1), at(2))
	f(1, at(0), at(200), at(400))                        // as many as are earned
	f(2, at(0), at(1000), at(1001), at(2000))            // a stretch in the middle
	f(0, span{0, time.Second}, span{0, 2 * time.Second}) // when they passed is not known
}

// A load straight to a backend, through to a report that needs no other file.
func TestLoadAndReport(t *testing.T) {
	b, err := startBackend()
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	r := &trial{scenario: &scenario{name: "test", proves: "<nothing>"}, ctx: context.Background(), backend: b, began: time.Now()}
	here := func() string { return b.url }
	all := r.load(load{name: "all", pace: atOnce(200), workers: 20, next: get("/a"), to: here,
		good: func(r *vegeta.Result) bool { return r.Code == 200 && strings.Contains(string(r.Body), `"/a"`) }})
	b.does(failing)
	r.mark("fails")
	none := r.load(load{name: "none", pace: atOnce(10), workers: 2, next: get("/"), to: here})
	r.length = time.Since(r.began)
	exactly(r, "failed", all.failed(), 0)
	exactly(r, "failed later", none.failed(), 10)
	if !r.passed() || len(all.hits) != 200 || none.answered(503) != 10 || b.calls.Load() != 210 {
		t.Errorf("%+v", r.thresholds)
	}
	path, err := r.save(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"&lt;nothing&gt;", "none: 10 × GET http://…/ answered 503", "<svg", "fails", "<td>200: 200</td>"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report has no %q", want)
		}
	}
	for _, foreign := range []string{"src=", "href=", "@import", "url("} {
		if strings.Contains(string(text), foreign) {
			t.Errorf("the report needs another file: %q", foreign)
		}
	}
}

func TestHowBusy(t *testing.T) {
	before, err := howBusy()
	if err != nil {
		t.Fatal(err)
	}
	after, err := howBusy()
	if err != nil {
		t.Fatal(err)
	}
	if s := after.others(before); s < 0 || after.all < before.all || after.own < before.own {
		t.Errorf("%v %+v %+v", s, before, after)
	}
}
