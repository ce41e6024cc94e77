package cache

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	store "sluice/gateway/cache"

	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// Whether the second request is answered with the response to the first.
func TestRules(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	n := 0
	f := func(hit bool, status int, response []string, request ...string) {
		t.Helper()
		n++
		target := fmt.Sprintf("GET /rules/%d", n)
		s.answers(status, "body", response...)
		s.want(t, false, target)
		r := s.want(t, hit, target, request...)
		if hit && r.status == status && r.body != "body" {
			t.Errorf("%v: %d %q", response, r.status, r.body)
		}
	}
	head := func(lines ...string) []string { return lines }

	// Without freshness of its own.
	f(true, 200, nil)
	f(true, 200, head("Content-Type: application/json"))
	f(false, 404, nil)
	f(false, 301, head("Location: /x"))
	f(false, 500, nil)
	f(false, 200, head("Set-Cookie: a=b"))
	f(false, 200, head("Vary: *"))
	f(false, 200, head("Content-Type: text/event-stream; charset=utf-8"))

	// With it.
	f(true, 200, head("Cache-Control: max-age=60"))
	f(true, 404, head("Cache-Control: max-age=60"))
	f(true, 200, head("Cache-Control: max-age=60", "Set-Cookie: a=b"))
	f(true, 200, head("Cache-Control: max-age=0, s-maxage=60"))
	f(true, 200, head("Expires: Fri, 31 Dec 2100 00:00:00 GMT"))
	f(true, 200, head("Cache-Control: max-age=60", "Age: 30"))
	f(false, 200, head("Cache-Control: max-age=60", "Age: 60"))
	f(false, 200, head("Cache-Control: max-age=60, s-maxage=0"))
	f(false, 200, head("Cache-Control: max-age=0"))
	f(false, 200, head("Expires: 0"))
	f(false, 200, head("Cache-Control: no-store"))
	f(false, 200, head("Cache-Control: max-age=60, private"))
	f(false, 200, head("Cache-Control: max-age=60, no-cache", `ETag: "a"`))
	f(false, 200, head("Cache-Control: no-cache"))
	f(true, 200, head(`Cache-Control: max-age=60, no-cache="x-secret"`))
	f(false, 206, head("Cache-Control: max-age=60", "Content-Range: bytes 0-3/10"))
	f(false, 599, head("Cache-Control: max-age=60, must-understand"))

	// What the client wants.
	fresh := head("Cache-Control: max-age=60")
	f(false, 200, fresh, "Cache-Control: no-cache")
	f(false, 200, fresh, "Pragma: no-cache")
	f(true, 200, fresh, "Pragma: no-cache", "Cache-Control: max-age=30")
	f(true, 200, fresh, "Cache-Control: no-store")
	f(true, 200, fresh, "Cache-Control: min-fresh=30")
	f(false, 200, fresh, "Cache-Control: min-fresh=90")
	f(true, 200, fresh, "Cache-Control: only-if-cached")
	f(true, 200, fresh, "Range: bytes=0-1")
	f(false, 200, fresh, `If-Match: "a"`)
	f(false, 200, fresh, "Connection: Upgrade", "Upgrade: x")

	// Variants.
	vary := head("Cache-Control: max-age=60", "Vary: Accept-Language")
	f(true, 200, vary)
	f(false, 200, vary, "Accept-Language: de")
}

func TestRequestNoStore(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.answers(200, "x")
	s.want(t, false, "GET /", "Cache-Control: no-store")
	if r := s.want(t, false, "GET /"); r.cache() != "sluice; fwd=uri-miss; stored" {
		t.Error(r.cache())
	}
	s.want(t, true, "GET /")
}

func TestVariants(t *testing.T) {
	s := newSite(t, "cache: {vary: [X-Device]}", "")
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", "Accept-Language, X-Forwarded-Proto")
		_, _ = io.WriteString(w, r.Header.Get("Accept-Language")+r.Header.Get("X-Device"))
	})
	f := func(hit bool, want, status string, head ...string) {
		t.Helper()
		if r := s.want(t, hit, "GET /", head...); r.body != want || !strings.HasPrefix(r.cache(), status) {
			t.Errorf("%v: %q, Cache-Status %q", head, r.body, r.cache())
		}
	}
	f(false, "", "sluice; fwd=uri-miss; stored")
	f(false, "de", "sluice; fwd=vary-miss; stored", "Accept-Language: de")
	f(false, "dephone", "sluice; fwd=vary-miss; stored", "Accept-Language: de", "X-Device: phone")
	f(true, "", "sluice; hit; ttl=")
	f(true, "de", "sluice; hit; ttl=", "Accept-Language: de")
	f(true, "dephone", "sluice; hit; ttl=", "Accept-Language: de", "X-Device: phone")
}

func TestStoredAnswerOverTheWire(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.answers(200, "hello", "Content-Type: text/plain", `ETag: "v1"`, "X-Thing: 1", "X-Thing: 2", "Content-Language: en", "Content-Encoding: br")
	first := s.want(t, false, "GET /a?b=c")
	s.advance(10 * time.Second)
	r := s.want(t, true, "GET /a?b=c")
	if r.status != 200 || r.body != "hello" || r.cache() != "sluice; hit; ttl=290" {
		t.Errorf("%d %q %q", r.status, r.body, r.cache())
	}
	if age := r.header.Get("Age"); age != "10" {
		t.Errorf("Age %q", age)
	}
	for _, name := range []string{"Date", "Content-Type", "Etag", "Content-Language", "Content-Encoding", "Content-Length", "Via"} {
		if got, want := r.header.Values(name), first.header.Values(name); len(got) != 1 || got[0] != want[0] {
			t.Errorf("%s: %q, was %q", name, got, want)
		}
	}
	if got := fmt.Sprint(r.header.Values("X-Thing")); got != "[1 2]" {
		t.Error(got)
	}
	r = s.want(t, true, "HEAD /a?b=c")
	if r.body != "" || r.header.Get("Content-Length") != "5" {
		t.Errorf("HEAD: %q %v", r.body, r.header)
	}
	s.want(t, false, "GET /a?b=d")
	s.want(t, false, "GET /a")

	// Conditions.
	f := func(status int, head ...string) {
		t.Helper()
		r := s.want(t, true, "GET /a?b=c", head...)
		if r.status != status || status == 304 && (r.body != "" || r.header.Get("Etag") != `"v1"` || r.header.Get("Content-Type") != "" ||
			r.header.Get("Content-Encoding") != "" || r.header.Get("Content-Length") != "" || r.header.Get("Date") != first.header.Get("Date")) {
			t.Errorf("%v: %d %v", head, r.status, r.header)
		}
	}
	f(304, `If-None-Match: "v1"`)
	f(304, `If-None-Match: W/"v1", "v2"`)
	f(304, `If-None-Match: *`)
	f(200, `If-None-Match: "v2"`)
	f(304, "If-Modified-Since: "+first.header.Get("Date"))
	f(200, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT")

	s.advance(time.Hour)
	if r := s.want(t, false, "GET /a?b=c"); r.cache() != "sluice; fwd=stale; stored" {
		t.Error(r.cache())
	}
}

func TestHead(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.answers(200, strings.Repeat("x", 700))
	s.want(t, false, "HEAD /")
	if r := s.want(t, true, "HEAD /"); r.header.Get("Content-Length") != "700" {
		t.Error(r.header)
	}
	s.want(t, false, "GET /")
	s.want(t, true, "HEAD /")

	s = newSite(t, "cache: {methods: [GET]}", "")
	s.want(t, false, "GET /")
	if r := s.want(t, false, "HEAD /"); r.cache() != "sluice; fwd=method" {
		t.Error(r.cache())
	}
}

func TestOnlyIfCached(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	if r := s.do(t, "GET /", "Cache-Control: only-if-cached"); r.status != 504 || s.calls.Load() != 0 {
		t.Errorf("%d, %d calls", r.status, s.calls.Load())
	}
}

func TestMaxStale(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.answers(200, "x", "Cache-Control: max-age=10")
	s.want(t, false, "GET /")
	s.advance(15 * time.Second)
	if r := s.want(t, true, "GET /", "Cache-Control: max-stale=20"); !strings.HasPrefix(r.cache(), "sluice; hit; ttl=-5") {
		t.Error(r.cache())
	}
	s.counted(t, `sluice_cache_requests_total{route="users",result="stale"}`, 1)
	s.want(t, false, "GET /", "Cache-Control: max-stale=2")
}

func TestIgnoreOrigin(t *testing.T) {
	s := newSite(t, "cache: {respect_origin: false, ttl: 60s, statuses: [200, 404], content_types: [application/json]}", "")
	s.answers(200, "x", "Cache-Control: no-store", "Content-Type: application/json; charset=utf-8")
	s.want(t, false, "GET /a")
	s.want(t, true, "GET /a", "Cache-Control: no-cache")
	s.answers(200, "x", "Cache-Control: max-age=60", "Content-Type: text/html")
	s.want(t, false, "GET /b")
	s.want(t, false, "GET /b")
	s.answers(404, "x", "Content-Type: application/json")
	s.want(t, false, "GET /c")
	s.want(t, true, "GET /c")
	s.advance(61 * time.Second)
	s.want(t, false, "GET /c")
}

const twoConsumers = "consumers: {alice: {}, bob: {}, mallory: {}}"

// Nobody is given what another caller was answered, unless it is for everyone.
func TestCallers(t *testing.T) {
	echo := func(head ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for _, line := range head {
				name, value, _ := strings.Cut(line, ": ")
				w.Header().Add(name, value)
			}
			_, _ = io.WriteString(w, "for "+r.Header.Get("X-Consumer-ID")+r.Header.Get("X-User-ID")+r.Header.Get("Authorization"))
		}
	}
	for _, head := range []string{"", "Cache-Control: max-age=60", "Cache-Control: private", "Vary: X-Consumer-ID", "Cache-Control: public, max-age=60|Vary: X-Consumer-ID, X-User-ID"} {
		for _, policies := range []string{"cache: {}, api_key: {}", "cache: {respect_origin: false}, api_key: {}"} {
			s := newSite(t, policies, twoConsumers)
			s.handle(echo(strings.Split(head, "|")...))
			for range 3 {
				for _, who := range []string{"alice", "bob", "carol", "dave"} {
					// A client's own copy of an identity header selects nothing.
					r := s.do(t, "GET /", "X-Caller: "+who, "X-Consumer-ID: alice", "X-User-ID: alice")
					if want := "for " + map[bool]string{true: who + who, false: who}[who == "alice" || who == "bob"]; r.body != want {
						t.Fatalf("%s, %q: %s got %q", policies, head, who, r.body)
					}
				}
			}
			wantCalls := int64(4)
			if head == "Cache-Control: private" && policies == "cache: {}, api_key: {}" {
				wantCalls = 12
			}
			if n := s.calls.Load(); n != wantCalls {
				t.Errorf("%s, %q: %d calls, want %d", policies, head, n, wantCalls)
			}
		}
	}

	// For everyone by word of the origin, or of the route.
	for _, c := range [][2]string{{"cache: {}, api_key: {}", "Cache-Control: public, max-age=60"}, {"cache: {}, api_key: {}", "Cache-Control: s-maxage=60"},
		{"cache: {shared: true}, api_key: {}", ""}} {
		s := newSite(t, c[0], twoConsumers)
		s.handle(echo(c[1]))
		s.want(t, false, "GET /", "X-Caller: alice")
		if r := s.want(t, true, "GET /", "X-Caller: bob"); r.body != "for alicealice" {
			t.Error(r.body)
		}
		if r := s.do(t, "GET /"); r.status != 401 {
			t.Errorf("%d without a credential", r.status)
		}
	}

	// Credentials that are the backend's business.
	s := newSite(t, "cache: {}", "")
	s.handle(echo())
	s.want(t, false, "GET /", "Authorization: a")
	s.want(t, true, "GET /", "Authorization: a")
	s.want(t, false, "GET /", "Authorization: b")
	s.want(t, false, "GET /")
	s.want(t, true, "GET /")
	s.want(t, false, "GET /", "Authorization: c")
	s = newSite(t, "cache: {}, api_key: {}", twoConsumers)
	s.handle(echo())
	s.want(t, false, "GET /", "X-Caller: alice", "Authorization: a")
	s.want(t, true, "GET /", "X-Caller: alice", "Authorization: a")
	s.want(t, false, "GET /", "X-Caller: alice", "Authorization: b")
	s.want(t, false, "GET /", "X-Caller: alice")
}

// What policies behind the cache make of an answer is stored, and a caller for whom they differ has entries of its own.
func TestTransformedAnswers(t *testing.T) {
	s := newSite(t, "cache: {shared: true}, api_key: {}, response_transform: {greeting: hello}", "consumers: {alice: {}, bob: {policies: {response_transform: {greeting: hi}}}}")
	f := func(hit bool, want string, head ...string) {
		t.Helper()
		if r := s.want(t, hit, "GET /", head...); fmt.Sprint(r.header.Values("X-Greeting")) != "["+want+"]" {
			t.Errorf("%v: %v", head, r.header.Values("X-Greeting"))
		}
	}
	f(false, "hello", "X-Caller: alice")
	f(true, "hello", "X-Caller: alice")
	f(true, "hello", "X-Caller: carol")
	f(false, "hi", "X-Caller: bob")
	f(true, "hi", "X-Caller: bob")
	f(false, "hello", "X-Caller: alice", "X-Language: de")
	f(true, "hello", "X-Caller: carol", "X-Language: de")
}

func TestCoalescing(t *testing.T) {
	const clients = 1000
	for _, body := range []string{"small", strings.Repeat("large ", 20_000)} {
		s := newSite(t, "cache: {}", "")
		release := make(chan struct{})
		s.handle(func(w http.ResponseWriter, r *http.Request) {
			<-release
			_, _ = io.WriteString(w, body)
		})
		var all sync.WaitGroup
		begun := make(chan struct{}, clients)
		for range clients {
			all.Go(func() {
				begun <- struct{}{}
				if r := s.do(t, "GET /"); r.err != nil || r.status != 200 || r.body != body {
					t.Errorf("%d %v", r.status, r.err)
				}
			})
		}
		for range clients {
			<-begun
		}
		close(release)
		all.Wait()
		if n := s.calls.Load(); n != 1 {
			t.Errorf("%d calls for %d requests", n, clients)
		}
		s.counted(t, `sluice_cache_requests_total{route="users",result="hit"}`, clients-1)
	}
}

// When the answer that many wait for is cut off, one of them fetches it anew.
func TestCoalescingOutlivesItsLeader(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	const clients = 10
	arrived, cut := make(chan struct{}), make(chan struct{})
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		if s.calls.Load() > 1 {
			_, _ = io.WriteString(w, "whole")
			return
		}
		close(arrived)
		<-cut
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	var all sync.WaitGroup
	all.Go(func() { s.do(t, "GET /") })
	<-arrived
	for range clients {
		all.Go(func() {
			if r := s.do(t, "GET /"); r.err != nil || r.body != "whole" {
				t.Errorf("%q %v", r.body, r.err)
			}
		})
	}
	waiting := s.waiting()
	for waiting.Len() < clients {
		runtime.Gosched()
	}
	close(cut)
	all.Wait()
	if n := s.calls.Load(); n != 2 || waiting.Len() != 0 {
		t.Errorf("%d calls, %d still wait", n, waiting.Len())
	}
}

// Callers do not wait for what turns out to be another's more than once.
func TestCoalescingOfCallers(t *testing.T) {
	s := newSite(t, "cache: {}, api_key: {}", twoConsumers)
	s.handle(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("X-Consumer-ID")) })
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			who := []string{"alice", "bob", "mallory"}[i%3]
			if r := s.do(t, "GET /", "X-Caller: "+who); r.body != who {
				t.Errorf("%s got %q", who, r.body)
			}
		})
	}
	all.Wait()
	if n := s.calls.Load(); n < 3 || n > 6 {
		t.Errorf("%d calls for 3 callers", n)
	}
}

func TestUncacheableIsNotHeldUp(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.answers(200, "x", "Cache-Control: no-store")
	s.do(t, "GET /")
	// The requests after the first are at the backend at the same time.
	const n = 20
	var together sync.WaitGroup
	together.Add(n)
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		together.Done()
		together.Wait()
		w.Header().Set("Cache-Control", "no-store")
	})
	var all sync.WaitGroup
	for range n {
		all.Go(func() { s.do(t, "GET /") })
	}
	all.Wait()
}

// The next one takes over from a client that went away, or from a backend that cut its answer off.
func TestTruncatedIsNotStored(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	for _, size := range []int{1000, 200_000} {
		for _, chunked := range []bool{false, true} {
			target := fmt.Sprintf("GET /%d/%t", size, chunked)
			cut := true
			s.handle(func(w http.ResponseWriter, r *http.Request) {
				if !chunked {
					w.Header().Set("Content-Length", fmt.Sprint(size))
				}
				n := size
				if cut {
					n /= 2
				}
				_, _ = io.WriteString(w, strings.Repeat("x", n))
				if cut {
					cut = false
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
			})
			if r := s.do(t, target); r.err == nil && r.status == 200 {
				t.Errorf("%s: the client was told that half is the whole", target)
			}
			if r := s.want(t, false, target); len(r.body) != size {
				t.Errorf("%s: %d bytes", target, len(r.body))
			}
			if r := s.want(t, true, target); len(r.body) != size {
				t.Errorf("%s: %d bytes", target, len(r.body))
			}
		}
	}
}

func TestBounds(t *testing.T) {
	s := newSite(t, "cache: {max_entry: 100KiB, max_size: 1MiB}", "")
	f := func(hit bool, size int, chunked bool) {
		t.Helper()
		s.handle(func(w http.ResponseWriter, r *http.Request) {
			if chunked {
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = io.WriteString(w, strings.Repeat("x", size))
		})
		target := fmt.Sprintf("GET /%d/%t", size, chunked)
		s.want(t, false, target)
		if r := s.want(t, hit, target); len(r.body) != size {
			t.Errorf("%d bytes of %d", len(r.body), size)
		}
	}
	for _, chunked := range []bool{false, true} {
		f(true, 0, chunked)
		f(true, 100<<10, chunked)
		f(false, 100<<10+1, chunked)
	}
	s.answers(200, strings.Repeat("x", 50_000))
	for i := range 100 {
		s.do(t, fmt.Sprintf("GET /many/%d", i))
		if n := s.metric(t, "sluice_cache_bytes"); n > 1<<20 || i == 99 && n < 1<<19 {
			t.Fatalf("%v bytes are held", n)
		}
	}
}

func TestInvalidation(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	f := func(method string, status int, hit bool, target string, head ...string) {
		t.Helper()
		s.answers(200, "x", "Vary: Accept")
		for _, accept := range []string{"a", "b"} {
			s.do(t, "GET "+target, "Accept: "+accept)
			s.want(t, true, "GET "+target, "Accept: "+accept)
		}
		s.answers(status, "", head...)
		if r := s.do(t, method+" /things/1?x=y"); r.status != status {
			t.Fatal(r.status)
		}
		s.answers(200, "x", "Vary: Accept")
		for _, accept := range []string{"a", "b"} {
			s.want(t, hit, "GET "+target, "Accept: "+accept)
		}
	}
	f("POST", 200, false, "/things/1?x=y")
	f("PUT", 204, false, "/things/1?x=y")
	f("DELETE", 302, false, "/things/1?x=y", "Location: /elsewhere")
	f("PURGE", 200, false, "/things/1?x=y")
	f("POST", 404, true, "/things/1?x=y")
	f("POST", 500, true, "/things/1?x=y")
	f("OPTIONS", 200, true, "/things/1?x=y")
	f("POST", 200, true, "/things/1")
	f("POST", 201, false, "/things/2", "Location: /things/2")
	f("POST", 201, false, "/things/2?q", "Content-Location: 2?q")
	f("POST", 201, false, "/things/2", "Location: "+s.url+"/a/../things/%32#top")
	f("POST", 201, true, "/things/2", "Location: http://other.example/things/2")
	f("POST", 201, true, "/things/2", "Location: %zz")
}

// What is fetched while it is changed is not stored as if it were new.
func TestInvalidationOfWhatIsFetched(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	reading, changed := make(chan struct{}), make(chan struct{})
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			close(reading)
			<-changed
		}
	})
	var all sync.WaitGroup
	all.Go(func() { s.do(t, "GET /") })
	<-reading
	s.do(t, "POST /")
	close(changed)
	all.Wait()
	s.answers(200, "new")
	s.want(t, false, "GET /")
	s.want(t, true, "GET /")
}

func TestPurge(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	fill := func() {
		s.handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Surrogate-Key", r.URL.Query().Get("tag"))
		})
		for _, target := range []string{"/a/1", "/a/2?tag=red+green", "/b?tag=green"} {
			s.do(t, "GET "+target)
		}
	}
	f := func(match func(*store.Entry) bool, want int) {
		t.Helper()
		fill()
		if n := s.purge(match); n != want {
			t.Errorf("%d were purged, want %d", n, want)
		}
	}
	f(store.Everything, 3)
	f(store.ByRoute("users"), 3)
	f(store.ByRoute("other"), 0)
	f(store.ByTag([]byte("green")), 2)
	f(store.ByTag([]byte("red")), 1)
	f(store.ByPrefix([]byte("127.0.0.1/a/")), 2)
	f(store.ByPrefix([]byte("other.example/")), 0)
}

func TestStaleIfError(t *testing.T) {
	s := newSite(t, "cache: {stale_if_error: 60s}", "")
	f := func(target string, wait time.Duration, fails http.HandlerFunc, status int, cache string, head ...string) {
		t.Helper()
		s.answers(200, "good", "Cache-Control: max-age=10")
		s.want(t, false, "GET "+target)
		s.advance(wait)
		s.handle(fails)
		if r := s.do(t, "GET "+target, head...); r.status != status || !strings.HasPrefix(r.cache(), cache) || status == 200 && r.body != "good" {
			t.Errorf("%s: %d %q %q", target, r.status, r.body, r.cache())
		}
	}
	answer := func(status, size int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, strings.Repeat("x", size))
		}
	}
	reset := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	f("/a", 20*time.Second, answer(503, 0), 200, "sluice; fwd=stale; fwd-status=503; ttl=-10")
	f("/b", 20*time.Second, answer(500, 200_000), 200, "sluice; fwd=stale; fwd-status=500; ttl=-10")
	f("/c", 20*time.Second, reset, 200, "sluice; fwd=stale; fwd-status=502; ttl=-10")
	f("/d", 20*time.Second, answer(404, 0), 404, "sluice; fwd=stale; detail=status")
	f("/e", 80*time.Second, answer(503, 0), 503, "sluice; fwd=stale; detail=status")
	f("/f", 80*time.Second, answer(503, 0), 200, "sluice; fwd=stale; fwd-status=503; ttl=-70", "Cache-Control: stale-if-error=100")
	f("/g", 80*time.Second, reset, 502, "")
	s.counted(t, `sluice_cache_requests_total{route="users",result="stale"}`, 4)
}

// What was stored as shared is nobody's once the setting is gone.
func TestSharedEntriesEndWithTheSetting(t *testing.T) {
	s := newSite(t, "cache: {shared: true}, api_key: {}", twoConsumers)
	s.want(t, false, "GET /", "X-Caller: alice")
	s.want(t, true, "GET /", "X-Caller: bob")
	s.apply(t, s.Config().Services["users"].Endpoints[0].URL, "cache: {}, api_key: {}", twoConsumers)
	s.url = "http://" + s.Listeners()[0].Address
	s.want(t, false, "GET /", "X-Caller: bob")
}

// A backend writes absolute links with the host and port that it is told of:
// an answer to one spelling is not the answer to another.
func TestHostSpellingsAreApart(t *testing.T) {
	s := newSite(t, "cache: {}", "trusted_proxies: [127.0.0.0/8]")
	s.want(t, false, "GET /", "Host: shop.example:1337")
	s.want(t, false, "GET /", "Host: shop.example")
	s.want(t, false, "GET /", "Host: shop.example", "X-Forwarded-Host: evil.example")
	s.want(t, false, "GET /", "Host: shop.example", "X-Forwarded-Port: 1337")
	s.want(t, true, "GET /", "Host: shop.example")
}

func TestReloadKeepsWhatIsStored(t *testing.T) {
	s := newSite(t, "cache: {}", "")
	s.answers(200, strings.Repeat("x", 60_000))
	for i := range 10 {
		s.do(t, fmt.Sprintf("GET /%d", i))
	}
	backend := s.Config().Services["users"].Endpoints[0].URL
	s.apply(t, backend, "cache: {ttl: 10s}", "")
	s.url = "http://" + s.Listeners()[0].Address
	s.want(t, true, "GET /9")
	s.apply(t, backend, "cache: {max_size: 200KiB, max_entry: 100KiB}", "")
	s.url = "http://" + s.Listeners()[0].Address
	s.do(t, "GET /9")
	if n := s.metric(t, "sluice_cache_bytes"); n > 200<<10 || n == 0 {
		t.Errorf("%v bytes are held", n)
	}
}
