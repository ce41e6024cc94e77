package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// attempts is how many certificates of an authority are asked for at a time.
const attempts = 4

// issuer asks the authority for certificates on behalf of certmagic.
type issuer struct {
	settings   Settings
	key        string // its name in the folder
	storage    *storage
	challenges *challenges
	solvers    map[string]acmez.Solver
	client     *http.Client
	log        *slog.Logger
	slots      chan struct{}

	registering sync.Mutex
}

// issueError is an attempt that failed at the authority.
type issueError struct{ err error }

func (e *issueError) Error() string { return e.err.Error() }
func (e *issueError) Unwrap() error { return e.err }

func newIssuer(s Settings, st *storage, log *slog.Logger) *issuer {
	i := &issuer{
		settings: s,
		key:      (&certmagic.ACMEIssuer{CA: s.Directory}).IssuerKey(),
		storage:  st,
		solvers:  make(map[string]acmez.Solver),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     10 * time.Second,
			ForceAttemptHTTP2:   true,
			TLSClientConfig:     &tls.Config{RootCAs: s.Roots, MinVersion: tls.VersionTLS12},
		}},
		log:   slog.New(quiet{log.Handler()}),
		slots: make(chan struct{}, attempts),
	}
	i.challenges = &challenges{storage: st, folder: i.folder(), pending: make(map[string]pending)}
	if s.TLSALPN {
		i.solvers[acme.ChallengeTypeTLSALPN01] = i.challenges
	}
	if s.HTTP {
		i.solvers[acme.ChallengeTypeHTTP01] = i.challenges
	}
	return i
}

func (i *issuer) close() { i.client.CloseIdleConnections() }

// IssuerKey implements certmagic.Issuer.
func (i *issuer) IssuerKey() string { return i.key }

// Issue implements certmagic.Issuer.
func (i *issuer) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	select {
	case i.slots <- struct{}{}:
		defer func() { <-i.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	chains, err := i.order(ctx, csr)
	if err != nil {
		return nil, &issueError{err}
	}
	return &certmagic.IssuedCertificate{Certificate: chains[0].ChainPEM, Metadata: chains[0]}, nil
}

// GetRenewalInfo implements certmagic.RenewalInfoGetter: when the authority
// wants the certificate to be renewed (RFC 9773).
func (i *issuer) GetRenewalInfo(ctx context.Context, c certmagic.Certificate) (acme.RenewalInfo, error) {
	return i.acmeClient().GetRenewalInfo(ctx, c.Leaf)
}

func (i *issuer) acmeClient() *acmez.Client {
	return &acmez.Client{
		Client:           &acme.Client{Directory: i.settings.Directory, HTTPClient: i.client, UserAgent: "sluice", Logger: i.log},
		ChallengeSolvers: i.solvers,
	}
}

// order obtains the certificate that is asked for.
func (i *issuer) order(ctx context.Context, csr *x509.CertificateRequest) ([]acme.Certificate, error) {
	client := i.acmeClient()
	for again := false; ; again = true {
		account, err := i.account(ctx, client)
		if err != nil {
			return nil, err
		}
		parameters, err := acmez.OrderParametersFromCSR(account, csr)
		if err != nil {
			return nil, err
		}
		parameters.Replaces = i.replaced(ctx, client, account, csr.DNSNames[0])
		chains, err := client.ObtainCertificate(ctx, parameters)
		problem := acme.Problem{}
		if errors.As(err, &problem) && problem.Type == acme.ProblemTypeAccountDoesNotExist && !again {
			// The authority has begun anew.
			_ = i.storage.Delete(ctx, i.accountKey(".json"))
			continue
		}
		if err == nil && len(chains) == 0 {
			err = errors.New("the authority gave no certificate")
		}
		return chains, err
	}
}

// replaced returns the certificate that another for this name replaces, if the
// authority wants to know and knows it as this account's.
func (i *issuer) replaced(ctx context.Context, client *acmez.Client, account acme.Account, name string) *x509.Certificate {
	if directory, err := client.GetDirectory(ctx); err != nil || directory.RenewalInfo == "" {
		return nil
	}
	chain, err1 := i.storage.Load(ctx, certmagic.StorageKeys.SiteCert(i.key, name))
	meta, err2 := i.storage.Load(ctx, certmagic.StorageKeys.SiteMeta(i.key, name))
	var resource certmagic.CertificateResource
	var stored acme.Certificate
	if err1 != nil || err2 != nil || json.Unmarshal(meta, &resource) != nil || json.Unmarshal(resource.IssuerData, &stored) != nil || stored.Account != account.Location {
		return nil
	}
	block, _ := pem.Decode(chain)
	if block == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return leaf
}

// account returns the account, which is registered if the folder has none.
func (i *issuer) account(ctx context.Context, client *acmez.Client) (acme.Account, error) {
	i.registering.Lock()
	defer i.registering.Unlock()
	account, err := i.loadAccount(ctx)
	if !errors.Is(err, fs.ErrNotExist) {
		return account, err
	}
	lock := "register_acme_account_" + i.accountName()
	if err := i.storage.Lock(ctx, lock); err != nil {
		return account, err
	}
	defer func() { _ = i.storage.Unlock(ctx, lock) }()
	if account, err = i.loadAccount(ctx); !errors.Is(err, fs.ErrNotExist) {
		return account, err // another gateway was first
	}
	account = acme.Account{TermsOfServiceAgreed: true}
	if i.settings.Email != "" {
		account.Contact = []string{"mailto:" + i.settings.Email}
	}
	if account.PrivateKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return account, err
	}
	if account, err = client.NewAccount(ctx, account); err != nil {
		return account, fmt.Errorf("cannot register an account: %w", err)
	}
	return account, i.storeAccount(ctx, account)
}

func (i *issuer) loadAccount(ctx context.Context) (account acme.Account, err error) {
	b, err := i.storage.Load(ctx, i.accountKey(".json"))
	if err != nil {
		return account, err
	}
	key, err := i.storage.Load(ctx, i.accountKey(".key"))
	if err != nil {
		return account, err
	}
	defer clear(key)
	if err := json.Unmarshal(b, &account); err != nil {
		return account, fmt.Errorf("the stored account can not be used: %s: %w", i.storage.Filename(i.accountKey(".json")), err)
	}
	if account.PrivateKey, err = certmagic.PEMDecodePrivateKey(key); err != nil {
		// What the parser says may hold parts of the key.
		return account, fmt.Errorf("the stored account can not be used: there is no private key in %s", i.storage.Filename(i.accountKey(".key")))
	}
	return account, nil
}

func (i *issuer) storeAccount(ctx context.Context, account acme.Account) error {
	b, err := json.MarshalIndent(account, "", "\t")
	if err != nil {
		return err
	}
	key, err := certmagic.PEMEncodePrivateKey(account.PrivateKey)
	if err != nil {
		return err
	}
	defer clear(key)
	// The key first: without a registration it is none.
	if err := i.storage.Store(ctx, i.accountKey(".key"), key); err != nil {
		return err
	}
	return i.storage.Store(ctx, i.accountKey(".json"), b)
}

// folder is where what belongs to the authority is, but for certificates.
func (i *issuer) folder() string {
	return path.Join("acme", certmagic.StorageKeys.Safe(i.key))
}

func (i *issuer) accountName() string {
	if i.settings.Email == "" {
		return "default"
	}
	return strings.ToLower(i.settings.Email)
}

func (i *issuer) accountKey(extension string) string {
	user, _, _ := strings.Cut(i.accountName(), "@")
	return path.Join(i.folder(), "users", certmagic.StorageKeys.Safe(i.accountName()), certmagic.StorageKeys.Safe(user)+extension)
}

// quiet lowers what the client of the protocol says to debug: what matters to
// operators is said once, at the end of an attempt. What it calls debug itself
// are whole requests.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l > slog.LevelDebug && q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level, r.Message = slog.LevelDebug, "acme: "+r.Message
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
