package listener

import (
	"bytes"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// verbatim is an answer whose head goes on as it came, in two parts: body lies where it lay, or is part of head.
type verbatim struct{ head, body []byte }

// verbatimBuffer is how much room is kept for the next answer.
const verbatimBuffer = 16 << 10

// joinedBody is up to which size a body is copied behind its head: copying more costs more than writing two parts.
const joinedBody = 2 << 10

// compose puts an answer together. Its head is appended to a buffer that has been used for others.
func (v *verbatim) compose(x *exchange.Exchange, closing bool) {
	b := v.head[:0]
	if len(x.ToClient.List()) == 0 {
		b = append(b, x.Head...)
	} else {
		b = appendEdited(b, x)
	}
	b = append(b, x.Tail...)
	if closing {
		b = append(b, "Connection: close\r\n"...)
	}
	body := x.Response.Body()
	if x.Answer != exchange.Stored {
		b = strconv.AppendInt(append(b, "Content-Length: "...), int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	if len(body) <= joinedBody {
		b, body = append(b, body...), nil
	}
	v.head, v.body = b, body
}

// appendEdited appends the head with what policies have changed of it.
func appendEdited(b []byte, x *exchange.Exchange) []byte {
	edits := x.ToClient.List()
	// lengths are those of the names that are set or removed, a bit for each: few fields have one of them.
	lengths := uint64(0)
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditAdd {
			lengths |= 1 << (len(e.Name) & 63)
		}
	}
	rest := x.Head
	for at := 0; lengths != 0 && at < len(rest); {
		end := at + bytes.IndexByte(rest[at:], '\n') + 1
		n := exchange.TokenLen(rest[at:end])
		if lengths>>(n&63)&1 != 0 && rest[at+n] == ':' && x.ToClient.Names(rest[at:at+n]) {
			b = append(b, rest[:at]...)
			rest, end = rest[end:], 0
		}
		at = end
	}
	b = append(b, rest...)
	for i := range edits {
		if e := &edits[i]; e.Op != exchange.EditRemove {
			b = append(append(b, e.Name...), ": "...)
			b = appendValue(b, e.Value)
			b = append(b, "\r\n"...)
		}
	}
	return b
}

// sent lets go of what was sent, but for room for the next.
func (v *verbatim) sent() {
	if v.body = nil; cap(v.head) > verbatimBuffer {
		v.head = nil
	}
	v.head = v.head[:0]
}

// appendValue appends a field value. A line end in it, which must not be, would
// begin another field.
func appendValue(dst, value []byte) []byte {
	n := len(dst)
	dst = append(dst, value...)
	if exchange.TextLen(value, ' ') == len(value) {
		return dst
	}
	for i := n; i < len(dst); i++ {
		if dst[i] == '\r' || dst[i] == '\n' {
			dst[i] = ' '
		}
	}
	return dst
}

var verbatims = sync.Pool{New: func() any { return new(verbatim) }}

// mayReplace reports whether the next write of fasthttp is the answer to this request and nothing else: no other request
// has come behind it, and no earlier answer waits in fasthttp's buffer.
func (c *conn) mayReplace() bool {
	return !c.buffered && c.strict.state == atStart && c.strict.ended == c.answers+1
}

// replaceAnswer has an answer go out in the place of the one that fasthttp is going to write, which is to be as short as
// can be. fasthttp has no other way to send a head as it is.
func (c *conn) replaceAnswer(x *exchange.Exchange, res *fasthttp.Response, closing bool) {
	v := verbatims.Get().(*verbatim)
	v.compose(x, closing)
	c.instead = v
	res.SkipBody = true // nor does it have a length then
	res.SetBodyRaw(nil)
}

// writeInstead sends the answer that stands in for p.
func (c *conn) writeInstead(p []byte) (int, error) {
	v := c.instead
	c.instead = nil
	err := c.writeBoth(v.head, v.body)
	v.sent()
	verbatims.Put(v)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
