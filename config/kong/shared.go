package kong

import (
	"net"
	"strconv"

	"sluice/config"
)

// Counts that gateways share through Redis. Kong lets every plugin have its own; here there is one for everything.

// redisFields are the settings of a Redis, as they stand in the block redis.
var redisFields = []field{
	{name: "host", kind: text, to: "`state.redis.addresses`"}, {name: "port", kind: integer, preset: "6379", min: 1, max: 65535, to: "`state.redis.addresses`"},
	{name: "timeout", kind: integer, preset: "2000", min: 1, max: 2147483646, to: "`state.redis.timeout`, at most 10s"},
	{name: "username", kind: text, to: "`state.redis.username`"}, {name: "password", kind: text, to: "`state.redis.password`"},
	{name: "database", kind: integer, preset: "0", max: 65535, to: "`state.redis.db`"},
	{name: "ssl", kind: boolean, preset: "false", to: "`state.redis.tls`"}, {name: "ssl_verify", kind: boolean, preset: "false", to: "`state.redis.tls.insecure_skip_verify`"},
	{name: "server_name", kind: text, to: "`state.redis.tls.server_name`"},
}

// sharedOptions are the options of a plugin whose counts may be shared.
func sharedOptions() []field {
	all := []field{{name: "redis", kind: record, sub: redisFields, elsewhere: true, to: "`state.redis`, with `policy: redis`"}}
	for _, f := range redisFields {
		f.name, f.to = "redis_"+f.name, "older than `redis."+f.name+"`"
		all = append(all, f)
	}
	return all
}

// redis is the Redis of a plugin.
type redis struct {
	address, username, password, serverName string
	timeout, database                       int // milliseconds
	ssl, verify                             bool
	tolerant                                bool // requests pass while it is gone
}

// sharing finds the Redis through which plugins count: it is one for all of them, or there is none.
func (t *translation) sharing(all []*plugin) []*plugin {
	kept := all[:0]
	var first *plugin
	for _, p := range all {
		if p.def.name == "rate-limiting" {
			switch {
			case first == nil:
				first = p
			case p.config.text("policy") != first.config.text("policy"):
				p.refuse("policy", "has an option that can not be honoured: limits are shared all or none, and %s at %s has another policy", first.label(), first.path)
			case p.config.text("policy") == "redis" && p.redis() != first.redis():
				p.refuse("redis", "has an option that can not be honoured: there is one Redis for all that is shared, and one answer to its loss; write here what %s at %s has", first.label(), first.path)
			}
			if len(p.unhonoured) > 0 {
				t.giveUp(p)
				continue
			}
		}
		kept = append(kept, p)
	}
	return kept
}

// redis are the settings as they stand, in whichever form.
func (p *plugin) redis() redis {
	f := func(name string) string { _, _, text := p.redisField(name); return text }
	n := func(name string) int { n, _ := strconv.Atoi(f(name)); return n }
	return redis{
		address: net.JoinHostPort(f("host"), f("port")), username: f("username"), password: f("password"), serverName: f("server_name"),
		timeout: n("timeout"), database: n("database"), ssl: f("ssl") == "true", verify: f("ssl_verify") == "true", tolerant: p.config.yes("fault_tolerant"),
	}
}

// redisField is a setting, with its place.
func (p *plugin) redisField(name string) (at config.Tree, path, text string) {
	c := &p.config
	if c.has("redis") {
		nested := p.t.quietly(func() block { return c.sub("redis", func(config.Tree, string, string) {}) })
		if nested.has(name) || !c.has("redis_"+name) {
			return nested.at(name), nested.where(name), nested.text(name)
		}
	}
	return c.at("redis_" + name), c.where("redis_" + name), c.text("redis_" + name)
}

// checkRedis finds what is wrong with the settings of a Redis.
func (p *plugin) checkRedis() {
	if p.config.has("redis") {
		p.config.sub("redis", p.cannotOption)
	}
	if p.config.text("policy") != "redis" {
		return
	}
	if at, path, host := p.redisField("host"); host == "" {
		p.t.fail(at, path, "counts are shared through a Redis; write redis: {host: redis.internal}")
	}
}

// state is the block for what gateways share, if a plugin wants it.
func (t *translation) state() config.Tree {
	for _, p := range t.plugins {
		if p.def.name != "rate-limiting" || p.config.text("policy") != "redis" {
			continue
		}
		r, at := p.redis(), p.config.at("policy")
		place := func(name string) config.Tree { at, _, _ := p.redisField(name); return at }
		made := config.NewMap(at).Set("addresses", config.NewTexts(place("host"), r.address))
		for _, s := range []struct{ kong, native, text string }{{"username", "username", r.username}, {"password", "password", r.password}} {
			if s.text != "" {
				made.Set(s.native, config.NewText(place(s.kong), s.text))
			}
		}
		if r.database != 0 {
			made.Set("db", config.NewWord(place("database"), r.database))
		}
		if r.ssl {
			tls := config.NewMap(place("ssl"))
			if !r.verify {
				tls.Set("insecure_skip_verify", config.NewWord(place("ssl_verify"), true))
			}
			if r.serverName != "" {
				tls.Set("server_name", config.NewText(place("server_name"), r.serverName))
			}
			if tls.Len() == 0 {
				tls = config.NewWord(place("ssl"), "on")
			}
			made.Set("tls", tls)
		}
		onFailure := "deny"
		if r.tolerant {
			onFailure = "allow"
		}
		made.Set("timeout", config.NewWord(place("timeout"), milliseconds(min(r.timeout, 10000)))).
			Set("on_failure", config.NewWord(p.config.at("fault_tolerant"), onFailure))
		return config.NewMap(at).Set("redis", made)
	}
	return config.Tree{}
}
