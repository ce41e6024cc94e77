package exchange

import (
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

func TestDeadline(t *testing.T) {
	now := time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)
	pool := NewPool(NewClock(func() time.Time { return now }))
	f := func(want time.Duration, fields ...string) {
		t.Helper()
		x := pool.Get(&fasthttp.Request{}, &fasthttp.Response{}, func(*Exchange) {})
		defer x.Close()
		for i := 0; i < len(fields); i += 2 {
			x.Fields = append(x.Fields, Field{Name: []byte(fields[i]), Value: []byte(fields[i+1])})
		}
		at := x.Deadline()
		switch {
		case want == -1 && at != 0:
			t.Errorf("%v: %v, want none", fields, time.Duration(at-x.Start))
		case want != -1 && time.Duration(at-x.Start) != want:
			t.Errorf("%v: %v, want %v", fields, time.Duration(at-x.Start), want)
		}
	}
	f(-1)
	f(0, "X-Request-Deadline", "0")
	f(3*time.Second, "x-request-deadline", "3")
	f(2500*time.Millisecond, "X-Request-Deadline", "2.5")
	f(time.Minute, "X-Request-Deadline", "2027-01-15T12:01:00Z")
	f(250*time.Millisecond, "X-Request-Deadline", "2027-01-15T12:00:00.25z")
	f(time.Second, "X-Request-Deadline", "2027-01-15T14:00:01+02:00")
	f(time.Second, "X-Request-Deadline", "2027-01-15T06:30:01-05:30")
	f(100*time.Millisecond, "grpc-timeout", "100m")
	f(5*time.Microsecond, "Grpc-Timeout", "5u")
	f(5, "grpc-timeout", "5n")
	f(2*time.Hour, "grpc-timeout", "2H")
	f(2*time.Minute, "grpc-timeout", "2M")
	f(time.Second, "grpc-timeout", "1S", "X-Request-Deadline", "3")
	f(time.Second, "grpc-timeout", "3S", "X-Request-Deadline", "1")
	for _, bad := range []string{"", "soon", "-1", "1.", "1.x", ".5", "1e3", "9999999999", "2027-01-15", "2027-01-15T12:01:00", "2027-13-15T12:01:00Z",
		"2027-01-15T12:01:00+0200", "2027-01-15T12:01:00.Z", "2027-01-15 12:01:00Z"} {
		f(-1, "X-Request-Deadline", bad)
	}
	for _, bad := range []string{"", "1", "m", "1x", "123456789m", "1.5S", "99999999H"} {
		if bad == "99999999H" {
			f(-1, "X-Other", bad)
			continue
		}
		f(-1, "grpc-timeout", bad)
	}
	// A deadline long past is one that has passed.
	x := pool.Get(&fasthttp.Request{}, &fasthttp.Response{}, func(*Exchange) {})
	defer x.Close()
	x.Fields = append(x.Fields, Field{Name: []byte(DeadlineHeader), Value: []byte("1999-01-01T00:00:00Z")})
	if at := x.Deadline(); at <= 0 || at >= x.Start {
		t.Errorf("%d, want before %d", at, x.Start)
	}
	x.Fields[0] = Field{Name: []byte("grpc-timeout"), Value: []byte("99999999H")}
	if at := x.Deadline(); at <= x.Start {
		t.Errorf("%d, want far ahead", at)
	}
	if n := testing.AllocsPerRun(1000, func() { x.Deadline() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
