package respond

import (
	"strings"
	"testing"

	"sluice/gateway/action/actiontest"
	"sluice/gateway/exchange"
)

func TestSettings(t *testing.T) {
	w := actiontest.New(t, "")
	w.Files(t, Definition)
}

func TestServe(t *testing.T) {
	w := actiontest.New(t, "")
	f := func(settings string, status int, body, contentType string, headers ...string) {
		t.Helper()
		a := w.MustBuild(t, Definition, settings)
		for range 2 { // the answer is shared: the first must not change the second
			x := w.Exchange("/")
			actiontest.Answer(a, x)
			h := &x.Response.Header
			if h.StatusCode() != status || string(x.Response.Body()) != body || string(h.ContentType()) != contentType || x.Answer != exchange.Own {
				t.Errorf("%s: %d %q %q, want %d %q %q", settings, h.StatusCode(), h.ContentType(), x.Response.Body(), status, contentType, body)
			}
			for i := 0; i < len(headers); i += 2 {
				if got := string(h.Peek(headers[i])); got != headers[i+1] {
					t.Errorf("%s: %s is %q, want %q", settings, headers[i], got, headers[i+1])
				}
			}
			x.Close()
		}
	}
	f("{}", 200, "", "")
	f("true", 200, "", "")
	f("{status: 204}", 204, "", "")
	f("{body: hello}", 200, "hello", "text/plain; charset=utf-8")
	f("{body: hello, content_type: ''}", 200, "hello", "")
	f("{status: 503, body: '{}', content_type: application/json, headers: {Retry-After: '30', x-lower: b}}", 503, "{}", "application/json",
		"Retry-After", "30", "x-lower", "b")
	f("{headers: {Server: mine, Content-Encoding: br}}", 200, "", "", "Server", "mine", "Content-Encoding", "br")
	f("{body: 'Use ${variable} and $${HOME}'}", 200, "Use ${variable} and ${HOME}", "text/plain; charset=utf-8")
}

func TestRepeatedHeader(t *testing.T) {
	w := actiontest.New(t, "")
	x := w.Exchange("/")
	defer x.Close()
	actiontest.Answer(w.MustBuild(t, Definition, "{headers: {Link: ['</a>; rel=preload', '</b>; rel=preload'], Set-Cookie: [a=1, b=2]}}"), x)
	if got := x.Response.Header.PeekAll("Link"); len(got) != 2 || string(got[1]) != "</b>; rel=preload" {
		t.Errorf("%q", got)
	}
	if head := x.Response.Header.String(); !strings.Contains(head, "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n") {
		t.Errorf("%q", head)
	}
}

func TestStatusWithoutAPhrase(t *testing.T) {
	w := actiontest.New(t, "")
	x := w.Exchange("/")
	defer x.Close()
	actiontest.Answer(w.MustBuild(t, Definition, "{status: 299}"), x)
	if head := x.Response.Header.String(); !strings.HasPrefix(head, "HTTP/1.1 299 ") || strings.Contains(head, "Unknown") {
		t.Errorf("%q", head)
	}
}

func TestAllocations(t *testing.T) {
	w := actiontest.New(t, "")
	a := w.MustBuild(t, Definition, "{status: 503, body: sorry, headers: {Retry-After: '30'}}")
	w.NoAllocations(t, "respond", func(x *exchange.Exchange) { actiontest.Answer(a, x) })
}
