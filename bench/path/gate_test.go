//go:build linux

package path_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bench/load"
	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// Client and backend are this test binary again, in the role that
// roleVariable names; they end with their standard input.
const roleVariable = "SLUICE_BENCH_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "backend":
		err = playBackend()
	case "client":
		err = playClient()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func playBackend() error {
	b, err := load.NewBackend(map[string][]byte{
		"/300": load.Answer(300, ""), "/10k": load.Answer(10<<10, ""), "/64k": load.Answer(64<<10, ""), "/1m": load.Answer(1<<20, ""),
		"/cached/": load.Answer(300, "Cache-Control: public, max-age=36000\r\n"),
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, b.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return b.Serve()
}

// client repeats a request.
type client interface {
	Do(n int64) error
	Close()
}

// playClient takes a spec, then numbers of requests; it answers each with "done".
func playClient() error {
	in := json.NewDecoder(os.Stdin)
	var s load.Spec
	if err := in.Decode(&s); err != nil {
		return err
	}
	c, err := open(s)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		var n int64
		if err := in.Decode(&n); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := c.Do(n); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "done")
	}
}

func open(s load.Spec) (client, error) {
	if s.TLS || s.HTTP2 {
		return load.NewDialledClient(s)
	}
	return load.NewClient(s)
}

type process struct {
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

func startRole(role string) (*process, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{in: in, out: bufio.NewReader(out), cmd: cmd}, cmd.Start()
}

func (p *process) line() (string, error) {
	s, err := p.out.ReadString('\n')
	return strings.TrimSpace(s), err
}

// backend starts once and ends with this process, whose end closes its input.
var backend = sync.OnceValues(func() (string, error) {
	var err error
	if backendProcess, err = startRole("backend"); err != nil {
		return "", err
	}
	return backendProcess.line()
})

var backendProcess *process

// gate is a gateway under a benchmark.
type gate struct {
	*testing.B
	spec load.Spec // what the client is to do; its request and answer are still open
}

// serve runs a gateway in this process: the service s is the backend, whose
// address also takes the place of BACKEND. A configuration without a listener
// gets one.
func serve(b *testing.B, text string) *gate {
	b.Helper()
	addr, err := backend()
	if err != nil {
		b.Fatal(err)
	}
	service := fmt.Sprintf("s: {endpoints: [\"http://%s\"]}", addr)
	if before, after, ok := strings.Cut(text, "services: {"); ok {
		text = before + "services: {" + service + ", " + after
	} else {
		text += "\nservices: {" + service + "}"
	}
	if !strings.Contains(text, "listeners:") {
		text = "listeners: {main: {address: \"127.0.0.1:0\", h2c: true}}\n" + text
	}
	text = strings.ReplaceAll(text, "BACKEND", addr)
	c, err := config.Parse("bench.yaml", []byte(text), config.Options{})
	if err != nil {
		b.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), DrainTimeout: time.Second})
	b.Cleanup(func() { g.Shutdown(b.Context()) })
	if err := g.Apply(c); err != nil {
		b.Fatal(err)
	}
	return &gate{b, load.Spec{Address: g.Listeners()[0].Address, Connections: connections}}
}

// connections of the client: enough that the gateway never waits for it.
const connections = 32

// answers measures one request, which is to be answered with a status and a
// body of a length, or of any if that is negative.
func (g *gate) answers(request string, status, body int) {
	g.Helper()
	g.ready(request, status, body)(g.B)
}

// ready fills pools, caches and limits, and returns what measures; it can be
// measured again and again.
func (g *gate) ready(request string, status, body int) (measure func(*testing.B)) {
	g.Helper()
	c, err := startRole("client")
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() {
		_ = c.in.Close()
		_ = c.cmd.Wait()
	})
	spec := g.spec
	spec.Requests, spec.Status, spec.Body = []string{request}, status, body
	out := json.NewEncoder(c.in)
	do := func(b *testing.B, n int) {
		b.Helper()
		if err := out.Encode(n); err != nil {
			b.Fatal(err)
		}
		if _, err := c.line(); err != nil {
			b.Fatal("a request was not answered as it should be")
		}
	}
	g.first(spec)
	if err := out.Encode(spec); err != nil {
		g.Fatal(err)
	}
	do(g.B, max(500, spec.Keys))
	return func(b *testing.B) {
		b.ReportAllocs()
		b.ResetTimer()
		before := cpuTime()
		do(b, b.N)
		used := cpuTime() - before
		b.StopTimer()
		b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
	}
}

// first sends a request alone, whatever its answer: the one that fills a
// bucket or opens a breaker.
func (g *gate) first(spec load.Spec) {
	g.Helper()
	spec.Connections, spec.Status, spec.Body, spec.Keys = min(spec.Connections, 1), -1, -1, 0
	c, err := open(spec)
	if err != nil {
		g.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(1); err != nil {
		g.Fatal(err)
	}
}

// cpuTime is what this process has used, user and system, of all its threads.
func cpuTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
