package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/gateway"
)

// aggregating runs a gateway with a route for everything that aggregates as settings say. services are pairs of name and server.
func aggregating(t testing.TB, settings, more string, services ...any) *gate {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(services); i += 2 {
		fmt.Fprintf(&b, "  %s: {endpoints: [\"http://%s\"], circuit_breaker: off, retries: off, host: %s}\n", services[i], services[i+1].(*server).addr, services[i])
	}
	return serve(t, gateway.Options{}, "services:\n"+b.String()+"routes: {r: {match: {paths: [/, \"/users/{id}\"]}, aggregate: "+settings+more+"}}\n")
}

// calling tells whether calls of an aggregate are still on their way.
func calling() bool {
	var b strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
	return strings.Contains(b.String(), "aggregate.(*leg)")
}

// target is the method and target of a request.
func target(head string) string {
	line, _, _ := strings.Cut(head, " HTTP/1.1\r\n")
	return line
}

// Values of an answer and of the request go into path, query, headers and body of the next call, which waits for them.
func TestAggregateDependencies(t *testing.T) {
	var seen messages
	s := answering(t, func(head, body string) string {
		seen.add(target(head), body)
		x, _ := field(head, "X-From")
		switch {
		case strings.HasPrefix(head, "GET /users/7 "):
			return reply(200, `{"id": 7.0, "name": "a b/&?#é", "tags": ["x", "y"]}`)
		case strings.HasPrefix(head, "GET /tags/"):
			return reply(200, `"`+x+`"`)
		}
		return reply(200, body)
	})
	g := aggregating(t, `{calls: {
		z: {service: s, method: POST, path: /z, body: {all: "${calls.user}", of: "tag ${calls.tags}"}},
		tags: {service: s, path: "/tags/${calls.user.id}", query: {n: "${calls.user.name}", none: "${query.none}", q: "${query.q}", t: "${calls.user.tags[*]}"}, headers: {X-From: "${calls.user.id} ${header.X-A}"}},
		user: {service: s, path: "/users/${path.id}"}}}`, "", "s", s)
	c := g.client()
	c.send("GET /users/7?q=1%262 HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n")
	head := c.wants(200, `{"z":{"all":{"id": 7.0, "name": "a b/&?#é", "tags": ["x", "y"]},"of":"tag 7.0 b"},"tags":"7.0 b","user":{"id": 7.0, "name": "a b/&?#é", "tags": ["x", "y"]}}`)
	if v, _ := field(head, "Content-Type"); v != "application/json" {
		t.Error(head)
	}
	want := []string{
		"GET /tags/7.0?n=a%20b%2F%26%3F%23%C3%A9&q=1%262&t=x%2Cy", "GET /users/7",
		`POST /z{"all":{"id": 7.0, "name": "a b/&?#é", "tags": ["x", "y"]},"of":"tag 7.0 b"}`,
	}
	if got := seen.sorted(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if n := g.metric(`sluice_aggregate_calls_total{route="r",call="tags",result="ok"}`); n != 1 {
		t.Error(n)
	}
}

// All calls are on their way at once: none is answered before the last has come.
func TestAggregateParallel(t *testing.T) {
	const n = 16
	var all sync.WaitGroup
	all.Add(n)
	s := answering(t, func(head, _ string) string {
		all.Done()
		all.Wait()
		return reply(200, strconv.Quote(target(head)))
	})
	var calls, want []string
	for i := range n {
		calls = append(calls, fmt.Sprintf("c%d: {service: s, path: /%d}", i, i))
		want = append(want, fmt.Sprintf(`"c%d":"GET /%d"`, i, i))
	}
	g := aggregating(t, "{timeout: 1m, calls: {"+strings.Join(calls, ", ")+"}}", "", "s", s)
	c := g.client()
	c.request("GET /").wants(200, "{"+strings.Join(want, ",")+"}")
}

// A call gets what a proxied request does: identity from the gateway alone, no field of the connection or of another body.
func TestAggregateHeaders(t *testing.T) {
	heads := make(chan string, 10)
	s := answering(t, func(head, _ string) string {
		heads <- head
		return "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nSet-Cookie: secret=1\r\nX-Internal: 1\r\nETag: \"e\"\r\nX-Named: 1\r\nX-Named: 2\r\nVary: Accept-Encoding, Accept-Language\r\nCache-Control: max-age=60\r\nAge: 20\r\n\r\n1"
	})
	const more = `, policies: {basic_auth: {}, request_transform: {add: {headers: {X-Added: yes}}, remove: {headers: [X-Removed]}}}}}
consumers: {alice: {groups: [partners], basic_auth: [{hash: "sha256:d9fb92e3bbe65be1f1aad4a82eef4567f7a1ebe2cd110c8049b9698be7a70c88"}]}}
#`
	const request = "POST /%s HTTP/1.1\r\nHost: api.example\r\nAuthorization: Basic YWxpY2U6b3BlbnNlc2FtZQ==\r\nX-User-ID: root\r\nX_Consumer_ID: root\r\nX-Consumer-Groups: root\r\n" +
		"X-Removed: a\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: X-Hop, Upgrade\r\nUpgrade: websocket\r\nX-Hop: a\r\nAccept-Encoding: gzip\r\nAccept: text/html\r\nIf-None-Match: \"e\"\r\nRange: bytes=0-1\r\n" +
		"X-HTTP-Method-Override: DELETE\r\nContent_Type: a\r\nContent-Type: text/plain\r\nX-Other: o\r\nX-Kept: k\r\nContent-Length: 5\r\n\r\nhello"
	for _, pass := range []string{"", ", pass_headers: [x-kept]"} {
		g := aggregating(t, "{calls: {a: {service: s, path: /a, response_headers: [X-Named, etag]}, b: {service: s, path: /b, method: POST, depends_on: [a]}}"+pass+"}", more, "s", s)
		c := g.client()
		c.send(fmt.Sprintf(request, "x"))
		head := c.wants(200, `{"a":1,"b":1}`)
		for name, want := range map[string][]string{
			"Set-Cookie": nil, "X-Internal": nil, "X-Named": {"1", "2"}, "ETag": {`"e"`}, "Vary": {"Accept-Language"}, "Cache-Control": {"max-age=40"}, "X-Sluice-Partial": nil, "Age": nil,
		} {
			if got := fields(head, name); !slices.Equal(got, want) {
				t.Errorf("the client's %s is %q", name, got)
			}
		}
		for _, length := range [][]string{nil, {"0"}} {
			head := within(t, "a call", heads)
			want := map[string][]string{
				"Host": {"s"}, "X-User-ID": {"alice"}, "X-Consumer-ID": {"alice"}, "X-Consumer-Groups": {"partners"}, "X_Consumer_ID": nil, "X-Removed": nil, "X-Added": {"yes"},
				"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"api.example"}, "X-Hop": nil, "Upgrade": nil, "Connection": nil, "Accept-Encoding": nil, "Accept": {"application/json"}, "If-None-Match": nil, "Range": nil,
				"X-HTTP-Method-Override": nil, "Content-Type": nil, "Content_Type": nil, "Content-Length": length, "Transfer-Encoding": nil, "X-Kept": {"k"}, "X-Other": {"o"}, "Authorization": nil,
			}
			if pass != "" {
				want["X-Other"] = nil
			}
			for name, values := range want {
				if got := fields(head, name); !slices.Equal(got, values) {
					t.Errorf("%q: a call's %s is %q, want %q", pass, name, got, values)
				}
			}
		}
		// The body that nobody took is not the next request.
		c.send(fmt.Sprintf(request, "y"))
		c.wants(200, `{"a":1,"b":1}`)
		<-heads
		<-heads
	}
}

func TestAggregateBody(t *testing.T) {
	s := answering(t, func(_, body string) string { return reply(200, body) })
	g := aggregating(t, `{max_body: 100KiB, calls: {a: {service: s, path: /a, method: PUT, body: "${body}"}, b: {service: s, path: "/${body.id}", method: POST, body: ["${body.items[0]}", "n ${body.id}"]}}}`, "", "s", s)
	c := g.client()
	const body = `{"id": 1.50, "items": [{"x": 1}]}`
	const want = `{"a":{"id": 1.50, "items": [{"x": 1}]},"b":[{"x": 1},"n 1.50"]}`
	c.post("/", body)
	c.wants(200, want)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n" + body[:16] + "\r\n" + strconv.FormatInt(int64(len(body)-16), 16) + "\r\n" + body[16:] + "\r\n0\r\n\r\n")
	c.wants(200, want)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n")
	if head := c.head(); statusOf(head) != 100 {
		t.Fatal(head)
	}
	c.send(body)
	c.wants(200, want)
	large := `{"id":2,"items":["` + text(90_000) + `"]}`
	c.post("/", large)
	c.wants(200, `{"a":`+large+`,"b":["`+text(90_000)+`","n 2"]}`)

	f := func(status int, reason, fields, body string) {
		t.Helper()
		c := g.client()
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n%s", fields, len(body), body))
		c.refused(status, reason)
	}
	f(400, "body_malformed", "", `{"id":1,}`)
	f(400, "body_malformed", "", "{\"id\":\"\xff\"}")
	f(400, "aggregate_input", "", `{"id":"../x"}`)
	f(400, "aggregate_input", "", `{}`)
	f(400, "aggregate_input", "", ``)
	f(415, "body_type", "Content-Type: text/plain\r\n", body)
	f(415, "body_type", "Content-Encoding: gzip\r\n", body)
	f(413, "body_too_large", "", text(110_000))
}

// What a service may answer, and what becomes of it where the call is required and where it is not.
func TestAggregateFailures(t *testing.T) {
	var answer atomic.Pointer[string]
	s := backend(t, func(p *peer) {
		for {
			head := p.head()
			if head == "" {
				return
			}
			_, _ = p.body(head)
			text, closes := strings.CutSuffix(*answer.Load(), "<close>")
			p.send(text)
			if closes {
				return
			}
		}
	})
	good := answering(t, func(string, string) string { return reply(200, `{"ok":true}`) })
	settings := func(required string) string {
		return `{merge: flat, max_response: 70000, calls: {good: {service: good, path: /}, bad: {service: bad, path: /, extract: data, ` + required + `}}}`
	}
	required := aggregating(t, settings(`pass_status: [404, 409]`), "", "good", good, "bad", s)
	optional := aggregating(t, settings(`required: false, default: {preset: 1.0}`), "", "good", good, "bad", s)
	without := aggregating(t, settings(`required: false`), "", "good", good, "bad", s)
	f := func(text string, status int, reason string) {
		t.Helper()
		answer.Store(&text)
		c := required.client().request("GET /")
		switch {
		case reason == "":
			c.wants(status, `{"ok":true,"x":1}`)
		case strings.HasPrefix(reason, "{"):
			c.wants(status, reason)
		default:
			c.refused(status, reason)
		}
		want, preset := `{"ok":true,"x":1}`, `{"ok":true,"x":1}`
		if reason != "" {
			want, preset = `{"ok":true,"partial":true}`, `{"ok":true,"preset":1,"partial":true}`
		}
		for g, want := range map[*gate]string{without: want, optional: preset} {
			head := g.client().request("GET /").wants(200, want)
			marked, is := field(head, "X-Sluice-Partial")
			if is != (reason != "") || is && marked != "true" {
				t.Errorf("%s: %s", text, head)
			}
			if control, _ := field(head, "Cache-Control"); (control == "no-store") != (reason != "") {
				t.Errorf("%s: %s", text, head)
			}
		}
	}
	f(reply(200, `{"data":{"x":1}}`), 200, "")
	f(reply(200, `{"data":{"x":1},"more":"`+text(69_000)+`"}`), 200, "")
	f(reply(201, ` {"data":{"x":0,"x":1}} `), 200, "")
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"data\":\r\n8\r\n{\"x\":1}}\r\n0\r\n\r\n", 200, "")
	f("HTTP/1.1 200 OK\r\n\r\n{\"data\":{\"x\":1}}<close>", 200, "")
	f(reply(200, `{"data":[1]}`), 502, "aggregate_type")
	f(reply(200, `{"date":{}}`), 502, "aggregate_type")
	f(reply(200, `7`), 502, "aggregate_type")
	f("HTTP/1.1 204 No Content\r\n\r\n", 502, "aggregate_type")
	f(reply(200, ``), 502, "aggregate_not_json")
	f(reply(200, `<html>`), 502, "aggregate_not_json")
	f(reply(200, `{"data":{"x":1}}}`), 502, "aggregate_not_json")
	f(reply(200, "{\"data\":{\"x\":\"\xff\"}}"), 502, "aggregate_not_json")
	f(reply(200, strings.Repeat("[", 60_000)), 502, "aggregate_not_json")
	f("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 16\r\n\r\n{\"data\":{\"x\":1}}", 502, "aggregate_not_json")
	f(reply(200, `{"data":{"x":"`+text(70_000)+`"}}`), 502, "aggregate_too_large")
	f("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}<close>", 502, "upstream_reset")
	f("HTTP/1.1 200 OK\r\nContent-Length: 66000\r\n\r\n{}<close>", 502, "upstream_truncated")
	f("<close>", 502, "upstream_reset")
	f("garbage\r\n\r\n<close>", 502, "upstream_malformed")
	f(reply(301, `{"data":{"x":1}}`), 502, "aggregate_status")
	f(reply(500, `{"data":{"x":1}}`), 502, "aggregate_status")
	f(reply(401, `{"data":{"x":1}}`), 502, "aggregate_status")
	f("HTTP/1.1 404 No\r\nContent-Type: application/problem+json\r\nContent-Length: 12\r\n\r\n{\"status\":1}", 404, `{"status":1}`)
	f(reply(409, `it is at 10.0.0.7`), 409, "aggregate_status")
	once(t, "calls end", func() bool { return !calling() })
}

// A call whose dependency failed is not sent, unless that has a default.
func TestAggregateSkips(t *testing.T) {
	var n atomic.Int64
	bad := answering(t, func(string, string) string { return reply(500, "") })
	s := answering(t, func(head, _ string) string { n.Add(1); return reply(200, strconv.Quote(target(head))) })
	const settings = `{calls: {a: {service: bad, path: /, required: false%s}, b: {service: s, path: "/${calls.a.id}", required: %s}, c: {service: s, path: /c, depends_on: [b], required: false}}}`
	g := aggregating(t, fmt.Sprintf(settings, "", "false"), "", "bad", bad, "s", s)
	g.client().request("GET /").wants(200, `{"partial":true}`)
	if n.Load() != 0 {
		t.Error("a call was sent without what it needs")
	}
	if n := g.metric(`sluice_aggregate_calls_total{route="r",call="c",result="skipped"}`); n != 1 {
		t.Error(n)
	}
	g = aggregating(t, fmt.Sprintf(settings, "", "true"), "", "bad", bad, "s", s)
	g.client().request("GET /").refused(502, "aggregate_dependency")
	g = aggregating(t, fmt.Sprintf(settings, ", default: {id: 5}", "true"), "", "bad", bad, "s", s)
	g.client().request("GET /").wants(200, `{"a":{"id":5},"b":"GET /5","c":"GET /c","partial":true}`)
	g = aggregating(t, fmt.Sprintf(settings, `, default: {id: ../admin}`, "true"), "", "bad", bad, "s", s)
	g.client().request("GET /").refused(502, "aggregate_value")
}

// A service that does not answer, or not to the end, costs no more than the time that it has, and no call stays behind.
func TestAggregateSlow(t *testing.T) {
	good := answering(t, func(string, string) string { return reply(200, `1`) })
	late, begun, ended := silent(t)
	stalled := backend(t, func(p *peer) {
		if p.head() != "" {
			begun <- struct{}{}
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
			_, _ = io.Copy(io.Discard, p.r)
			ended <- struct{}{}
		}
	})
	for _, s := range []*server{late, stalled} {
		f := func(settings string, requests int, try func(c *peer)) {
			t.Helper()
			g := aggregating(t, settings, "", "good", good, "late", s)
			try(g.client())
			for range requests {
				within(t, "the service is asked", begun)
				within(t, "the call is given up", ended)
			}
			once(t, "calls end", func() bool { return !calling() })
		}
		get := func(c *peer) *peer { return c.request("GET /") }
		f(`{timeout: 1m, calls: {a: {service: good, path: /}, b: {service: late, path: /, timeout: 20ms}}}`, 1, func(c *peer) {
			head, body := get(c).response()
			if statusOf(head) != 504 {
				t.Error(head, body)
			}
		})
		f(`{timeout: 30ms, calls: {a: {service: good, path: /}, b: {service: late, path: /}}}`, 1, func(c *peer) {
			head, body := get(c).response()
			if statusOf(head) != 504 {
				t.Error(head, body)
			}
		})
		f(`{timeout: 1m, calls: {a: {service: good, path: /}, b: {service: late, path: /, timeout: 20ms, required: false}, c: {service: good, path: /, depends_on: [b], required: false}}}`, 1, func(c *peer) {
			get(c).wants(200, `{"a":1,"partial":true}`)
		})
		f(`{timeout: 30ms, calls: {b: {service: late, path: /, required: false, default: 0}, c: {service: late, path: /, required: false}}}`, 2, func(c *peer) {
			get(c).wants(200, `{"b":0,"partial":true}`)
		})
		// A client that does not wait so long is believed.
		f(`{timeout: 1m, calls: {b: {service: late, path: /, required: false, default: 0}}}`, 1, func(c *peer) {
			c.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Deadline: 0.05\r\n\r\n")
			c.wants(200, `{"b":0,"partial":true}`)
		})
	}
}

// Services of HTTP/2 are called as others are.
func TestAggregateHTTP2(t *testing.T) {
	begun, ended := make(chan struct{}, 10), make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			begun <- struct{}{}
			<-r.Context().Done()
			ended <- struct{}{}
			return
		}
		_, _ = io.WriteString(w, `["`+r.Proto+`",`+r.Header.Get("X-N")+`]`)
		if r.URL.Path == "/large" {
			_, _ = io.WriteString(w, strings.Repeat(" ", 200_000))
		}
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	g := serve(t, gateway.Options{}, `
services: {s: {protocol: h2c, endpoints: ["`+s.URL+`"], circuit_breaker: off, retries: off}}
routes: {r: {match: {paths: [/]}, aggregate: {calls: {
  a: {service: s, path: /, headers: {X-N: "1"}}, b: {service: s, path: /large, headers: {X-N: "${calls.a[1]}"}}, c: {service: s, path: /late, timeout: 20ms, required: false}}}}}
`)
	g.client().request("GET /").wants(200, `{"a":["HTTP/2.0",1],"b":["HTTP/2.0",1],"partial":true}`)
	within(t, "the service is asked", begun)
	within(t, "the call is given up", ended)
	once(t, "calls end", func() bool { return !calling() })
}

// The first required call that fails is the answer; the others are given up.
func TestAggregateFailsEarly(t *testing.T) {
	late, begun, ended := silent(t)
	bad := answering(t, func(string, string) string { <-begun; return reply(500, "") })
	g := aggregating(t, `{timeout: 5m, calls: {a: {service: late, path: /}, b: {service: bad, path: /}}}`, "", "late", late, "bad", bad)
	g.client().request("GET /").refused(502, "aggregate_status")
	within(t, "the call is given up", ended)
	once(t, "calls end", func() bool { return !calling() })
	if n := g.metric(`sluice_aggregate_calls_total{route="r",call="a",result="cancelled"}`); n != 1 {
		t.Error(n)
	}
}

func TestAggregateClientGone(t *testing.T) {
	late, begun, ended := silent(t)
	g := aggregating(t, `{timeout: 5m, calls: {a: {service: late, path: /, required: false}}}`, "", "late", late)
	c := g.client().request("GET /")
	within(t, "the service is asked", begun)
	_ = c.conn.Close()
	within(t, "the call is given up", ended)
	once(t, "the request is one of a client that has gone", func() bool {
		return g.metric(`sluice_requests_total{route="r",service="-",method="GET",code="499"}`) == 1
	})
}

// A document is cached as any answer; one that is partial is not.
func TestAggregateCached(t *testing.T) {
	var n, status atomic.Int64
	s := answering(t, func(string, string) string { return reply(int(status.Load()), strconv.FormatInt(n.Add(1), 10)) })
	status.Store(500)
	g := aggregating(t, `{calls: {a: {service: s, path: /, required: false}}}`, ", policies: {cache: {ttl: 1h}}", "s", s)
	c := g.client()
	c.request("GET /").wants(200, `{"partial":true}`)
	c.request("GET /").wants(200, `{"partial":true}`)
	status.Store(200)
	c.request("GET /").wants(200, `{"a":3}`)
	c.request("GET /").wants(200, `{"a":3}`)
	c.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
	if head := c.head(); statusOf(head) != 200 {
		t.Error(head)
	}
	if n.Load() != 3 {
		t.Errorf("%d calls", n.Load())
	}
}
