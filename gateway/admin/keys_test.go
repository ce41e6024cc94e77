package admin

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/gateway/chain"
)

func withState(dir string) string {
	return fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
state: {dir: %q}
routes: {r: {match: {paths: [/]}, redirect: {to: "https://elsewhere.example/"}, policies: {api_key: {}}}}
consumers: {alice: {api_keys: [{id: k1, hash: "sha256:%s", expires: 2020-01-01}]}, bob: {}}
`, dir, strings.Repeat("ab", 32))
}

func (w *world) call(key, method, path string) int {
	w.Helper()
	return w.status(w.gateway.Listeners()[0].Address, key, method, path)
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, withState(dir), nil)
	res, text := w.ask("POST", "/api/consumers/alice/keys", `{"name": "laptop", "ttl": "90d", "methods": ["GET"], "paths": ["/a"], "cidrs": ["127.0.0.0/8"]}`)
	var made map[string]any
	if err := json.Unmarshal([]byte(text), &made); err != nil || res.StatusCode != 201 {
		t.Fatal(res.Status, text)
	}
	key, id := made["key"].(string), made["id"].(string)
	if made["consumer"] != "alice" || made["state"] != "active" || made["source"] != "api" || res.Header.Get("Location") != "/api/consumers/alice/keys/"+id {
		t.Error(text)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/a/b", 308}, {"GET", "/b", 403}, {"POST", "/a", 403}} {
		if got := w.call(key, c.method, c.path); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
		}
	}
	if got := w.call("wrong", "GET", "/a"); got != 401 {
		t.Error(got)
	}

	v := w.object("GET", "/api/consumers/alice/keys", "")
	if at(t, v, "keys", 0, "id") != "k1" || at(t, v, "keys", 0, "state") != "expired" || at(t, v, "keys", 0, "source") != "configuration" ||
		at(t, v, "keys", 1, "id") != id || at(t, v, "keys", 1, "last_used") == nil || at(t, v, "keys", 1, "methods", 0) != "GET" {
		t.Error(v)
	}
	if v := w.object("GET", "/api/consumers", ""); at(t, v, "consumers", 0, "api_keys", 1, "id") != id || at(t, v, "consumers", 0, "api_keys", 1, "hint") != key[:8] {
		t.Error(v)
	}
	if v := w.object("GET", "/api/consumers/alice/keys/"+id, ""); at(t, v, "name") != "laptop" {
		t.Error(v)
	}

	// A generation later it is still good.
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	text = w.want(201, "POST", "/api/consumers/alice/keys/"+id+"/rotate", `{"overlap": "1h"}`)
	var next map[string]any
	if err := json.Unmarshal([]byte(text), &next); err != nil || next["replaces"] != id {
		t.Error(text)
	}
	if text := w.want(409, "POST", "/api/consumers/alice/keys/"+id+"/rotate", ""); !strings.Contains(text, next["id"].(string)) {
		t.Error("a key that was replaced: ", text)
	}
	if w.call(key, "GET", "/a") != 308 || w.call(next["key"].(string), "GET", "/a") != 308 {
		t.Error("within the overlap both are good")
	}
	w.want(200, "DELETE", "/api/consumers/alice/keys/"+id, "")
	if got := w.call(key, "GET", "/a"); got != 401 {
		t.Error("a revoked key gets", got)
	}

	w.want(404, "GET", "/api/consumers/nobody/keys", "")
	w.want(404, "DELETE", "/api/consumers/bob/keys/"+id, "")
	w.want(404, "GET", "/api/consumers/alice/keys/key_nothing", "")
	w.want(409, "DELETE", "/api/consumers/alice/keys/k1", "")
	w.want(409, "POST", "/api/consumers/alice/keys/"+id+"/rotate", "")
	for body, want := range map[string]string{
		`{"ttl": "soon"}`: "ttl: ", `{"ttl": "-1h"}`: "ttl: ", `{"nam": "x"}`: "unknown field", `{"methods": ["get"], "paths": ["a"]}`: "paths: ",
		`{"ttl": "1h", "expires": "2099-01-01T00:00:00Z"}`: "not both", `{"expires": "2001-01-01T00:00:00Z"}`: "has passed", `{} {}`: "something follows",
	} {
		if text := w.want(400, "POST", "/api/consumers/bob/keys", body); !strings.Contains(text, want) {
			t.Errorf("%s: %s, want %s", body, text, want)
		}
	}

	// Who has changed what is in a chain, and no key is.
	path := filepath.Join(dir, "audit", "admin.log")
	r, err := chain.Verify("", path)
	if err != nil || r.Records != 14 {
		t.Errorf("%+v %v", r, err)
	}
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), key) || strings.Contains(string(log), next["key"].(string)) || strings.Contains(w.log.String(), key) {
		t.Error("a key is in a log")
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	var revoked map[string]any
	if err := json.Unmarshal([]byte(lines[3]), &revoked); err != nil {
		t.Fatal(err)
	}
	if at(t, revoked, "event") != "change" || at(t, revoked, "actor") != "local" || at(t, revoked, "method") != "DELETE" || at(t, revoked, "status") != 200.0 ||
		at(t, revoked, "before", "state") != "active" || at(t, revoked, "after", "state") != "revoked" || at(t, revoked, "after", "id") != id {
		t.Error(lines[3])
	}

	// A consumer that has left the configuration loses its keys, which can be listed and revoked.
	before := w.object("POST", "/api/config/reload", "")
	w.write(strings.Replace(withState(dir), "alice:", "carol:", 1))
	after := w.object("POST", "/api/config/reload", "")
	if at(t, after, "generation") == at(t, before, "generation") {
		t.Fatal(after)
	}
	if got := w.call(next["key"].(string), "GET", "/a"); got != 401 {
		t.Error("a consumer that is gone gets", got)
	}
	if v := w.object("GET", "/api/consumers/alice/keys", ""); len(v["keys"].([]any)) != 2 {
		t.Error(v)
	}
	w.want(409, "POST", "/api/consumers/alice/keys", "")
	w.want(200, "DELETE", "/api/consumers/alice/keys/"+next["id"].(string), "")
	log, _ = os.ReadFile(path)
	if !strings.Contains(string(log), `"path":"consumers.carol"`) || !strings.Contains(string(log), `"path":"consumers.alice"`) {
		t.Errorf("what a reload has changed is not in the log: %s", log)
	}
}

func TestKeysWithoutState(t *testing.T) {
	w := newWorld(t, strings.Replace(withState(""), `state: {dir: ""}`, "", 1), nil)
	if text := w.want(409, "POST", "/api/consumers/alice/keys", ""); !strings.Contains(text, "state.dir, which is not set") {
		t.Error(text)
	}
	if v := w.object("GET", "/api/consumers/alice/keys", ""); len(v["keys"].([]any)) != 1 {
		t.Error(v)
	}
}

// While what is changed can not be written down, nothing is changed.
func TestNoChangeWithoutItsLog(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, withState(dir), nil)
	path := filepath.Join(dir, "audit", "admin.log")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	_ = w.gateway.Reopen()
	if text := w.want(503, "POST", "/api/consumers/alice/keys", ""); !strings.Contains(text, "log_unavailable") {
		t.Error(text)
	}
	w.want(200, "GET", "/api/consumers/alice/keys", "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.want(201, "POST", "/api/consumers/alice/keys", "")
}
