package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"sluice/gateway/exchange"
)

var (
	errChunk        = errors.New("malformed chunk")
	errTrailer      = errors.New("malformed trailer section")
	errTrailerLarge = errors.New("trailer section too large")
)

const (
	maxChunkLine = 4 << 10
	maxTrailer   = 16 << 10
)

// readChunkSize reads the line that starts a chunk.
func readChunkSize(br *reader) (int64, error) {
	line, err := br.ReadSlice('\n')
	if err != nil {
		return 0, cut(err, errChunk)
	}
	return parseChunkLine(line)
}

// parseChunkLine reads the line that starts a chunk (RFC 9112, section 7.1):
// hexadecimal digits, extensions that are well formed and ignored, CRLF.
func parseChunkLine(line []byte) (int64, error) {
	if len(line) < 3 || len(line) > maxChunkLine || line[len(line)-2] != '\r' {
		return 0, errChunk
	}
	line = line[:len(line)-2]
	var n int64
	i := 0
	for ; i < len(line); i++ {
		d := unhex(line[i])
		if d < 0 {
			break
		}
		if i == 15 {
			return 0, errChunk
		}
		n = n<<4 | int64(d)
	}
	if i == 0 {
		return 0, errChunk
	}
	if !validExtensions(line[i:]) {
		return 0, errChunk
	}
	return n, nil
}

// validExtensions reports whether ext is a list of chunk extensions: tokens,
// each with a token or a quoted string for a value or none. White space may
// stand around the signs, but not behind the chunk's size, where readers differ.
func validExtensions(ext []byte) bool {
	if len(ext) > 0 && ext[0] != ';' {
		return false
	}
	for len(ext) > 0 {
		if ext[0] != ';' {
			return false
		}
		ext = trimFront(ext[1:])
		n := exchange.TokenLen(ext)
		if n == 0 {
			return false
		}
		if rest := trimFront(ext[n:]); len(rest) == 0 || rest[0] != '=' {
			ext = rest
			continue
		} else {
			ext = trimFront(rest[1:])
		}
		if n = exchange.TokenLen(ext); n == 0 {
			n = quotedLen(ext)
		}
		if n == 0 {
			return false
		}
		ext = trimFront(ext[n:])
	}
	return true
}

// quotedLen returns the length of the quoted string (RFC 9110, section 5.6.4)
// that b starts with, 0 for none.
func quotedLen(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\' && i+1 < len(b):
			i++
		}
		if c := b[i]; c < ' ' && c != '\t' || c == 0x7f {
			return 0
		}
	}
	return 0
}

func trimFront(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}

// joinChunks joins the chunks of a body that stands whole in b, without a
// trailer section, in place: body is a part of b, and size is how much of b the
// chunks took. ok is false for anything else, and b is as it was.
func joinChunks(b []byte) (body []byte, size int, ok bool) {
	for range 2 { // to look, then to join
		to, from := 0, 0
		for {
			end := bytes.IndexByte(b[from:], '\n') + 1
			if end == 0 {
				return nil, 0, false
			}
			n, err := parseChunkLine(b[from : from+end])
			from += end
			if err != nil || n > int64(len(b)-from-2) || b[from+int(n)] != '\r' || b[from+int(n)+1] != '\n' {
				return nil, 0, false
			}
			if ok {
				copy(b[to:], b[from:from+int(n)])
			}
			to += int(n)
			from += int(n) + 2
			if n == 0 {
				body, size = b[:to], from
				break
			}
		}
		ok = true
	}
	return body, size, true
}

// readChunkEnd reads the CRLF behind a chunk's data.
func readChunkEnd(br *reader) error {
	b, err := br.Peek(2)
	if err != nil {
		return cut(err, errChunk)
	}
	if b[0] != '\r' || b[1] != '\n' {
		return errChunk
	}
	br.Discard(2)
	return nil
}

// readTrailer reads the trailer section up to its empty line and gives each
// field to add. Fields that frame, route or authenticate must not stand in it
// (RFC 9110, section 6.5.1) and are dropped.
func readTrailer(br *reader, add func(name, value []byte)) error {
	size := 0
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return cut(err, errTrailer)
		}
		if size += len(line); size > maxTrailer {
			return errTrailerLarge
		}
		if len(line) < 2 || line[len(line)-2] != '\r' {
			return errTrailer
		}
		line = line[:len(line)-2]
		if len(line) == 0 {
			return nil
		}
		colon := exchange.TokenLen(line)
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			return errTrailer
		}
		name, value := line[:colon], exchange.TrimOWS(line[colon+1:])
		if !exchange.IsFieldValue(value) {
			return errTrailer
		}
		if trailerAllowed(name) {
			add(name, value)
		}
	}
}

func trailerAllowed(name []byte) bool {
	if exchange.KindOf(name) != exchange.KindOther {
		return false
	}
	for _, f := range [...]string{"authorization", "set-cookie", "cookie", "content-type", "content-encoding", "content-range", "cache-control", "www-authenticate", "max-forwards", "range", "vary", "age", "date", "expires", "location", "retry-after"} {
		if exchange.EqualFold(name, f) {
			return false
		}
	}
	return true
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// cut turns an end of input inside a message into a truncation, and a line
// that does not fit the buffer into malformed.
func cut(err, malformed error) error {
	switch err {
	case io.EOF:
		return io.ErrUnexpectedEOF
	case bufio.ErrBufferFull:
		return malformed
	}
	return err
}
