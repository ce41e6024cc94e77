// Package quota limits how many requests a caller may make in a day, a week, a month: in a period of the calendar of a timezone. It
// guarantees that never more pass in a period than its number, whatever the concurrency; that of several windows either all are
// charged or none; that counts outlive the configuration that named them; and that those of a durable quota outlive the process,
// but for the last second before it was killed.
package quota

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // timezones on machines that have no files of them

	"sluice/config"
	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config is one window of the policy `quota`: `requests` in each period of the calendar. Of several windows all have to have room. A
// request counts once it comes here, after `rate_limit`, whatever becomes of it. The client is told where it stands by
// `RateLimit-Policy` and `RateLimit`, behind what `rate_limit` says there; one over the quota gets 429, with Retry-After until the period ends.
type Config struct {
	// Name of the window in the headers. Default: `per`.
	Name string `yaml:"name"`
	// Requests in a period, in units of `weight`.
	Requests int64 `yaml:"requests" required:"true" min:"1" max:"1000000000000000"`
	// Per is the period. A week begins on Monday.
	Per string `yaml:"per" required:"true" enum:"hour|day|week|month|year"`
	// Timezone whose calendar it is, a name of the IANA database as Europe/Berlin. A day has 23, 24 or 25 hours there, as on its clocks.
	Timezone string `yaml:"timezone" default:"UTC"`
	// By says who shares a count: `consumer` (the consumer, else the authenticated subject, else the client address), `tenant` (without a tenant the client address), `ip` (IPv6 by its /64), `header:NAME`, `claim:NAME` (without that header or claim the client address), `route`, or `global` for all requests under this block. Callers of different tenants never share a count; those by `route` and `global` do, unless the block is of a consumer, a plan or a tenant.
	By string `yaml:"by" default:"consumer"`
	// Weight is how much of the quota a request takes.
	Weight int64 `yaml:"weight" default:"1" min:"1" max:"1000000000000"`
	// Durable counts outlive the process. They are kept in `state.dir`, without which this is refused. With `state.redis` all counts are in Redis, exact for all gateways together, each request waits for it, and this says nothing. They are written every second, and when the gateway ends: one that is killed forgets the last second. The others are in memory, and a restart forgets them.
	Durable bool `yaml:"durable"`
}

// Definition is the policy `quota`.
var Definition = policy.DefineList("quota", policy.Limit, build)

// Validate judges one window by itself.
func (c *Config) Validate() error {
	var errs []error
	if _, err := policy.ParseBy(c.By); err != nil {
		errs = append(errs, config.Errorf("by", "%v", err))
	}
	if c.Weight > c.Requests {
		errs = append(errs, config.Errorf("weight", "%d is more than the whole quota, which is %d; no request would pass", c.Weight, c.Requests))
	}
	if _, err := zone(c.Timezone); err != nil {
		errs = append(errs, config.Errorf("timezone", "%v", err))
	}
	if strings.ContainsFunc(c.Name, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		errs = append(errs, config.Errorf("name", "%q stands in a header; write visible ASCII characters without quotes and backslashes", c.Name))
	}
	return errors.Join(errs...)
}

func zone(name string) (*time.Location, error) {
	loc, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil, errors.New(strconv.Quote(name) + " is no timezone; write a name of the IANA database, as UTC or Europe/Berlin")
	}
	return loc, nil
}

// maxWindows bounds the windows of one block, so that their results fit on the stack.
const maxWindows = 4

// quota is a compiled block.
type quota struct {
	state   *State
	shared  *cluster.Store // nil where counts are this instance's alone
	windows []window
	limited *telemetry.Counter
}

// window is one compiled window.
type window struct {
	key      policy.Key
	name     string // with quotes
	requests int64
	weight   int64
	durable  bool
	calendar calendar
}

var rejectUsed = exchange.NewReject(429, "quota_exceeded", "the quota of this period is used up")

func build(b *policy.Build, cs []*Config) (policy.Hooks, error) {
	if len(cs) > maxWindows {
		return policy.Hooks{}, errors.New("has more than " + strconv.Itoa(maxWindows) + " windows; a request should not have to pass so many")
	}
	q := &quota{limited: b.World.Metrics.RateLimited.With(b.World.Generation, b.Route.Name, "quota"), windows: make([]window, len(cs))}
	if err := q.compile(b, cs); err != nil {
		return policy.Hooks{}, err
	}
	if b.World.Shared() {
		return q.buildShared(b)
	}
	dir := b.World.Config.State.Dir
	durable := slices.ContainsFunc(cs, func(c *Config) bool { return c.Durable })
	switch {
	case durable && dir == "":
		return policy.Hooks{}, policy.Wrong("durable", "needs state.dir, the folder in which counts outlive the process; set it, or write durable: false")
	case !durable && dir == "":
		b.Warnf("", "a restart forgets what was used; set state.dir and durable: true to keep it")
	case !durable:
		b.Warnf("", "a restart forgets what was used; write durable: true to keep it in state.dir")
	}
	hooks := policy.Hooks{Request: q.request, Standing: q.standing}
	if b.World.DryRun {
		return hooks, nil
	}
	var err error
	q.state, err = policy.LivingAs(b.World, "quota", func() (*State, error) { return newState(b.World.Clock, b.World.Log), nil })
	if err != nil {
		return policy.Hooks{}, err
	}
	if durable {
		if dir, err = filepath.Abs(dir); err == nil {
			_, err = policy.LivingAs(b.World, "quota/"+dir, func() (*Journal, error) { return openJournal(q.state, dir, b.World.Log) })
		}
		if err != nil {
			return policy.Hooks{}, config.Errors{b.World.Config.Errorf("state.dir", "durable quotas can not be kept here: %v", err)}
		}
	}
	b.World.Leases.Add(q.state.register(b.Scope, q.windows))
	return hooks, nil
}

// buildShared is for counts in the store that instances share, which outlive them as long as it keeps what it is given.
func (q *quota) buildShared(b *policy.Build) (policy.Hooks, error) {
	hooks := policy.Hooks{Request: q.requestShared, Standing: q.standing, Blocking: true}
	if b.World.DryRun {
		return hooks, nil
	}
	var err error
	q.state, err = policy.LivingAs(b.World, "quota", func() (*State, error) { return newState(b.World.Clock, b.World.Log), nil })
	if err != nil {
		return policy.Hooks{}, err
	}
	q.shared = b.World.Cluster
	if _, err = policy.LivingAs(b.World, fmt.Sprintf("quota/told/%p/%p", q.state, q.shared), func() (*teller, error) { return q.state.tellAt(q.shared), nil }); err != nil {
		return policy.Hooks{}, err
	}
	b.World.Leases.Add(q.state.register(b.Scope, q.windows))
	return hooks, nil
}

func (q *quota) compile(b *policy.Build, cs []*Config) error {
	var names, seen []string
	// What a consumer has used does not depend on the numbers of its block, as its scope does.
	lasting := *b
	if strings.HasPrefix(b.Scope, "consumers#") {
		lasting.Scope = "consumers"
	}
	for i, c := range cs {
		by, err := policy.ParseBy(c.By)
		if err != nil {
			panic("BUG: Validate let by " + c.By + " pass")
		}
		loc, err := policy.Once(b.World, "quota/zone/"+c.Timezone, func() (*time.Location, error) { return zone(c.Timezone) })
		if err != nil {
			panic("BUG: Validate let timezone " + c.Timezone + " pass")
		}
		id := "#" + c.Per + "@" + c.Timezone
		if slices.Contains(seen, by.String()+id) {
			return errors.New("has two windows per " + c.Per + " by " + c.By + "; keep the smaller one")
		}
		seen = append(seen, by.String()+id)
		name := c.Name
		if name == "" {
			name = c.Per
			if slices.Contains(names, name) {
				name += "-" + by.String()
			}
		}
		if slices.Contains(names, name) {
			return errors.New(`has two windows named "` + name + `"; give each a name of its own`)
		}
		names = append(names, name)
		q.windows[i] = window{
			key: lasting.Key(by, id), name: `"` + name + `"`, requests: c.Requests, weight: c.Weight, durable: c.Durable,
			calendar: calendar{unit: c.Per, loc: loc, announce: `"` + name + `";q=` + strconv.FormatInt(c.Requests, 10) + ";w="},
		}
	}
	return nil
}

func (q *quota) request(x *exchange.Exchange) error {
	var left [maxWindows]int64
	var periods [maxWindows]*period
	now := x.Arrived.Unix()
	failed := -1
	for i := range q.windows {
		w := &q.windows[i]
		periods[i] = w.calendar.at(now)
		var passed bool
		var key [policy.KeySize]byte
		// Behind a window that refuses the others are only looked at.
		left[i], passed = q.state.charge(w, w.key.Append(key[:0], x), periods[i], now, failed < 0)
		if !passed && failed < 0 {
			failed = i
		}
	}
	if failed >= 0 {
		for i := range failed {
			w := &q.windows[i]
			var key [policy.KeySize]byte
			left[i] = q.state.giveBack(w, w.key.Append(key[:0], x), periods[i])
		}
	}
	q.tell(x, &left, &periods, now)
	if failed < 0 {
		return nil
	}
	return q.refuse(x, &left, &periods, now)
}

func (q *quota) refuse(x *exchange.Exchange, left *[maxWindows]int64, periods *[maxWindows]*period, now int64) error {
	q.limited.Inc()
	var end int64
	for i := range q.windows {
		if left[i] < q.windows[i].weight {
			end = max(end, periods[i].end)
		}
	}
	x.ToClient.Set("Retry-After", x.Keep(strconv.AppendInt(x.Scratch(), max(1, end-now), 10)))
	return rejectUsed
}

// tell adds the windows to what rate_limit says of its own.
func (q *quota) tell(x *exchange.Exchange, left *[maxWindows]int64, periods *[maxWindows]*period, now int64) {
	dst := before(x, "RateLimit-Policy")
	for i := range q.windows {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, periods[i].announced...)
	}
	x.ToClient.Set("RateLimit-Policy", x.Keep(dst))
	dst = before(x, "RateLimit")
	for i := range q.windows {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(append(dst, q.windows[i].name...), ";r="...)
		dst = strconv.AppendInt(dst, left[i], 10)
		dst = strconv.AppendInt(append(dst, ";t="...), max(0, periods[i].end-now), 10)
	}
	x.ToClient.Set("RateLimit", x.Keep(dst))
}

// before begins the value of a header behind the one that is there.
func before(x *exchange.Exchange, name string) []byte {
	dst := x.Scratch()
	if v, _ := x.ToClient.Value(name); len(v) > 0 {
		dst = append(append(dst, v...), ", "...)
	}
	return dst
}
