package graphql

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
)

// scope is what the places of a template are filled in from.
type scope struct {
	x      *exchange.Exchange
	args   map[string]any
	parent any
	keys   []any
	body   any
}

// template is a text with places for values that have types, beside those of exchange.Template.
type template struct{ parts []part }

type part struct {
	text  string
	kind  string // "" for a text; args, parent, keys, body, or request
	path  []string
	other *exchange.Template
}

// parseTemplate reads a template in which the kinds of places named may stand beside those of every request.
func parseTemplate(text string, kinds ...string) (*template, error) {
	pieces, err := action.Pieces(text)
	if err != nil {
		return nil, err
	}
	t := &template{}
	for _, piece := range pieces {
		p := part{text: piece.Text}
		if piece.IsPlace {
			if p, err = parsePart(piece.Text, kinds); err != nil {
				return nil, err
			}
		}
		t.parts = append(t.parts, p)
	}
	return t, nil
}

func parsePart(name string, kinds []string) (part, error) {
	what, path, dotted := strings.Cut(name, ".")
	switch what {
	case "args", "parent", "keys", "body":
		known := false
		for _, kind := range kinds {
			known = known || kind == what
		}
		switch {
		case !known:
			return part{}, fmt.Errorf("${%s} is not known here; there are ${%s…} and the templates of transformations", name, strings.Join(kinds, "…}, ${"))
		case what == "keys" && dotted, dotted && path == "":
			return part{}, fmt.Errorf("${%s} is not known; write ${keys}, ${args.NAME} or ${parent.NAME}", name)
		}
		return part{kind: what, path: splitPath(path)}, nil
	}
	other, err := exchange.ParseTemplate("${" + name + "}")
	if err != nil {
		return part{}, fmt.Errorf("%w; and here ${%s…}", err, strings.Join(kinds, "…}, ${"))
	}
	return part{kind: "request", other: other}, nil
}

// arguments returns the names of arguments that the template takes.
func (t *template) arguments() []string {
	var names []string
	for _, p := range t.parts {
		if p.kind == "args" && len(p.path) > 0 {
			names = append(names, p.path[0])
		}
	}
	return names
}

func (p *part) value(s *scope) any {
	switch p.kind {
	case "args":
		return walk(any(s.args), p.path)
	case "parent":
		return walk(s.parent, p.path)
	case "keys":
		return s.keys
	case "body":
		return walk(s.body, p.path)
	case "request":
		if v, ok := p.other.Value(s.x); ok {
			return string(v)
		}
		return nil
	}
	return p.text
}

// value fills the template in. A template of one place alone keeps the type of its value. ok is false if a place has no value.
func (t *template) value(s *scope) (v any, ok bool) {
	if len(t.parts) == 1 {
		v = t.parts[0].value(s)
		return v, v != nil
	}
	var b strings.Builder
	for i := range t.parts {
		v := t.parts[i].value(s)
		if v == nil {
			return nil, false
		}
		b.WriteString(textual(v))
	}
	return b.String(), true
}

// textual writes a value into a text: scalars as they are, lists with commas, objects as JSON.
func textual(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case []any:
		texts := make([]string, len(v))
		for i := range v {
			texts[i] = textual(v[i])
		}
		return strings.Join(texts, ",")
	}
	return string(appendJSON(nil, v))
}

// splitPath reads a dotted path; "" is the empty one.
func splitPath(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(path, ".")
}

// walk returns what stands at the path, nil if nothing does. A number is the index of a list.
func walk(v any, path []string) any {
	for _, step := range path {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

// structure is a JSON value with templates in its texts.
type structure struct {
	text   *template
	fields map[string]*structure
	items  []*structure
	isList bool
	fixed  any
}

func parseStructure(v any, kinds ...string) (*structure, error) {
	var err error
	switch v := v.(type) {
	case string:
		s := &structure{}
		s.text, err = parseTemplate(v, kinds...)
		return s, err
	case map[string]any:
		s := &structure{fields: make(map[string]*structure, len(v))}
		for name, field := range v {
			if s.fields[name], err = parseStructure(field, kinds...); err != nil {
				return nil, err
			}
		}
		return s, nil
	case []any:
		s := &structure{isList: true}
		for _, item := range v {
			parsed, err := parseStructure(item, kinds...)
			if err != nil {
				return nil, err
			}
			s.items = append(s.items, parsed)
		}
		return s, nil
	}
	return &structure{fixed: v}, nil
}

// value fills the structure in; a text whose place has no value is null, and as a field of an object it is left out.
func (s *structure) value(at *scope) (any, bool) {
	switch {
	case s.text != nil:
		if len(s.text.parts) == 0 {
			return "", true
		}
		return s.text.value(at)
	case s.fields != nil:
		out := make(map[string]any, len(s.fields))
		for name, field := range s.fields {
			if v, ok := field.value(at); ok {
				out[name] = v
			}
		}
		return out, true
	case s.isList:
		out := make([]any, len(s.items))
		for i, item := range s.items {
			out[i], _ = item.value(at)
		}
		return out, true
	}
	return s.fixed, s.fixed != nil
}

// templates calls f for every template of the structure.
func (s *structure) templates(f func(*template)) {
	if s.text != nil {
		f(s.text)
	}
	for _, field := range s.fields {
		field.templates(f)
	}
	for _, item := range s.items {
		item.templates(f)
	}
}
