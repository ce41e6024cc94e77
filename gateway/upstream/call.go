package upstream

import (
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
	plain
	// spent tells that something below is not as Reset leaves it.
	spent bool

	// The attempts.
	key   uint64
	tried balance.Tried // those that were left
	fault string        // why the attempt has no answer, for who observes it
	out   []byte        // a request that is too large for a reader

	// The response.
	large   []byte // a buffered body that did not fit the reader
	head    []byte // the one that goes on as it is, where the reader has no room for it
	interim []byte
	names   []byte
	tunnel  Tunnel
	relay
	rpc *RPC // the call that an action makes, nil for the client's request
}

// plain is what every call uses, in few lines of the cache.
type plain struct {
	svc *Service
	x   *exchange.Exchange

	from     *choice // that ep was chosen from; held to the end, since it keeps alive what the call uses
	ep       *endpoint
	permit   breaker.Permit
	permitOf *endpoint // whose breaker granted permit, nil for none
	conn     *Conn     // nil while the call has none
	br       *reader
	upload   *upload
	stream   *stream // over HTTP/2, nil over HTTP/1.1
	now      int64   // as of the last event, so that not all who want to know ask the clock
	began    int64
	latency  time.Duration
	outcome  balance.Outcome
	failed   bool // the last attempt under permit failed

	// The request, as it is sent at each attempt.
	req      requestHead
	body     []byte // held body, replayable
	once     int    // the length of a body that is held in the reader, and sent once
	streamed bool   // the body is not held: there is one attempt
	ownDate  bool   // the engine adds a Date

	pending int // of the bytes in the reader; they are taken with what follows
	res     responseHead
}

// relay is a response body while it streams.
type relay struct {
	left    int64 // of the body or the chunk; -1 until the connection ends
	inChunk bool
	unread  []byte
	ended   bool
	ahead   []byte // held of a body that is not whole, and has passed aheadOf hooks
	aheadOf int
	direct  bodyWriter // where the body goes without a buffer between
}

var calls = exchange.NewSlot[call]()

// Reset makes the call ready for the next exchange. Buffers stay.
func (c *call) Reset() {
	if c.stream != nil {
		c.stream.close()
	}
	// A tunnel or a body that never came to run.
	if c.upload != nil {
		c.stopUpload()
	}
	if c.conn != nil {
		c.endCall(false)
	}
	if c.br != nil {
		c.br.giveBack()
	}
	c.plain.reset()
	if c.spent {
		*c = call{plain: plain{body: c.body}, out: kept(c.out), large: kept(c.large), head: kept(c.head), interim: kept(c.interim), names: kept(c.names)}
	}
}

// reset leaves res.own, which res.owns bounds.
func (p *plain) reset() {
	p.svc, p.x, p.from, p.ep, p.permitOf, p.conn, p.br, p.upload, p.stream = nil, nil, nil, nil, nil, nil, nil, nil, nil
	p.permit = breaker.Permit{}
	p.now, p.began, p.latency, p.outcome, p.failed = 0, 0, 0, balance.Success, false
	p.req, p.streamed, p.ownDate = requestHead{}, false, false
	p.body, p.once, p.pending = kept(p.body), 0, 0
	p.res.reset()
}

// kept empties a buffer that stays with an idle exchange, unless it is large.
func kept(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
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

// attempt sends the request to c.ep and reads the response head; c.now is then
// when that came. got tells whether any byte of an answer came; stale, that a
// reused connection turned out to be closed before one did.
func (c *call) attempt() (got, stale bool, err error) {
	if err = c.connect(); err != nil {
		c.now = c.x.Clock.Now()
		return false, false, err
	}
	conn := c.conn
	conn.begin(c.x, c.now, c.svc.response, c.streamed)
	out := c.request()
	if c.streamed {
		out, err = nil, c.sendHead(out)
	}
	if err == nil {
		c.br, err = conn.ask(out, c.br)
	}
	c.now = c.x.Clock.Now()
	if err == nil {
		got = true
		if err = c.readHead(); err == nil {
			if c.isWhole() && !c.streamed && c.res.status != fasthttp.StatusSwitchingProtocols {
				return true, false, nil // nothing is awaited until the call ends
			}
			if err = conn.gotHead(nil); err == nil {
				return true, false, nil
			}
		}
		c.now = c.x.Clock.Now()
	}
	reused := conn.used
	err = c.breakOff(err)
	return got, reused && !got && isDisconnect(err), err
}

// breakOff ends an attempt that has no answer, and says why.
func (c *call) breakOff(err error) error {
	err = c.conn.gotHead(err)
	// A fault of the client's body has interrupted the connection and is in err;
	// how the upload ends now is this attempt's doing.
	c.stopUpload()
	_ = c.conn.end()
	c.conn.pool.drop(c.conn)
	c.conn = nil
	return err
}

// sendHead sends the head, and begins to send the body behind it.
func (c *call) sendHead(out []byte) error {
	if _, err := c.conn.Write(out); err != nil {
		return err
	}
	c.startUpload()
	return nil
}

// connect takes a connection to c.ep.
func (c *call) connect() (err error) {
	pool := c.ep.pool
	for {
		if c.conn, err = pool.borrow(); err != nil {
			return err
		}
		if !c.conn.used {
			c.now = c.x.Clock.Now() // connecting took its time
			return nil
		}
		if !c.doubts(c.conn) || c.conn.alive() {
			return nil
		}
		pool.drop(c.conn)
		c.conn = nil
	}
}

// request puts together what is to be sent, as far as it is held: in the reader
// if it fits. Of a body that streams the head is sent here.
func (c *call) request() []byte {
	x := c.x
	if c.once > 0 {
		return c.requestOnce()
	}
	if c.br == nil {
		c.br = takeReader()
	}
	dst := c.br.buf[:0]
	if len(x.Body) > readerSize/2 {
		dst = c.out[:0]
	}
	dst = BuildRequestHead(x, c.ep, &c.req, dst)
	if len(x.Body) > 0 {
		dst = append(dst, x.Body...)
	}
	if &dst[0] != &c.br.buf[0] {
		c.out, c.spent = dst[:0], true
	}
	return dst
}

// staleAfter is how long a connection must have been idle to be looked at
// before it is used again. Under load connections rest shorter than that.
const staleAfter = time.Millisecond

// doubts reports whether a pooled connection is to be looked at first: its
// backend may have closed it, or sent bytes behind the last answer, which
// would be taken for the next one. What may be sent once only is never risked.
func (c *call) doubts(conn *Conn) bool {
	return c.now-conn.idleAt > int64(staleAfter) || !c.replayable()
}

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

// isWhole reports whether the body has a length and all of it is in the reader.
func (c *call) isWhole() bool {
	return c.res.framing.Length <= int64(c.br.Buffered()) && !c.res.framing.Chunked && !c.res.unframed
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
	if c.x.Observer != nil {
		c.attemptEnds()
	}
}

// isDisconnect reports whether err says that the other side had closed.
func isDisconnect(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isReset(err)
}
