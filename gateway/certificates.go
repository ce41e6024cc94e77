package gateway

import (
	"maps"
	"slices"
	"time"

	"sluice/gateway/certs"
)

// CertificateView is a certificate of a listener as operators see it.
type CertificateView struct {
	Listener string `json:"listener"`
	// Certificate is its file, or the name that an authority certifies.
	Certificate string `json:"certificate"`
	// From is file or acme.
	From string `json:"from"`
	// Pending: it is still to be obtained, and all below is empty.
	Pending   bool       `json:"pending,omitempty"`
	Subject   string     `json:"subject,omitempty"`
	Names     []string   `json:"names,omitempty"`
	Issuer    string     `json:"issuer,omitempty"`
	NotBefore *time.Time `json:"not_before,omitempty"`
	NotAfter  *time.Time `json:"not_after,omitempty"`
	// Stapled: an OCSP response goes with it.
	Stapled bool `json:"stapled"`
}

// Certificates shows the certificates in use, by listener.
func (g *Gateway) Certificates() []CertificateView {
	views := []CertificateView{}
	gen := g.current.Load()
	if gen == nil {
		return views
	}
	for _, listener := range slices.Sorted(maps.Keys(gen.secured)) {
		s := gen.secured[listener]
		if s.store != nil {
			for _, c := range s.store.Certificates() {
				views = append(views, viewCertificate(listener, c.File, "file", &c))
			}
		}
		if s.obtained == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(s.obtained.names)) {
			if c := s.obtained.authority.Certificate(name); c != nil {
				info := certs.Describe(c)
				views = append(views, viewCertificate(listener, name, "acme", &info))
			} else {
				views = append(views, CertificateView{Listener: listener, Certificate: name, From: "acme", Pending: true})
			}
		}
	}
	return views
}

func viewCertificate(listener, certificate, from string, c *certs.Info) CertificateView {
	notBefore, notAfter := c.NotBefore.UTC(), c.NotAfter.UTC()
	return CertificateView{
		Listener: listener, Certificate: certificate, From: from, Subject: c.Subject, Names: c.Names, Issuer: c.Issuer,
		NotBefore: &notBefore, NotAfter: &notAfter, Stapled: c.Stapled,
	}
}
