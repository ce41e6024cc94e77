// Package cache answers requests from stored responses, as a shared HTTP cache does (RFC 9111), in memory. It guarantees
// that nobody is given what was stored for another caller, that only complete responses are stored, that of requests which
// miss the same entry at a time one goes to the backend, and that no more memory is held than the operator allows.
//
// The rules and the store are those of sluice/gateway/cache; this package says what a response depends on, and joins them
// to the way of a request. What is stale is validated with the backend where it has a validator (RFC 9111 4.3), and fetched
// anew where not; within stale-while-revalidate that happens in the background. A change (a successful POST, PUT, DELETE, …)
// takes away what is stored for its URI in all caches, if the policy stands on the route of the change too.
//
// Three things that RFC 9111 allows are not done: a 206 is not stored, several ranges of one request are answered whole,
// and trailers are passed on but not stored.
package cache

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	store "sluice/gateway/cache"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `cache`.
type Config struct {
	// TTL of responses that carry no freshness of their own; 0s: by their Last-Modified (RFC 9111 section 4.2.2), a tenth of their age and at most a day.
	TTL config.Duration `yaml:"ttl" default:"300s"`
	// Methods that are answered from the cache and stored. With GET, the response to a POST that names its own URI in Content-Location and says how long it is fresh is stored for later GETs as well (RFC 9110 section 9.3.3).
	Methods []string `yaml:"methods" enum:"GET|HEAD" default:"GET,HEAD"`
	// Statuses that are stored without freshness of their own. Default: 200; with `ttl: 0s` those that RFC 9110 section 15.1 calls heuristically cacheable.
	Statuses []int `yaml:"statuses" min:"200" max:"599"`
	// ContentTypes that are stored without freshness of their own, such as `application/json` or `text/*`. Default: all.
	ContentTypes []string `yaml:"content_types"`
	// RespectOrigin follows Cache-Control, Expires and Age of the response, and Cache-Control of the request. Without it TTL, Statuses and ContentTypes decide alone. A response with Set-Cookie is stored only if it says itself how long it is fresh.
	RespectOrigin bool `yaml:"respect_origin" default:"true"`
	// Targeted fields of a response that take the place of its Cache-Control and Expires (RFC 9213). Surrogate-Control does not reach clients where it is followed, and the backend is told of it by Surrogate-Capability.
	Targeted []string `yaml:"targeted" enum:"CDN-Cache-Control|Surrogate-Control" default:"CDN-Cache-Control"`
	// Vary names request headers that select a response although its Vary does not say so.
	Vary []string `yaml:"vary"`
	// StaleWhileRevalidate is how long a stale response is still given while it is fetched anew in the background, unless the response says otherwise.
	StaleWhileRevalidate config.Duration `yaml:"stale_while_revalidate" default:"0s"`
	// StaleIfError is how long a stale response stands in for an error of the backend, unless the response says otherwise: no answer, or 500, 502, 503, 504.
	StaleIfError config.Duration `yaml:"stale_if_error" default:"0s"`
	// MaxSize bounds the memory of the cache; the block that sets it, on a route or globally, has one cache.
	MaxSize config.Size `yaml:"max_size" default:"64MiB" min:"64KiB"`
	// MaxEntry bounds the body of a stored response.
	MaxEntry config.Size `yaml:"max_entry" default:"1MiB" min:"1"`
	// Headers that tell the client of the cache: `ietf` is Cache-Status, `kong` X-Cache-Status and X-Cache-Key.
	Headers string `yaml:"headers" enum:"ietf|kong" default:"ietf"`
	// Shared gives to everyone what an authenticated caller was answered.
	Shared bool `yaml:"shared" default:"false"`
}

// Definition is the policy `cache`.
var Definition = policy.Define("cache", policy.Cache, build)

var notCached = exchange.NewReject(fasthttp.StatusGatewayTimeout, "not_cached", "no stored response answers this request, and it may not be forwarded")

// cacher is the policy at one place. It is immutable but for what happens on its first request.
type cacher struct {
	rules     store.Rules
	get, head bool
	vary      []byte // one more Vary line of every response
	maxSize   int64
	maxEntry  int64
	strip     bool // the backend sees paths without the matched prefix
	kong      bool // clients are told with Kong's headers

	place      [placeLen]byte
	dimensions []dimension
	route      string

	shared    *shared
	responses *Responses
	resized   atomic.Bool
	first     sync.Once
	repeat    func(x *exchange.Exchange, prepare func(*exchange.Exchange)) bool

	hit, miss, stale, bypassed, revalidated *telemetry.Counter
}

func build(b *policy.Build, s *Config) (policy.Hooks, error) {
	c := &cacher{
		rules: store.Rules{
			TTL: int64(s.TTL), Statuses: s.Statuses, ContentTypes: s.ContentTypes, IgnoreOrigin: !s.RespectOrigin, Shared: s.Shared,
			StaleWhileRevalidate: int64(s.StaleWhileRevalidate), StaleIfError: int64(s.StaleIfError),
			CDNCacheControl: slices.Contains(s.Targeted, "CDN-Cache-Control"), SurrogateControl: slices.Contains(s.Targeted, "Surrogate-Control"),
		},
		get: slices.Contains(s.Methods, "GET"), head: slices.Contains(s.Methods, "HEAD"),
		maxSize: int64(s.MaxSize), maxEntry: int64(s.MaxEntry), kong: s.Headers == "kong",
	}
	if err := c.check(s); err != nil {
		return policy.Hooks{}, err
	}
	if len(s.Statuses) == 0 && s.TTL > 0 {
		c.rules.Statuses = []int{fasthttp.StatusOK}
	}
	c.repeat = b.World.Repeat
	if len(s.Vary) > 0 {
		names := slices.Clone(s.Vary)
		slices.Sort(names)
		c.vary = []byte(strings.Join(names, ", "))
	}
	var err error
	if c.dimensions, err = dimensionsOf(b.Answers.Varies); err != nil {
		return policy.Hooks{}, err
	}
	c.place = placeOf(b, s)
	if b.Route != nil {
		c.route = b.Route.Name
	}
	if b.RouteConfig != nil {
		c.strip = b.RouteConfig.StripPrefix
	}
	if b.World.DryRun {
		return policy.Hooks{}, nil
	}
	if c.shared, err = policy.LivingAs(b.World, "cache/shared", newShared); err != nil {
		return policy.Hooks{}, err
	}
	c.responses, err = policy.Living(b, "responses", func() (*Responses, error) {
		return newResponses(c.shared, c.maxSize, c.maxEntry), nil
	})
	if err != nil {
		return policy.Hooks{}, err
	}
	c.count(b.World)
	return policy.Hooks{Request: c.request, Response: c.response, OnlyFetched: true, Done: c.done, Blocking: true}, nil
}

// maxVary is how many fields of a request the mechanism lets select a response, less some for the responses themselves.
const maxVary = 8

func (c *cacher) check(s *Config) error {
	switch {
	case s.MaxEntry > s.MaxSize:
		return policy.Wrong("max_entry", "is larger than max_size, so that it bounds nothing")
	case !s.RespectOrigin && s.TTL == 0:
		return policy.Wrong("ttl", "stores nothing at 0s beside respect_origin: false; give a duration, or turn the policy off")
	case len(s.Vary) > maxVary:
		return policy.Wrong("vary", "may name %d headers at most", maxVary)
	}
	for _, status := range s.Statuses {
		if status == fasthttp.StatusPartialContent || status == fasthttp.StatusNotModified {
			return policy.Wrong("statuses", "%d is a part of another response and is never stored by itself", status)
		}
	}
	for _, name := range s.Vary {
		if !exchange.IsToken(name) {
			return policy.Wrong("vary", "%q can not be the name of a header", name)
		}
		switch exchange.KindOf([]byte(name)) {
		case exchange.KindIdentity, exchange.KindForwarded:
			return policy.Wrong("vary", "%s is written by the gateway; responses belong to one caller unless shared is true", name)
		}
	}
	for _, t := range s.ContentTypes {
		if family, kind, ok := strings.Cut(t, "/"); !ok || family == "" || kind == "" {
			return policy.Wrong("content_types", "%q is no media type; write it as application/json or text/*", t)
		}
	}
	return nil
}

func (c *cacher) count(w *policy.World) {
	_, _ = policy.Once(w, "cache/bytes", func() (bool, error) {
		w.Metrics.CacheBytes.With(w.Generation, c.shared.bytes)
		return true, nil
	})
	results := w.Metrics.CacheRequests
	c.hit = results.With(w.Generation, c.route, "hit")
	c.miss = results.With(w.Generation, c.route, "miss")
	c.stale = results.With(w.Generation, c.route, "stale")
	c.bypassed = results.With(w.Generation, c.route, "bypass")
	c.revalidated = results.With(w.Generation, c.route, "revalidated")
}

// begin does what a new generation may not do before it is in force: bounding a store that the old one still fills.
func (c *cacher) begin(x *exchange.Exchange) {
	c.first.Do(func() {
		c.responses.Resize(x.Arrived.UnixNano(), c.maxSize, c.maxEntry)
		c.resized.Store(true)
	})
}
