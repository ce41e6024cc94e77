package router

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Candidate tells how a route fared with a request.
type Candidate struct {
	ID     int    `json:"-"`
	Name   string `json:"route"`
	Won    bool   `json:"won"`
	Host   string `json:"host,omitempty"`   // the pattern that matched; empty if none did, or the route has none
	Path   string `json:"path,omitempty"`   // likewise
	Failed string `json:"failed,omitempty"` // host, path, listener, scheme, sni, method, header, query; empty if all matched
	Reason string `json:"reason"`
}

// maxNear bounds the routes that Explain lists although host or path do not match.
const maxNear = 16

// Explain says which route wins and why the others do not: first the winner, then what
// matches but is less specific, then what fails on a condition, then those of the rest
// whose paths come nearest, up to 16. Unlike Match it looks at every route.
func (t *Table) Explain(req *Request) []Candidate {
	var res Result
	won := t.Match(req, &res) == Found
	var winner *placed
	all := make([]placed, 0, len(t.routes))
	for i := range t.routes {
		p := t.routes[i].examine(req, t)
		if won && p.route.id == res.ID {
			winner = &p
		}
		all = append(all, p)
	}
	slices.SortStableFunc(all, func(x, y placed) int {
		if c := cmp.Compare(x.stage, y.stage); c != 0 {
			return c
		}
		if x.stage == stagePath || x.stage == stageHost {
			return cmp.Or(y.shared-x.shared, strings.Compare(x.route.name, y.route.name))
		}
		if winner != nil && x.stage == stageAll && (x.route == winner.route) != (y.route == winner.route) {
			return sign(y.route == winner.route)
		}
		return cmp.Or(x.compare(&y), strings.Compare(x.route.name, y.route.name))
	})
	var out []Candidate
	near := 0
	for i := range all {
		p := &all[i]
		if p.stage == stagePath || p.stage == stageHost {
			if near++; near > maxNear {
				break
			}
		}
		c := Candidate{ID: p.route.id, Name: p.route.name, Failed: p.failed, Reason: p.reason}
		if p.host != nil && p.host.name != "" {
			c.Host = p.host.String()
		}
		if p.path != nil {
			c.Path = p.path.text
		}
		switch {
		case p.stage != stageAll:
		case winner != nil && p.route == winner.route:
			c.Won, c.Reason = true, "the most specific route that matches"
		case winner != nil:
			c.Reason = p.whyAfter(winner)
		}
		out = append(out, c)
	}
	return out
}

// How far a route came, best first.
const (
	stageAll = iota
	stageCondition
	stageHost // the path matches
	stagePath
)

// placed is a route with its most specific host and path for one request.
type placed struct {
	route  *route
	host   *hostPattern
	path   *pathPattern
	stage  int
	failed string
	reason string
	shared int // bytes of the path shared with the nearest pattern
}

func (r *route) examine(req *Request, t *Table) placed {
	p := placed{route: r}
	host, path := string(req.Host), string(req.Path)
	for i := range r.hosts {
		if h := &r.hosts[i]; h.matches(host) && (p.host == nil || compareHosts(h, p.host) < 0) {
			p.host = h
		}
	}
	for i := range r.paths {
		q := &r.paths[i]
		if q.matches(path) && (p.path == nil || q.compare(p.path) < 0 || q.kind == regexPath && p.path.kind == regexPath && q.compareText(p.path) < 0) {
			p.path = q
		}
		p.shared = max(p.shared, sharedPrefix(path, strings.TrimPrefix(q.text, "=")))
	}
	switch {
	case p.path == nil:
		p.stage, p.failed, p.reason = stagePath, "path", "path "+path+" does not match "+joined(r.paths, func(q pathPattern) string { return q.text })
		if p.host == nil {
			p.reason += ", nor host " + host + " " + joined(r.hosts, hostPattern.String)
		}
	case p.host == nil:
		p.stage, p.failed, p.reason = stageHost, "host", "host "+host+" does not match "+joined(r.hosts, hostPattern.String)
	default:
		if p.failed, p.reason = r.refuses(req, t); p.failed != "" {
			p.stage = stageCondition
		}
	}
	return p
}

// refuses names the first condition that a request does not meet.
func (r *route) refuses(req *Request, t *Table) (failed, reason string) {
	one := func(failed, got string, want []string) (string, string) {
		return failed, failed + " " + strconv.Quote(got) + " is not " + strings.Join(want, " or ")
	}
	if len(r.listeners) > 0 && !slices.Contains(r.listeners, req.Listener) {
		return one("listener", req.Listener, r.listeners)
	}
	if len(r.schemes) > 0 && !slices.Contains(r.schemes, req.Scheme) {
		return one("scheme", req.Scheme, r.schemes)
	}
	if len(r.snis) > 0 && !slices.ContainsFunc(r.snis, func(p hostPattern) bool { return p.matches(req.SNI) }) {
		return "sni", "SNI " + strconv.Quote(req.SNI) + " does not match " + joined(r.snis, hostPattern.String)
	}
	if r.methods&t.methodBit(req.Method) == 0 {
		return "method", "method " + string(req.Method) + " is not " + strings.ReplaceAll(string(t.AppendAllow(nil, &Result{allow: r.methods})), ", ", " or ")
	}
	for i := range r.headers {
		if c := &r.headers[i]; !c.acceptsHeader(req) {
			return "header", "header " + c.name + " wants " + c.wants() + " and is " + headerText(req, c.name)
		}
	}
	for i := range r.query {
		if c := &r.query[i]; !c.acceptsQuery(req) {
			return "query", "query parameter " + c.name + " wants " + c.wants()
		}
	}
	return "", ""
}

func headerText(req *Request, name string) string {
	var values []string
	if req.Headers != nil {
		for _, v := range req.Headers.PeekAll(name) {
			values = append(values, strconv.Quote(string(v)))
		}
	}
	if len(values) == 0 {
		return "absent"
	}
	return strings.Join(values, ", ")
}

// compare orders candidates as Match tries them. Both have host and path.
func (p *placed) compare(q *placed) int {
	return cmp.Or(compareHosts(p.host, q.host), p.path.compare(q.path), p.route.rank.compare(q.route.rank))
}

// whyAfter explains why p, which matches, comes after the winner.
func (p *placed) whyAfter(w *placed) string {
	less := "less specific than " + strconv.Quote(w.route.name) + ": "
	switch {
	case compareHosts(p.host, w.host) != 0:
		return less + "host " + p.host.String() + " comes after " + w.host.String()
	case p.path.compare(w.path) != 0:
		if p.path.kind == w.path.kind {
			return less + "path " + p.path.text + " comes after " + w.path.text
		}
		return less + kindNames[p.path.kind] + " comes after " + kindNames[w.path.kind] + " " + w.path.text
	case p.route.rank != w.route.rank:
		return less + p.route.rank.String() + " come after " + w.route.rank.String()
	case p.path.kind == regexPath && p.path.text != w.path.text:
		return "as specific as " + strconv.Quote(w.route.name) + ", whose pattern " + w.path.text + " has the longer literal start or text"
	}
	return "as specific as " + strconv.Quote(w.route.name) + ", whose name sorts first"
}

// compareHosts orders two patterns that match the same host, the more specific first.
func compareHosts(p, q *hostPattern) int {
	class := func(h *hostPattern) int {
		switch {
		case h.name == "":
			return 2
		case h.wild:
			return 1
		}
		return 0
	}
	return cmp.Or(class(p)-class(q), len(q.name)-len(p.name))
}

func sharedPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func joined[T any](all []T, text func(T) string) string {
	var s []string
	for _, v := range all {
		s = append(s, text(v))
	}
	return strings.Join(s, " or ")
}
