package graphql

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/upstream"
)

// call is one request to a service on behalf of a client's.
type call struct {
	service *upstream.Service
	method  string
	path    string // decoded
	query   string // raw
	body    []byte // nil without
	safe    bool   // may be sent again whatever its method

	outcome
	ended bool
}

// outcome is what came of a call.
type outcome struct {
	status int
	value  any
	size   int
	err    *gqlError
	reject *exchange.Reject // the gateway's own answer in the place of the service's
	gone   bool             // the client went away
	tries  int
}

// identity tells calls apart.
func (c *call) identity() string {
	return c.service.Name() + "\x00" + c.method + "\x00" + c.path + "\x00" + c.query + "\x00" + string(c.body)
}

// watcher stands for the client's connection in the calls made for it. It outlives the client's exchange with those calls
// that were given up at the deadline.
type watcher struct {
	client exchange.ClientConn
	over   atomic.Bool
}

// Gone implements exchange.ClientConn: nobody waits any more.
func (w *watcher) Gone() bool { return w.over.Load() || w.client != nil && w.client.Gone() }

// InterruptRead implements exchange.ClientConn; the bodies of calls are held.
func (w *watcher) InterruptRead() {}

// Interim implements exchange.ClientConn; what a service says in between is not the client's.
func (w *watcher) Interim([]byte) {}

// caller makes calls for one client's request, one after the other or several at once, within its budget.
type caller struct {
	x        *exchange.Exchange
	pool     *exchange.Pool
	budget   *budget
	watcher  *watcher
	deadline *time.Timer
	until    int64 // what the client says, on the exchange's clock; 0 without
	late     bool
	made     int
	size     int
}

// newCaller begins the time that a request has: the configured, or what its client has left.
func newCaller(x *exchange.Exchange, pool *exchange.Pool, b *budget) *caller {
	c := &caller{x: x, pool: pool, budget: b, watcher: &watcher{client: x.Client}, until: x.Deadline()}
	left := b.timeout
	if c.until != 0 {
		left = min(left, max(time.Duration(c.until-x.Clock.Now()), 0))
	}
	c.deadline = time.NewTimer(left)
	return c
}

// close ends what is still under way.
func (c *caller) close() {
	c.deadline.Stop()
	c.watcher.over.Store(true)
}

// Errors of calls that did not give a value.
var (
	errTimeout  = coded("the request took too long", "timeout")
	errCalls    = coded("the request needs more calls to services than it may make", "too_many_calls")
	errTooLarge = coded("the service's answer is too large", "answer_too_large")
	errNoJSON   = coded("the service did not answer with valid JSON", "answer_malformed")
	errInternal = coded("the gateway could not handle this part of the request", "internal_error")
)

// run makes the calls, at most budget.parallel of them at once, and returns when all are done or the deadline has passed. A
// call that is given up then goes on with an exchange of its own, and ends as those do whose client has gone.
func (c *caller) run(calls []*call) {
	type numbered struct {
		i int
		o outcome
	}
	began := c.x.Clock.Now()
	done := make(chan numbered, len(calls))
	next, under := 0, 0
	for next < len(calls) && !c.late || under > 0 {
		for ; next < len(calls) && under < c.budget.parallel; next++ {
			if c.made >= c.budget.calls {
				calls[next].err, calls[next].ended = &errCalls, true
				continue
			}
			c.made++
			under++
			i, service, child := next, calls[next].service, c.child(calls[next])
			go func() { done <- numbered{i, c.budget.carry(service, child)} }()
		}
		if under == 0 {
			break
		}
		select {
		case d := <-done:
			under--
			calls[d.i].outcome, calls[d.i].ended = d.o, true
			c.settle(calls[d.i])
		case <-c.deadline.C:
			c.late, under = true, 0
			c.watcher.over.Store(true)
		}
	}
	for _, given := range calls {
		if !given.ended {
			given.err, given.ended = &errTimeout, true
		}
	}
	c.x.UpstreamTime += c.x.Clock.Now() - began
}

// settle takes account of a call that has ended.
func (c *caller) settle(done *call) {
	c.x.Attempts += done.tries
	if done.gone {
		c.x.Aborted.Store(true)
	}
	if c.size += done.size; c.size > 8*c.budget.answer {
		done.value, done.err = nil, &errTooLarge
	}
}

// child makes the exchange of a call. It shares nothing with the client's that ends with it.
func (c *caller) child(of *call) *exchange.Exchange {
	x := c.x
	req, res := new(fasthttp.Request), new(fasthttp.Response)
	req.Header.SetMethod(of.method)
	req.Header.SetHostBytes(x.Request.Header.Host())
	exchange.Undated(&res.Header)
	res.Header.DisableNormalizing()
	child := c.pool.Get(req, res, func(*exchange.Exchange) {})
	for i := range x.Fields {
		if f := &x.Fields[i]; passes(f) {
			child.Fields = append(child.Fields, exchange.Field{Name: child.Copy(f.Name), Value: child.Copy(f.Value), Kind: f.Kind})
		}
	}
	child.Fields = append(child.Fields, acceptField, identityField)
	if of.body != nil {
		child.Fields = append(child.Fields, contentField)
		child.Body = of.body
	}
	child.Path, child.Host, child.Scheme = []byte(of.path), child.Copy(x.Host), x.Scheme
	child.UpstreamPath = child.Path
	child.SetUpstreamQuery([]byte(of.query))
	child.ForwardedHost, child.ForwardedPort = child.Copy(x.ForwardedHost), child.Copy(x.ForwardedPort)
	child.ClientAddr, child.PeerAddr, child.TrustedPeer = x.ClientAddr, x.PeerAddr, x.TrustedPeer
	child.Listener, child.TLS, child.ConnID = x.Listener, x.TLS, x.ConnID
	child.Client, child.Route = c.watcher, x.Route
	child.Identity, child.Tenant = x.Identity, x.Tenant
	child.Identity.Subject, child.Identity.Claims = child.Copy(x.Identity.Subject), nil
	child.RequestID = child.Copy(x.RequestID)
	for _, e := range x.ToBackend.List() {
		value := child.Copy(e.Value)
		switch e.Op {
		case exchange.EditSet:
			child.ToBackend.Set(e.Name, value)
		case exchange.EditAdd:
			child.ToBackend.Add(e.Name, value)
		case exchange.EditRemove:
			child.ToBackend.Remove(e.Name)
		}
	}
	if c.until != 0 {
		left := max(time.Duration(c.until-x.Clock.Now()), 0)
		child.ToBackend.Set(exchange.DeadlineHeader, strconv.AppendFloat(nil, left.Seconds(), 'f', 3, 64))
	}
	child.Replayable = of.safe
	return child
}

// Header fields of calls: what services answer with has to be JSON, as it is.
var (
	acceptField   = exchange.Field{Name: []byte("Accept"), Value: []byte(mediaJSON)}
	identityField = exchange.Field{Name: []byte("Accept-Encoding"), Value: []byte("identity")}
	contentField  = exchange.Field{Name: []byte("Content-Type"), Value: []byte(mediaJSON)}
)

// passes tells whether a field of the client's request goes with calls. A key that tells its request from others tells nothing of them.
func passes(f *exchange.Field) bool {
	return action.GoesOn(f) && !exchange.SameField(f.Name, "Idempotency-Key")
}

// carry makes one call and reads its answer. It runs on a goroutine of its own.
func (b *budget) carry(service *upstream.Service, x *exchange.Exchange) (o outcome) {
	defer func() {
		if fault := recover(); fault != nil {
			// The exchange is in no state to be used again.
			b.faults.Log(slog.LevelError, "panic", "a call of a GraphQL request met a fault of the gateway; please report it",
				"service", service.Name(), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			o = outcome{err: &errInternal}
			return
		}
		_ = x.Close()
	}()
	err := service.Forward(x)
	o.tries = x.Attempts
	o.gone = x.Aborted.Load()
	if err != nil {
		return o.failed(err)
	}
	o.status = x.Response.StatusCode()
	body, whole, err := x.HoldResponse(b.answer)
	switch {
	case err != nil:
		return o.failed(err)
	case !whole:
		o.err = &errTooLarge
		return o
	}
	if o.size = len(body); o.size == 0 {
		return o
	}
	if o.value, err = decodeJSON(body); err != nil && o.status < 300 {
		o.err = &errNoJSON
	}
	return o
}

// failed turns the gateway's own answer into an error.
func (o outcome) failed(err error) outcome {
	o.err = &errInternal
	if r, ok := err.(*exchange.Reject); ok {
		e := coded(r.Detail, r.Reason)
		o.err, o.reject = &e, r
	}
	return o
}
