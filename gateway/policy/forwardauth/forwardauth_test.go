package forwardauth

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// A service decides by a function and counts how often it is asked.
type service struct {
	*policytest.World
	url   string
	asked atomic.Int64
}

func newService(t testing.TB, decide fasthttp.RequestHandler) *service {
	t.Helper()
	s := &service{World: policytest.New(t, "consumers: {alice: {}, guest: {}}")}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &fasthttp.Server{NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true, Handler: func(ctx *fasthttp.RequestCtx) {
		s.asked.Add(1)
		decide(ctx)
	}}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		l.Close()
		done.Wait()
	})
	s.url = "http://" + l.Addr().String()
	return s
}

func (s *service) hooks(t testing.TB, settings string) policy.Hooks {
	t.Helper()
	return s.MustBuild(t, Definition, fmt.Sprintf("{url: %q, %s}", s.url+"/check?a=b", settings))
}

// send sends a request and tells the answer: "" for one that passes, else status and reason.
func send(t *testing.T, w *policytest.World, h policy.Hooks, look func(x *exchange.Exchange), target string, headers ...string) string {
	t.Helper()
	x := w.Exchange(target, headers...)
	defer x.Close()
	if h.Request != nil {
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
	}
	err := h.Authenticate(x)
	if err == nil {
		if look != nil {
			look(x)
		}
		return ""
	}
	x.Render(err)
	if look != nil {
		look(x)
	}
	return fmt.Sprint(x.Response.StatusCode(), " ", x.AuthFailure)
}

func TestAllow(t *testing.T) {
	var got string
	s := newService(t, func(ctx *fasthttp.RequestCtx) {
		got = string(ctx.Method()) + " " + string(ctx.RequestURI()) + "\n" + ctx.Request.Header.String()
		ctx.Response.Header.Set("X-Auth-User", "alice")
		ctx.Response.Header.Set("X-Auth-Roles", "a,b")
		ctx.Response.Header.Set("X-Other", "x")
	})
	h := s.hooks(t, "response_headers: [x-auth-roles, x-absent], subject_header: X-Auth-User, request_headers: [Authorization]")
	if !h.Blocking {
		t.Error("does not say that it waits")
	}
	answer := send(t, s.World, h, func(x *exchange.Exchange) {
		id := &x.Identity
		if !id.Authenticated || id.Method != "forward_auth" || string(id.Subject) != "alice" || id.Consumer != s.Consumers["alice"] {
			t.Errorf("identity %+v", id)
		}
		f := func(name, want string, decided bool) {
			t.Helper()
			if v, ok := x.ToBackend.Value(name); string(v) != want || ok != decided {
				t.Errorf("%s: %q %t", name, v, ok)
			}
		}
		f("X-Auth-Roles", "a,b", true)
		f("X-Absent", "", true) // the client's is removed
		f("X-Other", "", false)
		f("X-User-ID", "alice", true)
	}, "/a b/%?q=1", "Authorization: Bearer t", "Cookie: c=d", "X-Auth-Roles: admin", "X-Absent: x")
	if answer != "" {
		t.Fatal(answer)
	}
	for _, want := range []string{
		"GET /check?a=b\n", "Authorization: Bearer t\r\n", "X-Forwarded-Method: GET\r\n", "X-Forwarded-Proto: http\r\n",
		"X-Forwarded-Host: api.example.com\r\n", "X-Forwarded-Uri: /a%20b/%25?q=1\r\n", "X-Forwarded-For: 192.0.2.1\r\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the service got no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "Cookie") || strings.Contains(got, "X-Auth-Roles") {
		t.Errorf("the service got what it is not to get:\n%s", got)
	}
}

func TestNobody(t *testing.T) {
	s := newService(t, func(ctx *fasthttp.RequestCtx) { ctx.SetStatusCode(204) })
	answer := send(t, s.World, s.hooks(t, "subject_header: X-Auth-User"), func(x *exchange.Exchange) {
		if v, _ := x.ToBackend.Value("X-User-ID"); string(v) != "192.0.2.1" || !x.Identity.Authenticated || x.Identity.Consumer != nil {
			t.Errorf("X-User-ID %q, %+v", v, x.Identity)
		}
	}, "/")
	if answer != "" {
		t.Error(answer)
	}
}

func TestDeny(t *testing.T) {
	s := newService(t, func(ctx *fasthttp.RequestCtx) {
		ctx.SetStatusCode(ctx.QueryArgs().GetUintOrZero("s"))
		switch string(ctx.Request.Header.Peek("X-Forwarded-Uri")) {
		case "/401":
			ctx.SetStatusCode(401)
			ctx.Response.Header.Set("WWW-Authenticate", `Custom realm="x"`)
			ctx.Response.Header.Set("X-Internal", "secret")
			ctx.SetContentType("text/plain")
			ctx.SetBodyString("log in")
		case "/302":
			ctx.SetStatusCode(302)
			ctx.Response.Header.Set("Location", "https://login.example/")
			ctx.Response.Header.Set("Set-Cookie", "state=1")
		case "/403":
			ctx.SetStatusCode(403)
		case "/large":
			ctx.SetStatusCode(403)
			ctx.SetBody(make([]byte, maxBody))
		case "/huge":
			ctx.SetStatusCode(403)
			ctx.SetBody(make([]byte, maxBody+1))
		case "/500":
			ctx.SetStatusCode(500)
		case "/304":
			ctx.SetStatusCode(304)
		}
	})
	h := s.hooks(t, "anonymous: guest")
	f := func(target, want string, look func(x *exchange.Exchange), headers ...string) {
		t.Helper()
		if got := send(t, s.World, h, look, target, headers...); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	f("/401", "401 missing", func(x *exchange.Exchange) {
		r := x.Response
		if string(r.Header.Peek("WWW-Authenticate")) != `Custom realm="x"` || string(r.Body()) != "log in" || string(r.Header.ContentType()) != "text/plain" || r.Header.Peek("X-Internal") != nil {
			t.Errorf("%s", r)
		}
	})
	f("/401", "401 denied", nil, "Authorization: x")
	f("/302", "302 missing", func(x *exchange.Exchange) {
		if r := x.Response; string(r.Header.Peek("Location")) != "https://login.example/" || !strings.Contains(r.String(), "state=1") {
			t.Errorf("%s", r)
		}
	})
	f("/403", "403 denied", nil, "Cookie: a=b")
	f("/large", "403 missing", func(x *exchange.Exchange) {
		if len(x.Response.Body()) != maxBody {
			t.Errorf("%d bytes", len(x.Response.Body()))
		}
	})
	f("/huge", "503 ", nil)
	f("/500", "503 ", nil)
	f("/304", "503 ", nil)
	if h.Anonymous != s.Consumers["guest"] {
		t.Error("nobody is anonymous")
	}
	if n := s.Metrics.AuthFailures.With(s.Generation, "users", "unavailable").Value(); n != 3 {
		t.Errorf("%d failures counted", n)
	}
}

func TestFailure(t *testing.T) {
	hold := make(chan struct{})
	s := newService(t, func(*fasthttp.RequestCtx) { <-hold })
	defer close(hold)
	look := func(x *exchange.Exchange) {
		if x.Identity.Authenticated || x.Identity.Method != "" {
			t.Errorf("somebody: %+v", x.Identity)
		}
		if _, ok := x.ToBackend.Value("X-User-ID"); ok {
			t.Error("a name for nobody")
		}
	}
	f := func(settings, want string) {
		t.Helper()
		if got := send(t, s.World, s.hooks(t, "timeout: 50ms, "+settings), look, "/", "Authorization: x"); got != want {
			t.Errorf("%s: %q, want %q", settings, got, want)
		}
	}
	f("", "503 ")
	f("on_failure: allow", "")
	s.url = "http://127.0.0.1:1"
	f("", "503 ")
	f("on_failure: allow", "")
	if !strings.Contains(strings.Join(s.Warnings(), "\n"), "everybody passes") {
		t.Errorf("warnings %q", s.Warnings())
	}
	for range 100 { // nobody is left waiting
		f("on_failure: allow", "")
	}
}

func TestCache(t *testing.T) {
	s := newService(t, func(ctx *fasthttp.RequestCtx) {
		switch string(ctx.Request.Header.Peek("Authorization")) {
		case "good":
			ctx.Response.Header.Set("X-Auth-User", "alice")
		case "broken":
			ctx.SetStatusCode(500)
		case "moved":
			ctx.Redirect("https://login.example/", 302)
		default:
			ctx.SetStatusCode(403)
		}
	})
	const settings = `request_headers: [Authorization], subject_header: X-Auth-User, cache: {by: [authorization, "@path"], ttl: 30s, max_entries: 1600}`
	h := s.hooks(t, settings)
	f := func(target, credential, want string, asked int64) {
		t.Helper()
		before := s.asked.Load()
		var headers []string
		if credential != "" {
			headers = append(headers, "Authorization: "+credential)
		}
		if got := send(t, s.World, h, nil, target, headers...); got != want {
			t.Errorf("%s %s: %q, want %q", target, credential, got, want)
		}
		if n := s.asked.Load() - before; n != asked {
			t.Errorf("%s %s: asked %d times, want %d", target, credential, n, asked)
		}
	}
	f("/a", "good", "", 1)
	f("/a", "good", "", 0)
	f("/a?x=1", "good", "", 0)
	f("/b", "good", "", 1)
	f("/a", "bad", "403 denied", 1)
	f("/a", "bad", "403 denied", 0)
	f("/a", "", "403 missing", 1)
	f("/a", "", "403 missing", 0)
	f("/a", "broken", "503 ", 1)
	f("/a", "broken", "503 ", 1)
	f("/a", "moved", "302 denied", 1)
	f("/a", "moved", "302 denied", 1)

	// Over a reload, and until its time has come.
	release := s.Reload()
	h = s.hooks(t, settings)
	release()
	f("/a", "good", "", 0)
	s.Advance(30*time.Second - 1)
	f("/a", "good", "", 0)
	s.Advance(1)
	f("/a", "good", "", 1)
	f("/a", "good", "", 0)
}

func TestDecisionsAreBounded(t *testing.T) {
	s := newDecisions()
	d := &decision{}
	for i := range 10_000 {
		var key [keySize]byte
		key[0], key[1], key[2] = byte(i), byte(i>>8), byte(i>>16)
		s.put(&key, d, 10, 160)
		if s.get(&key, 9) != d || s.get(&key, 10) != nil {
			t.Fatal(i)
		}
	}
	for i := range s.shards {
		sh := &s.shards[i]
		n := 0
		for e := sh.oldest; e != nil; e = e.next {
			n++
		}
		if len(sh.entries) != 10 || n != 10 {
			t.Errorf("shard %d has %d entries and %d in line", i, len(sh.entries), n)
		}
	}
}

// What is different is never one key.
func TestKey(t *testing.T) {
	w := policytest.New(t, "")
	a := &authenticator{}
	for _, name := range []string{"x-a", "x-b", "@path", "@query", "@method", "@host", "@scheme", "@ip"} {
		p, err := parsePart(name)
		if err != nil {
			t.Fatal(err)
		}
		a.by = append(a.by, p)
	}
	seen := map[[keySize]byte]string{}
	f := func(target string, headers ...string) {
		t.Helper()
		x := w.Exchange(target, headers...)
		what := fmt.Sprint(target, headers)
		k := a.key(x)
		if other, ok := seen[k]; ok {
			t.Errorf("%s is %s", what, other)
		}
		seen[k] = what
	}
	f("/")
	f("/a")
	f("/?a")
	f("/", "X-A: 1")
	f("/", "X-B: 1")
	f("/", "X-A: 12")
	f("/", "X-A: 1", "X-A: 2")
	f("/", "X-A: 1", "X-B: 2")
	f("/", "X-A: 1, 2")
}

func TestAtOnce(t *testing.T) {
	s := newService(t, func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Request.Header.Peek("Authorization")) != "good" {
			ctx.SetStatusCode(403)
		}
	})
	h := s.hooks(t, `max_connections: 2, request_headers: [Authorization], cache: {by: [authorization, "@path"], ttl: 1s}`)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			credential, want := "good", ""
			if i%2 == 1 {
				credential, want = "bad", "403 denied"
			}
			for j := range 50 {
				if got := send(t, s.World, h, nil, fmt.Sprint("/", j%10), "Authorization: "+credential); got != want {
					t.Errorf("%s: %q", credential, got)
				}
			}
		})
	}
	wg.Wait()
}

func TestAllocations(t *testing.T) {
	s := newService(t, func(ctx *fasthttp.RequestCtx) {
		if string(ctx.Request.Header.Peek("Authorization")) != "good" {
			ctx.SetStatusCode(403)
		}
		ctx.Response.Header.Set("X-Auth-User", "alice")
	})
	h := s.hooks(t, `request_headers: [Authorization], response_headers: [X-Auth-User], subject_header: X-Auth-User, cache: {by: [authorization, "@path"], ttl: 1h}`)
	f := func(credential string, want error) {
		t.Helper()
		s.NoAllocations(t, credential, func(x *exchange.Exchange) {
			if err := h.Authenticate(x); err != want {
				t.Fatal(err)
			}
		}, "Authorization: "+credential)
	}
	f("good", nil)
	f("bad", exchange.Replied)
}
