package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where endpoints come from, and how that does, shows wherever the endpoints do.
func TestDiscoveryShows(t *testing.T) {
	list := filepath.Join(t.TempDir(), "users.yaml")
	if err := os.WriteFile(list, []byte("[{url: \"127.0.0.1:1\", weight: 3, zone: a}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, `
listeners: {main: {address: "127.0.0.1:0"}}
services: {users: {discovery: {file: `+list+`}}}
routes: {users: {match: {paths: [/users]}, service: users}}
`, nil)
	f := func(method, path, body string, want ...string) {
		t.Helper()
		_, got := w.ask(method, path, body)
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("%s %s has no %q: %s", method, path, text, got)
			}
		}
	}
	where := `"where": "file ` + list + `"`
	f("GET", "/api/services", "", where, `"source": "file"`, `"updated": "`, `"failing": false`, `"weight": 3`, `"zone": "a"`, `"endpoint": "http://127.0.0.1:1"`)
	f("POST", "/api/explain", `{"method": "GET", "url": "http://x/users"}`, where)
	f("GET", "/metrics", "", `sluice_discovery_endpoints{service="users",source="file"} 1`)
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	body := ""
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(body, `"failing": true`) && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, body = w.ask("GET", "/api/services", "")
	}
	f("GET", "/api/services", "", `no such file`, `"endpoint": "http://127.0.0.1:1"`)
}
