// Package concurrency bounds how many requests are being served at the same time, by a number or by what the backends are found
// to take. It guarantees that the bound is never exceeded, that those who wait are served by priority and then in the order of
// their arrival, that a request of low priority is refused before one of high priority is, and that every slot is given back
// exactly once, whatever becomes of its request.
package concurrency

import (
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `concurrency`. A request beyond the bound waits in the queue; one that finds it full, or has
// waited for `queue_timeout`, gets 503 with Retry-After. A route with the action `health` is never bounded.
type Config struct {
	// Max is the number of requests that are served at the same time, from their arrival here to their last byte. With `adaptive` it is the most that the bound can become, 1000 by default.
	Max int `yaml:"max" min:"1" max:"1000000"`
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

var rejectOverload = exchange.NewReject(503, "overload", "too many requests are being served; try again later", exchange.Header("Retry-After", "1"))

// held is the slot that an exchange has.
type held struct{ limit *limit }

var slots = exchange.NewSlot[held]()

// limit is the bounds of one generation on a gate.
type limit struct {
	gate        *gate
	adaptive    bool
	least, most uint32
	queue       uint32
	timeout     time.Duration
	priority    *classifier
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	l := &limit{adaptive: c.Adaptive, least: uint32(c.Min), most: uint32(c.Max), queue: uint32(c.Queue), timeout: c.QueueTimeout}
	switch {
	case c.Max == 0 && !c.Adaptive:
		return policy.Hooks{}, policy.Wrong("max", "is missing; give the number of requests, or adaptive: true")
	case c.Max == 0:
		l.most = max(defaultMost, l.least)
	case c.Adaptive && c.Min > c.Max:
		return policy.Hooks{}, policy.Wrong("min", "%d is more than max, which is %d", c.Min, c.Max)
	}
	var err error
	if l.priority, err = newClassifier(b, &c.Priority); err != nil {
		return policy.Hooks{}, err
	}
	if b.RouteConfig != nil && b.RouteConfig.Health != nil {
		return policy.Hooks{}, nil
	}
	if !b.World.DryRun {
		if l.gate, err = policy.Living(b, "gate", newGate); err != nil {
			return policy.Hooks{}, err
		}
	}
	return policy.Hooks{Request: l.request, Done: done, Blocking: c.Queue > 0}, nil
}

// bound is what may be in flight for a request of this class to be let in.
func (l *limit) bound(at class) uint32 {
	if !l.adaptive {
		return l.priority.bound(at, l.most, l.most)
	}
	full, usual := l.gate.estimator.bounds(l.least, l.most)
	return l.priority.bound(at, full, usual)
}

func (l *limit) request(x *exchange.Exchange) error {
	g, at := l.gate, l.priority.classOf(x)
	if !g.enter(l.bound(at)) {
		switch w, entered := g.queue(l, at); {
		case entered:
		case w == nil:
			return rejectOverload
		default:
			if err := g.wait(x, w, l.timeout); err != nil {
				return err
			}
		}
	}
	slots.Of(x).limit = l
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
	h.limit = nil
	if l.adaptive {
		if took, counts := tookOf(x); counts {
			l.gate.estimator.sample(x.Clock.Now(), took, inFlight(l.gate.state.Load()), l.least, l.most)
		}
	}
	l.gate.leave()
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
