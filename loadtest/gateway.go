package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// gateway is a process of `sluice run`.
type gateway struct {
	url, admin string
	file       string // of its configuration
	log        string // file of its output
	cmd        *exec.Cmd
	heir       int // process that has taken over
	ended      chan struct{}
	code       int // once ended
}

// startGateway returns when the gateway says that it is ready, and where: it
// listens on ports that the system chose.
func startGateway(ctx context.Context, binary string, args, environ []string, log string) (*gateway, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	g := &gateway{log: log, cmd: exec.Command(binary, args...), ended: make(chan struct{})}
	g.cmd.Env = append(os.Environ(), environ...)
	g.cmd.Stdout, g.cmd.Stderr = out, out
	// An interrupt at the terminal is the driver's, which then stops the gateway.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the gateway (make build makes it): %w", err)
	}
	go func() {
		_ = g.cmd.Wait()
		g.code = g.cmd.ProcessState.ExitCode()
		close(g.ended)
	}()
	err = wait(ctx, 10*time.Second, "the gateway to be ready", func() (bool, error) {
		select {
		case <-g.ended:
			text, _ := os.ReadFile(log)
			return false, fmt.Errorf("the gateway ended at once:\n%s", text)
		default:
		}
		return g.announced()
	})
	if err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

// announced looks for the line that says where the gateway listens.
func (g *gateway) announced() (bool, error) {
	text, err := os.ReadFile(g.log)
	if err != nil {
		return false, err
	}
	for line := range bytes.Lines(text) {
		var l struct{ Msg, Listen, Admin string }
		if json.Unmarshal(line, &l) == nil && l.Msg == "sluice is ready" {
			g.url, g.admin = "http://"+l.Listen, "http://"+l.Admin
			return true, nil
		}
	}
	return false, nil
}

// stop ends the process; one that drained has ended already.
func (g *gateway) stop() {
	if g.heir != 0 {
		_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	}
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-g.ended:
	case <-time.After(10 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
}

// reconfigure puts a configuration in force through the admin API.
func (g *gateway) reconfigure(ctx context.Context, text string) error {
	status, body, err := call(ctx, http.MethodPut, g.admin+"/api/config", strings.NewReader(text))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the gateway refused a configuration: %d %s", status, body)
	}
	return err
}

// ready is what a load balancer in front of the gateway sees.
func (g *gateway) ready(ctx context.Context) bool {
	status, _, err := call(ctx, http.MethodGet, g.admin+"/readyz", nil)
	return err == nil && status == http.StatusOK
}

// breaker is the state of the service `api` in /health.
func (g *gateway) breaker(ctx context.Context) (string, error) {
	_, body, err := call(ctx, http.MethodGet, g.admin+"/health", nil)
	if err != nil {
		return "", err
	}
	var health struct{ Services map[string]string }
	err = json.Unmarshal(body, &health)
	return health.Services["api"], err
}

// metric is the sum of the samples of that name which have all the labels.
func (g *gateway) metric(ctx context.Context, name string, labels ...string) (float64, error) {
	_, body, err := call(ctx, http.MethodGet, g.admin+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	return sumSamples(body, name, labels...)
}

func sumSamples(text []byte, name string, labels ...string) (sum float64, err error) {
	found := false
	lines := bufio.NewScanner(bytes.NewReader(text))
samples:
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(rest, l) {
				continue samples
			}
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		err = fmt.Errorf("there is no metric %s%v", name, labels)
	}
	return sum, errors.Join(err, lines.Err())
}

// token is a JWT of the secret that configurations name.
func (t *trial) token(subject string, more ...string) (string, error) {
	args := append([]string{"token", "--sub", subject, "--secret", secret}, more...)
	out, err := exec.CommandContext(t.ctx, t.sluice, args...).Output()
	if err != nil {
		return "", fmt.Errorf("sluice token: %w", err)
	}
	return "Bearer " + strings.TrimSpace(string(out)), nil
}

const secret = "secret-of-the-load-test-and-nothing-else"

var operator = &http.Client{Timeout: 10 * time.Second}

// call is a request that is no load.
func call(ctx context.Context, method, url string, body io.Reader) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, nil, err
	}
	res, err := operator.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}

// wait asks until it is told yes.
func wait(ctx context.Context, most time.Duration, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("waited %s in vain for %s", most, what))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := ask(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
