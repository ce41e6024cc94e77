//go:build linux

// Command cachesuite has the public HTTP cache test suite (http-cache-tests of
// npm, the one of cache-tests.fyi) try Sluice as a shared cache in front of the
// suite's own origin. It writes what came of each test, and fails where one that
// passed does not any more, or fails without a reason that is written down.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"sluice/bench/program"
)

//go:embed config/sluice.yaml.tmpl
var configs embed.FS

func main() {
	var s settings
	flag.StringVar(&s.out, "out", filepath.Join("bench", "results"), "folder of cache.md and cache.csv")
	flag.StringVar(&s.suite, "suite", "", "folder of another version of the suite; nothing is written and nothing compared then")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, s)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cachesuite:", err)
		os.Exit(1)
	}
}

type settings struct{ out, suite string }

// home is where the suite is installed, seen from the root of the repository.
var home = filepath.Join("bench", "cachesuite", "suite")

func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp("", "sluice-cachesuite-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	node, err := install(ctx)
	if err != nil {
		return err
	}
	suite := s.suite
	if suite == "" {
		suite = filepath.Join(home, "node_modules", "http-cache-tests")
	}
	if suite, err = filepath.Abs(suite); err != nil {
		return err
	}
	binary, err := program.Sluice(ctx, dir)
	if err != nil {
		return err
	}
	base, stop, err := start(ctx, dir, node, suite, binary)
	if err != nil {
		return err
	}
	defer stop()

	fmt.Fprintln(os.Stderr, "the suite takes some fifteen seconds")
	results, err := try(ctx, node, suite, base)
	if err != nil {
		return err
	}
	r := report{results: results, sluice: program.Version(binary, "version"), suite: version(suite)}
	if s.suite != "" {
		r.write(os.Stdout)
		return nil
	}
	before, err := readOutcomes(s.out)
	if err != nil {
		return err
	}
	// The tests wait for whole seconds to go by: on a machine that stood still one
	// fails that passes when it is asked alone.
	if again := r.worse(before); len(again) > 0 {
		alone, err := try(ctx, node, suite, base, again...)
		if err != nil {
			return err
		}
		r.replace(alone)
	}
	if err := r.verdict(before); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, r.summary())
	return r.save(s.out)
}

// install sees to node, npm and the suite of the lock file.
func install(ctx context.Context) (node string, err error) {
	if node, err = program.Find(ctx, "node", "nodejs", true); err != nil {
		return "", err
	}
	npm, err := program.Find(ctx, "npm", "npm", true)
	if err != nil {
		return "", err
	}
	if fresh() {
		return node, nil
	}
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = home
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot install the suite: %w\n%s", err, out)
	}
	return node, nil
}

// fresh tells whether what is installed is at least as new as the lock file.
func fresh() bool {
	locked, err1 := os.Stat(filepath.Join(home, "package-lock.json"))
	installed, err2 := os.Stat(filepath.Join(home, "node_modules", ".package-lock.json"))
	return err1 == nil && err2 == nil && !installed.ModTime().Before(locked.ModTime())
}

// version is that of a copy of the suite.
func version(suite string) string {
	var manifest struct{ Version string }
	b, err := os.ReadFile(filepath.Join(suite, "package.json"))
	if err == nil {
		err = json.Unmarshal(b, &manifest)
	}
	if err != nil || manifest.Version == "" {
		return "of an unknown version"
	}
	return manifest.Version
}

// start runs the suite's origin and sluice in front of it.
func start(ctx context.Context, dir, node, suite, binary string) (base string, stop func(), err error) {
	ports, err := program.Ports(3)
	if err != nil {
		return "", nil, err
	}
	listen, admin, origin := ports[0], ports[1], ports[2]
	server := filepath.Join(suite, "server", "server.mjs")
	if other := filepath.Join(suite, "test-engine", "server", "server.mjs"); exists(other) {
		server = other
	}
	_, port, err := net.SplitHostPort(origin)
	if err != nil {
		return "", nil, err
	}
	// The origin takes its settings where npm would put them.
	o, err := program.Start("the suite's origin", dir, "/usr/bin/env", "npm_config_protocol=http", "npm_config_port="+port,
		"npm_config_pidfile="+filepath.Join(dir, "origin.pid"), node, server)
	if err != nil {
		return "", nil, err
	}
	if err := o.Await(ctx, dial(origin)); err != nil {
		return "", nil, err
	}
	home := filepath.Join(dir, "gateway")
	config, err := "", os.Mkdir(home, 0o700)
	if err == nil {
		config, err = program.Render(configs, "config/sluice.yaml.tmpl", home, struct{ Listen, Admin, Origin string }{listen, admin, origin})
	}
	var g *program.Running
	if err == nil {
		g, err = program.Start("sluice", home, binary, "run", "-c", config, "--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s")
	}
	if err == nil {
		err = g.Await(ctx, dial(listen))
	}
	if err != nil {
		o.Stop()
		return "", nil, err
	}
	return "http://" + listen, func() { g.Stop(); o.Stop() }, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func dial(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
		if err == nil {
			err = c.Close()
		}
		return err
	}
}

// most bounds a run of the suite.
const most = 3 * time.Minute

// try runs tests, all or those with the given ids.
func try(ctx context.Context, node, suite, base string, ids ...string) ([]result, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, append([]string{"--no-warnings", "run.mjs", suite, base}, ids...)...)
	cmd.Dir = home
	out, err := cmd.Output()
	var results []result
	if err == nil {
		err = json.Unmarshal(out, &results)
	}
	if err != nil {
		var said []byte
		if exit, ok := err.(*exec.ExitError); ok {
			said = exit.Stderr
		}
		return nil, fmt.Errorf("the suite does not run: %w\n%s", err, said)
	}
	return results, nil
}
