package graphql

import (
	"encoding/json"
	"maps"
	"mime"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/parser"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

// stored turns requests into one operation of a GraphQL service.
type stored struct {
	service   *upstream.Service
	path      string
	prefix    []byte // of the body, up to the variables
	name      string // of the operation
	safe      bool
	variables []bound
	takesBody bool
	limit     int
	extract   []string
	statuses  map[string]int
	partial   bool
	budget    budget
	children  *exchange.Pool
}

// bound is a variable with where its value comes from.
type bound struct {
	name     string
	t        *ast.Type
	value    *template
	optional bool
}

var defaultStatuses = map[string]int{
	"BAD_USER_INPUT": fasthttp.StatusBadRequest, "UNAUTHENTICATED": fasthttp.StatusUnauthorized, "FORBIDDEN": fasthttp.StatusForbidden,
	"NOT_FOUND": fasthttp.StatusNotFound, "CONFLICT": fasthttp.StatusConflict, "RATE_LIMITED": fasthttp.StatusTooManyRequests,
}

func (k *compiler) stored() (*action.Action, error) {
	s := &stored{
		service: k.service("service", k.c.Service), path: k.c.Path, limit: int(k.c.MaxBody), extract: splitPath(k.c.Extract), partial: k.c.Partial,
		budget: k.budget, children: k.children, statuses: maps.Clone(defaultStatuses),
	}
	maps.Copy(s.statuses, k.c.ErrorStatuses)
	op := k.operation()
	if op == nil {
		return nil, k.errs
	}
	s.safe, s.name = op.Operation == ast.Query, op.Name
	body := append([]byte(`{"query":`), appendJSON(nil, k.c.Operation)...)
	if op.Name != "" {
		body = append(append(body, `,"operationName":`...), appendJSON(nil, op.Name)...)
	}
	s.prefix = append(body, `,"variables":`...)
	var varies []string
	for _, name := range slices.Sorted(maps.Keys(k.c.Variables)) {
		at := "variables." + name
		declared := op.VariableDefinitions.ForName(name)
		if declared == nil {
			k.fail(at, "the operation declares no variable $%s", name)
			continue
		}
		t, err := parseTemplate(k.c.Variables[name], "body")
		if err != nil {
			k.fail(at, "%s", err.Error())
			continue
		}
		for _, p := range t.parts {
			s.takesBody = s.takesBody || p.kind == "body"
			if p.other != nil {
				varies = append(varies, p.other.Varies()...)
			}
		}
		s.variables = append(s.variables, bound{name, declared.Type, t, !declared.Type.NonNull || declared.DefaultValue != nil})
	}
	for _, declared := range op.VariableDefinitions {
		if _, given := k.c.Variables[declared.Variable]; !given && declared.Type.NonNull && declared.DefaultValue == nil {
			k.fail("variables", "the operation requires $%s, which stands nowhere here", declared.Variable)
		}
	}
	if len(k.errs) > 0 {
		return nil, k.errs
	}
	return &action.Action{Serve: s.serve, Varies: varies}, nil
}

// operation reads the stored operation, which is validated where there is a schema.
func (k *compiler) operation() *ast.OperationDefinition {
	doc, err := parser.ParseQuery(&ast.Source{Input: k.c.Operation})
	switch {
	case err != nil:
		k.fail("operation", "%s", refusalOf("", err).Error())
		return nil
	case len(doc.Operations) != 1:
		k.fail("operation", "has %d operations; write one", len(doc.Operations))
		return nil
	case doc.Operations[0].Operation == ast.Subscription:
		k.fail("operation", "is a subscription, which has no end; write a query or a mutation")
		return nil
	}
	if k.c.Schema != "" {
		schema := k.schema()
		if schema == nil {
			return nil
		}
		if errs := validator.ValidateWithRules(schema, doc, rules.NewDefaultRules()); len(errs) > 0 {
			for _, e := range errs {
				k.fail("operation", "%s", e.Message)
			}
			return nil
		}
	}
	return doc.Operations[0]
}

var (
	rejectNoJSON    = exchange.NewReject(fasthttp.StatusBadRequest, "body_malformed", "the body is not valid JSON")
	rejectUpstream  = exchange.NewReject(fasthttp.StatusBadGateway, "graphql_failed", "the service could not carry out the operation")
	rejectGarbage   = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_malformed", "the service did not answer with valid GraphQL")
	rejectNothing   = exchange.NewReject(fasthttp.StatusNotFound, "graphql_nothing", "there is nothing here")
	rejectLate      = exchange.NewReject(fasthttp.StatusGatewayTimeout, "upstream_timeout", "the service did not answer in time")
	rejectBigAnswer = exchange.NewReject(fasthttp.StatusBadGateway, "answer_too_large", "the service's answer is too large")
)

func (s *stored) serve(x *exchange.Exchange) error {
	x.Operation = s.name
	values, err := s.values(x)
	if err != nil {
		return err
	}
	c := &call{service: s.service, method: "POST", path: s.path, safe: s.safe}
	c.body = append(append(slices.Clone(s.prefix), appendJSON(nil, values)...), '}')
	caller := newCaller(x, s.children, &s.budget)
	defer caller.close()
	caller.run([]*call{c})
	x.Service = s.service.Name()
	x.UpstreamStatus = c.status
	switch {
	case x.Aborted.Load():
		return exchange.ErrClientGone
	case c.reject != nil:
		return c.reject
	case c.err == &errTimeout:
		return rejectLate
	case c.err == &errTooLarge:
		return rejectBigAnswer
	case c.err != nil:
		return rejectGarbage
	}
	return s.answer(x, c)
}

// values fills the variables in.
func (s *stored) values(x *exchange.Exchange) (map[string]any, error) {
	at := scope{x: x}
	if s.takesBody && x.HasBody() {
		kind, params, err := mime.ParseMediaType(string(x.RequestHeader("Content-Type")))
		if err != nil || kind != mediaJSON && !strings.HasSuffix(kind, "+json") || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
			return nil, rejectMediaType
		}
		body, whole, err := x.HoldBody(s.limit)
		switch {
		case err != nil:
			return nil, err
		case !whole:
			return nil, rejectTooLarge
		}
		if at.body, err = decodeJSON(body); err != nil {
			return nil, rejectNoJSON
		}
	}
	values := make(map[string]any, len(s.variables))
	for _, v := range s.variables {
		value, ok := v.value.value(&at)
		if !ok && len(v.value.parts) > 0 {
			if !v.optional {
				return nil, wrongVariable(v.name, "is missing")
			}
			continue
		}
		converted, ok := convert(v.t, value)
		if !ok {
			return nil, wrongVariable(v.name, "is not of the type "+v.t.String())
		}
		values[v.name] = converted
	}
	return values, nil
}

func wrongVariable(name, problem string) error {
	return &exchange.Reject{Status: fasthttp.StatusBadRequest, Reason: "graphql_variable", Detail: "the value for " + name + " " + problem}
}

// convert makes a text, or a value of a JSON body, what an operation declares. Types of the service's own pass as they are.
func convert(t *ast.Type, v any) (any, bool) {
	if v == nil {
		return nil, !t.NonNull
	}
	if t.Elem != nil {
		items, isList := v.([]any)
		if text, isText := v.(string); isText {
			for item := range strings.SplitSeq(text, ",") {
				items = append(items, item)
			}
		} else if !isList {
			items = []any{v}
		}
		out := make([]any, len(items))
		for i, item := range items {
			var ok bool
			if out[i], ok = convert(t.Elem, item); !ok {
				return nil, false
			}
		}
		return out, true
	}
	text, isText := v.(string)
	switch t.NamedType {
	case "Int":
		if isText {
			if n, err := strconv.ParseInt(text, 10, 32); err == nil {
				return n, true
			}
			return nil, false
		}
	case "Float":
		if isText {
			n := json.Number(text)
			valid := json.Valid([]byte(text)) && isFinite(n)
			return n, valid
		}
	case "Boolean":
		switch text {
		case "true":
			return true, true
		case "false":
			return false, true
		}
	case "String", "ID":
	default:
		return v, true
	}
	return v, inputScalar(t.NamedType, v)
}

// answer gives the client what the operation has brought.
func (s *stored) answer(x *exchange.Exchange, c *call) error {
	result, ok := c.value.(map[string]any)
	data, hasData := result["data"]
	errors, hasErrors := result["errors"].([]any)
	if !ok || !hasData && !hasErrors {
		return rejectGarbage
	}
	part := walk(data, s.extract)
	if len(errors) > 0 && (part == nil || !s.partial) {
		return s.failure(errors)
	}
	if part == nil {
		return rejectNothing
	}
	if len(errors) > 0 {
		x.Reason = "graphql_partial"
	}
	r := exchange.NewReply(fasthttp.StatusOK, exchange.Own)
	r.Head.SetContentType(mediaJSON)
	r.Body = appendJSON(nil, part)
	x.Reply = r
	return exchange.Replied
}

// maxMessage bounds the message of a service's error that clients are shown, in bytes.
const maxMessage = 500

// failure is the answer for the errors of an operation: the first that has a status of its own decides.
func (s *stored) failure(errors []any) error {
	for _, e := range errors {
		code, _ := walk(e, []string{"extensions", "code"}).(string)
		status := s.statuses[code]
		if status == 0 {
			continue
		}
		if status >= 500 {
			return &exchange.Reject{Status: status, Reason: rejectUpstream.Reason, Detail: rejectUpstream.Detail}
		}
		message, _ := walk(e, []string{"message"}).(string)
		return &exchange.Reject{Status: status, Reason: "graphql_error", Detail: strings.ToValidUTF8(message[:min(len(message), maxMessage)], "")}
	}
	return rejectUpstream
}
