package cluster

import (
	"sluice/gateway/limiter"
)

// Charge is a request's tokens of one key.
type Charge struct {
	// Key is borrowed during the call.
	Key    []byte
	Limits *Limits
	// Out is where it is said how each window stands.
	Out []limiter.Result
}

// TakeStrict takes the tokens of all charges from the store, or of none. It waits for the store, no longer than the timeout.
func (l *Limiter) TakeStrict(now int64, charges []Charge) Verdict {
	commands := make([]command, len(charges))
	for i := range charges {
		c := &charges[i]
		commands[i] = l.strictly("take", c.Key, c.Limits, 0, c.Limits.cost)
	}
	passed, err := true, error(nil)
	taken := make([]bool, len(charges))
	for i, r := range l.store.ask("take", commands...) {
		a, bad := readLoan(r, charges[i].Limits)
		if bad != nil {
			err = bad
			continue
		}
		taken[i] = a.granted > 0
		passed = passed && taken[i]
		l.stand(now, &charges[i], a, taken[i])
	}
	if err == nil && passed {
		return Passed
	}
	for i := range charges {
		if taken[i] {
			l.ReturnStrict(charges[i].Key, charges[i].Limits)
		}
	}
	if err == nil {
		return Refused
	}
	return l.takeAllAlone(now, charges)
}

// LookStrict asks the store how a key's windows stand, and takes nothing. Without the store it says how they stand here.
func (l *Limiter) LookStrict(now int64, c Charge) {
	for _, r := range l.store.ask("take", l.strictly("take", c.Key, c.Limits, 0, 0)) {
		if a, err := readLoan(r, c.Limits); err == nil {
			l.stand(now, &c, a, true)
			return
		}
	}
	l.alone(now, &c, false)
}

// CountStrict takes the tokens of one key from the store without waiting. refused is called if there are none.
func (l *Limiter) CountStrict(now int64, key []byte, limits *Limits, refused func()) {
	sent := l.store.send("take", l.strictly("take", key, limits, 0, limits.cost), func(c *call) {
		if a, err := readLoan(c.result, limits); err == nil && a.granted == 0 {
			refused()
		}
	})
	if !sent {
		var out [MaxWindows]limiter.Result
		if l.TakeAlone(now, key, limits, out[:]) == Refused {
			refused()
		}
	}
}

// ReturnStrict gives back what TakeStrict took, without waiting.
func (l *Limiter) ReturnStrict(key []byte, limits *Limits) {
	l.store.send("return", l.strictly("pay", key, limits, limits.cost, 0), func(*call) {})
}

func (l *Limiter) strictly(op string, key []byte, limits *Limits, give, want int64) command {
	var long [limiter.MaxKeyLen + 1]byte
	return command{&limitScript, l.name(limiter.Shorten(key, &long)), limits.args([]string{
		l.store.scriptNow(), op, l.store.id, l.store.id, "0", "0", number(give), number(want), number(limits.cost), number(validFor.Microseconds()), "", noBirth,
	}, &[MaxWindows]debt{})}
}

// stand says how the windows of a charge stand by what the store has said.
func (l *Limiter) stand(now int64, c *Charge, a reply, passed bool) {
	b := bucket{limits: c.Limits, meters: make([]meter, len(c.Limits.windows)), at: now}
	for i := range b.meters {
		b.meters[i].tokens = a.tokens[i]
		if w := &c.Limits.windows[i]; w.fixed {
			b.meters[i].over = w.ends(now, l.store.o.Wall())
		}
	}
	b.tell(now, 1, c.Out)
	if !passed {
		b.refuse(now, 1, c.Out)
	}
}

// TakeAlone takes a request's tokens as without the store, also where it is there.
func (l *Limiter) TakeAlone(now int64, key []byte, limits *Limits, out []limiter.Result) Verdict {
	return l.takeAllAlone(now, []Charge{{key, limits, out}})
}

func (l *Limiter) takeAllAlone(now int64, charges []Charge) Verdict {
	verdict := Passed
	for _, debit := range [...]bool{false, true} {
		for i := range charges {
			if v := l.alone(now, &charges[i], debit); v != Passed {
				verdict = v
			}
		}
		if verdict == Refused || verdict == Unavailable {
			return verdict
		}
	}
	return verdict
}

func (l *Limiter) alone(now int64, c *Charge, debit bool) Verdict {
	var long [limiter.MaxKeyLen + 1]byte
	key := limiter.Shorten(c.Key, &long)
	fleet := l.store.fleet.Load()
	sh := l.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	b := sh.buckets[string(key)]
	if b == nil {
		b = l.open(sh, now, key, c.Limits, fleet, false)
		if l.store.up.Load() {
			l.schedule(b, now) // to be told
		}
	}
	if b.limits != c.Limits {
		b.adopt(now, c.Limits, 1/float64(fleet.most), l.store.o.Wall)
	}
	if !b.alone {
		b.leaveAlone(now, fleet.most, l.store.o.Wall)
	}
	b.used = now
	return l.takeAlone(b, now, 1/float64(fleet.most), false, c.Out, debit)
}
