package openapi

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// explain says where a value does not fit and what would, without the value.
func explain(where string, err error, schema *openapi3.SchemaRef) *fault {
	var (
		all     openapi3.MultiError
		exact   *jsonschema.ValidationError
		outside *openapi3.SchemaError
		parse   *openapi3filter.ParseError
	)
	if errors.As(err, &all) && len(all) > 0 {
		err = all[0]
	}
	switch {
	case errors.As(err, &exact):
		for len(exact.Causes) > 0 {
			exact = exact.Causes[0]
		}
		path, what := keyword(exact)
		return wrong(place(where, path), "%s", what)
	case errors.As(err, &outside):
		return wrong(place(where, outside.JSONPointer()), "%s", reason(outside))
	case errors.Is(err, openapi3filter.ErrInvalidRequired):
		return wrong(where, "is missing")
	case errors.Is(err, openapi3filter.ErrInvalidEmptyValue):
		return wrong(where, "is empty")
	case errors.As(err, &parse):
		var path []string
		for _, step := range parse.Path() {
			path = append(path, fmt.Sprint(step))
		}
		return wrong(place(where, path), "%s", want(schema))
	}
	return wrong(where, "%s", want(schema))
}

// want names the type of a schema.
func want(schema *openapi3.SchemaRef) string {
	if schema == nil || schema.Value == nil || schema.Value.Type == nil || len(schema.Value.Type.Slice()) == 0 {
		return "can not be read as its schema has it"
	}
	return "is not of the type " + strings.Join(schema.Value.Type.Slice(), " or ")
}

// reason is the library's, which names no value, but for formats, where it may.
func reason(e *openapi3.SchemaError) string {
	switch {
	case e.SchemaField == "format" && e.Schema != nil:
		return "is not of the format " + e.Schema.Format
	case e.Reason == "":
		return "does not fit " + e.SchemaField + " of its schema"
	}
	text, _, _ := strings.Cut(e.Reason, "\n")
	return text
}

// keyword says which keyword of JSON Schema a value does not fit.
func keyword(e *jsonschema.ValidationError) (path []string, what string) {
	path = e.InstanceLocation
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return path, "is not of the type " + strings.Join(slices.Sorted(slices.Values(k.Want)), " or ")
	case *kind.FalseSchema:
		return path, "is not allowed here"
	case *kind.Required:
		return append(path[:len(path):len(path)], k.Missing[0]), "is missing"
	case *kind.DependentRequired:
		return append(path[:len(path):len(path)], k.Missing[0]), "is missing beside " + k.Prop
	case *kind.AdditionalProperties:
		return append(path[:len(path):len(path)], k.Properties[0]), "is not a property that is known"
	case *kind.Enum:
		return path, fmt.Sprintf("is not one of %v", k.Want)
	case *kind.Const:
		return path, fmt.Sprintf("is not %v", k.Want)
	case *kind.Format:
		return path, "is not of the format " + k.Want
	case *kind.Pattern:
		return path, "does not match " + k.Want
	case *kind.MinLength:
		return path, fmt.Sprintf("has less than %d characters", k.Want)
	case *kind.MaxLength:
		return path, fmt.Sprintf("has more than %d characters", k.Want)
	case *kind.MinItems:
		return path, fmt.Sprintf("has less than %d elements", k.Want)
	case *kind.MaxItems:
		return path, fmt.Sprintf("has more than %d elements", k.Want)
	case *kind.Minimum:
		return path, "is less than " + k.Want.RatString()
	case *kind.Maximum:
		return path, "is more than " + k.Want.RatString()
	case *kind.ExclusiveMinimum:
		return path, "is not more than " + k.Want.RatString()
	case *kind.ExclusiveMaximum:
		return path, "is not less than " + k.Want.RatString()
	}
	return path, "does not fit " + strings.Join(e.ErrorKind.KeywordPath(), "/") + " of its schema"
}

var (
	bareName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)
	number   = regexp.MustCompile(`^[0-9]+$`)
)

// place writes the way to a value: body.items[0].price.
func place(root string, path []string) string {
	var b strings.Builder
	b.WriteString(root)
	for _, step := range path {
		switch {
		case number.MatchString(step):
			b.WriteString("[" + step + "]")
		case bareName.MatchString(step):
			b.WriteString("." + step)
		default:
			fmt.Fprintf(&b, "[%q]", step)
		}
	}
	return b.String()
}
