package tracing

import (
	"encoding/binary"
	"math/rand/v2"

	"sluice/gateway/exchange"
)

type (
	traceID struct{ high, low uint64 }
	spanID  uint64
)

// Flags of a trace (W3C Trace Context, level 2). Whatever else a sender sets is not passed on.
const (
	flagSampled = 1 << iota
	flagRandom  // the id's last seven bytes are random
)

// parent is what a request says of the span that it is part of.
type parent struct {
	trace traceID
	span  spanID
	flags byte
	// decided: the sender has sampled the trace or has not, as flagSampled says. B3 may leave it open.
	decided bool
	// debug is B3's demand to sample, whatever the samplers on the way say.
	debug bool
}

const (
	traceparentLen = 2 + 1 + 32 + 1 + 16 + 1 + 2
	// Where the parts of a traceparent stand.
	atTrace, atSpan, atFlags = 3, 36, 53
)

// parseTraceparent reads a traceparent of any version but ff, which is none (W3C Trace Context, section 3.2). Of a version
// that is not known yet what version 00 has counts, and what follows it must be set apart by a hyphen.
func parseTraceparent(v []byte, p *parent) bool {
	var version, flags [1]byte
	switch {
	case len(v) < traceparentLen, v[atTrace-1] != '-', v[atSpan-1] != '-', v[atFlags-1] != '-',
		!decodeHex(version[:], v), !p.trace.read(v[atTrace:]), !p.span.read(v[atSpan:]), !decodeHex(flags[:], v[atFlags:]),
		p.trace == traceID{}, p.span == 0,
		version[0] == 0xff,
		len(v) > traceparentLen && (version[0] == 0 || v[traceparentLen] != '-'):
		*p = parent{}
		return false
	}
	p.flags, p.decided = flags[0]&(flagSampled|flagRandom), true
	return true
}

// read takes an id of 128 bits; src has as many digits.
func (id *traceID) read(src []byte) bool {
	var high, low spanID
	ok := high.read(src) && low.read(src[16:])
	id.high, id.low = uint64(high), uint64(low)
	return ok
}

// read takes an id of 64 bits; src has as many digits.
func (id *spanID) read(src []byte) bool {
	var b [8]byte
	ok := decodeHex(b[:], src)
	*id = spanID(binary.BigEndian.Uint64(b[:]))
	return ok
}

// decodeHex fills dst from lower-case digits; src has enough of them.
func decodeHex(dst, src []byte) bool {
	for i := range dst {
		high, low := nibbles[src[2*i]], nibbles[src[2*i+1]]
		if high|low > 0x0f {
			return false
		}
		dst[i] = high<<4 | low
	}
	return true
}

var nibbles = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range len(digits) {
		t[digits[i]] = byte(i)
	}
	return t
}()

const digits = "0123456789abcdef"

// putHex writes 64 bits as hexadecimal digits. It reads no table, which other work would have pushed out of the processor's cache.
func putHex(dst *[16]byte, v uint64) {
	binary.BigEndian.PutUint64(dst[:8], digitsOf(uint32(v>>32)))
	binary.BigEndian.PutUint64(dst[8:], digitsOf(uint32(v)))
}

// digitsOf gives the digits of v, the first in the highest byte.
func digitsOf(v uint32) uint64 {
	// Each half byte in a byte of its own.
	n := uint64(v)
	n = (n | n<<16) & 0x0000ffff0000ffff
	n = (n | n<<8) & 0x00ff00ff00ff00ff
	n = (n | n<<4) & 0x0f0f0f0f0f0f0f0f
	letters := (n + 0x0606060606060606) >> 4 & 0x0101010101010101 // 1 where it is more than 9
	return n + 0x3030303030303030 + letters*('a'-'0'-10)
}

// maxMembers is how many members a tracestate may have (section 3.3.1.1).
const maxMembers = 32

// members collects a tracestate, which may stand in several fields. One member that is not valid, or one key twice, spoils all.
type members struct {
	list []byte
	n    int
	keys [maxMembers]struct{ from, to int }
	bad  bool
}

func (m *members) add(field []byte) {
	for rest := field; !m.bad; {
		member := rest
		end := indexByte(rest, ',')
		if end >= 0 {
			member = rest[:end]
		}
		if member = exchange.TrimOWS(member); len(member) > 0 { // an empty one is allowed
			m.addMember(member)
		}
		if end < 0 {
			return
		}
		rest = rest[end+1:]
	}
}

func (m *members) addMember(member []byte) {
	equals := indexByte(member, '=')
	if m.n == maxMembers || equals < 0 || !isKey(member[:equals]) || !isValue(member[equals+1:]) {
		m.bad = true
		return
	}
	key := member[:equals]
	for i := range m.n {
		if k := &m.keys[i]; string(m.list[k.from:k.to]) == string(key) {
			m.bad = true
			return
		}
	}
	if m.n > 0 {
		m.list = append(m.list, ',')
	}
	k := &m.keys[m.n]
	k.from, k.to = len(m.list), len(m.list)+len(key)
	m.list = append(m.list, member...)
	m.n++
}

func indexByte(b []byte, c byte) int {
	for i := range b {
		if b[i] == c {
			return i
		}
	}
	return -1
}

// isKey: a name of up to 256 characters, or tenant@system of up to 241 and 14. Only a tenant may begin with a digit.
func isKey(key []byte) bool {
	at := indexByte(key, '@')
	if at < 0 {
		return len(key) <= 256 && isName(key, false)
	}
	return at <= 241 && len(key)-at-1 <= 14 && isName(key[:at], true) && isName(key[at+1:], false)
}

func isName(name []byte, digitFirst bool) bool {
	for i, c := range name {
		switch {
		case 'a' <= c && c <= 'z':
		case '0' <= c && c <= '9':
			if i == 0 && !digitFirst {
				return false
			}
		case i > 0 && (c == '_' || c == '-' || c == '*' || c == '/'):
		default:
			return false
		}
	}
	return len(name) > 0
}

// isValue: 1 to 256 visible characters or spaces, without commas and equals signs; that no space is the last one is the caller's doing.
func isValue(value []byte) bool {
	for _, c := range value {
		if c < ' ' || c > '~' || c == ',' || c == '=' {
			return false
		}
	}
	return len(value) > 0 && len(value) <= 256
}

// newTraceID and newSpanID draw from the runtime's ChaCha8 generators, which the operating system has seeded: ids of many gateways
// do not collide, and drawing one takes no lock.
func newTraceID() traceID {
	id := traceID{high: rand.Uint64()}
	for id.low == 0 { // it also makes the first span
		id.low = rand.Uint64()
	}
	return id
}

func newSpanID() (id spanID) {
	for id == 0 {
		id = spanID(rand.Uint64())
	}
	return id
}

// child is the id of the n-th span below a random one. It need not be drawn: it is as random as that, and mixing (the finalizer of
// SplitMix64) gives no two of them the same.
func (id spanID) child(n int) (below spanID) {
	v := uint64(id) + uint64(n)*0x9e3779b97f4a7c15
	v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
	v = (v ^ v>>27) * 0x94d049bb133111eb
	return spanID(max(1, v^v>>31))
}
