package telemetry

import (
	"strings"
	"testing"
)

func TestForeign(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := Foreign(text, map[string]string{"Authorization": "Bearer s3cr3t-token", "X-Team": "", "X-Key": "k1"}); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	f("refused", "refused")
	f("headers: {Authorization: Bearer s3cr3t-token}", "headers: {Authorization: ***}")
	f(`"token": "s3cr3t-token" of a Bearer, k1`, `"token": "***" of a Bearer, ***`)
	f(strings.Repeat("é", 300), strings.Repeat("é", 200)+"…")
	f("a"+strings.Repeat("é", 300), "a"+strings.Repeat("é", 199)+"…")
}
