package compression

import (
	"bytes"

	"sluice/gateway/coding"
	"sluice/gateway/exchange"
)

// request takes the suffixes of this policy off the entity tags that the client
// sends, so that cache and backend know them. What they compare is the same
// response, whatever it was coded in. If-Range stays as it is: a part of the
// response that is not coded does not continue one that is.
func (p *compressor) request(x *exchange.Exchange) error {
	for i := range x.Fields {
		f := &x.Fields[i]
		switch {
		case len(f.Name) == len("if-match") && exchange.EqualFold(f.Name, "if-match"):
			if v, changed := p.bare(x, f.Value, nil); changed {
				f.Value = v
			}
		case len(f.Name) == len("if-none-match") && exchange.EqualFold(f.Name, "if-none-match") && bytes.IndexByte(f.Value, '~') >= 0:
			var a acceptance
			a.read(x)
			// A form that the client would not be sent now is not the one to compare with.
			if v, changed := p.bare(x, f.Value, &a); changed {
				st := states.Of(x)
				st.asked = append(st.asked, f.Value)
				f.Value = v
			}
		}
	}
	return nil
}

// bare returns a list of entity tags without suffixes, of codings that a accepts where there is one.
func (p *compressor) bare(x *exchange.Exchange, list []byte, a *acceptance) (without []byte, changed bool) {
	dst := x.Scratch()
	start := 0
	for at := 0; at < len(list); {
		i := bytes.IndexByte(list[at:], '~')
		if i < 0 {
			break
		}
		at += i
		c := p.suffixAt(list[at:])
		if c == coding.Identity || a != nil && !a.accepts(c) {
			at++
			continue
		}
		dst = append(dst, list[start:at]...)
		at += len(suffixes[c]) - 1
		start = at
	}
	if start == 0 {
		return list, false
	}
	return x.Keep(append(dst, list[start:]...)), true
}

func (p *compressor) suffixAt(b []byte) coding.Coding {
	for _, c := range p.order {
		if bytes.HasPrefix(b, suffixes[c]) {
			return c
		}
	}
	return coding.Identity
}

// notModified gives the entity tag of a 304 the suffix under which the client
// knows it: that of the form which it would be sent, or else of one that it has.
func (p *compressor) notModified(x *exchange.Exchange) {
	if !states.Has(x) {
		return
	}
	asked := states.Of(x).asked
	tag := x.ResponseHeader(eTag)
	if len(asked) == 0 || !isStrong(tag) {
		return
	}
	vary(x)
	var a acceptance
	a.read(x)
	preferred := a.choose(p.order)
	if p.answers(x, asked, tag, preferred) {
		return
	}
	for _, c := range p.order {
		if a.accepts(c) && p.answers(x, asked, tag, c) {
			return
		}
	}
}

// answers sets the tag of a coding if the client has asked for it.
func (p *compressor) answers(x *exchange.Exchange, asked [][]byte, tag []byte, c coding.Coding) bool {
	if c == coding.Identity {
		return false
	}
	suffixed := x.Keep(append(append(x.Scratch(), tag[:len(tag)-1]...), suffixes[c]...))
	for _, list := range asked {
		if bytes.Contains(list, suffixed) {
			exchange.DelResponse(&x.Response.Header, eTag)
			x.Response.Header.AddBytesV(eTag, suffixed)
			return true
		}
	}
	return false
}

// isStrong reports whether tag is a strong entity tag.
func isStrong(tag []byte) bool {
	return len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"'
}
