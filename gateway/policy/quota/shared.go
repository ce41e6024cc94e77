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
		c.Key = short(w.key.Append(nil, x))
		c.Start, c.End, c.Weight, c.Requests = p.start, p.end, w.weight, w.requests
		q.state.takeUntold(w, p, c)
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
			// What passes below is owed, but for what nobody counts.
			took := int64(0)
			if q.shared.OnFailure() == cluster.Allow {
				took = w.weight
			}
			q.state.unanswered(w, periods[i], c, took)
			continue
		}
		back := *c
		if c.Passed && (failed >= 0 || !told) {
			c.Used -= c.Weight
			c.Nonce = "" // is remembered until that is given back
		}
		q.state.answered(w, periods[i], c)
		if c.Nonce != back.Nonce {
			q.state.giveBackShared(q.shared, w, periods[i], &back)
		}
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

// teller has what is owed told whenever a store is back.
type teller struct{ stop func() }

func (s *State) tellAt(store *cluster.Store) *teller {
	return &teller{store.OnRecovery(func() { s.tellOwed(store) })}
}

// Close ends it.
func (t *teller) Close() { t.stop() }

const (
	// atOnce is how many counts are told in one go.
	atOnce = 256
	// mostCalls bounds the calls of one count that are made good, or that the store need not remember.
	mostCalls = 1000
)

// calls of a store that a count still has to do with.
type calls struct {
	lost []cluster.LostCharge // their answers were
	over []string             // the store remembers them
}

func (s *State) tellOwed(store *cluster.Store) {
	var charges []cluster.QuotaCharge
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, c := range sh.counts {
			if c.owed != 0 || c.calls != nil && len(c.calls.lost) > 0 {
				charge := cluster.QuotaCharge{Key: []byte(c.key), Start: c.start, End: c.end, Requests: c.requests}
				c.takeUntold(&charge)
				charges = append(charges, charge)
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
				s.answered(w, p, c)
			} else {
				s.unanswered(w, p, c, 0)
			}
		}
	}
}

// takeUntold takes what was used of a period and not told, and the calls that the next one is to tell of. The caller tells it, and says
// whether that was answered.
func (s *State) takeUntold(w *window, p *period, charge *cluster.QuotaCharge) {
	s.with(w, charge.Key, p, false, func(c *count) { c.takeUntold(charge) })
}

func (c *count) takeUntold(charge *cluster.QuotaCharge) {
	charge.Owed, c.owed = c.owed, 0
	if c.calls != nil {
		charge.Lost, charge.Over, c.calls = c.calls.lost, c.calls.over, nil
	}
}

// untold is what was used and the store may not know.
func (c *count) untold() int64 {
	n := c.owed
	if c.calls != nil {
		for i := range c.calls.lost {
			n += c.calls.lost[i].Owed + c.calls.lost[i].Took
		}
	}
	return n
}

// answered notes what all instances have used.
func (s *State) answered(w *window, p *period, charge *cluster.QuotaCharge) {
	s.with(w, charge.Key, p, true, func(c *count) {
		c.used = charge.Used
		for i := range charge.Lost {
			c.over(charge.Lost[i].Nonce)
		}
		if charge.Nonce != "" && (charge.Passed || charge.Owed != 0) { // else the store has nothing to remember
			c.over(charge.Nonce)
		}
	})
}

// unanswered owes again what was to be told. took is what the call shall have taken if it was sent.
func (s *State) unanswered(w *window, p *period, charge *cluster.QuotaCharge, took int64) {
	s.with(w, charge.Key, p, true, func(c *count) {
		for i := range charge.Lost {
			c.lose(charge.Lost[i])
		}
		for _, nonce := range charge.Over {
			c.over(nonce)
		}
		if charge.Nonce != "" {
			c.lose(cluster.LostCharge{Nonce: charge.Nonce, Owed: charge.Owed, Took: took})
		} else {
			c.owed += charge.Owed
		}
	})
}

// giveBackShared takes a charge back that was answered, without waiting.
func (s *State) giveBackShared(store *cluster.Store, w *window, p *period, charge *cluster.QuotaCharge) {
	store.ReturnQuota(*charge, func(told bool) {
		s.with(w, charge.Key, p, true, func(c *count) {
			if told {
				c.over(charge.Nonce)
			} else {
				// What it owed is told: no more than what it took is in question.
				c.lose(cluster.LostCharge{Nonce: charge.Nonce})
			}
		})
	})
}

func (c *count) own() *calls {
	if c.calls == nil {
		c.calls = new(calls)
	}
	return c.calls
}

func (c *count) lose(l cluster.LostCharge) {
	if own := c.own(); len(own.lost) < mostCalls {
		own.lost = append(own.lost, l)
	} else {
		c.owed += l.Owed + l.Took // it may count twice
	}
}

func (c *count) over(nonce string) {
	if own := c.own(); len(own.over) < mostCalls {
		own.over = append(own.over, nonce) // else it is forgotten with the period
	}
}

func (s *State) owe(w *window, key []byte, p *period, n int64) {
	s.with(w, key, p, true, func(c *count) { c.owed += n })
}

// chargeAlone takes the window's weight if this instance's part, of n, of what was left has it.
func (s *State) chargeAlone(w *window, key []byte, p *period, n int64, take bool) (left int64, passed bool) {
	s.with(w, key, p, true, func(c *count) {
		left = max(0, (w.requests-c.used)/n-c.untold())
		if passed = left >= w.weight; passed && take {
			c.owed += w.weight
			left -= w.weight
		}
	})
	return left, passed
}

// short gives a key the form in which it is kept, here and in the store.
func short(key []byte) []byte {
	var long [policy.KeySize]byte
	return shorten(key, &long)
}

// with calls f with the count of a short key in a period, unless that is over; make adds one that is not there.
func (s *State) with(w *window, key []byte, p *period, make bool, f func(*count)) {
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.counts[string(key)]
	if c == nil {
		if !make {
			return
		}
		c = s.insert(sh, string(key), p, s.clock.Time().Unix())
	}
	switch {
	case c.start < p.start:
		c.start, c.end, c.used, c.owed, c.calls = p.start, p.end, 0, 0, nil
	case c.start > p.start:
		return
	}
	c.requests = w.requests
	f(c)
}
