package load

import (
	"math/bits"
	"time"
)

const (
	subBits = 7 // 128 buckets for each power of two: a value is known to 0.8%
	maxBits = 40
	buckets = (maxBits - subBits + 1) << subBits
)

// Histogram counts durations in log-linear buckets, exact below 128 ns and
// within 0.8% above, up to 18 minutes; longer ones count as that. The zero
// value is ready. It is not for concurrent use.
type Histogram struct {
	counts [buckets]int64
	n      int64
	max    time.Duration
}

// bucket is where a duration counts; bucket and lowest are each other's inverse
// at the lower bounds.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	v = min(v, 1<<maxBits-1)
	shift := max(bits.Len64(v)-subBits-1, 0)
	return shift<<subBits + int(v>>shift)
}

// lowest is the smallest duration of a bucket.
func lowest(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	return time.Duration(i-shift<<subBits) << shift
}

// Record counts one duration; a negative one counts as 0.
func (h *Histogram) Record(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
	h.max = max(h.max, d)
}

// Count is how many durations were recorded.
func (h *Histogram) Count() int64 { return h.n }

// Max is the longest recorded duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Merge adds what other has recorded.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

// Quantile is the duration that a share q of the recorded ones, of 0 to 1, do
// not exceed: the middle of its bucket, and never more than Max. It is 0 when
// nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := int64(q * float64(h.n))
	if float64(rank) < q*float64(h.n) {
		rank++
	}
	rank = min(max(rank, 1), h.n)
	for i, n := range h.counts {
		if rank -= n; rank <= 0 {
			return min((lowest(i)+lowest(i+1))/2, h.max)
		}
	}
	return h.max
}
