//go:build linux

package load

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// h2Server answers 300 bytes, or what `/echo` was sent, over HTTP/2 only.
func h2Server(t *testing.T, secured bool) (address string, opened *atomic.Int64) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Host != "a" || r.Header.Get("X-Field") != "value" {
			t.Errorf("%s, host %q, %v", r.Proto, r.Host, r.Header)
		}
		switch r.URL.Path {
		case "/echo":
			_, _ = io.Copy(w, r.Body)
		case "/1m":
			_, _ = w.Write(make([]byte, 1<<20))
		default:
			_, _ = w.Write(make([]byte, 300))
		}
	}))
	opened = new(atomic.Int64)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	if secured {
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
	}
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), opened
}

const h2Fields = " HTTP/1.1\r\nHost: a\r\nX-Field: value\r\n"

func TestRunOverHTTP2(t *testing.T) {
	for _, secured := range []bool{false, true} {
		address, opened := h2Server(t, secured)
		f := func(s Spec, want string) {
			t.Helper()
			opened.Store(0)
			s.Address, s.TLS, s.HTTP2, s.Connections, s.Streams, s.Measure = address, secured, true, 2, 20, 500*time.Millisecond
			s.Requests = []string{"GET /300" + h2Fields + "\r\n"}
			if want != "" {
				s.Measure = time.Minute // it ends long before
			}
			r, err := Run(s, func() {}, func() {})
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			if err == nil && (r.Total == 0 || r.Latency.Count() != r.Requests || opened.Load() != 2) {
				t.Errorf("%d answers over %d connections", r.Total, opened.Load())
			}
		}
		f(Spec{Status: 200, Body: 300}, "")
		f(Spec{Status: 200, Body: 299}, "300 bytes, expected 299")
		f(Spec{Status: 401, Body: 300}, "status 200, expected 401")
		f(Spec{Status: 200, Body: 300, Rate: 1}, "no open loop")
	}
}

func TestDialledClient(t *testing.T) {
	for _, secured := range []bool{false, true} {
		address, opened := h2Server(t, secured)
		f := func(s Spec, n int64, want string) {
			t.Helper()
			opened.Store(0)
			s.Address, s.TLS, s.HTTP2, s.Status = address, secured, true, 200
			c, err := NewDialledClient(s)
			if err == nil {
				defer c.Close()
				err = errors.Join(c.Do(n), c.Do(n))
			}
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%d requests: %v, want %q", n, err, want)
			}
			if err == nil && opened.Load() != int64(s.Connections) {
				t.Errorf("%d connections", opened.Load())
			}
		}
		f(Spec{Requests: []string{"GET /300" + h2Fields + "\r\n"}, Connections: 1, Streams: 32, Body: 300}, 1000, "")
		f(Spec{Requests: []string{"GET /1m" + h2Fields + "\r\n"}, Connections: 3, Streams: 5, Body: 1 << 20}, 7, "")
		// More at once than the window of the connection lets through.
		f(Spec{Requests: []string{"POST /echo" + h2Fields + "Content-Length: 10000\r\n\r\n" + strings.Repeat("x", 10_000)}, Connections: 1, Streams: 32, Body: 10_000}, 200, "")
		f(Spec{Requests: []string{"POST /echo" + h2Fields + "Content-Length: 20000\r\n\r\n" + strings.Repeat("x", 20_000)}, Connections: 1, Streams: 1}, 1, "at most 16384")
		f(Spec{Requests: []string{"GET /300" + h2Fields + "\r\n"}, Connections: 1, Streams: 4, Body: 1}, 100, "expected 1")
	}
}

func TestDialledClientOverTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 300)) }))
	defer server.Close()
	s := Spec{Address: server.Listener.Addr().String(), TLS: true, Connections: 2, Status: 200, Body: 300, Requests: []string{get300}}
	c, err := NewDialledClient(s)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(100); err != nil {
		t.Error(err)
	}
	s.HTTP2 = true
	if _, err := NewDialledClient(s); err == nil {
		t.Error("HTTP/2 is spoken with a server that has only HTTP/1.1")
	}
}
