// Package policytest builds a single policy outside a gateway, so that its test can send it exchanges: with a configuration
// around it, a clock that stands still until it is moved, and state that lives over a rebuild.
package policytest

import (
	"bytes"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/lifetime"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Epoch is the time at which every World begins.
var Epoch = time.Unix(1_800_000_000, 0).UTC()

// World is a configuration for policies to stand in.
type World struct {
	*policy.World

	mu       sync.Mutex
	log      bytes.Buffer
	warnings []string
	ahead    atomic.Int64
	pool     *exchange.Pool
}

// New returns a World with this configuration, which may be empty. It ends with the test.
func New(t testing.TB, configuration string) *World {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(configuration), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &World{}
	clock := exchange.NewClock(func() time.Time { return Epoch.Add(time.Duration(w.ahead.Load())) })
	w.pool = exchange.NewPool(clock)
	living := lifetime.NewPool[string, any](lifetime.Options[string]{})
	w.World = &policy.World{
		Config:     c,
		Log:        slog.New(slog.NewTextHandler(w, nil)),
		Clock:      clock,
		Metrics:    telemetry.NewMetrics(telemetry.Options{}),
		Generation: new(telemetry.Generation),
		Living:     living,
		Leases:     new(lifetime.Set),
		Consumers:  make(map[string]*exchange.Consumer),
		Tenants:    make(map[string]*exchange.Tenant),
		Warn: func(path, message string) {
			w.mu.Lock()
			w.warnings = append(w.warnings, path+": "+message)
			w.mu.Unlock()
		},
	}
	for i, name := range slices.Sorted(maps.Keys(c.Tenants)) {
		w.Tenants[name] = &exchange.Tenant{Name: name, Index: i}
	}
	for name, consumer := range c.Consumers {
		w.Consumers[name] = &exchange.Consumer{
			Name: name, NameHeader: []byte(name), Groups: consumer.Groups, GroupsHeader: []byte(strings.Join(consumer.Groups, ",")),
			Tenant: w.Tenants[consumer.Tenant],
		}
	}
	t.Cleanup(func() {
		w.Leases.Close()
		living.Close()
	})
	return w
}

// Write receives the log.
func (w *World) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

// Logged returns what was logged so far.
func (w *World) Logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// Warnings returns the remarks of all builds so far.
func (w *World) Warnings() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.warnings)
}

// Reload begins the next generation, with the same configuration; the previous one lives until end is called.
func (w *World) Reload() (end func()) {
	old := w.World
	w.World = &policy.World{
		Config: old.Config, Log: old.Log, Clock: old.Clock, Metrics: old.Metrics, Generation: new(telemetry.Generation),
		Living: old.Living, Leases: new(lifetime.Set), Consumers: old.Consumers, Tenants: old.Tenants, Warn: old.Warn,
	}
	return old.Leases.Close
}

// Advance moves the clock.
func (w *World) Advance(d time.Duration) { w.ahead.Add(int64(d)) }

// Build compiles settings, written as YAML, for a route called users.
func (w *World) Build(d *policy.Definition, settings string) (policy.Hooks, error) {
	path := "routes.users.policies." + d.Name
	block, err := config.ParseBlock(path, settings)
	if err != nil {
		return policy.Hooks{}, err
	}
	h, errs := d.Build(&policy.Build{
		World: w.World, Policy: d.Name, Scope: "routes.users", Path: path,
		Route: &exchange.Route{Name: "users"}, RouteConfig: &config.Route{Name: "users"},
	}, block)
	return h, errs.Err()
}

// MustBuild is Build for settings that are good.
func (w *World) MustBuild(t testing.TB, d *policy.Definition, settings string) policy.Hooks {
	t.Helper()
	h, err := w.Build(d, settings)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Fails holds a build to an error that contains want.
func (w *World) Fails(t testing.TB, d *policy.Definition, settings, want string) {
	t.Helper()
	switch _, err := w.Build(d, settings); {
	case err == nil:
		t.Errorf("%s: built, want an error with %q", settings, want)
	case !strings.Contains(err.Error(), want):
		t.Errorf("%s: error %q, want one with %q", settings, err, want)
	}
}

// Exchange returns an exchange of GET http://api.example.com TARGET from 192.0.2.1, with headers "Name: value".
func (w *World) Exchange(target string, headers ...string) *exchange.Exchange {
	req, res := &fasthttp.Request{}, &fasthttp.Response{}
	req.Header.SetMethod("GET")
	req.SetRequestURI(target)
	req.Header.SetHost("api.example.com")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	x := w.pool.Get(req, res, func(*exchange.Exchange) {})
	path, query, _ := strings.Cut(target, "?")
	x.Path, x.Query, x.Host, x.Scheme = []byte(path), []byte(query), []byte("api.example.com"), "http"
	x.ClientAddr, x.PeerAddr = client, client
	x.Route = &exchange.Route{Name: "users"}
	return Fields(x)
}

// NoAllocations fails the test if f allocates in any of 10,000 exchanges of GET / with these headers, which begin and end
// around it. It does nothing under the race detector, which drops pooled objects at random.
func (w *World) NoAllocations(t *testing.T, what string, f func(x *exchange.Exchange), headers ...string) {
	t.Helper()
	if raceEnabled {
		return
	}
	once := w.repeat(f, headers)
	// On one processor a sync.Pool keeps what it is given.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC() // ends a collection that has begun; another would empty the pools
	// The runtime itself allocates a little after a collection, so the least of three rounds counts.
	least := uint64(math.MaxUint64)
	for range 3 {
		once()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 10_000 {
			once()
		}
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	if least > 0 {
		t.Errorf("%s: %d allocations in 10000 exchanges", what, least)
	}
}

var (
	root   = []byte("/")
	client = netip.MustParseAddr("192.0.2.1")
)
