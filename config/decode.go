package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decoder fills Go values from a tree and collects every mistake on the way.
type decoder struct {
	errs      Errors
	path      trail
	templates bool // texts may hold ${…} templates: so in policies and actions
}

func (d *decoder) fail(pos Position, format string, a ...any) {
	d.errs = append(d.errs, &Error{Pos: pos, Path: d.path.String(), Message: fmt.Sprintf(format, a...)})
}

// decode fills v, which is settable, from what is written at a path.
func (d *decoder) decode(n *node, v reflect.Value, path string) {
	d.path.base = path
	d.value(n, v, shapeOf(v.Type()), &tags{})
}

// value decodes n into v, whose shape is s. An empty n changes nothing, except that a
// block becomes one with its defaults.
func (d *decoder) value(n *node, v reflect.Value, s *shape, g *tags) {
	switch s.form {
	case formScalar:
		d.scalar(n, v, s, g)
	case formBlock:
		d.block(n, v)
	case formTable:
		d.table(n, v, s, g)
	case formList:
		d.list(n, v, s, g)
	case formPointer:
		if n.kind == null && s.elem.form == formScalar {
			return
		}
		made := reflect.New(s.elem.typ)
		d.value(n, made.Elem(), s.elem, g)
		v.Set(made)
	case formAnything:
		if got := n.value(); got != nil {
			v.Set(reflect.ValueOf(got))
		}
	case formLater:
		v.Set(reflect.ValueOf(Block{node: n, path: d.path.String()}))
	}
}

func (d *decoder) scalar(n *node, v reflect.Value, s *shape, g *tags) {
	switch n.kind {
	case null:
		return
	case mapping, sequence:
		d.fail(n.blame(), "found %s, want %s", n.found(), wanted(s.typ))
		return
	}
	if n.template && !(d.templates || g.template) || n.template && s.typ == secretType {
		i := strings.Index(n.text, "${")
		inner, _, _ := cutBrace(n.text[i+2:])
		d.fail(n.pos(), "${%s} is no environment variable, whose names are upper case, and this setting takes no templates; write ${%s}, or $${ for a literal ${", inner, upperName(inner))
		return
	}
	text := n.text
	if text == "false" && slices.Contains(g.enum, "off") {
		text = "off"
	}
	if err := s.set(v, text); err != nil {
		d.fail(n.pos(), "%v", err)
		return
	}
	if err := g.check(v, text); err != nil {
		d.fail(n.pos(), "%v", err)
	}
}

func upperName(s string) string {
	name := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || r == ' ' {
			return '_'
		}
		return r
	}, strings.ToUpper(s))
	if envName(name) != name || name == "" {
		return "NAME"
	}
	return name
}

// scalarSetter returns what reads a text as t has it.
func scalarSetter(t reflect.Type) func(v reflect.Value, text string) error {
	switch {
	case t == durationType:
		return func(v reflect.Value, text string) error {
			dur, err := ParseDuration(text)
			v.SetInt(int64(dur))
			return err
		}
	case t == timeType:
		return func(v reflect.Value, text string) error {
			at, err := parseTime(text)
			v.Set(reflect.ValueOf(at))
			return err
		}
	case reflect.PointerTo(t).Implements(textType):
		return func(v reflect.Value, text string) error {
			return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
		}
	}
	switch t.Kind() {
	case reflect.String:
		return func(v reflect.Value, text string) error {
			v.SetString(text)
			return nil
		}
	case reflect.Bool:
		return func(v reflect.Value, text string) error {
			b, err := parseBool(text)
			v.SetBool(b)
			return err
		}
	case reflect.Float32, reflect.Float64:
		return func(v reflect.Value, text string) error {
			f, err := parseFloat(text)
			v.SetFloat(f)
			return err
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(v reflect.Value, text string) error {
			i, err := parseInt(text, 64)
			if err != nil {
				return err
			}
			if i < 0 || v.OverflowUint(uint64(i)) {
				return fmt.Errorf("%s is out of range", text)
			}
			v.SetUint(uint64(i))
			return nil
		}
	}
	return func(v reflect.Value, text string) error {
		i, err := parseInt(text, t.Bits())
		v.SetInt(i)
		return err
	}
}

// check holds a scalar to its enum and bounds.
func (g *tags) check(v reflect.Value, text string) error {
	if len(g.enum) > 0 && !slices.Contains(g.enum, text) {
		return fmt.Errorf("%q is not one of %s%s", text, strings.Join(g.enum, ", "), suggest(text, g.enum))
	}
	if g.required && text == "" {
		return fmt.Errorf("this setting must not be empty")
	}
	for i := range g.limits {
		if b := &g.limits[i]; compare(v, b.value) == b.sign {
			return fmt.Errorf("%s is out of range; it must be %s %s", text, b.words, b.text)
		}
	}
	return nil
}

func compare(a, b reflect.Value) int {
	switch {
	case a.CanInt():
		return order(a.Int(), b.Int())
	case a.CanUint():
		return order(a.Uint(), b.Uint())
	case a.CanFloat():
		return order(a.Float(), b.Float())
	}
	panic(fmt.Sprintf("BUG: %s has no order, so no min or max", a.Type()))
}

func order[T int64 | uint64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (d *decoder) block(n *node, v reflect.Value) {
	p := planOf(v.Type())
	v.SetZero()
	if p.hooks&hasNormalize != 0 {
		v.Addr().Interface().(normalizer).normalize(n)
	}
	fields := n.fields
	switch n.kind {
	case sequence:
		d.fail(n.blame(), "found %s, want %s", n.found(), wanted(v.Type()))
		return
	case scalar:
		off, on := n.toggle()
		switch {
		case p.off >= 0 && off:
			v.Field(p.off).SetBool(true)
			return
		case off:
			d.fail(n.blame(), "this block can not be turned off; want %s", wanted(v.Type()))
			return
		case on:
		case p.short != "":
			fields = []field{{p.short, n}}
		default:
			// The text may be a secret that was written one level too high.
			d.fail(n.blame(), "found a single value, want %s", wanted(v.Type()))
			return
		}
	}
	p.reset(v)
	before := len(d.errs)
	for _, given := range fields {
		f := p.field(given.key)
		if f == nil {
			d.path.enterKey(given.key)
			d.fail(given.value.keyPos(), "unknown setting%s", hint(given.key, p.names()))
			d.path.leave()
			continue
		}
		child := v.FieldByIndex(f.index)
		if f.required && given.value.kind == null {
			d.missing(n, child, f)
		}
		d.path.enterKey(f.name)
		d.value(given.value, child, f.shape, &f.tags)
		d.path.leave()
	}
	for _, i := range p.required {
		f := &p.fields[i]
		if !slices.ContainsFunc(fields, func(given field) bool { return given.key == f.name }) {
			d.missing(n, v.FieldByIndex(f.index), f)
		}
	}
	if len(d.errs) > before {
		return
	}
	if p.hooks&hasComplete != 0 {
		v.Addr().Interface().(completer).Complete()
	}
	if p.hooks&hasValidate != 0 {
		d.validate(n, v.Addr().Interface().(validator))
	}
}

// missing fails for a required setting that is left out, and has no default.
func (d *decoder) missing(n *node, v reflect.Value, f *planField) {
	if v.IsZero() {
		d.path.enterKey(f.name)
		d.fail(n.keyPos(), "this setting is missing; want %s", wanted(f.typ))
		d.path.leave()
	}
}

// validate runs the type's own Validate, whose errors are relative to the block.
func (d *decoder) validate(n *node, block validator) {
	for _, e := range flatten(block.Validate()) {
		placed := *e
		if placed.Pos == (Position{}) {
			placed.Pos = n.locate(placed.Path).blame()
			placed.Path = joinPath(d.path.String(), placed.Path)
		}
		d.errs = append(d.errs, &placed)
	}
}

// Defaults returns the settings that an empty block of type T has.
func Defaults[T any]() T {
	var settings T
	v := reflect.ValueOf(&settings).Elem()
	planOf(v.Type()).reset(v)
	return settings
}

// table decodes a map: names to blocks, or keys to values.
func (d *decoder) table(n *node, v reflect.Value, s *shape, g *tags) {
	switch n.kind {
	case null:
		return
	case scalar, sequence:
		d.fail(n.blame(), "found %s, want %s", n.found(), wanted(s.typ))
		return
	}
	made := reflect.MakeMapWithSize(s.typ, len(n.fields))
	key, value := reflect.New(s.key.typ).Elem(), reflect.New(s.elem.typ).Elem()
	for i, f := range n.fields {
		d.path.enterKey(f.key)
		if err := s.key.set(key, f.key); err != nil {
			d.fail(f.value.keyPos(), "%v", err)
			d.path.leave()
			continue
		}
		value.SetZero()
		d.value(f.value, value, s.elem, g)
		d.path.leave()
		if block := reflect.Indirect(value); block.IsValid() && (s.elem.form == formBlock || s.elem.form == formPointer && s.elem.elem.form == formBlock) {
			p := planOf(block.Type())
			if p.key >= 0 {
				block.Field(p.key).SetString(f.key)
			}
			if p.place >= 0 {
				block.Field(p.place).SetInt(int64(i))
			}
		}
		made.SetMapIndex(key, value)
	}
	if g.required && len(n.fields) == 0 {
		d.fail(n.blame(), "this setting must not be empty")
	}
	v.Set(made)
}

func (d *decoder) list(n *node, v reflect.Value, s *shape, g *tags) {
	items := n.items
	switch {
	case n.kind == null:
		return
	case n.kind == scalar && s.typ == reflect.TypeFor[StringList]():
		items = []*node{n}
	case n.kind == scalar && s.elem.form == formScalar && (n.src.kind == "env" || n.src.kind == "flag"):
		items = nil
		for text := range strings.SplitSeq(n.text, ",") {
			if text = strings.TrimSpace(text); text != "" {
				part := *n
				part.text = text
				items = append(items, &part)
			}
		}
	case n.kind != sequence:
		d.fail(n.blame(), "found %s, want %s; write [%s]", n.found(), wanted(s.typ), n.sketch())
		return
	}
	made := reflect.MakeSlice(s.typ, len(items), len(items))
	inner := g
	if g.required {
		element := *g
		element.required = false
		inner = &element
	}
	for i, item := range items {
		if item != n {
			d.path.enterIndex(i)
		}
		if item.kind == null && s.elem.form != formAnything {
			d.fail(item.blame(), "this element is empty; want %s", wanted(s.elem.typ))
		} else {
			d.value(item, made.Index(i), s.elem, inner)
		}
		if item != n {
			d.path.leave()
		}
	}
	if g.required && len(items) == 0 {
		d.fail(n.blame(), "this list must not be empty")
	}
	v.Set(made)
}

// sketch shows a value inside a message, without its content where that is long.
func (n *node) sketch() string {
	if n.kind == scalar && len(n.text) <= 40 && !strings.Contains(n.text, "\n") {
		return n.text
	}
	return "…"
}

// found says in words what n is.
func (n *node) found() string {
	switch n.kind {
	case mapping:
		return "a block of settings"
	case sequence:
		return "a list"
	case scalar:
		if n.quoted {
			return "a text"
		}
		switch resolve(n.text).(type) {
		case int64, float64:
			return "the number " + n.text
		case bool:
			return n.text
		}
		return "the text " + strconv.Quote(n.sketch())
	}
	return "nothing"
}
