package gateway_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sluice/gateway"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/cache"
	"sluice/gateway/snapshot"
)

// locked is a buffer for a log.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A fault in a hook ends its request with 500, not the process.
func TestPanicInHook(t *testing.T) {
	type settings struct{}
	fault := func(when string) func(*exchange.Exchange) error {
		return func(x *exchange.Exchange) error {
			if string(x.RequestHeader("X-Panic")) == when {
				panic("BUG: " + when)
			}
			return nil
		}
	}
	broken := policy.Define("bot_filter", policy.Guard, func(*policy.Build, *settings) (policy.Hooks, error) {
		done := fault("done")
		return policy.Hooks{Request: fault("request"), Response: fault("response"), Done: func(x *exchange.Exchange) { _ = done(x) }}, nil
	})
	var log locked
	b := answering(t, func(string, string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" })
	g := serve(t, gateway.Options{
		Registry: snapshot.NewRegistry([]*policy.Definition{broken}, nil),
		Log:      slog.New(slog.NewTextHandler(&log, nil)),
	}, `
services: {s: {endpoints: ["http://`+b.addr+`"]}}
routes: {r: {service: s}}
policies: {bot_filter: {}}
`)
	f := func(when string, status int, body string) {
		t.Helper()
		c := g.client()
		c.send("GET / HTTP/1.1\r\nHost: a\r\nX-Panic: " + when + "\r\n\r\n")
		head, got := c.response()
		if !strings.HasPrefix(head, "HTTP/1.1 "+map[int]string{200: "200", 500: "500"}[status]) || !strings.Contains(got, body) {
			t.Errorf("%s: %s%s", when, head, got)
		}
		c.close()
	}
	f("request", 500, "internal_error")
	f("response", 500, "internal_error")
	f("done", 200, "ok")
	f("never", 200, "ok")
	if !strings.Contains(log.String(), "BUG: request") || !strings.Contains(log.String(), "panic_test.go") {
		t.Errorf("the log does not tell: %s", log.String())
	}
}

// So it is in a request that goes on without a client, and only a fault is told as one.
func TestPanicInRepeat(t *testing.T) {
	type settings struct{}
	var calls, answers atomic.Int32
	broken := policy.Define("request_transform", policy.Transform, func(*policy.Build, *settings) (policy.Hooks, error) {
		return policy.Hooks{Request: func(*exchange.Exchange) error {
			if calls.Add(1) == 3 {
				panic("BUG: behind")
			}
			return nil
		}}, nil
	})
	var log locked
	b := answering(t, func(string, string) string {
		answers.Add(1)
		return "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, stale-while-revalidate=600\r\nContent-Length: 2\r\n\r\nok"
	})
	g := serve(t, gateway.Options{
		Registry: snapshot.NewRegistry([]*policy.Definition{broken, cache.Definition}, nil),
		Log:      slog.New(slog.NewTextHandler(&log, nil)),
	}, `
services: {s: {endpoints: ["http://`+b.addr+`"]}}
routes: {r: {service: s}}
policies: {request_transform: {}, cache: {}}
`)
	ask := func() {
		t.Helper()
		c := g.client()
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if head, body := c.response(); !strings.HasPrefix(head, "HTTP/1.1 200") || body != "ok" {
			t.Fatal(head, body)
		}
		c.close()
	}
	ask()
	repeated := func(n int32) {
		t.Helper()
		once(t, "a request is repeated", func() bool { ask(); return answers.Load() >= n })
	}
	repeated(2)
	if strings.Contains(log.String(), "panic") {
		t.Errorf("a repeat without a fault counts as one: %s", log.String())
	}
	once(t, "a fault is told", func() bool { ask(); return strings.Contains(log.String(), "BUG: behind") })
	repeated(3)
}
