package config

// Policies are the undecoded settings of policies by their name, as rate_limit.
type Policies map[string]*Block

// Route chooses requests and says what happens to them. Exactly one action stands on it.
type Route struct {
	// Name of the route; that of a team's is TEAM/NAME.
	Name string `yaml:"-" key:"true"`
	// Team that the route belongs to, "" for none.
	Team string `yaml:"-"`
	// Source that the route comes from, one of `sources`, "" for the files; Since when it has been there, as in Object.
	Source string `yaml:"-"`
	Since  string `yaml:"-"`
	// Match says which requests are meant; left out, all.
	Match Match `yaml:"match"`

	// Service forwards to the service of this name.
	Service string `yaml:"service"`
	// Split forwards to one of several services by weight.
	Split *Block `yaml:"split" action:"true"`
	// Aggregate calls several services and merges their answers.
	Aggregate *Block `yaml:"aggregate" action:"true"`
	// GRPC translates REST to gRPC and back.
	GRPC *Block `yaml:"grpc" action:"true"`
	// GraphQL translates REST to GraphQL, or GraphQL to REST.
	GraphQL *Block `yaml:"graphql" action:"true"`
	// WebSocket makes each message a request, or each request a message.
	WebSocket *Block `yaml:"websocket" action:"true"`
	// Redirect sends the client elsewhere.
	Redirect *Block `yaml:"redirect" action:"true"`
	// Respond answers by itself.
	Respond *Block `yaml:"respond" action:"true"`
	// Health answers as `GET /health` of the admin listener does.
	Health *Block `yaml:"health" action:"true"`

	// StripPrefix removes the matched prefix from the path; X-Forwarded-Prefix tells it.
	StripPrefix bool `yaml:"strip_prefix" default:"false"`
	// Rewrite is the path sent to the service; `{name}` is a parameter of the path, `{path}` what follows the matched prefix.
	Rewrite string `yaml:"rewrite"`
	// Streaming never buffers a request body and lifts `limits.max_body_size`.
	Streaming bool `yaml:"streaming" default:"false"`
	// Timeouts over those of the service.
	Timeouts *TimeoutOverrides `yaml:"timeouts"`
	// Retries over those of the service.
	Retries *RetryOverrides `yaml:"retries"`
	// Timing tells the client the time taken in X-Response-Time, in milliseconds, and in Server-Timing what of it the gateway itself took and what the backends.
	Timing bool `yaml:"timing" default:"false"`
	// Errors replace the bodies of the gateway's own errors, by status.
	Errors map[int]*ErrorPage `yaml:"errors"`
	// OpenAPI is the file of an OpenAPI document that requests must fit, or the settings of the policy `openapi`, which this is: `{file: api.yaml, requests: detect}`.
	OpenAPI *Block `yaml:"openapi"`
	// Policies of this route.
	Policies Policies `yaml:"policies"`
	// Kong is what only routes of Kong have; it needs `compatibility: kong`.
	Kong *RouteKong `yaml:"kong"`
}

// Complete puts the policy that stands beside the others among them.
func (r *Route) Complete() {
	if r.OpenAPI == nil || r.Policies["openapi"] != nil {
		return
	}
	if r.Policies == nil {
		r.Policies = make(Policies)
	}
	r.Policies["openapi"] = r.OpenAPI
}

// Action returns the name of what ends the route and its settings: "service" with none, or
// one of split, aggregate, grpc, graphql, websocket, redirect, respond, health.
func (r *Route) Action() (name string, settings *Block) {
	for _, a := range r.actions() {
		return a.name, a.block
	}
	return "", nil
}

type routeAction struct {
	name  string
	block *Block
}

// actions returns every action that stands on the route; a checked one has exactly one.
func (r *Route) actions() []routeAction {
	var found []routeAction
	if r.Service != "" {
		found = append(found, routeAction{name: "service"})
	}
	for _, a := range [...]routeAction{
		{"split", r.Split}, {"aggregate", r.Aggregate}, {"grpc", r.GRPC}, {"graphql", r.GraphQL},
		{"websocket", r.WebSocket}, {"redirect", r.Redirect}, {"respond", r.Respond}, {"health", r.Health},
	} {
		if a.block != nil && !a.block.Off() {
			found = append(found, a)
		}
	}
	return found
}

// Match says which requests a route is for. Conditions of different kinds must all hold, of
// the values of one kind any.
type Match struct {
	// Hosts: exact names, or `*.example.com` for every name below. Without a port.
	Hosts []string `yaml:"hosts"`
	// Paths: `/prefix` by whole segments, `=/exact`, `/users/{id}/orders` with parameters, or `~^/regex$`. A `;` is a byte of its segment as any other: `/admin;x` is not below `/admin`, and goes on as it came. Where a backend cuts parameters of a path off, as Tomcat, Jetty and Spring do, refuse them: `authorize: {when: '!request.path.contains(";")'}`.
	Paths []string `yaml:"paths"`
	// Methods, as GET. Default: all but TRACE, whose answer shows the client what the gateway tells the backend; a route that names it takes it.
	Methods []string `yaml:"methods"`
	// Headers by name. A value `~regex` is a pattern, `*` is presence.
	Headers map[string]StringList `yaml:"headers"`
	// Query parameters by name. A value `~regex` is a pattern, `*` is presence.
	Query map[string]StringList `yaml:"query"`
	// Listeners by name that the request came in on. Default: all.
	Listeners []string `yaml:"listeners"`
	// Schemes: http, https. Default: both.
	Schemes []string `yaml:"schemes" enum:"http|https"`
	// SNIs: names asked for in the TLS handshake, exact or `*.example.com`.
	SNIs []string `yaml:"snis"`
}

// TimeoutOverrides are a route's timeouts; nil fields keep the service's.
type TimeoutOverrides struct {
	// Off: there are no timeouts.
	Off bool `yaml:"-"`
	// Connect is the time for a new connection, with TLS. Default: the service's.
	Connect *Duration `yaml:"connect"`
	// Response is the time until the response head. Default: the service's.
	Response *Duration `yaml:"response"`
}

// Over returns t with what o sets; a nil o changes nothing.
func (o *TimeoutOverrides) Over(t Timeouts) Timeouts {
	switch {
	case o == nil:
		return t
	case o.Off:
		return Timeouts{Off: true}
	}
	if o.Connect != nil {
		t.Off, t.Connect = false, *o.Connect
	}
	if o.Response != nil {
		t.Off, t.Response = false, *o.Response
	}
	return t
}

// RetryOverrides are a route's retries; nil fields keep the service's.
type RetryOverrides struct {
	// Off: nothing is repeated.
	Off bool `yaml:"-"`
	// Attempts after the first. Default: the service's.
	Attempts *int `yaml:"attempts" min:"0" max:"10"`
	// Budget bounds retries to this share of the service's requests. Default: the service's.
	Budget *Percent `yaml:"budget"`
	// When to retry: `connect_failure`, `reset`, `timeout`, a status of the 5xx, or one of gRPC by name. Default: the service's.
	When []string `yaml:"when"`
}

// Over returns r with what o sets; a nil o changes nothing. What a service turned off
// starts from the defaults.
func (o *RetryOverrides) Over(r Retries) Retries {
	switch {
	case o == nil:
		return r
	case o.Off:
		return Retries{Off: true}
	case r.Off && (o.Attempts != nil || o.Budget != nil || o.When != nil):
		r = Defaults[Retries]()
	}
	if o.Attempts != nil {
		r.Attempts = *o.Attempts
	}
	if o.Budget != nil {
		r.Budget = *o.Budget
	}
	if o.When != nil {
		r.When = o.When
	}
	return r
}

// ErrorPage replaces the body of one of the gateway's own errors.
type ErrorPage struct {
	// Body of the answer.
	Body string `yaml:"body" template:"true"`
	// ContentType of the body.
	ContentType string `yaml:"content_type" default:"text/plain; charset=utf-8"`
}
