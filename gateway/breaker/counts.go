package breaker

import (
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

// steps is in how many parts a window moves on.
const steps = 10

// counts are the calls and failures of the last window. Each stripe is a ring of steps, and callers choose a stripe at
// random, so that cores seldom write the same word at the same time; each stripe is exact, and their sum is what counts.
type counts struct {
	width   uint64 // of a step, in nanoseconds
	stripes []stripe
}

// stripe's words are 24 bits of the step's number, 20 of calls, 20 of failures: a step that has passed is recognised
// and replaced by the same operation that counts.
type stripe struct {
	ring [steps]atomic.Uint64
	_    [128 - steps*8]byte
}

const (
	countBits = 20
	countMask = 1<<countBits - 1
	oneCall   = 1 << countBits
	stepShift = 2 * countBits
	stepMask  = 1<<(64-stepShift) - 1
)

func newCounts(window time.Duration) *counts {
	n := min(8, 1<<bits.Len(uint(runtime.GOMAXPROCS(0)-1))) // a power of two
	return &counts{width: max(1, (uint64(window)+steps-1)/steps), stripes: make([]stripe, n)}
}

func (c *counts) add(now int64, failure bool) {
	step := uint64(now) / c.width
	s := &c.stripes[0]
	if n := uint32(len(c.stripes)); n > 1 {
		s = &c.stripes[rand.Uint32()&(n-1)]
	}
	word := &s.ring[step%steps]
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
	for i := range c.stripes {
		for j := range c.stripes[i].ring {
			w := c.stripes[i].ring[j].Load()
			if (last-w>>stepShift)&stepMask < steps {
				calls += w >> countBits & countMask
				failures += w & countMask
			}
		}
	}
	return calls >= uint64(minCalls) && float64(failures) >= ratio*float64(calls)
}

func (c *counts) reset() {
	for i := range c.stripes {
		for j := range c.stripes[i].ring {
			c.stripes[i].ring[j].Store(0)
		}
	}
}
