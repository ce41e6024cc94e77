// Package lifetime keeps state alive across configurations: limiters, breakers, connection pools, cache stores and
// sockets belong to an identity that a change of configuration leaves alone, and not to the configuration.
//
// It guarantees that one key has at most one living value at a time, that everyone who acquires the key gets that one,
// and that it is closed exactly once, after its last lease. A new generation acquires before the old one releases, so
// what both want survives:
//
//	next := new(lifetime.Set)
//	b, err := lifetime.Hold(next, breakers, key, makeBreaker) // the one that the old generation holds
//	…                                                         // on an error: next.Close()
//	publish(next generation); previous.Close()
package lifetime

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed is returned for a Pool or Set that was closed.
var ErrClosed = errors.New("lifetime: closed")

// Options of a Pool.
type Options[K comparable] struct {
	// Grace is how long a value without leases lives on, for a generation that wants it back or an exchange that
	// still uses it; 0: not at all.
	Grace time.Duration
	// OnClose, which may be nil, is called after a value was closed, with the error of its Close.
	OnClose func(key K, err error)
}

// Pool holds the living values of one type. Its size is the number of keys that are leased or in their grace time;
// keys come from configuration, never from a client. All methods may be called concurrently.
type Pool[K comparable, V any] struct {
	grace   time.Duration
	onClose func(K, error)

	mu      sync.Mutex
	entries map[K]*entry[K, V]
	closed  bool
}

// entry is one value from its making to the end of its closing. All but value and err, which are written before made
// is closed, is guarded by the pool's mu.
type entry[K comparable, V any] struct {
	key   K
	value V
	err   error
	made  chan struct{}
	gone  chan struct{} // not nil: is being closed; closed afterwards
	refs  int
	grace *time.Timer // not nil: runs, since there are no leases
	idle  int         // how often it had none: tells a late timer that it is no longer the one
}

// NewPool makes an empty Pool.
func NewPool[K comparable, V any](o Options[K]) *Pool[K, V] {
	return &Pool[K, V]{grace: o.Grace, onClose: o.OnClose, entries: map[K]*entry[K, V]{}}
}

// Acquire leases the living value of key, and makes it if there is none. Callers that want the same key wait while it is
// made or its predecessor is being closed; other keys are not held up. An error of makeValue goes to all that waited
// and leaves nothing behind. makeValue may acquire other keys, and never its own.
func (p *Pool[K, V]) Acquire(key K, makeValue func() (V, error)) (*Lease[V], error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, ErrClosed
		}
		e := p.entries[key]
		if e == nil {
			e = &entry[K, V]{key: key, refs: 1, made: make(chan struct{})}
			p.entries[key] = e
			p.mu.Unlock()
			return p.build(e, makeValue)
		}
		if gone := e.gone; gone != nil {
			p.mu.Unlock()
			<-gone
			continue
		}
		e.refs++
		if e.grace != nil {
			e.grace.Stop()
			e.grace = nil
		}
		p.mu.Unlock()
		<-e.made
		return p.lease(e)
	}
}

func (p *Pool[K, V]) build(e *entry[K, V], makeValue func() (V, error)) (*Lease[V], error) {
	e.err = errors.New("lifetime: making the value panicked") // unless it returns
	defer func() {
		if e.err != nil {
			p.mu.Lock()
			delete(p.entries, e.key)
			p.mu.Unlock()
		}
		close(e.made)
	}()
	e.value, e.err = makeValue()
	return p.lease(e)
}

func (p *Pool[K, V]) lease(e *entry[K, V]) (*Lease[V], error) {
	if e.err != nil {
		return nil, e.err
	}
	return &Lease[V]{value: e.value, release: func() { p.release(e) }}, nil
}

func (p *Pool[K, V]) release(e *entry[K, V]) {
	p.mu.Lock()
	e.refs--
	switch {
	case e.refs > 0:
	case p.grace > 0 && !p.closed:
		e.idle++
		idle := e.idle
		e.grace = time.AfterFunc(p.grace, func() { p.expire(e, idle) })
	default:
		p.closeAndUnlock(e)
		return
	}
	p.mu.Unlock()
}

func (p *Pool[K, V]) expire(e *entry[K, V], idle int) {
	p.mu.Lock()
	if e.grace == nil || e.idle != idle {
		p.mu.Unlock()
		return
	}
	p.closeAndUnlock(e)
}

// closeAndUnlock closes a value without leases. Its key stays taken until that is done: a socket or a file can not be
// opened again before.
func (p *Pool[K, V]) closeAndUnlock(e *entry[K, V]) {
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
	e.gone = make(chan struct{})
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.entries, e.key)
		p.mu.Unlock()
		close(e.gone)
	}()
	err := closeValue(e.value)
	if p.onClose != nil {
		p.onClose(e.key, err)
	}
}

func closeValue(v any) error {
	switch c := v.(type) {
	case io.Closer:
		return c.Close()
	case interface{ Close() }:
		c.Close()
	}
	return nil
}

// Len is the number of values, those in their grace time included.
func (p *Pool[K, V]) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries)
}

// Range calls f for every living value with its number of leases, in no order, until f returns false. f is called
// without a lock held; a value that nobody leases may be closed meanwhile.
func (p *Pool[K, V]) Range(f func(key K, value V, leases int) bool) {
	type seen struct {
		*entry[K, V]
		leases int
	}
	p.mu.Lock()
	all := make([]seen, 0, len(p.entries))
	for _, e := range p.entries {
		select {
		case <-e.made:
			if e.gone == nil {
				all = append(all, seen{e, e.refs})
			}
		default:
		}
	}
	p.mu.Unlock()
	for _, s := range all {
		if s.err == nil && !f(s.key, s.value, s.leases) {
			return
		}
	}
}

// Close ends all grace times and closes what nobody leases, one after the other. What is leased is closed by its last
// release, at once. Acquire fails from now on.
func (p *Pool[K, V]) Close() {
	p.mu.Lock()
	p.closed = true
	var idle []*entry[K, V]
	for _, e := range p.entries {
		if e.grace != nil {
			idle = append(idle, e)
		}
	}
	p.mu.Unlock()
	for _, e := range idle {
		p.mu.Lock()
		if e.grace == nil { // its time was over just now
			p.mu.Unlock()
			continue
		}
		p.closeAndUnlock(e)
	}
}

// Lease is a claim on a value.
type Lease[V any] struct {
	value    V
	release  func()
	released atomic.Bool
}

// Value is what was leased. It stays the same after Release, but may then be closed.
func (l *Lease[V]) Value() V { return l.value }

// Release gives the claim up; the last one closes the value, before it returns unless there is a grace time. A lease
// counts once: further calls do nothing.
func (l *Lease[V]) Release() {
	if l.released.CompareAndSwap(false, true) {
		l.release()
	}
}

// Set collects the leases of one generation. The zero Set is empty and ready. All methods may be called concurrently.
type Set struct {
	mu       sync.Mutex
	releases []func()
	closed   bool
}

// Hold acquires key from p for as long as s is open.
func Hold[K comparable, V any](s *Set, p *Pool[K, V], key K, makeValue func() (V, error)) (V, error) {
	var none V
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed { // else a value might be made only to be closed
		return none, ErrClosed
	}
	l, err := p.Acquire(key, makeValue)
	if err != nil {
		return none, err
	}
	if !s.Add(l.Release) {
		return none, ErrClosed
	}
	return l.Value(), nil
}

// Add makes release part of Close. If s is closed already, it is called at once and the result is false.
func (s *Set) Add(release func()) bool {
	s.mu.Lock()
	if !s.closed {
		s.releases = append(s.releases, release)
		s.mu.Unlock()
		return true
	}
	s.mu.Unlock()
	release()
	return false
}

// Len is the number of leases.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.releases)
}

// Close releases everything, the latest first, since it may stand on what came before. Further calls do nothing.
func (s *Set) Close() {
	s.mu.Lock()
	releases := s.releases
	s.releases, s.closed = nil, true
	s.mu.Unlock()
	for i := len(releases) - 1; i >= 0; i-- {
		releases[i]()
	}
}
