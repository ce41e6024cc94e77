package snapshot

import (
	"fmt"
	"slices"
	"strings"

	"sluice/gateway/exchange"
)

// rewrite is the compiled rewrite of a route's path: literals and what is put
// between them.
type rewrite struct {
	parts []rewritePart
}

type rewritePart struct {
	literal string
	// rest stands for the path behind the matched prefix, param for a parameter.
	rest  bool
	param string
}

// compileRewrite reads "/internal/{path}". {path} is what follows the matched
// prefix, without its slash; {name} is a parameter that every path of the route has.
func compileRewrite(text string, patterns []pathPattern) (*rewrite, error) {
	if !strings.HasPrefix(text, "/") {
		return nil, fmt.Errorf("must start with a slash, as /internal/{path}")
	}
	r := &rewrite{}
	for text != "" {
		literal, after, found := strings.Cut(text, "{")
		if literal != "" {
			r.parts = append(r.parts, rewritePart{literal: literal})
		}
		if !found {
			break
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("a { has no }")
		}
		text = rest
		if name == "path" {
			r.parts = append(r.parts, rewritePart{rest: true})
			continue
		}
		for i := range patterns {
			if !slices.Contains(patterns[i].params, name) {
				return nil, fmt.Errorf("{%s} is no parameter of every path of this route; {path} is what follows the matched prefix", name)
			}
		}
		if len(patterns) == 0 {
			return nil, fmt.Errorf("{%s} is no parameter: the route has no paths", name)
		}
		r.parts = append(r.parts, rewritePart{param: name})
	}
	return r, nil
}

func (r *rewrite) append(dst []byte, x *exchange.Exchange) []byte {
	for i := range r.parts {
		switch p := &r.parts[i]; {
		case p.rest:
			dst = appendRest(dst, x)
		case p.param != "":
			dst = append(dst, x.Param(p.param)...)
		default:
			dst = append(dst, p.literal...)
		}
	}
	return dst
}

// appendRest appends what follows the matched prefix, without its slash and what is cut out. It takes no scratch memory: dst is it.
func appendRest(dst []byte, x *exchange.Exchange) []byte {
	start, from := len(dst), x.MatchedPrefix
	if x.CutTo > from && x.CutTo > x.CutFrom {
		dst = append(dst, x.Path[from:max(from, x.CutFrom)]...)
		from = x.CutTo
	}
	dst = append(dst, x.Path[from:]...)
	if len(dst) > start && dst[start] == '/' {
		dst = append(dst[:start], dst[start+1:]...)
	}
	return dst
}
