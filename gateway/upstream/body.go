package upstream

import (
	"io"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// A call is the response body stream of its exchange: fasthttp writes it with
// WriteTo, chunk by chunk as the backend sends, straight from the connection's
// read buffer.
var _ fasthttp.BodyWriterTo = (*call)(nil)

// SupportsBodyWriteTo tells fasthttp to use WriteTo.
func (c *call) SupportsBodyWriteTo() bool { return true }

var _ exchange.ResponseStream = (*call)(nil)

// Hold implements exchange.ResponseStream.
func (c *call) Hold(limit int) (body []byte, whole bool, err error) {
	held := c.large[:0]
	if c.ahead != nil {
		if held, err = c.reheld(); err != nil {
			return nil, false, c.holdFailure(err)
		}
	}
	for len(held) <= limit {
		chunk, err := c.next()
		last := err == io.EOF
		if err == nil || last {
			chunk, err = c.x.PushBody(chunk, last)
		}
		if err != nil {
			return nil, false, c.holdFailure(err)
		}
		held = append(held, chunk...)
		if last {
			c.large, c.ahead, c.ended = held, nil, true
			c.finish()
			return held, true, nil
		}
		c.consume()
	}
	c.large, c.ahead, c.aheadOf = held, held, c.x.BodyHooks()
	return held[:limit], false, nil
}

// reheld runs what was held before through the hooks that have come since.
func (c *call) reheld() ([]byte, error) {
	if c.aheadOf == c.x.BodyHooks() {
		return c.ahead, nil
	}
	out, err := c.x.PushBodyFrom(c.aheadOf, c.ahead, false)
	// A hook's bytes are good until its next call.
	return append([]byte(nil), out...), err
}

// holdFailure is the answer where a body could not be held.
func (c *call) holdFailure(err error) error {
	reject, ofHook := err.(*exchange.Reject)
	err = c.broken(err)
	switch {
	case err == exchange.ErrClientGone || c.isClientFault(err):
		return c.rejectFor(err)
	case ofHook:
		return reject
	case err == errStalled:
		return rejectTimeout
	}
	return exchange.ErrResponseBody
}

// More implements exchange.ResponseStream.
func (c *call) More() bool {
	rest := c.br.Buffered() - c.pending
	if c.res.framing.Chunked {
		return rest > len("\r\n") // the end of the chunk itself
	}
	return rest > 0 || c.left >= 0 && c.left == int64(c.pending)
}

// chunk returns what is to be written next, and whether it is the last.
func (c *call) chunk() (chunk []byte, last bool, err error) {
	if c.ahead != nil {
		chunk, c.ahead = c.ahead, nil
		chunk, err = c.x.PushBodyFrom(c.aheadOf, chunk, false)
		return chunk, false, err
	}
	chunk, err = c.next()
	if last = err == io.EOF; err != nil && !last {
		return nil, false, err
	}
	if err = nil; c.x.HasBodyHooks() {
		chunk, err = c.x.PushBody(chunk, last)
	}
	return chunk, last, err
}

// WriteTo relays the body. An error leaves the client's message unfinished, so
// that it can not be mistaken for whole.
func (c *call) WriteTo(w io.Writer) (written int64, err error) {
	c.x.Begun = c.x.Response.ImmediateHeaderFlush
	for {
		chunk, last, err := c.chunk()
		if err != nil {
			return written, c.broken(err)
		}
		if len(chunk) > 0 {
			var n int
			if c.direct != nil && !c.x.ResizesBody {
				n, err = c.direct.WriteBody(chunk)
			} else {
				n, err = w.Write(chunk)
			}
			written += int64(n)
			c.x.BytesOut += int64(n)
			c.x.Begun = c.x.Begun || n > 0
			if err != nil {
				c.x.Aborted.Store(true)
				return written, c.broken(exchange.ErrClientGone)
			}
		}
		if last {
			c.finish()
			return written, nil
		}
		c.consume()
	}
}

// Read is for readers that want the body in their own buffer; they have sent
// the head.
func (c *call) Read(p []byte) (int, error) {
	c.x.Begun = true
	for len(c.unread) == 0 {
		if c.ended {
			return 0, io.EOF
		}
		c.consume()
		chunk, last, err := c.chunk()
		if err != nil {
			return 0, c.broken(err)
		}
		if last {
			// What the hooks gave last is theirs, not the read buffer's.
			c.ended = true
			c.finish()
		}
		c.unread = chunk
	}
	n := copy(p, c.unread)
	c.unread = c.unread[n:]
	c.x.BytesOut += int64(n)
	return n, nil
}

// Close ends the body, read or not. It is called once fasthttp is done with it.
func (c *call) Close() error {
	if c.conn != nil {
		_ = c.broken(exchange.ErrClientGone)
	}
	return nil
}

// Discard implements exchange.ResponseStream.
func (c *call) Discard() {
	if c.conn != nil {
		c.now = c.x.Clock.Now()
		c.stopUpload()
		c.endCall(false)
	}
}

// next returns what has come of the body, waiting for the first byte; io.EOF
// after its end. The chunk is valid until consume.
func (c *call) next() ([]byte, error) {
	if c.res.framing.Chunked && c.left == 0 {
		if err := c.nextChunk(); err != nil {
			return nil, err
		}
	}
	if c.left == 0 {
		return nil, io.EOF
	}
	if c.br.Buffered() == 0 {
		if err := c.awaitMore(1); err != nil {
			if err == io.EOF && c.res.unframed {
				return nil, io.EOF
			}
			return nil, cut(err, err)
		}
	}
	n := int64(c.br.Buffered())
	if c.left > 0 {
		n = min(n, c.left)
	}
	b, err := c.br.Peek(int(n))
	c.pending = len(b)
	return b, err
}

// consume lets go of the chunk that next returned.
func (c *call) consume() {
	c.br.Discard(c.pending)
	if c.left > 0 {
		c.left -= int64(c.pending)
	}
	c.inChunk = c.res.framing.Chunked && (c.inChunk || c.pending > 0)
	c.pending = 0
}

// nextChunk reads up to the data of the next chunk, or through the trailer section.
func (c *call) nextChunk() error {
	c.conn.awaitBytes(c.svc.stall)
	return c.conn.gotBytes(c.readChunkHead())
}

func (c *call) readChunkHead() error {
	if c.inChunk {
		c.inChunk = false
		if err := readChunkEnd(c.br); err != nil {
			return err
		}
	}
	n, err := readChunkSize(c.br)
	if err != nil {
		return err
	}
	if c.left = n; n > 0 {
		return nil
	}
	h := &c.x.Response.Header
	err = readTrailer(c.br, func(name, value []byte) {
		if h.AddTrailerBytes(name) == nil {
			h.AddBytesKV(name, value)
		}
	})
	if err != nil {
		return err
	}
	return io.EOF
}

// finish ends a body that was read to its end and gives the connection back
// unless it can not be used again: bytes behind the end would be taken for the
// next answer.
func (c *call) finish() {
	c.now = c.x.Clock.Now()
	whole := c.stopUpload()
	c.endCall(whole && !c.res.close && !c.res.unframed && c.br.Buffered() == 0)
}

// broken ends a body before its end.
func (c *call) broken(err error) error {
	if c.conn == nil {
		return err
	}
	c.now = c.x.Clock.Now()
	err = c.conn.cause(err)
	switch {
	case err == exchange.ErrClientGone || c.x.Aborted.Load():
		c.x.Aborted.Store(true)
		c.x.Reason = reasonClientGone
	case c.isClientFault(err):
		c.x.Reason = "body_incomplete"
	case err == errStalled:
		c.x.Reason = "upstream_stalled"
	default:
		c.x.Reason = "upstream_truncated"
	}
	c.fault, c.spent = c.x.Reason, true
	c.stopUpload()
	c.endCall(false)
	return err
}

// endCall gives up the connection.
func (c *call) endCall(reuse bool) {
	conn := c.conn
	if conn == nil {
		return
	}
	c.conn = nil
	if conn.end() == nil && reuse {
		conn.pool.giveBack(conn, c.now)
	} else {
		conn.pool.drop(conn)
	}
	c.leaveEndpoint()
}
