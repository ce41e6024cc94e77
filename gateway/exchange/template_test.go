package exchange

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

type testClaims struct{}

func (testClaims) Claim(path string) ([]byte, bool) { return []byte("<" + path + ">"), path != "none" }
func (testClaims) ClaimHas(path, value string) bool { return false }

func templateExchange() *Exchange {
	req := &fasthttp.Request{}
	req.Header.SetMethod("PUT")
	req.Header.Set("X-Tenant", "acme")
	x := NewPool(NewClock(nil)).Get(req, &fasthttp.Response{}, func(*Exchange) {})
	x.Fields = []Field{{Name: []byte("X-Tenant"), Value: []byte("acme")}}
	x.Query, x.Path, x.Host, x.Scheme = []byte("a=1%202&b=x%0D%0Ay"), []byte("/users/42"), []byte("api.example.com"), "https"
	x.ParamNames = []string{"id"}
	x.Params[0] = []byte("42")
	x.ClientAddr = netip.MustParseAddr("::ffff:192.0.2.1")
	x.RequestID = []byte("id-1")
	x.Identity = Identity{Authenticated: true, Subject: []byte("alice"), Claims: testClaims{}}
	return x
}

func TestTemplateValue(t *testing.T) {
	f := func(text, want string, ok bool) {
		t.Helper()
		tm, err := ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		x := templateExchange()
		defer x.Close()
		if got, filled := tm.Value(x); string(got) != want || filled != ok {
			t.Errorf("%s: %q %v, want %q %v", text, got, filled, want, ok)
		}
		if fixed := !strings.Contains(text, "${"); fixed != (tm.Fixed() != nil) {
			t.Errorf("%s: fixed %q", text, tm.Fixed())
		}
	}
	f("", "", true)
	f("plain $text}", "plain $text}", true)
	f("${header.x-tenant}", "acme", true)
	f("${header.X-None}", "", false)
	f("${query.a}", "1 2", true)
	f("${query.b}", "x\r\ny", true)
	f("${claim.org.id}", "<org.id>", true)
	f("${path.id}", "42", true)
	f("${path.none}", "", false)
	f("${consumer}", "alice", true)
	f("${client_ip}", "192.0.2.1", true)
	f("${request_id}", "id-1", true)
	f("${scheme}://${host}${path} ${method}", "https://api.example.com/users/42 PUT", true)
	f("a ${header.X-Tenant} b ${query.a}${client_ip}", "a acme b 1 2192.0.2.1", true)
	f("a ${header.X-None} b ${path.id}", "a  b 42", true)
	f("a ${header.X-None} b", "", false)
}

func TestParseTemplateFailure(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if _, err := ParseTemplate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	f("${header.a", "no closing brace")
	f("${Header.a}", "is not known; there are ${header.NAME}")
	f("${header}", "is not known")
	f("${header.}", "is not known")
	f("${}", "is not known")
	f("${cookie.a}", "is not known")
	f("${header.a b}", "can not be the name of a header")
	f("${header.X-User-ID}", "a client can write anything")
	f("${header.x_forwarded_for}", "a client can write anything")
	f(strings.Repeat("${host}", 17), "more than 16")
}

func TestTemplateVaries(t *testing.T) {
	tm, err := ParseTemplate("${header.a}${query.b}${claim.c.d}${consumer}${client_ip}${request_id}${path.id}${host}")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tm.Varies(), " "); got != "header:A query:b claim:c.d consumer ip request_id" {
		t.Error(got)
	}
	if got := strings.Join(tm.Params(), " "); got != "id" {
		t.Error(got)
	}
}

// fasthttp gives a message without Content-Type one again; removing it ends all the same.
func TestDelResponse(t *testing.T) {
	f := func(name string) {
		t.Helper()
		var r fasthttp.ResponseHeader
		r.DisableNormalizing()
		r.Set("Content-Type", "text/html")
		r.Set("X-A", "1")
		r.Add("x-a", "2")
		r.Set("Server", "s")
		DelResponse(&r, name)
		if v := PeekResponse(&r, name); v != nil {
			t.Errorf("%s is %q", name, v)
		}
	}
	f("content-type")
	f("X-A")
	f("server")
}
