package usage

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Recent is what the last minutes were like, in memory: who calls most, what is refused and why, what is slow.
type Recent struct {
	mu    sync.Mutex
	slots [recentSlots]slot // the youngest first
}

const (
	recentSlots = 3
	slotTime    = 5 * time.Minute
)

type slot struct {
	since  time.Time
	who    map[caller]*Counts
	routes map[string]*routeCounts
	denied map[Denial]uint64
}

type caller struct{ tenant, consumer string }

type routeCounts struct {
	Counts
	Latency
}

// Add takes what was collected.
func (r *Recent) Add(now time.Time, b *Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slots[0].who == nil || now.Sub(r.slots[0].since) >= slotTime || now.Before(r.slots[0].since) {
		copy(r.slots[1:], r.slots[:])
		r.slots[0] = slot{now, make(map[caller]*Counts), make(map[string]*routeCounts), make(map[Denial]uint64)}
	}
	s := &r.slots[0]
	for i := range b.Rows {
		row := &b.Rows[i]
		at := caller{row.Tenant, row.Consumer}
		if s.who[at] == nil {
			s.who[at] = new(Counts)
		}
		s.who[at].Add(&row.Counts)
		route := s.routes[row.Route]
		if route == nil {
			route = new(routeCounts)
			s.routes[row.Route] = route
		}
		route.Add(&row.Counts)
		if err := route.Merge(row.Latency); err != nil {
			panic("BUG: " + err.Error())
		}
	}
	for d, n := range b.Denied {
		s.denied[d] += n
	}
}

// Top is what Recent tells.
type Top struct {
	// Since is the beginning of what it is about.
	Since     time.Time   `json:"since"`
	Consumers []TopCaller `json:"consumers"`
	Denied    []TopDenial `json:"denied"`
	Slow      []TopRoute  `json:"slow_routes"`
}

// TopCaller is who calls most. Consumer is "" for those that did not say who they are.
type TopCaller struct {
	Tenant   string `json:"tenant,omitempty"`
	Consumer string `json:"consumer"`
	Requests uint64 `json:"requests"`
	Denied   uint64 `json:"denied"`
	Errors   uint64 `json:"errors"` // 5xx
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
}

// TopDenial is what is refused most.
type TopDenial struct {
	Route    string `json:"route"`
	Reason   string `json:"reason"`
	Requests uint64 `json:"requests"`
}

// TopRoute is what is slow.
type TopRoute struct {
	Route    string  `json:"route"`
	Requests uint64  `json:"requests"`
	P50      float64 `json:"p50_ms"`
	P95      float64 `json:"p95_ms"`
	P99      float64 `json:"p99_ms"`
}

// Top lists the first most of each: by requests, and routes by the time that one in twenty takes longer than. With a tenant
// the lists are of its callers alone, and those of refusals and routes, which know no tenant, are empty.
func (r *Recent) Top(most int, tenant string) Top {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := Top{Consumers: []TopCaller{}, Denied: []TopDenial{}, Slow: []TopRoute{}}
	who, routes, denied := make(map[caller]*Counts), make(map[string]*routeCounts), make(map[Denial]uint64)
	for i := range r.slots {
		s := &r.slots[i]
		if s.who == nil {
			continue
		}
		t.Since = s.since
		for k, n := range s.who {
			if who[k] == nil {
				who[k] = new(Counts)
			}
			who[k].Add(n)
		}
		for k, n := range s.routes {
			if routes[k] == nil {
				routes[k] = new(routeCounts)
			}
			routes[k].Add(&n.Counts)
			for i, c := range n.Latency {
				routes[k].Latency[i] += c
			}
		}
		for k, n := range s.denied {
			denied[k] += n
		}
	}
	for k, n := range who {
		if tenant == "" || k.tenant == tenant {
			t.Consumers = append(t.Consumers, TopCaller{k.tenant, k.consumer, n.Requests(), n.Denied, n.Classes[5], n.BytesIn, n.BytesOut})
		}
	}
	slices.SortFunc(t.Consumers, func(a, b TopCaller) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Consumer, b.Consumer))
	})
	t.Consumers = t.Consumers[:min(most, len(t.Consumers))]
	if tenant != "" {
		return t
	}
	for k, n := range denied {
		t.Denied = append(t.Denied, TopDenial{k.Route, k.Reason, n})
	}
	slices.SortFunc(t.Denied, func(a, b TopDenial) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Reason, b.Reason))
	})
	t.Denied = t.Denied[:min(most, len(t.Denied))]
	for k, n := range routes {
		t.Slow = append(t.Slow, TopRoute{k, n.Requests(), Millis(n.Quantile(0.5)), Millis(n.Quantile(0.95)), Millis(n.Quantile(0.99))})
	}
	slices.SortFunc(t.Slow, func(a, b TopRoute) int { return cmp.Or(cmp.Compare(b.P95, a.P95), cmp.Compare(a.Route, b.Route)) })
	t.Slow = t.Slow[:min(most, len(t.Slow))]
	return t
}

// Millis is a duration in milliseconds.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
