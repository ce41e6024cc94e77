package router

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

func mustBuild(t testing.TB, routes ...Route) *Table {
	t.Helper()
	for i := range routes {
		routes[i].ID = i
		if routes[i].Name == "" {
			routes[i].Name = fmt.Sprintf("route%d", i)
		}
	}
	table, problems := Build(routes)
	if table == nil {
		t.Fatalf("Build: %v", problems)
	}
	return table
}

// get makes a request out of "METHOD host/path?query".
func get(text string) *Request {
	method, url, _ := strings.Cut(text, " ")
	url, query, _ := strings.Cut(url, "?")
	i := strings.IndexByte(url, '/')
	return &Request{Method: []byte(method), Host: []byte(url[:i]), Path: []byte(url[i:]), RawQuery: []byte(query), Headers: fields{}, Listener: "main", Scheme: "http"}
}

// wins checks which route gets a request; "" is 404, "405 …" has the allowed methods.
func wins(t *testing.T, table *Table, req *Request, want string) *Result {
	t.Helper()
	res := new(Result)
	var got string
	switch table.Match(req, res) {
	case Found:
		for i := range table.routes {
			if table.routes[i].id == res.ID {
				got = table.routes[i].name
			}
		}
	case MethodNotAllowed:
		got = "405 " + string(table.AppendAllow(nil, res))
	}
	if got != want {
		t.Errorf("%s: got %q, want %q", describe(req), got, want)
	}
	return res
}

func TestMatchPaths(t *testing.T) {
	table := mustBuild(t,
		Route{Name: "users", Paths: []string{"/api/v1/users"}},
		Route{Name: "exact", Paths: []string{"=/api/v1/users/me"}},
		Route{Name: "orders", Paths: []string{"/api/v1/users/{id}/orders"}},
		Route{Name: "mine", Paths: []string{"/api/v1/users/me/{what}"}},
		Route{Name: "files", Paths: []string{"/files/{bucket}/{rest...}"}},
		Route{Name: "slash", Paths: []string{"/dir/"}},
		Route{Name: "regex", Paths: []string{`~^/x/[0-9]+$`}},
		Route{Name: "café", Paths: []string{"/caf%C3%A9"}},
	)
	f := func(path, want string) {
		t.Helper()
		wins(t, table, get("GET h"+path), want)
	}
	f("/api/v1/users", "users")
	f("/api/v1/users/", "users")
	f("/api/v1/users/7", "users")
	f("/api/v1/usersX", "")
	f("/api/v1", "")
	f("/api/v1/users/me", "exact")
	f("/api/v1/users/me/", "users")
	f("/api/v1/users/7/orders", "orders")
	f("/api/v1/users/7/orders/", "users")
	f("/api/v1/users/7/orders/1", "users")
	f("/api/v1/users/me/orders", "mine")
	f("/files/b/x/y/", "files")
	f("/files/b/", "files")
	f("/files/b", "")
	f("/dir", "")
	f("/dir/", "slash")
	f("/dir/x", "slash")
	f("/x/12", "regex")
	f("/x/12/", "")
	f("/café/x", "café")
	f("/", "")
}

func TestMatchWithoutPathsComesLast(t *testing.T) {
	table := mustBuild(t, Route{Name: "none"}, Route{Name: "regex", Paths: []string{"~^/r"}})
	wins(t, table, get("GET h/r"), "regex")
	wins(t, table, get("GET h/x"), "none")
	star := get("OPTIONS h/")
	star.Path = []byte("*")
	if res := wins(t, table, star, "none"); res.Path != -1 {
		t.Errorf("Path is %d", res.Path)
	}
	table = mustBuild(t, Route{Name: "root", Paths: []string{"/"}}, Route{Name: "regex", Paths: []string{"~^/r"}})
	wins(t, table, get("GET h/r"), "root")
}

func TestMatchHosts(t *testing.T) {
	table := mustBuild(t,
		Route{Name: "exact", Hosts: []string{"API.example.com."}, Paths: []string{"/a"}},
		Route{Name: "wild", Hosts: []string{"*.example.com"}},
		Route{Name: "deep", Hosts: []string{"*.eu.example.com"}},
		Route{Name: "none", Paths: []string{"/a/b"}},
		Route{Name: "six", Hosts: []string{"[::1]"}},
	)
	f := func(url, want string) {
		t.Helper()
		wins(t, table, get("GET "+url), want)
	}
	f("api.example.com/a/b", "exact")
	f("api.example.com/x", "wild")
	f("x.y.example.com/", "wild")
	f("x.eu.example.com/", "deep")
	f("eu.example.com/", "wild")
	f("example.com/", "")
	f("example.com/a/b", "none")
	f("::1/", "six")
	f(strings.Repeat("a.", 200)+"example.com/a/b", "none")
}

func TestMatchConditions(t *testing.T) {
	p := []string{"/p"}
	table := mustBuild(t,
		Route{Name: "bare", Paths: p},
		Route{Name: "get", Paths: p, Methods: []string{"get"}},
		Route{Name: "query", Paths: p, Query: map[string][]string{"debug": {"1"}}},
		Route{Name: "v2", Paths: p, Headers: map[string][]string{"x-api-version": {"2"}}},
		Route{Name: "v3", Paths: p, Headers: map[string][]string{"X-Api-Version": {"3", "~^3\\."}}},
		Route{Name: "v2get", Paths: p, Headers: map[string][]string{"x-api-version": {"2"}}, Methods: []string{"GET"}},
		Route{Name: "canary", Paths: p, Headers: map[string][]string{"X-Api-Version": {"*"}, "X-Stage": {"canary", "beta"}}, Methods: []string{"GET"}},
	)
	f := func(text, headers, want string) {
		t.Helper()
		req := get(text)
		for h := range strings.FieldsSeq(headers) {
			k, v, _ := strings.Cut(h, "=")
			req.Headers.(fields)[k] = append(req.Headers.(fields)[k], v)
		}
		wins(t, table, req, want)
	}
	f("POST h/p", "", "bare")
	f("GET h/p", "", "get")
	f("POST h/p?debug=1", "", "query")
	f("GET h/p?a&debug=1", "", "query")
	f("GET h/p?debug=%31", "", "query")
	f("GET h/p?%64ebug=2&debug=1", "", "query")
	f("POST h/p?debug=11", "", "bare")
	f("POST h/p", "x-api-version=2", "v2")
	f("POST h/p?debug=1", "x-api-version=2", "v2")
	f("POST h/p", "x-api-version=9 x-api-version=3.1", "v3")
	f("GET h/p", "x-api-version=2", "v2get")
	f("GET h/p", "x-api-version=7 x-stage=beta", "canary")
	f("GET h/p", "x-stage=beta", "get")
	req := get("GET h/p")
	req.Headers = nil
	wins(t, table, req, "get")
}

func TestMatchListenerSchemeSNI(t *testing.T) {
	table := mustBuild(t,
		Route{Name: "main", Listeners: []string{"main"}, Schemes: []string{"http"}},
		Route{Name: "side", Listeners: []string{"side"}, SNIs: []string{"*.a.com"}},
		Route{Name: "tls", Schemes: []string{"https"}, Listeners: []string{"main"}},
	)
	f := func(listener, scheme, sni, want string) {
		t.Helper()
		req := get("GET h/")
		req.Listener, req.Scheme, req.SNI = listener, scheme, sni
		wins(t, table, req, want)
	}
	f("main", "http", "", "main")
	f("main", "https", "", "tls")
	f("side", "https", "x.a.com", "side")
	f("side", "https", "a.com", "")
}

func TestMethodNotAllowed(t *testing.T) {
	table := mustBuild(t,
		Route{Paths: []string{"/a"}, Methods: []string{"GET", "PURGE"}},
		Route{Paths: []string{"/a"}, Methods: []string{"PUT"}, Headers: map[string][]string{"X": {"1"}}},
		Route{Paths: []string{"/"}, Methods: []string{"POST"}},
		Route{Name: "any", Paths: []string{"/a/any"}},
	)
	f := func(text, want string) {
		t.Helper()
		wins(t, table, get(text), want)
	}
	f("HEAD h/a", "405 GET, POST, PURGE")
	f("OPTIONS h/", "405 POST")
	f("UNKNOWN h/a", "405 GET, POST, PURGE")
	f("PUT h/a/any", "any")
	wins(t, mustBuild(t, Route{Methods: []string{"PUT"}, Headers: map[string][]string{"X": {"1"}}}), get("GET h/"), "")
}

func TestMatchPrefixAndParams(t *testing.T) {
	f := func(pattern, path string, prefix int, params ...string) {
		t.Helper()
		table := mustBuild(t, Route{Name: "r", Paths: []string{"=/never", pattern}})
		req := get("GET h" + path)
		res := wins(t, table, req, "r")
		var got []string
		for i := range res.Params {
			got = append(got, string(res.Param(req.Path, i)))
		}
		if res.Path != 1 || res.Prefix != prefix || !slices.Equal(got, params) || len(PathParams(pattern)) != len(params) {
			t.Errorf("%s on %s: path %d, prefix %d, params %q", pattern, path, res.Path, res.Prefix, got)
		}
	}
	f("/a/b", "/a/b/c", 4)
	f("/a/b", "/a/b", 4)
	f("/a/", "/a/b", 2)
	f("/", "/a/b", 0)
	f("=/a/", "/a/", 3)
	f("~^/a", "/a/b", 0)
	f("/u/{id}/o/{n}/", "/u/7/o/x%y/", 11, "7", "x%y")
	f("/f/{b}/{r...}", "/f/1/2/3", 4, "1", "2/3")
	f("/f/{b}/{r...}", "/f/1/", 4, "1", "")
	many := strings.Repeat("/{p}", MaxParams)
	for i := range MaxParams {
		many = strings.Replace(many, "{p}", fmt.Sprintf("{p%d}", i), 1)
	}
	var values []string
	for i := range MaxParams {
		values = append(values, fmt.Sprint(i+10))
	}
	f(many, "/"+strings.Join(values, "/"), 3*MaxParams, values...)
}

// A template that fits halfway must not leave its parameters to the one that wins.
func TestParamsOfAbandonedTemplate(t *testing.T) {
	table := mustBuild(t,
		Route{Name: "long", Paths: []string{"/{a}/x/{b}/end"}},
		Route{Name: "short", Paths: []string{"/{c}/{rest...}"}},
	)
	req := get("GET h/1/x/2/other")
	res := wins(t, table, req, "short")
	if string(res.Param(req.Path, 0)) != "1" || string(res.Param(req.Path, 1)) != "x/2/other" {
		t.Errorf("spans %v", res.Spans[:2])
	}
}

// 100,000 requests against random tables; and where Build saw no conflict, no two routes may tie.
func TestMatchAgainstNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tables, perTable := 2000, 50
	if testing.Short() {
		tables = 200
	}
	outcomes := map[string]int{}
	for range tables {
		routes := randomRoutes(r)
		table, problems := build(routes)
		if len(table.routes) != len(routes) {
			t.Fatal(problems)
		}
		n := naive{routes}
		for range perTable {
			req := randomRequest(r)
			if s := disagreement(table, n, req); s != "" {
				t.Fatalf("%s\n%s\nroutes %+v", describe(req), s, routes)
			}
			if len(problems) == 0 {
				if a, b := tied(routes, req); a != "" {
					t.Fatalf("%s: %s and %s tie without a conflict\nroutes %+v", describe(req), a, b, routes)
				}
			}
			m, allow := n.match(req)
			switch {
			case m != nil:
				outcomes[fmt.Sprint("found by ", m.key[len(m.key)-4] != 0, len(m.params) > 0)]++
			default:
				outcomes[fmt.Sprint("allow ", len(allow) > 0)]++
			}
		}
	}
	t.Log(outcomes)
}

// tied finds two routes of equal right to a request that has one value per name.
func tied(routes []Route, req *Request) (string, string) {
	for _, vs := range req.Headers.(fields) {
		if len(vs) > 1 {
			return "", ""
		}
	}
	if strings.Count(string(req.RawQuery), "=") > 1 {
		return "", ""
	}
	seen := map[string]string{}
	for i := range routes {
		m, ok := naiveOne(&routes[i], req)
		if !ok || len(routes[i].Methods) > 0 && !slices.Contains(routes[i].Methods, string(req.Method)) {
			continue
		}
		key := fmt.Sprint(m.key)
		if strings.Contains(m.ties, "~") {
			key += strings.Fields(m.ties)[1]
		}
		if seen[key] != "" {
			return seen[key], routes[i].Name
		}
		seen[key] = routes[i].Name
	}
	return "", ""
}

func manyRoutes(n int, shape func(i int) Route) []Route {
	routes := make([]Route, n)
	for i := range routes {
		routes[i] = shape(i)
		routes[i].ID, routes[i].Name = i, fmt.Sprint("r", i)
	}
	return routes
}

var shapes = []struct {
	name    string
	shape   func(i int) Route
	request func(i int) *Request
}{
	{"prefixes", func(i int) Route { return Route{Paths: []string{fmt.Sprintf("/api/v1/service%d", i)}} },
		func(i int) *Request { return get(fmt.Sprintf("GET h/api/v1/service%d/items/7", i)) }},
	{"exact", func(i int) Route { return Route{Paths: []string{fmt.Sprintf("=/api/v1/service%d/list", i)}} },
		func(i int) *Request { return get(fmt.Sprintf("GET h/api/v1/service%d/list", i)) }},
	{"templates", func(i int) Route { return Route{Paths: []string{fmt.Sprintf("/api/{id}/action%d/{n}", i)}} },
		func(i int) *Request { return get(fmt.Sprintf("GET h/api/77/action%d/8", i)) }},
	{"templates below", func(i int) Route {
		return Route{Paths: []string{fmt.Sprintf("/api/service%d/{id}", i), "/api/{any}/only" + fmt.Sprint(i)}}
	},
		func(i int) *Request { return get(fmt.Sprintf("GET h/api/service%d/8", i)) }},
	{"hosts", func(i int) Route { return Route{Hosts: []string{fmt.Sprintf("tenant%d.example.com", i)}} },
		func(i int) *Request { return get(fmt.Sprintf("GET tenant%d.example.com/a/b", i)) }},
	{"wildcards", func(i int) Route {
		return Route{Hosts: []string{fmt.Sprintf("*.tenant%d.example.com", i)}, Paths: []string{"/a"}}
	},
		func(i int) *Request { return get(fmt.Sprintf("GET x.tenant%d.example.com/a/b", i)) }},
	{"headers", func(i int) Route {
		return Route{Paths: []string{"/a"}, Headers: map[string][]string{"X-Tenant": {fmt.Sprint("t", i)}}}
	},
		func(i int) *Request {
			req, h := get("GET h/a/b"), new(fasthttp.RequestHeader)
			h.Set("X-Tenant", fmt.Sprint("t", i))
			req.Headers = h
			return req
		}},
}

func TestStepsDoNotGrowWithRoutes(t *testing.T) {
	steps := func(table *Table, req *Request, want Outcome) int {
		t.Helper()
		var res Result
		outcome, n := table.match(req, &res)
		if outcome != want {
			t.Errorf("%s: outcome %d", describe(req), outcome)
		}
		return n
	}
	for _, s := range shapes {
		small, large := mustBuild(t, manyRoutes(10, s.shape)...), mustBuild(t, manyRoutes(10_000, s.shape)...)
		for i := range 10 {
			a, b := steps(small, s.request(i), Found), steps(large, s.request(i*997), Found)
			if b > a || a > 12 {
				t.Errorf("%s: %d steps among 10 routes, %d among 10,000", s.name, a, b)
			}
		}
		a, b := steps(small, s.request(20_000), NotFound), steps(large, s.request(20_000), NotFound)
		if b > a {
			t.Errorf("%s, not found: %d steps among 10 routes, %d among 10,000", s.name, a, b)
		}
	}
}

// A path of thousands of segments costs what the tree is deep, not what the path is long.
func TestStepsOfLongPath(t *testing.T) {
	table := mustBuild(t, Route{Paths: []string{"/a/a"}}, Route{Paths: []string{"/{x}/{y}/a"}}, Route{Paths: []string{"/a/{x}/b"}})
	req := get("GET h/" + strings.Repeat("a/", 10_000))
	if _, n := table.match(req, new(Result)); n > 20 {
		t.Errorf("%d steps", n)
	}
	wild := mustBuild(t, Route{Hosts: []string{"*.a.a"}})
	req = get("GET " + strings.Repeat("a.", 120) + "a/")
	if _, n := wild.match(req, new(Result)); n > 8 {
		t.Errorf("%d steps", n)
	}
}

func TestHeaderIndexFallsBack(t *testing.T) {
	table := mustBuild(t, manyRoutes(100, func(i int) Route {
		r := Route{Paths: []string{"/a"}, Headers: map[string][]string{"X-Tenant": {fmt.Sprint("t", i)}}}
		switch i {
		case 98:
			r.Headers, r.Methods = map[string][]string{"X-Other": {"~."}}, []string{"GET"}
		case 99:
			r.Headers, r.Methods = map[string][]string{"X-Other": {"*"}}, []string{"PUT"}
		}
		return r
	})...)
	f := func(method, want string, headers fields) {
		t.Helper()
		req := get(method + " h/a")
		req.Headers = headers
		wins(t, table, req, want)
	}
	f("GET", "r7", fields{"x-tenant": {"t7"}})
	f("GET", "r98", fields{"x-tenant": {"t7"}, "x-other": {"1"}})
	f("PUT", "r99", fields{"x-other": {"1"}})
	f("POST", "405 GET, PUT", fields{"x-other": {"1"}})
	f("GET", "r12", fields{"x-tenant": {"-", "t12", "t5"}})
	f("GET", "r12", fields{"x-tenant": {"-", "-", "-", "-", "t12"}})
	f("GET", "", fields{"x-tenant": {"-"}})
}

func TestExplain(t *testing.T) {
	table := mustBuild(t,
		Route{Name: "win", Hosts: []string{"a.com"}, Paths: []string{"/api/v1"}},
		Route{Name: "short", Hosts: []string{"a.com"}, Paths: []string{"/api"}},
		Route{Name: "wild", Hosts: []string{"*.com"}, Paths: []string{"=/api/v1/x"}},
		Route{Name: "v2", Hosts: []string{"a.com"}, Paths: []string{"/api/v1"}, Headers: map[string][]string{"X-Api-Version": {"2"}}},
		Route{Name: "post", Hosts: []string{"a.com"}, Paths: []string{"/api/v1"}, Methods: []string{"POST", "PUT"}},
		Route{Name: "other", Hosts: []string{"b.com"}, Paths: []string{"/api/v1"}},
		Route{Name: "far", Hosts: []string{"a.com"}, Paths: []string{"/api/v2"}},
	)
	var got []string
	for _, c := range table.Explain(get("GET a.com/api/v1/x")) {
		got = append(got, c.Name+": "+c.Failed+": "+c.Reason)
	}
	want := []string{
		"win: : the most specific route that matches",
		`short: : less specific than "win": path /api comes after /api/v1`,
		`wild: : less specific than "win": host *.com comes after a.com`,
		"v2: header: header X-Api-Version wants \"2\" and is absent",
		"post: method: method GET is not POST or PUT",
		"other: host: host a.com does not match b.com",
		"far: path: path /api/v1/x does not match /api/v2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestExplainListsTheNearest(t *testing.T) {
	table := mustBuild(t, manyRoutes(1000, shapes[0].shape)...)
	all := table.Explain(get("GET h/api/v1/service777x"))
	if len(all) != maxNear || all[0].Failed != "path" || all[0].Name != "r777" {
		t.Errorf("%d candidates, first %+v", len(all), all[0])
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), "a.com", "/a/b", "q=1", "GET")
	f.Add(uint64(2), "x.b.a.com:80", "/a/%62//c/../", "z+z=4+%26", "PURGE")
	f.Fuzz(func(t *testing.T, seed uint64, host, path, query, method string) {
		r := rand.New(rand.NewPCG(seed, 0))
		routes := randomRoutes(r)
		table, _ := build(routes)
		req := randomRequest(r)
		canonical, err := Canonical(nil, []byte(path))
		if err != nil {
			return
		}
		req.Host, req.Path, req.Method = NormalizeHost(nil, []byte(host)), canonical, []byte(method)
		if len(req.Host) > maxHost {
			return
		}
		if !strings.ContainsAny(query, ";%") {
			req.RawQuery = []byte(query)
		}
		if s := disagreement(table, naive{routes}, req); s != "" {
			t.Fatalf("%s\n%s\nroutes %+v", describe(req), s, routes)
		}
	})
}

// countMallocs returns the allocations of 10,000 calls: AllocsPerRun rounds down.
func countMallocs(f func()) uint64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10_000 {
		f()
	}
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

func TestMatchAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	table := mustBuild(t,
		Route{Hosts: []string{"*.example.com"}, Paths: []string{"/api/{id}/{rest...}"}, Methods: []string{"GET"},
			Headers: map[string][]string{"X-Stage": {"~^b"}}, Query: map[string][]string{"q": {"~^a b$"}}},
		Route{Paths: []string{"~^/x/[0-9]+$"}},
		Route{Paths: []string{"/only"}, Methods: []string{"PURGE"}},
	)
	f := func(text string, want Outcome) {
		t.Helper()
		req, res, allow := get(text), new(Result), make([]byte, 0, 64)
		h := new(fasthttp.RequestHeader)
		h.Set("X-Stage", "beta")
		req.Headers = h
		n := countMallocs(func() {
			if table.Match(req, res) != want {
				t.Fatal(text)
			}
			allow = table.AppendAllow(allow[:0], res)
		})
		if n > 5 { // the runtime's own
			t.Errorf("%s: %d allocations in 10,000", text, n)
		}
	}
	f("GET a.example.com/api/7/a/b?x&q=a+b", Found)
	f("GET h/x/123", Found)
	f("GET h/nothing/here", NotFound)
	f("GET h/only", MethodNotAllowed)
}
