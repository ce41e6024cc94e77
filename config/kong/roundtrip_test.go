package kong_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"sluice/config"
	"sluice/config/kong"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// echo answers with the request that it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Backend", "echo")
	w.Header().Set("X-Secret", "inside")
	_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "target": r.RequestURI, "host": r.Host, "headers": r.Header, "body": string(body)})
}

// serve runs a gateway whose services are all the same backend, and whose clock stands still at the beginning of a minute.
func serve(t *testing.T, c *config.Config, resolve map[string]string, now time.Time) string {
	t.Helper()
	g := gateway.New(gateway.Options{Registry: registry.All(), Resolve: resolve, DrainTimeout: 5 * time.Second, Now: func() time.Time { return now }})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	return g.Listeners()[0].Address
}

func backends(t *testing.T) map[string]string {
	plain := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(secure.Close)
	resolve := map[string]string{}
	for _, host := range []string{"users.test:8080", "a.test:8080", "a.test:80", "b.test:80", "backend.test:8080", "deck.test:8080", "a1.test:8080", "a2.test:8080", "a3.test:8000", "other.test:80", "greeter.test:9000"} {
		resolve[host] = strings.TrimPrefix(plain.URL, "http://")
	}
	costly := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Kong-Limit", "videos=1")
		echo(w, r)
	}))
	t.Cleanup(costly.Close)
	resolve["cost.test:8080"] = strings.TrimPrefix(costly.URL, "http://")
	for _, host := range []string{"a.test:443", "a.test:8443", "secure.test:443"} {
		resolve[host] = strings.TrimPrefix(secure.URL, "https://")
	}
	return resolve
}

type question struct {
	method, target, host, body string
	headers                    []string
}

func questions(now time.Time) []question {
	token := func(issuer, secret string, claims jwt.MapClaims) string {
		all := jwt.MapClaims{"iss": issuer, "sub": "subject", "exp": now.Add(time.Hour).Unix(), "nbf": now.Add(-time.Hour).Unix()}
		for k, v := range claims {
			all[k] = v
		}
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString([]byte(secret))
		if err != nil {
			panic(err)
		}
		return s
	}
	const alices = "alices-secret-of-at-least-32-bytes"
	const environs = "a-secret-of-at-least-thirty-two-bytes"
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	get := func(target string, headers ...string) question {
		return question{method: "GET", target: target, host: "h.test", headers: headers}
	}
	all := []question{
		get("/nothing"), get("/"), get("/users"), get("/users/7"), get("/users/7?debug=1&q=x"), get("/users/7/orders"), get("/usersuffix"), get("/users/"),
		get("/r"), get("/r/"), get("/r/x?y=1"), get("/rx"), get("/r/long/x"), get("/s"), get("/kept/x"), get("/admin"), get("/b"), get("/plain"), get("/v1/x"), get("/v1/"),
		get("/upgrade"), get("/moved?x=1"), get("/a%20b/c"), get("/caf%C3%A9"), get("/r/../users"), get("/r%2Fx"),
		get("/users", "Apikey", "alices-key"), get("/users", "Apikey", "bobs-key"), get("/users", "Apikey", "wrong"), get("/users?apikey=alices-key"), get("/users", "X-Key", "alices-key"),
		get("/users", "Authorization", basic("alice:alices-password")), get("/users", "Authorization", basic("alice:wrong")), get("/users", "Authorization", basic("alice:secret")),
		get("/users", "Authorization", "Bearer "+token("alices-issuer", alices, nil)),
		get("/users", "Authorization", "Bearer "+token("alices-issuer", alices, jwt.MapClaims{"exp": now.Add(-time.Hour).Unix()})),
		get("/users", "Authorization", "Bearer "+token("alices-issuer", alices, jwt.MapClaims{"exp": now.Add(5 * time.Hour).Unix()})),
		get("/users", "Authorization", "Bearer "+token("alices-issuer", "another secret of thirty-two bytes", nil)),
		get("/users", "Authorization", "Bearer "+token("nobody", alices, nil)), get("/users", "Authorization", "Bearer nonsense"),
		get("/users", "Authorization", "Bearer "+token("iss", environs, nil)), get("/users?token=" + token("alices-issuer", alices, nil)), get("/users", "Cookie", "session="+token("alices-issuer", alices, nil)),
		get("/r", "X-Version", "v2"), get("/r", "X-Kind", "BETA-1"), get("/r", "X-Version", "V1", "X-Kind", "beta-2"), get("/r", "X-Any", "*"), get("/r", "X-Tenant", "one"),
		get("/users", "User-Agent", "curl/8"), get("/users", "User-Agent", "goodbot/1.0"), get("/users", "User-Agent", "Googlebot/2.1"), get("/users", "Accept", "text/html"), get("/nothing", "Accept", "text/plain"),
		get("/users", "X-Old", "1", "X-Secret", "2", "X-Kind", "3", "X-From", "me"), get("/users", "Origin", "https://app.example.com"), get("/users", "Origin", "https://evil.example"),
		{method: "OPTIONS", target: "/users", host: "h.test", headers: []string{"Origin", "https://a.example.org", "Access-Control-Request-Method", "GET"}},
		{method: "OPTIONS", target: "/users", host: "h.test"},
		{method: "POST", target: "/users", host: "h.test", body: "four"}, {method: "POST", target: "/users", host: "h.test", body: strings.Repeat("many ", 20)},
		{method: "POST", target: "/users", host: "h.test", body: `{"password":"x","a.b":1,"old":2,"kind":"k","user":{"password":"y"}}`, headers: []string{"Content-Type", "application/json"}},
		get("/users", "Apikey", "alices-key", "Authorization", basic("alice:alices-password")), get("/users", "Apikey", "bobs-key", "Authorization", basic("alice:alices-password")),
		get("/rest/greetings/me"), get("/web/x"), {method: "POST", target: "/greeter.Greeter/Greet", host: "h.test", headers: []string{"Content-Type", "application/grpc-web"}},
		{method: "DELETE", target: "/r", host: "h.test"}, {method: "HEAD", target: "/users", host: "h.test"},
		{method: "GET", target: "/x", host: "api.example.com"}, {method: "GET", target: "/x", host: "other.example.com"}, {method: "GET", target: "/x", host: "api.test:8080"},
	}
	return all
}

var (
	// Ids, whether a trace is sampled, and the endpoint whose turn it was.
	volatile = regexp.MustCompile(`[0-9a-f]{32}-[0-9a-f]{16}-[0-9d]+|"X-B3-Sampled":\["[01]"\]|\b[0-9a-f]{16}\b|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}(#[0-9]+)?|\b[0-9a-f]{32}\b|\ba[0-9]\.test:[0-9]+`)
	unequal  = []string{"Date", "X-Kong-Request-Id", "X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency", "X-Kong-Response-Latency", "X-Cache-Key"}
)

// ask returns what a gateway answers, without what differs from request to request.
func ask(t *testing.T, client *http.Client, address string, q question) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), q.method, "http://"+address+q.target, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = q.host
	for i := 0; i < len(q.headers); i += 2 {
		req.Header.Set(q.headers[i], q.headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for name, values := range res.Header {
		if !slices.Contains(unequal, name) {
			lines = append(lines, fmt.Sprintf("%s: %s", name, values))
		}
	}
	slices.Sort(lines)
	return res.StatusCode, volatile.ReplaceAllString(fmt.Sprintf("%d\n%s\n\n%s", res.StatusCode, strings.Join(lines, "\n"), body), "ID")
}

// A file of Kong and what it is converted to answer the same.
func TestConvertedFilesAnswerTheSame(t *testing.T) {
	resolve := backends(t)
	now := time.Now().Truncate(time.Minute).Add(time.Second)
	asked := questions(now)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	example := filepath.Join("..", "examples", "kong.yml")
	for _, file := range append(valid(t), example) {
		name := strings.TrimSuffix(filepath.Base(file), ".kong.yml")
		switch name {
		case "openid-connect":
			continue // asks a provider that is not there
		case "acme":
			continue // asks an authority that is not there, and listens on a port of its own
		}
		t.Run(name, func(t *testing.T) {
			log := "policies.access_log.path=" + filepath.Join(t.TempDir(), "access.log")
			var set []string
			if text := readFile(t, file); strings.Contains(text, "file-log") && !strings.Contains(text, "/dev/stdout") {
				set = append(set, log)
			}
			native, _, err := translate(t, file, kong.Options{Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			o := config.Options{Environ: environ, Set: set, Listen: "127.0.0.1:0"}
			converted, err := config.Parse("native.yaml", native, o)
			if err != nil {
				t.Fatal(err)
			}
			o.Kong = kong.Translator(kong.Options{})
			original, err := config.Load(file, o)
			if err != nil {
				t.Fatal(err)
			}
			a, b := serve(t, original, resolve, now), serve(t, converted, resolve, now)
			routed := 0
			for _, q := range asked {
				status, want := ask(t, client, a, q)
				_, got := ask(t, client, b, q)
				if got != want {
					t.Errorf("%s %s %v: converted\n%s\nthe file itself\n%s", q.method, q.target, q.headers, got, want)
				}
				if status != http.StatusNotFound {
					routed++
				}
			}
			if routed < 2 && file != example {
				t.Errorf("%d of %d requests found a route", routed, len(asked))
			}
		})
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
