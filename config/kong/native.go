package kong

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
)

// native writes the whole configuration.
func (t *translation) native() config.Tree {
	file := t.document.tree
	root := config.NewMap(file).
		Set("version", config.NewWord(file, 1)).
		Set("compatibility", config.NewWord(t.document.at("_format_version"), "kong"))
	if secure := t.listeners(); secure.Is() {
		root.Set("listeners", secure)
	}
	if state := t.state(); state.Is() {
		root.Set("state", state)
	}
	services, routes, consumers := config.NewMap(t.document.at("services")), config.NewMap(t.document.at("routes")), config.NewMap(t.document.at("consumers"))
	for _, s := range t.services {
		if s.yes("enabled") {
			services.Set(s.native, t.service(s))
		}
	}
	for _, r := range t.routes {
		if !r.off {
			routes.Set(r.native, t.route(r))
		}
	}
	for _, c := range t.consumer {
		consumers.Set(c.native, t.consumerOf(c))
	}
	// Kong has no bound on bodies, and its timeouts between two bytes are those of services.
	root.Set("limits", config.NewMap(file).
		Set("max_body_size", config.NewWord(file, 0)).
		Set("stall_timeout", config.NewWord(file, milliseconds(max(t.stall, 60000)))))
	for _, part := range []struct {
		name string
		tree config.Tree
	}{{"services", services}, {"routes", routes}, {"consumers", consumers}} {
		if part.tree.Len() > 0 {
			root.Set(part.name, part.tree)
		}
	}
	global := t.policies(scope{}, config.NewMap(t.document.at("plugins")))
	// What is on by itself natively and is not in Kong.
	for _, name := range []string{"correlation_id", "auth_guard"} {
		if !global.Get(name).Is() {
			global.Set(name, config.NewWord(file, "off"))
		}
	}
	return root.Set("policies", global)
}

// listeners are the default one, and one for the certificates of the file.
func (t *translation) listeners() config.Tree {
	certificates := config.NewList(t.document.at("certificates"))
	for _, c := range t.certs {
		for _, names := range [][2]string{{"cert", "key"}, {"cert_alt", "key_alt"}} {
			if !c.has(names[0]) && !c.has(names[1]) && names[0] != "cert" {
				continue
			}
			for _, name := range names {
				if !strings.Contains(c.text(name), "-----BEGIN") {
					c.fail(name, "there is no PEM in it; it begins with -----BEGIN")
				}
			}
			certificates.Append(config.NewMap(c.tree).
				Set("cert", config.NewText(c.at(names[0]), c.text(names[0]))).
				Set("key", config.NewText(c.at(names[1]), c.text(names[1]))))
		}
	}
	acme, grpcs := t.acme(), t.speaks("grpcs")
	if certificates.Len() == 0 && !acme.Is() {
		if !t.speaks("grpc") && !grpcs {
			return config.Tree{}
		}
		return config.NewMap(t.document.tree).Set("main", t.plainListener(t.document.tree))
	}
	at := t.document.at("certificates")
	tls := config.NewMap(at)
	if certificates.Len() > 0 {
		tls.Set("certificates", certificates)
	}
	if acme.Is() {
		tls.Set("acme", acme)
	}
	return config.NewMap(at).
		Set("main", t.plainListener(at)).
		Set("secure", config.NewMap(at).Set("address", config.NewText(at, ":8443")).Set("tls", tls))
}

// plainListener is the one without TLS; over it gRPC comes by HTTP/2 with prior knowledge.
func (t *translation) plainListener(at config.Tree) config.Tree {
	main := config.NewMap(at).Set("address", config.NewText(at, ":8080"))
	if t.speaks("grpc") {
		main.Set("h2c", config.NewWord(at, true))
	}
	return main
}

// speaks tells whether a route is for the protocol, of those that say so, or leads to a service of gRPC.
func (t *translation) speaks(protocol string) bool {
	return slices.ContainsFunc(t.routes, func(r *route) bool {
		return !r.off && (slices.Contains(r.texts("protocols"), protocol) || r.overGRPC())
	})
}

// address reads where a service is, of url or of its parts.
func (t *translation) address(s *service) {
	s.scheme, s.host, s.port, s.base = s.text("protocol"), s.text("host"), s.integer("port"), s.text("path")
	if s.has("url") {
		for _, part := range []string{"protocol", "host", "port", "path"} {
			if s.has(part) {
				s.fail(part, "url says this already; keep one of them")
			}
		}
		u, err := url.Parse(s.text("url"))
		if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			s.fail("url", "%q is no URL; write http://host:port/path", s.text("url"))
			return
		}
		s.scheme, s.host, s.base = u.Scheme, u.Hostname(), u.Path
		s.port, _ = strconv.Atoi(u.Port())
		if u.Port() == "" {
			s.port = map[string]int{"https": 443, "grpcs": 443}[u.Scheme]
			if s.port == 0 {
				s.port = 80
			}
		}
	} else if s.host == "" {
		t.fail(s.tree, s.path, "the service has no address; write url: http://host:port, or host")
		return
	}
	switch s.scheme {
	case "http", "https":
	case "grpc", "grpcs":
		if s.base != "" && s.base != "/" {
			s.fail(s.written("path"), "services of gRPC have no path; their methods are the paths")
		}
	case "tcp", "tls", "udp", "tls_passthrough", "ws", "wss":
		s.fail(s.written("protocol"), "%s can not be honoured: there are http, https, grpc and grpcs, and over the first two WebSockets", s.scheme)
	default:
		s.fail(s.written("protocol"), "%q is no protocol; there are http, https, grpc and grpcs", s.scheme)
	}
	if s.base != "" && !strings.HasPrefix(s.base, "/") {
		s.fail(s.written("path"), "%q does not begin with a slash", s.base)
	}
}

// written is the field that says it: url or the part.
func (s *service) written(part string) string {
	if s.has("url") {
		return "url"
	}
	return part
}

func (t *translation) service(s *service) config.Tree {
	at := s.tree
	made := config.NewMap(at)
	if s.scheme != "http" {
		made.Set("protocol", config.NewWord(s.at(s.written("protocol")), s.scheme))
	}
	var up *upstream
	for _, u := range t.upstream {
		if u.name == s.host {
			up = u
		}
	}
	endpoints := config.NewList(s.at(s.written("host")))
	if up == nil {
		endpoints.Append(config.NewText(s.at(s.written("host")), endpointURL(s.scheme, s.host, s.port)))
	} else {
		for i := range up.targets {
			t.target(s, &up.targets[i], endpoints)
		}
		if endpoints.Len() == 0 {
			s.fail(s.written("host"), "the upstream %q has no targets", up.name)
		}
	}
	made.Set("endpoints", endpoints)
	off := func(name string) { made.Set(name, config.NewWord(at, "off")) }
	made.Set("load_balancer", config.NewMap(at).Set("strategy", config.NewWord(at, "round_robin")))
	outlier := false
	if up != nil {
		outlier = t.balance(up, made)
	}
	if !outlier {
		off("outlier_detection")
	}
	off("circuit_breaker")
	made.Set("timeouts", config.NewMap(at).
		Set("connect", config.NewWord(s.at("connect_timeout"), milliseconds(s.integer("connect_timeout")))).
		Set("response", config.NewWord(s.at("read_timeout"), milliseconds(s.integer("read_timeout")))))
	t.stall = max(t.stall, s.integer("read_timeout"), s.integer("write_timeout"))
	if n := s.integer("retries"); n == 0 {
		made.Set("retries", config.NewWord(s.at("retries"), "off"))
	} else {
		if n > 10 {
			t.note(s.at("retries"), s.where("retries"), mapped, fmt.Sprintf("%d tries are made 10", n))
		}
		made.Set("retries", config.NewMap(s.at("retries")).
			Set("attempts", config.NewWord(s.at("retries"), min(n, 10))).
			Set("budget", config.NewWord(at, "100%")).
			Set("when", config.NewTexts(at, "connect_failure", "reset", "timeout")))
	}
	if up != nil && up.has("host_header") {
		made.Set("host", config.NewText(up.at("host_header"), up.text("host_header")))
	}
	if tls := t.serviceTLS(s, up); tls.Len() > 0 {
		made.Set("tls", tls)
	}
	if policies := t.policies(scope{service: s}, config.NewMap(s.at("plugins"))); policies.Len() > 0 {
		made.Set("policies", policies)
	}
	return made
}

func endpointURL(scheme, host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + strings.Trim(host, "[]") + "]"
	}
	// The endpoints of services of gRPC are written as those of HTTP.
	scheme = map[string]string{"grpc": "http", "grpcs": "https"}[scheme] + strings.TrimPrefix(strings.TrimPrefix(scheme, "grpcs"), "grpc")
	if port == map[string]int{"http": 80, "https": 443}[scheme] {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + strconv.Itoa(port)
}

func (t *translation) target(s *service, b *block, endpoints config.Tree) {
	address := b.text("target")
	host, port := address, 8000
	if h, p, err := net.SplitHostPort(address); err == nil {
		host = h
		if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
			b.fail("target", "%q has no usable port; write host:port", address)
			return
		}
	}
	if host == "" {
		t.fail(b.tree, b.path, "the target has no address; write target: host:port")
		return
	}
	at := b.at("target")
	endpoint := config.NewMap(at).Set("url", config.NewText(at, endpointURL(s.scheme, host, port)))
	if w := b.integer("weight"); w != 100 {
		endpoint.Set("weight", config.NewWord(b.at("weight"), w))
		endpoints.Append(endpoint)
		return
	}
	endpoints.Append(endpoint.Set("weight", config.NewWord(at, 100)))
}

// balance writes how an endpoint is chosen, and what is healthy. It tells whether passive checks are on.
func (t *translation) balance(u *upstream, made config.Tree) (outlier bool) {
	at := u.at("algorithm")
	lb := config.NewMap(at)
	strategy := map[string]string{"round-robin": "round_robin", "least-connections": "least_request", "latency": "peak_ewma", "consistent-hashing": "consistent_hash"}[u.text("algorithm")]
	if strategy == "" {
		u.fail("algorithm", "%s can not be honoured; choose round-robin, consistent-hashing, least-connections or latency", u.text("algorithm"))
	}
	if strategy == "consistent_hash" {
		on := u.text("hash_on")
		by := map[string]string{"consumer": "consumer", "ip": "ip", "path": "path", "header": "header:" + u.text("hash_on_header"), "cookie": "cookie:" + u.text("hash_on_cookie"), "query_arg": "query:" + u.text("hash_on_query_arg")}[on]
		switch {
		case on == "none":
			strategy = "round_robin"
		case by == "":
			u.fail("hash_on", "%s can not be honoured; hash on consumer, ip, header, cookie, path or query_arg", on)
		case strings.HasSuffix(by, ":"):
			u.fail("hash_on", "hashing on a %s wants its name, in hash_on_%s", on, on)
		default:
			lb.Set("by", config.NewText(u.at("hash_on"), by))
		}
	}
	made.Set("load_balancer", lb.Set("strategy", config.NewWord(at, strategy)))
	checks := u.sub("healthchecks", t.refuse)
	active, passive := checks.sub("active", t.refuse), checks.sub("passive", t.refuse)
	t.activeChecks(&active, made)
	bad := passive.sub("unhealthy", t.refuse)
	passive.sub("healthy", t.refuse)
	failures := 0
	for _, name := range []string{"http_failures", "tcp_failures", "timeouts"} {
		if n := bad.integer0(name); n > 0 && (failures == 0 || n < failures) {
			failures = n
		}
	}
	if failures == 0 {
		return false
	}
	made.Set("outlier_detection", config.NewMap(bad.tree).
		Set("consecutive_errors", config.NewWord(bad.tree, failures)).
		Set("max_ejected", config.NewWord(bad.tree, "100%")))
	return true
}

// integer0 is a number whose default is 0.
func (b *block) integer0(name string) int { return int(b.number(name)) }

func (t *translation) activeChecks(active *block, made config.Tree) {
	good, bad := active.sub("healthy", t.refuse), active.sub("unhealthy", t.refuse)
	interval := 0.0
	for _, b := range []*block{&good, &bad} {
		if n := b.number("interval"); n > 0 && (interval == 0 || n < interval) {
			interval = n
		}
	}
	if interval == 0 {
		return
	}
	switch active.text("type") {
	case "http", "https":
	default:
		active.fail("type", "checks by %s can not be honoured; there are http and https", active.text("type"))
	}
	check := config.NewMap(active.tree).
		Set("path", config.NewText(active.at("http_path"), active.text("http_path"))).
		Set("interval", config.NewWord(active.tree, milliseconds(int(interval*1000)))).
		Set("timeout", config.NewWord(active.tree, milliseconds(int(active.number("timeout")*1000))))
	if n := good.integer0("successes"); n > 0 {
		check.Set("healthy", config.NewWord(good.at("successes"), n))
	}
	failures := 0
	for _, name := range []string{"http_failures", "tcp_failures", "timeouts"} {
		if n := bad.integer0(name); n > 0 && (failures == 0 || n < failures) {
			failures = n
		}
	}
	if failures > 0 {
		check.Set("unhealthy", config.NewWord(bad.tree, failures))
	}
	made.Set("health_check", check)
}

func (t *translation) serviceTLS(s *service, up *upstream) config.Tree {
	tls := config.NewMap(s.tree)
	from := &s.block
	if !s.has("client_certificate") && up != nil && up.has("client_certificate") {
		from = &up.block
	}
	if s.scheme != "https" && s.scheme != "grpcs" {
		for _, name := range []string{"client_certificate", "tls_verify", "ca_certificates"} {
			if s.has(name) {
				s.fail(name, "the service is not asked over TLS; write protocol: https, or leave it out")
			}
		}
		return tls
	}
	if from.has("client_certificate") {
		if c := find(t, from, "client_certificate", t.certs, func(c *certificate) *entity { return &c.entity }); c != nil {
			tls.Set("cert", config.NewText(c.at("cert"), c.text("cert"))).Set("key", config.NewText(c.at("key"), c.text("key")))
		}
	}
	var authorities strings.Builder
	for i, item := range s.list("ca_certificates") {
		if c := match(t, item, element(s.where("ca_certificates"), i), "CA certificate", t.cas, func(c *certificate) *entity { return &c.entity }); c != nil {
			authorities.WriteString(strings.TrimSpace(c.text("cert")) + "\n")
		}
	}
	if authorities.Len() > 0 {
		tls.Set("ca", config.NewText(s.at("ca_certificates"), authorities.String()))
	}
	if !s.yes("tls_verify") {
		tls.Set("insecure_skip_verify", config.NewWord(s.at("tls_verify"), true))
		t.remark(s.tree, s.path, "the certificate of the service is not verified, as in Kong; write tls_verify: true")
	}
	return tls
}

func milliseconds(n int) string {
	switch {
	case n%60000 == 0 && n > 0:
		return strconv.Itoa(n/60000) + "m"
	case n%1000 == 0 && n > 0:
		return strconv.Itoa(n/1000) + "s"
	}
	return strconv.Itoa(n) + "ms"
}

// plainPath are paths that Kong before 3.0 took for prefixes; all others were patterns.
var plainPath = regexp.MustCompile(`^[a-zA-Z0-9._~/%-]*$`)

func (t *translation) route(r *route) config.Tree {
	at := r.tree
	match := config.NewMap(at)
	copyTexts := func(name string) {
		if texts := r.list(name); len(texts) > 0 {
			match.Set(name, config.NewList(r.at(name), texts...))
		}
	}
	copyTexts("hosts")
	if items := r.list("paths"); len(items) > 0 {
		paths := config.NewList(r.at("paths"))
		for i, item := range items {
			paths.Append(t.path(r, i, item))
		}
		match.Set("paths", paths)
	}
	copyTexts("methods")
	for i, m := range r.texts("methods") {
		if m != strings.ToUpper(m) {
			t.fail(r.at("methods"), element(r.where("methods"), i), "methods have upper case letters; write %s", strings.ToUpper(m))
		}
	}
	t.headers(r, match)
	copyTexts("snis")
	if !slices.ContainsFunc([]string{"hosts", "paths", "methods", "headers", "snis"}, func(name string) bool { return match.Get(name).Is() }) && !r.has("expression") && !r.has("sources") && !r.has("destinations") {
		t.fail(at, r.path, "a route has at least one of hosts, paths, methods, headers and snis")
	}
	made := config.NewMap(at)
	if match.Len() > 0 {
		made.Set("match", match)
	}
	compat := config.NewMap(at)
	t.protocols(r, compat)
	if n := r.integer("regex_priority"); n != 0 {
		compat.Set("regex_priority", config.NewWord(r.at("regex_priority"), n))
	}
	if r.service != nil && r.service.base != "" && r.service.base != "/" {
		compat.Set("path", config.NewText(r.service.at(r.service.written("path")), r.service.base))
	}
	if r.text("path_handling") != "v0" {
		compat.Set("path_handling", config.NewWord(r.at("path_handling"), "v1"))
	}
	if r.yes("preserve_host") {
		compat.Set("preserve_host", config.NewWord(r.at("preserve_host"), true))
	}
	if r.calls() && r.has("strip_path") && r.yes("strip_path") {
		r.fail("strip_path", "the path of a call of gRPC is its method, so Kong refuses this for grpc and grpcs; write strip_path: false, or leave it out")
	}
	if t.strips(r) {
		made.Set("strip_prefix", config.NewWord(r.at("strip_path"), true))
	}
	if !r.yes("request_buffering") {
		made.Set("streaming", config.NewWord(r.at("request_buffering"), true))
	}
	if !t.action(r, made) {
		switch {
		case r.service != nil:
			made.Set("service", config.NewText(r.service.tree, r.service.native))
		default:
			made.Set("respond", respond(at, 503, "application/json; charset=utf-8", `{"message":"no Service found with those values"}`))
		}
	}
	off := t.effective(r, compat)
	policies := t.policies(scope{route: r}, config.NewMap(r.at("plugins")))
	t.foreignSites(r, policies)
	for _, name := range off {
		policies.Set(name, config.NewWord(at, "off"))
	}
	if policies.Len() > 0 {
		made.Set("policies", policies)
	}
	if compat.Len() > 0 {
		made.Set("kong", compat)
	}
	return made
}

func respond(at config.Tree, status int, contentType, body string) config.Tree {
	made := config.NewMap(at).Set("status", config.NewWord(at, status))
	if body != "" {
		made.Set("body", literal(at, body)).Set("content_type", config.NewText(at, contentType))
	}
	return made
}

// literal is a text that is meant as it is, also where it is written down and read again.
func literal(at config.Tree, text string) config.Tree {
	v := config.NewText(at, text)
	if strings.Contains(text, "${") {
		v.Rewrite(text, strings.ReplaceAll(text, "${", "$${"))
	}
	return v
}

func (t *translation) path(r *route, i int, item config.Tree) config.Tree {
	p, at := item.Text(), element(r.where("paths"), i)
	if t.old && !strings.HasPrefix(p, "~") && !plainPath.MatchString(p) {
		p = "~" + p
	}
	if pattern, ok := strings.CutPrefix(p, "~"); ok {
		if !strings.HasPrefix(pattern, "/") {
			t.fail(item, at, "%q: a pattern begins with a slash behind the ~, as ~/users/\\d+$", item.Text())
		}
		if _, err := regexp.Compile("^" + pattern); err != nil {
			t.fail(item, at, "%q is no regular expression that runs in linear time (RE2): %s", pattern, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
		return config.NewText(item, p)
	}
	if !strings.HasPrefix(p, "/") {
		t.fail(item, at, "%q does not begin with a slash; write /prefix, or ~/pattern", p)
		return item
	}
	decoded, err := url.PathUnescape(p)
	if err != nil {
		t.fail(item, at, "%q has a malformed percent escape", p)
	}
	return config.NewText(item, decoded)
}

func (t *translation) headers(r *route, match config.Tree) {
	v, ok := r.values["headers"]
	if !ok || v.Len() == 0 {
		return
	}
	headers := config.NewMap(v)
	for _, name := range v.Keys() {
		at := join(r.where("headers"), name)
		if strings.EqualFold(name, "host") {
			t.fail(v.Get(name), at, "hosts are matched by the field hosts")
		}
		values := config.NewList(v.Get(name))
		items := v.Get(name).Items()
		if v.Get(name).Scalar() {
			items = []config.Tree{v.Get(name)}
		}
		for i, item := range items {
			value := item.Text()
			if pattern, ok := strings.CutPrefix(value, "~*"); ok {
				if _, err := regexp.Compile("(?i)" + pattern); err != nil {
					t.fail(item, element(at, i), "%q is no regular expression that runs in linear time (RE2)", pattern)
				}
				value = "~" + pattern
			} else if strings.HasPrefix(value, "~") || value == "*" {
				value = "~^" + regexp.QuoteMeta(value) + "$"
			}
			values.Append(config.NewText(item, value))
		}
		if values.Len() == 0 {
			t.fail(v.Get(name), at, "there is no value to compare with")
			continue
		}
		headers.Set(name, values)
	}
	match.Set("headers", headers)
}

func (t *translation) protocols(r *route, compat config.Tree) {
	protocols := r.texts("protocols")
	for _, p := range protocols {
		switch p {
		case "http", "https", "grpc", "grpcs":
		default:
			r.fail("protocols", "%s can not be honoured: there are http, https, grpc and grpcs", p)
			return
		}
	}
	switch {
	case r.calls() && r.service != nil && !r.overGRPC():
		r.fail("protocols", "a route of gRPC leads to a service of gRPC; write the service's url as grpc://host:port or grpcs://host:port")
	case r.calls() && slices.Contains(protocols, "grpc"):
		compat.Set("calls", config.NewWord(r.at("protocols"), "grpc"))
	case r.calls():
		compat.Set("calls", config.NewWord(r.at("protocols"), "grpcs"))
	case !slices.Contains(protocols, "http") && !slices.Contains(protocols, "grpc"):
		compat.Set("https_status", config.NewWord(r.at("https_redirect_status_code"), r.integer("https_redirect_status_code")))
	}
	if len(r.list("snis")) > 0 && !slices.Contains(protocols, "https") && !slices.Contains(protocols, "grpcs") {
		r.fail("snis", "only requests by https have a name in their handshake; write protocols: [https]")
	}
}

func (t *translation) consumerOf(c *consumer) config.Tree {
	made := config.NewMap(c.tree)
	if groups := c.credentials["acls"]; len(groups) > 0 {
		list := config.NewList(c.at("acls"))
		for i := range groups {
			list.Append(t.wanted(&groups[i], "group"))
		}
		made.Set("groups", list)
	}
	credential := func(name, collection string, write func(b *block) config.Tree) {
		list := config.NewList(c.at(collection))
		for i := range c.credentials[collection] {
			list.Append(write(&c.credentials[collection][i]))
		}
		if list.Len() > 0 {
			made.Set(name, list)
		}
	}
	credential("api_keys", "keyauth_credentials", func(b *block) config.Tree {
		key := t.wanted(b, "key")
		hash := hashed(key.Text())
		return config.NewMap(b.tree).
			Set("id", config.NewText(b.at("id"), or(b.text("id"), idOf("keyauth_credentials", hash)))).
			Set("hash", config.NewText(b.tree, hash))
	})
	credential("jwt", "jwt_secrets", func(b *block) config.Tree { return t.jwtSecret(b) })
	credential("basic_auth", "basicauth_credentials", func(b *block) config.Tree {
		user := t.wanted(b, "username")
		if !t.document.yes("_transform") {
			b.fail("password", "this is a hash of Kong's own (_transform is false), which is not understood; write the password, and leave _transform out")
		}
		return config.NewMap(b.tree).Set("username", user).Set("hash", config.NewText(b.tree, hashed(t.wanted(b, "password").Text())))
	})
	credential("hmac", "hmacauth_credentials", func(b *block) config.Tree {
		return config.NewMap(b.tree).Set("username", t.wanted(b, "username")).Set("secret", t.wanted(b, "secret"))
	})
	if policies := t.policies(scope{consumer: c}, config.NewMap(c.at("plugins"))); policies.Len() > 0 {
		made.Set("policies", policies)
	}
	told := config.NewMap(c.tree).Set("id", config.NewText(c.at("id"), c.id))
	for _, name := range []string{"custom_id", "username"} {
		if c.has(name) {
			told.Set(name, config.NewText(c.at(name), c.text(name)))
		}
	}
	if p := t.termination(c); p != nil {
		said := config.NewMap(p.config.tree)
		endTermination(p, said)
		told.Set("terminate", said.Get("respond"))
	}
	if scoped := t.scopedTo(c); scoped.Len() > 0 {
		told.Set("scoped", scoped)
	}
	return made.Set("kong", told)
}

// wanted is a field that must be there.
func (t *translation) wanted(b *block, name string) config.Tree {
	v, ok := b.values[name]
	if !ok || v.Text() == "" {
		t.fail(b.at(name), b.where(name), "%s is missing; Kong would make one that nobody knows", name)
		return config.NewText(b.tree, "missing")
	}
	return config.NewText(v, v.Text())
}

func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (t *translation) jwtSecret(b *block) config.Tree {
	algorithm := b.text("algorithm")
	made := config.NewMap(b.tree).
		Set("issuer", t.wanted(b, "key")).
		Set("algorithms", config.NewTexts(b.at("algorithm"), algorithm))
	if !strings.HasPrefix(algorithm, "HS") {
		return made.Set("public_key", t.wanted(b, "rsa_public_key"))
	}
	made.Set("secret", t.wanted(b, "secret"))
	plain, encoded := false, false
	for _, p := range t.plugins {
		if p.def != nil && p.def.name == "jwt" {
			if p.config.yes("secret_is_base64") {
				encoded = true
			} else {
				plain = true
			}
		}
	}
	switch {
	case plain && encoded:
		t.fail(b.tree, b.path, "one jwt plugin reads this secret as base64 and another does not; write secret_is_base64 alike everywhere")
	case encoded:
		made.Set("secret_base64", config.NewWord(b.tree, true))
	}
	return made
}

// nobody is a secret that nobody has, for a jwt plugin without any key: it refuses every token, as Kong does.
func nobody() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
