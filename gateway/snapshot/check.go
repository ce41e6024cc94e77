package snapshot

import (
	"fmt"
	"maps"
	"slices"

	"sluice/config"
	"sluice/gateway/policy"
)

// CheckPolicies finds policies that do not exist, are not built or have
// settings that can not be read, wherever they stand, also where no route uses
// them. The configuration may have other mistakes, and blocks that are missing for them.
func (r *Registry) CheckPolicies(c *config.Config) (errs config.Errors) {
	check := func(path string, policies config.Policies) {
		for _, name := range slices.Sorted(maps.Keys(policies)) {
			block := policies[name]
			switch {
			case policy.PlaceOf(name) < 0:
				known := make([]string, 0, len(policy.Order))
				for _, p := range policy.Order {
					known = append(known, p.Name)
				}
				errs = append(errs, c.Errorf(path+"."+name, "is not a policy%s", config.Hint(name, known)))
			case block == nil, block.Off():
			case r.Policies[name] == nil:
				errs = append(errs, c.Errorf(path+"."+name, "is not built yet"))
			default:
				errs = append(errs, r.Policies[name].Check(block)...)
			}
		}
	}
	check("policies", c.Policies)
	for name, s := range c.Services {
		if s != nil {
			check(config.Path("services", name)+".policies", s.Policies)
		}
	}
	for name, route := range c.Routes {
		if route != nil && len(route.Policies) > 0 {
			check(config.Path("routes", name)+".policies", route.Policies)
		}
	}
	for name, k := range c.Consumers {
		if k == nil {
			continue
		}
		check("consumers."+name+".policies", k.Policies)
		if k.Kong == nil {
			continue
		}
		for i, s := range k.Kong.Scoped {
			check(fmt.Sprintf("consumers.%s.kong.scoped[%d].policies", name, i), s.Policies)
		}
	}
	for name, t := range c.Tenants {
		if t != nil {
			check("tenants."+name+".policies", t.Policies)
		}
	}
	for name, plan := range c.Plans {
		check("plans."+name, plan)
	}
	return errs
}
