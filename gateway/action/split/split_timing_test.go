package split

import (
	"testing"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

func BenchmarkChoose(b *testing.B) {
	w := actiontest.New(b, services)
	a := w.MustBuild(b, Definition, "services: [{service: stable, weight: 95}, {service: canary, weight: 5}]")
	x := w.Exchange("/")
	defer x.Close()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a.Choose(x)
		}
	})
}

func BenchmarkChooseSticky(b *testing.B) {
	w := actiontest.New(b, services)
	f := func(name, settings string, headers ...string) {
		b.Run(name, func(b *testing.B) {
			a := w.MustBuild(b, Definition, "{services: [{service: stable, weight: 95}, {service: canary, weight: 5}], "+settings+"}")
			w.Benchmark(b, func(x *exchange.Exchange) { a.Choose(x) }, headers...)
		})
	}
	f("off", "sticky: off")
	f("consumer", "sticky: {by: consumer}")
	f("cookie", "sticky: {by: cookie}", "Cookie: sluice_split=0123456789abcdef0123456789abcdef")
	f("new cookie", "sticky: {by: cookie}")
}

func BenchmarkObserve(b *testing.B) {
	w := actiontest.New(b, services)
	s := w.MustBuild(b, Definition, "{services: [{service: stable}, {service: canary}], rollout: {}}").Live.(*State)
	w.BenchmarkParallel(b, func(x *exchange.Exchange) { s.counts.observe(x, true, nil) })
}
