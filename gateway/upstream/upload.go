package upstream

import (
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
)

// uploadBuffers are for bodies that stream and tunnels; one holds a chunk with its frame.
var uploadBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// upload sends a request body of unknown length or over the buffer's size
// while the response is awaited and relayed: a backend may answer before it
// has read all, and both directions may stream at once.
type upload struct {
	done chan struct{}
	// last is set before the last bytes are sent: all that the client had to
	// send was read, and done is near.
	last atomic.Bool
	// What follows is to be read after done.
	// err is why it ended early, nil when all was sent.
	err error
	// tooLarge: the body exceeded its limit. client: the fault is the client's.
	tooLarge bool
	client   bool
}

// startUpload begins to send the body behind the head that was sent.
func (c *call) startUpload() {
	u := &upload{done: make(chan struct{})}
	c.upload = u
	x, conn, response := c.x, c.conn, c.svc.response
	s := sender{x: x, conn: conn, stream: x.BodyStream(), framing: c.req.framing, limit: x.BodyLimit, stall: c.svc.stall}
	go func() {
		defer close(u.done)
		buf := uploadBuffers.Get().(*[]byte)
		u.err = u.run(&s, *buf)
		uploadBuffers.Put(buf)
		if u.client || u.err == errStalled {
			conn.interrupt(u.err)
			return
		}
		// All is sent, or the backend takes no more: its answer may be on the way.
		conn.awaitHead(conn.sweeper.now(), response)
	}()
}

// sender is what an upload works with.
type sender struct {
	x       *exchange.Exchange
	conn    *Conn
	stream  io.Reader
	framing Framing
	limit   int64
	stall   time.Duration
}

// write sends b within the stall timeout.
func (s *sender) write(b []byte) error {
	s.conn.awaitRoom(s.stall)
	_, err := s.conn.Conn.Write(b)
	return s.conn.gaveBytes(err)
}

func (u *upload) run(s *sender, buf []byte) error {
	const room = 10 // "ffff\r\n" before and "\r\n" behind the data
	var sent int64
	for {
		data := buf[room : len(buf)-2]
		n, err := s.stream.Read(data)
		if n > 0 {
			if sent += int64(n); s.limit > 0 && sent > s.limit {
				u.tooLarge, u.client = true, true
				return errBodyTooLarge
			}
			out := data[:n]
			if s.framing.Chunked {
				head := strconv.AppendInt(buf[:0], int64(n), 16)
				start := room - len(head) - 2
				copy(buf[start:], head)
				buf[room-2], buf[room-1] = '\r', '\n'
				buf[room+n], buf[room+n+1] = '\r', '\n'
				out = buf[start : room+n+2]
			}
			s.x.BytesIn += int64(n)
			if sent == s.framing.Length {
				u.last.Store(true)
			}
			if werr := s.write(out); werr != nil {
				return werr
			}
			if sent == s.framing.Length {
				return nil
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			u.client = true
			return bodyFault(err)
		}
	}
	if !s.framing.Chunked {
		// The engine reports the end of the connection as the end of the body.
		u.client = true
		return errBodyCut
	}
	end := append(buf[:0], "0\r\n"...)
	for name, value := range s.x.RequestTrailers() {
		if trailerAllowed(name) && exchange.IsFieldValue(value) && exchange.TokenLen(name) == len(name) {
			end = appendField(end, name, value)
		}
	}
	u.last.Store(true)
	return s.write(append(end, "\r\n"...))
}

// lastBytes is how long the end of an upload may take after the answer is complete.
const lastBytes = 100 * time.Millisecond

// stopUpload ends the upload if it still runs and waits until it no longer
// touches the client's connection. It reports whether the whole body was sent.
func (c *call) stopUpload() (whole bool) {
	u := c.upload
	if u == nil {
		return true
	}
	c.upload = nil
	select {
	case <-u.done:
		return u.err == nil
	default:
	}
	if u.last.Load() {
		// The backend was quicker to answer than the write to return.
		t := time.NewTimer(lastBytes)
		defer t.Stop()
		select {
		case <-u.done:
			return u.err == nil
		case <-t.C:
		}
	}
	// The answer is complete and the body is not: what is left of it would be
	// taken for the next request, so the client's connection ends with this one.
	if c.x.Client != nil && !u.last.Load() {
		c.x.Client.InterruptRead()
	}
	if c.conn != nil {
		c.conn.interrupt(errBodyCut)
	}
	<-u.done
	return u.err == nil
}
