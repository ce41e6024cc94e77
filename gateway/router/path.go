package router

import (
	"bytes"
	"encoding/binary"
)

// PathError says why a request path is unusable. The values below are the only
// ones; compare them by identity. A gateway answers all of them with 400.
type PathError struct{ reason string }

// Error returns the reason, short and without any byte of the request.
func (e *PathError) Error() string { return e.reason }

var (
	ErrPathNotRooted    = &PathError{"path does not start with a slash"}
	ErrPathEscape       = &PathError{"path has a malformed percent escape"}
	ErrPathEncodedSlash = &PathError{"path has an encoded slash"}
	ErrPathBackslash    = &PathError{"path has a backslash"}
	ErrPathControl      = &PathError{"path has a control character"}
	ErrPathFragment     = &PathError{"path has a fragment"}
	ErrPathQuery        = &PathError{"path has a query"}
	ErrPathDotParameter = &PathError{"path has a parameter on a dot segment"}
	ErrPathAboveRoot    = &PathError{"path leaves the root"}
)

// Canonical decodes and normalises the path of a request target, once, into the
// one form that routing, policies, cache keys and the upstream share.
//
// Percent escapes (RFC 3986 2.1) are decoded a single time, so "%252e" becomes the
// three bytes "%2e" and is never looked at again. Dot segments are then removed
// (RFC 3986 5.2.4), runs of slashes merged and a trailing slash kept; escaped dots
// are dots. What backends are known to read in different ways is an error, a
// *PathError: slashes, backslashes and control characters behind an escape, raw
// backslashes and control characters, "." or ".." carrying a ";" parameter, ".."
// above the root, malformed escapes, "#", "?", and no leading slash.
//
// The result is raw itself when nothing changes. Otherwise it is written over
// dst[:0], whatever dst held; it never is longer than raw, so a dst with the capacity of raw
// makes the call free of allocations. dst may be raw[:0], which destroys raw,
// also when an error is returned.
func Canonical(dst, raw []byte) ([]byte, error) {
	if len(raw) == 0 || raw[0] != '/' {
		return nil, ErrPathNotRooted
	}
	i := plainPrefix(raw)
	if i == len(raw) {
		return raw, nil
	}
	return rewrite(dst, raw, i)
}

const (
	lanes = 0x0101010101010101
	highs = 0x8080808080808080
)

// zeroLanes marks the zero bytes of v. A byte of value 1 right above a zero one may
// be marked too, so callers use it only where that errs to the slow side.
func zeroLanes(v uint64) uint64 { return (v - lanes) &^ v & highs }

// plainPrefix returns how many leading bytes certainly need neither change nor
// refusal: no escape, nothing forbidden, no "//" and no "/.". It reads eight bytes
// at a time and may stop early, never late.
func plainPrefix(raw []byte) int {
	i := 0
	if len(raw) >= 8 {
		carry := uint64(0)
		for ; i+8 <= len(raw); i += 8 {
			v := binary.LittleEndian.Uint64(raw[i:])
			dots := dotLanes(v)
			if suspectLanes(v)|(dots<<8|carry)&dots != 0 {
				return i
			}
			carry = dots >> 56
		}
		if i < len(raw) { // the last eight, some of them again
			v := binary.LittleEndian.Uint64(raw[len(raw)-8:])
			if dots := dotLanes(v); suspectLanes(v)|dots<<8&dots != 0 {
				return i
			}
		}
		return len(raw)
	}
	for ; i < len(raw); i++ {
		if c := raw[i]; class[c] != plain || i > 0 && raw[i-1] == '/' && (c == '/' || c == '.') {
			return i
		}
	}
	return i
}

// suspectLanes marks what must be looked at: all up to the percent sign, the
// backslash, the question mark and DEL.
func suspectLanes(v uint64) uint64 {
	return (v-lanes*('%'+1))&^v&highs | zeroLanes(v^lanes*'\\') | zeroLanes((v|lanes*0x40)^lanes*0x7f)
}

// dotLanes marks dots and slashes. Any two in a row are worth a look.
func dotLanes(v uint64) uint64 { return zeroLanes((v | lanes) ^ lanes*'/') }

const (
	plain = iota
	escape
	control
	backslash
	fragment
	question
)

var refusals = [...]*PathError{control: ErrPathControl, backslash: ErrPathBackslash, fragment: ErrPathFragment, question: ErrPathQuery}

var class = func() (t [256]byte) {
	for c := range 0x20 {
		t[c] = control
	}
	t[0x7f], t['%'], t['\\'], t['#'], t['?'] = control, escape, backslash, fragment, question
	return t
}()

// rewrite is Canonical for a path of which only the first i bytes are known plain.
// It looks closely first: a dot file or a space is no reason to copy.
func rewrite(dst, raw []byte, i int) ([]byte, error) {
	slash := bytes.LastIndexByte(raw[:max(i, 1)], '/')
	for slash < len(raw) {
		start := slash + 1
		end, escaped := start, false
		for ; end < len(raw) && raw[end] != '/'; end++ {
			switch k := class[raw[end]]; k {
			case plain:
			case escape:
				escaped = true
			default:
				return nil, refusals[k]
			}
		}
		s := raw[start:end]
		if escaped || len(s) == 0 && end < len(raw) || len(s) > 0 && s[0] == '.' && dotSegment(s) != 0 {
			return normalise(dst, raw, start)
		}
		slash = end
	}
	return raw, nil
}

// normalise writes the canonical form of raw, whose first n bytes, which end in a
// slash, are canonical already.
func normalise(dst, raw []byte, n int) ([]byte, error) {
	if cap(dst) < len(raw) {
		dst = make([]byte, 0, len(raw))
	}
	out := append(dst[:0], raw[:n]...)
	start := n // of the segment being written to out
	for i := n; ; i++ {
		for i < len(raw) && raw[i] != '/' {
			c := raw[i]
			i++
			switch k := class[c]; k {
			case plain:
			case escape:
				if i+2 > len(raw) {
					return nil, ErrPathEscape
				}
				hi, lo := unhex[raw[i]], unhex[raw[i+1]]
				if hi|lo > 15 {
					return nil, ErrPathEscape
				}
				c = hi<<4 | lo
				i += 2
				switch {
				case c == '/':
					return nil, ErrPathEncodedSlash
				case class[c] == control:
					return nil, ErrPathControl
				case c == '\\':
					return nil, ErrPathBackslash
				}
			default:
				return nil, refusals[k]
			}
			out = append(out, c)
		}
		switch dotSegment(out[start:]) {
		case here:
			out = out[:start]
		case up:
			if start == 1 {
				return nil, ErrPathAboveRoot
			}
			start = bytes.LastIndexByte(out[:start-1], '/') + 1
			out = out[:start]
		case parameter:
			return nil, ErrPathDotParameter
		}
		if i == len(raw) {
			return out, nil
		}
		if len(out) > start {
			out = append(out, '/')
			start = len(out)
		}
	}
}

const (
	here      = iota + 1 // .
	up                   // ..
	parameter            // .;x or ..;x, which some backends read as the above
)

// dotSegment tells what a decoded segment means to the hierarchy, 0 for nothing.
func dotSegment(s []byte) int {
	if len(s) == 0 || s[0] != '.' {
		return 0
	}
	kind := here
	if s = s[1:]; len(s) > 0 && s[0] == '.' {
		kind, s = up, s[1:]
	}
	switch {
	case len(s) == 0:
		return kind
	case s[0] == ';':
		return parameter
	}
	return 0
}

var unhex = func() (t [256]byte) {
	for c := range t {
		t[c] = 0xff
	}
	for c := range byte(10) {
		t['0'+c] = c
	}
	for c := range byte(6) {
		t['a'+c], t['A'+c] = 10+c, 10+c
	}
	return t
}()

// AppendEncoded appends a canonical path as it goes into a request line: slashes and
// the pchar of RFC 3986 3.3 as they are, any other byte, the percent sign among
// them, as an escape in upper case. Canonical turns the result back into path.
func AppendEncoded(dst, path []byte) []byte {
	kept := 0
	for i, c := range path {
		if !pchar[c] {
			dst = append(dst, path[kept:i]...)
			dst = append(dst, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			kept = i + 1
		}
	}
	return append(dst, path[kept:]...)
}

var pchar = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/") {
		t[c] = true
	}
	return t
}()
