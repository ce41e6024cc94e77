package cache

import (
	"bytes"
	"hash/maphash"
	"sync"
	"sync/atomic"
)

const (
	entrySize = 240 // what the allocator takes for an Entry, in bytes
	indexSize = 80  // the most that the index takes for an entry, in bytes

	maxVariants = 32 // of one key
	maxHits     = 3  // that are remembered of an entry
	promoteHits = 2  // that take an entry out of probation

	maxShards     = 64
	bytesPerShard = 4 << 20
	stampBits     = 8 // of the table that remembers when keys were deleted
)

// Store is a byte-bounded cache of entries by primary key and, below it, by the request fields that Vary names.
//
// It is cut into shards by the hash of the key; keys are compared whole, the hash only finds the place. Reading takes no
// lock and writes to an entry only on its first hits, so it scales with the cores also when all ask for one key. Writing
// takes one shard's lock at a time.
//
// What is evicted is decided as in S3-FIFO: a new entry is on probation, in a queue of a tenth of the shard, and leaves
// the store from there unless it was hit twice meanwhile; entries that were move to the main queue, and so does at once an
// entry whose key was evicted a short time ago. In the main queue an entry is passed over once for every remembered hit.
// So a scan over keys that are asked for once runs through the probation queue and evicts nothing that is in use.
type Store struct {
	seed   maphash.Seed
	shift  uint
	shards []shard

	limit   atomic.Int64
	maxBody atomic.Int64
	bytes   atomic.Int64 // of the entries that are in, and of those that are being put
	hand    atomic.Uint64
	epoch   atomic.Uint64
	purged  atomic.Uint64 // epoch of the last Purge

	evicted  atomic.Uint64
	rejected atomic.Uint64
}

// Stats are counts since the store was made.
type Stats struct {
	Evicted  uint64 // entries that made room for others
	Rejected uint64 // entries that were not let in: too large, or purged before they were complete
}

type shard struct {
	table atomic.Pointer[table]
	count atomic.Int64 // of entries

	mu        sync.Mutex
	keys      int      // slots of table that hold a key
	used      int      // those, and the ones whose key was deleted
	ghosts    []uint32 // fingerprints of keys that probation evicted, at the place their hash gives
	probation queue
	main      queue
	deleted   [1 << stampBits]uint64 // epoch of the last Delete, by hash

	_ [64]byte // keeps the locks of two shards off one cache line
}

// NewStore makes a store of at most limit bytes, counting keys, headers, bodies and bookkeeping, with bodies of at most
// maxBody bytes.
func NewStore(limit, maxBody int64) *Store {
	n, shift := 1, uint(64)
	for n < maxShards && int64(n)*2*bytesPerShard <= limit {
		n *= 2
		shift--
	}
	s := &Store{seed: maphash.MakeSeed(), shift: shift, shards: make([]shard, n)}
	s.limit.Store(limit)
	s.maxBody.Store(maxBody)
	for i := range s.shards {
		s.shards[i].resize(0)
	}
	return s
}

// Get finds the newest variant under key that the request selects, fresh or stale. It allocates nothing. sel may be nil:
// then the request counts as one without a header.
func (s *Store) Get(now int64, key []byte, sel Selector) (*Entry, bool) {
	hash := s.hash(key)
	for e := s.shard(hash).table.Load().find(hash, key); e != nil; e = e.next.Load() {
		if !e.Selected(sel) {
			continue
		}
		if (e.NoStale || e.NoCache) && e.hopelessAt(now) {
			return nil, false
		}
		// Two readers may count one hit between them; what matters is that a popular entry is not written to any more.
		if hits := e.hits.Load(); hits < maxHits {
			e.hits.Store(hits + 1)
		}
		return e, true
	}
	return nil, false
}

// Has tells whether there is any variant under key, whichever requests select it.
func (s *Store) Has(key []byte) bool {
	hash := s.hash(key)
	return s.shard(hash).table.Load().find(hash, key) != nil
}

// Epoch is to be asked before a request is forwarded and given to the Draft: what is deleted or purged in between is
// then not brought back by that request's response.
func (s *Store) Epoch() uint64 { return s.epoch.Load() }

// Put stores e, in place of the variant that the same requests selected, and evicts others as needed. It tells whether e
// was let in; it is not when it does not fit, or when its key was deleted, or anything purged, since its Epoch. Of a key
// with 32 variants the oldest one goes.
func (s *Store) Put(now int64, e *Entry) bool {
	if e.hash != 0 {
		panic("BUG: a cache.Entry was put twice")
	}
	if int64(len(e.body)) > s.maxBody.Load() || !s.reserve(now, e.size) {
		s.rejected.Add(1)
		return false
	}
	e.hash = s.hash(e.Key())
	freed, over, ok := s.shard(e.hash).put(e, &s.purged)
	if over {
		s.evicted.Add(1)
	}
	if !ok {
		freed = e.size
		s.rejected.Add(1)
	}
	s.bytes.Add(-freed)
	return ok
}

// Delete removes all variants under key and returns how many there were.
func (s *Store) Delete(key []byte) int {
	hash := s.hash(key)
	epoch := s.epoch.Add(1)
	n, freed := s.shard(hash).deleteKey(hash, key, epoch)
	s.bytes.Add(-freed)
	return n
}

// Remove takes e out, if it is in, and tells whether it was.
func (s *Store) Remove(e *Entry) bool {
	if e.hash == 0 {
		return false
	}
	ok := s.shard(e.hash).drop(e)
	if ok {
		s.bytes.Add(-e.size)
	}
	return ok
}

// Purge removes every entry that match wants removed and returns how many there were. match is called under a shard's
// lock: it must be quick and must not call the store. Readers are not held up.
func (s *Store) Purge(match func(*Entry) bool) int {
	epoch := s.epoch.Add(1)
	for last := s.purged.Load(); last < epoch && !s.purged.CompareAndSwap(last, epoch); {
		last = s.purged.Load()
	}
	total := 0
	for i := range s.shards {
		n, freed := s.shards[i].purge(match)
		s.bytes.Add(-freed)
		total += n
	}
	return total
}

// Everything matches every entry.
func Everything(*Entry) bool { return true }

// ByRoute matches the entries recorded on a route.
func ByRoute(route string) func(*Entry) bool {
	return func(e *Entry) bool { return e.route == route }
}

// ByPrefix matches the entries whose Path begins with prefix.
func ByPrefix(prefix []byte) func(*Entry) bool {
	return func(e *Entry) bool { return bytes.HasPrefix(e.Path(), prefix) }
}

// ByURL matches the entries of one URL: HOST/PATH?QUERY, or HOST/PATH for whatever query.
func ByURL(url []byte) func(*Entry) bool {
	return func(e *Entry) bool {
		path := e.Path()
		return bytes.HasPrefix(path, url) && (len(path) == len(url) || path[len(url)] == '?' && bytes.IndexByte(url, '?') < 0)
	}
}

// ByTag matches the entries that the origin tagged (Surrogate-Key, Cache-Tag).
func ByTag(tag []byte) func(*Entry) bool {
	return func(e *Entry) bool { return e.Tagged(tag) }
}

// Len is the number of entries.
func (s *Store) Len() int {
	n := int64(0)
	for i := range s.shards {
		n += s.shards[i].count.Load()
	}
	return int(n)
}

// Bytes is what the entries take, in bytes. It is above the limit only while Resize lowers that.
func (s *Store) Bytes() int64 { return s.bytes.Load() }

// Stats are the counts so far.
func (s *Store) Stats() Stats {
	return Stats{Evicted: s.evicted.Load(), Rejected: s.rejected.Load()}
}

// Resize changes the bounds and evicts what is over the new limit. Bodies that are in and longer than maxBody stay.
func (s *Store) Resize(now, limit, maxBody int64) {
	s.limit.Store(limit)
	s.maxBody.Store(maxBody)
	s.reserve(now, 0)
}

// reserve takes size bytes of the bound, evicting until there is room. The shards give in turn, one entry each, so that a
// large entry does not empty one of them.
func (s *Store) reserve(now, size int64) bool {
	limit := s.limit.Load()
	if size > limit {
		return false
	}
	for idle, patience := 0, maxTurns; ; {
		if total := s.bytes.Load(); total+size <= limit {
			if s.bytes.CompareAndSwap(total, total+size) {
				return true
			}
			continue
		}
		freed, empty := s.shards[s.hand.Add(1)%uint64(len(s.shards))].evict(now, patience <= 0)
		switch {
		case freed > 0:
			idle, patience = 0, maxTurns
			s.evicted.Add(1)
			s.bytes.Add(-freed)
		case !empty:
			patience--
		case idle > 2*len(s.shards):
			return false // all the bytes are those of entries that others are putting: this one gives way
		default:
			idle++
		}
	}
}

// hash is never 0, which marks a free slot.
func (s *Store) hash(key []byte) uint64 {
	return max(maphash.Bytes(s.seed, key), 1)
}

func (s *Store) shard(hash uint64) *shard { return &s.shards[hash>>s.shift] }
