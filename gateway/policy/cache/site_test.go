package cache

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	store "sluice/gateway/cache"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/snapshot"
)

// site is a gateway with this policy before a backend that counts its calls.
type site struct {
	*gateway.Gateway
	url    string
	client *http.Client
	begun  time.Time
	ahead  atomic.Int64
	calls  atomic.Int64

	mu     sync.Mutex
	answer http.HandlerFunc
}

// credentials stands for a policy that authenticates: the header X-Caller names the consumer, or the subject.
var credentials = policy.Define("api_key", policy.Authenticate, func(b *policy.Build, _ *struct{}) (policy.Hooks, error) {
	return policy.Hooks{Authenticate: func(x *exchange.Exchange) error {
		name := string(x.RequestHeader("X-Caller"))
		if name == "" {
			return exchange.ErrNoCredential
		}
		x.Identity = exchange.Identity{Authenticated: true, Method: "api_key", Consumer: b.World.Consumers[name], Subject: []byte(name)}
		return nil
	}}, nil
})

// greeting stands for a policy that changes answers.
var greeting = policy.Define("response_transform", policy.Transform, func(_ *policy.Build, c *struct {
	Greeting string `yaml:"greeting"`
}) (policy.Hooks, error) {
	value := []byte(c.Greeting)
	return policy.Hooks{
		Response: func(x *exchange.Exchange) error {
			x.ToClient.Set("X-Greeting", value)
			return nil
		},
		Varies: []string{"header:X-Language"},
	}, nil
})

// newSite serves the route / with these policies; more goes on in the configuration.
func newSite(t testing.TB, policies, more string) *site {
	t.Helper()
	s := &site{begun: time.Now(), answer: func(http.ResponseWriter, *http.Request) {}}
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls.Add(1)
		w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
		s.mu.Lock()
		answer := s.answer
		s.mu.Unlock()
		answer(w, r)
	}))
	s.Gateway = gateway.New(gateway.Options{
		Registry: snapshot.NewRegistry([]*policy.Definition{Definition, credentials, greeting}, nil),
		Now:      s.now,
	})
	s.apply(t, backend.URL, policies, more)
	s.url = "http://" + s.Listeners()[0].Address
	s.client = &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 2000, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		s.Shutdown(t.Context())
		backend.CloseClientConnections()
		backend.Close()
	})
	return s
}

func (s *site) apply(t testing.TB, backend, policies, more string) {
	t.Helper()
	c, err := config.Parse("test.yaml", []byte(`
listeners: {main: {address: "127.0.0.1:0"}}
services: {users: {endpoints: ["`+backend+`"], retries: {attempts: 0}, circuit_breaker: off, outlier_detection: off}}
routes: {users: {match: {paths: [/]}, service: users, policies: {`+policies+`}}}
`+more), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
}

// now stands still until it is moved.
func (s *site) now() time.Time { return s.begun.Add(time.Duration(s.ahead.Load())) }

func (s *site) advance(d time.Duration) { s.ahead.Add(int64(d)) }

// answers lets the backend answer so. head is "STATUS" and lines "Name: value".
func (s *site) answers(status int, body string, head ...string) {
	s.handle(func(w http.ResponseWriter, r *http.Request) {
		for _, line := range head {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
		if status != 200 {
			w.WriteHeader(status)
		}
		_, _ = io.WriteString(w, body)
	})
}

func (s *site) handle(f http.HandlerFunc) {
	s.mu.Lock()
	s.answer = f
	s.mu.Unlock()
}

// reply is what a client got.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (r reply) cache() string { return strings.Join(r.header.Values("Cache-Status"), " | ") }

// hit tells whether the answer came from the store.
func (r reply) hit() bool { return strings.HasPrefix(r.cache(), "sluice; hit") }

// do sends "METHOD /target" with header lines "Name: value".
func (s *site) do(t testing.TB, request string, head ...string) reply {
	t.Helper()
	method, target, _ := strings.Cut(request, " ")
	req, err := http.NewRequest(method, s.url+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body), errors.Join(err, res.Body.Close())}
}

// want holds a request to whether it is answered from the store, and returns the answer.
func (s *site) want(t testing.TB, hit bool, request string, head ...string) reply {
	t.Helper()
	before := s.calls.Load()
	r := s.do(t, request, head...)
	if r.err != nil {
		t.Fatalf("%s %v: %v", request, head, r.err)
	}
	if r.hit() != hit || (s.calls.Load() == before) != hit {
		t.Errorf("%s %v: Cache-Status %q and %d calls, want a hit: %t", request, head, r.cache(), s.calls.Load()-before, hit)
	}
	return r
}

// metric reads a series.
func (s *site) metric(t testing.TB, series string) float64 {
	t.Helper()
	var b strings.Builder
	if err := s.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, _ := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return v
		}
	}
	return 0
}

// counted waits until a counter has this value: requests are counted when they
// have ended, which is after the client has its answer.
func (s *site) counted(t testing.TB, series string, want float64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); s.metric(t, series) != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is %v, want %v", series, s.metric(t, series), want)
		}
	}
}

// purge does what the admin listener does.
func (s *site) purge(match func(*store.Entry) bool) int {
	total := 0
	s.EachLiving(func(_ string, v any) bool {
		if p, ok := v.(interface {
			Purge(match func(*store.Entry) bool) int
		}); ok {
			total += p.Purge(match)
		}
		return true
	})
	return total
}

// waiting counts the requests that wait for others.
func (s *site) waiting() (w *policy.Waiters) {
	s.EachLiving(func(_ string, v any) bool {
		if shared, ok := v.(*shared); ok {
			w = &shared.waiters
		}
		return true
	})
	return w
}
