package telemetry

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"unsafe"
)

// Record is what the access log tells about one request. Its bytes are borrowed during the call that appends it.
type Record struct {
	Time      time.Time // when the request arrived
	RequestID []byte
	ClientIP  netip.Addr // invalid: unknown, as on a Unix socket
	// ClientText is ClientIP as text without a zone, nil where nobody has it at hand.
	ClientText []byte
	Method     []byte
	Host       []byte
	Path       []byte // never the query string: it may carry secrets
	Protocol   string // HTTP/1.1
	Status     int
	BytesIn    int64         // body bytes from the client
	BytesOut   int64         // body bytes to the client
	Duration   time.Duration // whole request
	Upstream   time.Duration // waiting for the backend; negative: no backend was asked
	Attempts   int           // tries at backends
	Route      string
	Service    string
	Endpoint   string
	Consumer   []byte // consumer or authenticated subject
	Tenant     string
	Reason     string // why the gateway answered itself; a fixed word
	RPCStatus  uint8  // the status of gRPC plus one; 0: no call of gRPC
	Operation  string // of GraphQL, by name; "" for others
	TraceID    []byte // hexadecimal digits; empty where requests are not traced
	Referer    []byte // without query and fragment
	UserAgent  []byte
}

// maxField is the length in bytes up to which a field is logged; what is cut ends in "...".
const maxField = 4 << 10

const redacted = "[redacted]"

// Format renders a Record as one line. It never changes, and may be used concurrently.
type Format struct {
	combined bool // else JSON; a function value would move every Record to the heap
	extended bool // combined, and behind it the other fields of JSON
	stamped  bool
	hide     fields
	second   atomic.Pointer[second]
}

// second is a second as lines of the format have it: most requests arrive in the one in which the last has.
type second struct {
	unix int64
	text [32]byte
	n    int
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
var Formats = []string{"json", "combined", "combined_extended"}

// NewFormat makes a format of Formats. redact names fields and request headers, in any case, whose value is replaced by
// "[redacted]"; names of headers that are never logged, such as authorization and cookie, are fine.
func NewFormat(name string, redact []string) (*Format, error) {
	f := &Format{}
	switch name {
	case "json":
	case "combined":
		f.combined = true
	case "combined_extended":
		f.combined, f.extended = true, true
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
	if f.stamped {
		dst = appendStamp(dst, r)
	}
	switch {
	case f.extended:
		return append(appendExtended(f.appendCombined(dst, r), r, f.hide), '\n')
	case f.combined:
		return append(f.appendCombined(dst, r), '\n')
	}
	return f.appendJSON(dst, r)
}

// Stamped returns the same format with a stamp before each line, for outputs that want to know when and with which status a request was
// without reading the line: CutStamp reads it.
func (f *Format) Stamped() *Format {
	return &Format{combined: f.combined, extended: f.extended, hide: f.hide, stamped: true}
}

// A stamp is the status, 0 to 999, and the time in nanoseconds since 1970, in hexadecimal digits.
const (
	stampStatus = 3
	stampLen    = stampStatus + 16
)

func appendStamp(dst []byte, r *Record) []byte {
	status := max(0, min(r.Status, 999))
	for shift := 4 * (stampStatus - 1); shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[status>>shift&15])
	}
	at := uint64(r.Time.UnixNano())
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[at>>shift&15])
	}
	return dst
}

// CutStamp takes the stamp off a line.
func CutStamp(line []byte) (at time.Time, status int, rest []byte) {
	if len(line) < stampLen {
		return time.Time{}, 0, line
	}
	number := func(digits []byte) (n uint64) {
		for _, c := range digits {
			d := uint64(c - '0')
			if c >= 'a' {
				d = uint64(c-'a') + 10
			}
			n = n<<4 | d&15
		}
		return n
	}
	return time.Unix(0, int64(number(line[stampStatus:stampLen]))), int(number(line[:stampStatus])), line[stampLen:]
}

// maxLine is the most that Append appends for r.
func maxLine(r *Record) int {
	const fixed = 1280 // stamp, names, numbers, times, address, marks of cut fields
	text := len(r.RequestID) + len(r.Method) + len(r.Host) + len(r.Path) + len(r.Protocol) + len(r.Route) + len(r.Service) +
		len(r.Endpoint) + len(r.Consumer) + len(r.Tenant) + len(r.Reason) + len(r.Operation) + len(r.TraceID) + len(r.Referer) + len(r.UserAgent)
	if text > maxField {
		text = cutText(r)
	}
	return fixed + 6*text // a byte becomes \u00xx at worst
}

// cutText is how much of the texts of r is logged.
func cutText(r *Record) (text int) {
	for _, n := range [...]int{
		len(r.RequestID), len(r.Method), len(r.Host), len(r.Path), len(r.Protocol), len(r.Route), len(r.Service),
		len(r.Endpoint), len(r.Consumer), len(r.Tenant), len(r.Reason), len(r.Operation), len(r.TraceID), len(r.Referer), len(r.UserAgent),
	} {
		text += min(n, maxField)
	}
	return text
}

// appendJSON writes an object with the same keys in the same order always; behind them stand grpc_status for calls of gRPC, operation for
// requests of GraphQL that name theirs, and trace_id where requests are traced. Text that is not UTF-8 has \ufffd in its place, and what a terminal could take for a command
// is escaped.
func (f *Format) appendJSON(dst []byte, r *Record) []byte {
	hide := f.hide
	dst = append(dst, `{"time":"`...)
	dst = f.appendTime(dst, r.Time)
	ms := r.Time.Nanosecond() / 1e6
	dst = append(dst, digit(ms/100), digit(ms/10), digit(ms), 'Z')
	dst = appendJSONField(dst, `","request_id":"`, view(r.RequestID), hide&fieldRequestID)
	dst = append(dst, `","client_ip":"`...)
	dst = appendClient(dst, r, hide&fieldClientIP, "")
	dst = appendJSONField(dst, `","method":"`, view(r.Method), 0)
	dst = appendJSONField(dst, `","host":"`, view(r.Host), hide&fieldHost)
	dst = appendJSONField(dst, `","path":"`, view(r.Path), hide&fieldPath)
	dst = appendNumber(append(dst, `","status":`...), int64(r.Status), 0)
	dst = appendNumber(append(dst, `,"bytes_in":`...), r.BytesIn, 0)
	dst = appendNumber(append(dst, `,"bytes_out":`...), r.BytesOut, 0)
	dst = appendMilliseconds(append(dst, `,"duration_ms":`...), max(0, r.Duration))
	if r.Upstream < 0 {
		dst = append(dst, `,"upstream_ms":null`...)
	} else {
		dst = appendMilliseconds(append(dst, `,"upstream_ms":`...), r.Upstream)
	}
	dst = appendJSONField(dst, `,"route":"`, r.Route, 0)
	dst = appendJSONField(dst, `","service":"`, r.Service, 0)
	dst = appendJSONField(dst, `","endpoint":"`, r.Endpoint, hide&fieldEndpoint)
	dst = appendJSONField(dst, `","consumer":"`, view(r.Consumer), hide&fieldConsumer)
	dst = appendJSONField(dst, `","tenant":"`, r.Tenant, 0)
	dst = appendJSONField(dst, `","reason":"`, r.Reason, 0)
	dst = appendNumber(append(dst, `","attempts":`...), int64(r.Attempts), 0)
	dst = appendJSONField(dst, `,"protocol":"`, r.Protocol, 0)
	dst = appendJSONField(dst, `","referer":"`, withoutQuery(view(r.Referer)), hide&fieldReferer)
	dst = appendJSONField(dst, `","user_agent":"`, view(r.UserAgent), hide&fieldUserAgent)
	dst = append(dst, '"')
	if r.RPCStatus > 0 || r.Operation != "" || len(r.TraceID) > 0 {
		dst = appendJSONRest(dst, r)
	}
	return append(dst, '}', '\n')
}

// appendJSONRest writes what few lines have.
func appendJSONRest(dst []byte, r *Record) []byte {
	if r.RPCStatus > 0 {
		dst = appendNumber(append(dst, `,"grpc_status":`...), int64(r.RPCStatus-1), 0)
	}
	if r.Operation != "" {
		dst = append(appendJSONField(dst, `,"operation":"`, r.Operation, 0), '"')
	}
	if len(r.TraceID) > 0 {
		dst = append(append(append(dst, `,"trace_id":"`...), r.TraceID...), '"')
	}
	return dst
}

// view is b as a string for as long as nobody writes to b, as during the call that appends it. All texts are strings then, and one
// function writes them, where one for each of the two would not fit in the cache beside each other.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// appendJSONField writes what goes before a text, and the text.
func appendJSONField(dst []byte, key, value string, hide fields) []byte {
	dst = append(dst, key...)
	if hide != 0 && len(value) > 0 {
		return append(dst, redacted...)
	}
	if len(value) <= maxField && plainUpTo(value, 0) == len(value) {
		return append(dst, value...)
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

func appendJSONText(dst []byte, s string) []byte {
	cut := len(s) > maxField
	if cut {
		s = s[:maxField]
	}
	from := 0
	for i := plainUpTo(s, 0); i < len(s); i = plainUpTo(s, i) {
		c := s[i]
		r, size := rune(c), 1
		if c >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
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

// plainUpTo is the first place from i on where something stands that JSON does not take as it is, or may not. It looks at eight bytes at a
// time, as nearly all that is logged is plain.
func plainUpTo(s string, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := len(s)
	for n-i >= 8 {
		b := s[i : i+8]
		v := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		quote, slash := v^ones*'"', v^ones*'\\'
		// The highest bit of a byte says that it is below a space, a quote, a backslash, or none that ASCII can print.
		if ((v-ones*' ')|(quote-ones)&^quote|(slash-ones)&^slash|v|(v+ones))&highs != 0 {
			break
		}
		if i += 8; i < n && i > n-8 {
			i = n - 8 // the rest, and some of what was looked at
		}
	}
	for i < n && plainJSON[s[i]] {
		i++
	}
	return i
}

// appendCombined writes Apache's combined format, escaped as nginx does it: quotes, backslashes, control bytes and all beyond ASCII as
// \xHH. Spaces are escaped too where the format separates by them. The request line has the path alone.
func (f *Format) appendCombined(dst []byte, r *Record) []byte {
	hide := f.hide
	dst = appendClient(dst, r, hide&fieldClientIP, "-")
	dst = appendCombinedField(dst, " - ", view(r.Consumer), hide&fieldConsumer, true)
	dst = f.appendTime(append(dst, " ["...), r.Time)
	dst = appendCombinedField(dst, `] "`, view(r.Method), 0, true)
	dst = appendCombinedField(dst, " ", view(r.Path), hide&fieldPath, true)
	dst = appendCombinedField(dst, " ", r.Protocol, 0, true)
	dst = appendNumber(append(dst, `" `...), int64(r.Status), 0)
	dst = appendNumber(append(dst, ' '), r.BytesOut, 0)
	dst = appendCombinedField(dst, ` "`, withoutQuery(view(r.Referer)), hide&fieldReferer, false)
	dst = appendCombinedField(dst, `" "`, view(r.UserAgent), hide&fieldUserAgent, false)
	return append(dst, '"')
}

// appendExtended writes what JSON has beyond the combined format, as NAME="VALUE" or NAME=NUMBER, in the order of JSON.
func appendExtended(dst []byte, r *Record, hide fields) []byte {
	dst = appendCombinedField(dst, ` request_id="`, view(r.RequestID), hide&fieldRequestID, false)
	dst = appendCombinedField(dst, `" host="`, view(r.Host), hide&fieldHost, false)
	dst = appendNumber(append(dst, `" bytes_in=`...), r.BytesIn, 0)
	dst = appendMilliseconds(append(dst, ` duration_ms=`...), max(0, r.Duration))
	dst = append(dst, ` upstream_ms=`...)
	if r.Upstream < 0 {
		dst = append(dst, '-')
	} else {
		dst = appendMilliseconds(dst, r.Upstream)
	}
	dst = appendCombinedField(dst, ` route="`, r.Route, 0, false)
	dst = appendCombinedField(dst, `" service="`, r.Service, 0, false)
	dst = appendCombinedField(dst, `" endpoint="`, r.Endpoint, hide&fieldEndpoint, false)
	dst = appendCombinedField(dst, `" tenant="`, r.Tenant, 0, false)
	dst = appendCombinedField(dst, `" reason="`, r.Reason, 0, false)
	dst = appendNumber(append(dst, `" attempts=`...), int64(r.Attempts), 0)
	if r.RPCStatus > 0 {
		dst = appendNumber(append(dst, ` grpc_status=`...), int64(r.RPCStatus-1), 0)
	}
	if len(r.TraceID) > 0 {
		dst = append(appendCombinedField(dst, ` trace_id="`, view(r.TraceID), 0, false), '"')
	}
	return dst
}

// withoutQuery is a URL up to its query or fragment, which may hold secrets.
func withoutQuery(u string) string {
	for i := range len(u) {
		if u[i] == '?' || u[i] == '#' {
			return u[:i]
		}
	}
	return u
}

func appendCombinedField(dst []byte, before, s string, hide fields, escapeSpace bool) []byte {
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

func appendClient(dst []byte, r *Record, hide fields, unknown string) []byte {
	switch {
	case !r.ClientIP.IsValid():
		return append(dst, unknown...)
	case hide != 0:
		return append(dst, redacted...)
	case len(r.ClientText) > 0:
		return append(dst, r.ClientText...)
	}
	return r.ClientIP.WithZone("").AppendTo(dst) // a zone is free text
}

// appendTime appends the second of t, in UTC: of RFC 3339 with a point behind it, or as the combined format has it.
func (f *Format) appendTime(dst []byte, t time.Time) []byte {
	if s := f.second.Load(); s != nil && s.unix == t.Unix() {
		return append(dst, s.text[:s.n]...)
	}
	return f.appendOtherTime(dst, t)
}

// appendOtherTime also keeps the second if it is later than the one at hand: requests that have taken long must not drive that out.
func (f *Format) appendOtherTime(dst []byte, t time.Time) []byte {
	layout := "2006-01-02T15:04:05."
	if f.combined {
		layout = "02/Jan/2006:15:04:05 +0000"
	}
	begin := len(dst)
	dst = t.UTC().AppendFormat(dst, layout)
	if s := f.second.Load(); s == nil || s.unix < t.Unix() {
		s = &second{unix: t.Unix()}
		s.n = copy(s.text[:], dst[begin:])
		f.second.Store(s)
	}
	return dst
}

func digit(n int) byte { return '0' + byte(n%10) }

// appendMilliseconds appends d in ms with three decimals.
func appendMilliseconds(dst []byte, d time.Duration) []byte {
	return appendNumber(dst, int64(d/time.Microsecond), 3)
}

// appendNumber appends n, the last decimals of its digits behind a point.
func appendNumber(dst []byte, n int64, decimals int) []byte {
	var text [21]byte
	i := len(text)
	left := uint64(n)
	if n < 0 {
		left = -left
	}
	for {
		i--
		text[i] = '0' + byte(left%10)
		left /= 10
		if decimals--; decimals == 0 {
			i--
			text[i] = '.'
		} else if left == 0 && decimals < 0 {
			break
		}
	}
	if n < 0 {
		i--
		text[i] = '-'
	}
	return append(dst, text[i:]...)
}
