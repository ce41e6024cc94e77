package cache

import (
	"hash/maphash"
	"sync"
	"time"
)

const flightShards = 32 // a power of two

// Flights lets one request at a time fill an entry while others for the same key wait for it. It also remembers, for a
// short time, which keys turned out uncacheable (hit-for-miss), so that their requests do not queue up behind each other.
// It starts no goroutine.
type Flights struct {
	seed   maphash.Seed
	max    int
	lead   int64
	shards [flightShards]flightShard
}

type flightShard struct {
	mu      sync.Mutex
	flights map[string]*Flight
	marks   []mark // direct-mapped by hash: a newer one takes the place of an older one

	_ [64]byte
}

type mark struct {
	hash  uint64
	until int64 // unix nanoseconds
}

// Flight is one filling of an entry.
type Flight struct {
	shard *flightShard
	hash  uint64
	began int64 // unix nanoseconds

	// Under the shard's lock until done is closed; what waits reads them after that.
	key     string
	done    chan struct{} // made for the first that waits
	ended   bool
	outcome Outcome
	entry   *Entry
}

// Role is what a request has to do.
type Role uint8

const (
	// Alone: forward, for yourself. There is no flight: the key is marked as uncacheable, or there are too many flights.
	// The response may be stored all the same.
	Alone Role = iota
	// Lead: look into the store once more, since the last leader may just have filled it, then forward, and end the
	// flight with Fill, Refuse or Abort on every path.
	Lead
	// Follow: Wait.
	Follow
)

// Outcome is what a follower learns.
type Outcome uint8

const (
	// Again: the leader left without an answer, or its answer is another variant. Look into the store and Begin again.
	Again Outcome = iota
	// Filled: here is the entry, which the request selects.
	Filled
	// OnItsOwn: the response is for its leader only, or the wait was over. Forward.
	OnItsOwn
)

// NewFlights makes room for maxFlights fillings at a time and about maxMarks marks. A flight that has not ended after
// lead, in nanoseconds, is no longer waited for by those who come: the next of them leads another.
func NewFlights(maxFlights, maxMarks int, lead int64) *Flights {
	f := &Flights{seed: maphash.MakeSeed(), max: max(maxFlights/flightShards, 1), lead: lead}
	marks := 1
	for marks*flightShards < maxMarks {
		marks *= 2
	}
	for i := range f.shards {
		f.shards[i].flights = make(map[string]*Flight)
		f.shards[i].marks = make([]mark, marks)
	}
	return f
}

// Begin joins the flight for key or opens one. The flight is nil for the role Alone.
func (f *Flights) Begin(now int64, key []byte) (*Flight, Role) {
	hash := maphash.Bytes(f.seed, key)
	s := &f.shards[hash%flightShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	// Two keys with one hash would share a mark, which costs no more than a request that goes alone.
	if m := s.mark(hash); m.hash == hash && now < m.until {
		return nil, Alone
	}
	old := s.flights[string(key)]
	if old != nil && now-old.began < f.lead {
		if old.done == nil {
			old.done = make(chan struct{})
		}
		return old, Follow
	}
	if old == nil && len(s.flights) >= f.max {
		return nil, Alone
	}
	fl := &Flight{shard: s, hash: hash, began: now, key: string(key)}
	s.flights[fl.key] = fl
	return fl, Lead
}

// InFlight is the number of flights.
func (f *Flights) InFlight() int {
	n := 0
	for i := range f.shards {
		s := &f.shards[i]
		s.mu.Lock()
		n += len(s.flights)
		s.mu.Unlock()
	}
	return n
}

// Fill ends the flight with its entry, whether or not the store took it. An entry of another key, which is what a response
// for its owner only has, is not given to anyone: then Fill is Refuse without a mark. The first of Fill, Refuse and Abort
// counts; later calls do nothing, so that Abort may stand at the end of every path.
func (fl *Flight) Fill(e *Entry) {
	if string(e.Key()) != fl.key {
		fl.end(OnItsOwn, nil, 0)
		return
	}
	fl.end(Filled, e, 0)
}

// Refuse ends the flight: the response can not be shared, and those who wait go on their own. Until the given time, unix
// nanoseconds, so do all who come; 0 sets no such mark. It is to be called as soon as the response head says so.
func (fl *Flight) Refuse(until int64) { fl.end(OnItsOwn, nil, until) }

// Abort ends the flight without an answer, since its leader went away: one of those who wait leads the next.
func (fl *Flight) Abort() { fl.end(Again, nil, 0) }

func (fl *Flight) end(outcome Outcome, e *Entry, until int64) {
	s := fl.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if fl.ended {
		return
	}
	fl.ended, fl.outcome, fl.entry = true, outcome, e
	if s.flights[fl.key] == fl { // else one that took over from it
		delete(s.flights, fl.key)
	}
	if until > 0 {
		*s.mark(fl.hash) = mark{fl.hash, until}
	}
	if fl.done != nil {
		close(fl.done)
	}
}

// Wait blocks until the flight has ended, but no longer than limit, or until cancel is closed, which may be nil. Only a
// follower may wait. sel is the header of the request that waits: it is given the entry only where it selects it.
func (fl *Flight) Wait(sel Selector, limit time.Duration, cancel <-chan struct{}) (*Entry, Outcome) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-fl.done:
	case <-timer.C:
		return nil, OnItsOwn
	case <-cancel:
		return nil, OnItsOwn
	}
	return fl.Result(sel)
}

// Done is closed when the flight has ended; for a follower that has its own way of waiting.
func (fl *Flight) Done() <-chan struct{} { return fl.done }

// Result is what Wait returns, once Done is closed.
func (fl *Flight) Result(sel Selector) (*Entry, Outcome) {
	switch {
	case fl.outcome != Filled:
		return nil, fl.outcome
	case !fl.entry.Selected(sel):
		return nil, Again
	}
	return fl.entry, Filled
}

func (s *flightShard) mark(hash uint64) *mark {
	return &s.marks[hash/flightShards%uint64(len(s.marks))]
}
