package admin

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func withUsage(dir string) string {
	return fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
state: {dir: %q}
routes:
  r: {match: {paths: [/]}, redirect: {to: "https://elsewhere.example/"}, policies: {api_key: {}, quota: {requests: 100, per: day}}}
  o: {match: {paths: [/open]}, redirect: {to: "https://elsewhere.example/"}}
tenants: {acme: {admin_token: acme-token-of-some-length}, beta: {admin_token: beta-token-of-some-length, hosts: ["beta.example"]}}
consumers: {alice: {tenant: acme}, bob: {tenant: beta}, carol: {}}
admin: {address: "127.0.0.1:0", token: operators-token-of-some-length}
`, dir)
}

// mint makes a key.
func (w *world) mint(consumer string) string {
	w.Helper()
	var made struct{ Key string }
	if err := json.Unmarshal([]byte(w.want(201, "POST", "/api/consumers/"+consumer+"/keys", "")), &made); err != nil {
		w.Fatal(err)
	}
	return made.Key
}

func newUsageWorld(t *testing.T) *world {
	w := newWorld(t, withUsage(t.TempDir()), func(o *Options) { o.Token = "operators-token-of-some-length" })
	w.token = "operators-token-of-some-length"
	for consumer, n := range map[string]int{"alice": 3, "bob": 2, "carol": 1} {
		key := w.mint(consumer)
		for range n {
			if got := w.call(key, "GET", "/x"); got != 308 {
				t.Fatal(got)
			}
		}
	}
	w.call("wrong", "GET", "/x")
	w.call("", "GET", "/open")
	// A request is counted when its last byte is gone, which its client may see first.
	for end := time.Now().Add(30 * time.Second); at(t, w.object("GET", "/api/usage", ""), "total", "requests") != 8.0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not all requests are counted")
		}
	}
	return w
}

func TestUsage(t *testing.T) {
	w := newUsageWorld(t)
	v := w.object("GET", "/api/usage", "")
	requests := func(v map[string]any) map[string]float64 {
		m := make(map[string]float64)
		for i := range v["rows"].([]any) {
			m[fmt.Sprint(at(t, v, "rows", i, "consumer"))] += at(t, v, "rows", i, "requests").(float64)
		}
		return m
	}
	if got := fmt.Sprint(requests(v)); got != "map[:2 alice:3 bob:2 carol:1]" {
		t.Error(got)
	}
	if at(t, v, "total", "requests") != 8.0 || at(t, v, "total", "by_class", "3xx") != 7.0 || at(t, v, "total", "by_class", "4xx") != 1.0 || at(t, v, "total", "denied") != 1.0 ||
		len(v["gaps"].([]any)) != 0 || v["waiting"] != nil {
		t.Error(v)
	}
	v = w.object("GET", "/api/usage?consumer=alice&step=total&by=tenant,route", "")
	if len(v["rows"].([]any)) != 1 || at(t, v, "rows", 0, "tenant") != "acme" || at(t, v, "rows", 0, "route") != "r" || at(t, v, "rows", 0, "requests") != 3.0 || at(t, v, "rows", 0, "at") != nil ||
		at(t, v, "rows", 0, "latency_ms", "p99").(float64) <= 0 || at(t, v, "quotas", 0, "windows", 0, "used") != 3.0 {
		t.Error(v)
	}
	res, text := w.ask("GET", "/api/usage?format=csv&by=consumer,route&step=total&route=r", "")
	lines, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(lines) != 5 || lines[0][1] != "consumer" || lines[2][1] != "alice" || lines[2][3] != "3" || res.Header.Get("Content-Type") != "text/csv; charset=utf-8" ||
		res.Header.Get("Sluice-Usage-Gaps") != "0" {
		t.Errorf("%v %v", lines, err)
	}
	_, text = w.ask("GET", "/api/usage?format=ndjson&step=minute&consumer=bob", "")
	n := 0.0
	for line := range strings.Lines(text) {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err, line)
		}
		n += row["requests"].(float64)
	}
	if n != 2 {
		t.Error(text)
	}
	// A step may be written as a duration.
	for written, named := range map[string]string{"1m": "minute", "1h": "hour", "1d": "day"} {
		if v := w.object("GET", "/api/usage?step="+written, ""); v["step"] != named {
			t.Error(written, v["step"])
		}
	}
	for query, want := range map[string]string{
		"step=week": "none of minute", "by=day": "by: ", "from=yesterday": "from: ", "format=xml": "format: ", "from=2027-01-02&to=2027-01-01": "before", "user=x": "no parameter",
	} {
		if text := w.want(400, "GET", "/api/usage?"+query, ""); !strings.Contains(text, want) {
			t.Errorf("%s: %s", query, text)
		}
	}
	if v := w.object("GET", "/api/usage?from=2020-01-01&to=2020-01-02T00:00:00Z", ""); len(v["rows"].([]any)) != 0 {
		t.Error(v)
	}
	v = w.object("GET", "/api/top?max=2", "")
	if len(v["consumers"].([]any)) != 2 || at(t, v, "consumers", 0, "consumer") != "alice" || at(t, v, "denied", 0, "reason") != "credential_invalid" || at(t, v, "slow_routes", 0, "route") == nil {
		t.Error(v)
	}
	w.want(400, "GET", "/api/top?max=0", "")
	if text := w.want(200, "GET", "/metrics", ""); !strings.Contains(text, `sluice_usage_writes_total{result="failure"} 0`) || strings.Contains(text, `sluice_usage_writes_total{result="success"} 0`) {
		t.Error("writes are not counted")
	}
}

func TestUsageNotKept(t *testing.T) {
	w := newWorld(t, simple, nil)
	if text := w.want(409, "GET", "/api/usage", ""); !strings.Contains(text, "state.dir, which is not set") {
		t.Error(text)
	}
	w.object("GET", "/api/top", "")
}

// What is one tenant's is invisible to another, whatever it asks.
func TestTenantsAreApart(t *testing.T) {
	w := newUsageWorld(t)
	bobs := w.object("GET", "/api/consumers/bob/keys", "")
	id := at(t, bobs, "keys", 0, "id").(string)
	w.token = "acme-token-of-some-length"
	if v := w.object("GET", "/api/consumers", ""); len(v["consumers"].([]any)) != 1 || at(t, v, "consumers", 0, "consumer") != "alice" {
		t.Error(v)
	}
	for _, query := range []string{"", "?tenant=beta", "?consumer=bob", "?by=consumer,tenant&step=minute", "?step=total&tenant="} {
		text := w.want(200, "GET", "/api/usage"+query, "")
		if strings.Contains(text, "bob") && query != "?consumer=bob" || strings.Contains(text, "carol") || strings.Contains(text, `"beta"`) {
			t.Errorf("%s: %s", query, text)
		}
	}
	if v := w.object("GET", "/api/usage?consumer=bob", ""); len(v["rows"].([]any)) != 0 || v["quotas"] != nil {
		t.Error(v)
	}
	for _, path := range []string{"/api/top", "/api/limits", "/api/limits?tenant=beta&key=bob"} {
		if text := w.want(200, "GET", path, ""); strings.Contains(text, "bob") || strings.Contains(text, "carol") {
			t.Errorf("%s: %s", path, text)
		}
	}
	// Which gateways there are is no matter of theirs.
	if text := w.want(400, "GET", "/api/usage?by=instance", ""); !strings.Contains(text, "instances are the operator's") {
		t.Error(text)
	}
	for _, consumer := range []string{"bob", "carol", "nobody"} {
		w.want(404, "GET", "/api/consumers/"+consumer+"/keys", "")
		w.want(404, "POST", "/api/consumers/"+consumer+"/keys", "")
		w.want(404, "GET", "/api/consumers/"+consumer+"/keys/"+id, "")
		w.want(404, "POST", "/api/consumers/"+consumer+"/keys/"+id+"/rotate", "")
		w.want(404, "DELETE", "/api/consumers/"+consumer+"/keys/"+id, "")
	}
	w.want(404, "DELETE", "/api/consumers/alice/keys/"+id, "")
	// Its own it may manage.
	key := w.mint("alice")
	if got := w.call(key, "GET", "/x"); got != 308 {
		t.Error(got)
	}
	for _, e := range []struct{ method, path string }{
		{"GET", "/api/config"}, {"PUT", "/api/config"}, {"POST", "/api/config/reload"}, {"GET", "/api/routes"}, {"GET", "/api/services"}, {"GET", "/api/stats"}, {"GET", "/api/mirrors"},
		{"POST", "/api/explain"}, {"DELETE", "/api/cache"}, {"GET", "/debug/pprof/heap"}, {"PUT", "/api/routes/r/split"},
		{"GET", "/api/revocations"}, {"POST", "/api/revocations"},
	} {
		if text := w.want(403, e.method, e.path, "{}"); !strings.Contains(text, "operators_only") {
			t.Error(text)
		}
	}
	w.token = "gamma-token-of-some-length"
	w.want(401, "GET", "/api/usage", "")
	// A token is good as long as the configuration has it.
	w.token = "beta-token-of-some-length"
	w.want(200, "GET", "/api/usage", "")
	w.write(strings.Replace(withUsage(w.gateway.Config().State.Dir), "beta-token", "other-token", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	w.want(401, "GET", "/api/usage", "")
	w.token = "other-token-of-some-length"
	w.want(200, "GET", "/api/usage", "")
}
