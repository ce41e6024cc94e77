package grpc

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/valyala/fasthttp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
	"sluice/gateway/upstream"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // the types of details
)

// writer makes an answer of REST of one of gRPC.
type writer struct {
	t      *transcoder
	s      *schema
	b      *binding
	x      *exchange.Exchange
	answer *upstream.Answer
}

var (
	errTooLarge  = errors.New("the message is too large")
	errMalformed = errors.New("the message is malformed")
)

// next reads the next message; io.EOF after the last.
func (w *writer) next() (*dynamicpb.Message, error) {
	var head [grpcwire.FrameHead]byte
	if _, err := io.ReadFull(w.answer, head[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			return nil, errMalformed
		}
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if int64(n) > int64(w.t.limit) {
		return nil, errTooLarge
	}
	data, err := readAll(w.answer, int(n))
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, errMalformed
		}
		return nil, err
	}
	switch {
	case head[0] == grpcwire.Compressed:
		if w.answer.Header.Get("Grpc-Encoding") != "gzip" {
			return nil, errMalformed
		}
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, errMalformed
		}
		if data, err = io.ReadAll(io.LimitReader(z, int64(w.t.limit)+1)); err != nil {
			return nil, errMalformed
		}
		if len(data) > w.t.limit {
			return nil, errTooLarge
		}
	case head[0] != 0:
		return nil, errMalformed
	}
	m := dynamicpb.NewMessage(w.b.method.Output())
	if (proto.UnmarshalOptions{Resolver: w.s.types}).Unmarshal(data, m) != nil {
		return nil, errMalformed
	}
	return m, nil
}

// readAll reads n bytes; what is reserved follows what comes.
func readAll(r io.Reader, n int) ([]byte, error) {
	var b bytes.Buffer
	m, err := io.CopyN(&b, r, int64(n))
	if err == io.EOF && m < int64(n) {
		err = io.ErrUnexpectedEOF
	}
	return b.Bytes(), err
}

// explain is the answer for what went wrong with the service's.
func (w *writer) explain(err error) error {
	switch err {
	case errMalformed:
		return rejectAnswer
	case errTooLarge:
		return rejectTooMuch
	}
	return w.answer.Explain(err)
}

// unary answers with the one message.
func (w *writer) unary() error {
	m, err := w.next()
	if err != nil && err != io.EOF {
		return w.explain(err)
	}
	if err == nil {
		// Nothing but the end may follow: the status, and no second message.
		if _, err = w.next(); err != io.EOF {
			if err == nil {
				err = errMalformed
			}
			return w.explain(err)
		}
	}
	if status := w.answer.Status(); status != nil {
		return w.fail(status.(*upstream.StatusError))
	}
	if m == nil {
		return rejectAnswer
	}
	body, contentType, err := w.body(m)
	if err != nil {
		return rejectAnswer
	}
	w.head(fasthttp.StatusOK, contentType)
	w.x.Response.SetBodyRaw(body)
	return nil
}

// head makes the head of the answer.
func (w *writer) head(status int, contentType string) {
	res := w.x.Response
	res.Reset()
	res.Header.DisableNormalizing()
	res.Header.SetNoDefaultContentType(true)
	res.SetStatusCode(status)
	for name, values := range w.answer.Header {
		if name == "Content-Type" || name == "Content-Length" || name == "Date" || name == "Trailer" || strings.HasPrefix(name, "Grpc-") ||
			exchange.KindOf([]byte(name)) != exchange.KindOther {
			continue
		}
		for _, v := range values {
			res.Header.Add(name, v)
		}
	}
	if contentType != "" {
		res.Header.SetContentType(contentType)
	}
	w.x.Answer = exchange.Proxied
}

const jsonType = "application/json"

// body renders a message, or the field of it that the answer is.
func (w *writer) body(m *dynamicpb.Message) (body []byte, contentType string, err error) {
	md := m.Descriptor()
	message := protoreflect.Message(m)
	if fd := w.b.response; fd != nil {
		if fd.Message() == nil || fd.IsList() || fd.IsMap() {
			body, err = w.field(m, fd)
			return body, jsonType, err
		}
		md, message = fd.Message(), m.Get(fd).Message()
	}
	if md.FullName() == httpBody {
		fields := md.Fields()
		contentType = message.Get(fields.ByName("content_type")).String()
		if strings.ContainsAny(contentType, "\r\n\x00") {
			return nil, "", errMalformed
		}
		return message.Get(fields.ByName("data")).Bytes(), contentType, nil
	}
	body, err = w.json(message.Interface())
	return body, jsonType, err
}

// json renders a message: exactly as ProtoJSON has it, without the spaces that
// protojson puts in to keep its readers from relying on none.
func (w *writer) json(m proto.Message) ([]byte, error) {
	o := w.t.write
	o.Resolver = resolver{w.s.types}
	b, err := o.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(len(b))
	if err := json.Compact(&out, b); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// field renders one field of a message, also where it has its default.
func (w *writer) field(m *dynamicpb.Message, fd protoreflect.FieldDescriptor) ([]byte, error) {
	only := dynamicpb.NewMessage(m.Descriptor())
	o := w.t.write
	o.Resolver = resolver{w.s.types}
	if m.Has(fd) {
		only.Set(fd, m.Get(fd))
	} else {
		o.EmitUnpopulated = true
	}
	b, err := o.Marshal(only)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, err
	}
	name := fd.JSONName()
	if o.UseProtoNames {
		name = string(fd.Name())
	}
	var out bytes.Buffer
	if err := json.Compact(&out, fields[name]); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// resolver knows the types of the service and those that this program has.
type resolver struct{ own *dynamicpb.Types }

func (r resolver) FindMessageByName(name protoreflect.FullName) (protoreflect.MessageType, error) {
	if mt, err := r.own.FindMessageByName(name); err == nil {
		return mt, nil
	}
	return protoregistry.GlobalTypes.FindMessageByName(name)
}

func (r resolver) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	return r.FindMessageByName(protoreflect.FullName(url[strings.LastIndexByte(url, '/')+1:]))
}

func (r resolver) FindExtensionByName(name protoreflect.FullName) (protoreflect.ExtensionType, error) {
	return r.own.FindExtensionByName(name)
}

func (r resolver) FindExtensionByNumber(message protoreflect.FullName, number protoreflect.FieldNumber) (protoreflect.ExtensionType, error) {
	return r.own.FindExtensionByNumber(message, number)
}

// problem is the answer of a call that failed (RFC 9457).
type problem struct {
	Type      string            `json:"type"`
	Title     string            `json:"title"`
	Status    int               `json:"status"`
	Detail    string            `json:"detail,omitempty"`
	Code      string            `json:"code"`
	Details   []json.RawMessage `json:"details,omitempty"`
	Instance  string            `json:"instance,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
}

// problemOf makes the problem of a status.
func (w *writer) problemOf(status *upstream.StatusError) *problem {
	p := &problem{
		Type: "urn:sluice:grpc_" + status.Code.String(), Status: status.Code.HTTP(), Detail: status.Message, Code: status.Code.Name(),
		Instance: string(w.x.Path), RequestID: string(w.x.RequestID),
	}
	if p.Title = http.StatusText(p.Status); p.Title == "" {
		p.Title = "Client Closed Request"
	}
	encoded := strings.TrimRight(w.answer.Details(), "=")
	data, err := base64.RawStdEncoding.DecodeString(encoded)
	full := new(spb.Status)
	if encoded == "" || err != nil || proto.Unmarshal(data, full) != nil || full.GetCode() != int32(status.Code) {
		return p
	}
	for _, detail := range full.GetDetails() {
		p.Details = append(p.Details, w.detail(detail))
	}
	return p
}

// detail renders a detail: as its type has it, or in base64 where that is unknown.
func (w *writer) detail(detail *anypb.Any) json.RawMessage {
	o := protojson.MarshalOptions{Resolver: resolver{w.s.types}, UseProtoNames: w.t.write.UseProtoNames}
	if b, err := o.Marshal(detail); err == nil {
		var out bytes.Buffer
		if json.Compact(&out, b) == nil {
			return out.Bytes()
		}
	}
	b, _ := json.Marshal(map[string]any{"@type": detail.GetTypeUrl(), "value": detail.GetValue()})
	return b
}

// fail answers with the status of the call.
func (w *writer) fail(status *upstream.StatusError) error {
	body, err := json.Marshal(w.problemOf(status))
	if err != nil {
		return rejectAnswer
	}
	w.head(status.Code.HTTP(), "application/problem+json")
	if status.Code == grpcwire.Unauthenticated {
		w.x.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, "Bearer")
	}
	w.x.Response.SetBodyRaw(append(body, '\n'))
	return nil
}
