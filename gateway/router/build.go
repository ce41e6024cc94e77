package router

import (
	"cmp"
	"hash/maphash"
	"maps"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// Problem is one reason why a set of routes can not be served. In a conflict Other
// names the second route; otherwise Field, Key and Index say which value of Route is wrong.
type Problem struct {
	Route, Other string
	Field        string // hosts, paths, methods, headers, query, listeners, schemes, snis; empty in a conflict
	Key          string // name of the header or query parameter
	Index        int    // of the value; -1 where the field as a whole is meant
	Message      string
}

// Where returns the place inside a route's match block, as in headers.X-Stage[1].
func (p *Problem) Where() string {
	s := p.Field
	if p.Key != "" {
		s += "." + p.Key
	}
	if p.Index >= 0 && s != "" {
		s += "[" + strconv.Itoa(p.Index) + "]"
	}
	return s
}

func (p *Problem) Error() string {
	if p.Other != "" {
		return p.Message
	}
	return "route " + strconv.Quote(p.Route) + ": " + p.Where() + " " + p.Message
}

// maxConflicts bounds the conflicts that one Build reports.
const maxConflicts = 100

// Build compiles routes into a Table. With any problem there is no Table, and all problems are
// returned: what is wrong in single routes first, conflicts only among routes that are right.
// It keeps no reference to routes.
func Build(routes []Route) (*Table, []*Problem) {
	t, problems := build(routes)
	if len(problems) > 0 {
		return nil, problems
	}
	return t, nil
}

func build(routes []Route) (*Table, []*Problem) {
	b := builder{
		t: &Table{
			methods: slices.Clone(standardMethods),
			custom:  map[string]uint64{},
			exact:   map[string]int32{},
			wild:    map[string]int32{},
			noHost:  -1,
			nodes:   make([]node, 1, len(routes)+2),
			ends:    make([]ends, 1, len(routes)+2),
			cands:   make([]candidate, 0, len(routes)),
		},
		hosts: map[hostPattern]*hostBuild{},
		pairs: map[[2]int32]bool{},
	}
	b.t.routes = make([]route, 0, len(routes))
	for i := range routes {
		b.compile(&routes[i])
	}
	for i := range b.t.routes {
		b.place(int32(i))
	}
	for _, p := range slices.SortedFunc(maps.Keys(b.hosts), func(p, q hostPattern) int { return strings.Compare(p.name, q.name) }) {
		b.finish(p)
	}
	b.indexEdges()
	return b.t, b.problems
}

type builder struct {
	t        *Table
	problems []*Problem
	hosts    map[hostPattern]*hostBuild
	pairs    map[[2]int32]bool // conflicts reported
	edges    []edge
}

// route is a compiled Route.
type route struct {
	id        int
	name      string
	hosts     []hostPattern // one zero pattern for none
	paths     []pathPattern // one of kind anyPath for none
	methods   uint64
	listeners []string
	schemes   []string
	snis      []hostPattern
	headers   []condition // by name
	query     []condition // by name
	rank      rank
	plain     bool
}

// rank counts the conditions that make a route more specific.
type rank struct{ total, headers, query, methods int }

// compare puts the more specific first.
func (r rank) compare(q rank) int {
	return cmp.Or(q.total-r.total, q.headers-r.headers, q.query-r.query, q.methods-r.methods)
}

// accepts checks everything but host, path and method.
func (r *route) accepts(req *Request) bool {
	if len(r.listeners) > 0 && !slices.Contains(r.listeners, req.Listener) ||
		len(r.schemes) > 0 && !slices.Contains(r.schemes, req.Scheme) {
		return false
	}
	if len(r.snis) > 0 && !slices.ContainsFunc(r.snis, func(p hostPattern) bool { return p.matches(req.SNI) }) {
		return false
	}
	for i := range r.headers {
		if !r.headers[i].acceptsHeader(req) {
			return false
		}
	}
	for i := range r.query {
		if !r.query[i].acceptsQuery(req) {
			return false
		}
	}
	return true
}

func (b *builder) compile(src *Route) {
	r := route{id: src.ID, name: src.Name, methods: anyMethod}
	before := len(b.problems)
	wrong := func(field, key string, index int, message string) {
		b.problems = append(b.problems, &Problem{Route: src.Name, Field: field, Key: key, Index: index, Message: message})
	}
	names := func(field string, texts []string) (ps []hostPattern) {
		for i, text := range texts {
			p, reason := parseHost(text)
			if reason != "" {
				wrong(field, "", i, strconv.Quote(text)+" "+reason)
			}
			ps = append(ps, p)
		}
		return ps
	}
	conditions := func(field string, of map[string][]string, canonical func(string) string) (cs []condition) {
		if len(of) == 0 {
			return nil
		}
		for _, key := range slices.Sorted(maps.Keys(of)) {
			name := canonical(key)
			c, index, reason := parseCondition(name, of[key])
			switch {
			case reason == "" && name == "":
				index, reason = -1, "has an empty name"
			case reason == "" && field == "headers" && !isToken(name):
				index, reason = -1, "is not a field name"
			case reason == "" && slices.ContainsFunc(cs, func(d condition) bool { return d.name == name }):
				index, reason = -1, "is given twice, in different case"
			}
			if reason != "" {
				wrong(field, key, index, reason)
			}
			cs = append(cs, c)
		}
		return cs
	}

	if r.hosts = names("hosts", src.Hosts); len(r.hosts) == 0 {
		r.hosts = make([]hostPattern, 1)
	}
	r.paths = make([]pathPattern, 0, max(len(src.Paths), 1))
	for i, text := range src.Paths {
		p, reason := parsePath(text)
		if reason != "" {
			wrong("paths", "", i, strconv.Quote(text)+" "+reason)
		}
		r.paths = append(r.paths, p)
	}
	if len(r.paths) == 0 {
		r.paths = append(r.paths, pathPattern{kind: anyPath})
	}
	if len(src.Methods) > 0 {
		r.methods, r.rank.methods = 0, 1
	}
	for i, m := range src.Methods {
		bit, reason := b.methodBit(strings.ToUpper(m))
		if reason != "" {
			wrong("methods", "", i, strconv.Quote(m)+" "+reason)
		}
		r.methods |= bit
	}
	r.headers = conditions("headers", src.Headers, textproto.CanonicalMIMEHeaderKey)
	r.query = conditions("query", src.Query, func(s string) string { return s })
	for i, s := range src.Listeners {
		if s == "" {
			wrong("listeners", "", i, "is empty")
		}
	}
	r.listeners = slices.Clone(src.Listeners)
	for i, s := range src.Schemes {
		if s != "http" && s != "https" {
			wrong("schemes", "", i, strconv.Quote(s)+" is neither http nor https")
		}
	}
	r.schemes = slices.Clone(src.Schemes)
	r.snis = names("snis", src.SNIs)
	r.rank.headers, r.rank.query = len(r.headers), len(r.query)
	r.rank.total = r.rank.headers + r.rank.query + r.rank.methods
	r.plain = len(r.listeners)+len(r.schemes)+len(r.snis)+len(r.headers)+len(r.query) == 0
	if len(b.problems) == before {
		b.t.routes = append(b.t.routes, r)
	}
}

func (b *builder) methodBit(m string) (uint64, string) {
	bit := b.t.methodBit([]byte(m))
	switch {
	case bit != unknownMethod:
		return bit, ""
	case !isToken(m):
		return 0, "is not a method"
	case len(b.t.methods) == 63:
		return 0, "is one method too many: all routes together may name 63"
	}
	bit = 1 << len(b.t.methods)
	b.t.methods = append(b.t.methods, m)
	b.t.custom[m] = bit
	return bit, ""
}

// isToken follows RFC 9110 5.6.2.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// hostBuild is a tree in the making.
type hostBuild struct {
	root     nodeBuild
	patterns []candidate
	anyPath  []candidate
}

type nodeBuild struct {
	kids     map[string]*nodeBuild
	param    *nodeBuild
	viaParam bool
	size     int
	ends     [numEnds][]candidate
}

// place enters a route under each of its hosts and paths.
func (b *builder) place(i int32) {
	r := &b.t.routes[i]
	for _, h := range r.hosts {
		hb := b.hosts[h]
		if hb == nil {
			hb = &hostBuild{}
			b.hosts[h] = hb
		}
		for k := range r.paths {
			p := &r.paths[k]
			c := candidate{methods: r.methods, id: r.id, route: i, path: int32(k), params: uint8(len(p.names)), plain: r.plain}
			switch p.kind {
			case anyPath:
				c.path = -1
				hb.anyPath = append(hb.anyPath, c)
			case regexPath:
				hb.patterns = append(hb.patterns, c)
			default:
				hb.root.place(p, c)
			}
		}
	}
}

func (n *nodeBuild) place(p *pathPattern, c candidate) {
	for _, s := range p.segs {
		next := n.param
		if !s.param {
			next = n.kids[s.literal]
		}
		if next == nil {
			next = &nodeBuild{viaParam: s.param || n.viaParam, size: n.size + 1 + len(s.literal)}
			if s.param {
				n.param = next
			} else {
				if n.kids == nil {
					n.kids = map[string]*nodeBuild{}
				}
				n.kids[s.literal] = next
			}
		}
		n = next
	}
	end := whole
	switch {
	case p.rest:
		end = rest
	case p.kind == prefixPath && p.slash:
		end = under
	case p.kind == prefixPath:
		end = prefix
	case p.slash:
		end = wholeSlash
	}
	n.ends[end] = append(n.ends[end], c)
}

// finish turns what was placed under a host into a tree of the Table.
func (b *builder) finish(p hostPattern) {
	hb, t := b.hosts[p], b.t
	tr := tree{root: b.flatten(&hb.root, p, 0), anyPath: b.list(hb.anyPath, p)}
	slices.SortFunc(hb.patterns, func(x, y candidate) int {
		return cmp.Or(t.routes[x.route].rank.compare(t.routes[y.route].rank), b.pattern(x).compareText(b.pattern(y)), b.byName(x, y))
	})
	for rest := hb.patterns; len(rest) > 0; {
		n := 1
		for n < len(rest) && b.pattern(rest[n]).text == b.pattern(rest[0]).text && t.routes[rest[n].route].rank == t.routes[rest[0].route].rank {
			n++
		}
		same := b.list(rest[:n], p)
		for i := range same.n {
			c := same.off + i
			tr.patterns = append(tr.patterns, pattern{b.pattern(t.cands[c]), c})
		}
		rest = rest[n:]
	}
	i := int32(len(t.trees))
	t.trees = append(t.trees, tr)
	switch {
	case p.wild:
		t.wild[p.name] = i
		t.maxWild = max(t.maxWild, len(p.name))
	case p.name != "":
		t.exact[p.name] = i
	default:
		t.noHost = i
	}
}

func (b *builder) pattern(c candidate) *pathPattern { return &b.t.routes[c.route].paths[c.path] }

func (b *builder) byName(x, y candidate) int {
	return cmp.Or(strings.Compare(b.t.routes[x.route].name, b.t.routes[y.route].name), cmp.Compare(x.route, y.route), cmp.Compare(x.path, y.path))
}

// flatten appends a node and all below it, shorter being the nearest with prefixes above.
func (b *builder) flatten(nb *nodeBuild, host hostPattern, shorter int32) int32 {
	t := b.t
	n := int32(len(t.nodes))
	t.nodes = append(t.nodes, node{})
	nd := node{shorter: shorter, size: int32(nb.size), viaParam: nb.viaParam}
	if nb.ending() {
		var e ends
		for k := range e {
			e[k] = b.list(nb.ends[k], host)
		}
		nd.ends = int32(len(t.ends))
		t.ends = append(t.ends, e)
		nd.below = e[rest].n > 0 || nb.viaParam && e[whole].n+e[wholeSlash].n > 0
		if e[under].n+e[prefix].n > 0 {
			shorter = n
		}
	}
	if nb.param != nil {
		nd.param = b.flatten(nb.param, host, 0)
		nd.below = true
	}
	nd.many = len(nb.kids) > 1
	for _, s := range slices.Sorted(maps.Keys(nb.kids)) {
		next := nb.kids[s]
		for !nd.many && len(next.kids) == 1 && next.param == nil && !next.ending() {
			for only, below := range next.kids {
				s, next = s+"/"+only, below
			}
		}
		kid := b.flatten(next, host, shorter)
		nd.below = nd.below || t.nodes[kid].below
		if nd.many {
			b.edges = append(b.edges, edge{s, n, kid})
		} else {
			nd.kid, nd.sole = s, kid
		}
	}
	t.nodes[n] = nd
	return n
}

func (n *nodeBuild) ending() bool {
	return slices.ContainsFunc(n.ends[:], func(cs []candidate) bool { return len(cs) > 0 })
}

// list appends the candidates of one host and path pattern in their order, a route once.
func (b *builder) list(cs []candidate, host hostPattern) list {
	if len(cs) == 0 {
		return list{}
	}
	t := b.t
	slices.SortFunc(cs, func(x, y candidate) int {
		return cmp.Or(t.routes[x.route].rank.compare(t.routes[y.route].rank), b.byName(x, y))
	})
	cs = slices.CompactFunc(cs, func(x, y candidate) bool { return x.route == y.route })
	b.conflicts(cs, host)
	l := list{off: uint32(len(t.cands)), n: uint32(len(cs)), index: b.headerIndex(cs)}
	t.cands = append(t.cands, cs...)
	return l
}

// minIndexed is how many routes must want a value of one header for an index to cost
// less than asking each.
const minIndexed = 4

func (b *builder) headerIndex(cs []candidate) *headerIndex {
	if len(cs) < minIndexed {
		return nil
	}
	uses := map[string]int{}
	for _, c := range cs {
		for i := range b.t.routes[c.route].headers {
			if h := &b.t.routes[c.route].headers[i]; h.equality() {
				uses[h.name]++
			}
		}
	}
	x := &headerIndex{byValue: map[string][]uint32{}}
	for _, name := range slices.Sorted(maps.Keys(uses)) {
		if x.name == "" || uses[name] > uses[x.name] {
			x.name = name
		}
	}
	if uses[x.name] < minIndexed {
		return nil
	}
	for i, c := range cs {
		h := find(b.t.routes[c.route].headers, x.name)
		if h == nil || !h.equality() {
			x.others = append(x.others, uint32(i))
			continue
		}
		for _, v := range h.exact {
			x.byValue[v] = append(x.byValue[v], uint32(i))
		}
	}
	return x
}

func (c *condition) equality() bool { return !c.any && len(c.patterns) == 0 }

func find(cs []condition, name string) *condition {
	if i, ok := slices.BinarySearchFunc(cs, name, func(c condition, name string) int { return strings.Compare(c.name, name) }); ok {
		return &cs[i]
	}
	return nil
}

// indexEdges makes the table of edges, at most half full.
func (b *builder) indexEdges() {
	size := 1
	for size < 2*len(b.edges) {
		size *= 2
	}
	t := b.t
	t.edges = make([]edge, size)
	mask := uint64(size - 1)
	for _, e := range b.edges {
		i := edgeHash(e.parent, []byte(e.segment)) & mask
		for t.edges[i].child != 0 {
			i = (i + 1) & mask
		}
		t.edges[i] = e
	}
}

var seed = maphash.MakeSeed()

func edgeHash(parent int32, segment []byte) uint64 {
	h := maphash.Bytes(seed, segment) ^ uint64(parent)*0x9e3779b97f4a7c15
	return h ^ h>>32
}
