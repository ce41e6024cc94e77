package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// Protocol is what a client of TLS offers that wants to see a challenge (RFC
// 8737), HTTPPath where one is asked for by HTTP (RFC 8555, section 8.3); the
// token follows.
const (
	Protocol = acmez.ACMETLS1Protocol
	HTTPPath = "/.well-known/acme-challenge/"
)

// TLSChallenge returns the certificate that answers a pending challenge of this
// name, in lower case, nil without one.
func (a *Authority) TLSChallenge(name string) *tls.Certificate {
	p, ok := a.challenges.find(name)
	if !ok || p.Type != acme.ChallengeTypeTLSALPN01 {
		return nil
	}
	if p.cert == nil {
		p.cert, _ = acmez.TLSALPN01ChallengeCert(p.Challenge)
	}
	return p.cert
}

// HTTPChallenge returns what answers a pending challenge of this name, in lower
// case, at a path; "" without one.
func (a *Authority) HTTPChallenge(name, path string) string {
	if !strings.HasPrefix(path, HTTPPath) {
		return ""
	}
	p, ok := a.challenges.find(name)
	if !ok || p.Type != acme.ChallengeTypeHTTP01 || p.Token == "" || path[len(HTTPPath):] != p.Token {
		return ""
	}
	return p.KeyAuthorization
}

// challenges are those that wait for the authority's look. They are in the
// folder too, where certmagic puts its own: the authority may ask another
// gateway that shares it.
type challenges struct {
	storage *storage
	folder  string

	mu      sync.Mutex
	pending map[string]pending // by name; one order at a time is under way for it
}

type pending struct {
	acme.Challenge
	cert *tls.Certificate // for TLS; made when it is asked for, if it was begun elsewhere
}

// Present implements acmez.Solver.
func (c *challenges) Present(ctx context.Context, challenge acme.Challenge) error {
	p := pending{Challenge: challenge}
	if challenge.Type == acme.ChallengeTypeTLSALPN01 {
		var err error
		if p.cert, err = acmez.TLSALPN01ChallengeCert(challenge); err != nil {
			return err
		}
	}
	b, err := json.Marshal(challenge)
	if err != nil {
		return err
	}
	name := challenge.Identifier.Value
	c.mu.Lock()
	c.pending[name] = p
	c.mu.Unlock()
	return c.storage.Store(ctx, c.key(name), b)
}

// CleanUp implements acmez.Solver.
func (c *challenges) CleanUp(ctx context.Context, challenge acme.Challenge) error {
	name := challenge.Identifier.Value
	c.mu.Lock()
	delete(c.pending, name)
	c.mu.Unlock()
	return c.storage.Delete(context.WithoutCancel(ctx), c.key(name))
}

// find returns the pending challenge of a name.
func (c *challenges) find(name string) (pending, bool) {
	c.mu.Lock()
	p, ok := c.pending[name]
	c.mu.Unlock()
	if ok {
		return p, true
	}
	ctx := context.Background()
	info, err := c.storage.Stat(ctx, c.key(name))
	if err != nil || time.Since(info.Modified) > attemptTimeout {
		return p, false // none, or left behind by a crash
	}
	b, err := c.storage.Load(ctx, c.key(name))
	if err != nil || json.Unmarshal(b, &p.Challenge) != nil || p.Identifier.Value != name {
		return p, false
	}
	return p, true
}

func (c *challenges) key(name string) string {
	return path.Join(c.folder, "challenge_tokens", name+".json")
}
