// Package router finds the route of a request: host, then path, then the conditions
// of the candidates, the most specific first and never in file order. Build refuses
// sets of routes in which two could claim the same request with equal right, so that
// every answer has one reason, which Explain tells. A Table never changes; Match
// allocates nothing, takes no lock and sets only the Result. It looks at the labels of the host,
// the segments of the path (where a literal and a parameter fit the same segment, at the
// templates behind both) and the candidates that share its patterns: the number of
// routes does not show, except that regular expressions are tried one by one.
//
// # Hosts
//
// An exact host goes before "*.example.org", which stands for any number of labels
// (at least one) before ".example.org", the longer suffix first, and that before routes
// without hosts ("*" is the same as none). When no route of an exact host takes the request, wildcards
// and then routes without hosts are tried.
//
// # Paths
//
//   - "=/exact" matches that path alone.
//   - "/users/{id}/orders" matches whole paths; {id} is one segment, never empty. A last
//     segment {rest...} takes all that follows its slash, be it nothing.
//     Of two templates the one with a literal at the leftmost difference goes first.
//   - "/a" is a prefix by segments: "/a", "/a/" and "/a/b", not "/ab". "/a/" wants the
//     slash: "/a/" and "/a/b", not "/a". "/" matches every path. Longer ones go first.
//   - "~^/regex$" is a Go regular expression (RE2, linear time) on the canonical path,
//     anchored only where it says so. Among different expressions, where conditions
//     do not decide, the one with the longer literal start goes first, then the longer text.
//   - No paths at all matches every path and comes last, behind patterns; "/" comes before them.
//
// Literals are written as in a URL and compared decoded, see Canonical.
//
// # Conditions
//
// Of routes with the same host and path pattern, the one with more conditions goes
// first: every header name, every query name and the methods count one each. At
// equal numbers more headers, then more query names, go first. Listeners, schemes and SNIs
// limit a route and make it no more specific. What then remains equal is a conflict, unless
// no request can meet both: disjoint methods, listeners, schemes, SNIs, or values of one header or
// query name. (A request that repeats such a header with both values gets the route whose name sorts first.)
//
// # Methods
//
// A method matches itself alone: GET stands for neither HEAD nor OPTIONS, as in Kong,
// Envoy, Traefik and Caddy. Routes that match but for the method make the
// outcome MethodNotAllowed, unless any route, however unspecific, matches altogether.
package router

import (
	"bytes"
	"math/bits"
)

// Route is what a request must be like to get this route. Empty fields demand nothing.
type Route struct {
	ID        int    // returned by Match; not negative
	Name      string // for problems and explanations; unique
	Hosts     []string
	Paths     []string
	Methods   []string            // any case; matched in upper case
	Headers   map[string][]string // names in any case; one of the values: exact, "~regex", or "*" for presence
	Query     map[string][]string // likewise, names as they are; compared decoded
	Listeners []string
	Schemes   []string // http or https
	SNIs      []string // like Hosts
}

// Headers gives the values of all fields of a name, whatever the case of the name on
// the wire. The result may be overwritten by the next call. *fasthttp.RequestHeader is one, and *exchange.Exchange.
type Headers interface {
	PeekAll(name string) [][]byte
}

// Request is what Match looks at. The caller fills and owns it and all its bytes.
type Request struct {
	Host     []byte // from NormalizeHost
	Path     []byte // from Canonical
	RawQuery []byte // without the question mark, encoded
	Method   []byte
	Headers  Headers // nil: none
	Listener string
	Scheme   string // http or https
	SNI      string // from NormalizeHost; empty without TLS

	Scratch []byte // room for a decoded query value, written over from its start; one that does not fit is allocated
}

// MaxParams bounds the parameters of a path template.
const MaxParams = 16

// Span is a part of Request.Path.
type Span struct{ Start, End int32 }

// Result is what Match found. Its contents are valid for the Table that filled it.
type Result struct {
	ID   int // of the route, -1 if none
	Path int // index of the pattern in Route.Paths, -1 if the route has none

	// Prefix is how much of the path strip_prefix takes away: the length of a matched
	// prefix without a trailing slash (so "/" counts 0), the whole of an exact path or
	// template, a template with {rest...} up to the slash before it, and 0 for a
	// pattern or no path. What remains is empty or starts with a slash.
	Prefix int

	Params int // how many of Spans are set; PathParams names them
	allow  uint64
	Spans  [MaxParams]Span
}

// Param returns the value of parameter i in path, the Request.Path of the match.
func (r *Result) Param(path []byte, i int) []byte {
	return path[r.Spans[i].Start:r.Spans[i].End]
}

// Outcome is the answer of Match.
type Outcome uint8

const (
	NotFound         Outcome = iota // 404
	MethodNotAllowed                // 405 with AppendAllow
	Found
)

// Table is a compiled set of routes, immutable and safe for concurrent use.
type Table struct {
	routes  []route
	methods []string // bit i of a method set is methods[i]
	custom  map[string]uint64

	exact   map[string]int32 // host to trees
	wild    map[string]int32 // suffix with its dot to trees
	maxWild int              // length of the longest suffix
	noHost  int32            // -1: none

	trees []tree
	nodes []node // of all trees; 0 is none
	ends  []ends // 0 is none
	cands []candidate
	edges []edge // open addressing on parent and segment, a power of two in size
}

// tree holds the routes of one host pattern.
type tree struct {
	root     int32
	patterns []pattern
	anyPath  list
}

// node is a place in the tree of segments: literals lead to its children, and what fills
// a parameter leads to param.
type node struct {
	kid      string // the segments to the only literal child: where nothing ends or branches off, several
	sole     int32  // that child, 0 if there are none or several
	param    int32
	ends     int32
	shorter  int32 // nearest node above with prefixes, by literals only
	size     int32 // length of the path to here, by literals only
	many     bool  // several literal children, found in edges
	viaParam bool  // a parameter leads here
	below    bool  // templates end here or below
}

// What can end at a node, as indices of ends.
const (
	whole      = iota // the path ends here
	wholeSlash        // with a slash
	rest              // the remainder is a parameter
	under             // a prefix with a trailing slash
	prefix            // a prefix
	numEnds
)

type ends [numEnds]list

// list is a run of Table.cands, most specific first.
type list struct {
	off, n uint32
	index  *headerIndex // of long lists
}

// headerIndex finds the candidates of a list by the value of one header that
// most of them want to be equal to something. All are offsets in the list, ascending.
type headerIndex struct {
	name    string
	byValue map[string][]uint32
	others  []uint32
}

type candidate struct {
	methods uint64
	id      int
	route   int32
	path    int32
	params  uint8
	plain   bool // methods are the only condition
}

type pattern struct {
	*pathPattern
	cand uint32
}

type edge struct {
	segment string
	parent  int32
	child   int32 // 0: free
}

const anyMethod = ^uint64(0)

// unknownMethod is the bit of methods that no route names; only anyMethod has it.
const unknownMethod = 1 << 63

func (t *Table) methodBit(m []byte) uint64 {
	switch string(m) {
	case "GET":
		return 1 << 0
	case "HEAD":
		return 1 << 1
	case "POST":
		return 1 << 2
	case "PUT":
		return 1 << 3
	case "PATCH":
		return 1 << 4
	case "DELETE":
		return 1 << 5
	case "OPTIONS":
		return 1 << 6
	case "TRACE":
		return 1 << 7
	case "CONNECT":
		return 1 << 8
	}
	if bit, ok := t.custom[string(m)]; ok {
		return bit
	}
	return unknownMethod
}

var standardMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

// AppendAllow appends the value of the Allow field (RFC 9110 10.2.1) after the
// outcome MethodNotAllowed.
func (t *Table) AppendAllow(dst []byte, res *Result) []byte {
	first := true
	for set := res.allow; set != 0; set &= set - 1 {
		if !first {
			dst = append(dst, ", "...)
		}
		first = false
		dst = append(dst, t.methods[bits.TrailingZeros64(set)]...)
	}
	return dst
}

// Match finds the route of a request and fills res. It keeps nothing of either.
func (t *Table) Match(req *Request, res *Result) Outcome {
	outcome, _ := t.match(req, res)
	return outcome
}

// match also counts the places it looked at, so that tests can bound them.
func (t *Table) match(req *Request, res *Result) (Outcome, int) {
	w := walk{t: t, req: req, res: res, method: t.methodBit(req.Method)}
	if w.hosts(req.Host) {
		return Found, w.steps
	}
	return w.unmatched()
}

// unmatched tells what was missing.
func (w *walk) unmatched() (Outcome, int) {
	*w.res = Result{ID: -1, Path: -1}
	if !w.missed {
		return NotFound, w.steps
	}
	w.collect = true
	w.hosts(w.req.Host)
	if w.res.allow = w.allow; w.allow == 0 {
		return NotFound, w.steps
	}
	return MethodNotAllowed, w.steps
}

// walk visits the candidates of a request in the order of their right to it. When
// collect is set it takes none and gathers the methods that would have been taken.
type walk struct {
	t       *Table
	req     *Request
	res     *Result
	method  uint64
	allow   uint64
	steps   int
	missed  bool // a method was all that some candidate was asked for
	collect bool
}

// hosts tries the trees of the host, the most specific first.
func (w *walk) hosts(host []byte) bool {
	t := w.t
	if len(t.exact)+len(t.wild) > 0 && w.named(host) {
		return true
	}
	return t.noHost >= 0 && w.tree(&t.trees[t.noHost])
}

// named tries the trees of routes with hosts.
func (w *walk) named(host []byte) bool {
	t := w.t
	if len(t.exact) > 0 {
		w.steps++
		if i, ok := t.exact[string(host)]; ok && w.tree(&t.trees[i]) {
			return true
		}
	}
	if len(t.wild) > 0 && len(host) <= maxHost {
		// From 1: there is a label before the suffix. Longer suffixes are nobody's.
		for i := max(1, len(host)-t.maxWild); i < len(host); i++ {
			if host[i] != '.' {
				continue
			}
			w.steps++
			if k, ok := t.wild[string(host[i:])]; ok && w.tree(&t.trees[k]) {
				return true
			}
		}
	}
	return false
}

func (w *walk) tree(tr *tree) bool {
	p := w.req.Path
	if len(p) == 0 || p[0] != '/' {
		return w.try(&tr.anyPath, 0)
	}
	if tr.root != 0 && w.segments(tr.root) {
		return true
	}
	if len(tr.patterns) > 0 && w.patterns(tr.patterns) {
		return true
	}
	return w.try(&tr.anyPath, 0)
}

// patterns tries regular expressions.
func (w *walk) patterns(all []pattern) bool {
	p := w.req.Path
	for i := range all {
		pt := &all[i]
		w.steps++
		if len(p) >= len(pt.lead) && string(p[:len(pt.lead)]) == pt.lead && pt.re.Match(p) {
			if c := &w.t.cands[pt.cand]; w.takes(c) {
				return w.won(c, 0)
			}
		}
	}
	return false
}

// segments tries exact paths, templates, and prefixes from the longest.
func (w *walk) segments(root int32) bool {
	t, p := w.t, w.req.Path
	n, at := root, 0 // p[:at] leads to n
	for at < len(p) {
		w.steps++
		if nd := &t.nodes[n]; nd.sole == 0 && !nd.many {
			break
		}
		kid, end := t.step(n, p, at)
		if kid == 0 {
			break
		}
		n, at = kid, end
	}
	nd := &t.nodes[n]
	e := &t.ends[nd.ends] // ends[0] is empty
	switch len(p) - at {
	case 0:
		if w.try(&e[whole], at) {
			return true
		}
	case 1:
		if w.try(&e[wholeSlash], at+1) {
			return true
		}
	}
	if t.nodes[root].below && w.templates(root, 0, 0) {
		return true
	}
	if at < len(p) && w.try(&e[under], at) || w.try(&e[prefix], at) {
		return true
	}
	for n = nd.shorter; n != 0; n = nd.shorter {
		nd = &t.nodes[n]
		w.steps++
		e := &t.ends[nd.ends]
		if w.try(&e[under], int(nd.size)) || w.try(&e[prefix], int(nd.size)) {
			return true
		}
	}
	return false
}

// templates tries the templates at and below node n, to which path[:at] leads with k
// parameters, literals before parameters. It visits a node once at most.
func (w *walk) templates(n int32, at, k int) bool {
	t, p := w.t, w.req.Path
	nd := &t.nodes[n]
	e := &t.ends[nd.ends]
	w.steps++
	if at == len(p) {
		return nd.viaParam && w.try(&e[whole], at)
	}
	if at == len(p)-1 {
		if nd.viaParam && w.try(&e[wholeSlash], at+1) {
			return true
		}
	} else {
		if kid, end := t.step(n, p, at); kid != 0 && t.nodes[kid].below && w.templates(kid, end, k) {
			return true
		}
		if nd.param != 0 {
			end := segmentEnd(p, at)
			if w.templates(nd.param, end, k+1) {
				w.res.Spans[k] = Span{int32(at + 1), int32(end)}
				return true
			}
		}
	}
	if w.try(&e[rest], at) {
		w.res.Spans[k] = Span{int32(at + 1), int32(len(p))}
		return true
	}
	return false
}

// segmentEnd returns where the segment behind the slash at p[at] ends.
func segmentEnd(p []byte, at int) int {
	if i := bytes.IndexByte(p[at+1:], '/'); i >= 0 {
		return at + 1 + i
	}
	return len(p)
}

// step follows the literals behind the slash at p[at] from node n. It returns the
// child and where its part of the path ends; 0 if there is none.
func (t *Table) step(n int32, p []byte, at int) (kid int32, end int) {
	nd := &t.nodes[n]
	if !nd.many {
		end = at + 1 + len(nd.kid)
		if nd.sole == 0 || end > len(p) || end < len(p) && p[end] != '/' || string(p[at+1:end]) != nd.kid {
			return 0, at
		}
		return nd.sole, end
	}
	end = segmentEnd(p, at)
	segment := p[at+1 : end]
	mask := uint64(len(t.edges) - 1)
	for i := edgeHash(n, segment) & mask; ; i = (i + 1) & mask {
		e := &t.edges[i]
		if e.child == 0 || e.parent == n && e.segment == string(segment) {
			return e.child, end
		}
	}
}

// try offers the request to a list; size becomes Result.Prefix.
func (w *walk) try(l *list, size int) bool {
	return l.n > 0 && w.offer(l, size)
}

func (w *walk) offer(l *list, size int) bool {
	cands := w.t.cands[l.off : l.off+l.n]
	if l.index != nil {
		if c, ok := w.lookup(cands, l.index); ok {
			return c != nil && w.won(c, size)
		}
	}
	for i := range cands {
		if c := &cands[i]; w.takes(c) {
			return w.won(c, size)
		}
	}
	return false
}

// lookup is a try that goes by the index. Not ok means that the request repeats the
// header too often to bother.
func (w *walk) lookup(cands []candidate, x *headerIndex) (c *candidate, ok bool) {
	var values [4][]byte // copied, since conditions ask for other headers meanwhile
	n := 0
	if w.req.Headers != nil {
		all := w.req.Headers.PeekAll(x.name)
		if len(all) > len(values) {
			return nil, false
		}
		n = copy(values[:], all)
	}
	best := w.first(cands, x.others, len(cands))
	for _, v := range values[:n] {
		best = w.first(cands, x.byValue[string(v)], best)
	}
	if best == len(cands) {
		return nil, true
	}
	return &cands[best], true
}

// first returns the first of the offsets below bound that takes the request, or bound.
func (w *walk) first(cands []candidate, offsets []uint32, bound int) int {
	for _, i := range offsets {
		if int(i) >= bound {
			break
		}
		if w.takes(&cands[i]) {
			return int(i)
		}
	}
	return bound
}

func (w *walk) takes(c *candidate) bool {
	w.steps++
	switch {
	case w.collect:
		if w.t.routes[c.route].accepts(w.req) {
			w.allow |= c.methods
		}
		return false
	case c.methods&w.method == 0:
		w.missed = true
		return false
	}
	return c.plain || w.t.routes[c.route].accepts(w.req)
}

// won records the winner; its parameters are recorded on the way back up.
func (w *walk) won(c *candidate, size int) bool {
	w.res.ID, w.res.Path, w.res.Prefix, w.res.Params, w.res.allow = c.id, int(c.path), size, int(c.params), 0
	return true
}
