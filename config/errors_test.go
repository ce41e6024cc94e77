package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

// TestErrors holds every file of testdata/errors to the errors in the .txt beside it.
func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			_, err := Load(name, Options{})
			if err == nil {
				t.Fatal("no error")
			}
			errs, ok := err.(Errors)
			if !ok {
				t.Fatalf("a %T, want Errors", err)
			}
			for _, e := range errs {
				if e.Pos.File != name || e.Pos.Line < 1 || e.Pos.Column < 1 {
					t.Errorf("no position: %v", e)
				}
			}
			got := strings.ReplaceAll(errs.Error(), filepath.ToSlash(filepath.Dir(name))+"/", "") + "\n"
			golden := strings.TrimSuffix(name, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// A mistake that is megabytes long is told in a few lines.
func TestLongMistakes(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	f := func(text, want string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte(text), Options{})
		if err == nil || len(err.Error()) > 6000 || !strings.Contains(err.Error(), want) || !utf8.ValidString(err.Error()) {
			t.Errorf("%.40q: %d bytes, %.500v", text, len(fmt.Sprint(err)), err)
		}
	}
	f(long+": 1", "ää")
	f("limits: {idle_timeout: "+long+"}", "is not a duration")
	f("limits: {idle_timeout: !"+strings.Repeat("a", 1000)+" 1}", "is not used here")
	f("limits: {"+long+": 1}", "limits")
	f("a: *"+strings.Repeat("a", 1<<20), "stands before this alias")
}

// The time to tell mistakes does not grow with how many there are: so many are looked for.
func TestMistakesAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nroutes:\n")
	const n = 50_000
	for i := range n {
		fmt.Fprintf(&b, "  r%d: {match: {paths: [/%d]}}\n", i, i)
	}
	_, err := Parse("a.yaml", []byte(b.String()), Options{})
	var all Errors
	if !errors.As(err, &all) || len(all) != maxChecked || strings.Count(err.Error(), "(mistakes behind this one are not told)") != 1 {
		t.Errorf("%d mistakes", len(all))
	}
}
