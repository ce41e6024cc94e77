package listener

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
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
	server *Server
	conn   *conn
	engine http2.Server
	base   http.Server

	told atomic.Int64 // when it was told to go away, by the coarse clock; 0: not
	used atomic.Bool  // it has had a stream

	out       frameWatch
	explained atomic.Int32 // resets to come that the engine has explained

	mu      sync.Mutex
	streams h2stream // sentinel of a ring
	open    int
}

// silent takes the engine's own messages: what matters to operators is in the
// access log and the metrics, and the rest may carry what a client sent.
var silent = log.New(io.Discard, "", 0)

// serveHTTP2 serves a connection that has agreed on HTTP/2, to its end.
func (s *Server) serveHTTP2(nc net.Conn) error {
	c := nc.(*conn)
	t := s.l.timeouts.Load()
	h := &h2conn{server: s, conn: c}
	h.out.h = h
	h.streams.prev, h.streams.next = &h.streams, &h.streams
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
	c.h2 = h
	if !c.phase.CompareAndSwap(phaseNew, phaseHTTP2) {
		return net.ErrClosed
	}
	var transport net.Conn = watched{c, h}
	if c.state != nil {
		transport = watchedTLS{watched{c, h}}
	}
	h.engine.ServeConn(transport, &http2.ServeConnOpts{BaseConfig: &h.base, Handler: h})
	return nil
}

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

// fresh reports whether the first request is taken to be on its way.
func (h *h2conn) fresh() bool {
	return !h.used.Load() && h.conn.owner.coarse.Load()-h.conn.since.Load() <= int64(freshFor)
}

// add and remove keep the books for the sweeper.
func (h *h2conn) add(st *h2stream) {
	h.used.Store(true)
	h.mu.Lock()
	st.prev, st.next = h.streams.prev, &h.streams
	st.prev.next, st.next.prev = st, st
	h.open++
	h.mu.Unlock()
}

func (h *h2conn) remove(st *h2stream) {
	h.mu.Lock()
	st.prev.next, st.next.prev = st.next, st.prev
	st.prev, st.next = nil, nil
	h.open--
	h.mu.Unlock()
}

// busy reports whether there are streams.
func (h *h2conn) busy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.open > 0
}

// check ends the streams that wait too long for their client.
func (h *h2conn) check(now int64, stall time.Duration) {
	if stall <= 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for st := h.streams.next; st != &h.streams; st = st.next {
		if r := st.readSince.Load(); r != 0 && now-r >= int64(stall) {
			st.InterruptRead()
		}
		if w := st.writeSince.Load(); w != 0 && now-w >= int64(stall) {
			st.interruptWrite()
		}
	}
}
