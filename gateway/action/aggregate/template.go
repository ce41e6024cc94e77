package aggregate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// template is a text with places of the client's request, its JSON body, and the answers of calls.
type template struct {
	parts []part
}

// part is a text, or a place if it has one of the others.
type part struct {
	text    string
	request *exchange.Template // a place of the request
	call    int                // whose answer it is of; ofBody, ofNothing
	path    document.Path
}

const (
	ofNothing = -1
	ofBody    = -2
)

func (p *part) isPlace() bool { return p.request != nil || p.call != ofNothing }

// scope is what places are filled from.
type scope struct {
	x      *exchange.Exchange
	body   *document.Value
	values []*document.Value // nil where there is none
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
			t.parts = append(t.parts, part{text: p.Text, call: ofNothing})
		}
	}
	if len(t.parts) > maxParts {
		k.wrong(setting, "there are more than %d texts and places in it", maxParts)
	}
	return t
}

// place compiles what stands between the braces.
func (k *compiler) place(setting, name string) part {
	if name == "body" || strings.HasPrefix(name, "body.") || strings.HasPrefix(name, "body[") {
		k.body = true
		return part{call: ofBody, path: k.rest(setting, name[len("body"):])}
	}
	if of, isCall := strings.CutPrefix(name, "calls."); isCall {
		end := strings.IndexAny(of, ".[")
		if end < 0 {
			end = len(of)
		}
		n := k.find(of[:end])
		if n < 0 {
			k.wrong(setting, "${%s}: there is no call %q; there are: %s", name, of[:end], k.names())
			return part{call: ofNothing}
		}
		k.needs = append(k.needs, n)
		return part{call: n, path: k.rest(setting, of[end:])}
	}
	t, err := exchange.ParseTemplate("${" + name + "}")
	if err != nil {
		k.wrong(setting, "%v, and ${body.PATH} and ${calls.NAME.PATH} here", err)
		return part{call: ofNothing}
	}
	k.varies = append(k.varies, t.Varies()...)
	return part{request: t, call: ofNothing}
}

// rest is the path behind a name, which may be none.
func (k *compiler) rest(setting, text string) document.Path {
	if text == "" {
		return document.Path{}
	}
	return k.path(setting, strings.TrimPrefix(text, "."))
}

// pathOf compiles the path of a request.
func (k *compiler) pathOf(text string) *template {
	t := k.template("path", text)
	if fault := action.PathFault(text); fault != "" {
		k.wrong("path", "%s", fault)
	}
	return t
}

// Rejections because of values that can not stand where they are wanted: of a service, and of the client.
var (
	rejectValue = exchange.NewReject(fasthttp.StatusBadGateway, "aggregate_value", "a service answered with a value that can not be used in a call to another")
	rejectInput = exchange.NewReject(fasthttp.StatusBadRequest, "aggregate_input", "the request has no value, or none that can be used, for a call that is made for it")
)

// blame is the rejection for a value of this place.
func (p *part) blame() *exchange.Reject {
	if p.call >= 0 {
		return rejectValue
	}
	return rejectInput
}

// text fills the template in. filled is false where it has places and all are empty.
func (t *template) text(s *scope) (out []byte, filled bool, wrong *exchange.Reject) {
	filled = !slices.ContainsFunc(t.parts, func(p part) bool { return p.isPlace() })
	for i := range t.parts {
		p := &t.parts[i]
		before := len(out)
		if out, wrong = p.value(s, out); wrong != nil {
			return nil, false, wrong
		}
		filled = filled || p.isPlace() && len(out) > before
	}
	return out, filled, nil
}

// segments is text for a path: no value may be empty, or end the segment that it stands in.
func (t *template) segments(s *scope) (out []byte, wrong *exchange.Reject) {
	var last *part
	for i := range t.parts {
		p := &t.parts[i]
		before := len(out)
		if out, wrong = p.value(s, out); wrong != nil {
			return nil, wrong
		}
		if !p.isPlace() {
			continue
		}
		last = p
		if !action.FitsSegment(out[before:]) {
			return nil, p.blame()
		}
	}
	if last != nil && action.LeavesSegment(out) {
		return nil, last.blame()
	}
	return out, nil
}

// value appends what the part stands for, as text.
func (p *part) value(s *scope, dst []byte) (out []byte, wrong *exchange.Reject) {
	switch {
	case p.request != nil:
		v, _ := p.request.Value(s.x)
		return append(dst, v...), nil
	case p.call == ofNothing:
		return append(dst, p.text...), nil
	}
	from := p.from(s)
	if from == nil {
		return dst, nil
	}
	n := 0
	add := func(v *document.Value) {
		if n++; n > 1 {
			dst = append(dst, ',')
		}
		switch v.Kind() {
		case document.Null:
		case document.Object, document.Array:
			wrong = p.blame()
		case document.String:
			text, _ := v.AsString()
			dst = append(dst, text...)
		default:
			dst = append(dst, v.Text()...)
		}
	}
	if !p.path.IsMany() {
		if v := from.Get(p.path); v != nil {
			add(v)
		}
	} else {
		from.Each(p.path, func(v *document.Value) bool { add(v); return false })
	}
	return dst, wrong
}

func (p *part) from(s *scope) *document.Value {
	if p.call == ofBody {
		return s.body
	}
	return s.values[p.call]
}

// json appends the value at the place as it was written, all of them as a list if the path leads to several.
func (p *part) json(s *scope, dst []byte) []byte {
	from := p.from(s)
	switch {
	case p.path.IsMany():
		dst = append(dst, '[')
		n := 0
		if from != nil {
			from.Each(p.path, func(v *document.Value) bool {
				if n++; n > 1 {
					dst = append(dst, ',')
				}
				dst = v.Append(dst)
				return false
			})
		}
		return append(dst, ']')
	case from != nil:
		if v := from.Get(p.path); v != nil {
			return v.Append(dst)
		}
	}
	return append(dst, "null"...)
}

// payload is JSON of which texts may be templates.
type payload struct {
	parts []payloadPart
}

// payloadPart is JSON, or a text to be filled in, or one place that keeps its type.
type payloadPart struct {
	raw   []byte
	text  *template
	value *part
}

func (k *compiler) payload(setting string, v any) *payload {
	p := &payload{}
	k.addTo(p, setting, v)
	return p
}

func (p *payload) raw(s ...byte) {
	if last := len(p.parts) - 1; last >= 0 && p.parts[last].raw != nil {
		p.parts[last].raw = append(p.parts[last].raw, s...)
		return
	}
	p.parts = append(p.parts, payloadPart{raw: s})
}

func (k *compiler) addTo(p *payload, setting string, v any) {
	switch v := v.(type) {
	case string:
		if !strings.Contains(v, "${") {
			p.raw(document.AppendString(nil, v)...)
			return
		}
		t := k.template(setting, v)
		if len(t.parts) == 1 && t.parts[0].call != ofNothing {
			p.parts = append(p.parts, payloadPart{value: &t.parts[0]})
			return
		}
		p.parts = append(p.parts, payloadPart{text: t})
	case []any:
		p.raw('[')
		for i, e := range v {
			if i > 0 {
				p.raw(',')
			}
			k.addTo(p, setting, e)
		}
		p.raw(']')
	case map[string]any:
		p.raw('{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				p.raw(',')
			}
			p.raw(append(document.AppendString(nil, name), ':')...)
			k.addTo(p, setting, v[name])
		}
		p.raw('}')
	default:
		text, err := json.Marshal(v)
		if err != nil {
			k.wrong(setting, "is neither a text, a number, a truth value, null, a list nor a block")
			return
		}
		p.raw(text...)
	}
}

// fixed is JSON without places.
func (k *compiler) fixed(setting string, v any) []byte {
	p := &payload{}
	k.addTo(p, setting, v)
	if len(p.parts) != 1 || p.parts[0].raw == nil {
		k.wrong(setting, "takes no templates")
		return nil
	}
	return p.parts[0].raw
}

// fill makes the body of a request, of at most limit bytes.
func (p *payload) fill(s *scope, limit int) (body []byte, wrong *exchange.Reject) {
	body = make([]byte, 0, 256)
	for i := range p.parts {
		switch part := &p.parts[i]; {
		case part.raw != nil:
			body = append(body, part.raw...)
		case part.value != nil:
			body = part.value.json(s, body)
		default:
			text, _, wrong := part.text.text(s)
			if wrong != nil {
				return nil, wrong
			}
			body = exchange.AppendJSONString(body, text)
		}
		if len(body) > limit {
			return nil, rejectLarge
		}
	}
	return body, nil
}
