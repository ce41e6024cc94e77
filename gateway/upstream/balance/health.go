package balance

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Check are the settings of active health checks.
type Check struct {
	Interval  time.Duration // between the starts of two checks of an endpoint, ±10%; 0: 5 s
	Timeout   time.Duration // of one check; 0: 1 s
	Healthy   int           // passes in a row that bring an endpoint back; 0: 2
	Unhealthy int           // failures in a row that take it out; 0: 3

	// Probe asks one endpoint and must return soon after ctx is done. nil is a pass.
	Probe func(ctx context.Context, e *Endpoint) error

	// Changed hears of every change of an endpoint's health, with the last failure's cause when it went down, on the
	// checker's goroutine. May be nil.
	Changed func(e *Endpoint, up bool, cause error)

	// Now is the clock of Pick and Done.
	Now func() int64
}

// maxProbes bounds the checks of one Checker that run at a time: a start checks every endpoint at once.
const maxProbes = 64

// Checker checks endpoints of a service as long as it watches them, one goroutine each. An endpoint is healthy until
// the checks prove otherwise. The verdict lives in the Endpoint: it survives this Checker when a successor starts to
// watch the endpoint first, and is dropped when nobody watches any more, for then nobody could bring it back.
type Checker struct {
	check Check
	slots chan struct{}

	mu      sync.Mutex
	running bool
	closed  bool
	watched map[*Endpoint]context.CancelFunc // nil before Start
	done    sync.WaitGroup
}

// NewChecker returns a Checker that watches nothing and has not started.
func NewChecker(c Check) *Checker {
	if c.Interval <= 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout <= 0 {
		c.Timeout = time.Second
	}
	if c.Healthy <= 0 {
		c.Healthy = 2
	}
	if c.Unhealthy <= 0 {
		c.Unhealthy = 3
	}
	return &Checker{check: c, slots: make(chan struct{}, maxProbes), watched: make(map[*Endpoint]context.CancelFunc)}
}

// Watch makes endpoints the ones to check, before or after Start. Those watched already go on undisturbed, new ones
// are checked at once.
func (c *Checker) Watch(endpoints []*Endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	wanted := make(map[*Endpoint]bool, len(endpoints))
	for _, e := range endpoints {
		wanted[e] = true
		if _, ok := c.watched[e]; !ok {
			c.watched[e] = nil
			if c.running {
				c.start(e)
			}
		}
	}
	for e, cancel := range c.watched {
		if !wanted[e] {
			if cancel != nil {
				cancel()
			}
			delete(c.watched, e)
		}
	}
}

// Start begins to check.
func (c *Checker) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || c.closed {
		return
	}
	c.running = true
	for e := range c.watched {
		c.start(e)
	}
}

// Close ends all checks and returns when their goroutines are gone. A check that it interrupts counts for nothing.
func (c *Checker) Close() {
	c.mu.Lock()
	c.closed = true
	for _, cancel := range c.watched {
		if cancel != nil {
			cancel()
		}
	}
	clear(c.watched)
	c.mu.Unlock()
	c.done.Wait()
}

func (c *Checker) start(e *Endpoint) {
	ctx, cancel := context.WithCancel(context.Background())
	c.watched[e] = cancel
	e.health.Lock()
	e.health.watchers++
	e.health.Unlock()
	c.done.Go(func() {
		defer e.unwatch()
		c.watch(ctx, e)
	})
}

func (c *Checker) watch(ctx context.Context, e *Endpoint) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		next.Reset(c.check.Interval*9/10 + rand.N(c.check.Interval/5+1))
		select {
		case <-ctx.Done():
			return
		case c.slots <- struct{}{}:
		}
		probe, cancel := context.WithTimeout(ctx, c.check.Timeout)
		err := c.check.Probe(probe, e)
		cancel()
		<-c.slots
		if ctx.Err() != nil {
			return
		}
		if e.verdict(err == nil, &c.check) && c.check.Changed != nil {
			c.check.Changed(e, err == nil, err)
		}
	}
}

// verdict counts a check and tells whether it changed the endpoint's health.
func (e *Endpoint) verdict(pass bool, c *Check) (changed bool) {
	h := &e.health
	h.Lock()
	defer h.Unlock()
	down := e.state.Load()&stateUnhealthy != 0
	if !pass {
		h.fails, h.passes = h.fails+1, 0
		if down || h.fails < c.Unhealthy {
			return false
		}
		e.state.Or(stateUnhealthy)
		return true
	}
	h.passes, h.fails = h.passes+1, 0
	if !down || h.passes < c.Healthy {
		return false
	}
	e.since.Store(c.Now())
	e.state.And(^uint32(stateUnhealthy))
	return true
}

func (e *Endpoint) unwatch() {
	h := &e.health
	h.Lock()
	defer h.Unlock()
	if h.watchers--; h.watchers == 0 {
		h.passes, h.fails = 0, 0
		e.state.And(^uint32(stateUnhealthy))
	}
}
