package ratelimit

import (
	"time"

	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
)

// rejectUnavailable is for requests that can not be counted, where on_failure is deny.
var rejectUnavailable = exchange.NewReject(503, "limits_unavailable", "the limits of this request can not be looked up; try again later", exchange.Header("Retry-After", "1"))

// sharedWith makes the limits of a group those of all instances.
func (g *group) sharedWith(cs []limiter.Limit, strict bool) {
	windows := make([]cluster.Window, len(cs))
	for i, c := range cs {
		windows[i] = cluster.Window{Requests: c.Requests, Per: c.Per, Burst: c.Burst}
	}
	g.shared = cluster.NewLimits(g.key.Prefix, windows, g.cost, strict)
}

// minWait is the shortest pause of a delayed request, before it looks again whether there are tokens.
const minWait = time.Millisecond

// requestShared is request where the buckets are shared with other instances.
func (l *limit) requestShared(x *exchange.Exchange) error {
	var results [maxWindows]limiter.Result
	began := x.Clock.Now()
	for now := began; ; now = x.Clock.Now() {
		verdict := l.chargeShared(x, now, &results)
		switch verdict {
		case cluster.Unlimited:
			return nil
		case cluster.Unavailable:
			return rejectUnavailable
		case cluster.Passed:
			l.tell(x, results[:])
			l.countShared(x, now)
			return nil
		}
		wait, ok := l.mayWaitLonger(&results, time.Duration(now-began))
		if !ok {
			l.tell(x, results[:])
			return l.refuse(x, results[:])
		}
		if at := x.Deadline(); at != 0 && at-now < int64(wait) {
			return rejectDeadline
		}
		if !l.state.waiters.Enter() {
			l.tell(x, results[:])
			return l.refuse(x, results[:])
		}
		_, err := l.state.waiters.Wait(x, max(wait, minWait), nil)
		l.state.waiters.Leave()
		if err != nil {
			return err
		}
	}
}

// mayWaitLonger reports whether the windows that refuse are of groups whose requests wait, and will have tokens in time. What other instances take
// meanwhile is not known, so it may turn out to be longer.
func (l *limit) mayWaitLonger(results *[maxWindows]limiter.Result, waited time.Duration) (wait time.Duration, ok bool) {
	for i := range l.groups {
		g := &l.groups[i]
		if g.shadow {
			break
		}
		for j := range g.limits {
			r := &results[g.first+j]
			if r.Allowed {
				continue
			}
			if r.RetryAfter > g.maxDelay-waited {
				return 0, false
			}
			wait = max(wait, r.RetryAfter)
		}
	}
	return wait, true
}

// chargeShared debits all groups that refuse, or none. What is lent to this instance is looked at first; then those are asked that are counted in the
// store, in one go.
func (l *limit) chargeShared(x *exchange.Exchange, now int64, results *[maxWindows]limiter.Result) cluster.Verdict {
	groups := l.groups
	for len(groups) > 0 && groups[len(groups)-1].shadow {
		groups = groups[:len(groups)-1]
	}
	var key [policy.KeySize]byte
	several := len(groups) > 1
	strict := 0
	verdict := cluster.Passed
	for i := range groups {
		g := &groups[i]
		out := results[g.first : g.first+len(g.limits)]
		if l.cluster.Strict(g.shared) {
			strict++
			for j := range out {
				out[j] = limiter.Result{Allowed: true}
			}
		} else if several {
			if v := l.cluster.Peek(now, g.key.Append(key[:0], x), g.shared, out); v > verdict {
				verdict = v
			}
		}
	}
	if verdict != cluster.Passed && verdict != cluster.Unlimited {
		return verdict
	}
	for i := range groups {
		g := &groups[i]
		if l.cluster.Strict(g.shared) {
			continue
		}
		v := l.cluster.Take(now, g.key.Append(key[:0], x), g.shared, results[g.first:g.first+len(g.limits)])
		if v == cluster.Refused || v == cluster.Unavailable {
			l.returnLent(x, groups[:i])
			return v
		}
		verdict = max(verdict, v)
	}
	if strict == 0 {
		return verdict
	}
	v := l.takeStrict(x, now, groups, strict, results)
	if v == cluster.Refused || v == cluster.Unavailable {
		l.returnLent(x, groups)
	}
	return max(verdict, v)
}

func (l *limit) takeStrict(x *exchange.Exchange, now int64, groups []group, n int, results *[maxWindows]limiter.Result) cluster.Verdict {
	// What others get to see does not lie on this request's stack.
	all := new([maxWindows]limiter.Result)
	charges := make([]cluster.Charge, 0, n)
	for i := range groups {
		g := &groups[i]
		if l.cluster.Strict(g.shared) && len(charges) < n {
			charges = append(charges, cluster.Charge{Key: g.key.Append(nil, x), Limits: g.shared, Out: all[g.first : g.first+len(g.limits)]})
		}
	}
	verdict := l.cluster.TakeStrict(now, charges)
	for i := range groups {
		if g := &groups[i]; l.cluster.Strict(g.shared) {
			copy(results[g.first:g.first+len(g.limits)], all[g.first:])
		}
	}
	return verdict
}

func (l *limit) returnLent(x *exchange.Exchange, groups []group) {
	var key [policy.KeySize]byte
	for i := range groups {
		if g := &groups[i]; !l.cluster.Strict(g.shared) {
			l.cluster.Return(g.key.Append(key[:0], x), g.shared)
		}
	}
}

// countShared charges the shadows, without waiting.
func (l *limit) countShared(x *exchange.Exchange, now int64) {
	var key [policy.KeySize]byte
	var out [limiter.MaxWindows]limiter.Result
	for i := len(l.groups) - 1; i >= 0 && l.groups[i].shadow; i-- {
		g := &l.groups[i]
		if l.cluster.Strict(g.shared) {
			l.cluster.CountStrict(now, g.key.Append(nil, x), g.shared, l.limited.Inc)
		} else if l.cluster.Take(now, g.key.Append(key[:0], x), g.shared, out[:]) == cluster.Refused {
			l.limited.Inc()
		}
	}
}

// requestShared is request of windows by the clock that are shared with other instances.
func (f *fixed) requestShared(x *exchange.Exchange) error {
	var key [policy.KeySize]byte
	var out [cluster.MaxWindows]limiter.Result
	now := x.Clock.Now()
	var verdict cluster.Verdict
	if f.cluster.Strict(f.shared) {
		all := make([]limiter.Result, f.shared.Len())
		verdict = f.cluster.TakeStrict(now, []cluster.Charge{{Key: f.key.Append(nil, x), Limits: f.shared, Out: all}})
		copy(out[:], all)
	} else {
		verdict = f.cluster.Take(now, f.key.Append(key[:0], x), f.shared, out[:])
	}
	switch verdict {
	case cluster.Unlimited:
		return nil
	case cluster.Unavailable:
		return rejectUnavailable
	}
	var remaining [maxWindows]int64
	for i := range f.limits {
		remaining[i] = out[i].Remaining
	}
	return f.answer(x, x.Arrived.Unix(), remaining[:len(f.limits)], verdict == cluster.Passed)
}
