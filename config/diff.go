package config

import (
	"encoding/json"
	"maps"
	"slices"
)

// Change is a setting that one configuration has and another has not, or has with another value. Defaults count: a setting that is
// written out with its default has not changed. Secrets read *** on both sides.
type Change struct {
	// Path of the setting, as services.users.timeouts.connect.
	Path string `json:"path"`
	// Old and New are its values as JSON; nil where it is not there.
	Old json.RawMessage `json:"old,omitempty"`
	New json.RawMessage `json:"new,omitempty"`
}

// Diff lists the changes from one configuration to another, by path. A block that comes or goes is one change.
func Diff(from, to *Config) []Change {
	return DiffValues("", from.View(), to.View())
}

// DiffValues lists the changes from one part of a View to another one of the same place.
func DiffValues(path string, from, to any) []Change {
	a, aBlock := from.(map[string]any)
	b, bBlock := to.(map[string]any)
	if aBlock && bBlock {
		var changes []Change
		names := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			changes = append(changes, DiffValues(joinKey(path, name), a[name], b[name])...)
		}
		return changes
	}
	if sameValue(from, to) {
		return nil
	}
	return []Change{{path, bare(from), bare(to)}}
}

// sameValue compares without regard to where values come from.
func sameValue(a, b any) bool {
	switch a := a.(type) {
	case leaf:
		b, ok := b.(leaf)
		return ok && a.Value == b.Value && a.hidden == b.hidden
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameValue)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, sameValue)
	}
	return a == nil && b == nil
}

// bare is a value without where it comes from.
func bare(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	text, err := json.Marshal(values(v))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return text
}

func values(v any) any {
	switch v := v.(type) {
	case leaf:
		return v.Value
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = values(v[i])
		}
		return list
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, value := range v {
			m[name] = values(value)
		}
		return m
	}
	return v
}
