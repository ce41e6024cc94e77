package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

func contextWithin(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func TestTokenIsWanted(t *testing.T) {
	w := newWorld(t, simple, func(o *Options) { o.Token = "s3cret-token" })
	f := func(status int, method, path string, headers ...string) {
		t.Helper()
		res, _ := w.ask(method, path, "", headers...)
		if res.StatusCode != status || (status == 401) != (res.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s %s: %d, want %d", method, path, res.StatusCode, status)
		}
	}
	for _, path := range []string{"/", "/api", "/dashboard/main.js", "/health", "/livez", "/livez?verbose", "/readyz", "/metrics"} {
		f(200, "GET", path)
		// With a token the name does not matter.
		f(200, "GET", path, "Host", "admin.example", "Origin", "https://elsewhere.example")
	}
	for _, path := range []string{
		"/api/config", "/api/routes", "/api/services", "/api/consumers", "/api/stats", "/api/limits", "/api/usage",
		"/api/reloads", "/api/certificates", "/api/routes/users",
		"/debug/pprof/", "/debug/pprof/heap", "/nowhere", "//metrics", "/metrics/", "/%6detrics", "/health/../api/config", "/api/consumers/a/keys",
	} {
		f(401, "GET", path)
	}
	f(401, "PUT", "/api/config")
	f(401, "POST", "/api/config/reload")
	f(401, "POST", "/api/explain")
	f(401, "DELETE", "/api/cache")
	f(401, "PUT", "/api/routes/users/split")
	f(401, "PUT", "/api/services/users/endpoints")

	for _, wrong := range []string{"Bearer", "Bearer ", "Bearer s3cret-toke", "Bearer s3cret-token2", "Basic s3cret-token", "s3cret-token", "Bearer S3CRET-TOKEN"} {
		f(401, "GET", "/api/routes", "Authorization", wrong)
	}
	f(200, "GET", "/api/routes", "Authorization", "Bearer s3cret-token")
	f(200, "GET", "/api/routes", "Authorization", "bearer  s3cret-token ")
	if got := w.want(401, "GET", "/api/config", ""); strings.Contains(got, "s3cret") {
		t.Error(got)
	}
}

func TestForeignRequestsAreRefused(t *testing.T) {
	w := newWorld(t, simple, nil)
	_, port, _ := net.SplitHostPort(w.admin.Addr())
	f := func(status int, headers ...string) {
		t.Helper()
		for _, path := range []string{"/health", "/api/config", "/metrics"} {
			if res, got := w.ask("GET", path, "", headers...); res.StatusCode != status {
				t.Errorf("%s %v: %d, want %d: %s", path, headers, res.StatusCode, status, got)
			}
		}
	}
	f(200)
	f(200, "Host", "localhost")
	f(200, "Host", "LOCALHOST:"+port)
	f(200, "Host", "127.9.9.9:1")
	f(200, "Host", "[::1]:9901")
	f(200, "Host", "[::1]")
	f(403, "Host", "evil.example")
	f(403, "Host", "localhost.evil.example")
	f(403, "Host", "127.0.0.1.evil.example:9901")
	f(403, "Host", "10.0.0.1")
	f(403, "Host", "0.0.0.0:9901")

	f(200, "Host", "localhost:1", "Origin", "http://localhost:1")
	f(403, "Host", "localhost:1", "Origin", "http://localhost:2")
	f(403, "Host", "localhost:1", "Origin", "http://127.0.0.1:1")
	f(403, "Host", "localhost:1", "Origin", "https://evil.example")
	f(403, "Host", "localhost:1", "Origin", "null")
	f(403, "Host", "localhost", "Origin", "file://localhost")

	f(200, "Sec-Fetch-Site", "same-origin")
	f(200, "Sec-Fetch-Site", "none")
	f(403, "Sec-Fetch-Site", "cross-site")
	f(403, "Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors")
	link := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	w.want(200, "GET", "/", "", link...)
	w.want(403, "GET", "/debug/pprof/heap", "", link...)
	w.want(403, "POST", "/api/config/reload", "", "Origin", "https://evil.example")
	w.want(403, "DELETE", "/api/cache", "", "Host", "evil.example")
	w.want(403, "PUT", "/api/services/users/endpoints", `{"endpoint": "http://127.0.0.1:1", "draining": true, "force": true}`, "Origin", "https://evil.example")
	w.want(403, "GET", "/dashboard/main.js", "", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script")
}

// A route whose service names this listener leads to nothing that wants an operator.
func TestNotThroughTheGateway(t *testing.T) {
	w := newWorld(t, simple, nil)
	w.write(strings.NewReplacer("http://127.0.0.1:1", "http://"+w.admin.Addr(), "[/users]", "[/api, /livez]").Replace(simple))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	f := func(status int, method, path string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+w.gateway.Listeners()[0].Address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%s %s: %d, want %d", method, path, res.StatusCode, status)
		}
	}
	f(200, "GET", "/livez")
	f(403, "GET", "/api/config")
	f(403, "PUT", "/api/config")
	f(403, "POST", "/api/config/reload")
	f(403, "DELETE", "/api/cache")
}

func TestHostOfHTTP10(t *testing.T) {
	w := newWorld(t, simple, nil)
	c, err := net.Dial("tcp", w.admin.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err = c.Write([]byte("GET /api/config HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(got), "HTTP/1.1 403 ") && !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
		t.Errorf("%s", got)
	}
}

func TestReachableAddressWantsToken(t *testing.T) {
	g := gateway.New(gateway.Options{Registry: kinds})
	defer g.Shutdown(t.Context())
	f := func(address, token string, good bool) {
		t.Helper()
		s := New(Options{Gateway: g, Address: address, Token: token})
		err := s.Start()
		if (err == nil) != good {
			t.Errorf("%s %q: %v", address, token, err)
		}
		if !good && token == "" && err != nil && s.Addr() != "" {
			t.Errorf("%s: is open", address)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	f("127.0.0.1:0", "", true)
	f("localhost:0", "", true)
	f("127.1.2.3:0", "", true)
	f(":0", "", false)
	f("0.0.0.0:0", "", false)
	f("[::]:0", "", false)
	f("192.0.2.1:0", "", false)
	f("gateway.example:0", "", false)
	f("127.0.0.1", "", false)
	f("0.0.0.0:0", "token", true)
	f("127.0.0.1:99999", "token", false)
	f("", "", true)
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	w := newWorld(t, simple, func(o *Options) { o.Address = "unix:" + path })
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatal(st, err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	res, err := client.Get("http://localhost/api/config")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Error(res.Status)
	}
	if err := New(Options{Gateway: w.gateway, Address: "unix:" + path}).Start(); err == nil {
		t.Error("two listen on one socket")
	}
}

func TestAddressInUse(t *testing.T) {
	w := newWorld(t, simple, nil)
	if err := New(Options{Gateway: w.gateway, Address: w.admin.Addr()}).Start(); err == nil || !strings.Contains(err.Error(), "cannot listen") {
		t.Error(err)
	}
}

func TestConfigure(t *testing.T) {
	w := newWorld(t, simple, nil)
	configure := func(address, token string, good bool) {
		t.Helper()
		if err := w.admin.Configure(address, token); (err == nil) != good {
			t.Fatal(err)
		}
	}
	first := w.admin.Addr()
	w.want(200, "GET", "/api/routes", "")
	configure("127.0.0.1:0", "one", true) // the same address: the token changes, the socket stays
	if w.admin.Addr() != first {
		t.Error("the socket changed")
	}
	w.want(401, "GET", "/api/routes", "")
	w.token = "one"
	w.want(200, "GET", "/api/routes", "")

	configure("0.0.0.0:0", "", false)
	configure("127.0.0.1:99999", "two", false)
	w.want(200, "GET", "/api/routes", "")

	configure("localhost:0", "two", true)
	if w.admin.Addr() == first {
		t.Error("the address did not change")
	}
	w.want(401, "GET", "/api/routes", "")
	w.token = "two"
	w.want(200, "GET", "/api/routes", "")
	w.admin.retired.Wait()
	if c, err := net.Dial("tcp", first); err == nil {
		_ = c.Close()
		t.Error("the former address is open")
	}
	configure("", "", true)
	if w.admin.Addr() != "" {
		t.Error("is open")
	}
	configure("127.0.0.1:0", "", true)
	w.token = ""
	w.want(200, "GET", "/api/routes", "")
}

// A reload that moves the admin listener is answered on the old address.
func TestReloadMovesItself(t *testing.T) {
	var w *world
	w = newWorld(t, simple, func(o *Options) {
		o.Reload = func() error { return w.admin.Configure("localhost:0", "") }
	})
	before := w.admin.Addr()
	w.want(200, "POST", "/api/config/reload", "")
	if w.admin.Addr() == before {
		t.Error("did not move")
	}
	w.want(200, "GET", "/health", "")
}

func TestLargeBodies(t *testing.T) {
	w := newWorld(t, simple, func(o *Options) { o.Token = "token" })
	// announce sends only the head: the answer comes before the body does.
	announce := func(status, head string) {
		t.Helper()
		c, err := net.Dial("tcp", w.admin.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err = c.Write([]byte(head + "\r\nHost: localhost\r\nContent-Length: 1048576\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(got), "HTTP/1.1 "+status) || !strings.Contains(string(got), "application/problem+json") || !strings.Contains(string(got), "nosniff") {
			t.Errorf("%s: %s", head, got)
		}
	}
	announce("413 ", "PUT /api/config HTTP/1.1")
	announce("413 ", "PUT /api/config HTTP/1.1\r\nAuthorization: Bearer wrong")
	announce("413 ", "POST /api/explain HTTP/1.1\r\nAuthorization: Bearer token")
	w.token = "token"
	w.want(200, "PUT", "/api/config", simple+"#"+strings.Repeat("x", 1<<20))
}

func TestMalformedRequests(t *testing.T) {
	w := newWorld(t, simple, nil)
	f := func(status, request string) {
		t.Helper()
		c, err := net.Dial("tcp", w.admin.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err = c.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(got), "HTTP/1.1 "+status) || !strings.Contains(string(got), "application/problem+json") {
			t.Errorf("%.60q: %s", request, got)
		}
	}
	f("400 ", "nonsense\r\n\r\n")
	f("431 ", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", maxHead)+"\r\n\r\n")
}
