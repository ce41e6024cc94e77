package authorize

import (
	"testing"

	"sluice/gateway/exchange"
)

func BenchmarkWhen(b *testing.B) {
	f := func(name, when string) {
		b.Run(name, func(b *testing.B) {
			w := world(b)
			h := w.MustBuild(b, Definition, "when: "+when)
			var c exchange.Claims = claims{"role": "admin"}
			w.Benchmark(b, func(x *exchange.Exchange) {
				x.Identity.Authenticated, x.Identity.Claims = true, c
				if err := h.Request(x); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
	f("Method", `request.method == "GET"`)
	f("Claim", `claims.role == "admin"`)
	f("Three", `request.method == "GET" && claims.role == "admin" && request.path.startsWith("/")`)
}
