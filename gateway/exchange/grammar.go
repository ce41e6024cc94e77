package exchange

import (
	"encoding/binary"
	"math/bits"
)

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as the name of a header has to be.
func IsToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// IsTokenByte reports whether c may stand in a token.
func IsTokenByte(c byte) bool { return tokenBytes[c] }

var tokenBytes = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// TokenLen returns the length of the token (RFC 9110, section 5.6.2) that b starts with.
func TokenLen(b []byte) int {
	for i, c := range b {
		if !tokenBytes[c] {
			return i
		}
	}
	return len(b)
}

// IsFieldValue reports whether b may stand in the value of a header (RFC 9110, section 5.5): no control bytes but the tab.
func IsFieldValue(b []byte) bool { return FieldValueLen(b) == len(b) }

// FieldValueLen returns how much of b may stand in the value of a header.
func FieldValueLen(b []byte) int {
	for i := 0; ; i++ {
		if i += TextLen(b[i:], ' '); i == len(b) || b[i] != '\t' {
			return i
		}
	}
}

// TextLen returns how much of b has neither a byte below low nor DEL, eight at a time.
func TextLen(b []byte, low byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	lows := ones * uint64(low)
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		del := x ^ ones*0x7f
		// The lowest flag is exact; only flags above it may be false.
		if f := ((x-lows)&^x | (del-ones)&^del) & highs; f != 0 {
			return i + bits.TrailingZeros64(f)>>3
		}
	}
	for ; i < len(b); i++ {
		if b[i] < low || b[i] == 0x7f {
			return i
		}
	}
	return i
}

// TrimOWS cuts optional white space off both ends (RFC 9110, section 5.6.3).
func TrimOWS(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
