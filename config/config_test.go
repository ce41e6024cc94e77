package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const minimal = `
services: {users: {endpoints: ["http://users:80"]}}
routes:
  users: {match: {paths: [/users]}, service: users}
`

func parse(t *testing.T, text string, o Options) *Config {
	t.Helper()
	c, err := Parse("sluice.yaml", []byte(text), o)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestLoadFull(t *testing.T) {
	c, err := Load("testdata/full.yaml", Options{Environ: []string{"JWT_SECRET=s3cret"}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "listeners", c.ListenerNames(), []string{"main", "local"})
	equal(t, "name", c.Listeners["local"].Name, "local")
	equal(t, "trusted", c.TrustedProxies[0].String(), "10.0.0.0/8")
	users := c.Services["users"]
	equal(t, "endpoints", users.Endpoints, []Endpoint{{URL: "http://user-service:8080", Weight: 1}, {URL: "http://user-service-2:8080/base", Weight: 2, Zone: "a"}})
	equal(t, "health check", users.HealthCheck.Off, false)
	orders := c.Services["orders"]
	equal(t, "hash", orders.LoadBalancer, LoadBalancer{Strategy: "consistent_hash", By: "header:X-User"})
	equal(t, "breaker", orders.CircuitBreaker, CircuitBreaker{Off: true})
	equal(t, "health check", orders.HealthCheck, HealthCheck{Off: true})
	equal(t, "tls", orders.TLS.ServerName, "orders")
	route := c.Routes["users"]
	equal(t, "headers", route.Match.Headers, map[string]StringList{"X-Api-Version": {"2"}, "X-Stage": {"canary", "beta"}})
	equal(t, "page", *route.Errors[502], ErrorPage{Body: "sorry", ContentType: "text/plain"})
	equal(t, "off", route.Policies["compression"].Off(), true)
	for name, want := range map[string]string{"users": "service", "shares": "split", "old": "redirect", "health": "health"} {
		action, _ := c.Routes[name].Action()
		equal(t, "action of "+name, action, want)
	}
	alice := c.Consumers["alice"]
	equal(t, "expires", alice.APIKeys[0].Expires, time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
	equal(t, "secret", alice.JWT[0].Secret.Reveal(), "alice's secret")
	equal(t, "files", c.Files(), []string{"testdata/full.yaml"})
}

func TestDefaults(t *testing.T) {
	c := parse(t, minimal, Options{})
	equal(t, "version", c.Version, 1)
	equal(t, "listener", c.Listeners["main"].Address, ":8080")
	equal(t, "listeners", c.ListenerNames(), []string{"main"})
	equal(t, "admin", c.Admin, Admin{Address: "127.0.0.1:9901"})
	equal(t, "limits", c.Limits, Limits{MaxHeaderSize: 32 << 10, MaxBodySize: 10 << 20, HeaderTimeout: 10 * time.Second, StallTimeout: 30 * time.Second, IdleTimeout: 75 * time.Second})
	equal(t, "redis", c.State.Redis.Off, true)
	r := parse(t, minimal+"\nstate: {redis: {addresses: [\"a:1\"]}}", Options{}).State.Redis
	equal(t, "redis", r, Redis{Addresses: []string{"a:1"}, TLS: RedisTLS{Off: true}, Sentinel: RedisSentinel{Off: true}, Prefix: "sluice", Timeout: 50 * time.Millisecond, OnFailure: "local"})
	s := c.Services["users"]
	equal(t, "balancer", s.LoadBalancer, LoadBalancer{Strategy: "peak_ewma"})
	equal(t, "health check", s.HealthCheck, HealthCheck{Off: true})
	equal(t, "outliers", s.OutlierDetection, OutlierDetection{ConsecutiveErrors: 5, Ejection: 30 * time.Second, MaxEjected: 0.5})
	equal(t, "breaker", s.CircuitBreaker, CircuitBreaker{ConsecutiveFailures: 5, ErrorRatio: 0.5, MinRequests: 20, Window: 10 * time.Second, OpenFor: 30 * time.Second, HalfOpenRequests: 1})
	equal(t, "timeouts", s.Timeouts, Timeouts{Connect: 5 * time.Second, Response: 30 * time.Second})
	equal(t, "retries", s.Retries, Retries{Attempts: 2, Budget: 0.2, When: []string{"connect_failure", "reset", "502", "503", "504"}})
	equal(t, "connections", s.Connections, Connections{MaxPerEndpoint: 1024, IdleTimeout: 50 * time.Second})
	equal(t, "tls", s.TLS.Off, true)

	c = parse(t, `services: {a: {endpoints: ["http://a"], health_check: {interval: 1s}, circuit_breaker: {window: 1m}, timeouts: off, retries: {when: [reset, 503]}, load_balancer: random}}`, Options{})
	s = c.Services["a"]
	equal(t, "partial health check", s.HealthCheck, HealthCheck{Path: "/health", Interval: time.Second, Timeout: time.Second, Healthy: 2, Unhealthy: 3})
	equal(t, "partial breaker", s.CircuitBreaker.Window, time.Minute)
	equal(t, "partial breaker", s.CircuitBreaker.OpenFor, 30*time.Second)
	equal(t, "no timeouts", s.Timeouts, Timeouts{Off: true})
	equal(t, "list", s.Retries.When, []string{"reset", "503"})
	equal(t, "balancer", s.LoadBalancer.Strategy, "random")
	equal(t, "admin off", parse(t, "admin: off", Options{}).Admin, Admin{Off: true})
	equal(t, "off as a word", parse(t, `listeners: {a: {address: ":1", proxy_protocol: false}}`, Options{}).Listeners["a"].ProxyProtocol, "off")
	equal(t, "Defaults", Defaults[Timeouts](), Timeouts{Connect: 5 * time.Second, Response: 30 * time.Second})
}

func TestLoadBalancerForms(t *testing.T) {
	f := func(text string, want LoadBalancer) {
		t.Helper()
		c := parse(t, `services: {a: {endpoints: ["http://a"], load_balancer: `+text+`}}`, Options{})
		equal(t, text, c.Services["a"].LoadBalancer, want)
	}
	hash := LoadBalancer{Strategy: "consistent_hash", By: "ip"}
	f(`{strategy: {consistent_hash: {by: ip}}}`, hash)
	f(`{strategy: consistent_hash, by: ip}`, hash)
	f(`{strategy: consistent_hash, consistent_hash: {by: ip}}`, hash)
	f(`{consistent_hash: {by: ip}}`, hash)
	f(`{strategy: least_request, slow_start: 1m}`, LoadBalancer{Strategy: "least_request", SlowStart: time.Minute})
	f(`round_robin`, LoadBalancer{Strategy: "round_robin"})
	f(`{}`, LoadBalancer{Strategy: "peak_ewma"})
}

func TestOverrides(t *testing.T) {
	service := Defaults[Service]()
	c := parse(t, minimal+`  r1: {service: users, timeouts: {response: 1s}, retries: {attempts: 0}}
  r2: {service: users, timeouts: off, retries: off}
`, Options{})
	equal(t, "left out", c.Routes["users"].Timeouts.Over(service.Timeouts), service.Timeouts)
	equal(t, "left out", c.Routes["users"].Retries.Over(service.Retries), service.Retries)
	equal(t, "partial", c.Routes["r1"].Timeouts.Over(service.Timeouts), Timeouts{Connect: 5 * time.Second, Response: time.Second})
	equal(t, "over off", c.Routes["r1"].Timeouts.Over(Timeouts{Off: true}), Timeouts{Response: time.Second})
	equal(t, "partial", c.Routes["r1"].Retries.Over(service.Retries).Attempts, 0)
	equal(t, "partial", c.Routes["r1"].Retries.Over(service.Retries).When, service.Retries.When)
	equal(t, "off", c.Routes["r2"].Timeouts.Over(service.Timeouts), Timeouts{Off: true})
	equal(t, "off", c.Routes["r2"].Retries.Over(service.Retries), Retries{Off: true})
}

func TestPrecedence(t *testing.T) {
	text := minimal + "limits: {idle_timeout: 1s}\n"
	env := []string{"SLUICE_SET__LIMITS__IDLE_TIMEOUT=2s"}
	f := func(text string, o Options, want Duration) {
		t.Helper()
		equal(t, "idle timeout", parse(t, text, o).Limits.IdleTimeout, want)
	}
	f(minimal, Options{}, 75*time.Second)
	f(text, Options{}, time.Second)
	f(text, Options{Environ: env}, 2*time.Second)
	f(text, Options{Environ: env, Set: []string{"limits.idle_timeout=3s"}}, 3*time.Second)
	f(text, Options{Environ: env, Set: []string{"limits.idle_timeout=3s", "limits.idle_timeout=4s"}}, 4*time.Second)
	f(minimal, Options{Environ: env}, 2*time.Second)
}

func TestSetSuccess(t *testing.T) {
	f := func(text string, o Options, get func(*Config) any, want any) {
		t.Helper()
		equal(t, fmt.Sprint(o), get(parse(t, text, o)), want)
	}
	set := func(s ...string) Options { return Options{Set: s} }
	env := func(s ...string) Options { return Options{Environ: s} }

	f(minimal, set(`services.users.endpoints[0].weight=3`), func(c *Config) any { return c.Services["users"].Endpoints[0] }, Endpoint{URL: "http://users:80", Weight: 3})
	f(minimal, set(`services.users.endpoints.1.url=http://b`), func(c *Config) any { return c.Services["users"].Endpoints[1].URL }, "http://b")
	f(minimal, set(`services.new.endpoints.0=http://b`), func(c *Config) any { return c.Services["new"].Endpoints[0].URL }, "http://b")
	f(minimal, set(`routes["a.b"].service=users`), func(c *Config) any { return c.Routes["a.b"].Name }, "a.b")
	f(minimal, set(`trusted_proxies=10.0.0.0/8, 192.168.0.0/16`), func(c *Config) any { return len(c.TrustedProxies) }, 2)
	f(minimal, set(`policies.rate_limit.requests=5`), func(c *Config) any { return string(c.Policies["rate_limit"].Canonical()) }, `{"requests":5}`)
	f("policies: {rate_limit: [{requests: 1}, {requests: 2}]}", set(`policies.rate_limit[1].requests=5`), func(c *Config) any { return string(c.Policies["rate_limit"].Canonical()) }, `[{"requests":1},{"requests":5}]`)
	f("policies: {cors: off}", set(`policies.cors.origins[0]=*`), func(c *Config) any { return string(c.Policies["cors"].Canonical()) }, `{"origins":["*"]}`)
	f("admin: off", set(`admin.token=x=y`), func(c *Config) any { return c.Admin.Token.Reveal() }, "x=y")
	f(minimal, set(`routes.users.errors.502.body=x`), func(c *Config) any { return c.Routes["users"].Errors[502].Body }, "x")
	f(minimal, set(`services.users.circuit_breaker=off`), func(c *Config) any { return c.Services["users"].CircuitBreaker.Off }, true)
	f("services: {a: {endpoints: [\"http://a\"], circuit_breaker: {open_for: 1s}}}", set(`services.a.circuit_breaker=off`), func(c *Config) any { return c.Services["a"].CircuitBreaker.Off }, true)
	f(minimal, set(`policies.jwt.secret=${NOT_EXPANDED}`), func(c *Config) any { return string(c.Policies["jwt"].Canonical()) }, `{"secret":"${NOT_EXPANDED}"}`)

	f(minimal, env("SLUICE_SET__SERVICES__USERS__ENDPOINTS__0__URL=http://c"), func(c *Config) any { return c.Services["users"].Endpoints[0].URL }, "http://c")
	f("services: {My-Users: {endpoints: [\"http://a\"]}}", env("SLUICE_SET__SERVICES__MY_USERS__TIMEOUTS__RESPONSE=1s"), func(c *Config) any { return c.Services["My-Users"].Timeouts.Response }, time.Second)
	f(minimal, env("SLUICE_SET__POLICIES__RATE_LIMIT__REQUESTS=7"), func(c *Config) any { return string(c.Policies["rate_limit"].Canonical()) }, `{"requests":7}`)
	f(minimal, env("SLUICE_SET__TRUSTED_PROXIES=10.0.0.1,::1"), func(c *Config) any { return len(c.TrustedProxies) }, 2)

	f(minimal, Options{Listen: "127.0.0.1:0", AdminAddress: "127.0.0.1:1"}, func(c *Config) any { return c.Listeners["main"].Address + " " + c.Admin.Address }, "127.0.0.1:0 127.0.0.1:1")
	f("listeners: {z: {address: \":1\"}, a: {address: \":2\"}}", Options{Listen: ":3"}, func(c *Config) any { return c.Listeners["z"].Address }, ":3")
}

func TestSetFailure(t *testing.T) {
	f := func(o Options, want string) {
		t.Helper()
		_, err := Parse("sluice.yaml", []byte(minimal+"limits: {idle_timeout: 1s}\nconsumers: {a-b: {}, a.b: {}}"), o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %s", o, err, want)
		}
	}
	set := func(s string) Options { return Options{Set: []string{s}} }
	f(set("limits.idle_timeout"), `--set: "limits.idle_timeout" is not PATH=VALUE`)
	f(set("=x"), `--set: "" is not PATH=VALUE`)
	f(set("limits.idle_timeout=soon"), `--set limits.idle_timeout: limits.idle_timeout: "soon" is not a duration`)
	f(set("limits.idle_timout=1s"), `--set limits.idle_timout: limits.idle_timout: unknown setting; did you mean idle_timeout?`)
	f(set("limits.idle_timeout.x=1s"), `x is below a value that has no settings`)
	f(set("limits=1s"), `this is a block of settings, not a value`)
	f(set("services.users.endpoints[7]=http://a"), `[7] is beyond the list, which has 1 elements; the next one is [1]`)
	f(set("services.users.endpoints.x=http://a"), `"x" is not an element of the list`)
	f(set("limits[0]=1"), `[0] is the element of a list, and this is none`)
	f(Options{Environ: []string{"SLUICE_SET__CONSUMERS__A_B__PLAN=x"}}, `SLUICE_SET__CONSUMERS__A_B__PLAN: A_B can be "a-b" or "a.b"`)
	f(Options{Environ: []string{"SLUICE_SET__LIMIT__X=x"}}, `SLUICE_SET__LIMIT__X: limit: unknown setting; did you mean limits?`)
}

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("from ${FILE}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"NAME=value", "EMPTY=", "PORT=8081", "TRICK=${NAME}"}
	f := func(text, want string) {
		t.Helper()
		c, err := Parse(filepath.Join(dir, "sluice.yaml"), []byte("policies: {p: {x: "+text+"}}"), Options{Environ: environ})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		if got := c.Policies["p"].node.child("x").text; got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
	f(`"${NAME}"`, "value")
	f(`'a${NAME}b${NAME}c'`, "avaluebvaluec")
	f(`"${EMPTY}"`, "")
	f(`"${NAME:-other}"`, "value")
	f(`"${EMPTY:-other}"`, "other")
	f(`"${MISSING:-other}"`, "other")
	f(`"${MISSING:-}"`, "")
	f(`"${MISSING:-${NAME}!}"`, "value!")
	f(`"${MISSING:-a:b}"`, "a:b")
	f(`"${TRICK}"`, "${NAME}")
	f(`"$${NAME}"`, "${NAME}")
	f(`"a$$b$"`, "a$$b$")
	f(`"${file:secret}"`, "from ${FILE}")
	f(`"https://${host}${uri}"`, "https://${host}${uri}")
	f(`"${header.x} ${claim.sub} ${path.id} ${header.X-Id}"`, "${header.x} ${claim.sub} ${path.id} ${header.X-Id}")
	f(`"${HeaderName}"`, "${HeaderName}")
	f(`"${NAME}/${host}"`, "value/${host}")
	f(`"${ and ${"`, "${ and ${")

	c := parse(t, "listeners: {main: {address: \":${PORT}\"}}\nlimits: {max_connections: \"${PORT}\"}\nroutes: {r: {respond: {}, errors: {502: {body: \"${x}\"}}}}", Options{Environ: environ})
	equal(t, "number", c.Limits.MaxConnections, 8081)
	equal(t, "address", c.Listeners["main"].Address, ":8081")
	equal(t, "template", c.Routes["r"].Errors[502].Body, "${x}")

	c, err := Parse(filepath.Join(dir, "sluice.yaml"), []byte(`admin: {token: "${file:secret}"}`), Options{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "files", c.Files(), []string{filepath.Join(dir, "secret")})
	equal(t, "token", c.Admin.Token.Reveal(), "from ${FILE}")
}

func TestLoadDirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fail := func(want string) {
		t.Helper()
		_, err := Load(dir, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	fail("no *.yaml file")
	write("a.yaml", "version: 1\nservices: {users: {endpoints: [\"http://users:80\"]}}\nroutes: {a: {service: users}}")
	write("b.yaml", "version: 1\nroutes: {b: {service: users, match: {paths: [/b]}}}\nlimits: {idle_timeout: 1s}")
	write(".hidden.yaml", "nonsense")
	write("notes.txt", "nonsense")
	c, err := Load(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "routes", len(c.Routes), 2)
	equal(t, "files", c.Files(), []string{filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")})
	equal(t, "limit", c.Limits.IdleTimeout, time.Second)

	write("c.yaml", "routes: {b: {service: users}}\nlimits: {idle_timeout: 2s}\nadmin: off\n")
	write("d.yaml", "admin: off\n")
	fail("c.yaml:1:10: routes.b: this stands also in " + filepath.Join(dir, "b.yaml") + ":2:10; keep one of them")
	fail("c.yaml:2:10: limits.idle_timeout: this stands also in ")
	fail("d.yaml:1:1: admin: this stands also in ")
	_, err = Load(filepath.Join(dir, "missing.yaml"), Options{})
	if err == nil || !strings.Contains(err.Error(), "missing.yaml: the file can not be read: no such file or directory") {
		t.Error(err)
	}
}

// What is off or empty asks for nothing.
func TestOff(t *testing.T) {
	listener := func(s string) string { return `listeners: {a: {address: ":1", ` + s + `}}` }
	route := func(s string) string { return minimal + `  r: {` + s + `}` }

	for _, s := range []string{listener("tls: off, http2: true, h2c: true, http3: off, proxy_protocol: require, engine: fasthttp"), "state: {dir: \"\", redis: off}", "plans: {}", "teams:", route("service: users, aggregate: off")} {
		parse(t, s, Options{})
	}
}

func TestViewMasksSecrets(t *testing.T) {
	const secret = "t0p-s3cret"
	text := minimal + `
admin: {token: "` + secret + `"}
policies:
  jwt: {secret: "${JWT_SECRET}", public_key: PEM, issuer: "https://me:` + secret + `@idp.example/"}
  api_key: {header: X-API-Key, hide: true}
  request_transform: {add: {headers: {Authorization: "Bearer ` + secret + `", X-Api-Key: ` + secret + `, X-Plain: plain}}}
  other: [{api_keys: [{id: x, value: ` + secret + `}], client_secret: ` + secret + `, PASSWORD: ` + secret + `}]
consumers: {alice: {jwt: [{issuer: i, secret: ` + secret + `}]}}
state: {redis: {addresses: ["a:1"], username: u, password: "` + secret + `", sentinel: {master: m, username: u, password: ` + secret + `}}}
`
	c := parse(t, text, Options{Environ: []string{"JWT_SECRET=" + secret}, Set: []string{"limits.max_connections=5", "policies.jwt.token=" + secret}})
	data, err := json.Marshal(c.View())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), secret) {
		t.Errorf("the view tells a secret: %s", data)
	}
	f := func(want any, path ...string) {
		t.Helper()
		var at any
		if err := json.Unmarshal(data, &at); err != nil {
			t.Fatal(err)
		}
		for _, step := range path {
			m, _ := at.(map[string]any)
			at = m[step]
		}
		equal(t, strings.Join(path, "."), at, want)
	}
	from := func(value any, source string) map[string]any {
		return map[string]any{"value": value, "source": source}
	}
	f(from(masked, "sluice.yaml:6"), "admin", "token")
	f(from("127.0.0.1:9901", "default"), "admin", "address")
	f(from("75s", "default"), "limits", "idle_timeout")
	f(from(5.0, "--set limits.max_connections"), "limits", "max_connections")
	f(from(masked, "sluice.yaml:8"), "policies", "jwt", "secret")
	f(from("PEM", "sluice.yaml:8"), "policies", "jwt", "public_key")
	f(from("https://***@idp.example/", "sluice.yaml:8"), "policies", "jwt", "issuer")
	f(from(masked, "--set policies.jwt.token"), "policies", "jwt", "token")
	f(from("X-API-Key", "sluice.yaml:9"), "policies", "api_key", "header")
	f(from("plain", "sluice.yaml:10"), "policies", "request_transform", "add", "headers", "X-Plain")
	f(from("50%", "default"), "services", "users", "outlier_detection", "max_ejected")
	f(from("off", "default"), "services", "users", "health_check")
}

func TestSecretHidesItself(t *testing.T) {
	holder := struct{ Token Secret }{NewSecret("abc")}
	asJSON, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprint(holder), fmt.Sprintf("%+v", holder), fmt.Sprintf("%#v", holder), fmt.Sprintf("%s %q", holder.Token, holder.Token), string(asJSON)} {
		if strings.Contains(shown, "abc") || !strings.Contains(shown, masked) {
			t.Error(shown)
		}
	}
	equal(t, "reveal", holder.Token.Reveal(), "abc")
}

func TestErrorf(t *testing.T) {
	c := parse(t, minimal, Options{})
	f := func(path, want string) {
		t.Helper()
		equal(t, path, c.Errorf(path, "wrong %d", 1).Error(), want)
	}
	f("routes.users.match.paths[0]", "sluice.yaml:4:27: routes.users.match.paths[0]: wrong 1")
	f("routes.users.match.paths[7]", "sluice.yaml:4:19: routes.users.match.paths[7]: wrong 1")
	f("routes.users.policies.jwt", "sluice.yaml:4:3: routes.users.policies.jwt: wrong 1")
	f("limits.idle_timeout", "sluice.yaml:2:1: limits.idle_timeout: wrong 1")
}
