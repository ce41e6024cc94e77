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
	owners, tokens := map[string]string{}, map[string]string{}
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
		k.tenantToken(name, t, tokens)
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

// minToken is how long a token must be at least.
const minToken = 16

// tenantToken checks that a tenant's token is nobody else's, and that there is an operators' one, without which everybody is one.
func (k *checker) tenantToken(name string, t *Tenant, tokens map[string]string) {
	token, path := t.AdminToken.Reveal(), joinKey("tenants", name)+".admin_token"
	owner, taken := tokens[token]
	switch {
	case token == "":
		return
	case k.c.Admin.Token.Reveal() == "":
		k.fail(path, "needs admin.token: without one the admin listener takes everybody for an operator")
	case token == k.c.Admin.Token.Reveal():
		k.fail(path, "is admin.token, with which everything may be done")
	case taken:
		k.fail(path, "is the token of the tenant %s", owner)
	case len(token) < minToken:
		k.fail(path, "must have %d bytes at least; a random one of 32 is good", minToken)
	}
	tokens[token] = name
}

// usage checks where usage is kept.
func (k *checker) usage() {
	u := &k.c.State.Usage
	switch dsn := u.DSN.Reveal(); {
	case u.Off:
	case u.Store == "postgres" && dsn == "":
		k.fail("state.usage.dsn", "this setting is missing; write postgres://user:password@host:5432/database")
	case u.Store != "postgres" && dsn != "":
		k.fail("state.usage.dsn", "is for store: postgres")
	}
}
