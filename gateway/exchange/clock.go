package exchange

import (
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// Clock tells the time: wall-clock for protocol fields, monotonic nanoseconds
// for everything that is measured. Tests replace its source.
type Clock struct {
	source func() time.Time // nil: the real time
	base   time.Time
	date   atomic.Pointer[date]
}

// date is a Date field as it stands in answers until Now returns until.
type date struct {
	until int64
	line  [len("Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")]byte
}

// NewClock returns a clock over source, nil for the real time.
func NewClock(source func() time.Time) *Clock {
	c := &Clock{source: source}
	c.base = c.Time().Add(-time.Second)
	return c
}

// Time returns the current time.
func (c *Clock) Time() time.Time {
	if c.source != nil {
		return c.source()
	}
	return time.Now()
}

// Now returns monotonic nanoseconds since shortly before the clock was made; it is never zero.
func (c *Clock) Now() int64 {
	if c.source != nil {
		return int64(c.source().Sub(c.base))
	}
	return int64(time.Since(c.base)) // reads one clock, where time.Now reads two
}

// Since places t on the monotonic scale of Now.
func (c *Clock) Since(t time.Time) int64 { return int64(t.Sub(c.base)) }

// AppendDate appends the line of a Date field (RFC 9110, section 6.6.1) for now,
// which Now has just returned. It is written once for each second, so that a
// clock that is set shows in the next one.
func (c *Clock) AppendDate(dst []byte, now int64) []byte {
	d := c.date.Load()
	if d == nil || now >= d.until {
		t := c.Time()
		d = &date{until: now + int64(time.Second) - int64(t.Nanosecond())}
		_ = append(fasthttp.AppendHTTPDate(append(d.line[:0], "Date: "...), t), "\r\n"...)
		c.date.Store(d)
	}
	return append(dst, d.line[:]...)
}
