package ratelimit

import (
	"errors"
	"slices"
	"strconv"

	"sluice/config"
	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// windowNames are the windows of the clock, in the order of limiter's.
var windowNames = []string{"second", "minute", "hour", "day", "month", "year"}

// fixed is a compiled block of windows by the clock.
type fixed struct {
	counters *counters
	// cluster and shared take the place of counters where these are shared with other instances.
	cluster *cluster.Limiter
	shared  *cluster.Limits
	key     policy.Key
	limits  []limiter.Count
	policy  []byte // of RateLimit-Policy
	names   []string
	// kong are the names of the headers for each limit, nil where it is not Kong's headers that are sent.
	kong    []kongNames
	quiet   bool
	limited *telemetry.Counter
}

type kongNames struct{ limit, remaining string }

// counters are those of all blocks of the process.
type counters struct {
	*limiter.Counters
	clock *exchange.Clock
}

// Sweep is called once a minute.
func (c *counters) Sweep(int64) int { return c.Expire(c.clock.Time().Unix()) }

// validateFixed judges a window by the clock by itself.
func (c *Config) validateFixed() []error {
	var errs []error
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"per", c.Per != 0}, {"burst", c.Burst != 0 && c.Burst != c.Requests}, {"cost", c.Cost != 1}, {"excess", c.Excess != "reject"}, {"shadow", c.Shadow},
	} {
		if s.set {
			errs = append(errs, config.Errorf(s.name, "a window by the clock counts requests and refuses the others; leave it out"))
		}
	}
	return errs
}

func buildFixed(b *policy.Build, cs []*Config) (policy.Hooks, error) {
	by, err := policy.ParseBy(cs[0].By)
	if err != nil {
		panic("BUG: Validate let by " + cs[0].By + " pass")
	}
	f := &fixed{key: b.Key(by, ""), quiet: cs[0].Headers == "off"}
	var announced []byte
	for i, c := range cs {
		switch {
		case c.Window == "":
			return policy.Hooks{}, errors.New("has windows by the clock and buckets in one list; write window or per in all of them")
		case c.By != cs[0].By:
			return policy.Hooks{}, errors.New("counts windows by the clock by different things; write the same by in all of them")
		case c.Mode != cs[0].Mode:
			return policy.Hooks{}, errors.New("counts windows by the clock in different modes; write the same mode in all of them")
		case c.Headers != cs[0].Headers:
			return policy.Hooks{}, errors.New("sends different headers; write the same headers in all elements")
		}
		w := limiter.Window(slices.Index(windowNames, c.Window))
		if slices.ContainsFunc(f.limits, func(l limiter.Count) bool { return l.Window == w }) {
			return policy.Hooks{}, errors.New("has two limits for one " + c.Window + "; keep the lower")
		}
		f.limits = append(f.limits, limiter.Count{Window: w, Limit: c.Requests})
		name := c.Name
		if name == "" {
			name = c.Window
		}
		f.names = append(f.names, `"`+name+`"`)
		if i > 0 {
			announced = append(announced, ", "...)
		}
		announced = append(announced, `"`+name+`";q=`+strconv.FormatInt(c.Requests, 10)+";w="+strconv.FormatInt(w.Seconds(), 10)...)
		if c.Headers == "kong" {
			word := string(c.Window[0]-0x20) + c.Window[1:]
			f.kong = append(f.kong, kongNames{"X-RateLimit-Limit-" + word, "X-RateLimit-Remaining-" + word})
		}
	}
	f.policy = announced
	f.limited = b.World.Metrics.RateLimited.With(b.World.Generation, b.Route.Name, "rate_limit")
	hooks := policy.Hooks{Request: f.request, Standing: f.standing}
	if b.World.Shared() {
		windows := make([]cluster.Window, len(f.limits))
		for i, l := range f.limits {
			windows[i] = cluster.Window{Requests: l.Limit, ByClock: true, Clock: l.Window}
		}
		f.shared = cluster.NewLimits(f.key.Prefix, windows, 1, cs[0].Mode == "strict")
		hooks.Request, hooks.Blocking = f.requestShared, f.shared.MayWait()
	}
	if b.World.DryRun {
		return hooks, nil
	}
	if s := b.World.Cluster; s != nil {
		f.cluster = s.Limiter()
		b.World.Leases.Add(f.cluster.Register(f.shared))
		return hooks, nil
	}
	f.counters, err = policy.LivingAs(b.World, "rate_limit/windows", func() (*counters, error) {
		return &counters{limiter.NewCounters(0), b.World.Clock}, nil
	})
	return hooks, err
}

func (f *fixed) request(x *exchange.Exchange) error {
	var key [policy.KeySize]byte
	var remaining [maxWindows]int64
	unix := x.Arrived.Unix()
	stop := f.counters.Take(unix, f.key.Append(key[:0], x), f.limits, remaining[:])
	return f.answer(x, unix, remaining[:len(f.limits)], stop < 0)
}

func (f *fixed) answer(x *exchange.Exchange, unix int64, remaining []int64, passed bool) error {
	reset := f.say(x, unix, remaining)
	if passed {
		return nil
	}
	f.limited.Inc()
	if !f.quiet {
		x.ToClient.Set("Retry-After", x.Keep(strconv.AppendInt(x.Scratch(), reset, 10)))
	}
	return rejectExcess
}

// say tells the client how it stands, and returns in how many seconds the tightest window ends.
func (f *fixed) say(x *exchange.Exchange, unix int64, remaining []int64) (reset int64) {
	// The tightest is the one with the least left, of equals the longer.
	tight := 0
	for i := range remaining {
		remaining[i] = max(remaining[i], 0)
		if i > 0 && (remaining[i] < remaining[tight] || remaining[i] == remaining[tight] && f.limits[i].Window > f.limits[tight].Window) {
			tight = i
		}
	}
	w := f.limits[tight].Window
	reset = max(1, w.Seconds()-(unix-w.Start(unix)))
	switch {
	case f.quiet:
		return reset
	case f.kong == nil:
		x.ToClient.Set("RateLimit-Policy", f.policy)
		standing := x.Scratch()
		for i := range remaining {
			if i > 0 {
				standing = append(standing, ", "...)
			}
			w := f.limits[i].Window
			standing = append(append(standing, f.names[i]...), ";r="...)
			standing = strconv.AppendInt(standing, remaining[i], 10)
			standing = append(standing, ";t="...)
			standing = strconv.AppendInt(standing, max(1, w.Seconds()-(unix-w.Start(unix))), 10)
		}
		x.ToClient.Set("RateLimit", x.Keep(standing))
		return reset
	}
	number := func(n int64) []byte { return x.Keep(strconv.AppendInt(x.Scratch(), n, 10)) }
	for i := range remaining {
		x.ToClient.Set(f.kong[i].limit, number(f.limits[i].Limit))
		x.ToClient.Set(f.kong[i].remaining, number(remaining[i]))
	}
	x.ToClient.Set("RateLimit-Limit", number(f.limits[tight].Limit))
	x.ToClient.Set("RateLimit-Remaining", number(remaining[tight]))
	x.ToClient.Set("RateLimit-Reset", number(reset))
	return reset
}
