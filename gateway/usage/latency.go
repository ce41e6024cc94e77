package usage

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"time"
)

// Durations are counted in buckets, eight to each power of two of microseconds: a quantile is right to a sixteenth. Those of
// 134 s and more are in the last.
const (
	octaves = 24
	buckets = 8 + 8*octaves
)

// bucketOf is the bucket of a duration.
func bucketOf(d time.Duration) int {
	us := uint64(max(0, d.Microseconds()))
	if us < 8 {
		return int(us)
	}
	e := bits.Len64(us) - 4 // how far the three bits behind the first are from the end
	if e >= octaves {
		return buckets - 1
	}
	return 8 + 8*e + int(us>>e&7)
}

// middle is the duration that stands for a bucket.
func middle(bucket int) time.Duration {
	if bucket < 8 {
		return time.Duration(bucket) * time.Microsecond
	}
	e, rest := (bucket-8)/8, (bucket-8)%8
	low, width := uint64(8+rest)<<e, uint64(1)<<e
	return time.Duration(low)*time.Microsecond + time.Duration(width)*time.Microsecond/2
}

// Latency is how long requests took.
type Latency [buckets]uint64

// Quantile returns the duration that a share q of the requests did not exceed, 0 without any.
func (l *Latency) Quantile(q float64) time.Duration {
	var total uint64
	for _, n := range l {
		total += n
	}
	if total == 0 {
		return 0
	}
	rank := max(1, uint64(q*float64(total)+0.999999))
	for i, n := range l {
		if n >= rank {
			return middle(i)
		}
		rank -= n
	}
	return middle(buckets - 1)
}

// Merge adds what Encode has made.
func (l *Latency) Merge(encoded []byte) error {
	at := -1
	for len(encoded) > 0 {
		step, n := binary.Uvarint(encoded)
		count, m := binary.Uvarint(encoded[max(n, 0):])
		if n <= 0 || m <= 0 || step == 0 || step > buckets || at+int(step) >= buckets {
			return errors.New("is no record of latencies")
		}
		at += int(step)
		l[at] += count
		encoded = encoded[n+m:]
	}
	return nil
}

// Encode gives the buckets that are not empty, each with its distance from the one before.
func (l *Latency) Encode() []byte { return encode(l[:]) }

func encode[N uint32 | uint64](counts []N) []byte {
	var b []byte
	last := -1
	for i, n := range counts {
		if n > 0 {
			b = binary.AppendUvarint(b, uint64(i-last))
			b = binary.AppendUvarint(b, uint64(n))
			last = i
		}
	}
	return b
}

// MergeEncoded is Encode of the sum of two encoded ones.
func MergeEncoded(a, b []byte) ([]byte, error) {
	if len(a) == 0 {
		return b, nil
	}
	if len(b) == 0 {
		return a, nil
	}
	var l Latency
	if err := l.Merge(a); err != nil {
		return nil, err
	}
	if err := l.Merge(b); err != nil {
		return nil, err
	}
	return l.Encode(), nil
}
