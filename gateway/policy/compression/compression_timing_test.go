package compression

import (
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkResponse(b *testing.B) {
	f := func(name string, reply *exchange.Reply, held bool, accept string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, "")
			w.Benchmark(b, func(x *exchange.Exchange) {
				_ = h.Request(x)
				stored(x, reply)
				if held {
					x.Answer = exchange.Proxied
				}
				_ = h.Response(x)
			}, "Accept-Encoding: "+accept)
		})
	}
	large := newStored(strings.Repeat(long, 10))
	f("Unwanted", large, false, "identity")
	f("Stored", large, false, "gzip, deflate, br, zstd")
	f("Held/Gzip", large, true, "gzip")
	f("Held/Brotli", large, true, "br")
	f("Held/Zstd", large, true, "zstd")
}
