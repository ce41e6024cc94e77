// Package authguard slows down whoever guesses credentials: an address with too many failed authentications is answered
// 429 before its next credential is looked at. Addresses are counted for all routes with the same settings together, IPv6
// by /64, and the count outlives reloads. Requests that are on their way at the same moment are judged by the same count.
package authguard

import (
	"strconv"
	"time"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/limiter"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `auth_guard`, which is on wherever a policy authenticates. An address with too many
// failures gets 429 for valid credentials too, until enough is forgiven: whoever guesses would otherwise learn of a hit by its answer. That is hard on
// honest clients behind the same address (NAT, or a proxy that is not in `trusted_proxies`): name the proxy there, raise `failures`, or turn
// the policy `off` on the routes where that may happen; it can be set on a route, a service or globally.
type Config struct {
	// Failures that one address may have, at once or spread over `per`. A request without a credential is none, nor is a credential that has expired or was revoked, one that is good for other requests, or a token that is not valid yet, or can not be verified because the keys are out of reach.
	Failures int64 `yaml:"failures" default:"20" min:"1" max:"1000000"`
	// Per is the time in which `failures` are forgiven, evenly.
	Per config.Duration `yaml:"per" default:"1m" min:"1s" max:"1d"`
}

// Definition is the policy `auth_guard`.
var Definition = policy.Define("auth_guard", policy.Guard, build)

// maxAddresses bounds the addresses that are counted, and with them the memory to about 25 MiB.
const maxAddresses = 200_000

var refused = exchange.NewReject(429, "too_many_failed_authentications", "too many failed authentications from this address")

type guard struct {
	failed *limiter.Store
	limits []limiter.Limit
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	g := &guard{limits: []limiter.Limit{{Requests: c.Failures, Per: c.Per}}}
	hooks := policy.Hooks{Request: g.request, Done: g.done}
	if b.World.DryRun {
		return hooks, nil
	}
	var err error
	identity := "auth_guard/" + strconv.FormatInt(c.Failures, 10) + "/" + c.Per.String()
	g.failed, err = policy.LivingAs(b.World, identity, func() (*limiter.Store, error) {
		return limiter.New(limiter.Options{MaxKeys: maxAddresses}), nil
	})
	return hooks, err
}

func (g *guard) request(x *exchange.Exchange) error {
	if g.failed.Empty() {
		return nil
	}
	return g.judge(x)
}

// judge refuses who has failed too often.
func (g *guard) judge(x *exchange.Exchange) error {
	var out [1]limiter.Result
	if g.failed.Peek(x.Start, x.AppendClientKey(x.Scratch()), g.limits, 1, out[:]) {
		return nil
	}
	seconds := int64((out[0].RetryAfter + time.Second - 1) / time.Second)
	x.ToClient.Set("Retry-After", x.Keep(strconv.AppendInt(x.Scratch(), max(seconds, 1), 10)))
	return refused
}

func (g *guard) done(x *exchange.Exchange) {
	if guessed(x.AuthFailure) {
		g.failed.Take(x.Clock.Now(), x.AppendClientKey(x.Scratch()), g.limits[0], 1)
	}
}

// guessed tells failures that come from trying credentials from those that happen to honest clients.
func guessed(failure string) bool {
	switch failure {
	case "", "missing", "expired", "revoked", "key_method", "key_path", "not_yet_valid", "no_keys", "replayed":
		return false
	}
	return true
}
