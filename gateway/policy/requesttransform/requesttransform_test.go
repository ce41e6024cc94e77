package requesttransform

import (
	"strings"
	"testing"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// sent is what the backend gets of the headers that begin with X-: the client's in their order, then the gateway's.
func sent(x *exchange.Exchange) string {
	var lines []string
	for i := range x.Fields {
		f := &x.Fields[i]
		if passes(x, f) && !x.ToBackend.Replaces(f.Name) && exchange.EqualFold(f.Name[:2], "x-") {
			lines = append(lines, string(f.Name)+"="+string(f.Value))
		}
	}
	for _, e := range x.ToBackend.List() {
		if e.Op != exchange.EditRemove {
			lines = append(lines, e.Name+"="+string(e.Value))
		}
	}
	return strings.Join(lines, " ")
}

func TestHeaders(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, want string, headers ...string) {
		t.Helper()
		x := w.Exchange("/users?q=1%202&bad=a%0d%0aX-Evil:%201", headers...)
		defer x.Close()
		x.RequestID = []byte("id-1")
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		if got := sent(x); got != want {
			t.Errorf("%s with %q:\ngot  %s\nwant %s", settings, headers, got, want)
		}
	}
	f("remove: {headers: [x-a]}", "X-B=2", "X-A: 1", "X-B: 2", "x-a: 3")
	f("remove: {headers: [x_a]}", "", "X-A: 1")
	f("rename: {headers: {X-A: X-New}}", "X-New=1 X-New=3", "X-A: 1", "X-A: 3")
	f("rename: {headers: {X-A: X-New}}", "X-New=1", "X-A: 1", "X-New: old")
	f("rename: {headers: {X-A: X-New}}", "X-New=old", "X-New: old")
	f("replace: {headers: {X-A: new}}", "X-A=new", "X-A: 1", "X-A: 2")
	f("replace: {headers: {X-A: new}}", "")
	f("replace: {headers: {X-A: new}}", "X-A=new", "X_A: 1")
	f("replace: {headers: {X-A: [a, b]}}", "X-A=a X-A=b", "X-A: 1")
	f("replace: {headers: {X-A: '${header.X-None}'}}", "", "X-A: 1")
	f("replace: {headers: {X-A: '${query.bad}'}}", "", "X-A: 1")
	f("add: {headers: {X-A: new}}", "X-A=1", "X-A: 1")
	f("add: {headers: {X-A: new}}", "X-A=new")
	f("add: {headers: {X-A: ''}}", "X-A=")
	f("add: {headers: {X-A: [a, b]}}", "X-A=a X-A=b")
	f("add: {headers: {X-A: '${query.bad}', X-B: '${query.q}', X-C: '${header.X-None}', X-D: 'id ${request_id}'}}", "X-B=1 2 X-D=id id-1")
	f("append: {headers: {X-A: new}}", "X-A=1 X-A=new", "X-A: 1")
	f("append: {headers: {X-A: ['${client_ip}', '${query.bad}', b]}}", "X-A=192.0.2.1 X-A=b")
	// The steps see what those before them did.
	f("{remove: {headers: [X-A]}, replace: {headers: {X-A: no}}, add: {headers: {X-A: yes}}}", "X-A=yes", "X-A: 1")
	f("{rename: {headers: {X-A: X-B}}, replace: {headers: {X-B: new}}, append: {headers: {X-B: more}}}", "X-B=new X-B=more", "X-A: 1")
	f("{add: {headers: {X-A: a}}, append: {headers: {X-A: b}}}", "X-A=a X-A=b")
	f("{rename: {headers: {X-A: X-B, X-B: X-C}}}", "X-C=1", "X-A: 1", "X-B: 2")
	// A header that Connection takes away is not there.
	f("add: {headers: {X-A: new}}", "X-A=new", "X-A: 1", "Connection: close, x-a")
	f("rename: {headers: {X-A: X-B}}", "", "X-A: 1", "Connection: X-A")
}

// What other policies told the backend before is there like a header of the client.
func TestEditsOfOthers(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, want string) {
		t.Helper()
		x := w.Exchange("/", "X-A: 1", "X-B: 1")
		defer x.Close()
		x.ToBackend.Set("X-A", []byte("set"))
		x.ToBackend.Add("X-A", []byte("more"))
		x.ToBackend.Remove("X-B")
		x.ToBackend.Add("X-C", []byte("3"))
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		if got := sent(x); got != want {
			t.Errorf("%s: %s, want %s", settings, got, want)
		}
	}
	f("{}", "X-A=set X-A=more X-C=3")
	f("remove: {headers: [X-A]}", "X-C=3")
	f("rename: {headers: {X-A: X-N}}", "X-C=3 X-N=set X-N=more")
	f("rename: {headers: {X-B: X-N}}", "X-A=set X-A=more X-C=3")
	f("add: {headers: {X-A: no, X-B: yes}}", "X-A=set X-A=more X-C=3 X-B=yes")
	f("replace: {headers: {X-A: new, X-B: no}}", "X-C=3 X-A=new")
}

func TestQuery(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, query, want string) {
		t.Helper()
		x := w.Exchange("/?"+query, "X-A: a&b=c d")
		defer x.Close()
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		if got := string(x.BackendQuery()); got != want {
			t.Errorf("%s of %s: %s, want %s", settings, query, got, want)
		}
	}
	f("remove: {query: [a]}", "a=1&b=%41&%61=2&c", "b=%41&c")
	f("remove: {query: [a]}", "a=1", "")
	f("remove: {query: [z]}", "a=%41&&b", "a=%41&&b")
	f("rename: {query: {a: n m}}", "a=%41&b=2&a", "n%20m=%41&b=2&n%20m")
	f("rename: {query: {a: n}}", "n=0&a=1", "n=1")
	f("rename: {query: {z: n}}", "n=0&a=1", "n=0&a=1")
	f("replace: {query: {a: x}}", "b=1&a=1&c=1&a=2", "b=1&a=x&c=1")
	f("replace: {query: {a: [x, y]}}", "a=1&c=1", "a=x&a=y&c=1")
	f("replace: {query: {a: '${header.X-None}'}}", "a=1&c=1", "c=1")
	f("replace: {query: {z: x}}", "a=1", "a=1")
	f("add: {query: {a: x}}", "a=1", "a=1")
	f("add: {query: {b: x}}", "a=1", "a=1&b=x")
	f("add: {query: {b: x}}", "", "b=x")
	f("add: {query: {b: '${header.X-A}', c: '${header.X-None}'}}", "", "b=a%26b%3Dc%20d")
	f("append: {query: {a: [x, '${query.a}y']}}", "a=1%0a", "a=1%0a&a=x&a=1%0Ay")
	f("{remove: {query: [a]}, rename: {query: {b: a}}, replace: {query: {a: new}}, add: {query: {c: '3'}}, append: {query: {c: '4'}}}", "a=1&b=2", "a=new&c=3&c=4")
}

// A parameter that another policy hid stays hidden.
func TestQueryOfOthers(t *testing.T) {
	w := policytest.New(t, "")
	x := w.Exchange("/?key=secret&a=1")
	defer x.Close()
	x.SetUpstreamQuery([]byte("a=1"))
	if err := w.MustBuild(t, Definition, "add: {query: {b: '2'}}").Request(x); err != nil {
		t.Fatal(err)
	}
	if got := string(x.BackendQuery()); got != "a=1&b=2" {
		t.Error(got)
	}
}

func TestVaries(t *testing.T) {
	h := policytest.New(t, "").MustBuild(t, Definition, "{add: {headers: {X-A: '${header.x-b} ${request_id}'}, query: {c: ['${claim.sub}', '${client_ip}${path}']}}, append: {headers: {X-A: '${header.X-B}'}}}")
	if got := strings.Join(h.Varies, " "); got != "claim:sub header:X-B ip" {
		t.Error(got)
	}
}

// A route's own block can name the parameters of its paths only.
func TestParams(t *testing.T) {
	w := policytest.New(t, "")
	f := func(scope, settings, want string) {
		t.Helper()
		block, err := config.ParseBlock("b", settings)
		if err != nil {
			t.Fatal(err)
		}
		rc := &config.Route{Name: "users"}
		rc.Match.Paths = []string{"/users", "/users/{id}"}
		_, errs := Definition.Build(&policy.Build{World: w.World, Policy: "request_transform", Scope: scope, Path: "b", RouteConfig: rc}, block)
		if got := errs.Error(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s %s: %s, want %s", scope, settings, got, want)
		}
	}
	f("routes.users", "add: {headers: {X-A: '${path.id}'}}", "")
	f("routes.users", "add: {headers: {X-A: '${path.name}'}}", "add.headers.X-A: ${path.name}: no path of this route has {name}")
	f("global", "add: {headers: {X-A: '${path.name}'}}", "")
}

const everything = `
remove: {headers: [X-Gone], query: [gone]}
rename: {headers: {X-Old: X-New}, query: {old: new}}
replace: {headers: {X-A: '${header.x-b}'}, query: {a: '${client_ip}'}}
add: {headers: {X-C: 'c ${query.a} ${client_ip}'}, query: {c: c}}
append: {headers: {X-D: '${request_id}'}, query: {d: '${consumer}'}}
`

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, everything)
	query, id := []byte("a=%41&gone=1&old=2&b=3"), []byte("id-1")
	var fields []exchange.Field
	w.NoAllocations(t, "everything", func(x *exchange.Exchange) {
		x.Query, x.RequestID = query, id
		if fields == nil {
			policytest.Fields(x)
			fields = append(fields, x.Fields...)
		}
		x.Fields = append(x.Fields[:0], fields...)
		x.Identity.Authenticated, x.Identity.Subject = true, id
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		if string(x.BackendQuery()) != "a=192.0.2.1&new=2&b=3&c=c&d=id-1" {
			t.Fatalf("%s", x.BackendQuery())
		}
	}, "X-Gone: 1", "X-Old: 2", "X-A: 1", "X-B: 2", "Connection: X-Gone")
}
