package gateway_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"sluice/gateway"
)

// helpCrowd is many clients: for a line "ADDRESS COUNT" of its input it opens
// so many connections, has each answered once, keeps them and prints "ready".
func helpCrowd() {
	var crowd []net.Conn
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var addr string
		var count int
		if _, err := fmt.Sscan(in.Text(), &addr, &count); err != nil {
			panic(err)
		}
		buf := make([]byte, 4096)
		for range count {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				panic(err)
			}
			if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: crowd\r\nAccept: */*\r\n\r\n")); err != nil {
				panic(err)
			}
			if _, err := c.Read(buf); err != nil {
				panic(err)
			}
			crowd = append(crowd, c)
		}
		fmt.Println("ready")
	}
	for _, c := range crowd {
		_ = c.Close()
	}
}

func resident() int {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n := 0
	_, _ = fmt.Sscan(rest, &n)
	return n << 10
}

// BenchmarkIdleConnections measures what a connection costs that was answered
// once and rests, in resident memory:
//
//	go test -run xxx -bench IdleConnections -benchtime 3x ./gateway
//
// With max_header_size at 32KiB, of whose buffer only the first pages are ever
// touched by usual heads, that is 21 KiB. B/conn-at-once counts also what
// connections before left behind and the runtime has not returned yet.
func BenchmarkIdleConnections(b *testing.B) {
	const n = 10_000
	s := answering(b, func(string, string) string { return okAnswer })
	g := serve(b, gateway.Options{}, forwarding(s, "", "", ""))
	before := 0
	for b.Loop() {
		h := startHelper(b, "crowd", "")
		ask := func(n int) {
			if _, err := fmt.Fprintf(h.in, "%s %d\n", g.addr, n); err != nil {
				b.Fatal(err)
			}
			if got := h.line(); got != "ready" {
				b.Fatal(got)
			}
		}
		if before == 0 {
			ask(50)
			debug.FreeOSMemory()
			before = resident()
		}
		ask(n)
		b.ReportMetric(float64(resident()-before)/n, "B/conn-at-once")
		b.Logf("%d B a connection", (resident()-before)/n)
		for range 2 {
			runtime.GC()
		}
		debug.FreeOSMemory()
		b.ReportMetric(float64(resident()-before)/n, "B/conn")
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.StackInuse)/n, "B/conn-stack")
		b.ReportMetric(float64(m.HeapInuse)/n, "B/conn-heap")
		_ = h.in.Close()
		once(b, "all connections are closed", func() bool { return g.active()+g.Listeners()[0].Idle == 0 })
	}
}
