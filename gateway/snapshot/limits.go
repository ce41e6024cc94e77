package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/router"
)

// Limits are the limits and quotas that count what a consumer does, used or not, on all routes that know who calls and do not refuse
// this consumer by its groups: at most most, in the order of scope and policy. There is nothing for a consumer that is none.
func (s *Snapshot) Limits(consumer string, most int) ([]policy.LimitEntry, error) {
	c := s.world.Consumers[consumer]
	if c == nil {
		return nil, nil
	}
	var request fasthttp.Request
	var response fasthttp.Response
	x := exchange.NewPool(s.world.Clock).Get(&request, &response, func(*exchange.Exchange) {})
	defer func() { _ = x.Close() }()
	x.Identity.Consumer, x.Tenant = c, c.Tenant

	l := &standing{snapshot: s, x: x, most: most, layers: s.callers.layers(c.PolicySet), seen: make(map[[2]string]*policy.Step)}
	for _, r := range s.routes {
		if !s.takes(r, c) {
			continue
		}
		for i := range r.members {
			if err := l.add(r, i); err != nil {
				return nil, err
			}
		}
	}
	slices.SortStableFunc(l.entries, func(a, b policy.LimitEntry) int {
		return cmp.Or(strings.Compare(a.Scope, b.Scope), policy.PlaceOf(a.Policy)-policy.PlaceOf(b.Policy))
	})
	return l.entries, nil
}

// takes reports whether a route has a host on which the consumer is not one of another tenant, nor a stranger on a tenant's.
func (s *Snapshot) takes(r *route, c *exchange.Consumer) bool {
	for _, host := range r.config.Match.Hosts {
		if t := s.callers.ofHost(router.NormalizeHost(nil, []byte(host))); t == c.Tenant || t == nil {
			return true
		}
	}
	return len(r.config.Match.Hosts) == 0
}

// standing collects how a consumer stands.
type standing struct {
	snapshot *Snapshot
	x        *exchange.Exchange
	layers   []layer
	most     int
	seen     map[[2]string]*policy.Step // by policy and scope, of blocks that come with the consumer
	entries  []policy.LimitEntry
}

// add adds the limits of a member of a route.
func (l *standing) add(r *route, i int) error {
	base := r.members[i].program.Steps()
	if !slices.ContainsFunc(base, func(s policy.Step) bool { return stageOf(s.Name) == policy.Authenticate }) {
		return nil
	}
	if s, _, err := l.step(r, i, base, "authorize"); err != nil || s != nil && s.Hooks.Bars != nil && s.Hooks.Bars(l.x.Identity.Consumer) {
		return err
	}
	for _, place := range policy.Order {
		if place.Stage != policy.Limit {
			continue
		}
		s, known, err := l.step(r, i, base, place.Name)
		if err != nil {
			return err
		}
		if s == nil || known || s.Hooks.Standing == nil || len(l.entries) >= l.most {
			continue
		}
		windows := s.Hooks.Standing(l.x)
		if len(windows) == 0 {
			continue
		}
		scope := s.Scope
		if own, ok := strings.CutPrefix(scope, "consumers#"); ok {
			_, where, _ := strings.Cut(own, "@") // of Kong's there may be one for each route
			scope = strings.TrimSuffix("consumers."+l.x.Identity.Consumer.Name+"@"+where, "@")
		}
		e := policy.LimitEntry{Policy: s.Name, Scope: scope, Key: "consumer:" + l.x.Identity.Consumer.Name, Windows: windows}
		if l.x.Tenant != nil {
			e.Tenant = l.x.Tenant.Name
		}
		l.entries = append(l.entries, e)
	}
	return nil
}

// step is the policy of this name that is in force for the consumer at a member, nil for none. known: it was there before, on another
// route. Only for what the consumer brings along itself a program of its own is made, and of that one route.
func (l *standing) step(r *route, i int, base []policy.Step, name string) (s *policy.Step, known bool, err error) {
	service := l.snapshot.serviceAt(r, i)
	at := slices.IndexFunc(l.layers, func(own layer) bool { return own.policies[name] != nil && own.acts(r.config, service) })
	if at < 0 {
		if s = find(base, name); s == nil {
			return nil, false, nil
		}
		id := [2]string{name, s.Scope}
		_, known = l.seen[id]
		l.seen[id] = s
		return s, known, nil
	}
	own := &l.layers[at]
	if own.policies[name].Off() {
		return nil, false, nil
	}
	id := [2]string{name, own.scope}
	if s, known = l.seen[id]; known {
		return s, true, nil
	}
	p, err := r.members[i].forSet(l.x.Identity.Consumer.PolicySet, l.snapshot.callers.count())
	if err != nil {
		return nil, false, err
	}
	s = find(p.Steps(), name)
	l.seen[id] = s
	return s, false, nil
}

// serviceAt is the service of a member, nil for none.
func (s *Snapshot) serviceAt(r *route, i int) *config.Service {
	if names := s.servicesOf(r); i < len(names) {
		return s.Config.Services[names[i]]
	}
	return nil
}

func find(steps []policy.Step, name string) *policy.Step {
	if i := slices.IndexFunc(steps, func(s policy.Step) bool { return s.Name == name }); i >= 0 {
		return &steps[i]
	}
	return nil
}

func stageOf(name string) policy.Stage { return policy.Order[policy.PlaceOf(name)].Stage }
