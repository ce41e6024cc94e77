package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/acme"
	"sluice/gateway/acme/acmetest"
	"sluice/gateway/certs/certstest"
	"sluice/gateway/registry"
)

// issuance bounds the wait for a certificate: an order is many requests, and
// who failed before waits for its next try.
const issuance = time.Minute

// obtaining is a gateway that obtains certificates from a real authority, and
// what it needs. Its listeners stay where they are when it starts again.
type obtaining struct {
	*gate
	t             testing.TB
	authority     *acmetest.Authority
	secure, plain string
	storage       string
	log           *lockedBuffer
	backend       *server
}

func newObtaining(t *testing.T, validity time.Duration) *obtaining {
	t.Helper()
	o := &obtaining{t: t, secure: nobody(t), plain: nobody(t), storage: filepath.Join(t.TempDir(), "acme"), backend: answering(t, echoHead)}
	o.authority = acmetest.New(t, acmetest.Options{TLSPort: acmetest.Port(t, o.secure), HTTPPort: acmetest.Port(t, o.plain), Validity: validity})
	return o
}

// config is the configuration with these settings of acme and tls, and more of it.
func (o *obtaining) config(acme, tls, more string) string {
	return fmt.Sprintf(`
listeners:
  secure: {address: %q, tls: {acme: {directory: %q, ca: %q, storage: %q%s}%s}}
  plain: {address: %q}
services: {s: {endpoints: ["http://%s"]}}
routes: {r: {match: {paths: [/]}, service: s}}
%s`, o.secure, o.authority.Directory, o.authority.CA, o.storage, comma(acme), comma(tls), o.plain, o.backend.addr, more)
}

// start runs a gateway with this configuration; stop ends it.
func (o *obtaining) start(text string) {
	o.t.Helper()
	o.log = new(lockedBuffer)
	o.gate = serve(o.t, gateway.Options{Log: slog.New(slog.NewTextHandler(o.log, nil))}, text)
	o.addr = o.secure
}

func (o *obtaining) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	o.Shutdown(ctx)
}

// shown is the certificate that a client gets who asks for name.
func (o *obtaining) shown(name string) (*x509.Certificate, error) {
	o.t.Helper()
	conn, state, err := o.trySecure(&tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	conn.close()
	return state.PeerCertificates[0], nil
}

// await waits until name has a certificate that the authority's root verifies,
// and returns its number.
func (o *obtaining) await(name string) *big.Int {
	o.t.Helper()
	roots := o.authority.Roots()
	for end := time.Now().Add(issuance); ; time.Sleep(20 * time.Millisecond) {
		conn, state, err := o.trySecure(&tls.Config{ServerName: name, RootCAs: roots})
		if err == nil {
			conn.send("GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n")
			if head, _ := conn.response(); statusOf(head) != 200 {
				o.t.Errorf("%s: %q", name, head)
			}
			conn.close()
			return state.PeerCertificates[0].SerialNumber
		}
		if time.Now().After(end) {
			o.t.Fatalf("%s has no certificate: %v\n%s\n%s", name, err, o.log, o.authority.Output())
		}
	}
}

// same asserts that name has the certificate with this number, at once.
func (o *obtaining) same(name string, number *big.Int) {
	o.t.Helper()
	c, err := o.shown(name)
	if err != nil || c.SerialNumber.Cmp(number) != 0 {
		o.t.Errorf("%s: another certificate, or none: %v", name, err)
	}
}

// The way of a certificate: obtained on the listener's own socket, beside
// files, kept over reloads and restarts, and shown to operators.
func TestObtain(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	o.authority.Start()
	a := certstest.New(t)
	files := certificate(a.Issue("file", certstest.Leaf{CN: "file", DNS: []string{"file.example.test"}}))
	// Whoever must show a certificate of its own: the authority is not asked for one.
	mtls := fmt.Sprintf("%s, client_auth: {mode: request, ca: %q}", files, a.File)
	text := o.config("email: ops@example.test, domains: [api.example.test, WWW.example.test], challenges: [tls-alpn-01]", mtls, "")
	o.start(text)
	api, www := o.await("api.example.test"), o.await("www.example.test")
	if api.Cmp(www) == 0 {
		t.Error("the names share a certificate")
	}
	for _, name := range []string{"file.example.test", "other.example.test", "x.api.example.test", ""} {
		if c, err := o.shown(name); err != nil || c.Subject.CommonName != "file" {
			t.Errorf("%q gets another certificate than the default: %v", name, err)
		}
	}
	for _, name := range []string{"api.example.test", "www.example.test"} {
		if n := o.metric(fmt.Sprintf(`sluice_certificate_expiry_timestamp_seconds{listener="secure",certificate=%q}`, name)); n < float64(time.Now().Add(89*24*time.Hour).Unix()) {
			t.Errorf("%s expires at %v", name, n)
		}
		if n := strings.Count(o.log.String(), "msg=\"certificate obtained\" domain="+name); n != 1 {
			t.Errorf("%s: %d lines say that it was obtained\n%s", name, n, o.log)
		}
	}
	// Nobody else reads what is stored, and nothing of a key is said.
	accounts := 0
	err := filepath.WalkDir(o.storage, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has the mode %o", path, mode)
		}
		if strings.HasSuffix(path, ".lock") || strings.Contains(path, "challenge_tokens/") {
			t.Errorf("%s was left behind", path)
		}
		if strings.HasSuffix(path, "ops.key") {
			accounts++
		}
		if strings.HasSuffix(path, ".key") {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if line := strings.Split(string(b), "\n")[1]; strings.Contains(o.log.String(), line) {
				t.Errorf("the log has the key %s", path)
			}
		}
		return nil
	})
	if err != nil || accounts != 1 {
		t.Errorf("%d accounts, %v", accounts, err)
	}

	// A reload, also one that changes other things, asks for nothing.
	o.apply(strings.Replace(text, "mode: request", "mode: none", 1))
	o.same("api.example.test", api)
	o.same("www.example.test", www)
	// Names come and go.
	o.apply(strings.Replace(text, "WWW.example.test", "new.example.test", 1))
	o.same("api.example.test", api)
	o.await("new.example.test")
	if c, err := o.shown("www.example.test"); err != nil || c.Subject.CommonName != "file" {
		t.Errorf("a name that is no longer obtained still has its certificate: %v", err)
	}
	// Without the authority everything is there again at once, and what was
	// obtained before is not obtained again.
	roots := o.authority.Roots()
	o.authority.Stop()
	o.stop()
	o.start(text)
	o.same("api.example.test", api)
	o.same("www.example.test", www)
	p, _ := o.gate.secure(&tls.Config{ServerName: "www.example.test", RootCAs: roots})
	p.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if head, _ := p.response(); statusOf(head) != 200 {
		t.Error(head)
	}
}

// Clients must show a certificate, and who looks for a challenge has none.
func TestObtainBehindClientCertificates(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	o.authority.Start()
	a := certstest.New(t)
	o.start(o.config("domains: [api.example.test], challenges: [tls-alpn-01]", fmt.Sprintf("client_auth: {mode: require, ca: %q}", a.File), ""))
	mine := a.Pair(a.Issue("client", certstest.Leaf{CN: "alice", Client: true}))
	roots := o.authority.Roots()
	for end := time.Now().Add(issuance); ; time.Sleep(20 * time.Millisecond) {
		_, _, err := o.trySecure(&tls.Config{ServerName: "api.example.test", RootCAs: roots, Certificates: []tls.Certificate{mine}})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, o.log)
		}
	}
}

// Certificates are replaced before they end, and nobody notices.
func TestRenew(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 30*time.Second)
	o.authority.Start()
	o.start(o.config("domains: [api.example.test]", "", ""))
	first := o.await("api.example.test")
	for end := time.Now().Add(issuance); ; time.Sleep(50 * time.Millisecond) {
		c, err := o.shown("api.example.test")
		if err != nil {
			t.Fatal(err)
		}
		if time.Now().After(c.NotAfter) {
			t.Fatalf("a certificate that has ended is shown\n%s", o.log)
		}
		if c.SerialNumber.Cmp(first) != 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the certificate is not renewed\n%s", o.log)
		}
	}
	once(t, "the log says so", func() bool {
		return strings.Contains(o.log.String(), `msg="certificate renewed" domain=api.example.test`)
	})
	if !strings.Contains(o.authority.Output(), "is a replacement of") {
		t.Error("the authority was not told that the certificate is another's successor")
	}
	// The authority begins anew, and knows the account no longer.
	o.authority.Stop()
	o.authority.Start()
	o.await("api.example.test")
}

// An authority that is down keeps nothing else from being served, and is asked
// again until it is there.
func TestAuthorityDown(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	a := certstest.New(t)
	files := certificate(a.Issue("file", certstest.Leaf{CN: "file", DNS: []string{"file.example.test", "old.example.test"}}))
	o.start(o.config("domains: [api.example.test, old.example.test]", files, ""))
	for _, name := range []string{"file.example.test", "old.example.test"} {
		if c, err := o.shown(name); err != nil || c.Subject.CommonName != "file" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := o.shown("api.example.test"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name without a certificate: %v", err)
	}
	once(t, "the log says so", func() bool {
		return strings.Contains(o.log.String(), `msg="cannot obtain a certificate" domain=api.example.test`) && strings.Contains(o.log.String(), "connection refused")
	})
	if n := o.metric(`sluice_certificate_expiry_timestamp_seconds{listener="secure",certificate="api.example.test"}`); n != 0 {
		t.Errorf("a certificate that is not there ends at %v", n)
	}
	o.authority.Start()
	o.await("api.example.test")
	o.await("old.example.test") // over the file's
}

// Challenges by HTTP are answered before anything else looks at the request,
// and only those.
func TestObtainByHTTP(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	o.authority.Start()
	var asked atomic.Int64
	o.backend = answering(t, func(head, _ string) string {
		if strings.Contains(head, acme.HTTPPath) {
			asked.Add(1)
		}
		return okAnswer
	})
	text := o.config("domains: [api.example.test], challenges: [http-01]", "", "policies: {ip_filter: {deny: [0.0.0.0/0]}, jwt: {secret: 0123456789abcdef0123456789abcdef}}\n")
	o.start(text)
	roots := o.authority.Roots()
	for end := time.Now().Add(issuance); ; time.Sleep(20 * time.Millisecond) {
		if _, _, err := o.trySecure(&tls.Config{ServerName: "api.example.test", RootCAs: roots}); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%v\n%s\n%s", err, o.log, o.authority.Output())
		}
	}
	if n := o.metric(`sluice_requests_total{route="-",service="-",method="GET",code="200"}`); n < 1 {
		t.Errorf("%v challenges are counted", n)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the backend was asked %d times", n)
	}
	// Nothing is pending: the path is like any other.
	get := func(path string, status int) {
		t.Helper()
		conn, err := net.Dial("tcp", o.plain)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p := newPeer(t, conn)
		p.send("GET " + path + " HTTP/1.1\r\nHost: api.example.test\r\n\r\n")
		if head, _ := p.response(); statusOf(head) != status {
			t.Errorf("%s: %q", path, head)
		}
	}
	get(acme.HTTPPath+"unknown", 403)
	o.apply(o.config("domains: [api.example.test], challenges: [http-01]", "", ""))
	get(acme.HTTPPath+"unknown", 200)
	get(acme.HTTPPath, 200)
	if n := asked.Load(); n != 2 {
		t.Errorf("the backend was asked %d times", n)
	}
}

// A gateway answers the challenges of another that shares its storage, and
// takes up its certificates.
func TestSharedStorage(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	o.authority.Start()
	// This one is where the authority looks. It does not trust the authority, and obtains nothing.
	text := o.config("domains: [api.example.test]", "", "")
	stranger := certstest.New(t)
	o.start(strings.Replace(text, o.authority.CA, stranger.File, 1))
	other := &obtaining{t: t, authority: o.authority, secure: nobody(t), plain: nobody(t), storage: o.storage, backend: o.backend}
	other.start(other.config("domains: [api.example.test]", "", ""))
	number := other.await("api.example.test")
	if o.await("api.example.test").Cmp(number) != 0 {
		t.Error("they have two certificates")
	}
	if s := o.log.String(); !strings.Contains(s, "certificate loaded") || strings.Contains(s, "certificate obtained") {
		t.Error(s)
	}
}

// Who pretends to be the authority gets nothing.
func TestChallengeWithoutOne(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	o.authority.Start()
	o.start(o.config("domains: [api.example.test]", "", ""))
	o.await("api.example.test")
	for _, name := range []string{"api.example.test", "other.example.test", ""} {
		if _, state, err := o.trySecure(&tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{acme.Protocol}}); err == nil {
			t.Errorf("%q: a handshake for %q", name, state.NegotiatedProtocol)
		}
	}
	_, state := o.gate.secure(&tls.Config{ServerName: "api.example.test", InsecureSkipVerify: true, NextProtos: []string{acme.Protocol, "h2"}})
	if state.NegotiatedProtocol != "h2" {
		t.Errorf("%q", state.NegotiatedProtocol)
	}
	// Names that are not configured are never asked for, and get the default.
	if c, err := o.shown("other.example.test"); err != nil || c.DNSNames[0] != "api.example.test" {
		t.Errorf("%v", err)
	}
	if strings.Contains(o.authority.Output(), "other.example.test") {
		t.Error("the authority was asked for another name")
	}
}

// What a crash has left half written is obtained anew.
func TestObtainAnew(t *testing.T) {
	t.Parallel()
	o := newObtaining(t, 0)
	o.authority.Start()
	text := o.config("domains: [api.example.test]", "", "")
	o.start(text)
	first := o.await("api.example.test")
	o.stop()
	keys, err := filepath.Glob(filepath.Join(o.storage, "certificates", "*", "api.example.test", "*.key"))
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if err := os.WriteFile(keys[0], []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.start(text)
	if o.await("api.example.test").Cmp(first) == 0 {
		t.Error("the same certificate")
	}
	if !strings.Contains(o.log.String(), "the stored certificate can not be used") {
		t.Error(o.log)
	}
}

// What can not work is said before anything is done, also in a dry run.
func TestObtainRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &obtaining{t: t, secure: nobody(t), plain: nobody(t), storage: file, backend: answering(t, echoHead),
		authority: &acmetest.Authority{Directory: "https://ca.example.test/dir", CA: file}}
	c, err := config.Parse("test.yaml", []byte(o.config("domains: [api.example.test]", "", "")), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All()})
	defer g.Shutdown(t.Context())
	for _, err := range []error{g.Apply(c), g.Check(c)} {
		for _, want := range []string{"test.yaml:3:", "listeners.secure.tls.acme.ca: ", "there is no PEM certificate", "listeners.secure.tls.acme.storage: ", "name a folder that it may write"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
}

// A gateway ends with everything it began, also in the middle of an order.
func TestObtainEnds(t *testing.T) {
	o := newObtaining(t, 0)
	o.authority.Start()
	silent, begun, _ := silent(t)
	before := goleak.IgnoreCurrent()
	text := o.config("domains: [api.example.test]", "", "")
	o.start(text)
	o.await("api.example.test")
	// An authority that takes connections and says nothing.
	o.apply(strings.Replace(text, o.authority.Directory, "http://"+silent.addr+"/dir", 1))
	within(t, "the other authority is asked", begun)
	o.stop()
	o.authority.Stop()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(before,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1")); err != nil {
		t.Error(err)
	}
}
