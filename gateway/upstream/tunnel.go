package upstream

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/socket"
)

// tunnelLinger is how long one side of a tunnel may go on without a byte after
// the other has ended.
const tunnelLinger = 5 * time.Second

// Tunnel relays bytes between a client and a backend that switched protocols
// (RFC 9110, section 7.8), until both sides have ended. A half-closed tunnel
// lives while its open half moves. Bytes pass as they are; those of WebSocket
// are looked at on their way (see watch).
type Tunnel struct {
	x    *exchange.Exchange
	call *call
	conn *Conn
	br   *reader
	runs atomic.Pointer[passage]
}

// passage is a tunnel while it runs. It is not pooled: who looks after it may be
// late.
type passage struct {
	up, down flow
	watch    *watch // nil where it is not known what the bytes mean
}

// Run relays until the end. client is the connection after the 101 was sent.
func (t *Tunnel) Run(client net.Conn) {
	p := &passage{}
	p.up = flow{other: &p.down, from: client, to: t.conn.Conn}
	p.down = flow{other: &p.up, from: t.conn.Conn, to: client, ahead: t.br}
	t.call.br, t.br = nil, nil // the flow's
	if t.isWebSocket() {
		p.watch = newWatch(t, p)
		defer p.watch.close(t)
	}
	t.runs.Store(p)
	began := t.x.Clock.Now()
	var wg sync.WaitGroup
	wg.Go(p.up.run)
	p.down.run()
	wg.Wait()
	t.x.BytesIn += p.up.bytes
	t.x.BytesOut += p.down.bytes
	t.call.now = t.x.Clock.Now()
	t.x.TunnelTime = t.call.now - began
	t.call.endCall(false)
}

// GoAway implements exchange.Tunneler. Of other protocols it is not known how that is said.
func (t *Tunnel) GoAway(code int) {
	if p := t.runs.Load(); p != nil && p.watch != nil {
		p.watch.goAway(code)
	}
}

// flow is one direction of a tunnel. It belongs to one goroutine, but for what says so.
type flow struct {
	other    *flow
	from, to net.Conn
	ahead    *reader // what came with the head of the answer is read first; nil for nothing
	bytes    int64
	buf      *[]byte      // nil while there is nothing to read
	until    atomic.Int64 // when the flow ends at the latest, in Unix nanoseconds; 0: not by time. Anybody's.

	frames *frames // of WebSocket
}

// run relays until there is no more, or no more is taken, or the time is over that the other direction leaves when it has ended.
func (f *flow) run() {
	held := 0
	for more := true; more; {
		n, err := f.read(held)
		if n > 0 {
			held, more = f.pass(held + n)
			if f.until.Load() != 0 && !f.isClosing() {
				f.until.Store(time.Now().Add(tunnelLinger).UnixNano())
			}
		}
		if err != nil {
			more = more && errors.Is(err, os.ErrDeadlineExceeded) && f.rearm()
		}
		if f.frames != nil && more {
			more = f.speak()
		}
	}
	f.GiveBack()
	if f.ahead != nil {
		f.ahead.giveBack()
	}
	if f.frames != nil {
		f.frames.ended()
	}
	closeWrite(f.to)
	f.other.endBy(time.Now().Add(tunnelLinger))
}

// read reads behind what is held in the buffer. Where nothing is, there is no buffer until something comes: a tunnel may rest for days.
func (f *flow) read(held int) (int, error) {
	if f.ahead != nil {
		if f.ahead.Buffered() > 0 {
			return f.ahead.Read(f.Take()[held:])
		}
		f.ahead.giveBack()
		f.ahead = nil
	}
	if held == 0 {
		if from, ok := f.from.(laterReader); ok {
			return from.ReadLater(f)
		}
	}
	return f.from.Read(f.Take()[held:])
}

// laterReader is a connection that can wait without a buffer.
type laterReader interface {
	ReadLater(b socket.Buffers) (int, error)
}

// Take implements socket.Buffers.
func (f *flow) Take() []byte {
	if f.buf == nil {
		f.buf = uploadBuffers.Get().(*[]byte)
	}
	return *f.buf
}

// GiveBack implements socket.Buffers.
func (f *flow) GiveBack() {
	if f.buf != nil {
		uploadBuffers.Put(f.buf)
		f.buf = nil
	}
}

// pass sends on what is in the buffer. What is held of it comes again with what follows; more is false if there is no use in that.
func (f *flow) pass(have int) (held int, more bool) {
	if f.frames != nil {
		return f.watched((*f.buf)[:have])
	}
	return 0, f.write((*f.buf)[:have])
}

func (f *flow) write(b []byte) bool {
	n, err := f.to.Write(b)
	f.bytes += int64(n)
	return err == nil
}

// endBy has the flow end at a time at the latest, unless bytes keep it alive. It is for anybody.
func (f *flow) endBy(t time.Time) {
	for at := t.UnixNano(); ; {
		until := f.until.Load()
		if until != 0 && until <= at || f.until.CompareAndSwap(until, at) {
			break
		}
	}
	f.wake()
}

// wake ends the wait for bytes, so that the flow looks at what it was told before. It is for anybody.
func (f *flow) wake() { _ = f.from.SetReadDeadline(past) }

// rearm has the flow wait on after it was woken, or a deadline has passed; false where that was the end. It may undo a waking, and so is
// followed by a look at what that was for. Nobody else sets another deadline than one that wakes.
func (f *flow) rearm() bool {
	until := f.until.Load()
	if until == 0 {
		return f.from.SetReadDeadline(time.Time{}) == nil
	}
	t := time.Unix(0, until)
	return time.Now().Before(t) && f.from.SetReadDeadline(t) == nil
}

// isWebSocket reports whether client and backend have agreed on WebSocket.
func (t *Tunnel) isWebSocket() bool {
	return t.x.IsWebSocket() && exchange.EqualFold(t.x.ResponseHeader("Upgrade"), "websocket")
}

// closeWrite ends one direction, as far as the connection can.
func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
		return
	}
	_ = c.Close()
}
