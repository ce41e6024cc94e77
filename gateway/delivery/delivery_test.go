package delivery

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/config"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/telemetry"
)

// Nothing that an output started outlives it.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings are those of a block as a file has it.
func settings[T any](t *testing.T, text string) *T {
	t.Helper()
	block, err := config.ParseBlock("output", text)
	if err != nil {
		t.Fatal(err)
	}
	c := new(T)
	if errs := block.Decode(c); len(errs) > 0 {
		t.Fatal(errs)
	}
	return c
}

func open(t *testing.T, target *Target, err error) telemetry.Output {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	out, err := target.Open(make(chan struct{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}

func send(t *testing.T, out telemetry.Output, lines string, lost int, problem string) {
	t.Helper()
	n, err := out.Lines([]byte(lines))
	if n != lost || (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
		t.Errorf("%d lines lost, %v; want %d, %q", n, err, lost, problem)
	}
	if err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells a secret: %v", err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

// endpoint keeps what it was sent, and answers what it is told.
type endpoint struct {
	*httptest.Server
	mu      sync.Mutex
	bodies  []string
	headers []http.Header
	answers []int
	stuck   chan struct{}
}

func newEndpoint(t *testing.T, answers ...int) *endpoint {
	e := &endpoint{answers: answers, stuck: make(chan struct{})}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.bodies, e.headers = append(e.bodies, string(body)), append(e.headers, r.Header)
		status := 200
		if len(e.answers) > 0 {
			status, e.answers = e.answers[0], e.answers[1:]
		}
		e.mu.Unlock()
		if status == 0 {
			<-e.stuck
			return
		}
		if status == 302 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(func() { close(e.stuck); e.Close() })
	return e
}

func (e *endpoint) got(t *testing.T, want ...string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if fmt.Sprintf("%q", e.bodies) != fmt.Sprintf("%q", want) {
		t.Errorf("the endpoint got %q, want %q", e.bodies, want)
	}
}

func TestHTTP(t *testing.T) {
	f := func(text string, answers []int, lines string, lost int, problem string, want ...string) *endpoint {
		t.Helper()
		e := newEndpoint(t, answers...)
		target, err := settings[HTTP](t, strings.ReplaceAll(text, "URL", e.URL)).Target()
		send(t, open(t, target, err), lines, lost, problem)
		e.got(t, want...)
		return e
	}
	f("{url: URL/in}", nil, "{1}\n{2}\n", 0, "", "{1}\n{2}\n")
	f("{url: URL, batch: 2}", nil, "{1}\n{2}\n{3}\n", 0, "", "{1}\n{2}\n", "{3}\n")
	e := f("{url: URL, encoding: json}", nil, "{1}\n{2}\n", 0, "", "[{1},{2}]")
	if kind := e.headers[0].Get("Content-Type"); kind != "application/json; charset=utf-8" {
		t.Error(kind)
	}
	f("{url: URL, encoding: json, batch: 1}", nil, "{1}\n{2}\n", 0, "", "{1}", "{2}")
	// Tried again where that may help, and only there.
	f("{url: URL}", []int{503, 429, 408}, "{1}\n", 0, "", "{1}\n", "{1}\n", "{1}\n", "{1}\n")
	f("{url: URL, retries: 1}", []int{500, 500}, "{1}\n{2}\n", 2, "500", "{1}\n{2}\n", "{1}\n{2}\n")
	f("{url: URL, batch: 1}", []int{400}, "{1}\n{2}\n", 1, "400", "{1}\n", "{2}\n")
	f("{url: URL}", []int{302}, "{1}\n", 1, "302", "{1}\n")
	// Once nobody was reached, the rest is tried once.
	f("{url: URL, batch: 1, retries: 1}", []int{500, 500, 500}, "{1}\n{2}\n{3}\n", 2, "500", "{1}\n", "{1}\n", "{2}\n", "{3}\n")

	e = newEndpoint(t)
	target, err := settings[HTTP](t, "{url: '"+strings.Replace(e.URL, "http://", "http://me:secret@", 1)+"/in?token=secret', headers: {X-Api-Key: secret}}").Target()
	send(t, open(t, target, err), "{1}\n", 0, "")
	if h := e.headers[0]; h.Get("Authorization") != "Basic bWU6c2VjcmV0" || h.Get("X-Api-Key") != "secret" || h.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%v", h)
	}
	if strings.Contains(target.Name+target.Identity, "secret") || target.Name != e.URL+"/in" {
		t.Errorf("%s, %s", target.Name, target.Identity)
	}
	target, err = settings[HTTP](t, "{url: 'http://me:secret@127.0.0.1:1/?token=secret', retries: 0}").Target()
	send(t, open(t, target, err), "{1}\n{2}\n", 2, "refused")
}

// Who ends does not wait for an endpoint that does not answer.
func TestAnEndIsBounded(t *testing.T) {
	e := newEndpoint(t, 0, 0, 0, 0, 0)
	target, err := settings[HTTP](t, "{url: '"+e.URL+"', timeout: 1m}").Target()
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	out, err := target.Open(stop)
	if err != nil {
		t.Fatal(err)
	}
	close(stop)
	send(t, out, "{1}\n", 1, "context canceled")
	out.Close()
}

// lineServer keeps the lines of all connections to it.
type lineServer struct {
	net.Listener
	mu    sync.Mutex
	lines []string
	conns []net.Conn
}

func newLineServer(t *testing.T, l net.Listener) *lineServer {
	s := &lineServer{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			wg.Go(func() {
				for r := bufio.NewScanner(c); r.Scan(); {
					s.mu.Lock()
					s.lines = append(s.lines, r.Text())
					s.mu.Unlock()
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); s.hangUp(); wg.Wait() })
	return s
}

func (s *lineServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *lineServer) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, ",")
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTCP(t *testing.T) {
	s := newLineServer(t, listen(t))
	target, err := settings[TCP](t, s.Addr().String()).Target()
	out := open(t, target, err)
	send(t, out, "1\n2\n", 0, "")
	send(t, out, "3\n", 0, "")
	eventually(t, "three lines", func() bool { return s.all() == "1,2,3" })

	// A server that ends is noticed before lines are written into nothing.
	s.hangUp()
	eventually(t, "the end of the connection", out.(*socket).gone.Load)
	send(t, out, "4\n5\n", 0, "")
	eventually(t, "the lines on another connection", func() bool { return s.all() == "1,2,3,4,5" })

	s.Close()
	s.hangUp()
	eventually(t, "the end of the connection", out.(*socket).gone.Load)
	send(t, out, "6\n7\n", 2, "refused")
}

func TestTLS(t *testing.T) {
	authority := certstest.New(t)
	certFile, keyFile := authority.Issue("logs", certstest.Leaf{DNS: []string{"logs.test"}})
	s := newLineServer(t, tlsListener(t, certFile, keyFile))
	text := "{address: 'tls://" + s.Addr().String() + "', retries: 0, tls: {server_name: logs.test, ca: " + authority.File + "}}"
	target, err := settings[TCP](t, text).Target()
	out := open(t, target, err)
	send(t, out, "1\n2\n", 0, "")
	eventually(t, "two lines", func() bool { return s.all() == "1,2" })

	other, err := settings[TCP](t, strings.Replace(text, "logs.test", "evil.test", 1)).Target()
	if other.Identity == target.Identity {
		t.Error("other settings are the same output")
	}
	send(t, open(t, other, err), "1\n", 1, "evil.test")
}

func TestUDP(t *testing.T) {
	got := datagrams(t, "udp", "127.0.0.1:0")
	target, err := settings[UDP](t, "{address: '"+got.address+"'}").Target()
	send(t, open(t, target, err), "1\n"+strings.Repeat("x", 70000)+"\n3\n", 1, "message too long")
	eventually(t, "two datagrams", func() bool { return got.all() == "1,3" })
}

// received are the datagrams that came to a socket.
type received struct {
	address string
	mu      sync.Mutex
	list    []string
}

func (r *received) all() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.list, ",")
}

func datagrams(t *testing.T, network, address string) *received {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r := &received{address: c.LocalAddr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1<<16); ; {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.list = append(r.list, string(b[:n]))
			r.mu.Unlock()
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return r
}

// stamped are lines as telemetry writes them.
func stamped(t *testing.T, name string, statuses ...int) string {
	t.Helper()
	f, err := telemetry.NewFormat(name, []string{"host"})
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, status := range statuses {
		b = f.Stamped().Append(b, &telemetry.Record{
			Time: time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC), Method: []byte("GET"), Path: []byte("/users"), Host: []byte("secret"), Status: status,
			Duration: 1500 * time.Microsecond, Upstream: -1, TraceID: []byte("0af7651916cd43dd8448eb211c80319c"), Route: "users",
		})
	}
	return string(b)
}

func TestSyslog(t *testing.T) {
	match := func(got, want string) {
		t.Helper()
		if !regexp.MustCompile("^" + want + "$").MatchString(got) {
			t.Errorf("%q is not %s", got, want)
		}
	}
	udp := datagrams(t, "udp", "127.0.0.1:0")
	target, err := settings[Syslog](t, "{address: 'udp://"+udp.address+"', hostname: gate, app_name: 'my gate'}").Target()
	if !target.Stamped {
		t.Error("syslog has no severity to tell")
	}
	send(t, open(t, target, err), stamped(t, "combined", 200, 404, 500), 0, "")
	eventually(t, "three messages", func() bool { return strings.Count(udp.all(), "GET") == 3 })
	for i, priority := range []int{16*8 + 6, 16*8 + 5, 16*8 + 3} {
		match(udp.list[i], fmt.Sprintf(`<%d>1 2026-03-04T05:06:07\.089Z gate mygate \d+ access - - - - \[04/Mar/2026:05:06:07 \+0000\] "GET /users -" \d+ 0 "-" "-"`, priority))
	}

	path := filepath.Join(t.TempDir(), "log")
	unix := datagrams(t, "unixgram", path)
	target, err = settings[Syslog](t, "{address: 'unix://"+path+"', header: rfc3164, facility: user}").Target()
	send(t, open(t, target, err), stamped(t, "combined", 200), 0, "")
	eventually(t, "a message", func() bool { return unix.all() != "" })
	match(unix.all(), `<14>Mar  4 \d\d:\d\d:\d\d sluice\[\d+\]: - - - .*\n`)
}

// Over a stream each message is preceded by its length.
func TestSyslogCountsOctets(t *testing.T) {
	l := listen(t)
	got := make(chan string, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for r := bufio.NewReader(c); ; {
			length, err := r.ReadString(' ')
			if err != nil {
				return
			}
			n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
			if err != nil {
				got <- err.Error()
				return
			}
			message := make([]byte, n)
			if _, err := io.ReadFull(r, message); err != nil {
				return
			}
			got <- string(message)
		}
	}()
	target, err := settings[Syslog](t, "{address: 'tcp://"+l.Addr().String()+"', facility: auth, client_errors: crit, server_errors: alert, least: crit}").Target()
	out := open(t, target, err)
	send(t, out, stamped(t, "json", 200, 404, 500), 0, "")
	for _, priority := range []int{4*8 + 2, 4*8 + 1} { // 200 is below the least severity
		message := <-got
		head, text, _ := strings.Cut(message, " access - ")
		if !strings.HasPrefix(head, fmt.Sprintf("<%d>1 ", priority)) || !json.Valid([]byte(text)) || strings.Contains(text, "\n") {
			t.Errorf("%q, want priority %d", message, priority)
		}
	}
	out.Close()
	l.Close()
	<-done
}

func TestSettingsThatAreWrong(t *testing.T) {
	f := func(target interface{ Target() (*Target, error) }, path, message string) {
		t.Helper()
		_, err := target.Target()
		var at *config.Error
		if !errors.As(err, &at) || at.Path != path || !strings.Contains(at.Message, message) || strings.Contains(at.Message, "secret") {
			t.Errorf("%v, want %s: %s", err, path, message)
		}
	}
	f(settings[HTTP](t, "{url: 'ftp://user:secret@a'}"), "url", "write https://HOST/PATH")
	f(settings[HTTP](t, "{url: 'http://a', headers: {'X Y': secret}}"), "headers", `"X Y"`)
	f(settings[HTTP](t, "{url: 'http://a', tls: {ca: x}}"), "tls", "has no use without TLS")
	f(settings[HTTP](t, "{url: 'https://a', tls: {ca: /nowhere.pem}}"), "tls.ca", "no such file")
	f(settings[TCP](t, "{address: 'udp://a:1'}"), "address", "HOST:PORT")
	f(settings[TCP](t, "{address: 'user:secret@a:1'}"), "address", "HOST:PORT")
	f(settings[UDP](t, "{address: a}"), "address", "HOST:PORT")
	f(settings[UDP](t, "{address: 'a:0'}"), "address", "HOST:PORT")
	f(settings[Syslog](t, "{address: 'a:514'}"), "address", "udp://HOST:PORT")
	f(settings[Syslog](t, "{address: 'udp://a:514', tls: {ca: x}}"), "tls", "has no use")
	f(settings[OTLP](t, "{endpoint: 'a:4317/logs'}"), "endpoint", "gRPC knows none")
	f(settings[OTLP](t, "{endpoint: 'http://me:secret@a:4317'}"), "endpoint", "put credentials into headers")
	f(settings[OTLP](t, "{endpoint: a}"), "endpoint", "write HOST:PORT")
	f(settings[OTLP](t, "{endpoint: 'a:4317', resource: {service.name: x}}"), "resource", "service_name")
}

func TestRepetitions(t *testing.T) {
	var calls atomic.Int32
	f := func(retries, want int, result func(call int32) error) {
		t.Helper()
		calls.Store(0)
		_ = repeat(t.Context(), nil, retries, func() error { return result(calls.Add(1)) })
		if n := int(calls.Load()); n != want {
			t.Errorf("%d tries, want %d", n, want)
		}
	}
	failed := errors.New("failed")
	f(0, 1, func(int32) error { return failed })
	f(2, 3, func(int32) error { return failed })
	f(2, 1, func(int32) error { return final{failed} })
	f(2, 2, func(call int32) error {
		if call == 2 {
			return nil
		}
		return busy{failed, time.Millisecond}
	})
	stopped := make(chan struct{})
	close(stopped)
	calls.Store(0)
	if err := repeat(t.Context(), stopped, 5, func() error { calls.Add(1); return failed }); !errors.Is(err, failed) || calls.Load() != 2 {
		t.Errorf("%v after %d tries", err, calls.Load())
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := repeat(ended, nil, 5, func() error { return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
}

func TestCutLines(t *testing.T) {
	f := func(lines string, most, size int, batch string, n int) {
		t.Helper()
		if got, count := cutLines([]byte(lines), most, size); !bytes.Equal(got, []byte(batch)) || count != n {
			t.Errorf("%q, %d", got, count)
		}
	}
	f("a\nb\nc\n", 2, 100, "a\nb\n", 2)
	f("aaa\nb\nc\n", 10, 3, "aaa\n", 1)
	f("a\nb\nc\n", 10, 4, "a\nb\n", 2)
	f("a", 10, 10, "a", 1)
}

func tlsListener(t *testing.T, certFile, keyFile string) net.Listener {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{pair}}) //nolint:gosec // the default version will do
}
