package limiter

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

const second = int64(time.Second)

func TestTake(t *testing.T) {
	s := New(Options{})
	l := Limit{Requests: 100, Per: time.Minute}
	f := func(now, cost int64, want Result) {
		t.Helper()
		if got := s.Take(now, []byte("alice"), l, cost); got != want {
			t.Errorf("at %v cost %d: got %+v, want %+v", time.Duration(now), cost, got, want)
		}
	}
	f(0, 1, Result{true, 99, 0, 600 * time.Millisecond})
	f(0, 99, Result{true, 0, 0, time.Minute})
	f(0, 1, Result{false, 0, 600 * time.Millisecond, time.Minute})
	f(0, 2, Result{false, 0, 1200 * time.Millisecond, time.Minute})
	f(599_999_999, 1, Result{false, 0, 1, time.Minute - 599_999_999})
	f(600_000_000, 1, Result{true, 0, 0, time.Minute})
	f(0, 1, Result{false, 0, 600 * time.Millisecond, time.Minute}) // the clock went back
	f(600_000_000, 1, Result{false, 0, 600 * time.Millisecond, time.Minute})
	f(700*second, 0, Result{true, 100, 0, 0})
	f(700*second, 101, Result{false, 100, Never, 0})
	f(700*second, 100, Result{true, 0, 0, time.Minute})

	if got := s.Take(0, []byte("bob"), l, 1).Remaining; got != 99 {
		t.Errorf("another key: %d remaining", got)
	}
	if s.Len() != 2 {
		t.Errorf("Len %d", s.Len())
	}
}

func TestTakeWithoutRefill(t *testing.T) {
	s := New(Options{})
	f := func(key string, l Limit, cost int64, want Result) {
		t.Helper()
		if got := s.Take(second, []byte(key), l, cost); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	l := Limit{Burst: 2, Per: time.Second}
	f("a", l, 2, Result{true, 0, 0, Never})
	f("a", l, 1, Result{false, 0, Never, Never})
	f("b", Limit{Per: time.Second}, 1, Result{false, 0, Never, 0})
	if _, forgiven := s.Evicted(); s.Sweep(math.MaxInt64-1) != 0 || forgiven != 0 {
		t.Error("a drained bucket without refill was swept")
	}
}

// Whatever the windows, the second's refusal leaves the first as it was.
func TestTakeAll(t *testing.T) {
	s := New(Options{})
	limits := []Limit{{Requests: 10, Per: time.Second}, {Requests: 12, Per: time.Minute}}
	var out [2]Result
	f := func(now, cost int64, want bool, remaining0, remaining1 int64, allowed0, allowed1 bool) {
		t.Helper()
		got := s.TakeAll(now, []byte("k"), limits, cost, out[:])
		if got != want || out[0].Remaining != remaining0 || out[1].Remaining != remaining1 || out[0].Allowed != allowed0 || out[1].Allowed != allowed1 {
			t.Errorf("cost %d: %v %+v", cost, got, out)
		}
	}
	f(0, 8, true, 2, 4, true, true)
	f(0, 3, false, 2, 4, false, true)
	f(second, 4, true, 6, 0, true, true)
	f(second, 1, false, 6, 0, true, false)
	if out[0].RetryAfter != 0 || out[1].RetryAfter != 4*time.Second { // 0.2 of a token is left of the minute
		t.Errorf("RetryAfter %v %v", out[0].RetryAfter, out[1].RetryAfter)
	}
	f(second, 11, false, 6, 0, false, false)
	if out[0].RetryAfter != Never {
		t.Errorf("RetryAfter %v", out[0].RetryAfter)
	}
	s.Return(second, []byte("k"), limits, 2)
	f(second, 2, true, 6, 0, true, true)
	s.Return(second, []byte("k"), limits, 100)
	f(second, 0, true, 10, 12, true, true)
	s.Return(second, []byte("nobody"), limits, 100)
	if s.Len() != 1 {
		t.Errorf("Return made a bucket")
	}
}

func TestPeek(t *testing.T) {
	s := New(Options{})
	limits := []Limit{{Requests: 10, Per: time.Second}}
	var out [1]Result
	f := func(now, cost int64, want bool, remaining int64) {
		t.Helper()
		if got := s.Peek(now, []byte("k"), limits, cost, out[:]); got != want || out[0].Remaining != remaining {
			t.Errorf("got %v %+v", got, out[0])
		}
	}
	f(0, 10, true, 10)
	f(0, 11, false, 10)
	if s.Len() != 0 {
		t.Error("Peek made a bucket")
	}
	s.Take(0, []byte("k"), limits[0], 10)
	f(second/2, 5, true, 5)
	f(second/2, 6, false, 5)
	f(0, 1, false, 0)
}

func TestReserve(t *testing.T) {
	s := New(Options{})
	limits := []Limit{{Requests: 10, Per: time.Second}}
	var out [1]Result
	f := func(now, cost int64, want bool, wait time.Duration) {
		t.Helper()
		if got := s.Reserve(now, []byte("k"), limits, cost, time.Second, out[:]); got != want || out[0].RetryAfter != wait {
			t.Errorf("got %v %+v", got, out[0])
		}
	}
	f(0, 10, true, 0)
	f(0, 4, true, 400*time.Millisecond)
	f(0, 6, true, time.Second)
	f(0, 1, false, 1100*time.Millisecond)
	f(second/10, 1, true, time.Second)
	s.Return(second/10, []byte("k"), limits, 1)
	f(second/10, 1, true, time.Second)
	if r := s.Take(second/10, []byte("k"), limits[0], 1); r != (Result{false, 0, 1100 * time.Millisecond, 2 * time.Second}) {
		t.Errorf("Take beside reservations: %+v", r)
	}
	f(5*second, 11, false, Never)
	noRefill := []Limit{{Burst: 1, Per: 1}}
	if !s.Reserve(0, []byte("n"), noRefill, 1, Never, out[:]) || s.Reserve(0, []byte("n"), noRefill, 1, Never, out[:]) {
		t.Error("reserved what will never come")
	}
	// Debt has an end where numbers have one.
	endless := []Limit{{Requests: MaxTokens, Per: 1}}
	for i, want := range []bool{true, true, false} {
		if s.Reserve(0, []byte("e"), endless, MaxTokens, Never, out[:]) != want {
			t.Errorf("reservation %d: want %v", i, want)
		}
	}
}

// A reload neither gives a drained client a fresh burst nor locks anyone out.
func TestLimitChanges(t *testing.T) {
	type limits = []Limit
	var out [MaxWindows]Result
	f := func(before, after limits, drain int64, idle time.Duration, remaining ...int64) {
		t.Helper()
		s := New(Options{})
		if !s.TakeAll(0, []byte("k"), before, drain, out[:]) {
			t.Fatal("drain refused")
		}
		s.TakeAll(int64(idle), []byte("k"), after, 0, out[:])
		for i, want := range remaining {
			if out[i].Remaining != want {
				t.Errorf("window %d: %d remaining, want %d", i, out[i].Remaining, want)
			}
		}
	}
	perMinute := func(n int64) limits { return limits{{Requests: n, Per: time.Minute}} }
	f(perMinute(100), perMinute(200), 100, 0, 0)
	f(perMinute(100), perMinute(200), 100, time.Second, 3)
	f(perMinute(100), perMinute(50), 100, 2*time.Second, 1)
	f(perMinute(100), perMinute(50), 20, 0, 50)
	f(limits{{Requests: 1, Per: 31 * 24 * time.Hour}}, limits{{Requests: 100, Per: time.Second}}, 1, 10*time.Millisecond, 1)
	f(limits{{Requests: 1e9, Per: time.Second}}, limits{{Requests: 1, Per: 31 * 24 * time.Hour}}, 1e9, time.Second, 0)
	// Windows keep their state when others come before them or leave.
	f(perMinute(100), limits{{Requests: 10, Per: time.Second}, {Requests: 100, Per: time.Minute}}, 95, 0, 10, 5)
	f(limits{{Requests: 50, Per: time.Second}, {Requests: 100, Per: time.Minute}}, perMinute(100), 50, 0, 50)
	f(limits{{Requests: 50, Per: time.Second}, {Requests: 100, Per: time.Minute}}, limits{{Requests: 100, Per: time.Minute}, {Requests: 50, Per: time.Second}}, 50, 0, 50, 0)
	f(perMinute(5), limits{{Requests: 7, Per: time.Hour}}, 3, 0, 2)
	// The part of a token that was earned is converted: half a token of 1 per minute is half of 1 per hour.
	s := New(Options{})
	s.Take(0, []byte("k"), perMinute(1)[0], 1)
	s.Take(30*second, []byte("k"), perMinute(1)[0], 1)
	if r := s.Take(30*second, []byte("k"), Limit{Requests: 1, Per: time.Hour}, 1); r.RetryAfter != 30*time.Minute {
		t.Errorf("RetryAfter %v", r.RetryAfter)
	}
}

func TestExactUnderConcurrency(t *testing.T) {
	s := New(Options{})
	limits := []Limit{{Burst: 1000, Per: time.Second}, {Burst: 100, Per: time.Minute}}
	var allowed [4]atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var out [2]Result
			for i := range 2000 {
				key := []byte{byte((i + g) % 4)}
				if s.TakeAll(int64(i), key, limits, 1, out[:]) {
					allowed[key[0]].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range allowed {
		if n := allowed[i].Load(); n != 100 {
			t.Errorf("key %d: %d allowed, want 100", i, n)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	s := New(Options{MaxKeys: 300})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			limits := []Limit{{Requests: 5, Per: time.Second}, {Requests: 50, Per: time.Minute}}
			out := make([]Result, 2)
			for i := range 3000 {
				now, key := int64(i)*second/100, fmt.Appendf(nil, "key %d", r.IntN(500))
				if r.IntN(4) == 0 {
					key = append(key, make([]byte, r.IntN(700))...)
				}
				n := 1 + r.IntN(2)
				switch r.IntN(20) {
				case 0:
					s.Peek(now, key, limits[:n], 1, out)
				case 1:
					s.Return(now, key, limits[:n], 1)
				case 2:
					s.Reserve(now, key, limits[:n], 1, time.Second, out)
				case 3:
					s.Range(nil, 20, func(e Entry) bool { return len(e.Key) > 0 })
				case 4:
					s.Sweep(now)
				default:
					s.TakeAll(now, key, limits[:n], 1, out)
				}
				if s.Len() > 300 {
					t.Error("more keys than allowed")
				}
			}
		})
	}
	wg.Wait()
}

func TestLongKeys(t *testing.T) {
	s := New(Options{})
	l := Limit{Requests: 1, Per: time.Hour}
	keys := map[string]bool{}
	for _, n := range []int{0, 1, inlineKey - 1, inlineKey, inlineKey + 1, MaxKeyLen - 1, MaxKeyLen, MaxKeyLen + 1, 32 << 10} {
		for _, end := range []string{"", "x", "y"} {
			keys[string(bytes.Repeat([]byte("k"), n))+end] = true
		}
	}
	for _, want := range []bool{true, false} {
		for key := range keys {
			if got := s.Take(0, []byte(key), l, 1).Allowed; got != want {
				t.Errorf("key of %d bytes: allowed %v, want %v", len(key), got, want)
			}
		}
	}
	// What is stored for a long key is not the key of anyone else.
	var buf [MaxKeyLen + 1]byte
	if stored := Shorten(bytes.Repeat([]byte("z"), 1000), &buf); bytes.Equal(stored, Shorten(bytes.Clone(stored), new([MaxKeyLen + 1]byte))) {
		t.Error("a shortened key can be sent as a key")
	}
}

func TestEviction(t *testing.T) {
	const keys = 32 // one shard, looked at whole
	l := Limit{Requests: 10, Per: 10 * time.Second}
	key := func(i int) []byte { return fmt.Appendf(nil, "k%d", i) }
	fill := func() *Store {
		s := New(Options{MaxKeys: keys})
		for i := range keys {
			s.Take(int64(i), key(i), l, 10)
		}
		return s
	}
	has := func(s *Store, now int64, i int) bool {
		var out [1]Result
		return !s.Peek(now, key(i), []Limit{l}, 10, out[:])
	}
	counts := func(s *Store, full, forgiven uint64) {
		t.Helper()
		if a, b := s.Evicted(); a != full || b != forgiven || s.Len() > keys {
			t.Errorf("evicted %d full, %d forgiven, want %d, %d; Len %d", a, b, full, forgiven, s.Len())
		}
	}

	s := fill()
	s.Take(second/2, key(0), l, 1) // refused, and used all the same: k1 is the oldest now
	s.Take(second/2, []byte("new"), l, 10)
	counts(s, 0, 1)
	if !has(s, second/2, 0) || has(s, second/2, 1) || !has(s, second/2, 2) {
		t.Error("the wrong one was evicted")
	}

	s = fill()
	s.Return(keys, key(17), []Limit{l}, 10) // full, though used last
	s.Take(keys, []byte("new"), l, 10)
	counts(s, 1, 0)
	if !has(s, keys, 0) || !has(s, keys, 16) {
		t.Error("a drained bucket was evicted beside a full one")
	}

	s = fill()
	if n := s.Sweep(10*second + 2); n != 3 || s.Len() != keys-3 {
		t.Errorf("swept %d", n)
	}
	if n := s.Sweep(30 * second); n != keys-3 || s.Len() != 0 || s.shards[0].slots != nil {
		t.Errorf("swept %d", n)
	}
	counts(s, keys, 0)
	if r := s.Take(30*second, key(1), l, 1); r.Remaining != 9 {
		t.Errorf("%+v", r)
	}

	// Full ones leave as new ones come, long before the bound.
	s = New(Options{MaxKeys: keys})
	for i := range 1000 {
		s.Take(int64(i)*20*second, key(i), l, 1)
	}
	if s.Len() > 3 {
		t.Errorf("%d keys, where all but one are full", s.Len())
	}
}

func TestBounds(t *testing.T) {
	f := func(maxKeys, shards int) {
		t.Helper()
		s := New(Options{MaxKeys: maxKeys})
		if len(s.shards) != shards {
			t.Errorf("MaxKeys %d: %d shards, want %d", maxKeys, len(s.shards), shards)
		}
		for i := range min(5000, 3*maxKeys) {
			s.Take(0, fmt.Appendf(nil, "k%d", i), Limit{Requests: 1, Per: time.Hour}, 1)
		}
		if maxKeys > 0 && s.Len() > maxKeys {
			t.Errorf("MaxKeys %d: %d keys", maxKeys, s.Len())
		}
	}
	f(0, 256)
	f(1, 1)
	f(10, 1)
	f(63, 1)
	f(100, 2)
	f(1000, 16)
	f(8192, 256)
	if n := unsafe.Sizeof(entry{}); n != 128 {
		t.Errorf("an entry has %d bytes, and the documentation says 128", n)
	}
	if n := unsafe.Sizeof(extra{}); n != 96 {
		t.Errorf("an extra has %d bytes, and the documentation says 96", n)
	}
}

func TestRange(t *testing.T) {
	s := New(Options{})
	limits := []Limit{{Requests: 10, Per: time.Second}, {Requests: 20, Per: time.Minute}}
	var out [2]Result
	long := bytes.Repeat([]byte("a"), 100)
	s.TakeAll(second, long, limits, 3, out[:])
	for i := range 50 {
		s.Take(second, fmt.Appendf(nil, "b%d", i), limits[0], 1)
	}
	f := func(prefix string, limit, want int) {
		t.Helper()
		n := 0
		s.Range([]byte(prefix), limit, func(e Entry) bool {
			n++
			s.Take(second, e.Key, limits[0], 0) // no lock is held
			return true
		})
		if n != want {
			t.Errorf("%q at most %d: %d entries, want %d", prefix, limit, n, want)
		}
	}
	s.Range([]byte("a"), 5, func(e Entry) bool {
		if !bytes.Equal(e.Key, long) || e.Last != second || e.FullAt != 10*second || e.Windows != 2 || e.Tokens != [4]int64{7, 17} {
			t.Errorf("%+v", e)
		}
		return true
	})
	f("b", 1000, 50)
	f("b", 7, 7)
	f("b4", 1000, 11)
	f("c", 1000, 0)
	f("", 1000, 51)
	f("", 0, 0)
	f("", -1, 0)
	n := 0
	s.Range(nil, 1000, func(Entry) bool { n++; return n < 3 })
	if n != 3 {
		t.Errorf("Range went on: %d", n)
	}
}

func TestMisuseFailure(t *testing.T) {
	s := New(Options{})
	f := func(name string, call func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", name)
			}
			s.Len() // no lock was left
		}()
		call()
	}
	ok := Limit{Requests: 1, Per: 1}
	out := make([]Result, 8)
	f("no limits", func() { s.TakeAll(0, nil, nil, 1, out) })
	f("too many", func() { s.TakeAll(0, nil, []Limit{ok, ok, ok, ok, ok}, 1, out) })
	f("short out", func() { s.TakeAll(0, nil, []Limit{ok, ok}, 1, out[:1]) })
	f("negative cost", func() { s.Take(0, nil, ok, -1) })
	f("no Per", func() { s.Take(0, nil, Limit{Requests: 1}, 1) })
	f("negative", func() { s.Take(0, nil, Limit{Requests: -1, Per: 1}, 1) })
	f("negative burst", func() { s.Return(0, nil, []Limit{{Requests: 1, Per: 1, Burst: -1}}, 1) })
	f("burst too large", func() { s.Take(0, nil, Limit{Requests: 1, Per: 1, Burst: MaxTokens + 1}, 1) })
	f("negative MaxKeys", func() { New(Options{MaxKeys: -1}) })
}

// The table against a map, with tags that collide all the time.
func TestShardAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sh := &shard{max: 200, buckets: new(atomic.Int64)}
	model := map[string]uint32{}
	now := int64(0)
	for range 50_000 {
		now++
		n := r.IntN(150)
		key := fmt.Appendf(nil, "%d", n)
		tag := uint32(n % 13)
		e := sh.find(tag, key)
		if _, ok := model[string(key)]; ok != (e != nil) {
			t.Fatalf("%s: found %v, want %v", key, e != nil, ok)
		}
		if e == nil {
			before := sh.evictedFull
			e = sh.insert(tag, key, 0)
			if sh.evictedFull != before {
				t.Fatal("evicted a bucket that is not full")
			}
			e.fullAt = now
			model[string(key)] = tag
		} else if r.IntN(2) == 0 {
			for i := range sh.entries.made {
				if sh.entries.at(i) == e {
					sh.remove(e, i)
				}
			}
			delete(model, string(key))
		}
		if sh.live != len(model) {
			t.Fatalf("%d entries, want %d", sh.live, len(model))
		}
	}
}
