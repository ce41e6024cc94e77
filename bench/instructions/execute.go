//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"sluice/bench/load"
)

const (
	// warm is how many requests of every work a run begins with.
	warm = 200
	// connections keep the gateway at work: one that waits after each request
	// spends its instructions on waiting.
	connections = 8
	// many of them have each its turn with cold caches, as with bench/peers.
	many = 64
	// patience with a gateway that starts in software on a busy machine.
	patience = time.Minute
)

// serveBackend answers what the gateway forwards, until this process ends.
func (r *runner) serveBackend() error {
	b, err := load.NewBackend(map[string][]byte{
		"/300": load.Answer(300, ""), "/cached/": load.Answer(300, "Cache-Control: public, max-age=36000\r\n"), collector: load.Answer(0, ""),
	})
	if err != nil {
		return err
	}
	r.backend = b.Addr()
	go func() {
		if err := b.Serve(); err != nil {
			fmt.Fprintln(os.Stderr, "the backend ended:", err)
		}
	}()
	return nil
}

// tries of a run: a program of Go under valgrind stands still now and then.
const tries = 3

// execute counts one life of a gateway: start, warming up, n requests of w, end.
func (r *runner) execute(ctx context.Context, b binary, w *work, requests int64) (n count, err error) {
	for range tries {
		if n, err = r.live(ctx, b, w, requests); err == nil || ctx.Err() != nil {
			return n, err
		}
		fmt.Fprintln(os.Stderr, "again:", err)
	}
	return n, err
}

func (r *runner) live(ctx context.Context, b binary, w *work, requests int64) (count, error) {
	dir, err := os.MkdirTemp(r.dir, "run-")
	if err != nil {
		return count{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	listen, err1 := freePort()
	admin, err2 := freePort()
	file, out := filepath.Join(dir, "sluice.yaml"), filepath.Join(dir, "count")
	text := configuration(listen, admin, r.backend, filepath.Join(dir, "access.log"))
	if w.observed {
		text += observation(r.backend, filepath.Join(dir, "state"))
	}
	if err := errors.Join(err1, err2, os.WriteFile(file, []byte(text), 0o644)); err != nil {
		return count{}, err
	}
	g, err := start(r.counter.command(out, b.path, "run", "-c", file, "--watch=false", "--log-level", "error", "--drain-delay", "0s", "--drain-timeout", "1s"))
	if err != nil {
		return count{}, err
	}
	defer g.output.Close()
	err = g.await(ctx, listen)
	if err == nil {
		err = r.load(listen, w, requests)
	}
	if err = errors.Join(err, g.end(r.counter)); err != nil {
		return count{}, fmt.Errorf("%s: %w\n%s", b.name, err, g.said())
	}
	return r.counter.read(out, b.path)
}

// load sends the requests of a run.
func (r *runner) load(address string, measured *work, requests int64) error {
	works, err := all()
	if err != nil {
		return err
	}
	for _, w := range works {
		if err := r.send(address, w, warm); err != nil {
			return err
		}
	}
	if requests == 0 {
		return nil
	}
	return r.send(address, measured, requests)
}

func (r *runner) send(address string, w *work, n int64) error {
	clients := connections
	if r.caches {
		clients = many
	}
	c, err := load.NewClient(load.Spec{Address: address, Requests: []string{w.request}, Connections: clients, Status: w.status, Body: w.body})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Do(n); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	return nil
}

// gateway is one that runs under a counter.
type gateway struct {
	cmd    *exec.Cmd
	output *os.File
	ended  chan struct{}
	err    error // of the process, when it has ended
}

func start(cmd *exec.Cmd) (*gateway, error) {
	output, err := os.CreateTemp("", "sluice-instructions-*.log")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(output.Name()) // it goes with the last that has it open
	cmd.Stdout, cmd.Stderr = output, output
	// One thread for Go code and no collections: what is counted is what requests need.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	g := &gateway{cmd: cmd, output: output, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		g.err = cmd.Wait()
		close(g.ended)
	}()
	return g, nil
}

// await returns when the gateway listens.
func (g *gateway) await(ctx context.Context, address string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if c, err := net.Dial("tcp", address); err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-g.ended:
			return errors.New("sluice ended instead of listening")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("sluice does not listen after %s", patience)
}

// end ends the gateway as an operator would.
func (g *gateway) end(c counter) error {
	// Whatever happens, nothing of it stays: it leads a group of its own.
	defer func() {
		_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
		<-g.ended
	}()
	select {
	case <-g.ended:
		return g.err
	default:
	}
	pid, err := c.process(g.cmd)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err != nil {
		return err
	}
	select {
	case <-g.ended:
		return g.err
	case <-time.After(patience):
		return fmt.Errorf("sluice does not end within %s", patience)
	}
}

// said is what the gateway wrote.
func (g *gateway) said() string {
	if _, err := g.output.Seek(0, io.SeekStart); err != nil {
		return err.Error()
	}
	b, _ := io.ReadAll(io.LimitReader(g.output, 8<<10))
	return string(b)
}

func freePort() (string, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}
