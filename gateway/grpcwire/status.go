// Package grpcwire holds the words of gRPC over HTTP/2 and of gRPC-Web: content
// types, statuses and what they are in HTTP, messages of errors, deadlines, and
// the frames of messages. Nothing here performs I/O.
package grpcwire

import (
	"strconv"
	"strings"
)

// Code is a status of gRPC.
type Code uint8

// The statuses of gRPC.
const (
	OK Code = iota
	Cancelled
	Unknown
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	OutOfRange
	Unimplemented
	Internal
	Unavailable
	DataLoss
	Unauthenticated
	// Codes is their number.
	Codes
)

var words = [Codes]string{
	"ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
	"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss",
	"unauthenticated",
}

// String is the name as configuration writes it: unavailable.
func (c Code) String() string {
	if c < Codes {
		return words[c]
	}
	return strconv.Itoa(int(c))
}

// Name is the name as google.rpc.Code writes it: UNAVAILABLE.
func (c Code) Name() string { return strings.ToUpper(c.String()) }

// CodeNamed finds a code by the name that configuration uses.
func CodeNamed(word string) (Code, bool) {
	for c, w := range words {
		if w == word {
			return Code(c), true
		}
	}
	return 0, false
}

// ParseCode reads the value of grpc-status. What is no code is Unknown, and false.
func ParseCode[T string | []byte](v T) (Code, bool) {
	if len(v) == 0 || len(v) > 2 {
		return Unknown, false
	}
	n := 0
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return Unknown, false
		}
		n = n*10 + int(v[i]-'0')
	}
	if n >= int(Codes) {
		return Unknown, false
	}
	return Code(n), true
}

// OfHTTP is the status that stands for a status of HTTP, as gRPC maps them
// (http-grpc-status-mapping); for some that it leaves open, the one that says more.
func OfHTTP(status int) Code {
	switch status {
	case 400, 500:
		return Internal
	case 401:
		return Unauthenticated
	case 403:
		return PermissionDenied
	case 404, 405, 501:
		return Unimplemented
	case 413, 431:
		return ResourceExhausted
	case 429, 502, 503, 504:
		return Unavailable
	case 499:
		return Cancelled
	}
	return Unknown
}

// HTTP is the status of HTTP for one of gRPC, as google/rpc/code.proto maps them.
func (c Code) HTTP() int {
	switch c {
	case OK:
		return 200
	case Cancelled:
		return 499
	case InvalidArgument, FailedPrecondition, OutOfRange:
		return 400
	case DeadlineExceeded:
		return 504
	case NotFound:
		return 404
	case AlreadyExists, Aborted:
		return 409
	case PermissionDenied:
		return 403
	case ResourceExhausted:
		return 429
	case Unimplemented:
		return 501
	case Unavailable:
		return 503
	case Unauthenticated:
		return 401
	}
	return 500
}

// OfReset is the status that stands for the code of an RST_STREAM frame.
func OfReset(code uint32) Code {
	switch code {
	case 0x7: // REFUSED_STREAM
		return Unavailable
	case 0x8: // CANCEL
		return Cancelled
	case 0xb: // ENHANCE_YOUR_CALM
		return ResourceExhausted
	case 0xc: // INADEQUATE_SECURITY
		return PermissionDenied
	}
	return Internal
}

const hex = "0123456789ABCDEF"

// AppendMessage appends a message for grpc-message: percent-encoded.
func AppendMessage(dst []byte, message string) []byte {
	for i := range len(message) {
		if c := message[i]; c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// Message decodes a grpc-message. What is no escape stands for itself.
func Message(encoded string) string {
	if strings.IndexByte(encoded, '%') < 0 {
		return encoded
	}
	b := make([]byte, 0, len(encoded))
	for i := 0; i < len(encoded); i++ {
		if encoded[i] == '%' && i+2 < len(encoded) {
			if v, err := strconv.ParseUint(encoded[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(v))
				i += 2
				continue
			}
		}
		b = append(b, encoded[i])
	}
	return strings.ToValidUTF8(string(b), "\ufffd")
}
