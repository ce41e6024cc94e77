// Package cache is the mechanism of a shared HTTP cache (RFC 9111), free of I/O and of configuration.
//
// It has four parts that a caller joins: the rules (Request and Response read the header fields, Response.Judge says
// whether, for whom and how long a response may be stored, Freshness.Reuse whether a stored one answers a request), the
// Store (byte-bounded, sharded, read without locks), the Flights (one request at a time fills an entry) and the Recorder
// (captures a body as it streams by). It guarantees that a response is reused only where RFC 9111 or an explicit setting
// of Rules allows it, that a truncated body is never stored, that what was purged is not brought back by a fill that had
// begun before, and that its memory stays within the bound it was given.
//
// Time comes from the caller: every "now" is unix time in nanoseconds, every date a header field carries is unix time in
// seconds. Reading fields, judging and looking up allocate nothing.
package cache

import "bytes"

// maxLines is how many lines of one list-valued field are looked at. Whoever exceeds it is answered the safe way: not
// stored, or not matched.
const maxLines = 8

// lines are the values of one field, borrowed from the message.
type lines struct {
	value [maxLines][]byte
	n     int
	over  bool
}

func (l *lines) add(v []byte) {
	if l.n == maxLines {
		l.over = true
		return
	}
	l.value[l.n] = v
	l.n++
}

func (l *lines) all() [][]byte { return l.value[:l.n] }

// element cuts the first member from a comma-separated list (RFC 9110 5.6.1), minding quoted strings. quotes says
// whether a quote still opens a string: once one was left open it is an ordinary character for the rest of the line, so
// that it can not hide what follows and can not make the scan quadratic.
func element(list []byte, quotes bool) (member, rest []byte, closed bool) {
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == ',':
			return trim(list[:i]), list[i+1:], quotes
		case c == '"' && quotes:
			end := closingQuote(list, i+1)
			if end < 0 {
				quotes = false
				continue
			}
			i = end
		}
	}
	return trim(list), nil, quotes
}

// closingQuote is the index of the quote that ends the string beginning at i, or -1.
func closingQuote(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return -1
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// is compares without case; want is lower case.
func is(b []byte, want string) bool {
	if len(b) != len(want) {
		return false
	}
	for i := range b {
		if lower(b[i]) != want[i] {
			return false
		}
	}
	return true
}

func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

// listed tells whether name is a member of one of the lists, without case.
func listed(lists [][]byte, name []byte) bool {
	for _, list := range lists {
		quotes := true
		for len(list) > 0 {
			var member []byte
			member, list, quotes = element(list, quotes)
			if equalFold(member, name) {
				return true
			}
		}
	}
	return false
}

func isToken(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for _, c := range b {
		switch {
		case 'a' <= lower(c) && lower(c) <= 'z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0:
		default:
			return false
		}
	}
	return true
}
