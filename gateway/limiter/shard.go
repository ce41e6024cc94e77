package limiter

import (
	"bytes"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	inlineKey    = 72 // makes an entry two cache lines
	evictionScan = 32 // entries looked at to find room in a full shard
	sweepStep    = 2  // entries looked at for each new one while there is room: full ones leave as fast as keys come
)

// entry is one key's bucket. It holds no pointers, so a million of them cost the garbage collector nothing.
type entry struct {
	tag     uint32
	keyLen  uint32
	extra   uint32 // number of its extra + 1, 0 for none
	windows uint8  // 0: the entry is free
	last    int64
	fullAt  int64 // from here on a full bucket, under the limits of the last call
	first   window
	key     [inlineKey]byte
}

// extra is what few entries need: the windows after the first, and a key that is too long for the entry.
type extra struct {
	more [MaxWindows - 1]window
	key  []byte // keeps its capacity from one owner to the next
}

// shard is a hash table with linear probing over entries that never move. Everything is guarded by mu, which is held
// for tens of nanoseconds, and for a few microseconds where the index grows.
type shard struct {
	mu              sync.Mutex
	live, max       int
	buckets         *atomic.Int64 // the store's
	slots           []uint64      // tag<<32 | entry's number + 1; 0: empty; the tag's low bits are its place
	entries         slab[entry]
	extras          slab[extra]
	hand            uint32 // where eviction looks next
	evictedFull     uint64
	evictedForgiven uint64
	_               [64]byte // neighbours do not share a cache line
}

func (sh *shard) find(tag uint32, key []byte) *entry {
	if sh.live == 0 {
		return nil
	}
	mask := uint32(len(sh.slots) - 1)
	for i := tag & mask; ; i = (i + 1) & mask {
		slot := sh.slots[i]
		if slot == 0 {
			return nil
		}
		if uint32(slot>>32) == tag {
			if e := sh.entries.at(uint32(slot) - 1); bytes.Equal(sh.keyOf(e), key) {
				return e
			}
		}
	}
}

func (sh *shard) keyOf(e *entry) []byte {
	if e.keyLen <= inlineKey {
		return e.key[:e.keyLen]
	}
	return sh.extras.at(e.extra - 1).key
}

// elapsed is the time to credit, and the reading up to which it then is credited.
func (e *entry) elapsed(now int64) (uint64, int64) {
	if now <= e.last {
		return 0, e.last
	}
	return uint64(now) - uint64(e.last), now
}

// load copies the windows out, fitted to limits.
func (sh *shard) load(e *entry, limits []Limit, ws *[MaxWindows]window) {
	n := int(e.windows)
	ws[0] = e.first
	if n > 1 {
		copy(ws[1:n], sh.extras.at(e.extra - 1).more[:])
	}
	same := n == len(limits)
	for i := 0; same && i < n; i++ {
		same = ws[i].per == uint64(limits[i].Per)
	}
	if !same {
		carry(ws, n, limits)
	}
}

func (sh *shard) store(e *entry, at int64, reset time.Duration, ws []window) {
	e.used(at, reset)
	e.first = ws[0]
	e.windows = uint8(len(ws))
	if len(ws) > 1 {
		copy(sh.extraOf(e).more[:], ws[1:])
	}
}

// used notes when the bucket was used last, and how long it is not full from then on.
func (e *entry) used(at int64, reset time.Duration) {
	e.last = at
	e.fullAt = at + int64(reset)
	if reset == Never || e.fullAt < at {
		e.fullAt = math.MaxInt64
	}
}

func (sh *shard) extraOf(e *entry) *extra {
	if e.extra == 0 {
		e.extra = sh.extras.get() + 1
	}
	return sh.extras.at(e.extra - 1)
}

// insert adds an entry for a key that is not there. The caller stores its windows.
func (sh *shard) insert(tag uint32, key []byte, now int64) *entry {
	sh.makeRoom(now)
	if 4*(sh.live+1) > 3*len(sh.slots) {
		sh.grow()
	}
	n := sh.entries.get()
	e := sh.entries.at(n)
	*e = entry{tag: tag, keyLen: uint32(len(key)), windows: 1}
	if copy(e.key[:], key) < len(key) {
		x := sh.extraOf(e)
		x.key = append(x.key[:0], key...)
	}
	sh.place(uint64(tag)<<32 | uint64(n+1))
	sh.live++
	sh.buckets.Add(1)
	return e
}

func (sh *shard) place(slot uint64) {
	mask := uint32(len(sh.slots) - 1)
	i := uint32(slot>>32) & mask
	for sh.slots[i] != 0 {
		i = (i + 1) & mask
	}
	sh.slots[i] = slot
}

func (sh *shard) grow() {
	old := sh.slots
	sh.slots = make([]uint64, max(16, 2*len(old)))
	for _, slot := range old {
		if slot != 0 {
			sh.place(slot)
		}
	}
}

// makeRoom leaves room for one more entry. A full bucket goes first, since it says no more than a missing one; only
// where none is found does the one go that was not used for the longest, of those looked at.
func (sh *shard) makeRoom(now int64) {
	look := uint32(sweepStep)
	if sh.live >= sh.max {
		look = evictionScan
	}
	var oldest *entry
	var oldestN uint32
	for range min(look, sh.entries.made) {
		if sh.hand >= sh.entries.made {
			sh.hand = 0
		}
		n := sh.hand
		sh.hand++
		e := sh.entries.at(n)
		switch {
		case e.windows == 0:
		case e.fullAt <= now:
			sh.remove(e, n)
			sh.evictedFull++
			oldest = nil
			if look == evictionScan {
				return
			}
		case oldest == nil || e.last < oldest.last:
			oldest, oldestN = e, n
		}
	}
	if sh.live >= sh.max {
		sh.remove(oldest, oldestN) // a shard at its bound has no free entries: one was found
		sh.evictedForgiven++
	}
}

func (sh *shard) remove(e *entry, n uint32) {
	mask := uint32(len(sh.slots) - 1)
	i := e.tag & mask
	for uint32(sh.slots[i]) != n+1 {
		i = (i + 1) & mask
	}
	// What follows moves up, as long as that does not put it before its place.
	for j := i; ; {
		j = (j + 1) & mask
		slot := sh.slots[j]
		if slot == 0 {
			break
		}
		if home := uint32(slot>>32) & mask; (j-home)&mask >= (j-i)&mask {
			sh.slots[i] = slot
			i = j
		}
	}
	sh.slots[i] = 0
	if e.extra != 0 {
		sh.extras.put(e.extra - 1)
	}
	e.extra, e.windows = 0, 0
	sh.entries.put(n)
	sh.live--
	sh.buckets.Add(-1)
}

func (sh *shard) sweep(now int64) int {
	before := sh.live
	for n := range sh.entries.made {
		if e := sh.entries.at(n); e.windows != 0 && e.fullAt <= now {
			sh.remove(e, n)
		}
	}
	if sh.live == 0 {
		sh.slots, sh.entries, sh.extras, sh.hand = nil, slab[entry]{}, slab[extra]{}, 0
	}
	dropped := before - sh.live
	sh.evictedFull += uint64(dropped)
	return dropped
}

func (sh *shard) list(to []Entry, prefix []byte, limit int) []Entry {
	for n := range sh.entries.made {
		if len(to) >= limit {
			break
		}
		e := sh.entries.at(n)
		if e.windows == 0 || !bytes.HasPrefix(sh.keyOf(e), prefix) {
			continue
		}
		out := Entry{Key: bytes.Clone(sh.keyOf(e)), Last: e.last, FullAt: e.fullAt, Windows: int(e.windows)}
		out.Tokens[0] = e.first.tokens
		for i := 1; i < out.Windows; i++ {
			out.Tokens[i] = sh.extras.at(e.extra - 1).more[i-1].tokens
		}
		to = append(to, out)
	}
	return to
}

// slab gives out numbered places that never move, in pieces small enough that growing is never noticed.
type slab[T any] struct {
	pieces []*[slabPiece]T
	free   []uint32
	made   uint32 // numbers below it exist
}

const slabPiece = 32

func (s *slab[T]) at(n uint32) *T { return &s.pieces[n/slabPiece][n%slabPiece] }

func (s *slab[T]) get() uint32 {
	if last := len(s.free) - 1; last >= 0 {
		n := s.free[last]
		s.free = s.free[:last]
		return n
	}
	if s.made == uint32(len(s.pieces))*slabPiece {
		s.pieces = append(s.pieces, new([slabPiece]T))
	}
	s.made++
	return s.made - 1
}

func (s *slab[T]) put(n uint32) { s.free = append(s.free, n) }
