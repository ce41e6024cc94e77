// Package responsetransform changes headers, body and status of an answer on its way to the client. It guarantees that no value of a request can end a
// header and begin another, and that the framing of the answer stays out of reach.
//
// It changes the answer itself and not what the gateway adds to it at the end, since what is stored in a cache behind it is the
// changed answer.
package responsetransform

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/transform"
)

// Config are the settings of the policy `response_transform`. The steps come in the order remove, rename, replace, add, append. A value may hold
// `${header.NAME}`, `${query.NAME}`, `${claim.NAME}`, `${path.NAME}`, `${consumer}`, `${client_ip}`, `${request_id}`, `${host}`, `${scheme}`,
// `${method}` and `${path}` of the request. A value whose places are all empty is not set, nor is one that would hold
// control characters. The gateway's own errors, and the headers that other policies add to an answer, stay as they are.
//
// `json` is about members of JSON bodies, at paths as in `request_transform`. An answer whose body is changed is held until it has come whole. The backend is asked
// neither for a content coding nor for a part, since what is to be changed has to be read; one that it uses all the same is undone. A strong `ETag` becomes weak,
// `Accept-Ranges` and digests are left out.
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
	// Convert turns the body into another format. A SOAP fault that came with a status below 400 gets 500.
	Convert transform.Convert `yaml:"convert"`
	// Status gives answers another status: from the one that the backend gave to the one for the client, as `404: 200`.
	Status map[int]int `yaml:"status"`
	// MaxBody is the largest body that is worked on, decoded.
	MaxBody config.Size `yaml:"max_body" default:"1MiB" min:"1" max:"64MiB"`
	// Unreadable is what happens to a body of the type that is worked on, but that is malformed, too large, a part, or in a coding that is not
	// known: `reject` answers 502, so that nothing that was to be removed leaves, `pass` leaves it as it is. Both give `response_unreadable` as the reason in the access log.
	Unreadable string `yaml:"unreadable" default:"reject" enum:"reject|pass"`
}

// Names are headers.
type Names struct {
	// Headers by name.
	Headers []string `yaml:"headers"`
	// JSON members and elements by path.
	JSON []string `yaml:"json"`
}

// Renames are old names with new ones.
type Renames struct {
	// Headers: old name to new name.
	Headers map[string]string `yaml:"headers"`
	// JSON members by path, each with its new name.
	JSON map[string]string `yaml:"json"`
}

// Values are names with one or several values.
type Values struct {
	// Headers: name to value, or a list of values.
	Headers map[string]config.StringList `yaml:"headers"`
	// JSON: path to value, which may be of any type and hold places in its texts. It is appended to a list, each element of one by itself; where there is nothing it becomes one, and any other value stays.
	JSON map[string]any `yaml:"json"`
}

// Definition is the policy `response_transform`.
var Definition = policy.Define("response_transform", policy.Transform, build)

type transformer struct {
	remove               []string
	rename               []rename
	replace, add, append []policy.Assignment
	status               map[int]int
	body                 *transform.Body // nil for none
	pass                 bool            // a body that can not be read goes on as it is
}

type rename struct{ from, to string }

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	t := &transformer{remove: c.Remove.Headers, status: c.Status, pass: c.Unreadable == "pass"}
	var errs config.Errors
	wrong := func(at, format string, a ...any) {
		errs = append(errs, b.World.Config.Errorf(b.Path+"."+at, format, a...))
	}
	for _, name := range c.Remove.Headers {
		if err := check(name); err != nil {
			wrong("remove.headers", "%v", err)
		}
	}
	for _, from := range slices.Sorted(maps.Keys(c.Rename.Headers)) {
		to := c.Rename.Headers[from]
		if err := errors.Join(check(from), check(to)); err != nil {
			wrong("rename.headers."+from, "%v", err)
		} else if strings.EqualFold(from, to) {
			wrong("rename.headers."+from, "is renamed to itself")
		}
		t.rename = append(t.rename, rename{from, to})
	}
	values := func(step string, m map[string]config.StringList) []policy.Assignment {
		list, wrongs := policy.Assignments(b, step+".headers", m, true, check)
		errs = append(errs, wrongs...)
		return list
	}
	t.replace = values("replace", c.Replace.Headers)
	t.add = values("add", c.Add.Headers)
	t.append = values("append", c.Append.Headers)
	for _, from := range slices.Sorted(maps.Keys(c.Status)) {
		to := c.Status[from]
		switch {
		case !final(from) || from == 304 || from == 206:
			wrong("status."+strconv.Itoa(from), "can not be given another status")
		case !final(to) || to == 304 || to == 206 || to == 204 || to == 205:
			wrong("status."+strconv.Itoa(from), "can not become %d: that says something about the body", to)
		}
	}
	var wrongs config.Errors
	t.body, wrongs = transform.Compile(b, &transform.Steps{
		Remove: c.Remove.JSON, Rename: c.Rename.JSON, Replace: c.Replace.JSON, Add: c.Add.JSON, Append: c.Append.JSON,
	}, &c.Convert, c.MaxBody)
	if errs = append(errs, wrongs...); len(errs) > 0 {
		return policy.Hooks{}, errs
	}
	hooks := policy.Hooks{Response: t.response, Varies: policy.Varies(t.replace, t.add, t.append)}
	if t.body != nil {
		hooks.Varies = slices.Compact(slices.Sorted(slices.Values(slices.Concat(hooks.Varies, t.body.Varies()))))
		hooks.Request, hooks.Blocking = readable, true
	}
	return hooks, nil
}

func final(status int) bool { return 200 <= status && status <= 599 }

func check(name string) error {
	if !exchange.IsToken(name) {
		return errors.New(`"` + name + `" can not be the name of a header`)
	}
	switch exchange.KindOf([]byte(name)) {
	case exchange.KindOther, exchange.KindForwarded, exchange.KindIdentity, exchange.KindHost, exchange.KindExpect:
		return nil
	}
	return errors.New(name + " belongs to the connection or frames the answer, and can not be transformed")
}

func (t *transformer) response(x *exchange.Exchange) error {
	if x.Reject != nil {
		return nil //nolint:nilerr // the gateway's own refusal is no failure of this hook
	}
	if t.body != nil {
		if err := t.changeBody(x); err != nil {
			return err
		}
	}
	if to, ok := t.status[x.Response.StatusCode()]; ok {
		t.setStatus(x, to)
	}
	h := &x.Response.Header
	for _, name := range t.remove {
		exchange.DelResponse(h, name)
	}
	for i := range t.rename {
		t.rename[i].apply(x)
	}
	for i := range t.replace {
		if a := &t.replace[i]; has(x, a.Name) {
			exchange.DelResponse(h, a.Name)
			add(x, a)
		}
	}
	for i := range t.add {
		if a := &t.add[i]; !has(x, a.Name) {
			add(x, a)
		}
	}
	for i := range t.append {
		add(x, &t.append[i])
	}
	return nil
}

// add appends the values that may stand in a header.
func add(x *exchange.Exchange, a *policy.Assignment) {
	for _, value := range a.Values {
		if v, ok := value.Value(x); ok && (value.Fixed() != nil || exchange.IsFieldValue(v)) {
			x.Response.Header.AddBytesV(a.Name, v)
		}
	}
}

func has(x *exchange.Exchange, name string) bool {
	for k := range x.Response.Header.All() {
		if exchange.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// manyValues is how many values of one name are moved without allocating.
const manyValues = 8

func (r *rename) apply(x *exchange.Exchange) {
	h := &x.Response.Header
	var space [manyValues][]byte
	values := space[:0]
	for k, v := range h.All() {
		if exchange.EqualFold(k, r.from) {
			// A copy: deleting moves the fields.
			values = append(values, x.Copy(v))
		}
	}
	if len(values) == 0 {
		return
	}
	exchange.DelResponse(h, r.from)
	exchange.DelResponse(h, r.to)
	for _, v := range values {
		h.AddBytesV(r.to, v)
	}
}
