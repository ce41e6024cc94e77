package discovery

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"sluice/gateway/telemetry"
)

// Settings of a Watcher.
type Settings struct {
	// Service whose endpoints are found, and Kind, the name of the source.
	Service, Kind string
	Source        Source
	// MaxLoss is the share of the endpoints, 0 to 1, that a new set may lack; AcceptAfter how long one that lacks more has
	// to stand until it is believed all the same, 0 for ever.
	MaxLoss     float64
	AcceptAfter time.Duration
	// Seed are endpoints to begin with, of a source with other settings that is given up for this one.
	Seed []Endpoint
	// Store is the file that keeps the last good set over a restart, "" for none; Identity tells whose it is.
	Store, Identity string
	Log             *slog.Logger
	// Metrics counts; nil for nobody.
	Metrics *telemetry.Metrics
}

// Pauses after a failure; they double, and each is drawn from the upper half of what it may be, so that gateways which
// lost the same source do not come back to it together.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 30 * time.Second
)

// Watcher follows one source for one service. It outlives configurations that do not change its settings. Make one with
// NewWatcher, start it with Start, end it with Close.
type Watcher struct {
	s      Settings
	cancel context.CancelFunc
	done   sync.WaitGroup
	first  chan struct{} // closed once the source has answered or failed

	generation *telemetry.Generation
	updates    *telemetry.Counter
	refusals   *telemetry.Counter
	failures   *telemetry.Counter

	mu          sync.Mutex // of all below; held while subscribers are told, so that each hears all in order
	good        []Endpoint // in force, tidy
	known       bool       // good was found, stored, or taken over
	foreign     bool       // good was found by another source
	refused     []Endpoint // what is not believed, nil for nothing
	timer       *time.Timer
	status      Status
	lost        time.Time // since when good is not confirmed; zero while it is
	answered    bool
	closed      bool
	subscribers []*subscriber
}

type subscriber struct{ found func([]Endpoint) }

// Status is what operators want to know of a source.
type Status struct {
	// Source is its kind, Where what is watched.
	Source string `json:"source"`
	Where  string `json:"where"`
	// Endpoints is how many are in force; Stored tells that they are those of an earlier process, or of a source with other
	// settings, and that this one has not confirmed them yet.
	Endpoints int  `json:"endpoints"`
	Stored    bool `json:"stored,omitempty"`
	// Updated is when the endpoints changed last, Confirmed when the source was last heard to have them.
	Updated   *time.Time `json:"updated,omitempty"`
	Confirmed *time.Time `json:"confirmed,omitempty"`
	// Updates, Refusals and Failures are counted since the watch began.
	Updates  uint64 `json:"updates"`
	Refusals uint64 `json:"refusals"`
	Failures uint64 `json:"failures"`
	// LastError is what went wrong last, also when all is well again; Failing tells whether it is not.
	LastError   string     `json:"last_error,omitempty"`
	LastErrorAt *time.Time `json:"last_error_at,omitempty"`
	Failing     bool       `json:"failing"`
	// Refused says which set of the source is not believed.
	Refused string `json:"refused,omitempty"`
}

// NewWatcher returns a Watcher that asks nobody yet; it knows what its store has.
func NewWatcher(s Settings) *Watcher {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{s: s, first: make(chan struct{})}
	w.status = Status{Source: s.Kind, Where: s.Source.Where()}
	w.lost = time.Now()
	if s.Store != "" {
		w.load()
	}
	if len(s.Seed) > 0 {
		w.good, w.known, w.foreign, w.status.Stored = s.Seed, true, true, true
	}
	return w
}

// Known returns the endpoints in force.
func (w *Watcher) Known() []Endpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.good
}

// Start begins to watch.
func (w *Watcher) Start() {
	w.measure()
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.done.Go(func() { w.run(ctx) })
}

func (w *Watcher) measure() {
	m := w.s.Metrics
	if m == nil {
		return
	}
	w.generation = m.Begin()
	labels := []string{w.s.Service, w.s.Kind}
	w.updates = m.DiscoveryUpdates.With(w.generation, w.s.Service, w.s.Kind, "applied")
	w.refusals = m.DiscoveryUpdates.With(w.generation, w.s.Service, w.s.Kind, "refused")
	w.failures = m.DiscoveryFailures.With(w.generation, labels...)
	m.DiscoveryAge.With(w.generation, func() float64 { return w.age().Seconds() }, labels...)
	m.DiscoveryEndpoints.With(w.generation, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(len(w.good))
	}, labels...)
}

// age is for how long the endpoints in force have not been confirmed, 0 while they are.
func (w *Watcher) age() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost.IsZero() {
		return 0
	}
	return time.Since(w.lost)
}

// Close ends the watch. Nobody is told of anything afterwards.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	if w.cancel != nil {
		w.cancel()
	}
	w.done.Wait()
	if w.generation != nil {
		w.generation.Close()
	}
}

// Answered is closed once the source has answered or failed.
func (w *Watcher) Answered() <-chan struct{} { return w.first }

// Subscribe has found called with the set in force, at once if there is one, and with each that follows, in order and
// one at a time, until cancel has returned. The set must not be changed.
func (w *Watcher) Subscribe(found func([]Endpoint)) (cancel func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &subscriber{found}
	w.subscribers = append(w.subscribers, s)
	if w.known {
		found(w.good)
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.subscribers = slices.DeleteFunc(w.subscribers, func(o *subscriber) bool { return o == s })
	}
}

// Status tells how the source does.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	s.Endpoints = len(w.good)
	return s
}

func (w *Watcher) run(ctx context.Context) {
	pause := firstPause
	for {
		heard := false
		err := w.s.Source.Watch(ctx, func(set []Endpoint, err error) {
			if err != nil {
				w.fail(err, 0)
				return
			}
			heard = true
			w.offer(set)
		})
		if ctx.Err() != nil {
			return
		}
		if heard {
			pause = firstPause
		}
		if err == nil {
			err = errors.New("the source ended its answer")
		}
		wait := pause/2 + rand.N(pause/2)
		w.fail(err, wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		pause = min(2*pause, lastPause)
	}
}

// fail notes that the source can not be asked, or makes no sense; pause is the time until it is asked again, 0 where it
// goes on by itself.
func (w *Watcher) fail(err error, pause time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	defer w.answer()
	now := time.Now()
	repeated := w.status.Failing && w.status.LastError == err.Error()
	w.status.Failures++
	w.status.LastError, w.status.LastErrorAt, w.status.Failing = err.Error(), &now, true
	if w.lost.IsZero() {
		w.lost = now
	}
	if w.failures != nil {
		w.failures.Inc()
	}
	level := slog.LevelWarn
	if repeated {
		level = slog.LevelDebug
	}
	attrs := []any{"error", err.Error(), "endpoints", len(w.good)}
	if pause > 0 {
		attrs = append(attrs, "retry_in", pause.Round(time.Millisecond).String())
	}
	w.log(level, "discovery: the source does not tell the endpoints; the last known ones stay in force", attrs...)
}

// offer takes a set of the source, if it is believed.
func (w *Watcher) offer(set []Endpoint) {
	set, more := tidy(set)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	defer w.answer()
	if w.status.Failing {
		w.status.Failing = false
		w.log(slog.LevelInfo, "discovery: the source answers again")
	}
	switch {
	case w.doubtful(set):
		w.refuse(set)
		return
	case w.known && !w.status.Stored && slices.Equal(set, w.good):
		w.confirm()
		return
	}
	if more > 0 {
		w.log(slog.LevelError, "discovery: the source has more endpoints than are used", "used", maxEndpoints, "left_out", more)
	}
	w.take(set)
}

// doubtful tells whether too much is missing from a set. What another source had found says nothing about how many there
// are to be, but that there are any.
func (w *Watcher) doubtful(set []Endpoint) bool {
	missing := len(w.good) - len(set)
	if w.foreign && len(set) > 0 {
		return false
	}
	return w.known && missing > 0 && (len(set) == 0 && w.s.MaxLoss < 1 || float64(missing) > w.s.MaxLoss*float64(len(w.good))+1e-9)
}

// refuse stays with the last good set. One that is not empty is taken when it has stood long enough; a source that only
// tells of changes will not say it again.
func (w *Watcher) refuse(set []Endpoint) {
	now := time.Now()
	if w.refused == nil {
		if w.s.AcceptAfter > 0 {
			w.timer = time.AfterFunc(w.s.AcceptAfter, w.overdue)
		}
	} else if slices.Equal(w.refused, set) {
		return
	}
	w.refused = slices.Clone(set)
	if w.refused == nil {
		w.refused = []Endpoint{}
	}
	if w.lost.IsZero() {
		w.lost = now
	}
	w.status.Refusals++
	if w.refusals != nil {
		w.refusals.Inc()
	}
	what := "a set of " + list(addresses(set)) + " that lacks too many endpoints"
	if len(set) == 0 {
		what = "an empty set"
	}
	w.status.Refused = what
	w.log(slog.LevelError, "discovery: refused "+what+"; the last known endpoints stay in force",
		"endpoints", len(w.good), "offered", len(set), "max_loss", w.s.MaxLoss, "accept_after", w.s.AcceptAfter.String())
}

// overdue takes the set that was refused, if it still stands.
func (w *Watcher) overdue() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed || w.refused == nil:
	case len(w.refused) == 0 || w.status.Failing:
		w.timer = time.AfterFunc(w.s.AcceptAfter, w.overdue)
	default:
		w.log(slog.LevelError, "discovery: the set that was refused has stood for accept_after and is taken now", "endpoints", len(w.refused))
		w.take(w.refused)
	}
}

// take puts a set in force.
func (w *Watcher) take(set []Endpoint) {
	came, went := difference(w.good, set)
	now := time.Now()
	changed := !slices.Equal(w.good, set) || !w.known
	w.good, w.known, w.foreign, w.status.Stored = set, true, false, false
	w.confirm()
	if !changed {
		return
	}
	w.status.Updates++
	w.status.Updated = &now
	if w.updates != nil {
		w.updates.Inc()
	}
	w.log(slog.LevelInfo, "discovery: endpoints", "endpoints", len(set), "came", list(came), "went", list(went))
	for _, s := range w.subscribers {
		s.found(set)
	}
	if w.s.Store != "" {
		w.save()
	}
}

// confirm notes that the source has what is in force.
func (w *Watcher) confirm() {
	now := time.Now()
	w.status.Confirmed, w.lost = &now, time.Time{}
	w.refused, w.status.Refused = nil, ""
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// answer tells those who wait for the first word of the source.
func (w *Watcher) answer() {
	if !w.answered {
		w.answered = true
		close(w.first)
	}
}

func (w *Watcher) log(level slog.Level, message string, attrs ...any) {
	w.s.Log.Log(context.Background(), level, message, append([]any{"service", w.s.Service, "source", w.s.Kind, "where", w.status.Where}, attrs...)...)
}

func addresses(set []Endpoint) []string {
	all := make([]string, len(set))
	for i, e := range set {
		all[i] = e.Address
	}
	return all
}
