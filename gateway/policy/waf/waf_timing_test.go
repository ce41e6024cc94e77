package waf

import (
	"strings"
	"testing"

	"sluice/gateway/policy/policytest"
)

// The cost of one request, by kind and paranoia.
func BenchmarkRequest(b *testing.B) {
	f := func(name, settings string, r request) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = pass(h, exchangeOf(w, r))
			}
		})
	}
	f("get", "", request{target: "/api/v1/users/7?fields=name,email&page=2", headers: []string{"Accept: application/json", "Authorization: Bearer abc.def.ghi"}})
	f("get/paranoia4", "paranoia: 4", request{target: "/api/v1/users/7?fields=name,email&page=2"})
	f("post/1KiB", "", jsonBody(`{"name":"alice","tags":["`+strings.Repeat(`some words","`, 80)+`"]}`))
	f("post/64KiB", "", form("text="+strings.Repeat("some+words+", 6000)))
	f("blocked", "", attack)
	f("none", `{ruleset: none, rules: ['SecRule ARGS:role "@streq admin" "id:1000,phase:2,deny,status:403,log"']}`, benign)
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		w := policytest.New(b, "")
		w.MustBuild(b, Definition, "")
	}
}
