// Package usage counts who uses what: requests, bytes and latencies of every consumer, tenant, route and version, minute by
// minute. It guarantees that counting waits for nothing but a lock of the request's own core, allocates nothing for who was
// seen before, loses nothing (who is one too many is counted as "other"), and has a bound. It does not know where the
// counts are kept.
package usage

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"sluice/gateway/stripe"
)

// Key is what is counted apart. Nobody's consumer, tenant or version is "".
type Key struct{ Tenant, Consumer, Route, Version string }

// Other is the consumer, or the route, of what is counted together.
const Other = "other"

// Unrouted is the route of requests that no route took.
const Unrouted = "-"

// maxSubject bounds the names of subjects that are counted by themselves.
const maxSubject = 128

// Sample is one request that has ended.
type Sample struct {
	Tenant, Route, Version string
	// Consumer is the name of a configured consumer, Subject of an authenticated caller that is none.
	Consumer string
	Subject  []byte
	Status   int
	// Reason says why the gateway refused the request, "" where it did not. It is one of the gateway's own words.
	Reason            string
	BytesIn, BytesOut int64
	Duration          time.Duration
	// Ended is the wall clock in seconds.
	Ended int64
	// Near mostly differs where the other names do, and is the same where they are: by it a request is found quickly.
	Near uint32
}

// Counts are requests by the first digit of their status (0: any other), and the rest.
type Counts struct {
	Classes           [6]uint64
	Denied            uint64
	BytesIn, BytesOut uint64
}

// Requests is the number of all.
func (c *Counts) Requests() (n uint64) {
	for _, k := range c.Classes {
		n += k
	}
	return n
}

// Add adds other counts.
func (c *Counts) Add(o *Counts) {
	for i := range c.Classes {
		c.Classes[i] += o.Classes[i]
	}
	c.Denied += o.Denied
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
}

// Row is what was counted of a key in a minute since it was collected before.
type Row struct {
	Key
	// Minute is its beginning in Unix seconds.
	Minute int64
	Counts
	// Latency is encoded.
	Latency []byte
}

// Denial is a refusal by the gateway.
type Denial struct{ Route, Reason string }

// Batch is what was collected at once.
type Batch struct {
	Rows   []Row
	Denied map[Denial]uint64
}

// Requests is the number of requests in a batch.
func (b *Batch) Requests() (n uint64) {
	for i := range b.Rows {
		n += b.Rows[i].Requests()
	}
	return n
}

// Counter counts. Count and Collect may be called concurrently.
type Counter struct {
	shards  []shard // a power of two
	most    atomic.Int64
	collect sync.Mutex
}

const (
	// DefaultKeys is how many keys are counted apart, on each core.
	DefaultKeys = 10_000
	maxDenials  = 4096
	// idleRounds is after how many collections without a request a key is forgotten.
	idleRounds = 60
	// together is how many cells are collected under one lock.
	together = 16
	// nearby is how many cells a shard finds without its map, a power of two.
	nearby = 256
	gone   = -1
)

// shard is what one core counts.
type shard struct {
	mu     sync.Mutex
	near   [nearby]*cell // what was counted last, by what is near; a cell that has gone may still be here
	cells  map[Key]*cell
	list   []*cell // the same
	full   *cell   // of minutes that are over, to be collected
	free   *cell
	spare  int // in free
	denied map[Denial]uint64
	_      [64]byte
}

type cell struct {
	minute int64
	place  int // in the list; gone where it is in none
	key    Key
	counts Counts
	dirty  bool
	idle   int
	took   [buckets]uint32
	next   *cell
}

// NewCounter returns a Counter of DefaultKeys keys.
func NewCounter() *Counter {
	c := &Counter{shards: make([]shard, stripe.Count())}
	for i := range c.shards {
		c.shards[i].cells, c.shards[i].denied = make(map[Key]*cell), make(map[Denial]uint64)
	}
	c.most.Store(DefaultKeys)
	return c
}

// Limit changes how many keys are counted apart on each core.
func (c *Counter) Limit(keys int) { c.most.Store(int64(keys)) }

// Count counts a request.
func (c *Counter) Count(s *Sample) {
	sh := &c.shards[int(stripe.Mine())&(len(c.shards)-1)]
	minute := s.Ended - s.Ended%60
	near := &sh.near[s.near()%nearby]
	sh.mu.Lock()
	x := *near
	if x == nil || x.minute != minute || !x.is(s) {
		x = sh.find(s, int(c.most.Load()), minute)
		*near = x
	}
	class := uint(s.Status) / 100
	if class >= uint(len(x.counts.Classes)) {
		class = 0
	}
	x.counts.Classes[class]++
	x.counts.BytesIn += uint64(max(0, s.BytesIn))
	x.counts.BytesOut += uint64(max(0, s.BytesOut))
	x.took[bucketOf(s.Duration)]++
	x.dirty = true
	if s.Reason != "" {
		x.counts.Denied++
		sh.deny(Denial{s.Route, s.Reason})
	}
	sh.mu.Unlock()
}

// near tells subjects apart too, by their ends.
func (s *Sample) near() uint32 {
	if len(s.Subject) < 8 {
		return s.Near
	}
	end := binary.LittleEndian.Uint64(s.Subject[len(s.Subject)-8:])
	return s.Near + uint32(end*0x9e3779b97f4a7c15>>32)
}

// is tells whether a request is counted in x.
func (x *cell) is(s *Sample) bool {
	if x.place == gone || !same(x.key.Route, s.Route) || !same(x.key.Tenant, s.Tenant) || !same(x.key.Version, s.Version) {
		return false
	}
	if s.Consumer != "" || len(s.Subject) == 0 {
		return same(x.key.Consumer, s.Consumer)
	}
	n := len(x.key.Consumer) - len(subject)
	return n == len(s.Subject) && x.key.Consumer[:len(subject)] == subject && x.key.Consumer[len(subject):] == string(s.Subject)
}

// same is a == b, which nearly always are the same string of the configuration.
func same(a, b string) bool {
	return len(a) == len(b) && (unsafe.StringData(a) == unsafe.StringData(b) || a == b)
}

// subject is before the name of who is no consumer.
const subject = "subject:"

// deny counts a refusal.
func (sh *shard) deny(d Denial) {
	if _, known := sh.denied[d]; !known && len(sh.denied) >= maxDenials {
		d = Denial{Other, Other}
	}
	sh.denied[d]++
}

// find returns the cell of a request, in which its minute is counted. The shard's mu is held.
func (sh *shard) find(s *Sample, most int, minute int64) *cell {
	var x *cell
	var buf [len(subject) + maxSubject]byte
	name := buf[:0]
	switch {
	case s.Consumer != "" || len(s.Subject) == 0:
		x = sh.cells[Key{s.Tenant, s.Consumer, s.Route, s.Version}]
	case len(s.Subject) <= maxSubject:
		name = append(append(name, subject...), s.Subject...)
		x = sh.cells[Key{s.Tenant, string(name), s.Route, s.Version}]
	default:
		name = append(name, Other...)
		x = sh.cells[Key{s.Tenant, string(name), s.Route, s.Version}]
	}
	if x == nil {
		consumer := s.Consumer
		if len(name) > 0 {
			consumer = string(name)
		}
		x = sh.insert(Key{s.Tenant, consumer, s.Route, s.Version}, most)
	}
	if x.minute == minute {
		return x
	}
	if x.dirty {
		// The minute is over: the cell waits to be collected, and another one takes its place.
		next := sh.take()
		next.key, next.place, next.idle = x.key, x.place, 0
		sh.cells[x.key], sh.list[x.place] = next, next
		x.place, x.next, sh.full = gone, sh.full, x
		x = next
	}
	x.minute = minute
	return x
}

// insert makes a cell. Where there are too many the request is one of others.
func (sh *shard) insert(k Key, most int) *cell {
	if len(sh.cells) >= most {
		k.Consumer = Other
		if x := sh.cells[k]; x != nil {
			return x
		}
		if len(sh.cells) >= 2*most {
			k = Key{Consumer: Other, Route: Other}
			if x := sh.cells[k]; x != nil {
				return x
			}
		}
	}
	x := sh.take()
	x.key, x.place, x.idle = k, len(sh.list), 0
	sh.cells[k] = x
	sh.list = append(sh.list, x)
	return x
}

func (sh *shard) take() *cell {
	x := sh.free
	if x == nil {
		return new(cell)
	}
	sh.free, x.next = x.next, nil
	sh.spare--
	return x
}

// reset makes a cell one that was never used, but for its key.
func (x *cell) reset() {
	x.counts, x.took, x.dirty = Counts{}, [buckets]uint32{}, false
}

// Collect takes what was counted since it was called before.
func (c *Counter) Collect() *Batch {
	c.collect.Lock()
	defer c.collect.Unlock()
	b := &Batch{Denied: make(map[Denial]uint64)}
	rows := make(map[rowKey]int)
	for i := range c.shards {
		c.shards[i].collect(b, rows)
	}
	return b
}

type rowKey struct {
	Key
	minute int64
}

func (b *Batch) add(rows map[rowKey]int, x *cell) {
	k := rowKey{x.key, x.minute}
	took := encode(x.took[:])
	i, known := rows[k]
	if !known {
		rows[k] = len(b.Rows)
		b.Rows = append(b.Rows, Row{Key: x.key, Minute: x.minute, Counts: x.counts, Latency: took})
		return
	}
	r := &b.Rows[i]
	r.Add(&x.counts)
	var err error
	if r.Latency, err = MergeEncoded(r.Latency, took); err != nil {
		panic("BUG: " + err.Error())
	}
}

func (sh *shard) collect(b *Batch, rows map[rowKey]int) {
	sh.mu.Lock()
	full := sh.full
	sh.full = nil
	sh.mu.Unlock()
	var last *cell
	n := 0
	for x := full; x != nil; x = x.next {
		b.add(rows, x)
		x.reset()
		last = x
		n++
	}
	sh.mu.Lock()
	if last != nil && sh.spare < len(sh.list) {
		last.next, sh.free = sh.free, full
		sh.spare += n
	}
	for d, n := range sh.denied {
		if n > 0 {
			b.Denied[d] += n
			sh.denied[d] = 0
		}
	}
	sh.mu.Unlock()
	for i := 0; ; {
		sh.mu.Lock()
		for range together {
			if i >= len(sh.list) {
				sh.mu.Unlock()
				return
			}
			x := sh.list[i]
			switch {
			case x.dirty:
				b.add(rows, x)
				x.reset()
				x.idle = 0
			case x.idle < idleRounds:
				x.idle++
			default:
				delete(sh.cells, x.key)
				x.place = gone
				last := len(sh.list) - 1
				if i < last {
					sh.list[i] = sh.list[last]
					sh.list[i].place = i
				}
				sh.list[last] = nil
				sh.list = sh.list[:last]
				continue
			}
			i++
		}
		sh.mu.Unlock()
	}
}
