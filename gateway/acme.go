package gateway

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/acme"
	"sluice/gateway/certs"
	"sluice/gateway/exchange"
	"sluice/gateway/router"
	"sluice/gateway/telemetry"
)

// source is what certificates that are obtained have in common: an authority
// keeps those of one source, over configurations.
type source struct {
	directory, email, storage string
	ca                        [sha256.Size]byte // of the file's contents; zero without
	tlsALPN, http             bool
}

// obtained are the certificates of one listener that an authority gives.
type obtained struct {
	source    source
	authority *acme.Authority
	names     map[string]bool // in lower case
	standard  string          // the first of them
	now       func() time.Time
}

// obtain prepares what a listener needs to obtain certificates; all are the
// listeners that were prepared before it. Nothing is asked of the authority yet.
func (g *Gateway) obtain(c *config.Config, lc *config.Listener, path string, all map[string]*security, dry bool) (*obtained, config.Errors) {
	settings, errs := &lc.TLS.ACME, config.Errors(nil)
	o := &obtained{now: g.clock.Time, names: make(map[string]bool), standard: settings.Domains[0]}
	for _, name := range settings.Domains {
		o.names[name] = true
	}
	o.source = source{
		directory: settings.Directory, email: settings.Email, storage: settings.Storage,
		tlsALPN: slices.Contains(settings.Challenges, "tls-alpn-01"), http: slices.Contains(settings.Challenges, "http-01") && speaksPlain(c),
	}
	var roots *x509.CertPool
	if settings.CA != "" {
		var err error
		if roots, o.source.ca, err = certs.LoadPool(settings.CA); err != nil {
			errs = append(errs, c.Errorf(path+".ca", "%v", err))
		}
	}
	prepare := acme.Prepare
	if dry {
		prepare = acme.Check
	}
	if err := prepare(settings.Storage); err != nil {
		errs = append(errs, c.Errorf(path+".storage", "%v; the gateway keeps account and certificates there, name a folder that it may write", err))
	}
	if len(errs) > 0 || dry {
		return o, errs
	}
	if o.authority = g.signers[o.source]; o.authority == nil {
		for _, s := range all {
			if s.obtained != nil && s.obtained.source == o.source {
				o.authority = s.obtained.authority
			}
		}
	}
	if o.authority == nil {
		o.authority = acme.New(acme.Settings{
			Directory: settings.Directory, Email: settings.Email, Storage: settings.Storage,
			Roots: roots, TLSALPN: o.source.tlsALPN, HTTP: o.source.http,
		}, g.log)
	}
	o.authority.Load(settings.Domains)
	return o, nil
}

func speaksPlain(c *config.Config) bool {
	for _, l := range c.Listeners {
		if l.TLS.Off {
			return true
		}
	}
	return false
}

// choose is for tls.Config where certificates are obtained. A valid one of
// those comes before the files; then what the files have for the name, or
// where it is to be obtained, none: the client is told that the name is
// unknown. Others get the default: the first file, or the first name.
func (s *security) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	o := s.obtained
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	var own *tls.Certificate
	if o.names[name] {
		own = o.authority.Certificate(name)
		if own != nil && o.now().Before(own.Leaf.NotAfter) {
			return own, nil
		}
	}
	if s.store != nil {
		if c := s.store.Named(hello); c != nil {
			return c, nil
		}
	}
	switch {
	case o.names[name]:
		return own, nil
	case s.store != nil:
		return s.store.GetCertificate(hello)
	}
	return o.authority.Certificate(o.standard), nil
}

// challenge is for tls.Config: an authority that looks for a pending challenge
// gets a handshake that is about nothing else, and needs no certificate of its own.
func (o *obtained) challenge(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acme.Protocol {
		return nil, nil
	}
	name := strings.ToLower(hello.ServerName)
	if !o.names[name] {
		return nil, nil
	}
	c := o.authority.TLSChallenge(name)
	if c == nil {
		return nil, nil
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*c}, NextProtos: []string{acme.Protocol},
		MinVersion: tls.VersionTLS12, CipherSuites: suites, SessionTicketsDisabled: true,
	}, nil
}

// watch shows when the certificates end; 0 is for those that are still to come.
func (o *obtained) watch(family *telemetry.FuncFamily, generation *telemetry.Generation, listener string) {
	if o == nil {
		return
	}
	for name := range o.names {
		family.With(generation, func() float64 {
			if c := o.authority.Certificate(name); c != nil {
				return float64(c.Leaf.NotAfter.Unix())
			}
			return 0
		}, listener, name)
	}
}

// asked lists the names that may be asked for by HTTP.
func asked(secured map[string]*security) map[string]*obtained {
	var names map[string]*obtained
	for _, s := range secured {
		if s.obtained == nil || !s.obtained.source.http {
			continue
		}
		if names == nil {
			names = make(map[string]*obtained)
		}
		for name := range s.obtained.names {
			names[name] = s.obtained
		}
	}
	return names
}

var challengePath = []byte(acme.HTTPPath)

// answerChallenge returns the answer to a pending challenge, nil for any other
// request.
func (gen *generation) answerChallenge(x *exchange.Exchange) *exchange.Reply {
	if !bytes.HasPrefix(x.Path, challengePath) || !x.Request.Header.IsGet() {
		return nil
	}
	name := string(router.NormalizeHost(x.Scratch(), x.Request.Header.Host()))
	o := gen.asked[name]
	if o == nil {
		return nil
	}
	answer := o.authority.HTTPChallenge(name, string(x.Path))
	if answer == "" {
		return nil
	}
	reply := exchange.NewReply(fasthttp.StatusOK, exchange.Own)
	reply.Head.SetContentType("application/octet-stream")
	reply.Body = []byte(answer)
	return reply
}

// keepObtained makes the authorities keep the certificates of a generation,
// whose listeners are open, and no others. mu is held.
func (g *Gateway) keepObtained(gen *generation) {
	wanted := make(map[source]map[string]bool)
	signers := make(map[source]*acme.Authority)
	for _, s := range gen.secured {
		if o := s.obtained; o != nil {
			signers[o.source] = o.authority
			if wanted[o.source] == nil {
				wanted[o.source] = make(map[string]bool)
			}
			maps.Copy(wanted[o.source], o.names)
		}
	}
	g.closeSigners(signers)
	g.signers = signers
	for key, authority := range signers {
		authority.Keep(slices.Sorted(maps.Keys(wanted[key])))
	}
}

// closeSigners ends the authorities that are not among those to stay.
func (g *Gateway) closeSigners(stay map[source]*acme.Authority) {
	for key, authority := range g.signers {
		if stay[key] == nil {
			authority.Close()
			delete(g.signers, key)
		}
	}
}
