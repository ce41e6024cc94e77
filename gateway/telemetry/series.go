package telemetry

import (
	"math/bits"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"sluice/gateway/stripe"
)

// metric is what a series holds.
type metric interface {
	// appendTo appends the sample lines of the series: name is the family's, labels its rendered pairs without braces.
	appendTo(dst []byte, name, labels string) []byte
}

// lineCells is how many numbers share a cache line.
const lineCells = 8

// Counter only grows. All methods may be called concurrently and do not allocate; increments of different cores
// go to different cache lines.
type Counter struct {
	cells []metrics.Counter // of each stripe the first of width
	width uint32
	mask  uint32 // of stripes, a power of two
}

func newCounter(stripes int) *Counter { return newRows(stripes, lineCells).counter(0) }

// rows are numbers that change together: those of a stripe lie side by side, so that they share cache lines, which no other
// stripe writes.
type rows struct {
	cells   []metrics.Counter
	width   int // whole cache lines
	stripes int
}

func newRows(stripes, width int) *rows {
	width = (width + lineCells - 1) / lineCells * lineCells
	return &rows{cells: make([]metrics.Counter, width*stripes), width: width, stripes: stripes}
}

// counter counts in the cell at i of each row.
func (r *rows) counter(i int) *Counter {
	return &Counter{cells: r.cells[i:], width: uint32(r.width), mask: uint32(r.stripes - 1)}
}

// histogram keeps its sum at one place of each row, and its buckets from another on.
func (r *rows) histogram(shape *histogramShape, sum, buckets int) *Histogram {
	return &Histogram{
		cells: r.cells, width: uint32(r.width), mask: uint32(r.stripes - 1),
		shape: shape, sum: uint32(sum), buckets: uint32(buckets),
	}
}

// Inc adds one.
func (c *Counter) Inc() { c.addAt(stripe.Mine(), 1) }

// Add adds n, which must not be negative.
func (c *Counter) Add(n int64) { c.addAt(stripe.Mine(), n) }

func (c *Counter) addAt(at uint32, n int64) {
	c.cells[(at&c.mask)*c.width].AddInt64(n)
}

// Value is the sum so far.
func (c *Counter) Value() uint64 {
	var sum uint64
	for i := 0; i < len(c.cells); i += int(c.width) {
		sum += c.cells[i].Get()
	}
	return sum
}

func (c *Counter) appendTo(dst []byte, name, labels string) []byte {
	dst = appendSeries(dst, name, "", labels, "")
	dst = strconv.AppendUint(dst, c.Value(), 10)
	return append(dst, '\n')
}

// Level is a gauge that goes up and down by events, such as requests in flight. All methods may be called concurrently
// and do not allocate.
type Level struct {
	Counter
}

func newLevel(stripes int) *Level { return &Level{*newCounter(stripes)} }

// Dec takes one away.
func (l *Level) Dec() { l.addAt(stripe.Mine(), -1) }

// Add adds n, which may be negative.
func (l *Level) Add(n int64) { l.addAt(stripe.Mine(), n) }

// Value is the level now. The stripes are read one after the other, so while others count it may miss an increment whose decrement it sees;
// it is never below zero.
func (l *Level) Value() int64 { return max(0, int64(l.Counter.Value())) }

func (l *Level) appendTo(dst []byte, name, labels string) []byte {
	dst = appendSeries(dst, name, "", labels, "")
	dst = strconv.AppendInt(dst, l.Value(), 10)
	return append(dst, '\n')
}

// Gauge is a value that is set.
type Gauge struct {
	metrics.Gauge
}

func (g *Gauge) appendTo(dst []byte, name, labels string) []byte {
	dst = appendSeries(dst, name, "", labels, "")
	dst = appendFloat(dst, g.Get())
	return append(dst, '\n')
}

// callbacks is a gauge whose value is asked for when it is written. Every lease brings its own function; the youngest
// answers, so that a configuration that is built and given up leaves the older one answering.
type callbacks struct {
	current atomic.Pointer[callback]
	stack   []*callback // guarded by the family's lock
}

type callback struct {
	f func() float64
}

func (c *callbacks) push(cb *callback) {
	c.stack = append(c.stack, cb)
	c.current.Store(cb)
}

func (c *callbacks) remove(cb *callback) {
	for i, have := range c.stack {
		if have == cb {
			c.stack = append(c.stack[:i], c.stack[i+1:]...)
			break
		}
	}
	if n := len(c.stack); n > 0 {
		c.current.Store(c.stack[n-1])
	} else {
		c.current.Store(nil)
	}
}

func (c *callbacks) appendTo(dst []byte, name, labels string) []byte {
	cb := c.current.Load()
	if cb == nil {
		return dst
	}
	dst = appendSeries(dst, name, "", labels, "")
	dst = appendFloat(dst, cb.f())
	return append(dst, '\n')
}

// Histogram counts durations in cumulative buckets. All methods may be called concurrently and do not allocate.
//
// It stands on counters rather than on metrics.PrometheusHistogram because that one takes a lock per observation, which
// cores would queue for, and gives its numbers as text only.
type Histogram struct {
	cells   []metrics.Counter // of each stripe width
	width   uint32
	mask    uint32 // of stripes, a power of two
	shape   *histogramShape
	sum     uint32 // where a stripe has the sum in nanoseconds
	buckets uint32 // where its buckets begin, the last of which is beyond the last bound
}

// histogramShape is what all series of a family share.
type histogramShape struct {
	bounds []int64   // upper bounds in nanoseconds, inclusive
	start  [65]uint8 // by bit length of the value: the first bucket that can hold it
	les    []string  // `le="0.1"`, ending with +Inf
}

func newHistogramShape(buckets []time.Duration) *histogramShape {
	if len(buckets) == 0 || len(buckets) > 100 {
		panic("BUG: a histogram needs 1 to 100 buckets")
	}
	sh := &histogramShape{}
	for i, b := range buckets {
		if b <= 0 || i > 0 && b <= buckets[i-1] {
			panic("BUG: histogram buckets must be positive and rising")
		}
		sh.bounds = append(sh.bounds, int64(b))
		sh.les = append(sh.les, `le="`+strconv.FormatFloat(b.Seconds(), 'g', -1, 64)+`"`)
	}
	sh.les = append(sh.les, `le="+Inf"`)
	for length := 1; length < len(sh.start); length++ {
		smallest := uint64(1) << (length - 1)
		i := 0
		for i < len(sh.bounds) && uint64(sh.bounds[i]) < smallest {
			i++
		}
		sh.start[length] = uint8(i)
	}
	return sh
}

func newHistogram(shape *histogramShape, stripes int) *Histogram {
	return newRows(stripes, 1+shape.buckets()).histogram(shape, 0, 1)
}

// buckets is how many there are, the one beyond the last bound included.
func (sh *histogramShape) buckets() int { return len(sh.bounds) + 1 }

// Observe counts d; a negative duration counts as zero.
func (h *Histogram) Observe(d time.Duration) { h.observeAt(stripe.Mine(), d) }

func (h *Histogram) observeAt(at uint32, d time.Duration) {
	ns := max(0, int64(d))
	bounds := h.shape.bounds
	i := int(h.shape.start[bits.Len64(uint64(ns))])
	for i < len(bounds) && ns > bounds[i] {
		i++
	}
	row := h.cells[(at&h.mask)*h.width:]
	row[int(h.buckets)+i].Inc()
	row[h.sum].AddInt64(ns)
}

// read adds up the stripes: observations per bucket (not cumulative) into counts, which has one element more than there are bounds.
func (h *Histogram) read(counts []uint64) (total, sumNanoseconds uint64) {
	for at := 0; at < len(h.cells); at += int(h.width) {
		row := h.cells[at:]
		for i := range h.shape.buckets() {
			v := row[int(h.buckets)+i].Get()
			counts[i] += v
			total += v
		}
		sumNanoseconds += row[h.sum].Get()
	}
	return total, sumNanoseconds
}

// Count is the number of observations.
func (h *Histogram) Count() uint64 {
	var counts [101]uint64
	total, _ := h.read(counts[:])
	return total
}

// Quantile estimates the q-quantile of all observations, as Distribution.Quantile does.
func (h *Histogram) Quantile(q float64) time.Duration {
	var d Distribution
	d.add(h)
	return d.Quantile(q)
}

// Distribution is a reading of histograms of one family. The zero value holds nothing.
type Distribution struct {
	shape  *histogramShape
	counts [101]uint64 // by bucket, not cumulative
	total  uint64
}

// add takes in what a histogram has counted so far.
func (d *Distribution) add(h *Histogram) {
	d.shape = h.shape
	total, _ := h.read(d.counts[:])
	d.total += total
}

// Since is what came after an earlier reading. Histograms that are gone since then take away from it, never below nothing.
func (d *Distribution) Since(before *Distribution) Distribution {
	after := Distribution{shape: d.shape}
	for i, n := range d.counts {
		if n > before.counts[i] {
			after.counts[i] = n - before.counts[i]
			after.total += after.counts[i]
		}
	}
	return after
}

// Quantile estimates the q-quantile, 0 <= q <= 1, linearly within its bucket as PromQL's histogram_quantile does.
// It is zero without observations and the highest bound where the quantile lies beyond it.
func (d *Distribution) Quantile(q float64) time.Duration {
	if d.total == 0 {
		return 0
	}
	rank := q * float64(d.total)
	var below float64
	var lower int64
	for i, upper := range d.shape.bounds {
		in := float64(d.counts[i])
		if in > 0 && below+in >= rank {
			return time.Duration(float64(lower) + float64(upper-lower)*max(0, rank-below)/in)
		}
		below += in
		lower = upper
	}
	return time.Duration(lower)
}

// A histogram that has never been used is not written: ten thousand idle routes would be most of the answer.
func (h *Histogram) appendTo(dst []byte, name, labels string) []byte {
	return h.appendEvery(1, dst, name, labels)
}

// appendEvery is appendTo with every step-th bound behind the first alone, and +Inf; step 1 is all.
func (h *Histogram) appendEvery(step int, dst []byte, name, labels string) []byte {
	var counts [101]uint64
	total, sum := h.read(counts[:])
	if total == 0 {
		return dst
	}
	var cumulative uint64
	for i, le := range h.shape.les {
		cumulative += counts[i]
		if step > 1 && (i == 0 || i%step != 0) && i < len(h.shape.bounds) {
			continue
		}
		dst = appendSeries(dst, name, "_bucket", labels, le)
		dst = strconv.AppendUint(dst, cumulative, 10)
		dst = append(dst, '\n')
	}
	dst = appendSeries(dst, name, "_sum", labels, "")
	dst = appendFloat(dst, float64(sum)/1e9)
	dst = append(dst, '\n')
	dst = appendSeries(dst, name, "_count", labels, "")
	dst = strconv.AppendUint(dst, total, 10)
	return append(dst, '\n')
}

// appendSeries appends everything of a sample line that stands before its value.
func appendSeries(dst []byte, name, suffix, labels, le string) []byte {
	dst = append(dst, name...)
	dst = append(dst, suffix...)
	if labels != "" || le != "" {
		dst = append(dst, '{')
		dst = append(dst, labels...)
		if labels != "" && le != "" {
			dst = append(dst, ',')
		}
		dst = append(dst, le...)
		dst = append(dst, '}')
	}
	return append(dst, ' ')
}

func appendFloat(dst []byte, v float64) []byte {
	if v == float64(int64(v)) && v < 1<<53 && v > -1<<53 {
		return strconv.AppendInt(dst, int64(v), 10)
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}
