package accesslog

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkDone(b *testing.B) {
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) { h.Done(x) }, "User-Agent: curl")
		})
	}
	f("JSON", "path: /dev/null")
	f("Combined", "{path: /dev/null, format: combined}")
}
