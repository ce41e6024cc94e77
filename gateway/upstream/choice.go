package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/lifetime"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream/balance"
)

// choice is the endpoints of a service, and the set that chooses among them. It is immutable; a service whose endpoints
// are found has one after the other. What it leases lives until no call uses it any more.
type choice struct {
	set       *balance.Set
	endpoints []*endpoint // in the order of the set's members
}

// states are what is known about the endpoints.
func (c *choice) states() []*balance.Endpoint {
	states := make([]*balance.Endpoint, len(c.endpoints))
	for i, ep := range c.endpoints {
		states[i] = ep.Endpoint
	}
	return states
}

// server is an endpoint that is to be built.
type server struct {
	config.Endpoint
	host string // names the server to it, where its URL does not
}

// builder makes the choices of one service in one generation.
type builder struct {
	env         *Environment
	config      *config.Service
	group       *balance.Group
	options     balance.Options
	tls         *tls.Config
	tlsIdentity string
}

func newBuilder(env *Environment, sc *config.Service) (b *builder, err error) {
	b = &builder{env: env, config: sc}
	b.group = env.living("group", sc.Name, func() any { return balance.NewGroup(sc.Name) }).(*balance.Group)
	if b.tls, b.tlsIdentity, err = ClientTLS(&sc.TLS); err != nil {
		return nil, err
	}
	strategy, ok := balance.ParseStrategy(sc.LoadBalancer.Strategy)
	if !ok {
		return nil, fmt.Errorf("load_balancer.strategy: %q is not a strategy", sc.LoadBalancer.Strategy)
	}
	b.options = balance.Options{Strategy: strategy, SlowStart: sc.LoadBalancer.SlowStart}
	if od := sc.OutlierDetection; !od.Off && od.MaxEjected > 0 {
		b.options.Outlier = balance.Outlier{Consecutive: od.ConsecutiveErrors, Ejection: od.Ejection, MaxEjected: float64(od.MaxEjected)}
	}
	log := env.Log
	b.options.Event = func(e balance.Event, ep *balance.Endpoint, d time.Duration) {
		if e != balance.Spared {
			log.Warn("outlier detection", "service", sc.Name, "endpoint", ep.Address, "event", e.String(), "duration", d.String())
		}
	}
	return b, nil
}

// build makes the choice among servers. What lives is leased in leases, and measured for generation. An error is about
// the server with the number at.
func (b *builder) build(leases *lifetime.Set, generation *telemetry.Generation, servers []server) (c *choice, at int, err error) {
	env := *b.env
	env.Leases, env.Generation = leases, generation
	name := b.config.Name
	c = new(choice)
	members, known := make([]balance.Member, 0, len(servers)), make(map[*balance.Endpoint]bool, len(servers))
	for i, sv := range servers {
		ep, err := b.endpoint(leases, sv)
		if err != nil {
			return nil, i, err
		}
		ep.Endpoint = env.living("endpoint/"+ep.name, name, func() any { return b.group.NewEndpoint(ep.name, env.Clock.Now()) }).(*balance.Endpoint)
		ep.breaker = compileBreaker(&env, "breaker/"+ep.name, name, ep.name, b.config.CircuitBreaker)
		members = append(members, balance.Member{Endpoint: ep.Endpoint, Weight: sv.Weight, Zone: sv.Zone})
		if !known[ep.Endpoint] {
			known[ep.Endpoint] = true
			c.endpoints = append(c.endpoints, ep)
		}
	}
	c.set = balance.NewSet(b.group, members, b.options)
	for _, ep := range c.endpoints {
		ep.measure(&env, name)
	}
	return c, 0, nil
}

func (ep *endpoint) measure(env *Environment, service string) {
	clock := env.Clock
	env.Metrics.CircuitState.With(env.Generation, func() float64 {
		if ep.breaker == nil {
			return 0
		}
		return float64(ep.breaker.State(clock.Now()))
	}, service, ep.name)
	env.Metrics.EndpointUp.With(env.Generation, func() float64 {
		if ep.Status(clock.Now()).Up() {
			return 1
		}
		return 0
	}, service, ep.name)
}

// endpoint builds one endpoint, without what lives.
func (b *builder) endpoint(leases *lifetime.Set, ec server) (*endpoint, error) {
	env, sc := b.env, b.config
	ps := PoolSettings{Network: "tcp", Source: sc.Source, HTTP2: speaksHTTP2(sc.Protocol), MaxConns: sc.Connections.MaxPerEndpoint, IdleTimeout: sc.Connections.IdleTimeout}
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
		name, _, _ := net.SplitHostPort(ec.host)
		ep.basePath = []byte(strings.TrimRight(u.EscapedPath(), "/"))
		ep.name = u.Scheme + "://" + u.Host + strings.TrimRight(u.Path, "/")
		if u.Scheme == "https" {
			ep.scheme = u.Scheme
			ps.TLS, ps.TLSIdentity = b.tls.Clone(), b.tlsIdentity
			if ps.HTTP2 {
				ps.TLS.NextProtos = []string{"h2"}
			}
			if ps.TLS.ServerName == "" && name != "" {
				ps.TLS.ServerName = name
				ps.TLSIdentity += "/" + name
			} else if ps.TLS.ServerName == "" {
				ps.TLS.ServerName = u.Hostname()
			}
		}
		if ec.host != "" {
			ep.host = []byte(ec.host)
		}
	}
	if sc.Host != "" {
		ep.host = []byte(sc.Host)
	}
	ep.hostLine = " HTTP/1.1\r\nHost: " + string(ep.host) + "\r\n"
	pool, err := lifetime.Hold(leases, env.Living, ps.Identity(), func() (any, error) {
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
