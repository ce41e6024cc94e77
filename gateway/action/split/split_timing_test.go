package split

import (
	"testing"

	"sluice/gateway/action/actiontest"
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
