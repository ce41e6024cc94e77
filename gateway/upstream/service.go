// Package upstream takes requests to backends: it chooses an endpoint, asks
// its breaker, sends the request on a pooled connection, reads the response
// head first and then relays the body, and repeats what may be repeated within
// a budget. What reaches a backend is framed by the gateway alone, and what a
// backend answers is read strictly, so that neither side can smuggle.
package upstream

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/breaker"
	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream/balance"
	"sluice/gateway/upstream/h2"
)

// Service is one backend service as one generation of the configuration sees
// it. What it leans on, pools, breakers and endpoints, outlives it.
type Service struct {
	name     string
	live     *atomic.Pointer[choice] // never nil; replaced where endpoints are found
	feed     *feed                   // what replaces it, nil where they are configured
	breaker  *breaker.Breaker        // nil when off
	keyOf    func(x *exchange.Exchange, dst []byte) []byte
	passHost bool
	response time.Duration
	stall    time.Duration
	retries  retryRules
	budget   *retryBudget
	http2    bool // spoken to the endpoints
	rpc      bool // of gRPC
	sweeper  *Sweeper
	metrics  telemetry.ServiceMetrics
	sockets  *socketMetrics
}

// endpoint is one server of the service.
type endpoint struct {
	*balance.Endpoint
	name     string
	pool     *Pool
	breaker  *breaker.Breaker // nil when off
	basePath []byte
	host     []byte
	hostLine string // the rest of the request line, and host
	scheme   string
}

// Name returns the service's name in the configuration.
func (s *Service) Name() string { return s.name }

// Override replaces timeouts and retries of the service for a route. The copy
// shares everything that lives.
func (s *Service) Override(response time.Duration, r RetrySettings) *Service {
	o := *s
	o.response, o.retries = response, newRetryRules(r)
	return &o
}

// PassingHost is the service where the client's Host is passed on, for a route. The copy shares everything that lives.
func (s *Service) PassingHost() *Service {
	o := *s
	o.passHost = true
	return &o
}

const reasonClientGone = "client_gone"

// Rejections of this package.
var (
	rejectBreaker    = exchange.NewReject(fasthttp.StatusServiceUnavailable, "breaker_open", "the service is failing and gets no requests for now")
	rejectEndpoints  = exchange.NewReject(fasthttp.StatusServiceUnavailable, "no_healthy_endpoint", "no server of the service is available", exchange.Header("Retry-After", "1"))
	rejectOverload   = exchange.NewReject(fasthttp.StatusServiceUnavailable, "upstream_overload", "all connections to the service are in use", exchange.Header("Retry-After", "1"))
	rejectConnect    = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_connect", "the service could not be reached")
	rejectReset      = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_reset", "the service closed the connection before it answered")
	rejectMalformed  = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_malformed", "the service did not answer with valid HTTP")
	rejectTimeout    = exchange.NewReject(fasthttp.StatusGatewayTimeout, "upstream_timeout", "the service did not answer in time")
	rejectDialTime   = exchange.NewReject(fasthttp.StatusGatewayTimeout, "upstream_connect_timeout", "the service could not be reached in time")
	rejectTooLarge   = exchange.NewReject(fasthttp.StatusRequestEntityTooLarge, "body_too_large", "the request body is too large")
	rejectBodyCut    = exchange.NewReject(fasthttp.StatusBadRequest, "body_incomplete", "the request body could not be read to its end")
	rejectBodySlow   = exchange.NewReject(fasthttp.StatusRequestTimeout, "body_timeout", "the request body stalled")
	rejectClientGone = exchange.NewReject(499, reasonClientGone, "the client closed the connection")
)

func init() {
	rejectTooLarge.Close = true
	rejectBodyCut.Close = true
	rejectBodySlow.Close = true
	rejectClientGone.Close = true
}

// Forward sends the exchange's request to the service and puts the answer into
// its response. It returns a *exchange.Reject when there is none.
func (s *Service) Forward(x *exchange.Exchange) error {
	c := calls.Of(x)
	c.svc, c.x = s, x
	x.Service = s.name
	if err := c.prepare(); err != nil {
		return err
	}
	c.now = x.Clock.Now()
	var permit breaker.Permit
	if s.breaker != nil {
		var ok bool
		if permit, ok = s.breaker.Allow(c.now); !ok {
			return s.refuse(x, s.breaker)
		}
	}
	var verdict breaker.Outcome
	var err error
	if s.http2 {
		verdict, err = c.runStream()
	} else {
		verdict, err = c.run()
	}
	if s.breaker != nil {
		s.breaker.Report(c.now, permit, verdict)
	}
	return err
}

// prepare decides what the attempts have in common.
func (c *call) prepare() error {
	s, x := c.svc, c.x
	if s.http2 {
		if err := c.openStream(); err != nil {
			return err
		}
	} else {
		c.req.kinds, c.req.passHost = kindsOf(x.Fields), s.passHost
		c.req.upgrade = c.req.kinds.has(exchange.KindUpgrade) && isUpgrade(x)
		if n := x.Request.Header.ContentLength(); x.Body == nil && (n == 0 || n < -1) {
			// Without a body its absence is framed only where a body would be
			// expected (RFC 9110, section 8.6).
			c.req.body, c.req.framing = n == 0 && c.req.kinds.has(exchange.KindContentLength), Framing{}
		} else if err := c.takeBody(); err != nil {
			return c.rejectFor(err)
		}
	}
	if s.keyOf != nil {
		c.key, c.spent = balance.HashBytes(s.keyOf(x, x.Scratch())), true
	}
	s.budget.deposit()
	return nil
}

// run makes the attempts. The verdict is the service's breaker's.
func (c *call) run() (breaker.Outcome, error) {
	x := c.x
	var tries tries
	for {
		if !c.chooseEndpoint() {
			if tries.last != nil {
				// The endpoints ran out while retrying: what failed first counts.
				return breaker.Failure, c.rejectFor(tries.last)
			}
			return breaker.Ignored, c.nowhere()
		}
		x.Attempts++
		x.UpstreamStatus = 0
		x.Endpoint = c.ep.name
		if x.Observer != nil {
			c.attemptBegins()
		}
		got, stale, err := c.attempt()
		c.latency = time.Duration(c.now - c.began)
		x.UpstreamTime += int64(c.latency)
		if err == nil {
			x.UpstreamStatus = c.res.status
			c.svc.metrics.UpstreamDuration.Observe(c.latency)
			if c.res.status < 500 || !c.retriesAnswer(&tries) {
				return c.settle()
			}
			continue
		}
		if again, verdict := c.retriesFailure(&tries, got, stale, err); !again {
			return verdict, c.rejectFor(err)
		}
	}
}

// tries is what run knows of the attempts that have failed.
type tries struct {
	retries, stale int
	last           error
}

// retriesAnswer reports whether the answer that has come is given up for a retry.
func (c *call) retriesAnswer(t *tries) bool {
	s := c.svc
	if !s.retries.status(c.res.status) || !c.replayable() || !c.mayRetry(t.retries) || !s.budget.withdraw() {
		return false
	}
	t.last = errRetriedStatus
	c.outcome = balance.ServerError
	c.abandon(breaker.Failure)
	t.retries++
	s.metrics.Retries.Inc()
	return true
}

// retriesFailure ends an attempt that has no answer and reports whether there is
// to be another one; else the verdict is that for the service's breaker.
func (c *call) retriesFailure(t *tries, got, stale bool, err error) (again bool, verdict breaker.Outcome) {
	s := c.svc
	c.attemptFails(err)
	if !isConnect(err) && !errors.Is(err, errNoConn) && !stale && !c.isClientFault(err) {
		// An attempt that failed waited too: without it a backend that
		// hangs would look quick.
		s.metrics.UpstreamDuration.Observe(c.latency)
	}
	switch {
	case stale && c.replayable() && t.stale < maxStale:
		// The backend had closed the idle connection: that is nobody's
		// failure, and a fresh connection is not a retry.
		t.stale++
		c.outcome = balance.Cancelled
		c.abandon(breaker.Ignored)
		return true, breaker.Ignored
	case c.isClientFault(err):
		c.outcome = balance.Cancelled
		c.abandon(breaker.Ignored)
		return false, breaker.Ignored
	}
	c.outcome = balance.Failure
	t.last = err
	again = !got && s.retries.failure(err) && (c.replayable() || isConnect(err)) && c.mayRetry(t.retries) && s.budget.withdraw()
	if errors.Is(err, errNoConn) {
		// The bound is the gateway's own: it says nothing about the backend.
		c.outcome = balance.Cancelled
		c.abandon(breaker.Ignored)
		return false, breaker.Ignored
	}
	c.abandon(breaker.Failure)
	if again {
		t.retries++
		s.metrics.Retries.Inc()
	}
	return again, breaker.Failure
}

// maxStale bounds how many closed idle connections one request may meet.
const maxStale = 3

// settle delivers the response that was read.
func (c *call) settle() (breaker.Outcome, error) {
	verdict := breaker.Success
	c.outcome = balance.Success
	if c.res.status >= 500 {
		verdict, c.outcome = breaker.Failure, balance.ServerError
	}
	c.report(verdict)
	if err := c.deliver(); err != nil {
		return c.undelivered(err)
	}
	return verdict, nil
}

// undelivered ends a call whose answer could not be delivered.
func (c *call) undelivered(err error) (breaker.Outcome, error) {
	if c.conn != nil {
		err = c.conn.cause(err)
	}
	c.attemptFails(err)
	c.outcome = balance.Failure
	c.stopUpload()
	c.endCall(false)
	if c.isClientFault(err) {
		return breaker.Ignored, c.rejectFor(err)
	}
	return breaker.Failure, c.rejectFor(err)
}

// chooseEndpoint picks an endpoint and asks its breaker. A retry goes to an
// endpoint that was not tried yet while there is one; on the same endpoint the
// attempts of one request count as one for its breaker.
func (c *call) chooseEndpoint() bool {
	s := c.svc
	from := s.live.Load()
	for range len(from.endpoints) + 1 {
		i := from.set.PickIndex(c.now, c.key, &c.tried)
		if i < 0 {
			return false
		}
		ep := from.endpoints[i]
		if ep.breaker != nil && c.permitOf != ep {
			if c.permitOf != nil || c.failed {
				c.releasePermit(breaker.Ignored)
			}
			p, ok := ep.breaker.Allow(c.now)
			if !ok {
				c.leave(ep)
				continue
			}
			c.permit, c.permitOf = p, ep
		}
		c.from, c.ep, c.began = from, ep, c.now
		from.set.Begin(ep.Endpoint)
		return true
	}
	return false
}

// leave has a further attempt go elsewhere, if it can.
func (c *call) leave(ep *endpoint) {
	c.tried.Add(ep.Endpoint)
	c.spent = true
}

// report tells the endpoint's breaker how its attempts ended.
func (c *call) report(o breaker.Outcome) {
	if c.permitOf != nil {
		c.permitOf.breaker.Report(c.now, c.permit, o)
		c.permitOf = nil
	}
}

// releasePermit settles the permit of an endpoint that a retry leaves behind.
func (c *call) releasePermit(o breaker.Outcome) {
	if c.failed {
		o = breaker.Failure
	}
	c.report(o)
	c.failed = false
}

// abandon leaves the endpoint after an attempt that is not the answer.
func (c *call) abandon(o breaker.Outcome) {
	c.failed = o == breaker.Failure
	c.leave(c.ep)
	c.endCall(false)
	c.leaveEndpoint()
	// The response keeps what was read into it: the next head replaces that, and
	// so does a rejection. A reset would take the engine's settings with it.
	c.res.reset()
}

// mayRetry reports whether another attempt is allowed by number and kind of request.
func (c *call) mayRetry(done int) bool {
	return done < c.svc.retries.attempts && !c.x.Aborted.Load() && (c.x.Until == 0 || c.now < c.x.Until)
}

// replayable reports whether the request may be sent again although the
// backend may have acted on it: idempotent methods (RFC 9110, section 9.2.2)
// with a body that is held.
func (c *call) replayable() bool {
	if c.streamed || c.req.upgrade {
		return false
	}
	return c.x.Replayable || isIdempotent(c.x.Method())
}

func isIdempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

func (c *call) isClientFault(err error) bool {
	return isReject(err) || err == exchange.ErrClientGone || err == errBodyCut || err == errBodySlow || err == errBodyTooLarge || c.x.Aborted.Load()
}

// isReject reports whether what read the request body has said itself how to refuse it.
func isReject(err error) bool {
	_, ok := err.(*exchange.Reject)
	return ok
}

// nowhere says why no endpoint could be chosen.
func (c *call) nowhere() error {
	now := c.x.Clock.Now()
	var soonest *breaker.Breaker
	for _, ep := range c.svc.live.Load().endpoints {
		if ep.breaker != nil && ep.breaker.State(now) != breaker.Closed {
			if soonest == nil || ep.breaker.RetryAfter(now) < soonest.RetryAfter(now) {
				soonest = ep.breaker
			}
		}
	}
	if soonest != nil {
		return c.svc.refuse(c.x, soonest)
	}
	return rejectEndpoints
}

// refuse rejects because of an open breaker, with the time until it probes.
func (s *Service) refuse(x *exchange.Exchange, b *breaker.Breaker) error {
	seconds := int64((b.RetryAfter(x.Clock.Now()) + time.Second - 1) / time.Second)
	x.ToClient.Set("Retry-After", x.Keep(strconv.AppendInt(x.Scratch(), max(seconds, 1), 10)))
	return rejectBreaker
}

// rejectFor turns the failure of the last attempt into the client's answer.
func (c *call) rejectFor(err error) error {
	c.releasePermit(breaker.Ignored)
	return c.rejection(err)
}

func (c *call) rejection(err error) *exchange.Reject {
	switch {
	case err == exchange.ErrClientGone || c.x.Aborted.Load():
		return rejectClientGone
	case isReject(err):
		return err.(*exchange.Reject)
	case err == errBodyTooLarge:
		return rejectTooLarge
	case err == errBodyCut:
		return rejectBodyCut
	case err == errBodySlow:
		return rejectBodySlow
	case err == errDeadline:
		return rejectDeadline
	case err == errResponseTimeout || err == errStalled:
		return rejectTimeout
	case errors.Is(err, errNoConn):
		return rejectOverload
	}
	var ce *connectError
	if errors.As(err, &ce) {
		if ce.Timeout() {
			return rejectDialTime
		}
		return rejectConnect
	}
	switch {
	case isDisconnect(err) || h2.Unsent(err):
		return rejectReset
	case err == errRetriedStatus:
		return rejectEndpoints
	}
	return rejectMalformed
}

// errRetriedStatus stands for an answer that was given up for a retry.
var errRetriedStatus = errors.New("the service answered with an error")

func isConnect(err error) bool { return errors.Is(err, errConnect) }

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// isUpgrade reports whether the client asks to switch protocols: Connection
// names upgrade, and there is exactly one Upgrade field. What would carry
// further requests, past the gateway's eyes, is not asked for: HTTP/2 in the
// clear, HTTP of another version, and TLS with whatever is in it.
func isUpgrade(x *exchange.Exchange) bool {
	upgrades, named := 0, false
	for i := range x.Fields {
		f := &x.Fields[i]
		switch f.Kind {
		case exchange.KindUpgrade:
			upgrades++
			rest := f.Value
			for len(rest) > 0 {
				var token []byte
				token, rest = nextToken(rest)
				if carriesRequests(token) {
					return false
				}
			}
		case exchange.KindConnection:
			rest := f.Value
			for len(rest) > 0 {
				var token []byte
				token, rest = nextToken(rest)
				named = named || exchange.EqualFold(token, "upgrade")
			}
		}
	}
	return upgrades == 1 && named && x.Request.Header.IsHTTP11()
}

func carriesRequests(protocol []byte) bool {
	name, _, _ := bytes.Cut(protocol, slash)
	return exchange.EqualFold(name, "h2c") || exchange.EqualFold(name, "http") || exchange.EqualFold(name, "tls")
}

var slash = []byte("/")

// RetrySettings are the rules of repeating.
type RetrySettings struct {
	// Attempts after the first; 0 for none.
	Attempts int
	// When lists connect_failure, reset, timeout, statuses of HTTP, and of gRPC by name.
	When []string
}

type retryRules struct {
	attempts                int
	connect, reset, timeout bool
	statuses                [100]bool // of the 5xx
	rpc                     [grpcwire.Codes]bool
}

func newRetryRules(r RetrySettings) retryRules {
	rules := retryRules{attempts: r.Attempts}
	for _, w := range r.When {
		switch w {
		case "connect_failure":
			rules.connect = true
		case "reset":
			rules.reset = true
		case "timeout":
			rules.timeout = true
		default:
			if n, err := strconv.Atoi(w); err == nil && n >= 500 && n <= 599 {
				rules.statuses[n-500] = true
			} else if code, ok := grpcwire.CodeNamed(w); ok {
				rules.rpc[code] = true
			}
		}
	}
	return rules
}

func (r *retryRules) status(code int) bool {
	return r.attempts > 0 && code >= 500 && code <= 599 && r.statuses[code-500]
}

func (r *retryRules) failure(err error) bool {
	switch {
	case isConnect(err):
		return r.connect
	case err == errResponseTimeout:
		return r.timeout
	case isDisconnect(err):
		return r.reset
	}
	return false
}

// retryBudget bounds retries to a share of the requests, with room for a few
// at low rates. It counts in thousandths of a retry.
type retryBudget struct {
	balance atomic.Int64
	share   atomic.Int64
}

const budgetRoom = 10_000 // ten retries

// newRetryBudget returns a full budget.
func newRetryBudget() *retryBudget {
	b := &retryBudget{}
	b.balance.Store(budgetRoom)
	return b
}

func (b *retryBudget) deposit() {
	if n := b.balance.Load(); n < budgetRoom {
		b.fill(n)
	}
}

func (b *retryBudget) fill(n int64) { b.balance.Add(min(b.share.Load(), budgetRoom-n)) }

func (b *retryBudget) withdraw() bool {
	for {
		n := b.balance.Load()
		if n < 1000 {
			return false
		}
		if b.balance.CompareAndSwap(n, n-1000) {
			return true
		}
	}
}
