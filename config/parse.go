package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// What a file may occupy, whoever wrote it.
const (
	maxFileSize = 16 << 20
	maxNodes    = 1 << 20 // of one file, with aliases copied out
	maxDepth    = 64
	// The parser takes time and stack by the square of the keys in one block: this allows
	// 46,000 in one, or twenty times 10,000.
	maxKeyCost = 1 << 30
)

// parseTree reads one YAML document into a tree. Aliases are copied out and merge keys
// merged, so that the tree is only values. The root of an empty document is a null.
func parseTree(name string, data []byte) (root *node, errs Errors) {
	src := &source{file: name, kind: "file"}
	fail := func(line, column int, format string, a ...any) (*node, Errors) { //nolint:unparam // returned as it is
		return nil, Errors{{Pos: Position{name, line, column}, Message: fmt.Sprintf(format, a...)}}
	}
	if len(data) > maxFileSize {
		return fail(1, 1, "the file is larger than %d MiB; split it into a directory of files", maxFileSize>>20)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if line, column, ok := unreadable(data); ok {
		return fail(line, column, "the file is not text: write it in UTF-8 without control characters")
	}
	// The parser is a stranger's and reads what anybody wrote: a panic there is a broken file.
	defer func() {
		if r := recover(); r != nil {
			root, errs = fail(1, 1, "the file can not be read as YAML: %v", r)
		}
	}()
	tokens := tokenize(string(data))
	if line, column, problem := tooMuch(tokens); problem != "" {
		return fail(line, column, "%s", problem)
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if e, ok := err.(yaml.Error); ok && e.GetToken() != nil && e.GetToken().Position != nil {
			p := e.GetToken().Position
			message := e.GetMessage()
			if strings.HasSuffix(message, "must be specified") {
				message += "; quote a text that has one of { } [ ] ,"
			}
			return fail(max(p.Line, 1), max(p.Column, 1), "not YAML: %s", message)
		}
		return fail(1, 1, "not YAML: %v", err)
	}
	c := converter{src: src, anchors: map[string]*node{}}
	root = &node{src: src, line: 1, column: 1}
	seen := false
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if seen {
			c.fail(doc.Body, "", "a second document begins here; a file holds one, a directory may hold several files")
			break
		}
		root, seen = c.node(doc.Body, ""), true
	}
	if len(c.errs) > 0 {
		return nil, c.errs
	}
	return root, nil
}

// unreadable finds the first byte that can not be part of a YAML file.
func unreadable(data []byte) (line, column int, found bool) {
	line, column = 1, 1
	for i := 0; i < len(data); {
		c := data[i]
		if c < utf8.RuneSelf {
			if c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
				return line, column, true
			}
			i++
			column++
			if c == '\n' {
				line, column = line+1, 1
			}
			continue
		}
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return line, column, true
		}
		i += size
		column++
	}
	return 0, 0, false
}

// tooMuch measures nesting and breadth before the parser, which recurses for both, sees the
// tokens: brackets, and the columns in which block collections are open.
func tooMuch(tokens token.Tokens) (line, column int, problem string) {
	type block struct{ column, keys int }
	flow, cost := 0, 0
	var open []block
	for _, tk := range tokens {
		at := tk.Position
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(flow-1, 0)
		case token.MappingValueType, token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			if tk.Type == token.MappingValueType {
				if flow > 0 {
					break
				}
				if tk.Prev != nil {
					at = tk.Prev.Position
				}
			}
			for len(open) > 0 && open[len(open)-1].column > at.Column {
				open = open[:len(open)-1]
			}
			if len(open) == 0 || open[len(open)-1].column < at.Column {
				open = append(open, block{column: at.Column})
			}
			if tk.Type == token.MappingValueType {
				top := &open[len(open)-1]
				top.keys++
				if cost += top.keys; cost > maxKeyCost {
					return at.Line, at.Column, fmt.Sprintf("too many keys: this is number %d of its block; split the file into a directory of files", top.keys)
				}
			}
		}
		if flow+len(open) > maxDepth {
			return at.Line, at.Column, fmt.Sprintf("more than %d levels of nesting", maxDepth)
		}
	}
	return 0, 0, ""
}

// converter turns the parser's tree into ours.
type converter struct {
	src     *source
	anchors map[string]*node
	nodes   int
	errs    Errors
}

func (c *converter) fail(n ast.Node, path, format string, a ...any) *node {
	at := c.at(n)
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		at = c.at(m.Values[0].Key)
	}
	c.errs = append(c.errs, &Error{Pos: at.pos(), Path: path, Message: fmt.Sprintf(format, a...)})
	return at
}

// at is a null where n stands.
func (c *converter) at(n ast.Node) *node {
	made := &node{src: c.src, line: 1, column: 1}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		made.line, made.column = int32(max(tk.Position.Line, 1)), int32(max(tk.Position.Column, 1))
	}
	return made
}

// spend counts nodes; false when there are too many, which is reported once.
func (c *converter) spend(n ast.Node, path string, count int) bool {
	before := c.nodes
	c.nodes += count
	if c.nodes > maxNodes && before <= maxNodes {
		c.fail(n, path, "more than %d values, with the aliases copied out", maxNodes)
	}
	return c.nodes <= maxNodes
}

func (c *converter) node(n ast.Node, path string) *node {
	if !c.spend(n, path, 1) {
		return c.at(n)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return c.mapping(n, path, n.Values)
	case *ast.MappingValueNode:
		return c.mapping(n, path, []*ast.MappingValueNode{n})
	case *ast.SequenceNode:
		made := c.at(n)
		made.kind = sequence
		for i, item := range n.Values {
			made.items = append(made.items, c.node(item, joinIndex(path, i)))
		}
		return made
	case *ast.AnchorNode:
		value := c.at(n)
		if n.Value != nil {
			value = c.node(n.Value, path)
		}
		c.anchors[anchorName(n.Name)] = value
		return value
	case *ast.AliasNode:
		name := anchorName(n.Value)
		anchored, ok := c.anchors[name]
		if !ok {
			return c.fail(n, path, "no anchor &%s stands before this alias; quote a text that begins with *", name)
		}
		if !c.spend(n, path, anchored.count(maxNodes)) {
			return c.at(n)
		}
		return anchored.clone()
	case *ast.TagNode:
		return c.fail(n, path, "the tag %s is not used here; remove it: what a value means is known by its key", n.Start.Value)
	case *ast.NullNode:
		return c.at(n)
	case *ast.LiteralNode:
		made := c.at(n)
		made.kind, made.quoted, made.text = scalar, true, n.Value.Value
		return made
	case *ast.StringNode:
		made := c.at(n)
		made.kind, made.text = scalar, n.Value
		made.quoted = n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType
		return made
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		made := c.at(n)
		made.kind, made.text = scalar, n.GetToken().Value
		return made
	}
	return c.fail(n, path, "%s can not stand here", strings.ToLower(n.Type().String()))
}

func anchorName(n ast.Node) string {
	if n == nil || n.GetToken() == nil {
		return ""
	}
	return n.GetToken().Value
}

func (c *converter) mapping(n ast.Node, path string, values []*ast.MappingValueNode) *node {
	made := c.at(n)
	if m, ok := n.(*ast.MappingNode); (!ok || !m.IsFlowStyle) && len(values) > 0 {
		made = c.at(values[0].Key)
	}
	made.kind = mapping
	seen := make(map[string]*node, len(values))
	var merged []*node
	for _, v := range values {
		key := c.at(v.Key)
		if _, ok := v.Key.(*ast.MergeKeyNode); ok {
			merged = append(merged, c.merge(v.Value, joinKey(path, "<<"))...)
			continue
		}
		text, ok := keyText(v.Key)
		if !ok {
			c.fail(v.Key, path, "a key is a plain word, not a list, a block or an alias")
			continue
		}
		at := joinKey(path, text)
		if glued(v) {
			c.fail(v.Key, at, "no space follows the colon; write one after a key, or quotes around a text that has a colon")
			continue
		}
		if first, ok := seen[text]; ok {
			c.fail(v.Key, at, "this key stands here a second time; the first is in line %d", first.line)
			continue
		}
		seen[text] = key
		value := c.at(v.Key)
		if v.Value != nil {
			value = c.node(v.Value, at)
		}
		value.keyLine, value.keyColumn = key.line, key.column
		made.fields = append(made.fields, field{text, value})
	}
	for _, m := range merged {
		for _, f := range m.fields {
			if _, ok := seen[f.key]; ok {
				continue
			}
			if !c.spend(n, path, f.value.count(maxNodes)) {
				return made
			}
			seen[f.key] = f.value
			made.fields = append(made.fields, field{f.key, f.value.clone()})
		}
	}
	return made
}

// glued tells a:b inside brackets, which YAML reads as one text and this parser as a key
// and a value.
func glued(v *ast.MappingValueNode) bool {
	key, ok := v.Key.(*ast.StringNode)
	if !ok || key.Token.Type != token.StringType || v.Start == nil || v.Start.Next == nil {
		return false
	}
	next := v.Start.Next
	return isText(next) && adjacent(v.Start, 1, next)
}

// merge returns the mappings that a merge key names.
func (c *converter) merge(n ast.Node, path string) []*node {
	value := c.node(n, path)
	switch value.kind {
	case mapping:
		return []*node{value}
	case sequence:
		if !slices.ContainsFunc(value.items, func(item *node) bool { return item.kind != mapping }) {
			return value.items
		}
	}
	if len(c.errs) == 0 {
		c.fail(n, path, "only blocks can be merged: write <<: *name or <<: [*one, *two]")
	}
	return nil
}

func keyText(key ast.Node) (string, bool) {
	switch k := key.(type) {
	case *ast.MappingKeyNode:
		if k.Value == nil {
			return "", false
		}
		return keyText(k.Value)
	case *ast.StringNode:
		return k.Value, true
	case *ast.LiteralNode:
		return k.Value.Value, true
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		return key.GetToken().Value, true
	}
	return "", false
}

// count returns the number of nodes below and with n, or some number above the bound.
func (n *node) count(bound int) int {
	total := 1
	for _, f := range n.fields {
		if total > bound {
			break
		}
		total += f.value.count(bound - total)
	}
	for _, item := range n.items {
		if total > bound {
			break
		}
		total += item.count(bound - total)
	}
	return total
}

func (n *node) clone() *node {
	made := *n
	made.fields = slices.Clone(n.fields)
	for i := range made.fields {
		made.fields[i].value = made.fields[i].value.clone()
	}
	made.items = slices.Clone(n.items)
	for i := range made.items {
		made.items[i] = made.items[i].clone()
	}
	return &made
}
