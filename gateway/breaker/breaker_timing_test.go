package breaker

import (
	"testing"
	"time"
)

func benchCalls(b *testing.B, s Settings, outcome func(i int) Outcome) {
	br := New(s, nil)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		now := int64(0)
		for i := 0; pb.Next(); i++ {
			now += 1000
			if p, ok := br.Allow(now); ok {
				br.Report(now, p, outcome(i))
			}
		}
	})
}

var benchSettings = Settings{ConsecutiveFailures: 5, ErrorRatio: 0.5, OpenFor: 30 * time.Second}

func success(int) Outcome { return Success }

func BenchmarkSuccess(b *testing.B) { benchCalls(b, benchSettings, success) }

func BenchmarkSuccessWithoutRatio(b *testing.B) {
	benchCalls(b, Settings{ConsecutiveFailures: 5}, success)
}

// One call in four fails, and the breaker has to think about it.
func BenchmarkFailures(b *testing.B) {
	s := benchSettings
	s.ConsecutiveFailures, s.ErrorRatio = 1<<30, 0.9
	benchCalls(b, s, func(i int) Outcome {
		if i%4 == 0 {
			return Failure
		}
		return Success
	})
}

func BenchmarkOpen(b *testing.B) {
	s := benchSettings
	s.OpenFor = 1 << 60
	benchCalls(b, s, func(int) Outcome { return Failure })
}

// All places are taken: what everyone but the probe meets while a breaker is half-open.
func BenchmarkHalfOpen(b *testing.B) {
	br := New(Settings{ConsecutiveFailures: 1, OpenFor: 1 << 50}, nil)
	p, _ := br.Allow(0)
	br.Report(0, p, Failure)
	if _, ok := br.Allow(1 << 50); !ok {
		b.Fatal("no probe")
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := br.Allow(1<<50 + 1); ok {
				b.Error("two probes")
			}
		}
	})
}
