package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestKeysAndAudit(t *testing.T) {
	dir := t.TempDir()
	r := launch(t, sluice(t, nil, "run", "--watch=false", "-c", write(t, "sluice.yaml", `
listeners: {main: {address: "127.0.0.1:0"}}
admin: {address: "127.0.0.1:0", token: a-token-of-some-length}
state: {dir: `+dir+`}
consumers: {alice: {}}
routes: {hello: {match: {paths: [/hello]}, respond: {body: hello}, policies: {api_key: {}}}}
`)))
	run := func(wantCode int, want string, args ...string) (out string) {
		t.Helper()
		c := sluice(t, []string{"SLUICE_ADMIN_TOKEN=a-token-of-some-length", "SLUICE_ADMIN_ADDRESS=" + strings.TrimPrefix(r.admin, "http://")}, args...)
		var errors strings.Builder
		c.Stderr = &errors
		text, _ := c.Output()
		if c.ProcessState.ExitCode() != wantCode || !regexp.MustCompile(want).MatchString(string(text)+errors.String()) {
			t.Fatalf("sluice %s: code %d, want %d with %s: %s%s", strings.Join(args, " "), c.ProcessState.ExitCode(), wantCode, want, text, errors.String())
		}
		return string(text)
	}
	status := func(key string) int {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/hello", http.NoBody)
		req.Header.Set("X-API-Key", key)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	key := strings.TrimSpace(run(0, `key_\w+ of alice, valid until 2.*not shown again`, "keys", "create", "alice", "--name", "laptop", "--ttl", "30d", "--cidr", "127.0.0.0/8"))
	if status(key) != 200 || strings.ContainsAny(key, " \n") {
		t.Fatal(key, status(key))
	}
	out := run(0, `(?m)^key_\w+ +active +slk_\w{4} +laptop +2\d{3}-.* 127.0.0.0/8`, "keys", "list", "alice")
	id := regexp.MustCompile(`key_\w+`).FindString(out)
	next := strings.TrimSpace(run(0, `of alice`, "keys", "rotate", "alice", id, "--overlap", "1h"))
	if status(key) != 200 || status(next) != 200 {
		t.Error("within the overlap both are good")
	}
	run(0, `is revoked`, "keys", "revoke", "alice", id)
	if status(key) != 401 || status(next) != 200 {
		t.Error(status(key), status(next))
	}
	run(0, `"replaced_by"`, "keys", "list", "alice", "--json")
	run(1, `there is no such key`, "keys", "revoke", "alice", "key_x")
	run(1, `there is no consumer "bob"`, "keys", "create", "bob")
	run(1, `methods: "get" is no method`, "keys", "create", "alice", "--method", "get")
	run(1, `does not take the token that was given`, "keys", "list", "alice", "--admin-token", "wrong")
	link := strings.TrimSpace(run(0, `link_\w+ of alice, good until 2.*for whoever has it`, "keys", "link", "alice", "--expires", "1h", "--base", "https://dev.example/"))
	base, token, _ := strings.Cut(link, "#")
	opens := func() int {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r.admin+"/developer/api/self", http.NoBody)
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if base != "https://dev.example/developer/" || opens() != 200 {
		t.Error(link, opens())
	}
	run(0, `no link that was made before is good`, "keys", "unlink")
	if got := opens(); got != 401 {
		t.Error("a link that was ended:", got)
	}
	run(1, `up to 30d`, "keys", "link", "alice", "--expires", "31d")
	run(2, `unknown command "nope"`, "keys", "nope")
	run(2, `takes the arguments CONSUMER`, "keys", "create")

	log := filepath.Join(dir, "audit", "admin.log")
	run(0, `whole: 9 records in 1 files, 1 to 9, the last with hash [0-9a-f]{64}`, "audit", "verify", log)
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	changed := write(t, "copy.log", strings.Replace(string(text), `"status":200`, `"status":404`, 1))
	run(1, `the log is broken: .*copy.log:3: was changed`, "audit", "verify", changed)
	run(1, `no such file`, "audit", "verify", filepath.Join(dir, "nothing.log"))
	run(2, `takes the arguments FILE…`, "audit", "verify")
}
