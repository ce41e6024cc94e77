// Package cors tells browsers which other origins may use the answers (Fetch standard, section 3.2), and answers their preflight
// requests. It guarantees that only what the settings allow reaches the client: the headers of a backend about it are taken away, and
// credentials are never allowed to an origin that is not listed.
package cors

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `cors`. It stands before authentication, since browsers send preflight requests without credentials. A
// request from an origin that is not allowed passes, and its answer says nothing that would let the browser use it.
type Config struct {
	// Origins that are allowed: `https://app.example.com`, `https://*.example.com` (any depth, not example.com itself), `~regex` (over the whole origin), `null`, or `*` for all.
	Origins config.StringList `yaml:"origins" default:"*"`
	// Methods that are allowed; `*` allows the one that is asked for.
	Methods []string `yaml:"methods" default:"GET,HEAD,PUT,PATCH,POST,DELETE"`
	// Headers of the request that are allowed. Default, or `*`: those that are asked for.
	Headers []string `yaml:"headers"`
	// Expose are the headers of the answer that scripts may read beside the safelisted ones.
	Expose []string `yaml:"expose"`
	// Credentials lets the browser send cookies and other credentials. Origins must then be listed.
	Credentials bool `yaml:"credentials"`
	// MaxAge is how long the browser may remember the answer to a preflight request. Default: what the browser does by itself, 5 seconds.
	MaxAge *config.Duration `yaml:"max_age" max:"7d"`
	// PrivateNetwork allows requests from public sites to a gateway in a private network.
	PrivateNetwork bool `yaml:"private_network"`
}

// Definition is the policy `cors`.
var Definition = policy.Define("cors", policy.Edge, build)

const (
	allowOrigin      = "Access-Control-Allow-Origin"
	allowMethods     = "Access-Control-Allow-Methods"
	allowHeaders     = "Access-Control-Allow-Headers"
	allowCredentials = "Access-Control-Allow-Credentials"
	allowNetwork     = "Access-Control-Allow-Private-Network"
	exposeHeaders    = "Access-Control-Expose-Headers"
	maxAge           = "Access-Control-Max-Age"

	requestMethod  = "Access-Control-Request-Method"
	requestHeaders = "Access-Control-Request-Headers"
	requestNetwork = "Access-Control-Request-Private-Network"
)

// answerHeaders are what a backend has no say in.
var answerHeaders = [...]string{allowOrigin, allowMethods, allowHeaders, allowCredentials, allowNetwork, exposeHeaders, maxAge}

var (
	star          = []byte("*")
	yes           = []byte("true")
	varyOrigin    = []byte("Origin")
	varyPreflight = []byte(requestMethod + ", " + requestHeaders)
	varyNetwork   = []byte(requestMethod + ", " + requestHeaders + ", " + requestNetwork)
)

type sharing struct {
	any     bool // the answer is `*`, whatever the origin
	origins origins
	methods []byte // nil: the one asked for
	headers []byte // nil: those asked for
	expose  []byte
	maxAge  []byte
	vary    []byte // of a preflight
	// credentials, network: whether they are allowed.
	credentials, network bool
	reply                *exchange.Reply
}

// preflight is the part of the answer that all preflight requests share.
var preflight = exchange.NewReply(fasthttp.StatusNoContent, exchange.Own)

// preflightKong is Kong's.
var preflightKong = exchange.NewReply(fasthttp.StatusOK, exchange.Own)

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	s := &sharing{credentials: c.Credentials, network: c.PrivateNetwork, vary: varyPreflight, reply: preflight}
	if b.World.Config.Compatibility == "kong" {
		s.reply = preflightKong
	}
	if s.network {
		s.vary = varyNetwork
	}
	var err error
	if s.origins, err = parseOrigins(c.Origins); err != nil {
		return policy.Hooks{}, err
	}
	s.any = slices.Contains(c.Origins, "*")
	if s.any && c.Credentials {
		return policy.Hooks{}, policy.Wrong("credentials", "must not be true for every origin: any site could then act as its visitor; list the origins")
	}
	if c.Credentials && slices.Contains(c.Origins, "null") {
		b.Warnf("origins", "allows null with credentials: every site can make a frame whose origin that is, and act as its visitor")
	}
	if s.methods, err = list("methods", c.Methods); err != nil {
		return policy.Hooks{}, err
	}
	if s.headers, err = list("headers", c.Headers); err != nil {
		return policy.Hooks{}, err
	}
	if slices.Contains(c.Expose, "*") && c.Credentials {
		return policy.Hooks{}, policy.Wrong("expose", "* is no wildcard for requests with credentials; list the headers")
	}
	if s.expose, err = list("expose", c.Expose); err != nil {
		return policy.Hooks{}, err
	}
	if slices.Contains(c.Expose, "*") {
		s.expose = star
	}
	if c.MaxAge != nil {
		s.maxAge = strconv.AppendInt(nil, int64(*c.MaxAge/time.Second), 10)
	}
	return policy.Hooks{Request: s.request, Response: s.response}, nil
}

// list makes the value of a header; nil where the names are empty or one is a star.
func list(setting string, names []string) ([]byte, error) {
	var errs []error
	for i, name := range names {
		if !exchange.IsToken(name) {
			errs = append(errs, policy.Wrong(setting+"["+strconv.Itoa(i)+"]", "%q can not be a name", name))
		}
	}
	if len(errs) > 0 {
		return nil, errs[0]
	}
	if len(names) == 0 || slices.Contains(names, "*") {
		return nil, nil
	}
	return []byte(strings.Join(names, ", ")), nil
}

func (s *sharing) request(x *exchange.Exchange) error {
	origin := x.RequestHeader("Origin")
	allowed := len(origin) > 0 && (s.any || s.origins.match(origin))
	if len(origin) > 0 && x.Request.Header.IsOptions() {
		if method := x.RequestHeader(requestMethod); len(method) > 0 {
			return s.preflight(x, origin, method, allowed)
		}
	}
	s.allow(x, origin, allowed)
	if (allowed || s.any) && s.expose != nil {
		x.ToClient.Set(exposeHeaders, s.expose)
	}
	return nil
}

// allow writes what every answer says. It depends on the origin unless all are alike, also where there is none: a cache must not
// give the answer for one to another. Where all are alike, that is told to requests without an origin too, since a cache may give
// their answer to one that has it (Fetch standard, section 3.2.5).
func (s *sharing) allow(x *exchange.Exchange, origin []byte, allowed bool) {
	if s.any {
		x.ToClient.Set(allowOrigin, star)
		return
	}
	x.ToClient.Add("Vary", varyOrigin)
	if !allowed {
		return
	}
	x.ToClient.Set(allowOrigin, origin)
	if s.credentials {
		x.ToClient.Set(allowCredentials, yes)
	}
}

// preflight answers in the place of the backend. That an origin is not allowed is told by saying nothing.
func (s *sharing) preflight(x *exchange.Exchange, origin, method []byte, allowed bool) error {
	s.allow(x, origin, allowed)
	x.ToClient.Add("Vary", s.vary)
	if allowed {
		if s.methods != nil {
			x.ToClient.Set(allowMethods, s.methods)
		} else if isList(method) {
			x.ToClient.Set(allowMethods, method)
		}
		if s.headers != nil {
			x.ToClient.Set(allowHeaders, s.headers)
		} else if asked := x.RequestHeader(requestHeaders); isList(asked) {
			x.ToClient.Set(allowHeaders, asked)
		}
		if s.network && string(x.RequestHeader(requestNetwork)) == "true" {
			x.ToClient.Set(allowNetwork, yes)
		}
		if s.maxAge != nil {
			x.ToClient.Set(maxAge, s.maxAge)
		}
	}
	x.Reply = s.reply
	return exchange.Replied
}

// isList reports whether b is a list of tokens that can be told back to the client.
func isList(b []byte) bool {
	for _, c := range b {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || bytes.IndexByte([]byte("-_.!#$%&'*+^`|~, "), c) >= 0) {
			return false
		}
	}
	return len(b) > 0
}

// response takes away what a backend said of the matter.
func (s *sharing) response(x *exchange.Exchange) error {
	for name := range x.Response.Header.All() {
		const prefix = "Access-Control-"
		if len(name) <= len(prefix) || !exchange.EqualFold(name[:len(prefix)], prefix) {
			continue
		}
		for _, known := range answerHeaders {
			if !exchange.EqualFold(name, known) {
				continue
			}
			if _, decided := x.ToClient.Value(known); !decided {
				x.ToClient.Remove(known)
			}
		}
	}
	return nil
}
