package cache

import "bytes"

// NotModified tells whether a stored response that may be served answers req with 304 (RFC 9111 4.3.2). Only a stored
// 2xx does (RFC 9110 13.2.1).
func (e *Entry) NotModified(req *Request) bool {
	if e.status < 200 || e.status > 299 {
		return false
	}
	if req.noneMatch.n > 0 {
		return req.noneMatch.matchesTag(e.ETag()) // and then If-Modified-Since is ignored (RFC 9110 13.1.3)
	}
	if req.modifiedSinceLines != 1 {
		return false
	}
	since, ok := ParseDate(trim(req.modifiedSince), e.Received)
	if !ok {
		return false
	}
	modified := e.date // stands in for Last-Modified (RFC 9111 4.3.2)
	if e.hasLastModified {
		modified = e.lastModified
	}
	return modified <= since
}

// matchesTag is the weak comparison of RFC 9110 8.8.3.2 with every member of If-None-Match.
func (l *lines) matchesTag(tag []byte) bool {
	if l.over {
		return false
	}
	if l.n == 1 && len(trim(l.value[0])) == 1 && trim(l.value[0])[0] == '*' {
		return true
	}
	want := opaque(tag)
	if want == nil {
		// Malformed, as without its quotes: an origin that sends such means it back as it is.
		return len(tag) > 0 && l.n == 1 && bytes.Equal(trim(l.value[0]), tag)
	}
	for _, list := range l.all() {
		for len(list) > 0 {
			// An opaque tag may hold commas but no quote, and a backslash in it is itself: not a quoted string.
			start := bytes.IndexByte(list, '"')
			if start < 0 {
				break
			}
			end := bytes.IndexByte(list[start+1:], '"')
			if end < 0 {
				break
			}
			before := trim(list[:start])
			for len(before) > 0 && before[0] == ',' {
				before = trim(before[1:])
			}
			got := list[start : start+end+2]
			if (len(before) == 0 || string(before) == "W/" && list[start-1] == '/') && bytes.Equal(got, want) {
				return true
			}
			list = list[start+end+2:]
		}
	}
	return false
}

// opaque is an entity tag without the mark of a weak one, or nil when it is malformed.
func opaque(tag []byte) []byte {
	tag = bytes.TrimPrefix(tag, []byte("W/"))
	if len(tag) < 2 || tag[0] != '"' || bytes.IndexByte(tag[1:], '"') != len(tag)-2 {
		return nil
	}
	return tag
}

// In304 tells whether a stored field is sent in a 304 (RFC 9110 15.4.5): all but what describes a content that is not
// there.
func In304(name []byte) bool {
	switch len(name) {
	case 12:
		return !is(name, "content-type")
	case 13:
		return !is(name, "content-range")
	case 14:
		return !is(name, "content-length")
	case 16:
		return !is(name, "content-encoding") && !is(name, "content-language")
	}
	return true
}
