package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
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

	// Passed and Used are the answer: what is used now, of all instances. Told is false where there is none.
	Passed, Told bool
	Used         int64
}

// ChargeQuotas charges each by itself, and waits for the store, no longer than the timeout.
func (s *Store) ChargeQuotas(charges []QuotaCharge) {
	commands := make([]command, len(charges))
	for i := range charges {
		commands[i] = s.quota(&charges[i])
	}
	for i, r := range s.ask("quota", commands...) {
		c := &charges[i]
		n, err := r.AsIntSlice()
		if c.Told = err == nil && len(n) == 2; c.Told {
			c.Passed, c.Used = n[0] == 1, n[1]
		}
	}
}

// ReturnQuota gives back what was charged, without waiting.
func (s *Store) ReturnQuota(c QuotaCharge) {
	c.Weight, c.Owed = -c.Weight, 0
	s.send("quota", s.quota(&c), func(*call) {})
}

// keepQuota is for how long a period is remembered after its end, since clocks differ.
const keepQuota = time.Hour

func (s *Store) quota(c *QuotaCharge) command {
	scope, _, _ := bytes.Cut(c.Key, []byte{0})
	sum := sha256.Sum256(c.Key)
	name := "quota:" + strings.ToValidUTF8(string(scope), "") + ":" + base64.RawURLEncoding.EncodeToString(sum[:16]) + ":" + number(c.Start)
	return command{&quotaScript, s.key(name), []string{number(c.Owed), number(c.Weight), number(c.Requests), number(c.End*1000 + keepQuota.Milliseconds())}}
}
