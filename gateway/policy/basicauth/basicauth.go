// Package basicauth authenticates requests by user name and password (RFC 7617). Only hashes of the passwords are
// configured. A password that was verified against a slow hash is remembered, under a key that only this process knows, so
// that the hash is computed once and not for every request; an unknown user takes as long as a known one.
package basicauth

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `basic_auth`. Users and passwords are those of the consumers.
type Config struct {
	// Hide keeps user name and password from the backend.
	Hide bool `yaml:"hide" default:"true"`
	// Anonymous is the consumer that requests without a valid credential are taken for. Default: they are refused.
	Anonymous string `yaml:"anonymous"`
}

// Definition is the policy `basic_auth`.
var Definition = policy.Define("basic_auth", policy.Authenticate, build)

const (
	challenge = `Basic realm="sluice", charset="UTF-8"`

	// maxCredential is the largest credential in bytes, encoded, that is looked at.
	maxCredential = 1024
	// maxWaiting bounds the requests that wait for their turn to compute a slow hash.
	maxWaiting = 256
)

var (
	invalid = exchange.NewReject(401, "credential_invalid", "user name or password is not valid", exchange.Header("WWW-Authenticate", challenge))
	busy    = exchange.NewReject(503, "overloaded", "too many passwords are being verified", exchange.Header("Retry-After", "1"))
)

type authenticator struct {
	users    *users
	verified *verified
	slow     *turnstile
}

func build(b *policy.Build, c *Config) (hooks policy.Hooks, err error) {
	a := &authenticator{}
	hooks = policy.Hooks{Authenticate: a.authenticate, Challenge: challenge}
	if c.Hide {
		hooks.Request = conceal
	}
	if c.Anonymous != "" {
		if hooks.Anonymous = b.World.Consumers[c.Anonymous]; hooks.Anonymous == nil {
			return hooks, policy.Wrong("anonymous", "there is no consumer %q", c.Anonymous)
		}
	}
	if a.users, err = policy.Once(b.World, "basic_auth/users", func() (*users, error) { return newUsers(b.World) }); err != nil {
		return hooks, err
	}
	hooks.Blocking = a.users.slow
	a.verified, a.slow = newVerified(), newTurnstile()
	if b.World.DryRun {
		return hooks, nil
	}
	if a.verified, err = policy.LivingAs(b.World, "basic_auth/verified", func() (*verified, error) { return a.verified, nil }); err != nil {
		return hooks, err
	}
	a.slow, err = policy.LivingAs(b.World, "basic_auth/turnstile", func() (*turnstile, error) { return a.slow, nil })
	return hooks, err
}

// users are the credentials of all consumers. They are immutable.
type users struct {
	seed   maphash.Seed
	byName map[string]*user
	all    []*user // never empty
	slow   bool    // there is a hash that takes its time
}

type user struct {
	name     []byte
	password passwordHash
	hashed   []byte             // the hash as configured
	consumer *exchange.Consumer // nil for a user that stands in for unknown ones
}

func newUsers(w *policy.World) (*users, error) {
	u := &users{seed: maphash.MakeSeed(), byName: make(map[string]*user)}
	var errs config.Errors
	for _, consumer := range slices.Sorted(maps.Keys(w.Config.Consumers)) {
		for i, cred := range w.Config.Consumers[consumer].BasicAuth {
			path := fmt.Sprintf("consumers.%s.basic_auth[%d]", consumer, i)
			name := cred.Username
			if name == "" {
				name = consumer
			}
			hash, err := parseHash(cred.Hash)
			if err != nil {
				errs = append(errs, w.Config.Errorf(path+".hash", "%s", err))
				continue
			}
			if first := u.byName[name]; first != nil {
				errs = append(errs, w.Config.Errorf(path+".username", "consumer %s has a user %q already", first.consumer.Name, name))
				continue
			}
			made := &user{name: []byte(name), password: hash, hashed: []byte(cred.Hash), consumer: w.Consumers[consumer]}
			u.byName[name] = made
			u.all = append(u.all, made)
			u.slow = u.slow || hash.slow()
		}
	}
	if len(u.all) == 0 {
		u.all = []*user{{password: sha256Hash{}}}
	}
	return u, errs.Err()
}

// find returns the user of that name. For an unknown name it returns one of the users all the same, always the same one for
// the same name, whose hash is computed for nothing.
func (u *users) find(name []byte) (found *user, known bool) {
	if found = u.byName[string(name)]; found != nil {
		return found, true
	}
	return u.all[maphash.Bytes(u.seed, name)%uint64(len(u.all))], false
}

func (a *authenticator) authenticate(x *exchange.Exchange) error {
	values := x.PeekAll("Authorization")
	if len(values) == 0 || !isBasic(values[0]) {
		return exchange.ErrNoCredential
	}
	encoded := bytes.Trim(values[0][len(scheme):], " ")
	if len(values) > 1 || len(encoded) > maxCredential {
		x.AuthFailure = "malformed"
		return invalid
	}
	plain, err := base64.StdEncoding.Strict().AppendDecode(x.Scratch(), encoded)
	plain = x.Keep(plain)
	colon := bytes.IndexByte(plain, ':')
	if err != nil || colon < 0 || bytes.ContainsAny(encoded, "\r\n") {
		x.AuthFailure = "malformed"
		return invalid
	}
	name, password := plain[:colon], plain[colon+1:]
	u, known := a.users.find(name)
	if known && u.password.slow() && a.verified.has(u, password) {
		accept(x, u)
		return nil
	}
	if u.password.slow() {
		if !a.slow.enter() {
			return busy
		}
		defer a.slow.leave()
	}
	if matches := u.password.matches(password); !matches || !known {
		x.AuthFailure = "wrong_password"
		if !known {
			x.AuthFailure = "unknown_user"
		}
		return invalid
	}
	if u.password.slow() {
		a.verified.add(u, password)
	}
	accept(x, u)
	return nil
}

func accept(x *exchange.Exchange, u *user) {
	id := &x.Identity
	id.Authenticated, id.Method, id.Subject, id.Consumer = true, "basic_auth", u.name, u.consumer
	x.ToBackend.Set("X-User-ID", u.name)
}

// conceal keeps passwords from the backend, those too that another policy leaves unread.
func conceal(x *exchange.Exchange) error {
	if isBasic(x.RequestHeader("Authorization")) {
		x.ToBackend.Remove("Authorization")
	}
	return nil
}

const scheme = "Basic"

// isBasic knows the scheme by RFC 7617 section 2, without regard to case.
func isBasic(value []byte) bool {
	return len(value) > len(scheme) && value[len(scheme)] == ' ' && exchange.EqualFold(value[:len(scheme)], scheme)
}

// turnstile lets as many slow hashes be computed at a time as there are processors, so that guesses can not take all time
// and memory, and lets a bounded number wait.
type turnstile struct {
	turns   chan struct{}
	waiting atomic.Int64
}

func newTurnstile() *turnstile { return &turnstile{turns: make(chan struct{}, runtime.GOMAXPROCS(0))} }

func (t *turnstile) enter() bool {
	if t.waiting.Add(1) > maxWaiting {
		t.waiting.Add(-1)
		return false
	}
	t.turns <- struct{}{}
	t.waiting.Add(-1)
	return true
}

func (t *turnstile) leave() { <-t.turns }
