package certs

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"sluice/gateway/certs/certstest"
)

// hello is what a client with these abilities sends.
func hello(t *testing.T, name string, withoutECDSA bool) *tls.ClientHelloInfo {
	t.Helper()
	h := &tls.ClientHelloInfo{
		ServerName:        name,
		CipherSuites:      []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		SupportedCurves:   []tls.CurveID{tls.X25519, tls.CurveP256},
		SupportedPoints:   []uint8{0},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.PSSWithSHA256, tls.PKCS1WithSHA256},
		SupportedVersions: []uint16{tls.VersionTLS12},
	}
	if withoutECDSA {
		h.CipherSuites = h.CipherSuites[1:]
		h.SignatureSchemes = h.SignatureSchemes[1:]
	}
	return h
}

func open(t *testing.T, files ...Files) *Store {
	t.Helper()
	s, problems := Open(files, nil)
	if s == nil {
		t.Fatal(problems)
	}
	return s
}

func files(cert, key string) Files { return Files{Cert: cert, Key: key} }

func TestChoice(t *testing.T) {
	a := certstest.New(t)
	s := open(t,
		files(a.Issue("standard", certstest.Leaf{CN: "standard", DNS: []string{"one.example"}, RSA: true})),
		files(a.Issue("standard-ec", certstest.Leaf{CN: "standard-ec", DNS: []string{"one.example"}})),
		files(a.Issue("wild", certstest.Leaf{CN: "wild", DNS: []string{"*.Example.com", "example.com"}})),
		files(a.Issue("exact", certstest.Leaf{CN: "exact", DNS: []string{"api.example.com"}})),
	)
	f := func(name string, withoutECDSA bool, want string) {
		t.Helper()
		c, err := s.GetCertificate(hello(t, name, withoutECDSA))
		if err != nil || c.Leaf.Subject.CommonName != want {
			t.Errorf("%q: %s, %v, want %s", name, c.Leaf.Subject.CommonName, err, want)
		}
		named := want == "wild" || want == "exact" || name == "one.example"
		if got := s.Named(hello(t, name, withoutECDSA)); named && got != c || !named && got != nil {
			t.Errorf("%q: named %v", name, got)
		}
	}
	f("one.example", false, "standard-ec")
	f("one.example", true, "standard")
	f("", false, "standard-ec")
	f("", true, "standard")
	f("unknown.example", true, "standard")
	f("api.example.com", false, "exact")
	f("API.Example.COM", false, "exact")
	f("www.example.com", false, "wild")
	f("example.com", false, "wild")
	f("a.b.example.com", false, "standard-ec")
	f(".example.com", false, "standard-ec")
	if got := s.Certificates(); len(got) != 4 || got[2].Subject != "wild" || got[2].NotAfter.Before(time.Now()) {
		t.Errorf("%+v", got)
	}
}

func TestOpenFailure(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("a", certstest.Leaf{CN: "a", DNS: []string{"a.example"}})
	_, other := a.Issue("b", certstest.Leaf{CN: "b"})
	garbage := filepath.Join(a.Dir, "garbage")
	if err := os.WriteFile(garbage, []byte("top secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	encrypted := filepath.Join(a.Dir, "encrypted")
	if err := os.WriteFile(encrypted, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want string, list ...Files) {
		t.Helper()
		s, problems := Open(list, nil)
		text := ""
		for _, p := range problems {
			text += p.Error() + "\n"
		}
		if s != nil || !strings.Contains(text, want) || strings.Contains(text, "secret") {
			t.Errorf("%q, want %q", text, want)
		}
	}
	f("there is no certificate")
	f("cert: open "+garbage+"x: no such file", Files{Cert: garbage + "x", Key: key})
	f("key: open "+garbage+"x: no such file", Files{Cert: cert, Key: garbage + "x"})
	f("cert: "+garbage+": there is no PEM certificate", Files{Cert: garbage, Key: key})
	f("key: "+garbage+": there is no PEM private key", Files{Cert: cert, Key: garbage})
	f("key: "+cert+": there is no private key", Files{Cert: cert, Key: cert})
	f("key: "+encrypted+": the key is encrypted", Files{Cert: cert, Key: encrypted})
	f("key: "+other+": the key is not that of the certificate", Files{Cert: cert, Key: other})
	f("key is not that", Files{Cert: cert, Key: key}, Files{Cert: cert, Key: other})
}

func TestWarnings(t *testing.T) {
	a := certstest.New(t)
	expired, key := a.Issue("expired", certstest.Leaf{CN: "x", DNS: []string{"x.example"}, NotAfter: time.Now().Add(-time.Minute)})
	s, problems := Open([]Files{{Cert: expired, Key: key}}, nil)
	if s == nil || len(problems) != 1 || !problems[0].Warning || !strings.Contains(problems[0].Error(), "has expired on") {
		t.Fatal(problems)
	}
}

func TestRefresh(t *testing.T) {
	a := certstest.New(t)
	// Mounted secrets are a link to a folder that is swapped as a whole.
	link := filepath.Join(a.Dir, "current")
	version := func(name, cn string) {
		t.Helper()
		dir := filepath.Join(a.Dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cert, key := a.Issue(cn, certstest.Leaf{CN: cn, DNS: []string{"x.example"}})
		for from, to := range map[string]string{cert: "tls.crt", key: "tls.key"} {
			if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	point := func(name string) {
		t.Helper()
		if err := os.Symlink(name, link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	version("v1", "first")
	version("v2", "second")
	point("v1")
	s := open(t, files(filepath.Join(link, "tls.crt"), filepath.Join(link, "tls.key")))
	f := func(wantChanged, wantProblems int, want string) {
		t.Helper()
		changed, problems := s.Refresh()
		if len(changed) != wantChanged || len(problems) != wantProblems {
			t.Errorf("%v changed, problems %v", changed, problems)
		}
		if got := s.Certificates()[0].Subject; got != want {
			t.Errorf("%s is in use, want %s", got, want)
		}
	}
	f(0, 0, "first")
	point("v2")
	f(1, 0, "second")
	f(0, 0, "second")
	if err := os.Chtimes(filepath.Join(link, "tls.crt"), time.Now(), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	f(0, 0, "second")
	// Half of a renewal: the new chain with the old key. It is said once.
	version("v3", "third")
	b, err := os.ReadFile(filepath.Join(a.Dir, "v3", "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(link, "tls.crt"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	f(0, 1, "second")
	f(0, 0, "second")
	if err := os.Remove(filepath.Join(link, "tls.key")); err != nil {
		t.Fatal(err)
	}
	f(0, 1, "second")
	point("v3")
	f(1, 0, "third")
}

func TestOCSP(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"x.example"}})
	now := time.Now()
	next := now.Add(30 * time.Minute)
	good := a.OCSP("good", cert, ocsp.Good, next)
	s, problems := Open([]Files{{cert, key, good}}, func() time.Time { return now })
	if len(problems) > 0 || !s.Certificates()[0].Stapled {
		t.Fatal(problems)
	}
	// A response that has ended is no longer stapled, and that is said once.
	now = next
	if changed, problems := s.Refresh(); len(changed) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "it ended on") || s.Certificates()[0].Stapled {
		t.Fatal(changed, problems)
	}
	if _, problems := s.Refresh(); len(problems) != 0 {
		t.Fatal(problems)
	}
	now = time.Now()
	a.OCSP("good", cert, ocsp.Good, next.Add(time.Hour))
	if _, problems := s.Refresh(); len(problems) != 0 || !s.Certificates()[0].Stapled {
		t.Fatal(problems)
	}
	other, _ := a.Issue("y", certstest.Leaf{CN: "y"})
	f := func(path, want string) {
		t.Helper()
		s, problems := Open([]Files{{cert, key, path}}, nil)
		if s == nil || len(problems) != 1 || !problems[0].Warning || !strings.Contains(problems[0].Error(), want) || s.Certificates()[0].Stapled {
			t.Errorf("%v, want %q", problems, want)
		}
	}
	f(a.OCSP("revoked", cert, ocsp.Revoked, next), "does not say that the certificate is good")
	f(a.OCSP("other", other, ocsp.Good, next), "not stapled")
	f(a.OCSP("late", cert, ocsp.Good, time.Now().Add(-time.Minute)), "it ended on")
	f(filepath.Join(a.Dir, "none"), "no such file")
}

func TestTickets(t *testing.T) {
	a := certstest.New(t)
	s := open(t, files(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"x.example"}})))
	now := time.Now()
	tickets := NewTickets(func() time.Time { return now })
	serverConfig := func() *tls.Config {
		c := &tls.Config{GetCertificate: s.GetCertificate, MinVersion: tls.VersionTLS12}
		tickets.Use(c)
		return c
	}
	server := serverConfig()
	client := &tls.Config{RootCAs: a.Pool(), ServerName: "x.example", ClientSessionCache: tls.NewLRUClientSessionCache(1), MaxVersion: tls.VersionTLS12}
	f := func(want bool) {
		t.Helper()
		c, d := net.Pipe()
		go func() { _ = tls.Server(d, server).Handshake() }()
		conn := tls.Client(c, client)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState().DidResume; got != want {
			t.Errorf("resumed: %t, want %t", got, want)
		}
		_ = c.Close()
		_ = d.Close()
	}
	rotate := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		if tickets.Rotate() != want {
			t.Errorf("rotated: %t", !want)
		}
	}
	f(false)
	f(true)
	server = serverConfig() // a reload
	f(true)
	rotate(TicketRotation-time.Second, false)
	rotate(time.Second, true)
	f(true) // by an older key, which opens still
	tickets.Forget()
	f(false)
	f(true)
	if len(tickets.keys) != 1 {
		t.Errorf("%d keys after all were forgotten", len(tickets.keys))
	}
	for range 5 {
		rotate(TicketRotation, true)
	}
	if len(tickets.keys) != ticketKeys {
		t.Errorf("%d keys are kept", len(tickets.keys))
	}
	f(false)
}
