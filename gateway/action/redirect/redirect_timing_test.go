package redirect

import (
	"testing"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

func BenchmarkRedirect(b *testing.B) {
	w := actiontest.New(b, route)
	a := w.MustBuild(b, Definition, "to: 'https://${host}${uri}'")
	query, host := []byte("a=b"), []byte("api.example.com")
	w.Benchmark(b, func(x *exchange.Exchange) {
		x.Query, x.Host = query, host
		actiontest.Answer(a, x)
	})
}
