package accesslog

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
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
	f := func(c *Config, want string) {
		t.Helper()
		c.Format = "json"
		c.Complete()
		places, err := c.places(nil)
		if err != nil || len(places) != 1 || places[0].identity != want {
			t.Errorf("%v, %v, want %s", places, err, want)
		}
	}
	f(&Config{Outputs: []Output{{File: "b.log"}}}, "b.log")
	f(&Config{}, "stdout")
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
	f("{path: /dev/null, format: combined_extended}")
	f("{path: /dev/null, sample: 0.5, sample_by_status: {2xx: 0.5}}")
}

// Wherever lines go they are the same, nothing in them or about them tells a secret, and what an output does not take is counted.
func TestRemoteOutputs(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	bodies := make(chan string, 10)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
	}))
	defer endpoint.Close()
	w := policytest.New(t, "")
	file := filepath.Join(t.TempDir(), "access.log")
	h := w.MustBuild(t, Definition, "{path: "+file+", redact: [user-agent], outputs: [{udp: '"+udp.LocalAddr().String()+"'}, {http: '"+endpoint.URL+"'}, {syslog: 'udp://"+udp.LocalAddr().String()+"'}, "+
		"{http: {url: 'http://me:secret@127.0.0.1:1/in?token=secret', retries: 0}}]}")
	x := w.Exchange("/users/42?token=secret", "User-Agent: secret", "Authorization: Bearer secret", "Referer: https://a.example/?secret")
	x.Status, x.Attempts = 502, 3
	h.Done(x)
	x.Close()
	line := logged(t, w, file)
	if !strings.Contains(line, `"attempts":3`) {
		t.Error(line)
	}
	if got := <-bodies; got != line {
		t.Errorf("%q, want %q", got, line)
	}
	datagrams := make([]string, 2)
	for i := range datagrams {
		b := make([]byte, 1<<16)
		if err := udp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := udp.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		datagrams[i] = string(b[:n])
	}
	slices.Sort(datagrams) // <131>1 … before {
	if datagrams[1]+"\n" != line || !strings.HasPrefix(datagrams[0], "<131>1 2027-01-15T08:00:00.000Z ") || !strings.HasSuffix(datagrams[0]+"\n", line) {
		t.Errorf("%q, want %q", datagrams, line)
	}
	if w.Metrics.AccessLogDropped.Value() != 1 || w.Metrics.AccessLogLines.Value() != 4 {
		t.Errorf("%d lines, %d dropped", w.Metrics.AccessLogLines.Value(), w.Metrics.AccessLogDropped.Value())
	}
	if said := w.Logged(); strings.Contains(said+line, "secret") || !strings.Contains(said, "http://127.0.0.1:1/in") {
		t.Errorf("%s%s", said, line)
	}
}

func TestRemoteOutputsThatAreWrong(t *testing.T) {
	f := func(settings, want string) {
		t.Helper()
		policytest.New(t, "").Fails(t, Definition, settings, want)
	}
	f("outputs: [{http: 'ftp://a'}]", "access_log.outputs[0].http.url: this is no URL to send to")
	f("outputs: [{file: /dev/null}, {tcp: {address: 'tls://a:1', tls: {ca: /nowhere.pem}}}]", "access_log.outputs[1].tcp.tls.ca: open /nowhere.pem")
	f("{format: combined, outputs: [{http: {url: 'http://a', encoding: json}}]}", "access_log.outputs[0].http.encoding: lines of the format combined are no JSON")
	f("outputs: [{udp: 'a:1'}, {udp: {address: 'a:1'}}]", "access_log.outputs[1].udp: udp://a:1 gets every line already")
}

func TestSampleByStatus(t *testing.T) {
	w := policytest.New(t, "")
	file := filepath.Join(t.TempDir(), "access.log")
	h := w.MustBuild(t, Definition, `{path: `+file+`, sample: 0, sample_by_status: {"5xx": 1, "404": 1, "503": 0}}`)
	for _, status := range []int{200, 404, 403, 500, 503, 599, 0, 700} {
		x := w.Exchange("/")
		x.Status = status
		h.Done(x)
		x.Close()
	}
	text := logged(t, w, file)
	for _, status := range []string{"404", "500", "599"} {
		if !strings.Contains(text, `"status":`+status) {
			t.Errorf("%s is missing in %s", status, text)
		}
	}
	if n := strings.Count(text, "\n"); n != 3 {
		t.Errorf("%d lines: %s", n, text)
	}
}
