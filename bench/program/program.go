//go:build linux

// Package program finds or installs, starts, watches and ends the programs that
// benchmarks put side by side, and says what they use of the machine. Nothing
// that it starts outlives the run.
package program

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// Sluice builds the gateway of this tree into dir and returns its path.
func Sluice(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "sluice")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+git(ctx, "describe", "--always", "--dirty", "--tags")+" -X main.commit="+git(ctx, "rev-parse", "HEAD"), "-o", binary, "sluice/cmd/sluice")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build sluice: %w\n%s", err, out)
	}
	return binary, nil
}

// git says what state of the tree sluice is built from.
func git(ctx context.Context, args ...string) string {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// Version is the first line that a program says of itself.
func Version(binary string, args ...string) string {
	out, _ := exec.Command(binary, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// Find is the path of a program. Where there is none and install is set,
// Debian's package is installed for it.
func Find(ctx context.Context, name, debian string, install bool) (string, error) {
	look := func() (string, error) {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
		return exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if p, err := look(); err == nil || !install {
		return p, err
	}
	fmt.Fprintf(os.Stderr, "installing %s\n", debian)
	// A service of it is not to be started: that is what this package is for.
	const policy = "/usr/sbin/policy-rc.d"
	if f, err := os.OpenFile(policy, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755); err == nil {
		_, _ = f.WriteString("#!/bin/sh\nexit 101\n")
		f.Close()
		defer func() { _ = os.Remove(policy) }()
	}
	apt := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		return cmd.CombinedOutput()
	}
	_, _ = apt("update", "-q")
	if out, err := apt("install", "-y", "-q", "--no-install-recommends", debian); err != nil {
		return "", fmt.Errorf("cannot install %s: %w: %s", debian, err, lastLine(out))
	}
	return look()
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// Ports are n addresses of 127.0.0.1 that nobody listens on.
func Ports(n int) ([]string, error) {
	var all []string
	for range n {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = ln.Close() }() // the next is to be another
		all = append(all, ln.Addr().String())
	}
	return all, nil
}

// Render fills a template of a configuration and writes it to dir, under the
// template's name without ".tmpl".
func Render(templates fs.FS, name, dir string, settings any) (string, error) {
	t, err := template.ParseFS(templates, name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, settings); err != nil {
		return "", err
	}
	path := filepath.Join(dir, strings.TrimSuffix(filepath.Base(name), ".tmpl"))
	return path, os.WriteFile(path, b.Bytes(), 0o644)
}

// Running is a program that was started, with all processes that it starts.
type Running struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
	log   string // file of its output
}

// Start runs a program in dir, where its output goes to output.log.
func Start(name, dir, binary string, args ...string) (*Running, error) {
	r := &Running{name: name, ended: make(chan struct{}), log: filepath.Join(dir, "output.log")}
	out, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	r.cmd = exec.Command(binary, args...)
	r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = dir, out, out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s does not start: %w", name, err)
	}
	go func() {
		_ = r.cmd.Wait()
		close(r.ended)
	}()
	return r, nil
}

// Await returns when ask does without an error, or ends the program.
func (r *Running) Await(ctx context.Context, ask func(context.Context) error) error {
	err := r.await(ctx, ask)
	if err != nil {
		r.Stop()
	}
	return err
}

func (r *Running) await(ctx context.Context, ask func(context.Context) error) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.ended:
			out, _ := os.ReadFile(r.log)
			return fmt.Errorf("%s ended at once:\n%s", r.name, out)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(r.log)
			return fmt.Errorf("%s does not answer: %w\n%s", r.name, err, out)
		}
	}
}

// Processes are all of the program's.
func (r *Running) Processes() []int { return Tree(r.cmd.Process.Pid) }

// Stop ends the program with all its processes.
func (r *Running) Stop() {
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(3 * time.Second):
	}
	// It is the leader of a group, which its workers are in.
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	<-r.ended
}
