// Package forwardauth leaves authentication to a service that is asked about each request: what it answers with a 2xx passes, and
// with headers of the answer if so configured; any other answer of it is the client's. It fails closed: a service that
// does not answer, or not in time, or with a 5xx refuses, unless the settings say otherwise. Decisions may be remembered, by what
// the settings name of a request, within bounds of time and number; a remembered one costs no allocation.
package forwardauth

import (
	"bytes"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/revocation"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `forward_auth`. The service gets a GET without body that tells of the request by X-Forwarded-Method,
// X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-Uri (the canonical path, with the query) and X-Forwarded-For (the client's address).
type Config struct {
	// URL of the service, with its path and query; https is verified by the system's certificates.
	URL string `yaml:"url" required:"true"`
	// Timeout for a decision, connecting included.
	Timeout config.Duration `yaml:"timeout" default:"2s" min:"1ms" max:"1m"`
	// RequestHeaders that the service gets as the client sent them.
	RequestHeaders []string `yaml:"request_headers" default:"Authorization,Cookie"`
	// ResponseHeaders of an answer that allows, which the backend gets. A client's own are always removed.
	ResponseHeaders []string `yaml:"response_headers"`
	// ClientHeaders of an answer that denies, which the client gets beside its status, body (64 KiB at most) and Content-Type.
	ClientHeaders []string `yaml:"client_headers" default:"WWW-Authenticate,Location,Set-Cookie,Retry-After"`
	// SubjectHeader of an answer that allows, which names the caller; a consumer of that name is the consumer. Default: the caller has no name.
	SubjectHeader string `yaml:"subject_header"`
	// OnFailure is what happens to a request when the service does not answer in time, or with a 5xx: `deny` is 503, `allow` passes it on without a caller.
	OnFailure string `yaml:"on_failure" enum:"deny|allow" default:"deny"`
	// Cache remembers decisions.
	Cache Cache `yaml:"cache"`
	// MaxConnections to the service. Requests that find none free wait for one, within the timeout.
	MaxConnections int `yaml:"max_connections" default:"128" min:"1" max:"10000"`
	// Anonymous is the consumer that requests without a valid credential are taken for. Default: they are refused.
	Anonymous string `yaml:"anonymous"`
}

// Cache says how decisions are remembered: those that allow, and those that deny by 401 or 403. Failures are not.
type Cache struct {
	// By says what requests that share a decision have in common: names of headers, and `@method`, `@scheme`, `@host`, `@path`, `@query`, `@ip`. All request_headers must stand here. Without `@path` and the like a decision is for all of them.
	By []string `yaml:"by"`
	// TTL is for how long.
	TTL config.Duration `yaml:"ttl" default:"0s" max:"1d"`
	// MaxEntries bounds the number of decisions, of 8 KiB at most each; the oldest go first.
	MaxEntries int `yaml:"max_entries" default:"10000" min:"16" max:"10000000"`
}

// Definition is the policy `forward_auth`.
var Definition = policy.Define("forward_auth", policy.Authenticate, build)

// maxWaiting bounds the requests that wait for a decision.
const maxWaiting = 4096

var unavailable = exchange.NewReject(503, "authentication_unavailable", "the request could not be authenticated; try again later", exchange.Header("Retry-After", "1"))

type authenticator struct {
	target    *target
	timeout   time.Duration
	sent      []string // request headers, canonical
	kept      []string // response headers for the backend
	shown     []string // response headers for the client
	subject   string   // response header, "" for none
	allow     bool     // on failure
	consumers map[string]*exchange.Consumer
	revoked   *revocation.List // nil: nothing is opened
	failed    *telemetry.Counter

	by      []part
	ttl     int64
	most    int
	answers *decisions // nil: nothing is remembered
}

func build(b *policy.Build, c *Config) (hooks policy.Hooks, err error) {
	a := &authenticator{timeout: c.Timeout, allow: c.OnFailure == "allow", consumers: b.World.Consumers, revoked: b.World.Revoked}
	where, err := readURL(c.URL)
	if err != nil {
		return hooks, err
	}
	for _, list := range []struct {
		setting string
		names   []string
		to      *[]string
	}{{"request_headers", c.RequestHeaders, &a.sent}, {"response_headers", c.ResponseHeaders, &a.kept}, {"client_headers", c.ClientHeaders, &a.shown}} {
		for _, name := range list.names {
			if err := checkHeader(list.setting, name); err != nil {
				return hooks, err
			}
			*list.to = append(*list.to, name)
		}
	}
	for i, name := range a.sent {
		a.sent[i] = textproto.CanonicalMIMEHeaderKey(name)
	}
	if a.subject = c.SubjectHeader; a.subject != "" {
		if err := checkHeader("subject_header", a.subject); err != nil {
			return hooks, err
		}
	}
	if err := a.readCache(b, &c.Cache); err != nil {
		return hooks, err
	}
	if a.allow {
		b.Warnf("on_failure", "while the service does not answer everybody passes")
	}
	hooks = policy.Hooks{Authenticate: a.authenticate, Blocking: true}
	if len(a.kept) > 0 {
		hooks.Request = a.strip
		for _, name := range a.sent {
			hooks.Varies = append(hooks.Varies, "header:"+strings.ToLower(name))
		}
	}
	if c.Anonymous != "" {
		if hooks.Anonymous = b.World.Consumers[c.Anonymous]; hooks.Anonymous == nil {
			return hooks, policy.Wrong("anonymous", "there is no consumer %q", c.Anonymous)
		}
	}
	if b.World.DryRun {
		return hooks, nil
	}
	a.failed = b.World.Metrics.AuthFailures.With(b.World.Generation, b.Route.Name, "unavailable")
	if a.target, err = policy.LivingAs(b.World, "forward_auth/target/"+digest(c.URL, c.Timeout, c.MaxConnections), func() (*target, error) {
		return newTarget(where, c.Timeout, c.MaxConnections), nil
	}); err != nil || a.ttl == 0 {
		return hooks, err
	}
	a.answers, err = policy.Living(b, "decisions/"+digest(c.URL, a.sent, a.kept, a.shown, a.subject, c.Cache.By), func() (*decisions, error) { return newDecisions(), nil })
	return hooks, err
}

func readURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, policy.Wrong("url", "is not an http or https URL; write http://HOST:PORT/PATH")
	case u.User != nil:
		return nil, policy.Wrong("url", "has a user name, which is not sent; leave it out")
	case u.Fragment != "":
		return nil, policy.Wrong("url", "has a fragment, which is not sent; leave it out")
	}
	return u, nil
}

// checkHeader refuses what is no name, and what messages are framed by.
func checkHeader(setting, name string) error {
	if !exchange.IsToken(name) {
		return policy.Wrong(setting, "%q can not be the name of a header", name)
	}
	switch exchange.KindOf([]byte(name)) {
	case exchange.KindOther, exchange.KindIdentity, exchange.KindVia:
		return nil
	case exchange.KindHop:
		if strings.EqualFold(name, "Proxy-Authorization") && setting == "request_headers" {
			return nil
		}
	}
	return policy.Wrong(setting, "%s has a meaning of its own and can not be copied", name)
}

func (a *authenticator) readCache(b *policy.Build, c *Cache) error {
	if len(c.By) == 0 {
		if c.TTL > 0 {
			return policy.Wrong("cache.by", "is missing; say what requests with the same decision have in common, such as [authorization, @path]")
		}
		return nil
	}
	if c.TTL == 0 {
		return policy.Wrong("cache.ttl", "is missing; say for how long decisions are remembered, such as 30s")
	}
	for _, name := range c.By {
		p, err := parsePart(name)
		if err != nil {
			return err
		}
		a.by = append(a.by, p)
	}
	for _, name := range a.sent {
		if !slices.ContainsFunc(a.by, func(p part) bool { return p.header == name }) {
			return policy.Wrong("cache.by", "lacks %s, which the service gets: one caller would be decided on as another; add it, or take it out of request_headers", name)
		}
	}
	if !slices.ContainsFunc(a.by, func(p part) bool { return p.special == 'p' }) {
		b.Warnf("cache.by", "without @path a decision on one path is taken for all others")
	}
	a.ttl, a.most = int64(c.TTL), c.MaxEntries
	return nil
}

// strip keeps a client from setting the headers that only the service may fill, whichever policy authenticates the request.
func (a *authenticator) strip(x *exchange.Exchange) error {
	for _, name := range a.kept {
		x.ToBackend.Remove(name)
	}
	return nil
}

func (a *authenticator) authenticate(x *exchange.Exchange) error {
	revoked := a.revoked != nil && a.revoked.Some()
	if revoked && a.isRevoked(x) {
		x.AuthFailure = "revoked"
		return invalid
	}
	var key [keySize]byte
	if a.answers != nil {
		key = a.key(x)
		if d := a.answers.get(&key, x.Clock.Now()); d != nil && !(revoked && a.outdated(d)) {
			return a.apply(x, d)
		}
	}
	d := a.ask(x)
	if d == nil {
		a.failed.Inc()
		if a.allow {
			return nil
		}
		return unavailable
	}
	if a.answers != nil && d.remembered() {
		d.made = float64(x.Arrived.Unix())
		a.answers.put(&key, d, x.Clock.Now()+a.ttl, a.most)
	}
	return a.apply(x, d)
}

// apply carries a decision out.
func (a *authenticator) apply(x *exchange.Exchange, d *decision) error {
	if d.denial != nil {
		x.AuthFailure = "denied"
		if !a.presents(x) {
			x.AuthFailure = "missing"
		}
		x.Reply = d.denial
		return exchange.Replied
	}
	for i := range d.headers {
		x.ToBackend.Set(d.headers[i].Name, d.headers[i].Value)
	}
	id := &x.Identity
	id.Authenticated, id.Method = true, "forward_auth"
	if len(d.subject) == 0 {
		x.ToBackend.Set("X-User-ID", x.Keep(x.ClientAddr.Unmap().AppendTo(x.Scratch())))
		return nil
	}
	id.Subject, id.Consumer = d.subject, a.consumers[string(d.subject)]
	x.ToBackend.Set("X-User-ID", d.subject)
	return nil
}

var invalid = exchange.NewReject(401, "credential_invalid", "the credential is not valid any more")

// isRevoked looks for what the service would get in the list of tokens that count no more: the values of headers, and what stands behind a scheme.
func (a *authenticator) isRevoked(x *exchange.Exchange) bool {
	for _, name := range a.sent {
		for _, value := range x.PeekAll(name) {
			if a.revoked.Revoked(&revocation.Credential{Token: value}) {
				return true
			}
			if i := bytes.IndexByte(value, ' '); i >= 0 && a.revoked.Revoked(&revocation.Credential{Token: bytes.TrimLeft(value[i:], " ")}) {
				return true
			}
		}
	}
	return false
}

// outdated reports whether a decision was made before its subject was revoked: the service is asked anew.
func (a *authenticator) outdated(d *decision) bool {
	return len(d.subject) > 0 && a.revoked.Revoked(&revocation.Credential{Subject: unsafe.String(unsafe.SliceData(d.subject), len(d.subject)), Issued: d.made})
}

// presents reports whether the request has anything that could be a credential.
func (a *authenticator) presents(x *exchange.Exchange) bool {
	for _, name := range a.sent {
		if len(x.RequestHeader(name)) > 0 {
			return true
		}
	}
	return false
}

// decision is what the service has answered. It is immutable.
type decision struct {
	headers []exchange.HeaderEdit // for the backend
	subject []byte
	made    float64         // Unix seconds, no later than when the service was asked
	denial  *exchange.Reply // nil: allowed
	size    int
}

// remembered reports whether a decision may be kept: redirects belong to one request, and a large one would cost too much.
func (d *decision) remembered() bool {
	if d.denial != nil {
		if status := d.denial.Head.StatusCode(); status != 401 && status != 403 {
			return false
		}
	}
	return d.size <= maxRemembered
}

const maxRemembered = 8 << 10

// read makes a decision of an answer, nil of one that is none.
func (a *authenticator) read(res *fasthttp.Response) *decision {
	status := res.StatusCode()
	if status >= 200 && status < 300 {
		d := &decision{size: 256}
		for _, name := range a.kept {
			if value := res.Header.Peek(name); value != nil {
				if !exchange.IsFieldValue(value) {
					return nil
				}
				d.headers = append(d.headers, exchange.HeaderEdit{Name: name, Value: slices.Clone(value), Op: exchange.EditSet})
				d.size += len(value) + 64
			}
		}
		if a.subject != "" {
			subject := res.Header.Peek(a.subject)
			if !exchange.IsFieldValue(subject) {
				return nil
			}
			d.subject = slices.Clone(subject)
		}
		return d
	}
	if status < 300 || status == 304 || status >= 500 {
		return nil
	}
	reply := exchange.NewReply(status, exchange.Own)
	reply.Body = slices.Clone(res.Body())
	d := &decision{denial: reply, size: 512 + len(reply.Body)}
	if kind := res.Header.ContentType(); len(kind) > 0 && len(reply.Body) > 0 && exchange.IsFieldValue(kind) {
		reply.Head.SetContentTypeBytes(kind)
		d.size += len(kind)
	}
	for _, name := range a.shown {
		for _, value := range res.Header.PeekAll(name) {
			if exchange.IsFieldValue(value) {
				reply.Head.AddBytesV(name, value)
				d.size += len(value) + 64
			}
		}
	}
	return d
}
