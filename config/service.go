package config

// Service is a backend: where it is, how to reach it, and how to treat it when it fails.
type Service struct {
	// Name of the service; that of a team's is TEAM/NAME.
	Name string `yaml:"-" key:"true"`
	// Team that the service belongs to, "" for none.
	Team string `yaml:"-"`
	// Source that the service comes from, one of `sources`, "" for the files.
	Source string `yaml:"-"`
	// Protocol spoken to the endpoints: HTTP/1.1 for `http` and `https`; HTTP/2 without TLS for `h2c` and `grpc`, over TLS for `grpcs`. To services of gRPC calls pass as they are, streams in both directions at once and not bounded by `limits.max_body_size`; calls of gRPC-Web, also over HTTP/1.1, are translated. `graphql` is GraphQL over plain HTTP/1.1: a route with `service` alone checks its requests as the action `graphql` does with its defaults; a `split` passes them on unchecked.
	Protocol string `yaml:"protocol" enum:"http|https|h2c|grpc|grpcs|graphql" default:"http"`
	// Endpoints are the servers. Each is a URL, or a block with `url`, `weight` and `zone`.
	Endpoints []Endpoint `yaml:"endpoints"`
	// Discovery finds the endpoints instead: dns, consul, etcd, kubernetes or file. Off when left out, or empty.
	Discovery Discovery `yaml:"discovery" default:"off"`
	// LoadBalancer chooses an endpoint for each request.
	LoadBalancer LoadBalancer `yaml:"load_balancer"`
	// HealthCheck asks every endpoint regularly. Off when left out.
	HealthCheck HealthCheck `yaml:"health_check" default:"off"`
	// OutlierDetection takes an endpoint that fails out of the choice for a while. The last healthy one is never ejected.
	OutlierDetection OutlierDetection `yaml:"outlier_detection"`
	// CircuitBreaker stops sending to what keeps failing, for the service and for each endpoint. With `state.redis`, one that
	// opens at an instance is a hint to the others: within `open_for`, 5m at most, theirs opens at the first failure they see
	// themselves, unless a success comes before.
	CircuitBreaker CircuitBreaker `yaml:"circuit_breaker"`
	// Timeouts of a request to this service. `off` waits for ever.
	Timeouts Timeouts `yaml:"timeouts"`
	// Retries repeat what failed and may be repeated.
	Retries Retries `yaml:"retries"`
	// Connections bound the pool of each endpoint.
	Connections Connections `yaml:"connections"`
	// PassHost sends the client's Host to the service, instead of the endpoint's own.
	PassHost bool `yaml:"pass_host" default:"false"`
	// Host to send to the service, instead of the endpoint's own.
	Host string `yaml:"host"`
	// TLS to the endpoints, for the protocols over TLS. Left out: the system's authorities, no client certificate.
	TLS ServiceTLS `yaml:"tls" default:"off"`
	// Policies of every route that leads here, unless the route or the consumer has the same policy.
	Policies Policies `yaml:"policies"`
}

// IsGRPC tells whether the service is called by gRPC.
func (s *Service) IsGRPC() bool { return s.Protocol == "grpc" || s.Protocol == "grpcs" }

// Endpoint is one server of a service. Written as a text it is its URL.
type Endpoint struct {
	// URL of the server: scheme, host and port, and a base path that is kept before every request's path; or `unix:/path`.
	URL string `yaml:"url" required:"true"`
	// Weight is the share of requests relative to the other endpoints; 0 gets none.
	Weight int `yaml:"weight" default:"1" min:"0" max:"1000000"`
	// Zone the server stands in.
	Zone string `yaml:"zone"`
}

// Shorthand names the setting that a plain text stands for.
func (Endpoint) Shorthand() string { return "url" }

// LoadBalancer chooses an endpoint. Written as a text it is its strategy.
type LoadBalancer struct {
	// Strategy of the choice. `consistent_hash` is written with `by` beside it, or as `{consistent_hash: {by: …}}`.
	Strategy string `yaml:"strategy" enum:"round_robin|random|least_request|peak_ewma|consistent_hash" default:"peak_ewma"`
	// By is what `consistent_hash` hashes: `consumer`, `ip`, `path`, `header:NAME`, `cookie:NAME` or `query:NAME`.
	By string `yaml:"by"`
	// SlowStart is the time in which a new or recovered endpoint grows to its full share; 0s: at once.
	SlowStart Duration `yaml:"slow_start" default:"0s"`
}

// Shorthand names the setting that a plain text stands for.
func (LoadBalancer) Shorthand() string { return "strategy" }

// normalize rewrites {consistent_hash: {by: x}}, beside or under strategy, to strategy and by.
func (*LoadBalancer) normalize(n *node) {
	const name = "consistent_hash"
	if n.kind != mapping {
		return
	}
	from := n
	if s := n.child("strategy"); s != nil && s.kind == mapping && len(s.fields) == 1 {
		from = s
	}
	hash := from.child(name)
	if hash == nil || hash.kind == scalar || hash.kind == sequence {
		return
	}
	strategy := n.child("strategy")
	if from == n && strategy != nil && strategy.text != name {
		return
	}
	n.remove(name)
	n.put("strategy", &node{kind: scalar, text: name, src: hash.src, line: hash.keyLine, column: hash.keyColumn, keyLine: hash.keyLine, keyColumn: hash.keyColumn})
	for _, f := range hash.fields {
		n.put(f.key, f.value)
	}
}

// HealthCheck asks every endpoint regularly whether it works.
type HealthCheck struct {
	// Off: endpoints are not asked.
	Off bool `yaml:"-"`
	// Path that is asked with GET; a 2xx answer is healthy. Services of gRPC are asked by the health protocol of gRPC instead.
	Path string `yaml:"path" default:"/health"`
	// GRPC is the service that is asked for by the health protocol of gRPC, `grpc.health.v1`, where the protocol is `grpc`, `grpcs` or `h2c`. Default for `grpc` and `grpcs`: the server as a whole.
	GRPC string `yaml:"grpc"`
	// Interval between two questions to one endpoint.
	Interval Duration `yaml:"interval" default:"5s" min:"10ms"`
	// Timeout of one question.
	Timeout Duration `yaml:"timeout" default:"1s" min:"1ms"`
	// Healthy is how many good answers in a row bring an endpoint back.
	Healthy int `yaml:"healthy" default:"2" min:"1"`
	// Unhealthy is how many bad answers in a row take an endpoint out.
	Unhealthy int `yaml:"unhealthy" default:"3" min:"1"`
}

// OutlierDetection takes an endpoint that fails out of the choice for a while.
type OutlierDetection struct {
	// Off: nothing is ejected.
	Off bool `yaml:"-"`
	// ConsecutiveErrors in a row eject an endpoint.
	ConsecutiveErrors int `yaml:"consecutive_errors" default:"5" min:"1"`
	// Ejection is how long an endpoint stays out.
	Ejection Duration `yaml:"ejection" default:"30s" min:"1ms"`
	// MaxEjected is the largest share of the endpoints that may be out at a time.
	MaxEjected Percent `yaml:"max_ejected" default:"50%"`
}

// CircuitBreaker stops sending to what keeps failing. 5xx answers and timeouts are failures, client errors are not.
type CircuitBreaker struct {
	// Off: requests are always sent, and `/health` reads `off`.
	Off bool `yaml:"-"`
	// ConsecutiveFailures in a row open the breaker; 0: they do not.
	ConsecutiveFailures int `yaml:"consecutive_failures" default:"5" min:"0"`
	// ErrorRatio of the requests in the window opens the breaker, from `min_requests` on; 0%: it does not.
	ErrorRatio Percent `yaml:"error_ratio" default:"50%"`
	// MinRequests in the window before `error_ratio` counts.
	MinRequests int `yaml:"min_requests" default:"20" min:"1"`
	// Window over which the ratio is taken.
	Window Duration `yaml:"window" default:"10s" min:"10ms"`
	// OpenFor is how long an open breaker refuses before it tries again.
	OpenFor Duration `yaml:"open_for" default:"30s" min:"1ms"`
	// HalfOpenRequests is how many trial requests may be in flight while half-open.
	HalfOpenRequests int `yaml:"half_open_requests" default:"1" min:"1"`
}

// Timeouts of a request to a service. 0s is no timeout.
type Timeouts struct {
	// Off: there are no timeouts.
	Off bool `yaml:"-"`
	// Connect is the time for a new connection, with TLS.
	Connect Duration `yaml:"connect" default:"5s"`
	// Response is the time until the response head.
	Response Duration `yaml:"response" default:"30s"`
}

// Retries repeat a request that failed before its first response byte, if it may be repeated.
type Retries struct {
	// Off: nothing is repeated.
	Off bool `yaml:"-"`
	// Attempts after the first.
	Attempts int `yaml:"attempts" default:"2" min:"0" max:"10"`
	// Budget bounds retries to this share of the service's requests.
	Budget Percent `yaml:"budget" default:"20%"`
	// When to retry: `connect_failure`, `reset`, `timeout`, a status of the 5xx, or one of gRPC, as `unavailable`: where the service answered with that alone, whatever the call was.
	When []string `yaml:"when" default:"connect_failure,reset,502,503,504"`
}

// Connections bound the pool of each endpoint.
type Connections struct {
	// MaxPerEndpoint bounds open connections to one endpoint.
	MaxPerEndpoint int `yaml:"max_per_endpoint" default:"1024" min:"1"`
	// IdleTimeout closes a pooled connection unused for this long.
	IdleTimeout Duration `yaml:"idle_timeout" default:"50s" min:"1ms"`
}

// ServiceTLS is TLS to the endpoints.
type ServiceTLS struct {
	// Off: nothing is configured; a protocol over TLS uses the system's authorities.
	Off bool `yaml:"-"`
	// CA is the file of the authorities to verify against, PEM, or the PEM itself. Default: the system's.
	CA string `yaml:"ca"`
	// Cert is the file of the client certificate, PEM, or the PEM itself.
	Cert string `yaml:"cert"`
	// Key is the file of the client certificate's key, PEM, or the PEM itself.
	Key string `yaml:"key"`
	// ServerName to verify and to send by SNI. Default: the endpoint's host.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
}
