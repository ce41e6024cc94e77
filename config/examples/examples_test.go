package examples_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fasthttp/websocket"
	"github.com/golang-jwt/jwt/v5"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/acme/acmetest"
	"sluice/gateway/cluster/redistest"
	"sluice/gateway/registry"
)

// backend answers as a JSON service and counts.
type backend struct {
	*httptest.Server
	calls  atomic.Int64
	status atomic.Int64
	last   atomic.Pointer[http.Request]
}

func newBackend(t *testing.T, name string) *backend {
	b := &backend{}
	b.status.Store(200)
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.calls.Add(1)
		b.last.Store(r)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(b.status.Load()))
		fmt.Fprintf(w, `{"service":%q,"path":%q}`, name, r.URL.Path)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) address() string { return strings.TrimPrefix(b.URL, "http://") }

// run starts the gateway with an example, its hosts mapped to backends.
func run(t *testing.T, file string, resolve map[string]string, environ ...string) (*gateway.Gateway, string) {
	t.Helper()
	c, err := config.Load(file, config.Options{Listen: "127.0.0.1:0", Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), Resolve: resolve, DrainTimeout: 5 * time.Second})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	return g, "http://" + g.Listeners()[0].Address
}

func get(t *testing.T, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func token(t *testing.T, secret, sub string, ttl time.Duration) string {
	t.Helper()
	claims := jwt.MapClaims{"exp": time.Now().Add(ttl).Unix()}
	if sub != "" {
		claims["sub"] = sub
	}
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + s
}

func TestEveryExampleIsValid(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	environ := []string{"DEMO_SECRET=s", "DEMO_USERS_URL=http://a:1", "DEMO_ORDERS_URL=http://b:1", "DEMO_PRODUCTS_URL=http://c:1", "ACCESS_LOG=" + filepath.Join(t.TempDir(), "access.log"), "ACME_STORAGE=" + t.TempDir(), "STATE_DIR=" + t.TempDir(), "JWT_SECRET=s"}
	for _, f := range files {
		c, err := config.Load(f, config.Options{Environ: environ})
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		_, done, err := gateway.Compile(gateway.Options{Registry: registry.All()}, c)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		done()
	}
}

func TestSimple(t *testing.T) {
	users, orders := newBackend(t, "users"), newBackend(t, "orders")
	g, url := run(t, "simple.yaml", map[string]string{
		"user-service:8080": users.address(), "order-service:8080": orders.address(),
		"product-service:8080": "127.0.0.1:1",
	})
	alice := token(t, "your-secret-key", "alice", time.Hour)

	res, body := get(t, url+"/api/v1/users/7", "Authorization", alice)
	if res.StatusCode != 200 || !strings.Contains(body, `"path":"/7"`) {
		t.Fatalf("%s %s", res.Status, body)
	}
	seen := users.last.Load().Header
	if seen.Get("X-User-ID") != "alice" || seen.Get("X-Correlation-ID") == "" || seen.Get("X-Correlation-ID") != res.Header.Get("X-Correlation-ID") {
		t.Fatalf("the backend saw %v, the client %v", seen, res.Header)
	}
	if res.Header.Get("X-Response-Time") == "" {
		t.Fatal("no X-Response-Time")
	}

	problem := func(wantStatus int, res *http.Response, body string) {
		t.Helper()
		var p struct {
			Status    int    `json:"status"`
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if res.StatusCode != wantStatus || p.Status != wantStatus || p.RequestID == "" || p.RequestID != res.Header.Get("X-Correlation-ID") ||
			res.Header.Get("Content-Type") != "application/problem+json" {
			t.Fatalf("%s %v %s", res.Status, res.Header, body)
		}
	}
	res, body = get(t, url+"/api/v1/users/7")
	problem(401, res, body)
	if res.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Fatal(res.Header)
	}
	res, body = get(t, url+"/api/v1/users/7", "Authorization", token(t, "your-secret-key", "alice", -time.Hour))
	problem(401, res, body)
	res, body = get(t, url+"/api/v1/users/7", "Authorization", token(t, "another-secret", "alice", time.Hour))
	problem(401, res, body)
	res, body = get(t, url+"/api/v2/users", "Authorization", alice)
	problem(404, res, body)
	res, body = get(t, url+"/api/v1/products", "Authorization", token(t, "your-secret-key", "carol", time.Hour))
	problem(502, res, body)

	// A token without sub is limited and forwarded by the client's address.
	if res, _ = get(t, url+"/api/v1/users", "Authorization", token(t, "your-secret-key", "", time.Hour)); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if id := users.last.Load().Header.Get("X-User-ID"); id != "127.0.0.1" {
		t.Fatalf("X-User-ID %q", id)
	}

	// 100 a minute for each subject.
	bob := token(t, "your-secret-key", "bob", time.Hour)
	passed := 0
	for range 110 {
		res, body = get(t, url+"/api/v1/users", "Authorization", bob)
		if res.StatusCode == 200 {
			passed++
		}
	}
	problem(429, res, body)
	if passed < 100 || passed > 103 || res.Header.Get("Retry-After") == "" {
		t.Fatalf("%d passed, %v", passed, res.Header)
	}

	// Five failures open the breaker; then the backend is left alone.
	dave := token(t, "your-secret-key", "dave", time.Hour)
	orders.status.Store(500)
	for range 5 {
		if res, _ = get(t, url+"/api/v1/orders", "Authorization", dave); res.StatusCode != 500 {
			t.Fatal(res.Status)
		}
	}
	before := orders.calls.Load()
	res, body = get(t, url+"/api/v1/orders", "Authorization", dave)
	problem(503, res, body)
	if res.Header.Get("Retry-After") == "" || orders.calls.Load() != before {
		t.Fatalf("%v, %d calls", res.Header, orders.calls.Load()-before)
	}
	if res, body = get(t, url+"/health"); res.StatusCode != 200 || !strings.Contains(body, `"orders":"open"`) || !strings.Contains(body, `"users":"closed"`) {
		t.Fatalf("%s %s", res.Status, body)
	}
	var metrics strings.Builder
	if err := g.WriteMetrics(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sluice_requests_total{route="users",service="users",method="GET",code="401"}`,
		`sluice_circuit_state{service="orders",endpoint="http://order-service:8080"} 2`,
		`sluice_rate_limited_total{route="users",policy="rate_limit"}`,
		`sluice_auth_failures_total{route="users",reason="expired"} 1`,
	} {
		if !strings.Contains(metrics.String(), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

func TestRelease(t *testing.T) {
	stable, canary, next := newBackend(t, "stable"), newBackend(t, "canary"), newBackend(t, "next")
	_, url := run(t, "release.yaml", map[string]string{
		"shop-stable:8080": stable.address(), "shop-canary:8080": canary.address(), "shop-next:8080": next.address(),
	})
	res, body := get(t, url+"/shop/cart", "X-Canary", "always")
	if res.StatusCode != 200 || !strings.Contains(body, `"service":"canary"`) {
		t.Fatalf("%s %s", res.Status, body)
	}
	res, first := get(t, url+"/shop/cart")
	cookie, _, _ := strings.Cut(res.Header.Get("Set-Cookie"), ";")
	if !strings.HasPrefix(cookie, "sluice_split=") {
		t.Fatal(res.Header)
	}
	for range 10 {
		if res, body = get(t, url+"/shop/cart", "Cookie", cookie); body != first || res.Header.Get("Set-Cookie") != "" {
			t.Fatalf("%s after %s", body, first)
		}
	}
	for end := time.Now().Add(10 * time.Second); next.calls.Load() < 12; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d copies of 12 requests", next.calls.Load())
		}
	}
	if h := next.last.Load().Header; h.Get("X-Sluice-Mirror") != "1" {
		t.Fatal(h)
	}
}

func TestEdge(t *testing.T) {
	users, orders, products := newBackend(t, "users"), newBackend(t, "orders"), newBackend(t, "products")
	log := filepath.Join(t.TempDir(), "access.log")
	g, url := run(t, "edge.yaml", map[string]string{
		"user-service:8080": users.address(), "order-service:8080": orders.address(), "product-service:8080": products.address(),
	}, "ACCESS_LOG="+log)

	if res, _ := get(t, url+"/api/v1/users"); res.StatusCode != 401 {
		t.Fatal(res.Status)
	}
	if res, _ := get(t, url+"/api/v1/users", "Authorization", token(t, "your-secret-key", "alice", time.Hour)); res.StatusCode != 200 || res.Header.Get("RateLimit-Policy") != `"default";q=100;w=60` {
		t.Fatal(res.Status, res.Header)
	}
	passed := 0
	for range 55 {
		if res, _ := get(t, url+"/api/v1/orders"); res.StatusCode == 200 {
			passed++
		}
	}
	if passed < 50 || passed > 52 {
		t.Fatalf("%d orders passed", passed)
	}
	for range 3 {
		if res, body := get(t, url+"/api/v1/products/1"); res.StatusCode != 200 || !strings.Contains(body, "/api/v1/products/1") {
			t.Fatal(res.Status, body)
		}
	}
	if n := products.calls.Load(); n != 1 {
		t.Fatalf("%d calls for three requests", n)
	}
	res, _ := get(t, url+"/api/v1/products/1", "X-Correlation-ID", "mine-1")
	if res.Header.Get("X-Correlation-ID") != "mine-1" || !strings.HasPrefix(res.Header.Get("Cache-Status"), "sluice; hit") || res.Header.Get("Age") == "" {
		t.Fatal(res.Header)
	}
	g.Shutdown(t.Context())
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 61 {
		t.Fatalf("%d lines for 61 requests", len(lines))
	}
	for _, line := range lines {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry["request_id"] == "" {
			t.Fatalf("%v: %s", err, line)
		}
	}
}

func TestVersions(t *testing.T) {
	v1, stable, canary := newBackend(t, "v1"), newBackend(t, "stable"), newBackend(t, "canary")
	_, url := run(t, "versions.yaml", map[string]string{
		"api-v1:8080": v1.address(), "api-v2:8080": stable.address(), "api-v2-canary:8080": canary.address(),
	})
	f := func(path, version, wantService, wantPath string) {
		t.Helper()
		var headers []string
		if version != "" {
			headers = []string{"X-Api-Version", version}
		}
		res, body := get(t, url+path, headers...)
		if res.StatusCode != 200 || !strings.Contains(body, wantService) || !strings.Contains(body, `"path":"`+wantPath+`"`) {
			t.Fatalf("%s %s: %s %s", path, version, res.Status, body)
		}
	}
	f("/api/v1/things", "", `"v1"`, "/things")
	f("/api/things", "1", `"v1"`, "/things")
	f("/api/v2/things", "", "", "/things")
	f("/api/things", "2", "", "/things")
	for range 2000 {
		f("/api/v2", "", "", "/")
	}
	if n := canary.calls.Load(); n < 50 || n > 170 {
		t.Fatalf("the canary got %d of 2,002 requests at a weight of 5 %%", n)
	}
	if res, _ := get(t, url+"/api/things"); res.StatusCode != 404 {
		t.Fatal(res.Status)
	}
}

func TestAPIVersions(t *testing.T) {
	var calls atomic.Int64
	billing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Seen", r.URL.Path+" "+r.Header.Get("Billing-Version")+" "+string(body))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"amount":12.50,"currency":"EUR","customer":{"first_name":"Ada","last_name":"Lovelace"},"items":[{"article":"a-1"}],"status":"paid"}`)
	}))
	t.Cleanup(billing.Close)
	_, url := run(t, "api-versions.yaml", map[string]string{"billing:8080": strings.TrimPrefix(billing.URL, "http://")})
	post := func(path, body string, headers ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodPost, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(got)
	}
	const oldRequest, oldAnswer = `{"amount":12.50,"customer":{"name":"Ada Lovelace"},"items":[{"sku":"a-1"}],"status":0}`,
		`{"amount":12.50,"items":[{"sku":"a-1"}],"status":1,"customer":{"name":"Ada Lovelace"}}`
	for _, path := range []string{"/charges", "/v2023-05-01/charges"} {
		res, got := post(path, oldRequest)
		seen := `/charges 2025-03-15 {"amount":12.50,"customer":{"first_name":"Ada","last_name":"Lovelace"},"items":[{"article":"a-1"}],"status":"pending","currency":"EUR"}`
		if res.StatusCode != 200 || res.Header.Get("X-Seen") != seen || !sameJSON(t, got, oldAnswer) || res.Header.Get("Deprecation") != "@1767225600" {
			t.Errorf("%s: %s %v %s", path, res.Status, res.Header, got)
		}
	}
	if res, got := post("/charges", `{}`, "Billing-Version", "2025-03-15"); res.StatusCode != 201 || !strings.Contains(got, `"currency":"EUR"`) || res.Header.Get("Deprecation") != "" {
		t.Errorf("%s %s", res.Status, got)
	}
	if res, got := post("/charges", `{}`, "X-API-Key", "acme-key"); res.StatusCode != 201 || res.Header.Get("Billing-Version") != "2025-03-15" {
		t.Errorf("%s %s", res.Status, got)
	}
	if res, got := post("/v2020-01-01/charges", `{}`); res.StatusCode != 400 || !strings.Contains(got, "2023-05-01, 2024-10-01, 2025-03-15") {
		t.Errorf("%s %s", res.Status, got)
	}
	before := calls.Load()
	for n := range 3 {
		res, got := post("/charges", oldRequest, "Idempotency-Key", `"order-7"`)
		if res.StatusCode != 200 || !sameJSON(t, got, oldAnswer) || (res.Header.Get("Idempotent-Replayed") == "true") != (n > 0) || len(res.Header.Values("Billing-Version")) != 1 {
			t.Errorf("%s %v %s", res.Status, res.Header, got)
		}
	}
	if n := calls.Load() - before; n != 1 {
		t.Errorf("%d calls for one key", n)
	}
	if res, got := post("/charges", `{"amount":1}`, "Idempotency-Key", "order-7"); res.StatusCode != 422 {
		t.Errorf("%s %s", res.Status, got)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(x, y)
}

// The certificate comes from a real authority, whose look at the gateway is not
// sent on to HTTPS.
func TestHTTPS(t *testing.T) {
	users := newBackend(t, "users")
	secure, plain := acmetest.FreeAddress(t), acmetest.FreeAddress(t)
	authority := acmetest.New(t, acmetest.Options{TLSPort: acmetest.Port(t, secure), HTTPPort: acmetest.Port(t, plain)})
	authority.Start()
	c, err := config.Load("https.yaml", config.Options{Environ: []string{
		"HTTPS_ADDRESS=" + secure, "HTTP_ADDRESS=" + plain,
		"ACME_DIRECTORY=" + authority.Directory, "ACME_CA=" + authority.CA, "ACME_STORAGE=" + filepath.Join(t.TempDir(), "acme"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), Resolve: map[string]string{"user-service:8080": users.address()}, DrainTimeout: 5 * time.Second})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				to := map[string]string{"api.example.com:443": secure, "api.example.com:80": plain}[address]
				return new(net.Dialer).DialContext(ctx, network, to)
			},
			TLSClientConfig: &tls.Config{RootCAs: authority.Roots()},
		},
		Timeout: 10 * time.Second,
	}
	defer client.CloseIdleConnections()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		// Redirected, and then answered.
		res, err := client.Get("http://api.example.com/api/v1/users/7")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode != 200 || res.Request.URL.Scheme != "https" || users.calls.Load() != 1 || res.Header.Get("Strict-Transport-Security") == "" {
				t.Errorf("%s from %s, %v", res.Status, res.Request.URL, res.Header)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestTenants(t *testing.T) {
	api := newBackend(t, "api")
	_, url := run(t, "tenants.yaml", map[string]string{"api-service:8080": api.address()}, "STATE_DIR="+t.TempDir())
	call := func(host, key string, status int) http.Header {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, url+"/things", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		if key != "" {
			req.Header.Set("X-API-Key", key)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%s on %s: %s", key, host, res.Status)
		}
		return res.Header
	}
	policyOf := func(h http.Header) string { return h.Get("RateLimit-Policy") }
	// Both of acme's consumers use the plan of their tenant up together.
	h := call("api.acme.example", "key-of-acme-web", 200)
	if got := policyOf(h); !strings.HasPrefix(got, `"default";q=1000;w=60, "month";q=1000000;w=`) {
		t.Error(got)
	}
	h = call("api.example.com", "key-of-acme-batch", 200)
	if got := h.Get("RateLimit"); !strings.Contains(got, `"month";r=999998;`) {
		t.Errorf("the second of acme's consumers has a count of its own: %s", got)
	}
	// The other tenant has the smaller plan, and all of it.
	h = call("api.tiny.example", "key-of-tiny-app", 200)
	if got := policyOf(h); !strings.HasPrefix(got, `"default";q=60;w=60, "day";q=1000;w=86400`) {
		t.Error(got)
	}
	call("api.tiny.example", "key-of-acme-web", 403)
	call("api.acme.example", "key-of-tiny-app", 403)
	call("api.acme.example", "", 401)
}

func TestAggregate(t *testing.T) {
	service := func(answers map[string]string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			answer, known := answers[r.Method+" "+r.URL.String()+string(body)]
			if !known {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusNotFound)
				answer = `{"error":"unknown"}`
			}
			_, _ = io.WriteString(w, answer)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	users := service(map[string]string{"GET /users/7": `{"id":7,"name":"Ann"}`, "GET /users/8": `{"id":8}`, "GET /users": `[{"id":7},{"id":8}]`})
	orders := service(map[string]string{
		"GET /orders?user=7": `{"items":[{"product":"p1"},{"product":"p2"}]}`, "GET /orders?user=8": `{"items":[]}`,
		"GET /orders?users=7%2C8": `{"items":[{"user":8,"n":1},{"user":8,"n":2}]}`,
	})
	advice := service(map[string]string{`POST /advice{"bought":["p1","p2"],"user":7}`: `["p3"]`})
	_, url := run(t, "aggregate.yaml", map[string]string{"user-service:8080": users, "order-service:8080": orders, "advice-service:8080": advice})
	f := func(path string, status int, partial, want string) {
		t.Helper()
		res, body := get(t, url+path)
		if res.StatusCode != status || body != want || res.Header.Get("X-Sluice-Partial") != partial {
			t.Errorf("%s: %s %v %s", path, res.Status, res.Header, body)
		}
	}
	f("/pages/7", 200, "", `{"user":{"id":7,"name":"Ann"},"orders":[{"product":"p1"},{"product":"p2"}],"advice":["p3"]}`)
	f("/pages/8", 200, "true", `{"user":{"id":8},"orders":[],"advice":[],"partial":true}`)
	f("/pages/9", 404, "", `{"error":"unknown"}`)
	f("/overview", 200, "", `{"items":[{"id":7,"orders":[]},{"id":8,"orders":[{"user":8,"n":1},{"user":8,"n":2}]}]}`)
}

func TestGraphQL(t *testing.T) {
	var calls atomic.Int64
	service := func(answers map[string]string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			body, _ := io.ReadAll(r.Body)
			answer, known := answers[r.Method+" "+r.URL.String()+string(body)]
			w.Header().Set("Content-Type", "application/json")
			if !known {
				t.Logf("%s %s%s", r.Method, r.URL, body)
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = io.WriteString(w, answer)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	users := service(map[string]string{"GET /users?limit=2": `[{"id":7,"name":"Ann"},{"id":8,"name":"Bob"}]`, "GET /users/7": `{"id":7,"name":"Ann"}`})
	orders := service(map[string]string{
		"GET /orders?users=7%2C8": `[{"id":1,"user":7,"total":9.5,"status":"OPEN"}]`, "GET /orders/1": `{"id":1,"user":7,"total":9.5,"status":"OPEN"}`,
		`POST /orders{"products":["p1"],"user":"7"}`: `{"id":2,"user":7,"total":1,"status":"OPEN"}`,
	})
	catalogue := service(map[string]string{
		`POST /graphql{"query":"query Product($id: ID!) { product(id: $id) { id name price } }","operationName":"Product","variables":{"id":"7"}}`: `{"data":{"product":{"id":"7","name":"Lamp","price":10}}}`,
	})
	_, url := run(t, "graphql.yaml", map[string]string{"user-service:8080": users, "order-service:8080": orders, "catalogue-service:8080": catalogue})
	ask := func(query, want string) {
		t.Helper()
		body, _ := json.Marshal(map[string]string{"query": query})
		res, err := http.Post(url+"/graphql", "application/json", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %s %s", query, res.Status, got)
		}
	}
	ask("query Overview { users(first: 2) { name orders { id total } } }", `{"data":{"users":[{"name":"Ann","orders":[{"id":"1","total":9.5}]},{"name":"Bob","orders":[]}]}}`)
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls, want one for the users and one for the orders of all of them", n)
	}
	ask("{ order(id: 1) { status user { name } } user(id: 9) { name } }", `{"data":{"order":{"status":"OPEN","user":{"name":"Ann"}},"user":null}}`)
	ask(`mutation { createOrder(input: {user: "7", products: ["p1"]}) { id } }`, `{"data":{"createOrder":{"id":"2"}}}`)
	if res, body := get(t, url+"/products/7"); res.StatusCode != 200 || strings.TrimSpace(body) != `{"id":"7","name":"Lamp","price":10}` {
		t.Errorf("%s %s", res.Status, body)
	}
}

// Two gateways run the example with one store.
func TestShared(t *testing.T) {
	redis := redistest.Start(t, "--requirepass", "p")
	api := newBackend(t, "api")
	var urls []string
	var gateways []*gateway.Gateway
	for range 2 {
		g, url := run(t, "shared.yaml", map[string]string{"api-service:8080": api.address()}, "REDIS_ADDRESS="+redis.Address, "REDIS_PASSWORD=p")
		gateways, urls = append(gateways, g), append(urls, url)
	}
	for _, g := range gateways {
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			var b strings.Builder
			if err := g.WriteMetrics(&b); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(b.String(), "sluice_store_up 1") && strings.Contains(b.String(), "sluice_store_instances 2") {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the gateways do not find each other")
			}
		}
	}
	passed := 0
	for i := range 12 {
		res, err := http.Post(urls[i%2]+"/login", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode == 200 {
			passed++
		}
	}
	// On a machine so slow that the store seems gone in between, each has its half, at least one.
	if passed < 5 || passed > 7 {
		t.Errorf("%d logins of 5 passed", passed)
	}
	before := api.calls.Load()
	for i := range 4 {
		req, err := http.NewRequest(http.MethodPost, urls[i%2]+"/pay", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", "order-7")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 {
			t.Error(res.Status)
		}
	}
	if n := api.calls.Load() - before; n > 2 {
		t.Errorf("%d calls for one key", n)
	}
}

func TestWebSocket(t *testing.T) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	sockets := func(answer func(r *http.Request, message string) []string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer c.Close()
			for {
				_, m, err := c.ReadMessage()
				if err != nil {
					return
				}
				for _, a := range answer(r, string(m)) {
					if c.WriteMessage(websocket.TextMessage, []byte(a)) != nil {
						return
					}
				}
			}
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	live := sockets(func(r *http.Request, m string) []string { return []string{r.Header.Get("X-User-ID") + " says " + m} })
	quotes := sockets(func(r *http.Request, m string) []string { return []string{r.URL.Path + " " + m, "2"} })
	orders := newBackend(t, "orders")
	const secret = "a-secret-of-at-least-thirty-two-bytes"
	_, url := run(t, "websocket.yaml", map[string]string{"live-service:8080": live, "order-service:8080": orders.address(), "quote-service:8080": quotes}, "JWT_SECRET="+secret)
	url = strings.TrimPrefix(url, "http://")
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	dial := func(path, origin string, protocols ...string) (*websocket.Conn, int) {
		d := websocket.Dialer{Subprotocols: protocols, HandshakeTimeout: 10 * time.Second}
		c, res, err := d.Dial("ws://"+url+path, http.Header{"Origin": {origin}})
		if err != nil {
			return nil, res.StatusCode
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		return c, res.StatusCode
	}
	said := func(c *websocket.Conn, m, want string) {
		t.Helper()
		if err := c.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.ReadMessage(); err != nil || string(got) != want {
			t.Errorf("%s: %s %v", m, got, err)
		}
	}
	const app = "https://app.example.com"
	c, status := dial("/live", app, "bearer", token)
	if c == nil {
		t.Fatal(status)
	}
	said(c, "hello", "alice says hello")
	if _, status := dial("/live", "https://evil.example.com", "bearer", token); status != 403 {
		t.Errorf("another origin: %d", status)
	}
	if _, status := dial("/live", app); status != 401 {
		t.Errorf("without a token: %d", status)
	}
	if c, status = dial("/rpc", app); c == nil {
		t.Fatal(status)
	}
	said(c, `{"id": 1, "method": "GET", "path": "orders", "query": "open"}`, `{"id":1,"status":200,"body":{"service":"orders","path":"/orders"}}`)
	if q := orders.last.Load().URL.RawQuery; q != "status=open" {
		t.Error(q)
	}
	if res, body := get(t, "http://"+url+"/quote?symbol=ACME"); res.StatusCode != 200 || body != `/stream {"subscribe":"ACME"}` {
		t.Errorf("%s %s", res.Status, body)
	}
}
