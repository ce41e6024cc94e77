package jwt

import (
	"math"
	"strconv"
	"strings"
)

// Claims are the claims of one verified token. They are immutable, may be shared by any number of requests at once, and
// live as long as somebody holds them, whatever the cache does.
type Claims struct {
	Subject  string // sub; a number in its decimal form; "" when there is none
	Issuer   string // iss
	Consumer string // consumer whose own key verified the token; "" when a key of the policy did

	raw       string // the payload; members point into it
	members   []member
	expires   int64 // Unix nanoseconds; math.MaxInt64: never
	notBefore int64
	forward   []string // values of the policy's forwarded claims, in its order
}

type member struct {
	name  string
	value string // its JSON text
	text  string // what Lookup answers
}

// Claim returns the text of the claim at a path: a top-level claim of exactly that name, or the way through nested objects
// with dots between the names ("realm_access.roles"). Strings come without their quotes, anything else as JSON. null, and a
// nested name that is written twice, are no claim. Only a nested string with escapes in it costs an allocation.
func (c *Claims) Claim(path string) (value []byte, ok bool) {
	if m := c.top(path); m != nil {
		return bytesOf(m.text), m.value != "null"
	}
	text, ok := c.nested(path)
	if !ok {
		return nil, false
	}
	return bytesOf(textOf(text)), true
}

// ClaimHas reports whether the claim at path is want, or is a list or a string with words between spaces (RFC 6749 section
// 3.3) that has want in it.
func (c *Claims) ClaimHas(path, want string) (has bool) {
	var value string
	if m := c.top(path); m != nil {
		value = m.value
	} else if value, has = c.nested(path); !has {
		return false
	}
	switch value[0] {
	case '[':
		has = false
		elements(value, func(e string) bool {
			has = equalText(e, want)
			return !has
		})
		return has
	case '"':
		text := unescape(value[1 : len(value)-1])
		if text == want {
			return true
		}
		for word := range strings.SplitSeq(text, " ") {
			if word == want {
				return true
			}
		}
		return false
	}
	return value == want && value != "null"
}

// JSON returns the whole payload. It is borrowed and has no name twice on its first level.
func (c *Claims) JSON() []byte { return bytesOf(c.raw) }

// Member returns the JSON text of a top-level claim. It is borrowed.
func (c *Claims) Member(name string) (text []byte, ok bool) {
	m := c.top(name)
	if m == nil {
		return nil, false
	}
	return bytesOf(m.value), true
}

// Forwarded returns the text of the i-th of Settings.Forward, "" if the token does not have it or it can not stand in a
// header field.
func (c *Claims) Forwarded(i int) string { return c.forward[i] }

func (c *Claims) text(path string) string {
	value, _ := c.Claim(path)
	return string(value)
}

func (c *Claims) top(name string) *member {
	for i := range c.members {
		if c.members[i].name == name {
			return &c.members[i]
		}
	}
	return nil
}

// nested follows a dotted path; a name may itself contain dots, so the longest top-level name that fits begins it.
func (c *Claims) nested(path string) (value string, ok bool) {
	for dot := strings.LastIndexByte(path, '.'); dot > 0; dot = strings.LastIndexByte(path[:dot], '.') {
		if m := c.top(path[:dot]); m != nil {
			if value, ok = inside(m.value, path[dot+1:]); ok {
				return value, value != "null"
			}
		}
	}
	return "", false
}

func inside(obj, path string) (value string, ok bool) {
	if obj[0] != '{' {
		return "", false
	}
	if value, ok = only(obj, path); ok {
		return value, true
	}
	for dot := strings.LastIndexByte(path, '.'); dot > 0; dot = strings.LastIndexByte(path[:dot], '.') {
		if v, found := only(obj, path[:dot]); found {
			if value, ok = inside(v, path[dot+1:]); ok {
				return value, true
			}
		}
	}
	return "", false
}

// only returns the member of that name unless there are several.
func only(obj, name string) (value string, ok bool) {
	n := 0
	m := object(obj)
	for {
		k, v, more := m.next()
		if !more {
			return value, n == 1
		}
		if equalName(k, name) {
			value = v
			n++
		}
	}
}

func equalName(raw, name string) bool {
	return raw == name || strings.IndexByte(raw, '\\') >= 0 && unescape(raw) == name
}

func equalText(value, want string) bool {
	if value[0] == '"' {
		return equalName(value[1:len(value)-1], want)
	}
	return value == want && value != "null"
}

// textOf is the text of a value that has been scanned.
func textOf(value string) string {
	if text, ok := quoted(value); ok {
		return text
	}
	return value
}

// date reads a NumericDate (RFC 7519 section 2) as Unix nanoseconds. down rounds to the whole second, as the readers behind
// the gateway may. Years past 2262 are the end of time; what is past the year 9999 is no date.
func date(value string, down bool) (ns int64, ok bool) {
	const lastSecond = 253402300799 // 9999-12-31T23:59:59Z
	if value[0] != '-' && value[0]-'0' > 9 {
		return 0, false
	}
	f, err := strconv.ParseFloat(value, 64)
	if err != nil || f > lastSecond || f < -lastSecond {
		return 0, false
	}
	if down {
		f = math.Floor(f)
	}
	switch whole := math.Floor(f); {
	case whole >= math.MaxInt64/1e9:
		return math.MaxInt64, true
	case whole <= math.MinInt64/1e9:
		return math.MinInt64, true
	default:
		return int64(whole)*1e9 + int64((f-whole)*1e9), true
	}
}

// plain reports whether a text can stand in a header field or a log: no control character.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
