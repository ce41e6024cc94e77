package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/discovery/consul/consultest"
	"sluice/gateway/discovery/dns/dnstest"
	"sluice/gateway/discovery/kubernetes/kubernetestest"
	"sluice/gateway/etcd/etcdtest"
	"sluice/gateway/registry"
)

// startFinding runs a gateway whose service `s` is found as settings say.
func startFinding(t *testing.T, settings string) (*gateway.Gateway, string) {
	t.Helper()
	g := gateway.New(gateway.Options{Registry: registry.All(), Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	apply(t, g, finding(settings, ""))
	return g, "http://" + g.Listeners()[0].Address
}

func finding(settings, more string) string {
	return `
listeners: {main: {address: "127.0.0.1:0"}}
services: {s: {discovery: ` + settings + `, load_balancer: round_robin` + more + `}}
routes: {r: {match: {paths: [/]}, service: s}}
`
}

// testWriter puts a log into a test's, as long as that goes on.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// named is a backend that answers with its own name.
func named(t *testing.T, name string) (host string, port int) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
	t.Cleanup(s.Close)
	u, _ := url.Parse(s.URL)
	port, _ = strconv.Atoi(u.Port())
	return u.Hostname(), port
}

// load sends requests until stop, and counts what is not 200.
type load struct {
	failed, sent atomic.Int64
	first        atomic.Pointer[string]
	seen         sync.Map
	stop         func()
}

func startLoad(t *testing.T, at string) *load {
	t.Helper()
	l, done := &load{}, make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				l.sent.Add(1)
				status, body := get(client, at)
				if status != "200 OK" {
					l.failed.Add(1)
					text := status + " " + body
					l.first.CompareAndSwap(nil, &text)
					continue
				}
				l.seen.Store(body, true)
			}
		})
	}
	l.stop = sync.OnceFunc(func() {
		close(done)
		all.Wait()
	})
	t.Cleanup(l.stop)
	return l
}

func get(client *http.Client, at string) (status, body string) {
	res, err := client.Get(at)
	if err != nil {
		return err.Error(), ""
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error(), ""
	}
	return res.Status, string(text)
}

// answers waits until the gateway answers with this.
func answers(t *testing.T, at, want string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second}
	var status, body string
	for deadline := time.Now().Add(20 * time.Second); body != want; {
		if status, body = get(client, at); time.Now().After(deadline) {
			t.Fatalf("answers %s %q, want %q", status, body, want)
		}
	}
}

func (l *load) saw(name string) bool { _, ok := l.seen.Load(name); return ok }

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// found is where a source of a test has its endpoints, and how it dies and returns.
type found struct {
	settings      string
	set           func(ports ...int)
	kill, restart func()
}

func sources(t *testing.T) map[string]func(ports ...int) found {
	return map[string]func(ports ...int) found{
		"consul": func(ports ...int) found {
			instances := func(ports []int) (all []consultest.Instance) {
				for _, p := range ports {
					all = append(all, consultest.Instance{ID: fmt.Sprint(p), Address: "127.0.0.1", Port: p, Status: "passing"})
				}
				return all
			}
			a := consultest.Start(t, "s", "", instances(ports)...)
			return found{
				fmt.Sprintf("{consul: {address: %q, service: s}}", a.URL),
				func(ports ...int) { a.Set(instances(ports)...) }, a.Close, a.Restart,
			}
		},
		"kubernetes": func(ports ...int) found {
			s := kubernetestest.Start(t, "shop", "")
			set := func(ports ...int) {
				for i := range 4 {
					sl := kubernetestest.Slice{Name: fmt.Sprint("s", i), Service: "s", Ports: map[string]int{"http": 1}}
					if i < len(ports) {
						sl.Ports["http"] = ports[i]
						sl.Endpoints = []kubernetestest.Endpoint{{Address: "127.0.0.1", Ready: true}}
					}
					s.Put(sl)
				}
			}
			set(ports...)
			return found{fmt.Sprintf("{kubernetes: {server: %q, namespace: shop, service: s, port: http, token_file: off}, max_loss: 60%%}", s.URL), set, s.Close, s.Restart}
		},
		"dns": func(ports ...int) found {
			s := dnstest.Start(t)
			set := func(ports ...int) {
				records := []string{"local.test. 1 IN A 127.0.0.1"}
				for _, p := range ports {
					records = append(records, fmt.Sprintf("_s._tcp.test. 1 IN SRV 0 1 %d local.test.", p))
				}
				s.Set(records...)
			}
			set(ports...)
			return found{fmt.Sprintf("{dns: {name: _s._tcp.test., servers: [%q], refresh: 50ms, min_refresh: 50ms, timeout: 300ms}}", s.Address), set, s.Close, s.Restart}
		},
		"etcd": func(ports ...int) found {
			s := etcdtest.Start(t)
			set := func(ports ...int) {
				for i := range 4 {
					if key := fmt.Sprint("/s/", i); i < len(ports) {
						s.Put(key, fmt.Sprintf("127.0.0.1:%d", ports[i]))
					} else {
						s.Delete(key)
					}
				}
			}
			set(ports...)
			return found{fmt.Sprintf("{etcd: {servers: [%q], prefix: /s/, timeout: 1s}}", s.URL), set, s.Kill, s.Restart}
		},
		"file": func(ports ...int) found {
			path := filepath.Join(t.TempDir(), "s.yaml")
			set := func(ports ...int) {
				var text strings.Builder
				for _, p := range ports {
					fmt.Fprintf(&text, "- 127.0.0.1:%d\n", p)
				}
				if os.WriteFile(path+".new", []byte(text.String()), 0o600) != nil || os.Rename(path+".new", path) != nil {
					t.Error("cannot write the list")
				}
			}
			set(ports...)
			return found{fmt.Sprintf("{file: %q}", path), set, func() { _ = os.Rename(path, path+".away") }, func() { _ = os.Rename(path+".away", path) }}
		},
	}
}

// Each kind of source dies and returns under load: no request fails, and what changed meanwhile arrives.
func TestDiscoverySourceDiesUnderLoad(t *testing.T) {
	for kind, make := range sources(t) {
		t.Run(kind, func(t *testing.T) {
			_, one := named(t, "one")
			_, two := named(t, "two")
			_, three := named(t, "three")
			f := make(one, two)
			g, at := startFinding(t, f.settings)
			l := startLoad(t, at)
			until(t, "both", func() bool { return l.saw("one") && l.saw("two") })
			f.kill()
			service := g.Snapshot().Services()["s"]
			if kind != "etcd" { // it takes seconds to be missed
				until(t, "the failure", func() bool { return service.Discovery().Failing })
			}
			f.restart()
			f.set(two, three)
			until(t, "the new one", func() bool { return l.saw("three") })
			until(t, "recovery", func() bool { st := service.Discovery(); return !st.Failing && st.Endpoints == 2 })
			l.seen.Clear()
			until(t, "all that is left", func() bool { return l.saw("two") && l.saw("three") })
			l.stop()
			if n := l.failed.Load(); n > 0 {
				t.Errorf("%d of %d requests failed, first %s", n, l.sent.Load(), *l.first.Load())
			}
			if l.saw("one") {
				t.Error("the endpoint that went still gets requests")
			}
			t.Logf("%d requests", l.sent.Load())
		})
	}
}

// A request that an endpoint has when it goes ends well, and shows meanwhile.
func TestDiscoveredEndpointDrains(t *testing.T) {
	release := make(chan struct{})
	end := sync.OnceFunc(func() { close(release) })
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "late")
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(end)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(slow.URL, "http://"))
	leaving, _ := strconv.Atoi(port)
	_, other := named(t, "other")
	f := sources(t)["file"](leaving)
	g, at := startFinding(t, f.settings)
	res, err := http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	f.set(other)
	service := g.Snapshot().Services()["s"]
	until(t, "the other one", func() bool { return strings.HasSuffix(service.Endpoints(g.Now())[0].Endpoint, fmt.Sprint(":", other)) })
	answers(t, at, "other")
	views := service.Endpoints(g.Now())
	if len(views) != 2 || !views[1].Draining || views[1].InFlight != 1 || views[0].Draining {
		t.Errorf("%+v", views)
	}
	for range 3 { // what a choice leases ends with the collector, not before the call
		runtime.GC()
	}
	end()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "late" {
		t.Errorf("%q, %v", body, err)
	}
	until(t, "the end of the draining", func() bool { return len(service.Endpoints(g.Now())) == 1 })
}

// State of endpoints that are long gone does not pile up.
func TestDiscoveredEndpointsAreForgotten(t *testing.T) {
	f := sources(t)["file"](1)
	g, _ := startFinding(t, f.settings)
	service := g.Snapshot().Services()["s"]
	for n := 2; n < 12; n++ {
		f.set(n)
		until(t, "the set", func() bool {
			v := service.Endpoints(g.Now())
			return v[0].Endpoint == fmt.Sprintf("http://127.0.0.1:%d", n)
		})
	}
	count := func() (n int) {
		g.EachLiving(func(name string, _ any) bool {
			if strings.HasPrefix(name, "endpoint/") || strings.HasPrefix(name, "pool/") || strings.HasPrefix(name, "breaker/http") {
				n++
			}
			return true
		})
		return n
	}
	until(t, "the collector", func() bool { runtime.GC(); return count() == 3 })
	var text bytes.Buffer
	_ = g.WriteMetrics(&text)
	if got := strings.Count(text.String(), "sluice_endpoint_up{"); got != 1 {
		t.Errorf("%d endpoints are measured", got)
	}
	if !strings.Contains(text.String(), `sluice_discovery_updates_total{service="s",source="file",result="applied"} 11`) ||
		!strings.Contains(text.String(), `sluice_discovery_age_seconds{service="s",source="file"} 0`) {
		t.Error(text.String())
	}
}

// A watch is no configuration's: it goes on over reloads that leave its own settings alone.
func TestDiscoveryOutlivesReloads(t *testing.T) {
	_, one := named(t, "one")
	a := consultest.Start(t, "s", "", consultest.Instance{ID: "1", Address: "127.0.0.1", Port: one, Status: "passing"})
	settings := func(more string) string { return fmt.Sprintf("{consul: {address: %q, service: s}%s}", a.URL, more) }
	g, at := startFinding(t, settings(""))
	until(t, "a question that waits", func() bool { return a.Blocking() == 1 })
	asked := len(a.Queries())
	for n := range 5 {
		apply(t, g, finding(settings(""), fmt.Sprintf(", timeouts: {response: %ds}", n+1)))
		runtime.GC()
	}
	if got := len(a.Queries()); got != asked {
		t.Errorf("asked %d times more", got-asked)
	}
	if status, body := get(http.DefaultClient, at); body != "one" {
		t.Errorf("%s %s", status, body)
	}
	// With other settings, and a source that is down, what is known goes on too.
	a.Close()
	apply(t, g, finding(settings(", max_loss: 10%"), ""))
	if status, body := get(http.DefaultClient, at); body != "one" {
		t.Errorf("%s %s", status, body)
	}
	if st := g.Snapshot().Services()["s"].Discovery(); !st.Stored || !st.Failing {
		t.Errorf("%+v", st)
	}
}

// A source that is down keeps nothing from starting; what was known before comes from state.dir.
func TestStartWithoutSource(t *testing.T) {
	_, one := named(t, "one")
	f := sources(t)["dns"](one)
	dir := t.TempDir()
	text := finding(f.settings, "") + "state: {dir: " + dir + "}\n"
	begin := func() (*gateway.Gateway, string) {
		t.Helper()
		g := gateway.New(gateway.Options{Registry: registry.All()})
		t.Cleanup(func() { g.Shutdown(t.Context()) })
		apply(t, g, text)
		return g, "http://" + g.Listeners()[0].Address
	}
	f.kill()
	_, at := begin()
	if status, body := get(http.DefaultClient, at); status != "503 Service Unavailable" || !strings.Contains(body, "no_healthy_endpoint") {
		t.Errorf("%s %s", status, body)
	}
	f.restart()
	answers(t, at, "one")
	until(t, "the file", func() bool { _, err := os.Stat(filepath.Join(dir, "endpoints", "s.json")); return err == nil })
	f.kill()
	g, at := begin()
	if status, body := get(http.DefaultClient, at); body != "one" {
		t.Errorf("%s %s", status, body)
	}
	if st := g.Snapshot().Services()["s"].Discovery(); !st.Stored || st.Endpoints != 1 {
		t.Errorf("%+v", st)
	}
}

// An empty set takes no service down.
func TestDiscoveryRefusesEmptySet(t *testing.T) {
	_, one := named(t, "one")
	f := sources(t)["file"](one)
	g, at := startFinding(t, f.settings)
	f.set()
	service := g.Snapshot().Services()["s"]
	until(t, "the refusal", func() bool { return service.Discovery().Refused != "" })
	if status, body := get(http.DefaultClient, at); body != "one" {
		t.Errorf("%s %s", status, body)
	}
}

// Health checks follow the endpoints.
func TestDiscoveredEndpointsAreChecked(t *testing.T) {
	_, good := named(t, "good")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bad := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	f := sources(t)["file"](good)
	g := gateway.New(gateway.Options{Registry: registry.All()})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	apply(t, g, finding(f.settings, ", health_check: {interval: 20ms, unhealthy: 1, healthy: 1}"))
	service := g.Snapshot().Services()["s"]
	f.set(good, bad)
	until(t, "the verdict", func() bool {
		v := service.Endpoints(g.Now())
		down := 0
		for _, e := range v {
			if e.Unhealthy && strings.HasSuffix(e.Endpoint, fmt.Sprint(":", bad)) {
				down++
			}
		}
		return len(v) == 2 && down == 1
	})
}
