package telemetry

import (
	"sync"
	"time"
)

// DurationBuckets are the bounds of request and upstream durations: 1, 2.5 and 5 of each decade, from what a cache hit takes to the
// default timeouts (30 s) and beyond.
var DurationBuckets = []time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	1 * time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
	30 * time.Second, 60 * time.Second,
}

// OverheadBuckets are the bounds of the gateway's own time: a pass takes microseconds, a wait for a limit or a store milliseconds.
var OverheadBuckets = []time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond,
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 1 * time.Second,
}

// Unrouted is the route and service of requests that no route took, or whose route ends in the gateway.
const Unrouted = "-"

// Options of [NewMetrics]. The zero value is usable.
type Options struct {
	Version, Commit string
	// Registry bounds the series; requests_total gets ten times its MaxSeries.
	Registry RegistryOptions
	// DurationBuckets and OverheadBuckets replace the default bounds. Few bounds keep the exposition of many thousand routes small.
	DurationBuckets, OverheadBuckets []time.Duration
}

// Metrics are all families of a gateway. Label values come from configuration, except the method and the status code of
// requests, whose number is bounded.
type Metrics struct {
	*Registry

	Requests         *Family[*Counter]   // route, service, method, code; use Route
	RPCs             *Family[*Counter]   // route, service, grpc_status; use Route
	RequestDuration  *Family[*Histogram] // route; use Route
	Overhead         *Family[*Histogram] // route; use Route
	InFlight         *Family[*Level]     // route; use Route
	Bytes            *Family[*Counter]   // direction in or out, as seen by the client; route; use Route
	UpstreamDuration *Family[*Histogram] // service; use Service
	Retries          *Family[*Counter]   // service; use Service
	BreakerHints     *Family[*Counter]   // service; use Service

	Connections        *FuncFamily       // listener, state
	ConnectionsRefused *Family[*Counter] // listener, reason
	HTTP2Errors        *Family[*Counter] // listener; scope: stream or connection; code
	CircuitState       *FuncFamily       // service, endpoint: 0 closed, 1 half-open, 2 open
	EndpointUp         *FuncFamily       // service, endpoint: 0 or 1
	CertificateExpiry  *FuncFamily       // listener, certificate
	CacheBytes         *FuncFamily       // no labels
	RateLimited        *Family[*Counter]
	AuthFailures       *Family[*Counter]
	CacheRequests      *Family[*Counter]
	CompressedBytes    *Family[*Counter] // route; coding; side: in before it, out behind it
	CompressionBytes   *FuncFamily       // no labels
	WAFRequests        *Family[*Counter] // route; result: passed, detected, blocked or too_large
	WAFMatches         *Family[*Counter] // route, rule
	OpenAPIRequests    *Family[*Counter] // route; result: passed, detected, refused or unchecked
	OpenAPIResponses   *Family[*Counter] // route; result: passed, detected or unchecked
	TenantRequests     *Family[*Counter] // tenant; code: the class of the status; use Tenant
	TenantRefused      *Family[*Counter] // tenant, reason; use Tenant
	TenantBytes        *Family[*Counter] // direction, tenant; use Tenant

	IdempotencyRequests *Family[*Counter] // route; result: first, replayed, in_flight, reused, lost, missing, malformed, too_large, full, unguarded or unavailable
	IdempotencyBytes    *FuncFamily       // no labels
	APIVersionRequests  *Family[*Counter] // route, version
	APIVersionConsumers *Family[*Counter] // consumer, version

	DiscoveryUpdates   *Family[*Counter] // service; source: its kind; result: applied or refused
	DiscoveryFailures  *Family[*Counter] // service, source
	DiscoveryAge       *FuncFamily       // service, source: seconds
	DiscoveryEndpoints *FuncFamily       // service, source

	SplitShare         *FuncFamily       // route, service: 0 to 1
	RolloutStep        *FuncFamily       // route: from 1, 0 while no step is in force
	RolloutState       *FuncFamily       // route: see package split
	RolloutTransitions *Family[*Counter] // route, to

	AggregateCalls    *Family[*Counter] // route; call by its name in the configuration; result
	MirrorRequests    *Family[*Counter] // route; service that gets the copies; result
	MirrorMismatches  *Family[*Counter] // route, service, kind: status, header or body
	MirrorDropped     *Family[*Counter] // route, service, reason
	GraphQLOperations *Family[*Counter] // route; operation, as far as the configuration names it; result: ok, errors or refused

	WebSockets        *Family[*Level]     // route; use Sockets
	WebSocketMessages *Family[*Counter]   // direction, route; use Sockets
	WebSocketBytes    *Family[*Counter]   // direction, route; use Sockets
	WebSocketCloses   *Family[*Counter]   // route; by: client, service or gateway; code; use Sockets
	StoreUp           *FuncFamily         // no labels: 0 or 1
	StoreInstances    *FuncFamily         // no labels
	StoreLent         *FuncFamily         // no labels
	StoreCalls        *Family[*Counter]   // call; result: ok or error
	StoreDuration     *Family[*Histogram] // call

	ConfigReloads    *Family[*Counter] // result: success or failure
	ConfigLastReload *Gauge            // Unix time in seconds
	TeamBroken       *FuncFamily       // team: 0 or 1
	SourceObjects    *FuncFamily       // source; state: applied or broken
	SourceAge        *FuncFamily       // source, watch: seconds

	SpansExported *Counter
	SpansDropped  *Family[*Counter] // reason: queue_full or export_failed

	AccessLogLines   *Counter
	AccessLogDropped *Counter
	AccessLogErrors  *Counter
	AuditLost        *Counter
	UsageWrites      *Family[*Counter] // result: success or failure
	UsageLost        *Counter

	mu      sync.Mutex
	routes  map[routeKey]*RouteMetrics
	sockets map[string]*SocketMetrics // by route
}

type routeKey struct{ route, service string }

// NewMetrics declares the families. It starts nothing.
func NewMetrics(o Options) *Metrics {
	if o.DurationBuckets == nil {
		o.DurationBuckets = DurationBuckets
	}
	if o.OverheadBuckets == nil {
		o.OverheadBuckets = OverheadBuckets
	}
	r := NewRegistry(o.Registry)
	m := &Metrics{Registry: r, routes: map[routeKey]*RouteMetrics{}, sockets: map[string]*SocketMetrics{}}

	m.Requests = r.Counter(Desc{
		Name:      "sluice_requests_total",
		Help:      "Requests that ended, by the status code the client was answered.",
		Labels:    []string{"route", "service", "method", "code"},
		MaxSeries: 10 * r.maxSeries,
	})
	m.RPCs = r.Counter(Desc{
		Name:   "sluice_grpc_requests_total",
		Help:   "Calls of gRPC and gRPC-Web that ended, by the status the client was told.",
		Labels: []string{"route", "service", "grpc_status"},
	})
	m.RequestDuration = r.Histogram(Desc{
		Name:   "sluice_request_duration_seconds",
		Help:   "Time from the request's head to the last byte of its response.",
		Labels: []string{"route"},
	}, o.DurationBuckets)
	m.Overhead = r.Histogram(Desc{
		Name:   "sluice_overhead_seconds",
		Help:   "Time of a request spent in the gateway rather than waiting for the backend.",
		Labels: []string{"route"},
	}, o.OverheadBuckets)
	m.InFlight = r.Level(Desc{
		Name:   "sluice_requests_in_flight",
		Help:   "Requests being served.",
		Labels: []string{"route"},
	})
	m.Bytes = r.Counter(Desc{
		Name:   "sluice_bytes_total",
		Help:   "Bytes of request bodies received from clients (in) and of response bodies sent to them (out).",
		Labels: []string{"direction", "route"},
	})
	m.UpstreamDuration = r.Histogram(Desc{
		Name:   "sluice_upstream_duration_seconds",
		Help:   "Time an attempt at a backend took to the end of its response.",
		Labels: []string{"service"},
	}, o.DurationBuckets)
	m.Retries = r.Counter(Desc{
		Name:   "sluice_retries_total",
		Help:   "Attempts at a backend after the first of a request.",
		Labels: []string{"service"},
	})
	m.Connections = r.GaugeFunc(Desc{
		Name:   "sluice_connections",
		Help:   "Client connections.",
		Labels: []string{"listener", "state"},
	})
	m.ConnectionsRefused = r.Counter(Desc{
		Name:   "sluice_connections_refused_total",
		Help:   "Client connections that were closed before they were served, by the limit or the rule that they met.",
		Labels: []string{"listener", "reason"},
	})
	m.HTTP2Errors = r.Counter(Desc{
		Name:   "sluice_http2_errors_total",
		Help:   "Streams and connections of HTTP/2 that were ended for an error of the client, by the error code of RFC 9113.",
		Labels: []string{"listener", "scope", "code"},
	})
	m.CircuitState = r.GaugeFunc(Desc{
		Name:   "sluice_circuit_state",
		Help:   "State of the circuit breaker: 0 closed, 1 half-open, 2 open.",
		Labels: []string{"service", "endpoint"},
	})
	m.BreakerHints = r.Counter(Desc{
		Name:   "sluice_breaker_hints_total",
		Help:   "Times that a closed circuit breaker, the service's or an endpoint's, was told that another instance's has opened, and took it in.",
		Labels: []string{"service"},
	})
	m.EndpointUp = r.GaugeFunc(Desc{
		Name:   "sluice_endpoint_up",
		Help:   "Whether the endpoint is given requests: 1 yes, 0 unhealthy or ejected.",
		Labels: []string{"service", "endpoint"},
	})
	m.CertificateExpiry = r.GaugeFunc(Desc{
		Name:   "sluice_certificate_expiry_timestamp_seconds",
		Help:   "When the certificate in use expires, in seconds since 1970; 0 for one that is still to be obtained.",
		Labels: []string{"listener", "certificate"},
	})
	m.CacheBytes = r.GaugeFunc(Desc{
		Name: "sluice_cache_bytes",
		Help: "Bytes held by the response cache.",
	})
	m.RateLimited = r.Counter(Desc{
		Name:   "sluice_rate_limited_total",
		Help:   "Requests over a rate limit.",
		Labels: []string{"route", "policy"},
	})
	m.AuthFailures = r.Counter(Desc{
		Name:   "sluice_auth_failures_total",
		Help:   "Requests whose authentication failed.",
		Labels: []string{"route", "reason"},
	})
	m.CacheRequests = r.Counter(Desc{
		Name:   "sluice_cache_requests_total",
		Help:   "Requests that asked the response cache.",
		Labels: []string{"route", "result"},
	})
	m.CompressedBytes = r.Counter(Desc{
		Name:   "sluice_compressed_bytes_total",
		Help:   "Bytes of response bodies that were compressed: in before and out behind the coding.",
		Labels: []string{"route", "coding", "side"},
	})
	m.CompressionBytes = r.GaugeFunc(Desc{
		Name: "sluice_compression_kept_bytes",
		Help: "Bytes held by compressed forms of stored responses.",
	})
	m.WAFRequests = r.Counter(Desc{
		Name:   "sluice_waf_requests_total",
		Help:   "Requests that the WAF inspected: passed, detected where it would have blocked, blocked, or too_large to be inspected.",
		Labels: []string{"route", "result"},
	})
	m.WAFMatches = r.Counter(Desc{
		Name:   "sluice_waf_matches_total",
		Help:   "Matches of rules of the WAF.",
		Labels: []string{"route", "rule"},
	})
	m.OpenAPIRequests = r.Counter(Desc{
		Name:   "sluice_openapi_requests_total",
		Help:   "Requests that were held to an OpenAPI document: passed, detected where they would have been refused, refused, or unchecked since the body was too large.",
		Labels: []string{"route", "result"},
	})
	m.OpenAPIResponses = r.Counter(Desc{
		Name:   "sluice_openapi_responses_total",
		Help:   "Responses that were compared with an OpenAPI document: passed, detected as different, or unchecked since they were too large or compressed.",
		Labels: []string{"route", "result"},
	})
	m.IdempotencyRequests = r.Counter(Desc{
		Name:   "sluice_idempotency_requests_total",
		Help:   "Requests with an idempotency key, or without one where it is required, by what became of them.",
		Labels: []string{"route", "result"},
	})
	m.IdempotencyBytes = r.GaugeFunc(Desc{
		Name: "sluice_idempotency_bytes",
		Help: "Bytes held by idempotency keys and their answers.",
	})
	m.APIVersionRequests = r.Counter(Desc{
		Name:   "sluice_api_version_requests_total",
		Help:   "Requests by the version of the API that they speak; unknown for one that does not exist.",
		Labels: []string{"route", "version"},
	})
	m.APIVersionConsumers = r.Counter(Desc{
		Name:   "sluice_api_version_consumer_requests_total",
		Help:   "Requests of consumers by the version of the API that they speak.",
		Labels: []string{"consumer", "version"},
	})
	m.TenantRequests = r.Counter(Desc{
		Name:   "sluice_tenant_requests_total",
		Help:   "Requests of a tenant that ended, by the class of the status code the client was answered.",
		Labels: []string{"tenant", "code"},
	})
	m.TenantRefused = r.Counter(Desc{
		Name:   "sluice_tenant_refused_total",
		Help:   "Requests of a tenant that a limit, a quota, a bound or a deadline ended, or that came from a consumer of another tenant.",
		Labels: []string{"tenant", "reason"},
	})
	m.TenantBytes = r.Counter(Desc{
		Name:   "sluice_tenant_bytes_total",
		Help:   "Bytes of a tenant's request bodies (in) and of the response bodies sent for them (out).",
		Labels: []string{"direction", "tenant"},
	})
	m.DiscoveryUpdates = r.Counter(Desc{
		Name:   "sluice_discovery_updates_total",
		Help:   "Sets of endpoints that a source of a service told of: applied, or refused since too many endpoints were missing.",
		Labels: []string{"service", "source", "result"},
	})
	m.DiscoveryFailures = r.Counter(Desc{
		Name:   "sluice_discovery_failures_total",
		Help:   "Failed attempts to ask a source for the endpoints of a service.",
		Labels: []string{"service", "source"},
	})
	m.DiscoveryAge = r.GaugeFunc(Desc{
		Name:   "sluice_discovery_age_seconds",
		Help:   "For how long a source has not confirmed the endpoints that are in force; 0 while it does.",
		Labels: []string{"service", "source"},
	})
	m.DiscoveryEndpoints = r.GaugeFunc(Desc{
		Name:   "sluice_discovery_endpoints",
		Help:   "Endpoints of a service that a source has found and that are in force.",
		Labels: []string{"service", "source"},
	})
	m.SplitShare = r.GaugeFunc(Desc{
		Name:   "sluice_split_share",
		Help:   "Share of the requests of a split that the service is to get, 0 to 1.",
		Labels: []string{"route", "service"},
	})
	m.RolloutStep = r.GaugeFunc(Desc{
		Name:   "sluice_rollout_step",
		Help:   "Number of the step that a rollout is at, from 1; 0 while none is in force.",
		Labels: []string{"route"},
	})
	m.RolloutState = r.GaugeFunc(Desc{
		Name:   "sluice_rollout_state",
		Help:   "State of a rollout: 0 running, 1 paused, 2 complete, 3 rolled back, 4 aborted, 5 overridden by weights set by hand.",
		Labels: []string{"route"},
	})
	m.RolloutTransitions = r.Counter(Desc{
		Name:   "sluice_rollout_transitions_total",
		Help:   "What happened to a rollout: started, advanced, paused, resumed, complete, rolled_back, aborted, overridden.",
		Labels: []string{"route", "to"},
	})
	m.AggregateCalls = r.Counter(Desc{
		Name:   "sluice_aggregate_calls_total",
		Help:   "Calls of aggregates: answered with what was wanted (ok), with something else (failed), not in time (timeout), not sent (skipped), given up since the request was decided (cancelled).",
		Labels: []string{"route", "call", "result"},
	})
	m.MirrorRequests = r.Counter(Desc{
		Name:   "sluice_mirror_requests_total",
		Help:   "Copies of requests: answered without a comparison (sent), answered alike (match) or differently (mismatch), not comparable (uncompared), not answered (error), not sent (dropped).",
		Labels: []string{"route", "service", "result"},
	})
	m.MirrorMismatches = r.Counter(Desc{
		Name:   "sluice_mirror_mismatches_total",
		Help:   "Differences between the answers to requests and to their copies: in status, header or body.",
		Labels: []string{"route", "service", "kind"},
	})
	m.MirrorDropped = r.Counter(Desc{
		Name:   "sluice_mirror_dropped_total",
		Help:   "Copies that were not sent: the queue was full (queue) or held too much (memory), or the request's body was not held (body).",
		Labels: []string{"route", "service", "reason"},
	})
	m.GraphQLOperations = r.Counter(Desc{
		Name:   "sluice_graphql_operations_total",
		Help:   "GraphQL requests by operation, other where the configuration does not name it.",
		Labels: []string{"route", "operation", "result"},
	})
	m.declareSockets(r)
	m.StoreUp = r.GaugeFunc(Desc{
		Name: "sluice_store_up",
		Help: "Whether the shared store answers: 1 yes, 0 the gateway goes on as on_failure says.",
	})
	m.StoreInstances = r.GaugeFunc(Desc{
		Name: "sluice_store_instances",
		Help: "Gateways that share the store, as far as this one knows.",
	})
	m.StoreLent = r.GaugeFunc(Desc{
		Name: "sluice_store_lent_keys",
		Help: "Keys of shared limits of which this gateway holds tokens, or has lately.",
	})
	m.StoreCalls = r.Counter(Desc{
		Name:   "sluice_store_calls_total",
		Help:   "Calls of the shared store: beat (I am here), lend (tokens ahead, in the background), take and return (strict limits), quota, record (idempotency), publish, purge.",
		Labels: []string{"call", "result"},
	})
	m.StoreDuration = r.Histogram(Desc{
		Name:   "sluice_store_call_duration_seconds",
		Help:   "Time from a call of the shared store to its answer, or until it was given up.",
		Labels: []string{"call"},
	}, o.OverheadBuckets)
	m.ConfigReloads = r.Counter(Desc{
		Name:   "sluice_config_reloads_total",
		Help:   "Attempts to load a configuration.",
		Labels: []string{"result"},
	})
	m.ConfigReloads.With(nil, "success")
	m.ConfigReloads.With(nil, "failure")
	m.ConfigLastReload = r.Gauge(Desc{
		Name: "sluice_config_last_reload_success_timestamp_seconds",
		Help: "Unix time at which the running configuration was loaded.",
	}).With(nil)
	m.TeamBroken = r.GaugeFunc(Desc{
		Name:   "sluice_team_config_broken",
		Help:   "Whether the files of a team are broken, so that it has what was good last: 0 or 1.",
		Labels: []string{"team"},
	})
	m.SourceObjects = r.GaugeFunc(Desc{
		Name:   "sluice_source_objects",
		Help:   "Objects that a source of routes outside of the configuration tells; those that are broken have what was good last, or nothing.",
		Labels: []string{"source", "state"},
	})
	m.SourceAge = r.GaugeFunc(Desc{
		Name:   "sluice_source_age_seconds",
		Help:   "For how long what a source of routes has told is not confirmed; 0 while it is.",
		Labels: []string{"source", "watch"},
	})
	r.Gauge(Desc{
		Name:   "sluice_build_info",
		Help:   "The program that runs; always 1.",
		Labels: []string{"version", "commit"},
	}).With(nil, o.Version, o.Commit).Set(1)
	m.SpansExported = r.Counter(Desc{
		Name: "sluice_spans_exported_total",
		Help: "Spans that the collector took.",
	}).With(nil)
	m.SpansDropped = r.Counter(Desc{
		Name:   "sluice_spans_dropped_total",
		Help:   "Spans lost: too many were waiting (queue_full), or the collector did not take them (export_failed).",
		Labels: []string{"reason"},
	})
	m.SpansDropped.With(nil, "queue_full")
	m.SpansDropped.With(nil, "export_failed")
	m.AccessLogLines = r.Counter(Desc{
		Name: "sluice_access_log_lines_total",
		Help: "Access log lines written.",
	}).With(nil)
	m.AccessLogDropped = r.Counter(Desc{
		Name: "sluice_access_log_dropped_total",
		Help: "Access log lines lost because the output was too slow or failed.",
	}).With(nil)
	m.AccessLogErrors = r.Counter(Desc{
		Name: "sluice_access_log_errors_total",
		Help: "Failed writes of the access log.",
	}).With(nil)
	m.UsageWrites = r.Counter(Desc{
		Name:   "sluice_usage_writes_total",
		Help:   "Tries to write usage into its store.",
		Labels: []string{"result"},
	})
	m.UsageWrites.With(nil, "success")
	m.UsageWrites.With(nil, "failure")
	m.UsageLost = r.Counter(Desc{
		Name: "sluice_usage_lost_total",
		Help: "Requests whose usage was lost because the store was gone for too long.",
	}).With(nil)
	m.AuditLost = r.Counter(Desc{
		Name: "sluice_audit_lost_total",
		Help: "Records of the policy audit lost because the disk was too slow or failed; the log itself says where.",
	}).With(nil)
	return m
}

// Method is a request method as a label: one of those RFC 9110 and RFC 5789 define, else other.
type Method uint8

// The zero Method is other.
const (
	MethodOther Method = iota
	MethodGet
	MethodHead
	MethodPost
	MethodPut
	MethodPatch
	MethodDelete
	MethodOptions
	MethodConnect
	MethodTrace
)

var methodNames = [...]string{other, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}

func (m Method) String() string { return methodNames[m] }

// MethodOf classifies a method; methods are case-sensitive.
func MethodOf[T string | []byte](method T) Method {
	switch string(method) {
	case "GET":
		return MethodGet
	case "HEAD":
		return MethodHead
	case "POST":
		return MethodPost
	case "PUT":
		return MethodPut
	case "PATCH":
		return MethodPatch
	case "DELETE":
		return MethodDelete
	case "OPTIONS":
		return MethodOptions
	case "CONNECT":
		return MethodConnect
	case "TRACE":
		return MethodTrace
	}
	return MethodOther
}

// ServiceMetrics are the resolved series of a service.
type ServiceMetrics struct {
	UpstreamDuration *Histogram
	Retries          *Counter
	BreakerHints     *Counter
}

// Service leases the series of a service for g (nil: for good).
func (m *Metrics) Service(g *Generation, service string) ServiceMetrics {
	return ServiceMetrics{
		UpstreamDuration: m.UpstreamDuration.With(g, service),
		Retries:          m.Retries.With(g, service),
		BreakerHints:     m.BreakerHints.With(g, service),
	}
}
