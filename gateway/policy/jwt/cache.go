package jwt

import (
	"sync"
	"sync/atomic"
)

const (
	ways = 8
	// maxSets times ways is the largest number of tokens that are remembered: 65,536. At setBudget, or one token larger
	// than that, a set, they take about 64 MiB.
	maxSets   = 8192
	minSets   = 8
	setBudget = 8 << 10
)

// cache remembers verified tokens. The hash of a token only leads to a set of a few slots; the whole token decides. Reading
// takes no lock. Nothing but a verified token ever enters, so that garbage can not drive good tokens out. The table begins
// empty and doubles when a set is full. The zero value is ready.
type cache struct {
	table atomic.Pointer[table]
	mu    sync.Mutex // held while writing
	len   atomic.Int64
}

type table struct {
	mask  uint64
	slots []atomic.Pointer[entry]
}

// entry is immutable but for used.
type entry struct {
	hash       uint64
	generation uint64
	token      string
	claims     *Claims
	used       atomic.Bool // since the last time somebody looked for a victim
}

func (e *entry) cost() int {
	return 320 + len(e.token) + len(e.claims.raw) + 48*len(e.claims.members)
}

func (t *table) set(hash uint64) []atomic.Pointer[entry] {
	i := hash & t.mask * ways
	return t.slots[i : i+ways : i+ways]
}

// get returns the claims of a token that was verified with the keys of this generation.
func (c *cache) get(hash uint64, token []byte, generation uint64) *Claims {
	t := c.table.Load()
	if t == nil {
		return nil
	}
	set := t.set(hash)
	for i := range set {
		e := set[i].Load()
		if e == nil || e.hash != hash || e.token != string(token) {
			continue
		}
		if e.generation != generation {
			return nil
		}
		if !e.used.Load() {
			e.used.Store(true)
		}
		return e.claims
	}
	return nil
}

// put remembers a verified token.
func (c *cache) put(e *entry, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table.Load()
	if t == nil {
		t = newTable(minSets)
		c.table.Store(t)
	}
	for !c.insert(t.set(e.hash), e, now, false) {
		if len(t.slots) == maxSets*ways {
			c.insert(t.set(e.hash), e, now, true)
			return
		}
		t = c.grow(t)
	}
}

// insert puts e into its set if it has room once the dead are gone, or makes room if it must.
func (c *cache) insert(set []atomic.Pointer[entry], e *entry, now int64, must bool) bool {
	free, held := -1, e.cost()
	for i := range set {
		old := set[i].Load()
		if old != nil && (old.claims.expires <= now || old.generation != e.generation || old.hash == e.hash && old.token == e.token) {
			c.drop(&set[i])
			old = nil
		}
		if old == nil {
			free = i
		} else {
			held += old.cost()
		}
	}
	for free < 0 || held > setBudget {
		victim := -1
		for i := range set { // second chance: not used lately, else the first
			if old := set[i].Load(); old != nil && (victim < 0 || !old.used.Swap(false)) {
				victim = i
				if !must {
					return false
				}
			}
		}
		if victim < 0 {
			break // e alone is over the budget
		}
		held -= set[victim].Load().cost()
		c.drop(&set[victim])
		free = victim
	}
	set[free].Store(e)
	c.len.Add(1)
	return true
}

func (c *cache) drop(slot *atomic.Pointer[entry]) {
	slot.Store(nil)
	c.len.Add(-1)
}

// grow publishes a table of twice the size. A set of the old one falls into two of the new, so all find room.
func (c *cache) grow(old *table) *table {
	t := newTable(2 * len(old.slots) / ways)
	for i := range old.slots {
		e := old.slots[i].Load()
		if e == nil {
			continue
		}
		set := t.set(e.hash)
		for j := range set {
			if set[j].Load() == nil {
				set[j].Store(e)
				break
			}
		}
	}
	c.table.Store(t)
	return t
}

func newTable(sets int) *table {
	return &table{mask: uint64(sets - 1), slots: make([]atomic.Pointer[entry], sets*ways)}
}
