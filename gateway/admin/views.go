package admin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/discovery"
	"sluice/gateway/policy"
	"sluice/gateway/snapshot"
	"sluice/gateway/upstream"
)

// snapshot returns the generation in force; without one it answers.
func (s *Server) snapshot(ctx *fasthttp.RequestCtx) *snapshot.Snapshot {
	current := s.o.Gateway.Snapshot()
	if current == nil {
		fail(ctx, fasthttp.StatusServiceUnavailable, "no_configuration", "no configuration is in force yet")
	}
	return current
}

func (s *Server) listRoutes(ctx *fasthttp.RequestCtx) {
	if current := s.snapshot(ctx); current != nil {
		reply(ctx, map[string]any{"routes": current.RouteViews()})
	}
}

func (s *Server) showRoute(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	name := pathValue(ctx, "name")
	detail, ok := current.RouteDetail(name)
	if !ok {
		fail(ctx, fasthttp.StatusNotFound, "no_such_route", fmt.Sprintf("there is no route %q%s", name, s.routeHint(name)))
		return
	}
	reply(ctx, detail)
}

func (s *Server) listCertificates(ctx *fasthttp.RequestCtx) {
	reply(ctx, map[string]any{"certificates": s.o.Gateway.Certificates()})
}

type serviceView struct {
	Service   string                  `json:"service"`
	Protocol  string                  `json:"protocol"`
	Strategy  string                  `json:"strategy"`
	Breaker   string                  `json:"breaker"` // closed, half-open, open, off
	Endpoints []upstream.EndpointView `json:"endpoints"`
	// Discovery is where the endpoints come from, when they are found.
	Discovery *discovery.Status `json:"discovery,omitempty"`
}

func (s *Server) serviceViews(current *snapshot.Snapshot) []serviceView {
	now, services := s.o.Gateway.Now(), current.Services()
	views := make([]serviceView, 0, len(services))
	for _, name := range slices.Sorted(maps.Keys(services)) {
		c := current.Config.Services[name]
		views = append(views, serviceView{name, c.Protocol, c.LoadBalancer.Strategy, services[name].State(now), services[name].Endpoints(now), services[name].Discovery()})
	}
	return views
}

func (s *Server) listServices(ctx *fasthttp.RequestCtx) {
	if current := s.snapshot(ctx); current != nil {
		reply(ctx, map[string]any{"services": s.serviceViews(current)})
	}
}

// consumerView is a consumer without anything that could be a credential or be tried against one.
type consumerView struct {
	Consumer  string    `json:"consumer"`
	Tenant    string    `json:"tenant,omitempty"`
	Plan      string    `json:"plan,omitempty"`
	Groups    []string  `json:"groups,omitempty"`
	APIKeys   []keyView `json:"api_keys,omitempty"`
	Issuers   []string  `json:"jwt_issuers,omitempty"`
	Usernames []string  `json:"basic_auth_usernames,omitempty"`
	Policies  []string  `json:"policies,omitempty"`
}

func (s *Server) listConsumers(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	consumers, tenant := current.Config.Consumers, scope(ctx)
	views := make([]consumerView, 0, len(consumers))
	for _, name := range slices.Sorted(maps.Keys(consumers)) {
		if tenant == "" || consumers[name].Tenant == tenant {
			views = append(views, s.viewConsumer(name, consumers[name]))
		}
	}
	reply(ctx, map[string]any{"consumers": views})
}

func (s *Server) viewConsumer(name string, c *config.Consumer) consumerView {
	v := consumerView{Consumer: name, Tenant: c.Tenant, Plan: c.Plan, Groups: c.Groups, Policies: slices.Sorted(maps.Keys(c.Policies))}
	v.APIKeys = s.viewKeys(name, c)
	for _, k := range c.JWT {
		v.Issuers = append(v.Issuers, k.Issuer)
	}
	for _, k := range c.BasicAuth {
		v.Usernames = append(v.Usernames, cmp.Or(k.Username, name))
	}
	return v
}

// Bounds of GET /api/limits.
const (
	defaultLimits = 1000
	maxLimits     = 10_000
)

func (s *Server) limits(ctx *fasthttp.RequestCtx) {
	query := ctx.QueryArgs()
	most := defaultLimits
	if text := string(query.Peek("max")); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLimits {
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "max must be a whole number from 1 to 10000")
			return
		}
		most = n
	}
	// One more than fits tells that there are more.
	q := policy.LimitQuery{Now: s.o.Gateway.Now(), Prefix: string(query.Peek("key")), Tenant: scope(ctx), Most: most + 1}
	entries := []policy.LimitEntry{}
	s.o.Gateway.EachLiving(func(_ string, v any) bool {
		if i, ok := v.(policy.LimitInspector); ok {
			entries = append(entries, i.Inspect(q)...)
		}
		return true
	})
	slices.SortStableFunc(entries, func(a, b policy.LimitEntry) int {
		return cmp.Or(strings.Compare(a.Scope, b.Scope), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Key, b.Key))
	})
	more := len(entries) > most
	reply(ctx, map[string]any{"limits": entries[:min(len(entries), most)], "more": more})
}

func (s *Server) explain(ctx *fasthttp.RequestCtx) {
	current := s.snapshot(ctx)
	if current == nil {
		return
	}
	var req snapshot.ExplainRequest
	d := json.NewDecoder(bytes.NewReader(ctx.PostBody()))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", `send {"method", "url", "headers", "ip", "listener", "consumer"}: `+err.Error())
		return
	}
	e := current.Explain(req)
	if e.Problem != "" {
		fail(ctx, fasthttp.StatusBadRequest, "bad_request", e.Problem)
		return
	}
	reply(ctx, e)
}
