package limiter

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

var benchLimits = []Limit{
	{Requests: 1_000_000, Per: time.Second},
	{Requests: 10_000_000, Per: time.Minute},
	{Requests: 100_000_000, Per: time.Hour},
	{Requests: 1_000_000_000, Per: 24 * time.Hour},
}

func benchKey(b []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b[:0], "route users rate_limit 0 consumer "...), n)
}

func filled(keys uint64) *Store {
	s := New(Options{MaxKeys: max(8192, int(keys+keys/8))})
	var buf [64]byte
	for n := range keys {
		s.Take(0, benchKey(buf[:], n), benchLimits[0], 1e6)
	}
	return s
}

func benchTake(b *testing.B, keys uint64, limits []Limit, cost int64) {
	s := filled(keys)
	var clock, seed atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := rand.New(rand.NewPCG(uint64(seed.Add(1)), 1))
		var buf [64]byte
		var out [MaxWindows]Result
		now := clock.Load()
		for pb.Next() {
			now += 1000
			s.TakeAll(now, benchKey(buf[:], r.Uint64N(keys)), limits, cost, out[:])
		}
	})
}

func BenchmarkTake(b *testing.B) {
	s := filled(1)
	var buf [64]byte
	key := benchKey(buf[:], 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.Take(int64(i)*1000, key, benchLimits[0], 1)
	}
}

func BenchmarkTakeParallel1Key(b *testing.B)     { benchTake(b, 1, benchLimits[:1], 1) }
func BenchmarkTakeParallel1000Keys(b *testing.B) { benchTake(b, 1000, benchLimits[:1], 1) }
func BenchmarkTakeParallel1MKeys(b *testing.B)   { benchTake(b, 1_000_000, benchLimits[:1], 1) }
func BenchmarkTakeRefused1000Keys(b *testing.B)  { benchTake(b, 1000, benchLimits[:1], 900_000) }
func BenchmarkTake4Windows1000Keys(b *testing.B) { benchTake(b, 1000, benchLimits, 1) }

// Every key is new and the store is full: a flood of made-up identities.
func BenchmarkTakeFlood(b *testing.B) {
	s := New(Options{MaxKeys: 100_000})
	l := Limit{Requests: 1, Per: time.Hour}
	var buf [64]byte
	for n := range uint64(120_000) {
		s.Take(0, benchKey(buf[:], n), l, 1)
	}
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		s.Take(int64(i), benchKey(buf[:], 1<<32+i), l, 1)
	}
}
