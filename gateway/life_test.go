package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sluice/gateway"
	"sluice/gateway/registry"
)

// silent is a backend that reads what comes, answers nothing, and tells when
// its connection ends.
func silent(t *testing.T) (s *server, begun, ended chan struct{}) {
	begun, ended = make(chan struct{}, 100), make(chan struct{}, 100)
	return backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		begun <- struct{}{}
		_, _ = io.Copy(io.Discard, p.r)
		ended <- struct{}{}
	}), begun, ended
}

func TestResponseTimeout(t *testing.T) {
	f := func(service, route string, advance time.Duration) {
		t.Helper()
		s, begun, ended := silent(t)
		var now clock
		g := serve(t, now.options(), forwarding(s, service, route, ""))
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
			"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + text(100_000),
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		} {
			c := g.client()
			c.send(request)
			within(t, "the request arrives", begun)
			if advance > 0 {
				// The wait for an answer to a body that streams begins at its end.
				stop := make(chan struct{})
				go func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(50 * time.Millisecond):
							now.advance(advance)
						}
					}
				}()
				defer close(stop)
			}
			c.refused(504, "upstream_timeout")
			within(t, "the backend's connection is closed", ended)
		}
	}
	f("timeouts: {response: 50ms}, circuit_breaker: off", "", 0)
	f("circuit_breaker: off", "timeouts: {response: 50ms}", 0)
	f("timeouts: {response: 1200ms}, circuit_breaker: off", "", 2*time.Second) // by the sweeper
	f("circuit_breaker: off", "", 31*time.Second)
}

// full returns an address that takes no connection and refuses none.
func full(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	for range 10 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Skip("the queue of a socket has no end here")
	return ""
}

func TestConnectTimeout(t *testing.T) {
	g := forward(t, &server{addr: full(t)}, "timeouts: {connect: 50ms}, retries: off", "", "")
	c := g.client()
	c.request("GET /")
	c.refused(504, "upstream_connect_timeout")
	c.post("/", "body")
	c.refused(504, "upstream_connect_timeout")
}

func TestClientTimeouts(t *testing.T) {
	t.Parallel()
	s := answering(t, func(string, string) string { return okAnswer })
	g := forward(t, s, "", "streaming: true", "limits: {header_timeout: 250ms, idle_timeout: 250ms, stall_timeout: 300ms}\n")
	f := func(send string, status int) {
		t.Helper()
		c := g.client()
		c.send(send)
		if status != 0 {
			head, _ := c.response()
			if statusOf(head) != status {
				t.Errorf("%q: %q", send, head)
			}
			if v, _ := field(head, "Connection"); v != "close" {
				t.Errorf("%q: %q", send, head)
			}
		}
		c.ended()
	}
	f("", 0)
	f("GET", 408)
	f("GET / HTTP/1.1\r\nHost: a\r\n", 408)
	f("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome", 408)
	f("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome", 408)
	f("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nsome", 408)
	// Idle after an answer.
	c := g.client()
	c.request("GET /")
	c.wants(200, "ok")
	c.ended()
	// A slow second head.
	c = g.client()
	c.request("GET /")
	c.wants(200, "ok")
	c.send("GET / HT")
	if head, _ := c.response(); statusOf(head) != 408 {
		t.Errorf("%q", head)
	}
	c.ended()
}

// A connection whose client has said with its request that it sends no more is not kept for the next one.
func TestClientThatSendsNoMore(t *testing.T) {
	t.Parallel()
	s := answering(t, func(string, string) string { return okAnswer })
	g := forward(t, s, "", "", "limits: {idle_timeout: 1h}\n")
	for range 10 {
		c := g.client()
		for range 3 {
			c.request("GET /")
			c.wants(200, "ok")
		}
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		_ = c.conn.(*net.TCPConn).CloseWrite()
		c.wants(200, "ok")
		c.ended()
	}
}

// A body has no time in all, as long as something moves.
func TestSlowBodyIsNotStalled(t *testing.T) {
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			p.body(head)
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
			for range 8 {
				time.Sleep(60 * time.Millisecond)
				p.send("x")
			}
		}
	})
	g := forward(t, s, "", "", "limits: {header_timeout: 400ms, stall_timeout: 400ms}\n")
	c := g.client()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nx")
	for range 7 {
		time.Sleep(60 * time.Millisecond)
		c.send("x")
	}
	c.wants(200, "xxxxxxxx")
}

func TestStall(t *testing.T) {
	t.Parallel()
	ended, heard := make(chan struct{}, 1), make(chan struct{})
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		switch strings.Fields(head)[1] {
		case "/large":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + text(70_000))
		case "/chunked":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		case "/inchunk":
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc")
		case "/small":
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
		case "/endless":
			p.send("HTTP/1.1 200 OK\r\n\r\n")
			piece := []byte(text(1 << 20))
			for {
				if _, err := p.conn.Write(piece); err != nil {
					ended <- struct{}{}
					return
				}
			}
		case "/deaf":
			<-heard // until then nothing is read
		}
		_, _ = io.Copy(io.Discard, p.r)
		ended <- struct{}{}
	})
	f := func(g *gate) {
		t.Helper()
		for _, path := range []string{"/large", "/chunked", "/inchunk"} {
			c := g.client()
			c.request("GET " + path)
			if head := c.head(); statusOf(head) != 200 {
				t.Errorf("%s: %q", path, head)
			}
			if s, _ := c.rest(); strings.HasSuffix(s, "0\r\n\r\n") || len(s) > 70_000 {
				t.Errorf("%s: %q", path, abbreviate(s))
			}
			within(t, "the backend's connection is closed", ended)
		}
		c := g.client()
		c.request("GET /small")
		c.refused(504, "upstream_timeout")
		within(t, "the backend's connection is closed", ended)
	}
	f(forward(t, s, "circuit_breaker: off, retries: off", "streaming: true", "limits: {stall_timeout: 100ms}\n"))

	// The other way: a client that reads nothing, a backend that reads nothing.
	g := forward(t, s, "circuit_breaker: off, retries: off", "streaming: true", "limits: {stall_timeout: 100ms}\n")
	c := g.client()
	c.request("GET /endless")
	within(t, "the backend's connection is closed", ended)
	c.close()
	c = g.client()
	go func() {
		_, _ = io.WriteString(c.conn, "POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
		piece := []byte(text(1 << 20))
		for range 50 {
			_, _ = c.conn.Write(piece)
		}
	}()
	c.refused(504, "upstream_timeout")
	close(heard)
	within(t, "the backend's connection is closed", ended)

	// The sweeper does the same for timeouts that are longer than its tick.
	var now clock
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				now.advance(31 * time.Second)
			}
		}
	}()
	f(serve(t, now.options(), forwarding(s, "circuit_breaker: off, retries: off, timeouts: {response: 1d}", "", "")))
}

// A connection that says nothing is no request, however it ends.
func TestSilentConnection(t *testing.T) {
	g := serve(t, gateway.Options{}, respondOK)
	for range 5 {
		c := g.client()
		c.close()
		c = g.client()
		_ = c.conn.(*net.TCPConn).SetLinger(0)
		c.close()
	}
	c := g.client()
	c.get("/", 200, "ok")
	c.close()
	once(t, "the connections are forgotten", func() bool { return g.Listeners()[0].Idle+g.active() == 0 })
	if n := g.metric(`sluice_requests_total{route="-",service="-",method="other",code="400"}`); n != 0 {
		t.Errorf("%v requests are counted", n)
	}
}

// A client that leaves ends its call, and nobody else is blamed for it.
func TestClientGone(t *testing.T) {
	t.Parallel()
	s, begun, ended := silent(t)
	g := forward(t, s, "", "streaming: true", "")
	f := func(n int, request string) {
		t.Helper()
		for range n {
			c := g.client()
			c.send(request)
			within(t, "the request arrives", begun)
			left := time.Now()
			c.close()
			within(t, "the backend's connection is closed", ended)
			t.Logf("noticed after %v", time.Since(left).Round(time.Millisecond))
		}
	}
	f(6, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	f(1, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
	f(1, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nsome")
	f(1, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"+text(100_000))
	f(1, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
	once(t, "the exchanges have ended", func() bool { return g.active() == 0 })
	if got := string(g.Health()); !strings.Contains(got, `"s":"closed"`) {
		t.Errorf("%s", got)
	}
	if n := g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="499"}`); n != 6 {
		var b strings.Builder
		_ = g.WriteMetrics(&b)
		for line := range strings.SplitSeq(b.String(), "\n") {
			if strings.HasPrefix(line, "sluice_requests") {
				t.Log(line)
			}
		}
		t.Errorf("%v requests with 499", n)
	}
	if n := s.conns.Load(); n != 10 {
		t.Errorf("%d attempts", n)
	}
}

func TestClientGoneFromStream(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{}, 1)
	s := backend(t, func(p *peer) {
		head := p.head()
		if head == "" {
			return
		}
		p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		if !strings.HasPrefix(head, "GET /quiet") {
			p.send("3\r\nabc\r\n")
		}
		_, _ = io.Copy(io.Discard, p.r)
		ended <- struct{}{}
	})
	log := filepath.Join(t.TempDir(), "access.log")
	g := forward(t, s, "", "", fmt.Sprintf("policies: {access_log: {path: %q}}\n", log))
	want := 0
	f := func(version, path string, bytes int) {
		t.Helper()
		c := g.client()
		c.send("GET " + path + " HTTP/" + version + "\r\nHost: a\r\n\r\n")
		_ = c.head()
		c.close()
		within(t, "the backend's connection is closed", ended)
		want++
		once(t, "the line is written", func() bool {
			b, _ := os.ReadFile(log)
			return strings.Count(string(b), "\n") == want
		})
		b, _ := os.ReadFile(log)
		// The status is the one that was sent.
		line := strings.Split(string(b), "\n")[want-1]
		if !strings.Contains(line, fmt.Sprintf(`"status":200,"bytes_in":0,"bytes_out":%d,`, bytes)) || !strings.Contains(line, `"reason":"client_gone"`) {
			t.Errorf("%s", line)
		}
	}
	f("1.1", "/", 3)
	f("1.0", "/", 3)
	f("1.1", "/quiet", 0)
	if n := g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="200"}`); n != 3 {
		t.Errorf("%v requests are counted", n)
	}
	once(t, "the exchanges have ended", func() bool { return g.active() == 0 })
}

// A drain: what is in flight ends well, what is idle is closed, what comes
// during the delay is answered.
func TestDrain(t *testing.T) {
	begun, release := make(chan struct{}, 10), make(chan struct{})
	s := answering(t, func(head, body string) string {
		if strings.Contains(head, "/slow") {
			begun <- struct{}{}
			<-release
		}
		return okAnswer
	})
	g := serve(t, gateway.Options{DrainDelay: 700 * time.Millisecond}, forwarding(s, "", "streaming: true", ""))
	idle, slow, busy, upload := g.client(), g.client(), g.client(), g.client()
	idle.request("GET /")
	idle.wants(200, "ok")
	busy.request("GET /")
	busy.wants(200, "ok")
	slow.request("GET /slow")
	within(t, "the request arrives", begun)
	upload.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
	upload.send(text(100_000)[:50_000])

	down := make(chan struct{})
	go func() {
		defer close(down)
		g.Shutdown(context.Background())
	}()
	once(t, "it drains", g.Draining)
	if ready, _ := g.Ready(); ready {
		t.Error("a draining gateway is ready")
	}
	// New connections and new requests on old ones are served, and are the last.
	for _, c := range []*peer{busy, g.client()} {
		c.request("GET /")
		if head := c.wants(200, "ok"); !strings.Contains(head, "Connection: close\r\n") {
			t.Errorf("%q", head)
		}
		c.ended()
	}
	idle.ended()
	// The listener is closed, and what is in flight goes on.
	once(t, "nothing is accepted", func() bool {
		c, err := net.Dial("tcp", g.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	upload.send(text(100_000)[50_000:])
	within(t, "the request arrives", begun)
	close(release)
	for _, c := range []*peer{slow, upload} {
		if head := c.wants(200, "ok"); !strings.Contains(head, "Connection: close\r\n") {
			t.Errorf("%q", head)
		}
		c.ended()
	}
	within(t, "the gateway is down", down)
}

// Under load not one request fails because of a drain: on every connection that
// could be opened it is answered.
func TestDrainUnderLoad(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	g := serve(t, gateway.Options{DrainDelay: 100 * time.Millisecond}, forwarding(s, "", "", ""))
	var clients sync.WaitGroup
	var served atomic.Int64
	for range 8 {
		clients.Go(func() {
			for {
				nc, err := net.Dial("tcp", g.addr)
				if err != nil {
					return
				}
				c := newPeer(t, nc)
				c.serves = true
				for n := 0; ; n++ {
					_, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
					head := ""
					if err == nil {
						head = c.head()
					}
					if head == "" {
						// One that has rested may be closed at any time.
						if n == 0 {
							t.Errorf("the first request of a connection was cut, after %d", served.Load())
						}
						break
					}
					if body, _ := c.body(head); statusOf(head) != 200 || body != "ok" {
						t.Errorf("%q", head)
					}
					served.Add(1)
					if strings.Contains(head, "Connection: close") {
						break
					}
				}
				_ = nc.Close()
			}
		})
	}
	once(t, "there is load", func() bool { return served.Load() > 500 })
	g.Shutdown(context.Background())
	clients.Wait()
}

// Listeners come and go with the configuration; what is in flight on one that
// goes ends well.
func TestListenersMove(t *testing.T) {
	begun, release := make(chan struct{}, 1), make(chan struct{})
	s := answering(t, func(head, _ string) string {
		if strings.Contains(head, "/slow") {
			begun <- struct{}{}
			<-release
		}
		return okAnswer
	})
	one, two := nobody(t), nobody(t)
	at := func(addr string) string {
		return fmt.Sprintf("listeners: {main: {address: %q}}\n", addr) + forwarding(s, "", "", "")
	}
	g := serve(t, gateway.Options{}, at(one))
	slow := g.client()
	slow.request("GET /slow")
	within(t, "the request arrives", begun)
	g.apply(at(two))
	g.addr = two
	c := g.client()
	c.request("GET /")
	c.wants(200, "ok")
	once(t, "the old address is closed", func() bool {
		c, err := net.Dial("tcp", one)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	slow.wants(200, "ok")
	slow.ended()
	// And back again.
	g.apply(at(one))
	g.addr = one
	c = g.client()
	c.request("GET /")
	c.wants(200, "ok")
}

// A hundred reloads under load: no request fails, a tunnel stays, and nothing grows.
func TestReloadUnderLoad(t *testing.T) {
	s := answering(t, func(head, body string) string { return reply(200, body) })
	ws := sockets(t)
	text := func(i int) string {
		return fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"], timeouts: {response: %ds}}, ws: {endpoints: ["http://%s"]}}
routes:
  r: {match: {paths: [/]}, service: s, policies: {rate_limit: {requests: 10000000, per: 1m}}}
  ws: {match: {paths: [/ws]}, service: ws}
  n%d: {match: {paths: [/n%d]}, respond: {status: 204}}
`, s.addr, 10+i%7, ws.addr, i, i)
	}
	g := serve(t, gateway.Options{}, text(0))
	tunnel := g.socket()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var served atomic.Int64
	for range 4 {
		c := g.client()
		c.serves = true
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = c.conn.SetDeadline(time.Now().Add(patience)) // of each wait, not of all
				c.request("GET /")
				c.mustServe(200, "")
				c.post("/", "body")
				c.mustServe(200, "body")
				served.Add(2)
			}
		})
	}
	measure := func() (goroutines int, heap uint64) {
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	reload := func(n int) {
		for i := range n {
			before := served.Load()
			g.apply(text(i))
			once(t, "requests are served", func() bool { return served.Load() > before })
			echo(t, tunnel, "still here")
		}
	}
	reload(20)
	goroutines, heap := measure()
	reload(100)
	after, grown := measure()
	close(stop)
	clients.Wait()
	if after > goroutines+5 {
		t.Errorf("%d goroutines before, %d after", goroutines, after)
	}
	if grown > heap+4<<20 {
		t.Errorf("heap %d KiB before, %d after", heap>>10, grown>>10)
	}
	t.Logf("%d requests, %d goroutines, heap from %d to %d KiB", served.Load(), after, heap>>10, grown>>10)
	echo(t, tunnel, "still here")
	_ = tunnel.Close()
}

// mustServe is wants for a client on a goroutine of its own.
func (p *peer) mustServe(status int, body string) {
	head, got := p.response()
	if statusOf(head) != status || got != body {
		p.t.Errorf("want %d %q, got %q %q", status, body, head, got)
	}
}

// A gateway that is shut down leaves nothing behind.
func TestShutdownLeavesNothing(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	was := goleak.IgnoreCurrent()
	g := gateway.New(gateway.Options{Registry: registry.All(), DrainTimeout: time.Second})
	x := &gate{Gateway: g, t: t}
	x.apply(forwarding(s, "health_check: {path: /, interval: 10ms}", "", ""))
	x.addr = g.Listeners()[0].Address
	nc, err := net.Dial("tcp", x.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newPeer(t, nc)
	c.request("GET /")
	c.wants(200, "ok")
	x.apply(forwarding(s, "", "", ""))
	c.request("GET /")
	c.wants(200, "ok")
	g.Shutdown(context.Background())
	c.ended()
	_ = nc.Close()
	// fasthttp's clock, and the cleaners of its pools, which wake up now and then and end.
	goleak.VerifyNone(t, was,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"))
}
