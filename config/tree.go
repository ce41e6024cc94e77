package config

import (
	"fmt"
	"regexp"
	"strings"
)

// Tree is a value of a configuration file, or one that is made to stand in its place, for translators of other formats.
// What is made names the value it was made from, so that every later error still points into the file that somebody wrote.
// The zero Tree is nothing: everything asked of it is empty.
type Tree struct{ n *node }

// Translator turns a file of another format into the tree of a native configuration. env gives variables of the
// environment. Remarks are what whoever runs the configuration is to be told.
type Translator func(file Tree, env func(name string) (string, bool)) (native Tree, remarks Errors, errs Errors)

// ManifestTranslator turns an object of Kubernetes into the tree of a native configuration, as Translator does with a file.
type ManifestTranslator func(object Tree) (native Tree, remarks Errors, errs Errors)

// Is tells whether there is a value, be it null.
func (t Tree) Is() bool { return t.n != nil }

// Null tells whether nothing is written: no value, or null.
func (t Tree) Null() bool {
	return t.n == nil || t.n.kind == null || t.n.kind == scalar && !t.n.quoted && (t.n.text == "null" || t.n.text == "~")
}

// Map, List and Scalar tell what the value is.
func (t Tree) Map() bool { return t.n != nil && t.n.kind == mapping }

// List tells whether the value is a list.
func (t Tree) List() bool { return t.n != nil && t.n.kind == sequence }

// Scalar tells whether the value is a text, a number or a boolean.
func (t Tree) Scalar() bool { return t.n != nil && t.n.kind == scalar && !t.Null() }

// Quoted tells whether the value can only be a text.
func (t Tree) Quoted() bool { return t.n != nil && t.n.quoted }

// Keys of a block, in the order written.
func (t Tree) Keys() []string {
	if !t.Map() {
		return nil
	}
	keys := make([]string, len(t.n.fields))
	for i, f := range t.n.fields {
		keys[i] = f.key
	}
	return keys
}

// Get returns the value under a key.
func (t Tree) Get(key string) Tree { return Tree{t.n.child(key)} }

// Items of a list.
func (t Tree) Items() []Tree {
	if !t.List() {
		return nil
	}
	items := make([]Tree, len(t.n.items))
	for i, item := range t.n.items {
		items[i] = Tree{item}
	}
	return items
}

// Text of a scalar, environment expanded.
func (t Tree) Text() string {
	if t.n == nil || t.n.kind != scalar {
		return ""
	}
	return t.n.text
}

// Found says in words what the value is.
func (t Tree) Found() string {
	if t.n == nil {
		return "nothing"
	}
	return t.n.found()
}

// Pos is where the value stands.
func (t Tree) Pos() Position {
	if t.n == nil {
		return Position{}
	}
	return t.n.blame()
}

// Errorf returns an error about the value.
func (t Tree) Errorf(path, format string, a ...any) *Error {
	return &Error{Pos: t.Pos(), Path: path, Message: fmt.Sprintf(format, a...)}
}

// Rewrite gives a scalar another text. written is how it is to be written down again; empty: as the text.
func (t Tree) Rewrite(text, written string) { t.n.text, t.n.raw, t.n.template = text, written, false }

// NewMap makes a block in the place of from.
func NewMap(from Tree) Tree { return Tree{from.stand(mapping)} }

// NewList makes a list.
func NewList(from Tree, items ...Tree) Tree {
	n := from.stand(sequence)
	for _, item := range items {
		n.items = append(n.items, item.n)
	}
	return Tree{n}
}

// NewTexts makes a list of texts.
func NewTexts(from Tree, texts ...string) Tree {
	n := from.stand(sequence)
	for _, text := range texts {
		n.items = append(n.items, NewText(from, text).n)
	}
	return Tree{n}
}

// NewText makes a text.
func NewText(from Tree, text string) Tree {
	n := from.stand(scalar)
	n.text, n.quoted = text, true
	if from.n != nil && from.n.kind == scalar && from.n.text == text {
		n.raw = from.n.raw
	}
	return Tree{n}
}

// NewWord makes a number, a boolean or a word as it would be written without quotes.
func NewWord(from Tree, word any) Tree {
	n := from.stand(scalar)
	n.text = fmt.Sprint(word)
	return Tree{n}
}

// Set puts a value under a key of a block and returns the block.
func (t Tree) Set(key string, value Tree) Tree {
	v := *value.n
	v.keyLine, v.keyColumn = value.n.line, value.n.column
	if value.n.keyLine > 0 {
		v.keyLine, v.keyColumn = value.n.keyLine, value.n.keyColumn
	}
	t.n.put(key, &v)
	return t
}

// Append adds an element to a list.
func (t Tree) Append(item Tree) { t.n.items = append(t.n.items, item.n) }

// Len is the number of keys or elements.
func (t Tree) Len() int {
	if t.n == nil {
		return 0
	}
	return len(t.n.fields) + len(t.n.items)
}

func (t Tree) stand(k kind) *node {
	if t.n == nil {
		return &node{kind: k, src: defaultSource}
	}
	n := &node{kind: k, src: t.n.src, line: t.n.line, column: t.n.column, keyLine: t.n.keyLine, keyColumn: t.n.keyColumn}
	return n
}

// YAML writes the tree. What stands in for the environment is written as it was.
func (t Tree) YAML() []byte {
	var b strings.Builder
	t.n.write(&b, 0)
	return []byte(b.String())
}

func (n *node) write(b *strings.Builder, indent int) {
	pad := strings.Repeat("  ", indent)
	switch n.kind {
	case mapping:
		for _, f := range n.fields {
			b.WriteString(pad + quoteScalar(f.key, false) + ":")
			f.value.writeValue(b, indent)
		}
	case sequence:
		for _, item := range n.items {
			if item.kind == mapping && len(item.fields) > 0 {
				// The first key stands behind the dash, the others below it.
				var inner strings.Builder
				item.write(&inner, indent+1)
				b.WriteString(pad + "- " + strings.TrimPrefix(inner.String(), pad+"  "))
				continue
			}
			b.WriteString(pad + "-")
			item.writeValue(b, indent)
		}
	}
}

// writeValue writes what follows a key or a dash.
func (n *node) writeValue(b *strings.Builder, indent int) {
	switch {
	case n.kind == null:
		b.WriteString("\n")
	case n.kind == scalar:
		b.WriteString(" " + n.scalarText() + "\n")
	case n.kind == mapping && len(n.fields) == 0:
		b.WriteString(" {}\n")
	case n.kind == sequence && n.isPlainList():
		texts := make([]string, len(n.items))
		for i, item := range n.items {
			texts[i] = item.scalarText()
		}
		b.WriteString(" [" + strings.Join(texts, ", ") + "]\n")
	case n.kind == sequence:
		b.WriteString("\n")
		n.write(b, indent+1)
	default:
		b.WriteString("\n")
		n.write(b, indent+1)
	}
}

func (n *node) isPlainList() bool {
	size := 0
	for _, item := range n.items {
		if item.kind != scalar {
			return false
		}
		size += len(item.text)
	}
	return size < 100 || len(n.items) == 0
}

func (n *node) scalarText() string {
	if n.raw != "" {
		return quoteScalar(n.raw, true)
	}
	return quoteScalar(n.text, n.quoted)
}

var (
	plainScalar  = regexp.MustCompile(`^[A-Za-z0-9_/.~^*=-][A-Za-z0-9_/.@+~=*$^-]*(:[A-Za-z0-9_/.@+~=*$^-]+)*$`)
	ambiguous    = regexp.MustCompile(`^(?i:null|~|true|false|yes|no|on|off|[-+.0-9].*|[-*=~].*)?$`)
	plainInParts = regexp.MustCompile(`^[A-Za-z0-9_./-][A-Za-z0-9_./%-]*$`)
)

// quoteScalar writes a text so that it is read as the same one. text says that it must not be taken for anything else.
func quoteScalar(s string, text bool) string {
	if plainScalar.MatchString(s) && !ambiguous.MatchString(s) || !text && plainInParts.MatchString(s) && s != "null" && s != "-" {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < ' ':
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > '~' && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff:
			// Some of them end a line of YAML, or begin a file.
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
