package idempotency

import (
	"strconv"
	"time"

	"sluice/gateway/exchange"
)

// state is what the policy knows of one exchange.
type state struct {
	// Made once for the pooled exchange that they belong to.
	digest digest
	buf    []byte

	turn
}

// turn is the part of the state that each exchange begins without.
type turn struct {
	key         Key
	fingerprint Fingerprint
	claim       Claim
	edits       []exchange.HeaderEdit // those of x.ToClient that every answer gets anew
}

var states = exchange.NewSlot[state]()

const maxKept = 4 << 10 // bytes of a buffer that stay with an idle exchange

// Reset makes the state ready for the next exchange.
func (st *state) Reset() {
	if cap(st.buf) > maxKept {
		st.buf = nil
	}
	clear(st.edits)
	st.turn = turn{edits: st.edits[:0]}
}

// request lets the first request with a key pass, and answers the others.
func (g *guard) request(x *exchange.Exchange) error {
	if !g.covers(x.Method()) || x.HasField(exchange.KindUpgrade) {
		return nil
	}
	value, n := g.field(x)
	if n == 0 {
		if g.required {
			g.counts.missing.Inc()
			return g.missing
		}
		return nil
	}
	st := states.Of(x)
	var decoded [maxKey + 1]byte
	key, ok := parseKey(decoded[:0], value)
	if !ok || n > 1 {
		g.counts.malformed.Inc()
		return g.malformed
	}
	body, err := g.body(x)
	if err != nil {
		return err
	}
	g.keyOf(st, x, key)
	g.fingerprintOf(st, x, body)
	return g.begin(st, x)
}

func (g *guard) covers(method []byte) bool {
	for _, m := range g.methods {
		if string(method) == m {
			return true
		}
	}
	return false
}

// field returns the first value of the header and how many there are.
func (g *guard) field(x *exchange.Exchange) (value []byte, n int) {
	for i := range x.Fields {
		if f := &x.Fields[i]; exchange.EqualFold(f.Name, g.header) {
			if n++; n == 1 {
				value = f.Value
			}
		}
	}
	return value, n
}

// body holds the body to its end, so that nothing is claimed before the request is complete.
func (g *guard) body(x *exchange.Exchange) ([]byte, error) {
	if x.Request.Header.ContentLength() > g.maxBody {
		g.counts.tooLarge.Inc()
		return nil, g.tooLarge
	}
	body, whole, err := x.HoldBody(g.maxBody)
	switch {
	case err != nil:
		return nil, err
	case !whole:
		g.counts.tooLarge.Inc()
		return nil, g.tooLarge
	}
	if body != nil && len(x.Request.Header.PeekTrailerKeys()) == 0 {
		x.Body = body // can be sent again, whatever its size
	}
	return body, nil
}

// begin claims the key or finds out what has become of it.
func (g *guard) begin(st *state, x *exchange.Exchange) error {
	began := x.Clock.Now()
	for {
		now := x.Clock.Now()
		f := g.store.Begin(st.key, st.fingerprint, now, g.maxSize)
		switch f.Outcome {
		case Claimed:
			g.counts.first.Inc()
			st.claim = f.Claim
			st.edits = append(st.edits, x.ToClient.List()...)
			x.Replayable = x.Replayable || g.retry
			x.OutlivesClient = true
			return nil
		case Answered:
			g.counts.replayed.Inc()
			x.Reply = f.Answer.Reply
			x.ToClient.Add("Idempotent-Replayed", yes)
			return exchange.Replied
		case Lost:
			g.counts.lost.Inc()
			return g.lost
		case Reused:
			g.counts.reused.Inc()
			return g.reused
		case Unguarded:
			g.counts.unguarded.Inc()
			return nil
		case Unavailable:
			g.counts.unavailable.Inc()
			return g.unavailable
		case Full:
			g.counts.full.Inc()
			x.ToClient.Set("Retry-After", x.Keep(strconv.AppendInt(x.Scratch(), seconds(f.FreeIn), 10)))
			return g.full
		}
		left := g.patience - (now - began)
		if !g.wait || left <= 0 || !g.waiters.Enter() {
			g.counts.inFlight.Inc()
			return g.inFlight
		}
		if err := g.await(x, left, f.Settled); err != nil {
			return err
		}
	}
}

var yes = []byte("true")

// pollEvery is how often a store is asked that can not tell when a key is settled.
const pollEvery = 100 * time.Millisecond

func (g *guard) await(x *exchange.Exchange, left int64, settled <-chan struct{}) error {
	defer g.waiters.Leave()
	d := time.Duration(left)
	if settled == nil {
		d = min(d, pollEvery)
	}
	received, err := g.waiters.Wait(x, d, settled)
	switch {
	case err != nil:
		return err
	case received || settled == nil:
		return nil
	}
	g.counts.inFlight.Inc()
	return g.inFlight
}
