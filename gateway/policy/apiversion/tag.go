package apiversion

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// An answer that is brought down to a version is another representation than the backend's, which an entity tag has to tell apart
// (RFC 9110, section 8.8.3): whoever goes over to another version must not be told that what it has is still good. So the
// tag gets the version as a suffix on the way to the client, and loses it on the way back.

// mark gives the entity tag of an answer the suffix of the version.
func (v *version) mark(x *exchange.Exchange) {
	tag := x.ResponseHeader(fasthttp.HeaderETag)
	if !isTag(tag) {
		return
	}
	end := len(tag) - 1
	marked := x.Keep(append(append(append(x.Scratch(), tag[:end]...), v.suffix...), '"'))
	exchange.DelResponse(&x.Response.Header, fasthttp.HeaderETag)
	x.Response.Header.AddBytesV(fasthttp.HeaderETag, marked)
}

// isTag tells a weak or strong entity tag that is well formed.
func isTag(tag []byte) bool {
	tag = bytes.TrimPrefix(tag, weak)
	return len(tag) >= 2 && tag[0] == '"' && bytes.IndexByte(tag[1:], '"') == len(tag)-2
}

var weak = []byte("W/")

// unmark takes suffixes off what a request compares. For an answer that is going to be changed these are the tags of the same version:
// one of another version is another representation. What is compared before a change of the resource is its state, which all versions
// have in common.
func (p *api) unmark(st *state, v *version, x *exchange.Exchange, changesAnswer bool) {
	if lists := compared(x, fasthttp.HeaderIfMatch); lists != nil {
		if bare, changed := p.bare(x, lists, nil); changed {
			x.ToBackend.Set(fasthttp.HeaderIfMatch, bare)
		}
	}
	if !changesAnswer {
		return
	}
	lists := compared(x, fasthttp.HeaderIfNoneMatch)
	if lists == nil || string(bytes.TrimSpace(lists)) == "*" {
		return
	}
	bare, changed := p.bare(x, lists, v)
	if st.marked = changed; changed {
		x.ToBackend.Set(fasthttp.HeaderIfNoneMatch, bare)
	} else {
		x.ToBackend.Remove(fasthttp.HeaderIfNoneMatch)
	}
}

// compared is the value of a field as it is on its way to the backend, all lines of it as one; nil without one.
func compared(x *exchange.Exchange, name string) (lists []byte) {
	if value, decided := x.ToBackend.Value(name); decided {
		return value
	}
	lines := 0
	for i := range x.Fields {
		f := &x.Fields[i]
		if len(f.Name) != len(name) || !exchange.EqualFold(f.Name, name) {
			continue
		}
		if lines++; lines == 1 {
			lists = f.Value
			continue
		}
		lists = x.Keep(append(append(append(x.Scratch(), lists...), ','), f.Value...))
	}
	return lists
}

// bare returns entity tags without the suffixes of versions, and whether there were any. With only, tags that do not have the suffix of that version are
// left out.
func (p *api) bare(x *exchange.Exchange, list []byte, only *version) (without []byte, changed bool) {
	dst := x.Scratch()
	for {
		from := bytes.IndexByte(list, '"')
		if from < 0 {
			break
		}
		size := bytes.IndexByte(list[from+1:], '"')
		if size < 0 {
			break
		}
		tag, isWeak := list[from+1:from+1+size], from >= 2 && string(list[from-2:from]) == "W/"
		list = list[from+size+2:]
		suffix := p.suffixOf(tag, only)
		if suffix == nil && only != nil {
			continue
		}
		if len(dst) > 0 {
			dst = append(dst, ", "...)
		}
		if isWeak {
			dst = append(dst, weak...)
		}
		dst = append(append(append(dst, '"'), tag[:len(tag)-len(suffix)]...), '"')
		changed = changed || suffix != nil
	}
	return x.Keep(dst), changed
}

// suffixOf is the suffix of a version that a tag ends in, of any if only is nil; nil for none.
func (p *api) suffixOf(tag []byte, only *version) []byte {
	if only != nil {
		if bytes.HasSuffix(tag, only.suffix) {
			return only.suffix
		}
		return nil
	}
	for i := range p.versions {
		if suffix := p.versions[i].suffix; bytes.HasSuffix(tag, suffix) {
			return suffix
		}
	}
	return nil
}
