package listener

import (
	"sluice/gateway/exchange"
)

// strict reads what a client sends ahead of the engine and in the engine's own
// buffer, and lets nothing through that two readers could understand
// differently (RFC 9112): it is what the gateway holds to be the boundaries of
// messages. It keeps no bytes and allocates nothing, and any cut between two
// reads gives the same verdict. Behind it every line ends in CRLF, no field is
// folded, every name is a token, no value has a control byte, and a body has
// either one length in digits or the one transfer coding chunked, well formed
// to the end of its trailer section.
//
// It belongs to the goroutine that reads the connection.
type strict struct {
	state state
	step  uint8 // place in the version, in "chunked", or in a length; digits of a chunk size
	name  uint8 // how much of a field's name came with earlier reads
	hosts uint8

	http10  bool
	framed  bool // a length or a coding was given
	chunked bool
	upgrade bool
	trailer bool // the fields are those behind a chunked body

	ended uint32           // requests that have come whole
	left  int64            // of the body, or of the chunk
	extra int32            // bytes of chunk extensions and trailers
	bad   *exchange.Reject // the verdict; nothing is let through any more

	kept [longestName]byte // the part of a name that came earlier
}

type state = uint8

const (
	atStart     state = iota // before a request; one empty line may stand there (RFC 9112, section 2.2)
	atStartLF                //
	atMethod                 //
	inMethod                 //
	atTarget                 //
	inTarget                 //
	inVersion                //
	atLineLF                 // behind the CR of the request line
	atField                  // where a field or the empty line begins
	inName                   //
	inValue                  //
	inLength                 // in the value of Content-Length
	inCoding                 // in the value of Transfer-Encoding
	atFieldLF                //
	atEndLF                  // in the empty line
	inBody                   //
	atChunk                  // where the size of a chunk begins
	inChunkSize              //
	atExt                    // behind the semicolon of a chunk extension
	inExtName                //
	atExtEquals              // behind white space that follows the name
	atExtValue               //
	inExtValue               //
	inExtQuoted              //
	inExtEscape              //
	atExtEnd                 // behind a quoted value
	atExtNext                // behind white space that follows a value
	atChunkLF                //
	inChunk                  //
	atDataCR                 //
	atDataLF                 //
	atUpgraded               // behind a request that may end the speaking of HTTP
)

const (
	version     = "HTTP/1."
	longestName = len("transfer-encoding")
	// maxDigits of a length keep it in an int64; maxHex those of a chunk's size.
	maxDigits = 18
	maxHex    = 15
	// maxExtra bounds the extensions and trailers of one body, which no limit
	// on the body counts.
	maxExtra = 16 << 10
)

var rejectChunk = refuse(400, "malformed_chunk", "the chunked request body is malformed")

// inLine reports whether a request line has begun and not ended.
func (s *strict) inLine() bool { return s.state > atMethod && s.state < atLineLF }

// inHead reports whether the engine waits for a head.
func (s *strict) inHead() bool { return s.state <= atEndLF && !s.trailer }

// next makes s ready for the next request.
func (s *strict) next() {
	*s = strict{ended: s.ended + 1}
}

// refuse notes the verdict.
func (s *strict) refuse(r *exchange.Reject) { s.bad = r }

// feed reads on in b and returns how much of it may pass. Less than all may
// for one of two reasons: b goes on with what is refused, and s.bad is set; or
// a request has ended that may switch protocols, and s waits for next.
func (s *strict) feed(b []byte) int {
	i := 0
	for i < len(b) {
		c := b[i]
		switch s.state {
		case atStart, atMethod:
			if c == '\r' && s.state == atStart {
				s.state = atStartLF
				i++
				continue
			}
			if !exchange.IsTokenByte(c) {
				s.refuse(rejectMalformed)
				return i
			}
			s.state = inMethod
			fallthrough
		case inMethod:
			i += exchange.TokenLen(b[i:])
			if i == len(b) {
				return i
			}
			if b[i] != ' ' {
				s.refuse(rejectMalformed)
				return i
			}
			s.state = atTarget
			i++
		case atTarget:
			if c <= ' ' || c == 0x7f {
				s.refuse(rejectMalformed)
				return i
			}
			s.state = inTarget
			fallthrough
		case inTarget:
			i += exchange.TextLen(b[i:], '!')
			if i == len(b) {
				return i
			}
			if b[i] != ' ' {
				s.refuse(rejectTarget)
				return i
			}
			i++
			s.state, s.step = inVersion, 0
		case inVersion:
			switch {
			case int(s.step) < len(version):
				if c != version[s.step] {
					s.refuse(rejectVersion)
					return i
				}
			case int(s.step) == len(version):
				if c != '0' && c != '1' {
					s.refuse(rejectVersion)
					return i
				}
				s.http10 = c == '0'
			default:
				if c != '\r' {
					s.refuse(rejectVersion)
					return i
				}
				s.state = atLineLF
			}
			s.step++
			i++
		case atField:
			if c == '\r' {
				s.state = atEndLF
				i++
				continue
			}
			s.state, s.name = inName, 0
			fallthrough
		case inName:
			n := exchange.TokenLen(b[i:])
			if i+n == len(b) {
				s.keep(b[i:])
				return i + n
			}
			if b[i+n] != ':' || n == 0 && s.name == 0 {
				s.refuse(rejectField)
				return i + n
			}
			s.state = inValue
			if s.name > 0 || n == 4 || n == 7 || n == 14 || n == 17 {
				if s.named(b[i : i+n]); s.bad != nil {
					return i + n
				}
			}
			i += n + 1
			if s.trailer && s.spend(n+1) {
				return i
			}
		case inValue:
			n := exchange.TextLen(b[i:], ' ')
			if s.trailer && s.spend(n) {
				return i
			}
			if i += n; i == len(b) {
				return i
			}
			switch {
			case b[i] == '\t':
				i++
			case b[i] != '\r':
				s.refuse(rejectField)
				return i
			case i+1 < len(b) && b[i+1] == '\n':
				s.state = atField
				i += 2
			default:
				s.state = atFieldLF
				i++
			}
		case inLength:
			if !s.length(c) {
				s.refuse(rejectFraming)
				return i
			}
			i++
		case inCoding:
			if !s.coding(c) {
				s.refuse(rejectFraming)
				return i
			}
			i++
		case inBody, inChunk:
			if n := int64(len(b) - i); n < s.left {
				s.left -= n
				return len(b)
			}
			i += int(s.left)
			if s.left = 0; s.state == inChunk {
				s.state = atDataCR
			} else if s.end(); s.state == atUpgraded {
				return i
			}
		case atChunk:
			s.state, s.step, s.left = inChunkSize, 0, 0
			fallthrough
		case inChunkSize:
			if d := unhex[c]; d != 0 && s.step < maxHex {
				s.left = s.left<<4 | int64(d-1)
				s.step++
			} else if s.step > 0 && c == '\r' {
				s.state = atChunkLF
			} else if s.step > 0 && c == ';' {
				s.state = atExt
			} else {
				s.refuse(rejectChunk)
				return i
			}
			i++
		case atUpgraded:
			return i
		default:
			if !s.edge(c) {
				return i
			}
			if i++; s.state == atUpgraded {
				return i
			}
		}
	}
	return i
}

// edge reads a byte where one byte decides: line ends and chunk extensions.
func (s *strict) edge(c byte) bool {
	want, then := byte('\n'), atStart
	switch s.state {
	case atStartLF:
		then = atMethod
	case atLineLF, atFieldLF:
		then = atField
	case atEndLF:
		if c == '\n' {
			return s.endSection()
		}
	case atChunkLF:
		if then = inChunk; s.left == 0 {
			// The last chunk.
			s.trailer, then = true, atField
		}
	case atDataCR:
		want, then = '\r', atDataLF
	case atDataLF:
		then = atChunk
	default:
		if s.extension(c) && !s.spend(1) {
			return true
		}
		s.refuse(rejectChunk)
		return false
	}
	if c != want {
		switch {
		case s.trailer || s.state >= inBody:
			s.refuse(rejectChunk)
		case s.state < atField:
			s.refuse(rejectMalformed)
		default:
			s.refuse(rejectField)
		}
		return false
	}
	s.state = then
	return true
}

// extension reads a byte of a chunk's extensions (RFC 9112, section 7.1.1).
func (s *strict) extension(c byte) bool {
	blank := c == ' ' || c == '\t'
	switch s.state {
	case atExt:
		if exchange.IsTokenByte(c) {
			s.state = inExtName
			return true
		}
		return blank
	case inExtName, atExtEquals:
		switch {
		case exchange.IsTokenByte(c):
			return s.state == inExtName
		case c == '=':
			s.state = atExtValue
			return true
		case blank:
			s.state = atExtEquals
			return true
		}
		return s.extensionEnd(c, s.state == inExtName)
	case atExtValue:
		switch {
		case exchange.IsTokenByte(c):
			s.state = inExtValue
		case c == '"':
			s.state = inExtQuoted
		default:
			return blank
		}
		return true
	case inExtValue, atExtEnd, atExtNext:
		switch {
		case exchange.IsTokenByte(c):
			return s.state == inExtValue
		case blank:
			s.state = atExtNext
			return true
		}
		return s.extensionEnd(c, s.state != atExtNext)
	case inExtQuoted:
		switch c {
		case '"':
			s.state = atExtEnd
		case '\\':
			s.state = inExtEscape
		default:
			return c >= ' ' && c != 0x7f || c == '\t'
		}
		return true
	case inExtEscape:
		s.state = inExtQuoted
		return c >= ' ' && c != 0x7f || c == '\t'
	}
	panic("BUG: a state that nobody reads")
}

// extensionEnd reads what may follow an extension; the line ends right behind one.
func (s *strict) extensionEnd(c byte, line bool) bool {
	switch {
	case c == ';':
		s.state = atExt
	case c == '\r' && line:
		s.state = atChunkLF
	default:
		return false
	}
	return true
}

// spend counts bytes that no limit on the body counts; true is too many.
func (s *strict) spend(n int) bool {
	if n > maxExtra || s.extra+int32(n) > maxExtra {
		s.refuse(rejectChunk)
		return true
	}
	s.extra += int32(n)
	return false
}

// keep holds on to the part of a name whose rest has not come.
func (s *strict) keep(part []byte) {
	if int(s.name) < longestName {
		copy(s.kept[s.name:], part)
	}
	// Behind the longest name that is looked for the count only has to stay.
	s.name = uint8(min(int(s.name)+len(part), longestName+1))
	if s.trailer {
		s.spend(len(part))
	}
}

// named looks at the name of a field, whose last part is given: the fields
// that frame and route are read here.
func (s *strict) named(name []byte) {
	if s.name > 0 {
		if len(name)+int(s.name) > longestName {
			return
		}
		n := int(s.name) + copy(s.kept[s.name:], name)
		name = s.kept[:n]
	}
	switch len(name) {
	case len("host"):
		if exchange.EqualFold(name, "host") {
			if s.hosts++; s.hosts > 1 || s.trailer {
				s.refuse(rejectHost)
			}
		}
	case len("upgrade"):
		if exchange.EqualFold(name, "upgrade") {
			s.upgrade = true
		}
	case len("content-length"):
		if exchange.EqualFold(name, "content-length") {
			s.frame(inLength)
		}
	case len("transfer-encoding"):
		if exchange.EqualFold(name, "transfer-encoding") {
			s.frame(inCoding)
		}
	}
}

// frame begins to read a field that says where the body ends: there may be one.
func (s *strict) frame(to state) {
	if s.framed || s.trailer || to == inCoding && s.http10 {
		s.refuse(rejectFraming)
		return
	}
	s.framed, s.chunked = true, to == inCoding
	s.state, s.step, s.left = to, 0, 0
}

const valueEnded = 0x80 // in step: white space follows the value

// length reads a byte of the value of Content-Length.
func (s *strict) length(c byte) bool {
	switch {
	case '0' <= c && c <= '9':
		s.left = s.left*10 + int64(c-'0')
		s.step++
		return s.step <= maxDigits
	case c == ' ' || c == '\t':
		if s.step > 0 {
			s.step |= valueEnded
		}
		return true
	}
	s.state = atFieldLF
	return c == '\r' && s.step > 0
}

// coding reads a byte of the value of Transfer-Encoding.
func (s *strict) coding(c byte) bool {
	const chunked = "chunked"
	switch {
	case int(s.step) < len(chunked) && c|0x20 == chunked[s.step]:
		s.step++
		return true
	case c == ' ' || c == '\t':
		if s.step == uint8(len(chunked)) {
			s.step |= valueEnded
		}
		return s.step == 0 || s.step > uint8(len(chunked))
	}
	s.state = atFieldLF
	return c == '\r' && s.step >= uint8(len(chunked))
}

// endSection is behind the empty line of a head or a trailer section.
func (s *strict) endSection() bool {
	switch {
	case s.trailer:
		s.end()
	case s.hosts == 0 && !s.http10:
		s.refuse(rejectHost)
		return false
	case s.chunked:
		s.state = atChunk
	case s.left > 0:
		s.state = inBody
	default:
		s.end()
	}
	return true
}

// end is the end of a request.
func (s *strict) end() {
	if s.upgrade {
		s.state = atUpgraded
	} else {
		s.next()
	}
}

// unhex gives the value of a hexadecimal digit and one, 0 for other bytes.
var unhex = func() (t [256]byte) {
	for i, c := range []byte("0123456789abcdef") {
		t[c] = byte(i + 1)
	}
	for i, c := range []byte("ABCDEF") {
		t[c] = byte(i + 11)
	}
	return t
}()
