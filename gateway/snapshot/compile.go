package snapshot

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/discovery"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/router"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
)

// Registry are the kinds of policies, actions and sources of endpoints that the binary has.
type Registry struct {
	Policies map[string]*policy.Definition
	Actions  map[string]*action.Definition
	// Sources are the kinds of discovery.
	Sources map[string]*discovery.Definition
}

// NewRegistry collects definitions.
func NewRegistry(policies []*policy.Definition, actions []*action.Definition, sources ...*discovery.Definition) *Registry {
	r := &Registry{
		Policies: make(map[string]*policy.Definition), Actions: make(map[string]*action.Definition), Sources: make(map[string]*discovery.Definition),
	}
	for _, d := range sources {
		r.Sources[d.Name] = d
	}
	for _, d := range policies {
		r.Policies[d.Name] = d
	}
	for _, d := range actions {
		r.Actions[d.Name] = d
	}
	return r
}

// compiler is one compilation in progress.
type compiler struct {
	*Snapshot
	env    *upstream.Environment
	health func() []byte
	errs   config.Errors
	order  []policy.Place
	walk   []step // order with the stage Cache last: what is stored depends on everything else
	empty  map[string]*config.Block
	kong   bool            // in compatibility with it
	plain  map[string]bool // services a route leads to
	split  map[string]bool // services behind a split
	layers []layer         // room for those of the program that is built
}

// step is a place in the order of policies with the policy that the binary has for it.
type step struct {
	place  policy.Place
	policy *policy.Definition
}

// Compile builds the generation of world.Config. Its errors are config.Errors,
// all at once. On an error the caller closes world.Leases.
func Compile(world *policy.World, env *upstream.Environment, registry *Registry, health func() []byte) (*Snapshot, error) {
	c := &compiler{
		Snapshot: &Snapshot{Config: world.Config, world: world, registry: registry, services: make(map[string]*upstream.Service)},
		env:      env, health: health,
		plain: make(map[string]bool), split: make(map[string]bool),
	}
	c.arrange()
	world.Warn = func(path, message string) {
		w := Warning{path, message}
		if !slices.Contains(c.Warnings, w) {
			c.Warnings = append(c.Warnings, w)
		}
	}
	world.Describe = func(d policy.Document) {
		if !slices.ContainsFunc(c.Documents, func(o policy.Document) bool { return o.Route == d.Route }) {
			c.Documents = append(c.Documents, d)
		}
	}
	for _, p := range world.Config.TrustedProxies {
		c.trusted = append(c.trusted, p.Prefix)
	}
	c.maxBody = int64(world.Config.Limits.MaxBodySize)
	c.compileCallers()
	c.compileServices()
	world.Services = c.services
	c.add(c.registry.CheckPolicies(c.Config))
	seen := policy.Edge
	if c.kong {
		seen = policy.Observe // no plugin refuses what has no route
	}
	c.unrouted = c.program(nil, c.Config.Policies, nil, nil, 0, seen)
	for _, l := range c.Config.Listeners {
		if c.watching == nil && !l.TLS.Off && !l.TLS.ACME.Off {
			c.watching = c.program(nil, c.Config.Policies, nil, nil, 0, policy.Observe)
		}
	}
	c.nowhere = world.Metrics.Route(world.Generation, telemetry.Unrouted, telemetry.Unrouted)
	c.compileRoutes()
	// Programs that consumers need later are built from what was checked here;
	// and the world must not hold on to the snapshot, whose end ends its leases.
	world.Warn = func(string, string) {}
	world.Describe = nil
	if len(c.errs) > 0 {
		return nil, c.errs.Err()
	}
	return c.Snapshot, nil
}

// arrange takes the order of policies.
func (c *compiler) arrange() {
	c.order = policy.Order
	if c.kong = c.Config.Compatibility == "kong"; c.kong {
		c.order = policy.KongOrder
	}
	for _, place := range cacheLast(c.order) {
		if d := c.registry.Policies[place.Name]; d != nil {
			c.walk = append(c.walk, step{place, d})
		}
	}
	c.empty = make(map[string]*config.Block)
}

// Await waits until whatever finds endpoints has answered or failed, or ctx is done.
func (s *Snapshot) Await(ctx context.Context) {
	for _, service := range s.services {
		service.Await(ctx)
	}
}

// Start begins what works beside requests: health checks, rollouts. Retire the
// predecessor after it.
func (s *Snapshot) Start(env *upstream.Environment) {
	for name, service := range s.services {
		if checker := service.StartChecks(env, s.Config.Services[name].HealthCheck); checker != nil {
			s.checkers = append(s.checkers, checker)
		}
	}
	for _, r := range s.routes {
		if r.action.Start != nil {
			r.action.Start()
		}
	}
}

// Retire ends what Start began. Exchanges may go on.
func (s *Snapshot) Retire() {
	for _, c := range s.checkers {
		c.Close()
	}
	for _, r := range s.routes {
		if r.action.Stop != nil {
			r.action.Stop()
		}
	}
}

// Services returns the services by name.
func (s *Snapshot) Services() map[string]*upstream.Service { return s.services }

func (c *compiler) fail(path, format string, a ...any) {
	c.errs = append(c.errs, c.Config.Errorf(path, format, a...))
}

func (c *compiler) add(errs config.Errors) {
	for _, e := range errs {
		// One mistake in a shared block shows in every route that inherits it.
		if !slices.ContainsFunc(c.errs, func(o *config.Error) bool { return *o == *e }) {
			c.errs = append(c.errs, e)
		}
	}
}

// canonical names a set of policies by its content.
func canonical(p config.Policies) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s;", name, p[name].Canonical())
	}
	return b.String()
}

func (c *compiler) onlyStages(path string, policies config.Policies, allowed func(policy.Stage) bool, why string) {
	for name := range policies {
		if i := policy.PlaceIn(c.order, name); i >= 0 && !allowed(c.order[i].Stage) {
			c.fail(path+"."+name, "belongs to the stage %s; %s", c.order[i].Stage, why)
		}
	}
}

func (c *compiler) compileServices() {
	for _, name := range slices.Sorted(maps.Keys(c.Config.Services)) {
		sc := c.Config.Services[name]
		s, err := upstream.Compile(c.env, sc)
		if err != nil {
			path, message, _ := strings.Cut(err.Error(), ": ")
			c.fail(config.Path("services", name)+"."+path, "%s", message)
			continue
		}
		c.services[name] = s
	}
}

// layer is one level of precedence.
type layer struct {
	scope    string
	taker    string // who brings it along, as policy.Build.Taker
	policies config.Policies
	// Where it acts, "" for everywhere.
	route, service string
}

// acts tells whether a layer acts at a place.
func (l *layer) acts(route *config.Route, service *config.Service) bool {
	return (l.route == "" || route != nil && route.Name == l.route) && (l.service == "" || service != nil && service.Name == l.service)
}

// program builds the policies that are in force for a route: of each policy
// the block of the first layer that has it wins whole, and off removes it.
// Policies of stages after last are left out.
func (c *compiler) program(r *route, global config.Policies, member *config.Service, routed *config.Route, set int, last policy.Stage) *policy.Program {
	layers := c.layers[:0]
	for _, l := range c.callers.layers(set) {
		if l.acts(routed, member) {
			layers = append(layers, l)
		}
	}
	if routed != nil {
		layers = append(layers, layer{scope: "routes." + routed.Name, policies: routed.Policies})
	}
	if member != nil {
		layers = append(layers, layer{scope: "services." + member.Name, policies: member.Policies})
	}
	layers = append(layers, layer{scope: "global", policies: global})
	c.layers = layers

	winners := make(map[string]layer)
	for _, l := range layers {
		for name := range l.policies {
			if _, ok := winners[name]; !ok {
				winners[name] = l
			}
		}
	}
	steps := make([]policy.Step, 0, len(winners)+1)
	var answers policy.Answers
	if r != nil && r.action != nil {
		answers.Varies = r.action.Varies
	}
	if len(c.world.Tenants) > 0 {
		answers.Varies = slices.Concat(answers.Varies, []string{"tenant"})
	}
	for i := range c.walk {
		place, d := c.walk[i].place, c.walk[i].policy
		if place.Stage > last {
			continue
		}
		l, ok := winners[place.Name]
		block := l.policies[place.Name]
		switch {
		case ok && block.Off(), place.Name == "auth_guard" && !authenticates(winners):
			continue
		case !ok && !implied(place.Name, winners):
			continue
		case !ok:
			block, l = c.emptyBlock("policies."+place.Name), layer{scope: "default"}
		}
		b := &policy.Build{World: c.world, Policy: place.Name, Scope: l.scope, Taker: l.taker, Path: block.Path(), RouteConfig: routed}
		if r != nil {
			b.Route = r.Route
		}
		if member != nil {
			b.Service = member.Name
		}
		if place.Stage == policy.Cache {
			b.Answers = answers
		}
		hooks, errs := d.Build(b, block)
		c.add(errs)
		if c.kong && routed != nil && routed.Kong != nil {
			hooks.Authenticate = c.kongAuthenticate(place.Name, routed.Kong, hooks.Authenticate)
		}
		answers = answersBehind(answers, place, block, hooks)
		steps = append(steps, policy.Step{Name: place.Name, Scope: l.scope, Taker: l.taker, Hooks: hooks, Block: block, Settings: d.Settings})
	}
	program := policy.NewProgramIn(c.order, steps)
	if c.kong && routed != nil && routed.Kong != nil && routed.Kong.Authentication == "all" {
		program.All()
	}
	return program
}

// cacheLast is an order with the stage Cache last.
func cacheLast(order []policy.Place) []policy.Place {
	return slices.Concat(
		slices.DeleteFunc(slices.Clone(order), func(p policy.Place) bool { return p.Stage == policy.Cache }),
		slices.DeleteFunc(slices.Clone(order), func(p policy.Place) bool { return p.Stage != policy.Cache }),
	)
}

// answersBehind adds a policy to what answers depend on.
func answersBehind(a policy.Answers, place policy.Place, block *config.Block, hooks policy.Hooks) policy.Answers {
	if len(a.Varies)+len(hooks.Varies) > 0 {
		a.Varies = slices.Compact(slices.Sorted(slices.Values(slices.Concat(a.Varies, hooks.Varies))))
	}
	if place.Stage > policy.Cache {
		h := sha256.New()
		fmt.Fprintf(h, "%s %s=%s", a.Shape, place.Name, block.Canonical())
		a.Shape = hex.EncodeToString(h.Sum(nil))
	}
	return a
}

// emptyBlock stands for a policy that is on without being configured.
func (c *compiler) emptyBlock(path string) *config.Block {
	if b, ok := c.empty[path]; ok {
		return b
	}
	b, err := config.ParseBlock(path, "{}")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	c.empty[path] = b
	return b
}

// implied reports whether a policy is on without any configuration:
// correlation_id always, auth_guard wherever a policy authenticates.
func implied(name string, winners map[string]layer) bool {
	switch name {
	case "correlation_id":
		return true
	case "auth_guard":
		return authenticates(winners)
	}
	return false
}

// authenticates reports whether a policy in force verifies credentials.
func authenticates(winners map[string]layer) bool {
	for name, l := range winners {
		if i := policy.PlaceOf(name); i >= 0 && policy.Order[i].Stage == policy.Authenticate && !l.policies[name].Off() {
			return true
		}
	}
	return false
}

func (c *compiler) compileRoutes() {
	names := slices.Sorted(maps.Keys(c.Config.Routes))
	table := make([]router.Route, 0, len(names))
	c.routes = make([]*route, 0, len(names))
	for id, name := range names {
		rc := c.Config.Routes[name]
		m := rc.Match
		table = append(table, router.Route{
			ID: id, Name: name, Hosts: m.Hosts, Paths: m.Paths, Methods: m.Methods,
			Headers: lists(m.Headers), Query: lists(m.Query), Listeners: m.Listeners, Schemes: m.Schemes, SNIs: m.SNIs,
		})
	}
	// The table knows nothing of what the routes do, so that both are made at once.
	var problems []*router.Problem
	var building sync.WaitGroup
	building.Go(func() {
		if c.kong {
			problems = c.compileKong(table)
		} else {
			c.table, problems = router.Build(table)
		}
	})
	for id, name := range names {
		c.routes = append(c.routes, c.compileRoute(id, name, c.Config.Routes[name]))
	}
	building.Wait()
	for _, p := range problems {
		path := config.Path("routes", c.loser(p))
		if w := p.Where(); w != "" {
			path += ".match." + w
		}
		c.fail(path, "%s", p.Message)
	}
	for name := range c.split {
		sc := c.Config.Services[name]
		c.onlyStages(config.Path("services", name)+".policies", sc.Policies, func(s policy.Stage) bool { return s == policy.Transform },
			"a service behind a split may set only policies of the stage Transform")
	}
}

func lists(m map[string]config.StringList) map[string][]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string][]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (c *compiler) compileRoute(id int, name string, rc *config.Route) *route {
	r := &route{
		Route: &exchange.Route{ID: id, Name: name}, config: rc, maxBody: c.maxBody,
		traces: slices.Contains(rc.Match.Methods, "TRACE"), timing: rc.Timing, aims: c.kong || rc.Rewrite != "" || rc.StripPrefix,
	}
	if rc.Streaming {
		r.maxBody = 0
	}
	for _, p := range rc.Match.Paths {
		params := router.PathParams
		if c.kong {
			params = router.KongParams
		}
		r.patterns = append(r.patterns, pathPattern{text: p, params: params(p)})
	}
	path := config.Path("routes", name)
	if rc.Rewrite != "" {
		var err error
		if r.rewrite, err = compileRewrite(rc.Rewrite, r.patterns); err != nil {
			c.fail(path+".rewrite", "%s", err.Error())
		}
		if rc.StripPrefix {
			c.fail(path+".strip_prefix", "does nothing beside rewrite; remove one of the two")
		}
	}
	for status, p := range rc.Errors {
		if r.pages == nil {
			r.pages = make(map[int]*page)
		}
		r.pages[status] = &page{[]byte(p.Body), []byte(p.ContentType)}
	}
	r.action = c.compileAction(r, path, rc)
	if r.action == nil {
		return r
	}
	if c.calls(rc, r.action) {
		r.maxBody = 0 // a call is a stream, whose messages have no sum
	}
	services := []*config.Service{nil}
	switch {
	case rc.Service != "":
		services[0] = c.Config.Services[rc.Service]
		c.plain[rc.Service] = true
	case len(r.action.Members) > 0:
		services = services[:0]
		for _, m := range r.action.Members {
			services = append(services, c.Config.Services[m])
			c.split[m] = true
		}
	}
	for _, sc := range services {
		r.members = append(r.members, c.compileMember(r, rc, sc))
	}
	if c.kong {
		r.kong = c.kongRoute(r, rc)
	}
	return r
}

// calls reports whether a route leads to services of gRPC alone.
func (c *compiler) calls(rc *config.Route, a *action.Action) bool {
	names := a.Members
	if rc.Service != "" {
		names = []string{rc.Service}
	}
	for _, name := range names {
		if sc := c.Config.Services[name]; sc == nil || !sc.IsGRPC() {
			return false
		}
	}
	return len(names) > 0
}

func (c *compiler) compileMember(r *route, rc *config.Route, sc *config.Service) member {
	service := telemetry.Unrouted
	if sc != nil {
		service = sc.Name
	}
	m := member{
		program: c.program(r, c.Config.Policies, sc, rc, 0, policy.Transform),
		metrics: c.world.Metrics.Route(c.world.Generation, r.Name, service),
		own:     new(programs),
		mu:      new(sync.Mutex),
	}
	// Later, a caller's program is built by a compiler of its own: errors of
	// its blocks are found now, by building every set once for the first route.
	for set := 1; set < len(c.callers.sets); set++ {
		if r.ID == 0 || slices.ContainsFunc(c.callers.sets[set], func(l layer) bool { return (l.route != "" || l.service != "") && l.acts(rc, sc) }) {
			c.program(r, c.Config.Policies, sc, rc, set, policy.Transform)
		}
	}
	m.build = func(set int) (*policy.Program, error) {
		late := &compiler{Snapshot: c.Snapshot, env: c.env, health: c.health}
		late.arrange()
		p := late.program(r, late.Config.Policies, sc, rc, set, policy.Transform)
		if len(late.errs) > 0 {
			return nil, errors.Join(late.errs)
		}
		return p, nil
	}
	return m
}

// speaksGraphQL tells whether requests for the service are checked before they are passed on.
func (c *compiler) speaksGraphQL(service string) bool {
	sc := c.Config.Services[service]
	return sc != nil && sc.Protocol == "graphql" && c.services[service] != nil
}

// serviceBlock stands for an action that has the service as its only setting.
func serviceBlock(path, service string) *config.Block {
	b, err := config.ParseBlock(path, "service: "+strconv.Quote(service))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// compileAction builds what ends the route.
func (c *compiler) compileAction(r *route, path string, rc *config.Route) *action.Action {
	name, block := rc.Action()
	if name == "service" && c.speaksGraphQL(rc.Service) {
		name, block = "graphql", serviceBlock(path, rc.Service)
	}
	if name == "service" {
		s := c.services[rc.Service]
		if s == nil {
			return nil // said already
		}
		sc := c.Config.Services[rc.Service]
		if rc.Timeouts != nil || rc.Retries != nil {
			timeouts, retries := sc.Timeouts, sc.Retries
			if rc.Timeouts != nil {
				timeouts = rc.Timeouts.Over(timeouts)
			}
			if rc.Retries != nil {
				retries = rc.Retries.Over(retries)
			}
			response := timeouts.Response
			if timeouts.Off {
				response = 0
			}
			s = s.Override(response, upstream.RetriesOf(retries))
		}
		if rc.Kong != nil && rc.Kong.PreserveHost {
			s = s.PassingHost()
		}
		return &action.Action{Serve: s.Forward}
	}
	d := c.registry.Actions[name]
	if d == nil {
		c.fail(path+"."+cmp.Or(name, "service"), "is not built yet")
		return nil
	}
	a, errs := d.Build(&action.Build{
		World: c.world, Route: r.Route, RouteConfig: rc, Path: path + "." + name,
		Service: func(name string) *upstream.Service { return c.reachable(rc, name) },
		Health:  c.health,
	}, block)
	c.add(errs)
	return a
}

// loser is the route of a problem that is to blame for it. Where two are equally specific it is one from outside; of two
// of those the younger one.
func (c *compiler) loser(p *router.Problem) string {
	route, other := c.Config.Routes[p.Route], c.Config.Routes[p.Other]
	if route == nil || other == nil || other.Source == "" {
		return p.Route
	}
	if route.Source == "" || cmp.Or(strings.Compare(other.Since, route.Since), strings.Compare(other.Name, route.Name)) > 0 {
		return p.Other
	}
	return p.Route
}

// reachable is a service, unless the route is a team's, or a source's, and the service is not.
func (c *compiler) reachable(rc *config.Route, name string) *upstream.Service {
	if rc.Source != "" && !strings.HasPrefix(name, rc.Source+".") {
		return nil
	}
	if sc := c.Config.Services[name]; rc.Team != "" && (sc == nil || sc.Team != rc.Team) {
		return nil
	}
	return c.services[name]
}
