package requesttransform

import (
	"bytes"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// changeQuery writes the raw query anew for each step that has something to do; what no step is about stays as it was written. Names are
// compared decoded.
func (t *transformer) changeQuery(x *exchange.Exchange) {
	q := x.BackendQuery()
	changed := false
	put := func(b []byte) { q, changed = x.Keep(b), true }
	for _, name := range t.query.remove {
		if hasParameter(q, name) {
			put(exchange.QueryWithout(x.Scratch(), q, name))
		}
	}
	for i := range t.query.rename {
		if r := &t.query.rename[i]; hasParameter(q, r.from) {
			put(appendRenamed(x.Scratch(), q, r))
		}
	}
	for i := range t.query.replace {
		if a := &t.query.replace[i]; hasParameter(q, a.Name) {
			values := parameters(x, a)
			put(appendReplaced(x.Scratch(), q, a.Name, values))
		}
	}
	for i := range t.query.add {
		if a := &t.query.add[i]; !hasParameter(q, a.Name) {
			if values := parameters(x, a); len(values) > 0 {
				put(appendPair(append(x.Scratch(), q...), values))
			}
		}
	}
	for i := range t.query.append {
		if values := parameters(x, &t.query.append[i]); len(values) > 0 {
			put(appendPair(append(x.Scratch(), q...), values))
		}
	}
	if changed {
		x.SetUpstreamQuery(q)
	}
}

// parameters renders name=value pairs, escaped; empty if there is no value.
func parameters(x *exchange.Exchange, a *policy.Assignment) []byte {
	var pairs []byte
	for _, value := range a.Values {
		v, ok := value.Value(x)
		if !ok {
			continue
		}
		// The value may stand in scratch memory, but never in the part that is free now.
		dst := x.Scratch()
		if len(pairs) > 0 {
			dst = append(append(dst, pairs...), '&')
		}
		dst = exchange.AppendQueryEscaped(dst, a.Name)
		dst = append(dst, '=')
		pairs = x.Keep(exchange.AppendQueryEscaped(dst, v))
	}
	return pairs
}

func hasParameter(query []byte, name string) bool {
	for rest := query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, ampersand)
		if isNamed(pair, name) {
			return true
		}
	}
	return false
}

func isNamed(pair []byte, name string) bool {
	key, _, _ := bytes.Cut(pair, equals)
	return exchange.QueryNameIs(key, name)
}

var (
	ampersand = []byte("&")
	equals    = []byte("=")
)

// appendPair adds pairs to a query, which may be empty.
func appendPair(query, pairs []byte) []byte {
	if len(query) > 0 {
		query = append(query, '&')
	}
	return append(query, pairs...)
}

// appendRenamed gives the parameters called r.from the name r.to, and drops those that had it before.
func appendRenamed(dst, query []byte, r *rename) []byte {
	first := true
	for rest := query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, ampersand)
		if isNamed(pair, r.to) {
			continue
		}
		if !first {
			dst = append(dst, '&')
		}
		first = false
		if !isNamed(pair, r.from) {
			dst = append(dst, pair...)
			continue
		}
		dst = exchange.AppendQueryEscaped(dst, r.to)
		if i := bytes.IndexByte(pair, '='); i >= 0 {
			dst = append(dst, pair[i:]...)
		}
	}
	return dst
}

// appendReplaced puts pairs where the first parameter of that name stood and drops the others.
func appendReplaced(dst, query []byte, name string, pairs []byte) []byte {
	first := true
	for rest := query; len(rest) > 0; {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, ampersand)
		if isNamed(pair, name) {
			if pair, pairs = pairs, nil; len(pair) == 0 {
				continue
			}
		}
		if !first {
			dst = append(dst, '&')
		}
		first = false
		dst = append(dst, pair...)
	}
	return dst
}

// lists reports whether a comma-separated list has name.
func lists(list, name []byte) bool {
	for len(list) > 0 {
		var token []byte
		token, list, _ = bytes.Cut(list, comma)
		if token = bytes.Trim(token, " \t"); len(token) == len(name) && bytes.EqualFold(token, name) {
			return true
		}
	}
	return false
}

var comma = []byte(",")
