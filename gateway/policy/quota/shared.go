package quota

import (
	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// rejectUnavailable is for requests that can not be counted, where on_failure is deny.
var rejectUnavailable = exchange.NewReject(503, "quota_unavailable", "the quota of this request can not be looked up; try again later", exchange.Header("Retry-After", "1"))

// requestShared is request where counts are shared with other instances: every request is counted in the store.
func (q *quota) requestShared(x *exchange.Exchange) error {
	var left [maxWindows]int64
	var periods [maxWindows]*period
	charges := make([]cluster.QuotaCharge, len(q.windows))
	now := x.Arrived.Unix()
	for i := range q.windows {
		w, c := &q.windows[i], &charges[i]
		p := w.calendar.at(now)
		periods[i] = p
		c.Key = w.key.Append(nil, x)
		c.Start, c.End, c.Weight, c.Requests = p.start, p.end, w.weight, w.requests
		c.Owed = q.state.takeOwed(w, c.Key, p)
	}
	q.shared.ChargeQuotas(charges)
	told, failed := true, -1
	for i := range charges {
		c := &charges[i]
		switch {
		case !c.Told:
			told = false
		case !c.Passed && failed < 0:
			failed = i
		}
	}
	for i := range charges {
		w, c := &q.windows[i], &charges[i]
		if !c.Told {
			q.state.owe(w, c.Key, periods[i], c.Owed)
			continue
		}
		if c.Passed && (failed >= 0 || !told) {
			q.shared.ReturnQuota(*c)
			c.Used -= c.Weight
		}
		q.state.know(w, c.Key, periods[i], c.Used)
		left[i] = max(0, w.requests-c.Used)
	}
	if !told {
		switch q.shared.OnFailure() {
		case cluster.Allow:
			return nil
		case cluster.Deny:
			return rejectUnavailable
		}
		failed = q.chargeAlone(charges, &left, &periods)
	}
	q.tell(x, &left, &periods, now)
	if failed < 0 {
		return nil
	}
	return q.refuse(x, &left, &periods, now)
}

// chargeAlone charges this instance's part of what was left when the store was asked last: all windows or none.
func (q *quota) chargeAlone(charges []cluster.QuotaCharge, left *[maxWindows]int64, periods *[maxWindows]*period) (failed int) {
	failed = -1
	n := int64(q.shared.Instances())
	for i := range q.windows {
		w := &q.windows[i]
		var passed bool
		left[i], passed = q.state.chargeAlone(w, charges[i].Key, periods[i], n, failed < 0)
		if !passed && failed < 0 {
			failed = i
		}
	}
	if failed >= 0 {
		for i := range failed {
			w := &q.windows[i]
			q.state.owe(w, charges[i].Key, periods[i], -w.weight)
			left[i] += w.weight
		}
	}
	return failed
}

// share has what is owed told whenever the store is back.
func (s *State) share(store *cluster.Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stores[store] {
		return
	}
	s.stores[store] = true
	store.OnRecovery(func() { s.tellOwed(store) })
}

// atOnce is how many counts are told in one go.
const atOnce = 256

func (s *State) tellOwed(store *cluster.Store) {
	var charges []cluster.QuotaCharge
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, c := range sh.counts {
			if c.owed > 0 {
				charges = append(charges, cluster.QuotaCharge{Key: []byte(c.key), Start: c.start, End: c.end, Owed: c.owed, Requests: c.requests})
				c.owed = 0
			}
		}
		sh.mu.Unlock()
	}
	for len(charges) > 0 {
		some := charges[:min(len(charges), atOnce)]
		charges = charges[len(some):]
		store.ChargeQuotas(some)
		for i := range some {
			c := &some[i]
			p := &period{start: c.Start, end: c.End}
			w := &window{requests: c.Requests}
			if c.Told {
				s.know(w, c.Key, p, c.Used)
			} else {
				s.owe(w, c.Key, p, c.Owed)
			}
		}
	}
}

// takeOwed returns what was used of a period and not told. The caller tells it, or owes it again.
func (s *State) takeOwed(w *window, key []byte, p *period) (owed int64) {
	s.with(w, key, p, false, func(c *count) { owed, c.owed = c.owed, 0 })
	return owed
}

func (s *State) owe(w *window, key []byte, p *period, n int64) {
	if n != 0 {
		s.with(w, key, p, true, func(c *count) { c.owed += n })
	}
}

// know notes what all instances have used.
func (s *State) know(w *window, key []byte, p *period, used int64) {
	s.with(w, key, p, true, func(c *count) { c.used = used })
}

// chargeAlone takes the window's weight if this instance's part, of n, of what was left has it.
func (s *State) chargeAlone(w *window, key []byte, p *period, n int64, take bool) (left int64, passed bool) {
	s.with(w, key, p, true, func(c *count) {
		left = max(0, (w.requests-c.used)/n-c.owed)
		if passed = left >= w.weight; passed && take {
			c.owed += w.weight
			left -= w.weight
		}
	})
	return left, passed
}

// with calls f with the count of a key in a period, unless that is over; make adds one that is not there.
func (s *State) with(w *window, key []byte, p *period, make bool, f func(*count)) {
	var long [policy.KeySize]byte
	short := shorten(key, &long)
	sh := s.shard(short)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.counts[string(short)]
	if c == nil {
		if !make {
			return
		}
		c = s.insert(sh, string(short), p, s.clock.Time().Unix())
	}
	switch {
	case c.start < p.start:
		c.start, c.end, c.used, c.owed = p.start, p.end, 0, 0
	case c.start > p.start:
		return
	}
	c.requests = w.requests
	f(c)
}
