// Package bandwidth bounds how fast answers go to clients. It guarantees that those who share a rate are sent no more than it and
// one burst, whoever made the answers: a backend, the cache, or the gateway.
//
// The policy decides whose rate it is; the engine asks for each piece that it writes how large that may be and how long it
// waits, in the goroutine of the connection or the stream. What waits there is read no further from its backend.
package bandwidth

import (
	"encoding/binary"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `bandwidth`. Heads, bodies and what a backend sends through a WebSocket count, before TLS and the frames of HTTP/2; what clients send
// does not. Answers of policies ahead of this one, such as 401, are not slowed.
type Config struct {
	// Rate is how many bytes go out in a second, as `1MiB`.
	Rate config.Size `yaml:"rate" required:"true" min:"1KiB" max:"1TiB"`
	// Burst is how many bytes go out at once before the rate counts. Default: as many as in a second.
	Burst config.Size `yaml:"burst" default:"0" max:"1TiB"`
	// By is who shares the rate: `connection`, all answers on one connection, also those side by side over HTTP/2; or as for rate_limit consumer, ip, header:NAME, claim:NAME, tenant, route, global.
	By string `yaml:"by" default:"connection"`
}

// Complete sets what depends on other settings.
func (c *Config) Complete() {
	if c.Burst == 0 {
		c.Burst = c.Rate
	}
}

// minBurst is a piece that is worth a write.
const minBurst = 1 << 10

// Validate reports what no key can be made of.
func (c *Config) Validate() error {
	var errs config.Errors
	if c.By != byConnection {
		if _, err := policy.ParseBy(c.By); err != nil {
			errs = append(errs, config.Errorf("by", "%q is not one of connection, consumer, ip, header:NAME, claim:NAME, tenant, route, global", c.By))
		}
	}
	if c.Burst < minBurst {
		errs = append(errs, config.Errorf("burst", "%d bytes are out of range; it must be at least 1KiB", int64(c.Burst)))
	}
	return errs.Err()
}

const byConnection = "connection"

// Definition is the policy `bandwidth`.
var Definition = policy.Define("bandwidth", policy.Limit, build)

// pace is a compiled block.
type pace struct {
	state      *State
	clock      *exchange.Clock
	key        policy.Key
	connection bool
	limits     [1]limiter.Limit
	piece      int // the most that goes out at once
	slowed     *telemetry.Counter
}

const (
	// perSecond is how many pieces a second has, so that what comes seems to flow.
	perSecond = 10
	maxPiece  = 64 << 10
)

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	p := &pace{
		clock: b.World.Clock, connection: c.By == byConnection,
		limits: [1]limiter.Limit{{Requests: int64(c.Rate), Per: time.Second, Burst: int64(c.Burst)}},
		piece:  int(min(max(c.Rate/perSecond, minBurst), c.Burst, maxPiece)),
	}
	if p.connection {
		p.key = b.Key(policy.ByGlobal, "#"+byConnection)
	} else {
		by, err := policy.ParseBy(c.By)
		if err != nil {
			panic("BUG: Validate let by " + c.By + " pass")
		}
		p.key = b.Key(by, "")
	}
	hooks := policy.Hooks{Request: p.request}
	if b.World.DryRun {
		return hooks, nil
	}
	p.slowed = b.World.Metrics.RateLimited.With(b.World.Generation, b.Route.Name, "bandwidth")
	var err error
	p.state, err = policy.LivingAs(b.World, "bandwidth", func() (*State, error) { return &State{limiter.New(limiter.Options{})}, nil })
	return hooks, err
}

func (p *pace) request(x *exchange.Exchange) error {
	client, ok := x.Client.(exchange.Pacer)
	if !ok {
		return nil // nobody whom an answer is written to, as with a copy of a request
	}
	key := p.key.Append(x.Scratch(), x)
	if p.connection {
		key = binary.BigEndian.AppendUint64(key, x.ConnID)
	}
	client.Pace(p, key)
	return nil
}

// Piece implements exchange.Pace. Those who share a rate wait in the order in which they ask.
func (p *pace) Piece(m *exchange.Meter, n int) (piece int, wait time.Duration) {
	var out [1]limiter.Result
	piece = min(n, p.piece)
	p.state.buckets.Reserve(p.clock.Now(), m.Key, p.limits[:], int64(piece), limiter.Never, out[:])
	if wait = out[0].RetryAfter; wait > 0 && !m.Slowed {
		m.Slowed = true
		p.slowed.Inc()
	}
	return piece, wait
}

// Unsent implements exchange.Pace. Else clients that ask and leave, who cost nothing but a connection each, would have all others of their rate
// wait for what nobody is sent.
func (p *pace) Unsent(m *exchange.Meter, n int) {
	p.state.buckets.Return(p.clock.Now(), m.Key, p.limits[:], int64(n))
}

// State are the rates of the process by who shares them.
type State struct{ buckets *limiter.Store }

// Sweep is called once a minute: it drops who has what they may have, so that the memory of a flood of keys comes back.
func (s *State) Sweep(now int64) int { return s.buckets.Sweep(now) }
