package tracing

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"sluice/gateway/exchange"
	"sluice/gateway/router"
)

// encoder writes spans as they are sent: as the field `spans` of OTLP's ScopeSpans.
type encoder struct {
	spans, span []byte // done, and the one being written
	text        []byte // a value that is put together
}

// Fields of the messages of opentelemetry/proto/trace/v1/trace.proto and common/v1/common.proto.
const (
	scopeSpansSpans = 2

	spanTraceID    = 1
	spanSpanID     = 2
	spanTraceState = 3
	spanParent     = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanStatus     = 15
	spanFlags      = 16

	statusCode  = 3
	statusError = 2

	keyValueKey   = 1
	keyValueValue = 2
	valueString   = 1
	valueInt      = 3
)

const (
	kindServer = 2
	kindClient = 3
	// Flags of a span beside those of its trace: that it is known whether the parent is another process's, and that it is.
	flagKnowsRemote = 1 << 8
	flagRemote      = 1 << 9
)

// maxValue is the length in bytes up to which a value is recorded.
const maxValue = 1024

// request writes the span of a request and those of its attempts and calls.
func (e *encoder) request(r *request, outgoing []outgoing, t *texts) {
	at := func(clock int64) uint64 { return uint64(r.clock + clock) }
	state, original, path, query, host, port, agent, id := t.next(), t.next(), t.next(), t.next(), t.next(), t.next(), t.next(), t.next()
	var backendPath, backendQuery []byte
	if len(outgoing) > 0 {
		backendPath, backendQuery = t.next(), t.next()
	}
	method := "HTTP"
	if r.method != otherMethod {
		method = r.method
	}

	e.text = append(e.text[:0], method...)
	route := routeOf(r.pattern)
	if route != "" {
		e.text = append(append(e.text, ' '), route...)
	}
	flags := uint32(flagKnowsRemote) | uint32(r.flags)
	if r.remote {
		flags |= flagRemote
	}
	e.begin(r.trace, r.server, r.parent, state, kindServer, at(r.began), at(r.ended), flags)
	e.str("http.request.method", r.method)
	if len(original) > 0 {
		e.bytes("http.request.method_original", original)
	}
	e.str("url.scheme", r.scheme)
	e.bytes("url.path", path)
	if len(query) > 0 {
		e.bytes("url.query", query)
	}
	if route != "" {
		e.str("http.route", route)
	}
	e.bytes("server.address", host)
	e.port(port)
	e.addr("client.address", r.client)
	e.addr("network.peer.address", r.peer)
	e.str("network.protocol.version", r.version)
	if r.agent {
		e.bytes("user_agent.original", agent)
	}
	if r.status > 0 {
		e.int("http.response.status_code", int64(r.status))
	}
	e.int("http.request.body.size", r.in)
	e.int("http.response.body.size", r.out)
	if r.route != "" {
		e.str("sluice.route", r.route)
	}
	if r.consumer != "" {
		e.str("sluice.consumer", r.consumer)
	}
	if r.cache != "" {
		e.str("sluice.cache", r.cache)
	}
	if len(id) > 0 {
		e.bytes("sluice.request_id", id)
	}
	if r.reason != "" {
		e.str("sluice.reason", r.reason)
	}
	for range r.tags {
		e.bytes(clientTags, t.next())
	}
	if r.status >= 500 {
		fault := r.reason
		if !r.rejected {
			fault = ""
		}
		e.fail(fault, r.status)
	}
	e.end()

	for i := range outgoing {
		o := &outgoing[i]
		if o.number == 0 {
			e.call(r, o, state, at(o.began), at(max(o.began, o.ended)))
			continue
		}
		e.text = append(e.text[:0], method...)
		e.begin(r.trace, o.id, r.server, state, kindClient, at(o.began), at(o.ended), flagKnowsRemote|uint32(r.flags))
		e.str("http.request.method", r.method)
		if len(original) > 0 {
			e.bytes("http.request.method_original", original)
		}
		if e.server(o.endpoint) {
			e.text = append(e.text[:0], o.endpoint...)
			e.text = router.AppendEncoded(e.text, backendPath)
			if len(backendQuery) > 0 {
				e.text = append(append(e.text, '?'), backendQuery...)
			}
			e.bytes("url.full", e.text)
		}
		if o.status > 0 {
			e.int("http.response.status_code", int64(o.status))
		}
		if o.number > 1 {
			e.int("http.request.resend_count", int64(o.number-1))
		}
		e.str("sluice.service", o.service)
		if o.fault != "" || o.status >= 400 {
			e.fail(o.fault, o.status)
		}
		e.end()
	}
}

// call writes the span of a call that a policy made. Its query is the configuration's, and may be a credential.
func (e *encoder) call(r *request, a *outgoing, state []byte, from, to uint64) {
	e.text = append(append(append(e.text[:0], a.method...), ' '), a.policy...)
	e.begin(r.trace, a.id, r.server, state, kindClient, from, to, flagKnowsRemote|uint32(r.flags))
	e.str("http.request.method", a.method)
	e.server(a.endpoint)
	url, _, _ := strings.Cut(a.endpoint, "?")
	e.str("url.full", url)
	if a.status > 0 {
		e.int("http.response.status_code", int64(a.status))
	}
	e.str("sluice.policy", a.policy)
	if a.fault != "" || a.status >= 400 {
		e.fail(a.fault, a.status)
	}
	e.end()
}

// server tells where a request went; false if that has no URL.
func (e *encoder) server(endpoint string) bool {
	scheme, rest, ok := strings.Cut(endpoint, "://")
	if !ok { // unix:PATH
		e.str("server.address", strings.TrimPrefix(endpoint, "unix:"))
		return false
	}
	authority := rest
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		authority = rest[:end]
	}
	host, port := authority, int64(80)
	if scheme == "https" || scheme == "grpcs" {
		port = 443
	}
	if colon := strings.LastIndexByte(authority, ':'); colon > strings.LastIndexByte(authority, ']') {
		if n, err := strconv.Atoi(authority[colon+1:]); err == nil {
			host, port = authority[:colon], int64(n)
		}
	}
	e.str("server.address", strings.Trim(host, "[]"))
	e.int("server.port", port)
	return true
}

// begin begins a span whose name is in e.text. A parent of 0 is none.
func (e *encoder) begin(trace traceID, id, parent spanID, state []byte, kind byte, from, to uint64, flags uint32) {
	b := binary.BigEndian.AppendUint64(append(e.span[:0], spanTraceID<<3|wireBytes, 16), trace.high)
	b = binary.BigEndian.AppendUint64(b, trace.low)
	b = binary.BigEndian.AppendUint64(append(b, spanSpanID<<3|wireBytes, 8), uint64(id))
	if len(state) > 0 {
		b = append(appendLength(append(b, spanTraceState<<3|wireBytes), len(state)), state...)
	}
	if parent != 0 {
		b = binary.BigEndian.AppendUint64(append(b, spanParent<<3|wireBytes, 8), uint64(parent))
	}
	name := clean(e.text)
	b = append(appendLength(append(b, spanName<<3|wireBytes), len(name)), name...)
	b = append(b, spanKind<<3|byte(protowire.VarintType), kind)
	b = binary.LittleEndian.AppendUint64(append(b, spanStart<<3|byte(protowire.Fixed64Type)), from)
	b = binary.LittleEndian.AppendUint64(append(b, spanEnd<<3|byte(protowire.Fixed64Type)), max(from, to))
	b = protowire.AppendTag(b, spanFlags, protowire.Fixed32Type)
	e.span = binary.LittleEndian.AppendUint32(b, flags)
}

// end adds the span to those that are done.
func (e *encoder) end() {
	e.spans = append(appendLength(append(e.spans, scopeSpansSpans<<3|wireBytes), len(e.span)), e.span...)
}

// fail marks the span as failed, by a fault or else by a status.
func (e *encoder) fail(fault string, status int) {
	if fault != "" {
		e.str("error.type", fault)
	} else {
		e.text = strconv.AppendInt(e.text[:0], int64(status), 10)
		e.bytes("error.type", e.text)
	}
	e.span = protowire.AppendTag(e.span, spanStatus, protowire.BytesType)
	e.span = protowire.AppendVarint(e.span, 2)
	e.span = protowire.AppendTag(e.span, statusCode, protowire.VarintType)
	e.span = protowire.AppendVarint(e.span, statusError)
}

// str records a text of the gateway's own or of the configuration.
func (e *encoder) str(key, value string) {
	b := e.key(key, len(value))
	e.span = append(b, value...)
}

// bytes records what a client or a backend said.
func (e *encoder) bytes(key string, value []byte) {
	value = clean(value)
	b := e.key(key, len(value))
	e.span = append(b, value...)
}

// key begins an attribute whose value is a text of n bytes.
func (e *encoder) key(key string, n int) []byte {
	if all := len(key) + n + 6; all < 0x80 { // every length is one byte, as nearly always
		b := append(append(e.span, spanAttributes<<3|wireBytes, byte(all), keyValueKey<<3|wireBytes, byte(len(key))), key...)
		return append(b, keyValueValue<<3|wireBytes, byte(n+2), valueString<<3|wireBytes, byte(n))
	}
	inner := 1 + protowire.SizeBytes(n)
	return appendLength(append(e.attribute(key, inner), valueString<<3|wireBytes), n)
}

// attribute begins an attribute whose value is a message of inner bytes.
func (e *encoder) attribute(key string, inner int) []byte {
	b := append(e.span, spanAttributes<<3|wireBytes)
	b = appendLength(b, 1+protowire.SizeBytes(len(key))+1+protowire.SizeBytes(inner))
	b = append(appendLength(append(b, keyValueKey<<3|wireBytes), len(key)), key...)
	return appendLength(append(b, keyValueValue<<3|wireBytes), inner)
}

// wireBytes is protowire.BytesType in a tag of one byte, as all of attributes are.
const wireBytes = byte(protowire.BytesType)

// appendLength is protowire.AppendVarint of what is nearly always one byte.
func appendLength(b []byte, n int) []byte {
	if n < 0x80 {
		return append(b, byte(n))
	}
	return protowire.AppendVarint(b, uint64(n))
}

func (e *encoder) int(key string, n int64) {
	b := e.attribute(key, 1+protowire.SizeVarint(uint64(n)))
	e.span = protowire.AppendVarint(append(b, valueInt<<3|byte(protowire.VarintType)), uint64(n))
}

func (e *encoder) port(text []byte) {
	n := int64(0)
	for _, c := range text {
		if c < '0' || c > '9' || n > 65535 {
			return
		}
		n = n*10 + int64(c-'0')
	}
	if n > 0 {
		e.int("server.port", n)
	}
}

func (e *encoder) addr(key string, a netip.Addr) {
	if a.IsValid() {
		e.text = a.Unmap().WithZone("").AppendTo(e.text[:0])
		e.bytes(key, e.text)
	}
}

// clean gives value as it may be recorded: not too long, and valid UTF-8, since a receiver refuses a whole batch for one byte that is not.
func clean(value []byte) []byte {
	if len(value) > maxValue {
		value = value[:maxValue]
		for i := 1; i < utf8.UTFMax && i < len(value); i++ { // a character that was cut in two
			if tail := value[len(value)-i:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					value = value[:len(value)-i]
				}
				break
			}
		}
	}
	if utf8.Valid(value) {
		return value
	}
	return bytes.ToValidUTF8(value, []byte("\uFFFD"))
}

const redacted = "REDACTED"

// appendQuery appends a query without the values of parameters that are not to be recorded.
func (t *tracer) appendQuery(dst, query []byte) []byte {
	before := len(dst)
	for first := true; len(query) > 0 && len(dst)-before < maxValue; first = false {
		part := query
		if end := indexByte(query, '&'); end >= 0 {
			part, query = query[:end], query[end+1:]
		} else {
			query = nil
		}
		if !first {
			dst = append(dst, '&')
		}
		equals := indexByte(part, '=')
		switch {
		case equals < 0 && len(part) > 0 && !t.recordsValue(part):
			// It may be a name or a value.
			dst = append(dst, redacted...)
		case equals < 0 || t.recordsValue(part[:equals]):
			dst = append(dst, part...)
		default:
			dst = append(append(dst, part[:equals+1]...), redacted...)
		}
	}
	return dst
}

func (t *tracer) recordsValue(name []byte) bool {
	for _, v := range t.values {
		if string(name) == v {
			return true
		}
	}
	return false
}

const otherMethod = "_OTHER"

// knownMethod gives a method as it is recorded, and as it came where that is not the same. Clients make up methods, and one span name each is too many.
func knownMethod(method []byte) (known string, original []byte) {
	switch string(method) {
	case "GET":
		return "GET", nil
	case "POST":
		return "POST", nil
	case "HEAD":
		return "HEAD", nil
	case "PUT":
		return "PUT", nil
	case "PATCH":
		return "PATCH", nil
	case "DELETE":
		return "DELETE", nil
	case "OPTIONS":
		return "OPTIONS", nil
	case "CONNECT":
		return "CONNECT", nil
	case "TRACE":
		return "TRACE", nil
	}
	return otherMethod, method
}

// routeOf gives a path pattern without the signs that tell its kind.
func routeOf(pattern string) string {
	if pattern != "" && (pattern[0] == '=' || pattern[0] == '~') {
		return pattern[1:]
	}
	return pattern
}

func pathOf(x *exchange.Exchange) []byte {
	if x.Path != nil || x.Unread {
		return x.Path
	}
	path := x.Request.Header.RequestURI() // unusable: as it came, without the query
	if end := bytes.IndexAny(path, "?#"); end >= 0 {
		path = path[:end]
	}
	return path
}

func version(x *exchange.Exchange) string {
	switch {
	case x.Protocol != "":
		return strings.TrimSuffix(strings.TrimPrefix(x.Protocol, "HTTP/"), ".0")
	case x.Unread || x.Request.Header.IsHTTP11():
		return "1.1"
	}
	return "1.0"
}
