package grpctest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"sluice/gateway/certs/certstest"
)

// interopCases are gRPC's cases for interoperability that need no account of a cloud.
var interopCases = []struct {
	name string
	run  func(ctx context.Context, cc *grpc.ClientConn, options ...grpc.CallOption)
}{
	{"empty_unary", onService(interop.DoEmptyUnaryCall)},
	{"large_unary", onService(interop.DoLargeUnaryCall)},
	{"client_streaming", onService(interop.DoClientStreaming)},
	{"server_streaming", onService(interop.DoServerStreaming)},
	{"ping_pong", onService(interop.DoPingPong)},
	{"empty_stream", onService(interop.DoEmptyStream)},
	{"timeout_on_sleeping_server", onService(interop.DoTimeoutOnSleepingServer)},
	{"cancel_after_begin", onService(interop.DoCancelAfterBegin)},
	{"cancel_after_first_response", onService(interop.DoCancelAfterFirstResponse)},
	{"custom_metadata", onService(interop.DoCustomMetadata)},
	{"status_code_and_message", onService(interop.DoStatusCodeAndMessage)},
	{"special_status_message", onService(interop.DoSpecialStatusMessage)},
	{"unimplemented_method", func(ctx context.Context, cc *grpc.ClientConn, _ ...grpc.CallOption) {
		interop.DoUnimplementedMethod(ctx, cc)
	}},
	{"unimplemented_service", func(ctx context.Context, cc *grpc.ClientConn, _ ...grpc.CallOption) {
		interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
	}},
}

func onService(f func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn, ...grpc.CallOption) {
	return func(ctx context.Context, cc *grpc.ClientConn, options ...grpc.CallOption) {
		f(ctx, testpb.NewTestServiceClient(cc), options...)
	}
}

// failing makes what gRPC's cases call fatal the end of a test instead of the process.
type failing struct{ grpclog.LoggerV2 }

type interopFailure string

func (failing) InfoDepth(int, ...any)         {}
func (failing) WarningDepth(int, ...any)      {}
func (failing) ErrorDepth(int, ...any)        {}
func (failing) FatalDepth(_ int, args ...any) { panic(interopFailure(fmt.Sprint(args...))) }
func (failing) Fatal(args ...any)             { panic(interopFailure(fmt.Sprint(args...))) }
func (failing) Fatalf(format string, args ...any) {
	panic(interopFailure(fmt.Sprintf(format, args...)))
}

func init() {
	grpclog.SetLoggerV2(failing{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
}

func runInterop(t *testing.T, g *gate, options ...grpc.CallOption) {
	t.Helper()
	cc := g.dial()
	for _, c := range interopCases {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if failure := recover(); failure != nil {
					t.Fatal(failure)
				}
			}()
			c.run(bounded(t), cc, options...)
		})
	}
}

func TestInteropH2C(t *testing.T) {
	runInterop(t, open(t, "h2c: true", routed("grpc", "", "", "", serve(t, testServer))))
}

func TestInteropTLS(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("backend", certstest.Leaf{CN: "backend.example", DNS: []string{"backend.example"}})
	ca := a.File
	server := serve(t, testServer, grpc.Creds(credentials.NewServerTLSFromCert(&[]tls.Certificate{a.Pair(cert, key)}[0])))
	runInterop(t, open(t, "tls", routed("grpcs", fmt.Sprintf("tls: {ca: %q, server_name: backend.example}", ca), "", "", server)))
}

// All is the same where messages are compressed.
func TestInteropCompressed(t *testing.T) {
	runInterop(t, open(t, "h2c: true", routed("grpc", "", "", "", serve(t, testServer))), grpc.UseCompressor(gzip.Name))
}

// And where h2c is spoken to a service that is not known to be of gRPC.
func TestInteropPlainHTTP2(t *testing.T) {
	runInterop(t, open(t, "h2c: true", routed("h2c", "", "", "", serve(t, testServer))))
}
