package exchange

import "github.com/valyala/fasthttp"

// ErrResponseBody is the answer in the place of one whose body a backend did not
// send to its end.
var ErrResponseBody error = NewReject(fasthttp.StatusBadGateway, "upstream_truncated", "the service's answer could not be read to its end")

// BodyHook sees a chunk of a body and returns what goes on in its place. The
// chunk is borrowed for the call; what is returned must live until the next call.
type BodyHook func(x *Exchange, chunk []byte, last bool) ([]byte, error)

// ResponseStream is what a response body that streams has to be, whoever made it.
type ResponseStream interface {
	// Hold reads ahead until the body ends or there are more than limit bytes of
	// it, through the hooks that are there. Unless it is whole, those who read the
	// stream later get what was held first. body is borrowed from the stream. An
	// error is an answer: what stands for a body that did not come to its end, or
	// what a hook returned.
	Hold(limit int) (body []byte, whole bool, err error)
	// More reports, to a hook, whether more of the body or its end is at hand
	// behind the chunk that the hook is given, so that the client does not wait
	// for a backend if the hook keeps the chunk until then.
	More() bool
	// Discard gives the body up: another answer takes its place.
	Discard()
}

// PushBodies adds a hook over the chunks of the response body. Hooks run in the order in which they were added.
func (x *Exchange) PushBodies(h BodyHook) {
	x.bodyHooks = append(x.bodyHooks, h)
}

// HasBodyHooks reports whether the response body has to pass through PushBody.
func (x *Exchange) HasBodyHooks() bool { return len(x.bodyHooks) > 0 }

// BodyHooks is how many hooks there are.
func (x *Exchange) BodyHooks() int { return len(x.bodyHooks) }

// PushBody runs a chunk of the response body through the hooks.
func (x *Exchange) PushBody(chunk []byte, last bool) ([]byte, error) {
	return x.PushBodyFrom(0, chunk, last)
}

// PushBodyFrom is PushBody for a chunk that has passed the first n hooks.
func (x *Exchange) PushBodyFrom(n int, chunk []byte, last bool) ([]byte, error) {
	var err error
	for _, h := range x.bodyHooks[min(n, len(x.bodyHooks)):] {
		if chunk, err = h(x, chunk, last); err != nil {
			return nil, err
		}
	}
	return chunk, nil
}

// PushWhole runs a whole body through the hooks, which have done their part then.
func (x *Exchange) PushWhole(body []byte) ([]byte, error) {
	body, err := x.PushBody(body, true)
	x.dropBodyHooks()
	return body, err
}

// dropBodyHooks forgets the hooks: they have done their part, or the answer that
// they were for is not given.
func (x *Exchange) dropBodyHooks() {
	clear(x.bodyHooks)
	x.bodyHooks, x.ResizesBody = x.bodyHooks[:0], false
}

// discardResponse gives up the response that there is, so that another takes its place.
func (x *Exchange) discardResponse() {
	x.dropBodyHooks()
	if s, ok := x.Response.BodyStream().(ResponseStream); ok {
		s.Discard()
	}
}

// SetStatus gives the answer another status. The phrase that the backend has sent was of the one it had.
func (x *Exchange) SetStatus(status int) {
	x.Response.Header.SetStatusMessage(nil)
	x.Response.SetStatusCode(status)
}

// HasResponseBody reports whether the answer brings a body to the client.
func (x *Exchange) HasResponseBody() bool {
	switch status := x.Response.StatusCode(); {
	case status < 200 || status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified:
		return false
	}
	return !x.Response.SkipBody && !x.Request.Header.IsHead() && x.Answer != Tunnel
}

// FilterBody has h see the response body and change it: at once where it is
// held, as it passes where it streams. resizes says that its length may change.
// It is for Response hooks, whoever has answered; without a body (see
// HasResponseBody) it does nothing.
func (x *Exchange) FilterBody(h BodyHook, resizes bool) error {
	switch {
	case !x.HasResponseBody():
		return nil
	case !x.Response.IsBodyStream() && len(x.bodyHooks) == 0:
		body, err := h(x, x.Response.Body(), true)
		if err == nil {
			x.Response.SetBodyRaw(body)
		}
		return err
	}
	x.PushBodies(h)
	if resizes && x.Response.IsBodyStream() {
		x.ResizesBody = true
		x.Response.Header.SetContentLength(-1)
	}
	return nil
}

// HoldResponse reads the response body ahead, up to limit bytes, and returns
// them, borrowed from the Exchange and not to be written to, since a stored
// answer's are shared; whole tells that this is all of it, and that
// it is held from then on: SetBodyRaw replaces it. What is not whole streams on as
// it would have without. Only a Response hook of a Blocking policy may call it. A
// trailer section of a body that is held is lost.
//
// An error is the hook's to return.
func (x *Exchange) HoldResponse(limit int) (body []byte, whole bool, err error) {
	if !x.HasResponseBody() {
		return nil, true, nil
	}
	if !x.Response.IsBodyStream() {
		body = x.Response.Body()
		if len(x.bodyHooks) > 0 {
			if body, err = x.PushWhole(body); err != nil {
				return nil, false, err
			}
			x.Response.SetBodyRaw(body)
		}
		if len(body) > limit {
			return body[:limit], false, nil
		}
		return body, true, nil
	}
	stream, ok := x.Response.BodyStream().(ResponseStream)
	if !ok {
		return nil, false, nil
	}
	body, whole, err = stream.Hold(limit)
	if err != nil {
		return nil, false, err
	}
	if whole {
		x.dropBodyHooks()
		for _, name := range x.Response.Header.PeekTrailerKeys() {
			x.Response.Header.DelBytes(name)
		}
		_ = x.Response.Header.SetTrailerBytes(nil)
		x.Response.SetBodyRaw(body)
	}
	return body, whole, nil
}
