package config

import (
	"maps"
	"slices"
	"strings"
)

// tenants checks whose hosts are whose: a host of two would be served as either's.
func (k *checker) tenants() {
	c := k.c
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		k.name(joinKey("plans", name), name)
	}
	owners := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Tenants)) {
		t, path := c.Tenants[name], joinKey("tenants", name)
		k.name(path, name)
		if t == nil {
			continue
		}
		if t.Plan != "" {
			reference(k, path+".plan", "plan", t.Plan, c.Plans)
		}
		if t.ConcurrencyShare <= 0 {
			k.fail(path+".concurrency_share", "with a share of 0%% no request of the tenant would be served; write more, or leave it out for 100%%")
		}
		for i, host := range t.Hosts {
			at := joinIndex(path+".hosts", i)
			before := len(k.errs)
			k.host(at, host)
			if len(k.errs) > before {
				continue
			}
			host = strings.ToLower(host)
			if owner, taken := owners[host]; taken {
				k.fail(at, "%q is a host of the tenant %s already", host, owner)
			}
			owners[host] = name
		}
	}
}
