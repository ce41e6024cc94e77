package cache

import "bytes"

// Line is a header line.
type Line struct{ Name, Value []byte }

// Validators are what a request asks the origin with whether e is still good (RFC 9111 4.3.1): the entity tag, and the
// value of Last-Modified; nil for one that e does not have.
func (e *Entry) Validators() (etag, modified []byte) {
	if e.hasLastModified {
		modified = e.Value([]byte("last-modified"))
	}
	return e.ETag(), modified
}

// HasValidator tells whether the origin can be asked whether e is still good.
func (e *Entry) HasValidator() bool { return e.hasLastModified || e.etag != e.etagEnd }

// Confirmed tells whether a 304 with this header is about e (RFC 9111 4.3.4). One with another strong entity tag is not.
func (e *Entry) Confirmed(fresh []Line) bool {
	for i := range fresh {
		if !is(fresh[i].Name, "etag") {
			continue
		}
		got, had := trim(fresh[i].Value), e.ETag()
		return bytes.HasPrefix(got, []byte("W/")) || len(had) == 0 || bytes.Equal(opaque(got), opaque(had))
	}
	return true
}

// Agrees tells whether a 200 to a HEAD with this header describes the same content as e, a stored answer to GET
// (RFC 9111 4.3.5).
func (e *Entry) Agrees(fresh []Line) bool {
	if e.status != 200 || e.headOnly {
		return false
	}
	for i := range fresh {
		switch name, value := fresh[i].Name, trim(fresh[i].Value); {
		case is(name, "etag"):
			if !bytes.Equal(value, e.ETag()) {
				return false
			}
		case is(name, "last-modified"):
			if date, ok := ParseDate(value, e.Received); ok && (!e.hasLastModified || date != e.lastModified) {
				return false
			}
		case is(name, "content-length"):
			if length(value) != int64(len(e.body)) {
				return false
			}
		case is(name, "content-encoding"):
			if !equalFold(value, trim(e.Value(name))) {
				return false
			}
		}
	}
	return true
}

// Updated gives the header of e as a newer response about the same content changes it (RFC 9111 3.2): each field of that
// response takes the place of the stored ones of its name, but for those that say what the stored bytes are. The stored
// Date goes in any case, since what is confirmed is as old as its confirmation.
func (e *Entry) Updated(fresh []Line, field func(name, value []byte)) {
	for name, value := range e.All() {
		if !is(name, "date") && (ofBytes(name) || !named(fresh, name)) {
			field(name, value)
		}
	}
	for i := range fresh {
		if !ofBytes(fresh[i].Name) {
			field(fresh[i].Name, fresh[i].Value)
		}
	}
}

// ofBytes tells whether a field describes the very bytes of a content, so that with another value the stored ones could
// not be read any more. RFC 9111 3.2 excepts Content-Length, and lets a cache except what keeps the stored response whole.
func ofBytes(name []byte) bool {
	switch len(name) {
	case 11:
		return is(name, "content-md5")
	case 13:
		return is(name, "content-range")
	case 14:
		return is(name, "content-length") || is(name, "content-digest")
	case 16:
		return is(name, "content-encoding")
	}
	return false
}

func named(lines []Line, name []byte) bool {
	for i := range lines {
		if equalFold(lines[i].Name, name) {
			return true
		}
	}
	return false
}

// Renew ends the recording of a header from Updated: the entry that it returns has the content of old.
func (r *Recorder) Renew(old *Entry) *Entry {
	defer r.Discard()
	if r.failed {
		return nil
	}
	e := &Entry{Freshness: r.fresh, about: r.about, body: old.body}
	e.headOnly, e.contentLength = old.headOnly, old.contentLength
	e.head = append([]byte(nil), r.head...)
	e.size = entrySize + indexSize + int64(cap(e.head)+cap(e.body))
	return e
}
