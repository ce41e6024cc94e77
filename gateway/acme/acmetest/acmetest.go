// Package acmetest runs an authority for tests: Pebble, which Let's Encrypt
// makes for that, as a process of its own, and the name server that it asks.
package acmetest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sluice/bench/program"
	"sluice/gateway/certs/certstest"
)

// patience bounds every wait.
const patience = 20 * time.Second

// Options of an authority.
type Options struct {
	// TLSPort and HTTPPort are where it looks for challenges, on 127.0.0.1
	// whatever the name.
	TLSPort, HTTPPort int
	// Validity of its certificates; default: 90 days.
	Validity time.Duration
}

// Authority is an ACME server.
type Authority struct {
	// Directory is the URL of its directory, CA the file that verifies it.
	Directory, CA string

	t          testing.TB
	pool       *x509.CertPool
	config     string
	names      string
	management string
	process    *exec.Cmd
	ended      chan struct{}
	output     *output
}

// New returns an authority that does not run yet, and keeps its addresses when
// it starts, stops and starts again. It ends with the test.
func New(t testing.TB, o Options) *Authority {
	t.Helper()
	if o.Validity == 0 {
		o.Validity = 90 * 24 * time.Hour
	}
	own := certstest.New(t)
	cert, key := own.Issue("pebble", certstest.Leaf{CN: "pebble"})
	a := &Authority{t: t, CA: own.File, pool: own.Pool(), names: nameServer(t), output: new(output)}
	listen := FreeAddress(t)
	a.management = FreeAddress(t)
	a.Directory = "https://" + listen + "/dir"
	config := map[string]any{
		"listenAddress": listen, "managementListenAddress": a.management, "certificate": cert, "privateKey": key,
		"tlsPort": o.TLSPort, "httpPort": o.HTTPPort, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "default", "validityPeriod": int(o.Validity / time.Second)}},
	}
	b, err := json.Marshal(map[string]any{"pebble": config})
	a.check(err)
	a.config = filepath.Join(own.Dir, "pebble.json")
	a.check(os.WriteFile(a.config, b, 0o600))
	t.Cleanup(a.Stop)
	return a
}

func (a *Authority) check(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// Start runs it, without any memory of what was before, and waits until it answers.
func (a *Authority) Start() {
	a.t.Helper()
	path, err := program.Tool("pebble")
	a.check(err)
	c := exec.Command(path, "-config", a.config, "-dnsserver", a.names)
	c.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	c.Stdout, c.Stderr = a.output, a.output
	a.check(c.Start())
	a.process, a.ended = c, make(chan struct{})
	go func() {
		defer close(a.ended)
		_ = c.Wait()
	}()
	client := a.client()
	defer client.CloseIdleConnections()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		res, err := client.Get(a.Directory)
		if err == nil {
			_ = res.Body.Close()
			return
		}
		select {
		case <-a.ended:
			a.t.Fatalf("pebble ended: %s", a.output)
		default:
		}
		if time.Now().After(end) {
			a.t.Fatalf("pebble does not answer: %v\n%s", err, a.output)
		}
	}
}

// Stop ends it.
func (a *Authority) Stop() {
	if a.process == nil {
		return
	}
	_ = a.process.Process.Kill()
	<-a.ended
	a.process = nil
}

// Roots are what clients have to trust, while it runs.
func (a *Authority) Roots() *x509.CertPool {
	a.t.Helper()
	client := a.client()
	defer client.CloseIdleConnections()
	res, err := client.Get("https://" + a.management + "/roots/0")
	a.check(err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	a.check(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		a.t.Fatalf("no root in %q", b)
	}
	return pool
}

// Output is what it said so far.
func (a *Authority) Output() string { return a.output.String() }

func (a *Authority) client() *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.pool}}}
}

// FreeAddress returns an address of this machine that nobody listens on.
func FreeAddress(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}

// Port is that of an address.
func Port(t testing.TB, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

// output collects what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// nameServer serves names over TCP: every one is this machine's.
func nameServer(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				_ = answerNames(c)
			})
		}
	})
	return ln.Addr().String()
}

func answerNames(c net.Conn) error {
	for {
		var length uint16
		if err := binary.Read(c, binary.BigEndian, &length); err != nil {
			return err
		}
		b := make([]byte, length)
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			return err
		}
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		for _, q := range m.Questions {
			if q.Type == dnsmessage.TypeA {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				})
			}
		}
		answer, err := m.Pack()
		if err != nil {
			return err
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return err
		}
	}
}
