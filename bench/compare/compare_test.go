//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scripted is a side whose benchmarks are a script that also notes its turn.
func scripted(t *testing.T, name, turns, prints string) *side {
	t.Helper()
	dir := t.TempDir()
	s := &side{name: name, dir: dir, binaries: dir, text: filepath.Join(dir, "text")}
	script := fmt.Sprintf("#!/bin/sh\nprintf %%s %s >> %s\nprintf '%s'\n", name, turns, prints)
	if err := os.WriteFile(s.binary(0), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSidesTakeTurns(t *testing.T) {
	turns := filepath.Join(t.TempDir(), "turns")
	a := scripted(t, "a", turns, `goos: linux\nBenchmarkX 1 5 ns/op\n`)
	b := scripted(t, "b", turns, `goos: linux\nBenchmarkX 1 6 ns/op\n`)
	if err := interleave(t.Context(), options{rounds: 3, within: time.Hour}, []string{"."}, a, b); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(turns); string(got) != "abbaab" {
		t.Errorf("turns %q", got)
	}
	if got, _ := os.ReadFile(b.text); strings.Count(string(got), "BenchmarkX 1 6 ns/op") != 3 {
		t.Errorf("kept %q", got)
	}
	if err := interleave(t.Context(), options{rounds: 3, within: -1}, []string{"."}, a, b); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(turns); len(got) != 6 {
		t.Errorf("rounds began after the time was over: %q", got)
	}
}

func TestNothingToCompareFails(t *testing.T) {
	s := scripted(t, "a", filepath.Join(t.TempDir(), "turns"), `PASS\n`)
	if err := s.run(t.Context(), options{bench: "None"}, 0, "."); err == nil || !strings.Contains(err.Error(), `no benchmark "None"`) {
		t.Error(err)
	}
}
