package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"
)

// entry is a certificate with what it was loaded from. It is immutable.
type entry struct {
	cert *tls.Certificate
	sum  [sha256.Size]byte
	// until is when it has to be looked at again although no file changed: the
	// stapled response ends.
	until time.Time
}

// never is far away; no certificate is valid then.
var never = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// load reads a certificate. e is nil if a problem is more than a warning.
func load(f *Files, now time.Time) (e *entry, problems []*Problem) {
	fail := func(field string, err error) {
		problems = append(problems, &Problem{Field: field, Err: err})
	}
	warn := func(field string, err error) {
		problems = append(problems, &Problem{Field: field, Err: err, Warning: true})
	}
	sum, _ := digest(f)
	chain, err := readPEM(f.Cert)
	if err != nil {
		fail("cert", err)
	}
	key, err := readPEM(f.Key)
	if err != nil {
		fail("key", err)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	defer clear(key)
	certs, err := parseChain(chain)
	if err != nil {
		fail("cert", fmt.Errorf("%s: %w", nameOf(f.Cert), err))
		return nil, problems
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		fail("key", fmt.Errorf("%s: %w", nameOf(f.Key), keyProblem(key, err)))
		return nil, problems
	}
	leaf := certs[0]
	pair.Leaf = leaf
	switch {
	case now.After(leaf.NotAfter):
		warn("cert", fmt.Errorf("%s has expired on %s", nameOf(f.Cert), leaf.NotAfter.UTC().Format(time.DateOnly)))
	case now.Before(leaf.NotBefore):
		warn("cert", fmt.Errorf("%s is not valid before %s", nameOf(f.Cert), leaf.NotBefore.UTC().Format(time.RFC3339)))
	}
	if k, ok := leaf.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < 2048 {
		warn("cert", fmt.Errorf("%s has an RSA key of %d bits; clients refuse less than 2048", nameOf(f.Cert), k.N.BitLen()))
	}
	if len(namesOf(leaf)) == 0 && len(leaf.IPAddresses) == 0 {
		warn("cert", fmt.Errorf("%s names no host; clients refuse it", nameOf(f.Cert)))
	}
	e = &entry{cert: &pair, sum: sum, until: never}
	if f.OCSP != "" {
		if staple, until, err := loadOCSP(f.OCSP, certs, now); err != nil {
			warn("ocsp", fmt.Errorf("%s is not stapled: %w", f.OCSP, err))
		} else {
			pair.OCSPStaple, e.until = staple, until
		}
	}
	return e, problems
}

// readPEM reads a file, or takes the PEM that stands in its place.
func readPEM(pathOrPEM string) ([]byte, error) {
	if isPEM(pathOrPEM) {
		return []byte(pathOrPEM), nil
	}
	return os.ReadFile(pathOrPEM)
}

func isPEM(pathOrPEM string) bool { return strings.Contains(pathOrPEM, "-----BEGIN") }

// nameOf is what a message calls it: never the text itself.
func nameOf(pathOrPEM string) string {
	if isPEM(pathOrPEM) {
		return "the text"
	}
	return pathOrPEM
}

func parseChain(b []byte) (chain []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return chain, nil
}

// keyProblem says what is wrong with a key, and nothing of what is in it.
func keyProblem(key []byte, err error) error {
	block, _ := pem.Decode(key)
	switch {
	case block == nil:
		return errors.New("there is no PEM private key in it")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
		return errors.New("the key is encrypted; decrypt it, as openssl pkey does")
	case strings.Contains(err.Error(), "does not match"):
		return errors.New("the key is not that of the certificate")
	}
	return errors.New("there is no private key in it that can be used")
}

// loadOCSP reads a response that is about the leaf, good, and current.
func loadOCSP(path string, chain []*x509.Certificate, now time.Time) (staple []byte, until time.Time, err error) {
	der, err := os.ReadFile(path)
	if err != nil {
		return nil, never, err
	}
	if bytes.HasPrefix(bytes.TrimSpace(der), []byte("-----BEGIN")) {
		block, _ := pem.Decode(der)
		if block == nil {
			return nil, never, errors.New("there is no PEM block in it")
		}
		der = block.Bytes
	}
	if len(chain) < 2 {
		return nil, never, errors.New("the chain lacks the issuer's certificate, which signs the response")
	}
	r, err := ocsp.ParseResponseForCert(der, chain[0], chain[1])
	switch {
	case err != nil:
		return nil, never, err
	case r.Status != ocsp.Good:
		return nil, never, errors.New("it does not say that the certificate is good")
	case !r.NextUpdate.IsZero() && !now.Before(r.NextUpdate):
		return nil, never, fmt.Errorf("it ended on %s", r.NextUpdate.UTC().Format(time.RFC3339))
	}
	if until = r.NextUpdate; until.IsZero() {
		until = never
	}
	return der, until, nil
}

// LoadPool reads the authorities of a PEM file; sum changes with its contents.
func LoadPool(path string) (pool *x509.CertPool, sum [sha256.Size]byte, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, sum, err
	}
	chain, err := parseChain(b)
	if err != nil {
		return nil, sum, fmt.Errorf("%s: %w", path, err)
	}
	pool = x509.NewCertPool()
	for _, c := range chain {
		pool.AddCert(c)
	}
	return pool, sha256.Sum256(b), nil
}

// namesOf returns the DNS names of a certificate in lower case.
func namesOf(leaf *x509.Certificate) []string {
	names := make([]string, 0, len(leaf.DNSNames))
	for _, n := range leaf.DNSNames {
		names = append(names, strings.ToLower(strings.TrimSuffix(n, ".")))
	}
	return names
}

func subjectOf(leaf *x509.Certificate) string {
	if leaf.Subject.CommonName != "" || len(leaf.DNSNames) == 0 {
		return leaf.Subject.CommonName
	}
	return leaf.DNSNames[0]
}

// rank orders the certificates of one name: the cheaper handshake first.
func rank(c *tls.Certificate) int {
	switch c.Leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return 0
	case ed25519.PublicKey:
		return 1
	}
	return 2
}

// canVerify reports whether the client offers what the certificate's key needs.
// The name does not matter here: it was found by it, or there is none better.
func canVerify(hello *tls.ClientHelloInfo, c *tls.Certificate) bool {
	if hello.ServerName == "" {
		return hello.SupportsCertificate(c) == nil
	}
	h := *hello
	h.ServerName = ""
	return h.SupportsCertificate(c) == nil
}
