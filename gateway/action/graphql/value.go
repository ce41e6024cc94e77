package graphql

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/vektah/gqlparser/v2/ast"
)

// coerceVariables makes the values of an operation's variables of what the request gives (GraphQL, section 6.1.2).
func coerceVariables(schema *ast.Schema, op *ast.OperationDefinition, given map[string]any) (map[string]any, *refusal) {
	values := make(map[string]any, len(op.VariableDefinitions))
	for _, v := range op.VariableDefinitions {
		value, has := given[v.Variable]
		if !has {
			switch {
			case v.DefaultValue != nil:
				values[v.Variable] = literal(schema, v.Type, v.DefaultValue, nil)
			case v.Type.NonNull:
				return nil, refuseVariable(v, "$"+v.Variable+" is required and missing")
			}
			continue
		}
		coerced, problem := coerce(schema, v.Type, value, "$"+v.Variable)
		if problem != "" {
			return nil, refuseVariable(v, problem)
		}
		values[v.Variable] = coerced
	}
	return values, nil
}

func refuseVariable(v *ast.VariableDefinition, problem string) *refusal {
	r := refuse("bad_user_input", problem)
	if v.Position != nil {
		r.errors[0].Locations = []location{{v.Position.Line, v.Position.Column}}
	}
	return r
}

// coerce makes a value of an input type of JSON, or says what is wrong with it.
func coerce(schema *ast.Schema, t *ast.Type, v any, at string) (any, string) {
	if v == nil {
		if t.NonNull {
			return nil, at + " can not be null"
		}
		return nil, ""
	}
	if t.Elem != nil {
		items, ok := v.([]any)
		if !ok {
			one, problem := coerce(schema, t.Elem, v, at)
			return []any{one}, problem
		}
		out := make([]any, len(items))
		for i, item := range items {
			var problem string
			if out[i], problem = coerce(schema, t.Elem, item, at+"["+strconv.Itoa(i)+"]"); problem != "" {
				return nil, problem
			}
		}
		return out, ""
	}
	def := schema.Types[t.NamedType]
	if def == nil {
		return nil, at + " is of an unknown type"
	}
	switch def.Kind {
	case ast.InputObject:
		return coerceObject(schema, def, v, at)
	case ast.Enum:
		if s, ok := v.(string); ok && def.EnumValues.ForName(s) != nil {
			return v, ""
		}
	case ast.Scalar:
		if inputScalar(def.Name, v) {
			return v, ""
		}
	}
	return nil, at + " is not of the type " + def.Name
}

func coerceObject(schema *ast.Schema, def *ast.Definition, v any, at string) (any, string) {
	given, ok := v.(map[string]any)
	if !ok {
		return nil, at + " is not of the type " + def.Name
	}
	for name := range given {
		if def.Fields.ForName(name) == nil {
			return nil, at + " has a field that " + def.Name + " does not know"
		}
	}
	out := make(map[string]any, len(def.Fields))
	for _, f := range def.Fields {
		value, has := given[f.Name]
		if !has {
			switch {
			case f.DefaultValue != nil:
				out[f.Name] = literal(schema, f.Type, f.DefaultValue, nil)
			case f.Type.NonNull:
				return nil, at + "." + f.Name + " is required and missing"
			}
			continue
		}
		coerced, problem := coerce(schema, f.Type, value, at+"."+f.Name)
		if problem != "" {
			return nil, problem
		}
		out[f.Name] = coerced
	}
	if def.Directives.ForName("oneOf") != nil && len(out) != 1 {
		return nil, at + " has to have exactly one field"
	}
	return out, ""
}

// inputScalar tells whether v can be a scalar of this name. Scalars of the schema's own take anything.
func inputScalar(name string, v any) bool {
	n, isNumber := v.(json.Number)
	switch name {
	case "Int":
		return isNumber && isInt32(n)
	case "Float":
		return isNumber && isFinite(n)
	case "String":
		_, ok := v.(string)
		return ok
	case "Boolean":
		_, ok := v.(bool)
		return ok
	case "ID":
		_, ok := v.(string)
		return ok || isNumber && isInteger(n)
	}
	return true
}

func isInt32(n json.Number) bool {
	f, err := n.Float64()
	return err == nil && f == math.Trunc(f) && f >= math.MinInt32 && f <= math.MaxInt32
}

func isInteger(n json.Number) bool {
	_, err := strconv.ParseInt(n.String(), 10, 64)
	return err == nil
}

func isFinite(n json.Number) bool {
	f, err := n.Float64()
	return err == nil && !math.IsInf(f, 0)
}

// literal makes a value of what stands in a document, which validation has found to be of type t.
func literal(schema *ast.Schema, t *ast.Type, v *ast.Value, variables map[string]any) any {
	switch v.Kind {
	case ast.Variable:
		return variables[v.Raw]
	case ast.NullValue:
		return nil
	case ast.ListValue:
		out := make([]any, len(v.Children))
		for i, child := range v.Children {
			elem := t
			if t != nil && t.Elem != nil {
				elem = t.Elem
			}
			out[i] = literal(schema, elem, child.Value, variables)
		}
		return out
	}
	if t != nil && t.Elem != nil {
		return []any{literal(schema, t.Elem, v, variables)}
	}
	switch v.Kind {
	case ast.IntValue, ast.FloatValue:
		return json.Number(v.Raw)
	case ast.BooleanValue:
		return v.Raw == "true"
	case ast.ObjectValue:
		return literalObject(schema, t, v, variables)
	}
	return v.Raw
}

func literalObject(schema *ast.Schema, t *ast.Type, v *ast.Value, variables map[string]any) any {
	out := make(map[string]any, len(v.Children))
	var def *ast.Definition
	if t != nil {
		def = schema.Types[t.NamedType]
	}
	for _, child := range v.Children {
		if _, given := variables[child.Value.Raw]; child.Value.Kind == ast.Variable && !given {
			continue
		}
		var of *ast.Type
		if def != nil {
			if f := def.Fields.ForName(child.Name); f != nil {
				of = f.Type
			}
		}
		out[child.Name] = literal(schema, of, child.Value, variables)
	}
	if def != nil {
		for _, f := range def.Fields {
			if _, has := out[f.Name]; !has && f.DefaultValue != nil {
				out[f.Name] = literal(schema, f.Type, f.DefaultValue, nil)
			}
		}
	}
	return out
}

// arguments returns the values of a field's arguments; what is left out is not in it.
func arguments(schema *ast.Schema, defs ast.ArgumentDefinitionList, given ast.ArgumentList, variables map[string]any) (map[string]any, string) {
	if len(defs) == 0 {
		return nil, ""
	}
	out := make(map[string]any, len(defs))
	for _, def := range defs {
		a := given.ForName(def.Name)
		has := a != nil
		if has && a.Value.Kind == ast.Variable {
			_, has = variables[a.Value.Raw]
		}
		switch {
		case has:
			out[def.Name] = literal(schema, def.Type, a.Value, variables)
		case def.DefaultValue != nil:
			out[def.Name] = literal(schema, def.Type, def.DefaultValue, nil)
		}
		if def.Type.NonNull && out[def.Name] == nil {
			return nil, "the argument " + def.Name + " can not be null"
		}
	}
	return out, ""
}

// appendLeaf appends a value of a scalar or an enum as JSON, or reports that it is none.
func appendLeaf(b []byte, def *ast.Definition, v any) ([]byte, bool) {
	if def.Kind == ast.Enum {
		s, ok := v.(string)
		if !ok || def.EnumValues.ForName(s) == nil {
			return b, false
		}
		return appendJSON(b, s), true
	}
	n, isNumber := v.(json.Number)
	switch def.Name {
	case "Int":
		if !isNumber || !isInt32(n) {
			return b, false
		}
		f, _ := n.Float64()
		return strconv.AppendInt(b, int64(f), 10), true
	case "Float":
		if !isNumber || !isFinite(n) {
			return b, false
		}
		return append(b, n...), true
	case "Boolean":
		t, ok := v.(bool)
		return strconv.AppendBool(b, t), ok
	case "ID":
		if isNumber && !isInteger(n) {
			return b, false
		}
		if s, ok := v.(string); ok || isNumber {
			if isNumber {
				s = n.String()
			}
			return appendJSON(b, s), true
		}
		return b, false
	case "String":
		switch v := v.(type) {
		case string:
			return appendJSON(b, v), true
		case json.Number:
			return appendJSON(b, v.String()), true
		case bool:
			return appendJSON(b, strconv.FormatBool(v)), true
		}
		return b, false
	}
	return appendJSON(b, v), true
}

// appendJSON appends what decodeJSON has read, and texts.
func appendJSON(b []byte, v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return append(b, "null"...)
	}
	return append(b, text...)
}
