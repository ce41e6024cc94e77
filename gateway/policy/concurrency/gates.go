package concurrency

import (
	"hash/maphash"
	"sync"
)

const (
	gateShards = 32
	// maxIdle is how many gates of a shard are kept although nobody is at them. Those beyond are dropped when others are made.
	maxIdle = 2048
	// looks is how many gates are looked at for one that can be dropped.
	looks = 16
)

// gates is a gate for each key. A key that is known costs no allocation.
type gates struct {
	seed   maphash.Seed
	pooled pooled
	shards [gateShards]gateShard
}

type gateShard struct {
	mu    sync.Mutex
	gates map[string]*keyedGate
	_     [64]byte
}

// keyedGate is the gate of one key.
type keyedGate struct {
	*gate
	shard *gateShard
	users int // requests that are at it; guarded by the shard's mu
}

func newGates() (*gates, error) {
	gs := &gates{seed: maphash.MakeSeed()}
	for i := range gs.shards {
		gs.shards[i].gates = make(map[string]*keyedGate)
	}
	return gs, nil
}

// of returns the gate of a key; give it back with release.
func (gs *gates) of(key []byte) *keyedGate {
	sh := &gs.shards[maphash.Bytes(gs.seed, key)%gateShards]
	sh.mu.Lock()
	k := sh.gates[string(key)]
	if k == nil {
		if len(sh.gates) >= maxIdle {
			sh.drop()
		}
		k = &keyedGate{gate: makeGate(&gs.pooled), shard: sh}
		sh.gates[string(key)] = k
	}
	k.users++
	sh.mu.Unlock()
	return k
}

func (k *keyedGate) release() {
	k.shard.mu.Lock()
	k.users--
	k.shard.mu.Unlock()
}

// drop takes away gates at which nobody is. The caller holds mu.
func (sh *gateShard) drop() {
	n := 0
	for key, k := range sh.gates {
		if k.users == 0 {
			delete(sh.gates, key)
		}
		if n++; n == looks {
			return
		}
	}
}
