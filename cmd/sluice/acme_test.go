package main

import (
	"crypto/tls"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/acme/acmetest"
)

// TestACME obtains a certificate, and has it still after a reload, and after
// the process was killed and started again without the authority.
func TestACME(t *testing.T) {
	address := acmetest.FreeAddress(t)
	authority := acmetest.New(t, acmetest.Options{TLSPort: acmetest.Port(t, address)})
	authority.Start()
	roots := authority.Roots()
	path := write(t, "sluice.yaml", fmt.Sprintf(`
listeners: {main: {address: %q, tls: {acme: {email: ops@example.test, domains: [api.example.test], directory: %q, ca: %q, storage: %q}}}}
admin: {address: "127.0.0.1:0"}
routes: {hello: {match: {paths: [/hello]}, respond: {status: 200}}}
`, address, authority.Directory, authority.CA, filepath.Join(t.TempDir(), "acme")))
	shown := func() (*big.Int, error) {
		c, err := tls.Dial("tcp", address, &tls.Config{ServerName: "api.example.test", RootCAs: roots})
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber, nil
	}
	r := launch(t, sluice(t, nil, "run", "-c", path, "--watch=false", "--drain-delay", "1ms"))
	obtained := r.waitFor(t, "certificate obtained")
	first, err := shown()
	if err != nil || obtained["domain"] != "api.example.test" || obtained["not_after"] == "" {
		t.Fatal(obtained, err)
	}
	same := func(when string) {
		t.Helper()
		if n, err := shown(); err != nil || n.Cmp(first) != 0 {
			t.Errorf("%s: another certificate, or none: %v", when, err)
		}
	}
	_ = r.Process.Signal(syscall.SIGHUP)
	r.waitFor(t, "the configuration was reloaded")
	same("after a reload")
	if _, metrics := fetch(t, r.admin+"/metrics"); !strings.Contains(metrics, `sluice_certificate_expiry_timestamp_seconds{listener="main",certificate="api.example.test"} 1`) {
		t.Error("the end of the certificate is not shown")
	}
	_ = r.Process.Kill()
	_ = r.Wait()
	authority.Stop()
	r = launch(t, sluice(t, nil, "run", "-c", path, "--drain-delay", "1ms"))
	same("after a restart")

	_ = r.Process.Signal(syscall.SIGTERM)
	deadline := time.AfterFunc(time.Minute, func() { _ = r.Process.Kill() })
	defer deadline.Stop()
	for r.lines.Scan() {
		if strings.Contains(r.lines.Text(), "certificate obtained") {
			t.Error(r.lines.Text())
		}
	}
	if err := r.Wait(); err != nil {
		t.Fatal(err)
	}
}
