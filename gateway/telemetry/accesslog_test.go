package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.FixedZone("", 3600))

func testRecord() Record {
	return Record{
		Time: testTime, RequestID: []byte("id-1"), ClientIP: netip.MustParseAddr("192.0.2.1"), Method: []byte("GET"),
		Host: []byte("api.example.com"), Path: []byte("/api/v1/users"), Protocol: "HTTP/1.1", Status: 200, BytesIn: 1, BytesOut: 23,
		Duration: 1234567 * time.Nanosecond, Upstream: 1 * time.Millisecond, Attempts: 2, Route: "users", Service: "users-svc",
		Endpoint: "http://10.0.0.1:80", Consumer: []byte("alice"),
		Referer: []byte("https://example.com/a?token=secret"), UserAgent: []byte(`curl "8"`),
	}
}

func format(t testing.TB, name string, redact ...string) *Format {
	t.Helper()
	f, err := NewFormat(name, redact)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFormat(t *testing.T) {
	f := func(name string, redact []string, change func(*Record), want string) {
		t.Helper()
		r := testRecord()
		if change != nil {
			change(&r)
		}
		if have := string(format(t, name, redact...).Append(nil, &r)); have != want+"\n" {
			t.Errorf("have %s\nwant %s", have, want)
		}
	}
	f("json", []string{"authorization", "Cookie"}, nil,
		`{"time":"2026-03-04T04:06:07.089Z","request_id":"id-1","client_ip":"192.0.2.1","method":"GET","host":"api.example.com",`+
			`"path":"/api/v1/users","status":200,"bytes_in":1,"bytes_out":23,"duration_ms":1.234,"upstream_ms":1.000,"route":"users",`+
			`"service":"users-svc","endpoint":"http://10.0.0.1:80","consumer":"alice","tenant":"","reason":"","attempts":2,"protocol":"HTTP/1.1",`+
			`"referer":"https://example.com/a","user_agent":"curl \"8\""}`)
	f("json", []string{"Client_IP", "X-User-ID", "host"}, func(r *Record) {
		r.Upstream, r.Status, r.Reason, r.Route, r.Service, r.Endpoint = -1, 404, "no_route", "", "", ""
		r.Tenant = "acme"
		r.Duration = 999 * time.Nanosecond
		r.Path = []byte("/\n\"\\\x00\x7f\u0085ü\u2028\xff")
	}, `{"time":"2026-03-04T04:06:07.089Z","request_id":"id-1","client_ip":"[redacted]","method":"GET","host":"[redacted]",`+
		`"path":"/\n\"\\\u0000\u007f\u0085ü\u2028\ufffd","status":404,"bytes_in":1,"bytes_out":23,"duration_ms":0.000,"upstream_ms":null,"route":"",`+
		`"service":"","endpoint":"","consumer":"[redacted]","tenant":"acme","reason":"no_route","attempts":2,"protocol":"HTTP/1.1",`+
		`"referer":"https://example.com/a","user_agent":"curl \"8\""}`)
	f("combined", nil, nil,
		`192.0.2.1 - alice [04/Mar/2026:04:06:07 +0000] "GET /api/v1/users HTTP/1.1" 200 23 "https://example.com/a" "curl \x228\x22"`)
	f("combined", nil, func(r *Record) { *r = Record{Time: testTime, Status: 400} },
		`- - - [04/Mar/2026:04:06:07 +0000] "- - -" 400 0 "-" "-"`)
	f("combined", []string{"user-agent", "referer"}, func(r *Record) {
		r.ClientIP = netip.MustParseAddr("fe80::1%eth0\n")
		r.Consumer = []byte("a [b] \"c\"\n")
		r.Path = []byte("/a b\\ü")
	}, `fe80::1 - a\x20[b]\x20\x22c\x22\x0A [04/Mar/2026:04:06:07 +0000] "GET /a\x20b\x5C\xC3\xBC HTTP/1.1" 200 23 "[redacted]" "[redacted]"`)

	f("combined_extended", nil, nil,
		`192.0.2.1 - alice [04/Mar/2026:04:06:07 +0000] "GET /api/v1/users HTTP/1.1" 200 23 "https://example.com/a" "curl \x228\x22" request_id="id-1"`+
			` host="api.example.com" bytes_in=1 duration_ms=1.234 upstream_ms=1.000 route="users" service="users-svc" endpoint="http://10.0.0.1:80" tenant="-" reason="-" attempts=2`)
	f("combined_extended", []string{"host", "x-request-id"}, func(r *Record) {
		r.Upstream, r.Attempts, r.Reason, r.RPCStatus, r.TraceID = -1, 0, "no route\"", 6, []byte("abc")
	}, `192.0.2.1 - alice [04/Mar/2026:04:06:07 +0000] "GET /api/v1/users HTTP/1.1" 200 23 "https://example.com/a" "curl \x228\x22" request_id="[redacted]"`+
		` host="[redacted]" bytes_in=1 duration_ms=1.234 upstream_ms=- route="users" service="users-svc" endpoint="http://10.0.0.1:80" tenant="-" reason="no route\x22" attempts=0`+
		` grpc_status=5 trace_id="abc"`)

	r := testRecord()
	stamped := format(t, "combined").Stamped().Append(nil, &r)
	if at, status, line := CutStamp(stamped); !at.Equal(testTime) || status != 200 || string(line) != string(format(t, "combined").Append(nil, &r)) {
		t.Errorf("stamp of %v, %d before %s", at, status, line)
	}
	if at, status, line := CutStamp([]byte("short")); !at.IsZero() || status != 0 || string(line) != "short" {
		t.Errorf("%v, %d, %s", at, status, line)
	}
	if _, err := NewFormat("common", nil); err == nil || !strings.Contains(err.Error(), "json, combined") {
		t.Errorf("unexpected error %v", err)
	}
	r.Path = bytes.Repeat([]byte("\xff"), 1<<20)
	for _, name := range Formats {
		line := format(t, name).Append(nil, &r)
		if !bytes.Contains(line, []byte("...")) || len(line) > 7*maxField {
			t.Errorf("%s does not cut a long path: %d bytes", name, len(line))
		}
	}
}

func FuzzAccessLogJSON(f *testing.F) {
	f.Add([]byte("id"), []byte("/p"), []byte("host"), "route", "agent", 200, int64(5))
	f.Add([]byte("\xff\xed\xa0\x80"), []byte("/\"\\\n\r\x00\x7f"), []byte("\u2028\u0085\ufffd"), "\xf0\x9f\x98\x80", "\xf0\x9f\x98", -1, int64(-5))
	f.Add(bytes.Repeat([]byte("é"), 3000), []byte("a"), []byte(""), "", "", 0, int64(1)<<62)
	asJSON, asCombined, asExtended := format(f, "json"), format(f, "combined"), format(f, "combined_extended").Stamped()
	f.Fuzz(func(t *testing.T, id, path, host []byte, route, agent string, status int, n int64) {
		r := Record{
			Time: testTime, RequestID: id, Path: path, Host: host, Method: host, Route: route, Service: agent, Endpoint: route, Reason: agent,
			UserAgent: []byte(agent), Referer: path, Consumer: id, Protocol: route, Tenant: route, Status: status, BytesIn: n, BytesOut: n, Duration: time.Duration(n), Upstream: time.Duration(n),
		}
		line := asJSON.Append(nil, &r)
		if len(line) > maxLine(&r) {
			t.Errorf("%d bytes, at most %d were announced", len(line), maxLine(&r))
		}
		checkLine(t, line, true)
		var got map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&got); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		text := func(key, in string) {
			t.Helper()
			want := ""
			if len(in) > maxField {
				in, want = in[:maxField], "..."
			}
			want = string([]rune(in)) + want // each wrong byte becomes one U+FFFD
			if got[key] != want {
				t.Errorf("%s is %q, want %q", key, got[key], want)
			}
		}
		text("request_id", string(id))
		text("path", string(path))
		text("host", string(host))
		text("route", route)
		text("service", agent)
		if got["bytes_in"] != json.Number(fmt.Sprint(n)) || len(got) != 21 || got["tenant"] == nil {
			t.Errorf("unexpected %v", got)
		}

		line = asCombined.Append(nil, &r)
		if len(line) > maxLine(&r) {
			t.Errorf("%d bytes, at most %d were announced", len(line), maxLine(&r))
		}
		checkLine(t, line, false)
		if q := bytes.Count(line, []byte{'"'}); q != 6 {
			t.Errorf("%d quotes in %q", q, line)
		}
		line = asExtended.Append(nil, &r)
		if len(line) > maxLine(&r) {
			t.Errorf("%d bytes, at most %d were announced", len(line), maxLine(&r))
		}
		checkLine(t, line, false)
	})
}

func checkLine(t *testing.T, line []byte, unicode bool) {
	t.Helper()
	if bytes.IndexByte(line, '\n') != len(line)-1 || !utf8.Valid(line) {
		t.Errorf("not one line of UTF-8: %q", line)
	}
	for _, r := range string(line[:len(line)-1]) {
		if r < ' ' || r >= 0x7f && r <= 0x9f || r > 0x9f && !unicode {
			t.Errorf("%U in %q", r, line)
		}
	}
}

// output is a file in memory that can be made to wait or fail.
type output struct {
	mu     sync.Mutex
	data   bytes.Buffer
	gate   chan struct{} // a write takes one, unless nil
	fail   func(p []byte) (int, error)
	closed bool
}

func (o *output) Write(p []byte) (int, error) {
	if o.gate != nil {
		<-o.gate
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		n, err := o.fail(p)
		o.data.Write(p[:n])
		return n, err
	}
	return o.data.Write(p)
}

func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	return nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

func openTo(t *testing.T, l *AccessLogs, o *output) *AccessLog {
	t.Helper()
	a, err := l.acquire("memory", func() (io.WriteCloser, error) { return o, nil })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func closeLogs(t *testing.T, l *AccessLogs) {
	t.Helper()
	if err := l.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestAccessLogWrittenWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewAccessLogs(newTestMetrics(), slog.New(slog.DiscardHandler), 0)
		o := &output{}
		a := openTo(t, l, o)
		f, r := format(t, "json"), testRecord()
		for i := range 3 {
			if !a.Append(f, &r) {
				t.Error("not taken")
			}
			time.Sleep(time.Second)
			if n := strings.Count(o.String(), "\n"); n != i+1 {
				t.Errorf("%d lines after %d s", n, i+1)
			}
		}
		a.Append(f, &r)
		closeLogs(t, l)
		if n := strings.Count(o.String(), "\n"); n != 4 || !o.closed {
			t.Errorf("%d lines after Close", n)
		}
		if a.Append(f, &r) || l.metrics.AccessLogDropped.Value() != 1 || l.metrics.AccessLogLines.Value() != 4 {
			t.Error("a line after Close is not counted as dropped")
		}
		if _, err := l.Open(nil, "stdout"); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Open after Close: %v", err)
		}
		closeLogs(t, l)
	})
}

// While the output waits, lines beyond the buffer are dropped and counted, the others are written later; no request waits.
func TestAccessLogBlockedOutputDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewAccessLogs(newTestMetrics(), slog.New(slog.DiscardHandler), 0)
		o := &output{gate: make(chan struct{})}
		a := openTo(t, l, o)
		f, r := format(t, "json"), testRecord()
		taken, dropped := 0, 0
		for dropped < 100 {
			if a.Append(f, &r) {
				taken++
			} else {
				dropped++
			}
			if taken > 1e6 {
				t.Fatal("the buffer has no bound")
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close does not give up: %v", err)
		}
		if err := a.reopen(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("reopen does not give up: %v", err)
		}
		close(o.gate)
		closeLogs(t, l)
		m := l.metrics
		if n := strings.Count(o.String(), "\n"); n != taken || m.AccessLogLines.Value() != uint64(taken) || m.AccessLogDropped.Value() != uint64(dropped) {
			t.Errorf("%d lines written, %d taken, %d dropped; metrics %d, %d", n, taken, dropped, m.AccessLogLines.Value(), m.AccessLogDropped.Value())
		}
	})
}

func TestAccessLogFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var operator bytes.Buffer
		log, _, err := NewLogger(&operator, "info", "json")
		if err != nil {
			t.Fatal(err)
		}
		l := NewAccessLogs(newTestMetrics(), log, 0)
		o := &output{fail: func(p []byte) (int, error) { return len(p) / 2, errors.New("no space left on device") }}
		a := openTo(t, l, o)
		f, r := format(t, "json"), testRecord()
		for range 3 {
			a.Append(f, &r)
			time.Sleep(time.Second)
		}
		if n := strings.Count(operator.String(), "\n"); n != 1 || !strings.Contains(operator.String(), "no space left") {
			t.Errorf("the operator reads: %s", operator.String())
		}
		o.mu.Lock()
		o.fail = nil
		o.mu.Unlock()
		a.Append(f, &r)
		closeLogs(t, l)
		m := l.metrics
		if m.AccessLogLines.Value() != 1 || m.AccessLogDropped.Value() != 3 || m.AccessLogErrors.Value() != 3 {
			t.Errorf("lines %d, dropped %d, errors %d", m.AccessLogLines.Value(), m.AccessLogDropped.Value(), m.AccessLogErrors.Value())
		}
		lines := strings.Split(strings.TrimSpace(o.String()), "\n")
		if last := lines[len(lines)-1]; !json.Valid([]byte(last)) {
			t.Errorf("a line cut by the full disk spoils the next: %q", last)
		}
	})
}

// Many writers, rotation in between: every line is in one of the files, whole, and once.
func TestAccessLogRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	m := newTestMetrics()
	l := NewAccessLogs(m, slog.New(slog.DiscardHandler), 64<<20)
	g := m.Begin()
	a, err := l.Open(g, path)
	if err != nil {
		t.Fatal(err)
	}
	next := m.Begin() // a reload keeps the output
	if same, err := l.Open(next, path); err != nil || same != a {
		t.Fatalf("a second output for the same path: %v", err)
	}
	g.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	const workers, each, rotations = 8, 1000, 5
	f := format(t, "json")
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := testRecord()
			for i := range each {
				r.RequestID = fmt.Appendf(nil, "%d-%d", w, i)
				if !a.Append(f, &r) {
					t.Error("dropped")
				}
			}
		})
	}
	for i := range rotations {
		if err := os.Rename(path, fmt.Sprint(path, i)); err != nil {
			t.Error(err)
		}
		if err := l.Reopen(context.Background()); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	next.Close() // the last lease: what waits is written all the same
	closeLogs(t, l)

	seen := map[string]bool{}
	files, _ := filepath.Glob(path + "*")
	if len(files) != rotations+1 {
		t.Errorf("files: %v", files)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var r struct {
				ID string `json:"request_id"`
			}
			if err := json.Unmarshal(line, &r); err != nil || seen[r.ID] {
				t.Fatalf("%v or twice: %q", err, line)
			}
			seen[r.ID] = true
		}
	}
	if len(seen) != workers*each || m.AccessLogLines.Value() != workers*each || m.AccessLogDropped.Value() != 0 {
		t.Errorf("%d lines in files, %d counted, want %d", len(seen), m.AccessLogLines.Value(), workers*each)
	}
}

// A reload that leaves an output out and one that brings it back, with an exchange still logging to the old one.
func TestAccessLogGivenBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	m := newTestMetrics()
	l := NewAccessLogs(m, slog.New(slog.DiscardHandler), 0)
	f, r := format(t, "combined"), testRecord()
	var old *AccessLog
	for i := range 3 {
		g := m.Begin()
		a, err := l.Open(g, path)
		if err != nil || a == old {
			t.Fatalf("not a new output: %v", err)
		}
		if !a.Append(f, &r) {
			t.Error("not taken")
		}
		g.Close()
		<-a.done
		if a.Append(f, &r) || m.AccessLogDropped.Value() != uint64(i+1) {
			t.Error("a line after the last lease is not counted as dropped")
		}
		old = a
	}
	if n := len(l.ending); n != 1 {
		t.Errorf("%d ended outputs are remembered", n)
	}
	closeLogs(t, l)
	if data, err := os.ReadFile(path); err != nil || bytes.Count(data, newline) != 3 {
		t.Errorf("have %q, %v", data, err)
	}
}

func TestAccessLogFailure(t *testing.T) {
	dir := t.TempDir()
	m := newTestMetrics()
	l := NewAccessLogs(m, slog.New(slog.DiscardHandler), 0)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(nil, filepath.Join(file, "access.log")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
	sub := filepath.Join(dir, "made", "on", "the", "way")
	a, err := l.Open(nil, filepath.Join(sub, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	// The folder gives way to a file, so that the log can not be made anew.
	moved := filepath.Join(dir, "moved")
	if err := os.Rename(sub, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sub, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(context.Background()); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
	r := testRecord()
	a.Append(format(t, "json"), &r)
	closeLogs(t, l)
	if data, err := os.ReadFile(filepath.Join(moved, "access.log")); err != nil || bytes.Count(data, newline) != 1 {
		t.Errorf("the file that could not be reopened is no longer written: %v", err)
	}
}

// Eight bytes at a time give what one at a time does, whatever stands where.
func TestPlainUpTo(t *testing.T) {
	for length := range 27 {
		for at := range length {
			for c := range 256 {
				text := []byte(strings.Repeat("~", length))
				text[at] = byte(c)
				want := length
				if !plainJSON[c] {
					want = at
				}
				for from := range at + 1 {
					if got := plainUpTo(string(text), from); got != want {
						t.Fatalf("%q from %d: %d, want %d", text, from, got, want)
					}
				}
			}
		}
	}
}
