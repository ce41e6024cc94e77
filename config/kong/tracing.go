package kong

import (
	"net/url"
	"slices"
	"strings"

	"sluice/config"
)

var headerTypes = []string{"preserve", "ignore", "b3", "b3-single", "w3c", "jaeger", "ot", "aws", "datadog", "gcp", "instana"}

var propagationOption = field{name: "propagation", kind: record, sub: []field{
	{name: "extract", kind: texts, fate: refused, to: "w3c and b3 are read; write header_type"}, {name: "clear", kind: texts, fate: refused, to: "use request-transformer"},
	{name: "inject", kind: texts, fate: refused, to: "write header_type"}, {name: "default_format", kind: text, preset: "w3c", enum: slices.Concat(headerTypes[2:]), fate: refused, to: "new traces are told in the formats of header_type"},
}}

// openTelemetry records spans. Kong records what tracing_instrumentations of its own settings says, which files do not have.
var openTelemetry = definition{
	name: "opentelemetry", policies: []string{"tracing"}, noConsumer: true, to: "`tracing` with `otlp`: a span for the request and one for each try; a decision that comes with a trace stands",
	options: []field{
		{name: "traces_endpoint", kind: text, was: []string{"endpoint"}, to: "`otlp.endpoint`, over HTTP"},
		{name: "logs_endpoint", kind: text, fate: refused, to: "what is exported there are Kong's own error logs; write the output otlp of access_log in a native configuration"},
		{name: "headers", kind: anything, fate: kept, to: "`otlp.headers`"}, {name: "resource_attributes", kind: anything, to: "`resource`, `service.name` as `service_name`"},
		{name: "queue", kind: record, sub: []field{
			{name: "max_batch_size", kind: integer, preset: "200", min: 1, max: 1000000, to: "`otlp.batch`"}, {name: "max_coalescing_delay", kind: number, preset: "1", fate: inert}, {name: "max_entries", kind: integer, preset: "10000", fate: inert},
			{name: "max_bytes", kind: integer, fate: inert}, {name: "max_retry_time", kind: number, preset: "60", fate: inert}, {name: "initial_retry_delay", kind: number, preset: "0.01", fate: inert}, {name: "max_retry_delay", kind: number, preset: "60", fate: inert},
			{name: "concurrency_limit", kind: integer, preset: "1", fate: inert},
		}},
		{name: "batch_span_count", kind: integer, fate: inert, to: "older than `queue`"}, {name: "batch_flush_delay", kind: integer, fate: inert, to: "older than `queue`"},
		{name: "connect_timeout", kind: integer, preset: "1000", fate: inert}, {name: "send_timeout", kind: integer, preset: "5000", fate: inert}, {name: "read_timeout", kind: integer, preset: "5000", min: 1, max: 2147483646, to: "`otlp.timeout`"},
		{name: "http_response_header_for_traceid", kind: text, fate: refused, to: "clients are not told of traces"},
		{name: "header_type", kind: text, preset: "preserve", enum: headerTypes, to: "`propagate`; the formats of w3c and b3"},
		{name: "sampling_rate", kind: number, preset: "0.01", max: 1, to: "`sample`"},
		{name: "sampling_strategy", kind: text, preset: "parent_drop_probability_fallback", enum: []string{"parent_drop_probability_fallback", "parent_probability_fallback"}, fate: inert, to: "a decision that comes with a trace stands"},
		propagationOption,
	},
	check: func(p *plugin) {
		c := &p.config
		u, err := url.Parse(c.text("traces_endpoint"))
		if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" {
			c.fail("traces_endpoint", "this is no URL of a collector; write http://collector:4318/v1/traces")
		}
		for _, name := range []string{"headers", "resource_attributes"} {
			if v := c.values[name]; v.Is() && !v.Map() {
				c.fail(name, "found %s, want texts by name", v.Found())
			}
		}
		c.sub("queue", p.cannotOption)
		p.checkHeaderType()
	},
	write: func(p *plugin, into config.Tree) {
		c := &p.config
		queue := p.t.quietly(func() block { return c.sub("queue", func(config.Tree, string, string) {}) })
		u, _ := url.Parse(c.text("traces_endpoint"))
		if u.Port() == "" {
			u.Host += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
		}
		otlp := config.NewMap(c.tree).Set("endpoint", config.NewText(c.at("traces_endpoint"), u.String())).Set("protocol", config.NewWord(c.tree, "http"))
		if h := c.values["headers"]; h.Is() && h.Len() > 0 {
			otlp.Set("headers", h)
		}
		otlp.Set("timeout", config.NewWord(c.at("read_timeout"), milliseconds(min(max(c.integer("read_timeout"), 100), 60000)))).
			Set("batch", config.NewWord(queue.at("max_batch_size"), min(queue.integer("max_batch_size"), 10000))).
			Set("queue", config.NewWord(c.tree, 10000))
		made := config.NewMap(c.tree).Set("otlp", otlp).Set("sample", config.NewWord(c.at("sampling_rate"), c.text("sampling_rate")))
		p.propagate(made)
		name, resource := "kong", config.NewMap(c.at("resource_attributes"))
		for _, key := range c.values["resource_attributes"].Keys() {
			if value := c.values["resource_attributes"].Get(key); key == "service.name" {
				name = value.Text()
			} else {
				resource.Set(key, value)
			}
		}
		made.Set("service_name", config.NewText(c.at("resource_attributes"), name))
		if resource.Len() > 0 {
			made.Set("resource", resource)
		}
		into.Set("tracing", made)
	},
}

var zipkinPlugin = definition{
	name: "zipkin", policies: []string{"tracing"}, noConsumer: true, to: "`tracing` without a collector: headers are passed on; with `http_endpoint` it is refused",
	options: []field{
		{name: "http_endpoint", kind: text, fate: refused, to: "spans go out by OTLP alone, as OpenTelemetry has given up its exporter for Zipkin; write opentelemetry with an endpoint for OTLP, which Zipkin has with zipkin-otel, and collectors beside Zipkin's"},
		{name: "sample_ratio", kind: number, preset: "0.001", max: 1, to: "`sample`"},
		{name: "header_type", kind: text, preset: "preserve", enum: headerTypes, to: "`propagate`; the formats of w3c and b3"},
		{name: "default_header_type", kind: text, preset: "b3", enum: []string{"b3", "b3-single", "w3c", "jaeger", "ot", "aws", "datadog", "gcp", "instana"}, to: "`propagate`; the formats of w3c and b3"},
		{name: "default_service_name", kind: text, fate: inert}, {name: "local_service_name", kind: text, preset: "kong", fate: inert}, {name: "include_credential", kind: boolean, preset: "true", fate: inert},
		{name: "traceid_byte_count", kind: integer, preset: "16", enum: []string{"8", "16"}, fate: inert}, {name: "static_tags", kind: anything, fate: inert}, {name: "tags_header", kind: text, preset: "Zipkin-Tags", fate: inert},
		{name: "http_span_name", kind: text, preset: "method", fate: inert}, {name: "phase_duration_flavor", kind: text, preset: "annotations", fate: inert},
		{name: "connect_timeout", kind: integer, preset: "2000", fate: inert}, {name: "send_timeout", kind: integer, preset: "5000", fate: inert}, {name: "read_timeout", kind: integer, preset: "5000", fate: inert},
		{name: "http_response_header_for_traceid", kind: text, fate: refused, to: "clients are not told of traces"}, {name: "queue", kind: anything, fate: inert},
		propagationOption,
	},
	check: func(p *plugin) { p.checkHeaderType() },
	write: func(p *plugin, into config.Tree) {
		made := config.NewMap(p.config.tree).Set("sample", config.NewWord(p.config.at("sample_ratio"), p.config.text("sample_ratio")))
		p.propagate(made)
		into.Set("tracing", made)
	},
}

func (p *plugin) checkHeaderType() {
	for _, option := range []string{"header_type", "default_header_type"} {
		if p.config.describe(option) == nil {
			continue
		}
		switch kind := p.config.text(option); kind {
		case "preserve", "ignore", "b3", "b3-single", "w3c":
		default:
			p.refuse(option, "has an option that can not be honoured: the format %s is not known; choose w3c, b3 or b3-single", kind)
		}
	}
	p.config.sub("propagation", p.cannotOption)
}

// propagate writes the formats of trace headers, and whether those of clients count.
func (p *plugin) propagate(made config.Tree) {
	c := &p.config
	formats := map[string][]string{"preserve": {"w3c", "b3"}, "ignore": {"w3c"}, "w3c": {"w3c"}, "b3": {"b3multi"}, "b3-single": {"b3"}}
	kind := c.text("header_type")
	names := formats[kind]
	if c.describe("default_header_type") != nil && (kind == "preserve" || kind == "ignore") {
		if names = formats[c.text("default_header_type")]; kind == "preserve" {
			for _, other := range []string{"w3c", "b3"} {
				if !slices.ContainsFunc(names, func(have string) bool { return strings.HasPrefix(have, other) }) {
					names = append(slices.Clone(names), other)
				}
			}
		}
	}
	made.Set("propagate", config.NewTexts(c.at("header_type"), names...))
	if kind == "ignore" {
		made.Set("trust", config.NewWord(c.at("header_type"), "none"))
	}
}
