package tracing

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkTracing(b *testing.B) {
	f := func(name, settings string, headers ...string) {
		b.Run(name, func(b *testing.B) {
			w := policytest.New(b, "")
			h := w.MustBuild(b, Definition, "otlp: {endpoint: '127.0.0.1:4317', interval: 10ms}\n"+settings)
			w.Benchmark(b, func(x *exchange.Exchange) {
				if err := h.Request(x); err != nil {
					b.Fatal(err)
				}
				x.Service, x.Endpoint, x.Attempts = "users", "http://127.0.0.1:3000", 1
				x.Observer.AttemptBegins(x)
				x.UpstreamStatus = 200
				x.Observer.AttemptEnds(x, "")
				x.Status, x.Ended = 200, x.Start+1000
				h.Done(x)
			}, headers...)
		})
	}
	f("Unsampled", "sample: 0")
	f("UnsampledW3C", "sample: 0\npropagate: [w3c]")
	f("UnsampledParent", "", "traceparent: 00-12345678901234567890123456789012-1234567890123456-00", "tracestate: a=1,b=2")
	f("Sampled", "sample: 1")
}

func BenchmarkTracestate(b *testing.B) {
	v := []byte("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE,tenant@vendor=abcdefgh")
	b.ReportAllocs()
	var buf [256]byte
	for b.Loop() {
		m := members{list: buf[:0]}
		m.add(v)
	}
}
