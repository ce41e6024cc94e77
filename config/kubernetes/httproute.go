package kubernetes

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
)

// httpRoute makes a route of each match of each rule: matches of a rule are alternatives, and which of all wins is decided
// by the most specific here as there.
func (s *scope) httpRoute() {
	s.t.only(s.spec, s.path, "parentRefs", "hostnames", "rules")
	listeners := s.listeners()
	for i, rule := range s.spec.Get("rules").Items() {
		path := fmt.Sprintf("%s.rules[%d]", s.path, i)
		s.t.only(rule, path, "name", "matches", "filters", "backendRefs", "timeouts")
		filters := s.filters(rule, path)
		key, action, ok := s.action(rule, path, filters)
		if !ok {
			continue
		}
		matches := rule.Get("matches").Items()
		if len(matches) == 0 {
			matches = []config.Tree{config.NewMap(rule)}
		}
		for j, m := range matches {
			s.match(m, rule, fmt.Sprintf("%s.matches[%d]", path, j), filters, key, action, listeners)
		}
	}
}

// listeners are those that the route is attached to, by the sections of its gateway; none for all. Gateways are not known
// where objects come from files, so there it is attached to all.
func (s *scope) listeners() (names []string) {
	if !s.t.told {
		return nil
	}
	all := false
	for i, ref := range s.spec.Get("parentRefs").Items() {
		at := fmt.Sprintf("%s.parentRefs[%d]", s.path, i)
		s.t.only(ref, at, "group", "kind", "namespace", "name", "sectionName")
		name := ref.Get("sectionName").Text()
		names = append(names, name)
		all = all || name == ""
	}
	if all {
		return nil
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// match makes the routes of one match.
func (s *scope) match(m, rule config.Tree, path string, f *filters, key string, action config.Tree, listeners []string) {
	s.t.only(m, path, "path", "headers", "queryParams", "method")
	conditions := func(paths ...string) config.Tree {
		match := config.NewMap(m)
		var hosts []string
		for _, h := range s.spec.Get("hostnames").Items() {
			hosts = append(hosts, h.Text())
		}
		if len(hosts) > 0 {
			match.Set("hosts", config.NewTexts(s.spec.Get("hostnames"), hosts...))
		}
		if len(listeners) > 0 {
			match.Set("listeners", config.NewTexts(s.spec.Get("parentRefs"), listeners...))
		}
		match.Set("paths", config.NewTexts(m, paths...))
		if method := m.Get("method"); method.Text() != "" {
			match.Set("methods", config.NewTexts(method, method.Text()))
		}
		for _, kind := range [...]struct{ theirs, ours string }{{"headers", "headers"}, {"queryParams", "query"}} {
			values := config.NewMap(m)
			for k, c := range m.Get(kind.theirs).Items() {
				at := fmt.Sprintf("%s.%s[%d]", path, kind.theirs, k)
				s.t.only(c, at, "type", "name", "value")
				value := exactly(c.Get("value").Text())
				switch c.Get("type").Text() {
				case "", "Exact":
				case "RegularExpression":
					value = "~^(?:" + c.Get("value").Text() + ")$"
				default:
					s.t.fail(c, at+".type", "%q is no type; want Exact or RegularExpression", c.Get("type").Text())
				}
				// Of several with the same name the first counts, as the Gateway API has it.
				if name := c.Get("name").Text(); !values.Get(name).Is() {
					values.Set(name, config.NewText(c, value))
				}
			}
			if values.Len() > 0 {
				match.Set(kind.ours, values)
			}
		}
		return match
	}
	p := m.Get("path")
	s.t.only(p, path+".path", "type", "value")
	kind, value := p.Get("type").Text(), p.Get("value").Text()
	text, ok := s.matchPath(m, path+".path", kind, value)
	if !ok {
		return
	}
	more := func(rewrite string) func(config.Tree) {
		return func(route config.Tree) {
			if rewrite != "" {
				route.Set("rewrite", config.NewText(rule, rewrite))
			}
			f.apply(route)
			s.timeouts(rule, route)
		}
	}
	switch {
	case f.prefix == nil:
		s.add(m, s.name, conditions(text), action, key, more(f.whole))
	case kind != "" && kind != "PathPrefix":
		s.t.fail(m, path+".path.type", "a prefix is replaced, so the match has to be a PathPrefix")
	case text == "/":
		s.add(m, s.name, conditions("/"), action, key, more(strings.TrimRight(*f.prefix, "/")+"/{path}"))
	default:
		// The prefix alone becomes the other one, without a slash behind it.
		to := strings.TrimRight(*f.prefix, "/")
		alone := to
		if alone == "" {
			alone = "/"
		}
		s.add(m, s.name, conditions("="+text), action, key, more(alone))
		s.add(m, s.name, conditions(text), action, key, more(to+"/{path}"))
	}
}

func (s *scope) timeouts(rule, route config.Tree) {
	t := rule.Get("timeouts")
	value := t.Get("backendRequest")
	if value.Null() {
		value = t.Get("request")
	}
	if !value.Null() {
		route.Set("timeouts", config.NewMap(t).Set("response", config.NewText(value, value.Text())))
	}
}

// action is what ends the routes of a rule.
func (s *scope) action(rule config.Tree, path string, f *filters) (key string, action config.Tree, ok bool) {
	s.t.only(rule.Get("timeouts"), path+".timeouts", "request", "backendRequest")
	refs := rule.Get("backendRefs")
	if f.redirect.Is() {
		if refs.Len() > 0 {
			s.t.fail(refs, path+".backendRefs", "the rule redirects; leave its backends out")
		}
		return "redirect", f.redirect, true
	}
	type member struct {
		at      config.Tree
		service string
		weight  int
	}
	var members []member
	total := 0
	for i, ref := range refs.Items() {
		at := fmt.Sprintf("%s.backendRefs[%d]", path, i)
		service, ok := s.backend(ref, at, "weight")
		if !ok {
			return "", action, false
		}
		weight := 1
		if w := ref.Get("weight"); !w.Null() {
			var err error
			if weight, err = strconv.Atoi(w.Text()); err != nil || weight < 0 {
				s.t.fail(w, at+".weight", "%q is no weight", w.Text())
				return "", action, false
			}
		}
		total += weight
		members = append(members, member{ref, service, weight})
	}
	switch {
	case total == 0:
		// A rule without a backend answers 500 by the Gateway API.
		return "respond", config.NewMap(rule).Set("status", config.NewWord(rule, 500)), true
	case len(members) == 1:
		return "service", config.NewText(members[0].at, members[0].service), true
	}
	list := config.NewList(refs)
	seen := map[string]bool{}
	for _, m := range members {
		if seen[m.service] {
			s.t.fail(m.at, path+".backendRefs", "%s stands here twice; give it the sum of the weights", m.service)
		}
		seen[m.service] = true
		list.Append(config.NewMap(m.at).Set("service", config.NewText(m.at, m.service)).Set("weight", config.NewWord(m.at, m.weight)))
	}
	return "split", config.NewMap(refs).Set("services", list), true
}

// backend is the service that a reference names; more are the fields it may have beside.
func (s *scope) backend(ref config.Tree, path string, more ...string) (string, bool) {
	s.t.only(ref, path, append([]string{"group", "kind", "name", "namespace", "port"}, more...)...)
	if kind, group := ref.Get("kind").Text(), ref.Get("group").Text(); kind != "" && kind != "Service" || group != "" && group != "core" {
		s.t.fail(ref, path+".kind", "a backend is a Service; %s is not supported", kind)
		return "", false
	}
	namespace := ref.Get("namespace").Text()
	if namespace != "" && namespace != s.namespace {
		// Only a ReferenceGrant of that namespace would allow it, and those are not looked at.
		s.t.fail(ref, path+".namespace", "backends of other namespaces are not reached from here")
		return "", false
	}
	return s.service(ref, path, s.namespace, ref.Get("name").Text(), ref.Get("port").Text())
}

// filters are what a rule does beside routing.
type filters struct {
	redirect          config.Tree
	whole             string  // the path that takes the place of the request's
	prefix            *string // what takes the place of the matched prefix
	request, response config.Tree
	mirror            config.Tree
}

func (f *filters) apply(route config.Tree) {
	policies := config.NewMap(route)
	for _, p := range [...]struct {
		name  string
		block config.Tree
	}{{"request_transform", f.request}, {"response_transform", f.response}, {"mirror", f.mirror}} {
		if p.block.Is() {
			policies.Set(p.name, p.block)
		}
	}
	if policies.Len() > 0 {
		route.Set("policies", policies)
	}
}

func (s *scope) filters(rule config.Tree, path string) *filters {
	f := &filters{}
	for i, filter := range rule.Get("filters").Items() {
		at := fmt.Sprintf("%s.filters[%d]", path, i)
		switch kind := filter.Get("type").Text(); kind {
		case "RequestHeaderModifier":
			s.t.only(filter, at, "type", "requestHeaderModifier")
			f.request = s.headers(filter.Get("requestHeaderModifier"), at+".requestHeaderModifier")
		case "ResponseHeaderModifier":
			s.t.only(filter, at, "type", "responseHeaderModifier")
			f.response = s.headers(filter.Get("responseHeaderModifier"), at+".responseHeaderModifier")
		case "RequestRedirect":
			s.t.only(filter, at, "type", "requestRedirect")
			f.redirect = s.redirect(filter.Get("requestRedirect"), at+".requestRedirect")
		case "URLRewrite":
			s.t.only(filter, at, "type", "urlRewrite")
			s.rewrite(filter.Get("urlRewrite"), at+".urlRewrite", f)
		case "RequestMirror":
			s.t.only(filter, at, "type", "requestMirror")
			m := filter.Get("requestMirror")
			s.t.only(m, at+".requestMirror", "backendRef", "percent")
			if service, ok := s.backend(m.Get("backendRef"), at+".requestMirror.backendRef"); ok {
				f.mirror = config.NewMap(m).Set("service", config.NewText(m, service))
				if p := m.Get("percent"); !p.Null() {
					n, err := strconv.Atoi(p.Text())
					if err != nil || n < 0 || n > 100 {
						s.t.fail(p, at+".requestMirror.percent", "%q is no percent", p.Text())
					}
					f.mirror.Set("sample", config.NewWord(p, strconv.FormatFloat(float64(n)/100, 'f', -1, 64)))
				}
			}
		default:
			s.t.fail(filter, at+".type", "the filter %q is not supported; RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite and RequestMirror are", kind)
		}
	}
	return f
}

// headers makes a transformation: set is to replace what is there and to add what is not.
func (s *scope) headers(m config.Tree, path string) config.Tree {
	s.t.only(m, path, "set", "add", "remove")
	block := config.NewMap(m)
	values := func(list config.Tree, at string) config.Tree {
		made := config.NewMap(list)
		for i, h := range list.Items() {
			here := fmt.Sprintf("%s[%d]", at, i)
			s.t.only(h, here, "name", "value")
			made.Set(h.Get("name").Text(), s.plain(h.Get("value"), here+".value"))
		}
		return made
	}
	if remove := m.Get("remove"); remove.Len() > 0 {
		block.Set("remove", config.NewMap(remove).Set("headers", remove))
	}
	if set := m.Get("set"); set.Len() > 0 {
		block.Set("replace", config.NewMap(set).Set("headers", values(set, path+".set")))
		block.Set("add", config.NewMap(set).Set("headers", values(set, path+".set")))
	}
	if add := m.Get("add"); add.Len() > 0 {
		block.Set("append", config.NewMap(add).Set("headers", values(add, path+".add")))
	}
	return block
}

func (s *scope) redirect(r config.Tree, path string) config.Tree {
	s.t.only(r, path, "scheme", "hostname", "port", "path", "statusCode")
	scheme, host, target := "${scheme}", "${host}", "${uri}"
	if v := r.Get("scheme").Text(); v != "" {
		scheme = s.plain(r.Get("scheme"), path+".scheme").Text()
	}
	if v := r.Get("hostname"); v.Text() != "" {
		host = s.plain(v, path+".hostname").Text()
	}
	if v := r.Get("port").Text(); v != "" {
		host = net.JoinHostPort(host, s.plain(r.Get("port"), path+".port").Text())
	}
	if p := r.Get("path"); !p.Null() {
		s.t.only(p, path+".path", "type", "replaceFullPath")
		if p.Get("type").Text() != "ReplaceFullPath" {
			s.t.fail(p, path+".path.type", "a redirect replaces the whole path, by ReplaceFullPath, or leaves it")
		}
		target = s.plain(p.Get("replaceFullPath"), path+".path.replaceFullPath").Text()
	}
	status := r.Get("statusCode").Text()
	if status == "" {
		status = "302"
	}
	return config.NewMap(r).Set("to", config.NewText(r, scheme+"://"+host+target)).Set("status", config.NewWord(r, status))
}

func (s *scope) rewrite(r config.Tree, path string, f *filters) {
	s.t.only(r, path, "path")
	p := r.Get("path")
	s.t.only(p, path+".path", "type", "replaceFullPath", "replacePrefixMatch")
	value := func(key string) string {
		text := p.Get(key).Text()
		if strings.ContainsAny(text, "{}") {
			s.t.fail(p.Get(key), path+".path."+key, "the path has braces, which stand for parameters here")
		}
		return text
	}
	switch p.Get("type").Text() {
	case "ReplaceFullPath":
		f.whole = value("replaceFullPath")
	case "ReplacePrefixMatch":
		text := value("replacePrefixMatch")
		f.prefix = &text
	default:
		s.t.fail(p, path+".path.type", "want ReplaceFullPath or ReplacePrefixMatch")
	}
}
