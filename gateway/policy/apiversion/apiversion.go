// Package apiversion lets clients of old versions of an API talk to a backend that knows the current one alone, in the way of Stripe: each
// version lists what it has changed, and a request climbs from its version to the current one through those changes, as its
// answer comes down. A change is declared once and works in both directions. It guarantees that a client is answered in
// its own version or told why not, that what no change is about stays as it was written, and that no answer made for one
// version is stored for another.
package apiversion

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `api_version`. Where several places name a version, the first of path, header, query, the consumer's
// own `api_version` and `default` counts. A version that is not listed gets 400 with those that are. The backend is told the current
// version and the client the one it is answered in, both by `header`.
//
// Changes of bodies are for JSON, and of answers for those with a status of 2xx. A request whose JSON can not be parsed gets 400, one that is encoded
// 415, one over `max_body` 413. An answer that can not be parsed passes; one that is over `max_body`, or encoded although the
// backend was asked not to, gets 502, since the client would be given what it does not know.
//
// The `ETag` of an answer that is changed gets the version as a suffix (`"a"` becomes `"a~v1"`), which is taken off again where the client sends it in `If-None-Match` or
// `If-Match`: who goes over to another version is not told that what it has is still good, and optimistic locking works across versions.
type Config struct {
	// From says where a request names its version.
	From From `yaml:"from"`
	// Default is the version of requests that name none. Default: the current one. Name one to keep those callers where they are.
	Default string `yaml:"default"`
	// Header that tells the backend the current version and the client the one it is answered in; "" for none.
	Header string `yaml:"header" default:"X-API-Version"`
	// Strip takes the path segment and the query parameter off on the way to the backend.
	Strip bool `yaml:"strip" default:"true"`
	// MaxBody is the largest body that is changed. It is held until it is complete.
	MaxBody config.Size `yaml:"max_body" default:"1MiB" min:"1" max:"64MiB"`
	// Versions by date (`2024-10-01`) or by number (`2`, `1.4`). The latest is the current one, which the backend speaks.
	Versions map[string]Version `yaml:"versions" required:"true"`
}

// From are the places that may name a version.
type From struct {
	// Header of the request; "" for none.
	Header string `yaml:"header" default:"X-API-Version"`
	// Query parameter of the request.
	Query string `yaml:"query"`
	// Path begins with the version, as /v{version} or /api/v{version}; a path without it names none.
	Path string `yaml:"path"`
	// Consumer takes the `api_version` of the consumer.
	Consumer bool `yaml:"consumer" default:"true"`
}

// Version is one version of the API.
type Version struct {
	// Deprecated since, or from, that day or time; clients are told so by `Deprecation` (RFC 9745).
	Deprecated time.Time `yaml:"deprecated"`
	// Sunset is the day or time from which on the version may no longer work; clients are told so by `Sunset` (RFC 8594).
	Sunset time.Time `yaml:"sunset"`
	// Enforce answers 410 from `sunset` on.
	Enforce bool `yaml:"enforce"`
	// Link to what is to be known about the deprecation, for the header `Link`.
	Link string `yaml:"link"`
	// Successor is a link to the version to go on with, for the header `Link`.
	Successor string `yaml:"successor"`
	// Changes that the version brought against the one before it, in the order in which requests go through them.
	Changes []Change `yaml:"changes"`
}

// Definition is the policy `api_version`.
var Definition = policy.Define("api_version", policy.Transform, build)

// api is the policy at one place. It is immutable but for the counters of consumers.
type api struct {
	versions  []version // the oldest first
	index     map[string]int
	byDefault int
	pins      map[string]int // by the name of the consumer

	header     string
	fromHeader string
	fromQuery  string
	fromPath   pathTemplate
	current    []byte
	strip      bool
	maxBody    int

	unknown, bodyTooLarge, answerTooLarge *exchange.Reject

	unknowns *telemetry.Counter
	consumer consumerCounts
}

type version struct {
	name     string
	suffix   []byte                // of entity tags of answers that were changed
	headers  []exchange.HeaderEdit // for the client
	sunset   time.Time             // zero where it is not enforced
	gone     *exchange.Reject
	up       []*step // in order, to the current version
	down     []*step // in order, from the current version
	requests *telemetry.Counter
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	p := &api{header: c.Header, fromHeader: c.From.Header, fromQuery: c.From.Query, strip: c.Strip, maxBody: int(c.MaxBody)}
	w := &wrongs{build: b}
	names := p.order(w, c)
	if len(w.errs) > 0 {
		return policy.Hooks{}, w.errs
	}
	p.compile(w, c, names)
	p.place(w, b, c)
	if len(w.errs) > 0 {
		return policy.Hooks{}, w.errs
	}
	if !b.World.DryRun {
		p.count(b)
	}
	hooks := policy.Hooks{Ahead: p.ahead, Explain: p.explain, Request: p.request, Varies: []string{"api_version"}}
	for i := range p.versions {
		v := &p.versions[i]
		hooks.Blocking = hooks.Blocking || slices.ContainsFunc(v.up, hasBody) || slices.ContainsFunc(v.down, hasBody)
		if len(v.down) > 0 {
			hooks.Response = p.response
		}
	}
	return hooks, nil
}

// wrongs collects what is wrong with the settings.
type wrongs struct {
	build *policy.Build
	errs  config.Errors
}

func (w *wrongs) add(at, format string, a ...any) {
	w.errs = append(w.errs, w.build.World.Config.Errorf(w.build.Path+"."+at, format, a...))
}

// order numbers the versions and returns their names as they are written.
func (p *api) order(w *wrongs, c *Config) (written []string) {
	kinds := make(map[string]number, len(c.Versions))
	dates := 0
	for name := range c.Versions {
		n, err := parseVersion(name)
		if err != nil {
			w.add(setting(name), "%v", err)
		}
		kinds[name] = n
		if n.date {
			dates++
		}
	}
	written = slices.SortedFunc(maps.Keys(c.Versions), func(a, b string) int { return kinds[a].compare(kinds[b]) })
	if len(w.errs) > 0 {
		return nil
	}
	if dates > 0 && dates < len(written) {
		w.add("versions", "has dates and numbers; write all versions in one way")
	}
	p.index = make(map[string]int, len(written))
	for i, name := range written {
		if i > 0 && kinds[name].compare(kinds[written[i-1]]) == 0 {
			w.add(setting(name), "is the same version as %s", written[i-1])
		}
		p.versions = append(p.versions, version{name: canonical(name), suffix: []byte("~v" + canonical(name))})
		p.index[canonical(name)] = i
	}
	return written
}

func setting(version string) string {
	if strings.Contains(version, ".") {
		return "versions[" + strconv.Quote(version) + "]"
	}
	return "versions." + version
}

// compile makes the chains of changes and what clients are told.
func (p *api) compile(w *wrongs, c *Config, written []string) {
	var known []string
	for i := range p.versions {
		known = append(known, p.versions[i].name)
	}
	list := strings.Join(known, ", ")
	p.unknown = exchange.NewReject(fasthttp.StatusBadRequest, "api_version_unknown", "this version of the API does not exist; there are: "+list)
	p.bodyTooLarge = exchange.NewReject(fasthttp.StatusRequestEntityTooLarge, "api_version_body_too_large",
		"a request of an old version of the API may have a body of at most "+c.MaxBody.String())
	p.bodyTooLarge.Close = true // the body was not read to its end
	p.answerTooLarge = exchange.NewReject(fasthttp.StatusBadGateway, "api_version_answer_too_large",
		"the service's answer can not be brought to this version of the API: it is larger than "+c.MaxBody.String())

	last := len(p.versions) - 1
	p.current = []byte(p.versions[last].name)
	for i, name := range written {
		settings, v := c.Versions[name], &p.versions[i]
		p.announce(w, setting(name), v, &settings, list)
		if i == 0 && len(settings.Changes) > 0 {
			w.add(setting(name)+".changes", "has no meaning in the oldest version: changes are what a version brought against the one before it")
		}
		var up, down []*step
		for j := range settings.Changes {
			s := compileChange(w, setting(name)+".changes["+strconv.Itoa(j)+"]", &settings.Changes[j])
			if s.actsUp() {
				up = append(up, s)
			}
			if s.actsDown() {
				down = append(down, s)
			}
		}
		slices.Reverse(down)
		for j := range i {
			p.versions[j].up = append(p.versions[j].up, up...)
			p.versions[j].down = append(slices.Clone(down), p.versions[j].down...)
		}
	}
}

// announce prepares what clients of a version are told.
func (p *api) announce(w *wrongs, at string, v *version, s *Version, known string) {
	set := func(name, value string) { v.headers = append(v.headers, exchange.Header(name, value)) }
	if p.header != "" {
		set(p.header, v.name)
	}
	if !s.Deprecated.IsZero() {
		set("Deprecation", "@"+strconv.FormatInt(s.Deprecated.Unix(), 10))
	}
	if !s.Sunset.IsZero() {
		set("Sunset", s.Sunset.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
		if s.Sunset.Before(s.Deprecated) {
			w.add(at+".sunset", "is before deprecated; a version is deprecated first")
		}
	}
	for _, link := range [...]struct{ setting, url, rel string }{{"link", s.Link, "deprecation"}, {"successor", s.Successor, "successor-version"}} {
		switch {
		case link.url == "":
		case strings.ContainsFunc(link.url, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' || r == '"' }):
			w.add(at+"."+link.setting, "%q is no URL; write https://…, or a path", link.url)
		default:
			v.headers = append(v.headers, exchange.HeaderEdit{Name: "Link", Value: []byte("<" + link.url + `>; rel="` + link.rel + `"`), Op: exchange.EditAdd})
		}
	}
	if p.fromHeader != "" {
		v.headers = append(v.headers, exchange.HeaderEdit{Name: "Vary", Value: []byte(p.fromHeader), Op: exchange.EditAdd})
	}
	if !s.Enforce {
		return
	}
	if s.Sunset.IsZero() {
		w.add(at+".enforce", "needs sunset, the time from which on the version is refused")
	}
	v.sunset = s.Sunset
	v.gone = exchange.NewReject(fasthttp.StatusGone, "api_version_gone",
		"version "+v.name+" of the API is no longer served since "+s.Sunset.UTC().Format(time.DateOnly)+"; there are: "+known)
}

// place reads where versions are named.
func (p *api) place(w *wrongs, b *policy.Build, c *Config) {
	p.byDefault = len(p.versions) - 1
	if c.Default != "" {
		i, ok := p.index[canonical(c.Default)]
		if !ok {
			w.add("default", "there is no version %q; there are: %s", c.Default, strings.Join(slices.Sorted(maps.Keys(p.index)), ", "))
		}
		p.byDefault = i
	}
	for _, h := range [...]struct{ at, name string }{{"from.header", c.From.Header}, {"header", c.Header}} {
		if h.name != "" {
			if err := checkHeader(h.name); err != nil {
				w.add(h.at, "%v", err)
			}
		}
	}
	if c.From.Path != "" {
		t, err := parsePathTemplate(c.From.Path)
		if err != nil {
			w.add("from.path", "%v", err)
		}
		p.fromPath = t
	}
	p.pins = make(map[string]int)
	for _, name := range slices.Sorted(maps.Keys(b.World.Config.Consumers)) {
		pin := b.World.Config.Consumers[name].APIVersion
		if pin == "" || !c.From.Consumer {
			continue
		}
		i, ok := p.index[canonical(pin)]
		if !ok {
			w.errs = append(w.errs, b.World.Config.Errorf("consumers["+strconv.Quote(name)+"].api_version",
				"is no version of %s; there are: %s", b.Path, strings.Join(slices.Sorted(maps.Keys(p.index)), ", ")))
		}
		p.pins[name] = i
	}
}

func (p *api) count(b *policy.Build) {
	route, w := "", b.World
	if b.Route != nil {
		route = b.Route.Name
	}
	for i := range p.versions {
		p.versions[i].requests = w.Metrics.APIVersionRequests.With(w.Generation, route, p.versions[i].name)
	}
	p.unknowns = w.Metrics.APIVersionRequests.With(w.Generation, route, "unknown")
	p.consumer.made = func(c *exchange.Consumer, version int) *telemetry.Counter {
		return w.Metrics.APIVersionConsumers.With(w.Generation, c.Name, p.versions[version].name)
	}
}

// consumerCounts counts requests by consumer and version: as many as are used.
type consumerCounts struct {
	made func(c *exchange.Consumer, version int) *telemetry.Counter

	mu  sync.RWMutex
	all map[consumerVersion]*telemetry.Counter
}

type consumerVersion struct {
	consumer *exchange.Consumer
	version  int
}

func (c *consumerCounts) inc(consumer *exchange.Consumer, version int) {
	if consumer == nil {
		return
	}
	key := consumerVersion{consumer, version}
	c.mu.RLock()
	counter := c.all[key]
	c.mu.RUnlock()
	if counter == nil {
		c.mu.Lock()
		if counter = c.all[key]; counter == nil {
			if c.all == nil {
				c.all = make(map[consumerVersion]*telemetry.Counter)
			}
			counter = c.made(consumer, version)
			c.all[key] = counter
		}
		c.mu.Unlock()
	}
	counter.Inc()
}
