package idempotency

import (
	"container/heap"
	"sync"

	"sluice/gateway/exchange"
)

// Store knows what has become of keys. All methods may be called concurrently. A store that several gateways share has to do Begin
// in one step for all of them, and to end a claim by itself whose gateway is gone.
type Store interface {
	// Begin claims a key for a request, or says what has become of it. Whoever is given a claim settles it with Complete or
	// Release. maxSize bounds what the store may hold, in bytes.
	Begin(key Key, fingerprint Fingerprint, now, maxSize int64) Finding
	// Complete records the answer until expires. With no answer, or no room for it, the key stays used without one.
	Complete(c Claim, a *Answer, now, expires, maxSize int64)
	// Release makes the key free again.
	Release(c Claim)
}

// Claim is the right to settle a key.
type Claim struct {
	key         Key
	fingerprint Fingerprint
	number      uint64 // 0: no claim
	shared      string // the claim's name in the store that instances share, "" for one of this instance alone
}

// Outcome is what Begin found.
type Outcome uint8

// The outcomes.
const (
	// Claimed: the key is new; the request is to be carried out.
	Claimed Outcome = iota
	// InFlight: the first request with the key is being carried out.
	InFlight
	// Answered: here is the answer.
	Answered
	// Lost: the request was carried out, and there is no answer.
	Lost
	// Reused: the key belongs to another request.
	Reused
	// Full: there is no room for another key.
	Full
	// Unguarded: nobody can be asked, and the request is to be carried out all the same.
	Unguarded
	// Unavailable: nobody can be asked, and the request is not to be carried out.
	Unavailable
)

// Finding is what Begin found.
type Finding struct {
	Outcome Outcome
	// Claim is the caller's, if it is Claimed.
	Claim Claim
	// Answer is there if it is Answered.
	Answer *Answer
	// Settled is closed once the key is settled, if it is InFlight; then Begin again. Where the store can not tell it is nil.
	Settled <-chan struct{}
	// FreeIn is when there is room again at the latest, in nanoseconds, if it is Full.
	FreeIn int64
}

// Answer is an answer as it is repeated.
type Answer struct {
	Reply *exchange.Reply
	// Size is what it takes, in bytes, about.
	Size int64
}

// recordSize is what a key takes without an answer, in bytes, about.
const recordSize = 320

// Memory is the Store of one gateway. It forgets nothing before its time.
type Memory struct {
	shared *shared

	mu      sync.Mutex
	records map[Key]*record
	settled expiries // those that are not in flight, the next to expire first
	size    int64
	last    uint64 // number of the last claim
}

type record struct {
	key         Key
	fingerprint Fingerprint
	claim       uint64 // 0 once it is settled
	expires     int64  // of one that is settled
	answer      *Answer
	waited      chan struct{} // made for the first that waits
}

func newMemory(s *shared) *Memory {
	m := &Memory{shared: s, records: make(map[Key]*record)}
	s.mu.Lock()
	s.all[m] = struct{}{}
	s.mu.Unlock()
	return m
}

// Close implements io.Closer. Exchanges that still use the store may go on.
func (m *Memory) Close() error {
	m.shared.mu.Lock()
	delete(m.shared.all, m)
	m.shared.mu.Unlock()
	return nil
}

// Begin implements Store.
func (m *Memory) Begin(key Key, fingerprint Fingerprint, now, maxSize int64) Finding {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
	if r := m.records[key]; r != nil {
		return r.find(fingerprint)
	}
	if m.size+recordSize > maxSize {
		f := Finding{Outcome: Full}
		if len(m.settled) > 0 {
			f.FreeIn = m.settled[0].expires - now
		}
		return f
	}
	m.last++
	m.records[key] = &record{key: key, fingerprint: fingerprint, claim: m.last}
	m.size += recordSize
	return Finding{Outcome: Claimed, Claim: Claim{key: key, fingerprint: fingerprint, number: m.last}}
}

// Has reports whether the key is known.
func (m *Memory) Has(key Key, now int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire(now)
	return m.records[key] != nil
}

func (r *record) find(fingerprint Fingerprint) Finding {
	switch {
	case r.fingerprint != fingerprint:
		return Finding{Outcome: Reused}
	case r.claim != 0:
		if r.waited == nil {
			r.waited = make(chan struct{})
		}
		return Finding{Outcome: InFlight, Settled: r.waited}
	case r.answer != nil:
		return Finding{Outcome: Answered, Answer: r.answer}
	}
	return Finding{Outcome: Lost}
}

// Complete implements Store.
func (m *Memory) Complete(c Claim, a *Answer, now, expires, maxSize int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.settle(c)
	if r == nil {
		return
	}
	m.expire(now)
	if a != nil && m.size+a.Size <= maxSize {
		r.answer = a
		m.size += a.Size
	}
	r.expires = expires
	heap.Push(&m.settled, r)
}

// Release implements Store.
func (m *Memory) Release(c Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.settle(c); r != nil {
		delete(m.records, r.key)
		m.size -= recordSize
	}
}

// settle ends a claim and lets those who wait know. It returns nil for a claim that was ended.
func (m *Memory) settle(c Claim) *record {
	r := m.records[c.key]
	if r == nil || c.number == 0 || r.claim != c.number {
		return nil
	}
	r.claim = 0
	if r.waited != nil {
		close(r.waited)
		r.waited = nil
	}
	return r
}

// expire forgets what has had its time.
func (m *Memory) expire(now int64) (n int) {
	for ; len(m.settled) > 0 && m.settled[0].expires <= now; n++ {
		r := heap.Pop(&m.settled).(*record)
		delete(m.records, r.key)
		m.size -= recordSize
		if r.answer != nil {
			m.size -= r.answer.Size
		}
	}
	return n
}

// Sweep forgets what has had its time, so that memory is free also while nobody asks.
func (m *Memory) Sweep(now int64) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expire(now)
}

// Bytes is what is held, about.
func (m *Memory) Bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

// Len is the number of keys.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// expiries is a heap.Interface.
type expiries []*record

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].expires < e[j].expires }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(r any)        { *e = append(*e, r.(*record)) }
func (e *expiries) Pop() any {
	old := *e
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*e = old[:len(old)-1]
	return r
}
