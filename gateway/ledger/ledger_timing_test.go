package ledger

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sluice/gateway/usage"
)

// BenchmarkWrite writes what so many consumers have used since the last batch, as a gateway does once in every flush.
func BenchmarkWrite(b *testing.B) {
	f := func(consumers int) {
		b.Run(fmt.Sprint(consumers), func(b *testing.B) {
			now := time.Unix(1_800_000_000, 0)
			l, err := Open(Options{Path: filepath.Join(b.TempDir(), "usage.db"), Instance: "i", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			c := usage.NewCounter()
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(10 * time.Second)
				for i := range consumers {
					for j := range 5 {
						c.Count(&usage.Sample{Consumer: fmt.Sprint("c", i), Route: "users", Status: 200, Duration: time.Duration(j) * time.Millisecond, Ended: now.Unix()})
					}
				}
				l.Add(c.Collect().Rows)
				if err := l.Settle(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	f(1)
	f(100)
	f(2000)
}
