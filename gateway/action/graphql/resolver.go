package graphql

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vektah/gqlparser/v2/ast"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

// resolver is a compiled Resolver.
type resolver struct {
	name    string
	single  *form
	batch   *form // nil without
	key     *template
	by      string
	max     int
	service *upstream.Service
	nullOn  []int
	isList  bool
}

// form is one form of a resolver's call.
type form struct {
	method  string
	path    *template
	query   []parameter
	body    *structure // nil without
	args    bool       // the body is the arguments
	repeat  bool
	extract []string
}

type parameter struct {
	name  string
	value *template
}

// resolver compiles the resolver of a field.
func (k *compiler) resolver(schema *ast.Schema, name string, c *Resolver) *resolver {
	at := "resolvers." + name
	typeName, fieldName, dotted := strings.Cut(name, ".")
	def := schema.Types[typeName]
	if !dotted || def == nil || def.Kind != ast.Object {
		k.fail(at, "%q is no field of an object of the schema; write it as Query.user", name)
		return nil
	}
	field := def.Fields.ForName(fieldName)
	if field == nil || strings.HasPrefix(fieldName, "__") {
		k.fail(at, "the type %s has no field %q in the schema", typeName, fieldName)
		return nil
	}
	r := &resolver{name: name, nullOn: c.NullOn, service: k.service(at+".service", c.Service), isList: field.Type.Elem != nil}
	if c.Path != "" {
		r.single = k.form(at, field, c, []string{"args", "parent"}, c.Method, c.Path, c.Query, c.Body, c.Extract)
	}
	if b := c.Batch; b != nil {
		if def == schema.Query || def == schema.Mutation {
			k.fail(at+".batch", "%s is one object, so there is nothing to make one call for", typeName)
		}
		r.by, r.max = b.By, b.Max
		r.key = k.template(at+".batch.key", field, b.Key, "args", "parent")
		method, path, query, body, extract := b.Method, b.Path, b.Query, b.Body, b.Extract
		if method == "" {
			method = c.Method
		}
		if path == "" {
			path = c.Path
		}
		if query == nil {
			query = c.Query
		}
		if body == nil {
			body = c.Body
		}
		if extract == "" {
			extract = c.Extract
		}
		r.batch = k.form(at+".batch", field, c, []string{"args", "keys"}, method, path, query, body, extract)
		if r.batch != nil && !r.batch.takesKeys() {
			k.fail(at+".batch", "nothing takes the keys; write ${keys} into path, query or body")
		}
	}
	return r
}

func (k *compiler) form(at string, field *ast.FieldDefinition, c *Resolver, kinds []string, method, path string, query map[string]string, body any, extract string) *form {
	f := &form{method: method, repeat: c.Lists == "repeat", extract: splitPath(extract)}
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?#") {
		k.fail(at+".path", "%q is no path; write it as /users/${args.id}, and what follows a ? under query", path)
		return nil
	}
	f.path = k.template(at+".path", field, path, kinds...)
	for _, name := range slices.Sorted(maps.Keys(query)) {
		f.query = append(f.query, parameter{name, k.template(at+".query."+name, field, query[name], kinds...)})
	}
	if body != nil {
		s, err := parseStructure(body, kinds...)
		if err != nil {
			k.fail(at+".body", "%s", err.Error())
			return nil
		}
		s.templates(func(t *template) { k.known(at+".body", field, t) })
		f.body = s
	}
	f.args = body == nil && method != "GET" && method != "DELETE"
	return f
}

func (k *compiler) template(at string, field *ast.FieldDefinition, text string, kinds ...string) *template {
	t, err := parseTemplate(text, kinds...)
	if err != nil {
		k.fail(at, "%s", err.Error())
		return nil
	}
	k.known(at, field, t)
	return t
}

// known reports arguments that the field does not have.
func (k *compiler) known(at string, field *ast.FieldDefinition, t *template) {
	for _, name := range t.arguments() {
		if field.Arguments.ForName(name) == nil {
			k.fail(at, "the field %s has no argument %q in the schema", field.Name, name)
		}
	}
}

func (f *form) takesKeys() bool {
	takes := false
	look := func(t *template) {
		if t != nil {
			takes = takes || slices.ContainsFunc(t.parts, func(p part) bool { return p.kind == "keys" })
		}
	}
	look(f.path)
	for _, p := range f.query {
		look(p.value)
	}
	if f.body != nil {
		f.body.templates(look)
	}
	return takes
}

// render makes the call of a form, or says why it can not be made.
func (f *form) render(service *upstream.Service, s *scope) (*call, *gqlError) {
	c := &call{service: service, method: f.method}
	var problem *gqlError
	if c.path, problem = f.renderPath(s); problem != nil {
		return nil, problem
	}
	var query []byte
	for _, p := range f.query {
		v, ok := p.value.value(s)
		if !ok && len(p.value.parts) > 0 {
			continue
		}
		items, isList := v.([]any)
		if !isList || !f.repeat {
			items = []any{v}
		}
		for _, item := range items {
			if len(query) > 0 {
				query = append(query, '&')
			}
			query = exchange.AppendQueryEscaped(query, p.name)
			query = append(query, '=')
			query = exchange.AppendQueryEscaped(query, textual(item))
		}
	}
	c.query = string(query)
	switch {
	case f.body != nil:
		v, _ := f.body.value(s)
		c.body = appendJSON(nil, v)
	case f.args:
		args := s.args
		if args == nil {
			args = map[string]any{}
		}
		c.body = appendJSON(nil, args)
	}
	return c, nil
}

// Errors of calls that are not made.
var (
	errPathMissing = coded("a value that the path of a call needs is missing", "bad_user_input")
	errPathValue   = coded("a value can not stand in the path of a call", "bad_user_input")
)

// renderPath fills the path in. No value can make it another path than the configured: neither leave its segment, nor climb.
func (f *form) renderPath(s *scope) (string, *gqlError) {
	var path []byte
	for i := range f.path.parts {
		p := &f.path.parts[i]
		if p.kind == "" {
			path = append(path, p.text...)
			continue
		}
		v := p.value(s)
		if v == nil {
			return "", &errPathMissing
		}
		before := len(path)
		if path = append(path, textual(v)...); !action.FitsSegment(path[before:]) {
			return "", &errPathValue
		}
	}
	if action.LeavesSegment(path) {
		return "", &errPathValue
	}
	return string(path), nil
}

// failure returns the error that the call's end is for the fields that wait for it, or whether it means null.
func (r *resolver) failure(c *call) (isNull bool, err *gqlError) {
	switch {
	case c.err != nil:
		return false, c.err
	case c.status < 300:
		return false, nil
	case slices.Contains(r.nullOn, c.status):
		return true, nil
	}
	e := coded("the service answered with status "+strconv.Itoa(c.status), "upstream_status")
	e.Extensions["status"] = c.status
	return false, &e
}
