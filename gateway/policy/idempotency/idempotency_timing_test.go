package idempotency

import (
	"strconv"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkWithoutKey(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "{}")
	w.Benchmark(b, func(x *exchange.Exchange) { _ = h.Request(x) }, "Content-Type: application/json")
}

// A new key, its answer, and the answer once more.
func BenchmarkMemory(b *testing.B) {
	s, _ := newShared()
	m := newMemory(s)
	a, now := answerOf(1000), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now++
		k, p := keyNamed(strconv.FormatInt(now, 10)), printOf("x")
		f := m.Begin(k, p, now, 64<<20)
		m.Complete(f.Claim, a, now, now+10_000, 64<<20)
		m.Begin(k, p, now, 64<<20)
	}
}
