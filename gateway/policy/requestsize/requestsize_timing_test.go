package requestsize

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "max: 100")
	w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) })
}
