package cache

import "bytes"

// target is the lines of a targeted field. Nobody sends it on more than two; then the response is not stored.
type target struct {
	value [2][]byte
	n     int
}

func (t *target) add(v []byte) {
	if t.n < len(t.value) {
		t.value[t.n] = v
	}
	t.n++
}

func (t *target) all() [][]byte { return t.value[:t.n] }

// target reads the targeted field that takes the place of Cache-Control and Expires (RFC 9213 2.2), the first in the
// rules' order that there is and that is well formed.
func (r *Response) target(rules *Rules) {
	r.hidesSurrogate = rules.SurrogateControl
	if rules.CDNCacheControl && r.cdn.n > len(r.cdn.value) || rules.SurrogateControl && r.surrogate.n > len(r.surrogate.value) {
		r.Control, r.targeted = Control{Present: NoStore}, true
		return
	}
	if rules.CDNCacheControl && r.cdn.n > 0 {
		if c, ok := parseDictionary(r.cdn.all()); ok {
			r.Control, r.targeted = c, true
			return
		}
	}
	if rules.SurrogateControl && r.surrogate.n > 0 {
		if c := parseSurrogate(r.surrogate.all()); c.Present != 0 {
			r.Control, r.targeted = c, true
		}
	}
}

// parseDictionary reads CDN-Cache-Control: a Dictionary Structured Field (RFC 8941 3.2) whose members are directives of
// Cache-Control (RFC 9213 2.1). One that is empty or malformed, or has a directive with a value of another type than the
// directive's, is ignored as a whole, which leaves the say to Cache-Control.
func parseDictionary(values [][]byte) (c Control, ok bool) {
	for _, v := range values {
		p := structured{b: bytes.Trim(v, " ")}
		if len(p.b) == 0 {
			continue
		}
		for {
			if !p.member() || !c.assign(&p) {
				return Control{}, false
			}
			ok = true
			p.space()
			if p.i == len(p.b) {
				break
			}
			if !p.take(',') {
				return Control{}, false
			}
			if p.space(); p.i == len(p.b) {
				return Control{}, false
			}
		}
	}
	return c, ok
}

// structured scans a Dictionary. After member it holds the last one.
type structured struct {
	b []byte
	i int

	key   []byte
	kind  structuredKind
	value []byte // digits of an integer, characters of a string
	minus bool
}

type structuredKind uint8

const (
	isOther structuredKind = iota
	isTrue
	isFalse
	isInteger
	isString
)

func (p *structured) take(c byte) bool {
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *structured) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\t') {
		p.i++
	}
}

// while takes the bytes for which is holds.
func (p *structured) while(is func(c byte) bool) []byte {
	from := p.i
	for p.i < len(p.b) && is(p.b[p.i]) {
		p.i++
	}
	return p.b[from:p.i]
}

func (p *structured) member() bool {
	var ok bool
	if p.key, ok = p.name(); !ok {
		return false
	}
	if p.kind = isTrue; p.take('=') {
		if p.take('(') {
			if p.kind, ok = isOther, p.innerList(); !ok {
				return false
			}
		} else if p.kind, p.value, p.minus, ok = p.bare(); !ok {
			return false
		}
	}
	return p.parameters()
}

func (p *structured) name() ([]byte, bool) {
	if p.i == len(p.b) || p.b[p.i] != '*' && (p.b[p.i] < 'a' || p.b[p.i] > 'z') {
		return nil, false
	}
	return p.while(func(c byte) bool {
		return 'a' <= c && c <= 'z' || isDigit(c) || c == '_' || c == '-' || c == '.' || c == '*'
	}), true
}

func (p *structured) parameters() bool {
	for p.take(';') {
		for p.take(' ') {
		}
		if _, ok := p.name(); !ok {
			return false
		}
		if p.take('=') {
			if _, _, _, ok := p.bare(); !ok {
				return false
			}
		}
	}
	return true
}

func (p *structured) innerList() bool {
	for {
		for p.take(' ') {
		}
		if p.take(')') {
			return true
		}
		if _, _, _, ok := p.bare(); !ok || !p.parameters() || p.i == len(p.b) || p.b[p.i] != ' ' && p.b[p.i] != ')' {
			return false
		}
	}
}

// bare is a bare item (RFC 8941 3.3).
func (p *structured) bare() (kind structuredKind, value []byte, minus, ok bool) {
	if p.i == len(p.b) {
		return isOther, nil, false, false
	}
	switch c := p.b[p.i]; {
	case c == '-' || isDigit(c):
		minus = p.take('-')
		value = p.while(isDigit)
		if p.take('.') {
			fraction := len(p.while(isDigit))
			return isOther, nil, false, len(value) >= 1 && len(value) <= 12 && fraction >= 1 && fraction <= 3
		}
		return isInteger, value, minus, len(value) >= 1 && len(value) <= 15
	case c == '"':
		for from := p.i + 1; ; {
			if p.i++; p.i == len(p.b) || p.b[p.i] < 0x20 || p.b[p.i] > 0x7e {
				return isOther, nil, false, false
			}
			switch p.b[p.i] {
			case '\\':
				if p.i++; p.i == len(p.b) || p.b[p.i] != '"' && p.b[p.i] != '\\' {
					return isOther, nil, false, false
				}
			case '"':
				p.i++
				return isString, p.b[from : p.i-1], false, true
			}
		}
	case c == '?':
		p.i++
		if p.take('1') {
			return isTrue, nil, false, true
		}
		return isFalse, nil, false, p.take('0')
	case c == ':':
		p.i++
		p.while(func(c byte) bool {
			return 'a' <= lower(c) && lower(c) <= 'z' || isDigit(c) || c == '+' || c == '/' || c == '='
		})
		return isOther, nil, false, p.take(':')
	case c == '*' || 'a' <= lower(c) && lower(c) <= 'z':
		p.while(func(c byte) bool { return c == ':' || c == '/' || isToken([]byte{c}) })
		return isOther, nil, false, true
	}
	return isOther, nil, false, false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// assign takes the scanner's member over: of a key that stands there twice the last counts (RFC 8941 3.2).
func (c *Control) assign(p *structured) bool {
	switch string(p.key) {
	case "max-age":
		return c.assignSeconds(MaxAge, &c.MaxAge, p)
	case "s-maxage":
		return c.assignSeconds(SMaxAge, &c.SMaxAge, p)
	case "stale-while-revalidate":
		return c.assignSeconds(StaleWhileRevalidate, &c.StaleWhileRevalidate, p)
	case "stale-if-error":
		return c.assignSeconds(StaleIfError, &c.StaleIfError, p)
	case "private", "no-cache":
		whole, some := Private, PrivateFields
		if p.key[0] == 'n' {
			whole, some = NoCache, NoCacheFields
		}
		if p.kind == isString {
			c.qualify(whole, some, p.value, true)
			return true
		}
		return c.assignFlag(whole, p)
	case "no-store":
		return c.assignFlag(NoStore, p)
	case "no-transform":
		return c.assignFlag(NoTransform, p)
	case "public":
		return c.assignFlag(Public, p)
	case "must-revalidate":
		return c.assignFlag(MustRevalidate, p)
	case "proxy-revalidate":
		return c.assignFlag(ProxyRevalidate, p)
	case "must-understand":
		return c.assignFlag(MustUnderstand, p)
	case "immutable":
		return c.assignFlag(Immutable, p)
	}
	return true
}

func (c *Control) assignSeconds(d Directives, to *int64, p *structured) bool {
	if p.kind != isInteger {
		return false
	}
	n, _ := seconds(p.value)
	if p.minus {
		n = 0
	}
	c.Present |= d
	*to = n
	return true
}

func (c *Control) assignFlag(d Directives, p *structured) bool {
	switch p.kind {
	case isTrue:
		c.Present |= d
	case isFalse:
		c.Present &^= d
	default:
		return false
	}
	return true
}

// SurrogateCapability is what a surrogate tells the origin of itself (Edge Architecture Specification 1.0): the name that
// its directives may be meant for, and what it does. It processes no content.
const SurrogateCapability = surrogateName + `="Surrogate/1.0"`

const surrogateName = "sluice"

// parseSurrogate reads Surrogate-Control (Edge Architecture Specification 1.0): max-age=LIFETIME+STALE, no-store and
// no-store-remote. A directive that names this surrogate comes before one that names none; one of another's is passed over.
func parseSurrogate(values [][]byte) (c Control) {
	var own Control
	for _, line := range values {
		for quotes := true; len(line) > 0; {
			var member []byte
			member, line, quotes = element(line, quotes)
			directive, target, has := bytes.Cut(member, []byte(";"))
			switch {
			case !has:
				c.surrogate(directive)
			case is(trim(target), surrogateName):
				own.surrogate(trim(directive))
			}
		}
	}
	if own.Present != 0 {
		return own
	}
	return c
}

func (c *Control) surrogate(directive []byte) {
	name, arg, _ := bytes.Cut(directive, []byte("="))
	switch {
	case is(name, "no-store"), is(name, "no-store-remote"):
		c.Present |= NoStore
	case is(name, "max-age"):
		fresh, stale, has := bytes.Cut(arg, []byte("+"))
		c.least(MaxAge, &c.MaxAge, fresh, true)
		if has {
			c.least(StaleWhileRevalidate, &c.StaleWhileRevalidate, stale, true)
			c.least(StaleIfError, &c.StaleIfError, stale, true)
		}
	}
}
