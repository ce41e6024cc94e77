package ratelimit

import (
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

// toMinute moves the clock to the beginning of the next minute.
func toMinute(w *policytest.World) {
	now := w.Clock.Time()
	w.Advance(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
}

func told(x *exchange.Exchange, names ...string) (values []string) {
	for _, name := range names {
		v, _ := x.ToClient.Value(name)
		values = append(values, string(v))
	}
	return values
}

func TestWindowsByTheClock(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "[{requests: 2, window: minute, headers: kong}, {requests: 3, window: hour, headers: kong}]")
	names := []string{"X-RateLimit-Limit-Minute", "X-RateLimit-Remaining-Minute", "X-RateLimit-Limit-Hour", "X-RateLimit-Remaining-Hour", "RateLimit-Limit", "RateLimit-Remaining", "Retry-After", "RateLimit-Policy"}
	f := func(passes bool, want ...string) {
		t.Helper()
		x := w.Exchange("/")
		defer x.Close()
		if err := h.Request(x); (err == nil) != passes {
			t.Fatalf("passes %v, want %v", err == nil, passes)
		}
		got := told(x, names...)
		for i := range want {
			if i == 6 && want[i] == "some" && got[i] != "" {
				continue
			}
			if got[i] != want[i] {
				t.Errorf("%s is %q, want %q", names[i], got[i], want[i])
			}
		}
	}
	now := w.Clock.Time()
	w.Advance(now.Truncate(time.Hour).Add(time.Hour).Sub(now)) // both windows begin
	f(true, "2", "1", "3", "2", "2", "1", "", "")
	f(true, "2", "0", "3", "1", "2", "0", "", "")
	f(false, "2", "0", "3", "1", "2", "0", "some", "")
	f(false, "2", "0", "3", "1", "2", "0", "some", "") // what was refused is not counted
	toMinute(w)
	f(true, "2", "1", "3", "0", "3", "0", "", "")
	f(false, "2", "1", "3", "0", "3", "0", "some", "")
}

func TestWindowsByTheClockSayWhenTheyEnd(t *testing.T) {
	w := policytest.New(t, "")
	toMinute(w)
	f := func(settings, reset, standing, announced string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange("/")
		defer x.Close()
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		got := told(x, "RateLimit-Reset", "RateLimit", "RateLimit-Policy")
		if got[0] != reset || got[1] != standing || got[2] != announced {
			t.Errorf("%s: %q", settings, got)
		}
	}
	w.Advance(10 * time.Second)
	f("{requests: 9, window: minute, headers: kong}", "50", "", "")
	f("{requests: 9, window: minute, by: ip}", "", `"minute";r=8;t=50`, `"minute";q=9;w=60`)
	f("{requests: 9, window: minute, by: global, headers: off}", "", "", "")
}

func TestWindowsByTheClockAllocateNothing(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "[{requests: 100000000, window: minute, headers: kong}, {requests: 1000000000, window: month, headers: kong}]")
	w.NoAllocations(t, "a request within its limits", func(x *exchange.Exchange) {
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
	})
}

// A reload finds the counts again.
func TestCountsOutliveReloads(t *testing.T) {
	w := policytest.New(t, "")
	toMinute(w)
	const settings = "{requests: 1, window: minute}"
	h := w.MustBuild(t, Definition, settings)
	x := w.Exchange("/")
	if err := h.Request(x); err != nil {
		t.Fatal(err)
	}
	x.Close()
	end := w.Reload()
	h = w.MustBuild(t, Definition, settings)
	end()
	x = w.Exchange("/")
	defer x.Close()
	if err := h.Request(x); err == nil {
		t.Error("the count was lost")
	}
}
