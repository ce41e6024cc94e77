package concurrency

import (
	"math"
	"sync/atomic"

	"sluice/gateway/policy"
)

// lane is a tenant's part of a gate: what it has in flight, and who of it waits.
type lane struct {
	inFlight atomic.Int32 // counted in the lanes of tenants alone
	counted  bool

	// What follows is guarded by the gate's mu.
	queues     [classes]queue
	waiting    uint64
	weight     uint64 // slots in proportion to others, of the youngest generation
	turn       uint64 // the lower, the sooner
	refs       int    // generations that know it
	prev, next *lane  // of those in which somebody waits
}

const (
	// fullWeight is the weight of a tenant with a share of 100%, and of requests without a tenant.
	fullWeight = 10_000
	// turnLength over the weight is by how much a lane's turn moves on for a slot.
	turnLength = fullWeight << 16
)

// enter counts a request in, as long as the lane has less in flight than its share.
func (ln *lane) enter(share uint32) bool {
	if !ln.counted {
		return true
	}
	for {
		n := ln.inFlight.Load()
		if uint32(n) >= share {
			return false
		}
		if ln.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (ln *lane) leave() {
	if ln.counted {
		ln.inFlight.Add(-1)
	}
}

func (ln *lane) hasRoom(share uint32) bool {
	return !ln.counted || uint32(ln.inFlight.Load()) < share
}

// waits reports whether somebody of this class or above waits in the lane. The caller holds the gate's mu.
func (ln *lane) waits(at class) bool {
	for i := range at + 1 {
		if ln.queues[i].head != nil {
			return true
		}
	}
	return false
}

// tenantLane is a tenant's lane with its share in one generation, between 0 and 1.
type tenantLane struct {
	lane  *lane
	share float64
}

// of is how many slots the share is of a bound.
func (t *tenantLane) of(bound uint32) uint32 {
	if t.share >= 1 {
		return noShare
	}
	return max(1, uint32(math.Round(t.share*float64(bound))))
}

// lanesOf gives each tenant of the generation its lane, by its number; nil where there are no tenants. Its lanes are dropped when no
// generation knows the tenant any more.
func (g *gate) lanesOf(w *policy.World) []tenantLane {
	if len(w.Tenants) == 0 {
		return nil
	}
	lanes := make([]tenantLane, len(w.Tenants))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lanes == nil {
		g.lanes = make(map[string]*lane)
	}
	for name, t := range w.Tenants {
		share := float64(w.Config.Tenants[name].ConcurrencyShare)
		ln := g.lanes[name]
		if ln == nil {
			ln = &lane{counted: true}
			g.lanes[name] = ln
		}
		ln.refs++
		ln.weight = max(1, uint64(math.Round(share*fullWeight)))
		lanes[t.Index] = tenantLane{ln, share}
	}
	w.Leases.Add(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for name := range w.Tenants {
			if ln := g.lanes[name]; ln != nil {
				if ln.refs--; ln.refs == 0 {
					delete(g.lanes, name)
				}
			}
		}
	})
	return lanes
}
