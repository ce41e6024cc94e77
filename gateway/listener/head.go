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
	rejectConnect   = refuse(fasthttp.StatusNotImplemented, "connect_not_supported", "no other protocol is spoken on a stream; WebSockets begin with an upgrade over HTTP/1.1")
	rejectSlowHead  = refuse(fasthttp.StatusRequestTimeout, "head_timeout", "the request head did not arrive in time")
)

func refuse(status int, reason, detail string) *exchange.Reject {
	r := exchange.NewReject(status, reason, detail)
	r.Close = true
	return r
}

// readHead fills the exchange's fields, path, query and host, and checks what
// strict leaves: the host and the target.
func readHead(x *exchange.Exchange, h *fasthttp.RequestHeader) *exchange.Reject {
	readFields(x, h.RawHeaders())
	host := h.Host()
	if !readHost(x, host) {
		return rejectHost
	}
	return readTarget(x, h, host)
}

// readFields cuts the raw header block, which strict has read, into fields.
func readFields(x *exchange.Exchange, raw []byte) {
	for {
		end := bytes.IndexByte(raw, '\n')
		if end < 2 {
			return
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		colon := bytes.IndexByte(line, ':')
		name, value := line[:colon], exchange.TrimOWS(line[colon+1:])
		x.Fields = append(x.Fields, exchange.Field{Name: name, Value: value, Kind: exchange.KindOf(name)})
	}
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

// readHost reads the host that the request names, once for routing, policies and
// backends. It reports whether that is one, see cutHost.
func readHost(x *exchange.Exchange, host []byte) bool {
	name, port, ok := cutHost(host)
	x.ForwardedHost, x.ForwardedPort = host, port
	if n := len(name); n > 1 && name[n-1] == '.' {
		name = name[:n-1]
	}
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			name = x.Copy(name)
			lowerASCII(name)
			break
		}
	}
	x.Host = name
	return ok
}

func lowerASCII(b []byte) {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
}

func validHost(host []byte) bool {
	_, _, ok := cutHost(host)
	return ok
}

// cutHost accepts uri-host [":" port] (RFC 9110, section 7.2) without userinfo,
// and the empty host of HTTP/1.0. The name has no brackets.
func cutHost(host []byte) (name, port []byte, ok bool) {
	end := 0
	if len(host) > 0 && host[0] == '[' {
		if name = cutLiteral(host); name == nil {
			return nil, nil, false
		}
		end = len(name) + len("[]")
	} else {
		for end < len(host) && hostBytes[host[end]] {
			end++
		}
		name = host[:end]
	}
	if end == len(host) {
		return name, nil, true
	}
	if host[end] != ':' || end == 0 {
		return nil, nil, false
	}
	port = host[end+1:]
	n := 0
	for _, c := range port {
		if n = n*10 + int(c-'0'); c < '0' || c > '9' || n > 65535 {
			return nil, nil, false
		}
	}
	return name, port, true
}

// cutLiteral returns the address between the brackets that host starts with, nil
// for none.
func cutLiteral(host []byte) []byte {
	end := bytes.IndexByte(host, ']')
	if end < len("[::") {
		return nil
	}
	for _, c := range host[1:end] {
		if unhex[c] == 0 && c != ':' && c != '.' {
			return nil
		}
	}
	return host[1:end]
}

var hostBytes = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~!$&'()*+,;=%" {
		t[c] = true
	}
	return t
}()

func isToken(b []byte) bool { return len(b) > 0 && exchange.TokenLen(b) == len(b) }
