package listener

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// multiplexed is what a connection speaks whose requests are streams.
type multiplexed interface {
	// goAway has the client send no more requests; those that have begun go on.
	goAway()
	// busy reports whether the connection is not to be closed without need.
	busy() bool
	// idle reports whether it may be closed: none is at work, and none is taken
	// to be on its way.
	idle() bool
	// check is the sweeper's look.
	check(now int64, t *Timeouts)
}

// mux is what connections of HTTP/2 and of HTTP/3 have in common: the engine
// calls serve for each request, on a goroutine of its own.
type mux struct {
	server   *Server
	conn     *conn
	protocol string
	isHTTP2  bool
	told     atomic.Int64 // when it was told to go away, by the coarse clock; 0: not

	mu      sync.Mutex
	streams stream // sentinel of a ring
	open    int
	used    bool  // there has been a stream
	rests   int64 // since when there is none
}

func (m *mux) init(s *Server, c *conn, protocol string) {
	m.server, m.conn, m.protocol = s, c, protocol
	m.streams.prev, m.streams.next = &m.streams, &m.streams
	m.rests = s.l.coarse.Load()
}

// add and remove keep the books for the sweeper.
func (m *mux) add(st *stream) {
	m.mu.Lock()
	st.prev, st.next = m.streams.prev, &m.streams
	st.prev.next, st.next.prev = st, st
	m.open++
	m.used = true
	m.mu.Unlock()
}

func (m *mux) remove(st *stream) {
	m.mu.Lock()
	st.prev.next, st.next.prev = st.next, st.prev
	st.prev, st.next = nil, nil
	if m.open--; m.open == 0 {
		m.rests = m.conn.owner.coarse.Load()
	}
	m.mu.Unlock()
}

// busy reports whether there are streams.
func (m *mux) busy() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open > 0
}

// fresh reports whether the first request is taken to be on its way.
func (m *mux) fresh() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.used && m.conn.owner.coarse.Load()-m.rests <= int64(freshFor)
}

func (m *mux) idle() bool { return !m.busy() && !m.fresh() }

// checkStreams ends the streams that wait too long for their client.
func (m *mux) checkStreams(now int64, stall time.Duration) {
	if stall <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for st := m.streams.next; st != &m.streams; st = st.next {
		if r := st.readSince.Load(); r != 0 && !st.quiet.Load() && now-r >= int64(stall) {
			st.InterruptRead()
		}
		if w := st.writeSince.Load(); w != 0 && now-w >= int64(stall) {
			st.interruptWrite()
		}
	}
}

// contain, deferred, ends one stream where its handling met a fault of the
// gateway's own, and says so; the engines would only end it.
func (m *mux) contain() {
	fault := recover()
	if fault == nil {
		return
	}
	if fault != http.ErrAbortHandler {
		m.server.l.log.Error("a request met a fault of the gateway; please report it",
			"listener", m.server.l.Name(), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}
