package gateway_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
	"sluice/gateway/snapshot"
)

// A reload, from the bytes of the file to the generation in force; ms-read is what reading it takes of that, ms-cpu what all cores
// spend, with the collector and with what is found out beside the reload.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n, " routes"), func(b *testing.B) {
			text := []byte(manyRoutes(n))
			g := gateway.New(gateway.Options{Registry: registry.All()})
			b.Cleanup(func() { g.Shutdown(b.Context()) })
			var reading time.Duration
			spent := processorTime()
			for b.Loop() {
				began := time.Now()
				c, err := config.Parse("sluice.yaml", text, config.Options{})
				reading += time.Since(began)
				if err == nil {
					err = g.Apply(c)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(reading.Microseconds())/1000/float64(b.N), "ms-read/op")
			b.ReportMetric(float64((processorTime()-spent).Microseconds())/1000/float64(b.N), "ms-cpu/op")
		})
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What is told of a reload is found beside it, and takes the time of the next one.
func BenchmarkReloadDiff(b *testing.B) {
	compile := func(text string) *snapshot.Snapshot {
		c, err := config.Parse("sluice.yaml", []byte(text), config.Options{})
		if err != nil {
			b.Fatal(err)
		}
		s, done, err := gateway.Compile(gateway.Options{Registry: registry.All()}, c)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(done)
		return s
	}
	text := manyRoutes(10_000)
	from, to := compile(text), compile(strings.Replace("# moves all\n"+text, "resource-77\"", "resource-x\"", 1))
	b.ReportAllocs()
	for b.Loop() {
		if d := from.Diff(to); len(d) != 1 {
			b.Fatal(d)
		}
	}
}

// manyRoutes is a configuration of n routes to one service.
func manyRoutes(n int) string {
	var t strings.Builder
	t.WriteString("version: 1\nlisteners: {main: {address: \"127.0.0.1:0\"}}\nservices:\n  backend:\n    endpoints: [\"http://127.0.0.1:1\"]\nroutes:\n")
	for i := range n {
		fmt.Fprintf(&t, "  route-%d:\n    match:\n      hosts: [\"api.example.com\"]\n      paths: [\"/api/v1/resource-%d\"]\n      methods: [GET, POST]\n    service: backend\n", i, i)
	}
	return t.String()
}
