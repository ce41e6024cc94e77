package kong_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"sluice/config"
	"sluice/config/kong"
	"sluice/gateway"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
)

// ours starts a gateway with a file of Kong, its clock at the beginning of a minute.
func ours(t *testing.T, text string, set ...string) *gateway.Gateway {
	t.Helper()
	now := time.Now().Truncate(time.Minute).Add(time.Second)
	return oursBy(t, func() time.Time { return now }, text, set...)
}

// oursBy starts a gateway by a clock; nil is the machine's.
func oursBy(t *testing.T, now func() time.Time, text string, set ...string) *gateway.Gateway {
	t.Helper()
	c, err := config.Parse("kong.yml", []byte(text), config.Options{Environ: environ, Listen: "127.0.0.1:0", Set: set, Kong: kong.Translator(kong.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), Resolve: backends(t), DrainTimeout: 5 * time.Second, Now: now})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	return g
}

// answer is what a client got, and what the backend got if it was asked.
type answer struct {
	status  int
	header  http.Header
	body    string
	backend struct {
		Target, Host, Body string
		Headers            http.Header
	}
}

func send(t *testing.T, g *gateway.Gateway, method, target, body string, headers ...string) (a answer) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.Listeners()[0].Address+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "h.test"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a.status, a.header, a.body = res.StatusCode, res.Header, string(text)
	if res.Header.Get("X-Backend") == "echo" {
		if err := json.Unmarshal(text, &a.backend); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// message is the message in one of Kong's errors.
func (a answer) message(t *testing.T) string {
	t.Helper()
	var said struct {
		Message   string `json:"message"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &said); err != nil || said.RequestID == "" || said.RequestID != a.header.Get("X-Kong-Request-Id") {
		t.Errorf("%d %v %s: %v", a.status, a.header, a.body, err)
	}
	return said.Message
}

const oneService = `_format_version: "3.0"
services:
- name: users
  url: http://users.test:8080
  routes:
  - name: users
    paths: [/users]
`

const people = `consumers:
- username: alice
  custom_id: "42"
  keyauth_credentials: [{key: alices-key, id: 11111111-0000-4000-8000-000000000001}]
  basicauth_credentials: [{username: alice, password: alices-password}]
  acls: [{group: staff}, {group: ops}]
- username: bob
  keyauth_credentials: [{key: bobs-key}]
- username: guest
  plugins:
  - name: rate-limiting
    config: {minute: 1}
`

func TestRefusalsAreKongs(t *testing.T) {
	f := func(plugins, method, target, body string, status int, message string, headers ...string) answer {
		t.Helper()
		a := send(t, ours(t, oneService+"plugins:\n"+plugins+people), method, target, body, headers...)
		if a.status != status {
			t.Errorf("%s%s %s: %d %s, want %d", plugins, method, target, a.status, a.body, status)
		} else if got := a.message(t); got != message {
			t.Errorf("%s%s %s: %q, want %q", plugins, method, target, got, message)
		}
		return a
	}
	challenge := func(a answer, want string) {
		t.Helper()
		if got := a.header.Get("WWW-Authenticate"); got != want {
			t.Errorf("challenge %q, want %q", got, want)
		}
	}
	challenge(f("- name: key-auth\n", "GET", "/users", "", 401, "No API key found in request"), "Key")
	challenge(f("- name: key-auth\n", "GET", "/users?apikey=wrong", "", 401, "Unauthorized"), "Key")
	f("- name: key-auth\n", "GET", "/users?apikey=a&apikey=b", "", 401, "Duplicate API key found")
	challenge(f("- name: basic-auth\n", "GET", "/users", "", 401, "Unauthorized"), `Basic realm="service"`)
	challenge(f("- name: basic-auth\n  config: {realm: staff}\n", "GET", "/users", "", 401, "Unauthorized"), `Basic realm="staff"`)
	f("- name: hmac-auth\n", "GET", "/users", "", 401, "Unauthorized")
	f("- name: key-auth\n- name: acl\n  config: {allow: [staff]}\n", "GET", "/users", "", 403, "You cannot consume this service", "Apikey", "bobs-key")
	f("- name: acl\n  config: {allow: [staff]}\n", "GET", "/users", "", 401, "Unauthorized")
	f("- name: ip-restriction\n  config: {deny: [127.0.0.0/8]}\n", "GET", "/users", "", 403, "IP address not allowed: 127.0.0.1")
	f("- name: ip-restriction\n  config: {allow: [10.0.0.0/8], status: 401, message: no}\n", "GET", "/users", "", 401, "no")
	f("- name: bot-detection\n", "GET", "/users", "", 403, "Forbidden", "User-Agent", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")
	f("- name: request-size-limiting\n  config: {allowed_payload_size: 3, size_unit: bytes}\n", "POST", "/users", "four", 413, "Request size limit exceeded")
	f("- name: request-size-limiting\n  config: {allowed_payload_size: 3, size_unit: bytes}\n", "POST", "/users", "four", 417, "Request size limit exceeded", "Expect", "100-continue")
	f("- name: rate-limiting\n  config: {minute: 1, error_code: 420, error_message: calm down}\n", "GET", "/nothing", "", 404, "no Route matched with those values")
	// Who calls is asked for before where the call is from.
	f("- name: key-auth\n- name: ip-restriction\n  config: {deny: [127.0.0.0/8]}\n", "GET", "/users", "", 401, "No API key found in request")
}

func TestErrorsHaveTheFormThatIsAskedFor(t *testing.T) {
	g := ours(t, oneService)
	f := func(accept, contentType, want string) {
		t.Helper()
		a := send(t, g, "GET", "/nothing", "", "Accept", accept)
		if a.status != 404 || a.header.Get("Content-Type") != contentType || !regexp.MustCompile(want).MatchString(a.body) {
			t.Errorf("%s: %d %v %s", accept, a.status, a.header, a.body)
		}
	}
	f("application/json", "application/json; charset=utf-8", `^\{\n  "message":"no Route matched with those values",\n  "request_id":"[0-9a-f]{32}"\n\}$`)
	f("text/plain", "text/plain; charset=utf-8", `^no Route matched with those values\nrequest_id: [0-9a-f]{32}\n$`)
	f("text/html", "text/html; charset=utf-8", `<p>no Route matched with those values\.</p>`)
	f("application/xml", "application/xml; charset=utf-8", `<message>no Route matched with those values</message>`)
}

func TestServicesAreToldOfConsumersAsKongDoes(t *testing.T) {
	told := func(plugins string, headers ...string) http.Header {
		t.Helper()
		a := send(t, ours(t, oneService+"plugins:\n"+plugins+people), "GET", "/users", "", headers...)
		if a.status != 200 {
			t.Fatalf("%s: %d %s", plugins, a.status, a.body)
		}
		return a.backend.Headers
	}
	f := func(h http.Header, want ...string) {
		t.Helper()
		for i := 0; i < len(want); i += 2 {
			if got := h.Get(want[i]); got != want[i+1] {
				t.Errorf("%s is %q, want %q", want[i], got, want[i+1])
			}
		}
	}
	h := told("- name: key-auth\n- name: acl\n  config: {allow: [staff]}\n", "Apikey", "alices-key", "X-Consumer-Username", "root")
	f(h, "X-Consumer-Username", "alice", "X-Consumer-Custom-Id", "42", "X-Credential-Identifier", "11111111-0000-4000-8000-000000000001", "X-Consumer-Groups", "staff, ops", "X-Anonymous-Consumer", "", "Apikey", "alices-key")
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(h.Get("X-Consumer-Id")) {
		t.Errorf("X-Consumer-ID is %q", h.Get("X-Consumer-Id"))
	}
	f(told("- name: key-auth\n  config: {hide_credentials: true}\n", "Apikey", "alices-key"), "Apikey", "", "X-Consumer-Groups", "")
	f(told("- name: key-auth\n- name: acl\n  config: {allow: [staff], hide_groups_header: true}\n", "Apikey", "alices-key"), "X-Consumer-Groups", "")
	f(told("- name: basic-auth\n", "Authorization", "Basic YWxpY2U6YWxpY2VzLXBhc3N3b3Jk"), "X-Credential-Identifier", "alice", "X-Consumer-Username", "alice", "Authorization", "Basic YWxpY2U6YWxpY2VzLXBhc3N3b3Jk")
	f(told("- name: key-auth\n  config: {anonymous: guest}\n"), "X-Anonymous-Consumer", "true", "X-Consumer-Username", "guest", "X-Credential-Identifier", "")
}

func TestTheMostSpecificLimitCounts(t *testing.T) {
	g := ours(t, oneService+`  - name: admin
    paths: [/admin]
    plugins:
    - name: rate-limiting
      config: {minute: 2}
plugins:
- name: key-auth
- name: rate-limiting
  config: {minute: 3}
consumers:
- username: alice
  keyauth_credentials: [{key: alices-key}]
- username: bob
  keyauth_credentials: [{key: bobs-key}]
  plugins:
  - name: rate-limiting
    config: {minute: 5}
`)
	f := func(target, key, limit string) {
		t.Helper()
		if a := send(t, g, "GET", target, "", "Apikey", key); a.status != 200 || a.header.Get("X-RateLimit-Limit-Minute") != limit {
			t.Errorf("%s of %s: %d, limit %q, want %s", target, key, a.status, a.header.Get("X-RateLimit-Limit-Minute"), limit)
		}
	}
	f("/users", "alices-key", "3")
	f("/admin", "alices-key", "2")
	f("/admin", "alices-key", "2")
	f("/users", "bobs-key", "5")
	f("/admin", "bobs-key", "5")
	if a := send(t, g, "GET", "/admin", "", "Apikey", "alices-key"); a.status != 429 || a.header.Get("X-RateLimit-Remaining-Minute") != "0" || a.header.Get("Retry-After") == "" || a.message(t) != "API rate limit exceeded" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	f("/users", "alices-key", "3")
}

func TestRoutesAreKongs(t *testing.T) {
	g := ours(t, `_format_version: "3.0"
services:
- name: a
  url: http://a.test:8080/base
  routes:
  - {name: short, paths: [/r]}
  - {name: long, paths: [/r/long], strip_path: false}
  - {name: hosted, hosts: [host.test], paths: [/], preserve_host: true}
  - {name: pattern, paths: ["~/users/(?<id>\\d+)"], plugins: [{name: request-transformer, config: {add: {headers: ["X-Id:$(uri_captures.id)"]}}}]}
  - {name: secure, paths: [/secure], protocols: [https]}
  - {name: moved, paths: [/moved], protocols: [https], https_redirect_status_code: 301}
`)
	f := func(target, backend string, headers ...string) answer {
		t.Helper()
		a := send(t, g, "GET", target, "", headers...)
		if a.status != 200 || a.backend.Target != backend {
			t.Errorf("%s: %d, the service was asked for %q, want %q", target, a.status, a.backend.Target, backend)
		}
		return a
	}
	f("/r", "/base")
	f("/r/x?q=1", "/base/x?q=1")
	f("/rx", "/base/x")
	f("/r/long/x", "/base/r/long/x")
	if a := f("/r/long", "/base/r/long", "Host", "host.test"); a.backend.Host != "host.test" {
		t.Errorf("the service saw host %q", a.backend.Host)
	}
	if a := f("/users/42/x", "/base/x"); a.backend.Headers.Get("X-Id") != "42" || a.backend.Host != "a.test:8080" || a.backend.Headers.Get("X-Forwarded-Prefix") != "/users/42" {
		t.Errorf("the service saw %v of %q", a.backend.Headers, a.backend.Host)
	}
	if a := send(t, g, "GET", "/secure", ""); a.status != 426 || a.message(t) != "Please use HTTPS protocol" || a.header.Get("Upgrade") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := send(t, g, "GET", "/moved/x?q=1", ""); a.status != 301 || a.header.Get("Location") != "https://h.test/moved/x?q=1" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a := send(t, g, "POST", "/nothing", ""); a.status != 404 {
		t.Errorf("%d", a.status)
	}
}

func TestPluginsThatAnswer(t *testing.T) {
	f := func(plugin, method string, status int, body string, headers ...string) answer {
		t.Helper()
		a := send(t, ours(t, oneService+"plugins:\n"+plugin), method, "/users/x?q=1", "", headers...)
		if a.status != status || a.body != body {
			t.Errorf("%s: %d %q, want %d %q", plugin, a.status, a.body, status, body)
		}
		return a
	}
	f("- name: request-termination\n", "GET", 503, `{"message":"Service unavailable"}`)
	f("- name: request-termination\n  config: {status_code: 403, message: no/way}\n", "GET", 403, `{"message":"no\/way"}`)
	if a := f("- name: request-termination\n  config: {status_code: 410, body: gone, content_type: text/plain}\n", "GET", 410, "gone"); a.header.Get("Content-Type") != "text/plain" {
		t.Error(a.header)
	}
	if a := send(t, ours(t, oneService+"plugins:\n- name: redirect\n  config: {location: \"https://new.test\", keep_incoming_path: true}\n"), "GET", "/users/x?q=1", ""); a.status != 301 || a.header.Get("Location") != "https://new.test/users/x?q=1" {
		t.Errorf("%d %v", a.status, a.header)
	}
	a := f("- name: cors\n  config: {origins: [\"https://app.test\"], credentials: true, max_age: 60}\n", "OPTIONS", 200, "", "Origin", "https://app.test", "Access-Control-Request-Method", "GET")
	for name, want := range map[string]string{"Access-Control-Allow-Origin": "https://app.test", "Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "60", "Access-Control-Allow-Methods": "GET, HEAD, PUT, PATCH, POST, DELETE, OPTIONS, TRACE, CONNECT"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	limited := ours(t, strings.Replace(oneService, "users.test:8080", "cost.test:8080", 1)+"plugins:\n- name: response-ratelimiting\n  config: {limits: {videos: {minute: 1}}}\n")
	for i, want := range []int{200, 429} {
		a := send(t, limited, "GET", "/users", "")
		if a.status != want || a.header.Get("X-RateLimit-Remaining-Videos-Minute") != "0" || a.header.Get("X-Kong-Limit") != "" {
			t.Errorf("answer %d: %d %v %s", i, a.status, a.header, a.body)
		}
	}
	if a := send(t, ours(t, "_format_version: \"3.0\"\nroutes: [{name: r, paths: [/users]}]\n"), "GET", "/users", ""); a.status != 503 || !strings.Contains(a.body, "no Service found") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := send(t, ours(t, oneService+"plugins:\n- name: correlation-id\n  config: {echo_downstream: true}\n"), "GET", "/users", ""); !regexp.MustCompile(`^[0-9a-f-]{36}#\d+$`).MatchString(a.header.Get("Kong-Request-ID")) || a.backend.Headers.Get("Kong-Request-ID") != a.header.Get("Kong-Request-ID") {
		t.Errorf("%v", a.header)
	}
}

// The certificates of a file are served on a listener of their own.
func TestCertificatesOfTheFile(t *testing.T) {
	authority := certstest.New(t)
	certFile, keyFile := authority.Issue("api", certstest.Leaf{DNS: []string{"api.test"}})
	quote := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := json.Marshal(string(text))
		return string(b)
	}
	g := ours(t, oneService+"certificates:\n- cert: "+quote(certFile)+"\n  key: "+quote(keyFile)+"\n  snis: [{name: api.test}]\n", "listeners.secure.address=127.0.0.2:0")
	for _, l := range g.Listeners() {
		if l.Name != "secure" {
			continue
		}
		client := &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), ServerName: "api.test"}, //nolint:gosec // the default version is the test's point no more than others
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", l.Address)
			},
		}}
		res, err := client.Get("https://api.test/users")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 {
			t.Errorf("%d", res.StatusCode)
		}
		client.CloseIdleConnections()
		return
	}
	t.Errorf("no listener for https: %v", g.Listeners())
}
