// Package concurrency bounds how many requests are being served at the same time. It guarantees that the bound is never exceeded,
// that those who wait are served in the order of their arrival, and that every slot is given back exactly once, whatever
// becomes of its request.
package concurrency

import (
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `concurrency`. A request beyond `max` waits in the queue; one that finds it full, or has waited
// for `queue_timeout`, gets 503 with Retry-After.
type Config struct {
	// Max is the number of requests that are served at the same time, from their arrival here to their last byte.
	Max int `yaml:"max" required:"true" min:"1" max:"1000000"`
	// Queue is the number of requests that may wait.
	Queue int `yaml:"queue" default:"0" min:"0" max:"1000000"`
	// QueueTimeout is how long a request waits at most.
	QueueTimeout config.Duration `yaml:"queue_timeout" default:"1s" min:"1ms" max:"10m"`
	// Adaptive finds the bound from the latency. Not built yet.
	Adaptive bool `yaml:"adaptive"`
	// Priority decides who waits. Not built yet.
	Priority any `yaml:"priority"`
}

// Definition is the policy `concurrency`.
var Definition = policy.Define("concurrency", policy.Limit, build)

var rejectOverload = exchange.NewReject(503, "overload", "too many requests are being served; try again later", exchange.Header("Retry-After", "1"))

// held is the slot that an exchange has.
type held struct{ gate *gate }

var slots = exchange.NewSlot[held]()

type limit struct {
	gate       *gate
	max, queue uint32
	timeout    time.Duration
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	switch {
	case c.Adaptive:
		return policy.Hooks{}, policy.Wrong("adaptive", "is not built yet; give max")
	case c.Priority != nil:
		return policy.Hooks{}, policy.Wrong("priority", "is not built yet; leave it out")
	}
	l := &limit{max: uint32(c.Max), queue: uint32(c.Queue), timeout: c.QueueTimeout}
	if !b.World.DryRun {
		var err error
		if l.gate, err = policy.Living(b, "gate", newGate); err != nil {
			return policy.Hooks{}, err
		}
	}
	return policy.Hooks{Request: l.request, Done: done, Blocking: c.Queue > 0}, nil
}

func (l *limit) request(x *exchange.Exchange) error {
	g := l.gate
	if !g.enter(l.max) {
		switch w, entered := g.queue(l.max, l.queue); {
		case entered:
		case w == nil:
			return rejectOverload
		default:
			if err := g.wait(x, w, l.timeout); err != nil {
				return err
			}
		}
	}
	slots.Of(x).gate = g
	return nil
}

// done is called for every exchange that came this far, also for one that was refused.
func done(x *exchange.Exchange) {
	if !slots.Has(x) {
		return
	}
	if h := slots.Of(x); h.gate != nil {
		h.gate.leave()
		h.gate = nil
	}
}

// String tells operators where a gate stands.
func (g *gate) String() string {
	s := g.state.Load()
	return strconv.Itoa(int(inFlight(s))) + " in flight, " + strconv.Itoa(int(waiting(s))) + " waiting"
}
