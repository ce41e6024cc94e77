package gateway_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"sluice/gateway"
)

// TestPoliciesAllocate counts what requests cost that pass every usual policy,
// and those that each of them refuses.
func TestPoliciesAllocate(t *testing.T) {
	addr := backendProcess(t)
	const secret = "a-secret-of-at-least-thirty-two-bytes"
	sign := func(sub string) string {
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": sub, "exp": time.Now().Add(time.Hour).Unix(), "scope": "read"}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
services:
  s: {endpoints: ["http://%[1]s"]}
  dead: {endpoints: ["http://127.0.0.1:1"], circuit_breaker: {consecutive_failures: 1, open_for: 1h}}
routes:
  r:
    match: {paths: ["/api/{id}"]}
    service: s
    rewrite: /things/{id}
    policies:
      request_transform: {add: {headers: {X-Id: "${path.id}", X-Sub: "${claim.sub}"}}, remove: {headers: [Cookie]}}
      response_transform: {add: {headers: {X-Gateway: sluice}}, remove: {headers: [X-Backend]}}
  cached: {match: {paths: [/cached]}, service: s, policies: {cache: {shared: true}}}
  forbidden: {match: {paths: [/forbidden]}, service: s, policies: {authorize: {scopes: [write]}}}
  limited: {match: {paths: [/limited]}, service: s, policies: {rate_limit: {requests: 1, per: 1d}}}
  dead: {match: {paths: [/dead]}, service: dead}
policies:
  jwt: {algorithms: [HS256], secret: %[2]s}
  rate_limit: {requests: 1000000000, per: 1d}
  access_log: {path: %[3]q}
`, addr, secret, filepath.Join(t.TempDir(), "access.log")))
	fields := "Host: api.example\r\nUser-Agent: test\r\nAccept: */*\r\nCookie: a=b\r\nAuthorization: Bearer " + sign("alice") + "\r\n\r\n"
	g.allocates("proxied", "GET /api/7?a=b HTTP/1.1\r\n"+fields, 200)
	g.allocates("cached", "GET /cached HTTP/1.1\r\n"+fields, 200)
	g.allocates("401", "GET /api/7 HTTP/1.1\r\nHost: api.example\r\n\r\n", 401)
	g.allocates("403", "GET /forbidden HTTP/1.1\r\n"+fields, 403)
	g.allocates("404", "GET /nothing HTTP/1.1\r\n"+fields, 404)
	g.once("GET /limited HTTP/1.1\r\n" + fields)
	g.allocates("429", "GET /limited HTTP/1.1\r\n"+fields, 429)
	g.once("GET /dead HTTP/1.1\r\n" + fields)
	g.allocates("503", "GET /dead HTTP/1.1\r\n"+fields, 503)
}

// once sends a request and reads its answer away: the one that fills a bucket
// or opens a breaker.
func (g *gate) once(request string) {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		g.t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		g.t.Fatal(err)
	}
}
