package listener

import (
	"bufio"
	"errors"
	"io"
	"net"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/socket"
)

// loop is the second engine: one goroutine for each connection, over fasthttp's
// types for messages. Plain requests it reads itself, all others with fasthttp's
// parser and as fasthttp's server does. It has buffers only while a request is there.
type loop struct {
	server *Server
	conn   *conn
	poll   func(fd uintptr) bool // wake, bound once

	// What wake leaves for the goroutine, once it does not wait any more: what was read, or an exchange to be completed.
	turn *turn
	read int
	x    *exchange.Exchange
}

// turn is what requests that follow upon each other without a pause need.
type turn struct {
	buf  []byte   // what is read first
	out  verbatim // an answer that is sent without bw
	req  fasthttp.Request
	res  fasthttp.Response // empty between requests, and undated
	body requestBody
	used bool // req has more than what a plain request without a body has it say
	// br and bw are for what is not plain, and made for the first of that.
	br *bufio.Reader
	bw *bufio.Writer
}

// loopBuffer is the buffer for an answer; what does not fit is sent from where it lies.
const loopBuffer = 16 << 10

// maxUnreadBody is how much of a request body that nobody wanted is read, so
// that its connection can be used again; fasthttp's own bound.
const maxUnreadBody = 256 << 10

func (s *Server) newTurn() *turn {
	t := &turn{buf: make([]byte, s.fast.ReadBufferSize)}
	exchange.Undated(&t.res.Header)
	return t
}

// serveLoop serves a connection to its end.
func (s *Server) serveLoop(c *conn) {
	defer func() { _ = c.Close() }()
	if _, plain := c.Conn.(*socket.Conn); !plain || c.proxied != ProxyOff {
		if c.Handshake() != nil {
			return
		}
		if c.ConnectionState().NegotiatedProtocol == "h2" {
			_ = s.serveHTTP2(c)
			return
		}
	}
	l := &loop{server: s, conn: c}
	l.poll = l.wake
	for l.next() {
	}
}

// next waits for the next request and answers it, with those that came along.
// It reports whether the connection may be used for another one.
func (l *loop) next() (keep bool) {
	t := l.await()
	if t == nil {
		return false
	}
	if x := l.x; x != nil {
		l.x = nil
		keep = l.complete(t, x, false)
	} else {
		keep = l.serveRead(t)
	}
	if t.buf != nil {
		l.server.turns.Put(t)
	}
	return keep
}

// await waits until there is something for the goroutine to do; it is nil once there can be nothing more. At a socket it
// holds no buffer meanwhile, and plain requests are answered within the wait.
func (l *loop) await() *turn {
	c := l.conn
	if s, ok := c.Conn.(*socket.Conn); ok {
		c.phase.CompareAndSwap(phaseDone, phaseIdle)
		if s.Poll(l.poll) != nil {
			return nil
		}
		t := l.turn
		l.turn = nil
		return t
	}
	t := l.server.turns.Get().(*turn)
	n, _ := c.read(c.phase.Load(), t.buf)
	if n == 0 {
		l.server.turns.Put(t)
		return nil
	}
	l.read, l.x = n, l.plain(t, n)
	return t
}

// wake is what the wait calls when there may be something to read; it reports false to go on waiting. The wait holds the
// socket's reading side, which is why nothing in here reads, and is not begun anew for each request, which spares the read
// that would only say that nothing has come yet. So an end that came along with a request shows in the sweeper's look.
func (l *loop) wake(fd uintptr) bool {
	t := l.server.turns.Get().(*turn)
	n, err := socket.TryRead(fd, t.buf)
	if n == 0 {
		l.server.turns.Put(t)
		return err != socket.ErrNotYet
	}
	x := l.plain(t, n)
	if x == nil || x.Head == nil || n == len(t.buf) || l.isLast(x) || l.conn.pacing.on() {
		l.turn, l.read, l.x = t, n, x
		return true
	}
	t.out.compose(x, false)
	sent := l.conn.writeNow(fd, &t.out)
	t.out.sent()
	t.end(x)
	l.server.turns.Put(t)
	l.conn.phase.CompareAndSwap(phaseDone, phaseIdle)
	return !sent
}

// plain answers the request of which n bytes were read, if it is plain and whole; else it returns nil. The answer is not sent.
func (l *loop) plain(t *turn, n int) *exchange.Exchange {
	s, c := l.server, l.conn
	x := s.pool.Get(&t.req, &t.res, s.ended)
	r := readPlain(x, t.buf[:n])
	if ph := c.phase.Load(); r.size == 0 || n-r.size != r.length || ph == phaseClosing || !c.phase.CompareAndSwap(ph, phaseServing) {
		x.Discard()
		return nil
	}
	r.present(x, &t.req)
	c.unflushed = false
	if r.length > 0 {
		t.used = true
		t.req.Header.SetContentLength(r.length)
		t.body = requestBody{turn: t, left: r.length, ahead: t.buf[r.size:n]}
		t.req.SetBodyStream(&t.body, r.length)
	}
	s.attach(c, x)
	err := s.handler.Decide(x)
	x.Verbatim = !t.req.Header.IsHead() && !s.adorns(c)
	s.handler.Answer(x, err)
	return x
}

// isLast reports whether the connection ends with the answer to x, whatever its request says.
func (l *loop) isLast(x *exchange.Exchange) bool {
	return x.Response.ConnectionClose() || l.server.draining.Load() || x.Aborted.Load() || l.conn.cut.Load()
}

// serveRead answers what has begun to come and is not plain, and what comes with it.
func (l *loop) serveRead(t *turn) (keep bool) {
	c := l.conn
	if t.br == nil {
		t.br, t.bw = bufio.NewReaderSize(nil, len(t.buf)), bufio.NewWriterSize(nil, loopBuffer)
	}
	br, bw := t.br, t.bw
	br.Reset(c)
	bw.Reset(c)
	defer func() {
		br.Reset(nil)
		bw.Reset(nil)
	}()
	if ph := c.phase.Load(); ph != phaseHead {
		if !c.phase.CompareAndSwap(ph, phaseHead) {
			return false
		}
		c.since.Store(c.owner.coarse.Load())
	}
	c.unflushed, c.held = false, t.buf[:l.read]
	for keep = true; keep && (len(c.held) > 0 || br.Buffered() > 0); {
		keep = l.serve(t)
	}
	return keep
}

// serve reads a request with fasthttp's parser and answers it. It reports
// whether the connection may be used for another one.
func (l *loop) serve(t *turn) (keep bool) {
	s, c := l.server, l.conn
	t.used = true
	t.req.Reset()
	err := t.req.Header.Read(t.br)
	if err != nil {
		l.refuse(t, err)
		return false
	}
	x, err := s.begin(c, &t.req, &t.res)
	refused := false
	switch {
	case err != nil:
		t.frame()
	case t.req.MayContinue():
		if err = s.decideAhead(x); err == nil || x.Paused {
			_, _ = t.bw.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
			if t.bw.Flush() != nil {
				t.end(x)
				return false
			}
			t.frame()
			if x.Paused {
				err = s.handler.Decide(x)
			}
		} else {
			refused = true
		}
	default:
		t.frame()
		err = s.handler.Decide(x)
	}
	x.Verbatim = t.req.Header.IsHTTP11() && !t.req.Header.IsHead() && !s.adorns(c)
	closing := refused || t.req.Header.ConnectionClose()
	s.handler.Answer(x, err)
	return l.complete(t, x, closing)
}

// complete sends the answer and ends the exchange. It reports whether the
// connection may be used for another request.
func (l *loop) complete(t *turn, x *exchange.Exchange, closing bool) (keep bool) {
	defer t.end(x)
	s, c := l.server, l.conn
	s.secure(c, x)
	closing = closing || l.isLast(x) || t.body.failed || !t.res.IsBodyStream() && t.body.overflows(maxUnreadBody)
	if x.Head != nil {
		return t.answerVerbatim(c, x, closing) == nil && !closing && t.body.skip(maxUnreadBody)
	}
	if t.bw == nil {
		t.bw = bufio.NewWriterSize(nil, loopBuffer)
	}
	bw := t.bw
	bw.Reset(c)
	defer bw.Reset(nil)
	if x.Answer == exchange.Tunnel && x.Tunnel != nil {
		c.phase.Store(phaseTunnel)
		if t.res.Write(bw) == nil && bw.Flush() == nil {
			l.letGo(t)
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

// frame makes the body of the request readable.
func (t *turn) frame() {
	switch n := t.req.Header.ContentLength(); {
	case n > 0:
		t.body = requestBody{turn: t, left: n}
	case n == -1:
		t.body = requestBody{turn: t, chunked: true}
	default:
		return
	}
	t.req.SetBodyStream(&t.body, t.req.Header.ContentLength())
}

// end closes the exchange once its answer is gone, or will never be whole.
func (t *turn) end(x *exchange.Exchange) {
	if t.res.IsBodyStream() {
		_ = t.res.CloseBodyStream()
	}
	_ = x.Close()
	if t.used {
		t.used, t.body = false, requestBody{}
		t.req.Reset()
	}
	if h := &t.res.Header; h.Len() > 0 || len(h.StatusMessage()) > 0 {
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

// refuse answers what could not be read, unless nobody is there.
func (l *loop) refuse(t *turn, err error) {
	if err == io.EOF || errors.Is(err, net.ErrClosed) {
		return
	}
	x := l.server.pool.Get(&t.req, &t.res, l.server.ended)
	defer t.end(x)
	l.server.refuse(l.conn, x, err)
	t.res.SetConnectionClose()
	if t.res.Write(t.bw) == nil {
		_ = t.bw.Flush()
	}
}

// letGo gives the buffers back ahead of what may last for days. strict has kept what came behind the request, so that they are empty.
func (l *loop) letGo(t *turn) {
	buffers := &turn{buf: t.buf, br: t.br, bw: t.bw}
	exchange.Undated(&buffers.res.Header)
	t.buf, t.br, t.bw = nil, nil, nil
	l.server.turns.Put(buffers)
}

// requestBody is the body of a request. strict has found its framing valid.
type requestBody struct {
	turn    *turn  // nil without a body
	ahead   []byte // all of the body, where it came with a plain head; else it is read with the turn's br
	chunked bool
	left    int  // of the body, or of the chunk
	inChunk bool // a chunk's line end is still to be read
	ended   bool
	failed  bool // where the next request begins is not known
}

// Read implements io.Reader. The last bytes come with io.EOF.
func (b *requestBody) Read(p []byte) (n int, err error) {
	if b.ended {
		return 0, io.EOF
	}
	if len(b.ahead) > 0 {
		n = copy(p, b.ahead)
		if b.ahead = b.ahead[n:]; len(b.ahead) == 0 {
			b.ended = true
			return n, io.EOF
		}
		return n, nil
	}
	if b.chunked && b.left == 0 {
		err = b.nextChunk()
	}
	if err == nil && !b.ended {
		n, err = b.turn.br.Read(p[:min(len(p), b.left)])
		if b.left -= n; err == nil && b.left == 0 && !b.chunked {
			b.ended = true
		}
	}
	switch {
	case b.ended:
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	b.failed = b.failed || err != nil
	return n, err
}

// nextChunk reads up to the next chunk's data, or past the trailers.
func (b *requestBody) nextChunk() error {
	br := b.turn.br
	if b.inChunk {
		if _, err := br.ReadSlice('\n'); err != nil {
			return err
		}
	}
	line, err := br.ReadSlice('\n')
	for err == bufio.ErrBufferFull { // extensions, whose length strict bounds
		_, err = br.ReadSlice('\n')
	}
	if err != nil {
		return err
	}
	b.inChunk = true
	for _, c := range line {
		d, ok := hexDigit(c)
		if !ok {
			break
		}
		b.left = b.left<<4 | d
	}
	if b.left > 0 {
		return nil
	}
	if err := b.turn.req.Header.ReadTrailer(br); err != nil {
		return err
	}
	b.ended = true
	return nil
}

func hexDigit(c byte) (int, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0'), true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10, true
	}
	return 0, false
}

// overflows reports whether more than limit bytes are known to be unread.
func (b *requestBody) overflows(limit int) bool {
	return !b.chunked && len(b.ahead) == 0 && b.left > limit
}

// skip reads what nobody wanted, up to limit bytes. It reports whether the body
// was read to its end.
func (b *requestBody) skip(limit int) bool {
	if b.turn == nil || b.ended || len(b.ahead) > 0 {
		return true
	}
	if b.failed || b.overflows(limit) {
		return false
	}
	_, err := io.CopyN(io.Discard, b, int64(limit)+1)
	return err == io.EOF
}
