package gateway_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// array is JSON of about n bytes with a member to remove in each element.
func array(n int, secret bool) string {
	var b strings.Builder
	b.WriteString("[")
	for i := 0; b.Len() < n || i == 0; i++ {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, `{"id":%d.50`, i)
		if secret {
			b.WriteString(`,"secret":"x"`)
		}
		b.WriteString("}")
	}
	return b.String() + "]"
}

func elements(n int, secret bool) string {
	// As many elements as there are with the secret.
	full := array(n, true)
	if secret {
		return full
	}
	return strings.ReplaceAll(full, `,"secret":"x"`, "")
}

// Bodies are changed on their way up and down, whatever their size, framing and the client's version.
func TestJSONTransform(t *testing.T) {
	s := answering(t, func(head, body string) string {
		if field, ok := field(head, "Accept-Encoding"); ok {
			return reply(500, "asked for "+field)
		}
		parts := strings.Split(strings.Fields(head)[1], "/")
		n, _ := strconv.Atoi(parts[2])
		if strings.HasPrefix(head, "POST") {
			length, _ := field(head, "Content-Length")
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Length: %s\r\nContent-Length: %d\r\n\r\n%s", length, len(body), body)
		}
		answer := elements(n, true)
		if parts[1] == "chunked" {
			return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(answer, 5000) + "0\r\n\r\n"
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	})
	g := forward(t, s, "", "policies: {request_transform: {remove: {json: ['[*].secret']}, max_body: 200KiB}, response_transform: {remove: {json: ['[*].secret']}, max_body: 200KiB}}", "")
	c := g.client()
	for _, n := range []int{1, 1000, 20_000, 64_000, 70_000, 150_000} {
		want := elements(n, false)
		for _, framing := range []string{"length", "chunked"} {
			target := fmt.Sprintf("/%s/%d", framing, n)
			c.send("GET " + target + " HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
			c.wants(200, want)
			old := g.client()
			old.send("GET " + target + " HTTP/1.0\r\nHost: a\r\n\r\n")
			if head := old.head(); statusOf(head) != 200 {
				t.Error(head)
			} else if got, whole := old.rest(); got != want || !whole {
				t.Errorf("%s over HTTP/1.0: %s", target, abbreviate(got))
			}
			body := elements(n, true)
			head := "POST " + target + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
			if framing == "chunked" {
				c.send(head + "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 5000) + "0\r\n\r\n")
			} else {
				c.send(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(body), body))
			}
			head = c.wants(200, want)
			if v, _ := field(head, "X-Length"); v != strconv.Itoa(len(want)) {
				t.Errorf("%s: the backend was told of %s bytes", target, v)
			}
		}
	}
	// A client that waits to be told to continue.
	body := elements(1000, true)
	c.send(fmt.Sprintf("POST /length/1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body)))
	if head := c.head(); statusOf(head) != 100 {
		t.Fatal(head)
	}
	c.send(body)
	c.wants(200, elements(1000, false))
	// What is malformed is told where, and the connection goes on.
	c.send("POST /length/1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n[1,]")
	if head := c.head(); statusOf(head) != 400 {
		t.Error(head)
	} else if problem, _ := c.body(head); !strings.Contains(problem, "line 1, column 4") {
		t.Error(problem)
	}
	c.send("GET /length/1 HTTP/1.1\r\nHost: a\r\n\r\n")
	c.wants(200, elements(1, false))
	body = elements(210_000, true)
	c.send(fmt.Sprintf("POST /length/1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:10]))
	c.refused(413, "body_too_large")
}

func TestBridgeJSONTransform(t *testing.T) {
	bridges(t, func(t *testing.T, b bridge) {
		s := answering(t, func(_, body string) string {
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		})
		g := b.forward(t, s, "policies: {request_transform: {add: {json: {up: 1}}}, response_transform: {add: {json: {down: 2}}}}", "")
		_, got := g.get2(b.client(g), b.request(g, "POST", "/", strings.NewReader(`{"a":1}`), "Content-Type: application/json"))
		if got != `{"a":1,"up":1,"down":2}` {
			t.Error(got)
		}
	})
}

// An answer that can not be read does not leave, or leaves as it is; either way
// it counts with its status, and the connections go on.
func TestUnreadableResponse(t *testing.T) {
	body := elements(200_000, true)
	s := answering(t, func(head, _ string) string {
		const line = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
		switch strings.Fields(head)[1] {
		case "/chunked":
			return line + "Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 5000) + "0\r\n\r\n"
		case "/malformed":
			return line + "Content-Length: 4\r\n\r\n[1,]"
		case "/part":
			return "HTTP/1.1 206 Partial Content\r\nContent-Type: application/json\r\nContent-Range: bytes 0-3/10\r\nContent-Length: 4\r\n\r\n[1,2"
		}
		return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", line, len(body), body)
	})
	g := forward(t, s, "", "policies: {response_transform: {remove: {json: [a]}, max_body: 100KiB}}", "")
	c := g.client()
	paths := []string{"/length", "/chunked", "/malformed", "/part"}
	for _, path := range paths {
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		c.refused(502, "response_unreadable")
	}
	once(t, "all counted", func() bool {
		return g.metric(`sluice_requests_total{route="r",service="s",method="GET",code="502"}`) == float64(len(paths))
	})
	g = forward(t, s, "", "policies: {response_transform: {remove: {json: [a]}, max_body: 100KiB, unreadable: pass}}", "")
	c = g.client()
	for path, want := range map[string]string{"/length": body, "/chunked": body, "/malformed": "[1,]"} {
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, want)
	}
}

func TestStatusTransform(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		switch strings.Fields(head)[1] {
		case "/none":
			return "HTTP/1.1 204 No Content\r\n\r\n"
		case "/large":
			return fmt.Sprintf("HTTP/1.1 404 Not Found\r\nContent-Length: 100000\r\n\r\n%s", text(100_000))
		}
		return reply(404, "not here")
	})
	g := forward(t, s, "", "policies: {response_transform: {status: {404: 200, 204: 201}}}", "")
	c := g.client()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, "not here")
		c.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, text(100_000))
		c.send("GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.head()
		if length, _ := field(head, "Content-Length"); statusOf(head) != 201 || length != "0" {
			t.Error(head)
		}
		c.send("HEAD /none HTTP/1.1\r\nHost: a\r\n\r\n")
		if head := c.head(); statusOf(head) != 201 {
			t.Error(head)
		}
	}
}

// A changed answer is stored as it is changed, compressed for who wants it, and told apart by its tag.
func TestTransformCacheAndCompression(t *testing.T) {
	var calls atomic.Int64
	s := answering(t, func(string, string) string {
		calls.Add(1)
		body := elements(5000, true)
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	})
	g := forward(t, s, "", "policies: {response_transform: {remove: {json: ['[*].secret']}}, cache: {}, compression: {}}", "")
	c := g.client()
	for _, accept := range []string{"gzip", "identity", "zstd", "gzip"} {
		c.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: " + accept + "\r\n\r\n")
		head := c.head()
		body, _ := c.body(head)
		encoding, _ := field(head, "Content-Encoding")
		tag, _ := field(head, "ETag")
		if decompressed(t, encoding, body) != elements(5000, false) || tag != `W/"a"` || (encoding == "") != (accept == "identity") {
			t.Error(head)
		}
	}
	c.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nIf-None-Match: W/\"a\"\r\n\r\n")
	if head := c.head(); statusOf(head) != 304 {
		t.Error(head)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A SOAP operation behind a REST route.
func TestSOAPTransform(t *testing.T) {
	s := answering(t, func(head, body string) string {
		action, _ := field(head, "SOAPAction")
		contentType, _ := field(head, "Content-Type")
		answer := `<GetUserResponse xmlns="urn:users"><name>Ada</name></GetUserResponse>`
		status := "200 OK"
		if action != `"urn:users#GetUser"` || !strings.HasPrefix(contentType, "text/xml") || !strings.Contains(body, `<GetUser xmlns="urn:users"><id>7</id></GetUser>`) {
			answer, status = `<s:Fault><faultcode>s:Client</faultcode><faultstring>no such user</faultstring></s:Fault>`, "500 Internal Server Error"
		}
		answer = `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>` + answer + `</s:Body></s:Envelope>`
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n%s", status, len(answer), answer)
	})
	g := forward(t, s, "", `policies: {request_transform: {convert: {from: json, to: soap, operation: GetUser, namespace: "urn:users", action: "urn:users#GetUser"}},
    response_transform: {convert: {from: soap, to: json}, status: {500: 404}}}`, "")
	c := g.client()
	for body, want := range map[string]string{`{"id":7}`: `200 {"name":"Ada"}`, `{"id":8}`: `404 {"fault":{"code":"s:Client","message":"no such user"}}`} {
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		head := c.head()
		got, _ := c.body(head)
		if got = fmt.Sprintf("%d %s", statusOf(head), got); got != want || !strings.Contains(head, "Content-Type: application/json") {
			t.Errorf("%s: %s\n%s", body, got, head)
		}
	}
}
