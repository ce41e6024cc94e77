package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

var smoke = &scenario{
	name:   "smoke",
	proves: "Under a light load every kind of request gets the answer that is meant for it: through, from the cache, refused for its token, for its limit, for its path. For every change.",
	run: func(t *trial) error {
		t.backend.does(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodPost {
				body, err := io.ReadAll(req.Body)
				if err == nil {
					_, _ = w.Write(body)
				}
				return
			}
			plain(w, req)
		})
		token, err := t.token("alice")
		if err != nil {
			return err
		}
		expired, err := t.token("alice", "--ttl", "-1h")
		if err != nil {
			return err
		}
		body := []byte(strings.Repeat("sluice ", 5000))
		const allowed, length = 20, 8 * time.Second
		kinds := []struct {
			request
			code   int
			answer string // part of the body
		}{
			{request{path: "/users/7", header: http.Header{"Authorization": {token}}}, 200, `"user":"alice"`},
			{request{path: "/users/8", header: http.Header{"Authorization": {expired}}}, 401, `"status":401`},
			{request{path: "/users/9"}, 401, `"status":401`},
			{request{path: "/products"}, 200, `"path":"/products"`},
			{request{path: "/nothing"}, 404, `"status":404`},
			{request{path: "/echo", method: http.MethodPost, body: body}, 200, string(body)},
		}
		unmarked, bare := 0, 0
		check := func(r *vegeta.Result) bool {
			u, err := url.Parse(r.URL)
			if err != nil {
				return false
			}
			for _, k := range kinds {
				if k.path == u.Path {
					return int(r.Code) == k.code && bytes.Contains(r.Body, []byte(k.answer))
				}
			}
			return false
		}
		mixed := t.begin(load{name: "200 requests/s of all kinds", pace: perSecond(200), length: length,
			next: func(n int) request { return kinds[n%len(kinds)].request }, good: check,
			seen: func(r *vegeta.Result) {
				if r.Headers.Get("X-Correlation-Id") == "" {
					unmarked++
				}
				if r.Code == 401 && r.Headers.Get("Www-Authenticate") == "" {
					bare++
				}
			}})
		control := t.control(length)
		passed := 0
		limited := t.load(load{name: "50 requests/s over a limit", pace: perSecond(50), length: length,
			next: func(int) request { return request{path: "/orders", header: http.Header{"X-Caller": {"bob"}}} },
			good: func(r *vegeta.Result) bool {
				return r.Code == 200 || r.Code == 429 && r.Headers.Get("Retry-After") != ""
			},
			seen: func(r *vegeta.Result) {
				if r.Code == 200 {
					passed++
				}
			}})
		mixed.wait()
		counted, err := t.gateway.metric(t.ctx, "sluice_requests_total")
		if err != nil {
			return err
		}
		exactly(t, "wrong answers", mixed.failed()+limited.failed(), 0)
		exactly(t, "answers without X-Correlation-ID", unmarked, 0)
		exactly(t, "401 without WWW-Authenticate", bare, 0)
		exactly(t, fmt.Sprintf("passed a limit of %d", allowed), passed, allowed)
		exactly(t, "requests in the gateway's metric", int(counted), len(mixed.hits)+len(limited.hits))
		// Of six kinds two reach the backend each time, and one once.
		through := 1 + allowed + mixed.count(func(h hit) bool { return h.code == 200 })*2/3
		within(t, "requests at the backend", int(t.backend.calls.Load()), through-2, through+2)
		atMost(t, "99th percentile", mixed.latency(0.99), control.wait().usual())
		return nil
	},
	faults: []*fault{
		{name: "another secret", misses: "wrong answers", set: []string{"routes.users.policies.jwt.secret=another-secret-of-sufficient-length!"}},
		{name: "no cache", misses: "requests at the backend", set: []string{"routes.products.policies.cache=off"}},
		{name: "one too many", misses: "passed a limit of 20", set: []string{"routes.orders.policies.rate_limit.requests=21"}},
		{name: "no correlation id", misses: "answers without X-Correlation-ID", set: []string{"policies.correlation_id=off"}},
	},
}
