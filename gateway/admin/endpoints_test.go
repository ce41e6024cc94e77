package admin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestDrainEndpoint(t *testing.T) {
	named := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, name) }))
		t.Cleanup(s.Close)
		return s.URL
	}
	a, b := named("a"), named("b")
	text := `
listeners: {main: {address: "127.0.0.1:0"}}
services: {users: {endpoints: ["` + a + `", "` + b + `", {url: "http://127.0.0.1:1", weight: 0}], load_balancer: {strategy: round_robin}}}
routes: {users: {match: {paths: [/users]}, service: users}}
`
	w := newWorld(t, text, nil)
	const path = "/api/services/users/endpoints"
	body := func(endpoint, rest string) string { return `{"endpoint": "` + endpoint + `", ` + rest + `}` }
	answers := func() string {
		t.Helper()
		seen := make(map[string]bool)
		for range 10 {
			res, err := w.client.Get("http://" + w.gateway.Listeners()[0].Address + "/users")
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			if seen[string(got)] = true; res.StatusCode == http.StatusServiceUnavailable {
				return "503"
			}
		}
		switch {
		case seen["a"] && seen["b"]:
			return "a b"
		case seen["a"]:
			return "a"
		}
		return "b"
	}
	f := func(want string) {
		t.Helper()
		if got := answers(); got != want {
			t.Errorf("%s answers, want %s", got, want)
		}
	}
	f("a b")
	v := w.object("PUT", path, body(a, `"draining": true`))
	if at(t, v, "endpoints", 0, "draining") != true || at(t, v, "endpoints", 0, "up") != false || at(t, v, "endpoints", 1, "draining") != false {
		t.Error(v)
	}
	f("b")
	if !strings.Contains(w.log.String(), "draining=true") {
		t.Error(w.log)
	}

	// It holds over a reload.
	w.write(strings.Replace(text, "[/users]", "[/users, /people]", 1))
	if err := w.reload(); err != nil {
		t.Fatal(err)
	}
	f("b")

	// The last one that takes requests stays, unless that is meant. One without weight takes none.
	if got := w.want(409, "PUT", path, body(b, `"draining": true`)); !strings.Contains(got, "force") || !strings.Contains(got, "last_endpoint") {
		t.Error(got)
	}
	f("b")
	w.want(200, "PUT", path, body(b, `"draining": true, "force": true`))
	f("503")
	w.want(200, "PUT", path, body(b, `"draining": true`)) // it is out already
	w.want(200, "PUT", path, body(a, `"draining": false`))
	f("a")
	w.want(200, "PUT", path, body(b, `"draining": false`))
	f("a b")

	if got := w.want(404, "PUT", "/api/services/usres/endpoints", body(a, `"draining": true`)); !strings.Contains(got, `did you mean`) {
		t.Error(got)
	}
	w.want(404, "PUT", path, body("http://127.0.0.1:2", `"draining": true`))
	for _, wrong := range []string{"", "{}", `{"endpoint": "` + a + `"}`, `{"draining": true}`, body(a, `"draining": true, "for": "ever"`)} {
		w.want(400, "PUT", path, wrong)
	}
	f("a b")
}
