package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/breaker"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream/balance"
)

// call is one exchange's business with a backend: its attempts, its
// connection, and the response body while it streams. It is kept with the
// pooled Exchange, so that a request allocates nothing.
type call struct {
	svc *Service
	x   *exchange.Exchange

	// The request, as it is sent at each attempt.
	body       []byte // held body, replayable
	reqFraming Framing
	hasBody    bool
	streamed   bool // the body is not held: there is one attempt
	upgrade    bool
	out        []byte

	// The attempts.
	key      uint64
	tried    balance.Tried
	ep       *endpoint
	permit   breaker.Permit
	permitOf *endpoint // whose breaker granted permit, nil for none
	failed   bool      // the last attempt under permit failed
	began    int64
	latency  time.Duration
	outcome  balance.Outcome
	loan     loan

	// The response.
	br      *bufio.Reader
	res     responseHead
	left    int64 // of the body or the chunk; -1 until the connection ends
	inChunk bool
	pending int
	unread  []byte
	ended   bool
	large   []byte // a buffered body that did not fit the reader
	upload  *upload
	tunnel  Tunnel
}

var calls = exchange.NewSlot[call]()

// Reset makes the call ready for the next exchange. Buffers stay.
func (c *call) Reset() {
	// A tunnel or a body that never came to run.
	c.endCall(false)
	if c.br != nil {
		releaseReader(c.br)
	}
	body, out, large := c.body[:0], c.out[:0], c.large[:0]
	if cap(large) > maxKept {
		large = nil
	}
	if cap(body) > maxKept {
		body = nil
	}
	if cap(out) > maxKept {
		out = nil
	}
	*c = call{body: body, out: out, large: large}
}

// maxKept is how large a buffer stays with an idle exchange.
const maxKept = 16 << 10

// heldBody is up to which size a body is held to be sent in one piece and again.
const heldBody = 64 << 10

var (
	errBodyTooLarge = errors.New("the request body is too large")
	errBodyCut      = errors.New("the request body ended early")
)

// takeBody decides how the request body travels and holds a small one.
func (c *call) takeBody() error {
	x := c.x
	stream := x.Request.BodyStream()
	length := int64(x.Request.Header.ContentLength())
	switch {
	case x.Body != nil:
		c.hasBody, c.reqFraming = true, Framing{Length: int64(len(x.Body))}
	case stream == nil || length == 0 || length < -1:
		// Without a body its absence is framed only where a body would be
		// expected (RFC 9110, section 8.6).
		c.hasBody = length == 0 && x.HasField(exchange.KindContentLength)
		c.reqFraming = Framing{}
	case length > 0 && length <= heldBody:
		if cap(c.body) < int(length) {
			c.body = make([]byte, length)
		}
		c.body = c.body[:length]
		n, err := io.ReadFull(stream, c.body)
		x.BytesIn += int64(n)
		if err != nil {
			return errBodyCut
		}
		x.Body = c.body
		c.hasBody, c.reqFraming = true, Framing{Length: length}
	case length > heldBody:
		c.hasBody, c.streamed, c.reqFraming = true, true, Framing{Length: length}
	default:
		c.hasBody, c.streamed, c.reqFraming = true, true, Framing{Chunked: true, Length: -1}
	}
	return nil
}

// attempt sends the request to c.ep and reads the response head. stale tells
// that a reused connection turned out to be closed before a byte of an answer.
func (c *call) attempt() (stale bool, err error) {
	x := c.x
	l, err := c.ep.pool.borrow()
	for err == nil && l.conn.used && !c.replayable() && x.Clock.Now()-l.conn.idleAt > int64(staleAfter) && !l.conn.alive() {
		// What may be sent once only is not risked on a connection that its
		// backend has closed meanwhile.
		l.drop()
		l, err = c.ep.pool.borrow()
	}
	if err != nil {
		return false, err
	}
	c.loan = l
	l.conn.begin(x)
	head := requestHead{basePath: c.ep.basePath, body: c.hasBody, framing: c.reqFraming, upgrade: c.upgrade}
	if !c.svc.passHost {
		head.host = c.ep.host
	}
	c.out = BuildRequestHead(x, &head, c.out[:0])
	if len(x.Body) > 0 {
		c.out = append(c.out, x.Body...)
	}
	reused := l.conn.used
	if c.br == nil {
		c.br = acquireReader(l.conn)
	} else {
		c.br.Reset(l.conn)
	}
	if err = l.conn.Send(c.out); err == nil {
		if c.streamed {
			if err = l.conn.Flush(); err == nil {
				c.startUpload()
			}
		} else {
			l.conn.await(c.svc.response, false)
		}
	}
	got := false
	if err == nil {
		got, err = c.readHead()
	}
	l.conn.headCame()
	if err == nil {
		return false, nil
	}
	err = l.conn.cause(err)
	if c.upload != nil {
		err = c.failUpload(err)
	}
	l.conn.end()
	c.loan.drop()
	return reused && !got && isDisconnect(err), err
}

// staleAfter is how long a connection must have been idle before a request
// that can not be repeated has it checked.
const staleAfter = 20 * time.Millisecond

// readHead reads the response head into the response, past interim responses.
// got tells whether any byte came.
func (c *call) readHead() (got bool, err error) {
	interim := 0
	for {
		head, err := c.peekHead()
		if err != nil {
			return interim > 0 || c.br.Buffered() > 0, err
		}
		if err = ParseResponseHead(head, &c.res); err != nil {
			return true, err
		}
		switch status := c.res.status; {
		case status == fasthttp.StatusSwitchingProtocols:
			if !c.upgrade || !c.res.upgrade {
				return true, errUnaskedUpgrade
			}
		case status < 200:
			if interim += len(head); interim > maxResponseHead {
				return true, errHeadTooLarge
			}
			if status != fasthttp.StatusContinue && c.x.Client != nil {
				c.x.Client.Interim(head)
			}
			_, _ = c.br.Discard(len(head))
			continue
		}
		// The status line goes on as HTTP/1.1 whatever the backend spoke: the
		// version is the connection's, not the message's.
		head[7] = '1'
		h := &c.x.Response.Header
		h.DisableNormalizing()
		if err = h.Read(c.br); err != nil {
			return true, err
		}
		h.ResetConnectionClose()
		if c.res.hop {
			for _, name := range hopHeaders {
				exchange.DelResponse(h, name)
			}
		}
		return true, nil
	}
}

var hopHeaders = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade", "TE", "Proxy-Authenticate", "Proxy-Authorization"}

var (
	errUnaskedUpgrade = errors.New("the backend switched protocols without being asked")
	errHeadTooLarge   = errors.New("the response head is too large")
)

var headEnd = []byte("\r\n\r\n")

// peekHead waits until a whole head is in the reader.
func (c *call) peekHead() ([]byte, error) {
	searched := 0
	for n := 1; ; n = c.br.Buffered() + 1 {
		if n > c.br.Size() {
			if n > maxResponseHead {
				return nil, errHeadTooLarge
			}
			c.growReader()
		}
		if _, err := c.br.Peek(n); err != nil {
			if err == io.EOF && c.br.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		b, _ := c.br.Peek(c.br.Buffered())
		if i := bytes.Index(b[searched:], headEnd); i >= 0 {
			return b[:searched+i+len(headEnd)], nil
		}
		searched = max(0, len(b)-len(headEnd)+1)
		// A response without header fields has one CRLF pair only, which the
		// search finds as well: the status line ends with the first half of it.
	}
}

// growReader moves what has come to a reader that holds the largest head.
func (c *call) growReader() {
	b, _ := c.br.Peek(c.br.Buffered())
	r := io.MultiReader(bytes.NewReader(bytes.Clone(b)), c.loan.conn)
	releaseReader(c.br)
	c.br = bufio.NewReaderSize(r, maxResponseHead+readerSize)
}

// deliver arranges the response body: none, held, or streaming.
func (c *call) deliver() error {
	x, res := c.x, &c.res
	status := res.status
	if status == fasthttp.StatusSwitchingProtocols {
		x.Answer = exchange.Tunnel
		x.Response.Header.Set("Connection", "Upgrade")
		c.tunnel = Tunnel{x: x, call: c, conn: c.loan.conn, br: c.br}
		x.Tunnel = &c.tunnel
		return nil
	}
	x.Answer = exchange.Proxied
	if x.Request.Header.IsHead() || status == fasthttp.StatusNoContent || status == fasthttp.StatusNotModified {
		x.Response.SkipBody = true
		c.left, res.unframed, res.framing.Chunked = 0, false, false
		c.finishHeld()
		return nil
	}
	n := res.framing.Length
	if !res.framing.Chunked && !res.unframed && n <= heldBody {
		body, err := c.hold(int(n))
		if err != nil {
			return err
		}
		if x.HasBodyHooks() {
			if body, err = x.PushBody(body, true); err != nil {
				c.finishHeld()
				return err
			}
		}
		x.BytesOut += int64(len(body))
		x.Response.SetBodyRaw(body)
		c.finishHeld()
		return nil
	}
	c.left = 0
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
	return nil
}

// hold reads a body of n bytes. Where it fits the reader it stays there.
func (c *call) hold(n int) ([]byte, error) {
	if c.br.Buffered() < n {
		c.loan.conn.await(c.svc.stall, true)
		defer c.loan.conn.rest()
	}
	if n <= c.br.Size() {
		b, err := c.br.Peek(n)
		if err != nil {
			return nil, cut(err, err)
		}
		c.pending = n
		return b, nil
	}
	if cap(c.large) < n {
		c.large = make([]byte, n)
	}
	c.large = c.large[:n]
	_, err := io.ReadFull(c.br, c.large)
	return c.large, cut(err, err)
}

// finishHeld gives up the connection once the held body is complete.
func (c *call) finishHeld() {
	c.stopUpload()
	clean := c.br.Buffered() == c.pending
	c.endCall(clean && !c.res.close)
}

// leaveEndpoint settles the accounts of the endpoint that the call was at.
func (c *call) leaveEndpoint() {
	if c.ep == nil {
		return
	}
	now := c.x.Clock.Now()
	c.svc.set.Done(c.ep.Endpoint, now, c.latency, c.outcome)
	c.ep = nil
}

// failUpload ends the upload after a failed attempt; a fault of the client's
// body is the cause that counts.
func (c *call) failUpload(err error) error {
	u := c.upload
	c.stopUpload()
	switch {
	case u.tooLarge:
		return errBodyTooLarge
	case u.client:
		return errBodyCut
	}
	return err
}

// isDisconnect reports whether err says that the other side had closed.
func isDisconnect(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isReset(err)
}
