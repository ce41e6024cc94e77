package config

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// plainReader reads the part of YAML that configurations are written in: blocks and lists by indentation, flow collections,
// texts on one line, literal texts, comments. At whatever else stands in a file, right or wrong, it gives up, and the library
// reads the file, or says what is wrong with it. What it reads it reads as the library does, positions included, in a tenth of
// the time, most of which a reload of many routes would be. FuzzPlain holds it to that.
//
// A method that returns a node returns nil where it gives up.
type plainReader struct {
	src    *source
	data   []byte
	ascii  bool
	at     int // what is read next
	line   int // of it, from 1
	begin  int // of the line
	indent int // of the line that begins at what is read next; -1 at the end
	depth  int
	count  int

	// What the collections around have so far, and where their own copies come from.
	fields    []field
	items     []*node
	nodes     slab[node]
	ownFields slab[field]
	ownItems  slab[*node]
	texts     map[string]string
}

const (
	maxPlainDepth = maxDepth - 8 // where the library would begin to count more exactly
	maxPlainKey   = 1000         // bytes; those of the library end at 1024 characters
	maxTexts      = 1024         // that are looked for again
)

// plainTree returns the tree of a file, whose bytes are known to be readable, or nil.
func plainTree(src *source, data []byte) *node {
	p := plainReader{src: src, data: data, line: 1, texts: make(map[string]string)}
	var ok bool
	if p.ascii, ok = onlyText(data); !ok {
		return nil
	}
	p.nextLine()
	var root *node
	switch p.peek() {
	case 0:
		return nil
	case '[', '{':
		if root = p.flow(-1); root == nil || !p.endLine() {
			return nil
		}
		p.nextLine()
	default:
		root = p.block(p.indent)
	}
	if p.indent >= 0 {
		return nil
	}
	return root
}

// onlyText refuses what the library takes for the end of a line, or does not take at all.
func onlyText(data []byte) (ascii, ok bool) {
	ascii = true
	for i := 0; i < len(data); {
		c := data[i]
		if c < utf8.RuneSelf {
			if c == '\r' {
				return false, false
			}
			i++
			continue
		}
		r, size := utf8.DecodeRune(data[i:])
		if r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufeff' || r == '\ufffe' || r == '\uffff' {
			return false, false
		}
		ascii = false
		i += size
	}
	return ascii, true
}

// peek is the byte that is read next, 0 at the end.
func (p *plainReader) peek() byte { return p.ahead(0) }

func (p *plainReader) ahead(n int) byte {
	if p.at+n < len(p.data) {
		return p.data[p.at+n]
	}
	return 0
}

// nextLine goes to the next line that has more than a comment, from the end of one or the beginning of all.
func (p *plainReader) nextLine() {
	for {
		if p.peek() == '\n' {
			p.newLine()
		}
		p.spaces()
		switch p.peek() {
		case '\n':
		case '#':
			p.skipLine()
		case 0:
			p.indent = -1
			return
		default:
			p.indent = p.at - p.begin
			return
		}
	}
}

func (p *plainReader) newLine() {
	p.at++
	p.line++
	p.begin = p.at
}

func (p *plainReader) spaces() {
	for p.peek() == ' ' {
		p.at++
	}
}

func (p *plainReader) skipLine() {
	if end := bytes.IndexByte(p.data[p.at:], '\n'); end >= 0 {
		p.at += end
	} else {
		p.at = len(p.data)
	}
}

// endLine goes to the end of a line that has at most a comment left.
func (p *plainReader) endLine() bool {
	before := p.at
	p.spaces()
	switch p.peek() {
	case '\n', 0:
		return true
	case '#':
		p.skipLine()
		return p.at > before && p.data[before] == ' '
	}
	return false
}

// make begins a node where the reader is.
func (p *plainReader) make(k kind) *node {
	p.count++
	n := &p.nodes.take(1)[0]
	n.kind, n.src, n.line, n.column = k, p.src, int32(p.line), p.column()
	return n
}

func (p *plainReader) column() int32 {
	if p.ascii {
		return int32(p.at - p.begin + 1)
	}
	return int32(utf8.RuneCount(p.data[p.begin:p.at]) + 1)
}

// enter counts a collection; leave ends it.
func (p *plainReader) enter() bool {
	p.depth++
	return p.depth <= maxPlainDepth && p.count < maxNodes
}

func (p *plainReader) leave() { p.depth-- }

// block reads what begins here and has a line for each of its elements, which all begin in this column.
func (p *plainReader) block(indent int) *node {
	if p.isDash() {
		return p.blockList(indent)
	}
	return p.blockMap(indent)
}

func (p *plainReader) isDash() bool {
	if p.peek() != '-' {
		return false
	}
	c := p.ahead(1)
	return c == ' ' || c == '\n' || c == 0
}

func (p *plainReader) blockMap(indent int) *node {
	if !p.enter() {
		return nil
	}
	n, first := p.make(mapping), len(p.fields)
	for {
		line, column := int32(p.line), p.column()
		key, ok := p.key(false)
		if !ok {
			return nil
		}
		value := p.value(indent)
		if value == nil {
			return nil
		}
		p.put(key, value, line, column)
		if p.indent < indent {
			break
		}
		if p.indent > indent || p.isDash() {
			return nil
		}
	}
	p.leave()
	return p.closeMap(n, first)
}

// put adds to the block that is read.
func (p *plainReader) put(key string, value *node, line, column int32) {
	if value.kind == null {
		value.line, value.column = line, column
	}
	value.keyLine, value.keyColumn = line, column
	p.fields = append(p.fields, field{key, value})
}

// closeMap gives a block the fields that were read since first, unless two have one key.
func (p *plainReader) closeMap(n *node, first int) *node {
	read := p.fields[first:]
	if repeats(read) {
		return nil
	}
	n.fields = p.ownFields.take(len(read))
	copy(n.fields, read)
	p.fields = p.fields[:first]
	return n
}

func repeats(fields []field) bool {
	if len(fields) <= 16 {
		for i := range fields {
			for j := range i {
				if fields[i].key == fields[j].key {
					return true
				}
			}
		}
		return false
	}
	seen := make(map[string]struct{}, len(fields))
	for _, f := range fields {
		seen[f.key] = struct{}{}
	}
	return len(seen) < len(fields)
}

func (p *plainReader) blockList(indent int) *node {
	if !p.enter() {
		return nil
	}
	n, first := p.make(sequence), len(p.items)
	for p.indent == indent && p.isDash() {
		p.at++
		item := p.item(indent)
		if item == nil {
			return nil
		}
		p.items = append(p.items, item)
	}
	if p.indent > indent {
		return nil
	}
	p.leave()
	return p.closeList(n, first)
}

func (p *plainReader) closeList(n *node, first int) *node {
	n.items = p.ownItems.take(len(p.items) - first)
	copy(n.items, p.items[first:])
	p.items = p.items[:first]
	return n
}

// value reads what follows a key, up to the next line's beginning.
func (p *plainReader) value(indent int) *node {
	p.spaces()
	switch p.peek() {
	case '\n', '#', 0:
	default:
		return p.lineEnd(p.inline(indent, false), indent)
	}
	p.endLine()
	p.nextLine()
	switch {
	case p.indent > indent:
		return p.block(p.indent)
	case p.indent == indent && p.isDash():
		return p.blockList(indent)
	}
	return p.make(null)
}

// item reads what follows a dash.
func (p *plainReader) item(indent int) *node {
	p.spaces()
	switch p.peek() {
	case '\n', '#', 0:
		p.endLine()
		if p.nextLine(); p.indent <= indent {
			return nil
		}
		return p.block(p.indent)
	}
	before := p.at
	_, isMap := p.key(false)
	p.at = before
	if isMap {
		return p.blockMap(p.at - p.begin)
	}
	return p.lineEnd(p.inline(indent, false), indent)
}

// lineEnd goes to the next line after a value, unless that could go on there.
func (p *plainReader) lineEnd(value *node, indent int) *node {
	if value == nil || !p.endLine() {
		return nil
	}
	if p.nextLine(); p.indent > indent {
		return nil
	}
	return value
}

// key reads a key with its colon.
func (p *plainReader) key(flow bool) (key string, ok bool) {
	quoted := false
	switch c := p.peek(); {
	case c == '"' || c == '\'':
		quoted = true
		before := p.at
		if key, ok = p.quoted(); !ok || p.at-before > maxPlainKey {
			return "", false
		}
	case c == '_' || c == '/' || isAlphanumeric(c):
		before := p.at
		for c := p.peek(); c == '_' || c == '/' || c == '.' || c == '-' || isAlphanumeric(c); c = p.peek() {
			p.at++
		}
		if p.at-before > maxPlainKey {
			return "", false
		}
		key = p.text(p.data[before:p.at])
	default:
		return "", false
	}
	if p.peek() != ':' {
		return "", false
	}
	p.at++
	switch c := p.peek(); {
	case c == ' ' || c == '\n' || c == 0:
	case flow && quoted && c != '\t': // as in {"a":1}
	default:
		return "", false
	}
	return key, true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z'
}

// inline reads a value that begins on the line of its key or dash, which is in the column indent, or within a flow collection.
func (p *plainReader) inline(indent int, flow bool) *node {
	switch c := p.peek(); {
	case c == '[' || c == '{':
		return p.flow(indent)
	case c == '"' || c == '\'':
		return p.quotedText()
	case c == '|' && !flow:
		return p.literal(indent)
	}
	return p.plain(flow)
}

func (p *plainReader) quotedText() *node {
	n := p.make(scalar)
	n.quoted = true
	var ok bool
	if n.text, ok = p.quoted(); !ok {
		return nil
	}
	return n
}

// quoted reads a text between quotes, on one line.
func (p *plainReader) quoted() (text string, ok bool) {
	quote := p.peek()
	p.at++
	before := p.at
	for ; ; p.at++ {
		switch c := p.peek(); c {
		case quote:
			if quote == '\'' && p.ahead(1) == '\'' {
				return p.unquote(before)
			}
			p.at++
			return p.text(p.data[before : p.at-1]), true
		case '\\':
			if quote == '"' {
				return p.unquote(before)
			}
		case '\n', '\t', 0:
			return "", false
		}
	}
}

// unquote reads on in a text that began before, at the first thing that does not stand for itself.
func (p *plainReader) unquote(before int) (text string, ok bool) {
	var b strings.Builder
	quote := p.data[before-1]
	b.Write(p.data[before:p.at])
	for ; ; p.at++ {
		c := p.peek()
		switch {
		case c == '\n' || c == '\t' || c == 0:
			return "", false
		case c == quote:
			if p.at++; quote == '"' || p.peek() != quote {
				return b.String(), true
			}
		case c == '\\' && quote == '"':
			p.at++
			switch c = p.peek(); c {
			case '\\', '"', '/':
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			default:
				return "", false
			}
		}
		b.WriteByte(c)
	}
}

// plain reads a text without quotes, on one line.
func (p *plainReader) plain(flow bool) *node {
	switch c := p.peek(); {
	case isAlphanumeric(c) || c >= utf8.RuneSelf || c != 0 && strings.IndexByte("_/.~^$+(<=;\\", c) >= 0:
	case (c == '-' || c == ':' && !flow) && (isAlphanumeric(p.ahead(1)) || p.ahead(1) == '/'):
	default:
		return nil
	}
	if p.at == p.begin {
		return nil // it could end a document
	}
	n, before := p.make(scalar), p.at
scan:
	for ; ; p.at++ {
		switch c := p.peek(); c {
		case '\n', 0:
			break scan
		case '\t':
			return nil
		case ':':
			if after := p.ahead(1); !isAlphanumeric(after) && after != '/' && (flow || after == ' ' || after == '\n' || after == 0) {
				return nil
			}
		case '#':
			if p.data[p.at-1] == ' ' {
				break scan
			}
		case ',', '[', ']', '{', '}':
			if flow {
				break scan
			}
		}
	}
	written := bytes.TrimRight(p.data[before:p.at], " ")
	p.at = before + len(written)
	if n.text = p.text(written); isNullText(n.text) {
		n.kind, n.text = null, ""
	}
	return n
}

// flow reads a collection between brackets, in a block whose own column is indent.
func (p *plainReader) flow(indent int) *node {
	if !p.enter() {
		return nil
	}
	isMap, end := p.peek() == '{', byte(']')
	n, fields, items := p.make(sequence), len(p.fields), len(p.items)
	if isMap {
		n.kind, end = mapping, '}'
	}
	p.at++
	for {
		if !p.flowSpace(indent) {
			return nil
		}
		if p.peek() == end {
			p.at++
			break
		}
		line, column := int32(p.line), p.column()
		key := ""
		if isMap {
			var ok bool
			if key, ok = p.key(true); !ok || !p.flowSpace(indent) {
				return nil
			}
		}
		value := p.inline(indent, true)
		if value == nil || !p.flowSpace(indent) {
			return nil
		}
		if isMap {
			p.put(key, value, line, column)
		} else {
			p.items = append(p.items, value)
		}
		switch p.peek() {
		case ',':
			p.at++
		case end:
		default:
			return nil
		}
	}
	p.leave()
	if isMap {
		return p.closeMap(n, fields)
	}
	return p.closeList(n, items)
}

// flowSpace goes to what comes next in a flow collection, which stands deeper than the block around it.
func (p *plainReader) flowSpace(indent int) bool {
	for {
		before := p.at
		p.spaces()
		switch p.peek() {
		case '\n':
			p.newLine()
		case '#':
			if p.at == before && p.at > p.begin {
				return false
			}
			p.skipLine()
		case 0, '\t':
			return false
		default:
			return p.at-p.begin > indent
		}
	}
}

// literal reads a text whose lines stand below a bar, deeper than the block around it.
func (p *plainReader) literal(indent int) *node {
	n := p.make(scalar)
	n.quoted = true
	p.at++
	strip := p.peek() == '-'
	if strip {
		p.at++
	}
	if !p.endLine() || p.peek() != '\n' {
		return nil
	}
	p.newLine()
	before := p.at
	p.spaces()
	inner := p.at - before
	if c := p.peek(); inner <= indent || c == '\n' || c == '\t' || c == 0 {
		return nil
	}
	var b strings.Builder
	blank, ended := 0, false // lines
	for p.at = before; ; p.newLine() {
		for p.at-p.begin < inner && p.peek() == ' ' {
			p.at++
		}
		short := p.at-p.begin < inner
		switch c := p.peek(); {
		case (c == '\n' || c == 0) && p.at > p.begin, c == '\t' && short:
			return nil // blank, but not empty
		case c == '\n':
			blank++
			continue
		}
		if short {
			p.at = p.begin
			break
		}
		for range blank {
			b.WriteByte('\n')
		}
		begin := p.at
		p.skipLine()
		line := p.data[begin:p.at]
		if len(bytes.TrimLeft(line, " \t")) == 0 {
			return nil
		}
		b.Write(line)
		if ended, blank = p.peek() == '\n', 1; !ended {
			break
		}
	}
	if ended && !strip {
		b.WriteByte('\n')
	}
	// The line after it is looked at from its beginning.
	if p.at == p.begin && p.at > 0 {
		p.at--
		p.line--
		for p.begin = p.at; p.begin > 0 && p.data[p.begin-1] != '\n'; p.begin-- {
		}
	}
	n.text = b.String()
	return n
}

// text is a copy, since texts outlive the file, and one for all that are the same and short.
func (p *plainReader) text(written []byte) string {
	if len(written) > 32 {
		return string(written)
	}
	if known, ok := p.texts[string(written)]; ok {
		return known
	}
	made := string(written)
	if len(p.texts) < maxTexts {
		p.texts[made] = made
	}
	return made
}

// slab hands out pieces of memory that is allocated for many at once.
type slab[T any] struct {
	free []T
	size int
}

const maxSlab = 256

func (s *slab[T]) take(n int) []T {
	if n > maxSlab/4 {
		return make([]T, n)
	}
	if n > len(s.free) {
		s.size = min(max(2*s.size, 16), maxSlab)
		s.free = make([]T, max(s.size, n))
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}
