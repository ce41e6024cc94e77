// Package document changes JSON documents where they are to be changed and leaves everything else as it was written: the order of
// members, the digits of numbers, escapes and space. It reads no more of a document than the way to what is changed. It
// guarantees that what comes out is well-formed if what was put in is, that a name written with escapes is the same
// name, and that no nesting makes it recurse deeper than a path is long.
//
// Of several members with the same name the last one counts, as it does for most readers; a change of it takes the others away. What is
// removed or replaced in one is so in all of them, since other readers take the first.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// Kind is what a value is.
type Kind uint8

// The kinds of values.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// ErrMalformed is what Parse says of everything that is not one JSON value.
var ErrMalformed = errors.New("is not well-formed JSON")

// Value is a JSON value. It belongs to one goroutine.
type Value struct {
	text []byte // as it was written, without space around; nil once something in it was changed
	node *node  // the value's children, once somebody has asked for them
	// replaced tells that the text is not the one that was parsed.
	replaced bool
}

// node is an array or an object.
type node struct {
	object   bool
	elements []element
}

type element struct {
	name []byte // as it was written, with quotes; nil in an array
	Value
}

// Parse checks a document. The value borrows the text, which must not change while the value is in use.
func Parse(text []byte) (*Value, error) {
	if !json.Valid(text) {
		return nil, ErrMalformed
	}
	return &Value{text: trim(text)}, nil
}

// Append appends the document.
func (v *Value) Append(dst []byte) []byte {
	if v.text != nil {
		return append(dst, v.text...)
	}
	opening, closing := byte('['), byte(']')
	if v.node.object {
		opening, closing = '{', '}'
	}
	dst = append(dst, opening)
	for i := range v.node.elements {
		e := &v.node.elements[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		if v.node.object {
			dst = append(append(dst, e.name...), ':')
		}
		dst = e.Append(dst)
	}
	return append(dst, closing)
}

// Text is the document as JSON. It is borrowed from the value.
func (v *Value) Text() []byte {
	if v.text != nil {
		return v.text
	}
	return v.Append(nil)
}

// Changed tells whether something in the value was changed, so that it is no longer the text that was parsed.
func (v *Value) Changed() bool { return v.text == nil || v.replaced }

// Kind tells what the value is.
func (v *Value) Kind() Kind {
	if v.text == nil {
		if v.node.object {
			return Object
		}
		return Array
	}
	switch v.text[0] {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	}
	return Number
}

// AsString decodes a string; ok is false for any other value.
func (v *Value) AsString() (s string, ok bool) {
	if v.Kind() != String {
		return "", false
	}
	return unquote(v.text), true
}

// Len is the number of elements of an array or members of an object.
func (v *Value) Len() int {
	if n := v.children(); n != nil {
		return len(n.elements)
	}
	return 0
}

// children are the elements or members, nil for any other value.
func (v *Value) children() *node {
	if v.node != nil {
		return v.node
	}
	if c := v.text[0]; c != '{' && c != '[' {
		return nil
	}
	n := &node{object: v.text[0] == '{'}
	for rest := v.text[1:]; ; {
		rest = skipSpace(rest)
		switch rest[0] {
		case '}', ']':
			v.node = n
			return n
		case ',':
			rest = skipSpace(rest[1:])
		}
		var e element
		if n.object {
			end := stringEnd(rest)
			e.name, rest = rest[:end:end], skipSpace(skipSpace(rest[end:])[1:])
		}
		end := valueEnd(rest)
		e.text, rest = rest[:end:end], rest[end:]
		n.elements = append(n.elements, e)
	}
}

// find is the place of a member, -1 without one.
func (n *node) find(name string) int {
	for i := len(n.elements) - 1; i >= 0; i-- {
		if nameIs(n.elements[i].name, name) {
			return i
		}
	}
	return -1
}

// isTwice tells whether there are several members of a name.
func (n *node) isTwice(name string) bool {
	found := 0
	for i := range n.elements {
		if nameIs(n.elements[i].name, name) {
			found++
		}
	}
	return found > 1
}

// at is the place that a step leads to, -1 where there is nothing.
func (n *node) at(s *step) int {
	switch {
	case n == nil || s.named() != n.object:
		return -1
	case n.object:
		return n.find(s.name)
	case s.index < len(n.elements):
		return s.index
	}
	return -1
}

// drop takes the element at i away, and with it other members of its name.
func (n *node) drop(i int) {
	if !n.object {
		n.elements = append(n.elements[:i], n.elements[i+1:]...)
		return
	}
	n.dropName(unquote(n.elements[i].name), -1)
}

// dropName takes all members of a name away but the one at except. It returns how many of them stood before that.
func (n *node) dropName(name string, except int) (before int) {
	kept := n.elements[:0]
	for j := range n.elements {
		if j == except || !nameIs(n.elements[j].name, name) {
			kept = append(kept, n.elements[j])
		} else if j < except {
			before++
		}
	}
	n.elements = kept
	return before
}

func nameIs(written []byte, name string) bool {
	inner := written[1 : len(written)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner) == name
	}
	return unquote(written) == name
}

// unquote decodes a string that is well-formed.
func unquote(written []byte) string {
	inner := written[1 : len(written)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	_ = json.Unmarshal(written, &s)
	return s
}

// Quote writes a string as JSON.
func Quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can be encoded
	return bytes.TrimRight(b.Bytes(), "\n")
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func skipSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return b
}

func trim(b []byte) []byte {
	b = skipSpace(b)
	for isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// stringEnd is the length of the string that b begins with.
func stringEnd(b []byte) int {
	for i := 1; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// valueEnd is the length of the value that b begins with.
func valueEnd(b []byte) int {
	switch b[0] {
	case '"':
		return stringEnd(b)
	case '{', '[':
		depth := 0
		for i := 0; ; i++ {
			switch b[i] {
			case '"':
				i += stringEnd(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	i := 1
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && !isSpace(b[i]) {
		i++
	}
	return i
}
