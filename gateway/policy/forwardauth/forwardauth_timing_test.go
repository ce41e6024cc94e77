package forwardauth

import (
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

func BenchmarkRemembered(b *testing.B) {
	s := newService(b, func(ctx *fasthttp.RequestCtx) { ctx.Response.Header.Set("X-Auth-User", "alice") })
	h := s.hooks(b, `request_headers: [Authorization], subject_header: X-Auth-User, cache: {by: [authorization, "@path"], ttl: 1h}`)
	s.BenchmarkParallel(b, func(x *exchange.Exchange) {
		if err := h.Authenticate(x); err != nil {
			b.Fatal(err)
		}
	}, "Authorization: good")
}

func BenchmarkAsked(b *testing.B) {
	s := newService(b, func(ctx *fasthttp.RequestCtx) { ctx.Response.Header.Set("X-Auth-User", "alice") })
	h := s.hooks(b, "subject_header: X-Auth-User")
	s.Benchmark(b, func(x *exchange.Exchange) {
		if err := h.Authenticate(x); err != nil {
			b.Fatal(err)
		}
	}, "Authorization: good")
}
