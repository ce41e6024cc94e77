package quota

import (
	"strconv"
	"sync/atomic"
	"time"
)

// calendar tells the period that a moment is in.
type calendar struct {
	unit     string
	loc      *time.Location
	announce string // the beginning of the window in RateLimit-Policy

	current atomic.Pointer[period]
}

// period is one day, one month, one year of a calendar, in seconds since 1970. It is the same for all keys.
type period struct {
	start, end int64
	announced  []byte // the window in RateLimit-Policy
}

// at returns the period of a moment. It allocates once in a period.
func (c *calendar) at(now int64) *period {
	if p := c.current.Load(); p != nil && p.start <= now && now < p.end {
		return p
	}
	p := &period{}
	p.start, p.end = bounds(c.unit, c.loc, now)
	p.announced = strconv.AppendInt([]byte(c.announce), p.end-p.start, 10)
	c.current.Store(p)
	return p
}

// bounds returns the first second of the period of a moment, and that of the next.
func bounds(unit string, loc *time.Location, now int64) (start, end int64) {
	if unit == "hour" {
		return hour(now, loc)
	}
	t := time.Unix(now, 0).In(loc)
	y, m, d := t.Date()
	step := [3]int{0, 0, 1}
	switch unit {
	case "week":
		d -= (int(t.Weekday()) + 6) % 7
		step[2] = 7
	case "month":
		d, step = 1, [3]int{0, 1, 0}
	case "year":
		m, d, step = time.January, 1, [3]int{1, 0, 0}
	}
	for {
		next := [3]int{y + step[0], int(m) + step[1], d + step[2]}
		start, end = startOf(y, m, d, loc), startOf(next[0], time.Month(next[1]), next[2], loc)
		if now < end {
			return start, end
		}
		// Clocks that are set back over midnight show the day before for a second time, which is in the day that has begun already.
		y, m, d = next[0], time.Month(next[1]), next[2]
	}
}

// startOf returns the first moment whose date is this day or a later one. Where clocks skip midnight that is when they
// skip it, and where they show it twice, the first time.
func startOf(y int, m time.Month, d int, loc *time.Location) int64 {
	midnight := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix()
	// No clock is more than 14 hours ahead of UTC, so here it is still the day before everywhere; and none is a day and a half behind.
	at, last := midnight-16*3600, midnight+36*3600
	for {
		first := max(midnight-offset(at, loc), at)
		change := nextChange(at, last, loc)
		if first < change || change == last {
			return first
		}
		at = change
	}
}

// hour returns the hour of the clock. One that a change of the clock cuts ends there.
func hour(now int64, loc *time.Location) (start, end int64) {
	local := now + offset(now, loc)
	start = now - ((local%3600)+3600)%3600
	end = nextChange(now, start+3600, loc)
	for change := nextChange(start, now+1, loc); change <= now; change = nextChange(change, now+1, loc) {
		start = change
	}
	return start, end
}

// offset is by how many seconds a clock is ahead of UTC.
func offset(at int64, loc *time.Location) int64 {
	_, seconds := time.Unix(at, 0).In(loc).Zone()
	return int64(seconds)
}

// nextChange returns the first moment after at from which on a clock is another time ahead of UTC, or limit. In far years the
// bounds of zones are those of years too, where nothing changes.
func nextChange(at, limit int64, loc *time.Location) int64 {
	before := offset(at, loc)
	for {
		_, to := time.Unix(at, 0).In(loc).ZoneBounds()
		switch {
		case to.IsZero() || to.Unix() >= limit:
			return limit
		case to.Unix() > at:
			at = to.Unix()
		default:
			at++
		}
		if at >= limit {
			return limit
		}
		if offset(at, loc) != before {
			return at
		}
	}
}
