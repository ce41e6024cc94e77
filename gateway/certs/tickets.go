package certs

import (
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"
)

const (
	// TicketRotation is how long one key seals new session tickets.
	TicketRotation = 12 * time.Hour
	// ticketKeys is how many keys open tickets: a ticket can be used for
	// between one and a half and two rotations more.
	ticketKeys = 3
)

// Tickets are the session ticket keys of one listener. They outlive
// configurations, so that clients resume over a reload. The zero value is not
// usable; see NewTickets.
type Tickets struct {
	now func() time.Time

	mu     sync.Mutex
	keys   [][32]byte // newest first
	since  time.Time
	config *tls.Config
}

// NewTickets returns fresh keys. now is the clock, nil for the real time.
func NewTickets(now func() time.Time) *Tickets {
	if now == nil {
		now = time.Now
	}
	t := &Tickets{now: now}
	t.renew()
	return t
}

// Use makes c seal and open tickets with these keys from now on, and forgets
// the configuration that did before.
func (t *Tickets) Use(c *tls.Config) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.config = c
	c.SetSessionTicketKeys(t.keys)
}

// Rotate begins with a new key if the newest is due. It reports whether it was.
func (t *Tickets) Rotate() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now().Sub(t.since) < TicketRotation {
		return false
	}
	t.renew()
	return true
}

// Forget drops every key: no ticket that was given out can be used. It is for
// when what a session proved is no longer enough, as with other authorities of
// client certificates.
func (t *Tickets) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.keys)
	t.keys = nil
	t.renew()
}

func (t *Tickets) renew() {
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	keep := t.keys[:min(len(t.keys), ticketKeys-1)]
	t.keys = append([][32]byte{key}, keep...)
	t.since = t.now()
	if t.config != nil {
		t.config.SetSessionTicketKeys(t.keys)
	}
}
