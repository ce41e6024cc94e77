package kong

// The entities of Kong 3.9 and their fields.

var (
	times = []field{
		{name: "created_at", kind: anything, fate: inert}, {name: "updated_at", kind: anything, fate: inert},
		{name: "tags", kind: texts, fate: inert}, {name: "ws_id", kind: text, fate: inert}, {name: "_comment", kind: anything, fate: inert}, {name: "_ignore", kind: anything, fate: inert},
	}
	anyReference = field{kind: anything, fate: mapped}
)

func with(fields []field, more ...field) []field {
	return append(append([]field{}, fields...), more...)
}

func reference(name, to string) field {
	f := anyReference
	f.name, f.to = name, to
	return f
}

var documentFields = []field{
	{name: "_format_version", kind: text, enum: nil, fate: mapped, to: "`compatibility: kong`; 1.1, 2.1 and 3.0"},
	{name: "_transform", kind: boolean, preset: "true", fate: mapped, to: "false says that passwords are hashed already, which is refused where there are any"},
	{name: "_comment", kind: anything, fate: inert}, {name: "_ignore", kind: anything, fate: inert},
	{name: "_info", kind: anything, fate: inert}, {name: "_workspace", kind: text, fate: inert},
	{name: "services", kind: records, to: "`services`"},
	{name: "routes", kind: records, to: "`routes`"},
	{name: "upstreams", kind: records, to: "the `endpoints` of the services whose host names them"},
	{name: "targets", kind: records, to: "`services.*.endpoints`"},
	{name: "consumers", kind: records, to: "`consumers`"},
	{name: "consumer_groups", kind: records, to: "their plugins become policies of their consumers"},
	{name: "consumer_group_consumers", kind: records, to: "membership"},
	{name: "plugins", kind: records, to: "`policies` where they are scoped to, or an action"},
	{name: "certificates", kind: records, to: "`listeners.secure.tls.certificates`"},
	{name: "snis", kind: records, to: "the names of a certificate are those in it"},
	{name: "ca_certificates", kind: records, to: "`services.*.tls.ca`"},
	{name: "keyauth_credentials", kind: records, to: "`consumers.*.api_keys`"},
	{name: "basicauth_credentials", kind: records, to: "`consumers.*.basic_auth`"},
	{name: "hmacauth_credentials", kind: records, to: "`consumers.*.hmac`"},
	{name: "jwt_secrets", kind: records, to: "`consumers.*.jwt`"},
	{name: "acls", kind: records, to: "`consumers.*.groups`"},
	{name: "oauth2_credentials", kind: records, fate: refused, to: "there is no OAuth 2.0 server here"},
	{name: "vaults", kind: records, fate: refused, to: "write ${NAME} or ${file:PATH}; {vault://env/NAME} is understood without a vault"},
	{name: "parameters", kind: records, fate: inert},
	{name: "_konnect", kind: anything, fate: inert},
}

var serviceFields = with(times,
	field{name: "id", kind: text, fate: mapped, to: "the name where there is none"},
	field{name: "name", kind: text, fate: kept, to: "`services.NAME`"},
	field{name: "url", kind: text, to: "`endpoints`, and `routes.*.kong.path`"},
	field{name: "protocol", kind: text, preset: "http", enum: []string{"http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "tls_passthrough", "ws", "wss"}, to: "`protocol`; http, https, grpc and grpcs"},
	field{name: "host", kind: text, to: "`endpoints`, those of the upstream of this name where there is one"},
	field{name: "port", kind: integer, preset: "80", max: 65535, to: "`endpoints`"},
	field{name: "path", kind: text, to: "`routes.*.kong.path`"},
	field{name: "retries", kind: integer, preset: "5", max: 32767, to: "`retries.attempts`, at most 10"},
	field{name: "connect_timeout", kind: integer, preset: "60000", min: 1, max: 2147483646, to: "`timeouts.connect`"},
	field{name: "write_timeout", kind: integer, preset: "60000", min: 1, max: 2147483646, to: "`limits.stall_timeout`, the largest of all"},
	field{name: "read_timeout", kind: integer, preset: "60000", min: 1, max: 2147483646, to: "`timeouts.response`, and `limits.stall_timeout`"},
	field{name: "enabled", kind: boolean, preset: "true", to: "false leaves it out, with its routes"},
	field{name: "client_certificate", kind: anything, to: "`tls.cert` and `tls.key`"},
	field{name: "tls_verify", kind: boolean, preset: "false", to: "`tls.insecure_skip_verify`, which is true without it, as in Kong"},
	field{name: "tls_verify_depth", kind: integer, fate: refused, to: "chains are verified whatever their length"},
	field{name: "ca_certificates", kind: texts, to: "`tls.ca`"},
	field{name: "tls_sans", kind: anything, fate: refused, to: "it is Kong Enterprise's"},
	field{name: "routes", kind: records, to: "`routes`"},
	field{name: "plugins", kind: records, to: "`services.*.policies`"},
)

var routeFields = with(times,
	field{name: "id", kind: text, fate: mapped, to: "the name where there is none"},
	field{name: "name", kind: text, fate: kept, to: "`routes.NAME`"},
	reference("service", "`service`; without one the answer is 503"),
	field{name: "protocols", kind: texts, preset: "http,https", enum: []string{"http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "tls_passthrough", "ws", "wss"}, to: "`kong.https_status` where it is https alone, `kong.calls` where it is for gRPC alone"},
	field{name: "https_redirect_status_code", kind: integer, preset: "426", enum: []string{"426", "301", "302", "307", "308"}, to: "`kong.https_status`"},
	field{name: "methods", kind: texts, fate: kept, to: "`match.methods`"},
	field{name: "hosts", kind: texts, fate: kept, to: "`match.hosts`"},
	field{name: "paths", kind: texts, fate: kept, to: "`match.paths`"},
	field{name: "headers", kind: lists, to: "`match.headers`; `~*regex` becomes `~regex`"},
	field{name: "snis", kind: texts, fate: kept, to: "`match.snis`"},
	field{name: "sources", kind: records, fate: refused, to: "routes are not chosen by address; use ip-restriction"},
	field{name: "destinations", kind: records, fate: refused, to: "routes are not chosen by address; use listeners"},
	field{name: "regex_priority", kind: integer, preset: "0", fate: kept, to: "`kong.regex_priority`"},
	field{name: "strip_path", kind: boolean, preset: "true", to: "`strip_prefix`; false by default for grpc and grpcs"},
	field{name: "path_handling", kind: text, preset: "v0", enum: []string{"v0", "v1"}, fate: kept, to: "`kong.path_handling`"},
	field{name: "preserve_host", kind: boolean, preset: "false", fate: kept, to: "`kong.preserve_host`"},
	field{name: "request_buffering", kind: boolean, preset: "true", to: "`streaming`"},
	field{name: "response_buffering", kind: boolean, preset: "true", fate: inert, to: "large answers are never buffered"},
	field{name: "expression", kind: text, fate: refused, to: "only the flavours traditional and traditional_compatible are understood; write paths, hosts and headers"},
	field{name: "priority", kind: integer, fate: refused, to: "it belongs to expressions"},
	field{name: "plugins", kind: records, to: "`routes.*.policies`"},
)

var targetFields = with(times,
	field{name: "id", kind: text, fate: inert},
	field{name: "target", kind: text, to: "`endpoints[].url`, port 8000 where none is written"},
	field{name: "weight", kind: integer, preset: "100", max: 65535, fate: kept, to: "`endpoints[].weight`"},
	field{name: "failover", kind: boolean, preset: "false", fate: refused, to: "it is Kong Enterprise's"},
	reference("upstream", "whose target it is"),
)

func checkFields(active bool) []field {
	where := "`outlier_detection`"
	if active {
		where = "`health_check`"
	}
	healthy := []field{
		{name: "http_statuses", kind: texts, fate: inert, to: "2xx is healthy"},
		{name: "successes", kind: integer, max: 255, to: where + ".healthy"},
	}
	unhealthy := []field{
		{name: "http_statuses", kind: texts, fate: inert, to: "5xx and everything but 2xx of a check is unhealthy"},
		{name: "http_failures", kind: integer, max: 255, to: where},
		{name: "tcp_failures", kind: integer, max: 255, to: where},
		{name: "timeouts", kind: integer, max: 255, to: where},
	}
	fields := []field{
		{name: "type", kind: text, preset: "http", enum: []string{"http", "https", "tcp", "grpc", "grpcs"}, to: "http and https; the others are refused"},
	}
	if active {
		interval := field{name: "interval", kind: number, preset: "0", max: 65535, to: "`health_check.interval`, the smaller of both"}
		healthy, unhealthy = append(healthy, interval), append(unhealthy, interval)
		fields = append(fields,
			field{name: "http_path", kind: text, preset: "/", to: "`health_check.path`"},
			field{name: "timeout", kind: number, preset: "1", max: 65535, to: "`health_check.timeout`"},
			field{name: "concurrency", kind: integer, preset: "10", fate: inert},
			field{name: "https_sni", kind: text, fate: refused, to: "checks ask for the name of the endpoint"},
			field{name: "https_verify_certificate", kind: boolean, preset: "true", fate: inert, to: "checks verify as requests do"},
			field{name: "headers", kind: lists, fate: refused, to: "checks have no headers of their own"},
		)
	}
	return append(fields, field{name: "healthy", kind: record, sub: healthy}, field{name: "unhealthy", kind: record, sub: unhealthy})
}

var upstreamFields = with(times,
	field{name: "id", kind: text, fate: mapped, to: "references"},
	field{name: "name", kind: text, to: "what a service's host names"},
	field{name: "algorithm", kind: text, preset: "round-robin", enum: []string{"round-robin", "consistent-hashing", "least-connections", "latency", "sticky-sessions"}, to: "`load_balancer.strategy`: round_robin, consistent_hash, least_request, peak_ewma"},
	field{name: "hash_on", kind: text, preset: "none", enum: []string{"none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"}, to: "`load_balancer.by`; uri_capture is refused"},
	field{name: "hash_fallback", kind: text, preset: "none", enum: []string{"none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"}, fate: inert, to: "requests without what is hashed are spread over all endpoints"},
	field{name: "hash_on_header", kind: text, to: "`load_balancer.by`"},
	field{name: "hash_fallback_header", kind: text, fate: inert},
	field{name: "hash_on_cookie", kind: text, to: "`load_balancer.by`; the cookie is not made"},
	field{name: "hash_on_cookie_path", kind: text, preset: "/", fate: inert},
	field{name: "hash_on_query_arg", kind: text, to: "`load_balancer.by`"},
	field{name: "hash_fallback_query_arg", kind: text, fate: inert},
	field{name: "hash_on_uri_capture", kind: text, fate: refused, to: "endpoints are not chosen by parts of a path"},
	field{name: "hash_fallback_uri_capture", kind: text, fate: inert},
	field{name: "slots", kind: integer, preset: "10000", min: 10, max: 65536, fate: inert},
	field{name: "host_header", kind: text, to: "`host`"},
	field{name: "client_certificate", kind: anything, to: "`tls.cert` and `tls.key`"},
	field{name: "use_srv_name", kind: boolean, preset: "false", fate: refused, to: "SRV records are not asked for"},
	field{name: "healthchecks", kind: record, sub: []field{
		{name: "threshold", kind: number, preset: "0", max: 100, fate: refused, to: "requests are spread over what is healthy, however little"},
		{name: "active", kind: record, sub: checkFields(true)},
		{name: "passive", kind: record, sub: checkFields(false)},
	}},
	field{name: "targets", kind: records, to: "`endpoints`"},
)

var consumerFields = with(times,
	field{name: "id", kind: text, fate: kept, to: "`kong.id`; without one it is made of the name, always the same"},
	field{name: "username", kind: text, to: "`consumers.NAME`, and `kong.username`"},
	field{name: "custom_id", kind: text, fate: kept, to: "`kong.custom_id`"},
	field{name: "type", kind: text, fate: inert},
	field{name: "username_lower", kind: text, fate: inert},
	field{name: "keyauth_credentials", kind: records, to: "`api_keys`"},
	field{name: "basicauth_credentials", kind: records, to: "`basic_auth`"},
	field{name: "hmacauth_credentials", kind: records, to: "`hmac`"},
	field{name: "jwt_secrets", kind: records, to: "`jwt`"},
	field{name: "acls", kind: records, to: "`groups`"},
	field{name: "groups", kind: records, to: "membership of consumer_groups, as decK writes it"},
	field{name: "oauth2_credentials", kind: records, fate: refused, to: "there is no OAuth 2.0 server here"},
	field{name: "mtls_auth_credentials", kind: records, fate: refused, to: "it is Kong Enterprise's"},
	field{name: "plugins", kind: records, to: "`policies`"},
)

var groupFields = with(times,
	field{name: "id", kind: text, fate: mapped, to: "references"},
	field{name: "name", kind: text, to: "references"},
	field{name: "consumers", kind: records, to: "membership"},
	field{name: "plugins", kind: records, to: "`consumers.*.policies` of its consumers"},
)

var membershipFields = with(times, field{name: "id", kind: text, fate: inert}, reference("consumer", "the consumer"), reference("consumer_group", "the group"))

var pluginFields = with(times,
	field{name: "id", kind: text, fate: inert},
	field{name: "name", kind: text, to: "see below", elsewhere: true},
	field{name: "instance_name", kind: text, fate: inert},
	field{name: "enabled", kind: boolean, preset: "true", to: "false leaves it out"},
	field{name: "config", kind: record, to: "see below"},
	reference("service", "`services.*.policies`"),
	reference("route", "`routes.*.policies`"),
	reference("consumer", "`consumers.*.policies`, together with a service or a route `consumers.*.kong.scoped`"),
	reference("consumer_group", "the same of its consumers"),
	field{name: "protocols", kind: texts, fate: inert, to: "a plugin for one of http and https alone is refused"},
	field{name: "run_on", kind: text, preset: "first", fate: refused},
	field{name: "ordering", kind: anything, fate: refused, to: "it is Kong Enterprise's"},
)

var certificateFields = with(times,
	field{name: "id", kind: text, fate: mapped, to: "references"},
	field{name: "cert", kind: text, fate: kept, to: "`tls.certificates[].cert`"},
	field{name: "key", kind: text, fate: kept, to: "`tls.certificates[].key`"},
	field{name: "cert_alt", kind: text, fate: mapped, to: "one more of `tls.certificates`"},
	field{name: "key_alt", kind: text, fate: mapped, to: "one more of `tls.certificates`"},
	field{name: "passphrase", kind: text, fate: refused, to: "decrypt the key"},
	field{name: "snis", kind: records, fate: inert, to: "a certificate is chosen by the names in it"},
)

var sniFields = with(times,
	field{name: "id", kind: text, fate: inert}, field{name: "name", kind: text, fate: inert, to: "a certificate is chosen by the names in it"},
	reference("certificate", "its certificate"))

var caFields = with(times,
	field{name: "id", kind: text, fate: mapped, to: "references"},
	field{name: "cert", kind: text, to: "`services.*.tls.ca`"},
	field{name: "cert_digest", kind: text, fate: inert},
	field{name: "name", kind: text, fate: inert},
)

var keyFields = with(times,
	field{name: "id", kind: text, to: "`api_keys[].id`, told to services in X-Credential-Identifier"},
	field{name: "key", kind: text, to: "`api_keys[].hash`"},
	field{name: "ttl", kind: integer, preset: "0", fate: refused, to: "a file says nothing of when it was written; rotate the key instead"},
	reference("consumer", "whose it is"),
)

var basicFields = with(times,
	field{name: "id", kind: text, fate: inert},
	field{name: "username", kind: text, fate: kept, to: "`basic_auth[].username`"},
	field{name: "password", kind: text, to: "`basic_auth[].hash`"},
	reference("consumer", "whose it is"),
)

var hmacFields = with(times,
	field{name: "id", kind: text, fate: inert},
	field{name: "username", kind: text, fate: kept, to: "`hmac[].username`"},
	field{name: "secret", kind: text, fate: kept, to: "`hmac[].secret`"},
	reference("consumer", "whose it is"),
)

var jwtFields = with(times,
	field{name: "id", kind: text, fate: inert},
	field{name: "key", kind: text, to: "`jwt[].issuer`"},
	field{name: "secret", kind: text, fate: kept, to: "`jwt[].secret`"},
	field{name: "algorithm", kind: text, preset: "HS256", enum: []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}, to: "`jwt[].algorithms`"},
	field{name: "rsa_public_key", kind: text, to: "`jwt[].public_key`"},
	reference("consumer", "whose it is"),
)

var aclFields = with(times,
	field{name: "id", kind: text, fate: inert},
	field{name: "group", kind: text, to: "`groups`"},
	reference("consumer", "whose it is"),
)

// entities are what the matrix lists, in this order.
var entities = []struct {
	name   string
	fields []field
}{
	{"the file", documentFields}, {"services", serviceFields}, {"routes", routeFields}, {"upstreams", upstreamFields}, {"targets", targetFields},
	{"consumers", consumerFields}, {"consumer_groups", groupFields}, {"consumer_group_consumers", membershipFields},
	{"keyauth_credentials", keyFields}, {"basicauth_credentials", basicFields}, {"hmacauth_credentials", hmacFields}, {"jwt_secrets", jwtFields}, {"acls", aclFields},
	{"certificates", certificateFields}, {"snis", sniFields}, {"ca_certificates", caFields}, {"plugins", pluginFields},
}
