// Package consul translates tags of a service of Consul into routes of a native configuration. Its guarantee: every tag
// that begins with sluice. is honoured, or is an error.
package consul

import (
	"slices"
	"strings"

	"sluice/config"
)

// prefix of the tags that are looked at.
const prefix = "sluice."

// maxTags bounds what one service makes of the gateway, whoever has registered it.
const maxTags = 2000

// Concerned tells whether any tag is for this gateway.
func Concerned(tags []string) bool {
	return slices.ContainsFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, prefix) }) && !slices.Contains(tags, prefix+"enable=false")
}

// Translate makes a native configuration of an object with the name of a service and its tags, {service: NAME, tags: [TEXT]}.
func Translate(object config.Tree) (native config.Tree, remarks, errs config.Errors) {
	name := object.Get("service").Text()
	t := translation{object: object, routes: map[string]*route{}, seen: map[string]bool{}, service: config.NewMap(object)}
	t.service.Set("discovery", config.NewMap(object).Set("consul", config.NewMap(object).Set("service", config.NewText(object.Get("service"), name))))
	for _, tag := range object.Get("tags").Items() {
		text, ok := strings.CutPrefix(tag.Text(), prefix)
		if !ok {
			continue
		}
		if len(t.seen) == maxTags {
			t.fail(tag, "the service has more than %d tags that begin with %s; give it fewer routes", maxTags, prefix)
			break
		}
		t.tag(tag, text)
	}
	if len(t.names) == 0 && len(t.errs) == 0 {
		t.fail(object, "nothing says which requests are the service's; write sluice.hosts=api.example.com, sluice.paths=/users or both")
	}
	routes := config.NewMap(object)
	for _, key := range t.names {
		r := t.routes[key]
		if !r.bound && len(t.errs) == 0 {
			t.fail(r.at, "nothing says which requests are the route's; write hosts, paths or both")
		}
		full := "consul." + name
		if key != "" {
			full += "/" + key
		}
		routes.Set(full, r.block.Set("match", r.match).Set("service", config.NewText(object, "consul."+name)))
	}
	native = config.NewMap(object).Set("services", config.NewMap(object).Set("consul."+name, t.service)).Set("routes", routes)
	return native, nil, t.errs
}

type translation struct {
	object, service config.Tree
	names           []string // of routes, in the order of their first tags; "" is the one without a name
	routes          map[string]*route
	seen            map[string]bool // settings that were written
	errs            config.Errors
}

type route struct {
	at, match, block config.Tree
	bound            bool // by hosts or paths
}

func (t *translation) fail(at config.Tree, format string, a ...any) {
	t.errs = append(t.errs, at.Errorf("tags", format, a...))
}

const known = "enable, protocol, and hosts, paths, methods, strip_prefix, rewrite, timeout, each also as sluice.routes.NAME.hosts"

func (t *translation) tag(at config.Tree, text string) {
	key, value, ok := strings.Cut(text, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if !ok || value == "" {
		t.fail(at, "%q has no value; write it as sluice.paths=/users", prefix+text)
		return
	}
	// Instances may have other tags than each other, as while one version follows another.
	if t.seen[key] {
		t.fail(at, "the tags have %s%s with several values; give all instances the same one, with commas where there are several", prefix, key)
		return
	}
	t.seen[key] = true
	switch key {
	case "enable":
		if value != "true" {
			t.fail(at, "%q is neither true nor false", value)
		}
		return
	case "protocol":
		t.service.Set("protocol", config.NewWord(at, value))
		return
	}
	name, whole := "", key
	if rest, ok := strings.CutPrefix(key, "routes."); ok {
		// A name may have dots; a setting has none.
		dot := strings.LastIndexByte(rest, '.')
		if dot <= 0 {
			t.fail(at, "%q is no setting of a route; write it as sluice.routes.NAME.paths=/users", prefix+text)
			return
		}
		name, key = rest[:dot], rest[dot+1:]
	}
	set, ok := settings[key]
	if !ok {
		t.fail(at, "%s%s is not known; the tags are %s", prefix, whole, known)
		return
	}
	r := t.routes[name]
	if r == nil {
		r = &route{at: at, match: config.NewMap(t.object), block: config.NewMap(t.object)}
		t.routes[name] = r
		t.names = append(t.names, name)
	}
	set(r, at, value)
}

// settings are those of a route.
var settings = map[string]func(r *route, at config.Tree, value string){
	"hosts": func(r *route, at config.Tree, value string) {
		r.match.Set("hosts", list(at, value))
		r.bound = true
	},
	"paths": func(r *route, at config.Tree, value string) {
		r.match.Set("paths", list(at, value))
		r.bound = true
	},
	"methods":      func(r *route, at config.Tree, value string) { r.match.Set("methods", list(at, value)) },
	"strip_prefix": func(r *route, at config.Tree, value string) { r.block.Set("strip_prefix", config.NewWord(at, value)) },
	"rewrite":      func(r *route, at config.Tree, value string) { r.block.Set("rewrite", config.NewText(at, value)) },
	"timeout": func(r *route, at config.Tree, value string) {
		r.block.Set("timeouts", config.NewMap(at).Set("response", config.NewText(at, value)))
	},
}

func list(at config.Tree, value string) config.Tree {
	var texts []string
	for text := range strings.SplitSeq(value, ",") {
		texts = append(texts, strings.TrimSpace(text))
	}
	return config.NewTexts(at, texts...)
}
