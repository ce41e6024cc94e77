package tracing

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc/credentials"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// OTLP says where spans go, and how. These settings go before variables as OTEL_EXPORTER_OTLP_ENDPOINT.
type OTLP struct {
	// Endpoint of the collector: `HOST:PORT` or `http://HOST:PORT` without TLS, `https://HOST:PORT` with it. Over HTTP the path is `/v1/traces` unless the URL has one. Default: none, nothing is recorded.
	Endpoint string `yaml:"endpoint"`
	// Protocol of the endpoint: `grpc`, usually at port 4317, or `http`, usually at 4318, with bodies in protobuf.
	Protocol string `yaml:"protocol" enum:"grpc|http" default:"grpc"`
	// Headers that go with every export, as an API key.
	Headers map[string]config.Secret `yaml:"headers"`
	// TLS settings for an endpoint with https.
	TLS TLS `yaml:"tls"`
	// Compression of what is sent.
	Compression string `yaml:"compression" enum:"none|gzip" default:"none"`
	// Timeout for a batch, in which one that could not be delivered is tried again.
	Timeout config.Duration `yaml:"timeout" default:"10s" min:"100ms" max:"1m"`
	// Queue is how many spans may wait; those that find it full are dropped, and counted in sluice_spans_dropped_total.
	Queue int `yaml:"queue" default:"4096" min:"1" max:"1000000"`
	// Batch is how many spans are sent at once.
	Batch int `yaml:"batch" default:"512" min:"1" max:"10000"`
	// Interval is how long a span waits for a batch to fill.
	Interval config.Duration `yaml:"interval" default:"1s" min:"10ms" max:"1m"`
}

// TLS is how the collector is verified, and how the gateway proves itself.
type TLS struct {
	// CA is the file of the authorities to verify against, PEM. Default: the system's.
	CA string `yaml:"ca"`
	// Cert is the file of the client certificate, PEM.
	Cert string `yaml:"cert"`
	// Key is the file of the client certificate's key, PEM.
	Key string `yaml:"key"`
	// ServerName to verify and to send by SNI. Default: the endpoint's host.
	ServerName string `yaml:"server_name"`
	// InsecureSkipVerify accepts any certificate.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
}

// destination is a collector and what it is told of the gateway, read and checked.
type destination struct {
	OTLP             // where zipkin is set, what both have
	zipkin   *Zipkin // nil: OTLP
	block    string  // of the configuration: otlp or zipkin
	url      string
	address  string
	path     string
	tls      *tls.Config // nil: without TLS
	service  string
	more     map[string]string
	identity string
}

// openExporter gives the exporter of a policy: one for all that have the same settings. It is nil without an endpoint, and in a dry run.
func openExporter(b *policy.Build, c *Config) (*exporter, error) {
	d := &destination{OTLP: c.OTLP, block: "otlp", service: c.ServiceName, more: c.Resource}
	if z := &c.Zipkin; z.Endpoint != "" {
		if c.OTLP.Endpoint != "" {
			return nil, policy.Wrong("zipkin", "stands beside otlp; spans go to one collector: keep one of the two")
		}
		switch strings.ToLower(z.TagsHeader) {
		case "authorization", "proxy-authorization", "cookie":
			return nil, policy.Wrong("zipkin.tags_header", "%s holds credentials, which no span may hold", z.TagsHeader)
		}
		if z.TagsHeader != "" && !exchange.IsToken(z.TagsHeader) {
			return nil, policy.Wrong("zipkin.tags_header", "%q can not be the name of a header", z.TagsHeader)
		}
		d.zipkin, d.block = z, "zipkin"
		d.OTLP = OTLP{Endpoint: z.Endpoint, Protocol: "zipkin", Headers: z.Headers, TLS: z.TLS, Timeout: z.Timeout, Queue: z.Queue, Batch: z.Batch, Interval: z.Interval}
	}
	if d.Endpoint == "" {
		return nil, nil
	}
	if err := d.read(b); err != nil {
		return nil, err
	}
	for name := range c.Resource {
		if name == "" || name == "service.name" {
			return nil, policy.Wrong("resource", "%q can not be set here; service_name is the name of the service", name)
		}
	}
	if b.World.DryRun {
		return nil, nil
	}
	return policy.LivingAs(b.World, "tracing/"+d.identity, func() (*exporter, error) {
		e := newExporter(b.World, d)
		if err := e.start(); err != nil {
			return nil, policy.Wrong(d.block, "cannot set the exporter up: %v", err)
		}
		return e, nil
	})
}

func (d *destination) read(b *policy.Build) error {
	text := d.Endpoint
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Port() == "" && d.zipkin == nil || u.Scheme != "http" && u.Scheme != "https":
		return policy.Wrong(d.block+".endpoint", "%q is no endpoint; want HOST:PORT, http://HOST:PORT or https://HOST:PORT", withoutUser(d.Endpoint))
	case u.User != nil:
		return policy.Wrong(d.block+".endpoint", "must not hold a user or a password; put credentials into %s.headers", d.block)
	case u.RawQuery != "" || u.Fragment != "":
		return policy.Wrong(d.block+".endpoint", "must not have a query or a fragment")
	case d.Protocol == "grpc" && strings.Trim(u.Path, "/") != "":
		return policy.Wrong(d.block+".endpoint", "has a path, %s; gRPC knows none: remove it, or set protocol: http", u.Path)
	}
	if n, err := strconv.Atoi(u.Port()); u.Port() != "" && (err != nil || n < 1 || n > 65535) {
		return policy.Wrong(d.block+".endpoint", "%q is no port", u.Port())
	}
	d.address, d.path = u.Host, u.Path
	switch {
	case d.zipkin != nil && u.Path == "":
		u.Path = "/api/v2/spans"
	case d.path == "" || d.path == "/":
		d.path = "/v1/traces"
	}
	d.url = u.String()
	sum := sha256.New()
	if u.Scheme == "https" {
		if d.tls, err = d.TLS.load(d.block+".tls", sum.Write); err != nil {
			return err
		}
	} else if d.TLS != (TLS{}) {
		return policy.Wrong(d.block+".tls", "has no use without TLS; write the endpoint as https://%s", u.Host)
	}
	for name, value := range d.Headers {
		if !exchange.IsToken(name) || !exchange.IsFieldValue([]byte(value.Reveal())) {
			return policy.Wrong(d.block+".headers", "%q can not be the name of a header, or its value can not be one's", name)
		}
	}
	if d.tls == nil && len(d.Headers) > 0 && !isLoopback(u.Hostname()) {
		b.Warnf(d.block+".headers", "go to %s without TLS, where anybody on the way can read them", u.Host)
	}
	if d.Queue < d.Batch {
		b.Warnf(d.block+".queue", "is smaller than a batch, so that no batch ever fills")
	}
	if other := map[string]string{"grpc": "4318", "http": "4317"}[d.Protocol]; u.Port() == other {
		b.Warnf(d.block+".protocol", "%s is usually not the port of OTLP over %s", other, d.Protocol)
	}
	identity, err := json.Marshal([]any{d.url, d.path, d.tls != nil, d.Protocol, d.revealed(), d.TLS, d.Compression, d.Timeout, d.Queue, d.Batch, d.Interval, d.service, d.more, d.zipkin})
	if err != nil {
		return err
	}
	sum.Write(identity)
	d.identity = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// withoutUser keeps what may be a password out of an error.
func withoutUser(endpoint string) string {
	if at := strings.LastIndexByte(endpoint, '@'); at >= 0 {
		return "***" + endpoint[at:]
	}
	return endpoint
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// load reads the files; what is in them goes to sum, so that new contents are new settings.
func (t *TLS) load(at string, sum func([]byte) (int, error)) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, policy.Wrong(at+".ca", "%v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, policy.Wrong(at+".ca", "%s holds no PEM certificate", t.CA)
		}
		_, _ = sum(pem)
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, policy.Wrong(at+".cert", "%v", err)
		}
		c.Certificates = []tls.Certificate{pair}
		for _, der := range pair.Certificate {
			_, _ = sum(der)
		}
	}
	return c, nil
}

func (d *destination) revealed() map[string]string {
	headers := make(map[string]string, len(d.Headers))
	for name, value := range d.Headers {
		headers[name] = value.Reveal()
	}
	return headers
}

func (d *destination) endpoint() string { return d.address }

func (d *destination) collector() collector {
	switch d.Protocol {
	case "zipkin":
		return newZipkin(d)
	case "http":
		return newHTTPCollector(d)
	}
	return &grpcCollector{client: d.grpcClient(), resource: d.resource()}
}

// grpcClient makes OpenTelemetry's own client. What it is not given it would take from the environment.
func (d *destination) grpcClient() otlptrace.Client {
	o := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(d.address), otlptracegrpc.WithHeaders(d.revealed()), otlptracegrpc.WithTimeout(d.Timeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: min(500*time.Millisecond, d.Timeout/4), MaxInterval: longestPause, MaxElapsedTime: d.Timeout}),
	}
	if d.tls == nil {
		o = append(o, otlptracegrpc.WithInsecure())
	} else {
		o = append(o, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(d.tls)))
	}
	if d.Compression == "gzip" {
		o = append(o, otlptracegrpc.WithCompressor("gzip"))
	}
	return otlptracegrpc.NewClient(o...)
}

// resource tells which gateway this is.
func (d *destination) resource() *resourcepb.Resource {
	all := map[string]string{"service.name": d.service, "service.instance.id": instance}
	if host, err := os.Hostname(); err == nil {
		all["host.name"] = host
	}
	maps.Copy(all, d.more)
	r := &resourcepb.Resource{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r.Attributes = append(r.Attributes, &commonpb.KeyValue{Key: name, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: all[name]}}})
	}
	return r
}

// instance tells the processes of a service apart (a random UUID, as the conventions have it).
var instance = func() string {
	var u [16]byte
	_, _ = rand.Read(u[:])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	h := hex.EncodeToString(u[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}()
