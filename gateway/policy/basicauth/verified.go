package basicauth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"sync"
	"sync/atomic"
)

const (
	sets = 1024
	ways = 4
)

// verified remembers passwords that matched their slow hashes: at most 4,096, as MACs under a key that is drawn when the
// process starts and never leaves it. A MAC covers the configured hash too, so that a changed password is not remembered.
// Reading takes no lock. It is safe for concurrent use.
type verified struct {
	macs  sync.Pool // of *mac
	slots [sets * ways]atomic.Pointer[[sha256.Size]byte]
	hand  atomic.Uint32
}

type mac struct {
	hash.Hash
	sum  [sha256.Size]byte
	size [8]byte
}

func newVerified() *verified {
	var key [32]byte
	rand.Read(key[:]) // never fails
	v := &verified{}
	v.macs.New = func() any { return &mac{Hash: hmac.New(sha256.New, key[:])} }
	return v
}

func (v *verified) has(u *user, password []byte) bool {
	m := v.mac(u, password)
	defer v.macs.Put(m)
	set := v.set(m)
	for i := range set {
		if s := set[i].Load(); s != nil && subtle.ConstantTimeCompare(s[:], m.sum[:]) == 1 {
			return true
		}
	}
	return false
}

func (v *verified) add(u *user, password []byte) {
	m := v.mac(u, password)
	defer v.macs.Put(m)
	sum := m.sum
	set := v.set(m)
	for i := range set {
		if set[i].CompareAndSwap(nil, &sum) {
			return
		}
	}
	set[v.hand.Add(1)%ways].Store(&sum)
}

// mac computes the MAC of a credential; the lengths in front keep its parts apart.
func (v *verified) mac(u *user, password []byte) *mac {
	m := v.macs.Get().(*mac)
	m.Reset()
	for _, part := range [...][]byte{u.hashed, u.name, password} {
		binary.LittleEndian.PutUint64(m.size[:], uint64(len(part)))
		m.Write(m.size[:])
		m.Write(part)
	}
	m.Sum(m.sum[:0])
	return m
}

func (v *verified) set(m *mac) []atomic.Pointer[[sha256.Size]byte] {
	i := binary.LittleEndian.Uint64(m.sum[:]) % sets * ways
	return v.slots[i : i+ways : i+ways]
}
