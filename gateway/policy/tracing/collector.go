package tracing

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// collector is who gets spans. One goroutine asks it.
type collector interface {
	start(ctx context.Context) error
	// take delivers spans as encoder writes them. Its error is a *partly where only some were taken.
	take(ctx context.Context, spans []byte) error
	stop(ctx context.Context) error
}

// partly is the error of a collector that did not take all spans of a batch, or that has something to say of them.
type partly struct {
	rejected int64
	said     string
}

func (p *partly) Error() string {
	return fmt.Sprintf("the collector took a part: %s (%d spans rejected)", p.said, p.rejected)
}

const (
	scopeName = "sluice"
	// schemaURL is the version of the semantic conventions that the attributes follow.
	schemaURL = "https://opentelemetry.io/schemas/1.37.0"
)

func scope() *tracepb.ScopeSpans {
	return &tracepb.ScopeSpans{Scope: &commonpb.InstrumentationScope{Name: scopeName}, SchemaUrl: schemaURL}
}

// grpcCollector takes OTLP over gRPC, from OpenTelemetry's own client.
type grpcCollector struct {
	client   otlptrace.Client
	resource *resourcepb.Resource
}

func (c *grpcCollector) start(ctx context.Context) error { return c.client.Start(ctx) }
func (c *grpcCollector) stop(ctx context.Context) error  { return c.client.Stop(ctx) }

func (c *grpcCollector) take(ctx context.Context, spans []byte) error {
	scope := scope()
	// What a message does not know is written out as it is. So the spans, which are encoded already, need not be decoded to be encoded again.
	scope.ProtoReflect().SetUnknown(spans)
	return c.client.UploadTraces(ctx, []*tracepb.ResourceSpans{{Resource: c.resource, ScopeSpans: []*tracepb.ScopeSpans{scope}, SchemaUrl: schemaURL}})
}

// httpCollector takes OTLP over HTTP. OpenTelemetry's client copies each batch twice into memory of its own, which is most of what tracing
// would leave to the garbage collector; here a batch goes out from where it was encoded.
type httpCollector struct {
	poster   *poster
	gzip     bool
	resource []byte // the fields of a ResourceSpans before the one for scopes
	scope    []byte // the fields of a ScopeSpans before the spans
	head     []byte
	zipped   bytes.Buffer
	zipper   *gzip.Writer
}

func newHTTPCollector(d *destination) *httpCollector {
	to := url.URL{Scheme: "http", Host: d.address, Path: d.path}
	if d.tls != nil {
		to.Scheme = "https"
	}
	return &httpCollector{
		poster: newPoster(d, to.String(), http.ProxyFromEnvironment, func(status int) bool {
			switch status {
			case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout: // as OTLP has it
				return true
			}
			return false
		}),
		gzip:     d.Compression == "gzip",
		resource: marshal(&tracepb.ResourceSpans{Resource: d.resource(), SchemaUrl: schemaURL}),
		scope:    marshal(scope()),
	}
}

func marshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// Numbers of the fields around spans in an ExportTraceServiceRequest.
const (
	requestResourceSpans    = 1
	resourceSpansScopeSpans = 2
)

func (*httpCollector) start(context.Context) error { return nil }

func (c *httpCollector) stop(context.Context) error {
	c.poster.stop()
	return nil
}

func (c *httpCollector) take(ctx context.Context, spans []byte) error {
	inner := len(c.scope) + len(spans)
	h := protowire.AppendTag(c.head[:0], requestResourceSpans, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(len(c.resource)+protowire.SizeTag(resourceSpansScopeSpans)+protowire.SizeBytes(inner)))
	h = append(h, c.resource...)
	h = protowire.AppendTag(h, resourceSpansScopeSpans, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(inner))
	c.head = append(h, c.scope...)

	const contentType = "application/x-protobuf"
	var a *answer
	var err error
	if c.gzip {
		a, err = c.poster.post(ctx, contentType, "gzip", c.zip(c.head, spans))
	} else {
		a, err = c.poster.post(ctx, contentType, "", c.head, spans)
	}
	if err != nil {
		return err
	}
	return a.ofOTLP()
}

func (c *httpCollector) zip(parts ...[]byte) []byte {
	c.zipped.Reset()
	if c.zipper == nil {
		c.zipper = gzip.NewWriter(&c.zipped)
	}
	c.zipper.Reset(&c.zipped)
	for _, part := range parts {
		_, _ = c.zipper.Write(part) // into memory
	}
	_ = c.zipper.Close()
	return c.zipped.Bytes()
}

// ofOTLP reads the answer of a collector that took a batch, or a part of one.
func (a *answer) ofOTLP() error {
	var read coltracepb.ExportTraceServiceResponse
	var err error
	switch contentType, _, _ := strings.Cut(a.contentType, ";"); contentType {
	case "application/x-protobuf":
		err = proto.Unmarshal(a.body, &read)
	case "application/json":
		if len(a.body) > 0 {
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(a.body, &read)
		}
	}
	if err != nil {
		return &partly{said: "the answer can not be read: " + err.Error()}
	}
	if p := read.GetPartialSuccess(); p.GetRejectedSpans() != 0 || p.GetErrorMessage() != "" {
		return &partly{rejected: p.GetRejectedSpans(), said: p.GetErrorMessage()}
	}
	return nil
}
