package mirror

import (
	"testing"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

func BenchmarkUnsampled(b *testing.B) {
	w := actiontest.New(b, shadowed)
	h := w.World.MustBuild(b, Definition, "{service: shadow, sample: 0}")
	w.Benchmark(b, func(x *exchange.Exchange) {
		_ = h.Request(x)
		h.Done(x)
	})
}

func BenchmarkCopy(b *testing.B) {
	w := actiontest.New(b, shadowed)
	m := &mirror{mark: "X-Sluice-Mirror"}
	w.Benchmark(b, func(x *exchange.Exchange) {
		j := jobs.Get().(*job)
		j.fill(m, x, &answer{head: page, body: page})
		j.free()
	}, "Content-Type: application/json", "X-Some: thing")
}

func BenchmarkCompare(b *testing.B) {
	c, err := newComparison(&Compare{Headers: []string{"Content-Type"}, Ignore: []string{"items[*].id"}, MaxBody: 1000})
	if err != nil {
		b.Fatal(err)
	}
	one := of(c, 200, "application/json", "", `{"items": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], "total": 2}`)
	other := of(c, 200, "application/json", "", `{"total": 2, "items": [{"id": 3, "name": "a"}, {"id": 4, "name": "b"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if c.compare(one, other).kinds != 0 {
			b.Fatal("differ")
		}
	}
}
