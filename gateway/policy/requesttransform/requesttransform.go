// Package requesttransform changes headers, query and body of a request on its way to the backend. It guarantees that no value of a
// client can end a header and begin another, and that what the gateway itself tells the backend (framing, where a
// request came from, who the caller is) stays out of reach.
package requesttransform

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/transform"
)

// Config are the settings of the policy `request_transform`. The steps come in the order remove, rename, replace, add, append. A value may hold
// `${header.NAME}`, `${query.NAME}`, `${claim.NAME}`, `${path.NAME}`, `${consumer}`, `${client_ip}`, `${request_id}`, `${host}`, `${scheme}`,
// `${method}` and `${path}` of the request as it came. A value whose places are all empty is not set, nor is a header that
// would hold control characters.
//
// `json` is about members of JSON bodies, at paths such as `user.name`, `items[0].id`, `items[*].id`, `["a.b"]` and, for a list that is
// the whole body, `[*].id`. What no step is about stays as it was written: numbers, spaces, the order. A name that stands in an object
// several times is found each time. Bodies in a content coding are decoded. A body that is malformed gets 400 with the position, one that can not be
// converted 422, one over `max_body` 413, one in a coding that is not known 415.
type Config struct {
	// Remove takes away.
	Remove Names `yaml:"remove"`
	// Rename gives another name, in the place of what has that name already.
	Rename Renames `yaml:"rename"`
	// Replace gives another value to what is there; without a value to set it is removed.
	Replace Values `yaml:"replace"`
	// Add sets what is not there.
	Add Values `yaml:"add"`
	// Append adds one more, whether there is one or not.
	Append Values `yaml:"append"`
	// Convert turns the body into another format.
	Convert transform.Convert `yaml:"convert"`
	// MaxBody is the largest body that is worked on, decoded.
	MaxBody config.Size `yaml:"max_body" default:"1MiB" min:"1" max:"64MiB"`
	// OtherTypes is what happens to a body whose Content-Type is not the one that is worked on: `pass`, or `reject` with 415. A backend
	// that reads JSON whatever the type says wants `reject`, since else a client has a way around the steps.
	OtherTypes string `yaml:"other_types" default:"pass" enum:"pass|reject"`
}

// Names are headers and query parameters.
type Names struct {
	// Headers by name.
	Headers []string `yaml:"headers"`
	// Query parameters by name.
	Query []string `yaml:"query"`
	// JSON members and elements by path.
	JSON []string `yaml:"json"`
}

// Renames are old names with new ones.
type Renames struct {
	// Headers: old name to new name.
	Headers map[string]string `yaml:"headers"`
	// Query parameters: old name to new name.
	Query map[string]string `yaml:"query"`
	// JSON members by path, each with its new name.
	JSON map[string]string `yaml:"json"`
}

// Values are names with one or several values.
type Values struct {
	// Headers: name to value, or a list of values.
	Headers map[string]config.StringList `yaml:"headers"`
	// Query parameters: name to value, or a list of values.
	Query map[string]config.StringList `yaml:"query"`
	// JSON: path to value, which may be of any type and hold places in its texts. It is appended to a list, each element of one by itself; where there is nothing it becomes one, and any other value stays.
	JSON map[string]any `yaml:"json"`
}

// Definition is the policy `request_transform`.
var Definition = policy.Define("request_transform", policy.Transform, build)

// transformer is the compiled block. Names of headers are kept as bytes too, as the edits ask for both.
type transformer struct {
	headers struct {
		remove               []string
		rename               []rename
		replace, add, append []policy.Assignment
	}
	query struct {
		remove               []string
		rename               []rename
		replace, add, append []policy.Assignment
	}
	hasHeaders, hasQuery bool
	body                 *transform.Body // nil for none
	onlyThis             bool            // bodies of other types are refused
}

type rename struct{ from, to string }

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	t := &transformer{onlyThis: c.OtherTypes == "reject"}
	var errs config.Errors
	wrong := func(at, format string, a ...any) {
		errs = append(errs, b.World.Config.Errorf(b.Path+"."+at, format, a...))
	}
	names := func(at string, list []string, check func(string) error) []string {
		for _, name := range list {
			if err := check(name); err != nil {
				wrong(at, "%v", err)
			}
		}
		return list
	}
	renames := func(at string, m map[string]string, check func(string) error, same func(a, b string) bool) []rename {
		var list []rename
		for _, from := range slices.Sorted(maps.Keys(m)) {
			to := m[from]
			if err := errors.Join(check(from), check(to)); err != nil {
				wrong(at+"."+from, "%v", err)
			} else if same(from, to) {
				wrong(at+"."+from, "is renamed to itself")
			}
			list = append(list, rename{from, to})
		}
		return list
	}
	values := func(at string, m map[string]config.StringList, header bool, check func(string) error) []policy.Assignment {
		list, wrongs := policy.Assignments(b, at, m, header, check)
		errs = append(errs, wrongs...)
		return list
	}
	equal := func(a, b string) bool { return a == b }

	t.headers.remove = names("remove.headers", c.Remove.Headers, checkHeader)
	t.headers.rename = renames("rename.headers", c.Rename.Headers, checkHeader, strings.EqualFold)
	t.headers.replace = values("replace.headers", c.Replace.Headers, true, checkHeader)
	t.headers.add = values("add.headers", c.Add.Headers, true, checkHeader)
	t.headers.append = values("append.headers", c.Append.Headers, true, checkHeader)
	t.query.remove = names("remove.query", c.Remove.Query, checkParameter)
	t.query.rename = renames("rename.query", c.Rename.Query, checkParameter, equal)
	t.query.replace = values("replace.query", c.Replace.Query, false, checkParameter)
	t.query.add = values("add.query", c.Add.Query, false, checkParameter)
	t.query.append = values("append.query", c.Append.Query, false, checkParameter)
	var wrongs config.Errors
	t.body, wrongs = transform.Compile(b, &transform.Steps{
		Remove: c.Remove.JSON, Rename: c.Rename.JSON, Replace: c.Replace.JSON, Add: c.Add.JSON, Append: c.Append.JSON,
	}, &c.Convert, c.MaxBody)
	if errs = append(errs, wrongs...); len(errs) > 0 {
		return policy.Hooks{}, errs
	}
	t.hasHeaders = len(t.headers.remove)+len(t.headers.rename)+len(t.headers.replace)+len(t.headers.add)+len(t.headers.append) > 0
	t.hasQuery = len(t.query.remove)+len(t.query.rename)+len(t.query.replace)+len(t.query.add)+len(t.query.append) > 0
	varies := policy.Varies(t.headers.replace, t.headers.add, t.headers.append, t.query.replace, t.query.add, t.query.append)
	// Every backend is told the id of the request, and answers for all that to the request and not to its id.
	varies = slices.DeleteFunc(varies, func(name string) bool { return name == "request_id" })
	hooks := policy.Hooks{Request: t.request, Varies: varies}
	if t.body != nil {
		// What is stored answers requests without a body.
		hooks.Request, hooks.Blocking = t.requestWithBody, true
	}
	return hooks, nil
}

func checkHeader(name string) error {
	switch {
	case !exchange.IsToken(name):
		return errors.New(`"` + name + `" can not be the name of a header`)
	case exchange.KindOf([]byte(name)) != exchange.KindOther:
		return errors.New(name + " is the gateway's own towards the backend and can not be transformed")
	}
	return nil
}

func checkParameter(name string) error {
	if name == "" {
		return errors.New("a query parameter needs a name")
	}
	return nil
}

func (t *transformer) request(x *exchange.Exchange) error {
	if t.hasHeaders {
		t.changeHeaders(x)
	}
	if t.hasQuery {
		t.changeQuery(x)
	}
	return nil
}

func (t *transformer) changeHeaders(x *exchange.Exchange) {
	for _, name := range t.headers.remove {
		x.ToBackend.Remove(name)
	}
	for i := range t.headers.rename {
		renameHeader(x, &t.headers.rename[i])
	}
	for i := range t.headers.replace {
		if a := &t.headers.replace[i]; hasHeader(x, a.Name) && !setHeader(x, a) {
			x.ToBackend.Remove(a.Name)
		}
	}
	for i := range t.headers.add {
		if a := &t.headers.add[i]; !hasHeader(x, a.Name) {
			setHeader(x, a)
		}
	}
	for i := range t.headers.append {
		a := &t.headers.append[i]
		for _, value := range a.Values {
			if v, ok := headerValue(x, value); ok {
				x.ToBackend.Add(a.Name, v)
			}
		}
	}
}

// headerValue fills a template in, unless it could end the header and begin another.
func headerValue(x *exchange.Exchange, t *exchange.Template) (value []byte, ok bool) {
	if v, ok := t.Value(x); ok && (t.Fixed() != nil || exchange.IsFieldValue(v)) {
		return v, true
	}
	return nil, false
}

// setHeader puts the values in the place of all others; false means that there are none.
func setHeader(x *exchange.Exchange, a *policy.Assignment) (set bool) {
	for _, value := range a.Values {
		v, ok := headerValue(x, value)
		switch {
		case !ok:
		case set:
			x.ToBackend.Add(a.Name, v)
		default:
			x.ToBackend.Set(a.Name, v)
			set = true
		}
	}
	return set
}

// hasHeader reports whether the backend would get such a header as things stand. An underscore in a client's name counts as a hyphen, as it
// does for many backends, so that it is no way past a replacement.
func hasHeader(x *exchange.Exchange, name string) bool {
	if v, decided := x.ToBackend.Value(name); decided {
		return v != nil
	}
	for i := range x.Fields {
		if f := &x.Fields[i]; passes(x, f) && exchange.SameField(f.Name, name) {
			return true
		}
	}
	return false
}

// renameHeader moves all values, those of the client before those that the gateway added.
func renameHeader(x *exchange.Exchange, r *rename) {
	moved := false
	move := func(value []byte) {
		if moved {
			x.ToBackend.Add(r.to, value)
		} else {
			x.ToBackend.Set(r.to, value)
			moved = true
		}
	}
	if replaced := replaces(x, r.from); !replaced {
		for i := range x.Fields {
			if f := &x.Fields[i]; passes(x, f) && exchange.SameField(f.Name, r.from) {
				move(f.Value)
			}
		}
	}
	for n := 0; ; n++ {
		v, ok := nthEdit(x, r.from, n)
		if !ok {
			break
		}
		move(v)
	}
	if moved {
		x.ToBackend.Remove(r.from)
	}
}

// replaces reports whether the client's own header of that name is set or removed already.
func replaces(x *exchange.Exchange, name string) bool {
	list := x.ToBackend.List()
	for i := range list {
		if list[i].Op != exchange.EditAdd && strings.EqualFold(list[i].Name, name) {
			return true
		}
	}
	return false
}

// nthEdit gives the nth value among the edits. The list is read anew each time, since moving a value changes it.
func nthEdit(x *exchange.Exchange, name string, n int) (value []byte, ok bool) {
	list := x.ToBackend.List()
	for i := range list {
		if e := &list[i]; e.Op != exchange.EditRemove && strings.EqualFold(e.Name, name) {
			if n == 0 {
				return e.Value, true
			}
			n--
		}
	}
	return nil, false
}

// passes reports whether a field of the client goes to the backend: those that Connection names do not (RFC 9110, section 7.6.1), so that
// a client can not make the gateway believe that a header is there.
func passes(x *exchange.Exchange, f *exchange.Field) bool {
	if f.Kind != exchange.KindOther {
		return false
	}
	for i := range x.Fields {
		if x.Fields[i].Kind == exchange.KindConnection && lists(x.Fields[i].Value, f.Name) {
			return false
		}
	}
	return true
}
