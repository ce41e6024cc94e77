package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

const document = `
openapi: 3.0.3
info: {title: Hello, version: "1"}
paths:
  /hello:
    get:
      parameters: [{name: name, in: query, schema: {type: string, maxLength: 3}}]
      responses: {"200": {description: greeting}}
`

// A document is a part of the configuration: its mistakes have a place, and a change of it is a reload, also one that
// mends it.
func TestOpenAPIDocumentIsWatched(t *testing.T) {
	described := write(t, "hello.openapi.yaml", document)
	path := write(t, "sluice.yaml", strings.Replace(respond, "respond:", "openapi: "+described+", respond:", 1))
	r := launch(t, sluice(t, nil, "run", "-c", path, "--drain-delay", "1ms"))
	status := func(query string, want int) {
		t.Helper()
		if got, body := fetch(t, r.url+"/hello?name="+query); got != want {
			t.Fatalf("%s: got %d %s, want %d", query, got, body, want)
		}
	}
	change := func(old, new string) {
		t.Helper()
		if err := os.WriteFile(described, []byte(strings.Replace(document, old, new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	status("abc", 200)
	status("abcd", 400)
	change("maxLength: 3", "maxLength: 4")
	r.waitFor(t, "the configuration was reloaded")
	status("abcd", 200)
	change("in: query", "in: nowhere")
	if failed := r.waitFor(t, "the configuration was not reloaded; the running one stays in force"); !strings.Contains(failed["error"], described+":7:") {
		t.Fatalf("%v", failed)
	}
	status("abcd", 200)
	change("maxLength: 3", "maxLength: 5")
	r.waitFor(t, "the configuration was reloaded")
	status("abcde", 200)

	if code, page := fetch(t, r.admin+"/docs"); code != 200 || !strings.Contains(page, "/hello") || strings.Contains(page, "<script") {
		t.Fatalf("%d %s", code, page)
	}
	if code, merged := fetch(t, r.admin+"/docs/openapi.json"); code != 200 || !strings.Contains(merged, `"/hello"`) {
		t.Fatalf("%d %s", code, merged)
	}
	_ = r.Process.Signal(syscall.SIGINT)
	for r.lines.Scan() {
	}
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}
