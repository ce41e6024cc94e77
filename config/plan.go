package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
)

// plan is what a struct type says of its settings, read once.
type plan struct {
	fields   []planField
	byName   map[string]int
	off      int    // index of the Off flag, or -1
	key      int    // index of the field that takes the block's name, or -1
	place    int    // index of the field that takes the block's place among its siblings, or -1
	short    string // as shorthand says
	required []int  // of the fields
	hooks    hooks
	// preset is the struct with all settings left out, but for the lists and pointers of its defaults, which each has for itself.
	preset reflect.Value
	fresh  []freshDefault
}

// planField is one setting.
type planField struct {
	name  string
	index []int
	typ   reflect.Type
	shape *shape
	tags
}

// freshDefault is a default that is made anew for each block, so that none can change another's.
type freshDefault struct {
	index []int
	value reflect.Value
}

// tags constrain a setting; those of a list or map constrain each element.
type tags struct {
	preset   string // the default
	enum     []string
	min, max string
	limits   []limit // min and max, as values
	required bool
	template bool
	secret   bool
}

// limit is the least or the most that a setting can be.
type limit struct {
	value       reflect.Value
	text, words string
	sign        int // what comparing a value that is out of it gives
}

// hooks are the methods that a struct type may have for its decoding.
type hooks uint8

const (
	hasNormalize hooks = 1 << iota
	hasComplete
	hasValidate
)

type (
	normalizer interface{ normalize(n *node) }
	completer  interface{ Complete() }
	validator  interface{ Validate() error }
)

func hooksOf(t reflect.Type) (all hooks) {
	has := func(hook hooks, method reflect.Type) {
		if reflect.PointerTo(t).Implements(method) {
			all |= hook
		}
	}
	has(hasNormalize, reflect.TypeFor[normalizer]())
	has(hasComplete, reflect.TypeFor[completer]())
	has(hasValidate, reflect.TypeFor[validator]())
	return all
}

func (p *plan) field(name string) *planField {
	if i, ok := p.byName[name]; ok {
		return &p.fields[i]
	}
	return nil
}

func (p *plan) names() []string {
	names := make([]string, len(p.fields))
	for i, f := range p.fields {
		names[i] = f.name
	}
	return names
}

var plans sync.Map // reflect.Type of a struct -> *plan

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := &plan{off: -1, key: -1, place: -1, short: shorthand(t), hooks: hooksOf(t), byName: map[string]int{}}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case f.Anonymous && (name == "" || options == "inline") && f.Type.Kind() == reflect.Struct:
			for _, inner := range planOf(f.Type).fields {
				inner.index = append([]int{i}, inner.index...)
				p.fields = append(p.fields, inner)
			}
			continue
		case !f.IsExported():
			continue
		case name == "-":
			if f.Name == "Off" && f.Type.Kind() == reflect.Bool {
				p.off = i
			}
			if f.Tag.Get("key") == "true" {
				p.key = i
			}
			if f.Tag.Get("place") == "true" {
				p.place = i
			}
			continue
		case name == "":
			panic(fmt.Sprintf("BUG: %s.%s has no yaml tag", t, f.Name))
		}
		p.fields = append(p.fields, planField{name: name, index: []int{i}, typ: f.Type, shape: shapeOf(f.Type), tags: tagsOf(f)})
	}
	for i, f := range p.fields {
		if _, ok := p.byName[f.name]; !ok {
			p.byName[f.name] = i
		}
		if f.required {
			p.required = append(p.required, i)
		}
	}
	p.preset = reflect.New(t).Elem()
	p.presets(p.preset)
	actual, _ := plans.LoadOrStore(t, p)
	return actual.(*plan)
}

func tagsOf(f reflect.StructField) tags {
	g := tags{
		preset:   f.Tag.Get("default"),
		min:      f.Tag.Get("min"),
		max:      f.Tag.Get("max"),
		required: f.Tag.Get("required") == "true",
		template: f.Tag.Get("template") == "true",
		secret:   f.Tag.Get("secret") == "true",
	}
	if enum := f.Tag.Get("enum"); enum != "" {
		g.enum = strings.Split(enum, "|")
	}
	for _, b := range [...]limit{{text: g.min, words: "at least", sign: -1}, {text: g.max, words: "at most", sign: 1}} {
		if b.text != "" {
			b.value = reflect.New(scalarOf(f.Type)).Elem()
			mustSet(b.value, b.text)
			g.limits = append(g.limits, b)
		}
	}
	return g
}

// scalarOf is the type of the single values in a setting of type t.
func scalarOf(t reflect.Type) reflect.Type {
	for !isScalar(t) && (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map) {
		t = t.Elem()
	}
	return t
}

// presets gives every setting of the struct v the value it has when it is left out, or notes it as one to be made anew.
func (p *plan) presets(v reflect.Value) {
	for i := range p.fields {
		f := &p.fields[i]
		child := v.FieldByIndex(f.index)
		isBlock := f.shape.form == formBlock
		switch {
		case isBlock && f.preset == "":
			inner := planOf(f.typ)
			child.Set(inner.preset)
			for _, d := range inner.fresh {
				p.fresh = append(p.fresh, freshDefault{slices.Concat(f.index, d.index), d.value})
			}
		case f.preset == "":
		case isBlock:
			off := planOf(f.typ).off
			if f.preset != "off" || off < 0 {
				panic(fmt.Sprintf("BUG: %s.%s can not default to %q", v.Type(), f.name, f.preset))
			}
			child.Field(off).SetBool(true)
		case f.typ.Kind() == reflect.Slice:
			items := strings.Split(f.preset, ",")
			made := reflect.MakeSlice(f.typ, len(items), len(items))
			for i, item := range items {
				mustSet(made.Index(i), item)
			}
			p.fresh = append(p.fresh, freshDefault{f.index, made})
		case f.typ.Kind() == reflect.Pointer:
			made := reflect.New(f.typ.Elem())
			mustSet(made.Elem(), f.preset)
			p.fresh = append(p.fresh, freshDefault{f.index, made})
		default:
			mustSet(child, f.preset)
		}
	}
}

// reset gives every setting of the struct v the value it has when it is left out.
func (p *plan) reset(v reflect.Value) {
	v.Set(p.preset)
	for _, d := range p.fresh {
		child := v.FieldByIndex(d.index)
		if d.value.Kind() == reflect.Pointer {
			child.Set(reflect.New(d.value.Type().Elem()))
			child.Elem().Set(d.value.Elem())
			continue
		}
		child.Set(reflect.MakeSlice(d.value.Type(), d.value.Len(), d.value.Len()))
		reflect.Copy(child, d.value)
	}
}

func mustSet(v reflect.Value, text string) {
	if err := shapeOf(v.Type()).set(v, text); err != nil {
		panic("BUG: what a tag has for a setting: " + err.Error())
	}
}

// form is how values of a type are written.
type form uint8

const (
	formScalar   form = iota // one text
	formBlock                // a struct
	formTable                // a map
	formList                 // a slice
	formPointer              // as what it points to
	formAnything             // an interface: as JSON would have it
	formLater                // a Block
)

// shape is what the decoder wants to know of a type, looked up once for each.
type shape struct {
	typ  reflect.Type
	form form
	set  func(v reflect.Value, text string) error // of a scalar
	key  *shape                                   // of a table
	elem *shape                                   // of a table, a list, a pointer
}

var shapes sync.Map // reflect.Type -> *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{typ: t}
	switch {
	case t == blockType:
		s.form = formLater
	case t.Kind() == reflect.Pointer:
		s.form, s.elem = formPointer, shapeOf(t.Elem())
	case t.Kind() == reflect.Interface && t.NumMethod() == 0:
		s.form = formAnything
	case isScalar(t):
		s.form, s.set = formScalar, scalarSetter(t)
	case t.Kind() == reflect.Struct:
		s.form = formBlock
	case t.Kind() == reflect.Map:
		s.form, s.key, s.elem = formTable, shapeOf(t.Key()), shapeOf(t.Elem())
	case t.Kind() == reflect.Slice:
		s.form, s.elem = formList, shapeOf(t.Elem())
	default:
		panic(fmt.Sprintf("BUG: %s can not be configured", t))
	}
	actual, _ := shapes.LoadOrStore(t, s)
	return actual.(*shape)
}

var (
	blockType    = reflect.TypeFor[Block]()
	durationType = reflect.TypeFor[time.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	secretType   = reflect.TypeFor[Secret]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isScalar tells whether values of t are written as one text.
func isScalar(t reflect.Type) bool {
	if t == durationType || t == timeType || reflect.PointerTo(t).Implements(textType) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64:
		return true
	}
	return isInt(t)
}

func isInt(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

// shorthand is the setting that a plain text in place of a block of type t stands for. A
// type says it with the method Shorthand.
func shorthand(t reflect.Type) string {
	if t.Kind() != reflect.Struct {
		return ""
	}
	if s, ok := reflect.New(t).Interface().(interface{ Shorthand() string }); ok {
		return s.Shorthand()
	}
	return ""
}

// wanted says in words what a value of type t is.
func wanted(t reflect.Type) string {
	switch t {
	case durationType:
		return "a duration, as 250ms, 30s, 5m, 1h or 1d"
	case timeType:
		return "a day or a time, as 2027-01-31"
	case reflect.TypeFor[Size]():
		return "a size, as 64KiB or 10MiB"
	case reflect.TypeFor[Percent]():
		return "a percentage, as 50%"
	case reflect.TypeFor[CIDR]():
		return "an address or a network, as 10.0.0.0/8"
	case secretType:
		return "a text"
	case reflect.TypeFor[StringList]():
		return "a text or a list of texts"
	}
	switch {
	case isInt(t):
		return "a whole number"
	case isScalar(t):
		switch t.Kind() {
		case reflect.Bool:
			return "true or false"
		case reflect.Float32, reflect.Float64:
			return "a number"
		}
		return "a text"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Slice:
		return "a list"
	}
	if short := shorthand(t); short != "" {
		return "a block of settings, or its " + short
	}
	return "a block of settings"
}
