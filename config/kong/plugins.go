package kong

import (
	"fmt"
	"slices"
	"strings"

	"sluice/config"
)

// scope says what a plugin acts on; the zero scope is everything.
type scope struct {
	service  *service
	route    *route
	consumer *consumer
	group    *group
}

// plugin is a plugin as it is configured somewhere.
type plugin struct {
	block
	scope
	def    *definition
	config block
	// why it can not be honoured.
	unhonoured []*config.Error
}

// label names it and what it acts on.
func (p *plugin) label() string {
	of := "every request"
	switch {
	case p.consumer != nil:
		of = p.consumer.label("consumer")
	case p.group != nil:
		of = p.group.label("consumer group")
	case p.route != nil:
		of = p.route.label("route")
	case p.service != nil:
		of = p.service.label("service")
	}
	return fmt.Sprintf("the plugin %s of %s", p.text("name"), of)
}

// cannot says that the plugin can not be honoured.
func (p *plugin) cannot(at config.Tree, path, why string) {
	p.t.note(at, path, refused, why)
	if path == join(p.path, "name") || path == p.path {
		path = p.path
	}
	p.unhonoured = append(p.unhonoured, at.Errorf(path, "%s %s", p.label(), why))
}

func (p *plugin) refuse(option, format string, a ...any) {
	p.cannot(p.config.at(option), p.config.where(option), fmt.Sprintf(format, a...))
}

// pluginsOf reads the plugins that stand in an object.
func (t *translation) pluginsOf(b *block, s scope) {
	for i, item := range b.list("plugins") {
		at := element(b.where("plugins"), i)
		p := &plugin{scope: s}
		p.block = t.read(item, at, pluginFields, func(at config.Tree, path, why string) { p.cannot(at, path, why) })
		p.t = t
		if p.text("name") == "" {
			t.fail(item, at, "a plugin has a name; write name: rate-limiting")
			continue
		}
		t.plugins = append(t.plugins, p)
	}
}

// scopes follows the references of plugins, and reads their options.
func (t *translation) scopes() {
	kept := t.plugins[:0]
	for _, p := range t.plugins {
		if p.has("service") {
			p.service = find(t, &p.block, "service", t.services, func(s *service) *entity { return &s.entity })
		}
		if p.has("route") {
			p.route = find(t, &p.block, "route", t.routes, func(r *route) *entity { return &r.entity })
		}
		if p.has("consumer") {
			p.consumer = find(t, &p.block, "consumer", t.consumer, func(c *consumer) *entity { return &c.entity })
		}
		if p.has("consumer_group") {
			p.group = find(t, &p.block, "consumer_group", t.groups, func(g *group) *entity { return &g.entity })
		}
		if !p.yes("enabled") {
			t.note(p.at("enabled"), p.where("enabled"), mapped, "the plugin is left out")
			continue
		}
		if t.understand(p) {
			kept = append(kept, p)
		}
	}
	t.plugins = t.sharing(kept)
	t.duplicates()
}

// understand reads a plugin's options. What can not be honoured is an error, or where that is wanted a remark, and then the
// plugin is left out whole.
func (t *translation) understand(p *plugin) bool {
	name := p.text("name")
	i := slices.IndexFunc(definitions, func(d definition) bool { return d.name == name })
	if i < 0 {
		var known []string
		for _, d := range definitions {
			known = append(known, d.name)
		}
		why := "can not be honoured: it is not known here"
		if slices.Contains(enterprise, name) {
			why = "can not be honoured: it is Kong Enterprise's or runs code of its own"
		} else if hint := config.Hint(name, known); strings.Contains(hint, "?") {
			why += hint
		}
		p.cannot(p.at("name"), p.where("name"), why)
		return t.giveUp(p)
	}
	p.def = &definitions[i]
	if p.def.fate >= refused {
		f := field{fate: p.def.fate, to: p.def.to}
		p.cannot(p.at("name"), p.where("name"), f.why())
		return t.giveUp(p)
	}
	refuse := func(at config.Tree, path, why string) { p.cannot(at, path, "has an option that "+why) }
	p.config = p.sub2(p.def.options, refuse)
	switch {
	case (p.consumer != nil || p.group != nil) && p.def.noConsumer:
		p.cannot(p.tree, p.path, "can not be honoured: it does not act on consumers")
	}
	if p.has("protocols") {
		protocols := p.texts("protocols")
		if slices.Contains(protocols, "http") != slices.Contains(protocols, "https") {
			p.cannot(p.at("protocols"), p.where("protocols"), "can not be honoured: it acts on one of http and https alone; limit the route instead")
		}
	}
	if p.def.log != nil && (p.consumer != nil || p.group != nil) {
		p.cannot(p.tree, p.path, "can not be honoured: requests are logged by route, service or all")
	}
	if p.def.check != nil {
		p.def.check(p)
	}
	if len(p.unhonoured) > 0 {
		return t.giveUp(p)
	}
	t.note(p.at("name"), p.where("name"), p.def.fate, p.def.to)
	return true
}

// sub2 reads the options, which may be left out.
func (p *plugin) sub2(options []field, refuse func(at config.Tree, path, why string)) block {
	tree, ok := p.values["config"]
	if !ok {
		tree = config.NewMap(p.tree)
	}
	return p.t.read(tree, p.where("config"), options, refuse)
}

func (t *translation) giveUp(p *plugin) bool {
	if t.o.Warn {
		for _, e := range p.unhonoured {
			e.Message += "; it runs without it"
		}
		t.remarks = append(t.remarks, p.unhonoured...)
		return false
	}
	t.errs = append(t.errs, p.unhonoured...)
	return false
}

// duplicates refuses the same plugin twice in one place, as Kong does, and two that become one policy.
func (t *translation) duplicates() {
	type place struct {
		scope
		name string
	}
	seen := map[place]*plugin{}
	for _, p := range t.plugins {
		s := p.scope
		if s.route != nil {
			s.service = nil // the route is the more specific
			if p.service != nil && p.route.service != p.service {
				t.remark(p.tree, p.path, "%s never acts: the route is not one of service %q", p.label(), p.service.native)
				continue
			}
		}
		at := place{s, p.text("name")}
		if first := seen[at]; first != nil {
			t.fail(p.tree, p.path, "%s stands also at %s; keep one of them", p.label(), first.path)
		}
		seen[at] = p
		for _, policy := range p.def.policies {
			if p.def.log != nil {
				break // those become one
			}
			at.name = "policy " + policy
			if first := seen[at]; first != nil && first.def != p.def {
				t.fail(p.tree, p.path, "%s can not stand beside %s: here both are the policy %s", p.label(), first.text("name"), policy)
			}
			seen[at] = p
		}
	}
}

// policies writes the plugins of a place.
func (t *translation) policies(s scope, into config.Tree) config.Tree {
	for _, p := range t.plugins {
		if !p.at_(s) || p.def.write == nil {
			continue
		}
		p.def.write(p, into)
	}
	t.accessLog(s, into)
	if s.consumer != nil {
		// Those of its groups, where it has none of its own.
		for _, g := range s.consumer.groups {
			for _, p := range t.plugins {
				if p.group == g && !p.scoped() && p.def.write != nil && !slices.ContainsFunc(p.def.policies, func(name string) bool { return into.Get(name).Is() }) {
					p.def.write(p, into)
				}
			}
		}
	}
	return into
}

// scoped tells whether a plugin of a consumer or a group acts at a route or a service alone.
func (p *plugin) scoped() bool { return p.route != nil || p.service != nil }

// termination is what ends all requests of a consumer.
func (t *translation) termination(c *consumer) *plugin {
	for _, p := range t.plugins {
		if p.text("name") == "request-termination" && p.consumer == c {
			return p
		}
	}
	for _, p := range t.plugins {
		if p.text("name") == "request-termination" && p.group != nil && slices.Contains(c.groups, p.group) {
			return p
		}
	}
	return nil
}

// scopedTo writes the plugins of a consumer and of its groups that act at single routes and services.
func (t *translation) scopedTo(c *consumer) config.Tree {
	type place struct {
		route   *route
		service *service
	}
	list := config.NewList(c.at("plugins"))
	made := map[place]config.Tree{}
	of := func(p *plugin) {
		if !p.scoped() || p.def.write == nil || p.route != nil && p.route.off || p.service != nil && !p.service.yes("enabled") {
			return
		}
		at := place{p.route, p.service}
		one, known := made[at]
		if !known {
			one = config.NewMap(p.tree)
			if p.route != nil {
				one.Set("route", config.NewText(p.at("route"), p.route.native))
			}
			if p.service != nil {
				one.Set("service", config.NewText(p.at("service"), p.service.native))
			}
			one.Set("policies", config.NewMap(p.tree))
			list.Append(one)
			made[at] = one
		}
		policies := one.Get("policies")
		if !slices.ContainsFunc(p.def.policies, func(name string) bool { return policies.Get(name).Is() }) {
			p.def.write(p, policies)
		}
	}
	for _, p := range t.plugins {
		if p.consumer == c {
			of(p)
		}
	}
	for _, g := range c.groups {
		for _, p := range t.plugins {
			if p.group == g {
				of(p)
			}
		}
	}
	return list
}

func (p *plugin) at_(s scope) bool {
	switch {
	case p.consumer != nil || s.consumer != nil:
		return p.consumer == s.consumer && !p.scoped()
	case p.group != nil:
		return false
	case p.route != nil || s.route != nil:
		return p.route == s.route && (p.service == nil || s.route == nil || s.route.service == p.service)
	}
	return p.service == s.service
}

// forRoute returns the plugin of a name that is in force for a route, as long as no consumer has its own.
func (t *translation) forRoute(r *route, name string) *plugin {
	var found *plugin
	rank := 0
	for _, p := range t.plugins {
		if p.text("name") != name || p.consumer != nil || p.group != nil {
			continue
		}
		var n int
		switch {
		case p.route != nil && p.route != r, p.service != nil && p.service != r.service:
			continue
		case p.route != nil && p.service != nil:
			n = 4
		case p.route != nil:
			n = 3
		case p.service != nil:
			n = 2
		default:
			n = 1
		}
		if n > rank {
			found, rank = p, n
		}
	}
	return found
}

// authentications are the plugins that find out who calls.
var authentications = []string{"jwt", "key-auth", "basic-auth", "hmac-auth", "openid-connect"}

// effective writes what the route's answers need to know of the plugins in force.
// It returns the policies that are not to act there.
func (t *translation) effective(r *route, compat config.Tree) (off []string) {
	var auth []*plugin
	for _, name := range authentications {
		if p := t.forRoute(r, name); p != nil {
			auth = append(auth, p)
		}
	}
	// Those without anonymous have to succeed, all of them; then the others decide nothing.
	var required []*plugin
	for _, p := range auth {
		if p.config.text("anonymous") == "" {
			required = append(required, p)
		}
	}
	if len(required) > 0 && len(required) < len(auth) {
		for _, p := range auth {
			if !slices.Contains(required, p) {
				off = append(off, p.def.policies[0])
			}
		}
		auth = required
	}
	if len(required) > 1 {
		compat.Set("authentication", config.NewWord(required[1].tree, "all"))
	}
	for _, p := range auth {
		if p.config.describe("run_on_preflight") != nil && !p.config.yes("run_on_preflight") {
			compat.Set("preflight", config.NewWord(p.config.at("run_on_preflight"), false))
		}
		if realm := p.config.values["realm"]; realm.Is() {
			compat.Set("realm", config.NewText(realm, realm.Text()))
		}
	}
	if p := t.forRoute(r, "acl"); p != nil && p.config.yes("hide_groups_header") {
		compat.Set("hide_groups", config.NewWord(p.config.at("hide_groups_header"), true))
	}
	errors := config.NewMap(r.tree)
	answer := func(plugin, reason, status, message string) {
		p := t.forRoute(r, plugin)
		if p == nil {
			return
		}
		made := config.NewMap(p.tree)
		if p.config.has(status) && p.config.text(status) != p.config.describe(status).preset {
			made.Set("status", config.NewWord(p.config.at(status), p.config.integer(status)))
		}
		if p.config.has(message) && p.config.text(message) != "" && p.config.text(message) != p.config.describe(message).preset {
			made.Set("message", config.NewText(p.config.at(message), p.config.text(message)))
		}
		if made.Len() > 0 {
			errors.Set(reason, made)
		}
	}
	answer("rate-limiting", "rate_limited", "error_code", "error_message")
	answer("ip-restriction", "address_not_allowed", "status", "message")
	if errors.Len() > 0 {
		compat.Set("errors", errors)
	}
	return off
}

// action writes what ends the route where a plugin does.
func (t *translation) action(r *route, made config.Tree) bool {
	// By their priority in Kong.
	for _, name := range []string{"redirect", "request-termination"} {
		if p := t.forRoute(r, name); p != nil {
			p.def.end(p, made)
			return true
		}
	}
	if p := t.forRoute(r, "grpc-gateway"); p != nil {
		if !r.overGRPC() {
			t.fail(p.tree, p.path, "%s wants a service of gRPC behind %s; write its url as grpc://host:port or grpcs://host:port", p.label(), r.label("route"))
			return false
		}
		p.def.end(p, made)
		made.Get("grpc").Set("service", config.NewText(r.service.tree, r.service.native))
		return true
	}
	return false
}

// consumerNamed writes the native name of the consumer that `anonymous` names.
func (p *plugin) consumerNamed(into config.Tree) {
	const option = "anonymous"
	v, ok := p.config.values[option]
	if !ok || v.Text() == "" {
		return
	}
	if c := match(p.t, v, p.config.where(option), "consumer", p.t.consumer, func(c *consumer) *entity { return &c.entity }); c != nil {
		into.Set("anonymous", config.NewText(v, c.native))
	}
}
