package balance

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"sluice/gateway/stripe"
)

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{2, 10, 1000} {
		for _, s := range strategies {
			b.Run(fmt.Sprintf("%v/%d", s, n), func(b *testing.B) {
				b.ReportAllocs()
				x := timingFixture(s, n)
				b.RunParallel(func(pb *testing.PB) {
					key := rand.Uint64()
					for pb.Next() {
						key += slotSalt
						x.Pick(5e6, key, nil)
					}
				})
			})
		}
	}
}

func BenchmarkPickBeginDone(b *testing.B) {
	for _, s := range strategies {
		b.Run(s.String(), func(b *testing.B) {
			b.ReportAllocs()
			x := timingFixture(s, 10)
			b.RunParallel(func(pb *testing.PB) {
				now, key := second, rand.Uint64()
				for pb.Next() {
					now, key = now+1000, key+slotSalt // faster than requests come to a core
					e := x.Pick(now, key, nil)
					x.Begin(e)
					x.Done(e, now, time.Millisecond, Success)
				}
			})
		})
	}
}

func BenchmarkPickDegraded(b *testing.B) {
	for _, s := range strategies {
		b.Run(s.String(), func(b *testing.B) {
			b.ReportAllocs()
			x := timingFixture(s, 10)
			x.setUnhealthy(0, 3, 7)
			key := rand.Uint64()
			for b.Loop() {
				key += slotSalt
				x.Pick(5e6, key, nil)
			}
		})
	}
}

func BenchmarkNewSet(b *testing.B) {
	for _, n := range []int{3, 100} {
		for _, s := range []Strategy{PeakEWMA, RoundRobin, ConsistentHash} {
			b.Run(fmt.Sprintf("%v/%d", s, n), func(b *testing.B) {
				b.ReportAllocs()
				x := timingFixture(s, n)
				members := x.Members()
				for b.Loop() {
					NewSet(x.group, members, Options{Strategy: s})
				}
			})
		}
	}
}

func BenchmarkHashBytes(b *testing.B) {
	b.ReportAllocs()
	key := []byte("0b9f6a5e-3a47-4f0e-9c55-1c7b8e4d2f10")
	for b.Loop() {
		HashBytes(key)
	}
}

func timingFixture(s Strategy, n int) fixture {
	x := newFixtureOn(stripe.Count(), Options{Strategy: s, Outlier: Outlier{Consecutive: 5}, Allow: func(*Endpoint) bool { return true }}, ones(n)...)
	x.Set.random = rand.Uint64
	for i, e := range x.eps {
		x.Begin(e)
		x.Done(e, 0, time.Duration(1000+i)*time.Microsecond, Success)
	}
	return x
}

func TestPickAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, s := range strategies {
		x := newFixture(Options{Strategy: s, SlowStart: time.Second, Outlier: Outlier{Consecutive: 3}}, 1, 2, 3, 4, 5)
		key, now := uint64(1), second
		run := func() {
			var tried Tried
			for o := Success; o <= Cancelled; o++ {
				key, now = key+slotSalt, now+int64(50*time.Millisecond)
				e := x.Pick(now, key, &tried)
				x.Begin(e)
				x.Done(e, now, time.Millisecond, o)
				tried.Add(e)
			}
		}
		run()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10000 {
			run()
		}
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > 10 {
			t.Errorf("%v: %d allocations in 10000 rounds", s, n)
		}
	}
}
