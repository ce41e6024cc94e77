package document

import (
	"strconv"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may nest in what Check lets pass.
const MaxDepth = 256

// SyntaxError says where a document stops being one.
type SyntaxError struct {
	// Offset is in bytes; Line and Column count from 1, the column in bytes.
	Offset, Line, Column int
	Message              string
}

func (e *SyntaxError) Error() string {
	return "line " + strconv.Itoa(e.Line) + ", column " + strconv.Itoa(e.Column) + ": " + e.Message
}

// NewSyntaxError is a SyntaxError about the byte at.
func NewSyntaxError(src []byte, at int, message string) *SyntaxError {
	e := &SyntaxError{Offset: at, Line: 1, Column: 1, Message: message}
	for _, c := range src[:min(at, len(src))] {
		if e.Column++; c == '\n' {
			e.Line, e.Column = e.Line+1, 1
		}
	}
	return e
}

// Check parses a document that must be in UTF-8 and may not nest deeper than
// MaxDepth. It tells where one is malformed, with a *SyntaxError. As with Parse the value borrows the text.
func Check(src []byte) (*Value, error) {
	c := checker{src: src}
	c.space()
	if c.value(0); c.wrong == "" {
		if c.space(); c.at < len(src) {
			c.fail("there is more behind the value")
		}
	}
	if c.wrong != "" {
		return nil, NewSyntaxError(src, c.at, c.wrong)
	}
	return &Value{text: trim(src)}, nil
}

type checker struct {
	src   []byte
	at    int
	wrong string
}

func (c *checker) fail(message string) bool {
	c.wrong = message
	if c.at >= len(c.src) {
		c.wrong = "it ends early"
	}
	return false
}

func (c *checker) space() {
	for c.at < len(c.src) && isSpace(c.src[c.at]) {
		c.at++
	}
}

func (c *checker) next() byte {
	if c.at < len(c.src) {
		return c.src[c.at]
	}
	return 0
}

// value checks the value at c.at and moves behind it.
func (c *checker) value(depth int) bool {
	if depth > MaxDepth {
		return c.fail("it is nested too deep")
	}
	switch b := c.next(); {
	case b == '{':
		return c.object(depth)
	case b == '[':
		return c.array(depth)
	case b == '"':
		return c.text()
	case b == '-' || '0' <= b && b <= '9':
		return c.number()
	case b == 't':
		return c.literal("true")
	case b == 'f':
		return c.literal("false")
	case b == 'n':
		return c.literal("null")
	}
	return c.fail("a value is wanted")
}

func (c *checker) object(depth int) bool {
	c.at++
	c.space()
	if c.next() == '}' {
		c.at++
		return true
	}
	for {
		if c.next() != '"' {
			return c.fail("a name in quotes is wanted")
		}
		if !c.text() {
			return false
		}
		if c.space(); c.next() != ':' {
			return c.fail("a colon is wanted")
		}
		c.at++
		c.space()
		if !c.value(depth + 1) {
			return false
		}
		if more, ok := c.more('}', "a comma or a closing brace is wanted"); !more {
			return ok
		}
	}
}

// more moves behind the comma or the closing bracket that follows an element; more is false behind the last one, and where neither
// stands.
func (c *checker) more(closing byte, wanted string) (more, ok bool) {
	c.space()
	switch c.next() {
	case ',':
		c.at++
		c.space()
		return true, true
	case closing:
		c.at++
		return false, true
	}
	return false, c.fail(wanted)
}

func (c *checker) array(depth int) bool {
	c.at++
	c.space()
	if c.next() == ']' {
		c.at++
		return true
	}
	for {
		if !c.value(depth + 1) {
			return false
		}
		if more, ok := c.more(']', "a comma or a closing bracket is wanted"); !more {
			return ok
		}
	}
}

func (c *checker) text() bool {
	for c.at++; c.at < len(c.src); {
		switch b := c.src[c.at]; {
		case b == '"':
			c.at++
			return true
		case b < ' ':
			return c.fail("a control character stands in a text")
		case b == '\\':
			if !c.escape() {
				return false
			}
		case b < utf8.RuneSelf:
			c.at++
		default:
			r, n := utf8.DecodeRune(c.src[c.at:])
			if r == utf8.RuneError && n <= 1 {
				return c.fail("a text is not in UTF-8")
			}
			c.at += n
		}
	}
	return c.fail("")
}

func (c *checker) escape() bool {
	c.at++
	switch c.next() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		c.at++
		return true
	case 'u':
		c.at++
		for range 4 {
			if unhex(c.next()) < 0 {
				return c.fail("an escape is malformed")
			}
			c.at++
		}
		return true
	}
	return c.fail("an escape is malformed")
}

func (c *checker) number() bool {
	if c.next() == '-' {
		c.at++
	}
	switch b := c.next(); {
	case b == '0':
		c.at++
	case !c.digits():
		return false
	}
	if c.next() == '.' {
		c.at++
		if !c.digits() {
			return false
		}
	}
	if b := c.next(); b == 'e' || b == 'E' {
		c.at++
		if b = c.next(); b == '+' || b == '-' {
			c.at++
		}
		return c.digits()
	}
	return true
}

func (c *checker) digits() bool {
	start := c.at
	for '0' <= c.next() && c.next() <= '9' {
		c.at++
	}
	return c.at > start || c.fail("a digit is wanted")
}

func (c *checker) literal(word string) bool {
	for i := range len(word) {
		if c.next() != word[i] {
			return c.fail("a value is wanted")
		}
		c.at++
	}
	return true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
