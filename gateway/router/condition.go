package router

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// condition is what a route wants of one header or one query parameter: some value
// that equals one of exact or matches one of patterns; any is content with presence.
type condition struct {
	name     string
	exact    []string
	patterns []*regexp.Regexp
	any      bool
}

// parseCondition reads the values of one name. A problem is told by reason, with the
// index of the value.
func parseCondition(name string, values []string) (c condition, index int, reason string) {
	c.name = name
	if len(values) == 0 {
		return c, -1, `has no values: give one, or "*" for any`
	}
	for i, v := range values {
		pattern, isPattern := strings.CutPrefix(v, "~")
		switch {
		case v == "*":
			c.any = true
		case v == "~":
			return c, i, `is an empty pattern: write "*" for any value`
		case isPattern:
			re, err := regexp.Compile(pattern)
			if err != nil {
				return c, i, err.Error()
			}
			c.patterns = append(c.patterns, re)
		case !slices.Contains(c.exact, v):
			c.exact = append(c.exact, v)
		}
	}
	return c, -1, ""
}

func (c *condition) accepts(value []byte) bool {
	if c.any {
		return true
	}
	for _, want := range c.exact {
		if string(value) == want {
			return true
		}
	}
	for _, re := range c.patterns {
		if re.Match(value) {
			return true
		}
	}
	return false
}

// acceptsHeader is true when any of several fields of that name will do.
func (c *condition) acceptsHeader(req *Request) bool {
	if req.Headers == nil {
		return false
	}
	for _, v := range req.Headers.PeekAll(c.name) {
		if c.accepts(v) {
			return true
		}
	}
	return false
}

// acceptsQuery compares names and values decoded (escapes, plus as space); an escape
// that is malformed stands for itself.
func (c *condition) acceptsQuery(req *Request) bool {
	for q := req.RawQuery; len(q) > 0; {
		pair := q
		if i := bytes.IndexByte(q, '&'); i >= 0 {
			pair, q = q[:i], q[i+1:]
		} else {
			q = nil
		}
		name, value := pair, []byte(nil)
		if i := bytes.IndexByte(pair, '='); i >= 0 {
			name, value = pair[:i], pair[i+1:]
		}
		if len(pair) == 0 || !equalDecoded(name, c.name) {
			continue
		}
		if bytes.IndexByte(value, '%') >= 0 || bytes.IndexByte(value, '+') >= 0 {
			req.Scratch = appendDecoded(req.Scratch[:0], value)
			value = req.Scratch
		}
		if c.accepts(value) {
			return true
		}
	}
	return false
}

func equalDecoded(raw []byte, want string) bool {
	i := 0
	for ; len(raw) > 0 && i < len(want); i++ {
		c, n := decodeOne(raw)
		if c != want[i] {
			return false
		}
		raw = raw[n:]
	}
	return len(raw) == 0 && i == len(want)
}

func appendDecoded(dst, raw []byte) []byte {
	for len(raw) > 0 {
		c, n := decodeOne(raw)
		dst = append(dst, c)
		raw = raw[n:]
	}
	return dst
}

// decodeOne returns the first decoded byte of a query component and its encoded length.
func decodeOne(raw []byte) (c byte, n int) {
	switch c = raw[0]; {
	case c == '+':
		return ' ', 1
	case c == '%' && len(raw) > 2:
		if hi, lo := unhex[raw[1]], unhex[raw[2]]; hi|lo <= 15 {
			return hi<<4 | lo, 3
		}
	}
	return c, 1
}

// disjoint reports whether no single value can satisfy both conditions. Two patterns
// are never proven disjoint.
func (c *condition) disjoint(d *condition) bool {
	if c.any || d.any || len(c.patterns) > 0 && len(d.patterns) > 0 {
		return false
	}
	for _, v := range c.exact {
		if d.accepts([]byte(v)) {
			return false
		}
	}
	for _, v := range d.exact {
		if c.accepts([]byte(v)) {
			return false
		}
	}
	return true
}

// wants describes the condition for people.
func (c *condition) wants() string {
	var forms []string
	for _, v := range c.exact {
		forms = append(forms, `"`+v+`"`)
	}
	for _, re := range c.patterns {
		forms = append(forms, `a match of ~`+re.String())
	}
	if c.any {
		forms = append(forms, "any value")
	}
	return strings.Join(forms, " or ")
}
