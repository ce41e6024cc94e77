package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"sluice/config"
	"sluice/gateway/breaker"
	"sluice/gateway/discovery"
	"sluice/gateway/exchange"
	"sluice/gateway/lifetime"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream/balance"
)

// Environment is what services are compiled in.
type Environment struct {
	// Living holds pools, breakers and endpoints across configurations; Leases this one's hold on them.
	Living *lifetime.Pool[string, any]
	Leases *lifetime.Set
	// Metrics are the process's; Generation holds this configuration's series.
	Metrics    *telemetry.Metrics
	Generation *telemetry.Generation
	Clock      *exchange.Clock
	Sweeper    *Sweeper
	Log        *slog.Logger
	// Opened, which may be nil, is told of each circuit breaker that finds out by itself that a service, or an endpoint
	// where that is not "", fails; of the same one once a second at most. It outlives the configuration, and must not wait.
	Opened func(service, endpoint string)
	// Resolve maps host:port to another address to dial.
	Resolve map[string]string
	// Stall is the stall timeout of bodies.
	Stall time.Duration
	// Sources are the kinds of discovery by name; StateDir keeps what they found, "" for nowhere.
	Sources  map[string]*discovery.Definition
	StateDir string
	// DryRun: nothing may be opened or started.
	DryRun bool
}

// Compile builds a service. Errors name the setting below the service's own path.
func Compile(env *Environment, sc *config.Service) (*Service, error) {
	s := &Service{
		name:     sc.Name,
		passHost: sc.PassHost,
		http2:    speaksHTTP2(sc.Protocol),
		rpc:      sc.IsGRPC(),
		sweeper:  env.Sweeper,
		stall:    env.Stall,
		metrics:  env.Metrics.Service(env.Generation, sc.Name),
		sockets:  &socketMetrics{metrics: env.Metrics, generation: env.Generation, byRoute: make(map[*exchange.Route]*telemetry.SocketMetrics)},
	}
	if !sc.Timeouts.Off {
		s.response = sc.Timeouts.Response
	}
	s.retries = newRetryRules(RetriesOf(sc.Retries))
	s.budget = env.living("retry_budget", sc.Name, func() any { return newRetryBudget() }).(*retryBudget)
	s.budget.share.Store(int64(float64(sc.Retries.Budget) * 1000))
	s.breaker = compileBreaker(env, "breaker", sc.Name, "", sc.CircuitBreaker)

	b, err := newBuilder(env, sc)
	if err != nil {
		return nil, err
	}
	if b.options.Strategy == balance.ConsistentHash {
		if s.keyOf, err = hashKey(sc.LoadBalancer.By); err != nil {
			return nil, fmt.Errorf("load_balancer.by: %w", err)
		}
	}
	s.live = new(atomic.Pointer[choice])
	if !sc.Discovery.Off {
		s.feed, err = openFeed(b, s.live)
		return s, err
	}
	servers := make([]server, len(sc.Endpoints))
	for i, ec := range sc.Endpoints {
		servers[i] = server{Endpoint: ec}
	}
	c, at, err := b.build(env.Leases, env.Generation, servers)
	if err != nil {
		return nil, fmt.Errorf("endpoints[%d]: %w", at, err)
	}
	s.live.Store(c)
	return s, nil
}

// living leases state of a service for the configuration.
func (env *Environment) living(kind, service string, make func() any) any {
	v, err := lifetime.Hold(env.Leases, env.Living, kind+"/"+service, func() (any, error) { return make(), nil })
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return v
}

// speaksHTTP2 reports whether a protocol is spoken over HTTP/2.
func speaksHTTP2(protocol string) bool {
	switch protocol {
	case "h2c", "grpc", "grpcs":
		return true
	}
	return false
}

// RetriesOf returns the retry rules of a configuration block.
func RetriesOf(r config.Retries) RetrySettings {
	if r.Off {
		return RetrySettings{}
	}
	return RetrySettings{Attempts: r.Attempts, When: r.When}
}

func compileBreaker(env *Environment, identity, service, endpoint string, c config.CircuitBreaker) *breaker.Breaker {
	settings := breaker.Settings{
		ConsecutiveFailures: c.ConsecutiveFailures, ErrorRatio: float64(c.ErrorRatio), MinRequests: c.MinRequests,
		Window: c.Window, OpenFor: c.OpenFor, HalfOpenRequests: c.HalfOpenRequests,
	}
	if c.Off {
		return nil
	}
	log, clock, opened := env.Log, env.Clock, env.Opened // alone: the breaker outlives the environment
	b := env.living(identity, service, func() any {
		next := int64(math.MinInt64) // when it may be told of again
		return breaker.New(settings, func(from, to breaker.State, why breaker.Cause) {
			log.Warn("circuit breaker", "service", service, "endpoint", endpoint, "from", from.String(), "to", to.String(), "cause", string(why))
			if opened == nil || to != breaker.Open || !why.IsOwn() {
				return
			}
			if now := clock.Now(); now >= next {
				next = now + int64(time.Second)
				opened(service, endpoint)
			}
		})
	}).(*breaker.Breaker)
	b.Configure(settings)
	return b
}

// ClientTLS builds the TLS settings of a client, and an identity that changes
// when they or the contents of their files do. Its errors begin with the setting.
func ClientTLS(t *config.ServiceTLS) (*tls.Config, string, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	if t.Off {
		return c, "tls", nil
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %v ", t.ServerName, t.InsecureSkipVerify)
	c.ServerName, c.InsecureSkipVerify = t.ServerName, t.InsecureSkipVerify
	if t.CA != "" {
		pem, err := readPEM(t.CA)
		if err != nil {
			return nil, "", fmt.Errorf("tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("tls.ca: %s holds no PEM certificate", nameOf(t.CA))
		}
		sum.Write(pem)
	}
	if t.Cert != "" || t.Key != "" {
		cert, err := readPEM(t.Cert)
		if err != nil {
			return nil, "", fmt.Errorf("tls.cert: %w", err)
		}
		key, err := readPEM(t.Key)
		if err != nil {
			return nil, "", fmt.Errorf("tls.key: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, "", fmt.Errorf("tls.cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
		for _, der := range pair.Certificate {
			sum.Write(der)
		}
	}
	return c, "tls:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// readPEM reads a file, or takes the PEM that stands in its place.
func readPEM(pathOrPEM string) ([]byte, error) {
	if strings.Contains(pathOrPEM, "-----BEGIN") {
		return []byte(pathOrPEM), nil
	}
	return os.ReadFile(pathOrPEM)
}

// nameOf is what a message calls it.
func nameOf(pathOrPEM string) string {
	if strings.Contains(pathOrPEM, "-----BEGIN") {
		return "the text"
	}
	return pathOrPEM
}

// hashKey compiles what consistent_hash hashes.
func hashKey(by string) (func(x *exchange.Exchange, dst []byte) []byte, error) {
	kind, name, _ := strings.Cut(by, ":")
	switch {
	case kind == "consumer":
		return func(x *exchange.Exchange, dst []byte) []byte { return x.Caller(dst) }, nil
	case kind == "ip":
		return func(x *exchange.Exchange, dst []byte) []byte { return x.ClientAddr.AppendTo(dst) }, nil
	case kind == "path":
		return func(x *exchange.Exchange, dst []byte) []byte { return append(dst, x.Path...) }, nil
	case kind == "header" && name != "":
		name = http.CanonicalHeaderKey(name)
		return func(x *exchange.Exchange, dst []byte) []byte { return append(dst, x.RequestHeader(name)...) }, nil
	case kind == "cookie" && name != "":
		return func(x *exchange.Exchange, dst []byte) []byte { return append(dst, x.Cookie(name)...) }, nil
	case kind == "query" && name != "":
		return func(x *exchange.Exchange, dst []byte) []byte {
			return append(dst, x.Request.URI().QueryArgs().Peek(name)...)
		}, nil
	}
	return nil, fmt.Errorf("%q is none of consumer, ip, path, header:NAME, cookie:NAME, query:NAME", by)
}

// StartChecks starts the active health checks of a service, nil without any.
// Start a successor before the predecessor is closed, so that verdicts live on.
func (s *Service) StartChecks(env *Environment, hc config.HealthCheck) *balance.Checker {
	if hc.Off {
		return nil
	}
	checker := balance.NewChecker(balance.Check{
		Interval: hc.Interval, Timeout: hc.Timeout, Healthy: hc.Healthy, Unhealthy: hc.Unhealthy,
		Now: env.Clock.Now,
		Probe: func(ctx context.Context, e *balance.Endpoint) error {
			return s.probe(ctx, e, &hc)
		},
		Changed: func(e *balance.Endpoint, up bool, cause error) {
			attrs := []any{"service", s.name, "endpoint", e.Address, "up", up}
			if cause != nil {
				attrs = append(attrs, "cause", cause.Error())
			}
			env.Log.Warn("health check", attrs...)
		},
	})
	if s.feed != nil {
		s.feed.check(checker)
	} else {
		checker.Watch(s.live.Load().states())
	}
	checker.Start()
	return checker
}

// probe asks one endpoint over a connection of its own: a check must not find
// the pool exhausted.
func (s *Service) probe(ctx context.Context, e *balance.Endpoint, hc *config.HealthCheck) error {
	var ep *endpoint
	for _, candidate := range s.live.Load().endpoints {
		if candidate.Endpoint == e {
			ep = candidate
		}
	}
	if ep == nil {
		return errors.New("not an endpoint of this service")
	}
	if s.http2 {
		return s.probeStream(ctx, ep, hc)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ep.pool.dialRaw(ctx)
		},
		TLSClientConfig: ep.pool.settings.TLS,
	}
	defer transport.CloseIdleConnections()
	scheme := "http"
	if ep.pool.settings.TLS != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+string(ep.host)+string(ep.basePath)+hc.Path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "sluice-health-check")
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// State reads open when the service's own breaker or those of all its
// endpoints are open, half-open while probing, else closed; off without breakers.
func (s *Service) State(now int64) string {
	if s.breaker == nil {
		return "off"
	}
	state := s.breaker.State(now)
	if state != breaker.Closed {
		return state.String()
	}
	open, half := 0, 0
	endpoints := s.live.Load().endpoints
	for _, ep := range endpoints {
		switch ep.breaker.State(now) {
		case breaker.Open:
			open++
		case breaker.HalfOpen:
			half++
		}
	}
	switch {
	case len(endpoints) > 0 && open == len(endpoints):
		return "open"
	case half > 0 && open+half == len(endpoints):
		return "half-open"
	}
	return "closed"
}

// EndpointView is one endpoint as operators see it.
type EndpointView struct {
	Endpoint    string  `json:"endpoint"`
	Weight      int     `json:"weight"`
	Up          bool    `json:"up"`
	Unhealthy   bool    `json:"unhealthy"`
	EjectedFor  string  `json:"ejected_for,omitempty"`
	Breaker     string  `json:"breaker"`
	InFlight    int64   `json:"in_flight"`
	LatencyMS   float64 `json:"latency_ms"`
	Connections int     `json:"connections"`
	Zone        string  `json:"zone,omitempty"`
	// Draining: it gets no new requests and ends what it has, because an operator wants so or, Leaving, it was found no more.
	Draining bool `json:"draining"`
	Leaving  bool `json:"leaving,omitempty"`
}

// Endpoints shows the endpoints.
func (s *Service) Endpoints(now int64) []EndpointView {
	var views []EndpointView
	c := s.live.Load()
	for i, m := range c.set.Members() {
		v := c.endpoints[i].view(now)
		v.Weight, v.Zone = m.Weight, m.Zone
		views = append(views, v)
	}
	if s.feed != nil {
		for _, ep := range s.feed.leaving() {
			v := ep.view(now)
			v.Up, v.Draining, v.Leaving = false, true, true
			views = append(views, v)
		}
	}
	return views
}

func (ep *endpoint) view(now int64) EndpointView {
	st := ep.Status(now)
	v := EndpointView{
		Endpoint: ep.name, Up: st.Up(), Unhealthy: st.Unhealthy, Draining: st.Draining, Breaker: "off",
		InFlight: st.InFlight, LatencyMS: float64(st.Latency.Microseconds()) / 1000, Connections: ep.pool.Conns(),
	}
	if st.EjectedFor > 0 {
		v.EjectedFor = st.EjectedFor.Round(time.Millisecond).String()
	}
	if ep.breaker != nil {
		v.Breaker = ep.breaker.State(now).String()
	}
	return v
}
