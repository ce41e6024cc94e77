package jwt

import (
	"encoding/base64"
	"math"
	"strings"
	"sync"
	"unsafe"
)

const (
	// MaxTokenSize is the largest token in bytes that is looked at.
	MaxTokenSize = 8 << 10

	maxHeaderMembers = 32
	maxClaims        = 256
)

// parsed is one token taken apart. Its texts point into the token and into the decoded bytes it holds, so they end with it.
type parsed struct {
	signed    string // header and payload as they were signed
	alg       algorithms
	kid       string
	signature []byte
	payload   string // JSON

	expires, notBefore, issuedAt int64 // Unix nanoseconds
	hasExpires                   bool
	iss, aud, sub                string // JSON texts; "" when absent

	names   []string
	decoded [MaxTokenSize]byte
}

var parsedPool = sync.Pool{New: func() any { return &parsed{names: make([]string, 0, maxClaims)} }}

func releaseParsed(p *parsed) {
	clear(p.names[:cap(p.names)])
	p.signed, p.kid, p.payload, p.iss, p.aud, p.sub, p.signature = "", "", "", "", "", "", nil
	parsedPool.Put(p)
}

// split takes a compact JWS (RFC 7515 section 7.1) apart, decodes it and reads its header. It accepts nothing but three
// parts of canonical base64url: no padding, no white space, no stray bits in the last character.
func (p *parsed) split(token string) Reason {
	if len(token) > MaxTokenSize {
		return Malformed
	}
	dots, at := 0, [2]int{}
	for i := range len(token) {
		c := token[i]
		if c == '.' {
			if dots == 2 {
				return Malformed
			}
			at[dots] = i
			dots++
		} else if !inAlphabet[c] {
			return Malformed
		}
	}
	if dots != 2 {
		return Malformed
	}
	header, n, ok := p.decode(0, token[:at[0]])
	payload, n, ok2 := p.decode(n, token[at[0]+1:at[1]])
	signature, _, ok3 := p.decode(n, token[at[1]+1:])
	if !ok || !ok2 || !ok3 {
		return Malformed
	}
	p.signed, p.payload, p.signature = token[:at[1]], payload, bytesOf(signature)
	return p.readHeader(header)
}

var strict = base64.RawURLEncoding.Strict()

// inAlphabet is base64url's; the decoder itself would skip line feeds.
var inAlphabet = func() (in [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		in[c] = true
	}
	return in
}()

func (p *parsed) decode(from int, part string) (text string, to int, ok bool) {
	n, err := strict.Decode(p.decoded[from:], bytesOf(part))
	return unsafe.String(&p.decoded[from], n), from + n, err == nil
}

// readHeader reads alg and kid. Keys that a token brings along or points at (jwk, jku, x5c, x5u) are never looked at;
// extensions that must be understood (crit) are not understood, and neither is an unencoded payload (RFC 7797), one that is
// compressed or encrypted (zip, enc), or one that is itself a token (cty, RFC 7519 section 5.2).
func (p *parsed) readHeader(header string) Reason {
	p.alg, p.kid = 0, ""
	p.names = p.names[:0]
	named := false
	m := object(header)
	for {
		name, value, ok := m.next()
		if !ok {
			break
		}
		if !p.first(&name, maxHeaderMembers) {
			return Malformed
		}
		switch name {
		case "alg":
			alg, ok := quoted(value)
			if !ok {
				return Malformed
			}
			named = true
			p.alg = algorithmOf(alg)
		case "kid":
			if p.kid, ok = quoted(value); !ok {
				return Malformed
			}
		case "crit", "zip", "enc":
			return Malformed
		case "cty":
			if text, ok := quoted(value); !ok || isNested(text) {
				return Malformed
			}
		case "b64":
			if value != "true" {
				return Malformed
			}
		}
	}
	if m.bad || !named {
		return Malformed
	}
	if p.alg == 0 {
		return WrongAlgorithm
	}
	return 0
}

// isNested tells a content type that says that the payload is a token.
func isNested(cty string) bool {
	const prefix = "application/"
	if len(cty) > len(prefix) && strings.EqualFold(cty[:len(prefix)], prefix) {
		cty = cty[len(prefix):]
	}
	return strings.EqualFold(cty, "JWT")
}

// readClaims reads the registered claims (RFC 7519 section 4.1) and refuses a payload that two readers could understand
// differently.
func (p *parsed) readClaims() Reason {
	p.expires, p.notBefore, p.issuedAt, p.hasExpires = math.MaxInt64, math.MinInt64, math.MinInt64, false
	p.iss, p.aud, p.sub = "", "", ""
	p.names = p.names[:0]
	m := object(p.payload)
	for {
		name, value, ok := m.next()
		if !ok {
			break
		}
		if !p.first(&name, maxClaims) {
			return Malformed
		}
		switch name {
		case "exp":
			p.expires, ok = date(value, true)
			p.hasExpires = ok
		case "nbf":
			p.notBefore, ok = date(value, false)
		case "iat":
			p.issuedAt, ok = date(value, false)
		case "iss":
			p.iss, ok = value, value[0] == '"'
		case "aud":
			p.aud, ok = value, isAudience(value)
		case "sub":
			p.sub, ok = value, isSubject(value)
		}
		if !ok {
			return Malformed
		}
	}
	if m.bad {
		return Malformed
	}
	return 0
}

// issuer finds the issuer a token claims to have, before anything about it is verified.
func (p *parsed) issuer() (iss string, ok bool) {
	m := object(p.payload)
	n := 0
	for {
		name, value, more := m.next()
		if !more {
			return iss, n == 1 && !m.bad
		}
		if equalName(name, "iss") {
			n++
			if iss, ok = quoted(value); !ok {
				return "", false
			}
		}
	}
}

// first unescapes a member's name and reports whether it is the first of that name and not one too many.
func (p *parsed) first(name *string, most int) bool {
	*name = unescape(*name)
	if len(p.names) == most {
		return false
	}
	for _, n := range p.names {
		if n == *name {
			return false
		}
	}
	p.names = append(p.names, *name)
	return true
}

func isAudience(value string) bool {
	if value[0] == '"' {
		return true
	}
	strings := true
	return elements(value, func(e string) bool {
		strings = e[0] == '"'
		return strings
	}) && strings
}

// isSubject accepts a number too: issuers with numeric user ids write them so.
func isSubject(value string) bool {
	if text, ok := quoted(value); ok {
		return plain(text)
	}
	return value[0] == '-' || value[0]-'0' <= 9
}

// newClaims copies what a verified token says out of the pooled bytes.
func (p *parsed) newClaims(consumer string, forward []string) *Claims {
	c := &Claims{raw: string(bytesOf(p.payload)), Consumer: consumer, expires: p.expires, notBefore: p.notBefore}
	c.members = make([]member, 0, len(p.names))
	m := object(c.raw)
	for {
		name, value, ok := m.next()
		if !ok {
			break
		}
		c.members = append(c.members, member{unescape(name), value, textOf(value)})
	}
	c.Subject = c.text("sub")
	c.Issuer = c.text("iss")
	c.forward = make([]string, len(forward))
	for i, path := range forward {
		if text := c.text(path); plain(text) {
			c.forward[i] = text
		}
	}
	return c
}

// bytesOf is s as bytes that nobody writes to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
