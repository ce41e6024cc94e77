package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sluice/gateway"
)

// The name of the operation stands in the access log, however the request asks for it; one without a name has none.
func TestGraphQLOperationIsLogged(t *testing.T) {
	service := plainBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"data":{"a":1}}`)
	})
	path := t.TempDir() + "/access.log"
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {protocol: graphql, endpoints: ["http://%s"]}}
routes:
  passed: {match: {paths: [/graphql]}, service: s}
  stored: {match: {paths: [/stored]}, graphql: {service: s, operation: "query Stored { a }"}}
policies: {access_log: {path: %q}}
`, service, path))
	post := func(body string) {
		t.Helper()
		res, err := http.Post("http://"+g.addr+"/graphql", "application/json", strings.NewReader(body))
		if err != nil || res.StatusCode != 200 {
			t.Fatal(err, res)
		}
		_ = res.Body.Close()
	}
	post(`{"query":"query One { a }"}`)
	post(`{"query":"query One { a } query Two { a }","operationName":"Two"}`)
	post(`{"query":"{ a }"}`)
	res, err := http.Get("http://" + g.addr + "/stored")
	if err != nil || res.StatusCode != 200 {
		t.Fatal(err, res)
	}
	_ = res.Body.Close()
	once(t, "all are logged", func() bool { return strings.Count(logText(t, path), "\n") == 4 })
	var got []string
	for line := range strings.Lines(logText(t, path)) {
		_, operation, _ := strings.Cut(line, `"operation":`)
		got = append(got, strings.TrimSpace(operation))
	}
	slices.Sort(got) // they are written as they end
	if want := `["" "\"One\"}" "\"Stored\"}" "\"Two\"}"]`; fmt.Sprintf("%q", got) != want {
		t.Errorf("%q, want %s", got, want)
	}
}
