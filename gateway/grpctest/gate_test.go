// Package grpctest holds the gateway to gRPC as gRPC's own clients and servers
// speak it, over real sockets.
package grpctest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
)

// patience bounds every wait; none comes near it unless it fails.
const patience = 20 * time.Second

// gate is a running gateway.
type gate struct {
	*gateway.Gateway
	t         testing.TB
	addr      string
	authority *certstest.Authority // nil without TLS
}

// open runs a gateway. listener is the block of its listener but for the address.
func open(t testing.TB, listener, text string) *gate {
	t.Helper()
	g := &gate{Gateway: gateway.New(gateway.Options{Registry: registry.All(), DrainTimeout: patience}), t: t}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		g.Shutdown(ctx)
	})
	if listener == "tls" {
		g.authority = certstest.New(t)
		cert, key := g.authority.Issue("api", certstest.Leaf{CN: "api.example", DNS: []string{"api.example"}})
		listener = fmt.Sprintf("tls: {certificates: [{cert: %q, key: %q}]}, http2: true", cert, key)
	}
	g.apply(fmt.Sprintf("listeners: {main: {address: \"127.0.0.1:0\", %s}}\n%s", listener, text))
	g.addr = g.Listeners()[0].Address
	return g
}

func (g *gate) apply(text string) {
	g.t.Helper()
	c, err := config.Parse("test.yaml", []byte(text), config.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.Apply(c); err != nil {
		g.t.Fatal(err)
	}
}

// dial connects a client of gRPC.
func (g *gate) dial(options ...grpc.DialOption) *grpc.ClientConn {
	g.t.Helper()
	creds := insecure.NewCredentials()
	if g.authority != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: g.authority.Pool(), ServerName: "api.example"})
	}
	cc, err := grpc.NewClient("passthrough:///"+g.addr, append([]grpc.DialOption{grpc.WithTransportCredentials(creds)}, options...)...)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// routed is a configuration that sends everything to a service.
func routed(protocol, service, route, more string, addresses ...string) string {
	scheme := "http"
	if protocol == "grpcs" {
		scheme = "https"
	}
	for i, a := range addresses {
		addresses[i] = fmt.Sprintf("%q", scheme+"://"+a)
	}
	return fmt.Sprintf("services: {s: {protocol: %s, endpoints: [%s]%s}}\nroutes: {r: {match: {paths: [/]}, service: s%s}}\n%s",
		protocol, strings.Join(addresses, ", "), comma(service), comma(route), more)
}

func comma(s string) string {
	if s == "" {
		return ""
	}
	return ", " + s
}

// serve runs a server of gRPC and returns its address.
func serve(t testing.TB, register func(*grpc.Server), options ...grpc.ServerOption) string {
	t.Helper()
	s := grpc.NewServer(options...)
	register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// testServer is gRPC's own server for interoperability.
func testServer(s *grpc.Server) { testpb.RegisterTestServiceServer(s, interop.NewTestServer()) }

// once waits until ok holds; what it looks at changes in other goroutines.
func once(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// within waits for a channel.
func within[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
	}
	return v
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func contextWith(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(context.Background(), d)
}
