package router

import (
	"slices"
	"strconv"
)

// conflicts reports the pairs among candidates of one host and path pattern that
// are equally specific and that one request can meet together. cs is sorted by rank.
func (b *builder) conflicts(cs []candidate, host hostPattern) {
	for len(cs) > 1 {
		n := 1
		for n < len(cs) && b.t.routes[cs[n].route].rank == b.t.routes[cs[0].route].rank {
			n++
		}
		b.compareAll(cs[:n], host)
		cs = cs[n:]
	}
}

func (b *builder) compareAll(cs []candidate, host hostPattern) {
	if x := b.headerIndex(cs); x != nil && len(x.others) == 0 {
		// Values of a header that all want keep thousands of routes apart: only those
		// that share one need to be compared.
		for i := range cs {
			for _, v := range find(b.t.routes[cs[i].route].headers, x.name).exact {
				for _, k := range x.byValue[v] {
					if int(k) > i {
						b.compare(cs[i], cs[k], host)
					}
				}
			}
		}
		return
	}
	for i := range cs {
		for k := i + 1; k < len(cs); k++ {
			b.compare(cs[i], cs[k], host)
		}
	}
}

func (b *builder) compare(x, y candidate, host hostPattern) {
	r, s := &b.t.routes[x.route], &b.t.routes[y.route]
	pair := [2]int32{x.route, y.route}
	if len(b.pairs) >= maxConflicts || !r.overlaps(s) || b.pairs[pair] {
		return
	}
	b.pairs[pair] = true
	where := "every path"
	if x.path >= 0 {
		where = "path " + r.paths[x.path].text
		if other := s.paths[y.path].text; other != r.paths[x.path].text {
			where += " (as " + other + ")"
		}
	}
	message := "routes " + strconv.Quote(r.name) + " and " + strconv.Quote(s.name) + " are equally specific on " + host.String() + ", " + where +
		" with " + r.rank.String() + ": a request can match both; make one more specific, or tell them apart by method, header, query, listener, scheme or SNI"
	b.problems = append(b.problems, &Problem{Route: r.name, Other: s.name, Index: -1, Message: message})
}

// overlaps reports whether a request that meets the host and path of both can meet
// all other demands of both.
func (r *route) overlaps(s *route) bool {
	return r.methods&s.methods != 0 &&
		shareOne(r.listeners, s.listeners, func(a, b string) bool { return a == b }) &&
		shareOne(r.schemes, s.schemes, func(a, b string) bool { return a == b }) &&
		shareOne(r.snis, s.snis, hostPattern.overlaps) &&
		together(r.headers, s.headers) && together(r.query, s.query)
}

// shareOne holds when either side demands nothing or two demands meet.
func shareOne[T any](a, b []T, meet func(T, T) bool) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(x T) bool {
		return slices.ContainsFunc(b, func(y T) bool { return meet(x, y) })
	})
}

func together(a, b []condition) bool {
	for i := range a {
		if other := find(b, a[i].name); other != nil && a[i].disjoint(other) {
			return false
		}
	}
	return true
}

func (r rank) String() string {
	if r.total == 0 {
		return "no conditions"
	}
	s, sep := "", ""
	count := func(n int, one, many string) {
		if n == 0 {
			return
		}
		s += sep + strconv.Itoa(n) + " "
		if sep = ", "; n == 1 {
			s += one
		} else {
			s += many
		}
	}
	count(r.headers, "header condition", "header conditions")
	count(r.query, "query condition", "query conditions")
	count(r.methods, "method condition", "method conditions")
	return s
}
