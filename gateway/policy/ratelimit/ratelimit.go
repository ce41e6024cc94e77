// Package ratelimit limits how many requests a caller may make. Its guarantee: never more pass than burst and rate allow, whatever the
// concurrency; of several windows either all are charged or none; and buckets outlive the configuration that named them.
package ratelimit

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config is one window of the policy `rate_limit`: a token bucket that earns `requests` tokens evenly over `per` and holds at most `burst`.
// Of several windows all have to have room. The client is told where it stands by `RateLimit-Policy` and `RateLimit`, and by
// `Retry-After` when it is refused with 429.
type Config struct {
	// Name of the window in the headers. Default: `default` for a single window, the duration of each of several.
	Name string `yaml:"name"`
	// Requests that are earned in `per`.
	Requests int64 `yaml:"requests" required:"true" min:"1" max:"1000000000000"`
	// Per is the time in which `requests` are earned. It is required, unless `window` stands here.
	Per config.Duration `yaml:"per" min:"0s" max:"366d"`
	// Window counts requests by the clock of UTC instead, from its beginning to its end: up to twice as many come through where two windows meet. Refused requests are not counted.
	Window string `yaml:"window" enum:"|second|minute|hour|day|month|year"`
	// Headers that tell the client where it stands: `ietf`, with a `window` also those of Kong (X-RateLimit-Limit-Minute, RateLimit-Remaining), or `off`.
	Headers string `yaml:"headers" enum:"ietf|kong|off" default:"ietf"`
	// Burst is how many requests may come at once. Default: `requests`.
	Burst int64 `yaml:"burst" min:"0" max:"1000000000000"`
	// By says who shares a bucket: `consumer` (the consumer, else the authenticated subject, else the client address), `ip` (IPv6 by its /64), `header:NAME`, `claim:NAME` (without that header or claim the client address), `tenant` (without a tenant the client address), `route`, or `global` for all requests under this block. Callers of different tenants never share a bucket; those by `route` and `global` do, unless the block is of a consumer, a plan or a tenant.
	By string `yaml:"by" default:"consumer"`
	// Cost of a request in tokens.
	Cost int64 `yaml:"cost" default:"1" min:"1" max:"1000000000000"`
	// Excess is what happens to a request for which there is no token: `reject` it, or `delay` it until there is one.
	Excess string `yaml:"excess" enum:"reject|delay" default:"reject"`
	// MaxDelay is how long a request is delayed at most; one that would wait longer is refused at once.
	MaxDelay config.Duration `yaml:"max_delay" default:"1s" max:"1m"`
	// Shadow counts requests over the limit and lets them pass, to try a limit out. The client is told nothing of it.
	Shadow bool `yaml:"shadow"`
	// Mode of a limit that gateways share through `state.redis`. `leased`: each takes tokens ahead, in lots that last eight of `state.redis.timeout` at its rate and become single ones as the bucket runs empty, so that no request waits for Redis; together they never pass more than the limit, and of a full bucket what each has used since it told of it, a 32nd at most, is not earned back yet. `strict`: every request is counted in Redis, and waits for it up to `state.redis.timeout`; so are those of a bucket of less than 20 requests, or 2 for each gateway, of which nothing can be lent. Without Redis both are local.
	Mode string `yaml:"mode" enum:"leased|strict" default:"leased"`
}

// Definition is the policy `rate_limit`.
var Definition = policy.DefineList("rate_limit", policy.Limit, build)

// Complete fills in the burst.
func (c *Config) Complete() {
	if c.Burst == 0 {
		c.Burst = c.Requests
	}
}

// Validate judges one window by itself.
func (c *Config) Validate() error {
	var errs []error
	if _, err := policy.ParseBy(c.By); err != nil {
		errs = append(errs, config.Errorf("by", "%v", err))
	}
	switch {
	case c.Window != "":
		errs = append(errs, c.validateFixed()...)
	case c.Per == 0:
		errs = append(errs, config.Errorf("per", "this setting is missing; want a duration, as 1m"))
	case c.Per < time.Millisecond:
		errs = append(errs, config.Errorf("per", "%s is out of range; it must be at least 1ms", config.FormatDuration(c.Per)))
	case c.Headers != "ietf":
		errs = append(errs, config.Errorf("headers", "goes with window; a bucket is told by the headers of the IETF"))
	}
	if c.Cost > c.Burst {
		errs = append(errs, config.Errorf("cost", "%d is more than the bucket ever holds, which is %d; no request would pass", c.Cost, c.Burst))
	}
	for _, r := range c.Name {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			errs = append(errs, config.Errorf("name", "%q stands in a header; write visible ASCII characters without quotes and backslashes", c.Name))
			break
		}
	}
	return errors.Join(errs...)
}

// maxWindows bounds the windows of one block, so that their results fit on the stack.
const maxWindows = 8

// limit is a compiled block.
type limit struct {
	state   *State
	cluster *cluster.Limiter // nil where buckets are this instance's alone
	groups  []group          // those that refuse first, shadows last
	windows int              // of the groups that refuse
	names   []string
	policy  []byte // the value of RateLimit-Policy, nil where every window is a shadow
	limited *telemetry.Counter
}

// group are windows that are charged together: one bucket key and one cost.
type group struct {
	key      policy.Key
	cost     int64
	shadow   bool
	maxDelay time.Duration // 0: excess is rejected
	limits   []limiter.Limit
	names    []string
	first    int             // its place among the windows of all groups
	strict   bool            // every request is counted in the store
	shared   *cluster.Limits // nil where the bucket is this instance's alone
}

var (
	rejectExcess   = exchange.NewReject(429, "rate_limited", "too many requests; try again later")
	rejectDeadline = exchange.NewReject(504, "deadline_exceeded", "the deadline of the request passes before its turn comes")
)

func build(b *policy.Build, cs []*Config) (policy.Hooks, error) {
	if len(cs) > maxWindows {
		return policy.Hooks{}, errors.New("has more than " + strconv.Itoa(maxWindows) + " windows; a request should not have to pass so many")
	}
	for _, c := range cs {
		if c.Window != "" {
			return buildFixed(b, cs)
		}
	}
	names, err := nameWindows(cs)
	if err != nil {
		return policy.Hooks{}, err
	}
	l := &limit{limited: b.World.Metrics.RateLimited.With(b.World.Generation, b.Route.Name, "rate_limit")}
	if err := l.compile(b, cs, names); err != nil {
		return policy.Hooks{}, err
	}
	hooks := policy.Hooks{Request: l.request, Standing: l.standing}
	switch {
	case b.World.Shared():
		hooks.Request = l.requestShared
	case l.isSimple():
		hooks.Request = l.requestSimple
	}
	for i := range l.groups {
		g := &l.groups[i]
		hooks.Blocking = hooks.Blocking || g.maxDelay > 0 || g.shared != nil && g.shared.MayWait()
	}
	if b.World.DryRun {
		return hooks, nil
	}
	l.state, err = policy.LivingAs(b.World, "rate_limit", func() (*State, error) { return newState(), nil })
	if err != nil {
		return policy.Hooks{}, err
	}
	if s := b.World.Cluster; s != nil {
		l.cluster = s.Limiter()
		for i := range l.groups {
			b.World.Leases.Add(l.cluster.Register(l.groups[i].shared))
		}
	}
	b.World.Leases.Add(l.state.register(b.Scope, l.groups, l.cluster))
	return hooks, nil
}

// nameWindows names each window for the headers.
func nameWindows(cs []*Config) ([]string, error) {
	if len(cs) == 1 && cs[0].Name == "" {
		return []string{"default"}, nil
	}
	names := make([]string, 0, len(cs))
	for i, c := range cs {
		name := c.Name
		switch {
		case name != "":
			if slices.Contains(names, name) {
				return nil, errors.New(`has two windows named "` + name + `"; give each a name of its own`)
			}
		case !slices.Contains(names, config.FormatDuration(c.Per)):
			name = config.FormatDuration(c.Per)
		case !slices.Contains(names, config.FormatDuration(c.Per)+"-"+c.By):
			name = config.FormatDuration(c.Per) + "-" + c.By
		default:
			name = config.FormatDuration(c.Per) + "-" + strconv.Itoa(i)
		}
		names = append(names, name)
	}
	return names, nil
}

func (l *limit) compile(b *policy.Build, cs []*Config, names []string) error {
	for i, c := range cs {
		by, err := policy.ParseBy(c.By)
		if err != nil {
			panic("BUG: Validate let by " + c.By + " pass")
		}
		g := group{key: policy.Key{By: by}, cost: c.Cost, shadow: c.Shadow, strict: c.Mode == "strict" && b.World.Shared()}
		if c.Excess == "delay" {
			g.maxDelay = c.MaxDelay
		}
		at := slices.IndexFunc(l.groups, func(have group) bool {
			return have.key.By == by && have.cost == g.cost && have.shadow == g.shadow && have.maxDelay == g.maxDelay && have.strict == g.strict
		})
		if at < 0 {
			at = len(l.groups)
			l.groups = append(l.groups, g)
		}
		in := &l.groups[at]
		if len(in.limits) == limiter.MaxWindows {
			return errors.New("has more than " + strconv.Itoa(limiter.MaxWindows) + " windows by " + c.By + "; a request should not have to pass so many")
		}
		in.limits = append(in.limits, limiter.Limit{Requests: c.Requests, Per: c.Per, Burst: c.Burst})
		in.names = append(in.names, names[i])
	}
	slices.SortStableFunc(l.groups, func(a, b group) int { return order(a.shadow) - order(b.shadow) })
	var announced []string
	for i := range l.groups {
		g := &l.groups[i]
		// Groups by the same differ in cost or kind and need buckets of their own.
		n, more := 0, ""
		for j := range l.groups[:i] {
			if l.groups[j].key.By == g.key.By {
				n++
			}
		}
		if n > 0 {
			more = "#" + strconv.Itoa(n)
		}
		g.key = b.Key(g.key.By, more)
		if b.World.Shared() {
			g.sharedWith(g.limits, g.strict)
		}
		g.first = len(l.names)
		if g.shadow {
			continue
		}
		for j := range g.limits {
			l.names = append(l.names, `"`+g.names[j]+`"`)
			announced = append(announced, announce(g.names[j], &g.limits[j]))
		}
		l.windows = len(l.names)
	}
	if announced != nil {
		l.policy = []byte(strings.Join(announced, ", "))
	}
	return nil
}

func order(shadow bool) int {
	if shadow {
		return 1
	}
	return 0
}

// announce is a window in RateLimit-Policy. Its w is in whole seconds, so a shorter one counts as one second.
func announce(name string, l *limiter.Limit) string {
	return `"` + name + `";q=` + strconv.FormatInt(l.Requests, 10) + ";w=" + strconv.FormatInt(seconds(l.Per), 10)
}

// seconds rounds up, to at least 1.
func seconds(d time.Duration) int64 {
	return max(1, int64((d-1)/time.Second)+1)
}

// isSimple reports whether there is one window, and what is over it is refused.
func (l *limit) isSimple() bool {
	g := &l.groups[0]
	return len(l.groups) == 1 && len(g.limits) == 1 && !g.shadow && g.maxDelay == 0
}

// requestSimple is request of a block that isSimple, as most are.
func (l *limit) requestSimple(x *exchange.Exchange) error {
	g := &l.groups[0]
	key := x.Keep(g.key.Append(x.Scratch(), x))
	results := [1]limiter.Result{l.state.store.Take(x.Clock.Now(), key, g.limits[0], g.cost)}
	l.tell(x, results[:])
	if !results[0].Allowed {
		return l.refuse(x, results[:])
	}
	return nil
}

func (l *limit) request(x *exchange.Exchange) error {
	var results [maxWindows]limiter.Result
	now := x.Clock.Now()
	passed, wait := l.charge(x, now, &results)
	l.tell(x, results[:])
	if !passed {
		return l.refuse(x, results[:])
	}
	l.count(x, now)
	if wait > 0 {
		return l.delay(x, now, wait)
	}
	return nil
}

// tell tells the client where it stands.
func (l *limit) tell(x *exchange.Exchange, results []limiter.Result) {
	if l.policy != nil {
		x.ToClient.Set("RateLimit-Policy", l.policy)
		x.ToClient.Set("RateLimit", x.Keep(l.appendStanding(x.Scratch(), results[:l.windows])))
	}
}

func (l *limit) refuse(x *exchange.Exchange, results []limiter.Result) error {
	l.limited.Inc()
	var retry time.Duration
	for i := range results[:l.windows] {
		if r := &results[i]; !r.Allowed {
			retry = max(retry, r.RetryAfter)
		}
	}
	x.ToClient.Set("Retry-After", x.Keep(strconv.AppendInt(x.Scratch(), seconds(retry), 10)))
	return rejectExcess
}

// charge debits all groups that refuse, or none: where there is more than one, all are asked before the first is charged, and
// what was debited is given back if one of them refuses after all because another request came in between.
// Of a delayed request wait is how long, and it holds a place among the waiters.
func (l *limit) charge(x *exchange.Exchange, now int64, results *[maxWindows]limiter.Result) (passed bool, wait time.Duration) {
	groups := l.groups
	for len(groups) > 0 && groups[len(groups)-1].shadow {
		groups = groups[:len(groups)-1]
	}
	store := l.state.store
	passed = true
	if len(groups) > 1 {
		var key [policy.KeySize]byte
		for i := range groups {
			g := &groups[i]
			out := results[g.first : g.first+len(g.limits)]
			if !store.Peek(now, g.key.Append(key[:0], x), g.limits, g.cost, out) && !g.mayWait(out) {
				passed = false
			}
		}
		if !passed {
			return false, 0
		}
	}
	waits := false
	for i := range groups {
		g := &groups[i]
		out := results[g.first : g.first+len(g.limits)]
		var allowed bool
		switch {
		case g.maxDelay == 0:
			allowed = l.take(x, now, g, out)
		case waits:
			allowed = l.reserve(x, now, g, out)
		case l.take(x, now, g, out):
			allowed = true
		case l.state.waiters.Enter():
			waits = true
			allowed = l.reserve(x, now, g, out)
		}
		if !allowed {
			l.giveBack(x, now, groups[:i])
			if waits {
				l.state.waiters.Leave()
			}
			return false, 0
		}
		for j := range out {
			wait = max(wait, out[j].RetryAfter)
		}
	}
	if waits && wait == 0 {
		l.state.waiters.Leave()
	}
	return true, wait
}

// mayWait reports whether a request that a group has no tokens for would wait rather than be refused.
func (g *group) mayWait(out []limiter.Result) bool {
	for i := range out {
		if out[i].RetryAfter > g.maxDelay {
			return false
		}
	}
	return g.maxDelay > 0
}

func (l *limit) take(x *exchange.Exchange, now int64, g *group, out []limiter.Result) bool {
	var key [policy.KeySize]byte
	return l.state.store.TakeAll(now, g.key.Append(key[:0], x), g.limits, g.cost, out)
}

func (l *limit) reserve(x *exchange.Exchange, now int64, g *group, out []limiter.Result) bool {
	var key [policy.KeySize]byte
	return l.state.store.Reserve(now, g.key.Append(key[:0], x), g.limits, g.cost, g.maxDelay, out)
}

func (l *limit) giveBack(x *exchange.Exchange, now int64, groups []group) {
	for i := range groups {
		g := &groups[i]
		var key [policy.KeySize]byte
		l.state.store.Return(now, g.key.Append(key[:0], x), g.limits, g.cost)
	}
}

// count charges the shadows.
func (l *limit) count(x *exchange.Exchange, now int64) {
	for i := len(l.groups) - 1; i >= 0 && l.groups[i].shadow; i-- {
		var out [limiter.MaxWindows]limiter.Result
		if !l.take(x, now, &l.groups[i], out[:]) {
			l.limited.Inc()
		}
	}
}

// delay waits for the tokens that are debited already; a client that does not wait for them gives them back.
// Nor does one wait whose deadline passes before.
func (l *limit) delay(x *exchange.Exchange, now int64, wait time.Duration) error {
	defer l.state.waiters.Leave()
	var err error
	if at := x.Deadline(); at != 0 && at-now < int64(wait) {
		err = rejectDeadline
	} else {
		_, err = l.state.waiters.Wait(x, wait, nil)
	}
	if err != nil {
		for i := range l.groups {
			if l.groups[i].shadow {
				break
			}
			l.giveBack(x, now, l.groups[i:i+1])
		}
		return err
	}
	return nil
}

// appendStanding appends the value of RateLimit: what remains of each window, and the seconds until its bucket is full again.
func (l *limit) appendStanding(dst []byte, results []limiter.Result) []byte {
	for i := range results {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		r := &results[i]
		dst = append(dst, l.names[i]...)
		dst = append(dst, ";r="...)
		dst = strconv.AppendInt(dst, r.Remaining, 10)
		dst = append(dst, ";t="...)
		if r.Reset <= 0 {
			dst = append(dst, '0')
		} else {
			dst = strconv.AppendInt(dst, seconds(r.Reset), 10)
		}
	}
	return dst
}
