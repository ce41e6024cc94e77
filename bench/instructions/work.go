//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// work is a request that is counted.
type work struct {
	name    string
	request string
	status  int
	body    int // length of the answer's; negative: any
	// observed has a gateway of its own do it, which traces every tenth request and keeps usage.
	observed bool
}

// The same bytes, from the cache and from the configuration.
const cached, fixed = "cached", "fixed"

// The same policies, with traces and usage besides.
const policies, observed = "policies", "observed"

const (
	fields = "Host: api.example.com\r\nUser-Agent: count/1\r\nAccept: */*\r\n"
	secret = "a-secret-of-at-least-thirty-two-bytes"
)

// all are the works; together they pass what most requests pass.
func all() ([]*work, error) {
	// Always the same token, for always the same instructions.
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": "alice", "exp": time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix(),
	}).SignedString([]byte(secret))
	if err != nil {
		return nil, err
	}
	get := func(path, more string) string { return "GET " + path + " HTTP/1.1\r\n" + fields + more + "\r\n" }
	usual := get("/policies/300", "Origin: https://app.example.com\r\nCookie: a=b\r\nAuthorization: Bearer "+token+"\r\n")
	return []*work{
		{name: "proxied", request: get("/300", ""), status: 200, body: 300},
		{name: "posted", request: fmt.Sprintf("POST /300 HTTP/1.1\r\n%sContent-Length: 1024\r\n\r\n%s", fields, strings.Repeat("x", 1024)), status: 200, body: 300},
		{name: policies, request: usual, status: 200, body: 300},
		{name: observed, request: usual, status: 200, body: 300, observed: true},
		{name: cached, request: get("/cached/1", ""), status: 200, body: 300},
		{name: fixed, request: get("/fixed", ""), status: 200, body: 300},
		{name: "refused", request: get("/policies/300", ""), status: 401, body: -1},
	}, nil
}

func choose(only string) ([]*work, error) {
	works, err := all()
	if err != nil || only == "" {
		return works, err
	}
	var chosen []*work
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(works, func(w *work) bool { return w.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no work %q", name)
		}
		chosen = append(chosen, works[i])
	}
	return chosen, nil
}

// collector is where the backend takes traces.
const collector = "/v1/traces"

// observation is what the configuration of an observed work has besides; state is a folder.
func observation(backend, state string) string {
	return fmt.Sprintf("state: {dir: %q}\npolicies:\n  tracing: {sample: 0.1, otlp: {endpoint: \"http://%s\", protocol: http}}\n", state, backend)
}

// configuration is of a gateway that does every work. It says only what earlier
// commits understand too.
func configuration(listen, admin, backend, log string) string {
	return fmt.Sprintf(`version: 1
listeners: {main: {address: %q}}
admin: {address: %q}
services: {s: {endpoints: ["http://%s"]}}
routes:
  proxied: {match: {paths: [/]}, service: s, policies: {correlation_id: off}}
  cached: {match: {paths: [/cached]}, service: s, policies: {correlation_id: off, cache: {}}}
  fixed:
    match: {paths: [/fixed]}
    policies: {correlation_id: off}
    respond:
      body: %q
      content_type: text/plain
      headers: {Cache-Control: "public, max-age=36000", Age: "12", Cache-Status: "sluice; hit; ttl=35987"}
  policies:
    match: {paths: ["/policies/{id}"]}
    service: s
    rewrite: "/{id}"
    policies:
      access_log: {path: %q}
      ip_filter: {allow: [127.0.0.0/8, 10.0.0.0/8]}
      cors: {origins: ["https://app.example.com"]}
      request_size: {max: 1MiB}
      bot_filter: {deny: [badbot, scraper]}
      auth_guard: off
      jwt: {algorithms: [HS256], secret: %s, forward: {X-User-ID: sub}}
      rate_limit: {requests: 1000000000, per: 1h}
      concurrency: {max: 10000}
      request_transform: {add: {headers: {X-Path: "${path.id}"}}, remove: {headers: [Cookie]}}
      response_transform: {add: {headers: {X-Gateway: sluice}}, remove: {headers: [Server]}}
`, listen, admin, backend, strings.Repeat("x", 300), log, secret)
}
