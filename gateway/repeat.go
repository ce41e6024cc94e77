package gateway

import (
	"context"
	"sync"

	"sluice/gateway/exchange"
	"sluice/gateway/snapshot"
)

// maxRepeats bounds the requests that are repeated in the background at once.
const maxRepeats = 256

// repeats are the requests that go on without a client.
type repeats struct {
	mu    sync.Mutex
	n     int
	ended bool
	idle  chan struct{} // closed when ended and n is 0
}

func (r *repeats) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.n == maxRepeats {
		return false
	}
	r.n++
	return true
}

func (r *repeats) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n--; r.n == 0 && r.ended {
		close(r.idle)
	}
}

// end lets no more begin and waits for those that are under way.
func (r *repeats) end(ctx context.Context) {
	r.mu.Lock()
	if !r.ended {
		r.ended, r.idle = true, make(chan struct{})
		if r.n == 0 {
			close(r.idle)
		}
	}
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// repeat implements policy.World.Repeat.
func (g *Gateway) repeat(x *exchange.Exchange, prepare func(*exchange.Exchange)) bool {
	if !g.repeats.enter() {
		return false
	}
	c := snapshot.Repeat(g.pool, x)
	prepared := false
	defer func() {
		if !prepared { // a fault, which x ends with
			g.repeats.leave()
		}
	}()
	prepare(c)
	prepared = true
	go func() {
		defer g.repeats.leave()
		defer g.tell(c)
		defer func() { _ = c.Close() }()
		defer func() {
			if c.Response.IsBodyStream() { // a fault has left it
				_ = c.Response.CloseBodyStream()
			}
		}()
		defer g.tell(c)
		snapshot.Of(c).Finish(c)
	}()
	return true
}

// tell ends a fault in a request that nobody waits for. It is deferred.
func (g *Gateway) tell(c *exchange.Exchange) {
	if fault := recover(); fault != nil {
		_ = g.survive(c, fault)
	}
}
