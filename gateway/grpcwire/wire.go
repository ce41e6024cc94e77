package grpcwire

import (
	"encoding/binary"
	"strconv"
	"time"
)

// Kind is what a content type says of a message.
type Kind uint8

// The kinds of messages.
const (
	// Other: not gRPC.
	Other Kind = iota
	// Native is gRPC over HTTP/2.
	Native
	// Web is gRPC-Web, whose trailers are in the body; WebText is that in base64.
	Web
	WebText
)

// KindOf tells what a Content-Type says.
func KindOf(contentType []byte) Kind {
	const prefix = "application/grpc"
	if len(contentType) < len(prefix) || !equalFold(contentType[:len(prefix)], prefix) {
		return Other
	}
	rest := contentType[len(prefix):]
	switch {
	case ends(rest):
		return Native
	case len(rest) >= len("-web-text") && equalFold(rest[:len("-web-text")], "-web-text") && ends(rest[len("-web-text"):]):
		return WebText
	case len(rest) >= len("-web") && equalFold(rest[:len("-web")], "-web") && ends(rest[len("-web"):]):
		return Web
	}
	return Other
}

// Format is what a content type of gRPC says of the messages: "+proto", "+json", or "".
func Format(contentType []byte) []byte {
	for i, c := range contentType {
		if c == '+' {
			for j := i; j < len(contentType); j++ {
				if contentType[j] == ';' || contentType[j] == ' ' {
					return contentType[i:j]
				}
			}
			return contentType[i:]
		}
	}
	return nil
}

func ends(rest []byte) bool {
	return len(rest) == 0 || rest[0] == '+' || rest[0] == ';' || rest[0] == ' ' || rest[0] == '\t'
}

func equalFold(b []byte, lower string) bool {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// maxTimeoutDigits bounds the number in a grpc-timeout.
const maxTimeoutDigits = 8

// longest is what stands for every timeout that a Duration can not hold.
const longest = time.Duration(1<<63 - 1)

// ParseTimeout reads the value of grpc-timeout.
func ParseTimeout(v []byte) (time.Duration, bool) {
	if len(v) < 2 || len(v) > maxTimeoutDigits+1 {
		return 0, false
	}
	n := int64(0)
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	var unit time.Duration
	switch v[len(v)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	if n > int64(longest/unit) {
		return longest, true
	}
	return time.Duration(n) * unit, true
}

// AppendTimeout appends d for grpc-timeout: in the finest unit whose number fits, rounded up.
func AppendTimeout(dst []byte, d time.Duration) []byte {
	d = max(d, 1)
	units := [...]struct {
		of   time.Duration
		name byte
	}{{1, 'n'}, {time.Microsecond, 'u'}, {time.Millisecond, 'm'}, {time.Second, 'S'}, {time.Minute, 'M'}}
	for _, u := range units {
		if n := (int64(d)-1)/int64(u.of) + 1; n < 1e8 {
			return append(strconv.AppendInt(dst, n, 10), u.name)
		}
	}
	return append(strconv.AppendInt(dst, (int64(d)-1)/int64(time.Hour)+1, 10), 'H')
}

// FrameHead is the length of what stands before each message: flags and length.
const FrameHead = 5

// The flags of a frame.
const (
	// Compressed: the message is, by what grpc-encoding says.
	Compressed = 0x01
	// Trailer: the frame holds the trailers of gRPC-Web.
	Trailer = 0x80
)

// AppendFrame appends a message in its frame.
func AppendFrame(dst []byte, flags byte, message []byte) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, flags), uint32(len(message)))
	return append(dst, message...)
}
