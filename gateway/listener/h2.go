package listener

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Bounds of an HTTP/2 connection. What net/http2 bounds itself: frames of
// control that wait to be sent (10,000), streams that were reset before they
// were served (four times the streams), a header block by the size of a head.
const (
	maxStreams         = 250
	uploadPerConn      = 1 << 20
	uploadPerStream    = 256 << 10
	maxFrame           = 16 << 10
	headerTable        = 4 << 10
	readAhead          = 4 << 10
	pingAfter          = 30 * time.Second
	pingTimeout        = 15 * time.Second
	goAwayAgainAfter   = int64(500 * time.Millisecond)
	minEngineIdle      = time.Millisecond
	engineIdleUnlimted = 365 * 24 * time.Hour
)

// h2conn is an HTTP/2 connection of a client. The engine is net/http2's
// server; each connection has its own, so that it is told alone when to end,
// and serves with the limits of when it was opened.
type h2conn struct {
	mux
	engine http2.Server
	base   http.Server

	read      *bufio.Reader
	out       frameWatch
	explained atomic.Int32 // resets to come that the engine has explained
}

// silent takes the engine's own messages: what matters to operators is in the
// access log and the metrics, and the rest may carry what a client sent.
var silent = log.New(io.Discard, "", 0)

// serveHTTP2 serves a connection that has agreed on HTTP/2, to its end.
func (s *Server) serveHTTP2(nc net.Conn) error {
	c := nc.(*conn)
	t := s.l.timeouts.Load()
	h := new(h2conn)
	h.init(s, c, "HTTP/2.0")
	h.isHTTP2 = true
	h.out.h = h
	h.read = bufio.NewReaderSize(&settingsWatch{conn: c}, readAhead)
	idle := max(t.Idle, minEngineIdle)
	if t.Idle == 0 {
		idle = engineIdleUnlimted
	}
	h.base = http.Server{MaxHeaderBytes: s.fast.ReadBufferSize, ErrorLog: silent, Handler: h}
	h.engine = http2.Server{
		MaxConcurrentStreams:         maxStreams,
		MaxReadFrameSize:             maxFrame,
		MaxDecoderHeaderTableSize:    headerTable,
		MaxEncoderHeaderTableSize:    headerTable,
		IdleTimeout:                  idle,
		ReadIdleTimeout:              pingAfter,
		PingTimeout:                  pingTimeout,
		MaxUploadBufferPerConnection: uploadPerConn,
		MaxUploadBufferPerStream:     uploadPerStream,
		CountError:                   h.explain,
	}
	if err := http2.ConfigureServer(&h.base, &h.engine); err != nil {
		return err
	}
	c.mux = h
	if !c.phase.CompareAndSwap(phaseNew, phaseStreams) {
		return net.ErrClosed
	}
	var transport net.Conn = watched{c, h}
	if c.state != nil {
		transport = watchedTLS{watched{c, h}}
	}
	h.engine.ServeConn(transport, &http2.ServeConnOpts{BaseConfig: &h.base, Handler: h})
	return nil
}

// ServeHTTP serves a stream.
func (h *h2conn) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve(w, r, h.conn.peer) }

// goAway ends the connection once its streams have ended (RFC 9113, section
// 6.8). It is repeated now and then, for a connection that had only begun. One
// that is fresh goes with its first answer: clients do not begin a request on a
// connection that is going away.
func (h *h2conn) goAway() {
	if h.fresh() {
		return
	}
	now := h.conn.owner.coarse.Load()
	if told := h.told.Load(); told != 0 && now-told < goAwayAgainAfter || !h.told.CompareAndSwap(h.told.Load(), now) {
		return
	}
	// There are no connections of its own to wait for: this calls the hook that
	// ConfigureServer has set, and returns.
	_ = h.base.Shutdown(context.Background())
}

// check ends the streams that wait too long for their client.
func (h *h2conn) check(now int64, t *Timeouts) { h.checkStreams(now, t.Stall) }
