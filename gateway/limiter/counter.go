package limiter

import (
	"hash/maphash"
	"sync"
	"time"
)

// Window is a stretch of the clock of UTC in which requests are counted.
type Window uint8

// The windows.
const (
	Second Window = iota
	Minute
	Hour
	Day
	Month
	Year

	numWindows
)

// Seconds is how long the window is: a month counts as 30 days, and a year as 365.
func (w Window) Seconds() int64 {
	return [...]int64{1, 60, 3600, 86400, 30 * 86400, 365 * 86400}[w]
}

// Start is when the window that holds a time began, both in Unix seconds.
func (w Window) Start(unix int64) int64 {
	switch w {
	case Month:
		t := time.Unix(unix, 0).UTC()
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC).Unix()
	case Year:
		return time.Date(time.Unix(unix, 0).UTC().Year(), 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	}
	return unix - unix%w.Seconds()
}

// Count is one limit over a window, and how it stands after a call.
type Count struct {
	Window Window
	Limit  int64
}

// Counters count requests of very many keys in windows that begin and end by the clock, in a bounded number of entries
// behind sharded locks: of a key no more than a limit pass in a window, and twice as many where two windows meet. Several
// windows of a key are charged together or not at all, and an existing key costs no allocation.
type Counters struct {
	seed   maphash.Seed
	max    int // keys in a shard
	shards [64]counterShard
}

type counterShard struct {
	mu   sync.Mutex
	keys map[string]*counts
	_    [32]byte
}

type counts struct {
	start [numWindows]int64
	used  [numWindows]int64
	ends  int64 // when the last window that counts is over
}

// NewCounters makes empty counters for at most max keys; 0: DefaultMaxKeys.
func NewCounters(max int) *Counters {
	if max == 0 {
		max = DefaultMaxKeys
	}
	c := &Counters{seed: maphash.MakeSeed()}
	c.max = (max + len(c.shards) - 1) / len(c.shards)
	for i := range c.shards {
		c.shards[i].keys = make(map[string]*counts)
	}
	return c
}

// Take charges every window of the key one request if all have room, and else none. remaining[i] is what limits[i] has left
// afterwards. stop is the last limit without room, -1 if the request passes.
func (c *Counters) Take(unix int64, key []byte, limits []Count, remaining []int64) (stop int) {
	s := &c.shards[maphash.Bytes(c.seed, key)%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(unix, key, c.max)
	stop = -1
	for i := range limits {
		w := limits[i].Window
		e.enter(w, unix)
		if remaining[i] = limits[i].Limit - e.used[w]; remaining[i] <= 0 {
			stop = i
		}
	}
	if stop >= 0 {
		return stop
	}
	for i := range limits {
		w := limits[i].Window
		e.used[w]++
		remaining[i]--
		e.keep(w)
	}
	return -1
}

// Look fills in what each limit of the key has left, and counts nothing.
func (c *Counters) Look(unix int64, key []byte, limits []Count, remaining []int64) {
	s := &c.shards[maphash.Bytes(c.seed, key)%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.keys[string(key)]
	for i := range limits {
		remaining[i] = limits[i].Limit
		if w := limits[i].Window; e != nil && e.start[w] == w.Start(unix) {
			remaining[i] -= e.used[w]
		}
	}
}

// Add charges every window of the key n, whether it has room or not, and fills in what is left, which may be negative.
func (c *Counters) Add(unix int64, key []byte, limits []Count, n int64, remaining []int64) {
	if n == 0 {
		c.Look(unix, key, limits, remaining)
		return
	}
	s := &c.shards[maphash.Bytes(c.seed, key)%uint64(len(c.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(unix, key, c.max)
	for i := range limits {
		w := limits[i].Window
		e.enter(w, unix)
		e.used[w] = min(e.used[w]+n, MaxTokens)
		e.keep(w)
		remaining[i] = limits[i].Limit - e.used[w]
	}
}

// entry finds the key, or makes it.
func (s *counterShard) entry(unix int64, key []byte, most int) *counts {
	e := s.keys[string(key)]
	if e == nil {
		if len(s.keys) >= most {
			s.evict(unix)
		}
		e = &counts{}
		s.keys[string(key)] = e
	}
	return e
}

// enter begins a window that another one has followed.
func (e *counts) enter(w Window, unix int64) {
	if start := w.Start(unix); e.start[w] != start {
		e.start[w], e.used[w] = start, 0
	}
}

// keep remembers that a window counts. A month may have 31 days, a year 366.
func (e *counts) keep(w Window) {
	e.ends = max(e.ends, e.start[w]+w.Seconds()+86400*int64(w/Month))
}

// evict makes room: keys whose windows are over, or else the one of those looked at whose are over first.
func (s *counterShard) evict(unix int64) {
	var first string
	ends, looked := int64(0), 0
	for key, e := range s.keys {
		if e.ends <= unix {
			delete(s.keys, key)
		} else if first == "" || e.ends < ends {
			first, ends = key, e.ends
		}
		if looked++; looked >= evictionScan {
			break
		}
	}
	if len(s.keys) > 0 && first != "" && looked >= evictionScan {
		delete(s.keys, first)
	}
}

// Expire drops the keys whose windows are over and returns how many.
func (c *Counters) Expire(unix int64) (dropped int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, e := range s.keys {
			if e.ends <= unix {
				delete(s.keys, key)
				dropped++
			}
		}
		s.mu.Unlock()
	}
	return dropped
}

// Len is the number of keys.
func (c *Counters) Len() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.keys)
		s.mu.Unlock()
	}
	return n
}
