package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sluice/config"
	"sluice/gateway/discovery"
	"sluice/gateway/lifetime"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream/balance"
)

// feed gives a service of one generation its endpoints as they are found: each set becomes a choice that takes the place
// of the one before. Routes and calls in flight notice nothing of it: they have the service, and a call keeps the choice
// that it chose from.
type feed struct {
	*builder
	source  discovery.Source
	watcher *discovery.Watcher // nil in a dry run
	live    *atomic.Pointer[choice]

	mu      sync.Mutex
	first   bool             // no set was found yet
	held    []*hold          // of choices that calls may use; the last is of the one in force
	left    []*endpoint      // that were found no more, as long as they have something in flight
	checker *balance.Checker // nil for none
	closed  bool
}

// hold is what a choice leases. It ends when the garbage collector finds that nobody uses the choice, and so must not
// lead to it.
type hold struct {
	leases lifetime.Set
	series *telemetry.Generation
	ended  atomic.Bool
}

func (h *hold) end() {
	h.ended.Store(true)
	h.series.Close()
	h.leases.Close()
}

// openFeed begins to follow what is found for the service. The watch is leased under its own settings: a configuration
// that does not change those takes it over with all it knows.
func openFeed(b *builder, live *atomic.Pointer[choice]) (*feed, error) {
	d := &b.config.Discovery
	kind := d.Source()
	definition := b.env.Sources[kind]
	if definition == nil {
		return nil, fmt.Errorf("discovery.%s: is not built in", kind)
	}
	source, err := definition.Open(d)
	if err != nil {
		return nil, fmt.Errorf("discovery.%s.%w", kind, err)
	}
	f := &feed{builder: b, source: source, live: live, first: true}
	nobody := balance.NewSet(b.group, nil, b.options)
	live.Store(&choice{set: nobody})
	if b.env.DryRun {
		return f, nil
	}
	identity := identify(d)
	watcher, err := lifetime.Hold(b.env.Leases, b.env.Living, "discovery/"+b.config.Name+"/"+identity, func() (any, error) {
		w := discovery.NewWatcher(discovery.Settings{
			Seed:    b.env.found(b.config.Name),
			Service: b.config.Name, Kind: kind, Source: source,
			MaxLoss: float64(d.MaxLoss), AcceptAfter: d.AcceptAfter,
			Store: storeOf(b.env.StateDir, b.config.Name), Identity: identity,
			Log: b.env.Log, Metrics: b.env.Metrics,
		})
		w.Start()
		return w, nil
	})
	if err != nil {
		return nil, err
	}
	f.watcher = watcher.(*discovery.Watcher)
	unsubscribe := f.watcher.Subscribe(f.found)
	b.env.Leases.Add(func() {
		unsubscribe()
		f.close()
	})
	return f, nil
}

// found are the endpoints that a source with other settings has found for the service, for as long as the new one says
// nothing: a change of its address or token must not cost the service what it has.
func (env *Environment) found(service string) (set []discovery.Endpoint) {
	prefix := "discovery/" + service + "/"
	env.Living.Range(func(key string, v any, _ int) bool {
		if w, ok := v.(*discovery.Watcher); ok && strings.HasPrefix(key, prefix) {
			set = w.Known()
		}
		return len(set) == 0
	})
	return set
}

// identify names the settings of a source; a digest, since they may hold secrets.
func identify(d *config.Discovery) string {
	sum := sha256.New()
	// Secrets hide themselves from being printed.
	_, _ = fmt.Fprintf(sum, "%+v %q %q", *d, d.Consul.Token.Reveal(), d.Etcd.Password.Reveal())
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

func storeOf(dir, service string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "endpoints", url.PathEscape(service)+".json")
}

// found puts a set in force.
func (f *feed) found(set []discovery.Endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	h := &hold{series: f.env.Metrics.Begin()}
	next, _, err := f.build(&h.leases, h.series, f.servers(set))
	if err != nil {
		h.end()
		f.env.Log.Error("discovery: the endpoints can not be used; those before stay in force", "service", f.config.Name, "error", err.Error())
		return
	}
	previous := f.live.Load()
	f.arrange(previous, next)
	runtime.AddCleanup(next, (*hold).end, h)
	f.live.Store(next)
	if f.checker != nil {
		f.checker.Watch(next.states())
	}
	if n := len(f.held); n > 0 {
		f.held[n-1].series.Close()
	}
	f.held = append(slices.DeleteFunc(f.held, func(h *hold) bool { return h.ended.Load() }), h)
	f.first = false
}

// servers makes of a set what can be built; what can not is left out.
func (f *feed) servers(set []discovery.Endpoint) []server {
	servers := make([]server, 0, len(set))
	for _, e := range set {
		at, err := config.DiscoveredURL(e.Address, f.config.Protocol)
		if err != nil {
			f.env.Log.Error("discovery: an endpoint can not be used and is left out", "service", f.config.Name, "source", f.source.Where(), "error", err.Error())
			continue
		}
		servers = append(servers, server{Endpoint: config.Endpoint{URL: at, Weight: e.Weight, Zone: e.Zone}, host: e.Host})
	}
	return servers
}

// arrange has those that come start slowly, and keeps sight of those that go.
func (f *feed) arrange(previous, next *choice) {
	had, has := make(map[*balance.Endpoint]bool), make(map[*balance.Endpoint]bool)
	for _, ep := range previous.endpoints {
		had[ep.Endpoint] = true
	}
	for _, ep := range next.endpoints {
		has[ep.Endpoint] = true
		if !f.first && !had[ep.Endpoint] {
			ep.Join(f.env.Clock.Now())
		}
	}
	f.left = slices.DeleteFunc(f.left, func(ep *endpoint) bool { return has[ep.Endpoint] || ep.idle() })
	for _, ep := range previous.endpoints {
		if !has[ep.Endpoint] && !ep.idle() {
			f.left = append(f.left, ep)
		}
	}
}

func (ep *endpoint) idle() bool { return ep.Status(0).InFlight == 0 }

// leaving are the endpoints that were found no more and end what they have.
func (f *feed) leaving() []*endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = slices.DeleteFunc(f.left, (*endpoint).idle)
	return slices.Clone(f.left)
}

// check has a checker follow the endpoints.
func (f *feed) check(c *balance.Checker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checker = c
	c.Watch(f.live.Load().states())
}

// close gives up what all choices lease. The service goes on with the last one.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, h := range f.held {
		h.end()
	}
	f.held, f.left = nil, nil
}

// Discovery shows where the endpoints of a service come from; nil where they are configured.
func (s *Service) Discovery() *discovery.Status {
	if s.feed == nil {
		return nil
	}
	if s.feed.watcher == nil {
		return &discovery.Status{Source: s.feed.config.Discovery.Source(), Where: s.feed.source.Where()}
	}
	st := s.feed.watcher.Status()
	return &st
}

// Await waits for the first word of what finds the endpoints, until ctx is done.
func (s *Service) Await(ctx context.Context) {
	if s.feed == nil || s.feed.watcher == nil {
		return
	}
	select {
	case <-s.feed.watcher.Answered():
	case <-ctx.Done():
		s.feed.env.Log.Warn("discovery: no answer yet; the gateway does not wait any longer", "service", s.name, "source", s.feed.source.Where())
	}
}
