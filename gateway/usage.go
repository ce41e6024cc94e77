package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sluice/config"
	"sluice/gateway/ledger"
	"sluice/gateway/policy"
	"sluice/gateway/usage"
)

// openUsage opens the store of usage that a configuration names, nil for none.
func (g *Gateway) openUsage(w *policy.World) (*ledger.Ledger, error) {
	c := w.Config.State.Usage
	if !w.Config.State.Kept() {
		return nil, nil
	}
	o := ledger.Options{
		DSN: c.DSN.Reveal(), Instance: c.Instance, Log: g.log, Now: g.clock.Time,
		Retention: [3]time.Duration{c.Retention.Minutes, c.Retention.Hours, c.Retention.Days},
		Wrote: func(_ int, err error) {
			result := "success"
			if err != nil {
				result = "failure"
			}
			g.metrics.UsageWrites.With(nil, result).Inc()
		},
		Lost: func(requests uint64) { g.metrics.UsageLost.Add(int64(requests)) },
	}
	setting := "state.usage.dsn"
	if c.Store == "sqlite" {
		setting = "state.dir"
		dir, err := filepath.Abs(w.Config.State.Dir)
		if err != nil {
			return nil, config.Errors{w.Config.Errorf(setting, "%v", err)}
		}
		o.Path = filepath.Join(dir, "usage.db")
	}
	if o.Instance == "" {
		o.Instance, _ = os.Hostname()
	}
	if o.Instance == "" {
		o.Instance = "sluice"
	}
	identity := fmt.Sprintf("usage/%s/%x/%s/%v", o.Path, sha256.Sum256([]byte(o.DSN)), o.Instance, o.Retention)
	l, err := policy.LivingAs(w, identity, func() (*ledger.Ledger, error) { return ledger.Open(o) })
	if err != nil {
		return nil, config.Errors{w.Config.Errorf(setting, "usage can not be kept here: %v", err)}
	}
	return l, nil
}

// defaultFlush is how often usage is collected where it is not kept.
const defaultFlush = 10 * time.Second

// keepUsage collects what was counted, now and then and when it is asked to, until the gateway has ended.
func (g *Gateway) keepUsage() {
	t := time.NewTimer(defaultFlush)
	defer t.Stop()
	for {
		var asked chan struct{}
		select {
		case <-g.stop:
			g.collectUsage()
			return
		case asked = <-g.flush:
		case <-t.C:
		}
		t.Reset(g.collectUsage())
		if asked != nil {
			close(asked)
		}
	}
}

// collectUsage takes what was counted and says when to do so again.
func (g *Gateway) collectUsage() (pause time.Duration) {
	b := g.usage.Collect()
	g.recent.Add(g.clock.Time(), b)
	pause = defaultFlush
	gen := g.current.Load()
	if gen == nil {
		return pause
	}
	if most := gen.Config.State.Usage.MaxKeys; most > 0 {
		g.usage.Limit(most)
	}
	if gen.ledger != nil {
		gen.ledger.Add(b.Rows)
		pause = gen.Config.State.Usage.Flush
	}
	return pause
}

// Usage is where usage is kept, nil for nowhere. What was counted up to now is there, or waits for a store that does not take
// it: then that is the error, behind which older usage may be read all the same.
func (g *Gateway) Usage(ctx context.Context) (*ledger.Ledger, error) {
	gen := g.current.Load()
	if gen == nil || gen.ledger == nil {
		return nil, nil
	}
	g.Collect(ctx)
	return gen.ledger, gen.ledger.Settle(ctx)
}

// Collect has usage collected now.
func (g *Gateway) Collect(ctx context.Context) {
	asked := make(chan struct{})
	select {
	case g.flush <- asked:
		<-asked
	case <-g.stop:
	case <-ctx.Done():
	}
}

// Top is what the last minutes were like.
func (g *Gateway) Top(ctx context.Context, most int, tenant string) usage.Top {
	g.Collect(ctx)
	return g.recent.Top(most, tenant)
}
