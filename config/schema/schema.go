// Package schema generates the JSON Schema and the reference documentation of the
// configuration from the Go types that decode it: their struct tags and doc comments are
// the only source, so that what editors complete, what people read and what the gateway
// accepts are the same.
package schema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/config"
)

// Options say what to generate from.
type Options struct {
	// Root is the folder of the module, whose sources hold the doc comments.
	Root string
	// Policies and Actions are the settings that packages of their own decode, in the order
	// in which they are to be documented. Without any policies every name is let through.
	Policies, Actions []Entry
}

// Entry is a policy or an action with the type of its settings.
type Entry struct {
	Name      string       // as in the configuration
	Stage     string       // of a policy
	Type      reflect.Type // of the settings, a struct
	AllowList bool         // also a list of such blocks
}

type object = map[string]any

// Generate returns the JSON Schema (draft 2020-12) of the configuration.
func Generate(o Options) ([]byte, error) {
	g := &generator{options: o, docs: newDocs(o.Root), defs: object{}}
	root := g.structure(reflect.TypeFor[config.Config]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Sluice configuration"
	root["$defs"] = g.defs
	g.defs["policies"] = g.policies()
	if g.docs.err != nil {
		return nil, g.docs.err
	}
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write the schema: %w", err)
	}
	return append(data, '\n'), nil
}

type generator struct {
	options Options
	docs    *docs
	defs    object
}

// toggles are what stands for a block without settings.
var toggles = object{"enum": []any{true, false, "on", "off", nil}}

// expansion is a text in which something is put in before it is read.
var expansion = object{"type": "string", "pattern": `\$\{`}

func (g *generator) policies() object {
	if len(g.options.Policies) == 0 {
		return object{"type": []string{"object", "null"}}
	}
	properties := object{}
	for _, e := range g.options.Policies {
		properties[e.Name] = g.entry(e)
	}
	return object{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
}

func (g *generator) entry(e Entry) object {
	block := g.ref(e.Type)
	forms := []any{block, toggles}
	if short := config.ShorthandOf(e.Type); short != "" {
		for _, f := range config.Fields(e.Type) {
			if f.Name == short {
				forms = append(forms, g.scalar(f.Type, f))
			}
		}
	}
	if e.AllowList {
		forms = append(forms, object{"type": "array", "items": block})
	}
	made := object{"anyOf": forms}
	describe(made, g.docs.typ(e.Type))
	return made
}

// find returns the entry of a policy or action.
func find(entries []Entry, name string) (Entry, bool) {
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		return Entry{}, false
	}
	return entries[i], true
}

// field is the schema of one setting.
func (g *generator) field(f config.Field) object {
	made := g.value(f.Type, f)
	entries := g.options.Policies
	if f.Action {
		entries = g.options.Actions
	}
	if e, ok := find(entries, f.Name); ok && f.Type == reflect.TypeFor[*config.Block]() {
		made = g.entry(e)
	}
	describe(made, g.docs.field(f.Owner, f.GoName, f.Name))
	if f.Default != "" {
		made["default"] = plain(f.Type, f.Default)
	}
	return made
}

func describe(schema object, text string) {
	if text == "" {
		return
	}
	// A reference takes siblings in this draft.
	schema["description"] = text
}

// plain is a default as JSON has it.
func plain(t reflect.Type, text string) any {
	switch t.Kind() {
	case reflect.Slice:
		var list []any
		for item := range strings.SplitSeq(text, ",") {
			list = append(list, plain(t.Elem(), item))
		}
		return list
	case reflect.Bool:
		return text == "true"
	case reflect.Struct, reflect.String:
		return text
	}
	if t.PkgPath() == "" {
		if n, err := strconv.ParseFloat(text, 64); err == nil {
			return n
		}
	}
	return text
}

// value is the schema of a Go type under the constraints of its field.
func (g *generator) value(t reflect.Type, f config.Field) object {
	switch {
	case t == reflect.TypeFor[config.Policies]():
		return object{"$ref": "#/$defs/policies"}
	case t == reflect.TypeFor[config.Block]() || t.Kind() == reflect.Interface:
		return object{}
	case t == reflect.TypeFor[config.StringList]():
		one := g.scalar(reflect.TypeFor[string](), f)
		return object{"anyOf": []any{one, object{"type": "array", "items": one}}}
	case t.Kind() == reflect.Pointer:
		return g.value(t.Elem(), f)
	case config.IsScalar(t):
		return g.scalar(t, f)
	}
	switch t.Kind() {
	case reflect.Struct:
		forms := []any{g.ref(t)}
		if config.CanBeOff(t) {
			forms = append(forms, toggles)
		} else {
			forms = append(forms, object{"enum": []any{true, "on", nil}})
		}
		if short := config.ShorthandOf(t); short != "" {
			for _, inner := range config.Fields(t) {
				if inner.Name == short {
					forms = append(forms, g.scalar(inner.Type, inner))
				}
			}
		}
		return object{"anyOf": forms}
	case reflect.Map:
		made := object{"type": []string{"object", "null"}, "additionalProperties": g.value(t.Elem(), f)}
		if key := t.Key().Kind(); key != reflect.String {
			made["propertyNames"] = object{"pattern": `^[0-9]+$`}
		}
		return made
	case reflect.Slice:
		made := object{"type": []string{"array", "null"}, "items": g.value(t.Elem(), f)}
		if f.Required {
			made["type"], made["minItems"] = "array", 1
		}
		return made
	}
	panic(fmt.Sprintf("BUG: %s can not be configured", t))
}

func (g *generator) scalar(t reflect.Type, f config.Field) object {
	text := object{"type": []string{"string", "number", "boolean"}}
	switch t {
	case reflect.TypeFor[time.Duration]():
		return orExpansion(object{"type": "string", "pattern": `^(0|([0-9.]+(d|h|m|s|ms|us|µs|ns))+)$`}, object{"const": 0})
	case reflect.TypeFor[config.Size]():
		return orExpansion(object{"type": "string", "pattern": `^[0-9]+ ?([KMGT]iB|[kKMGT]B|B)?$`}, object{"type": "integer", "minimum": 0})
	case reflect.TypeFor[config.Percent]():
		return orExpansion(object{"type": "string", "pattern": `^[0-9.]+ ?%$`})
	case reflect.TypeFor[time.Time]():
		return orExpansion(object{"type": "string", "pattern": `^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.*)?$`})
	}
	if len(f.Enum) > 0 {
		values := make([]any, 0, len(f.Enum))
		for _, v := range f.Enum {
			values = append(values, v)
			// What a bare word or number means to other YAML tools.
			if v == "off" {
				values = append(values, false)
			}
			if n, err := strconv.ParseFloat(v, 64); err == nil {
				values = append(values, n)
			}
		}
		return orExpansion(object{"enum": values})
	}
	number := func(kind string) object {
		made := object{"type": kind}
		for key, bound := range map[string]string{"minimum": f.Min, "maximum": f.Max} {
			if n, err := strconv.ParseFloat(bound, 64); err == nil {
				made[key] = n
			}
		}
		return orExpansion(made)
	}
	switch t.Kind() {
	case reflect.Bool:
		return orExpansion(object{"enum": []any{true, false, "on", "off", "yes", "no"}})
	case reflect.Float32, reflect.Float64:
		return number("number")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return number("integer")
	}
	if f.Required {
		text["minLength"] = 1
	}
	return text
}

func orExpansion(forms ...any) object {
	return object{"anyOf": append(forms, expansion)}
}

// ref names the definition of a block type, which it makes on first use.
func (g *generator) ref(t reflect.Type) object {
	name := t.Name()
	if pkg := t.PkgPath(); pkg != reflect.TypeFor[config.Config]().PkgPath() {
		name = pkg[strings.LastIndexByte(pkg, '/')+1:] + "." + name
	}
	if _, ok := g.defs[name]; !ok {
		g.defs[name] = object{}
		g.defs[name] = g.structure(t)
	}
	return object{"$ref": "#/$defs/" + name}
}

func (g *generator) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	for _, f := range config.Fields(t) {
		properties[f.Name] = g.field(f)
		if f.Required && f.Default == "" {
			required = append(required, f.Name)
		}
	}
	made := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		made["required"] = required
	}
	describe(made, g.docs.typ(t))
	if t == reflect.TypeFor[config.LoadBalancer]() {
		g.consistentHash(properties)
	}
	return made
}

// consistentHash adds the forms that LoadBalancer rewrites: {consistent_hash: {by: …}}
// beside or under strategy.
func (g *generator) consistentHash(properties object) {
	hash := object{"type": "object", "properties": object{"by": properties["by"]}, "additionalProperties": false}
	properties["consistent_hash"] = hash
	nested := object{"type": "object", "properties": object{"consistent_hash": hash}, "additionalProperties": false}
	strategy := properties["strategy"].(object)
	strategy["anyOf"] = append(strategy["anyOf"].([]any), nested)
}
