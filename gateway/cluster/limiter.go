package cluster

import (
	"bytes"
	"container/heap"
	"crypto/sha256"
	"encoding/base64"
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/limiter"
)

// Verdict is what becomes of a request.
type Verdict uint8

// The verdicts.
const (
	// Passed: the tokens are taken.
	Passed Verdict = iota
	// Refused: there are none.
	Refused
	// Unlimited: the store is gone, and nothing is limited without it.
	Unlimited
	// Unavailable: the store is gone, and nothing passes without it.
	Unavailable
)

// Limiter are limits that instances share. A request takes from what was lent to this instance before; what is used up is fetched anew in
// the background. All methods may be called concurrently; now is a reading of Options.Now.
type Limiter struct {
	store   *Store
	horizon time.Duration // for which what is fetched is to last

	seed   maphash.Seed
	shards [shards]shard
	size   atomic.Int64

	pokes   chan *bucket // have run low
	wake    chan struct{}
	flushes atomic.Int64 // under way
	calls   atomic.Int64 // made, by which each has a name
	closing atomic.Bool
	ended   chan struct{} // closed when run has ended

	mu     sync.Mutex
	byName map[string]*bucket
	agenda agenda
	blocks map[string][]*Limits // that are in use, by id
	strays sync.Mutex           // guards buckets of which others alone have spoken
	said   int64                // when it was last that one could not be counted
}

const (
	shards = 256
	// maxKeys bounds the buckets of an instance.
	maxKeys = 1 << 20
	// maxStrays bounds those of which others alone have spoken.
	maxStrays = 1 << 16
	// sayEvery is how often it is said that a bucket can not be counted.
	sayEvery = time.Minute
	// looks is how many buckets are compared to find one that goes.
	looks = 8
)

type shard struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	_       [48]byte // neighbours do not share a cache line
}

func newLimiter(s *Store) *Limiter {
	l := &Limiter{
		store: s, horizon: min(max(lasts*s.o.Timeout, shortest), longest), seed: maphash.MakeSeed(), pokes: make(chan *bucket, 4096), wake: make(chan struct{}, 1), ended: make(chan struct{}),
		byName: make(map[string]*bucket), blocks: make(map[string][]*Limits),
	}
	for i := range l.shards {
		l.shards[i].buckets = make(map[string]*bucket)
	}
	return l
}

// Register makes limits known for as long as they are in use, so that others can ask back what is lent of them.
func (l *Limiter) Register(limits *Limits) (forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks[limits.id] = append(l.blocks[limits.id], limits)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		var left []*Limits
		for _, have := range l.blocks[limits.id] {
			if have != limits {
				left = append(left, have)
			}
		}
		if l.blocks[limits.id] = left; left == nil {
			delete(l.blocks, limits.id)
		}
	}
}

// Take takes a request's tokens from what is lent to this instance, and says in out how each window stands. It never waits for
// the store.
func (l *Limiter) Take(now int64, key []byte, limits *Limits, out []limiter.Result) Verdict {
	if len(key) > limiter.MaxKeyLen {
		return l.takeLong(now, key, limits, out, true)
	}
	return l.take(now, key, limits, out, true)
}

// Peek says what Take would, and takes nothing.
func (l *Limiter) Peek(now int64, key []byte, limits *Limits, out []limiter.Result) Verdict {
	if len(key) > limiter.MaxKeyLen {
		return l.takeLong(now, key, limits, out, false)
	}
	return l.take(now, key, limits, out, false)
}

// takeLong stands apart so that its buffer burdens no other call's stack.
//
//go:noinline
func (l *Limiter) takeLong(now int64, key []byte, limits *Limits, out []limiter.Result, debit bool) Verdict {
	var long [limiter.MaxKeyLen + 1]byte
	return l.take(now, limiter.Shorten(key, &long), limits, out, debit)
}

func (l *Limiter) take(now int64, key []byte, limits *Limits, out []limiter.Result, debit bool) Verdict {
	sh := l.shard(key)
	sh.mu.Lock()
	b := sh.buckets[string(key)]
	if b == nil || b.limits != limits || b.alone || now >= b.turns || !l.store.up.Load() {
		v := l.takeAnew(sh, b, now, key, limits, out, debit)
		sh.mu.Unlock()
		return v
	}
	v := b.take(now, out, debit)
	if b.held < b.ask && !b.asked {
		l.poke(b)
	}
	sh.mu.Unlock()
	return v
}

// take is Take for a bucket that is lent tokens, in windows that have not changed; without debit it only looks.
func (b *bucket) take(now int64, out []limiter.Result, debit bool) Verdict {
	cost := b.limits.cost
	passed := float64(0)
	if now > b.at {
		passed, b.at = float64(now-b.at), now
	}
	b.used = now
	ok := b.held >= cost
	if !ok || debit {
		b.demand += cost
	}
	debited := float64(0)
	if ok && debit {
		b.held -= cost
		b.taken += cost
		debited = float64(cost)
	}
	windows := b.limits.windows[:len(b.meters)]
	for i := range b.meters {
		w, m, r := &windows[i], &b.meters[i], &out[i]
		m.tokens = min(m.tokens+passed*w.rate, w.capacity) - debited
		r.Allowed, r.RetryAfter = true, 0
		r.Remaining = int64(max(m.tokens, 0))
		if w.fixed {
			r.Reset = time.Duration(m.over - now)
		} else {
			r.Reset = time.Duration((w.capacity - m.tokens) * w.each)
		}
	}
	if !ok {
		b.refuse(now, 1, out)
		return Refused
	}
	return Passed
}

// Return gives back what Take took.
func (l *Limiter) Return(key []byte, limits *Limits) {
	var long [limiter.MaxKeyLen + 1]byte
	key = limiter.Shorten(key, &long)
	sh := l.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	b := sh.buckets[string(key)]
	if b == nil || b.limits != limits {
		return
	}
	b.charge(-limits.cost)
	b.taken -= limits.cost
	if !b.alone {
		b.held += limits.cost
	}
}

// takeAnew is Take where something has changed: the key is new, a window has ended, or the store has gone or come back. The caller holds
// the shard's mu.
func (l *Limiter) takeAnew(sh *shard, b *bucket, now int64, key []byte, limits *Limits, out []limiter.Result, debit bool) Verdict {
	fleet, up := l.store.fleet.Load(), l.store.up.Load()
	part := 1 / float64(fleet.most)
	if b == nil {
		b = l.open(sh, now, key, limits, fleet, up)
	}
	if b.limits != limits {
		old := float64(1)
		if b.alone {
			old = part
		}
		b.adopt(now, limits, old, l.store.o.Wall)
	}
	if !up && !b.alone {
		b.leaveAlone(now, fleet.most, l.store.o.Wall)
	}
	b.used = now
	if b.alone {
		return l.takeAlone(b, now, part, up, out, debit)
	}
	b.refill(now, 1, l.store.o.Wall)
	b.turn()
	var v Verdict
	if now < b.until {
		v = b.take(now, out, debit)
	} else {
		// What is held has lapsed, since nobody came to renew it. It counts again once the store has agreed.
		if b.told {
			b.told, b.lapsed = false, true
		}
		b.demand += limits.cost
		b.tell(now, 1, out)
		b.refuse(now, 1, out)
		v, b.ask = Refused, math.MaxInt64
	}
	if b.held < b.ask && !b.asked {
		l.poke(b)
	}
	return v
}

// takeAlone takes from this instance's part of the limit.
func (l *Limiter) takeAlone(b *bucket, now int64, part float64, up bool, out []limiter.Result, debit bool) Verdict {
	if !b.asked && l.store.up.Load() {
		l.poke(b)
	}
	b.refill(now, part, l.store.o.Wall)
	ok := b.has()
	mode := l.store.o.OnFailure
	if debit && (ok || mode == Allow && !up) {
		b.charge(b.limits.cost)
		b.taken += b.limits.cost
		for i := range b.meters {
			b.meters[i].tokens = max(b.meters[i].tokens, 0)
		}
	}
	switch {
	case up || mode == Local:
	case mode == Allow:
		return Unlimited
	default:
		return Unavailable
	}
	b.tell(now, part, out)
	if !ok {
		b.refuse(now, part, out)
		return Refused
	}
	return Passed
}

// open begins to count a key. Nobody has heard of this instance's requests with it, so its share is still there, unless others have asked it
// back. The caller holds the shard's mu.
func (l *Limiter) open(sh *shard, now int64, key []byte, limits *Limits, fleet *fleet, up bool) *bucket {
	if len(sh.buckets) >= maxKeys/shards {
		l.makeRoom(sh)
	}
	b := &bucket{
		key: string(key), name: l.name(key), guard: &sh.mu, limits: limits, meters: make([]meter, len(limits.windows)), at: now,
		held: limits.share(fleet.most), until: now + int64(validFor), used: now, rated: now, index: -1,
	}
	b.ask = b.held - int64(limits.least/untoldPart)
	part := float64(1)
	if b.alone = !up; b.alone {
		part = 1 / float64(fleet.most)
	}
	for i := range limits.windows {
		w := &limits.windows[i]
		b.meters[i].tokens = limits.room(w, part)
		if w.fixed {
			b.meters[i].over = w.ends(now, l.store.o.Wall())
		}
	}
	b.turn()
	sh.buckets[b.key] = b
	l.size.Add(1)
	l.mu.Lock()
	if stray := l.byName[b.name]; stray != nil {
		stray.gone = true
		l.agenda.drop(stray)
		b.held, b.ask = 0, math.MaxInt64
	}
	l.byName[b.name] = b
	l.mu.Unlock()
	if up {
		l.schedule(b, now+int64(idle))
	}
	return b
}

// makeRoom forgets the bucket that was not used for longest, of some. What it holds lapses. The caller holds the shard's mu.
func (l *Limiter) makeRoom(sh *shard) {
	var oldest *bucket
	n := 0
	for _, b := range sh.buckets {
		if oldest == nil || b.used < oldest.used {
			oldest = b
		}
		if n++; n == looks {
			break
		}
	}
	l.forget(sh, oldest)
}

// forget ends a bucket. The caller holds the shard's mu.
func (l *Limiter) forget(sh *shard, b *bucket) {
	delete(sh.buckets, b.key)
	l.size.Add(-1)
	l.mu.Lock()
	b.gone = true
	l.agenda.drop(b)
	if l.byName[b.name] == b {
		delete(l.byName, b.name)
	}
	l.mu.Unlock()
}

// Len is the number of keys that this instance counts.
func (l *Limiter) Len() int { return int(l.size.Load()) }

// Each calls f for every key that this instance counts, with how its windows stand, until f returns false. What it is given is its own.
func (l *Limiter) Each(now int64, f func(key []byte, limits *Limits, held int64, out []limiter.Result) bool) {
	type seen struct {
		key    string
		limits *Limits
		held   int64
		out    [MaxWindows]limiter.Result
	}
	part := 1 / float64(l.store.fleet.Load().most)
	var batch []seen
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		batch = batch[:0]
		for _, b := range sh.buckets {
			mine := float64(1)
			if b.alone {
				mine = part
			}
			b.refill(now, mine, l.store.o.Wall)
			s := seen{key: b.key, limits: b.limits, held: b.held}
			b.tell(now, mine, s.out[:])
			batch = append(batch, s)
		}
		sh.mu.Unlock()
		for j := range batch {
			s := &batch[j]
			if !f([]byte(s.key), s.limits, s.held, s.out[:len(s.limits.windows)]) {
				return
			}
		}
	}
}

func (l *Limiter) shard(key []byte) *shard { return &l.shards[maphash.Bytes(l.seed, key)%shards] }

// name is what a key is called in the store: its scope, which is the configuration's, and a hash of all, since the rest is a client's and may be a
// credential.
func (l *Limiter) name(key []byte) string {
	scope, _, _ := bytes.Cut(key, []byte{0})
	sum := sha256.Sum256(key)
	return l.store.key("limit:" + strings.ToValidUTF8(string(scope), "") + ":" + base64.RawURLEncoding.EncodeToString(sum[:16]))
}

// poke has a bucket looked at in the background. The caller holds its guard.
func (l *Limiter) poke(b *bucket) {
	select {
	case l.pokes <- b:
		b.asked = true
	default: // the next request tries again
	}
}

// agenda has the buckets that are to be looked at, the next one first.
type agenda []*bucket

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].due < a[j].due }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push implements heap.Interface.
func (a *agenda) Push(v any) {
	b := v.(*bucket)
	b.index = len(*a)
	*a = append(*a, b)
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	old := *a
	b := old[len(old)-1]
	old[len(old)-1] = nil
	*a, b.index = old[:len(old)-1], -1
	return b
}

func (a *agenda) drop(b *bucket) {
	if b.index >= 0 {
		heap.Remove(a, b.index)
	}
}

// schedule has a bucket looked at when it is due.
func (l *Limiter) schedule(b *bucket, due int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.gone {
		return
	}
	b.due = due
	if b.index >= 0 {
		heap.Fix(&l.agenda, b.index)
	} else {
		heap.Push(&l.agenda, b)
	}
	if l.agenda[0] == b {
		l.rouse()
	}
}
