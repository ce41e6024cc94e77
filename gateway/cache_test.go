package gateway_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// cacheBackend answers with f and counts its calls.
func cacheBackend(t *testing.T, f http.HandlerFunc) (url string, calls *atomic.Int64) {
	t.Helper()
	calls = new(atomic.Int64)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		f(w, r)
	}))
	t.Cleanup(func() {
		backend.CloseClientConnections()
		backend.Close()
	})
	return backend.URL, calls
}

func cacheGet(t *testing.T, url string, head ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// Of two consumers and two members of a split, each pair has answers of its own.
func TestCacheKeepsConsumersAndMembersApart(t *testing.T) {
	answers := func(member string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=600")
			_, _ = io.WriteString(w, member+" "+r.Header.Get("X-Consumer-ID"))
		}
	}
	stable, stableCalls := cacheBackend(t, answers("stable"))
	canary, canaryCalls := cacheBackend(t, answers("canary"))
	c, err := config.Parse("test.yaml", []byte(fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0"}}
services: {stable: {endpoints: [%q]}, canary: {endpoints: [%q]}}
routes: {r: {match: {paths: [/]}, split: {services: [{service: stable}, {service: canary}]}}}
policies: {api_key: {}, cache: {}}
consumers:
  alice: {api_keys: [{id: a, hash: "sha256:%x"}]}
  bob: {api_keys: [{id: b, hash: "sha256:%x"}]}
`, stable, canary, sha256.Sum256([]byte("key-of-alice")), sha256.Sum256([]byte("key-of-bob")))), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All()})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	url := "http://" + g.Listeners()[0].Address + "/"
	got := make(map[string]int)
	for range 100 {
		for _, who := range []string{"alice", "bob"} {
			_, body := cacheGet(t, url, "X-API-Key: key-of-"+who)
			if got[body]++; !strings.HasSuffix(body, " "+who) {
				t.Fatalf("%s got %q", who, body)
			}
		}
	}
	if len(got) != 4 || stableCalls.Load() != 2 || canaryCalls.Load() != 2 {
		t.Errorf("answers %v, %d and %d calls, want 4 answers of one call each", got, stableCalls.Load(), canaryCalls.Load())
	}
}

// While the backend is dead, all that stale-if-error covers is answered, at any load.
func TestCacheOutlivesItsBackend(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=1, stale-if-error=600")
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	var ahead atomic.Int64
	begun := time.Now()
	c, err := config.Parse("test.yaml", []byte(`
listeners: {main: {address: "127.0.0.1:0"}}
services: {s: {endpoints: ["`+backend.URL+`"]}}
routes: {r: {match: {paths: [/]}, service: s}}
policies: {cache: {}}
`), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), Now: func() time.Time { return begun.Add(time.Duration(ahead.Load())) }})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	url := "http://" + g.Listeners()[0].Address
	const pages = 100
	for i := range pages {
		cacheGet(t, fmt.Sprintf("%s/%d", url, i))
	}
	backend.CloseClientConnections()
	backend.Close()
	ahead.Store(int64(500 * time.Second))
	var all sync.WaitGroup
	for worker := range 10 {
		all.Go(func() {
			for i := range pages {
				path := fmt.Sprintf("/%d", (i+worker)%pages)
				res, err := http.Get(url + path)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode != 200 || string(body) != path {
					t.Errorf("%s: %d %q %q", path, res.StatusCode, body, res.Header.Get("Cache-Status"))
				}
			}
		})
	}
	all.Wait()
	ahead.Store(int64(700 * time.Second))
	if res, _ := cacheGet(t, url+"/1"); res.StatusCode < 500 {
		t.Errorf("behind the time of stale-if-error: %d", res.StatusCode)
	}
}

// What a policy behind the cache appends to answers was there twice where a stored one stood in for an error, and would
// be with each validation.
func TestCacheAndTransformsOfConfirmedAnswers(t *testing.T) {
	fails := false
	backend, calls := cacheBackend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=10, stale-if-error=600")
		w.Header().Set("ETag", `"a"`)
		w.Header()["Date"] = nil
		switch {
		case fails:
			w.WriteHeader(503)
		case r.Header.Get("If-None-Match") == `"a"`:
			w.WriteHeader(304)
		default:
			_, _ = io.WriteString(w, "hello")
		}
	})
	var ahead atomic.Int64
	begun := time.Now()
	c, err := config.Parse("test.yaml", []byte(`
listeners: {main: {address: "127.0.0.1:0"}}
services: {s: {endpoints: ["`+backend+`"], retries: {attempts: 0}}}
routes: {r: {match: {paths: [/]}, service: s}}
policies: {cache: {}, response_transform: {append: {headers: {X-Seen: by-the-gateway}}, remove: {headers: [X-Nothing]}}}
`), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), Now: func() time.Time { return begun.Add(time.Duration(ahead.Load())) }})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	url := "http://" + g.Listeners()[0].Address + "/"
	f := func(what string, wantCalls int64) {
		t.Helper()
		before := calls.Load()
		res, body := cacheGet(t, url)
		if n := calls.Load() - before; res.StatusCode != 200 || body != "hello" || fmt.Sprint(res.Header["X-Seen"]) != "[by-the-gateway]" || n != wantCalls {
			t.Errorf("%s: %d %q %v, %d calls, %s", what, res.StatusCode, body, res.Header["X-Seen"], n, res.Header.Get("Cache-Status"))
		}
	}
	f("fetched", 1)
	f("stored", 0)
	ahead.Add(int64(11 * time.Second))
	f("confirmed", 1)
	f("stored again", 0)
	ahead.Add(int64(11 * time.Second))
	fails = true
	f("in the place of an error", 1)
}

// A stored answer came without the space behind its status, and an answer whose status was changed kept the phrase of the other.
func TestStatusLines(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		status := "200 Fine"
		if strings.Contains(head, "missing") {
			status = "404 Not Found"
		}
		return "HTTP/1.1 " + status + "\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nhi"
	})
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}}
routes:
  cached: {match: {paths: [/cached]}, service: s, policies: {cache: {}}}
  changed: {match: {paths: [/changed]}, service: s, policies: {response_transform: {status: {404: 200}}}}
`, s.addr))
	c := g.client()
	f := func(path, want string) {
		t.Helper()
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
		head, _ := c.response()
		if line, _, _ := strings.Cut(head, "\r\n"); line != want {
			t.Errorf("%s: %q, want %q", path, line, want)
		}
	}
	f("/cached", "HTTP/1.1 200 Fine")
	f("/cached", "HTTP/1.1 200 OK")
	f("/cached/missing", "HTTP/1.1 404 Not Found")
	f("/cached/missing", "HTTP/1.1 404 Not Found")
	f("/changed/missing", "HTTP/1.1 200 OK")
	f("/changed", "HTTP/1.1 200 Fine")
}
