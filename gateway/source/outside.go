package source

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"sluice/config"
)

// Watch is one part of what a source outside tells, as the HTTPRoutes of a namespace.
type Watch struct {
	// Name of the watch, which is no other's.
	Name string
	// Source it belongs to, by its name in the configuration.
	Source string
	// Identity stands for its settings: with others it begins anew.
	Identity string
	// Where says in a few words what is watched, without secrets.
	Where string
	// Run calls tell with all objects, by the name that stands in errors, each time that it hears of them, changed or not. It
	// returns when ctx is done, or with what went wrong; then it is called again after a pause.
	Run func(ctx context.Context, tell func(map[string]config.Object)) error
}

// maxObjects bounds what one watch may tell; of more nothing is taken.
const maxObjects = 10_000

// Outside keeps what sources outside of the configuration have told last. Its guarantee: a source that fails changes
// nothing, and what has not changed is not told. Its methods may be called from any goroutine.
type Outside struct {
	log     *slog.Logger
	changed chan struct{}
	// quiet is how long nothing must follow a change until it counts as complete, patience after which it is taken as it is.
	quiet, patience time.Duration

	mu      sync.Mutex
	seeds   map[string]config.Object
	watches map[string]*following
}

// following is a watch that runs.
type following struct {
	Watch
	cancel context.CancelFunc
	first  chan struct{} // closed once the watch has told something or failed
	// What follows is guarded by the mutex of Outside.
	objects  map[string]config.Object
	answered bool
	stored   bool      // objects are not this watch's own
	lost     time.Time // since when objects are not confirmed; zero while they are
	status   Status
}

// Status is what operators want to know of a watch.
type Status struct {
	Source string `json:"source"`
	// Watch is its name, Where what is watched.
	Watch string `json:"watch"`
	Where string `json:"where"`
	// Objects is how many it has; Stored tells that they are those of before, and not confirmed yet.
	Objects int  `json:"objects"`
	Stored  bool `json:"stored,omitempty"`
	// Updated is when they changed last, Confirmed when they were last heard of.
	Updated   *time.Time `json:"updated,omitempty"`
	Confirmed *time.Time `json:"confirmed,omitempty"`
	// Failures are counted since the watch began.
	Failures uint64 `json:"failures"`
	// LastError is what went wrong last, also when all is well again; Failing tells whether it is not.
	LastError   string     `json:"last_error,omitempty"`
	LastErrorAt *time.Time `json:"last_error_at,omitempty"`
	Failing     bool       `json:"failing"`
}

// State says in a few words whether what the source tells is in force.
func (s *Status) State() string {
	switch {
	case !s.Failing && s.Confirmed != nil:
		return "ok"
	case s.Confirmed != nil:
		return "can not be asked; what it told last stays in force"
	case s.Stored:
		return "was not asked yet; what it told before this start is in force"
	}
	return "has told nothing yet; its routes are missing"
}

// NewOutside returns an Outside that watches nothing.
func NewOutside(log *slog.Logger) *Outside {
	return &Outside{
		log: log, changed: make(chan struct{}, 1), quiet: 100 * time.Millisecond, patience: time.Second,
		watches: make(map[string]*following),
	}
}

// Seed gives watches what they begin with, until they have told something themselves.
func (o *Outside) Seed(objects map[string]config.Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seeds = objects
}

// Configure has these watches run and no others. One that goes on under other settings keeps what it has until it has told
// something. It returns how many are new.
func (o *Outside) Configure(watches []Watch) (added int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wanted := make(map[string]bool, len(watches))
	for _, w := range watches {
		wanted[w.Name] = true
		before := o.watches[w.Name]
		if before != nil && before.Identity == w.Identity {
			continue
		}
		next := &following{Watch: w, first: make(chan struct{}), lost: time.Now()}
		next.status = Status{Source: w.Source, Watch: w.Name, Where: w.Where}
		if before != nil {
			before.cancel()
			next.objects = before.objects
		} else {
			next.objects = make(map[string]config.Object)
			for name, object := range o.seeds {
				if object.Watch == w.Name {
					next.objects[name] = object
				}
			}
		}
		next.stored = len(next.objects) > 0
		var ctx context.Context
		ctx, next.cancel = context.WithCancel(context.Background())
		o.watches[w.Name] = next
		added++
		go o.run(ctx, next)
	}
	for name, w := range o.watches {
		if !wanted[name] {
			w.cancel()
			delete(o.watches, name)
		}
	}
	o.seeds = nil
	return added
}

// Close ends all watches.
func (o *Outside) Close() { o.Configure(nil) }

// Await waits until every watch has told something or failed, or ctx is done.
func (o *Outside) Await(ctx context.Context) {
	o.mu.Lock()
	all := slices.Collect(maps.Values(o.watches))
	o.mu.Unlock()
	for _, w := range all {
		select {
		case <-w.first:
		case <-ctx.Done():
			return
		}
	}
	// What was told until now is what the caller takes.
	select {
	case <-o.changed:
	default:
	}
}

// Objects are all that sources have told.
func (o *Outside) Objects() map[string]config.Object {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string]config.Object)
	for _, w := range o.watches {
		maps.Copy(all, w.objects)
	}
	return all
}

// Status tells how the watches do, in the order of their names.
func (o *Outside) Status() []Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make([]Status, 0, len(o.watches))
	for _, name := range slices.Sorted(maps.Keys(o.watches)) {
		w := o.watches[name]
		s := w.status
		s.Objects, s.Stored = len(w.objects), w.stored
		all = append(all, s)
	}
	return all
}

// Age is for how long what a watch has told is not confirmed, 0 while it is.
func (o *Outside) Age(watch string) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watches[watch]; w != nil && !w.lost.IsZero() {
		return time.Since(w.lost)
	}
	return 0
}

// restTimes bounds the part of a processor that changes may take, longestRest how late one may come for it: what sources
// tell is not the operator's, and many routes take seconds to be put in force.
const (
	restTimes   = 3
	longestRest = 15 * time.Second
)

// Follow calls changed after what sources tell has become another, and returns when ctx is done. A burst of changes is told
// once, when it is over; after each there is a rest, a few times as long as changed took.
func (o *Outside) Follow(ctx context.Context, changed func()) {
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	defer settle.Stop()
	var since time.Time // of the first change that was not told, zero for none
	var rested time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
			if since.IsZero() {
				since = time.Now()
			}
			settle.Reset(max(0, min(o.quiet, o.patience-time.Since(since)), time.Until(rested)))
		case <-settle.C:
			since = time.Time{}
			began := time.Now()
			changed()
			ended := time.Now()
			rested = ended.Add(min(restTimes*ended.Sub(began), longestRest))
		}
	}
}

func (o *Outside) run(ctx context.Context, w *following) {
	pause := firstPause
	for {
		heard := false
		err := w.Run(ctx, func(objects map[string]config.Object) {
			heard = true
			o.take(ctx, w, objects)
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
		o.fail(ctx, w, err, wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		pause = min(2*pause, lastPause)
	}
}

// take keeps what a watch has told.
func (o *Outside) take(ctx context.Context, w *following, objects map[string]config.Object) {
	if len(objects) > maxObjects {
		o.fail(ctx, w, errors.New("the source has more than 10,000 objects, of which none is taken"), 0)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil {
		return // another one has taken its place
	}
	now := time.Now()
	w.status.Confirmed, w.lost, w.stored = &now, time.Time{}, false
	if w.status.Failing {
		w.status.Failing = false
		o.log.Info("the source of routes answers again", "source", w.Source, "where", w.Where)
	}
	date(objects, w.objects, now)
	if !maps.EqualFunc(w.objects, objects, config.Object.Same) {
		w.objects, w.status.Updated = objects, &now
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
	w.answer()
}

// date gives objects whose source does not tell their age that of when they were heard of first: what comes later must not
// take the requests of what is there.
func date(objects, before map[string]config.Object, now time.Time) {
	since := now.UTC().Format(time.RFC3339)
	for name, object := range objects {
		if object.Since != "" {
			continue
		}
		if object.Since = since; before[name].Source != "" {
			object.Since = before[name].Since
		}
		objects[name] = object
	}
}

func (o *Outside) fail(ctx context.Context, w *following, err error, pause time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	level := slog.LevelWarn
	if w.status.Failing && w.status.LastError == err.Error() {
		level = slog.LevelDebug
	}
	w.status.Failures++
	w.status.LastError, w.status.LastErrorAt, w.status.Failing = err.Error(), &now, true
	if w.lost.IsZero() {
		w.lost = now
	}
	attrs := []any{"source", w.Source, "where", w.Where, "error", err.Error(), "objects", len(w.objects)}
	if pause > 0 {
		attrs = append(attrs, "retry_in", pause.Round(time.Millisecond).String())
	}
	message := "the source of routes can not be asked; what it told last stays in force"
	if w.status.Confirmed == nil && !w.stored {
		message = "the source of routes can not be asked, and has told nothing yet; its routes are missing"
	}
	o.log.Log(ctx, level, message, attrs...)
	w.answer()
}

func (w *following) answer() {
	if !w.answered {
		w.answered = true
		close(w.first)
	}
}
