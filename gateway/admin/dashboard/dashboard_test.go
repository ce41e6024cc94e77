package dashboard_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/admin"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
)

var screenshots = flag.String("screenshots", "", "folder to take the pictures of the README into")

// TestPages has a browser walk every page of a gateway at work: what a page shows, whether it can be used by all, what its
// actions do, and that the browser reports nothing.
func TestPages(t *testing.T) {
	text := shop(t)
	plain := newWorld(t, text, "")
	plain.work()
	if plain.reload("version: 1\nruotes: {}\n") == nil {
		t.Fatal("an unknown key is taken")
	}
	plain.write(strings.Replace(text, "requests: 1500,", "requests: 1600,", 1)) // for the page to load
	tokened := newWorld(t, shop(t), "the-token-of-the-test")
	many := newWorld(t, thousandRoutes(), "")
	plain.browse("walk.mjs", "URL_PLAIN="+plain.url(), "URL_TOKEN="+tokened.url(), "URL_MANY="+many.url(), "TOKEN="+tokened.token)
}

func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("no picture is asked for: make screenshots asks")
	}
	folder, err := filepath.Abs(*screenshots)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, shop(t), "")
	w.work()
	w.browse("screenshots.mjs", "URL_PLAIN="+w.url(), "FOLDER="+folder)
}

// BenchmarkFirstPaint loads the pages of a gateway with 1,000 routes with an empty cache, on loopback: from the start of the navigation, in a
// browser that is at rest, until something is to be seen (first-contentful-paint), and until the data is there. Beside it stands the
// first paint of a line of text from the same listener, in turns: what the browser needs by itself.
func BenchmarkFirstPaint(b *testing.B) {
	w := newWorld(b, thousandRoutes(), "")
	for _, page := range []struct{ name, hash, selector string }{{"overview", "#/overview", "main .columns .note .note:not(:empty)"}, {"routes", "#/routes", "main tbody tr"}} {
		b.Run(page.name, func(b *testing.B) {
			v := *w
			v.TB = b
			var paint, text, data []float64
			for _, l := range v.browse("paint.mjs", "URL_PLAIN="+w.url()+"/"+page.hash, "URL_TEXT="+w.url()+"/livez", "SELECTOR="+page.selector, fmt.Sprintf("COUNT=%d", b.N)) {
				paint, text, data = append(paint, l.Paint), append(text, l.Text), append(data, l.Data)
			}
			slices.Sort(paint)
			slices.Sort(text)
			slices.Sort(data)
			b.ReportMetric(paint[0], "min-paint-ms")
			b.ReportMetric(paint[len(paint)/2], "median-paint-ms")
			b.ReportMetric(paint[len(paint)-1], "max-paint-ms")
			b.ReportMetric(text[len(text)/2], "median-text-ms")
			b.ReportMetric(data[len(data)/2], "median-data-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// world is a gateway with its admin listener, its configuration in a file.
type world struct {
	testing.TB
	gateway *gateway.Gateway
	admin   *admin.Server
	file    string
	token   string
}

func newWorld(t testing.TB, text, token string) *world {
	t.Helper()
	w := &world{TB: t, file: filepath.Join(t.TempDir(), "sluice.yaml"), token: token}
	w.gateway = gateway.New(gateway.Options{Registry: registry.All(), Version: "test"})
	t.Cleanup(func() { w.gateway.Shutdown(context.Background()) })
	if err := w.reload(text); err != nil {
		t.Fatal(err)
	}
	w.admin = admin.New(admin.Options{
		Gateway: w.gateway, Address: "127.0.0.1:0", Token: token, Reload: w.load,
		WriteBack: func(data []byte) error { return os.WriteFile(w.file, data, 0o600) },
		Read:      func() ([]byte, error) { return os.ReadFile(w.file) },
	})
	if err := w.admin.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.admin.Close(closing)
	})
	return w
}

func (w *world) url() string { return "http://" + w.admin.Addr() }

func (w *world) write(text string) {
	w.Helper()
	if err := os.WriteFile(w.file, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) reload(text string) error {
	w.Helper()
	w.write(text)
	return w.load()
}

func (w *world) load() error {
	text, err := os.ReadFile(w.file)
	if err != nil {
		return err
	}
	c, err := config.Parse("gateway.yaml", text, config.Options{}) // what the pages call it
	if err != nil {
		w.gateway.Fail(err)
		return err
	}
	return w.gateway.Apply(c)
}

// work sends requests to every route, about two hundred a second, until the test ends.
func (w *world) work() {
	base := ""
	for _, l := range w.gateway.Listeners() {
		if l.Name == "main" {
			base = "http://" + l.Address
		}
	}
	paths := []string{
		"/api/v1/users/1", "/api/v1/users/2", "/api/v1/users/3", "/api/v1/orders", "/api/v1/products", "/api/v1/products?page=2",
		"/shop", "/shop/cart", "/api/v1/payments", "/old", "/nowhere",
	}
	// Few are wrong, or auth_guard would refuse the others of the same address.
	keys := append(slices.Repeat([]string{"alices", "alices", "bobs"}, 100), "nobodys")
	ctx, stop := context.WithCancel(context.Background())
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+paths[rand.IntN(len(paths))], http.NoBody)
				if err != nil {
					w.Error(err)
					return
				}
				req.Header.Set("X-API-Key", keys[rand.IntN(len(keys))])
				if res, err := client.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				} else if ctx.Err() == nil {
					w.Error(err)
					return
				}
				<-pace.C
			}
		})
	}
	w.Cleanup(func() {
		stop()
		workers.Wait()
		client.CloseIdleConnections()
	})
}

// line is what a script of the browser says.
type line struct {
	Fault  string
	Figure string
	Value  float64
	Unit   string
	Paint  float64
	Text   float64
	Data   float64
}

// browse runs a script with a browser. What it says is wrong fails the test.
func (w *world) browse(script string, environ ...string) (lines []line) {
	w.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		w.Fatal("the pages are looked at with Chromium, which is not here; make tools-test installs it")
	}
	if _, err := os.Stat("browser/node_modules/playwright-core"); err != nil {
		w.Fatal("browser/node_modules is not here; make tools-test installs it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "node", "browser/"+script)
	c.Env = append(os.Environ(), append(environ, "CHROMIUM="+chromium)...)
	var wrong bytes.Buffer
	c.Stderr = &wrong
	out, err := c.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	if err := c.Start(); err != nil {
		w.Fatal(err)
	}
	for in := bufio.NewScanner(out); in.Scan(); {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			w.Errorf("%s: %v", in.Text(), err)
			continue
		}
		switch lines = append(lines, l); {
		case l.Fault != "":
			w.Error(l.Fault)
		case l.Figure != "":
			w.Logf("%s: %g %s", l.Figure, l.Value, l.Unit)
		}
	}
	if err := c.Wait(); err != nil {
		w.Fatalf("%s: %v\n%s", script, err, wrong.String())
	}
	return lines
}

// backend answers after some milliseconds, as backends do.
func backend(t testing.TB, status int, slowest time.Duration) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Millisecond + rand.N(slowest)):
		case <-r.Context().Done():
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, `{"hello": "world"}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// shop is a gateway with everything that the pages show: endpoints out of order, a breaker that is open, limits in use, a
// cache, a rollout, copies of requests, certificates.
func shop(t testing.TB) string {
	t.Helper()
	authority := certstest.New(t)
	cert, key := authority.Issue("secure", certstest.Leaf{CN: "secure.example", DNS: []string{"secure.example", "www.secure.example"}, NotAfter: time.Now().Add(20 * 24 * time.Hour)})
	other, otherKey := authority.Issue("soon", certstest.Leaf{CN: "soon.example", DNS: []string{"soon.example"}, NotAfter: time.Now().Add(3 * 24 * time.Hour)})
	fine := func() string { return backend(t, http.StatusOK, 8*time.Millisecond) }
	return fmt.Sprintf(`version: 1
state: {dir: %q}
listeners:
  main: {address: "127.0.0.1:0"}
  secure: {address: "127.0.0.1:0", tls: {certificates: [{cert: %q, key: %q}, {cert: %q, key: %q}]}}
services:
  users: {endpoints: [%q, %q]}
  orders: {endpoints: [%q, "http://127.0.0.1:1"]}
  products: {endpoints: [%q]}
  payments: {endpoints: [%q], circuit_breaker: {consecutive_failures: 5, open_for: 1h}}
  stable: {endpoints: [%q]}
  canary: {endpoints: [%q]}
  next: {endpoints: [%q]}
routes:
  users:
    match: {paths: [/api/v1/users], methods: [GET, POST]}
    service: users
    strip_prefix: true
    policies:
      api_key: {}
      rate_limit: {requests: 1500, per: 1m}
      cors: {origins: ["https://shop.example"]}
  orders: {match: {paths: [/api/v1/orders]}, service: orders, policies: {compression: {}}}
  products: {match: {paths: [/api/v1/products]}, service: products, policies: {cache: {ttl: 5s}}}
  payments: {match: {paths: [/api/v1/payments]}, service: payments}
  shop:
    match: {paths: [/shop]}
    split:
      services: [{service: stable}, {service: canary}]
      rollout: {steps: [5, 50, 100], every: 1h, max_error_ratio: 1%%, max_latency_ratio: 5}
    policies: {mirror: {service: next, compare: {}}}
  old: {match: {paths: [/old]}, redirect: {to: "https://shop.example/new"}}
  health: {match: {paths: [=/health]}, health: {}}
policies:
  request_size: {max: 2MiB}
plans:
  gold: {quota: {requests: 1000000, per: month}}
consumers:
  alice: {plan: gold, groups: [partners, beta], api_keys: [{id: k1, hash: "sha256:%x", expires: 2099-01-01}]}
  dora: {plan: gold}
  bob: {groups: [partners], api_keys: [{id: k1, hash: "sha256:%x"}]}
`, t.TempDir(), cert, key, other, otherKey, fine(), fine(), fine(), fine(), backend(t, http.StatusInternalServerError, time.Millisecond), fine(), fine(), fine(),
		sha256.Sum256([]byte("alices")), sha256.Sum256([]byte("bobs")))
}

func thousandRoutes() string {
	var b strings.Builder
	b.WriteString("version: 1\nlisteners: {main: {address: \"127.0.0.1:0\"}}\nservices: {one: {endpoints: [\"http://127.0.0.1:1\"]}}\nroutes:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  route-%04d: {match: {hosts: [h%d.example], paths: [/p/%d]}, service: one, policies: {rate_limit: {requests: 10, per: 1s}, cors: {}, compression: {}}}\n", i, i%10, i)
	}
	return b.String()
}
