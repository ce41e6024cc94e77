package load

import (
	"math/bits"
	"time"
)

// pace is a constant rate of requests per second. Request i is due exactly
// i/rate seconds after the first, whatever happened to those before it, so
// rounding does not add up over a run.
type pace int64

// at is when request i is due, after the first.
func (p pace) at(i int64) time.Duration {
	hi, lo := bits.Mul64(uint64(i), uint64(time.Second))
	q, _ := bits.Div64(hi, lo, uint64(p))
	return time.Duration(q)
}

// due is how many requests are due when elapsed has passed since the first was.
func (p pace) due(elapsed time.Duration) int64 {
	if elapsed < 0 {
		return 0
	}
	// Request i is due when floor(i*second/rate) <= elapsed.
	hi, lo := bits.Mul64(uint64(elapsed)+1, uint64(p))
	q, r := bits.Div64(hi, lo, uint64(time.Second))
	if r > 0 {
		q++
	}
	return int64(q)
}
