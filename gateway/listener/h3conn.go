package listener

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// h3conn is a QUIC connection of a client. The engine is quic-go's server; each
// connection has its own, so that it is told alone when to end.
type h3conn struct {
	mux
	quic   *quic.Conn
	engine http3.Server
}

// serveHTTP3 serves a connection whose handshake is done, to its end.
func (s *Server) serveHTTP3(qc *quic.Conn) {
	c := &conn{Conn: quicEnd{qc}, owner: s.l, id: s.l.nextID.Add(1), seated: true}
	c.setPeer(addrOf(qc.RemoteAddr()))
	state := qc.ConnectionState().TLS
	c.state = &state
	h := &h3conn{quic: qc}
	h.init(s, c, http3Version)
	h.engine = http3.Server{Handler: h, MaxHeaderBytes: s.fast.ReadBufferSize}
	c.mux = h
	c.phase.Store(phaseStreams)
	if why, ok := s.l.enroll(c); !ok {
		s.l.refuse(c, why)
		_ = qc.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), errBusy.Error())
		return
	}
	_ = h.engine.ServeQUICConn(qc)
	_ = c.shut()
	h.report()
}

// report says that the connection was ended for what its client did. What the
// engine refuses by itself shows nowhere else.
func (h *h3conn) report() {
	var app *quic.ApplicationError
	var transport *quic.TransportError
	var code string
	switch cause := context.Cause(h.quic.Context()); {
	case errors.As(cause, &app) && !app.Remote && app.ErrorCode != quic.ApplicationErrorCode(http3.ErrCodeNoError):
		code = http3.ErrCode(app.ErrorCode).String()
	case errors.As(cause, &transport) && !transport.Remote:
		code = transport.ErrorCode.String()
	default:
		return
	}
	l := h.conn.owner
	l.say.Log(slog.LevelInfo, code, "ended a connection of HTTP/3 for an error of the client",
		"listener", l.Name(), "client", h.conn.peer.String(), "code", code)
}

// ServeHTTP serves a stream. The client may have moved to another address since
// the handshake (RFC 9000, section 9); the engine has verified it.
func (h *h3conn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serve(w, r, addrOf(h.quic.RemoteAddr()))
	if h.server.draining.Load() {
		h.goAway()
	}
}

// goAway sends GOAWAY, once: requests that come later are refused unread, and a
// client may send them again elsewhere (RFC 9114, section 5.2). A connection
// that is fresh is left its first request.
func (h *h3conn) goAway() {
	if h.fresh() || !h.told.CompareAndSwap(0, h.conn.owner.coarse.Load()) {
		return
	}
	go func() {
		// Waits for the end of the connection.
		_ = h.engine.Shutdown(context.Background())
	}()
}

// parting is the least time that a client has to take the last answer, and a
// GOAWAY: closing a QUIC connection takes back what is still on its way.
const parting = 200 * time.Millisecond

func (h *h3conn) state() (open, used bool, rests int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open > 0, h.used, h.rests
}

// parted reports whether what was said last has had time to arrive.
func (h *h3conn) parted(since, now int64) bool {
	return now-since >= int64(max(parting, 6*h.quic.ConnectionStats().SmoothedRTT))
}

func (h *h3conn) idle() bool {
	_, _, rests := h.state()
	return h.mux.idle() && h.parted(rests, h.conn.owner.coarse.Load())
}

// check is the sweeper's look. A request whose head does not come to its end is
// no stream yet: it does not keep the connection.
func (h *h3conn) check(now int64, t *Timeouts) {
	h.checkStreams(now, t.Stall)
	open, used, rests := h.state()
	if open {
		return
	}
	over := func(limit time.Duration) bool { return limit > 0 && now-rests >= int64(limit) }
	if told := h.told.Load(); told == 0 && !over(t.Idle) && (used || !over(t.Header)) || !h.parted(max(told, rests), now) {
		return
	}
	_ = h.conn.shut()
}

// quicEnd lets a QUIC connection stand where one of TCP does: it can be closed.
type quicEnd struct{ *quic.Conn }

// Close ends the connection without an error (RFC 9114, section 5.2).
func (e quicEnd) Close() error {
	return e.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func (quicEnd) Read([]byte) (int, error)         { return 0, io.EOF }
func (quicEnd) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (quicEnd) SetDeadline(time.Time) error      { return nil }
func (quicEnd) SetReadDeadline(time.Time) error  { return nil }
func (quicEnd) SetWriteDeadline(time.Time) error { return nil }
