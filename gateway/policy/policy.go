// Package policy is the contract between policies and the request path: a
// policy defines its settings and, when a configuration is compiled, turns
// them into hooks; a Program is the hooks of one route in stage order.
// Everything a configuration can decide is decided in a build function, so
// that a hook only does what depends on the request.
package policy

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"

	"sluice/config"
	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
	"sluice/gateway/keys"
	"sluice/gateway/lifetime"
	"sluice/gateway/revocation"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
	"sluice/gateway/usage"
)

// Stage is the part of a request's way in which a policy acts.
type Stage uint8

// The stages, in the order in which requests pass them.
const (
	Observe Stage = iota
	Edge
	Encode
	Guard
	Authenticate
	Authorize
	Limit
	Inspect
	Cache
	Transform
)

var stageNames = [...]string{"Observe", "Edge", "Encode", "Guard", "Authenticate", "Authorize", "Limit", "Inspect", "Cache", "Transform"}

func (s Stage) String() string { return stageNames[s] }

// Place is a policy's fixed place on a request's way.
type Place struct {
	Name  string
	Stage Stage
}

// Order is the one list of all policies of the contract, in the order in which
// they run, whatever order a configuration writes them in.
var Order = []Place{
	{"correlation_id", Observe}, {"tracing", Observe}, {"access_log", Observe}, {"audit", Observe},
	{"ip_filter", Edge}, {"cors", Edge},
	{"compression", Encode},
	{"request_size", Guard}, {"bot_filter", Guard}, {"auth_guard", Guard},
	{"api_key", Authenticate}, {"jwt", Authenticate}, {"basic_auth", Authenticate}, {"hmac_auth", Authenticate},
	{"mtls_auth", Authenticate}, {"forward_auth", Authenticate},
	{"authorize", Authorize},
	{"rate_limit", Limit}, {"response_rate_limit", Limit}, {"quota", Limit}, {"concurrency", Limit}, {"bandwidth", Limit}, {"websocket_limit", Limit},
	{"openapi", Inspect}, {"waf", Inspect}, {"idempotency", Inspect},
	{"cache", Cache},
	{"api_version", Transform}, {"request_transform", Transform}, {"response_transform", Transform}, {"mirror", Transform},
}

// KongOrder is Order in compatibility with Kong, whose plugins have priorities of their own: bots are kept out before
// anything else, tokens are looked at before keys, and addresses and sizes behind authentication.
var KongOrder = func() (order []Place) {
	for _, p := range Order {
		switch p.Name {
		case "bot_filter", "ip_filter", "request_size", "jwt":
			continue
		case "api_key":
			order = append(order, Place{"jwt", Authenticate})
		case "cors":
			order = append(order, Place{"bot_filter", Edge})
		case "authorize":
			order = append(order, Place{"ip_filter", Authorize}, Place{"request_size", Authorize})
		}
		order = append(order, p)
	}
	return order
}()

// PlaceOf returns the rank of a policy in Order, -1 if there is no such policy.
func PlaceOf(name string) int { return PlaceIn(Order, name) }

// PlaceIn returns the rank of a policy in an order, -1 if it is not in it.
func PlaceIn(order []Place, name string) int {
	return slices.IndexFunc(order, func(p Place) bool { return p.Name == name })
}

// Hooks are what a policy does with a request. A nil hook costs nothing. A
// hook runs to its end, never waits unless it is Blocking, starts no
// goroutine or timer, never touches the connection, and allocates nothing when
// the request passes.
type Hooks struct {
	// Authenticate verifies a credential and fills x.Identity. Only policies of
	// the stage Authenticate have it. It returns nil, exchange.ErrNoCredential
	// if the request has none of its kind, or a *exchange.Reject after setting
	// x.AuthFailure. Several on one route: any that succeeds is enough.
	Authenticate func(x *exchange.Exchange) error
	// Challenge is the WWW-Authenticate value for requests without credential.
	Challenge string
	// Anonymous is the consumer that an unauthenticated request gets, nil for none.
	Anonymous *exchange.Consumer

	// Ahead runs once it is known who calls, before Request of any policy behind the stage Authenticate: for what those have to
	// know about a request, such as the cache. It reads the request's head alone, and its error is the answer.
	Ahead func(x *exchange.Exchange) error
	// Explain says in one line what Ahead finds of a request, for explanations. It changes nothing but what Ahead puts into the
	// exchange, and counts nothing.
	Explain func(x *exchange.Exchange) string

	// Request runs before the action. An error ends the request: a
	// *exchange.Reject, or exchange.Replied. Those of the stage Authenticate
	// all run before the first credential is looked at.
	Request func(x *exchange.Exchange) error
	// Response runs when the head of the answer is known, in reverse order,
	// for rejections too (see x.Answer), if Request was reached.
	Response func(x *exchange.Exchange) error
	// OnlyFetched says that Response leaves answers of the cache alone.
	OnlyFetched bool
	// Done runs when the exchange ends, if Request was reached.
	Done func(x *exchange.Exchange)

	// Standing shows how a caller stands with what the policy counts by consumer, and counts nothing. It may wait. x is nobody's
	// request: it has a time, a consumer, and the consumer's tenant.
	Standing func(x *exchange.Exchange) []LimitWindow
	// Bars reports that the policy refuses every request of a consumer.
	Bars func(c *exchange.Consumer) bool

	// Blocking: the hooks may wait or burn more than about 100 µs.
	Blocking bool
	// Varies names what the stored answer depends on because of this policy,
	// for the cache key: "header:NAME", "query:NAME", "claim:NAME", "consumer",
	// "api_version".
	Varies []string
}

// Definition is a kind of policy.
type Definition struct {
	// Name is its key under policies.
	Name string
	// Stage is where it runs.
	Stage Stage
	// Settings is the type of its settings.
	Settings reflect.Type
	// List tells that a list of settings is accepted too.
	List bool

	build func(b *Build, block *config.Block) (Hooks, config.Errors)
	check func(block *config.Block) config.Errors
}

// Define makes a policy whose settings are one C. build returns an error for
// what only it can judge; syntax, defaults and enums are checked before.
func Define[C any](name string, stage Stage, build func(*Build, *C) (Hooks, error)) *Definition {
	return define[C](name, stage, false, func(b *Build, cs []*C) (Hooks, error) { return build(b, cs[0]) })
}

// DefineList makes a policy that takes one C or a list of them.
func DefineList[C any](name string, stage Stage, build func(*Build, []*C) (Hooks, error)) *Definition {
	return define[C](name, stage, true, build)
}

func define[C any](name string, stage Stage, list bool, build func(*Build, []*C) (Hooks, error)) *Definition {
	place := PlaceOf(name)
	if place < 0 || Order[place].Stage != stage {
		panic("BUG: policy " + name + " has no place in this stage of policy.Order")
	}
	d := &Definition{Name: name, Stage: stage, Settings: reflect.TypeFor[C](), List: list}
	d.check = func(block *config.Block) config.Errors {
		_, errs := decode[C](block, list)
		return errs
	}
	d.build = func(b *Build, block *config.Block) (Hooks, config.Errors) {
		cs, errs := decode[C](block, list)
		if len(errs) > 0 {
			return Hooks{}, errs
		}
		if len(cs) == 0 {
			return Hooks{}, config.Errors{b.World.Config.Errorf(block.Path(), "is an empty list; give at least one element, or off")}
		}
		h, err := build(b, cs)
		if err != nil {
			return Hooks{}, Locate(b.World.Config, block.Path(), err)
		}
		return h, nil
	}
	return d
}

// decode reads the settings of a block, or of each block of a list.
func decode[C any](block *config.Block, list bool) ([]*C, config.Errors) {
	items := []*config.Block{block}
	if list {
		items = block.Items()
	}
	var errs config.Errors
	cs := make([]*C, 0, len(items))
	for _, item := range items {
		c := new(C)
		errs = append(errs, item.Decode(c)...)
		cs = append(cs, c)
	}
	return cs, errs
}

// Check reads the settings of a block without building anything.
func (d *Definition) Check(block *config.Block) config.Errors { return d.check(block) }

// Build decodes the block and compiles the hooks.
func (d *Definition) Build(b *Build, block *config.Block) (Hooks, config.Errors) {
	return d.build(b, block)
}

// SettingError is a build function's complaint about one of its settings.
type SettingError struct {
	// Setting is the path below the policy, such as "jwks_url".
	Setting string
	Message string
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Message }

// Wrong returns a SettingError.
func Wrong(setting, format string, a ...any) error {
	return &SettingError{Setting: setting, Message: fmt.Sprintf(format, a...)}
}

// World is what a generation's builds share.
type World struct {
	// Config is the configuration that is compiled.
	Config *config.Config
	// Log is the operator log.
	Log *slog.Logger
	// Clock is the gateway's clock.
	Clock *exchange.Clock
	// Metrics are the process's; Generation holds this generation's series.
	Metrics    *telemetry.Metrics
	Generation *telemetry.Generation
	// Living holds state that outlives generations; Leases collects this generation's hold on it.
	Living *lifetime.Pool[string, any]
	Leases *lifetime.Set
	// Cluster is the store that instances share. Nil: there is none, or nothing may be opened.
	Cluster *cluster.Store
	// Consumers are the consumers of the generation by name.
	Consumers map[string]*exchange.Consumer
	// Repeat lets a Request hook have its request fetched once more, in the background: a copy goes on behind the hook, after
	// prepare has seen it, with the hooks from this one on, and its response is read to the end. It returns false if there
	// are too many already. Nil where there is no gateway.
	Repeat func(x *exchange.Exchange, prepare func(*exchange.Exchange)) bool
	// Keys are the API keys made at run time, nil without state.dir.
	Keys *keys.Store
	// Revoked are the tokens that count no more; nil where nothing may be opened.
	Revoked *revocation.List
	// Usage counts who uses what; nil where nobody wants to know.
	Usage *usage.Counter
	// Tenants are the tenants of the generation by name.
	Tenants map[string]*exchange.Tenant
	// Services are those of the generation by name, for what is sent beside the request's own way.
	Services map[string]*upstream.Service
	// Follow names a file whose change is a change of the configuration; Describe tells of the API that a route serves. Nil
	// where nobody wants to know, as for what is built later.
	Follow   func(file string)
	Describe func(Document)
	// DryRun: the generation is only validated; nothing may be opened or started.
	DryRun bool
	// Warn collects remarks about settings that work and are unwise.
	Warn func(path, message string)

	memo memo
}

// Document is the description of the API that a route serves.
type Document struct {
	// Route is the route's name, File what it was read from.
	Route, File string
	// Base is what clients write before the document's paths.
	Base string
	// JSON is an OpenAPI document that refers to nothing outside of itself.
	JSON []byte
}

// Shared reports whether limits, quotas and records are shared with other instances.
func (w *World) Shared() bool { return !w.Config.State.Redis.Off }

// Build is one policy being compiled for one place.
type Build struct {
	// World is what the whole generation shares.
	World *World
	// Policy is the name of the policy.
	Policy string
	// Scope says whose block it is: "global", "services.NAME", "routes.NAME",
	// "tenants.NAME", "plans.NAME", or "consumers#" and a hash of the blocks, which
	// equal ones share. With Policy it is the identity of state that survives reloads.
	Scope string
	// Taker is who brings the block along: "consumer" or "tenant"; "" for a block
	// of the gateway, a service or a route. A plan has either.
	Taker string
	// Path is the configuration path of the block.
	Path string
	// Route is the route it is compiled for.
	Route *exchange.Route
	// RouteConfig is the route's configuration.
	RouteConfig *config.Route
	// Service is the service that the place leads to, "" if it leads to none or to several.
	Service string
	// Answers is set for the policies of the stage Cache, which are built after all others.
	Answers Answers
}

// Answers says what the answers that come to the stage Cache depend on, beside the request's target.
type Answers struct {
	// Varies is what the action and all other policies of the place name in Varies, sorted and each once.
	Varies []string
	// Shape identifies the policies that change answers before they are stored, with their settings; "" for none.
	Shape string
}

// Warnf tells the operator of a setting that works and is unwise.
func (b *Build) Warnf(setting, format string, a ...any) {
	path := b.Path
	if setting != "" {
		path += "." + setting
	}
	b.World.Warn(path, fmt.Sprintf(format, a...))
}

// Locate places a build function's error in the configuration: below path, at
// the setting of a SettingError.
func Locate(c *config.Config, path string, err error) config.Errors {
	if errs, ok := err.(config.Errors); ok {
		return errs
	}
	message := err.Error()
	if s, ok := err.(*SettingError); ok {
		path, message = path+"."+s.Setting, s.Message
	}
	return config.Errors{c.Errorf(path, "%s", message)}
}

// Living returns the state of this name under the policy's identity: the one
// of the previous generation if there is one, else what make returns. If it
// is an io.Closer it is closed when no generation uses it any more.
func Living[T any](b *Build, name string, make func() (T, error)) (T, error) {
	return LivingAs(b.World, b.Scope+"/"+b.Policy+"/"+name, make)
}

// LivingAs is Living under an identity of its own, shared by all that name it.
func LivingAs[T any](w *World, identity string, make func() (T, error)) (T, error) {
	held, err := lifetime.Hold(w.Leases, w.Living, identity, func() (any, error) { return make() })
	if err != nil {
		var zero T
		return zero, err
	}
	v, ok := held.(T)
	if !ok {
		panic(fmt.Sprintf("BUG: living state %s is a %T", identity, held))
	}
	return v, nil
}
