package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const kongFile = `_format_version: "3.0"
services:
- name: users
  url: http://127.0.0.1:1
  routes:
  - name: users
    paths: [/users]
plugins:
- name: key-auth
- name: my-own-plugin
- name: file-log
  config: {path: /dev/stderr}
consumers:
- username: alice
  keyauth_credentials: [{key: "${ALICE_KEY}"}]
  hmacauth_credentials: [{username: alice, secret: "${ALICE_SECRET}"}]
`

func TestKongFiles(t *testing.T) {
	env := []string{"ALICE_KEY=alices-key", "ALICE_SECRET=a-secret-of-more-than-twenty-bytes"}
	unknown := write(t, "kong.yml", kongFile)
	known := write(t, "kong.yml", strings.Replace(kongFile, "- name: my-own-plugin\n", "", 1))
	f := func(wantCode int, wantOut string, args ...string) string {
		t.Helper()
		c := sluice(t, env, args...)
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		if code := c.ProcessState.ExitCode(); code != wantCode || !regexp.MustCompile(wantOut).Match(out) {
			t.Fatalf("sluice %s: code %d, want %d; output %s, want %s", strings.Join(args, " "), code, wantCode, out, wantOut)
		}
		return string(out)
	}
	f(0, `is valid: 1 routes, 1 services`, "validate", "-c", known)
	f(1, `kong.yml:10:9: plugins\[1\]: the plugin my-own-plugin of every request can not be honoured`, "validate", "-c", unknown)
	f(0, `(?s)warning: .*my-own-plugin.*it runs without it.*is valid`, "validate", "-c", unknown, "--kong-unknown", "warn")
	f(2, `must be error or warn`, "validate", "-c", unknown, "--kong-unknown", "maybe")
	f(0, `(?s)users.*the first that matches in Kong's order`, "explain", "-c", known, "GET", "http://localhost/users/7")
	f(0, `is valid`, "validate", "-c", known, "--set", "limits.idle_timeout=30s")
	f(1, `my-own-plugin`, "run", "-c", unknown)
	f(2, `is no file of Kong`, "convert", write(t, "native.yaml", respond))
	f(1, `my-own-plugin`, "convert", unknown)

	out := filepath.Join(t.TempDir(), "native.yaml")
	f(0, `(?m)kong.yml:3:9 +services\[0\].name +kept`, "convert", known, "--report", "-o", out)
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	// A secret is not taken out of the environment, and a key not written down.
	for _, never := range []string{"alices-key", "more-than-twenty"} {
		if strings.Contains(string(text), never) {
			t.Errorf("%q stands in the converted file:\n%s", never, text)
		}
	}
	if !strings.Contains(string(text), "${ALICE_SECRET}") || !strings.Contains(string(text), "compatibility: kong") {
		t.Errorf("converted:\n%s", text)
	}
	f(0, `is valid: 1 routes, 1 services`, "validate", "-c", out)
}

// The example runs word for word, its hosts mapped; where its log can not be written that is said.
func TestRunKongsExample(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"path":"`+r.URL.Path+`"}`)
	}))
	defer backend.Close()
	to := "=" + strings.TrimPrefix(backend.URL, "http://")
	r := launch(t, sluice(t, []string{"SLUICE_DRAIN_DELAY=1ms", "SLUICE_JWT_SECRET=a-secret-of-at-least-thirty-two-bytes"}, "run", "-c", "../../config/examples/kong.yml",
		"--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--set", "policies.access_log.path=/proc/nowhere/access.log",
		"--resolve", "user-service:8080"+to, "--resolve", "order-service:8080"+to, "--resolve", "product-service:8080"+to))
	if status, body := fetch(t, r.url+"/api/v1/orders/7"); status != 200 || body != `{"path":"/api/v1/orders/7"}` {
		t.Fatal(status, body)
	}
	if status, body := fetch(t, r.url+"/api/v1/users"); status != 401 || !strings.Contains(body, `"message":"Unauthorized"`) {
		t.Fatal(status, body)
	}
	if status, body := fetch(t, r.admin+"/health"); status != 200 || !strings.Contains(body, `"order-service"`) {
		t.Fatal(status, body)
	}
	if status, body := fetch(t, r.admin+"/api/config"); status != 200 || strings.Contains(body, "a-secret-of-at-least") {
		t.Fatal(status, body)
	}
}
