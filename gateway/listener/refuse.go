package listener

import (
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/exchange"
	"sluice/gateway/telemetry"
)

// refusal is why a connection was closed before it was served.
type refusal uint8

const (
	overConnections refusal = iota
	overConnectionsPerIP
	proxyUntrusted
	proxyMissing
	proxyMalformed
	refusals // their number
)

// refusalWords name the refusals in metrics.
var refusalWords = [refusals]string{"max_connections", "max_connections_per_ip", "proxy_untrusted", "proxy_missing", "proxy_malformed"}

// refusalSays is what the operator log says of a refusal.
var refusalSays = [refusals]string{
	"refused a connection: the listener has as many as limits.max_connections allows",
	"refused a connection: its address has as many as limits.max_connections_per_ip allows",
	"refused a connection: proxy_protocol is require, and its peer is none of trusted_proxies",
	"refused a connection: proxy_protocol is require, and its peer, one of trusted_proxies, sent no PROXY protocol header",
	"refused a connection: its peer, one of trusted_proxies, sent a PROXY protocol header that is malformed or too long",
}

// refusalAnswers go to clients before TLS or anything else was spoken; "" is none.
var refusalAnswers = [refusals]string{
	overConnections:      answerUnread("too_many_connections", "the gateway has too many connections; try again"),
	overConnectionsPerIP: answerUnread("too_many_connections", "there are too many connections from this address"),
}

// answerUnread renders a complete 503 for a request that nobody has read.
func answerUnread(reason, detail string) string {
	body := exchange.NewReject(503, reason, detail).AppendProblem(nil, nil, nil)
	return "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/problem+json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + string(body)
}

// refusalsEvery is how often the operator log tells of one kind of refusal.
const refusalsEvery = 10 * time.Second

// counters are the series of a listener, by its name in the configuration.
type counters struct {
	refused [refusals]*telemetry.Counter

	mu    sync.Mutex // for http2, whose series are made when they are needed
	http2 [errorScopes][len(errorWords)]*telemetry.Counter
	make  func(scope, code string) *telemetry.Counter
}

func (c *counters) countHTTP2(scope errorScope, code int) {
	c.mu.Lock()
	n := c.http2[scope][code]
	if n == nil {
		n = c.make(errorScopeWords[scope], errorWords[code])
		c.http2[scope][code] = n
	}
	c.mu.Unlock()
	n.Inc()
}

// Count counts in m from now on, for the generation that gave the listener its name.
func (l *Listener) Count(m *telemetry.Metrics, g *telemetry.Generation) {
	c := new(counters)
	for r, word := range refusalWords {
		c.refused[r] = m.ConnectionsRefused.With(g, l.Name(), word)
	}
	name := l.Name()
	c.make = func(scope, code string) *telemetry.Counter { return m.HTTP2Errors.With(g, name, scope, code) }
	l.counters.Store(c)
}

// turnAway refuses a connection that is not on the books yet.
func (l *Listener) turnAway(c *conn, why refusal) {
	l.refuse(c, why)
	_ = c.tcp.Close()
}

// refuse counts a connection that is not served, says so now and then, and
// answers where an answer can be read. To close it is the caller's.
func (l *Listener) refuse(c *conn, why refusal) {
	l.refused.Add(1)
	if n := l.counters.Load(); n != nil {
		n.refused[why].Inc()
	}
	l.say.Log(slog.LevelWarn, refusalWords[why], refusalSays[why], "listener", l.Name(), "client", c.peer.String())
	if answer := refusalAnswers[why]; answer != "" && !c.secured && c.tcp != nil {
		_ = c.tcp.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.tcp.Write([]byte(answer))
		c.discard()
	}
}

// discard throws away what the client has sent so far: closing a socket with
// bytes unread resets the connection, and a reset may take the answer with it.
func (c *conn) discard() {
	if c.raw == nil {
		return
	}
	_ = c.raw.Control(func(fd uintptr) {
		var b [4 << 10]byte
		for range 8 {
			if n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_DONTWAIT); err != nil || n < len(b) {
				return
			}
		}
	})
}
