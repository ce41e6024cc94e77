package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"sluice/gateway"
)

// mirrored is a backend that answers with the head it got as its body.
func mirrored(t *testing.T) *server {
	t.Helper()
	return answering(t, func(head, _ string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(head), head)
	})
}

// sees sends a request and returns the head that the backend got.
func (g *gate) sees(request string) string {
	g.t.Helper()
	c := g.client()
	c.send(request)
	head, body := c.response()
	if statusOf(head) != 200 {
		g.t.Fatalf("%q: %q %q", request, head, body)
	}
	return body
}

// lines returns the fields of a head without those that every request gets.
func lines(head string) []string {
	all := strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")[1:]
	return slices.DeleteFunc(all, func(l string) bool {
		for _, own := range []string{"Host: ", "X-Forwarded-", "X-Correlation-ID: ", "Via: 1.1 sluice"} {
			if strings.HasPrefix(l, own) {
				return true
			}
		}
		return false
	})
}

func TestRequestHygiene(t *testing.T) {
	g := forward(t, mirrored(t), "", "", "")
	f := func(sent, want string) {
		t.Helper()
		got := strings.Join(lines(g.sees("GET / HTTP/1.1\r\nHost: a\r\n"+sent+"\r\n")), "\r\n")
		if got != strings.TrimSuffix(want, "\r\n") {
			t.Errorf("sent %q, the backend got %q, want %q", sent, got, want)
		}
	}
	f("Accept: */*\r\n", "Accept: */*\r\n")
	// Hop-by-hop fields and what Connection names.
	f("Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nx-hop: 2\r\nX-Hope: 3\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nTE: gzip\r\nUpgrade: h2c\r\n", "X-Hope: 3\r\n")
	f("Connection: a\r\nConnection: ,b ,, c\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n", "D: 4\r\n")
	f("Expect: something\r\nTrailer: X\r\n", "")
	// A protocol that carries further requests would carry them past every policy; another one is asked for.
	f("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", "")
	f("Connection: upgrade\r\nUpgrade: websocket, H2C\r\n", "")
	f("Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n", "")
	f("Connection: Upgrade\r\nUpgrade: TLS/1.2, HTTP/1.1\r\n", "")
	f("Connection: upgrade\r\nUpgrade: h2cx\r\n", "Connection: Upgrade\r\nUpgrade: h2cx\r\n")
	// Identity and origin are not the client's to say.
	f("X-User-ID: root\r\nx_user_id: root\r\nX-Consumer-ID: root\r\nX-Consumer_Groups: admins\r\nX-Consumer-Username: root\r\nX-Anonymous-Consumer: true\r\nX-Credential-Identifier: a\r\nX-Authenticated-Groups: admins\r\n", "")
	f("X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n", "")
	// All else passes byte by byte, in order, repeated or not.
	f("Cookie: a=b; c=\"d e\";  f=;g\r\nX-Odd: \xff\tb  c\r\nX-Empty:\r\nX-A: 1\r\nX-A: 2\r\nAuthorization: Bearer x\r\nUser-Agent: \r\nContent-Type: a/b\r\nRange: bytes=0-1\r\n",
		"Cookie: a=b; c=\"d e\";  f=;g\r\nX-Odd: \xff\tb  c\r\nX-Empty: \r\nX-A: 1\r\nX-A: 2\r\nAuthorization: Bearer x\r\nUser-Agent: \r\nContent-Type: a/b\r\nRange: bytes=0-1\r\n")
	f("Cookie: a=b\r\nCookie: c=d\r\n", "Cookie: a=b\r\nCookie: c=d\r\n")
}

// The gateway's own fields can not be stripped by naming them in Connection.
// What a backend echoes would show clients what the gateway tells backends.
func TestTrace(t *testing.T) {
	s := answering(t, echoHead)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes:
  all: {match: {paths: [/all]}, service: s}
  some: {match: {paths: [/some], methods: [GET]}, service: s}
  traced: {match: {paths: [/traced], methods: [TRACE]}, service: s}
`, s.addr))
	f := func(path, allow string) {
		t.Helper()
		c := g.client()
		c.request("TRACE " + path)
		head := c.refused(405, "method_not_allowed")
		if v, _ := field(head, "Allow"); v != allow {
			t.Errorf("%s: %s", path, head)
		}
		// The connection goes on.
		c.request("GET " + path)
		if head, _ := c.response(); statusOf(head) != 200 {
			t.Errorf("%s: %s", path, head)
		}
	}
	f("/all", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	f("/some", "GET")
	c := g.client()
	c.request("TRACE /traced")
	if head, body := c.response(); statusOf(head) != 200 || !strings.HasPrefix(body, "TRACE /traced HTTP/1.1\r\n") {
		t.Errorf("%s%s", head, body)
	}
}

func TestOwnFieldsStay(t *testing.T) {
	g := forward(t, mirrored(t), "", "", "")
	head := g.sees("GET / HTTP/1.1\r\nHost: a.example:81\r\nVia: 1.0 other\r\nConnection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Correlation-ID, X-User-ID, Via, Host, Content-Length\r\nX-Correlation-ID: mine\r\n\r\n")
	f := func(name, want string) {
		t.Helper()
		if got := strings.Join(fields(head, name), "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	f("X-Forwarded-For", "127.0.0.1")
	f("X-Forwarded-Proto", "http")
	f("X-Forwarded-Host", "a.example:81")
	f("X-Forwarded-Port", "81")
	f("X-Correlation-ID", "mine")
	f("Via", "1.1 sluice")
}

func TestTrustedProxies(t *testing.T) {
	s := mirrored(t)
	g := forward(t, s, "", "", "trusted_proxies: [\"127.0.0.0/8\", \"10.0.0.0/8\", \"2001:db8::/32\"]\n")
	f := func(sent string, want ...string) {
		t.Helper()
		head := g.sees("GET / HTTP/1.1\r\nHost: a\r\n" + sent + "\r\n")
		got := []string{
			strings.Join(fields(head, "X-Forwarded-For"), "|"), strings.Join(fields(head, "X-Forwarded-Proto"), "|"),
			strings.Join(fields(head, "X-Forwarded-Host"), "|"), strings.Join(fields(head, "X-Forwarded-Port"), "|"),
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", sent, got, want)
		}
		if v := fields(head, "X-User-ID"); len(v) > 0 {
			t.Errorf("%q: X-User-ID %q", sent, v)
		}
	}
	f("", "127.0.0.1", "http", "a", "80")
	f("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-User-ID: root\r\n", "1.2.3.4, 127.0.0.1", "https", "b", "443")
	f("X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.1.1.1\r\nX-Forwarded-Port: 8443\r\n", "6.6.6.6, 1.2.3.4, 10.1.1.1, 127.0.0.1", "http", "a", "8443")
	f("X-Forwarded-For: 2001:db9::1\r\nX-Forwarded-For: 2001:db8::1\r\n", "2001:db9::1, 2001:db8::1, 127.0.0.1", "http", "a", "80")
}

func TestHostForBackend(t *testing.T) {
	s := mirrored(t)
	f := func(service, want string) {
		t.Helper()
		head := forward(t, s, service, "", "").sees("GET / HTTP/1.1\r\nHost: api.example\r\n\r\n")
		if got := strings.Join(fields(head, "Host"), "|"); got != want {
			t.Errorf("%s: %q", service, got)
		}
		if !strings.HasPrefix(head, "GET / HTTP/1.1\r\nHost: ") {
			t.Errorf("%q", head)
		}
	}
	f("", s.addr)
	f("pass_host: true", "api.example")
	f("host: other.example", "other.example")
}

func TestTargetForBackend(t *testing.T) {
	s := mirrored(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s/base%%20path/"]}, plain: {endpoints: ["http://%[1]s"]}}
routes:
  based: {match: {paths: [/]}, service: s}
  plain: {match: {paths: [/plain]}, service: plain}
  strip: {match: {paths: [/strip/me]}, service: plain, strip_prefix: true}
`, s.addr))
	f := func(target, want string) {
		t.Helper()
		got := strings.Fields(g.sees("GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n"))[1]
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	f("/", "/base%20path/")
	f("/a/b", "/base%20path/a/b")
	f("/plain?a=%41&b=+&c=%2f&&d=é&e=%zz&", "/plain?a=%41&b=+&c=%2f&&d=é&e=%zz&")
	f("/plain?", "/plain")
	f("/plain/../plain/./x", "/plain/x")
	f("/pl%61in/%7e%20%c3%a9", "/plain/~%20%C3%A9")
	f("/plain/a%3Fb%23c%25d", "/plain/a%3Fb%23c%25d")
	f("/plain//a", "/plain/a")
	f("http://a/plain?x", "/plain?x")
	f("/strip/me", "/")
	f("/strip/me/", "/")
	f("/strip/me/a%20b?q", "/a%20b?q")
	for _, bad := range []string{"/plain/%2F", "/plain/%5c", "/plain/%00", "/plain/..;/x", "/../x", "/a/../../x"} {
		c := g.client()
		c.send("GET " + bad + " HTTP/1.1\r\nHost: a\r\n\r\n")
		c.refused(400, "unusable_path")
	}
}

func TestResponseHygiene(t *testing.T) {
	var answer string
	s := answering(t, func(string, string) string { return answer })
	g := forward(t, s, "", "", "")
	f := func(sent string, want ...string) {
		t.Helper()
		answer = "HTTP/1.1 200 OK\r\n" + sent + "Content-Length: 2\r\n\r\nok"
		c := g.client()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		head := c.wants(200, "ok")
		all := strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")[1:]
		if len(fields(head, "Date")) != 1 {
			t.Errorf("%q: %q", sent, head)
		}
		if !strings.Contains(sent, "Date: ") {
			all = slices.DeleteFunc(all, func(l string) bool { return strings.HasPrefix(l, "Date: ") })
		}
		all = slices.DeleteFunc(all, func(l string) bool {
			return strings.HasPrefix(l, "X-Correlation-ID: ") || l == "Via: 1.1 sluice" || l == "Content-Length: 2"
		})
		for i, line := range all {
			// Spaces around a value are no part of it (RFC 9110, section 5.5).
			name, value, _ := strings.Cut(line, ":")
			all[i] = name + ": " + strings.TrimSpace(value)
		}
		slices.Sort(all)
		slices.Sort(want)
		if !slices.Equal(all, want) {
			t.Errorf("%q: %q, want %q", sent, all, want)
		}
		// The connection is the gateway's, whatever the backend does with its own.
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wants(200, "ok")
	}
	f("")
	f("Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n", "Date: Mon, 01 Jan 2024 00:00:00 GMT")
	f("Server: nginx\r\nContent-Type: a/b; c=d\r\n", "Server: nginx", "Content-Type: a/b; c=d")
	f("Set-Cookie: a=b; Path=/\r\nset-cookie: a=c\r\nSet-Cookie: a=b; Path=/\r\n", "Set-Cookie: a=b; Path=/", "set-cookie: a=c", "Set-Cookie: a=b; Path=/")
	f("x-lower-case: 1\r\nX-UPPER: 2\r\nX-UPPER: 3\r\n", "x-lower-case: 1", "X-UPPER: 2", "X-UPPER: 3")
	f("Connection: X-Hop, keep-alive\r\nconnection: y-hop\r\nX-Hop: 1\r\nx-hop: 2\r\nY-Hop: 3\r\nKeep-Alive: timeout=5\r\nkeep-alive: a\r\nProxy-Connection: x\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTE: a\r\nX-Stays: 1\r\n", "X-Stays: 1")
	f("Connection: close, X-Hop\r\nX-Hop: 1\r\n")
	f("Connection: Content-Length, Transfer-Encoding, Via, X-Correlation-ID\r\n")
	f("X-Correlation-ID: theirs\r\nVia: 1.1 other\r\n", "Via: 1.1 other")
	f("X-Empty:\r\nX-Odd: \xff\r\n", "X-Empty: ", "X-Odd: \xff")
	f("X-Spaces:   a b  \r\n", "X-Spaces: a b")
	f("X-Long: "+strings.Repeat("x", 30_000)+"\r\n", "X-Long: "+strings.Repeat("x", 30_000))
}

// What no backend may get through to a client.
func TestMalformedResponse(t *testing.T) {
	var answer string
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send(answer)
		_, _ = p.rest() // the gateway is to give up by itself
	})
	g := forward(t, s, "retries: off, circuit_breaker: off, outlier_detection: off", "", "")
	c := g.client()
	f := func(a string) {
		t.Helper()
		answer = a
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.refused(502, "upstream_malformed")
	}
	const ok = "HTTP/1.1 200 OK\r\n"
	f(ok + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok")
	f(ok + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	f(ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok")
	f(ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok")
	f(ok + "Content-Length: 2, 2\r\n\r\nok")
	f(ok + "Content-Length: +2\r\n\r\nok")
	f(ok + "Content-Length: -2\r\n\r\nok")
	f(ok + "Content-Length: 0x2\r\n\r\nok")
	f(ok + "Content-Length:\r\n\r\nok")
	f(ok + "Content-Length: 99999999999999999999\r\n\r\nok")
	f(ok + "Transfer-Encoding: gzip, chunked\r\n\r\n")
	f(ok + "Transfer-Encoding: identity\r\n\r\n")
	f(ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n")
	f("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	f(ok + "Bad Name: 1\r\nContent-Length: 0\r\n\r\n")
	f(ok + "Name : 1\r\nContent-Length: 0\r\n\r\n")
	f(ok + ": 1\r\nContent-Length: 0\r\n\r\n")
	f(ok + "No colon\r\nContent-Length: 0\r\n\r\n")
	f(ok + "X-A: 1\r\n folded\r\nContent-Length: 0\r\n\r\n")
	f(ok + "X-A: 1\r\n\tfolded\r\nContent-Length: 0\r\n\r\n")
	f(ok + "X-A: a\x00b\r\nContent-Length: 0\r\n\r\n")
	f(ok + "X-A: a\rb\r\nContent-Length: 0\r\n\r\n")
	f(ok + "X-A: 1\nContent-Length: 0\r\n\r\n")
	f("HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n")
	f("HTTP/1.1 20 OK\r\n\r\n")
	f("HTTP/1.1 2000 OK\r\n\r\n")
	f("HTTP/1.1 099 OK\r\n\r\n")
	f("HTTP/1.1 abc OK\r\n\r\n")
	f("HTTP/1.1  200 OK\r\n\r\n")
	f("HTTP/2.0 200 OK\r\n\r\n")
	f("HTTP/1.2 200 OK\r\n\r\n")
	f("http/1.1 200 OK\r\n\r\n")
	f("\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	f("garbage")
	f("SSH-2.0-OpenSSH_9.6\r\n")
	f("\x16\x03\x01")
	f("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	f(ok + "X-A: " + strings.Repeat("x", 70_000) + "\r\n\r\n")
	f(ok + strings.Repeat("X-A: "+strings.Repeat("x", 1000)+"\r\n", 70) + "\r\n")
	answer = "HTTP/1.1 101 Switching Protocols\r\n\r\n"
	c.send(upgradeRequest)
	c.refused(502, "upstream_malformed")
}

// Bytes behind an answer are nobody's: they must not become the next answer,
// whenever they come.
func TestLeftoverBytes(t *testing.T) {
	sent := make(chan struct{}, 1)
	s := backend(t, func(p *peer) {
		first := true
		for p.head() != "" {
			if !first {
				p.t.Errorf("the connection was used again")
			}
			first = false
			p.send(okAnswer)
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
			sent <- struct{}{}
		}
	})
	g := forward(t, s, "", "", "")
	c := g.client()
	for range 10 {
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
		c.wants(200, "ok")
		<-sent
	}
	if n := s.conns.Load(); n != 10 {
		t.Errorf("%d connections", n)
	}
}

// Whose address counts: the first from the right that is not a trusted proxy's.
func TestClientAddress(t *testing.T) {
	s := mirrored(t)
	config := `
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/]}, service: s, policies: {ip_filter: {allow: ["1.2.3.4/32", "2001:db9::/32"]}}}}
trusted_proxies: [%s]
`
	f := func(g *gate, sent string, allowed bool) {
		t.Helper()
		c := g.client()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n" + sent + "\r\n")
		if head, _ := c.response(); (statusOf(head) == 200) != allowed {
			t.Errorf("%q: %q", sent, head)
		}
	}
	g := serve(t, gateway.Options{}, fmt.Sprintf(config, s.addr, `"127.0.0.1", "10.0.0.0/8", "2001:db8::/32"`))
	f(g, "", false)
	f(g, "X-Forwarded-For: 1.2.3.4\r\n", true)
	f(g, "X-Forwarded-For: 1.2.3.4, 10.0.0.1\r\n", true)
	f(g, "X-Forwarded-For: 1.2.3.4:5678, 10.0.0.1\r\n", true)
	f(g, "X-Forwarded-For: 1.2.3.4, 6.6.6.6\r\n", false)
	f(g, "X-Forwarded-For: 1.2.3.4, nonsense\r\n", false)
	f(g, "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 6.6.6.6\r\n", false)
	f(g, "X-Forwarded-For: 2001:db9::1\r\n", true)
	f(g, "X-Forwarded-For: [2001:db9::1]:99, 2001:db8::7\r\n", true)
	f(g, "X-Forwarded-For: ::ffff:1.2.3.4\r\n", true)
	f(g, "Forwarded: for=1.2.3.4;proto=https\r\n", true)
	f(g, "Forwarded: for=6.6.6.6, For=\"[2001:db9::1]:4711\";by=x, for=10.0.0.1\r\n", true)
	f(g, "Forwarded: for=1.2.3.4, for=_hidden\r\n", false)
	f(g, "X-Real-IP: 1.2.3.4\r\n", false)

	g = serve(t, gateway.Options{}, fmt.Sprintf(config, s.addr, `"10.0.0.0/8"`))
	f(g, "X-Forwarded-For: 1.2.3.4\r\n", false)
	f(g, "Forwarded: for=1.2.3.4\r\n", false)
}

// A retry is dated by the backend whose answer it is, whatever came before.
func TestDateAfterRetry(t *testing.T) {
	const date = "Mon, 01 Jan 2024 00:00:00 GMT"
	answers := make(chan string, 2)
	s := answering(t, func(string, string) string { return <-answers })
	c := forward(t, s, "", "", "").client()
	f := func(first, second string, theirs bool) {
		t.Helper()
		answers <- "HTTP/1.1 503 X\r\n" + first + "Content-Type: text/html\r\nContent-Length: 0\r\n\r\n"
		answers <- "HTTP/1.1 200 OK\r\n" + second + "x-a: b\r\nContent-Length: 2\r\n\r\nok"
		c.request("GET /")
		head := c.wants(200, "ok")
		got := fields(head, "Date")
		if len(got) != 1 || (got[0] == date) != theirs || !strings.Contains(head, "x-a: b\r\n") || strings.Contains(head, "Content-Type") {
			t.Errorf("%q, %q: %q", first, second, head)
		}
	}
	for range 2 {
		f("", "", false)
		f("", "Date: "+date+"\r\n", true)
		f("Date: "+date+"\r\n", "", false)
		f("Date: "+date+"\r\n", "date: "+date+"\r\n", true)
	}
}
