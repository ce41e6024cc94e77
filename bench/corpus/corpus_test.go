//go:build linux

package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sluice/gateway/corpustest"
)

func TestRequestAt(t *testing.T) {
	f := func(raw, line, body string, fields, trailers []string, left int) {
		t.Helper()
		m, size := requestAt([]byte(raw))
		if m.line != line || m.body != body || !slices.Equal(m.fields, fields) || !slices.Equal(m.trailers, trailers) || len(raw)-size != left {
			t.Errorf("%q: %+v, %d of %d bytes", raw, m, size, len(raw))
		}
	}
	f("GET / HTTP/1.1\r\nA: b\r\n\r\n", "GET / HTTP/1.1", "", []string{"A: b"}, nil, 0)
	f("\r\nGET / HTTP/1.1\nA: b\n\nGET", "GET / HTTP/1.1", "", []string{"A: b"}, nil, 3)
	f("POST / HTTP/1.1\r\nContent-Length : 3\r\n\r\nabcd", "POST / HTTP/1.1", "abc", []string{"Content-Length : 3"}, nil, 1)
	f("POST / HTTP/1.1\r\ntransfer-encoding: x, chunked\r\nContent-Length: 1\r\n\r\n3;a\r\nabc\r\n0\r\nB: c\r\n\r\nxy", "POST / HTTP/1.1", "abc",
		[]string{"transfer-encoding: x, chunked", "Content-Length: 1"}, []string{"B: c"}, 2)
	for _, part := range []string{"", "GET", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"} {
		if _, size := requestAt([]byte(part)); size != 0 {
			t.Errorf("%q is whole", part)
		}
	}
}

func TestAnswerAt(t *testing.T) {
	f := func(raw, method string, ended bool, status int, body string, whole bool) {
		t.Helper()
		m, size := answerAt([]byte(raw), method, ended)
		if m.status() != status || m.body != body || (size > 0) != whole {
			t.Errorf("%q: %+v, %d bytes", raw, m, size)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", false, 200, "ok", true)
	f("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", false, 200, "", true)
	f("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", "GET", false, 204, "", true)
	f("HTTP/1.1 200 OK\r\n\r\nall", "GET", false, 200, "all", false)
	f("HTTP/1.1 200 OK\r\n\r\nall", "GET", true, 200, "all", true)
	f("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall", "GET", true, 200, "all", false)
	f("<html>\r\n\r\n", "GET", true, 0, "", true)
}

func TestAmbiguity(t *testing.T) {
	f := func(want, raw string) {
		t.Helper()
		if got := ambiguity(raw, requestLine); got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
	const end = " HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, good := range []string{"GET /", "GET /?a", "GET http://a", "GET HTTP://a:80/x?y", "GET http://a?y", "OPTIONS *", "M-SEARCH /a//b"} {
		f("", good+end)
	}
	for _, bad := range []string{"GET *", "OPTIONS *x", "GET a", "GET ", "GET ?a", "GET /#f", "GET  /", "GET http://u@a/", "GET http:///x", "GET ftp://a/", "GET /\xe9", "CONNECT a:80"} {
		f("malformed first line", bad+end)
	}
	f("bare LF", "GET / HTTP/1.1\nHost: a\r\n\r\n")
	f("bare CR", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n")
	f("folded field", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n")
	f("malformed field", "GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n")
	f("malformed host", "GET / HTTP/1.1\r\n\r\n")
	f("", "GET / HTTP/1.0\r\n\r\n")
	f("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n")
	const post, chunks = "POST / HTTP/1.1\r\nHost: a\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	f("two lengths", post+"Content-Length: 1\r\nContent-Length: 1\r\n\r\na")
	f("malformed length", post+"Content-Length: +1\r\n\r\na")
	f("length and coding", post+"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	f("unknown coding", post+"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")
	f("", chunks+"3;a=b\r\na\xe9b\r\n0\r\nX: y\r\n\r\n")
	f("malformed chunk size", chunks+"3 \r\nabc\r\n0\r\n\r\n")
	f("malformed end of a chunk", chunks+"3\r\nabcd\r\n0\r\n\r\n")
	f("malformed trailer", chunks+"0\r\nX : y\r\n\r\n")
}

// What the corpus expects behind the gateway is itself well-formed.
func TestExpectationsAreWellFormed(t *testing.T) {
	dir := filepath.Join("..", "..", "gateway", "testdata", "corpus")
	requests, err := corpustest.Requests(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range requests {
		for _, raw := range c.Backend {
			m, size := requestAt([]byte(raw))
			if a := ambiguity(string(raw), requestLine); size != len(raw) || a != "" {
				t.Errorf("%s/%s: %q of %+v", c.Group, c.Name, a, m)
			}
		}
	}
	responses, err := corpustest.Responses(dir)
	if err != nil || len(responses) == 0 {
		t.Fatal(len(responses), err)
	}
}

func TestVerdictsOfRequests(t *testing.T) {
	answers := func(statuses ...string) (o outcome) {
		for _, s := range statuses {
			m, _ := answerAt([]byte("HTTP/1.1 "+s+"\r\nContent-Length: 0\r\n\r\n"), "GET", false)
			o.answers = append(o.answers, m)
		}
		return o
	}
	const want, got = "GET /x HTTP/1.1\r\nHost: backend\r\nA: b\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n", "GET /x HTTP/1.1\r\nhost: a\r\na: b\r\n\r\n"
	pass := &corpustest.Request{Status: []int{200}, Backend: []corpustest.Octets{want}}
	refuse := &corpustest.Request{Status: []int{400}, Closed: true}
	f := func(c *corpustest.Request, o outcome, ended bool, kind kind, agrees bool, seen ...string) {
		t.Helper()
		o.ended = ended
		var all []message
		for _, s := range seen {
			m, _ := requestAt([]byte(s))
			all = append(all, m)
		}
		if v := judgeRequest(c, &o, all, nil); v.kind != kind || v.agrees != agrees {
			t.Errorf("%+v, want %s, %t", v, kind, agrees)
		}
	}
	f(pass, answers("200"), false, passed, true, got)
	f(pass, answers("200"), false, otherwise, false, strings.Replace(got, "/x", "/y", 1))
	f(pass, answers("200"), false, otherwise, false, strings.Replace(got, "a: b", "a: c", 1))
	f(pass, answers("200", "200"), false, otherwise, false, got, got)
	f(pass, answers("400"), true, refused, false)
	f(pass, answers(), false, waits, false)
	f(refuse, answers("400"), true, refused, true)
	f(refuse, answers("400"), false, keptOpen, false)
	f(refuse, answers(), true, dropped, false)
	f(refuse, answers("502"), true, dropped, false)
	f(refuse, answers("200"), false, cleaned, false, got)
	f(refuse, answers("200"), false, ambiguous, false, strings.Replace(got, "a: b", "a : b", 1))
	both := &corpustest.Request{Status: []int{200, 400}, Closed: true, Backend: []corpustest.Octets{want}}
	f(both, answers("200", "400"), true, refused, true, got)
	f(both, answers("400"), true, refused, false)
	f(both, answers("200", "200"), true, cleaned, false, got, got)
	asterisk := &corpustest.Request{Status: []int{204}}
	f(asterisk, answers("204"), false, gatewayOwn, true)
	f(asterisk, answers("200"), false, passed, true, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
	f(asterisk, answers("400"), true, refused, false)
}

func TestVerdictsOfResponses(t *testing.T) {
	f := func(c corpustest.Response, raw string, ended, reused bool, next string, kind kind, agrees bool) {
		t.Helper()
		cl := client{b: []byte(raw)}
		o := outcome{ended: ended}
		cl.parse(&o, "GET")
		if v := judgeResponse(&c, &o, reused, next); v.kind != kind || v.agrees != agrees {
			t.Errorf("%q: %+v, want %s, %t", raw, v, kind, agrees)
		}
	}
	const ok, bad = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
	good := corpustest.Response{Status: 200, Body: "ok", Reused: true}
	f(good, ok, false, true, "ok", passed, true)
	f(good, ok, false, false, "ok", passed, true)
	f(good, strings.Replace(ok, "ok", "no", 1), false, true, "ok", otherwise, false)
	f(good, bad, false, false, "ok", refused, false)
	f(corpustest.Response{Status: 200, Body: "ok"}, ok, false, true, "ok", usedAgain, false)
	f(corpustest.Response{Status: 200, Body: "ok"}, ok, false, true, "poisoned", spoilt, false)
	refuse := corpustest.Response{Status: 502}
	f(refuse, bad, false, false, "ok", refused, true)
	f(refuse, "", true, false, "ok", dropped, true)
	f(refuse, "", false, false, "ok", waits, false)
	f(refuse, ok[:len(ok)-1], true, false, "ok", cutOff, true)
	f(refuse, ok, false, true, "ok", cleaned, false)
	f(refuse, strings.Replace(ok, "Content-Length", "X : y\r\nContent-Length", 1), false, false, "ok", ambiguous, false)
}

// The witness answers what is whole, and keeps the rest apart.
func TestWitness(t *testing.T) {
	w, err := newWitness()
	if err != nil {
		t.Fatal(err)
	}
	defer w.ln.Close()
	c, err := dial(w.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	o := c.ask("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\n\nGET /3", "GET", 2)
	whole, partial := w.take()
	if len(o.answers) != 2 || o.ended || len(whole) != 2 || whole[1].line != "GET /2 HTTP/1.1" || !slices.Equal(partial, []string{"GET /3"}) {
		t.Errorf("%+v\n%+v, %q", o, whole, partial)
	}
	if whole, partial := w.take(); len(whole)+len(partial) > 0 {
		t.Errorf("%+v, %q", whole, partial)
	}
}

// Every template is of a gateway between clients and the backend.
func TestConfigurations(t *testing.T) {
	for _, name := range []string{"nginx.conf.tmpl", "haproxy.cfg.tmpl", "sluice.yaml.tmpl"} {
		g := &gateway{name: name, template: name}
		text, err := g.configuration()
		if err != nil || strings.HasPrefix(text, "#") || !strings.Contains(text, "{{.Listen}}") || !strings.Contains(text, "{{.Backend}}") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}
