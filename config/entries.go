package config

import (
	"reflect"
	"slices"
)

// Entries are the blocks of a section whose names are free: routes, services or consumers.
type Entries struct {
	blocks  reflect.Value // a map by name
	written map[string]*node
}

// Entries returns those of a section, which is one of EntrySections.
func (c *Config) Entries(section string) Entries {
	blocks := reflect.ValueOf(c).Elem().FieldByIndex(planOf(reflect.TypeFor[Config]()).field(section).index)
	return Entries{blocks, c.tree.child(section).children()}
}

// EntrySections are the sections that have entries.
func EntrySections() []string { return []string{"routes", "services", "consumers"} }

// ViewRest is View without the entries and without the policies for all.
func (c *Config) ViewRest() map[string]any {
	rest := *c
	rest.Routes, rest.Services, rest.Consumers, rest.Policies = nil, nil, nil, nil
	shown, _ := rest.View().(map[string]any)
	for _, section := range append(EntrySections(), "policies") {
		delete(shown, section)
	}
	return shown
}

// Names of the entries, in no order.
func (e Entries) Names() []string {
	names := make([]string, 0, e.blocks.Len())
	for _, name := range e.blocks.MapKeys() {
		names = append(names, name.String())
	}
	return names
}

// View is what View of the configuration has of an entry; nil where there is none.
func (e Entries) View(name string) any {
	block := e.block(name)
	if !block.IsValid() {
		return nil
	}
	return viewValue(block, e.written[name], defaultSource.file, nil)
}

// Has tells whether there is an entry of that name.
func (e Entries) Has(name string) bool {
	if e.written[name] != nil {
		return true // most of them, and the cheaper look
	}
	block := e.block(name)
	return block.IsValid() && (block.Kind() != reflect.Pointer || !block.IsNil())
}

// Same tells of most entries that did not change, without the cost of viewing them, that their views are the same but for the places.
// One that is not the same may still mean the same, as with a default that is written out.
func (e Entries) Same(other Entries, name string) bool {
	return sameNode(e.written[name], other.written[name]) && sameTyped(e.block(name), other.block(name))
}

func (e Entries) block(name string) reflect.Value {
	return e.blocks.MapIndex(reflect.ValueOf(name))
}

// sameNode compares what is written, in its order, without regard to where. A nil one is the same as another alone.
func sameNode(a, b *node) bool {
	if a == b || a == nil || b == nil {
		return a == b
	}
	return a.kind == b.kind && a.quoted == b.quoted && a.text == b.text &&
		slices.EqualFunc(a.fields, b.fields, func(a, b field) bool { return a.key == b.key && sameNode(a.value, b.value) }) &&
		slices.EqualFunc(a.items, b.items, sameNode)
}

// sameTyped compares what a view shows of two values of one type that were decoded from the same nodes.
func sameTyped(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	t := a.Type()
	switch t.Kind() {
	case reflect.Interface:
		return true // shown as it is written
	case reflect.Pointer:
		switch {
		case a.IsNil() || b.IsNil():
			return a.IsNil() == b.IsNil()
		case t.Elem() == blockType:
			return sameNode(a.Interface().(*Block).node, b.Interface().(*Block).node)
		}
		return a.Pointer() == b.Pointer() || sameTyped(a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !sameTyped(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		if a.Len() == 0 {
			return true
		}
		for entries := a.MapRange(); entries.Next(); {
			other := b.MapIndex(entries.Key())
			if !other.IsValid() || !sameTyped(entries.Value(), other) {
				return false
			}
		}
		return true
	case reflect.Struct:
		if isScalar(t) {
			break
		}
		p := planOf(t)
		if p.off >= 0 && a.Field(p.off).Bool() != b.Field(p.off).Bool() {
			return false
		}
		for i := range p.fields {
			if !sameTyped(a.FieldByIndex(p.fields[i].index), b.FieldByIndex(p.fields[i].index)) {
				return false
			}
		}
		return true
	}
	return a.Comparable() && a.Equal(b)
}
