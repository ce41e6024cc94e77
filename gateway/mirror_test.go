package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/policy/mirror"
)

// mirrors are what the gateway tells of its copies, by route.
func (g *gate) mirrors() map[string]mirror.View {
	views := make(map[string]mirror.View)
	g.EachLiving(func(_ string, v any) bool {
		if i, ok := v.(mirror.Inspector); ok {
			for _, view := range i.Mirrors() {
				views[view.Route] = view
			}
		}
		return true
	})
	return views
}

// counts waits until so many copies had a result.
func (g *gate) counts(route, result string, n uint64) {
	g.t.Helper()
	for end := time.Now().Add(patience); g.mirrors()[route].Results[result] < n && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if v := g.mirrors()[route]; v.Results[result] != n {
		g.t.Errorf("of the copies of %s not %d are %s: %+v", route, n, result, v)
	}
}

type messages struct {
	mu  sync.Mutex
	all []string
}

func (m *messages) add(head, body string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, head+body)
}

func (m *messages) sorted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.all)
	slices.Sort(all)
	return all
}

// A copy is what the service got, identity, path and body, but for its host and the mark.
func TestMirrorCopies(t *testing.T) {
	var real, copies messages
	s := answering(t, func(head, body string) string { real.add(head, body); return okAnswer })
	shadow := answering(t, func(head, body string) string { copies.add(head, body); return reply(500, "no") })
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"], host: same}, shadow: {endpoints: ["http://%s"], host: same, circuit_breaker: off}}
routes:
  r:
    match: {paths: [/api]}
    service: s
    strip_prefix: true
    policies:
      basic_auth: {}
      request_transform: {add: {headers: {X-Added: yes}}, remove: {headers: [X-Removed]}}
      mirror: {service: shadow}
consumers: {alice: {groups: [partners], basic_auth: [{hash: "sha256:d9fb92e3bbe65be1f1aad4a82eef4567f7a1ebe2cd110c8049b9698be7a70c88"}]}}
`, s.addr, shadow.addr))
	const fields = " HTTP/1.1\r\nHost: api.example\r\nAuthorization: Basic YWxpY2U6b3BlbnNlc2FtZQ==\r\nX-User-ID: root\r\nX-Sluice-Mirror: 1\r\nX-Removed: a\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: X-Hop\r\nX-Hop: a\r\n"
	c := g.client()
	for _, request := range []string{
		"GET /api/a%20b?q=1&q=%2F" + fields + "\r\n",
		"HEAD /api/a" + fields + "\r\n",
		"POST /api/a" + fields + "Content-Length: 5\r\n\r\nhello",
		"PUT /api" + fields + "Content-Length: 0\r\n\r\n",
		"POST /api/large" + fields + "Content-Length: 65536\r\n\r\n" + text(65536),
	} {
		c.send(request)
		if strings.HasPrefix(request, "HEAD") {
			if head := c.head(); statusOf(head) != 200 {
				t.Error(head)
			}
			continue
		}
		c.wants(200, "ok")
	}
	g.counts("r", "sent", 5)
	want := real.sorted()
	for i := range want {
		if strings.Contains(want[i], "irror") {
			t.Errorf("the service got a mark: %q", abbreviate(want[i]))
		}
		want[i] = strings.Replace(want[i], "\r\nVia: ", "\r\nX-Sluice-Mirror: 1\r\nVia: ", 1)
	}
	got := copies.sorted()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Errorf("the copy is\n%q, want\n%q", abbreviate(got[i]), abbreviate(want[i]))
		}
	}
	if len(got) != len(want) || !strings.Contains(got[0], "X-Consumer-ID: alice\r\nX-Consumer-Groups: partners\r\n") || strings.Count(got[0], "X-User-ID: alice\r\n") != 1 {
		t.Errorf("%d copies, the first %q", len(got), got[0])
	}
}

// A service for copies that hangs costs nobody anything: what does not fit is dropped, and counted.
func TestMirrorNeverDelays(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	shadow, begun, _ := silent(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}, shadow: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/]}, service: s, policies: {mirror: {service: shadow, timeout: 1m, max_in_flight: 1, queue: 2, max_memory: 128KiB}}}}
`, s.addr, shadow.addr))
	c := g.client()
	c.request("GET /").wants(200, "ok")
	within(t, "the copy is sent", begun)
	for range 10 {
		c.request("GET /").wants(200, "ok")
	}
	g.counts("r", "dropped", 8)
	if v := g.mirrors()["r"]; v.InFlight != 1 || v.Waiting != 2 || v.WaitingBytes == 0 {
		t.Errorf("%+v", v)
	}
	// Bodies that are not held are no reason to hold them.
	c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	c.wants(200, "ok")
	c.post("/", text(70_000))
	c.wants(200, "ok")
	g.counts("r", "dropped", 10)
	var metrics bytes.Buffer
	if err := g.WriteMetrics(&metrics); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`sluice_mirror_dropped_total{route="r",service="shadow",reason="queue"} 8`, `sluice_mirror_dropped_total{route="r",service="shadow",reason="body"} 2`,
		`sluice_mirror_requests_total{route="r",service="shadow",result="dropped"} 10`,
	} {
		if !strings.Contains(metrics.String(), want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

func TestMirrorMemory(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	shadow, begun, _ := silent(t)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}, shadow: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/]}, service: s, policies: {mirror: {service: shadow, timeout: 1m, max_in_flight: 1, queue: 100, max_memory: 128KiB}}}}
`, s.addr, shadow.addr))
	c := g.client()
	c.request("GET /").wants(200, "ok")
	within(t, "the copy is sent", begun)
	for range 5 {
		c.post("/", text(50_000))
		c.wants(200, "ok")
	}
	g.counts("r", "dropped", 3)
}

// Copies that are not answered, or not to the end or in time, are errors of theirs alone.
func TestMirrorErrors(t *testing.T) {
	s := answering(t, func(string, string) string { return okAnswer })
	f := func(shadow string) {
		t.Helper()
		g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}, shadow: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/]}, service: s, policies: {mirror: {service: shadow, timeout: 300ms, compare: {}}}}}
`, s.addr, shadow))
		g.client().request("GET /").wants(200, "ok")
		g.counts("r", "error", 1)
	}
	f("127.0.0.1:1")
	hangs, _, _ := silent(t)
	f(hangs.addr)
	f(answering(t, func(string, string) string { return "nonsense\r\n\r\n" }).addr)
	f(backend(t, func(p *peer) {
		p.head()
		p.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
		p.close()
	}).addr)
	// A trickle that never stalls and never ends.
	f(backend(t, func(p *peer) {
		p.head()
		_, err := io.WriteString(p.conn, "HTTP/1.1 200 OK\r\n\r\n")
		for err == nil {
			time.Sleep(20 * time.Millisecond)
			_, err = io.WriteString(p.conn, "x")
		}
	}).addr)
}

// buffer is a log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// What differs is counted and told without saying what it is.
func TestMirrorCompares(t *testing.T) {
	answer := func(name string) func(head, body string) string {
		return func(head, _ string) string {
			path, _, _ := strings.Cut(strings.Fields(head)[1], "?")
			kind, body, status := "application/json", `{"took": "`+name+`", "same": 1}`, 200
			switch path {
			case "/differs":
				body = `{"took": 1, "user": {"password": "` + name + `"}}`
			case "/status":
				if name == "copy" {
					status = 404
				}
			case "/header":
				kind = "application/" + name + "+json"
			case "/stream":
				body = text(100_000)
				return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 9_000) + "0\r\n\r\n"
			case "/short":
				return "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(text(30_000), 9_000) + "0\r\n\r\n"
			case "/cut":
				if name != "copy" {
					return "HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"
				}
			}
			return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", status, kind, len(body), body)
		}
	}
	s, shadow := answering(t, answer("real")), answering(t, answer("copy"))
	log := &logged{}
	g := serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(log, nil))}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"], retries: off}, shadow: {endpoints: ["http://%s"], retries: off}}
routes: {r: {match: {paths: [/]}, service: s, policies: {mirror: {service: shadow, compare: {ignore: [took]}}, response_transform: {add: {headers: {X-More: a}}, remove: {headers: [Content-Type]}}}}}
`, s.addr, shadow.addr))
	c := g.client()
	ask := func(path string, status int) {
		t.Helper()
		c.request("GET " + path + "?token=hush")
		if head, _ := c.response(); statusOf(head) != status {
			t.Errorf("%s: %q", path, head)
		}
	}
	ask("/alike", 200)
	g.counts("r", "match", 1)
	ask("/short", 200)
	g.counts("r", "match", 2)
	ask("/stream", 200)
	g.counts("r", "uncompared", 1)
	ask("/differs", 200)
	g.counts("r", "mismatch", 1)
	ask("/status", 200)
	g.counts("r", "mismatch", 2)
	ask("/header", 200)
	g.counts("r", "mismatch", 3)
	ask("/cut", 503)
	g.counts("r", "mismatch", 4)

	v := g.mirrors()["r"]
	if fmt.Sprint(v.Mismatches) != "map[body:1 header:1 status:2]" || len(v.Samples) != 4 {
		t.Errorf("%+v", v)
	}
	if first := v.Samples[3]; first.Path != "/differs" || first.Detail != "body: user.password is another text" || first.RequestID == "" || first.Method != "GET" {
		t.Errorf("%+v", first)
	}
	told, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{log.String(), string(told)} {
		if strings.Contains(text, "real") || strings.Contains(text, "hush") || strings.Contains(text, `"copy`) {
			t.Errorf("tells what it should not: %s", text)
		}
	}
	if !strings.Contains(log.String(), `msg="a mirrored request was answered differently" route=r service=shadow method=GET path=/differs`) ||
		strings.Count(log.String(), "answered differently") != 1 {
		t.Errorf("the log: %s", log)
	}

	// Counts and samples outlive a reload.
	g.apply(fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"], retries: off}, shadow: {endpoints: ["http://%s"], retries: off}}
routes:
  r: {match: {paths: [/]}, service: s, policies: {mirror: {service: shadow, compare: {ignore: [took, user]}}}}
  more: {match: {paths: [/more]}, service: s}
`, s.addr, shadow.addr))
	ask("/differs", 200)
	g.counts("r", "match", 3)
	if v := g.mirrors()["r"]; len(v.Samples) != 4 {
		t.Errorf("%+v", v)
	}
}

// What the cache answers is not copied, nor what a policy refuses, nor an upgrade.
func TestMirrorCopiesWhatServicesAnswer(t *testing.T) {
	s := answering(t, func(head, _ string) string {
		if strings.Contains(head, "Upgrade: x") {
			return "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
		}
		return okAnswer
	})
	shadow := answering(t, func(string, string) string { return okAnswer })
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
services: {s: {endpoints: ["http://%s"]}, dead: {endpoints: ["http://127.0.0.1:1"], retries: off}, shadow: {endpoints: ["http://%s"]}}
routes:
  cached: {match: {paths: [/cached]}, service: s, policies: {cache: {ttl: 1h}}}
  dead: {match: {paths: [/dead]}, service: dead}
  limited: {match: {paths: [/limited]}, service: s, policies: {rate_limit: {requests: 1, per: 1d}}}
  answered: {match: {paths: [/answered]}, respond: {status: 200, body: ok}}
  upgraded: {match: {paths: [/upgraded]}, service: s}
  large: {match: {paths: [/large]}, service: s}
limits: {max_body_size: 1KiB}
policies: {mirror: {service: shadow, compare: {}}}
`, s.addr, shadow.addr))
	c := g.client()
	for range 3 {
		c.request("GET /cached").wants(200, "ok")
	}
	c.request("GET /limited").wants(200, "ok")
	c.request("GET /limited").refused(429, "rate_limited")
	c.request("GET /answered").wants(200, "ok")
	c.request("GET /dead").refused(502, "upstream_connect")
	up := g.client()
	up.send("GET /upgraded HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if head := up.head(); statusOf(head) != 101 {
		t.Error(head)
	}
	up.close()
	large := g.client()
	large.send("POST /large HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + text(2048) + "\r\n0\r\n\r\n")
	large.refused(413, "body_too_large")
	g.counts("cached", "match", 1)
	g.counts("limited", "match", 1)
	g.counts("dead", "uncompared", 1)
	once(t, "the tunnel has ended", func() bool { return g.active() == 0 })
	for _, route := range []string{"answered", "upgraded", "large"} {
		if v := g.mirrors()[route]; fmt.Sprint(v.Results) != "map[dropped:0 error:0 match:0 mismatch:0 sent:0 uncompared:0]" {
			t.Errorf("%s: %+v", route, v.Results)
		}
	}
}
