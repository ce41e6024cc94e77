package router

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// KongRoute is a route as Kong's router (traditional_compatible) takes it.
type KongRoute struct {
	Route
	// RegexPriority orders patterns, the higher first.
	RegexPriority int
}

// KongTable finds routes as Kong's router does, for configurations in compatibility with it. What makes it another table:
//
//   - A path is a prefix by bytes: "/a" takes "/ab" too. "~/regex" is anchored at its start.
//   - Routes with more kinds of conditions (methods, hosts, headers, SNIs, paths) go first; then those whose hosts have no
//     wildcard, more header names, patterns before prefixes, regex_priority, longer prefixes. What is equal then is
//     decided by the routes' names, since Kong decides it by ids.
//   - A wildcard may stand at either end of a host. Values of headers are compared without regard to case.
//   - SNIs are a condition for https alone. No method is ever what was missing: the outcome is Found or NotFound.
//
// It never changes; Match takes no lock and allocates nothing, but for the parts of a pattern that matched.
type KongTable struct {
	routes  []kongRoute
	entries []kongEntry // in the order of their right to a request
	exact   map[string]*kongHosts
	loose   *kongHosts // of wildcards; each entry asks for its hosts itself
	none    *kongHosts
}

type kongRoute struct {
	id      int
	name    string
	hosts   []string
	methods []string
	headers []condition
	snis    []hostPattern
	weight  int
	plain   bool // all hosts are without wildcards
}

// kongEntry is a route with one of its paths.
type kongEntry struct {
	route    *kongRoute
	path     int // its index, -1 without paths
	prefix   string
	pattern  *regexp.Regexp
	names    []string // of the parts of the pattern
	priority int      // regex_priority
}

// kongHosts are entries that share their hosts, by their numbers in ascending order.
type kongHosts struct {
	lengths  []int // of the prefixes, each once
	prefixes map[string][]int32
	others   []int32 // patterns, and routes without paths
}

// BuildKong makes a table, or tells the problems.
func BuildKong(routes []KongRoute) (*KongTable, []*Problem) {
	t := &KongTable{exact: map[string]*kongHosts{}, loose: &kongHosts{}, none: &kongHosts{}, routes: make([]kongRoute, len(routes))}
	var problems []*Problem
	fail := func(r *KongRoute, field, key string, index int, message string) {
		problems = append(problems, &Problem{Route: r.Name, Field: field, Key: key, Index: index, Message: message})
	}
	for i := range routes {
		src, r := &routes[i], &t.routes[i]
		*r = kongRoute{id: src.ID, name: src.Name, methods: src.Methods, plain: len(src.Hosts) > 0}
		for _, h := range src.Hosts {
			r.hosts = append(r.hosts, strings.ToLower(h))
			r.plain = r.plain && !strings.Contains(h, "*")
		}
		for name, values := range src.Headers {
			c, index, reason := parseCondition(name, values)
			if reason != "" {
				fail(src, "headers", name, index, reason)
				continue
			}
			for k, p := range c.patterns {
				c.patterns[k] = regexp.MustCompile("(?i)" + p.String())
			}
			r.headers = append(r.headers, c)
		}
		slices.SortFunc(r.headers, func(a, b condition) int { return strings.Compare(a.name, b.name) })
		for k, text := range src.SNIs {
			p, reason := parseHost(text)
			if reason != "" {
				fail(src, "snis", "", k, reason)
			}
			r.snis = append(r.snis, p)
		}
		for _, n := range []int{len(src.Methods), len(src.Hosts), len(src.Headers), len(src.SNIs), len(src.Paths)} {
			if n > 0 {
				r.weight++
			}
		}
		if len(src.Paths) == 0 {
			t.entries = append(t.entries, kongEntry{route: r, path: -1})
		}
		for k, path := range src.Paths {
			e := kongEntry{route: r, path: k, prefix: path}
			if expr, ok := strings.CutPrefix(path, "~"); ok {
				re, err := regexp.Compile("^" + expr)
				if err != nil {
					fail(src, "paths", "", k, err.Error())
					continue
				}
				e.prefix, e.pattern, e.priority, e.names = "", re, src.RegexPriority, KongParams(path)
			}
			t.entries = append(t.entries, e)
		}
	}
	slices.SortStableFunc(t.entries, func(a, b kongEntry) int { return a.compare(&b) })
	for i := range t.entries {
		t.enter(int32(i))
	}
	for _, h := range append([]*kongHosts{t.loose, t.none}, values(t.exact)...) {
		slices.SortFunc(h.lengths, func(a, b int) int { return b - a })
	}
	return t, problems
}

func values(m map[string]*kongHosts) (all []*kongHosts) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// KongParams are the names of the parts of a pattern, in their order; none for other paths.
func KongParams(path string) (names []string) {
	expr, ok := strings.CutPrefix(path, "~")
	if !ok {
		return nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil
	}
	for i, name := range re.SubexpNames() {
		if name == "" {
			name = strconv.Itoa(i)
		}
		if i > 0 && i <= MaxParams {
			names = append(names, name)
		}
	}
	return names
}

func (e *kongEntry) compare(f *kongEntry) int {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	return cmp.Or(
		f.route.weight-e.route.weight,
		first(e.route.plain, f.route.plain),
		len(f.route.headers)-len(e.route.headers),
		first(e.pattern != nil, f.pattern != nil),
		f.priority-e.priority,
		len(f.prefix)-len(e.prefix),
		strings.Compare(e.route.name, f.route.name),
	)
}

func (t *KongTable) enter(i int32) {
	e := &t.entries[i]
	switch {
	case len(e.route.hosts) == 0:
		t.none.enter(i, e)
	case !e.route.plain:
		t.loose.enter(i, e)
	default:
		for k, h := range e.route.hosts {
			if slices.Contains(e.route.hosts[:k], h) {
				continue
			}
			if t.exact[h] == nil {
				t.exact[h] = &kongHosts{}
			}
			t.exact[h].enter(i, e)
		}
	}
}

func (h *kongHosts) enter(i int32, e *kongEntry) {
	if e.path < 0 || e.pattern != nil {
		h.others = append(h.others, i)
		return
	}
	if h.prefixes == nil {
		h.prefixes = map[string][]int32{}
	}
	if !slices.Contains(h.lengths, len(e.prefix)) {
		h.lengths = append(h.lengths, len(e.prefix))
	}
	h.prefixes[e.prefix] = append(h.prefixes[e.prefix], i)
}

// Match finds the route of a request and fills res. It keeps nothing of either.
func (t *KongTable) Match(req *Request, res *Result) Outcome {
	best := int32(len(t.entries))
	if h := t.exact[string(req.Host)]; h != nil {
		best = t.first(h, req, best)
	}
	best = t.first(t.loose, req, best)
	best = t.first(t.none, req, best)
	*res = Result{ID: -1, Path: -1}
	if int(best) == len(t.entries) {
		return NotFound
	}
	e := &t.entries[best]
	res.ID, res.Path, res.Prefix = e.route.id, e.path, len(e.prefix)
	if e.pattern != nil {
		e.split(req.Path, res)
	}
	return Found
}

// split finds what a pattern covers, and its parts.
func (e *kongEntry) split(path []byte, res *Result) {
	at := e.pattern.FindSubmatchIndex(path)
	res.Prefix = at[1]
	for i := 1; i <= len(e.names); i++ {
		if at[2*i] >= 0 {
			res.Spans[i-1] = Span{int32(at[2*i]), int32(at[2*i+1])}
		}
	}
	res.Params = len(e.names)
}

// first returns the number of the first entry below best that takes the request, or best.
func (t *KongTable) first(h *kongHosts, req *Request, best int32) int32 {
	for _, n := range h.lengths {
		if n > len(req.Path) {
			continue
		}
		for _, i := range h.prefixes[string(req.Path[:n])] {
			if i >= best {
				break
			}
			if t.entries[i].route.accepts(req) {
				best = i
				break
			}
		}
	}
	for _, i := range h.others {
		if i >= best {
			break
		}
		if e := &t.entries[i]; (e.pattern == nil || e.pattern.Match(req.Path)) && e.route.accepts(req) {
			return i
		}
	}
	return best
}

func (r *kongRoute) accepts(req *Request) bool {
	failed, _ := r.refuses(req)
	return failed == ""
}

// refuses names the first condition that a request does not meet, but for its path.
func (r *kongRoute) refuses(req *Request) (failed string, header *condition) {
	if len(r.hosts) > 0 && !r.takesHost(req.Host) {
		return "host", nil
	}
	if len(r.methods) > 0 && !slices.ContainsFunc(r.methods, func(m string) bool { return m == string(req.Method) }) {
		return "method", nil
	}
	if len(r.snis) > 0 && req.Scheme == "https" && !slices.ContainsFunc(r.snis, func(p hostPattern) bool { return p.matches(req.SNI) }) {
		return "sni", nil
	}
	for i := range r.headers {
		if c := &r.headers[i]; !c.takesHeader(req) {
			return "header", c
		}
	}
	return "", nil
}

func (r *kongRoute) takesHost(host []byte) bool {
	for _, h := range r.hosts {
		switch {
		case h[0] == '*':
			if n := len(h) - 1; len(host) >= n && string(host[len(host)-n:]) == h[1:] {
				return true
			}
		case h[len(h)-1] == '*':
			if n := len(h) - 1; len(host) >= n && string(host[:n]) == h[:n] {
				return true
			}
		case h == string(host):
			return true
		}
	}
	return false
}

// takesHeader is acceptsHeader without regard to case.
func (c *condition) takesHeader(req *Request) bool {
	if req.Headers == nil {
		return false
	}
	for _, v := range req.Headers.PeekAll(c.name) {
		if c.any {
			return true
		}
		for _, want := range c.exact {
			if equalFold(v, want) {
				return true
			}
		}
		for _, re := range c.patterns {
			if re.Match(v) {
				return true
			}
		}
	}
	return false
}

func equalFold(a []byte, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		if x != y && (x^y != 0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// Explain says which route wins and why the others do not: first the winner, then what matches too, then the others whose
// paths come nearest, up to 16.
func (t *KongTable) Explain(req *Request) []Candidate {
	var res Result
	won := t.Match(req, &res) == Found
	type shown struct {
		Candidate
		rank, shared int
	}
	var all []shown
	seen := map[*kongRoute]int{}
	for i := range t.entries {
		e := &t.entries[i]
		c := shown{Candidate: Candidate{ID: e.route.id, Name: e.route.name, Host: strings.Join(e.route.hosts, " or ")}}
		covers := e.path < 0 || e.pattern == nil && strings.HasPrefix(string(req.Path), e.prefix) || e.pattern != nil && e.pattern.Match(req.Path)
		text := e.prefix
		if e.pattern != nil {
			text = "~" + e.pattern.String()[1:]
		}
		failed, header := e.route.refuses(req)
		switch {
		case !covers:
			c.Failed, c.Reason, c.rank = "path", "path "+string(req.Path)+" does not begin with "+text, 3
			c.shared = sharedPrefix(string(req.Path), e.prefix)
		case header != nil:
			c.Path, c.Failed, c.rank = text, failed, 2
			c.Reason = "header " + header.name + " wants " + header.wants() + " and is " + headerText(req, header.name)
		case failed != "":
			c.Path, c.Failed, c.rank, c.Reason = text, failed, 2, failed+" is not one of the route's"
		case won && e.route.id == res.ID && e.path == res.Path:
			c.Path, c.Won, c.Reason = text, true, "the first that matches in Kong's order"
		default:
			c.Path, c.rank, c.Reason = text, 1, "comes later in Kong's order: "+e.rights()
		}
		if k, ok := seen[e.route]; !ok {
			seen[e.route] = len(all)
			all = append(all, c)
		} else if c.rank < all[k].rank || c.rank == all[k].rank && c.shared > all[k].shared {
			all[k] = c
		}
	}
	slices.SortStableFunc(all, func(a, b shown) int { return cmp.Or(a.rank-b.rank, b.shared-a.shared) })
	var out []Candidate
	near := 0
	for i := range all {
		if all[i].rank == 3 {
			if near++; near > maxNear {
				break
			}
		}
		out = append(out, all[i].Candidate)
	}
	return out
}

// rights says what decides the place of an entry.
func (e *kongEntry) rights() string {
	s := strconv.Itoa(e.route.weight) + " kinds of conditions"
	if e.route.plain {
		s += ", hosts without wildcards"
	}
	if n := len(e.route.headers); n > 0 {
		s += ", " + strconv.Itoa(n) + " headers"
	}
	switch {
	case e.pattern != nil:
		s += ", a pattern of priority " + strconv.Itoa(e.priority)
	case e.path >= 0:
		s += ", a prefix of " + strconv.Itoa(len(e.prefix)) + " bytes"
	}
	return s
}
