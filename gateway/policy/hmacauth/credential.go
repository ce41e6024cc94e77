package hmacauth

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"

	"sluice/gateway/exchange"
)

const (
	scheme        = "hmac"
	requestTarget = "@request-target"
	requestLine   = "request-line"

	// maxCredential is the largest credential in bytes that is looked at, maxNames the most names in its headers, maxName the longest.
	maxCredential = 4096
	maxNames      = 64
	maxName       = 128
)

// find returns the credential of a request, nil for none, and whether it has several.
func find(x *exchange.Exchange) (params []byte, several bool) {
	for _, header := range [...]string{"Proxy-Authorization", "Authorization"} {
		values := x.PeekAll(header)
		for _, v := range values {
			if p, ok := isHMAC(v); ok {
				return p, len(values) > 1
			}
		}
	}
	return nil, false
}

// isHMAC knows the scheme, without regard to case, and returns what follows it.
func isHMAC(value []byte) (params []byte, ok bool) {
	if len(value) <= len(scheme) || value[len(scheme)] != ' ' || !exchange.EqualFold(value[:len(scheme)], scheme) {
		return nil, false
	}
	return value[len(scheme)+1:], true
}

// credential is what a request says about its signature. Its texts are borrowed from the header.
type credential struct {
	username, algorithm, headers []byte
	signature                    [sha512.Size]byte
	size                         int // of the signature
}

// parse reads the parameters (RFC 9110, section 11.2), each of which must stand there exactly once; quoted pairs are not understood.
func (c *credential) parse(params []byte) bool {
	if len(params) > maxCredential {
		return false
	}
	var signature []byte
	for rest := bytes.Trim(params, " \t"); ; {
		name, after, ok := bytes.Cut(rest, []byte{'='})
		if !ok || len(after) < 2 || after[0] != '"' {
			return false
		}
		end := bytes.IndexByte(after[1:], '"')
		if end < 0 {
			return false
		}
		value := after[1 : 1+end]
		if bytes.IndexByte(value, '\\') >= 0 || end == 0 {
			return false
		}
		var to *[]byte
		switch {
		case exchange.EqualFold(name, "username"):
			to = &c.username
		case exchange.EqualFold(name, "algorithm"):
			to = &c.algorithm
		case exchange.EqualFold(name, "headers"):
			to = &c.headers
		case exchange.EqualFold(name, "signature"):
			to = &signature
		default:
			return false
		}
		if *to != nil {
			return false
		}
		*to = value
		rest = bytes.TrimLeft(after[end+2:], " \t")
		if len(rest) == 0 {
			break
		}
		if rest[0] != ',' {
			return false
		}
		rest = bytes.TrimLeft(rest[1:], " \t")
	}
	if c.username == nil || c.algorithm == nil || c.headers == nil || signature == nil || base64.StdEncoding.DecodedLen(len(signature)) > len(c.signature)+2 {
		return false
	}
	var decoded [sha512.Size + 2]byte
	n, err := strict.Decode(decoded[:], signature)
	c.size = copy(c.signature[:], decoded[:n])
	return err == nil && n <= len(c.signature) && bytes.IndexByte(signature, '\n') < 0 && bytes.IndexByte(signature, '\r') < 0
}

var strict = base64.StdEncoding.Strict()

// next cuts the first name off a list with one or more spaces between the names.
func next(names []byte) (name, rest []byte) {
	names = bytes.TrimLeft(names, " ")
	if i := bytes.IndexByte(names, ' '); i >= 0 {
		return names[:i], names[i+1:]
	}
	return names, nil
}

// signs reports whether the signature covers a header.
func (c *credential) signs(header string) bool {
	for name, rest := next(c.headers); len(name) > 0; name, rest = next(rest) {
		if exchange.EqualFold(name, header) {
			return true
		}
	}
	return false
}

// covers reports whether the signature covers what it must.
func (a *authenticator) covers(c *credential) bool {
	if !c.signs("date") && !c.signs("x-date") {
		return false
	}
	for _, header := range a.required {
		switch {
		case c.signs(header):
		case header == requestTarget && c.signs(requestLine):
		case header == requestLine && c.signs(requestTarget):
		default:
			return false
		}
	}
	return true
}

var (
	separator = []byte(": ")
	comma     = []byte(", ")
	lineFeed  = []byte("\n")
	space     = []byte(" ")
)

// sign writes what the signature covers. It returns false if a header is not there.
func (m *mac) sign(x *exchange.Exchange, c *credential) bool {
	m.Reset()
	head := &x.Request.Header
	count := 0
	for name, rest := next(c.headers); len(name) > 0; name, rest = next(rest) {
		if count++; count > maxNames || len(name) > maxName {
			return false
		}
		if count > 1 {
			m.Write(lineFeed)
		}
		switch {
		case exchange.EqualFold(name, requestLine):
			m.Write(head.Method())
			m.Write(space)
			m.Write(head.RequestURI())
			m.Write(space)
			m.Write(head.Protocol())
			continue
		case exchange.EqualFold(name, requestTarget):
			m.Write(m.lower(head.Method()))
			m.Write(space)
			m.Write(head.RequestURI())
			continue
		}
		m.Write(m.lower(name))
		m.Write(separator)
		if exchange.EqualFold(name, "host") {
			m.Write(head.Host())
			continue
		}
		lines := 0
		for i := range x.Fields {
			if f := &x.Fields[i]; len(f.Name) == len(name) && equalFold(f.Name, name) {
				if lines++; lines > 1 {
					m.Write(comma)
				}
				m.Write(f.Value)
			}
		}
		if lines == 0 {
			return false
		}
	}
	return true
}

// lower is a name in lower case, until the next call. What is too long to be one is cut, and so signed by nobody.
func (m *mac) lower(name []byte) []byte {
	n := copy(m.name[:], name)
	for i, c := range m.name[:n] {
		m.name[i] = lower(c)
	}
	return m.name[:n]
}

func equalFold(a, b []byte) bool {
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}
