package grpctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// scripted is a service whose methods are the test's.
type scripted struct {
	testpb.UnimplementedTestServiceServer
	unary  func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	input  func(testpb.TestService_StreamingInputCallServer) error
	duplex func(testpb.TestService_FullDuplexCallServer) error
}

func (s *scripted) UnaryCall(ctx context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return s.unary(ctx, r)
}

func (s *scripted) StreamingInputCall(st testpb.TestService_StreamingInputCallServer) error {
	return s.input(st)
}

func (s *scripted) FullDuplexCall(st testpb.TestService_FullDuplexCallServer) error {
	return s.duplex(st)
}

func (s *scripted) serve(t testing.TB, options ...grpc.ServerOption) string {
	t.Helper()
	return serve(t, func(g *grpc.Server) { testpb.RegisterTestServiceServer(g, s) }, options...)
}

func payload(n int) *testpb.Payload { return &testpb.Payload{Body: make([]byte, n)} }

func wantCode(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// The head of the answer does not wait for the request's end, nor one message
// for the next; silence of either side is no stall.
func TestDuplexAndSilence(t *testing.T) {
	s := &scripted{duplex: func(st testpb.TestService_FullDuplexCallServer) error {
		if err := st.SendHeader(metadata.Pairs("early", "yes")); err != nil {
			return err
		}
		for {
			in, err := st.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := st.Send(&testpb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
				return err
			}
		}
	}}
	for _, listener := range []string{"h2c: true", "tls"} {
		g := open(t, listener, routed("grpc", "", "", "limits: {stall_timeout: 100ms}\n", s.serve(t)))
		st, err := testpb.NewTestServiceClient(g.dial()).FullDuplexCall(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if h, err := st.Header(); err != nil || len(h["early"]) != 1 {
			t.Fatalf("%s: header before the first message: %v, %v", listener, h, err)
		}
		time.Sleep(500 * time.Millisecond) // the timeouts have their chance; nothing is waited for
		for range 3 {
			if err := st.Send(&testpb.StreamingOutputCallRequest{Payload: payload(10)}); err != nil {
				t.Fatal(err)
			}
			if m, err := st.Recv(); err != nil || len(m.GetPayload().GetBody()) != 10 {
				t.Fatalf("%s: %v, %v", listener, m, err)
			}
		}
		_ = st.CloseSend()
		if _, err := st.Recv(); err != io.EOF {
			t.Errorf("%s: %v at the end", listener, err)
		}
	}
}

// A client that cancels cancels the call at the backend, at once.
func TestCancel(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	s := &scripted{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}
	log := filepath.Join(t.TempDir(), "access.log")
	g := open(t, "h2c: true", routed("grpc", "", "", fmt.Sprintf("policies: {access_log: {path: %q}}\n", log), s.serve(t)))
	ctx, cancel := context.WithCancel(bounded(t))
	go func() {
		<-began
		cancel()
	}()
	_, err := testpb.NewTestServiceClient(g.dial()).UnaryCall(ctx, &testpb.SimpleRequest{})
	wantCode(t, "the client", err, codes.Canceled)
	if err := within(t, "the backend's call ended", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the backend's call: %v", err)
	}
	once(t, "a log line", func() bool { b, _ := os.ReadFile(log); return len(b) > 0 })
	b, _ := os.ReadFile(log)
	if !strings.Contains(string(b), `"status":499`) || !strings.Contains(string(b), `"reason":"client_gone"`) {
		t.Errorf("log: %s", b)
	}
}

// The deadline goes on, less what was spent, and is the gateway's too: a
// backend that does not care does not keep the client.
func TestDeadline(t *testing.T) {
	left := make(chan time.Duration, 1)
	release := make(chan struct{})
	defer close(release)
	s := &scripted{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		d, _ := ctx.Deadline()
		left <- time.Until(d)
		<-release
		return &testpb.SimpleResponse{}, nil
	}}
	g := open(t, "h2c: true", routed("grpc", "", "", "", s.serve(t)))
	f := g.frames()
	f.call("/grpc.testing.TestService/UnaryCall", "grpc-timeout", "300m")
	f.message(nil, true)
	if d := within(t, "the call", left); d > 300*time.Millisecond || d <= 0 {
		t.Errorf("the backend has %v of 300ms", d)
	}
	if a := f.answer(); a["grpc-status"] != "4" || a[":status"] != "200" || a["end"] != "head" {
		t.Errorf("answer %v", a)
	}
	f = g.frames()
	f.call("/grpc.testing.TestService/UnaryCall", "grpc-timeout", "soon")
	if a := f.answer(); a["grpc-status"] != "13" {
		t.Errorf("a malformed timeout: %v", a)
	}
}

// frames is a client of HTTP/2 that speaks in frames, to see what calls look like on the wire.
type frames struct {
	t   testing.TB
	fr  *http2.Framer
	enc *hpack.Encoder
	buf strings.Builder
}

func (g *gate) frames() *frames {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, http2.ClientPreface)
	f := &frames{t: g.t, fr: http2.NewFramer(c, c)}
	f.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.enc = hpack.NewEncoder(&f.buf)
	_ = f.fr.WriteSettings()
	return f
}

func (f *frames) call(path string, more ...string) {
	f.buf.Reset()
	fields := append([]string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "x", "content-type", "application/grpc", "te", "trailers"}, more...)
	for i := 0; i < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(f.buf.String()), EndHeaders: true}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *frames) message(b []byte, last bool) {
	_ = f.fr.WriteData(1, last, append([]byte{0, 0, 0, 0, byte(len(b))}, b...))
}

// answer reads to the end of the stream: all fields, those behind the body with
// a + before, and what the end was: head, trailers, data or reset CODE.
func (f *frames) answer() map[string]string {
	f.t.Helper()
	a := map[string]string{}
	for prefix := ""; ; {
		fr, err := f.fr.ReadFrame()
		if err != nil {
			f.t.Fatalf("%v after %v", err, a)
		}
		switch fr := fr.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range fr.Fields {
				a[prefix+field.Name] = field.Value
			}
			if fr.StreamEnded() {
				a["end"] = map[string]string{"": "head", "+": "trailers"}[prefix]
				return a
			}
			prefix = "+"
		case *http2.DataFrame:
			a["data"] += string(fr.Data())
			if fr.StreamEnded() {
				a["end"] = "data"
				return a
			}
		case *http2.RSTStreamFrame:
			a["end"] = "reset " + fr.ErrCode.String()
			return a
		case *http2.SettingsFrame:
			if !fr.IsAck() {
				_ = f.fr.WriteSettingsAck()
			}
		}
	}
}

// What the gateway refuses it refuses in gRPC's words: a head that is all trailers.
func TestOwnErrors(t *testing.T) {
	backend := serve(t, testServer)
	dead := unused(t)
	silent := silence(t)
	const method = "/grpc.testing.TestService/EmptyCall"
	f := func(name, want, reason string, text string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "access.log")
			if !strings.Contains(text, "\npolicies:") {
				text += fmt.Sprintf("\npolicies: {access_log: {path: %q}}\n", log)
			}
			g := open(t, "h2c: true", text)
			var a map[string]string
			for range 2 { // of those that count the second is refused
				fr := g.frames()
				fr.call(method)
				fr.message(make([]byte, 100), true)
				a = fr.answer()
			}
			if a[":status"] != "200" || a["grpc-status"] != want || a["end"] != "head" || a["content-type"] != "application/grpc" || a["grpc-message"] == "" || a["content-length"] != "" {
				t.Fatalf("answer %v", a)
			}
			if strings.ContainsAny(a["grpc-message"], "\r\n") {
				t.Errorf("message %q", a["grpc-message"])
			}
			once(t, "log lines", func() bool { b, _ := os.ReadFile(log); return strings.Count(string(b), "\n") == 2 })
			b, _ := os.ReadFile(log)
			// Lines of one moment may stand in either order.
			found := false
			for line := range strings.Lines(string(b)) {
				found = found || strings.Contains(line, `"reason":"`+reason+`"`) && strings.Contains(line, `"grpc_status":`+want)
			}
			if !found {
				t.Errorf("log: %s", b)
			}
			var metrics strings.Builder
			_ = g.WriteMetrics(&metrics)
			if !strings.Contains(metrics.String(), `grpc_status="`+strings.ToUpper(map[string]string{
				"16": "unauthenticated", "7": "permission_denied", "12": "unimplemented", "14": "unavailable", "8": "resource_exhausted",
			}[want])+`"`) {
				t.Errorf("metrics have no grpc_status")
			}
		})
	}
	f("401", "16", "credential_missing", routed("grpc", "", "policies: {api_key: {}}", "", backend))
	f("403", "7", "address_not_allowed", routed("grpc", "", "policies: {ip_filter: {deny: [127.0.0.1]}}", "", backend))
	f("404", "12", "no_route", strings.Replace(routed("grpc", "", "", "", backend), "paths: [/]", "paths: [/other]", 1))
	f("405", "12", "method_not_allowed", strings.Replace(routed("grpc", "", "", "", backend), "paths: [/]", "paths: [/], methods: [GET]", 1))
	f("429", "14", "rate_limited", routed("grpc", "", "policies: {rate_limit: {requests: 1, per: 1h}}", "", backend))
	f("413", "8", "body_too_large", routed("grpc", "", "policies: {request_size: {max: 20B}}", "", backend))
	f("502", "14", "upstream_connect", routed("grpc", "retries: off, circuit_breaker: off, outlier_detection: off", "", "", dead))
	f("503", "14", "breaker_open", routed("grpc", "retries: off, circuit_breaker: {consecutive_failures: 1}", "", "", dead))
	f("504", "14", "upstream_timeout", routed("grpc", "retries: off, circuit_breaker: off, outlier_detection: off, timeouts: {response: 50ms}", "", "", silent))
}

// unused returns an address where nobody listens.
func unused(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr().String()
}

// silence returns the address of a server that accepts and never says a word.
func silence(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
	}()
	return l.Addr().String()
}

// Metadata passes both ways, binary and repeated, and a name may stand before and behind the body.
func TestMetadata(t *testing.T) {
	var got metadata.MD
	s := &scripted{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("same", "head", "many", "1", "many", "2"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("same", "tail", "same", "tail 2", "raw-bin", "\x00\xff\r\n"))
		return &testpb.SimpleResponse{}, nil
	}}
	g := open(t, "h2c: true", routed("grpc", "", "", "", s.serve(t)))
	ctx := metadata.AppendToOutgoingContext(bounded(t), "a", "1", "a", "2", "b-bin", "\x00\x01\xfe", "x-user-id", "forged")
	var head, tail metadata.MD
	if _, err := testpb.NewTestServiceClient(g.dial()).UnaryCall(ctx, &testpb.SimpleRequest{}, grpc.Header(&head), grpc.Trailer(&tail)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		md   metadata.MD
		name string
		want []string
	}{
		{got, "a", []string{"1", "2"}}, {got, "b-bin", []string{"\x00\x01\xfe"}}, {got, "x-user-id", nil}, {got, "x-forwarded-for", []string{"127.0.0.1"}},
		{head, "same", []string{"head"}}, {head, "many", []string{"1", "2"}},
		{tail, "same", []string{"tail", "tail 2"}}, {tail, "raw-bin", []string{"\x00\xff\r\n"}},
	} {
		if fmt.Sprint(c.md[c.name]) != fmt.Sprint(c.want) {
			t.Errorf("%s: %q, want %q", c.name, c.md[c.name], c.want)
		}
	}
	if agent := got["user-agent"]; len(agent) != 1 || !strings.HasPrefix(agent[0], "grpc-go/") {
		t.Errorf("user-agent %q", agent)
	}
}

// Each call is balanced by itself, whatever connections the client has.
func TestBalancedByCall(t *testing.T) {
	var counts [2]atomic.Int64
	var addresses []string
	for i := range counts {
		s := &scripted{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			counts[i].Add(1)
			return &testpb.SimpleResponse{}, nil
		}}
		addresses = append(addresses, s.serve(t))
	}
	g := open(t, "h2c: true", routed("grpc", "load_balancer: round_robin", "", "", addresses...))
	c := testpb.NewTestServiceClient(g.dial())
	for range 20 {
		if _, err := c.UnaryCall(bounded(t), &testpb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := counts[0].Load(), counts[1].Load(); a != 10 || b != 10 {
		t.Errorf("%d and %d calls", a, b)
	}
}

// What answers with a status alone is asked again where the configuration says so, with the whole request; what has sent a message is not.
func TestRetriesByStatus(t *testing.T) {
	var calls atomic.Int64
	s := &scripted{
		unary: func(_ context.Context, r *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			if calls.Add(1) < 3 {
				return nil, status.Error(codes.Unavailable, "not yet")
			}
			return &testpb.SimpleResponse{Payload: r.GetPayload()}, nil
		},
		duplex: func(st testpb.TestService_FullDuplexCallServer) error {
			calls.Add(1)
			_ = st.Send(&testpb.StreamingOutputCallResponse{})
			return status.Error(codes.Unavailable, "after a message")
		},
	}
	address := s.serve(t)
	const calm = "circuit_breaker: off, outlier_detection: off"
	g := open(t, "h2c: true", routed("grpc", calm+", retries: {attempts: 3, when: [unavailable]}", "", "", address))
	c := testpb.NewTestServiceClient(g.dial())
	r, err := c.UnaryCall(bounded(t), &testpb.SimpleRequest{Payload: payload(20_000)})
	if err != nil || len(r.GetPayload().GetBody()) != 20_000 || calls.Load() != 3 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
	calls.Store(0)
	if _, err := c.UnaryCall(bounded(t), &testpb.SimpleRequest{Payload: payload(200_000)}); status.Code(err) != codes.Unavailable || calls.Load() != 1 {
		t.Errorf("a request that is not kept: %v after %d calls", err, calls.Load())
	}
	calls.Store(0)
	st, err := c.FullDuplexCall(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Errorf("the message: %v", err)
	}
	_, err = st.Recv()
	wantCode(t, "behind a message", err, codes.Unavailable)
	if calls.Load() != 1 {
		t.Errorf("%d calls", calls.Load())
	}
	calls.Store(0)
	g = open(t, "h2c: true", routed("grpc", calm, "", "", address))
	_, err = testpb.NewTestServiceClient(g.dial()).UnaryCall(bounded(t), &testpb.SimpleRequest{})
	wantCode(t, "by default", err, codes.Unavailable)
	if calls.Load() != 1 {
		t.Errorf("by default %d calls", calls.Load())
	}
}

// A server that ends in good order loses no call.
func TestGracefulStop(t *testing.T) {
	s := &scripted{unary: func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return &testpb.SimpleResponse{}, nil
	}}
	var servers []*grpc.Server
	var addresses []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g := grpc.NewServer()
		testpb.RegisterTestServiceServer(g, s)
		go func() { _ = g.Serve(l) }()
		t.Cleanup(g.Stop)
		servers, addresses = append(servers, g), append(addresses, l.Addr().String())
	}
	g := open(t, "h2c: true", routed("grpc", "retries: {when: [connect_failure], attempts: 3, budget: 100%}, circuit_breaker: off, outlier_detection: off", "", "", addresses...))
	c := testpb.NewTestServiceClient(g.dial())
	var failed, answered atomic.Int64
	var last atomic.Value
	stop := make(chan struct{})
	ctx := bounded(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.UnaryCall(ctx, &testpb.SimpleRequest{Payload: payload(100)}); err != nil {
					failed.Add(1)
					last.Store(err.Error())
				}
				answered.Add(1)
			}
		})
	}
	for _, server := range servers[:2] {
		n := answered.Load()
		once(t, "some calls", func() bool { return answered.Load() > n+50 })
		server.GracefulStop()
	}
	n := answered.Load()
	once(t, "some calls", func() bool { return answered.Load() > n+50 })
	close(stop)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d calls failed, as %v", failed.Load(), answered.Load(), last.Load())
	}
}

// A call has no size, its messages have none but the peers' own: far more than limits.max_body_size streams.
func TestNoSumOfMessages(t *testing.T) {
	s := &scripted{input: func(st testpb.TestService_StreamingInputCallServer) error {
		n := 0
		for {
			m, err := st.Recv()
			if err == io.EOF {
				return st.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
			}
			if err != nil {
				return err
			}
			n += len(m.GetPayload().GetBody())
		}
	}}
	g := open(t, "h2c: true", routed("grpc", "", "", "limits: {max_body_size: 64KiB}\n", s.serve(t)))
	st, err := testpb.NewTestServiceClient(g.dial()).StreamingInputCall(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := st.Send(&testpb.StreamingInputCallRequest{Payload: payload(100_000)}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := st.CloseAndRecv(); err != nil || r.GetAggregatedPayloadSize() != 5_000_000 {
		t.Errorf("%v, %v", r, err)
	}
}

// A backend may answer before it has the whole request: its status is the client's.
func TestEarlyStatus(t *testing.T) {
	s := &scripted{input: func(st testpb.TestService_StreamingInputCallServer) error {
		return status.Error(codes.FailedPrecondition, "no more of that")
	}}
	g := open(t, "h2c: true", routed("grpc", "", "", "", s.serve(t)))
	cc := g.dial()
	for range 20 {
		st, err := testpb.NewTestServiceClient(cc).StreamingInputCall(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		for st.Send(&testpb.StreamingInputCallRequest{Payload: payload(10_000)}) == nil {
		}
		_, err = st.CloseAndRecv()
		wantCode(t, "the status", err, codes.FailedPrecondition)
	}
}

// A backend that breaks off in the middle of a call leaves the client with a status.
func TestBrokenCalls(t *testing.T) {
	began := make(chan struct{}, 1)
	s := &scripted{duplex: func(st testpb.TestService_FullDuplexCallServer) error {
		_ = st.Send(&testpb.StreamingOutputCallResponse{})
		began <- struct{}{}
		<-st.Context().Done()
		return nil
	}}
	g := grpc.NewServer()
	testpb.RegisterTestServiceServer(g, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	gw := open(t, "h2c: true", routed("grpc", "", "", "", l.Addr().String()))
	st, err := testpb.NewTestServiceClient(gw.dial()).FullDuplexCall(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err != nil {
		t.Fatal(err)
	}
	<-began
	g.Stop()
	_, err = st.Recv()
	wantCode(t, "a connection that closed", err, codes.Unavailable)

	for code, want := range map[http2.ErrCode]codes.Code{
		http2.ErrCodeEnhanceYourCalm: codes.ResourceExhausted, http2.ErrCodeInternal: codes.Internal,
		http2.ErrCodeInadequateSecurity: codes.PermissionDenied, http2.ErrCodeCancel: codes.Canceled,
	} {
		address := resetting(t, code)
		gw := open(t, "h2c: true", routed("grpc", "", "", "", address))
		st, err := testpb.NewTestServiceClient(gw.dial()).FullDuplexCall(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Header(); err != nil {
			t.Fatal(err)
		}
		_, err = st.Recv()
		wantCode(t, code.String(), err, want)
	}
}

// resetting is a server that sends a head and then resets the stream.
func resetting(t testing.TB, code http2.ErrCode) string {
	t.Helper()
	return framing(t, func(fr *http2.Framer, stream uint32, block func(...string) []byte) {
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, BlockFragment: block(":status", "200", "content-type", "application/grpc")})
		_ = fr.WriteRSTStream(stream, code)
	})
}

// framing is a server that answers each stream with frames.
func framing(t testing.TB, answer func(fr *http2.Framer, stream uint32, block func(...string) []byte)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
				fr := http2.NewFramer(c, c)
				fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
				_ = fr.WriteSettings()
				var buf strings.Builder
				enc := hpack.NewEncoder(&buf)
				for {
					f, err := fr.ReadFrame()
					if err != nil {
						return
					}
					switch f := f.(type) {
					case *http2.SettingsFrame:
						if !f.IsAck() {
							_ = fr.WriteSettingsAck()
						}
					case *http2.PingFrame:
						if !f.IsAck() {
							_ = fr.WritePing(true, f.Data)
						}
					case *http2.MetaHeadersFrame:
						answer(fr, f.StreamID, func(fields ...string) []byte {
							buf.Reset()
							for i := 0; i < len(fields); i += 2 {
								_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
							}
							return []byte(buf.String())
						})
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// Streams that a backend refuses unprocessed go elsewhere, whatever the call is and without being a retry.
func TestRefusedStreams(t *testing.T) {
	var refused atomic.Int64
	refusing := framing(t, func(fr *http2.Framer, stream uint32, _ func(...string) []byte) {
		refused.Add(1)
		_ = fr.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
	})
	leaving := framing(t, func(fr *http2.Framer, stream uint32, _ func(...string) []byte) {
		refused.Add(1)
		_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	})
	g := open(t, "h2c: true", routed("grpc", "load_balancer: round_robin, circuit_breaker: off, outlier_detection: off, retries: {attempts: 1, budget: 0%}", "", "", refusing, leaving, serve(t, testServer)))
	c := testpb.NewTestServiceClient(g.dial())
	for range 9 {
		if r, err := c.UnaryCall(bounded(t), &testpb.SimpleRequest{ResponseSize: 10, Payload: payload(1000)}); err != nil || len(r.GetPayload().GetBody()) != 10 {
			t.Fatal(err)
		}
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused")
	}
}

// A backend that speaks no HTTP/2 is a bad gateway.
func TestNotHTTP2(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	g := open(t, "h2c: true", routed("grpc", "retries: off", "", "", l.Addr().String()))
	_, err = testpb.NewTestServiceClient(g.dial()).EmptyCall(bounded(t), &testpb.Empty{})
	wantCode(t, "HTTP/1.1", err, codes.Unavailable)
}

// The health protocol of gRPC decides who gets calls.
func TestHealthChecks(t *testing.T) {
	checked := health.NewServer()
	register := func(s *grpc.Server) {
		testServer(s)
		healthpb.RegisterHealthServer(s, checked)
	}
	checked.SetServingStatus("orders.v1.Orders", healthpb.HealthCheckResponse_NOT_SERVING)
	address := serve(t, register)
	f := func(settings string, want codes.Code) {
		t.Helper()
		g := open(t, "h2c: true", routed("grpc", "circuit_breaker: off, outlier_detection: off, health_check: {interval: 20ms, unhealthy: 1, healthy: 1"+settings+"}", "", "", address))
		c := testpb.NewTestServiceClient(g.dial())
		once(t, settings+" gets "+want.String(), func() bool {
			_, err := c.EmptyCall(bounded(t), &testpb.Empty{})
			return status.Code(err) == want
		})
	}
	f("", codes.OK)
	f(", grpc: orders.v1.Orders", codes.Unavailable)
	f(", grpc: nobody.v1.Nothing", codes.Unavailable)
	checked.SetServingStatus("orders.v1.Orders", healthpb.HealthCheckResponse_SERVING)
	f(", grpc: orders.v1.Orders", codes.OK)
}

// Calls in flight outlive reloads of everything but themselves.
func TestReload(t *testing.T) {
	s := &scripted{duplex: func(st testpb.TestService_FullDuplexCallServer) error {
		for {
			if _, err := st.Recv(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := st.Send(&testpb.StreamingOutputCallResponse{}); err != nil {
				return err
			}
		}
	}}
	text := routed("grpc", "", "", "", s.serve(t))
	g := open(t, "h2c: true", text)
	st, err := testpb.NewTestServiceClient(g.dial()).FullDuplexCall(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := st.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); err != nil {
			t.Fatalf("after %d reloads: %v", i, err)
		}
		g.apply(fmt.Sprintf("listeners: {main: {address: \"127.0.0.1:0\", h2c: true}}\nlimits: {idle_timeout: %ds}\n%s", 60+i, text))
	}
}

// A failing service opens its breaker by its status too; a deadline of the client's does not.
func TestBreakerByStatus(t *testing.T) {
	code := codes.Internal
	release := make(chan struct{})
	defer close(release)
	s := &scripted{unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		if code == codes.OK {
			<-release
		}
		return nil, status.Error(code, "")
	}}
	address := s.serve(t)
	f := func(answered codes.Code, deadline time.Duration, want codes.Code) {
		t.Helper()
		code = answered
		g := open(t, "h2c: true", routed("grpc", "circuit_breaker: {consecutive_failures: 2}, outlier_detection: off, retries: off", "", "", address))
		c := testpb.NewTestServiceClient(g.dial())
		var err error
		for range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			_, err = c.UnaryCall(ctx, &testpb.SimpleRequest{})
			cancel()
		}
		wantCode(t, answered.String(), err, want)
	}
	f(codes.Internal, patience, codes.Unavailable)
	f(codes.NotFound, patience, codes.NotFound)
	f(codes.OK, 30*time.Millisecond, codes.DeadlineExceeded)
}
