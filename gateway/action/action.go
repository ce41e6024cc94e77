// Package action is the contract of what ends a route: exactly one action
// stands on each route and answers its requests.
package action

import (
	"reflect"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/upstream"
)

// Action answers requests.
type Action struct {
	// Serve answers: it puts a response into the exchange, or returns a
	// *exchange.Reject or exchange.Replied.
	Serve func(x *exchange.Exchange) error
	// Members are the services among which Choose decides, if it is set; then
	// each member's Transform policies run for the requests it gets, and the
	// number chosen is in x.Member.
	Members []string
	Choose  func(x *exchange.Exchange) int
	// Varies names what the answer depends on, as in policy.Hooks.
	Varies []string
	// Start is called when the generation comes into force, Stop when it no longer is, after its successor's Start; exchanges may
	// go on. Nil for nothing.
	Start, Stop func()
	// Live is what operators see of the action and may change while it runs, nil for nothing.
	Live Live
}

// Live is an action's living part. The admin listener knows the types that can be changed.
type Live interface {
	// View returns what is shown of it, as JSON.
	View() any
}

// Build is one action being compiled for its route.
type Build struct {
	// World is what the whole generation shares.
	World *policy.World
	// Route is the route, RouteConfig its configuration, Path the configuration path of the action.
	Route       *exchange.Route
	RouteConfig *config.Route
	Path        string
	// Service returns a service of the generation, nil if there is none of that name.
	Service func(name string) *upstream.Service
	// Health returns the body of GET /health.
	Health func() []byte
}

// Definition is a kind of action.
type Definition struct {
	// Name is its key on a route.
	Name string
	// Settings is the type of its settings.
	Settings reflect.Type

	build func(b *Build, block *config.Block) (*Action, config.Errors)
}

// Define makes an action with settings C.
func Define[C any](name string, build func(*Build, *C) (*Action, error)) *Definition {
	return &Definition{
		Name: name, Settings: reflect.TypeFor[C](),
		build: func(b *Build, block *config.Block) (*Action, config.Errors) {
			c := new(C)
			if errs := block.Decode(c); len(errs) > 0 {
				return nil, errs
			}
			a, err := build(b, c)
			if err != nil {
				return nil, policy.Locate(b.World.Config, block.Path(), err)
			}
			return a, nil
		},
	}
}

// Build decodes the block and compiles the action.
func (d *Definition) Build(b *Build, block *config.Block) (*Action, config.Errors) {
	return d.build(b, block)
}
