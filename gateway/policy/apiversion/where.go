package apiversion

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"sluice/gateway/exchange"
)

// where is what requests a change is about. The zero value is all.
type where struct {
	methods []string
	paths   []pattern
}

// pattern is a path by its segments; "" stands for any one.
type pattern struct {
	segments []string
	exact    bool
}

func compileWhere(c *Change) (w where, err error) {
	for _, m := range c.Methods {
		if !exchange.IsToken(m) || strings.ToUpper(m) != m {
			return w, fmt.Errorf("%q is no method; write GET or POST", m)
		}
	}
	w.methods = slices.Clone(c.Methods)
	for _, text := range c.Paths {
		var p pattern
		plain, exact := strings.CutPrefix(text, "=")
		p.exact = exact
		if !strings.HasPrefix(plain, "/") {
			return w, fmt.Errorf("%q must begin with a slash, as /users, /users/{id} or =/users", text)
		}
		for segment := range strings.SplitSeq(strings.Trim(plain, "/"), "/") {
			switch {
			case segment == "" && plain == "/":
				continue
			case strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}"):
				segment = ""
			case segment == "" || strings.ContainsAny(segment, "{}*"):
				return w, fmt.Errorf("%q: a segment is a text, or {name} for any one", text)
			}
			p.segments = append(p.segments, segment)
		}
		w.paths = append(w.paths, p)
	}
	return w, nil
}

// matches tells whether the change is about the request; path is without the version.
func (w *where) matches(method, path []byte) bool {
	if len(w.methods) > 0 && !slices.ContainsFunc(w.methods, func(m string) bool { return string(method) == m }) {
		return false
	}
	if len(w.paths) == 0 {
		return true
	}
	for i := range w.paths {
		if w.paths[i].matches(path) {
			return true
		}
	}
	return false
}

func (p *pattern) matches(path []byte) bool {
	rest := bytes.Trim(path, "/")
	for _, want := range p.segments {
		if len(rest) == 0 {
			return false
		}
		var segment []byte
		if segment, rest, _ = bytes.Cut(rest, slash); want != "" && string(segment) != want {
			return false
		}
	}
	return !p.exact || len(rest) == 0
}

var slash = []byte("/")
