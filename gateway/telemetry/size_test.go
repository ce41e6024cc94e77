package telemetry

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What many routes and consumers expose stays what a scraper takes: 10,000 routes that are all in use, each with four
// statuses, a cache, a limit and failing credentials, behind 1,000 services, and 100,000 consumers.
func TestExpositionOfManyRoutesIsBounded(t *testing.T) {
	m := NewMetrics(Options{Registry: RegistryOptions{Process: true}})
	for i := range 10_000 {
		route, service := fmt.Sprintf("route-%05d", i), fmt.Sprintf("service-%04d", i%1000)
		r := m.Route(nil, route, service)
		r.Begin()
		for _, code := range []int{200, 404, 429, 503} {
			r.Done(&Sample{Method: MethodGet, Code: code, Duration: 3 * time.Millisecond, Overhead: time.Millisecond, BytesIn: 123_456, BytesOut: 12_345_678})
		}
		m.CacheRequests.With(nil, route, "hit").Inc()
		m.RateLimited.With(nil, route, "rate_limit").Inc()
		m.AuthFailures.With(nil, route, "expired").Inc()
		m.UpstreamDuration.With(nil, service).Observe(time.Millisecond)
	}
	for i := range 100_000 {
		m.APIVersionConsumers.With(nil, fmt.Sprintf("consumer-%06d", i), "2026-01-01").Inc()
	}
	var b strings.Builder
	n, err := m.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MiB", float64(n)/(1<<20))
	if n > 20<<20 {
		t.Errorf("%d bytes, want at most 20 MiB", n)
	}
	f := func(line string, there bool) {
		t.Helper()
		if strings.Contains(b.String(), "\n"+line) != there {
			t.Errorf("%s: got %t, want %t", line, !there, there)
		}
	}
	f(`sluice_request_duration_seconds_bucket{route="route-00000",le="0.001"} 0`, true)
	f(`sluice_request_duration_seconds_bucket{route="route-00000",le="0.01"} 4`, true)
	f(`sluice_request_duration_seconds_bucket{route="route-00000",le="+Inf"} 4`, true)
	f(`sluice_request_duration_seconds_bucket{route="route-00000",le="0.005"}`, false)
	f(`sluice_upstream_duration_seconds_bucket{service="service-0000",le="0.005"} 10`, true) // of which there are fewer
}
