package openapi

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkParameters(b *testing.B) {
	w := policytest.New(b, "")
	h, err := w.Build(Definition, "{file: testdata/shop.yaml, base_path: /}")
	if err != nil {
		b.Fatal(err)
	}
	path := []byte("/orders")
	w.Benchmark(b, func(x *exchange.Exchange) {
		x.Path, x.Query = path, []byte("limit=5&state=open")
		if err := h.Request(x); err != nil {
			b.Fatal(err)
		}
	}, "X-Shop: a")
}

func BenchmarkJSON(b *testing.B) {
	d, err := load("testdata/shop.yaml")
	if err != nil {
		b.Fatal(err)
	}
	op, _, _ := d.paths.find("/orders", "POST")
	m := op.body.media[op.body.content.Get("application/json")]
	body := []byte(`{"items":[{"sku":"a","price":1.5},{"sku":"b","price":2},{"sku":"c"}],"owner":"9f0e7a4e-1111-4222-8333-444455556666"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if f := m.checkText(jsonText, body, "application/json"); f != nil {
			b.Fatal(f)
		}
	}
}
