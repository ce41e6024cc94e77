package config

import (
	"bytes"
	"fmt"
	"reflect"
)

// Block is a part of the configuration that its owner decodes later: the settings of a
// policy or of an action. It keeps the positions, so that errors found then are as exact as
// those found now. A Block is read-only.
type Block struct {
	node *node
	path string
}

// ParseBlock makes a Block from YAML text, as Load would have found it at path. Positions
// are those in the text, of a file called "block".
func ParseBlock(path, text string) (*Block, error) {
	root, errs := parseTree("block", []byte(text))
	if len(errs) > 0 {
		return nil, errs.Err()
	}
	e := expander{env: map[string]string{}, files: map[string]bool{}, path: trail{base: path}}
	e.tree(root, ".")
	if len(e.errs) > 0 {
		return nil, e.errs.Err()
	}
	return &Block{node: root, path: path}, nil
}

// Path is where the block stands, as routes.users.policies.rate_limit.
func (b *Block) Path() string { return b.path }

// Pos is where the block begins.
func (b *Block) Pos() Position { return b.node.keyPos() }

// Off tells whether the block is turned off: written as off or false.
func (b *Block) Off() bool { return b.node.isOff() }

// Items returns the elements of a list, each a block of its own; anything else is its own
// single item.
func (b *Block) Items() []*Block {
	if b.node.kind != sequence {
		return []*Block{b}
	}
	items := make([]*Block, len(b.node.items))
	for i, item := range b.node.items {
		items[i] = &Block{node: item, path: joinIndex(b.path, i)}
	}
	return items
}

// Decode fills dst, a pointer to a struct whose tags are those of this package, or to any
// other type that a setting can have. It is strict: every unknown key and every wrong value
// is an error with its position. Settings left out get their defaults; a block that is
// written empty, `on` or `true` is one of defaults only. Decoding a block that is off into
// a type without the flag Off is an error. When dst, or a struct in it, has a method
// `Validate() error`, it is called after its fields are good, and its errors are placed
// here (see Errorf).
func (b *Block) Decode(dst any) Errors {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("BUG: Decode into %T, which is no pointer", dst))
	}
	// Decoding may rewrite the tree, and blocks are shared.
	d := decoder{templates: true}
	d.decode(b.node.clone(), v.Elem(), b.path)
	d.errs.sort()
	return d.errs
}

// Errorf returns an error about a setting of the block, at its line. The path is relative
// to the block, as rules[0].per; an empty one is the block itself.
func (b *Block) Errorf(path, format string, a ...any) *Error {
	return &Error{Pos: b.node.locate(path).blame(), Path: joinPath(b.path, path), Message: fmt.Sprintf(format, a...)}
}

// Canonical returns the block as JSON with sorted keys and no spaces, expanded. Equal
// results mean equal settings; it holds secrets in the clear.
func (b *Block) Canonical() []byte { return b.node.canonical() }

// Equal tells whether two blocks hold the same settings. Two nil blocks are equal.
func (b *Block) Equal(other *Block) bool {
	if b == nil || other == nil {
		return b == other
	}
	return sameNode(b.node, other.node) || bytes.Equal(b.Canonical(), other.Canonical())
}
