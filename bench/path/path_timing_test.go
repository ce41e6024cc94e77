//go:build linux

// Benchmarks of the whole path: a request from a client's socket through the
// gateway to a backend's and back. Client and backend are processes of their
// own, so allocations, profiles and cpu-ns/op are the gateway's alone; ns/op is
// the wall time of a saturated machine, and with -cpu 1,2 shows what more
// processors bring.
package path_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"sluice/bench/load"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
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

// secured is a listener of HTTPS in front of the backend.
func secured(b *testing.B, http2 bool) *gate {
	b.Helper()
	cert, key := certstest.New(b).Issue("server", certstest.Leaf{CN: "localhost", DNS: []string{"localhost"}})
	g := serve(b, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0", http2: %v, tls: {certificates: [{cert: %q, key: %q}]}}}
`, http2, cert, key)+plain)
	g.spec.TLS = true
	return g
}

func BenchmarkTLS(b *testing.B) {
	f := func(name, request string, body int) {
		b.Helper()
		b.Run(name, func(b *testing.B) { secured(b, false).answers(request, 200, body) })
	}
	f("300B", get("/300"), 300)
	f("10KiB", get("/10k"), 10<<10)
	f("streamed1MiB", get("/1m"), 1<<20)
}

// The client has one connection with as many streams as the others have
// connections.
func BenchmarkHTTP2(b *testing.B) {
	f := func(name string, serve func(*testing.B) *gate, request string, body int) {
		b.Helper()
		b.Run(name, func(b *testing.B) {
			g := serve(b)
			g.spec.HTTP2, g.spec.Connections, g.spec.Streams = true, 1, connections
			g.answers(request, 200, body)
		})
	}
	clear := func(b *testing.B) *gate { return serve(b, plain) }
	f("300B", clear, get("/300"), 300)
	f("10KiB", clear, get("/10k"), 10<<10)
	f("streamed1MiB", clear, get("/1m"), 1<<20)
	f("POST1KiB", clear, post("/300", 1<<10), 300)
	f("TLS300B", func(b *testing.B) *gate { return secured(b, true) }, get("/300"), 300)
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
	{"bandwidth", "bandwidth: {rate: 1TiB}"},
	{"request_transform", `request_transform: {add: {headers: {X-Path: "${path.id}"}}, remove: {headers: [Cookie]}}`},
	{"response_transform", "response_transform: {add: {headers: {X-Gateway: sluice}}, remove: {headers: [Server]}}"},
}

// credentials are by what else a caller can say who it is; all of them are of
// the consumer app.
func credentials(b *testing.B) (consumer string, headers map[string]string) {
	b.Helper()
	// Signed once and sent again and again, which the policy is told to take.
	date := time.Now().UTC().Format(http.TimeFormat)
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "host: api.example.com\ndate: %s\nget /things/300", date)
	consumer = fmt.Sprintf(`consumers: {app: {api_keys: [{id: k1, hash: "sha256:%x"}], basic_auth: [{hash: "sha256:%x"}], hmac: [{secret: %s}]}}`,
		sha256.Sum256([]byte(apiKey)), sha256.Sum256([]byte(secret)), secret)
	return consumer, map[string]string{
		"jwt":        bearer(b),
		"basic_auth": "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("app:"+secret)) + "\r\n",
		"hmac_auth": fmt.Sprintf("Date: %s\r\nAuthorization: hmac username=\"app\", algorithm=\"hmac-sha256\", headers=\"host date @request-target\", signature=\"%s\"\r\n",
			date, base64.StdEncoding.EncodeToString(mac.Sum(nil))),
	}
}

func BenchmarkPolicy(b *testing.B) {
	consumer, authorization := credentials(b)
	measured := map[string]bool{
		"cache":      true, // of BenchmarkOwnAnswers
		"auth_guard": true, // acts where others authenticate, as jwt below
	}
	f := func(name, credential string, policies ...string) {
		b.Helper()
		measured[name] = true
		request := get("/things/300", authorization[credential], "Origin: https://app.example.com\r\n", "X-API-Key: "+apiKey+"\r\n", "Cookie: a=b\r\n")
		b.Run(name, func(b *testing.B) {
			listener := ""
			var spec load.Spec
			if name == "mtls_auth" {
				a := certstest.New(b)
				cert, key := a.Issue("server", certstest.Leaf{CN: "localhost", DNS: []string{"localhost"}})
				spec.TLS = true
				spec.Certificate, spec.Key = a.Issue("client", certstest.Leaf{CN: "app", Client: true})
				listener = fmt.Sprintf(`listeners: {main: {address: "127.0.0.1:0", tls: {certificates: [{cert: %q, key: %q}], client_auth: {mode: require, ca: %q}}}}`, cert, key, a.File)
			}
			text := strings.Join(policies, "\n      ")
			if !strings.Contains(text, "correlation_id:") {
				text += "\n      correlation_id: off"
			}
			text = strings.ReplaceAll(text, "LOG", fmt.Sprintf("%q", filepath.Join(b.TempDir(), "access.log")))
			g := serve(b, fmt.Sprintf(`
routes:
  r:
    match: {paths: ["/things/{id}"]}
    service: s
    rewrite: "/{id}"
    policies:
      %s
%s
%s
`, text, consumer, listener))
			g.spec.TLS, g.spec.Certificate, g.spec.Key = spec.TLS, spec.Certificate, spec.Key
			g.answers(request, 200, 300)
		})
	}
	f("none", "")
	var all []string
	for _, p := range together {
		f(p.name, "jwt", p.policies)
		all = append(all, p.policies)
	}
	f("basic_auth", "basic_auth", "basic_auth: {}")
	f("hmac_auth", "hmac_auth", "hmac_auth: {clock_skew: 1d, replay_protection: false}")
	f("mtls_auth", "", "mtls_auth: {unknown: accept}") // over TLS
	f("forward_auth", "", `forward_auth: {url: "http://BACKEND/300"}`)
	f("forward_auth_cached", "jwt", `forward_auth: {url: "http://BACKEND/300", request_headers: [Authorization], cache: {by: [authorization], ttl: 1h}}`)
	f("authorize", "jwt", together[6].policies, `authorize: {scopes: [read], when: 'request.method == "GET" && claims.sub == "alice"'}`)
	f("waf", "jwt", "waf: {}")
	f("usual", "jwt", together[0].policies, together[1].policies, together[6].policies, together[8].policies)
	f("all", "jwt", all...)
	for _, name := range slices.Sorted(maps.Keys(registry.All().Policies)) {
		if !measured[name] {
			b.Run(name, func(b *testing.B) { b.Skipf("nobody has written what settings of %s are to be measured", name) })
		}
	}
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
			g.spec.Keys = keys
			b.Run("request", g.ready(request, 200, 300)) // filled once, however often this runs
		})
	}
	limit := "rate_limit: {requests: 1000000000, per: 1h, by: header:X-Key}"
	f("limiter", limit, get("/300", "X-Key: 0000000\r\n"), 1)
	f("limiter", limit, get("/300", "X-Key: 0000000\r\n"), 1_000_000)
	cache := "cache: {max_size: 4GiB}"
	f("cache", cache, get("/cached/0000000"), 1)
	f("cache", cache, get("/cached/0000000"), 1000)
	f("cache", cache, get("/cached/0000000"), 1_000_000)
}
