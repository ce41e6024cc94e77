package telemetry

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Record is what the access log tells about one request. Its bytes are borrowed during the call that appends it.
type Record struct {
	Time      time.Time // when the request arrived
	RequestID []byte
	ClientIP  netip.Addr // invalid: unknown, as on a Unix socket
	Method    []byte
	Host      []byte
	Path      []byte // never the query string: it may carry secrets
	Protocol  string // HTTP/1.1; combined only
	Status    int
	BytesIn   int64         // body bytes from the client
	BytesOut  int64         // body bytes to the client
	Duration  time.Duration // whole request
	Upstream  time.Duration // waiting for the backend; negative: no backend was asked
	Route     string
	Service   string
	Endpoint  string
	Consumer  []byte // consumer or authenticated subject
	Tenant    string
	Reason    string // why the gateway answered itself; a fixed word
	RPCStatus uint8  // the status of gRPC plus one; 0: no call of gRPC
	TraceID   []byte // JSON only; empty where requests are not traced
	Referer   []byte // combined only, without query and fragment
	UserAgent []byte // combined only
}

// maxField is the length in bytes up to which a field is logged; what is cut ends in "...".
const maxField = 4 << 10

const redacted = "[redacted]"

// Format renders a Record as one line. It is immutable.
type Format struct {
	combined bool // else JSON; a function value would move every Record to the heap
	hide     fields
}

// fields is a set of fields that clients or backends fill with text.
type fields uint16

const (
	fieldRequestID fields = 1 << iota
	fieldClientIP
	fieldHost
	fieldPath
	fieldEndpoint
	fieldConsumer
	fieldReferer
	fieldUserAgent
)

var fieldNames = map[string]fields{
	"request_id": fieldRequestID, "x-correlation-id": fieldRequestID, "x-request-id": fieldRequestID,
	"client_ip": fieldClientIP, "x-forwarded-for": fieldClientIP,
	"host": fieldHost, "path": fieldPath, "endpoint": fieldEndpoint,
	"consumer": fieldConsumer, "x-consumer-id": fieldConsumer, "x-user-id": fieldConsumer,
	"referer": fieldReferer, "user_agent": fieldUserAgent, "user-agent": fieldUserAgent,
}

// Formats are the names NewFormat takes.
var Formats = []string{"json", "combined"}

// NewFormat makes the format "json" or "combined". redact names fields and request headers, in any case, whose value is replaced by
// "[redacted]"; names of headers that are never logged, such as authorization and cookie, are fine.
func NewFormat(name string, redact []string) (*Format, error) {
	f := &Format{}
	switch name {
	case "json":
	case "combined":
		f.combined = true
	default:
		return nil, fmt.Errorf("unknown access log format %q; it is one of %s", name, strings.Join(Formats, ", "))
	}
	for _, r := range redact {
		f.hide |= fieldNames[strings.ToLower(r)]
	}
	return f, nil
}

// Append appends the line of r, with its newline. Whatever r holds, the line has no other newline and no control bytes.
func (f *Format) Append(dst []byte, r *Record) []byte {
	if f.combined {
		return appendCombined(dst, r, f.hide)
	}
	return appendJSON(dst, r, f.hide)
}

// maxLine is the most that Append appends for r.
func maxLine(r *Record) int {
	const fixed = 1024 // names, numbers, time, address, marks of cut fields
	text := 0
	for _, n := range [...]int{
		len(r.RequestID), len(r.Method), len(r.Host), len(r.Path), len(r.Protocol), len(r.Route), len(r.Service),
		len(r.Endpoint), len(r.Consumer), len(r.Tenant), len(r.Reason), len(r.TraceID), len(r.Referer), len(r.UserAgent),
	} {
		text += min(n, maxField)
	}
	return fixed + 6*text // a byte becomes \u00xx at worst
}

// appendJSON writes an object with the same keys in the same order always; behind them stand grpc_status for calls of gRPC and
// trace_id where requests are traced. Text that is not UTF-8 has \ufffd in its place, and what a terminal could take for a command
// is escaped.
func appendJSON(dst []byte, r *Record, hide fields) []byte {
	dst = append(dst, `{"time":"`...)
	dst = appendTimestamp(dst, r.Time)
	dst = appendJSONField(dst, `","request_id":"`, r.RequestID, hide&fieldRequestID)
	dst = append(dst, `","client_ip":"`...)
	dst = appendAddr(dst, r.ClientIP, hide&fieldClientIP, "")
	dst = appendJSONField(dst, `","method":"`, r.Method, 0)
	dst = appendJSONField(dst, `","host":"`, r.Host, hide&fieldHost)
	dst = appendJSONField(dst, `","path":"`, r.Path, hide&fieldPath)
	dst = append(dst, `","status":`...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, `,"bytes_in":`...)
	dst = strconv.AppendInt(dst, r.BytesIn, 10)
	dst = append(dst, `,"bytes_out":`...)
	dst = strconv.AppendInt(dst, r.BytesOut, 10)
	dst = append(dst, `,"duration_ms":`...)
	dst = appendMilliseconds(dst, max(0, r.Duration))
	dst = append(dst, `,"upstream_ms":`...)
	if r.Upstream < 0 {
		dst = append(dst, `null`...)
	} else {
		dst = appendMilliseconds(dst, r.Upstream)
	}
	dst = appendJSONField(dst, `,"route":"`, r.Route, 0)
	dst = appendJSONField(dst, `","service":"`, r.Service, 0)
	dst = appendJSONField(dst, `","endpoint":"`, r.Endpoint, hide&fieldEndpoint)
	dst = appendJSONField(dst, `","consumer":"`, r.Consumer, hide&fieldConsumer)
	dst = appendJSONField(dst, `","tenant":"`, r.Tenant, 0)
	dst = appendJSONField(dst, `","reason":"`, r.Reason, 0)
	dst = append(dst, '"')
	if r.RPCStatus > 0 {
		dst = strconv.AppendUint(append(dst, `,"grpc_status":`...), uint64(r.RPCStatus-1), 10)
	}
	if len(r.TraceID) > 0 {
		dst = append(appendJSONField(dst, `,"trace_id":"`, r.TraceID, 0), '"')
	}
	return append(dst, '}', '\n')
}

func appendJSONField[T string | []byte](dst []byte, key string, value T, hide fields) []byte {
	dst = append(dst, key...)
	if hide != 0 && len(value) > 0 {
		return append(dst, redacted...)
	}
	return appendJSONText(dst, value)
}

// plainJSON tells the bytes that stand for themselves in a JSON string.
var plainJSON = func() (plain [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

const hexDigits = "0123456789abcdef"

func appendJSONText[T string | []byte](dst []byte, s T) []byte {
	cut := len(s) > maxField
	if cut {
		s = s[:maxField]
	}
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plainJSON[c] {
			i++
			continue
		}
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = decodeRune(s[i:min(len(s), i+utf8.UTFMax)])
			if r != utf8.RuneError && r > 0x9f && r != '\u2028' && r != '\u2029' {
				i += size
				continue
			}
		}
		dst = append(dst, s[from:i]...)
		switch r {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		}
		i += size
		from = i
	}
	dst = append(dst, s[from:]...)
	if cut {
		dst = append(dst, "..."...)
	}
	return dst
}

func decodeRune[T string | []byte](s T) (rune, int) {
	var b [utf8.UTFMax]byte
	n := copy(b[:], s)
	return utf8.DecodeRune(b[:n])
}

// appendCombined writes Apache's combined format, escaped as nginx does it: quotes, backslashes, control bytes and all beyond ASCII as
// \xHH. Spaces are escaped too where the format separates by them. The request line has the path alone.
func appendCombined(dst []byte, r *Record, hide fields) []byte {
	dst = appendAddr(dst, r.ClientIP, hide&fieldClientIP, "-")
	dst = appendCombinedField(dst, " - ", r.Consumer, hide&fieldConsumer, true)
	dst = append(dst, " ["...)
	dst = appendCombinedTime(dst, r.Time)
	dst = appendCombinedField(dst, `] "`, r.Method, 0, true)
	dst = appendCombinedField(dst, " ", r.Path, hide&fieldPath, true)
	dst = appendCombinedField(dst, " ", r.Protocol, 0, true)
	dst = append(dst, `" `...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, r.BytesOut, 10)
	referer := r.Referer
	if end := bytes.IndexAny(referer, "?#"); end >= 0 {
		referer = referer[:end]
	}
	dst = appendCombinedField(dst, ` "`, referer, hide&fieldReferer, false)
	dst = appendCombinedField(dst, `" "`, r.UserAgent, hide&fieldUserAgent, false)
	return append(dst, '"', '\n')
}

func appendCombinedField[T string | []byte](dst []byte, before string, s T, hide fields, escapeSpace bool) []byte {
	dst = append(dst, before...)
	if len(s) == 0 {
		return append(dst, '-')
	}
	if hide != 0 {
		return append(dst, redacted...)
	}
	cut := len(s) > maxField
	if cut {
		s = s[:maxField]
	}
	const upper = "0123456789ABCDEF"
	from := 0
	for i := range len(s) {
		c := s[i]
		if c > ' ' && c < 0x7f && c != '"' && c != '\\' || c == ' ' && !escapeSpace {
			continue
		}
		dst = append(dst, s[from:i]...)
		dst = append(dst, '\\', 'x', upper[c>>4], upper[c&15])
		from = i + 1
	}
	dst = append(dst, s[from:]...)
	if cut {
		dst = append(dst, "..."...)
	}
	return dst
}

func appendAddr(dst []byte, a netip.Addr, hide fields, unknown string) []byte {
	switch {
	case !a.IsValid():
		return append(dst, unknown...)
	case hide != 0:
		return append(dst, redacted...)
	}
	return a.WithZone("").AppendTo(dst) // a zone is free text
}

// appendTimestamp appends RFC 3339 in UTC with milliseconds.
func appendTimestamp(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	ms := t.Nanosecond() / 1e6
	return append(dst,
		digit(year/1000), digit(year/100), digit(year/10), digit(year), '-',
		digit(int(month)/10), digit(int(month)), '-', digit(day/10), digit(day), 'T',
		digit(hour/10), digit(hour), ':', digit(minute/10), digit(minute), ':', digit(second/10), digit(second), '.',
		digit(ms/100), digit(ms/10), digit(ms), 'Z')
}

func appendCombinedTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	name := month.String()
	return append(dst,
		digit(day/10), digit(day), '/', name[0], name[1], name[2], '/',
		digit(year/1000), digit(year/100), digit(year/10), digit(year), ':',
		digit(hour/10), digit(hour), ':', digit(minute/10), digit(minute), ':', digit(second/10), digit(second),
		' ', '+', '0', '0', '0', '0')
}

func digit(n int) byte { return '0' + byte(n%10) }

// appendMilliseconds appends d in ms with three decimals.
func appendMilliseconds(dst []byte, d time.Duration) []byte {
	us := int64(d / time.Microsecond)
	dst = strconv.AppendInt(dst, us/1000, 10)
	us %= 1000
	return append(dst, '.', digit(int(us/100)), digit(int(us/10)), digit(int(us)))
}
