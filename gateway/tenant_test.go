package gateway_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
	"sluice/gateway/snapshot"
)

// tenantry is a configuration of two tenants with consumers, whose API keys are their names, in front of s.
func tenantry(s *server, tenants, policies, more string) string {
	key := func(name string) string {
		return fmt.Sprintf(`api_keys: [{id: k, hash: "sha256:%x"}]`, sha256.Sum256([]byte(name)))
	}
	return fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
services: {s: {endpoints: ["http://%s"]}}
routes:
  r: {match: {paths: [/]}, service: s, policies: {api_key: {}}}
  open: {match: {paths: [/open]}, service: s}
tenants:
  acme: {hosts: [acme.example.com, "*.acme.example"], %s}
  beta: {hosts: [beta.example.com], %s}
consumers:
  alice: {tenant: acme, %s}
  bob: {tenant: beta, %s}
  carol: {%s}
policies: {%s}
%s`, s.addr, tenants, tenants, key("alice"), key("bob"), key("carol"), policies, more)
}

// call sends a request with a host, a path and the key of a consumer.
func (p *peer) call(host, path, key string, fields ...string) {
	if key != "" {
		fields = append(fields, "X-API-Key: "+key)
	}
	p.send("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n")
}

// A request is of its consumer's tenant, else of its host's, and nobody is served on the host of another.
func TestTenantOfARequest(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	s := answering(t, func(_, _ string) string { calls.Add(1); return okAnswer })
	log := filepath.Join(t.TempDir(), "access.log")
	g := serve(t, gateway.Options{}, tenantry(s, "policies: {}", "access_log: {path: "+log+"}", ""))
	c := g.client()
	lines := 0
	f := func(host, path, key string, status int, tenant string) {
		t.Helper()
		before := calls.Load()
		c.call(host, path, key)
		if status == 200 {
			c.wants(200, "ok")
		} else {
			c.refused(status, map[int]string{403: "wrong_tenant", 401: "credential_missing"}[status])
			if calls.Load() != before {
				t.Errorf("%s on %s reached the backend", key, host)
			}
		}
		lines++
		once(t, "the log line", func() bool {
			data, _ := os.ReadFile(log)
			return strings.Count(string(data), "\n") == lines
		})
		data, _ := os.ReadFile(log)
		all := strings.Split(strings.TrimSpace(string(data)), "\n")
		if line := all[len(all)-1]; !strings.Contains(line, `"tenant":"`+tenant+`"`) {
			t.Errorf("%s on %s: %s, want tenant %q", key, host, line, tenant)
		}
	}
	f("acme.example.com", "/", "alice", 200, "acme")
	f("ACME.example.com:80", "/", "alice", 200, "acme")
	f("a.b.acme.example", "/", "alice", 200, "acme")
	f("elsewhere.example", "/", "alice", 200, "acme")
	f("beta.example.com", "/", "alice", 403, "beta")
	f("x.acme.example", "/", "bob", 403, "acme")
	f("acme.example.com", "/", "carol", 200, "acme")
	f("elsewhere.example", "/", "carol", 200, "")
	f("acme.example", "/", "carol", 200, "") // a wildcard wants a label
	f("beta.example.com", "/", "", 401, "beta")
	f("beta.example.com", "/open", "", 200, "beta")
	f("elsewhere.example", "/open", "", 200, "")
	metric := func(series string, want float64) {
		t.Helper()
		if n := g.metric(series); n != want {
			t.Errorf("%s is %v, want %v", series, n, want)
		}
	}
	metric(`sluice_tenant_requests_total{tenant="acme",code="2xx"}`, 5)
	metric(`sluice_tenant_requests_total{tenant="acme",code="4xx"}`, 1)
	metric(`sluice_tenant_requests_total{tenant="beta",code="4xx"}`, 2)
	metric(`sluice_tenant_refused_total{tenant="beta",reason="wrong_tenant"}`, 1)
}

// standing is the RateLimit of an answer.
func standing(head string) string { v, _ := field(head, "RateLimit"); return v }

// Of each policy the block nearest to the caller wins whole.
func TestPrecedenceOfCallers(t *testing.T) {
	s := answering(t, func(_, _ string) string { return okAnswer })
	limit := func(name string) string { return "rate_limit: {requests: 9, per: 1h, name: " + name + "}" }
	text := tenantry(s, "plan: tenantplan, policies: {"+limit("tenant")+"}", limit("global"),
		"plans: {gold: {"+limit("plan")+"}, tenantplan: {"+limit("tenantplan")+", concurrency: {max: 5}}}")
	g := serve(t, gateway.Options{}, text)
	f := func(host, path, key, want string) {
		t.Helper()
		c := g.client()
		c.call(host, path, key)
		if got := standing(c.wants(200, "ok")); !strings.HasPrefix(got, `"`+want+`";`) {
			t.Errorf("%s on %s: %s, want %s", key, host, got, want)
		}
	}
	f("elsewhere.example", "/", "carol", "global")
	f("elsewhere.example", "/", "alice", "tenant")
	f("acme.example.com", "/open", "", "tenant")
	f("acme.example.com", "/", "carol", "tenant")
	swap := func(old, new string) { t.Helper(); text = strings.Replace(text, old, new, 1); g.apply(text) }
	swap("alice: {", "alice: {plan: gold, ")
	swap("carol: {", "carol: {plan: gold, ")
	f("elsewhere.example", "/", "alice", "plan")
	f("acme.example.com", "/", "carol", "plan")
	f("elsewhere.example", "/", "bob", "tenant")
	swap("alice: {", "alice: {policies: {"+limit("own")+"}, ")
	f("elsewhere.example", "/", "alice", "own")
	swap("alice: {policies: {"+limit("own")+"}, ", "alice: {policies: {rate_limit: off}, ")
	c := g.client()
	c.call("acme.example.com", "/", "alice")
	if got := standing(c.wants(200, "ok")); got != "" {
		t.Errorf("off in front of the plan leaves %s", got)
	}
	text = strings.ReplaceAll(text, "policies: {"+limit("tenant")+"}", "policies: {}")
	g.apply(text)
	f("beta.example.com", "/", "bob", "tenantplan")
}

// What one tenant uses up, another has.
func TestTenantsShareNoLimit(t *testing.T) {
	s := answering(t, func(_, _ string) string { return okAnswer })
	f := func(tenants, policies, more, reason string, passes int) {
		t.Helper()
		g := serve(t, gateway.Options{}, tenantry(s, tenants, policies, more))
		c := g.client()
		for _, host := range []string{"acme.example.com", "beta.example.com", "elsewhere.example"} {
			if host == "elsewhere.example" && policies == "" {
				continue
			}
			for range passes {
				c.call(host, "/open", "")
				c.wants(200, "ok")
			}
			c.call(host, "/open", "")
			head := c.refused(429, reason)
			if _, ok := field(head, "Retry-After"); !ok {
				t.Errorf("no Retry-After: %s", head)
			}
		}
	}
	f("policies: {}", "rate_limit: {requests: 3, per: 1h, by: ip}", "", "rate_limited", 3)
	f("policies: {}", "rate_limit: {requests: 3, per: 1h, by: tenant}", "", "rate_limited", 3)
	f("policies: {}", "quota: {requests: 3, per: month}", "", "quota_exceeded", 3)
	f("plan: gold", "", "plans: {gold: {rate_limit: {requests: 2, per: 1h, by: global}}}", "rate_limited", 2)
	f("plan: gold", "", "plans: {gold: {quota: {requests: 2, per: day, by: route}}}", "quota_exceeded", 2)
	f("policies: {quota: {requests: 2, per: week}}", "", "", "quota_exceeded", 2)
}

// A plan's limit is each taker's own, also that of requests in flight, and equal blocks of two consumers are two limits.
func TestTakersShareNoLimit(t *testing.T) {
	release := make(chan struct{})
	var in atomic.Int64
	s := answering(t, func(head, _ string) string {
		if strings.Contains(head, "/slow") {
			in.Add(1)
			<-release
		}
		return okAnswer
	})
	defer close(release)
	text := tenantry(s, "policies: {}", "", "plans: {gold: {concurrency: {max: 1}}}")
	for _, name := range []string{"alice", "bob", "carol"} {
		text = strings.Replace(text, name+": {", name+": {plan: gold, policies: {rate_limit: {requests: 3, per: 1h, by: global}}, ", 1)
	}
	g := serve(t, gateway.Options{}, text)
	for i, name := range []string{"alice", "bob", "carol"} {
		slow, c := g.client(), g.client()
		slow.call("elsewhere.example", "/slow", name)
		once(t, "the slow request is with the backend", func() bool { return in.Load() == int64(i+1) })
		for range 2 {
			c.call("elsewhere.example", "/", name)
			c.refused(429, "concurrency_limited")
		}
		c.call("elsewhere.example", "/", name)
		c.refused(429, "rate_limited")
	}
}

// A stored answer is of the tenant that asked, whatever the route says.
func TestTenantsShareNoStoredAnswer(t *testing.T) {
	var n atomic.Int64
	s := answering(t, func(_, _ string) string {
		body := fmt.Sprint(n.Add(1))
		return "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=60\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n" + body
	})
	g := serve(t, gateway.Options{}, tenantry(s, "policies: {}", "cache: {shared: true}", ""))
	c := g.client()
	f := func(host, key, want string) {
		t.Helper()
		c.call(host, "/", key)
		c.wants(200, want)
	}
	f("elsewhere.example", "alice", "1")
	f("elsewhere.example", "bob", "2")
	f("elsewhere.example", "carol", "3")
	f("elsewhere.example", "alice", "1")
	f("elsewhere.example", "bob", "2")
	f("elsewhere.example", "carol", "3")
}

// A tenant that floods a bound leaves the others their share of it.
func TestTenantsShareABound(t *testing.T) {
	release := make(chan struct{})
	var in atomic.Int64
	s := answering(t, func(head, _ string) string {
		if strings.Contains(head, "/slow") {
			in.Add(1)
			<-release
		}
		return okAnswer
	})
	g := serve(t, gateway.Options{}, strings.Replace(tenantry(s, "concurrency_share: 50%", "concurrency: {max: 8}", ""), "open: {match: {paths: [/open]}", "open: {match: {paths: [/slow, /open]}", 1))
	var flood []*peer
	for range 20 {
		c := g.client()
		c.call("acme.example.com", "/slow", "")
		flood = append(flood, c)
	}
	once(t, "the share is used and the rest refused", func() bool {
		return in.Load() == 4 && g.metric(`sluice_tenant_refused_total{tenant="acme",reason="overload"}`) == 16
	})
	for range 20 {
		c := g.client()
		c.call("beta.example.com", "/open", "")
		c.wants(200, "ok")
	}
	close(release)
	served := 0
	for _, c := range flood {
		if head, _ := c.response(); statusOf(head) == 200 {
			served++
		}
	}
	if served != 4 {
		t.Errorf("%d of the flood were served", served)
	}
}

// A request whose deadline passes in the queue never reaches the backend.
func TestDeadlineInTheQueue(t *testing.T) {
	release := make(chan struct{})
	var calls atomic.Int64
	s := answering(t, func(_, _ string) string { calls.Add(1); <-release; return okAnswer })
	g := serve(t, gateway.Options{}, forwarding(s, "", "", "policies: {concurrency: {max: 1, queue: 10, queue_timeout: 1m}}"))
	first := g.client()
	first.request("GET /")
	once(t, "the first is with the backend", func() bool { return calls.Load() == 1 })
	for _, deadline := range []string{"X-Request-Deadline: 0.05", "grpc-timeout: 50m", "X-Request-Deadline: 2001-01-01T00:00:00Z"} {
		c := g.client()
		begin := time.Now()
		c.call("a", "/", "", deadline)
		c.refused(504, "deadline_exceeded")
		if time.Since(begin) > patience/2 {
			t.Errorf("%s: told after %v", deadline, time.Since(begin))
		}
	}
	close(release)
	first.wants(200, "ok")
	if n := calls.Load(); n != 1 {
		t.Errorf("the backend had %d requests", n)
	}
}

// A quota of the month is known to the next process, and ends with the month of its timezone.
func TestQuotaOverARestart(t *testing.T) {
	s := answering(t, func(_, _ string) string { return okAnswer })
	var now atomic.Int64
	now.Store(time.Date(2027, 3, 31, 21, 59, 0, 0, time.UTC).UnixNano()) // 23:59 in Berlin, where summer has begun
	o := gateway.Options{Now: func() time.Time { return time.Unix(0, now.Load()) }, DrainTimeout: time.Second}
	text := tenantry(s, "policies: {}", "quota: {requests: 3, per: month, timezone: Europe/Berlin, durable: true}", "state: {dir: "+t.TempDir()+"}")
	run := func(f func(c *peer)) {
		g := serve(t, o, text)
		c := g.client()
		f(c)
		c.close()
		g.Shutdown(t.Context())
	}
	run(func(c *peer) {
		for range 2 {
			c.call("acme.example.com", "/", "alice")
			c.wants(200, "ok")
		}
	})
	run(func(c *peer) {
		c.call("elsewhere.example", "/", "alice")
		if got := standing(c.wants(200, "ok")); got != `"month";r=0;t=60` {
			t.Error(got)
		}
		c.call("acme.example.com", "/", "alice")
		head := c.refused(429, "quota_exceeded")
		if v, _ := field(head, "Retry-After"); v != "60" {
			t.Error(head)
		}
		if v, _ := field(head, "RateLimit-Policy"); v != `"month";q=3;w=2674800` { // 31 days less an hour
			t.Error(head)
		}
		c.call("beta.example.com", "/", "bob")
		c.wants(200, "ok")
	})
	now.Add(int64(time.Minute))
	run(func(c *peer) {
		c.call("acme.example.com", "/", "alice")
		if got := standing(c.wants(200, "ok")); got != `"month";r=2;t=2592000` {
			t.Error(got)
		}
	})
}

func TestCallersFailure(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		c, err := config.Parse("f.yaml", []byte("services: {s: {endpoints: [\"http://127.0.0.1:1\"]}}\nroutes: {r: {match: {paths: [/]}, service: s}}\n"+text), config.Options{})
		if err == nil {
			var done func()
			if _, done, err = gateway.Compile(gateway.Options{Registry: registry.All()}, c); err == nil {
				done()
			}
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	f("plans: {gold: {cors: {}}}", "plans.gold.cors: belongs to the stage Edge; a plan may set only policies of the stages after Authenticate")
	f("tenants: {a: {policies: {jwt: {secret: x}}}}", "tenants.a.policies.jwt: belongs to the stage Authenticate; a tenant may set only")
	f("plans: {gold: {rate_limits: {}}}", "plans.gold.rate_limits: is not a policy; did you mean rate_limit?")
	f("plans: {gold: {quota: {requests: 5}}}", "plans.gold.quota.per: this setting is missing")
	f("plans: {gold: {quota: {requests: 5, per: day, durable: true}}}\nconsumers: {a: {plan: gold}}", "plans.gold.quota.durable: needs state.dir")
	f("tenants: {a: {hosts: [x.example]}, b: {hosts: [X.example]}}", `"x.example" is a host of the tenant a already`)
}

func TestExplainTenants(t *testing.T) {
	s := answering(t, func(_, _ string) string { return okAnswer })
	text := tenantry(s, "plan: gold, policies: {request_transform: {add: {headers: {X-A: b}}}}", "rate_limit: {requests: 9, per: 1h}", "plans: {gold: {quota: {requests: 9, per: day}}, own: {rate_limit: {requests: 1, per: 1h}}}")
	g := serve(t, gateway.Options{}, strings.Replace(text, "alice: {", "alice: {plan: own, ", 1))
	f := func(host, consumer, tenant string, status int, want ...string) {
		t.Helper()
		e := g.Snapshot().Explain(snapshot.ExplainRequest{URL: "http://" + host + "/", Consumer: consumer})
		if e.Request.Tenant != tenant || e.Status != status || e.Problem != "" {
			t.Errorf("%s on %s: %+v %d %s %s", consumer, host, e.Request, e.Status, e.Why, e.Problem)
		}
		all := e.Text()
		for _, p := range e.Policies {
			all += p.Policy + " from " + p.From + "\n"
		}
		for _, w := range want {
			if !strings.Contains(all, w) {
				t.Errorf("%s on %s: no %q in\n%s", consumer, host, w, all)
			}
		}
	}
	f("acme.example.com", "alice", "acme", 0, "rate_limit from plan own of consumer alice", "quota from plan gold of tenant acme", "request_transform from tenant acme", "tenant    acme")
	f("acme.example.com", "", "acme", 0, "rate_limit from global", "quota from plan gold of tenant acme")
	f("elsewhere.example", "bob", "beta", 0, "request_transform from tenant beta")
	f("beta.example.com", "alice", "beta", 403, "refused: 403, consumer alice is of the tenant acme, and the host is of the tenant beta")
}

func TestTenantsAllocate(t *testing.T) {
	addr := backendProcess(t)
	g := serve(t, gateway.Options{DrainTimeout: time.Second}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/api]}, service: s, policies: {api_key: {}}}}
tenants: {acme: {hosts: ["*.example"], plan: gold, concurrency_share: 50%%}}
plans: {gold: {rate_limit: {requests: 100000000, per: 1s, by: tenant}, quota: {requests: 100000000, per: month, durable: true}, concurrency: {max: 100}}}
consumers: {alice: {tenant: acme, api_keys: [{id: k, hash: "sha256:%x"}]}}
state: {dir: %s}
`, addr, sha256.Sum256([]byte("alice")), t.TempDir()))
	g.allocates("tenant", "GET /api/users/7 HTTP/1.1\r\nHost: api.example\r\nX-API-Key: alice\r\n\r\n", 200)
}
