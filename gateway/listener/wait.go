package listener

import (
	"bufio"
	"io"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/socket"
)

// wait is a connection's wait for its next request, for either engine. Plain requests, which nearly all are, are answered
// within it, and the engine has but what is not plain. It has buffers only while a request is there.
type wait struct {
	server *Server               // nil where engines of other protocols read
	wake   func(fd uintptr) bool // conn.wake, bound once

	// What the wait ends with: a turn, and in it what was read, or an exchange whose answer is still to be sent.
	turn *turn
	read int
	x    *exchange.Exchange
}

// turn is what answering a request needs.
type turn struct {
	buf  []byte   // what was read
	out  verbatim // an answer that is sent without bw
	req  fasthttp.Request
	res  fasthttp.Response // empty between requests, and undated
	body requestBody
	used bool // req has more than what a plain request without a body has it say
	// br and bw are for what is not plain, and for answers that are not verbatim; made for the first of them.
	br *bufio.Reader
	bw *bufio.Writer
}

// turnBuffer is the buffer for an answer; what does not fit is sent from where it lies.
const turnBuffer = 16 << 10

func (s *Server) newTurn() *turn {
	t := &turn{buf: make([]byte, s.fast.ReadBufferSize)}
	exchange.Undated(&t.res.Header)
	return t
}

// nextTurn waits until there is something that is no plain request, which it returns in a turn; it is nil once there can be
// nothing more.
func (c *conn) nextTurn() *turn {
	w := &c.wait
	for {
		t := c.sleep()
		if t == nil || w.x == nil {
			return t
		}
		x := w.x
		w.x = nil
		keep := c.complete(t, x, false)
		w.server.turns.Put(t)
		if !keep {
			return nil
		}
	}
}

// sleep waits once. At a socket the wait goes on over plain requests whose answers go out verbatim.
func (c *conn) sleep() *turn {
	w := &c.wait
	if s, ok := c.Conn.(*socket.Conn); ok {
		c.phase.CompareAndSwap(phaseDone, phaseIdle)
		if s.Poll(w.wake) != nil {
			return nil
		}
		t := w.turn
		w.turn = nil
		return t
	}
	t := w.server.turns.Get().(*turn)
	n, _ := c.read(c.phase.Load(), t.buf)
	if n == 0 {
		w.server.turns.Put(t)
		return nil
	}
	w.read, w.x = n, c.answer(t, t.buf[:n])
	return t
}

// wake is what the wait at a socket calls when there may be something to read; it reports false to go on waiting. The wait holds the
// socket's reading side, which is why nothing in here reads on, and is not begun anew for each request, which spares the read
// that would only say that nothing has come yet. So an end that came along with a request shows in the sweeper's look.
func (c *conn) wake(fd uintptr) bool {
	turns := &c.wait.server.turns
	t := turns.Get().(*turn)
	n, err := socket.TryRead(fd, t.buf)
	if n == 0 {
		turns.Put(t)
		return err != socket.ErrNotYet
	}
	x := c.answer(t, t.buf[:n])
	if x == nil || x.Head == nil || n == len(t.buf) || c.isLast(x) || c.pacing.on() {
		c.wait.turn, c.wait.read, c.wait.x = t, n, x
		return true
	}
	t.out.compose(x, false)
	sent := c.writeNow(fd, &t.out)
	t.out.sent()
	t.end(x)
	turns.Put(t)
	c.phase.CompareAndSwap(phaseDone, phaseIdle)
	return !sent
}

// answer answers the request that was read into b, if it is plain and whole; else it returns nil. The answer is not sent.
func (c *conn) answer(t *turn, b []byte) *exchange.Exchange {
	s := c.wait.server
	x := s.pool.Get(&t.req, &t.res, s.ended)
	r := readPlain(x, b)
	if ph := c.phase.Load(); r.size == 0 || len(b)-r.size != r.length || ph == phaseClosing || !c.phase.CompareAndSwap(ph, phaseServing) {
		x.Discard()
		return nil
	}
	c.strict.ended++
	r.present(x, &t.req)
	if r.length > 0 {
		t.hold(&r, b)
	}
	c.buffered = false
	s.attach(c, x)
	x.Verbatim = !s.adorns(c) && !t.req.Header.IsHead()
	s.handler.Handle(x)
	return x
}

// hold has the body of a plain request read from where it came, behind the head.
func (t *turn) hold(r *plain, b []byte) {
	t.used = true
	t.req.Header.SetContentLength(r.length)
	t.body = requestBody{turn: t, left: r.length, ahead: b[r.size:]}
	t.req.SetBodyStream(&t.body, r.length)
}

// isLast reports whether the connection ends with the answer to x, whatever its request says.
func (c *conn) isLast(x *exchange.Exchange) bool {
	return x.Response.ConnectionClose() || c.wait.server.draining.Load() || x.Aborted.Load() || c.cut.Load()
}

// complete sends the answer and ends the exchange. It reports whether the
// connection may be used for another request.
func (c *conn) complete(t *turn, x *exchange.Exchange, closing bool) (keep bool) {
	defer t.end(x)
	c.wait.server.secure(c, x)
	closing = closing || c.isLast(x) || t.body.failed || !t.res.IsBodyStream() && t.body.overflows(maxUnreadBody)
	if x.Head != nil {
		return t.answerVerbatim(c, x, closing) == nil && !closing && t.body.skip(maxUnreadBody)
	}
	if t.bw == nil {
		t.bw = bufio.NewWriterSize(nil, turnBuffer)
	}
	bw := t.bw
	bw.Reset(c)
	defer func() {
		if t.bw != nil { // else it was given back, and may be another connection's
			bw.Reset(nil)
		}
	}()
	if x.Answer == exchange.Tunnel && x.Tunnel != nil {
		c.phase.Store(phaseTunnel)
		if t.res.Write(bw) == nil && bw.Flush() == nil {
			c.letGo(t)
			c.run(x.Tunnel)
		}
		return false
	}
	if t.req.Header.IsHead() {
		t.res.SkipBody = true
	}
	http11 := t.req.Header.IsHTTP11()
	switch {
	case !http11 && t.res.IsBodyStream() && t.res.Header.ContentLength() < 0:
		t.answerUnframed(c)
		return false
	case closing:
		t.res.SetConnectionClose()
	case !http11:
		t.res.Header.Set(fasthttp.HeaderConnection, "keep-alive")
	}
	if t.res.Write(bw) != nil || bw.Flush() != nil {
		return false
	}
	return !closing && t.body.skip(maxUnreadBody)
}

// end closes the exchange once its answer is gone, or will never be whole.
func (t *turn) end(x *exchange.Exchange) {
	if t.res.IsBodyStream() {
		_ = t.res.CloseBodyStream()
	}
	verbatim := x.Head != nil
	_ = x.Close()
	if t.used {
		t.used, t.body = false, requestBody{}
		t.req.Reset()
	}
	if h := &t.res.Header; !verbatim || h.Len() > 0 || len(h.StatusMessage()) > 0 {
		t.res.Reset()
		exchange.Undated(h)
		return
	}
	// An answer that went out verbatim has left nothing but these.
	t.res.Header.SetStatusCode(fasthttp.StatusOK)
	t.res.ResetBody()
	t.res.SkipBody, t.res.ImmediateHeaderFlush = false, false
}

// answerVerbatim sends an answer whose head is not parsed.
func (t *turn) answerVerbatim(c *conn, x *exchange.Exchange, closing bool) error {
	t.out.compose(x, closing)
	defer t.out.sent()
	return c.writeBoth(t.out.head, t.out.body)
}

// answerUnframed sends a body of unknown length to a client that does not know
// chunks (HTTP/1.0): it ends with the connection.
func (t *turn) answerUnframed(c *conn) {
	h := &t.res.Header
	h.Del(fasthttp.HeaderTransferEncoding)
	h.SetConnectionClose()
	_, err := t.bw.Write(h.AppendBytes(nil))
	if err == nil {
		err = t.bw.Flush()
	}
	if err == nil && !t.res.SkipBody {
		_, err = io.Copy(c, struct{ io.Reader }{t.res.BodyStream()})
	}
	if err != nil {
		c.reset()
	}
}

// letGo gives the buffers back ahead of what may last for days. strict has kept what came behind the request, so that they are empty.
func (c *conn) letGo(t *turn) {
	buffers := &turn{buf: t.buf, br: t.br, bw: t.bw}
	exchange.Undated(&buffers.res.Header)
	if t.bw.Reset(nil); t.br != nil {
		t.br.Reset(nil)
	}
	t.buf, t.br, t.bw = nil, nil, nil
	c.wait.server.turns.Put(buffers)
}
