package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/action"
	"sluice/gateway/action/redirect"
	"sluice/gateway/action/split"
	"sluice/gateway/cache"
	"sluice/gateway/discovery/file"
	"sluice/gateway/policy"
	"sluice/gateway/policy/apikey"
	"sluice/gateway/policy/authorize"
	"sluice/gateway/policy/basicauth"
	caching "sluice/gateway/policy/cache"
	"sluice/gateway/policy/correlationid"
	"sluice/gateway/policy/jwt"
	"sluice/gateway/policy/quota"
	"sluice/gateway/policy/ratelimit"
	"sluice/gateway/snapshot"
)

func TestMain(m *testing.M) {
	// Those of fasthttp that sleep before they notice an end: of its workers, of its clients' connections, and its date.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	)
}

var kinds = snapshot.NewRegistry(
	[]*policy.Definition{apikey.Definition, authorize.Definition, basicauth.Definition, correlationid.Definition, jwt.Definition, ratelimit.Definition, quota.Definition, caching.Definition},
	[]*action.Definition{redirect.Definition, split.Definition},
	file.Definition,
)

// world is a gateway with its configuration in a file, and its admin listener.
type world struct {
	*testing.T
	gateway *gateway.Gateway
	admin   *Server
	file    string
	log     *buffer
	client  http.Client
	token   string // that requests carry
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const simple = `
listeners: {main: {address: "127.0.0.1:0"}}
services: {users: {endpoints: ["http://127.0.0.1:1"]}}
routes: {users: {match: {paths: [/users]}, service: users}}
`

// newWorld starts both; change may change the options of the admin listener.
func newWorld(t *testing.T, text string, change func(*Options)) *world {
	t.Helper()
	w := &world{T: t, file: filepath.Join(t.TempDir(), "sluice.yaml"), log: &buffer{}}
	w.client.Transport = &http.Transport{DisableKeepAlives: true}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.gateway = gateway.New(gateway.Options{Registry: kinds, Log: log, Version: "test"})
	t.Cleanup(func() { w.gateway.Shutdown(t.Context()) })
	w.write(text)
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Gateway: w.gateway, Log: log, Address: "127.0.0.1:0", Reload: w.reload,
		WriteBack: func(data []byte) error { return os.WriteFile(w.file, data, 0o600) },
		Read:      func() ([]byte, error) { return os.ReadFile(w.file) },
	}
	if change != nil {
		change(&o)
	}
	w.admin = New(o)
	if err := w.admin.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.admin.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) write(text string) {
	w.Helper()
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) reload() error {
	c, err := config.Load(w.file, config.Options{})
	if err != nil {
		w.gateway.Fail(err)
		return err
	}
	return w.gateway.Apply(c)
}

// ask sends a request; headers are name, value, ….
func (w *world) ask(method, path, body string, headers ...string) (*http.Response, string) {
	w.Helper()
	req, err := http.NewRequest(method, "http://"+w.admin.Addr()+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	if w.token != "" {
		req.Header.Set("Authorization", "Bearer "+w.token)
	}
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	res, err := w.client.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	return res, string(got)
}

// want asks and compares the status; errors must be problems.
func (w *world) want(status int, method, path, body string, headers ...string) string {
	w.Helper()
	res, got := w.ask(method, path, body, headers...)
	if res.StatusCode != status {
		w.Errorf("%s %s: %d, want %d: %s", method, path, res.StatusCode, status, got)
	}
	for name, value := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cache-Control": "no-store"} {
		if res.Header.Get(name) != value {
			w.Errorf("%s %s: %s is %q", method, path, name, res.Header.Get(name))
		}
	}
	if res.StatusCode >= 400 && path != "/readyz" && path != "/readyz?verbose" {
		var p problem
		if err := json.Unmarshal([]byte(got), &p); err != nil || p.Status != status || p.Title == "" || !strings.HasPrefix(p.Type, "urn:sluice:") ||
			p.Detail == "" || p.Instance == "" || p.RequestID == "" ||
			res.Header.Get("Content-Type") != "application/problem+json" {
			w.Errorf("%s %s: is no problem: %s %v", method, path, got, err)
		}
	}
	return got
}

// object asks for JSON.
func (w *world) object(method, path, body string) map[string]any {
	w.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(w.want(200, method, path, body)), &v); err != nil {
		w.Fatal(err)
	}
	return v
}

// at follows keys and indices.
func at(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: %v is no object", path, v)
			}
			v = m[step]
		case int:
			l, ok := v.([]any)
			if !ok || step >= len(l) {
				t.Fatalf("%v: %v has no element %d", path, v, step)
			}
			v = l[step]
		}
	}
	return v
}

func TestProbes(t *testing.T) {
	w := newWorld(t, simple, nil)
	if got := w.want(200, "GET", "/health", ""); got != `{"status":"healthy","services":{"users":"closed"}}` {
		t.Error(got)
	}
	if got := at(t, w.object("GET", "/livez", ""), "checks"); got != nil {
		t.Error(got)
	}
	if got := at(t, w.object("GET", "/livez?verbose", ""), "checks", "process"); got != "ok" {
		t.Error(got)
	}
	if got := at(t, w.object("GET", "/readyz?verbose", ""), "checks", "listeners"); got != "ok" {
		t.Error(got)
	}
	w.want(200, "GET", "/readyz", "")
	if got := w.want(200, "GET", "/metrics", ""); !strings.Contains(got, "# TYPE sluice_build_info gauge") {
		t.Error(got)
	}
	if got := w.want(200, "GET", "/api", ""); !strings.Contains(got, "/api/explain") {
		t.Error(got)
	}
	if res, got := w.ask("HEAD", "/health", ""); res.StatusCode != http.StatusOK || got != "" || res.ContentLength <= 0 {
		t.Errorf("%d %q %d", res.StatusCode, got, res.ContentLength)
	}
	w.gateway.Shutdown(t.Context())
	if got := w.want(503, "GET", "/readyz?verbose", ""); !strings.Contains(got, `"draining": "yes"`) {
		t.Error(got)
	}
	w.want(503, "GET", "/readyz", "")
	w.want(200, "GET", "/livez", "")
	w.want(200, "GET", "/health", "")
}

func TestWithoutConfiguration(t *testing.T) {
	g := gateway.New(gateway.Options{Registry: kinds})
	defer g.Shutdown(t.Context())
	w := newWorld(t, simple, func(o *Options) { o.Gateway = g })
	for _, path := range []string{"/api/routes", "/api/services", "/api/consumers", "/api/stats"} {
		w.want(503, "GET", path, "")
	}
	w.want(503, "POST", "/api/explain", `{"url": "/"}`)
	w.want(503, "GET", "/readyz", "")
	if got := w.object("GET", "/api/config", ""); got["config"] != nil || got["generation"] != 0.0 {
		t.Error(got)
	}
}

func TestMethods(t *testing.T) {
	w := newWorld(t, simple, nil)
	f := func(method, path, want string) {
		t.Helper()
		res, got := w.ask(method, path, "")
		allow := res.Header.Get("Allow")
		if res.StatusCode != http.StatusMethodNotAllowed || allow != want || !strings.Contains(got, "method_not_allowed") {
			t.Errorf("%s %s: %d %v %s", method, path, res.StatusCode, allow, got)
		}
	}
	f("POST", "/health", "GET, HEAD")
	f("OPTIONS", "/api/config", "GET, HEAD, PUT")
	f("DELETE", "/api/config", "GET, HEAD, PUT")
	f("GET", "/api/config/reload", "POST")
	f("GET", "/api/cache", "DELETE")
	f("PUT", "/debug/pprof/heap", "GET, HEAD, POST")
	w.want(404, "GET", "/api/", "")
	w.want(404, "GET", "/api/config/", "")
	w.want(404, "GET", "//api/config", "")
}

func TestRoutesServicesConsumers(t *testing.T) {
	w := newWorld(t, simple+`
consumers: {alice: {groups: [partners], basic_auth: [{hash: "sha256:`+strings.Repeat("ab", 32)+`"}], api_keys: [{id: k1, hash: "sha256:`+strings.Repeat("ab", 32)+`", expires: 2027-01-01}]}}
`, nil)
	v := w.object("GET", "/api/routes", "")
	if at(t, v, "routes", 0, "route") != "users" || at(t, v, "routes", 0, "match", "paths", 0) != "/users" ||
		at(t, v, "routes", 0, "services", 0) != "users" || at(t, v, "routes", 0, "policies", 0) != "correlation_id" || at(t, v, "routes", 0, "action") != "service" {
		t.Error(v)
	}
	v = w.object("GET", "/api/services", "")
	if at(t, v, "services", 0, "service") != "users" || at(t, v, "services", 0, "breaker") != "closed" || at(t, v, "services", 0, "strategy") != "peak_ewma" ||
		at(t, v, "services", 0, "endpoints", 0, "endpoint") != "http://127.0.0.1:1" || at(t, v, "services", 0, "endpoints", 0, "up") != true {
		t.Error(v)
	}
	v = w.object("GET", "/api/consumers", "")
	if at(t, v, "consumers", 0, "consumer") != "alice" || at(t, v, "consumers", 0, "groups", 0) != "partners" || at(t, v, "consumers", 0, "api_keys", 0, "id") != "k1" ||
		at(t, v, "consumers", 0, "api_keys", 0, "expires") != "2027-01-01T00:00:00Z" || at(t, v, "consumers", 0, "basic_auth_usernames", 0) != "alice" {
		t.Error(v)
	}
}

func TestExplain(t *testing.T) {
	w := newWorld(t, simple, nil)
	v := w.object("POST", "/api/explain", `{"method": "GET", "url": "http://x.example/users/7", "headers": {"A": "b"}, "ip": "192.0.2.1", "listener": "main"}`)
	if at(t, v, "route") != "users" || at(t, v, "upstream_path") != "/users/7" || at(t, v, "services", 0, "service") != "users" || at(t, v, "policies", 0, "from") != "default" {
		t.Error(v)
	}
	w.want(400, "POST", "/api/explain", "")
	w.want(400, "POST", "/api/explain", `{"uri": "/"}`)
	if got := w.want(400, "POST", "/api/explain", `{"url": "/", "ip": "x"}`); !strings.Contains(got, "is not an address") {
		t.Error(got)
	}
}

func TestStats(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte("12345")) }))
	defer backend.Close()
	w := newWorld(t, `
listeners: {main: {address: "127.0.0.1:0"}}
services: {users: {endpoints: ["`+backend.URL+`"]}}
routes: {users: {match: {paths: [/users]}, service: users, policies: {cache: {}}}}
`, nil)
	now := time.Unix(1_800_000_000, 0)
	w.admin.rates, w.admin.now = rates{}, func() time.Time { return now }
	send := func(path string, n int) {
		t.Helper()
		for range n {
			res, err := w.client.Get("http://" + w.gateway.Listeners()[0].Address + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
		}
	}
	// f looks until the requests are counted: that is after their last byte.
	f := func(requests, unrouted, window, perSecond float64) map[string]any {
		t.Helper()
		for {
			v := w.object("GET", "/api/stats", "")
			if at(t, v, "routes", 0, "requests") != requests || at(t, v, "routes", 1, "requests") != unrouted {
				continue
			}
			if at(t, v, "window_seconds") != window || at(t, v, "routes", 0, "per_second") != perSecond || at(t, v, "total", "requests") != requests+unrouted {
				t.Errorf("%v", v)
			}
			return v
		}
	}
	f(0, 0, 0, 0)
	send("/users", 20)
	send("/nowhere", 10)
	now = now.Add(5 * time.Second)
	v := f(20, 10, 5, 4)
	if at(t, v, "routes", 0, "route") != "users" || at(t, v, "routes", 1, "route") != "-" || at(t, v, "routes", 0, "by_class", "2xx") != 20.0 ||
		at(t, v, "routes", 1, "client_errors_per_second") != 2.0 || at(t, v, "routes", 0, "bytes_out") != 100.0 || at(t, v, "routes", 0, "in_flight") != 0.0 ||
		at(t, v, "routes", 0, "latency_ms", "p99").(float64) <= 0 || at(t, v, "listeners", 0, "name") != "main" || at(t, v, "services", 0, "breaker") != "closed" ||
		at(t, v, "cache", "caches") != 1.0 || at(t, v, "routes_known") != 2.0 || at(t, v, "routes", 0, "overhead_ms", "p50").(float64) <= 0 ||
		at(t, v, "total", "latency_ms", "p50").(float64) <= 0 || at(t, v, "total", "overhead_ms", "p99").(float64) <= 0 {
		t.Error(v)
	}
	v = w.object("GET", "/api/stats?top=1", "")
	if len(at(t, v, "routes").([]any)) != 1 || at(t, v, "routes", 0, "route") != "users" || at(t, v, "routes_known") != 2.0 || at(t, v, "total", "requests") != 30.0 {
		t.Error(v)
	}
	w.want(400, "GET", "/api/stats?top=x", "")
	now = now.Add(10 * time.Second)
	f(20, 10, 10, 0)
	now = now.Add(10 * time.Second)
	// Quantiles of all are of the window, in which there was nothing.
	if v := f(20, 10, 10, 0); at(t, v, "total", "latency_ms", "p99") != 0.0 || at(t, v, "routes", 0, "latency_ms", "p99").(float64) <= 0 {
		t.Error(v)
	}
	send("/users", 30)
	now = now.Add(30 * time.Second)
	f(50, 10, 30, 1)
	if n := len(w.admin.rates.looks); n > 3 {
		t.Errorf("%d looks are kept", n)
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t, `
listeners: {main: {address: "127.0.0.1:0"}}
routes: {old: {redirect: {to: "https://new.example/"}, policies: {rate_limit: {requests: 10, per: 1h}}}}
`, nil)
	for range 2 {
		res, err := (&http.Client{Transport: w.client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Get("http://" + w.gateway.Listeners()[0].Address + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	v := w.object("GET", "/api/limits", "")
	if at(t, v, "limits", 0, "key") != "ip:127.0.0.1" || at(t, v, "limits", 0, "windows", 0, "remaining") != 8.0 || at(t, v, "more") != false {
		t.Error(v)
	}
	if v = w.object("GET", "/api/limits?key=ip:127.&max=1", ""); len(v["limits"].([]any)) != 1 {
		t.Error(v)
	}
	if v = w.object("GET", "/api/limits?key=consumer:", ""); len(v["limits"].([]any)) != 0 {
		t.Error(v)
	}
	w.want(400, "GET", "/api/limits?max=0", "")
}

// A view of one tenant shows nothing of another.
func TestLimitsOfTenants(t *testing.T) {
	w := newWorld(t, `
listeners: {main: {address: "127.0.0.1:0"}}
routes: {old: {redirect: {to: "https://new.example/"}, policies: {rate_limit: {requests: 10, per: 1h}, quota: {requests: 20, per: month}}}}
tenants: {acme: {hosts: [acme.example]}, beta: {hosts: [beta.example]}}
consumers: {alice: {tenant: acme}, bob: {tenant: beta}, carol: {}}
`, nil)
	for _, host := range []string{"acme.example", "acme.example", "beta.example", "other.example"} {
		req, _ := http.NewRequest("GET", "http://"+w.gateway.Listeners()[0].Address+"/", nil)
		req.Host = host
		res, err := w.client.Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	if v := w.object("GET", "/api/limits", ""); len(v["limits"].([]any)) != 6 {
		t.Error(v)
	}
	v := w.object("GET", "/api/limits?tenant=acme&key=ip:", "")
	if len(v["limits"].([]any)) != 2 || at(t, v, "limits", 0, "tenant") != "acme" || at(t, v, "limits", 1, "tenant") != "acme" {
		t.Fatal(v)
	}
	for i := range 2 {
		switch at(t, v, "limits", i, "policy") {
		case "rate_limit":
			if at(t, v, "limits", i, "windows", 0, "remaining") != 8.0 {
				t.Error(v)
			}
		case "quota":
			if at(t, v, "limits", i, "windows", 0, "used") != 2.0 || at(t, v, "limits", i, "windows", 0, "remaining") != 18.0 || at(t, v, "limits", i, "windows", 0, "period") != "month" {
				t.Error(v)
			}
		default:
			t.Error(v)
		}
	}
	if v := w.object("GET", "/api/limits?max=5", ""); len(v["limits"].([]any)) != 5 || at(t, v, "more") != true {
		t.Error(v)
	}
	if v := w.object("GET", "/api/consumers?tenant=beta", ""); len(v["consumers"].([]any)) != 1 || at(t, v, "consumers", 0, "consumer") != "bob" {
		t.Error(v)
	}
}

func TestPurge(t *testing.T) {
	w := newWorld(t, simple+"policies: {cache: {}}\n", nil)
	var store *caching.Responses
	w.gateway.EachLiving(func(_ string, v any) bool {
		if r, ok := v.(*caching.Responses); ok {
			store = r
		}
		return true
	})
	fill := func() {
		for path, route := range map[string]string{"a.example/users/1": "users", "a.example/users/2": "users", "b.example/posts/1": "posts"} {
			res := &cache.Response{}
			res.Reset(200, 1, 1)
			res.ContentLength = -1
			r := cache.Record(&cache.Draft{Key: []byte(path), Response: res, Epoch: store.Epoch(), Route: route, Path: []byte(path), Limit: 100}, nil)
			if e := r.Finish(); e == nil || !store.Put(1, e) {
				t.Fatal("not stored")
			}
		}
	}
	f := func(query string, purged float64) {
		t.Helper()
		store.Purge(cache.Everything)
		fill()
		v := w.object("DELETE", "/api/cache"+query, "")
		if v["purged"] != purged || v["caches"] != 1.0 {
			t.Errorf("%s: %v", query, v)
		}
	}
	f("", 3)
	f("?route=users", 2)
	f("?prefix=/users", 2)
	f("?prefix=b.example/", 1)
	f("?prefix=https://a.example/users/", 2)
	f("?prefix=/nothing", 0)
	f("?prefix=https://A.example:8443/users/", 2)
	f("?url=https://a.example/users/1", 1)
	f("?url=a.example:8080/users/1", 1)
	f("?url=/users/1", 1)
	f("?url=/users/1%3Fa=b", 0)
	f("?url=a.example/users", 0)
	f("?url=b.example", 0)
	f("?tag=x", 0)
	f("?route=posts", 1) // it is not configured any more, and has entries
	if got := w.want(404, "DELETE", "/api/cache?route=user", ""); !strings.Contains(got, `there is no route \"user\"`) || !strings.Contains(got, "users") {
		t.Error(got)
	}
	w.want(404, "DELETE", "/api/cache?route=posts", "")
	w.want(400, "DELETE", "/api/cache?prefix=", "")
	w.want(400, "DELETE", "/api/cache?all=1", "")
	w.want(400, "DELETE", "/api/cache?prefix=/a&tag=b", "")
}

func TestPprof(t *testing.T) {
	w := newWorld(t, simple, nil)
	if got := w.want(200, "GET", "/debug/pprof/", ""); !strings.Contains(got, "goroutine") {
		t.Error(got)
	}
	if got := w.want(200, "GET", "/debug/pprof/goroutine?debug=1", ""); !strings.Contains(got, "goroutine profile:") {
		t.Error(got)
	}
	if got := w.want(200, "GET", "/debug/pprof/cmdline", ""); strings.ContainsAny(got, "/ \x00") || got == "" {
		t.Errorf("%q", got)
	}
	w.want(200, "POST", "/debug/pprof/symbol", "0x1")
	w.want(400, "GET", "/debug/pprof/profile?seconds=100000", "")
	w.want(404, "GET", "/debug/pprof/heap/", "")
}

func TestCloseCutsWhatIsLeft(t *testing.T) {
	w := newWorld(t, simple, nil)
	idle, err := net.Dial("tcp", w.admin.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err = idle.Write([]byte("GET /health HTTP/1.1\r\nHost: loc")); err != nil {
		t.Fatal(err)
	}
	w.want(200, "GET", "/health", "") // the half request is accepted by now
	ctx, cancel := contextWithin(t, 50*time.Millisecond)
	defer cancel()
	if err := w.admin.Close(ctx); err == nil {
		t.Error("nothing was in use")
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is open", err)
	}
}

// status is what a request of the gateway gets, with an API key.
func (w *world) status(addr, key, method, path string) int {
	w.Helper()
	req, err := http.NewRequest(method, "http://"+addr+path, http.NoBody)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("X-API-Key", key)
	res, err := w.client.Transport.RoundTrip(req)
	if err != nil {
		w.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}
