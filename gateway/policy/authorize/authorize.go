// Package authorize decides whether an authenticated caller may use a route: by its groups, by the scopes of its token and
// by other claims. All conditions that are set must hold, and whoever is nobody meets none of them.
package authorize

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `authorize`. All conditions must hold.
type Config struct {
	// Groups that may pass and that may not. A consumer has its configured groups, any other caller those in the `groups` claim of its token.
	Groups Groups `yaml:"groups"`
	// Scopes that the token must have, all of them, in `scope` or `scp`.
	Scopes []string `yaml:"scopes"`
	// Claims that the token must have, by their path: one of the values, in a list or among words too.
	Claims map[string]config.StringList `yaml:"claims"`
	// When is a CEL expression that must be true.
	When string `yaml:"when"`
}

// Groups are conditions on the groups of a caller.
type Groups struct {
	// Allow: the caller must be in one of these.
	Allow []string `yaml:"allow"`
	// Deny: the caller must be in none of these, whatever is allowed.
	Deny []string `yaml:"deny"`
}

// Definition is the policy `authorize`.
var Definition = policy.Define("authorize", policy.Authorize, build)

var forbidden = exchange.NewReject(403, "forbidden", "the caller is not allowed to do this")

type condition struct {
	path   string
	values []string
}

type authorizer struct {
	allow, deny []string
	scopes      []string
	unscoped    *exchange.Reject
	claims      []condition
}

func build(_ *policy.Build, c *Config) (policy.Hooks, error) {
	if c.When != "" {
		return policy.Hooks{}, policy.Wrong("when", "CEL expressions are not built yet; use groups, scopes and claims")
	}
	a := &authorizer{allow: c.Groups.Allow, deny: c.Groups.Deny, scopes: c.Scopes}
	for _, path := range slices.Sorted(maps.Keys(c.Claims)) {
		if len(c.Claims[path]) == 0 {
			return policy.Hooks{}, policy.Wrong("claims", "%s has no value that it may have", path)
		}
		a.claims = append(a.claims, condition{path, c.Claims[path]})
	}
	if len(a.allow)+len(a.deny)+len(a.scopes)+len(a.claims) == 0 {
		return policy.Hooks{}, errors.New("has no condition; give groups, scopes or claims, or off")
	}
	for _, scope := range a.scopes {
		// RFC 6749 section 3.3; the challenge quotes them.
		if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return policy.Hooks{}, policy.Wrong("scopes", "%q is no scope: a scope is one word of printable ASCII without quotes", scope)
		}
	}
	a.unscoped = exchange.NewReject(403, "insufficient_scope", "the token does not have the scope that is needed here",
		exchange.Header("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+strings.Join(a.scopes, " ")+`"`))
	return policy.Hooks{Request: a.request}, nil
}

func (a *authorizer) request(x *exchange.Exchange) error {
	id := &x.Identity
	if id.Consumer == nil && !id.Authenticated {
		return forbidden
	}
	if inAny(id, a.deny) || len(a.allow) > 0 && !inAny(id, a.allow) {
		return forbidden
	}
	for i := range a.claims {
		if !a.claims[i].holds(id) {
			return forbidden
		}
	}
	for _, scope := range a.scopes {
		if id.Claims == nil || !id.Claims.ClaimHas("scope", scope) && !id.Claims.ClaimHas("scp", scope) {
			return a.unscoped
		}
	}
	return nil
}

// inAny does not ask a consumer's token for groups: a consumer that signs its tokens itself could join any.
func inAny(id *exchange.Identity, groups []string) bool {
	for _, g := range groups {
		if id.Consumer != nil {
			if id.Consumer.InGroup(g) {
				return true
			}
		} else if id.Claims != nil && id.Claims.ClaimHas("groups", g) {
			return true
		}
	}
	return false
}

func (c *condition) holds(id *exchange.Identity) bool {
	if id.Claims == nil {
		return false
	}
	for _, v := range c.values {
		if id.Claims.ClaimHas(c.path, v) {
			return true
		}
	}
	return false
}
