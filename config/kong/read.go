package kong

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
)

// kind is the form of a field's value.
type kind uint8

const (
	text kind = iota
	integer
	number
	boolean
	texts   // a list of texts
	record  // a block of fields
	records // a list of blocks
	lists   // lists of texts by name
	anything
)

// fate is what becomes of a field of Kong.
type fate uint8

const (
	mapped  fate = iota // becomes native settings
	kept                // has the same name and meaning there
	inert               // says nothing about requests here
	refused             // can not be honoured
	unbuilt             // can not be honoured yet
)

func (f fate) String() string {
	return [...]string{"mapped", "kept", "kept, without effect", "refused", "refused: not built yet"}[f]
}

// field describes one field of an entity or an option of a plugin. The tables of fields are what files are read by and what
// the matrix in README.md is written from.
type field struct {
	name   string
	kind   kind
	preset string // Kong's default; of a list with commas
	enum   []string
	min    float64
	max    float64 // 0: no bound
	fate   fate
	to     string // what it becomes, or why it can not be honoured
	sub    []field
	was    []string // its older names
	// elsewhere: what became of it is noted where it is understood.
	elsewhere bool
}

// block is a block of a file, read by a table of fields.
type block struct {
	t      *translation
	tree   config.Tree
	path   string
	fields []field
	values map[string]config.Tree
}

// read reads a block. Mistakes are reported; what can not be honoured is reported to unhonoured, each with its reason.
func (t *translation) read(tree config.Tree, path string, fields []field, unhonoured func(at config.Tree, path, why string)) block {
	b := block{t: t, tree: tree, path: path, fields: fields, values: map[string]config.Tree{}}
	if tree.Null() {
		return b
	}
	if !tree.Map() {
		t.fail(tree, path, "found %s, want a block of fields", tree.Found())
		return b
	}
	for _, key := range tree.Keys() {
		value, at := tree.Get(key), join(path, key)
		f := b.describe(key)
		if f == nil {
			var known []string
			for _, f := range fields {
				known = append(known, f.name)
			}
			t.fail(value, at, "Kong has no such field here%s", config.Hint(key, known))
			continue
		}
		if value.Null() {
			continue
		}
		if _, twice := b.values[f.name]; twice {
			t.fail(value, at, "this is %s under its older name, which stands here too", f.name)
			continue
		}
		if problem := f.problem(value); problem != "" {
			t.fail(value, at, "%s", problem)
			continue
		}
		b.values[f.name] = value
		switch {
		case f.fate < refused:
			if !f.elsewhere && f.kind != record && f.kind != records {
				t.note(value, at, f.fate, f.to)
			}
		case f.isPreset(value):
			t.note(value, at, inert, "Kong's default")
		default:
			unhonoured(value, at, f.why())
		}
	}
	return b
}

func (f *field) why() string {
	if f.fate == unbuilt {
		return "is not built yet" + dash(f.to)
	}
	return "can not be honoured" + dash(f.to)
}

func dash(why string) string {
	if why == "" {
		return "; leave it out"
	}
	return ": " + why
}

func (b *block) describe(name string) *field {
	for i := range b.fields {
		if f := &b.fields[i]; f.name == name || slices.Contains(f.was, name) {
			return f
		}
	}
	return nil
}

// problem says what is wrong with a value, or nothing.
func (f *field) problem(v config.Tree) string {
	switch f.kind {
	case text:
		if !v.Scalar() {
			return fmt.Sprintf("found %s, want a text", v.Found())
		}
		if len(f.enum) > 0 && !slices.Contains(f.enum, v.Text()) {
			return fmt.Sprintf("%q is not one of %s%s", v.Text(), strings.Join(f.enum, ", "), config.Hint(v.Text(), nil))
		}
	case integer, number:
		n, err := strconv.ParseFloat(v.Text(), 64)
		if !v.Scalar() || err != nil || math.IsNaN(n) || f.kind == integer && n != math.Trunc(n) {
			if f.kind == integer {
				return fmt.Sprintf("found %s, want a whole number", v.Found())
			}
			return fmt.Sprintf("found %s, want a number", v.Found())
		}
		if len(f.enum) > 0 && !slices.Contains(f.enum, v.Text()) {
			return fmt.Sprintf("%s is not one of %s", v.Text(), strings.Join(f.enum, ", "))
		}
		if n < f.min || f.max > 0 && n > f.max {
			if f.max > 0 {
				return fmt.Sprintf("%s is out of range; it must be from %v to %v", v.Text(), f.min, f.max)
			}
			return fmt.Sprintf("%s is out of range; it must be at least %v", v.Text(), f.min)
		}
	case boolean:
		if !v.Scalar() || v.Text() != "true" && v.Text() != "false" {
			return fmt.Sprintf("found %s, want true or false", v.Found())
		}
	case texts:
		if v.Map() {
			if v.Len() == 0 {
				return ""
			}
			return "found a block of settings, want a list of texts"
		}
		for _, item := range v.Items() {
			if !item.Scalar() {
				return fmt.Sprintf("found %s in the list, want texts", item.Found())
			}
			if len(f.enum) > 0 && !slices.Contains(f.enum, item.Text()) {
				return fmt.Sprintf("%q is not one of %s", item.Text(), strings.Join(f.enum, ", "))
			}
		}
	case record:
		if !v.Map() {
			return fmt.Sprintf("found %s, want a block of fields", v.Found())
		}
	case records:
		if !v.List() && !(v.Map() && v.Len() == 0) {
			return fmt.Sprintf("found %s, want a list", v.Found())
		}
	case lists:
		if !v.Map() && !(v.List() && v.Len() == 0) {
			return fmt.Sprintf("found %s, want lists of texts by name", v.Found())
		}
	}
	return ""
}

// isPreset tells whether a value says what is so without it.
func (f *field) isPreset(v config.Tree) bool {
	switch {
	case v.Map():
		for _, key := range v.Keys() {
			inner := v.Get(key)
			if inner.Null() {
				continue
			}
			i := slices.IndexFunc(f.sub, func(s field) bool { return s.name == key })
			if i < 0 && (inner.Len() > 0 || inner.Scalar()) || i >= 0 && !f.sub[i].isPreset(inner) {
				return false
			}
		}
		return true
	case v.List():
		all := make([]string, 0, v.Len())
		for _, item := range v.Items() {
			if !item.Scalar() {
				return false
			}
			all = append(all, item.Text())
		}
		return strings.Join(all, ",") == f.preset
	case f.kind == boolean && f.preset == "":
		return v.Text() == "false"
	}
	return v.Text() == f.preset
}

func (b *block) has(name string) bool {
	_, ok := b.values[name]
	return ok
}

// at is where a field stands, or the block where it is left out.
func (b *block) at(name string) config.Tree {
	if v, ok := b.values[name]; ok {
		return v
	}
	return b.tree
}

func (b *block) where(name string) string { return join(b.path, name) }

func (b *block) fail(name, format string, a ...any) {
	b.t.fail(b.at(name), b.where(name), format, a...)
}

func (b *block) text(name string) string {
	if v, ok := b.values[name]; ok {
		return v.Text()
	}
	f := b.describe(name)
	if f == nil {
		panic("BUG: no field " + name + " is described for " + b.path)
	}
	return f.preset
}

func (b *block) yes(name string) bool { return b.text(name) == "true" }

func (b *block) number(name string) float64 {
	n, _ := strconv.ParseFloat(b.text(name), 64)
	return n
}

func (b *block) integer(name string) int { return int(b.number(name)) }

// list returns the elements of a list; a single text is a list of one.
func (b *block) list(name string) []config.Tree {
	v, ok := b.values[name]
	if !ok {
		preset := b.text(name)
		if preset == "" {
			return nil
		}
		var items []config.Tree
		for one := range strings.SplitSeq(preset, ",") {
			items = append(items, config.NewText(b.tree, one))
		}
		return items
	}
	if v.Scalar() {
		return []config.Tree{v}
	}
	return v.Items()
}

func (b *block) texts(name string) []string {
	var all []string
	for _, item := range b.list(name) {
		all = append(all, item.Text())
	}
	return all
}

// sub reads a block below a field.
func (b *block) sub(name string, unhonoured func(at config.Tree, path, why string)) block {
	return b.t.read(b.values[name], b.where(name), b.describe(name).sub, unhonoured)
}

func join(path, key string) string {
	for i := range len(key) {
		c := key[i]
		if !(c == '_' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			return path + "[" + strconv.Quote(key) + "]"
		}
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
