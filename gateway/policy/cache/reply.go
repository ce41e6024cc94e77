package cache

import (
	"bufio"
	"bytes"
	"net/http"
	"strconv"
	"unsafe"

	"github.com/valyala/fasthttp"

	store "sluice/gateway/cache"

	"sluice/gateway/exchange"
)

// newReply renders an entry ahead, so that giving it to a client copies its head and nothing more. It returns nil for a
// head that can not be parsed. size is what it takes, in bytes, about.
//
// fasthttp keeps the stored Date only in a header that was parsed, and sends it only where its own is off; that setting
// can but be copied from a header which a server made.
func newReply(e *store.Entry) (r *exchange.Reply, size int64) {
	line := strconv.AppendInt([]byte("HTTP/1.1 "), int64(e.Status()), 10)
	raw := append(append(bytes.Clone(line), "\r\n"...), e.Header()...)
	if n := e.ContentLength(); e.HeadOnly() && n >= 0 {
		raw = append(strconv.AppendInt(append(raw, "Content-Length: "...), n, 10), "\r\n"...)
	}
	// The space is there also where no phrase is (RFC 9112 section 4).
	verbatim := append(append(append([]byte(nil), line...), ' '), http.StatusText(e.Status())...)
	verbatim = append(verbatim, raw[len(line):]...)
	verbatim = append(strconv.AppendInt(append(verbatim, "Content-Length: "...), int64(len(e.Body())), 10), "\r\nVia: "+exchange.Via+"\r\n"...)
	raw = append(raw, "\r\n"...)
	var parsed fasthttp.ResponseHeader
	exchange.Undated(&parsed)
	parsed.DisableNormalizing()
	parsed.SetNoDefaultContentType(true)
	if err := parsed.Read(bufio.NewReaderSize(bytes.NewReader(raw), len(raw))); err != nil {
		return nil, 0
	}
	parsed.ResetConnectionClose() // said since no length was
	r = &exchange.Reply{Body: e.Body(), Answer: exchange.Stored}
	parsed.CopyTo(&r.Head) // the copy takes no more than it needs
	if status := e.Status(); !e.HeadOnly() && status != fasthttp.StatusNoContent && status != fasthttp.StatusNotModified {
		r.Verbatim = verbatim
	}
	size = int64(unsafe.Sizeof(exchange.Reply{})) + rounded(cap(verbatim))
	for name, value := range r.Head.All() {
		size += fieldSize + rounded(len(name)) + rounded(len(value))
	}
	return r, size
}

// fieldSize is what fasthttp takes for a header field beside its bytes.
const fieldSize = 56

// rounded is what the allocator takes for n bytes, about.
func rounded(n int) int64 {
	if n <= 8 {
		return 8
	}
	return int64((n + 15) &^ 15)
}

// notModified is the 304 that stands for a stored reply (RFC 9110 section 15.4.5).
func (st *state) notModified(full *exchange.Reply) *exchange.Reply {
	r := st.derived(full, fasthttp.StatusNotModified)
	for _, name := range [...]string{"Content-Type", "Content-Encoding", "Content-Length", "Content-Language", "Content-Range"} {
		exchange.DelResponse(&r.Head, name)
	}
	return r
}

// partial is the 206 with a part of a stored reply (RFC 9110 section 15.3.7).
func (st *state) partial(x *exchange.Exchange, full *exchange.Reply, first, last int64) *exchange.Reply {
	r := st.derived(full, fasthttp.StatusPartialContent)
	r.Body = full.Body[first : last+1 : last+1]
	b := strconv.AppendInt(append(x.Scratch(), "bytes "...), first, 10)
	b = strconv.AppendInt(append(b, '-'), last, 10)
	st.setContentRange(r, x.Keep(appendSize(b, full)))
	return r
}

// unsatisfiable is the 416 for a range that a stored reply does not have (RFC 9110 section 15.5.17).
func (st *state) unsatisfiable(x *exchange.Exchange, full *exchange.Reply) *exchange.Reply {
	r := st.notModified(full)
	r.Head.SetStatusCode(fasthttp.StatusRequestedRangeNotSatisfiable)
	st.setContentRange(r, x.Keep(appendSize(append(x.Scratch(), "bytes *"...), full)))
	return r
}

func appendSize(dst []byte, full *exchange.Reply) []byte {
	return strconv.AppendInt(append(dst, '/'), int64(len(full.Body)), 10)
}

func (st *state) setContentRange(r *exchange.Reply, value []byte) {
	exchange.DelResponse(&r.Head, "Content-Range")
	r.Head.AddBytesV("Content-Range", value)
}

// derived begins the answer of another status that the exchange makes of a stored reply for itself.
func (st *state) derived(full *exchange.Reply, status int) *exchange.Reply {
	if st.reply == nil {
		st.reply = &exchange.Reply{Answer: exchange.Stored}
	}
	full.Head.CopyTo(&st.reply.Head)
	st.reply.Head.SetStatusCode(status)
	st.reply.Body = nil
	return st.reply
}
