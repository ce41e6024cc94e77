package ratelimit

import (
	"testing"

	"sluice/gateway/cluster/redistest"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) })
		})
	}
	f("Pass", "{requests: 1000000000, per: 1s}")
	f("Refuse", "{requests: 1, per: 1h}")
	f("TwoWindows", "[{requests: 1000000000, per: 1s}, {requests: 1000000000, per: 1m}]")
	f("TwoCallers", "[{requests: 1000000000, per: 1s, by: ip}, {requests: 1000000000, per: 1m, by: global}]")
}

func BenchmarkRequestParallel(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "{requests: 1000000000, per: 1s}")
	w.BenchmarkParallel(b, func(x *exchange.Exchange) { _ = h.Request(x) })
}

// The same with buckets that are lent by a store that other instances share.
func BenchmarkLeased(b *testing.B) {
	server := redistest.Start(b)
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := shared(b, server)
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) })
		})
	}
	f("Pass", "{requests: 1000000000, per: 1s}")
	f("Refuse", "{requests: 20, per: 1000h}")
	f("TwoWindows", "[{requests: 1000000000, per: 1s}, {requests: 1000000000, per: 1m}]")
	f("TwoCallers", "[{requests: 1000000000, per: 1s, by: ip}, {requests: 1000000000, per: 1m, by: global}]")
}

// A request that asks the store, and waits.
func BenchmarkStrict(b *testing.B) {
	server := redistest.Start(b)
	w := shared(b, server)
	h := w.MustBuild(b, Definition, "{requests: 1000000000, per: 1s, mode: strict}")
	w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) })
}

// As many at once as share a pipeline well.
func BenchmarkStrictParallel(b *testing.B) {
	server := redistest.Start(b)
	w := shared(b, server)
	h := w.MustBuild(b, Definition, "{requests: 1000000000, per: 1s, mode: strict}")
	b.SetParallelism(64)
	w.BenchmarkParallel(b, func(x *exchange.Exchange) { _ = h.Request(x) })
}
