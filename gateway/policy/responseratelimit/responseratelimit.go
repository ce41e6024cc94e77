// Package responseratelimit limits what callers may use of something that only the answers of the backend tell: each answer
// says in a header what it counts as. Its guarantee: an answer that counts against a limit that is used up does not reach the
// client, and counts outlive the configuration that named them.
package responseratelimit

import (
	"bytes"
	"maps"
	"slices"
	"strconv"

	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `response_rate_limit`, which is Kong's response-ratelimiting. Windows are those of the clock, in UTC.
// Clients are told where they stand by `X-RateLimit-Limit-NAME-WINDOW` and `X-RateLimit-Remaining-NAME-WINDOW`, backends what is left by
// `X-RateLimit-Remaining-NAME`.
type Config struct {
	// Limits by name, as `videos: {minute: 10, day: 100}`.
	Limits map[string]*Limit `yaml:"limits" required:"true"`
	// Header of the answer that says what it counts as: `X-Kong-Limit: videos=2, images`, where a name alone counts one. It does not reach the client.
	Header string `yaml:"header" default:"X-Kong-Limit" required:"true"`
	// By says who shares counts: `consumer` (the consumer, else the authenticated subject, else the client address) or `ip`.
	By string `yaml:"by" enum:"consumer|ip" default:"consumer"`
	// BlockOnFirst refuses every request once one limit is used up, where else only answers that count against it are.
	BlockOnFirst bool `yaml:"block_on_first" default:"false"`
	// Headers tells clients where they stand.
	Headers bool `yaml:"headers" default:"true"`
}

// Limit is how much of something may be used in windows of the clock; 0: no limit.
type Limit struct {
	// Second is the limit of a second.
	Second int64 `yaml:"second" default:"0" min:"0"`
	// Minute is the limit of a minute.
	Minute int64 `yaml:"minute" default:"0" min:"0"`
	// Hour is the limit of an hour.
	Hour int64 `yaml:"hour" default:"0" min:"0"`
	// Day is the limit of a day.
	Day int64 `yaml:"day" default:"0" min:"0"`
	// Month is the limit of a month of the calendar.
	Month int64 `yaml:"month" default:"0" min:"0"`
	// Year is the limit of a year of the calendar.
	Year int64 `yaml:"year" default:"0" min:"0"`
}

// Definition is the policy `response_rate_limit`.
var Definition = policy.Define("response_rate_limit", policy.Limit, build)

// exceeded is for the answer that uses more than there is.
var exceeded = exchange.NewReject(429, "response_rate_exceeded", "too much was used; try again later")

// maxWindows is how many windows there are.
const maxWindows = 6

type limit struct {
	counters *counters
	header   string
	block    bool
	things   []thing
	limited  *telemetry.Counter
}

// thing is something that is counted.
type thing struct {
	name    string
	key     policy.Key
	windows []limiter.Count
	told    []names // of each window, nil where clients are told nothing
	backend string  // the header for backends
	limited *exchange.Reject
}

type names struct{ limit, remaining string }

// counters are those of all blocks of the process.
type counters struct {
	*limiter.Counters
	clock *exchange.Clock
}

// Sweep is called once a minute.
func (c *counters) Sweep(int64) int { return c.Expire(c.clock.Time().Unix()) }

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	if !exchange.IsToken(c.Header) {
		return policy.Hooks{}, policy.Wrong("header", "%q can not be the name of a header", c.Header)
	}
	by, err := policy.ParseBy(c.By)
	if err != nil {
		panic("BUG: the enum let by " + c.By + " pass")
	}
	l := &limit{header: c.Header, block: c.BlockOnFirst}
	for _, name := range slices.Sorted(maps.Keys(c.Limits)) {
		if !exchange.IsToken(name) {
			return policy.Hooks{}, policy.Wrong("limits", "%q can not be part of the name of a header", name)
		}
		t := thing{name: name, key: b.Key(by, "\x00"+name), backend: "X-RateLimit-Remaining-" + name}
		t.limited = exchange.NewReject(429, "response_rate_limited", "API rate limit exceeded for '"+name+"'")
		all := c.Limits[name]
		for w, n := range [maxWindows]int64{all.Second, all.Minute, all.Hour, all.Day, all.Month, all.Year} {
			if n == 0 {
				continue
			}
			t.windows = append(t.windows, limiter.Count{Window: limiter.Window(w), Limit: n})
			word := [maxWindows]string{"Second", "Minute", "Hour", "Day", "Month", "Year"}[w]
			if c.Headers {
				t.told = append(t.told, names{"X-RateLimit-Limit-" + name + "-" + word, "X-RateLimit-Remaining-" + name + "-" + word})
			}
		}
		if len(t.windows) == 0 {
			return policy.Hooks{}, policy.Wrong("limits."+name, "limits nothing; write minute: 10, or one of second, hour, day, month and year")
		}
		l.things = append(l.things, t)
	}
	l.limited = b.World.Metrics.RateLimited.With(b.World.Generation, b.Route.Name, "response_rate_limit")
	hooks := policy.Hooks{Request: l.request, Response: l.response, Standing: l.standing}
	if b.World.DryRun {
		return hooks, nil
	}
	l.counters, err = policy.LivingAs(b.World, "response_rate_limit", func() (*counters, error) {
		return &counters{limiter.NewCounters(0), b.World.Clock}, nil
	})
	return hooks, err
}

func (l *limit) request(x *exchange.Exchange) error {
	for i := range l.things {
		t := &l.things[i]
		var key [policy.KeySize]byte
		var remaining [maxWindows]int64
		l.counters.Look(x.Arrived.Unix(), t.key.Append(key[:0], x), t.windows, remaining[:])
		least := remaining[0]
		for _, n := range remaining[1:len(t.windows)] {
			least = min(least, n)
		}
		if l.block && least <= 0 {
			l.limited.Inc()
			return t.limited
		}
		x.ToBackend.Set(t.backend, x.Keep(strconv.AppendInt(x.Scratch(), max(least, 0), 10)))
	}
	return nil
}

func (l *limit) response(x *exchange.Exchange) error {
	if x.Answer != exchange.Proxied && x.Answer != exchange.Stored {
		return nil
	}
	said := x.ResponseHeader(l.header)
	x.ToClient.Remove(l.header)
	stop := false
	for i := range l.things {
		t := &l.things[i]
		used := int64(0)
		if x.Answer == exchange.Proxied { // what is stored was counted once
			used = usedOf(said, t.name)
		}
		var key [policy.KeySize]byte
		var remaining [maxWindows]int64
		l.counters.Add(x.Arrived.Unix(), t.key.Append(key[:0], x), t.windows, used, remaining[:])
		for j := range t.windows {
			stop = stop || used > 0 && remaining[j]+used <= 0
			if t.told != nil {
				x.ToClient.Set(t.told[j].limit, x.Keep(strconv.AppendInt(x.Scratch(), t.windows[j].Limit, 10)))
				x.ToClient.Set(t.told[j].remaining, x.Keep(strconv.AppendInt(x.Scratch(), max(remaining[j], 0), 10)))
			}
		}
	}
	if stop {
		l.limited.Inc()
		return exceeded
	}
	return nil
}

// windowNames are the windows of the clock, in the order of limiter's.
var windowNames = [maxWindows]string{"second", "minute", "hour", "day", "month", "year"}

// standing is how a consumer stands with all that is counted by consumer.
func (l *limit) standing(x *exchange.Exchange) (all []policy.LimitWindow) {
	unix := x.Arrived.Unix()
	for i := range l.things {
		t := &l.things[i]
		if !t.key.OfConsumer() || l.counters == nil {
			continue
		}
		var remaining [maxWindows]int64
		l.counters.Look(unix, t.key.Append(nil, x), t.windows, remaining[:])
		for j, w := range t.windows {
			left := max(0, remaining[j])
			all = append(all, policy.LimitWindow{
				Name: t.name, Requests: w.Limit, Per: float64(w.Window.Seconds()), Burst: w.Limit, Period: windowNames[w.Window],
				Used: w.Limit - left, Remaining: left, Reset: float64(max(1, w.Window.Seconds()-(unix-w.Window.Start(unix)))),
			})
		}
	}
	return all
}

var comma, equals = []byte(","), []byte("=")

// usedOf is what an answer says that it counts as.
func usedOf(said []byte, name string) int64 {
	for len(said) > 0 {
		var one []byte
		one, said, _ = bytes.Cut(said, comma)
		what, number, counted := bytes.Cut(one, equals)
		if !exchange.EqualFold(bytes.TrimSpace(what), name) {
			continue
		}
		if !counted {
			return 1
		}
		n := int64(0)
		for _, c := range bytes.TrimSpace(number) {
			if c < '0' || c > '9' || n > 1e12 {
				return 1
			}
			n = n*10 + int64(c-'0')
		}
		return n
	}
	return 0
}
