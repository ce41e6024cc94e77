package config

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
)

// Setting is one value that is in force.
type Setting struct {
	// Path below the block, as from.header or [0].requests; empty for a block that is a single value.
	Path string `json:"setting"`
	// Value as encoding/json can write it; a secret reads ***.
	Value any `json:"value"`
	// Source is file:line, the name of an environment variable, a flag, or "default".
	Source string `json:"source"`

	hidden string // as in leaf
}

// Same reports whether two settings have the same value, wherever it comes from, also where it is not shown.
func (s Setting) Same(other Setting) bool {
	return s.hidden == other.hidden && reflect.DeepEqual(s.Value, other.Value)
}

// Settings lists what is in force in the block, sorted by path. settings is the type that its owner decodes it, or each
// element of its list, into: then defaults are in the list and that type says what is secret. With nil, or where
// decoding fails, the list is what was written, and whatever stands under a key that sounds like a secret is hidden.
func (b *Block) Settings(settings reflect.Type) []Setting {
	var all []Setting
	for i, item := range b.Items() {
		path := ""
		if b.node.kind == sequence {
			path = joinIndex("", i)
		}
		all = flattenView(all, path, item.view(settings))
	}
	slices.SortFunc(all, func(x, y Setting) int { return cmp.Compare(x.Path, y.Path) })
	return all
}

func (b *Block) view(settings reflect.Type) any {
	if settings != nil && !b.Off() {
		v, n, d := reflect.New(settings).Elem(), b.node.clone(), decoder{templates: true}
		if d.decode(n, v, b.path); len(d.errs) == 0 {
			return viewValue(v, n, defaultSource.file, nil)
		}
	}
	return viewNode(b.node, false)
}

// flattenView appends the leaves of what viewValue returned.
func flattenView(all []Setting, path string, shown any) []Setting {
	switch shown := shown.(type) {
	case leaf:
		return append(all, Setting{path, shown.Value, shown.Source, shown.hidden})
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(shown)) {
			all = flattenView(all, joinKey(path, key), shown[key])
		}
	case []any:
		if one, ok := plainList(shown); ok {
			one.Path = path
			return append(all, one)
		}
		for i, item := range shown {
			all = flattenView(all, joinIndex(path, i), item)
		}
	}
	return all
}

// plainList takes a list of single values from one source as one value.
func plainList(list []any) (all Setting, ok bool) {
	var values []any
	for _, item := range list {
		one, isLeaf := item.(leaf)
		if !isLeaf {
			return Setting{}, false
		}
		if values == nil {
			all.Source = one.Source
		}
		values = append(values, one.Value)
		all.hidden += one.hidden
	}
	all.Value = values
	return all, len(list) > 0
}

// SoundsSecret tells whether the value under a key, or in a header of that name, is to be hidden where nothing better is
// known than the name: Authorization, X-Api-Key, client_secret.
func SoundsSecret(key string) bool { return soundsSecret(key) }
