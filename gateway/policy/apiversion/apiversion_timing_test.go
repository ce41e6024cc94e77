package apiversion

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkHead(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, `{versions: {"1": {deprecated: 2026-01-01}, "2": {changes: [{rename: {field: a, to: b}}]}}}`)
	run := func(x *exchange.Exchange) {
		_ = h.Ahead(x)
		_ = h.Request(x)
	}
	b.Run("current", func(b *testing.B) { w.Benchmark(b, run) })
	b.Run("old", func(b *testing.B) { w.Benchmark(b, run, "X-API-Version: 1") })
}
