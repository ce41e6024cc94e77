package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Load reads a file, or the union of the *.yaml files of a directory, and returns the
// configuration or every mistake in it, as Errors.
func Load(path string, o Options) (*Config, error) {
	in, unread := ReadInput(path)
	if len(in.Files) == 0 && len(unread) > 0 {
		return nil, unread.Err()
	}
	c, err := in.Load(o)
	if len(unread) > 0 {
		return nil, append(unread, flatten(err)...).Err()
	}
	return c, err
}

// Parse reads one file that is in memory. Its name stands in errors, and its folder is
// where ${file:PATH} starts.
func Parse(name string, data []byte, o Options) (*Config, error) {
	l := newLoader(o)
	l.add(name, filepath.Dir(name), data)
	return l.finish()
}

func unread(path string, err error) Errors {
	return Errors{{Pos: Position{File: path}, Message: fmt.Sprintf("the file can not be read: %v", shorten(err))}}
}

func yamlFiles(dir string) (names []string, errs Errors) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, unread(dir, err)
	}
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		if filepath.Ext(name) == ".yaml" && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, name)
		}
	}
	return names, nil
}

// loader merges files into one tree.
type loader struct {
	options Options
	files   map[string]bool
	root    *node
	env     map[string]string
	errs    Errors
	remarks Errors
	objects []*node           // what objects of Kubernetes mean
	owned   map[string]string // by path, the blocks of teams and whose they are
	told    map[string]Object // what sources tell
	outer   map[string]outer  // by path, the blocks that come from sources
}

func newLoader(o Options) *loader {
	l := &loader{options: o, files: map[string]bool{}, env: map[string]string{}}
	for _, variable := range o.Environ {
		if name, value, ok := strings.Cut(variable, "="); ok {
			l.env[name] = value
		}
	}
	return l
}

// add reads a file into the tree.
func (l *loader) add(name, dir string, data []byte) {
	if isManifest(data) {
		l.manifests(name, data)
		return
	}
	root, errs := parseTree(name, data)
	if len(errs) > 0 {
		l.errs = append(l.errs, errs...)
		return
	}
	fail := func(at *node, path, format string, a ...any) {
		l.errs = append(l.errs, &Error{Pos: at.keyPos(), Path: path, Message: fmt.Sprintf(format, a...)})
	}
	switch {
	case root.kind == null:
		root.kind = mapping
	case root.kind != mapping:
		fail(root, "", "found %s, want a block with listeners, services and routes", root.found())
		return
	}
	e := expander{env: l.env, files: l.files}
	e.tree(root, dir)
	l.errs = append(l.errs, e.errs...)
	if kong := root.child("_format_version"); kong != nil {
		if l.options.Kong == nil {
			fail(kong, "_format_version", "this is a file of Kong, which is not understood here")
			return
		}
		native, remarks, errs := l.options.Kong(Tree{root}, func(name string) (string, bool) { value, ok := l.env[name]; return value, ok })
		l.remarks = append(l.remarks, remarks...)
		if len(errs) > 0 {
			l.errs = l.errs.following(errs)
			return
		}
		root = native.n
	}
	l.merge(root)
}

// merge puts what a file says beside what others have said.
func (l *loader) merge(root *node) {
	fail := func(at *node, path, format string, a ...any) {
		l.errs = append(l.errs, &Error{Pos: at.keyPos(), Path: path, Message: fmt.Sprintf(format, a...)})
	}
	if l.root == nil {
		l.root = root
		return
	}
	for _, f := range root.fields {
		first := l.root.child(f.key)
		switch {
		case first == nil || first.kind == null:
			l.root.put(f.key, f.value)
		case f.value.kind == null:
		case first.kind == mapping && f.value.kind == mapping:
			for _, inner := range f.value.fields {
				if other := first.child(inner.key); other != nil {
					fail(inner.value, joinKey(f.key, inner.key), "this stands also in %s; keep one of them", other.keyPos())
					continue
				}
				first.put(inner.key, inner.value)
			}
		case f.key == "version" && first.text == f.value.text:
		default:
			fail(f.value, f.key, "this stands also in %s; keep one of them", first.keyPos())
		}
	}
}

// finish puts flags and environment over the tree, decodes and checks it.
func (l *loader) finish() (*Config, error) {
	l.takeObjects()
	if l.root == nil {
		return nil, l.errs.Err()
	}
	l.errs = append(l.errs, overrides(l.root, l.options)...)
	l.outside(l.told)
	if listeners := l.root.child("listeners"); listeners == nil || listeners.kind == null {
		l.root.put("listeners", defaultListeners())
	}

	c, d := &Config{}, decoder{}
	d.decode(l.root, reflect.ValueOf(c).Elem(), "")
	c.tree, c.files, c.remarks = l.root, slices.Sorted(maps.Keys(l.files)), l.remarks
	for _, f := range l.root.child("listeners").fields {
		c.order = append(c.order, f.key)
	}
	c.own(l.owned)
	c.belong(l.outer)
	l.errs = l.errs.following(d.errs)
	l.errs = l.errs.following(c.check())
	if len(l.errs) > 0 {
		if l.options.Policies != nil {
			l.errs = l.errs.following(l.options.Policies(c))
		}
		return nil, l.errs.Err()
	}
	return c, nil
}

func defaultListeners() *node {
	leaf := func(kind kind, text, key string, value *node) *node {
		n := &node{kind: kind, text: text, src: defaultSource}
		if value != nil {
			n.fields = []field{{key, value}}
		}
		return n
	}
	return leaf(mapping, "", "main", leaf(mapping, "", "address", leaf(scalar, ":8080", "", nil)))
}

// Errorf returns an error about a setting, placed by as much of the path as the files know.
func (c *Config) Errorf(path, format string, a ...any) *Error {
	return &Error{Pos: c.tree.locate(path).blame(), Path: path, Message: fmt.Sprintf(format, a...)}
}
