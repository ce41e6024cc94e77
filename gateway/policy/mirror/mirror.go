// Package mirror sends copies of requests to another service, and compares the answers if asked to. It guarantees that a
// client never notices: the copy is made when the client has its answer, and waits in a queue that is bounded in number and
// bytes; what does not fit is dropped and counted. The copy's answer goes nowhere.
package mirror

import (
	"fmt"
	"math/rand/v2"
	"net/textproto"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
)

// Config are the settings of the policy `mirror`. A request is copied once its service has answered, or could not: what the cache answers, or a
// policy, is not. The copy has the same method, path, query, headers and body as the request had for its service, identity and credentials included, so it is for
// services that may see them, and goes through the connections, the balancer and the breaker of its own service, without retries. Protocol upgrades are not copied.
type Config struct {
	// Service that gets the copies, by name.
	Service string `yaml:"service" required:"true"`
	// Sample is the share of the requests that are copied, 0 to 1.
	Sample float64 `yaml:"sample" default:"1.0" min:"0" max:"1"`
	// Header marks copies; its value is `1`. A client's own never passes, to neither service.
	Header string `yaml:"header" default:"X-Sluice-Mirror"`
	// Compare the answers of both services. Off when left out.
	Compare Compare `yaml:"compare" default:"off"`
	// Timeout for the whole answer to a copy.
	Timeout config.Duration `yaml:"timeout" default:"5s" min:"1ms" max:"5m"`
	// MaxBody of a request that is copied. Only bodies that are held anyway are: those of a known length up to 64KiB, and what a policy has held; copies are never waited for.
	MaxBody config.Size `yaml:"max_body" default:"64KiB" max:"64KiB"`
	// MaxInFlight bounds the copies that are under way at the same time.
	MaxInFlight int `yaml:"max_in_flight" default:"16" min:"1" max:"1024"`
	// Queue bounds the copies that wait for their turn.
	Queue int `yaml:"queue" default:"256" min:"1" max:"100000"`
	// MaxMemory bounds what waiting copies hold, the answers to compare with included.
	MaxMemory config.Size `yaml:"max_memory" default:"16MiB" min:"128KiB"`
}

// Compare says how the answers of both services are compared: their status, and where that is the same, headers and bodies. Bodies of JSON
// are compared by what they mean, others byte by byte. What differs is counted, and told in the log and at `GET /api/mirrors`: names of headers and paths
// in JSON, never values.
type Compare struct {
	// Off: answers are not compared.
	Off bool `yaml:"-"`
	// Headers of the answers that are compared.
	Headers []string `yaml:"headers" default:"Content-Type,Location"`
	// Ignore are paths in JSON bodies that may differ: `meta.took`, `items[*].id` for every element or key, `$` for the whole body.
	Ignore []string `yaml:"ignore"`
	// MaxBody of answers that are compared; of longer ones status and headers are.
	MaxBody config.Size `yaml:"max_body" default:"64KiB" min:"1" max:"1MiB"`
}

// Definition is the policy `mirror`.
var Definition = policy.Define("mirror", policy.Transform, build)

// mirror is the policy at one place.
type mirror struct {
	route   string
	name    string // of the service
	service *upstream.Service
	sample  float64
	mark    string
	maxBody int
	timeout time.Duration
	compare *comparison // nil: answers are not compared
	capture exchange.BodyHook
	queue   *queue
	tally   *tally

	*counters
	queueFull, tooMuch, noBody *telemetry.Counter
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	m := &mirror{name: c.Service, sample: c.Sample, maxBody: int(c.MaxBody), timeout: c.Timeout, mark: textproto.CanonicalMIMEHeaderKey(c.Header)}
	if b.World.Config.Services[c.Service] == nil {
		return policy.Hooks{}, policy.Wrong("service", "there is no service %q", c.Service)
	}
	if !exchange.IsToken(c.Header) || exchange.KindOf([]byte(c.Header)) != exchange.KindOther {
		return policy.Hooks{}, policy.Wrong("header", "%q has a meaning of its own, or can not be the name of a header", c.Header)
	}
	if !c.Compare.Off {
		var err error
		if m.compare, err = newComparison(&c.Compare); err != nil {
			return policy.Hooks{}, err
		}
	}
	if c.Service == b.Service {
		b.Warnf("service", "%s gets every request that is copied twice", c.Service)
	}
	hooks := policy.Hooks{Request: m.request, Done: m.done, OnlyFetched: true}
	if m.compare != nil {
		hooks.Response = m.response
	}
	m.service = b.World.Services[c.Service]
	if b.World.DryRun || m.service == nil { // it is wrong, and that was said
		return hooks, nil
	}
	m.service = m.service.Override(c.Timeout, upstream.RetrySettings{})
	m.capture = m.captureBody
	m.route = b.Route.Name
	settings := fmt.Sprint(c.Service, c.MaxInFlight, c.Queue, c.MaxMemory)
	var err error
	m.queue, err = policy.Living(b, "queue/"+settings, func() (*queue, error) {
		q := newQueue(b.World, c)
		q.start(c.MaxInFlight)
		return q, nil
	})
	if err != nil {
		return policy.Hooks{}, err
	}
	metrics, g := b.World.Metrics, b.World.Generation
	m.tally = m.queue.tallyOf(m.route, m.name)
	m.counters = m.tally.lease(metrics, g)
	m.queueFull = metrics.MirrorDropped.With(g, m.route, m.name, "queue")
	m.tooMuch = metrics.MirrorDropped.With(g, m.route, m.name, "memory")
	m.noBody = metrics.MirrorDropped.With(g, m.route, m.name, "body")
	return hooks, nil
}

// state is that of a request that is copied; others have none.
type state struct {
	answer answer
}

// Reset keeps the buffers, unless they are large.
func (s *state) Reset() {
	head, body := s.answer.head[:0], s.answer.body[:0]
	if cap(body) > maxKept {
		body = nil
	}
	if cap(head) > maxKept {
		head = nil
	}
	*s = state{answer: answer{head: head, body: body}}
}

const maxKept = 16 << 10

var states = exchange.NewSlot[state]()

// request decides whether the request is copied, and keeps clients from passing it off as a copy.
func (m *mirror) request(x *exchange.Exchange) error {
	x.ToBackend.Remove(m.mark)
	if m.sample >= 1 || m.sample > 0 && rand.Float64() < m.sample {
		states.Of(x)
		x.KeepsBody = true
	}
	return nil
}

// response remembers of the service's answer what the copy's is compared with. It is the first of all response hooks.
func (m *mirror) response(x *exchange.Exchange) error {
	if !states.Has(x) {
		return nil
	}
	if x.Answer != exchange.Proxied {
		return nil
	}
	a := &states.Of(x).answer
	a.status, a.known, a.whole = x.Response.StatusCode(), true, true
	a.read(m.compare, &x.Response.Header)
	if !x.HasResponseBody() {
		return nil
	}
	a.whole = false
	return x.FilterBody(m.capture, false)
}

// captureBody is a body hook.
func (m *mirror) captureBody(x *exchange.Exchange, chunk []byte, last bool) ([]byte, error) {
	a := &states.Of(x).answer
	if a.cut = a.cut || len(a.body)+len(chunk) > m.compare.maxBody; !a.cut {
		a.body = append(a.body, chunk...)
		a.whole = last
	}
	return chunk, nil
}

// done hands a copy over, if there is room for it.
func (m *mirror) done(x *exchange.Exchange) {
	if !states.Has(x) || m.queue == nil {
		return
	}
	s := states.Of(x)
	switch {
	case x.Service == "" || x.Answer == exchange.Tunnel:
		return
	case x.Reject != nil && x.Reject.Status < fasthttp.StatusInternalServerError:
		return // the client's fault: its service did not see it either
	}
	var reason *telemetry.Counter
	switch {
	case x.HasBody() && x.Body == nil, len(x.Body) > m.maxBody:
		reason = m.noBody
	default:
		j := jobs.Get().(*job)
		j.fill(m, x, &s.answer)
		switch m.queue.put(j) {
		case queued:
			return
		case full:
			reason = m.queueFull
		case heavy:
			reason = m.tooMuch
		}
		j.free()
	}
	m.dropped.Inc()
	reason.Inc()
}
