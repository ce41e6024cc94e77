package limiter

import (
	"math"
	"math/bits"
	"time"
)

// window is the state of one limit. Its tokens are tokens + rem/per: time is credited as exact fractions whose
// denominator is the Per under which they were earned, so nothing is lost however often a bucket is asked.
type window struct {
	tokens int64  // negative: debt of Reserve
	rem    uint64 // below per; 0 when full
	per    uint64 // nanoseconds
}

func (l *Limit) burst() int64 {
	if l.Burst == 0 {
		return l.Requests
	}
	return l.Burst
}

func (l *Limit) valid() bool {
	return l.Requests >= 0 && l.Burst >= 0 && l.Per > 0 && l.burst() <= MaxTokens
}

func fullWindow(l *Limit) window { return window{tokens: l.burst(), per: uint64(l.Per)} }

// refill credits elapsed nanoseconds.
func (w *window) refill(elapsed uint64, l *Limit) {
	burst := l.burst()
	if w.tokens >= burst {
		w.tokens, w.rem = burst, 0
		return
	}
	if elapsed == 0 {
		return
	}
	hi, lo := bits.Mul64(elapsed, uint64(l.Requests))
	lo, carry := bits.Add64(lo, w.rem, 0)
	hi += carry
	if hi < w.per {
		earned, rem := bits.Div64(hi, lo, w.per)
		if earned < uint64(burst)-uint64(w.tokens) {
			w.tokens += int64(earned)
			w.rem = rem
			return
		}
	}
	w.tokens, w.rem = burst, 0
}

// credit adds n tokens, up to burst.
func (w *window) credit(n, burst int64) {
	if uint64(n) >= uint64(burst)-uint64(w.tokens) {
		w.tokens, w.rem = burst, 0
		return
	}
	w.tokens += n
}

// until is the shortest time after which there are n tokens.
func (w *window) until(n int64, l *Limit) time.Duration {
	if w.tokens >= n {
		return 0
	}
	requests := uint64(l.Requests)
	if requests == 0 {
		return Never
	}
	hi, lo := bits.Mul64(uint64(n)-uint64(w.tokens), w.per)
	lo, borrow := bits.Sub64(lo, w.rem, 0)
	hi -= borrow
	lo, carry := bits.Add64(lo, requests-1, 0)
	hi += carry
	if hi >= requests {
		return Never
	}
	d, _ := bits.Div64(hi, lo, requests)
	return time.Duration(min(d, math.MaxInt64))
}

// lacks is how long it takes until there is the cost, which is not there.
func (w *window) lacks(cost int64, l *Limit) time.Duration {
	if cost > l.burst() {
		return Never
	}
	return w.until(cost, l)
}

// carry turns the first n windows, of an entry's last call, into those of limits, whose number or Pers differ.
func carry(ws *[MaxWindows]window, n int, limits []Limit) {
	old := *ws
	var used, done [MaxWindows]bool
	for i := range limits {
		for j := range n {
			if !used[j] && old[j].per == uint64(limits[i].Per) {
				ws[i], used[j], done[i] = old[j], true, true
				break
			}
		}
	}
	for i := range limits {
		switch {
		case done[i]:
		case i < n && !used[i]:
			ws[i] = old[i].rescale(uint64(limits[i].Per))
		default:
			ws[i] = fullWindow(&limits[i])
		}
	}
}

func (w window) rescale(per uint64) window {
	hi, lo := bits.Mul64(w.rem, per)
	w.rem, _ = bits.Div64(hi, lo, w.per) // w.rem < w.per, so the quotient is below per
	w.per = per
	return w
}
