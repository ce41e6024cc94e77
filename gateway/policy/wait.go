package policy

import (
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/exchange"
)

// Waiters are the requests that wait in a Blocking hook: no more than a bound, and none for a client that went away. The
// zero value has no bound.
type Waiters struct {
	// Max bounds the number of requests that wait; 0 is no bound.
	Max int64

	n      atomic.Int64
	timers sync.Pool
}

// goneEvery is how often a waiting request looks whether its client is still there.
const goneEvery = 500 * time.Millisecond

// ClientGone is what a hook returns whose client went away while it waited; x.Aborted is set. Nobody reads the answer: it is
// for logs and metrics.
var ClientGone = exchange.NewReject(499, "client_gone", "the client closed the connection")

// Enter takes one of the places; false means that none is free. Every Enter that succeeded needs a Leave.
func (w *Waiters) Enter() bool {
	if n := w.n.Add(1); w.Max > 0 && n > w.Max {
		w.n.Add(-1)
		return false
	}
	return true
}

// Leave gives the place back.
func (w *Waiters) Leave() { w.n.Add(-1) }

// Len is the number of requests that wait.
func (w *Waiters) Len() int64 { return w.n.Load() }

// Wait waits for d or until ready, which may be nil, has something to receive; it tells which. It ends early with ClientGone.
func (w *Waiters) Wait(x *exchange.Exchange, d time.Duration, ready <-chan struct{}) (received bool, err error) {
	t, _ := w.timers.Get().(*time.Timer)
	if t == nil {
		t = time.NewTimer(min(d, goneEvery))
	} else {
		t.Reset(min(d, goneEvery))
	}
	defer func() {
		t.Stop() // nothing is received from a stopped timer, so it can be used again
		w.timers.Put(t)
	}()
	for {
		select {
		case <-ready:
			return true, nil
		case <-t.C:
		}
		if d -= min(d, goneEvery); d == 0 {
			return false, nil
		}
		if x.Client != nil && x.Client.Gone() {
			x.Aborted.Store(true)
			return false, ClientGone
		}
		t.Reset(min(d, goneEvery))
	}
}

func init() { ClientGone.Close = true }
