package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/gateway/certs/certstest"
)

// compared asks until the latest reload is compared.
func (w *world) compared() map[string]any {
	w.Helper()
	for {
		v := w.object("GET", "/api/reloads", "")
		if at(w.T, v, "reloads", 0, "result") == "failure" || at(w.T, v, "reloads", 0, "compared") == true {
			return v
		}
	}
}

func TestReloads(t *testing.T) {
	text := simple + "consumers: {alice: {jwt: [{issuer: i, secret: hush-hush-hush-hush-hush-hush-hush-1}]}}\n"
	w := newWorld(t, text, nil)
	v := w.object("GET", "/api/reloads", "")
	if at(t, v, "reloads", 0, "result") != "success" || at(t, v, "reloads", 0, "generation") != 1.0 || at(t, v, "reloads", 0, "compared") != false {
		t.Error(v)
	}
	changed := strings.Replace(text, "[/users]", "[/users, /people]", 1)
	changed = strings.Replace(changed, "hush-1", "hush-2", 1)
	w.write(changed + "policies: {rate_limit: {requests: 7, per: 1s}}\n")
	w.want(200, "POST", "/api/config/reload", "")
	v = w.compared()
	if at(t, v, "reloads", 0, "generation") != 2.0 || at(t, v, "reloads", 1, "generation") != 1.0 {
		t.Error(v)
	}
	got := fmt.Sprint(at(t, v, "reloads", 0, "differences"))
	for _, want := range []string{"kind:route name:users", "/people", "policies.rate_limit", "kind:consumer name:alice", "***"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
	if strings.Contains(got, "hush") {
		t.Error("a secret in", got)
	}

	w.write("ruotes: {}\n")
	w.want(400, "POST", "/api/config/reload", "")
	v = w.compared()
	if at(t, v, "reloads", 0, "result") != "failure" || at(t, v, "reloads", 0, "errors", 0, "line") != 1.0 || !strings.Contains(at(t, v, "reloads", 0, "error").(string), "ruotes") {
		t.Error(v)
	}

	// Only the last ones are kept.
	w.write(text)
	for range 20 {
		if err := w.reload(); err != nil {
			t.Fatal(err)
		}
	}
	v = w.object("GET", "/api/reloads", "")
	if all := at(t, v, "reloads").([]any); len(all) != 10 || at(t, v, "reloads", 0, "generation") != 22.0 {
		t.Error(len(all), v)
	}
}

func TestManyDifferences(t *testing.T) {
	routes := func(limit int) string {
		var b strings.Builder
		for i := range 2000 {
			fmt.Fprintf(&b, "  a-route-with-a-name-%d: {match: {paths: [/p/%d]}, redirect: {to: \"https://new.example/%d\"}}\n", i, i, limit)
		}
		return "listeners: {main: {address: \"127.0.0.1:0\"}}\nroutes:\n" + b.String()
	}
	w := newWorld(t, routes(1), nil)
	w.write(routes(2))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	v := w.compared()
	kept, omitted := at(t, v, "reloads", 0, "differences").([]any), at(t, v, "reloads", 0, "omitted").(float64)
	if len(kept) < 100 || float64(len(kept))+omitted != 2000 {
		t.Error(len(kept), omitted)
	}
}

func TestRouteDetail(t *testing.T) {
	w := newWorld(t, `
listeners: {main: {address: "127.0.0.1:0"}}
services:
  stable: {endpoints: ["http://127.0.0.1:1"]}
  canary: {endpoints: ["http://127.0.0.1:2"], policies: {correlation_id: {header: X-Other}}}
routes:
  users: {match: {paths: [/users]}, service: stable, policies: {rate_limit: {requests: 9, per: 1m}}}
  old: {match: {paths: [/old]}, redirect: {to: "https://new.example/"}}
policies: {rate_limit: {requests: 7, per: 1m}}
`, nil)
	v := w.object("GET", "/api/routes/users", "")
	if at(t, v, "route") != "users" || at(t, v, "effective", 0, "policy") != "correlation_id" || at(t, v, "effective", 1, "from") != "route users" ||
		at(t, v, "ends", "action") != "service" || at(t, v, "targets", 0, "service") != "stable" || at(t, v, "targets", 0, "endpoints", 0, "endpoint") != "http://127.0.0.1:1" {
		t.Error(v)
	}
	if got := fmt.Sprint(at(t, v, "effective", 1, "settings")); !strings.Contains(got, "setting:requests") || !strings.Contains(got, "value:9") || !strings.Contains(got, "sluice.yaml:7") {
		t.Error(got)
	}
	v = w.object("GET", "/api/routes/old", "")
	if at(t, v, "effective", 1, "from") != "global" || at(t, v, "ends", "action") != "redirect" || at(t, v, "targets") != nil {
		t.Error(v)
	}
	if got := w.want(404, "GET", "/api/routes/uesrs", ""); !strings.Contains(got, "did you mean") {
		t.Error(got)
	}
}

func TestCertificates(t *testing.T) {
	authority := certstest.New(t)
	ends := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	cert, key := authority.Issue("a", certstest.Leaf{CN: "a.example", DNS: []string{"a.example", "b.example"}, NotAfter: ends})
	w := newWorld(t, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0", tls: {certificates: [{cert: %q, key: %q}]}}, plain: {address: "127.0.0.1:0"}}
routes: {old: {redirect: {to: "https://new.example/"}}}
`, cert, key), nil)
	v := w.object("GET", "/api/certificates", "")
	if len(at(t, v, "certificates").([]any)) != 1 || at(t, v, "certificates", 0, "listener") != "main" || at(t, v, "certificates", 0, "certificate") != cert ||
		at(t, v, "certificates", 0, "from") != "file" || at(t, v, "certificates", 0, "names", 1) != "b.example" || at(t, v, "certificates", 0, "issuer") != "Test Authority" ||
		at(t, v, "certificates", 0, "not_after") != ends.UTC().Format(time.RFC3339) {
		t.Error(v)
	}
	w = newWorld(t, simple, nil)
	if v := w.object("GET", "/api/certificates", ""); len(at(t, v, "certificates").([]any)) != 0 {
		t.Error(v)
	}
}
