package cache

import (
	"bytes"
	"container/list"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unsafe"
)

// entry makes one with a body of the given size.
func entry(t testing.TB, key string, size int) *Entry {
	t.Helper()
	return record(t, key, nil, 200, "Cache-Control: max-age=60", strings.Repeat("x", size))
}

func has(s *Store, key string) bool {
	_, ok := s.Get(testNow, []byte(key), nil)
	return ok
}

// check compares all that a store counts with what it holds. Nobody else may use it meanwhile.
func check(t testing.TB, s *Store) {
	t.Helper()
	var n, bytes int64
	for i := range s.shards {
		sh := &s.shards[i]
		var inShard int64
		for _, q := range []*queue{&sh.probation, &sh.main} {
			var inQueue int64
			var last *Entry
			for e := q.oldest; e != nil; e = e.newer {
				if e.older != last || e.inMain != (q == &sh.main) || s.shard(e.hash) != sh {
					t.Fatalf("%q is linked wrongly", e.Key())
				}
				found := false
				for v := sh.table.Load().find(e.hash, e.Key()); v != nil; v = v.next.Load() {
					found = found || v == e
				}
				if !found {
					t.Fatalf("%q is queued and not found", e.Key())
				}
				inQueue += e.size
				inShard++
				last = e
			}
			if q.newest != last || q.bytes != inQueue {
				t.Fatalf("a queue counts %d bytes and has %d", q.bytes, inQueue)
			}
			bytes += inQueue
		}
		var keys, used, entries int64
		for j := range sh.table.Load().slots {
			at := &sh.table.Load().slots[j]
			if at.hash.Load() != 0 {
				used++
			}
			if at.entry.Load() != nil {
				keys++
			}
			for e := at.entry.Load(); e != nil; e = e.next.Load() {
				entries++
			}
		}
		if int64(sh.keys) != keys || int64(sh.used) != used || entries != inShard || sh.count.Load() != inShard {
			t.Fatalf("a shard counts %d keys, %d used, %d entries and has %d, %d, %d; queued %d", sh.keys, sh.used, sh.count.Load(), keys, used, entries, inShard)
		}
		n += inShard
	}
	if int64(s.Len()) != n || s.Bytes() != bytes {
		t.Fatalf("Len %d, Bytes %d, and there are %d, %d", s.Len(), s.Bytes(), n, bytes)
	}
	if s.Bytes() > s.limit.Load() {
		t.Fatalf("%d bytes are over the limit of %d", s.Bytes(), s.limit.Load())
	}
}

func TestEntrySize(t *testing.T) {
	// 224 and its neighbours 208 and 240 are size classes of the allocator.
	if n := unsafe.Sizeof(Entry{}); n > entrySize || n <= 224 {
		t.Errorf("an Entry takes %d bytes, and entrySize is %d", n, entrySize)
	}
}

func TestStorePutGet(t *testing.T) {
	s := NewStore(1<<20, 1000)
	if has(s, "a") || s.Len() != 0 || s.Bytes() != 0 {
		t.Fatal("a new store is not empty")
	}
	e := entry(t, "a", 10)
	if !s.Put(testNow, e) || s.Bytes() != e.Size() {
		t.Fatal("not put")
	}
	if got, ok := s.Get(testNow, []byte("a"), nil); !ok || got != e {
		t.Fatal("not found")
	}
	if has(s, "") || has(s, "b") || has(s, "aa") {
		t.Error("another key finds it")
	}
	next := entry(t, "a", 20)
	if !s.Put(testNow, next) || s.Len() != 1 || s.Bytes() != next.Size() {
		t.Error("the same key does not replace")
	}
	if got, _ := s.Get(testNow, []byte("a"), nil); got != next {
		t.Error("the old entry is found")
	}
	if string(e.Body()) != "xxxxxxxxxx" {
		t.Error("an entry that was replaced is not what it was")
	}
	if s.Put(testNow, entry(t, "big", 1001)) || has(s, "big") || s.Stats().Rejected != 1 {
		t.Error("a body over the maximum was let in")
	}
	for i := range 1000 {
		s.Put(testNow, entry(t, fmt.Sprint("k", i), 10))
	}
	for i := range 1000 {
		if key := fmt.Sprint("k", i); !has(s, key) {
			t.Fatalf("%s is lost", key)
		}
	}
	if n := s.Delete([]byte("a")); n != 1 || has(s, "a") || s.Delete([]byte("a")) != 0 {
		t.Errorf("deleted %d", n)
	}
	check(t, s)
}

func TestStoreEqualHashes(t *testing.T) {
	s := NewStore(1<<20, 1000)
	sh := &s.shards[0]
	put := func(key string) {
		e := entry(t, key, 1)
		e.hash = 7
		if !s.reserve(testNow, e.size) {
			t.Fatal("no room")
		}
		if _, _, ok := sh.put(e, &s.purged); !ok {
			t.Fatal("not put")
		}
	}
	find := func(key string) bool { return sh.table.Load().find(7, []byte(key)) != nil }
	put("a")
	put("b")
	put("c")
	if !find("a") || !find("b") || !find("c") || find("d") {
		t.Error("keys of one hash are mixed up")
	}
	_, freed := sh.deleteKey(7, []byte("b"), 0)
	s.bytes.Add(-freed)
	if !find("a") || find("b") || !find("c") {
		t.Error("deleting one of them touches another")
	}
	put("d")
	check(t, s)
}

func TestStoreHopelessIsNotFound(t *testing.T) {
	s := NewStore(1<<20, 1000)
	s.Put(testNow, record(t, "a", nil, 200, "Cache-Control: max-age=60, must-revalidate", ""))
	s.Put(testNow, record(t, "b", nil, 200, "Cache-Control: max-age=60, must-revalidate\nETag: \"1\"", ""))
	s.Put(testNow, record(t, "c", nil, 200, "Cache-Control: max-age=60", ""))
	f := func(key string, after int64, want bool) {
		t.Helper()
		if _, ok := s.Get(testNow+after*second, []byte(key), nil); ok != want {
			t.Errorf("%s after %d s: not %v", key, after, want)
		}
	}
	f("a", 30, true)
	f("a", 61, false)
	f("b", 61, true) // may be validated
	f("c", 61, true) // max-stale, stale-if-error
}

// RFC 9111 4.1.
func TestStoreVariants(t *testing.T) {
	s := NewStore(1<<20, 1000)
	put := func(vary, header, body string) {
		t.Helper()
		if !s.Put(testNow, record(t, "k", selector(header), 200, "Vary: "+vary+"\nCache-Control: max-age=60", body)) {
			t.Fatal("not put")
		}
		check(t, s)
	}
	f := func(header, want string) {
		t.Helper()
		got := "-"
		if e, ok := s.Get(testNow, []byte("k"), selector(header)); ok {
			got = string(e.Body())
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
	put("Accept-Encoding", "Accept-Encoding: gzip", "1")
	put("Accept-Encoding", "Accept-Encoding: br", "2")
	put("Accept-Encoding", "", "3")
	f("Accept-Encoding: gzip", "1")
	f("Accept-Encoding: br", "2")
	f("", "3")
	f("Accept-Encoding: zstd", "-")
	// The oldest, the middle and the newest are replaced.
	put("Accept-Encoding", "Accept-Encoding: gzip", "4")
	put("Accept-Encoding", "", "5")
	put("Accept-Encoding", "", "6")
	if s.Len() != 3 {
		t.Errorf("there are %d variants", s.Len())
	}
	f("Accept-Encoding: gzip", "4")
	f("Accept-Encoding: br", "2")
	f("", "6")
	// Of those that match, the newest.
	put("", "", "7")
	f("Accept-Encoding: gzip", "7")
	put("Accept-Encoding", "Accept-Encoding: gzip", "8")
	f("Accept-Encoding: gzip", "8")
	f("Accept-Encoding: br", "7")

	for i := range 100 {
		put("X-A", fmt.Sprint("X-A: ", i), fmt.Sprint(i))
	}
	if s.Len() != maxVariants {
		t.Errorf("there are %d variants", s.Len())
	}
	f("X-A: 99", "99")
	f(fmt.Sprint("X-A: ", 100-maxVariants), fmt.Sprint(100-maxVariants))
	f(fmt.Sprint("X-A: ", 99-maxVariants), "-")
	if n := s.Delete([]byte("k")); n != maxVariants || s.Len() != 0 {
		t.Errorf("deleted %d", n)
	}
	check(t, s)
}

func TestStorePurge(t *testing.T) {
	s := NewStore(16<<20, 1000)
	for i := range 300 {
		res := response(200, "Surrogate-Key: all t"+fmt.Sprint(i%3))
		r := Record(&Draft{
			Key: []byte(fmt.Sprint(i)), Response: res, Freshness: Freshness{Received: testNow, Lifetime: second}, Limit: 10, Epoch: s.Epoch(),
			Route: fmt.Sprint("r", i%2), Path: []byte(fmt.Sprintf("host/%d/x", i%10)),
		}, nil)
		if !s.Put(testNow, r.Finish()) {
			t.Fatal("not put")
		}
	}
	f := func(match func(*Entry) bool, want int) {
		t.Helper()
		if got := s.Purge(match); got != want {
			t.Errorf("purged %d, want %d", got, want)
		}
		check(t, s)
	}
	f(ByTag([]byte("none")), 0)
	f(ByTag([]byte("t1")), 100)
	f(ByRoute("r1"), 100)
	f(ByPrefix([]byte("host/2/")), 20)
	f(Everything, 80)
	f(Everything, 0)
}

func TestStoreKeepsOutWhatWasPurgedMeanwhile(t *testing.T) {
	s := NewStore(16<<20, 1000)
	f := func(epoch uint64, key string, want bool) {
		t.Helper()
		r := Record(&Draft{Key: []byte(key), Response: response(200, ""), Freshness: Freshness{Received: testNow, Lifetime: second}, Epoch: epoch}, nil)
		if got := s.Put(testNow, r.Finish()); got != want {
			t.Errorf("put %s of epoch %d: got %v", key, epoch, got)
		}
		check(t, s)
	}
	other := func(key string) string { // with another place in the table of deletions
		for i := 0; ; i++ {
			o := fmt.Sprint("other", i)
			if h, k := s.hash([]byte(o)), s.hash([]byte(key)); s.shard(h) != s.shard(k) || stamp(h) != stamp(k) {
				return o
			}
		}
	}
	before := s.Epoch()
	s.Delete([]byte("a"))
	f(before, "a", false)
	f(before, other("a"), true)
	f(s.Epoch(), "a", true)
	before = s.Epoch()
	s.Purge(ByRoute("x"))
	f(before, "b", false)
	f(s.Epoch(), "b", true)
}

func TestStoreResize(t *testing.T) {
	s := NewStore(64<<20, 1<<20)
	for i := range 2000 {
		s.Put(testNow, entry(t, fmt.Sprint(i), 10_000))
	}
	if s.Len() != 2000 {
		t.Fatalf("there are %d", s.Len())
	}
	s.Resize(testNow, 1<<20, 1000)
	check(t, s)
	if s.Len() < 80 || s.Stats().Evicted != uint64(2000-s.Len()) {
		t.Errorf("%d are left, %d evicted", s.Len(), s.Stats().Evicted)
	}
	if s.Put(testNow, entry(t, "x", 1001)) {
		t.Error("the new maximum is not minded")
	}
	s.Resize(testNow, 0, 1000)
	if check(t, s); s.Len() != 0 || s.Put(testNow, entry(t, "x", 1)) {
		t.Error("a store of no bytes holds something")
	}
}

// A scan over keys that are asked for once does not evict what is in use.
func TestStoreSurvivesScan(t *testing.T) {
	for _, limit := range []int64{1 << 20, 12 << 20} {
		s := NewStore(limit, 1<<20)
		hot := int(limit / 2 / 2000)
		key := func(i int) string { return fmt.Sprint("hot", i) }
		for range 3 {
			for i := range hot {
				if !has(s, key(i)) {
					s.Put(testNow, entry(t, key(i), 1000))
				}
			}
		}
		for i := range hot * 20 {
			s.Put(testNow, entry(t, fmt.Sprint("scan", i), 1000))
			if i%10 == 0 { // a little traffic meanwhile
				has(s, key(i/10%hot))
			}
		}
		kept := 0
		for i := range hot {
			if has(s, key(i)) {
				kept++
			}
		}
		t.Logf("limit %d MiB: %d of %d kept", limit>>20, kept, hot)
		if kept < hot*99/100 {
			t.Errorf("limit %d: %d of %d survived", limit, kept, hot)
		}
		check(t, s)
	}
}

// lru is the plain thing, to compare with.
type lru struct {
	entries map[string]*list.Element
	order   list.List
	room    int
}

func (l *lru) access(key string) (hit bool) {
	if at, ok := l.entries[key]; ok {
		l.order.MoveToFront(at)
		return true
	}
	if len(l.entries) == l.room {
		delete(l.entries, l.order.Remove(l.order.Back()).(string))
	}
	l.entries[key] = l.order.PushFront(key)
	return false
}

func TestStoreHitsMoreThanLRU(t *testing.T) {
	f := func(name string, skew float64, scan bool, margin float64) {
		t.Helper()
		const room, accesses = 2000, 60_000
		size := entry(t, "000000", 100).Size()
		s := NewStore(room*size, 1000)
		plain := lru{entries: map[string]*list.Element{}, room: room}
		rng := rand.New(rand.NewPCG(1, 2))
		zipf := rand.NewZipf(rng, skew, 1, 40_000)
		hits, plainHits := 0, 0
		for i := range accesses {
			key := fmt.Sprintf("%06d", zipf.Uint64())
			if scan && i%2 == 0 {
				key = fmt.Sprint("s", 10_000+i)
			}
			if has(s, key) {
				hits++
			} else {
				s.Put(testNow, entry(t, key, 100))
			}
			if plain.access(key) {
				plainHits++
			}
		}
		ours, theirs := float64(hits)/accesses, float64(plainHits)/accesses
		t.Logf("%s: %.3f, LRU %.3f", name, ours, theirs)
		if ours < theirs+margin {
			t.Errorf("%s: %.3f of all are hits, and %.3f with LRU", name, ours, theirs)
		}
	}
	f("popular ones", 1.1, false, 0)
	f("popular ones and a scan", 1.1, true, 0.02)
}

func TestStoreTakesNewWorkingSet(t *testing.T) {
	s := NewStore(1<<20, 1<<20)
	for round, name := range []string{"old", "new"} {
		hits := 0
		for pass := range 30 {
			for i := range 300 {
				key := fmt.Sprint(name, i)
				if has(s, key) {
					if pass == 29 {
						hits++
					}
				} else {
					s.Put(testNow, entry(t, key, 1000))
				}
			}
		}
		if hits < 290 {
			t.Errorf("round %d: %d of 300 are hits", round, hits)
		}
	}
}

// What comes back right after probation evicted it goes to the main queue.
func TestStoreRemembersEvicted(t *testing.T) {
	s := NewStore(1<<20, 1<<20)
	s.Put(testNow, entry(t, "a", 1000))
	for i := 0; has2(s, "a"); i++ {
		s.Put(testNow, entry(t, fmt.Sprint(i), 1000))
	}
	e := entry(t, "a", 1000)
	s.Put(testNow, e)
	if !e.inMain {
		t.Error("it is on probation again")
	}
	again := entry(t, "a", 1000)
	if s.Put(testNow, again); !again.inMain {
		t.Error("the next version of an entry lost its place")
	}
	check(t, s)
}

// has2 looks without counting a hit.
func has2(s *Store, key string) bool {
	h := s.hash([]byte(key))
	return s.shard(h).table.Load().find(h, []byte(key)) != nil
}

// Random operations against a map that knows what may be found.
func TestStoreRandom(t *testing.T) {
	s := NewStore(300<<10, 4000)
	rng := rand.New(rand.NewPCG(1, 2))
	put := map[string]string{}
	for i := range 20_000 {
		key := fmt.Sprint(rng.IntN(400))
		variant := fmt.Sprint("X-A: ", rng.IntN(3))
		id := key + " " + variant
		switch rng.IntN(20) {
		case 0:
			s.Delete([]byte(key))
			for v := range 3 {
				delete(put, fmt.Sprint(key, " X-A: ", v))
			}
		case 1, 2, 3, 4, 5, 6:
			body := strings.Repeat(fmt.Sprint(i), rng.IntN(300))
			res := response(200, "Vary: X-A")
			r := Record(&Draft{Key: []byte(key), Response: res, Freshness: Freshness{Received: testNow}, Limit: 4000, Epoch: s.Epoch()}, selector(variant))
			r.Write([]byte(body))
			if s.Put(testNow, r.Finish()) {
				put[id] = body
			}
		default:
			if e, ok := s.Get(testNow, []byte(key), selector(variant)); ok {
				if want, known := put[id]; !known || string(e.Body()) != want {
					t.Fatalf("%s: got what was not put", id)
				}
			}
		}
		if i%500 == 0 {
			check(t, s)
		}
	}
	check(t, s)
	if s.Stats().Evicted == 0 || s.Len() < 100 {
		t.Errorf("evicted %d, %d left", s.Stats().Evicted, s.Len())
	}
}

func TestStoreConcurrent(t *testing.T) {
	s := NewStore(9<<20, 20_000)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 0))
			for range 3000 {
				key := fmt.Sprint(rng.IntN(500))
				sel := selector(fmt.Sprint("X-A: ", rng.IntN(3)))
				switch rng.IntN(30) {
				case 0:
					s.Delete([]byte(key))
				case 1:
					s.Purge(ByPrefix([]byte("host/" + key)))
				case 2:
					s.Resize(testNow, int64(1+rng.IntN(9))<<20, 20_000)
				case 3, 4, 5, 6, 7, 8, 9, 10:
					r := Record(&Draft{Key: []byte(key), Response: response(200, "Vary: X-A"), Freshness: Freshness{Received: testNow},
						Limit: 20_000, Epoch: s.Epoch(), Path: []byte("host/" + key)}, sel)
					r.Write([]byte(key + strings.Repeat("x", rng.IntN(19_000))))
					s.Put(testNow, r.Finish())
				default:
					if e, ok := s.Get(testNow, []byte(key), sel); ok {
						if string(e.Key()) != key || !e.Selected(sel) || !strings.HasPrefix(string(e.Body()), key) {
							t.Errorf("%s: got %s", key, e.Key())
						}
					}
				}
			}
		})
	}
	wg.Wait()
	s.Resize(testNow, s.limit.Load(), 20_000)
	check(t, s)
}

// A lookup goes past a slot or two of the index and compares one key, however many entries there are.
func TestLookupSteps(t *testing.T) {
	for _, n := range []int{1000, 30_000} {
		s, keys := full(t, n)
		slots, compared, most := 0, 0, 0
		for _, key := range keys {
			hash := s.hash(key)
			table := s.shard(hash).table.Load()
			steps := 0
			for i := hash; ; i++ {
				steps++
				at := &table.slots[i&table.mask]
				if at.hash.Load() != hash {
					continue
				}
				if compared++; bytes.Equal(at.entry.Load().Key(), key) {
					break
				}
			}
			slots, most = slots+steps, max(most, steps)
		}
		if mean := float64(slots) / float64(n); mean > 2 || most > 100 || compared > n+1 {
			t.Errorf("among %d entries: %.2f slots at a mean, %d at most, %d keys compared", n, mean, most, compared)
		}
	}
}
