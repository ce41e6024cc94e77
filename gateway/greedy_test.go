package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// Two more roles of this binary.
func init() {
	switch os.Getenv(helperRole) {
	case "crowd":
		helpCrowd()
		os.Exit(0)
	case "scarce":
		helpScarce()
	}
}

const respondOK = "routes: {r: {match: {paths: [/]}, respond: {body: ok}}}\n"

// dial opens a connection without a test's patience.
func (g *gate) dial() net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// A thousand clients send their heads byte by byte, and never end them: the
// others do not notice, and in the end the slow ones are sent away.
func TestSlowloris(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 100
	}
	s := answering(t, func(string, string) string { return okAnswer })
	g := forward(t, s, "", "", "limits: {header_timeout: 3s}\n")
	slow := make([]net.Conn, n)
	for i := range slow {
		slow[i] = g.dial()
		if _, err := io.WriteString(slow[i], "GET / HTTP/1.1\r\nHost: a\r\nX-A: "); err != nil {
			t.Fatal(err)
		}
	}
	once(t, "all slow clients are seen", func() bool { return g.active() == n })
	c := g.client()
	for i := range 500 {
		if i%50 == 0 {
			for _, c := range slow {
				_, _ = io.WriteString(c, "x")
			}
			// New clients get through as well.
			g.client().get("/", 200, "ok")
		}
		c.get("/", 200, "ok")
	}
	for i, c := range slow {
		p := newPeer(t, c)
		head, _ := p.response()
		if statusOf(head) != 408 {
			t.Fatalf("slow client %d: %q", i, head)
		}
		p.ended()
	}
}

func (p *peer) get(path string, status int, body string) {
	p.t.Helper()
	p.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
	p.wants(status, body)
}

// Slow readers of large answers hold what is theirs, and nothing of others.
func TestSlowReaders(t *testing.T) {
	const n = 20
	// More than sockets hold.
	large := append([]byte("HTTP/1.1 200 OK\r\nContent-Length: 16777216\r\n\r\n"), make([]byte, 16<<20)...)
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			answer := []byte(okAnswer)
			if strings.HasPrefix(head, "GET /large") {
				answer = large
			}
			if _, err := p.conn.Write(answer); err != nil {
				return
			}
		}
	})
	g := forward(t, s, "", "", "limits: {stall_timeout: 2s}\n")
	slow := make([]net.Conn, n)
	for i := range slow {
		slow[i] = g.dial()
		_ = slow[i].(*net.TCPConn).SetReadBuffer(4096)
		if _, err := io.WriteString(slow[i], "GET /large HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	once(t, "all are being answered", func() bool { return g.active() == n })
	c := g.client()
	for range 100 {
		c.get("/", 200, "ok")
	}
	once(t, "those that take nothing are given up", func() bool { return g.active() == 0 })
}

// What is idle makes room for who comes, and what is not does not.
func TestEvictionUnderPressure(t *testing.T) {
	s, begun, _ := silent(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
limits: {max_connections: 10}
services: {s: {endpoints: ["http://%s"]}}
routes:
  r: {match: {paths: [/]}, respond: {body: ok}}
  busy: {match: {paths: [/busy]}, service: s}
`, s.addr))
	var idle, busy []*peer
	for range 5 {
		c := g.client()
		c.get("/", 200, "ok")
		idle = append(idle, c)
	}
	for range 5 {
		c := g.client()
		c.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n")
		within(t, "the request arrives", begun)
		busy = append(busy, c)
	}
	// Five new ones take the place of the five that rest, oldest first.
	for i := range 5 {
		once(t, "all that were answered rest", func() bool { return g.Listeners()[0].Idle == 5 })
		c := g.client()
		c.get("/", 200, "ok")
		idle[i].ended()
		idle[i] = c
	}
	once(t, "all that were answered rest", func() bool { return g.Listeners()[0].Idle == 5 })
	for i := range 5 {
		c := g.client()
		c.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n")
		within(t, "the request arrives", begun)
		idle[i].ended()
		busy = append(busy, c)
	}
	c := g.client()
	c.tooMany()
	if n := g.metric(`sluice_connections_refused_total{listener="main",reason="max_connections"}`); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	if n := g.Listeners()[0].Active; n != len(busy) {
		t.Errorf("%d connections, want %d", n, len(busy))
	}
}

// tooMany reads the answer to a connection over a limit.
func (p *peer) tooMany() {
	p.t.Helper()
	head := p.refused(503, "too_many_connections")
	for name, want := range map[string]string{"Connection": "close", "Retry-After": "1"} {
		if v, _ := field(head, name); v != want {
			p.fail("%s: %q", name, head)
		}
	}
	p.ended()
}

func TestConnectionsPerAddress(t *testing.T) {
	var log lockedBuffer
	g := serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, "limits: {max_connections_per_ip: 3}\n"+respondOK)
	var held []*peer
	for range 3 {
		c := g.client()
		c.get("/", 200, "ok")
		held = append(held, c)
	}
	for range 5 {
		// The answer arrives whole, whether the client has spoken or not.
		g.client().tooMany()
		c := g.client()
		_, _ = io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.tooMany()
	}
	if n := g.metric(`sluice_connections_refused_total{listener="main",reason="max_connections_per_ip"}`); n != 10 {
		t.Errorf("%v refusals are counted", n)
	}
	if said := log.String(); strings.Count(said, "limits.max_connections_per_ip") != 1 || !strings.Contains(said, "client=127.0.0.1") {
		t.Errorf("ten refusals are logged as %s", said)
	}
	// Another address has its own.
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	nc, err := d.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	newPeer(t, nc).get("/", 200, "ok")
	for _, c := range held {
		c.get("/", 200, "ok")
	}
	held[0].close()
	once(t, "there is room again", func() bool {
		c := g.client()
		defer c.close()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		return statusOf(c.head()) == 200
	})
}

// helpScarce is a gateway that may open few files: it serves the configuration
// of helperSpec, prints its address and then its log, and ends with its
// standard input.
func helpScarce() {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	limit.Cur = scarce
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		panic(err)
	}
	c, err := config.Parse("test.yaml", []byte(os.Getenv(helperSpec)), config.Options{})
	if err != nil {
		panic(err)
	}
	r, w := io.Pipe()
	g := gateway.New(gateway.Options{Registry: registry.All(), Log: slog.New(slog.NewTextHandler(w, nil))})
	go func() {
		for in := bufio.NewScanner(r); in.Scan(); {
			fmt.Println(in.Text())
		}
	}()
	if err := g.Apply(c); err != nil {
		panic(err)
	}
	fmt.Println("address=" + g.Listeners()[0].Address)
	_, _ = io.Copy(io.Discard, os.Stdin)
	g.Shutdown(context.Background())
	os.Exit(0)
}

const scarce = 60

func TestOutOfFiles(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	h := startHelper(t, "scarce", "listeners: {main: {address: \"127.0.0.1:0\"}}\n"+forwarding(s, "", "", "limits: {header_timeout: 2s}\n"))
	g := &gate{t: t}
	for g.addr == "" {
		_, g.addr, _ = strings.Cut(h.line(), "address=")
	}
	var mu sync.Mutex
	var said bytes.Buffer
	go func() {
		for {
			line, err := h.out.ReadString('\n')
			mu.Lock()
			said.WriteString(line)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	says := func(what string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(said.String(), what)
		}
	}
	old := g.client()
	old.get("/", 200, "ok")
	// More than it can open, none of which says anything.
	crowd := make([]net.Conn, 2*scarce)
	for i := range crowd {
		crowd[i] = g.dial()
	}
	once(t, "it says so", says("out of file descriptors"))
	// Who speaks is served all the while. A connection that rests may be
	// closed to make room.
	answered := 0
	for _, c := range crowd {
		p := newPeer(t, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
			continue
		}
		line, _ := p.r.ReadString('\n')
		if statusOf(line) == 200 {
			answered++
		}
		_ = c.Close()
	}
	if answered < len(crowd)*3/4 {
		t.Errorf("only %d of %d were answered", answered, len(crowd))
	}
	once(t, "it says that it goes on", func() bool {
		c := g.client()
		defer c.close()
		c.get("/", 200, "ok")
		return says("accepting connections again")()
	})
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(said.String(), "out of file descriptors"); n > 2 {
		t.Errorf("it said so %d times", n)
	}
}
