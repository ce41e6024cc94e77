package snapshot

import (
	"io"

	"sluice/gateway/exchange"
)

// Repeat makes a copy of x, which a hook of its program has in hand, that Finish goes on with.
func Repeat(pool *exchange.Pool, x *exchange.Exchange) *exchange.Exchange {
	st := states.Of(x)
	c := pool.Repeat(x, repeated)
	of := states.Of(c)
	of.snapshot, of.route, of.program, of.metrics = st.snapshot, st.route, st.program, st.metrics
	return c
}

// Finish takes the copy through what lies behind the hook that made it, and reads its response to the end.
func (s *Snapshot) Finish(c *exchange.Exchange) {
	s.Answer(c, states.Of(c).program.Behind(c))
	if c.Response.IsBodyStream() {
		_, _ = io.Copy(io.Discard, c.Response.BodyStream())
		_ = c.Response.CloseBodyStream()
	}
}

// repeated ends a copy. It is no request of the route, so it is not counted as one.
func repeated(c *exchange.Exchange) {
	c.Ended = c.Clock.Now()
	states.Of(c).program.Done(c)
}
