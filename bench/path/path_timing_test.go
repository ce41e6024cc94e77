//go:build linux

// Benchmarks of the whole path: a request from a client's socket through the
// gateway to a backend's and back. Client and backend are processes of their
// own, so allocations, profiles and cpu-ns/op are the gateway's alone; ns/op is
// the wall time of a saturated machine, and with -cpu 1,2 shows what more
// processors bring.
package path_test

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	fields = "Host: api.example.com\r\nUser-Agent: bench/1\r\nAccept: */*\r\n"
	secret = "a-secret-of-at-least-thirty-two-bytes"
	apiKey = "an-api-key-of-the-benchmark"
)

func get(path string, headers ...string) string {
	return "GET " + path + " HTTP/1.1\r\n" + fields + strings.Join(headers, "") + "\r\n"
}

func post(path string, size int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", path, fields, size, strings.Repeat("x", size))
}

func bearer(b *testing.B) string {
	b.Helper()
	s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "alice", "scope": "read", "exp": time.Now().Add(time.Hour).Unix(),
	}).SignedString([]byte(secret))
	if err != nil {
		b.Fatal(err)
	}
	return "Authorization: Bearer " + s + "\r\n"
}

const plain = `
routes: {r: {match: {paths: [/]}, service: s}}
policies: {correlation_id: off}
`

func BenchmarkProxy(b *testing.B) {
	f := func(name, request string, body int) {
		b.Helper()
		b.Run(name, func(b *testing.B) { serve(b, plain).answers(request, 200, body) })
	}
	f("300B", get("/300"), 300)
	f("10KiB", get("/10k"), 10<<10)
	f("64KiB", get("/64k"), 64<<10)
	f("streamed1MiB", get("/1m"), 1<<20)
	f("POST1KiB", post("/300", 1<<10), 300)
	f("POST1MiB", post("/300", 1<<20), 300)
}

// The client has one connection with as many streams as the others have
// connections.
func BenchmarkHTTP2(b *testing.B) {
	f := func(name, request string, body int) {
		b.Helper()
		b.Run(name, func(b *testing.B) { serve(b, plain).ready("client-h2c", request, 200, body)(b) })
	}
	f("300B", get("/300"), 300)
	f("10KiB", get("/10k"), 10<<10)
	f("POST1KiB", post("/300", 1<<10), 300)
}

func BenchmarkOwnAnswers(b *testing.B) {
	f := func(name, routes, request string, status int) {
		b.Helper()
		b.Run(name, func(b *testing.B) { serve(b, routes).answers(request, status, -1) })
	}
	f("respond", `routes: {r: {respond: {body: hello}}}`, get("/"), 200)
	f("redirect", `routes: {r: {redirect: {to: "https://example.com${uri}"}}}`, get("/a"), 308)
	f("cached300B", `
routes: {r: {match: {paths: [/]}, service: s, policies: {cache: {}}}}
policies: {correlation_id: off}
`, get("/cached/1"), 200)
	f("cached10KiB", `
routes: {r: {match: {paths: [/]}, service: s, policies: {cache: {ttl: 1h}}}}
policies: {correlation_id: off}
`, get("/10k"), 200)
}

func BenchmarkRejection(b *testing.B) {
	f := func(name, routes, request string, status int) {
		b.Helper()
		b.Run(name, func(b *testing.B) { serve(b, routes).answers(request, status, -1) })
	}
	route := func(policies string) string {
		return "routes: {r: {match: {paths: [/r], methods: [GET, POST]}, service: s, policies: {" + policies + "}}}"
	}
	f("400path", route(""), get("/r/%2F"), 400)
	f("401none", route("jwt: {algorithms: [HS256], secret: "+secret+"}, auth_guard: off"), get("/r"), 401)
	f("401forged", route("jwt: {algorithms: [HS256], secret: another-"+secret+"}, auth_guard: off"), get("/r", bearer(b)), 401)
	f("403address", route("ip_filter: {deny: [127.0.0.0/8]}"), get("/r"), 403)
	f("403scope", route("jwt: {algorithms: [HS256], secret: "+secret+"}, authorize: {scopes: [write]}"), get("/r", bearer(b)), 403)
	f("404", route(""), get("/nowhere"), 404)
	f("405", route(""), "DELETE /r HTTP/1.1\r\n"+fields+"\r\n", 405)
	f("429", route("rate_limit: {requests: 1, per: 1d}"), get("/r"), 429)
	f("503breaker", `
services: {dead: {endpoints: ["http://127.0.0.1:1"], circuit_breaker: {consecutive_failures: 1, open_for: 1h}}}
routes: {r: {service: dead}}
`, get("/r"), 503)
}

// together are policies that pass one request, by the names of their benchmarks.
var together = []struct{ name, policies string }{
	{"correlation_id", "correlation_id: {}"},
	{"access_log", "access_log: {path: LOG}"},
	{"ip_filter", "ip_filter: {allow: [127.0.0.0/8, 10.0.0.0/8]}"},
	{"cors", `cors: {origins: ["https://app.example.com"]}`},
	{"request_size", "request_size: {max: 1MiB}"},
	{"bot_filter", "bot_filter: {deny: [badbot, scraper]}"},
	{"jwt", "jwt: {algorithms: [HS256], secret: " + secret + ", forward: {X-User-ID: sub}}"},
	{"api_key", "api_key: {}"},
	{"rate_limit", "rate_limit: {requests: 1000000000, per: 1h}"},
	{"concurrency", "concurrency: {max: 10000}"},
	{"request_transform", `request_transform: {add: {headers: {X-Path: "${path.id}"}}, remove: {headers: [Cookie]}}`},
	{"response_transform", "response_transform: {add: {headers: {X-Gateway: sluice}}, remove: {headers: [Server]}}"},
}

func BenchmarkPolicy(b *testing.B) {
	request := get("/things/300", bearer(b), "Origin: https://app.example.com\r\n", "X-API-Key: "+apiKey+"\r\n", "Cookie: a=b\r\n")
	f := func(name string, policies ...string) {
		b.Helper()
		b.Run(name, func(b *testing.B) {
			text := strings.Join(policies, "\n      ")
			if !strings.Contains(text, "correlation_id:") {
				text += "\n      correlation_id: off"
			}
			text = strings.ReplaceAll(text, "LOG", fmt.Sprintf("%q", filepath.Join(b.TempDir(), "access.log")))
			serve(b, fmt.Sprintf(`
routes:
  r:
    match: {paths: ["/things/{id}"]}
    service: s
    rewrite: "/{id}"
    policies:
      %s
consumers: {app: {api_keys: [{id: k1, hash: "sha256:%x"}]}}
`, text, sha256.Sum256([]byte(apiKey)))).answers(request, 200, 300)
		})
	}
	f("none")
	var all []string
	for _, p := range together {
		f(p.name, p.policies)
		all = append(all, p.policies)
	}
	f("usual", together[0].policies, together[1].policies, together[6].policies, together[8].policies)
	f("all", all...)
}

func BenchmarkRoutes(b *testing.B) {
	f := func(count int) {
		b.Helper()
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var text strings.Builder
			text.WriteString("policies: {correlation_id: off}\nroutes:\n")
			for i := range count {
				fmt.Fprintf(&text, "  r%d: {match: {paths: [\"/team-%d/things-%d\"]}, service: s, rewrite: /300}\n", i, i%100, i)
			}
			serve(b, text.String()).answers(get(fmt.Sprintf("/team-%d/things-%d/42", (count-1)%100, count-1)), 200, 300)
		})
	}
	f(10)
	f(10_000)
}

// Every request has the next of so many keys, and all keys were seen before.
func BenchmarkKeys(b *testing.B) {
	f := func(name, policies, request string, keys int) {
		b.Helper()
		b.Run(fmt.Sprintf("%s%d", name, keys), func(b *testing.B) {
			if keys > 1 && testing.Short() {
				b.Skip("filling it takes a while")
			}
			g := serve(b, "routes: {r: {match: {paths: [/]}, service: s, policies: {"+policies+"}}}\npolicies: {correlation_id: off}")
			g.keys = keys
			b.Run("request", g.ready("client", request, 200, 300)) // filled once, however often this runs
		})
	}
	limit := "rate_limit: {requests: 1000000000, per: 1h, by: header:X-Key}"
	f("limiter", limit, get("/300", "X-Key: 0000000\r\n"), 1)
	f("limiter", limit, get("/300", "X-Key: 0000000\r\n"), 1_000_000)
	cache := "cache: {max_size: 4GiB}"
	f("cache", cache, get("/cached/0000000"), 1)
	f("cache", cache, get("/cached/0000000"), 1_000_000)
}
