package upstream

import (
	"bytes"
	"errors"
	"strconv"

	"sluice/gateway/exchange"
	"sluice/gateway/router"
)

// Framing is how a message body is delimited (RFC 9112, section 6).
type Framing struct {
	// Chunked: transfer coding chunked.
	Chunked bool
	// Length is the body's length in bytes, -1 if it is chunked or ends with the connection.
	Length int64
}

// requestHead is what BuildRequestHead needs to know beside the exchange.
type requestHead struct {
	// kinds are those of the exchange's fields.
	kinds kinds
	// framing of the body as it will be sent; Length 0 and body false for none.
	body    bool
	framing Framing
	// upgrade passes Upgrade and Connection: Upgrade on.
	upgrade bool
	// passHost passes the client's Host on, in the place of the endpoint's.
	passHost bool
}

// kinds is a set of kinds of fields.
type kinds uint16

func kindsOf(fields []exchange.Field) (k kinds) {
	for i := range fields {
		k |= 1 << fields[i].Kind
	}
	return k
}

func (k kinds) has(kind exchange.Kind) bool { return k>>kind&1 != 0 }

// BuildRequestHead appends the head of the request for the backend. The framing
// fields and Host are the gateway's own; hop-by-hop fields, identity and
// forwarding fields of the client never pass, and what a Connection field names
// is dropped before the gateway adds its own, so that it can not strip them.
func BuildRequestHead(x *exchange.Exchange, ep *endpoint, h *requestHead, dst []byte) []byte {
	dst = put(dst, x.Method())
	dst = putText(dst, " ")
	if len(ep.basePath) > 0 {
		dst = put(dst, ep.basePath)
	}
	dst = router.AppendEncoded(dst, x.BackendPath())
	if q := x.BackendQuery(); len(q) > 0 {
		dst = put(putText(dst, "?"), q)
	}
	if h.passHost {
		dst = put(putText(dst, " HTTP/1.1\r\nHost: "), x.Request.Header.Host())
		dst = putText(dst, "\r\n")
	} else {
		dst = putText(dst, ep.hostLine)
	}
	if dst = putFields(dst, x, h); h.upgrade || h.kinds.has(exchange.KindTE) {
		dst = appendConnection(dst, x.Fields, h.upgrade)
	}
	dst = appendForwarded(dst, x)
	if x.Identity.Authenticated || x.Identity.Consumer != nil {
		dst = appendIdentity(dst, x)
	}
	if edits := x.ToBackend.List(); len(edits) > 0 {
		dst = appendEdits(dst, edits)
	}
	if h.body || h.framing.Chunked {
		return appendFraming(putText(dst, "Via: 1.1 sluice\r\n"), h.framing)
	}
	return putText(dst, "Via: 1.1 sluice\r\n\r\n")
}

// put and putText append. A call of them takes a quarter of the code of an append,
// and a head has a lot of pieces.
//
//go:noinline
func put(dst, b []byte) []byte { return append(dst, b...) }

//go:noinline
func putText(dst []byte, s string) []byte { return append(dst, s...) }

// putFields appends the client's fields that go on.
func putFields(dst []byte, x *exchange.Exchange, h *requestHead) []byte {
	replaces := len(x.ToBackend.List()) > 0
	named := h.kinds.has(exchange.KindConnection) && connectionNames(x.Fields)
	var run []byte // lines that stand one behind the other
	for i := range x.Fields {
		f := &x.Fields[i]
		switch f.Kind {
		case exchange.KindOther, exchange.KindVia:
		case exchange.KindHop:
			// What a Trailer field announces is passed on behind the body.
			if !h.framing.Chunked || !exchange.EqualFold(f.Name, "trailer") {
				continue
			}
		default:
			continue
		}
		if named && namedByConnection(x.Fields, f.Name) || replaces && x.ToBackend.Replaces(f.Name) {
			continue
		}
		line := lineOf(f)
		switch n := len(run) + len(line); {
		case line == nil:
			dst = appendField(put(dst, run), f.Name, f.Value)
			run = nil
		case len(run) > 0 && n <= cap(run) && &run[:n][len(run)] == &line[0]:
			run = run[:n]
		default:
			dst = put(dst, run)
			run = line
		}
	}
	return put(dst, run)
}

func appendEdits(dst []byte, edits []exchange.HeaderEdit) []byte {
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditRemove {
			dst = put(putText(putText(dst, e.Name), ": "), e.Value)
			dst = putText(dst, "\r\n")
		}
	}
	return dst
}

// lineOf returns the line of a field where it stands on the wire as it would be
// written here; else nil.
func lineOf(f *exchange.Field) []byte {
	v := len(f.Name) + len(": ")
	n := v + len(f.Value) + len("\r\n")
	if n > cap(f.Name) || len(f.Value) == 0 {
		return nil
	}
	line := f.Name[:n]
	if &line[v] != &f.Value[0] || line[v-2] != ':' || line[v-1] != ' ' || line[n-2] != '\r' || line[n-1] != '\n' {
		return nil
	}
	return line
}

func appendField(dst, name, value []byte) []byte {
	dst = put(putText(put(dst, name), ": "), value)
	return putText(dst, "\r\n")
}

// appendConnection appends what goes on of the fields about the connection.
func appendConnection(dst []byte, fields []exchange.Field, upgrade bool) []byte {
	var protocols []byte
	for i := range fields {
		switch f := &fields[i]; f.Kind {
		case exchange.KindUpgrade:
			protocols = f.Value
		case exchange.KindTE:
			// The one value that a proxy may pass on: it takes trailers itself.
			if exchange.EqualFold(f.Value, "trailers") {
				dst = append(dst, "TE: trailers\r\nConnection: TE\r\n"...)
			}
		}
	}
	if upgrade && protocols != nil {
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: "...)
		dst = append(dst, protocols...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// appendFraming ends a head that a body follows.
func appendFraming(dst []byte, f Framing) []byte {
	if f.Chunked {
		return putText(dst, "Transfer-Encoding: chunked\r\n\r\n")
	}
	dst = strconv.AppendInt(putText(dst, "Content-Length: "), f.Length, 10)
	return putText(dst, "\r\n\r\n")
}

// appendForwarded tells the backend where the request came from. What the
// client says of it counts only from a trusted proxy.
func appendForwarded(dst []byte, x *exchange.Exchange) []byte {
	dst = putText(dst, "X-Forwarded-For: ")
	if x.TrustedPeer {
		dst = appendChain(dst, x.Fields)
	}
	if x.PeerText != nil {
		dst = put(dst, x.PeerText)
	} else {
		dst = x.PeerAddr.AppendTo(dst)
	}
	rest := "\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: "
	if x.Scheme == "http" {
		rest = "\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: "
	}
	dst = put(putText(dst, rest), x.ForwardedHost)
	dst = put(putText(dst, "\r\nX-Forwarded-Port: "), x.ForwardedPort)
	return putText(dst, "\r\n")
}

// appendChain appends what a trusted proxy says of who was before it.
func appendChain(dst []byte, fields []exchange.Field) []byte {
	for i := range fields {
		f := &fields[i]
		if f.Kind == exchange.KindForwarded && len(f.Value) > 0 && exchange.EqualFold(f.Name, "x-forwarded-for") {
			dst = append(dst, f.Value...)
			dst = append(dst, ", "...)
		}
	}
	return dst
}

// appendIdentity tells the backend who the caller is, where an authentication
// policy found out, and nowhere else.
func appendIdentity(dst []byte, x *exchange.Exchange) []byte {
	id := &x.Identity
	if id.Authenticated {
		if _, decided := x.ToBackend.Value("X-User-ID"); !decided {
			dst = append(dst, "X-User-ID: "...)
			if len(exchange.TrimOWS(id.Subject)) > 0 && exchange.IsFieldValue(id.Subject) {
				dst = append(dst, id.Subject...)
			} else {
				dst = x.ClientAddr.AppendTo(dst)
			}
			dst = append(dst, "\r\n"...)
		}
	}
	if c := id.Consumer; c != nil {
		if c.Lines != nil {
			dst = append(dst, c.Lines...)
		} else {
			dst = append(dst, "X-Consumer-ID: "...)
			dst = append(dst, c.Name...)
			dst = append(dst, "\r\n"...)
			if len(c.GroupsHeader) > 0 {
				dst = append(dst, "X-Consumer-Groups: "...)
				dst = append(dst, c.GroupsHeader...)
				dst = append(dst, "\r\n"...)
			}
		}
		if !id.Authenticated {
			dst = append(dst, "X-Anonymous-Consumer: true\r\n"...)
		}
	}
	return dst
}

// connectionNames reports whether a Connection field names anything but the
// usual close, keep-alive and upgrade.
func connectionNames(fields []exchange.Field) bool {
	for i := range fields {
		if fields[i].Kind != exchange.KindConnection {
			continue
		}
		rest := fields[i].Value
		for len(rest) > 0 {
			var token []byte
			token, rest = nextToken(rest)
			if len(token) > 0 && !exchange.EqualFold(token, "close") && !exchange.EqualFold(token, "keep-alive") && !exchange.EqualFold(token, "upgrade") {
				return true
			}
		}
	}
	return false
}

func namedByConnection(fields []exchange.Field, name []byte) bool {
	for i := range fields {
		if fields[i].Kind != exchange.KindConnection {
			continue
		}
		rest := fields[i].Value
		for len(rest) > 0 {
			var token []byte
			token, rest = nextToken(rest)
			if len(token) == len(name) && bytes.EqualFold(token, name) {
				return true
			}
		}
	}
	return false
}

// nextToken cuts the first element off a comma-separated list (RFC 9110, section 5.6.1).
func nextToken(list []byte) (token, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		token, rest = list[:i], list[i+1:]
	} else {
		token = list
	}
	return exchange.TrimOWS(token), rest
}

// responseHead is what ParseResponseHead finds out.
type responseHead struct {
	status  int
	framing Framing
	// unframed: no Content-Length and not chunked; the body ends with the connection.
	unframed bool
	// close: the connection ends with this response.
	close bool
	// hop: there are hop-by-hop fields to remove; named: Connection names some.
	hop, named bool
	// upgrade: the response has an Upgrade field; dated: it has a Date.
	upgrade, dated bool
	// own are the lines of the fields that do not go on: framing and hop-by-hop.
	own  [maxOwn]struct{ start, end uint32 }
	owns int
}

// maxOwn bounds the lines that are remembered; a head with more is read again.
const maxOwn = 8

// reset leaves the lines, which owns bounds.
func (h *responseHead) reset() {
	h.status, h.framing, h.owns = 0, Framing{Length: -1}, 0
	h.unframed, h.close, h.hop, h.named, h.upgrade, h.dated = false, false, false, false, false, false
}

func (h *responseHead) remember(start, end int) {
	if h.owns < maxOwn {
		h.own[h.owns].start, h.own[h.owns].end = uint32(start), uint32(end)
	}
	h.owns++
}

// Errors of a response head.
var (
	errStatusLine     = errors.New("malformed status line")
	errFieldLine      = errors.New("malformed header field")
	errFraming        = errors.New("ambiguous message length")
	errTransferCoding = errors.New("unsupported transfer coding")
)

// ParseResponseHead reads a complete response head; see parseHead.
func ParseResponseHead(head []byte, h *responseHead) error {
	n, err := parseHead(head, h)
	if err == nil && n != len(head) {
		err = errFieldLine
	}
	return err
}

// parseHead reads the response head that b begins with, strictly (RFC 9112):
// CRLF line ends, field names that are tokens, no folding, at most one valid
// length, no transfer coding but chunked, and not both. n is its length, with
// the empty line at its end; 0 if more has to come to tell.
func parseHead(b []byte, h *responseHead) (n int, err error) {
	h.reset()
	// HTTP/1.x SP 3DIGIT SP reason; the SP before an empty reason is often left out.
	if len(b) <= len("HTTP/1.1 200") {
		return 0, beginsHead(b)
	}
	if string(b[:len(protocol)]) != protocol || b[7]|1 != '1' || b[8] != ' ' {
		return 0, errStatusLine
	}
	d1, d2, d3 := b[9]-'0', b[10]-'0', b[11]-'0'
	if d1 < 1 || d1 > 5 || d2 > 9 || d3 > 9 {
		return 0, errStatusLine
	}
	h.status = int(d1)*100 + int(d2)*10 + int(d3)
	http10 := b[7] == '0'
	h.close = http10
	at := 12 + valueLen(b[12:])
	if at+1 >= len(b) || b[at] != '\r' || b[at+1] != '\n' || at > 12 && b[12] != ' ' {
		return 0, lineFault(b[at:], errStatusLine)
	}
	for at += 2; ; {
		start := at
		at += exchange.TokenLen(b[at:])
		colon := at
		if at > start && at < len(b) && b[at] == ':' {
			at++
			at += valueLen(b[at:])
		}
		if at+1 >= len(b) || b[at] != '\r' || b[at+1] != '\n' {
			return 0, lineFault(b[at:], errFieldLine)
		}
		at += 2
		if at == start+2 {
			break
		}
		if at == colon+2 {
			return 0, errFieldLine
		}
		if peculiar>>(colon-start)&1 != 0 {
			if err := h.note(b[start:colon], b[colon+1:at-2], start, at, http10); err != nil {
				return 0, err
			}
		}
	}
	if h.unframed = h.framing.Length < 0 && !h.framing.Chunked; h.framing.Chunked && h.framing.Length >= 0 {
		return 0, errFraming
	}
	return at, nil
}

// lineFault says what is wrong with a line that is as it has to be up to rest:
// nothing if it goes on.
func lineFault(rest []byte, fault error) error {
	if len(rest) == 0 || len(rest) == 1 && rest[0] == '\r' {
		return nil
	}
	return fault
}

// beginsHead reports what is wrong with the first bytes of a head.
func beginsHead(b []byte) error {
	if n := min(len(b), len(protocol)); string(b[:n]) != protocol[:n] {
		return errStatusLine
	}
	return nil
}

// valueLen is exchange.FieldValueLen, where tabs are rare.
func valueLen(b []byte) int {
	n := exchange.TextLen(b, ' ')
	if n < len(b) && b[n] == '\t' {
		n += exchange.FieldValueLen(b[n:])
	}
	return n
}

// peculiar are the lengths of the names that note knows.
const peculiar = 1<<len("te") | 1<<len("date") | 1<<len("upgrade") | 1<<len("connection") | 1<<len("content-length") | 1<<len("proxy-connection") |
	1<<len("transfer-encoding") | 1<<len("proxy-authenticate") | 1<<len("proxy-authorization")

// note reads a field of a response that may be about the connection or the
// framing. Its line is from start to end.
func (h *responseHead) note(name, value []byte, start, end int, http10 bool) error {
	kind := exchange.KindOf(name)
	if isOwn(kind) {
		h.remember(start, end)
	}
	switch kind {
	case exchange.KindContentLength:
		n, ok := parseLength(exchange.TrimOWS(value))
		if !ok || h.framing.Length >= 0 {
			return errFraming
		}
		h.framing.Length = n
	case exchange.KindTransferEncoding:
		if h.framing.Chunked || http10 || !exchange.EqualFold(exchange.TrimOWS(value), "chunked") {
			return errTransferCoding
		}
		h.framing.Chunked = true
	case exchange.KindConnection:
		h.hop = true
		for value = exchange.TrimOWS(value); len(value) > 0; {
			var token []byte
			token, value = nextToken(value)
			switch {
			case exchange.EqualFold(token, "close"):
				h.close = true
			case exchange.EqualFold(token, "keep-alive"):
				h.close = h.close && !http10
			default:
				h.named = true
			}
		}
	case exchange.KindUpgrade:
		h.hop, h.upgrade = true, true
	case exchange.KindHop, exchange.KindTE:
		h.hop = true
	case exchange.KindOther:
		h.dated = h.dated || len(name) == 4 && exchange.EqualFold(name, "date")
	}
	return nil
}

// AppendResponseHead appends a response head that ParseResponseHead has
// accepted as it goes on: as HTTP/1.1, without framing, hop-by-hop fields and
// what they name, each line with its end and no empty line behind them.
func AppendResponseHead(dst, head []byte, h *responseHead) []byte {
	if h.named || h.owns > maxOwn || head[12] == '\r' {
		return appendChosenLines(dst, head)
	}
	version, at := len(dst)+len(protocol), 0
	for i := range h.owns {
		dst = put(dst, head[at:h.own[i].start])
		at = int(h.own[i].end)
	}
	dst = put(dst, head[at:len(head)-len("\r\n")])
	dst[version] = '1'
	return dst
}

// appendChosenLines is AppendResponseHead line by line.
func appendChosenLines(dst, head []byte) []byte {
	line, rest := nextLine(head)
	dst = append(append(dst, "HTTP/1.1"...), line[len("HTTP/1.1"):]...)
	if len(line) == len("HTTP/1.1 200") {
		dst = append(dst, ' ') // RFC 9112, section 4
	}
	dst = append(dst, "\r\n"...)
	for line, rest = nextLine(rest); len(line) > 0; line, rest = nextLine(rest) {
		if name := line[:exchange.TokenLen(line)]; !isOwn(exchange.KindOf(name)) && !namedInHead(head, name) {
			dst = append(append(dst, line...), "\r\n"...)
		}
	}
	return dst
}

// isOwn reports whether a field of a response belongs to its connection or its framing.
func isOwn(k exchange.Kind) bool {
	switch k {
	case exchange.KindContentLength, exchange.KindTransferEncoding, exchange.KindConnection, exchange.KindUpgrade, exchange.KindHop, exchange.KindTE:
		return true
	}
	return false
}

// AppendInterim appends an interim response that ParseResponseHead has accepted
// as it goes on: as HTTP/1.1, without hop-by-hop fields and what they name.
func AppendInterim(dst, head []byte) []byte {
	for line, rest := nextLine(head); len(line) > 0; line, rest = nextLine(rest) {
		if len(dst) == 0 {
			dst = append(append(dst, "HTTP/1.1"...), line[len("HTTP/1.1"):]...)
			dst = append(dst, "\r\n"...)
			continue
		}
		name := line[:exchange.TokenLen(line)]
		switch exchange.KindOf(name) {
		case exchange.KindOther, exchange.KindVia:
			if !namedInHead(head, name) {
				dst = append(append(dst, line...), "\r\n"...)
			}
		}
	}
	return append(dst, "\r\n"...)
}

func namedInHead(head, name []byte) bool {
	_, rest := nextLine(head)
	for line, rest := nextLine(rest); len(line) > 0; line, rest = nextLine(rest) {
		colon := exchange.TokenLen(line)
		if exchange.KindOf(line[:colon]) != exchange.KindConnection {
			continue
		}
		for value := line[colon+1:]; len(value) > 0; {
			var token []byte
			if token, value = nextToken(value); bytes.EqualFold(token, name) {
				return true
			}
		}
	}
	return false
}

// nextLine cuts a line off a head whose lines all end in CRLF.
func nextLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 {
		return nil, nil
	}
	return b[:i-1], b[i+1:]
}

// parseLength reads a Content-Length: digits alone, at most 18 of them.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
