// Package wswire has the words of WebSocket (RFC 6455): what the handshake proves, close codes, the control frames that a
// gateway sends by itself, and a Scanner that finds frames in bytes that pass. It performs no I/O.
package wswire

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
	"strconv"
	"unicode/utf8"
)

// Opcode is what a frame is (section 5.2).
type Opcode uint8

// The opcodes.
const (
	Continuation Opcode = 0
	Text         Opcode = 1
	Binary       Opcode = 2
	Close        Opcode = 8
	Ping         Opcode = 9
	Pong         Opcode = 10
)

// IsControl tells frames that may stand between those of a message.
func (o Opcode) IsControl() bool { return o&8 != 0 }

// Close codes (section 7.4.1, and IANA's registry).
const (
	Normal      = 1000
	GoingAway   = 1001
	Protocol    = 1002
	Unsupported = 1003
	// NoStatus and Abnormal never stand on the wire: a close frame without a code, and an end without a close frame.
	NoStatus  = 1005
	Abnormal  = 1006
	Invalid   = 1007
	Policy    = 1008
	TooBig    = 1009
	Internal  = 1011
	Restart   = 1012
	TryLater  = 1013
	maxReason = 123
	// MaxControl is the largest payload of a control frame.
	MaxControl = 125
)

// CodeName is a close code as a label: those that are registered by themselves, the others by their range.
func CodeName(code int) string {
	switch {
	case code >= Normal && code <= 1015 && code != 1004:
		return strconv.Itoa(code)
	case code >= 3000 && code <= 3999:
		return "3xxx"
	case code >= 4000 && code <= 4999:
		return "4xxx"
	}
	return "other"
}

// acceptGUID is what every server hashes behind the key of the client (section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// AppendAccept appends the Sec-WebSocket-Accept that answers a key.
func AppendAccept(dst, key []byte) []byte {
	h := sha1.New()
	_, _ = h.Write(key)
	_, _ = h.Write([]byte(acceptGUID))
	return base64.StdEncoding.AppendEncode(dst, h.Sum(nil))
}

// NewKey returns a Sec-WebSocket-Key.
func NewKey() []byte {
	var nonce [16]byte
	binary.NativeEndian.PutUint64(nonce[:], rand.Uint64())
	binary.NativeEndian.PutUint64(nonce[8:], rand.Uint64())
	return base64.StdEncoding.AppendEncode(nil, nonce[:])
}

// IsKey tells whether a Sec-WebSocket-Key is one: 16 bytes in base64.
func IsKey(key []byte) bool {
	if len(key) != 24 {
		return false
	}
	var nonce [18]byte
	n, err := base64.StdEncoding.Decode(nonce[:], key)
	return err == nil && n == 16
}

// AppendClose appends a close frame. A client's frames are masked (section 5.3). What does not fit of the reason is cut.
func AppendClose(dst []byte, masked bool, code int, reason string) []byte {
	return AppendControl(dst, masked, Close, ClosePayload(code, reason))
}

// ClosePayload is the payload of a close frame.
func ClosePayload(code int, reason string) []byte {
	if len(reason) > maxReason {
		end := maxReason
		for !utf8.RuneStart(reason[end]) {
			end--
		}
		reason = reason[:end]
	}
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, MaxControl), uint16(code)), reason...)
}

// AppendControl appends a control frame with a payload of at most MaxControl bytes.
func AppendControl(dst []byte, masked bool, op Opcode, payload []byte) []byte {
	dst = append(dst, finBit|byte(op))
	if !masked {
		dst = append(dst, byte(len(payload)))
		return append(dst, payload...)
	}
	dst = append(dst, maskBit|byte(len(payload)))
	var key [4]byte
	binary.NativeEndian.PutUint32(key[:], rand.Uint32())
	dst = append(dst, key[:]...)
	for i, c := range payload {
		dst = append(dst, c^key[i&3])
	}
	return dst
}

// Pace bounds how often something happens: once every Interval on average, and Burst times at once. A zero Interval bounds nothing.
type Pace struct {
	Interval int64 // nanoseconds
	Burst    int64
}

// Meter is how far one connection is in its pace.
type Meter struct{ due int64 }

// Take reports whether the pace has room for one more at the time now, in nanoseconds of a clock that never reads zero.
func (m *Meter) Take(p Pace, now int64) bool {
	if p.Interval == 0 {
		return true
	}
	due := max(m.due, now)
	if due-now > (p.Burst-1)*p.Interval {
		return false
	}
	m.due = due + p.Interval
	return true
}
