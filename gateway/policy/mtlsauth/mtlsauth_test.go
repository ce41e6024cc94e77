package mtlsauth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
	"time"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

const consumers = "consumers: {alice: {}, bob: {}, \"spiffe://acme/carol\": {}}\n"

var leaf = &x509.Certificate{
	Subject:        pkix.Name{CommonName: "alice", Organization: []string{"Acme"}},
	DNSNames:       []string{"host.acme.example", "bob"},
	EmailAddresses: []string{"alice@acme.example"},
	URIs:           []*url.URL{{Scheme: "spiffe", Host: "acme", Path: "/carol"}},
	NotBefore:      policytest.Epoch.Add(-time.Hour), NotAfter: policytest.Epoch.Add(time.Hour),
}

func verified(c *x509.Certificate) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c}}}
}

func TestAuthenticate(t *testing.T) {
	w := policytest.New(t, consumers)
	stranger := &x509.Certificate{Subject: pkix.Name{CommonName: "mallory"}, NotAfter: policytest.Epoch.Add(time.Hour)}
	nameless := &x509.Certificate{NotAfter: policytest.Epoch.Add(time.Hour)}
	f := func(settings string, state *tls.ConnectionState, wantConsumer, wantSubject, wantFailure string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		for range 2 { // the second time from memory
			x := w.Exchange("/")
			x.TLS = state
			err := h.Authenticate(x)
			consumer := ""
			if x.Identity.Consumer != nil {
				consumer = x.Identity.Consumer.Name
			}
			authenticated := wantSubject != ""
			if consumer != wantConsumer || string(x.Identity.Subject) != wantSubject || x.AuthFailure != wantFailure || x.Identity.Authenticated != authenticated || (err == nil) != authenticated {
				t.Errorf("%s: %s %s %s, %v", settings, consumer, x.Identity.Subject, x.AuthFailure, err)
			}
			if wantSubject == "" && wantFailure == "" && err != exchange.ErrNoCredential {
				t.Errorf("%s: %v", settings, err)
			}
			x.Close()
		}
	}
	f("", nil, "", "", "")
	f("", &tls.ConnectionState{}, "", "", "")
	// Sent, and not verified.
	f("", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, "", "", "")
	f("", verified(leaf), "spiffe://acme/carol", "spiffe://acme/carol", "")
	f("by: [cn]", verified(leaf), "alice", "alice", "")
	f("by: [dns]", verified(leaf), "bob", "bob", "")
	f("by: [email]", verified(leaf), "", "", "unknown_subject")
	f("by: [email, cn]", verified(leaf), "alice", "alice", "")
	f("{by: [email], unknown: accept}", verified(leaf), "", "alice@acme.example", "")
	f("{by: [email], consumers: {alice@acme.example: bob}}", verified(leaf), "bob", "alice@acme.example", "")
	f(`{by: [subject], consumers: {"CN=alice,O=Acme": bob}}`, verified(leaf), "bob", "CN=alice,O=Acme", "")
	f(`{by: [cn], consumers: {alice: bob}}`, verified(leaf), "bob", "alice", "")
	f("", verified(stranger), "", "", "unknown_subject")
	f("unknown: accept", verified(stranger), "", "mallory", "")
	f("unknown: accept", verified(nameless), "", "", "unknown_subject")
	w.Advance(2 * time.Hour)
	f("", verified(leaf), "", "", "expired")
}

func TestAnonymous(t *testing.T) {
	w := policytest.New(t, consumers)
	if h := w.MustBuild(t, Definition, "anonymous: bob"); h.Anonymous == nil || h.Anonymous.Name != "bob" {
		t.Error(h.Anonymous)
	}
}

func TestWarning(t *testing.T) {
	f := func(listeners string, want bool) {
		t.Helper()
		w := policytest.New(t, listeners)
		w.MustBuild(t, Definition, "")
		if got := strings.Contains(strings.Join(w.Warnings(), "\n"), "no listener asks clients for certificates"); got != want {
			t.Errorf("%s: %q", listeners, w.Warnings())
		}
	}
	f("", true)
	f(`listeners: {a: {address: ":1", tls: {certificates: [{cert: a, key: b}]}}}`, true)
	f(`listeners: {a: {address: ":1", tls: {certificates: [{cert: a, key: b}], client_auth: {mode: request, ca: c}}}}`, false)
}

func TestMemoryIsBounded(t *testing.T) {
	w := policytest.New(t, consumers)
	a := &authenticator{by: []string{"cn"}, consumers: w.Consumers, remembered: make(map[*x509.Certificate]holder)}
	for range 3 * maxRemembered {
		a.holderOf(&x509.Certificate{Subject: pkix.Name{CommonName: "alice"}})
	}
	if len(a.remembered) > maxRemembered {
		t.Errorf("%d certificates are remembered", len(a.remembered))
	}
}

func TestAllocations(t *testing.T) {
	w := policytest.New(t, consumers)
	h := w.MustBuild(t, Definition, "by: [subject, uri]")
	state := verified(leaf)
	w.NoAllocations(t, "known", func(x *exchange.Exchange) {
		x.TLS = state
		if err := h.Authenticate(x); err != nil {
			t.Fatal(err)
		}
	})
	w.NoAllocations(t, "none", func(x *exchange.Exchange) { _ = h.Authenticate(x) })
}
