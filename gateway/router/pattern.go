package router

import (
	"cmp"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// kind is the class of a path pattern; a lower one is more specific.
type kind uint8

const (
	exactPath kind = iota
	templatePath
	prefixPath
	regexPath
	anyPath
)

var kindNames = [...]string{"exact path", "path with parameters", "path prefix", "path pattern", "no path"}

type segment struct {
	literal string // decoded; "" for a parameter
	param   bool
}

// pathPattern is one compiled entry of Route.Paths.
type pathPattern struct {
	text  string // as configured
	kind  kind
	segs  []segment
	slash bool     // ends in a slash
	rest  bool     // ends in {name...}
	names []string // of the parameters, in order

	re   *regexp.Regexp
	lead string // what every match starts with, tried before re
}

// parsePath reads one entry of Route.Paths; a problem is told by reason.
func parsePath(text string) (p pathPattern, reason string) {
	p.text = text
	if expr, ok := strings.CutPrefix(text, "~"); ok {
		p.kind = regexPath
		if expr == "" {
			return p, "is an empty pattern"
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			return p, err.Error()
		}
		p.re, p.lead = re, leadOf(expr)
		return p, ""
	}
	path, exact := strings.CutPrefix(text, "=")
	if !strings.HasPrefix(path, "/") {
		return p, `must start with "/", or "=/" for an exact path, or "~" for a pattern`
	}
	if strings.ContainsAny(path, "{}") {
		if exact {
			return p, `is exact and has a parameter: leave out the "=", a path with parameters matches whole paths anyway`
		}
		return parseTemplate(p, path)
	}
	canonical, err := Canonical(nil, []byte(path))
	if err != nil {
		return p, "is a path that no request can have: " + err.Error()
	}
	p.kind = prefixPath
	if exact {
		p.kind = exactPath
	}
	segs := strings.Split(string(canonical[1:]), "/")
	if last := len(segs) - 1; segs[last] == "" {
		segs, p.slash = segs[:last], true
	}
	for _, s := range segs {
		if s == "*" || s == "**" {
			if !exact {
				return p, `has a "*": a path matches everything below it anyway, a parameter is written "{name}"`
			}
		}
		p.segs = append(p.segs, segment{literal: s})
	}
	return p, ""
}

func parseTemplate(p pathPattern, path string) (pathPattern, string) {
	p.kind = templatePath
	segs := strings.Split(path[1:], "/")
	for i, s := range segs {
		last := i == len(segs)-1
		if s == "" && last {
			p.slash = true
			break
		}
		name, opened := strings.CutPrefix(s, "{")
		name, closed := strings.CutSuffix(name, "}")
		switch {
		case !strings.ContainsAny(s, "{}"):
			canonical, err := Canonical(nil, []byte("/"+s))
			if err != nil {
				return p, "is a path that no request can have: " + err.Error()
			}
			if len(canonical) == 1 {
				return p, "has an empty or a dot segment, which no canonical path has"
			}
			p.segs = append(p.segs, segment{literal: string(canonical[1:])})
			continue
		case !opened || !closed || strings.ContainsAny(name, "{}"):
			return p, "has a parameter that is not a whole segment: use a ~pattern for parts of one"
		}
		name, rest := strings.CutSuffix(name, "...")
		switch {
		case rest && !last:
			return p, "has {" + name + "...} before its end"
		case !isParamName(name):
			return p, "has a parameter whose name is not letters, digits and underscores"
		case slices.Contains(p.names, name):
			return p, "has two parameters named " + name
		case len(p.names) == MaxParams:
			return p, "has more than 16 parameters"
		}
		p.names = append(p.names, name)
		if rest {
			p.rest = true
		} else {
			p.segs = append(p.segs, segment{param: true})
		}
	}
	return p, ""
}

func isParamName(s string) bool {
	for _, c := range []byte(s) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// PathParams returns the parameter names of a path pattern in their order, as
// Result counts them; none for anything but a template. The pattern must be valid.
func PathParams(pattern string) []string {
	if !strings.Contains(pattern, "{") {
		return nil
	}
	p, _ := parsePath(pattern)
	return p.names
}

// leadOf returns the literal that an expression anchored at the start begins with.
// regexp does not look for one behind an anchor.
func leadOf(expr string) string {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil || re.Op != syntax.OpConcat || len(re.Sub) < 2 || re.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	if lit := re.Sub[1]; lit.Op == syntax.OpLiteral && lit.Flags&syntax.FoldCase == 0 {
		return string(lit.Rune)
	}
	return ""
}

// matches is the plain form of what the tree of a Table answers.
func (p *pathPattern) matches(path string) bool {
	switch {
	case p.kind == anyPath:
		return true
	case !strings.HasPrefix(path, "/"):
		return false
	case p.kind == regexPath:
		return p.re.MatchString(path)
	}
	for _, s := range p.segs {
		if !strings.HasPrefix(path, "/") {
			return false
		}
		seg := path[1:]
		if i := strings.IndexByte(seg, '/'); i >= 0 {
			seg = seg[:i]
		}
		if seg == "" || !s.param && seg != s.literal {
			return false
		}
		path = path[1+len(seg):]
	}
	switch {
	case p.rest:
		return path != ""
	case p.kind == prefixPath:
		return !p.slash || path != ""
	case p.slash:
		return path == "/"
	}
	return path == ""
}

// compare orders two patterns that match the same path, the more specific first:
// by kind; templates by the leftmost segment that differs, where a literal goes before a
// parameter and that before {name...}; prefixes by length. 0 for patterns and for equals.
func (p *pathPattern) compare(q *pathPattern) int {
	if p.kind != q.kind {
		return int(p.kind) - int(q.kind)
	}
	switch p.kind {
	case templatePath:
		for i := range min(len(p.segs), len(q.segs)) {
			if a, b := p.segs[i].param, q.segs[i].param; a != b {
				return sign(a)
			}
		}
		if len(p.segs) != len(q.segs) {
			return len(q.segs) - len(p.segs)
		}
		if p.rest != q.rest {
			return sign(p.rest)
		}
	case prefixPath:
		if len(p.segs) != len(q.segs) {
			return len(q.segs) - len(p.segs)
		}
		if p.slash != q.slash {
			return -sign(p.slash)
		}
	}
	return 0
}

// compareText orders regular expressions whose routes have equal conditions.
func (p *pathPattern) compareText(q *pathPattern) int {
	return cmp.Or(len(q.lead)-len(p.lead), len(q.text)-len(p.text), strings.Compare(p.text, q.text))
}

func sign(after bool) int {
	if after {
		return 1
	}
	return -1
}
