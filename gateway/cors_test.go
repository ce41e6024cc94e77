package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"sluice/gateway"
)

// A browser gets to see the gateway's own errors, whoever refused; preflight
// requests pass without credentials, other OPTIONS go to the backend, and what a
// backend says of sharing does not count.
func TestCORS(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\nContent-Length: 2\r\nX-Method: %s\r\n\r\nok", strings.Fields(head)[0])
	})
	const policies = `cors: {origins: ["https://app.example"], credentials: true, max_age: 1h, expose: [X-Method]}`
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}, down: {endpoints: ["http://127.0.0.1:1"]}}
limits: {max_body_size: 1KiB}
routes:
  open: {match: {paths: [/open]}, service: s, policies: {%[2]s}}
  shut: {match: {paths: [/shut]}, service: s, policies: {%[2]s, jwt: {algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef}}}
  down: {match: {paths: [/down]}, service: down, policies: {%[2]s}}
  limited: {match: {paths: [/limited]}, service: s, policies: {%[2]s, rate_limit: {requests: 1, per: 1d}}}
  cached: {match: {paths: [/cached]}, service: s, policies: {%[2]s, cache: {ttl: 1h}}}
  read: {match: {paths: [/read], methods: [GET]}, service: s, policies: {%[2]s}}
`, s.addr, policies))
	const app, other = "https://app.example", "https://other.example"
	c := g.client()
	f := func(request, origin string, status int, more string) {
		t.Helper()
		text := request + " HTTP/1.1\r\nHost: a\r\n" + more
		if origin != "" {
			text += "Origin: " + origin + "\r\n"
		}
		if text += "\r\n"; strings.HasPrefix(request, "POST") {
			text += "some of the body"
		}
		c.send(text)
		head := c.head()
		_, _ = c.body(head)
		got, _ := field(head, "Access-Control-Allow-Origin")
		credentials, _ := field(head, "Access-Control-Allow-Credentials")
		want, wantCredentials := "", ""
		if origin == app {
			want, wantCredentials = app, "true"
		}
		if statusOf(head) != status || got != want || credentials != wantCredentials || len(fields(head, "Access-Control-Allow-Origin")) > 1 || !strings.Contains(head, "Vary: Origin\r\n") {
			t.Errorf("%s from %q: %s", request, origin, head)
		}
		if strings.Contains(strings.ToLower(head), "\nconnection: close") {
			c = g.client()
		}
	}
	for _, origin := range []string{app, other, ""} {
		f("GET /open", origin, 200, "")
		f("GET /shut", origin, 401, "")
		f("GET /down", origin, 502, "")
		f("GET /cached", origin, 200, "")
		f("POST /open", origin, 413, "Content-Length: 5000\r\n")
		f("OPTIONS /open", origin, 200, "")
		f("OPTIONS /open", origin, 200, "Access-Control-Request-Headers: x-a\r\n")
	}
	f("GET /limited", app, 200, "")
	f("GET /limited", app, 429, "")
	for _, path := range []string{"/shut", "/down", "/read"} {
		f("OPTIONS "+path, app, 204, "Access-Control-Request-Method: GET\r\n")
		f("OPTIONS "+path, other, 204, "Access-Control-Request-Method: GET\r\n")
	}
}
