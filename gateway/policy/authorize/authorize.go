// Package authorize decides whether an authenticated caller may use a route: by its groups, by the scopes of its token, by
// other claims, and by an expression (CEL) over request and caller. All conditions that are set must hold; what can not be
// decided is a no; and whoever is nobody meets none of them, but an expression over the request alone.
package authorize

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `authorize`. All conditions must hold.
type Config struct {
	// Groups that may pass and that may not. A consumer has its configured groups, any other caller those in the `groups` claim of its token.
	Groups Groups `yaml:"groups"`
	// Scopes that the token must have, all of them, in `scope` or `scp`.
	Scopes []string `yaml:"scopes"`
	// Claims that the token must have, by their path: one of the values, in a list or among words too.
	Claims map[string]config.StringList `yaml:"claims"`
	// When is a CEL expression that must be true. It can name `request.method`, `request.path` (canonical), `request.host`, `request.scheme`, `request.query["name"]` (decoded; a parameter that is written twice is an error), `request.headers["name"]` (lower case), `claims` (of a token), `consumer.name` and `consumer.groups` (empty for callers that are no configured consumer) and `client_ip`, and use the CEL extensions for strings, optionals and networks: `claims.level >= 3 && "ops" in claims.roles`, `cidr("10.0.0.0/8").containsIP(client_ip)`. An error while it is evaluated, as for a claim that is not there, refuses the request; `has(claims.level)` asks first.
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

var (
	forbidden = exchange.NewReject(403, "forbidden", "the caller is not allowed to do this")
	// undecided says the same to the client, and another word to the log.
	undecided = exchange.NewReject(403, "condition_error", "the caller is not allowed to do this")
)

type condition struct {
	path   string
	values []string
}

type authorizer struct {
	allow, deny []string
	scopes      []string
	unscoped    *exchange.Reject
	claims      []condition

	when      *expression        // nil for none
	undecided *telemetry.Counter // evaluations that ended in an error
	anybody   bool               // no condition is about the caller
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	a := &authorizer{allow: c.Groups.Allow, deny: c.Groups.Deny, scopes: c.Scopes}
	for _, path := range slices.Sorted(maps.Keys(c.Claims)) {
		if len(c.Claims[path]) == 0 {
			return policy.Hooks{}, policy.Wrong("claims", "%s has no value that it may have", path)
		}
		a.claims = append(a.claims, condition{path, c.Claims[path]})
	}
	aboutCaller := len(a.allow)+len(a.deny)+len(a.scopes)+len(a.claims) > 0
	hooks := policy.Hooks{Request: a.request, Bars: a.bars}
	if c.When != "" {
		var err error
		if a.when, err = compile(b.World, c.When); err != nil {
			return policy.Hooks{}, err
		}
		a.anybody = !aboutCaller && !a.when.aboutCaller
		hooks.Varies = a.when.varies
		if !b.World.DryRun {
			a.undecided = b.World.Metrics.AuthFailures.With(b.World.Generation, b.Route.Name, undecided.Reason)
		}
	} else if !aboutCaller {
		return policy.Hooks{}, errors.New("has no condition; give groups, scopes, claims or when, or off")
	}
	for _, scope := range a.scopes {
		// RFC 6749 section 3.3; the challenge quotes them.
		if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return policy.Hooks{}, policy.Wrong("scopes", "%q is no scope: a scope is one word of printable ASCII without quotes", scope)
		}
	}
	a.unscoped = exchange.NewReject(403, "insufficient_scope", "the token does not have the scope that is needed here",
		exchange.Header("WWW-Authenticate", `Bearer error="insufficient_scope", scope="`+strings.Join(a.scopes, " ")+`"`))
	return hooks, nil
}

func (a *authorizer) request(x *exchange.Exchange) error {
	id := &x.Identity
	if id.Consumer == nil && !id.Authenticated && !a.anybody {
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
	if a.when != nil {
		switch ok, err := a.when.holds(x); {
		case err != nil:
			a.undecided.Inc()
			return undecided
		case !ok:
			return forbidden
		}
	}
	return nil
}

// bars tells whether a consumer's groups alone refuse it.
func (a *authorizer) bars(c *exchange.Consumer) bool {
	id := &exchange.Identity{Consumer: c}
	return inAny(id, a.deny) || len(a.allow) > 0 && !inAny(id, a.allow)
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
