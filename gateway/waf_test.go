package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"sluice/gateway"
)

// The WAF between a real client and a real backend.
func TestWAF(t *testing.T) {
	const leak = "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version"
	s := answering(t, func(head, body string) string {
		switch path, _, _ := strings.Cut(strings.Fields(head)[1], "?"); path {
		case "/leak":
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s", len(leak), leak)
		case "/leak/chunked":
			return "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(strings.Repeat("page ", 15_000)+leak, 3000) + "0\r\n\r\n"
		case "/page/chunked":
			return "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(strings.Repeat("page ", 100_000), 3000) + "0\r\n\r\n"
		case "/page/long":
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s", 500_000, strings.Repeat("page ", 100_000))
		}
		return reply(200, fmt.Sprint(len(body)))
	})
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%[1]s"]}}
routes:
  api: {match: {paths: [/api]}, service: s, policies: {waf: {body_limit: 1KiB}}}
  part: {match: {paths: [/part]}, service: s, policies: {waf: {body_limit: 1KiB, over_limit: partial}}}
  watched: {match: {paths: [/watched]}, service: s, policies: {waf: {mode: detect}}}
  leak: {match: {paths: [/leak, /page]}, service: s, policies: {waf: {response_bodies: true}}}
  cached: {match: {paths: [/cached]}, service: s, rewrite: /leak, policies: {waf: {response_bodies: true}, cache: {shared: true}}}
`, s.addr))
	send := func(c *peer, line, body string) {
		c.send(fmt.Sprintf("%s HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", line, len(body), body))
	}
	const sqli = "id=1'+OR+'1'='1"
	c := g.client()
	for range 2 { // one connection outlives a refusal of a request that was read to its end
		send(c, "POST /api", "id=1")
		c.wants(200, "4")
		send(c, "POST /api", sqli)
		c.refused(403, "waf")
		send(c, "POST /watched", sqli)
		c.wants(200, "15")
		send(c, "POST /part", "id=1&x="+strings.Repeat("x", 200_000))
		c.wants(200, "200007")
	}
	c.send("POST /api HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(sqli, 4) + "0\r\n\r\n")
	c.refused(403, "waf")
	for _, body := range []string{"id=1", sqli} {
		c.send(fmt.Sprintf("POST /api HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nAccept: */*\r\nExpect: 100-continue\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n", len(body)))
		if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("%q", head)
		}
		c.send(body)
		if body == sqli {
			c.refused(403, "waf")
		} else {
			c.wants(200, "4")
		}
	}
	before := s.conns.Load()
	closes := func(line, body string, status int, reason string) {
		t.Helper()
		c := g.client()
		send(c, line, body)
		c.refused(status, reason)
		c.ended()
	}
	closes("POST /api", strings.Repeat("x", 1025), 413, "body_too_large")
	closes("POST /part", sqli+"&"+strings.Repeat("x", 5000), 403, "waf")
	if n := s.conns.Load(); n != before {
		t.Errorf("%d connections to the backend for what was refused", n-before)
	}

	c = g.client()
	send(c, "GET /leak", "")
	c.refused(403, "waf_response")
	for range 2 { // neither from the backend nor from the cache
		send(c, "GET /cached", "")
		c.refused(403, "waf_response")
	}
	for _, path := range []string{"/page/chunked", "/page/long"} {
		send(c, "GET "+path, "")
		if head, body := c.response(); statusOf(head) != 200 || len(body) != 500_000 {
			t.Errorf("%s: %q and %d bytes", path, head, len(body))
		}
	}
	send(c, "GET /leak/chunked", "")
	if rest, _ := c.rest(); strings.Contains(rest, "SQL") || strings.Contains(rest, "page") {
		t.Errorf("what is held back got out: %q", abbreviate(rest))
	}
	if n := g.metric(`sluice_waf_matches_total{route="api",rule="942100"}`); n != 4 {
		t.Errorf("%v matches of rule 942100", n)
	}
	if n := g.metric(`sluice_waf_requests_total{route="watched",result="detected"}`); n != 2 {
		t.Errorf("%v requests detected", n)
	}
}

// Over HTTP/2 the rules see the same request.
func TestWAFOverHTTP2(t *testing.T) {
	s := answering(t, func(_, body string) string { return reply(200, body) })
	g := prior(t, s, "policies: {waf: {paranoia: 2}}", "")
	c := g.http2Client()
	f := func(body string, unknown bool, want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Host = g.addr
		req.Host = "api.example.com"
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
		if unknown {
			req.ContentLength = -1
		}
		res, got := g.get2(c, req)
		if res.StatusCode != want || want == 200 && got != body {
			t.Errorf("%s: %d %q", abbreviate(body), res.StatusCode, got)
		}
	}
	for _, unknown := range []bool{false, true} {
		f(`{"name":"alice"}`, unknown, 200)
		f(`{"name":"1' OR '1'='1"}`, unknown, 403)
		f(`{"name":"`+strings.Repeat("a", 200_000)+`"}`, unknown, 413)
	}
	if n := g.metric(`sluice_waf_requests_total{route="r",result="passed"}`); n != 2 {
		t.Errorf("%v requests passed", n)
	}
	var all strings.Builder
	if err := g.WriteMetrics(&all); err != nil || strings.Contains(all.String(), `sluice_waf_matches_total{route="r",rule="920`) {
		t.Errorf("the protocol rules find fault with HTTP/2: %v, %s", err, all.String())
	}
}
