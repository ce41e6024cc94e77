package listener

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// Rejections of a head. All close the connection: where one message ends and
// the next begins can not be trusted after any of them.
var (
	rejectMalformed = refuse(fasthttp.StatusBadRequest, "malformed_request", "the request is not valid HTTP")
	rejectField     = refuse(fasthttp.StatusBadRequest, "malformed_header", "a header field is malformed")
	rejectFraming   = refuse(fasthttp.StatusBadRequest, "ambiguous_length", "the length of the request body is ambiguous")
	rejectHost      = refuse(fasthttp.StatusBadRequest, "bad_host", "the request must name exactly one valid host")
	rejectTarget    = refuse(fasthttp.StatusBadRequest, "bad_target", "the request target is not acceptable")
	rejectVersion   = refuse(fasthttp.StatusBadRequest, "bad_version", "only HTTP/1.0 and HTTP/1.1 are spoken here")
	rejectHeadSize  = refuse(fasthttp.StatusRequestHeaderFieldsTooLarge, "head_too_large", "the request head is too large")
	rejectURISize   = refuse(fasthttp.StatusRequestURITooLong, "uri_too_long", "the request target is too long")
	rejectSlowHead  = refuse(fasthttp.StatusRequestTimeout, "head_timeout", "the request head did not arrive in time")
)

func refuse(status int, reason, detail string) *exchange.Reject {
	r := exchange.NewReject(status, reason, detail)
	r.Close = true
	return r
}

// readHead checks the head that fasthttp parsed, strictly, and fills the
// exchange's fields, path, query and host. fasthttp has refused invalid bytes
// in names and values, lone CR, and lengths that are malformed or repeated;
// this adds what it lets pass (RFC 9112).
func readHead(x *exchange.Exchange, h *fasthttp.RequestHeader) *exchange.Reject {
	if p := h.Protocol(); len(p) != 8 || string(p[:7]) != "HTTP/1." || p[7] != '0' && p[7] != '1' {
		return rejectVersion
	}
	if r := readFields(x, h.RawHeaders()); r != nil {
		return r
	}
	hosts, lengths, codings := 0, 0, 0
	var host []byte
	for i := range x.Fields {
		switch f := &x.Fields[i]; f.Kind {
		case exchange.KindHost:
			hosts++
			host = f.Value
		case exchange.KindContentLength:
			lengths++
		case exchange.KindTransferEncoding:
			if codings++; !exchange.EqualFold(f.Value, "chunked") {
				return rejectFraming
			}
		}
	}
	if lengths+codings > 1 || codings > 0 && !h.IsHTTP11() {
		return rejectFraming
	}
	if hosts > 1 || hosts == 0 && h.IsHTTP11() || !validHost(host) {
		return rejectHost
	}
	x.ForwardedHost = host
	return readTarget(x, h, host)
}

// readFields cuts the raw header block into fields.
func readFields(x *exchange.Exchange, raw []byte) *exchange.Reject {
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end < 1 || raw[end-1] != '\r' {
			return rejectField // a bare LF
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		if len(line) == 0 {
			if len(raw) > 0 {
				return rejectField
			}
			break
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !isToken(line[:colon]) {
			return rejectField // folding, or a space in or behind the name
		}
		name, value := line[:colon], trimOWS(line[colon+1:])
		x.Fields = append(x.Fields, exchange.Field{Name: name, Value: value, Kind: exchange.KindOf(name)})
	}
	return nil
}

// readTarget reads the request target (RFC 9112, section 3.2).
func readTarget(x *exchange.Exchange, h *fasthttp.RequestHeader, host []byte) *exchange.Reject {
	target := h.RequestURI()
	if h.IsConnect() {
		return rejectTarget
	}
	if len(target) > 0 && target[0] != '/' {
		if string(target) == "*" && h.IsOptions() {
			x.Path = target
			return nil
		}
		// absolute-form: what it says of the host must be what Host says.
		rest, ok := cutScheme(target)
		if !ok {
			return rejectTarget
		}
		end := bytes.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		if authority := rest[:end]; len(authority) == 0 || !bytes.EqualFold(authority, host) && len(host) > 0 || !validHost(authority) {
			return rejectTarget
		}
		if target = rest[end:]; len(target) == 0 || target[0] == '?' {
			target = x.Keep(append(append(x.Scratch(), '/'), target...))
		}
	}
	if bytes.IndexByte(target, '#') >= 0 {
		return rejectTarget
	}
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		x.Path, x.Query = target[:i], target[i+1:]
	} else {
		x.Path = target
	}
	return nil
}

func cutScheme(target []byte) (rest []byte, ok bool) {
	i := bytes.Index(target, []byte("://"))
	if i != 4 && i != 5 {
		return nil, false
	}
	if s := target[:i]; !exchange.EqualFold(s, "http") && !exchange.EqualFold(s, "https") {
		return nil, false
	}
	return target[i+3:], true
}

// validHost accepts uri-host [":" port] (RFC 9110, section 7.2) without
// userinfo, and the empty host of HTTP/1.0.
func validHost(host []byte) bool {
	for _, c := range host {
		if !hostBytes[c] {
			return false
		}
	}
	return true
}

var hostBytes = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~!$&'()*+,;=:[]%" {
		t[c] = true
	}
	return t
}()

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return true
}

var tokenBytes = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func trimOWS(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
