package config

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
)

type kind uint8

const (
	null kind = iota
	scalar
	mapping
	sequence
)

// source is where nodes come from: one per file, environment variable and flag.
type source struct {
	file string // as in messages: the file, the variable's name, or --set PATH
	kind string // file, env, flag or default
}

var defaultSource = &source{file: "default", kind: "default"}

// node is a value of the tree that files, environment and flags are merged into. What a
// scalar means is decided by the setting that reads it, so it keeps its text.
type node struct {
	kind     kind
	quoted   bool // a scalar that can only be a text
	template bool // a text in which ${…} was left for whoever reads the setting
	text     string
	raw      string  // of a scalar: as it is to be written down, where that is not its text
	fields   []field // of a mapping, in the order written
	items    []*node // of a sequence

	src                *source
	line, column       int32
	keyLine, keyColumn int32 // of the key the node stands under; 0 without one
}

type field struct {
	key   string
	value *node
}

// pos is where the value starts.
func (n *node) pos() Position {
	return Position{File: n.src.file, Line: int(n.line), Column: int(n.column)}
}

// keyPos is where the value's key starts, or the value where it has none.
func (n *node) keyPos() Position {
	if n.keyLine == 0 {
		return n.pos()
	}
	return Position{File: n.src.file, Line: int(n.keyLine), Column: int(n.keyColumn)}
}

// blame is the position for an error about the value: a block is named by its key.
func (n *node) blame() Position {
	if n.kind == scalar {
		return n.pos()
	}
	return n.keyPos()
}

func (n *node) index(key string) int {
	return slices.IndexFunc(n.fields, func(f field) bool { return f.key == key })
}

func (n *node) child(key string) *node {
	if n == nil || n.kind != mapping {
		return nil
	}
	if i := n.index(key); i >= 0 {
		return n.fields[i].value
	}
	return nil
}

// children are the values of a mapping by key, for who looks at many of them.
func (n *node) children() map[string]*node {
	if n == nil || n.kind != mapping {
		return nil
	}
	all := make(map[string]*node, len(n.fields))
	for _, f := range n.fields {
		all[f.key] = f.value
	}
	return all
}

func (n *node) put(key string, value *node) {
	if i := n.index(key); i >= 0 {
		n.fields[i].value = value
		return
	}
	n.fields = append(n.fields, field{key, value})
}

func (n *node) remove(key string) {
	n.fields = slices.DeleteFunc(n.fields, func(f field) bool { return f.key == key })
}

// toggle reads the words that turn a block off and on.
func (n *node) toggle() (off, on bool) {
	if n.kind != scalar {
		return false, n.kind == null
	}
	return n.text == "off" || n.text == "false", n.text == "on" || n.text == "true"
}

func (n *node) isOff() bool {
	off, _ := n.toggle()
	return off
}

// value returns the node as encoding/json would have it: plain scalars by the core schema
// of YAML 1.2, with off and on as they are.
func (n *node) value() any {
	switch n.kind {
	case mapping:
		m := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			m[f.key] = f.value.value()
		}
		return m
	case sequence:
		list := make([]any, len(n.items))
		for i, item := range n.items {
			list[i] = item.value()
		}
		return list
	case scalar:
		if n.quoted {
			return n.text
		}
		return resolve(n.text)
	}
	return nil
}

// resolve gives a plain scalar its type.
func resolve(text string) any {
	switch text {
	case "true":
		return true
	case "false":
		return false
	case "null", "~", "":
		return nil
	}
	if c := text[0]; c != '-' && c != '+' && c != '.' && (c < '0' || c > '9') {
		return text
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i
	}
	if strings.ContainsAny(text, "xXpP_") {
		return text
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return f
	}
	return text
}

// canonical is the node as JSON with sorted keys.
func (n *node) canonical() []byte {
	data, err := json.Marshal(n.value())
	if err != nil {
		panic("BUG: a configuration tree is always JSON: " + err.Error())
	}
	return data
}

// segment is one step of a path: a key, or the index of a list.
type segment struct {
	key   string
	index int  // when isIndex
	list  bool // written as [0]
}

func (s segment) String() string {
	if s.list {
		return "[" + strconv.Itoa(s.index) + "]"
	}
	return s.key
}

// trail is the path of where a walk through a tree is: it becomes a text only where one is asked for.
type trail struct {
	base  string // where the walk began
	steps []segment
}

func (t *trail) enterKey(key string) { t.steps = append(t.steps, segment{key: key}) }

func (t *trail) enterIndex(i int) { t.steps = append(t.steps, segment{index: i, list: true}) }

func (t *trail) leave() { t.steps = t.steps[:len(t.steps)-1] }

func (t *trail) String() string {
	path := t.base
	for _, s := range t.steps {
		if s.list {
			path = joinIndex(path, s.index)
		} else {
			path = joinKey(path, s.key)
		}
	}
	return path
}

// joinKey appends a key to a path, as routes.users or routes["a.b"].
func joinKey(path, key string) string {
	if !plainKey(key) {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

func joinIndex(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func plainKey(key string) bool {
	for i := range len(key) {
		c := key[i]
		if !(c == '_' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80) {
			return false
		}
	}
	return key != ""
}

// joinPath puts a relative path behind a base.
func joinPath(base, path string) string {
	switch {
	case base == "" || path == "":
		return base + path
	case path[0] == '[':
		return base + path
	}
	return base + "." + path
}

// parsePath splits routes["a.b"].match.paths[0] into its segments. It accepts a list's
// index also as .0: segment.key keeps it, and the reader of the tree decides.
func parsePath(path string) ([]segment, bool) {
	var segments []segment
	for rest := path; rest != ""; {
		switch {
		case rest[0] == '[' && len(rest) > 1 && rest[1] == '"':
			quoted, err := strconv.QuotedPrefix(rest[1:])
			if err != nil || !strings.HasPrefix(rest[1+len(quoted):], "]") {
				return segments, false
			}
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return segments, false
			}
			segments = append(segments, segment{key: key})
			rest = rest[len(quoted)+2:]
		case rest[0] == '[':
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return segments, false
			}
			i, err := strconv.Atoi(rest[1:end])
			if err != nil || i < 0 {
				return segments, false
			}
			segments = append(segments, segment{index: i, list: true})
			rest = rest[end+1:]
		default:
			if len(segments) > 0 {
				if rest[0] != '.' {
					return segments, false
				}
				rest = rest[1:]
			}
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			if end == 0 {
				return segments, false
			}
			segments = append(segments, segment{key: rest[:end]})
			rest = rest[end:]
		}
	}
	return segments, len(segments) > 0
}

// locate follows the path as far as the tree knows it.
func (n *node) locate(path string) *node {
	segments, _ := parsePath(path)
	for _, s := range segments {
		next := n.child(s.key)
		if s.list {
			next = nil
			if n.kind == sequence && s.index < len(n.items) {
				next = n.items[s.index]
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return n
}
