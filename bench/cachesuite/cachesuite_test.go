//go:build linux

package main

import (
	"strings"
	"testing"
)

func TestOutcome(t *testing.T) {
	r := report{results: []result{
		{ID: "a", Ran: true, Passed: true},
		{ID: "b", Ran: true, Passed: true, DependsOn: []string{"a"}},
		{ID: "c", Ran: true},
		{ID: "d", Ran: true, Passed: true, DependsOn: []string{"a", "c"}},
		{ID: "e", Ran: true, Passed: true, DependsOn: []string{"d"}},
		{ID: "f", Ran: true, Setup: true},
		{ID: "g", Ran: true, Passed: true, DependsOn: []string{"nowhere"}},
		{ID: "h", DependsOn: []string{"a"}},
	}}
	f := func(id, want string) {
		t.Helper()
		if got := r.outcome(r.find(id)); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
	f("a", passed)
	f("b", passed)
	f("c", failed)
	f("d", dependent)
	f("e", dependent)
	f("f", unprepared)
	f("g", dependent)
	f("h", untested)
}

func TestVerdict(t *testing.T) {
	f := func(want string, before map[string]string, tests ...result) {
		t.Helper()
		err := (&report{results: tests}).verdict(before)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	pass := result{ID: "a", Kind: "required", Ran: true, Passed: true}
	fail := result{ID: "a", Kind: "required", Ran: true, Message: "bad"}
	f("", nil, pass)
	f("", map[string]string{"a": passed}, pass)
	f("a: fail: : bad", nil, fail)
	f("a passed, and does not now", map[string]string{"a": passed}, fail)
	f("", map[string]string{"q": passed}, result{ID: "q", Kind: "check", Ran: true})
	excused := result{ID: "vary-normalise-lang-select", Kind: "optimal", Ran: true}
	f("", nil, excused)
	f("passed, and does not now", map[string]string{excused.ID: passed}, excused)
	excused.Passed = true
	f("take its reason away", nil, excused)
	f("", nil, result{ID: "browser", Kind: "required"})
}

// What a test depends on runs again with it, or the second try would say nothing.
func TestWorse(t *testing.T) {
	r := report{results: []result{
		{ID: "a", Kind: "required", Ran: true},
		{ID: "b", Kind: "required", Ran: true, Passed: true, DependsOn: []string{"a"}},
		{ID: "c", Kind: "check", Ran: true},
	}}
	got := strings.Join(r.worse(map[string]string{"a": passed, "b": passed, "c": passed}), " ")
	if got != "a b a" {
		t.Errorf("%q", got)
	}
	r.replace([]result{{ID: "a", Kind: "required", Ran: true, Passed: true}, {ID: "c", Ran: true}})
	if o := r.outcome(r.find("b")); o != passed {
		t.Errorf("after the second try: %s", o)
	}
}
