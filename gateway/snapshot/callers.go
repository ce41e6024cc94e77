package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/kong"
	"sluice/gateway/policy"
	"sluice/gateway/router"
	"sluice/gateway/telemetry"
)

// callers is who may call, and what policies they bring along. Policies come as
// layers: a consumer's own, its plan's, its tenant's, its tenant's plan's. Those
// who bring the same layers are one set, and share programs.
type callers struct {
	sets []([]layer) // the first is empty
	own  []([]layer) // of consumers without a tenant, which go before a tenant's
	// tenants, their layers and their metrics, by number.
	tenants []*exchange.Tenant
	behind  []([]layer)
	metrics []*telemetry.TenantMetrics
	hosts   map[string]*exchange.Tenant
	wild    map[string]*exchange.Tenant // by the suffix with its leading dot
}

// rejectTenant is for a consumer of one tenant on a host of another.
var rejectTenant = exchange.NewReject(403, "wrong_tenant", "the caller does not belong to the tenant of this host")

// callers makes the tenants and consumers of the world and numbers their sets of policies.
func (c *compiler) compileCallers() {
	c.callers = callers{sets: []([]layer){nil}, hosts: map[string]*exchange.Tenant{}, wild: map[string]*exchange.Tenant{}}
	numbers := make(map[string]int)
	c.compileTenants(numbers)
	owners := make(map[int]int)
	for i, name := range slices.Sorted(maps.Keys(c.Config.Consumers)) {
		cc := c.Config.Consumers[name]
		consumer := &exchange.Consumer{
			Name: name, Index: i, Groups: cc.Groups, Tenant: c.world.Tenants[cc.Tenant],
			GroupsHeader: []byte(strings.Join(cc.Groups, ",")), NameHeader: []byte(name),
		}
		if c.kong {
			consumer.Lines = kong.Lines(name, cc.Kong)
			consumer.GroupsHeader = []byte(strings.Join(cc.Groups, ", "))
			c.terminate(consumer, cc)
		}
		layers := c.scoped(name, cc)
		if len(cc.Policies) > 0 {
			layers = append(layers, layer{scope: consumerScope(cc.Policies), taker: takenByConsumer, policies: cc.Policies})
		}
		layers = c.withPlan(layers, cc.Plan, takenByConsumer)
		if consumer.Tenant != nil {
			layers = slices.Concat(layers, c.callers.behind[consumer.Tenant.Index])
		}
		consumer.PolicySet = c.number(numbers, layers)
		if consumer.Tenant == nil && consumer.PolicySet > 0 {
			if owners[consumer.PolicySet] == 0 {
				c.callers.own = append(c.callers.own, layers)
				owners[consumer.PolicySet] = len(c.callers.own)
			}
			consumer.OwnSet = owners[consumer.PolicySet]
		}
		c.world.Consumers[name] = consumer
		c.onlyCallers("consumers."+name+".policies", cc.Policies, "a consumer")
	}
	for name, plan := range c.Config.Plans {
		c.onlyCallers("plans."+name, plan, "a plan")
	}
}

// consumerScope is the same for consumers with the same policies.
func consumerScope(policies config.Policies) string {
	sum := sha256.Sum256([]byte(canonical(policies)))
	return "consumers#" + hex.EncodeToString(sum[:8])
}

// scoped are the policies of a consumer at single routes and services, the most specific first. They are Kong's.
func (c *compiler) scoped(name string, cc *config.Consumer) (layers []layer) {
	if cc.Kong == nil {
		return nil
	}
	for i, s := range cc.Kong.Scoped {
		layers = append(layers, layer{
			scope: consumerScope(s.Policies) + "@" + s.Route + "@" + s.Service, taker: takenByConsumer, policies: s.Policies, route: s.Route, service: s.Service,
		})
		c.onlyCallers(fmt.Sprintf("consumers.%s.kong.scoped[%d].policies", name, i), s.Policies, "a consumer")
	}
	rank := func(l layer) int {
		switch {
		case l.route != "" && l.service != "":
			return 0
		case l.route != "":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(layers, func(a, b layer) int { return rank(a) - rank(b) })
	return layers
}

// Who takes a plan along, as policy.Build.Taker.
const (
	takenByConsumer = "consumer"
	takenByTenant   = "tenant"
)

func (c *compiler) compileTenants(numbers map[string]int) {
	for i, name := range slices.Sorted(maps.Keys(c.Config.Tenants)) {
		tc := c.Config.Tenants[name]
		var layers []layer
		if len(tc.Policies) > 0 {
			layers = append(layers, layer{scope: "tenants." + name, taker: takenByTenant, policies: tc.Policies})
		}
		layers = c.withPlan(layers, tc.Plan, takenByTenant)
		t := &exchange.Tenant{Name: name, Index: i, PolicySet: c.number(numbers, layers)}
		for _, host := range tc.Hosts {
			host = string(router.NormalizeHost(nil, []byte(host)))
			if suffix, wild := strings.CutPrefix(host, "*"); wild {
				c.callers.wild[suffix] = t
			} else {
				c.callers.hosts[host] = t
			}
		}
		c.world.Tenants[name] = t
		c.callers.tenants = append(c.callers.tenants, t)
		c.callers.behind = append(c.callers.behind, layers)
		c.callers.metrics = append(c.callers.metrics, c.world.Metrics.Tenant(c.world.Generation, name))
		c.onlyCallers("tenants."+name+".policies", tc.Policies, "a tenant")
	}
}

func (c *compiler) withPlan(layers []layer, name, taker string) []layer {
	if plan := c.Config.Plans[name]; len(plan) > 0 {
		layers = append(layers, layer{scope: "plans." + name, taker: taker, policies: plan})
	}
	return layers
}

// number numbers layers, equal ones alike.
func (c *compiler) number(numbers map[string]int, layers []layer) int {
	if len(layers) == 0 {
		return 0
	}
	var id strings.Builder
	for _, l := range layers {
		id.WriteString(l.scope + "\x00" + l.taker + "\x00")
	}
	n, ok := numbers[id.String()]
	if !ok {
		n = len(c.callers.sets)
		numbers[id.String()] = n
		c.callers.sets = append(c.callers.sets, layers)
	}
	return n
}

func (c *compiler) onlyCallers(path string, policies config.Policies, who string) {
	c.onlyStages(path, policies, func(s policy.Stage) bool { return s > policy.Authenticate },
		who+" may set only policies of the stages after Authenticate")
}

// count is the number of sets, those that a consumer without a tenant has on the hosts of tenants included.
func (k *callers) count() int { return len(k.sets) + len(k.own)*len(k.tenants) }

// layers returns what a set brings along.
func (k *callers) layers(set int) []layer {
	if set < len(k.sets) {
		return k.sets[set]
	}
	set -= len(k.sets)
	return slices.Concat(k.own[set/len(k.tenants)], k.behind[set%len(k.tenants)])
}

// ofHost returns the tenant of a normalised host, nil for nobody's: by the host itself, else by the longest suffix.
func (k *callers) ofHost(host []byte) *exchange.Tenant {
	if t := k.hosts[string(host)]; t != nil {
		return t
	}
	for rest := host; len(k.wild) > 0; {
		dot := bytes.IndexByte(rest, '.')
		if dot < 0 {
			break
		}
		if t := k.wild[string(rest[dot:])]; t != nil && (dot > 0 || len(rest) < len(host)) {
			return t
		}
		rest = rest[dot+1:]
	}
	return nil
}

// setOf says whose request it is, now that the caller is known, and which set of policies comes with it.
func (k *callers) setOf(x *exchange.Exchange) (set int, err error) {
	c, t := x.Identity.Consumer, x.Tenant
	switch {
	case c == nil && t == nil:
		return 0, nil
	case c == nil:
		return t.PolicySet, nil
	case c.Tenant != nil:
		if t != nil && t != c.Tenant {
			return 0, rejectTenant
		}
		x.Tenant = c.Tenant
		return c.PolicySet, nil
	case t == nil || t.PolicySet == 0:
		return c.PolicySet, nil
	case c.PolicySet == 0:
		return t.PolicySet, nil
	}
	return len(k.sets) + (c.OwnSet-1)*len(k.tenants) + t.Index, nil
}

// done counts a request of a tenant.
func (k *callers) done(x *exchange.Exchange) {
	m := k.metrics[x.Tenant.Index]
	m.Done(x.Status, x.BytesIn, x.BytesOut)
	if x.Reject != nil {
		m.Refused(x.Reject.Reason)
	}
}

// programs are the programs of a member by set. A place that nobody asks for takes no memory.
type programs struct {
	pages atomic.Pointer[[]atomic.Pointer[page64]]
}

type page64 [64]atomic.Pointer[policy.Program]

func (p *programs) load(set int) *policy.Program {
	pages := p.pages.Load()
	if pages == nil {
		return nil
	}
	page := (*pages)[set/64].Load()
	if page == nil {
		return nil
	}
	return page[set%64].Load()
}

// store keeps the program of a set, one of count. One goroutine at a time calls it.
func (p *programs) store(set, count int, program *policy.Program) {
	pages := p.pages.Load()
	if pages == nil {
		made := make([]atomic.Pointer[page64], count/64+1)
		pages = &made
		p.pages.Store(pages)
	}
	page := (*pages)[set/64].Load()
	if page == nil {
		page = new(page64)
		(*pages)[set/64].Store(page)
	}
	page[set%64].Store(program)
}
