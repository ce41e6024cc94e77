package kong

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"sluice/config"
)

var headerTypes = []string{"preserve", "ignore", "b3", "b3-single", "w3c", "jaeger", "ot", "aws", "datadog", "gcp", "instana"}

// propagationOption is how traces are read and written, of newer files.
func propagationOption(preset string) field {
	return field{name: "propagation", kind: record, sub: []field{
		{name: "extract", kind: texts, enum: append([]string{"b3"}, headerTypes[4:]...), to: "`propagate`; w3c, which goes first, and b3; none is `trust: none`"},
		{name: "clear", kind: texts, fate: refused, to: "use request-transformer"},
		{name: "inject", kind: texts, enum: append([]string{"preserve"}, headerTypes[2:]...), to: "`propagate`; what is read has to be written, and what is written read"},
		{name: "default_format", kind: text, preset: preset, enum: headerTypes[2:], to: "`propagate`, beside `preserve` in inject"},
	}}
}

var traceQueue = field{name: "queue", kind: record, sub: []field{
	{name: "max_batch_size", kind: integer, preset: "200", min: 1, max: 1000000, to: "`batch`"}, {name: "max_coalescing_delay", kind: number, preset: "1", fate: inert}, {name: "max_entries", kind: integer, preset: "10000", fate: inert},
	{name: "max_bytes", kind: integer, fate: inert}, {name: "max_retry_time", kind: number, preset: "60", fate: inert}, {name: "initial_retry_delay", kind: number, preset: "0.01", fate: inert}, {name: "max_retry_delay", kind: number, preset: "60", fate: inert},
	{name: "concurrency_limit", kind: integer, preset: "1", fate: inert},
}}

// openTelemetry records spans. Kong records what tracing_instrumentations of its own settings says, which files do not have.
var openTelemetry = definition{
	name: "opentelemetry", policies: []string{"tracing"}, noConsumer: true, to: "`tracing` with `otlp`: a span for the request and one for each try; a decision that comes with a trace stands",
	options: []field{
		{name: "traces_endpoint", kind: text, was: []string{"endpoint"}, to: "`otlp.endpoint`, over HTTP"},
		{name: "logs_endpoint", kind: text, fate: refused, to: "what is exported there are Kong's own error logs; write the output otlp of access_log in a native configuration"},
		{name: "headers", kind: anything, fate: kept, to: "`otlp.headers`"}, {name: "resource_attributes", kind: anything, to: "`resource`, `service.name` as `service_name`"},
		traceQueue,
		{name: "batch_span_count", kind: integer, fate: inert, to: "older than `queue`"}, {name: "batch_flush_delay", kind: integer, fate: inert, to: "older than `queue`"},
		{name: "connect_timeout", kind: integer, preset: "1000", fate: inert}, {name: "send_timeout", kind: integer, preset: "5000", fate: inert}, {name: "read_timeout", kind: integer, preset: "5000", min: 1, max: 2147483646, to: "`otlp.timeout`"},
		{name: "http_response_header_for_traceid", kind: text, to: "`response_header`"},
		{name: "header_type", kind: text, preset: "preserve", enum: headerTypes, to: "`propagate`; the formats of w3c and b3"},
		{name: "sampling_rate", kind: number, preset: "0.01", max: 1, to: "`sample`"},
		{name: "sampling_strategy", kind: text, preset: "parent_drop_probability_fallback", enum: []string{"parent_drop_probability_fallback", "parent_probability_fallback"}, fate: inert, to: "a decision that comes with a trace stands"},
		propagationOption("w3c"),
	},
	check: func(p *plugin) {
		c := &p.config
		c.collector("traces_endpoint", "http://collector:4318/v1/traces")
		for _, name := range []string{"headers", "resource_attributes"} {
			if v := c.values[name]; v.Is() && !v.Map() {
				c.fail(name, "found %s, want texts by name", v.Found())
			}
		}
		c.sub("queue", p.cannotOption)
		p.checkPropagation()
	},
	write: func(p *plugin, into config.Tree) {
		c := &p.config
		u, _ := url.Parse(c.text("traces_endpoint"))
		if u.Port() == "" {
			u.Host += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
		}
		otlp := config.NewMap(c.tree).Set("endpoint", config.NewText(c.at("traces_endpoint"), u.String())).Set("protocol", config.NewWord(c.tree, "http"))
		if h := c.values["headers"]; h.Is() && h.Len() > 0 {
			otlp.Set("headers", h)
		}
		p.batches(otlp)
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
	name: "zipkin", policies: []string{"tracing"}, noConsumer: true, to: "`tracing` with `zipkin`: a span for the request and one for each try. Names and tags of HTTP are Kong's, those of routes, services and consumers Sluice's",
	options: []field{
		{name: "http_endpoint", kind: text, to: "`zipkin.endpoint`; without it traces are passed on alone"},
		{name: "sample_ratio", kind: number, preset: "0.001", max: 1, to: "`sample`"},
		{name: "header_type", kind: text, preset: "preserve", enum: headerTypes, to: "`propagate`; the formats of w3c and b3"},
		{name: "default_header_type", kind: text, preset: "b3", enum: headerTypes[2:], to: "`propagate`; the formats of w3c and b3"},
		{name: "default_service_name", kind: text, fate: inert, to: "services have names"}, {name: "local_service_name", kind: text, preset: "kong", to: "`service_name`"},
		{name: "include_credential", kind: boolean, preset: "true", fate: inert, to: "spans name consumers, never credentials"},
		{name: "traceid_byte_count", kind: integer, preset: "16", enum: []string{"8", "16"}, fate: refused, to: "new traces have ids of 16 bytes; those of 8 that come are taken, and passed on with zeros before them"},
		{name: "static_tags", kind: records, to: "`resource`, which spans of requests have as tags"}, {name: "tags_header", kind: text, preset: "Zipkin-Tags", to: "`zipkin.tags_header`"},
		{name: "http_span_name", kind: text, preset: "method", enum: []string{"method", "method_path"}, fate: kept, to: "`zipkin.span_name`"},
		{name: "phase_duration_flavor", kind: text, preset: "annotations", enum: []string{"annotations", "tags"}, fate: inert, to: "Kong's phases are not here; tries and calls have spans of their own"},
		{name: "connect_timeout", kind: integer, preset: "2000", fate: inert}, {name: "send_timeout", kind: integer, preset: "5000", fate: inert}, {name: "read_timeout", kind: integer, preset: "5000", min: 1, max: 2147483646, to: "`zipkin.timeout`"},
		{name: "http_response_header_for_traceid", kind: text, to: "`response_header`"}, traceQueue,
		propagationOption("b3"),
	},
	check: func(p *plugin) {
		c := &p.config
		if c.text("http_endpoint") != "" {
			c.collector("http_endpoint", "http://zipkin:9411/api/v2/spans")
		}
		c.sub("queue", p.cannotOption)
		p.staticTags()
		p.checkPropagation()
	},
	write: func(p *plugin, into config.Tree) {
		c := &p.config
		made := config.NewMap(c.tree)
		if c.text("http_endpoint") != "" {
			u, _ := url.Parse(c.text("http_endpoint"))
			if u.Path == "" {
				u.Path = "/"
			}
			zipkin := config.NewMap(c.tree).Set("endpoint", config.NewText(c.at("http_endpoint"), u.String())).
				Set("span_name", config.NewWord(c.at("http_span_name"), c.text("http_span_name")))
			if c.text("tags_header") != "" {
				zipkin.Set("tags_header", config.NewText(c.at("tags_header"), c.text("tags_header")))
			}
			p.batches(zipkin)
			made.Set("zipkin", zipkin)
		}
		made.Set("sample", config.NewWord(c.at("sample_ratio"), c.text("sample_ratio")))
		p.propagate(made)
		if made.Get("zipkin").Is() {
			made.Set("service_name", config.NewText(c.at("local_service_name"), c.text("local_service_name")))
			p.t.quietly(func() block {
				if tags := p.staticTags(); tags.Len() > 0 {
					made.Set("resource", tags)
				}
				return block{}
			})
		}
		into.Set("tracing", made)
	},
}

// collector checks the URL of one.
func (b *block) collector(option, example string) {
	u, err := url.Parse(b.text(option))
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		b.fail(option, "this is no URL of a collector; write %s", example)
	}
}

// quietSub reads a block that has been checked.
func (b *block) quietSub(name string) block {
	return b.t.quietly(func() block { return b.sub(name, func(config.Tree, string, string) {}) })
}

// batches writes how spans are sent.
func (p *plugin) batches(into config.Tree) {
	c := &p.config
	queue := c.quietSub("queue")
	into.Set("timeout", config.NewWord(c.at("read_timeout"), milliseconds(min(max(c.integer("read_timeout"), 100), 60000)))).
		Set("batch", config.NewWord(queue.at("max_batch_size"), min(queue.integer("max_batch_size"), 10000))).
		Set("queue", config.NewWord(c.tree, 10000))
}

// staticTags are tags by name.
func (p *plugin) staticTags() config.Tree {
	tags := config.NewMap(p.config.at("static_tags"))
	for i, item := range p.config.list("static_tags") {
		tag := p.t.read(item, element(p.config.where("static_tags"), i), []field{{name: "name", kind: text, to: "`resource`"}, {name: "value", kind: text, to: "`resource`"}}, p.cannotOption)
		switch name := tag.text("name"); {
		case name == "" || tag.text("value") == "":
			tag.t.fail(tag.tree, tag.path, "a tag has a name and a value; write {name: region, value: eu}")
		case name == "service.name":
			tag.fail("name", "service.name is the name of the service; write local_service_name")
		default:
			tags.Set(name, config.NewText(tag.at("value"), tag.text("value")))
		}
	}
	return tags
}

// formats are the native ones of trace headers, by Kong's.
var formats = map[string]string{"w3c": "w3c", "b3": "b3multi", "b3-single": "b3"}

func (p *plugin) checkPropagation() {
	const unknown = "has an option that can not be honoured: the format %s is not known; choose w3c, b3 or b3-single"
	for _, option := range []string{"header_type", "default_header_type"} {
		if p.config.describe(option) == nil {
			continue
		}
		if kind := p.config.text(option); kind != "preserve" && kind != "ignore" && formats[kind] == "" {
			p.refuse(option, unknown, kind)
		}
	}
	c := p.config.sub("propagation", p.cannotOption)
	if !c.has("extract") && !c.has("inject") {
		if c.text("default_format") != c.describe("default_format").preset {
			p.cannot(c.at("default_format"), c.where("default_format"), "has an option that can not be honoured: it belongs to extract and inject, which are left out")
		}
		return
	}
	known := true
	for _, option := range []string{"extract", "inject", "default_format"} {
		for _, v := range c.list(option) {
			if kind := v.Text(); kind != "preserve" && formats[kind] == "" {
				p.cannot(c.at(option), c.where(option), fmt.Sprintf(unknown, kind))
				known = false
			}
		}
	}
	read, written := c.propagated()
	families := func(names []string) (all []string) {
		for _, name := range names {
			all = append(all, strings.TrimSuffix(name, "multi"))
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	switch {
	case !known:
	case len(written) == 0:
		p.cannot(c.at("inject"), c.where("inject"), "has an option that can not be honoured: backends are told of their trace; name a format")
	case len(read) > 0 && !slices.Equal(families(read), families(written)):
		p.cannot(c.at("inject"), c.where("inject"), "has an option that can not be honoured: the formats that are read are those that are written; name the same in extract and inject, or preserve")
	}
}

// propagated gives the native formats that are read and written.
func (b *block) propagated() (read, written []string) {
	add := func(to *[]string, name string) {
		if !slices.Contains(*to, name) {
			*to = append(*to, name)
		}
	}
	for _, kind := range b.texts("extract") {
		add(&read, formats[kind])
	}
	preserve := false
	for _, kind := range b.texts("inject") {
		if kind == "preserve" {
			preserve = true
		} else {
			add(&written, formats[kind])
		}
	}
	if preserve {
		add(&written, formats[b.text("default_format")])
		for _, name := range read {
			if name != "b3multi" || !slices.Contains(written, "b3") {
				add(&written, name)
			}
		}
	}
	return read, written
}

// propagate writes the formats of trace headers, whether those of clients count, and what clients are told.
func (p *plugin) propagate(made config.Tree) {
	c := &p.config
	at, kind := c.at("header_type"), c.text("header_type")
	var names []string
	trusted := kind != "ignore"
	if newer := c.quietSub("propagation"); newer.has("extract") || newer.has("inject") {
		at = c.at("propagation")
		var read []string
		read, names = newer.propagated()
		trusted = len(read) > 0
	} else {
		names = p.olderFormats(kind)
	}
	made.Set("propagate", config.NewTexts(at, names...))
	if !trusted {
		made.Set("trust", config.NewWord(at, "none"))
	}
	if c.text("http_response_header_for_traceid") != "" {
		made.Set("response_header", config.NewText(c.at("http_response_header_for_traceid"), c.text("http_response_header_for_traceid")))
	}
}

// olderFormats are those of header_type.
func (p *plugin) olderFormats(kind string) []string {
	c := &p.config
	if kind != "preserve" && kind != "ignore" {
		return []string{formats[kind]}
	}
	if c.describe("default_header_type") == nil {
		return map[string][]string{"preserve": {"w3c", "b3"}, "ignore": {"w3c"}}[kind]
	}
	names := []string{formats[c.text("default_header_type")]}
	if kind == "preserve" {
		for _, other := range []string{"w3c", "b3"} {
			if !strings.HasPrefix(names[0], other) {
				names = append(names, other)
			}
		}
	}
	return names
}
