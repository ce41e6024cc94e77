package cluster

import (
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
	"sluice/gateway/limiter"
)

var benchKey = []byte("routes.users\x00consumer\x00c:alice-who-is-a-consumer")

// What a request takes is compared with a bucket of this instance alone: BenchmarkTake/Local is what it would cost without a store.
func BenchmarkTake(b *testing.B) {
	const requests = 1_000_000_000
	b.Run("Local", func(b *testing.B) {
		s := limiter.New(limiter.Options{})
		l := []limiter.Limit{{Requests: requests, Per: time.Second}}
		out := make([]limiter.Result, 1)
		b.ReportAllocs()
		for i := int64(1); b.Loop(); i++ {
			s.TakeAll(i*1000, benchKey, l, 1, out)
		}
	})
	b.Run("Leased", func(b *testing.B) {
		s := leased(b)
		l := bucketOf(requests, time.Second, requests)
		out := make([]limiter.Result, 1)
		now := s.o.Now()
		b.ReportAllocs()
		for i := int64(1); b.Loop(); i++ {
			s.limiter.Take(now+i, benchKey, l, out)
		}
	})
	b.Run("LocalParallel", func(b *testing.B) {
		s := limiter.New(limiter.Options{})
		l := []limiter.Limit{{Requests: requests, Per: time.Second}}
		b.RunParallel(func(pb *testing.PB) {
			out := make([]limiter.Result, 1)
			for i := int64(1); pb.Next(); i++ {
				s.TakeAll(i*1000, benchKey, l, 1, out)
			}
		})
	})
	b.Run("LeasedParallel", func(b *testing.B) {
		s := leased(b)
		l := bucketOf(requests, time.Second, requests)
		now := s.o.Now()
		b.RunParallel(func(pb *testing.PB) {
			out := make([]limiter.Result, 1)
			for i := int64(1); pb.Next(); i++ {
				s.limiter.Take(now+i, benchKey, l, out)
			}
		})
	})
}

func leased(b *testing.B) *Store {
	s := open(b, func(o *Options) { o.Timeout = 10 * time.Second }, redistest.Start(b).Address)
	eventually(b, "the store answers", s.Up)
	return s
}

// Every key is new, as in a flood of made-up identities: each is told to the store once.
func BenchmarkTakeFlood(b *testing.B) {
	s := leased(b)
	l := bucketOf(1000, time.Second, 1000)
	out := make([]limiter.Result, 1)
	var n atomic.Int64
	key := append([]byte(nil), benchKey...)
	b.ReportAllocs()
	for b.Loop() {
		i := n.Add(1)
		for at := 14; at < 22; at++ {
			key[at] = byte('a' + i&15)
			i >>= 4
		}
		s.limiter.Take(s.o.Now(), key, l, out)
	}
}
