package admin

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// linkTo makes a link and returns its token.
func (w *world) linkTo(consumer, body string) string {
	w.Helper()
	var made struct{ Path string }
	if err := json.Unmarshal([]byte(w.want(201, "POST", "/api/consumers/"+consumer+"/links", body)), &made); err != nil {
		w.Fatal(err)
	}
	page, token, ok := strings.Cut(made.Path, "#")
	if !ok || page != "/developer/" {
		w.Fatal(made.Path)
	}
	return token
}

// as is the header of another token than the world's own.
func as(token string) (name, value string) { return "Authorization", "Bearer " + token }

func (w *world) wantAs(status int, token, method, path, body string) string {
	w.Helper()
	name, value := as(token)
	return w.want(status, method, path, body, name, value)
}

func (w *world) objectAs(token, path string) (v map[string]any) {
	w.Helper()
	if err := json.Unmarshal([]byte(w.wantAs(200, token, "GET", path, "")), &v); err != nil {
		w.Fatal(err)
	}
	return v
}

// A link shows its consumer, and nothing of any other; each pair is tried, of the same tenant, of others and of none.
func TestDeveloperSeesItself(t *testing.T) {
	w := newUsageWorld(t)
	called := map[string]float64{"alice": 3, "bob": 2, "carol": 1}
	for name, n := range called {
		token := w.linkTo(name, `{"may_change": true}`)
		self := w.objectAs(token, "/developer/api/self")
		if self["consumer"] != name || len(self["keys"].([]any)) != 1 || at(t, self, "keys", 0, "last_used") == nil || at(t, self, "limits", 0, "windows", 0, "used") != n || self["may_change"] != true {
			t.Errorf("%s: %v", name, self)
		}
		used := w.objectAs(token, "/developer/api/usage?step=total")
		if at(t, used, "total", "requests") != n || at(t, used, "rows", 0, "route") != "r" || at(t, used, "rows", 0, "consumer") != nil {
			t.Errorf("%s: %v", name, used)
		}
		for other := range called {
			if other == name {
				continue
			}
			v := w.object("GET", "/api/consumers/"+other+"/keys", "")
			id := at(t, v, "keys", 0, "id").(string)
			for _, q := range []string{"consumer=" + other, "consumer=" + other + "&tenant=", "consumer=" + other + "&tenant=acme", "consumer=" + other + "&tenant=beta", "consumer="} {
				if v := w.objectAs(token, "/developer/api/usage?step=total&"+q); at(t, v, "total", "requests") != n {
					t.Errorf("%s asks %s: %v", name, q, v)
				}
			}
			w.wantAs(404, token, "DELETE", "/developer/api/keys/"+id, "")
			w.wantAs(404, token, "POST", "/developer/api/keys/"+id+"/rotate", "")
			if text := w.wantAs(200, token, "GET", "/developer/api/self?consumer="+other+"&name="+other+"&tenant=acme", ""); strings.Contains(text, other) || strings.Contains(text, id) {
				t.Errorf("%s sees %s: %s", name, other, text)
			}
		}
		w.wantAs(400, token, "GET", "/developer/api/usage?by=consumer", "")
		w.wantAs(400, token, "GET", "/developer/api/usage?by=route,instance", "")
	}
	// What is open to a tenant or to nobody is not open to a link.
	for _, e := range w.admin.endpoints() {
		path := strings.NewReplacer("{name}", "alice", "{id}", "k", "{profile:*}", "heap", "{file:*}", "x").Replace(e.path)
		if wantsLink([]byte(path)) || isOpen([]byte(path)) {
			continue
		}
		method, _, _ := strings.Cut(e.methods, ",")
		w.wantAs(401, w.linkTo("carol", `{"may_change": true}`), method, path, "")
	}
	token := w.linkTo("carol", "")
	for _, path := range []string{"/developer/api/../../api/consumers", "/developer/api/%2e%2e/%2e%2e/api/consumers", "/developer/api//../../api/consumers", "/developer/api/nothing"} {
		w.wantAs(401, token, "GET", path, "")
	}
	w.want(401, "GET", "/developer/api/self", "") // the admin token is nobody's page
	w.wantAs(401, "acme-token-of-some-length", "GET", "/developer/api/self", "")
	w.wantAs(401, "", "GET", "/developer/api/nothing", "")
	w.wantAs(403, token, "DELETE", "/developer/api/keys/x", "")
}

// The token of a tenant makes links for the tenant's own consumers, and ends nobody's.
func TestLinksOfTenants(t *testing.T) {
	w := newWorld(t, withUsage(t.TempDir()), func(o *Options) { o.Token = "operators-token-of-some-length" })
	w.token = "acme-token-of-some-length"
	token := w.linkTo("alice", "")
	w.want(404, "POST", "/api/consumers/bob/links", "")
	w.want(404, "POST", "/api/consumers/carol/links", "")
	w.want(403, "DELETE", "/api/links", "")
	w.wantAs(200, token, "GET", "/developer/api/self", "")
	w.token = "operators-token-of-some-length"
	for body, want := range map[string]string{`{"ttl": "31d"}`: "up to 30d", `{"expires": "2001-01-01T00:00:00Z"}`: "up to 30d", `{"ttl": "-1h"}`: "ttl: ", `{"change": true}`: "unknown field"} {
		if text := w.want(400, "POST", "/api/consumers/alice/links", body); !strings.Contains(text, want) {
			t.Error(text)
		}
	}
	// A consumer of that name in another tenant is another one, and so is one that has come back.
	w.write(strings.Replace(withUsage(w.gateway.Config().State.Dir), "alice: {tenant: acme}", "alice: {tenant: beta}", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	w.wantAs(401, token, "GET", "/developer/api/self", "")
}

// A link is good for what it was made for, as it was made, until its end.
func TestLinksEnd(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, withUsage(dir), func(o *Options) { o.Token = "operators-token-of-some-length" })
	w.token = "operators-token-of-some-length"
	token := w.linkTo("alice", `{"ttl": "1h"}`)
	said, signature, _ := strings.Cut(token, ".")
	other, _, _ := strings.Cut(w.linkTo("bob", `{"ttl": "1h", "may_change": true}`), ".")
	text, err := base64.RawURLEncoding.DecodeString(said)
	if err != nil {
		t.Fatal(err)
	}
	forged := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(text), "alice", "carol", 1)))
	for _, wrong := range []string{"", ".", said, said + ".", "." + signature, other + "." + signature, forged + "." + signature, token + "A", token + ".x", "x" + token, said + "." + signature[:len(signature)-2], strings.Repeat("a", 8000) + "." + signature} {
		w.wantAs(401, wrong, "GET", "/developer/api/self", "")
	}
	now := time.Now()
	if openLink(dir, token, now.Add(59*time.Minute)) == nil || openLink(dir, token, now.Add(time.Hour+time.Second)) != nil || openLink(t.TempDir(), token, now) != nil || openLink("", token, now) != nil {
		t.Error("good at the wrong time, or with another key")
	}
	w.want(204, "DELETE", "/api/links", "")
	w.wantAs(401, token, "GET", "/developer/api/self", "")
	again := w.linkTo("alice", "")
	w.wantAs(200, again, "GET", "/developer/api/self", "")
	// Neither log has a link, nor does the key stand where others could read it.
	log, err := os.ReadFile(filepath.Join(dir, "audit", "admin.log"))
	if err != nil || strings.Contains(string(log), said) || strings.Contains(w.log.String(), said) || !strings.Contains(string(log), `"links":"ended"`) {
		t.Errorf("%v %s", err, log)
	}
	path := filepath.Join(dir, linkKeyFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	// A key that is cut off signs nothing and opens nothing.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.wantAs(401, again, "GET", "/developer/api/self", "")
	w.want(500, "POST", "/api/consumers/alice/links", "")
	w.want(204, "DELETE", "/api/links", "")
	w.linkTo("alice", "")
}

// Who has a link that may change keys hands them on and ends them; it makes none that lasts longer, and no second one.
func TestDeveloperChangesKeys(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, withState(dir), nil)
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(w.want(201, "POST", "/api/consumers/alice/keys", `{"ttl": "90d"}`)), &made); err != nil {
		t.Fatal(err)
	}
	looks, changes := w.linkTo("alice", ""), w.linkTo("alice", `{"may_change": true}`)
	w.wantAs(403, looks, "POST", "/developer/api/keys/"+made.ID+"/rotate", "")
	w.wantAs(403, looks, "DELETE", "/developer/api/keys/"+made.ID, "")
	w.wantAs(400, changes, "POST", "/developer/api/keys/"+made.ID+"/rotate", `{"ttl": "9000d"}`)
	w.wantAs(409, changes, "DELETE", "/developer/api/keys/k1", "")
	var next struct{ ID, Key string }
	if err := json.Unmarshal([]byte(w.wantAs(201, changes, "POST", "/developer/api/keys/"+made.ID+"/rotate", `{"overlap": "1h"}`)), &next); err != nil {
		t.Fatal(err)
	}
	if w.call(made.Key, "GET", "/a") != 308 || w.call(next.Key, "GET", "/a") != 308 {
		t.Error("within the overlap both are good")
	}
	w.wantAs(409, changes, "POST", "/developer/api/keys/"+made.ID+"/rotate", "")
	w.wantAs(200, changes, "DELETE", "/developer/api/keys/"+next.ID, "")
	if got := w.call(next.Key, "GET", "/a"); got != 401 {
		t.Error("a revoked key gets", got)
	}
	if text := w.wantAs(200, looks, "GET", "/developer/api/self", ""); strings.Contains(text, next.Key) || strings.Contains(text, "hash") {
		t.Error(text)
	}
	log, err := os.ReadFile(filepath.Join(dir, "audit", "admin.log"))
	if err != nil || !strings.Contains(string(log), `"actor":"link:link_`) || strings.Contains(string(log), next.Key) {
		t.Errorf("%v %s", err, log)
	}
	// Without admin token, what keeps other sites out holds for the page too.
	name, value := as(looks)
	w.want(403, "GET", "/developer/api/self", "", name, value, "Origin", "https://elsewhere.example")
	w.want(403, "GET", "/developer/api/self", "", name, value, "Host", "elsewhere.example")
}

func TestLinksWithoutState(t *testing.T) {
	w := newWorld(t, strings.Replace(withState(""), `state: {dir: ""}`, "", 1), nil)
	w.want(409, "POST", "/api/consumers/alice/links", "")
	w.want(409, "DELETE", "/api/links", "")
	w.want(401, "GET", "/developer/api/self", "")
}

// The page is open to all, is alone below its path, and tells no other site where it is.
func TestDeveloperPage(t *testing.T) {
	w := newWorld(t, simple, func(o *Options) { o.Token = "s3cret-token" })
	res, page := w.ask("GET", "/developer/", "")
	if res.StatusCode != 200 || res.Header.Get("Referrer-Policy") != "no-referrer" || res.Header.Get("Cache-Control") != "no-store" ||
		!strings.Contains(res.Header.Get("Content-Security-Policy"), "script-src 'self'") || strings.Contains(page, `"/dashboard/`) || strings.Contains(page, "://") {
		t.Error(res.Status, res.Header, page)
	}
	onlyHashed(t, page, res.Header.Get("Content-Security-Policy"))
	for _, name := range []string{"main.js", "icon.svg"} {
		res, text := w.ask("GET", "/developer/"+name, "")
		if res.StatusCode != http.StatusOK || strings.Contains(text, "/dashboard/") || strings.Contains(text, "sluice.token") {
			t.Error(name, res.Status)
		}
	}
	for _, path := range []string{"/developer/index.html", "/developer/pages/login.js", "/dashboard/developer/main.js", "/developer", "/developer/../api/config"} {
		w.want(401, "GET", path, "")
	}
}

// A consumer whose name a browser has to encode is found by it.
func TestNamesThatAreEncoded(t *testing.T) {
	w := newWorld(t, strings.Replace(withState(t.TempDir()), "bob: {}", `"bob@example.com": {}, "a b%41": {}, "a bA": {}`, 1), nil)
	for name, path := range map[string]string{"bob@example.com": "bob%40example.com", "a b%41": "a%20b%2541", "a bA": "a%20bA"} {
		var made struct{ Consumer string }
		if err := json.Unmarshal([]byte(w.want(201, "POST", "/api/consumers/"+path+"/keys", "")), &made); err != nil || made.Consumer != name {
			t.Error(made, err)
		}
		if self := w.objectAs(w.linkTo(path, ""), "/developer/api/self"); self["consumer"] != name {
			t.Error(self)
		}
	}
}

// A consumer that has moved to another tenant leaves its keys behind: who runs the new one can not change them.
func TestKeysOfAnotherTenant(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, withUsage(dir), func(o *Options) { o.Token = "operators-token-of-some-length" })
	w.token = "operators-token-of-some-length"
	w.mint("alice")
	id := fmt.Sprint(at(t, w.object("GET", "/api/consumers/alice/keys", ""), "keys", 0, "id"))
	w.write(strings.Replace(withUsage(dir), "alice: {tenant: acme}", "alice: {tenant: beta}", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	w.token = "beta-token-of-some-length"
	w.want(404, "GET", "/api/consumers/alice/keys/"+id, "")
	w.want(404, "POST", "/api/consumers/alice/keys/"+id+"/rotate", "")
	w.want(404, "DELETE", "/api/consumers/alice/keys/"+id, "")
}

// A consumer's page shows each limit that counts what it does, before the first request and behind it; none that counts something else,
// and none of a route that is not for it.
func TestDeveloperSeesLimitsBeforeUse(t *testing.T) {
	w := newWorld(t, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
state: {dir: %q}
routes:
  bucket: {match: {paths: [/bucket]}, redirect: &to {to: "https://elsewhere.example/"}, policies: {rate_limit: [{requests: 10, per: 1h}, {requests: 5, per: 1h, by: ip}, {requests: 3, per: 1h, shadow: true}]}}
  clock: {match: {paths: [/clock]}, redirect: *to, policies: {rate_limit: {requests: 7, window: year}}}
  plan: {match: {paths: [/plan]}, redirect: *to}
  plan2: {match: {paths: [/plan2]}, redirect: *to}
  open: {match: {paths: [/open]}, redirect: *to, policies: {api_key: off, rate_limit: {requests: 11, per: 1h}}}
  staff: {match: {paths: [/staff]}, redirect: *to, policies: {authorize: {groups: {allow: [staff]}}, rate_limit: {requests: 12, per: 1h}}}
  elsewhere: {match: {hosts: [beta.example], paths: [/beta]}, redirect: *to, policies: {rate_limit: {requests: 13, per: 1h}}}
policies: {api_key: {}, rate_limit: {requests: 1000, per: 366d}, quota: {requests: 100, per: year}}
plans: {gold: {quota: [{requests: 50, per: year}, {requests: 40, per: year, by: ip}]}}
tenants: {acme: {}, beta: {hosts: ["beta.example"]}}
consumers:
  alice: {tenant: acme, plan: gold}
  bob: {tenant: beta, groups: [staff], policies: {quota: off, rate_limit: {requests: 9, per: 1h, by: global}}}
admin: {address: "127.0.0.1:0", token: operators-token-of-some-length}
`, t.TempDir()), func(o *Options) { o.Token = "operators-token-of-some-length" })
	w.token = "operators-token-of-some-length"
	f := func(consumer string, want ...string) {
		t.Helper()
		var self struct {
			Limits []struct {
				Policy, Scope, Key string
				Windows            []struct {
					Name                             string
					Requests, Burst, Used, Remaining int64
				}
			}
		}
		if err := json.Unmarshal([]byte(w.wantAs(200, w.linkTo(consumer, ""), "GET", "/developer/api/self", "")), &self); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range self.Limits {
			for _, n := range l.Windows {
				got = append(got, fmt.Sprintf("%s of %s: %s %d of %d, %d left", l.Policy, l.Scope, n.Name, n.Used, n.Requests, n.Remaining))
			}
			if l.Key != "consumer:"+consumer {
				t.Error(l)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", consumer, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	f("alice", "rate_limit of global: default 0 of 1000, 1000 left", "quota of plans.gold: year 0 of 50, 50 left",
		"rate_limit of routes.bucket: 1h 0 of 10, 10 left", "rate_limit of routes.clock: year 0 of 7, 7 left")
	f("bob", "rate_limit of consumers.bob: default 0 of 9, 9 left")
	key := w.mint("alice")
	for _, path := range []string{"/bucket", "/bucket", "/clock", "/plan", "/plan2", "/open"} {
		if got := w.call(key, "GET", path); got != 308 {
			t.Fatal(path, got)
		}
	}
	f("alice", "rate_limit of global: default 2 of 1000, 998 left", "quota of plans.gold: year 5 of 50, 45 left",
		"rate_limit of routes.bucket: 1h 2 of 10, 8 left", "rate_limit of routes.clock: year 1 of 7, 6 left")
	f("bob", "rate_limit of consumers.bob: default 0 of 9, 9 left")
}
