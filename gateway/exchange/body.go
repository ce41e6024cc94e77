package exchange

import (
	"errors"
	"io"
	"os"

	"github.com/valyala/fasthttp"
)

// Rejections of a request body that does not come as it should. All close the
// connection: what is left of the body would be taken for the next request.
var (
	RejectBodyTooLarge = closing(fasthttp.StatusRequestEntityTooLarge, "body_too_large", "the request body is too large")
	RejectBodyCut      = closing(fasthttp.StatusBadRequest, "body_incomplete", "the request body could not be read to its end")
	RejectBodySlow     = closing(fasthttp.StatusRequestTimeout, "body_timeout", "the request body stalled")
)

func closing(status int, reason, detail string) *Reject {
	r := NewReject(status, reason, detail)
	r.Close = true
	return r
}

// ErrBodyLater is what HoldBody says of a body that the client has not been
// asked for yet (Expect: 100-continue). The hook returns it as it is; the
// engine asks for the body and decides again, from that hook on. It is no answer.
var ErrBodyLater = errors.New("the request body comes later")

// MaxReplayable is the size in bytes up to which a held body becomes x.Body and
// can be sent more than once.
const MaxReplayable = 64 << 10

// ahead is what HoldBody has read of the request body. It is the stream of the
// whole: first what was read, then what is still to come.
type ahead struct {
	x     *Exchange
	buf   []byte
	sent  int
	ended bool
}

// Read implements io.Reader for whoever sends the body on.
func (a *ahead) Read(p []byte) (int, error) {
	if a.sent < len(a.buf) {
		n := copy(p, a.buf[a.sent:])
		a.sent += n
		a.x.BytesIn -= int64(n) // the reader counts them again
		return n, nil
	}
	return a.x.Request.BodyStream().Read(p)
}

// BodyStream is the request body from its first byte on, also if HoldBody has
// read some of it; nil without a body. It does not count what it reads in BytesIn.
func (x *Exchange) BodyStream() io.Reader {
	if x.ahead == nil || len(x.ahead.buf) == 0 {
		return x.Request.BodyStream()
	}
	return x.ahead
}

// HasBody reports whether the request brings a body that is not empty as far as its head tells.
func (x *Exchange) HasBody() bool {
	n := x.Request.Header.ContentLength()
	return n > 0 || n == -1
}

// HoldBody reads the request body ahead, up to limit bytes, and returns them,
// borrowed from the Exchange; whole tells that this is all of it. Only a
// Blocking hook may call it: a Request hook of a stage after Authenticate, or
// an Authenticate hook. Whoever comes later still gets the body from its first
// byte, and may call HoldBody again with another limit. A whole body of at
// most MaxReplayable bytes becomes x.Body, unless it has trailers.
//
// An error is the hook's to return: one of the rejections of a body, or
// ErrBodyLater, after which the hook is called once more.
func (x *Exchange) HoldBody(limit int) (body []byte, whole bool, err error) {
	switch {
	case x.Body != nil:
		return x.Body, true, nil
	case !x.HasBody():
		return nil, true, nil
	case x.BodyLater:
		x.Paused = true
		return nil, false, ErrBodyLater
	}
	stream := x.Request.BodyStream()
	if stream == nil {
		return nil, true, nil
	}
	if x.ahead == nil {
		x.ahead = &ahead{x: x}
	}
	a := x.ahead
	length := x.Request.Header.ContentLength()
	for !a.ended && len(a.buf) < limit {
		if len(a.buf) == cap(a.buf) {
			a.grow(limit, length)
		}
		n, err := stream.Read(a.buf[len(a.buf):min(cap(a.buf), limit)])
		a.buf = a.buf[:len(a.buf)+n]
		x.BytesIn += int64(n)
		switch {
		case x.BodyLimit > 0 && int64(len(a.buf)) > x.BodyLimit:
			return nil, false, RejectBodyTooLarge
		case len(a.buf) == length:
			a.ended = true
		case err == io.EOF && length > 0:
			return nil, false, RejectBodyCut
		case err == io.EOF:
			a.ended = true
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, false, RejectBodySlow
		case err != nil:
			return nil, false, RejectBodyCut
		}
	}
	if !a.ended || len(a.buf) > limit {
		return a.buf[:min(len(a.buf), limit)], false, nil
	}
	if len(a.buf) <= MaxReplayable && len(x.Request.Header.PeekTrailerKeys()) == 0 {
		x.Body = a.buf
	}
	return a.buf, true, nil
}

// grow makes room for more. What is reserved follows what has come, so that a
// client that announces much and sends little costs little.
func (a *ahead) grow(limit, length int) {
	size := min(max(2*cap(a.buf), 4<<10), limit)
	if length > 0 {
		size = min(size, length)
	}
	grown := make([]byte, len(a.buf), size)
	copy(grown, a.buf)
	a.buf = grown
}

func (a *ahead) reset() {
	buf := a.buf[:0]
	if cap(buf) > maxArena {
		buf = nil
	}
	*a = ahead{x: a.x, buf: buf}
}
