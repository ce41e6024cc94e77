// Package convert turns XML, SOAP envelopes and forms into JSON and back. XML is
// read without document types, so that there are no entities but the predefined, and
// its depth and the number of its elements are bounded.
package convert

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"sluice/gateway/document"
)

// MaxElements is how many elements and attributes an XML document may have.
const MaxElements = 100_000

// XMLOptions say how XML and JSON stand for each other. An element is a member
// of its name, as it is written, with its prefix; elements of one name in one element are an array.
// Its attributes are members whose names begin with @, its text is the member
// #text; an element with nothing but text is that text. All values are texts.
type XMLOptions struct {
	// Lists are the names of elements that are arrays also where there is one.
	Lists []string
	// Root is the element around a JSON document that is not an object of one member.
	Root string
}

// XMLToJSON turns an XML document into JSON. What is none, or has a document
// type, is a *document.SyntaxError.
func XMLToJSON(dst, src []byte, o *XMLOptions) ([]byte, error) {
	root, err := parseXML(src, false)
	if err != nil {
		return nil, err
	}
	dst = append(document.AppendString(append(dst, '{'), root.name), ':')
	dst = root.appendJSON(dst, o)
	return append(dst, '}'), nil
}

// element is one of an XML document.
type element struct {
	name       string
	attributes []xml.Attr
	children   []*element
	text       []byte
}

// parseXML reads a document. With bare names are without their prefixes, and
// the declarations of name spaces are left out.
func parseXML(src []byte, bare bool) (*element, error) {
	d := xml.NewDecoder(bytes.NewReader(src))
	fail := func(message string) error {
		line, column := d.InputPos()
		return &document.SyntaxError{Offset: int(d.InputOffset()), Line: line, Column: column, Message: message}
	}
	name := func(n xml.Name) string {
		if bare || n.Space == "" {
			return n.Local
		}
		return n.Space + ":" + n.Local
	}
	var root *element
	var open []*element
	var opened []xml.Name
	count := 0
	for {
		token, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				return nil, fail(syntax.Msg)
			}
			return nil, fail("the encoding is not UTF-8")
		}
		switch t := token.(type) {
		case xml.StartElement:
			e := &element{name: name(t.Name)}
			for _, a := range t.Attr {
				if bare && (a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns") {
					continue
				}
				a.Name = xml.Name{Local: name(a.Name)}
				if slices.ContainsFunc(e.attributes, func(b xml.Attr) bool { return b.Name == a.Name }) {
					return nil, fail("an attribute stands there twice")
				}
				if len(e.attributes) == document.MaxDepth {
					return nil, fail("an element has too many attributes")
				}
				e.attributes = append(e.attributes, a)
			}
			if count += 1 + len(e.attributes); count > MaxElements {
				return nil, fail("there are too many elements")
			}
			switch {
			case len(open) == document.MaxDepth:
				return nil, fail("it is nested too deep")
			case len(open) > 0:
				parent := open[len(open)-1]
				parent.children = append(parent.children, e)
			case root != nil:
				return nil, fail("there is a second root element")
			default:
				root = e
			}
			open, opened = append(open, e), append(opened, t.Name)
		case xml.EndElement:
			if len(open) == 0 || opened[len(open)-1] != t.Name {
				return nil, fail("an element ends that did not begin")
			}
			open, opened = open[:len(open)-1], opened[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				e := open[len(open)-1]
				e.text = append(e.text, t...)
			} else if len(bytes.TrimSpace(t)) > 0 {
				return nil, fail("there is text outside of the root element")
			}
		case xml.Directive:
			return nil, fail("it has a document type, which is not accepted")
		}
	}
	if root == nil || len(open) > 0 {
		return nil, fail("it ends early")
	}
	return root, nil
}

// appendJSON appends what stands for the content of the element.
func (e *element) appendJSON(dst []byte, o *XMLOptions) []byte {
	if len(e.attributes) == 0 && len(e.children) == 0 {
		return document.AppendString(dst, e.text)
	}
	dst = append(dst, '{')
	first := true
	name := func(s string) {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(document.AppendString(dst, s), ':')
	}
	for _, a := range e.attributes {
		name("@" + a.Name.Local)
		dst = document.AppendString(dst, a.Value)
	}
	if text := bytes.TrimSpace(e.text); len(text) > 0 {
		name("#text")
		dst = document.AppendString(dst, text)
	}
	groups := make(map[string][]*element)
	var order []string
	for _, c := range e.children {
		if groups[c.name] == nil {
			order = append(order, c.name)
		}
		groups[c.name] = append(groups[c.name], c)
	}
	for _, n := range order {
		name(n)
		group := groups[n]
		if len(group) == 1 && !slices.Contains(o.Lists, n) {
			dst = group[0].appendJSON(dst, o)
			continue
		}
		dst = append(dst, '[')
		for i, c := range group {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = c.appendJSON(dst, o)
		}
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

// What can not be said in XML.
var (
	errXMLName  = errors.New("a name of it can not be the name of an XML element or attribute")
	errXMLText  = errors.New("a text of it holds a character that XML has no place for")
	errXMLArray = errors.New("an array in it stands directly in an array, which XML has no form for")
	errXMLAttr  = errors.New("an attribute of it, whose name begins with @, is no text, number or truth value")
)

// JSONToXML turns a JSON document into XML.
func JSONToXML(dst []byte, v *document.Value, o *XMLOptions) ([]byte, error) {
	dst = append(dst, xml.Header...)
	if v.Kind() == document.Object && v.Len() == 1 {
		for name, value := range v.All() {
			if value.Kind() != document.Array && !strings.HasPrefix(name, "@") && name != "#text" {
				return appendElement(dst, name, value)
			}
		}
	}
	root := o.Root
	if root == "" {
		root = "root"
	}
	if v.Kind() != document.Array {
		return appendElement(dst, root, v)
	}
	// Elements of no name of their own.
	dst = append(append(append(dst, '<'), root...), '>')
	for _, value := range v.All() {
		var err error
		if dst, err = appendElement(dst, "item", value); err != nil {
			return nil, err
		}
	}
	return closeElement(dst, root), nil
}

// appendElement appends a value as an element, and an array as one for each of its elements.
func appendElement(dst []byte, name string, v *document.Value) ([]byte, error) {
	if !isXMLName(name) {
		return nil, errXMLName
	}
	switch v.Kind() {
	case document.Array:
		for _, e := range v.All() {
			if e.Kind() == document.Array {
				return nil, errXMLArray
			}
			var err error
			if dst, err = appendElement(dst, name, e); err != nil {
				return nil, err
			}
		}
		return dst, nil
	case document.Object:
		return appendContent(append(append(dst, '<'), name...), name, v)
	}
	dst = append(append(dst, '<'), name...)
	text, err := scalarText(v)
	switch {
	case err != nil:
		return nil, err
	case text == "":
		return append(dst, "/>"...), nil
	}
	return closeElement(appendXMLText(append(dst, '>'), text, false), name), nil
}

// appendContent appends the attributes of an element, whose tag is open, and what is in it.
func appendContent(dst []byte, name string, v *document.Value) ([]byte, error) {
	for member, value := range v.All() {
		attribute, ok := strings.CutPrefix(member, "@")
		if !ok {
			continue
		}
		switch {
		case !isXMLName(attribute):
			return nil, errXMLName
		case isNested(value):
			return nil, errXMLAttr
		}
		text, err := scalarText(value)
		if err != nil {
			return nil, err
		}
		dst = append(append(append(dst, ' '), attribute...), `="`...)
		dst = append(appendXMLText(dst, text, true), '"')
	}
	dst = append(dst, '>')
	for child, value := range v.All() {
		var err error
		switch {
		case strings.HasPrefix(child, "@"):
		case child == "#text" && !isNested(value):
			var text string
			if text, err = scalarText(value); err == nil {
				dst = appendXMLText(dst, text, false)
			}
		default:
			dst, err = appendElement(dst, child, value)
		}
		if err != nil {
			return nil, err
		}
	}
	return closeElement(dst, name), nil
}

func isNested(v *document.Value) bool {
	return v.Kind() == document.Array || v.Kind() == document.Object
}

func closeElement(dst []byte, name string) []byte {
	return append(append(append(dst, "</"...), name...), '>')
}

// scalarText returns what a value that is neither array nor object says.
func scalarText(v *document.Value) (string, error) {
	switch v.Kind() {
	case document.Null:
		return "", nil
	case document.String:
		text, _ := v.AsString()
		for _, r := range text {
			if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff {
				return "", errXMLText
			}
		}
		return text, nil
	}
	return string(v.Text()), nil
}

func appendXMLText(dst []byte, text string, attribute bool) []byte {
	for _, c := range []byte(text) {
		switch {
		case c == '&':
			dst = append(dst, "&amp;"...)
		case c == '<':
			dst = append(dst, "&lt;"...)
		case c == '>':
			dst = append(dst, "&gt;"...)
		case c == '\r':
			dst = append(dst, "&#13;"...)
		case attribute && c == '"':
			dst = append(dst, "&#34;"...)
		case attribute && c == '\n':
			dst = append(dst, "&#10;"...)
		case attribute && c == '\t':
			dst = append(dst, "&#9;"...)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// isXMLName reports whether s names an element: a name, or two with a colon between them.
func isXMLName(s string) bool {
	prefix, local, both := strings.Cut(s, ":")
	return isXMLPart(prefix) && (!both || isXMLPart(local))
}

func isXMLPart(s string) bool {
	for i, c := range s {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0xc0 && c != 0xd7 && c != 0xf7 && c != utf8.RuneError && c < 0xfff0 && (c < 0x2000 || c > 0x206f)
		if !letter && (i == 0 || c != '-' && c != '.' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}
