package cache

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
)

func BenchmarkParseControl(b *testing.B) {
	b.ReportAllocs()
	in := []byte("public, max-age=3600, s-maxage=600, stale-while-revalidate=30")
	for b.Loop() {
		c := ParseControl(in)
		if c.SMaxAge != 600 {
			b.Fatal("wrong")
		}
	}
}

func BenchmarkParseDate(b *testing.B) {
	b.ReportAllocs()
	in := []byte("Sun, 06 Nov 1994 08:49:37 GMT")
	for b.Loop() {
		if _, ok := ParseDate(in, testNow); !ok {
			b.Fatal("wrong")
		}
	}
}

func BenchmarkReadAndJudgeResponse(b *testing.B) {
	b.ReportAllocs()
	var req Request
	var res Response
	for b.Loop() {
		res.Reset(200, testNow, testNow)
		for _, l := range sampleResponse {
			res.Field(l.name, l.value)
		}
		if v := res.Judge(&req, &defaults); v.Scope != Everyone {
			b.Fatal(v.Reason)
		}
	}
}

// full is a store of n entries without a body, and their keys.
func full(b testing.TB, n int) (*Store, [][]byte) {
	b.Helper()
	s := NewStore(4<<30, 1<<20)
	var res Response
	res.Reset(200, testNow, testNow)
	keys := make([][]byte, n)
	for i := range keys {
		keys[i] = []byte("https\x00api.example.com\x00/api/v1/products/" + strconv.Itoa(i))
		e := Record(&Draft{Key: keys[i], Response: &res, Freshness: Freshness{Received: testNow, Lifetime: 1 << 60}, Limit: 1}, nil).Finish()
		if !s.Put(testNow, e) {
			b.Fatal("not put")
		}
	}
	rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return s, keys
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{1, 1000, 1_000_000} {
		s, keys := full(b, n)
		// Everything once round, in random order: with a million entries each access misses the processor's caches.
		b.Run(fmt.Sprintf("all-of-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := s.Get(testNow, keys[i], nil); !ok {
					b.Fatal("lost")
				}
				if i++; i == n {
					i = 0
				}
			}
		})
		if n == 1 {
			continue
		}
		// A thousand popular ones: what the size of the store itself costs. A request has its key at hand, so they are
		// put together here.
		var popular [][]byte
		text := make([]byte, 0, 1000*len(keys[0])*2)
		for _, key := range keys[:min(n, 1000)] {
			at := len(text)
			text = append(text, key...)
			popular = append(popular, text[at:])
		}
		b.Run(fmt.Sprintf("popular-of-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := s.Get(testNow, popular[i%1000], nil); !ok {
					b.Fatal("lost")
				}
				i++
			}
		})
		b.Run(fmt.Sprintf("missing-in-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			key := []byte("https\x00api.example.com\x00/api/v1/nothing")
			for b.Loop() {
				if _, ok := s.Get(testNow, key, nil); ok {
					b.Fatal("found")
				}
			}
		})
	}
}

// What memory takes for a lookup of a thousand popular keys, whatever the store: three reads that depend on each other, as of a table, of
// what it points to, and of the key there, spread over what so many entries take; and a map's lookup. That of Get can not grow by less.
func BenchmarkMemory(b *testing.B) {
	type place struct {
		next *place
		_    [56]byte
	}
	for _, n := range []int{1000, 1_000_000} {
		var parts [3][]place
		for i := range parts {
			parts[i] = make([]place, n)
		}
		popular := make([]*place, 1000)
		for i, at := range rand.Perm(n)[:len(popular)] {
			first, second, third := &parts[0][at], &parts[1][rand.IntN(n)], &parts[2][rand.IntN(n)]
			first.next, second.next, popular[i] = second, third, first
		}
		b.Run(fmt.Sprintf("reads-of-%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				if p := popular[i%1000].next.next; p == nil || p.next == p {
					b.Fatal("lost")
				}
				i++
			}
		})
		table, keys := make(map[string]*place, n), make([]string, n)
		for i := range keys {
			keys[i] = "https\x00api.example.com\x00/api/v1/products/" + strconv.Itoa(i)
			table[keys[i]] = &parts[0][i]
		}
		rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		b.Run(fmt.Sprintf("map-of-%d", n), func(b *testing.B) {
			i := 0
			for b.Loop() {
				if table[keys[i%1000]] == nil {
					b.Fatal("lost")
				}
				i++
			}
		})
	}
}

func BenchmarkGetVariant(b *testing.B) {
	b.ReportAllocs()
	s := NewStore(1<<20, 1<<20)
	s.Put(testNow, sample("key"))
	key := []byte("key")
	for b.Loop() {
		if _, ok := s.Get(testNow, key, sampleSelector); !ok {
			b.Fatal("lost")
		}
	}
}

func BenchmarkGetParallel(b *testing.B) {
	for _, n := range []int{1, 1000} {
		s, keys := full(b, n)
		b.Run(fmt.Sprintf("of-%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(n); pb.Next(); i++ {
					if _, ok := s.Get(testNow, keys[i%n], nil); !ok {
						b.Error("lost")
					}
				}
			})
		})
	}
}

// A tenth of the requests fill, in a store that is full.
func BenchmarkMixedParallel(b *testing.B) {
	b.ReportAllocs()
	s := NewStore(16<<20, 1<<20)
	var seed atomic.Uint64
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(seed.Add(1), 0))
		key := make([]byte, 0, 20)
		for pb.Next() {
			key = strconv.AppendUint(key[:0], uint64(rng.IntN(1000)), 10)
			if rng.IntN(10) > 0 {
				s.Get(testNow, key, sampleSelector)
			} else {
				s.Put(testNow, sample(strconv.Itoa(rng.IntN(1_000_000))))
			}
		}
	})
}

func BenchmarkFill(b *testing.B) {
	b.ReportAllocs()
	s := NewStore(16<<20, 1<<20)
	i := 0
	for b.Loop() {
		i++
		s.Put(testNow, sample(strconv.Itoa(i)))
	}
}

func BenchmarkFlight(b *testing.B) {
	b.ReportAllocs()
	f := NewFlights(100, 100, second)
	key := []byte("https\x00api.example.com\x00/api/v1/products/1")
	for b.Loop() {
		fl, _ := f.Begin(testNow, key)
		fl.Refuse(0)
	}
}

func BenchmarkPurge(b *testing.B) {
	s, _ := full(b, 100_000)
	match := ByTag([]byte("none"))
	b.ReportAllocs()
	for b.Loop() {
		s.Purge(match)
	}
}
