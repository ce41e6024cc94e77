package correlationid

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkRequest(b *testing.B) {
	f := func(name, settings string, headers ...string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			w.Benchmark(b, func(x *exchange.Exchange) {
				if err := h.Request(x); err != nil {
					b.Fatal(err)
				}
			}, headers...)
		})
	}
	f("Generated", "")
	f("Counted", "generator: uuid#counter")
	f("Trusted", "", "X-Correlation-ID: 550e8400-e29b-41d4-a716-446655440000")
}

func BenchmarkUUIDParallel(b *testing.B) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var buf [uuidLen]byte
		for pb.Next() {
			appendUUID(buf[:0])
		}
	})
}
