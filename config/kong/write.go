package kong

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sluice/config"
)

// copyTo copies a field that means the same natively, if it is written.
func (b *block) copyTo(into config.Tree, name, native string) {
	v, ok := b.values[name]
	switch {
	case !ok:
	case v.Scalar() && b.describe(name).kind == texts:
		into.Set(native, config.NewList(v, v))
	case v.List() && v.Len() == 0:
	default:
		into.Set(native, v)
	}
}

func exactlyOne(names ...string) func(p *plugin) {
	return func(p *plugin) {
		given := 0
		for _, name := range names {
			if len(p.config.list(name)) > 0 {
				given++
			}
		}
		if given != 1 {
			p.t.fail(p.config.tree, p.config.path, "write exactly one of %s", strings.Join(names, " and "))
		}
	}
}

func atLeastOne(names ...string) func(p *plugin) {
	return func(p *plugin) {
		for _, name := range names {
			if len(p.config.list(name)) > 0 {
				return
			}
		}
		p.t.fail(p.config.tree, p.config.path, "write %s", strings.Join(names, " or "))
	}
}

func checkRateLimit(p *plugin) {
	c := &p.config
	last, lastName := 0.0, ""
	for _, w := range windows {
		if !c.has(w) {
			continue
		}
		n := c.number(w)
		switch {
		case n <= 0:
			c.fail(w, "%s is out of range; it must be more than 0", c.text(w))
		case n < last:
			c.fail(w, "a limit for a longer time can not be lower than the %v of %s", last, lastName)
		case n != math.Trunc(n):
			p.refuse(w, "has a limit that can not be honoured: %s is no whole number", c.text(w))
		}
		last, lastName = n, w
	}
	if lastName == "" {
		p.t.fail(c.tree, c.path, "there is no limit; write minute: 100, or one of second, hour, day, month and year")
	}
	switch by := c.text("limit_by"); by {
	case "header":
		if c.text("header_name") == "" {
			c.fail("limit_by", "limiting by a header wants its name; write header_name: X-Name")
		}
	case "credential", "path", "consumer-group":
		p.refuse("limit_by", "has an option that can not be honoured: requests are not counted by %s; choose consumer, ip, header or service", by)
	case "service":
		if p.route == nil && p.service == nil {
			p.refuse("limit_by", "has an option that can not be honoured: put it on each service")
		}
	}
	checkShared(p)
	p.checkRedis()
	if p.consumer != nil || p.group != nil {
		for _, option := range []string{"error_code", "error_message"} {
			if c.has(option) && c.text(option) != c.describe(option).preset {
				p.refuse(option, "has an option that can not be honoured for a consumer: answers are a route's")
			}
		}
	}
}

func writeRateLimit(p *plugin, into config.Tree) {
	c := &p.config
	list := config.NewList(c.tree)
	for _, w := range windows {
		if !c.has(w) {
			continue
		}
		limit := config.NewMap(c.at(w)).
			Set("requests", config.NewWord(c.at(w), c.integer(w))).
			Set("window", config.NewWord(c.at(w), w))
		switch by := c.text("limit_by"); by {
		case "consumer":
		case "ip":
			limit.Set("by", config.NewWord(c.at("limit_by"), by))
		case "header":
			limit.Set("by", config.NewText(c.at("limit_by"), "header:"+c.text("header_name")))
		case "service":
			limit.Set("by", config.NewWord(c.at("limit_by"), "global"))
		}
		headers := "kong"
		if c.yes("hide_client_headers") {
			headers = "off"
		}
		if limit.Set("headers", config.NewWord(c.at("hide_client_headers"), headers)); c.text("policy") == "redis" && c.number("sync_rate") <= 0 {
			limit.Set("mode", config.NewWord(c.at("policy"), "strict"))
		}
		list.Append(limit)
	}
	into.Set("rate_limit", list)
}

func checkResponseRateLimit(p *plugin) {
	c := &p.config
	checkShared(p)
	if c.text("limit_by") == "credential" {
		p.refuse("limit_by", "has an option that can not be honoured: answers are not counted by credential; choose consumer or ip")
	}
	limits := c.values["limits"]
	if !limits.Map() || limits.Len() == 0 {
		c.fail("limits", "there is no limit; write videos: {minute: 10}")
		return
	}
	for _, name := range limits.Keys() {
		b := p.t.read(limits.Get(name), join(c.where("limits"), name), windowOptions(), p.t.refuse)
		last := 0.0
		given := false
		for _, w := range windows {
			if !b.has(w) {
				continue
			}
			given = true
			switch n := b.number(w); {
			case n <= 0 || n != math.Trunc(n):
				b.fail(w, "%s is out of range; write a whole number of at least 1", b.text(w))
			case n < last:
				b.fail(w, "a limit for a longer time can not be lower than one for a shorter")
			default:
				last = n
			}
		}
		if !given {
			p.t.fail(b.tree, b.path, "there is no limit; write minute: 10")
		}
	}
}

func writeResponseRateLimit(p *plugin, into config.Tree) {
	c := &p.config
	made := config.NewMap(c.tree).Set("limits", c.values["limits"])
	if c.has("header_name") {
		made.Set("header", config.NewText(c.at("header_name"), c.text("header_name")))
	}
	if c.text("limit_by") == "ip" {
		made.Set("by", config.NewWord(c.at("limit_by"), "ip"))
	}
	if c.yes("block_on_first_violation") {
		made.Set("block_on_first", config.NewWord(c.at("block_on_first_violation"), true))
	}
	if c.yes("hide_client_headers") {
		made.Set("headers", config.NewWord(c.at("hide_client_headers"), false))
	}
	into.Set("response_rate_limit", made)
}

// checkShared refuses counts that gateways share.
func checkShared(p *plugin) {
	switch p.config.text("policy") {
	case "cluster":
		p.refuse("policy", "has an option that can not be honoured: there is no database, as Kong has none for a file; write policy: local")
	case "redis":
		if p.def.name != "rate-limiting" {
			p.refuse("policy", "has an option that can not be honoured: what answers say is counted by each gateway; write policy: local")
		}
	}
}

func checkJWT(p *plugin) {
	if n := p.config.number("maximum_expiration"); n > 0 && !slices.Contains(p.config.texts("claims_to_verify"), "exp") {
		p.config.fail("maximum_expiration", "it goes with exp; write claims_to_verify: [exp]")
	}
}

func writeJWT(p *plugin, into config.Tree) {
	c := &p.config
	made := config.NewMap(c.tree)
	from := config.NewMap(c.tree)
	for _, place := range []struct{ kong, native string }{{"header_names", "header"}, {"cookie_names", "cookie"}, {"uri_param_names", "query"}} {
		names := c.list(place.kong)
		if place.kong == "header_names" && len(names) == 1 && strings.EqualFold(names[0].Text(), "authorization") {
			continue
		}
		if len(names) > 0 || place.native == "header" {
			from.Set(place.native, config.NewTexts(c.at(place.kong), c.texts(place.kong)...))
		}
	}
	if from.Len() > 0 {
		made.Set("from", from)
	}
	made.Set("claims_to_verify", config.NewTexts(c.at("claims_to_verify"), c.texts("claims_to_verify")...))
	made.Set("check_unlisted", config.NewWord(c.at("claims_to_verify"), false))
	if n := c.number("maximum_expiration"); n > 0 {
		made.Set("max_lifetime", config.NewWord(c.at("maximum_expiration"), milliseconds(int(n*1000))))
	}
	p.consumerNamed(made)
	if len(p.t.consumer) == 0 {
		p.keyOfEnvironment(made)
	}
	into.Set("jwt", made)
}

// keyOfEnvironment is the key of a file in which nobody has one.
func (p *plugin) keyOfEnvironment(made config.Tree) {
	const secret, keys = "SLUICE_JWT_SECRET", "SLUICE_JWT_JWKS_URL"
	from := func(name, setting string) bool {
		value, ok := p.t.env(name)
		if !ok || value == "" {
			return false
		}
		v := config.NewText(p.tree, value)
		v.Rewrite(value, "${"+name+"}")
		made.Set(setting, v)
		return true
	}
	switch {
	case from(secret, "secret"):
		if p.config.yes("secret_is_base64") {
			made.Set("secret_base64", config.NewWord(p.config.at("secret_is_base64"), true))
		}
	case from(keys, "jwks_url"):
	case p.t.o.Keep:
		v := config.NewText(p.tree, nobody())
		v.Rewrite(v.Text(), "${"+secret+"}")
		made.Set("secret", v)
		p.t.remark(p.tree, p.path, "%s has no consumer whose key could verify a token; the key is read from %s when the gateway runs", p.label(), secret)
	default:
		made.Set("secret", config.NewText(p.tree, nobody()))
		p.t.remark(p.tree, p.path, "%s refuses every request with 401: no consumer has a key, and neither %s nor %s is set; set one of them, or add a consumer with jwt_secrets", p.label(), secret, keys)
	}
}

func checkOIDC(p *plugin) {
	c := &p.config
	if c.text("issuer") == "" {
		c.fail("issuer", "issuer is missing; write https://provider.example")
	}
	if methods := c.texts("auth_methods"); len(methods) != 1 || methods[0] != "bearer" {
		p.refuse("auth_methods", "has an option that can not be honoured: without sessions there are bearer tokens alone; write auth_methods: [bearer]")
	}
	for _, name := range []string{"consumer_claim"} {
		if len(c.texts(name)) > 1 {
			p.refuse(name, "has an option that can not be honoured: it names the path of a nested claim; name one claim")
		}
	}
}

func writeOIDC(p *plugin, into config.Tree) {
	c := &p.config
	issuer := strings.TrimSuffix(c.text("issuer"), "/.well-known/openid-configuration")
	made := config.NewMap(c.tree).Set("issuer", config.NewText(c.at("issuer"), issuer))
	c.copyTo(made, "audience_required", "audience")
	if claim := c.texts("consumer_claim"); len(claim) == 1 {
		made.Set("consumer_claim", config.NewText(c.at("consumer_claim"), claim[0]))
	}
	if n := c.integer("leeway"); n > 0 {
		made.Set("leeway", config.NewWord(c.at("leeway"), milliseconds(n*1000)))
	}
	p.consumerNamed(made)
	into.Set("jwt", made)
	if scopes := c.list("scopes_required"); len(scopes) > 0 {
		into.Set("authorize", config.NewMap(c.at("scopes_required")).Set("scopes", config.NewList(c.at("scopes_required"), scopes...)))
	}
}

func writeKeyAuth(p *plugin, into config.Tree) {
	c := &p.config
	names := config.NewTexts(c.at("key_names"), c.texts("key_names")...)
	none := config.NewTexts(c.at("key_in_header"))
	made := config.NewMap(c.tree).Set("header", names)
	if !c.yes("key_in_header") {
		made.Set("header", none)
	}
	if c.yes("key_in_query") {
		made.Set("query", names)
	}
	made.Set("hide", config.NewWord(c.at("hide_credentials"), c.yes("hide_credentials")))
	p.consumerNamed(made)
	into.Set("api_key", made)
}

func writeCredential(policy string) func(p *plugin, into config.Tree) {
	return func(p *plugin, into config.Tree) {
		made := config.NewMap(p.config.tree).Set("hide", config.NewWord(p.config.at("hide_credentials"), p.config.yes("hide_credentials")))
		p.consumerNamed(made)
		into.Set(policy, made)
	}
}

func writeHMAC(p *plugin, into config.Tree) {
	writeCredential("hmac_auth")(p, into)
	c := &p.config
	made := into.Get("hmac_auth")
	made.Set("algorithms", config.NewTexts(c.at("algorithms"), c.texts("algorithms")...)).
		Set("signed_headers", config.NewTexts(c.at("enforce_headers"), c.texts("enforce_headers")...)).
		Set("clock_skew", config.NewWord(c.at("clock_skew"), milliseconds(int(c.number("clock_skew")*1000)))).
		Set("replay_protection", config.NewWord(c.tree, false))
	if c.yes("validate_request_body") {
		made.Set("validate_body", config.NewWord(c.at("validate_request_body"), true))
	}
}

func writeCORS(p *plugin, into config.Tree) {
	c := &p.config
	made := config.NewMap(c.tree)
	origins := config.NewList(c.at("origins"))
	any := len(c.list("origins")) == 0
	for _, item := range c.list("origins") {
		origin := item.Text()
		u, err := url.Parse(origin)
		switch {
		case origin == "*":
			any = true
		case origin == "null", err == nil && u.Scheme != "" && u.Host != "" && (u.Path == "" || u.Path == "/") && !strings.ContainsAny(origin, "*^$()[]\\?+"):
			origins.Append(item)
		default:
			if _, err := regexp.Compile("^(?:" + origin + ")$"); err != nil {
				p.t.fail(item, c.where("origins"), "%q is neither an origin nor a regular expression that runs in linear time (RE2)", origin)
			}
			origins.Append(config.NewText(item, "~"+origin))
		}
	}
	switch {
	case any && c.yes("credentials"):
		// Kong answers with the origin that asks.
		origins = config.NewTexts(c.at("origins"), "~.*")
		p.t.remark(c.at("credentials"), c.where("credentials"), "%s lets every site act with the credentials of its visitors, as Kong does; list the origins", p.label())
	case any:
		origins = config.NewTexts(c.at("origins"), "*")
	}
	made.Set("origins", origins)
	made.Set("methods", config.NewTexts(c.at("methods"), c.texts("methods")...))
	c.copyTo(made, "headers", "headers")
	c.copyTo(made, "exposed_headers", "expose")
	if c.yes("credentials") {
		made.Set("credentials", config.NewWord(c.at("credentials"), true))
	}
	if c.has("max_age") {
		made.Set("max_age", config.NewWord(c.at("max_age"), strconv.Itoa(c.integer("max_age"))+"s"))
	}
	if c.yes("private_network") {
		made.Set("private_network", config.NewWord(c.at("private_network"), true))
	}
	into.Set("cors", made)
}

func endTermination(p *plugin, into config.Tree) {
	c := &p.config
	status := c.integer("status_code")
	body, contentType := c.text("body"), "application/json; charset=utf-8"
	if c.has("content_type") {
		contentType = c.text("content_type")
	}
	if !c.has("body") {
		message := c.text("message")
		if message == "" {
			message = map[int]string{401: "Unauthorized", 404: "Not found", 405: "Method not allowed", 500: "An unexpected error occurred", 502: "Bad Gateway", 503: "Service unavailable"}[status]
		}
		if message != "" {
			body = `{"message":` + quoted(message) + `}`
		}
	}
	if status == 204 || status == 304 || status == 205 {
		body = ""
	}
	into.Set("respond", respond(c.tree, status, contentType, body))
}

// quoted is a text in JSON, as Kong writes it: a slash is escaped.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\' || r == '/':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

var kongTemplate = regexp.MustCompile(`\$\(\s*(headers|query_params|uri_captures)(?:\.([A-Za-z0-9_]+)|\[\s*(?:"([^"]+)"|'([^']+)'|([0-9]+))\s*\])\s*\)`)

// template turns $(headers.x) into ${header.x}. What it does not understand is said in problem.
func template(value string) (native, problem string) {
	if strings.Contains(value, "${") {
		return "", "has a value that can not be honoured: ${ begins a template here"
	}
	native = kongTemplate.ReplaceAllStringFunc(value, func(s string) string {
		m := kongTemplate.FindStringSubmatch(s)
		name := m[2] + m[3] + m[4] + m[5]
		switch m[1] {
		case "headers":
			return "${header." + strings.ReplaceAll(name, "_", "-") + "}"
		case "query_params":
			return "${query." + name + "}"
		}
		return "${path." + name + "}"
	})
	if i := strings.Index(native, "$("); i >= 0 {
		end := strings.IndexByte(native[i:], ')')
		if end < 0 {
			end = len(native) - i - 1
		}
		return "", fmt.Sprintf("has a template that can not be honoured: %s; there are $(headers.NAME), $(query_params.NAME) and $(uri_captures.NAME)", native[i:i+end+1])
	}
	return native, ""
}

var steps = []string{"remove", "rename", "replace", "add", "append"}

// isBody tells the parts of a transformation that are about JSON.
func isBody(part string) bool { return part == "body" || part == "json" }

func checkTransform(p *plugin) {
	forms := false
	for _, step := range steps {
		b := p.config.sub(step, p.cannotOption)
		for _, part := range []string{"headers", "querystring", "body", "json"} {
			if b.describe(part) == nil {
				continue
			}
			if isBody(part) && len(b.list(part)) > 0 {
				forms = true
				if step == "append" {
					p.cannot(b.at(part), b.where(part), "has an option that can not be honoured: a value that is no list would stay as it is, where Kong makes a list of both")
				}
			}
			for i, item := range b.list(part) {
				name, value, ok := strings.Cut(item.Text(), ":")
				at := element(b.where(part), i)
				switch {
				case step == "remove":
				case !ok || name == "":
					p.t.fail(item, at, "%q is no pair; write NAME:VALUE", item.Text())
				case step != "rename" && part != "json":
					if _, problem := template(value); problem != "" {
						p.cannot(item, at, problem)
					}
				case strings.Contains(value, "${"):
					p.cannot(item, at, "has a value that can not be honoured: ${ begins a template here")
				}
				if _, problem := template(name); problem != "" || strings.Contains(name, "$(") {
					p.cannot(item, at, "has a name that is a template, which can not be honoured")
				}
			}
		}
		if b.describe("json_types") != nil {
			p.checkTypes(&b)
		}
	}
	if forms && p.text("name") == "request-transformer" {
		p.t.remarkOnce(p.tree, p.path, "%s changes bodies of JSON; forms pass as they are, which Kong changes too", p.label())
	}
}

// checkTypes holds values to the types that are written for them.
func (p *plugin) checkTypes(b *block) {
	kinds := b.texts("json_types")
	if n := len(b.list("json")); len(kinds) > 0 && len(kinds) != n {
		b.fail("json_types", "there are %d types for %d values; write one for each", len(kinds), n)
		return
	}
	for i, kind := range kinds {
		_, value, _ := strings.Cut(b.list("json")[i].Text(), ":")
		if _, err := strconv.ParseFloat(strings.TrimSpace(value), 64); kind == "number" && err != nil {
			p.t.fail(b.list("json")[i], element(b.where("json"), i), "%q is no number", value)
		}
	}
}

func writeTransform(policy string, parts map[string]string) func(p *plugin, into config.Tree) {
	return func(p *plugin, into config.Tree) {
		made := config.NewMap(p.config.tree)
		bodies := false
		for _, step := range steps {
			b := p.t.quietly(func() block { return p.config.sub(step, func(config.Tree, string, string) {}) })
			written := config.NewMap(p.config.at(step))
			for _, part := range []string{"headers", "querystring", "body", "json"} {
				native, ok := parts[part]
				if !ok || b.describe(part) == nil || len(b.list(part)) == 0 {
					continue
				}
				if isBody(part) {
					bodies = true
					written.Set(native, p.members(step, &b, part))
					continue
				}
				written.Set(native, pairs(step, b.list(part), b.at(part)))
			}
			if written.Len() > 0 {
				made.Set(step, written)
			}
		}
		if bodies {
			// Kong has no bound on bodies, and passes on what it can not read.
			made.Set("max_body", config.NewWord(p.config.tree, "64MiB"))
			if policy == "response_transform" {
				made.Set("unreadable", config.NewWord(p.config.tree, "pass"))
			}
		}
		if made.Len() > 0 {
			into.Set(policy, made)
		}
	}
}

// members writes what happens to members of JSON.
func (p *plugin) members(step string, b *block, part string) config.Tree {
	dots := p.config.describe("dots_in_keys") == nil || p.config.yes("dots_in_keys")
	var kinds []string
	if b.describe("json_types") != nil {
		kinds = b.texts("json_types")
	}
	if step == "remove" {
		list := config.NewList(b.at(part))
		for _, item := range b.list(part) {
			list.Append(config.NewText(item, member(item.Text(), dots)))
		}
		return list
	}
	made := config.NewMap(b.at(part))
	for i, item := range b.list(part) {
		name, value, _ := strings.Cut(item.Text(), ":")
		if name = member(strings.TrimSpace(name), dots); made.Get(name).Is() {
			continue // of several that set one the first counts
		}
		switch {
		case step == "rename":
			made.Set(name, config.NewText(item, strings.TrimSpace(value)))
		case i < len(kinds) && kinds[i] == "number":
			made.Set(name, config.NewWord(item, strings.TrimSpace(value)))
		case i < len(kinds) && kinds[i] == "boolean":
			made.Set(name, config.NewWord(item, value == "true"))
		case part == "json":
			made.Set(name, config.NewText(item, value))
		default:
			native, _ := template(value)
			made.Set(name, config.NewText(item, native))
		}
	}
	return made
}

// member is the native path of a member: its name, or with dots the way to it.
func member(name string, whole bool) string {
	if !whole && !strings.ContainsAny(name, "[]\"$") || !strings.ContainsAny(name, ".[]\"$*") {
		return name
	}
	return "[" + strconv.Quote(name) + "]"
}

// quietly does something a second time without telling of it again.
func (t *translation) quietly(f func() block) block {
	notes, errs := t.o.Notes, t.errs
	t.o.Notes = nil
	b := f()
	t.o.Notes, t.errs = notes, errs
	return b
}

func pairs(step string, items []config.Tree, at config.Tree) config.Tree {
	if step == "remove" {
		return config.NewList(at, items...)
	}
	made := config.NewMap(at)
	for _, item := range items {
		name, value, _ := strings.Cut(item.Text(), ":")
		name = strings.TrimSpace(name)
		if step == "rename" {
			made.Set(name, config.NewText(item, strings.TrimSpace(value)))
			continue
		}
		native, _ := template(value)
		one := config.NewText(item, native)
		// Of several that set one name the first counts, but all that append.
		have := made.Get(name)
		switch {
		case !have.Is():
			made.Set(name, one)
		case step == "append" && have.List():
			have.Append(one)
		case step == "append":
			made.Set(name, config.NewList(have, have, one))
		}
	}
	return made
}

func checkCache(p *plugin) {
	c := &p.config
	if !c.has("strategy") {
		c.fail("strategy", "strategy is missing; write memory")
	}
	for _, m := range c.texts("request_method") {
		if m != "GET" && m != "HEAD" {
			p.refuse("request_method", "has an option that can not be honoured: answers to %s are not stored; choose GET and HEAD", m)
		}
	}
	for i, code := range c.texts("response_code") {
		if n, err := strconv.Atoi(code); err != nil || n < 100 || n > 900 {
			p.t.fail(c.at("response_code"), element(c.where("response_code"), i), "%q is no status", code)
		} else if n < 200 || n > 599 || n == 206 || n == 304 {
			p.refuse("response_code", "has an option that can not be honoured: answers with status %d are not stored", n)
		}
	}
	for _, kind := range c.texts("content_type") {
		if family, sub, ok := strings.Cut(kind, "/"); !ok || family == "" || sub == "" {
			c.fail("content_type", "%q is no media type; write application/json", kind)
		}
	}
	if headers := c.sub("response_headers", func(at config.Tree, path, why string) { p.cannot(at, path, "has an option that "+why) }); headers.tree.Is() {
		return
	}
}

func writeCache(p *plugin, into config.Tree) {
	c := &p.config
	statuses := config.NewList(c.at("response_code"))
	for _, item := range c.list("response_code") {
		statuses.Append(config.NewWord(item, item.Text()))
	}
	made := config.NewMap(c.tree).
		Set("ttl", config.NewWord(c.at("cache_ttl"), milliseconds(c.integer("cache_ttl")*1000))).
		Set("methods", config.NewTexts(c.at("request_method"), c.texts("request_method")...)).
		Set("statuses", statuses).
		Set("content_types", config.NewTexts(c.at("content_type"), c.texts("content_type")...)).
		Set("respect_origin", config.NewWord(c.at("cache_control"), c.yes("cache_control"))).
		Set("headers", config.NewWord(c.tree, "kong"))
	c.copyTo(made, "vary_headers", "vary")
	into.Set("cache", made)
}
