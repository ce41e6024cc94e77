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
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/breaker"
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
	// Resolve maps host:port to another address to dial.
	Resolve map[string]string
	// Stall is the stall timeout of bodies.
	Stall time.Duration
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
	}
	if !sc.Timeouts.Off {
		s.response = sc.Timeouts.Response
	}
	s.retries = newRetryRules(RetriesOf(sc.Retries))
	living := func(kind string, make func() any) any {
		v, err := lifetime.Hold(env.Leases, env.Living, kind+"/"+sc.Name, func() (any, error) { return make(), nil })
		if err != nil {
			panic("BUG: " + err.Error())
		}
		return v
	}
	s.budget = living("retry_budget", func() any { return newRetryBudget() }).(*retryBudget)
	s.budget.share.Store(int64(float64(sc.Retries.Budget) * 1000))
	s.breaker = compileBreaker(env, living, "breaker", sc.Name, "", sc.CircuitBreaker)
	group := living("group", func() any { return balance.NewGroup(sc.Name) }).(*balance.Group)

	tlsConfig, tlsIdentity, err := clientTLS(sc)
	if err != nil {
		return nil, err
	}
	var members []balance.Member
	for i, ec := range sc.Endpoints {
		ep, err := compileEndpoint(env, sc, &sc.Endpoints[i], tlsConfig, tlsIdentity)
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d]: %w", i, err)
		}
		ep.Endpoint = living("endpoint/"+ep.name, func() any { return group.NewEndpoint(ep.name, env.Clock.Now()) }).(*balance.Endpoint)
		ep.breaker = compileBreaker(env, living, "breaker/"+ep.name, sc.Name, ep.name, sc.CircuitBreaker)
		members = append(members, balance.Member{Endpoint: ep.Endpoint, Weight: ec.Weight, Zone: ec.Zone})
		if !s.has(ep.Endpoint) {
			s.endpoints = append(s.endpoints, ep)
		}
	}
	strategy, ok := balance.ParseStrategy(sc.LoadBalancer.Strategy)
	if !ok {
		return nil, fmt.Errorf("load_balancer.strategy: %q is not a strategy", sc.LoadBalancer.Strategy)
	}
	if strategy == balance.ConsistentHash {
		if s.keyOf, err = hashKey(sc.LoadBalancer.By); err != nil {
			return nil, fmt.Errorf("load_balancer.by: %w", err)
		}
	}
	o := balance.Options{Strategy: strategy, SlowStart: sc.LoadBalancer.SlowStart}
	if od := sc.OutlierDetection; !od.Off && od.MaxEjected > 0 {
		o.Outlier = balance.Outlier{Consecutive: od.ConsecutiveErrors, Ejection: od.Ejection, MaxEjected: float64(od.MaxEjected)}
	}
	o.Event = func(e balance.Event, ep *balance.Endpoint, d time.Duration) {
		if e != balance.Spared {
			env.Log.Warn("outlier detection", "service", sc.Name, "endpoint", ep.Address, "event", e.String(), "duration", d.String())
		}
	}
	s.set = balance.NewSet(group, members, o)
	for _, ep := range s.endpoints {
		env.Metrics.CircuitState.With(env.Generation, func() float64 {
			if ep.breaker == nil {
				return 0
			}
			return float64(ep.breaker.State(env.Clock.Now()))
		}, sc.Name, ep.name)
		env.Metrics.EndpointUp.With(env.Generation, func() float64 {
			if ep.Status(env.Clock.Now()).Up() {
				return 1
			}
			return 0
		}, sc.Name, ep.name)
	}
	return s, nil
}

func (s *Service) has(e *balance.Endpoint) bool {
	for _, ep := range s.endpoints {
		if ep.Endpoint == e {
			return true
		}
	}
	return false
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

func compileBreaker(env *Environment, living func(string, func() any) any, identity, service, endpoint string, c config.CircuitBreaker) *breaker.Breaker {
	settings := breaker.Settings{
		ConsecutiveFailures: c.ConsecutiveFailures, ErrorRatio: float64(c.ErrorRatio), MinRequests: c.MinRequests,
		Window: c.Window, OpenFor: c.OpenFor, HalfOpenRequests: c.HalfOpenRequests,
	}
	if c.Off {
		return nil
	}
	b := living(identity, func() any {
		return breaker.New(settings, func(from, to breaker.State, why breaker.Cause) {
			env.Log.Warn("circuit breaker", "service", service, "endpoint", endpoint, "from", from.String(), "to", to.String(), "cause", string(why))
		})
	}).(*breaker.Breaker)
	b.Configure(settings)
	return b
}

func compileEndpoint(env *Environment, sc *config.Service, ec *config.Endpoint, tc *tls.Config, tlsIdentity string) (*endpoint, error) {
	ps := PoolSettings{Network: "tcp", HTTP2: speaksHTTP2(sc.Protocol), MaxConns: sc.Connections.MaxPerEndpoint, IdleTimeout: sc.Connections.IdleTimeout}
	ep := &endpoint{name: ec.URL, scheme: "http"}
	if path, ok := strings.CutPrefix(ec.URL, "unix:"); ok {
		ps.Network, ps.Address = "unix", path
		ep.host = []byte("localhost")
	} else {
		u, err := url.Parse(ec.URL)
		if err != nil || u.Host == "" {
			return nil, errors.New("must be a URL such as http://host:port")
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		ps.Address = net.JoinHostPort(u.Hostname(), port)
		ep.host = []byte(u.Host)
		ep.basePath = []byte(strings.TrimRight(u.EscapedPath(), "/"))
		ep.name = u.Scheme + "://" + u.Host + strings.TrimRight(u.Path, "/")
		if u.Scheme == "https" {
			ep.scheme = u.Scheme
			ps.TLS, ps.TLSIdentity = tc.Clone(), tlsIdentity
			if ps.HTTP2 {
				ps.TLS.NextProtos = []string{"h2"}
			}
			if ps.TLS.ServerName == "" {
				ps.TLS.ServerName = u.Hostname()
			}
		}
	}
	if sc.Host != "" {
		ep.host = []byte(sc.Host)
	}
	pool, err := lifetime.Hold(env.Leases, env.Living, ps.Identity(), func() (any, error) {
		return NewPool(ps, env.Sweeper, env.Resolve), nil
	})
	if err != nil {
		return nil, err
	}
	ep.pool = pool.(*Pool)
	connect := sc.Timeouts.Connect
	if sc.Timeouts.Off {
		connect = 0
	}
	ep.pool.connect.Store(int64(connect))
	return ep, nil
}

// clientTLS builds the TLS settings of a service, and an identity that changes
// when they or the contents of their files do.
func clientTLS(sc *config.Service) (*tls.Config, string, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	t := sc.TLS
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
		return func(x *exchange.Exchange, dst []byte) []byte { return append(dst, x.Request.Header.Cookie(name)...) }, nil
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
	var endpoints []*balance.Endpoint
	for _, ep := range s.endpoints {
		endpoints = append(endpoints, ep.Endpoint)
	}
	checker.Watch(endpoints)
	checker.Start()
	return checker
}

// probe asks one endpoint over a connection of its own: a check must not find
// the pool exhausted.
func (s *Service) probe(ctx context.Context, e *balance.Endpoint, hc *config.HealthCheck) error {
	var ep *endpoint
	for _, candidate := range s.endpoints {
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
	for _, ep := range s.endpoints {
		switch ep.breaker.State(now) {
		case breaker.Open:
			open++
		case breaker.HalfOpen:
			half++
		}
	}
	switch {
	case len(s.endpoints) > 0 && open == len(s.endpoints):
		return "open"
	case half > 0 && open+half == len(s.endpoints):
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
}

// Endpoints shows the endpoints.
func (s *Service) Endpoints(now int64) []EndpointView {
	var views []EndpointView
	for i, m := range s.set.Members() {
		ep := s.endpoints[i]
		st := ep.Status(now)
		v := EndpointView{
			Endpoint: ep.name, Weight: m.Weight, Up: st.Up(), Unhealthy: st.Unhealthy, Breaker: "off",
			InFlight: st.InFlight, LatencyMS: float64(st.Latency.Microseconds()) / 1000, Connections: ep.pool.Conns(),
		}
		if st.EjectedFor > 0 {
			v.EjectedFor = st.EjectedFor.Round(time.Millisecond).String()
		}
		if ep.breaker != nil {
			v.Breaker = ep.breaker.State(now).String()
		}
		views = append(views, v)
	}
	return views
}
