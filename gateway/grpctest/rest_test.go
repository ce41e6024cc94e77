package grpctest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// calling is a gateway that makes requests of REST of calls.
func (l *library) calling(t testing.TB, address, settings string) *gate {
	t.Helper()
	return open(t, "h2c: true", fmt.Sprintf("services: {s: {endpoints: [\"http://%s\"]}}\nroutes: {r: {match: {paths: [/]}, grpc: {service: s, descriptors: %q%s}}}", address, l.set, comma(settings)))
}

func (l *library) message(t testing.TB, method, text string) (in, out *dynamicpb.Message, path string) {
	t.Helper()
	md := l.service.Methods().ByName(protoreflect.Name(method))
	if md == nil {
		t.Fatalf("no method %s", method)
	}
	in, out = dynamicpb.NewMessage(md.Input()), dynamicpb.NewMessage(md.Output())
	if err := (protojson.UnmarshalOptions{Resolver: dynamicpb.NewTypes(l.files)}).Unmarshal([]byte(text), in); err != nil {
		t.Fatal(err)
	}
	return in, out, "/lib.v1.Library/" + method
}

// A call that becomes a request, which another gateway makes a call again, arrives as it was sent, whatever its rule makes of it.
func TestRestRoundTrip(t *testing.T) {
	l := serveLibrary(t, nil)
	cc := l.calling(t, l.rest(t, "", "").addr, "").dial()
	f := func(method, text string) {
		t.Helper()
		in, out, path := l.message(t, method, text)
		if err := cc.Invoke(bounded(t), path, in, out); err != nil {
			t.Errorf("%s %s: %v", method, text, err)
		} else if !proto.Equal(in, out) {
			t.Errorf("%s %s:\n got %v\nwant %v", method, text, out, in)
		}
	}
	const all = `"parent":"p/q?&#%","count":-7,"big":"-9007199254740993","small":7,"huge":"18446744073709551615","ratio":1.5e-7,"rough":0.25,"flag":true,"data":"/+8=",
		"color":"GREEN","tags":["a","b,c",""],"numbers":[1,-2],"colors":["RED","GREEN"],"at":"2024-01-02T03:04:05.000000006Z","took":"1.500s",
		"mask":"displayName,nested.street","textValue":"","intValue":0,"longValue":"5","boolValue":false,"bytesValue":"AAE=","doubleValue":0.5,"right":3,"maybe":0,
		"displayName":"é ☃","times":["2024-01-02T03:04:05Z"],"zigzag":"-1","fixed":4294967295`
	const nested = `"nested":{"street":"s","inner":{"number":3,"lines":["x","y"],"color":"RED"}}`
	const more = `"children":[{"street":"c"},{}],"labels":{"k":"v","":""},"struct":{"a":[1,null,{"b":true}]},"value":"v"`
	f("Get", `{"name":"a b"}`)
	f("Get", `{"name":"é%2F;x",`+all+`,`+nested+`}`)
	f("Deep", `{"name":"a/b/c","count":1}`)
	f("Deep", `{}`)
	f("Rooted", `{"name":"projects/p/things/x/y"}`)
	f("List", `{"name":"as a parameter",`+all+`,`+nested+`}`)
	f("Create", `{"name":"n",`+all+`,`+nested+`,`+more+`}`)
	f("Replace", `{"name":"n",`+all+`,`+nested+`,`+more+`}`)
	f("Update", `{"name":"n",`+all+`,`+nested+`}`)
	f("Update", `{"name":"n"}`)
	f("Delete", `{"name":"n","count":3}`)
	f("Archive", `{"name":"n",`+more+`}`)
	f("Batch", `{"count":1}`)
	f("Move", `{"name":"files/a/b","count":2}`)
	f("NestedPath", `{"nested":{"street":"Main St","inner":{"number":12}},"count":1}`)
	f("Report", `{"name":"custom verb"}`)
	f("Any", `{"name":"any verb"}`)
	f("Upload", `{"contentType":"image/png","data":"AAEC/w=="}`)
	// Answers that are a field of the message.
	g := func(method, text, want string) {
		t.Helper()
		in, out, path := l.message(t, method, text)
		wanted := dynamicpb.NewMessage(out.Descriptor())
		if err := protojson.Unmarshal([]byte(want), wanted); err != nil {
			t.Fatal(err)
		}
		if err := cc.Invoke(bounded(t), path, in, out); err != nil || !proto.Equal(wanted, out) {
			t.Errorf("%s %s: %v %v", method, text, out, err)
		}
	}
	g("Children", `{"name":"n","children":[{"street":"a"},{"number":2}]}`, `{"children":[{"street":"a"},{"number":2}]}`)
	g("GetNested", `{"name":"n","nested":{"street":"s"}}`, `{"nested":{"street":"s"}}`)
	g("GetTags", `{"name":"n","tags":["x"]}`, `{"tags":["x"]}`)
	g("GetCount", `{"name":"n","count":5}`, `{"count":5}`)
	g("GetLabels", `{"name":"n","labels":{"a":"b"}}`, `{"labels":{"a":"b"}}`)
	g("Content", `{"name":"n","content":{"contentType":"text/csv","data":"YQ=="}}`, `{"content":{"contentType":"text/csv","data":"YQ=="}}`)
	// Compressed, and with metadata both ways.
	in, out, path := l.message(t, "Create", `{"name":"`+strings.Repeat("x", 5000)+`"}`)
	var head metadata.MD
	ctx := metadata.AppendToOutgoingContext(bounded(t), "x-caller", "me")
	if err := cc.Invoke(ctx, path, in, out, grpc.UseCompressor(gzip.Name), grpc.Header(&head)); err != nil || !proto.Equal(in, out) {
		t.Errorf("%v", err)
	}
	if got := (*l.metadata.Load()).Get("x-caller"); len(got) != 1 || got[0] != "me" || head.Get("x-shelf") == nil || head.Get("grpc-status") != nil {
		t.Errorf("%v %v", got, head)
	}
}

func TestRestStreams(t *testing.T) {
	l := serveLibrary(t, nil)
	cc := l.calling(t, l.rest(t, "", "").addr, "").dial()
	f := func(method, text string, code codes.Code, message string, want ...string) {
		t.Helper()
		in, out, path := l.message(t, method, text)
		st, err := cc.NewStream(bounded(t), &grpc.StreamDesc{ServerStreams: true}, path)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.SendMsg(in); err != nil {
			t.Fatal(err)
		}
		_ = st.CloseSend()
		var got []string
		for {
			if err = st.RecvMsg(out); err != nil {
				break
			}
			b, _ := protojson.Marshal(out)
			got = append(got, strings.ReplaceAll(string(b), " ", ""))
		}
		if err == io.EOF {
			err = nil
		}
		if s := status.Convert(err); s.Code() != code || s.Message() != message || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s %s: %v %v", method, text, got, err)
		}
	}
	f("Watch", `{"name":"w","count":3}`, codes.OK, "", `{}`, `{"count":1}`, `{"count":2}`)
	f("Watch", `{"name":"w"}`, codes.OK, "")
	f("WatchFail", `{"code":5,"message":"gone","after":2}`, codes.NotFound, "gone", `{}`, `{}`)
	f("WatchFail", `{"code":7,"message":"no"}`, codes.PermissionDenied, "no")
	f("WatchContent", `{"name":"n"}`, codes.OK, "", `{"contentType":"text/csv","data":"b25lLHR3bw=="}`)
}

func TestRestFailures(t *testing.T) {
	l := serveLibrary(t, nil)
	release := make(chan struct{})
	answers := map[string]func(w http.ResponseWriter){
		"/v1/items/nonsense": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "no JSON") },
		"/v1/items/type":     func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"count":"x"}`) },
		"/v1/items/unknown":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"count":1,"new":2}`) },
		"/v1/items/empty":    func(w http.ResponseWriter) { w.WriteHeader(204) },
		"/v1/items/large":    func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"name":"`+strings.Repeat("x", 5000)+`"}`) },
		"/v1/items/plain":    func(w http.ResponseWriter) { http.Error(w, "not here", 404) },
		"/v1/items/problem": func(w http.ResponseWriter) {
			w.WriteHeader(409)
			_, _ = io.WriteString(w, `{"title":"t","detail":"taken, 100 %","code":"ALREADY_EXISTS"}`)
		},
		"/v1/items/google": func(w http.ResponseWriter) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":{"code":400,"message":"too far","status":"OUT_OF_RANGE"}}`)
		},
		"/v1/items/slow": func(http.ResponseWriter) { <-release },
		"/v1/watch/array": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `[{"count":1},{"count":2}]`)
		},
		"/v1/watch/cut": func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = io.WriteString(w, "{\"count\":1}\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	}
	rest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := answers[r.URL.Path]; f != nil {
			f(w)
			return
		}
		w.WriteHeader(500)
	}))
	defer rest.Close()
	defer close(release)
	g := l.calling(t, strings.TrimPrefix(rest.URL, "http://"), "max_message: 4KiB")
	cc := g.dial()
	f := func(method, text string, code codes.Code, message string) {
		t.Helper()
		in, out, path := l.message(t, method, text)
		err := cc.Invoke(bounded(t), path, in, out)
		if s := status.Convert(err); s.Code() != code || !strings.Contains(s.Message(), message) {
			t.Errorf("%s %s: %v %v", method, text, err, out)
		}
	}
	f("Get", `{"name":"nonsense"}`, codes.Internal, "not answer with a message")
	f("Get", `{"name":"type"}`, codes.Internal, "not answer with a message")
	f("Get", `{"name":"unknown"}`, codes.OK, "")
	f("Get", `{"name":"empty"}`, codes.OK, "")
	f("Get", `{"name":"large"}`, codes.ResourceExhausted, "too large")
	f("Get", `{"name":"plain"}`, codes.NotFound, "Not Found")
	f("Get", `{"name":"problem"}`, codes.AlreadyExists, "taken, 100 %")
	f("Get", `{"name":"google"}`, codes.OutOfRange, "too far")
	f("Get", `{"name":"other"}`, codes.Internal, "Internal Server Error")
	// What can not stand in a path, or is no parameter.
	for _, name := range []string{"", "a/b", "..", ".;x", "a\\\\b", "a\\u0000b"} {
		f("Get", `{"name":"`+name+`"}`, codes.InvalidArgument, "can not stand in its place of the path")
	}
	f("Deep", `{"name":"a/../b"}`, codes.InvalidArgument, "can not stand")
	f("Rooted", `{"name":"projects/p/other"}`, codes.InvalidArgument, "can not stand")
	f("List", `{"children":[{}]}`, codes.InvalidArgument, "the field children can not be sent")
	f("List", `{"labels":{"a":"b"}}`, codes.InvalidArgument, "the field labels can not be sent")
	f("Create", `{"name":"`+strings.Repeat("x", 5000)+`"}`, codes.ResourceExhausted, "too large")
	// Methods that can not be called.
	f("Star", `{"name":"z"}`, codes.Unimplemented, "no rule")
	f("Plain", `{}`, codes.Unimplemented, "no rule")
	st, err := cc.NewStream(bounded(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/lib.v1.Library/Chat")
	if err == nil {
		_ = st.CloseSend()
		err = st.RecvMsg(dynamicpb.NewMessage(l.service.Methods().ByName("Chat").Output()))
	}
	if status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
	// The deadline.
	ctx, cancel := context.WithTimeout(bounded(t), 200*time.Millisecond)
	defer cancel()
	in, out, path := l.message(t, "Get", `{"name":"slow"}`)
	if err := cc.Invoke(ctx, path, in, out); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	// Streams in other forms, and those that break off.
	for name, want := range map[string]string{"array": "12 OK", "cut": "1 Unavailable"} {
		in, out, path := l.message(t, "Watch", `{"name":"`+name+`"}`)
		st, err := cc.NewStream(bounded(t), &grpc.StreamDesc{ServerStreams: true}, path)
		if err != nil {
			t.Fatal(err)
		}
		_ = st.SendMsg(in)
		_ = st.CloseSend()
		got := ""
		for err = st.RecvMsg(out); err == nil; err = st.RecvMsg(out) {
			got += fmt.Sprint(out.Get(out.Descriptor().Fields().ByName("count")))
		}
		if err == io.EOF {
			err = nil
		}
		if got += " " + status.Code(err).String(); got != want {
			t.Errorf("%s: %s (%v)", name, got, err)
		}
	}
	// Nobody there.
	if err := l.calling(t, "127.0.0.1:1", "").dial().Invoke(bounded(t), path, in, out); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	// What is no call.
	if res, body := g.do(request{method: "GET", target: "/lib.v1.Library/Get"}); res.StatusCode != 415 || !strings.Contains(body, "not_grpc") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
	once(t, "calls are counted by status", func() bool {
		var b strings.Builder
		_ = g.WriteMetrics(&b)
		return strings.Contains(b.String(), `grpc_status="ALREADY_EXISTS"} 1`) && strings.Contains(b.String(), `grpc_status="OUT_OF_RANGE"} 1`)
	})
}

// Browsers call by gRPC-Web over HTTP/1.1; trailers are in the body.
func TestRestWeb(t *testing.T) {
	l := serveLibrary(t, nil)
	g := l.calling(t, l.rest(t, "", "").addr, "")
	in, out, path := l.message(t, "Get", `{"name":"web"}`)
	data, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	frame := string([]byte{0, 0, 0, 0, byte(len(data))}) + string(data)
	res, body := g.do(request{method: "POST", target: path, body: frame, contentType: "application/grpc-web+proto"})
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/grpc-web+proto" || !strings.HasPrefix(body, frame) || !strings.HasSuffix(body, "\x80\x00\x00\x00\x10grpc-status: 0\r\n") {
		t.Errorf("%d %v %q", res.StatusCode, res.Header, body)
	}
	in.Set(in.Descriptor().Fields().ByName("name"), protoreflect.ValueOfString("a/b"))
	data, _ = proto.Marshal(in)
	res, _ = g.do(request{method: "POST", target: path, body: string([]byte{0, 0, 0, 0, byte(len(data))}) + string(data), contentType: "application/grpc-web"})
	if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "3" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	_ = out
	_, _, path = l.message(t, "Watch", `{}`)
	watch, _, _ := l.message(t, "Watch", `{"name":"w","count":2}`)
	data, _ = proto.Marshal(watch)
	_, body = g.do(request{method: "POST", target: path, body: string([]byte{0, 0, 0, 0, byte(len(data))}) + string(data), contentType: "application/grpc-web"})
	if body != "\x00\x00\x00\x00\x00"+"\x00\x00\x00\x00\x02\x18\x01"+"\x80\x00\x00\x00\x10grpc-status: 0\r\n" {
		t.Errorf("%q", body)
	}
}
