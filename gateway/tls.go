package gateway

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/certs"
	"sluice/gateway/listener"
	"sluice/gateway/snapshot"
)

// security is how one listener of a generation ends TLS.
type security struct {
	settings *config.Listener
	store    *certs.Store // nil without files
	obtained *obtained    // nil without ACME
	config   *tls.Config
	ca       [sha256.Size]byte // of the authorities' file; zero without
	caFailed string            // what it failed with last, said once
	tickets  *certs.Tickets    // the listener's, set when it is put in force
}

// suites are those of TLS 1.2 that give forward secrecy and authenticated
// encryption. TLS 1.3 has no others.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// secure loads what the listeners of c need for TLS. Every problem is reported.
// In a dry run nothing is made.
func (g *Gateway) secure(c *config.Config, dry bool) (all map[string]*security, warnings []snapshot.Warning, errs config.Errors) {
	all = make(map[string]*security)
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		lc := c.Listeners[name]
		if lc.TLS.Off {
			continue
		}
		path := "listeners." + name + ".tls"
		files := make([]certs.Files, len(lc.TLS.Certificates))
		for i, cert := range lc.TLS.Certificates {
			files[i] = certs.Files{Cert: cert.Cert, Key: cert.Key, OCSP: cert.OCSP}
		}
		s := &security{settings: lc}
		var problems []*certs.Problem
		if len(files) > 0 {
			s.store, problems = certs.Open(files, g.clock.Time)
		}
		for _, p := range problems {
			at := path + ".certificates[" + strconv.Itoa(p.Index) + "]." + p.Field
			if p.Warning {
				warnings = append(warnings, snapshot.Warning{Path: at, Message: p.Err.Error()})
			} else {
				errs = append(errs, c.Errorf(at, "%v", p.Err))
			}
		}
		if !lc.TLS.ACME.Off {
			var wrong config.Errors
			s.obtained, wrong = g.obtain(c, lc, path+".acme", all, dry)
			errs = append(errs, wrong...)
		}
		made, ca, err := s.build()
		if err != nil {
			errs = append(errs, c.Errorf(path+".client_auth.ca", "%v", err))
			continue
		}
		s.config, s.ca = made, ca
		all[name] = s
	}
	return all, warnings, errs
}

// build makes the settings of handshakes; only the authorities' file is read for it.
func (s *security) build() (c *tls.Config, ca [sha256.Size]byte, err error) {
	t := &s.settings.TLS
	c = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		CipherSuites: suites,
		NextProtos:   []string{"http/1.1"},
	}
	switch {
	case s.obtained != nil:
		c.GetCertificate, c.GetConfigForClient = s.choose, s.obtained.challenge
	case s.store != nil:
		c.GetCertificate = s.store.GetCertificate
	}
	if t.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	if s.settings.HTTP2 {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	switch t.ClientAuth.Mode {
	case "request":
		c.ClientAuth = tls.VerifyClientCertIfGiven
	case "require":
		c.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		return c, ca, nil
	}
	c.ClientCAs, ca, err = certs.LoadPool(t.ClientAuth.CA)
	return c, ca, err
}

// protocols are what a listener speaks; s is nil without TLS.
func protocols(l *listener.Listener, c *config.Config, lc *config.Listener, s *security) listener.Protocols {
	p := listener.Protocols{H2C: lc.H2C, Loop: lc.Engine == engineLoop, Proxy: proxyModes[lc.ProxyProtocol]}
	if p.Proxy != listener.ProxyOff {
		for _, n := range c.TrustedProxies {
			p.Proxies = append(p.Proxies, n.Prefix)
		}
	}
	if s != nil {
		p.TLS = s.config
		if d := lc.TLS.HSTS; d > 0 {
			p.HSTS = strconv.AppendInt([]byte("max-age="), int64(d/time.Second), 10)
		}
		p.AltSvc = alternative(l, lc)
	}
	return p
}

// alternativeFor is how long clients remember that HTTP/3 is spoken.
const alternativeFor = 24 * time.Hour

// alternative tells clients where HTTP/3 is spoken; nil where it is not.
func alternative(l *listener.Listener, lc *config.Listener) []byte {
	if lc.HTTP3.Off {
		return nil
	}
	port := lc.HTTP3.AdvertisedPort
	if a, ok := l.Addr().(*net.TCPAddr); ok && port == 0 {
		port = a.Port
	}
	return fmt.Appendf(nil, `h3=":%d"; ma=%d`, port, alternativeFor/time.Second)
}

var proxyModes = map[string]listener.ProxyMode{"accept": listener.ProxyAccept, "require": listener.ProxyRequire}

// proxyWarnings tells of listeners that wait for a PROXY protocol header and believe nobody's.
func proxyWarnings(c *config.Config) (warnings []snapshot.Warning) {
	if len(c.TrustedProxies) > 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		var effect string
		switch proxyModes[c.Listeners[name].ProxyProtocol] {
		case listener.ProxyAccept:
			effect = "every header is malformed HTTP"
		case listener.ProxyRequire:
			effect = "every connection is closed"
		default:
			continue
		}
		warnings = append(warnings, snapshot.Warning{
			Path:    "listeners." + name + ".proxy_protocol",
			Message: "headers are believed from trusted_proxies alone, and there are none: " + effect + "; write the networks of the proxies there",
		})
	}
	return warnings
}

// speak puts what a listener speaks in force. before is what it spoke TLS by,
// nil for none.
func (g *Gateway) speak(l *listener.Listener, c *config.Config, lc *config.Listener, s, before *security) {
	if s != nil {
		g.takeTickets(s, before)
		s.tickets.Use(s.config)
	}
	l.Speak(protocols(l, c, lc, s))
}

// takeTickets gives s the ticket keys of the listener.
func (g *Gateway) takeTickets(s, before *security) {
	switch {
	case before == nil:
		s.tickets = certs.NewTickets(g.clock.Time)
	case before.settings.TLS.ClientAuth.Mode != s.settings.TLS.ClientAuth.Mode || before.ca != s.ca:
		// A session that is resumed proves what it proved when it began.
		s.tickets = before.tickets
		s.tickets.Forget()
	default:
		s.tickets = before.tickets
	}
}

// engineLoop is the engine of listeners beside fasthttp's server.
const engineLoop = "loop"

// watchCertificates shows when certificates end.
func (g *Gateway) watchCertificates(gen *generation) {
	for name, s := range gen.secured {
		s.obtained.watch(g.metrics.CertificateExpiry, gen.world.Generation, name)
		if s.store == nil {
			continue
		}
		for i, c := range s.store.Certificates() {
			store := s.store
			g.metrics.CertificateExpiry.With(gen.world.Generation, func() float64 {
				return float64(store.Certificates()[i].NotAfter.Unix())
			}, name, c.File)
		}
	}
}

// certificatesEvery is how often the files of certificates are looked at.
const certificatesEvery = 5 * time.Second

// keepCertificates takes up files that change, until the gateway ends.
func (g *Gateway) keepCertificates() {
	t := time.NewTicker(certificatesEvery)
	defer t.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-t.C:
		}
		// The gateway that ends holds mu until this has ended.
		if g.mu.TryLock() {
			g.refreshCertificates()
			g.mu.Unlock()
		}
	}
}

// RefreshCertificates looks at the files of certificates and of the authorities
// of client certificates, and takes up those whose contents have changed. What
// can not be used is logged, and leaves in use what was before. The gateway
// calls it now and then by itself.
func (g *Gateway) RefreshCertificates() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refreshCertificates()
}

func (g *Gateway) refreshCertificates() {
	gen := g.current.Load()
	if gen == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(gen.secured)) {
		s := gen.secured[name]
		server := g.servers[socketOf(name, s.settings.Address)]
		if server == nil || s.tickets == nil {
			continue
		}
		g.refreshFiles(name, s)
		g.refreshAuthorities(gen.Config, name, s, server)
		s.tickets.Rotate()
	}
}

func (g *Gateway) refreshFiles(name string, s *security) {
	if s.store == nil {
		return
	}
	changed, problems := s.store.Refresh()
	for _, p := range problems {
		g.log.Warn("certificate: "+p.Err.Error(), "setting", fmt.Sprintf("listeners.%s.tls.certificates[%d].%s", name, p.Index, p.Field))
	}
	for _, i := range changed {
		c := s.store.Certificates()[i]
		g.log.Info("certificate loaded", "listener", name, "file", c.File, "subject", c.Subject, "not_after", c.NotAfter.UTC().Format(time.RFC3339))
	}
}

func (g *Gateway) refreshAuthorities(c *config.Config, name string, s *security, server *listener.Server) {
	made, ca, err := s.build()
	switch {
	case err != nil:
		if text := err.Error(); text != s.caFailed {
			s.caFailed = text
			g.log.Warn("certificate: "+text, "setting", "listeners."+name+".tls.client_auth.ca")
		}
		return
	case ca == s.ca:
		s.caFailed = ""
		return
	}
	s.caFailed = ""
	s.config, s.ca = made, ca
	s.tickets.Forget()
	s.tickets.Use(made)
	server.Listener().Speak(protocols(server.Listener(), c, s.settings, s))
	g.log.Info("authorities of client certificates loaded", "listener", name, "file", s.settings.TLS.ClientAuth.CA)
}
