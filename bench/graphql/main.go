//go:build linux

// Command graphql has the audit of npm's graphql-http, which checks every
// requirement of GraphQL over HTTP, look at a running sluice that answers GraphQL
// from services of REST: the route of config/examples/graphql.yaml. It fails
// where a MUST or a SHOULD is not met.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sluice/bench/program"
	"sluice/config/examples"
)

// tools is where the audit stands, with its versions.
const tools = "bench/tools/graphql"

// most bounds the audit, which takes some seconds.
const most = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "graphql:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "sluice-graphql-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.CopyFS(dir, examples.GraphQL); err != nil {
		return err
	}
	binary, err := program.Sluice(ctx, dir)
	if err != nil {
		return err
	}
	address, stop, err := start(ctx, dir, binary)
	if err != nil {
		return err
	}
	defer stop()
	found, err := audit(ctx, "http://"+address+"/graphql")
	if err != nil {
		return err
	}
	return verdict(out, found)
}

// start runs sluice with the example.
func start(ctx context.Context, dir, binary string) (address string, stop func(), err error) {
	ports, err := program.Ports(2)
	if err != nil {
		return "", nil, err
	}
	s, err := program.Start("sluice", dir, binary, "run", "-c", "graphql.yaml", "--listen", ports[0], "--admin-address", ports[1],
		"--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s")
	if err != nil {
		return "", nil, err
	}
	return ports[0], s.Stop, s.Await(ctx, func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "tcp4", ports[0])
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// finding is what the audit says of one requirement.
type finding struct {
	ID     string `json:"id"`
	Name   string `json:"name"` // begins with MUST, SHOULD or MAY
	Status string `json:"status"`
	Reason string `json:"reason"`
}

func audit(ctx context.Context, url string) ([]finding, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "node", "audit.mjs", url)
	cmd.Dir, cmd.Stderr = filepath.FromSlash(tools), &said
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the audit does not end well: %w\n%s", err, said.Bytes())
	}
	return parse(text)
}

func parse(text []byte) (all []finding, err error) {
	for d := json.NewDecoder(bytes.NewReader(text)); ; {
		var f finding
		if err := d.Decode(&f); err == io.EOF {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("the audit does not say JSON: %w", err)
		}
		all = append(all, f)
	}
}

// least is how many requirements there are at least, so that an audit that looks at nothing does not pass.
const least = 50

// verdict tells what is not met, and fails for what must or should be.
func verdict(out io.Writer, all []finding) error {
	met := map[string]int{}
	var wrong []string
	for _, f := range all {
		level, _, _ := strings.Cut(f.Name, " ")
		if f.Status == "ok" {
			met[level]++
			continue
		}
		fmt.Fprintf(out, "%s %s: %s\n", f.ID, f.Name, f.Reason)
		if level != "MAY" {
			wrong = append(wrong, f.ID)
		}
	}
	fmt.Fprintf(out, "of %d requirements are met: %d MUST, %d SHOULD, %d MAY\n", len(all), met["MUST"], met["SHOULD"], met["MAY"])
	switch {
	case len(all) < least:
		return fmt.Errorf("the audit has only looked at %d requirements", len(all))
	case len(wrong) > 0:
		return errors.New("not met: " + strings.Join(wrong, ", "))
	}
	return nil
}
