package telemetry

import (
	"bytes"
	"strings"
	"testing"
)

// A reload made counters of refused credentials begin anew once the generation had ended in which they first counted.
func TestAuthFailuresOutliveGenerations(t *testing.T) {
	m := NewMetrics(Options{})
	wants := func(want string) {
		t.Helper()
		var b bytes.Buffer
		if _, err := m.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(b.String()) {
			if strings.HasPrefix(line, "sluice_auth_failures_total{") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	first := m.Begin()
	m.Route(first, "r", "s").AuthFailed("expired")
	second := m.Begin()
	r := m.Route(second, "r", "s")
	first.Close()
	r.AuthFailed("expired")
	wants(`sluice_auth_failures_total{route="r",reason="expired"} 2`)
	second.Close()
	wants("")
}
