package cluster

import (
	"math"
	"sync"
	"time"

	"sluice/gateway/limiter"
)

// bucket is what this instance knows of one key: how much of it is lent to it, and how all windows stand as far as it was told. Without
// the store the meters are its own part of the limit.
type bucket struct {
	key    string      // "" while others alone have spoken of it
	name   string      // in the store
	guard  *sync.Mutex // of all below
	limits *Limits
	meters []meter
	at     int64 // when the meters were brought up to date

	held   int64 // debited, or this instance's share, and not used
	until  int64 // when what is held lapses
	turns  int64 // when it does, or a window of the clock ends
	low    int64 // with less held, more is wanted
	ask    int64 // with less held, the store is told: at low, or when much was used since
	taken  int64 // since it was asked last
	unpaid int64 // used before it was asked last, and not debited
	demand int64 // since rated
	rated  int64
	rate   float64 // demand in a nanosecond
	used   int64   // when somebody asked last

	told   bool   // the store knows of this instance's tokens
	lapsed bool   // it did, until they lapsed
	birth  string // of what the store knows, "" before it has told
	asked  bool   // it is, or is about to be
	busy   bool   // a call is under way
	lost   *loan  // whose answer was lost: it is asked again
	alone  bool   // served without the store
	recall bool   // others are in want of what is held
	waits  int64  // pause before the next attempt to be forgotten
	called int64  // when others were asked for what they hold
	calls  int64  // pause before they are asked again

	// The limiter's mu guards these.
	due   int64
	index int // in the agenda, -1 outside
	gone  bool
}

// refill brings the meters up to now. part is this instance's of the limit.
func (b *bucket) refill(now int64, part float64, wall func() time.Time) {
	elapsed := float64(0)
	if now > b.at {
		elapsed, b.at = float64(now-b.at)*part, now
	}
	for i := range b.meters {
		w, m := &b.limits.windows[i], &b.meters[i]
		switch {
		case !w.fixed:
			m.tokens = min(m.tokens+elapsed*w.rate, b.limits.room(w, part))
		case now >= m.over:
			*m = meter{tokens: b.limits.room(w, part), over: w.ends(now, wall())}
		}
	}
}

// room is a part of a window's capacity, and at least one request.
func (l *Limits) room(w *window, part float64) float64 {
	if part == 1 {
		return w.capacity
	}
	return max(w.capacity*part, float64(l.cost))
}

// tell says how the windows stand.
func (b *bucket) tell(now int64, part float64, out []limiter.Result) {
	for i := range b.meters {
		w, m, r := &b.limits.windows[i], &b.meters[i], &out[i]
		r.Allowed, r.RetryAfter = true, 0
		r.Remaining = int64(max(m.tokens, 0))
		if w.fixed {
			r.Reset = time.Duration(max(0, m.over-now))
		} else {
			r.Reset = after((b.limits.room(w, part) - m.tokens) * w.each / part)
		}
	}
}

// soon is when to come back where there are tokens that only have to be fetched.
const soon = time.Millisecond

// refuse says which windows have no tokens for a request, and when they will.
func (b *bucket) refuse(now int64, part float64, out []limiter.Result) {
	cost, least, none := float64(b.limits.cost), 0, true
	for i := range b.meters {
		w, m, r := &b.limits.windows[i], &b.meters[i], &out[i]
		if m.tokens < b.meters[least].tokens {
			least = i
		}
		if m.tokens >= cost {
			continue
		}
		none, r.Allowed = false, false
		if w.fixed {
			r.RetryAfter = time.Duration(max(0, m.over-now))
		} else {
			r.RetryAfter = after((cost - m.tokens) * w.each / part)
		}
	}
	if none {
		out[least].Allowed, out[least].RetryAfter = false, soon
	}
}

func after(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return limiter.Never
	}
	return time.Duration(math.Ceil(max(ns, 0)))
}

// has reports whether the meters have a request's tokens.
func (b *bucket) has() bool {
	for i := range b.meters {
		if b.meters[i].tokens < float64(b.limits.cost) {
			return false
		}
	}
	return true
}

// charge takes n tokens from all meters.
func (b *bucket) charge(n int64) {
	for i := range b.meters {
		b.meters[i].tokens -= float64(n)
		b.meters[i].owes += float64(n)
	}
}

// least is the lowest of the meters, in whole tokens.
func (b *bucket) least() int64 {
	least := b.meters[0].tokens
	for i := range b.meters[1:] {
		least = min(least, b.meters[i+1].tokens)
	}
	return int64(math.Floor(least))
}

// turn notes until when nothing changes by itself.
func (b *bucket) turn() {
	b.turns = b.until
	for i := range b.meters {
		if b.limits.windows[i].fixed {
			b.turns = min(b.turns, b.meters[i].over)
		}
	}
}

// leaveAlone makes the meters those of this instance's part, of n, from what was known of all.
func (b *bucket) leaveAlone(now int64, n int, wall func() time.Time) {
	b.refill(now, 1, wall)
	owes := b.unpaid
	if b.told || b.lapsed {
		owes -= b.held // debited before
	} else {
		owes += b.taken
	}
	for i := range b.meters {
		m := &b.meters[i]
		mine := min(float64(b.held), max(m.tokens, 0))
		m.tokens = min(b.limits.room(&b.limits.windows[i], 1/float64(n)), mine+max(0, m.tokens-mine)/float64(n))
		m.owes, m.owed = float64(owes), float64(max(owes, 0))
	}
	b.alone = true
}

// debts is what an instance that has served alone tells the store. What it used long ago may have been earned again since, as far as its
// part has.
func (b *bucket) debts(part float64) (debts [MaxWindows]debt) {
	for i := range b.meters {
		m := &b.meters[i]
		lacks := max(0, math.Ceil(b.limits.room(&b.limits.windows[i], part)-m.tokens))
		debts[i] = debt{min(m.owes, lacks+m.owed), lacks}
	}
	return debts
}

// adopt takes other limits: what is left of a window stays, one that was not there before is full.
func (b *bucket) adopt(now int64, l *Limits, part float64, wall func() time.Time) {
	meters := make([]meter, len(l.windows))
	for i := range l.windows {
		w := &l.windows[i]
		meters[i] = meter{tokens: l.room(w, part)}
		if w.fixed {
			meters[i].over = w.ends(now, wall())
		}
		for j := range b.meters {
			if b.limits.windows[j].name == w.name {
				meters[i].tokens = min(meters[i].tokens, b.meters[j].tokens)
				meters[i].owes, meters[i].owed = b.meters[j].owes, b.meters[j].owed
			}
		}
	}
	b.limits, b.meters, b.lost = l, meters, nil
}
