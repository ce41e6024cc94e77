package apiversion

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// Change is one thing that a version has changed. It holds exactly one of `rename` to `headers`, says what was in the version before and
// what is since, and works in both directions: requests of older versions get what is since, answers to them what was.
// Fields are paths, as `customer.name`, `items[*].price` (each element of an array or member of an object), `items[0]` or `["odd name"]`.
type Change struct {
	// Description for those who read the configuration.
	Description string `yaml:"description"`
	// Paths that the change is about, without the version: prefixes by segments, as /users or /users/{id}/orders; =/users is that path alone. Default: all.
	Paths []string `yaml:"paths"`
	// Methods that the change is about. Default: all.
	Methods []string `yaml:"methods"`
	// In says whether it is about requests, responses or both.
	In string `yaml:"in" enum:"both|request|response" default:"both"`
	// Rename gives a field another name, in its place.
	Rename *Rename `yaml:"rename"`
	// Move takes a field to another place. Objects are made and, once empty, removed on the way.
	Move *Move `yaml:"move"`
	// Add is a new field: requests without it get the value, answers lose it.
	Add *Field `yaml:"add"`
	// Remove is a field that is gone: requests lose it, answers get the value.
	Remove *Field `yaml:"remove"`
	// Default is a field that requests must have since: those without it get the value. Answers stay as they are.
	Default *Field `yaml:"default"`
	// Split divides a text among several fields.
	Split *Split `yaml:"split"`
	// Merge joins the texts of several fields. Coming down the text is divided at the first separators.
	Merge *Merge `yaml:"merge"`
	// Map gives a field's values others. Values that are not listed stay.
	Map *Map `yaml:"map"`
	// Status is another status of answers.
	Status *Status `yaml:"status"`
	// Headers that have changed.
	Headers *Headers `yaml:"headers"`
}

// Rename is another name.
type Rename struct {
	// Field that is renamed.
	Field string `yaml:"field" required:"true"`
	// To is its new name, without the path.
	To string `yaml:"to" required:"true"`
}

// Move is another place.
type Move struct {
	// Field that is moved.
	Field string `yaml:"field" required:"true"`
	// To is the new place. Up to the last [*] it must be the same as the old one.
	To string `yaml:"to" required:"true"`
}

// Field is a field with a value.
type Field struct {
	// Field that it is about.
	Field string `yaml:"field" required:"true"`
	// Value of any type.
	Value *config.Block `yaml:"value"`
}

// Split divides a text.
type Split struct {
	// Field that held the text.
	Field string `yaml:"field" required:"true"`
	// To are the fields that hold its parts.
	To []string `yaml:"to" required:"true"`
	// Separator between the parts; the last part may hold it too.
	Separator string `yaml:"separator" default:" "`
}

// Merge joins texts.
type Merge struct {
	// Fields that held the parts.
	Fields []string `yaml:"fields" required:"true"`
	// To is the field that holds the text.
	To string `yaml:"to" required:"true"`
	// Separator between the parts.
	Separator string `yaml:"separator" default:" "`
}

// Map gives values others.
type Map struct {
	// Field that has the value.
	Field string `yaml:"field" required:"true"`
	// Values with what they became.
	Values []Pair `yaml:"values" required:"true"`
}

// Pair is a value with what it became.
type Pair struct {
	// From is the value that was.
	From *config.Block `yaml:"from"`
	// To is the value that is since.
	To *config.Block `yaml:"to"`
}

// Status is a status of answers with what it became.
type Status struct {
	// From is the status that was.
	From int `yaml:"from" required:"true" min:"200" max:"599"`
	// To is the status that is since.
	To int `yaml:"to" required:"true" min:"200" max:"599"`
}

// Headers are changes of header fields.
type Headers struct {
	// Rename: the name that was to the name that is since.
	Rename map[string]string `yaml:"rename"`
	// Add are new ones: requests without them get the value, answers lose them.
	Add map[string]string `yaml:"add"`
	// Remove are those that are gone: requests lose them, answers get the value.
	Remove map[string]string `yaml:"remove"`
}

// step is a compiled change. A nil function has nothing to do.
type step struct {
	where    where
	up, down func(*document.Value)
	// statusFrom is what a status of statusTo becomes coming down; 0 for none.
	statusFrom, statusTo int
	headers              []headerChange
	headersUp            bool
	headersDown          bool
}

func (s *step) actsUp() bool   { return s.up != nil || s.headersUp }
func (s *step) actsDown() bool { return s.down != nil || s.headersDown || s.statusTo != 0 }
func hasBody(s *step) bool     { return s.up != nil || s.down != nil }

// compileChange makes a step of a change. What is wrong with it goes to w.
func compileChange(w *wrongs, at string, c *Change) *step {
	s := &step{}
	var err error
	if s.where, err = compileWhere(c); err != nil {
		w.add(at+".paths", "%v", err)
	}
	kinds := 0
	one := func(name string, there bool, compile func(at string)) {
		if there {
			kinds++
			compile(at + "." + name)
		}
	}
	both := c.In == "both"
	path := func(at, text string) document.Path {
		p, err := document.ParsePath(text)
		if err != nil {
			w.add(at, "%v", err)
		}
		return p
	}
	one("rename", c.Rename != nil, func(at string) { s.rename(w, at, path(at+".field", c.Rename.Field), c.Rename.To) })
	one("move", c.Move != nil, func(at string) { s.move(w, at, path(at+".field", c.Move.Field), path(at+".to", c.Move.To)) })
	one("add", c.Add != nil, func(at string) {
		p, value := path(at+".field", c.Add.Field), valueOf(c.Add.Value)
		if value == nil && c.In != "response" {
			w.add(at+".value", "is missing: requests of older versions do not have the field; give a value, or in: response")
		}
		s.up = func(v *document.Value) { v.Add(p, value) }
		s.down = func(v *document.Value) { v.Remove(p, true) }
	})
	one("remove", c.Remove != nil, func(at string) {
		p, value := path(at+".field", c.Remove.Field), valueOf(c.Remove.Value)
		if value == nil && c.In != "request" {
			w.add(at+".value", "is missing: clients of older versions expect the field, and what it was can not be known; give a value, or in: request")
		}
		s.up = func(v *document.Value) { v.Remove(p, true) }
		s.down = func(v *document.Value) { v.Add(p, value) }
	})
	one("default", c.Default != nil, func(at string) {
		p, value := path(at+".field", c.Default.Field), valueOf(c.Default.Value)
		switch {
		case value == nil:
			w.add(at+".value", "is missing; give a value")
		case c.In == "response":
			w.add(at, "does nothing to responses; leave in out")
		}
		s.up = func(v *document.Value) { v.Add(p, value) }
	})
	one("split", c.Split != nil, func(at string) {
		whole := path(at+".field", c.Split.Field)
		s.up, s.down = s.texts(w, at, ".to", whole, c.Split.To, c.Split.Separator, path)
	})
	one("merge", c.Merge != nil, func(at string) {
		whole := path(at+".to", c.Merge.To)
		s.down, s.up = s.texts(w, at, ".fields", whole, c.Merge.Fields, c.Merge.Separator, path)
	})
	one("map", c.Map != nil, func(at string) { s.mapValues(w, at, path(at+".field", c.Map.Field), c.Map.Values, c.In) })
	one("status", c.Status != nil, func(at string) {
		if c.In == "request" {
			w.add(at, "does nothing to requests; leave in out")
		}
		s.statusFrom, s.statusTo = c.Status.From, c.Status.To
	})
	one("headers", c.Headers != nil, func(at string) { s.compileHeaders(w, at, c.Headers, c.In) })
	if kinds != 1 {
		w.add(at, "must hold exactly one of rename, move, add, remove, default, split, merge, map, status and headers, and holds %d", kinds)
	}
	if !both && c.In == "request" {
		s.down, s.headersDown = nil, false
	}
	if !both && c.In == "response" {
		s.up, s.headersUp = nil, false
	}
	return s
}

// valueOf is a value as JSON, nil without one.
func valueOf(b *config.Block) []byte {
	if b == nil {
		return nil
	}
	return b.Canonical()
}

func (s *step) rename(w *wrongs, at string, p document.Path, to string) {
	from, ok := p.Name()
	switch {
	case !ok:
		w.add(at+".field", "must end with the name that is changed")
		return
	case from == to:
		w.add(at+".to", "is the name that it has")
		return
	case strings.ContainsAny(to, ".[]"):
		w.add(at+".to", "is a name and not a path; use move for another place")
		return
	}
	back := p.Sibling(to)
	s.up = func(v *document.Value) { v.Rename(p, to) }
	s.down = func(v *document.Value) { v.Rename(back, from) }
}

func (s *step) move(w *wrongs, at string, from, to document.Path) {
	switch _, _, err := document.Scope(from, to); {
	case err != nil:
		w.add(at, "%v", err)
	case from.Equal(to):
		w.add(at+".to", "is the place where it is")
	}
	s.up = func(v *document.Value) { v.Move(from, to) }
	s.down = func(v *document.Value) { v.Move(to, from) }
}

// texts makes the two directions between a text and its parts.
func (s *step) texts(w *wrongs, at, setting string, whole document.Path, names []string, separator string, parse func(at, text string) document.Path) (split, join func(*document.Value)) {
	paths := []document.Path{whole}
	for i, name := range names {
		paths = append(paths, parse(at+setting+"["+strconv.Itoa(i)+"]", name))
	}
	scope, rests, err := document.Scope(paths...)
	switch {
	case len(names) < 2:
		w.add(at+setting, "names one field; write at least two, or use rename")
	case separator == "":
		w.add(at+".separator", "is empty, so that nothing tells the parts apart")
	case err != nil:
		w.add(at, "%v", err)
	}
	for i, p := range paths[1:] {
		if p.Under(whole) || whole.Under(p) || slices.ContainsFunc(paths[1:i+1], p.Equal) {
			w.add(at+setting+"["+strconv.Itoa(i)+"]", "stands here twice, or is in another field of this change")
		}
	}
	if err != nil || len(w.errs) > 0 {
		return nil, nil
	}
	t := &textParts{whole: rests[0], parts: rests[1:], separator: separator}
	return func(v *document.Value) { v.Each(scope, t.split) }, func(v *document.Value) { v.Each(scope, t.join) }
}

type textParts struct {
	whole     document.Path
	parts     []document.Path
	separator string
}

// split divides a text. Of one with fewer parts the last fields stay away, so that joining them gives the same text.
func (t *textParts) split(at *document.Value) bool {
	source := at.Get(t.whole)
	if source == nil {
		return false
	}
	text, ok := source.AsString()
	if !ok {
		return false
	}
	for i, part := range strings.SplitN(text, t.separator, len(t.parts)) {
		if at.Set(t.parts[i], document.Quote(part)) == 0 {
			return i > 0
		}
	}
	at.Remove(t.whole, true)
	return true
}

// join puts the parts together, up to the last that is there.
func (t *textParts) join(at *document.Value) bool {
	texts, last := make([]string, len(t.parts)), -1
	for i := range t.parts {
		part := at.Get(t.parts[i])
		if part == nil {
			continue
		}
		text, ok := part.AsString()
		if !ok {
			return false
		}
		texts[i], last = text, i
	}
	if last < 0 || at.Set(t.whole, document.Quote(strings.Join(texts[:last+1], t.separator))) == 0 {
		return false
	}
	for i := range t.parts {
		at.Remove(t.parts[i], true)
	}
	return true
}

func (s *step) mapValues(w *wrongs, at string, p document.Path, pairs []Pair, in string) {
	var froms, tos [][]byte
	for i := range pairs {
		from, to := valueOf(pairs[i].From), valueOf(pairs[i].To)
		here := at + ".values[" + strconv.Itoa(i) + "]"
		switch {
		case from == nil || to == nil:
			w.add(here, "needs from and to")
		case from[0] == '{' || from[0] == '[' || to[0] == '{' || to[0] == '[':
			w.add(here, "maps an object or a list; only single values can be mapped")
		case in != "response" && has(froms, from):
			w.add(here+".from", "%s stands here twice", from)
		case in != "request" && has(tos, to):
			w.add(here+".to", "%s is what several values become, so that it is not known which to give back; write one change with in: request and one with in: response", to)
		}
		froms, tos = append(froms, from), append(tos, to)
	}
	replace := func(from, to [][]byte) func(*document.Value) {
		return func(v *document.Value) {
			v.Each(p, func(at *document.Value) bool {
				for i := range from {
					if isValue(at, from[i]) {
						at.Become(to[i])
						return true
					}
				}
				return false
			})
		}
	}
	s.up, s.down = replace(froms, tos), replace(tos, froms)
}

func has(list [][]byte, value []byte) bool {
	return slices.ContainsFunc(list, func(v []byte) bool { return bytes.Equal(v, value) })
}

// isValue compares a value with one of the configuration: texts by what they say, all others by how they are written.
func isValue(v *document.Value, want []byte) bool {
	if v.Kind() != document.String {
		return bytes.Equal(v.Text(), want)
	}
	if want[0] != '"' {
		return false
	}
	if bytes.Equal(v.Text(), want) {
		return true
	}
	text, _ := v.AsString()
	return bytes.Equal(document.Quote(text), want)
}

func (s *step) compileHeaders(w *wrongs, at string, h *Headers, in string) {
	check := func(at, name string) {
		if err := checkHeader(name); err != nil {
			w.add(at, "%v", err)
		}
	}
	value := func(at, text string) []byte {
		if !exchange.IsFieldValue([]byte(text)) {
			w.add(at, "a header can not hold control characters, such as a line break")
		}
		return []byte(text)
	}
	for _, from := range slices.Sorted(maps.Keys(h.Rename)) {
		here, to := at+".rename."+from, h.Rename[from]
		check(here, from)
		check(here, to)
		if strings.EqualFold(from, to) {
			w.add(here, "is renamed to itself")
		}
		s.headers = append(s.headers, headerChange{from: from, to: to})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Add)) {
		here := at + ".add." + name
		check(here, name)
		s.headers = append(s.headers, headerChange{to: name, value: value(here, h.Add[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Remove)) {
		here := at + ".remove." + name
		check(here, name)
		if h.Remove[name] == "" && in != "request" {
			w.add(here, "has no value: clients of older versions expect the header; give one, or in: request")
		}
		s.headers = append(s.headers, headerChange{from: name, value: value(here, h.Remove[name])})
	}
	if len(s.headers) == 0 {
		w.add(at, "changes nothing; give rename, add or remove")
	}
	s.headersUp, s.headersDown = true, true
}

func checkHeader(name string) error {
	switch {
	case !exchange.IsToken(name):
		return errors.New(strconv.Quote(name) + " can not be the name of a header")
	case exchange.KindOf([]byte(name)) != exchange.KindOther:
		return errors.New(name + " is the gateway's own and can not be changed")
	}
	return nil
}
