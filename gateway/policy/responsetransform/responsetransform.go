// Package responsetransform changes the headers of an answer on its way to the client. It guarantees that no value of a request can end a
// header and begin another, and that the framing of the answer stays out of reach.
//
// It changes the answer itself and not what the gateway adds to it at the end, since what is stored in a cache behind it is the
// changed answer.
package responsetransform

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `response_transform`. The steps come in the order remove, rename, replace, add, append. A value may hold
// `${header.NAME}`, `${query.NAME}`, `${claim.NAME}`, `${path.NAME}`, `${consumer}`, `${client_ip}`, `${request_id}`, `${host}`, `${scheme}`,
// `${method}` and `${path}` of the request. A value whose places are all empty is not set, nor is one that would hold
// control characters. The gateway's own errors, and the headers that other policies add to an answer, stay as they are.
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
}

// Names are headers.
type Names struct {
	// Headers by name.
	Headers []string `yaml:"headers"`
	// JSON members of the body. Not built yet.
	JSON any `yaml:"json"`
}

// Renames are old names with new ones.
type Renames struct {
	// Headers: old name to new name.
	Headers map[string]string `yaml:"headers"`
	// JSON members of the body. Not built yet.
	JSON any `yaml:"json"`
}

// Values are names with one or several values.
type Values struct {
	// Headers: name to value, or a list of values.
	Headers map[string]config.StringList `yaml:"headers"`
	// JSON members of the body. Not built yet.
	JSON any `yaml:"json"`
}

// Definition is the policy `response_transform`.
var Definition = policy.Define("response_transform", policy.Transform, build)

// Validate refuses what is not built yet.
func (c *Config) Validate() error {
	var errs []error
	for _, step := range [...]struct {
		name string
		json any
	}{{"remove", c.Remove.JSON}, {"rename", c.Rename.JSON}, {"replace", c.Replace.JSON}, {"add", c.Add.JSON}, {"append", c.Append.JSON}} {
		if step.json != nil {
			errs = append(errs, config.Errorf(step.name+".json", "changing bodies is not built yet; leave it out"))
		}
	}
	return errors.Join(errs...)
}

type transform struct {
	remove               []string
	rename               []rename
	replace, add, append []policy.Assignment
}

type rename struct{ from, to string }

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	t := &transform{remove: c.Remove.Headers}
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
	if len(errs) > 0 {
		return policy.Hooks{}, errs
	}
	return policy.Hooks{Response: t.response, Varies: policy.Varies(t.replace, t.add, t.append)}, nil
}

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

func (t *transform) response(x *exchange.Exchange) error {
	if x.Reject != nil {
		return nil //nolint:nilerr // the gateway's own refusal is no failure of this hook
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
