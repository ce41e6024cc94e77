package quota

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "state: {dir: "+b.TempDir()+"}")
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) })
		})
	}
	f("Pass", "{requests: 1000000000, per: day}")
	f("Durable", "{requests: 1000000000, per: day, durable: true}")
	f("Refuse", "{requests: 1, per: day}")
	f("TwoWindows", "[{requests: 1000000000, per: day}, {requests: 1000000000, per: month}]")
}

func BenchmarkRequestParallel(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "{requests: 1000000000, per: day}")
	w.BenchmarkParallel(b, func(x *exchange.Exchange) { _ = h.Request(x) })
}
