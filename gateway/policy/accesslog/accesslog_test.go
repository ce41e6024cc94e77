package accesslog

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

// Nothing that a policy started outlives its configuration.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// logged ends all outputs and gives what they wrote to file.
func logged(t *testing.T, w *policytest.World, file string) string {
	t.Helper()
	var logs []*Logs
	w.Living.Range(func(_ string, v any, _ int) bool {
		logs = append(logs, v.(*Logs))
		return true
	})
	for _, l := range logs {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestLine(t *testing.T) {
	w := policytest.New(t, "")
	file := filepath.Join(t.TempDir(), "access.log")
	h := w.MustBuild(t, Definition, "path: "+file)
	x := w.Exchange("/users/42?token=secret", "User-Agent: curl", "Authorization: Bearer secret", "Cookie: a=secret", "Referer: https://a.example/?secret")
	x.RequestID = []byte("id-1")
	x.Identity.Consumer = &exchange.Consumer{Name: "alice", NameHeader: []byte("alice")}
	x.Service, x.Endpoint, x.Attempts = "users", "http://10.0.0.1:8080", 1
	x.UpstreamTime, x.BytesIn, x.BytesOut = int64(1500*time.Microsecond), 3, 5
	x.Status = 201
	w.Advance(2 * time.Millisecond)
	x.Ended = x.Clock.Now()
	h.Done(x)
	x.Close()
	text := logged(t, w, file)
	if strings.Contains(text, "secret") {
		t.Error("the log tells secrets: ", text)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(text), &line); err != nil {
		t.Fatal(err, text)
	}
	for key, want := range map[string]any{
		"time": "2027-01-15T08:00:00.000Z", "request_id": "id-1", "client_ip": "192.0.2.1", "method": "GET", "host": "api.example.com",
		"path": "/users/42", "status": 201.0, "bytes_in": 3.0, "bytes_out": 5.0, "duration_ms": 2.0, "upstream_ms": 1.5,
		"route": "users", "service": "users", "endpoint": "http://10.0.0.1:8080", "consumer": "alice", "reason": "",
	} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
}

func TestLines(t *testing.T) {
	f := func(settings string, prepare func(x *exchange.Exchange), want string) {
		t.Helper()
		w := policytest.New(t, "")
		file := filepath.Join(t.TempDir(), "access.log")
		h := w.MustBuild(t, Definition, "path: "+file+"\n"+settings)
		x := w.Exchange("/a", "User-Agent: curl")
		x.Status = 200
		prepare(x)
		h.Done(x)
		x.Close()
		if text := logged(t, w, file); !strings.Contains(text, want) || want == "" && text != "" {
			t.Errorf("%s: %s, want %s", settings, text, want)
		}
	}
	nothing := func(*exchange.Exchange) {}
	f("format: combined", nothing, `192.0.2.1 - - [15/Jan/2027:08:00:00 +0000] "GET /a HTTP/1.1" 200 0 "-" "curl"`+"\n")
	f("format: combined\nredact: [user-agent]", nothing, `"[redacted]"`)
	f("redact: [client_ip]", nothing, `"client_ip":"[redacted]"`)
	f("", nothing, `"upstream_ms":null`)
	f("", func(x *exchange.Exchange) { x.Route = nil }, `"route":""`)
	f("", func(x *exchange.Exchange) { x.Identity.Authenticated, x.Identity.Subject = true, []byte("42") }, `"consumer":"42"`)
	f("", func(x *exchange.Exchange) { x.Identity.Subject = []byte("42") }, `"consumer":""`)
	f("", func(x *exchange.Exchange) { x.Path = nil; x.Request.Header.SetRequestURI("/%2F/b?secret") }, `"path":"/%2F/b","status"`)
	f("sample: 0", nothing, "")
}

func TestSample(t *testing.T) {
	w := policytest.New(t, "")
	file := filepath.Join(t.TempDir(), "access.log")
	h := w.MustBuild(t, Definition, "{sample: 0.5, path: "+file+"}")
	x := w.Exchange("/")
	for range 2000 {
		h.Done(x)
	}
	if n := strings.Count(logged(t, w, file), "\n"); n < 800 || n > 1200 {
		t.Errorf("%d of 2000 requests are logged", n)
	}
}

func TestOutputs(t *testing.T) {
	w := policytest.New(t, "")
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.log"), filepath.Join(dir, "b.log")
	w.MustBuild(t, Definition, "{path: "+a+", outputs: [{file: "+b+"}]}").Done(w.Exchange("/"))
	if one, two := logged(t, w, a), logged(t, w, b); one != two || strings.Count(one, "\n") != 1 {
		t.Errorf("%q and %q", one, two)
	}
	only := &Config{Outputs: []Output{{File: "b.log"}}}
	if only.Complete(); len(only.paths()) != 1 || only.paths()[0] != "b.log" {
		t.Errorf("outputs alone: %v", only.paths())
	}
	usual := &Config{}
	if usual.Complete(); len(usual.paths()) != 1 || usual.paths()[0] != "stdout" {
		t.Errorf("no settings: %v", usual.paths())
	}
	w = policytest.New(t, "")
	w.Fails(t, Definition, "{path: "+a+", outputs: [{file: "+dir+"/./a.log}]}", "access_log.outputs[0].file: "+a+" gets every line already")
	w.Fails(t, Definition, "{path: "+dir+"}", "access_log.path: "+dir+" is a folder")
	w.Fails(t, Definition, "{path: "+a+"/b.log}", "access_log.path: ")
}

// A validated configuration leaves no file behind.
func TestDryRun(t *testing.T) {
	w := policytest.New(t, "")
	w.DryRun = true
	file := filepath.Join(t.TempDir(), "access.log")
	w.MustBuild(t, Definition, "path: "+file)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Error("a dry run created the file")
	}
	// Nor a folder; those that are missing are made when the file is opened.
	deep := filepath.Join(t.TempDir(), "one", "two", "access.log")
	w.MustBuild(t, Definition, "path: "+deep)
	if _, err := os.Stat(filepath.Dir(deep)); !os.IsNotExist(err) {
		t.Error("a dry run created the folder")
	}
	w = policytest.New(t, "")
	w.MustBuild(t, Definition, "path: "+deep)
	if _, err := os.Stat(deep); err != nil {
		t.Error(err)
	}
}

func TestReopen(t *testing.T) {
	w := policytest.New(t, "")
	file := filepath.Join(t.TempDir(), "access.log")
	h := w.MustBuild(t, Definition, "path: "+file)
	h.Done(w.Exchange("/before"))
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	w.Living.Range(func(_ string, v any, _ int) bool {
		if err := v.(interface{ Reopen() error }).Reopen(); err != nil {
			t.Error(err)
		}
		return true
	})
	h.Done(w.Exchange("/after"))
	if now := logged(t, w, file); !strings.Contains(now, "/after") || strings.Contains(now, "/before") {
		t.Errorf("the new file has %s", now)
	}
	if old, _ := os.ReadFile(file + ".1"); !strings.Contains(string(old), "/before") {
		t.Errorf("the old file has %s", old)
	}
}

// An output stays open over a reload, and is closed with its last generation.
func TestReload(t *testing.T) {
	w := policytest.New(t, "")
	file := filepath.Join(t.TempDir(), "access.log")
	old := w.MustBuild(t, Definition, "path: "+file)
	last := w.Generation
	end := w.Reload()
	h := w.MustBuild(t, Definition, "{path: "+file+", format: combined}")
	old.Done(w.Exchange("/old"))
	end()
	last.Close()
	h.Done(w.Exchange("/new"))
	if text := logged(t, w, file); !strings.Contains(text, "/old") || !strings.Contains(text, "/new") {
		t.Errorf("the file has %s", text)
	}
}

func TestNoAllocations(t *testing.T) {
	f := func(settings string) {
		t.Helper()
		w := policytest.New(t, "")
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) { h.Done(x) }, "User-Agent: curl", "Referer: https://a.example/")
	}
	f("path: /dev/null")
	f("{path: /dev/null, format: combined}")
	f("{path: /dev/null, sample: 0.5}")
}
