package listener

import (
	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// plain is a request as nearly all are: its head came in one piece, of HTTP/1.1, with a path for its target and one
// ordinary host, and nothing in it is for the engine but a length. Such a head is read once, straight into the exchange.
// Whatever else there is, valid or not, is left to strict and fasthttp's parser: the two agree on all that is plain.
type plain struct {
	method, target []byte
	length         int // of the body
	size           int // of the head; 0: the request is not plain
}

// readPlain reads the head that b begins with. Of a request that is not plain it may leave fields in x.
func readPlain(x *exchange.Exchange, b []byte) (r plain) {
	i := exchange.TokenLen(b)
	if i == 0 || i+2 >= len(b) || b[i] != ' ' || b[i+1] != '/' || b[i+2] == '/' {
		return r
	}
	r.method = b[:i]
	start, query := i+1, 0
	for i = start; ; i++ {
		if i == len(b) {
			return r
		}
		if c := b[i]; c <= ' ' {
			break
		} else if c == '?' && query == 0 {
			query = i
		} else if c == '#' || c == 0x7f {
			return r
		}
	}
	const rest = " HTTP/1.1\r\n"
	if len(b)-i < len(rest) || string(b[i:i+len(rest)]) != rest {
		return r
	}
	if r.target = b[start:i]; query > 0 {
		x.Path, x.Query = b[start:query], b[query+1:i]
	} else {
		x.Path = r.target
	}
	for i += len(rest); ; {
		n := exchange.TokenLen(b[i:])
		if i+n+1 >= len(b) {
			return r
		}
		if n == 0 {
			break
		}
		name := b[i : i+n]
		if i += n; b[i] != ':' {
			return r
		}
		for i++; i < len(b) && b[i] == ' '; i++ {
		}
		end := i + exchange.TextLen(b[i:], ' ')
		if end+1 >= len(b) || b[end] != '\r' || b[end+1] != '\n' {
			return r
		}
		value := b[i:end]
		for len(value) > 0 && value[len(value)-1] == ' ' {
			value = value[:len(value)-1]
		}
		i = end + 2
		kind := exchange.KindOf(name)
		if kind != exchange.KindOther && !r.take(x, kind, name, value) {
			return r
		}
		x.Fields = append(x.Fields, exchange.Field{Name: name, Value: value, Kind: kind})
	}
	if b[i] == '\r' && b[i+1] == '\n' && x.ForwardedHost != nil && string(r.method) != fasthttp.MethodConnect {
		r.size = i + 2
	}
	return r
}

// take looks at a field of a kind of its own. It is false for what is not plain.
func (r *plain) take(x *exchange.Exchange, kind exchange.Kind, name, value []byte) bool {
	switch kind {
	case exchange.KindHost:
		return x.ForwardedHost == nil && beginsOrdinary(value) && readHost(x, value)
	case exchange.KindContentLength:
		// A length of 0 is left to the engine, so that none has been given where r.length is 0.
		if r.length > 0 || len(value) > maxDigits {
			return false
		}
		for _, c := range value {
			if c < '0' || c > '9' {
				return false
			}
			r.length = r.length*10 + int(c-'0')
		}
		return r.length > 0
	case exchange.KindConnection:
		return exchange.EqualFold(value, "keep-alive")
	case exchange.KindHop:
		return len(name) != len("trailer")
	case exchange.KindTransferEncoding, exchange.KindUpgrade, exchange.KindExpect:
		return false
	}
	return true
}

// beginsOrdinary accepts a name or an address of IPv4; a colon may follow it, and then anything.
func beginsOrdinary(host []byte) bool {
	i := 0
	for i < len(host) && ordinary[host[i]] {
		i++
	}
	return i > 0 && (i == len(host) || host[i] == ':')
}

// ordinary are the bytes of nearly all hosts.
var ordinary = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._" {
		t[c] = true
	}
	return t
}()

// present puts into the engine's request what it has to say of a plain one; see exchange.Exchange.
func (r *plain) present(x *exchange.Exchange, req *fasthttp.Request) {
	req.Header.SetMethodBytes(r.method)
	req.SetRequestURIBytes(r.target)
	req.Header.SetHostBytes(x.ForwardedHost)
}
