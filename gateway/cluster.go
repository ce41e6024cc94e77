package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/cluster"
	"sluice/gateway/lifetime"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
)

// sharedStore is the store of gateways that share their state, and its series.
type sharedStore struct {
	*cluster.Store
	series *telemetry.Generation
}

// Close implements io.Closer.
func (s *sharedStore) Close() error {
	err := s.Store.Close()
	s.series.Close()
	return err
}

// share gives the generation its shared store. It is living state: the connection, and what is lent to this instance, outlive a
// configuration that does not change the settings.
func (g *Gateway) share(w *policy.World, r *config.Redis) error {
	if r.Off {
		return nil
	}
	t := config.ServiceTLS(r.TLS)
	tc, identity, err := upstream.ClientTLS(&t)
	if err != nil {
		setting, what, _ := strings.Cut(err.Error(), ": ")
		return w.Config.Errorf("state.redis."+setting, "%s", what)
	}
	if w.DryRun {
		return nil
	}
	o := cluster.Options{
		Addresses: r.Addresses, Username: r.Username, Password: r.Password.Reveal(), DB: r.DB,
		Prefix: r.Prefix, Timeout: r.Timeout, OnFailure: map[string]cluster.OnFailure{"local": cluster.Local, "allow": cluster.Allow, "deny": cluster.Deny}[r.OnFailure],
		Log: g.log, Now: g.clock.Now, Wall: g.clock.Time,
	}
	if !r.TLS.Off {
		o.TLS = tc
	}
	if !r.Sentinel.Off {
		o.Master, o.SentinelUsername, o.SentinelPassword = r.Sentinel.Master, r.Sentinel.Username, r.Sentinel.Password.Reveal()
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %d %q %q %v %d %q %q %q %q %v",
		o.Addresses, o.Username, o.Password, o.DB, identity, o.Prefix, o.Timeout, o.OnFailure, o.Master, o.SentinelUsername, o.SentinelPassword, r.OnFailure, r.TLS.Off)
	s, err := lifetime.Hold(w.Leases, g.living, "cluster/"+hex.EncodeToString(sum.Sum(nil)), func() (any, error) { return g.openStore(o), nil })
	if err != nil {
		return err
	}
	w.Cluster = s.(*sharedStore).Store
	return nil
}

// calls are what a store is asked.
var calls = [...]string{"beat", "lend", "take", "return", "quota", "record", "purge", "book", "publish"}

func (g *Gateway) openStore(o cluster.Options) *sharedStore {
	series := g.metrics.Begin()
	type handles struct {
		ok, failed *telemetry.Counter
		took       *telemetry.Histogram
	}
	by := make(map[string]handles)
	for _, c := range calls {
		by[c] = handles{g.metrics.StoreCalls.With(series, c, "ok"), g.metrics.StoreCalls.With(series, c, "error"), g.metrics.StoreDuration.With(series, c)}
	}
	o.Observe = func(call string, took time.Duration, err error) {
		h := by[call]
		h.took.Observe(took)
		if err != nil {
			h.failed.Inc()
		} else {
			h.ok.Inc()
		}
	}
	s := cluster.Open(o)
	g.metrics.StoreUp.With(series, func() float64 {
		if s.Up() {
			return 1
		}
		return 0
	})
	g.metrics.StoreInstances.With(series, func() float64 { return float64(s.Instances()) })
	g.metrics.StoreLent.With(series, func() float64 { return float64(s.Limiter().Len()) })
	s.OnPurge(func(what string) {
		if p, err := parsePurge(what); err == nil {
			g.purgeHere(p)
		} else {
			g.purgeHere(Purge{}) // of a newer version: rather all than none
		}
	})
	s.OnBreaker(g.breakerOpenedElsewhere)
	s.Start()
	return &sharedStore{s, series}
}

// store returns the shared store that is in force, nil without one.
func (g *Gateway) store() *cluster.Store {
	if gen := g.current.Load(); gen != nil {
		return gen.world.Cluster
	}
	return nil
}

// breakerOpened tells the other instances, if there may be any.
func (g *Gateway) breakerOpened(service, endpoint string) {
	if s := g.store(); s != nil {
		s.BreakerOpened(service, endpoint)
	}
}

// breakerOpenedElsewhere has a breaker of this instance expect what another one has found.
func (g *Gateway) breakerOpenedElsewhere(service, endpoint string) {
	gen := g.current.Load()
	if gen == nil {
		return
	}
	if s := gen.Services()[service]; s != nil && s.Hint(g.clock.Now(), endpoint) {
		g.log.Info("circuit breaker opened at another instance; the next failure opens it here, a success does not", "service", service, "endpoint", endpoint)
	}
}
