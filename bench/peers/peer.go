//go:build linux

package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed config/*.tmpl
var configs embed.FS

// gateway is a program that is measured.
type gateway struct {
	name, version string
	binary        string
	template      string
	args          func(config string) []string
	modes         []mode
}

func (g *gateway) does(m mode) bool { return slices.Contains(g.modes, m) }

const subject = "sluice" // what the peers are compared with

// assemble finds, installs and builds what is to be measured; sluice is first.
func assemble(ctx context.Context, o options, dir string) ([]*gateway, error) {
	wanted := func(name string) bool { return len(o.gateways) == 0 || slices.Contains(o.gateways, name) }
	var all []*gateway
	if wanted(subject) {
		binary := filepath.Join(dir, "sluice")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+describe(ctx), "-o", binary, "sluice/cmd/sluice")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cannot build sluice: %w\n%s", err, out)
		}
		all = append(all, sluice(subject, binary))
	}
	for _, also := range o.also {
		name, binary, ok := strings.Cut(also, "=")
		if !ok {
			return nil, fmt.Errorf("-also %q: must be NAME=BINARY", also)
		}
		all = append(all, sluice(name, binary))
	}
	for _, g := range []*gateway{
		{
			name: "nginx", template: "nginx.conf.tmpl",
			args: func(config string) []string {
				return []string{"-c", config, "-e", filepath.Join(filepath.Dir(config), "error.log")}
			},
			modes: []mode{proxying, limiting, caching, secure},
		},
		{
			name: "haproxy", template: "haproxy.cfg.tmpl",
			args:  func(config string) []string { return []string{"-db", "-f", config} },
			modes: []mode{proxying, limiting, tokens, caching, secure},
		},
	} {
		if !wanted(g.name) {
			continue
		}
		var err error
		if g.binary, err = find(ctx, g.name, !o.skipIn); err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %s\n", g.name, err)
			continue
		}
		g.version = versionOf(g.binary, "-v")
		all = append(all, g)
	}
	if len(all) == 0 {
		return nil, errors.New("no gateway to measure")
	}
	return all, nil
}

// describe names the state of the tree that sluice is built from.
func describe(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--tags").Output()
	if err != nil {
		return "dev"
	}
	return strings.TrimSpace(string(out))
}

func sluice(name, binary string) *gateway {
	return &gateway{
		name: name, binary: binary, version: versionOf(binary, "version"), template: "sluice.yaml.tmpl",
		args: func(config string) []string {
			return []string{"run", "-c", config, "--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s"}
		},
		modes: []mode{proxying, limiting, tokens, caching, secure},
	}
}

// versionOf is the first line that a program says of itself.
func versionOf(binary string, args ...string) string {
	out, _ := exec.Command(binary, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// find is the path of a program, which Debian's package of that name is
// installed for.
func find(ctx context.Context, name string, install bool) (string, error) {
	look := func() (string, error) {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
		return exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if p, err := look(); err == nil || !install {
		return p, err
	}
	fmt.Fprintf(os.Stderr, "installing %s\n", name)
	// Its service is not to be started: that is what this file is for.
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
	if out, err := apt("install", "-y", "-q", "--no-install-recommends", name); err != nil {
		return "", fmt.Errorf("cannot install it: %w: %s", err, lastLine(out))
	}
	return look()
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// settings are what a template is filled with.
type settings struct {
	Mode                                      mode
	Low                                       bool // a limit of 5 in 10 s, to see that it holds
	Dir, User, Listen, Admin, Backend, Secret string
	Connections, Files                        int
}

// instance is a gateway that runs.
type instance struct {
	*gateway
	settings
	cmd   *exec.Cmd
	ended chan struct{}
	log   string // file of its output
}

// start runs a gateway on a core, and returns when it answers.
func (r *runner) start(ctx context.Context, g *gateway, m mode, low bool) (*instance, error) {
	dir, err := os.MkdirTemp(r.dir, g.name+"-")
	if err != nil {
		return nil, err
	}
	i := &instance{gateway: g, ended: make(chan struct{}), log: filepath.Join(dir, "output.log")}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	i.settings = settings{
		Mode: m, Low: low, Dir: dir, User: "nobody", Secret: secret, Backend: r.backend.addr, Listen: ports[0], Admin: ports[1],
		// The rest is for connections to the backend, which idle clients need none of.
		Connections: min(r.files-2000, 24_000), Files: r.files,
	}
	if u, err := user.Current(); err == nil {
		i.User = u.Username
	}
	config, err := i.render()
	if err == nil && m == secure {
		err = certify(dir)
	}
	if err != nil {
		return nil, err
	}
	out, err := os.Create(i.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	i.cmd = exec.Command(g.binary, g.args(config)...)
	i.cmd.Dir, i.cmd.Stdout, i.cmd.Stderr = dir, out, out
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := pinned(r.options.gatewayCore, i.cmd.Start); err != nil {
		return nil, fmt.Errorf("%s does not start: %w", g.name, err)
	}
	go func() {
		_ = i.cmd.Wait()
		close(i.ended)
	}()
	if err := i.await(ctx); err != nil {
		i.stop()
		return nil, err
	}
	return i, nil
}

func (i *instance) render() (string, error) {
	t, err := template.ParseFS(configs, "config/"+i.template)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, i.settings); err != nil {
		return "", err
	}
	path := filepath.Join(i.Dir, strings.TrimSuffix(i.template, ".tmpl"))
	return path, os.WriteFile(path, b.Bytes(), fs.FileMode(0o644))
}

// await waits until the gateway answers anything.
func (i *instance) await(ctx context.Context) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, _, _, err := i.do(ctx, http.MethodGet, "/300", "", nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-i.ended:
			out, _ := os.ReadFile(i.log)
			return fmt.Errorf("%s ended at once:\n%s", i.name, out)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(i.log)
			return fmt.Errorf("%s does not answer: %w\n%s", i.name, err, out)
		}
	}
}

// processes are all of the gateway's.
func (i *instance) processes() []int { return tree(i.cmd.Process.Pid) }

// stop ends the gateway with all its processes.
func (i *instance) stop() {
	_ = i.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-i.ended:
	case <-time.After(3 * time.Second):
	}
	// It is the leader of a group, which its workers are in.
	_ = syscall.Kill(-i.cmd.Process.Pid, syscall.SIGKILL)
	<-i.ended
	_ = os.RemoveAll(i.Dir)
}

// freePorts are addresses of 127.0.0.1 that nobody listens on.
func freePorts(n int) ([]string, error) {
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
