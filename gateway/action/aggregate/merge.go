package aggregate

import (
	"sluice/gateway/document"
)

// partial is the member that says that a call failed, partialHeader the header.
const (
	partial       = "partial"
	partialHeader = "X-Sluice-Partial"
)

// members is an object in the making: each name once, in the place where it first stood.
type members struct {
	names []string
	texts [][]byte
	at    map[string]int
}

func (m *members) set(name string, text []byte) {
	if i, there := m.at[name]; there {
		m.texts[i] = text
		return
	}
	if m.at == nil {
		m.at = make(map[string]int)
	}
	m.at[name] = len(m.names)
	m.names, m.texts = append(m.names, name), append(m.texts, text)
}

func (m *members) setAll(object *document.Value) {
	for name, v := range object.All() {
		m.set(name, v.Text())
	}
}

func (m *members) append(dst []byte) []byte {
	dst = append(dst, '{')
	for i, name := range m.names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(dst, document.Quote(name)...), ':')
		dst = append(dst, m.texts[i]...)
	}
	return append(dst, '}')
}

// close appends the object with its mark, unless it is too large.
func (m *members) close(a *aggregate, r *run, dst []byte) ([]byte, bool) {
	if r.partial {
		m.set(partial, isTrue)
	}
	size := 0
	for i := range m.texts {
		size += len(m.names[i]) + len(m.texts[i]) + 4
	}
	if size > a.largest() {
		return nil, false
	}
	return m.append(dst), true
}

var isTrue = []byte("true")

// largest is how long a document may be: all answers, and names and braces of the gateway's own.
func (a *aggregate) largest() int { return 2*a.most + 4<<10 }

// nest puts each value under its name.
func nest(a *aggregate, r *run, dst []byte) ([]byte, bool) {
	var m members
	for i, c := range a.calls {
		if v := r.values[i]; v != nil {
			m.set(c.target, v.Text())
		}
	}
	return m.close(a, r, dst)
}

// flat puts the members of all values side by side.
func flat(a *aggregate, r *run, dst []byte) ([]byte, bool) {
	var m members
	for i, c := range a.calls {
		switch v := r.values[i]; {
		case v == nil:
		case c.target != "":
			m.set(c.target, v.Text())
		default:
			m.setAll(v)
		}
	}
	return m.close(a, r, dst)
}

// list joins the elements of all lists to those of the first with the same key.
func list(a *aggregate, r *run, dst []byte) ([]byte, bool) {
	var m members
	joined := make([]map[string][]*document.Value, len(a.calls))
	for i, c := range a.calls {
		if v := r.values[i]; i > 0 && v != nil {
			joined[i] = byKey(v, c.key)
		}
	}
	out := []byte{'['}
	if first := r.values[0]; first != nil {
		for _, element := range first.All() {
			if len(out) > 1 {
				out = append(out, ',')
			}
			if out = a.join(joined, element, out); len(out) > a.largest() {
				return nil, false
			}
		}
	}
	m.set(a.items, append(out, ']'))
	return m.close(a, r, dst)
}

// join appends an element of the first list with what belongs to it.
func (a *aggregate) join(joined []map[string][]*document.Value, element *document.Value, dst []byte) []byte {
	key, has := keyOf(element, a.calls[0].key)
	var m members
	begun := false
	for i, c := range a.calls[1:] {
		if !has {
			break
		}
		found := joined[i+1][key]
		if len(found) == 0 && (!c.many || joined[i+1] == nil) {
			continue
		}
		if !begun {
			m.setAll(element)
			begun = true
		}
		switch {
		case c.many:
			m.set(c.target, listOf(found))
		case c.target != "":
			m.set(c.target, found[len(found)-1].Text())
		default:
			m.setAll(found[len(found)-1])
		}
	}
	if !begun {
		return element.Append(dst)
	}
	return m.append(dst)
}

func listOf(values []*document.Value) []byte {
	text := []byte{'['}
	for i, v := range values {
		if i > 0 {
			text = append(text, ',')
		}
		text = v.Append(text)
	}
	return append(text, ']')
}

// byKey are the elements of a list by their keys.
func byKey(list *document.Value, key document.Path) map[string][]*document.Value {
	found := make(map[string][]*document.Value, list.Len())
	for _, element := range list.All() {
		if k, has := keyOf(element, key); has {
			found[k] = append(found[k], element)
		}
	}
	return found
}

// keyOf tells a text from a number that is written the same. Only objects have a key.
func keyOf(element *document.Value, path document.Path) (key string, has bool) {
	if element.Kind() != document.Object {
		return "", false
	}
	v := element.Get(path)
	if v == nil {
		return "", false
	}
	switch v.Kind() {
	case document.String:
		text, _ := v.AsString()
		return `"` + text, true
	case document.Number, document.Bool:
		return string(v.Text()), true
	}
	return "", false
}
