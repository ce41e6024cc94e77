package upstream

import (
	"errors"
	"io"
	"time"

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
			if c.isWhole() && !c.streamed {
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
