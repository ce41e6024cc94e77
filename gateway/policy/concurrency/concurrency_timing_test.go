package concurrency

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	f := func(name, settings string, taken int) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			for range taken {
				_ = h.Request(w.Exchange("/"))
			}
			w.Benchmark(b, func(x *exchange.Exchange) {
				_ = h.Request(x)
				h.Done(x)
			})
		})
	}
	f("Pass", "max: 1000", 0)
	f("Refuse", "max: 1", 1)
}

func BenchmarkRequestParallel(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "max: 1000")
	w.BenchmarkParallel(b, func(x *exchange.Exchange) {
		_ = h.Request(x)
		h.Done(x)
	})
}

func BenchmarkAdaptiveParallel(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "{adaptive: true, "+priorities+"}")
	w.BenchmarkParallel(b, func(x *exchange.Exchange) {
		_ = h.Request(x)
		x.Attempts, x.UpstreamTime = 1, 1000
		h.Done(x)
	}, "X-Priority: high")
}

func BenchmarkTenantsParallel(b *testing.B) {
	f := func(name, settings string) {
		b.Run(name, func(b *testing.B) {
			w := tenants(b, "50%", "50%")
			h := w.MustBuild(b, Definition, settings)
			w.BenchmarkParallel(b, func(x *exchange.Exchange) {
				x.Tenant = w.Tenants["a"]
				_ = h.Request(x)
				h.Done(x)
			})
		})
	}
	f("Share", "max: 1000")
	f("ByTenant", "{max: 1000, by: tenant}")
}
