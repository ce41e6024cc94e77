package wsconn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/wswire"
)

// The library makes connections by its own handshakes alone, and here those are others' work: the engine answers clients, with
// headers of policies, and upstream asks services, with balancing and breakers. So each of its handshakes is held with
// the wire below, which plays the other side.

const (
	// readBuffer is what an idle connection holds; a message is read past it.
	readBuffer = 1 << 10
	// writeBuffer is held while a message is written. What fits it goes out in one write.
	writeBuffer = 4 << 10
)

var writeBuffers sync.Pool

// wire is a connection under the library. It counts what passes and stamps what comes.
type wire struct {
	net.Conn
	clock   *exchange.Clock
	last    atomic.Int64 // when bytes came, on the clock
	in, out atomic.Int64
	metrics *telemetry.SocketMetrics // of a client's

	shaking bool   // the handshake is the library's with this wire
	reply   []byte // of it

	closing closing
}

// closing looks at what comes for the first close frame, because the library takes one with half a code for one without.
type closing struct {
	scanner wswire.Scanner
	head    [16]byte // of a frame, as far as it has come
	held    int
	over    bool // the frame has come, or where frames end can not be told
	half    bool
}

func (c *closing) look(b []byte) {
	for len(b) > 0 && !c.over {
		had := c.held
		c.held += copy(c.head[had:], b)
		from := b
		if had > 0 {
			from = c.head[:c.held]
		}
		n, e := c.scanner.Next(from)
		if e == wswire.Partial {
			return // all that there is was held
		}
		b, c.held = b[n-had:], 0
		f := &c.scanner.Frame
		c.over = e == wswire.Bad || e == wswire.Head && f.Op == wswire.Close
		c.half = e == wswire.Head && c.over && f.Length == 1
	}
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if w.shaking {
		if len(w.reply) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		n := copy(p, w.reply)
		w.reply = w.reply[n:]
		return n, nil
	}
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.closing.look(p[:n])
		w.in.Add(int64(n))
		if w.metrics != nil {
			w.metrics.BytesIn.Add(int64(n))
		}
		w.last.Store(w.clock.Now())
	}
	return n, err
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if w.shaking {
		if _, key, found := bytes.Cut(p, []byte("Sec-WebSocket-Key: ")); found {
			key, _, _ = bytes.Cut(key, []byte("\r\n"))
			w.reply = append(wswire.AppendAccept([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "), key), "\r\n\r\n"...)
		}
		return len(p), nil
	}
	n, err := w.Conn.Write(p)
	w.out.Add(int64(n))
	if w.metrics != nil {
		w.metrics.BytesOut.Add(int64(n))
	}
	return n, err
}

// SetDeadline implements net.Conn. In its handshakes the library sets deadlines that others rely on.
func (w *wire) SetDeadline(t time.Time) error {
	if w.shaking {
		return nil
	}
	return w.Conn.SetDeadline(t)
}

// closeWrite ends one direction, as far as the connection can.
func (w *wire) closeWrite() error {
	if h, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// accepted makes the library's connection of a client's that was answered.
func (w *wire) accepted() (*websocket.Conn, error) {
	u := websocket.Upgrader{
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
		CheckOrigin: func(*http.Request) bool { return true },
	}
	w.shaking = true
	c, err := u.Upgrade(hijacked{w}, handshake, nil)
	w.shaking = false
	return c, err
}

// handshake is what the library is shown of the client's.
var handshake = &http.Request{Method: http.MethodGet, Header: http.Header{
	"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
}}

// hijacked is the response that the library takes a connection from.
type hijacked struct{ w *wire }

func (hijacked) Header() http.Header         { return http.Header{} }
func (hijacked) Write(p []byte) (int, error) { return len(p), nil }
func (hijacked) WriteHeader(int)             {}
func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.w, bufio.NewReadWriter(bufio.NewReaderSize(h.w, 16), bufio.NewWriterSize(io.Discard, 16)), nil
}

// switched makes the library's connection of one to a service that has switched.
func (w *wire) switched() (*websocket.Conn, error) {
	d := websocket.Dialer{
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return w, nil },
	}
	w.shaking = true
	c, _, err := d.Dial("ws://service/", nil) //nolint:bodyclose // there is none
	w.shaking = false
	return c, err
}
