package redirect

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sluice/gateway/exchange"
	"sluice/gateway/router"
)

// template is a compiled address: literals, and what is taken from the request between them.
type template struct {
	parts []part
}

type part struct {
	kind    kind
	in      position
	literal string // of a literal its text, of a parameter its name
}

type kind uint8

const (
	literal kind = iota
	scheme
	host
	path
	query
	uri
	param
)

// position is the component of the address (RFC 3986, section 3) that a part stands in. It decides what the part may be
// and how it is encoded.
type position uint8

const (
	atStart position = iota
	afterScheme
	authority
	inPath
	inQuery
	inFragment
	afterURI // behind ${uri}, which may have brought a query or not
)

var kinds = map[string]kind{"scheme": scheme, "host": host, "path": path, "query": query, "uri": uri}

var (
	leadingScheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)
	authorityText = regexp.MustCompile(`^[A-Za-z0-9._~:\[\]-]*$`)
	// What must follow a parameter within the host, so that the host still ends as the operator wrote it.
	domainSuffix = regexp.MustCompile(`^\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]+)?($|[/?#]|\$\{(uri|path)\})`)
	badEscape    = regexp.MustCompile(`%($|.$|[^0-9A-Fa-f]|.[^0-9A-Fa-f])`)
)

// compile reads the text of an address. params are the parameters that can be named.
func compile(text string, params []string) (*template, error) {
	c := &compiler{params: params}
	if badEscape.MatchString(text) {
		return nil, errors.New("a percent sign begins no escape; write %25 for the sign itself")
	}
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "${")
		if err := c.text(before); err != nil {
			return nil, err
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("${%s has no closing brace", name)
		}
		if err := c.variable(name, tail); err != nil {
			return nil, err
		}
		rest = tail
	}
	switch {
	case c.at == atStart || c.at == afterScheme:
		return nil, errNoAddress
	case c.at == authority && c.authorityEmpty():
		return nil, errNoHost
	}
	return &c.t, nil
}

var (
	errNoAddress = errors.New("must begin with https://, ${scheme}:// or a slash, as https://${host}${uri}")
	errNoHost    = errors.New("there is no host behind ://")
)

type compiler struct {
	t      template
	at     position
	params []string
}

// text takes literal text, component by component.
func (c *compiler) text(s string) error {
	for _, r := range s {
		if r <= ' ' || r == 0x7f {
			return errors.New("has spaces or control characters; write a space as %20")
		}
	}
	for s != "" {
		n := len(s)
		next := c.at
		switch c.at {
		case atStart:
			switch lead := leadingScheme.FindString(s); {
			case lead != "":
				n, next = len(lead), authority
			case s[0] != '/':
				return errNoAddress
			case strings.HasPrefix(s, "//"):
				return fmt.Errorf("begins with two slashes, which browsers read as a host; write ${scheme}:%s", s)
			default:
				n, next = 0, inPath
			}
		case afterScheme:
			if !strings.HasPrefix(s, "://") {
				return errors.New("behind ${scheme} comes ://")
			}
			n, next = len("://"), authority
		case authority:
			if i := strings.IndexAny(s, "/?#"); i >= 0 {
				n, next = i, component(s[i])
			}
			switch host := s[:n]; {
			case strings.Contains(host, "@"):
				return errors.New("holds a user, which browsers hide or refuse; leave it out")
			case strings.HasPrefix(host, ":") && c.authorityEmpty():
				return errNoHost
			case !authorityText.MatchString(host):
				return fmt.Errorf("%q can not stand in a host; write an international name in its xn-- form", host)
			}
		case inPath:
			if i := strings.IndexAny(s, "?#"); i >= 0 {
				n, next = i, component(s[i])
			}
		case inQuery:
			if i := strings.IndexByte(s, '#'); i >= 0 {
				n, next = i, inFragment
			}
		case afterURI:
			if s[0] != '#' {
				return errors.New("${uri} brings its own query, so that nothing but a fragment can follow; write ${path}…?${query}")
			}
			n, next = 0, inFragment
		}
		if n > 0 {
			c.add(part{kind: literal, in: c.at, literal: escapeLiteral(s[:n])})
		}
		if next == c.at {
			return nil
		}
		if c.at == authority && c.authorityEmpty() && next != authority {
			return errNoHost
		}
		s, c.at = s[n:], next
	}
	return nil
}

func component(delimiter byte) position {
	switch delimiter {
	case '?':
		return inQuery
	case '#':
		return inFragment
	}
	return inPath
}

// variable takes ${name}; tail is the text that follows it.
func (c *compiler) variable(name, tail string) error {
	p := part{kind: kinds[name], in: c.at}
	if p.kind == literal {
		p.kind = param
		var ok bool
		if p.literal, ok = strings.CutPrefix(name, "path."); !ok {
			return fmt.Errorf("${%s} is unknown; there are ${scheme}, ${host}, ${path}, ${query}, ${uri} and ${path.NAME}", name)
		}
		if !slices.Contains(c.params, p.literal) {
			return fmt.Errorf("${%s} is no parameter of every path of this route; write the path as /users/{%s}", name, p.literal)
		}
	}
	misplaced := fmt.Errorf("${%s} can not stand here; an address is ${scheme}://${host}${path}?${query}", name)
	switch c.at {
	case atStart:
		switch p.kind {
		case scheme:
			c.at = afterScheme
		case path:
			p.in, c.at = inPath, inPath
		case uri:
			p.in, c.at = inPath, afterURI
		default:
			return errNoAddress
		}
	case afterScheme:
		return errors.New("behind ${scheme} comes ://")
	case authority:
		switch {
		case p.kind == host:
			if c.hasHost() {
				return misplaced
			}
		case (p.kind == path || p.kind == uri) && c.authorityEmpty():
			return errNoHost
		case p.kind == path:
			p.in, c.at = inPath, inPath
		case p.kind == uri:
			p.in, c.at = inPath, afterURI
		case p.kind == param:
			// A client must not choose where it is sent beyond a name below the operator's domain.
			if last := c.last(); last.kind != literal || !strings.HasSuffix(last.literal, "//") && !strings.HasSuffix(last.literal, ".") || !domainSuffix.MatchString(tail) {
				return fmt.Errorf("${%s} in a host must be whole labels before a domain, as https://${%s}.example.com", name, name)
			}
		default:
			return misplaced
		}
	case inPath:
		switch p.kind {
		case path, uri:
			// Both begin with a slash; two at the front of an address would make the next segment a host.
			if last := c.last(); last.kind == literal && strings.HasSuffix(last.literal, "/") {
				last.literal = last.literal[:len(last.literal)-1]
			}
			if p.kind == uri {
				c.at = afterURI
			}
		case query:
			return errors.New("${query} stands behind a question mark, as ${path}?${query}, or write ${uri}")
		}
	case afterURI:
		return errors.New("${uri} brings its own query, so that nothing but a fragment can follow; write ${path}…?${query}")
	}
	c.add(p)
	return nil
}

func (c *compiler) add(p part) { c.t.parts = append(c.t.parts, p) }

func (c *compiler) last() *part { return &c.t.parts[len(c.t.parts)-1] }

// authorityEmpty tells whether nothing stands behind "://" yet.
func (c *compiler) authorityEmpty() bool {
	last := c.last()
	return last.kind == literal && strings.HasSuffix(last.literal, "://")
}

func (c *compiler) hasHost() bool {
	return slices.ContainsFunc(c.t.parts, func(p part) bool { return p.kind == host })
}

// escapeLiteral escapes what an operator may write and a URI can not hold.
func escapeLiteral(s string) string {
	return string(appendEscaped(nil, []byte(s), &uriBytes))
}

// fixed returns the address if it is the same for every request.
func (t *template) fixed() (string, bool) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.kind != literal {
			return "", false
		}
		b.WriteString(p.literal)
	}
	return b.String(), true
}

// leadsBack returns the scheme of the requests that the address leads back to: http, https, any, or "" for none.
func (t *template) leadsBack() string {
	var shape strings.Builder
	names := [...]string{scheme: "S", host: "H", path: "P", query: "Q", uri: "U", param: "X"}
	for _, p := range t.parts {
		if p.kind == literal {
			shape.WriteString(p.literal)
		} else {
			shape.WriteString(names[p.kind])
		}
	}
	address := shape.String()
	for _, same := range [...]string{"U", "P", "P?Q"} {
		switch address {
		case same, "S://H" + same:
			return "any"
		case "http://H" + same:
			return "http"
		case "https://H" + same:
			return "https"
		}
	}
	return ""
}

// append writes the address for a request.
func (t *template) append(dst []byte, x *exchange.Exchange) []byte {
	for i := range t.parts {
		p := &t.parts[i]
		switch p.kind {
		case literal:
			dst = append(dst, p.literal...)
		case scheme:
			dst = append(dst, x.Scheme...)
		case host:
			dst = appendHost(dst, x.Host, p.in)
		case path:
			dst = appendPath(dst, x.Path, p.in)
		case uri:
			dst = appendPath(dst, x.Path, p.in)
			if len(x.Query) == 0 {
				break
			}
			if p.in == inPath {
				dst = appendEscaped(append(dst, '?'), x.Query, &queryBytes)
			} else {
				dst = appendNested(append(dst, "%3F"...), x.Query, &queryBytes)
			}
		case query:
			if len(x.Query) > 0 {
				dst = appendEscaped(dst, x.Query, &queryBytes)
			} else if c := dst[len(dst)-1]; i == len(t.parts)-1 && (c == '?' || c == '&') {
				dst = dst[:len(dst)-1]
			}
		case param:
			dst = appendEscaped(dst, x.Param(p.literal), &unreserved)
		}
	}
	return dst
}

// appendHost appends a host without port. An IPv6 address gets its brackets back.
func appendHost(dst, name []byte, in position) []byte {
	if in != authority {
		return appendEscaped(dst, name, &unreserved)
	}
	if bytes.IndexByte(name, ':') < 0 {
		return appendEscaped(dst, name, &hostBytes)
	}
	dst = append(dst, '[')
	dst = appendEscaped(dst, name, &addressBytes)
	return append(dst, ']')
}

// appendPath appends the canonical path: as it is in a path, and with its own escapes escaped where it is part of a value.
func appendPath(dst, path []byte, in position) []byte {
	if len(path) == 0 {
		path = root
	}
	if in == inPath {
		return router.AppendEncoded(dst, path)
	}
	return appendNested(dst, path, &pathBytes)
}

var root = []byte("/")

const upperHex = "0123456789ABCDEF"

type byteSet [256]bool

// appendEscaped appends b with every byte that is not in keep as an escape.
func appendEscaped(dst, b []byte, keep *byteSet) []byte {
	for _, c := range b {
		if keep[c] {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// appendNested appends the escaped form of appendEscaped, itself escaped as a value of a query.
func appendNested(dst, b []byte, keep *byteSet) []byte {
	for _, c := range b {
		switch {
		case unreserved[c] || c == '/':
			dst = append(dst, c)
		case keep[c]:
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
		default:
			dst = append(dst, '%', '2', '5', upperHex[c>>4], upperHex[c&15])
		}
	}
	return dst
}

// The characters of RFC 3986, sections 2 and 3.
const (
	unreservedText = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
	subDelims      = "!$&'()*+,;="
)

var (
	unreserved   = setOf(unreservedText)
	hostBytes    = setOf(unreservedText + subDelims)
	addressBytes = setOf(unreservedText + ":")
	pathBytes    = setOf(unreservedText + subDelims + ":@/")
	// Escapes of the client stay as they are, and so do brackets, which many clients leave unescaped.
	queryBytes = setOf(unreservedText + subDelims + ":@/?%[]")
	uriBytes   = setOf(unreservedText + subDelims + ":@/?#%[]")
)

func setOf(chars string) (set byteSet) {
	for i := range len(chars) {
		set[chars[i]] = true
	}
	return set
}
