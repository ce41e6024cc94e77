// Package kong is what a gateway does in compatibility with Kong and never else: the ids of requests, the bodies of its own
// errors, the latencies that clients are told, the path that a service is asked for, and what it is told of consumers. All
// that a configuration decides is decided when it is compiled; a native one never comes here.
package kong

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/router"
)

// Route is what a route has in compatibility.
type Route struct {
	base      string // before the path of the service
	v1, strip bool
	https     int    // the status for requests that came otherwise, 0 for none
	calls     string // grpc or grpcs: for calls of gRPC alone
	auth      string
	groups    bool // services are told the groups
	errors    map[string]override
	realm     string
}

type override struct {
	status  int
	message string
}

// Settings are what of a route's compilation matters here.
type Settings struct {
	Config *config.RouteKong // nil: the defaults
	// Strip: the matched prefix is taken away.
	Strip bool
	// Authentication is the policy of the stage Authenticate in force, Groups whether groups are asked for.
	Authentication string
	Groups         bool
}

// NewRoute compiles them.
func NewRoute(s Settings) *Route {
	c := s.Config
	if c == nil {
		d := config.Defaults[config.RouteKong]()
		c = &d
	}
	r := &Route{base: c.Path, v1: c.PathHandling == "v1", strip: s.Strip, https: c.HTTPSStatus, auth: s.Authentication, groups: s.Groups && !c.HideGroups}
	if r.base == "" {
		r.base = "/"
	}
	if len(c.Errors) > 0 {
		r.errors = make(map[string]override, len(c.Errors))
		for reason, e := range c.Errors {
			r.errors[reason] = override{e.Status, e.Message}
		}
	}
	if c.Calls != "any" {
		r.calls = c.Calls
	}
	r.realm = c.Realm
	return r
}

var schemes = map[string]string{"api_key": "Key", "basic_auth": "Basic", "hmac_auth": "hmac", "jwt": "Bearer"}

// appendChallenge writes what a client is asked for that a policy has refused.
func (r *Route) appendChallenge(dst []byte, policy string, invalid bool) []byte {
	scheme := schemes[policy]
	if scheme == "" {
		return dst
	}
	dst = append(dst, scheme...)
	realm := r.realm
	if realm == "" && policy == "basic_auth" {
		realm = "service"
	}
	if realm != "" {
		dst = append(append(append(dst, ` realm="`...), realm...), '"')
	}
	if invalid && policy == "jwt" {
		dst = append(dst, ` error="invalid_token"`...)
	}
	return dst
}

// Naming remembers the policy whose credential was refused, where all are wanted.
func Naming(policy string, authenticate func(x *exchange.Exchange) error) func(x *exchange.Exchange) error {
	return func(x *exchange.Exchange) error {
		err := authenticate(x)
		if err != nil && err != exchange.ErrBodyLater {
			states.Of(x).refused = policy
		}
		return err
	}
}

// state is what is known of a request.
type state struct {
	id      []byte
	route   *Route
	refused string // the policy that refused the credential, where it is not the route's only one
}

// Reset makes the state ready for the next exchange.
func (s *state) Reset() { *s = state{} }

var states = exchange.NewSlot[state]()

const requestID = "X-Kong-Request-Id"

// Begin gives a request its id, before anything else.
func Begin(x *exchange.Exchange) {
	st := states.Of(x)
	if st.id != nil {
		return
	}
	var u [16]byte
	binary.LittleEndian.PutUint64(u[:], rand.Uint64())
	binary.LittleEndian.PutUint64(u[8:], rand.Uint64())
	st.id = x.Keep(hex.AppendEncode(x.Scratch(), u[:]))
	x.RequestID, x.Problem = st.id, render
	x.ToBackend.Set(requestID, st.id)
	x.ToClient.Set(requestID, st.id)
}

// Matched remembers the route, and refuses what should have come by https.
func (r *Route) Matched(x *exchange.Exchange) error {
	states.Of(x).route = r
	switch {
	case r.calls != "":
		return r.called(x)
	case r.https == 0 || x.Scheme == "https":
		return nil
	case r.https == fasthttp.StatusUpgradeRequired:
		return upgrade
	}
	location := append(x.Scratch(), "https://"...)
	location = append(location, x.Host...)
	location = router.AppendEncoded(location, x.Path)
	if len(x.Query) > 0 {
		location = append(append(location, '?'), x.Query...)
	}
	x.ToClient.Set("Location", x.Keep(location))
	x.Reply = redirects[r.https]
	return exchange.Replied
}

// called refuses what is no call of gRPC.
func (r *Route) called(x *exchange.Exchange) error {
	switch {
	case !strings.HasPrefix(x.Protocol, "HTTP/2"):
		return wantsHTTP2
	case !bytes.HasPrefix(x.RequestHeader("Content-Type"), grpcType):
		return noCall
	case r.calls == "grpcs" && x.Scheme != "https":
		return upgrade
	}
	return nil
}

var (
	grpcType   = []byte("application/grpc")
	wantsHTTP2 = exchange.NewReject(fasthttp.StatusUpgradeRequired, "http2_required", "Please use HTTP2 protocol", exchange.Header("Upgrade", "HTTP/2"))
	noCall     = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "no_call", "Non-gRPC request matched gRPC route")
)

var upgrade = exchange.NewReject(fasthttp.StatusUpgradeRequired, "https_required", "Please use HTTPS protocol",
	exchange.Header("Upgrade", "TLS/1.2, HTTP/1.1"))

var redirects = map[int]*exchange.Reply{
	301: exchange.NewReply(301, exchange.Own), 302: exchange.NewReply(302, exchange.Own),
	307: exchange.NewReply(307, exchange.Own), 308: exchange.NewReply(308, exchange.Own),
}

// Identified tells the service of the credential and the groups of a caller that authentication has found.
func (r *Route) Identified(x *exchange.Exchange) {
	id := &x.Identity
	if id.Authenticated && id.Consumer != nil {
		credential := id.Credential
		switch {
		case credential != nil:
		case id.Method == "jwt" && id.Claims != nil:
			credential, _ = id.Claims.Claim("iss")
		default:
			credential = id.Subject
		}
		if len(credential) > 0 && exchange.IsFieldValue(credential) {
			x.ToBackend.Set("X-Credential-Identifier", credential)
		}
	}
	if r.groups && id.Consumer != nil && len(id.Consumer.GroupsHeader) > 0 {
		x.ToBackend.Set("X-Consumer-Groups", id.Consumer.GroupsHeader)
	}
}

// Lines are the header lines that tell a service of a consumer.
func Lines(name string, c *config.ConsumerKong) []byte {
	id, custom, username := name, "", ""
	if c != nil {
		custom, username = c.CustomID, c.Username
		if c.ID != "" {
			id = c.ID
		}
	}
	var b []byte
	for _, line := range [...][2]string{{"X-Consumer-ID", id}, {"X-Consumer-Custom-ID", custom}, {"X-Consumer-Username", username}} {
		if line[1] != "" && exchange.IsFieldValue([]byte(line[1])) {
			b = append(append(append(append(b, line[0]...), ": "...), line[1]...), "\r\n"...)
		}
	}
	return b
}

// Aim computes what the service is asked for, and tells it what the client asked for.
func (r *Route) Aim(x *exchange.Exchange) {
	path, covered := x.Path, x.MatchedPrefix
	x.ToBackend.Set("X-Forwarded-Path", x.Keep(router.AppendEncoded(x.Scratch(), path)))
	if x.ClientAddr.IsValid() {
		x.ToBackend.Set("X-Real-IP", x.Keep(x.ClientAddr.Unmap().AppendTo(x.Scratch())))
	}
	if r.strip && covered > 0 {
		x.ToBackend.Set("X-Forwarded-Prefix", x.Keep(router.AppendEncoded(x.Scratch(), path[:covered])))
	}
	if r.base == "/" && (!r.strip || covered == 0) {
		return // goes on as it came
	}
	x.UpstreamPath = x.Keep(r.appendPath(x.Scratch(), path, covered))
}

// appendPath joins the path of the service and that of the request, of which the first bytes were matched.
func (r *Route) appendPath(dst, path []byte, covered int) []byte {
	strip := r.strip && covered > 0
	rest := path[min(1, len(path)):] // without its slash, where nothing was matched
	if strip {
		rest = path[covered:]
		// What the prefix has cut in two must not climb: "/a" of "/a../b".
		switch {
		case string(rest) == "." || string(rest) == "..":
			rest = nil
		case bytes.HasPrefix(rest, []byte("./")):
			rest = rest[2:]
		case bytes.HasPrefix(rest, []byte("../")):
			rest = rest[3:]
		}
	}
	base, slash := r.base, r.base[len(r.base)-1] == '/'
	begins := len(rest) > 0 && rest[0] == '/'
	switch {
	case !strip && r.v1:
		return append(append(dst, base...), rest...)
	case !strip && slash:
		return append(append(dst, base...), rest...)
	case !strip && len(path) == 1:
		return append(dst, base...)
	case !strip:
		return append(append(dst, base...), path...)
	case r.v1 && slash && begins:
		return append(append(dst, base[:len(base)-1]...), rest...)
	case r.v1:
		return append(append(dst, base...), rest...)
	case len(rest) == 0 && base == "/":
		return append(dst, '/')
	case len(rest) == 0 && slash && path[len(path)-1] == '/':
		return append(dst, base...)
	case len(rest) == 0 && slash:
		return append(dst, base[:len(base)-1]...)
	case len(rest) == 0 && len(path) > 1 && path[len(path)-1] == '/':
		return append(append(dst, base...), '/')
	case len(rest) == 0:
		return append(dst, base...)
	case slash && begins:
		return append(append(dst, base[:len(base)-1]...), rest...)
	case slash || begins:
		return append(append(dst, base...), rest...)
	}
	return append(append(append(dst, base...), '/'), rest...)
}

// Finish tells the client how long it took, before the headers are written.
func Finish(x *exchange.Exchange) {
	total := x.Clock.Now() - x.Start
	switch x.Answer {
	case exchange.Proxied, exchange.Stored, exchange.Tunnel:
		x.ToClient.Set("X-Kong-Upstream-Latency", milliseconds(x, x.UpstreamTime))
		x.ToClient.Set("X-Kong-Proxy-Latency", milliseconds(x, max(total-x.UpstreamTime, 0)))
	default:
		x.ToClient.Set("X-Kong-Response-Latency", milliseconds(x, total))
	}
}

func milliseconds(x *exchange.Exchange, ns int64) []byte {
	return x.Keep(strconv.AppendInt(x.Scratch(), ns/1e6, 10))
}
