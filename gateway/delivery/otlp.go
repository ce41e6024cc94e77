package delivery

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
)

// OTLP sends lines to a collector of OpenTelemetry as log records: each field of the JSON format an attribute, the body `METHOD PATH STATUS`, the severity by the status, the trace of the request where it has one.
type OTLP struct {
	// Endpoint of the collector: `HOST:PORT` or `http://HOST:PORT` without TLS, `https://HOST:PORT` with it. Over HTTP the path is `/v1/logs` unless the URL has one.
	Endpoint string `yaml:"endpoint" required:"true"`
	// Protocol of the endpoint: `grpc`, usually at port 4317, or `http`, usually at 4318, with bodies in protobuf.
	Protocol string `yaml:"protocol" enum:"grpc|http" default:"grpc"`
	// Headers that go with every export, as an API key.
	Headers map[string]config.Secret `yaml:"headers"`
	// TLS settings for an endpoint with https.
	TLS TLS `yaml:"tls"`
	// Compression of what is sent.
	Compression string `yaml:"compression" enum:"none|gzip" default:"none"`
	// Timeout for a batch, in which one that could not be delivered is tried again; then its records are lost.
	Timeout config.Duration `yaml:"timeout" default:"10s" min:"100ms" max:"1m"`
	// Batch is how many records are sent at once.
	Batch int `yaml:"batch" default:"512" min:"1" max:"10000"`
	// ServiceName is the `service.name` of the records.
	ServiceName string `yaml:"service_name" default:"sluice"`
	// Resource has further attributes of the gateway, as `deployment.environment.name: production`.
	Resource map[string]string `yaml:"resource"`
}

// Shorthand is what a plain text stands for.
func (*OTLP) Shorthand() string { return "endpoint" }

// Target checks the settings.
func (c *OTLP) Target() (*Target, error) {
	text := c.Endpoint
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHostPort(u.Host):
		return nil, config.Errorf("endpoint", "this is no endpoint; write HOST:PORT, http://HOST:PORT or https://HOST:PORT")
	case u.User != nil:
		return nil, config.Errorf("endpoint", "must not hold a user or a password; put credentials into headers")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, config.Errorf("endpoint", "must not have a query or a fragment")
	case c.Protocol == "grpc" && strings.Trim(u.Path, "/") != "":
		return nil, config.Errorf("endpoint", "has a path, %s; gRPC knows none: remove it, or set protocol: http", u.Path)
	}
	for name, value := range c.Headers {
		if !exchange.IsToken(name) || !exchange.IsFieldValue([]byte(value.Reveal())) {
			return nil, config.Errorf("headers", "%q can not be the name of a header, or its value can not be one's", name)
		}
	}
	for name := range c.Resource {
		if name == "" || name == "service.name" {
			return nil, config.Errorf("resource", "%q can not be set here; service_name is the name of the service", name)
		}
	}
	secure, fingerprint, err := c.TLS.load(u.Scheme == "https")
	if err != nil {
		return nil, err
	}
	settings, headers := *c, revealed(c.Headers)
	return &Target{
		Name:     shown(u),
		Identity: identity("otlp", c.Endpoint, c.Protocol, headers, c.TLS, fingerprint, c.Compression, c.Timeout, c.Batch, c.ServiceName, c.Resource),
		Stamped:  true,
		Open: func(stop <-chan struct{}) (telemetry.Output, error) {
			o := &otlpSender{OTLP: settings, headers: headers}
			o.ctx, o.cancel = withGrace(stop)
			first := min(500*time.Millisecond, settings.Timeout/4)
			if settings.Protocol == "http" {
				path := u.Path
				if path == "" || path == "/" {
					path = "/v1/logs"
				}
				with := []otlploghttp.Option{
					otlploghttp.WithEndpoint(u.Host), otlploghttp.WithURLPath(path), otlploghttp.WithHeaders(headers), otlploghttp.WithTimeout(settings.Timeout),
					otlploghttp.WithRetry(otlploghttp.RetryConfig{Enabled: true, InitialInterval: first, MaxInterval: 5 * time.Second, MaxElapsedTime: settings.Timeout}),
					otlploghttp.WithCompression(otlploghttp.NoCompression),
				}
				if secure == nil {
					with = append(with, otlploghttp.WithInsecure())
				} else {
					with = append(with, otlploghttp.WithTLSClientConfig(secure))
				}
				if settings.Compression == "gzip" {
					with = append(with, otlploghttp.WithCompression(otlploghttp.GzipCompression))
				}
				o.exporter, err = otlploghttp.New(o.ctx, with...)
			} else {
				with := []otlploggrpc.Option{
					otlploggrpc.WithEndpoint(u.Host), otlploggrpc.WithHeaders(headers), otlploggrpc.WithTimeout(settings.Timeout),
					otlploggrpc.WithRetry(otlploggrpc.RetryConfig{Enabled: true, InitialInterval: first, MaxInterval: 5 * time.Second, MaxElapsedTime: settings.Timeout}),
				}
				if secure == nil {
					with = append(with, otlploggrpc.WithInsecure())
				} else {
					with = append(with, otlploggrpc.WithTLSCredentials(credentials.NewTLS(secure)))
				}
				if settings.Compression == "gzip" {
					with = append(with, otlploggrpc.WithCompressor("gzip"))
				}
				o.exporter, err = otlploggrpc.New(o.ctx, with...)
			}
			if err != nil {
				o.cancel()
				return nil, err
			}
			o.logger = sdklog.NewLoggerProvider(sdklog.WithResource(o.resource()), sdklog.WithProcessor(&o.made)).Logger("sluice")
			return o, nil
		},
	}, nil
}

// resource tells which gateway this is.
func (o *otlpSender) resource() *resource.Resource {
	all := []attribute.KeyValue{attribute.String("service.name", o.ServiceName)}
	if host, err := os.Hostname(); err == nil {
		all = append(all, attribute.String("host.name", host))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Resource)) {
		all = append(all, attribute.String(name, o.Resource[name]))
	}
	return resource.NewSchemaless(all...)
}

type otlpSender struct {
	OTLP
	headers  map[string]string
	exporter sdklog.Exporter
	logger   log.Logger
	made     collected
	ctx      context.Context
	cancel   context.CancelFunc
}

// collected is a processor that keeps records until they are sent.
type collected struct{ records []sdklog.Record }

// Enabled is true.
func (*collected) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }

// OnEmit keeps the record.
func (c *collected) OnEmit(_ context.Context, r *sdklog.Record) error {
	c.records = append(c.records, r.Clone())
	return nil
}

// Shutdown does nothing.
func (*collected) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing.
func (*collected) ForceFlush(context.Context) error { return nil }

// Lines sends them in batches. What the collector did not take within its timeout is lost.
func (o *otlpSender) Lines(lines []byte) (lost int, err error) {
	for line := range bytes.Lines(lines) {
		o.record(line)
	}
	records := o.made.records
	for rest := records; len(rest) > 0; {
		batch := rest[:min(o.Batch, len(rest))]
		rest = rest[len(batch):]
		ctx, cancel := context.WithTimeout(o.ctx, o.Timeout)
		failed := o.exporter.Export(ctx, batch)
		cancel()
		if failed == nil {
			continue
		}
		if err == nil {
			err = errors.New(telemetry.Foreign(failed.Error(), o.headers))
		}
		n := rejected(failed, len(batch))
		lost += n
		if n == len(batch) && errors.Is(failed, context.DeadlineExceeded) || o.ctx.Err() != nil {
			// There is nobody: the others would wait as long.
			lost += len(rest)
			break
		}
	}
	clear(records)
	o.made.records = records[:0]
	return lost, err
}

// partial is how the exporters tell of a collector that took some; they have no type for it that could be asked.
var partial = regexp.MustCompile(`OTLP partial success: .*\((\d+) \S+ rejected\)`)

// rejected is how many of n records are lost by err.
func rejected(err error, n int) int {
	if m := partial.FindStringSubmatch(err.Error()); m != nil {
		if lost, err := strconv.Atoi(m[1]); err == nil {
			return min(lost, n)
		}
	}
	return n
}

// record makes a record of a line of JSON behind its stamp.
func (o *otlpSender) record(line []byte) {
	at, status, text := telemetry.CutStamp(line)
	var r log.Record
	r.SetTimestamp(at)
	switch {
	case status >= 500:
		r.SetSeverity(log.SeverityError)
		r.SetSeverityText("ERROR")
	case status >= 400:
		r.SetSeverity(log.SeverityWarn)
		r.SetSeverityText("WARN")
	default:
		r.SetSeverity(log.SeverityInfo)
		r.SetSeverityText("INFO")
	}
	ctx := context.Background()
	var method, path string
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	_, _ = d.Token() // {
	for d.More() {
		key, err := d.Token()
		if err != nil {
			break
		}
		value, err := d.Token()
		if err != nil {
			break
		}
		name, _ := key.(string)
		switch v := value.(type) {
		case string:
			switch name {
			case "time":
				continue
			case "trace_id":
				var c trace.SpanContextConfig
				if n, err := hex.Decode(c.TraceID[:], []byte(v)); err == nil && n == len(c.TraceID) {
					ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(c))
				}
				continue
			case "method":
				method = v
			case "path":
				path = v
			}
			if v != "" {
				r.AddAttributes(attribute.String(name, v))
			}
		case json.Number:
			if n, err := v.Int64(); err == nil {
				r.AddAttributes(attribute.Int64(name, n))
			} else if f, err := v.Float64(); err == nil {
				r.AddAttributes(attribute.Float64(name, f))
			}
		}
	}
	r.SetBody(attribute.StringValue(method + " " + path + " " + strconv.Itoa(status)))
	o.logger.Emit(ctx, r)
}

// Close ends the exporter.
func (o *otlpSender) Close() error {
	defer o.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	return o.exporter.Shutdown(ctx)
}
