package admin

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway"
	"sluice/gateway/snapshot"
	"sluice/gateway/telemetry"
)

// statsView is the answer of GET /api/stats.
type statsView struct {
	gateway.Status
	At time.Time `json:"at"`
	// Window is the time that rates are of, in seconds: what has passed since an earlier look, ten seconds if there was
	// one then, or since the start.
	Window float64 `json:"window_seconds"`
	// Total has the quantiles of the window; those of routes are since the process has them.
	Total routeStats `json:"total"`
	// Known is how many routes there are; all are listed unless fewer were asked for.
	Known     int                    `json:"routes_known"`
	Routes    []routeStats           `json:"routes"`
	Services  []serviceView          `json:"services"`
	Listeners []gateway.ListenerView `json:"listeners"`
	Cache     cacheStats             `json:"cache"`
}

// routeStats are the counts of a route since the process has it, and its rates in the window.
type routeStats struct {
	Route            string            `json:"route,omitempty"` // "-" for requests that no route took
	Requests         uint64            `json:"requests"`
	ByClass          map[string]uint64 `json:"by_class"` // 1xx to 5xx, other
	PerSecond        float64           `json:"per_second"`
	ClientErrorsRate float64           `json:"client_errors_per_second"` // 4xx
	ServerErrorsRate float64           `json:"server_errors_per_second"` // 5xx
	InFlight         int64             `json:"in_flight"`
	BytesIn          uint64            `json:"bytes_in"`
	BytesOut         uint64            `json:"bytes_out"`
	Latency          *latency          `json:"latency_ms,omitempty"`
	Overhead         *latency          `json:"overhead_ms,omitempty"` // without the backend
}

type latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

func (s *Server) stats(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	most, err := ctx.QueryArgs().GetUint("top")
	if err != nil && !errors.Is(err, fasthttp.ErrNoArgValue) {
		fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "top must be a whole number")
		return
	}
	now := s.now()
	before, latest, stats := s.rates.sample(now, current)
	window := now.Sub(before.at).Seconds()
	v := statsView{
		Status: s.o.Gateway.Status(), At: now.UTC(), Window: window, Total: routeStats{ByClass: map[string]uint64{}}, Routes: make([]routeStats, 0, len(stats)),
		Services: s.serviceViews(current), Listeners: s.o.Gateway.Listeners(), Cache: s.cacheStats(),
	}
	for i := range stats {
		r := viewStats(&stats[i], before.counts[stats[i].route], window)
		v.Total.add(&r)
		v.Routes = append(v.Routes, r)
	}
	v.Total.Latency = viewDistribution(latest.durations.Since(&before.durations))
	v.Total.Overhead = viewDistribution(latest.overheads.Since(&before.overheads))
	v.Known = len(v.Routes)
	if err == nil {
		slices.SortStableFunc(v.Routes, func(a, b routeStats) int {
			return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(b.Requests, a.Requests))
		})
		v.Routes = v.Routes[:min(most, len(v.Routes))]
	}
	reply(ctx, v)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func viewDistribution(d telemetry.Distribution) *latency {
	return &latency{milliseconds(d.Quantile(.50)), milliseconds(d.Quantile(.95)), milliseconds(d.Quantile(.99))}
}

var classes = [6]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

func viewStats(s *routeSample, before counts, window float64) routeStats {
	rate := func(now, then uint64) float64 {
		if window <= 0 || now < then { // the counter began anew
			return 0
		}
		return float64(now-then) / window
	}
	v := routeStats{
		Route: s.route, Requests: s.Requests, ByClass: make(map[string]uint64),
		PerSecond:        rate(s.Requests, before.requests),
		ClientErrorsRate: rate(s.ByClass[4], before.client),
		ServerErrorsRate: rate(s.ByClass[5], before.server),
		InFlight:         s.InFlight, BytesIn: s.BytesIn, BytesOut: s.BytesOut,
		Latency:  &latency{milliseconds(s.P50), milliseconds(s.P95), milliseconds(s.P99)},
		Overhead: &latency{milliseconds(s.OverheadP50), milliseconds(s.OverheadP95), milliseconds(s.OverheadP99)},
	}
	for i, n := range s.ByClass {
		if n > 0 {
			v.ByClass[classes[i]] = n
		}
	}
	return v
}

func (t *routeStats) add(r *routeStats) {
	t.Requests += r.Requests
	for class, n := range r.ByClass {
		t.ByClass[class] += n
	}
	t.PerSecond += r.PerSecond
	t.ClientErrorsRate += r.ClientErrorsRate
	t.ServerErrorsRate += r.ServerErrorsRate
	t.InFlight += r.InFlight
	t.BytesIn += r.BytesIn
	t.BytesOut += r.BytesOut
}

// rates remembers earlier looks at the counters, so that there are rates without anything running in between. It is
// bounded: looks are kept a second apart, and none is older than the first that is older than wantedWindow.
type rates struct {
	mu    sync.Mutex
	looks []look
}

const (
	wantedWindow = 10 * time.Second
	apart        = time.Second
)

type look struct {
	at     time.Time
	counts map[string]counts // by route
	// Of all routes.
	durations, overheads telemetry.Distribution
}

type counts struct{ requests, client, server uint64 }

type routeSample struct {
	route string
	telemetry.RouteStats
}

// sample looks now, and returns the look to compare with. Without a snapshot it notes that there was nothing.
func (r *rates) sample(now time.Time, current *snapshot.Snapshot) (before, latest look, stats []routeSample) {
	latest = look{at: now, counts: make(map[string]counts)}
	if current != nil {
		latest.durations, latest.overheads = current.Distributions()
		for route, s := range current.RouteStats {
			stats = append(stats, routeSample{route, s})
			latest.counts[route] = counts{s.Requests, s.ByClass[4], s.ByClass[5]}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.looks) > 1 && now.Sub(r.looks[1].at) >= wantedWindow {
		r.looks = r.looks[1:]
	}
	if len(r.looks) == 0 {
		r.looks = append(r.looks, latest)
		return latest, latest, stats
	}
	before = r.looks[0]
	if now.Sub(r.looks[len(r.looks)-1].at) >= apart {
		r.looks = append(r.looks, latest)
	}
	return before, latest, stats
}
