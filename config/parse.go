package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// What a file may occupy, whoever wrote it.
const (
	maxFileSize = 16 << 20
	maxNodes    = 1 << 20 // of one file, with aliases copied out
	maxMarks    = 2 * maxNodes
	maxDepth    = 64
	maxMistakes = 100 // told of one file
)

// errDepth is what the parser fails with where a file nests deeper than that.
var errDepth = fmt.Errorf("more than %d levels of nesting", maxDepth)

// parseTree reads one YAML document into a tree. Aliases are copied out and merge keys
// merged, so that the tree is only values. The root of an empty document is a null.
func parseTree(name string, data []byte) (root *node, errs Errors) {
	src := &source{file: name, kind: "file"}
	fail := func(line, column int, format string, a ...any) (*node, Errors) {
		return nil, Errors{{Pos: Position{name, line, column}, Message: fmt.Sprintf(format, a...)}}
	}
	if len(data) > maxFileSize {
		return fail(1, 1, "the file is larger than %d MiB; split it into a directory of files", maxFileSize>>20)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if line, column, ok := unreadable(data); ok {
		return fail(line, column, "the file is not text: write it in UTF-8 without control characters")
	}
	if line, ok := crowded(data); ok {
		return fail(line, 1, "more than %d lines, commas, colons and dashes; split the file into a directory of files", maxMarks)
	}
	if root := plainTree(src, data); root != nil {
		return root, nil
	}
	return libraryTree(src, data)
}

// libraryTree is parseTree for all of YAML.
func libraryTree(src *source, data []byte) (root *node, errs Errors) {
	fail := func(line, column int, format string, a ...any) (*node, Errors) { //nolint:unparam // returned as it is
		return nil, Errors{{Pos: Position{src.file, line, column}, Message: fmt.Sprintf(format, a...)}}
	}
	// The parser is a stranger's and reads what anybody wrote: a panic there is a broken file.
	defer func() {
		if r := recover(); r != nil {
			root, errs = fail(1, 1, "the file can not be read as YAML: %v", r)
		}
	}()
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false), yaml.WithPlugin(loaderlimits.New(
		loaderlimits.AliasNone(), // aliases are counted as they are copied out
		loaderlimits.DepthFunc(func(depth int, _ *loaderlimits.DepthContext) error {
			if depth > maxDepth {
				return errDepth
			}
			return nil
		}))))
	if err != nil {
		return fail(1, 1, "not YAML: %v", err)
	}
	c := converter{src: src, anchors: map[*yaml.Node]*node{}}
	root = &node{src: src, line: 1, column: 1}
	for seen := false; ; {
		var doc yaml.Node
		if err := loader.Load(&doc); err == io.EOF {
			break
		} else if err != nil {
			line, column, message := unparsed(err)
			return fail(line, column, "%s", message)
		}
		if doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 {
			continue
		}
		body := doc.Content[0]
		if isNull(body) && body.Anchor == "" && !seen {
			continue
		}
		if seen {
			c.fail(body, "a second document begins here; a file holds one, a directory may hold several files")
			break
		}
		root, seen = c.node(body), true
	}
	if len(c.errs) > 0 {
		return nil, c.errs
	}
	return root, nil
}

// unparsed says what the parser found wrong, and where.
func unparsed(err error) (line, column int, message string) {
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		return 1, 1, fmt.Sprintf("not YAML: %v", err)
	}
	line, column = max(at.Mark.Line, 1), max(at.Mark.Column, 1)
	switch {
	case strings.Contains(at.Message, errDepth.Error()):
		return line, column, errDepth.Error()
	case strings.HasPrefix(at.Message, "unknown anchor '"):
		name := strings.TrimSuffix(strings.TrimPrefix(at.Message, "unknown anchor '"), "' referenced")
		return line, column, noAnchor(name)
	}
	message = "not YAML: " + at.Message
	if at.ContextMsg != "" {
		message = fmt.Sprintf("not YAML: %s that begins at %d:%d: %s", at.ContextMsg, max(at.ContextMark.Line, 1), max(at.ContextMark.Column, 1), at.Message)
	}
	if strings.Contains(message, "flow") || strings.Contains(message, "cannot start any token") {
		message += "; quote a text that has one of { } [ ] ,"
	}
	return line, column, message
}

func noAnchor(name string) string {
	return fmt.Sprintf("no anchor &%s stands before this alias; quote a text that begins with *", name)
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

// crowded finds the line with which a file has more of what sets values apart than maxNodes values need. The parser holds some 350 bytes for
// each value, in all a gigabyte and more before one could be counted.
func crowded(data []byte) (line int, found bool) {
	if len(data) <= maxMarks {
		return 0, false
	}
	marks := 0
	line = 1
	for i, c := range data {
		switch c {
		case '\n':
			marks++
			line++
		case ',', '[', '{':
			marks++
		case ':', '-', '?':
			if i+1 < len(data) && (data[i+1] == ' ' || data[i+1] == '\n') {
				marks++
			}
		default:
			continue
		}
		if marks > maxMarks {
			return line, true
		}
	}
	return 0, false
}

// converter turns the parser's tree into ours.
type converter struct {
	src     *source
	anchors map[*yaml.Node]*node
	path    trail
	nodes   int
	errs    Errors
}

func (c *converter) fail(n *yaml.Node, format string, a ...any) *node {
	at, path := c.at(n), c.path.String()
	switch len(c.errs) {
	case maxMistakes:
		return at
	case maxMistakes - 1:
		path, format, a = "", "the file has more mistakes than are told; this is the last of those that are", nil
	}
	c.errs = append(c.errs, &Error{Pos: at.pos(), Path: path, Message: fmt.Sprintf(format, a...)})
	return at
}

// at is a null where n stands.
func (c *converter) at(n *yaml.Node) *node {
	return &node{src: c.src, line: int32(max(n.Line, 1)), column: int32(max(n.Column, 1))}
}

// spend counts nodes; false when there are too many, which is reported once.
func (c *converter) spend(n *yaml.Node, count int) bool {
	before := c.nodes
	c.nodes += count
	if c.nodes > maxNodes && before <= maxNodes {
		c.fail(n, "more than %d values, with the aliases copied out", maxNodes)
	}
	return c.nodes <= maxNodes
}

func (c *converter) node(n *yaml.Node) *node {
	if !c.spend(n, 1) {
		return c.at(n)
	}
	if n.Style&yaml.TaggedStyle != 0 {
		return c.fail(n, "the tag %s is not used here; remove it: what a value means is known by its key", n.Tag)
	}
	var made *node
	switch n.Kind {
	case yaml.MappingNode:
		made = c.mapping(n)
	case yaml.SequenceNode:
		made = c.at(n)
		made.kind, made.items = sequence, make([]*node, len(n.Content))
		for i, item := range n.Content {
			c.path.enterIndex(i)
			made.items[i] = c.node(item)
			c.path.leave()
		}
	case yaml.AliasNode:
		anchored, ok := c.anchors[n.Alias]
		if !ok { // it stands around the alias
			return c.fail(n, "%s", noAnchor(n.Value))
		}
		if !c.spend(n, anchored.count(maxNodes)) {
			return c.at(n)
		}
		if len(c.path.steps)+anchored.depth() > maxDepth {
			return c.fail(n, "%v, with the aliases copied out", errDepth)
		}
		return anchored.clone()
	case yaml.ScalarNode:
		made = c.at(n)
		if isNull(n) {
			break
		}
		made.kind, made.text, made.quoted = scalar, n.Value, n.Style&quotedStyles != 0
	default:
		return c.fail(n, "this can not stand here")
	}
	if n.Anchor != "" {
		c.anchors[n] = made
	}
	return made
}

const quotedStyles = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

func isNull(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode || n.Style&(quotedStyles|yaml.TaggedStyle) != 0 {
		return false
	}
	return isNullText(n.Value)
}

func isNullText(plain string) bool {
	switch plain {
	case "", "~", "null", "Null", "NULL":
		return true
	}
	return false
}

func (c *converter) mapping(n *yaml.Node) *node {
	made := c.at(n)
	made.kind, made.fields = mapping, make([]field, 0, len(n.Content)/2)
	seen := make(map[string]*node, len(n.Content)/2)
	var merged []*node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.Value == "<<" && k.Style&quotedStyles == 0 {
			c.path.enterKey("<<")
			merged = append(merged, c.merge(v)...)
			c.path.leave()
			continue
		}
		if k.Kind != yaml.ScalarNode {
			c.fail(k, "a key is a plain word, not a list, a block or an alias")
			continue
		}
		c.path.enterKey(k.Value)
		if glued(n, k, v) {
			c.fail(k, "no space follows the colon; write one after a key, or quotes around a text that has a colon")
		} else if first, ok := seen[k.Value]; ok {
			c.fail(k, "this key stands here a second time; the first is in line %d", first.keyLine)
		} else {
			value := c.node(v)
			if value.kind == null {
				value.line, value.column = int32(max(k.Line, 1)), int32(max(k.Column, 1))
			}
			value.keyLine, value.keyColumn = int32(max(k.Line, 1)), int32(max(k.Column, 1))
			seen[k.Value] = value
			made.fields = append(made.fields, field{k.Value, value})
		}
		c.path.leave()
	}
	for _, m := range merged {
		for _, f := range m.fields {
			if _, ok := seen[f.key]; ok {
				continue
			}
			if !c.spend(n, f.value.count(maxNodes)) {
				return made
			}
			seen[f.key] = f.value
			made.fields = append(made.fields, field{f.key, f.value.clone()})
		}
	}
	return made
}

// glued tells {a:b}, which YAML reads as one text, a key without a value.
func glued(n, key, value *yaml.Node) bool {
	return n.Style&yaml.FlowStyle != 0 && key.Style&quotedStyles == 0 && strings.Contains(key.Value, ":") &&
		value.Kind == yaml.ScalarNode && value.Value == "" && isNull(value)
}

// merge returns the mappings that a merge key names.
func (c *converter) merge(n *yaml.Node) []*node {
	value := c.node(n)
	switch value.kind {
	case mapping:
		return []*node{value}
	case sequence:
		if !slices.ContainsFunc(value.items, func(item *node) bool { return item.kind != mapping }) {
			return value.items
		}
	}
	if len(c.errs) == 0 {
		c.fail(n, "only blocks can be merged: write <<: *name or <<: [*one, *two]")
	}
	return nil
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

// depth is how many lists and blocks stand in one another.
func (n *node) depth() (levels int) {
	if n.kind != mapping && n.kind != sequence {
		return 0
	}
	for _, f := range n.fields {
		levels = max(levels, f.value.depth())
	}
	for _, item := range n.items {
		levels = max(levels, item.depth())
	}
	return levels + 1
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
