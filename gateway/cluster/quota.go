package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"
)

// QuotaCharge is what a request takes of one period.
type QuotaCharge struct {
	// Key says whose it is, and of what; it is borrowed during the call.
	Key []byte
	// Start and End of the period, in Unix seconds.
	Start, End int64
	// Owed is what was used before and not told.
	Owed int64
	// Weight is what the request takes; 0 only tells what is owed.
	Weight int64
	// Requests is the quota.
	Requests int64

	// Lost are earlier calls of the same period whose answers were lost. They are made good with this one.
	Lost []LostCharge
	// Over are nonces of calls that need not be remembered any more, since they were answered.
	Over []string

	// Passed and Used are the answer: what is used now, of all instances. Told is false where there is none.
	Passed, Told bool
	Used         int64
	// Nonce names the call, where it was carried out or may have been.
	Nonce string
}

// LostCharge is a call that may or may not have been carried out. Told of it, the store has it carried out once, and comes to what it would have
// if it had taken what is said here; told again, it does nothing.
type LostCharge struct {
	Nonce string
	// Owed is what it told; Took is what it shall have taken, whatever it has.
	Owed, Took int64
}

// ChargeQuotas charges each by itself, and waits for the store, no longer than the timeout.
func (s *Store) ChargeQuotas(charges []QuotaCharge) {
	commands := make([]command, len(charges))
	for i := range charges {
		c := &charges[i]
		if c.Weight != 0 || c.Owed != 0 {
			c.Nonce = s.id + ":" + number(s.charges.Add(1))
		}
		commands[i] = s.quota(c)
	}
	for i, r := range s.ask("quota", commands...) {
		c := &charges[i]
		n, err := r.AsIntSlice()
		switch c.Told = err == nil && len(n) == 2; {
		case c.Told:
			c.Passed, c.Used = n[0] == 1, n[1]
		case errors.Is(err, errDown), errors.Is(err, errBusy):
			c.Nonce = "" // it was never sent
		}
	}
}

// ReturnQuota gives back what was charged, without waiting. done is told whether the store has answered.
func (s *Store) ReturnQuota(c QuotaCharge, done func(told bool)) {
	back := QuotaCharge{Key: c.Key, Start: c.Start, End: c.End, Requests: c.Requests, Lost: []LostCharge{{c.Nonce, c.Owed, 0}}}
	if !s.send("quota", s.quota(&back), func(c *call) { done(c.result.Error() == nil) }) {
		done(false)
	}
}

// keepQuota is for how long a period is remembered after its end, since clocks differ.
const keepQuota = time.Hour

func (s *Store) quota(c *QuotaCharge) command {
	scope, _, _ := bytes.Cut(c.Key, []byte{0})
	sum := sha256.Sum256(c.Key)
	name := "used:" + strings.ToValidUTF8(string(scope), "") + ":" + base64.RawURLEncoding.EncodeToString(sum[:16]) + ":" + number(c.Start)
	args := []string{c.Nonce, number(c.Owed), number(c.Weight), number(c.Requests), number(c.End*1000 + keepQuota.Milliseconds()), number(int64(len(c.Lost)))}
	for _, l := range c.Lost {
		args = append(args, l.Nonce, number(l.Owed), number(l.Took))
	}
	return command{&quotaScript, s.key(name), append(args, c.Over...)}
}
