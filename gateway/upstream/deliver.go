package upstream

import (
	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// deliver arranges the response body: none, held, or streaming.
func (c *call) deliver() error {
	x := c.x
	if x.Head == nil || !c.isWhole() {
		return c.deliverOther()
	}
	// The common case: what has come at once goes on as it is.
	x.Answer = exchange.Proxied
	n := c.res.framing.Length
	body := c.br.Bytes()[:n:n] // the head may lie behind it
	c.pending = len(body)
	if x.HasBodyHooks() {
		var err error
		if body, err = x.PushWhole(body); err != nil {
			return err
		}
	}
	x.BytesOut += int64(len(body))
	x.Response.SetBodyRaw(body)
	c.finishHeld()
	return nil
}

func (c *call) deliverOther() error {
	x, res := c.x, &c.res
	status := res.status
	if status == fasthttp.StatusSwitchingProtocols {
		x.Answer = exchange.Tunnel
		x.Response.Header.Set("Connection", "Upgrade")
		c.spent = true
		c.tunnel = Tunnel{x: x, call: c, conn: c.conn, br: c.br}
		x.Tunnel = &c.tunnel
		return nil
	}
	x.Answer = exchange.Proxied
	if x.Request.Header.IsHead() || status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified {
		x.Response.SkipBody = true
		// No length may stand there (RFC 9110, section 8.6): its body may follow.
		res.close = res.close || status == fasthttp.StatusNoContent && (res.framing.Length > 0 || res.framing.Chunked)
		res.unframed, res.framing.Chunked = false, false
		c.finishHeld()
		return nil
	}
	n := res.framing.Length
	if body, ok, err := c.held(); ok || err != nil {
		if err == nil && x.HasBodyHooks() {
			body, err = x.PushWhole(body)
		}
		if err != nil {
			return err
		}
		x.BytesOut += int64(len(body))
		x.Response.SetBodyRaw(body)
		c.finishHeld()
		return nil
	}
	c.spent, c.left = true, 0
	switch {
	case res.unframed:
		c.left = -1
	case !res.framing.Chunked:
		c.left = n
	}
	size := int(n)
	if res.framing.Chunked || res.unframed || x.ResizesBody {
		size = -1
	}
	x.Response.SetBodyStream(c, size)
	c.direct = nil
	if size >= 0 && !x.HasBodyHooks() {
		// fasthttp flushes what has a length only when its buffer is full; a
		// body that comes slowly must not wait for that. With the head flushed
		// ahead the buffer is empty, and the body passes it by.
		c.direct, _ = x.Client.(bodyWriter)
	}
	// Where the body is late the head does not wait for it.
	x.Response.ImmediateHeaderFlush = c.direct != nil || c.br.Buffered() == 0
	return nil
}

// held returns the body if it is one to be held: small, or in chunks that have
// all come with the head.
func (c *call) held() (body []byte, ok bool, err error) {
	switch res := &c.res; {
	case res.framing.Chunked:
		b, _ := c.br.Peek(c.br.Buffered())
		body, c.pending, ok = joinChunks(b)
		return body, ok, nil
	case res.unframed || res.framing.Length > heldBody:
		return nil, false, nil
	}
	body, err = c.hold(int(c.res.framing.Length))
	return body, err == nil, err
}

// bodyWriter is a client's connection on which a body of known length may pass
// by the engine's buffer while that is empty.
type bodyWriter interface {
	WriteBody(p []byte) (int, error)
}

// hold reads a body of n bytes. Where it fits the reader it stays there.
func (c *call) hold(n int) ([]byte, error) {
	if n <= c.br.Size() {
		for have := c.br.Buffered(); have < n; have = c.br.Buffered() {
			if err := c.awaitMore(have + 1); err != nil {
				return nil, cut(err, err)
			}
		}
		c.pending = n
		return c.br.Peek(n)
	}
	if cap(c.large) < n {
		c.large = make([]byte, n)
	}
	c.large, c.spent = c.large[:n], true
	for have := 0; have < n; {
		if c.br.Buffered() == 0 {
			if err := c.awaitMore(1); err != nil {
				return nil, cut(err, err)
			}
		}
		m, _ := c.br.Read(c.large[have:])
		have += m
	}
	return c.large, nil
}

// awaitMore waits until n bytes are in the reader, of which all but one are.
func (c *call) awaitMore(n int) error {
	c.conn.awaitBytes(c.svc.stall)
	_, err := c.br.Peek(n)
	return c.conn.gotBytes(err)
}

// finishHeld gives up the connection once the held body is complete.
func (c *call) finishHeld() {
	reuse := !c.res.close && c.br.Buffered() == c.pending
	if c.upload != nil {
		reuse = c.stopUpload() && reuse
	}
	c.endCall(reuse)
}
