package cache

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Of a thousand requests for what is stale one is fetched, and none waits for it.
func TestOneRequestRefreshes(t *testing.T) {
	s := newSite(t, "cache: {stale_while_revalidate: 60s}", "")
	s.answers(200, "old", "Cache-Control: max-age=10")
	s.want(t, false, "GET /")
	s.advance(20 * time.Second)
	release := make(chan struct{})
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		<-release
		w.Header().Set("Cache-Control", "max-age=10")
		_, _ = io.WriteString(w, "new"+r.Header.Get("Range")+r.Header.Get("Cookie"))
	})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				if r := s.do(t, "GET /", "Cookie: a=b"); r.err != nil || r.status != 200 || r.body != "old" || !strings.HasPrefix(r.cache(), "sluice; hit; ttl=-10") {
					t.Errorf("%d %q %q %v", r.status, r.body, r.cache(), r.err)
				}
			}
		})
	}
	all.Wait()
	if r := s.do(t, "GET /", "Range: bytes=0-1"); r.status != 206 || r.body != "ol" {
		t.Errorf("a range of what is stale: %d %q", r.status, r.body)
	}
	close(release)
	for deadline := time.Now().Add(10 * time.Second); s.do(t, "GET /").body != "newa=b"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was fetched is not stored")
		}
	}
	if n := s.calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
}

// A refresh belongs to its caller, and runs the policies behind the cache.
func TestRefreshIsTheCallers(t *testing.T) {
	s := newSite(t, "cache: {stale_while_revalidate: 60s}, api_key: {}, response_transform: {greeting: hello}", twoConsumers)
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=10")
		fmt.Fprintf(w, "%s %d", r.Header.Get("X-Consumer-ID"), s.calls.Load())
	})
	for _, who := range []string{"alice", "bob"} {
		s.want(t, false, "GET /", "X-Caller: "+who)
	}
	s.advance(20 * time.Second)
	for i, who := range []string{"alice", "bob"} {
		if r := s.do(t, "GET /", "X-Caller: "+who); r.body != fmt.Sprint(who, " ", i+1) {
			t.Errorf("%s got %q", who, r.body)
		}
	}
	for _, who := range []string{"alice", "bob"} {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			r := s.do(t, "GET /", "X-Caller: "+who)
			if !strings.HasPrefix(r.body, who+" ") || fmt.Sprint(r.header["X-Greeting"]) != "[hello]" {
				t.Fatalf("%s got %q, %v", who, r.body, r.header["X-Greeting"])
			}
			if r.body >= who+" 3" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s still gets %q", who, r.body)
			}
		}
	}
	if n := s.calls.Load(); n != 4 {
		t.Errorf("%d calls", n)
	}
}

// A confirmation that does not repeat Vary does not give everyone what was stored for one caller.
func TestConfirmedAnswersStayTheCallers(t *testing.T) {
	s := newSite(t, "cache: {}, api_key: {}", twoConsumers)
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=10")
		w.Header().Set("ETag", `"a"`)
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(304)
			return
		}
		w.Header().Set("Vary", "X-Consumer-ID")
		_, _ = io.WriteString(w, r.Header.Get("X-Consumer-ID"))
	})
	for range 3 {
		for _, who := range []string{"alice", "bob", "mallory"} {
			if r := s.do(t, "GET /", "X-Caller: "+who); r.body != who {
				t.Errorf("%s got %q, %s", who, r.body, r.cache())
			}
		}
		s.advance(11 * time.Second)
	}
}

// A gateway that ends waits no longer for what it fetches in the background than for anything else.
func TestShutdownLeavesARefreshBehind(t *testing.T) {
	s := newSite(t, "cache: {stale_while_revalidate: 60s}", "")
	s.answers(200, "old", "Cache-Control: max-age=10")
	s.want(t, false, "GET /")
	s.advance(20 * time.Second)
	arrived, release := make(chan struct{}), make(chan struct{})
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
	})
	if r := s.do(t, "GET /"); r.body != "old" {
		t.Fatal(r.body)
	}
	<-arrived
	s.client.CloseIdleConnections()
	ended := make(chan struct{})
	go func() {
		s.Shutdown(context.Background()) // its timeout is a millisecond
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("it waits for ever")
	}
	close(release)
}

// One that sees what is stored as it is never finds a mixture of two versions.
func TestVersionsDoNotMix(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		n := fmt.Sprint(s.calls.Load())
		w.Header().Set("Cache-Control", "max-age=1")
		w.Header().Set("ETag", `"`+n+`"`)
		_, _ = io.WriteString(w, strings.Repeat(n+" ", 100))
	})
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := s.do(t, "GET /")
				if n := strings.Trim(r.header.Get("Etag"), `"`); r.err != nil || r.body != strings.Repeat(n+" ", 100) {
					t.Errorf("tag %s, body %.20q, %v", n, r.body, r.err)
					return
				}
			}
		})
	}
	for range 50 {
		s.advance(2 * time.Second)
		for before := s.calls.Load(); s.calls.Load() == before && !t.Failed(); {
			runtime.Gosched()
		}
	}
	close(stop)
	all.Wait()
}
