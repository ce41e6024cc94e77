// Package etcdtest runs a real etcd for tests, on free ports, with its data in a folder of the test.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/etcd"
)

// Server is an etcd of one member.
type Server struct {
	// URL of the clients' port.
	URL string

	t    testing.TB
	args []string
	mu   sync.Mutex
	cmd  *exec.Cmd
	out  bytes.Buffer
}

// Start starts etcd; it ends with the test. The program is `etcd` of the package etcd-server, which `make test` installs.
func Start(t testing.TB) *Server {
	t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal("etcd is not installed: `make tools-test` installs it (Debian: apt-get install etcd-server)")
	}
	dir := t.TempDir()
	for range 3 { // another program may take a port just now
		client, peer := "http://"+freeAddress(t), "http://"+freeAddress(t)
		s := &Server{URL: client, t: t, args: []string{
			program, "--name", "test", "--data-dir", filepath.Join(dir, "data"),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "test=" + peer,
			"--heartbeat-interval", "100", "--election-timeout", "1000", "--log-level", "error",
		}}
		if err = s.begin(); err == nil {
			t.Cleanup(s.Kill)
			return s
		}
		s.Kill()
	}
	t.Fatal(err)
	return nil
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing can cancel it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// begin runs the program and waits until it serves.
func (s *Server) begin() error {
	s.mu.Lock()
	s.cmd = exec.Command(s.args[0], s.args[1:]...) //nolint:gosec,noctx // ended by Kill
	s.cmd.Stderr, s.cmd.Stdout = &s.out, &s.out
	// It must not outlive the tests, whatever ends them.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := s.cmd.Start()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/health", nil)
		res, err := http.DefaultClient.Do(req)
		cancel()
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		if s.cmd.ProcessState != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("etcd does not serve: %s", s.out.String())
}

// Kill ends it at once, as a crash would; its data stays.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Restart starts it again on the same ports with the same data.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.begin(); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops it where it stands, so that connections stay and nothing answers; Resume has it go on.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Client returns a client of the server, which ends with the test.
func (s *Server) Client() *etcd.Client {
	s.t.Helper()
	c, err := etcd.Open(context.Background(), etcd.Settings{Servers: []string{s.URL}, Timeout: 5 * time.Second})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// Put writes a key.
func (s *Server) Put(key, value string) {
	s.t.Helper()
	if _, err := s.Client().Put(s.t.Context(), key, []byte(value), etcd.Any); err != nil {
		s.t.Fatal(err)
	}
}

// Delete removes a key.
func (s *Server) Delete(key string) {
	s.t.Helper()
	if err := s.Client().Delete(s.t.Context(), key); err != nil {
		s.t.Fatal(err)
	}
}

// Compact forgets all revisions before the present one.
func (s *Server) Compact() {
	s.t.Helper()
	c := s.Client()
	now, err := c.Get(s.t.Context(), "/")
	if err == nil {
		err = c.Compact(s.t.Context(), now.Revision)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
