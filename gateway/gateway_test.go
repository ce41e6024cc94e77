package gateway_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/snapshot"
)

// start runs a gateway with this configuration on free ports and returns it
// with the base URL of its first listener.
func start(t *testing.T, text string) (*gateway.Gateway, string) {
	t.Helper()
	g := gateway.New(gateway.Options{Registry: snapshot.NewRegistry(nil, nil)})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	apply(t, g, text)
	return g, "http://" + g.Listeners()[0].Address
}

func apply(t *testing.T, g *gateway.Gateway, text string) {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
}

func TestProxySuccess(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", r.Method+" "+r.URL.String()+" "+r.Host+" "+r.Header.Get("X-Forwarded-For"))
		_, _ = w.Write(append([]byte("echo:"), body...))
	}))
	defer backend.Close()
	_, url := start(t, `
listeners: {main: {address: "127.0.0.1:0"}}
services: {users: {endpoints: ["`+backend.URL+`"]}}
routes: {users: {match: {paths: [/api/v1/users]}, service: users, strip_prefix: true}}
`)
	f := func(method, path, body, wantStatus, wantBody string) {
		t.Helper()
		req, _ := http.NewRequest(method, url+path, strings.NewReader(body))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.Status != wantStatus || string(got) != wantBody {
			t.Fatalf("%s %s: %s %q %v", method, path, res.Status, got, res.Header)
		}
		t.Log(res.Header)
	}
	f("GET", "/api/v1/users/7?a=b", "", "200 OK", "echo:")
	f("POST", "/api/v1/users", "hello", "200 OK", "echo:hello")
	f("POST", "/api/v1/users", strings.Repeat("x", 100_000), "200 OK", "echo:"+strings.Repeat("x", 100_000))
	f("GET", "/nowhere", "", "404 Not Found", `{"type":"urn:sluice:no_route","title":"Not Found","status":404,"detail":"nothing is served here","instance":"/nowhere"}`+"\n")
}

// An operator asks for times with timing: true, and a backend's own stay beside the gateway's.
func TestTimingOfAnswers(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Server-Timing", "db;dur=1")
	}))
	defer backend.Close()
	_, url := start(t, `
listeners: {main: {address: "127.0.0.1:0"}}
services: {s: {endpoints: ["`+backend.URL+`"]}}
routes:
  timed: {match: {paths: [/timed]}, service: s, timing: true}
  plain: {match: {paths: [/plain]}, service: s}
`)
	f := func(path, want string) {
		t.Helper()
		res, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		got := strings.Join(res.Header.Values("Server-Timing"), ", ")
		if !regexp.MustCompile("^"+want+"$").MatchString(got) || (res.Header.Get("X-Response-Time") != "") != (path != "/plain") {
			t.Errorf("%s: %q, want %q: %v", path, got, want, res.Header)
		}
	}
	const ms = `\d+\.\d{3}`
	f("/timed", "db;dur=1, gateway;dur="+ms+", upstream;dur="+ms)
	f("/plain", "db;dur=1")
}

// Ports that the system chooses are different ones.
func TestListenersOnChosenPorts(t *testing.T) {
	g, _ := start(t, `
listeners: {one: {address: "127.0.0.1:0"}, two: {address: "127.0.0.1:0"}}
services: {s: {endpoints: ["http://127.0.0.1:1"]}}
routes: {r: {match: {paths: [/]}, service: s}}
`)
	if l := g.Listeners(); len(l) != 2 || l[0].Address == l[1].Address {
		t.Fatalf("%v", l)
	}
}
