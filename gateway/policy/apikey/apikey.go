// Package apikey authenticates requests by API keys: those of the configuration, and those that were made at run time. Both
// are held as hashes alone; a key that is presented is hashed, and the hash is found through a keyed index and compared in
// constant time, so that neither a file nor the time an answer takes tells a key. It costs no allocation.
package apikey

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/keys"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `api_key`. The keys are those of the consumers: what `consumers.NAME.api_keys` has, and with
// `state.dir` those that `sluice keys` and `/api/consumers/NAME/keys` make, which work at once and end at once. A key that is limited to
// other addresses, methods or paths gets 403.
type Config struct {
	// Header that carries the key, or several that may. Empty: none.
	Header config.StringList `yaml:"header" default:"X-API-Key"`
	// Query parameter that carries the key, or several that may, where no header has one; URLs are often logged, so prefer the header.
	Query config.StringList `yaml:"query"`
	// Subprotocol is the name under which a WebSocket carries the key among its subprotocols, where no header or parameter has one: browsers write `new WebSocket(url, ["api-key", key])`, or `"api-key." + key`. Where nobody chooses another subprotocol, that name is the answer.
	Subprotocol string `yaml:"subprotocol"`
	// Hide keeps the key from the backend.
	Hide bool `yaml:"hide" default:"true"`
	// Anonymous is the consumer that requests without a valid credential are taken for. Default: they are refused.
	Anonymous string `yaml:"anonymous"`
}

// Definition is the policy `api_key`.
var Definition = policy.Define("api_key", policy.Authenticate, build)

// MaxKeySize is the largest key in bytes that is looked at.
const MaxKeySize = 1024

const challenge = "Key"

var invalid = exchange.NewReject(401, "credential_invalid", "the API key is not valid", exchange.Header("WWW-Authenticate", challenge))

// elsewhere is for a key that is good for other requests.
var elsewhere = exchange.NewReject(403, "credential_restricted", "the API key may not be used for this request")

type authenticator struct {
	listed        *index      // of the configuration
	made          *keys.Store // nil without state.dir
	consumers     map[string]*exchange.Consumer
	header, query []string
	subprotocol   policy.Subprotocol
	hide          bool
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	a := &authenticator{hide: c.Hide, subprotocol: policy.Subprotocol(c.Subprotocol), made: b.World.Keys, consumers: b.World.Consumers}
	if err := policy.CheckSubprotocol(c.Subprotocol); err != nil {
		return policy.Hooks{}, err
	}
	for _, name := range c.Header {
		if name == "" {
			continue
		}
		if !exchange.IsToken(name) {
			return policy.Hooks{}, policy.Wrong("header", "%q can not be the name of a header", name)
		}
		a.header = append(a.header, textproto.CanonicalMIMEHeaderKey(name))
	}
	for _, name := range c.Query {
		if name != "" {
			a.query = append(a.query, name)
		}
	}
	if len(a.header)+len(a.query) == 0 && a.subprotocol == "" {
		return policy.Hooks{}, policy.Wrong("header", "names no place, nor does query; give one of them")
	}
	hooks := policy.Hooks{Authenticate: a.authenticate, Challenge: challenge}
	if c.Hide {
		hooks.Request = a.conceal
	}
	if a.subprotocol != "" {
		hooks.Response = func(x *exchange.Exchange) error {
			a.subprotocol.Answer(x)
			return nil
		}
	}
	if c.Anonymous != "" {
		if hooks.Anonymous = b.World.Consumers[c.Anonymous]; hooks.Anonymous == nil {
			return policy.Hooks{}, policy.Wrong("anonymous", "there is no consumer %q", c.Anonymous)
		}
	}
	var err error
	a.listed, err = policy.Once(b.World, "api_key/index", func() (*index, error) { return newIndex(b.World) })
	return hooks, err
}

// index finds a key by its hash. It is immutable.
type index struct {
	seed maphash.Seed
	// Its keys are hashes of the hashes under a seed of this process: who measures a lookup learns about no key.
	byHash map[uint64][]key
}

type key struct {
	sum      [sha256.Size]byte
	expires  int64 // Unix nanoseconds
	consumer *exchange.Consumer
	id       []byte // nil for none
}

func newIndex(w *policy.World) (*index, error) {
	x := &index{seed: maphash.MakeSeed(), byHash: make(map[uint64][]key)}
	var errs config.Errors
	for _, name := range slices.Sorted(maps.Keys(w.Config.Consumers)) {
		for i, k := range w.Config.Consumers[name].APIKeys {
			sum, err := hex.DecodeString(strings.TrimPrefix(k.Hash, "sha256:"))
			if err != nil || len(sum) != sha256.Size {
				errs = append(errs, w.Config.Errorf(fmt.Sprintf("consumers.%s.api_keys[%d].hash", name, i), "this is no hash; write sha256: and 64 hexadecimal digits"))
				continue
			}
			made := key{sum: [sha256.Size]byte(sum), expires: math.MaxInt64, consumer: w.Consumers[name]}
			if k.ID != "" {
				made.id = []byte(k.ID)
			}
			if !k.Expires.IsZero() && k.Expires.Before(time.Unix(0, math.MaxInt64)) { // 9999 is never
				made.expires = k.Expires.UnixNano()
			}
			at := maphash.Bytes(x.seed, sum)
			x.byHash[at] = append(x.byHash[at], made)
		}
	}
	return x, errs.Err()
}

func (x *index) find(sum *[sha256.Size]byte) *key {
	candidates := x.byHash[maphash.Bytes(x.seed, sum[:])]
	for i := range candidates {
		if subtle.ConstantTimeCompare(candidates[i].sum[:], sum[:]) == 1 {
			return &candidates[i]
		}
	}
	return nil
}

func (a *authenticator) authenticate(x *exchange.Exchange) error {
	presented, ok := a.presented(x)
	if !ok || len(presented) > MaxKeySize {
		x.AuthFailure = "malformed"
		return invalid
	}
	if len(presented) == 0 {
		return exchange.ErrNoCredential
	}
	sum := sha256.Sum256(presented)
	k := a.listed.find(&sum)
	if k == nil {
		return a.madeAtRunTime(x, &sum)
	}
	if x.Arrived.UnixNano() >= k.expires {
		x.AuthFailure = "expired"
		return invalid
	}
	identify(x, k.consumer, k.id)
	return nil
}

func identify(x *exchange.Exchange, c *exchange.Consumer, credential []byte) {
	id := &x.Identity
	id.Authenticated, id.Method, id.Subject, id.Consumer, id.Credential = true, "api_key", c.NameHeader, c, credential
	x.ToBackend.Set("X-User-ID", c.NameHeader)
}

// madeAtRunTime looks for the key among those that are in no configuration.
func (a *authenticator) madeAtRunTime(x *exchange.Exchange, sum *[sha256.Size]byte) error {
	var k *keys.Key
	if a.made != nil {
		k = a.made.Find(sum)
	}
	if k == nil {
		x.AuthFailure = "unknown_key"
		return invalid
	}
	c := a.consumers[k.Consumer]
	if c == nil || tenantOf(c) != k.Tenant {
		x.AuthFailure = "unknown_consumer" // it has left the configuration, or another one has its name
		return invalid
	}
	switch why := k.Refused(x.Arrived, x.ClientAddr, x.Method(), x.Path); why {
	case "":
	case "revoked", "expired":
		x.AuthFailure = why
		return invalid
	default:
		x.AuthFailure = why
		return elsewhere
	}
	k.Used(x.Arrived)
	identify(x, c, k.IDBytes())
	return nil
}

func tenantOf(c *exchange.Consumer) string {
	if c.Tenant == nil {
		return ""
	}
	return c.Tenant.Name
}

// presented returns the key that the request has, none being empty. Two keys are refused: the backend may believe another.
func (a *authenticator) presented(x *exchange.Exchange) (k []byte, ok bool) {
	for _, name := range a.header {
		values := x.PeekAll(name)
		if len(values) > 1 {
			return nil, false
		}
		if len(values) == 1 && len(values[0]) > 0 {
			return values[0], true
		}
	}
	for _, name := range a.query {
		k, n := x.QueryValue(name)
		if n > 1 {
			return nil, false
		}
		if len(k) > 0 {
			return k, true
		}
	}
	k, n := a.subprotocol.Find(x)
	return k, n <= 1
}

// conceal keeps keys from the backend, those too that another policy leaves unread.
func (a *authenticator) conceal(x *exchange.Exchange) error {
	for _, name := range a.header {
		x.ToBackend.Remove(name)
	}
	for _, name := range a.query {
		query := x.BackendQuery()
		if kept := exchange.QueryWithout(x.Scratch(), query, name); len(kept) != len(query) {
			x.SetUpstreamQuery(x.Keep(kept))
		}
	}
	a.subprotocol.Hide(x)
	return nil
}
