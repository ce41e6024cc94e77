package listener

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// plain is a request as nearly all are: its head came in one piece, of HTTP/1.1, with a path for its target and one
// ordinary host, and nothing in it is for the engine but a length. Such a head is read once, straight into the exchange.
// Whatever else there is, valid or not, is left to strict and the engine's own parser: the two agree on all that is plain.
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
		if x.ForwardedHost != nil || !ordinaryHost(value) {
			return false
		}
		x.ForwardedHost = value
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

// ordinaryHost accepts a name or an address of IPv4, with or without a port.
func ordinaryHost(host []byte) bool {
	i := 0
	for i < len(host) && ordinary[host[i]] {
		i++
	}
	return i > 0 && (i == len(host) || validHost(host))
}

// ordinary are the bytes of nearly all hosts.
var ordinary = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._" {
		t[c] = true
	}
	return t
}()

// settle has x borrow from to what it borrows from the same place of from.
func (r *plain) settle(x *exchange.Exchange, from, to []byte) {
	move := func(b []byte) []byte {
		at := cap(from) - cap(b)
		return to[at : at+len(b)]
	}
	r.method, r.target, x.Path, x.ForwardedHost = move(r.method), move(r.target), move(x.Path), move(x.ForwardedHost)
	if x.Query != nil {
		x.Query = move(x.Query)
	}
	for i := range x.Fields {
		f := &x.Fields[i]
		f.Name, f.Value = move(f.Name), move(f.Value)
	}
}

// present puts into the engine's request what it has to say of a plain one; see exchange.Exchange.
func (r *plain) present(x *exchange.Exchange, req *fasthttp.Request) {
	req.Header.SetMethodBytes(r.method)
	req.SetRequestURIBytes(r.target)
	req.Header.SetHostBytes(x.ForwardedHost)
}

// standIn is what fasthttp is given to read for the head of a plain request: it has to learn that there is one, and how long
// its body is.
const (
	standIn       = "GET / HTTP/1.1\r\nHost:a\r\n"
	standInLength = "Content-Length:"
)

// takePlain reads a plain request, of which n bytes have come in p, ahead of fasthttp, and puts what fasthttp is to read
// in their place. It returns the length of that, or 0 for a request that is not plain.
func (c *conn) takePlain(p []byte, n int) int {
	x := c.server.pool.Get(nil, nil, c.server.ended)
	r := readPlain(x, p[:n])
	// With a method of that length the head has room for what stands in for it.
	if r.size == 0 || n-r.size > r.length || len(r.method) < len("GET") {
		x.Discard()
		return 0
	}
	r.settle(x, p, x.Copy(p[:r.size]))
	end := append(p[:0], standIn...)
	if r.length > 0 {
		end = strconv.AppendInt(append(end, standInLength...), int64(r.length), 10)
		end = append(end, "\r\n"...)
	}
	end = append(end, "\r\n"...)
	body := p[r.size:n]
	c.strict.beganPlain(r.length, len(body))
	c.request, c.plain = x, r
	return len(end) + copy(p[len(end):], body)
}

// forgetPlain gives up a plain request that the engine does not come for: its body could not be read.
func (c *conn) forgetPlain() {
	if c.request != nil {
		c.request.Discard()
		c.request = nil
	}
}

// beganPlain is feed for a plain request, of whose body come bytes have come.
func (s *strict) beganPlain(length, come int) {
	if length == come {
		s.ended++
		return
	}
	s.state, s.framed, s.left = inBody, true, int64(length-come)
}
