package exchange

import (
	"testing"
	"time"
)

// A Date tells the second in which it was asked for, also after a step of the
// system's clock, and costs nothing between seconds.
func TestAppendDate(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 300e6, time.UTC)
	c := NewClock(func() time.Time { return now })
	wants := func(line string) {
		t.Helper()
		if got := string(c.AppendDate([]byte("a"), c.Now())); got != "a"+line+"\r\n" {
			t.Errorf("%q, want %q", got, line)
		}
	}
	wants("Date: Wed, 04 Mar 2026 05:06:07 GMT")
	now = now.Add(699 * time.Millisecond)
	wants("Date: Wed, 04 Mar 2026 05:06:07 GMT")
	now = now.Add(time.Millisecond)
	wants("Date: Wed, 04 Mar 2026 05:06:08 GMT")
	now = now.Add(time.Hour).In(time.FixedZone("", 3600))
	wants("Date: Wed, 04 Mar 2026 06:06:08 GMT")
	buf := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { c.AppendDate(buf, c.Now()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
