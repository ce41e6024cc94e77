package main

import (
	"os"
	"path/filepath"
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

// Of a document come routes that the gateway runs, with the document as what requests must fit.
func TestConvertOpenAPI(t *testing.T) {
	text := strings.Replace(document, "paths:", "servers: [{url: \"https://one.example/v1\"}, {url: \"https://two.example/v1\"}, {url: \"http://test.example\"}]\npaths:\n  /files/{name}.{ext}: {get: {parameters: [{name: name, in: path, required: true, schema: {}}, {name: ext, in: path, required: true, schema: {}}], responses: {\"200\": {description: it}}}}\n  /files/{id}/parts: {put: {parameters: [{name: id, in: path, required: true, schema: {}}], responses: {\"200\": {description: it}}}}", 1)
	described := write(t, "hello.yaml", text)
	out, err := sluice(t, nil, "convert", described).CombinedOutput()
	want := `version: 1

services:
  hello: {protocol: https, endpoints: ["https://one.example", "https://two.example"]}

routes:
  files-id-parts: {match: {paths: ["/v1/files/{id}/parts"], methods: [PUT]}, service: hello, openapi: {file: "` + described + `"}}
  files-name-ext: {match: {paths: ["~^/v1/files/[^/]+\\.[^/]+$"], methods: [GET, HEAD]}, service: hello, openapi: {file: "` + described + `"}}
  hello: {match: {paths: ["=/v1/hello"], methods: [GET, HEAD]}, service: hello, openapi: {file: "` + described + `"}}
`
	if err != nil || string(out) != want {
		t.Fatalf("%v\n%s\nwant\n%s", err, out, want)
	}
	native := filepath.Join(filepath.Dir(described), "native.yaml")
	if out, err := sluice(t, nil, "convert", described, "-o", native, "--server", "http://127.0.0.1:1/x").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := sluice(t, nil, "explain", "-c", native, "GET", "http://a/x/hello").CombinedOutput(); err != nil || !strings.Contains(string(out), "openapi") {
		t.Fatalf("%v %s", err, out)
	}
	c := sluice(t, nil, "convert", write(t, "no.yaml", document))
	if out, _ := c.CombinedOutput(); c.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "--server") {
		t.Fatalf("%s", out)
	}
}
