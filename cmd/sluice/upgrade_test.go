package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// upgrade waits until a successor serves, and returns its process. Both write to one log.
func (r *running) upgrade(t *testing.T, pid int) int {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	for r.lines.Scan() {
		var entry struct {
			Msg     string
			Process int
			Error   string
		}
		if err := json.Unmarshal(r.lines.Bytes(), &entry); err != nil {
			t.Fatalf("not a JSON log line: %s", r.lines.Text())
		}
		switch entry.Msg {
		case "handed over":
			t.Cleanup(func() { _ = syscall.Kill(entry.Process, syscall.SIGKILL) })
			return entry.Process
		case "the new binary does not serve; this process goes on":
			t.Fatal(entry.Error)
		}
	}
	t.Fatal("the log ended")
	return 0
}

// alive tells whether a process runs.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

// TestUpgrade: no request fails while one binary after another takes over, neither on
// connections that stay open nor on new ones, by TCP and by a Unix socket.
func TestUpgrade(t *testing.T) {
	socket := t.TempDir() + "/s"
	path := write(t, "sluice.yaml", strings.Replace(respond, "listeners: {", "listeners: {local: {address: \"unix:"+socket+"\"}, ", 1))
	r := launch(t, sluice(t, nil, "run", "-c", path, "--watch=false", "--drain-delay", "1h"))
	address := strings.Fields(strings.TrimPrefix(r.url, "http://"))
	var tcp string
	for _, a := range address {
		if strings.Contains(a, "127.0.0.1:") {
			tcp = a
		}
	}

	var served atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	ask := func(name string, c *http.Client, url string) {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := c.Get(url)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(body) != "hello\n" {
					t.Errorf("%s: %d %q %v", name, res.StatusCode, body, err)
					return
				}
				served.Add(1)
			}
		})
	}
	unix := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	ask("kept", &http.Client{Transport: &http.Transport{}}, "http://"+tcp+"/hello")
	ask("new", &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+tcp+"/hello")
	ask("unix", &http.Client{Transport: unix}, "http://x/hello")

	first := r.Process.Pid
	pid := first
	for range 5 {
		before := served.Load()
		pid = r.upgrade(t, pid)
		for served.Load() < before+100 && !t.Failed() {
		}
	}
	close(stop)
	load.Wait()
	if status, body := fetch(t, r.admin+"/health"); status != 200 || !strings.Contains(body, `"healthy"`) {
		t.Error(status, body)
	}
	_, _ = r.Process.Wait() // Wait of the command would close the log
	if alive(first) || !alive(pid) {
		t.Errorf("the first process lives: %v, the last: %v", alive(first), alive(pid))
	}

	// A binary that can not serve changes nothing.
	if err := os.WriteFile(path, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	refused := r.waitPlain(t, "the new binary does not serve; this process goes on")
	if !strings.Contains(refused, "exit status 1") {
		t.Error(refused)
	}
	if status, body := fetch(t, "http://"+tcp+"/hello"); status != 200 {
		t.Error(status, body)
	}
}

// waitPlain reads the log up to a message, past what is no JSON, and returns the line.
func (r *running) waitPlain(t *testing.T, message string) string {
	t.Helper()
	for r.lines.Scan() {
		if strings.Contains(r.lines.Text(), message) {
			return r.lines.Text()
		}
	}
	t.Fatal("the log ended without " + message)
	return ""
}

// TestSocketActivation starts the command as systemd does, with sockets that are open.
func TestSocketActivation(t *testing.T) {
	byName, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer byName.Close()
	byAddress, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer byAddress.Close()
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: t.TempDir() + "/notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, "sluice.yaml", `
listeners: {main: {address: "127.0.0.1:1"}, other: {address: "`+byAddress.Addr().String()+`"}}
admin: off
routes: {hello: {match: {paths: [/hello]}, respond: {body: "hello\n"}}}
`)
	c := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" run -c "$1" --drain-delay 1ms`, self, path)
	for _, ln := range []net.Listener{byName, byAddress} {
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.ExtraFiles = append(c.ExtraFiles, f)
	}
	c.Env = append(os.Environ(), "SLUICE_TEST_MAIN=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=main:unknown", "NOTIFY_SOCKET="+notified.LocalAddr().String())
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill() })
	said := make([]byte, 256)
	n, err := notified.Read(said)
	if want := fmt.Sprintf("MAINPID=%d\nREADY=1", c.Process.Pid); err != nil || string(said[:n]) != want {
		t.Errorf("systemd was told %q, %v; want %q", said[:n], err, want)
	}
	for _, ln := range []net.Listener{byName, byAddress} {
		if status, body := fetch(t, "http://"+ln.Addr().String()+"/hello"); status != 200 || body != "hello\n" {
			t.Error(status, body)
		}
	}
	_ = c.Process.Signal(syscall.SIGTERM)
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	// The sockets are systemd's: who comes now waits for the next start.
	conn, err := net.Dial("tcp", byName.Addr().String())
	if err != nil {
		t.Fatal("the socket does not take connections any more: ", err)
	}
	conn.Close()
}
