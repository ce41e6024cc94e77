package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"time"

	"sluice/gateway/limiter"
)

// MaxWindows is how many windows one key can have.
const MaxWindows = 6

// Window is one limit of a key: a bucket that earns Requests in Per, evenly, and holds Burst at most, or Requests in a window of the
// clock.
type Window struct {
	Requests int64
	Per      time.Duration
	Burst    int64
	// ByClock has Requests counted in windows Clock in the place of a bucket.
	ByClock bool
	Clock   limiter.Window
}

// Limits are the windows of all keys of one kind, which are charged together or not at all. They are immutable.
type Limits struct {
	id      string // the same on all instances that have the same block
	cost    int64
	lends   int     // to how many instances at most
	least   float64 // the smallest capacity
	windows []window
}

// window is a compiled Window.
type window struct {
	name     string
	kind     string
	fixed    bool
	clock    limiter.Window
	capacity float64
	rate     float64 // tokens in a nanosecond
	each     float64 // nanoseconds for a token
}

var clockNames = [...]string{"second", "minute", "hour", "day", "month", "year"}

const (
	// strictBelow is how many requests a bucket has to have room for, so that they are lent, and lent how many it has to have for each
	// instance: of fewer every one counts.
	strictBelow, lent = 20, 2
	// manyInstances is how many a bucket is thought to be shared by at most, where it is lent whatever their number.
	manyInstances = 200
)

// NewLimits compiles windows. prefix is what the keys begin with; cost is what a request takes. strict has every request counted in the store.
func NewLimits(prefix string, windows []Window, cost int64, strict bool) *Limits {
	if len(windows) == 0 || len(windows) > MaxWindows || cost < 1 {
		panic("BUG: cluster: 1 to MaxWindows windows and a cost of at least 1")
	}
	sum := sha256.Sum256([]byte(prefix))
	l := &Limits{id: hex.EncodeToString(sum[:8]), cost: cost, least: math.MaxFloat64}
	seen := make(map[string]int)
	for _, w := range windows {
		c := window{kind: "bucket", capacity: float64(w.Burst), rate: float64(w.Requests) / float64(w.Per), each: float64(w.Per) / float64(w.Requests)}
		if w.Burst == 0 {
			c.capacity = float64(w.Requests)
		}
		c.name = "w" + w.Per.String()
		if w.ByClock {
			c = window{kind: clockNames[w.Clock], fixed: true, clock: w.Clock, capacity: float64(w.Requests)}
			c.name = "w" + c.kind
		}
		if n := seen[c.name]; n > 0 {
			seen[c.name]++
			c.name += "#" + strconv.Itoa(n)
		} else {
			seen[c.name] = 1
		}
		l.least = min(l.least, c.capacity)
		l.windows = append(l.windows, c)
	}
	if !strict && l.least >= float64(strictBelow*cost) {
		l.lends = int(min(l.least/float64(lent*cost), 1<<30))
	}
	return l
}

// Len is the number of windows.
func (l *Limits) Len() int { return len(l.windows) }

// Strict reports whether every request is counted in the store: it was asked for, or there are too few to be lent to so many instances.
func (s *Limiter) Strict(l *Limits) bool { return s.store.fleet.Load().most > l.lends }

// MayWait reports whether requests may have to wait for the store: also those of a bucket that is lent, if it is too small for many instances.
func (l *Limits) MayWait() bool { return l.lends < manyInstances }

// share is what an instance may use of a full bucket before it has told of it, where there are n.
func (l *Limits) share(n int) int64 {
	part := int64(l.least / float64(n))
	return part - part%l.cost
}

// debt is what is to be debited from a window: what is owed, below 0 for what is given back, or where the store has forgotten what
// it was told, what this instance's part lacks.
type debt struct{ owe, lacks float64 }

// args are the arguments of the script that say what the windows are, and what is to be debited from each.
func (l *Limits) args(dst []string, debts *[MaxWindows]debt) []string {
	for i := range l.windows {
		w := &l.windows[i]
		rate := "0"
		if !w.fixed {
			rate = strconv.FormatFloat(w.rate*1000, 'g', -1, 64)
		}
		dst = append(dst, w.name, w.kind, strconv.FormatFloat(w.capacity, 'f', 0, 64), rate,
			strconv.FormatFloat(debts[i].owe, 'f', -1, 64), strconv.FormatFloat(debts[i].lacks, 'f', -1, 64))
	}
	return dst
}

// ends is when the window of the clock that holds a time is over, on the monotonic clock.
func (w *window) ends(now int64, wall time.Time) int64 {
	start := w.clock.Start(wall.Unix())
	next := start + w.clock.Seconds()
	if w.clock >= limiter.Month {
		next = w.clock.Start(start + w.clock.Seconds() + 2*86400)
	}
	return now + time.Unix(next, 0).Sub(wall).Nanoseconds()
}

// meter is what a window of one key holds, as far as this instance knows.
type meter struct {
	tokens float64
	over   int64 // when a window of the clock ends
	// Of an instance that serves alone: what it has used and the store has not debited, less what it was lent, and how much that was
	// when it began to.
	owes, owed float64
}
