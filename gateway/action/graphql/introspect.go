package graphql

import (
	"maps"
	"slices"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"
)

// described is an object of introspection (GraphQL, section 4): a source of fields as the answers of services are.
type described interface {
	field(name string, args map[string]any) any
}

// describedSchema is __schema.
type describedSchema struct{ s *ast.Schema }

func (d describedSchema) field(name string, _ map[string]any) any {
	switch name {
	case "description":
		return textOrNull(d.s.Description)
	case "types":
		out := make([]any, 0, len(d.s.Types))
		for _, name := range slices.Sorted(maps.Keys(d.s.Types)) {
			out = append(out, describedType{d.s, d.s.Types[name], nil})
		}
		return out
	case "queryType":
		return describedDefinition(d.s, d.s.Query)
	case "mutationType":
		return describedDefinition(d.s, d.s.Mutation)
	case "subscriptionType":
		return describedDefinition(d.s, d.s.Subscription)
	case "directives":
		out := make([]any, 0, len(d.s.Directives))
		for _, name := range slices.Sorted(maps.Keys(d.s.Directives)) {
			out = append(out, describedDirective{d.s, d.s.Directives[name]})
		}
		return out
	}
	return nil
}

func describedDefinition(s *ast.Schema, def *ast.Definition) any {
	if def == nil {
		return nil
	}
	return describedType{s, def, nil}
}

// describedType is __Type: a definition, or a list or non-null around it.
type describedType struct {
	s   *ast.Schema
	def *ast.Definition
	t   *ast.Type // a wrapper, nil without
}

func describe(s *ast.Schema, t *ast.Type) describedType {
	if t.NonNull || t.Elem != nil {
		return describedType{s, nil, t}
	}
	return describedType{s, s.Types[t.NamedType], nil}
}

func (d describedType) field(name string, args map[string]any) any {
	if d.t != nil {
		return d.wrapper(name)
	}
	deprecated, _ := args["includeDeprecated"].(bool)
	switch name {
	case "kind":
		return string(d.def.Kind)
	case "name":
		return d.def.Name
	case "description":
		return textOrNull(d.def.Description)
	case "specifiedByURL":
		return argumentOf(d.def.Directives, "specifiedBy", "url")
	case "isOneOf":
		if d.def.Kind != ast.InputObject {
			return nil
		}
		return d.def.Directives.ForName("oneOf") != nil
	case "fields":
		if d.def.Kind != ast.Object && d.def.Kind != ast.Interface {
			return nil
		}
		out := []any{}
		for _, f := range d.def.Fields {
			if !strings.HasPrefix(f.Name, "__") && (deprecated || f.Directives.ForName("deprecated") == nil) {
				out = append(out, describedField{d.s, f})
			}
		}
		return out
	case "interfaces":
		if d.def.Kind != ast.Object && d.def.Kind != ast.Interface {
			return nil
		}
		out := []any{}
		for _, name := range d.def.Interfaces {
			out = append(out, describedType{d.s, d.s.Types[name], nil})
		}
		return out
	case "possibleTypes":
		if !d.def.IsAbstractType() {
			return nil
		}
		out := []any{}
		for _, def := range d.s.GetPossibleTypes(d.def) {
			out = append(out, describedType{d.s, def, nil})
		}
		return out
	case "enumValues":
		if d.def.Kind != ast.Enum {
			return nil
		}
		out := []any{}
		for _, v := range d.def.EnumValues {
			if deprecated || v.Directives.ForName("deprecated") == nil {
				out = append(out, describedEnum{v})
			}
		}
		return out
	case "inputFields":
		if d.def.Kind != ast.InputObject {
			return nil
		}
		out := []any{}
		for _, f := range d.def.Fields {
			if deprecated || f.Directives.ForName("deprecated") == nil {
				out = append(out, describedInput{d.s, f.Name, f.Description, f.Type, f.DefaultValue, f.Directives})
			}
		}
		return out
	}
	return nil
}

func (d describedType) wrapper(name string) any {
	switch name {
	case "kind":
		if d.t.NonNull {
			return "NON_NULL"
		}
		return "LIST"
	case "ofType":
		if d.t.NonNull {
			inner := *d.t
			inner.NonNull = false
			return describe(d.s, &inner)
		}
		return describe(d.s, d.t.Elem)
	}
	return nil
}

// describedField is __Field.
type describedField struct {
	s *ast.Schema
	f *ast.FieldDefinition
}

func (d describedField) field(name string, args map[string]any) any {
	switch name {
	case "name":
		return d.f.Name
	case "description":
		return textOrNull(d.f.Description)
	case "args":
		return describedArguments(d.s, d.f.Arguments, args)
	case "type":
		return describe(d.s, d.f.Type)
	}
	return deprecation(d.f.Directives, name)
}

func describedArguments(s *ast.Schema, list ast.ArgumentDefinitionList, args map[string]any) any {
	deprecated, _ := args["includeDeprecated"].(bool)
	out := []any{}
	for _, a := range list {
		if deprecated || a.Directives.ForName("deprecated") == nil {
			out = append(out, describedInput{s, a.Name, a.Description, a.Type, a.DefaultValue, a.Directives})
		}
	}
	return out
}

// describedInput is __InputValue.
type describedInput struct {
	s                 *ast.Schema
	name, description string
	t                 *ast.Type
	value             *ast.Value
	directives        ast.DirectiveList
}

func (d describedInput) field(name string, _ map[string]any) any {
	switch name {
	case "name":
		return d.name
	case "description":
		return textOrNull(d.description)
	case "type":
		return describe(d.s, d.t)
	case "defaultValue":
		if d.value == nil {
			return nil
		}
		return d.value.String()
	}
	return deprecation(d.directives, name)
}

// describedEnum is __EnumValue.
type describedEnum struct{ v *ast.EnumValueDefinition }

func (d describedEnum) field(name string, _ map[string]any) any {
	switch name {
	case "name":
		return d.v.Name
	case "description":
		return textOrNull(d.v.Description)
	}
	return deprecation(d.v.Directives, name)
}

// describedDirective is __Directive.
type describedDirective struct {
	s *ast.Schema
	d *ast.DirectiveDefinition
}

func (d describedDirective) field(name string, args map[string]any) any {
	switch name {
	case "name":
		return d.d.Name
	case "description":
		return textOrNull(d.d.Description)
	case "isRepeatable":
		return d.d.IsRepeatable
	case "args":
		return describedArguments(d.s, d.d.Arguments, args)
	case "locations":
		out := []any{}
		for _, l := range d.d.Locations {
			out = append(out, string(l))
		}
		return out
	}
	return nil
}

func deprecation(directives ast.DirectiveList, name string) any {
	switch name {
	case "isDeprecated":
		return directives.ForName("deprecated") != nil
	case "deprecationReason":
		if directives.ForName("deprecated") == nil {
			return nil
		}
		if reason := argumentOf(directives, "deprecated", "reason"); reason != nil {
			return reason
		}
		return "No longer supported"
	}
	return nil
}

func argumentOf(directives ast.DirectiveList, directive, name string) any {
	if d := directives.ForName(directive); d != nil {
		if a := d.Arguments.ForName(name); a != nil {
			return a.Value.Raw
		}
	}
	return nil
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
