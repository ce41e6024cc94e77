package upstream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
)

// tunnelLinger is how long one side of a tunnel may go on without a byte after
// the other has ended.
const tunnelLinger = 5 * time.Second

// Tunnel relays bytes between a client and a backend that switched protocols
// (RFC 9110, section 7.8), unread, until both sides have ended. A half-closed
// tunnel lives while its open half moves.
type Tunnel struct {
	x    *exchange.Exchange
	call *call
	conn *Conn
	br   *bufio.Reader
	half atomic.Bool // one direction has ended
}

// Run relays until the end. client is the connection after the 101 was sent;
// bytes that the client sent early are read from it.
func (t *Tunnel) Run(client net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		t.x.BytesIn += t.relay(t.conn.Conn, client, client)
		t.end(t.conn.Conn, t.conn.Conn)
	})
	t.x.BytesOut += t.relay(client, t.br, t.conn.Conn)
	t.end(client, client)
	wg.Wait()
	t.call.now = t.x.Clock.Now()
	t.call.endCall(false)
}

// GoAway implements exchange.Tunneler: what bytes mean is not known here, so that nothing can be said with them.
func (t *Tunnel) GoAway() {}

// end tells the receiving side that no more will come, and gives it little
// time to end as well.
func (t *Tunnel) end(to, next net.Conn) {
	t.half.Store(true)
	closeWrite(to)
	_ = next.SetReadDeadline(time.Now().Add(tunnelLinger))
}

// relay copies until src ends, dst takes no more, or, when the other direction
// has ended, nothing comes for the linger. conn is src's connection.
func (t *Tunnel) relay(dst io.Writer, src io.Reader, conn net.Conn) (n int64) {
	buf := uploadBuffers.Get().(*[]byte)
	defer uploadBuffers.Put(buf)
	last := time.Now()
	for {
		nr, err := src.Read(*buf)
		if nr > 0 {
			nw, werr := dst.Write((*buf)[:nr])
			n += int64(nw)
			if werr != nil {
				return n
			}
			if t.half.Load() {
				last = time.Now()
			}
		}
		if err == nil {
			continue
		}
		if left := tunnelLinger - time.Since(last); left <= 0 || !t.half.Load() || !errors.Is(err, os.ErrDeadlineExceeded) || conn.SetReadDeadline(time.Now().Add(left)) != nil {
			return n
		}
	}
}

// closeWrite ends one direction, as far as the connection can.
func closeWrite(c net.Conn) {
	if u, ok := c.(interface{ UnsafeConn() net.Conn }); ok {
		c = u.UnsafeConn()
	}
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
		return
	}
	_ = c.Close()
}
