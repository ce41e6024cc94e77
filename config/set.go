package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Options are what the command line and the environment add to the files.
type Options struct {
	// Set are the values of --set, as PATH=VALUE with a path as in error messages:
	// limits.idle_timeout=30s, routes["a.b"].match.paths[0]=/x, policies.rate_limit.requests=5.
	// The setting need not stand in a file. A list of texts takes commas.
	Set []string
	// Environ is the environment, as os.Environ gives it: for ${NAME}, and for
	// SLUICE_SET__LIMITS__IDLE_TIMEOUT=30s, where two underscores part the steps of the
	// path, upper and lower case are the same, and an underscore also stands for the dash or
	// dot of an existing name. Set beats Environ.
	Environ []string
	// Listen is the address of the first listener, over every other source.
	Listen string
	// AdminAddress is the address of the admin listener, over every other source.
	AdminAddress string
	// StateDir is state.dir, over every other source.
	StateDir string
	// Manifests translates objects of Kubernetes, which are known by apiVersion and kind. Without it they are refused.
	Manifests ManifestTranslator
	// Objects translate what sources tell, by the name of the source.
	Objects map[string]ManifestTranslator
	// Kong translates files of Kong, which are known by _format_version. Without it they are refused.
	Kong Translator
	// Policies checks the settings of policies, whose types are not known here. It is asked where there
	// are mistakes already, so that all are told at once; what compiles a configuration asks for itself.
	Policies func(*Config) Errors
}

const setPrefix = "SLUICE_SET__"

// overrides puts what Options say into the tree, the environment first.
func overrides(root *node, o Options) (errs Errors) {
	apply := func(src *source, segments []segment, value string, loose bool) {
		s := setter{src: src, loose: loose, value: value}
		if err := s.set(root, reflect.TypeFor[Config](), segments); err != nil {
			errs = append(errs, &Error{Pos: Position{File: src.file}, Message: err.Error()})
		}
	}
	for _, variable := range o.Environ {
		name, value, _ := strings.Cut(variable, "=")
		path, ok := strings.CutPrefix(name, setPrefix)
		if !ok {
			continue
		}
		var segments []segment
		for step := range strings.SplitSeq(path, "__") {
			segments = append(segments, segment{key: strings.ToLower(step)})
		}
		apply(&source{file: name, kind: "env"}, segments, value, true)
	}
	for _, flag := range o.Set {
		path, value, ok := cutSet(flag)
		src := &source{file: "--set " + path, kind: "flag"}
		segments, good := parsePath(path)
		if !ok || !good {
			src.file = "--set"
			errs = append(errs, &Error{Pos: Position{File: src.file}, Message: fmt.Sprintf("%q is not PATH=VALUE; write it as limits.idle_timeout=30s or routes[\"a.b\"].match.paths[0]=/x", path)})
			continue
		}
		apply(src, segments, value, false)
	}
	if o.Listen != "" {
		name := "main"
		if l := root.child("listeners"); l != nil && len(l.fields) > 0 {
			name = l.fields[0].key
		}
		apply(&source{file: "--listen", kind: "flag"}, []segment{{key: "listeners"}, {key: name}, {key: "address"}}, o.Listen, false)
	}
	if o.AdminAddress != "" {
		apply(&source{file: "--admin-address", kind: "flag"}, []segment{{key: "admin"}, {key: "address"}}, o.AdminAddress, false)
	}
	if o.StateDir != "" {
		apply(&source{file: "--state", kind: "flag"}, []segment{{key: "state"}, {key: "dir"}}, o.StateDir, false)
	}
	return errs
}

// cutSet splits at the first = outside of ["…"].
func cutSet(s string) (path, value string, ok bool) {
	quoted := false
	for i := range len(s) {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '=':
			if !quoted {
				return s[:i], s[i+1:], true
			}
		}
	}
	return s, "", false
}

// setter puts one value at a path, making what is missing on the way.
type setter struct {
	src   *source
	loose bool // names are matched without case, as the environment needs it
	value string
}

// set walks tree and model together: t is the type that n will be decoded into, or nil
// below an undecoded block.
func (s *setter) set(n *node, t reflect.Type, path []segment) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[Block]() {
		t = nil
	}
	if len(path) == 0 {
		if n.kind == mapping && len(n.fields) > 0 || n.kind == sequence && len(n.items) > 0 {
			if n.kind == sequence && (t == nil || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String) || s.value == "off" || s.value == "false" {
				n.items = nil
			} else {
				return fmt.Errorf("this is a block of settings, not a value; name one of its settings")
			}
		}
		*n = node{kind: scalar, text: s.value, src: s.src, keyLine: 0}
		return nil
	}
	if n.kind == scalar {
		off, on := n.toggle()
		short := ""
		if t != nil {
			short = shorthand(t)
		}
		switch {
		case short != "" && !off && !on:
			given := *n
			given.keyLine = 0
			*n = node{kind: mapping, src: n.src, line: n.line, column: n.column, keyLine: n.keyLine, keyColumn: n.keyColumn, fields: []field{{short, &given}}}
		case off || on:
			*n = node{kind: null, src: s.src}
		default:
			return fmt.Errorf("%s is below a value that has no settings", path[0])
		}
	}
	step := path[0]
	index, isIndex := step.index, step.list
	if !isIndex {
		if i, err := strconv.Atoi(step.key); err == nil && i >= 0 {
			listType := t != nil && t.Kind() == reflect.Slice
			if n.kind == sequence || n.kind == null && (listType || t == nil) {
				index, isIndex = i, true
			}
		}
	}
	if isIndex {
		if n.kind == null {
			*n = node{kind: sequence, src: s.src}
		}
		if n.kind != sequence {
			return fmt.Errorf("[%d] is the element of a list, and this is none", index)
		}
		if index > len(n.items) {
			return fmt.Errorf("[%d] is beyond the list, which has %d elements; the next one is [%d]", index, len(n.items), len(n.items))
		}
		if index == len(n.items) {
			n.items = append(n.items, &node{src: s.src})
		}
		return s.set(n.items[index], elem(t), path[1:])
	}
	if n.kind == sequence {
		return fmt.Errorf("%q is not an element of the list; write its number, as [0]", step.key)
	}
	if n.kind == null {
		*n = node{kind: mapping, src: s.src}
	}
	key, err := s.key(n, t, step.key)
	if err != nil {
		return err
	}
	child := n.child(key)
	if child == nil {
		child = &node{src: s.src}
		n.put(key, child)
	}
	return s.set(child, fieldType(t, key), path[1:])
}

// key finds the name that an existing key or a field of the model has.
func (s *setter) key(n *node, t reflect.Type, key string) (string, error) {
	if !s.loose {
		return key, nil
	}
	var known []string
	for _, f := range n.fields {
		known = append(known, f.key)
	}
	if t != nil && t.Kind() == reflect.Struct {
		for _, f := range planOf(t).fields {
			if !slices.Contains(known, f.name) {
				known = append(known, f.name)
			}
		}
	}
	if slices.Contains(known, key) {
		return key, nil
	}
	found := ""
	for _, k := range known {
		if loosely(k) != loosely(key) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("%s can be %q or %q; use --set, which is exact", strings.ToUpper(key), found, k)
		}
		found = k
	}
	if found == "" {
		found = key
	}
	return found, nil
}

func loosely(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || r == ' ' {
			return '_'
		}
		return r
	}, strings.ToLower(s))
}

// fieldType is the type below a key of t; nil where it is not known.
func fieldType(t reflect.Type, key string) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Map:
		return t.Elem()
	case reflect.Struct:
		if f := planOf(t).field(key); f != nil {
			return f.typ
		}
	}
	return nil
}

func elem(t reflect.Type) reflect.Type {
	if t == nil || t.Kind() != reflect.Slice {
		return nil
	}
	return t.Elem()
}
