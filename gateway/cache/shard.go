package cache

import (
	"bytes"
	"sync/atomic"
)

const (
	minSlots = 8
	// maxSteps bounds how many entries are passed over while a lock is held, maxTurns how often one Put comes back for
	// more where all entries are in use.
	maxSteps = 64
	maxTurns = 16
)

// put links e. It returns the bytes of what left for it, and whether that was a variant beyond the bound.
func (s *shard) put(e *Entry, purged *atomic.Uint64) (freed int64, over, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A purge that this misses has yet to take the lock, and will find e.
	if e.epoch < purged.Load() || e.epoch < s.deleted[stamp(e.hash)] {
		return 0, false, false
	}
	first := s.table.Load().find(e.hash, e.Key())
	var same *Entry
	variants := 0
	for old := first; old != nil; old = old.next.Load() {
		if same == nil && bytes.Equal(old.head[old.selecting:old.written], e.head[e.selecting:e.written]) {
			same = old
		} else if variants++; variants == maxVariants {
			freed += s.remove(old)
			over = true
		}
	}
	to := &s.probation
	switch {
	case same != nil: // the next version of a response is as popular as the last
		e.hits.Store(same.hits.Load())
		if same.inMain {
			to = &s.main
		}
	case s.remembers(e.hash):
		to = &s.main
	}
	// The newest comes first: of those that match it is the one to use (RFC 9111 4.1).
	e.next.Store(first)
	if first == nil {
		s.insert(e)
	} else {
		s.table.Load().slot(e.hash, e.Key()).entry.Store(e)
	}
	if same != nil {
		freed += s.remove(same)
	}
	e.inMain = to == &s.main
	to.push(e)
	s.count.Add(1)
	return freed, over, true
}

// deleteKey removes the variants of a key and keeps away those that are being fetched.
func (s *shard) deleteKey(hash uint64, key []byte, epoch uint64) (n int, freed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.deleted[stamp(hash)]
	*at = max(*at, epoch)
	for e := s.table.Load().find(hash, key); e != nil; e = e.next.Load() {
		freed += s.remove(e)
		n++
	}
	return n, freed
}

func (s *shard) drop(e *Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := s.table.Load().find(e.hash, e.Key()); v != nil; v = v.next.Load() {
		if v == e {
			s.remove(e)
			return true
		}
	}
	return false
}

func (s *shard) purge(match func(*Entry) bool) (n int, freed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range [...]*queue{&s.probation, &s.main} {
		for e := q.oldest; e != nil; {
			next := e.newer
			if match(e) {
				freed += s.remove(e)
				n++
			}
			e = next
		}
	}
	return n, freed
}

// evict removes one entry and returns its size: 0 when there is none, or when it would have to pass over many and is not
// forced to decide.
func (s *shard) evict(now int64, force bool) (freed int64, empty bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range maxSteps {
		q := &s.main
		if q.oldest == nil || s.probation.bytes*10 > s.probation.bytes+s.main.bytes {
			q = &s.probation
		}
		e := q.oldest
		switch {
		case e == nil:
			return 0, true
		case force || e.hopelessAt(now):
		case e.inMain:
			if hits := e.hits.Load(); hits > 0 {
				e.hits.Store(hits - 1)
				q.unlink(e)
				q.push(e)
				continue
			}
		case e.hits.Load() >= promoteHits:
			q.unlink(e)
			e.hits.Store(0)
			e.inMain = true
			s.main.push(e)
			continue
		default:
			s.ghosts[e.hash&uint64(len(s.ghosts)-1)] = fingerprint(e.hash)
		}
		return s.remove(e), false
	}
	return 0, false
}

// remembers tells whether probation evicted the key a short time ago, and forgets it.
func (s *shard) remembers(hash uint64) bool {
	at := &s.ghosts[hash&uint64(len(s.ghosts)-1)]
	if *at != fingerprint(hash) {
		return false
	}
	*at = 0
	return true
}

// remove unlinks e and returns its size. Readers that hold e may go on from it to older variants.
func (s *shard) remove(e *Entry) int64 {
	at := s.table.Load().slot(e.hash, e.Key())
	next := e.next.Load()
	if first := at.entry.Load(); first == e {
		at.entry.Store(next)
		if next == nil {
			s.keys--
		}
	} else {
		for first.next.Load() != e {
			first = first.next.Load()
		}
		first.next.Store(next)
	}
	if e.inMain {
		s.main.unlink(e)
	} else {
		s.probation.unlink(e)
	}
	s.count.Add(-1)
	return e.size
}

// insert gives a new key its slot.
func (s *shard) insert(e *Entry) {
	t := s.table.Load()
	if (s.used+1)*8 > len(t.slots)*5 {
		s.resize(s.keys + 1)
		t = s.table.Load()
	}
	for i := e.hash; ; i++ {
		at := &t.slots[i&t.mask]
		if at.entry.Load() != nil {
			continue
		}
		if at.hash.Load() == 0 {
			s.used++
		}
		// A reader that sees one of the two stores only compares the key and goes on.
		at.hash.Store(e.hash)
		at.entry.Store(e)
		s.keys++
		return
	}
}

// resize makes a table that n keys fill by half at most, without the deleted ones. Readers of the old table finish on it.
func (s *shard) resize(n int) {
	size := minSlots
	for size < 2*n {
		size *= 2
	}
	t := &table{mask: uint64(size - 1), slots: make([]slot, size)}
	if old := s.table.Load(); old != nil {
		for i := range old.slots {
			e := old.slots[i].entry.Load()
			if e == nil {
				continue
			}
			j := e.hash
			for t.slots[j&t.mask].hash.Load() != 0 {
				j++
			}
			t.slots[j&t.mask].hash.Store(e.hash)
			t.slots[j&t.mask].entry.Store(e)
		}
	}
	ghosts := make([]uint32, size)
	for i := range ghosts {
		if len(s.ghosts) > 0 { // a fingerprint holds no place: each may be at several
			ghosts[i] = s.ghosts[i&(len(s.ghosts)-1)]
		}
	}
	s.ghosts = ghosts
	s.used = s.keys
	s.table.Store(t)
}

// table finds the newest variant of a key, by open addressing with linear probing. The shard's lock is held to write.
// Reading needs none: a slot that was taken is never free again in the same table, so that a probe never ends early.
type table struct {
	mask  uint64
	slots []slot
}

// slot is free when hash is 0, deleted when only entry is nil.
type slot struct {
	hash  atomic.Uint64
	entry atomic.Pointer[Entry]
}

func (t *table) find(hash uint64, key []byte) *Entry {
	for i := hash; ; i++ {
		at := &t.slots[i&t.mask]
		switch at.hash.Load() {
		case hash:
			if e := at.entry.Load(); e != nil && bytes.Equal(e.Key(), key) {
				return e
			}
		case 0:
			return nil
		}
	}
}

// slot is where a key that is in the table is.
func (t *table) slot(hash uint64, key []byte) *slot {
	for i := hash; ; i++ {
		at := &t.slots[i&t.mask]
		if at.hash.Load() == hash {
			if e := at.entry.Load(); e != nil && bytes.Equal(e.Key(), key) {
				return at
			}
		}
	}
}

// queue is a list of entries in the order they came, under the lock of its shard.
type queue struct {
	oldest, newest *Entry
	bytes          int64
}

func (q *queue) push(e *Entry) {
	e.older, e.newer = q.newest, nil
	if q.newest != nil {
		q.newest.newer = e
	} else {
		q.oldest = e
	}
	q.newest = e
	q.bytes += e.size
}

func (q *queue) unlink(e *Entry) {
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		q.oldest = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		q.newest = e.older
	}
	e.older, e.newer = nil, nil // an entry that a reader holds must not hold others
	q.bytes -= e.size
}

func fingerprint(hash uint64) uint32 { return uint32(hash>>24) | 1 }

func stamp(hash uint64) uint64 { return hash >> 32 & (1<<stampBits - 1) }
