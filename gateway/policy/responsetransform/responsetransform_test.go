package responsetransform

import (
	"slices"
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// fill gives x an answer of a backend with these headers.
func fill(x *exchange.Exchange, headers ...string) {
	h := &x.Response.Header
	h.Reset()
	h.DisableNormalizing()
	h.SetNoDefaultContentType(true)
	x.Answer = exchange.Proxied
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
}

func left(x *exchange.Exchange) string {
	var lines []string
	for k, v := range x.Response.Header.All() {
		lines = append(lines, string(k)+"="+string(v))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func TestHeaders(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, want string, headers ...string) {
		t.Helper()
		x := w.Exchange("/users?q=1%202&bad=a%0d%0aX-Evil:%201", "X-Tenant: acme")
		defer x.Close()
		x.RequestID = []byte("id-1")
		fill(x, headers...)
		if err := w.MustBuild(t, Definition, settings).Response(x); err != nil {
			t.Fatal(err)
		}
		if got := left(x); got != want {
			t.Errorf("%s of %q:\ngot  %s\nwant %s", settings, headers, got, want)
		}
	}
	f("remove: {headers: [x-a, Server, X-User-Id]}", "X-B=2", "X-A: 1", "x-a: 2", "X-B: 2", "Server: nginx", "X-User-Id: 1")
	f("remove: {headers: [Set-Cookie, content-type]}", "", "Set-Cookie: a=1", "set-cookie: b=2", "Content-Type: text/html")
	f("rename: {headers: {x-a: X-New}}", "X-New=1 X-New=2", "X-A: 1", "x-a: 2", "X-New: old")
	f("rename: {headers: {X-A: X-New}}", "X-New=old", "X-New: old")
	f("replace: {headers: {X-A: new}}", "X-A=new", "x-a: 1", "X-A: 2")
	f("replace: {headers: {X-A: new}}", "")
	f("replace: {headers: {X-A: '${query.bad}'}}", "", "X-A: 1")
	f("replace: {headers: {Content-Type: text/plain}}", "Content-Type=text/plain", "content-type: text/html")
	f("add: {headers: {X-A: new}}", "x-a=1", "x-a: 1")
	f("add: {headers: {X-A: ['${header.X-Tenant} ${request_id}', '${query.bad}', '${query.q}']}}", "X-A=1 2 X-A=acme id-1")
	f("append: {headers: {Vary: Accept, Set-Cookie: [c=3, d=4]}}", "Set-Cookie=a=1 Set-Cookie=c=3 Set-Cookie=d=4 Vary=Accept Vary=Origin", "Vary: Origin", "Set-Cookie: a=1")
	f("{remove: {headers: [X-A]}, rename: {headers: {X-B: X-A}}, replace: {headers: {X-A: new}}, add: {headers: {X-A: no}}, append: {headers: {X-A: more}}}",
		"X-A=more X-A=new", "X-A: 1", "X-B: 2")
}

// The gateway's own errors stay as they are.
func TestRejections(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{remove: {headers: [Content-Type]}, add: {headers: {X-A: a}}}")
	x := w.Exchange("/")
	defer x.Close()
	x.Render(exchange.NewReject(502, "upstream_connect", "no"))
	if err := h.Response(x); err != nil {
		t.Fatal(err)
	}
	if got := left(x); got != "Content-Type=application/problem+json" {
		t.Error(got)
	}
}

func TestVaries(t *testing.T) {
	h := policytest.New(t, "").MustBuild(t, Definition, "add: {headers: {X-A: '${header.x-b} ${request_id}', X-C: '${consumer}'}}")
	if got := strings.Join(h.Varies, " "); got != "consumer header:X-B request_id" {
		t.Error(got)
	}
}

const everything = `
remove: {headers: [X-Gone, Server]}
rename: {headers: {X-Old: X-New}}
replace: {headers: {X-A: '${header.x-tenant}'}}
add: {headers: {X-C: 'c ${client_ip}'}}
append: {headers: {Vary: Origin}}
`

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, everything)
	w.NoAllocations(t, "everything", func(x *exchange.Exchange) {
		fill(x, "X-Gone: 1", "Server: nginx", "X-Old: 1", "X-A: 1", "Vary: Accept", "Content-Type: text/html")
		if err := h.Response(x); err != nil {
			t.Fatal(err)
		}
	}, "X-Tenant: acme")
}
