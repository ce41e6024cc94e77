//go:build linux

// Command scan has testssl.sh, as Debian packages it, look at a TLS listener
// of Sluice with an ECDSA and an RSA certificate. It fails where there is a
// finding above LOW that is not of the throw-away certificates alone, and
// writes all findings as Markdown.
package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sluice/bench/program"
)

//go:embed config/sluice.yaml.tmpl
var configs embed.FS

func main() {
	out := flag.String("out", filepath.Join("bench", "results"), "folder of tls.md")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "scan:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	r := &report{began: time.Now()}
	dir, err := os.MkdirTemp("", "sluice-scan-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	scanner, err := program.Find(ctx, "testssl", "testssl.sh", true)
	if err != nil {
		return err
	}
	binary, err := program.Sluice(ctx, dir)
	if err != nil {
		return err
	}
	r.sluice = program.Version(binary, "version")
	address, stop, err := start(ctx, dir, binary)
	if err != nil {
		return err
	}
	defer stop()
	if err := scan(ctx, dir, scanner, address, r); err != nil {
		return err
	}
	if err := r.save(out); err != nil {
		return err
	}
	return r.verdict(os.Stdout)
}

// start runs sluice with certificates of its own.
func start(ctx context.Context, dir, binary string) (address string, stop func(), err error) {
	if err := certify(dir); err != nil {
		return "", nil, err
	}
	ports, err := program.Ports(2)
	if err != nil {
		return "", nil, err
	}
	config, err := program.Render(configs, "config/sluice.yaml.tmpl", dir, struct{ Dir, Listen, Admin string }{dir, ports[0], ports[1]})
	if err != nil {
		return "", nil, err
	}
	s, err := program.Start("sluice", dir, binary, "run", "-c", config, "--log-level", "warn", "--watch=false", "--drain-delay", "0s", "--drain-timeout", "1s")
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

// most bounds the scan; it takes two minutes.
const most = 20 * time.Minute

func scan(ctx context.Context, dir, scanner, address string, r *report) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "scanning takes some two minutes")
	file := filepath.Join(dir, "findings.json")
	cmd := exec.CommandContext(ctx, scanner, "--quiet", "--warnings", "off", "--color", "0", "--openssl-timeout", "20",
		"--add-ca", filepath.Join(dir, "ca.crt"), "--ip", "127.0.0.1", "--jsonfile", file, "localhost:"+port)
	cmd.Dir = dir
	// It starts others, which are to end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// Its status counts findings, and so says nothing of whether it worked.
	text, _ := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("the scan does not end: %w", ctx.Err())
	}
	b, err := os.ReadFile(file)
	if err == nil {
		r.findings, err = parse(b)
	}
	if err != nil {
		return fmt.Errorf("testssl.sh has no findings: %w\n%s", err, text)
	}
	r.scanner = scannerVersion(scanner)
	return nil
}

func scannerVersion(scanner string) string {
	out, _ := exec.Command(scanner, "--version").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "testssl" {
			return "testssl.sh " + f[1]
		}
	}
	return "testssl.sh"
}
