//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// caddy and traefik are built from modules of their own, which pin them.
func caddy() *gateway {
	return &gateway{
		name: "caddy", template: "Caddyfile.tmpl", module: "bench/tools/caddy", of: "github.com/caddyserver/caddy/v2",
		args:  func(config string) []string { return []string{"run", "--adapter", "caddyfile", "--config", config} },
		modes: []mode{proxying, secure, multi, clear},
	}
}

func traefik() *gateway {
	return &gateway{
		name: "traefik", template: "traefik.yaml.tmpl", module: "bench/tools/traefik", of: "github.com/traefik/traefik/v3",
		beside:  []string{"traefik.routes.yaml.tmpl"},
		prepare: withoutProviders,
		args:    func(config string) []string { return []string{"--configFile=" + config} },
		modes:   []mode{proxying, limiting, secure, multi, clear},
	}
}

// compile gives the gateway's binary, which is built where there is none of the
// pinned version yet. That takes minutes the first time.
func (g *gateway) compile(ctx context.Context, build bool) (string, error) {
	root, err := goSays(ctx, ".", "list", "-m", "-f", "{{.Dir}}", "sluice")
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, g.module)
	if g.version, err = goSays(ctx, module, "list", "-m", "-f", "{{.Path}} {{.Version}}", g.of); err != nil {
		return "", err
	}
	binary := filepath.Join(root, ".bin", g.name)
	if newer(binary, filepath.Join(module, "go.mod")) {
		return binary, nil
	}
	if !build {
		return "", errors.New("it is not built")
	}
	fmt.Fprintf(os.Stderr, "building %s; this takes a while\n", g.version)
	dir, err := os.MkdirTemp("", "sluice-"+g.name+"-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.CopyFS(dir, os.DirFS(module)); err != nil {
		return "", err
	}
	if g.prepare != nil {
		if err := g.prepare(ctx, dir); err != nil {
			return "", err
		}
	}
	if _, err := goSays(ctx, dir, "build", "-ldflags", "-s -w", "-o", binary, g.of+"/cmd/"+g.name); err != nil {
		return "", err
	}
	return binary, nil
}

// newer tells whether file a was written after b.
func newer(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && x.ModTime().After(y.ModTime())
}

// withoutProviders gives Traefik's module what its go.mod replaces lego by: lego
// without the providers of DNS, which need the libraries of a hundred clouds.
// They have no part in what is measured.
func withoutProviders(ctx context.Context, dir string) error {
	const lego = "github.com/go-acme/lego/v5"
	version, err := goSays(ctx, dir, "list", "-m", "-f", "{{.Version}}", lego)
	if err != nil {
		return err
	}
	// Not in the module, which has it replaced.
	said, err := goSays(ctx, os.TempDir(), "mod", "download", "-json", lego+"@"+version)
	if err != nil {
		return err
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal([]byte(said), &downloaded); err != nil {
		return err
	}
	to := filepath.Join(dir, "lego")
	for _, folder := range []string{
		"acme", "certcrypto", "certificate", "challenge", "internal", "lego", "log", "platform", "providers/http", "registration",
	} {
		if err := copySources(filepath.Join(to, folder), filepath.Join(downloaded.Dir, folder)); err != nil {
			return fmt.Errorf("lego %s: %w", version, err)
		}
	}
	return nil
}

// copySources copies the sources of Go below a folder.
func copySources(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied := filepath.Join(to, relative)
		return errors.Join(os.MkdirAll(filepath.Dir(copied), 0o755), os.WriteFile(copied, text, 0o644))
	})
}

// goSays runs the go command in a folder and returns what it prints.
func goSays(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}
