package cache

import (
	"bytes"
	"encoding/binary"
)

// maxVary bounds how many request fields may select a stored response.
const maxVary = 16

// Selector gives the i-th line of a request header field, or false when there are no more. The name has each word's
// first letter in upper case ("Accept-Encoding"). The value is only looked at during the call.
type Selector func(name []byte, i int) (value []byte, ok bool)

// selectable tells whether Vary can be followed: "*" never matches (RFC 9111 4.1), and neither may what is malformed or
// too long.
func (r *Response) selectable() bool {
	if r.vary.over {
		return false
	}
	n := 0
	for _, line := range r.vary.all() {
		for len(line) > 0 {
			var name []byte
			name, line, _ = element(line, false)
			if len(name) == 0 {
				continue
			}
			if n++; n > maxVary || len(name) > 255 || !isToken(name) || len(name) == 1 && name[0] == '*' {
				return false
			}
		}
	}
	return true
}

// appendSelecting appends the fields that Vary names with their values in the request: for each its name behind a length
// byte and its normalised value behind four bytes of its length plus one, 0 standing for an absent field.
func appendSelecting(dst []byte, r *Response, sel Selector) []byte {
	for _, line := range r.vary.all() {
		for len(line) > 0 {
			var name []byte
			name, line, _ = element(line, false)
			if len(name) == 0 {
				continue
			}
			dst = append(dst, byte(len(name)))
			at := len(dst)
			dst = appendCanonical(dst, name)
			canonical := dst[at:]
			at = len(dst)
			dst = append(dst, 0, 0, 0, 0)
			present := false
			var p preferences
			if isPreference(canonical) && sel != nil && p.read(canonical, sel) {
				present = true
				dst = p.append(dst)
			}
			for i := 0; sel != nil && p.n == 0; i++ {
				value, ok := sel(canonical, i)
				if !ok {
					break
				}
				present = true
				dst = appendMembers(dst, value, len(dst) == at+4)
			}
			if present {
				binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4)+1)
			}
		}
	}
	return dst
}

// notWritten stands in the place of the length of a field that matches remembers no line of.
const notWritten = 255

// appendWritten appends the selecting fields once more, each as the request has written it where it did so in one short line:
// requests that write it the same need not be read.
func appendWritten(dst, selecting []byte, sel Selector) []byte {
	for len(selecting) > 0 {
		var name []byte
		name, _, _, selecting = cutSelecting(selecting)
		if line, ok := onlyLine(name, sel); ok && len(line) < notWritten {
			dst = append(append(dst, byte(len(line))), line...)
		} else {
			dst = append(dst, notWritten)
		}
	}
	return dst
}

// onlyLine is the line of a field that the request has once.
func onlyLine(name []byte, sel Selector) (line []byte, ok bool) {
	if sel == nil {
		return nil, false
	}
	if line, ok = sel(name, 0); ok {
		_, more := sel(name, 1)
		ok = !more
	}
	return line, ok
}

// cutSelecting cuts the first field off what appendSelecting wrote.
func cutSelecting(selecting []byte) (name, stored []byte, present bool, rest []byte) {
	n := 1 + int(selecting[0])
	name, rest = selecting[1:n:n], selecting[n+4:]
	size := int(binary.LittleEndian.Uint32(selecting[n:])) - 1
	if size > 0 {
		return name, rest[:size:size], true, rest[size:]
	}
	return name, nil, size == 0, rest
}

// appendMembers appends the members of a line separated by single commas: the forms of one list that RFC 9111 4.1 lets
// match each other come out the same.
func appendMembers(dst, line []byte, first bool) []byte {
	quotes := true
	for len(line) > 0 {
		var member []byte
		member, line, quotes = element(line, quotes)
		if len(member) == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		dst, first = append(dst, member...), false
	}
	return dst
}

// matches tells whether the request selects what was stored under these fields (RFC 9111 4.1). written is what appendWritten
// wrote of them.
func matches(selecting, written []byte, sel Selector) bool {
	for len(selecting) > 0 {
		name, stored, present, rest := cutSelecting(selecting)
		selecting = rest
		if n := int(written[0]); n == notWritten {
			written = written[1:]
		} else {
			line, ok := onlyLine(name, sel)
			same := ok && bytes.Equal(line, written[1:1+n])
			if written = written[1+n:]; same {
				continue
			}
		}
		if !matchesField(name, stored, present, sel) {
			return false
		}
	}
	return true
}

// matchesField tells whether the request has a field as it is stored, or does not have it where present is false.
func matchesField(name, stored []byte, present bool, sel Selector) bool {
	if sel == nil {
		return !present
	}
	if isPreference(name) {
		var p preferences
		if p.read(name, sel) {
			return present && p.equal(stored)
		}
	}
	i, first := 0, true
	for ; ; i++ {
		value, ok := sel(name, i)
		if !ok {
			break
		}
		if stored, first, ok = skipMembers(stored, value, first); !ok {
			return false
		}
	}
	return i > 0 == present && len(stored) == 0
}

// skipMembers takes the members of a line off the front of what appendMembers wrote.
func skipMembers(stored, line []byte, first bool) ([]byte, bool, bool) {
	quotes := true
	for len(line) > 0 {
		var member []byte
		member, line, quotes = element(line, quotes)
		if len(member) == 0 {
			continue
		}
		if !first {
			if len(stored) == 0 || stored[0] != ',' {
				return nil, false, false
			}
			stored = stored[1:]
		}
		if !bytes.HasPrefix(stored, member) {
			return nil, false, false
		}
		stored, first = stored[len(member):], false
	}
	return stored, first, true
}

func appendCanonical(dst, name []byte) []byte {
	start := true
	for _, c := range name {
		c = lower(c)
		if start && 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		start = c == '-'
		dst = append(dst, c)
	}
	return dst
}
