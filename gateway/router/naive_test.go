package router

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// naive is the matching rules once more, written for clarity alone: every route against
// every request, no shared code with the Table.
type naive struct{ routes []Route }

type naiveMatch struct {
	route  *Route
	path   int
	prefix int
	params []string
	key    []int // smaller is more specific
	ties   string
}

func (n naive) match(req *Request) (best *naiveMatch, allow []string) {
	var all []naiveMatch
	for i := range n.routes {
		r := &n.routes[i]
		m, ok := naiveOne(r, req)
		if !ok {
			continue
		}
		if len(r.Methods) > 0 && !slices.Contains(r.Methods, string(req.Method)) {
			allow = append(allow, r.Methods...)
			continue
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		slices.Sort(allow)
		return nil, slices.Compact(allow)
	}
	slices.SortFunc(all, func(a, b naiveMatch) int {
		return cmp.Or(slices.Compare(a.key, b.key), strings.Compare(a.ties, b.ties))
	})
	return &all[0], nil
}

// naiveOne checks everything but the method.
func naiveOne(r *Route, req *Request) (m naiveMatch, ok bool) {
	hostKey, ok := naiveHosts(r.Hosts, string(req.Host))
	if !ok {
		return m, false
	}
	if len(r.Listeners) > 0 && !slices.Contains(r.Listeners, req.Listener) || len(r.Schemes) > 0 && !slices.Contains(r.Schemes, req.Scheme) {
		return m, false
	}
	if len(r.SNIs) > 0 {
		if _, ok := naiveHosts(r.SNIs, req.SNI); !ok {
			return m, false
		}
	}
	for name, want := range r.Headers {
		if !naiveValues(want, req.Headers.(fields)[strings.ToLower(name)]) {
			return m, false
		}
	}
	query, err := url.ParseQuery(string(req.RawQuery))
	if err != nil {
		panic(err)
	}
	for name, want := range r.Query {
		if !naiveValues(want, query[name]) {
			return m, false
		}
	}
	path := string(req.Path)
	if len(r.Paths) == 0 {
		m, ok = naiveMatch{path: -1, key: []int{9}}, true
	} else {
		ok = false
	}
	for i, p := range r.Paths {
		k, found := naivePath(p, path)
		k.path = i
		if found && (!ok || cmp.Or(slices.Compare(k.key, m.key), strings.Compare(k.ties, m.ties)) < 0) {
			m, ok = k, true
		}
	}
	methods := min(len(r.Methods), 1)
	m.route = r
	m.key = slices.Concat(hostKey, m.key, []int{99, -len(r.Headers) - len(r.Query) - methods, -len(r.Headers), -len(r.Query)})
	m.ties += r.Name
	return m, ok
}

func naiveHosts(patterns []string, host string) (key []int, ok bool) {
	key, ok = []int{2}, len(patterns) == 0
	for _, p := range patterns {
		k := []int{0}
		if suffix, wild := strings.CutPrefix(p, "*"); wild {
			if len(host) <= len(suffix) || !strings.HasSuffix(host, suffix) {
				continue
			}
			k = []int{1, -len(suffix)}
		} else if p != host {
			continue
		}
		if !ok || slices.Compare(k, key) < 0 {
			key, ok = k, true
		}
	}
	return key, ok
}

func naiveValues(want, have []string) bool {
	return slices.ContainsFunc(have, func(v string) bool {
		return slices.ContainsFunc(want, func(w string) bool {
			if w[0] == '~' {
				return regexp.MustCompile(w[1:]).MatchString(v)
			}
			return w == "*" || w == v
		})
	})
}

func naivePath(p, path string) (m naiveMatch, ok bool) {
	switch {
	case p[0] == '~':
		lead := "B" // the generator's expressions have no literal start but "^/"
		if strings.HasPrefix(p, "~^/") {
			lead = "A"
		}
		m.key, m.ties = []int{4}, fmt.Sprintf("%s%03d %s ", lead, 999-len(p), p)
		return m, regexp.MustCompile(p[1:]).MatchString(path)
	case p[0] == '=':
		m.key, m.prefix = []int{0}, len(path)
		return m, p[1:] == path
	case strings.Contains(p, "{"):
		m.key, m.prefix = []int{1}, len(path)
		want, have := strings.Split(p, "/"), strings.Split(path, "/")
		for i, w := range want {
			switch {
			case strings.HasSuffix(w, "...}"):
				if len(have) <= i {
					return m, false
				}
				tail := strings.Join(have[i:], "/")
				m.params, m.key, m.prefix = append(m.params, tail), append(m.key, 2), len(path)-len(tail)-1
				return m, true
			case i >= len(have):
				return m, false
			case strings.HasPrefix(w, "{"):
				if have[i] == "" {
					return m, false
				}
				m.params, m.key = append(m.params, have[i]), append(m.key, 1)
			case w != have[i]:
				return m, false
			default:
				m.key = append(m.key, 0)
			}
		}
		return m, len(want) == len(have)
	case strings.HasSuffix(p, "/"):
		m.key, m.prefix = []int{2, -len(p)}, len(p)-1
		return m, strings.HasPrefix(path, p)
	}
	m.key, m.prefix = []int{2, -len(p)}, len(p)
	return m, strings.HasPrefix(path+"/", p+"/")
}

// fields are headers by lower-case name.
type fields map[string][]string

func (f fields) PeekAll(name string) (values [][]byte) {
	for _, v := range f[strings.ToLower(name)] {
		values = append(values, []byte(v))
	}
	return values
}

func pick(r *rand.Rand, all ...string) string { return all[r.IntN(len(all))] }

// some returns up to n distinct values, often none.
func some(r *rand.Rand, n int, all ...string) (out []string) {
	for range r.IntN(n + 1) {
		if v := pick(r, all...); !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

func randomPath(r *rand.Rand, seg ...string) string {
	var b strings.Builder
	for range r.IntN(5) {
		b.WriteString("/" + pick(r, seg...))
	}
	if b.Len() == 0 || r.IntN(5) == 0 {
		b.WriteByte('/')
	}
	return b.String()
}

func randomRoute(r *rand.Rand, id int) Route {
	rt := Route{ID: id, Name: fmt.Sprintf("r%05d", r.IntN(1000)*100+id)}
	if r.IntN(2) == 0 {
		rt.Hosts = some(r, 2, "com", "a.com", "b.a.com", "c.b.a.com", "*.com", "*.a.com", "*.b.a.com")
	}
	for range r.IntN(4) {
		var p string
		switch r.IntN(8) {
		case 0:
			p = pick(r, "~^/", "~a", "~b/c$", "~^/[ab]/", "~(a|b)/?$")
		case 1, 2:
			p = "=" + randomPath(r, "a", "b", "c")
		case 3, 4, 5:
			p = randomPath(r, "a", "b", "{}", "{}")
			if strings.Contains(p, "{}") && r.IntN(4) == 0 {
				p = strings.TrimSuffix(p, "/") + "/{rest...}"
			}
			for i := 0; strings.Contains(p, "{}"); i++ {
				p = strings.Replace(p, "{}", fmt.Sprintf("{p%d_%d}", i, r.IntN(3)), 1)
			}
		default:
			p = randomPath(r, "a", "b", "c")
		}
		rt.Paths = append(rt.Paths, p)
	}
	if r.IntN(3) == 0 {
		rt.Methods = some(r, 2, "GET", "POST", "PURGE", "HEAD")
	}
	values := func() []string { return append(some(r, 1, "1", "2"), pick(r, "1", "2", "3", "*", "~^[23]$", "4 &")) }
	for _, name := range some(r, 2, "X-One", "x-two") {
		if rt.Headers == nil {
			rt.Headers = map[string][]string{}
		}
		rt.Headers[name] = values()
	}
	if r.IntN(3) == 0 {
		rt.Query = map[string][]string{pick(r, "q", "z z"): values()}
	}
	if r.IntN(5) == 0 {
		rt.Listeners = some(r, 2, "main", "side")
		rt.Schemes = some(r, 1, "http", "https")
		rt.SNIs = some(r, 1, "a.com", "*.a.com")
	}
	return rt
}

// randomRoutes now and then differ in nothing but conditions.
func randomRoutes(r *rand.Rand) []Route {
	routes := make([]Route, 1+r.IntN(12))
	alike := r.IntN(4) == 0
	for i := range routes {
		routes[i] = randomRoute(r, i)
		if alike {
			routes[i].Hosts, routes[i].Paths = nil, []string{"/", "=/a"}
		}
	}
	return routes
}

func randomRequest(r *rand.Rand) *Request {
	h := fields{}
	for _, name := range some(r, 2, "x-one", "x-two") {
		h[name] = append(some(r, 1, "1", "2"), pick(r, "1", "2", "3", "9", "4 &"))
	}
	q := url.Values{}
	for _, name := range some(r, 2, "q", "z z", "other") {
		q[name] = append(some(r, 1, "1", "2"), pick(r, "1", "2", "3", "9", "4 &", ""))
	}
	return &Request{
		Host:     []byte(pick(r, "com", "a.com", "b.a.com", "c.b.a.com", "x.c.b.a.com", "x.com", "org", "", ".com")),
		Path:     []byte(randomPath(r, "a", "b", "c", "aa")),
		RawQuery: []byte(q.Encode()),
		Method:   []byte(pick(r, "GET", "POST", "PURGE", "HEAD", "X")),
		Headers:  h,
		Listener: pick(r, "main", "side"),
		Scheme:   pick(r, "http", "https"),
		SNI:      pick(r, "", "a.com", "b.a.com"),
	}
}

// disagreement returns how a Table and the naive matcher differ on a request, if they do.
func disagreement(t *Table, n naive, req *Request) string {
	var res Result
	outcome := t.Match(req, &res)
	want, allow := n.match(req)
	if want == nil {
		got := strings.Split(string(t.AppendAllow(nil, &res)), ", ")
		slices.Sort(got)
		switch {
		case len(allow) == 0 && outcome != NotFound:
			return fmt.Sprintf("outcome %d, route %d; want none", outcome, res.ID)
		case len(allow) > 0 && (outcome != MethodNotAllowed || !slices.Equal(got, allow)):
			return fmt.Sprintf("outcome %d, allow %q; want allow %q", outcome, got, allow)
		}
		return ""
	}
	if outcome != Found || res.ID != want.route.ID || res.Path != want.path || res.Prefix != want.prefix {
		return fmt.Sprintf("outcome %d, route %d, path %d, prefix %d; want %+v", outcome, res.ID, res.Path, res.Prefix, *want)
	}
	var params []string
	for i := range res.Params {
		params = append(params, string(res.Param(req.Path, i)))
	}
	if !slices.Equal(params, want.params) {
		return fmt.Sprintf("parameters %q; want %q", params, want.params)
	}
	for i, c := range t.Explain(req) {
		if c.Won != (i == 0) || i == 0 && c.ID != res.ID {
			return fmt.Sprintf("Explain has %+v at %d; want route %d first", c, i, res.ID)
		}
	}
	return ""
}

func describe(req *Request) string {
	return fmt.Sprintf("%s %s%s?%s %v on %s %s sni %q", req.Method, req.Host, bytes.Clone(req.Path), req.RawQuery, req.Headers, req.Listener, req.Scheme, req.SNI)
}
