package config

import (
	"strings"
	"testing"
)

// Whatever stands in a text, looking for what is put in takes no longer than reading it.
func TestExpandHostile(t *testing.T) {
	f := func(text, want, fault string) {
		t.Helper()
		e := expander{env: map[string]string{"A": "", "B": "b"}, files: map[string]bool{}}
		got, _, err := e.text(text, ".")
		if fault == "" && (err != nil || got != want) || fault != "" && (err == nil || !strings.Contains(err.Error(), fault) || len(err.Error()) > 1000) {
			t.Errorf("%.50q: got %.50q, %.300v, want %.50q, %s", text, got, err, want, fault)
		}
	}
	const n = 1 << 20
	nested := func(n int) string { return strings.Repeat("${A:-", n) + "x" + strings.Repeat("}", n) }
	f(nested(maxNested+1), "x", "")
	f(nested(maxNested+2), "", "more than 8 defaults in one another")
	f(nested(n), "", "more than 8 defaults in one another")
	f("${A:-"+strings.Repeat("${a", n), "", "more than 8 defaults in one another")
	f(strings.Repeat("${a", n), strings.Repeat("${a", n), "")
	f(strings.Repeat("${B}", n), strings.Repeat("b", n), "")
	f(strings.Repeat("$${", n), strings.Repeat("${", n), "")
	f("${A:-"+strings.Repeat("x", n), "", "has no closing brace")
	f("${A"+strings.Repeat("}", n), strings.Repeat("}", n-1), "")
}

// A value that is put in again and again had a file of some megabytes fill the memory.
func TestWhatIsPutInIsBounded(t *testing.T) {
	const big = 1 << 20
	_, err := Parse("a.yaml", []byte("version: 1\nroutes: {r: {match: {paths: [/a]}, respond: {body: \""+strings.Repeat("${BIG}", 10_000)+"\"}}}"),
		Options{Environ: []string{"BIG=" + strings.Repeat("x", big)}})
	if err == nil || !strings.Contains(err.Error(), "a.yaml:2:52: routes.r.respond.body: more than 64MiB would be put into the file in place of ${…}") {
		t.Errorf("%.300v", err)
	}
}
