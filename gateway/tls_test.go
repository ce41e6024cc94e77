package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/certs/certstest"
)

// secured is a configuration with a TLS listener in front of s. tls is the
// block's inside, listener the listener's further settings.
func secured(s *server, tls, listener, more string) string {
	return fmt.Sprintf("listeners: {main: {address: \"127.0.0.1:0\", tls: {%s}%s}}\n", tls, comma(listener)) + forwarding(s, "", "", more)
}

func certificate(cert, key string) string {
	return fmt.Sprintf("certificates: [{cert: %q, key: %q}]", cert, key)
}

// secure opens a TLS connection to the gateway; the handshake is done.
func (g *gate) secure(c *tls.Config) (*peer, tls.ConnectionState) {
	g.t.Helper()
	p, state, err := g.trySecure(c)
	if err != nil {
		g.t.Fatal(err)
	}
	return p, state
}

func (g *gate) trySecure(c *tls.Config) (*peer, tls.ConnectionState, error) {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	t := tls.Client(conn, c)
	if err := t.Handshake(); err != nil {
		return nil, tls.ConnectionState{}, err
	}
	return newPeer(g.t, t), t.ConnectionState(), nil
}

func echoHead(head, _ string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(head), head)
}

func TestTLSVersions(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := answering(t, echoHead)
	f := func(settings string, version uint16, wantVersion uint16) {
		t.Helper()
		g := serve(t, gateway.Options{}, secured(s, cert+comma(settings), "", ""))
		p, state, err := g.trySecure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example", MinVersion: version, MaxVersion: version})
		if wantVersion == 0 {
			if err == nil {
				t.Errorf("%s: version %x was accepted", settings, version)
			}
			return
		}
		if err != nil || state.Version != wantVersion {
			t.Fatalf("%s: version %x, %v", settings, state.Version, err)
		}
		p.send("GET /a HTTP/1.1\r\nHost: api.example\r\n\r\n")
		head, body := p.response()
		if statusOf(head) != 200 || !strings.Contains(body, "X-Forwarded-Proto: https\r\n") || !strings.Contains(body, "X-Forwarded-Port: 443\r\n") {
			t.Errorf("%s\n%s", head, body)
		}
		if _, ok := field(head, "Strict-Transport-Security"); ok {
			t.Errorf("an unasked field: %s", head)
		}
	}
	f("", tls.VersionTLS13, tls.VersionTLS13)
	f("", tls.VersionTLS12, tls.VersionTLS12)
	f("", tls.VersionTLS11, 0)
	f(`min_version: "1.3"`, tls.VersionTLS13, tls.VersionTLS13)
	f(`min_version: "1.3"`, tls.VersionTLS12, 0)
}

func TestTLSSuites(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}, RSA: true}))
	g := serve(t, gateway.Options{}, secured(answering(t, echoHead), cert, "", ""))
	f := func(suite uint16, want bool) {
		t.Helper()
		_, _, err := g.trySecure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		}
	}
	f(tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true)
	f(tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, true)
	f(tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, false)
	f(tls.TLS_RSA_WITH_AES_128_GCM_SHA256, false)
	f(tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA, false)
}

func TestSNI(t *testing.T) {
	a := certstest.New(t)
	one, oneKey := a.Issue("one", certstest.Leaf{CN: "one", DNS: []string{"one.example"}})
	two, twoKey := a.Issue("two", certstest.Leaf{CN: "two", DNS: []string{"*.two.example"}})
	s := answering(t, echoHead)
	g := serve(t, gateway.Options{}, fmt.Sprintf(`
listeners: {main: {address: "127.0.0.1:0", tls: {certificates: [{cert: %q, key: %q}, {cert: %q, key: %q}], hsts: 1h}}}
services: {s: {endpoints: ["http://%s"]}}
routes:
  any: {match: {paths: [/]}, service: s}
  two: {match: {paths: [/], snis: [a.two.example], schemes: [https], methods: [GET]}, respond: {status: 201, body: two}}
  plain: {match: {paths: [/], schemes: [http], methods: [GET]}, respond: {status: 202}}
`, one, oneKey, two, twoKey, s.addr))
	f := func(name, wantSubject string, wantStatus int) {
		t.Helper()
		p, state := g.secure(&tls.Config{InsecureSkipVerify: true, ServerName: name})
		if got := state.PeerCertificates[0].Subject.CommonName; got != wantSubject {
			t.Errorf("%s: certificate of %s", name, got)
		}
		p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		head, _ := p.response()
		if statusOf(head) != wantStatus {
			t.Errorf("%s: %s", name, head)
		}
		if v, _ := field(head, "Strict-Transport-Security"); v != "max-age=3600" {
			t.Errorf("%s: %s", name, head)
		}
	}
	f("one.example", "one", 200)
	f("a.two.example", "two", 201)
	f("b.two.example", "two", 200)
	f("other.example", "one", 200)
	f("", "one", 200)
}

func TestClientCertificates(t *testing.T) {
	a, stranger := certstest.New(t), certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	mine := a.Pair(a.Issue("client", certstest.Leaf{CN: "alice", Client: true}))
	foreign := stranger.Pair(stranger.Issue("client", certstest.Leaf{CN: "alice", Client: true}))
	s := answering(t, echoHead)
	f := func(mode string, want bool, with ...tls.Certificate) {
		t.Helper()
		g := serve(t, gateway.Options{}, secured(s, cert+fmt.Sprintf(", client_auth: {mode: %s, ca: %q}", mode, a.File), "", ""))
		// A certificate that the server does not ask for by its authority is sent all the same.
		c := &tls.Config{RootCAs: a.Pool(), ServerName: "api.example", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(with) == 0 {
				return new(tls.Certificate), nil
			}
			return &with[0], nil
		}}
		p, _, err := g.trySecure(c)
		if err == nil {
			// In TLS 1.3 the client is done before it is judged.
			_, _ = io.WriteString(p.conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			_, err = p.r.Peek(12)
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", mode, err)
		}
	}
	f("none", true)
	f("request", true)
	f("request", true, mine)
	f("request", false, foreign)
	f("require", false)
	f("require", true, mine)
	f("require", false, foreign)
}

// The caller is who the certificate is about, over HTTP/1.1 and HTTP/2.
func TestMTLSAuth(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	alice := a.Pair(a.Issue("alice", certstest.Leaf{CN: "alice", Client: true}))
	carol := a.Pair(a.Issue("carol", certstest.Leaf{CN: "c", URIs: []string{"spiffe://acme/carol"}, Client: true}))
	mallory := a.Pair(a.Issue("mallory", certstest.Leaf{CN: "mallory", Client: true}))
	b := answering(t, echoHead)
	for _, beside := range []string{"", "jwt: {algorithms: [HS256], secret: a-secret-of-thirty-two-bytes-or-more}, "} {
		g := serve(t, gateway.Options{}, secured(b, cert+fmt.Sprintf(", client_auth: {mode: request, ca: %q}", a.File), "", `
consumers: {alice: {groups: [staff]}, bob: {}}
policies: {`+beside+`mtls_auth: {consumers: {"spiffe://acme/carol": bob}}}
`))
		f := func(status int, consumer string, with ...tls.Certificate) {
			t.Helper()
			for _, h2 := range []bool{false, true} {
				tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool(), ServerName: "api.example", Certificates: with}, ForceAttemptHTTP2: h2}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.addr+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-User-ID", "root")
				res, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				tr.CloseIdleConnections()
				if res.StatusCode != status || (res.ProtoMajor == 2) != h2 {
					t.Errorf("%s: %s %d\n%s", consumer, res.Proto, res.StatusCode, body)
				}
				if consumer == "" {
					continue
				}
				if user := fields(string(body), "X-User-ID"); len(user) != 1 || user[0] == "root" {
					t.Errorf("the user of %s is %q", consumer, user)
				}
				if got := fields(string(body), "X-Consumer-ID"); !slices.Equal(got, []string{consumer}) {
					t.Errorf("got %q, want %s in\n%s", got, consumer, body)
				}
			}
		}
		f(200, "alice", alice)
		f(200, "bob", carol)
		f(401, "", mallory)
		f(401, "")
	}
}

// Clients that open one TLS connection after the other while the gateway
// drains get an answer on each that is taken, whenever they speak; the others
// are refused before a byte of TLS.
func TestDrainUnderHandshakes(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := answering(t, echoHead)
	f := func(proto string) {
		t.Helper()
		g := serve(t, gateway.Options{DrainDelay: 50 * time.Millisecond}, secured(s, cert, "", ""))
		var clients sync.WaitGroup
		var served atomic.Int64
		for i := range 16 {
			clients.Go(func() {
				// Half of them take their time between connecting, handshake and request.
				ponder := func() {
					if i%2 == 0 {
						time.Sleep(rand.N(20 * time.Millisecond))
					}
				}
				for {
					nc, err := net.DialTimeout("tcp", g.addr, patience)
					if err != nil {
						return
					}
					_ = nc.SetDeadline(time.Now().Add(patience))
					ponder()
					c := tls.Client(nc, &tls.Config{RootCAs: a.Pool(), ServerName: "api.example", NextProtos: []string{proto}})
					if err := c.Handshake(); err != nil {
						t.Errorf("%s: handshake: %v", proto, err)
						_ = nc.Close()
						return
					}
					ponder()
					if err := ask(c); err != nil {
						t.Errorf("%s: %v", proto, err)
					}
					served.Add(1)
					_ = c.Close()
				}
			})
		}
		once(t, "there is load", func() bool { return served.Load() > 100 })
		g.Shutdown(context.Background())
		clients.Wait()
		t.Logf("%d served", served.Load())
	}
	for range 3 {
		f("http/1.1")
		f("h2")
	}
}

// ask sends a request on a connection, in the protocol that was agreed on, and
// reads the whole answer.
func ask(c *tls.Conn) error {
	r, _ := http.NewRequest("GET", "https://api.example/", nil)
	var res *http.Response
	var err error
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		var cc *http2.ClientConn
		if cc, err = new(http2.Transport).NewClientConn(c); err == nil {
			res, err = cc.RoundTrip(r)
		}
	} else if err = r.Write(c); err == nil {
		res, err = http.ReadResponse(bufio.NewReader(c), r)
	}
	if err == nil {
		_, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	return err
}

// A client that speaks plain HTTP is told so; others that fail the handshake
// leave nothing behind.
func TestHandshakeFailure(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	g := serve(t, gateway.Options{}, secured(answering(t, echoHead), cert, "", "limits: {header_timeout: 200ms}"))
	p := g.client()
	p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	head, body := p.response()
	if statusOf(head) != 400 || !strings.Contains(body, "HTTPS") {
		t.Errorf("%s%s", head, body)
	}
	p.ended()
	p = g.client()
	p.send("\x16\x03\x01garbage that is no handshake, whatever it begins with")
	_, _ = io.Copy(io.Discard, p.r)
	p = g.client() // says nothing
	p.ended()
	p = g.client() // begins and stalls
	p.send("\x16\x03\x01\x02\x00\x01")
	p.ended()
	once(t, "the connections are forgotten", func() bool { return g.active() == 0 })
}

func TestCertificateErrors(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}})
	_, other := a.Issue("y", certstest.Leaf{CN: "y"})
	expired, expiredKey := a.Issue("z", certstest.Leaf{CN: "z", DNS: []string{"z.example"}, NotAfter: time.Now().Add(-time.Minute)})
	s := answering(t, echoHead)
	var log bytes.Buffer
	g := serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, secured(s, certificate(expired, expiredKey), "", ""))
	if !strings.Contains(log.String(), "has expired on") || !strings.Contains(log.String(), "listeners.main.tls.certificates[0].cert") {
		t.Errorf("no warning: %s", log.String())
	}
	f := func(tls string, want ...string) {
		t.Helper()
		c, err := config.Parse("test.yaml", []byte(secured(s, tls, "", "")), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		err = g.Apply(c)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %s", tls, err, w)
			}
		}
	}
	f(certificate(cert, other), "test.yaml:1:", "listeners.main.tls.certificates[0].key: ", "the key is not that of the certificate")
	f(certificate(a.Dir+"/missing", key), "listeners.main.tls.certificates[0].cert: ", "no such file")
	f(certificate(cert, key)+", client_auth: {mode: require, ca: "+key+"}", "listeners.main.tls.client_auth.ca: ", "there is no PEM certificate")
}

func TestALPN(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := answering(t, echoHead)
	f := func(listener string, offer []string, want string) {
		t.Helper()
		g := serve(t, gateway.Options{}, secured(s, cert, listener, ""))
		_, state := g.secure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example", NextProtos: offer})
		if state.NegotiatedProtocol != want {
			t.Errorf("%s %q: %q", listener, offer, state.NegotiatedProtocol)
		}
	}
	f("", []string{"h2", "http/1.1"}, "h2")
	f("", []string{"http/1.1", "h2"}, "h2")
	f("", []string{"http/1.1"}, "http/1.1")
	f("", nil, "")
	f("http2: false", []string{"h2", "http/1.1"}, "http/1.1")
}

// Certificates change while requests are on their way: by new contents of the
// files, and by a configuration that names others. No connection fails, and a
// broken file changes nothing.
func TestCertificatesReload(t *testing.T) {
	a := certstest.New(t)
	cert, key := a.Issue("x", certstest.Leaf{CN: "first", DNS: []string{"api.example"}})
	s := answering(t, func(string, string) string { return okAnswer })
	log := new(lockedBuffer)
	g := serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(log, nil))}, secured(s, certificate(cert, key), "", ""))
	text := secured(s, certificate(cert, key), "", "")
	g.apply(text)

	subject := func() string {
		_, state := g.secure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example"})
		return state.PeerCertificates[0].Subject.CommonName
	}
	open, _ := g.secure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example"})
	stop, served := make(chan struct{}), atomic.Int64{}
	var load sync.WaitGroup
	for i := range 3 {
		load.Go(func() {
			client := &http.Client{Timeout: patience, Transport: &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: a.Pool(), ServerName: "api.example"}, ForceAttemptHTTP2: i == 0, DisableKeepAlives: i == 1,
			}}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Get("https://" + g.addr + "/")
				if err != nil {
					t.Errorf("a request failed: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				served.Add(1)
			}
		})
	}
	defer func() { close(stop); load.Wait() }()
	more := func() {
		t.Helper()
		before := served.Load()
		once(t, "requests pass", func() bool { return served.Load() > before+20 || t.Failed() })
	}
	more()
	a.Issue("x", certstest.Leaf{CN: "second", DNS: []string{"api.example"}})
	g.RefreshCertificates()
	if got := subject(); got != "second" {
		t.Errorf("%s after the files changed", got)
	}
	more()
	if err := os.WriteFile(key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.RefreshCertificates()
	g.RefreshCertificates()
	if got := subject(); got != "second" {
		t.Errorf("%s after a broken file", got)
	}
	if n := strings.Count(log.String(), "there is no PEM private key"); n != 1 {
		t.Errorf("the broken file is named %d times in the log", n)
	}
	third, thirdKey := a.Issue("y", certstest.Leaf{CN: "third", DNS: []string{"api.example"}})
	g.apply(strings.NewReplacer(cert, third, key, thirdKey).Replace(text))
	if got := subject(); got != "third" {
		t.Errorf("%s after a reload", got)
	}
	more()
	open.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	open.wants(200, "ok")
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Sessions are resumed over a reload, but not where it changes what clients must prove.
func TestResumption(t *testing.T) {
	a, b := certstest.New(t), certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := answering(t, func(string, string) string { return okAnswer })
	g := serve(t, gateway.Options{}, secured(s, cert, "", ""))
	settings := func(more string) string {
		return secured(s, cert+comma(more), "", "")
	}
	cache := tls.NewLRUClientSessionCache(4)
	f := func(want bool) {
		t.Helper()
		p, state := g.secure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example", ClientSessionCache: cache})
		if state.DidResume != want {
			t.Errorf("resumed: %t", state.DidResume)
		}
		p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		p.wants(200, "ok")
	}
	f(false)
	f(true)
	g.apply(settings(`min_version: "1.2", hsts: 1h`))
	f(true)
	g.apply(settings(fmt.Sprintf("client_auth: {mode: request, ca: %q}", a.File)))
	f(false)
	f(true)
	g.apply(settings(fmt.Sprintf("client_auth: {mode: request, ca: %q}", b.File)))
	f(false)
	f(true)
	// The file of authorities changes by itself.
	pem, err := os.ReadFile(a.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.File, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	g.RefreshCertificates()
	f(false)
}

// A client that goes away during a wait is noticed under TLS as well.
func TestTLSClientGone(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s, begun, ended := silent(t)
	g := serve(t, gateway.Options{}, secured(s, cert, "", ""))
	p, _ := g.secure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example"})
	p.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	within(t, "the backend has the request", begun)
	p.close()
	within(t, "the backend is let go", ended)
}

// What fasthttp's own buffer would hold back over a slow body, and a tunnel, work under TLS.
func TestTLSUpgrade(t *testing.T) {
	a := certstest.New(t)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	s := backend(t, func(p *peer) {
		if p.head() == "" {
			return
		}
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(p.conn, p.r)
	})
	g := serve(t, gateway.Options{}, secured(s, cert, "", ""))
	p, _ := g.secure(&tls.Config{RootCAs: a.Pool(), ServerName: "api.example"})
	p.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if head := p.head(); statusOf(head) != 101 {
		t.Fatal(head)
	}
	p.send("through the tunnel")
	if got := p.bytes(18); got != "through the tunnel" {
		t.Error(got)
	}
	if err := p.conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(p.r); len(b) > 0 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", b, err)
	}
}
