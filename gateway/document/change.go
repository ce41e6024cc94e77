package document

// Each calls f for every value that the path leads to. f may change the value with the methods of Value and says whether it did; a change
// of what stands beside the value is not allowed. It returns how many values were changed.
func (v *Value) Each(p Path, f func(*Value) (changed bool)) int { return v.each(p.steps, f) }

func (v *Value) each(steps []step, f func(*Value) bool) (changed int) {
	if len(steps) == 0 {
		if f(v) {
			return 1
		}
		return 0
	}
	n := v.children()
	if n == nil {
		return 0
	}
	if steps[0].all {
		for i := range n.elements {
			changed += n.elements[i].each(steps[1:], f)
		}
	} else if n.object && steps[0].named() {
		// The last one first, as it is the one that counts.
		for i := len(n.elements) - 1; i >= 0; i-- {
			if nameIs(n.elements[i].name, steps[0].name) {
				changed += n.elements[i].each(steps[1:], f)
			}
		}
	} else if i := n.at(&steps[0]); i >= 0 {
		changed = n.elements[i].each(steps[1:], f)
	}
	if changed > 0 {
		v.text = nil
	}
	return changed
}

// Get returns the first value that the path leads to, nil if there is none. It is for reading.
func (v *Value) Get(p Path) (found *Value) {
	v.each(p.steps, func(at *Value) bool {
		if found == nil {
			found = at
		}
		return false
	})
	return found
}

// Become makes the value another one, whose text is well-formed and borrowed.
func (v *Value) Become(text []byte) { *v = Value{text: trim(text), replaced: true} }

// Set puts a value in the place that the path leads to, whatever is there; members on the way that are missing are made. Nothing
// changes where another value than an object is in the way, or an element does not exist. It returns the number of places.
func (v *Value) Set(p Path, text []byte) int {
	return v.place(p.steps, text, func(bool) bool { return true })
}

// Add is Set where there is nothing yet.
func (v *Value) Add(p Path, text []byte) int {
	return v.place(p.steps, text, func(there bool) bool { return !there })
}

// Replace is Set where there is something already.
func (v *Value) Replace(p Path, text []byte) int {
	return v.Each(p, func(at *Value) bool {
		at.Become(text)
		return true
	})
}

// Push adds an element at the end of the array that the path leads to. It makes the array where there is nothing.
func (v *Value) Push(p Path, text []byte) int {
	n := v.Each(p, func(at *Value) bool {
		n := at.children()
		if n == nil || n.object {
			return false
		}
		n.elements = append(n.elements, element{Value: Value{text: trim(text)}})
		at.text = nil
		return true
	})
	return n + v.Add(p, append(append([]byte{'['}, text...), ']'))
}

// place sets where want says so, which is told whether there is something already.
func (v *Value) place(steps []step, text []byte, want func(there bool) bool) (changed int) {
	if len(steps) == 0 {
		if !want(true) {
			return 0
		}
		v.Become(text)
		return 1
	}
	n := v.children()
	if n == nil {
		return 0
	}
	s := &steps[0]
	switch i := n.at(s); {
	case s.all:
		for i := range n.elements {
			changed += n.elements[i].place(steps[1:], text, want)
		}
	case i >= 0:
		if len(steps) == 1 && want(true) && n.object {
			i -= n.dropName(s.name, i)
		}
		changed = n.elements[i].place(steps[1:], text, want)
	case s.named() && n.object && canMake(steps[1:]) && want(false):
		n.elements = append(n.elements, element{name: Quote(s.name), Value: made(steps[1:], text)})
		changed = 1
	}
	if changed > 0 {
		v.text = nil
	}
	return changed
}

// canMake tells whether all that is missing are members.
func canMake(steps []step) bool {
	for i := range steps {
		if !steps[i].named() {
			return false
		}
	}
	return true
}

// made is the value with objects around it.
func made(steps []step, text []byte) Value {
	v := Value{text: trim(text)}
	for i := len(steps) - 1; i >= 0; i-- {
		v = Value{node: &node{object: true, elements: []element{{name: Quote(steps[i].name), Value: v}}}}
	}
	return v
}

// Remove takes away what the path leads to. With prune, objects on the way that it leaves empty go too.
func (v *Value) Remove(p Path, prune bool) int {
	if len(p.steps) == 0 {
		return 0
	}
	return v.remove(p.steps, prune)
}

func (v *Value) remove(steps []step, prune bool) (changed int) {
	n := v.children()
	if n == nil {
		return 0
	}
	s := &steps[0]
	switch i := n.at(s); {
	case s.all && len(steps) == 1:
		changed = len(n.elements)
		n.elements = n.elements[:0]
	case s.all:
		for i := range n.elements {
			changed += n.elements[i].remove(steps[1:], prune)
		}
	case i < 0:
	case len(steps) == 1:
		n.drop(i)
		changed = 1
	case n.object && n.isTwice(s.name):
		// Another reader may take another one of them.
		for i := len(n.elements) - 1; i >= 0; i-- {
			if nameIs(n.elements[i].name, s.name) {
				changed += n.elements[i].remove(steps[1:], false)
			}
		}
	default:
		child := &n.elements[i]
		if changed = child.remove(steps[1:], prune); changed > 0 && prune && n.object && child.node.object && len(child.node.elements) == 0 {
			n.drop(i)
		}
	}
	if changed > 0 {
		v.text = nil
	}
	return changed
}

// Rename gives the member that the path leads to another name, in its place. It takes the place of a member that has that name.
func (v *Value) Rename(p Path, name string) int {
	if len(p.steps) == 0 {
		return 0
	}
	last := &p.steps[len(p.steps)-1]
	if !last.named() || last.name == name {
		return 0
	}
	return v.each(p.steps[:len(p.steps)-1], func(parent *Value) bool {
		n := parent.children()
		i := n.at(last)
		if i < 0 {
			return false
		}
		i -= n.dropName(last.name, i)
		n.elements[i].name = Quote(name)
		n.dropName(name, i)
		parent.text = nil
		return true
	})
}

// Move takes what is at one place to another, in every value that their Scope leads to. What it makes and what it leaves is as with Set
// and Remove with prune, so that moving back undoes it. Where the new place is in the old one, or the other way round, the
// value stays where it stands among its siblings.
func (v *Value) Move(from, to Path) int {
	scope, rests, err := Scope(from, to)
	if err != nil {
		return 0
	}
	source, target := rests[0], rests[1]
	if source.Equal(target) {
		return 0
	}
	return v.Each(scope, func(at *Value) bool {
		moved := at.Get(source)
		if moved == nil {
			return false
		}
		text := moved.Text()
		switch {
		case target.Under(source):
			inner := target.steps[len(source.steps):]
			if !canMake(inner) {
				return false
			}
			return at.each(source.steps, func(old *Value) bool {
				*old = made(inner, text)
				return true
			}) > 0
		case source.Under(target):
			return at.Set(target, text) > 0
		case at.Set(target, text) == 0:
			return false
		}
		// Last, so that an object that both places are in stays.
		at.Remove(source, true)
		return true
	})
}
