package snapshot

import (
	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/kong"
	"sluice/gateway/router"
)

// compileKong makes the table of routes in compatibility with Kong.
func (c *compiler) compileKong(table []router.Route) []*router.Problem {
	routes := make([]router.KongRoute, len(table))
	for i, r := range table {
		routes[i].Route = r
		if k := c.Config.Routes[r.Name].Kong; k != nil {
			routes[i].RegexPriority = k.RegexPriority
		}
	}
	var problems []*router.Problem
	c.Snapshot.kong, problems = router.BuildKong(routes)
	return problems
}

func (c *compiler) kongRoute(r *route, rc *config.Route) *kong.Route {
	s := kong.Settings{Config: rc.Kong, Strip: rc.StripPrefix}
	for _, step := range r.members[0].program.Steps() {
		if step.Hooks.Authenticate != nil && s.Authentication == "" {
			s.Authentication = step.Name
		}
		s.Groups = s.Groups || step.Name == "authorize"
	}
	return kong.NewRoute(s)
}

// decideKong is Decide from the routing on, in compatibility with Kong: what has no route is told nothing else, not even
// that its method is the reason.
func (s *Snapshot) decideKong(x *exchange.Exchange, st *state, req *router.Request) error {
	if s.kong.Match(req, &st.found) != router.Found {
		return s.refuse(x, st, rejectNoRoute)
	}
	r := s.routes[st.found.ID]
	if !r.traces && x.Request.Header.IsTrace() {
		return s.refuse(x, st, rejectTrace)
	}
	if err := r.kong.Matched(x); err != nil {
		if unrouted := s.enterUnrouted(x, st); unrouted != nil {
			return unrouted
		}
		return err
	}
	return s.enter(x, st, r)
}

// match finds the route, for explanations.
func (s *Snapshot) match(req *router.Request, res *router.Result) router.Outcome {
	if s.kong != nil {
		return s.kong.Match(req, res)
	}
	return s.table.Match(req, res)
}

func (s *Snapshot) candidates(req *router.Request) []router.Candidate {
	if s.kong != nil {
		return s.kong.Explain(req)
	}
	return s.table.Explain(req)
}

// terminate makes the answer to a consumer that gets no other.
func (c *compiler) terminate(consumer *exchange.Consumer, cc *config.Consumer) {
	if cc.Kong == nil || cc.Kong.Terminate == nil {
		return
	}
	if c.ended == nil {
		c.ended = make([]*exchange.Reply, len(c.Config.Consumers))
	}
	said := cc.Kong.Terminate
	reply := exchange.NewReply(said.Status, exchange.Own)
	if reply.Body = []byte(said.Body); said.Body != "" && said.ContentType != "" {
		reply.Head.SetContentType(said.ContentType)
	}
	c.ended[consumer.Index] = reply
}

// passed answers what has passed all policies and goes no further.
func (s *Snapshot) passed(x *exchange.Exchange, err error) error {
	if err != nil || s.ended == nil || x.Identity.Consumer == nil {
		return err
	}
	reply := s.ended[x.Identity.Consumer.Index]
	if reply == nil {
		return nil
	}
	x.Reply = reply
	return exchange.Replied
}

// kongAuthenticate is a hook of the stage Authenticate as a route of Kong's wants it.
func (c *compiler) kongAuthenticate(name string, settings *config.RouteKong, authenticate func(x *exchange.Exchange) error) func(x *exchange.Exchange) error {
	if authenticate == nil {
		return nil
	}
	if settings.Authentication == "all" {
		authenticate = kong.Naming(name, authenticate)
	}
	if !settings.Preflight {
		authenticate = passOptions(authenticate)
	}
	return authenticate
}

// passOptions leaves OPTIONS requests unauthenticated.
func passOptions(authenticate func(x *exchange.Exchange) error) func(x *exchange.Exchange) error {
	return func(x *exchange.Exchange) error {
		if string(x.Method()) == fasthttp.MethodOptions {
			return nil
		}
		return authenticate(x)
	}
}
