package router

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

func kongTable(t *testing.T, routes ...KongRoute) *KongTable {
	t.Helper()
	for i := range routes {
		routes[i].ID = i
	}
	table, problems := BuildKong(routes)
	if len(problems) > 0 {
		t.Fatal(problems[0].Message)
	}
	return table
}

func kongRequest(method, scheme, host, path string, headers ...string) *Request {
	h := &fasthttp.RequestHeader{}
	for i := 0; i < len(headers); i += 2 {
		h.Add(headers[i], headers[i+1])
	}
	return &Request{Method: []byte(method), Scheme: scheme, Host: []byte(host), Path: []byte(path), Headers: h}
}

func TestKongsPriorities(t *testing.T) {
	r := func(name string, priority int, hosts, paths, methods string, headers map[string][]string) KongRoute {
		split := func(s string) []string {
			if s == "" {
				return nil
			}
			return strings.Split(s, " ")
		}
		return KongRoute{Route: Route{Name: name, Hosts: split(hosts), Paths: split(paths), Methods: split(methods), Headers: headers}, RegexPriority: priority}
	}
	f := func(want string, req *Request, routes ...KongRoute) {
		t.Helper()
		var res Result
		got := ""
		if kongTable(t, routes...).Match(req, &res) == Found {
			got = routes[res.ID].Name
		}
		if got != want {
			t.Errorf("%s %s: route %q, want %q", req.Host, req.Path, got, want)
		}
	}
	get := func(host, path string, headers ...string) *Request {
		return kongRequest("GET", "http", host, path, headers...)
	}
	short, long := r("short", 0, "", "/a", "", nil), r("long", 0, "", "/a/b", "", nil)
	f("long", get("h", "/a/b/c"), short, long)
	f("short", get("h", "/ab"), short, long) // a prefix of bytes
	f("", get("h", "/b"), short, long)
	// More kinds of conditions before longer paths.
	hosted := r("hosted", 0, "h.test", "/", "", nil)
	f("hosted", get("h.test", "/a/b"), short, long, hosted)
	f("long", get("other", "/a/b"), short, long, hosted)
	get2 := r("get", 0, "", "/a", "GET", nil)
	f("get", get("h", "/a/b"), long, get2)
	f("long", kongRequest("POST", "http", "h", "/a/b"), long, get2)
	// Hosts without wildcards first, whatever the path.
	wild := r("wild", 0, "*.h.test", "/a/b", "", nil)
	exact := r("exact", 0, "x.h.test", "/a", "", nil)
	f("exact", get("x.h.test", "/a/b"), wild, exact)
	f("wild", get("y.h.test", "/a/b"), wild, exact)
	f("right", get("api.net", "/"), r("right", 0, "api.*", "", "", nil))
	// Patterns before prefixes, the higher priority first.
	low, high := r("low", 1, "", "~/a/.*", "", nil), r("high", 2, "", "~/a/b$", "", nil)
	f("high", get("h", "/a/b"), long, low, high)
	f("low", get("h", "/a/b/c"), long, low, high)
	f("", get("h", "/x/a/b"), low, high) // anchored
	// More header names first; values without regard to case.
	one := r("one", 0, "", "", "", map[string][]string{"x-a": {"1"}})
	two := r("two", 0, "", "", "", map[string][]string{"x-a": {"1"}, "x-b": {"~^beta"}})
	f("two", get("h", "/", "X-A", "1", "X-B", "BETA-2"), one, two)
	f("one", get("h", "/", "X-A", "1"), one, two)
	// Equal ones by name.
	f("a", get("h", "/p"), r("b", 0, "", "/p", "", nil), r("a", 0, "", "/p", "", nil))
	// Names in the handshake count for https alone.
	sni := KongRoute{Route: Route{Name: "sni", SNIs: []string{"s.test"}}}
	f("sni", kongRequest("GET", "http", "h", "/"), sni)
	f("", kongRequest("GET", "https", "h", "/"), sni)
}

func TestKongsPatternsHaveParts(t *testing.T) {
	table := kongTable(t, KongRoute{Route: Route{Name: "r", Paths: []string{`~/users/(?<id>\d+)/(x|y)`}}})
	var res Result
	req := kongRequest("GET", "http", "h", "/users/42/y/z")
	if table.Match(req, &res) != Found || res.Prefix != len("/users/42/y") || res.Params != 2 {
		t.Fatalf("%+v", res)
	}
	if id, second := string(res.Param(req.Path, 0)), string(res.Param(req.Path, 1)); id != "42" || second != "y" {
		t.Errorf("parts %q and %q", id, second)
	}
	if names := KongParams(`~/users/(?<id>\d+)/(x|y)`); strings.Join(names, " ") != "id 2" {
		t.Errorf("names %q", names)
	}
}

// What the indexes answer is what trying every entry in order answers.
func TestKongsTableIsAListInOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(all ...string) string { return all[rng.IntN(len(all))] }
	for range 300 {
		var routes []KongRoute
		for i := range 1 + rng.IntN(12) {
			r := KongRoute{Route: Route{Name: string(rune('a' + i))}, RegexPriority: rng.IntN(3)}
			for range rng.IntN(3) {
				r.Hosts = append(r.Hosts, pick("a.test", "b.test", "*.test", "a.*"))
			}
			for range rng.IntN(3) {
				r.Paths = append(r.Paths, pick("/", "/a", "/a/", "/a/b", "/ab", "~/a/.", "~/.*b$"))
			}
			if rng.IntN(3) == 0 {
				r.Methods = []string{pick("GET", "POST")}
			}
			if rng.IntN(4) == 0 {
				r.Headers = map[string][]string{"x-a": {pick("1", "2", "~^1")}}
			}
			routes = append(routes, r)
		}
		table := kongTable(t, routes...)
		for range 40 {
			req := kongRequest(pick("GET", "POST"), "http", pick("a.test", "b.test", "c.test", "a.net"), pick("/", "/a", "/a/", "/a/b", "/abc", "/b", "/a/b/c"), "X-A", pick("1", "2", "12"))
			want := -1
			for i := range table.entries {
				e := &table.entries[i]
				covers := e.path < 0 || e.pattern == nil && strings.HasPrefix(string(req.Path), e.prefix) || e.pattern != nil && regexp.MustCompile(e.pattern.String()).Match(req.Path)
				if covers && e.route.accepts(req) {
					want = e.route.id
					break
				}
			}
			var res Result
			table.Match(req, &res)
			if res.ID != want {
				t.Fatalf("%s %s %s: route %d, want %d of %+v", req.Method, req.Host, req.Path, res.ID, want, routes)
			}
			if shown := table.Explain(req); want >= 0 && (!shown[0].Won || shown[0].ID != want) {
				t.Fatalf("explained %+v, want %d", shown[0], want)
			}
		}
	}
}

func TestKongsMatchAllocatesNothing(t *testing.T) {
	table := kongTable(t,
		KongRoute{Route: Route{Name: "a", Hosts: []string{"h.test"}, Paths: []string{"/a"}}},
		KongRoute{Route: Route{Name: "b", Paths: []string{"/a/b"}, Methods: []string{"GET"}}},
		KongRoute{Route: Route{Name: "c", Paths: []string{"/"}}},
	)
	req := kongRequest("GET", "http", "x.test", "/a/b/c")
	var res Result
	if n := testing.AllocsPerRun(1000, func() { table.Match(req, &res) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
