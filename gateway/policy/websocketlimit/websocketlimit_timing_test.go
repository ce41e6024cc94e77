package websocketlimit

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "max_message: 1KiB")
	w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) })
}
