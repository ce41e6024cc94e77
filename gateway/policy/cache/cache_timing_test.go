package cache

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkCache(b *testing.B) {
	bench := func(name string, settings string, head []string, request ...string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, settings)
			body := make([]byte, 1000)
			w.Benchmark(b, func(x *exchange.Exchange) {
				policytest.Fields(x)
				if err := h.Request(x); err != nil {
					x.Render(err)
				} else {
					answer(x, h, body, head...)
				}
				h.Done(x)
			}, request...)
		})
	}
	bench("hit", "{}", sampleHead, "Accept-Encoding: gzip", "User-Agent: test")
	bench("hit-304", "{}", sampleHead, "Accept-Encoding: gzip", `If-None-Match: "v1"`)
	bench("hit-of-owner", "{}", []string{"Content-Type", "text/plain"}, "Authorization: Bearer x")
	bench("uncacheable", "{}", []string{"Cache-Control", "no-store"}, "Accept-Encoding: gzip")
	bench("bypass", "{}", nil, `If-Match: "a"`)
	bench("fill", "{}", sampleHead, "Cache-Control: no-cache")
}
