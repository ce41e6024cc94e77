package gateway_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sluice/gateway"
)

const petsDocument = `
openapi: 3.0.3
info: {title: Pets, version: "1"}
paths:
  /pets:
    get:
      parameters: [{name: limit, in: query, schema: {type: integer}}]
      responses:
        "200":
          description: pets
          content: {application/json: {schema: {type: array, items: {type: integer}}}}
    post:
      requestBody: {required: true, content: {application/json: {schema: {type: object, required: [name], properties: {name: {type: string}}}}}}
      responses: {"200": {description: made}}
`

// Requests and answers held to a document, between a real client and a real backend.
func TestOpenAPI(t *testing.T) {
	s := answering(t, func(head, body string) string {
		text := "[1,2]"
		if strings.Contains(head, "limit=1 ") {
			text = `["one"]`
		}
		if strings.HasPrefix(head, "POST") {
			text = fmt.Sprint(len(body))
		}
		if strings.Contains(head, "limit=2 ") { // in pieces
			return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("["+strings.Repeat("1,", 50_000)+`"x"]`, 3000) + "0\r\n\r\n"
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	})
	file := t.TempDir() + "/pets.yaml"
	if err := os.WriteFile(file, []byte(petsDocument), 0o600); err != nil {
		t.Fatal(err)
	}
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%[1]s"]}}
routes:
  pets: {match: {paths: [/pets]}, service: s, openapi: {file: %[2]s, max_body: 1KiB}}
  stripped: {match: {paths: [/shop]}, service: s, strip_prefix: true, openapi: %[2]s}
  other: {match: {paths: [/other]}, service: s}
`, s.addr, file))
	c := g.client()
	get := func(path string) { c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n") }
	post := func(path, body, more string) {
		c.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", path, more, len(body), body))
	}
	get("/pets?limit=7")
	c.wants(200, "[1,2]")
	get("/pets?limit=seven")
	c.refused(400, "openapi_request")
	get("/pets/1")
	c.refused(404, "openapi_request")
	get("/shop/pets")
	c.wants(200, "[1,2]")
	get("/other?limit=seven")
	c.wants(200, "[1,2]")
	c.send("PUT /pets HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	c.refused(405, "openapi_request")

	post("/pets", `{"name":"rex"}`, "")
	c.wants(200, "14")
	post("/pets", `{"nam":"rex"}`, "")
	c.refused(400, "openapi_request")
	post("/pets", `{"name":"`+strings.Repeat("x", 1000)+`"}`, "") // up to the bound
	c.wants(200, "1011")
	c.send("POST /pets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(`{"name":7}`, 3) + "0\r\n\r\n")
	c.refused(400, "openapi_request")
	c.send("POST /pets HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 14\r\n\r\n")
	if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("%q", head)
	}
	c.send(`{"name":"rex"}`)
	c.wants(200, "14")
	post("/pets", `{"name":"`+strings.Repeat("x", 2000)+`"}`, "")
	c.refused(413, "body_too_large")

	c = g.client()
	get("/pets?limit=1") // an answer that is not what was promised passes
	c.wants(200, `["one"]`)
	get("/pets?limit=2")
	c.wants(200, "["+strings.Repeat("1,", 50_000)+`"x"]`)
	var b strings.Builder
	if err := g.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sluice_openapi_requests_total{route="pets",result="passed"} 6`,
		`sluice_openapi_requests_total{route="pets",result="refused"} 6`,
		`sluice_openapi_responses_total{route="pets",result="detected"} 2`,
		`sluice_openapi_responses_total{route="pets",result="passed"} 4`,
		`sluice_openapi_responses_total{route="stripped",result="passed"} 1`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %s in:\n%s", want, linesWith(b.String(), "openapi"))
		}
	}
	if docs := g.Snapshot().Documents; len(docs) != 2 || docs[0].Route != "pets" || docs[0].Base != "" || docs[1].Base != "/shop" {
		t.Errorf("%+v", docs)
	}
	if files := g.Files(); len(files) != 1 || files[0] != file {
		t.Errorf("%v", files)
	}
}

func linesWith(text, word string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
