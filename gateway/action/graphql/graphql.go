// Package graphql is the action that speaks GraphQL, in one of three ways: it answers GraphQL requests from REST services
// by a schema and resolvers, it turns a REST request into a stored operation of a GraphQL service, or it checks the
// requests for a GraphQL service and passes them on. Whatever a document asks for is bounded before anything of it is
// carried out, and all that one request causes ends with one deadline.
package graphql

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
	"sluice/gateway/upstream"
)

// Config of the action. With `resolvers` it answers GraphQL requests itself; with `service` and `operation` each request
// becomes that operation; with `service` alone GraphQL requests are checked and passed on.
type Config struct {
	// Service that speaks GraphQL, by name.
	Service string `yaml:"service"`
	// Operation that each request becomes at the service: the text of a query or a mutation, `${file:PATH}` for that of a file.
	Operation string `yaml:"operation"`
	// Variables of the operation by name. Each is a template: beside the templates of transformations `${body.NAME}` is a
	// value of a JSON body, at a dotted path, and `${body}` the whole. Texts become what the operation declares; a
	// variable whose values are all missing is left out.
	Variables map[string]string `yaml:"variables"`
	// Path of the GraphQL endpoint of the service that the operation is sent to, behind the base path of its URL.
	Path string `yaml:"path" default:"/graphql"`
	// Extract is the part of the operation's data that is the answer, at a dotted path. Left out: all of the data.
	Extract string `yaml:"extract"`
	// ErrorStatuses are the statuses for errors of the operation by their `extensions.code`, over the defaults: 400 for
	// BAD_USER_INPUT, 401 for UNAUTHENTICATED, 403 for FORBIDDEN, 404 for NOT_FOUND, 409 for CONFLICT, 429 for RATE_LIMITED.
	// Any other error is 502.
	ErrorStatuses map[string]int `yaml:"error_statuses"`
	// Partial answers with what there is where an operation has both errors and the extracted part.
	Partial bool `yaml:"partial" default:"false"`

	// Schema is the file of the GraphQL schema, in the schema definition language. Required with resolvers; else documents are
	// validated against it where it is given.
	Schema string `yaml:"schema"`
	// Resolvers say where fields come from, each under `Type.field`. Every other field is the property of that name.
	Resolvers map[string]*Resolver `yaml:"resolvers"`

	// MaxDepth bounds how deep the fields of a document nest; 0: no limit.
	MaxDepth int `yaml:"max_depth" default:"15" min:"0" max:"1000"`
	// MaxCost bounds the cost of an operation; 0: no limit. A field costs 1, or what its resolver says. What stands below a list counts as
	// often as the argument `first`, `last` or `limit` says, else `list_size` times.
	MaxCost int `yaml:"max_cost" default:"10000" min:"0" max:"1000000000"`
	// ListSize is how many elements a list is taken to have where no argument tells.
	ListSize int `yaml:"list_size" default:"10" min:"1" max:"100000"`
	// MaxAliases bounds the aliases of an operation; 0: no limit.
	MaxAliases int `yaml:"max_aliases" default:"30" min:"0" max:"100000"`
	// MaxTokens bounds the words and signs of a document.
	MaxTokens int `yaml:"max_tokens" default:"5000" min:"1" max:"1000000"`
	// Introspection lets clients ask for the schema.
	Introspection bool `yaml:"introspection" default:"true"`
	// Persisted is a JSON file of the operations that clients may name by the SHA-256 of their text: `{"HASH": "query …"}`, or a manifest
	// `{"operations": [{"id": "HASH", "body": "query …"}]}`.
	Persisted string `yaml:"persisted"`
	// PersistedOnly refuses every operation that is not in `persisted`.
	PersistedOnly bool `yaml:"persisted_only" default:"false"`
	// AutomaticPersisted lets clients register operations under their SHA-256 (automatic persisted queries). The latest 1000 are kept, in memory.
	AutomaticPersisted bool `yaml:"automatic_persisted" default:"false"`
	// Operations are names of operations that metrics tell apart, beside those of `persisted`; others count as `other`.
	Operations []string `yaml:"operations"`

	// Timeout of a request as a whole, whatever it calls, unless the client's `X-Request-Deadline` is sooner. Not for requests that are passed on, which have the service's.
	Timeout config.Duration `yaml:"timeout" default:"10s" min:"1ms"`
	// MaxBody bounds the body of a request.
	MaxBody config.Size `yaml:"max_body" default:"1MiB" min:"1"`
	// MaxCalls bounds the calls to services that one request causes.
	MaxCalls int `yaml:"max_calls" default:"100" min:"1" max:"10000"`
	// MaxParallel bounds those of them that are under way at once.
	MaxParallel int `yaml:"max_parallel" default:"16" min:"1" max:"1000"`
	// MaxAnswer bounds the answer of one call; those of a request may have eight times as much together.
	MaxAnswer config.Size `yaml:"max_answer" default:"1MiB" min:"1"`
}

// Resolver says which call a field's value comes from. Its texts are templates: `${args.NAME}` is an argument, `${parent.NAME}` a property of
// the object that the field belongs to, both with dotted paths, beside the templates of transformations. The header fields of the client go with
// the call, but for those about its own body and the form of its own answer.
type Resolver struct {
	// Service that is called, by name.
	Service string `yaml:"service" required:"true"`
	// Method of the call.
	Method string `yaml:"method" default:"GET" enum:"GET|POST|PUT|PATCH|DELETE"`
	// Path of the call. A value fills one segment or a part of it, and can not leave it.
	Path string `yaml:"path"`
	// Query parameters of the call. One whose value is missing or null is left out.
	Query map[string]string `yaml:"query"`
	// Lists says how the elements of a list stand in the query: in one parameter separated by commas, or in one each.
	Lists string `yaml:"lists" default:"comma" enum:"comma|repeat"`
	// Body of the call, sent as JSON. A text that is one template alone has the type of its value. Left out: the arguments, for methods with a body.
	Body any `yaml:"body"`
	// Extract is the part of the answer that is the value, at a dotted path. Left out: all of it.
	Extract string `yaml:"extract"`
	// NullOn are statuses that mean null; every other one beyond 299 is an error.
	NullOn []int `yaml:"null_on" default:"404" min:"300" max:"599"`
	// Cost of the field, see max_cost.
	Cost int `yaml:"cost" default:"1" min:"0" max:"1000000"`
	// Batch makes one call for the field of many objects. Left out: a call for each.
	Batch *Batch `yaml:"batch"`
}

// Batch is the list form of a resolver's call: in it `${keys}` are the keys of the objects, and `${parent…}` is not known. What is left out is the resolver's.
type Batch struct {
	// Key of an object.
	Key string `yaml:"key" required:"true"`
	// By is the property of the elements of the answer that is the key. Where the answer is an object instead, its names are the keys.
	By string `yaml:"by" default:"id"`
	// Max is how many keys one call may have.
	Max int `yaml:"max" default:"100" min:"1" max:"10000"`
	// Method of the call.
	Method string `yaml:"method" enum:"GET|POST|PUT|PATCH|DELETE"`
	// Path of the call.
	Path string `yaml:"path"`
	// Query parameters of the call.
	Query map[string]string `yaml:"query"`
	// Body of the call, sent as JSON.
	Body any `yaml:"body"`
	// Extract is the part of the answer that has the elements, at a dotted path.
	Extract string `yaml:"extract"`
}

// Validate reports settings that do not belong together.
func (c *Config) Validate() error {
	var errs config.Errors
	fail := func(path, format string, a ...any) { errs = append(errs, config.Errorf(path, format, a...)) }
	switch {
	case len(c.Resolvers) > 0:
		if c.Schema == "" {
			fail("resolvers", "need a schema; write schema: FILE")
		}
		if c.Service != "" {
			fail("service", "does nothing beside resolvers, which name theirs; remove one of the two")
		}
		if c.Operation != "" {
			fail("operation", "does nothing beside resolvers; remove one of the two")
		}
	case c.Service == "":
		fail("", "has nothing to answer from; write service: NAME, or schema: FILE with resolvers")
	case c.Operation != "":
		if !strings.HasPrefix(c.Path, "/") {
			fail("path", "%q does not begin with a slash", c.Path)
		}
	}
	if c.Operation == "" {
		if len(c.Variables) > 0 {
			fail("variables", "belong to operation, which is left out")
		}
		if c.Extract != "" {
			fail("extract", "belongs to operation, which is left out")
		}
	} else if c.Persisted != "" || c.PersistedOnly || c.AutomaticPersisted {
		fail("operation", "is sent by the gateway alone, so nothing can be persisted beside it")
	}
	if c.PersistedOnly && c.Persisted == "" {
		fail("persisted_only", "would refuse everything; write persisted: FILE")
	}
	if c.PersistedOnly && c.AutomaticPersisted {
		fail("automatic_persisted", "lets clients add operations, which persisted_only refuses; keep one of the two")
	}
	for code, status := range c.ErrorStatuses {
		if status < 400 || status > 599 {
			fail("error_statuses."+code, "%d is not the status of an error, 400 to 599", status)
		}
	}
	for name, r := range c.Resolvers {
		if r.Path == "" && (r.Batch == nil || r.Batch.Path == "") {
			fail("resolvers."+name+".path", "is missing; write the path of the call, as /users/${args.id}")
		}
	}
	return errs.Err()
}

// Definition is the action graphql.
var Definition = action.Define("graphql", build)

// logEvery is how often faults are logged.
const logEvery = 10 * time.Second

func build(b *action.Build, c *Config) (*action.Action, error) {
	k := &compiler{b: b, c: c, budget: budget{
		timeout: c.Timeout, calls: c.MaxCalls, parallel: c.MaxParallel, answer: int(c.MaxAnswer),
		faults: telemetry.NewLimited(b.World.Log, logEvery),
	}, children: exchange.NewPool(b.World.Clock)}
	switch {
	case len(c.Resolvers) > 0:
		return k.facade()
	case c.Operation != "":
		return k.stored()
	}
	return k.guard()
}

// compiler is one action being compiled.
type compiler struct {
	b        *action.Build
	c        *Config
	errs     config.Errors
	budget   budget
	children *exchange.Pool
}

func (k *compiler) fail(setting, format string, a ...any) {
	k.errs = append(k.errs, k.b.World.Config.Errorf(k.b.Path+"."+setting, format, a...))
}

// service returns a service with the timeouts and retries that are the route's.
func (k *compiler) service(setting, name string) *upstream.Service {
	s := k.b.Service(name)
	sc := k.b.World.Config.Services[name]
	if s == nil || sc == nil {
		existing := slices.Sorted(maps.Keys(k.b.World.Config.Services))
		k.fail(setting, "there is no service %q; there are: %s", name, strings.Join(existing, ", "))
		return nil
	}
	rc := k.b.RouteConfig
	timeouts, retries := rc.Timeouts.Over(sc.Timeouts), rc.Retries.Over(sc.Retries)
	response := timeouts.Response
	if timeouts.Off {
		response = 0
	}
	if response == 0 || response > k.c.Timeout {
		// A call that takes all of the request's time is the service's failure, and its breaker is to know.
		response = k.c.Timeout
	}
	return s.Override(response, upstream.RetriesOf(retries))
}

// budget is what one request may cost.
type budget struct {
	timeout         time.Duration
	calls, parallel int
	answer          int
	faults          *telemetry.Limited
}

// Rejections of requests that are not GraphQL over HTTP, and so have no answer in its form.
var (
	rejectMethod = exchange.NewReject(fasthttp.StatusMethodNotAllowed, "method_not_allowed", "GraphQL requests are GET or POST",
		exchange.Header("Allow", "GET, POST"))
	rejectMutation = exchange.NewReject(fasthttp.StatusMethodNotAllowed, "graphql_mutation_by_get", "only queries can be sent with GET; send this operation with POST",
		exchange.Header("Allow", "POST"))
	rejectMediaType = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "unsupported_media_type", "the body has to be application/json in UTF-8",
		exchange.Header("Accept-Post", "application/json"))
	rejectAccept   = exchange.NewReject(fasthttp.StatusNotAcceptable, "not_acceptable", "answers are application/graphql-response+json or application/json")
	rejectTooLarge = exchange.RejectBodyTooLarge
	rejectUpgrade  = exchange.NewReject(fasthttp.StatusBadRequest, "graphql_upgrade", "GraphQL over WebSocket is not checked here, and so not passed on")
)
