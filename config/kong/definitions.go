package kong

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"sluice/config"
)

// definition is a plugin of Kong: its options, and what it becomes.
type definition struct {
	name     string
	options  []field
	policies []string // the native ones it becomes
	to       string   // for people
	fate     fate
	// noConsumer: it can not act on consumers.
	noConsumer bool
	// check finds what only the options together tell.
	check func(p *plugin)
	// write adds its policies to those of a place; end writes the action of a route.
	write, end func(p *plugin, into config.Tree)
	// log adds to what is logged at a place, to its block or to the list of outputs.
	log func(p *plugin, into, outputs config.Tree)
}

// enterprise are plugins that people may have and that are not those of the open gateway, or run code.
var enterprise = []string{
	"rate-limiting-advanced", "proxy-cache-advanced", "request-transformer-advanced", "response-transformer-advanced", "key-auth-enc", "mtls-auth", "opa", "canary",
	"graphql-proxy-cache-advanced", "graphql-rate-limiting-advanced", "jwt-signer", "oauth2-introspection", "ldap-auth-advanced", "mocking", "degraphql", "exit-transformer",
	"forward-proxy", "kafka-log", "kafka-upstream", "request-validator", "route-by-header", "route-transformer-advanced", "tls-handshake-modifier", "tls-metadata-headers",
	"upstream-timeout", "vault-auth", "websocket-size-limit", "websocket-validator", "xml-threat-protection", "json-threat-protection", "saml", "konnect-application-auth",
	"pre-function", "post-function", "serverless-functions",
}

var anonymousOption = field{name: "anonymous", kind: text, fate: kept, to: "`anonymous`"}

var preflightOption = field{name: "run_on_preflight", kind: boolean, preset: "true", to: "`routes.*.kong.preflight`"}

var hideOption = field{name: "hide_credentials", kind: boolean, preset: "false", to: "`hide`"}

func realmOption(preset string) field {
	return field{name: "realm", kind: text, preset: preset, to: "`routes.*.kong.realm`"}
}

// redisOptions are those of a plugin whose counts are not shared.
var redisOptions = []field{
	{name: "redis", kind: anything, fate: inert, to: "the policy is local"}, {name: "redis_host", kind: anything, fate: inert}, {name: "redis_port", kind: anything, fate: inert},
	{name: "redis_password", kind: anything, fate: inert}, {name: "redis_username", kind: anything, fate: inert}, {name: "redis_ssl", kind: anything, fate: inert},
	{name: "redis_ssl_verify", kind: anything, fate: inert}, {name: "redis_server_name", kind: anything, fate: inert}, {name: "redis_timeout", kind: anything, fate: inert},
	{name: "redis_database", kind: anything, fate: inert},
}

var windows = []string{"second", "minute", "hour", "day", "month", "year"}

func windowOptions() []field {
	var all []field
	for _, w := range windows {
		all = append(all, field{name: w, kind: number, min: 0, to: "`rate_limit[].requests` with `window: " + w + "`"})
	}
	return all
}

func transformOptions(parts []field, uri bool) []field {
	var all []field
	for _, step := range []string{"remove", "rename", "replace", "add", "append"} {
		sub := slices.Clone(parts)
		if uri && step == "replace" {
			sub = append(sub, field{name: "uri", kind: text, fate: refused, to: "write the path into the service's, or a route of its own"})
		}
		all = append(all, field{name: step, kind: record, sub: sub})
	}
	return all
}

var definitions = []definition{
	{
		name: "rate-limiting", policies: []string{"rate_limit"}, to: "`rate_limit` with clock-aligned `window`s",
		options: with(append(windowOptions(), sharedOptions()...),
			field{name: "limit_by", kind: text, preset: "consumer", enum: []string{"consumer", "credential", "ip", "service", "header", "path", "consumer-group"}, to: "`by`; credential, path and consumer-group are refused, and service where the plugin is global"},
			field{name: "header_name", kind: text, to: "`by: header:NAME`"},
			field{name: "path", kind: text, fate: refused, to: "requests are not counted by one path; put the plugin on a route"},
			field{name: "policy", kind: text, preset: "local", enum: []string{"local", "cluster", "redis"}, to: "redis becomes `state.redis` and `mode: strict`; cluster is refused"},
			field{name: "fault_tolerant", kind: boolean, preset: "true", to: "`state.redis.on_failure`: allow, or deny with 503"},
			field{name: "sync_rate", kind: number, preset: "-1", min: -1, to: "with `policy: redis` more than 0 is `mode: leased`: no request waits for Redis"},
			field{name: "hide_client_headers", kind: boolean, preset: "false", to: "`headers: off`"},
			field{name: "error_code", kind: integer, preset: "429", min: 400, max: 599, to: "`routes.*.kong.errors.rate_limited.status`"},
			field{name: "error_message", kind: text, preset: "API rate limit exceeded", to: "`routes.*.kong.errors.rate_limited.message`"},
		),
		check: checkRateLimit, write: writeRateLimit,
	},
	{
		name: "response-ratelimiting", policies: []string{"response_rate_limit"}, to: "`response_rate_limit`",
		options: with(redisOptions,
			field{name: "limits", kind: anything, to: "`limits`"},
			field{name: "header_name", kind: text, preset: "x-kong-limit", to: "`header`"},
			field{name: "limit_by", kind: text, preset: "consumer", enum: []string{"consumer", "credential", "ip"}, to: "`by`; credential is refused"},
			field{name: "policy", kind: text, preset: "local", enum: []string{"local", "cluster", "redis"}, to: "local alone: counts are not shared between gateways"},
			field{name: "fault_tolerant", kind: boolean, preset: "true", fate: inert},
			field{name: "block_on_first_violation", kind: boolean, preset: "false", to: "`block_on_first`"},
			field{name: "hide_client_headers", kind: boolean, preset: "false", to: "`headers: false`"},
		),
		check: checkResponseRateLimit, write: writeResponseRateLimit,
	},
	{
		name: "jwt", policies: []string{"jwt"}, noConsumer: true, to: "`jwt` with the consumers' keys; without any consumer with SLUICE_JWT_SECRET or SLUICE_JWT_JWKS_URL",
		options: []field{
			{name: "uri_param_names", kind: texts, preset: "jwt", to: "`from.query`"}, {name: "cookie_names", kind: texts, to: "`from.cookie`"}, {name: "header_names", kind: texts, preset: "authorization", to: "`from.header`"},
			{name: "key_claim_name", kind: text, preset: "iss", fate: refused, to: "tokens name their key by the claim iss, and not in their head"},
			{name: "secret_is_base64", kind: boolean, preset: "false", to: "`consumers.*.jwt[].secret_base64`"},
			{name: "claims_to_verify", kind: texts, enum: []string{"exp", "nbf"}, fate: kept, to: "`claims_to_verify`, with `check_unlisted: false`"},
			{name: "maximum_expiration", kind: number, preset: "0", max: 31536000, to: "`max_lifetime`"},
			anonymousOption, preflightOption, realmOption(""),
		},
		check: checkJWT, write: writeJWT,
	},
	{
		name: "openid-connect", policies: []string{"jwt", "authorize"}, noConsumer: true, to: "`jwt` with `issuer`: bearer tokens alone",
		options: []field{
			{name: "issuer", kind: text, fate: kept, to: "`issuer`"},
			{name: "auth_methods", kind: texts, preset: "", to: "bearer alone, without sessions"},
			{name: "bearer_token_param_type", kind: texts, preset: "header", fate: refused, to: "tokens come in the header Authorization"},
			{name: "audience_required", kind: texts, was: []string{"audience"}, to: "`audience`"}, {name: "audience_claim", kind: texts, preset: "aud", fate: refused},
			{name: "scopes_required", kind: texts, to: "`authorize.scopes`"}, {name: "scopes_claim", kind: texts, preset: "scope", fate: refused},
			{name: "consumer_claim", kind: texts, to: "`consumer_claim`"}, {name: "consumer_by", kind: texts, preset: "username,custom_id", fate: inert},
			{name: "consumer_optional", kind: boolean, preset: "false", fate: inert, to: "a subject need not be a consumer"},
			{name: "leeway", kind: integer, preset: "0", to: "`leeway`"}, {name: "ssl_verify", kind: boolean, preset: "true", fate: inert, to: "the provider's certificate is always verified"},
			{name: "client_id", kind: texts, fate: inert}, {name: "client_secret", kind: texts, fate: inert}, {name: "scopes", kind: texts, fate: inert},
			{name: "logout_methods", kind: texts, fate: inert}, {name: "cache_ttl", kind: integer, fate: inert},
			anonymousOption,
		},
		check: checkOIDC, write: writeOIDC,
	},
	{
		name: "key-auth", policies: []string{"api_key"}, noConsumer: true, to: "`api_key`",
		options: []field{
			{name: "key_names", kind: texts, preset: "apikey", to: "`header` and `query`"}, {name: "key_in_header", kind: boolean, preset: "true", to: "`header`"}, {name: "key_in_query", kind: boolean, preset: "true", to: "`query`"},
			{name: "key_in_body", kind: boolean, preset: "false", fate: refused, to: "keys are not looked for in bodies"},
			hideOption, anonymousOption, preflightOption, realmOption(""),
			{name: "identity_realms", kind: anything, fate: inert},
		},
		check: func(p *plugin) {
			if !p.config.yes("key_in_header") && !p.config.yes("key_in_query") {
				p.refuse("key_in_header", "looks for keys nowhere; write key_in_header: true or key_in_query: true")
			}
		},
		write: writeKeyAuth,
	},
	{
		name: "basic-auth", policies: []string{"basic_auth"}, noConsumer: true, to: "`basic_auth`",
		options: []field{hideOption, anonymousOption, preflightOption, realmOption("service")},
		write:   writeCredential("basic_auth"),
	},
	{
		name: "hmac-auth", policies: []string{"hmac_auth"}, noConsumer: true, to: "`hmac_auth`, without protection against replays, as in Kong",
		options: []field{
			hideOption, anonymousOption, preflightOption, realmOption(""),
			{name: "clock_skew", kind: number, preset: "300", min: 1, max: 86400, fate: kept, to: "`clock_skew`"},
			{name: "validate_request_body", kind: boolean, preset: "false", to: "`validate_body`"},
			{name: "enforce_headers", kind: texts, to: "`signed_headers`"},
			{name: "algorithms", kind: texts, preset: "hmac-sha1,hmac-sha256,hmac-sha384,hmac-sha512", enum: []string{"hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "hmac-sha224"}, fate: kept, to: "`algorithms`; hmac-sha224 is refused"},
		},
		check: func(p *plugin) {
			if slices.Contains(p.config.texts("algorithms"), "hmac-sha224") {
				p.refuse("algorithms", "can not be honoured: hmac-sha224 is not known")
			}
		},
		write: writeHMAC,
	},
	{
		name: "acl", policies: []string{"authorize"}, to: "`authorize.groups`", noConsumer: true,
		options: []field{
			{name: "allow", kind: texts, was: []string{"whitelist"}, fate: kept, to: "`groups.allow`"}, {name: "deny", kind: texts, was: []string{"blacklist"}, fate: kept, to: "`groups.deny`"},
			{name: "hide_groups_header", kind: boolean, preset: "false", to: "`routes.*.kong.hide_groups`"},
			{name: "include_consumer_groups", kind: boolean, preset: "false", fate: refused, to: "groups are those of acls"}, {name: "always_use_authenticated_groups", kind: boolean, preset: "false", fate: inert},
		},
		check: exactlyOne("allow", "deny"),
		write: func(p *plugin, into config.Tree) {
			groups := config.NewMap(p.config.tree)
			p.config.copyTo(groups, "allow", "allow")
			p.config.copyTo(groups, "deny", "deny")
			into.Set("authorize", config.NewMap(p.config.tree).Set("groups", groups))
		},
	},
	{
		name: "ip-restriction", policies: []string{"ip_filter"}, to: "`ip_filter`",
		options: []field{
			{name: "allow", kind: texts, was: []string{"whitelist"}, fate: kept, to: "`allow`"}, {name: "deny", kind: texts, was: []string{"blacklist"}, fate: kept, to: "`deny`"},
			{name: "status", kind: integer, preset: "403", min: 200, max: 599, to: "`routes.*.kong.errors.address_not_allowed.status`"},
			{name: "message", kind: text, to: "`routes.*.kong.errors.address_not_allowed.message`"},
		},
		check: atLeastOne("allow", "deny"),
		write: func(p *plugin, into config.Tree) {
			made := config.NewMap(p.config.tree)
			p.config.copyTo(made, "allow", "allow")
			p.config.copyTo(made, "deny", "deny")
			into.Set("ip_filter", made)
		},
	},
	{
		name: "cors", policies: []string{"cors"}, noConsumer: true, to: "`cors`",
		options: []field{
			{name: "origins", kind: texts, to: "`origins`; one that is no origin is a pattern"},
			{name: "methods", kind: texts, preset: "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT", fate: kept, to: "`methods`"},
			{name: "headers", kind: texts, fate: kept, to: "`headers`"}, {name: "exposed_headers", kind: texts, to: "`expose`"},
			{name: "max_age", kind: number, max: 604800, fate: kept, to: "`max_age`"}, {name: "credentials", kind: boolean, preset: "false", fate: kept, to: "`credentials`"},
			{name: "private_network", kind: boolean, preset: "false", fate: kept, to: "`private_network`"},
			{name: "preflight_continue", kind: boolean, preset: "false", fate: refused, to: "preflight requests are answered here"},
			{name: "allow_origin_absent", kind: boolean, preset: "true", fate: inert, to: "an answer to a request without Origin has none of these headers, which no browser asks for"},
		},
		write: writeCORS,
	},
	{
		name: "bot-detection", policies: []string{"bot_filter"}, noConsumer: true, to: "`bot_filter` with a list of known bots; the list is Sluice's own, not Kong's word for word",
		options: []field{
			{name: "allow", kind: texts, was: []string{"whitelist"}, fate: kept, to: "`allow`"}, {name: "deny", kind: texts, was: []string{"blacklist"}, fate: kept, to: "`deny`"},
		},
		check: func(p *plugin) {
			for _, option := range []string{"allow", "deny"} {
				for _, pattern := range p.config.texts(option) {
					if _, err := regexp.Compile(pattern); err != nil {
						p.t.fail(p.config.at(option), p.config.where(option), "%q is no regular expression that runs in linear time (RE2)", pattern)
					}
				}
			}
		},
		write: func(p *plugin, into config.Tree) {
			made := config.NewMap(p.config.tree)
			p.config.copyTo(made, "allow", "allow")
			deny := config.NewList(p.config.at("deny"), p.config.list("deny")...)
			for _, bot := range bots {
				deny.Append(config.NewText(p.tree, bot))
			}
			into.Set("bot_filter", made.Set("deny", deny))
		},
	},
	{
		name: "request-size-limiting", policies: []string{"request_size"}, to: "`request_size`",
		options: []field{
			{name: "allowed_payload_size", kind: integer, preset: "128", min: 0, to: "`max`"},
			{name: "size_unit", kind: text, preset: "megabytes", enum: []string{"megabytes", "kilobytes", "bytes"}, to: "`max`; a kilobyte is 1024 bytes there, a megabyte 1024 of those"},
			{name: "require_content_length", kind: boolean, preset: "false", fate: refused, to: "a body of unknown length is counted as it comes"},
		},
		write: func(p *plugin, into config.Tree) {
			unit := map[string]string{"megabytes": "MiB", "kilobytes": "KiB", "bytes": ""}[p.config.text("size_unit")]
			into.Set("request_size", config.NewMap(p.config.tree).
				Set("max", config.NewWord(p.config.at("allowed_payload_size"), fmt.Sprint(p.config.integer("allowed_payload_size"))+unit)))
		},
	},
	{
		name: "request-termination", to: "the action `respond`, of a consumer `consumers.*.kong.terminate`",
		options: []field{
			{name: "status_code", kind: integer, preset: "503", min: 200, max: 599, fate: kept, to: "`respond.status`"}, {name: "message", kind: text, to: "`respond.body`"}, {name: "body", kind: text, fate: kept, to: "`respond.body`"},
			{name: "content_type", kind: text, fate: kept, to: "`respond.content_type`"},
			{name: "echo", kind: boolean, preset: "false", fate: refused, to: "a request is not shown to whoever sent it"}, {name: "trigger", kind: text, fate: refused, to: "a route ends in one way; make a route with the header as its condition"},
		},
		check: func(p *plugin) {
			if p.config.has("message") && p.config.has("body") {
				p.config.fail("message", "message and body exclude each other; keep one of them")
			}
			if (p.consumer != nil || p.group != nil) && p.scoped() {
				p.cannot(p.tree, p.path, "can not be honoured: it ends the requests of a consumer everywhere, or those of a route or a service")
			}
			if p.config.has("content_type") && !p.config.has("body") {
				p.config.fail("content_type", "it goes with body; write body, or leave it out")
			}
		},
		end: endTermination,
	},
	{
		name: "redirect", to: "the action `redirect`", noConsumer: true,
		options: []field{
			{name: "status_code", kind: integer, preset: "301", enum: []string{"301", "302", "303", "307", "308"}, fate: kept, to: "`redirect.status`"},
			{name: "location", kind: text, to: "`redirect.to`"}, {name: "keep_incoming_path", kind: boolean, preset: "false", to: "`${uri}` in `redirect.to`"},
		},
		check: func(p *plugin) {
			u, err := url.Parse(p.config.text("location"))
			if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
				p.config.fail("location", "%q is no URL; write https://host/path", p.config.text("location"))
			}
			if strings.Contains(p.config.text("location"), "${") {
				p.refuse("location", "has a value that can not be honoured: ${ begins a template here")
			}
		},
		end: func(p *plugin, into config.Tree) {
			to := p.config.text("location")
			if p.config.yes("keep_incoming_path") {
				u, _ := url.Parse(p.config.text("location"))
				to = u.Scheme + "://" + u.Host + "${uri}"
			}
			into.Set("redirect", config.NewMap(p.config.tree).
				Set("to", config.NewText(p.config.at("location"), to)).
				Set("status", config.NewWord(p.config.at("status_code"), p.config.integer("status_code"))))
		},
	},
	{
		name: "request-transformer", policies: []string{"request_transform"}, to: "`request_transform`; `$(headers.x)`, `$(query_params.x)` and `$(uri_captures.x)` become `${header.x}`, `${query.x}` and `${path.x}`",
		options: with(transformOptions([]field{
			{name: "headers", kind: texts, fate: kept, to: "`headers`"}, {name: "querystring", kind: texts, to: "`query`"},
			{name: "body", kind: texts, to: "`json`: bodies of JSON; forms stay as they are, which is said at the start, and a body that is malformed gets 400"},
		}, true),
			field{name: "http_method", kind: text, fate: refused, to: "the method of a request stays"},
			field{name: "dots_in_keys", kind: boolean, preset: "true", to: "names with dots in `json` are names, or with false ways"}),
		check: checkTransform, write: writeTransform("request_transform", map[string]string{"headers": "headers", "querystring": "query", "body": "json"}),
	},
	{
		name: "response-transformer", policies: []string{"response_transform"}, to: "`response_transform`",
		options: transformOptions([]field{
			{name: "headers", kind: texts, fate: kept, to: "`headers`"}, {name: "json", kind: texts, fate: kept, to: "`json`"}, {name: "json_types", kind: texts, enum: []string{"boolean", "number", "string"}, to: "the type of each value of `json`"},
		}, false),
		check: checkTransform, write: writeTransform("response_transform", map[string]string{"headers": "headers", "json": "json"}),
	},
	{
		name: "correlation-id", policies: []string{"correlation_id"}, to: "`correlation_id`", noConsumer: true,
		options: []field{
			{name: "header_name", kind: text, preset: "Kong-Request-ID", to: "`header`"},
			{name: "generator", kind: text, preset: "uuid#counter", enum: []string{"uuid", "uuid#counter", "tracker"}, fate: kept, to: "`generator`; tracker is refused"},
			{name: "echo_downstream", kind: boolean, preset: "false", to: "`echo`"},
		},
		check: func(p *plugin) {
			if p.config.text("generator") == "tracker" {
				p.refuse("generator", "can not be honoured: the generator tracker tells clients of addresses and processes; choose uuid or uuid#counter")
			}
		},
		write: func(p *plugin, into config.Tree) {
			made := config.NewMap(p.config.tree).Set("header", config.NewText(p.config.at("header_name"), p.config.text("header_name")))
			if g := p.config.text("generator"); g != "uuid" {
				made.Set("generator", config.NewText(p.config.at("generator"), g))
			}
			into.Set("correlation_id", made.Set("echo", config.NewWord(p.config.at("echo_downstream"), p.config.yes("echo_downstream"))))
		},
	},
	{
		name: "proxy-cache", policies: []string{"cache"}, to: "`cache` with `headers: kong`", noConsumer: true,
		options: []field{
			{name: "response_code", kind: texts, preset: "200,301,404", to: "`statuses`"}, {name: "request_method", kind: texts, preset: "GET,HEAD", enum: []string{"GET", "HEAD", "POST", "PATCH", "PUT"}, to: "`methods`; GET and HEAD"},
			{name: "content_type", kind: texts, preset: "text/plain,application/json", to: "`content_types`"}, {name: "cache_ttl", kind: integer, preset: "300", min: 1, to: "`ttl`"},
			{name: "strategy", kind: text, enum: []string{"memory"}, fate: kept, to: "memory"}, {name: "cache_control", kind: boolean, preset: "false", to: "`respect_origin`"},
			{name: "storage_ttl", kind: integer, fate: inert, to: "entries are stored for as long as they are fresh"},
			{name: "memory", kind: record, sub: []field{{name: "dictionary_name", kind: text, preset: "kong_db_cache", fate: inert}}},
			{name: "vary_headers", kind: texts, to: "`vary`"}, {name: "vary_query_params", kind: texts, fate: refused, to: "the whole query belongs to the key"},
			{name: "ignore_uri_case", kind: boolean, preset: "false", fate: refused, to: "paths that differ are different"},
			{name: "response_headers", kind: record, sub: []field{
				{name: "age", kind: boolean, preset: "true", fate: refused, to: "the headers are always sent"}, {name: "X-Cache-Status", kind: boolean, preset: "true", fate: refused, to: "the headers are always sent"}, {name: "X-Cache-Key", kind: boolean, preset: "true", fate: refused, to: "the headers are always sent"},
			}},
		},
		check: checkCache, write: writeCache,
	},
	{
		name: "prometheus", to: "metrics are always on, at `/metrics` of the admin listener, under Sluice's names", noConsumer: false,
		options: []field{
			{name: "per_consumer", kind: boolean, preset: "false", fate: inert}, {name: "status_code_metrics", kind: boolean, preset: "false", fate: inert}, {name: "ai_metrics", kind: boolean, preset: "false", fate: inert},
			{name: "latency_metrics", kind: boolean, preset: "false", fate: inert}, {name: "bandwidth_metrics", kind: boolean, preset: "false", fate: inert}, {name: "upstream_health_metrics", kind: boolean, preset: "false", fate: inert},
			{name: "wasm_metrics", kind: boolean, preset: "false", fate: inert},
		},
	},
	fileLog, httpLog, tcpLog, udpLog, syslogPlugin, openTelemetry, zipkinPlugin, grpcGateway, grpcWeb, acmePlugin,
	{name: "oauth2", fate: refused, to: "there is no OAuth 2.0 server here; use jwt or openid-connect"},
	{name: "ldap-auth", fate: refused, to: "there is no LDAP here; use forward_auth in a native configuration"},
	{name: "session", fate: refused, to: "there are no sessions here"},
	{name: "statsd", fate: refused, to: "metrics are read at /metrics"},
	{name: "datadog", fate: refused, to: "metrics are read at /metrics"},
	{name: "loggly", fate: refused, to: "write the access log to a file"},
	{name: "aws-lambda", fate: refused, to: "functions are called over HTTP"},
	{name: "azure-functions", fate: refused, to: "functions are called over HTTP"},
	{name: "standard-webhooks", fate: refused, to: "use hmac-auth"},
	{name: "ai-proxy", fate: refused, to: "there are no AI plugins here"},
}

// bots are the programs that bot-detection keeps out: those that call themselves robots, crawlers, spiders, scrapers or
// archivers, and well-known ones with other names.
var bots = []string{
	`(?i)(?:[^u]|[^c]u|^u?)bot(?:[^a-z]|$)`, // not the telephones of CUBOT
	`(?i)spider|crawl|scrap(?:e|y)|archiver|indexer`,
	`facebookexternalhit/|Google.*/\+/web/snippet|Mediapartners-Google|AppEngine-Google|Google-HTTP-Java-Client`,
	`(?i)slurp|ia_archiver|InternetArchive|heritrix|nutch|larbin|htdig|yacy|WordPress|SimplePie|Netvibes|WhatWeb|URL2PNG`,
	`Apache-HttpClient|Python-urllib|WinHTTP|HttpMonitor|TLSProber|JNLP`,
}
