package config

import (
	_ "embed"
	"reflect"
)

//go:embed sluice.schema.json
var schemaJSON []byte

// Schema returns the JSON Schema of the configuration, as generated from the model and the
// settings of policies and actions. The caller must not change it.
func Schema() []byte { return schemaJSON }

// Field describes one setting of a block type, as its tags say, for what generates schema
// and documentation.
type Field struct {
	Name     string // the key
	GoName   string // of the struct's field, under which its doc comment stands
	Owner    reflect.Type
	Type     reflect.Type
	Default  string // as written; "" for none
	Enum     []string
	Min, Max string
	Required bool
	Action   bool // the settings of an action, decoded by its owner
}

// Fields returns the settings of a block type, in the order of its declaration.
func Fields(t reflect.Type) []Field {
	p := planOf(t)
	fields := make([]Field, len(p.fields))
	for i, f := range p.fields {
		owner := t
		for _, step := range f.index[:len(f.index)-1] {
			owner = owner.Field(step).Type
		}
		goField := t.FieldByIndex(f.index)
		fields[i] = Field{
			Name: f.name, GoName: goField.Name, Owner: owner, Type: f.typ, Default: f.preset, Enum: f.enum,
			Min: f.min, Max: f.max, Required: f.required, Action: goField.Tag.Get("action") == "true",
		}
	}
	return fields
}

// CanBeOff tells whether a block of type t may be written `off`.
func CanBeOff(t reflect.Type) bool { return t.Kind() == reflect.Struct && planOf(t).off >= 0 }

// ShorthandOf returns the setting that a plain text in place of a block of type t stands
// for, or "".
func ShorthandOf(t reflect.Type) string { return shorthand(t) }

// IsScalar tells whether a value of type t is written as one text.
func IsScalar(t reflect.Type) bool { return isScalar(t) }
