package exchange

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"
)

// Template is a text with places that each request fills in:
//
//	${header.NAME}  the client's header, the first if there are several
//	${query.NAME}   the decoded value of a query parameter, the first if there are several
//	${claim.PATH}   a verified claim of the token, at a dotted path
//	${path.NAME}    a parameter of the route's path
//	${consumer}     the consumer's name, else the authenticated subject
//	${client_ip}, ${request_id}, ${host}, ${scheme}, ${method}, ${path}
//
// It is immutable.
type Template struct {
	parts []templatePart
	fixed []byte // the whole text if there is no place
}

// templatePart is a text or a place.
type templatePart struct {
	text  []byte
	place place
	name  string
}

type place uint8

const (
	placeNone place = iota
	placeHeader
	placeQuery
	placeClaim
	placeParam
	placeConsumer
	placeClientIP
	placeRequestID
	placeHost
	placeScheme
	placeMethod
	placePath
)

// maxTemplateParts bounds a template, so that its values fit on the stack.
const maxTemplateParts = 16

var plainPlaces = map[string]place{
	"consumer": placeConsumer, "client_ip": placeClientIP, "request_id": placeRequestID,
	"host": placeHost, "scheme": placeScheme, "method": placeMethod, "path": placePath,
}

// ParseTemplate reads a template. Its errors tell what is understood.
func ParseTemplate(text string) (*Template, error) {
	t := &Template{}
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "${")
		if before != "" {
			t.parts = append(t.parts, templatePart{text: []byte(before)})
		}
		if !found {
			break
		}
		name, behind, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("${%s has no closing brace", name)
		}
		p, err := parsePlace(name)
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, p)
		rest = behind
	}
	if len(t.parts) > maxTemplateParts {
		return nil, fmt.Errorf("there are more than %d texts and places in it", maxTemplateParts)
	}
	if !slices.ContainsFunc(t.parts, func(p templatePart) bool { return p.place != placeNone }) {
		t.fixed = append([]byte{}, text...) // never nil
	}
	return t, nil
}

func parsePlace(text string) (templatePart, error) {
	if p, ok := plainPlaces[text]; ok {
		return templatePart{place: p}, nil
	}
	what, name, _ := strings.Cut(text, ".")
	if name == "" {
		what = ""
	}
	switch what {
	case "header":
		switch kind := KindOf([]byte(name)); {
		case !IsToken(name):
			return templatePart{}, fmt.Errorf("${%s}: %q can not be the name of a header", text, name)
		case kind == KindIdentity || kind == KindForwarded:
			return templatePart{}, fmt.Errorf("${%s}: a client can write anything into this header; use ${consumer}, ${claim.NAME} or ${client_ip}", text)
		}
		return templatePart{place: placeHeader, name: textproto.CanonicalMIMEHeaderKey(name)}, nil
	case "query":
		return templatePart{place: placeQuery, name: name}, nil
	case "claim":
		return templatePart{place: placeClaim, name: name}, nil
	case "path":
		return templatePart{place: placeParam, name: name}, nil
	}
	return templatePart{}, fmt.Errorf("${%s} is not known; there are ${header.NAME}, ${query.NAME}, ${claim.NAME}, ${path.NAME}, ${consumer}, ${client_ip}, ${request_id}, ${host}, ${scheme}, ${method} and ${path}", text)
}

// Fixed returns the text of a template without places, else nil.
func (t *Template) Fixed() []byte { return t.fixed }

// Value fills the template in. ok is false if it has places and all of them are empty in this request. The value holds what the client
// sent: whoever writes it somewhere sees to what may stand there. It lives as long as the Exchange; nothing is allocated.
func (t *Template) Value(x *Exchange) (value []byte, ok bool) {
	if t.fixed != nil {
		return t.fixed, true
	}
	if len(t.parts) == 1 {
		value = t.parts[0].value(x)
		return value, len(value) > 0
	}
	// A value may need scratch memory of its own, so all are there before the text is put together.
	var values [maxTemplateParts][]byte
	for i := range t.parts {
		p := &t.parts[i]
		values[i] = p.value(x)
		ok = ok || p.place != placeNone && len(values[i]) > 0
	}
	if !ok {
		return nil, false
	}
	b := x.Scratch()
	for i := range t.parts {
		b = append(b, values[i]...)
	}
	return x.Keep(b), true
}

func (p *templatePart) value(x *Exchange) []byte {
	switch p.place {
	case placeHeader:
		return x.RequestHeader(p.name)
	case placeQuery:
		v, _ := x.QueryValue(p.name)
		return v
	case placeClaim:
		if c := x.Identity.Claims; c != nil {
			v, _ := c.Claim(p.name)
			return v
		}
		return nil
	case placeParam:
		return x.Param(p.name)
	case placeConsumer:
		if c := x.Identity.Consumer; c != nil {
			return c.NameHeader
		}
		if x.Identity.Authenticated {
			return x.Identity.Subject
		}
		return nil
	case placeClientIP:
		if !x.ClientAddr.IsValid() {
			return nil
		}
		return x.Keep(x.ClientAddr.Unmap().AppendTo(x.Scratch()))
	case placeRequestID:
		return x.RequestID
	case placeHost:
		return x.Host
	case placeScheme:
		return x.CopyString(x.Scheme)
	case placeMethod:
		return x.Method()
	case placePath:
		return x.Path
	}
	return p.text
}

// Params are the path parameters that the template names.
func (t *Template) Params() []string {
	var names []string
	for _, p := range t.parts {
		if p.place == placeParam {
			names = append(names, p.name)
		}
	}
	return names
}

// Varies names what the value depends on beside scheme, host, path and method, in the words of policy.Hooks: "header:NAME", "query:NAME",
// "claim:NAME", "consumer", "ip", "request_id".
func (t *Template) Varies() []string {
	var names []string
	for _, p := range t.parts {
		switch p.place {
		case placeHeader:
			names = append(names, "header:"+p.name)
		case placeQuery:
			names = append(names, "query:"+p.name)
		case placeClaim:
			names = append(names, "claim:"+p.name)
		case placeConsumer:
			names = append(names, "consumer")
		case placeClientIP:
			names = append(names, "ip")
		case placeRequestID:
			names = append(names, "request_id")
		}
	}
	return names
}
