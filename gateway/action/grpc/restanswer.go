package grpc

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
)

// run sends the request and answers the call.
func (r *restCall) run() error {
	err := r.t.service.Forward(r.child)
	x, c := r.x, r.child
	x.Service, x.Endpoint, x.Attempts, x.UpstreamStatus, x.UpstreamTime = c.Service, c.Endpoint, c.Attempts, c.UpstreamStatus, c.UpstreamTime
	if err != nil {
		for _, e := range c.ToClient.List() {
			x.ToClient.Set(e.Name, x.Copy(e.Value))
		}
		err = r.refused(err)
		r.end()
		return err
	}
	status := c.Response.StatusCode()
	media, _, _ := strings.Cut(strings.ToLower(string(c.ResponseHeader(fasthttp.HeaderContentType))), ";")
	if r.b.method.IsStreamingServer() && status < 300 && (strings.HasSuffix(media, "ndjson") || strings.HasSuffix(media, "jsonl")) {
		r.stream()
		return nil
	}
	defer r.end()
	body, whole, err := c.HoldResponse(r.t.limit)
	switch {
	case err != nil:
		return r.refused(err)
	case !whole:
		return rejectBigAnswer
	case status < 200 || status > 299:
		r.fail(restStatus(status, body))
		return nil
	}
	frames, err := r.frames(body, string(c.ResponseHeader(fasthttp.HeaderContentType)))
	if err != nil {
		return err
	}
	r.head()
	x.Response.SetBodyRaw(append(frames, r.status(grpcwire.OK, "")...))
	return nil
}

// refused is the answer where there is none of the service.
func (r *restCall) refused(err error) error {
	if r.child.Aborted.Load() {
		if r.until != 0 && r.x.Clock.Now() >= r.until {
			return rejectLateCall
		}
		r.x.Aborted.Store(true)
	}
	return err
}

// frames are the messages of an answer that is held.
func (r *restCall) frames(body []byte, contentType string) ([]byte, error) {
	if trimmed := bytes.TrimSpace(body); r.b.method.IsStreamingServer() && len(trimmed) > 0 && trimmed[0] == '[' && r.b.method.Output().FullName() != httpBody {
		var list []json.RawMessage
		if json.Unmarshal(trimmed, &list) != nil {
			return nil, rejectBadAnswer
		}
		var frames []byte
		for _, element := range list {
			frame, err := r.frame(element, "")
			if err != nil {
				return nil, err
			}
			frames = append(frames, frame...)
		}
		return frames, nil
	}
	return r.frame(body, contentType)
}

// frame makes a message of what the service answered.
func (r *restCall) frame(body []byte, contentType string) ([]byte, error) {
	m := dynamicpb.NewMessage(r.b.method.Output())
	if !r.fill(m, body, contentType) {
		return nil, rejectBadAnswer
	}
	data, err := proto.Marshal(m)
	if err != nil {
		return nil, rejectBadAnswer
	}
	return grpcwire.AppendFrame(nil, 0, data), nil
}

func (r *restCall) fill(m protoreflect.Message, body []byte, contentType string) bool {
	o := protojson.UnmarshalOptions{DiscardUnknown: true, Resolver: resolver{r.t.fixed.types}}
	into, empty := m, len(bytes.TrimSpace(body)) == 0
	if fd := r.b.response; fd != nil {
		if fd.Message() == nil || fd.IsList() || fd.IsMap() || fd.Message().FullName() != httpBody {
			if empty {
				return true
			}
			if !json.Valid(body) {
				return false
			}
			around := append(append([]byte(`{"`+fd.JSONName()+`":`), body...), '}')
			return o.Unmarshal(around, m.Interface()) == nil
		}
		into = m.Mutable(fd).Message()
	}
	if into.Descriptor().FullName() == httpBody {
		fields := into.Descriptor().Fields()
		into.Set(fields.ByName("content_type"), protoreflect.ValueOfString(strings.ToValidUTF8(contentType, "")))
		into.Set(fields.ByName("data"), protoreflect.ValueOfBytes(bytes.Clone(body)))
		return true
	}
	return empty || o.Unmarshal(body, into.Interface()) == nil
}

// head begins the answer of the call, with the headers of the service's as metadata.
func (r *restCall) head() {
	x := r.x
	res := x.Response
	res.Reset()
	h := &res.Header
	h.DisableNormalizing()
	h.SetNoDefaultContentType(true)
	res.SetStatusCode(fasthttp.StatusOK)
	for name, value := range r.child.Response.Header.All() {
		if exchange.KindOf(name) != exchange.KindOther || isAnswers(name) {
			continue
		}
		h.Add(string(name), string(value))
	}
	contentType := "application/grpc"
	if r.kind == grpcwire.Web {
		contentType = string(x.RequestHeader(fasthttp.HeaderContentType))
	}
	h.SetContentType(contentType)
	x.Answer, x.Head = exchange.Proxied, nil
}

// isAnswers tells fields that are about the form of the service's answer.
func isAnswers(name []byte) bool {
	lower := strings.ToLower(string(name))
	switch lower {
	case "content-type", "content-length", "content-encoding", "transfer-encoding", "date", "trailer", "accept-ranges", "connection":
		return true
	}
	return strings.HasPrefix(lower, "grpc-")
}

// fail answers with a status alone.
func (r *restCall) fail(code grpcwire.Code, message string) {
	r.head()
	x := r.x
	h := &x.Response.Header
	if r.kind == grpcwire.Native {
		x.Response.SkipBody = true
	}
	h.Set("grpc-status", strconv.Itoa(int(code)))
	h.SetBytesV("grpc-message", grpcwire.AppendMessage(nil, message))
	x.RPCStatus = uint8(code) + 1
}

// restStatus is the status of gRPC that an error of a service of REST stands for.
func restStatus(status int, body []byte) (grpcwire.Code, string) {
	code := ofREST(status)
	type said struct {
		Code    any
		Status  any
		Message string
		Detail  string
		Title   string
		Error   json.RawMessage
	}
	var s said
	if json.Unmarshal(body, &s) != nil {
		return code, http.StatusText(status)
	}
	if inner := new(said); len(s.Error) > 0 && json.Unmarshal(s.Error, inner) == nil {
		s = *inner // as Google's services have it
	}
	for _, name := range []any{s.Code, s.Status} {
		if text, ok := name.(string); ok {
			if named, known := grpcwire.CodeNamed(strings.ToLower(text)); known && named != grpcwire.OK {
				code = named
				break
			}
		}
	}
	for _, message := range []string{s.Detail, s.Message, s.Title} {
		if message != "" {
			return code, message
		}
	}
	return code, http.StatusText(status)
}

// ofREST is the code that google/rpc/code.proto maps to a status, the most general where there are several.
func ofREST(status int) grpcwire.Code {
	switch status {
	case 400, 422:
		return grpcwire.InvalidArgument
	case 401:
		return grpcwire.Unauthenticated
	case 403:
		return grpcwire.PermissionDenied
	case 404, 410:
		return grpcwire.NotFound
	case 409:
		return grpcwire.Aborted
	case 412:
		return grpcwire.FailedPrecondition
	case 416:
		return grpcwire.OutOfRange
	case 429:
		return grpcwire.ResourceExhausted
	case 499:
		return grpcwire.Cancelled
	case 500:
		return grpcwire.Internal
	case 405, 501:
		return grpcwire.Unimplemented
	case 502, 503:
		return grpcwire.Unavailable
	case 504:
		return grpcwire.DeadlineExceeded
	}
	if status >= 400 && status <= 499 {
		return grpcwire.FailedPrecondition
	}
	return grpcwire.Unknown
}

// webTrailer is the frame that ends an answer of gRPC-Web.
func webTrailer(code grpcwire.Code, message string) []byte {
	text := append([]byte("grpc-status: "), strconv.Itoa(int(code))...)
	if message != "" {
		text = grpcwire.AppendMessage(append(text, "\r\ngrpc-message: "...), message)
	}
	return grpcwire.AppendFrame(nil, grpcwire.Trailer, append(text, "\r\n"...))
}

// stream makes each line of the service's answer a message.
func (r *restCall) stream() {
	r.head()
	lines := bufio.NewReaderSize(bytes.NewReader(nil), 4<<10)
	if s := r.child.Response.BodyStream(); s != nil {
		lines.Reset(s)
	} else {
		lines.Reset(bytes.NewReader(r.child.Response.Body()))
	}
	s := &restStream{restCall: r, lines: lines}
	s.Messages = exchange.Messages{X: r.x, Next: s.next, End: r.end}
	r.x.Response.SetBodyStream(s, -1)
	r.x.Response.ImmediateHeaderFlush = true
}

// restStream is the body of an answer of many messages.
type restStream struct {
	exchange.Messages
	*restCall
	lines *bufio.Reader
}

var (
	_ fasthttp.BodyWriterTo   = (*restStream)(nil)
	_ exchange.ResponseStream = (*restStream)(nil)
)

// trailing is a client's connection that takes trailers of any name.
type trailing interface{ Trailer(name, value string) }

// next is the next message, or the end, as it has passed the hooks.
func (s *restStream) next() (chunk []byte, err error) {
	code, message := grpcwire.OK, ""
	line, err := s.line()
	switch err {
	case nil:
		if c, m, failed := s.failure(line); failed {
			s.Over, code, message = true, c, m
			break
		}
		if chunk, err = s.frame(line, ""); err != nil {
			s.Over, code, message = true, grpcwire.Internal, rejectBadAnswer.Detail
		}
	case io.EOF:
		s.Over = true
	default:
		s.Over = true
		if s.child.Aborted.Load() && (s.until == 0 || s.x.Clock.Now() < s.until) {
			s.x.Aborted.Store(true)
			s.x.RPCStatus = uint8(grpcwire.Cancelled) + 1
			return nil, exchange.ErrClientGone
		}
		code, message = grpcwire.Unavailable, "the service's answer could not be read to its end"
		switch {
		case err == errTooLarge:
			code, message = grpcwire.ResourceExhausted, rejectBigAnswer.Detail
		case s.child.Aborted.Load():
			code, message = grpcwire.DeadlineExceeded, rejectLateCall.Detail
		}
	}
	if s.Over {
		chunk = append(chunk, s.status(code, message)...)
	}
	if s.x.HasBodyHooks() {
		return s.x.PushBody(chunk, s.Over)
	}
	return chunk, nil
}

// line is the next line that is not empty.
func (s *restStream) line() ([]byte, error) {
	var line []byte
	for {
		piece, err := s.lines.ReadSlice('\n')
		line = append(line, piece...)
		switch {
		case len(line) > s.t.limit:
			return nil, errTooLarge
		case err == bufio.ErrBufferFull:
			continue
		case err != nil && (err != io.EOF || len(bytes.TrimSpace(line)) == 0):
			return nil, err
		case len(bytes.TrimSpace(line)) == 0:
			line = line[:0]
			continue
		}
		return line, nil
	}
}

// failure reads a line that tells how the stream has failed, as this action writes one; it is no message that has a field of that name.
func (s *restStream) failure(line []byte) (grpcwire.Code, string, bool) {
	if !bytes.HasPrefix(line, []byte(`{"error":`)) || fieldNamed(s.b.method.Output(), "error") != nil {
		return 0, "", false
	}
	code, message := restStatus(0, line)
	return code, message, true
}

// status ends the call: with trailers, which for gRPC-Web are a frame.
func (r *restCall) status(code grpcwire.Code, message string) []byte {
	r.x.RPCStatus = uint8(code) + 1
	if r.kind == grpcwire.Web {
		return webTrailer(code, message)
	}
	if c, ok := r.x.Client.(trailing); ok {
		c.Trailer("Grpc-Status", strconv.Itoa(int(code)))
		if message != "" {
			c.Trailer("Grpc-Message", string(grpcwire.AppendMessage(nil, message)))
		}
	}
	return nil
}
