package split

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// State is the living part of a split: its weights, and the rollout that moves them. All methods may be called concurrently.
type State struct {
	route   string
	members []string
	log     *slog.Logger
	clock   *exchange.Clock

	table  atomic.Pointer[table]
	counts *counts // nil without a rollout
	file   string  // in state.dir; "" without one
	block  string  // a digest of the settings

	mu          sync.Mutex
	version     uint64
	source      string // who set the weights: file, admin or rollout
	changed     time.Time
	rollout     *rollout // nil without one
	transitions map[string]*telemetry.Counter

	// generations in which it is in force; the ticker runs while there are any.
	users   int
	stop    chan struct{}
	stopped chan struct{}
}

// versions number what weights and rollouts have been, in the whole process.
var versions atomic.Uint64

// holder is what lives under a route's name: the State of the block that is in force.
type holder struct {
	mu      sync.Mutex
	block   string
	current *State
}

// fresh tells whether no block of the route has been in force in this process: only then what an earlier process left counts.
func (h *holder) fresh() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current == nil
}

// lease is a generation's hold on a State.
type lease struct {
	holder *holder
	block  string
	state  *State
	begun  bool
}

// livingOf returns the State of a split: that of the generation in force if its block is the same, else a new one, which takes its
// place when this generation comes into force.
func livingOf(b *action.Build, c *Config) (*lease, error) {
	h, err := policy.LivingAs(b.World, "split/"+b.Route.Name, func() (*holder, error) { return &holder{}, nil })
	if err != nil {
		return nil, err
	}
	l := &lease{holder: h, block: fmt.Sprintf("%+v", *c)}
	h.mu.Lock()
	if h.current != nil && h.block == l.block {
		l.state = h.current
	}
	h.mu.Unlock()
	if l.state == nil {
		l.state = newState(b, c)
		if dir := b.World.Config.State.Dir; dir != "" {
			l.state.file, l.state.block = keepIn(dir, b.Route.Name), digest(l.block)
			if h.fresh() {
				l.state.restore()
			}
		}
	}
	l.state.measure(b.World)
	return l, nil
}

// start puts the State in force.
func (l *lease) start() {
	l.holder.mu.Lock()
	l.holder.current, l.holder.block = l.state, l.block
	l.holder.mu.Unlock()
	l.begun = true
	l.state.start()
}

// stop ends what start began.
func (l *lease) stop() {
	if l.begun {
		l.begun = false
		l.state.end()
	}
}

func newState(b *action.Build, c *Config) *State {
	s := &State{route: b.Route.Name, log: b.World.Log, clock: b.World.Clock, source: "file", version: versions.Add(1)}
	s.changed = s.clock.Time()
	weights := make([]int, len(c.Services))
	for i, m := range c.Services {
		s.members = append(s.members, m.Service)
		weights[i] = m.Weight
	}
	if !c.Rollout.Off {
		s.counts = newCounts()
		s.rollout = newRollout(c, s.counts)
		s.rollout.changed = s.changed
		s.source, weights = "rollout", s.rollout.weights()
	}
	s.table.Store(newTable(weights))
	return s
}

// measure leases the State's series for a generation.
func (s *State) measure(w *policy.World) {
	m, g := w.Metrics, w.Generation
	for i, member := range s.members {
		m.SplitShare.With(g, func() float64 { return s.table.Load().share(i) }, s.route, member)
	}
	if s.counts == nil {
		return
	}
	locked := func(f func() float64) func() float64 {
		return func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return f()
		}
	}
	m.RolloutStep.With(g, locked(func() float64 { return float64(s.rollout.number()) }), s.route)
	m.RolloutState.With(g, locked(func() float64 { return float64(s.rollout.state) }), s.route)
	counters := make(map[string]*telemetry.Counter)
	for _, to := range transitions {
		counters[to] = m.RolloutTransitions.With(g, s.route, to)
	}
	s.mu.Lock()
	s.transitions = counters
	s.mu.Unlock()
}

// start has the rollout go on, or begin.
func (s *State) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users > 1 {
		return
	}
	if s.rollout == nil {
		s.keep() // in the place of what another block has left
		return
	}
	switch r := s.rollout; {
	case r.since != 0:
	case r.restored:
		// What the step has seen is forgotten: it is watched for its whole time again.
		r.enter(r.step, s.clock.Now())
		s.log.Info("rollout", "route", s.route, "service", s.members[len(s.members)-1], "event", "restored", "state", r.state.String(), "step", r.number(), "of", len(r.Steps), "weights", s.table.Load().String())
	default:
		r.enter(0, s.clock.Now())
		s.note("started")
	}
	s.stop, s.stopped = make(chan struct{}), make(chan struct{})
	go s.watch(s.stop, s.stopped, min(s.rollout.Window/4, time.Second))
}

// end gives the State up; with the last user the ticker ends.
func (s *State) end() {
	s.mu.Lock()
	s.users--
	stop, stopped := s.stop, s.stopped
	if s.users > 0 || stop == nil {
		s.mu.Unlock()
		return
	}
	s.stop = nil
	s.mu.Unlock()
	close(stop)
	<-stopped
}

// watch looks at the rollout every so often. Its time is the gateway's, only the pace is the ticker's.
func (s *State) watch(stop, stopped chan struct{}, pace time.Duration) {
	defer close(stopped)
	t := time.NewTicker(pace)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			s.evaluate(s.clock.Now())
		}
	}
}

// evaluate takes the rollout on, or back.
func (s *State) evaluate(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rollout
	if !r.active() {
		return
	}
	switch v, why := r.judge(now); {
	case v == bad:
		r.state, r.reason = rolledBack, why
		s.move("rolled_back")
	case v == good && r.state == running && r.due(now):
		s.advance(now)
	}
}

// advance goes to the next step, or completes the rollout after the last.
func (s *State) advance(now int64) {
	r := s.rollout
	if r.step+1 == len(r.Steps) {
		r.state = complete
		s.move("complete")
		return
	}
	r.enter(r.step+1, now)
	s.move("advanced")
}

// move puts the rollout's weights in force, and tells.
func (s *State) move(to string) {
	s.source = "rollout"
	s.set(s.rollout.weights())
	s.note(to)
}

func (s *State) set(weights []int) {
	s.table.Store(newTable(weights))
	s.version, s.changed = versions.Add(1), s.clock.Time()
}

// note counts and logs what happened to the rollout.
func (s *State) note(to string) {
	r := s.rollout
	r.changed = s.clock.Time()
	s.version = versions.Add(1)
	s.transitions[to].Inc()
	level := slog.LevelInfo
	attrs := []any{"route", s.route, "service", s.members[len(s.members)-1], "event", to, "state", r.state.String(), "step", r.number(), "of", len(r.Steps), "weights", s.table.Load().String()}
	if r.reason != "" {
		level = slog.LevelWarn
		attrs = append(attrs, "reason", r.reason)
	}
	s.log.Log(context.Background(), level, "rollout", attrs...)
	s.keep()
}

// View is a split as operators see it.
type View struct {
	Services []MemberView `json:"services"`
	// Source says who set the weights: the file, the admin API or the rollout.
	Source  string       `json:"source"`
	Since   time.Time    `json:"since"`
	Rollout *RolloutView `json:"rollout,omitempty"`
}

// MemberView is one service with its weight.
type MemberView struct {
	Service string  `json:"service"`
	Weight  int     `json:"weight"`
	Share   float64 `json:"share"`
}

// View implements action.Live.
func (s *State) View() any {
	v, _ := s.Look()
	return v
}

// Look returns the view with the number of its version.
func (s *State) Look() (View, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.look(), s.version
}

func (s *State) look() View {
	t := s.table.Load()
	v := View{Source: s.source, Since: s.changed}
	for i, member := range s.members {
		v.Services = append(v.Services, MemberView{member, t.weights[i], t.share(i)})
	}
	if s.rollout != nil {
		v.Rollout = s.rollout.view()
	}
	return v
}
