package upstream

import (
	"bufio"
	"io"
	"net"
	"sync"
	"time"

	"sluice/gateway/exchange"
)

// tunnelLinger is how long a client may go on after its backend ended a tunnel.
const tunnelLinger = 5 * time.Second

// Tunnel relays bytes between a client and a backend that switched protocols
// (RFC 9110, section 7.8), unread, until both sides have ended.
type Tunnel struct {
	x    *exchange.Exchange
	call *call
	conn *Conn
	br   *bufio.Reader
}

// Run relays until the end. client is the connection after the 101 was sent;
// bytes that the client sent early are read from it.
func (t *Tunnel) Run(client net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		n := relay(t.conn.Conn, client)
		t.x.BytesIn += n
		closeWrite(t.conn.Conn)
	})
	n := relay(client, t.br)
	t.x.BytesOut += n
	closeWrite(client)
	// The backend is done. A client learns it from the closed side; one that
	// does not end within the linger has nobody left to talk to.
	_ = client.SetReadDeadline(time.Now().Add(tunnelLinger))
	wg.Wait()
	t.call.endCall(false)
}

func relay(dst io.Writer, src io.Reader) (n int64) {
	buf := uploadBuffers.Get().(*[]byte)
	defer uploadBuffers.Put(buf)
	for {
		nr, err := src.Read(*buf)
		if nr > 0 {
			nw, werr := dst.Write((*buf)[:nr])
			n += int64(nw)
			if werr != nil {
				return n
			}
		}
		if err != nil {
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
