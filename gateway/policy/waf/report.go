package waf

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/corazawaf/coraza/v3/types"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// report counts and tells what one place of the policy found.
type report struct {
	log        *slog.Logger
	clock      *exchange.Clock
	metrics    *telemetry.Metrics
	generation *telemetry.Generation
	route      string

	passed, detected, blocked, tooLarge *telemetry.Counter

	mu      sync.RWMutex
	matches map[int]*telemetry.Counter // by rule, of which there are as many as are configured

	logged     atomic.Int64 // when the last line was written
	suppressed atomic.Int64
}

// logEvery is how often one place may write to the operator log.
const logEvery = int64(time.Second)

func newReport(b *policy.Build) *report {
	r := &report{
		log: b.World.Log, clock: b.World.Clock, metrics: b.World.Metrics, generation: b.World.Generation, route: b.Route.Name,
		matches: make(map[int]*telemetry.Counter),
	}
	result := func(name string) *telemetry.Counter { return r.metrics.WAFRequests.With(r.generation, r.route, name) }
	r.passed, r.detected, r.blocked, r.tooLarge = result("passed"), result("detected"), result("blocked"), result("too_large")
	return r
}

// collect takes over the matches that are new.
func (f *firewall) collect(st *state, x *exchange.Exchange) {
	rules := st.tx.MatchedRules()
	found := false
	for _, m := range rules[st.seen:] {
		id := m.Rule().ID()
		if f.detect && f.rules.blocking[id] {
			st.blocked = true
		}
		if !reportable(m) {
			continue
		}
		f.report.counter(id).Inc()
		st.hits = append(st.hits, id)
		found = true
	}
	st.seen = len(rules)
	if found {
		f.report.tell(st, x)
	}
}

// reportable tells a rule that found something from those that prepare, score and sum up.
func reportable(m types.MatchedRule) bool {
	if l, ok := m.(interface{ Log() bool }); ok && !l.Log() {
		return false
	}
	switch id := m.Rule().ID(); id / 1000 {
	case 900, 901, 905, 949, 959, 980, 999:
		return false
	default:
		return id > 0 && id < generatedID
	}
}

func (r *report) counter(rule int) *telemetry.Counter {
	r.mu.RLock()
	c := r.matches[rule]
	r.mu.RUnlock()
	if c != nil {
		return c
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c = r.matches[rule]; c == nil {
		c = r.metrics.WAFMatches.With(r.generation, r.route, strconv.Itoa(rule))
		r.matches[rule] = c
	}
	return c
}

// count counts the request once.
func (r *report) count(st *state) {
	switch {
	case st.counted || !st.whole && !st.blocked:
	case !st.blocked:
		r.passed.Inc()
	case st.f.detect:
		r.detected.Inc()
	default:
		r.blocked.Inc()
	}
	st.counted = true
}

// tell writes to the operator log what was found, by numbers alone, and at a bounded rate.
func (r *report) tell(st *state, x *exchange.Exchange) {
	now := r.clock.Now()
	last := r.logged.Load()
	if last != 0 && now-last < logEvery || !r.logged.CompareAndSwap(last, now) {
		r.suppressed.Add(1)
		return
	}
	level := slog.LevelInfo
	if st.blocked {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "waf: rules matched", "route", r.route, "rules", reason("", st.hits), "blocked", st.blocked && !st.f.detect,
		"client", x.ClientAddr.String(), "request_id", string(x.RequestID), "suppressed", r.suppressed.Swap(0))
}

// maxListed bounds the rules that a reason names.
const maxListed = 8

// reason is a word, and the rules behind it.
func reason(word string, hits []int) string {
	b := []byte(word)
	for i, id := range hits {
		switch {
		case i == maxListed:
			return string(append(b, ",…"...))
		case i > 0:
			b = append(b, ',')
		case word != "":
			b = append(b, ':')
		}
		b = strconv.AppendInt(b, int64(id), 10)
	}
	return string(b)
}
