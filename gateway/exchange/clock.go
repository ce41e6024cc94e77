package exchange

import (
	"sync/atomic"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/valyala/fasthttp"
)

// Clock tells the time: wall-clock for protocol fields, monotonic nanoseconds
// for everything that is measured. Tests replace its source.
type Clock struct {
	source func() time.Time // nil: the real time
	base   time.Time
	start  int64 // nanotime at base
	second atomic.Pointer[second]
}

// second is a second of the wall clock. It is read anew when Now returns until, so
// that a clock that is set shows in the next one.
type second struct {
	until int64
	now   int64 // time, on the scale of Now
	time  time.Time
	date  [len("Date: Mon, 02 Jan 2006 15:04:05 GMT\r\n")]byte
}

// NewClock returns a clock over source, nil for the real time.
func NewClock(source func() time.Time) *Clock {
	c := &Clock{source: source}
	c.base = c.Time().Add(-time.Second)
	c.start = nanotime() - int64(time.Second)
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
		return c.Since(c.source())
	}
	return nanotime() - c.start
}

// Since places t on the monotonic scale of Now.
func (c *Clock) Since(t time.Time) int64 { return int64(t.Sub(c.base)) }

// Read returns Now and the time. It reads one clock, where time.Now reads two.
func (c *Clock) Read() (now int64, t time.Time) {
	now = c.Now()
	s := c.secondOf(now)
	return now, s.time.Add(time.Duration(now - s.now))
}

// AppendDate appends the line of a Date field (RFC 9110, section 6.6.1) for now,
// which Now has just returned.
func (c *Clock) AppendDate(dst []byte, now int64) []byte {
	return append(dst, c.secondOf(now).date[:]...)
}

func (c *Clock) secondOf(now int64) *second {
	if s := c.second.Load(); s != nil && now < s.until {
		return s
	}
	return c.nextSecond()
}

//go:noinline
func (c *Clock) nextSecond() *second {
	t := c.Time()
	now := c.Since(t)
	s := &second{until: now + int64(time.Second) - int64(t.Nanosecond()), now: now, time: t}
	_ = append(fasthttp.AppendHTTPDate(append(s.date[:0], "Date: "...), t), "\r\n"...)
	c.second.Store(s)
	return s
}

// nanotime is the monotonic clock of the runtime, which keeps it for packages
// outside of it (go.dev/issue/67401). time.Since goes a longer way to it.
//
//go:linkname nanotime runtime.nanotime
func nanotime() int64
