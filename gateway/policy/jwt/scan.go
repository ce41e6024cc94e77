package jwt

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of JSON that is read, and with it the recursion of the scanner.
const maxDepth = 32

// A scanner walks one JSON text (RFC 8259) without allocating. It is stricter than encoding/json where two readers of one
// token could disagree: no invalid UTF-8, no lone surrogate, nothing after the value.
type scanner struct {
	s string
	i int
}

// members iterates over the members of one JSON object in the order they are written.
type members struct {
	scanner
	bad  bool // the text is not one well-formed JSON object; known once next has returned false
	more bool
}

// object starts at a text that must be exactly one JSON object.
func object(s string) members {
	m := members{scanner: scanner{s: s}}
	m.space()
	if !m.take('{') {
		m.bad = true
		return m
	}
	m.space()
	if m.take('}') {
		m.end()
		return m
	}
	m.more = true
	return m
}

// next returns the name of the next member between its quotes, still escaped, and the text of its value.
func (m *members) next() (name, value string, ok bool) {
	if !m.more || m.bad {
		return "", "", false
	}
	m.more = false
	m.bad = true // until this member proves well formed
	if name, ok = m.str(); !ok {
		return "", "", false
	}
	m.space()
	if !m.take(':') {
		return "", "", false
	}
	m.space()
	start := m.i
	if !m.skip(maxDepth - 1) {
		return "", "", false
	}
	value = m.s[start:m.i]
	m.space()
	switch {
	case m.take(','):
		m.space()
		m.bad, m.more = false, true
	case m.take('}'):
		m.bad = false
		m.end()
	}
	return name, value, !m.bad
}

func (m *members) end() {
	m.space()
	m.bad = m.i != len(m.s)
}

// elements calls yield with the text of each element of a JSON array that skip has accepted before, until it returns false.
// It reports false for anything that is not an array.
func elements(s string, yield func(value string) bool) bool {
	e := scanner{s: s}
	if !e.take('[') {
		return false
	}
	e.space()
	if e.take(']') {
		return true
	}
	for {
		start := e.i
		if !e.skip(maxDepth) {
			return false
		}
		if !yield(e.s[start:e.i]) {
			return true
		}
		e.space()
		if !e.take(',') {
			return true
		}
		e.space()
	}
}

func (s *scanner) space() {
	for s.i < len(s.s) {
		switch s.s[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.i < len(s.s) && s.s[s.i] == c {
		s.i++
		return true
	}
	return false
}

// skip passes one well-formed value.
func (s *scanner) skip(depth int) bool {
	if depth < 0 || s.i >= len(s.s) {
		return false
	}
	switch s.s[s.i] {
	case '"':
		_, ok := s.str()
		return ok
	case '{':
		return s.list('}', depth, true)
	case '[':
		return s.list(']', depth, false)
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) list(closing byte, depth int, named bool) bool {
	s.i++
	s.space()
	if s.take(closing) {
		return true
	}
	for {
		if named {
			if _, ok := s.str(); !ok {
				return false
			}
			s.space()
			if !s.take(':') {
				return false
			}
			s.space()
		}
		if !s.skip(depth - 1) {
			return false
		}
		s.space()
		if s.take(closing) {
			return true
		}
		if !s.take(',') {
			return false
		}
		s.space()
	}
}

func (s *scanner) word(w string) bool {
	if !strings.HasPrefix(s.s[s.i:], w) {
		return false
	}
	s.i += len(w)
	return true
}

// number passes a number that fits a float64, since readers behind the gateway refuse or bend others.
func (s *scanner) number() bool {
	start := s.i
	s.take('-')
	if !s.take('0') && !s.digits() {
		return false
	}
	if s.take('.') && !s.digits() {
		return false
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return false
		}
	} else if s.i-start < 300 {
		return true
	}
	_, err := strconv.ParseFloat(s.s[start:s.i], 64)
	return err == nil
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.s) && s.s[s.i]-'0' <= 9 {
		s.i++
	}
	return s.i > start
}

// str passes one string and returns what stands between its quotes, still escaped.
func (s *scanner) str() (raw string, ok bool) {
	if !s.take('"') {
		return "", false
	}
	start := s.i
	for s.i < len(s.s) {
		switch c := s.s[s.i]; {
		case c == '"':
			s.i++
			return s.s[start : s.i-1], true
		case c == '\\':
			if _, n := escape(s.s[s.i:]); n != 0 {
				s.i += n
				continue
			}
			return "", false
		case c < ' ':
			return "", false
		case c < utf8.RuneSelf:
			s.i++
		default:
			r, n := utf8.DecodeRuneInString(s.s[s.i:])
			if r == utf8.RuneError && n == 1 {
				return "", false
			}
			s.i += n
		}
	}
	return "", false
}

// escape decodes the escape sequence at the start of s and returns its length, 0 if it is none.
func escape(s string) (r rune, n int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\', '/':
		return rune(s[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, ok := hex4(s[2:])
		if !ok {
			return 0, 0
		}
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(s) < 12 || s[6] != '\\' || s[7] != 'u' {
			return 0, 0
		}
		low, ok := hex4(s[8:])
		if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
			return 0, 0
		}
		return r, 12
	}
	return 0, 0
}

func hex4(s string) (r rune, ok bool) {
	if len(s) < 4 {
		return 0, false
	}
	for i := range 4 {
		c := s[i]
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape returns the text of a string that str has accepted. It allocates only when there is something to unescape.
func unescape(raw string) string {
	i := strings.IndexByte(raw, '\\')
	if i < 0 {
		return raw
	}
	b := make([]byte, 0, len(raw))
	for ; i >= 0; i = strings.IndexByte(raw, '\\') {
		b = append(b, raw[:i]...)
		r, n := escape(raw[i:])
		b = utf8.AppendRune(b, r)
		raw = raw[i+n:]
	}
	return string(append(b, raw...))
}

// quoted returns the text of a value that is a JSON string.
func quoted(value string) (text string, ok bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	return unescape(value[1 : len(value)-1]), true
}
