package requesttransform

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
			query := []byte("a=%41&gone=1&old=2&b=3")
			w.Benchmark(b, func(x *exchange.Exchange) {
				x.Query = query
				_ = h.Request(x)
			}, "X-Gone: 1", "X-Old: 2", "X-A: 1", "X-B: 2")
		})
	}
	f("OneHeader", "add: {headers: {X-A: a}}")
	f("Template", "add: {headers: {X-A: 'a ${client_ip}'}}")
	f("Everything", everything)
}
