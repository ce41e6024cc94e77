package gateway_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway"
)

// The tests of this file count what the gateway allocates, so client and
// backend are another process: this test binary again, in the role that
// helperRole names.
const (
	helperRole = "SLUICE_TEST_HELPER"
	helperSpec = "SLUICE_TEST_SPEC"
)

func TestMain(m *testing.M) {
	switch os.Getenv(helperRole) {
	case "backend":
		helpBackend()
	case "client":
		helpClient()
	case "client2":
		helpClient2()
	default:
		os.Exit(m.Run())
	}
}

// helpBackend answers every request alike; it prints its address and ends with
// its standard input.
func helpBackend() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	_ = fasthttp.Serve(ln, func(ctx *fasthttp.RequestCtx) {
		ctx.Response.Header.Set("X-Backend", "here")
		switch string(ctx.Path()) {
		case "/chunked":
			ctx.SetBodyStream(strings.NewReader("something of unknown length"), -1)
			return
		case "/large":
			ctx.SetBody(make([]byte, 100_000))
			return
		}
		ctx.SetContentType("application/json")
		ctx.SetBodyString(`{"id":7,"name":"something small"}`)
	})
}

// helpClient repeats a request: for each line "ADDRESS COUNT STATUS" of its
// input it sends the request of helperSpec COUNT times, all over one
// connection, and prints how many answers had the status. An address that
// begins with "tls:" is spoken to in TLS.
func helpClient() {
	var (
		conn net.Conn
		br   *bufio.Reader
		res  fasthttp.Response
	)
	request := []byte(os.Getenv(helperSpec))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var addr string
		var count, status int
		if _, err := fmt.Sscan(in.Text(), &addr, &count, &status); err != nil {
			panic(err)
		}
		if conn == nil {
			var err error
			addr, secure := strings.CutPrefix(addr, "tls:")
			if conn, err = net.Dial("tcp", addr); err != nil {
				panic(err)
			}
			if secure {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			}
			br = bufio.NewReader(conn)
		}
		good := 0
		for range count {
			if _, err := conn.Write(request); err != nil {
				break
			}
			res.Reset()
			if err := res.Read(br); err != nil {
				break
			}
			if res.StatusCode() == status {
				good++
			}
		}
		fmt.Println(good)
	}
}

// helper is this binary in a role.
type helper struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
}

func startHelper(t testing.TB, role, spec string) *helper {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperRole+"="+role, helperSpec+"="+spec)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	return &helper{t: t, in: in, out: bufio.NewReader(out)}
}

func (h *helper) line() string {
	h.t.Helper()
	s, err := h.out.ReadString('\n')
	if err != nil {
		h.t.Fatalf("a helper ended: %v", err)
	}
	return strings.TrimSpace(s)
}

// backendProcess starts a backend in a process of its own and returns its address.
func backendProcess(t testing.TB) string {
	t.Helper()
	return startHelper(t, "backend", "").line()
}

// measured is how many requests are counted, allowance how many allocations
// they may make together: what the runtime does for itself now and then, the
// sweepers, a log's writer. One for every request is far from it. Those go with
// the clock, so a machine that takes long for the requests is allowed more.
const (
	measured        = 10_000
	allowance       = 100
	allowancePerSec = 10
)

// perBody is what fasthttp allocates for a request with a body: the limit on
// what it would drain of one that was not read; perStream for an answer that it
// sends in chunks: their writer.
const (
	perBody   = 1
	perStream = 1
	perRecord = 1 // crypto/tls, for each record that it reads
)

// allocates sends a request, raw, measured times through the gateway, all of
// which are answered with status, and fails if that allocates.
func (g *gate) allocates(name, request string, status int) {
	g.t.Helper()
	g.t.(*testing.T).Run(name, func(t *testing.T) { g.countAllocations(t, name, request, status) })
}

func (g *gate) countAllocations(t *testing.T, name, request string, status int) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	client := startHelper(t, "client", request)
	send := func(n int) {
		t.Helper()
		if _, err := fmt.Fprintf(client.in, "%s %d %d\n", g.addr, n, status); err != nil {
			t.Fatal(err)
		}
		if got := client.line(); got != strconv.Itoa(n) {
			t.Fatalf("%s: %s of %d answers have status %d", name, got, n, status)
		}
	}
	// Pools and caches are filled, and then kept: a collection would empty them.
	send(500)
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	send(2000)
	profile := os.Getenv("SLUICE_ALLOC_PROFILE")
	if profile != "" {
		rate := runtime.MemProfileRate
		runtime.MemProfileRate = 1
		defer func() { runtime.MemProfileRate = rate }()
	}
	// What the gateways of other tests have still to do is over at the second look.
	for try := 1; ; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		send(measured)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		n := after.Mallocs - before.Mallocs
		t.Logf("%s: %d allocations, %d bytes, for %d requests", name, n, after.TotalAlloc-before.TotalAlloc, measured)
		bound := uint64(allowance + allowancePerSec*took.Seconds())
		if strings.Contains(request, "Content-Length: ") {
			bound += perBody * measured
		}
		if strings.HasPrefix(g.addr, "tls:") {
			bound += perRecord * measured
		}
		if strings.Contains(request, "/chunked ") {
			bound += perStream * measured
		}
		if n > bound && try < 3 {
			continue
		}
		if n > bound {
			t.Errorf("%s: %d allocations for %d requests; SLUICE_ALLOC_PROFILE=FILE shows where", name, n, measured)
		}
		break
	}
	if profile != "" {
		if f, err := os.Create(profile); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(f, 0)
			_ = f.Close()
		}
	}
}

func TestProxyAllocates(t *testing.T) {
	addr := backendProcess(t)
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes:
  r: {match: {paths: [/api]}, service: s, strip_prefix: true}
  shut: {match: {paths: [/shut]}, service: s, policies: {api_key: {}}}
`, addr))
	const fields = "Host: api.example\r\nUser-Agent: test\r\nAccept: */*\r\nCookie: a=b\r\n"
	g.allocates("GET", "GET /api/users/7?a=b HTTP/1.1\r\n"+fields+"\r\n", 200)
	body := string(bytes.Repeat([]byte("x"), 1000))
	g.allocates("POST", "POST /api/users HTTP/1.1\r\n"+fields+"Content-Length: 1000\r\n\r\n"+body, 200)
	g.allocates("chunked", "GET /api/chunked HTTP/1.1\r\n"+fields+"\r\n", 200)
	g.allocates("large", "GET /api/large HTTP/1.1\r\n"+fields+"\r\n", 200)
	g.allocates("404", "GET /nowhere HTTP/1.1\r\n"+fields+"\r\n", 404)
	g.allocates("401", "GET /shut HTTP/1.1\r\n"+fields+"\r\n", 401)
}
