package grpctest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// plain is a server of HTTP/2 without TLS that is not of gRPC.
func plain(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &p}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// clients are one of HTTP/1.1 and one of HTTP/2.
func clients(t testing.TB) map[string]*http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	c := map[string]*http.Client{
		"HTTP/1.1": {Transport: &http.Transport{DisableCompression: true}, Timeout: patience},
		"HTTP/2":   {Transport: &http.Transport{DisableCompression: true, Protocols: &p}, Timeout: patience},
	}
	t.Cleanup(func() {
		for _, c := range c {
			c.CloseIdleConnections()
		}
	})
	return c
}

func TestPlainHTTP2(t *testing.T) {
	address := plain(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		w.Header().Set("X-Host", r.Host)
		w.Header().Set("X-Uri", r.RequestURI)
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		switch strings.TrimPrefix(r.URL.Path, "/base") {
		case "/echo":
			w.Header().Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
			_, _ = io.Copy(w, r.Body)
			for name, v := range r.Trailer {
				w.Header().Set(http.TrailerPrefix+name, strings.Join(v, ","))
			}
		case "/flush":
			w.Header().Set("Trailer", "X-Sum")
			for range 3 {
				_, _ = io.WriteString(w, "part,")
				_ = http.NewResponseController(w).Flush()
			}
			w.Header().Set("X-Sum", "3")
		case "/empty":
			w.WriteHeader(http.StatusNoContent)
		case "/same":
			w.Header().Set("Etag", `"1"`)
			w.WriteHeader(http.StatusNotModified)
		case "/hints":
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(w, "after")
		case "/abort":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Content-Length", "5")
			_, _ = io.WriteString(w, "hello")
		}
	})
	g := open(t, "h2c: true", routed("h2c", "", "", "", address+"/base"))
	for name, client := range clients(t) {
		t.Run(name, func(t *testing.T) {
			do := func(method, target string, body io.Reader, trailer http.Header) (*http.Response, string, error) {
				t.Helper()
				req, err := http.NewRequestWithContext(bounded(t), method, "http://"+g.addr+target, body)
				if err != nil {
					t.Fatal(err)
				}
				if trailer != nil {
					req.Trailer = trailer
				}
				res, err := client.Do(req)
				if err != nil {
					return nil, "", err
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				return res, string(b), err
			}
			res, body, err := do("GET", "/base?q=a%20b&q", nil, nil)
			if err != nil || body != "hello" || res.ContentLength != 5 || res.Header.Get("X-Proto") != "HTTP/2.0" || len(res.Header["Set-Cookie"]) != 2 ||
				res.Header.Get("X-Uri") != "/base/base?q=a%20b&q" || res.Header.Get("X-Host") != address {
				t.Errorf("GET: %v %q %v", res, body, err)
			}
			if res, body, err = do("HEAD", "/x", nil, nil); err != nil || body != "" || res.ContentLength != 5 {
				t.Errorf("HEAD: %v %v", res, err)
			}
			if res, _, err = do("GET", "/empty", nil, nil); err != nil || res.StatusCode != 204 {
				t.Errorf("204: %v %v", res, err)
			}
			if res, _, err = do("GET", "/same", nil, nil); err != nil || res.StatusCode != 304 || res.Header.Get("Etag") != `"1"` {
				t.Errorf("304: %v %v", res, err)
			}
			if res, body, err = do("GET", "/flush", nil, nil); err != nil || body != "part,part,part," || res.Trailer.Get("X-Sum") != "3" {
				t.Errorf("trailers: %q %v %v", body, res.Trailer, err)
			}
			for _, n := range []int{0, 1, 1000, 70_000, 1_000_000} {
				sent := strings.Repeat("x", n)
				if res, body, err = do("POST", "/echo", strings.NewReader(sent), nil); err != nil || body != sent || res.Header.Get("X-Length") != strconv.Itoa(n) {
					t.Errorf("%d bytes: %d came back, X-Length %s, %v", n, len(body), res.Header.Get("X-Length"), err)
				}
				if res, body, err = do("POST", "/echo", struct{ io.Reader }{strings.NewReader(sent)}, http.Header{"X-Tail": {"t"}}); err != nil || body != sent || (n > 5000 || n > 0 && name == "HTTP/2") && res.Trailer.Get("X-Tail") != "t" {
					t.Errorf("%d bytes without a length: %d came back, %v, %v", n, len(body), res.Trailer, err)
				}
			}
			if _, body, err = do("GET", "/abort", nil, nil); err == nil || body != "half" {
				t.Errorf("a body that breaks off: %q %v", body, err)
			}
			hints := 0
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(bounded(t), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					if code == 103 && h.Get("Link") != "" {
						hints++
					}
					return nil
				},
			}), "GET", "http://"+g.addr+"/hints", nil)
			if res, err := client.Do(req); err != nil || res.StatusCode != 200 || hints != 1 {
				t.Errorf("hints: %d, %v", hints, err)
			} else {
				_ = res.Body.Close()
			}
		})
	}
}

// The bounds of all requests are those over HTTP/2 too.
func TestPlainHTTP2Bounds(t *testing.T) {
	gone := make(chan struct{}, 4)
	var tries atomic.Int64
	address := plain(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/late":
			<-r.Context().Done()
			gone <- struct{}{}
		case "/stall":
			_, _ = io.WriteString(w, "some")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			gone <- struct{}{}
		case "/fail":
			if tries.Add(1) < 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		default:
			_, _ = io.Copy(io.Discard, r.Body)
		}
	})
	for name, client := range clients(t) {
		t.Run(name, func(t *testing.T) {
			get := func(g *gate, method, path string, body io.Reader) (int, error) {
				t.Helper()
				req, _ := http.NewRequestWithContext(bounded(t), method, "http://"+g.addr+path, body)
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				_, err = io.Copy(io.Discard, res.Body)
				return res.StatusCode, err
			}
			g := open(t, "h2c: true", routed("h2c", "timeouts: {response: 50ms}, retries: off", "", "limits: {stall_timeout: 100ms, max_body_size: 1KiB}\n", address))
			if status, _ := get(g, "GET", "/late", nil); status != 504 {
				t.Errorf("late: %d", status)
			}
			within(t, "the backend's call ended", gone)
			if _, err := get(g, "GET", "/stall", nil); err == nil {
				t.Error("a body that stalls looks whole")
			}
			within(t, "the backend's call ended", gone)
			if status, _ := get(g, "POST", "/", strings.NewReader(strings.Repeat("x", 2000))); status != 413 {
				t.Errorf("too large: %d", status)
			}
			if status, _ := get(g, "POST", "/", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 2000))}); status != 413 {
				t.Errorf("too large without a length: %d", status)
			}
			g = open(t, "h2c: true", routed("h2c", "retries: {budget: 100%}", "", "", address))
			tries.Store(0)
			if status, _ := get(g, "GET", "/fail", nil); status != 200 {
				t.Errorf("GET is tried again: %d", status)
			}
			tries.Store(0)
			if status, _ := get(g, "POST", "/fail", strings.NewReader("x")); status != 503 {
				t.Errorf("POST is not: %d", status)
			}
			tries.Store(0)
			if status, _ := get(g, "PUT", "/fail", strings.NewReader(fmt.Sprint("once", name))); status != 200 {
				t.Errorf("PUT is: %d", status)
			}
			// A client that leaves takes the call with it.
			ctx, cancel := contextWith(t, 100*time.Millisecond)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+g.addr+"/late", nil)
			if _, err := client.Do(req); err == nil || !errors.Is(err, ctx.Err()) {
				t.Errorf("the client: %v", err)
			}
			within(t, "the backend's call ended", gone)
		})
	}
}
