package exchange

import (
	"math/bits"
	"unsafe"
)

// Slot is the place of a policy's own state of type T in every Exchange. Slots
// are made while packages initialise; state is made on first use, kept with
// the pooled Exchange, and zeroed when the exchange ends, by its Reset method
// where it has one.
type Slot[T any] struct {
	index int
	bit   uint64 // of Exchange.inUse
}

// slot is the state that an Exchange keeps for a Slot.
type slot struct {
	state unsafe.Pointer // *T of the Slot with this index, and of no other; nil: none yet
	reset interface{ Reset() }
}

// zeroed is a state without a Reset method of its own.
type zeroed[T any] struct{ state T }

// Reset zeroes the state.
func (z *zeroed[T]) Reset() { *z = zeroed[T]{} }

// maxSlots is the number of bits of Exchange.inUse.
const maxSlots = 64

// numSlots is how many slots there are.
var numSlots int

// NewSlot reserves a slot. It is for package-level variables alone.
func NewSlot[T any]() Slot[T] {
	if numSlots == maxSlots {
		panic("BUG: more slots than bits of Exchange.inUse")
	}
	s := Slot[T]{index: numSlots, bit: 1 << numSlots}
	numSlots++
	return s
}

// Of returns the state of x, zero on first use.
func (s Slot[T]) Of(x *Exchange) *T {
	if x.inUse&s.bit == 0 {
		s.take(x)
	}
	return (*T)(x.slots[s.index].state)
}

// Has reports whether the state of x was used in this exchange.
func (s Slot[T]) Has(x *Exchange) bool { return x.inUse&s.bit != 0 }

func (s Slot[T]) take(x *Exchange) {
	if len(x.slots) == 0 {
		x.slots = make([]slot, numSlots)
	}
	at := &x.slots[s.index]
	if at.state == nil {
		made := new(zeroed[T])
		at.state, at.reset = unsafe.Pointer(&made.state), made
		if own, ok := any(&made.state).(interface{ Reset() }); ok {
			at.reset = own
		}
	}
	x.inUse |= s.bit
}

func (x *Exchange) resetSlots() {
	for ; x.inUse != 0; x.inUse &= x.inUse - 1 {
		x.slots[bits.TrailingZeros64(x.inUse)].reset.Reset()
	}
}
