package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsAreContiguous(t *testing.T) {
	for i := range buckets {
		if got := bucket(lowest(i)); got != i {
			t.Fatalf("the lowest value of bucket %d counts in %d", i, got)
		}
		if got := bucket(lowest(i+1) - 1); got != i {
			t.Fatalf("the highest value of bucket %d counts in %d", i, got)
		}
	}
	f := func(d time.Duration, want int) {
		t.Helper()
		if got := bucket(d); got != want {
			t.Errorf("bucket(%d) = %d, want %d", d, got, want)
		}
	}
	f(-1, 0)
	f(0, 0)
	f(255, 255)
	f(256, 256)
	f(257, 256)
	f(math.MaxInt64, buckets-1)
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	f := func(q float64, want time.Duration) {
		t.Helper()
		got := h.Quantile(q)
		if diff := math.Abs(float64(got - want)); diff > 0.008*float64(want) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	f(0.5, 0)
	for i := 1; i <= 1000; i++ {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	f(0, time.Microsecond)
	f(0.5, 500*time.Microsecond)
	f(0.99, 990*time.Microsecond)
	f(0.999, 999*time.Microsecond)
	f(1, time.Millisecond)
	if h.Max() != time.Millisecond || h.Count() != 1000 {
		t.Errorf("max %v, count %d", h.Max(), h.Count())
	}
	if q := h.Quantile(1); q > h.Max() {
		t.Errorf("a quantile of %v is above the maximum", q)
	}
}

func TestQuantilesOfAnyDistribution(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var a, b Histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(math.Exp(r.Float64() * 25))
		all = append(all, d)
		if i%2 == 0 {
			a.Record(d)
		} else {
			b.Record(d)
		}
	}
	a.Merge(&b)
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		got := a.Quantile(q)
		if math.Abs(float64(got-want)) > 0.008*float64(want)+1 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
}
