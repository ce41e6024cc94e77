package graphql

import (
	"github.com/vektah/gqlparser/v2/ast"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

// guard checks the requests for a GraphQL service and passes them on. What it passes on is written anew from what it has read, so that
// the service can not read another operation than the one that was checked.
type guard struct {
	intake
	schema  *ast.Schema // nil without
	service *upstream.Service
}

func (k *compiler) guard() (*action.Action, error) {
	g := &guard{service: k.service("service", k.c.Service)}
	if k.c.Schema != "" {
		if g.schema = k.schema(); g.schema == nil {
			return nil, k.errs
		}
	}
	g.intake = k.intake(g.schema)
	if len(k.errs) > 0 {
		return nil, k.errs
	}
	return &action.Action{Serve: g.serve}, nil
}

func (g *guard) serve(x *exchange.Exchange) error {
	if x.HasField(exchange.KindUpgrade) {
		return rejectUpgrade
	}
	media := negotiate(x.RequestHeader("Accept"))
	if media == "" {
		media = mediaJSON // of refusals; what else the client accepts may be the service's
	}
	in, err := g.take(x)
	if err != nil {
		return g.refused(x, media, in, err)
	}
	variables := in.request.variables
	var refused *refusal
	if g.schema != nil {
		variables, refused = coerceVariables(g.schema, in.op, variables)
	}
	if refused == nil {
		refused = g.reader.affordable(in.document, in.op, variables)
	}
	if refused != nil {
		return g.refused(x, media, in, refused)
	}
	g.count(in, resultOK)
	in.rewrite(x)
	x.Replayable = x.Replayable || in.op.Operation == ast.Query
	return g.service.Forward(x)
}

// rewrite puts what was read in the place of what was sent.
func (t *taken) rewrite(x *exchange.Exchange) {
	r := t.request
	if !r.isGet {
		body := map[string]any{"query": r.query}
		if r.operation != "" {
			body["operationName"] = r.operation
		}
		if r.variables != nil {
			body["variables"] = r.variables
		}
		if rest := r.otherExtensions(); rest != nil {
			body["extensions"] = rest
		}
		x.Body = appendJSON(nil, body)
		return
	}
	query := x.BackendQuery()
	for _, name := range [...]string{"query", "operationName", "variables", "extensions"} {
		query = exchange.QueryWithout(nil, query, name)
	}
	add := func(name, value string) {
		if len(query) > 0 {
			query = append(query, '&')
		}
		query = exchange.AppendQueryEscaped(append(append(query, name...), '='), value)
	}
	add("query", r.query)
	if r.operation != "" {
		add("operationName", r.operation)
	}
	if r.variables != nil {
		add("variables", string(appendJSON(nil, r.variables)))
	}
	if rest := r.otherExtensions(); rest != nil {
		add("extensions", string(appendJSON(nil, rest)))
	}
	x.SetUpstreamQuery(query)
}

// otherExtensions are those that are the service's: the hash was the gateway's.
func (r *request) otherExtensions() map[string]any {
	rest := make(map[string]any, len(r.extensions))
	for name, value := range r.extensions {
		if name != "persistedQuery" {
			rest[name] = value
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return rest
}
