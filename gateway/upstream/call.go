package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
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
	from     *choice // that ep was chosen from; held to the end, since it keeps alive what the call uses
	ep       *endpoint
	permit   breaker.Permit
	permitOf *endpoint // whose breaker granted permit, nil for none
	failed   bool      // the last attempt under permit failed
	now      int64     // as of the last event, so that not all who want to know ask the clock
	began    int64
	latency  time.Duration
	outcome  balance.Outcome
	fault    string // why the attempt has no answer, for who observes it
	loan     loan

	// The response.
	br      *bufio.Reader
	res     responseHead
	left    int64 // of the body or the chunk; -1 until the connection ends
	inChunk bool
	pending int
	unread  []byte
	ended   bool
	ahead   []byte // held of a body that is not whole, and has passed aheadOf hooks
	aheadOf int
	large   []byte     // a buffered body that did not fit the reader
	direct  bodyWriter // where the body goes without a buffer between
	head    []byte     // the one that goes on as it is
	interim []byte
	names   []byte
	ownDate bool // the engine adds a Date
	upload  *upload
	tunnel  Tunnel

	stream *stream // over HTTP/2, nil over HTTP/1.1
	rpc    *RPC    // the call that an action makes, nil for the client's request
}

var calls = exchange.NewSlot[call]()

// Reset makes the call ready for the next exchange. Buffers stay.
func (c *call) Reset() {
	if c.stream != nil {
		c.stream.close()
	}
	// A tunnel or a body that never came to run.
	c.stopUpload()
	c.endCall(false)
	if c.br != nil {
		releaseReader(c.br)
	}
	body, out, large, head := c.body[:0], c.out[:0], c.large[:0], c.head[:0]
	if cap(head) > maxKept {
		head = nil
	}
	if cap(large) > maxKept {
		large = nil
	}
	if cap(body) > maxKept {
		body = nil
	}
	if cap(out) > maxKept {
		out = nil
	}
	*c = call{body: body, out: out, large: large, head: head, interim: c.interim[:0], names: c.names[:0]}
}

// maxKept is how large a buffer stays with an idle exchange.
const maxKept = 16 << 10

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
			return bodyFault(err)
		}
		x.Body = c.body
		c.hasBody, c.reqFraming = true, Framing{Length: length}
	case length > heldBody:
		c.hasBody, c.streamed, c.reqFraming = true, true, Framing{Length: length}
	default:
		c.hasBody, c.streamed, c.reqFraming = true, true, Framing{Chunked: true, Length: -1}
	}
	if c.streamed {
		// While a body streams there is nobody to switch protocols with: the
		// server is free to ignore Upgrade (RFC 9110, section 7.8).
		c.upgrade = false
	}
	return nil
}

// attempt sends the request to c.ep and reads the response head. got tells
// whether any byte of an answer came; stale, that a reused connection turned
// out to be closed before one did.
func (c *call) attempt() (got, stale bool, err error) {
	x := c.x
	l, err := c.ep.pool.borrow()
	for err == nil && c.doubts(&l) && !l.conn.alive() {
		l.drop()
		l, err = c.ep.pool.borrow()
	}
	if err != nil {
		return false, false, err
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
			if !reused {
				c.now = x.Clock.Now() // connecting took its time
			}
			l.conn.awaitHead(c.now, c.svc.response)
		}
	}
	if err == nil {
		got, err = c.readHead()
	}
	if err = l.conn.gotHead(err); err == nil {
		return got, false, nil
	}
	// A fault of the client's body has interrupted the connection and is in err;
	// how the upload ends now is this attempt's doing.
	c.stopUpload()
	_ = l.conn.end()
	c.loan.drop()
	return got, reused && !got && isDisconnect(err), err
}

// staleAfter is how long a connection must have been idle to be looked at
// before it is used again. Under load connections rest shorter than that.
const staleAfter = time.Millisecond

// doubts reports whether a pooled connection is to be looked at first: its
// backend may have closed it, or sent bytes behind the last answer, which
// would be taken for the next one. What may be sent once only is never risked.
func (c *call) doubts(l *loan) bool {
	return l.conn.used && (!c.replayable() || c.now-l.conn.idleAt > int64(staleAfter))
}

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
			// 100 answers the gateway's own request; HTTP/1.0 knows no interim responses.
			if status != fasthttp.StatusContinue && c.x.Client != nil && c.x.Request.Header.IsHTTP11() {
				c.interim = AppendInterim(c.interim[:0], head)
				c.x.Client.Interim(c.interim)
			}
			_, _ = c.br.Discard(len(head))
			continue
		}
		c.x.Head = nil
		if c.x.Verbatim && c.res.isHeld() {
			c.head = AppendResponseHead(c.head[:0], head, &c.res)
			c.x.Head = c.head
			c.x.Response.SetStatusCode(c.res.status)
			_, err = c.br.Discard(len(head))
			return true, err
		}
		// The status line goes on as HTTP/1.1 whatever the backend spoke: the
		// version is the connection's, not the message's.
		head[7] = '1'
		h := &c.x.Response.Header
		c.chooseDate(h)
		h.DisableNormalizing()
		if err = h.Read(c.br); err != nil {
			return true, err
		}
		if c.res.hop {
			c.dropHop(h)
		}
		h.ResetConnectionClose()
		return true, nil
	}
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
		c.names = c.names[:0]
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
		// No length may stand there (RFC 9110, section 8.6): its body may follow.
		res.close = res.close || status == fasthttp.StatusNoContent && (res.framing.Length > 0 || res.framing.Chunked)
		c.left, res.unframed, res.framing.Chunked = 0, false, false
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
		if x.Head != nil && !res.dated {
			c.head = x.Clock.AppendDate(c.head, c.now)
			x.Head = c.head
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
	c.large = c.large[:n]
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
	c.loan.conn.awaitBytes(c.svc.stall)
	_, err := c.br.Peek(n)
	return c.loan.conn.gotBytes(err)
}

// finishHeld gives up the connection once the held body is complete.
func (c *call) finishHeld() {
	whole := c.stopUpload()
	clean := c.br.Buffered() == c.pending
	c.endCall(clean && whole && !c.res.close)
}

// leaveEndpoint settles the accounts of the endpoint that the call was at.
func (c *call) leaveEndpoint() {
	if c.ep == nil {
		return
	}
	latency := c.latency
	if c.streamed {
		// Most of it was the client's: how long it took to send its body.
		latency = 0
	}
	c.from.set.Done(c.ep.Endpoint, c.now, latency, c.outcome)
	c.ep = nil
	c.attemptEnds()
}

// isDisconnect reports whether err says that the other side had closed.
func isDisconnect(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isReset(err)
}
