package admin

import (
	"fmt"
	"maps"
	"slices"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/cache"
)

// sized is a living cache that tells what it holds.
type sized interface {
	Purge(match func(*cache.Entry) bool) int
	Len() int
	Bytes() int64
}

func (s *Server) purge(ctx *fasthttp.RequestCtx) {
	given, p := 0, gateway.Purge{}
	for name, value := range ctx.QueryArgs().All() {
		given++
		p = gateway.Purge{By: string(name), Value: string(value)}
		switch p.By {
		case "prefix", "url", "tag", "route":
		default:
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "give one of url, prefix, tag, route, or nothing for everything")
			return
		}
		if len(value) == 0 {
			// A variable that was empty in a script must not empty the cache.
			fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", p.By+" is empty; leave it out to purge everything")
			return
		}
	}
	if given > 1 {
		fail(ctx, fasthttp.StatusBadRequest, "bad_parameter", "give only one of url, prefix, tag, route")
		return
	}
	done := s.o.Gateway.Purge(p)
	if p.By == "route" && done.Entries == 0 {
		// The entries of a route that is gone are purged by its name, too.
		if c := s.o.Gateway.Config(); c == nil || c.Routes[p.Value] == nil {
			fail(ctx, fasthttp.StatusNotFound, "no_such_route", fmt.Sprintf("there is no route %q%s", p.Value, s.routeHint(p.Value)))
			return
		}
	}
	view := map[string]any{"caches": done.Caches, "purged": done.Entries}
	if done.Others != "" {
		view["others"] = done.Others
	}
	reply(ctx, view)
	changed(ctx, nil, view)
}

// routeHint suggests the route that was meant.
func (s *Server) routeHint(name string) string {
	c := s.o.Gateway.Config()
	if c == nil {
		return ""
	}
	return config.Hint(name, slices.Sorted(maps.Keys(c.Routes)))
}

type cacheStats struct {
	Caches  int   `json:"caches"`
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

func (s *Server) cacheStats() (c cacheStats) {
	s.o.Gateway.EachLiving(func(_ string, v any) bool {
		if store, ok := v.(sized); ok {
			c.Caches++
			c.Entries += store.Len()
			c.Bytes += store.Bytes()
		}
		return true
	})
	return c
}
