package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"
)

func BenchmarkHandles(b *testing.B) {
	m := NewMetrics(Options{})
	c := m.Retries.With(nil, "s")
	h := m.UpstreamDuration.With(nil, "s")
	r := m.Route(nil, "r", "s")
	sample := Sample{Method: MethodGet, Code: 200, Duration: 3 * time.Millisecond, Overhead: 20 * time.Microsecond, BytesIn: 1, BytesOut: 1}
	f := func(name string, pass func()) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				pass()
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					pass()
				}
			})
		})
	}
	f("Counter.Inc", c.Inc)
	f("Histogram.Observe", func() { h.Observe(3 * time.Millisecond) })
	f("RouteMetrics.Begin+Done", func() { r.Begin(); r.Done(&sample) })
}

func BenchmarkAccessLog(b *testing.B) {
	record := testRecord()
	buf := make([]byte, 0, 4096)
	for _, name := range Formats {
		f := format(b, name)
		b.Run("Format/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(f.Append(buf, &record))))
			for b.Loop() {
				f.Append(buf, &record)
			}
		})
	}
	l := NewAccessLogs(NewMetrics(Options{}), slog.New(slog.DiscardHandler), 0)
	a, err := l.acquire("discard", func() (io.WriteCloser, error) { return keepOpen{io.Discard}, nil })
	if err != nil {
		b.Fatal(err)
	}
	f := format(b, "json")
	b.Run("Append/json/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			record := testRecord()
			for pb.Next() {
				a.Append(f, &record)
			}
		})
	})
	if err := l.Close(b.Context()); err != nil {
		b.Error(err)
	}
}

func BenchmarkWriteTo(b *testing.B) {
	for _, routes := range []int{10, 10_000} {
		m := NewMetrics(Options{Registry: RegistryOptions{Process: true}})
		for i := range routes {
			r := m.Route(nil, fmt.Sprintf("route-%05d", i), "service")
			r.Begin()
			for _, code := range []int{200, 404, 429, 503} {
				r.Done(&Sample{Method: MethodGet, Code: code, Duration: time.Millisecond})
			}
		}
		for i := range 10 * routes {
			m.APIVersionConsumers.With(nil, fmt.Sprintf("consumer-%06d", i), "2").Inc()
		}
		b.Run(fmt.Sprint(routes), func(b *testing.B) {
			b.ReportAllocs()
			var n int64
			for b.Loop() {
				n, _ = m.WriteTo(io.Discard)
			}
			b.ReportMetric(float64(n), "text-bytes")
		})
	}
}
