package grpctest

import (
	"context"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// The example runs: one service, called by gRPC, by gRPC-Web and by REST.
func TestExample(t *testing.T) {
	l := serveLibrary(t, func(s *grpc.Server, l *library) {
		v1.RegisterServerReflectionServer(s, reflection.NewServerV1(reflection.ServerOptions{
			Services: reflected{}, DescriptorResolver: l.files, ExtensionResolver: protoregistry.GlobalTypes,
		}))
		healthpb.RegisterHealthServer(s, health.NewServer())
	})
	c, err := config.Load("../../config/examples/grpc.yaml", config.Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Gateway: gateway.New(gateway.Options{Registry: registry.All(), DrainTimeout: patience, Resolve: map[string]string{"library:9090": l.address}}), t: t}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		g.Shutdown(ctx)
	})
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	g.addr = g.Listeners()[0].Address

	method := l.service.Methods().ByName("Plain")
	in, out := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	name := method.Input().Fields().ByName("name")
	in.Set(name, protoreflect.ValueOfString("a"))
	if err := g.dial().Invoke(bounded(t), "/lib.v1.Library/Plain", in, out); err != nil || out.Get(name).String() != "a" {
		t.Errorf("gRPC: %v, %v", out, err)
	}
	w := &web{client: http.DefaultClient, url: "http://" + g.addr}
	if a := w.call(t, "/lib.v1.Library/Plain", http.Header{"Origin": {"https://app.example.com"}}, in); len(a.messages) != 1 || a.trailers["grpc-status"] != "0" || a.res.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("gRPC-Web: %v", a.trailers)
	}
	if res, body := g.do(request{method: "GET", target: "/v1/items/a?nested.street=x"}); res.StatusCode != 200 || body != `{"name":"a","nested":{"street":"x"}}` {
		t.Errorf("REST: %d %s", res.StatusCode, body)
	}
}
