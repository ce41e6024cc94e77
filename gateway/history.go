package gateway

import (
	"slices"
	"sync"
	"time"

	"sluice/gateway/snapshot"
)

// Bounds of what is remembered of reloads.
const (
	keptReloads     = 10
	keptDifferences = 64 << 10 // bytes of one reload's
	mostComparisons = 4        // at once: each holds two generations
)

// Reload is one attempt to put a configuration in force.
type Reload struct {
	At time.Time
	// Err is why it failed; nil when it is, or was, in force.
	Err error
	// Generation is the number of the one that it made, 0 for none.
	Generation uint64
	// Compared tells whether Differences are known: not of the first, not of those that failed, and of others a moment later.
	Compared    bool
	Differences []snapshot.Difference
	// Omitted is how many differences were too many to keep.
	Omitted int
}

// history remembers the last reloads. It keeps no generation alive for longer than comparing it takes.
type history struct {
	mu        sync.Mutex
	reloads   []*Reload // the latest last
	comparing int
}

// Reloads shows the last attempts to put a configuration in force, the latest first.
func (g *Gateway) Reloads() []Reload {
	g.history.mu.Lock()
	defer g.history.mu.Unlock()
	all := make([]Reload, 0, len(g.history.reloads))
	for _, r := range slices.Backward(g.history.reloads) {
		all = append(all, *r)
	}
	return all
}

func (h *history) add(r *Reload) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.reloads) == keptReloads {
		h.reloads = slices.Delete(h.reloads, 0, 1)
	}
	h.reloads = append(h.reloads, r)
}

// remember notes what Apply did. Comparing thousands of routes takes longer than a reload may, so it is done beside it; of
// reloads that come faster than they can be compared some are not. mu is held.
func (g *Gateway) remember(previous, next *generation, err error) {
	r := &Reload{At: time.Now(), Err: err}
	defer g.history.add(r)
	if err != nil {
		return
	}
	r.Generation = next.number
	if previous == nil {
		return
	}
	h := &g.history
	h.mu.Lock()
	free := h.comparing < mostComparisons
	if free {
		h.comparing++
	}
	h.mu.Unlock()
	if !free {
		return
	}
	from, to := previous.Snapshot, next.Snapshot
	g.chores.Go(func() {
		differences, omitted := bounded(from.Diff(to))
		h.mu.Lock()
		defer h.mu.Unlock()
		h.comparing--
		r.Compared, r.Differences, r.Omitted = true, differences, omitted
	})
}

// bounded keeps the first differences, as many as may be kept.
func bounded(all []snapshot.Difference) (kept []snapshot.Difference, omitted int) {
	size := 0
	for i := range all {
		d := &all[i]
		size += len(d.Kind) + len(d.Name)
		for _, s := range d.Settings {
			size += len(s.Path) + len(s.Old) + len(s.New)
		}
		if size > keptDifferences {
			return slices.Clone(all[:i]), len(all) - i
		}
	}
	return all, 0
}
