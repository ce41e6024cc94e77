// Package kong translates declarative files of Kong (kong.yml, decK) into native configurations. Its guarantee: every field
// of such a file is either honoured or named in an error or a remark with the place where it stands; nothing is ignored in
// silence. What a native configuration says only in compatibility with Kong stands in its blocks `kong`, so that the
// translation can be written down, and means the same. The package reads nothing but what it is given.
//
// The tables of fields (schema.go, plugins.go) are what files are read by, and what the matrix in README.md is written from.
package kong

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sluice/config"
)

// Options of a translation.
type Options struct {
	// Warn runs without plugins that can not be honoured, and says so in a remark, where else they are an error.
	Warn bool
	// Notes takes what became of each field that is written in the file.
	Notes *[]Note
	// Keep writes ${SLUICE_JWT_SECRET} where the translation is written down.
	Keep bool
}

// Note says what became of a field.
type Note struct {
	Pos  config.Position
	Path string
	// Fate is kept, mapped, kept without effect, or not supported.
	Fate string
	// Message says what it became, or why it can not be honoured.
	Message string
}

// Translator returns what config.Options.Kong wants.
func Translator(o Options) config.Translator {
	return func(file config.Tree, env func(string) (string, bool)) (config.Tree, config.Errors, config.Errors) {
		t := &translation{o: o, env: env, unfilled: map[string]bool{}}
		native := t.translate(file)
		return native, t.remarks, t.errs
	}
}

type translation struct {
	o       Options
	env     func(string) (string, bool)
	errs    config.Errors
	remarks config.Errors
	// unfilled are the places of placeholders that could not be filled in.
	unfilled map[string]bool

	document block
	old      bool // of a format before 3.0
	services []*service
	routes   []*route
	upstream []*upstream
	consumer []*consumer
	groups   []*group
	plugins  []*plugin
	certs    []*certificate
	cas      []*certificate
	stall    int // milliseconds
}

// entity is what every object of a file has.
type entity struct {
	block
	id, name string
}

// label names an object in messages.
func (e *entity) label(kind string) string {
	if e.name != "" {
		return kind + " " + fmt.Sprintf("%q", e.name)
	}
	return kind + " " + e.path
}

type service struct {
	entity
	native string
	routes []*route
	// Of url or of its parts; base is the path.
	scheme, host, base string
	port               int
}

type route struct {
	entity
	native  string
	service *service
	off     bool // its service is disabled
}

type upstream struct {
	entity
	targets []block
}

type consumer struct {
	entity
	native string
	groups []*group
	// credentials, by collection.
	credentials map[string][]block
}

type group struct{ entity }

type certificate struct{ entity }

func (t *translation) fail(at config.Tree, path, format string, a ...any) {
	if t.unfilled[path] {
		return // follows from that
	}
	t.errs = append(t.errs, at.Errorf(path, format, a...))
}

func (t *translation) remark(at config.Tree, path, format string, a ...any) {
	t.remarks = append(t.remarks, at.Errorf(path, format, a...))
}

// remarkOnce is remark for what is written in several places of the native configuration.
func (t *translation) remarkOnce(at config.Tree, path, format string, a ...any) {
	if !slices.ContainsFunc(t.remarks, func(e *config.Error) bool { return e.Path == path }) {
		t.remark(at, path, format, a...)
	}
}

func (t *translation) note(at config.Tree, path string, f fate, message string) {
	if t.o.Notes == nil {
		return
	}
	name := f.String()
	if f >= refused {
		name = "not supported"
	}
	*t.o.Notes = append(*t.o.Notes, Note{at.Pos(), path, name, message})
}

// refuse reports what can not be honoured outside of plugins: there it is always an error.
func (t *translation) refuse(at config.Tree, path, why string) {
	t.note(at, path, refused, why)
	t.fail(at, path, "this %s", why)
}

func (t *translation) translate(file config.Tree) config.Tree {
	t.placeholders(file, "")
	t.document = t.read(file, "", documentFields, t.refuse)
	switch version := strings.TrimSpace(t.document.text("_format_version")); version {
	case "3.0":
	case "1.1", "2.1":
		t.old = true
	default:
		t.document.fail("_format_version", "%q is no format of Kong that is known; it is 1.1, 2.1 or 3.0", version)
	}
	t.collect()
	t.resolve()
	native := t.native()
	if len(t.errs) > 0 {
		return config.Tree{}
	}
	t.differences()
	return native
}

var (
	deckEnv  = regexp.MustCompile(`\$\{\{\s*env\s+(?:"([^"]+)"|'([^']+)')\s*(?:\|\s*[A-Za-z0-9 ]+)?\}\}`)
	vaultEnv = regexp.MustCompile(`^\{vault://env/([A-Za-z0-9_-]+)\}$`)
)

// placeholders fills in what decK and Kong's vault of the environment write; ${NAME} is filled in already.
func (t *translation) placeholders(tree config.Tree, path string) {
	for _, key := range tree.Keys() {
		if path == "" && (key == "_comment" || key == "_ignore" || key == "_info") {
			continue
		}
		t.placeholders(tree.Get(key), join(path, key))
	}
	for i, item := range tree.Items() {
		t.placeholders(item, element(path, i))
	}
	if !tree.Scalar() {
		return
	}
	value := tree.Text()
	lookup := func(name string) string {
		found, ok := t.env(name)
		if !ok {
			t.fail(tree, path, "the environment variable %s is not set", name)
			t.unfilled[path] = true
		}
		return found
	}
	switch m := vaultEnv.FindStringSubmatch(value); {
	case m != nil:
		name := strings.ToUpper(strings.ReplaceAll(m[1], "-", "_"))
		tree.Rewrite(lookup(name), "${"+name+"}")
	case strings.HasPrefix(value, "{vault://"):
		t.fail(tree, path, "%s names a vault that is not known; write {vault://env/NAME}, ${NAME} or ${file:PATH}", value)
		t.unfilled[path] = true
	case strings.Contains(value, "${{"):
		name := func(m []string) string { return m[1] + m[2] }
		filled := deckEnv.ReplaceAllStringFunc(value, func(s string) string { return lookup(name(deckEnv.FindStringSubmatch(s))) })
		written := deckEnv.ReplaceAllStringFunc(value, func(s string) string { return "${" + name(deckEnv.FindStringSubmatch(s)) + "}" })
		if filled == value {
			t.fail(tree, path, "this placeholder is not understood; write ${{ env \"NAME\" }} or ${NAME}")
			t.unfilled[path] = true
			return
		}
		tree.Rewrite(filled, written)
	}
}

// collect reads every object, nested or flat.
func (t *translation) collect() {
	d := &t.document
	for _, b := range t.each(d, "certificates", certificateFields) {
		t.certs = append(t.certs, &certificate{t.entity(b)})
		t.each(&b, "snis", sniFields)
	}
	t.each(d, "snis", sniFields)
	for _, b := range t.each(d, "ca_certificates", caFields) {
		t.cas = append(t.cas, &certificate{t.entity(b)})
	}
	for _, b := range t.each(d, "services", serviceFields) {
		s := &service{entity: t.entity(b)}
		t.services = append(t.services, s)
		for _, rb := range t.each(&b, "routes", routeFields) {
			r := &route{entity: t.entity(rb), service: s}
			if rb.has("service") {
				rb.fail("service", "the route stands in a service already; leave it out")
			}
			t.routes = append(t.routes, r)
			t.pluginsOf(&rb, scope{route: r})
		}
		t.pluginsOf(&b, scope{service: s})
	}
	for _, b := range t.each(d, "routes", routeFields) {
		r := &route{entity: t.entity(b)}
		t.routes = append(t.routes, r)
		t.pluginsOf(&b, scope{route: r})
	}
	for _, b := range t.each(d, "upstreams", upstreamFields) {
		u := &upstream{entity: t.entity(b)}
		u.targets = t.each(&b, "targets", targetFields)
		t.upstream = append(t.upstream, u)
	}
	for _, b := range t.each(d, "consumer_groups", groupFields) {
		g := &group{t.entity(b)}
		t.groups = append(t.groups, g)
		t.pluginsOf(&b, scope{group: g})
	}
	for _, b := range t.each(d, "consumers", consumerFields) {
		c := &consumer{entity: t.entity(b), credentials: map[string][]block{}}
		if c.name = b.text("username"); c.name == "" {
			c.name = b.text("custom_id")
		}
		t.consumer = append(t.consumer, c)
		for name, fields := range credentials {
			if !b.has(name) {
				continue
			}
			for _, cb := range t.each(&b, name, fields) {
				if cb.has("consumer") {
					cb.fail("consumer", "this stands in a consumer already; leave it out")
				}
				c.credentials[name] = append(c.credentials[name], cb)
			}
		}
		t.pluginsOf(&b, scope{consumer: c})
	}
	t.pluginsOf(d, scope{})
}

// credentials are what consumers have, by collection.
var credentials = map[string][]field{
	"keyauth_credentials": keyFields, "basicauth_credentials": basicFields, "hmacauth_credentials": hmacFields, "jwt_secrets": jwtFields, "acls": aclFields,
}

func (t *translation) entity(b block) entity {
	e := entity{block: b}
	if b.describe("id") != nil {
		e.id = b.text("id")
	}
	if b.describe("name") != nil {
		e.name = b.text("name")
	}
	return e
}

// each reads the objects of a collection.
func (t *translation) each(b *block, name string, fields []field) []block {
	var all []block
	for i, item := range b.list(name) {
		at := element(b.where(name), i)
		if item.Scalar() { // a reference by name
			all = append(all, block{t: t, tree: item, path: at, fields: fields, values: map[string]config.Tree{"name": item}})
			continue
		}
		all = append(all, t.read(item, at, fields, t.refuse))
	}
	return all
}

// resolve follows references, and gives each object the name it has natively.
func (t *translation) resolve() {
	taken := map[string]bool{}
	unique := func(name, fallback string) string {
		if name == "" {
			name = fallback
		}
		for n, base := 2, name; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		taken[name] = true
		return name
	}
	distinct(t, "service", t.services, func(s *service) *entity { return &s.entity })
	for i, s := range t.services {
		s.native = unique(s.name, or(s.id, fmt.Sprintf("service-%d", i+1)))
		t.address(s)
	}
	clear(taken)
	distinct(t, "route", t.routes, func(r *route) *entity { return &r.entity })
	for i, r := range t.routes {
		if r.has("service") {
			r.service = find(t, &r.block, "service", t.services, func(s *service) *entity { return &s.entity })
		}
		fallback := or(r.id, fmt.Sprintf("route-%d", i+1))
		if r.service != nil && r.id == "" {
			fallback = fmt.Sprintf("%s-%d", r.service.native, len(r.service.routes)+1)
		}
		r.native = unique(r.name, fallback)
		if r.service != nil {
			r.service.routes = append(r.service.routes, r)
			r.off = !r.service.yes("enabled")
		}
	}
	distinct(t, "upstream", t.upstream, func(u *upstream) *entity { return &u.entity })
	for _, b := range t.each(&t.document, "targets", targetFields) {
		if u := find(t, &b, "upstream", t.upstream, func(u *upstream) *entity { return &u.entity }); u != nil {
			u.targets = append(u.targets, b)
		}
	}
	clear(taken)
	distinct(t, "consumer", t.consumer, func(c *consumer) *entity { return &c.entity })
	for i, c := range t.consumer {
		if c.name == "" && c.id == "" {
			t.fail(c.tree, c.path, "a consumer has a username or a custom_id")
		}
		c.native = unique(c.name, or(c.id, fmt.Sprintf("consumer-%d", i+1)))
		if c.id == "" {
			c.id = idOf("consumers", c.native)
		}
	}
	distinct(t, "consumer group", t.groups, func(g *group) *entity { return &g.entity })
	ofConsumer := func(b *block) *consumer {
		return find(t, b, "consumer", t.consumer, func(c *consumer) *entity { return &c.entity })
	}
	for _, name := range []string{"keyauth_credentials", "basicauth_credentials", "hmacauth_credentials", "jwt_secrets", "acls"} {
		for _, b := range t.each(&t.document, name, credentials[name]) {
			if c := ofConsumer(&b); c != nil {
				c.credentials[name] = append(c.credentials[name], b)
			}
		}
	}
	ofGroup := func(b *block, field string) *group {
		return find(t, b, field, t.groups, func(g *group) *entity { return &g.entity })
	}
	join := func(c *consumer, g *group) {
		if c != nil && g != nil && !slices.Contains(c.groups, g) {
			c.groups = append(c.groups, g)
		}
	}
	for _, b := range t.each(&t.document, "consumer_group_consumers", membershipFields) {
		join(ofConsumer(&b), ofGroup(&b, "consumer_group"))
	}
	for _, g := range t.groups {
		for _, b := range t.each(&g.block, "consumers", []field{{name: "name", kind: text}, {name: "username", kind: text}, {name: "id", kind: text}}) {
			named := b.values["username"]
			if !named.Is() {
				named = or(b.values["name"], b.values["id"])
			}
			join(match(t, named, b.path, "consumer", t.consumer, func(c *consumer) *entity { return &c.entity }), g)
		}
	}
	for _, c := range t.consumer {
		for _, b := range t.each(&c.block, "groups", []field{{name: "name", kind: text}, {name: "id", kind: text}}) {
			join(c, match(t, or(b.values["name"], b.values["id"]), b.path, "consumer group", t.groups, func(g *group) *entity { return &g.entity }))
		}
	}
	t.scopes()
}

func or[T comparable](all ...T) T {
	var zero T
	for _, v := range all {
		if v != zero {
			return v
		}
	}
	return zero
}

// distinct refuses two objects of one name or id.
func distinct[T any](t *translation, what string, all []T, of func(T) *entity) {
	seen := map[string]*entity{}
	for _, one := range all {
		e := of(one)
		for _, name := range []string{e.name, e.id} {
			if name == "" {
				continue
			}
			if first := seen[name]; first != nil && first != e {
				t.fail(e.tree, e.path, "there is a %s %q already, at %s", what, name, first.path)
			}
			seen[name] = e
		}
	}
}

// find follows a reference: a name, an id, or {name: …} or {id: …}.
func find[T any](t *translation, b *block, name string, all []T, of func(T) *entity) (found T) {
	v, ok := b.values[name]
	if !ok {
		t.fail(b.tree, b.path, "%s is missing; write %s: NAME", name, name)
		return found
	}
	at := b.where(name)
	if v.Map() {
		inner := or(v.Get("name"), v.Get("username"), v.Get("id"))
		if !inner.Is() || v.Len() != 1 {
			t.fail(v, at, "write the name, {name: NAME} or {id: ID}")
			return found
		}
		v = inner
	}
	return match(t, v, at, strings.ReplaceAll(name, "_", " "), all, of)
}

// match finds an object by name or id.
func match[T any](t *translation, v config.Tree, path, what string, all []T, of func(T) *entity) (found T) {
	if !v.Scalar() {
		t.fail(v, path, "write the name or the id of a %s", what)
		return found
	}
	var known []string
	for _, one := range all {
		e := of(one)
		if e.name == v.Text() || e.id == v.Text() {
			return one
		}
		if e.name != "" {
			known = append(known, e.name)
		}
	}
	t.fail(v, path, "there is no %s %q%s", what, v.Text(), config.Hint(v.Text(), known))
	return found
}

// idOf makes an id where a file has none; the same for the same object, so that services know consumers again.
func idOf(collection, name string) string {
	u := sha256.Sum256([]byte("kong/" + collection + "/" + name))
	u[6] = u[6]&0x0f | 0x80 // version 8 of RFC 9562: by a rule of one's own
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
