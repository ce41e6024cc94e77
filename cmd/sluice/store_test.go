package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/etcd/etcdtest"
)

func says(text string) string { return strings.Replace(respond, "hello\\n", text, 1) }

// put replaces the configuration through the admin API.
func put(t *testing.T, admin, text, ifMatch string) (status int, etag, body string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, admin+"/api/config", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if ifMatch != "" {
		req.Header.Set("If-Match", ifMatch)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all, _ := io.ReadAll(res.Body)
	return res.StatusCode, res.Header.Get("ETag"), string(all)
}

func etagOf(t *testing.T, admin string) string {
	t.Helper()
	res, err := http.Get(admin + "/api/config")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.Header.Get("ETag")
}

// answers waits until the gateway answers with a text.
func (r *running) answers(t *testing.T, want string) {
	t.Helper()
	body := ""
	for deadline := time.Now().Add(30 * time.Second); body != want; time.Sleep(10 * time.Millisecond) {
		if _, body = fetch(t, r.url+"/hello"); time.Now().After(deadline) {
			t.Fatalf("answers %q, want %q", body, want)
		}
	}
}

// quiet reads the log on, so that the gateway never waits for its reader, and returns what it says.
func (r *running) quiet() *bytesLog {
	l := &bytesLog{}
	go func() {
		for r.lines.Scan() {
			l.add(r.lines.Text())
		}
	}()
	return l
}

type bytesLog struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *bytesLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.WriteString(line + "\n")
}

func (l *bytesLog) has(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		text := l.all.String()
		l.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log has no %q: %s", want, text)
		}
	}
}

func TestConfigurationStore(t *testing.T) {
	s := etcdtest.Start(t)
	at := "etcd://" + strings.TrimPrefix(s.URL, "http://") + "/sluice"
	s.Put("/sluice/sluice.yaml", says("one"))
	if out, err := sluice(t, nil, "validate", "-c", at).CombinedOutput(); err != nil || !strings.Contains(string(out), at+" is valid: 1 routes") {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := sluice(t, nil, "explain", "-c", at, "GET", "http://x/hello").CombinedOutput(); err != nil || !strings.Contains(string(out), at+"/sluice.yaml:4") {
		t.Fatalf("%v %s", err, out)
	}
	state := t.TempDir()
	run := func() *running {
		return launch(t, sluice(t, nil, "run", "-c", at, "--state", state, "--drain-delay", "1ms"))
	}
	a := run()
	log := a.quiet()
	a.answers(t, "one")
	// A change arrives; a broken one changes nothing.
	s.Put("/sluice/sluice.yaml", says("two"))
	a.answers(t, "two")
	s.Put("/sluice/sluice.yaml", "nonsense: 1")
	log.has(t, "the configuration was not reloaded")
	a.answers(t, "two")
	s.Put("/sluice/sluice.yaml", says("three"))
	a.answers(t, "three")

	// Of two gateways and their writers one is first, and the version is the same for both.
	b := run()
	b.quiet()
	tag := etagOf(t, a.admin)
	if other := etagOf(t, b.admin); tag == "" || tag != other {
		t.Errorf("%q and %q", tag, other)
	}
	status, next, body := put(t, a.admin, says("four"), tag)
	if status != 200 || next == tag {
		t.Fatalf("%d %s %s", status, next, body)
	}
	if status, _, body := put(t, b.admin, says("five"), tag); status != 412 {
		t.Errorf("%d %s", status, body)
	}
	b.answers(t, "four")
	if status, _, body := put(t, b.admin, "nonsense: 1", next); status != 400 || !strings.Contains(body, "unknown setting") {
		t.Errorf("%d %s", status, body)
	}
	if status, _, body := put(t, b.admin, says("five"), next); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	a.answers(t, "five")

	// Killed under load: no request fails, and what changed meanwhile arrives.
	var failed, sent atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				sent.Add(1)
				if res, err := http.Get(a.url + "/hello"); err != nil || res.StatusCode != 200 {
					failed.Add(1)
				} else {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
			}
		})
	}
	s.Kill()
	log.has(t, "the configuration store can not be watched; the running configuration stays in force")
	if status, _, body := put(t, a.admin, says("lost"), ""); status != 503 || !strings.Contains(body, "no answer in time") {
		t.Errorf("%d %s", status, body)
	}
	// A gateway that starts now has the last good configuration; one that has none says so.
	c := run()
	c.quiet()
	c.answers(t, "five")
	if _, body := fetch(t, c.admin+"/api/config"); !strings.Contains(body, "no answer in time") {
		t.Errorf("the API does not say that the store is gone: %s", body)
	}
	out, err := sluice(t, nil, "run", "-c", at).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no folder is named that would hold the last good configuration; name one with --state DIR") {
		t.Errorf("%v %s", err, out)
	}
	s.Restart()
	s.Put("/sluice/sluice.yaml", says("six"))
	a.answers(t, "six")
	c.answers(t, "six")
	close(stop)
	load.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), sent.Load())
	}
	t.Logf("%d requests", sent.Load())
	// A broken configuration in the store keeps nothing from starting either.
	s.Put("/sluice/sluice.yaml", "nonsense: 1")
	d := run()
	d.quiet()
	d.answers(t, "six")
}

// A team that breaks its file is alone with that, also over a restart.
func TestTeams(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(body string) string { return fmt.Sprintf("routes: {r: {respond: {body: %q}}}", body) }
	write("sluice.yaml", respond+"teams: {pay: {path_prefixes: [/pay], allowed_policies: [rate_limit]}, shop: {path_prefixes: [/shop]}}\n")
	write("teams/pay/a.yaml", answer("pay1"))
	write("teams/shop/a.yaml", answer("shop1"))
	begin := func() (*running, *bytesLog) {
		r := launch(t, sluice(t, nil, "run", "-c", dir, "--state", state, "--drain-delay", "1ms"))
		return r, r.quiet()
	}
	r, log := begin()
	is := func(path, want string) {
		t.Helper()
		body := ""
		for deadline := time.Now().Add(20 * time.Second); body != want; time.Sleep(10 * time.Millisecond) {
			if _, body = fetch(t, r.url+path); time.Now().After(deadline) {
				t.Fatalf("%s answers %q, want %q", path, body, want)
			}
		}
	}
	is("/pay", "pay1")
	is("/shop", "shop1")
	// A policy that only fails when it is compiled; the other team's change counts.
	write("teams/pay/a.yaml", `routes: {r: {respond: {body: pay2}, policies: {rate_limit: {requests: 0}}}}`)
	write("teams/shop/a.yaml", answer("shop2"))
	is("/shop", "shop2")
	is("/pay", "pay1")
	log.has(t, "the configuration of a team is broken; it has what was good last")
	until(t, func() string { return "the API does not say which team is broken" }, func() bool {
		_, body := fetch(t, r.admin+"/api/config")
		return strings.Contains(body, "broken_teams") && strings.Contains(body, "teams/pay/a.yaml:1:")
	})
	until(t, func() string { return "the metric does not say which team is broken" }, func() bool {
		_, body := fetch(t, r.admin+"/metrics")
		return strings.Contains(body, `sluice_team_config_broken{team="pay"} 1`) && strings.Contains(body, `sluice_team_config_broken{team="shop"} 0`)
	})
	_ = r.Process.Signal(syscall.SIGTERM)
	_ = r.Wait()
	r, _ = begin()
	is("/shop", "shop2")
	is("/pay", "pay1")
	write("teams/pay/a.yaml", answer("pay3"))
	is("/pay", "pay3")
	if out, err := sluice(t, nil, "explain", "-c", dir, "GET", "http://x/pay").CombinedOutput(); err != nil || !strings.Contains(string(out), "ROUTE pay/r") {
		t.Errorf("%v %s", err, out)
	}
	write("teams/pay/a.yaml", "nonsense: 1")
	if out, err := sluice(t, nil, "validate", "-c", dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "teams/pay/a.yaml:1:1: nonsense: a team's file holds services and routes alone") {
		t.Errorf("%v %s", err, out)
	}
}
