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
	done  chan struct{}
	ended atomic.Bool
	// err is why it ended early, nil when all was sent. Read it after done.
	err error
	// tooLarge: the body exceeded its limit. client: the fault is the client's.
	tooLarge bool
	client   bool
}

func (u *upload) finished() bool { return u.ended.Load() && u.err == nil }

// startUpload begins to send the body behind the head that was sent.
func (c *call) startUpload() {
	u := &upload{done: make(chan struct{})}
	c.upload = u
	x, conn := c.x, c.loan.conn
	chunked, limit, stall, response := c.reqFraming.Chunked, x.BodyLimit, c.svc.stall, c.svc.response
	stream := x.Request.BodyStream()
	go func() {
		defer close(u.done)
		buf := uploadBuffers.Get().(*[]byte)
		u.err = u.run(x, conn, stream, *buf, chunked, limit, stall)
		uploadBuffers.Put(buf)
		u.ended.Store(true)
		if u.client {
			conn.interrupt(u.err)
			return
		}
		// All is sent, or the backend takes no more: its answer may be on the way.
		conn.awaitHead(response)
	}()
}

func (u *upload) run(x *exchange.Exchange, conn *Conn, stream io.Reader, buf []byte, chunked bool, limit int64, stall time.Duration) error {
	const room = 10 // "ffff\r\n" before and "\r\n" behind the data
	var sent int64
	for {
		data := buf[room : len(buf)-2]
		n, err := stream.Read(data)
		if n > 0 {
			if sent += int64(n); limit > 0 && sent > limit {
				u.tooLarge, u.client = true, true
				return errBodyTooLarge
			}
			out := data[:n]
			if chunked {
				head := strconv.AppendInt(buf[:0], int64(n), 16)
				start := room - len(head) - 2
				copy(buf[start:], head)
				buf[room-2], buf[room-1] = '\r', '\n'
				buf[room+n], buf[room+n+1] = '\r', '\n'
				out = buf[start : room+n+2]
			}
			conn.await(stall, true)
			_, werr := conn.Conn.Write(out)
			conn.rest()
			if werr != nil {
				return werr
			}
			x.BytesIn += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			u.client = true
			return err
		}
	}
	if !chunked {
		return nil
	}
	end := append(buf[:0], "0\r\n"...)
	for name, value := range x.RequestTrailers() {
		if trailerAllowed(name) && validValue(value) && tokenLen(name) == len(name) {
			end = appendField(end, name, value)
		}
	}
	conn.await(stall, true)
	defer conn.rest()
	_, err := conn.Conn.Write(append(end, "\r\n"...))
	return err
}

// stopUpload ends the upload if it still runs and waits until it no longer
// touches the client's connection.
func (c *call) stopUpload() {
	u := c.upload
	if u == nil {
		return
	}
	select {
	case <-u.done:
	default:
		// The answer is complete and the body is not: what is left of it would
		// be taken for the next request, so the connection ends with this one.
		if c.x.Client != nil {
			c.x.Client.InterruptRead()
		}
		<-u.done
	}
	c.upload = nil
}
