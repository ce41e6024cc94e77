package breaker

import (
	"sync/atomic"
	"time"

	"sluice/gateway/stripe"
)

// steps is in how many parts a window moves on.
const steps = 10

// counts are the calls and failures of the last window. Each ring has all the steps and belongs to a core, so that cores
// do not write the same words; each ring is exact, and their sum is what counts.
type counts struct {
	width uint64 // of a step, in nanoseconds
	rings []ring
}

// ring's words are 24 bits of the step's number, 20 of calls, 20 of failures: a step that has passed is recognised
// and replaced by the same operation that counts.
type ring struct {
	words [steps]atomic.Uint64
	_     [128 - steps*8]byte
}

const (
	countBits = 20
	countMask = 1<<countBits - 1
	oneCall   = 1 << countBits
	stepShift = 2 * countBits
	stepMask  = 1<<(64-stepShift) - 1
)

func newCounts(window time.Duration) *counts {
	return &counts{width: max(1, (uint64(window)+steps-1)/steps), rings: make([]ring, stripe.Count())}
}

func (c *counts) add(now int64, failure bool) {
	step := uint64(now) / c.width
	mine := int(stripe.Mine()) & (len(c.rings) - 1)
	word := &c.rings[mine].words[step%steps]
	step &= stepMask
	for {
		old := word.Load()
		next := old
		switch {
		case old>>stepShift != step:
			next = step << stepShift
		case old>>countBits&countMask == countMask: // both by half: what matters is their ratio
			next = step<<stepShift | (old>>countBits&countMask)/2<<countBits | (old&countMask)/2
		}
		next += oneCall
		if failure {
			next++
		}
		if word.CompareAndSwap(old, next) {
			return
		}
	}
}

func (c *counts) reached(now int64, ratio float64, minCalls int) bool {
	last := uint64(now) / c.width
	var calls, failures uint64
	for i := range c.rings {
		for j := range c.rings[i].words {
			w := c.rings[i].words[j].Load()
			if (last-w>>stepShift)&stepMask < steps {
				calls += w >> countBits & countMask
				failures += w & countMask
			}
		}
	}
	return calls >= uint64(minCalls) && float64(failures) >= ratio*float64(calls)
}

func (c *counts) reset() {
	for i := range c.rings {
		for j := range c.rings[i].words {
			c.rings[i].words[j].Store(0)
		}
	}
}
