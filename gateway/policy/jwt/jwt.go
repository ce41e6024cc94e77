package jwt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/revocation"
)

// Config are the settings of the policy `jwt`. One of `secret`, `public_key`, `jwks_url` and `issuer` says how tokens are
// verified, or the consumers' own keys do.
type Config struct {
	// Algorithms accepted. Default: HS256 for `secret`; RS256, EdDSA or the algorithm of its curve for a public key; for a key set what its keys say.
	Algorithms []string `yaml:"algorithms" enum:"HS256|HS384|HS512|RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA"`
	// Secret of the HS algorithms; at least as long as the hash, 32 bytes for HS256.
	Secret config.Secret `yaml:"secret"`
	// PublicKey of the other algorithms, PEM: a public key or a certificate; `${file:PATH}` reads it from a file.
	PublicKey string `yaml:"public_key"`
	// JWKSURL of a JSON Web Key Set; read again every 5 minutes, and at most every 30 seconds for a key that is not known. While it can not be read, the keys known so far stay; until it was read for the first time, tokens that need it get 503.
	JWKSURL string `yaml:"jwks_url"`
	// Issuer that `iss` must name. Without any key here it is an OpenID provider, and its discovery document tells where the keys are.
	Issuer string `yaml:"issuer"`
	// Audience: one of these must be in `aud`. Default: any.
	Audience config.StringList `yaml:"audience"`
	// ClaimsToVerify must be in the token. `exp`, `nbf` and `iat` are checked wherever they are.
	ClaimsToVerify []string `yaml:"claims_to_verify" default:"exp"`
	// CheckUnlisted false looks at `exp`, `nbf` and `iat` only where `claims_to_verify` names them, as Kong does: tokens that have expired pass.
	CheckUnlisted bool `yaml:"check_unlisted" default:"true"`
	// MaxLifetime is how far in the future `exp` may be; 0s: as far as it likes.
	MaxLifetime config.Duration `yaml:"max_lifetime" default:"0s"`
	// SecretBase64 says that `secret` is written in base64, of either alphabet.
	SecretBase64 bool `yaml:"secret_base64" default:"false"`
	// Leeway for clocks that differ.
	Leeway config.Duration `yaml:"leeway" default:"0s" max:"1h"`
	// From says where the token is; the first place that has one counts.
	From From `yaml:"from"`
	// Forward sends claims to the backend, by header. `X-User-ID: sub` is added unless the header stands here; an empty claim sends nothing.
	Forward map[string]string `yaml:"forward"`
	// ConsumerClaim names the claim that is a consumer's name. A token verified by a consumer's own key is that consumer's.
	ConsumerClaim string `yaml:"consumer_claim" default:"sub"`
	// Anonymous is the consumer that requests without a valid credential are taken for. Default: they are refused.
	Anonymous string `yaml:"anonymous"`
}

// Complete fills in the algorithms of a secret, and what every backend is told.
func (c *Config) Complete() {
	if len(c.Algorithms) == 0 && !c.Secret.IsZero() && c.PublicKey == "" && c.JWKSURL == "" {
		c.Algorithms = []string{"HS256"}
	}
	for header := range c.Forward {
		if strings.EqualFold(header, userID) {
			return
		}
	}
	if c.Forward == nil {
		c.Forward = make(map[string]string)
	}
	c.Forward[userID] = "sub"
}

// From is where a token can be.
type From struct {
	// Header that carries it, or several that may; in Authorization behind the scheme Bearer. Empty: none.
	Header config.StringList `yaml:"header" default:"Authorization"`
	// Cookie that carries it, or several that may.
	Cookie config.StringList `yaml:"cookie"`
	// Query parameter that carries it, or several that may; URLs are often logged, so prefer the others.
	Query config.StringList `yaml:"query"`
	// Subprotocol is the name under which a WebSocket carries it among its subprotocols, as `bearer`: browsers, which can set no header there, write `new WebSocket(url, ["bearer", token])`, or `"bearer." + token`. The backend sees neither; where it chooses no subprotocol, that name is the answer.
	Subprotocol string `yaml:"subprotocol"`
}

// Definition is the policy `jwt`.
var Definition = policy.Define("jwt", policy.Authenticate, build)

var invalid = exchange.NewReject(401, "credential_invalid", "the token is not valid",
	exchange.Header("WWW-Authenticate", `Bearer error="invalid_token"`))

// keyless is for tokens that nobody can judge: the key set has never been
// fetched. Who sent one is not to blame, and to sign in anew would not help.
var keyless = exchange.NewReject(503, "keys_unavailable", "the keys that verify tokens can not be fetched; try again later",
	exchange.Header("Retry-After", "10"))

// userID is the header that every authenticated request has towards the backend.
const userID = "X-User-ID"

type authenticator struct {
	verifier      *Verifier
	revoked       *revocation.List // nil: nothing is opened
	consumers     map[string]*exchange.Consumer
	consumerClaim string
	headers       []place
	cookie, query []string
	subprotocol   policy.Subprotocol
	forward       []string // header names, sorted, in the order of Settings.Forward
	strips        []string // those that a client's field could get through to the backend by
	userID        int      // which of them is X-User-ID by sub, -1 if none
}

// place is a header that may carry a token.
type place struct {
	name   string // canonical
	bearer bool   // it is Authorization: only the scheme Bearer is meant
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	written := func(list config.StringList) []string {
		return slices.DeleteFunc(slices.Clone([]string(list)), func(name string) bool { return name == "" })
	}
	a := &authenticator{
		revoked:       b.World.Revoked,
		consumers:     b.World.Consumers,
		consumerClaim: c.ConsumerClaim,
		cookie:        written(c.From.Cookie),
		query:         written(c.From.Query),
		subprotocol:   policy.Subprotocol(c.From.Subprotocol),
		userID:        -1,
	}
	if err := policy.CheckSubprotocol(c.From.Subprotocol); err != nil {
		return policy.Hooks{}, policy.Wrong("from", "%v", err)
	}
	for _, name := range written(c.From.Header) {
		if !exchange.IsToken(name) {
			return policy.Hooks{}, policy.Wrong("from.header", "%q can not be the name of a header", name)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		a.headers = append(a.headers, place{name, name == "Authorization"})
	}
	if len(a.headers)+len(a.cookie)+len(a.query) == 0 && a.subprotocol == "" {
		return policy.Hooks{}, policy.Wrong("from", "names no place; give a header, a cookie, a query parameter or a subprotocol")
	}
	hooks := policy.Hooks{Authenticate: a.authenticate, Challenge: "Bearer"}
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
	set := Settings{Issuer: c.Issuer, Audience: c.Audience, Required: c.ClaimsToVerify, Leeway: c.Leeway, OnlyRequired: !c.CheckUnlisted, MaxLifetime: c.MaxLifetime}
	if err := a.readForward(c, &set); err != nil {
		return policy.Hooks{}, err
	}
	if len(a.strips) > 0 || a.subprotocol != "" {
		hooks.Request = a.strip
	}
	var err error
	if set.Own, err = own(b, c); err != nil {
		return policy.Hooks{}, err
	}
	theirs, err := readConsumers(b.World, c.Algorithms)
	if err != nil {
		return policy.Hooks{}, err
	}
	set.ByIssuer = theirs.byIssuer
	if len(set.ByIssuer) == 0 && len(set.Own.Keys) == 0 && set.Own.Remote == nil {
		return policy.Hooks{}, errors.New("no key verifies tokens; give secret, public_key, jwks_url or issuer, or consumers with jwt keys of their own")
	}
	// Routes with equal settings share one verifier, and it stays over reloads that do not change it.
	a.verifier = NewVerifier(set)
	hooks.Blocking = len(a.verifier.remotes) > 0
	if !b.World.DryRun {
		identity := digest(theirs.digest, a.verifier.remoteNumbers(), c.Secret.Reveal(), c.PublicKey, c.JWKSURL, c.Issuer, c.Algorithms, c.Audience, c.ClaimsToVerify, c.Leeway, set.Forward, c.CheckUnlisted, c.MaxLifetime, c.SecretBase64)
		if a.verifier, err = policy.LivingAs(b.World, "jwt/verifier/"+identity, func() (*Verifier, error) { return a.verifier, nil }); err != nil {
			return policy.Hooks{}, err
		}
	}
	return hooks, nil
}

func (a *authenticator) readForward(c *Config, set *Settings) error {
	for header, claim := range c.Forward {
		if kind := exchange.KindOf([]byte(header)); !exchange.IsToken(header) {
			return policy.Wrong("forward", "%q can not be the name of a header", header)
		} else if kind != exchange.KindOther && kind != exchange.KindIdentity {
			return policy.Wrong("forward", "%s has a meaning of its own; choose another, such as X-User-Email", header)
		}
		if claim != "" {
			a.forward = append(a.forward, header)
		}
	}
	slices.Sort(a.forward)
	for i, header := range a.forward {
		set.Forward = append(set.Forward, c.Forward[header])
		if exchange.KindOf([]byte(header)) != exchange.KindIdentity { // a client's own of those never pass
			a.strips = append(a.strips, header)
		}
		if strings.EqualFold(header, userID) && c.Forward[header] == "sub" {
			a.userID = i
		}
	}
	return nil
}

// own reads the policy's own keys.
func own(b *policy.Build, c *Config) (src Source, err error) {
	algs, err := parseAlgorithms(c.Algorithms)
	if err != nil {
		return src, policy.Wrong("algorithms", "%s", err)
	}
	if secret := c.Secret.Reveal(); secret != "" {
		if secret, err = secretOf(secret, c.SecretBase64); err != nil {
			return src, policy.Wrong("secret", "%s", err)
		}
		k, err := NewSecretKey(secret, algs)
		if err != nil {
			return src, policy.Wrong("secret", "%s", err)
		}
		if want := shortSecret(secret, k.allowed); want > 0 {
			b.Warnf("secret", "%d bytes is short for %s, which wants at least %d (RFC 7518 section 3.2); such a secret can be guessed from any token", len(secret), k.allowed, want)
		}
		src.Keys = append(src.Keys, k)
	}
	if c.PublicKey != "" {
		k, err := NewPublicKey(c.PublicKey, algs)
		if err != nil {
			return src, policy.Wrong("public_key", "%s", err)
		}
		src.Keys = append(src.Keys, k)
	}
	switch {
	case c.JWKSURL != "":
		if src.Remote, err = fetched(b.World, RemoteSettings{URL: c.JWKSURL, Algorithms: c.Algorithms}); err != nil {
			return src, policy.Wrong("jwks_url", "%s", err)
		}
	case c.Issuer != "" && len(src.Keys) == 0:
		if src.Remote, err = fetched(b.World, RemoteSettings{Issuer: c.Issuer, Algorithms: c.Algorithms}); err != nil {
			return src, policy.Wrong("issuer", "%s; without secret, public_key and jwks_url the keys are found through it", err)
		}
	}
	return src, nil
}

// secretOf decodes a secret that is written in base64.
func secretOf(text string, encoded bool) (string, error) {
	if !encoded {
		return text, nil
	}
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return "", errors.New("is not written in base64; write secret_base64: false, or encode it")
	}
	return string(raw), nil
}

// fetched returns the Remote of these settings, which routes share.
func fetched(w *policy.World, set RemoteSettings) (*Remote, error) {
	set.Log = w.Log
	r, err := NewRemote(set)
	if err != nil || w.DryRun {
		return r, err
	}
	return policy.LivingAs(w, "jwt/keys/"+digest(set.URL, set.Issuer, set.Algorithms), func() (*Remote, error) {
		r.Start()
		return r, nil
	})
}

// consumersKeys are the keys that consumers bring along.
type consumersKeys struct {
	byIssuer map[string][]Source
	digest   string
}

// readConsumers reads them once for all policies that accept the same algorithms, which is what a consumer's key without
// algorithms of its own gets.
func readConsumers(w *policy.World, names []string) (*consumersKeys, error) {
	return policy.Once(w, "jwt/consumers/"+strings.Join(names, " "), func() (*consumersKeys, error) {
		algs, err := parseAlgorithms(names)
		if err != nil {
			return nil, policy.Wrong("algorithms", "%s", err)
		}
		all := &consumersKeys{byIssuer: make(map[string][]Source)}
		var errs config.Errors
		parts := []any{names}
		for _, name := range slices.Sorted(maps.Keys(w.Config.Consumers)) {
			for i, cred := range w.Config.Consumers[name].JWT {
				src, err := credential(w, &cred, algs)
				if err != nil {
					errs = append(errs, w.Config.Errorf(fmt.Sprintf("consumers.%s.jwt[%d]", name, i), "%s", err))
					continue
				}
				src.Consumer = name
				all.byIssuer[cred.Issuer] = append(all.byIssuer[cred.Issuer], src)
				parts = append(parts, name, cred.Issuer, cred.Algorithms, cred.Secret.Reveal(), cred.SecretBase64, cred.PublicKey, cred.JWKSURL)
			}
		}
		all.digest = digest(parts...)
		return all, errs.Err()
	})
}

func credential(w *policy.World, cred *config.JWTCredential, policys algorithms) (src Source, err error) {
	algs, err := parseAlgorithms(cred.Algorithms)
	if err != nil {
		return src, err
	}
	fit := func(fits algorithms) algorithms {
		if algs == 0 {
			return policys & fits
		}
		return algs
	}
	switch {
	case !cred.Secret.IsZero():
		secret, err := secretOf(cred.Secret.Reveal(), cred.SecretBase64)
		if err != nil {
			return src, fmt.Errorf("secret: %w", err)
		}
		k, err := NewSecretKey(secret, fit(symmetric))
		if err != nil {
			return src, fmt.Errorf("secret: %w", err)
		}
		src.Keys = []*Key{k}
	case cred.PublicKey != "":
		public, err := parsePublicKey(cred.PublicKey)
		if err != nil {
			return src, fmt.Errorf("public_key: %w", err)
		}
		fits, _ := fitting(public)
		k, err := NewPublicKey(cred.PublicKey, fit(fits))
		if err != nil {
			return src, fmt.Errorf("public_key: %w", err)
		}
		src.Keys = []*Key{k}
	default:
		if src.Remote, err = fetched(w, RemoteSettings{URL: cred.JWKSURL, Algorithms: cred.Algorithms}); err != nil {
			return src, fmt.Errorf("jwks_url: %w", err)
		}
	}
	return src, nil
}

// digest is the same for equal settings, and tells nothing about them.
func digest(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic("BUG: settings are always JSON: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// strip keeps a client from setting the headers that only a token may fill, whichever policy authenticates the request.
func (a *authenticator) strip(x *exchange.Exchange) error {
	for _, header := range a.strips {
		x.ToBackend.Remove(header)
	}
	a.subprotocol.Hide(x)
	return nil
}

func (a *authenticator) authenticate(x *exchange.Exchange) error {
	token, reason := a.find(x)
	if reason == Missing {
		return exchange.ErrNoCredential
	}
	var c *Claims
	if reason == 0 {
		if c, reason = a.verifier.Verify(token, x.Arrived.UnixNano()); reason == 0 && a.revoked != nil && a.revoked.Some() && a.isRevoked(c, token) {
			reason = Revoked
		}
	}
	if reason != 0 {
		return refuse(x, reason)
	}
	id := &x.Identity
	id.Authenticated, id.Method, id.Claims = true, "jwt", c
	if c.Subject != "" {
		id.Subject = bytesOf(c.Subject)
	}
	if len(a.consumers) > 0 {
		id.Consumer = a.consumerOf(c)
	}
	for i, header := range a.forward {
		if value := c.Forwarded(i); value != "" {
			x.ToBackend.Set(header, bytesOf(value))
		} else {
			a.forwardNothing(x, i)
		}
	}
	return nil
}

// consumerOf returns the consumer whose key has verified the token, else the one whom it names; nil for neither.
func (a *authenticator) consumerOf(c *Claims) *exchange.Consumer {
	if c.Consumer != "" {
		return a.consumers[c.Consumer]
	}
	name, _ := c.Claim(a.consumerClaim)
	return a.consumers[string(name)]
}

// forwardNothing deals with a header whose claim the token does not have: in the place of a subject goes the client's address.
func (a *authenticator) forwardNothing(x *exchange.Exchange, i int) {
	if i == a.userID {
		x.ToBackend.Set(a.forward[i], x.Keep(x.ClientAddr.Unmap().AppendTo(x.Scratch())))
		return
	}
	x.ToBackend.Remove(a.forward[i])
}

// refuse notes why a token is refused.
func refuse(x *exchange.Exchange, reason Reason) error {
	x.AuthFailure = reason.String()
	if reason == NoKeys {
		return keyless
	}
	return invalid
}

// isRevoked looks for a verified token in the list of those that count no more.
func (a *authenticator) isRevoked(c *Claims, token []byte) bool {
	asked := revocation.Credential{Token: token, Issuer: c.Issuer, Subject: c.Subject}
	if id, ok := c.Claim("jti"); ok {
		asked.JTI = unsafe.String(unsafe.SliceData(id), len(id))
	}
	if issued, ok := c.Claim("iat"); ok {
		asked.Issued, _ = strconv.ParseFloat(unsafe.String(unsafe.SliceData(issued), len(issued)), 64)
	}
	return a.revoked.Revoked(&asked)
}

// find looks for a token where the settings say, in headers first. Several Authorization headers are refused, since the
// backend may believe another than the gateway.
func (a *authenticator) find(x *exchange.Exchange) (token []byte, reason Reason) {
	for i := range a.headers {
		value, n := lines(x, a.headers[i].name)
		if n > 1 {
			return nil, Malformed
		}
		if n == 1 {
			token, ok := bearer(value)
			if !ok && !a.headers[i].bearer {
				token = value
			}
			if len(token) > 0 {
				return token, 0
			}
		}
	}
	return a.findElsewhere(x)
}

// lines returns the first line of a header, and how many there are. Several Cookie fields are one list.
func lines(x *exchange.Exchange, name string) (first []byte, n int) {
	for i := range x.Fields {
		f := &x.Fields[i]
		if len(f.Name) != len(name) || string(f.Name) != name && !exchange.EqualFold(f.Name, name) {
			continue
		}
		if n++; n == 1 {
			first = f.Value
		}
	}
	if n > 1 && name == "Cookie" {
		return x.RequestHeader(name), 1
	}
	return first, n
}

// findElsewhere looks for a token in cookies, in the query and among the subprotocols of a WebSocket.
func (a *authenticator) findElsewhere(x *exchange.Exchange) (token []byte, reason Reason) {
	for _, name := range a.cookie {
		if token = x.Cookie(name); len(token) > 0 {
			return token, 0
		}
	}
	for _, name := range a.query {
		token, n := x.QueryValue(name)
		if n > 1 {
			return nil, Malformed
		}
		if len(token) > 0 {
			return token, 0
		}
	}
	switch token, n := a.subprotocol.Find(x); {
	case n > 1:
		return nil, Malformed
	case n == 1:
		return token, 0
	}
	return nil, Missing
}

// bearer returns what follows the scheme Bearer (RFC 6750 section 2.1; the scheme's case does not matter).
func bearer(value []byte) (token []byte, ok bool) {
	const scheme = "Bearer"
	if n := len(scheme) + 1; len(value) > n && string(value[:n]) == scheme+" " && value[n] != ' ' { // as nearly everybody writes it
		return value[n:], true
	}
	if len(value) < len(scheme) || !exchange.EqualFold(value[:len(scheme)], scheme) {
		return nil, false
	}
	if len(value) == len(scheme) {
		return nil, true
	}
	if value[len(scheme)] != ' ' {
		return nil, false
	}
	return bytes.TrimLeft(value[len(scheme):], " "), true
}
