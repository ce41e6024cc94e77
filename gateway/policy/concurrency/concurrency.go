// Package concurrency bounds how many requests are being served at the same time, by a number or by what the backends are found
// to take. It guarantees that the bound is never exceeded; that those who wait are served by priority, then fairly between tenants, then in
// the order of their arrival; that a request of low priority is refused before one of high priority is; that none is served whose
// deadline has passed; and that every slot is given back exactly once, whatever becomes of its request.
package concurrency

import (
	"cmp"
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `concurrency`. A request beyond the bound waits in the queue; one that finds it full, or has
// waited for `queue_timeout`, gets 503 with Retry-After, or 429 where the bound is its own by `by`. A route with the action `health` is never bounded.
//
// Where tenants share a bound, each uses at most its `concurrency_share` of it. Slots that become free go to those who wait in proportion to these
// shares, and of a full queue a tenant that has more than its part of the places loses its youngest to one that has less; all that within a class of `priority`.
//
// A request says until when it has a use for the answer by `X-Request-Deadline`, a time of RFC 3339 or the seconds that are left, or by `grpc-timeout`. One whose
// deadline has passed, or passes in the queue, gets 504 at once and is not sent to a backend. A deadline that can not be read is none.
type Config struct {
	// Max is the number of requests that are served at the same time, from their arrival here to their last byte. With `adaptive` it is the most that the bound can become, 1000 by default.
	Max int `yaml:"max" min:"1" max:"1000000"`
	// By says whose requests are bounded together: `global` for all under this block, `route`, `consumer` (the consumer, else the authenticated subject, else the client address), `tenant` (without a tenant the client address), `ip` (IPv6 by its /64), `header:NAME` or `claim:NAME` (without that header or claim the client address). Default: `global`; in the block of a consumer `consumer`, in that of a tenant `tenant`, and in a plan whichever of the two takes it.
	By string `yaml:"by"`
	// Queue is the number of requests that may wait.
	Queue int `yaml:"queue" default:"0" min:"0" max:"1000000"`
	// QueueTimeout is how long a request waits at most.
	QueueTimeout config.Duration `yaml:"queue_timeout" default:"1s" min:"1ms" max:"10m"`
	// Adaptive finds the bound from the time until backends answer: it grows while that is within a quarter of what it is when they are not busy, and shrinks by as much as it is more. It begins at 16. What an answer takes when backends are not busy is measured again every second at first, and every 32 seconds once it stays the same, with half of the bound for at least 20 answers; requests of high priority keep all of it.
	Adaptive bool `yaml:"adaptive"`
	// Min is the least that an adaptive bound can become.
	Min int `yaml:"min" default:"2" min:"1" max:"1000000"`
	// Priority says which requests are refused last and first. Default: all are equal.
	Priority Priority `yaml:"priority"`
}

// Priority tells requests of high, normal and low priority apart. Those of high priority may use the whole bound, normal ones all but a tenth and low ones all but two tenths, with at least 5 slots for a tenth, as long as that leaves normal requests half and low ones a quarter. In the queue the higher go first, and find a place by sending the youngest of the lowest away.
type Priority struct {
	// By says what the values below are: names of routes (`route`), of consumers (`consumer`) or of their groups (`group`), or the values of a header (`header:NAME`, which any client can set) or a claim (`claim:NAME`). What is neither high nor low is normal.
	By string `yaml:"by"`
	// High priority have requests with these values.
	High []string `yaml:"high"`
	// Low priority have requests with these values.
	Low []string `yaml:"low"`
}

// defaultMost is the most that an adaptive bound can become unless max says so.
const defaultMost = 1000

// Definition is the policy `concurrency`.
var Definition = policy.Define("concurrency", policy.Limit, build)

var (
	rejectOverload = exchange.NewReject(503, "overload", "too many requests are being served; try again later", exchange.Header("Retry-After", "1"))
	rejectOwn      = exchange.NewReject(429, "concurrency_limited", "too many of your requests are being served; try again later", exchange.Header("Retry-After", "1"))
	rejectDeadline = exchange.NewReject(504, "deadline_exceeded", "the deadline of the request passed before its turn came")
)

// held is the slot that an exchange has.
type held struct {
	limit *limit
	gate  *gate
	lane  *lane
	keyed *keyedGate // of limits that have a gate for each key
}

var slots = exchange.NewSlot[held]()

// limit is the bounds of one generation on a gate.
type limit struct {
	gate        *gate  // the one gate of all, or nil
	gates       *gates // one for each key
	key         policy.Key
	lanes       []tenantLane // by the tenant's number; nil where tenants do not share the gate
	refusal     *exchange.Reject
	adaptive    bool
	least, most uint32
	queue       uint32
	timeout     time.Duration
	priority    *classifier
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	l := &limit{adaptive: c.Adaptive, least: uint32(c.Min), most: uint32(c.Max), queue: uint32(c.Queue), timeout: c.QueueTimeout, refusal: rejectOverload}
	switch {
	case c.Max == 0 && !c.Adaptive:
		return policy.Hooks{}, policy.Wrong("max", "is missing; give the number of requests, or adaptive: true")
	case c.Max == 0:
		l.most = max(defaultMost, l.least)
	case c.Adaptive && c.Min > c.Max:
		return policy.Hooks{}, policy.Wrong("min", "%d is more than max, which is %d", c.Min, c.Max)
	}
	by, err := policy.ParseBy(cmp.Or(c.By, b.Taker, "global"))
	if err != nil {
		return policy.Hooks{}, policy.Wrong("by", "%v", err)
	}
	l.key = b.Key(by, "")
	if !l.key.Constant() {
		l.refusal = rejectOwn
		if c.Adaptive {
			return policy.Hooks{}, policy.Wrong("adaptive", "finds what backends take from all requests together; a bound by %s needs a number: max", by)
		}
	}
	if l.priority, err = newClassifier(b, &c.Priority); err != nil {
		return policy.Hooks{}, err
	}
	if b.RouteConfig != nil && b.RouteConfig.Health != nil {
		return policy.Hooks{}, nil
	}
	if !b.World.DryRun {
		if err := l.open(b); err != nil {
			return policy.Hooks{}, err
		}
	}
	return policy.Hooks{Request: l.request, Done: done, Blocking: c.Queue > 0}, nil
}

// open takes up the gates, with whoever is at them.
func (l *limit) open(b *policy.Build) (err error) {
	if !l.key.Constant() {
		l.gates, err = policy.Living(b, "gates", newGates)
		return err
	}
	name := "gate"
	if l.key.By != policy.ByGlobal {
		name += "/" + b.Route.Name
	}
	if l.gate, err = policy.Living(b, name, newGate); err != nil {
		return err
	}
	// All routes under a block share the lanes, too.
	l.lanes, err = policy.Once(b.World, "concurrency/"+b.Scope+"/"+name, func() ([]tenantLane, error) { return l.gate.lanesOf(b.World), nil })
	return err
}

// bound is what may be in flight for a request of this class to be let in.
func (l *limit) bound(g *gate, at class) uint32 {
	if !l.adaptive {
		return l.priority.bound(at, l.most, l.most)
	}
	full, usual := g.estimator.bounds(l.least, l.most)
	return l.priority.bound(at, full, usual)
}

// full is what may be in flight in all.
func (l *limit) full(g *gate) uint32 {
	if !l.adaptive {
		return l.most
	}
	full, _ := g.estimator.bounds(l.least, l.most)
	return full
}

func (l *limit) request(x *exchange.Exchange) error {
	deadline := x.Deadline()
	if deadline != 0 && x.Clock.Now() >= deadline {
		return rejectDeadline
	}
	h := held{limit: l, gate: l.gate}
	if h.gate == nil {
		var key [policy.KeySize]byte
		h.keyed = l.gates.of(l.key.Append(key[:0], x))
		h.gate = h.keyed.gate
	}
	e := entrant{class: l.priority.classOf(x), lane: &h.gate.common, share: noShare}
	if l.lanes != nil && x.Tenant != nil {
		t := &l.lanes[x.Tenant.Index]
		e.lane, e.share = t.lane, t.of(l.full(h.gate))
	}
	h.lane = e.lane
	if !h.gate.enter(l.bound(h.gate, e.class), e) {
		if err := l.wait(x, h.gate, e, deadline); err != nil {
			if h.keyed != nil {
				h.keyed.release()
			}
			return err
		}
	}
	*slots.Of(x) = h
	return nil
}

// wait queues a request that finds no slot.
func (l *limit) wait(x *exchange.Exchange, g *gate, e entrant, deadline int64) error {
	w, entered := g.queue(l, e)
	switch {
	case entered:
		return nil
	case w == nil:
		return l.refusal
	}
	timeout, late := l.timeout, l.refusal
	if deadline != 0 {
		if left := time.Duration(deadline - x.Clock.Now()); left < timeout {
			timeout, late = max(left, 0), rejectDeadline
		}
	}
	if err := g.wait(x, w, timeout, late); err != nil {
		return err
	}
	if deadline != 0 && x.Clock.Now() >= deadline {
		g.leave(e.lane)
		return rejectDeadline
	}
	return nil
}

// done is called for every exchange that came this far, also for one that was refused.
func done(x *exchange.Exchange) {
	if !slots.Has(x) {
		return
	}
	h := slots.Of(x)
	l := h.limit
	if l == nil {
		return
	}
	g, ln, keyed := h.gate, h.lane, h.keyed
	*h = held{}
	if l.adaptive {
		if took, counts := tookOf(x); counts {
			g.estimator.sample(x.Clock.Now(), took, inFlight(g.state.Load()), l.least, l.most)
		}
	}
	g.leave(ln)
	if keyed != nil {
		keyed.release()
	}
}

// tookOf is how long the backend took to answer, 0 for an answer of the gateway itself. Failures do not count: they may be quicker than
// any answer, or are several tries; one that came of waiting too long does.
func tookOf(x *exchange.Exchange) (ns int64, counts bool) {
	switch {
	case x.Aborted.Load() || x.Attempts > 1:
		return 0, false
	case x.Attempts == 0:
		return 0, x.Reject == nil
	case x.Reject != nil:
		return x.UpstreamTime, x.Reject.Status == 504
	}
	return x.UpstreamTime, x.Response.StatusCode() < 500
}

// String tells operators where a gate stands.
func (g *gate) String() string {
	s := g.state.Load()
	text := strconv.Itoa(int(inFlight(s))) + " in flight, " + strconv.Itoa(int(waiting(s))) + " waiting"
	if full := g.estimator.full.Load(); full > 0 {
		text += ", bound found " + strconv.Itoa(int(full))
	}
	return text
}
