package transform

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// value is a JSON value, of which texts may hold places.
type value struct {
	parts []part
	whole bool // one text is all
}

// part is JSON or a text that each request fills in.
type part struct {
	raw      []byte
	template *exchange.Template
}

var errTypes = errors.New("is neither a text, a number, a truth value, null, a list nor a block")

func newValue(b *policy.Build, v any) (*value, error) {
	n := &value{}
	err := n.add(b, v)
	n.whole = len(n.parts) == 1 && n.parts[0].template != nil
	return n, err
}

func (n *value) raw(s ...byte) {
	if last := len(n.parts) - 1; last >= 0 && n.parts[last].template == nil {
		n.parts[last].raw = append(n.parts[last].raw, s...)
		return
	}
	n.parts = append(n.parts, part{raw: s})
}

func (n *value) add(b *policy.Build, v any) error {
	switch v := v.(type) {
	case nil, bool, int64, float64:
		text, err := json.Marshal(v)
		n.raw(text...)
		return err
	case string:
		if !strings.Contains(v, "${") {
			n.raw(document.AppendString(nil, v)...)
			return nil
		}
		t, err := b.Template(v)
		if err != nil {
			return err
		}
		if t.Fixed() != nil {
			n.raw(document.AppendString(nil, t.Fixed())...)
			return nil
		}
		n.parts = append(n.parts, part{template: t})
	case []any:
		n.raw('[')
		for i, e := range v {
			if i > 0 {
				n.raw(',')
			}
			if err := n.add(b, e); err != nil {
				return err
			}
		}
		n.raw(']')
	case map[string]any:
		n.raw('{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				n.raw(',')
			}
			n.raw(append(document.AppendString(nil, name), ':')...)
			if err := n.add(b, v[name]); err != nil {
				return err
			}
		}
		n.raw('}')
	default:
		return errTypes
	}
	return nil
}

// of fills the value in; ok is false where it is one text whose places are all
// empty. It lives as long as the exchange.
func (n *value) of(x *exchange.Exchange) (filled []byte, ok bool) {
	if len(n.parts) == 1 && !n.whole {
		return n.parts[0].raw, true
	}
	var out []byte
	for i := range n.parts {
		p := &n.parts[i]
		if p.template == nil {
			out = append(out, p.raw...)
			continue
		}
		text, set := p.template.Value(x)
		if n.whole && !set {
			return nil, false
		}
		out = exchange.AppendJSONString(out, text)
	}
	return out, true
}
