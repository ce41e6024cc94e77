package examples_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/config"
	"sluice/config/kong"
	"sluice/gateway"
	"sluice/gateway/registry"
)

const kongSecret = "a-secret-of-at-least-thirty-two-bytes"

// runKong starts the example of Kong word for word, at the beginning of a minute, its log in a folder of the test.
func runKong(t *testing.T, log string, environ ...string) (g *gateway.Gateway, url string, users, orders, products *backend) {
	t.Helper()
	users, orders, products = newBackend(t, "users"), newBackend(t, "orders"), newBackend(t, "products")
	c, err := config.Load("kong.yml", config.Options{
		Listen: "127.0.0.1:0", Environ: environ, Set: []string{"policies.access_log.path=" + log}, Kong: kong.Translator(kong.Options{}),
	})
	if err != nil {
		t.Fatal(err)
	}
	began, minute := time.Now(), time.Now().Truncate(time.Minute)
	g = gateway.New(gateway.Options{
		Registry: registry.All(), DrainTimeout: 5 * time.Second, Now: func() time.Time { return minute.Add(time.Since(began)) },
		Resolve: map[string]string{"user-service:8080": users.address(), "order-service:8080": orders.address(), "product-service:8080": products.address()},
	})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	return g, "http://" + g.Listeners()[0].Address, users, orders, products
}

func TestKong(t *testing.T) {
	log := filepath.Join(t.TempDir(), "access.log")
	g, url, users, orders, products := runKong(t, log, "SLUICE_JWT_SECRET="+kongSecret)
	alice := token(t, kongSecret, "alice", time.Hour)

	refused := func(status int, message string, res *http.Response, body string) {
		t.Helper()
		var said struct {
			Message   string `json:"message"`
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(body), &said); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if res.StatusCode != status || said.Message != message || said.RequestID == "" || said.RequestID != res.Header.Get("X-Kong-Request-Id") || res.Header.Get("X-Kong-Response-Latency") == "" {
			t.Fatalf("%s %v %s; want %d %q", res.Status, res.Header, body, status, message)
		}
	}

	// jwt: the key of the environment, exp verified, Kong's answers.
	res, body := get(t, url+"/api/v1/users")
	refused(401, "Unauthorized", res, body)
	if res.Header.Get("WWW-Authenticate") != "Bearer" || res.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatal(res.Header)
	}
	res, body = get(t, url+"/api/v1/users", "Authorization", token(t, "another-secret-of-thirty-two-bytes", "alice", time.Hour))
	refused(401, "Invalid signature", res, body)
	if res, body = get(t, url+"/api/v1/users", "Authorization", token(t, kongSecret, "alice", -time.Hour)); res.StatusCode != 401 || body != `{"exp":"token expired"}` {
		t.Fatal(res.Status, body)
	}
	if res, body = get(t, url+"/api/v1/users?jwt="+strings.TrimPrefix(alice, "Bearer ")); res.StatusCode != 200 {
		t.Fatal(res.Status, body)
	}

	// The path is kept, the id goes to the service and not to the client, latencies are told.
	res, body = get(t, url+"/api/v1/users/7", "Authorization", alice)
	if res.StatusCode != 200 || !strings.Contains(body, `"path":"/api/v1/users/7"`) {
		t.Fatalf("%s %s", res.Status, body)
	}
	seen := users.last.Load().Header
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(seen.Get("X-Correlation-ID")) || res.Header.Get("X-Correlation-ID") != "" {
		t.Fatalf("the service saw %v, the client %v", seen, res.Header)
	}
	if seen.Get("X-Kong-Request-Id") != res.Header.Get("X-Kong-Request-Id") || seen.Get("X-Forwarded-Path") != "/api/v1/users/7" || seen.Get("X-Real-IP") != "127.0.0.1" {
		t.Fatal(seen)
	}
	for _, name := range []string{"X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency"} {
		if res.Header.Get(name) == "" {
			t.Fatalf("no %s: %v", name, res.Header)
		}
	}
	if _, _ = get(t, url+"/api/v1/orders", "X-Correlation-ID", "mine-1"); orders.last.Load().Header.Get("X-Correlation-ID") != "mine-1" {
		t.Fatal(orders.last.Load().Header)
	}

	// A prefix is one of bytes, as in Kong; what no route has gets its 404.
	if res, _ = get(t, url+"/api/v1/ordersuffix"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	res, body = get(t, url+"/api/v2/orders")
	refused(404, "no Route matched with those values", res, body)
	if body != "{\n  \"message\":\"no Route matched with those values\",\n  \"request_id\":\""+res.Header.Get("X-Kong-Request-Id")+"\"\n}" {
		t.Fatalf("%q", body)
	}

	// 100 a minute for a subject, three of them used above; 50 a minute for an address, two of them used.
	limits := func(path, auth string, used, limit int) {
		t.Helper()
		for i := used; i < limit; i++ {
			res, body := get(t, url+path, "Authorization", auth)
			want := func(name, value string) {
				t.Helper()
				if got := res.Header.Get(name); got != value {
					t.Fatalf("request %d to %s: %s is %q, want %q; %v", i, path, name, got, value, res.Header)
				}
			}
			if res.StatusCode != 200 {
				t.Fatalf("request %d to %s: %s %s", i, path, res.Status, body)
			}
			want("X-RateLimit-Limit-Minute", strconv.Itoa(limit))
			want("X-RateLimit-Remaining-Minute", strconv.Itoa(limit-i-1))
			want("RateLimit-Limit", strconv.Itoa(limit))
			want("RateLimit-Remaining", strconv.Itoa(limit-i-1))
			if res.Header.Get("RateLimit-Reset") == "" || res.Header.Get("RateLimit-Policy") != "" {
				t.Fatal(res.Header)
			}
		}
		res, body := get(t, url+path, "Authorization", auth)
		refused(429, "API rate limit exceeded", res, body)
		if res.Header.Get("Retry-After") != res.Header.Get("RateLimit-Reset") || res.Header.Get("X-RateLimit-Remaining-Minute") != "0" {
			t.Fatal(res.Header)
		}
	}
	limits("/api/v1/users", alice, 2, 100)
	limits("/api/v1/orders", "", 2, 50)
	if res, _ = get(t, url+"/api/v1/users", "Authorization", token(t, kongSecret, "bob", time.Hour)); res.StatusCode != 200 {
		t.Fatal("another subject shares the limit:", res.Status)
	}

	// proxy-cache: GET alone, application/json alone.
	cached := func(want string, calls int64, method, path string) http.Header {
		t.Helper()
		req, err := http.NewRequest(method, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("X-Cache-Status"); got != want || products.calls.Load() != calls || res.Header.Get("Cache-Status") != "" {
			t.Fatalf("%s %s: %q, want %q, after %d calls; %v", method, path, got, want, products.calls.Load(), res.Header)
		}
		return res.Header
	}
	first := cached("Miss", 1, "GET", "/api/v1/products/1")
	second := cached("Hit", 1, "GET", "/api/v1/products/1")
	if second.Get("Age") == "" || second.Get("X-Cache-Key") == "" || second.Get("X-Cache-Key") != first.Get("X-Cache-Key") {
		t.Fatal(second)
	}
	cached("Miss", 2, "GET", "/api/v1/products/2")
	cached("Bypass", 3, "HEAD", "/api/v1/products/1")
	products.status.Store(404)
	cached("Bypass", 4, "GET", "/api/v1/products/3")

	// prometheus, and file-log.
	var metrics strings.Builder
	if err := g.WriteMetrics(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sluice_requests_total{route="user-routes",service="user-service",method="GET",code="401"} 3`,
		`sluice_rate_limited_total{route="order-routes",policy="rate_limit"} 1`,
		`sluice_cache_requests_total{route="product-routes",result="hit"} 1`,
	} {
		if !strings.Contains(metrics.String(), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	g.Shutdown(t.Context())
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"route":"user-routes"`, `"status":429`, `"request_id":"mine-1"`, `"service":"product-service"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in the log", want)
		}
	}
}

// Without any key nobody gets in, as in Kong, where no consumer has one.
func TestKongWithoutAKey(t *testing.T) {
	_, url, _, _, _ := runKong(t, filepath.Join(t.TempDir(), "access.log"))
	if res, body := get(t, url+"/api/v1/users"); res.StatusCode != 401 || !strings.Contains(body, "Unauthorized") {
		t.Fatal(res.Status, body)
	}
	if res, body := get(t, url+"/api/v1/users", "Authorization", token(t, kongSecret, "alice", time.Hour)); res.StatusCode != 401 {
		t.Fatal(res.Status, body)
	}
	if res, _ := get(t, url+"/api/v1/orders"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
}

// The log of the example is where a user may not write: a warning, and no reason not to run.
func TestKongWhereItsLogCanNotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, url, _, _, _ := runKong(t, filepath.Join(file, "access.log"))
	if res, _ := get(t, url+"/api/v1/orders"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
}
