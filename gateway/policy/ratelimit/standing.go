package ratelimit

import (
	"strings"

	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
)

// standing is how a consumer stands with the buckets that count by consumer. Of shadows nobody is told.
func (l *limit) standing(x *exchange.Exchange) (all []policy.LimitWindow) {
	for i := range l.groups {
		if g := &l.groups[i]; g.key.OfConsumer() && !g.shadow {
			all = append(all, g.standing(l.look(x, g))...)
		}
	}
	return all
}

// look is how a caller's bucket stands.
func (l *limit) look(x *exchange.Exchange, g *group) []limiter.Result {
	out := make([]limiter.Result, limiter.MaxWindows)
	key, now := g.key.Append(nil, x), x.Clock.Now()
	switch {
	case l.state == nil: // nothing was opened
		for i := range g.limits {
			out[i].Remaining = max(g.limits[i].Burst, g.limits[i].Requests)
		}
	case l.cluster != nil:
		lookShared(l.cluster, now, key, g.shared, out)
	default:
		l.state.store.Peek(now, key, g.limits, 0, out)
	}
	return out
}

func lookShared(c *cluster.Limiter, now int64, key []byte, limits *cluster.Limits, out []limiter.Result) {
	if c.Strict(limits) {
		c.LookStrict(now, cluster.Charge{Key: key, Limits: limits, Out: out[:limits.Len()]})
		return
	}
	c.Peek(now, key, limits, out)
}

// standing is how a consumer stands with windows of the clock.
func (f *fixed) standing(x *exchange.Exchange) (all []policy.LimitWindow) {
	if !f.key.OfConsumer() {
		return nil
	}
	unix := x.Arrived.Unix()
	remaining := make([]int64, len(f.limits))
	for i := range f.limits {
		remaining[i] = f.limits[i].Limit
	}
	switch key := f.key.Append(nil, x); {
	case f.cluster != nil:
		out := make([]limiter.Result, cluster.MaxWindows)
		lookShared(f.cluster, x.Clock.Now(), key, f.shared, out)
		for i := range remaining {
			remaining[i] = out[i].Remaining
		}
	case f.counters != nil:
		f.counters.Look(unix, key, f.limits, remaining)
	}
	for i, l := range f.limits {
		left := max(0, remaining[i])
		all = append(all, policy.LimitWindow{
			Name: strings.Trim(f.names[i], `"`), Requests: l.Limit, Per: float64(l.Window.Seconds()), Burst: l.Limit, Period: windowNames[l.Window],
			Used: l.Limit - left, Remaining: left, Reset: float64(max(1, l.Window.Seconds()-(unix-l.Window.Start(unix)))),
		})
	}
	return all
}
