//go:build linux

package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"sluice/bench/program"
)

//go:embed config/*.tmpl
var configs embed.FS

// gateway is a program that is measured.
type gateway struct {
	name, version string
	binary        string
	template      string
	beside        []string // templates of further files of the configuration
	args          func(config string) []string
	modes         []mode
	engine        string // of sluice; empty: its default
	observed      bool   // it traces every tenth request and keeps usage

	// What is no package of Debian is built from a Go module: the folder that pins
	// it, the name of what is pinned, and what is done to a copy of the folder
	// before it is built there, if anything.
	module, of string
	prepare    func(ctx context.Context, dir string) error
}

func (g *gateway) does(m mode) bool { return slices.Contains(g.modes, m) }

const (
	subject  = "sluice"          // what the peers are compared with
	looping  = "sluice-loop"     // the same with the engine loop
	observed = "sluice-observed" // the same with traces and usage
)

// assemble finds, installs and builds what is to be measured; sluice is first.
func assemble(ctx context.Context, o options, dir string) ([]*gateway, error) {
	wanted := func(name string) bool { return len(o.gateways) == 0 || slices.Contains(o.gateways, name) }
	var all []*gateway
	if slices.ContainsFunc([]string{subject, looping, observed}, wanted) {
		binary, err := program.Sluice(ctx, dir)
		if err != nil {
			return nil, err
		}
		loop, more := sluice(looping, binary), sluice(observed, binary)
		loop.modes, loop.engine = []mode{proxying, limiting, tokens, caching}, "loop"
		more.modes, more.observed = []mode{watching}, true
		for _, g := range []*gateway{sluice(subject, binary), loop, more} {
			if wanted(g.name) {
				all = append(all, g)
			}
		}
	}
	for _, also := range o.also {
		name, binary, ok := strings.Cut(also, "=")
		if !ok {
			return nil, fmt.Errorf("-also %q: must be NAME=BINARY", also)
		}
		binary, err := filepath.Abs(binary) // it is started in another folder
		if err != nil {
			return nil, err
		}
		all = append(all, sluice(name, binary))
	}
	for _, g := range []*gateway{
		{
			name: "nginx", template: "nginx.conf.tmpl",
			args: func(config string) []string {
				return []string{"-c", config, "-e", filepath.Join(filepath.Dir(config), "error.log")}
			},
			modes: []mode{proxying, limiting, caching, secure, multi, clear},
		},
		{
			name: "haproxy", template: "haproxy.cfg.tmpl",
			args:  func(config string) []string { return []string{"-db", "-f", config} },
			modes: []mode{proxying, limiting, tokens, caching, secure, multi, clear},
		},
		caddy(), traefik(),
	} {
		if !wanted(g.name) {
			continue
		}
		var err error
		if g.module != "" {
			g.binary, err = g.compile(ctx, !o.skipIn)
		} else if g.binary, err = program.Find(ctx, g.name, g.name, !o.skipIn); err == nil {
			g.version = program.Version(g.binary, "-v")
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %s\n", g.name, err)
			continue
		}
		all = append(all, g)
	}
	if len(all) == 0 {
		return nil, errors.New("no gateway to measure")
	}
	return all, nil
}

func sluice(name, binary string) *gateway {
	return &gateway{
		name: name, binary: binary, version: program.Version(binary, "version"), template: "sluice.yaml.tmpl",
		args: func(config string) []string {
			return []string{"run", "-c", config, "--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s"}
		},
		modes: []mode{proxying, limiting, tokens, watching, caching, secure, multi, clear},
	}
}

// settings are what a template is filled with.
type settings struct {
	Mode                                      mode
	Low                                       bool // a limit of 5 in 10 s, to see that it holds
	Engine                                    string
	Observed                                  bool // traces and usage
	Dir, User, Listen, Admin, Backend, Secret string
	Connections, Files                        int
}

// instance is a gateway that runs.
type instance struct {
	*gateway
	*program.Running
	settings
}

// start runs a gateway on a core, and returns when it answers.
func (r *runner) start(ctx context.Context, g *gateway, m mode, low bool) (*instance, error) {
	dir, err := os.MkdirTemp(r.dir, g.name+"-")
	if err != nil {
		return nil, err
	}
	i := &instance{gateway: g}
	ports, err := program.Ports(2)
	if err != nil {
		return nil, err
	}
	i.settings = settings{
		Mode: m, Low: low, Engine: g.engine, Observed: g.observed, Dir: dir, User: "nobody", Secret: secret, Backend: r.backend.addr, Listen: ports[0], Admin: ports[1],
		// The rest is for connections to the backend, which idle clients need none of.
		Connections: min(r.files-2000, 24_000), Files: r.files,
	}
	if u, err := user.Current(); err == nil {
		i.User = u.Username
	}
	config, err := i.render()
	if err == nil && m.secured() {
		err = program.Certify(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := program.Pinned(r.options.gatewayCore, func() error {
		i.Running, err = program.Start(g.name, dir, g.binary, g.args(config)...)
		return err
	}); err != nil {
		return nil, err
	}
	return i, i.Await(ctx, func(ctx context.Context) error {
		status, _, _, err := i.do(ctx, http.MethodGet, "/300", "", nil)
		if status == http.StatusNotFound { // Traefik listens before it has its routes
			return errors.New("no route yet")
		}
		return err
	})
}

// render writes the configuration and returns its path.
func (i *instance) render() (string, error) {
	for _, template := range i.beside {
		if _, err := program.Render(configs, "config/"+template, i.Dir, i.settings); err != nil {
			return "", err
		}
	}
	return program.Render(configs, "config/"+i.template, i.Dir, i.settings)
}

// stop ends the gateway with all its processes.
func (i *instance) stop() {
	i.Stop()
	_ = os.RemoveAll(i.Dir)
}
