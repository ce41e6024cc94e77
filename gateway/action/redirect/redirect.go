// Package redirect is the action that sends the client elsewhere. Whatever of the request goes into the new address is
// encoded for the place where it stands, so that a request can neither add headers nor change the host that the
// operator wrote.
package redirect

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/valyala/fasthttp"

	"sluice/gateway/action"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/router"
)

// Config of the action.
type Config struct {
	// To is the new address: absolute, or a path of this host. `${scheme}`, `${host}` (without its port), `${path}`,
	// `${query}`, `${uri}` (path and query) and `${path.NAME}` are those of the request.
	To string `yaml:"to" required:"true"`
	// Status: 301 and 308 are permanent and may be cached; 307 and 308 keep method and body.
	Status int `yaml:"status" enum:"301|302|303|307|308" default:"308"`
}

// Definition is the action redirect.
var Definition = action.Define("redirect", build)

var other = map[string]string{"http": "https", "https": "http"}

var rejectNoHost = exchange.NewReject(fasthttp.StatusBadRequest, "bad_host", "the request names no host")

func build(b *action.Build, c *Config) (*action.Action, error) {
	t, err := compile(c.To, paramsOf(b.RouteConfig.Match.Paths))
	if err != nil {
		return nil, policy.Wrong("to", "%s", err)
	}
	switch same := t.leadsBack(); {
	case same == "any":
		return nil, policy.Wrong("to", "%q is the address of the request itself; the client would never arrive", c.To)
	case same != "" && !slices.Equal(b.RouteConfig.Match.Schemes, []string{other[same]}):
		b.World.Warn(b.Path+".to", fmt.Sprintf("a request that came by %s is redirected to itself; write match.schemes: [%s]", same, other[same]))
	}

	reply := exchange.NewReply(c.Status, exchange.Own)
	reply.Head.SetContentType("text/plain; charset=utf-8")
	reply.Body = []byte(http.StatusText(c.Status) + "\n")
	if fixed, ok := t.fixed(); ok {
		reply.Head.Set("Location", fixed)
		return &action.Action{Serve: func(x *exchange.Exchange) error {
			x.Reply = reply
			return exchange.Replied
		}}, nil
	}
	needsHost := slices.ContainsFunc(t.parts, func(p part) bool { return p.kind == host && p.in == authority })
	return &action.Action{Serve: func(x *exchange.Exchange) error {
		if needsHost && len(x.Host) == 0 { // HTTP/1.0
			return rejectNoHost
		}
		x.ToClient.Set("Location", x.Keep(t.append(x.Scratch(), x)))
		x.Reply = reply
		return exchange.Replied
	}}, nil
}

// paramsOf returns the parameters that every path of the match has.
func paramsOf(paths []string) []string {
	var common []string
	for i, p := range paths {
		names := router.PathParams(p)
		if i == 0 {
			common = slices.Clone(names)
			continue
		}
		common = slices.DeleteFunc(common, func(name string) bool { return !slices.Contains(names, name) })
	}
	return common
}
