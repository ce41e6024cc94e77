package gateway_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"sluice/gateway"
)

// cachePairs are a cache in front of a split, behind everything else that answers can depend on: who asks, whose tenant that
// is, a version, what a condition reads, and what templates read. The two members answer with all that they were told; a
// response template adds what the client said.
const cachePairs = `
tenants: {acme: {}, beta: {}}
consumers:
  alice: {tenant: acme, %s}
  arthur: {tenant: acme, %s}
  bob: {tenant: beta, %s}
  carol: {%s}
routes:
  r:
    match: {paths: ["/things/{id}"]}
    split:
      services: [{service: stable}, {service: canary}]
      override: {header: X-Member, values: {canary: canary, stable: stable}}
policies:
  api_key: {}
  authorize: {when: "request.headers['x-role'] != 'nobody'"}
  api_version: {versions: {"1": {}, "2": {changes: [{rename: {field: v1, to: v2}}]}}, default: "1"}
  cache: {ttl: 1h, shared: %t}
  request_transform: {add: {headers: {X-Told: "${header.x-lang} ${query.q} ${path.id}"}}}
  response_transform: {add: {headers: {X-Said: "${header.x-tone}"}}}
`

// caller is one point among all that answers depend on.
type caller struct{ who, version, member, lang, tone, role, q, id string }

func (c *caller) tenant() string {
	return map[string]string{"alice": "acme", "arthur": "acme", "bob": "beta", "carol": ""}[c.who]
}

// everybody is every caller there can be.
func everybody() (all []caller) {
	all = []caller{{}}
	each := func(set func(c *caller, v string), values ...string) {
		var next []caller
		for _, c := range all {
			for _, v := range values {
				set(&c, v)
				next = append(next, c)
			}
		}
		all = next
	}
	each(func(c *caller, v string) { c.who = v }, "alice", "arthur", "bob", "carol")
	each(func(c *caller, v string) { c.version = v }, "1", "2")
	each(func(c *caller, v string) { c.member = v }, "stable", "canary")
	each(func(c *caller, v string) { c.lang = v }, "de", "fr")
	each(func(c *caller, v string) { c.tone = v }, "kind", "curt")
	each(func(c *caller, v string) { c.role = v }, "user", "root")
	each(func(c *caller, v string) { c.q = v }, "x", "y")
	each(func(c *caller, v string) { c.id = v }, "7", "8")
	return all
}

// Of all that answers can depend on, each pair is tried: whoever comes finds what everybody before has left, in both orders.
func TestNoStoredAnswerCrosses(t *testing.T) {
	key := func(name string) string {
		return fmt.Sprintf(`api_keys: [{id: k, hash: "sha256:%x"}]`, sha256.Sum256([]byte(name)))
	}
	for _, shared := range [...]bool{false, true} {
		for _, backwards := range [...]bool{false, true} {
			var calls atomic.Int64
			member := func(name string) *server {
				return answering(t, func(head, _ string) string {
					calls.Add(1)
					told := make([]string, 0, 3)
					for _, of := range [...]string{"X-Consumer-ID", "X-Told", "X-Role"} {
						v, _ := field(head, of)
						told = append(told, v)
					}
					body := fmt.Sprintf(`{"v2":"%s %s"}`, name, strings.Join(told, " "))
					return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				})
			}
			stable, canary := member("stable"), member("canary")
			g := serve(t, gateway.Options{}, fmt.Sprintf("services: {stable: {endpoints: [\"http://%s\"]}, canary: {endpoints: [\"http://%s\"]}}", stable.addr, canary.addr)+
				fmt.Sprintf(cachePairs, key("alice"), key("arthur"), key("bob"), key("carol"), shared))
			client := &http.Client{Transport: &http.Transport{}}
			t.Cleanup(client.CloseIdleConnections)
			ask := func(c *caller, stored bool) {
				t.Helper()
				body, res := g.who(client, "/things/"+c.id+"?q="+c.q, "X-API-Key", c.who, "X-API-Version", c.version, "X-Member", c.member,
					"X-Lang", c.lang, "X-Tone", c.tone, "X-Role", c.role)
				_, who, _ := strings.Cut(body, " ")
				who, _, _ = strings.Cut(who, " ")
				own := who == c.who || shared && (&caller{who: who}).tenant() == c.tenant()
				want := fmt.Sprintf(`{"v%s":"%s %s %s %s %s %s"}`, c.version, c.member, who, c.lang, c.q, c.id, c.role)
				hit := strings.Contains(res.Header.Get("Cache-Status"), "; hit")
				if said := res.Header.Get("X-Said"); res.StatusCode != 200 || !own || body != want || said != c.tone || stored && !hit {
					t.Errorf("shared %t, %+v: %d %q, said %q, %q", shared, *c, res.StatusCode, body, said, res.Header.Get("Cache-Status"))
				}
			}
			all := everybody()
			if backwards {
				slices.Reverse(all)
			}
			for i := range all {
				ask(&all[i], false)
			}
			// A tenant's consumers share where that is allowed, and nobody else.
			distinct := int64(len(all))
			if shared {
				distinct = distinct / 4 * 3
			}
			if n := calls.Load(); n != distinct {
				t.Errorf("shared %t: %d calls, want %d", shared, n, distinct)
			}
			for i := range all {
				ask(&all[i], true)
			}
			if n := calls.Load(); n != distinct {
				t.Errorf("shared %t: %d calls after all were stored, want %d", shared, n, distinct)
			}
		}
	}
}
