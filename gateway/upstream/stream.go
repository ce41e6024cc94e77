package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/breaker"
	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
	"sluice/gateway/upstream/balance"
	"sluice/gateway/upstream/h2"
)

// stream is a call over HTTP/2: the part of a call that net/http2's goroutines
// may hold on to, so that it is not pooled. Request and answer pass unbuffered
// and at the same time.
type stream struct {
	c   *call
	svc *Service
	x   *exchange.Exchange
	rpc grpcwire.Kind
	// native: trailers of the answer go on as trailers, for the client's protocol has them.
	native bool

	base     context.Context // ends with the client, and at the deadline
	stop     context.CancelFunc
	deadline time.Time // of the call, zero for none
	body     outgoing
	hasBody  bool
	head     []byte

	// The attempt.
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    *attemptBody
	mu     sync.Mutex // for the waits, which the sweeper looks at
	since  int64      // the head of the answer is awaited since then; 0: not yet
	got    bool       // the head has come
	asked  int64
	timer  *time.Timer
	reads  atomic.Int64 // bytes of the answer are awaited since then
	unread []byte

	res     *http.Response
	over    bool
	ahead   []byte // held of a body that is not whole, and has passed aheadOf hooks
	aheadOf int
	tail    []byte // the frame of trailers of gRPC-Web that is still to be read
	ending  bool
}

var errDeadline = errors.New("the deadline of the call has passed")

var (
	rejectDeadline = rpcReject(fasthttp.StatusGatewayTimeout, grpcwire.DeadlineExceeded, "deadline_exceeded", "the deadline of the call has passed")
	rejectRPCTime  = exchange.NewReject(fasthttp.StatusBadRequest, "bad_grpc_timeout", "grpc-timeout is malformed; write up to eight digits and one of H, M, S, m, u, n")
)

func rpcReject(status int, code grpcwire.Code, reason, detail string) *exchange.Reject {
	r := exchange.NewReject(status, reason, detail)
	r.RPC = code
	return r
}

// contextual is a client's connection that tells at once when the client is gone.
type contextual interface{ Context() context.Context }

// patient is a client's connection that can be told that silence is no stall.
type patient interface{ Patient() }

// trailing is a client's connection that takes trailers of any name.
type trailing interface{ Trailer(name, value string) }

// openStream makes the call one over HTTP/2.
func (c *call) openStream() error {
	x := c.x
	st := &stream{c: c, svc: c.svc, x: x, rpc: x.RPC()}
	if c.rpc != nil {
		st.rpc = grpcwire.Native
	}
	_, st.native = x.Client.(trailing)
	st.base = context.Background()
	if cl, ok := x.Client.(contextual); ok && !x.OutlivesClient {
		st.base = cl.Context()
	}
	if st.rpc != grpcwire.Other {
		if cl, ok := x.Client.(patient); ok {
			cl.Patient()
		}
		if v := x.RequestHeader("Grpc-Timeout"); v != nil {
			d, ok := grpcwire.ParseTimeout(v)
			if !ok {
				return rejectRPCTime
			}
			if st.deadline = x.Arrived.Add(d); st.deadline.After(x.Arrived) {
				st.base, st.stop = context.WithDeadlineCause(st.base, st.deadline, errDeadline)
			} else {
				st.deadline = time.Time{} // longer than times can tell
			}
		}
	}
	if c.rpc != nil {
		st.body.beginCall(x, c.rpc)
		st.hasBody = true
	} else {
		st.hasBody = st.body.begin(x)
	}
	if st.rpc == grpcwire.WebText && st.hasBody {
		st.body.decodeText()
	}
	c.stream, c.spent = st, true
	return nil
}

// runStream makes the attempts; it is run for services of HTTP/2.
func (c *call) runStream() (breaker.Outcome, error) {
	s, x, st := c.svc, c.x, c.stream
	var last error
	unsent := 0
	for retry := 0; ; {
		if !c.chooseEndpoint() {
			st.close()
			if last != nil {
				return breaker.Failure, c.rejectFor(last)
			}
			return breaker.Ignored, c.nowhere()
		}
		x.Attempts++
		x.UpstreamStatus = 0
		x.Endpoint = c.ep.name
		err := st.attempt()
		c.now = x.Clock.Now()
		c.latency = time.Duration(c.now - c.began)
		x.UpstreamTime += int64(c.latency)
		if err == nil {
			x.UpstreamStatus = st.res.StatusCode
			s.metrics.UpstreamDuration.Observe(c.latency)
			if !st.retriedAnswer() || !st.body.replayable() || !c.mayRetry(retry) || !s.budget.withdraw() {
				return st.settle()
			}
			last = errRetriedStatus
			c.outcome = balance.ServerError
			st.abandon(breaker.Failure)
			retry++
			s.metrics.Retries.Inc()
			continue
		}
		switch {
		case h2.Unsent(err) && unsent < maxStale && st.mayResend():
			unsent++
			c.outcome = balance.Cancelled
			st.abandon(breaker.Ignored)
			continue
		case err == errDeadline || c.isClientFault(err):
			// The deadline is the client's: it says nothing about the backend.
			c.outcome = balance.Cancelled
			st.abandon(breaker.Ignored)
			st.close()
			return breaker.Ignored, c.rejectFor(err)
		case errors.Is(err, errNoConn):
			c.outcome = balance.Cancelled
			st.abandon(breaker.Ignored)
			st.close()
			return breaker.Ignored, c.rejectFor(err)
		}
		if !isConnect(err) {
			s.metrics.UpstreamDuration.Observe(c.latency)
		}
		c.outcome = balance.Failure
		last = err
		again := s.retries.failure(err) && (isConnect(err) || st.repeatable()) && st.mayResend() && c.mayRetry(retry) && s.budget.withdraw()
		st.abandon(breaker.Failure)
		if !again {
			st.close()
			return breaker.Failure, c.rejectFor(err)
		}
		retry++
		s.metrics.Retries.Inc()
	}
}

// mayResend reports whether the body can be sent from its first byte.
func (st *stream) mayResend() bool { return !st.hasBody || st.out == nil || st.body.replayable() }

// repeatable reports whether the request may be sent again although the backend may have acted on it.
func (st *stream) repeatable() bool {
	return st.x.Replayable || isIdempotent(st.x.Method())
}

// retriedAnswer reports whether the answer is one that rules of retrying name.
// A status of gRPC is that only where nothing but it came.
func (st *stream) retriedAnswer() bool {
	if st.svc.retries.attempts == 0 {
		return false
	}
	if code, only := st.onlyStatus(); only {
		return st.svc.retries.rpc[code]
	}
	return st.repeatable() && st.svc.retries.status(st.res.StatusCode)
}

// onlyStatus returns the status of an answer of gRPC that is nothing but trailers.
func (st *stream) onlyStatus() (grpcwire.Code, bool) {
	v := st.res.Header["Grpc-Status"]
	if st.rpc == grpcwire.Other || len(v) == 0 || st.res.StatusCode != fasthttp.StatusOK || st.res.ContentLength != 0 {
		return 0, false
	}
	code, _ := grpcwire.ParseCode(v[0])
	return code, true
}

// attempt sends the request to the endpoint and waits for the head of the answer.
func (st *stream) attempt() error {
	c := st.c
	ctx, cancel := context.WithCancelCause(st.base)
	st.mu.Lock()
	st.ctx, st.cancel = ctx, cancel
	st.got, st.since, st.asked = false, 0, 0
	st.mu.Unlock()
	st.svc.sweeper.enlist(st)
	conn, err := c.ep.pool.streams.Conn(st.ctx)
	if err != nil {
		if errors.Is(err, h2.ErrBusy) {
			err = errNoConn
		}
		return st.explain(err)
	}
	req := st.request()
	if !st.hasBody {
		st.awaitHead()
	}
	if st.res, err = conn.RoundTrip(req); err != nil { //nolint:bodyclose // leave closes it
		st.res = nil
		return st.explain(err)
	}
	st.mu.Lock()
	st.got = true
	if st.timer != nil {
		st.timer.Stop()
		st.timer = nil
	}
	st.mu.Unlock()
	return nil
}

// request is the request as this attempt sends it.
func (st *stream) request() *http.Request {
	c, x := st.c, st.x
	head := requestHead{kinds: kindsOf(x.Fields), body: st.hasBody, framing: Framing{Chunked: st.hasBody, Length: -1}, passHost: c.svc.passHost}
	st.head = BuildRequestHead(x, c.ep, &head, st.head[:0])
	text := string(st.head) // names and values share it
	line, rest, _ := strings.Cut(text, "\r\n")
	method, line, _ := strings.Cut(line, " ")
	target, _, _ := strings.Cut(line, " ")
	path, query, _ := strings.Cut(target, "?")
	if c.rpc != nil {
		method, path, query = http.MethodPost, string(c.ep.basePath)+c.rpc.Path, ""
	}
	req := &http.Request{
		Method: method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: make(http.Header, 16),
		URL: &url.URL{Scheme: c.ep.scheme, Opaque: path, RawQuery: query},
	}
	for len(rest) > 2 {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case "Host":
			req.Host, req.URL.Host = value, value
			continue
		case "Connection", "Transfer-Encoding":
			continue
		case "Trailer":
			// Announced in full here; what comes is told behind the body.
			for token := range strings.SplitSeq(value, ",") {
				if name := textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(token)); name != "" && trailerAllowed([]byte(name)) {
					if req.Trailer == nil {
						req.Trailer = make(http.Header)
					}
					req.Trailer[name] = nil
				}
			}
			continue
		case "Grpc-Timeout":
			if st.rpc != grpcwire.Other && !st.deadline.IsZero() {
				value = string(grpcwire.AppendTimeout(nil, st.deadline.Sub(x.Clock.Time())))
			}
		}
		req.Header[name] = append(req.Header[name], value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = nil // none is made up
	}
	if st.rpc != grpcwire.Other {
		req.Header["Te"] = []string{"trailers"}
	}
	st.translateRequest(req)
	if st.hasBody {
		st.out = &attemptBody{o: &st.body, whole: st.awaitHead}
		if t := req.Trailer; t != nil {
			st.out.trailer = func() {
				for name, value := range x.RequestTrailers() {
					if name := textproto.CanonicalMIMEHeaderKey(string(name)); t.Get(name) == "" {
						if _, announced := t[name]; announced {
							t[name] = []string{string(value)}
						}
					}
				}
			}
		}
		req.Body, req.ContentLength = st.out, -1
		switch n := x.Request.Header.ContentLength(); {
		case c.rpc != nil:
		case x.Body != nil && st.rpc != grpcwire.WebText:
			req.ContentLength = int64(len(x.Body))
		case n > 0 && st.rpc != grpcwire.WebText:
			req.ContentLength = int64(n)
		}
		if req.ContentLength == 0 {
			req.Body = nil
			st.awaitHead()
		}
	}
	return req.WithContext(httptrace.WithClientTrace(st.ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			st.interim(code, header)
			return nil
		},
	}))
}

// interim passes an interim answer on.
func (st *stream) interim(code int, header textproto.MIMEHeader) {
	if code == fasthttp.StatusContinue || st.x.Client == nil || !st.x.Request.Header.IsHTTP11() {
		return
	}
	b := append(strconv.AppendInt([]byte("HTTP/1.1 "), int64(code), 10), " \r\n"...)
	for name, values := range header {
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	st.x.Client.Interim(append(b, "\r\n"...))
}

// awaitHead starts the wait for the head of the answer: all of the request is sent.
func (st *stream) awaitHead() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.got || st.since != 0 {
		return
	}
	st.since = st.svc.sweeper.now()
	if limit := st.svc.response; limit > 0 && limit < 10*st.svc.sweeper.tick {
		cancel := st.cancel
		st.timer = time.AfterFunc(limit, func() { cancel(errResponseTimeout) })
	}
}

// check is the sweeper's look.
func (st *stream) check(now int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.cancel == nil {
		return
	}
	if limit := st.svc.response; !st.got && st.since != 0 && limit > 0 && now-st.since >= int64(limit) {
		st.cancel(errResponseTimeout)
		return
	}
	if r := st.reads.Load(); r != 0 && st.rpc == grpcwire.Other && st.svc.stall > 0 && now-r >= int64(st.svc.stall) {
		st.cancel(errStalled)
		return
	}
	if st.x.Until != 0 && now >= st.x.Until {
		st.x.Aborted.Store(true)
		st.cancel(exchange.ErrClientGone)
		return
	}
	if _, told := st.x.Client.(contextual); !told && st.x.Client != nil && !st.x.OutlivesClient && now-max(st.asked, st.c.began) >= int64(goneEvery) {
		st.asked = now
		if st.x.Client.Gone() {
			st.x.Aborted.Store(true)
			st.cancel(exchange.ErrClientGone)
		}
	}
}

// explain says what an error of the attempt comes from.
func (st *stream) explain(err error) error {
	if st.base.Err() != nil {
		if context.Cause(st.base) == errDeadline {
			return errDeadline
		}
		st.x.Aborted.Store(true)
		return exchange.ErrClientGone
	}
	if cause := context.Cause(st.ctx); cause != nil && cause != context.Canceled {
		return cause
	}
	if st.hasBody {
		if fault := st.body.fault(); fault != nil {
			return fault
		}
	}
	if isConnect(err) || errors.Is(err, errNoConn) || h2.Unsent(err) {
		return err
	}
	if _, reset := h2.ResetCode(err); reset || h2.WentAway(err) {
		if !st.deadline.IsZero() && !time.Now().Before(st.deadline) {
			return errDeadline // the backend has the same one, and was quicker
		}
		return &streamReset{err}
	}
	return err
}

// streamReset is a stream that the backend has reset.
type streamReset struct{ err error }

func (e *streamReset) Error() string   { return e.err.Error() }
func (e *streamReset) Unwrap() []error { return []error{e.err, io.ErrUnexpectedEOF} }

// settle delivers the answer whose head has come.
func (st *stream) settle() (breaker.Outcome, error) {
	c := st.c
	st.body.settled()
	verdict := breaker.Success
	c.outcome = balance.Success
	if st.res.StatusCode >= 500 {
		verdict, c.outcome = breaker.Failure, balance.ServerError
	}
	if code, only := st.onlyStatus(); only && st.faulty(code) {
		verdict, c.outcome = breaker.Failure, balance.ServerError
	}
	c.report(verdict)
	if c.rpc != nil {
		st.x.Answer = exchange.Proxied
		return verdict, nil
	}
	if err := st.deliver(); err != nil {
		err = st.explain(err)
		c.outcome = balance.Failure
		st.close()
		if c.isClientFault(err) {
			return breaker.Ignored, c.rejectFor(err)
		}
		return breaker.Failure, c.rejectFor(err)
	}
	return verdict, nil
}

// faulty reports whether a status speaks of a fault of the backend. A deadline
// that the client has set is not one.
func (st *stream) faulty(code grpcwire.Code) bool {
	switch code {
	case grpcwire.Unknown, grpcwire.Internal, grpcwire.Unavailable, grpcwire.DataLoss:
		return true
	case grpcwire.DeadlineExceeded:
		return st.deadline.IsZero()
	}
	return false
}

// abandon leaves the endpoint after an attempt that is not the answer.
func (st *stream) abandon(o breaker.Outcome) {
	c := st.c
	c.failed = o == breaker.Failure
	c.leave(c.ep)
	st.leave()
	st.res = nil
	c.leaveEndpoint()
	c.res.reset()
}

// leave ends the attempt: with the stream's reset, if it has not ended.
func (st *stream) leave() {
	if st.cancel == nil {
		return
	}
	st.svc.sweeper.strike(st)
	st.mu.Lock()
	cancel := st.cancel
	st.cancel = nil
	if st.timer != nil {
		st.timer.Stop()
		st.timer = nil
	}
	st.mu.Unlock()
	if st.out != nil {
		_ = st.out.Close()
	}
	cancel(nil)
	if st.res != nil {
		_ = st.res.Body.Close()
	}
}

// close ends the call.
func (st *stream) close() {
	if st.over {
		return
	}
	st.over = true
	st.c.now = st.x.Clock.Now()
	st.leave()
	st.body.stop()
	if st.stop != nil {
		st.stop()
	}
	st.c.leaveEndpoint()
}
