package grpc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// template is the path of a rule of google.api.http, flattened: variables are
// ranges of segments.
type template struct {
	segments  []string // a literal, "*", or "**", which is the last
	verb      string
	variables []variable
}

type variable struct {
	field []string // the path of the field in the request message
	from  int      // the first segment
	to    int      // the one behind the last; -1: all that follow
}

var errTemplate = errors.New("malformed path template")

// parseTemplate reads the path of a rule.
func parseTemplate(path string) (*template, error) {
	if path == "" || path[0] != '/' {
		return nil, fmt.Errorf("%w: %q does not begin with a slash", errTemplate, path)
	}
	t := &template{}
	rest := path[1:]
	// The verb is behind the last colon outside of variables.
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && i > strings.LastIndexByte(rest, '}') && i > strings.LastIndexByte(rest, '/') {
		rest, t.verb = rest[:i], rest[i+1:]
		if !isLiteral(t.verb) {
			return nil, fmt.Errorf("%w: %q has no verb behind its colon", errTemplate, path)
		}
	}
	for rest != "" {
		if rest[0] != '{' {
			segment, more, cut := strings.Cut(rest, "/")
			if !t.add(segment) || cut && more == "" {
				return nil, fmt.Errorf("%w: %q has the segment %q", errTemplate, path, segment)
			}
			rest = more
			continue
		}
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return nil, fmt.Errorf("%w: %q has a brace without its other half", errTemplate, path)
		}
		inner := rest[1:end]
		rest = rest[end+1:]
		if rest != "" && (rest[0] != '/' || len(rest) == 1) {
			return nil, fmt.Errorf("%w: a variable of %q is not whole segments", errTemplate, path)
		}
		rest = strings.TrimPrefix(rest, "/")
		name, pattern, has := strings.Cut(inner, "=")
		if !has {
			pattern = "*"
		}
		v := variable{field: strings.Split(name, "."), from: len(t.segments)}
		for _, part := range v.field {
			if !isLiteral(part) {
				return nil, fmt.Errorf("%w: %q has a variable without a name", errTemplate, path)
			}
		}
		for segment := range strings.SplitSeq(pattern, "/") {
			if strings.ContainsAny(segment, "{}") || !t.add(segment) {
				return nil, fmt.Errorf("%w: %q has the pattern %q", errTemplate, path, pattern)
			}
		}
		if v.to = len(t.segments); t.segments[v.to-1] == "**" {
			v.to = -1
		}
		t.variables = append(t.variables, v)
	}
	for i, s := range t.segments {
		if s == "**" && i != len(t.segments)-1 {
			return nil, fmt.Errorf("%w: in %q something follows **", errTemplate, path)
		}
	}
	return t, nil
}

func (t *template) add(segment string) bool {
	if segment != "*" && segment != "**" && !isLiteral(segment) {
		return false
	}
	t.segments = append(t.segments, segment)
	return true
}

func isLiteral(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '{' || r == '}' || r == '*' || r == '/' || unicode.IsControl(r)
	})
}

// table finds the binding of a request: literals before single segments before many.
type table struct {
	literal map[string]*table
	one     *table
	many    *table
	// bindings by verb of the path, then by method of HTTP.
	bindings map[string]map[string]*binding
}

// insert adds a binding. It returns the one that is there already.
func (t *table) insert(tpl *template, method string, b *binding) *binding {
	for _, s := range tpl.segments {
		var next **table
		switch s {
		case "*":
			next = &t.one
		case "**":
			next = &t.many
		default:
			if t.literal == nil {
				t.literal = make(map[string]*table)
			}
			n := t.literal[s]
			if n == nil {
				n = new(table)
				t.literal[s] = n
			}
			t = n
			continue
		}
		if *next == nil {
			*next = new(table)
		}
		t = *next
	}
	if t.bindings == nil {
		t.bindings = make(map[string]map[string]*binding)
	}
	byMethod := t.bindings[tpl.verb]
	if byMethod == nil {
		byMethod = make(map[string]*binding)
		t.bindings[tpl.verb] = byMethod
	}
	if there := byMethod[method]; there != nil {
		return there
	}
	byMethod[method] = b
	return nil
}

// find returns the binding for a path, with the path's segments; without one,
// the methods that the path has.
func (t *table) find(method, path string) (b *binding, segments []string, allowed []string) {
	path = strings.TrimPrefix(path, "/")
	if path != "" {
		segments = strings.Split(path, "/")
	}
	seen := make(map[string]bool)
	look := func(segments []string, verb string) *binding {
		return t.walk(segments, func(at *table) *binding {
			byMethod := at.bindings[verb]
			for m := range byMethod {
				if m != anyMethod {
					seen[m] = true
				}
			}
			if b := byMethod[method]; b != nil {
				return b
			}
			return byMethod[anyMethod]
		})
	}
	if n := len(segments); n > 0 {
		if i := strings.LastIndexByte(segments[n-1], ':'); i > 0 {
			whole := segments[n-1]
			cut := slices.Clone(segments)
			cut[n-1] = whole[:i]
			if b := look(cut, whole[i+1:]); b != nil {
				return b, cut, nil
			}
		}
	}
	if b := look(segments, ""); b != nil {
		return b, segments, nil
	}
	for m := range seen {
		allowed = append(allowed, m)
	}
	slices.Sort(allowed)
	return nil, nil, allowed
}

// anyMethod is the method of a custom rule of the kind *.
const anyMethod = "*"

func (t *table) walk(segments []string, leaf func(*table) *binding) *binding {
	if len(segments) == 0 {
		if b := leaf(t); b != nil {
			return b
		}
	} else {
		if next := t.literal[segments[0]]; next != nil {
			if b := next.walk(segments[1:], leaf); b != nil {
				return b
			}
		}
		if t.one != nil && segments[0] != "" {
			if b := t.one.walk(segments[1:], leaf); b != nil {
				return b
			}
		}
	}
	if t.many != nil {
		return leaf(t.many)
	}
	return nil
}

// value is the part of the path that a variable stands for.
func (v *variable) value(segments []string) string {
	if v.to < 0 {
		return strings.Join(segments[min(v.from, len(segments)):], "/")
	}
	return strings.Join(segments[v.from:v.to], "/")
}
