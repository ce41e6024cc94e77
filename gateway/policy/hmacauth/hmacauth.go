// Package hmacauth authenticates requests by signatures over parts of them, made with a secret that the caller shares with the
// gateway (draft-cavage-http-signatures, in the form that Kong's hmac-auth has). A signature is accepted once, within a
// bounded time around its date, and only if it covers what the settings require. Comparing takes constant time, and an
// unknown user as long as a known one. A passing request costs no allocation.
package hmacauth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // HMAC-SHA1 is off unless it is asked for, and not known to be broken
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `hmac_auth`. Users and secrets are those of the consumers. A request carries
// `Authorization: hmac username="alice", algorithm="hmac-sha256", headers="host date @request-target", signature="…"`, or the same in
// Proxy-Authorization. Signed is one line for each of `headers`, joined by line feeds: `host: api.example.com`, for `@request-target`
// `get /path?query`, for `request-line` `GET /path?query HTTP/1.1`; lines of a repeated header are joined by a comma and a space.
type Config struct {
	// Algorithms accepted.
	Algorithms []string `yaml:"algorithms" enum:"hmac-sha1|hmac-sha256|hmac-sha384|hmac-sha512" default:"hmac-sha256,hmac-sha384,hmac-sha512"`
	// SignedHeaders must be covered by every signature. `date` may be X-Date instead, and `@request-target` the `request-line`. A date is always required.
	SignedHeaders []string `yaml:"signed_headers" default:"host,date,@request-target"`
	// ClockSkew is how far the date, in Date or X-Date, may be from the gateway's time; as HTTP writes dates or by RFC 3339.
	ClockSkew config.Duration `yaml:"clock_skew" default:"300s" min:"1s" max:"1d"`
	// ReplayProtection refuses a signature that was seen before, by this process. Two equal requests within a second have the same signature: sign an X-Date with fractions of a second, or a header that differs.
	ReplayProtection bool `yaml:"replay_protection" default:"true"`
	// MaxSeen bounds how many signatures are remembered, each for as long as its date is accepted, at 24 bytes. Beyond it requests get 503: rather none than one twice.
	MaxSeen int `yaml:"max_seen" default:"4000000" min:"1024" max:"100000000"`
	// ValidateBody wants requests with a body to have a `Digest: SHA-256=…` header that is signed, and holds the body to it. The body is read ahead for that, once the signature is found to be right.
	ValidateBody bool `yaml:"validate_body"`
	// BodyLimit is the largest body that is read ahead; larger ones get 413.
	BodyLimit config.Size `yaml:"body_limit" default:"1MiB" min:"1" max:"64MiB"`
	// Hide keeps the signature from the backend.
	Hide bool `yaml:"hide" default:"true"`
	// Anonymous is the consumer that requests without a valid credential are taken for. Default: they are refused.
	Anonymous string `yaml:"anonymous"`
}

// Definition is the policy `hmac_auth`.
var Definition = policy.Define("hmac_auth", policy.Authenticate, build)

const challenge = `hmac realm="sluice"`

var (
	invalid = exchange.NewReject(401, "credential_invalid", "the signature is not valid", exchange.Header("WWW-Authenticate", challenge))
	busy    = exchange.NewReject(503, "overloaded", "too many signatures are remembered", exchange.Header("Retry-After", "1"))
)

type algorithm struct {
	name string
	make func() hash.Hash
}

// algorithms are what can be asked for, in the order of a user's pools.
var algorithms = [...]algorithm{
	{"hmac-sha1", sha1.New}, {"hmac-sha256", sha256.New}, {"hmac-sha384", sha512.New384}, {"hmac-sha512", sha512.New},
}

type authenticator struct {
	users    *users
	allowed  [len(algorithms)]bool
	required []string // lower case, without date
	skew     int64    // nanoseconds
	seen     *seen    // nil: signatures may be used again
	maxSeen  int
	body     int // the largest body in bytes that is held to its digest; 0: none is
}

func build(b *policy.Build, c *Config) (hooks policy.Hooks, err error) {
	a := &authenticator{skew: int64(c.ClockSkew), maxSeen: c.MaxSeen}
	if c.ValidateBody {
		a.body = int(c.BodyLimit)
	}
	for i, alg := range algorithms {
		a.allowed[i] = slices.Contains(c.Algorithms, alg.name)
	}
	if len(c.Algorithms) == 0 {
		return hooks, policy.Wrong("algorithms", "is empty; name at least one, such as hmac-sha256")
	}
	if a.allowed[0] {
		b.Warnf("algorithms", "hmac-sha1 is only for clients that can not do better; prefer hmac-sha256")
	}
	for _, name := range c.SignedHeaders {
		lower := strings.ToLower(name)
		switch {
		case lower == "date" || lower == "x-date" || slices.Contains(a.required, lower):
		case lower == requestTarget || exchange.IsToken(lower):
			a.required = append(a.required, lower)
		default:
			return hooks, policy.Wrong("signed_headers", "%q can not be the name of a header", name)
		}
	}
	if !slices.Contains(a.required, requestTarget) && !slices.Contains(a.required, requestLine) {
		b.Warnf("signed_headers", "without @request-target a signature can be moved to another path")
	}
	hooks = policy.Hooks{Authenticate: a.authenticate, Challenge: challenge, Blocking: c.ValidateBody}
	if c.Hide {
		hooks.Request = conceal
	}
	if c.Anonymous != "" {
		if hooks.Anonymous = b.World.Consumers[c.Anonymous]; hooks.Anonymous == nil {
			return hooks, policy.Wrong("anonymous", "there is no consumer %q", c.Anonymous)
		}
	}
	if a.users, err = policy.Once(b.World, "hmac_auth/users", func() (*users, error) { return newUsers(b.World) }); err != nil {
		return hooks, err
	}
	if !c.ReplayProtection {
		return hooks, nil
	}
	a.seen = newSeen()
	if !b.World.DryRun {
		// One store for all places: a signature that was used on one route is used.
		if a.seen, err = policy.LivingAs(b.World, "hmac_auth/seen", func() (*seen, error) { return a.seen, nil }); err != nil {
			return hooks, err
		}
	}
	a.seen.keepFor(a.skew)
	return hooks, nil
}

// users are the credentials of all consumers. They are immutable.
type users struct {
	byName map[string]*user
	nobody *user // computes signatures for names that nobody has
}

type user struct {
	name     []byte
	consumer *exchange.Consumer
	macs     [len(algorithms)]sync.Pool // of *mac
}

// mac is a keyed HMAC with room for what it computes.
type mac struct {
	hash.Hash
	sum  [sha512.Size]byte
	name [maxName]byte
}

func newUser(name string, secret []byte, consumer *exchange.Consumer) *user {
	u := &user{name: []byte(name), consumer: consumer}
	for i := range u.macs {
		u.macs[i].New = func() any { return &mac{Hash: hmac.New(algorithms[i].make, secret)} }
	}
	return u
}

func newUsers(w *policy.World) (*users, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	u := &users{byName: make(map[string]*user), nobody: newUser("", secret, nil)}
	var errs config.Errors
	for _, consumer := range slices.Sorted(maps.Keys(w.Config.Consumers)) {
		for i, cred := range w.Config.Consumers[consumer].HMAC {
			path := fmt.Sprintf("consumers.%s.hmac[%d]", consumer, i)
			name := cred.Username
			if name == "" {
				name = consumer
			}
			secret := cred.Secret.Reveal()
			if first := u.byName[name]; first != nil {
				errs = append(errs, w.Config.Errorf(path+".username", "consumer %s has a user %q already", first.consumer.Name, name))
				continue
			}
			if secret == "" {
				errs = append(errs, w.Config.Errorf(path+".secret", "is empty; anybody could sign"))
				continue
			}
			if len(secret) < minSecret {
				w.Warn(path+".secret", fmt.Sprintf("%d bytes is short; a secret of fewer than %d can be guessed from any signature", len(secret), minSecret))
			}
			u.byName[name] = newUser(name, []byte(secret), w.Consumers[consumer])
		}
	}
	return u, errs.Err()
}

// minSecret is the length in bytes that RFC 2104, section 3, advises for the shortest hash.
const minSecret = 20

func (a *authenticator) authenticate(x *exchange.Exchange) error {
	value, several := find(x)
	if value == nil {
		return exchange.ErrNoCredential
	}
	var c credential
	if several || !c.parse(value) || !a.covers(&c) {
		x.AuthFailure = "malformed"
		return invalid
	}
	alg := slices.IndexFunc(algorithms[:], func(alg algorithm) bool { return alg.name == string(c.algorithm) })
	if alg < 0 || !a.allowed[alg] {
		x.AuthFailure = "wrong_algorithm"
		return invalid
	}
	date, ok := dateOf(x, &c)
	if !ok {
		x.AuthFailure = "malformed"
		return invalid
	}
	now := x.Arrived.UnixNano()
	switch {
	case date < now-a.skew:
		x.AuthFailure = "expired"
		return invalid
	case date > now+a.skew:
		x.AuthFailure = "not_yet_valid"
		return invalid
	}
	u, known := a.users.byName[string(c.username)]
	if !known {
		u = a.users.nobody
	}
	m := u.macs[alg].Get().(*mac)
	defer u.macs[alg].Put(m)
	if !m.sign(x, &c) {
		x.AuthFailure = "malformed"
		return invalid
	}
	sum := m.Sum(m.sum[:0])
	if matches := hmac.Equal(sum, c.signature[:c.size]); !matches || !known {
		x.AuthFailure = "bad_signature"
		if !known {
			x.AuthFailure = "unknown_user"
		}
		return invalid
	}
	if a.body > 0 {
		if err := a.digested(x, &c); err != nil {
			return err
		}
	}
	if a.seen != nil {
		switch a.seen.add(u.name, sum, date, now, a.maxSeen) {
		case again:
			x.AuthFailure = "replayed"
			return invalid
		case full:
			return busy
		}
	}
	id := &x.Identity
	id.Authenticated, id.Method, id.Subject, id.Consumer = true, "hmac_auth", u.name, u.consumer
	x.ToBackend.Set("X-User-ID", u.name)
	return nil
}

// conceal keeps signatures from the backend, those too that another policy leaves unread. Proxy-Authorization never passes.
func conceal(x *exchange.Exchange) error {
	if _, ok := isHMAC(x.RequestHeader("Authorization")); ok {
		x.ToBackend.Remove("Authorization")
	}
	return nil
}

// dateOf reads the date that is signed, in Unix nanoseconds.
func dateOf(x *exchange.Exchange, c *credential) (ns int64, ok bool) {
	name := "date"
	if c.signs("x-date") {
		name = "x-date"
	}
	var value []byte
	for i := range x.Fields {
		if !exchange.EqualFold(x.Fields[i].Name, name) {
			continue
		}
		if value != nil {
			return 0, false // which one would the backend believe?
		}
		value = x.Fields[i].Value
	}
	if len(value) == 0 || len(value) > len(time.RFC3339Nano)+8 {
		return 0, false
	}
	layout := time.RFC3339Nano
	if value[0] > '9' {
		layout = imfFixdate
	}
	t, err := time.Parse(layout, string(value))
	return t.UnixNano(), err == nil
}

// imfFixdate is how HTTP writes dates (RFC 9110, section 5.6.7).
const imfFixdate = "Mon, 02 Jan 2006 15:04:05 GMT"
