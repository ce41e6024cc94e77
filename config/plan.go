package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
)

// plan is what the tags of a struct type say, read once.
type plan struct {
	fields []planField
	off    int // index of the Off flag, or -1
	key    int // index of the field that takes the block's name, or -1
	place  int // index of the field that takes the block's place among its siblings, or -1
}

// planField is one setting.
type planField struct {
	name  string
	index []int
	typ   reflect.Type
	tags
}

// tags constrain a setting; those of a list or map constrain each element.
type tags struct {
	preset   string // the default
	enum     []string
	min, max string
	required bool
	template bool
	secret   bool
}

func (p *plan) field(name string) *planField {
	for i := range p.fields {
		if p.fields[i].name == name {
			return &p.fields[i]
		}
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
	p := &plan{off: -1, key: -1, place: -1}
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
		made := planField{name: name, index: []int{i}, typ: f.Type, tags: tags{
			preset:   f.Tag.Get("default"),
			min:      f.Tag.Get("min"),
			max:      f.Tag.Get("max"),
			required: f.Tag.Get("required") == "true",
			template: f.Tag.Get("template") == "true",
			secret:   f.Tag.Get("secret") == "true",
		}}
		if enum := f.Tag.Get("enum"); enum != "" {
			made.enum = strings.Split(enum, "|")
		}
		p.fields = append(p.fields, made)
	}
	actual, _ := plans.LoadOrStore(t, p)
	return actual.(*plan)
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
