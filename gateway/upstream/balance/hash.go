package balance

import "math"

// HashBytes maps a key to 64 evenly spread bits: FNV-1a and the finaliser of MurmurHash3. It has no seed, so every
// process and every version gets the same value: what it pins stays pinned across instances and restarts. It does not
// resist someone who picks keys to collide. It never returns 0, which stands for no key.
func HashBytes(b []byte) uint64 {
	h := uint64(fnvOffset)
	for _, c := range b {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return finish(h)
}

// HashString is HashBytes of the string's bytes.
func HashString(s string) uint64 {
	h := uint64(fnvOffset)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return finish(h)
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func finish(h uint64) uint64 {
	if h = mix(h); h == 0 {
		return 1
	}
	return h
}

func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// The keys are divided into a fixed number of slots, and a slot belongs to the endpoint that wins it by weighted
// rendezvous. So a lookup is one load, weights are honoured, and since a slot's winner depends on no third endpoint,
// only the slots of an endpoint that leaves change hands.
const (
	slotBits = 13
	slotSalt = 0x9e3779b97f4a7c15
)

func slotOf(key uint64) uint64 { return key * slotSalt >> (64 - slotBits) }

// score is a member's bid for a slot at a part of its weight. The highest bid wins.
func (m *member) score(slot uint64, ramp float64) float64 {
	u := (float64(m.bid(slot)>>11) + 0.5) / (1 << 53)
	return -m.weight * ramp / math.Log(u)
}

func (m *member) bid(slot uint64) uint64 { return mix((slot+1)*slotSalt ^ m.seed) }

func (s *Set) hashSlots() []uint32 {
	equal := true
	for i := range s.members {
		equal = equal && s.members[i].weight == s.members[0].weight
	}
	slots := make([]uint32, 1<<slotBits)
	for slot := range uint64(len(slots)) {
		best := 0
		if equal { // the logarithm changes no order
			top := s.members[0].bid(slot)
			for i := 1; i < len(s.members); i++ {
				if b := s.members[i].bid(slot); b > top {
					best, top = i, b
				}
			}
		} else {
			top := s.members[0].score(slot, 1)
			for i := 1; i < len(s.members); i++ {
				if b := s.members[i].score(slot, 1); b > top {
					best, top = i, b
				}
			}
		}
		slots[slot] = uint32(best)
	}
	return slots
}

const (
	loadBound = 1.25
	// minBound keeps keys of an almost idle service in their place, where one request in flight exceeds any share.
	minBound = 2
)

// pickHash returns the slot's winner when nothing speaks against it, else -1.
func (s *Set) pickHash(now int64, key uint64, tried *Tried) int {
	i := int(s.slots[slotOf(key)])
	if s.class(i, now, tried) != fresh || s.ramp(i, now) < 1 {
		return -1
	}
	m := &s.members[i]
	if n := m.inFlight(now, s.group.mine()); n < minBound || fits(n, m.weight, float64(s.group.inFlight()+1)/s.weight) {
		return i
	}
	return -1
}

// fits tells whether a member with n requests in flight may take one more, at a mean load per weight which counts that
// one.
func fits(n int64, weight, mean float64) bool {
	return n < minBound || float64(n+1) <= math.Ceil(loadBound*mean*weight)
}

// searchHash goes through the members in the order of their bids for the key's slot: as long as the endpoints in order
// stay the same, a key whose endpoint is out always falls to the same other one, which is also the one that it gets
// when the endpoint leaves for good. The load bound counts only those which can take load, and yields where all exceed
// it.
func (s *Set) searchHash(now int64, key uint64, tried *Tried) int {
	slot, usable := slotOf(key), 0.0
	for i := range s.members {
		if s.class(i, now, tried) <= met {
			usable += s.members[i].weight * s.ramp(i, now)
		}
	}
	mean := float64(s.group.inFlight()+1) / usable
	for c := fresh; c < classes; c++ {
		for _, bounded := range [...]bool{true, false} {
			for last := math.Inf(1); ; {
				best, top := -1, 0.0
				for i := range s.members {
					if s.class(i, now, tried) != c {
						continue
					}
					m, ramp := &s.members[i], s.ramp(i, now)
					if bounded && !fits(m.allInFlight(), m.weight*ramp, mean) {
						continue
					}
					if b := m.score(slot, ramp); b < last && b > top {
						best, top = i, b
					}
				}
				if best < 0 {
					break
				}
				if s.allowed(best) {
					return best
				}
				last = top
			}
		}
	}
	return -1
}
