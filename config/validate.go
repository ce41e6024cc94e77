package config

import (
	"fmt"
	"maps"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// checker holds a decoded configuration to what its types can not say: references,
// addresses, patterns, and what may not stand together.
type checker struct {
	c      *Config
	routes []string // their names, sorted
	errs   Errors
	lost   int // references to nothing, so far
}

// Looking for a near name takes time with the number of names, so a file in which
// everything is wrong gets hints for the first mistakes only.
const maxHints = 64

// check returns the mistakes in c, which may be decoded in part only.
func (c *Config) check() Errors {
	k := &checker{c: c, routes: slices.Sorted(maps.Keys(c.Routes))}
	k.listeners()
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		k.service(joinKey("services", name), c.Services[name])
	}
	for _, name := range k.routes {
		k.route(joinKey("routes", name), c.Routes[name])
	}
	k.consumers()
	k.tenants()
	k.teams()
	k.sources()
	k.usage()
	k.redis("state.redis", &c.State.Redis)
	return k.errs
}

// following adds the errors of a later step to earlier ones, without those that may only
// follow from an earlier one: about the same setting, one below, or the block around it.
func (es Errors) following(later Errors) Errors {
	if len(es) == 0 {
		return later
	}
	wrong, around := map[string]bool{}, map[string]bool{}
	for _, e := range es {
		wrong[e.Path] = e.Path != ""
		for path := parent(e.Path); path != ""; path = parent(path) {
			around[path] = true
		}
	}
	all := es
	for _, e := range later {
		follows := around[e.Path]
		for path := e.Path; path != "" && !follows; path = parent(path) {
			follows = wrong[path]
		}
		if !follows {
			all = append(all, e)
		}
	}
	return all
}

func parent(path string) string {
	segments, _ := parsePath(path)
	if len(segments) < 2 {
		return ""
	}
	up := ""
	for _, s := range segments[:len(segments)-1] {
		if s.list {
			up = joinIndex(up, s.index)
		} else {
			up = joinKey(up, s.key)
		}
	}
	return up
}

// maxChecked is how many mistakes are looked for. Each has to be found in the files, which takes the longer the more there are.
const maxChecked = 1000

func (k *checker) fail(path, format string, a ...any) {
	switch len(k.errs) {
	case maxChecked:
		return
	case maxChecked - 1:
		format += " (mistakes behind this one are not told)"
	}
	k.errs = append(k.errs, k.c.Errorf(path, format, a...))
}

// name refuses names that would break a log line, a label or a header.
func (k *checker) name(path, name string) {
	if name == "" {
		k.fail(path, "the name is empty")
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		k.fail(path, "the name has control characters")
	}
}

// reference reports a name that no entry has.
func reference[T any](k *checker, path, what, name string, entries map[string]T) {
	if _, ok := entries[name]; ok {
		return
	}
	help := ""
	if k.lost++; k.lost <= maxHints {
		help = hint(name, slices.Sorted(maps.Keys(entries)))
	}
	k.fail(path, "there is no %s %q%s", what, name, help)
}

func (k *checker) listeners() {
	c := k.c
	taken := map[string][]bound{}
	if c.Admin.Address != "" {
		if host, ok := k.address("admin.address", c.Admin.Address, taken); ok && c.Admin.Token.IsZero() && !isLoopback(host) {
			k.fail("admin.address", "%q can be reached from other machines and there is no token; listen on 127.0.0.1 or set admin.token", c.Admin.Address)
		}
	}
	if len(c.Listeners) == 0 {
		k.fail("listeners", "there is no listener; write main: {address: \":8080\"}")
	}
	obtained := map[string]string{}
	for _, name := range c.order {
		l, path := c.Listeners[name], joinKey("listeners", name)
		k.name(path, name)
		if l != nil && l.Address != "" {
			k.address(path+".address", l.Address, taken)
		}
		if l != nil {
			k.listenerTLS(path, l, obtained)
			k.listenerHTTP3(path, l)
		}
	}
}

func (k *checker) listenerHTTP3(path string, l *Listener) {
	path += ".http3"
	switch {
	case l.HTTP3.Off:
	case strings.HasPrefix(l.Address, "unix:"):
		k.fail(path, "HTTP/3 is spoken over UDP and this listener is a file; give it an address host:port or leave http3 out")
	case l.TLS.Off:
		k.fail(path, "HTTP/3 is always encrypted and this listener has no tls; write tls: {certificates: [{cert: FILE, key: FILE}]} or leave http3 out")
	case l.ProxyProtocol != "" && l.ProxyProtocol != "off":
		k.fail(path, "a PROXY protocol header says where a TCP connection came from and HTTP/3 has none; give http3 a listener of its own")
	}
}

func (k *checker) listenerTLS(path string, l *Listener, obtained map[string]string) {
	t := &l.TLS
	if t.Off {
		return
	}
	if !t.ACME.Off {
		k.acme(path+".tls.acme", l, obtained)
	}
	if l.H2C {
		k.fail(path+".h2c", "h2c is HTTP/2 without TLS and this listener has tls; write http2: true instead")
	}
	if len(t.Certificates) == 0 && t.ACME.Off {
		k.fail(path+".tls.certificates", "there is no certificate; write [{cert: FILE, key: FILE}], or name domains in tls.acme to obtain one")
	}
	if mode := t.ClientAuth.Mode; (mode == "request" || mode == "require") && t.ClientAuth.CA == "" {
		k.fail(path+".tls.client_auth.ca", "clients' certificates are verified against authorities; write ca: FILE")
	}
}

// acme checks what is said of certificates that are obtained. obtained has the listener of each name that was seen.
func (k *checker) acme(path string, l *Listener, obtained map[string]string) {
	a := &l.TLS.ACME
	if n := k.c.tree.locate(path); n.kind != scalar && len(n.fields) == 0 {
		*a = ACME{Off: true} // nothing was asked for
		return
	}
	if len(a.Domains) == 0 {
		k.fail(path+".domains", "certificates are obtained for the names that stand here and for no others; write [api.example.com]")
	}
	for i, name := range a.Domains {
		at := joinIndex(path+".domains", i)
		if problem := domainProblem(name); problem != "" {
			k.fail(at, "%s", problem)
			continue
		}
		name = strings.ToLower(name)
		other, taken := obtained[name]
		switch {
		case taken && other == l.Name:
			k.fail(at, "%q stands here twice", name)
		case taken && !a.sameSource(&k.c.Listeners[other].TLS.ACME):
			k.fail(at, "%s.tls.acme obtains a certificate for %q with other settings; write the same email, directory, ca, storage and challenges", joinKey("listeners", other), name)
		}
		a.Domains[i], obtained[name] = name, l.Name
	}
	if address, err := mail.ParseAddress(a.Email); a.Email != "" && (err != nil || address.Address != a.Email) {
		k.fail(path+".email", "%q is no address; write it as ops@example.com", a.Email)
	}
	if problem := directoryProblem(a.Directory); problem != "" {
		k.fail(path+".directory", "%s", problem)
	}
	if a.Storage == "" {
		k.fail(path+".storage", "account and certificates need a folder; write a path, as /var/lib/sluice/acme")
	}
	plain := false
	for _, l := range k.c.Listeners {
		plain = plain || l != nil && l.TLS.Off
	}
	switch {
	case len(a.Challenges) == 0:
		k.fail(path+".challenges", "the authority gives nothing without a challenge; write tls-alpn-01, http-01 or both")
	case !plain && !slices.Contains(a.Challenges, "tls-alpn-01"):
		k.fail(path+".challenges", "http-01 is answered on a listener without tls and there is none; add one for port 80, or write tls-alpn-01")
	}
}

// sameSource tells whether two blocks ask the same account for the same certificates.
func (a *ACME) sameSource(b *ACME) bool {
	return a.Email == b.Email && a.Directory == b.Directory && a.CA == b.CA && a.Storage == b.Storage && slices.Equal(a.Challenges, b.Challenges)
}

// domainProblem says why no certificate can be obtained for a name, or nothing.
func domainProblem(name string) string {
	_, err := netip.ParseAddr(name)
	switch {
	case strings.HasPrefix(name, "*."):
		return fmt.Sprintf("%q is a wildcard, for which authorities want changes of the DNS; name each host, or obtain it elsewhere and put it into certificates", name)
	case err == nil:
		return fmt.Sprintf("%q is an address; certificates are obtained for names", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }):
		return fmt.Sprintf("%q is not in ASCII; write its form for the DNS, which begins with xn--", name)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.Contains(label, "_") || !isHostName(name) {
			return fmt.Sprintf("%q is not the name of a host; write it as api.example.com", name)
		}
	}
	return ""
}

// directoryProblem says what is wrong with the URL of a directory, or nothing.
func directoryProblem(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || !isAuthority(u.Host) || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Sprintf("%q is no URL; write https://host/path", redactURL(raw))
	case u.User != nil:
		return fmt.Sprintf("%q holds a user, which is not sent", redactURL(raw))
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return fmt.Sprintf("%q is not encrypted; write https://", raw)
	}
	return ""
}

type bound struct{ host, path string }

// address checks where a listener listens, and that nothing else does. The host is "unix"
// for a socket in the file system.
func (k *checker) address(path, address string, taken map[string][]bound) (host string, ok bool) {
	before := len(k.errs)
	if file, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		if !strings.HasPrefix(file, "/") {
			k.fail(path, "%q names no absolute path; write unix:/path", address)
		}
		for _, other := range taken[address] {
			k.fail(path, "%s listens on %q already", other.path, address)
		}
		taken[address] = append(taken[address], bound{"unix", path})
		return "unix", len(k.errs) == before
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		k.fail(path, "%q is no address; write host:port, :port or unix:/path", address)
		return "", false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		k.fail(path, "%q has no port between 0 and 65535", address)
	} else if n != 0 {
		port = strconv.FormatUint(n, 10)
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			host = "*"
		}
		for _, other := range taken[port] {
			if host == other.host || host == "*" || other.host == "*" {
				k.fail(path, "port %s is listened on by %s already", port, other.path)
				break
			}
		}
		taken[port] = append(taken[port], bound{host, path})
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "*" && host != "" && !isHostName(host) {
		k.fail(path, "%q is neither an address nor the name of a host", host)
	}
	return host, len(k.errs) == before
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "unix" || strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

func isHostName(host string) bool {
	if host == "" || len(host) > 253 || host[0] == '.' || host[0] == '-' || strings.Contains(host, "..") {
		return false
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return !(r == '-' || r == '.' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	})
}

func (k *checker) service(path string, s *Service) {
	k.name(path, s.Name)
	k.discovery(path+".discovery", s)
	if len(s.Endpoints) == 0 && s.Discovery.Off {
		k.fail(path+".endpoints", "the service has no endpoints; write [\"http://host:port\"], or find them by discovery")
	}
	total := 0
	urls := map[string]string{}
	for i, e := range s.Endpoints {
		at := joinIndex(path+".endpoints", i)
		if n := k.c.tree.locate(at); n.kind == mapping {
			at += ".url"
		}
		if e.URL == "" {
			continue
		}
		total += e.Weight
		if problem := endpointProblem(e.URL, s.Protocol); problem != "" {
			k.fail(at, "%s", problem)
		} else if first, ok := urls[e.URL]; ok {
			k.fail(at, "%q stands here twice, first in %s; give it a weight instead", e.URL, first)
		}
		urls[e.URL] = at
	}
	if len(s.Endpoints) > 0 && total == 0 {
		k.fail(path+".endpoints", "every weight is 0, so no endpoint would get a request")
	}
	if s.PassHost && s.Host != "" {
		k.fail(path+".host", "pass_host sends the client's Host and host another one; keep one of them")
	}
	if s.Host != "" && !isAuthority(s.Host) {
		k.fail(path+".host", "%q is no host; write it as api.example.com or api.example.com:8443", s.Host)
	}
	if (s.TLS.Cert == "") != (s.TLS.Key == "") {
		k.fail(path+".tls", "a client certificate is cert and key together")
	}
	k.loadBalancer(path+".load_balancer", s.LoadBalancer)
	if !s.HealthCheck.Off && !strings.HasPrefix(s.HealthCheck.Path, "/") {
		k.fail(path+".health_check.path", "%q does not begin with a slash", s.HealthCheck.Path)
	}
	if hc := s.HealthCheck; !hc.Off && hc.GRPC != "" && (s.Protocol == "http" || s.Protocol == "https") {
		k.fail(path+".health_check.grpc", "gRPC is spoken over HTTP/2 and the service's protocol is %s; write protocol: grpc, grpcs or h2c, or ask a path instead", s.Protocol)
	} else if len(hc.GRPC) > 255 || strings.ContainsFunc(hc.GRPC, unicode.IsControl) {
		k.fail(path+".health_check.grpc", "this is no name of a service; write it as pkg.Service")
	}
	k.retryOn(path+".retries.when", s.Retries.When)
}

// endpointProblem says what is wrong with an endpoint's URL, or nothing.
func endpointProblem(raw, protocol string) string {
	if file, ok := strings.CutPrefix(raw, "unix:"); ok {
		if !strings.HasPrefix(file, "/") {
			return fmt.Sprintf("%q names no absolute path; write unix:/path", raw)
		}
		return ""
	}
	scheme := "http"
	if protocol == "https" || protocol == "grpcs" {
		scheme = "https"
	}
	if !strings.Contains(raw, "://") {
		return fmt.Sprintf("%q has no scheme; write %s://%s", raw, scheme, raw)
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || strings.ContainsFunc(raw, unicode.IsSpace):
		return fmt.Sprintf("%q is no URL; write %s://host:port/base", redactURL(raw), scheme)
	case u.User != nil:
		return fmt.Sprintf("%q holds a user, which is not sent; use a policy that sets the header Authorization", redactURL(raw))
	case u.Scheme == "https" && scheme == "http" && protocol == "http":
		return fmt.Sprintf("%q is https and the service's protocol is http; write protocol: https", raw)
	case u.Scheme != scheme:
		return fmt.Sprintf("%q does not fit the protocol %s; write %s://…", raw, protocol, scheme)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return fmt.Sprintf("%q has a query or a fragment; an endpoint is scheme, host, port and base path", raw)
	case !isAuthority(u.Host):
		return fmt.Sprintf("%q has no usable host and port", raw)
	}
	return ""
}

func isAuthority(s string) bool {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		host = h
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return isHostName(host)
}

func (k *checker) loadBalancer(path string, lb LoadBalancer) {
	const forms = "consumer, ip, path, header:NAME, cookie:NAME or query:NAME"
	if lb.Strategy != "consistent_hash" {
		if lb.By != "" {
			k.fail(path+".by", "only consistent_hash hashes by something; write strategy: consistent_hash or leave it out")
		}
		return
	}
	switch kind, name, named := strings.Cut(lb.By, ":"); kind {
	case "":
		k.fail(path+".by", "consistent_hash needs to know by what; write by: %s", forms)
	case "consumer", "ip", "path":
		if named {
			k.fail(path+".by", "%q takes no name; write %s", lb.By, kind)
		}
	case "header", "cookie", "query":
		if !isToken(name) && (kind != "query" || name == "") {
			k.fail(path+".by", "%q names no %s; write %s:NAME", lb.By, kind, kind)
		}
	default:
		k.fail(path+".by", "%q is not one of %s%s", lb.By, forms, suggest(kind, []string{"consumer", "ip", "path", "header", "cookie", "query"}))
	}
}

func (k *checker) retryOn(path string, when []string) {
	words := []string{
		"connect_failure", "reset", "timeout",
		"cancelled", "unknown", "deadline_exceeded", "resource_exhausted", "aborted", "internal", "unavailable", "data_loss",
	}
	for i, w := range when {
		status, err := strconv.Atoi(w)
		switch {
		case err == nil && (status < 500 || status > 599):
			k.fail(joinIndex(path, i), "%s is not a status of the 5xx, and others are not failures", w)
		case err != nil && !slices.Contains(words, w):
			k.fail(joinIndex(path, i), "%q is not one of connect_failure, reset, timeout, a status as \"503\", or one of gRPC as unavailable%s", w, suggest(w, words))
		}
	}
}

func (k *checker) consumers() {
	c := k.c
	keys, users, signers := map[string]string{}, map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Consumers)) {
		consumer, path := c.Consumers[name], joinKey("consumers", name)
		k.name(path, name)
		k.kong(path+".kong", consumer.Kong != nil)
		if consumer.Kong != nil {
			for i, s := range consumer.Kong.Scoped {
				at := joinIndex(path+".kong.scoped", i)
				if s.Route == "" && s.Service == "" {
					k.fail(at, "names neither a route nor a service; write its policies as the consumer's own")
				}
				if s.Route != "" {
					reference(k, at+".route", "route", s.Route, c.Routes)
				}
				if s.Service != "" {
					reference(k, at+".service", "service", s.Service, c.Services)
				}
			}
		}
		if consumer.Tenant != "" {
			reference(k, path+".tenant", "tenant", consumer.Tenant, c.Tenants)
		}
		if consumer.Plan != "" {
			reference(k, path+".plan", "plan", consumer.Plan, c.Plans)
		}
		for i, group := range consumer.Groups {
			k.name(joinIndex(path+".groups", i), group)
		}
		ids := map[string]bool{}
		for i, key := range consumer.APIKeys {
			at := joinIndex(path+".api_keys", i)
			k.hash(at+".hash", key.Hash)
			k.unique(at+".hash", "this key", strings.ToLower(key.Hash), keys)
			if key.ID != "" && ids[key.ID] {
				k.fail(at+".id", "a key of this consumer has the id %q already", key.ID)
			}
			ids[key.ID] = true
		}
		for i, user := range consumer.BasicAuth {
			at := joinIndex(path+".basic_auth", i)
			k.passwordHash(at+".hash", user.Hash)
			if user.Username == "" {
				user.Username = name
			}
			if strings.ContainsFunc(user.Username, func(r rune) bool { return r == ':' || unicode.IsControl(r) }) {
				k.fail(at+".username", "%q has a colon or control characters, which Basic authentication can not carry", user.Username)
			}
			k.unique(at+".username", "this user name", user.Username, users)
		}
		for i, signer := range consumer.HMAC {
			at := joinIndex(path+".hmac", i)
			if signer.Username == "" {
				signer.Username = name
			}
			if strings.ContainsFunc(signer.Username, func(r rune) bool { return r == '"' || r == '\\' || unicode.IsControl(r) }) {
				k.fail(at+".username", "%q has quotes, backslashes or control characters, which the credential can not carry", signer.Username)
			}
			k.unique(at+".username", "this user name", signer.Username, signers)
		}
		for i, jwt := range consumer.JWT {
			at := joinIndex(path+".jwt", i)
			given := 0
			for _, set := range [...]bool{!jwt.Secret.IsZero(), jwt.PublicKey != "", jwt.JWKSURL != ""} {
				if set {
					given++
				}
			}
			if given != 1 {
				k.fail(at, "a token is verified by one key; write exactly one of secret, public_key, jwks_url")
			}
			if u, err := url.Parse(jwt.JWKSURL); jwt.JWKSURL != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
				k.fail(at+".jwks_url", "%q is no URL; write https://host/path", redactURL(jwt.JWKSURL))
			}
		}
	}
}

func (k *checker) hash(path, hash string) {
	digits, ok := strings.CutPrefix(hash, "sha256:")
	if hash == "" {
		return
	}
	if !ok || len(digits) != 64 || strings.Trim(strings.ToLower(digits), "0123456789abcdef") != "" {
		k.fail(path, "this is no hash; write sha256: and 64 hexadecimal digits, as printf %%s KEY | sha256sum prints them")
	}
}

// passwordHash accepts the slow hashes that passwords deserve beside sha256.
func (k *checker) passwordHash(path, hash string) {
	for _, scheme := range [...]string{"$2a$", "$2b$", "$2y$", "$argon2id$v=19$"} {
		if strings.HasPrefix(hash, scheme) {
			return
		}
	}
	if hash != "" && !strings.HasPrefix(hash, "sha256:") {
		k.fail(path, "this is no hash; write one of bcrypt ($2b$…), argon2id ($argon2id$v=19$…), or sha256: and 64 hexadecimal digits")
		return
	}
	k.hash(path, hash)
}

func (k *checker) unique(path, what, value string, seen map[string]string) {
	if value == "" {
		return
	}
	if first, ok := seen[value]; ok {
		k.fail(path, "%s stands also at %s; it can identify only one consumer", what, first)
		return
	}
	seen[value] = path
}
