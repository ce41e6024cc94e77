package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/discovery"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/router"
	"sluice/gateway/upstream"
)

// ExplainRequest is a request to be explained rather than served.
type ExplainRequest struct {
	// Method; default: GET.
	Method string `json:"method"`
	// URL is absolute, or a path with a query.
	URL string `json:"url"`
	// Headers of the request; Host among them stands over the URL's.
	Headers ExplainHeaders `json:"headers"`
	// IP is the address of the peer, of a trusted proxy perhaps; default: 127.0.0.1.
	IP string `json:"ip"`
	// Listener that the request comes in on, by name; default: the first.
	Listener string `json:"listener"`
	// Consumer that authentication is taken to find; default: none, so that no consumer's own policies are shown.
	Consumer string `json:"consumer"`
}

// ExplainHeaders are header values by name. In JSON a value is a text or a list of texts.
type ExplainHeaders http.Header

// UnmarshalJSON reads {"Name": "value"} and {"Name": ["value", "value"]}.
func (h *ExplainHeaders) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	*h = make(ExplainHeaders, len(raw))
	for name, value := range raw {
		var one string
		var many []string
		if json.Unmarshal(value, &one) == nil {
			many = []string{one}
		} else if json.Unmarshal(value, &many) != nil {
			return fmt.Errorf("headers.%s: must be a text or a list of texts", name)
		}
		(*h)[name] = many
	}
	return nil
}

// Explanation says what would happen to a request and why. It holds no secret of the configuration, and of the
// request's headers only those that decided.
type Explanation struct {
	// Problem says what is wrong with the question; then all else is empty.
	Problem string `json:"problem,omitempty"`
	// Request is what the gateway makes of it.
	Request ExplainedRequest `json:"request"`
	// Status is what the gateway answers by itself before any policy of a route: 400, 404, 405; 0 when a route takes the
	// request. With a route it is 403: the consumer is one of another tenant.
	Status int    `json:"status,omitempty"`
	Why    string `json:"why,omitempty"`
	Allow  string `json:"allow,omitempty"`
	// Route is the route that wins.
	Route  string `json:"route,omitempty"`
	Source string `json:"source,omitempty"`
	// Candidates are the winner and those that lost, nearest first.
	Candidates []router.Candidate `json:"candidates"`
	// Policies run in this order. Where a split chooses the service, those that depend on it are with the services.
	Policies []ExplainedPolicy  `json:"policies"`
	Action   *ExplainedAction   `json:"action,omitempty"`
	Services []ExplainedService `json:"services,omitempty"`
	// UpstreamPath is path and query as the backend gets them, behind the base path of its endpoint.
	UpstreamPath string `json:"upstream_path,omitempty"`
}

// ExplainedRequest is a request as routing sees it.
type ExplainedRequest struct {
	Method       string `json:"method"`
	Scheme       string `json:"scheme"`
	Host         string `json:"host"`
	Path         string `json:"path"` // canonical; as given when it was refused
	Query        string `json:"query,omitempty"`
	Listener     string `json:"listener"`
	Peer         string `json:"peer"`
	TrustedProxy bool   `json:"trusted_proxy"`
	Client       string `json:"client"`
	Consumer     string `json:"consumer,omitempty"`
	Tenant       string `json:"tenant,omitempty"`
}

// ExplainedPolicy is a policy in force.
type ExplainedPolicy struct {
	Policy string `json:"policy"`
	Stage  string `json:"stage"`
	// From is whose block won: "consumer NAME", "plan NAME of consumer NAME", "tenant NAME", "plan NAME of tenant NAME",
	// "route NAME", "service NAME", "global", or "default" for what is on by itself.
	From string `json:"from"`
	// Source is where the block stands, as file:line.
	Source   string           `json:"source"`
	Settings []config.Setting `json:"settings"`
	// Finds is what the policy finds of this request, where it says so.
	Finds string `json:"finds,omitempty"`
}

// ExplainedAction is what ends the route.
type ExplainedAction struct {
	Action   string           `json:"action"`
	Source   string           `json:"source"`
	Settings []config.Setting `json:"settings,omitempty"`
}

// ExplainedService is a service that the request may go to.
type ExplainedService struct {
	Service  string `json:"service"`
	Source   string `json:"source"`
	Protocol string `json:"protocol"`
	Strategy string `json:"strategy"`
	// Breaker is the state of its circuit breaker: closed, half-open, open, off.
	Breaker string `json:"breaker"`
	// Connect and Response are the timeouts in force on this route, "off" without any; Retries the tries after the first.
	Connect   string                  `json:"connect_timeout"`
	Response  string                  `json:"response_timeout"`
	Retries   int                     `json:"retries"`
	RetryWhen []string                `json:"retry_when,omitempty"`
	Endpoints []upstream.EndpointView `json:"endpoints"`
	// Discovery is where the endpoints come from, when they are found.
	Discovery *discovery.Status `json:"discovery,omitempty"`
	// Policies depend on the choice of this service.
	Policies []ExplainedPolicy `json:"policies,omitempty"`
}

// Explain says which route would take a request, why the others would not, and what would happen to it there. It changes
// nothing and sends nothing.
func (s *Snapshot) Explain(req ExplainRequest) *Explanation {
	e := &Explanation{Candidates: []router.Candidate{}, Policies: []ExplainedPolicy{}}
	var request fasthttp.Request
	var response fasthttp.Response
	x := exchange.NewPool(s.world.Clock).Get(&request, &response, func(*exchange.Exchange) {})
	defer func() { _ = x.Close() }()
	if e.Problem = s.pose(x, &req); e.Problem != "" {
		return e
	}
	s.place(x)
	seen := &e.Request
	seen.Method, seen.Scheme, seen.Query, seen.Listener, seen.Consumer = req.Method, x.Scheme, string(x.Query), x.Listener, req.Consumer
	seen.Peer, seen.TrustedProxy, seen.Client = x.PeerAddr.String(), x.TrustedPeer, x.ClientAddr.String()
	x.Host = router.NormalizeHost(nil, x.Host)
	seen.Host, seen.Path = string(x.Host), string(x.Path)

	path, err := router.Canonical(nil, x.Path)
	if err != nil {
		e.Status, e.Why = rejectPath.Status, err.Error()
		e.Policies = s.explainSteps(x, s.unrouted.Steps(), caller{})
		return e
	}
	x.Path, seen.Path = path, string(path)
	if x.Tenant = s.callers.ofHost(x.Host); x.Tenant != nil {
		seen.Tenant = x.Tenant.Name
	}

	query := router.Request{
		Host: x.Host, Path: x.Path, RawQuery: x.Query, Method: []byte(req.Method),
		Headers: &request.Header, Listener: x.Listener, Scheme: x.Scheme,
	}
	if x.Scheme == "https" {
		query.SNI = seen.Host
	}
	e.Candidates = append(e.Candidates, hideConditions(s.candidates(&query))...)
	var found router.Result
	switch s.match(&query, &found) {
	case router.NotFound:
		e.Status, e.Why = rejectNoRoute.Status, "no route matches"
		e.Policies = s.explainSteps(x, s.unrouted.Steps(), caller{})
		return e
	case router.MethodNotAllowed:
		e.Status, e.Why = rejectMethod.Status, "routes match, but not with this method"
		e.Allow = string(s.table.AppendAllow(nil, &found))
		e.Policies = s.explainSteps(x, s.unrouted.Steps(), caller{})
		return e
	}
	r := s.routes[found.ID]
	if !r.traces && req.Method == fasthttp.MethodTrace {
		e.Status, e.Why = rejectTrace.Status, "TRACE is taken by routes alone whose match.methods name it"
		e.Allow = string(rejectTrace.Headers[0].Value)
		e.Policies = s.explainSteps(x, s.unrouted.Steps(), caller{})
		return e
	}
	s.explainRoute(e, x, r, &found, req.Consumer)
	return e
}

// pose fills the exchange with the question; it returns what is wrong with that.
func (s *Snapshot) pose(x *exchange.Exchange, req *ExplainRequest) (problem string) {
	if req.Method == "" {
		req.Method = fasthttp.MethodGet
	}
	if !exchange.IsToken(req.Method) {
		return fmt.Sprintf("method: %q can not be a method", req.Method)
	}
	target, _, _ := strings.Cut(req.URL, "#")
	x.Scheme = "http"
	host := ""
	if scheme, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		x.Scheme = strings.ToLower(scheme)
		if x.Scheme != "http" && x.Scheme != "https" {
			return fmt.Sprintf("url: the scheme %q is none of http, https", scheme)
		}
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		if host, target = rest[:end], rest[end:]; host == "" || strings.Contains(host, "@") {
			return "url: must name a host, and no user"
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	if !strings.HasPrefix(target, "/") {
		return fmt.Sprintf("url: %q must be http://host/path, or /path", req.URL)
	}
	path, query, _ := strings.Cut(target, "?")
	x.Path, x.Query = []byte(path), []byte(query)

	for name, values := range req.Headers {
		if !exchange.IsToken(name) {
			return fmt.Sprintf("headers: %q can not be the name of a header", name)
		}
		for _, value := range values {
			if strings.ContainsAny(value, "\r\n\x00") {
				return fmt.Sprintf("headers.%s: a value can not have line breaks", name)
			}
			if strings.EqualFold(name, "host") {
				host = value
				continue
			}
			x.Request.Header.Add(name, value)
			x.Fields = append(x.Fields, exchange.Field{Name: []byte(name), Value: []byte(value), Kind: exchange.KindOf([]byte(name))})
		}
	}
	x.Request.Header.SetMethod(req.Method)
	x.Request.Header.SetHost(host)
	x.Host = []byte(host)
	x.ForwardedHost = []byte(host)

	x.PeerAddr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if req.IP != "" {
		a, err := netip.ParseAddr(req.IP)
		if err != nil {
			return fmt.Sprintf("ip: %q is not an address", req.IP)
		}
		x.PeerAddr = a.Unmap().WithZone("")
	}
	names := s.Config.ListenerNames()
	switch {
	case req.Listener == "" && len(names) > 0:
		x.Listener = names[0]
	case req.Listener != "" && !slices.Contains(names, req.Listener):
		return fmt.Sprintf("listener: there is no listener %q%s", req.Listener, config.Hint(req.Listener, names))
	default:
		x.Listener = req.Listener
	}
	if req.Consumer != "" && s.Config.Consumers[req.Consumer] == nil {
		return fmt.Sprintf("consumer: there is no consumer %q", req.Consumer)
	}
	return ""
}

// hideConditions keeps the values of secret headers and parameters out of the reasons.
func hideConditions(candidates []router.Candidate) []router.Candidate {
	for i := range candidates {
		c := &candidates[i]
		kind, name := "header ", c.Reason
		if c.Failed == "query" {
			kind = "query parameter "
		} else if c.Failed != "header" {
			continue
		}
		name, _, _ = strings.Cut(strings.TrimPrefix(name, kind), " ")
		if config.SoundsSecret(name) {
			c.Reason = kind + name + " does not have the value that is wanted"
		}
	}
	return candidates
}

func (s *Snapshot) explainRoute(e *Explanation, x *exchange.Exchange, r *route, found *router.Result, consumer string) {
	e.Route, e.Source = r.Name, s.source("routes", r.Name)
	if found.Path >= 0 {
		x.MatchedPrefix, x.ParamNames = found.Prefix, r.patterns[found.Path].params
		for i := range found.Params {
			x.Params[i] = found.Param(x.Path, i)
		}
	}
	x.Identity.Consumer = s.world.Consumers[consumer]
	set, err := s.callers.setOf(x)
	if err != nil {
		e.Status, e.Why = rejectTenant.Status, fmt.Sprintf("consumer %s is of the tenant %s, and the host is of the tenant %s", consumer, x.Identity.Consumer.Tenant.Name, x.Tenant.Name)
	}
	who := caller{consumer: consumer}
	if x.Tenant != nil {
		who.tenant = x.Tenant.Name
		e.Request.Tenant = who.tenant
	}
	var steps [][]policy.Step
	for i := range r.members {
		p := r.members[i].program
		if set > 0 {
			own, err := r.members[i].forSet(set, s.callers.count())
			if err != nil {
				e.Problem = err.Error()
				return
			}
			p = own
		}
		steps = append(steps, p.Steps())
	}
	if who.consumer != "" {
		x.Identity.Consumer = s.world.Consumers[who.consumer]
	}
	e.Policies = s.explainSteps(x, common(steps[0], steps), who)
	ends := s.explainAction(r)
	e.Action = &ends
	services := s.servicesOf(r)
	if len(services) == 0 {
		return
	}
	for i, service := range services {
		v := s.explainService(r, service)
		if len(services) > 1 && i < len(steps) {
			v.Policies = s.explainSteps(x, peculiar(steps[i], steps), who)
		}
		e.Services = append(e.Services, v)
	}
	s.aim(x, r)
	target := router.AppendEncoded(nil, x.BackendPath())
	if q := x.BackendQuery(); len(q) > 0 {
		target = append(append(target, '?'), q...)
	}
	e.UpstreamPath = string(bytes.ToValidUTF8(target, []byte("\ufffd")))
}

// common are the steps that all members of a route have: with one member every policy is the route's.
func common(of []policy.Step, all [][]policy.Step) []policy.Step { return choose(of, all, true) }

// peculiar are the steps that not all members of a route have.
func peculiar(of []policy.Step, all [][]policy.Step) []policy.Step { return choose(of, all, false) }

func choose(of []policy.Step, all [][]policy.Step, shared bool) (some []policy.Step) {
	for _, step := range of {
		lacks := func(others []policy.Step) bool {
			return !slices.ContainsFunc(others, func(o policy.Step) bool {
				return o.Name == step.Name && o.Block.Equal(step.Block) && o.Scope == step.Scope
			})
		}
		if !slices.ContainsFunc(all, lacks) == shared {
			some = append(some, step)
		}
	}
	return some
}

func (s *Snapshot) explainAction(r *route) ExplainedAction {
	name, block := r.config.Action()
	a := ExplainedAction{Action: name, Source: s.source("routes", r.Name)}
	if block != nil {
		a.Source = position(block.Pos())
		a.Settings = block.Settings(s.registry.Actions[name].Settings)
	}
	return a
}

// servicesOf names the services that the route's requests may go to.
func (s *Snapshot) servicesOf(r *route) []string {
	if r.config.Service != "" {
		return []string{r.config.Service}
	}
	return r.action.Members
}

func (s *Snapshot) explainService(r *route, name string) ExplainedService {
	sc, service, now := s.Config.Services[name], s.services[name], s.world.Clock.Now()
	v := ExplainedService{
		Service: name, Source: s.source("services", name), Protocol: sc.Protocol, Strategy: sc.LoadBalancer.Strategy,
		Breaker: service.State(now), Endpoints: service.Endpoints(now), Discovery: service.Discovery(), Connect: "off", Response: "off",
	}
	timeouts, retries := sc.Timeouts, sc.Retries
	if r.config.Service != "" {
		timeouts, retries = r.config.Timeouts.Over(timeouts), r.config.Retries.Over(retries)
	}
	if !timeouts.Off {
		v.Connect, v.Response = config.FormatDuration(timeouts.Connect), config.FormatDuration(timeouts.Response)
	}
	if rules := upstream.RetriesOf(retries); rules.Attempts > 0 {
		v.Retries, v.RetryWhen = rules.Attempts, rules.When
	}
	return v
}

// caller is whose policies are shown.
type caller struct{ consumer, tenant string }

// explainSteps shows steps; x is the request that is asked about, nil for none in particular.
func (s *Snapshot) explainSteps(x *exchange.Exchange, steps []policy.Step, who caller) []ExplainedPolicy {
	out := make([]ExplainedPolicy, 0, len(steps))
	for _, step := range steps {
		p := ExplainedPolicy{Policy: step.Name, Stage: policy.Order[policy.PlaceOf(step.Name)].Stage.String(), Source: "default"}
		block := step.Block
		switch kind, name, _ := strings.Cut(step.Scope, "."); {
		case kind == "routes":
			p.From = "route " + name
		case kind == "services":
			p.From = "service " + name
		case kind == "tenants":
			p.From = "tenant " + name
		case kind == "plans" && step.Taker == takenByTenant:
			p.From = "plan " + name + " of tenant " + who.tenant
		case kind == "plans":
			p.From = "plan " + name + " of consumer " + who.consumer
		case strings.HasPrefix(step.Scope, "consumers#"):
			// Consumers with equal policies share a program; this one wrote its own.
			p.From = "consumer " + who.consumer
			if own := s.Config.Consumers[who.consumer]; own != nil && own.Policies[step.Name] != nil {
				block = own.Policies[step.Name]
			}
		default:
			p.From = step.Scope
		}
		if step.Scope != "default" {
			p.Source = position(block.Pos())
		}
		p.Settings = block.Settings(step.Settings)
		if step.Hooks.Explain != nil && x != nil {
			p.Finds = step.Hooks.Explain(x)
		}
		out = append(out, p)
	}
	return out
}

// source is where a named block of the configuration stands.
func (s *Snapshot) source(kind, name string) string {
	return position(s.Config.Errorf(kind+"["+strconv.Quote(name)+"]", "").Pos)
}

func position(p config.Position) string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}
