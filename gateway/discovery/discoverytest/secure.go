package discoverytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// Secure speaks TLS before a server that does not, with a certificate that can be replaced.
type Secure struct {
	// URL is where it is asked, CA the file with what signs its certificate.
	URL, CA string

	t       testing.TB
	current atomic.Pointer[tls.Certificate]
	server  *http.Server
}

// StartSecure begins to speak for the server at a URL; ca is a file to write.
func StartSecure(t testing.TB, server, ca string) *Secure {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	s := &Secure{CA: ca, t: t}
	s.write(s.replace())
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	s.URL = "https://" + l.Addr().String()
	proxy := &httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	s.server = &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second}
	// A connection is asked once, so that the next question meets the certificate of then.
	s.server.SetKeepAlivesEnabled(false)
	go func() { _ = s.server.Serve(l) }()
	t.Cleanup(func() { _ = s.server.Close() })
	return s
}

// Replace takes a certificate of another authority into use. write, which is to be called later, puts that into the file.
func (s *Secure) Replace() (write func()) {
	s.t.Helper()
	made := s.replace()
	return func() { s.write(made) }
}

func (s *Secure) replace() (authority []byte) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (s *Secure) write(authority []byte) {
	s.t.Helper()
	if err := os.WriteFile(s.CA, authority, 0o600); err != nil {
		s.t.Fatal(err)
	}
}
