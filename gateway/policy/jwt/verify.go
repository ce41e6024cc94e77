// Package jwt authenticates requests by JSON Web Tokens (RFC 7519) that carry a signature (RFC 7515). A token is accepted
// only if a key that is pinned to the token's algorithm verifies it and every time, issuer and audience check holds;
// whatever could be read in two ways is refused. The signatures themselves are golang-jwt's work, the JSON Web Key Sets
// keyfunc's. A token that was verified before costs no signature, no allocation, and has its times checked again.
package jwt

import (
	"hash/maphash"
	"math"
	"slices"
	"time"
	"unsafe"
)

// Reason tells why a token was refused; 0 is none. It is for logs and metrics: a client is only told that its token is
// missing or invalid.
type Reason uint8

// The reasons. There are no others.
const (
	Missing        Reason = iota + 1 // no token
	Malformed                        // not a token, too large, or readable in two ways
	WrongAlgorithm                   // an algorithm that no key is pinned to, "none" among them
	UnknownKey                       // no key with that kid
	NoKeys                           // the key set could not be fetched yet
	BadSignature
	Expired
	NotYetValid // nbf or iat lies in the future
	MissingClaim
	WrongIssuer
	WrongAudience
	NoIssuer // no iss, where it chooses the key
	TooLong  // exp lies further in the future than it may
	Revoked  // by who runs the gateway
)

var reasonNames = [...]string{
	"", "missing", "malformed", "wrong_algorithm", "unknown_key", "no_keys", "bad_signature", "expired", "not_yet_valid",
	"missing_claim", "wrong_issuer", "wrong_audience", "no_issuer", "too_long", "revoked",
}

// String is the word for logs and metrics.
func (r Reason) String() string { return reasonNames[r] }

// Settings are what a Verifier holds a token against.
type Settings struct {
	Own      Source              // the policy's own keys
	ByIssuer map[string][]Source // keys of consumers, chosen by the token's iss
	Issuer   string              // iss that tokens verified by Own must have; "" for any
	Audience []string            // one of these must be in aud; empty for any
	Required []string            // claims that must be present
	Leeway   time.Duration       // for exp, nbf and iat
	Forward  []string            // paths of claims whose text Claims.Forwarded has ready
	// OnlyRequired looks at exp, nbf and iat only where they are among Required.
	OnlyRequired bool
	MaxLifetime  time.Duration // how far in the future exp may be; 0: no bound
}

// A Source is keys that belong together.
type Source struct {
	Keys     []*Key
	Remote   *Remote // a key set behind a URL; nil for none
	Consumer string  // whose keys they are; "" for those of the policy
}

// A Verifier verifies tokens and remembers those it has verified. It is safe for concurrent use.
type Verifier struct {
	set     Settings
	remotes []*Remote
	allowed algorithms // of all sources together
	leeway  int64
	seed    maphash.Seed
	cache   cache
}

// NewVerifier makes a Verifier. It keeps the settings.
func NewVerifier(set Settings) *Verifier {
	v := &Verifier{set: set, leeway: int64(set.Leeway), seed: maphash.MakeSeed()}
	v.count(&set.Own)
	for _, sources := range set.ByIssuer {
		for i := range sources {
			v.count(&sources[i])
		}
	}
	return v
}

func (v *Verifier) count(s *Source) {
	for _, k := range s.Keys {
		v.allowed |= k.allowed
	}
	if s.Remote != nil {
		v.allowed |= s.Remote.allowed
		v.remotes = append(v.remotes, s.Remote)
	}
}

// generation grows whenever a key that may have verified a remembered token was withdrawn.
func (v *Verifier) generation() (sum uint64) {
	for _, r := range v.remotes {
		sum += r.Generation()
	}
	return sum
}

// remoteNumbers tells which key sets it asks: a Verifier is of no use any more when one of them was closed.
func (v *Verifier) remoteNumbers() (numbers []uint64) {
	for _, r := range v.remotes {
		numbers = append(numbers, r.number)
	}
	slices.Sort(numbers)
	return numbers
}

// Verify returns what the token says, or why it is refused at this time in Unix nanoseconds. It does not keep the token.
// With a Remote it may wait for a key set, once in 30 seconds and for as long as a fetch may take; see Remote.
func (v *Verifier) Verify(token []byte, now int64) (*Claims, Reason) {
	if len(token) == 0 {
		return nil, Missing
	}
	if len(token) > MaxTokenSize {
		return nil, Malformed
	}
	hash := maphash.Bytes(v.seed, token)
	// The generation is read before the keys are: a token verified while the key set changes is stored as the past.
	generation := v.generation()
	if c := v.cache.get(hash, token, generation); c != nil {
		return v.timely(c, now)
	}
	p := parsedPool.Get().(*parsed)
	consumer, reason := v.check(p, unsafe.String(&token[0], len(token)), now)
	if reason != 0 {
		releaseParsed(p)
		return nil, reason
	}
	c := p.newClaims(consumer, v.set.Forward)
	releaseParsed(p)
	v.cache.put(&entry{hash: hash, generation: generation, token: string(token), claims: c}, now)
	return c, 0
}

func (v *Verifier) timely(c *Claims, now int64) (*Claims, Reason) {
	if now >= after(c.expires, v.leeway) {
		return nil, Expired
	}
	if now < after(c.notBefore, -v.leeway) {
		return nil, NotYetValid
	}
	return c, 0
}

// after adds to a time; the end and the beginning of time stay where they are.
func after(ns, d int64) int64 {
	switch sum := ns + d; {
	case d > 0 && sum < ns:
		return math.MaxInt64
	case d < 0 && sum > ns:
		return math.MinInt64
	default:
		return sum
	}
}

// check goes from the cheap to the dear, and believes nothing before the signature is verified but the choice of the key.
func (v *Verifier) check(p *parsed, token string, now int64) (consumer string, reason Reason) {
	if reason := p.split(token); reason != 0 {
		return "", reason
	}
	if v.allowed&p.alg == 0 {
		return "", WrongAlgorithm
	}
	consumer, reason = v.verify(p)
	if reason != 0 {
		return "", reason
	}
	if reason := p.readClaims(); reason != 0 {
		return "", reason
	}
	if consumer == "" && v.set.Issuer != "" && !equalTo(p.iss, v.set.Issuer) {
		return "", WrongIssuer
	}
	if len(v.set.Audience) > 0 && !v.isAudience(p.aud) {
		return "", WrongAudience
	}
	if v.set.OnlyRequired {
		v.overlook(p)
	}
	if now >= after(p.expires, v.leeway) {
		return "", Expired
	}
	if v.set.MaxLifetime > 0 && p.expires > after(now, int64(v.set.MaxLifetime)) {
		return "", TooLong
	}
	if now < after(p.notBefore, -v.leeway) || now < after(p.issuedAt, -v.leeway) {
		return "", NotYetValid
	}
	for _, claim := range v.set.Required {
		if !slices.Contains(p.names, claim) {
			return "", MissingClaim
		}
	}
	return consumer, 0
}

// overlook makes nothing of the times that are not required.
func (v *Verifier) overlook(p *parsed) {
	if !slices.Contains(v.set.Required, "exp") {
		p.expires = math.MaxInt64
	}
	if !slices.Contains(v.set.Required, "nbf") {
		p.notBefore = math.MinInt64
	}
	if !slices.Contains(v.set.Required, "iat") {
		p.issuedAt = math.MinInt64
	}
}

// verify looks for the key: among those of the consumers with this issuer, then among the policy's own. The reason is that
// of the last source where something fitted.
func (v *Verifier) verify(p *parsed) (consumer string, reason Reason) {
	reason = WrongAlgorithm
	if len(v.set.ByIssuer) > 0 {
		if iss, ok := p.issuer(); !ok {
			reason = NoIssuer
		} else {
			sources := v.set.ByIssuer[iss]
			if len(sources) == 0 {
				reason = UnknownKey
			}
			for i := range sources {
				if sources[i].try(p, &reason) {
					return sources[i].Consumer, 0
				}
			}
		}
	}
	if v.set.Own.try(p, &reason) {
		return "", 0
	}
	return "", reason
}

func (s *Source) try(p *parsed, reason *Reason) bool {
	return p.try(s.Keys, reason) || s.Remote != nil && s.Remote.allowed&p.alg != 0 && s.Remote.try(p, reason)
}

// maxTries bounds the signatures that one token may cost: tokens without kid are tried with every key that fits.
const maxTries = 8

// try reports whether one of the keys verifies the token.
func (p *parsed) try(keys []*Key, reason *Reason) bool {
	tries := 0
	for _, k := range keys {
		if k.allowed&p.alg == 0 || k.id != "" && p.kid != "" && k.id != p.kid {
			continue
		}
		*reason = BadSignature
		if tries++; tries > maxTries {
			return false
		}
		if k.verify(p.alg, p.signed, p.signature) {
			return true
		}
	}
	return false
}

func equalTo(value, want string) bool {
	return value != "" && equalName(value[1:len(value)-1], want)
}

func (v *Verifier) isAudience(aud string) (found bool) {
	if aud == "" {
		return false
	}
	if aud[0] == '"' {
		return v.wants(aud)
	}
	elements(aud, func(e string) bool {
		found = v.wants(e)
		return !found
	})
	return found
}

func (v *Verifier) wants(aud string) bool {
	for _, want := range v.set.Audience {
		if equalTo(aud, want) {
			return true
		}
	}
	return false
}
