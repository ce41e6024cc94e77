//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const whole = `[{"id":"TLS1_2","severity":"OK","finding":"offered"},{"id":"TLS1_3","severity":"OK","finding":"offered"},{"id":"cipher_order","severity":"OK","finding":"server"},
{"id":"cert_keySize <cert#1>","severity":"INFO","finding":"EC 256"},{"id":"cert_keySize <cert#2>","severity":"INFO","finding":"RSA 2048"},
{"id":"banner_server","severity":"INFO","finding":"none"},{"id":"heartbleed","severity":"OK","finding":"no|t"},{"id":"ROBOT","severity":"OK","finding":"not"},
{"id":"cert_revocation <cert#1>","severity":"HIGH","finding":"Neither CRL nor OCSP URI provided"},{"id":"TLS_session_ticket","severity":"LOW","finding":"valid for a week"}]`

func TestVerdict(t *testing.T) {
	f := func(more, want string) {
		t.Helper()
		all, err := parse([]byte(strings.TrimSuffix(whole, "]") + more + "]"))
		if err != nil {
			t.Fatal(err)
		}
		r := &report{began: time.Unix(0, 0), findings: all}
		var b strings.Builder
		err = r.verdict(&b)
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%v, want %q", err, want)
		}
		b.Reset()
		r.write(&b)
		if strings.Contains(b.String(), "**fails the scan**") != (want != "") || !strings.Contains(b.String(), `| no\|t |`) || !strings.Contains(b.String(), "of the certificate alone") {
			t.Errorf("%s", b.String())
		}
	}
	f("", "")
	f(`,{"id":"BREACH","severity":"MEDIUM","finding":"potentially"}`, "MEDIUM: BREACH: potentially")
	f(`,{"id":"scanProblem","severity":"WARN","finding":"no answer"}`, "WARN: scanProblem: no answer")
	f(`,{"id":"cert_chain_of_trust <cert#1>","severity":"CRITICAL","finding":"failed"}`, "CRITICAL: cert_chain_of_trust <cert#1>: failed")
	for _, half := range []string{"", "[]", `[{"id":"TLS1_2","severity":"OK","finding":"offered"}]`} {
		if all, err := parse([]byte(half)); err == nil {
			t.Errorf("%q is a whole scan: %v", half, all)
		}
	}
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	if err := certify(dir); err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	for _, name := range []string{"ecdsa", "rsa"} {
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "localhost"}); err != nil || !strings.EqualFold(c.Leaf.PublicKeyAlgorithm.String(), name) {
			t.Errorf("%s: %s, %v", name, c.Leaf.PublicKeyAlgorithm, err)
		}
	}
}
