package gateway_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/snapshot"
)

const versioned = `policies:
  api_version:
    from: {query: version, path: "/v{version}"}
    default: "1"
    max_body: 4KiB
    versions:
      "1": {deprecated: 2024-01-01, sunset: 2024-06-01}
      "2":
        changes:
          - {paths: [/users], rename: {field: name, to: full_name}}
          - {paths: [/users], methods: [POST], status: {from: 200, to: 201}}
          - {headers: {rename: {X-Old: X-New}, add: {X-Mode: strict}}}
      "3":
        changes:
          - {paths: [/users], split: {field: full_name, to: [name.first, name.last]}}
          - {paths: [/users], move: {field: $, to: data}, in: response}
`

// reflecting answers with what it was sent: the body, and in fields the target and what the gateway has told it.
func reflecting(contentType string) func(head, body string) string {
	return func(head, body string) string {
		first := strings.Fields(head)
		version, _ := field(head, "X-API-Version")
		renamed, _ := field(head, "X-New")
		mode, _ := field(head, "X-Mode")
		encoding, _ := field(head, "Accept-Encoding")
		if body == "" {
			body = `{"data":{"id":1.50,"name":{"first":"Ada","last":"King Lovelace"}}}`
		}
		return fmt.Sprintf("HTTP/1.1 201 Created\r\nContent-Type: %s\r\nX-Seen: %s %s %s %s %s\r\nX-New: n\r\nX-Mode: m\r\nContent-Length: %d\r\n\r\n%s",
			contentType, first[1], version, renamed, mode, encoding, len(body), body)
	}
}

func TestAPIVersion(t *testing.T) {
	s := answering(t, reflecting("application/json"))
	g := forward(t, s, "", "", versioned)
	c := g.client()
	f := func(method, target, fields, body string, wantStatus int, wantSeen, wantBody string) {
		t.Helper()
		if body != "" {
			fields += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
		}
		c.send(method + " " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body)
		head, got := c.response()
		if seen, _ := field(head, "X-Seen"); statusOf(head) != wantStatus || seen != wantSeen || got != wantBody {
			t.Errorf("%s %s %q: %d, %q, %s", method, target, fields, statusOf(head), seen, got)
		}
	}
	const current = `{"data":{"id":1.50,"name":{"first":"Ada","last":"King Lovelace"}}}`
	f("GET", "/v3/users", "", "", 201, "/users 3", current)
	f("GET", "/users?version=3&a=b", "", "", 201, "/users?a=b 3", current)
	f("GET", "/users", "X-API-Version: 3\r\nX-Old: o\r\n", "", 201, "/users 3", current)
	f("GET", "/v2/users/7", "Accept-Encoding: gzip\r\nX-Old: o\r\n", "", 201, "/users/7 3   identity", `{"id":1.50,"full_name":"Ada King Lovelace"}`)
	f("GET", "/users/7", "X-Old: o\r\n", "", 201, "/users/7 3 o strict identity", `{"id":1.50,"name":"Ada King Lovelace"}`)
	// The answer is the request as the backend got it.
	f("POST", "/v1/users", "", `{"n":12345678901234567890,"name":"Ada King","z":[1.0]}`, 200, "/users 3  strict identity", `{"n":12345678901234567890,"z":[1.0],"name":"Ada King"}`)
	// Other paths have fewer changes.
	f("POST", "/v1/things", "", `{"name":"x"}`, 201, "/things 3  strict", `{"name":"x"}`)
	f("POST", "/v1/users", "", "[ 1 ]", 200, "/users 3  strict identity", "[ 1 ]")

	c.send("POST /v1/users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"name\"")
	c.refused(400, "malformed_json")
	c.send("GET /v9/users HTTP/1.1\r\nHost: a\r\n\r\n")
	c.refused(400, "api_version_unknown")
	c.send("HEAD /v1/users HTTP/1.1\r\nHost: a\r\n\r\n")
	if head := c.head(); statusOf(head) != 201 || len(fields(head, "Content-Length")) != 0 {
		t.Errorf("HEAD: %q", head)
	}
	c.send("GET /v1/users HTTP/1.1\r\nHost: a\r\n\r\n")
	head, _ := c.response()
	for name, want := range map[string]string{"X-API-Version": "1", "Deprecation": "@1704067200", "Sunset": "Sat, 01 Jun 2024 00:00:00 GMT", "X-Old": "n", "X-New": "", "X-Mode": "", "Vary": "X-API-Version"} {
		if got, _ := field(head, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := g.metric(`sluice_api_version_requests_total{route="r",version="3"}`); got != 3 {
		t.Errorf("%v requests of version 3", got)
	}
	c = g.client()
	c.send("POST /v1/users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
	c.refused(415, "api_version_encoded")
	c = g.client()
	c.send("POST /v1/users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat(" ", 5000))
	c.refused(413, "api_version_body_too_large")
	// The body may come in chunks, and after the client was asked for it.
	c = g.client()
	c.send("POST /v1/users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
	if head := c.head(); statusOf(head) != 100 {
		t.Fatalf("%q", head)
	}
	c.send(chunked(`{"name":"Ada King"}`, 4) + "0\r\n\r\n")
	c.wants(200, `{"name":"Ada King"}`)

	e := g.Snapshot().Explain(snapshot.ExplainRequest{URL: "http://a/v1/users/7"})
	finds := ""
	for _, p := range e.Policies {
		if p.Policy == "api_version" {
			finds = p.Finds
		}
	}
	if finds != "version 1 by path, 3 changes up to 3 and 4 changes down" || e.UpstreamPath != "/users/7" {
		t.Errorf("explained as %q, to %q", finds, e.UpstreamPath)
	}
}

// An answer that can not be brought down is refused rather than given in a version that the client does not know.
func TestAPIVersionAnswers(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		head = strings.Fields(head)[1]
		json := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
		switch head {
		case "/users/large":
			return fmt.Sprintf("%sContent-Length: 5000\r\n\r\n%s", json, strings.Repeat(" ", 5000))
		case "/users/large-chunked":
			return json + "Transfer-Encoding: chunked\r\n\r\n" + chunked(strings.Repeat(" ", 5000), 1000) + "0\r\n\r\n"
		case "/users/encoded":
			return json + "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
		case "/users/malformed":
			return json + "Content-Length: 3\r\n\r\n{x}"
		case "/users/chunked":
			return json + "ETag: \"1\"\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(`{"data":{"name":{"first":"Ada"}}}`, 5) + "0\r\n\r\n"
		case "/users/error":
			return "HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: 15\r\n\r\n{\"data\":\"none\"}"
		default:
			return "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n{\"data\":1}"
		}
	})
	g := forward(t, s, "", "", versioned)
	f := func(path string, status int, want string) {
		t.Helper()
		c := g.client()
		c.send("GET /v1" + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		head, body := c.response()
		if statusOf(head) != status || !strings.Contains(body, want) {
			t.Errorf("%s: %q %q", path, head, abbreviate(body))
		}
	}
	f("/users/large", 502, "api_version_answer_too_large")
	f("/users/large-chunked", 502, "api_version_answer_too_large")
	f("/users/encoded", 502, "api_version_answer_encoded")
	f("/users/malformed", 200, "{x}")
	f("/users/chunked", 200, `{"name":"Ada"}`)
	f("/users/error", 404, `{"data":"none"}`)
	f("/users/text", 200, `{"data":1}`)
}

// A client that went over to another version was told that what it had was still good, and entity tags of two representations were
// the same.
func TestAPIVersionTags(t *testing.T) {
	var calls atomic.Int64
	s := answering(t, func(head, _ string) string {
		calls.Add(1)
		none, asked := field(head, "If-None-Match")
		match, _ := field(head, "If-Match")
		saw := "X-Saw: " + none + "|" + match + "\r\n"
		if strings.Contains(none, `"t"`) || asked && none == "*" {
			return "HTTP/1.1 304 Not Modified\r\nETag: \"t\"\r\nCache-Control: max-age=1\r\n" + saw + "\r\n"
		}
		kind := "application/json"
		if strings.HasPrefix(head, "GET /text") {
			kind = "text/plain"
		}
		return "HTTP/1.1 200 OK\r\nContent-Type: " + kind + "\r\nETag: \"t\"\r\nAccept-Ranges: bytes\r\nCache-Control: max-age=1\r\n" + saw + "Content-Length: 31\r\n\r\n" + `{"data":{"name":{"first":"A"}}}`
	})
	var ahead atomic.Int64
	begun := time.Now()
	for _, cached := range []bool{false, true} {
		more := ""
		if cached {
			more = "  cache: {ttl: 0s}\n"
		}
		g := serve(t, gateway.Options{Now: func() time.Time { return begun.Add(time.Duration(ahead.Load())) }}, forwarding(s, "", "", versioned+more))
		c := g.client()
		f := func(method, path, fields string, status int, tag, saw string) {
			t.Helper()
			c.send(method + " " + path + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n")
			head, body := c.response()
			gotTag, _ := field(head, "ETag")
			got, _ := field(head, "X-Saw")
			if statusOf(head) != status || gotTag != tag || !cached && got != saw {
				t.Errorf("cached %t, %s %s %q: %s %s, want %d with %s, and the backend to see %s", cached, method, path, fields, head, body, status, tag, saw)
			}
		}
		const old, now = "/v1/users", "/v3/users"
		f("GET", old, "", 200, `"t~v1"`, "|")
		f("GET", now, "", 200, `"t"`, "|")
		f("GET", "/v2/users", "", 200, `"t~v2"`, "|")
		f("GET", old, "If-None-Match: \"t~v1\"\r\n", 304, `"t~v1"`, `"t"|`)
		f("GET", now, "If-None-Match: \"t\"\r\n", 304, `"t"`, `"t"|`)
		f("GET", now, "If-None-Match: \"t~v1\"\r\n", 200, `"t"`, `"t~v1"|`)
		f("GET", old, "If-None-Match: \"t\"\r\n", 200, `"t~v1"`, "|")
		f("GET", old, "If-None-Match: \"t\", W/\"t~v1\"\r\nIf-None-Match: \"u~v1\"\r\n", 304, `"t~v1"`, `W/"t", "u"|`)
		f("PUT", old, "If-Match: \"t~v1\"\r\nContent-Length: 0\r\n", 200, `"t~v1"`, `|"t"`)
		f("PUT", now, "If-Match: \"t~v1\", \"u\"\r\nContent-Length: 0\r\n", 200, `"t"`, `|"t", "u"`)
		if !cached {
			f("GET", old, "If-None-Match: *\r\n", 304, `"t"`, "*|")
			continue
		}
		// What has become stale is confirmed in its own version.
		f("GET", old, "", 200, `"t~v1"`, "")
		before := calls.Load()
		f("GET", old, "", 200, `"t~v1"`, "")
		f("GET", old, "If-None-Match: \"t~v1\"\r\n", 304, `"t~v1"`, "")
		if n := calls.Load() - before; n != 0 {
			t.Errorf("%d calls for what is stored", n)
		}
		ahead.Add(int64(2 * time.Second))
		for range 3 {
			f("GET", old, "", 200, `"t~v1"`, "")
		}
		if n := calls.Load() - before; n != 1 {
			t.Errorf("%d calls to confirm what is stored", n)
		}
	}
}

// What is stored for one version is not given to another, also where the version is the consumer's.
func TestAPIVersionCache(t *testing.T) {
	var calls atomic.Int64
	s := answering(t, func(string, string) string {
		body := fmt.Sprintf(`{"data":{"name":{"first":"%d"}}}`, calls.Add(1))
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	hash := "sha256:2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683" // of "key"
	other := "sha256:d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa"
	g := serve(t, gateway.Options{}, forwarding(s, "", "", versioned+"  api_key: {}\n  cache: {shared: true}\n"+
		"consumers:\n  a: {api_keys: [{id: k, hash: \""+hash+"\"}], api_version: v3}\n  b: {api_keys: [{id: k, hash: \""+other+"\"}]}\n"))
	c := g.client()
	f := func(key, version, want string) {
		t.Helper()
		if version != "" {
			version = "X-API-Version: " + version + "\r\n"
		}
		c.send("GET /users HTTP/1.1\r\nHost: a\r\nX-API-Key: " + key + "\r\n" + version + "\r\n")
		head, body := c.response()
		if statusOf(head) != 200 || body != want || len(fields(head, "X-API-Version")) != 1 {
			t.Errorf("%s %q: %q %s, want %s", key, version, head, body, want)
		}
	}
	for range 2 {
		f("key", "", `{"data":{"name":{"first":"1"}}}`)
		f("other", "", `{"name":"2"}`)
		f("other", "2", `{"full_name":"3"}`)
		f("key", "1", `{"name":"2"}`)
		f("other", "3", `{"data":{"name":{"first":"1"}}}`)
	}
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls for three versions", n)
	}
	if got := g.metric(`sluice_api_version_consumer_requests_total{consumer="a",version="1"}`); got != 2 {
		t.Errorf("%v requests of a in version 1", got)
	}
}

// A stale answer is fetched anew in the version that it is stored for.
func TestAPIVersionRefresh(t *testing.T) {
	var calls atomic.Int64
	s := answering(t, func(head, _ string) string {
		body := fmt.Sprintf(`{"name":{"first":"%d"},"path":%q}`, calls.Add(1), strings.Fields(head)[1])
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	var at clock
	g := serve(t, at.options(), forwarding(s, "", "", versioned+"  cache: {ttl: 10s, stale_while_revalidate: 1h}\n"))
	c := g.client()
	get := func() string {
		t.Helper()
		c.send("GET /v2/users HTTP/1.1\r\nHost: a\r\n\r\n")
		_, body := c.response()
		return body
	}
	first := get()
	if first != `{"path":"/users","full_name":"1"}` {
		t.Error(first)
	}
	at.advance(20 * time.Second)
	if stale := get(); stale != first {
		t.Errorf("%s, want %s", stale, first)
	}
	once(t, "the answer is fetched anew", func() bool { return calls.Load() == 2 && get() != first })
	if again := get(); again != strings.Replace(first, `"1"`, `"2"`, 1) {
		t.Errorf("%s after %s", again, first)
	}
}

// The version's segment goes whatever else is done with the path.
func TestAPIVersionPath(t *testing.T) {
	s := answering(t, func(head, _ string) string { return reply(200, strings.Fields(head)[1]) })
	f := func(route, from, target, want string) {
		t.Helper()
		g := serve(t, gateway.Options{}, fmt.Sprintf("services: {s: {endpoints: [\"http://%s\"]}}\nroutes: {r: {%s, service: s, policies: {api_version: {from: %s, versions: {\"1\": {}, \"2\": {}}}}}}\n", s.addr, route, from))
		c := g.client()
		c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, want)
	}
	const front, inner = `{path: "/v{version}"}`, `{path: "/api/v{version}"}`
	f("match: {paths: [/]}", front, "/v1/users?a=b", "/users?a=b")
	f("match: {paths: [/]}", front, "/v1", "/")
	f("match: {paths: [/]}", front, "/users", "/users")
	f("match: {paths: [/api]}", inner, "/api/v2/users", "/api/users")
	f("match: {paths: [/api]}, strip_prefix: true", inner, "/api/v2/users", "/users")
	f("match: {paths: [/api]}, strip_prefix: true", inner, "/api/v2", "/")
	f("match: {paths: [/api/v2]}, strip_prefix: true", inner, "/api/v2/users", "/users")
	f(`match: {paths: [/api]}, rewrite: "/x/{path}"`, inner, "/api/v2/users", "/x/users")
	f(`match: {paths: ["/{version}/users/{id}"]}, rewrite: "/u/{id}"`, front, "/v2/users/7", "/u/7")
}
