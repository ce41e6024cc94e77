package quota

import (
	"crypto/sha256"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

const (
	shards = 64
	// maxKeys bounds the counts of the process. Beyond it those whose period is over go first, then those of which least is used.
	maxKeys = 1 << 20
	// looks is how many counts are compared to find one that goes.
	looks = 16
	// late is by how many seconds the clock may be set back without being taken to have been wrong before.
	late = 3600
)

// State are the counts of all quotas of the process. Their keys begin with the scope of a block, so that a block finds its counts again after a reload.
type State struct {
	seed      maphash.Seed
	shards    [shards]shard
	clock     *exchange.Clock
	log       *slog.Logger
	forgotten atomic.Int64 // counts that were dropped for want of room

	mu      sync.Mutex
	scopes  map[string][]*scope // by scope; the youngest generation's is the last
	folders map[string]folder   // that counts were kept in before
}

// scope is what one generation says of the windows of a block, for Inspect.
type scope struct{ windows []window }

type shard struct {
	mu     sync.Mutex
	counts map[string]*count
	dirty  *count // the first of those to be written
	_      [64]byte
}

// count is what is used of one window by one caller. Its shard's mu guards it.
type count struct {
	key        string
	start, end int64  // of its period
	used       int64  // with a shared store, by all instances as far as it has told
	owed       int64  // used since by this one, without the store
	calls      *calls // of the store, where there is one
	requests   int64  // of the window, when it was charged last
	durable    bool
	dirty      bool
	next       *count // of those to be written
}

func newState(clock *exchange.Clock, log *slog.Logger) *State {
	s := &State{seed: maphash.MakeSeed(), clock: clock, log: log, scopes: map[string][]*scope{}, folders: map[string]folder{}}
	for i := range s.shards {
		s.shards[i].counts = make(map[string]*count)
	}
	return s
}

// charge takes the window's weight if that much is left, and says what is left then. Without take it only looks.
func (s *State) charge(w *window, key []byte, p *period, now int64, take bool) (left int64, passed bool) {
	var long [policy.KeySize]byte
	key = shorten(key, &long)
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.counts[string(key)]
	if c == nil {
		if !take {
			return w.requests, w.weight <= w.requests
		}
		c = s.insert(sh, string(key), p, now)
	}
	c.roll(p, now)
	c.requests = w.requests
	if c.used > w.requests-w.weight {
		return max(0, w.requests-c.used), false
	}
	if take {
		c.used += w.weight
		c.durable = w.durable
		sh.note(c)
	}
	return w.requests - c.used, true
}

// giveBack takes a charge back and says what is left then.
func (s *State) giveBack(w *window, key []byte, p *period) (left int64) {
	var long [policy.KeySize]byte
	key = shorten(key, &long)
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.counts[string(key)]
	if c == nil {
		return w.requests
	}
	if c.start >= p.start {
		c.used = max(0, c.used-w.weight)
		sh.note(c)
	}
	return max(0, w.requests-c.used)
}

// roll begins a new period. A clock that was set back does not make what was used unused: a little back, and the later period goes
// on; far back, as from a year that was wrong, and what was used is of the period that it is now.
func (c *count) roll(p *period, now int64) {
	switch {
	case c.start == p.start:
		c.end = p.end
	case c.start < p.start:
		c.start, c.end, c.used = p.start, p.end, 0
	case c.start-now > late:
		c.start, c.end = p.start, p.end
	}
}

// note has a durable count written. The caller holds mu.
func (sh *shard) note(c *count) {
	if c.durable && !c.dirty {
		c.dirty = true
		c.next, sh.dirty = sh.dirty, c
	}
}

// insert adds a count. The caller holds the shard's mu.
func (s *State) insert(sh *shard, key string, p *period, now int64) *count {
	if len(sh.counts) >= maxKeys/shards {
		s.makeRoom(sh, now)
	}
	c := &count{key: key, start: p.start, end: p.end}
	sh.counts[key] = c
	return c
}

func (s *State) makeRoom(sh *shard, now int64) {
	var least *count
	n := 0
	for _, c := range sh.counts {
		if least == nil || c.end <= now || least.end > now && c.share() < least.share() {
			least = c
		}
		if n++; n == looks || least.end <= now {
			break
		}
	}
	delete(sh.counts, least.key)
	if least.end > now {
		s.forgotten.Add(1)
	}
}

// share is how much of the quota is used.
func (c *count) share() float64 { return float64(c.used) / float64(max(1, c.requests)) }

func (s *State) shard(key []byte) *shard { return &s.shards[maphash.Bytes(s.seed, key)%shards] }

// shorten gives a key the form in which it is kept: of a long one the beginning, and a hash of the whole.
func shorten(key []byte, buf *[policy.KeySize]byte) []byte {
	if len(key) < policy.KeySize {
		return key
	}
	sum := sha256.Sum256(key)
	n := copy(buf[:len(buf)-len(sum)], key)
	copy(buf[n:], sum[:])
	return buf[:]
}

// Sweep drops counts whose period is over, and says how many.
func (s *State) Sweep(int64) int {
	now, n := s.clock.Time().Unix(), 0
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for key, c := range sh.counts {
			if c.end <= now {
				delete(sh.counts, key)
				n++
			}
		}
		sh.mu.Unlock()
	}
	if lost := s.forgotten.Swap(0); lost > 0 {
		s.log.Warn("there are more callers with a quota than the gateway counts; those that had used least of theirs begin anew", "forgotten", lost, "most", maxKeys)
	}
	return n
}

// register tells Inspect of a block, until forget is called. A block compiled for several routes is registered by each.
func (s *State) register(name string, windows []window) (forget func()) {
	mine := &scope{windows}
	s.mu.Lock()
	s.scopes[name] = append(s.scopes[name], mine)
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		left := s.scopes[name][:0:0]
		for _, have := range s.scopes[name] {
			if have != mine {
				left = append(left, have)
			}
		}
		if s.scopes[name] = left; len(left) == 0 {
			delete(s.scopes, name)
		}
	}
}

var _ policy.LimitInspector = (*State)(nil)

// Inspect implements policy.LimitInspector.
func (s *State) Inspect(q policy.LimitQuery) []policy.LimitEntry {
	makers := make(map[string]*window) // by prefix; the youngest generation's
	s.mu.Lock()
	for _, all := range s.scopes {
		for _, sc := range all {
			for i := range sc.windows {
				makers[sc.windows[i].key.Prefix] = &sc.windows[i]
			}
		}
	}
	s.mu.Unlock()
	now := s.clock.Time().Unix()
	list := policy.NewLimitList(q)
	var batch []count
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		batch = batch[:0]
		for _, c := range sh.counts {
			batch = append(batch, *c)
		}
		sh.mu.Unlock()
		for j := range batch {
			c := &batch[j]
			w, rest, ok := policy.SplitKey(c.key, makers)
			if !ok {
				continue
			}
			tenant, who := w.key.Show(rest)
			if !list.Wants(tenant, who) {
				continue
			}
			p := w.calendar.at(now)
			c.roll(p, now)
			name, _, _ := strings.Cut(w.key.Prefix, "\x00")
			requests := c.requests
			if requests == 0 {
				requests = w.requests // read from the file, and not charged since
			}
			list.Add(policy.LimitEntry{Policy: "quota", Scope: name, Tenant: tenant, Key: who, Windows: []policy.LimitWindow{w.show(p, now, requests, c.used+c.untold())}})
		}
	}
	return list.Entries()
}
