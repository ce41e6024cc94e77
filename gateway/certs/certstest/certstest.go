// Package certstest makes certificates for tests: an authority, and what it signs.
package certstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Authority signs certificates into a folder of the test.
type Authority struct {
	t    testing.TB
	Dir  string
	Cert *x509.Certificate
	// File is the authority's own certificate.
	File string

	key    crypto.Signer
	serial int64
}

// Leaf says what a certificate is to hold.
type Leaf struct {
	CN       string
	DNS      []string
	Emails   []string
	URIs     []string
	RSA      bool
	NotAfter time.Time // default: in an hour
	Client   bool
}

// New returns an authority that lasts as long as the test.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, Dir: t.TempDir(), serial: 1}
	a.key = a.newKey(false)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	a.check(err)
	a.Cert, err = x509.ParseCertificate(der)
	a.check(err)
	a.File = filepath.Join(a.Dir, "ca.crt")
	a.write(a.File, "CERTIFICATE", der)
	return a
}

func (a *Authority) check(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *Authority) newKey(isRSA bool) crypto.Signer {
	if isRSA {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		a.check(err)
		return k
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.check(err)
	return k
}

func (a *Authority) write(path, kind string, parts ...[]byte) {
	var b []byte
	for _, der := range parts {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	a.check(os.WriteFile(path, b, 0o600))
}

// Issue writes NAME.crt, the leaf with the authority's certificate behind it,
// and NAME.key.
func (a *Authority) Issue(name string, l Leaf) (cert, key string) {
	a.t.Helper()
	a.serial++
	k := a.newKey(l.RSA)
	if l.NotAfter.IsZero() {
		l.NotAfter = time.Now().Add(time.Hour)
	}
	usage := x509.ExtKeyUsageServerAuth
	if l.Client {
		usage = x509.ExtKeyUsageClientAuth
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: l.CN, Organization: []string{"Test"}},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: l.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		DNSNames: l.DNS, EmailAddresses: l.Emails,
	}
	if !l.Client {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	for _, u := range l.URIs {
		parsed, err := url.Parse(u)
		a.check(err)
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, k.Public(), a.key)
	a.check(err)
	cert, key = filepath.Join(a.Dir, name+".crt"), filepath.Join(a.Dir, name+".key")
	a.write(cert, "CERTIFICATE", der, a.Cert.Raw)
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	a.check(err)
	a.write(key, "PRIVATE KEY", pk)
	return cert, key
}

// Pool returns the authority as clients trust it.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Cert)
	return p
}

// Pair loads what Issue wrote.
func (a *Authority) Pair(cert, key string) tls.Certificate {
	a.t.Helper()
	p, err := tls.LoadX509KeyPair(cert, key)
	a.check(err)
	return p
}

// Leaf reads the first certificate of a file.
func (a *Authority) Leaf(cert string) *x509.Certificate {
	a.t.Helper()
	b, err := os.ReadFile(cert)
	a.check(err)
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	a.check(err)
	return c
}

// OCSP writes a response about a certificate and returns its file.
func (a *Authority) OCSP(name, cert string, status int, next time.Time) string {
	a.t.Helper()
	der, err := ocsp.CreateResponse(a.Cert, a.Cert, ocsp.Response{
		Status: status, SerialNumber: a.Leaf(cert).SerialNumber, ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next,
	}, a.key)
	a.check(err)
	path := filepath.Join(a.Dir, name)
	a.check(os.WriteFile(path, der, 0o600))
	return path
}
