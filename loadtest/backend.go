package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// backend is the service behind the gateway. It does what the scenario says, at
// any time, and counts what reaches it.
type backend struct {
	url    string
	calls  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
	fault  func(http.HandlerFunc) http.HandlerFunc // around every answer
	server *http.Server
	served chan struct{}
}

func startBackend() (*backend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{url: "http://" + ln.Addr().String(), served: make(chan struct{})}
	b.does(plain)
	b.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == straight {
			plain(w, req)
			return
		}
		b.calls.Add(1)
		(*b.answer.Load())(w, req)
	})}
	go func() {
		defer close(b.served)
		_ = b.server.Serve(ln)
	}()
	return b, nil
}

// straight is the path of requests that come without the gateway. They are answered
// at once, and not counted.
const straight = "/straight"

// does makes the backend answer differently from now on.
func (b *backend) does(answer http.HandlerFunc) {
	if b.fault != nil {
		answer = b.fault(answer)
	}
	b.answer.Store(&answer)
}

func (b *backend) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		_ = b.server.Close()
	}
	<-b.served
}

// plain answers at once.
func plain(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"path":%q,"user":%q}`+"\n", req.URL.Path, req.Header.Get("X-User-ID"))
}

// failing answers 503.
func failing(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusServiceUnavailable)
}

// taking answers after a time, unless the caller goes away before.
func taking(d time.Duration, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			answer(w, req)
		case <-req.Context().Done():
		}
	}
}

// atATime serves so many requests at the same time; others wait in line.
func atATime(n int, answer http.HandlerFunc) http.HandlerFunc {
	slots := make(chan struct{}, n)
	return func(w http.ResponseWriter, req *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			answer(w, req)
		case <-req.Context().Done():
		}
	}
}
