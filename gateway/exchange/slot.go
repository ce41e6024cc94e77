package exchange

// Slot is the place of a policy's own state of type T in every Exchange. Slots
// are made while packages initialise; state is made on first use, kept with
// the pooled Exchange, and zeroed when the exchange ends, by its Reset method
// where it has one.
type Slot[T any] struct{ index int }

var slotResets []func(any)

// maxSlots is the number of bits of Exchange.inUse.
const maxSlots = 64

// NewSlot reserves a slot. It is for package-level variables alone.
func NewSlot[T any]() Slot[T] {
	if len(slotResets) == maxSlots {
		panic("BUG: more slots than bits of Exchange.inUse")
	}
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
	if x.inUse&(1<<s.index) != 0 {
		return x.slots[s.index].(*T)
	}
	return s.take(x)
}

func (s Slot[T]) take(x *Exchange) *T {
	if len(x.slots) == 0 {
		x.slots = make([]any, len(slotResets))
	}
	v, ok := x.slots[s.index].(*T)
	if !ok {
		v = new(T)
		x.slots[s.index] = v
	}
	x.inUse |= 1 << s.index
	return v
}

// Has reports whether the state of x was used in this exchange.
func (s Slot[T]) Has(x *Exchange) bool { return x.inUse&(1<<s.index) != 0 }
