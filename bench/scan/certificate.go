//go:build linux

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certify writes ca.crt, and ecdsa.crt, ecdsa.key, rsa.crt, rsa.key for
// localhost that it has signed. The authority's key is kept nowhere.
func certify(dir string) error {
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Throw-away authority"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	if err := write(dir, "ca.crt", "CERTIFICATE", der); err != nil {
		return err
	}
	if authority, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	leaf := func(name string, key crypto.Signer, err error) error {
		if err != nil {
			return err
		}
		t := &x509.Certificate{
			SerialNumber: serial(), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 6, 0),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		der, err1 := x509.CreateCertificate(rand.Reader, t, authority, key.Public(), authorityKey)
		private, err2 := x509.MarshalPKCS8PrivateKey(key)
		return errors.Join(err1, err2, write(dir, name+".crt", "CERTIFICATE", der), write(dir, name+".key", "PRIVATE KEY", private))
	}
	e, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r, err2 := rsa.GenerateKey(rand.Reader, 2048)
	return errors.Join(leaf("ecdsa", e, err1), leaf("rsa", r, err2))
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return new(big.Int).SetBytes(b[1:])
}

func write(dir, name, kind string, der []byte) error {
	return os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
