package limiter

import (
	"bytes"
	"testing"
	"time"
)

var raceEnabled bool // the race detector allocates by itself

func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("allocations are counted without the race detector")
	}
	s := New(Options{MaxKeys: 32})
	limits := []Limit{{Requests: 10, Per: time.Second}, {Requests: 100, Per: time.Minute}, {Requests: 1000, Per: time.Hour}, {Requests: 9, Per: 1}}
	out := make([]Result, MaxWindows)
	now := int64(0)
	f := func(name string, call func()) {
		t.Helper()
		call()
		if n := testing.AllocsPerRun(1000, func() { now += 1e6; call() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	short, long := []byte("route users by consumer alice"), bytes.Repeat([]byte("k"), 300)
	tooLong := bytes.Repeat([]byte("k"), 4096)
	f("Take", func() { s.Take(now, short, limits[0], 1) })
	f("Take refused", func() { s.Take(now, short, limits[0], 11) })
	f("TakeAll", func() { s.TakeAll(now, long, limits, 1, out) })
	f("TakeAll long key", func() { s.TakeAll(now, tooLong, limits, 1, out) })
	f("Reserve", func() { s.Reserve(now, short, limits[:1], 1, time.Second, out) })
	f("Peek", func() { s.Peek(now, short, limits[:1], 1, out) })
	f("Return", func() { s.Return(now, tooLong, limits, 1) })

	// In a full store new keys take the place, and the memory, of old ones.
	key, i := bytes.Repeat([]byte("n"), 100), 0
	fresh := func() {
		i++
		key[50], key[51], key[52] = byte(i), byte(i>>8), byte(i>>16)
		s.TakeAll(now, key, limits, 1, out)
	}
	for range 100 {
		fresh()
	}
	f("new keys", fresh)
}
