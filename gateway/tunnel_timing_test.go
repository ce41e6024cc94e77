package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"github.com/valyala/fasthttp"

	"sluice/gateway"
)

func init() {
	switch os.Getenv(helperRole) {
	case "switching":
		helpSwitching()
		os.Exit(0)
	case "sockets":
		helpSockets()
		os.Exit(0)
	}
}

const upgradeSocket = "GET /ws HTTP/1.1\r\nHost: a\r\nUser-Agent: crowd\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// helpSwitching is a service that takes up every protocol that is asked for and sends back what comes. It costs little, so that many can rest there.
func helpSwitching() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			buf := make([]byte, 4096)
			n, _ := c.Read(buf)
			protocol, _ := field(string(buf[:n]), "Upgrade")
			key, _ := field(string(buf[:n]), "Sec-WebSocket-Key")
			_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n", protocol, accept(key))
			// Past splice, which needs two files for a pipe.
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf)
			_ = c.Close()
		}()
	}
}

// helpSockets is many clients: for a line "ADDRESS COUNT" it opens so many WebSockets, keeps them and prints "ready".
func helpSockets() {
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
			if _, err := fmt.Fprintf(c, upgradeSocket, "websocket"); err != nil {
				panic(err)
			}
			if n, err := c.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101 ") {
				panic(fmt.Sprint(err, string(buf[:n])))
			}
			crowd = append(crowd, c)
		}
		fmt.Println("ready")
	}
	for _, c := range crowd {
		_ = c.Close()
	}
}

// BenchmarkIdleSockets measures what a WebSocket costs that rests, in resident memory: one that passes to a service, with its connection there, and
// one that the action websocket takes up. A process with fewer files than two for each connection opens as many as it can.
//
//	go test -run xxx -bench IdleSockets -benchtime 1x ./gateway
func BenchmarkIdleSockets(b *testing.B) {
	service := startHelper(b, "switching", "").line()
	for name, text := range map[string]string{
		"passing": fmt.Sprintf("services: {s: {endpoints: [\"http://%s\"], connections: {max_per_endpoint: 20000}}}\nroutes: {r: {match: {paths: [/]}, service: s}}\n", service),
		"limited": fmt.Sprintf("services: {s: {endpoints: [\"http://%s\"], connections: {max_per_endpoint: 20000}}}\nroutes: {r: {match: {paths: [/]}, service: s, policies: {websocket_limit: {max_message: 1MiB, ping: 1h, idle_timeout: 1h}}}}\n", service),
		"taken":   bridged(service, "to: http, idle_timeout: 1h, ping: 1h", ""),
	} {
		b.Run(name, func(b *testing.B) {
			n := min(10_000, (openFiles()-500)/2)
			g := serve(b, gateway.Options{}, text)
			before := 0
			for b.Loop() {
				h := startHelper(b, "sockets", "")
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
				for range 2 {
					runtime.GC()
				}
				debug.FreeOSMemory()
				b.ReportMetric(float64(n), "sockets")
				b.ReportMetric(float64(resident()-before)/float64(n), "B/socket")
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				b.ReportMetric(float64(m.StackInuse)/float64(n), "B/socket-stack")
				b.ReportMetric(float64(m.HeapInuse)/float64(n), "B/socket-heap")
				_ = h.in.Close()
				once(b, "all are closed", func() bool { return g.active() == 0 })
			}
		})
	}
}

// openFiles is how many files this process may have open.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	return int(min(limit.Cur, 1<<20))
}

// BenchmarkTunnel measures a message there and back through a tunnel: of another protocol, whose bytes nobody looks at, of WebSocket, and of
// WebSocket with every limit.
func BenchmarkTunnel(b *testing.B) {
	service := startHelper(b, "switching", "").line()
	const limits = "policies: {websocket_limit: {max_message: 1MiB, max_service_message: 1MiB, rate: {messages: 1000000000, per: 1s}, ping: 1h, idle_timeout: 1h}}"
	for _, size := range []int{100, 64 << 10} {
		frame := []byte(maskedFrame(0x82, text(size)))
		for _, kind := range []struct{ name, protocol, limits string }{{"other", "raw", ""}, {"websocket", "websocket", ""}, {"limited", "websocket", limits}} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, size), func(b *testing.B) {
				g := serve(b, gateway.Options{}, forwarding(&server{addr: service}, "", kind.limits, ""))
				c, err := net.Dial("tcp", g.addr)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				if _, err := fmt.Fprintf(c, upgradeSocket, kind.protocol); err != nil {
					b.Fatal(err)
				}
				r := bufio.NewReaderSize(c, 128<<10)
				var res fasthttp.ResponseHeader
				if err := res.Read(r); err != nil || res.StatusCode() != 101 {
					b.Fatal(err, res.StatusCode())
				}
				buf := make([]byte, len(frame))
				b.SetBytes(int64(len(frame)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.Write(frame); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(r, buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
