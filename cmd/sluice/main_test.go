package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the command: with SLUICE_TEST_MAIN set it
// runs main instead of the tests.
func TestMain(m *testing.M) {
	if os.Getenv("SLUICE_TEST_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// sluice is the command with these arguments, not yet started.
func sluice(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self, args...)
	c.Env = append(append(os.Environ(), "SLUICE_TEST_MAIN=1"), env...)
	return c
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const respond = `
listeners: {main: {address: "127.0.0.1:0"}}
admin: {address: "127.0.0.1:0"}
routes: {hello: {match: {paths: [/hello]}, respond: {status: 200, body: "hello\n"}}}
`

func TestCommands(t *testing.T) {
	good, bad := write(t, "good.yaml", respond), write(t, "bad.yaml", "routs: {}\nlimits: {idle_timeout: soon}\n")
	f := func(wantCode int, wantOut string, args ...string) {
		t.Helper()
		c := sluice(t, nil, args...)
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatal(err)
		}
		if code := c.ProcessState.ExitCode(); code != wantCode || !regexp.MustCompile(wantOut).Match(out) {
			t.Fatalf("sluice %s: code %d, want %d; output %s", strings.Join(args, " "), code, wantCode, out)
		}
	}
	f(0, `sluice .*\n.*go1.*\nfasthttp v1\.`, "version")
	f(0, `"\$schema"`, "schema")
	f(0, `is valid: 1 routes`, "validate", "-c", good)
	f(1, `bad.yaml:1:1: routs: .*did you mean routes`, "validate", "-c", bad)
	f(1, `bad.yaml:2:24: limits.idle_timeout: `, "validate", "-c", bad)
	// Every error at once, also those that only who builds a policy knows.
	both := write(t, "both.yaml", respond+"nope: 1\npolicies: {rate_limit: {requests: 1, per: 1fortnight}, frob: {}}\nplans: {p: {quota: {requests: no, per: day}}, q: , r: 5}\nconsumers: {c: , d: 5}\n")
	for _, want := range []string{`: nope: unknown`, `policies.rate_limit.per: "1fortnight" is not a duration`, `policies.frob: is not a policy`, `plans.p.quota.requests: "no"`, `plans.r: `, `consumers.d: `} {
		f(1, want, "validate", "-c", both)
	}
	f(1, `no such file`, "validate", "-c", "/nonexistent.yaml")
	f(2, `which configuration`, "validate")
	f(2, `sluice validate has no flag --nope; sluice validate --help lists them`, "validate", "--nope")
	f(2, `sluice run has no flag --lissten; did you mean --listen\?`, "run", "--lissten", ":1")
	f(2, `unknown command "frobnicate"; sluice --help lists them`, "frobnicate")
	f(2, `unknown command "frobnicate"; sluice --help lists them`, "help", "frobnicate")
	f(0, "", "help", "validate")
	f(2, `unknown command "rnu"; did you mean run\?`, "rnu")
	f(2, `sluice diff takes the arguments OLD NEW, and was given "a"; write it as sluice diff OLD NEW \[flags\]`, "diff", "a")
	f(2, `sluice explain takes the arguments METHOD URL, and was given none`, "explain")
	f(2, `sluice validate takes no arguments, and was given "x"; write it as sluice validate -c FILE`, "validate", "-c", good, "x")
	f(2, `sluice token takes no arguments, and was given 2, \["x" "y"\]`, "token", "x", "y")
	f(2, `sluice convert takes the arguments kong.yml\|openapi.yaml, and was given none`, "convert")
	f(2, `sluice keys rotate takes the arguments CONSUMER ID, and was given "alice"`, "keys", "rotate", "alice")
	f(2, `which of create, list, rotate, revoke, link, unlink\?`, "keys")
	f(1, `no gateway answers at 127.0.0.1:1: `, "keys", "list", "alice", "--admin-address", "127.0.0.1:1")
	f(1, `no gateway answers at 127.0.0.1:1: `, "top", "--admin-address", "127.0.0.1:1")
	f(2, `must be PATH=VALUE`, "validate", "-c", good, "--set", "limits")
	f(0, `\.`, "token", "--sub", "x", "--secret", "s", "--ttl", "1d")
	f(0, `\.`, "token", "--sub", "x", "--secret", "s", "--ttl", "-1h")
	f(2, `--secret S or --key FILE`, "token", "--sub", "x")
	f(0, `^[\w-]+\.[\w-]+\.[\w-]+\n$`, "token", "--sub", "x", "--secret", "s", "--claim", "n=1", "--claim", "list=[1]")
	f(0, `hello`, "explain", "-c", good, "GET", "http://x/hello")
	f(2, `must be HOST:PORT=ADDR:PORT`, "run", "-c", good, "--resolve", "x")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	f(3, `cannot listen on`, "run", "-c", good, "--listen", taken.Addr().String())
	f(3, `admin`, "run", "-c", good, "--admin-address", taken.Addr().String())
}

func TestFlagBeatsEnvironment(t *testing.T) {
	c := sluice(t, []string{"SLUICE_CONFIG=" + write(t, "good.yaml", respond), "SLUICE_SET=limits.idle_timeout=nonsense,limits.stall_timeout=1s"}, "validate")
	out, _ := c.CombinedOutput()
	if c.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "limits.idle_timeout") {
		t.Fatalf("%s", out)
	}
	c = sluice(t, []string{"SLUICE_CONFIG=/nonexistent"}, "validate", "-c", write(t, "good.yaml", respond))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// running is a gateway process whose log is read.
type running struct {
	*exec.Cmd
	lines *bufio.Scanner
	url   string
	admin string
}

func launch(t *testing.T, c *exec.Cmd) *running {
	t.Helper()
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	r := &running{Cmd: c, lines: bufio.NewScanner(stderr)}
	ready := r.waitFor(t, "sluice is ready")
	r.url, r.admin = "http://"+ready["listen"], "http://"+ready["admin"]
	return r
}

// waitFor reads the log up to a message.
func (r *running) waitFor(t *testing.T, message string) map[string]string {
	t.Helper()
	var seen []string
	for r.lines.Scan() {
		var entry map[string]any
		if err := json.Unmarshal(r.lines.Bytes(), &entry); err != nil {
			t.Fatalf("not a JSON log line: %s", r.lines.Text())
		}
		seen = append(seen, r.lines.Text())
		if entry["msg"] == message {
			fields := make(map[string]string)
			for k, v := range entry {
				if s, ok := v.(string); ok {
					fields[k] = s
				}
			}
			return fields
		}
	}
	t.Fatalf("the log ended without %q: %s", message, strings.Join(seen, "\n"))
	return nil
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestRunReloadDrain(t *testing.T) {
	path := write(t, "sluice.yaml", respond)
	r := launch(t, sluice(t, []string{"SLUICE_DRAIN_DELAY=1ms"}, "run", "-c", path, "--watch=false"))
	if status, body := fetch(t, r.url+"/hello"); status != 200 || body != "hello\n" {
		t.Fatal(status, body)
	}
	if status, body := fetch(t, r.admin+"/health"); status != 200 || !strings.Contains(body, `"healthy"`) {
		t.Fatal(status, body)
	}

	if err := os.WriteFile(path, []byte(strings.Replace(respond, "hello\\n", "again\\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = r.Process.Signal(syscall.SIGHUP)
	r.waitFor(t, "the configuration was reloaded")
	if _, body := fetch(t, r.url+"/hello"); body != "again\n" {
		t.Fatal(body)
	}

	// A broken file leaves the running configuration alone and is reported.
	if err := os.WriteFile(path, []byte("routes: {hello: {}}\nnonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = r.Process.Signal(syscall.SIGHUP)
	r.waitFor(t, "the configuration was not reloaded; the running one stays in force")
	if _, body := fetch(t, r.url+"/hello"); body != "again\n" {
		t.Fatal(body)
	}
	if _, body := fetch(t, r.admin+"/metrics"); !strings.Contains(body, `sluice_config_reloads_total{result="failure"} 1`) {
		t.Fatal("the failure is not counted")
	}
	if _, body := fetch(t, r.admin+"/api/config"); !strings.Contains(body, "nonsense") {
		t.Fatal("the API does not say why: " + body)
	}

	_ = r.Process.Signal(syscall.SIGTERM)
	r.waitFor(t, "draining")
	for r.lines.Scan() {
	}
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	path := write(t, "sluice.yaml", respond)
	r := launch(t, sluice(t, nil, "run", "-c", path, "--drain-delay", "1ms"))
	if err := os.WriteFile(path, []byte(strings.Replace(respond, "hello\\n", "watched\\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, "the configuration was reloaded")
	if _, body := fetch(t, r.url+"/hello"); body != "watched\n" {
		t.Fatal(body)
	}
	_ = r.Process.Signal(syscall.SIGINT)
	for r.lines.Scan() {
	}
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestDemo pastes the lines that the demo prints.
func TestDemo(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("the lines are for curl, which is not here; make test installs it")
	}
	c := sluice(t, nil, "demo", "--listen", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--drain-delay", "1ms")
	var out bytes.Buffer
	reader, writer := io.Pipe()
	c.Stdout = writer
	r := launch(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			out.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "/metrics") {
				return
			}
		}
	}()
	<-done
	token := regexp.MustCompile(`TOKEN=(\S+)`).FindString(out.String())
	commands := regexp.MustCompile(`(?m)^  (curl -i .*)   # (\d*)`).FindAllStringSubmatch(out.String(), -1)
	if token == "" || len(commands) < 4 {
		t.Fatalf("no tour in %s", out.String())
	}
	for _, m := range commands {
		sh := exec.CommandContext(t.Context(), "sh", "-c", token+"; "+m[1])
		answer, err := sh.Output()
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+m[2]) {
			t.Errorf("%s: %v %s", m[1], err, answer)
		}
	}
	_ = r.Process.Signal(syscall.SIGTERM)
	for r.lines.Scan() {
	}
	_ = writer.Close()
	deadline := time.AfterFunc(time.Minute, func() { _ = r.Process.Kill() })
	defer deadline.Stop()
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}
