package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/wswire"
)

// watch looks at the WebSocket that passes through a tunnel: at the heads of its frames, which tell where one may be put between
// the others, and what its limits are about. Payloads pass unread, in whatever extension the ends have agreed on, so
// that sizes are those on the wire. What is no frame of WebSocket in its place, or breaks a limit is not passed on; both ends are told by a close frame.
type watch struct {
	p       *passage
	clock   *exchange.Clock
	sweeper *Sweeper
	metrics *telemetry.SocketMetrics
	limits  exchange.SocketLimits
	// extended: the ends have agreed on an extension, and reserved bits are its.
	extended bool

	heard   atomic.Int64 // when bytes of the client came
	message atomic.Int64 // when a message passed
	asked   atomic.Int64 // when the client was asked whether it is there; 0: it was not
	pongs   atomic.Int32 // its answers that are the gateway's, not the service's

	mu     sync.Mutex
	ended  bool // somebody has said that it ends
	reason string
}

// frames is a flow's part of a watch.
type frames struct {
	*watch
	who     telemetry.Closer // whose frames they are
	scanner wswire.Scanner
	size    int64 // of the message that is under way
	inside  bool  // there is one
	most    int64 // bytes of one; 0: no bound
	meter   wswire.Meter
	passed  *telemetry.Counter // bytes
	counted *telemetry.Counter // messages
	// closed: a close frame has gone on, behind which nothing may follow; closing: it was the gateway's; last: one is on its way.
	closed, closing, last bool

	// waiting: somebody listens to what comes. Only where clients are asked whether they are there.
	waiting atomic.Bool

	// What the flow is to say to whom it flows, when it is between frames: the code of a close frame, and a ping. Anybody's.
	say  atomic.Int32
	ping atomic.Bool
}

// closeWait bounds how long an end may take to answer a close frame.
const closeWait = 2 * time.Second

func newWatch(t *Tunnel, p *passage) *watch {
	w := &watch{p: p, clock: t.x.Clock, sweeper: t.call.svc.sweeper, metrics: t.call.svc.sockets.of(t.x.Route)}
	w.extended = len(t.x.ResponseHeader("Sec-WebSocket-Extensions")) > 0
	if t.x.Sockets != nil {
		w.limits = *t.x.Sockets
	}
	p.up.frames = &frames{watch: w, who: telemetry.ByClient, most: w.limits.MaxMessage, passed: w.metrics.BytesIn, counted: w.metrics.MessagesIn}
	p.down.frames = &frames{watch: w, who: telemetry.ByService, most: w.limits.MaxAnswer, passed: w.metrics.BytesOut, counted: w.metrics.MessagesOut}
	w.metrics.Open.Inc()
	if w.limits.Idle > 0 || w.limits.Ping > 0 {
		now := w.clock.Now()
		p.up.frames.waiting.Store(true)
		w.heard.Store(now)
		w.message.Store(now)
		w.sweeper.Watch(w)
	}
	return w
}

func (w *watch) close(t *Tunnel) {
	w.metrics.Open.Dec()
	if w.limits.Idle > 0 || w.limits.Ping > 0 {
		w.sweeper.Unwatch(w)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason != "" && t.x.Reason == "" {
		t.x.Reason = w.reason
	}
}

// watched is pass for a flow of WebSocket.
func (f *flow) watched(b []byte) (held int, more bool) {
	fr := f.frames
	if fr.who == telemetry.ByClient && fr.limits.Ping > 0 {
		fr.heard.Store(fr.clock.Now())
		fr.waiting.Store(false)
		defer fr.waiting.Store(true)
	}
	from, at := 0, 0
	for at < len(b) {
		n, e := fr.scanner.Next(b[at:])
		if e == wswire.Partial {
			break
		}
		v := verdict{}
		switch e {
		case wswire.Head:
			v = fr.judge()
		case wswire.Bad:
			v = verdict{code: wswire.Protocol, reason: "websocket_protocol_error"}
		}
		switch {
		case v.code != 0:
			// Up to here there are whole frames.
			if !f.send(b[from:at]) || !f.refuse(v) || e == wswire.Bad {
				return 0, false
			}
			from = at
		case v.drop:
			if !f.send(b[from:at]) {
				return 0, false
			}
			from = at + n
		case v.last && fr.closed:
			return 0, false // the answer to the gateway's
		case v.last:
			fr.last = true
		}
		if at += n; fr.last && !fr.closed && fr.scanner.Between() {
			if !f.send(b[from:at]) {
				return 0, false
			}
			from, fr.closed = at, true
		}
	}
	if from < at && !f.send(b[from:at]) {
		return 0, false
	}
	return copy(b, b[at:]), true
}

// send is write unless the end was said.
func (f *flow) send(b []byte) bool {
	if len(b) == 0 || f.frames.closed {
		return true
	}
	f.frames.passed.Add(int64(len(b)))
	ok := f.write(b)
	if !ok {
		f.other.frames.ended() // who takes nothing has gone first
	}
	return ok
}

// verdict is what is to be done with a frame; the zero one is that it passes.
type verdict struct {
	code   int // it breaks a limit
	reason string
	drop   bool // it is the gateway's, and has no payload
	last   bool // it says the end
}

// judge looks at the frame whose head has come.
func (fr *frames) judge() verdict {
	f := &fr.scanner.Frame
	switch {
	case fr.closing && f.Op == wswire.Close:
		return verdict{last: true}
	case fr.closing:
		return verdict{}
	case !f.IsSound(fr.inside), f.Masked != (fr.who == telemetry.ByClient), f.Reserved && !fr.extended:
		return verdict{code: wswire.Protocol, reason: "websocket_protocol_error"}
	case f.Op == wswire.Close:
		fr.note(fr.who, f.Code, "")
		return verdict{last: true}
	case f.Op.IsControl():
		if fr.who != telemetry.ByClient {
			return verdict{}
		}
		if f.Op == wswire.Pong && f.Length == 0 && fr.pongs.Load() > 0 {
			fr.pongs.Add(-1)
			return verdict{drop: true}
		}
		return fr.pace()
	case f.Op == wswire.Continuation:
		fr.inside = !f.Fin
	default:
		fr.size, fr.inside = 0, !f.Fin
		fr.counted.Inc()
		if fr.limits.Idle > 0 {
			fr.message.Store(fr.clock.Now())
		}
		if fr.who == telemetry.ByClient {
			if v := fr.pace(); v.code != 0 {
				return v
			}
		}
	}
	if fr.size += f.Length; fr.most > 0 && fr.size > fr.most {
		return verdict{code: wswire.TooBig, reason: "websocket_message_too_large"}
	}
	return verdict{}
}

func (fr *frames) pace() verdict {
	if fr.limits.Pace.Interval > 0 && !fr.meter.Take(fr.limits.Pace, fr.clock.Now()) {
		return verdict{code: wswire.Policy, reason: "websocket_rate"}
	}
	return verdict{}
}

// refuse ends the WebSocket because of a frame of this flow, which is between frames as far as it was passed on.
func (f *flow) refuse(v verdict) bool {
	fr := f.frames
	if !fr.note(telemetry.ByGateway, v.code, v.reason) {
		return true
	}
	f.other.frames.say.Store(int32(v.code))
	f.other.wake()
	code := wswire.GoingAway // the client is gone
	if fr.who == telemetry.ByService {
		code = wswire.Internal
	}
	return f.sayClose(code)
}

// speak says what was to be said, if it can be said here.
func (f *flow) speak() bool {
	fr := f.frames
	if !fr.scanner.Between() || fr.closed {
		return true
	}
	if code := fr.say.Load(); code != 0 {
		return f.sayClose(int(code))
	}
	if fr.ping.CompareAndSwap(true, false) {
		return f.send(wswire.AppendControl(nil, false, wswire.Ping, nil))
	}
	return true
}

// sayClose sends a close frame; what still comes is read for the answer to it, for a while.
func (f *flow) sayClose(code int) bool {
	if f.frames.closed {
		return true
	}
	ok := f.send(wswire.AppendClose(nil, f.frames.who == telemetry.ByClient, code, ""))
	f.frames.closed, f.frames.closing = true, true
	f.endBy(time.Now().Add(closeWait))
	return ok
}

func (f *flow) isClosing() bool { return f.frames != nil && f.frames.closing }

// end says to both ends that this is the end.
func (w *watch) end(toClient, toService int, reason string) {
	if !w.note(telemetry.ByGateway, toClient, reason) {
		return
	}
	w.p.down.frames.say.Store(int32(toClient))
	w.p.up.frames.say.Store(int32(toService))
	w.p.down.wake()
	w.p.up.wake()
}

func (w *watch) goAway(code int) { w.end(code, code, "websocket_going_away") }

// Check implements Watched.
func (w *watch) Check(now int64) {
	if limit := int64(w.limits.Ping); limit > 0 {
		if !w.p.up.frames.waiting.Load() {
			// While the service takes nothing, nobody listens to the client, which so can not show that it is there.
			w.heard.Store(now)
			w.asked.Store(0)
		}
		heard, asked := w.heard.Load(), w.asked.Load()
		switch {
		case asked != 0 && heard > asked:
			w.asked.Store(0)
		case asked != 0 && now-asked >= limit:
			if w.note(telemetry.ByGateway, wswire.Abnormal, "websocket_ping_timeout") {
				w.p.up.frames.say.Store(wswire.GoingAway)
				w.p.up.wake()
				w.p.down.endBy(past)
			}
			return
		case asked == 0 && now-heard >= limit:
			w.asked.Store(now)
			w.pongs.Add(1)
			w.p.down.frames.ping.Store(true)
			w.p.down.wake()
		}
	}
	if limit := int64(w.limits.Idle); limit > 0 && now-w.message.Load() >= limit {
		w.end(wswire.GoingAway, wswire.GoingAway, "websocket_idle")
	}
}

// note remembers how the WebSocket ends. The first to say so is believed, and it reports whether that is now.
func (w *watch) note(by telemetry.Closer, code int, reason string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.ended, w.reason = true, reason
	w.metrics.Closed(by, code)
	return true
}

// ended is the end of a flow, by itself unless the end was said.
func (fr *frames) ended() { fr.note(fr.who, wswire.Abnormal, "") }

// socketMetrics are the series of the WebSockets that routes have to a service.
type socketMetrics struct {
	metrics    *telemetry.Metrics
	generation *telemetry.Generation
	mu         sync.Mutex
	byRoute    map[*exchange.Route]*telemetry.SocketMetrics
}

func (s *socketMetrics) of(r *exchange.Route) *telemetry.SocketMetrics {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.byRoute[r]
	if m == nil {
		m = s.metrics.Sockets(s.generation, r.Name)
		s.byRoute[r] = m
	}
	return m
}
