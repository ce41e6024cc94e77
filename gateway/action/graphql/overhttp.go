package graphql

import (
	"bytes"
	"encoding/json"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// The media types of answers (GraphQL over HTTP, section 4).
const (
	mediaJSON     = "application/json"
	mediaResponse = "application/graphql-response+json"
)

// request is a GraphQL request as it came over HTTP.
type request struct {
	query      string
	operation  string
	variables  map[string]any
	extensions map[string]any
	hash       string // of a persisted operation, "" without
	isGet      bool
}

// gqlError is an error in the form of answers (GraphQL, section 7.1.2).
type gqlError struct {
	Message    string         `json:"message"`
	Locations  []location     `json:"locations,omitempty"`
	Path       []any          `json:"path,omitempty"`
	Extensions map[string]any `json:"extensions,omitempty"`
}

type location struct {
	Line   int `json:"line"`
	Column int `json:"column"`
}

// refusal says why nothing of a request was carried out.
type refusal struct {
	errors []gqlError
	// malformed: it is no well-formed GraphQL request, which is status 400 whatever the client accepts.
	malformed bool
	// reason is the word for logs.
	reason string
}

func (r *refusal) Error() string { return r.errors[0].Message }

func refuse(reason, message string) *refusal {
	return &refusal{reason: reason, errors: []gqlError{coded(message, reason)}}
}

func malformed(message string) *refusal {
	r := refuse("bad_request", message)
	r.malformed = true
	return r
}

// coded is an error with a code in the spelling that is usual for them.
func coded(message, code string) gqlError {
	return gqlError{Message: message, Extensions: map[string]any{"code": strings.ToUpper(code)}}
}

// readRequest reads a request. An error is a *exchange.Reject or a *refusal.
func readRequest(x *exchange.Exchange, limit int) (*request, error) {
	switch string(x.Method()) {
	case "GET", "HEAD":
		return readQuery(x)
	case "POST":
	default:
		return nil, rejectMethod
	}
	kind, params, err := mime.ParseMediaType(string(x.RequestHeader("Content-Type")))
	if err != nil || kind != mediaJSON || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return nil, rejectMediaType
	}
	if x.RequestHeader("Content-Encoding") != nil {
		return nil, rejectMediaType
	}
	body, whole, err := x.HoldBody(limit)
	switch {
	case err != nil:
		return nil, err
	case !whole:
		return nil, rejectTooLarge
	case !utf8.Valid(body):
		return nil, malformed("the body is not valid UTF-8")
	}
	var fields map[string]any
	if value, err := decodeJSON(body); err != nil {
		return nil, malformed("the body is not valid JSON")
	} else if fields, _ = value.(map[string]any); fields == nil {
		return nil, malformed("the body has to be a JSON object; lists of operations are not accepted")
	}
	r := &request{}
	if r.query, err = textOf(fields, "query"); err != nil {
		return nil, err
	}
	if r.operation, err = textOf(fields, "operationName"); err != nil {
		return nil, err
	}
	if r.variables, err = objectOf(fields, "variables"); err != nil {
		return nil, err
	}
	if r.extensions, err = objectOf(fields, "extensions"); err != nil {
		return nil, err
	}
	return r, r.readExtensions()
}

// readQuery reads a request out of its target's query.
func readQuery(x *exchange.Exchange) (*request, error) {
	r := &request{isGet: true}
	for _, p := range [...]struct {
		name   string
		text   *string
		object *map[string]any
	}{{"query", &r.query, nil}, {"operationName", &r.operation, nil}, {"variables", nil, &r.variables}, {"extensions", nil, &r.extensions}} {
		value, n := x.QueryValue(p.name)
		switch {
		case n > 1:
			return nil, malformed("the parameter " + p.name + " is given more than once")
		case !utf8.Valid(value):
			return nil, malformed("the parameter " + p.name + " is not valid UTF-8")
		case p.text != nil:
			*p.text = string(value)
		case len(value) > 0:
			decoded, err := decodeJSON(value)
			if err != nil {
				return nil, malformed("the parameter " + p.name + " is not valid JSON")
			}
			if *p.object, err = objectOf(map[string]any{p.name: decoded}, p.name); err != nil {
				return nil, err
			}
		}
	}
	return r, r.readExtensions()
}

// readExtensions looks for the hash of a persisted operation, in the form of automatic persisted queries.
func (r *request) readExtensions() error {
	if persisted, ok := r.extensions["persistedQuery"].(map[string]any); ok {
		r.hash, _ = persisted["sha256Hash"].(string)
		if version, ok := persisted["version"].(json.Number); !ok || version != "1" || len(r.hash) != 64 {
			return malformed("extensions.persistedQuery has to be {\"version\": 1, \"sha256Hash\": HASH}")
		}
		r.hash = strings.ToLower(r.hash)
	}
	if r.query == "" && r.hash == "" {
		return malformed("the parameter query is missing")
	}
	return nil
}

func textOf(fields map[string]any, name string) (string, error) {
	switch v := fields[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", malformed("the parameter " + name + " has to be a string")
}

func objectOf(fields map[string]any, name string) (map[string]any, error) {
	switch v := fields[name].(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return v, nil
	}
	return nil, malformed("the parameter " + name + " has to be an object")
}

// decodeJSON reads one JSON value whole, with numbers as they are written.
func decodeJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err == nil || d.InputOffset() < int64(len(bytes.TrimRight(b, " \t\r\n"))) {
		return nil, errTrailing
	}
	return v, nil
}

type constantError string

func (e constantError) Error() string { return string(e) }

const errTrailing = constantError("there is more behind the JSON value")

// negotiate chooses the media type of the answer, "" if the client accepts neither. Without a wish it is the older one.
func negotiate(accept []byte) string {
	if len(bytes.TrimSpace(accept)) == 0 {
		return mediaJSON
	}
	best, bestQ := "", 0.0
	choose := func(media string, q float64) {
		if q > bestQ {
			best, bestQ = media, q
		}
	}
	// A range that names a type decides for it, over those with wildcards.
	q := map[string]float64{}
	var wildcard float64
	var order []string
	for part := range strings.SplitSeq(string(accept), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		weight := 1.0
		if text, ok := params["q"]; ok {
			if weight, err = strconv.ParseFloat(text, 64); err != nil || !(weight >= 0 && weight <= 1) {
				continue
			}
		}
		if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
			continue
		}
		switch kind {
		case mediaJSON, mediaResponse:
			if _, seen := q[kind]; !seen {
				order = append(order, kind)
			}
			q[kind] = weight
		case "*/*", "application/*":
			wildcard = max(wildcard, weight)
		}
	}
	for _, kind := range order {
		choose(kind, q[kind])
	}
	for _, kind := range [...]string{mediaJSON, mediaResponse} {
		if _, named := q[kind]; !named {
			choose(kind, wildcard)
		}
	}
	return best
}

// answer puts an answer in the negotiated form into the exchange.
func answer(x *exchange.Exchange, media string, status int, body []byte) error {
	r := exchange.NewReply(status, exchange.Own)
	r.Head.SetContentType(media + "; charset=utf-8")
	r.Head.Set("Vary", "Accept")
	r.Body = body
	x.Reply = r
	return exchange.Replied
}

// answerRefusal answers a request of which nothing was carried out.
func answerRefusal(x *exchange.Exchange, media string, r *refusal) error {
	status := fasthttp.StatusOK
	if r.malformed || media == mediaResponse {
		status = fasthttp.StatusBadRequest
	}
	if media == "" {
		media, status = mediaJSON, fasthttp.StatusBadRequest
	}
	x.Reason = r.reason
	body, err := json.Marshal(struct {
		Errors []gqlError `json:"errors"`
	}{r.errors})
	if err != nil {
		return err
	}
	return answer(x, media, status, body)
}
