package openapi

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// routed is what the library wants to know of an operation.
type routed struct{ doc *openapi3.T }

// request holds the request to the document. It runs a second time if it had to wait until the client was asked for the body.
func (g *guard) request(x *exchange.Exchange) error {
	st := states.Of(x)
	if !st.asked {
		st.asked, st.g = true, g
		op, values, f := g.find(x)
		switch {
		case op == nil && !g.strict, op == nil && !g.looks:
			return nil
		case op == nil:
			return g.refuse(x, f, nil)
		}
		st.op = op
		if !g.looks {
			return nil
		}
		if f := op.checkHead(x, values); f != nil {
			return g.refuse(x, f, op)
		}
	}
	if st.op == nil || !g.looks {
		return nil
	}
	f, seen, err := g.checkBody(x, st.op)
	switch {
	case err != nil:
		return err
	case f != nil:
		return g.refuse(x, f, st.op)
	case !seen:
		g.unseen.Inc()
	default:
		g.passed.Inc()
	}
	return nil
}

// refuse ends a request that does not fit, or only tells of it.
func (g *guard) refuse(x *exchange.Exchange, f *fault, op *operation) error {
	if op != nil {
		f.operation = op.name
	}
	if !g.blocks {
		g.detected.Inc()
		if x.Reason == "" {
			x.Reason = "openapi_detected"
		}
		g.tell(x, "request", "openapi: a request does not fit the document", f)
		return nil
	}
	g.refused.Inc()
	r := &exchange.Reject{Status: f.status, Reason: "openapi_request", Detail: f.Error(), Headers: f.headers}
	return r
}

// find looks the operation up.
func (g *guard) find(x *exchange.Exchange) (op *operation, values []string, f *fault) {
	path, method := string(x.Path), string(x.Method())
	var allowed []string
	for _, base := range g.bases {
		candidates := [2]string{path}
		if g.strip && x.MatchedPrefix > 0 {
			candidates[1] = path[x.MatchedPrefix:]
			if candidates[1] == "" {
				candidates[1] = "/"
			}
		}
		for _, candidate := range candidates {
			rest, ok := below(candidate, base)
			if !ok || candidate == "" {
				continue
			}
			found, params, methods := g.paths.find(rest, method)
			if found != nil {
				return found, params, nil
			}
			allowed = append(allowed, methods...)
		}
	}
	if len(allowed) == 0 {
		return nil, nil, &fault{status: fasthttp.StatusNotFound, what: "the API has no such path"}
	}
	slices.Sort(allowed)
	list := strings.Join(slices.Compact(allowed), ", ")
	return nil, nil, &fault{
		status: fasthttp.StatusMethodNotAllowed, what: "the API has this path with " + list + " only",
		headers: []exchange.HeaderEdit{exchange.Header("Allow", list)},
	}
}

// checkHead looks at the parameters.
func (op *operation) checkHead(x *exchange.Exchange, values []string) *fault {
	if len(op.parameters) == 0 {
		return nil
	}
	input := &openapi3filter.RequestValidationInput{
		Request:     &http.Request{Method: http.MethodGet, URL: &url.URL{}, Header: make(http.Header)},
		PathParams:  make(map[string]string, len(values)),
		QueryParams: make(url.Values),
		Options:     &openapi3filter.Options{SkipSettingDefaults: true, SchemaValidationOptions: formats},
	}
	for i, name := range op.pathNames {
		input.PathParams[name] = values[i]
	}
	if op.query {
		if f := parseQuery(input.QueryParams, string(x.Query), "query"); f != nil {
			return f
		}
	}
	for i := range x.Fields {
		name := http.CanonicalHeaderKey(string(x.Fields[i].Name))
		if slices.Contains(op.headers, name) || op.cookies && name == "Cookie" {
			input.Request.Header[name] = append(input.Request.Header[name], string(x.Fields[i].Value))
		}
	}
	exact := &routers.Route{Spec: op.route.doc}
	for i := range op.parameters {
		p := &op.parameters[i]
		if !p.list && occurrences(input, p) > 1 {
			return wrong(p.where, "stands more than once")
		}
		input.Route = nil
		if p.exact {
			input.Route = exact
		}
		if err := openapi3filter.ValidateParameter(context.Background(), input, p.Parameter); err != nil {
			return explain(p.where, err, p.Schema)
		}
	}
	return nil
}

// parseQuery reads a query or a form. A pair that can not be read is an error, since whoever reads it after us may find
// a way.
func parseQuery(into url.Values, text, where string) *fault {
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(name)
		if err != nil {
			return wrong(where, "has a broken percent-encoding")
		}
		decoded, err := url.QueryUnescape(value)
		if err != nil {
			return wrong(where, "has a broken percent-encoding")
		}
		into.Add(key, decoded)
	}
	return nil
}

// occurrences is how often a parameter stands in the request.
func occurrences(input *openapi3filter.RequestValidationInput, p *parameter) (n int) {
	switch p.In {
	case openapi3.ParameterInQuery:
		return len(input.QueryParams[p.Name])
	case openapi3.ParameterInHeader:
		return len(input.Request.Header[http.CanonicalHeaderKey(p.Name)])
	case openapi3.ParameterInCookie:
		for _, c := range input.Request.Cookies() {
			if c.Name == p.Name {
				n++
			}
		}
	}
	return n
}

// checkBody looks at content type and body. seen is false for a body that was too large to be looked at, which is no
// error in mode detect.
func (g *guard) checkBody(x *exchange.Exchange, op *operation) (f *fault, seen bool, err error) {
	switch {
	case !x.HasBody():
		if op.body != nil && op.body.required {
			return wrong("body", "is missing"), true, nil
		}
		return nil, true, nil
	case op.body == nil:
		return wrong("body", "%s takes none", op.name), true, nil
	case len(op.body.content) == 0:
		return nil, true, nil
	}
	contentType := string(x.RequestHeader("Content-Type"))
	m := op.body.media[op.body.content.Get(contentType)]
	if m == nil {
		return op.unsupported("has the wrong type"), true, nil
	}
	k := m.kind
	if k == unread && m.check != nil { // a range, as */*: what came decides
		k = readingOf(contentType)
	}
	if m.check == nil || k == unread || !g.bodies {
		return nil, true, nil
	}
	if coding := x.RequestHeader("Content-Encoding"); len(coding) > 0 && !exchange.EqualFold(coding, "identity") {
		return op.unsupported("is in a content coding, in which it can not be checked"), true, nil
	}
	if g.blocks && x.Request.Header.ContentLength() > g.maxBody {
		g.refused.Inc()
		return nil, true, exchange.RejectBodyTooLarge
	}
	// One byte more than the limit tells that a body is over it.
	body, whole, err := x.HoldBody(g.maxBody + 1)
	switch {
	case err != nil:
		return nil, false, err
	case whole && len(body) <= g.maxBody:
	case g.blocks:
		g.refused.Inc()
		return nil, true, exchange.RejectBodyTooLarge
	default:
		return nil, false, nil
	}
	if len(body) == 0 {
		if op.body.required {
			return wrong("body", "is missing"), true, nil
		}
		return nil, true, nil
	}
	return m.checkText(k, body, contentType), true, nil
}

// unsupported is what is wrong with a content type.
func (op *operation) unsupported(what string) *fault {
	return &fault{
		status: fasthttp.StatusUnsupportedMediaType, where: "body", what: what + "; want " + op.body.types,
		headers: []exchange.HeaderEdit{exchange.Header("Accept", op.body.types)},
	}
}

// checkText reads a body and holds it to its schema.
func (m *media) checkText(k reading, body []byte, contentType string) *fault {
	var value any
	switch k {
	case jsonText:
		var f *fault
		if value, f = decodeJSON(body); f != nil {
			return f
		}
	case form:
		fields := make(url.Values)
		if f := parseQuery(fields, string(body), "body"); f != nil {
			return f
		}
		for name, property := range m.schema.Value.Properties {
			if len(fields[name]) > 1 && property.Value != nil && property.Value.Type != nil && !property.Value.Type.Includes("array") {
				return wrong("body."+name, "stands more than once")
			}
		}
		decoded, err := openapi3filter.UrlencodedBodyDecoder(bytes.NewReader(body), http.Header{"Content-Type": {contentType}}, m.schema,
			func(name string) *openapi3.Encoding { return m.fields.Encoding[name] })
		if err != nil {
			return explain("body", err, nil)
		}
		value = decoded
	default:
		value = string(body)
	}
	if err := m.check(value); err != nil {
		return explain("body", err, m.schema)
	}
	return nil
}
