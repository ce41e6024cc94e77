package grpctest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// web is a client of gRPC-Web as it runs in browsers.
type web struct {
	client *http.Client
	url    string
	text   bool
}

// webAnswer is what a call of gRPC-Web was answered with.
type webAnswer struct {
	res      *http.Response
	messages [][]byte
	trailers map[string]string // from the body, or from the head where there is nothing else
}

func (w *web) call(t testing.TB, method string, more http.Header, messages ...proto.Message) *webAnswer {
	t.Helper()
	var body []byte
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		body = append(binary.BigEndian.AppendUint32(append(body, 0), uint32(len(b))), b...)
	}
	contentType := "application/grpc-web+proto"
	if w.text {
		contentType = "application/grpc-web-text"
		// In two texts, each with its padding.
		body = []byte(base64.StdEncoding.EncodeToString(body[:1]) + base64.StdEncoding.EncodeToString(body[1:]))
	}
	req, err := http.NewRequestWithContext(bounded(t), "POST", w.url+method, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range more {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", contentType)
	req.Header.Set("X-Grpc-Web", "1")
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); !strings.HasPrefix(got, strings.TrimSuffix(contentType, "+proto")) {
		t.Fatalf("content type %q of %d", got, res.StatusCode)
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if w.text {
		data = decodeTexts(t, data)
	}
	a := &webAnswer{res: res, trailers: map[string]string{}}
	for len(data) > 0 {
		n := int(binary.BigEndian.Uint32(data[1:]))
		frame := data[5 : 5+n]
		if data[0] == 0x80 {
			for line := range strings.SplitSeq(strings.TrimSpace(string(frame)), "\r\n") {
				name, value, _ := strings.Cut(line, ": ")
				a.trailers[name] = value
			}
			if len(data) != 5+n {
				t.Error("something follows the trailers")
			}
		} else {
			a.messages = append(a.messages, frame)
		}
		data = data[5+n:]
	}
	if v := res.Header.Get("Grpc-Status"); v != "" {
		a.trailers["grpc-status"], a.trailers["grpc-message"] = v, res.Header.Get("Grpc-Message")
	}
	return a
}

// decodeTexts decodes texts in base64 that stand one behind the other.
func decodeTexts(t testing.TB, data []byte) (out []byte) {
	t.Helper()
	for len(data) > 0 {
		b, err := base64.StdEncoding.DecodeString(string(data[:4]))
		if err != nil {
			t.Fatal(err)
		}
		out, data = append(out, b...), data[4:]
	}
	return out
}

func TestWeb(t *testing.T) {
	s := &scripted{
		unary: func(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			_ = grpc.SetHeader(ctx, metadata.Pairs("seen", strings.Join(append(md["content-type"], md["custom"]...), " ")))
			_ = grpc.SetTrailer(ctx, metadata.Pairs("behind", "yes"))
			if r.GetResponseStatus() != nil {
				return nil, status.Error(codes.Code(r.GetResponseStatus().GetCode()), r.GetResponseStatus().GetMessage())
			}
			return &testpb.SimpleResponse{Payload: r.GetPayload()}, nil
		},
		duplex: func(st testpb.TestService_FullDuplexCallServer) error {
			in, err := st.Recv()
			if err != nil {
				return err
			}
			for range 3 {
				if err := st.Send(&testpb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
					return err
				}
			}
			return status.Error(codes.Aborted, "that is all ☺")
		},
	}
	g := open(t, "h2c: true", routed("grpc", "", "policies: {cors: {origins: [\"https://app.example\"], expose: [grpc-status, grpc-message]}}", "limits: {max_body_size: 1KiB}\n", s.serve(t)))
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	for name, client := range map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}}, "HTTP/2": {Transport: &http.Transport{Protocols: &h2}}} {
		for _, text := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s text %v", name, text), func(t *testing.T) {
				defer client.CloseIdleConnections()
				w := &web{client: client, url: "http://" + g.addr, text: text}
				const service = "/grpc.testing.TestService/"
				a := w.call(t, service+"UnaryCall", http.Header{"Custom": {"c"}, "Origin": {"https://app.example"}}, &testpb.SimpleRequest{Payload: payload(30_000)})
				var m testpb.SimpleResponse
				if len(a.messages) != 1 || proto.Unmarshal(a.messages[0], &m) != nil || len(m.GetPayload().GetBody()) != 30_000 {
					t.Fatalf("%d messages, %v", len(a.messages), a.trailers)
				}
				if a.trailers["grpc-status"] != "0" || a.trailers["behind"] != "yes" || !strings.HasPrefix(a.res.Header.Get("Seen"), "application/grpc") || !strings.HasSuffix(a.res.Header.Get("Seen"), " c") {
					t.Errorf("%v, %v", a.trailers, a.res.Header)
				}
				if a.res.Header.Get("Access-Control-Allow-Origin") != "https://app.example" {
					t.Errorf("CORS: %v", a.res.Header)
				}
				a = w.call(t, service+"UnaryCall", nil, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 5, Message: "none"}})
				if a.trailers["grpc-status"] != "5" || a.trailers["grpc-message"] != "none" {
					t.Errorf("a failure: %v", a.trailers)
				}
				a = w.call(t, service+"FullDuplexCall", nil, &testpb.StreamingOutputCallRequest{Payload: payload(10)})
				if len(a.messages) != 3 || a.trailers["grpc-status"] != "10" || a.trailers["grpc-message"] != "that is all %E2%98%BA" {
					t.Errorf("a stream: %d messages, %v", len(a.messages), a.trailers)
				}
				a = w.call(t, "/nobody.Nothing/Do", nil, &testpb.Empty{})
				if a.trailers["grpc-status"] != "12" {
					t.Errorf("unimplemented: %v", a.trailers)
				}
			})
		}
	}
	// What the gateway refuses is told in the head.
	refusing := open(t, "h2c: true", routed("grpc", "", "policies: {api_key: {}}", "", s.serve(t)))
	a := (&web{client: http.DefaultClient, url: "http://" + refusing.addr}).call(t, "/grpc.testing.TestService/UnaryCall", nil, &testpb.SimpleRequest{})
	if a.res.StatusCode != 200 || a.trailers["grpc-status"] != "16" {
		t.Errorf("refused: %d %v", a.res.StatusCode, a.trailers)
	}
	// A browser asks first.
	req, _ := http.NewRequestWithContext(bounded(t), "OPTIONS", "http://"+g.addr+"/grpc.testing.TestService/UnaryCall", nil)
	req.Header = http.Header{"Origin": {"https://app.example"}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"content-type,x-grpc-web"}}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 204 || res.Header.Get("Access-Control-Allow-Headers") != "content-type,x-grpc-web" {
		t.Errorf("preflight: %d %v", res.StatusCode, res.Header)
	}
	// Text that is none is a broken request.
	req, _ = http.NewRequestWithContext(bounded(t), "POST", "http://"+g.addr+"/grpc.testing.TestService/UnaryCall", strings.NewReader("!!!!"))
	req.Header.Set("Content-Type", "application/grpc-web-text")
	if res, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if got := res.Header.Get("Grpc-Status"); res.StatusCode != 200 || got == "" || got == "0" {
		t.Errorf("not base64: %d %q", res.StatusCode, got)
	}
}
