package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/net/http2"

	"sluice/gateway"
	"sluice/gateway/certs/certstest"
)

// header is a PROXY protocol header as another program writes it.
func header(t testing.TB, version byte, client string, more ...proxyproto.TLV) string {
	t.Helper()
	from, err := net.ResolveTCPAddr("tcp", client)
	if err != nil {
		t.Fatal(err)
	}
	to := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	if from.IP.To4() == nil {
		to.IP = net.ParseIP("2001:db8::ffff")
	}
	h := proxyproto.HeaderProxyFromAddrs(version, from, to)
	if err := h.SetTLVs(more); err != nil {
		t.Fatal(err)
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// local is the header of a proxy that looks whether anybody is there.
func local(t testing.TB) string {
	t.Helper()
	b, err := proxyproto.HeaderProxyFromAddrs(2, nil, nil).Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// proxied is a configuration whose listener takes the PROXY protocol from this machine.
func proxied(s *server, mode, listener, more string) string {
	return fmt.Sprintf("listeners: {main: {address: \"127.0.0.1:0\", proxy_protocol: %s%s}}\ntrusted_proxies: [\"127.0.0.0/8\"]\n", mode, comma(listener)) +
		forwarding(s, "", "", more)
}

const fromNowhere = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n"

// came asserts whom the backend takes for the client.
func (p *peer) came(client string) {
	p.t.Helper()
	head, body := p.response()
	if v, _ := field(body, "X-Forwarded-For"); statusOf(head) != 200 || v != client {
		p.t.Errorf("want %s\n%s%s", client, head, body)
	}
}

func TestProxyProtocolSuccess(t *testing.T) {
	s := answering(t, echoHead)
	large := proxyproto.TLV{Type: 0xe0, Value: make([]byte, 3000)}
	f := func(g *gate, header, client string) {
		t.Helper()
		c := g.client()
		c.send(header + fromNowhere + fromNowhere)
		c.came(client)
		c.came(client)
		c.send("POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nContent-Length: 4\r\n\r\nbody" + fromNowhere)
		c.came(client)
		c.came(client)
		// However it is cut, no byte is lost and none is taken twice.
		c = g.client()
		_ = c.conn.(*net.TCPConn).SetNoDelay(true)
		all := header + fromNowhere
		for i := range min(len(header)+20, 300) {
			c.send(all[i : i+1])
		}
		c.send(all[min(len(header)+20, 300):])
		c.came(client)
	}
	for _, mode := range []string{"accept", "require"} {
		g := serve(t, gateway.Options{}, proxied(s, mode, "", ""))
		f(g, header(t, 1, "203.0.113.7:1234"), "203.0.113.7")
		f(g, header(t, 2, "203.0.113.7:1234"), "203.0.113.7")
		f(g, header(t, 1, "[2001:db8::7]:1234"), "2001:db8::7")
		f(g, header(t, 2, "[2001:db8::7]:1234"), "2001:db8::7")
		f(g, header(t, 2, "203.0.113.7:1234", large), "203.0.113.7")
		// The proxy speaks for itself, and what it forwards is believed as before.
		f(g, "PROXY UNKNOWN\r\n", "9.9.9.9, 127.0.0.1")
		f(g, local(t), "9.9.9.9, 127.0.0.1")
		if mode == "accept" {
			f(g, "", "9.9.9.9, 127.0.0.1")
			// What begins as a header does.
			c := g.client()
			for _, piece := range []string{"P", "R", "OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"} {
				c.send(piece)
			}
			c.came("127.0.0.1")
		}
	}
	// A client that is a proxy itself is believed, too.
	g := serve(t, gateway.Options{}, strings.Replace(proxied(s, "require", "", ""), "127.0.0.0/8\"", "127.0.0.0/8\", \"203.0.113.0/24\"", 1))
	c := g.client()
	c.send(header(t, 2, "203.0.113.7:1") + fromNowhere)
	c.came("9.9.9.9, 203.0.113.7")
}

func TestProxyProtocolFailure(t *testing.T) {
	s := answering(t, echoHead)
	var log lockedBuffer
	g := serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, proxied(s, "require", "", ""))
	closed := func(g *gate, send string) {
		t.Helper()
		c := g.client()
		_, _ = io.WriteString(c.conn, send)
		c.ended()
	}
	count := func(g *gate, reason string, want float64) {
		t.Helper()
		if n := g.metric(`sluice_connections_refused_total{listener="main",reason="` + reason + `"}`); n != want {
			t.Errorf("%v connections were refused as %s, want %v", n, reason, want)
		}
	}
	closed(g, fromNowhere)
	closed(g, "\x16\x03\x01")
	count(g, "proxy_missing", 2)
	v2 := header(t, 2, "203.0.113.7:1")
	for _, bad := range []string{
		"PROXY TCP4 203.0.113.7\r\n", "PROXY GET / HTTP/1.1\r\n", "PROXY UNKNOWN " + strings.Repeat("x", 200), "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\nGET",
		v2[:12] + "\x31" + v2[13:], v2[:13] + "\x13" + v2[14:], v2[:14] + "\xff\xff" + v2[16:], v2[:14] + "\x00\x0b" + v2[16:],
	} {
		closed(g, bad+fromNowhere)
	}
	count(g, "proxy_malformed", 8)
	if n := strings.Count(log.String(), "PROXY protocol header that is malformed"); n != 1 {
		t.Errorf("it is logged %d times: %s", n, log.String())
	}
	// A second header is a request.
	c := g.client()
	c.send(v2 + "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n")
	c.refused(400, "bad_version")

	g = serve(t, gateway.Options{}, proxied(s, "accept", "", ""))
	closed(g, "PROXY TCP4 203.0.113.7\r\n"+fromNowhere)
	count(g, "proxy_malformed", 1)

	// From others: closed, or malformed HTTP.
	untrusted := func(mode string) string {
		return strings.Replace(proxied(s, mode, "", ""), "127.0.0.0/8", "192.0.2.0/24", 1)
	}
	g = serve(t, gateway.Options{}, untrusted("require"))
	closed(g, v2+fromNowhere)
	closed(g, fromNowhere)
	count(g, "proxy_untrusted", 2)
	g = serve(t, gateway.Options{}, untrusted("accept"))
	for _, header := range []string{header(t, 1, "203.0.113.7:1"), v2} {
		c := g.client()
		c.send(header + fromNowhere)
		head, _ := c.response()
		if statusOf(head) != 400 {
			t.Errorf("%q: %s", header, head)
		}
		c.ended()
	}
	c = g.client()
	c.send(fromNowhere)
	c.came("127.0.0.1")

	// Where nobody is believed, the operator is told.
	log.reset()
	serve(t, gateway.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, "listeners: {main: {address: \"127.0.0.1:0\", proxy_protocol: require}}\n"+respondOK)
	if !strings.Contains(log.String(), "setting=listeners.main.proxy_protocol") {
		t.Errorf("no warning: %s", log.String())
	}
}

// A header that does not come, or not whole, ends with the time for a head, or with the client.
func TestProxyProtocolTimeout(t *testing.T) {
	t.Parallel()
	s := answering(t, echoHead)
	g := serve(t, gateway.Options{}, proxied(s, "accept", "", "limits: {header_timeout: 200ms}"))
	v2 := header(t, 2, "203.0.113.7:1", proxyproto.TLV{Type: 0xe0, Value: make([]byte, 1000)})
	cuts := []string{"", "P", "PROXY ", "PROXY TCP4 203.0.1", v2[:1], v2[:12], v2[:15], v2[:20], v2[:600], v2}
	for _, begun := range cuts {
		c := g.client()
		c.send(begun)
		c.ended()
	}
	g = serve(t, gateway.Options{}, proxied(s, "require", "", "limits: {header_timeout: 1h}"))
	for _, begun := range cuts {
		c := g.client()
		c.send(begun)
		_ = c.conn.(*net.TCPConn).CloseWrite()
		c.ended()
	}
	once(t, "the connections are forgotten", func() bool { return len(g.Listeners()) == 1 && g.Listeners()[0].Idle+g.active() == 0 })
}

// What a policy or a limit says of an address, it says of the client's.
func TestProxyProtocolPeer(t *testing.T) {
	s := answering(t, echoHead)
	g := serve(t, gateway.Options{}, proxied(s, "require", "", "policies: {ip_filter: {deny: [203.0.113.66]}}\nlimits: {max_connections_per_ip: 2}\n"))
	as := func(client string) *peer {
		c := g.client()
		c.send(header(t, 2, client+":1") + fromNowhere)
		return c
	}
	denied := as("203.0.113.66")
	denied.refused(403, "address_not_allowed")
	denied.close()
	var held []*peer
	for range 2 {
		for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.9"} {
			c := as(client)
			c.came(client)
			held = append(held, c)
		}
	}
	as("203.0.113.7").tooMany()
	if n := g.metric(`sluice_connections_refused_total{listener="main",reason="max_connections_per_ip"}`); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	held[0].close()
	once(t, "there is room again", func() bool {
		c := as("203.0.113.7")
		defer c.close()
		return statusOf(c.head()) == 200
	})
	for _, c := range held {
		c.close()
	}
	once(t, "the connections are forgotten", func() bool { return g.Listeners()[0].Idle+g.active() == 0 })
	// Nothing is left that was counted.
	for range 2 {
		for _, client := range []string{"203.0.113.7", "203.0.113.8", "203.0.113.9"} {
			as(client).came(client)
		}
	}
}

// TLS and HTTP/2 come behind the header.
func TestProxyProtocolBeforeOthers(t *testing.T) {
	a := certstest.New(t)
	s := answering(t, echoHead)
	cert := certificate(a.Issue("x", certstest.Leaf{CN: "x", DNS: []string{"api.example"}}))
	dial := func(addr string) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				_, err = io.WriteString(c, header(t, 2, "203.0.113.7:1"))
			}
			return c, err
		}
	}
	f := func(tr http.RoundTripper, url string, major int) {
		t.Helper()
		res, err := (&http.Client{Transport: tr, Timeout: patience}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		if res.StatusCode != 200 || res.ProtoMajor != major || !bytes.Contains(b, []byte("X-Forwarded-For: 203.0.113.7\r\n")) {
			t.Errorf("%s: %s %s\n%s", url, res.Proto, res.Status, b)
		}
	}
	g := serve(t, gateway.Options{}, proxied(s, "require", "tls: {"+cert+"}", ""))
	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{DialContext: dial(g.addr), TLSClientConfig: &tls.Config{RootCAs: a.Pool()}, ForceAttemptHTTP2: h2}
		f(tr, "https://api.example/", map[bool]int{false: 1, true: 2}[h2])
		tr.CloseIdleConnections()
	}
	// The handshake alone is not enough, and nothing is said in plain text.
	if _, _, err := g.trySecure(&tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("a connection without a header was taken")
	}

	g = serve(t, gateway.Options{}, proxied(s, "require", "h2c: true", ""))
	tr := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		return dial(g.addr)(ctx, network, addr)
	}}
	f(tr, "http://api.example/", 2)
	tr.CloseIdleConnections()
	f(&http.Transport{DialContext: dial(g.addr), DisableKeepAlives: true}, "http://api.example/", 1)
}

// A reload changes what new connections begin with.
func TestProxyProtocolReload(t *testing.T) {
	s := answering(t, echoHead)
	at := nobody(t)
	with := func(mode string) string {
		return strings.Replace(proxied(s, mode, "", ""), "127.0.0.1:0", at, 1)
	}
	g := serve(t, gateway.Options{}, with("off"))
	old := g.client()
	old.send(fromNowhere)
	old.came("9.9.9.9, 127.0.0.1")
	g.apply(with("require"))
	c := g.client()
	c.send(header(t, 1, "203.0.113.7:1") + fromNowhere)
	c.came("203.0.113.7")
	old.send(fromNowhere)
	old.came("9.9.9.9, 127.0.0.1")
	g.apply(with("off"))
	c = g.client()
	c.send(header(t, 1, "203.0.113.7:1") + fromNowhere)
	c.refused(400, "bad_version")
}

// Somebody whose header is on its way when the gateway drains is still answered.
func TestProxyProtocolDrain(t *testing.T) {
	s := answering(t, echoHead)
	g := serve(t, gateway.Options{DrainDelay: time.Millisecond}, proxied(s, "require", "", ""))
	c := g.client()
	all := header(t, 2, "203.0.113.7:1") + fromNowhere
	c.send(all[:20])
	once(t, "it is accepted", func() bool { return g.Listeners()[0].Idle == 1 })
	down := make(chan struct{})
	go func() {
		defer close(down)
		g.Shutdown(context.Background())
	}()
	once(t, "nothing is accepted", func() bool {
		nc, err := net.DialTimeout("tcp", g.addr, time.Second)
		if err == nil {
			_ = nc.Close()
		}
		return err != nil
	})
	c.send(all[20:])
	c.came("203.0.113.7")
	c.ended()
	within(t, "the gateway is down", down)
}
