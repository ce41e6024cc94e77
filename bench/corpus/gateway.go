//go:build linux

package main

import (
	"context"
	"embed"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"sluice/bench/program"
)

//go:embed config/*.tmpl
var configs embed.FS

// gateway is a program that the corpus is sent to.
type gateway struct {
	name, version string
	binary        string
	template      string
	args          func(config string) []string
}

// assemble builds sluice, and finds or installs its peers.
func assemble(ctx context.Context, dir string) ([]*gateway, error) {
	binary, err := program.Sluice(ctx, dir)
	if err != nil {
		return nil, err
	}
	all := []*gateway{
		{
			name: "sluice", binary: binary, version: program.Version(binary, "version"), template: "sluice.yaml.tmpl",
			args: func(config string) []string {
				return []string{"run", "-c", config, "--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s"}
			},
		},
		{
			name: "nginx", template: "nginx.conf.tmpl",
			args: func(config string) []string {
				return []string{"-c", config, "-e", filepath.Join(filepath.Dir(config), "error.log")}
			},
		},
		{
			name: "haproxy", template: "haproxy.cfg.tmpl",
			args: func(config string) []string { return []string{"-db", "-f", config} },
		},
	}
	for _, g := range all[1:] {
		if g.binary, err = program.Find(ctx, g.name, g.name, true); err != nil {
			return nil, err
		}
		g.version = program.Version(g.binary, "-v")
	}
	return all, nil
}

// settings are what a template is filled with.
type settings struct{ Dir, User, Listen, Admin, Backend string }

// start runs a gateway in front of a backend until stop is called.
func (g *gateway) start(ctx context.Context, dir string, backend net.Listener) (address string, stop func(), err error) {
	if dir, err = os.MkdirTemp(dir, g.name+"-"); err != nil {
		return "", nil, err
	}
	ports, err := program.Ports(2)
	if err != nil {
		return "", nil, err
	}
	s := settings{Dir: dir, User: "nobody", Listen: ports[0], Admin: ports[1], Backend: backend.Addr().String()}
	if u, err := user.Current(); err == nil {
		s.User = u.Username
	}
	config, err := program.Render(configs, "config/"+g.template, dir, s)
	if err != nil {
		return "", nil, err
	}
	r, err := program.Start(g.name, dir, g.binary, g.args(config)...)
	if err != nil {
		return "", nil, err
	}
	return s.Listen, r.Stop, r.Await(ctx, func(ctx context.Context) error { return ready(ctx, s.Listen) })
}

// ready asks for anything, on a connection of its own.
func ready(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/ready", http.NoBody)
	if err != nil {
		return err
	}
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// configuration is a template without its comments, for the report.
func (g *gateway) configuration() (string, error) {
	b, err := configs.ReadFile("config/" + g.template)
	if err != nil {
		return "", err
	}
	var s strings.Builder
	for line := range strings.Lines(string(b)) {
		if !strings.HasPrefix(line, "#") {
			s.WriteString(line)
		}
	}
	return s.String(), nil
}
