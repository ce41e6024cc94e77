// Package limiter holds token buckets for very many keys in a bounded number of entries, behind sharded locks.
//
// It guarantees that a bucket never hands out more than its burst plus what its rate earned (exact integers, no
// drift, whatever the concurrency), that several windows of one key are debited together or not at all, and that
// an existing key costs no allocation. The limit is an argument of every call and not part of the state, so that
// buckets outlive the configuration that named them.
package limiter

import (
	"crypto/sha256"
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	// MaxWindows is how many limits one key can have at the same time.
	MaxWindows = 4

	// MaxKeyLen is the longest key, in bytes, that is stored as it is. Of a longer one (a client's header may be
	// many KiB) the beginning and the SHA-256 of the whole are stored and compared.
	MaxKeyLen = 512

	// Never is the RetryAfter of what waiting does not help: a cost above the burst, or a limit without refill.
	Never = time.Duration(math.MaxInt64)

	// MaxTokens bounds Limit.Burst and the debt that Reserve may build up.
	MaxTokens = 1 << 60

	// DefaultMaxKeys is the bound of a Store that names none.
	DefaultMaxKeys = 1_000_000
)

// Limit is one window: Requests tokens are earned per Per, evenly, and at most Burst are kept.
//
// Requests of 0 means that nothing is ever earned back. Burst of 0 means Requests. Per must be positive; negative
// numbers and a Burst above MaxTokens are a programmer's mistake and panic.
type Limit struct {
	Requests int64
	Per      time.Duration
	Burst    int64
}

// Result is what one window says after a call.
type Result struct {
	// Allowed says whether this window has, or with Reserve will have, the tokens.
	Allowed bool
	// Remaining is the number of whole tokens left, never negative.
	Remaining int64
	// RetryAfter is the time until the cost is there: 0 when it is, Never when it never will be.
	RetryAfter time.Duration
	// Reset is the time until the bucket is full again, Never when it never will be.
	Reset time.Duration
}

// Options of a Store.
type Options struct {
	// MaxKeys bounds the number of buckets; 0 means DefaultMaxKeys. It is divided evenly between the shards, so
	// evictions begin a few percent earlier. An entry takes 128 bytes, and 11 to 21 in the index; one with more
	// than one window or a key over 72 bytes takes 96 more, and that key's length.
	MaxKeys int
}

// Store is a set of buckets. All methods may be called concurrently.
//
// now is a monotonic clock in nanoseconds, given by the caller and the same for all calls. A reading older than one
// that a bucket has seen earns nothing and takes nothing away.
//
// When a limit changes between two calls, the tokens that are left stay (capped by the new burst) and the time since
// the last call is credited at the new rate: a drained bucket stays drained, and no debt of the old rate locks it
// out. Windows are recognised by their Per, then by their position; one without a predecessor starts full. A key
// should stand for one list of limits at a time; sharing it between different ones follows the same rules.
type Store struct {
	seed    maphash.Seed
	shift   uint // a hash's bits above shift choose the shard
	shards  []shard
	buckets atomic.Int64 // in all shards
}

// New makes an empty Store. It starts nothing and needs no closing.
func New(o Options) *Store {
	if o.MaxKeys < 0 {
		panic("BUG: limiter: negative MaxKeys")
	}
	if o.MaxKeys == 0 {
		o.MaxKeys = DefaultMaxKeys
	}
	// 256 shards, or fewer where each would be too small to choose well what to evict.
	n := min(256, max(1, o.MaxKeys/evictionScan))
	logN := bits.Len(uint(n)) - 1
	n = 1 << logN

	s := &Store{seed: maphash.MakeSeed(), shift: uint(64 - logN), shards: make([]shard, n)}
	for i := range s.shards {
		s.shards[i].max, s.shards[i].buckets = o.MaxKeys/n, &s.buckets
	}
	return s
}

// Take debits cost tokens from the bucket of key if it has them. It is TakeAll for one window, and quicker where the bucket
// is there and its window the same as before.
func (s *Store) Take(now int64, key []byte, l Limit, cost int64) Result {
	sh, tag := s.shard(key)
	sh.mu.Lock()
	e := sh.find(tag, key)
	if e == nil || e.windows != 1 || e.first.per != uint64(l.Per) || !l.valid() || cost < 0 {
		sh.mu.Unlock()
		return s.takeNew(now, key, l, cost)
	}
	elapsed, at := e.elapsed(now)
	w := &e.first
	w.refill(elapsed, &l)
	r := Result{Allowed: w.tokens >= cost}
	if r.Allowed {
		w.tokens -= cost
	} else {
		r.RetryAfter = w.lacks(cost, &l)
	}
	r.Remaining, r.Reset = max(0, w.tokens), w.until(l.burst(), &l)
	e.used(at, r.Reset)
	sh.mu.Unlock()
	return r
}

func (s *Store) takeNew(now int64, key []byte, l Limit, cost int64) Result {
	limits, out := [1]Limit{l}, [1]Result{}
	s.settle(now, key, limits[:], cost, 0, true, out[:])
	return out[0]
}

// TakeAll debits cost tokens from every window of key if all have them, and else from none. It says whether it did,
// and in out[i] what limits[i] says by itself. len(limits) is 1 to MaxWindows, and len(out) at least that.
func (s *Store) TakeAll(now int64, key []byte, limits []Limit, cost int64, out []Result) bool {
	return s.settle(now, key, limits, cost, 0, true, out)
}

// Reserve is TakeAll for a caller that can wait: where the tokens will be there within maxWait they are debited in
// advance, and the caller proceeds after the longest RetryAfter in out. A caller that gives up calls Return.
func (s *Store) Reserve(now int64, key []byte, limits []Limit, cost int64, maxWait time.Duration, out []Result) bool {
	return s.settle(now, key, limits, cost, max(0, min(maxWait, Never-1)), true, out)
}

// Peek answers as TakeAll would and changes nothing: no debit, no new bucket, no younger age.
// With a cost of 0 Remaining is what there is now.
func (s *Store) Peek(now int64, key []byte, limits []Limit, cost int64, out []Result) bool {
	return s.settle(now, key, limits, cost, 0, false, out)
}

// Return gives cost tokens back to every window of key, up to its burst.
func (s *Store) Return(now int64, key []byte, limits []Limit, cost int64) {
	check(limits, cost, len(limits))
	var long [MaxKeyLen + 1]byte
	key = Shorten(key, &long)
	sh, tag := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.find(tag, key)
	if e == nil {
		return // a bucket that is not there is full
	}
	var ws [MaxWindows]window
	sh.load(e, limits, &ws)
	elapsed, at := e.elapsed(now)
	var reset time.Duration
	for i := range limits {
		w, l := &ws[i], &limits[i]
		w.refill(elapsed, l)
		w.credit(cost, l.burst())
		reset = max(reset, w.until(l.burst(), l))
	}
	sh.store(e, at, reset, ws[:len(limits)])
}

// settle is Take, TakeAll, Reserve and Peek. The arguments are checked before a lock is held.
func (s *Store) settle(now int64, key []byte, limits []Limit, cost int64, maxWait time.Duration, debit bool, out []Result) bool {
	check(limits, cost, len(out))
	if len(key) > MaxKeyLen {
		return s.settleLong(now, key, limits, cost, maxWait, debit, out)
	}
	return s.settleKey(now, key, limits, cost, maxWait, debit, out)
}

// settleLong stands apart so that its buffer burdens no other call's stack.
//
//go:noinline
func (s *Store) settleLong(now int64, key []byte, limits []Limit, cost int64, maxWait time.Duration, debit bool, out []Result) bool {
	var long [MaxKeyLen + 1]byte
	return s.settleKey(now, Shorten(key, &long), limits, cost, maxWait, debit, out)
}

func (s *Store) settleKey(now int64, key []byte, limits []Limit, cost int64, maxWait time.Duration, debit bool, out []Result) bool {
	var ws [MaxWindows]window
	sh, tag := s.shard(key)
	sh.mu.Lock()
	e := sh.find(tag, key)
	elapsed, at := uint64(0), now
	if e != nil {
		sh.load(e, limits, &ws)
		elapsed, at = e.elapsed(now)
	} else {
		for i := range limits {
			ws[i] = fullWindow(&limits[i])
		}
	}
	ok, reset := settle(&ws, limits, elapsed, cost, maxWait, debit, out)
	if debit {
		if e == nil && reset > 0 { // a full bucket carries no information
			e = sh.insert(tag, key, now)
		}
		if e != nil {
			sh.store(e, at, reset, ws[:len(limits)])
		}
	}
	sh.mu.Unlock()
	return ok
}

// settle refills all windows, decides, debits all or none, and fills out. The second result is the time until every
// window is full.
func settle(ws *[MaxWindows]window, limits []Limit, elapsed uint64, cost int64, maxWait time.Duration, debit bool, out []Result) (bool, time.Duration) {
	ok := true
	for i := range limits {
		w, l, r := &ws[i], &limits[i], &out[i]
		w.refill(elapsed, l)
		r.Allowed, r.RetryAfter = true, 0
		if w.tokens < cost {
			r.RetryAfter = w.lacks(cost, l)
			r.Allowed = r.RetryAfter <= maxWait && w.tokens-cost >= -MaxTokens
		}
		ok = ok && r.Allowed
	}
	var reset time.Duration
	for i := range limits {
		w, l, r := &ws[i], &limits[i], &out[i]
		if ok && debit {
			w.tokens -= cost
		}
		r.Remaining = max(0, w.tokens)
		r.Reset = w.until(l.burst(), l)
		reset = max(reset, r.Reset)
	}
	return ok, reset
}

// Empty reports whether there is no bucket at all. It takes no lock.
func (s *Store) Empty() bool { return s.buckets.Load() == 0 }

// Len is the number of buckets.
func (s *Store) Len() int {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += sh.live
		sh.mu.Unlock()
	}
	return n
}

// Evicted counts the buckets dropped since New: full ones, which nobody misses, and forgiven ones, dropped for want of
// room while they still had something to remember. A growing second number asks for a larger MaxKeys.
func (s *Store) Evicted() (full, forgiven uint64) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		full += sh.evictedFull
		forgiven += sh.evictedForgiven
		sh.mu.Unlock()
	}
	return full, forgiven
}

// Sweep drops all buckets that are full at now and says how many. New keys push full ones out by themselves; Sweep,
// called every minute or so, gives memory back after a flood. It holds one shard's lock at a time.
func (s *Store) Sweep(now int64) int {
	n := 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n += sh.sweep(now)
		sh.mu.Unlock()
	}
	return n
}

// Entry is one bucket as Range shows it. The times are readings of the callers' clock.
type Entry struct {
	Key     []byte            // owned by the receiver; a long key's stored form (see MaxKeyLen)
	Last    int64             // last Take
	FullAt  int64             // when all windows are full under the limits of the last Take
	Windows int               // how many of Tokens count
	Tokens  [MaxWindows]int64 // as of Last; negative after Reserve
}

// Range calls f for at most limit buckets whose key begins with prefix, in no order, until f returns false. f gets
// copies, is called without a lock held and may use the Store.
func (s *Store) Range(prefix []byte, limit int, f func(Entry) bool) {
	var batch []Entry
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		batch = sh.list(batch[:0], prefix, limit)
		sh.mu.Unlock()
		for _, e := range batch {
			if !f(e) {
				return
			}
		}
		if limit -= len(batch); limit <= 0 {
			return
		}
	}
}

func (s *Store) shard(key []byte) (sh *shard, tag uint32) {
	h := maphash.Bytes(s.seed, key)
	return &s.shards[h>>s.shift], uint32(h)
}

// Shorten gives a key the form in which it is stored. A shortened key is longer than any other, so that no client can
// send another's shortened form as its own.
func Shorten(key []byte, buf *[MaxKeyLen + 1]byte) []byte {
	if len(key) <= MaxKeyLen {
		return key
	}
	sum := sha256.Sum256(key)
	n := copy(buf[:len(buf)-len(sum)], key)
	copy(buf[n:], sum[:])
	return buf[:]
}

func check(limits []Limit, cost int64, outs int) {
	if len(limits) == 0 || len(limits) > MaxWindows || outs < len(limits) || cost < 0 {
		panic("BUG: limiter: 1 to MaxWindows limits, a result for each, and a cost of at least 0")
	}
	for i := range limits {
		if !limits[i].valid() {
			panic("BUG: limiter: Limit out of range")
		}
	}
}
