// Package websocketlimit bounds WebSockets: how many a caller may have open, and what may be sent over each. It decides at the handshake; what
// carries the connection afterwards, a tunnel to a service or an action that speaks WebSocket itself, keeps to it. Other requests pass untouched.
package websocketlimit

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"sync"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/wsconn"
)

// Config are the settings of the policy `websocket_limit`, for WebSockets that pass to a service as for those of the actions `websocket` and `grpc`, whose own settings hold besides. Those that pass are looked at frame by frame,
// without what is in them: an extension that client and service agree on, as permessage-deflate, works as ever, and sizes are those on the wire.
//
// A client over a limit has its connection closed: 1009 for a message that is too large, 1008 for too many, 1001 for an idle one; the service is told 1001. Where the service breaks one it is closed with its code, and the client with 1011.
// When the gateway goes away, both ends of every WebSocket are told so by 1001, with this policy or without; a reload closes none that passes to a service.
type Config struct {
	// MaxMessage bounds a message of the client; 0: no bound.
	MaxMessage config.Size `yaml:"max_message" default:"0"`
	// MaxServiceMessage bounds a message of the service; 0: no bound.
	MaxServiceMessage config.Size `yaml:"max_service_message" default:"0"`
	// Rate bounds the client's messages. Off when left out.
	Rate wsconn.Rate `yaml:"rate" default:"off"`
	// IdleTimeout closes a connection over which there was no message in either direction for this long; pings are none. 0s: never.
	IdleTimeout config.Duration `yaml:"idle_timeout" default:"0s"`
	// Ping asks a client that has sent nothing for this long whether it is there, with an empty ping whose answer the service does not see. One that says nothing for as long again is gone. 0s: never.
	Ping config.Duration `yaml:"ping" default:"0s"`
	// MaxConnections bounds the connections that are open at once, by `by`; 0: no bound. Others get 503, or 429 where the bound is their own, with Retry-After.
	MaxConnections int `yaml:"max_connections" default:"0" min:"0"`
	// By says whose connections are bounded together: `global` for all under this block, `route`, `consumer`, `tenant`, `ip`, `header:NAME` or `claim:NAME`, as for `concurrency`. Default: `global`; in the block of a consumer `consumer`, in that of a tenant `tenant`, and in a plan whichever of the two takes it.
	By string `yaml:"by"`
	// Origins from which browsers may connect, as `https://app.example.com`; others get 403. Browsers let any page open a WebSocket to any site, with that site's cookies, so that this matters wherever a cookie authenticates. Default: any; clients that send no Origin are no browsers and pass.
	Origins []string `yaml:"origins"`
}

// Definition is the policy `websocket_limit`.
var Definition = policy.Define("websocket_limit", policy.Limit, build)

var (
	rejectFull   = exchange.NewReject(503, "websocket_connections", "too many connections are open; try again later", exchange.Header("Retry-After", "5"))
	rejectOwn    = exchange.NewReject(429, "websocket_connections", "too many of your connections are open; close one, or try again later", exchange.Header("Retry-After", "5"))
	rejectOrigin = exchange.NewReject(403, "origin_not_allowed", "pages of this origin may not connect")
)

type limiter struct {
	limits  exchange.SocketLimits
	origins []string // lower case
	most    int
	key     policy.Key
	refusal *exchange.Reject
	open    *connections
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	l := &limiter{most: c.MaxConnections, refusal: rejectFull, limits: exchange.SocketLimits{
		MaxMessage: int64(c.MaxMessage), MaxAnswer: int64(c.MaxServiceMessage), Pace: c.Rate.Pace(), Idle: c.IdleTimeout, Ping: c.Ping,
	}}
	for _, o := range c.Origins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme == "" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
			return policy.Hooks{}, policy.Wrong("origins", "%q is no origin; write it as https://app.example.com", o)
		}
		l.origins = append(l.origins, strings.ToLower(strings.TrimRight(o, "/")))
	}
	by, err := policy.ParseBy(cmp.Or(c.By, b.Taker, "global"))
	switch {
	case err != nil:
		return policy.Hooks{}, policy.Wrong("by", "%v", err)
	case c.By != "" && c.MaxConnections == 0:
		return policy.Hooks{}, policy.Wrong("by", "says whose connections max_connections bounds, which is left out")
	}
	if l.key = b.Key(by, ""); !l.key.Constant() {
		l.refusal = rejectOwn
	}
	hooks := policy.Hooks{Request: l.request}
	if l.most > 0 && !b.World.DryRun {
		if l.open, err = policy.Living(b, "connections", newConnections); err != nil {
			return policy.Hooks{}, err
		}
		hooks.Done = l.done
	}
	return hooks, nil
}

// seat is the place of an exchange among the open connections.
type seat struct{ key string }

var seats = exchange.NewSlot[seat]()

func (l *limiter) request(x *exchange.Exchange) error {
	if !x.IsWebSocket() {
		return nil
	}
	if l.origins != nil {
		if o := x.RequestHeader("Origin"); o != nil && !slices.ContainsFunc(l.origins, func(allowed string) bool { return exchange.EqualFold(o, allowed) }) {
			return rejectOrigin
		}
	}
	if l.open != nil {
		var room [policy.KeySize]byte
		key, ok := l.open.enter(l.key.Append(room[:0], x), l.most)
		if !ok {
			return l.refusal
		}
		seats.Of(x).key = key
	}
	x.Sockets = &l.limits
	return nil
}

func (l *limiter) done(x *exchange.Exchange) {
	if !seats.Has(x) {
		return
	}
	if s := seats.Of(x); s.key != "" {
		l.open.leave(s.key)
		s.key = ""
	}
}

// connections counts what is open by key. A key is there while one of its connections is.
type connections struct {
	mu    sync.Mutex
	byKey map[string]int
}

func newConnections() (*connections, error) { return &connections{byKey: make(map[string]int)}, nil }

func (c *connections) enter(key []byte, most int) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byKey[string(key)]
	if n >= most {
		return "", false
	}
	k := string(key)
	c.byKey[k] = n + 1
	return k, true
}

func (c *connections) leave(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[key]--; c.byKey[key] <= 0 {
		delete(c.byKey, key)
	}
}
