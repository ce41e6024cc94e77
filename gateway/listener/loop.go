package listener

import (
	"bufio"
	"errors"
	"io"
	"net"

	"sluice/gateway/socket"
)

// loop is the second engine: one goroutine for each connection, over fasthttp's
// types for messages. What is no plain request it reads with fasthttp's parser, and
// reads and answers as fasthttp's server does.
type loop struct{ *conn }

// maxUnreadBody is how much of a request body that nobody wanted is read, so
// that its connection can be used again; fasthttp's own bound.
const maxUnreadBody = 256 << 10

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
	l := loop{c}
	for keep := true; keep; {
		t := c.nextTurn()
		if t == nil {
			return
		}
		keep = l.serveRead(t)
		if t.buf != nil {
			s.turns.Put(t)
		}
	}
}

// serveRead answers what has begun to come and is not plain, and what comes with it.
func (l loop) serveRead(t *turn) (keep bool) {
	c := l.conn
	if t.br == nil {
		t.br, t.bw = bufio.NewReaderSize(nil, len(t.buf)), bufio.NewWriterSize(nil, turnBuffer)
	}
	br := t.br
	br.Reset(c)
	defer func() {
		if t.buf != nil { // else they were given back already, and may be another connection's
			t.br.Reset(nil)
			t.bw.Reset(nil)
		}
	}()
	if !c.beginHead() {
		return false
	}
	c.held = t.buf[:l.wait.read]
	for keep = true; keep && (len(c.held) > 0 || br.Buffered() > 0); {
		keep = l.serve(t)
	}
	return keep
}

// serve reads a request with fasthttp's parser and answers it. It reports
// whether the connection may be used for another one.
func (l loop) serve(t *turn) (keep bool) {
	s, c := l.wait.server, l.conn
	t.used = true
	t.req.Reset()
	t.bw.Reset(c) // complete has let go of it
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

// refuse answers what could not be read, unless nobody is there.
func (l loop) refuse(t *turn, err error) {
	if err == io.EOF || errors.Is(err, net.ErrClosed) {
		return
	}
	x := l.wait.server.pool.Get(&t.req, &t.res, l.wait.server.ended)
	defer t.end(x)
	l.wait.server.refuse(l.conn, x, err)
	t.res.SetConnectionClose()
	if t.res.Write(t.bw) == nil {
		_ = t.bw.Flush()
	}
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
	return !b.ended && !b.chunked && len(b.ahead) == 0 && b.left > limit
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
