package exchange

// Slot is the place of a policy's own state of type T in every Exchange. Slots
// are made while packages initialise; state is made on first use, kept with
// the pooled Exchange, and zeroed when the exchange ends, by its Reset method
// where it has one.
type Slot[T any] struct{ index int }

var slotResets []func(any)

// NewSlot reserves a slot. It is for package-level variables alone.
func NewSlot[T any]() Slot[T] {
	slotResets = append(slotResets, func(v any) {
		p := v.(*T)
		if r, ok := any(p).(interface{ Reset() }); ok {
			r.Reset()
			return
		}
		var zero T
		*p = zero
	})
	return Slot[T]{index: len(slotResets) - 1}
}

// Of returns the state of x, zero on first use.
func (s Slot[T]) Of(x *Exchange) *T {
	if len(x.slots) == 0 {
		x.slots = make([]any, len(slotResets))
		x.used = make([]int, 0, len(slotResets))
	}
	v := x.slots[s.index]
	if v == nil {
		v = new(T)
		x.slots[s.index] = v
		x.used = append(x.used, s.index)
		return v.(*T)
	}
	for _, i := range x.used {
		if i == s.index {
			return v.(*T)
		}
	}
	x.used = append(x.used, s.index)
	return v.(*T)
}

// Has reports whether the state of x was used in this exchange.
func (s Slot[T]) Has(x *Exchange) bool {
	for _, i := range x.used {
		if i == s.index {
			return true
		}
	}
	return false
}
