// Package wsconn is the gateway's own end of WebSockets, of those that clients open and of those that it opens to services. It
// guarantees that no message is larger, and that none comes more often, than its limits say, that text is UTF-8, that a
// connection which is idle or dead ends, and that its end is said with the close code that RFC 6455 has for it.
package wsconn

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/fasthttp/websocket"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/wswire"
)

// Message is a message. Its data is its reader's.
type Message struct {
	Text bool
	Data []byte
}

// ErrClosed is what Read says when the connection has ended, by whomever.
var ErrClosed = errors.New("the WebSocket has ended")

// closeWait bounds how long the other side's close frame is waited for.
const closeWait = 2 * time.Second

// Conn is one WebSocket. One goroutine reads; any may write and close.
type Conn struct {
	ws     *websocket.Conn
	wire   *wire
	clock  *exchange.Clock
	limits exchange.SocketLimits
	from   telemetry.Closer // who is at the other end
	meter  wswire.Meter
	open   *socket // of a client's; nil of a service's

	message atomic.Int64 // when the last one passed
	asked   atomic.Int64 // when the other side was asked whether it is there, 0: it was not
	// reading: somebody waits for what comes. interrupted: and does not want to any more.
	reading, interrupted atomic.Bool

	writing sync.Mutex

	mu      sync.Mutex
	ended   bool // somebody has said that it ends
	by      telemetry.Closer
	code    int
	reason  string // of the end, a word for the log
	leaving bool
	onLeave func()
}

func newConn(nc net.Conn, clock *exchange.Clock, limits exchange.SocketLimits, from telemetry.Closer) (*Conn, error) {
	c := &Conn{wire: &wire{Conn: nc, clock: clock}, clock: clock, limits: limits, from: from}
	now := clock.Now()
	c.wire.last.Store(now)
	c.message.Store(now)
	var err error
	if from == telemetry.ByClient {
		c.ws, err = c.wire.accepted()
	} else {
		c.ws, err = c.wire.switched()
	}
	if err != nil {
		return nil, err
	}
	c.ws.SetReadLimit(limits.MaxMessage)
	goodbye := c.ws.CloseHandler()
	c.ws.SetCloseHandler(func(code int, text string) error {
		if c.wire.closing.half {
			c.end(wswire.Protocol, "half a close code", "websocket_protocol_error")
			return errHalfCode
		}
		return goodbye(code, text)
	})
	if limits.Pace.Interval > 0 {
		// Control frames cost as much as small messages do.
		answer := c.ws.PingHandler()
		c.ws.SetPingHandler(func(data string) error {
			if !c.take() {
				return errPace
			}
			return answer(data)
		})
		c.ws.SetPongHandler(func(string) error {
			if c.asked.Swap(0) == 0 && !c.take() {
				return errPace
			}
			return nil
		})
	}
	return c, nil
}

var (
	errPace     = errors.New("too many messages")
	errText     = errors.New("the text is not in UTF-8")
	errHalfCode = errors.New("half a close code")
)

func (c *Conn) take() bool { return c.meter.Take(c.limits.Pace, c.clock.Now()) }

// Read returns the next message.
func (c *Conn) Read() (Message, error) {
	c.reading.Store(true)
	defer c.reading.Store(false)
	kind, r, err := c.ws.NextReader()
	if err != nil {
		return Message{}, c.failed(err)
	}
	if !c.take() {
		return Message{}, c.failed(errPace)
	}
	m := Message{Text: kind == websocket.TextMessage}
	if m.Data, err = readAll(r, m.Text); err != nil {
		return Message{}, c.failed(err)
	}
	c.passed()
	if c.open != nil {
		c.open.server.Metrics.MessagesIn.Inc()
	}
	return m, nil
}

// readAll reads a message; what is reserved follows what has come. Text that can not become UTF-8 is not waited for to its end.
func readAll(r io.Reader, isText bool) ([]byte, error) {
	b := make([]byte, 0, 512)
	for checked := 0; ; {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if isText {
			n, ok := validText(b[checked:])
			if checked += n; !ok || err == io.EOF && checked < len(b) {
				return nil, errText
			}
		}
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		case len(b) == cap(b):
			grown := make([]byte, len(b), 2*cap(b))
			copy(grown, b)
			b = grown
		}
	}
}

// validText returns how much of b is whole runes; ok is false if what follows them is not the beginning of one.
func validText(b []byte) (n int, ok bool) {
	if utf8.Valid(b) {
		return len(b), true
	}
	for n = len(b) - 1; n > max(0, len(b)-utf8.UTFMax+1) && !utf8.RuneStart(b[n]); n-- {
	}
	return n, !utf8.FullRune(b[n:]) && utf8.Valid(b[:n])
}

func (c *Conn) passed() { c.message.Store(c.clock.Now()) }

// failed says why nothing more can be read, and returns ErrClosed.
func (c *Conn) failed(err error) error {
	var closed *websocket.CloseError
	switch {
	case c.interrupted.Load():
	case err == errPace:
		c.end(wswire.Policy, "too many messages", "websocket_rate")
	case err == errText:
		c.end(wswire.Invalid, err.Error(), "invalid_utf8")
	case err == websocket.ErrReadLimit:
		c.end(wswire.TooBig, "", "websocket_message_too_large") // the library has told already, mostly
	case errors.As(err, &closed):
		c.note(c.from, closed.Code, "")
	case err == io.EOF, isOfNetwork(err):
		c.note(c.from, wswire.Abnormal, "")
	default:
		c.note(telemetry.ByGateway, wswire.Protocol, "websocket_protocol_error") // as above
	}
	return ErrClosed
}

func isOfNetwork(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(err.Error(), "websocket: ")
}

// note remembers how the connection ended. The first to say so is believed, and it reports whether that is now.
func (c *Conn) note(by telemetry.Closer, code int, reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.ended, c.by, c.code, c.reason = true, by, code, reason
	if c.open != nil {
		c.open.server.Metrics.Closed(by, code)
	}
	return true
}

// End returns who has ended the connection, and with what code; code is 0 while nobody has.
func (c *Conn) End() (by telemetry.Closer, code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by, c.code
}

// Write sends a message.
func (c *Conn) Write(m Message) error {
	kind := websocket.BinaryMessage
	if m.Text {
		kind = websocket.TextMessage
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.ws.WriteMessage(kind, m.Data); err != nil {
		if err != websocket.ErrCloseSent {
			c.note(c.from, wswire.Abnormal, "")
		}
		return ErrClosed
	}
	c.passed()
	if c.open != nil {
		c.open.server.Metrics.MessagesOut.Inc()
	}
	return nil
}

// SetReadDeadline bounds the wait for what comes. No message can be read once it has passed.
func (c *Conn) SetReadDeadline(t time.Time) { _ = c.wire.SetReadDeadline(t) }

// Interrupt ends a Read, which none follows: what is still to come does not matter. The connection can be written to and closed as ever.
func (c *Conn) Interrupt() {
	c.interrupted.Store(true)
	_ = c.wire.SetReadDeadline(past)
}

// Interrupted reports whether Interrupt was called.
func (c *Conn) Interrupted() bool { return c.interrupted.Load() }

// Close ends the connection, unless it has ended. A reader gets ErrClosed, soon.
func (c *Conn) Close(code int, reason string) { c.end(code, reason, "") }

func (c *Conn) end(code int, text, reason string) {
	if !c.note(telemetry.ByGateway, code, reason) {
		return
	}
	c.sayClose(code, text)
}

func (c *Conn) sayClose(code int, text string) {
	err := c.ws.WriteControl(websocket.CloseMessage, wswire.ClosePayload(code, text), time.Now().Add(closeWait))
	if err != nil && err != websocket.ErrCloseSent {
		// Somebody writes what the other side does not take. That ends too, and with it what waits for it.
		_ = c.wire.Conn.SetDeadline(past)
		return
	}
	_ = c.wire.SetReadDeadline(time.Now().Add(closeWait))
}

// Check implements upstream.Watched.
func (c *Conn) Check(now int64) {
	if !c.reading.Load() {
		// Who is not listened to can not show that it is there.
		c.wire.last.Store(now)
		c.asked.Store(0)
	}
	if limit := int64(c.limits.Ping); limit > 0 {
		last, asked := c.wire.last.Load(), c.asked.Load()
		switch {
		case asked != 0 && last > asked:
			c.asked.Store(0)
		case asked != 0 && now-asked >= limit:
			if c.note(telemetry.ByGateway, wswire.Abnormal, "websocket_ping_timeout") {
				_ = c.wire.Conn.SetDeadline(past)
			}
			return
		case asked == 0 && now-last >= limit:
			c.asked.Store(now)
			// It may have to wait for room, and who looks after all connections must not.
			go func() {
				_ = c.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(c.limits.Ping))
			}()
		}
	}
	if limit := int64(c.limits.Idle); limit > 0 && now-c.message.Load() >= limit && c.note(telemetry.ByGateway, wswire.GoingAway, "websocket_idle") {
		go c.sayClose(wswire.GoingAway, "no message for too long")
	}
}

var past = time.Unix(1, 0)

// OnLeave has f called, on a goroutine of its own, before the connection is closed because the gateway or its route goes away: for
// what is still to be answered.
func (c *Conn) OnLeave(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onLeave = f
}

// leave closes the connection once what is under way has ended.
func (c *Conn) leave(code int, why string) {
	c.mu.Lock()
	f, first := c.onLeave, !c.leaving && !c.ended
	c.leaving = true
	c.mu.Unlock()
	if !first {
		return
	}
	go func() {
		if f != nil {
			f()
		}
		c.end(code, why, "websocket_going_away")
	}()
}

// finish ends the connection for good: what was sent last must not be lost with a reset, which unread bytes would cause.
func (c *Conn) finish() {
	c.Close(wswire.Normal, "")
	_ = c.wire.SetReadDeadline(time.Now().Add(closeWait))
	for {
		if _, _, err := c.ws.NextReader(); err != nil {
			var closed *websocket.CloseError
			if errors.As(err, &closed) || err == io.EOF {
				return
			}
			break
		}
	}
	if c.wire.closeWrite() != nil {
		return
	}
	buf := make([]byte, 4<<10)
	for end := time.Now().Add(closeWait); time.Now().Before(end); {
		if _, err := c.wire.Conn.Read(buf); err != nil {
			return
		}
	}
}
