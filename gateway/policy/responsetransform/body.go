package responsetransform

import (
	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/transform"
)

// buffers are those of the response's body.
var buffers = exchange.NewSlot[transform.Buffers]()

var rejectUnreadable = exchange.NewReject(fasthttp.StatusBadGateway, "response_unreadable", "the service's answer can not be read")

// readable asks the backend for an answer that can be read: whole and in no coding.
func readable(x *exchange.Exchange) error {
	for _, name := range [...]string{fasthttp.HeaderAcceptEncoding, fasthttp.HeaderRange, fasthttp.HeaderIfRange} {
		x.ToBackend.Remove(name)
	}
	return nil
}

func (t *transformer) changeBody(x *exchange.Exchange) error {
	status := x.Response.StatusCode()
	head := x.Request.Header.IsHead()
	switch {
	case status == fasthttp.StatusNotModified:
		weaken(x)
		return nil
	case !head && !x.HasResponseBody() || status < 200 || status == fasthttp.StatusNoContent:
		return nil
	case !t.body.Reads(x.ResponseHeader(fasthttp.HeaderContentType)):
		return nil
	case head:
		t.describe(x)
		// How long the changed body would be is not known.
		exchange.DelResponse(&x.Response.Header, fasthttp.HeaderContentLength)
		return nil
	case status == fasthttp.StatusPartialContent || x.Response.IsBodyStream() && x.Response.Header.ContentLength() > t.body.Limit():
		return t.unreadable(x)
	}
	body, whole, err := x.HoldResponse(t.body.Limit())
	switch {
	case err != nil:
		return err
	case !whole:
		return t.unreadable(x)
	case len(body) == 0:
		return nil
	}
	out, fault, err := t.body.Apply(x, buffers.Of(x), x.ResponseHeader(fasthttp.HeaderContentEncoding), body)
	if err != nil {
		return t.unreadable(x)
	}
	t.describe(x)
	x.Response.SetBodyRaw(out)
	if fault && status < 400 {
		x.SetStatus(fasthttp.StatusInternalServerError)
	}
	return nil
}

func (t *transformer) unreadable(x *exchange.Exchange) error {
	if !t.pass {
		return rejectUnreadable
	}
	x.Reason = rejectUnreadable.Reason
	return nil
}

// describe makes the head that of the changed answer.
func (t *transformer) describe(x *exchange.Exchange) {
	h := &x.Response.Header
	for _, name := range [...]string{fasthttp.HeaderContentEncoding, fasthttp.HeaderAcceptRanges, "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"} {
		exchange.DelResponse(h, name)
	}
	if contentType := t.body.ContentType(); contentType != nil {
		exchange.DelResponse(h, fasthttp.HeaderContentType)
		h.AddBytesV(fasthttp.HeaderContentType, contentType)
	}
	weaken(x)
}

// weaken makes the entity tag a weak one: other settings make another answer of the same.
func weaken(x *exchange.Exchange) {
	tag := x.ResponseHeader(fasthttp.HeaderETag)
	if len(tag) == 0 || tag[0] != '"' {
		return
	}
	weak := x.Keep(append(append(x.Scratch(), "W/"...), tag...))
	exchange.DelResponse(&x.Response.Header, fasthttp.HeaderETag)
	x.Response.Header.AddBytesV(fasthttp.HeaderETag, weak)
}

// setStatus gives the answer another status. One that could have no body has an empty one then.
func (t *transformer) setStatus(x *exchange.Exchange, to int) {
	if x.Response.StatusCode() == fasthttp.StatusNoContent && !x.Request.Header.IsHead() {
		x.Response.SkipBody = false
		x.SetStatus(to)
		x.Response.SetBodyRaw(nil)
		return
	}
	x.SetStatus(to)
}
