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
	templates bool // texts may hold ${…} templates: so in policies and actions
}

func (d *decoder) fail(pos Position, path, format string, a ...any) {
	d.errs = append(d.errs, &Error{Pos: pos, Path: path, Message: fmt.Sprintf(format, a...)})
}

// value decodes n into v, which is settable. An empty n changes nothing, except that a
// block becomes one with its defaults.
func (d *decoder) value(n *node, v reflect.Value, path string, g *tags) {
	t := v.Type()
	switch {
	case t == blockType:
		v.Set(reflect.ValueOf(Block{node: n, path: path}))
		return
	case t.Kind() == reflect.Pointer:
		if n.kind == null && isScalar(t.Elem()) {
			return
		}
		made := reflect.New(t.Elem())
		d.value(n, made.Elem(), path, g)
		v.Set(made)
		return
	case t.Kind() == reflect.Interface && t.NumMethod() == 0:
		if got := n.value(); got != nil {
			v.Set(reflect.ValueOf(got))
		}
		return
	case isScalar(t):
		d.scalar(n, v, path, g)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		d.block(n, v, path)
	case reflect.Map:
		d.table(n, v, path, g)
	case reflect.Slice:
		d.list(n, v, path, g)
	default:
		panic(fmt.Sprintf("BUG: %s can not be configured", t))
	}
}

func (d *decoder) scalar(n *node, v reflect.Value, path string, g *tags) {
	switch n.kind {
	case null:
		return
	case mapping, sequence:
		d.fail(n.blame(), path, "found %s, want %s", n.found(), wanted(v.Type()))
		return
	}
	if n.template && !(d.templates || g.template) || n.template && v.Type() == secretType {
		i := strings.Index(n.text, "${")
		inner, _, _ := cutBrace(n.text[i+2:])
		d.fail(n.pos(), path, "${%s} is no environment variable, whose names are upper case, and this setting takes no templates; write ${%s}, or $${ for a literal ${", inner, upperName(inner))
		return
	}
	text := n.text
	if text == "false" && slices.Contains(g.enum, "off") {
		text = "off"
	}
	if err := setScalar(v, text); err != nil {
		d.fail(n.pos(), path, "%v", err)
		return
	}
	if err := g.check(v, text); err != nil {
		d.fail(n.pos(), path, "%v", err)
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

// setScalar reads text as v's type has it.
func setScalar(v reflect.Value, text string) error {
	t := v.Type()
	switch {
	case t == durationType:
		dur, err := ParseDuration(text)
		v.SetInt(int64(dur))
		return err
	case t == timeType:
		at, err := parseTime(text)
		v.Set(reflect.ValueOf(at))
		return err
	case reflect.PointerTo(t).Implements(textType):
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := parseBool(text)
		v.SetBool(b)
		return err
	case reflect.Float32, reflect.Float64:
		f, err := parseFloat(text)
		v.SetFloat(f)
		return err
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		i, err := parseInt(text, 64)
		if err != nil {
			return err
		}
		if i < 0 || v.OverflowUint(uint64(i)) {
			return fmt.Errorf("%s is out of range", text)
		}
		v.SetUint(uint64(i))
	default:
		i, err := parseInt(text, t.Bits())
		v.SetInt(i)
		return err
	}
	return nil
}

// check holds a scalar to its enum and bounds.
func (g *tags) check(v reflect.Value, text string) error {
	if len(g.enum) > 0 && !slices.Contains(g.enum, text) {
		return fmt.Errorf("%q is not one of %s%s", text, strings.Join(g.enum, ", "), suggest(text, g.enum))
	}
	if g.required && text == "" {
		return fmt.Errorf("this setting must not be empty")
	}
	for _, bound := range [...]struct {
		text, words string
		sign        int
	}{{g.min, "at least", -1}, {g.max, "at most", 1}} {
		if bound.text == "" {
			continue
		}
		limit := reflect.New(v.Type()).Elem()
		if err := setScalar(limit, bound.text); err != nil {
			panic("BUG: the bound of a setting: " + err.Error())
		}
		if compare(v, limit) == bound.sign {
			return fmt.Errorf("%s is out of range; it must be %s %s", text, bound.words, bound.text)
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

func (d *decoder) block(n *node, v reflect.Value, path string) {
	t := v.Type()
	p := planOf(t)
	v.SetZero()
	if rewriter, ok := v.Addr().Interface().(interface{ normalize(*node) }); ok {
		rewriter.normalize(n)
	}
	fields := n.fields
	switch n.kind {
	case sequence:
		d.fail(n.blame(), path, "found %s, want %s", n.found(), wanted(t))
		return
	case scalar:
		off, on := n.toggle()
		short := shorthand(t)
		switch {
		case p.off >= 0 && off:
			v.Field(p.off).SetBool(true)
			return
		case off:
			d.fail(n.blame(), path, "this block can not be turned off; want %s", wanted(t))
			return
		case on:
		case short != "":
			fields = []field{{short, n}}
		default:
			// The text may be a secret that was written one level too high.
			d.fail(n.blame(), path, "found a single value, want %s", wanted(t))
			return
		}
	}
	applyDefaults(v)
	before := len(d.errs)
	for _, f := range fields {
		if p.field(f.key) == nil {
			d.fail(f.value.keyPos(), joinKey(path, f.key), "unknown setting%s", hint(f.key, p.names()))
		}
	}
	for i := range p.fields {
		f := &p.fields[i]
		at := slices.IndexFunc(fields, func(given field) bool { return given.key == f.name })
		child := v.FieldByIndex(f.index)
		if at < 0 || fields[at].value.kind == null {
			if f.required && child.IsZero() {
				d.fail(n.keyPos(), joinKey(path, f.name), "this setting is missing; want %s", wanted(f.typ))
			}
			if at < 0 {
				continue
			}
		}
		d.value(fields[at].value, child, joinKey(path, f.name), &f.tags)
	}
	if len(d.errs) == before {
		if c, ok := v.Addr().Interface().(interface{ Complete() }); ok {
			c.Complete()
		}
		d.validate(n, v, path)
	}
}

// validate runs the type's own Validate, whose errors are relative to the block.
func (d *decoder) validate(n *node, v reflect.Value, path string) {
	checked, ok := v.Addr().Interface().(interface{ Validate() error })
	if !ok {
		return
	}
	for _, e := range flatten(checked.Validate()) {
		placed := *e
		if placed.Pos == (Position{}) {
			placed.Pos = n.locate(placed.Path).blame()
			placed.Path = joinPath(path, placed.Path)
		}
		d.errs = append(d.errs, &placed)
	}
}

// applyDefaults gives every setting of the struct v the value it has when it is left out.
func applyDefaults(v reflect.Value) {
	p := planOf(v.Type())
	for i := range p.fields {
		f := &p.fields[i]
		child := v.FieldByIndex(f.index)
		switch {
		case f.preset == "":
			if f.typ.Kind() == reflect.Struct && f.typ != blockType && !isScalar(f.typ) {
				applyDefaults(child)
			}
		case f.typ.Kind() == reflect.Struct && !isScalar(f.typ):
			off := planOf(f.typ).off
			if f.preset != "off" || off < 0 {
				panic(fmt.Sprintf("BUG: %s.%s can not default to %q", v.Type(), f.name, f.preset))
			}
			child.Field(off).SetBool(true)
		case f.typ.Kind() == reflect.Slice:
			items := strings.Split(f.preset, ",")
			child.Set(reflect.MakeSlice(f.typ, len(items), len(items)))
			for i, item := range items {
				mustSet(child.Index(i), item)
			}
		case f.typ.Kind() == reflect.Pointer:
			child.Set(reflect.New(f.typ.Elem()))
			mustSet(child.Elem(), f.preset)
		default:
			mustSet(child, f.preset)
		}
	}
}

func mustSet(v reflect.Value, text string) {
	if err := setScalar(v, text); err != nil {
		panic("BUG: the default of a setting: " + err.Error())
	}
}

// Defaults returns the settings that an empty block of type T has.
func Defaults[T any]() T {
	var settings T
	applyDefaults(reflect.ValueOf(&settings).Elem())
	return settings
}

// table decodes a map: names to blocks, or keys to values.
func (d *decoder) table(n *node, v reflect.Value, path string, g *tags) {
	t := v.Type()
	switch n.kind {
	case null:
		return
	case scalar, sequence:
		d.fail(n.blame(), path, "found %s, want %s", n.found(), wanted(t))
		return
	}
	made := reflect.MakeMapWithSize(t, len(n.fields))
	for i, f := range n.fields {
		at := joinKey(path, f.key)
		key := reflect.New(t.Key()).Elem()
		if err := setScalar(key, f.key); err != nil {
			d.fail(f.value.keyPos(), at, "%v", err)
			continue
		}
		value := reflect.New(t.Elem()).Elem()
		d.value(f.value, value, at, g)
		if block := reflect.Indirect(value); block.IsValid() && block.Kind() == reflect.Struct && block.Type() != blockType && !isScalar(block.Type()) {
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
		d.fail(n.blame(), path, "this setting must not be empty")
	}
	v.Set(made)
}

func (d *decoder) list(n *node, v reflect.Value, path string, g *tags) {
	t := v.Type()
	items := n.items
	switch {
	case n.kind == null:
		return
	case n.kind == scalar && t == reflect.TypeFor[StringList]():
		items = []*node{n}
	case n.kind == scalar && isScalar(t.Elem()) && (n.src.kind == "env" || n.src.kind == "flag"):
		items = nil
		for text := range strings.SplitSeq(n.text, ",") {
			if text = strings.TrimSpace(text); text != "" {
				part := *n
				part.text = text
				items = append(items, &part)
			}
		}
	case n.kind != sequence:
		d.fail(n.blame(), path, "found %s, want %s; write [%s]", n.found(), wanted(t), n.sketch())
		return
	}
	made := reflect.MakeSlice(t, len(items), len(items))
	element := *g
	element.required = false
	for i, item := range items {
		at := joinIndex(path, i)
		if item == n {
			at = path
		}
		if item.kind == null && t.Elem().Kind() != reflect.Interface {
			d.fail(item.blame(), at, "this element is empty; want %s", wanted(t.Elem()))
			continue
		}
		d.value(item, made.Index(i), at, &element)
	}
	if g.required && len(items) == 0 {
		d.fail(n.blame(), path, "this list must not be empty")
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
