// Package acme obtains certificates from an authority that speaks ACME (RFC
// 8555), keeps them in a folder, and renews them before they end. What is in
// the folder serves at once; nothing else waits for the authority, which is
// asked again until it answers. It is asked for the names that are kept, and
// for no others.
//
// certmagic has the folder, whose layout is the one that Caddy uses, and says
// when a certificate is due; acmez speaks the protocol. certmagic's own issuer
// stays out of it: it opens sockets for challenges where the gateway has its
// own, and some of its goroutines and connections never end.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// Settings say who signs, and where certificates are kept.
type Settings struct {
	// Directory is the URL of the authority's directory.
	Directory string
	// Email of the account; "" gives none.
	Email string
	// Storage is the folder for account and certificates.
	Storage string
	// Roots verify the directory's own certificate; nil are the system's.
	Roots *x509.CertPool
	// TLSALPN and HTTP are the challenges that can be answered.
	TLSALPN, HTTP bool
}

const (
	// attemptTimeout bounds one attempt at a certificate, challenges included.
	attemptTimeout = 10 * time.Minute
	// Certificates are looked at this often, by how long they live: many times
	// within the last third of it, when they are due.
	maxLook, minLook, looksPerLife = 10 * time.Minute, time.Second, 200
	// The pauses after failures double. An authority that can not be reached
	// may be back soon; one that refuses counts the refusals.
	minUnreachable, maxUnreachable = 5 * time.Second, 5 * time.Minute
	minRefused, maxRefused         = 2 * time.Minute, time.Hour
)

// Authority keeps certificates of one account. Its methods may be called at
// any time from any goroutine, but for Close, which is the last.
type Authority struct {
	storage    *storage
	issuer     *issuer
	challenges *challenges
	log        *slog.Logger

	ctx     context.Context
	end     context.CancelFunc
	keepers sync.WaitGroup

	mu    sync.Mutex // changes of kept and certs
	kept  map[string]*keeper
	certs atomic.Pointer[map[string]*tls.Certificate] // by name; the map is never changed
}

// keeper is the goroutine that keeps the certificate of one name.
type keeper struct {
	authority *Authority
	name      string
	end       context.CancelFunc
	hurry     chan struct{}
}

// New returns an authority that keeps nothing yet. The folder has to be usable:
// see Prepare.
func New(s Settings, log *slog.Logger) *Authority {
	a := &Authority{log: log, kept: make(map[string]*keeper), storage: newStorage(s.Storage)}
	a.issuer = newIssuer(s, a.storage, log)
	a.challenges = a.issuer.challenges
	a.ctx, a.end = context.WithCancel(context.Background())
	a.certs.Store(new(map[string]*tls.Certificate))
	return a
}

// Load takes up the certificates of these names that are in the folder.
func (a *Authority) Load(names []string) {
	cache, config := a.manager(maxLook)
	defer cache.Stop()
	loaded := make(map[string]*tls.Certificate)
	for _, name := range names {
		if a.Certificate(name) != nil {
			continue
		}
		// What can not be loaded is dealt with when it is kept.
		if c, err := config.CacheManagedCertificate(a.ctx, name); err == nil {
			loaded[name] = &c.Certificate
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.change(func(certs map[string]*tls.Certificate) { maps.Copy(certs, loaded) })
}

// Keep keeps certificates of these names from now on, in lower case, and gives
// up all others. Names whose last attempt failed are tried again soon.
func (a *Authority) Keep(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
		if k := a.kept[name]; k != nil {
			select {
			case k.hurry <- struct{}{}:
			default:
			}
			continue
		}
		ctx, end := context.WithCancel(a.ctx)
		k := &keeper{authority: a, name: name, end: end, hurry: make(chan struct{}, 1)}
		a.kept[name] = k
		a.keepers.Go(func() { k.run(ctx) })
	}
	for name, k := range a.kept {
		if !wanted[name] {
			k.end()
			delete(a.kept, name)
		}
	}
	a.change(func(certs map[string]*tls.Certificate) {
		maps.DeleteFunc(certs, func(name string, _ *tls.Certificate) bool { return !wanted[name] })
	})
}

// Certificate returns the certificate of a name in lower case, nil for none. It
// may have expired.
func (a *Authority) Certificate(name string) *tls.Certificate {
	return (*a.certs.Load())[name]
}

// Close ends every attempt and waits for that.
func (a *Authority) Close() {
	a.end()
	a.keepers.Wait()
	a.issuer.close()
}

// change puts a changed copy of the certificates in force. mu is held.
func (a *Authority) change(f func(map[string]*tls.Certificate)) {
	next := maps.Clone(*a.certs.Load())
	if next == nil {
		next = make(map[string]*tls.Certificate)
	}
	f(next)
	a.certs.Store(&next)
}

// manager returns certmagic's view of the folder for one use; look is how often
// the certificate is looked at. Stop the cache afterwards: the upkeep that
// certmagic begins with it is the keepers' here.
func (a *Authority) manager(look time.Duration) (*certmagic.Cache, *certmagic.Config) {
	cache := certmagic.NewCache(certmagic.CacheOptions{
		RenewCheckInterval: look,
		OCSPCheckInterval:  time.Hour,
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errUpkeep },
		Logger:             zap.NewNop(),
	})
	return cache, certmagic.New(cache, certmagic.Config{
		Storage: a.storage,
		Issuers: []certmagic.Issuer{a.issuer},
		// The request for a response has no bound in time.
		OCSP:   certmagic.OCSPConfig{DisableStapling: true},
		Logger: zap.NewNop(),
	})
}

var errUpkeep = errors.New("certificates are kept elsewhere")

// run keeps the certificate until ctx ends.
func (k *keeper) run(ctx context.Context) {
	a, failures := k.authority, 0
	for {
		err := k.attend(ctx)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-k.hurry: // came during the attempt, or before
		default:
		}
		if err == nil {
			failures = 0
			if !wait(ctx, look(a.Certificate(k.name)), nil) {
				return
			}
			continue
		}
		failures++
		soonest, pause := pauses(failures, err)
		a.log.Warn("cannot obtain a certificate", "domain", k.name, "directory", a.issuer.settings.Directory,
			"certificate_until", until(a.Certificate(k.name)), "error", err.Error(), "retry_in", pause.String())
		if !wait(ctx, soonest, nil) || !wait(ctx, pause-soonest, k.hurry) {
			return
		}
	}
}

// attend makes sure that the certificate is there and not due.
func (k *keeper) attend(ctx context.Context) error {
	a := k.authority
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if a.storage.discardBroken(ctx, a.issuer.IssuerKey(), k.name) {
		a.log.Warn("the stored certificate can not be used; another one is obtained", "domain", k.name, "storage", a.storage.Path)
	}
	before := a.Certificate(k.name)
	cache, config := a.manager(look(before))
	defer cache.Stop()
	issued := false
	config.OnEvent = func(_ context.Context, event string, _ map[string]any) error {
		issued = issued || event == "cert_obtained"
		return nil
	}
	err := config.ManageSync(ctx, []string{k.name})
	after := before
	for _, c := range cache.AllMatchingCertificates(k.name) {
		// One: what was loaded, or what took its place.
		if before == nil || !c.Leaf.Equal(before.Leaf) {
			after = &c.Certificate
		}
	}
	if after != before && k.publish(after) {
		message := "certificate loaded"
		switch {
		case issued && before == nil:
			message = "certificate obtained"
		case issued:
			message = "certificate renewed"
		}
		a.log.Info(message, "domain", k.name, "directory", a.issuer.settings.Directory, "not_after", until(after))
	}
	if refused := (*issueError)(nil); errors.As(err, &refused) {
		return refused
	}
	return err
}

// publish puts the certificate in use, unless it is no longer kept.
func (k *keeper) publish(c *tls.Certificate) bool {
	a := k.authority
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept[k.name] != k {
		return false
	}
	a.change(func(certs map[string]*tls.Certificate) { certs[k.name] = c })
	return true
}

// look is how long a certificate is not looked at.
func look(c *tls.Certificate) time.Duration {
	if c == nil {
		return maxLook
	}
	return min(max(c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/looksPerLife, minLook), maxLook)
}

// pauses says how long nothing is tried after so many failures in a row, and
// when who asks for it is heard.
func pauses(failures int, err error) (soonest, pause time.Duration) {
	first, longest := minUnreachable, maxUnreachable
	if problem := (acme.Problem{}); errors.As(err, &problem) {
		first, longest, soonest = minRefused, maxRefused, time.Minute
	}
	pause = min(first<<min(failures-1, 10), longest)
	// Gateways that failed together come back apart.
	return soonest, pause - rand.N(pause/5)
}

// wait waits for d, or until it is hurried; it is false where ctx ended.
func wait(ctx context.Context, d time.Duration, hurry <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-hurry:
	case <-t.C:
	}
	return true
}

// until says in a log when a certificate ends.
func until(c *tls.Certificate) string {
	if c == nil {
		return "none"
	}
	return c.Leaf.NotAfter.UTC().Format(time.RFC3339)
}
