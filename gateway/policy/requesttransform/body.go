package requesttransform

import (
	"errors"

	"github.com/valyala/fasthttp"

	"sluice/gateway/coding"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
	"sluice/gateway/transform"
)

// buffers are those of the request's body.
var buffers = exchange.NewSlot[transform.Buffers]()

// Rejections of a body that can not be worked on. It has been read, so that the
// connection goes on.
var (
	rejectLarge    = exchange.NewReject(fasthttp.StatusRequestEntityTooLarge, "body_too_large", "the request body is too large to be transformed")
	rejectEncoding = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "body_encoding", "the content coding of the request body is not known here",
		exchange.Header("Accept-Encoding", coding.Accepted))
	rejectCoded = exchange.NewReject(fasthttp.StatusBadRequest, "body_malformed", "the request body is not in the coding that Content-Encoding names")
	rejectType  = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "body_type", "the request body is of a type that is not accepted here")
)

// requestWithBody changes the body first: it may pause the request.
func (t *transformer) requestWithBody(x *exchange.Exchange) error {
	if err := t.changeBody(x); err != nil {
		return err
	}
	return t.request(x)
}

func (t *transformer) changeBody(x *exchange.Exchange) error {
	if !x.HasBody() {
		return nil
	}
	if !t.body.Reads(x.RequestHeader(fasthttp.HeaderContentType)) {
		if t.onlyThis {
			return rejectType
		}
		return nil
	}
	limit := t.body.Limit()
	if x.Request.Header.ContentLength() > limit {
		return exchange.RejectBodyTooLarge
	}
	// One byte more tells that a body is over the limit.
	body, whole, err := x.HoldBody(limit + 1)
	switch {
	case err != nil:
		return err
	case !whole || len(body) > limit:
		return exchange.RejectBodyTooLarge
	case len(body) == 0:
		return nil
	}
	encoding, decided := x.ToBackend.Value(fasthttp.HeaderContentEncoding)
	if !decided {
		encoding = x.RequestHeader(fasthttp.HeaderContentEncoding)
	}
	out, _, err := t.body.Apply(x, buffers.Of(x), encoding, body)
	if err != nil {
		return refuse(err)
	}
	if x.Body = out; out == nil {
		x.Body = []byte{}
	}
	for _, name := range [...]string{fasthttp.HeaderContentEncoding, "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"} {
		if x.RequestHeader(name) != nil {
			x.ToBackend.Remove(name)
		}
	}
	if contentType := t.body.ContentType(); contentType != nil {
		x.ToBackend.Set(fasthttp.HeaderContentType, contentType)
	}
	if action := t.body.Action(); action != nil {
		x.ToBackend.Set("SOAPAction", action)
	}
	return nil
}

// refuse says what is wrong with a body.
func refuse(err error) error {
	switch err {
	case transform.ErrTooLarge, coding.ErrTooLarge:
		return rejectLarge
	case coding.ErrUnknown:
		return rejectEncoding
	case coding.ErrMalformed:
		return rejectCoded
	}
	var syntax *document.SyntaxError
	if errors.As(err, &syntax) {
		return exchange.NewReject(fasthttp.StatusBadRequest, "body_malformed", "the request body is malformed at "+syntax.Error())
	}
	return exchange.NewReject(fasthttp.StatusUnprocessableEntity, "body_unconvertible", "the request body can not be converted: "+err.Error())
}
