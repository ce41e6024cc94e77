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
// types for messages. It reads and answers as fasthttp's server does, with
// buffers that it holds only while a request is there.
type loop struct {
	server *Server
	conn   *conn
	poll   func(fd uintptr) bool // wake, bound once
	turn   *turn                 // what wake has found a request for
	err    error
}

// turn is what requests that follow upon each other without a pause need.
type turn struct {
	conn *conn
	br   *bufio.Reader
	bw   *bufio.Writer
	out  verbatim // an answer that is sent without bw
	req  fasthttp.Request
	res  fasthttp.Response
	body requestBody
}

// loopBuffer is the buffer for an answer; what does not fit is sent from where it lies.
const loopBuffer = 16 << 10

// maxUnreadBody is how much of a request body that nobody wanted is read, so
// that its connection can be used again; fasthttp's own bound.
const maxUnreadBody = 256 << 10

func (s *Server) newTurn() *turn {
	return &turn{br: bufio.NewReaderSize(nil, s.fast.ReadBufferSize), bw: bufio.NewWriterSize(nil, loopBuffer)}
}

func (l *loop) take() *turn {
	t := l.server.turns.Get().(*turn)
	t.conn = l.conn
	t.br.Reset(l.conn)
	t.bw.Reset(l.conn)
	return t
}

func (l *loop) giveBack(t *turn) {
	t.conn = nil
	t.br.Reset(nil)
	t.bw.Reset(nil)
	t.body = requestBody{}
	l.server.turns.Put(t)
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
	for {
		t, err := l.await()
		if t == nil {
			return
		}
		keep := err == nil
		for keep {
			if keep = l.serve(t); !keep || t.br.Buffered() == 0 {
				break
			}
		}
		if t.br != nil {
			l.giveBack(t)
		}
		if !keep {
			return
		}
	}
}

// await waits for the first byte of a request. Where that can be done at the
// socket, it holds no buffer meanwhile.
func (l *loop) await() (*turn, error) {
	s, ok := l.conn.Conn.(*socket.Conn)
	if !ok || len(l.conn.held) > 0 {
		t := l.take()
		_, err := t.br.Peek(1)
		return t, err
	}
	if err := s.Poll(l.poll); err != nil {
		return nil, err
	}
	t := l.turn
	l.turn = nil
	return t, l.err
}

// wake tries to read; it reports false when there is nothing yet.
func (l *loop) wake(fd uintptr) bool {
	t := l.take()
	l.conn.trying, l.conn.fd = true, fd
	_, err := t.br.Peek(1)
	l.conn.trying = false
	if err == socket.ErrNotYet {
		l.giveBack(t)
		return false
	}
	l.turn, l.err = t, err
	return true
}

// serve reads a request and answers it. It reports whether the connection may
// be used for another one.
func (l *loop) serve(t *turn) (keep bool) {
	s, c := l.server, l.conn
	exchange.Undated(&t.res.Header)
	err := t.req.Header.Read(t.br)
	if err != nil {
		l.refuse(t, err)
		return false
	}
	x, err := s.begin(c, &t.req, &t.res)
	defer t.end(x)
	refused := false
	switch {
	case err != nil:
		t.frame()
	case t.req.MayContinue():
		if err = s.decideAhead(x); err == nil || x.Paused {
			_, _ = t.bw.WriteString("HTTP/1.1 100 Continue\r\n\r\n")
			if t.bw.Flush() != nil {
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
	http11 := t.req.Header.IsHTTP11()
	x.Verbatim = http11 && !t.req.Header.IsHead() && !s.adorns(c)
	closing := t.req.Header.ConnectionClose()
	s.handler.Answer(x, err)
	s.secure(c, x)
	if x.Answer == exchange.Tunnel && x.Tunnel != nil {
		c.phase.Store(phaseTunnel)
		if t.res.Write(t.bw) == nil && t.bw.Flush() == nil {
			l.letGo(t)
			c.run(x.Tunnel)
		}
		return false
	}
	closing = closing || refused || t.res.ConnectionClose() || s.draining.Load() || x.Aborted.Load() || c.cut.Load() ||
		t.body.failed || !t.res.IsBodyStream() && t.body.overflows(maxUnreadBody)
	if x.Head != nil {
		return t.answerVerbatim(x, closing) == nil && !closing && t.body.skip(maxUnreadBody)
	}
	if t.req.Header.IsHead() {
		t.res.SkipBody = true
	}
	switch {
	case !http11 && t.res.IsBodyStream() && t.res.Header.ContentLength() < 0:
		t.answerUnframed()
		return false
	case closing:
		t.res.SetConnectionClose()
	case !http11:
		t.res.Header.Set(fasthttp.HeaderConnection, "keep-alive")
	}
	if t.res.Write(t.bw) != nil || t.bw.Flush() != nil {
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
	_ = t.res.CloseBodyStream()
	_ = x.Close()
	t.req.Reset()
	t.res.Reset()
	t.body = requestBody{}
}

// answerVerbatim sends an answer whose head is not parsed.
func (t *turn) answerVerbatim(x *exchange.Exchange, closing bool) error {
	t.out.compose(x, closing)
	defer t.out.sent()
	return t.conn.writeBoth(t.out.head, t.out.body)
}

// answerUnframed sends a body of unknown length to a client that does not know
// chunks (HTTP/1.0): it ends with the connection.
func (t *turn) answerUnframed() {
	h := &t.res.Header
	h.Del(fasthttp.HeaderTransferEncoding)
	h.SetConnectionClose()
	_, err := t.bw.Write(h.AppendBytes(nil))
	if err == nil {
		err = t.bw.Flush()
	}
	if err == nil && !t.res.SkipBody {
		_, err = io.Copy(t.conn, struct{ io.Reader }{t.res.BodyStream()})
	}
	if err != nil {
		t.conn.reset()
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
	l.giveBack(&turn{br: t.br, bw: t.bw})
	t.br, t.bw = nil, nil
}

// requestBody is the body of a request. strict has found its framing valid.
type requestBody struct {
	turn    *turn // nil without a body
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
func (b *requestBody) overflows(limit int) bool { return !b.chunked && b.left > limit }

// skip reads what nobody wanted, up to limit bytes. It reports whether the body
// was read to its end.
func (b *requestBody) skip(limit int) bool {
	if b.turn == nil || b.ended {
		return true
	}
	if b.failed || b.overflows(limit) {
		return false
	}
	_, err := io.CopyN(io.Discard, b, int64(limit)+1)
	return err == io.EOF
}
