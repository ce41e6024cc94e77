package websocket

import (
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// template is a text with places of the client's handshake or request, and of a message.
type template struct{ parts []part }

// part is a text, or a place if it has one of the others.
type part struct {
	fixed   string
	request *exchange.Template
	message *place
	form    form
}

// form is how a value is written where it stands.
type form uint8

const (
	asText form = iota
	asJSON
	inString // of JSON
)

// place is in a message: a path in its JSON, or all of it.
type place struct {
	whole bool
	path  document.Path
}

// parameter is a name with its value.
type parameter struct {
	name  string
	value *template
}

// scope is what places are filled from.
type scope struct {
	x       *exchange.Exchange
	message []byte
	json    *document.Value // nil where the message is no JSON
}

// maxParts bounds a template.
const maxParts = 32

func (k *compiler) template(setting, text string) *template {
	t := &template{}
	pieces, err := action.Pieces(text)
	if err != nil {
		k.wrong(setting, "%v", err)
		return t
	}
	for _, p := range pieces {
		if p.IsPlace {
			t.parts = append(t.parts, k.place(setting, p.Text))
		} else {
			t.parts = append(t.parts, part{fixed: p.Text})
		}
	}
	if len(t.parts) > maxParts {
		k.wrong(setting, "there are more than %d texts and places in it", maxParts)
	}
	return t
}

// bodyOf compiles a body. In one that is an object or a list of JSON, values are written as JSON has them: none can leave its place and become
// members that the configuration has not.
func (k *compiler) bodyOf(text string) *template {
	t := k.template("body", text)
	var sample []byte
	forms := make([]form, len(t.parts))
	quoted, escaped := false, false
	for i, p := range t.parts {
		if p.isPlace() {
			if quoted {
				forms[i], sample = inString, append(sample, '0')
			} else {
				forms[i], sample = asJSON, append(sample, "null"...)
			}
			continue
		}
		sample = append(sample, p.fixed...)
		for _, c := range []byte(p.fixed) {
			switch {
			case escaped:
				escaped = false
			case c == '\\':
				escaped = quoted
			case c == '"':
				quoted = !quoted
			}
		}
	}
	if v, err := document.Check(sample); err == nil && (v.Kind() == document.Object || v.Kind() == document.Array) {
		for i := range t.parts {
			t.parts[i].form = forms[i]
		}
	}
	return t
}

// place compiles what stands between the braces.
func (k *compiler) place(setting, name string) part {
	if name == "message" {
		k.reads = true
		return part{message: &place{whole: true}}
	}
	if path, found := strings.CutPrefix(name, "message."); found || strings.HasPrefix(name, "message[") {
		if !found {
			path = name[len("message"):]
		}
		return part{message: k.message(setting, path)}
	}
	t, err := exchange.ParseTemplate("${" + name + "}")
	if err != nil {
		k.wrong(setting, "%v, and ${message} and ${message.PATH} with to: http", err)
		return part{}
	}
	k.varies = append(k.varies, t.Varies()...)
	return part{request: t}
}

// message compiles a path in messages.
func (k *compiler) message(setting, text string) *place {
	k.reads = true
	p, err := document.ParsePath(text)
	switch {
	case err != nil:
		k.wrong(setting, "%v", err)
	case p.IsMany():
		k.wrong(setting, "%q leads to several values", text)
	}
	return &place{path: p}
}

// pathOf compiles the path of a request.
func (k *compiler) pathOf(setting, text string) *template {
	t := k.template(setting, text)
	if fault := action.PathFault(text); fault != "" {
		k.wrong(setting, "%s", fault)
	}
	return t
}

var rejectValue = exchange.NewReject(fasthttp.StatusBadRequest, "message_value", "the message has no value, or none that can be used, for the request that is made of it")

func (p *part) isPlace() bool { return p.request != nil || p.message != nil }

// fixed is the text of a template without places.
func (t *template) fixed() (string, bool) {
	if slices.ContainsFunc(t.parts, func(p part) bool { return p.isPlace() }) {
		return "", false
	}
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.fixed)
	}
	return b.String(), true
}

// fill appends the text. filled is false where there are places and all of them are empty; ok is false where a value is no text.
func (t *template) fill(s *scope, dst []byte) (out []byte, filled, ok bool) {
	_, filled = t.fixed()
	for i := range t.parts {
		p := &t.parts[i]
		before := len(dst)
		if dst, ok = p.fill(s, dst); !ok {
			return dst, false, false
		}
		filled = filled || p.isPlace() && len(dst) > before
	}
	return dst, filled, true
}

// segments is fill for a path: no value may be empty, or end the segment that it stands in.
func (t *template) segments(s *scope, dst []byte) (out []byte, ok bool) {
	from, places := len(dst), false
	for i := range t.parts {
		p := &t.parts[i]
		before := len(dst)
		if dst, ok = p.fill(s, dst); !ok {
			return dst, false
		}
		if !p.isPlace() {
			continue
		}
		places = true
		if !action.FitsSegment(dst[before:]) {
			return dst, false
		}
	}
	return dst, !places || !action.LeavesSegment(dst[from:])
}

func (p *part) fill(s *scope, dst []byte) ([]byte, bool) {
	switch p.form {
	case inString:
		text, ok := p.text(s, nil)
		quoted := exchange.AppendJSONString(nil, text)
		return append(dst, quoted[1:len(quoted)-1]...), ok
	case asJSON:
		return p.json(s, dst)
	}
	return p.text(s, dst)
}

// json appends the value as it is if that is JSON; of the request a number or a truth value, all else as a text.
func (p *part) json(s *scope, dst []byte) ([]byte, bool) {
	switch {
	case p.message != nil && !p.message.whole:
		if v := s.at(p.message); v != nil {
			return v.Append(dst), true
		}
		return append(dst, "null"...), true
	case p.message != nil && s.json != nil:
		return s.json.Append(dst), true
	}
	text, ok := p.text(s, nil)
	if v, err := document.Check(text); err == nil && p.request != nil && (v.Kind() == document.Number || v.Kind() == document.Bool) {
		return v.Append(dst), ok
	}
	return exchange.AppendJSONString(dst, text), ok
}

// text appends the value as text. ok is false where it is none.
func (p *part) text(s *scope, dst []byte) (out []byte, ok bool) {
	switch {
	case p.request != nil:
		v, _ := p.request.Value(s.x)
		return append(dst, v...), true
	case p.message == nil:
		return append(dst, p.fixed...), true
	case p.message.whole:
		return append(dst, s.message...), true
	}
	v := s.at(p.message)
	if v == nil {
		return dst, true
	}
	switch v.Kind() {
	case document.Null:
	case document.Object, document.Array:
		return dst, false
	case document.String:
		text, _ := v.AsString()
		dst = append(dst, text...)
	default:
		dst = append(dst, v.Text()...)
	}
	return dst, true
}

// at is the value at a place, nil where there is none.
func (s *scope) at(p *place) *document.Value {
	if s.json == nil || p == nil {
		return nil
	}
	return s.json.Get(p.path)
}

// payload is fill for a body: one place alone is the JSON of its value, or nothing.
func (t *template) payload(s *scope) (body []byte, ok bool) {
	if len(t.parts) == 1 && t.parts[0].message != nil && !t.parts[0].message.whole {
		if v := s.at(t.parts[0].message); v != nil {
			return v.Append(nil), true
		}
		return nil, true
	}
	body, _, ok = t.fill(s, []byte{})
	return body, ok
}

var methods = [...]string{"GET", "POST", "PUT", "PATCH", "DELETE"}

func isMethod(s string) bool { return slices.Contains(methods[:], s) }
