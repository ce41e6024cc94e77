package config

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Sources are where routes come from beside the configuration itself. What they tell is treated like a team's files: it holds routes and their services under names that begin with the source's, and reaches no others. An object that is not understood, or that a route stands in the way of, keeps what it had, alone, and the log says so. A route that is more specific wins wherever it comes from: `hosts` and `path_prefixes` keep a source from the requests of others. While a source can not be asked what it told last stays in force, with `state.dir` also over a restart.
type Sources struct {
	// Kubernetes follows HTTPRoutes and Ingresses at the API server. Off when left out.
	Kubernetes SourceKubernetes `yaml:"kubernetes" default:"off"`
	// Consul follows the tags of services in its catalog. Off when left out.
	Consul SourceConsul `yaml:"consul" default:"off"`
}

// SourceKubernetes lists and watches objects, which its own account must be allowed to: `get`, `list` and `watch` of `httproutes` in `gateway.networking.k8s.io` and of `ingresses` in `networking.k8s.io`. Nothing is written, no status either. They become what they are as files (see Objects of Kubernetes); routes are called `kubernetes.NAMESPACE.NAME`, those of an Ingress `kubernetes.NAMESPACE.ingress/NAME`, and services `kubernetes.NAMESPACE.NAME:PORT`, in whose place one of that name in the configuration goes. Where two objects want the same requests the older one has them.
type SourceKubernetes struct {
	// Off: Kubernetes is not asked.
	Off bool `yaml:"-"`
	// Resources to follow.
	Resources []string `yaml:"resources" enum:"httproutes|ingresses" default:"httproutes,ingresses"`
	// Namespaces to look into. Default: all, which the account needs a ClusterRole for.
	Namespaces []string `yaml:"namespaces"`
	// Gateway that an HTTPRoute has to name in its `parentRefs`, by `NAME` or `NAMESPACE/NAME`; `*`: any. A `sectionName` there is the name of the listener that the route is for.
	Gateway string `yaml:"gateway" default:"sluice"`
	// IngressClass that an Ingress has to name; `*`: any, also none.
	IngressClass string `yaml:"ingress_class" default:"sluice"`
	// Hosts that routes may match; one with a wildcard takes in those below it. A route without hosts matches all of them. Default: any.
	Hosts []string `yaml:"hosts"`
	// PathPrefixes that routes must stay below, by whole segments. A route without paths matches all of them. Default: any.
	PathPrefixes []string `yaml:"path_prefixes"`
	// Server is the URL of the API server. Default: that of the cluster the pod runs in.
	Server string `yaml:"server"`
	// TokenFile holds the token to ask with; it is read anew for each question, since it is replaced. `off`: none is sent.
	TokenFile string `yaml:"token_file" default:"/var/run/secrets/kubernetes.io/serviceaccount/token"`
	// CA is the file of the authorities to verify the server against, PEM. Default: the pod's, where there is one, else the system's.
	CA string `yaml:"ca"`
}

// SourceConsul follows the catalog of Consul by blocking queries: a service with tags that begin with `sluice.` has a route, or several, and its healthy instances are the endpoints (see Tags of Consul). Where two services want the same requests the one has them that was heard of first.
type SourceConsul struct {
	// Off: Consul is not asked.
	Off bool `yaml:"-"`
	// Hosts that routes may match; one with a wildcard takes in those below it. A route without hosts matches all of them. Default: any.
	Hosts []string `yaml:"hosts"`
	// PathPrefixes that routes must stay below, by whole segments. A route without paths matches all of them. Default: any.
	PathPrefixes []string `yaml:"path_prefixes"`
	// Address of the agent, as a URL.
	Address string `yaml:"address" default:"http://127.0.0.1:8500"`
	// Datacenter to ask for. Default: the agent's own.
	Datacenter string `yaml:"datacenter"`
	// Namespace to ask for, where Consul has them. Default: that of the token.
	Namespace string `yaml:"namespace"`
	// Token to ask with. Default: none.
	Token Secret `yaml:"token"`
	// Warning takes instances with a warning too, with the weight that they have then; else only those that pass every check.
	Warning bool `yaml:"warning" default:"false"`
	// Stale lets any server of Consul answer, also while there is no leader.
	Stale bool `yaml:"stale" default:"true"`
	// Wait is how long a question waits for a change.
	Wait Duration `yaml:"wait" default:"5m" min:"1s" max:"10m"`
	// CA is the file of the authorities to verify the agent against, PEM. Default: the system's.
	CA string `yaml:"ca"`
}

// Object is what a source tells of one thing, in the source's own form.
type Object struct {
	// Source is its name in the configuration: kubernetes, consul.
	Source string `json:"source"`
	// Watch names what of the source has told it.
	Watch string `json:"watch"`
	// Since orders objects by their age, as 2006-01-02T15:04:05Z. Where the source does not tell it, it is when the object was
	// heard of first.
	Since string `json:"since,omitempty"`
	// Data is its text, YAML or JSON, in the form that the translator of the source understands.
	Data []byte `json:"data"`
}

// Same tells whether two objects mean the same.
func (o Object) Same(other Object) bool {
	return o.Source == other.Source && o.Since == other.Since && bytes.Equal(o.Data, other.Data)
}

// Sources returns what the files say about sources, before anything else of them is looked at.
func (in Input) Sources(o Options) (Sources, error) {
	l := newLoader(o)
	if in.mentions("sources", o) {
		for _, f := range in.Files {
			l.add(f.Name, f.dir(), f.Data)
		}
		if l.root != nil {
			l.errs = append(l.errs, overrides(l.root, o)...)
		}
		if len(l.errs) > 0 {
			return Sources{}, l.errs.Err()
		}
	}
	only := &node{kind: mapping, src: defaultSource}
	if sources := l.root.child("sources"); sources != nil {
		only.put("sources", sources)
	}
	c, d := &Config{tree: only}, decoder{}
	d.decode(only, reflect.ValueOf(c).Elem(), "")
	return c.Sources, d.errs.Err()
}

// mentions spares the reading of files that can not have a setting.
func (in Input) mentions(setting string, o Options) bool {
	has := func(text string) bool { return strings.Contains(strings.ToLower(text), setting) }
	return slices.ContainsFunc(in.Files, func(f File) bool { return bytes.Contains(f.Data, []byte(setting)) }) ||
		slices.ContainsFunc(o.Set, has) || slices.ContainsFunc(o.Environ, func(v string) bool { return strings.HasPrefix(v, setPrefix) && has(v) })
}

// outer says which source a block comes from.
type outer struct{ source, since string }

// outside takes what sources tell into the tree. Services of the files under the same name go first; names of routes are
// those of the files, if they have them.
func (l *loader) outside(objects map[string]Object) {
	if len(objects) == 0 {
		return
	}
	l.outer = make(map[string]outer)
	taken := map[string]map[string]*node{"services": l.root.child("services").children(), "routes": l.root.child("routes").children()}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		l.outsider(name, objects[name], taken)
	}
}

// maxObject bounds an object, and maxOuterName the names of what it makes, which become labels of metrics. Kubernetes stores
// no larger object.
const (
	maxObject    = 2 << 20
	maxOuterName = 512
)

func (l *loader) outsider(name string, o Object, taken map[string]map[string]*node) {
	if len(o.Data) > maxObject {
		l.errs = append(l.errs, &Error{Pos: Position{File: name}, Message: fmt.Sprintf("the object is larger than %d MiB", maxObject>>20)})
		return
	}
	translate := l.options.Objects[o.Source]
	if translate == nil {
		l.errs = append(l.errs, &Error{Pos: Position{File: name}, Message: fmt.Sprintf("objects of the source %q are not understood here", o.Source)})
		return
	}
	root, errs := parseTree(name, o.Data)
	if len(errs) > 0 {
		l.errs = append(l.errs, errs...)
		return
	}
	native, remarks, errs := translate(Tree{root})
	l.remarks = append(l.remarks, remarks...)
	if len(errs) > 0 {
		l.errs = append(l.errs, errs...)
		return
	}
	for _, section := range [...]string{"services", "routes"} {
		blocks := native.n.child(section)
		if blocks == nil {
			continue
		}
		into := l.root.child(section)
		if into == nil || into.kind != mapping {
			into = &node{kind: mapping, src: blocks.src, line: blocks.line, column: blocks.column}
			l.root.put(section, into)
		}
		if taken[section] == nil {
			taken[section] = make(map[string]*node)
		}
		for _, f := range blocks.fields {
			path := joinKey(section, f.key)
			if !strings.HasPrefix(f.key, o.Source+".") {
				panic("BUG: " + path + " is not under the name of its source")
			}
			switch other := taken[section][f.key]; {
			case len(f.key) > maxOuterName:
				l.errs = append(l.errs, &Error{Pos: f.value.keyPos(), Path: section, Message: fmt.Sprintf("the name %s… is longer than %d bytes", strings.ToValidUTF8(f.key[:50], ""), maxOuterName)})
				continue
			case other == nil:
			case section == "services":
				continue
			default:
				l.errs = append(l.errs, &Error{Pos: f.value.keyPos(), Path: path, Message: "this stands also in " + other.keyPos().String() + ", which goes first"})
				continue
			}
			if section == "services" {
				l.asSource(f.value.child("discovery").child(o.Source), o.Source)
			}
			into.fields = append(into.fields, f)
			taken[section][f.key] = f.value
			l.outer[path] = outer{o.Source, o.Since}
		}
	}
}

// asSource has the endpoints of a service found where, and as whom, the source itself is asked.
func (l *loader) asSource(discovery *node, source string) {
	if discovery == nil {
		return
	}
	settings := l.root.child("sources").child(source)
	for _, key := range [...]string{"address", "datacenter", "namespace", "token", "warning", "stale", "wait", "ca"} {
		if value := settings.child(key); value != nil {
			discovery.put(key, value.clone())
		}
	}
}

// bounds are what routes of a source may match.
func (s *Sources) bounds(source string) (hosts, prefixes []string) {
	switch source {
	case "kubernetes":
		return s.Kubernetes.Hosts, s.Kubernetes.PathPrefixes
	case "consul":
		return s.Consul.Hosts, s.Consul.PathPrefixes
	}
	return nil, nil
}

// belong says of each service and route which source it comes from, and gives its routes what they do not say themselves.
func (c *Config) belong(all map[string]outer) {
	for path, from := range all {
		segments, _ := parsePath(path)
		name := segments[len(segments)-1].key
		if s := c.Services[name]; segments[0].key == "services" && s != nil {
			s.Source = from.source
		}
		r := c.Routes[name]
		if segments[0].key != "routes" || r == nil {
			continue
		}
		r.Source, r.Since = from.source, from.since
		hosts, prefixes := c.Sources.bounds(from.source)
		if len(r.Match.Hosts) == 0 {
			r.Match.Hosts = slices.Clone(hosts)
		}
		if len(r.Match.Paths) == 0 {
			r.Match.Paths = slices.Clone(prefixes)
		}
	}
}

// sources checks where routes come from, and that they are within bounds.
func (k *checker) sources() {
	if s := &k.c.Sources.Kubernetes; !s.Off {
		path := "sources.kubernetes"
		if len(s.Resources) == 0 {
			k.fail(path+".resources", "nothing is to be followed; write httproutes, ingresses or both")
		}
		for i, namespace := range s.Namespaces {
			at := joinIndex(path+".namespaces", i)
			if !isKubernetesName(namespace) {
				k.fail(at, "%q is no name of Kubernetes: lower case letters, digits and dashes", namespace)
			} else if slices.Contains(s.Namespaces[:i], namespace) {
				k.fail(at, "%q stands here twice", namespace)
			}
		}
		namespace, name, both := strings.Cut(s.Gateway, "/")
		if !both {
			namespace, name = "any", s.Gateway
		}
		if name != "*" && !isHostName(name) || !isKubernetesName(namespace) {
			k.fail(path+".gateway", "%q names no Gateway; write NAME, NAMESPACE/NAME, or \"*\" for any", s.Gateway)
		}
		if s.IngressClass == "" {
			k.fail(path+".ingress_class", "the name is empty; write \"*\" for any")
		}
		if s.Server != "" {
			k.serverURL(path+".server", s.Server)
		}
		k.bounds(path, s.Hosts, s.PathPrefixes)
	}
	if s := &k.c.Sources.Consul; !s.Off {
		k.serverURL("sources.consul.address", s.Address)
		k.bounds("sources.consul", s.Hosts, s.PathPrefixes)
	}
	for _, name := range k.routes {
		if r := k.c.Routes[name]; r != nil && r.Source != "" {
			hosts, prefixes := k.c.Sources.bounds(r.Source)
			path := joinKey("routes", name) + ".match"
			k.within(path+".hosts", r.Match.Hosts, hosts, hostWithin, "is not the source's")
			k.within(path+".paths", r.Match.Paths, prefixes, pathWithin, "is not the source's")
		}
	}
}

func isKubernetesName(name string) bool {
	return isHostName(name) && !strings.ContainsAny(name, "._") && name == strings.ToLower(name)
}

// bounds checks hosts and prefixes that bound what others may match.
func (k *checker) bounds(path string, hosts, prefixes []string) {
	for j, host := range hosts {
		k.host(joinIndex(path+".hosts", j), host)
	}
	for j, prefix := range prefixes {
		at := joinIndex(path+".path_prefixes", j)
		if _, problem := pathProblem(prefix); problem != "" {
			k.fail(at, "%s", problem)
		} else if strings.ContainsAny(prefix[:1], "=~") || strings.ContainsAny(prefix, "{}") {
			k.fail(at, "%q is no prefix; write it as /pay", prefix)
		}
	}
}

// within checks that each value is in one of those allowed, where there are any.
func (k *checker) within(path string, given, allowed []string, in func(a, b string) bool, wrong string) {
	if len(allowed) == 0 {
		return
	}
	for i, value := range given {
		if !slices.ContainsFunc(allowed, func(a string) bool { return in(value, a) }) {
			k.fail(joinIndex(path, i), "%q %s; it may have %s", value, wrong, strings.Join(allowed, ", "))
		}
	}
}
