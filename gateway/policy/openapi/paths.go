package openapi

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// table finds the operation of a path and a method: by the number of segments, then the most concrete template first.
type table struct {
	bySegments map[int][]*entry
}

// entry is one path of the document.
type entry struct {
	template string
	segments []segment
	methods  map[string]*operation
}

// segment is one part of a path template: a text, a whole parameter, or a mixture of both.
type segment struct {
	literal string
	names   []string
	pattern *regexp.Regexp // of a mixture
}

// weight orders segments by how much they leave open.
func (s *segment) weight() int {
	switch {
	case len(s.names) == 0:
		return 0
	case s.pattern != nil:
		return 1
	}
	return 2
}

var parameterName = regexp.MustCompile(`\{([^{}]*)\}`)

// add enters a path of the document.
func (t *table) add(template string) *entry {
	e := &entry{template: template, methods: make(map[string]*operation)}
	for text := range strings.SplitSeq(strings.TrimPrefix(template, "/"), "/") {
		found := parameterName.FindAllStringSubmatchIndex(text, -1)
		s := segment{literal: text}
		var pattern strings.Builder
		pattern.WriteString("^")
		end := 0
		for _, at := range found {
			s.names = append(s.names, text[at[2]:at[3]])
			pattern.WriteString(regexp.QuoteMeta(text[end:at[0]]) + "(.+)")
			end = at[1]
		}
		pattern.WriteString(regexp.QuoteMeta(text[end:]) + "$")
		if len(found) > 0 && (len(found) > 1 || found[0][0] > 0 || found[0][1] < len(text)) {
			s.pattern = regexp.MustCompile(pattern.String())
		}
		e.segments = append(e.segments, s)
	}
	if t.bySegments == nil {
		t.bySegments = make(map[int][]*entry)
	}
	t.bySegments[len(e.segments)] = append(t.bySegments[len(e.segments)], e)
	return e
}

// sort puts what is most concrete first.
func (t *table) sort() {
	for _, entries := range t.bySegments {
		slices.SortStableFunc(entries, func(a, b *entry) int {
			for i := range a.segments {
				if c := cmp.Compare(a.segments[i].weight(), b.segments[i].weight()); c != 0 {
					return c
				}
			}
			return strings.Compare(a.template, b.template)
		})
	}
}

// find returns the operation, or the methods that the path has instead; none for a path that the document has not. HEAD
// is GET where it is not described itself.
func (t *table) find(path, method string) (op *operation, params []string, allowed []string) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, e := range t.bySegments[len(segments)] {
		values, ok := e.match(segments)
		if !ok {
			continue
		}
		if op = e.methods[method]; op == nil && method == "HEAD" {
			op = e.methods["GET"]
		}
		if op != nil {
			return op, values, nil
		}
		for m := range e.methods {
			allowed = append(allowed, m)
		}
		if e.methods["GET"] != nil {
			allowed = append(allowed, "HEAD")
		}
	}
	slices.Sort(allowed)
	return nil, nil, slices.Compact(allowed)
}

// match returns the values of the parameters in the order of their names.
func (e *entry) match(segments []string) (values []string, ok bool) {
	for i := range e.segments {
		switch s := &e.segments[i]; {
		case len(s.names) == 0:
			if s.literal != segments[i] {
				return nil, false
			}
		case segments[i] == "":
			return nil, false
		case s.pattern == nil:
			values = append(values, segments[i])
		default:
			found := s.pattern.FindStringSubmatch(segments[i])
			if found == nil {
				return nil, false
			}
			values = append(values, found[1:]...)
		}
	}
	return values, true
}

// names are those of the parameters, in order.
func (e *entry) names() (names []string) {
	for i := range e.segments {
		names = append(names, e.segments[i].names...)
	}
	return names
}

// below cuts a base off a path.
func below(path, base string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, base)
	switch {
	case !ok || rest != "" && rest[0] != '/':
		return "", false
	case rest == "":
		return "/", true
	}
	return rest, true
}

// all are the paths of the document in the order of their text.
func (t *table) all() (all []*entry) {
	for _, entries := range t.bySegments {
		all = append(all, entries...)
	}
	slices.SortFunc(all, func(a, b *entry) int { return strings.Compare(a.template, b.template) })
	return all
}
