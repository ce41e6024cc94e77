package kong

import (
	"net"
	"net/url"
	"strconv"

	"sluice/config"
)

// Plugins that log become one policy where they stand together: a policy for each place, which has to say also what those of the
// less specific places log, since the most specific block wins whole.

var luaOption = field{name: "custom_fields_by_lua", kind: lists, fate: refused, to: "there is no Lua"}

var queueOptions = []field{
	{name: "max_batch_size", kind: integer, preset: "1", min: 1, max: 1000000, to: "`batch`"},
	{name: "max_coalescing_delay", kind: number, preset: "1", fate: inert, to: "lines are sent within a second"},
	{name: "max_entries", kind: integer, preset: "10000", fate: inert, to: "4 MiB of lines may wait; what is too much is dropped and counted"}, {name: "max_bytes", kind: integer, fate: inert},
	{name: "max_retry_time", kind: number, preset: "60", fate: inert, to: "10 repetitions"}, {name: "initial_retry_delay", kind: number, preset: "0.01", fate: inert}, {name: "max_retry_delay", kind: number, preset: "60", fate: inert},
	{name: "concurrency_limit", kind: integer, preset: "1", fate: inert, to: "one request at a time"},
}

var fileLog = definition{
	name: "file-log", policies: []string{"access_log"}, to: "`access_log.path`, in Sluice's format",
	options: []field{
		{name: "path", kind: text, fate: kept, to: "`path`"}, {name: "reopen", kind: boolean, preset: "false", fate: inert, to: "SIGUSR1 opens it anew"}, luaOption,
	},
	check: wanting("path", "name a file"),
	log: func(p *plugin, into, _ config.Tree) {
		path := p.config.text("path")
		if to, ok := map[string]string{"/dev/stdout": "stdout", "/dev/stderr": "stderr"}[path]; ok {
			path = to
		}
		into.Set("path", config.NewText(p.config.at("path"), path)).Set("optional", config.NewWord(p.config.tree, true))
	},
}

var httpLog = definition{
	name: "http-log", policies: []string{"access_log"}, to: "the output `http` of `access_log`, in Sluice's format",
	options: []field{
		{name: "http_endpoint", kind: text, to: "`url`"}, {name: "method", kind: text, preset: "POST", enum: []string{"POST", "PUT", "PATCH"}, fate: kept, to: "`method`"},
		{name: "content_type", kind: text, preset: "application/json", enum: []string{"application/json", "application/json; charset=utf-8"}, fate: kept, to: "`content_type`"},
		{name: "headers", kind: anything, fate: kept, to: "`headers`"}, {name: "timeout", kind: number, preset: "10000", min: 10, max: 60000, to: "`timeout`"},
		{name: "queue", kind: record, sub: queueOptions},
		{name: "keepalive", kind: number, preset: "60000", fate: inert}, {name: "retry_count", kind: integer, fate: inert, to: "it has none in Kong either"},
		{name: "queue_size", kind: integer, fate: inert, to: "older than `queue`"}, {name: "flush_timeout", kind: number, fate: inert, to: "older than `queue`"}, luaOption,
	},
	check: func(p *plugin) {
		u, err := url.Parse(p.config.text("http_endpoint"))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			p.config.fail("http_endpoint", "this is no URL; write https://host/path")
		}
		if h := p.config.values["headers"]; h.Is() && !h.Map() {
			p.config.fail("headers", "found %s, want texts by name", h.Found())
		}
		p.config.sub("queue", p.cannotOption)
	},
	log: func(p *plugin, _, outputs config.Tree) {
		c := &p.config
		queue := p.t.quietly(func() block { return c.sub("queue", func(config.Tree, string, string) {}) })
		made := config.NewMap(c.tree).Set("url", config.NewText(c.at("http_endpoint"), c.text("http_endpoint")))
		if m := c.text("method"); m != "POST" {
			made.Set("method", config.NewText(c.at("method"), m))
		}
		if h := c.values["headers"]; h.Is() && h.Len() > 0 {
			made.Set("headers", h)
		}
		made.Set("encoding", config.NewWord(c.tree, "json")).
			Set("content_type", config.NewText(c.at("content_type"), c.text("content_type"))).
			Set("batch", config.NewWord(queue.at("max_batch_size"), min(queue.integer("max_batch_size"), 100000))).
			Set("timeout", config.NewWord(c.at("timeout"), milliseconds(c.integer("timeout")))).
			Set("retries", config.NewWord(c.tree, 10))
		outputs.Append(config.NewMap(c.tree).Set("http", made))
	},
}

var tcpLog = definition{
	name: "tcp-log", policies: []string{"access_log"}, to: "the output `tcp` of `access_log`, in Sluice's format",
	options: []field{
		{name: "host", kind: text, to: "`address`"}, {name: "port", kind: integer, min: 1, max: 65535, to: "`address`"},
		{name: "timeout", kind: number, preset: "10000", min: 10, max: 60000, to: "`timeout`"}, {name: "keepalive", kind: number, preset: "60000", fate: inert},
		{name: "tls", kind: boolean, preset: "false", to: "`address` with tls://; the certificate is not verified, as in Kong"}, {name: "tls_sni", kind: text, to: "`tls.server_name`"}, luaOption,
	},
	check: checkHostPort,
	log: func(p *plugin, _, outputs config.Tree) {
		c := &p.config
		address := net.JoinHostPort(c.text("host"), strconv.Itoa(c.integer("port")))
		made := config.NewMap(c.tree)
		if c.yes("tls") {
			secure := config.NewMap(c.at("tls"))
			if name := c.text("tls_sni"); name != "" {
				secure.Set("server_name", config.NewText(c.at("tls_sni"), name))
			}
			secure.Set("insecure_skip_verify", config.NewWord(c.at("tls"), true))
			made.Set("address", config.NewText(c.at("host"), "tls://"+address)).Set("tls", secure)
			p.t.remarkOnce(c.at("tls"), c.where("tls"), "%s does not verify whom it sends to, as in Kong", p.label())
		} else {
			made.Set("address", config.NewText(c.at("host"), address))
		}
		outputs.Append(config.NewMap(c.tree).Set("tcp", made.Set("timeout", config.NewWord(c.at("timeout"), milliseconds(c.integer("timeout"))))))
	},
}

var udpLog = definition{
	name: "udp-log", policies: []string{"access_log"}, to: "the output `udp` of `access_log`, in Sluice's format",
	options: []field{
		{name: "host", kind: text, to: "`address`"}, {name: "port", kind: integer, min: 1, max: 65535, to: "`address`"},
		{name: "timeout", kind: number, preset: "10000", fate: inert, to: "sending a datagram does not wait"}, luaOption,
	},
	check: checkHostPort,
	log: func(p *plugin, _, outputs config.Tree) {
		c := &p.config
		address := net.JoinHostPort(c.text("host"), strconv.Itoa(c.integer("port")))
		outputs.Append(config.NewMap(c.tree).Set("udp", config.NewText(c.at("host"), address)))
	},
}

var syslogSeverities = []string{"debug", "info", "notice", "warning", "err", "crit", "alert", "emerg"}

var syslogPlugin = definition{
	name: "syslog", policies: []string{"access_log"}, to: "the output `syslog` of `access_log` to /dev/log, in Sluice's format",
	options: []field{
		{name: "log_level", kind: text, preset: "info", enum: syslogSeverities, to: "`least`"},
		{name: "successful_severity", kind: text, preset: "info", enum: syslogSeverities, to: "`severity`"},
		{name: "client_errors_severity", kind: text, preset: "info", enum: syslogSeverities, to: "`client_errors`"},
		{name: "server_errors_severity", kind: text, preset: "info", enum: syslogSeverities, to: "`server_errors`"},
		{name: "facility", kind: text, preset: "user", enum: []string{"auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}, fate: kept, to: "`facility`"},
		luaOption,
	},
	log: func(p *plugin, _, outputs config.Tree) {
		c := &p.config
		made := config.NewMap(c.tree).Set("address", config.NewText(c.tree, "unix:///dev/log")).Set("header", config.NewWord(c.tree, "rfc3164"))
		for _, o := range [][2]string{{"facility", "facility"}, {"successful_severity", "severity"}, {"client_errors_severity", "client_errors"}, {"server_errors_severity", "server_errors"}, {"log_level", "least"}} {
			made.Set(o[1], config.NewText(c.at(o[0]), c.text(o[0])))
		}
		outputs.Append(config.NewMap(c.tree).Set("syslog", made.Set("app_name", config.NewText(c.tree, "kong"))))
	},
}

// wanting wants an option.
func wanting(option, what string) func(p *plugin) {
	return func(p *plugin) {
		if p.config.text(option) == "" {
			p.config.fail(option, "%s is missing; %s", option, what)
		}
	}
}

func checkHostPort(p *plugin) {
	wanting("host", "write the host to send to")(p)
	if !p.config.has("port") {
		p.config.fail("port", "port is missing; write the port to send to")
	}
}

// cannotOption is for options below an option that can not be honoured.
func (p *plugin) cannotOption(at config.Tree, path, why string) {
	p.cannot(at, path, "has an option that "+why)
}

// accessLog writes what is logged at a place, if a plugin stands there that logs.
func (t *translation) accessLog(s scope, into config.Tree) {
	if s.consumer != nil || s.group != nil {
		return
	}
	here := false
	outputs := config.NewList(t.document.at("plugins"))
	made := config.NewMap(t.document.at("plugins"))
	for i := range definitions {
		d := &definitions[i]
		if d.log == nil {
			continue
		}
		p := t.inForce(s, d.name)
		if p == nil {
			continue
		}
		here = here || p.at_(s)
		d.log(p, made, outputs)
	}
	if !here {
		return
	}
	if outputs.Len() > 0 {
		made.Set("outputs", outputs)
	}
	into.Set("access_log", made)
}

// inForce returns the plugin of a name that acts on all requests of a place.
func (t *translation) inForce(s scope, name string) *plugin {
	if s.route != nil {
		return t.forRoute(s.route, name)
	}
	var found *plugin
	for _, p := range t.plugins {
		if p.text("name") != name || p.consumer != nil || p.group != nil || p.route != nil {
			continue
		}
		if p.service == nil && found == nil || p.service != nil && p.service == s.service {
			found = p
		}
	}
	return found
}
