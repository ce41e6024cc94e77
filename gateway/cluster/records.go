package cluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"sync"
	"time"
)

const (
	// claimFor is how long a claim holds that is not renewed, and renewEvery how often it is.
	claimFor   = 30 * time.Second
	renewEvery = 10 * time.Second
	// maxPending and maxPendingBytes bound what is to be written when the store is back.
	maxPending      = 10_000
	maxPendingBytes = 64 << 20
)

// Records are what has become of idempotency keys. A key is claimed by one request at a time, of all instances; the claim of an instance that is gone
// is not free, since nobody knows how far its request came.
type Records struct {
	store *Store

	mu      sync.Mutex
	claims  map[string]string // name by claim
	pending []command
	bytes   int
}

func newRecords(s *Store) *Records {
	return &Records{store: s, claims: make(map[string]string)}
}

// RecordState is what has become of a key.
type RecordState string

// The states.
const (
	RecordClaimed  RecordState = "claimed"   // by this call
	RecordInFlight RecordState = "in_flight" // its request is being carried out
	RecordAnswered RecordState = "answered"
	RecordLost     RecordState = "lost"   // it was carried out, and there is no answer
	RecordReused   RecordState = "reused" // it belongs to another request
)

// ErrFull says that the store has no room.
var ErrFull = errors.New("the store has no room")

// Begin claims a key, or says what has become of it. It waits for the store, no longer than the timeout. A claim is renewed until it is
// settled by Complete or Release.
func (r *Records) Begin(key, fingerprint []byte, ttl time.Duration) (state RecordState, claim string, answer []byte, err error) {
	var id [16]byte
	_, _ = rand.Read(id[:])
	claim = hex.EncodeToString(id[:])
	name := r.name(key)
	// A claim of which nobody hears is released: the request was refused or guarded elsewhere.
	all, err := r.store.ask("record", command{&recordScript, name, []string{"begin", claim, string(fingerprint), number(claimFor.Milliseconds()), number(ttl.Milliseconds())}})[0].AsStrSlice()
	if err != nil || len(all) == 0 {
		if !errors.Is(err, errDown) && !errors.Is(err, errBusy) { // else it was never sent, and room is needed for what was carried out
			r.later(command{&recordScript, name, []string{"release", claim}})
		}
		return "", "", nil, cmpErr(err)
	}
	switch state = RecordState(all[0]); {
	case state == RecordClaimed:
		r.mu.Lock()
		r.claims[claim] = name
		r.mu.Unlock()
		return state, claim, nil, nil
	case state == RecordAnswered && len(all) == 2:
		return state, "", []byte(all[1]), nil
	}
	return state, "", nil, nil
}

// Complete records the answer, nil for none. Where the store does not answer in time it is recorded later.
func (r *Records) Complete(key []byte, claim string, ttl time.Duration, answer []byte) {
	args := []string{"complete", claim, number(ttl.Milliseconds())}
	if answer != nil {
		args = append(args, string(answer))
	}
	r.write(claim, command{&recordScript, r.name(key), args})
}

// Release makes the key free again.
func (r *Records) Release(key []byte, claim string) {
	r.write(claim, command{&recordScript, r.name(key), []string{"release", claim}})
}

// Put records what was carried out while nobody could be asked, unless the key has a record by now.
func (r *Records) Put(key, fingerprint []byte, ttl time.Duration, answer []byte) {
	args := []string{"put", "-", string(fingerprint), number(ttl.Milliseconds())}
	if answer != nil {
		args = append(args, string(answer))
	}
	r.later(command{&recordScript, r.name(key), args})
}

func (r *Records) write(claim string, c command) {
	err := r.store.ask("record", c)[0].Error()
	if err != nil {
		r.later(c) // the claim is renewed until then
		return
	}
	r.mu.Lock()
	delete(r.claims, claim)
	r.mu.Unlock()
}

func (r *Records) later(c command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) >= maxPending {
		// Nobody will settle it: a claim that was renewed all the same would be in flight for as long as this instance lives.
		delete(r.claims, c.args[1])
		return
	}
	if last := len(c.args) - 1; r.bytes+len(c.args[last]) > maxPendingBytes && (c.args[0] == "complete" && last == 3 || c.args[0] == "put" && last == 4) {
		c.args = c.args[:last] // without the answer the key stays used
	}
	for _, a := range c.args {
		r.bytes += len(a)
	}
	r.pending = append(r.pending, c)
}

func (r *Records) name(key []byte) string {
	return r.store.key("record:" + base64.RawURLEncoding.EncodeToString(key))
}

func (r *Records) run() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	renewed := time.Now()
	for {
		select {
		case <-r.store.ctx.Done():
			return
		case <-t.C:
		}
		if !r.store.up.Load() {
			continue
		}
		r.settle()
		if time.Since(renewed) >= renewEvery {
			renewed = time.Now()
			r.renew()
		}
	}
}

// settle writes what could not be written before.
func (r *Records) settle() {
	r.mu.Lock()
	pending := r.pending
	r.pending, r.bytes = nil, 0
	r.mu.Unlock()
	for len(pending) > 0 {
		n := min(len(pending), maxBatch)
		some := pending[:n]
		pending = pending[n:]
		for i, o := range r.exec(some) {
			if o.err != nil {
				r.later(some[i])
				continue
			}
			r.mu.Lock()
			delete(r.claims, some[i].args[1])
			r.mu.Unlock()
		}
	}
}

func (r *Records) renew() {
	r.mu.Lock()
	all := make([]command, 0, len(r.claims))
	for claim, name := range r.claims {
		all = append(all, command{&recordScript, name, []string{"renew", claim, number(claimFor.Milliseconds())}})
	}
	r.mu.Unlock()
	for len(all) > 0 {
		n := min(len(all), maxBatch)
		for i, o := range r.exec(all[:n]) {
			if o.state == "gone" { // its time was over, or the store has forgotten it
				r.mu.Lock()
				delete(r.claims, all[i].args[1])
				r.mu.Unlock()
			}
		}
		all = all[n:]
	}
}

// outcome is what a command was answered.
type outcome struct {
	state string
	err   error
}

func (r *Records) exec(commands []command) []outcome {
	ctx, cancel := context.WithTimeout(r.store.ctx, patience)
	defer cancel()
	sent := time.Now()
	outcomes := make([]outcome, len(commands))
	for i, res := range r.store.exec(ctx, commands) {
		o := &outcomes[i]
		if words, err := res.AsStrSlice(); err != nil {
			o.err = err
		} else if len(words) > 0 {
			o.state = words[0]
		}
		r.store.observe("record", sent, o.err)
		r.store.fault(o.err)
	}
	return outcomes
}
