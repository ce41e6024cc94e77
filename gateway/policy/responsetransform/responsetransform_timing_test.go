package responsetransform

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkResponse(b *testing.B) {
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) {
				fill(x, "X-Gone: 1", "Server: nginx", "X-Old: 1", "X-A: 1", "Vary: Accept", "Content-Type: text/html")
				_ = h.Response(x)
			})
		})
	}
	f("Nothing", "{}")
	f("OneHeader", "add: {headers: {X-C: c}}")
	f("Everything", everything)
}
