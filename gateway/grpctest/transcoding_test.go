package grpctest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bufbuild/protocompile"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "google.golang.org/genproto/googleapis/api/httpbody"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	v1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// library is the service of testdata/library.proto.
type library struct {
	files    *protoregistry.Files
	set      string // the file of its descriptors
	service  protoreflect.ServiceDescriptor
	address  string
	metadata atomic.Pointer[metadata.MD] // of the last call
}

func compileLibrary(t testing.TB) *library {
	t.Helper()
	c := protocompile.Compiler{Resolver: protocompile.CompositeResolver{
		&protocompile.SourceResolver{ImportPaths: []string{"testdata"}},
		protocompile.ResolverFunc(func(path string) (protocompile.SearchResult, error) {
			fd, err := protoregistry.GlobalFiles.FindFileByPath(path)
			return protocompile.SearchResult{Desc: fd}, err
		}),
	}}
	compiled, err := c.Compile(context.Background(), "library.proto")
	if err != nil {
		t.Fatal(err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	seen := map[string]bool{}
	var add func(fd protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(fd))
	}
	add(compiled[0])
	data, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	l := &library{set: filepath.Join(t.TempDir(), "library.pb")}
	if err := os.WriteFile(l.set, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if l.files, err = protodesc.NewFiles(set); err != nil {
		t.Fatal(err)
	}
	d, err := l.files.FindDescriptorByName("lib.v1.Library")
	if err != nil {
		t.Fatal(err)
	}
	l.service = d.(protoreflect.ServiceDescriptor)
	return l
}

// serveLibrary runs the service; more registers what stands beside it.
func serveLibrary(t testing.TB, more func(*grpc.Server, *library)) *library {
	l := compileLibrary(t)
	l.address = serve(t, func(s *grpc.Server) {
		if more != nil {
			more(s, l)
		}
	}, grpc.UnknownServiceHandler(l.handle))
	return l
}

func (l *library) handle(_ any, st grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(st)
	service, name, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	method := l.service.Methods().ByName(protoreflect.Name(name))
	if service != "lib.v1.Library" || method == nil {
		return status.Errorf(codes.Unimplemented, "no method %s", full)
	}
	md, _ := metadata.FromIncomingContext(st.Context())
	l.metadata.Store(&md)
	_ = st.SetHeader(metadata.Pairs("x-shelf", "12"))
	in := dynamicpb.NewMessage(method.Input())
	if err := st.RecvMsg(in); err != nil && err != io.EOF {
		return err
	}
	get := func(m *dynamicpb.Message, field string) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(field)))
	}
	fail := func() error {
		s := status.New(codes.Code(get(in, "code").Int()), get(in, "message").String())
		if get(in, "detailed").Bool() {
			s, _ = s.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "name", Description: "too short"}}})
		}
		return s.Err()
	}
	out := dynamicpb.NewMessage(method.Output())
	set := func(field string, v protoreflect.Value) {
		out.Set(out.Descriptor().Fields().ByName(protoreflect.Name(field)), v)
	}
	switch name {
	case "Fail":
		return fail()
	case "WatchFail":
		for range get(in, "after").Int() {
			if err := st.SendMsg(out); err != nil {
				return err
			}
		}
		return fail()
	case "Watch":
		for i := range get(in, "count").Int() {
			set("count", protoreflect.ValueOfInt32(int32(i)))
			if err := st.SendMsg(out); err != nil {
				return err
			}
		}
		return nil
	case "WatchContent":
		for _, part := range []string{"one,", "two"} {
			set("content_type", protoreflect.ValueOfString("text/csv"))
			set("data", protoreflect.ValueOfBytes([]byte(part)))
			if err := st.SendMsg(out); err != nil {
				return err
			}
		}
		return nil
	case "Collect":
		n := int32(0)
		for {
			n += int32(get(in, "count").Int())
			in = dynamicpb.NewMessage(method.Input())
			if err := st.RecvMsg(in); err == io.EOF {
				set("count", protoreflect.ValueOfInt32(n))
				return st.SendMsg(out)
			} else if err != nil {
				return err
			}
		}
	case "Chat":
		for {
			if err := st.SendMsg(in); err != nil {
				return err
			}
			in = dynamicpb.NewMessage(method.Input())
			if err := st.RecvMsg(in); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	return st.SendMsg(in)
}

// rest is a gateway that translates REST for the library.
func (l *library) rest(t testing.TB, settings, more string) *gate {
	t.Helper()
	if !strings.Contains(settings, "reflection") {
		settings = fmt.Sprintf("descriptors: %q", l.set) + comma(settings)
	}
	return open(t, "h2c: true", fmt.Sprintf("services: {s: {protocol: grpc, endpoints: [\"http://%s\"]}}\nroutes: {r: {match: {paths: [/]}, grpc: {service: s, %s}}}\n%s", l.address, settings, more))
}

type request struct {
	method, target, body string
	contentType          string
	accept               string
}

func (g *gate) do(r request) (res *http.Response, body string) {
	g.t.Helper()
	var from io.Reader
	if r.body != "" {
		from = strings.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(bounded(g.t), r.method, "http://"+g.addr+r.target, from)
	if err != nil {
		g.t.Fatal(err)
	}
	if r.contentType == "" && r.body != "" {
		r.contentType = "application/json"
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	if res, err = http.DefaultClient.Do(req); err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return res, string(b) + " !" + err.Error()
	}
	return res, string(b)
}

// TestTranscoding is the table of the rules: each request is answered with the message that it became.
func TestTranscoding(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "", "")
	cases := 0
	f := func(method, target, body, want string) {
		t.Helper()
		cases++
		res, got := g.do(request{method: method, target: target, body: body})
		if res.StatusCode != 200 || got != want {
			t.Errorf("%s %s %s: %d %s\n  want %s", method, target, body, res.StatusCode, got, want)
		}
	}
	// Paths.
	f("GET", "/v1/items/a", "", `{"name":"a"}`)
	f("GET", "/v1/items/a%20b", "", `{"name":"a b"}`)
	f("GET", "/v1/items/%C3%A9", "", `{"name":"é"}`)
	f("GET", "/v1/shelves/1/items/b", "", `{"name":"b","parent":"shelves/1"}`)
	f("GET", "/v1/numbers/42", "", `{"count":42}`)
	f("GET", "/v1/numbers/-7", "", `{"count":-7}`)
	f("GET", "/v1/times/2024-01-02T03:04:05Z", "", `{"at":"2024-01-02T03:04:05Z"}`)
	f("GET", "/v1/colors/GREEN", "", `{"color":"GREEN"}`)
	f("GET", "/v1/colors/1", "", `{"color":"RED"}`)
	f("GET", "/v1/files/a", "", `{"name":"a"}`)
	f("GET", "/v1/files/a/b/c", "", `{"name":"a/b/c"}`)
	f("GET", "/v1/projects/p/things/x/y", "", `{"name":"projects/p/things/x/y"}`)
	f("GET", "/v1/projects/p/things", "", `{"name":"projects/p/things"}`)
	f("GET", "/v1/items", "", `{}`)
	f("GET", "/v1/items/best", "", `""`)
	f("GET", "/v1/items/best?name=x", "", `"x"`)
	f("GET", "/v1/streets/Main%20St/12", "", `{"nested":{"street":"Main St","inner":{"number":12}}}`)
	f("GET", "/v1/star/any/of/z", "", `{"name":"z"}`)
	f("REPORT", "/v1/report", "", `{}`)
	f("GET", "/v1/any", "", `{}`)
	f("DELETE", "/v1/any", "", `{}`)
	f("DELETE", "/v1/items/a", "", `{"name":"a"}`)
	// Verbs.
	f("POST", "/v1/items/a:archive", "", `{"name":"a"}`)
	f("POST", "/v1/items/a:archive", `{"count":1}`, `{"name":"a","count":1}`)
	f("POST", "/v1/items:batch", `{"count":1}`, `{"count":1}`)
	f("POST", "/v1/files/a/b:move", "", `{"name":"files/a/b"}`)
	f("GET", "/v1/items/a:b", "", `{"name":"a:b"}`)
	f("GET", "/v1/items/a:b:c", "", `{"name":"a:b:c"}`)
	// Bodies.
	f("POST", "/v1/items", `{"name":"n"}`, `{"name":"n"}`)
	f("POST", "/v1/items", `{}`, `{}`)
	f("POST", "/v1/items", "", `{}`)
	f("POST", "/v1/items", "  \n {\"count\": 1\n}", `{"count":1}`)
	f("PUT", "/v1/items/path", `{"name":"body","count":2}`, `{"name":"path","count":2}`)
	f("PATCH", "/v1/items/a", `{"street":"s"}`, `{"name":"a","nested":{"street":"s"}}`)
	f("PATCH", "/v1/items/a?count=3", `{"street":"s"}`, `{"name":"a","count":3,"nested":{"street":"s"}}`)
	f("PATCH", "/v1/items/a", "", `{"name":"a"}`)
	f("POST", "/v1/items/a/children", `[{"street":"x"},{"number":2}]`, `[{"street":"x"},{"number":2}]`)
	f("POST", "/v1/items/a/children", `[]`, `[]`)
	f("POST", "/v1/items/a/labels", `{"k":"v"}`, `{"k":"v"}`)
	f("GET", "/v1/items/a/nested?nested.street=s", "", `{"street":"s"}`)
	f("GET", "/v1/items/a/nested", "", `{}`)
	f("GET", "/v1/items/a/tags?tags=x&tags=y", "", `["x","y"]`)
	f("GET", "/v1/items/a/tags", "", `[]`)
	f("GET", "/v1/items/a/count?count=5", "", `5`)
	f("GET", "/v1/items/a/count", "", `0`)
	// The query.
	f("GET", "/v1/items?name=a&parent=b", "", `{"name":"a","parent":"b"}`)
	f("GET", "/v1/items?count=1", "", `{"count":1}`)
	f("GET", "/v1/items?count=0", "", `{}`)
	f("GET", "/v1/items?maybe=0", "", `{"maybe":0}`)
	f("GET", "/v1/items?big=9223372036854775807", "", `{"big":"9223372036854775807"}`)
	f("GET", "/v1/items?huge=18446744073709551615", "", `{"huge":"18446744073709551615"}`)
	f("GET", "/v1/items?small=4294967295&fixed=1&zigzag=-5", "", `{"small":4294967295,"zigzag":"-5","fixed":1}`)
	f("GET", "/v1/items?ratio=1.5", "", `{"ratio":1.5}`)
	f("GET", "/v1/items?ratio=1e3", "", `{"ratio":1000}`)
	f("GET", "/v1/items?ratio=NaN&rough=-Infinity", "", `{"ratio":"NaN","rough":"-Infinity"}`)
	f("GET", "/v1/items?flag=true", "", `{"flag":true}`)
	f("GET", "/v1/items?flag=false", "", `{}`)
	f("GET", "/v1/items?data=aGk%3D", "", `{"data":"aGk="}`)
	f("GET", "/v1/items?data=-_8", "", `{"data":"+/8="}`)
	f("GET", "/v1/items?color=RED", "", `{"color":"RED"}`)
	f("GET", "/v1/items?color=2", "", `{"color":"GREEN"}`)
	f("GET", "/v1/items?color=77", "", `{"color":77}`)
	f("GET", "/v1/items?nested.street=a+b&nested.number=2", "", `{"nested":{"street":"a b","number":2}}`)
	f("GET", "/v1/items?nested.inner.inner.lines=1&nested.inner.inner.lines=2", "", `{"nested":{"inner":{"inner":{"lines":["1","2"]}}}}`)
	f("GET", "/v1/items?nested.color=GREEN", "", `{"nested":{"color":"GREEN"}}`)
	f("GET", "/v1/items?tags=a&tags=b&tags=", "", `{"tags":["a","b",""]}`)
	f("GET", "/v1/items?numbers=3&numbers=1", "", `{"numbers":[3,1]}`)
	f("GET", "/v1/items?colors=RED&colors=2", "", `{"colors":["RED","GREEN"]}`)
	f("GET", "/v1/items?at=2024-01-02T03:04:05.678Z", "", `{"at":"2024-01-02T03:04:05.678Z"}`)
	f("GET", "/v1/items?at=2024-01-02T03:04:05%2B01:00", "", `{"at":"2024-01-02T02:04:05Z"}`)
	f("GET", "/v1/items?times=2024-01-02T03:04:05Z&times=2025-01-02T03:04:05Z", "", `{"times":["2024-01-02T03:04:05Z","2025-01-02T03:04:05Z"]}`)
	f("GET", "/v1/items?took=1.5s", "", `{"took":"1.500s"}`)
	f("GET", "/v1/items?mask=name,displayName", "", `{"mask":"name,displayName"}`)
	f("GET", "/v1/items?mask=name,display_name", "", `{"mask":"name,displayName"}`)
	f("GET", "/v1/items?textValue=", "", `{"textValue":""}`)
	f("GET", "/v1/items?text_value=x", "", `{"textValue":"x"}`)
	f("GET", "/v1/items?intValue=0", "", `{"intValue":0}`)
	f("GET", "/v1/items?longValue=5", "", `{"longValue":"5"}`)
	f("GET", "/v1/items?boolValue=false", "", `{"boolValue":false}`)
	f("GET", "/v1/items?bytesValue=aGk", "", `{"bytesValue":"aGk="}`)
	f("GET", "/v1/items?doubleValue=2.5", "", `{"doubleValue":2.5}`)
	f("GET", "/v1/items?displayName=a&left=b", "", `{"left":"b","displayName":"a"}`)
	f("GET", "/v1/items?display_name=%E2%98%BA", "", `{"displayName":"☺"}`)
	f("GET", "/v1/items?right=0", "", `{"right":0}`)
	f("GET", "/v1/items?&&name=a&", "", `{"name":"a"}`)
	// JSON, exactly.
	f("POST", "/v1/items", `{"big":"-5","huge":7}`, `{"big":"-5","huge":"7"}`)
	f("POST", "/v1/items", `{"count":1e2}`, `{"count":100}`)
	f("POST", "/v1/items", `{"count":"12"}`, `{"count":12}`)
	f("POST", "/v1/items", `{"display_name":"a"}`, `{"displayName":"a"}`)
	f("POST", "/v1/items", `{"name":null,"tags":null}`, `{}`)
	f("POST", "/v1/items", `{"color":"RED","colors":["RED",2]}`, `{"color":"RED","colors":["RED","GREEN"]}`)
	f("POST", "/v1/items", `{"data":"-_8"}`, `{"data":"+/8="}`)
	f("POST", "/v1/items", `{"labels":{"a":"1"}}`, `{"labels":{"a":"1"}}`)
	f("POST", "/v1/items", `{"struct":{"a":[1,null,{"b":true}]}}`, `{"struct":{"a":[1,null,{"b":true}]}}`)
	f("POST", "/v1/items", `{"value":null}`, `{"value":null}`)
	f("POST", "/v1/items", `{"value":[1,"x"]}`, `{"value":[1,"x"]}`)
	f("POST", "/v1/items", `{"any":{"@type":"type.googleapis.com/lib.v1.Nested","street":"s"}}`, `{"any":{"@type":"type.googleapis.com/lib.v1.Nested","street":"s"}}`)
	f("POST", "/v1/items", `{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"3s"}}`, `{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"3s"}}`)
	f("POST", "/v1/items", `{"at":"2024-01-02T03:04:05.000000001Z","took":"-1.5s"}`, `{"at":"2024-01-02T03:04:05.000000001Z","took":"-1.500s"}`)
	f("POST", "/v1/items", `{"textValue":"x","boolValue":true,"intValue":3,"doubleValue":"NaN"}`, `{"textValue":"x","intValue":3,"boolValue":true,"doubleValue":"NaN"}`)
	f("POST", "/v1/items", `{"nested":{"inner":{"street":"deep"}}}`, `{"nested":{"inner":{"street":"deep"}}}`)
	f("POST", "/v1/items", `{"left":"l"}`, `{"left":"l"}`)
	f("POST", "/v1/items", `{"maybe":0}`, `{"maybe":0}`)
	f("POST", "/v1/items", `{"name":"a\u0000\"<>&"}`, `{"name":"a\u0000\"<>&"}`)
	f("POST", "/v1/items", `{"ratio":1.7976931348623157e308,"rough":"Infinity"}`, `{"ratio":1.7976931348623157e+308,"rough":"Infinity"}`)
	f("POST", "/v1/items", `{"mask":"a,bC.d"}`, `{"mask":"a,bC.d"}`)

	// Mistakes: the status, and what the detail says.
	no := func(method, target, body string, wantStatus int, want string) {
		t.Helper()
		cases++
		res, got := g.do(request{method: method, target: target, body: body})
		var p struct {
			Detail string
			Status int
		}
		_ = json.Unmarshal([]byte(got), &p)
		if res.StatusCode != wantStatus || p.Status != wantStatus || !strings.Contains(p.Detail, want) || res.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s %s: %d %s\n  want %d %s", method, target, body, res.StatusCode, got, wantStatus, want)
		}
	}
	no("POST", "/v1/items", `{"name":`, 400, "name")
	no("POST", "/v1/items", `nonsense`, 400, "line 1, column 1")
	no("POST", "/v1/items", `{"count":"x"}`, 400, "at count")
	no("POST", "/v1/items", `{"count":1.5}`, 400, "at count")
	no("POST", "/v1/items", `{"count":2147483648}`, 400, "at count")
	no("POST", "/v1/items", "{\"nested\":{\"inner\":\n{\"number\":\"x\"}}}", 400, "at nested.inner.number (line 2")
	no("POST", "/v1/items", `{"children":[{},{"number":true}]}`, 400, "at children[1].number")
	no("POST", "/v1/items", `{"nested":{"nothing":1}}`, 400, "nested.nothing")
	no("POST", "/v1/items", `{"nothing":1}`, 400, `"nothing"`)
	no("POST", "/v1/items", `{"color":"PINK"}`, 400, "at color")
	no("POST", "/v1/items", `{"at":"yesterday"}`, 400, "at at")
	no("POST", "/v1/items", `{"data":"*"}`, 400, "at data")
	no("POST", "/v1/items", `{"left":"a","right":1}`, 400, "choice")
	no("POST", "/v1/items", `{"name":"a","name":"b"}`, 400, "name")
	no("POST", "/v1/items", `{} {}`, 400, "")
	no("POST", "/v1/items", `[]`, 400, "")
	no("PATCH", "/v1/items/a", `{"number":"x"}`, 400, "at nested.number (line 1, column 11)")
	no("PATCH", "/v1/items/a", `{}, "count": 1`, 400, "")
	no("GET", "/v1/items?count=x", "", 400, `parameter count: "x" is no int32`)
	no("GET", "/v1/items?nothing=1", "", 400, "there is no field nothing")
	no("GET", "/v1/items?nested.nothing=1", "", 400, "nested.nothing")
	no("GET", "/v1/items?nested=1", "", 400, "its fields")
	no("GET", "/v1/items?labels=1", "", 400, "map")
	no("GET", "/v1/items?name.x=1", "", 400, "has no fields")
	no("GET", "/v1/items?name=a&name=b", "", 400, "twice")
	no("GET", "/v1/items?left=a&right=1", "", 400, "only one of choice")
	no("GET", "/v1/items?flag=yes", "", 400, "true or false")
	no("GET", "/v1/items?color=PINK", "", 400, "no Color")
	no("GET", "/v1/items?at=now", "", 400, "no Timestamp")
	no("GET", "/v1/items?name=%zz", "", 400, "escape")
	no("GET", "/v1/items/a?name=b", "", 400, "set by the path")
	no("PATCH", "/v1/items/a?nested.street=b", `{}`, 400, "set by the path or the body")
	no("GET", "/v1/numbers/many", "", 400, `the path: "many" is no int32`)
	no("GET", "/v1/nowhere", "", 404, "")
	no("GET", "/v1/items/a/b/c", "", 404, "")
	no("POST", "/v1/items/a:nothing", "", 405, "")
	no("DELETE", "/v1/items", "", 405, "")
	no("POST", "/lib.v1.Library/Plain", `{}`, 404, "")

	// Statuses.
	for code, want := range map[codes.Code]int{
		codes.Canceled: 499, codes.Unknown: 500, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504, codes.NotFound: 404, codes.AlreadyExists: 409,
		codes.PermissionDenied: 403, codes.ResourceExhausted: 429, codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400,
		codes.Unimplemented: 501, codes.Internal: 500, codes.Unavailable: 503, codes.DataLoss: 500, codes.Unauthenticated: 401,
	} {
		no("GET", fmt.Sprintf("/v1/fail/%d?message=it%%20is%%20%%E2%%98%%BA", code), "", want, "it is ☺")
	}
	if cases < 120 {
		t.Errorf("%d cases", cases)
	}
}

// A failure tells its code and details.
func TestTranscodedDetails(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "", "")
	res, body := g.do(request{method: "GET", target: "/v1/fail/3?message=no&detailed=true"})
	var p map[string]any
	_ = json.Unmarshal([]byte(body), &p)
	want := `[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"description":"too short","field":"name"}]}]`
	if got, _ := json.Marshal(p["details"]); res.StatusCode != 400 || p["code"] != "INVALID_ARGUMENT" || p["detail"] != "no" || string(got) != want {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

// Settings of JSON.
func TestTranscodedForms(t *testing.T) {
	l := serveLibrary(t, nil)
	f := func(settings, target, want string) {
		t.Helper()
		if res, got := l.rest(t, settings, "").do(request{method: "GET", target: target}); res.StatusCode != 200 || !strings.Contains(got, want) {
			t.Errorf("%s %s: %d %s", settings, target, res.StatusCode, got)
		}
	}
	f("proto_names: true", "/v1/items?displayName=a", `{"display_name":"a"}`)
	f("enum_numbers: true", "/v1/items?color=RED", `{"color":1}`)
	f("emit_defaults: true", "/v1/items", `"count":0`)
	f("ignore_unknown: true", "/v1/items?nothing=1&name=a", `{"name":"a"}`)
}

// Headers, methods and media types.
func TestTranscodedHTTP(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "max_message: 1KiB", "")
	res, _ := g.do(request{method: "DELETE", target: "/v1/items"})
	if got := res.Header.Get("Allow"); got != "GET, POST" {
		t.Errorf("Allow: %s", got)
	}
	res, body := g.do(request{method: "GET", target: "/v1/items?name=a", accept: "application/json"})
	if res.Header.Get("X-Shelf") != "12" || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Grpc-Status") != "" || body != `{"name":"a"}` {
		t.Errorf("%v %s", res.Header, body)
	}
	if got := (*l.metadata.Load())["content-type"]; !slices.Equal(got, []string{"application/grpc+proto"}) {
		t.Errorf("content-type %q", got)
	}
	if got := (*l.metadata.Load())["x-forwarded-for"]; !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("x-forwarded-for %q", got)
	}
	if res, body := g.do(request{method: "HEAD", target: "/v1/items"}); res.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d", res.StatusCode)
	}
	want := func(status int, r request) {
		t.Helper()
		if res, body := g.do(r); res.StatusCode != status {
			t.Errorf("%+v: %d %s", r, res.StatusCode, body)
		}
	}
	want(200, request{method: "POST", target: "/v1/items", body: `{}`, contentType: "application/json; charset=UTF-8"})
	want(200, request{method: "POST", target: "/v1/items", body: `{}`, contentType: "application/vnd.x+json"})
	want(415, request{method: "POST", target: "/v1/items", body: `{}`, contentType: "text/plain"})
	want(415, request{method: "POST", target: "/v1/items", body: `{}`, contentType: "application/json; charset=latin1"})
	want(413, request{method: "POST", target: "/v1/items", body: `{"name":"` + strings.Repeat("x", 1100) + `"}`})
	want(415, request{method: "POST", target: "/v1/collect", body: `{}`})
	want(400, request{method: "GET", target: "/v1/items", body: `{"a":1}`})
	res, body = g.do(request{method: "POST", target: "/v1/upload", body: "\x00raw", contentType: "image/png"})
	if res.Header.Get("Content-Type") != "image/png" || body != "\x00raw" {
		t.Errorf("HttpBody: %v %q", res.Header, body)
	}
	res, body = g.do(request{method: "POST", target: "/v1/documents/n", body: "raw", contentType: "text/x-thing"})
	if res.Header.Get("Content-Type") != "text/x-thing" || body != "raw" {
		t.Errorf("HttpBody in a field: %v %q", res.Header, body)
	}
}

// Streams, in the forms that clients accept.
func TestTranscodedStreams(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "max_message: 1KiB", "")
	f := func(target, accept, wantType, want string) {
		t.Helper()
		res, got := g.do(request{method: "GET", target: target, accept: accept})
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != wantType || !strings.HasPrefix(got, want) || !strings.HasSuffix(want, "…") && got != want && !strings.Contains(got, "error") {
			t.Errorf("%s %s: %d %v %q", target, accept, res.StatusCode, res.Header.Get("Content-Type"), got)
		}
	}
	f("/v1/watch/a?count=3", "", "application/json", `[{},{"count":1},{"count":2}]`)
	f("/v1/watch/a?count=0", "*/*", "application/json", `[]`)
	f("/v1/watch/a?count=2", "application/x-ndjson", "application/x-ndjson", "{}\n{\"count\":1}\n")
	f("/v1/watch/a?count=2", "text/event-stream", "text/event-stream", "data: {}\n\ndata: {\"count\":1}\n\n")
	f("/v1/download/a", "", "text/csv", "one,two")
	f("/v1/watchfail/5?after=1&message=gone", "application/x-ndjson", "application/x-ndjson", "{}\n{\"error\":{\"type\":\"urn:sluice:grpc_not_found\"")
	f("/v1/watchfail/5?after=1&message=gone", "text/event-stream", "text/event-stream", "data: {}\n\nevent: error\ndata: {\"type\":\"urn:sluice:grpc_not_found\"")
	if res, body := g.do(request{method: "GET", target: "/v1/watchfail/5?message=gone"}); res.StatusCode != 404 || !strings.Contains(body, "gone") {
		t.Errorf("a stream that fails at once: %d %s", res.StatusCode, body)
	}
	if _, body := g.do(request{method: "GET", target: "/v1/watchfail/5?after=1"}); !strings.Contains(body, "!") {
		t.Errorf("an array that breaks off looks whole: %s", body)
	}
	const ndjson = "application/x-ndjson"
	if res, body := g.do(request{method: "POST", target: "/v1/collect", contentType: ndjson, body: "{\"count\":1}\n\n{\"count\":2}\n{\"count\":3}"}); body != `{"count":6}` {
		t.Errorf("a stream of requests: %d %s", res.StatusCode, body)
	}
	if res, body := g.do(request{method: "POST", target: "/v1/collect", contentType: ndjson, body: "{\"count\":1}\n{\"count\":true}\n"}); res.StatusCode != 400 || !strings.Contains(body, "message 2: the body at count") {
		t.Errorf("a mistake in a stream: %d %s", res.StatusCode, body)
	}
	if res, body := g.do(request{method: "POST", target: "/v1/collect", contentType: ndjson, body: "{}\n{\"name\":\"" + strings.Repeat("x", 2000) + "\"}"}); res.StatusCode != 413 {
		t.Errorf("a message too large: %d %s", res.StatusCode, body)
	}
	// Both ways at once.
	r, w := io.Pipe()
	req, _ := http.NewRequestWithContext(bounded(t), "POST", "http://"+g.addr+"/v1/chat", r)
	req.Header.Set("Content-Type", ndjson)
	req.Header.Set("Accept", ndjson)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := http.Client{Transport: &http.Transport{Protocols: &protocols}}
	go func() { _, _ = io.WriteString(w, "{\"count\":0}\n") }()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 3 {
		if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "{") {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = fmt.Fprintf(w, "{\"count\":%d}\n", i+1)
	}
	_ = w.Close()
}

// Descriptors come from the service itself, by either version of reflection.
func TestReflection(t *testing.T) {
	for _, version := range []string{"v1", "v1alpha"} {
		l := serveLibrary(t, func(s *grpc.Server, l *library) {
			o := reflection.ServerOptions{Services: reflected{}, DescriptorResolver: l.files, ExtensionResolver: protoregistry.GlobalTypes}
			if version == "v1" {
				v1.RegisterServerReflectionServer(s, reflection.NewServerV1(o))
			} else {
				v1alpha.RegisterServerReflectionServer(s, reflection.NewServer(o))
			}
		})
		g := l.rest(t, "reflection: true", "")
		if res, body := g.do(request{method: "GET", target: "/v1/items/a?count=2"}); body != `{"name":"a","count":2}` {
			t.Errorf("%s: %d %s", version, res.StatusCode, body)
		}
	}
	l := serveLibrary(t, nil)
	if res, body := l.rest(t, "reflection: true", "").do(request{method: "GET", target: "/v1/items/a"}); res.StatusCode != 503 || !strings.Contains(body, "no_descriptors") {
		t.Errorf("without reflection: %d %s", res.StatusCode, body)
	}
}

// reflected names the services.
type reflected struct{}

func (reflected) GetServiceInfo() map[string]grpc.ServiceInfo {
	return map[string]grpc.ServiceInfo{"lib.v1.Library": {}}
}

// A method without annotation is called where the configuration says so.
func TestUnannotated(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.rest(t, "unannotated: true", "")
	if res, body := g.do(request{method: "POST", target: "/lib.v1.Library/Plain", body: `{"name":"a"}`}); body != `{"name":"a"}` {
		t.Errorf("unannotated: %d %s", res.StatusCode, body)
	}
	g = l.rest(t, "method: lib.v1.Library/Plain", "")
	if res, body := g.do(request{method: "POST", target: "/what/ever", body: `{"name":"a"}`}); body != `{"name":"a"}` {
		t.Errorf("method: %d %s", res.StatusCode, body)
	}
	g = l.rest(t, "method: lib.v1.Library/Create", "")
	if res, _ := g.do(request{method: "GET", target: "/v1/items"}); res.StatusCode != 405 {
		t.Errorf("another method: %d", res.StatusCode)
	}
}

// What a service answers is all of a message or a 502.
func TestTranscodedGarbage(t *testing.T) {
	l := compileLibrary(t)
	f := func(want int, reason string, data []byte) {
		t.Helper()
		l.address = serve(t, func(*grpc.Server) {}, grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
			return st.SendMsg(data)
		}))
		if res, body := l.rest(t, "max_message: 100B", "").do(request{method: "GET", target: "/v1/items"}); res.StatusCode != want || !strings.Contains(body, reason) {
			t.Errorf("%d %s", res.StatusCode, body)
		}
	}
	f(200, "", nil)
	f(502, "upstream_malformed", []byte{0xff, 0xff})
	f(502, "upstream_malformed", []byte{0x0a, 0x05, 'x'})
	f(502, "upstream_message_too_large", make([]byte, 200))
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                       { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
