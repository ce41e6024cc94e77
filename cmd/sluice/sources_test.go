package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway/discovery/consul/consultest"
	"sluice/gateway/discovery/kubernetes/kubernetestest"
	"sluice/gateway/etcd/etcdtest"
)

// named is a backend that answers with its own name and the path it was asked for.
func named(t *testing.T, name string) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, name+" "+r.URL.Path) }))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// until waits for a condition; what says what is there instead.
func until(t *testing.T, what func() string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what())
		}
	}
}

// gets waits until a path is answered in this way.
func (r *running) gets(t *testing.T, path string, status int, body string) {
	t.Helper()
	gotStatus, got := 0, ""
	until(t, func() string { return fmt.Sprintf("%s answers %d %q, want %d %q", path, gotStatus, got, status, body) }, func() bool {
		gotStatus, got = fetch(t, r.url+path)
		return gotStatus == status && (body == "" || got == body)
	})
}

// state is what GET /api/config tells of what is in force.
type state struct {
	Generation uint64            `json:"generation"`
	LastError  string            `json:"last_error"`
	Broken     map[string]string `json:"broken_objects"`
	Sources    []struct {
		Source, Watch, Where string
		Objects              int
		Stored, Failing      bool
		LastError            string `json:"last_error"`
	} `json:"sources"`
}

func (r *running) state(t *testing.T) (s state) {
	t.Helper()
	_, body := fetch(t, r.admin+"/api/config")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return s
}

// questions asks for a path all the time, and counts what is not 200.
type questions struct {
	sent, failed atomic.Int64
	stop         func()
}

func (r *running) keepAsking(t *testing.T, path string) *questions {
	t.Helper()
	q, done := &questions{}, make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(2 * time.Millisecond):
				}
				q.sent.Add(1)
				res, err := http.Get(r.url + path)
				if err != nil || res.StatusCode != http.StatusOK {
					q.failed.Add(1)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}
		})
	}
	q.stop = sync.OnceFunc(func() {
		close(done)
		all.Wait()
		if q.failed.Load() > 0 {
			t.Errorf("%d of %d requests failed", q.failed.Load(), q.sent.Load())
		}
		t.Logf("%d requests", q.sent.Load())
	})
	t.Cleanup(q.stop)
	return q
}

// cluster is an API server with a backend `cart` in the namespace shop.
type cluster struct {
	*kubernetestest.Server
	cart, token string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Server: kubernetestest.Start(t, "shop", "t0ken"), cart: named(t, "cart"), token: filepath.Join(t.TempDir(), "token")}
	if err := os.WriteFile(c.token, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// config is a gateway that follows the cluster.
func (c *cluster) config(settings, more string) string {
	return respond + fmt.Sprintf("sources: {kubernetes: {server: %q, token_file: %q%s}}\n", c.URL, c.token, settings) + more
}

func (c *cluster) run(t *testing.T, args ...string) (*running, *bytesLog) {
	t.Helper()
	r := launch(t, sluice(t, nil, append([]string{"run", "--drain-delay", "1ms", "--resolve", "cart.shop.svc:80=" + c.cart}, args...)...))
	return r, r.quiet()
}

// routes puts an HTTPRoute of shop that leads a path to cart.
func (c *cluster) route(name, path string) { c.routeOf(name, path, `{"name":"sluice"}`) }

func (c *cluster) routeOf(name, path, parents string) {
	c.PutObject("httproutes", "shop", name, fmt.Sprintf(`{"parentRefs":[%s],"rules":[{"matches":[{"path":{"type":"PathPrefix","value":%q}}],"backendRefs":[{"name":"cart","port":80}]}]}`, parents, path))
}

func (c *cluster) ingress(name, class, path string) {
	c.PutObject("ingresses", "shop", name, fmt.Sprintf(`{"ingressClassName":%q,"rules":[{"http":{"paths":[{"path":%q,"pathType":"Prefix","backend":{"service":{"name":"cart","port":{"number":80}}}}]}}]}`, class, path))
}

func TestRoutesFromKubernetes(t *testing.T) {
	c := startCluster(t)
	c.PageSize(1)
	c.route("cart", "/cart")
	c.ingress("web", "sluice", "/web")
	// These are other gateways'.
	c.routeOf("foreign", "/foreign", `{"name":"istio"},{"kind":"Service","group":"","name":"sluice"}`)
	c.ingress("foreign", "nginx", "/foreign")
	r, log := c.run(t, "-c", write(t, "gateway.yaml", c.config("", "")))
	// They are there with the first request, and not some time after it.
	if status, body := fetch(t, r.url+"/cart/1"); status != 200 || body != "cart /cart/1" {
		t.Errorf("%d %s", status, body)
	}
	r.gets(t, "/web/2", 200, "cart /web/2")
	r.gets(t, "/hello", 200, "hello\n")
	r.gets(t, "/foreign", 404, "")
	if _, body := fetch(t, r.admin+"/api/routes"); !strings.Contains(body, `"kubernetes.shop.cart"`) || !strings.Contains(body, `"kubernetes.shop.ingress/web"`) {
		t.Error(body)
	}
	if _, body := fetch(t, r.admin+"/metrics"); !strings.Contains(body, `sluice_source_objects{source="kubernetes",state="applied"} 2`) ||
		!strings.Contains(body, `sluice_source_age_seconds{source="kubernetes",watch="kubernetes httproutes in all namespaces"} 0`) {
		t.Error(body)
	}
	// A route comes, changes and goes.
	c.route("new", "/new")
	r.gets(t, "/new", 200, "cart /new")
	c.route("new", "/newer")
	r.gets(t, "/newer", 200, "cart /newer")
	r.gets(t, "/new", 404, "")
	c.DeleteObject("httproutes", "shop", "new")
	r.gets(t, "/newer", 404, "")
	// What means nothing is no reload; the next route shows that it was heard of.
	generation := r.state(t).Generation
	for range 5 {
		c.Touch("httproutes", "shop", "cart")
		c.Advance(10)
	}
	c.routeOf("foreign", "/foreigner", `{"name":"istio"}`)
	c.route("next", "/next")
	r.gets(t, "/next", 200, "cart /next")
	if now := r.state(t).Generation; now != generation+1 {
		t.Errorf("generation %d, then %d", generation, now)
	}
	// Versions that the server has forgotten are no failure.
	for n := range 3 {
		until(t, func() string { return "no watches" }, func() bool { return c.Watches() == 2 })
		c.route("late", fmt.Sprint("/late", n))
		c.ExpireWatches()
		r.gets(t, fmt.Sprint("/late", n), 200, "")
	}
	// A section of the gateway is a listener; one that is not there takes no requests.
	c.routeOf("section", "/section", `{"name":"sluice","sectionName":"main"}`)
	r.gets(t, "/section", 200, "cart /section")
	c.routeOf("elsewhere", "/elsewhere", `{"name":"sluice","sectionName":"other"}`)
	log.has(t, `there is no listener \"other\"`)
	r.gets(t, "/elsewhere", 404, "")
	if s := r.state(t); s.LastError != "" || len(s.Sources) != 2 || s.Sources[0].Failing || s.Sources[1].Failing {
		t.Errorf("%+v", s)
	}
}

func TestBrokenObjectIsAlone(t *testing.T) {
	c := startCluster(t)
	c.route("cart", "/cart")
	c.PutObject("httproutes", "shop", "never", `{"parentRefs":[{"name":"sluice"}],"rules":[{"filters":[{"type":"CORS"}]}]}`)
	r, log := c.run(t, "-c", write(t, "gateway.yaml", c.config("", "")))
	r.gets(t, "/cart", 200, "cart /cart")
	broken := func(want ...string) {
		t.Helper()
		var s state
		until(t, func() string { return fmt.Sprintf("%v, want %v", s.Broken, want) }, func() bool {
			s = r.state(t)
			for _, name := range want {
				if s.Broken[name] == "" {
					return false
				}
			}
			return len(s.Broken) == len(want)
		})
		if s.LastError != "" {
			t.Errorf("an object's mistake is no failed reload: %s", s.LastError)
		}
	}
	const prefix = "kubernetes httproute shop/"
	broken(prefix + "never")
	// The whole object has what it had, also the rules that would be good.
	c.PutObject("httproutes", "shop", "cart", `{"parentRefs":[{"name":"sluice"}],"rules":[
		{"matches":[{"path":{"value":"/other"}}],"backendRefs":[{"name":"cart","port":80}]},
		{"matches":[{"path":{"value":"/cart"}}],"backendRefs":[{"name":"cart"}]}]}`)
	c.route("good", "/good")
	r.gets(t, "/good", 200, "cart /good")
	log.has(t, "it has what was good last")
	c.PutObject("httproutes", "shop", "never", `{"parentRefs":[{"name":"sluice"}],"rules":[{"filters":[{"type":"JWT"}]}]}`)
	log.has(t, "it has nothing that was good before, and is left out")
	broken(prefix+"never", prefix+"cart")
	r.gets(t, "/cart", 200, "cart /cart")
	r.gets(t, "/other", 404, "")
	body := ""
	until(t, func() string { return body }, func() bool {
		_, body = fetch(t, r.admin+"/metrics")
		return strings.Contains(body, `sluice_source_objects{source="kubernetes",state="broken"} 2`)
	})
	// What the file has is the file's: its route goes first, and an object of the cluster that wants the same has nothing.
	c.route("thief", "/hello")
	log.has(t, `\"hello\" and \"kubernetes.shop.thief\" are equally specific`)
	broken(prefix+"never", prefix+"cart", prefix+"thief")
	r.gets(t, "/hello", 200, "hello\n")
	// Of two objects the older one has the requests, whatever they are called.
	c.route("a-younger", "/good/")
	c.route("a-younger", "/good")
	broken(prefix+"never", prefix+"cart", prefix+"thief", prefix+"a-younger")
	c.DeleteObject("httproutes", "shop", "good")
	broken(prefix+"never", prefix+"cart", prefix+"thief")
	r.gets(t, "/good", 200, "cart /good")
	c.DeleteObject("httproutes", "shop", "never")
	c.DeleteObject("httproutes", "shop", "thief")
	c.route("cart", "/cart")
	broken()
}

// What comes from outside is within bounds, and under names of its own.
func TestObjectsAreBounded(t *testing.T) {
	c := startCluster(t)
	for name, path := range map[string]string{"cart": "/shop/cart", "admin": "/admin", "taken": "/shop/taken", "all": "/"} {
		c.route(name, path)
	}
	file := write(t, "gateway.yaml", c.config(", namespaces: [shop], hosts: [127.0.0.1], path_prefixes: [/shop]", `
services: {"kubernetes.shop.cart:80": {endpoints: ["http://cart.shop.svc:80/tuned"]}}
`)+"")
	text, _ := os.ReadFile(file)
	taken := strings.Replace(string(text), "routes: {", `routes: {"kubernetes.shop.taken": {match: {paths: [/mine]}, respond: {body: mine}}, `, 1)
	if err := os.WriteFile(file, []byte(taken), 0o600); err != nil {
		t.Fatal(err)
	}
	c.PutObject("httproutes", "other", "cart", `{"parentRefs":[{"name":"sluice"}],"rules":[{"matches":[{"path":{"value":"/shop/other"}}],"backendRefs":[{"name":"cart","port":80}]}]}`)
	r, _ := c.run(t, "-c", file)
	// A service of the file goes before the one of its name.
	r.gets(t, "/shop/cart", 200, "cart /tuned/shop/cart")
	r.gets(t, "/mine", 200, "mine")
	r.gets(t, "/admin", 404, "")
	r.gets(t, "/shop/taken", 404, "")
	r.gets(t, "/shop/other", 404, "") // another namespace
	s := r.state(t)
	for name, want := range map[string]string{"admin": `"/admin" is not the source's; it may have /shop`, "all": `"/" is not the source's`, "taken": "which goes first"} {
		if got := s.Broken["kubernetes httproute shop/"+name]; !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/shop/cart", nil)
	req.Host = "elsewhere.test"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 404 {
		t.Errorf("a route without hosts has all: %s", res.Status)
	}
}

// The API server is gone under requests: none fails, and what changed meanwhile arrives. A gateway that starts meanwhile has
// what was there before.
func TestKubernetesDiesAndReturns(t *testing.T) {
	c := startCluster(t)
	c.route("cart", "/cart")
	c.ingress("web", "sluice", "/web")
	file := write(t, "gateway.yaml", c.config("", ""))
	a, log := c.run(t, "-c", file, "--state", t.TempDir())
	state := filepath.Dir(write(t, "x", ""))
	b, _ := c.run(t, "-c", file, "--state", state)
	a.gets(t, "/cart", 200, "cart /cart")
	b.gets(t, "/web", 200, "cart /web")
	asked := a.keepAsking(t, "/cart")
	c.Close()
	log.has(t, "the source of routes can not be asked; what it told last stays in force")
	_ = b.Process.Kill()
	_ = b.Wait()
	started, _ := c.run(t, "-c", file, "--state", state)
	if status, body := fetch(t, started.url+"/cart"); status != 200 || body != "cart /cart" {
		t.Errorf("%d %s", status, body)
	}
	if s := started.state(t); len(s.Sources) != 2 || !s.Sources[0].Stored || !s.Sources[0].Failing {
		t.Errorf("%+v", s)
	}
	// A change of the file comes into force meanwhile, with the routes from outside.
	if err := os.WriteFile(file, []byte(strings.Replace(c.config("", ""), "hello\\n", "changed", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	a.gets(t, "/hello", 200, "changed")
	a.gets(t, "/web", 200, "cart /web")
	c.route("meanwhile", "/meanwhile")
	c.DeleteObject("ingresses", "shop", "web")
	c.Forget()
	c.Restart()
	for _, r := range []*running{a, started} {
		r.gets(t, "/meanwhile", 200, "cart /meanwhile")
		r.gets(t, "/web", 404, "")
	}
	asked.stop()
	// A broken file keeps no route from coming, and its own mistake is not forgotten for that.
	if err := os.WriteFile(file, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, func() string { return "the mistake is not seen" }, func() bool { return strings.Contains(a.state(t).LastError, "nonsense") })
	c.route("last", "/last")
	a.gets(t, "/last", 200, "cart /last")
	until(t, func() string { return "the mistake is forgotten" }, func() bool { return strings.Contains(a.state(t).LastError, "nonsense") })
}

// An Ingress may name the port of a service, which is found where the service says its number.
func TestNamedPorts(t *testing.T) {
	c := startCluster(t)
	named := func(path, service string) string {
		return fmt.Sprintf(`{"ingressClassName":"sluice","rules":[{"http":{"paths":[{"path":%q,"pathType":"Prefix","backend":{"service":{"name":%q,"port":{"name":"web"}}}}]}}]}`, path, service)
	}
	c.PutObject("services", "shop", "cart", `{"ports":[{"name":"metrics","port":9100},{"name":"web","port":80,"targetPort":8080}]}`)
	c.PutObject("ingresses", "shop", "web", named("/web", "cart"))
	r, log := c.run(t, "-c", write(t, "gateway.yaml", c.config("", "")))
	// It is there with the first request.
	if status, body := fetch(t, r.url+"/web/1"); status != 200 || body != "cart /web/1" {
		t.Errorf("%d %s", status, body)
	}
	// A service comes after the object that names it; a port changes, which is a reload, and what has no port is no mistake of others.
	c.PutObject("ingresses", "shop", "late", named("/late", "later"))
	log.has(t, "the port web of the service later is not known")
	c.PutObject("services", "shop", "later", `{"type":"ExternalName","externalName":"localhost"}`)
	c.PutObject("services", "shop", "cart", `{"ports":[{"name":"web","port":81}]}`)
	until(t, func() string { return "the service is not asked for at its other port" }, func() bool {
		_, body := fetch(t, r.admin+"/api/services")
		return strings.Contains(body, "http://cart.shop.svc:81") && !strings.Contains(body, "http://cart.shop.svc:80")
	})
	c.PutObject("services", "shop", "cart", `{"ports":[{"name":"web","port":80}]}`)
	r.gets(t, "/web/2", 200, "cart /web/2")
	c.PutObject("services", "shop", "later", `{"ports":[{"name":"web","port":80}]}`)
	until(t, func() string { return fmt.Sprint(r.state(t).Broken) }, func() bool { return len(r.state(t).Broken) == 0 })
}

// An account that may not see services has all Ingresses but those that name ports.
func TestNamedPortsWithoutServices(t *testing.T) {
	c := startCluster(t)
	c.Uninstall("services", true)
	c.ingress("web", "sluice", "/web")
	c.PutObject("ingresses", "shop", "named", `{"ingressClassName":"sluice","defaultBackend":{"service":{"name":"cart","port":{"name":"web"}}}}`)
	r, _ := c.run(t, "-c", write(t, "gateway.yaml", c.config("", "")))
	r.gets(t, "/web", 200, "cart /web")
	if why := r.state(t).Broken["kubernetes ingress shop/named"]; !strings.Contains(why, "or this account may not get, list and watch services") {
		t.Errorf("%q %+v", why, r.state(t))
	}
	// Once it may, they are there.
	c.PutObject("services", "shop", "cart", `{"ports":[{"name":"web","port":80}]}`)
	c.Uninstall("services", false)
	r.gets(t, "/anything", 200, "cart /anything")
}

// A gateway that starts while its source is gone, and has nothing of before, says that routes are missing.
func TestSourceIsGoneAtTheStart(t *testing.T) {
	c := startCluster(t)
	c.ingress("web", "sluice", "/web")
	c.Close()
	r, _ := c.run(t, "-c", write(t, "gateway.yaml", c.config(", resources: [ingresses]", "")))
	r.gets(t, "/hello", 200, "hello\n")
	ready := func(want string) {
		t.Helper()
		status, body := 0, ""
		until(t, func() string { return fmt.Sprintf("%d %s, want %s", status, body, want) }, func() bool {
			status, body = fetch(t, r.admin+"/readyz?verbose")
			return status == 200 && strings.Contains(body, `"source kubernetes ingresses in all namespaces": "`+want)
		})
	}
	ready("has told nothing yet; its routes are missing")
	c.Restart()
	r.gets(t, "/web", 200, "cart /web")
	ready("ok")
	c.Close()
	ready("can not be asked; what it told last stays in force")
}

// Without the definitions of the Gateway API there are Ingresses all the same, and tokens are read anew.
func TestKubernetesWithoutGatewayAPI(t *testing.T) {
	c := startCluster(t)
	c.Uninstall("httproutes", true)
	c.ingress("web", "sluice", "/web")
	c.route("cart", "/cart")
	r, log := c.run(t, "-c", write(t, "gateway.yaml", c.config("", "")))
	r.gets(t, "/web", 200, "cart /web")
	if s := r.state(t).Sources[0]; !s.Failing || !strings.Contains(s.LastError, "404 Not Found: the server could not find the requested resource") {
		t.Errorf("%+v", s)
	}
	c.Close()
	c.Token = "replaced"
	c.Restart()
	log.has(t, "401 Unauthorized")
	if err := os.WriteFile(c.token, []byte("replaced"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Uninstall("httproutes", false)
	r.gets(t, "/cart", 200, "cart /cart")
}

// A configuration in etcd has sources too; routes come and go while etcd is gone.
func TestSourcesBesideEtcd(t *testing.T) {
	c, s := startCluster(t), etcdtest.Start(t)
	c.route("cart", "/cart")
	s.Put("/sluice/sluice.yaml", c.config("", ""))
	r, log := c.run(t, "-c", "etcd://"+strings.TrimPrefix(s.URL, "http://")+"/sluice")
	r.gets(t, "/cart", 200, "cart /cart")
	s.Kill()
	log.has(t, "the configuration store can not be watched")
	c.route("more", "/more")
	r.gets(t, "/more", 200, "cart /more")
	s.Restart()
	// Without the source there are no routes of it.
	s.Put("/sluice/sluice.yaml", respond)
	r.gets(t, "/cart", 404, "")
	r.gets(t, "/hello", 200, "")
}

// instance registers a backend under tags.
func instance(id, address string, tags ...string) consultest.Instance {
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return consultest.Instance{ID: id, Address: host, Node: host, Port: n, Status: "passing", Tags: tags}
}

func consulConfig(a *consultest.Agent, settings string) string {
	return respond + fmt.Sprintf("sources: {consul: {address: %q, token: s3cret%s}}\n", a.URL, settings)
}

func TestRoutesFromConsul(t *testing.T) {
	users, orders, began := named(t, "users"), named(t, "orders"), time.Now()
	a := consultest.Start(t, "users", "s3cret", instance("u1", users, "v1", "sluice.paths=/users,/people", "sluice.strip_prefix=true"))
	a.SetService("quiet", instance("q", users, "v1", "traefik.enable=true"))
	a.SetService("off", instance("o", users, "sluice.paths=/off", "sluice.enable=false"))
	r := launch(t, sluice(t, nil, "run", "--drain-delay", "1ms", "-c", write(t, "gateway.yaml", consulConfig(a, ""))))
	log := r.quiet()
	if status, body := fetch(t, r.url+"/users/1"); status != 200 || body != "users /1" {
		t.Errorf("%d %s", status, body)
	}
	r.gets(t, "/people/2", 200, "users /2")
	r.gets(t, "/off", 404, "")
	// A service comes, with two routes; what it says changes; it goes.
	a.SetService("orders", instance("1", orders, "sluice.paths=/orders", "sluice.routes.new.paths=/new", "sluice.routes.new.methods=POST"))
	r.gets(t, "/orders", 200, "orders /orders")
	r.gets(t, "/new", 405, "")
	a.SetService("orders", instance("1", orders, "sluice.paths=/ordered"))
	r.gets(t, "/ordered", 200, "orders /ordered")
	r.gets(t, "/new", 404, "")
	// Where the instances are is no matter of routes: no generation comes of it.
	generation := r.state(t).Generation
	a.SetService("orders", instance("1", named(t, "moved"), "sluice.paths=/ordered"))
	r.gets(t, "/ordered", 200, "moved /ordered")
	if now := r.state(t).Generation; now != generation {
		t.Errorf("generation %d, then %d", generation, now)
	}
	// What is not known is the mistake of the service alone, which has what it had.
	a.SetService("orders", instance("1", orders, "sluice.paths=/ordered", "sluice.policies=none"))
	log.has(t, "sluice.policies is not known")
	a.SetService("both", instance("1", orders, "sluice.paths=/both"), instance("2", users, "sluice.paths=/other"))
	log.has(t, "with several values")
	a.SetService("more", instance("1", orders, "sluice.paths=/more"))
	r.gets(t, "/more", 200, "orders /more")
	r.gets(t, "/ordered", 200, "orders /ordered")
	r.gets(t, "/both", 404, "")
	s := r.state(t)
	if s.Broken["consul service orders"] == "" || s.Broken["consul service both"] == "" || len(s.Broken) != 2 {
		t.Errorf("%v", s.Broken)
	}
	// A service that comes later takes no requests of another, whatever it is called.
	until(t, func() string { return "the second does not end" }, func() bool { return time.Since(began) > time.Second })
	a.SetService("a-thief", instance("1", orders, "sluice.paths=/people"))
	log.has(t, `\"consul.a-thief\" and \"consul.users\" are equally specific`)
	r.gets(t, "/people/2", 200, "users /2")
	_, body := fetch(t, r.admin+"/api/config")
	if strings.Contains(body, "s3cret") {
		t.Error("the token shows")
	}
	a.SetService("orders")
	r.gets(t, "/ordered", 404, "")
}

// Consul is gone under requests: none fails, and what changed meanwhile arrives. Bounds hold as for every source.
func TestConsulDiesAndReturns(t *testing.T) {
	users := named(t, "users")
	a := consultest.Start(t, "users", "s3cret", instance("u1", users, "sluice.paths=/users"))
	a.SetService("admin", instance("a1", users, "sluice.paths=/admin"))
	file := write(t, "gateway.yaml", consulConfig(a, ", path_prefixes: [/users, /more]"))
	r := launch(t, sluice(t, nil, "run", "--drain-delay", "1ms", "-c", file))
	log := r.quiet()
	r.gets(t, "/users", 200, "users /users")
	r.gets(t, "/admin", 404, "")
	asked := r.keepAsking(t, "/users")
	a.Close()
	log.has(t, "the source of routes can not be asked; what it told last stays in force")
	a.SetService("more", instance("m", users, "sluice.paths=/more"))
	a.Restart()
	r.gets(t, "/more", 200, "users /more")
	a.Close()
	a.Reset(instance("u1", users, "sluice.paths=/users,/users/again"))
	a.SetService("more")
	a.Restart()
	r.gets(t, "/more", 404, "")
	asked.stop()
}
