package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// teams takes the files of teams into the tree: their services and routes, under the team's name.
func (l *loader) teams(all map[string][]File) {
	if len(all) == 0 {
		return
	}
	if l.root == nil {
		l.root = &node{kind: mapping, src: defaultSource}
	}
	l.owned = make(map[string]string)
	known := l.root.child("teams")
	for _, team := range slices.Sorted(maps.Keys(all)) {
		for _, f := range all[team] {
			l.files[f.Name] = true
			if known.child(team) == nil {
				l.errs = append(l.errs, &Error{Pos: Position{File: f.Name, Line: 1, Column: 1}, Message: fmt.Sprintf("there is no team %q; the configuration has to say what it may do, as teams: {%s: {hosts: [%s.example.com]}}", team, team, team)})
				break
			}
			l.team(team, f)
		}
	}
}

func (l *loader) team(team string, f File) {
	root, errs := parseTree(f.Name, f.Data)
	if len(errs) > 0 {
		l.errs = append(l.errs, errs...)
		return
	}
	fail := func(at *node, path, format string, a ...any) {
		l.errs = append(l.errs, &Error{Pos: at.keyPos(), Path: path, Message: fmt.Sprintf(format, a...)})
	}
	if root.kind != null && root.kind != mapping {
		fail(root, "", "found %s, want a block with services and routes", root.found())
		return
	}
	e := expander{files: l.files, confined: true}
	e.tree(root, filepath.Dir(f.Name))
	l.errs = append(l.errs, e.errs...)
	for _, section := range root.fields {
		switch {
		case section.key == "version":
			if section.value.text != "1" {
				fail(section.value, "version", "this is no version; write 1")
			}
		case section.key != "services" && section.key != "routes":
			fail(section.value, section.key, "a team's file holds services and routes alone; the rest is the gateway's")
		case section.value.kind == null:
		case section.value.kind != mapping:
			fail(section.value, section.key, "found %s, want a block of settings", section.value.found())
		default:
			l.teamSection(team, section.key, section.value, fail)
		}
	}
}

func (l *loader) teamSection(team, section string, blocks *node, fail func(*node, string, string, ...any)) {
	into := l.root.child(section)
	if into == nil || into.kind != mapping {
		into = &node{kind: mapping, src: blocks.src, line: blocks.line, column: blocks.column, keyLine: blocks.keyLine, keyColumn: blocks.keyColumn}
		l.root.put(section, into)
	}
	for _, block := range blocks.fields {
		name := team + "/" + block.key
		path := joinKey(section, name)
		if strings.Contains(block.key, "/") {
			fail(block.value, path, "the name has a slash, which parts it from the team's; leave it out")
			continue
		}
		if other := into.child(name); other != nil {
			fail(block.value, path, "this stands also in %s; keep one of them", other.keyPos())
			continue
		}
		if block.value.kind == mapping {
			if section == "routes" {
				ownReferences(block.value, team)
			} else {
				block.value.child("policies").ownAt(team, "mirror", "service")
			}
		}
		into.put(name, block.value)
		l.owned[path] = team
	}
}

// ownReferences makes every name of a service in a team's route one of the team's own.
func ownReferences(route *node, team string) {
	for _, path := range [...][]string{
		{"service"},
		{"split", "services", "*", "service"}, {"split", "override", "values", "*"},
		{"aggregate", "calls", "*", "service"},
		{"grpc", "service"},
		{"graphql", "service"}, {"graphql", "resolvers", "*", "service"},
		{"websocket", "service"},
		{"policies", "mirror", "service"},
	} {
		route.ownAt(team, path...)
	}
}

// ownAt puts the team before the names at a path, where * stands for every key or element.
func (n *node) ownAt(team string, path ...string) {
	switch {
	case n == nil:
	case len(path) == 0:
		if n.kind == scalar && n.text != "" && !n.isOff() {
			n.text, n.quoted, n.raw = team+"/"+n.text, true, ""
		}
	case path[0] == "*":
		for _, f := range n.fields {
			f.value.ownAt(team, path[1:]...)
		}
		for _, item := range n.items {
			item.ownAt(team, path[1:]...)
		}
	case n.kind == sequence: // a list of blocks of a policy
		for _, item := range n.items {
			item.ownAt(team, path...)
		}
	default:
		n.child(path[0]).ownAt(team, path[1:]...)
	}
}

// own says of each service and route whose it is, and gives a team's routes what they do not say themselves.
func (c *Config) own(owned map[string]string) {
	for path, team := range owned {
		segments, _ := parsePath(path)
		name := segments[len(segments)-1].key
		if s := c.Services[name]; segments[0].key == "services" && s != nil {
			s.Team = team
		}
		r := c.Routes[name]
		if segments[0].key != "routes" || r == nil {
			continue
		}
		r.Team = team
		t := c.Teams[team]
		if t == nil {
			continue
		}
		if len(r.Match.Hosts) == 0 {
			r.Match.Hosts = slices.Clone(t.Hosts)
		}
		if len(r.Match.Paths) == 0 {
			r.Match.Paths = slices.Clone(t.PathPrefixes)
		}
	}
}

// teams checks what teams may do, and that they do no more.
func (k *checker) teams() {
	c := k.c
	names := slices.Sorted(maps.Keys(c.Teams))
	for i, name := range names {
		t, path := c.Teams[name], joinKey("teams", name)
		if t == nil {
			continue
		}
		if !plainKey(name) {
			k.fail(path, "%q is no name of a team; write letters, digits and dashes", name)
		}
		if len(t.Hosts) == 0 && len(t.PathPrefixes) == 0 {
			k.fail(path, "nothing says which requests are the team's; write hosts, path_prefixes or both")
		}
		k.bounds(path, t.Hosts, t.PathPrefixes)
		for _, other := range names[:i] {
			if o := c.Teams[other]; o != nil && t.meets(o) {
				k.fail(path, "the team %s has some of the same hosts and path prefixes; part them, so that neither takes the other's requests", other)
			}
		}
	}
	count := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(c.Services)) {
		if s := c.Services[name]; s != nil && s.Team != "" && c.Teams[s.Team] != nil {
			count["service "+s.Team]++
			k.teamService(joinKey("services", name), s, c.Teams[s.Team])
			if most := c.Teams[s.Team].MaxServices; most > 0 && count["service "+s.Team] == most+1 {
				k.fail(joinKey("services", name), "the team %s may have %d services", s.Team, most)
			}
		}
	}
	for _, name := range k.routes {
		if r := c.Routes[name]; r != nil && r.Team != "" && c.Teams[r.Team] != nil {
			count["route "+r.Team]++
			k.teamRoute(joinKey("routes", name), r, c.Teams[r.Team])
			if most := c.Teams[r.Team].MaxRoutes; most > 0 && count["route "+r.Team] == most+1 {
				k.fail(joinKey("routes", name), "the team %s may have %d routes", r.Team, most)
			}
		}
	}
}

// meets tells whether a request could be of both teams.
func (t *Team) meets(o *Team) bool {
	either := func(a, b []string, meet func(a, b string) bool) bool {
		if len(a) == 0 || len(b) == 0 {
			return true
		}
		return slices.ContainsFunc(a, func(x string) bool {
			return slices.ContainsFunc(b, func(y string) bool { return meet(x, y) || meet(y, x) })
		})
	}
	return either(t.Hosts, o.Hosts, hostWithin) && either(t.PathPrefixes, o.PathPrefixes, pathWithin)
}

// hostWithin tells whether every host that one pattern takes is taken by another.
func hostWithin(host, of string) bool {
	host, of = strings.ToLower(host), strings.ToLower(of)
	if suffix, ok := strings.CutPrefix(of, "*"); ok {
		return strings.HasSuffix(strings.TrimPrefix(host, "*"), suffix)
	}
	return host == of
}

// pathWithin tells whether every path that one path of a match takes is below a prefix.
func pathWithin(path, prefix string) bool {
	prefix = strings.TrimRight(prefix, "/")
	rest, ok := strings.CutPrefix(strings.TrimPrefix(path, "="), prefix)
	return ok && (rest == "" || rest[0] == '/')
}

func (k *checker) teamService(path string, s *Service, t *Team) {
	k.teamPolicies(path, s.Policies, t)
	if t.MaxEndpoints > 0 && len(s.Endpoints) > t.MaxEndpoints {
		k.fail(path+".endpoints", "a service of the team %s may have %d endpoints", t.Name, t.MaxEndpoints)
	}
	for i, e := range s.Endpoints {
		if strings.HasPrefix(e.URL, "unix:") {
			k.fail(joinIndex(path+".endpoints", i), "sockets of the gateway's machine are not for teams; write http://host:port")
		}
	}
	for _, file := range [...]struct{ path, value string }{
		{".tls.ca", s.TLS.CA}, {".tls.cert", s.TLS.Cert}, {".tls.key", s.TLS.Key},
	} {
		if file.value != "" && !strings.Contains(file.value, "-----BEGIN") {
			k.fail(path+file.path, "files of the gateway are not for teams; write the PEM itself")
		}
	}
	// Sources use what the gateway's machine has, its files, its account in the cluster, what it can reach.
	if !s.Discovery.Off && s.Discovery.Source() != "dns" {
		k.fail(path+".discovery", "a team's services are found by dns alone; other sources use the gateway's own files and access")
	}
}

func (k *checker) teamRoute(path string, r *Route, t *Team) {
	k.teamPolicies(path, r.Policies, t)
	if r.Kong != nil {
		k.fail(path+".kong", "this is not for teams")
	}
	if r.Health != nil && !r.Health.Off() {
		k.fail(path+".health", "it tells of the services of others and is not for teams")
	}
	for _, file := range [...]struct {
		path  string
		block *Block
		key   string
	}{{".grpc.descriptors", r.GRPC, "descriptors"}, {".graphql.schema", r.GraphQL, "schema"}, {".graphql.persisted", r.GraphQL, "persisted"}} {
		if file.block != nil && file.block.node.child(file.key) != nil {
			k.fail(path+file.path, "files of the gateway are not for teams")
		}
	}
	k.within(path+".match.hosts", r.Match.Hosts, t.Hosts, hostWithin, "is not the team's")
	k.within(path+".match.paths", r.Match.Paths, t.PathPrefixes, pathWithin, "is not the team's")
}

func (k *checker) teamPolicies(path string, policies Policies, t *Team) {
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		if name == "openapi" && !policies[name].Off() { // also the one that stands on the route itself
			k.fail(policies[name].Path(), "files of the gateway are not for teams")
			continue
		}
		if !slices.Contains(t.AllowedPolicies, name) {
			allowed := "none"
			if len(t.AllowedPolicies) > 0 {
				allowed = strings.Join(t.AllowedPolicies, ", ")
			}
			k.fail(path+".policies."+name, "the team %s may not set or turn off this policy; allowed: %s", t.Name, allowed)
		}
	}
}
