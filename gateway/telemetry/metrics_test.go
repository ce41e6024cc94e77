package telemetry

import (
	"io"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTestMetrics() *Metrics {
	return NewMetrics(Options{Version: "v1", Commit: "abc", Registry: RegistryOptions{Process: true}})
}

func TestMetricsContract(t *testing.T) {
	m := newTestMetrics()
	e := scrape(t, m)
	for family, kind := range map[string]string{
		"sluice_requests_total":                               "counter",
		"sluice_request_duration_seconds":                     "histogram",
		"sluice_upstream_duration_seconds":                    "histogram",
		"sluice_overhead_seconds":                             "histogram",
		"sluice_requests_in_flight":                           "gauge",
		"sluice_connections":                                  "gauge",
		"sluice_connections_refused_total":                    "counter",
		"sluice_bytes_total":                                  "counter",
		"sluice_rate_limited_total":                           "counter",
		"sluice_auth_failures_total":                          "counter",
		"sluice_circuit_state":                                "gauge",
		"sluice_endpoint_up":                                  "gauge",
		"sluice_retries_total":                                "counter",
		"sluice_cache_requests_total":                         "counter",
		"sluice_cache_bytes":                                  "gauge",
		"sluice_config_reloads_total":                         "counter",
		"sluice_config_last_reload_success_timestamp_seconds": "gauge",
		"sluice_build_info":                                   "gauge",
		"go_goroutines":                                       "gauge",
		"process_resident_memory_bytes":                       "gauge",
		"process_cpu_seconds_total":                           "counter",
		"process_open_fds":                                    "gauge",
	} {
		if e.kinds[family] != kind {
			t.Errorf("%s is a %q, want %q", family, e.kinds[family], kind)
		}
	}
	e.want(t, `sluice_build_info{version="v1",commit="abc"}`, 1)
	e.want(t, `sluice_config_reloads_total{result="failure"}`, 0)
	if e.samples["process_open_fds"] < 3 || e.samples["go_goroutines"] < 1 {
		t.Error("the process is not told about")
	}

	m.ConfigLastReload.Set(1767225600.5)
	m.CacheBytes.With(nil, func() float64 { return 4096 })
	m.Connections.With(nil, func() float64 { return 7 }, "main", "idle")
	m.RateLimited.With(nil, "users", "rate_limit").Add(3)
	svc := m.Service(nil, "users")
	svc.Retries.Inc()
	svc.UpstreamDuration.Observe(100 * time.Microsecond)
	r := m.Route(nil, "users", "users")
	r.Begin()
	r.Begin()
	r.Done(&Sample{Method: MethodGet, Code: 200, Duration: 3 * time.Millisecond, Overhead: 20 * time.Microsecond, BytesIn: 10, BytesOut: 20})
	m.Route(nil, "-", "-").Begin()
	e = scrape(t, m)
	e.want(t, "sluice_config_last_reload_success_timestamp_seconds", 1767225600.5)
	e.want(t, "sluice_cache_bytes", 4096)
	e.want(t, `sluice_connections{listener="main",state="idle"}`, 7)
	e.want(t, `sluice_rate_limited_total{route="users",policy="rate_limit"}`, 3)
	e.want(t, `sluice_retries_total{service="users"}`, 1)
	e.want(t, `sluice_upstream_duration_seconds_bucket{service="users",le="0.0001"}`, 1)
	e.want(t, `sluice_requests_total{route="users",service="users",method="GET",code="200"}`, 1)
	e.want(t, `sluice_request_duration_seconds_bucket{route="users",le="0.0025"}`, 0)
	e.want(t, `sluice_request_duration_seconds_bucket{route="users",le="0.005"}`, 1)
	e.want(t, `sluice_request_duration_seconds_bucket{route="users",le="+Inf"}`, 1)
	e.want(t, `sluice_request_duration_seconds_sum{route="users"}`, 0.003)
	e.want(t, `sluice_overhead_seconds_bucket{route="users",le="2.5e-05"}`, 1)
	e.want(t, `sluice_requests_in_flight{route="users"}`, 1)
	e.want(t, `sluice_bytes_total{direction="in",route="users"}`, 10)
	e.want(t, `sluice_bytes_total{direction="out",route="users"}`, 20)
	e.wantNone(t, `duration_seconds_count{route="-"}`) // never used, not written

	s := r.Stats()
	if s.Requests != 1 || s.ByClass[2] != 1 || s.InFlight != 1 || s.BytesIn != 10 || s.BytesOut != 20 || s.P50 < 2500*time.Microsecond || s.P99 > 5*time.Millisecond {
		t.Errorf("unexpected stats %+v", s)
	}
}

func TestSeriesSurviveReload(t *testing.T) {
	m := newTestMetrics()
	old := m.Begin()
	kept, dropped := m.Route(old, "kept", "a"), m.Route(old, "dropped", "a")
	limited := m.RateLimited.With(old, "kept", "rate_limit")
	limited.Inc()
	for _, r := range []*RouteMetrics{kept, dropped} {
		r.Begin()
		r.Done(&Sample{Method: MethodGet, Code: 200})
	}

	next := m.Begin()
	if m.Route(next, "kept", "a") != kept || m.RateLimited.With(next, "kept", "rate_limit") != limited {
		t.Fatal("the next configuration has other handles")
	}
	split := m.Route(next, "kept", "b")
	old.Close()
	old.Close()
	// What is still in flight with the old configuration counts on.
	dropped.Begin()
	dropped.Done(&Sample{Method: MethodPost, Code: 500})
	kept.Begin()
	split.Done(&Sample{Method: MethodGet, Code: 200})

	e := scrape(t, m)
	e.want(t, `sluice_requests_total{route="kept",service="a",method="GET",code="200"}`, 1)
	e.want(t, `sluice_requests_total{route="kept",service="b",method="GET",code="200"}`, 1)
	e.want(t, `sluice_requests_in_flight{route="kept"}`, 0)
	e.want(t, `sluice_request_duration_seconds_count{route="kept"}`, 2)
	e.want(t, `sluice_rate_limited_total{route="kept",policy="rate_limit"}`, 1)
	e.wantNone(t, `"dropped"`)

	m.RateLimited.With(old, "late", "rate_limit").Inc() // of a closed generation: usable, unseen
	next.Close()
	e = scrape(t, m)
	e.wantNone(t, "route=")
	if len(m.routes) != 0 {
		t.Error("routes are kept that nobody leases")
	}
}

func TestGaugeFuncYoungestLeaseAnswers(t *testing.T) {
	m := newTestMetrics()
	const series = `sluice_circuit_state{service="s",endpoint="e"}`
	with := func(g *Generation, v float64) {
		m.CircuitState.With(g, func() float64 { return v }, "s", "e")
	}
	first, failed, second := m.Begin(), m.Begin(), m.Begin()
	with(first, 1)
	with(failed, 2)
	scrape(t, m).want(t, series, 2)
	failed.Close() // a configuration that was given up
	scrape(t, m).want(t, series, 1)
	with(second, 0)
	first.Close()
	scrape(t, m).want(t, series, 0)
	second.Close()
	scrape(t, m).wantNone(t, "circuit_state")
}

func TestBounds(t *testing.T) {
	m := NewMetrics(Options{Registry: RegistryOptions{MaxSeries: 2}})
	g := m.Begin()
	for i := range 5 {
		m.AuthFailures.With(g, strconv.Itoa(i), "expired").Inc()
		m.EndpointUp.With(g, func() float64 { return 1 }, "s", strconv.Itoa(i))
	}
	e := scrape(t, m)
	e.want(t, `sluice_auth_failures_total{route="1",reason="expired"}`, 1)
	e.want(t, `sluice_auth_failures_total{route="other",reason="other"}`, 3)
	e.want(t, `sluice_metrics_overflow_total{family="sluice_auth_failures_total"}`, 3)
	e.want(t, `sluice_endpoint_up{service="s",endpoint="1"}`, 1)
	e.wantNone(t, `endpoint="2"`)
	g.Close()
	// There is room again, and the rest has kept its number.
	m.AuthFailures.With(nil, "9", "expired").Inc()
	e = scrape(t, m)
	e.want(t, `sluice_auth_failures_total{route="9",reason="expired"}`, 1)
	e.want(t, `sluice_auth_failures_total{route="other",reason="other"}`, 3)

	// A backend that makes up status codes.
	m = newTestMetrics()
	r := m.Route(nil, "r", "s")
	total := 0
	for code := -1; code < 1000; code++ {
		for _, method := range []string{"GET", "get", "BREW"} {
			r.Begin()
			r.Done(&Sample{Method: MethodOf(method), Code: code})
			total++
		}
	}
	if n := len(m.Requests.family.series); n > maxRequestSeries+1 {
		t.Errorf("%d series of requests", n)
	}
	if s := r.Stats(); s.Requests != uint64(total) || s.InFlight != 0 {
		t.Errorf("%+v, want %d requests", s, total)
	}
	e = scrape(t, m)
	e.want(t, `sluice_requests_total{route="r",service="s",method="GET",code="100"}`, 1)
	e.want(t, `sluice_requests_total{route="r",service="s",method="other",code="100"}`, 2)
}

func TestLabelValuesEscaped(t *testing.T) {
	f := func(value, want string) {
		t.Helper()
		m := newTestMetrics()
		m.Retries.With(nil, value).Inc()
		scrape(t, m).want(t, `sluice_retries_total{service="`+want+`"}`, 1)
	}
	f("plain", "plain")
	f("", "")
	f(`a"b\c`+"\nd", `a\"b\\c\nd`)
	f("grün, {x}", "grün, {x}")
	f("bad\xff", "bad\ufffd")
	f(`x"} 1`+"\n"+`fake_total 5`, `x\"} 1\nfake_total 5`)

	// Values that read the same are one series.
	m := newTestMetrics()
	if m.Retries.With(nil, "\xff") != m.Retries.With(nil, "\xfe") {
		t.Error("two series would be written alike")
	}
}

func TestDeclareFailure(t *testing.T) {
	r := NewRegistry(RegistryOptions{})
	r.Gauge(Desc{Name: "taken", Help: "x"})
	f := func(declare func()) {
		t.Helper()
		defer func() {
			if p, _ := recover().(string); !strings.HasPrefix(p, "BUG: ") {
				t.Errorf("no BUG but %q", p)
			}
		}()
		declare()
	}
	f(func() { r.Gauge(Desc{Name: "taken", Help: "x"}) })
	f(func() { r.Gauge(Desc{Name: "no_help"}) })
	f(func() { r.Gauge(Desc{Name: "9x", Help: "x"}) })
	f(func() { r.Counter(Desc{Name: "requests", Help: "x"}) })
	f(func() { r.Gauge(Desc{Name: "g", Help: "x", Labels: []string{"le"}}) })
	f(func() { r.Gauge(Desc{Name: "g", Help: "x", Labels: []string{"a", "a"}}) })
	f(func() { r.Histogram(Desc{Name: "h", Help: "x"}, nil) })
	f(func() { r.Histogram(Desc{Name: "h", Help: "x"}, []time.Duration{2, 1}) })
	f(func() { r.Gauge(Desc{Name: "arity", Help: "x", Labels: []string{"a"}}).With(nil) })
	f(func() { NewRegistry(RegistryOptions{Stripes: 3}) })
}

func TestHistogramBuckets(t *testing.T) {
	h := newHistogram(newHistogramShape(DurationBuckets), 4)
	naive := make([]uint64, len(DurationBuckets)+1)
	count := func(d time.Duration) {
		h.Observe(d)
		i := 0
		for i < len(DurationBuckets) && max(0, d) > DurationBuckets[i] {
			i++
		}
		naive[i]++
	}
	for _, b := range DurationBuckets {
		count(b - 1)
		count(b)
		count(b + 1)
	}
	count(0)
	count(-1)
	count(math.MaxInt64 / 2)
	for range 10000 {
		count(time.Duration(rand.Int64N(int64(1) << rand.IntN(40))))
	}
	var have [101]uint64
	total, _ := h.read(have[:])
	for i, want := range naive {
		if have[i] != want {
			t.Errorf("bucket %d has %d, want %d", i, have[i], want)
		}
	}
	if total != h.Count() || h.Quantile(1) != 60*time.Second || h.Quantile(0) > 100*time.Microsecond {
		t.Error("unexpected count or quantile")
	}
	if newHistogram(newHistogramShape(DurationBuckets), 1).Quantile(.5) != 0 {
		t.Error("an empty histogram has a median")
	}
}

func TestMethodOf(t *testing.T) {
	for m := MethodGet; m <= MethodTrace; m++ {
		if MethodOf(m.String()) != m || MethodOf([]byte(m.String())) != m {
			t.Errorf("%s is not recognised", m)
		}
	}
	for _, s := range []string{"", "get", "PROPFIND", "other", "GET "} {
		if MethodOf(s) != MethodOther {
			t.Errorf("%q is a method", s)
		}
	}
}

// Counting, scraping and reloading at once loses nothing.
func TestConcurrentUse(t *testing.T) {
	m := newTestMetrics()
	const workers, rounds = 8, 500
	running := m.Begin()
	m.Route(running, "r", "s")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				g := m.Begin()
				r := m.Route(g, "r", "s")
				m.CircuitState.With(g, func() float64 { return 0 }, "s", strconv.Itoa(w))
				r.Begin()
				r.Done(&Sample{Method: MethodGet, Code: 200 + (w+i)%100, Duration: time.Millisecond, BytesIn: 1})
				if i%100 == 0 {
					if _, err := m.WriteTo(io.Discard); err != nil {
						t.Error(err)
					}
				}
				g.Close()
			}
		})
	}
	wg.Wait()
	if s := m.Route(running, "r", "s").Stats(); s.Requests != workers*rounds || s.BytesIn != workers*rounds || s.InFlight != 0 {
		t.Errorf("lost: %+v", s)
	}
	e := scrape(t, m)
	e.want(t, `sluice_request_duration_seconds_count{route="r"}`, workers*rounds)
	e.wantNone(t, "sluice_circuit_state")
}

func TestThousandsOfRoutes(t *testing.T) {
	m := newTestMetrics()
	const routes = fullyStripedSeries + 100
	for i := range routes {
		r := m.Route(nil, "route-"+strconv.Itoa(i), "s")
		r.Begin()
		r.Done(&Sample{Method: MethodGet, Code: 200, Duration: time.Second})
	}
	level := m.InFlight.With(nil, "route-0")
	level.Add(5)
	level.Dec()
	e := scrape(t, m)
	e.want(t, `sluice_requests_in_flight{route="route-0"}`, 4)
	for i := range routes {
		e.want(t, `sluice_request_duration_seconds_count{route="route-`+strconv.Itoa(i)+`"}`, 1)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriteToFailure(t *testing.T) {
	if _, err := newTestMetrics().WriteTo(failingWriter{}); err != io.ErrClosedPipe {
		t.Errorf("got %v", err)
	}
}
