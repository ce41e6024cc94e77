// Package gateway is the gateway as a whole: it takes configurations, compiles
// each into a snapshot, publishes it atomically, and serves with it on the
// listeners it names. It is the one place that knows everything.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/acme"
	"sluice/gateway/chain"
	"sluice/gateway/exchange"
	"sluice/gateway/handover"
	"sluice/gateway/ledger"
	"sluice/gateway/lifetime"
	"sluice/gateway/listener"
	"sluice/gateway/policy"
	"sluice/gateway/snapshot"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/usage"
	"sluice/gateway/wswire"
)

// Options of a gateway. Registry is required.
type Options struct {
	// Registry are the policies and actions to compile with.
	Registry *snapshot.Registry
	// Log is the operator log; default: none.
	Log *slog.Logger
	// Version and Commit name the build.
	Version, Commit string
	// Resolve maps host:port of endpoints to other addresses.
	Resolve map[string]string
	// DrainDelay is how long a draining gateway goes on accepting, DrainTimeout
	// how long it waits for what is in flight after that.
	DrainDelay, DrainTimeout time.Duration
	// Sockets are those that the process was started with; default: none.
	Sockets *handover.Sockets
	// Now replaces the clock in tests.
	Now func() time.Time
}

// Gateway serves. Make one with New, give it a configuration with Apply.
type Gateway struct {
	o       Options
	log     *slog.Logger
	faults  *telemetry.Limited
	clock   *exchange.Clock
	pool    *exchange.Pool
	metrics *telemetry.Metrics
	living  *lifetime.Pool[string, any]
	sweeper *upstream.Sweeper

	current  atomic.Pointer[generation]
	draining atomic.Bool
	left     atomic.Bool // another process has the sockets
	started  time.Time

	mu      sync.Mutex // Apply and Shutdown
	servers map[string]*listener.Server
	signers map[source]*acme.Authority         // that keep certificates
	open    atomic.Pointer[[]*listener.Server] // servers by address, for views that must not wait for mu
	failure atomic.Pointer[reloadFailure]
	noted   atomic.Pointer[noted]
	history history
	tried   []string // the files that configurations refer to which were tried since Files was asked; with mu
	stop    chan struct{}
	chores  sync.WaitGroup
	repeats repeats
	usage   *usage.Counter
	recent  usage.Recent
	flush   chan chan struct{} // has usage collected at once

	// worlds are those of the generations that the garbage collector has not
	// taken yet: what they lease ends with the gateway at the latest.
	worldsMu sync.Mutex
	worlds   map[*policy.World]struct{}
}

// generation is a snapshot with the environment it was compiled in.
type generation struct {
	*snapshot.Snapshot
	world   *policy.World
	env     *upstream.Environment
	secured map[string]*security // by listener, those that speak TLS
	asked   map[string]*obtained // by name, where challenges by HTTP may come; nil for none
	files   []string             // that its configuration refers to
	number  uint64
	since   time.Time
	ledger  *ledger.Ledger // where usage is kept; nil for nowhere
	changes *chain.Log     // of what is changed through the admin listener; nil without state.dir
}

type reloadFailure struct {
	when time.Time
	err  error
}

// New returns a gateway that serves nothing yet. Close it with Shutdown.
func New(o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{
		o: o, log: o.Log, clock: exchange.NewClock(o.Now),
		metrics: telemetry.NewMetrics(telemetry.Options{Version: o.Version, Commit: o.Commit, Registry: telemetry.RegistryOptions{Process: true}}),
		servers: make(map[string]*listener.Server),
		worlds:  make(map[*policy.World]struct{}),
		stop:    make(chan struct{}),
		usage:   usage.NewCounter(),
		flush:   make(chan chan struct{}),
		started: time.Now(),
	}
	g.pool = exchange.NewPool(g.clock)
	if gone := o.Sockets.Predecessor(); gone != nil {
		g.chores.Go(func() { g.inheritPorts(gone) })
	}
	g.faults = telemetry.NewLimited(g.log, time.Second)
	g.living = lifetime.NewPool[string, any](lifetime.Options[string]{OnClose: func(name string, err error) {
		if err != nil {
			g.log.Warn("cannot close", "state", name, "error", err.Error())
		}
	}})
	g.sweeper = upstream.NewSweeper(g.clock, 0)
	g.sweeper.Start()
	g.chores.Go(g.upkeep)
	g.chores.Go(g.keepCertificates)
	g.chores.Go(g.keepUsage)
	return g
}

// Compile compiles a configuration without opening or starting anything, for
// validation and explanations. close gives it up.
func Compile(o Options, c *config.Config) (s *snapshot.Snapshot, close func(), err error) {
	g := New(o)
	gen, err := g.compile(c, true)
	if err != nil {
		g.Shutdown(context.Background())
		return nil, nil, err
	}
	return gen.Snapshot, func() {
		gen.close()
		g.Shutdown(context.Background())
	}, nil
}

// Apply compiles a configuration and puts it in force, all of it or nothing:
// on an error the running one stays as it is.
func (g *Gateway) Apply(c *config.Config) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	previous := g.current.Load()
	err := g.apply(c)
	g.remember(previous, g.current.Load(), err)
	if err != nil {
		g.failure.Store(&reloadFailure{time.Now(), err})
		g.metrics.ConfigReloads.With(nil, "failure").Inc()
		return err
	}
	g.failure.Store(nil)
	if g.Status().Generation > 1 {
		g.metrics.ConfigReloads.With(nil, "success").Inc()
	}
	g.metrics.ConfigLastReload.Set(float64(time.Now().Unix()))
	return nil
}

func (g *Gateway) apply(c *config.Config) error {
	if g.draining.Load() {
		return errors.New("the gateway is draining")
	}
	next, err := g.compile(c, false)
	if err != nil {
		return err
	}
	g.await(next)
	opened, err := g.listen(c)
	if err != nil {
		next.close()
		return err
	}
	previous := g.current.Load()
	if previous != nil {
		next.number = previous.number
	}
	next.number++
	next.Start(next.env)
	g.watchCertificates(next)
	g.current.Store(next)
	for _, r := range c.Remarks() {
		// Of one that nobody has changed, as an object's beside one that was, the log knows.
		if previous != nil && slices.ContainsFunc(previous.Config.Remarks(), func(e *config.Error) bool { return *e == *r }) {
			continue
		}
		g.log.Warn("configuration: "+r.Message, "setting", r.Path, "at", r.Pos.String())
	}
	for _, w := range next.Warnings {
		g.log.Warn("configuration: "+w.Message, "setting", w.Path)
	}
	g.rearrange(c, opened, next, previous)
	g.keepObtained(next)
	if previous != nil {
		previous.Retire()
	}
	return nil
}

// discoveryPatience is how long a generation waits for the first word of a source of endpoints.
const discoveryPatience = 3 * time.Second

func (g *Gateway) await(next *generation) {
	ctx, cancel := context.WithTimeout(context.Background(), discoveryPatience)
	defer cancel()
	next.Await(ctx)
}

// Files are those that the configuration in force refers to beside the ones it was read from, and those of others that
// were refused since the last call: a change of either may be worth another try.
func (g *Gateway) Files() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	files := g.tried
	g.tried = nil
	if gen := g.current.Load(); gen != nil {
		files = append(files, gen.files...)
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// compile builds a generation. Its hold on living state ends when the garbage
// collector finds that no exchange uses it any more.
func (g *Gateway) compile(c *config.Config, dry bool) (*generation, error) {
	world := &policy.World{
		Config: c, Log: g.log, Clock: g.clock,
		Metrics: g.metrics, Generation: g.metrics.Begin(),
		Living: g.living, Leases: new(lifetime.Set),
		Consumers: make(map[string]*exchange.Consumer), Tenants: make(map[string]*exchange.Tenant),
		Repeat: g.repeat, Usage: g.usage,
		DryRun: dry,
	}
	env := &upstream.Environment{
		Living: g.living, Leases: world.Leases,
		Metrics: g.metrics, Generation: world.Generation,
		Clock: g.clock, Sweeper: g.sweeper, Log: g.log, Opened: g.breakerOpened,
		Resolve: g.o.Resolve, Stall: c.Limits.StallTimeout,
		Sources: g.o.Registry.Sources, StateDir: c.State.Dir, DryRun: dry,
	}
	var changes *chain.Log
	var kept *ledger.Ledger
	if !dry {
		var err error
		if changes, err = g.openState(world); err == nil {
			kept, err = g.openUsage(world)
		}
		if err != nil {
			world.Leases.Close()
			world.Generation.Close()
			return nil, err
		}
	}
	var files []string
	world.Follow = func(file string) { files = append(files, file) }
	secured, warnings, wrong := g.secure(c, dry)
	if err := g.share(world, &c.State.Redis); err != nil {
		var located *config.Error
		if !errors.As(err, &located) {
			located = c.Errorf("state.redis", "%v", err)
		}
		wrong = append(wrong, located)
	} else if err := shareKeys(world); err != nil {
		wrong = append(wrong, c.Errorf("state.redis", "API keys can not be shared: %v", err))
	}
	if !dry {
		if err := g.openRevoked(world); err != nil {
			wrong = append(wrong, c.Errorf("state.dir", "what is revoked can not be kept here: %v", err))
		}
	}
	s, err := snapshot.Compile(world, env, g.o.Registry, g.Health)
	world.Follow, g.tried = nil, append(g.tried, files...)
	if len(wrong) > 0 {
		var others config.Errors
		if err != nil && !errors.As(err, &others) {
			wrong = append(wrong, c.Errorf("", "%v", err))
		}
		err = append(wrong, others...).Err()
	}
	if err != nil {
		world.Leases.Close()
		world.Generation.Close()
		return nil, err
	}
	s.Warnings = append(append(s.Warnings, warnings...), proxyWarnings(c)...)
	gen := &generation{Snapshot: s, world: world, env: env, secured: secured, asked: asked(secured), files: files, since: time.Now(), changes: changes, ledger: kept}
	if !dry {
		g.worldsMu.Lock()
		g.worlds[world] = struct{}{}
		g.worldsMu.Unlock()
		runtime.AddCleanup(s, g.release, world)
	}
	return gen, nil
}

// release gives up what a generation leases.
func (g *Gateway) release(w *policy.World) {
	g.worldsMu.Lock()
	delete(g.worlds, w)
	g.worldsMu.Unlock()
	w.Leases.Close()
	w.Generation.Close()
}

// close gives a generation up that no exchange uses.
func (gen *generation) close() {
	gen.Retire()
	gen.world.Leases.Close()
	gen.world.Generation.Close()
}

// ListenError says that a socket could not be opened.
type ListenError struct{ Err error }

func (e *ListenError) Error() string { return e.Err.Error() }
func (e *ListenError) Unwrap() error { return e.Err }

// socketOf is what a listener's socket is known by from one configuration to the next: its address. A port that the system
// chooses (0) is the listener's own.
func socketOf(name, address string) string {
	if strings.HasSuffix(address, ":0") {
		return address + " " + name
	}
	return address
}

// listen opens the sockets of c that are not open yet. What it opened before an
// error is closed.
func (g *Gateway) listen(c *config.Config) (opened map[string]*listener.Server, err error) {
	opened = make(map[string]*listener.Server)
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		lc := c.Listeners[name]
		socket := socketOf(name, lc.Address)
		s := g.servers[socket]
		if s == nil {
			l, err := g.openSocket(name, lc.Address)
			if err != nil {
				return nil, &ListenError{fmt.Errorf("listeners.%s: %w", name, err)}
			}
			s = listener.NewServer(l, g, g.pool, int(c.Limits.MaxHeaderSize), g.log)
			opened[socket] = s
			undo = append(undo, func() { _ = l.Discard() })
		}
		if !lc.HTTP3.Off && !g.succeeds() {
			close, err := s.OpenHTTP3()
			if err != nil {
				return nil, &ListenError{fmt.Errorf("listeners.%s: %w", name, err)}
			}
			undo = append(undo, close)
		}
	}
	return opened, nil
}

// rearrange makes the servers those of c: new ones start, those that are gone drain.
func (g *Gateway) rearrange(c *config.Config, opened map[string]*listener.Server, next, previous *generation) {
	before := make(map[string]*security) // by socket
	if previous != nil {
		for name, s := range previous.secured {
			before[socketOf(name, s.settings.Address)] = s
		}
	}
	wanted := make(map[string]bool)
	for name, lc := range c.Listeners {
		socket := socketOf(name, lc.Address)
		wanted[socket] = true
		s := g.servers[socket]
		if s == nil {
			s = opened[socket]
			g.servers[socket] = s
		}
		s.Listener().Rename(name)
		g.watchConnections(next, s.Listener())
		s.Listener().Configure(listener.Timeouts{
			Header: c.Limits.HeaderTimeout, Stall: c.Limits.StallTimeout, Idle: c.Limits.IdleTimeout,
		}, listener.Limits{MaxConns: c.Limits.MaxConnections, MaxConnsPerIP: c.Limits.MaxConnectionsPerIP})
		g.speak(s.Listener(), c, lc, next.secured[name], before[socket])
		if opened[socket] != nil {
			s.Start()
			g.log.Info("listening", "listener", name, "address", s.Listener().Addr().String())
		}
		if on := !lc.HTTP3.Off; !on || !g.succeeds() {
			g.switchHTTP3(s, name, on)
		}
	}
	for address, s := range g.servers {
		if !wanted[address] {
			delete(g.servers, address)
			g.chores.Go(func() { g.drainServer(s, g.o.DrainTimeout) })
		}
	}
	open := make([]*listener.Server, 0, len(g.servers))
	for _, address := range slices.Sorted(maps.Keys(g.servers)) {
		open = append(open, g.servers[address])
	}
	g.open.Store(&open)
}

// switchHTTP3 has a server speak HTTP/3 or cease to; requests in flight end well.
func (g *Gateway) switchHTTP3(s *listener.Server, name string, on bool) {
	if !on {
		if s.StopHTTP3() {
			g.chores.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), g.o.DrainTimeout)
				defer cancel()
				s.DrainHTTP3(ctx)
			})
		}
		return
	}
	switch begun, err := s.ServeHTTP3(); {
	case err != nil:
		g.log.Error("listeners." + name + ".http3: " + err.Error())
	case begun:
		g.log.Info("listening for HTTP/3", "listener", name, "address", s.Listener().Addr().String())
	}
}

// watchConnections measures a listener under the name that a generation gives it.
func (g *Gateway) watchConnections(gen *generation, l *listener.Listener) {
	lease := gen.world.Generation
	g.metrics.Connections.With(lease, func() float64 { idle, _, _ := l.Stats(); return float64(idle) }, l.Name(), "idle")
	g.metrics.Connections.With(lease, func() float64 { _, active, _ := l.Stats(); return float64(active) }, l.Name(), "active")
	l.Count(g.metrics, lease)
}

// Decide implements listener.Handler.
func (g *Gateway) Decide(x *exchange.Exchange) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = g.survive(x, fault)
		}
	}()
	if x.Paused {
		x.Paused = false
		return snapshot.Of(x).Resume(x)
	}
	return g.current.Load().decide(x)
}

// decide decides on a request, unless it is an authority's question for a certificate.
func (g *generation) decide(x *exchange.Exchange) error {
	if g.asked != nil && x.TLS == nil {
		if reply := g.answerChallenge(x); reply != nil {
			return g.Preempt(x, reply)
		}
	}
	return g.Decide(x)
}

// Handle implements listener.Handler.
func (g *Gateway) Handle(x *exchange.Exchange) {
	decided := false
	defer func() {
		if fault := recover(); fault != nil {
			g.mend(x, fault, decided)
		}
	}()
	gen := g.current.Load()
	err := gen.decide(x)
	decided = true
	gen.Snapshot.Answer(x, err)
}

// mend answers a request that met a fault, after it was decided on or before.
func (g *Gateway) mend(x *exchange.Exchange, fault any, decided bool) {
	err := g.survive(x, fault)
	if !decided {
		g.Answer(x, err)
		return
	}
	x.Render(err)
	x.Status = x.Response.StatusCode()
}

// Answer implements listener.Handler.
func (g *Gateway) Answer(x *exchange.Exchange, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			g.mend(x, fault, true)
		}
	}()
	g.current.Load().Answer(x, err)
}

// Done implements listener.Handler.
func (g *Gateway) Done(x *exchange.Exchange) {
	defer func() {
		if fault := recover(); fault != nil {
			_ = g.survive(x, fault)
		}
	}()
	snapshot.Done(x)
}

// rejectPanic ends the one request that met a fault of the gateway's own.
var rejectPanic = func() *exchange.Reject {
	r := exchange.NewReject(fasthttp.StatusInternalServerError, "internal_error", "the gateway could not handle this request")
	r.Close = true
	return r
}()

// survive turns a panic into an error: a fault in handling one request must not
// end all others.
func (g *Gateway) survive(x *exchange.Exchange, fault any) error {
	route := ""
	if x.Route != nil {
		route = x.Route.Name
	}
	g.faults.Log(slog.LevelError, "panic", "a request met a fault of the gateway; please report it",
		"route", route, "request_id", string(x.RequestID), "trace_id", string(x.TraceID), "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
	return rejectPanic
}

// upkeep does what living state wants done now and then.
func (g *Gateway) upkeep() {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-t.C:
		}
		g.living.Range(func(_ string, v any, _ int) bool {
			if s, ok := v.(interface{ Sweep(now int64) int }); ok {
				s.Sweep(g.clock.Now())
			}
			return true
		})
	}
}

// Reopen opens log files anew, after they were rotated.
func (g *Gateway) Reopen() error {
	var errs []error
	g.living.Range(func(_ string, v any, _ int) bool {
		switch v := v.(type) {
		case interface{ Reopen() error }:
			errs = append(errs, v.Reopen())
		case interface{ Reopen(context.Context) error }:
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			errs = append(errs, v.Reopen(ctx))
			cancel()
		}
		return true
	})
	return errors.Join(errs...)
}

// Draining reports whether the gateway is shutting down.
func (g *Gateway) Draining() bool { return g.draining.Load() }

// Drain announces the end: readiness fails, answers close their connections,
// and new connections are still accepted for the drain delay.
func (g *Gateway) drain(ctx context.Context) {
	g.mu.Lock()
	first := !g.draining.Swap(true)
	for _, s := range g.servers {
		s.Drain()
	}
	serving := len(g.servers) > 0
	g.mu.Unlock()
	if first && serving && !g.left.Load() {
		select {
		case <-ctx.Done():
		case <-time.After(g.o.DrainDelay):
		}
	}
}

// Shutdown drains and ends: what is in flight is waited for until the drain
// timeout or the end of ctx.
func (g *Gateway) Shutdown(ctx context.Context) {
	g.drain(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(g.o.DrainTimeout, time.Millisecond))
	defer cancel()
	var all sync.WaitGroup
	for address, s := range g.servers {
		delete(g.servers, address)
		all.Go(func() { g.drainServerUntil(ctx, s) })
	}
	all.Wait()
	g.repeats.end(ctx)
	select {
	case <-g.stop:
		return
	default:
	}
	close(g.stop)
	g.chores.Wait()
	g.closeSigners(nil)
	if gen := g.current.Load(); gen != nil {
		gen.close()
	}
	g.worldsMu.Lock()
	left := slices.Collect(maps.Keys(g.worlds))
	g.worldsMu.Unlock()
	for _, w := range left {
		g.release(w)
	}
	g.living.Close()
	_ = g.sweeper.Close() // it ends calls that living state waits for
}

func (g *Gateway) drainServer(s *listener.Server, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s.Drain()
	g.drainServerUntil(ctx, s)
}

// partingRest is how long a connection has been idle that is closed after a handover. On those in use the
// next answer says that it is the last: a client that sends at the moment of a close could not tell whether it was heard.
// Where the process ends for good, the drain delay is the time for that.
const partingRest = 5 * time.Second

func (g *Gateway) drainServerUntil(ctx context.Context, s *listener.Server) {
	s.StopAccepting()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	rested, code := time.Duration(0), wswire.GoingAway
	if g.left.Load() {
		rested, code = partingRest, wswire.Restart // another process serves on
	}
	for s.Listener().CloseIdle(rested, code) > 0 {
		select {
		case <-ctx.Done():
			g.log.Warn("drain timeout: closing connections that are still in use", "listener", s.Listener().Name())
			s.Close()
			return
		case <-t.C:
		}
	}
	s.Close()
}
