package quota

import (
	"strings"

	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// standing is how a consumer stands with the windows that count by consumer.
func (q *quota) standing(x *exchange.Exchange) (all []policy.LimitWindow) {
	now := x.Arrived.Unix()
	for i := range q.windows {
		w := &q.windows[i]
		if !w.key.OfConsumer() {
			continue
		}
		p := w.calendar.at(now)
		key := short(w.key.Append(nil, x))
		all = append(all, w.show(p, now, w.requests, q.used(w, key, p, now)))
	}
	return all
}

// used is what of a period is used: of all instances where the store tells, else as far as this one knows.
func (q *quota) used(w *window, key []byte, p *period, now int64) int64 {
	if q.state == nil { // nothing was opened
		return 0
	}
	owed := int64(0)
	if q.shared != nil {
		q.state.with(w, key, p, false, func(c *count) { owed = c.owed }) // what was lost is counted there, or will be
		look := []cluster.QuotaCharge{{Key: key, Start: p.start, End: p.end, Requests: w.requests}}
		if q.shared.ChargeQuotas(look); look[0].Told {
			return look[0].Used + owed
		}
	}
	return q.state.used(key, p, now)
}

// used is what is counted of a short key in a period, and counts nothing.
func (s *State) used(key []byte, p *period, now int64) int64 {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.counts[string(key)]
	if c == nil {
		return 0
	}
	seen := *c
	seen.roll(p, now)
	return seen.used + seen.untold()
}

// show is a window of which something is used.
func (w *window) show(p *period, now, requests, used int64) policy.LimitWindow {
	return policy.LimitWindow{
		Name: strings.Trim(w.name, `"`), Requests: requests, Per: float64(p.end - p.start), Burst: requests, Period: w.calendar.unit,
		Used: used, Remaining: max(0, requests-used), Reset: float64(p.end - now),
	}
}
