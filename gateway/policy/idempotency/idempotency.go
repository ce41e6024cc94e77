// Package idempotency lets clients repeat a request without its being carried out twice (draft-ietf-httpapi-idempotency-key-header-07):
// what a request with a key was answered is recorded and given to every later one with that key. It guarantees that of
// requests with one key, one at a time is with the backend; that nobody is given what another caller was answered; that a key is
// not forgotten before its time, whatever else is asked of the store; and that every key that was claimed is settled,
// whatever becomes of its request.
//
// What is recorded is what the backend decided: an answer below 500 that a repetition would not change. A key is free again where the
// backend was not asked or asks to try again (its 5xx, 401, 408, 409, 421, 425 and 429), and where it gave no answer
// (502 and 504 of the gateway). Where it has answered and the answer can not be kept, since it is larger than max_response, streams
// without end, broke off, or there is no room, the key stays used: a repetition gets 409 rather than a second payment.
// An answer is waited for and recorded also if the client leaves meanwhile.
//
// With a shared store all this holds for all instances together. A key whose instance is gone in the middle of its request stays used.
package idempotency

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `idempotency`. Of requests with the same key, by the same caller on the same route and host, one is carried
// out; the others are answered alike, with `Idempotent-Replayed: true`. A caller is the consumer, else the authenticated subject, else the
// `Authorization` that is the backend's to judge, else the client's address. Cookies and what is of the moment (Date, correlation id, rate limits)
// are not repeated. Answers that ask to try again, which are 401, 408, 409, 421, 425, 429 and all from 500 on, free the key.
type Config struct {
	// Header that holds the key: a string in quotes as RFC 9651 has it, or the bare key.
	Header string `yaml:"header" default:"Idempotency-Key"`
	// TTL is how long a key is remembered, from the answer on.
	TTL config.Duration `yaml:"ttl" default:"24h" min:"1s" max:"31d"`
	// Methods whose requests may have a key. Others pass, with a key or without.
	Methods []string `yaml:"methods" enum:"POST|PATCH|PUT|DELETE" default:"POST,PATCH"`
	// Required refuses requests without a key with 400.
	Required bool `yaml:"required" default:"false"`
	// InFlight is what a request gets while the first with its key is being carried out: `reject` answers 409, `wait` waits for the same answer.
	InFlight string `yaml:"in_flight" enum:"reject|wait" default:"reject"`
	// WaitTimeout is how long it waits at most; then it gets 409.
	WaitTimeout config.Duration `yaml:"wait_timeout" default:"10s" min:"1ms" max:"5m"`
	// Retry lets the gateway send a request with a key to the service again by the rules of its `retries`, as if the method were idempotent. The backend gets the key too; turn it off where the backend does not know keys.
	Retry bool `yaml:"retry" default:"true"`
	// MaxBody is the largest body that a request with a key may have; a larger one gets 413. It is held until it is complete.
	MaxBody config.Size `yaml:"max_body" default:"1MiB" min:"1" max:"64MiB"`
	// MaxResponse is the largest body of an answer that is recorded. With a larger one the key stays used, and a repetition gets 409.
	MaxResponse config.Size `yaml:"max_response" default:"256KiB" min:"1" max:"64MiB"`
	// MaxSize bounds the memory of all keys under this block; with `state.redis` that is Redis's to bound, whose `maxmemory-policy` has to be `noeviction`. No key is forgotten for a new one before its time: when there is no room, requests with new keys get 503.
	MaxSize config.Size `yaml:"max_size" default:"64MiB" min:"64KiB"`
	// Link to the documentation that a client is pointed to when something is wrong with its key.
	Link string `yaml:"link" default:"https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/"`
}

// Definition is the policy `idempotency`.
var Definition = policy.Define("idempotency", policy.Inspect, build)

// Validate judges what tags can not.
func (c *Config) Validate() error {
	var errs config.Errors
	switch {
	case !exchange.IsToken(c.Header):
		errs = append(errs, config.Errorf("header", "%q can not be the name of a header", c.Header))
	case exchange.KindOf([]byte(c.Header)) != exchange.KindOther:
		errs = append(errs, config.Errorf("header", "%s is the gateway's own or frames the request; name another header", c.Header))
	}
	if c.MaxResponse > c.MaxSize {
		errs = append(errs, config.Errorf("max_response", "is larger than max_size, so that it bounds nothing"))
	}
	if strings.ContainsFunc(c.Link, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' || r == '"' }) {
		errs = append(errs, config.Errorf("link", "%q is no URL; write https://…", c.Link))
	}
	return errs.Err()
}

// guard is the policy at one place. It is immutable.
type guard struct {
	store   Store
	waiters *policy.Waiters
	header  string
	methods []string
	route   string

	required, wait, retry bool
	ttl, patience         int64 // nanoseconds
	maxBody, maxResponse  int
	maxSize               int64

	missing, malformed, tooLarge, inFlight, reused, lost, full, unavailable *exchange.Reject

	counts struct {
		first, replayed, inFlight, reused, lost, missing, malformed, tooLarge, full, unguarded, unavailable *telemetry.Counter
	}
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	g := &guard{
		header: c.Header, methods: slices.Clone(c.Methods),
		required: c.Required, wait: c.InFlight == "wait", retry: c.Retry,
		ttl: int64(c.TTL), patience: int64(c.WaitTimeout),
		maxBody: int(c.MaxBody), maxResponse: int(c.MaxResponse), maxSize: int64(c.MaxSize),
	}
	if b.Route != nil {
		g.route = b.Route.Name
	}
	g.reject(c)
	if b.World.DryRun {
		return policy.Hooks{}, nil
	}
	shared, err := policy.LivingAs(b.World, "idempotency/shared", newShared)
	if err != nil {
		return policy.Hooks{}, err
	}
	records, err := policy.Living(b, "records", func() (*Memory, error) { return newMemory(shared), nil })
	if err != nil {
		return policy.Hooks{}, err
	}
	g.store, g.waiters = records, &shared.waiters
	if s := b.World.Cluster; s != nil {
		g.store = &Shared{store: s, alone: records, ttl: c.TTL}
	}
	g.count(b.World, shared)
	return policy.Hooks{Request: g.request, Response: g.response, Done: g.done, Blocking: true}, nil
}

func (g *guard) reject(c *Config) {
	link := func(headers ...exchange.HeaderEdit) []exchange.HeaderEdit {
		if c.Link == "" {
			return headers
		}
		return append(headers, exchange.Header("Link", "<"+c.Link+`>; rel="describedby"`))
	}
	g.missing = exchange.NewReject(fasthttp.StatusBadRequest, "idempotency_key_missing",
		"this request needs the header "+c.Header+" with a key of your choice that is new for each operation, such as a UUID", link()...)
	g.malformed = exchange.NewReject(fasthttp.StatusBadRequest, "idempotency_key_malformed",
		c.Header+` must hold one key of 1 to 255 visible ASCII characters, in double quotes or bare`, link()...)
	g.tooLarge = exchange.NewReject(fasthttp.StatusRequestEntityTooLarge, "idempotency_body_too_large",
		"a request with "+c.Header+" may have a body of at most "+c.MaxBody.String(), link()...)
	g.tooLarge.Close = true // the body was not read to its end
	g.inFlight = exchange.NewReject(fasthttp.StatusConflict, "idempotency_in_flight",
		"a request with this "+c.Header+" is being carried out; ask again for its answer", link(exchange.Header("Retry-After", "1"))...)
	g.reused = exchange.NewReject(fasthttp.StatusUnprocessableEntity, "idempotency_key_reused",
		"this "+c.Header+" was used for another request; a repetition has the same method, path, query, type, API version, body and credentials, and another operation has a key of its own", link()...)
	g.lost = exchange.NewReject(fasthttp.StatusConflict, "idempotency_answer_lost",
		"a request with this "+c.Header+" was carried out, and its answer was not kept; look up what has become of it", link()...)
	g.unavailable = exchange.NewReject(fasthttp.StatusServiceUnavailable, "idempotency_unavailable",
		"what has become of this "+c.Header+" can not be looked up; try again later", link(exchange.Header("Retry-After", "1"))...)
	g.full = exchange.NewReject(fasthttp.StatusServiceUnavailable, "idempotency_full",
		"no more keys can be remembered for now; try again later")
}

func (g *guard) count(w *policy.World, s *shared) {
	_, _ = policy.Once(w, "idempotency/bytes", func() (bool, error) {
		w.Metrics.IdempotencyBytes.With(w.Generation, s.bytes)
		return true, nil
	})
	with := func(result string) *telemetry.Counter {
		return w.Metrics.IdempotencyRequests.With(w.Generation, g.route, result)
	}
	c := &g.counts
	c.first, c.replayed, c.inFlight, c.reused, c.lost = with("first"), with("replayed"), with("in_flight"), with("reused"), with("lost")
	c.missing, c.malformed, c.tooLarge, c.full = with("missing"), with("malformed"), with("too_large"), with("full")
	c.unguarded, c.unavailable = with("unguarded"), with("unavailable")
}

// maxWaiting bounds the requests that wait for another's answer, in the whole process.
const maxWaiting = 1 << 16

// shared is what all blocks of a gateway have in common.
type shared struct {
	waiters policy.Waiters

	mu  sync.Mutex
	all map[*Memory]struct{}
}

func newShared() (*shared, error) {
	s := &shared{all: make(map[*Memory]struct{})}
	s.waiters.Max = maxWaiting
	return s, nil
}

// bytes is what all keys hold.
func (s *shared) bytes() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := int64(0)
	for m := range s.all {
		total += m.Bytes()
	}
	return float64(total)
}

// seconds is how long to wait, for Retry-After: at least one, at most an hour.
func seconds(ns int64) int64 {
	return min(max((ns+int64(time.Second)-1)/int64(time.Second), 1), 3600)
}
