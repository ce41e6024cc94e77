package cors

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) {
				_ = h.Request(x)
				_ = h.Response(x)
			}, "Origin: https://a.example.com")
		})
	}
	f("Any", "")
	f("Exact", "origins: [https://a.example.com]")
	f("Wildcard", "origins: ['https://*.example.com']")
	f("Pattern", `origins: ['~https://[a-z]\.example\.com']`)
}
