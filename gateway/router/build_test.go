package router

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestBuildProblems(t *testing.T) {
	f := func(r Route, want string) {
		t.Helper()
		r.Name = "r"
		table, problems := Build([]Route{r})
		if table != nil || len(problems) != 1 || !strings.Contains(problems[0].Error(), want) {
			t.Errorf("problems %v, want %q", problems, want)
		}
	}
	path := func(p, want string) { t.Helper(); f(Route{Paths: []string{"/ok", p}}, "paths[1] "+want) }
	path("users", `"users" must start with "/"`)
	path("", `"" must start`)
	path("~(", `"~(" error parsing regexp`)
	path("~", `"~" is an empty pattern`)
	path("/a%2fb", `"/a%2fb" is a path that no request can have: path has an encoded slash`)
	path("/a/*", `"/a/*" has a "*"`)
	path("/{a}.json", `"/{a}.json" has a parameter that is not a whole segment`)
	path("/{a}/{a}", `"/{a}/{a}" has two parameters`)
	path("/{a...}/b", `"/{a...}/b" has {a...} before its end`)
	path("/{}", `"/{}" has a parameter whose name`)
	path("/{a}//b", `"/{a}//b" has an empty or a dot segment`)
	path("/{a}/%2f", `"/{a}/%2f" is a path that no request can have`)
	path("/{a-b}", `"/{a-b}" has a parameter whose name`)
	path("/{a}b{c}", `"/{a}b{c}" has a parameter that is not a whole segment`)
	path("/{"+strings.Join(numbered(MaxParams+1), "}/{")+"}", `"/{m0}/{m1}/{m2}/{m3}/{m4}/{m5}/{m6}/{m7}/{m8}/{m9}/{m10}/{m11}/{m12}/{m13}/{m14}/{m15}/{m16}" has more than 16 parameters`)
	path("=/{a}", `"=/{a}" is exact and has a parameter`)
	host := func(h, want string) { t.Helper(); f(Route{Hosts: []string{h}}, "hosts[0] "+want) }
	host("a.com:80", `"a.com:80" has a port`)
	host("[::1]:80", `"[::1]:80" has a port`)
	host("a:b", `"a:b" has a port`)
	host("a.*", `"a.*" has a "*"`)
	host("*a.com", `"*a.com" has a "*"`)
	host("http://a.com", `"http://a.com" is not a host name`)
	host("a.com/x", `"a.com/x" is not a host name`)
	host(strings.Repeat("a.", 130)+"b", "")
	host("münchen.de", `"münchen.de" has bytes`)
	host("a..b", `"a..b" has an empty label`)
	host("*.", ``)
	f(Route{Methods: []string{"G T"}}, `methods[0] "G T" is not a method`)
	f(Route{Schemes: []string{"ftp"}}, "schemes[0]")
	f(Route{Methods: numbered(55)}, `methods[54] "m54" is one method too many`)
	f(Route{Headers: map[string][]string{"X-A": {"~"}}}, "headers.X-A[0] is an empty pattern")
	f(Route{Headers: map[string][]string{"X-A": {"1", "~("}}}, "headers.X-A[1] error parsing")
	f(Route{Headers: map[string][]string{"X A": {"1"}}}, "headers.X A is not a field name")
	f(Route{Headers: map[string][]string{"X-A": {"1"}, "x-a": {"2"}}}, "headers.x-a is given twice")
	f(Route{Query: map[string][]string{"q": nil}}, "query.q has no values")
	f(Route{Query: map[string][]string{"": {"1"}}}, "query has an empty name")
	f(Route{Listeners: []string{""}}, "listeners[0] is empty")
	f(Route{SNIs: []string{"a b"}}, "snis[0]")
}

// numbered returns the names m0 to m(n-1).
func numbered(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint("m", i))
	}
	return all
}

// Every method has a bit of its own, up to the last that fits.
func TestMethods(t *testing.T) {
	all := append(slices.Clone(standardMethods), numbered(54)...)
	table := mustBuild(t, manyRoutes(len(all), func(i int) Route { return Route{Methods: all[i : i+1]} })...)
	for i, m := range all {
		wins(t, table, get(strings.ToUpper(m)+" h/"), fmt.Sprint("r", i))
	}
	if got := table.Match(get("m1 h/"), new(Result)); got != MethodNotAllowed {
		t.Errorf("methods are case-sensitive on the wire, got outcome %d", got)
	}
}

func TestLeadOf(t *testing.T) {
	f := func(expr, want string) {
		t.Helper()
		if got := leadOf(expr); got != want {
			t.Errorf("leadOf(%q) = %q, want %q", expr, got, want)
		}
	}
	f("^/api/v[0-9]+", "/api/v")
	f(`^/a\.b$`, "/a.b")
	f("^/ab?", "/a")
	f("^/a|^/b", "")
	f("(?i)^/a", "")
	f("(?m)^/a", "")
	f("/a", "")
	f("^", "")
	f("^(/a)", "")
	f("^[/]a", "/a")
	f("(", "")
}

func TestBuildConflicts(t *testing.T) {
	f := func(want int, routes ...Route) {
		t.Helper()
		for i := range routes {
			routes[i].ID, routes[i].Name = i, string(rune('a'+i))
		}
		_, problems := Build(routes)
		if len(problems) != want {
			t.Fatalf("%v, want %d problems", problems, want)
		}
		for _, p := range problems {
			if p.Other == "" || !strings.Contains(p.Error(), `"`+p.Route+`"`) || !strings.Contains(p.Error(), `"`+p.Other+`"`) {
				t.Errorf("%+v names no pair", p)
			}
		}
	}
	hosts := func(h ...string) Route { return Route{Hosts: h} }
	paths := func(p ...string) Route { return Route{Paths: p} }
	methods := func(m ...string) Route { return Route{Methods: m} }
	header := func(k string, v ...string) Route { return Route{Headers: map[string][]string{k: v}} }
	query := func(k string, v ...string) Route { return Route{Query: map[string][]string{k: v}} }

	f(1, Route{}, Route{})
	f(3, Route{}, Route{}, hosts("*"))
	f(0, Route{}, hosts("a"))
	f(1, hosts("a", "b"), hosts("B.", "c"))
	f(1, hosts("a", "b"), hosts("a", "b"))
	f(0, hosts("*.a"), hosts("*.b.a"))
	f(1, paths("/a", "/b"), paths("/b"))
	f(1, paths("/%61"), paths("/a"))
	f(0, paths("/a"), paths("=/a"), paths("/a/"), paths("/{a}"), paths("/{a}/"), paths("~/a"), Route{})
	f(1, paths("/x/{a}"), paths("/x/{b}"))
	f(1, paths("~a"), paths("~a"))
	f(0, paths("~a"), paths("~b"))
	f(0, paths("/a", "/a", "/{x}", "/{y}"))
	f(0, methods("GET"), methods("PUT"), Route{})
	f(1, methods("GET", "PUT"), methods("PUT", "POST"))
	f(0, header("X", "1"), header("x", "2"))
	f(1, header("X", "1", "2"), header("x", "2"))
	f(1, header("X", "*"), header("x", "2"))
	f(0, header("X", "~^1"), header("x", "2"))
	f(1, header("X", "~^1"), header("x", "12"))
	f(1, header("X", "~^1"), header("x", "~^2"))
	f(1, header("X", "1"), header("Y", "2"))
	f(1, header("X", "1"), header("X", "2"), header("X", "3"), header("X", "3", "4"), header("X", "5"))
	f(2, header("X", "1"), header("X", "2", "3"), header("X", "3", "1"), header("X", "4"), header("X", "5"))
	f(4, header("X", "1"), header("X", "2"), header("X", "3"), header("X", "4"), header("X", "*"))
	f(0, header("X", "1"), query("x", "1"), methods("GET"))
	f(0, query("x", "1"), query("x", "2"))
	f(1, query("x", "1"), query("y", "2"))
	f(0, Route{Listeners: []string{"a"}}, Route{Listeners: []string{"b"}})
	f(1, Route{Listeners: []string{"a"}}, Route{})
	f(0, Route{Schemes: []string{"http"}}, Route{Schemes: []string{"https"}})
	f(0, Route{SNIs: []string{"a.b"}}, Route{SNIs: []string{"*.a.b"}})
	f(1, Route{SNIs: []string{"x.a.b"}}, Route{SNIs: []string{"*.b"}})
	f(1, Route{SNIs: []string{"*.a.b"}}, Route{SNIs: []string{"*.b"}})
	f(0, Route{SNIs: []string{"*.a.b"}}, Route{SNIs: []string{"*.c.b", "d"}})
	f(1, Route{SNIs: []string{"*"}}, Route{SNIs: []string{"d"}})
}

func TestConflictsAreBounded(t *testing.T) {
	routes := make([]Route, 1000)
	for i := range routes {
		routes[i] = Route{ID: i, Name: fmt.Sprint(i), Paths: []string{"/same"}}
	}
	if _, problems := Build(routes); len(problems) != maxConflicts {
		t.Errorf("%d problems", len(problems))
	}
}
