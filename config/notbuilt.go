package config

import (
	"fmt"
	"slices"
	"strings"
)

// notYet is every setting of the model that the gateway does not act on yet. It is refused,
// never ignored. A path has `*` for any name; without values every value is refused that is
// neither empty nor off.
var notYet = []struct {
	path   string
	values []string
	what   string
}{
	{path: "state.redis", what: "shared state in Redis"},
}

// notBuilt reports what the tree sets and the gateway does not do yet.
func notBuilt(root *node) (errs Errors) {
	for _, entry := range notYet {
		var walk func(n *node, path string, steps []string)
		walk = func(n *node, path string, steps []string) {
			if len(steps) == 0 {
				if n.asks(entry.values) {
					errs = append(errs, &Error{Pos: n.blame(), Path: path, Message: fmt.Sprintf("%s is not built yet; leave it out", entry.what)})
				}
				return
			}
			for _, f := range n.fields {
				if steps[0] == "*" || steps[0] == f.key {
					walk(f.value, joinKey(path, f.key), steps[1:])
				}
			}
		}
		walk(root, "", strings.Split(entry.path, "."))
	}
	return errs
}

// asks tells whether n sets one of the values, or without values anything at all.
func (n *node) asks(values []string) bool {
	switch n.kind {
	case null:
		return false
	case mapping:
		return len(n.fields) > 0
	case sequence:
		return len(n.items) > 0
	}
	if len(values) > 0 {
		return slices.Contains(values, n.text)
	}
	return n.text != "" && !n.isOff()
}
