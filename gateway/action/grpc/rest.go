package grpc

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
)

// Calls of gRPC to a service of REST: the rules of google.api.http, read from the other side.

// Rejections of calls.
var (
	rejectNoCall    = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "not_grpc", "calls of gRPC are taken here, over HTTP/2, and of gRPC-Web with messages as they are")
	rejectNoRule    = callReject(fasthttp.StatusNotFound, grpcwire.Unimplemented, "no_method", "there is no such method, or no rule by which it can be called")
	rejectStreams   = callReject(fasthttp.StatusNotImplemented, grpcwire.Unimplemented, "client_streaming", "methods that take a stream can not be called here")
	rejectCoding    = callReject(fasthttp.StatusUnsupportedMediaType, grpcwire.Unimplemented, "unsupported_encoding", "messages are taken as they are, or in gzip")
	rejectFrame     = callReject(fasthttp.StatusBadRequest, grpcwire.InvalidArgument, "bad_message", "the call has not exactly one message of its type")
	rejectCallSize  = callReject(fasthttp.StatusRequestEntityTooLarge, grpcwire.ResourceExhausted, "message_too_large", "the message is too large")
	rejectLateCall  = callReject(fasthttp.StatusGatewayTimeout, grpcwire.DeadlineExceeded, "deadline_exceeded", "the deadline of the call has passed")
	rejectBadAnswer = callReject(fasthttp.StatusBadGateway, grpcwire.Internal, "upstream_malformed", "the service did not answer with a message of the method's type")
	rejectBigAnswer = callReject(fasthttp.StatusBadGateway, grpcwire.ResourceExhausted, "upstream_message_too_large", "the service's answer is too large")
)

func callReject(status int, code grpcwire.Code, reason, detail string) *exchange.Reject {
	r := exchange.NewReject(status, reason, detail)
	r.RPC = code
	return r
}

// badCall refuses a message that can not be made a request.
func badCall(format string, a ...any) error {
	return &exchange.Reject{Status: fasthttp.StatusBadRequest, RPC: grpcwire.InvalidArgument, Reason: "bad_message", Detail: fmt.Sprintf(format, a...)}
}

// restRules are the rules by which methods are called: of each the first that says all of a path.
func (s *schema) restRules() map[string]*binding {
	rules := make(map[string]*binding)
	for path, all := range s.calls {
		i := slices.IndexFunc(all, func(b *binding) bool { return b.template.isWhole() })
		if i >= 0 {
			rules[path] = all[i]
		}
	}
	return rules
}

// isWhole tells whether variables fill every place of the path.
func (t *template) isWhole() bool {
	for i, segment := range t.segments {
		if (segment == "*" || segment == "**") && !slices.ContainsFunc(t.variables, func(v variable) bool { return v.from <= i && (v.to < 0 || i < v.to) }) {
			return false
		}
	}
	return true
}

// serveCall answers a call.
func (t *transcoder) serveCall(x *exchange.Exchange) error {
	kind := x.RPC()
	if kind != grpcwire.Web && (kind != grpcwire.Native || x.Protocol == "") {
		return rejectNoCall
	}
	b := t.rules[string(x.BackendPath())]
	switch {
	case b == nil:
		return rejectNoRule
	case b.method.IsStreamingClient():
		return rejectStreams
	}
	m, err := t.only(x, b)
	if err != nil {
		return err
	}
	r := &restCall{t: t, x: x, b: b, kind: kind, client: &restClient{client: x.Client}, until: x.Deadline()}
	if err := r.prepare(m); err != nil {
		r.end()
		return err
	}
	return r.run()
}

// only reads the one message of a call.
func (t *transcoder) only(x *exchange.Exchange, b *binding) (protoreflect.Message, error) {
	body, whole, err := x.HoldBody(t.limit + grpcwire.FrameHead + 1)
	switch {
	case err != nil:
		return nil, err
	case !whole:
		return nil, rejectCallSize
	case len(body) < grpcwire.FrameHead || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-grpcwire.FrameHead):
		return nil, rejectFrame
	}
	flags, data := body[0], body[grpcwire.FrameHead:]
	if len(data) > t.limit {
		return nil, rejectCallSize
	}
	if flags == grpcwire.Compressed {
		if coding := x.RequestHeader("Grpc-Encoding"); string(coding) != "gzip" {
			return nil, rejectCoding
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(z, int64(t.limit)+1))
		}
		switch {
		case err != nil:
			return nil, rejectFrame
		case len(data) > t.limit:
			return nil, rejectCallSize
		}
	} else if flags != 0 {
		return nil, rejectFrame
	}
	m := dynamicpb.NewMessage(b.method.Input())
	if (proto.UnmarshalOptions{Resolver: t.fixed.types}).Unmarshal(data, m) != nil {
		return nil, rejectFrame
	}
	return m, nil
}

// restCall is a call on its way.
type restCall struct {
	t      *transcoder
	x      *exchange.Exchange // of the call
	child  *exchange.Exchange // of the request
	b      *binding
	kind   grpcwire.Kind
	client *restClient
	until  int64 // the deadline on the clock, 0 for none
}

// restClient is the call's client as the request sees it.
type restClient struct {
	client exchange.ClientConn
	over   atomic.Bool
}

// Gone implements exchange.ClientConn.
func (c *restClient) Gone() bool { return c.over.Load() || c.client != nil && c.client.Gone() }

// InterruptRead implements exchange.ClientConn: the message is at hand.
func (c *restClient) InterruptRead() {}

// Interim implements exchange.ClientConn.
func (c *restClient) Interim([]byte) {}

// end gives up the request.
func (r *restCall) end() {
	r.client.over.Store(true)
	if r.child != nil {
		_ = r.child.Response.CloseBodyStream()
		_ = r.child.Close()
		r.child = nil
	}
}

// prepare makes the request.
func (r *restCall) prepare(m protoreflect.Message) error {
	c := r.t.pool.Repeat(r.x, func(*exchange.Exchange) {})
	r.child, c.Client = c, r.client
	action.Derive(c, func(name []byte) bool { return !isCalls(name) })
	c.Protocol = ""
	path, err := r.t.pathOf(r.b, m)
	if err != nil {
		return err
	}
	query, err := r.t.queryOf(r.b, m)
	if err != nil {
		return err
	}
	body, contentType, err := r.t.bodyOf(r.b, m)
	if err != nil {
		return err
	}
	method := r.b.verb
	if method == anyMethod {
		if method = fasthttp.MethodGet; body != nil {
			method = fasthttp.MethodPost
		}
	}
	h := &c.Request.Header
	h.SetMethod(method)
	h.SetContentLength(0)
	c.UpstreamPath, c.Body = []byte(path), body
	c.SetUpstreamQuery([]byte(query))
	if body == nil && (method == fasthttp.MethodPost || method == fasthttp.MethodPut || method == fasthttp.MethodPatch) {
		c.Body = []byte{}
	}
	edits := &c.ToBackend
	if contentType != "" {
		edits.Set(fasthttp.HeaderContentType, []byte(contentType))
	}
	accept := jsonType
	switch {
	case r.b.method.Output().FullName() == httpBody:
		accept = "*/*"
	case r.b.method.IsStreamingServer():
		accept = "application/x-ndjson, application/json;q=0.5"
	}
	edits.Set(fasthttp.HeaderAccept, []byte(accept))
	if r.until != 0 {
		c.Until = r.until
		left := max(time.Duration(r.until-r.x.Clock.Now()), 0)
		edits.Set(exchange.DeadlineHeader, strconv.AppendFloat(nil, left.Seconds(), 'f', 3, 64))
	}
	return nil
}

// isCalls tells fields that are about the call's own form.
func isCalls(name []byte) bool {
	for _, n := range [...]string{"grpc-encoding", "grpc-accept-encoding", "x-grpc-web", "x-user-agent"} {
		if exchange.SameField(name, n) {
			return true
		}
	}
	return false
}

// pathOf fills the path of a rule.
func (t *transcoder) pathOf(b *binding, m protoreflect.Message) (string, error) {
	var out strings.Builder
	tpl := b.template
	for i := 0; i < len(tpl.segments); {
		at := slices.IndexFunc(tpl.variables, func(v variable) bool { return v.from == i })
		if at < 0 {
			out.WriteString("/" + tpl.segments[i])
			i++
			continue
		}
		v := &tpl.variables[at]
		text, err := t.textAt(m, v.field)
		if err != nil {
			return "", err
		}
		to := v.to
		if to < 0 {
			to = len(tpl.segments)
		}
		if !fits(text, tpl.segments[i:to]) {
			return "", badCall("the field %s is %q, which can not stand in its place of the path: %s", strings.Join(v.field, "."), text, strings.Join(tpl.segments[i:to], "/"))
		}
		if text != "" {
			out.WriteString("/" + text)
		}
		i = to
	}
	if tpl.verb != "" {
		out.WriteString(":" + tpl.verb)
	}
	if out.Len() == 0 {
		return "/", nil
	}
	return out.String(), nil
}

// fits tells whether a value is what the pattern of its variable wants, and leads nowhere else.
func fits(text string, pattern []string) bool {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	var parts []string
	if text != "" {
		parts = strings.Split(text, "/")
	}
	for i, want := range pattern {
		if want == "**" {
			parts = parts[min(i, len(parts)):]
			return !slices.ContainsFunc(parts, func(p string) bool { return p == "" || leads(p) })
		}
		if i >= len(parts) || parts[i] == "" || leads(parts[i]) || want != "*" && want != parts[i] {
			return false
		}
	}
	return len(parts) == len(pattern)
}

// leads tells segments that lead elsewhere, also for those who cut parameters off.
func leads(segment string) bool {
	name, _, _ := strings.Cut(segment, ";")
	return name == "." || name == ".."
}

// textAt is the text of the field at a path.
func (t *transcoder) textAt(m protoreflect.Message, names []string) (string, error) {
	for i, name := range names {
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if i == len(names)-1 {
			return t.textOf(fd, m.Get(fd))
		}
		m = m.Get(fd).Message()
	}
	return "", nil
}

// textOf is a value as it stands in paths and parameters.
func (t *transcoder) textOf(fd protoreflect.FieldDescriptor, v protoreflect.Value) (string, error) {
	switch fd.Kind() {
	case protoreflect.EnumKind:
		if d := fd.Enum().Values().ByNumber(v.Enum()); d != nil && !t.config.EnumNumbers {
			return string(d.Name()), nil
		}
		return strconv.Itoa(int(v.Enum())), nil
	case protoreflect.BytesKind:
		return base64.URLEncoding.EncodeToString(v.Bytes()), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if !v.Message().IsValid() {
			return "", nil
		}
		b, err := protojson.Marshal(v.Message().Interface())
		if err != nil {
			return "", badCall("the field %s: %s", fd.Name(), clean(prefix.ReplaceAllString(err.Error(), "")))
		}
		var text string
		if json.Unmarshal(b, &text) == nil {
			return text, nil
		}
		return string(b), nil
	}
	return v.String(), nil
}

// queryOf makes parameters of the fields that stand neither in the path nor in the body.
func (t *transcoder) queryOf(b *binding, m protoreflect.Message) (string, error) {
	if b.whole {
		return "", nil
	}
	var query []byte
	add := func(name, value string) {
		if len(query) > 0 {
			query = append(query, '&')
		}
		query = append(exchange.AppendQueryEscaped(query, name), '=')
		query = exchange.AppendQueryEscaped(query, value)
	}
	var walk func(m protoreflect.Message, path, name string) error
	walk = func(m protoreflect.Message, path, name string) error {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			at := path + string(fd.Name())
			if !m.Has(fd) || b.bound[at] {
				continue
			}
			parameter := name + fd.JSONName()
			if t.config.ProtoNames {
				parameter = name + string(fd.Name())
			}
			v := m.Get(fd)
			isMessage := fd.Message() != nil && !isScalarMessage(fd.Message())
			switch {
			case fd.IsMap(), fd.IsList() && isMessage, isMessage && isOwnJSON(fd.Message()):
				return badCall("the field %s can not be sent: the rule of the method has no body for it, and as a parameter it has no form", at)
			case fd.IsList():
				for j := range v.List().Len() {
					text, err := t.textOf(fd, v.List().Get(j))
					if err != nil {
						return err
					}
					add(parameter, text)
				}
			case isMessage:
				if err := walk(v.Message(), at+".", parameter+"."); err != nil {
					return err
				}
			default:
				text, err := t.textOf(fd, v)
				if err != nil {
					return err
				}
				add(parameter, text)
			}
		}
		return nil
	}
	err := walk(m, "", "")
	return string(query), err
}

// isOwnJSON tells messages whose JSON has not their fields.
func isOwnJSON(md protoreflect.MessageDescriptor) bool {
	switch md.FullName() {
	case "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue", "google.protobuf.Any":
		return true
	}
	return false
}

// bodyOf makes the body of a rule; nil for none.
func (t *transcoder) bodyOf(b *binding, m protoreflect.Message) (body []byte, contentType string, err error) {
	raw := func(m protoreflect.Message) ([]byte, string, error) {
		fields := m.Descriptor().Fields()
		contentType := m.Get(fields.ByName("content_type")).String()
		if !exchange.IsFieldValue([]byte(contentType)) {
			return nil, "", badCall("the content_type has control characters")
		}
		return append([]byte{}, m.Get(fields.ByName("data")).Bytes()...), contentType, nil
	}
	w := &writer{t: t, s: t.fixed}
	switch {
	case b.whole && b.takesRaw():
		return raw(m)
	case b.whole:
		rest := proto.Clone(m.Interface()).ProtoReflect()
		for i := range b.variables {
			clearAt(rest, b.variables[i].field)
		}
		body, err = w.json(rest.Interface())
	case b.body == nil:
		return nil, "", nil
	case b.takesRaw():
		return raw(m.Get(b.body).Message())
	case !m.Has(b.body):
		return nil, "", nil
	default:
		body, err = w.field(m.Interface().(*dynamicpb.Message), b.body)
	}
	if err != nil {
		return nil, "", badCall("the message has no form in JSON: %s", clean(prefix.ReplaceAllString(err.Error(), "")))
	}
	return body, jsonType, nil
}

// clearAt clears the field at a path.
func clearAt(m protoreflect.Message, names []string) {
	for i, name := range names {
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		switch {
		case i == len(names)-1:
			m.Clear(fd)
		case !m.Has(fd):
			return
		default:
			m = m.Mutable(fd).Message()
		}
	}
}
