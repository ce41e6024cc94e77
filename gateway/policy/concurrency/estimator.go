package concurrency

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// An estimator finds how many requests the backends take at a time without queueing them, from how long they take to answer: as
// long as that is about the time they need when they are not busy the bound grows, and it shrinks by as much as they are slower.
//
// The time is looked at in windows of at least windowTime and windowAnswers, which begin when a change of the bound has had time to
// show. What the backends need when they are not busy is measured by probing: for one window the bound is halved, which lets what
// is queued run dry. It may change, so it is probed for again: after a second at first, and each time later by twice as much,
// up to probeMost; from the start again when the result differs.
//
// Its bounds are read without a lock; a sample that finds the lock taken is dropped, since there will be others.
type estimator struct {
	// What may be in flight: bound for requests of normal priority and below, full for those of high priority, whom a probe leaves alone. 0: nothing is known yet.
	bound, full atomic.Uint32

	mu      sync.Mutex
	limit   float64 // outside a probe
	base    float64 // nanoseconds of an answer when backends are not busy; 0: not known
	probing bool
	began   int64   // of the window; may lie ahead
	sum     float64 // of what answers took
	count   int
	others  int    // requests that ended without asking a backend
	peak    uint32 // the most that was in flight
	probeAt int64
	pause   int64 // until the next probe
}

const (
	windowTime    = int64(100 * time.Millisecond)
	windowAnswers = 40
	// settle is how long a change of the bound takes to show, in times of an answer, and no longer than settleMost.
	settle     = 2
	settleMost = int64(5 * time.Second)

	probeFirst = int64(time.Second)
	probeMost  = int64(32 * time.Second)

	startLimit = 16
	// tolerance is by how much answers may be slower than when backends are not busy, before the bound shrinks.
	tolerance = 1.25
	// clip bounds what one answer can add to a mean: so many times the time of an answer when backends are not busy.
	clip = 10
)

// bounds returns what may be in flight, by priority.
func (e *estimator) bounds(least, most uint32) (full, normal uint32) {
	full, normal = e.full.Load(), e.bound.Load()
	if normal == 0 {
		full = startLimit
		normal = full
	}
	return min(max(full, least), most), min(max(normal, least), most)
}

// sample takes in that a request has ended at now: took is how long the backend took to answer, 0 if none was asked. inFlight
// includes it. least and most are what the bound must stay between.
func (e *estimator) sample(now, took int64, inFlight, least, most uint32) {
	if !e.mu.TryLock() {
		return
	}
	defer e.mu.Unlock()
	if e.began == 0 {
		e.began, e.limit = now, float64(min(max(startLimit, least), most))
		e.pause, e.probeAt = probeFirst, now+probeFirst
	}
	if now < e.began {
		return
	}
	e.peak = max(e.peak, inFlight)
	if took > 0 {
		ns := float64(took)
		if e.base > 0 {
			ns = min(ns, clip*e.base)
		}
		e.sum += ns
		e.count++
	} else {
		e.others++
	}
	if now-e.began >= windowTime && (e.count >= windowAnswers || e.count == 0 && e.others >= windowAnswers) {
		e.endWindow(now, float64(least), float64(most))
	}
}

// endWindow draws the conclusion from a window and begins the next.
func (e *estimator) endWindow(now int64, least, most float64) {
	mean := 0.0
	if e.count > 0 {
		mean = e.sum / float64(e.count)
	}
	used := float64(e.peak)
	e.sum, e.count, e.others, e.peak = 0, 0, 0, 0
	e.began = now + min(int64(settle*mean), settleMost)
	gradient := tolerance
	switch {
	case mean == 0: // backends are not asked, so nothing queues
	case e.base == 0:
		e.base = mean
	case e.probing:
		if mean > 1.2*e.base || mean < e.base/1.2 {
			e.pause = probeFirst
		} else {
			e.pause = min(2*e.pause, probeMost)
		}
		e.base, e.probeAt = (e.base+mean)/2, now+e.pause
	default:
		if mean < e.base {
			e.base += (mean - e.base) / 8 // no more: a few quick answers are chance
		}
		gradient = min(max(tolerance*e.base/mean, 0.5), tolerance)
	}
	if e.probing {
		e.probing = false
	} else {
		next := gradient*e.limit + math.Sqrt(e.limit)
		// A bound that is not used says nothing about what lies beyond it.
		if next < e.limit || used >= e.limit/2 {
			e.limit = next
		}
		// At the lowest bound all answers seem slow: perhaps they are, now.
		e.probing = e.base > 0 && (now >= e.probeAt || e.limit <= least && gradient < 1)
	}
	e.limit = min(max(e.limit, least), most)
	bound := e.limit
	if e.probing {
		bound = max(e.limit/2, least)
	}
	e.full.Store(uint32(e.limit))
	e.bound.Store(uint32(bound))
}
