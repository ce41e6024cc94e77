// Package mtlsauth authenticates requests by the certificate that the client
// presented in the TLS handshake. Only certificates that the listener verified
// against its authorities count (`client_auth`); what one says of its holder is
// read once and remembered, so that a request allocates nothing.
package mtlsauth

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"sync"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `mtls_auth`. A listener with `client_auth` has to ask for certificates.
type Config struct {
	// By is where the name of the caller stands in the certificate: `cn`, the whole `subject` (RFC 2253, as "CN=alice,O=Acme"), or the alternative names `dns`, `email`, `uri`. The first of them that is the name of a consumer, or stands in `consumers`, decides.
	By []string `yaml:"by" enum:"cn|subject|dns|email|uri" default:"uri,email,dns,cn"`
	// Consumers gives the consumer for a name where it is not the consumer's own.
	Consumers map[string]string `yaml:"consumers"`
	// Unknown is what happens with a verified certificate that names no consumer: `refuse`, or `accept` as a subject that is no consumer.
	Unknown string `yaml:"unknown" enum:"refuse|accept" default:"refuse"`
	// Anonymous is the consumer that requests without a valid certificate are taken for. Default: they are refused.
	Anonymous string `yaml:"anonymous"`
}

// Definition is the policy `mtls_auth`.
var Definition = policy.Define("mtls_auth", policy.Authenticate, build)

// maxRemembered bounds the certificates that are remembered; then all are forgotten.
const maxRemembered = 4096

// challenge has no registered scheme to name: certificates are asked for below HTTP.
const challenge = "ClientCertificate"

var unknown = exchange.NewReject(401, "credential_invalid", "the client certificate names nobody who is known here", exchange.Header("WWW-Authenticate", challenge))

type authenticator struct {
	by        []string
	consumers map[string]*exchange.Consumer
	accept    bool

	mu         sync.RWMutex
	remembered map[*x509.Certificate]holder
}

// holder is who a certificate is about.
type holder struct {
	subject  []byte // nil: nobody
	consumer *exchange.Consumer
}

func build(b *policy.Build, c *Config) (hooks policy.Hooks, err error) {
	a := &authenticator{by: c.By, accept: c.Unknown == "accept", consumers: make(map[string]*exchange.Consumer), remembered: make(map[*x509.Certificate]holder)}
	if len(c.By) == 0 {
		return hooks, policy.Wrong("by", "says nothing of where the name stands; write cn, subject, dns, email or uri")
	}
	maps.Copy(a.consumers, b.World.Consumers)
	for _, name := range slices.Sorted(maps.Keys(c.Consumers)) {
		consumer := b.World.Consumers[c.Consumers[name]]
		if consumer == nil {
			return hooks, policy.Wrong(fmt.Sprintf("consumers.%s", name), "there is no consumer %q", c.Consumers[name])
		}
		a.consumers[name] = consumer
	}
	hooks.Authenticate, hooks.Challenge = a.authenticate, challenge
	if c.Anonymous != "" {
		if hooks.Anonymous = b.World.Consumers[c.Anonymous]; hooks.Anonymous == nil {
			return hooks, policy.Wrong("anonymous", "there is no consumer %q", c.Anonymous)
		}
	}
	if !asked(b) {
		b.World.Warn(b.Path, "no listener asks clients for certificates, so nobody can authenticate; set tls.client_auth of a listener")
	}
	return hooks, nil
}

// asked reports whether a listener asks clients for certificates.
func asked(b *policy.Build) bool {
	for _, l := range b.World.Config.Listeners {
		if l != nil && !l.TLS.Off && l.TLS.ClientAuth.Mode != "none" {
			return true
		}
	}
	return false
}

func (a *authenticator) authenticate(x *exchange.Exchange) error {
	if x.TLS == nil || len(x.TLS.VerifiedChains) == 0 {
		return exchange.ErrNoCredential
	}
	leaf := x.TLS.VerifiedChains[0][0]
	if t := x.Arrived; t.Before(leaf.NotBefore) || t.After(leaf.NotAfter) {
		// A connection can outlive the certificate that it began with.
		x.AuthFailure = "expired"
		return unknown
	}
	h := a.holderOf(leaf)
	if h.consumer == nil && (!a.accept || h.subject == nil) {
		x.AuthFailure = "unknown_subject"
		return unknown
	}
	id := &x.Identity
	id.Authenticated, id.Method, id.Subject, id.Consumer = true, "mtls_auth", h.subject, h.consumer
	return nil
}

func (a *authenticator) holderOf(leaf *x509.Certificate) holder {
	a.mu.RLock()
	h, ok := a.remembered[leaf]
	a.mu.RUnlock()
	if ok {
		return h
	}
	h = a.read(leaf)
	a.mu.Lock()
	if len(a.remembered) >= maxRemembered {
		clear(a.remembered)
	}
	a.remembered[leaf] = h
	a.mu.Unlock()
	return h
}

// read finds out who a certificate is about: the first name that is a
// consumer's, else the first name.
func (a *authenticator) read(leaf *x509.Certificate) (h holder) {
	for _, by := range a.by {
		for _, name := range names(leaf, by) {
			if name == "" {
				continue
			}
			if c := a.consumers[name]; c != nil {
				return holder{[]byte(name), c}
			}
			if h.subject == nil {
				h.subject = []byte(name)
			}
		}
	}
	return h
}

func names(leaf *x509.Certificate, by string) []string {
	switch by {
	case "cn":
		return []string{leaf.Subject.CommonName}
	case "subject":
		return []string{leaf.Subject.String()}
	case "dns":
		return leaf.DNSNames
	case "email":
		return leaf.EmailAddresses
	}
	uris := make([]string, len(leaf.URIs))
	for i, u := range leaf.URIs {
		uris[i] = u.String()
	}
	return uris
}
