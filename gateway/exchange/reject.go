package exchange

import (
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"sluice/gateway/grpcwire"
)

// ErrNoCredential is what an authenticating hook returns when the request
// carries no credential of its kind.
var ErrNoCredential error = &Reject{Status: fasthttp.StatusUnauthorized, Reason: "credential_missing", Detail: "no credential was given"}

// ErrClientGone ends an exchange whose client went away; nothing is sent.
var ErrClientGone = errors.New("the client closed the connection")

// Reject is the gateway's own refusal of a request, as an RFC 9457 problem. It
// is made when the configuration is compiled and shared by all requests, so
// that refusing costs no more than passing.
type Reject struct {
	// Status is the HTTP status.
	Status int
	// Reason is the machine-readable word for logs, metrics and the problem's type.
	Reason string
	// Detail is the sentence for the client. It never tells why a credential
	// failed beyond its class, nor anything about backends.
	Detail string
	// Headers go with the answer: WWW-Authenticate, Allow, Retry-After.
	Headers []HeaderEdit
	// Close ends the client's connection after the answer.
	Close bool
	// RPC is the status for clients of gRPC; 0: the one that Status maps to.
	RPC grpcwire.Code

	head []byte
}

// Error gives the reason; a Reject travels as an error.
func (r *Reject) Error() string { return r.Reason }

// NewReject returns a Reject with its constant part rendered ahead.
func NewReject(status int, reason, detail string, headers ...HeaderEdit) *Reject {
	r := &Reject{Status: status, Reason: reason, Detail: detail, Headers: headers}
	r.head = r.appendHead(nil)
	return r
}

// Header is a shorthand for a header of a Reject.
func Header(name, value string) HeaderEdit {
	return HeaderEdit{Name: name, Value: []byte(value), Op: EditSet}
}

func (r *Reject) appendHead(b []byte) []byte {
	b = append(b, `{"type":"urn:sluice:`...)
	b = append(b, r.Reason...)
	b = append(b, `","title":`...)
	b = AppendJSONString(b, []byte(titleOf(r.Status)))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, `,"detail":`...)
	return AppendJSONString(b, []byte(r.Detail))
}

// AppendProblem appends the application/problem+json body (RFC 9457) for a
// request with this path and id. Where nobody could read the path, the
// instance is a name made of the id: an error that has an id has an instance.
func (r *Reject) AppendProblem(b, instance, requestID []byte) []byte {
	if r.head != nil {
		b = append(b, r.head...)
	} else {
		b = r.appendHead(b)
	}
	switch {
	case len(instance) > 0:
		b = append(b, `,"instance":`...)
		b = AppendJSONString(b, instance)
	case len(requestID) > 0:
		b = append(b, `,"instance":"urn:sluice:request:`...)
		b = append(appendJSONText(b, requestID), '"')
	}
	if len(requestID) > 0 {
		b = append(b, `,"request_id":`...)
		b = AppendJSONString(b, requestID)
	}
	return append(b, "}\n"...)
}

// titleOf names a status as RFC 9110 does.
func titleOf(status int) string {
	switch status {
	case fasthttp.StatusRequestEntityTooLarge:
		return "Content Too Large"
	case fasthttp.StatusUnprocessableEntity:
		return "Unprocessable Content"
	case 499:
		return "Client Closed Request"
	}
	return fasthttp.StatusMessage(status)
}

const hexDigits = "0123456789abcdef"

// AppendJSONString appends s as a JSON string (RFC 8259, section 7). Bytes
// that are not ASCII pass only as part of valid UTF-8.
func AppendJSONString(b, s []byte) []byte {
	return append(appendJSONText(append(b, '"'), s), '"')
}

func appendJSONText(b, s []byte) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c >= 0x20 && c < 0x7f:
			b = append(b, c)
			i++
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		default:
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n <= 1 {
				b = append(b, "\\ufffd"...)
				i++
				continue
			}
			b = append(b, s[i:i+n]...)
			i += n
		}
	}
	return b
}
