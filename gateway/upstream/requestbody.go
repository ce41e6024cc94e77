package upstream

import (
	"errors"
	"io"
	"os"
)

// heldBody is up to which size a body is held to be sent in one piece and again.
const heldBody = 64 << 10

var (
	errBodyTooLarge = errors.New("the request body is too large")
	errBodyCut      = errors.New("the request body ended early")
	errBodySlow     = errors.New("the request body stalled")
)

// bodyFault says what kept the client's body from being read to its end.
func bodyFault(err error) error {
	switch {
	case isReject(err):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodySlow
	}
	return errBodyCut
}

// takeBody decides how the request body travels and holds a small one.
func (c *call) takeBody() error {
	x := c.x
	stream := x.BodyStream()
	length := int64(x.Request.Header.ContentLength())
	switch {
	case x.Body != nil:
		c.req.body, c.req.framing = true, Framing{Length: int64(len(x.Body))}
	case stream == nil:
		c.req.body, c.req.framing = false, Framing{}
	case length > 0 && length <= maxOnce && c.br == nil && !x.KeepsBody && !c.replayable():
		return c.takeOnce(stream, int(length))
	case length > 0 && length <= heldBody:
		if cap(c.body) < int(length) {
			c.body = make([]byte, length)
		}
		c.body = c.body[:length]
		n, err := io.ReadFull(stream, c.body)
		x.BytesIn += int64(n)
		if err != nil {
			return bodyFault(err)
		}
		x.Body = c.body
		c.req.body, c.req.framing = true, Framing{Length: length}
	case length > heldBody:
		c.req.body, c.streamed, c.req.framing = true, true, Framing{Length: length}
	default:
		c.req.body, c.streamed, c.req.framing = true, true, Framing{Chunked: true, Length: -1}
	}
	if c.streamed {
		// While a body streams there is nobody to switch protocols with: the
		// server is free to ignore Upgrade (RFC 9110, section 7.8).
		c.req.upgrade = false
	}
	return nil
}

// maxOnce is up to which size a body that may be sent only once is read into the
// reader, to where it goes out from.
const maxOnce = readerSize / 2

// takeOnce reads a body of n bytes that may be sent only once to the end of the
// reader, where the head comes in front of it.
func (c *call) takeOnce(stream io.Reader, n int) error {
	c.br = takeReader()
	c.once, c.req.body, c.req.framing = n, true, Framing{Length: int64(n)}
	got, err := io.ReadFull(stream, c.br.buf[readerSize-n:])
	c.x.BytesIn += int64(got)
	if err != nil {
		return bodyFault(err)
	}
	return nil
}

// requestOnce is request with the body that takeOnce has read.
func (c *call) requestOnce() []byte {
	start := readerSize - c.once
	body := c.br.buf[start:]
	head := BuildRequestHead(c.x, c.ep, &c.req, c.br.buf[:0:start])
	if &head[0] != &c.br.buf[0] {
		c.out, c.spent = append(head, body...), true
		return c.out
	}
	copy(c.br.buf[start-len(head):], head)
	return c.br.buf[start-len(head):]
}
