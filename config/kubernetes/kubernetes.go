// Package kubernetes translates manifests of Kubernetes, HTTPRoutes of the Gateway API and Ingresses, into native
// configurations. Its guarantee: every field of such an object that bears on requests is honoured or is an error where it
// stands; what is another controller's, or another listener's, is named in a remark. It reads nothing but what it is given.
package kubernetes

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"sluice/config"
)

// Translate is what config.Options.Manifests wants: it makes a native configuration of one object, or of a list of them.
func Translate(object config.Tree) (native config.Tree, remarks, errs config.Errors) {
	return translate(&translation{}, object)
}

// TranslateTold is Translate for an object that the API server told: its names begin with that of the source, and the
// sections of gateways that it is attached to are listeners.
func TranslateTold(object config.Tree) (native config.Tree, remarks, errs config.Errors) {
	return translate(&translation{told: true}, object)
}

func translate(t *translation, object config.Tree) (native config.Tree, remarks, errs config.Errors) {
	t.routes, t.services, t.known, t.last = config.NewMap(object), config.NewMap(object), map[string]bool{}, map[string]int{}
	t.object(object, "")
	native = config.NewMap(object)
	if t.routes.Len() > 0 {
		native.Set("routes", t.routes)
	}
	if t.services.Len() > 0 {
		native.Set("services", t.services)
	}
	return native, t.remarks, t.errs
}

type translation struct {
	told             bool // by the API server
	routes, services config.Tree
	known            map[string]bool // services and routes that are made
	last             map[string]int  // by the name of a route, the number of the last one of that name
	full             bool            // more routes are refused, which was said
	remarks, errs    config.Errors
}

func (t *translation) fail(at config.Tree, path, format string, a ...any) {
	t.errs = append(t.errs, at.Errorf(path, format, a...))
}

func (t *translation) remark(at config.Tree, path, format string, a ...any) {
	t.remarks = append(t.remarks, at.Errorf(path, format, a...))
}

// only refuses what is not known, so that nothing is left out in silence.
func (t *translation) only(at config.Tree, path string, known ...string) {
	for _, key := range at.Keys() {
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !found && !at.Get(key).Null() {
			t.fail(at.Get(key), path+"."+key, "this is not supported; known here: %s", strings.Join(known, ", "))
		}
	}
}

func (t *translation) object(o config.Tree, path string) {
	group, _, _ := strings.Cut(o.Get("apiVersion").Text(), "/")
	kind := o.Get("kind").Text()
	name, namespace := o.Get("metadata").Get("name").Text(), o.Get("metadata").Get("namespace").Text()
	if namespace == "" {
		namespace = "default"
	}
	switch {
	case strings.HasSuffix(kind, "List") && o.Get("items").Is():
		for i, item := range o.Get("items").Items() {
			t.object(item, fmt.Sprintf("items[%d].", i))
		}
		return
	case kind == "HTTPRoute" && group == "gateway.networking.k8s.io", kind == "Ingress" && group == "networking.k8s.io":
	case kind == "":
		t.fail(o, path+"kind", "this setting is missing; want HTTPRoute or Ingress")
		return
	default:
		t.remark(o, path+"kind", "objects of the kind %s are not looked at; HTTPRoute and Ingress are", kind)
		return
	}
	if name == "" {
		t.fail(o, path+"metadata.name", "this setting is missing; want a text")
		return
	}
	s := scope{t: t, namespace: namespace, name: namespace + "/" + name, path: path + "spec", spec: o.Get("spec")}
	switch {
	case t.told && kind == "Ingress":
		s.name = "kubernetes." + namespace + ".ingress/" + name // no name has a slash: it is never an HTTPRoute's
	case t.told:
		s.name = "kubernetes." + namespace + "." + name
	}
	if kind == "HTTPRoute" {
		s.httpRoute()
		return
	}
	for _, key := range o.Get("metadata").Get("annotations").Keys() {
		if strings.Contains(key, "ingress") && !strings.HasPrefix(key, "kubectl.") && key != "kubernetes.io/ingress.class" {
			t.remark(o.Get("metadata").Get("annotations").Get(key), path+"metadata.annotations", "the annotation %s is another controller's and has no effect here", key)
		}
	}
	s.ingress()
}

// scope is one object.
type scope struct {
	t               *translation
	namespace, name string
	path            string
	spec            config.Tree
}

// maxRoutes bounds what one object that was told makes of the gateway, whoever has written it.
const maxRoutes = 2000

// crowded tells whether an object that was told has as many routes as it may have.
func (s *scope) crowded(at config.Tree, path string) bool {
	if !s.t.told || s.t.routes.Len() < maxRoutes {
		return false
	}
	if !s.t.full {
		s.t.full = true
		s.t.fail(at, path, "the object makes more than %d routes; part it", maxRoutes)
	}
	return true
}

// add makes a route; a name that is taken gets a number.
func (s *scope) add(from config.Tree, name string, match, action config.Tree, key string, more func(route config.Tree)) {
	if s.crowded(from, s.path) {
		return
	}
	unique := name
	for n := max(s.t.last[name]+1, 2); s.t.known["route "+unique]; n++ {
		unique, s.t.last[name] = name+"/"+strconv.Itoa(n), n
	}
	s.t.known["route "+unique] = true
	route := config.NewMap(from).Set("match", match).Set(key, action)
	if more != nil {
		more(route)
	}
	s.t.routes.Set(unique, route)
}

// service is the native service for a backend, under the name NAMESPACE/NAME:PORT.
func (s *scope) service(from config.Tree, path, namespace, name, port string) (service string, ok bool) {
	if name == "" {
		s.t.fail(from, path, "a backend is a service by its name")
		return "", false
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		s.t.fail(from, path, "the backend %s needs the number of its port; names of ports are known in the cluster alone", name)
		return "", false
	}
	if service = namespace + "/" + name + ":" + port; s.t.told {
		service = "kubernetes." + namespace + "." + name + ":" + port
	}
	if !s.t.known["service "+service] {
		s.t.known["service "+service] = true
		s.t.services.Set(service, config.NewMap(from).
			Set("endpoints", config.NewTexts(from, "http://"+name+"."+namespace+".svc:"+port)).
			Set("pass_host", config.NewWord(from, true)))
	}
	return service, true
}

// exactly quotes a value that would be read as a pattern or as presence.
func exactly(value string) string {
	if strings.HasPrefix(value, "~") || value == "*" {
		return "~^" + regexp.QuoteMeta(value) + "$"
	}
	return value
}

// plain refuses templates, which these objects have not.
func (s *scope) plain(value config.Tree, path string) config.Tree {
	if strings.Contains(value.Text(), "${") {
		s.t.fail(value, path, "the value has ${, which would be filled in for each request")
	}
	return config.NewText(value, value.Text())
}

func (s *scope) ingress() {
	s.t.only(s.spec, s.path, "ingressClassName", "defaultBackend", "rules", "tls")
	if tls := s.spec.Get("tls"); !tls.Null() {
		s.t.remark(tls, s.path+".tls", "certificates are the listeners'; name them in listeners.NAME.tls.certificates")
	}
	if b := s.spec.Get("defaultBackend"); !b.Null() {
		if service, ok := s.ingressBackend(b, s.path+".defaultBackend"); ok {
			s.add(b, s.name+"/default", config.NewMap(b), config.NewText(b, service), "service", nil)
		}
	}
	for i, rule := range s.spec.Get("rules").Items() {
		path := fmt.Sprintf("%s.rules[%d]", s.path, i)
		s.t.only(rule, path, "host", "http")
		s.t.only(rule.Get("http"), path+".http", "paths")
		for j, p := range rule.Get("http").Get("paths").Items() {
			at := fmt.Sprintf("%s.http.paths[%d]", path, j)
			if s.crowded(p, at) {
				return
			}
			s.t.only(p, at, "path", "pathType", "backend")
			service, ok := s.ingressBackend(p.Get("backend"), at+".backend")
			if !ok {
				continue
			}
			match := config.NewMap(p)
			if host := rule.Get("host"); host.Text() != "" {
				match.Set("hosts", config.NewTexts(host, host.Text()))
			}
			kind := p.Get("pathType").Text()
			if kind == "ImplementationSpecific" {
				kind = "Prefix"
			}
			if text, ok := s.matchPath(p, at, kind, p.Get("path").Text()); ok {
				match.Set("paths", config.NewTexts(p, text))
				s.add(p, s.name, match, config.NewText(p, service), "service", nil)
			}
		}
	}
}

func (s *scope) ingressBackend(b config.Tree, path string) (string, bool) {
	s.t.only(b, path, "service")
	s.t.only(b.Get("service"), path+".service", "name", "port")
	if !b.Is() {
		s.t.fail(s.spec, path, "this setting is missing; want service: {name: NAME, port: {number: N}}")
		return "", false
	}
	name, port := b.Get("service").Get("name").Text(), b.Get("service").Get("port")
	if called := port.Get("name").Text(); s.t.told && called != "" && !port.Get("number").Is() {
		s.t.fail(b, path, "the port %s of the service %s is not known: the service, or its port, is not there, or this account may not get, list and watch services", called, name)
		return "", false
	}
	return s.service(b, path, s.namespace, name, port.Get("number").Text())
}

// matchPath is a path as a native match has it.
func (s *scope) matchPath(at config.Tree, path, kind, value string) (string, bool) {
	if value == "" {
		value = "/"
	}
	if kind != "RegularExpression" && !strings.HasPrefix(value, "/") {
		s.t.fail(at, path, "%q does not begin with a slash", value)
		return "", false
	}
	switch kind {
	case "Exact":
		return "=" + value, true
	case "Prefix", "PathPrefix", "":
		if strings.ContainsAny(value, "{}") {
			s.t.fail(at, path, "the path has braces, which stand for parameters here")
			return "", false
		}
		if value != "/" {
			value = strings.TrimRight(value, "/")
		}
		return value, true
	case "RegularExpression":
		return "~^(?:" + value + ")$", true
	}
	s.t.fail(at, path, "%q is no type of a path; want Exact, PathPrefix or RegularExpression, of an Ingress Exact or Prefix", kind)
	return "", false
}
