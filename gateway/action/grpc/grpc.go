// Package grpc is the action that lets clients of REST call services of gRPC,
// by the rules that google.api.http annotations in their descriptors say. A
// request becomes a message exactly as ProtoJSON has it or is refused with the
// place of its mistake, and an answer is all of the message or an error.
package grpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
	"sluice/gateway/upstream"
	"sluice/gateway/wsconn"
)

// Config of the action. Paths are matched against the rules of the methods as the backend would get them, after `strip_prefix` and
// `rewrite`. Answers of methods that stream are newline-delimited JSON, server-sent events or an array, by `Accept`
// (`application/x-ndjson`, `text/event-stream`, `application/json`, the default); methods that take a stream take `application/x-ndjson`,
// a message a line.
//
// Any method may be called over WebSocket: the path of the handshake is matched as that of a GET, else of a POST, PUT, PATCH or DELETE; every message is one of the client's, in JSON, and so is every one of the answer.
// An empty message ends the client's part. The close code is 1000, or 4000 and the status of gRPC, as 4005 for NOT_FOUND, behind a message `{"error": …}` with the problem. The policy `websocket_limit` bounds such calls.
//
// Where the service's protocol is `http` or `https`, it is the other way round: clients of gRPC, over HTTP/2, and of gRPC-Web call a service of REST. The request is made by the first rule of the method that can be, the answer is read as one is
// written, and a method that streams its answers reads newline-delimited JSON, or an array. Methods that take a stream are UNIMPLEMENTED. A status of HTTP becomes that of gRPC which google/rpc/code.proto maps to it, or the one that the problem's `code` names.
//
// Statuses of gRPC become those of HTTP as google/rpc/code.proto maps them, with `code` and `details` in the problem.
type Config struct {
	// Service that is called: by gRPC if its protocol is `grpc`, `grpcs` or `h2c`, else by REST.
	Service string `yaml:"service" required:"true"`
	// Descriptors is a .proto file, whose imports are looked for beside it, or the file of a FileDescriptorSet with all imports: `protoc --include_imports --descriptor_set_out=FILE`, or `buf build -o FILE`.
	Descriptors string `yaml:"descriptors"`
	// Reflection asks the service for its descriptors instead, by gRPC server reflection (`v1`, or `v1alpha`), with the first request and again when an unknown path is asked for.
	Reflection bool `yaml:"reflection" default:"false"`
	// Method, as `pkg.Service/Method`, is the only one that is called. Without an annotation every POST on the route calls it with its body.
	Method string `yaml:"method"`
	// Unannotated lets methods without annotation be called too, by `POST /pkg.Service/Method`.
	Unannotated bool `yaml:"unannotated" default:"false"`
	// MaxMessage bounds a message in either direction; larger requests get 413, larger answers 502.
	MaxMessage config.Size `yaml:"max_message" default:"4MiB" min:"1B"`
	// IgnoreUnknown drops fields and parameters that the message does not have, instead of refusing the request.
	IgnoreUnknown bool `yaml:"ignore_unknown" default:"false"`
	// EmitDefaults writes fields that have their default too.
	EmitDefaults bool `yaml:"emit_defaults" default:"false"`
	// ProtoNames writes fields as the .proto file names them, instead of in lowerCamelCase.
	ProtoNames bool `yaml:"proto_names" default:"false"`
	// EnumNumbers writes enums as numbers.
	EnumNumbers bool `yaml:"enum_numbers" default:"false"`
}

// Validate reports what does not stand together.
func (c *Config) Validate() error {
	var errs config.Errors
	switch {
	case c.Descriptors == "" && !c.Reflection:
		errs = append(errs, config.Errorf("descriptors", "the methods must be known; write descriptors: FILE, or reflection: true where the service answers that"))
	case c.Descriptors != "" && c.Reflection:
		errs = append(errs, config.Errorf("reflection", "descriptors stand in a file already; keep one of the two"))
	}
	if service, method, ok := strings.Cut(strings.TrimPrefix(c.Method, "/"), "/"); c.Method != "" && (!ok || service == "" || method == "" || strings.Contains(method, "/")) {
		errs = append(errs, config.Errorf("method", "%q is no method; write it as pkg.Service/Method", c.Method))
	}
	return errs.Err()
}

// Definition is the action grpc.
var Definition = action.Define("grpc", build)

// transcoder is the compiled action. It is immutable but for what reflection finds.
type transcoder struct {
	service *upstream.Service
	config  *Config
	limit   int
	write   protojson.MarshalOptions
	read    protojson.UnmarshalOptions

	fixed     *schema
	reflected reflected
	rules     map[string]*binding // by the path of the method, for a service of REST

	sockets *wsconn.Server
	pool    *exchange.Pool // of what is sent in another form than it came
}

func build(b *action.Build, c *Config) (*action.Action, error) {
	t := &transcoder{service: b.Service(c.Service), config: c, limit: int(c.MaxMessage)}
	t.write = protojson.MarshalOptions{UseProtoNames: c.ProtoNames, UseEnumNumbers: c.EnumNumbers, EmitUnpopulated: c.EmitDefaults}
	t.read = protojson.UnmarshalOptions{DiscardUnknown: c.IgnoreUnknown}
	if t.service == nil {
		existing := slices.Sorted(maps.Keys(b.World.Config.Services))
		return nil, config.Errorf("service", "there is no service %q; there are: %s", c.Service, strings.Join(existing, ", "))
	}
	t.pool = exchange.NewPool(b.World.Clock)
	a := &action.Action{}
	if t.service.SpeaksHTTP2() {
		if err := t.openSockets(b); err != nil {
			return nil, err
		}
		a.Serve = t.serve
		a.Start = func() { t.sockets.Group.Own(t) }
		a.Stop = func() { t.sockets.Group.Disown(t) }
	} else if a.Serve = t.serveCall; c.Reflection {
		return nil, config.Errorf("reflection", "the service %q speaks HTTP, and so can not be asked for its descriptors; write descriptors: FILE, or protocol: grpc or grpcs on the service", c.Service)
	}
	if c.Reflection {
		t.reflected.t = t
		return a, nil
	}
	if b.World.Follow != nil {
		b.World.Follow(c.Descriptors)
	}
	set, err := loadDescriptors(c.Descriptors)
	if err != nil {
		return nil, config.Errorf("descriptors", "%v", err)
	}
	if t.fixed, err = newSchema(set, c); err != nil {
		if strings.HasPrefix(err.Error(), "there is no method") {
			return nil, config.Errorf("method", "%v", err)
		}
		return nil, config.Errorf("descriptors", "%v", err)
	}
	if !t.service.SpeaksHTTP2() {
		t.fixed.warnings = nil // two methods of one path are told apart by their own
		t.rules = t.fixed.restRules()
	}
	for _, w := range t.fixed.warnings {
		b.World.Warn(b.Path+".descriptors", w)
	}
	return a, nil
}

// Rejections of this package. Those that tell what a client did wrong are made for it.
var (
	rejectNoMethod = exchange.NewReject(fasthttp.StatusNotFound, "no_method", "no method is called by this path")
	rejectHTTP     = exchange.NewReject(fasthttp.StatusMethodNotAllowed, "method_not_allowed", "the method is not allowed here")
	rejectLarge    = exchange.NewReject(fasthttp.StatusRequestEntityTooLarge, "message_too_large", "the message is too large")
	rejectEncoding = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "unsupported_encoding", "the request body is encoded; send it as it is, without Content-Encoding")
	rejectAnswer   = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_malformed", "the service did not answer with a valid message")
	rejectTooMuch  = exchange.NewReject(fasthttp.StatusBadGateway, "upstream_message_too_large", "the service answered with a message that is too large")
	rejectNoSchema = exchange.NewReject(fasthttp.StatusServiceUnavailable, "no_descriptors", "the service did not tell its methods", exchange.Header("Retry-After", "1"))
)

func init() { rejectLarge.Close = true }

func refuse(status int, reason string, err error) *exchange.Reject {
	return &exchange.Reject{Status: status, Reason: reason, Detail: err.Error()}
}

func unsupported(want string) *exchange.Reject {
	return refuse(fasthttp.StatusUnsupportedMediaType, "unsupported_media_type", fmt.Errorf("the request body is not %s", want))
}

// serve answers one request.
func (t *transcoder) serve(x *exchange.Exchange) error {
	s, b, segments, err := t.find(x)
	if err != nil {
		return err
	}
	if x.IsWebSocket() {
		return t.serveSocket(x, s, b, segments)
	}
	if v := x.RequestHeader(fasthttp.HeaderContentEncoding); len(v) > 0 && !exchange.EqualFold(v, "identity") && x.HasBody() {
		return rejectEncoding
	}
	call := &upstream.RPC{Path: b.path}
	r := &reader{schema: s, json: t.read}
	contentType := string(x.RequestHeader(fasthttp.HeaderContentType))
	query := string(x.BackendQuery())
	if b.method.IsStreamingClient() {
		if !isType(contentType, "application/x-ndjson", "application/ndjson", "application/jsonl") {
			return unsupported("application/x-ndjson: this method takes a stream, a message a line")
		}
		l := &lines{t: t, r: r, b: b, x: x, segments: segments, query: query, from: x.BodyStream()}
		if l.from == nil || x.Body != nil {
			l.from, l.counted = bytes.NewReader(x.Body), true
		}
		call.Stream = l
	} else {
		body, err := t.body(x)
		if err != nil {
			return err
		}
		if len(body) > 0 && (b.whole || b.body != nil) && !b.takesRaw() && contentType != "" && !isJSON(contentType) {
			return unsupported("application/json")
		}
		m, err := r.message(b, body, contentType, segments, query)
		if err != nil {
			return refuse(fasthttp.StatusBadRequest, "bad_request", err)
		}
		if call.Held, err = t.frame(m); err != nil {
			return err
		}
	}
	t.headers(x)
	answer, err := t.service.Call(x, call)
	if err != nil {
		return err
	}
	w := &writer{t: t, s: s, b: b, x: x, answer: answer}
	if b.method.IsStreamingServer() {
		return w.stream()
	}
	defer answer.Close()
	return w.unary()
}

// find finds how the request is answered.
func (t *transcoder) find(x *exchange.Exchange) (*schema, *binding, []string, error) {
	method, path := string(x.Method()), string(x.BackendPath())
	if method == fasthttp.MethodHead {
		method = fasthttp.MethodGet
	}
	s := t.fixed
	if s == nil {
		var err error
		if s, err = t.reflected.schema(false); err != nil {
			return nil, nil, nil, err
		}
	}
	find := func() (*binding, []string, []string) {
		if x.IsWebSocket() {
			return s.ofHandshake(path)
		}
		return s.table.find(method, path)
	}
	b, segments, allowed := find()
	if b == nil && t.fixed == nil {
		if newer, err := t.reflected.schema(true); err == nil && newer != s {
			s = newer
			b, segments, allowed = find()
		}
	}
	switch {
	case b != nil:
		return s, b, segments, nil
	case len(allowed) > 0:
		x.ToClient.Set("Allow", x.CopyString(strings.Join(allowed, ", ")))
		return nil, nil, nil, rejectHTTP
	}
	return nil, nil, nil, rejectNoMethod
}

// body reads the whole request body.
func (t *transcoder) body(x *exchange.Exchange) ([]byte, error) {
	if x.Body != nil {
		if len(x.Body) > t.limit {
			return nil, rejectLarge
		}
		return x.Body, nil
	}
	body, whole, err := x.HoldBody(t.limit + 1) // one more, to see the end of the largest
	switch {
	case err != nil:
		return nil, err
	case !whole || len(body) > t.limit:
		return nil, rejectLarge
	}
	return body, nil
}

// frame encodes a message in its frame.
func (t *transcoder) frame(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, grpcwire.FrameHead), m)
	switch {
	case err != nil:
		// Required fields of proto2, and text that is not UTF-8.
		return nil, refuse(fasthttp.StatusBadRequest, "bad_request", errors.New(clean(prefix.ReplaceAllString(err.Error(), ""))))
	case len(b)-grpcwire.FrameHead > t.limit:
		return nil, rejectLarge
	}
	grpcwire.AppendFrame(b[:0], 0, nil)
	n := len(b) - grpcwire.FrameHead
	b[1], b[2], b[3], b[4] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return b, nil
}

var grpcType = []byte("application/grpc+proto")

// headers makes those of the request those of a call.
func (t *transcoder) headers(x *exchange.Exchange) {
	x.ToBackend.Set(fasthttp.HeaderContentType, grpcType)
	for _, name := range [...]string{
		fasthttp.HeaderAccept, fasthttp.HeaderAcceptEncoding, fasthttp.HeaderContentEncoding, fasthttp.HeaderIfNoneMatch, fasthttp.HeaderIfModifiedSince,
		fasthttp.HeaderRange, "Grpc-Encoding", "Grpc-Accept-Encoding",
	} {
		x.ToBackend.Remove(name)
	}
}

func isType(contentType string, wanted ...string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && slices.Contains(wanted, media)
}

func isJSON(contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8") {
		return false
	}
	return media == "application/json" || media == "text/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json")
}

// lines makes a stream of messages of a body of newline-delimited JSON.
type lines struct {
	t        *transcoder
	r        *reader
	b        *binding
	segments []string
	query    string
	x        *exchange.Exchange
	from     io.Reader
	counted  bool // the body is in BytesIn already

	buf   []byte // read and not looked at
	out   []byte // a frame that is still to be read
	count int
	ended bool
}

// Read implements io.Reader. Its errors are rejections.
func (l *lines) Read(p []byte) (int, error) {
	for len(l.out) == 0 {
		line, err := l.line()
		if err != nil {
			return 0, err
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		l.count++
		m, err := l.r.message(l.b, line, "", l.segments, l.query)
		if err != nil {
			return 0, refuse(fasthttp.StatusBadRequest, "bad_request", fmt.Errorf("message %d: %w", l.count, err))
		}
		if l.out, err = l.t.frame(m); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.out)
	l.out = l.out[n:]
	return n, nil
}

// line returns the next line; it is valid until the next call.
func (l *lines) line() ([]byte, error) {
	for searched := 0; ; {
		if i := bytes.IndexByte(l.buf[searched:], '\n'); i >= 0 {
			line := l.buf[:searched+i]
			l.buf = l.buf[searched+i+1:]
			return line, nil
		}
		searched = len(l.buf)
		switch {
		case searched > l.t.limit:
			return nil, rejectLarge
		case l.ended && searched > 0:
			line := l.buf
			l.buf = nil
			return line, nil
		case l.ended:
			return nil, io.EOF
		}
		l.buf = slices.Grow(l.buf, 4<<10)
		n, err := l.from.Read(l.buf[searched:cap(l.buf)])
		l.buf = l.buf[:searched+n]
		if !l.counted {
			l.x.BytesIn += int64(n)
		}
		if err == io.EOF {
			l.ended = true
		} else if err != nil {
			return nil, err
		}
	}
}
