package openapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"sluice/config"
)

// operation is a method of a path. It is immutable.
type operation struct {
	name       string // as GET /users/{id}
	pathNames  []string
	parameters []parameter
	headers    []string // that parameters stand in, canonical
	cookies    bool
	query      bool
	body       *requestBody // nil where it has none
	responses  *openapi3.Responses
	answers    map[*openapi3.MediaType]*media
	route      routed
}

// parameter is a value in path, query, header or cookie.
type parameter struct {
	*openapi3.Parameter
	where string // as query parameter "limit"
	// exact: its schema needs all of JSON Schema; else what OpenAPI 3.0 knows is enough.
	exact bool
	// list: it may stand more than once.
	list bool
}

// requestBody is what a request may bring.
type requestBody struct {
	required bool
	content  openapi3.Content
	media    map[*openapi3.MediaType]*media
	types    string // for clients
}

// media is one type of content.
type media struct {
	kind   reading
	schema *openapi3.SchemaRef
	check  func(value any) error // of the schema; nil for none
	fields *openapi3.MediaType
}

// reading is how a body is read.
type reading uint8

const (
	unread reading = iota // only its type is looked at
	jsonText
	form
	plain
)

func readingOf(mediaType string) reading {
	base, _, _ := strings.Cut(strings.ToLower(mediaType), ";")
	switch base = strings.TrimSpace(base); {
	case base == "application/json" || strings.HasSuffix(base, "+json"):
		return jsonText
	case base == "application/x-www-form-urlencoded":
		return form
	case base == "text/plain":
		return plain
	}
	return unread
}

// compiler makes operations of a document.
type compiler struct {
	doc  *openapi3.T
	file string
	// schemas of a document that speaks JSON Schema itself, 3.1 and later: each compiled once everything is known.
	pending []pending
	errs    config.Errors
}

type pending struct {
	media *media
	where string
}

func (c *compiler) operation(method string, e *entry, item *openapi3.PathItem, o *openapi3.Operation) *operation {
	op := &operation{name: method + " " + e.template, pathNames: e.names(), responses: o.Responses, answers: make(map[*openapi3.MediaType]*media)}
	op.route = routed{doc: c.doc}
	for _, ref := range item.Parameters {
		if p := ref.Value; o.Parameters.GetByInAndName(p.In, p.Name) == nil {
			op.add(c, p)
		}
	}
	for _, ref := range o.Parameters {
		op.add(c, ref.Value)
	}
	if o.RequestBody != nil && o.RequestBody.Value != nil {
		b := o.RequestBody.Value
		op.body = &requestBody{required: b.Required, content: b.Content, media: make(map[*openapi3.MediaType]*media)}
		var types []string
		for name, mt := range b.Content {
			types = append(types, name)
			op.body.media[mt] = c.media(name, mt, op.name+" request body", openapi3.VisitAsRequest())
		}
		slices.Sort(types)
		op.body.types = strings.Join(types, ", ")
	}
	for status, ref := range o.Responses.Map() {
		if ref.Value == nil {
			continue
		}
		for name, mt := range ref.Value.Content {
			if readingOf(name) == jsonText {
				op.answers[mt] = c.media(name, mt, op.name+" response "+status, openapi3.VisitAsResponse())
			}
		}
	}
	return op
}

func (op *operation) add(c *compiler, p *openapi3.Parameter) {
	words := map[string]string{"path": "path parameter", "query": "query parameter", "header": "header", "cookie": "cookie"}
	switch p.In {
	case openapi3.ParameterInHeader:
		name := http.CanonicalHeaderKey(p.Name)
		if name == "Accept" || name == "Content-Type" || name == "Authorization" {
			return // the specification has them ignored
		}
		op.headers = append(op.headers, name)
	case openapi3.ParameterInCookie:
		op.cookies = true
	case openapi3.ParameterInQuery:
		op.query = true
	case openapi3.ParameterInPath:
	default:
		return // a whole query string as one value
	}
	one := parameter{Parameter: p, where: fmt.Sprintf("%s %q", words[p.In], p.Name), list: true}
	if p.Schema != nil && p.Schema.Value != nil {
		s := p.Schema.Value
		one.list = s.Type == nil || s.Type.Includes("array") || s.Type.Includes("object") || len(s.AllOf)+len(s.AnyOf)+len(s.OneOf) > 0
		one.exact = c.doc.IsOpenAPI31OrLater() && !known30(p.Schema)
	}
	op.parameters = append(op.parameters, one)
}

// known30 tells whether a schema uses only what has one meaning in OpenAPI 3.0 and in JSON Schema.
func known30(s *openapi3.SchemaRef) bool {
	text, err := json.Marshal(s.Value)
	var fields map[string]any
	if err != nil || json.Unmarshal(text, &fields) != nil {
		return false
	}
	for name, value := range fields {
		switch name {
		case "format", "minimum", "maximum", "minLength", "maxLength", "pattern", "enum", "default", "description", "title",
			"example", "examples", "deprecated", "minItems", "maxItems", "uniqueItems", "multipleOf":
		case "type":
			if _, one := value.(string); !one {
				return false
			}
		case "items":
			if s.Value.Items == nil || s.Value.Items.Value == nil || !known30(s.Value.Items) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// media makes the check of one type of content.
func (c *compiler) media(name string, mt *openapi3.MediaType, where string, side openapi3.SchemaValidationOption) *media {
	m := &media{kind: readingOf(name), fields: mt}
	if mt == nil || mt.Schema == nil || mt.Schema.Value == nil {
		return m
	}
	m.schema = mt.Schema
	if c.doc.IsOpenAPI31OrLater() {
		if m.kind != unread || strings.ContainsAny(name, "*,") {
			c.pending = append(c.pending, pending{m, where})
		}
		return m
	}
	schema := mt.Schema.Value
	options := append(slices.Clone(formats), side)
	m.check = func(value any) error { return schema.VisitJSON(value, options...) }
	return m
}

// formats are those that are checked beside the ones that the specification itself names.
var formats = []openapi3.SchemaValidationOption{openapi3.WithStringFormatValidators(map[string]openapi3.StringFormatValidator{
	"uuid":  openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForUUIDOfRFC9562),
	"email": openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForEmail),
	"ipv4":  openapi3.NewIPValidator(true),
	"ipv6":  openapi3.NewIPValidator(false),
})}

// finish compiles the schemas of a document that speaks JSON Schema: all in one resource, so that they share what they
// refer to.
func (c *compiler) finish() config.Errors {
	if len(c.pending) == 0 {
		return c.errs
	}
	fail := func(err error) config.Errors {
		return append(c.errs, &config.Error{Pos: config.Position{File: c.file}, Message: firstLine(err)})
	}
	bodies := make(map[string]any, len(c.pending))
	for i, p := range c.pending {
		bodies[fmt.Sprint(i)] = p.media.schema
	}
	text, err := json.Marshal(map[string]any{"components": c.doc.Components, "bodies": bodies})
	if err != nil {
		return fail(err)
	}
	resource, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		return fail(err)
	}
	const name = "urn:sluice:openapi"
	compile := jsonschema.NewCompiler()
	compile.DefaultDraft(jsonschema.Draft2020)
	compile.AssertFormat()
	compile.UseLoader(noLoader{})
	if err := compile.AddResource(name, resource); err != nil {
		return fail(err)
	}
	for i, p := range c.pending {
		schema, err := compile.Compile(fmt.Sprintf("%s#/bodies/%d", name, i))
		if err != nil {
			c.errs = append(c.errs, &config.Error{Pos: config.Position{File: c.file}, Path: p.where, Message: "its schema can not be compiled: " + firstLine(err)})
			continue
		}
		p.media.check = schema.Validate
	}
	return c.errs
}

// noLoader refuses what is not in the document.
type noLoader struct{}

func (noLoader) Load(location string) (any, error) {
	return nil, fmt.Errorf("%s is not in the document", location)
}
