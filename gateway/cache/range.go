package cache

import "bytes"

// Portion says how much of a stored body answers a request.
type Portion uint8

const (
	// Whole: all of it; there is no Range that counts.
	Whole Portion = iota
	// Part: the bytes that Range returns, with 206.
	Part
	// Unsatisfiable: none, with 416.
	Unsatisfiable
)

// maxRanges bounds how many ranges of one request are looked at.
const maxRanges = 16

// Range finds the part of e that a GET asks for (RFC 9110 14.2), from first up to and with last. Only a stored 200 has
// parts. Several ranges that do not join into one are answered whole, which the same section allows: a multipart answer
// can be made to be many times as long as what is stored, and those who ask for several ranges take the whole as well.
func (e *Entry) Range(req *Request) (first, last int64, p Portion) {
	if req.rangeLines != 1 || e.status != 200 || e.headOnly || req.ifRangeLines > 0 && !e.unchanged(req) {
		return 0, 0, Whole
	}
	set := trim(req.ranges)
	if len(set) < 6 || !is(set[:6], "bytes=") {
		return 0, 0, Whole
	}
	size := int64(len(e.body))
	n, found, asked := 0, false, false
	for list := set[6:]; len(list) > 0; n++ {
		var spec []byte
		if spec, list, _ = element(list, false); len(spec) == 0 {
			continue
		}
		from, to, ok := parseRange(spec, size)
		if !ok || n == maxRanges {
			return 0, 0, Whole // what is malformed does not count
		}
		asked = true
		switch {
		case from > to:
		case !found:
			first, last, found = from, to, true
		case from <= last+1 && to >= first-1:
			first, last = min(first, from), max(last, to)
		default:
			return 0, 0, Whole
		}
	}
	switch {
	case found:
		return first, last, Part
	case asked && size > 0:
		return 0, 0, Unsatisfiable
	}
	return 0, 0, Whole
}

// parseRange reads one range of a content of size bytes; from is after to when it has none of them.
func parseRange(spec []byte, size int64) (from, to int64, ok bool) {
	dash := bytes.IndexByte(spec, '-')
	if dash < 0 {
		return 0, 0, false
	}
	begin, end := spec[:dash], spec[dash+1:]
	if len(begin) == 0 { // the last bytes
		n, ok := position(end)
		return max(size-n, 0), size - 1, ok
	}
	if from, ok = position(begin); !ok {
		return 0, 0, false
	}
	if len(end) == 0 {
		return from, size - 1, true
	}
	if to, ok = position(end); !ok || to < from {
		return 0, 0, false
	}
	return from, min(to, size-1), true
}

// position reads a number of any length; what is beyond every content is as good as that.
func position(b []byte) (n int64, ok bool) {
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n > 1<<56 {
			n = 1 << 56
		}
	}
	return n, len(b) > 0
}

// unchanged evaluates If-Range (RFC 9110 13.1.5): the entity tag by the strong comparison, or exactly the date of
// Last-Modified, where that is a strong validator since the response was made later (8.8.2.2).
func (e *Entry) unchanged(req *Request) bool {
	want := trim(req.ifRange)
	switch {
	case req.ifRangeLines != 1 || len(want) == 0:
		return false
	case want[0] == '"':
		return opaque(want) != nil && bytes.Equal(want, e.ETag())
	case bytes.HasPrefix(want, []byte(`W/"`)):
		return false
	}
	date, ok := ParseDate(want, e.Received)
	return ok && e.hasLastModified && date == e.lastModified && e.date > e.lastModified
}
