//go:build !race

package telemetry

import (
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// What stands on a request's path must not allocate, not even once in ten thousand requests.
func TestNoAllocations(t *testing.T) {
	m := newTestMetrics()
	r := m.Route(nil, "r", "s")
	svc := m.Service(nil, "s")
	limited := m.RateLimited.With(nil, "r", "p")
	l := NewAccessLogs(m, slog.New(slog.DiscardHandler), 0)
	a, err := l.acquire("discard", func() (io.WriteCloser, error) { return keepOpen{io.Discard}, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer closeLogs(t, l)
	asJSON, asCombined, asExtended := format(t, "json", "cookie"), format(t, "combined"), format(t, "combined_extended").Stamped()
	method := []byte("GET")
	record := testRecord()
	for m.AccessLogLines.Value() == 0 { // until the writer's goroutine has started
		a.Append(asJSON, &record)
		time.Sleep(time.Millisecond)
	}
	f := func(what string, pass func()) {
		t.Helper()
		defer debug.SetGCPercent(debug.SetGCPercent(-1)) // first: a collection empties pools
		for range 100 {
			pass()
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10_000 {
			pass()
		}
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > 0 {
			t.Errorf("%s: %d allocations in 10,000 passes", what, n)
		}
	}
	f("route", func() {
		r.Begin()
		s := Sample{Method: MethodOf(method), Code: 200, Duration: time.Millisecond, Overhead: time.Microsecond, BytesIn: 1, BytesOut: 1}
		r.Done(&s)
	})
	f("service", func() {
		svc.UpstreamDuration.Observe(time.Millisecond)
		svc.Retries.Inc()
		limited.Inc()
	})
	f("json", func() {
		record := record // on the stack, as a caller may have it
		a.Append(asJSON, &record)
	})
	f("combined", func() { a.Append(asCombined, &record) })
	f("combined_extended", func() { a.Append(asExtended, &record) })
}
