//go:build linux

package load

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func startBackend(t *testing.T) string {
	t.Helper()
	b, err := NewBackend(map[string][]byte{"/300": Answer(300, "Cache-Control: no-store\r\n"), "/1m": Answer(1<<20, "")})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = b.Serve() }() // ends with the test binary
	return b.Addr()
}

const get300 = "GET /300 HTTP/1.1\r\nHost: a\r\n\r\n"

func TestBackendAnswers(t *testing.T) {
	addr := startBackend(t)
	f := func(method, path, body string, status int, length int) string {
		t.Helper()
		req, _ := http.NewRequest(method, "http://"+addr+path, strings.NewReader(body))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != status || len(b) != length {
			t.Errorf("%s %s: status %d, %d bytes; want %d, %d", method, path, res.StatusCode, len(b), status, length)
		}
		return string(b)
	}
	f("GET", "/300", "", 200, 300)
	f("GET", "/1m", "", 200, 1<<20)
	f("GET", "/none", "", 404, 0)
	f("POST", "/300", "some body", 200, 300)
	long := strings.Repeat("0123456789", 10_000)
	if f("POST", "/echo", long, 200, len(long)) != long {
		t.Error("the echo is not the body")
	}
	if got := f("GET", "/hits", "", 200, 1); got != "5" {
		t.Errorf("%s hits", got)
	}
}

func TestBackendAnswersPipelinedRequests(t *testing.T) {
	c, err := net.Dial("tcp", startBackend(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, get300+"POST /echo HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi"+get300[:20]); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	for i, want := range []int64{300, 2, 300} {
		if i == 2 {
			if _, err := io.WriteString(c, get300[20:]); err != nil {
				t.Fatal(err)
			}
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := io.Copy(io.Discard, res.Body); n != want {
			t.Errorf("answer %d has %d bytes", i, n)
		}
	}
}

// The counts of a run agree with each other; its times are nobody's promise.
func TestRun(t *testing.T) {
	addr := startBackend(t)
	f := func(s Spec) {
		t.Helper()
		s.Address, s.Status, s.Warm, s.Measure = addr, 200, 20*time.Millisecond, 200*time.Millisecond
		var calls []string
		r, err := Run(s, func() { calls = append(calls, "begin") }, func() { calls = append(calls, "end") })
		if err != nil {
			t.Fatal(err)
		}
		if len(calls) != 2 || calls[0] != "begin" {
			t.Errorf("calls: %v", calls)
		}
		if r.Requests == 0 || r.Total < r.Requests || r.Elapsed < s.Measure {
			t.Errorf("%d of %d in %v", r.Requests, r.Total, r.Elapsed)
		}
		if s.Rate == 0 && r.Latency.Count() != r.Requests {
			t.Errorf("%d latencies of %d requests", r.Latency.Count(), r.Requests)
		}
		if want := int64(s.Rate) * int64(s.Measure) / int64(time.Second); s.Rate > 0 && r.Latency.Count() != want {
			t.Errorf("%d latencies, %d were meant to be sent", r.Latency.Count(), want)
		}
	}
	f(Spec{Connections: 3, Requests: []string{get300}, Body: 300})
	f(Spec{Connections: 2, Requests: []string{"GET /1m HTTP/1.1\r\n\r\n"}, Body: 1 << 20})
	f(Spec{Connections: 2, Requests: []string{"POST /300 HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"}, Body: 300})
	f(Spec{Connections: 4, Requests: []string{get300}, Body: 300, Rate: 1000})
}

// A backend that is slower than the rate is charged for what waits behind it.
func TestRunChargesForWaiting(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // takes requests and never answers
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	s := Spec{Address: ln.Addr().String(), Connections: 1, Requests: []string{get300}, Status: 200, Body: 300, Rate: 1000, Measure: 20 * time.Millisecond}
	r, err := Run(s, func() {}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if r.Unanswered != 20 || r.Latency.Count() != 20 || r.Latency.Quantile(0) < grace {
		t.Errorf("%d unanswered, %d latencies from %v", r.Unanswered, r.Latency.Count(), r.Latency.Quantile(0))
	}
}

func TestRunRefusesWrongAnswers(t *testing.T) {
	addr := startBackend(t)
	f := func(s Spec, want string) {
		t.Helper()
		s.Address, s.Connections, s.Measure = addr, 1, time.Minute
		if _, err := Run(s, func() {}, func() {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	f(Spec{Requests: []string{get300}, Status: 200, Body: 299}, "status 200 and 300 bytes")
	f(Spec{Requests: []string{get300}, Status: 401, Body: 300}, "expected 401")
	f(Spec{Requests: []string{"POST / HTTP/1.1\r\n\r\n"}, Status: 200}, "closed a connection")
}

func TestRunOverTLS(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.TLS.Version != tls.VersionTLS13 {
			t.Errorf("%s over %#x", r.Proto, r.TLS.Version)
		}
		_, _ = w.Write(make([]byte, 300))
	}))
	opened := new(atomic.Int64)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.StartTLS()
	defer server.Close()
	f := func(s Spec, want string) *Result {
		t.Helper()
		opened.Store(0)
		s.Address, s.Status, s.TLS, s.Connections, s.Measure = server.Listener.Addr().String(), 200, true, 2, 200*time.Millisecond
		if want != "" {
			s.Measure = time.Minute // it ends long before
		}
		s.Requests = []string{get300}
		r, err := Run(s, func() {}, func() {})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		return r
	}
	if r := f(Spec{Body: 300}, ""); r.Total == 0 || opened.Load() != 2 || r.Latency.Count() != r.Requests {
		t.Errorf("%d answers over %d connections", r.Total, opened.Load())
	}
	if r := f(Spec{Body: 300, Handshakes: true}, ""); r.Total == 0 || opened.Load() != r.Total {
		t.Errorf("%d answers over %d connections", r.Total, opened.Load())
	}
	f(Spec{Body: 299}, "expected 200 and 299")
	f(Spec{Body: 300, Rate: 1}, "no open loop")
}

func TestHold(t *testing.T) {
	held, err := Hold(Spec{Address: startBackend(t), Connections: 50, Requests: []string{get300}, Status: 200, Body: 300})
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Close(); err != nil {
		t.Error(err)
	}
}

func TestClient(t *testing.T) {
	b, err := NewBackend(map[string][]byte{"/below/": Answer(7, ""), "/below/0000002": Answer(8, "")})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = b.Serve() }() // ends with the test binary
	f := func(s Spec, n int64, want string) {
		t.Helper()
		s.Address, s.Connections, s.Status = b.Addr(), 3, 200
		s.Requests = []string{"GET /below/" + Vary + " HTTP/1.1\r\n\r\n"}
		c, err := NewClient(s)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Do(n); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d requests with %d keys: %v, want %q", n, s.Keys, err, want)
		}
	}
	f(Spec{Body: 7}, 1000, "")
	f(Spec{Body: 7, Keys: 2}, 1000, "") // 0, 1, 0, …
	f(Spec{Body: 7, Keys: 3}, 2, "")
	f(Spec{Body: 7, Keys: 3}, 3, "status 200 and 8 bytes")
	f(Spec{Body: -1, Keys: 1000}, 2000, "")
	f(Spec{}, 0, "")
}

func TestAnswerHead(t *testing.T) {
	f := func(in string, want head) {
		t.Helper()
		got, err := answerHead([]byte(in))
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	f("", head{})
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", head{})
	f("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", head{size: 38, body: 3, status: 200})
	f("HTTP/1.1 429 \r\nConnection: x\r\ncontent-length:12\r\n\r\n", head{size: 51, body: 12, status: 429})
	for _, in := range []string{"SSH-2.0-OpenSSH_9.2\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"} {
		if h, err := answerHead([]byte(in)); err == nil {
			t.Errorf("%q is read as %+v", in, h)
		}
	}
}
