package snapshot_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/action"
	"sluice/gateway/action/redirect"
	"sluice/gateway/action/split"
	"sluice/gateway/policy"
	"sluice/gateway/policy/apikey"
	"sluice/gateway/policy/authguard"
	"sluice/gateway/policy/concurrency"
	"sluice/gateway/policy/correlationid"
	"sluice/gateway/policy/jwt"
	"sluice/gateway/policy/ratelimit"
	"sluice/gateway/policy/requesttransform"
	"sluice/gateway/policy/responsetransform"
	"sluice/gateway/snapshot"
)

const explained = `
listeners: {main: {address: ":0"}, side: {address: ":0"}}
trusted_proxies: ["10.0.0.0/8"]
services:
  users:
    endpoints: ["http://127.0.0.1:1/base", {url: "http://127.0.0.1:2", weight: 2}]
    timeouts: {response: 5s}
    policies: {api_key: {header: X-Service-Key}}
routes:
  users:
    match: {paths: [/api/v1/users, "/api/v1/people/{id}/orders"]}
    service: users
    strip_prefix: true
    timeouts: {connect: 1s}
    retries: off
    policies:
      jwt: {secret: hush-jwt-secret-that-is-32-bytes-long}
  posts:
    match: {paths: [/api/v1/users], methods: [POST]}
    service: users
    rewrite: "/in/{path}"
  keyed:
    match: {paths: [/api/v1/users], headers: {X-Api-Key: hush-header}}
    service: users
  side: {match: {paths: [/api/v1/users/side], listeners: [side]}, service: users}
  gone: {match: {paths: [/old]}, redirect: {to: "https://new.example/"}}
policies:
  jwt: {secret: hush-global-secret-that-is-32-bytes-long}
  rate_limit: {requests: 100, per: 1m}
consumers:
  alice: {policies: {rate_limit: {requests: 7, per: 1s}}}
  bob: {policies: {rate_limit: {requests: 7, per: 1s}}}
`

var registry = snapshot.NewRegistry(
	[]*policy.Definition{apikey.Definition, authguard.Definition, concurrency.Definition, correlationid.Definition, jwt.Definition,
		ratelimit.Definition, requesttransform.Definition, responsetransform.Definition},
	[]*action.Definition{redirect.Definition, split.Definition},
)

func compile(t *testing.T, text string) *snapshot.Snapshot {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, done, err := gateway.Compile(gateway.Options{Registry: registry}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return s
}

func TestExplainRouting(t *testing.T) {
	s := compile(t, explained)
	f := func(req snapshot.ExplainRequest, wantStatus int, wantRoute, wantUpstream string) *snapshot.Explanation {
		t.Helper()
		e := s.Explain(req)
		if e.Problem != "" || e.Status != wantStatus || e.Route != wantRoute || e.UpstreamPath != wantUpstream {
			t.Errorf("%+v: %q %d %q %q", req, e.Problem, e.Status, e.Route, e.UpstreamPath)
		}
		return e
	}
	e := f(snapshot.ExplainRequest{URL: "http://Api.Example:8080/api//v1/./users/J%c3%b6rg%20?a=b#c"}, 0, "users", "/J%C3%B6rg%20?a=b")
	if e.Request.Path != "/api/v1/users/Jörg " || e.Request.Host != "api.example" || e.Request.Listener != "main" || e.Source != "test.yaml:10" {
		t.Errorf("%+v %s", e.Request, e.Source)
	}
	f(snapshot.ExplainRequest{URL: "/api/v1/users"}, 0, "users", "/")
	f(snapshot.ExplainRequest{URL: "/api/v1/people/7/orders"}, 0, "users", "/")
	f(snapshot.ExplainRequest{URL: "/api/v1/users/7", Method: "POST"}, 0, "posts", "/in/7")
	f(snapshot.ExplainRequest{URL: "/api/v1/users/side", Listener: "side"}, 0, "side", "/api/v1/users/side")
	f(snapshot.ExplainRequest{URL: "/api/v1/users", Headers: snapshot.ExplainHeaders{"x-api-key": {"hush-header"}}}, 0, "keyed", "/api/v1/users")
	f(snapshot.ExplainRequest{URL: "/old/x"}, 0, "gone", "")
	f(snapshot.ExplainRequest{URL: "/nowhere"}, 404, "", "")
	if e = f(snapshot.ExplainRequest{URL: "/a/%2e%2e/../b"}, 400, "", ""); e.Why == "" || len(e.Policies) != 1 {
		t.Errorf("%+v", e)
	}

	if e = s.Explain(snapshot.ExplainRequest{URL: "/", IP: "10.0.0.1", Headers: snapshot.ExplainHeaders{
		"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"},
	}}); e.Request.Client != "192.0.2.7" || !e.Request.TrustedProxy || e.Request.Scheme != "https" {
		t.Errorf("%+v", e.Request)
	}
	if e = s.Explain(snapshot.ExplainRequest{URL: "/", IP: "192.0.2.1", Headers: snapshot.ExplainHeaders{"X-Forwarded-For": {"192.0.2.7"}}}); e.Request.Client != "192.0.2.1" {
		t.Errorf("%+v", e.Request)
	}
}

func TestExplainMethodNotAllowed(t *testing.T) {
	s := compile(t, `
services: {a: {endpoints: ["http://127.0.0.1:1"]}}
routes: {a: {match: {paths: [/a], methods: [GET, PUT]}, service: a}}
`)
	if e := s.Explain(snapshot.ExplainRequest{Method: "DELETE", URL: "/a"}); e.Status != 405 || e.Allow != "GET, PUT" {
		t.Errorf("%+v", e)
	}
	s = compile(t, `
services: {a: {endpoints: ["http://127.0.0.1:1"]}}
routes: {a: {match: {paths: [/a]}, service: a}, b: {match: {paths: [/b], methods: [TRACE]}, service: a}}
`)
	if e := s.Explain(snapshot.ExplainRequest{Method: "TRACE", URL: "/a"}); e.Status != 405 || e.Route != "" || strings.Contains(e.Allow, "TRACE") {
		t.Errorf("%+v", e)
	}
	if e := s.Explain(snapshot.ExplainRequest{Method: "TRACE", URL: "/b"}); e.Status != 0 || e.Route != "b" {
		t.Errorf("%+v", e)
	}
}

func TestExplainProblem(t *testing.T) {
	s := compile(t, explained)
	f := func(req snapshot.ExplainRequest, want string) {
		t.Helper()
		e := s.Explain(req)
		if !strings.Contains(e.Problem, want) || !strings.Contains(e.Text(), want) {
			t.Errorf("%+v: %q", req, e.Problem)
		}
	}
	f(snapshot.ExplainRequest{}, "url:")
	f(snapshot.ExplainRequest{URL: "ftp://x/"}, "scheme")
	f(snapshot.ExplainRequest{URL: "http:///x"}, "host")
	f(snapshot.ExplainRequest{URL: "http://u:p@h/x"}, "no user")
	f(snapshot.ExplainRequest{URL: "/", Method: "GE T"}, "method:")
	f(snapshot.ExplainRequest{URL: "/", IP: "nobody"}, "ip:")
	f(snapshot.ExplainRequest{URL: "/", Listener: "mian"}, "main")
	f(snapshot.ExplainRequest{URL: "/", Consumer: "eve"}, "consumer:")
	f(snapshot.ExplainRequest{URL: "/", Headers: snapshot.ExplainHeaders{"A": {"b\r\nC: d"}}}, "line breaks")
	f(snapshot.ExplainRequest{URL: "/", Headers: snapshot.ExplainHeaders{"A b": {""}}}, "header")
}

func TestExplainPolicies(t *testing.T) {
	s := compile(t, explained)
	f := func(consumer, want string) {
		t.Helper()
		e := s.Explain(snapshot.ExplainRequest{URL: "/api/v1/users/7", Consumer: consumer})
		var got []string
		for _, p := range e.Policies {
			got = append(got, p.Policy+" "+p.Stage+" ("+p.From+", "+p.Source+")")
		}
		if all := strings.Join(got, "; "); all != want {
			t.Errorf("%s:\n%s\nwant\n%s", consumer, all, want)
		}
	}
	const before = "correlation_id Observe (default, default); auth_guard Guard (default, default); " +
		"api_key Authenticate (service users, test.yaml:8); jwt Authenticate (route users, test.yaml:17); "
	f("", before+"rate_limit Limit (global, test.yaml:29)")
	f("alice", before+"rate_limit Limit (consumer alice, test.yaml:31)")
	f("bob", before+"rate_limit Limit (consumer bob, test.yaml:32)")
}

func TestExplainService(t *testing.T) {
	s := compile(t, explained)
	e := s.Explain(snapshot.ExplainRequest{URL: "/api/v1/users/7"})
	v := e.Services[0]
	if v.Connect != "1s" || v.Response != "5s" || v.Retries != 0 || v.Strategy != "peak_ewma" || v.Breaker != "closed" || len(v.Endpoints) != 2 || v.Endpoints[1].Weight != 2 {
		t.Errorf("%+v", v)
	}
	if v = s.Explain(snapshot.ExplainRequest{URL: "/api/v1/users/7", Method: "POST"}).Services[0]; v.Connect != "5s" || v.Retries != 2 {
		t.Errorf("%+v", v)
	}
}

func TestExplainSplit(t *testing.T) {
	s := compile(t, `
services:
  stable: {endpoints: ["http://127.0.0.1:1"]}
  canary: {endpoints: ["http://127.0.0.1:2"]}
routes:
  users: {match: {paths: [/users]}, split: {services: [{service: stable, weight: 95}, {service: canary, weight: 5}]}}
`)
	e := s.Explain(snapshot.ExplainRequest{URL: "/users/7"})
	if e.Action.Action != "split" || len(e.Services) != 2 || e.Services[1].Service != "canary" || e.UpstreamPath != "/users/7" ||
		len(e.Policies) != 1 || len(e.Services[0].Policies) != 0 || !strings.Contains(e.Text(), "services[1].weight") {
		t.Errorf("%+v\n%s", e, e.Text())
	}
}

func TestExplainKeepsSecrets(t *testing.T) {
	s := compile(t, explained)
	for _, url := range []string{"/api/v1/users/7", "/old", "/nowhere"} {
		e := s.Explain(snapshot.ExplainRequest{URL: url, Consumer: "alice", Headers: snapshot.ExplainHeaders{"Authorization": {"Bearer hush-bearer"}}})
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if all := string(data) + e.Text(); strings.Contains(all, "hush") {
			t.Errorf("%s: a secret in %s", url, all)
		}
	}
	views, err := json.Marshal(s.RouteViews())
	if err != nil || strings.Contains(string(views), "hush") || !strings.Contains(string(views), `"X-Api-Key":["***"]`) {
		t.Errorf("%s %v", views, err)
	}
}

func TestExplainText(t *testing.T) {
	s := compile(t, explained)
	text := s.Explain(snapshot.ExplainRequest{URL: "http://api.example/api/v1/users/7?x=1"}).Text()
	t.Log("\n" + text)
	for _, want := range []string{
		"REQUEST GET http://api.example/api/v1/users/7?x=1\n", "ROUTE users  (test.yaml:10)\n", "* users", "the most specific route that matches",
		"- posts", "method GET is not POST", "secret", "***", "http://127.0.0.1:1/base", "UPSTREAM GET /7?x=1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// What a setting is by another one is shown as it is in force.
func TestExplainEffectiveSettings(t *testing.T) {
	s := compile(t, explained)
	in := map[string]string{}
	for _, p := range s.Explain(snapshot.ExplainRequest{URL: "/api/v1/users/7"}).Policies {
		for _, set := range p.Settings {
			in[p.Policy+"."+set.Path] = fmt.Sprint(set.Value, " ", set.Source)
		}
	}
	for path, want := range map[string]string{
		"rate_limit.burst": "100 default", "rate_limit.requests": "100 test.yaml:29",
		"jwt.forward.X-User-ID": "sub default", "jwt.algorithms": "[HS256] default",
	} {
		if in[path] != want {
			t.Errorf("%s is %q, want %q", path, in[path], want)
		}
	}
}

func TestExplainHeadersJSON(t *testing.T) {
	var req snapshot.ExplainRequest
	if err := json.Unmarshal([]byte(`{"url": "/", "headers": {"A": "b", "C": ["d", "e"]}}`), &req); err != nil || len(req.Headers["C"]) != 2 || req.Headers["A"][0] != "b" {
		t.Errorf("%+v %v", req, err)
	}
	if err := json.Unmarshal([]byte(`{"headers": {"A": 1}}`), &req); err == nil {
		t.Error("a number passes as a header")
	}
}

// Settings that may be of any form are explained, also when they are left out.
func TestExplainLooseSettings(t *testing.T) {
	s := compile(t, `
services: {s: {endpoints: ["http://127.0.0.1:1"]}}
routes:
  r:
    service: s
    policies:
      request_transform: {add: {headers: {X-A: b}}}
      response_transform: {remove: {headers: [Server]}}
      concurrency: {max: 5}
`)
	if e := s.Explain(snapshot.ExplainRequest{URL: "http://a/"}); e.Problem != "" || !strings.Contains(e.Text(), "X-A") {
		t.Error(e.Problem, e.Text())
	}
}
