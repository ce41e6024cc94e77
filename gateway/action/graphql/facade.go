package graphql

import (
	"os"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
)

// maxSchema bounds the file of a schema, in bytes.
const maxSchema = 16 << 20

// schema reads the file of the schema.
func (k *compiler) schema() *ast.Schema {
	text, err := os.ReadFile(k.c.Schema)
	switch {
	case err != nil:
		k.fail("schema", "can not be read: %s", err.Error())
		return nil
	case len(text) > maxSchema:
		k.fail("schema", "the file is larger than %d bytes", maxSchema)
		return nil
	}
	schema, err := gqlparser.LoadSchema(&ast.Source{Name: k.c.Schema, Input: string(text)})
	if err != nil {
		k.fail("schema", "%s", err.Error())
		return nil
	}
	if schema.Query == nil {
		k.fail("schema", "%s defines no type Query", k.c.Schema)
		return nil
	}
	return schema
}

// facade answers GraphQL requests from REST services.
type facade struct {
	intake
	schema    *ast.Schema
	resolvers map[string]*resolver
	budget    budget
	children  *exchange.Pool
}

func (k *compiler) facade() (*action.Action, error) {
	schema := k.schema()
	if schema == nil {
		return nil, k.errs
	}
	f := &facade{schema: schema, resolvers: make(map[string]*resolver), budget: k.budget, children: k.children}
	for name, c := range k.c.Resolvers {
		f.resolvers[name] = k.resolver(schema, name, c)
	}
	for _, def := range []*ast.Definition{schema.Query, schema.Mutation} {
		if def == nil {
			continue
		}
		for _, field := range def.Fields {
			if name := def.Name + "." + field.Name; k.c.Resolvers[name] == nil && field.Name[0] != '_' {
				k.fail("resolvers", "%s has no resolver, so it would always be null; write one under %s", name, name)
			}
		}
	}
	if schema.Subscription != nil {
		k.b.World.Warn(k.b.Path+".schema", "subscriptions are not served; they are refused")
	}
	f.intake = k.intake(schema)
	if len(k.errs) > 0 {
		return nil, k.errs
	}
	return &action.Action{Serve: f.serve}, nil
}

func (f *facade) serve(x *exchange.Exchange) error {
	media := negotiate(x.RequestHeader("Accept"))
	if media == "" {
		return rejectAccept
	}
	in, err := f.take(x)
	if err != nil {
		return f.refused(x, media, in, err)
	}
	variables, refused := coerceVariables(f.schema, in.op, in.request.variables)
	if refused == nil {
		refused = f.reader.affordable(in.document, in.op, variables)
	}
	if refused == nil && in.op.Operation == ast.Subscription {
		refused = refuse("graphql_subscription", "subscriptions are not served here")
	}
	if refused != nil {
		return f.refused(x, media, in, refused)
	}
	e := &execution{
		schema: f.schema, resolvers: f.resolvers, x: x, caller: newCaller(x, f.children, &f.budget), doc: in.document.doc,
		variables: variables, calls: map[string]*call{}, batches: map[string]*batched{},
	}
	defer e.caller.close()
	body := e.run(in.op)
	if x.Aborted.Load() {
		return exchange.ErrClientGone
	}
	result := resultOK
	if len(e.errors) > 0 {
		result = resultErrors
	}
	f.count(in, result)
	return answer(x, media, 200, body)
}
