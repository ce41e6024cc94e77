// Package ha runs what stands around gateways where they are deployed to be available: a balancer in front of them, the store
// that they share and the one that has their configuration. Each is the real program on ports of 127.0.0.1, and can be killed,
// paused and started again.
package ha

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed haproxy.cfg
var balancerText string

var balancerConfig = template.Must(template.New("haproxy.cfg").Parse(balancerText))

// patience is how long a program may take until it serves.
const patience = 20 * time.Second

// Part is a program that is run. Its methods are called from one goroutine.
type Part struct {
	// Address is where it serves, the same after each start.
	Address string

	program string
	args    []string
	log     string
	serves  func(context.Context) bool

	cmd   *exec.Cmd
	ended chan struct{}
}

// Start runs the program and returns when it serves.
func (p *Part) Start(ctx context.Context) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.program, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// An interrupt at the terminal is the driver's, which stops the parts; whatever ends the driver ends them.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.cmd = nil
		return fmt.Errorf("cannot start %s (make loadtest installs it): %w", p.program, err)
	}
	ended, cmd := make(chan struct{}), p.cmd
	p.ended = ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !p.serves(ctx) {
		select {
		case <-tick.C:
			continue
		case <-ended:
		case <-ctx.Done():
		}
		p.Kill()
		text, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s does not serve: %s", p.program, text[max(0, len(text)-2000):])
	}
	return nil
}

// Kill ends the process at once, as a crash does.
func (p *Part) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	p.cmd = nil
}

// Pause stops the process where it stands: connections stay, and nothing answers.
func (p *Part) Pause() { p.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Part) Resume() { p.signal(syscall.SIGCONT) }

func (p *Part) signal(s os.Signal) {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// Places are folders: of what the programs keep, which goes with the trial, and of their output, in files that begin with Log.
type Places struct {
	Dir, Log string
}

func (at Places) part(program, address string, args ...string) *Part {
	return &Part{Address: address, program: program, args: args, log: at.Log + program + ".log", serves: func(ctx context.Context) bool {
		return listens(ctx, address)
	}}
}

// Redis is the store that gateways share. It keeps nothing: one that was killed comes back empty.
func Redis(at Places) (*Part, error) {
	free, err := FreeAddresses(1)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(free[0])
	return at.part("redis-server", free[0], "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", at.Dir), nil
}

// Etcd has the configuration. Its data stays when it is killed.
func Etcd(at Places) (*Part, error) {
	free, err := FreeAddresses(2)
	if err != nil {
		return nil, err
	}
	client, peer := "http://"+free[0], "http://"+free[1]
	p := at.part("etcd", free[0], "--name", "ha", "--data-dir", filepath.Join(at.Dir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "ha="+peer,
		"--heartbeat-interval", "100", "--election-timeout", "1000", "--log-level", "error")
	p.serves = func(ctx context.Context) bool {
		status, _, err := ask(ctx, http.MethodGet, client+"/health", nil)
		return err == nil && status == http.StatusOK
	}
	return p, nil
}

// Put writes a key of etcd, and tries until it is written: what it is given while etcd is gone it has written when that is back.
func (p *Part) Put(ctx context.Context, key, value string) error {
	text, err := json.Marshal(map[string][]byte{"key": []byte(key), "value": []byte(value)})
	if err != nil {
		return err
	}
	for {
		status, answer, err := ask(ctx, http.MethodPost, "http://"+p.Address+"/v3/kv/put", bytes.NewReader(text))
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			err = fmt.Errorf("%d %s", status, answer)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("etcd does not take %s: %w", key, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Server is a gateway, as the balancer has to know it.
type Server struct {
	Name, Address, Admin string
}

// AdminPort is where the balancer asks whether it is ready.
func (s Server) AdminPort() string {
	_, port, _ := net.SplitHostPort(s.Admin)
	return port
}

// Balancer is haproxy in front of gateways.
type Balancer struct {
	*Part
	// Config is the text of its configuration.
	Config     string
	statistics string
}

// NewBalancer writes the configuration of one.
func NewBalancer(at Places, gateways []Server) (*Balancer, error) {
	free, err := FreeAddresses(2)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	err = balancerConfig.Execute(&text, map[string]any{"Address": free[0], "Statistics": free[1], "Gateways": gateways})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(at.Dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		return nil, err
	}
	return &Balancer{at.part("haproxy", free[0], "-db", "-f", file), text.String(), "http://" + free[1] + "/;csv"}, nil
}

// Up is how many gateways it sends requests to.
func (b *Balancer) Up(ctx context.Context) (n int, err error) {
	_, text, err := ask(ctx, http.MethodGet, b.statistics, nil)
	if err != nil {
		return 0, err
	}
	return countUp(text)
}

// countUp reads haproxy's statistics, a line for each frontend, backend and server.
func countUp(text []byte) (n int, err error) {
	rows, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("haproxy's statistics: %w", err)
	}
	column := make(map[string]int)
	for i, name := range rows[0] {
		column[strings.TrimPrefix(name, "# ")] = i
	}
	status, known := column["status"]
	if !known {
		return 0, fmt.Errorf("haproxy's statistics have no status: %q", rows[0])
	}
	for _, row := range rows[1:] {
		server := row[column["svname"]]
		if row[column["pxname"]] == "gateways" && server != "BACKEND" && strings.HasPrefix(row[status], "UP") {
			n++
		}
	}
	return n, nil
}

// FreeAddresses are addresses of this machine that nobody listens on.
func FreeAddresses(n int) (all []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// Held until all are found, so that they differ.
		defer func() { _ = l.Close() }()
		all = append(all, l.Addr().String())
	}
	return all, nil
}

func listens(ctx context.Context, address string) bool {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// client opens a connection for each question: one that has gone with a process that was killed is no answer.
var client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func ask(ctx context.Context, method, url string, body io.Reader) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return 0, nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(res.Body)
	return res.StatusCode, answer, err
}
