package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
)

const (
	refreshEvery  = 5 * time.Minute
	refetchEvery  = 30 * time.Second // for unknown keys, and the longest pause between tries while there are no keys
	fetchTimeout  = 5 * time.Second
	maxDocument   = 1 << 20
	maxRemoteKeys = 256
	discoveryPath = "/.well-known/openid-configuration"
)

// RemoteSettings say where a key set is.
type RemoteSettings struct {
	URL        string // of the JSON Web Key Set; or
	Issuer     string // of an OpenID provider, whose discovery document names the key set
	Algorithms []string
	Client     *http.Client // nil: one that trusts the system's certificates
	Log        *slog.Logger
}

// A Remote holds the keys of a JSON Web Key Set (RFC 7517) behind a URL. They are fetched when it starts, every 5 minutes,
// and when a token names a key that is not known, at most every 30 seconds; requests that need such a key wait for that one
// fetch, at most 5 seconds. While a fetch fails the known keys stay. Until the first one succeeds there are none, and no
// token is accepted, nor called invalid.
type Remote struct {
	number      uint64 // tells it from others of the same settings
	url, issuer string
	client      *http.Client
	log         *slog.Logger
	allowed     algorithms // of tokens
	pinned      algorithms // as configured; 0: a key without alg verifies the usual algorithm of its type

	keys atomic.Pointer[keySet]

	mu        sync.Mutex
	waiting   chan struct{} // closed by the fetch that unknown keys wait for; nil when nobody waits
	refetched time.Time     // last fetch for an unknown key
	closed    bool

	kick   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

var remotesMade atomic.Uint64

// keySet is immutable.
type keySet struct {
	all        []*Key
	byID       map[string][]*Key
	generation uint64 // grows when a key went away or changed
}

// NewRemote makes a Remote that fetches nothing before Start.
func NewRemote(set RemoteSettings) (*Remote, error) {
	pinned, err := parseAlgorithms(set.Algorithms)
	if err != nil {
		return nil, err
	}
	allowed := pinned &^ symmetric
	if pinned == 0 {
		allowed = ^symmetric
	}
	if allowed == 0 {
		return nil, fmt.Errorf("a key set verifies RS, PS, ES or EdDSA, but algorithms lists only %s", pinned)
	}
	for _, u := range []string{set.URL, set.Issuer} {
		if u == "" {
			continue
		}
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	r := &Remote{number: remotesMade.Add(1), url: set.URL, issuer: set.Issuer, client: set.Client, log: set.Log, allowed: allowed, pinned: pinned}
	if r.client == nil {
		r.client = client
	}
	r.waiting = make(chan struct{}) // requests that come before the first fetch has ended wait for it
	r.kick = make(chan struct{}, 1)
	r.done = make(chan struct{})
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// client keeps no connection: fetches are minutes apart.
var client = &http.Client{
	CheckRedirect: noDowngrade,
	Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is not an http or https URL", s)
	}
	return nil
}

func noDowngrade(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("more than 5 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("redirect from https to http")
	}
	return nil
}

// Start begins to fetch in the background. It is called once.
func (r *Remote) Start() { go r.run() }

// Close ends fetching. The keys stay usable for whoever still holds the Remote. It needs Start before.
func (r *Remote) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	<-r.done
	return nil
}

// Generation numbers the states of the key set: it grows when a key is withdrawn or changes.
func (r *Remote) Generation() uint64 {
	if s := r.keys.Load(); s != nil {
		return s.generation
	}
	return 0
}

// try reports whether a key of the set verifies the token. It may wait for a fetch.
func (r *Remote) try(p *parsed, reason *Reason) bool {
	for refetched := false; ; refetched = true {
		set := r.keys.Load()
		switch {
		case set == nil:
			*reason = NoKeys
		case p.kid == "":
			*reason = UnknownKey
			return p.try(set.all, reason)
		case len(set.byID[p.kid]) > 0:
			return p.try(set.byID[p.kid], reason)
		default:
			*reason = UnknownKey
		}
		if refetched || !r.refetch() {
			return false
		}
	}
}

// refetch waits for a fetch that began after now, joining one that others wait for. It reports false at once if it is too
// early for another.
func (r *Remote) refetch() bool {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return false
	}
	wait := r.waiting
	if wait == nil {
		now := time.Now()
		if now.Sub(r.refetched) < refetchEvery {
			r.mu.Unlock()
			return false
		}
		r.refetched = now
		wait = make(chan struct{})
		r.waiting = wait
		r.kick <- struct{}{} // has room: only one who sets waiting kicks
	}
	r.mu.Unlock()
	<-wait
	return true
}

// run is the only place that fetches.
func (r *Remote) run() {
	defer close(r.done)
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			r.release()
			return
		case <-r.kick:
		case <-timer.C:
		}
		select { // a kick that came with the timer is answered by this fetch too
		case <-r.kick:
		default:
		}
		pause := refreshEvery
		if err := r.fetch(); err != nil && r.ctx.Err() == nil {
			failures++
			pause = min(time.Second<<min(failures-1, 10), refetchEvery)
			r.log.Error("cannot fetch the keys that verify tokens", "url", r.where(), "error", cause(err), "known_keys", r.known(), "retry_in", pause.String())
		} else if failures > 0 {
			failures = 0
			r.log.Info("the keys that verify tokens can be fetched again", "url", r.where(), "known_keys", r.known())
		}
		r.release()
		timer.Reset(pause)
	}
}

func (r *Remote) release() {
	r.mu.Lock()
	if r.waiting != nil {
		close(r.waiting)
		r.waiting = nil
	}
	r.mu.Unlock()
}

// where names the source of the keys for the log: without user, password and
// query, which may be credentials.
func (r *Remote) where() string {
	text := r.url
	if text == "" {
		text = r.issuer
	}
	u, err := url.Parse(text)
	if err != nil {
		return "(not a URL)"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// cause is why a fetch failed, without the URL that was asked.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (r *Remote) known() int {
	if s := r.keys.Load(); s != nil {
		return len(s.all)
	}
	return 0
}

func (r *Remote) fetch() error {
	ctx, cancel := context.WithTimeout(r.ctx, fetchTimeout)
	defer cancel()
	from := r.url
	if from == "" {
		var err error
		if from, err = r.discover(ctx); err != nil {
			return err
		}
	}
	body, err := r.get(ctx, from)
	if err != nil {
		return err
	}
	set, err := r.read(body)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	old := r.keys.Load()
	if old != nil {
		set.generation = old.generation
		if !old.within(set) {
			set.generation++
		}
	}
	r.keys.Store(set)
	return nil
}

// discover asks the provider for the URL of its keys (OpenID Connect Discovery 1.0, section 4).
func (r *Remote) discover(ctx context.Context) (jwksURI string, err error) {
	body, err := r.get(ctx, strings.TrimSuffix(r.issuer, "/")+discoveryPath)
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("cannot read the discovery document: %w", err)
	}
	if doc.Issuer != r.issuer {
		return "", fmt.Errorf("the discovery document is of issuer %q, not of %q", doc.Issuer, r.issuer)
	}
	if err := checkURL(doc.JWKSURI); err != nil {
		return "", fmt.Errorf("jwks_uri: %w", err)
	}
	if strings.HasPrefix(r.issuer, "https:") && !strings.HasPrefix(doc.JWKSURI, "https:") {
		return "", fmt.Errorf("jwks_uri %s of an https issuer is not https", doc.JWKSURI)
	}
	return doc.JWKSURI, nil
}

func (r *Remote) get(ctx context.Context, from string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", from, res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", from, err)
	}
	if len(body) > maxDocument {
		return nil, fmt.Errorf("%s answered more than 1 MiB", from)
	}
	return body, nil
}

// read makes a set of the keys in a document that can verify tokens. Others, such as keys for encryption, are passed over.
func (r *Remote) read(body []byte) (*keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("cannot read the key set: %w", err)
	}
	if doc.Keys == nil {
		return nil, errors.New(`not a key set: it has no "keys"`)
	}
	if len(doc.Keys) > maxRemoteKeys {
		return nil, fmt.Errorf("a key set of %d keys is too large, at most %d are read", len(doc.Keys), maxRemoteKeys)
	}
	set := &keySet{byID: make(map[string][]*Key)}
	for i, raw := range doc.Keys {
		k, err := r.readKey(raw)
		if err != nil {
			r.log.Debug("passed over a key of the key set", "url", r.where(), "index", i, "error", err)
			continue
		}
		set.all = append(set.all, k)
		if k.id != "" {
			set.byID[k.id] = append(set.byID[k.id], k)
		}
	}
	return set, nil
}

func (r *Remote) readKey(raw json.RawMessage) (*Key, error) {
	kf, err := keyfunc.NewJWKJSON(raw)
	if err != nil {
		return nil, err
	}
	one, err := kf.Storage().KeyReadAll(r.ctx)
	if err != nil || len(one) != 1 {
		return nil, fmt.Errorf("cannot read the key: %w", err)
	}
	about, public := one[0].Marshal(), one[0].Key()
	if private, ok := public.(interface{ Public() crypto.PublicKey }); ok {
		public = private.Public()
	}
	if about.USE != "" && about.USE != jwkset.UseSig {
		return nil, fmt.Errorf("use is %q, not sig", about.USE)
	}
	if len(about.KEYOPS) > 0 && !slices.Contains(about.KEYOPS, jwkset.KeyOpsVerify) {
		return nil, fmt.Errorf("key_ops are %v, without verify", about.KEYOPS)
	}
	fits, usual := fitting(public)
	if fits == 0 {
		return nil, fmt.Errorf("a key of type %s can not verify tokens", about.KTY)
	}
	k := &Key{id: about.KID, public: public}
	switch {
	case about.ALG != "":
		k.allowed = algorithmOf(about.ALG.String()) & fits
	case r.pinned != 0:
		k.allowed = fits
	default:
		k.allowed = usual
	}
	if k.allowed &= r.allowed; k.allowed == 0 {
		return nil, fmt.Errorf("a key of type %s, alg %q, verifies none of %s", about.KTY, about.ALG, r.allowed)
	}
	return k, nil
}

// within reports whether every key of s is in other as it was.
func (s *keySet) within(other *keySet) bool {
	return !slices.ContainsFunc(s.all, func(k *Key) bool { return !slices.ContainsFunc(other.all, k.equal) })
}

func (k *Key) equal(o *Key) bool {
	// Every public key of the standard library has Equal, as ecdsa's.
	same, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.id == o.id && k.allowed == o.allowed && same.Equal(o.public)
}

var _ interface{ Equal(crypto.PublicKey) bool } = (*ecdsa.PublicKey)(nil)
