package tracing

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"sluice/config"
)

// Zipkin says where spans go that a collector of Zipkin's takes, as JSON of its version 2, and how.
type Zipkin struct {
	// Endpoint of the collector: `http://HOST:PORT` or `https://HOST:PORT`, with the path `/api/v2/spans` unless the URL has one. Default: none.
	Endpoint string `yaml:"endpoint"`
	// Headers that go with every export, as an API key.
	Headers map[string]config.Secret `yaml:"headers"`
	// TLS settings for an endpoint with https.
	TLS TLS `yaml:"tls"`
	// SpanName is how spans of requests are named: `route` is the method and the path pattern, `method` the method alone, `method_path` the method and the path as it came, which may be a new name for each request.
	SpanName string `yaml:"span_name" enum:"route|method|method_path" default:"route"`
	// TagsHeader is a request header with tags for the span of the request, as `plan=gold; region=eu`; what the gateway says itself stands. Default: none, clients add nothing.
	TagsHeader string `yaml:"tags_header"`
	// Timeout for a batch, in which one that could not be delivered is tried again.
	Timeout config.Duration `yaml:"timeout" default:"10s" min:"100ms" max:"1m"`
	// Queue is how many spans may wait; those that find it full are dropped, and counted in sluice_spans_dropped_total.
	Queue int `yaml:"queue" default:"4096" min:"1" max:"1000000"`
	// Batch is how many spans are sent at once.
	Batch int `yaml:"batch" default:"512" min:"1" max:"10000"`
	// Interval is how long a span waits for a batch to fill.
	Interval config.Duration `yaml:"interval" default:"1s" min:"10ms" max:"1m"`
}

// zipkin is a collector of Zipkin's. OpenTelemetry's exporter for that is deprecated, and its model, which is
// Zipkin's own for Go, writes names in lower case, by which those who kept theirs would no longer find them.
type zipkin struct {
	poster *poster
	naming string
	local  *zipkinEndpoint
	common map[string]string // tags of the spans of requests
}

// clientTags is the attribute that holds a header with tags until they are tags.
const clientTags = "zipkin.client_tags"

func newZipkin(d *destination) *zipkin {
	z := &zipkin{
		poster: newPoster(d, d.url, nil, func(status int) bool {
			return status >= 500 || status == http.StatusRequestTimeout || status == http.StatusTooManyRequests
		}),
		naming: d.zipkin.SpanName, local: &zipkinEndpoint{ServiceName: d.service}, common: map[string]string{},
	}
	for _, a := range d.resource().Attributes {
		if a.Key != "service.name" {
			z.common[a.Key] = a.Value.GetStringValue()
		}
	}
	return z
}

func (z *zipkin) start(context.Context) error { return nil }

func (z *zipkin) stop(context.Context) error {
	z.poster.stop()
	return nil
}

func (z *zipkin) take(ctx context.Context, encoded []byte) error {
	var read tracepb.ScopeSpans
	if err := proto.Unmarshal(encoded, &read); err != nil {
		panic("BUG: spans are not encoded as they have to be: " + err.Error())
	}
	spans := make([]zipkinSpan, 0, len(read.Spans))
	for _, s := range read.Spans {
		spans = append(spans, z.span(s))
	}
	body, err := json.Marshal(spans)
	if err != nil {
		return err
	}
	_, err = z.poster.post(ctx, "application/json", "", body)
	return err
}

// zipkinSpan is a span of Zipkin's API, version 2. Times are in microseconds.
type zipkinSpan struct {
	TraceID        string            `json:"traceId"`
	ID             string            `json:"id"`
	ParentID       string            `json:"parentId,omitempty"`
	Name           string            `json:"name"`
	Kind           string            `json:"kind"`
	Timestamp      uint64            `json:"timestamp"`
	Duration       uint64            `json:"duration"`
	LocalEndpoint  *zipkinEndpoint   `json:"localEndpoint"`
	RemoteEndpoint *zipkinEndpoint   `json:"remoteEndpoint,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"`
}

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName,omitempty"`
	IPv4        string `json:"ipv4,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
	Port        int    `json:"port,omitempty"`
}

func (z *zipkin) span(s *tracepb.Span) zipkinSpan {
	made := zipkinSpan{
		TraceID: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), ParentID: hex.EncodeToString(s.ParentSpanId),
		Name: s.Name, Kind: "CLIENT", Timestamp: s.StartTimeUnixNano / 1000,
		// Zipkin takes 0 for a duration that is not known.
		Duration: max(1, (s.EndTimeUnixNano-s.StartTimeUnixNano+500)/1000), LocalEndpoint: z.local,
		Tags: make(map[string]string, len(s.Attributes)+len(z.common)),
	}
	server := s.Kind == tracepb.Span_SPAN_KIND_SERVER
	var remote zipkinEndpoint
	var path string
	var sent []string
	for _, a := range s.Attributes {
		value := textOf(a.Value)
		switch a.Key {
		case clientTags:
			sent = append(sent, value)
		case "client.address":
			remote.address(value)
		case "server.address":
			if server {
				made.Tags["http.host"] = value
			} else if !remote.address(value) {
				made.Tags["peer.hostname"] = value
			}
		case "server.port":
			if !server {
				remote.Port, _ = strconv.Atoi(value)
			}
		case "sluice.service":
			remote.ServiceName = value
			made.Tags[a.Key] = value
		case "network.protocol.version":
			made.Tags["http.protocol"] = "HTTP/" + value
		default:
			if a.Key == "url.path" {
				path = value
			}
			made.Tags[tagOf(a.Key)] = value
		}
	}
	if remote != (zipkinEndpoint{}) {
		made.RemoteEndpoint = &remote
	}
	if !server {
		return made
	}
	made.Kind = "SERVER"
	method, _, _ := strings.Cut(s.Name, " ")
	switch z.naming {
	case "method":
		made.Name = method
	case "method_path":
		made.Name = method + " " + path
	}
	own := maps.Clone(made.Tags)
	maps.Copy(made.Tags, z.common)
	for _, header := range sent {
		addTags(made.Tags, header)
	}
	maps.Copy(made.Tags, own)
	return made
}

func textOf(v *commonpb.AnyValue) string {
	if n, ok := v.Value.(*commonpb.AnyValue_IntValue); ok {
		return strconv.FormatInt(n.IntValue, 10)
	}
	return v.GetStringValue()
}

// tagOf names an attribute as Zipkin's instrumentations do.
func tagOf(key string) string {
	switch key {
	case "http.request.method":
		return "http.method"
	case "http.response.status_code":
		return "http.status_code"
	case "url.path":
		return "http.path"
	case "url.full":
		return "http.url"
	case "error.type":
		return "error" // that there is one marks the span
	}
	return key
}

// addTags reads NAME=VALUE; NAME=VALUE of a client. What is said in the gateway's name a client can not say.
func addTags(tags map[string]string, header string) {
	for one := range strings.SplitSeq(header, ";") {
		name, value, ok := strings.Cut(one, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || value == "" || strings.ContainsAny(name, " \t") || ours(name) {
			continue
		}
		tags[name] = value
	}
}

// ours tells names of tags that are the gateway's, also where a request has none of them.
func ours(name string) bool {
	family, _, _ := strings.Cut(name, ".")
	switch family {
	case "http", "url", "server", "client", "network", "user_agent", "error", "peer", "sluice", "service", "host":
		return true
	}
	return false
}

// address fills in an address; false if it is a name.
func (e *zipkinEndpoint) address(text string) bool {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return false
	case a.Is4():
		e.IPv4 = text
	default:
		e.IPv6 = text
	}
	return true
}
