// Package transform is what the policies request_transform and
// response_transform have in common: the settings about bodies, compiled, and
// their way from the body that came to the one that goes on. A body is decoded if
// it has a content coding, turned into JSON, edited, and turned into what is
// wanted; nothing of it grows beyond a bound.
package transform

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
	"sluice/gateway/coding"
	"sluice/gateway/convert"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Steps are what is done to members of JSON bodies, by step.
type Steps struct {
	Remove               []string
	Rename               map[string]string
	Replace, Add, Append map[string]any
}

// Convert turns bodies of one format into another. Left out, nothing is converted. Edits of JSON come behind a
// conversion to `json` and before one from it. An XML element is a member of its name with its prefix, several of one name are an
// array, attributes are members whose names begin with `@`, text beside others is `#text`; all values are texts. Document types, and with them
// entities, are refused.
type Convert struct {
	// From is the format that comes: bodies of another type pass. `soap` is an envelope, whose answer or fault is taken out.
	From string `yaml:"from" enum:"json|xml|form|soap"`
	// To is the format that goes on. `soap` puts an object into an envelope, as the parameters of Operation.
	To string `yaml:"to" enum:"json|xml|form|soap"`
	// Root is the XML element around a document that is not an object of one member.
	Root string `yaml:"root" default:"root"`
	// Lists are the XML elements that are arrays in JSON also where there is one of them.
	Lists []string `yaml:"lists"`
	// Operation is the element in the body of a SOAP envelope.
	Operation string `yaml:"operation"`
	// Namespace is the XML name space of Operation.
	Namespace string `yaml:"namespace"`
	// Action is the SOAPAction of the request.
	Action string `yaml:"action"`
	// Version of SOAP.
	Version string `yaml:"version" enum:"1.1|1.2" default:"1.1"`
}

// Off reports whether nothing is converted.
func (c *Convert) Off() bool { return c.From == "" && c.To == "" }

// Body is what is done to a body. It is immutable.
type Body struct {
	edits    []edit
	from, to string
	xml      convert.XMLOptions
	soap     convert.SOAP
	action   []byte
	limit    int
}

// edit is one change of a JSON document.
type edit struct {
	step  step
	path  document.Path
	name  string // of a rename
	value *value // nil for none
}

type step uint8

const (
	remove step = iota
	rename
	replace
	add
	push
)

// Compile compiles the settings below the policy; limit is in bytes. It returns
// nil where there is nothing to do.
func Compile(b *policy.Build, s *Steps, c *Convert, limit config.Size) (*Body, config.Errors) {
	t := &Body{
		from: "json", to: "json", limit: int(limit), xml: convert.XMLOptions{Lists: c.Lists, Root: c.Root},
		soap: convert.SOAP{Version: c.Version, Operation: c.Operation, Namespace: c.Namespace},
	}
	var errs config.Errors
	wrong := func(at, format string, a ...any) {
		errs = append(errs, b.World.Config.Errorf(b.Path+"."+at, format, a...))
	}
	pathOf := func(at, text string) (p document.Path) {
		p, err := document.ParsePath(text)
		if err != nil {
			wrong(at, "%v", err)
		}
		return p
	}
	for i, text := range s.Remove {
		at := "remove.json[" + strconv.Itoa(i) + "]"
		p := pathOf(at, text)
		if p.IsRoot() && text == "$" {
			wrong(at, "can not remove the whole body")
		}
		t.edits = append(t.edits, edit{step: remove, path: p})
	}
	for _, text := range slices.Sorted(maps.Keys(s.Rename)) {
		at := "rename.json." + text
		p := pathOf(at, text)
		name := s.Rename[text]
		if target, err := document.ParsePath(name); err == nil {
			last, single := target.Name()
			if single = single && oneStep(target, last); !single {
				wrong(at, "%q is a path; a member gets another name where it is, so write the name alone", s.Rename[text])
			}
			name = last
		}
		if _, named := p.Name(); len(errs) == 0 && !named {
			wrong(at, "does not lead to a member, so that there is no name to change")
		}
		t.edits = append(t.edits, edit{step: rename, path: p, name: name})
	}
	for _, kind := range []struct {
		name   string
		step   step
		values map[string]any
	}{{"replace", replace, s.Replace}, {"add", add, s.Add}, {"append", push, s.Append}} {
		for _, text := range slices.Sorted(maps.Keys(kind.values)) {
			at := kind.name + ".json." + text
			p := pathOf(at, text)
			if _, named := p.Name(); kind.step == add && len(errs) == 0 && !named {
				wrong(at, "does not end with a name; a member is added, and elements are appended")
			}
			values := []any{kind.values[text]}
			if list, ok := kind.values[text].([]any); ok && kind.step == push {
				values = list
			}
			for _, v := range values {
				compiled, err := newValue(b, v)
				if err != nil {
					wrong(at, "%v", err)
				}
				t.edits = append(t.edits, edit{step: kind.step, path: p, value: compiled})
			}
		}
	}
	if !c.Off() {
		t.from, t.to = c.From, c.To
		t.action = []byte(c.Action)
		switch {
		case c.From == "" || c.To == "":
			wrong("convert", "wants both from and to")
		case c.From == c.To:
			wrong("convert", "is from %s to itself", c.From)
		case c.From != "json" && c.To != "json":
			wrong("convert", "is neither from nor to json")
		case c.To == "soap" && c.Operation == "":
			wrong("convert.operation", "is missing: it names what is called")
		case c.To != "soap" && (c.Operation != "" || c.Namespace != "" || c.Action != ""):
			wrong("convert", "names an operation, a namespace or an action, which belong to a conversion to soap")
		case !exchange.IsFieldValue(t.action) || strings.ContainsAny(c.Action, `"\`):
			wrong("convert.action", "can not stand in a header")
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	if len(t.edits) == 0 && c.Off() {
		return nil, nil
	}
	return t, nil
}

// Limit is how many bytes a body may have, as it comes and decoded.
func (t *Body) Limit() int { return t.limit }

// Varies names what the outcome depends on, in the words of policy.Hooks.
func (t *Body) Varies() []string {
	var names []string
	for i := range t.edits {
		if v := t.edits[i].value; v != nil {
			for j := range v.parts {
				if p := v.parts[j].template; p != nil {
					names = append(names, p.Varies()...)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Reads reports whether a body of this Content-Type is one to work on.
func (t *Body) Reads(contentType []byte) bool { return isFormat(t.from, contentType) }

// ContentType is the type of what goes on, nil where it stays as it is.
func (t *Body) ContentType() []byte {
	switch {
	case t.from == t.to:
		return nil
	case t.to == "soap" && t.soap.Version == "1.2":
		if len(t.action) > 0 {
			return []byte(`application/soap+xml; charset=utf-8; action="` + string(t.action) + `"`)
		}
		return []byte("application/soap+xml; charset=utf-8")
	}
	return types[t.to]
}

var types = map[string][]byte{
	"json": []byte("application/json"), "xml": []byte("application/xml; charset=utf-8"),
	"form": []byte("application/x-www-form-urlencoded"), "soap": []byte("text/xml; charset=utf-8"),
}

// Action is the SOAPAction field of a request, nil for none.
func (t *Body) Action() []byte {
	if t.to != "soap" || t.soap.Version == "1.2" {
		return nil
	}
	return []byte(`"` + string(t.action) + `"`)
}

// Buffers hold a body on its way. What Apply returned lives in them.
type Buffers struct{ a, b []byte }

// maxKept is how much memory stays with an idle exchange.
const maxKept = 64 << 10

// Reset makes the buffers ready for the next exchange.
func (b *Buffers) Reset() {
	if cap(b.a) > maxKept {
		b.a = nil
	}
	if cap(b.b) > maxKept {
		b.b = nil
	}
}

// ErrTooLarge says that a body outgrew the limit while it was worked on.
var ErrTooLarge = errors.New("it is too large")

// Apply works on a body in the codings of its Content-Encoding. fault tells
// that a SOAP envelope held one. Errors are those of the packages coding,
// document and convert, and ErrTooLarge. body is not written to, and may be what is returned.
func (t *Body) Apply(x *exchange.Exchange, bufs *Buffers, encoding, body []byte) (out []byte, fault bool, err error) {
	if body, err = coding.Decode(encoding, body, t.limit); err != nil {
		return nil, false, err
	}
	if len(body) > t.limit {
		return nil, false, ErrTooLarge
	}
	switch t.from {
	case "xml":
		bufs.a, err = convert.XMLToJSON(bufs.a[:0], body, &t.xml)
		body = bufs.a
	case "form":
		bufs.a, err = convert.FormToJSON(bufs.a[:0], body)
		body = bufs.a
	case "soap":
		bufs.a, fault, err = convert.SOAPToJSON(bufs.a[:0], body, &t.xml)
		body = bufs.a
	}
	if err != nil {
		return nil, false, err
	}
	v, err := document.Check(body)
	if err != nil {
		return nil, false, err
	}
	if !t.edit(x, v, len(body)) {
		return nil, false, ErrTooLarge
	}
	switch t.to {
	case "json":
		if !v.Changed() {
			return body, fault, nil
		}
		bufs.b = v.Append(bufs.b[:0])
	case "xml":
		bufs.b, err = convert.JSONToXML(bufs.b[:0], v, &t.xml)
	case "form":
		bufs.b, err = convert.JSONToForm(bufs.b[:0], v)
	case "soap":
		bufs.b, err = convert.JSONToSOAP(bufs.b[:0], v, &t.soap)
	}
	return bufs.b, fault, err
}

// edit carries the edits out on a document of size bytes. It is false where it would outgrow the bound.
func (t *Body) edit(x *exchange.Exchange, v *document.Value, size int) bool {
	for i := range t.edits {
		e := &t.edits[i]
		var filled []byte
		set := true
		if e.value != nil {
			filled, set = e.value.of(x)
		}
		places := 0
		switch {
		case e.step == remove, e.step == replace && !set:
			v.Remove(e.path, false)
		case !set:
		case e.step == rename:
			places = v.Rename(e.path, e.name)
			filled = []byte(e.name)
		case e.step == replace:
			places = v.Replace(e.path, filled)
		case e.step == add:
			places = v.Add(e.path, filled)
		case e.step == push:
			places = v.Push(e.path, filled)
		}
		// A path may lead to many places; the texts are put together once it is known how many.
		if size += places * (len(filled) + perPlace); size > growth*t.limit+perPlace {
			return false
		}
	}
	return true
}

// perPlace is what a change takes beside its value, about: names on the way, signs.
const perPlace = 64

// growth is by what an edited body may be larger than one may come.
const growth = 4

// oneStep reports whether a path is a name alone.
func oneStep(p document.Path, name string) bool {
	one, err := document.ParsePath("[" + strconv.Quote(name) + "]")
	return err == nil && p.Equal(one)
}

// isFormat reports whether a Content-Type is one of a format's.
func isFormat(format string, contentType []byte) bool {
	t := string(contentType)
	if i := strings.IndexByte(t, ';'); i >= 0 {
		t = t[:i]
	}
	t = strings.ToLower(strings.Trim(t, " \t"))
	switch format {
	case "json":
		return t == "application/json" || t == "text/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json")
	case "form":
		return t == "application/x-www-form-urlencoded"
	}
	return t == "application/xml" || t == "text/xml" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+xml")
}
