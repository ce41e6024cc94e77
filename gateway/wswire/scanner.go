package wswire

import "encoding/binary"

const (
	finBit  = 0x80
	maskBit = 0x80

	reservedBits = 0x70
)

// Frame is what the head of a frame says.
type Frame struct {
	// Op is what the frame is; Fin says that it ends its message.
	Op     Opcode
	Fin    bool
	Masked bool
	// Reserved bits, which only an extension gives a meaning.
	Reserved bool
	// Length of the payload in bytes.
	Length int64
	// Code of a close frame, NoStatus where it has none; 0 in others.
	Code int
}

// Event is what a Scanner has come to.
type Event uint8

// The events.
const (
	// Payload: bytes of the frame whose head came before.
	Payload Event = iota
	// Head: a whole head, which is in Frame.
	Head
	// Partial: what is left is not a whole head yet; show it again, with more behind it.
	Partial
	// Bad: where this frame ends can not be told.
	Bad
)

// IsSound tells whether a frame may stand where it does (section 5): inside says that a message has begun and not ended.
func (f *Frame) IsSound(inside bool) bool {
	switch f.Op {
	case Continuation:
		return inside
	case Text, Binary:
		return !inside
	case Close, Ping, Pong:
		return f.Fin && f.Length <= MaxControl && (f.Op != Close || f.Length != 1)
	}
	return false
}

// Scanner finds the frames in one direction of a connection. It reads heads alone and steps over payloads, so that it costs
// next to nothing and extensions that change payloads, as permessage-deflate, do not concern it.
type Scanner struct {
	// Frame is the frame whose head came last.
	Frame Frame

	left int64 // of its payload
}

// Next looks at the bytes that follow those it has taken before, of which there is at least one. It takes n of them.
func (s *Scanner) Next(b []byte) (n int, e Event) {
	if s.left > 0 {
		n = int(min(s.left, int64(len(b))))
		s.left -= int64(n)
		return n, Payload
	}
	if len(b) < 2 {
		return 0, Partial
	}
	f := Frame{Op: Opcode(b[0] & 0xf), Fin: b[0]&finBit != 0, Masked: b[1]&maskBit != 0, Reserved: b[0]&reservedBits != 0, Length: int64(b[1] &^ maskBit)}
	n = 2
	switch f.Length {
	case 126:
		if n += 2; len(b) < n {
			return 0, Partial
		}
		f.Length = int64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if n += 8; len(b) < n {
			return 0, Partial
		}
		if f.Length = int64(binary.BigEndian.Uint64(b[2:])); f.Length < 0 {
			return 0, Bad
		}
	}
	mask := n
	if f.Masked {
		n += 4
	}
	s.left = f.Length
	if f.Op == Close {
		// Its code is taken with the head: what a close says is wanted, whatever pieces it comes in.
		f.Code = NoStatus
		if f.Length >= 2 {
			n += 2
		}
	}
	if len(b) < n {
		s.left = 0
		return 0, Partial
	}
	if f.Op == Close && f.Length >= 2 {
		hi, lo := b[n-2], b[n-1]
		if f.Masked {
			hi, lo = hi^b[mask], lo^b[mask+1]
		}
		f.Code = int(hi)<<8 | int(lo)
		s.left -= 2
	}
	s.Frame = f
	return n, Head
}

// Between tells that all frames that have begun have ended, so that another one may be put in here.
func (s *Scanner) Between() bool { return s.left == 0 }
