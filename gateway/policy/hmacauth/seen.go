package hmacauth

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
)

// seen remembers signatures for as long as their date is accepted. It forgets none before: when there is no room, adding
// fails. A signature is known by 128 bits of its own, which only who has the secret can choose. All methods may be called
// concurrently.
type seen struct {
	seed   maphash.Seed
	keep   atomic.Int64 // nanoseconds past its date for which a signature is remembered
	shards [shards]shard
}

const (
	shards = 64
	// ways is the size of a set: where all slots of a set are taken, the table doubles.
	ways = 16
)

type shard struct {
	mu    sync.Mutex
	slots []slot // a power of two of sets; empty at first
	_     [32]byte
}

type slot struct {
	high, low uint64
	date      int64 // Unix nanoseconds; 0: never used
}

// verdict says what became of a signature.
type verdict uint8

const (
	fresh verdict = iota
	again
	full
)

func newSeen() *seen { return &seen{seed: maphash.MakeSeed()} }

// keepFor makes signatures be remembered for at least that long past their date. It never shrinks: an older configuration may still
// accept what a younger one would not.
func (s *seen) keepFor(ns int64) {
	for old := s.keep.Load(); old < ns && !s.keep.CompareAndSwap(old, ns); old = s.keep.Load() {
	}
}

// add remembers a signature of a user with this date, at this time, where no more than most may be remembered. sum has 16 bytes at least.
func (s *seen) add(user, sum []byte, date, now int64, most int) verdict {
	of := maphash.Bytes(s.seed, user) // users may share a secret
	high, low := binary.LittleEndian.Uint64(sum)^of, binary.LittleEndian.Uint64(sum[8:])^bits.RotateLeft64(of, 32)
	sh := &s.shards[high%shards]
	dead := now - s.keep.Load()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for {
		if len(sh.slots) > 0 {
			switch at, found := find16(sh.set(low), high, low, dead); {
			case found:
				return again
			case at != nil:
				*at = slot{high, low, date}
				return fresh
			}
		}
		if max(2*len(sh.slots), ways)*shards > most && len(sh.slots) > 0 {
			return full
		}
		sh.grow(dead)
	}
}

func (sh *shard) set(low uint64) []slot {
	at := int(low%uint64(len(sh.slots)/ways)) * ways
	return sh.slots[at : at+ways]
}

// find16 looks for a signature in its set, and for a slot that is free.
func find16(set []slot, high, low uint64, dead int64) (free *slot, found bool) {
	for i := range set {
		s := &set[i]
		if s.date < dead {
			if free == nil {
				free = s
			}
			continue
		}
		if s.high == high && s.low == low {
			return nil, true
		}
	}
	return free, false
}

// grow doubles the table. A set falls into two of the new one, so all find room.
func (sh *shard) grow(dead int64) {
	old := sh.slots
	sh.slots = make([]slot, max(2*len(old), ways))
	for _, s := range old {
		if s.date < dead {
			continue
		}
		if at, _ := find16(sh.set(s.low), s.high, s.low, dead); at != nil {
			*at = s
		}
	}
}
