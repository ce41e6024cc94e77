package upstream

import (
	"bytes"
	"errors"
	"io"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// readHead reads the response head into the response, past interim responses.
// The first of it is in the reader.
func (c *call) readHead() error {
	n, err := parseHead(c.br.Bytes(), &c.res)
	if err == nil && (n == 0 || c.res.status < 200) {
		n, err = c.finalHead(n)
	}
	if err != nil {
		return err
	}
	c.x.Head = nil
	if c.x.Verbatim && c.res.isHeld() {
		c.passHead(n)
		return nil
	}
	return c.takeHead(n)
}

// finalHead waits until the head is in the reader that is not an interim one,
// and returns its length. n is that of the head which is there, 0 if there is
// none that is whole.
func (c *call) finalHead(n int) (int, error) {
	for interim := 0; ; {
		if n == 0 {
			head, err := c.peekHead()
			if err != nil {
				return 0, err
			}
			if err = ParseResponseHead(head, &c.res); err != nil {
				return 0, err
			}
			n = len(head)
			c.now = c.x.Clock.Now()
		}
		switch status := c.res.status; {
		case status == fasthttp.StatusSwitchingProtocols:
			if !c.req.upgrade || !c.res.upgrade {
				return 0, errUnaskedUpgrade
			}
			return n, nil
		case status >= 200:
			return n, nil
		}
		if interim += n; interim > maxResponseHead {
			return 0, errHeadTooLarge
		}
		// 100 answers the gateway's own request; HTTP/1.0 knows no interim responses.
		if c.res.status != fasthttp.StatusContinue && c.x.Client != nil && c.x.Request.Header.IsHTTP11() {
			c.interim, c.spent = AppendInterim(c.interim[:0], c.br.Bytes()[:n]), true
			c.x.Client.Interim(c.interim)
		}
		c.br.Discard(n)
		n = 0
	}
}

// passHead has a head of n bytes go on as it is. Where the body has come with
// it, nothing comes behind that, and there is room for it.
func (c *call) passHead(n int) {
	x, head := c.x, c.br.Bytes()[:n]
	c.br.Discard(n)
	dst := c.br.free()
	own := !c.isWhole() || cap(dst) < n+lineRoom
	if own {
		dst = c.head[:0]
	}
	dst = append(AppendResponseHead(dst, head, &c.res), exchange.ViaLine...)
	if !c.res.dated {
		dst = x.Clock.AppendDate(dst, c.now)
	}
	if own {
		c.head, c.spent = dst, true
	}
	x.Head = dst
	x.Response.SetStatusCode(c.res.status)
}

// lineRoom is room for what passHead adds to a head.
const lineRoom = 96

// isWhole reports whether the body has a length and all of it is in the reader. Behind a 101 there is no body, whatever it says.
func (c *call) isWhole() bool {
	return c.res.framing.Length <= int64(c.br.Buffered()) && !c.res.framing.Chunked && !c.res.unframed && c.res.status >= 200
}

// takeHead has fasthttp read a head of n bytes.
func (c *call) takeHead(n int) error {
	head := c.br.Bytes()[:n]
	// The status line goes on as HTTP/1.1 whatever the backend spoke: the
	// version is the connection's, not the message's.
	head[7] = '1'
	h := &c.x.Response.Header
	c.chooseDate(h)
	h.DisableNormalizing()
	if err := readInto(h, head); err != nil {
		return err
	}
	c.br.Discard(n)
	if c.res.hop {
		c.dropHop(h)
	}
	h.ResetConnectionClose()
	return nil
}

// isHeld reports whether the response has a body that is small enough to be held.
func (h *responseHead) isHeld() bool {
	return h.status >= 200 && h.status != fasthttp.StatusNoContent && h.status != fasthttp.StatusNotModified &&
		!h.framing.Chunked && !h.unframed && h.framing.Length <= heldBody
}

// chooseDate has the engine add a Date where the backend gave none (RFC 9110,
// section 6.6.1). fasthttp takes none that is set, and forgets that it is not
// to add its own in a reset alone; an attempt that is dated needs that again.
func (c *call) chooseDate(h *fasthttp.ResponseHeader) {
	switch {
	case c.res.dated == !c.ownDate:
	case c.res.dated:
		exchange.Undated(h)
		c.ownDate = false
	default:
		h.Reset()
		h.SetNoDefaultContentType(true)
		c.ownDate = true
	}
}

// dropHop removes the hop-by-hop fields of the response and what its
// Connection fields name (RFC 9110, section 7.6.1).
func (c *call) dropHop(h *fasthttp.ResponseHeader) {
	if c.res.named {
		for name, value := range h.All() {
			if exchange.EqualFold(name, "connection") {
				c.names = append(append(c.names, value...), ',')
			}
		}
		for rest := c.names; len(rest) > 0; {
			var token []byte
			token, rest = nextToken(rest)
			switch exchange.KindOf(token) {
			case exchange.KindContentLength, exchange.KindTransferEncoding, exchange.KindUpgrade:
				// The framing is the gateway's; Upgrade is dealt with below.
			default:
				exchange.DelResponse(h, string(token))
			}
		}
		c.names, c.spent = c.names[:0], true
	}
	for _, name := range hopHeaders {
		exchange.DelResponse(h, name)
	}
	if c.res.status != fasthttp.StatusSwitchingProtocols {
		exchange.DelResponse(h, "Upgrade")
	}
}

var hopHeaders = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Proxy-Authenticate", "Proxy-Authorization"}

var (
	errUnaskedUpgrade = errors.New("the backend switched protocols without being asked")
	errHeadTooLarge   = errors.New("the response head is too large")
)

const protocol = "HTTP/1."

// peekHead waits until a whole head is in the reader.
func (c *call) peekHead() ([]byte, error) {
	searched := 0
	for n := 1; ; n = c.br.Buffered() + 1 {
		if n > maxResponseHead {
			return nil, errHeadTooLarge
		}
		if n > c.br.Size() {
			c.growReader()
		}
		if _, err := c.br.Peek(n); err != nil {
			if err == io.EOF && c.br.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		b, _ := c.br.Peek(c.br.Buffered())
		if n := min(len(b), len(protocol)); string(b[:n]) != protocol[:n] {
			// Not HTTP: there is no end of a head to wait for.
			return nil, errStatusLine
		}
		if end := endOfHead(b, searched); end > maxResponseHead {
			return nil, errHeadTooLarge
		} else if end > 0 {
			return b[:end], nil
		}
		searched = max(0, len(b)-2)
	}
}

// endOfHead returns where the head that b begins with ends, behind its empty line; 0 where that has not come. No line
// ends before from.
func endOfHead(b []byte, from int) int {
	for {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		from += i + 1
		if from+1 < len(b) && b[from] == '\r' && b[from+1] == '\n' {
			return from + 2
		}
	}
}

// growReader moves what has come to a reader that holds the largest head.
func (c *call) growReader() {
	r := newReader(c.conn.Conn, maxResponseHead+readerSize)
	r.w, r.err = copy(r.buf, c.br.Bytes()), c.br.err
	c.br.giveBack()
	c.br = r
}
