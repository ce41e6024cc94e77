package admin

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"sluice/config"
)

func TestConfigView(t *testing.T) {
	w := newWorld(t, simple, nil)
	v := w.object("GET", "/api/config", "")
	if at(t, v, "generation") != 1.0 || at(t, v, "since") == nil || at(t, v, "last_error") != nil || at(t, v, "writable") != true || at(t, v, "files", 0) != w.file ||
		at(t, v, "config", "routes", "users", "service", "source") != w.file+":4" || at(t, v, "config", "limits", "idle_timeout", "source") != "default" {
		t.Error(v)
	}
}

func TestReload(t *testing.T) {
	w := newWorld(t, simple, nil)
	w.write(strings.ReplaceAll(simple, "/users", "/people"))
	if v := w.object("POST", "/api/config/reload", ""); v["generation"] != 2.0 {
		t.Error(v)
	}
	if v := w.object("GET", "/api/routes", ""); at(t, v, "routes", 0, "match", "paths", 0) != "/people" {
		t.Error(v)
	}
	w.write("rotues: {}\nlimits: {idle_timeout: soon}\n")
	var p problem
	if err := json.Unmarshal([]byte(w.want(400, "POST", "/api/config/reload", "")), &p); err != nil || len(p.Errors) != 2 ||
		p.Errors[0].Line != 1 || p.Errors[0].Path != "rotues" || !strings.Contains(p.Errors[0].Message, "routes") || p.Errors[1].Line != 2 || p.Errors[1].File != w.file {
		t.Errorf("%+v %v", p, err)
	}
	v := w.object("GET", "/api/config", "")
	if v["generation"] != 2.0 || !strings.Contains(v["last_error"].(string), "rotues") || v["last_error_at"] == nil {
		t.Error(v)
	}
	w.write(simple)
	w.want(200, "POST", "/api/config/reload", "")
	if v := w.object("GET", "/api/config", ""); v["last_error"] != nil {
		t.Error(v)
	}
	if !strings.Contains(w.log.String(), "path=/api/config/reload") {
		t.Error("the log does not tell of the reload")
	}
}

func TestReplaceConfig(t *testing.T) {
	w := newWorld(t, simple, nil)
	etag := func() string {
		t.Helper()
		res, _ := w.ask("GET", "/api/config", "")
		if tag := res.Header.Get("ETag"); len(tag) == 34 {
			return tag
		}
		t.Fatal(res.Header)
		return ""
	}
	first := etag()
	if etag() != first {
		t.Error("the tag changes by itself")
	}
	people := strings.ReplaceAll(simple, "/users", "/people")
	file := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(w.file); err != nil || string(got) != want {
			t.Errorf("the file is %q %v", got, err)
		}
	}
	w.want(412, "PUT", "/api/config", people, "If-Match", `"other"`)
	file(simple)
	res, _ := w.ask("PUT", "/api/config", people, "If-Match", `"other", `+first)
	if res.StatusCode != http.StatusOK || res.Header.Get("ETag") == first || res.Header.Get("ETag") != etag() {
		t.Error(res.Status, res.Header)
	}
	file(people)
	if w.gateway.Config().Routes["users"].Match.Paths[0] != "/people" {
		t.Error("not in force")
	}
	w.want(412, "PUT", "/api/config", simple, "If-Match", first)
	w.want(200, "PUT", "/api/config", simple, "If-Match", "*")
	w.want(200, "PUT", "/api/config", people)

	// An edit of the file that was not loaded yet is not overwritten unseen.
	second := etag()
	w.write(people + "# edited\n")
	w.want(412, "PUT", "/api/config", simple, "If-Match", second)
	file(people + "# edited\n")

	for _, bad := range []string{"", "  \n", "a: [", "rotues: {}", simple + "policies: {rate_limit: {requests: none}}", "policies: {quota: {requests: 1}}"} {
		got := w.want(400, "PUT", "/api/config", bad)
		if strings.TrimSpace(bad) != "" && !strings.Contains(got, `"errors"`) {
			t.Errorf("%q: %s", bad, got)
		}
	}
	file(people + "# edited\n")
	if g := w.gateway.Status(); g.LastError != "" {
		t.Errorf("a refused request counts as a reload: %+v", g)
	}

	// What can not be put in force is taken back.
	busy := strings.ReplaceAll(simple, "127.0.0.1:0", w.admin.Addr())
	if got := w.want(500, "PUT", "/api/config", busy); !strings.Contains(got, "cannot listen") {
		t.Error(got)
	}
	file(people + "# edited\n")
}

func TestReplaceConfigOfOtherSources(t *testing.T) {
	w := newWorld(t, simple, func(o *Options) { o.WriteBack, o.Read, o.Reload = nil, nil, nil })
	w.want(409, "PUT", "/api/config", simple)
	w.want(409, "POST", "/api/config/reload", "")
	if v := w.object("GET", "/api/config", ""); v["writable"] != false {
		t.Error(v)
	}
}

// secrets has one wherever a configuration can have one. Each contains "hush" or, where only a hash may stand, "deadbeef".
const secrets = `
listeners: {main: {address: "127.0.0.1:0"}}
admin: {token: hush-admin}
services:
  users: {endpoints: ["http://127.0.0.1:1"]}
routes:
  users:
    match: {paths: [/users], headers: {X-Api-Key: hush-header, X-Stage: [canary]}, query: {access_token: hush-query}}
    service: users
    policies:
      jwt: {secret: hush-jwt-that-has-thirty-two-bytes}
      rate_limit: {requests: 5, per: 1m, by: "header:Authorization"}
  plain: {match: {paths: [/plain]}, service: users}
policies: {api_key: {}, basic_auth: {}}
consumers:
  alice:
    api_keys: [{id: k1, hash: "sha256:deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef"}]
    basic_auth: [{username: alice, hash: "sha256:deadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeefdeadbeef"}]
    jwt: [{issuer: "https://acme.example", secret: hush-consumer-that-has-thirty-two-bytes}]
    policies: {rate_limit: {requests: 7, per: 1m}}
`

func TestSecretsAreShownNowhere(t *testing.T) {
	w := newWorld(t, secrets, func(o *Options) { o.Token = "hush-admin" })
	w.token = "hush-admin"
	f := func(status int, method, path, body string) {
		t.Helper()
		res, got := w.ask(method, path, body)
		all := got
		for name, values := range res.Header {
			all += name + strings.Join(values, "")
		}
		if res.StatusCode != status || strings.Contains(all, "hush") || strings.Contains(all, "deadbeef") {
			t.Errorf("%s %s: %d, or a secret in it: %s", method, path, res.StatusCode, got)
		}
	}
	for _, path := range []string{
		"/", "/health", "/livez?verbose", "/readyz?verbose", "/metrics", "/api/config", "/api/routes", "/api/services", "/api/consumers", "/api/stats",
		"/api/limits", "/api/reloads", "/api/certificates", "/api/routes/users", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2",
	} {
		f(200, "GET", path, "")
	}
	for _, url := range []string{"/users", "/users?access_token=x", "/plain", "/nowhere", "/a%2fb"} {
		for _, headers := range []string{`{}`, `{"X-Api-Key": "wrong", "Authorization": "Bearer hush"}`} {
			f(200, "POST", "/api/explain", `{"url": "`+url+`", "consumer": "alice", "headers": `+headers+`}`)
		}
	}
	f(200, "POST", "/api/config/reload", "")
	// Where a mistake is made with a secret, the message does not repeat it.
	for _, text := range []string{
		strings.ReplaceAll(secrets, "secret: hush-jwt-that-has-thirty-two-bytes", "secret: [hush-jwt]"),
		strings.ReplaceAll(secrets, "{token: hush-admin}", "{token: {a: hush-admin}}"),
		strings.ReplaceAll(secrets, "secret: hush-consumer", "sceret: hush-consumer"),
		strings.ReplaceAll(secrets, "http://127.0.0.1:1", "http://me:hush@127.0.0.1:1"),
	} {
		f(400, "PUT", "/api/config", text)
		w.write(text)
		f(400, "POST", "/api/config/reload", "")
		f(200, "GET", "/api/config", "")
	}
	if strings.Contains(w.log.String(), "hush") || strings.Contains(w.log.String(), "deadbeef") {
		t.Error("a secret in the log:", w.log)
	}
}

func TestMistakes(t *testing.T) {
	if mistakes(os.ErrNotExist) != nil {
		t.Error("any error is a mistake")
	}
	if list := mistakes(config.Errorf("a.b", "is wrong")); len(list) != 1 || list[0].Path != "a.b" {
		t.Error(list)
	}
}
