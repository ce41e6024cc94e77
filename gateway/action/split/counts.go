package split

import (
	"math/bits"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/stripe"
)

// counts are what a rollout compares: the requests of its service and of the others, as they ended. Each core writes cells
// of its own; who reads adds them up.
type counts struct {
	cells []cell // a power of two
}

// cell is one core's part of both sides.
type cell struct {
	sides [2]sideCount
	_     [64]byte
}

type sideCount struct {
	failures atomic.Uint64
	// by latency until the response head, of requests that did not fail
	latency [latencyBuckets]atomic.Uint64
}

const (
	others = 0 // the services beside the rollout's
	canary = 1
)

// The buckets of latency are eighths of powers of two from 64 µs, so that a bound is at most an eighth away from the next.
const (
	latencyShift   = 16 // 65.5 µs
	octaves        = 21 // up to 137 s
	latencyBuckets = 8*octaves + 1
)

func newCounts() *counts { return &counts{cells: make([]cell, stripe.Count())} }

func (c *counts) side(ofCanary bool) *sideCount {
	side := others
	if ofCanary {
		side = canary
	}
	return &c.cells[stripe.Mine()&uint32(len(c.cells)-1)].sides[side]
}

// failed counts a request that could not be sent.
func (c *counts) failed(ofCanary bool) { c.side(ofCanary).failures.Add(1) }

// observe counts how a request ended: a status of 500 and above is a failure, also the gateway's own for a service that did
// not answer. What the client is to blame for says nothing about the service.
func (c *counts) observe(x *exchange.Exchange, ofCanary bool, err error) {
	status := 0
	if err == nil {
		status = x.Response.StatusCode()
	} else if r, ok := err.(*exchange.Reject); ok {
		if status = r.Status; status < 500 {
			return
		}
	}
	if x.Aborted.Load() {
		return
	}
	side := c.side(ofCanary)
	if status >= 500 {
		side.failures.Add(1)
		return
	}
	side.latency[bucketOf(x.UpstreamTime)].Add(1)
}

func bucketOf(ns int64) int {
	if ns < 1<<latencyShift {
		return 0
	}
	top := bits.Len64(uint64(ns)) - 1
	i := (top-latencyShift)*8 + int(ns>>(top-3)&7) + 1
	return min(i, latencyBuckets-1)
}

// bound is the upper end of a bucket.
func bound(i int) time.Duration {
	if i == 0 {
		return 1 << latencyShift
	}
	octave, eighth := (i-1)/8, int64((i-1)%8)
	return time.Duration((8 + eighth + 1) << (octave + latencyShift - 3))
}

// reading is the sum of all that was counted on one side.
type reading struct {
	failures uint64
	latency  [latencyBuckets]uint64
}

func (c *counts) read(side int) (r reading) {
	for i := range c.cells {
		s := &c.cells[i].sides[side]
		r.failures += s.failures.Load()
		for b := range s.latency {
			r.latency[b] += s.latency[b].Load()
		}
	}
	return r
}

// figures are what a side did within a window.
type figures struct {
	requests, failures uint64
	p95                time.Duration // 0 without requests that did not fail
}

func (f *figures) errorRatio() float64 {
	if f.requests == 0 {
		return 0
	}
	return float64(f.failures) / float64(f.requests)
}

// since returns what was counted between two readings.
func (r *reading) since(before *reading) figures {
	f := figures{failures: r.failures - before.failures}
	served := uint64(0)
	for i := range r.latency {
		served += r.latency[i] - before.latency[i]
	}
	f.requests = served + f.failures
	rank := 0.95 * float64(served)
	below := 0.0
	for i := range r.latency {
		in := float64(r.latency[i] - before.latency[i])
		if in > 0 && below+in >= rank {
			lower := time.Duration(0)
			if i > 0 {
				lower = bound(i - 1)
			}
			f.p95 = lower + time.Duration(float64(bound(i)-lower)*max(0, rank-below)/in)
			break
		}
		below += in
	}
	return f
}
